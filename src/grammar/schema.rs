//! JSON schemas, checked before they are compiled: what is wrong or cannot be followed is named with its place, what says
//! nothing is left out, and every reference becomes one into one list, so that each part can be compiled by itself.

use std::collections::HashMap;

use serde_json::{Map, Number, Value};

use super::keywords::{format as format_of, keyword, Format, Keyword, TYPES};
use super::normal::{self, Whole};
use super::pattern;
use super::reference;
use crate::error::{Error, Result};
use crate::words::quoted;

/// From here on a number is no longer told from its neighbours.
const LARGEST: f64 = 9_007_199_254_740_992.0;
/// Schemas, references followed.
const MOST_SCHEMAS: usize = 50_000;
/// Bytes of a value that is compared with, or of a name.
const LONGEST: usize = pattern::LONGEST;

/// A schema that holds nothing but what is followed.
pub struct Prepared {
    pub root: Value,
    /// What is referred to, by its number.
    pub parts: Map<String, Value>,
    /// Where these were.
    pub places: Vec<String>,
    /// How the JSON is written: `x-guidance` of llguidance.
    pub style: Value,
    /// What was left out that a reader of the schema may have counted on.
    pub warnings: Vec<String>,
}

/// Errors: `BadGrammar` names the keyword by its JSON pointer.
pub fn prepare(root: &Value) -> Result<Prepared> {
    let mut work = Work {
        root,
        names: HashMap::new(),
        places: Vec::new(),
        waiting: Vec::new(),
        warnings: Vec::new(),
        schemas: 0,
        whole: Whole::of(root),
    };
    let style = style(root)?;
    let prepared = work.schema("#", root)?;
    let mut parts = Map::new();
    while let Some((name, place, schema)) = work.waiting.pop() {
        let part = work.schema(&place, schema)?;
        parts.insert(name, part);
    }
    let style = Value::Object(work.whole.check(style)?);
    Ok(Prepared {
        root: prepared,
        parts,
        places: work.places,
        style,
        warnings: work.warnings,
    })
}

struct Work<'a> {
    root: &'a Value,
    /// Numbers of what is referred to, by its place.
    names: HashMap<String, usize>,
    places: Vec<String>,
    /// Number, place and schema of what is referred to and not looked at.
    waiting: Vec<(String, String, &'a Value)>,
    warnings: Vec<String>,
    schemas: usize,
    whole: Whole,
}

impl<'a> Work<'a> {
    fn schema(&mut self, at: &str, schema: &'a Value) -> Result<Value> {
        self.schemas = self.schemas.saturating_add(1);
        if self.schemas > MOST_SCHEMAS {
            return bad(at, format!("there are more than {MOST_SCHEMAS} schemas"));
        }
        let map = match schema {
            Value::Bool(_) => return Ok(schema.clone()),
            Value::Object(map) => map,
            _ => return bad(at, "a schema must be an object, true or false"),
        };
        let mut out = Map::new();
        for (name, value) in map {
            let place = below(at, name);
            if let Some(kept) = self.keyword(at, &place, name, value)? {
                out.insert(name.clone(), kept);
            }
        }
        normal::form(at, out, &mut self.whole).map(Value::Object)
    }

