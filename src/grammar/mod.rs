//! Grammars that answers must match: compiled on a caller's thread, followed on the engine's.
//!
//! The work is llguidance's: it knows of a text's bytes which may come next, and a trie of the model's tokens makes tokens of
//! them. Here its input is checked, its limits are set, and what it cannot do is refused by name.
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

mod blame;
pub mod calls;
mod keywords;
mod lark;
mod matcher;
mod normal;
mod pattern;
mod reference;
mod schema;
#[cfg(test)]
mod tests;
mod vocabulary;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use llguidance::api::TopLevelGrammar;
use llguidance::TokenParser;
use serde_json::{json, Value};

use crate::error::{Code, Error, Result};
use crate::watch::Watch;
use crate::{guard, load, room, watch};

pub use matcher::Matcher;
pub use vocabulary::Vocabulary;

/// Bytes of a source.
pub const LONGEST_SOURCE: usize = 1 << 20;
/// Bytes that compiling takes at most for each byte of the source, and in any case; found by trying.
const COST: usize = 500;
const BASE_COST: usize = 32 << 20;
/// llguidance and its parsers of regular expressions go into each other; a host's thread may have no more than 256 KB.
const STACK: usize = 32 << 20;
const BETWEEN_LOOKS: Duration = Duration::from_millis(20);

/// What a grammar is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Any JSON object or list; there is no source.
    Json,
    JsonSchema,
    /// The syntax of Rust's crate `regex`; the whole answer matches.
    Regex,
    /// Lark's, as llguidance has it.
    Lark,
}

/// A compiled grammar of one vocabulary. Any number of requests follow it at once.
pub struct Grammar {
    vocabulary: Arc<Vocabulary>,
    /// At the beginning of the text; requests work on copies.
    start: Mutex<TokenParser>,
}

impl Grammar {
    /// Errors: `InvalidArgument` for a source that is too long; `BadGrammar` says what cannot be compiled and where;
    /// `OutOfMemory`; `Resources`; what the watch gives.
    pub fn compile(vocabulary: Arc<Vocabulary>, kind: Kind, source: &str) -> Result<Grammar> {
        if source.len() > LONGEST_SOURCE {
            return Err(Error::invalid(format!(
                "source has {} bytes, a grammar has at most {LONGEST_SOURCE}",
                source.len()
            )));
        }
        let bytes = source.len().saturating_mul(COST).saturating_add(BASE_COST);
        let _room = room::hold_for(bytes, "compiling the grammar")?;
        watch::look()?;
        let compiled = on_a_large_stack(|| start(&vocabulary, kind, source));
        // A deadline that passed meanwhile counts, whatever came out.
        watch::look()?;
        let (start, warnings) = compiled?;
        for warning in warnings {
            crate::log::warn!("a schema: {warning}");
        }
        Grammar::beginning(&vocabulary, start)
    }

    /// Errors: `BadGrammar` where it matches nothing, which shows when a token is asked for.
    fn beginning(vocabulary: &Arc<Vocabulary>, start: TokenParser) -> Result<Grammar> {
        let mut first = Matcher::new(start.deep_clone(), vocabulary.rows(), true)?;
        first.mask().map_err(|error| match error.code {
            Code::BadGrammar => {
                let message = format!("{} already at the beginning", error.message);
                Error::bad_grammar(message)
            }
            _ => error,
        })?;
        Ok(Grammar {
            vocabulary: vocabulary.clone(),
            start: Mutex::new(start),
        })
    }

    pub fn vocabulary(&self) -> &Arc<Vocabulary> {
        &self.vocabulary
    }

    /// For one request. `may_end`: the tokens that end a text may come where the grammar has an end.
    pub fn matcher(&self, may_end: bool) -> Result<Matcher> {
        let start = self.start.lock().unwrap_or_else(PoisonError::into_inner);
        let parser = guard::catch(|| Ok(start.deep_clone()))?;
        drop(start);
        Matcher::new(parser, self.vocabulary.rows(), may_end)
    }
}

