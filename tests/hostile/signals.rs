//! Row 24: signals stay the host's, and a flood of them changes nothing.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::child::{ask, exactly, qwen, PROMPT, RIGHT};
use crate::common::{load, Prompt};
use crate::list::Cases;
use crate::verdict::*;
use crate::{ensure, list_class};

list_class!("24", "signals: the host's handlers, floods", "signals");

static HEARD: AtomicUsize = AtomicUsize::new(0);

extern "C" fn hear(_: i32) {
    HEARD.fetch_add(1, Ordering::Relaxed);
}

fn cases() -> Cases {
    let mut cases: Cases = vec![];
    let mut add = |what: String, run: Box<dyn FnOnce() -> Outcome>| cases.push((what, run));
    add(
        "the table of handlers is the same".into(),
        Box::new(|| same_table(false)),
    );
    add(
        "the host's handlers are kept".into(),
        Box::new(|| same_table(true)),
    );
    add("the signal mask is the same".into(), Box::new(same_mask));
    add(
        "the alternate stack is the same".into(),
        Box::new(same_stack),
    );
    // Go preempts its threads with SIGURG; without SA_RESTART every system call may be interrupted.
    for (name, signal) in [
        ("SIGURG", libc::SIGURG),
        ("SIGUSR1", libc::SIGUSR1),
        ("SIGCHLD", libc::SIGCHLD),
    ] {
        for flags in [libc::SA_RESTART, 0] {
            let run = move || flood(signal, flags);
            add(
                format!("a flood of {name}, flags {flags:#x}"),
                Box::new(run),
            );
        }
    }
    add(
        "SIGINT in the middle".into(),
        Box::new(|| in_the_middle(libc::SIGINT)),
    );
    add(
        "SIGTERM in the middle".into(),
        Box::new(|| in_the_middle(libc::SIGTERM)),
    );
    add("SIGPROF by a timer".into(), Box::new(timer));
    add("all signals blocked".into(), Box::new(all_blocked));
    cases
}

fn handle(signal: i32, flags: i32) {
    // SAFETY: the handler only counts.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = hear as *const () as usize;
        action.sa_flags = flags;
        assert_eq!(libc::sigaction(signal, &action, std::ptr::null_mut()), 0);
    }
}

fn table() -> Vec<(usize, i32)> {
    (1..65)
        .map(|signal| {
            // SAFETY: only reads.
            unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                libc::sigaction(signal, std::ptr::null(), &mut action);
                (action.sa_sigaction, action.sa_flags)
            }
        })
        .collect()
}

fn request() -> Result<(), Verdict> {
    let session = load(&qwen())
        .map_err(|failure| Wrong(format!("{failure:?}")))?
        .session(0);
    let told = ask(session.0, &Prompt::Text(PROMPT), &exactly(8), |_| true);
    ensure!(told.failure.is_none(), "{:?}", told.failure);
    ensure!(told.tokens == RIGHT, "{:?}", told.tokens);
    Ok(())
}

fn same_table(own: bool) -> Outcome {
    if own {
        [
            libc::SIGINT,
            libc::SIGTERM,
            libc::SIGPIPE,
            libc::SIGSEGV,
            libc::SIGFPE,
            libc::SIGURG,
        ]
        .into_iter()
        .for_each(|signal| handle(signal, 0));
    }
    let before = table();
    request()?;
    let _ = load("/nowhere".as_ref());
    ensure!(table() == before, "the handlers changed");
    fine()
}

fn mask() -> Vec<i32> {
    // SAFETY: only reads the mask of this thread.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::pthread_sigmask(libc::SIG_BLOCK, std::ptr::null(), &mut set);
        (1..65)
            .map(|signal| libc::sigismember(&set, signal))
            .collect()
    }
}

fn same_mask() -> Outcome {
    let before = mask();
    request()?;
    ensure!(mask() == before, "the mask changed");
    fine()
}

fn same_stack() -> Outcome {
    let stack = || {
        // SAFETY: only reads.
        unsafe {
            let mut stack: libc::stack_t = std::mem::zeroed();
            libc::sigaltstack(std::ptr::null(), &mut stack);
            (stack.ss_sp as usize, stack.ss_size, stack.ss_flags)
        }
    };
    let before = stack();
    request()?;
    ensure!(stack() == before, "the alternate stack changed");
    fine()
}

/// Every thread of the process gets the signal, all the time.
fn flood(signal: i32, flags: i32) -> Outcome {
    handle(signal, flags);
    let stop = AtomicBool::new(false);
    let verdict = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten();
                for task in tasks.flatten() {
                    let id: i32 = task.file_name().to_string_lossy().parse().unwrap();
                    // SAFETY: a signal that has a handler, to a thread of this process.
                    unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), id, signal) };
                }
                std::thread::sleep(Duration::from_micros(50));
            }
        });
        let verdict = (0..10).try_for_each(|_| request());
        stop.store(true, Ordering::Relaxed);
        verdict
    });
    verdict?;
    ensure!(HEARD.load(Ordering::Relaxed) > 50, "no flood");
    fine()
}

fn in_the_middle(signal: i32) -> Outcome {
    handle(signal, 0);
    let session = load(&qwen()).unwrap().session(0);
    let told = ask(session.0, &Prompt::Text(PROMPT), &exactly(8), |_| {
        // SAFETY: the signal has a handler.
        unsafe { libc::kill(libc::getpid(), signal) };
        true
    });
    ensure!(told.tokens == RIGHT, "{:?}", told.tokens);
    for _ in 0..1000 {
        if HEARD.load(Ordering::Relaxed) > 0 {
            return fine();
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Err(Wrong("the host's handler never ran".into()))
}

fn timer() -> Outcome {
    handle(libc::SIGPROF, 0);
    // SAFETY: complete values; the signal has a handler.
    unsafe {
        let tick = libc::timeval {
            tv_sec: 0,
            tv_usec: 500,
        };
        let every = libc::itimerval {
            it_interval: tick,
            it_value: tick,
        };
        libc::syscall(libc::SYS_setitimer, libc::ITIMER_PROF, &every, 0);
    }
    for _ in 0..20 {
        request()?;
    }
    ensure!(HEARD.load(Ordering::Relaxed) > 5, "no ticks");
    fine()
}

fn all_blocked() -> Outcome {
    // SAFETY: blocks what can be blocked on this thread.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, std::ptr::null_mut());
    }
    request()?;
    fine()
}
