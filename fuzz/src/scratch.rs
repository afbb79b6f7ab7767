//! A folder for the target's files, used again by every run.

use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;

use crate::load::ModelFolder;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/models");

/// `make fuzz` removes them.
fn path() -> &'static PathBuf {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/scratch"))
            .join(std::process::id().to_string());
        fs::create_dir_all(&path).expect("the scratch folder");
        path
    })
}

/// Writes a file.
pub fn write(name: &str, bytes: &[u8]) {
    fs::write(path().join(name), bytes).expect("a scratch file");
}

/// Makes a file longer or shorter; what is added is a hole of zeros.
pub fn set_len(name: &str, length: u64) {
    let file = fs::File::options().write(true).open(path().join(name));
    file.and_then(|file| file.set_len(length))
        .expect("a scratch file");
}

/// The length of a file.
pub fn len(name: &str) -> u64 {
    fs::metadata(path().join(name))
        .expect("it was opened")
        .len()
}

/// A file of a fixture.
pub fn fixture(case: &str, name: &str) -> Vec<u8> {
    fs::read(PathBuf::from(FIXTURES).join(case).join(name)).expect("a fixture")
}

/// The folder as the library opens it.
pub fn open() -> ModelFolder {
    ModelFolder::open(path().to_str().expect("a Unicode path")).expect("the scratch folder")
}
