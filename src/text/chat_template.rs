//! The folder's own chat template: found and parsed at load, rendered into pieces that know who wrote them.

use serde_json::{Map, Value};

use super::continuation;
use super::conversation::Conversation;
use super::messages::{odd_role, Message};
use super::parts::Format;
use super::tokenizer::Piece;
use crate::error::{Error, Result};
use crate::template::{ErrorKind, Json, Limits, Now, Object, Template};

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

/// `Send + Sync`; renders any number of conversations.
#[derive(Debug)]
pub struct ChatTemplate {
    default: Format,
    /// Used when there are tools, where the folder has one.
    tool_use: Option<Format>,
    /// Name and text.
    special_tokens: Vec<(&'static str, String)>,
}

/// What goes into a prompt beside the messages.
#[derive(Clone, Copy, Debug, Default)]
pub struct TemplateOptions<'a> {
    pub tools: Option<&'a Json>,
    pub args: Option<&'a Object>,
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
        let tools = options.tools.filter(|tools| **tools != Json::Null);
        if tools.is_some_and(|tools| !matches!(tools, Json::List(_))) {
            return Err(Error::invalid("tools must be a list"));
        }
        let format = match (&self.tool_use, tools) {
            (Some(tool_use), Some(_)) => tool_use,
            _ => &self.default,
        };
        let mut end_mark = String::new();
        if options.continue_last {
            continuation::check(messages)?;
            end_mark = continuation::end_mark();
        }
        let conversation = Conversation {
            messages,
            tools,
            args: options.args,
            add_generation_prompt: options.add_generation_prompt,
            end_mark: &end_mark,
        };
        let special_tokens = self.special_tokens.iter();
        let special_tokens = special_tokens.map(|(name, text)| (*name, text.as_str()));
        let variables = conversation.variables(format, special_tokens)?;
        let rendered = format
            .template
            .render(&variables, clock, &Limits::default());
        let rendered = rendered.map_err(|error| {
            let hint = match error.kind {
                ErrorKind::Limit | ErrorKind::Unsupported => None,
                _ => odd_role(messages),
            };
            let mut error = Error::from(error);
            error.message.extend(hint.map(|hint| format!(" ({hint})")));
            error
        })?;
        let mut pieces: Vec<Piece> = rendered
            .pieces()
            .map(|(text, origin)| Piece::new(text, origin))
            .collect();
        if let (true, Some(last)) = (options.continue_last, messages.last()) {
            continuation::cut(&mut pieces, last, &end_mark)?;
        }
        Ok(pieces)
    }
}

fn parse(file: &str, source: &str) -> Result<Format> {
    Template::parse(source, &Limits::default())
        .map(Format::new)
        .map_err(|error| Error::from(error).within(file))
}
