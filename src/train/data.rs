//! Training data: one JSON object on each line, as mlx-lm takes them. The bytes are untrusted.
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use crate::error::{Error, Result};
use crate::template::{Json, Object};

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

/// For each byte of a data set: its text, written again, and its tokens.
const BYTE_COST: usize = 10;
/// For each escape in it, which may be written longer.
const ESCAPE_COST: usize = 16;
/// For each line: its text's and sample's own sizes, and its places in the lists of them.
const LINE_COST: usize = 800;

/// Bytes that a data set comes to at most, until it is samples; what a line takes while it is parsed is asked for there.
pub fn cost(jsonl: &[u8]) -> usize {
    let count = |wanted: u8| jsonl.iter().filter(|&&byte| byte == wanted).count();
    let text = jsonl.len().saturating_mul(BYTE_COST);
    let escapes = count(b'\\').saturating_mul(ESCAPE_COST);
    let lines = count(b'\n').saturating_add(1).saturating_mul(LINE_COST);
    text.saturating_add(escapes).saturating_add(lines)
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
    let _room = crate::room::hold_for(Json::cost(line), "a line")?;
    let value = Json::parse(line).map_err(|error| {
        // Each line is parsed alone, so the line that the parser counts says nothing.
        let shown = error.replacen(" at line 1 column ", " at column ", 1);
        Error::invalid(format!("not valid JSON: {shown}"))
    })?;
    let Json::Object(mut object) = value else {
        return Err(Error::invalid("a JSON object is expected"));
    };
    let tools = match object.take("tools") {
        None | Some(Json::Null) => None,
        Some(tools @ Json::List(_)) => Some(tools.write()),
        Some(_) => return Err(Error::invalid("\"tools\" must be a list")),
    };
    if object.get("prompt").is_some() && object.get("completion").is_some() {
        let prompt = string(&object, "prompt")?;
        let completion = string(&object, "completion")?;
        let messages = vec![message("user", prompt), message("assistant", completion)];
        return Ok(chat(messages, tools));
    }
    match object.take("messages") {
        Some(Json::List(messages)) if !messages.is_empty() => return Ok(chat(messages, tools)),
        Some(_) => {
            return Err(Error::invalid(
                "\"messages\" must be a list with a message or more",
            ))
        }
        None => {}
    }
    if object.get("text").is_some() {
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

fn string<'a>(object: &'a Object, key: &str) -> Result<&'a str> {
    match object.get(key) {
        Some(Json::Text(text)) => Ok(text),
        _ => Err(Error::invalid(format!("\"{key}\" must be a string"))),
    }
}

fn message(role: &str, content: &str) -> Json {
    let mut message = Object::default();
    message.set("role", Json::Text(role.to_owned()));
    message.set("content", Json::Text(content.to_owned()));
    Json::Object(message)
}

fn chat(messages: Vec<Json>, tools: Option<String>) -> Text {
    let mut all = Json::List(messages);
    let written = all.write();
    let (mut last, mut before_last) = (None, None);
    if let Json::List(messages) = &mut all {
        last = messages.pop();
        before_last = (!messages.is_empty()).then(|| all.write());
    }
    let role = match &last {
        Some(Json::Object(last)) => last.get("role").and_then(Json::as_text),
        _ => None,
    };
    Text::Chat {
        messages: written,
        last_is_answer: role == Some("assistant"),
        before_last,
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
    fn what_is_written_again_is_what_was_there() {
        let message = concat!(
            r#"{"role":"tool","content":[123456789012345678901234567890,-9223372036854775809,1.0,1e+22,-0.0,1e999,"#,
            r#""\"\\\u0001\n\u00e9😀",true,null,{"a":{}},[]]}"#
        );
        let line = format!(r#"{{"messages":[{message}],"tools":[18446744073709551616]}}"#);
        let text = parse("train", line.as_bytes()).unwrap().remove(0).text;
        let (messages, tools) = match text {
            Text::Chat {
                messages, tools, ..
            } => (messages, tools),
            _ => unreachable!("no chat"),
        };
        assert_eq!(tools.unwrap(), "[18446744073709551616]");
        let again = Json::parse(messages.as_bytes()).unwrap();
        let first = Json::parse(format!("[{message}]").as_bytes()).unwrap();
        assert_eq!(again, first);
        assert!(messages.contains("[123456789012345678901234567890,-9223372036854775809,1.0,1e22,"));
    }

    #[test]
    fn errors_name_the_line() {
        assert_eq!(error(""), "train has no samples");
        assert_eq!(error(" \n\n"), "train has no samples");
        let bad = error("{\"text\": \"a\"}\n\n{\"text\": \"b\"");
        assert!(
            bad.starts_with(r#"train, line 3: not valid JSON: expected "," or "}" at column 13"#),
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
