//! The folder's own chat template: found and parsed at load, rendered into pieces that know who wrote them.

use serde_json::{Map, Value};

use super::messages::Message;
use super::tokenizer::{Origin, Piece};
use crate::error::{Error, Result};
use crate::template::{Limits, Now, Str, Template, Value as Var};

/// Variables that a conversation sets itself; `template_args` cannot.
const OWN: &[&str] = &["messages", "tools", "add_generation_prompt"];

/// Special tokens that templates know by name, as `tokenizer_config.json` spells the keys.
const SPECIAL_TOKENS: &[&str] = &[
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
];

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
    default: Template,
    /// Used when there are tools, where the folder has one.
    tool_use: Option<Template>,
    /// Name and text.
    special_tokens: Vec<(&'static str, String)>,
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
    /// From `chat_template.jinja`, else from `chat_template` of `tokenizer_config.json`: text, or a list of named ones
    /// of which `default` and `tool_use` are taken.
    ///
    /// Errors: `BadModel` with line and column where it does not parse.
    pub fn find(jinja: Option<&[u8]>, config: Option<&Map<String, Value>>) -> Result<Option<Self>> {
        let (mut default, mut tool_use) = (None, None);
        if let Some(bytes) = jinja {
            let source = std::str::from_utf8(bytes).map_err(|error| {
                Error::bad_model(format!("chat_template.jinja is not valid UTF-8: {error}"))
            })?;
            default = Some(parse("chat_template.jinja", source)?);
        }
        match config.and_then(|config| config.get("chat_template")) {
            _ if default.is_some() => {}
            None | Some(Value::Null) => {}
            Some(Value::String(source)) => default = Some(parse("tokenizer_config.json", source)?),
            Some(Value::Array(named)) => {
                for entry in named {
                    let text = |key: &str| entry.get(key).and_then(Value::as_str);
                    match (text("name"), text("template")) {
                        (Some("default"), Some(source)) => default = Some(parse("tokenizer_config.json", source)?),
                        (Some("tool_use"), Some(source)) => tool_use = Some(parse("tokenizer_config.json", source)?),
                        (Some(_), Some(_)) => {}
                        _ => {
                            return Err(Error::bad_model(
                                "tokenizer_config.json: each chat_template must have a name and a template",
                            ))
                        }
                    }
                }
            }
            Some(_) => {
                return Err(Error::bad_model(
                    "tokenizer_config.json: chat_template must be a text or a list",
                ))
            }
        }
        let special_tokens = SPECIAL_TOKENS
            .iter()
            .filter_map(|name| {
                let value = config?.get(*name)?;
                let text = value.as_str().or_else(|| value.get("content")?.as_str())?;
                Some((*name, text.to_owned()))
            })
            .collect();
        Ok(default.map(|default| ChatTemplate {
            default,
            tool_use,
            special_tokens,
        }))
    }

    /// Renders a conversation; `clock` is local time, read where the template asks for it.
    ///
    /// Errors: `InvalidArgument` with what the template raised and where, `Unsupported` past its limits.
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
        let template = match (&self.tool_use, tools) {
            (Some(tool_use), Some(_)) => tool_use,
            _ => &self.default,
        };
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

fn parse(file: &str, source: &str) -> Result<Template> {
    Template::parse(source, &Limits::default()).map_err(|error| Error::from(error).within(file))
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
