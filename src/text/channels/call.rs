//! Calls of tools: what all formats have in common, and how a model's format is found.

use super::deltas::Comes;
use super::formats::FORMATS;
use super::shape::Shape;
use crate::random;
use crate::template::{Json, Object};

/// How a family writes its calls.
#[derive(Debug)]
pub(super) struct Format {
    /// mlx-lm's name for it, where it has one.
    pub name: &'static str,
    /// Markers that a call begins and ends with. Without a last one it ends where the next one or the answer does.
    pub open: &'static [&'static str],
    pub close: &'static [&'static str],
    /// Markers around several calls.
    pub sections: &'static [&'static str],
    /// Special tokens inside of calls.
    pub parts: &'static [&'static str],
    /// Whether it is this model's.
    pub is_of: fn(&Signs) -> bool,
    /// The calls in what stands between the markers; None where it is no call.
    pub parse: fn(&str, &Tools) -> Option<Vec<Call>>,
    /// What can be told of a call before its end.
    pub comes: Comes,
    /// Whether a call without its last marker can be told from half a call.
    pub ends_itself: bool,
    /// How a call is written that a grammar binds; none where no grammar can be made of it.
    pub shape: fn(&Signs) -> Option<Shape>,
    /// For answers that are calls without any marker: whether a beginning looks like one.
    pub bare: Option<fn(&str) -> bool>,
}

/// What a format is recognised by.
pub(super) struct Signs<'a> {
    pub template: &'a str,
    pub is_token: &'a dyn Fn(&str) -> bool,
}

impl Signs<'_> {
    pub fn writes(&self, text: &str) -> bool {
        self.template.contains(text)
    }
}

/// What most formats are not.
pub(super) const PLAIN: Format = Format {
    name: "",
    open: &[],
    close: &[],
    sections: &[],
    parts: &[],
    is_of: |_| false,
    parse: |_, _| None,
    ends_itself: true,
    shape: |_| None,
    comes: Comes::Whole,
    bare: None,
};

impl Format {
    pub fn find(
        template: &str,
        is_token: &dyn Fn(&str) -> bool,
        name: Option<&str>,
    ) -> Option<&'static Format> {
        let signs = Signs { template, is_token };
        let found = FORMATS.iter().find(|format| (format.is_of)(&signs));
        name.and_then(Format::named).or(found.copied())
    }

    pub fn named(name: &str) -> Option<&'static Format> {
        // mlx-lm has another name for it.
        let name = match name {
            "laguna" => "glm47",
            name => name,
        };
        FORMATS.iter().find(|format| format.name == name).copied()
    }
}

/// A call, as a model wrote it.
#[derive(Debug)]
pub(super) struct Call {
    pub id: Option<String>,
    pub name: String,
    pub arguments: Object,
}

impl Call {
    /// None where there is no name.
    pub fn new(id: Option<String>, name: &str, arguments: Object) -> Option<Call> {
        let name = name.to_owned();
        (!name.is_empty()).then_some(Call {
            id,
            name,
            arguments,
        })
    }

    /// `{"id", "name", "arguments"}`; where the model wrote no id, one is made.
    pub fn write(self) -> String {
        let mut call = Object::default();
        let id = self.id.unwrap_or_else(new_id);
        call.set("id", Json::Text(id));
        call.set("name", Json::Text(self.name));
        call.set("arguments", Json::Object(self.arguments));
        Json::Object(call).write()
    }
}

/// Nine letters and digits: Mistral's templates take no other ids, and the others any.
pub(super) fn new_id() -> String {
    const LETTERS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut left = random::seed();
    let mut letter = || {
        let index = (left % 62) as usize;
        left /= 62;
        char::from(LETTERS.get(index).copied().unwrap_or(b'0'))
    };
    (0..9).map(|_| letter()).collect()
}

/// The tools that a conversation offers: what their schemas say of arguments.
#[derive(Debug, Default)]
pub struct Tools {
    all: Vec<(String, Object)>,
    /// None may be called: what looks like a call is text.
    forbidden: bool,
}

impl Tools {
    /// Of a list as OpenAI has it; what is no such tool is passed over.
    pub fn new(tools: Option<&Json>) -> Tools {
        let list = match tools {
            Some(Json::List(list)) => list.as_slice(),
            _ => &[],
        };
        let tool = |tool: &Json| {
            let Json::Object(tool) = tool else {
                return None;
            };
            let function = match tool.get("function") {
                Some(Json::Object(function)) => function,
                _ => tool,
            };
            let name = function.get("name")?.as_text()?.to_owned();
            let properties = match function.get("parameters") {
                Some(Json::Object(schema)) => match schema.get("properties") {
                    Some(Json::Object(properties)) => properties.clone(),
                    _ => Object::default(),
                },
                _ => Object::default(),
            };
            Some((name, properties))
        };
        Tools {
            all: list.iter().filter_map(tool).collect(),
            forbidden: false,
        }
    }

    pub fn forbidden() -> Tools {
        Tools {
            forbidden: true,
            ..Tools::default()
        }
    }

    pub fn are_forbidden(&self) -> bool {
        self.forbidden
    }

    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// The schema of an argument.
    pub(super) fn schema(&self, tool: &str, argument: &str) -> Option<&Object> {
        let (_, properties) = self.all.iter().find(|(name, _)| name == tool)?;
        match properties.get(argument)? {
            Json::Object(schema) => Some(schema),
            _ => None,
        }
    }
}
