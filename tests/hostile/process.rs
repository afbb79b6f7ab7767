//! Row 23: fork, exec and exit, with models open and requests running.

use std::time::Duration;

use crate::abi::*;
use crate::child::{ask, exactly, qwen, Shared, PROMPT, RIGHT};
use crate::common::{load, load_with, Prompt};
use crate::list::{run_list, Cases};
use crate::surface::{surface, Call, Function, World};
use crate::verdict::*;
use crate::{ensure, Class};

pub const CLASS: Class = Class {
    row: "23",
    name: "fork, exec, exit at any time",
    generators: &[|| run_list("process", cases())],
    // Without a request behind it: some never come back.
    programs: &[("process", |args| {
        let number: usize = args[0].parse().expect("a number");
        cases().into_iter().nth(number).expect("a case").1()
    })],
};

fn cases() -> Cases {
    let mut cases: Cases = vec![];
    for function in &surface().functions {
        if function.ret == "mlxrt_error *" || function.ret == "void" {
            let what = format!("{} in a forked child", function.name);
            cases.push((what, Box::new(move || after_fork(function))));
        }
    }
    let mut add = |what: String, run: Box<dyn FnOnce() -> Outcome>| cases.push((what, run));
    for ms in [0, 5, 20, 60] {
        add(
            format!("a fork beside a request, {ms} ms in"),
            Box::new(move || fork_beside(ms)),
        );
        add(
            format!("exit beside a request, {ms} ms in"),
            Box::new(move || exit_beside(ms, false)),
        );
        add(
            format!("exit beside a long prompt, {ms} ms in"),
            Box::new(move || exit_beside(ms, true)),
        );
        add(
            format!("exec beside a request, {ms} ms in"),
            Box::new(move || exec_beside(ms)),
        );
        add(
            format!("the end of main beside a request, {ms} ms in"),
            Box::new(move || main_ends_beside(ms)),
        );
    }
    for event in [1, 5] {
        add(
            format!("exit in the callback of event {event}"),
            Box::new(move || exit_in_callback(event)),
        );
    }
    add("exit inside a load".into(), Box::new(exit_inside_a_load));
    add(
        "exit with everything open".into(),
        Box::new(exit_with_everything_open),
    );
    add("exit on two threads".into(), Box::new(exit_on_two_threads));
    add(
        "_exit with everything open".into(),
        Box::new(underscore_exit),
    );
    cases
}

/// The code that the child exits with, or 1000 and more for a signal.
fn in_child(run: impl FnOnce() -> i32) -> i32 {
    // SAFETY: the child runs `run` and exits; what it may do is what is tested.
    unsafe {
        match libc::fork() {
            0 => libc::_exit(run()),
            child => {
                let mut status = 0;
                for _ in 0..4000 {
                    if libc::waitpid(child, &mut status, libc::WNOHANG) == child {
                        return match libc::WIFEXITED(status) {
                            true => libc::WEXITSTATUS(status),
                            false => 1000 + libc::WTERMSIG(status),
                        };
                    }
                    std::thread::sleep(Duration::from_millis(1));
                }
                libc::kill(child, libc::SIGKILL);
                libc::waitpid(child, &mut status, 0);
                1999
            }
        }
    }
}

/// Nothing works in the child, nothing hangs; the parent goes on.
fn after_fork(function: &'static Function) -> Outcome {
    let mut world = World::new();
    let call = Call::good(function, &mut world);
    let model = load(&qwen()).unwrap();
    let code = in_child(|| match call.run() {
        Ok(_) => 0,
        Err(failure) if failure.code == "FORKED" => 7,
        Err(_) => 8,
    });
    // What takes no handle and touches no engine may work.
    let wanted = if function.ret == "void" { 0 } else { 7 };
    ensure!(code == wanted, "the child ended with {code}");
    let told = ask(
        model.session(0).0,
        &Prompt::Text(PROMPT),
        &exactly(8),
        |_| true,
    );
    ensure!(told.tokens == RIGHT, "the parent: {:?}", told.tokens);
    match wanted {
        7 => Ok(Named("FORKED".into())),
        _ => fine(),
    }
}

