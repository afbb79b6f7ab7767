//! The runner itself: cases that crash, hang, leak, print and lie must be counted as such, or the table means nothing.

use std::time::Duration;

use crate::child::leaks_nothing;
use crate::runner::{judged, Case};
use crate::verdict::*;
use crate::Program;

/// What a case of each kind must be counted as.
const WANTED: [(&str, &str); 10] = [
    ("works", "ok"),
    ("fails by name", "named"),
    ("aborts", "crash"),
    ("exits with 1", "crash"),
    ("says nothing", "crash"),
    ("overflows its stack", "crash"),
    ("prints", "printed"),
    ("leaks a file", "leak"),
    ("panics", "wrong"),
    ("takes three gigabytes", "ok"),
];

pub const PROGRAM: (&str, Program) = ("check", child);

/// Runs them all; what was not counted as it must be. `hang` is left to the long run: it takes its time.
pub fn misjudged(long: bool) -> Vec<String> {
    let hang = long.then_some(("hangs", "hang"));
    let mut wrong = vec![];
    for (kind, wanted) in WANTED.into_iter().chain(hang) {
        let counted = judged(&Case {
            what: kind,
            args: &["check", kind],
            env: &[],
            tight: None,
        });
        if counted != wanted {
            wrong.push(format!(
                "a case that {kind} is counted as {counted}, not {wanted}"
            ));
        }
    }
    wrong
}

fn child(args: &[&str]) -> Outcome {
    match args[0] {
        "works" => fine(),
        "fails by name" => Ok(Named("IO".into())),
        "aborts" => std::process::abort(),
        "exits with 1" => {
            Fine(String::new()).write(&crate::child::verdict_file());
            std::process::exit(1)
        }
        "says nothing" => std::process::exit(0),
        "overflows its stack" => Ok(Fine(deeper(1).to_string())),
        "prints" => {
            println!("something");
            fine()
        }
        "leaks a file" => leaks_nothing(3, || {
            std::mem::forget(std::fs::File::open("/dev/null").unwrap());
            fine()
        }),
        "panics" => panic!("a case that panics"),
        "takes three gigabytes" => {
            let mut much: Vec<u8> = Vec::new();
            match much.try_reserve_exact(3 << 30) {
                Ok(()) => Err(Wrong("there is no limit on memory".into())),
                Err(_) => fine(),
            }
        }
        _ => loop {
            std::thread::sleep(Duration::from_secs(1));
        },
    }
}

fn deeper(depth: u64) -> u64 {
    let room = std::hint::black_box([depth; 512]);
    match room[3] {
        u64::MAX => 0,
        depth => deeper(depth + 1) + room[1],
    }
}
