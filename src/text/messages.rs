//! Chat messages in OpenAI's JSON form, made into what chat templates take, as transformers 5 does it.

use std::borrow::Cow;

use super::pyjson;
use super::tokenizer::Piece;
use crate::error::{Error, Result};
use crate::template::{Json, Object};
use crate::watch;

/// Bytes of a conversation's messages.
pub const MAX_BYTES: usize = 256 << 20;
const MAX_MESSAGES: usize = 100_000;

/// Roles whose content is text or a list of typed parts. What other roles say (a tool's result) may be any JSON.
const SPEAKERS: &[&str] = &["system", "developer", "user", "assistant"];

/// Roles that about every template knows.
const COMMON_ROLES: &[&str] = &["system", "user", "assistant", "tool"];

/// Parts that need a model with eyes or ears.
const MEDIA: &[&str] = &[
    "image",
    "image_url",
    "input_image",
    "audio",
    "audio_url",
    "input_audio",
    "video",
    "video_url",
    "file",
    "input_file",
];

/// Keys that a message's reasoning goes by.
const REASONING: &[&str] = &["reasoning_content", "thinking", "reasoning"];

/// One message of a conversation, as a template gets it: keys that were null are gone, reasoning is there by every name
/// that templates know, and arguments of calls that were the text of a JSON object are that object.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    pub role: String,
    entries: Object,
}

/// A call of a function that the assistant made. Arguments are an object, or whatever else the message has.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ToolCall<'a> {
    /// None where it is no function's.
    pub name: Option<&'a str>,
    pub arguments: Option<&'a Json>,
}

impl Message {
    /// Parses a list of messages. Errors name the message and the key, or the position in the JSON.
    pub fn parse_list(json: &[u8]) -> Result<Vec<Message>> {
        if json.len() > MAX_BYTES {
            return Err(Error::invalid(format!(
                "messages has {} bytes, at most {MAX_BYTES} are allowed",
                json.len()
            )));
        }
        crate::room::hold_for(Json::cost(json), "messages")?;
        let value = Json::parse_argument("messages", json)?;
        let Json::List(list) = value else {
            return Err(Error::invalid(format!(
                "messages must be a list, not {}",
                value.kind()
            )));
        };
        if list.is_empty() {
            return Err(Error::invalid("messages must not be empty"));
        }
        if list.len() > MAX_MESSAGES {
            return Err(Error::invalid(format!(
                "messages has {} entries, at most {MAX_MESSAGES} are allowed",
                list.len()
            )));
        }
        list.into_iter()
            .enumerate()
            .map(|(index, value)| {
                watch::look()?;
                parse(&format!("messages[{index}]"), value)
            })
            .collect()
    }

    /// Keys and values, as a template gets them.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &Json)> {
        self.entries.iter()
    }

    /// Whether its role is one that many templates do not know.
    fn is_odd(&self) -> bool {
        !COMMON_ROLES.contains(&self.role.as_str())
    }

    pub fn has_content(&self) -> bool {
        self.entries.get("content").is_some()
    }

    /// The content as text: parts joined, other JSON as such, and nothing where there is none.
    pub fn text(&self) -> Cow<'_, str> {
        match self.entries.get("content") {
            None => Cow::Borrowed(""),
            Some(Json::Text(text)) => Cow::Borrowed(text),
            Some(other) => match self.parts() {
                Some(parts) => parts.iter().filter_map(part_text).collect(),
                None => Cow::Owned(pyjson::to_string(other)),
            },
        }
    }

    /// The content's parts, where it is a list of such. Each is an object with a type; those of type "text" have a text.
    pub fn parts(&self) -> Option<&[Json]> {
        let Some(Json::List(parts)) = self.entries.get("content") else {
            return None;
        };
        let speaks = SPEAKERS.contains(&self.role.as_str());
        let parted = speaks || (!parts.is_empty() && parts.iter().all(|p| part_text(p).is_some()));
        parted.then_some(parts)
    }

    /// The types of parts that are no text, each with its index.
    pub fn other_parts(&self) -> impl Iterator<Item = (usize, &str)> {
        let parts = self.parts().unwrap_or(&[]).iter().enumerate();
        let kinds = parts.filter_map(|(index, part)| Some((index, part_kind(part)?)));
        kinds.filter(|(_, kind)| *kind != "text")
    }

    pub fn tool_calls(&self) -> impl Iterator<Item = ToolCall<'_>> {
        let calls = match self.entries.get("tool_calls") {
            Some(Json::List(calls)) => calls.as_slice(),
            _ => &[],
        };
        calls.iter().filter_map(|call| {
            let Json::Object(call) = call else {
                return None;
            };
            let function = match call.get("function") {
                Some(Json::Object(function)) => function,
                _ => call,
            };
            Some(ToolCall {
                name: function.get("name").and_then(Json::as_text),
                arguments: function.get("arguments").filter(|a| **a != Json::Null),
            })
        })
    }
}

