//! One request, and its answer on standard output: as text, or as events in JSON.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::{json, Map, Value};

use crate::failure::{Failure, Outcome};
use crate::ffi::*;
use crate::handles::{Event, Generate, Input, Model, Session};
use crate::interrupt::{self, Work};
use crate::ui::{Style, Ui};

/// How a request ended when it did not fail.
pub struct Answer {
    pub result: mlxrt_result,
    /// The signal that cancelled it.
    pub signal: Option<i32>,
}

impl Answer {
    /// The failure that a command ends with, if the answer is not what was asked for.
    pub fn failure(&self) -> Option<Failure> {
        if let Some(signal) = self.signal {
            return Some(Failure::signal(signal));
        }
        (self.result.stop == MLXRT_STOPPED_TIMEOUT)
            .then(|| Failure::timeout("--timeout passed before the answer was complete"))
    }
}

/// Runs one request and writes what it produces.
pub fn run(
    model: &Model,
    session: &Session,
    input: &Input,
    options: &Generate,
    ui: &Ui,
) -> Outcome<Answer> {
    let asked_for_progress = options.raw.progress_tokens > 0;
    let mut writer = Writer {
        ui,
        texts: Texts {
            model,
            known: HashMap::new(),
        },
        kind: 0,
        at_line_start: true,
        failed: None,
    };
    // With an event of progress now and then, a long prompt shows a sign of life.
    let mut options = options.clone();
    if !asked_for_progress {
        options.raw.progress_tokens = 32;
    }
    let bar = ui.bar(0, "Reading the prompt{msg}");
    bar.enable_steady_tick(Duration::from_millis(300));
    let (result, done, signal) = {
        let _work = Work::on_session(session.id());
        let (result, done) = session.generate(input, &options, &mut |event| {
            if event.kind == MLXRT_EVENT_PROGRESS {
                bar.set_message(format!(": {} of {} tokens", event.done, event.total));
                if !asked_for_progress {
                    return interrupt::signal().is_none();
                }
            } else {
                bar.finish_and_clear();
            }
            writer.event(event) && interrupt::signal().is_none()
        });
        (result, done, interrupt::signal())
    };
    bar.finish_and_clear();
    if let Some(failure) = writer.failed {
        return Err(failure);
    }
    writer.end_line()?;
    done?;
    if ui.json {
        ui.json_line(&end_event(&result))?;
    }
    Ok(Answer { result, signal })
}

/// Writes events; after a failed write it asks for the end.
struct Writer<'a> {
    ui: &'a Ui,
    texts: Texts<'a>,
    /// Of the event before.
    kind: i32,
    at_line_start: bool,
    failed: Option<Failure>,
}

impl Writer<'_> {
    fn event(&mut self, event: &Event) -> bool {
        let written = if self.ui.json {
            event_json(event, &mut self.texts).and_then(|json| self.ui.json_line(&json))
        } else {
            self.text(event)
        };
        self.failed = written.err();
        self.failed.is_none()
    }

    fn text(&mut self, event: &Event) -> Outcome<()> {
        // Thinking is for people who watch; a pipe gets the answer.
        let style = match event.kind {
            MLXRT_EVENT_TEXT => None,
            MLXRT_EVENT_THINKING if self.ui.out_terminal() => Some(Style::Dim),
            MLXRT_EVENT_TOOL_CALL => Some(Style::Cyan),
            _ => return Ok(()),
        };
        if self.kind != event.kind && self.kind != 0 || event.kind == MLXRT_EVENT_TOOL_CALL {
            self.end_line()?;
        }
        self.kind = event.kind;
        if !event.text.is_empty() {
            self.at_line_start = event.text.ends_with('\n');
        }
        match style {
            None => self.ui.text(&event.text),
            Some(style) => self.ui.styled(style, &event.text),
        }
    }

    fn end_line(&mut self) -> Outcome<()> {
        if self.at_line_start || self.ui.json {
            return Ok(());
        }
        self.at_line_start = true;
        self.ui.text("\n")
    }
}

/// The text of single tokens.
struct Texts<'a> {
    model: &'a Model,
    known: HashMap<i32, String>,
}

impl Texts<'_> {
    /// As the token continues a text: some tokenizers drop a space at the beginning of one, so that the token is looked at
    /// behind itself.
    fn of(&mut self, token: i32) -> Outcome<String> {
        if let Some(text) = self.known.get(&token) {
            return Ok(text.clone());
        }
        let once = self.model.detokenize(&[token])?;
        let twice = self.model.detokenize(&[token, token])?;
        let text = twice.strip_prefix(&once).unwrap_or(&once).to_owned();
        self.known.insert(token, text.clone());
        Ok(text)
    }

    fn of_all(&mut self, tokens: &[i32]) -> Outcome<Vec<String>> {
        tokens.iter().map(|token| self.of(*token)).collect()
    }
}

