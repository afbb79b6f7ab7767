//! The tools that an answer may call, and which of them it has to.

use serde_json::{json, Value};

use crate::error::{Code, Error, Result};
use crate::load;
use crate::words::quoted;

/// Tools of one conversation that are bound.
const MOST_TOOLS: usize = 1024;
/// Bytes of their JSON.
const MOST_BYTES: usize = crate::grammar::LONGEST_SOURCE;
/// Bytes of a name.
const LONGEST_NAME: usize = 256;

/// What an answer may call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// What the model likes.
    #[default]
    Auto,
    Nothing,
    /// It begins with a call.
    Required,
    /// It begins with a call of this tool.
    Named(String),
}

impl Choice {
    /// `"auto"`, `"none"`, `"required"`, `{"name": …}`, or as OpenAI has it `{"type": "function", "function": {"name": …}}`.
    ///
    /// Errors: `InvalidArgument`.
    pub fn read(json: &str) -> Result<Choice> {
        const WANTED: &str =
            "input.tool_choice must be \"auto\", \"none\", \"required\" or {\"name\": …}";
        let wrong = |said: String| Error::invalid(format!("{WANTED}, {said}"));
        let value = match load::parse_json("input.tool_choice", json.as_bytes()) {
            Err(error) if error.code == Code::BadModel => {
                let said = quoted(json, 80);
                return Err(wrong(format!("and as JSON, in quotes; it is {said}")));
            }
            value => value?,
        };
        match &value {
            Value::Null => Ok(Choice::Auto),
            Value::String(word) => match word.as_str() {
                "auto" => Ok(Choice::Auto),
                "none" => Ok(Choice::Nothing),
                "required" => Ok(Choice::Required),
                word => Err(wrong(format!("not {}", quoted(word, 80)))),
            },
            Value::Object(map) => {
                let named = map.get("function").unwrap_or(&value);
                match named.get("name") {
                    Some(Value::String(name)) => Ok(Choice::Named(name.clone())),
                    _ => Err(wrong("and this object has no name".to_owned())),
                }
            }
            _ => Err(wrong("not a number, a list or a truth value".to_owned())),
        }
    }

    pub fn is_required(&self) -> bool {
        matches!(self, Choice::Required | Choice::Named(_))
    }
}

/// A tool that may be called.
#[derive(Clone, Debug)]
pub struct Tool {
    pub name: String,
    /// Of its arguments.
    pub schema: Value,
    /// Of its JSON.
    pub bytes: usize,
    place: String,
}

impl Tool {
    /// Of a list as OpenAI has it.
    ///
    /// Errors: `InvalidArgument` names what is no tool; `BadGrammar` a name that cannot be written.
    pub fn list(json: &str) -> Result<Vec<Tool>> {
        if json.len() > MOST_BYTES {
            return Err(Error::invalid(format!(
                "input.tools has {} bytes, and at most {MOST_BYTES} can be bound by a grammar",
                json.len()
            )));
        }
        let parsed = load::parse_json("input.tools", json.as_bytes());
        let parsed = parsed.map_err(|mut error| {
            if error.code == Code::BadModel {
                error.code = Code::InvalidArgument;
            }
            error
        })?;
        let Value::Array(list) = parsed else {
            return Err(Error::invalid("input.tools must be a list"));
        };
        if list.len() > MOST_TOOLS {
            return Err(Error::invalid(format!(
                "input.tools has {} tools, and at most {MOST_TOOLS} can be bound by a grammar",
                list.len()
            )));
        }
        let bytes = json.len().checked_div(list.len()).unwrap_or(0);
        let each = list.iter().enumerate();
        each.map(|(index, tool)| Tool::new(index, tool, bytes))
            .collect()
    }

    fn new(index: usize, tool: &Value, bytes: usize) -> Result<Tool> {
        let (function, at) = match tool.get("function") {
            Some(function @ Value::Object(_)) => (function, "/function"),
            _ => (tool, ""),
        };
        let place = format!("input.tools/{index}{at}");
        let Some(Value::String(name)) = function.get("name") else {
            return Err(Error::invalid(format!("{place} has no name")));
        };
        let tool = |schema| Tool {
            name: name.clone(),
            schema,
            bytes,
            place: place.clone(),
        };
        let is = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | ':' | '/');
        if name.is_empty() || name.len() > LONGEST_NAME || !name.chars().all(is) {
            return Err(tool(Value::Null).unwritable());
        }
        let schema = match function.get("parameters") {
            // A function without parameters.
            None | Some(Value::Null) => json!({ "type": "object", "properties": {} }),
            Some(schema) => schema.clone(),
        };
        Ok(tool(schema))
    }

    pub fn unwritable(&self) -> Error {
        let (place, name) = (&self.place, quoted(&self.name, 80));
        Error::bad_grammar(format!(
            "{place}/name: {name} is no name that this model's calls can have"
        ))
    }

    /// Names the tool in an error about its schema.
    pub fn at(&self, error: Error) -> Error {
        match error.code {
            Code::BadGrammar => {
                let place = format!("{}/parameters", self.place);
                Error::bad_grammar(format!("{place}: {}", error.message))
            }
            _ => error,
        }
    }
}