    /// What is left of a keyword's value; none where it says nothing.
    fn keyword(
        &mut self,
        at: &str,
        place: &str,
        name: &str,
        value: &'a Value,
    ) -> Result<Option<Value>> {
        let kept = match keyword(name) {
            Keyword::Silent => return Ok(None),
            Keyword::Type => types(place, value)?,
            Keyword::Enum => {
                let list = list(place, value, "values")?;
                for (index, value) in list.iter().enumerate() {
                    self.check_value(&below(place, &index.to_string()), value)?;
                }
                value.clone()
            }
            Keyword::Const => {
                self.check_value(place, value)?;
                value.clone()
            }
            Keyword::Schema => self.schema(place, value)?,
            Keyword::Items if value.is_array() => self.schemas(place, value)?,
            Keyword::Items => self.schema(place, value)?,
            Keyword::Schemas => self.schemas(place, value)?,
            Keyword::Named => self.named(place, value)?,
            Keyword::Patterns => {
                let named = self.named(place, value)?;
                let mut out = Map::new();
                for (name, schema) in object(place, &named)? {
                    let pattern = pattern::of_schema(name);
                    let pattern = pattern.or_else(|what| bad(&below(place, name), what))?;
                    if out.insert(pattern, schema.clone()).is_some() {
                        return bad(place, "two expressions mean the same");
                    }
                }
                Value::Object(out)
            }
            Keyword::Names => {
                let names = array(place, value)?;
                if let Some(odd) = names.iter().position(|name| !name.is_string()) {
                    return bad(&below(place, &odd.to_string()), "must be a string");
                }
                value.clone()
            }
            Keyword::Count => count(place, value)?,
            Keyword::Number => number(place, value)?,
            Keyword::Exclusive if value.is_boolean() => value.clone(),
            Keyword::Exclusive => number(place, value)?,
            Keyword::Step => match number(place, value)? {
                step if step.as_f64().is_some_and(|step| step > 0.0) => step,
                _ => return bad(place, "must be above 0"),
            },
            Keyword::Reference => self.reference(place, value)?,
            Keyword::Pattern => {
                let pattern = pattern::of_schema(string(place, value)?);
                pattern.or_else(|what| bad(place, what))?.into()
            }
            Keyword::Format => {
                let name = string(place, value)?;
                match format_of(name) {
                    Format::Known => value.clone(),
                    // (`normal::form` makes patterns of them.)
                    Format::Characters(patterns) => patterns.into(),
                    Format::Hint => {
                        self.warn(
                            place,
                            format!("the format {} is not looked at", shown(name)),
                        );
                        return Ok(None);
                    }
                    Format::Unknown => {
                        return bad(
                            place,
                            format!("the format {} is not supported", shown(name)),
                        )
                    }
                }
            }
            Keyword::Unique => match value {
                Value::Bool(false) => return Ok(None),
                Value::Bool(true) => return refused(place, name),
                _ => return bad(place, "must be true or false"),
            },
            Keyword::UnlessAnything => match value {
                Value::Bool(true) => return Ok(None),
                Value::Object(map) if map.is_empty() => return Ok(None),
                _ => return refused(place, name),
            },
            Keyword::UnlessEmpty => match value {
                Value::Object(map) if map.is_empty() => return Ok(None),
                _ => return refused(place, name),
            },
            Keyword::Refused => return refused(place, name),
            Keyword::Unknown => return self.unknown(at, place, name, value),
        };
        Ok(Some(kept))
    }

    fn unknown(
        &mut self,
        at: &str,
        place: &str,
        name: &str,
        value: &Value,
    ) -> Result<Option<Value>> {
        match name {
            // The root's is what references may begin with; another one changes what they mean.
            "$id" | "id" if at == "#" || !value.is_string() => {}
            "$id" if !value.as_str().is_some_and(|id| id.starts_with('#')) => {
                return bad(place, "a $id below the root is not supported")
            }
            "x-guidance" if at == "#" => {}
            _ => self.warn(place, "is no keyword of JSON Schema and is not looked at"),
        }
        Ok(None)
    }

    fn schemas(&mut self, place: &str, value: &'a Value) -> Result<Value> {
        let list = list(place, value, "schemas")?;
        let each = list.iter().enumerate();
        let each =
            each.map(|(index, schema)| self.schema(&below(place, &index.to_string()), schema));
        Ok(Value::Array(each.collect::<Result<_>>()?))
    }

    fn named(&mut self, place: &str, value: &'a Value) -> Result<Value> {
        let mut out = Map::new();
        for (name, schema) in object(place, value)? {
            let place = below(place, name);
            if name.len() > LONGEST {
                return bad(&place, format!("the name is longer than {LONGEST} bytes"));
            }
            out.insert(name.clone(), self.schema(&place, schema)?);
        }
        Ok(Value::Object(out))
    }

    fn reference(&mut self, place: &str, value: &Value) -> Result<Value> {
        let said = string(place, value)?;
        let (target, schema) = match reference::find(self.root, said) {
            Ok(found) => found,
            Err(what) => return bad(place, format!("{} {what}", shown(said))),
        };
        let number = match self.names.get(&target) {
            Some(&number) => number,
            None => {
                let number = self.places.len();
                self.places.push(target.clone());
                let waits = (number.to_string(), target.clone(), schema);
                self.waiting.push(waits);
                self.names.insert(target, number);
                number
            }
        };
        Ok(Value::String(format!("#/$defs/{number}")))
    }

    /// A value that is compared with: what is in it must be what it says.
    fn check_value(&mut self, place: &str, value: &Value) -> Result<()> {
        match value {
            Value::Number(_) => number(place, value).map(drop),
            Value::String(text) if text.len() > LONGEST => {
                bad(place, format!("the string is longer than {LONGEST} bytes"))
            }
            Value::String(text) => {
                self.whole.text(place, text);
                Ok(())
            }
            Value::Array(values) => {
                let mut each = values.iter().enumerate();
                each.try_for_each(|(index, value)| {
                    self.check_value(&below(place, &index.to_string()), value)
                })
            }
            Value::Object(map) => {
                let mut each = map.iter();
                each.try_for_each(|(name, value)| self.check_value(&below(place, name), value))
            }
            _ => Ok(()),
        }
    }

