//! Row 1: NULL for each pointer of each function, and for all at once. Generated from the header.

use crate::list::Cases;
use crate::surface::{surface, Call, Function, World};
use crate::verdict::*;
use crate::{ensure, list_class};

list_class!("1", "NULL for each pointer of each export", "null");

fn cases() -> Cases {
    let mut cases: Cases = vec![];
    for function in &surface().functions {
        let pointers: Vec<usize> = (0..function.params.len())
            .filter(|&i| function.params[i].is_pointer())
            .collect();
        for &at in &pointers {
            let what = format!("{}: {}", function.name, function.params[at].name);
            cases.push((what, Box::new(move || null_at(function, &[at]))));
        }
        if pointers.len() > 1 {
            let what = format!("{}: all", function.name);
            cases.push((what, Box::new(move || null_at(function, &pointers))));
        }
    }
    cases
}

fn null_at(function: &'static Function, at: &[usize]) -> Outcome {
    let mut call = Call::good(function, &mut World::new());
    at.iter().for_each(|&at| call.args[at] = 0);
    let params: Vec<_> = at.iter().map(|&at| &function.params[at]).collect();
    let result = call.run();
    if result.is_err() {
        call.check_outputs()?;
    }
    let Err(failure) = result else {
        let may_work = function.ret != "mlxrt_error *" || params.iter().all(|p| !p.nonnull);
        ensure!(may_work, "it accepts NULL where the header says NONNULL");
        return fine();
    };
    if params.iter().all(|p| !p.nonnull) {
        // Then NULL makes no difference.
        let usual = Call::good(function, &mut World::new()).run();
        if usual.is_err_and(|usual| usual.code == failure.code) {
            return named(&failure, &[&failure.code], &[]);
        }
    }
    let blamed = params.iter().find(|p| failure.message.contains(&p.name));
    ensure!(blamed.is_some(), "{failure:?} names no argument");
    named(&failure, &["INVALID_ARGUMENT", "INVALID_HANDLE"], &[])
}
