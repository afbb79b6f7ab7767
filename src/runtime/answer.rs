//! An answer: its text, what was thought, and the calls of tools.

use crate::load::SavedAnswer;
use crate::template::{Json, Object};
use crate::text::{Channel, Chunk};

#[derive(Clone, Debug, Default)]
pub struct Answer {
    pub text: String,
    pub thinking: String,
    /// Each as JSON: `{"id", "name", "arguments"}`.
    pub calls: Vec<String>,
}

impl From<SavedAnswer> for Answer {
    fn from(saved: SavedAnswer) -> Self {
        Answer {
            text: saved.text,
            thinking: saved.thinking,
            calls: saved.calls,
        }
    }
}

impl Answer {
    pub fn add(&mut self, chunk: &Chunk) {
        match chunk.channel {
            Channel::Text => self.text.push_str(&chunk.text),
            Channel::Thinking => self.thinking.push_str(&chunk.text),
            Channel::ToolCall => self.calls.push(chunk.text.clone()),
            Channel::ToolDelta => {}
        }
    }

    pub fn bytes(&self) -> usize {
        let calls = self.calls.iter().map(String::len).sum::<usize>();
        self.text.len() + self.thinking.len() + calls
    }

    /// As `messages` takes it, in OpenAI's form.
    pub fn to_message(&self) -> String {
        let mut message = Object::default();
        let text = |text: &str| Json::Text(text.to_owned());
        message.set("role", text("assistant"));
        message.set("content", text(&self.text));
        if !self.thinking.is_empty() {
            message.set("reasoning_content", text(&self.thinking));
        }
        if !self.calls.is_empty() {
            let calls = self.calls.iter().filter_map(|call| message_call(call));
            message.set("tool_calls", Json::List(calls.collect()));
        }
        Json::Object(message).write()
    }
}

/// `{"id", "type", "function": {"name", "arguments"}}`, the arguments as the text of their JSON.
fn message_call(call: &str) -> Option<Json> {
    let Ok(Json::Object(mut call)) = Json::parse(call.as_bytes()) else {
        return None;
    };
    let arguments = call.take("arguments")?.write();
    let mut function = Object::default();
    function.set("name", call.take("name")?);
    function.set("arguments", Json::Text(arguments));
    let mut message = Object::default();
    message.set("id", call.take("id")?);
    message.set("type", Json::Text("function".to_owned()));
    message.set("function", Json::Object(function));
    Some(Json::Object(message))
}

/// What was made, or handed out, so far.
#[derive(Clone, Copy, Default)]
pub struct Extent {
    pub text: usize,
    pub thinking: usize,
    pub calls: usize,
    pub tokens: usize,
    pub thinking_tokens: u64,
}

impl Extent {
    pub fn add(&mut self, chunk: &Chunk) {
        match chunk.channel {
            Channel::Text => self.text += chunk.text.len(),
            Channel::Thinking => self.thinking += chunk.text.len(),
            Channel::ToolCall => self.calls += 1,
            Channel::ToolDelta => {}
        }
        self.tokens += chunk.tokens.len();
        self.thinking_tokens += chunk.thinking;
    }
}

impl Answer {
    pub fn cut(&mut self, to: &Extent) {
        self.text.truncate(to.text);
        self.thinking.truncate(to.thinking);
        self.calls.truncate(to.calls);
    }
}
