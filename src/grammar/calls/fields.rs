//! The arguments of a call one by one, for families that do not write them as JSON.

use serde_json::Value;

use super::texts::Texts;
use super::write::Writer;
use crate::error::Result;
use crate::grammar::keywords::{keyword, Keyword};
use crate::grammar::schema::{bad, below};
use crate::text::shape::Values;

/// One argument, or one property of an object.
pub(super) struct Field<'s> {
    pub name: &'s str,
    pub schema: &'s Value,
    pub place: String,
    pub required: bool,
}

/// In the order in which they are written: the schema's.
///
/// Errors: `BadGrammar` names a keyword that says more than which arguments there are.
pub(super) fn fields<'s>(place: &str, schema: &'s Value) -> Result<Vec<Field<'s>>> {
    let map = match schema {
        Value::Object(map) => map,
        Value::Bool(true) => return Ok(Vec::new()),
        _ => return bad(place, "a schema must be an object, true or false"),
    };
    for (name, value) in map {
        let place = below(place, name);
        match name.as_str() {
            "type" if value == "object" => {}
            "type" => return bad(&place, "must be object"),
            "properties" if value.is_object() => {}
            "required"
                if value
                    .as_array()
                    .is_some_and(|list| list.iter().all(Value::is_string)) => {}
            "properties" | "required" => return bad(&place, "is not as a schema has it"),
            "additionalProperties" => {}
            _ if matches!(keyword(name), Keyword::Silent | Keyword::Unknown) => {}
            _ => return not_here(&place, name),
        }
    }
    let required = map.get("required").and_then(Value::as_array);
    let required = || required.into_iter().flatten().filter_map(Value::as_str);
    let properties = map.get("properties").and_then(Value::as_object);
    let at = below(place, "properties");
    let known = properties
        .into_iter()
        .flatten()
        .map(|(name, schema)| Field {
            name,
            schema,
            place: below(&at, name),
            required: required().any(|wanted| wanted == name),
        });
    let is_known = |name: &str| properties.is_some_and(|known| known.contains_key(name));
    let others = required().filter(|&name| !is_known(name));
    let others = others.map(|name| Field {
        name,
        schema: &Value::Bool(true),
        place: below(place, "required"),
        required: true,
    });
    let fields: Vec<Field> = known.chain(others).collect();
    let is = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '$');
    match fields
        .iter()
        .find(|field| field.name.is_empty() || !field.name.chars().all(is))
    {
        Some(odd) => bad(
            &odd.place,
            "this model cannot write an argument of that name",
        ),
        None => Ok(fields),
    }
}

/// A keyword that a grammar of JSON could follow.
pub(super) fn not_here<T>(place: &str, name: &str) -> Result<T> {
    bad(
        place,
        format!("{name} cannot be followed in the form in which this model writes its calls"),
    )
}

/// A part of a schema as a document of its own: what it refers to stands beside it.
pub(super) fn with_parts(root: &Value, schema: &Value) -> Value {
    let Value::Object(own) = schema else {
        return schema.clone();
    };
    let mut own = own.clone();
    for parts in ["$defs", "definitions"] {
        if let Some(value) = root.get(parts) {
            own.entry(parts).or_insert_with(|| value.clone());
        }
    }
    Value::Object(own)
}

/// The type, where a schema says nothing else.
fn plain_type(schema: &Value) -> Option<&str> {
    let map = schema.as_object()?;
    let silent = |name: &String| name == "type" || keyword(name) == Keyword::Silent;
    map.get("type")?.as_str().filter(|_| map.keys().all(silent))
}

impl Writer<'_> {
    /// Each between its tags.
    pub fn tagged(&mut self, schema: &Value, tags: [&str; 4], values: Values) -> Result<String> {
        let [before, between, then, behind] = tags;
        let space = match values {
            Values::Glm => "SPACE?",
            Values::Coder | Values::MiniMax => "",
        };
        let mut all = Vec::new();
        for field in fields("#", schema)? {
            let tag = self.literal(&format!("{before}{}{between}", field.name));
            let then = self.literal(then);
            let value = match Texts::of_tagged(values, &field.place, field.schema)? {
                Some(texts) => self.text(&texts, behind),
                None => {
                    let value = self.json(&with_parts(schema, field.schema))?;
                    format!("{value} {}", self.literal(behind))
                }
            };
            let one = self.rule(&format!("{tag} {space} {then} {value} {space}"));
            all.push(if field.required {
                one
            } else {
                format!("{one}?")
            });
        }
        Ok(self.rule(&all.join(" ")))
    }

    /// `KEY=VALUE, …`, of which the values are JSON but for Python's words for three of them.
    pub fn python(&mut self, schema: &Value) -> Result<String> {
        let mut all = Vec::new();
        for field in fields("#", schema)? {
            let value = match plain_type(field.schema) {
                Some("boolean") => "(\"True\" | \"False\")".to_owned(),
                Some("null") => "\"None\"".to_owned(),
                _ => self.json(&with_parts(schema, field.schema))?,
            };
            let key = self.literal(&format!("{}=", field.name));
            all.push((self.rule(&format!("{key} {value}")), field.required));
        }
        Ok(self.separated(&all, ", "))
    }

    /// One behind the other, those that are not required perhaps not, and a separator between each two that are there.
    pub fn separated(&mut self, all: &[(String, bool)], separator: &str) -> String {
        let separator = self.literal(separator);
        // What may come where nothing has come yet, and where something has.
        let (mut first, mut later) = (String::new(), String::new());
        for (one, required) in all.iter().rev() {
            first = match required {
                true => self.rule(&format!("{one} {later}")),
                false => {
                    let first = if first.is_empty() { "\"\"" } else { &first };
                    self.rule(&format!("{one} {later} | {first}"))
                }
            };
            later = match required {
                true => self.rule(&format!("{separator} {one} {later}")),
                false => self.rule(&format!("({separator} {one})? {later}")),
            };
        }
        first
    }
}
