//! Row 24: signals stay the host's, and a flood of them changes nothing.

use std::ffi::{c_char, c_void};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::abi::*;
use crate::child::{ask, exactly, qwen, Shared, PROMPT, RIGHT};
use crate::common::{load, outcome, Model, Prompt};
use crate::folder::Folder;
use crate::list::Cases;
use crate::surface::{function, Call, World};
use crate::verdict::*;
use crate::{ensure, list_class, sized};

list_class!(
    "24",
    "signals: the host's handlers, floods, cancels out of handlers",
    "signals"
);

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
    for of in [Of::Session, Of::Request] {
        for place in PLACES {
            for prompt in [3, 3000] {
                let run = move || cancelled_by_a_handler(of, *place, prompt);
                add(
                    format!("a handler cancels a {of:?}, {place:?}, {prompt} tokens"),
                    Box::new(run),
                );
            }
        }
        let run = move || nobody_reads(of);
        add(
            format!("a handler cancels a {of:?} that nobody reads"),
            Box::new(run),
        );
        let run = move || suspended(of);
        add(
            format!("a handler cancels a {of:?} of a suspended library"),
            Box::new(run),
        );
        let run = move || behind_it(of);
        add(
            format!("a call goes on behind a {of:?} that a handler cancelled"),
            Box::new(run),
        );
        let run = move || after_its_end(of);
        add(
            format!("a handler cancels a {of:?} that has ended"),
            Box::new(run),
        );
        for (what, bits) in [("NULL", 0), ("no handle", 0x1234), ("all ones", u64::MAX)] {
            let run = move || no_handle(of, bits);
            add(
                format!("a handler cancels a {of:?} that is {what}"),
                Box::new(run),
            );
        }
        let run = move || stale(of);
        add(
            format!("a handler cancels {of:?}s that are freed under it"),
            Box::new(run),
        );
    }
    add(
        "a handler cancels one that waits".into(),
        Box::new(one_that_waits),
    );
    cases
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Of {
    Session,
    Request,
}

/// What the thread does that the signal finds.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    Sleeps,
    /// It may hold the allocator's lock.
    Allocates,
    /// It may hold the handle table's.
    MakesHandles,
    /// It may hold the log's.
    Logs,
    /// The thread of the blocking call, which waits for events or is in its callback.
    Generates,
}

const PLACES: &[Place] = &[
    Place::Sleeps,
    Place::Allocates,
    Place::MakesHandles,
    Place::Logs,
    Place::Generates,
];

/// What the handler cancels: a session, and a request.
static SESSION: AtomicPtr<mlxrt_session> = AtomicPtr::new(std::ptr::null_mut());
static REQUEST: AtomicPtr<mlxrt_request> = AtomicPtr::new(std::ptr::null_mut());
static REQUESTS: AtomicBool = AtomicBool::new(false);

extern "C" fn cancel(_: i32) {
    HEARD.fetch_add(1, Ordering::Relaxed);
    // SAFETY: a cancel function checks its handle, and may be called here.
    unsafe {
        match REQUESTS.load(Ordering::Relaxed) {
            true => mlxrt_request_cancel(REQUEST.load(Ordering::Relaxed)),
            false => mlxrt_session_cancel(SESSION.load(Ordering::Relaxed)),
        }
    }
}

/// The handler cancels one of them from now on. (This program finds both functions here and not in the handler.)
fn cancels(of: Of, session: *mut mlxrt_session, request: *mut mlxrt_request) {
    SESSION.store(session, Ordering::Relaxed);
    REQUEST.store(request, Ordering::Relaxed);
    REQUESTS.store(of == Of::Request, Ordering::Relaxed);
    // SAFETY: NULL is no handle.
    unsafe {
        mlxrt_session_cancel(std::ptr::null_mut());
        mlxrt_request_cancel(std::ptr::null_mut());
    }
    handle_with(libc::SIGUSR1, libc::SA_RESTART, cancel);
}

/// Sends this very thread a signal, whose handler has run when this returns.
fn hit() {
    // SAFETY: SIGUSR1 has a handler.
    unsafe { libc::raise(libc::SIGUSR1) };
}

fn submit(session: *mut mlxrt_session, prompt: &Prompt, count: u32) -> *mut mlxrt_request {
    let mut request = std::ptr::null_mut();
    // SAFETY: complete structs, a writable output.
    let submitted =
        unsafe { mlxrt_submit(session, &prompt.input(), &exactly(count), &mut request) };
    outcome(submitted).unwrap();
    request
}

/// How it ended, within three seconds.
fn end_of(request: *mut mlxrt_request) -> Result<i32, Verdict> {
    let mut result = sized!(mlxrt_result);
    // SAFETY: a complete struct.
    outcome(unsafe { mlxrt_request_result(request, 3000, &mut result) })
        .map_err(|failure| Wrong(format!("{failure:?}")))?;
    Ok(result.stop)
}

