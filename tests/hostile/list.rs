//! Classes whose cases are code that calls the library: a list, of which the child runs one.

use crate::child::alive;
use crate::runner::case;
use crate::verdict::Outcome;

pub type Cases = Vec<(String, Box<dyn FnOnce() -> Outcome>)>;

/// Runs each of a list as `PROGRAM NUMBER`.
pub fn run_list(program: &str, cases: Cases) {
    for (number, (what, _)) in cases.iter().enumerate() {
        case(what, &[program, &number.to_string()]);
    }
}

/// What the child does: its case, and then a normal request.
pub fn run_one(cases: Cases, args: &[&str]) -> Outcome {
    let number: usize = args[0].parse().expect("a number");
    let (_, run) = cases.into_iter().nth(number).expect("a case");
    let verdict = run()?;
    alive()?;
    Ok(verdict)
}

/// A class of which all cases are one list.
#[macro_export]
macro_rules! list_class {
    ($row:literal, $name:literal, $program:literal) => {
        pub const CLASS: $crate::Class = $crate::Class {
            row: $row,
            name: $name,
            generators: &[|| $crate::list::run_list($program, cases())],
            programs: &[($program, |args| $crate::list::run_one(cases(), args))],
        };
    };
}
