//! Where a folder keeps its chat templates, in transformers' order: `chat_template.jinja` and
//! `additional_chat_templates/*.jinja`; where there are none of these, `chat_template` of `tokenizer_config.json`; and then
//! `chat_template.json`, where processors kept theirs.

use serde_json::{Map, Value};

use crate::error::{Error, Result};

const JINJA: &str = "chat_template.jinja";
const CONFIG: &str = "tokenizer_config.json";
const LEGACY: &str = "chat_template.json";

/// The files, as far as they are there; an error is of the one file.
#[derive(Debug, Default)]
pub struct TemplateFiles<'a> {
    /// `chat_template.jinja`
    pub jinja: Option<Result<Vec<u8>>>,
    /// Of `additional_chat_templates`: each name without `.jinja`, and what `default` and `tool_use` hold.
    pub additional: Vec<(String, Option<Result<Vec<u8>>>)>,
    /// `tokenizer_config.json`
    pub config: Option<&'a Map<String, Value>>,
    /// `chat_template.json`
    pub legacy: Option<&'a Map<String, Value>>,
}

/// A template's text, and the file that it stands in.
#[derive(Debug)]
pub(super) struct Source {
    pub file: String,
    pub text: Result<String>,
}

/// The templates of a folder.
#[derive(Debug, Default)]
pub(super) struct Sources {
    pub default: Option<Source>,
    pub tool_use: Option<Source>,
    /// The first of all names, these two among them.
    pub names: Vec<String>,
}

/// Of names that an error shows.
const MOST_SHOWN: usize = 20;

impl Sources {
    fn add(&mut self, name: &str, source: Option<Source>) {
        match name {
            "default" => self.default = source,
            "tool_use" => self.tool_use = source,
            _ => {}
        }
        if self.names.len() < MOST_SHOWN && !self.names.iter().any(|known| known == name) {
            self.names.push(name.to_owned());
        }
    }

    /// None: the folder has no template.
    pub fn find(files: TemplateFiles) -> Option<Sources> {
        let mut found = Sources::default();
        if files.jinja.is_some() || !files.additional.is_empty() {
            if let Some(bytes) = files.jinja {
                found.add("default", Some(decoded(JINJA.to_owned(), bytes)));
            }
            for (name, bytes) in files.additional {
                let file = format!("additional_chat_templates/{name}.jinja");
                found.add(&name, bytes.map(|bytes| decoded(file, bytes)));
            }
            return Some(found);
        }
        let of = |file: &'static str, map: Option<&Map<String, Value>>| {
            let value = map?.get("chat_template").filter(|value| !value.is_null())?;
            Some((file, value.clone()))
        };
        let (file, value) = of(CONFIG, files.config).or_else(|| of(LEGACY, files.legacy))?;
        match value {
            Value::Array(list) => {
                for entry in list {
                    let text = |key: &str| entry.get(key).and_then(Value::as_str);
                    match (text("name"), entry.get("template")) {
                        (Some(name), Some(template)) => {
                            found.add(name, Some(given(file, template.clone())));
                        }
                        _ => {
                            found.default = found.default.or(Some(Source {
                                file: file.to_owned(),
                                text: Err(Error::bad_model(format!(
                                    "{file}: each chat_template must have a name and a template"
                                ))),
                            }))
                        }
                    }
                }
            }
            Value::Object(named) => {
                for (name, template) in named {
                    found.add(&name, Some(given(file, template)));
                }
            }
            text => found.add("default", Some(given(file, text))),
        }
        Some(found)
    }

    /// What is said where a conversation needs the template that is not there.
    pub fn no_default(&self) -> Error {
        let names: Vec<String> = self.names.iter().map(|name| shown(name)).collect();
        let names = match names.is_empty() {
            true => "none".to_owned(),
            false => names.join(", "),
        };
        Error::unsupported(format!(
            "the folder's chat templates ({names}) have none named \"default\", so nothing says which one to use"
        ))
    }
}

fn shown(name: &str) -> String {
    let short: String = name.chars().take(40).collect();
    format!("{short:?}")
}

fn decoded(file: String, bytes: Result<Vec<u8>>) -> Source {
    let text = bytes.and_then(|bytes| {
        String::from_utf8(bytes).map_err(|error| {
            Error::bad_model(format!("{file} is not valid UTF-8: {}", error.utf8_error()))
        })
    });
    Source { file, text }
}

fn given(file: &str, template: Value) -> Source {
    let text = match template {
        Value::String(text) => Ok(text),
        _ => Err(Error::bad_model(format!(
            "{file}: chat_template must be a text, a list or an object of texts"
        ))),
    };
    Source {
        file: file.to_owned(),
        text,
    }
}
