//! The text of a grammar, in Lark's form: one rule a tool, out of the family's shape of a call.

use std::collections::HashMap;

use serde_json::{json, Map, Value};

use super::tool::Tool;
use super::Bound;
use crate::error::{Error, Result};
use crate::grammar::keywords::{keyword, Keyword};
use crate::grammar::schema;
use crate::text::shape::{Arguments, Part, Written};
use crate::text::Channels;

/// How most templates write JSON, and so how a model has learnt to.
fn as_learnt() -> Value {
    json!({ "whitespace_flexible": false, "item_separator": ", ", "key_separator": ": " })
}

pub(super) struct Writer<'a> {
    pub channels: &'a Channels,
    bound: Bound,
    /// Finished rules, a line each.
    rules: String,
    count: usize,
    /// The rules for parts of the tool's schema that are there already, by their place.
    pub known: HashMap<String, String>,
}

/// The sources of an answer's grammars.
pub(super) struct Sources {
    pub behind: Option<String>,
    pub start: Option<String>,
    pub end_answer: bool,
}

impl<'a> Writer<'a> {
    pub fn new(channels: &'a Channels, bound: Bound) -> Self {
        Writer {
            channels,
            bound,
            rules: "SPACE: /[ \\n]{1,2}/\nTEXT: /(?s:.*)/\n".to_owned(),
            count: 0,
            known: HashMap::new(),
        }
    }

    /// Calls between markers, or as the whole answer.
    pub fn answer(mut self, tools: &[&Tool], required: bool) -> Result<Sources> {
        let written = self
            .channels
            .written()
            .ok_or_else(|| unknown(self.channels))?;
        let calls = self.calls(&written, tools)?;
        let inside = match written.close {
            Some(close) => format!("{calls} {}", self.literal(close)),
            None => calls,
        };
        let inside = self.rule(&inside);
        let start = match (written.open, required) {
            (Some(open), true) => {
                let think = self.channels.think_token();
                let think = think.map_or(String::new(), |id| format!("<[{id}]>? "));
                let section = self.literal(written.section.unwrap_or(""));
                let open = self.literal(open);
                // A second blank is the one in front of the thinking's end and behind it.
                Some(format!("{think}SPACE? SPACE? {section} {open} {inside}"))
            }
            (None, true) => Some(inside.clone()),
            // Anything that does not look like a call, or one.
            (None, false) => {
                let free = self.terminal("/[ \\n]{0,4}[^ \\n{](?s:.*)/");
                Some(format!("{inside} | {free}"))
            }
            (Some(_), false) => None,
        };
        Ok(Sources {
            behind: Some(self.source(&inside)),
            start: start.map(|start| self.source(&start)),
            end_answer: written.close.is_none(),
        })
    }

    /// gpt-oss: the arguments of one call, behind its header.
    pub fn message(mut self, tool: &Tool) -> Result<String> {
        let arguments = self.arguments(tool, Arguments::Json)?;
        Ok(self.source(&arguments))
    }

    /// gpt-oss: perhaps a message of thinking, and a call.
    pub fn messages(mut self, tools: &[&Tool]) -> Result<Sources> {
        let mut each = Vec::new();
        for tool in tools {
            let arguments = self.arguments(tool, Arguments::Json)?;
            let name = &tool.name;
            let header = self.literal(&format!(
                "<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>"
            ));
            each.push(self.rule(&format!("{header} {arguments}")));
        }
        let before = self.literal("<|channel|>analysis<|message|>");
        let behind = self.literal("<|end|><|start|>assistant");
        let calls = self.rule(&each.join(" | "));
        let start = format!("({before} TEXT {behind})? {calls}");
        Ok(Sources {
            behind: None,
            start: Some(self.source(&start)),
            end_answer: true,
        })
    }

    /// All that stands between two markers.
    fn calls(&mut self, written: &Written, tools: &[&Tool]) -> Result<String> {
        let mut each = Vec::new();
        for tool in tools {
            self.check_name(written, tool)?;
            let call = self.call(written.shape.call, tool)?;
            each.push(self.rule(&call));
        }
        let call = self.rule(&each.join(" | "));
        Ok(match &written.shape.list {
            None => call,
            Some(list) => {
                let [before, between, behind] =
                    [list.before, list.between, list.behind].map(|text| self.literal(text));
                self.rule(&format!("{before} {call} ({between} {call})* {behind}"))
            }
        })
    }

    /// A name must be one that the family's calls can have: it is looked for in a call without arguments.
    fn check_name(&self, written: &Written, tool: &Tool) -> Result<()> {
        let mut call = String::new();
        for part in written.shape.call {
            call.push_str(match part {
                Part::Text(text) => text,
                Part::Name => &tool.name,
                Part::Index => "0",
                Part::Space | Part::Arguments(Arguments::Tagged { .. } | Arguments::Python) => "",
                Part::Arguments(Arguments::Json | Arguments::Gemma { .. }) => "{}",
            });
        }
        if let Some(list) = written.shape.list {
            call = [list.before, &call, list.behind].concat();
        }
        match self.channels.called_by(&call) {
            Some(name) if name == tool.name => Ok(()),
            _ => Err(tool.unwritable()),
        }
    }

