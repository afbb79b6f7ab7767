//! Measures templates, streaming and tokenising, and prints JSON; `benches/text.py` runs it and makes the table.
//!
//! Usage: mlxrt-bench-text DATA-FOLDER REPOSITORY ROUNDS

#[allow(dead_code)]
#[path = "../../../src/error.rs"]
mod error;
#[allow(dead_code)]
#[path = "../../../src/room.rs"]
mod room;
#[allow(dead_code, unused_imports)]
#[path = "../../../src/template/mod.rs"]
mod template;
#[allow(dead_code, unused_imports)]
#[path = "../../../src/text/mod.rs"]
mod text;

mod peer;
mod templates;
mod tokens;

use std::path::Path;

use serde_json::{json, Value};

pub type Failure = Box<dyn std::error::Error>;

/// Seconds of this thread's CPU time that `f` takes, and what it gives. Nothing that is measured waits or
/// starts threads, so on an idle machine this is the time on the clock, and on a busy one it stays so.
pub fn timed<T>(f: impl FnOnce() -> T) -> (f64, T) {
    let start = cpu_seconds();
    let result = f();
    (cpu_seconds() - start, result)
}

fn cpu_seconds() -> f64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `now` is a timespec that may be written to.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut now) };
    now.tv_sec as f64 + now.tv_nsec as f64 * 1e-9
}

pub fn read_json(path: &Path) -> Result<Value, Failure> {
    let bytes = std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(serde_json::from_slice(&bytes)?)
}

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [data, repository, rounds] = arguments.as_slice() else {
        return Err("usage: mlxrt-bench-text DATA-FOLDER REPOSITORY ROUNDS".into());
    };
    let (data, repository) = (Path::new(data), Path::new(repository));
    let rounds: usize = rounds.parse()?;
    let published = templates::Published::read(data)?;
    let result = json!({
        "templates": templates::published(&published, rounds)?,
        "long_chat": templates::long_chat(&published, rounds)?,
        "tokenizers": tokens::measure(data, repository, rounds)?,
    });
    println!("{result}");
    Ok(())
}
