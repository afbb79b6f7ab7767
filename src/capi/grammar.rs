//! Grammars: what an answer must match.

use std::ffi::c_char;
use std::sync::Arc;

use super::boundary::{call, quietly, Use};
use super::constants::*;
use super::error::mlxrt_error;
use super::handle::{table, Handle, Kind as HandleKind};
use super::model::report;
use super::structs::read_options;
use super::text::{opt_str_arg, HandleOut};
use super::time::deadline;
use super::types::{mlxrt_call_options, mlxrt_grammar, mlxrt_model};
use crate::error::{Code, Error};
use crate::grammar::{Grammar, Kind};
use crate::runtime::model::Model;

impl Handle for Grammar {
    type C = mlxrt_grammar;
    const KIND: HandleKind = HandleKind::Grammar;
}

/// Compiles what answers must match, for the tokens of a model: kind is MLXRT_GRAMMAR_*, source what that kind says, of at
/// most 1 MB. A request that names it in options.grammar gets only tokens that the grammar allows; it ends as
/// MLXRT_STOPPED_GRAMMAR when nothing may follow, or by the model's end of text where the grammar has an end. Only max_tokens,
/// stop strings and stop tokens, a cancel, a deadline or the end of the context leave it incomplete. Special tokens are made
/// only where a Lark grammar names them. JSON is written without blanks, properties in the order in which the schema has them;
/// {"x-guidance": {"whitespace_flexible": true}} at the root of a schema allows blanks.
///
/// What cannot be followed is refused, never left out: an error names the keyword by its JSON pointer, as in
/// "#/properties/a/not". Left out, with a line of the log (MLXRT_LOG_WARN), are words that are no keywords of JSON Schema, and
/// formats that say nothing of a text, such as "password". The first grammar of a model takes some tenths of a second longer
/// than those that follow.
///
/// Threads: any; progress runs on this one. One grammar serves any number of sessions and threads at once.
/// Blocks: while it compiles, milliseconds as a rule; timeout_ms (TIMEOUT) is looked at between the parts of the work, progress
/// (CANCELLED) before and after it; limits bound a part to a few seconds.
/// Errors: BAD_GRAMMAR; INVALID_ARGUMENT for a source that is too long; UNSUPPORTED for another kind, and for a vocabulary too
/// large for grammars; OUT_OF_MEMORY; RESOURCES when no thread can be started; TIMEOUT; CANCELLED.
/// Owns: out is yours: mlxrt_grammar_free. It needs nothing of the model but its tokens, and keeps no weights alive.
#[no_mangle]
pub unsafe extern "C" fn mlxrt_grammar_compile(
    model: *const mlxrt_model,
    kind: i32,
    source: *const c_char,
    len: usize,
    options: *const mlxrt_call_options,
    out: *mut *mut mlxrt_grammar,
) -> *mut mlxrt_error {
    // SAFETY: the caller's output is NULL or writable.
    let out = unsafe { HandleOut::clear(out, "out") };
    call("mlxrt_grammar_compile", Use::Blocking, || {
        let out = out?;
        let model = table().get::<Model>(model, "model")?;
        // SAFETY: the caller's source is readable for its length; options are NULL or as large as their struct_size says.
        let (source, options) = unsafe {
            (
                opt_str_arg(source, len, "source")?,
                read_options(options, "options")?,
            )
        };
        let kind = match kind {
            MLXRT_GRAMMAR_JSON => Kind::Json,
            MLXRT_GRAMMAR_JSON_SCHEMA => Kind::JsonSchema,
            MLXRT_GRAMMAR_REGEX => Kind::Regex,
            MLXRT_GRAMMAR_LARK => Kind::Lark,
            other => return Err(Error::unsupported(format!("kind {other} is not known"))),
        };
        if source.is_none() && kind != Kind::Json {
            return Err(Error::invalid("source is NULL"));
        }
        let source = source.unwrap_or_default();
        let total = source.len() as u64;
        let tell = |done| match report(options.progress, options.progress_data, done, total) {
            true => Ok(()),
            false => Err(Error::new(
                Code::Cancelled,
                "compiling was stopped by the progress callback",
            )),
        };
        tell(0)?;
        let grammar = model.compile_grammar(kind, &source, deadline(options.timeout_ms))?;
        tell(total)?;
        out.put(table().insert(Arc::new(grammar))?);
        Ok(())
    })
}

/// Gives a grammar up. Requests that follow it go on. NULL does nothing.
///
/// Threads: any.
/// Blocks: no.
/// Errors: none; a handle that is not a live grammar is logged.
/// Owns: takes the handle.
#[no_mangle]
pub unsafe extern "C" fn mlxrt_grammar_free(grammar: *mut mlxrt_grammar) {
    if !grammar.is_null() {
        quietly("mlxrt_grammar_free", Use::Query, || {
            table().remove::<Grammar>(grammar, "grammar").map(drop)
        });
    }
}