fn part_kind(part: &Json) -> Option<&str> {
    match part {
        Json::Object(part) => part.get("type")?.as_text(),
        _ => None,
    }
}

/// The text of a text part.
pub(super) fn part_text(part: &Json) -> Option<&str> {
    match part {
        Json::Object(object) if part_kind(part) == Some("text") => object.get("text")?.as_text(),
        _ => None,
    }
}

/// What to say of the first message with a role that many templates do not know.
pub(super) fn odd_role(messages: &[Message]) -> Option<String> {
    let index = messages.iter().position(Message::is_odd)?;
    let role: String = messages.get(index)?.role.chars().take(40).collect();
    Some(format!(
        "messages[{index}].role is {role:?}, and templates know \"system\", \"user\", \"assistant\" and \"tool\""
    ))
}

/// As `odd_role`, where what that message says is not in the prompt: templates drop what they don't know.
pub fn left_out(messages: &[Message], prompt: &[Piece]) -> Option<String> {
    let said = messages.iter().find(|message| message.is_odd())?.text();
    let prompt: String = prompt.iter().map(|piece| piece.text.as_str()).collect();
    match prompt.contains(said.trim()) {
        true => None,
        false => odd_role(messages),
    }
}

fn parse(place: &str, value: Json) -> Result<Message> {
    let Json::Object(mut entries) = value else {
        return Err(Error::invalid(format!(
            "{place} must be an object, not {}",
            value.kind()
        )));
    };
    let role = match entries.get("role") {
        Some(Json::Text(role)) => role.clone(),
        Some(other) => return Err(wanted(place, "role", "a string", other)),
        None => return Err(Error::invalid(format!("{place}.role is missing"))),
    };
    check_content(place, &role, entries.get("content"))?;
    entries.retain(|value| *value != Json::Null);
    name_reasoning(&mut entries);
    match entries.get_mut("tool_calls") {
        None => {}
        Some(Json::List(calls)) => {
            for (index, call) in calls.iter_mut().enumerate() {
                read_call(&format!("{place}.tool_calls[{index}]"), call)?;
            }
        }
        Some(other) => return Err(wanted(place, "tool_calls", "a list", other)),
    }
    Ok(Message { role, entries })
}

/// transformers' rule, so that dicts print alike: the first name that is there gives the others their value,
/// `thinking` keeps its own, and stands first.
fn name_reasoning(entries: &mut Object) {
    let Some(reasoning) = REASONING.iter().find_map(|key| entries.get(key)).cloned() else {
        return;
    };
    let thinking = entries.get("thinking").cloned();
    entries.set_first("thinking", thinking.unwrap_or_else(|| reasoning.clone()));
    entries.set("reasoning_content", reasoning);
}

fn check_content(place: &str, role: &str, content: Option<&Json>) -> Result<()> {
    let speaks = SPEAKERS.contains(&role);
    match content {
        Some(Json::Text(_) | Json::Null) => Ok(()),
        Some(Json::List(parts)) => {
            for (index, part) in parts.iter().enumerate() {
                check_part(&format!("{place}.content[{index}]"), speaks, part)?;
            }
            Ok(())
        }
        Some(other) if speaks => Err(wanted(
            place,
            "content",
            "a string or a list of parts",
            other,
        )),
        // An answer may be calls or reasoning alone.
        None if speaks && role != "assistant" => {
            Err(Error::invalid(format!("{place}.content is missing")))
        }
        _ => Ok(()),
    }
}

