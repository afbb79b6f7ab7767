//! What ends the program other than well, and the exit code that says so.

use std::fmt::Display;
use std::io;
use std::path::Path;

use clap::error::{ContextKind, ErrorKind};
use serde_json::{json, Value};

use crate::ffi::*;

pub type Outcome<T> = Result<T, Failure>;

#[derive(Debug)]
pub struct Failure {
    /// The exit code of the program.
    pub exit: i32,
    /// The name of the code, such as NOT_FOUND: what `--json` gives.
    pub code: String,
    /// One sentence for people; nothing is printed for an empty one.
    pub message: String,
}

/// A bug in the library or in this program.
pub const EXIT_BUG: i32 = 1;
/// An option, an argument or what is in a prompt or data file.
pub const EXIT_USAGE: i32 = 2;
/// What `--help` and the manual say of exit codes.
pub const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    a bug in mlxrt
  2    a wrong option or argument, also a wrong line of a data file
  3    a file, folder or model does not exist
  4    a file exists and cannot be read or written
  5    a model folder is damaged or contradicts itself
  6    two things do not go together, such as a model and another one's adapter
  7    not supported by this version
  8    not enough memory, or the limit set by --memory-limit
  9    the prompt does not fit into the context
  10   something else uses the device or session
  12   --timeout passed
  14   the device or its driver failed
  15   a file of the library is missing
  130  ended by Ctrl-C (SIGINT)
  141  the reader of the output went away
  143  ended by SIGTERM";

/// Options of other programs for what this version does not have.
const NOT_YET: [(&str, &str); 2] = [
    ("--kv-bits", "quantised keys and values"),
    ("--kv-group-size", "quantised keys and values"),
];

/// The exit code for one of the library's MLXRT_E_*.
fn exit_of(code: i32) -> i32 {
    match code {
        MLXRT_E_INVALID_ARGUMENT | MLXRT_E_BAD_GRAMMAR => EXIT_USAGE,
        MLXRT_E_NOT_FOUND
        | MLXRT_E_IO
        | MLXRT_E_BAD_MODEL
        | MLXRT_E_INCOMPATIBLE
        | MLXRT_E_UNSUPPORTED
        | MLXRT_E_OUT_OF_MEMORY
        | MLXRT_E_CONTEXT_FULL
        | MLXRT_E_TIMEOUT
        | MLXRT_E_DEVICE
        | MLXRT_E_RESOURCES => code,
        MLXRT_E_BUSY | MLXRT_E_SUSPENDED => MLXRT_E_BUSY,
        _ => EXIT_BUG,
    }
}

/// The library names fields of its structs, such as "options.stop_tokens[0]"; people know options.
fn in_our_words(message: String) -> String {
    let Some(rest) = message.strip_prefix("options.") else {
        return message;
    };
    let end = rest
        .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .unwrap_or(rest.len());
    let (field, rest) = rest.split_at(end);
    let option = match field {
        "cpu_threads" => "threads",
        "timeout_ms" => "timeout",
        "stop_tokens" => "stop-token",
        "bias_tokens" | "bias_values" => "logit-bias",
        "draft_path" => "draft-model",
        other => &other.replace('_', "-"),
    };
    // Which one of a list: its place is clear enough from the rest of the sentence.
    let rest = match rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((_, rest)) => rest,
        None => rest,
    };
    format!("--{option}{rest}")
}

impl Failure {
    pub fn of_library(code: i32, name: &str, message: String) -> Failure {
        Failure {
            exit: exit_of(code),
            code: name.to_owned(),
            message: match code {
                MLXRT_E_OUT_OF_MEMORY => format!("not enough memory: {message}"),
                _ => in_our_words(message),
            },
        }
    }

    pub fn usage(message: impl Into<String>) -> Failure {
        Failure::of_library(MLXRT_E_INVALID_ARGUMENT, "INVALID_ARGUMENT", message.into())
    }

    /// What is wrong with the arguments, without the usage that clap prints along with it.
    pub fn of_arguments(error: &clap::Error) -> Failure {
        if let Some(argument) = error.get(ContextKind::InvalidArg) {
            let argument = argument.to_string();
            let known = NOT_YET.iter().find(|(option, _)| *option == argument);
            if let (ErrorKind::UnknownArgument, Some((option, what))) = (error.kind(), known) {
                let message = format!("{option}: this version has no {what}");
                return Failure::of_library(MLXRT_E_UNSUPPORTED, "UNSUPPORTED", message);
            }
        }
        if matches!(
            error.kind(),
            ErrorKind::MissingSubcommand | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
        ) {
            return Failure::usage("no command is given; `mlxrt --help` lists them");
        }
        let text = error.render().to_string();
        let first = text.split("\n\n").next().unwrap_or_default();
        let words = first.trim_start_matches("error: ").split_whitespace();
        Failure::usage(words.collect::<Vec<_>>().join(" "))
    }

    /// What --json says of it.
    pub fn event(&self) -> Value {
        let message = match self.exit - 128 {
            libc::SIGINT => "ended by Ctrl-C (SIGINT)",
            libc::SIGTERM => "ended by SIGTERM",
            _ => &self.message,
        };
        json!({"event": "error", "code": self.code, "exit": self.exit, "message": message})
    }

    /// A file that this program reads or writes itself; `verb` is "read" or "written".
    pub fn file(path: &Path, verb: &str, error: &io::Error) -> Failure {
        if error.kind() == io::ErrorKind::NotFound {
            let message = format!("there is no {}", quoted(path.display()));
            return Failure::of_library(MLXRT_E_NOT_FOUND, "NOT_FOUND", message);
        }
        let message = format!(
            "{} cannot be {verb}: {}",
            quoted(path.display()),
            plain(error)
        );
        Failure::of_library(MLXRT_E_IO, "IO", message)
    }

    /// Standard output: quiet when its reader went away, as `head` does.
    pub fn output(error: &io::Error) -> Failure {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Failure::signal(libc::SIGPIPE);
        }
        let message = format!("standard output cannot be written: {}", plain(error));
        Failure::of_library(MLXRT_E_IO, "IO", message)
    }

    /// As a shell reports a program that the signal ended.
    pub fn signal(signal: i32) -> Failure {
        Failure {
            exit: 128 + signal,
            code: "CANCELLED".to_owned(),
            message: String::new(),
        }
    }

    pub fn timeout(message: impl Into<String>) -> Failure {
        Failure::of_library(MLXRT_E_TIMEOUT, "TIMEOUT", message.into())
    }

    /// The same failure with more in front of its sentence.
    pub fn about(mut self, what: impl Display) -> Failure {
        self.message = format!("{what}: {}", self.message);
        self
    }
}

/// The words of an error of the system, without its number.
pub fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    let words = text.split(" (os error").next().unwrap_or(&text);
    words.to_lowercase()
}

pub fn quoted(name: impl Display) -> String {
    format!("\"{name}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_become_options() {
        let said = |message: &str| in_our_words(message.to_owned());
        assert_eq!(said("options.top_k: 3"), "--top-k: 3");
        assert_eq!(said("options.stop_tokens[0] is 99"), "--stop-token is 99");
        assert_eq!(said("options.cpu_threads"), "--threads");
        assert_eq!(said("options.draft_path: x"), "--draft-model: x");
        assert_eq!(
            said("there is no folder \"options.x\""),
            "there is no folder \"options.x\""
        );
    }
}
