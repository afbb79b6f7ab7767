//! Grammars that bind a model's calls to the tools that it has: what may stand between the markers of a call, and, where one
//! is required, the whole of an answer up to the end of its first call.
//!
//! They are written in Lark's form, out of the shape in which the family writes calls and the schemas of the tools.

mod fields;
mod gemma;
mod texts;
mod tool;
mod write;

use std::sync::Arc;

use self::write::Writer;
use super::{on_a_large_stack, parser, Grammar, Vocabulary};
use crate::error::{Code, Error, Result};
use crate::text::Channels;
use crate::words::quoted;
use crate::{room, watch};

pub use self::tool::{Choice, Tool};

/// How much of a tool's schema a grammar follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// All of it, or it is refused.
    Strictly,
    /// What makes a call of its name.
    Loosely,
}

/// What binds the calls of one answer.
pub struct Calls {
    /// Behind the marker of a call or, for gpt-oss, behind its header, which names the tool.
    behind: Vec<(Option<String>, Grammar)>,
    /// From the beginning of the answer on.
    pub start: Option<Start>,
    /// A call has no marker behind it: it ends the answer.
    pub end_answer: bool,
}

pub struct Start {
    pub grammar: Grammar,
    /// The answer follows it to its end; else only while it looks like a call.
    pub required: bool,
    /// What the model thinks is a part of it.
    pub thinks: bool,
}

impl Calls {
    /// `strict`: a schema that cannot be followed is an error; else such tools are bound loosely.
    ///
    /// Errors: `BadGrammar` names the tool and the keyword; `InvalidArgument` for a choice that no tool is;
    /// `Unsupported` where the model's calls have no form that a grammar knows; as `Grammar::compile`.
    pub fn compile(
        vocabulary: &Arc<Vocabulary>,
        channels: &Channels,
        tools: &[Tool],
        choice: &Choice,
        strict: bool,
    ) -> Result<Calls> {
        let tools: Vec<&Tool> = match choice {
            Choice::Named(name) => tools.iter().filter(|tool| tool.name == *name).collect(),
            _ => tools.iter().collect(),
        };
        if tools.is_empty() {
            return Err(match choice {
                Choice::Named(name) => Error::invalid(format!(
                    "input.tool_choice: input.tools has no tool named {}",
                    quoted(name, 80)
                )),
                _ => Error::invalid("input.tools has no tool that could be called"),
            });
        }
        let bytes = tools.iter().map(|tool| tool.bytes).sum::<usize>();
        let bytes = bytes.saturating_mul(super::COST);
        let bytes = bytes.saturating_add(super::BASE_COST);
        let _room = room::hold_for(bytes, "the grammar of input.tools")?;
        watch::look()?;
        let compiled = on_a_large_stack(|| {
            let with = |bound| Self::bind(vocabulary, channels, &tools, choice, bound);
            match with(Bound::Strictly) {
                Err(error) if error.code == Code::BadGrammar && !strict => with(Bound::Loosely),
                compiled => compiled,
            }
        });
        watch::look()?;
        compiled
    }

    fn bind(
        vocabulary: &Arc<Vocabulary>,
        channels: &Channels,
        tools: &[&Tool],
        choice: &Choice,
        bound: Bound,
    ) -> Result<Calls> {
        let compile = |source: &str| compile(vocabulary, source);
        let required = choice.is_required();
        let all = match (channels.is_harmony(), required) {
            (true, false) => {
                let behind = |tool: &&Tool| {
                    let source = Writer::new(channels, bound).message(tool)?;
                    let grammar = compile(&source).map_err(|error| tool.at(error))?;
                    Ok((Some(tool.name.clone()), grammar))
                };
                let behind = tools.iter().map(behind);
                return Ok(Calls {
                    behind: behind.collect::<Result<_>>()?,
                    start: None,
                    end_answer: true,
                });
            }
            (true, true) => Writer::new(channels, bound).messages(tools)?,
            (false, _) => Writer::new(channels, bound).answer(tools, required)?,
        };
        let grammars = || {
            let start = all.start.as_deref().map(compile).transpose()?;
            Ok(Calls {
                behind: match all.behind.as_deref() {
                    Some(source) => vec![(None, compile(source)?)],
                    None => Vec::new(),
                },
                start: start.map(|grammar| Start {
                    grammar,
                    required,
                    thinks: channels.is_harmony(),
                }),
                end_answer: all.end_answer,
            })
        };
        let compiled: Result<Calls> = grammars();
        // Which tool's it is shows when each is compiled by itself.
        compiled.map_err(|error| match tools {
            [tool] => tool.at(error),
            _ if error.code != Code::BadGrammar => error,
            _ => {
                let mut alone = tools.iter();
                let fault = alone.find_map(|tool| {
                    Self::bind(vocabulary, channels, &[tool], &Choice::Auto, bound).err()
                });
                fault.unwrap_or(error)
            }
        })
    }

    /// For a call that has just been opened; `tool`: as its header names it.
    pub fn behind(&self, tool: Option<&str>) -> Option<&Grammar> {
        let mut all = self.behind.iter();
        let found = all.find(|(name, _)| name.as_deref() == tool)?;
        Some(&found.1)
    }
}

fn compile(vocabulary: &Arc<Vocabulary>, source: &str) -> Result<Grammar> {
    watch::look()?;
    let grammar = super::TopLevelGrammar::from_lark(source.to_owned());
    let start = parser(vocabulary, grammar)?;
    Grammar::beginning(vocabulary, start)
}
