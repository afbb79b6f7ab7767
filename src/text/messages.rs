//! Chat messages in OpenAI's JSON form.

use serde_json::{Map, Value};

use crate::error::{Error, Result};

const MAX_BYTES: usize = 256 << 20;
const MAX_MESSAGES: usize = 100_000;

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    pub role: String,
    /// The text; text parts are joined, an absent one (beside tool calls) is empty.
    pub content: String,
    pub name: Option<String>,
    pub reasoning_content: Option<String>,
    pub tool_call_id: Option<String>,
    pub tool_calls: Vec<ToolCall>,
    /// The message as it was given, with the keys that nothing here knows.
    pub raw: Map<String, Value>,
}

/// A call that the assistant made. Arguments are an object, or text as the model wrote it.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolCall {
    pub id: Option<String>,
    pub name: String,
    pub arguments: Value,
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
        // Of the JSON, what the template makes of it, and the prompt.
        crate::room::ask(json.len(), 64, "messages")?;
        let value: Value = serde_json::from_slice(json)
            .map_err(|e| Error::invalid(format!("messages is not valid JSON: {e}")))?;
        let Value::Array(list) = value else {
            return Err(Error::invalid(format!(
                "messages must be a list, not {}",
                a_kind(&value)
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
            .map(|(index, value)| parse(&format!("messages[{index}]"), value))
            .collect()
    }
}

fn parse(place: &str, value: Value) -> Result<Message> {
    let Value::Object(raw) = value else {
        return Err(Error::invalid(format!(
            "{place} must be an object, not {}",
            a_kind(&value)
        )));
    };
    let role = match raw.get("role") {
        Some(Value::String(role)) => role.clone(),
        Some(other) => return Err(wanted(place, "role", "a string", other)),
        None => return Err(Error::invalid(format!("{place}.role is missing"))),
    };
    let tool_calls = match raw.get("tool_calls") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(calls)) => calls
            .iter()
            .enumerate()
            .map(|(index, call)| parse_call(&format!("{place}.tool_calls[{index}]"), call))
            .collect::<Result<_>>()?,
        Some(other) => return Err(wanted(place, "tool_calls", "a list", other)),
    };
    let content = match raw.get("content") {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(parts)) => parse_parts(place, parts)?,
        None | Some(Value::Null) if role == "assistant" && !tool_calls.is_empty() => String::new(),
        Some(other) => {
            return Err(wanted(
                place,
                "content",
                "a string or a list of text parts",
                other,
            ))
        }
        None => return Err(Error::invalid(format!("{place}.content is missing"))),
    };
    Ok(Message {
        role,
        content,
        name: optional(place, &raw, "name")?,
        reasoning_content: optional(place, &raw, "reasoning_content")?,
        tool_call_id: optional(place, &raw, "tool_call_id")?,
        tool_calls,
        raw,
    })
}

fn parse_parts(place: &str, parts: &[Value]) -> Result<String> {
    let mut text = String::new();
    for (index, part) in parts.iter().enumerate() {
        let place = format!("{place}.content[{index}]");
        if !part.is_object() {
            return Err(Error::invalid(format!(
                "{place} must be an object, not {}",
                a_kind(part)
            )));
        }
        match part.get("type") {
            Some(Value::String(kind)) if kind == "text" => {}
            Some(Value::String(kind)) => {
                let kind: String = kind.chars().take(40).collect();
                return Err(Error::unsupported(format!(
                    "{place}.type {kind:?} is not supported, only \"text\" is"
                )));
            }
            Some(other) => return Err(wanted(&place, "type", "a string", other)),
            None => return Err(Error::invalid(format!("{place}.type is missing"))),
        }
        match part.get("text") {
            Some(Value::String(part)) => text.push_str(part),
            Some(other) => return Err(wanted(&place, "text", "a string", other)),
            None => return Err(Error::invalid(format!("{place}.text is missing"))),
        }
    }
    Ok(text)
}

/// Both forms: `{"id", "type": "function", "function": {"name", "arguments"}}` and `{"name", "arguments"}`.
fn parse_call(place: &str, value: &Value) -> Result<ToolCall> {
    let Value::Object(call) = value else {
        return Err(Error::invalid(format!(
            "{place} must be an object, not {}",
            a_kind(value)
        )));
    };
    let id = optional(place, call, "id")?;
    let (place, function) = match call.get("function") {
        Some(Value::Object(function)) => (format!("{place}.function"), function),
        Some(other) => return Err(wanted(place, "function", "an object", other)),
        None => (place.to_string(), call),
    };
    let name = optional(&place, function, "name")?
        .ok_or_else(|| Error::invalid(format!("{place}.name is missing")))?;
    let arguments = match function.get("arguments") {
        None | Some(Value::Null) => Value::Object(Map::new()),
        Some(arguments @ (Value::Object(_) | Value::String(_))) => arguments.clone(),
        Some(other) => return Err(wanted(&place, "arguments", "an object or a string", other)),
    };
    Ok(ToolCall {
        id,
        name,
        arguments,
    })
}

fn optional(place: &str, map: &Map<String, Value>, key: &str) -> Result<Option<String>> {
    match map.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(other) => Err(wanted(place, key, "a string", other)),
    }
}

fn wanted(place: &str, key: &str, what: &str, got: &Value) -> Error {
    Error::invalid(format!("{place}.{key} must be {what}, not {}", a_kind(got)))
}

fn a_kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
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
              {"id":"1","type":"function","function":{"name":"f","arguments":{"k":[1]}}},{"name":"g","arguments":"{}"}]},
            {"role":"tool","name":"f","tool_call_id":"1","content":"{}"}]"#
                .as_bytes(),
        )
        .unwrap();
        assert_eq!(
            (list[0].content.as_str(), &list[0].raw["x"]),
            ("ab", &Value::from(1))
        );
        assert_eq!(list[1].content, "");
        assert_eq!(list[1].reasoning_content.as_deref(), Some("r"));
        assert_eq!(list[1].tool_calls[0].arguments["k"][0], 1);
        assert_eq!(list[1].tool_calls[0].id.as_deref(), Some("1"));
        assert_eq!(
            (
                list[1].tool_calls[1].name.as_str(),
                &list[1].tool_calls[1].arguments
            ),
            ("g", &Value::from("{}"))
        );
        assert_eq!(
            (list[2].name.as_deref(), list[2].tool_call_id.as_deref()),
            (Some("f"), Some("1"))
        );
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
                r#"[{"role":"user","content":null}]"#,
                I,
                "messages[0].content must be a string or a list of text parts, not null",
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
                r#"[{"role":"user","content":"","name":[]}]"#,
                I,
                "messages[0].name must be a string, not a list",
            ),
            (
                r#"[{"role":"assistant","tool_calls":[{"function":{}}]}]"#,
                I,
                "messages[0].tool_calls[0].function.name is missing",
            ),
            (
                r#"[{"role":"assistant","tool_calls":[{"name":"f","arguments":3}]}]"#,
                I,
                "messages[0].tool_calls[0].arguments must be",
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
