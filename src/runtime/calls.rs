//! What binds the calls of an answer to the tools that its input has.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use super::model::{Marked, Model};
use super::options::GenerateOptions;
use super::prompt::Prompt;
use crate::error::{Error, Result};
use crate::grammar::calls::{Calls, Choice, Tool};

/// Of so many conversations a model's grammars are kept: theirs come with every turn.
const MOST_KEPT: usize = 8;

/// The latest first.
#[derive(Default)]
pub(super) struct KeptCalls(Mutex<VecDeque<(Key, Arc<Calls>)>>);

#[derive(Clone, PartialEq)]
struct Key {
    /// JSON
    tools: String,
    choice: Choice,
    strict: bool,
    /// The format of the calls, where the input says it.
    parser: Option<String>,
}

/// How this answer tells thinking and calls.
pub(super) fn marked(model: &Model, prompt: &Prompt) -> Result<Option<Marked>> {
    match &prompt.parser {
        None => Ok(model.channels.clone()),
        Some(parser) => Marked::find(&model.chat, &model.tokenizer, Some(parser)),
    }
}

/// What binds the answer's calls, where one is required or all are to be bound.
///
/// Errors: `InvalidArgument` beside options that leave no room for calls; `Unsupported` where the model makes none; as
/// `Calls::compile`.
pub(super) fn calls(
    model: &Model,
    prompt: &Prompt,
    options: &GenerateOptions,
) -> Result<Option<Arc<Calls>>> {
    let required = prompt.choice.is_required();
    let strict = options.strict_tools;
    let Some(tools) = prompt.tools_json.as_ref().filter(|_| required || strict) else {
        return Ok(None);
    };
    let by = match required {
        true => "input.tool_choice asks for a call",
        false => "MLXRT_GEN_STRICT_TOOLS binds calls",
    };
    if options.grammar.is_some() {
        let message = format!("{by}, and options.grammar leaves no room for one");
        return Err(Error::invalid(message));
    }
    if options.raw_text {
        let message = format!("{by}, and with MLXRT_GEN_RAW_TEXT none is told from text");
        return Err(Error::invalid(message));
    }
    let Some(marked) = marked(model, prompt)? else {
        let message = format!("{by}, and the model's chat template shows none");
        return Err(Error::unsupported(message));
    };
    let key = Key {
        tools: tools.clone(),
        choice: prompt.choice.clone(),
        strict,
        parser: prompt.parser.clone(),
    };
    if let Some(known) = model.calls.find(&key) {
        return Ok(Some(known));
    }
    let tools = Tool::list(&key.tools)?;
    if tools.is_empty() && !required {
        return Ok(None);
    }
    let vocabulary = model.vocabulary()?;
    let calls = Calls::compile(&vocabulary, &marked.channels, &tools, &key.choice, strict)?;
    let calls = Arc::new(calls);
    model.calls.keep(key, calls.clone());
    Ok(Some(calls))
}

impl KeptCalls {
    fn find(&self, key: &Key) -> Option<Arc<Calls>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = all.iter().position(|(known, _)| known == key)?;
        let found = all.remove(at)?;
        let calls = found.1.clone();
        all.push_front(found);
        Some(calls)
    }

    fn keep(&self, key: Key, calls: Arc<Calls>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.push_front((key, calls));
        all.truncate(MOST_KEPT);
    }
}
