//! Arguments as Gemma's families write them: JSON but for keys without quotes and texts between tokens.

use serde_json::{json, Map, Value};

use super::fields::{fields, not_here, with_parts};
use super::texts::Texts;
use super::write::Writer;
use crate::error::Result;
use crate::grammar::keywords::{keyword, Keyword};
use crate::grammar::reference;
use crate::grammar::schema::{bad, below};

/// Schemas within each other.
const DEEPEST: usize = 64;
/// A key that no schema names.
const KEY: &str = "/[A-Za-z0-9_]{1,64}/";

/// How a family writes its texts, and whether there are objects and lists in arguments.
#[derive(Clone, Copy)]
struct Form {
    quote: &'static str,
    nested: bool,
}

impl Writer<'_> {
    /// The object of all arguments.
    pub fn gemma(&mut self, schema: &Value, nested: bool) -> Result<String> {
        let quote = if nested { "<|\"|>" } else { "<escape>" };
        let form = Form { quote, nested };
        self.gemma_object(form, schema, "#", schema, 0)
    }

    fn gemma_object(
        &mut self,
        form: Form,
        root: &Value,
        place: &str,
        schema: &Value,
        depth: usize,
    ) -> Result<String> {
        let mut all = Vec::new();
        for field in fields(place, schema)? {
            let value = self.gemma_value(form, root, &field.place, field.schema, depth)?;
            let key = self.literal(&format!("{}:", field.name));
            all.push((self.rule(&format!("{key} {value}")), field.required));
        }
        let inside = self.separated(&all, ",");
        Ok(self.rule(&format!("\"{{\" {inside} \"}}\"")))
    }

    fn gemma_value(
        &mut self,
        form: Form,
        root: &Value,
        place: &str,
        schema: &Value,
        depth: usize,
    ) -> Result<String> {
        let depth = depth.saturating_add(1);
        if depth > DEEPEST {
            return bad(place, format!("schemas nest deeper than {DEEPEST}"));
        }
        let map = match schema {
            Value::Bool(true) => return Ok(self.gemma_any(form)),
            Value::Object(map) => map,
            _ => return bad(place, "no value is allowed"),
        };
        let says = |name: &&String| !matches!(keyword(name), Keyword::Silent | Keyword::Unknown);
        let alone = |wanted: &str| {
            map.keys()
                .filter(says)
                .all(|name| name == wanted || name == "type")
        };
        if let Some(Value::String(said)) = map.get("$ref").filter(|_| alone("$ref")) {
            return self.gemma_reference(form, root, &below(place, "$ref"), said, depth);
        }
        if let Some(values) = map
            .get("enum")
            .and_then(Value::as_array)
            .filter(|_| alone("enum"))
        {
            return self.gemma_choice(form, &below(place, "enum"), values);
        }
        if let Some(value) = map.get("const").filter(|_| alone("const")) {
            return self.gemma_choice(form, &below(place, "const"), std::slice::from_ref(value));
        }
        if let Some(Value::Array(ways)) = map.get("anyOf").filter(|_| alone("anyOf")) {
            let mut each = Vec::new();
            for (index, way) in ways.iter().enumerate() {
                let place = below(&below(place, "anyOf"), &index.to_string());
                each.push(self.gemma_value(form, root, &place, way, depth)?);
            }
            return Ok(self.rule(&each.join(" | ")));
        }
        match map.get("type") {
            None => match map.keys().find(says) {
                None => Ok(self.gemma_any(form)),
                Some(name) => not_here(&below(place, name), name),
            },
            Some(Value::Array(kinds)) => {
                let mut each = Vec::new();
                for kind in kinds {
                    let mut one = map.clone();
                    one.insert("type".into(), kind.clone());
                    let kind = kind.as_str().unwrap_or("");
                    each.push(self.gemma_typed(form, root, place, kind, &one, depth)?);
                }
                Ok(self.rule(&each.join(" | ")))
            }
            Some(kind) => {
                let kind = kind.as_str().unwrap_or("");
                self.gemma_typed(form, root, place, kind, map, depth)
            }
        }
    }

    fn gemma_typed(
        &mut self,
        form: Form,
        root: &Value,
        place: &str,
        kind: &str,
        map: &Map<String, Value>,
        depth: usize,
    ) -> Result<String> {
        match kind {
            "string" => {
                let texts = Texts::of(place, map)?;
                Ok(self.gemma_text(form, &texts))
            }
            "integer" | "number" | "boolean" | "null" => {
                self.json(&with_parts(root, &Value::Object(map.clone())))
            }
            "object" if form.nested => match map.get("properties") {
                Some(_) => self.gemma_object(form, root, place, &Value::Object(map.clone()), depth),
                None => Ok(self.gemma_any_object(form)),
            },
            "array" if form.nested => self.gemma_list(form, root, place, map, depth),
            _ => not_here(&below(place, "type"), kind),
        }
    }

    fn gemma_list(
        &mut self,
        form: Form,
        root: &Value,
        place: &str,
        map: &Map<String, Value>,
        depth: usize,
    ) -> Result<String> {
        let (mut least, mut most, mut item) = (0, None, &Value::Bool(true));
        for (name, value) in map {
            match name.as_str() {
                "type" => {}
                "items" if !value.is_array() => item = value,
                "minItems" => least = value.as_u64().unwrap_or(0),
                "maxItems" => most = value.as_u64(),
                "uniqueItems" if value == &json!(false) => {}
                _ if matches!(keyword(name), Keyword::Silent | Keyword::Unknown) => {}
                _ => return not_here(&below(place, name), name),
            }
        }
        if least > 1000 || most.is_some_and(|most| most > 1000) {
            return bad(place, "at most 1000 items are counted");
        }
        let item = self.gemma_value(form, root, &below(place, "items"), item, depth)?;
        let more = |least: u64, most: Option<u64>| {
            let most = most.map_or(String::new(), |most| most.to_string());
            format!("{item} (\",\" {item}){{{least},{most}}}")
        };
        let some = match (
            least.saturating_sub(1),
            most.map(|most| most.saturating_sub(1)),
        ) {
            _ if most == Some(0) => "\"\"".to_owned(),
            (0, None) => format!("{item} (\",\" {item})*"),
            (least, most) => more(least, most),
        };
        let some = if least == 0 {
            format!("({some})?")
        } else {
            some
        };
        Ok(self.rule(&format!("\"[\" {some} \"]\"")))
    }

    /// A part is one rule, so that it may refer to itself.
    fn gemma_reference(
        &mut self,
        form: Form,
        root: &Value,
        place: &str,
        said: &str,
        depth: usize,
    ) -> Result<String> {
        let (target, schema) = match reference::find(root, said) {
            Ok(found) => found,
            Err(what) => return bad(place, what),
        };
        if let Some(known) = self.known.get(&target) {
            return Ok(known.clone());
        }
        let name = self.name("r");
        self.known.insert(target.clone(), name.clone());
        let body = self.gemma_value(form, root, &target, schema, depth)?;
        self.define(&name, &body);
        Ok(name)
    }

    fn gemma_choice(&mut self, form: Form, place: &str, values: &[Value]) -> Result<String> {
        let mut each = Vec::new();
        for value in values {
            each.push(match value {
                Value::String(text) => self.literal(&[form.quote, text, form.quote].concat()),
                Value::Array(_) | Value::Object(_) => {
                    return bad(
                        place,
                        "only texts, numbers, true, false and null can be chosen from",
                    )
                }
                value => self.literal(&value.to_string()),
            });
        }
        match each.is_empty() {
            true => bad(place, "must be a list of values that is not empty"),
            false => Ok(self.rule(&each.join(" | "))),
        }
    }

    fn gemma_text(&mut self, form: Form, texts: &Texts) -> String {
        let quote = self.literal(form.quote);
        let text = self.text(texts, form.quote);
        self.rule(&format!("{quote} {text}"))
    }

    /// Any value.
    fn gemma_any(&mut self, form: Form) -> String {
        if let Some(known) = self.known.get("any") {
            return known.clone();
        }
        let name = self.name("r");
        self.known.insert("any".into(), name.clone());
        let texts = Texts::of("#", &Map::new());
        let text = texts.map_or_else(|_| String::new(), |texts| self.gemma_text(form, &texts));
        let plain = "/-?(0|[1-9][0-9]{0,15})(\\.[0-9]{1,15})?/ | \"true\" | \"false\" | \"null\"";
        let body = match form.nested {
            false => format!("{text} | {plain}"),
            true => {
                let object = self.gemma_any_object(form);
                format!("{text} | {plain} | {object} | \"[\" ({name} (\",\" {name})*)? \"]\"")
            }
        };
        self.define(&name, &body);
        name
    }

    fn gemma_any_object(&mut self, form: Form) -> String {
        if let Some(known) = self.known.get("object") {
            return known.clone();
        }
        let name = self.name("r");
        self.known.insert("object".into(), name.clone());
        let any = self.gemma_any(form);
        let entry = self.rule(&format!("{KEY} \":\" {any}"));
        self.define(&name, &format!("\"{{\" ({entry} (\",\" {entry})*)? \"}}\""));
        name
    }
}