/// Runs `act` on this thread while another one generates, so many milliseconds in.
fn beside(ms: u64, long_prompt: bool, act: impl FnOnce() -> Outcome) -> Outcome {
    let model = load(&qwen()).unwrap();
    let session = model.session(0);
    let handle = Shared(session.0);
    let thread = std::thread::spawn(move || {
        let ids = vec![7; 1500];
        let prompt = match long_prompt {
            true => Prompt::Tokens(&ids),
            false => Prompt::Text(PROMPT),
        };
        ask(handle.get(), &prompt, &exactly(400), |_| true)
    });
    std::thread::sleep(Duration::from_millis(ms));
    let verdict = act()?;
    // Again and again: a cancel before the request began does nothing.
    while !thread.is_finished() {
        // SAFETY: a live session.
        unsafe { mlxrt_session_cancel(session.0) };
        std::thread::sleep(Duration::from_millis(2));
    }
    let told = thread.join().unwrap();
    ensure!(told.failure.is_none(), "the request: {:?}", told.failure);
    Ok(verdict)
}

fn fork_beside(ms: u64) -> Outcome {
    beside(ms, false, || {
        let code = in_child(|| match load(&qwen()) {
            Err(failure) if failure.code == "FORKED" => 7,
            _ => 8,
        });
        ensure!(code == 7, "the child ended with {code}");
        Ok(Named("FORKED".into()))
    })
}

/// The verdict is written first: the exit code and the time say the rest.
fn leave(verdict: Verdict, code: i32) -> ! {
    verdict.write(&crate::child::verdict_file());
    std::process::exit(code)
}

fn exit_beside(ms: u64, long_prompt: bool) -> Outcome {
    beside(ms, long_prompt, || leave(Fine(String::new()), 0))
}

fn exec_beside(ms: u64) -> Outcome {
    beside(ms, false, || {
        Fine(String::new()).write(&crate::child::verdict_file());
        use std::os::unix::process::CommandExt;
        let error = std::process::Command::new("true").exec();
        Err(Wrong(format!("exec: {error}")))
    })
}

fn main_ends_beside(ms: u64) -> Outcome {
    let model = load(&qwen()).unwrap();
    let session = Box::leak(Box::new(model.session(0)));
    let handle = Shared(session.0);
    std::thread::spawn(move || {
        ask(handle.get(), &Prompt::Text(PROMPT), &exactly(1900), |_| {
            true
        })
    });
    std::thread::sleep(Duration::from_millis(ms));
    fine()
}

fn exit_in_callback(event: usize) -> Outcome {
    let model = load(&qwen()).unwrap();
    ask(
        model.session(0).0,
        &Prompt::Text(PROMPT),
        &exactly(1900),
        |number| {
            if number == event {
                leave(Fine(String::new()), 0);
            }
            true
        },
    );
    Err(Wrong("the request ended first".into()))
}

fn exit_inside_a_load() -> Outcome {
    let _ = load_with(&qwen(), &mut |_, _| leave(Fine(String::new()), 0));
    Err(Wrong("nothing of a load was heard".into()))
}

fn exit_with_everything_open() -> Outcome {
    let model = load(&qwen()).unwrap();
    let session = model.session(0);
    ask(session.0, &Prompt::Text(PROMPT), &exactly(8), |_| true);
    leave(Fine(String::new()), 0)
}

/// While one thread is inside `exit`, another calls the library.
fn exit_on_two_threads() -> Outcome {
    let model = load(&qwen()).unwrap();
    let handle = Shared(model.session(0).0);
    std::thread::spawn(move || loop {
        ask(handle.get(), &Prompt::Text(PROMPT), &exactly(3), |_| true);
        let _ = load(&qwen());
    });
    std::thread::sleep(Duration::from_millis(20));
    leave(Fine(String::new()), 0)
}

fn underscore_exit() -> Outcome {
    let _model = load(&qwen()).unwrap();
    Fine(String::new()).write(&crate::child::verdict_file());
    // SAFETY: ends the process at once.
    unsafe { libc::_exit(0) }
}