    fn warn(&mut self, place: &str, what: impl AsRef<str>) {
        // A few tell enough.
        if self.warnings.len() < 20 {
            self.warnings
                .push(format!("{}: {}", shown(place), what.as_ref()));
        }
    }
}

/// How the JSON is written: `x-guidance` of the root, as llguidance has it, of which what could make it ignore a part of the
/// schema is refused.
fn style(root: &Value) -> Result<Map<String, Value>> {
    let mut style = compact();
    let Some(given) = root.get("x-guidance") else {
        return Ok(style);
    };
    style.clear();
    let place = "#/x-guidance";
    for (name, value) in object(place, given)? {
        let place = below(place, name);
        match name.as_str() {
            "whitespace_flexible" if value.is_boolean() => {}
            "item_separator" | "key_separator" => {
                let separator = string(&place, value)?;
                let sign = if name == "item_separator" { ',' } else { ':' };
                let blank = |c: char| matches!(c, ' ' | '\t' | '\n' | '\r');
                if separator.trim_matches(blank) != sign.to_string() || separator.len() > 64 {
                    return bad(&place, format!("must be \"{sign}\" with blanks around it"));
                }
            }
            _ => return bad(&place, "is not supported"),
        }
        style.insert(name.clone(), value.clone());
    }
    Ok(style)
}

/// Nothing but what is needed between the parts of a document: what a schema leaves no choice of is then no step of the model's.
pub fn compact() -> Map<String, Value> {
    [("whitespace_flexible".to_owned(), Value::Bool(false))]
        .into_iter()
        .collect()
}

fn types(place: &str, value: &Value) -> Result<Value> {
    let known = |value: &Value| value.as_str().is_some_and(|name| TYPES.contains(&name));
    match value {
        Value::Array(names) if !names.is_empty() && names.iter().all(known) => {}
        Value::String(_) if known(value) => {}
        _ => {
            let names = TYPES.join(", ");
            return bad(place, format!("must be one of {names}, or a list of these"));
        }
    }
    Ok(value.clone())
}

fn number(place: &str, value: &Value) -> Result<Value> {
    let Some(number) = value.as_f64().filter(|_| value.is_number()) else {
        return bad(place, "must be a number");
    };
    if number.abs() >= LARGEST {
        return bad(place, "numbers of 2^53 and more are not supported");
    }
    Ok(value.clone())
}

/// Also as `3.0`.
fn count(place: &str, value: &Value) -> Result<Value> {
    let whole = |number: f64| (0.0..=LARGEST).contains(&number) && number.fract() == 0.0;
    match value.as_f64() {
        Some(number) if value.is_number() && whole(number) => {
            Ok(Value::Number(Number::from(number as u64)))
        }
        _ => bad(place, "must be a whole number that is not negative"),
    }
}

fn list<'a>(place: &str, value: &'a Value, of: &str) -> Result<&'a [Value]> {
    match array(place, value)? {
        [] => bad(place, format!("must be a list of {of} that is not empty")),
        list => Ok(list),
    }
}

fn array<'a>(place: &str, value: &'a Value) -> Result<&'a [Value]> {
    match value {
        Value::Array(list) => Ok(list),
        _ => bad(place, "must be a list"),
    }
}

fn object<'a>(place: &str, value: &'a Value) -> Result<&'a Map<String, Value>> {
    match value {
        Value::Object(map) => Ok(map),
        _ => bad(place, "must be an object"),
    }
}

fn string<'a>(place: &str, value: &'a Value) -> Result<&'a str> {
    match value {
        Value::String(text) => Ok(text),
        _ => bad(place, "must be a string"),
    }
}

/// A JSON pointer one step further.
pub fn below(place: &str, name: &str) -> String {
    let name = name.replace('~', "~0").replace('/', "~1");
    format!("{place}/{name}")
}

fn refused<T>(place: &str, name: &str) -> Result<T> {
    bad(
        place,
        format!("{name} cannot be followed while text is made"),
    )
}

pub fn bad<T>(place: &str, what: impl AsRef<str>) -> Result<T> {
    let message = format!("{}: {}", shown(place), what.as_ref());
    Err(Error::bad_grammar(message))
}

fn shown(text: &str) -> String {
    quoted(text, 200)
}
