//! Row 2: handles that are no handles, for each function that takes one. Generated from the header.

use crate::abi::*;
use crate::child::{ask, exactly, PROMPT};
use crate::common::{outcome, Prompt};
use crate::list::Cases;
use crate::surface::{
    free, function as function_named, handle_types, make, surface, Call, Function, World,
};
use crate::verdict::*;
use crate::{ensure, list_class};

list_class!(
    "2",
    "stale, freed twice, wrong and random handles",
    "handles"
);

const KINDS: [&str; 12] = [
    "freed",
    "freed twice",
    "freed, its place taken",
    "of another type",
    "a pointer",
    "an error object",
    "1",
    "all bits",
    "random",
    "low bit flipped",
    "middle bit flipped",
    "high bit flipped",
];

fn cases() -> Cases {
    let mut cases: Cases = vec![];
    for function in &surface().functions {
        for (at, param) in function.params.iter().enumerate() {
            let Some(handle) = param.handle() else {
                continue;
            };
            for kind in KINDS {
                let what = format!("{}: {} is {kind}", function.name, param.name);
                cases.push((what, Box::new(move || wrong(function, at, handle, kind))));
            }
        }
    }
    for handle in handle_types() {
        let what = format!("mlxrt_free of a {handle}");
        cases.push((what, Box::new(move || left_alone(handle))));
    }
    cases
}

fn wrong(function: &'static Function, at: usize, handle: &str, kind: &str) -> Outcome {
    let mut world = World::new();
    let mut call = Call::good(function, &mut world);
    let good = make(handle, &mut world);
    let mut keep = vec![];
    let freed = |times: usize| {
        (0..times).for_each(|_| free(handle, good));
        good
    };
    let bits = match kind {
        "freed" => freed(1),
        "freed twice" => freed(2),
        "freed, its place taken" => {
            freed(1);
            keep = (0..3).map(|_| make(handle, &mut world)).collect();
            good
        }
        "of another type" => {
            let other = handle_types().into_iter().find(|other| *other != handle);
            make(other.expect("more than one type"), &mut world)
        }
        "a pointer" => call.memory[at].as_ptr() as u64,
        "an error object" => {
            // Of the library's own making, and leaked.
            let mut bad = Call::good(function_named("mlxrt_model_load"), &mut world);
            bad.args.fill(0);
            bad.raw()
        }
        "1" => 1,
        "all bits" => u64::MAX,
        "random" => 0x9e37_79b9_7f4a_7c15,
        "low bit flipped" => good ^ 1,
        "middle bit flipped" => good ^ 1 << 32,
        "high bit flipped" => good ^ 1 << 63,
        _ => panic!("no kind {kind}"),
    };
    // One bit beside a handle may be the neighbour's handle.
    let bits = if world.values().any(|&live| live == bits) {
        bits ^ 1 << 20
    } else {
        bits
    };
    ensure!(
        !keep.contains(&bits),
        "a handle came back: {bits:#x} in {keep:?}"
    );
    let name = &function.params[at].name;
    call.args[at] = bits;
    // Freed twice is twice refused.
    for _ in 0..2 {
        let result = call.run();
        if function.ret != "mlxrt_error *" {
            continue;
        }
        let Err(failure) = result else {
            return Err(Wrong("it accepts the handle".into()));
        };
        call.check_outputs()?;
        named(&failure, &["INVALID_HANDLE"], &[name])?;
    }
    match function.ret.as_str() {
        "mlxrt_error *" => Ok(Named("INVALID_HANDLE".into())),
        _ => fine(),
    }
}

/// A handle is no buffer: it is logged, and lives on.
fn left_alone(handle: &str) -> Outcome {
    let mut world = World::new();
    let bits = make(handle, &mut world);
    // SAFETY: the library promises to leave it alone.
    unsafe { mlxrt_free(bits as *mut _) };
    let user = surface().functions.iter().find_map(|f| {
        let at = f
            .params
            .iter()
            .position(|p| p.handle() == Some(handle) && f.ret == "mlxrt_error *")?;
        Some((f, at))
    });
    let Some((user, at)) = user else {
        // A grammar is what a request's options name.
        ensure!(handle == "mlxrt_grammar", "who takes a {handle}?");
        let model = world["mlxrt_model"] as *mut mlxrt_model;
        let mut session = std::ptr::null_mut();
        let mut options = exactly(1);
        options.grammar = bits as *mut _;
        // SAFETY: a live model, no options, a writable output.
        outcome(unsafe { mlxrt_session_create(model, std::ptr::null(), &mut session) }).unwrap();
        let told = ask(session, &Prompt::Text(PROMPT), &options, |_| true);
        // SAFETY: a live session.
        unsafe { mlxrt_session_free(session) };
        return match told.failure {
            None => fine(),
            Some(failure) => Err(Wrong(format!("{failure:?}"))),
        };
    };
    let mut call = Call::good(user, &mut world);
    call.args[at] = bits;
    match call.run() {
        Ok(_) => fine(),
        Err(failure) => Err(Wrong(format!("{failure:?}"))),
    }
}