fn ensure_cancelled(stop: i32) -> Result<(), Verdict> {
    ensure!(stop == MLXRT_STOPPED_CANCELLED, "stop {stop}");
    Ok(())
}

const LONG: u32 = 1900;

fn cancelled_by_a_handler(of: Of, place: Place, prompt: usize) -> Outcome {
    let folder = Folder::copy_of("qwen3-f32");
    folder.edit("config.json", |config| {
        config["max_position_embeddings"] = serde_json::json!(1 << 16);
    });
    let model = load(folder.path()).unwrap();
    let (session, other) = (model.session(0), model.session(0));
    let ids: Vec<i32> = (0..prompt as i32).map(|i| 3 + i % 40).collect();
    let prompt = Prompt::Tokens(&ids);
    if place == Place::Logs {
        extern "C" fn line(_: *mut c_void, _: i32, _: *const c_char, _: usize) {}
        // SAFETY: a plain function.
        outcome(unsafe { mlxrt_log_set(MLXRT_LOG_DEBUG, Some(line), std::ptr::null_mut()) })
            .unwrap();
    }
    let request = match of {
        Of::Request => submit(session.0, &prompt, LONG),
        Of::Session => std::ptr::null_mut(),
    };
    cancels(of, session.0, request);
    let over = AtomicBool::new(false);
    let stop = std::thread::scope(|scope| {
        // SAFETY: the thread's own id.
        let me = unsafe { libc::pthread_self() };
        let (over, other) = (&over, Shared(other.0));
        // The signals find this thread.
        scope.spawn(move || {
            std::thread::sleep(Duration::from_millis(10));
            while !over.load(Ordering::Relaxed) {
                // SAFETY: the thread lives as long as this scope.
                unsafe { libc::pthread_kill(me, libc::SIGUSR1) };
                std::thread::sleep(Duration::from_micros(200));
            }
        });
        let generate = Shared(session.0);
        let blocking = || ask(generate.get(), &prompt, &exactly(LONG), |_| true);
        let stop = match (place, of) {
            (Place::Generates, Of::Session) => Ok(blocking().result.stop),
            (Place::Generates, Of::Request) => end_of(request),
            (_, of) => {
                let beside = scope.spawn(move || match of {
                    Of::Session => Ok(ask(
                        generate.get(),
                        &Prompt::Tokens(&[3; 40]),
                        &exactly(LONG),
                        |_| true,
                    )
                    .result
                    .stop),
                    Of::Request => Ok(MLXRT_STOPPED_CANCELLED),
                });
                let began = Instant::now();
                while began.elapsed() < Duration::from_millis(300) || !beside.is_finished() {
                    busy(place, &model, other.get());
                }
                match of {
                    Of::Session => beside.join().unwrap(),
                    Of::Request => end_of(request),
                }
            }
        };
        over.store(true, Ordering::Relaxed);
        stop
    });
    ensure_cancelled(stop?)?;
    ensure!(HEARD.load(Ordering::Relaxed) > 0, "no signal came");
    cancels(of, std::ptr::null_mut(), std::ptr::null_mut());
    let next = ask(
        session.0,
        &Prompt::Messages(r#"[{"role":"user","content":"Hi"}]"#),
        &exactly(3),
        |_| true,
    );
    ensure!(next.tokens.len() == 3, "afterwards {:?}", next.failure);
    // SAFETY: a live handle, or NULL.
    unsafe { mlxrt_request_free(request) };
    fine()
}

fn busy(place: Place, model: &Model, other: *mut mlxrt_session) {
    match place {
        Place::Allocates => drop(std::hint::black_box(vec![0_u8; 3000])),
        Place::MakesHandles => drop(model.session(0)),
        Place::Logs => {
            ask(other, &Prompt::Tokens(&[3]), &exactly(1), |_| true);
        }
        Place::Sleeps | Place::Generates => std::thread::sleep(Duration::from_millis(1)),
    }
}

fn nobody_reads(of: Of) -> Outcome {
    let model = load(&qwen()).unwrap();
    let session = model.session(0);
    let request = submit(session.0, &Prompt::Text(PROMPT), LONG);
    // By then it is parked: 64 events are made, and nobody takes one.
    std::thread::sleep(Duration::from_millis(500));
    cancels(of, session.0, request);
    hit();
    // Its end comes without that anybody looks: the session goes on.
    std::thread::sleep(Duration::from_millis(300));
    let mut state = sized!(mlxrt_session_state);
    // SAFETY: a complete struct.
    outcome(unsafe { mlxrt_session_info(session.0, &mut state) }).unwrap();
    ensure!(state.busy == 0, "it is still busy");
    ensure_cancelled(end_of(request)?)?;
    // SAFETY: a live handle.
    unsafe { mlxrt_request_free(request) };
    fine()
}

fn suspended(of: Of) -> Outcome {
    let model = load(&qwen()).unwrap();
    let session = model.session(0);
    let request = submit(session.0, &Prompt::Text(PROMPT), LONG);
    std::thread::sleep(Duration::from_millis(30));
    let call = |name: &str| Call::good(function(name), &mut World::new()).run();
    while call("mlxrt_suspend").is_err() {}
    cancels(of, session.0, request);
    hit();
    let stop = end_of(request);
    call("mlxrt_resume").unwrap();
    ensure_cancelled(stop?)?;
    // SAFETY: a live handle.
    unsafe { mlxrt_request_free(request) };
    fine()
}

fn behind_it(of: Of) -> Outcome {
    let model = load(&qwen()).unwrap();
    let session = model.session(0);
    let request = submit(session.0, &Prompt::Text(PROMPT), LONG);
    std::thread::sleep(Duration::from_millis(30));
    cancels(of, session.0, request);
    hit();
    let next = || {
        ask(
            session.0,
            &Prompt::Messages(r#"[{"role":"user","content":"Hi"}]"#),
            &exactly(3),
            |_| true,
        )
    };
    let mut told = next();
    if of == Of::Session {
        // One that was submitted counts until it has ended.
        ensure_cancelled(end_of(request)?)?;
        told = next();
    }
    ensure!(told.tokens.len() == 3, "{:?}", told.failure);
    ensure_cancelled(end_of(request)?)?;
    // SAFETY: a live handle.
    unsafe { mlxrt_request_free(request) };
    fine()
}

fn after_its_end(of: Of) -> Outcome {
    let model = load(&qwen()).unwrap();
    let session = model.session(0);
    let request = submit(session.0, &Prompt::Text("Hello"), 3);
    let stop = end_of(request)?;
    ensure!(stop == MLXRT_STOPPED_LENGTH, "stop {stop}");
    cancels(of, session.0, request);
    hit();
    let again = end_of(request)?;
    ensure!(again == stop, "stop {again}");
    // A later request of the session is not touched.
    let fresh = model.session(0);
    cancels(of, fresh.0, request);
    hit();
    let told = ask(fresh.0, &Prompt::Text(PROMPT), &exactly(8), |_| true);
    ensure!(told.tokens == RIGHT, "{:?}", told.failure);
    // SAFETY: a live handle.
    unsafe { mlxrt_request_free(request) };
    fine()
}

fn no_handle(of: Of, bits: u64) -> Outcome {
    cancels(of, bits as *mut _, bits as *mut _);
    hit();
    let model = load(&qwen()).unwrap();
    hit();
    let told = ask(
        model.session(0).0,
        &Prompt::Text(PROMPT),
        &exactly(8),
        |_| {
            hit();
            true
        },
    );
    ensure!(told.tokens == RIGHT, "{:?}", told.failure);
    fine()
}

/// The handle is freed, and its place taken by another one, again and again, while signals cancel it.
fn stale(of: Of) -> Outcome {
    let model = load(&qwen()).unwrap();
    let right = model.session(0);
    cancels(of, std::ptr::null_mut(), std::ptr::null_mut());
    for _ in 0..60 {
        let session = model.session(0);
        let request = submit(session.0, &Prompt::Text(PROMPT), 5);
        cancels(of, session.0, request);
        hit();
        drop(session);
        hit();
        // SAFETY: a live handle.
        unsafe { mlxrt_request_free(request) };
        hit();
    }
    let told = ask(right.0, &Prompt::Text(PROMPT), &exactly(8), |_| {
        hit();
        true
    });
    ensure!(told.tokens == RIGHT, "{:?}", told.failure);
    fine()
}

fn one_that_waits() -> Outcome {
    let model = load(&qwen()).unwrap();
    let session = model.session(0);
    let first = submit(session.0, &Prompt::Text(PROMPT), LONG);
    let second = submit(session.0, &Prompt::Text(PROMPT), 5);
    cancels(Of::Request, std::ptr::null_mut(), second);
    hit();
    ensure_cancelled(end_of(second)?)?;
    cancels(Of::Request, std::ptr::null_mut(), first);
    hit();
    ensure_cancelled(end_of(first)?)?;
    // SAFETY: live handles.
    unsafe {
        mlxrt_request_free(first);
        mlxrt_request_free(second);
    }
    fine()
}

fn handle(signal: i32, flags: i32) {
    handle_with(signal, flags, hear);
}

fn handle_with(signal: i32, flags: i32, handler: extern "C" fn(i32)) {
    // SAFETY: the handlers count, and cancel.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as *const () as usize;
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
    // A kernel that ticks a hundred times a second needs more requests than one that ticks a thousand times.
    let begun = Instant::now();
    let ticks = || HEARD.load(Ordering::Relaxed);
    let mut done = 0;
    while done < 20 || (ticks() <= 5 && begun.elapsed() < Duration::from_secs(5)) {
        request()?;
        done += 1;
    }
    ensure!(ticks() > 5, "no ticks");
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