/// A part of what a speaker says has a type, and a text if it is one. A tool's result may hold anything but media.
fn check_part(place: &str, speaks: bool, part: &Json) -> Result<()> {
    let kind = match part {
        Json::Object(part) => part.get("type"),
        _ if speaks => {
            return Err(Error::invalid(format!(
                "{place} must be an object, not {}",
                part.kind()
            )))
        }
        _ => return Ok(()),
    };
    // A list of files may be a tool's result.
    let media = |kind: &str| MEDIA.contains(&kind) && (speaks || part_entry(part, kind).is_some());
    match kind {
        Some(Json::Text(kind)) if media(kind) => Err(unsupported_part(place, kind)),
        _ if !speaks => Ok(()),
        Some(Json::Text(kind)) if kind != "text" => Ok(()),
        Some(Json::Text(_)) => match part_entry(part, "text") {
            Some(Json::Text(_)) => Ok(()),
            Some(other) => Err(wanted(place, "text", "a string", other)),
            None => Err(Error::invalid(format!("{place}.text is missing"))),
        },
        Some(other) => Err(wanted(place, "type", "a string", other)),
        None => Err(Error::invalid(format!("{place}.type is missing"))),
    }
}

pub(super) fn unsupported_part(place: &str, kind: &str) -> Error {
    let kind: String = kind.chars().take(40).collect();
    Error::unsupported(format!(
        "{place}.type {kind:?} is not supported, only \"text\" is"
    ))
}

fn part_entry<'a>(part: &'a Json, key: &str) -> Option<&'a Json> {
    match part {
        Json::Object(part) => part.get(key),
        _ => None,
    }
}

/// Both forms: `{"id", "type": "function", "function": {"name", "arguments"}}` and `{"name", "arguments"}`. Calls of
/// another type are the template's matter.
fn read_call(place: &str, value: &mut Json) -> Result<()> {
    let kind = value.kind();
    let Json::Object(call) = value else {
        return Err(Error::invalid(format!(
            "{place} must be an object, not {kind}"
        )));
    };
    let other_type = matches!(call.get("type"), Some(Json::Text(kind)) if kind != "function");
    let nested = match call.get("function") {
        Some(Json::Object(_)) => true,
        None | Some(Json::Null) => false,
        Some(other) => return Err(wanted(place, "function", "an object", other)),
    };
    let (place, function) = match nested {
        true => match call.get_mut("function") {
            Some(Json::Object(function)) => (format!("{place}.function"), function),
            _ => return Ok(()),
        },
        false => (place.to_string(), call),
    };
    match function.get("name") {
        Some(Json::Text(_)) => {}
        Some(other) if other != &Json::Null => {
            return Err(wanted(&place, "name", "a string", other))
        }
        _ if other_type && !nested => {}
        _ => return Err(Error::invalid(format!("{place}.name is missing"))),
    }
    if let Some(arguments) = function.get_mut("arguments") {
        let parsed = arguments.as_text().map(|text| Json::parse(text.as_bytes()));
        if let Some(Ok(object @ Json::Object(_))) = parsed {
            *arguments = object;
        }
    }
    Ok(())
}