/// Looks meanwhile whether the work is still wanted. What llguidance does with one schema cannot be stopped, and ends by its limits.
fn on_a_large_stack<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let unwanted = Arc::new(AtomicBool::new(false));
    let (ended, end) = mpsc::channel::<()>();
    let watched = {
        let unwanted = unwanted.clone();
        move || {
            // It is dropped when the work ends, however it does.
            let _ended = ended;
            let stopped = move || match unwanted.load(Ordering::Relaxed) {
                true => Err(Error::new(
                    Code::Cancelled,
                    "compiling the grammar was stopped",
                )),
                false => Ok(()),
            };
            let watch = Watch {
                work: "compiling the grammar",
                deadline: None,
                stopped: Some(Box::new(stopped)),
            };
            watch::during(watch, || guard::catch(work))
        }
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("mlxrt grammar".into())
            .stack_size(STACK)
            .spawn_scoped(scope, watched);
        let thread = thread.map_err(|error| {
            let message = format!("no thread can be started to compile the grammar: {error}");
            Error::new(Code::Resources, message)
        })?;
        while end.recv_timeout(BETWEEN_LOOKS) == Err(RecvTimeoutError::Timeout) {
            unwanted.store(watch::look().is_err(), Ordering::Relaxed);
        }
        let done = thread.join();
        done.unwrap_or_else(|_| Err(Error::internal("compiling a grammar ended its thread")))
    })
}

/// The parser at the beginning of a text, and what was left out of the source.
fn start(vocabulary: &Vocabulary, kind: Kind, source: &str) -> Result<(TokenParser, Vec<String>)> {
    let (grammar, prepared) = match kind {
        Kind::Json => {
            if !source.is_empty() {
                return Err(Error::invalid("source: the kind JSON has none"));
            }
            let any = json!({ "type": ["object", "array"], "x-guidance": schema::compact() });
            (TopLevelGrammar::from_json_schema(any), None)
        }
        Kind::JsonSchema => {
            let parsed = load::parse_json("source", source.as_bytes());
            let parsed = parsed.map_err(as_grammar)?;
            let prepared = schema::prepare(&parsed)?;
            (prepared.grammar(&prepared.root), Some((parsed, prepared)))
        }
        Kind::Regex => {
            let checked = pattern::check(source);
            checked.map_err(|what| Error::bad_grammar(format!("source: {what}")))?;
            (TopLevelGrammar::from_regex(source), None)
        }
        Kind::Lark => {
            lark::check(source)?;
            (TopLevelGrammar::from_lark(source.to_owned()), None)
        }
    };
    let parser = match (parser(vocabulary, grammar), &prepared) {
        (Err(error), Some((given, prepared))) => {
            return Err(blame::of(vocabulary, prepared, given, error));
        }
        (parser, _) => parser?,
    };
    watch::look()?;
    let warnings = prepared.map(|(_, prepared)| prepared.warnings);
    Ok((parser, warnings.unwrap_or_default()))
}

impl schema::Prepared {
    /// Of the whole schema or of a part.
    fn grammar(&self, part: &Value) -> TopLevelGrammar {
        TopLevelGrammar::from_json_schema(self.whole(part))
    }

    /// The whole schema or a part, with what it refers to and how it is written.
    fn whole(&self, part: &Value) -> Value {
        let mut whole = match part {
            Value::Object(map) => map.clone(),
            other => {
                // llguidance looks for its own keyword in an object.
                let all = Value::Array(vec![other.clone()]);
                [("allOf".to_owned(), all)].into_iter().collect()
            }
        };
        whole.insert("$defs".into(), Value::Object(self.parts.clone()));
        whole.insert("x-guidance".into(), self.style.clone());
        Value::Object(whole)
    }
}

fn parser(vocabulary: &Vocabulary, grammar: TopLevelGrammar) -> Result<TokenParser> {
    guard::catch(|| {
        let parser = vocabulary.factory().create_parser(grammar);
        let mut parser = parser.map_err(|error| {
            let text = said(&error.to_string());
            match text.strip_prefix("panic: ") {
                Some(panic) => Error::internal(format!("a bug in llguidance: {panic}")),
                None => Error::bad_grammar(text),
            }
        })?;
        parser.start_without_prompt();
        Ok(parser)
    })
}

/// What llguidance says, in one line and without its traces.
fn said(text: &str) -> String {
    let text = text.split("\n<backtrace>").next().unwrap_or_default();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A file's faults are those of a model; these are the grammar's.
fn as_grammar(mut error: Error) -> Error {
    if error.code == Code::BadModel {
        error.code = Code::BadGrammar;
    }
    error
}
