//! Row 36: calls while the process exits: out of handlers that were registered before and after the library was first used,
//! out of destructors of objects, from threads that still run. They are CANCELLED or work, and never hang.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Mutex;

use crate::abi::*;
use crate::child::{ask, exactly, qwen, verdict_file, Shared, PROMPT};
use crate::common::{load, outcome, Model, Prompt, Session};
use crate::list::{run_list, Cases};
use crate::surface::{surface, Call, Function, World};
use crate::verdict::*;
use crate::{ensure, Class};

pub const CLASS: Class = Class {
    row: "36",
    name: "calls while the process exits",
    generators: &[|| run_list("ends", cases())],
    // Without a request behind it: the process is about to end.
    programs: &[("ends", |args| {
        let number: usize = args[0].parse().expect("a number");
        cases().into_iter().nth(number).expect("a case").1()
    })],
};

/// When the function is called.
#[derive(Clone, Copy, Debug, PartialEq)]
enum When {
    /// By a handler that was registered before anything of the library was called.
    RegisteredBefore,
    /// By one that was registered while models were open.
    RegisteredAfter,
    /// By the end of the exiting thread's own data, with or without a request on another thread.
    ThreadData,
    /// By a handler, while another thread generates.
    BesideARequest,
    /// By another thread, all the time.
    OtherThread,
    /// By a destructor of the program (`__attribute__((destructor))`), which runs when all handlers have.
    Destructor,
}

const WHEN: [When; 6] = [
    When::RegisteredBefore,
    When::RegisteredAfter,
    When::ThreadData,
    When::BesideARequest,
    When::OtherThread,
    When::Destructor,
];

#[cfg_attr(not(target_os = "macos"), link_section = ".fini_array")]
#[cfg_attr(target_os = "macos", link_section = "__DATA,__mod_term_func")]
#[used]
static DESTRUCTOR: extern "C" fn() = at_exit;

fn cases() -> Cases {
    let mut cases: Cases = vec![];
    for function in &surface().functions {
        for when in WHEN {
            let run = move || exiting(function, when);
            cases.push((format!("{}: {when:?}", function.name), Box::new(run)));
        }
    }
    for used in [false, true] {
        let run = move || objects(used);
        cases.push((
            format!("handles freed by a handler, used {used}"),
            Box::new(run),
        ));
    }
    cases.push(("exit in a handler's call".into(), Box::new(twice)));
    cases
}

/// What is called at the exit. (Its memory is never freed: others may still look at it.)
static CALL: Mutex<Option<&'static Call>> = Mutex::new(None);
static DONE: AtomicBool = AtomicBool::new(false);

/// The call itself, and the verdict; by whoever comes first.
extern "C" fn at_exit() {
    let Some(call) = *CALL.lock().unwrap() else {
        return;
    };
    if DONE.swap(true, Ordering::SeqCst) {
        return;
    }
    judge(call).write(&verdict_file());
}

fn judge(call: &'static Call) -> Verdict {
    match call.run() {
        Ok(_) => Fine(String::new()),
        Err(failure) if failure.code == "CANCELLED" && failure.message.contains("exiting") => {
            Named(failure.code)
        }
        // What it would have said without an exit.
        Err(failure)
            if [
                "INVALID_ARGUMENT",
                "NOT_FOUND",
                "TIMEOUT",
                "CANCELLED",
                "BUSY",
            ]
            .contains(&failure.code.as_str()) =>
        {
            Named(failure.code)
        }
        Err(failure) => Wrong(format!("{failure:?}")),
    }
}

fn register() {
    // SAFETY: a plain function.
    assert_eq!(unsafe { libc::atexit(at_exit) }, 0);
}

/// In data of the thread, whose end comes before all handlers.
struct AtThreadEnd;

impl Drop for AtThreadEnd {
    fn drop(&mut self) {
        at_exit();
    }
}

thread_local! {
    static OWN: RefCell<Option<AtThreadEnd>> = const { RefCell::new(None) };
}

fn exiting(function: &'static Function, when: When) -> Outcome {
    if when == When::RegisteredBefore {
        register();
    }
    if when == When::ThreadData {
        OWN.set(Some(AtThreadEnd));
    }
    let mut world = World::new();
    let call: &'static Call = Box::leak(Box::new(Call::good(function, &mut world)));
    let model = load(&qwen()).unwrap();
    ask(
        model.session(0).0,
        &Prompt::Text(PROMPT),
        &exactly(3),
        |_| true,
    );
    if matches!(when, When::RegisteredAfter | When::BesideARequest) {
        register();
    }
    if matches!(when, When::BesideARequest | When::ThreadData) {
        let session = Box::leak(Box::new(model.session(0)));
        let handle = Shared(session.0);
        std::thread::spawn(move || {
            ask(handle.get(), &Prompt::Text(PROMPT), &exactly(1900), |_| {
                true
            });
        });
    }
    if when == When::OtherThread {
        std::thread::spawn(move || loop {
            if let Wrong(why) = judge(call) {
                Wrong(why).write(&verdict_file());
                // SAFETY: ends the process at once, with the verdict.
                unsafe { libc::_exit(0) }
            }
        });
        std::thread::sleep(std::time::Duration::from_millis(20));
        std::mem::forget(model);
        Fine(String::new()).write(&verdict_file());
        std::process::exit(0)
    }
    *CALL.lock().unwrap() = Some(call);
    std::mem::forget(model);
    Wrong("the call never came back".into()).write(&verdict_file());
    std::process::exit(0)
}

/// As objects with static lifetime do it: everything is freed by a handler.
fn objects(used: bool) -> Outcome {
    struct Handles(#[allow(dead_code)] Model, #[allow(dead_code)] Session);
    // SAFETY: handles are ids.
    unsafe impl Send for Handles {}
    static ALL: Mutex<Option<Handles>> = Mutex::new(None);
    extern "C" fn free() {
        drop(ALL.lock().unwrap().take());
        Fine(String::new()).write(&verdict_file());
    }
    let model = load(&qwen()).unwrap();
    let session = model.session(0);
    if used {
        ask(session.0, &Prompt::Text(PROMPT), &exactly(3), |_| true);
    }
    *ALL.lock().unwrap() = Some(Handles(model, session));
    // SAFETY: a plain function.
    unsafe { libc::atexit(free) };
    Wrong("it never came back".into()).write(&verdict_file());
    std::process::exit(0)
}

/// A second engine is asked for by a handler, after the first has ended.
fn twice() -> Outcome {
    extern "C" fn again() {
        let again = load(&qwen()).map(drop);
        let verdict = match again {
            Err(failure) if failure.code == "CANCELLED" => Named(failure.code),
            other => Wrong(format!("{other:?}")),
        };
        verdict.write(&verdict_file());
    }
    // SAFETY: a plain function, registered before the library's own.
    unsafe { libc::atexit(again) };
    let model = load(&qwen()).unwrap();
    ensure!(!model.0.is_null(), "no model");
    drop(model);
    // SAFETY: no preconditions.
    outcome(unsafe { mlxrt_shutdown(0, MLXRT_FOREVER) }).unwrap();
    Wrong("it never came back".into()).write(&verdict_file());
    std::process::exit(0)
}