fn wanted(place: &str, key: &str, what: &str, got: &Json) -> Error {
    Error::invalid(format!("{place}.{key} must be {what}, not {}", got.kind()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use crate::error::Code;

    fn error(json: &str) -> (Code, String) {
        let e = Message::parse_list(json.as_bytes()).unwrap_err();
        (e.code, e.message)
    }

    #[test]
    fn reads_every_form() {
        let list = Message::parse_list(
            r#"[{"role":"system","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}],"x":1},
            {"role":"assistant","content":null,"reasoning_content":"r","tool_calls":[
              {"id":"1","type":"function","function":{"name":"f","arguments":{"k":[1]}}},{"name":"g","arguments":"{}"},
              {"name":"h","arguments":"x"},{"name":"i","arguments":null},{"type":"custom","custom":{"name":"j"}}]},
            {"role":"tool","name":"f","tool_call_id":"1","content":"{}"},{"role":"tool","content":{"a":[1.0]}}]"#
                .as_bytes(),
        )
        .unwrap();
        assert_eq!(list[0].text(), "ab");
        assert_eq!(list[0].entries().last(), Some(("x", &Json::Int(1))));
        assert_eq!((list[1].has_content(), &*list[1].text()), (false, ""));
        assert_eq!(
            (&*list[2].text(), &*list[3].text()),
            ("{}", "{\"a\": [1.0]}")
        );
        let json = |json: &str| Json::parse(json.as_bytes()).unwrap();
        let calls: Vec<_> = list[1]
            .tool_calls()
            .map(|c| (c.name, c.arguments.cloned()))
            .collect();
        let wanted = [
            (Some("f"), Some(json(r#"{"k":[1]}"#))),
            (Some("g"), Some(json("{}"))),
            (Some("h"), Some(json("\"x\""))),
            (Some("i"), None),
            (None, None),
        ];
        assert_eq!(calls, wanted);
    }

    #[test]
    fn errors_name_the_message_and_the_key() {
        use Code::{InvalidArgument as I, Unsupported as U};
        for (json, code, start) in [
            (
                "[{]",
                I,
                "messages is not valid JSON: key must be a string at line 1 column 3",
            ),
            (
                r#"[{"role":"user","content":"\ud800"}]"#,
                I,
                "messages is not valid JSON: ",
            ),
            ("{}", I, "messages must be a list, not an object"),
            ("[]", I, "messages must not be empty"),
            ("[1]", I, "messages[0] must be an object, not a number"),
            (
                r#"[{"role":"user","content":"a"},{"content":"a"}]"#,
                I,
                "messages[1].role is missing",
            ),
            (
                r#"[{"role":1}]"#,
                I,
                "messages[0].role must be a string, not a number",
            ),
            (
                r#"[{"role":"user","content":{}}]"#,
                I,
                "messages[0].content must be a string or a list of parts, not an object",
            ),
            (r#"[{"role":"user"}]"#, I, "messages[0].content is missing"),
            (
                r#"[{"role":"user","content":[{"type":"image_url"}]}]"#,
                U,
                "messages[0].content[0].type \"image_url\"",
            ),
            (
                r#"[{"role":"user","content":[{"type":"text"}]}]"#,
                I,
                "messages[0].content[0].text is missing",
            ),
            (
                r#"[{"role":"user","content":["a"]}]"#,
                I,
                "messages[0].content[0] must be an object",
            ),
            (
                r#"[{"role":"tool","content":[{"type":"image_url","image_url":{}}]}]"#,
                U,
                "messages[0].content[0].type \"image_url\"",
            ),
            (
                r#"[{"role":"assistant","tool_calls":[{"name":1}]}]"#,
                I,
                "messages[0].tool_calls[0].name must be a string, not a number",
            ),
            (
                r#"[{"role":"assistant","tool_calls":[{"function":{}}]}]"#,
                I,
                "messages[0].tool_calls[0].function.name is missing",
            ),
            (
                r#"[{"role":"assistant","tool_calls":[{"type":"function","function":3}]}]"#,
                I,
                "messages[0].tool_calls[0].function must be an object, not a number",
            ),
            (
                r#"[{"role":"assistant","tool_calls":"x"}]"#,
                I,
                "messages[0].tool_calls must be a list",
            ),
        ] {
            let (got, message) = error(json);
            assert!(
                got == code && message.starts_with(start),
                "{json}: {got:?} {message}"
            );
        }
        let deep = format!(
            "[{{\"role\":\"user\",\"content\":{}{}}}]",
            "[".repeat(200_000),
            "]".repeat(200_000)
        );
        assert!(error(&deep)
            .1
            .starts_with("messages is not valid JSON: recursion limit"));
        let many = format!("[{}1]", "1,".repeat(100_000));
        assert!(error(&many).1.starts_with("messages has 100001 entries"));
        assert!(Message::parse_list(b"[\"\xff\"]")
            .unwrap_err()
            .message
            .starts_with("messages is not valid JSON"));
    }
}
