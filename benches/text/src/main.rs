//! Measures templates, streaming and tokenising, and prints JSON; `benches/text.py` runs it and makes the table.
//!
//! Usage: mlxrt-bench-text DATA-FOLDER REPOSITORY ROUNDS

#[allow(dead_code)]
#[path = "../../../src/error.rs"]
mod error;
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
use std::time::Instant;

use serde_json::{json, Value};

pub type Failure = Box<dyn std::error::Error>;

/// Seconds that `f` takes, and what it gives.
pub fn timed<T>(f: impl FnOnce() -> T) -> (f64, T) {
    let start = Instant::now();
    let result = f();
    (start.elapsed().as_secs_f64(), result)
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
