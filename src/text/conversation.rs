//! What a template is given of a conversation: transformers' variables, with strings that know who wrote them.

use super::continuation::nothing_to_continue;
use super::messages::{part_text, unsupported_part, Message};
use super::parts::Format;
use super::tokenizer::Origin;
use crate::error::{Error, Result};
use crate::template::{Json, Object, Str, Value};

/// Variables that a conversation sets itself; `template_args` cannot.
const OWN: &[&str] = &["messages", "tools", "add_generation_prompt"];

/// Roles that count as the template's own words: some templates make control tokens of them, such as `<|user|>`.
pub(super) const ROLES: &[&str] = &[
    "system",
    "user",
    "assistant",
    "tool",
    "developer",
    "function",
    "ipython",
];

pub(super) struct Conversation<'a> {
    pub messages: &'a [Message],
    pub tools: Option<&'a Json>,
    pub args: Option<&'a Object>,
    pub add_generation_prompt: bool,
    /// Stands behind the text of the last message.
    pub end_mark: &'a str,
}

impl Conversation<'_> {
    /// The variables of a template. As in transformers, `tools` and `documents` that nobody gave are None, and
    /// `template_args` may set the special tokens.
    ///
    /// Errors: `InvalidArgument` for arguments that are not theirs to set; `Unsupported` for parts that are no text, where
    /// the template does not know them.
    pub fn variables<'t>(
        &self,
        format: &Format,
        special_tokens: impl Iterator<Item = (&'t str, &'t str)>,
    ) -> Result<Value> {
        let own = |name: &str| Str::new(name, Origin::Template);
        let last = self.messages.len().saturating_sub(1);
        let messages = self.messages.iter().enumerate().map(|(index, message)| {
            let end_mark = match index == last {
                true => self.end_mark,
                false => "",
            };
            message_value(index, message, format, end_mark)
        });
        let messages: Vec<Value> = messages.collect::<Result<_>>()?;
        let given = |json: Option<&Json>| match json {
            Some(json) => json.to_value(Origin::Content),
            None => Json::Null.to_value(Origin::Template),
        };
        let prompt = Value::bool(self.add_generation_prompt);
        let mut variables = vec![
            (own("messages"), Value::list(messages)?),
            (own("tools"), given(self.tools)?),
            (own("documents"), given(None)?),
            (own("add_generation_prompt"), prompt),
        ];
        for (name, text) in special_tokens {
            variables.push((own(name), Value::str(text, Origin::Template)));
        }
        for (name, value) in self.args.into_iter().flat_map(Object::iter) {
            if OWN.contains(&name) {
                return Err(Error::invalid(format!(
                    "template_args cannot set \"{name}\""
                )));
            }
            variables.push((own(name), value.to_value(Origin::Content)?));
        }
        Ok(Value::dict(variables)?)
    }
}

fn message_value(
    index: usize,
    message: &Message,
    format: &Format,
    end_mark: &str,
) -> Result<Value> {
    let origin = match message.role.as_str() {
        "assistant" => Origin::Assistant,
        _ => Origin::Content,
    };
    let entries = message.entries().map(|(key, value)| {
        let value = match (key, value) {
            ("content", Json::Text(text)) => Value::str(format!("{text}{end_mark}"), origin),
            ("content", _) => match message.parts() {
                Some(parts) => parts_value(index, message, parts, format, end_mark, origin)?,
                None => value.to_value(origin)?,
            },
            ("role", _) if ROLES.contains(&message.role.as_str()) => {
                Value::str(message.role.as_str(), Origin::Template)
            }
            _ => value.to_value(origin)?,
        };
        Ok((Str::new(key, origin), value))
    });
    Ok(Value::dict(entries.collect::<Result<_>>()?)?)
}

/// Parts as they are for a template that reads them, else joined.
fn parts_value(
    index: usize,
    message: &Message,
    parts: &[Json],
    format: &Format,
    end_mark: &str,
    origin: Origin,
) -> Result<Value> {
    let takes = format.takes_parts(&message.role);
    let mut others = message.other_parts();
    if let Some((part, kind)) = others.find(|(_, kind)| !takes || !format.names_part(kind)) {
        let place = format!("messages[{index}].content[{part}]");
        return Err(unsupported_part(&place, kind));
    }
    if !takes {
        return Ok(Value::str(format!("{}{end_mark}", message.text()), origin));
    }
    let mut content = Json::List(parts.to_vec());
    if let (Json::List(parts), false) = (&mut content, end_mark.is_empty()) {
        let last = parts
            .iter_mut()
            .rfind(|part| part_text(part).is_some())
            .ok_or_else(nothing_to_continue)?;
        if let Json::Object(part) = last {
            if let Some(Json::Text(text)) = part.get_mut("text") {
                text.push_str(end_mark);
            }
        }
    }
    Ok(content.to_value(origin)?)
}
