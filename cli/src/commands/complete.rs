//! What the Tab key completes in a chat: commands, and the files behind some of them.

use rustyline::completion::{Completer, FilenameCompleter, Pair};
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::validate::Validator;
use rustyline::{Context, Helper};

use crate::commands::chat::COMMANDS;

pub struct Completion {
    files: FilenameCompleter,
}

impl Completion {
    pub fn new() -> Completion {
        Completion {
            files: FilenameCompleter::new(),
        }
    }
}

impl Completer for Completion {
    type Candidate = Pair;

    fn complete(
        &self,
        line: &str,
        at: usize,
        context: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<Pair>)> {
        let takes_file = ["/adapter ", "/save ", "/load "]
            .iter()
            .any(|command| line.starts_with(command));
        if takes_file {
            return self.files.complete(line, at, context);
        }
        let typed = line.get(..at).unwrap_or(line);
        let commands = COMMANDS
            .iter()
            .filter(|(name, _, _)| typed.starts_with('/') && name.starts_with(typed))
            .map(|(name, argument, _)| Pair {
                display: (*name).to_owned(),
                replacement: if argument.is_empty() {
                    (*name).to_owned()
                } else {
                    format!("{name} ")
                },
            })
            .collect();
        Ok((0, commands))
    }
}

impl Hinter for Completion {
    type Hint = String;
}
impl Highlighter for Completion {}
impl Validator for Completion {}
impl Helper for Completion {}
