//! Runs the program as people and scripts do: small models of the test fixtures where words do not matter, the demo model
//! where they do.

mod bad_input;
mod chat;
mod commands;
mod flags;
mod json;
mod signals;
mod terminal;
mod training;

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Talks sense.
pub fn demo() -> String {
    let path = root().join("demo/model");
    path.to_string_lossy().into_owned()
}

/// The demo model, whose context is not full before a test is over, however fast the machine is.
pub fn endless(name: &str) -> String {
    let folder = scratch(name).join("model");
    copy_folder(&demo(), &folder);
    let config = folder.join("config.json");
    let text = fs::read_to_string(&config).unwrap();
    let long = text.replace(
        "\"max_position_embeddings\": 2048",
        "\"max_position_embeddings\": 1048576",
    );
    assert_ne!(long, text);
    fs::write(&config, long).unwrap();
    folder.to_string_lossy().into_owned()
}

/// Talks nonsense, at once.
pub fn tiny() -> String {
    fixture("models/qwen3-f32")
}

pub fn fixture(name: &str) -> String {
    let path = root().join("tests/fixtures").join(name);
    path.to_string_lossy().into_owned()
}

/// An empty folder for one test.
pub fn scratch(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    folder
}

pub fn copy_folder(from: &str, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for file in fs::read_dir(from).unwrap().flatten() {
        fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

/// The program, with nothing of this environment that would change what it prints.
pub fn mlxrt<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mlxrt"));
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .env_remove("NO_COLOR")
        .env("TERM", "xterm")
        .env("XDG_STATE_HOME", env!("CARGO_TARGET_TMPDIR"));
    // Not cargo's own search path, on which the library of a development build lies.
    if let Some(library) = std::env::var_os("MLXRT_TEST_LIB") {
        command.env("LD_LIBRARY_PATH", library);
    }
    command
}

pub struct Ran {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Ran {
    fn of(output: Output) -> Ran {
        let ran = Ran {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        };
        assert!(!ran.err.contains("panicked"), "{}", ran.err);
        ran
    }

    /// Standard output of a run that has to be fine.
    #[track_caller]
    pub fn fine(self) -> String {
        assert_eq!(self.code, Some(0), "{}", self.err);
        self.out
    }

    #[track_caller]
    pub fn fails(self, code: i32, words: &str) -> Ran {
        assert_eq!(self.code, Some(code), "{}", self.err);
        assert!(
            self.err.contains(words),
            "{words:?} is not in {:?}",
            self.err
        );
        self
    }
}

pub fn run<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Ran {
    Ran::of(mlxrt(arguments).output().unwrap())
}

pub fn run_with_input<S: AsRef<OsStr>>(
    arguments: impl IntoIterator<Item = S>,
    input: &[u8],
) -> Ran {
    let mut child = mlxrt(arguments).stdin(Stdio::piped()).spawn().unwrap();
    // It may refuse its options without reading.
    let _ = child.stdin.take().unwrap().write_all(input);
    Ran::of(child.wait_with_output().unwrap())
}

/// Each line as JSON.
#[track_caller]
pub fn json_lines(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}
