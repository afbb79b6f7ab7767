//! The folder's own chat template: found and parsed at load, rendered into pieces that know who wrote them.

use serde_json::{Map, Value};

use super::messages::Message;
use super::template_files::{Source, Sources, TemplateFiles};
use super::tokenizer::{Origin, Piece};
use crate::error::{Error, Result};
use crate::template::{Limits, Now, Str, Template, Value as Var};

/// Variables that a conversation sets itself; `template_args` cannot.
const OWN: &[&str] = &["messages", "tools", "add_generation_prompt"];

/// Roles that count as the template's own words: some templates make control tokens of them, such as `<|user|>`.
const ROLES: &[&str] = &[
    "system",
    "user",
    "assistant",
    "tool",
    "developer",
    "function",
    "ipython",
];

/// `Send + Sync`; renders any number of conversations.
#[derive(Debug)]
pub struct ChatTemplate {
    /// A folder is loaded whatever its templates are; what is wrong shows when a conversation needs one.
    default: Result<Template>,
    /// Used when there are tools, where the folder has one.
    tool_use: Option<Result<Template>>,
    /// Name and text.
    special_tokens: Vec<(String, String)>,
}

/// What goes into a prompt beside the messages.
#[derive(Clone, Copy, Debug, Default)]
pub struct TemplateOptions<'a> {
    pub tools: Option<&'a Value>,
    pub args: Option<&'a Map<String, Value>>,
    pub add_generation_prompt: bool,
    /// The last message is an assistant's and stays open: its text, unchanged, ends the prompt.
    pub continue_last: bool,
}

impl ChatTemplate {
    /// The templates of a folder; None where it has none. `special_tokens`: name and text of what templates know by name.
    pub fn find(files: TemplateFiles, special_tokens: &[(String, String)]) -> Option<Self> {
        let mut found = Sources::find(files)?;
        let default = found.default.take().map(parse);
        Some(ChatTemplate {
            default: default.unwrap_or_else(|| Err(found.no_default())),
            tool_use: found.tool_use.map(parse),
            special_tokens: special_tokens.to_vec(),
        })
    }

    /// Why some conversations cannot be rendered, if so.
    pub fn problems(&self) -> impl Iterator<Item = &Error> {
        let all = [Some(&self.default), self.tool_use.as_ref()];
        all.into_iter()
            .flatten()
            .filter_map(|one| one.as_ref().err())
    }

    /// The template for a conversation with or without tools.
    fn template(&self, tools: bool) -> Result<&Template> {
        let one = match &self.tool_use {
            Some(tool_use) if tools => tool_use,
            _ => &self.default,
        };
        one.as_ref().map_err(Error::clone)
    }

    /// Renders a conversation; `clock` is local time, read where the template asks for it.
    ///
    /// Errors: `InvalidArgument` with what the template raised and where, `Unsupported` past its limits or where there is none
    /// for this conversation, `BadModel` with file, line and column where it does not parse.
    pub fn render(
        &self,
        messages: &[Message],
        options: TemplateOptions,
        clock: &dyn Fn() -> Now,
    ) -> Result<Vec<Piece>> {
        let tools = options.tools.filter(|tools| !tools.is_null());
        if tools.is_some_and(|tools| !tools.is_array()) {
            return Err(Error::invalid("tools must be a list"));
        }
        let template = self.template(tools.is_some())?;
        let continued = options
            .continue_last
            .then(|| continued_text(messages))
            .transpose()?;
        let context = self.context(messages, tools, options)?;
        let rendered = template.render(&context, clock, &Limits::default())?;
        let mut pieces: Vec<Piece> = rendered
            .pieces()
            .map(|(text, origin)| Piece::new(text, origin))
            .collect();
        if let Some(continued) = continued {
            cut_after(&mut pieces, &rendered.text, continued)?;
        }
        Ok(pieces)
    }

    fn context(
        &self,
        messages: &[Message],
        tools: Option<&Value>,
        options: TemplateOptions,
    ) -> Result<Var> {
        let own = |name: &str| Str::new(name, Origin::Template);
        let list = messages
            .iter()
            .map(message_value)
            .collect::<Result<Vec<_>>>()?;
        let mut variables = vec![
            (own("messages"), Var::list(list)?),
            (
                own("add_generation_prompt"),
                Var::bool(options.add_generation_prompt),
            ),
        ];
        if let Some(tools) = tools {
            variables.push((own("tools"), Var::from_json(tools, Origin::Content)?));
        }
        for (name, text) in &self.special_tokens {
            variables.push((own(name), Var::str(text.as_str(), Origin::Template)));
        }
        for (name, value) in options.args.into_iter().flatten() {
            if OWN.contains(&name.as_str()) {
                return Err(Error::invalid(format!(
                    "template_args cannot set \"{name}\""
                )));
            }
            variables.push((own(name), Var::from_json(value, Origin::Content)?));
        }
        Ok(Var::dict(variables)?)
    }
}

fn parse(source: Source) -> Result<Template> {
    let Source { file, text } = source;
    Template::parse(&text?, &Limits::default()).map_err(|error| Error::from(error).within(&file))
}

/// A message as it was given, but text parts as the one text that every template takes.
fn message_value(message: &Message) -> Result<Var> {
    let origin = if message.role == "assistant" {
        Origin::Assistant
    } else {
        Origin::Content
    };
    let joined = message.raw.get("content").is_some_and(Value::is_array);
    let entries = message.raw.iter().map(|(key, value)| {
        let value = match key.as_str() {
            "content" if joined => Var::str(message.content.as_str(), origin),
            "role" if ROLES.contains(&message.role.as_str()) => {
                Var::str(message.role.as_str(), Origin::Template)
            }
            _ => Var::from_json(value, origin)?,
        };
        Ok((Str::new(key.as_str(), origin), value))
    });
    Ok(Var::dict(entries.collect::<Result<Vec<_>>>()?)?)
}

fn continued_text(messages: &[Message]) -> Result<&str> {
    match messages.last() {
        Some(last) if last.role == "assistant" && !last.content.trim().is_empty() => {
            Ok(&last.content)
        }
        Some(last) if last.role == "assistant" => Err(Error::invalid(
            "the last message is empty: there is nothing to continue",
        )),
        _ => Err(Error::invalid(
            "the last message must be the assistant's to be continued",
        )),
    }
}

/// Cuts what the template wrote after the text of the last message.
fn cut_after(pieces: &mut Vec<Piece>, text: &str, continued: &str) -> Result<()> {
    let found = text
        .rfind(continued.trim_start())
        .map(|at| at.saturating_add(continued.trim_start().len()));
    let end = found.or_else(|| {
        Some(
            text.rfind(continued.trim())?
                .saturating_add(continued.trim().len()),
        )
    });
    let Some(mut left) = end else {
        return Err(Error::unsupported(
            "the chat template alters the last message, so it cannot be continued",
        ));
    };
    pieces.retain_mut(|piece| {
        let kept = left.min(piece.text.len());
        piece.text.truncate(kept);
        left = left.saturating_sub(kept);
        kept > 0
    });
    Ok(())
}
