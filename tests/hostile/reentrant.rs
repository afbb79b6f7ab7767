//! Row 21: every function, called from inside each kind of callback. Generated from the header.

use std::ffi::{c_char, c_void};

use crate::abi::*;
use crate::child::{ask, exactly, qwen, PROMPT};
use crate::common::{load, load_with, outcome, Failure, Prompt};
use crate::list::Cases;
use crate::surface::{handle_types, surface, Call, Function, World};
use crate::verdict::*;
use crate::{ensure, list_class};

list_class!("21", "every function inside each callback", "reentrant");

/// What does not wait, and is refused on a session that runs.
const WANT_IT_IDLE: [&str; 2] = ["mlxrt_session_fork", "mlxrt_session_truncate"];

#[derive(Clone, Copy, Debug)]
enum Place {
    Event,
    Progress,
    Log,
}

fn cases() -> Cases {
    let mut cases: Cases = vec![];
    for function in &surface().functions {
        for place in [Place::Event, Place::Progress, Place::Log] {
            let what = format!("{} inside {place:?}", function.name);
            cases.push((what, Box::new(move || inside(function, place))));
        }
    }
    cases
}

/// The header's own words: what waits says so behind "Blocks:".
fn blocks(function: &Function) -> bool {
    let text = include_str!("../../include/mlxrt.h");
    // Behind the opening, where it is declared.
    let text = &text[text.find("extern \"C\" {").expect("declarations")..];
    let at = text.find(&format!("{}(", function.name));
    let before = &text[..at.expect("a declaration")];
    let line = &before[before.rfind("* Blocks:").expect("what it blocks on")..];
    (!line.starts_with("* Blocks: no") || function.name == "mlxrt_resume")
        // Waits for log calls only, and is a query for all else.
        && function.name != "mlxrt_log_set"
}

fn inside(function: &'static Function, place: Place) -> Outcome {
    let model = load(&qwen()).unwrap();
    let session = model.session(0);
    // The session that runs is the one that is called on.
    let mut world: World = World::new();
    world.insert("mlxrt_model".into(), model.0 as u64);
    world.insert("mlxrt_session".into(), session.0 as u64);
    for handle in handle_types() {
        crate::surface::handle_of(handle, &mut world);
    }
    // The world's request was submitted to this session: first it ends.
    let mut end = Call::good(crate::surface::function("mlxrt_request_result"), &mut world);
    end.args[1] = u64::from(u32::MAX);
    end.run().unwrap();
    let mut made: Option<Result<u64, Failure>> = None;
    let mut call = || made = Some(Call::good(function, &mut world).run());
    match place {
        Place::Event => {
            let told = ask(session.0, &Prompt::Text(PROMPT), &exactly(8), |event| {
                if event == 2 {
                    call();
                }
                true
            });
            ensure!(told.failure.is_none(), "the request: {:?}", told.failure);
        }
        Place::Progress => {
            let mut calls = 0;
            load_with(&qwen(), &mut |_, _| {
                calls += 1;
                if calls == 1 {
                    call();
                }
            })
            .unwrap();
        }
        Place::Log => in_log(&mut call),
    }
    let Some(result) = made else {
        return Err(Wrong("the callback did not run".into()));
    };
    let fails = function.ret == "mlxrt_error *";
    let runs = matches!(place, Place::Event) && WANT_IT_IDLE.contains(&function.name.as_str());
    match result {
        Ok(_) => {
            ensure!(!(fails && blocks(function)), "a blocking call worked");
            ensure!(!runs, "it worked on a session that runs");
            ensure!(
                !(fails && matches!(place, Place::Log)),
                "it worked inside a log function"
            );
            fine()
        }
        Err(failure) if failure.code == "REENTRANT" => {
            ensure!(
                blocks(function) || matches!(place, Place::Log),
                "a query is refused: {failure:?}"
            );
            named(&failure, &["REENTRANT"], &[&function.name])
        }
        Err(failure) => {
            ensure!(!blocks(function), "{failure:?} and not REENTRANT");
            let codes: &[&str] = match runs {
                true => &["BUSY"],
                false => &["NOT_FOUND", "INVALID_ARGUMENT"],
            };
            named(&failure, codes, &[])
        }
    }
}

/// Something that is logged: the free of what is no handle.
fn in_log(call: &mut dyn FnMut()) {
    struct Once<'a>(bool, &'a mut dyn FnMut());
    unsafe extern "C" fn hear(user_data: *mut c_void, _: i32, _: *const c_char, _: usize) {
        // SAFETY: user_data is the `once` below; only this thread logs.
        let once = unsafe { &mut *user_data.cast::<Once>() };
        if !once.0 {
            once.0 = true;
            once.1();
        }
    }
    let mut once = Once(false, call);
    // SAFETY: `once` outlives the log function.
    unsafe {
        outcome(mlxrt_log_set(
            MLXRT_LOG_ERROR,
            Some(hear),
            (&raw mut once).cast(),
        ))
        .unwrap();
        mlxrt_model_free(std::ptr::dangling_mut());
        outcome(mlxrt_log_set(0, None, std::ptr::null_mut())).unwrap();
    }
}
