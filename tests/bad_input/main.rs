//! Model folders that are damaged, contradictory or hostile: each gives a named error through the C ABI, in a moment,
//! and the library works on. (Misuse of arguments and handles: tests/c/misuse.c.)

#[path = "../common/mod.rs"]
mod common;
mod config;
mod files;
mod folder;
mod fuzz;
mod index;
mod tokenizer;
mod weights;

use std::path::Path;
use std::time::{Duration, Instant};

use common::{fixtures, inspect, load, Failure, Prompt};

/// What no input of these tests may take.
const LONGEST: Duration = Duration::from_secs(20);

/// Something simple still works: what each test ends with.
fn check_alive() {
    let model = load(&fixtures().join("models/qwen3-f32")).unwrap();
    let answer = model
        .session(0)
        .generate(Prompt::Text("Hello"), 3, false)
        .unwrap();
    assert_eq!(answer.tokens.len(), 3);
}

/// Loading fails with one of these codes and all of these words, and so that a person can act on it.
#[track_caller]
fn check_failure(what: &str, failure: &Failure, codes: &[&str], words: &[&str]) {
    let Failure { code, message } = failure;
    assert!(
        codes.contains(&code.as_str()),
        "{what}: {code} \"{message}\", expected {codes:?}"
    );
    for word in words {
        assert!(
            message.contains(word),
            "{what}: {code} \"{message}\" does not say {word:?}"
        );
    }
    assert!(
        message.len() < 2000,
        "{what}: a message of {} bytes",
        message.len()
    );
    assert!(
        !message.contains(".cpp") && !message.contains(".rs:"),
        "{what}: {message}"
    );
}

#[track_caller]
fn refused(what: &str, path: &Path, codes: &[&str], words: &[&str]) {
    let began = Instant::now();
    match load(path) {
        Ok(_) => panic!("{what}: loaded"),
        Err(failure) => check_failure(what, &failure, codes, words),
    }
    assert!(
        began.elapsed() < LONGEST,
        "{what}: took {:?}",
        began.elapsed()
    );
}

/// As `refused`, and looking at the folder refuses it too, in the same words.
#[track_caller]
fn refused_at_sight(what: &str, path: &Path, codes: &[&str], words: &[&str]) {
    refused(what, path, codes, words);
    match inspect(path) {
        Ok(json) => panic!("{what}: inspected: {json}"),
        Err(failure) => check_failure(what, &failure, codes, words),
    }
}

/// Loading may succeed or fail by name; a model that loads also generates or fails by name.
#[track_caller]
fn survives(what: &str, path: &Path) -> bool {
    let began = Instant::now();
    let loaded = match load(path) {
        Ok(model) => {
            if let Err(failure) = model.session(0).generate(Prompt::Text("Hello"), 3, false) {
                check_failure(what, &failure, CODES, &[]);
            }
            true
        }
        Err(failure) => {
            check_failure(what, &failure, CODES, &[]);
            false
        }
    };
    assert!(
        began.elapsed() < LONGEST,
        "{what}: took {:?}",
        began.elapsed()
    );
    loaded
}

/// All codes but INTERNAL and those of other things than input.
const CODES: &[&str] = &[
    "INVALID_ARGUMENT",
    "NOT_FOUND",
    "IO",
    "BAD_MODEL",
    "INCOMPATIBLE",
    "UNSUPPORTED",
    "OUT_OF_MEMORY",
];
