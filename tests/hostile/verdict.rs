//! What can come of a case.

use std::path::Path;

use crate::common::Failure;

/// What a case that ran to its end says of itself.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// It worked, and the answer was right. With a word for the generator, mostly empty.
    Ok(String),
    /// An error with a code and a sentence that the case allows.
    Named(String),
    /// Anything else: a wrong answer, an error without the right code or words, success where none was possible.
    Wrong(String),
    /// Memory, files or threads that stay.
    Leak(String),
}

pub use Verdict::{Leak, Named, Ok as Fine, Wrong};

/// A case's code: `?` ends it with a verdict.
pub type Outcome = Result<Verdict, Verdict>;

pub fn fine() -> Outcome {
    Ok(Fine(String::new()))
}

#[macro_export]
macro_rules! ensure {
    ($condition:expr, $($why:tt)+) => {
        if !$condition {
            return Err($crate::verdict::Wrong(format!($($why)+)));
        }
    };
}

/// All codes but INTERNAL and those of other things than input.
pub const CODES: &[&str] = &[
    "INVALID_ARGUMENT",
    "NOT_FOUND",
    "IO",
    "BAD_MODEL",
    "INCOMPATIBLE",
    "UNSUPPORTED",
    "OUT_OF_MEMORY",
];

/// An error of one of these codes that says all of these words, and so that a person can act on it.
pub fn named(failure: &Failure, codes: &[&str], words: &[&str]) -> Outcome {
    let Failure { code, message } = failure;
    ensure!(
        codes.contains(&code.as_str()),
        "{code} \"{message}\", expected {codes:?}"
    );
    for word in words {
        ensure!(
            message.contains(word),
            "{code} \"{message}\" does not say {word:?}"
        );
    }
    ensure!(
        !message.is_empty() && message.len() < 2000,
        "a message of {} bytes",
        message.len()
    );
    ensure!(
        !message.contains(".cpp") && !message.contains(".rs:"),
        "{message:?}"
    );
    ensure!(
        !message.chars().any(char::is_control),
        "it holds control characters: {message:?}"
    );
    Ok(Named(code.clone()))
}

/// Success, or an error as in [`named`].
pub fn fine_or_named<T>(result: Result<T, Failure>, codes: &[&str], words: &[&str]) -> Outcome {
    match result {
        Ok(_) => fine(),
        Err(failure) => named(&failure, codes, words),
    }
}

impl Verdict {
    pub fn write(&self, path: &Path) {
        let (kind, text) = match self {
            Fine(text) => ("ok", text),
            Named(text) => ("named", text),
            Wrong(text) => ("wrong", text),
            Leak(text) => ("leak", text),
        };
        std::fs::write(path, format!("{kind} {text}")).unwrap();
    }

    pub fn read(path: &Path) -> Option<Verdict> {
        let text = std::fs::read_to_string(path).ok()?;
        let (kind, text) = text.split_once(' ')?;
        let text = text.to_owned();
        Some(match kind {
            "ok" => Fine(text),
            "named" => Named(text),
            "wrong" => Wrong(text),
            "leak" => Leak(text),
            _ => return None,
        })
    }
}