    fn call(&mut self, parts: &[Part], tool: &Tool) -> Result<String> {
        self.known.clear();
        let mut out = Vec::new();
        // What is known beforehand is one literal, so that its tokens are those of a whole text.
        let mut text = String::new();
        for part in parts {
            match part {
                Part::Text(part) => text.push_str(part),
                Part::Name => text.push_str(&tool.name),
                _ => {
                    out.push(self.literal(&std::mem::take(&mut text)));
                    out.push(match part {
                        Part::Index => "/[0-9]{1,4}/".to_owned(),
                        Part::Arguments(arguments) => self.arguments(tool, *arguments)?,
                        _ => "SPACE?".to_owned(),
                    });
                }
            }
        }
        out.push(self.literal(&text));
        Ok(out.join(" "))
    }

    fn arguments(&mut self, tool: &Tool, arguments: Arguments) -> Result<String> {
        let schema = match (self.bound, arguments) {
            (Bound::Strictly, _) => tool.schema.clone(),
            (Bound::Loosely, Arguments::Json) => json!({}),
            (Bound::Loosely, _) => loose(&tool.schema),
        };
        let written = match arguments {
            Arguments::Json => object(&schema).and_then(|schema| self.json(&schema)),
            Arguments::Tagged {
                before,
                between,
                behind,
                values,
            } => self.tagged(&schema, [before, between.0, between.1, behind], values),
            Arguments::Python => self.python(&schema),
            Arguments::Gemma { nested } => self.gemma(&schema, nested),
        };
        written.map_err(|error| tool.at(error))
    }

    /// A value of JSON.
    pub fn json(&mut self, schema: &Value) -> Result<String> {
        let mut schema = schema.clone();
        if let Value::Object(map) = &mut schema {
            map.entry("x-guidance").or_insert_with(as_learnt);
        }
        let prepared = schema::prepare(&schema)?;
        for warning in &prepared.warnings {
            crate::log::warn!("a tool's schema: {warning}");
        }
        let whole = prepared.whole(&prepared.root);
        Ok(self.rule(&format!("%json {whole}")))
    }

    /// A text as it stands, its markers as their tokens.
    pub fn literal(&self, text: &str) -> String {
        let mut out = Vec::new();
        let mut rest = text;
        loop {
            let found = self.channels.token_in(rest);
            let (before, token) = match found {
                Some((at, length, id)) => {
                    let (before, behind) = rest.split_at_checked(at).unwrap_or((rest, ""));
                    rest = behind.get(length..).unwrap_or("");
                    (before, Some(id))
                }
                None => (std::mem::take(&mut rest), None),
            };
            if !before.is_empty() {
                out.push(Value::from(before).to_string());
            }
            match token {
                Some(id) => out.push(format!("<[{id}]>")),
                None => return out.join(" "),
            }
        }
    }

    /// The name of a new rule.
    pub fn rule(&mut self, body: &str) -> String {
        let name = self.name("r");
        self.define(&name, body);
        name
    }

    /// The name of a new terminal.
    pub fn terminal(&mut self, body: &str) -> String {
        let name = self.name("T");
        self.define(&name, body);
        name
    }

    pub fn name(&mut self, kind: &str) -> String {
        self.count = self.count.saturating_add(1);
        format!("{kind}{}", self.count)
    }

    pub fn define(&mut self, name: &str, body: &str) {
        let body = match body.trim() {
            "" => "\"\"",
            body => body,
        };
        self.rules.push_str(&format!("{name}: {body}\n"));
    }

    fn source(&self, start: &str) -> String {
        format!("start: {start}\n{}", self.rules)
    }
}

fn unknown(channels: &Channels) -> Error {
    Error::unsupported(match channels.calls() {
        Some(name) => format!("no grammar is known for calls as this model writes them ({name})"),
        None => {
            "the model's chat template shows no calls of tools, so none can be bound by a grammar"
                .to_owned()
        }
    })
}

/// Arguments are an object, whatever the schema leaves open.
fn object(schema: &Value) -> Result<Value> {
    let mut map = match schema {
        Value::Object(map) => map.clone(),
        Value::Bool(true) => Map::new(),
        _ => return schema::bad("#", "a tool's parameters must be an object's schema"),
    };
    match map.get("type") {
        None => {
            map.insert("type".into(), "object".into());
        }
        Some(kind) if kind == "object" => {}
        Some(_) => return schema::bad("#/type", "a tool's parameters must be of the type object"),
    }
    let mut closed = Value::Object(map);
    close(&mut closed);
    Ok(closed)
}

/// Where a schema says nothing of other properties than its own, nobody wants a model to invent some: it may, and does not.
fn close(schema: &mut Value) {
    let Value::Object(map) = schema else {
        return;
    };
    let own = map.get("properties").and_then(Value::as_object);
    let known = |name: &Value| {
        own.is_some_and(|own| name.as_str().is_some_and(|name| own.contains_key(name)))
    };
    let required = map.get("required").and_then(Value::as_array);
    // What other parts of it say of the same object might need them.
    let says = |name: &String| {
        let plain = matches!(name.as_str(), "type" | "properties" | "required");
        !plain && keyword(name) != Keyword::Silent
    };
    let complete = required.into_iter().flatten().all(known);
    if own.is_some() && complete && !map.keys().any(says) {
        map.insert("additionalProperties".into(), Value::Bool(false));
    }
    if let Some(Value::Object(own)) = map.get_mut("properties") {
        own.values_mut().for_each(close);
    }
    if let Some(items) = map.get_mut("items") {
        close(items);
    }
}

/// The names of the arguments are all that is left of a schema.
fn loose(schema: &Value) -> Value {
    let names = schema.get("properties").and_then(Value::as_object);
    let names = names.into_iter().flat_map(Map::keys);
    let properties: Map<String, Value> = names.map(|name| (name.clone(), json!({}))).collect();
    json!({ "properties": properties })
}
