//! Training data: one JSON object on each line, as mlx-lm takes them. The bytes are untrusted.
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// Bytes of one data set.
pub const MOST_BYTES: usize = 1 << 30;

/// What is on one line.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// From 1.
    pub number: usize,
    pub text: Text,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Text {
    /// JSON: a list of messages, the messages before the last one (none: there are none), and a list of tools.
    Chat {
        messages: String,
        before_last: Option<String>,
        last_is_answer: bool,
        tools: Option<String>,
    },
    Plain(String),
}

/// `what` names the data set in errors, which also name the line. Lines of white space are left out.
pub fn parse(what: &str, jsonl: &[u8]) -> Result<Vec<Line>> {
    if jsonl.len() > MOST_BYTES {
        return Err(Error::invalid(format!(
            "{what} has {} bytes, at most {MOST_BYTES} are allowed",
            jsonl.len()
        )));
    }
    let jsonl = jsonl.strip_prefix(b"\xef\xbb\xbf").unwrap_or(jsonl);
    let mut lines = Vec::new();
    for (number, line) in (1..).zip(jsonl.split(|&byte| byte == b'\n')) {
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let text = parse_line(line).map_err(|error| error.within(&place(what, number)))?;
        lines.push(Line { number, text });
    }
    if lines.is_empty() {
        return Err(Error::invalid(format!("{what} has no samples")));
    }
    Ok(lines)
}

/// How errors name a line.
pub fn place(what: &str, line: usize) -> String {
    format!("{what}, line {line}")
}

fn parse_line(line: &[u8]) -> Result<Text> {
    let value: Value = serde_json::from_slice(line).map_err(|error| {
        // Each line is parsed alone, so serde_json's own line number says nothing.
        let shown = error.to_string();
        let shown = shown.split(" at line ").next().unwrap_or_default();
        Error::invalid(format!(
            "not valid JSON: {shown} at column {}",
            error.column()
        ))
    })?;
    let Value::Object(mut object) = value else {
        return Err(Error::invalid("a JSON object is expected"));
    };
    let tools = match object.remove("tools") {
        None | Some(Value::Null) => None,
        Some(tools @ Value::Array(_)) => Some(tools.to_string()),
        Some(_) => return Err(Error::invalid("\"tools\" must be a list")),
    };
    if object.contains_key("prompt") && object.contains_key("completion") {
        let prompt = string(&object, "prompt")?;
        let completion = string(&object, "completion")?;
        let user = serde_json::json!({"role": "user", "content": prompt});
        let answer = serde_json::json!({"role": "assistant", "content": completion});
        return Ok(chat(vec![user, answer], tools));
    }
    match object.remove("messages") {
        Some(Value::Array(messages)) if !messages.is_empty() => return Ok(chat(messages, tools)),
        Some(_) => {
            return Err(Error::invalid(
                "\"messages\" must be a list with a message or more",
            ))
        }
        None => {}
    }
    if object.contains_key("text") {
        let text = string(&object, "text")?;
        if text.is_empty() {
            return Err(Error::invalid("\"text\" is empty"));
        }
        return Ok(Text::Plain(text.to_owned()));
    }
    Err(Error::invalid(
        "\"messages\", \"prompt\" and \"completion\", or \"text\" is expected",
    ))
}

fn string<'a>(object: &'a Map<String, Value>, key: &str) -> Result<&'a str> {
    match object.get(key) {
        Some(Value::String(text)) => Ok(text),
        _ => Err(Error::invalid(format!("\"{key}\" must be a string"))),
    }
}

fn chat(mut messages: Vec<Value>, tools: Option<String>) -> Text {
    let all = Value::Array(messages.clone()).to_string();
    let last = messages.pop();
    let role = last.as_ref().and_then(|last| last.get("role"));
    Text::Chat {
        messages: all,
        last_is_answer: role.and_then(Value::as_str) == Some("assistant"),
        before_last: match messages.is_empty() {
            true => None,
            false => Some(Value::Array(messages).to_string()),
        },
        tools,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    fn error(jsonl: &str) -> String {
        parse("train", jsonl.as_bytes()).unwrap_err().message
    }

    #[test]
    fn the_three_kinds_of_lines() {
        let jsonl = concat!(
            "\u{feff}{\"text\": \"plain\"}\r\n\n  \n",
            r#"{"prompt": "p", "completion": "c", "tools": null, "messages": 1}"#,
            "\n",
            r#"{"messages": [{"role": "user", "content": "u"}], "tools": [{"type": "function"}]}"#,
        );
        let lines = parse("train", jsonl.as_bytes()).unwrap();
        assert_eq!(
            lines.iter().map(|l| l.number).collect::<Vec<_>>(),
            [1, 4, 5]
        );
        assert_eq!(lines[0].text, Text::Plain("plain".into()));
        let user = r#"[{"role":"user","content":"p"}]"#;
        assert_eq!(
            lines[1].text,
            Text::Chat {
                messages: r#"[{"role":"user","content":"p"},{"role":"assistant","content":"c"}]"#
                    .into(),
                before_last: Some(user.into()),
                last_is_answer: true,
                tools: None,
            }
        );
        assert_eq!(
            lines[2].text,
            Text::Chat {
                messages: r#"[{"role":"user","content":"u"}]"#.into(),
                before_last: None,
                last_is_answer: false,
                tools: Some(r#"[{"type":"function"}]"#.into()),
            }
        );
    }

    #[test]
    fn errors_name_the_line() {
        assert_eq!(error(""), "train has no samples");
        assert_eq!(error(" \n\n"), "train has no samples");
        let bad = error("{\"text\": \"a\"}\n\n{\"text\": \"b\"");
        assert!(
            bad.starts_with("train, line 3: not valid JSON: EOF"),
            "{bad}"
        );
        for (line, says) in [
            ("[1]", "a JSON object is expected"),
            (
                "{}",
                "\"messages\", \"prompt\" and \"completion\", or \"text\"",
            ),
            ("{\"text\": 1}", "\"text\" must be a string"),
            ("{\"text\": \"\"}", "\"text\" is empty"),
            ("{\"prompt\": \"p\"}", "or \"text\" is expected"),
            (
                "{\"prompt\": \"p\", \"completion\": [1]}",
                "\"completion\" must be",
            ),
            ("{\"messages\": []}", "\"messages\" must be a list with"),
            ("{\"messages\": {}}", "\"messages\" must be a list with"),
            (
                "{\"text\": \"a\", \"tools\": {}}",
                "\"tools\" must be a list",
            ),
            ("{\"text\": \"\\ud800\"}", "not valid JSON"),
        ] {
            let bad = error(&format!("{{\"text\": \"a\"}}\n{line}\n"));
            assert!(bad.starts_with("train, line 2: "), "{bad}");
            assert!(bad.contains(says), "{bad}");
        }
        let deep = "[".repeat(100_000);
        assert!(error(&deep).contains("recursion limit"));
        assert!(parse("train", b"{\"text\": \"\xff\"}").is_err());
    }
}
