//! The scoreboard of hostile input: see README.md. `make hostile` runs every case, `cargo test` every few-th.

mod abi;
mod adapters;
mod allocations;
mod budget;
mod cancel;
mod changed;
mod check;
mod child;
#[path = "../common/mod.rs"]
mod common;
mod config;
mod damage;
mod ends;
mod families;
mod faults;
mod files;
mod finite;
mod folder;
mod grammars;
mod guests;
mod handles;
mod index;
mod io;
mod list;
mod mlx;
mod null;
mod numbers;
mod places;
mod plugin;
mod process;
mod prompts;
mod queues;
mod reentrant;
mod runner;
mod said;
mod short;
mod signals;
mod structs;
mod surface;
mod templates;
#[path = "../../src/testing.rs"]
mod testing;
mod text;
mod threads;
mod tokenizer;
mod verdict;
mod weights;

use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Mutex;
use std::time::Instant;

use runner::{Counts, Run, RUN};
use verdict::Outcome;

pub type Program = fn(&[&str]) -> Outcome;

/// One row of the table.
pub struct Class {
    pub row: &'static str,
    pub name: &'static str,
    /// Functions that make the cases; several can run at once.
    pub generators: &'static [fn()],
    /// What a child of this class can run, by name.
    pub programs: &'static [(&'static str, Program)],
}

pub static CLASSES: &[Class] = &[
    // Those that take longest first.
    families::CLASS,
    said::CLASS,
    weights::CLASS,
    config::CLASS,
    index::CLASS,
    tokenizer::CLASS,
    mlx::CLASS,
    finite::CLASS,
    grammars::CLASS,
    guests::CLASS,
    ends::CLASS,
    io::CLASS,
    short::CLASS,
    allocations::CLASS,
    templates::CLASS,
    adapters::CLASS,
    threads::CLASS,
    null::CLASS,
    handles::CLASS,
    text::CLASS,
    numbers::CLASS,
    structs::CLASS,
    prompts::CLASS,
    changed::CLASS,
    places::CLASS,
    budget::CLASS,
    queues::CLASS,
    cancel::CLASS,
    reentrant::CLASS,
    plugin::CLASS,
    process::CLASS,
    signals::CLASS,
];

/// What any child can run.
pub const PROGRAMS: &[(&str, Program)] = &[("folder", folder::child), check::PROGRAM];

/// Processes at once.
const AT_ONCE: usize = 3;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|arg| arg == "--child") {
        child::main(&args[1..]);
        return ExitCode::SUCCESS;
    }
    let value = |name: &str| {
        let at = args.iter().position(|arg| arg == name)?;
        args.get(at + 1).cloned()
    };
    let full = args.iter().any(|arg| arg == "--all");
    let step = value("--every").map_or(if full { 1 } else { 9 }, |n| n.parse().expect("a number"));
    let row = value("--row");
    let run = RUN.get_or_init(|| Run::new(step, value("--case")));
    let began = Instant::now();
    let misjudged = check::misjudged(full);
    if !misjudged.is_empty() {
        println!("the runner cannot be trusted: {misjudged:?}");
        return ExitCode::FAILURE;
    }
    run_generators(row.as_deref());
    let table = table(run);
    println!("{table}");
    for line in run.bad.lock().unwrap().iter().take(200) {
        println!("{line}");
    }
    let mut slow = run.slow.lock().unwrap().clone();
    slow.sort();
    for (ms, what) in slow.iter().rev().take(5) {
        println!("{ms} ms: {what}");
    }
    println!(
        "hostile: {} s; one case in {step}",
        began.elapsed().as_secs()
    );
    if let Some(file) = value("--write") {
        std::fs::write(file, results(&table)).expect("the results can be written");
    }
    run.clean();
    match total(run).bad() {
        _ if total(run).cases == 0 => {
            println!("hostile: no case ran");
            ExitCode::FAILURE
        }
        0 => ExitCode::SUCCESS,
        bad => {
            println!("hostile: {bad} cases did not end as they may");
            ExitCode::FAILURE
        }
    }
}

fn run_generators(row: Option<&str>) {
    let jobs: Vec<(usize, fn())> = CLASSES
        .iter()
        .enumerate()
        .filter(|(_, class)| row.is_none_or(|row| class.row == row))
        .flat_map(|(i, class)| class.generators.iter().map(move |&job| (i, job)))
        .collect();
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(&(class, generate)) = jobs.get(next.fetch_add(1, Ordering::Relaxed))
                {
                    runner::enter(class);
                    generate();
                }
            });
        }
    });
}

fn total(run: &Run) -> Counts {
    let mut sum = Counts::default();
    for counts in run.counts.iter().map(Mutex::lock) {
        let counts = counts.unwrap();
        sum.cases += counts.cases;
        sum.ok += counts.ok;
        sum.named += counts.named;
        sum.crash += counts.crash;
        sum.hang += counts.hang;
        sum.leak += counts.leak;
        sum.wrong += counts.wrong;
        sum.printed += counts.printed;
    }
    sum
}

fn table(run: &Run) -> String {
    let mut rows = vec![];
    for (class, counts) in CLASSES.iter().zip(&run.counts) {
        let counts = *counts.lock().unwrap();
        if counts.cases > 0 {
            rows.push((class.row, class.name, counts));
        }
    }
    rows.sort_by_key(|(row, ..)| row.parse::<u32>().unwrap_or(99));
    let all = total(run);
    let manners = Counts {
        ok: all.cases - all.printed,
        cases: all.cases,
        printed: all.printed,
        ..Counts::default()
    };
    rows.push((
        "25",
        "nothing on stdout and stderr, all of the above",
        manners,
    ));
    rows.push(("", "all", all));
    let mut out = String::from(
        "| # | class | cases | ok | named error | crash | hang | leak | wrong | printed |\n\
         |---|---|---|---|---|---|---|---|---|---|\n",
    );
    for (row, name, c) in rows {
        out += &format!(
            "| {row} | {name} | {} | {} | {} | {} | {} | {} | {} | {} |\n",
            c.cases, c.ok, c.named, c.crash, c.hang, c.leak, c.wrong, c.printed
        );
    }
    out
}

fn results(table: &str) -> String {
    format!(
        "# Hostile input: results\n\nWritten by `make hostile`. Each case is a process of its own, with at most {} s and \
         {} GB of address space; README.md says what the columns mean. Allowed are the columns \"ok\" and \
         \"named error\".\n\n{table}",
        runner::LONGEST.as_secs(),
        runner::MOST_MEMORY >> 30
    )
}
