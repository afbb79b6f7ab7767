//! Row 16: memory runs out. The allocations of MLX and its C++ fail in turn, and those that are asked for by the size of a
//! file; and the process gets a real limit, a little above what it has, that work on large input then meets. The outcome
//! is OUT_OF_MEMORY or success, and never an abort. (In turn only while loading: see README.md.)

use std::path::PathBuf;

use crate::child::{alive, ask, exactly, qwen};
use crate::common::{fixtures, inspect, load, outcome, Failure, Model, Prompt};
use crate::faults::{arm, count, disarm, faulty, Kind};
use crate::runner::case;
use crate::verdict::*;
use crate::Class;

pub const CLASS: Class = Class {
    row: "16",
    name: "memory that runs out",
    generators: &[|| fail_in_turn("load"), fail_own, limits],
    programs: &[
        ("allocations", in_turn),
        ("own allocations", own_in_turn),
        ("limit", limited),
    ],
};

/// Bytes from which on an allocation of C++ may fail.
const LEAST: i64 = 1 << 10;

/// Kilobytes that are left; with less see short.rs.
const LEFT: [u64; 24] = [
    2_048, 2_500, 3_000, 4_000, 5_000, 6_000, 8_000, 10_000, 12_000, 16_000, 20_000, 24_000,
    32_000, 40_000, 48_000, 64_000, 80_000, 96_000, 128_000, 192_000, 256_000, 512_000, 768_000,
    1_000_000,
];

/// Own allocations that fail in each work.
const SPREAD: usize = 25;

const WORKS: [&str; 6] = [
    "load",
    "inspect",
    "tokenize",
    "render",
    "long prompt",
    "generate",
];

fn fail_in_turn(work: &str) {
    for lasting in ["0", "1"] {
        let calls = count(&["allocations", work, "0", lasting]);
        for at in 1..=calls {
            let what = format!("{work}: allocation {at} fails, lasting {lasting}");
            faulty(&what, &["allocations", work, &at.to_string(), lasting]);
        }
    }
}

/// Of many thousands of allocations some, spread over all of the work.
fn fail_own() {
    for work in WORKS {
        let calls = count(&["own allocations", work, "0", "0"]);
        for lasting in ["0", "1"] {
            for part in 0..SPREAD.min(calls) {
                let at = (1 + part * calls / SPREAD).to_string();
                let what = format!("{work}: own allocation {at} fails, lasting {lasting}");
                faulty(&what, &["own allocations", work, &at, lasting]);
            }
        }
    }
}

fn limits() {
    for work in WORKS {
        for left in LEFT {
            let what = format!("{work} with {left} KB left");
            case(&what, &["limit", work, &left.to_string()]);
        }
    }
}

fn demo() -> PathBuf {
    fixtures().join("../../demo/model")
}

const CODES: &[&str] = &["OUT_OF_MEMORY", "DEVICE", "CONTEXT_FULL", "RESOURCES"];

/// `allocations WORK AT LASTING`; AT 0 counts them.
fn in_turn(args: &[&str]) -> Outcome {
    let [work, at, lasting] = args else {
        panic!("allocations WORK AT LASTING")
    };
    let at: usize = at.parse().unwrap();
    let model = load(&qwen()).unwrap();
    arm(Kind::Allocations, at, *lasting == "1", LEAST, None);
    let result = work_on(work, &model, "once upon a time");
    let calls = disarm(Kind::Allocations);
    if at == 0 {
        return Ok(Fine(calls.to_string()));
    }
    let verdict = fine_or_named(result, CODES, &[])?;
    alive()?;
    Ok(verdict)
}

/// `own allocations WORK AT LASTING`: of the library's Rust, however small. The system itself has memory.
fn own_in_turn(args: &[&str]) -> Outcome {
    let [work, at, lasting] = args else {
        panic!("own allocations WORK AT LASTING")
    };
    let at: usize = at.parse().unwrap();
    let model = load(&qwen()).unwrap();
    let text = "once upon a time ".repeat(1_000);
    arm(Kind::Own, at, *lasting == "1", 0, None);
    let result = work_on(work, &model, &text);
    let calls = disarm(Kind::Own);
    if at == 0 {
        return Ok(Fine(calls.to_string()));
    }
    let verdict = fine_or_named(result, CODES, &[])?;
    alive()?;
    Ok(verdict)
}

/// `limit WORK KILOBYTES`: with so much address space left.
fn limited(args: &[&str]) -> Outcome {
    let [work, left] = args else {
        panic!("limit WORK KILOBYTES")
    };
    let left: u64 = left.parse().unwrap();
    // The engine runs before, so that what is met is the work's own need.
    let model = load(&qwen()).unwrap();
    alive()?;
    let text = "once upon a time ".repeat(60_000);
    let before = limit_to(Some(size_now() + left * 1024));
    let result = work_on(work, &model, &text);
    limit_to(before);
    let verdict = fine_or_named(result, CODES, &[])?;
    alive()?;
    Ok(verdict)
}

fn work_on(work: &str, model: &Model, text: &str) -> Result<(), Failure> {
    let messages = |text: &str| format!(r#"[{{"role":"user","content":"{text}"}}]"#);
    let session = model.session(0);
    let prompt = match work {
        "load" => return load(&demo()).map(drop),
        "inspect" => return inspect(&demo()).map(drop),
        "render" => return model.render(&messages(&text[..text.len() / 4])).map(drop),
        "tokenize" => return tokenize(model, text),
        "long prompt" => text,
        _ => &text[..16],
    };
    let told = ask(session.0, &Prompt::Text(prompt), &exactly(8), |_| true);
    told.failure.map_or(Ok(()), Err)
}

fn tokenize(model: &Model, text: &str) -> Result<(), Failure> {
    use crate::abi::{mlxrt_free, mlxrt_tokenize};
    let (mut ids, mut count) = (std::ptr::null_mut(), 0);
    // SAFETY: the text has this length, the outputs are writable; the ids are freed once.
    unsafe {
        let text = text.as_bytes();
        let (at, length) = (text.as_ptr().cast(), text.len());
        outcome(mlxrt_tokenize(model.0, at, length, 0, &mut ids, &mut count))?;
        mlxrt_free(ids.cast());
    }
    Ok(())
}

/// Bytes of address space in use.
fn size_now() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = pages
        .split(' ')
        .next()
        .and_then(|n| n.parse().ok())
        .unwrap_or(0);
    pages * 4096
}

/// Sets the soft limit; gives the one before.
fn limit_to(bytes: Option<u64>) -> Option<u64> {
    // SAFETY: complete values.
    unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        libc::getrlimit(libc::RLIMIT_AS, &mut limit);
        let before = limit.rlim_cur;
        limit.rlim_cur = bytes.unwrap_or(limit.rlim_max).min(limit.rlim_max);
        libc::setrlimit(libc::RLIMIT_AS, &limit);
        Some(before)
    }
}
