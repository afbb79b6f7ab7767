//! Published test data, which is not in the repository: configs, tokenizers, chat templates.

#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::path::{Path, PathBuf};

/// A file or folder of the test data at MLXRT_SHARED, or beside the repository. Where it is absent the test cannot run, and
/// `make test` says so at its end.
pub fn data(part: &str) -> Option<PathBuf> {
    let root = std::env::var_os("MLXRT_SHARED").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared"),
        PathBuf::from,
    );
    let path = root.join("data").join(part);
    if path.exists() {
        return Some(path);
    }
    skipped(&format!("{} is absent", path.display()));
    None
}

/// What a test does not look at, and why. It is told at once, and to who runs the whole suite at its end.
pub fn skipped(why: &str) {
    let thread = std::thread::current();
    let line = format!("skipped: {}: {why}\n", thread.name().unwrap_or("a test"));
    eprint!("{line}");
    if let Some(absent) = std::env::var_os("MLXRT_ABSENT") {
        let mut options = std::fs::File::options();
        let mut file = options.append(true).create(true).open(absent).unwrap();
        // In one piece: others write there too.
        file.write_all(line.as_bytes()).unwrap();
    }
}