fn event_json(event: &Event, texts: &mut Texts) -> Outcome<Value> {
    let kind = match event.kind {
        MLXRT_EVENT_PROGRESS => {
            return Ok(json!({"event": "progress", "done": event.done, "total": event.total}))
        }
        MLXRT_EVENT_TEXT => "text",
        MLXRT_EVENT_THINKING => "thinking",
        MLXRT_EVENT_TOOL_CALL => "tool_call",
        MLXRT_EVENT_TOOL_DELTA => return Ok(json!({"event": "tool_delta", "text": event.text})),
        other => return Ok(json!({"event": other.to_string(), "text": event.text})),
    };
    let mut json = json!({
        "event": kind, "text": event.text, "tokens": event.tokens, "token_texts": texts.of_all(event.tokens)?,
    });
    if !event.logprobs.is_empty() {
        json["logprobs"] = json!(event.logprobs);
    }
    if event.top_count > 0 && !event.top_tokens.is_empty() {
        let tokens = event.top_tokens.chunks(event.top_count);
        let logprobs = event.top_logprobs.chunks(event.top_count);
        let mut places = Vec::new();
        for (tokens, logprobs) in tokens.zip(logprobs) {
            let texts = texts.of_all(tokens)?;
            let of_token = |((token, text), logprob): ((&i32, String), &f32)| json!({"token": token, "text": text, "logprob": logprob});
            places.push(
                tokens
                    .iter()
                    .zip(texts)
                    .zip(logprobs)
                    .map(of_token)
                    .collect::<Value>(),
            );
        }
        json["top_logprobs"] = Value::Array(places);
    }
    Ok(json)
}

/// The result, with the names that mlxrt_result has.
fn end_event(result: &mlxrt_result) -> Value {
    let mut end = Map::new();
    end.insert("event".to_owned(), "end".into());
    end.extend(result_json(result));
    Value::Object(end)
}

pub fn result_json(result: &mlxrt_result) -> Map<String, Value> {
    let mut json = Map::new();
    json.insert("stop".to_owned(), stop_name(result.stop).into());
    if matches!(result.stop, MLXRT_STOPPED_STRING | MLXRT_STOPPED_TOKEN) {
        json.insert("stop_index".to_owned(), result.stop_index.into());
    }
    for (name, value) in [
        ("seed", result.seed),
        ("prompt_tokens", result.prompt_tokens),
        ("cached_tokens", result.cached_tokens),
        ("generated_tokens", result.generated_tokens),
        ("thinking_tokens", result.thinking_tokens),
        ("drafted", result.drafted),
        ("accepted", result.accepted),
        ("queue_ns", result.queue_ns),
        ("prefill_ns", result.prefill_ns),
        ("first_token_ns", result.first_token_ns),
        ("decode_ns", result.decode_ns),
        ("total_ns", result.total_ns),
        ("peak_bytes", result.peak_bytes),
        ("active_bytes", result.active_bytes),
        ("kv_bytes", result.kv_bytes),
    ] {
        json.insert(name.to_owned(), value.into());
    }
    json
}

pub fn stop_name(stop: i32) -> &'static str {
    match stop {
        MLXRT_STOPPED_EOS => "eos",
        MLXRT_STOPPED_STRING => "string",
        MLXRT_STOPPED_TOKEN => "token",
        MLXRT_STOPPED_LENGTH => "length",
        MLXRT_STOPPED_CONTEXT => "context",
        MLXRT_STOPPED_CALLBACK | MLXRT_STOPPED_CANCELLED => "cancelled",
        MLXRT_STOPPED_TIMEOUT => "timeout",
        MLXRT_STOPPED_TOOL_CALL => "tool_call",
        MLXRT_STOPPED_GRAMMAR => "grammar",
        MLXRT_STOPPED_ERROR => "error",
        _ => "unknown",
    }
}

/// Why an answer ended, where that is worth a word to people.
pub fn stop_words(result: &mlxrt_result) -> Option<&'static str> {
    Some(match result.stop {
        MLXRT_STOPPED_LENGTH => "cut at --max-tokens",
        MLXRT_STOPPED_CONTEXT => "cut: the context is full",
        MLXRT_STOPPED_CALLBACK | MLXRT_STOPPED_CANCELLED => "stopped",
        MLXRT_STOPPED_TIMEOUT => "cut at --timeout",
        MLXRT_STOPPED_TOOL_CALL => "waits for the answer of a tool",
        _ => return None,
    })
}
