//! Which part of a schema cannot be compiled: llguidance says what is wrong, and not where.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::schema::{below, Prepared};
use super::{parser, Vocabulary};
use crate::error::{Code, Error};
use crate::watch;
use crate::words::quoted;

/// Parts that are tried, and how long.
const MOST_TRIES: usize = 300;
const LONGEST: Duration = Duration::from_millis(300);

struct Search<'a> {
    vocabulary: &'a Vocabulary,
    prepared: &'a Prepared,
    tries: usize,
    until: Option<Instant>,
    /// Referred parts that were looked into.
    seen: Vec<&'a str>,
}

/// The error with the place of what it is about in front: the deepest part that cannot be compiled by itself. `root` is the schema
/// as it was given.
pub fn of(vocabulary: &Vocabulary, prepared: &Prepared, root: &Value, error: Error) -> Error {
    if error.code != Code::BadGrammar {
        return error;
    }
    let mut search = Search {
        vocabulary,
        prepared,
        tries: 0,
        until: Instant::now().checked_add(LONGEST),
        seen: Vec::new(),
    };
    let (place, error) = search.below("#".to_owned(), &prepared.root, error);
    let place = as_given(root, &place);
    Error::bad_grammar(format!("{}: {}", quoted(&place, 200), error.message))
}

/// A place of the prepared schema in the one that was given, where some keywords have other names (`super::normal`).
fn as_given(root: &Value, place: &str) -> String {
    let (mut at, mut out) = (root, "#".to_owned());
    for step in place.split('/').skip(1) {
        let step = step.replace("~1", "/").replace("~0", "~");
        let list = at.get("items").is_some_and(Value::is_array);
        let other = match step.as_str() {
            "prefixItems" => "items",
            "items" if list => "additionalItems",
            "pattern" | "allOf" => "format",
            "minimum" => "exclusiveMinimum",
            "maximum" => "exclusiveMaximum",
            "exclusiveMinimum" => "minimum",
            "exclusiveMaximum" => "maximum",
            _ => "",
        };
        let names = match list {
            true => [other, &step],
            false => [&step, other],
        };
        let child = |name: &str| match at {
            Value::Array(list) => list.get(name.parse::<usize>().ok()?),
            _ => at.get(name),
        };
        let found = names
            .into_iter()
            .find_map(|name| Some((name, child(name)?)));
        let Some((name, value)) = found else {
            break;
        };
        out = super::schema::below(&out, name);
        at = value;
    }
    out
}

impl<'a> Search<'a> {
    fn below(&mut self, mut place: String, part: &'a Value, mut error: Error) -> (String, Error) {
        let mut part = part;
        loop {
            let deeper = self
                .parts(&place, part)
                .into_iter()
                .find_map(|(place, part)| {
                    // What nothing matches is no fault where something else may come.
                    let error = self.fault(part).filter(|_| !part.is_boolean())?;
                    Some((place, part, error))
                });
            match deeper {
                Some(found) => (place, part, error) = found,
                None => break,
            }
        }
        if let Some(keyword) = self.keyword(part) {
            place = super::schema::below(&place, keyword);
        }
        (place, error)
    }

    /// The schemas of a schema, and what it refers to.
    fn parts(&mut self, place: &str, part: &'a Value) -> Vec<(String, &'a Value)> {
        let Value::Object(map) = part else {
            return Vec::new();
        };
        let mut parts = Vec::new();
        for (name, value) in map {
            let place = below(place, name);
            match (name.as_str(), value) {
                ("properties" | "patternProperties", Value::Object(named)) => {
                    let each = named.iter();
                    parts.extend(each.map(|(name, schema)| (below(&place, name), schema)));
                }
                ("items" | "prefixItems" | "allOf" | "anyOf" | "oneOf", Value::Array(list)) => {
                    let each = list.iter().enumerate();
                    parts.extend(each.map(|(i, schema)| (below(&place, &i.to_string()), schema)));
                }
                ("items" | "additionalItems" | "additionalProperties", _) => {
                    parts.push((place, value));
                }
                ("$ref", Value::String(reference)) => {
                    let number = reference.rsplit('/').next().unwrap_or_default();
                    let referred = self.prepared.parts.get_key_value(number);
                    let index = number.parse::<usize>().ok();
                    let at = index.and_then(|index| self.prepared.places.get(index));
                    if let (Some((number, schema)), Some(at)) = (referred, at) {
                        if !self.seen.contains(&number.as_str()) {
                            self.seen.push(number);
                            parts.push((at.clone(), schema));
                        }
                    }
                }
                _ => {}
            }
        }
        parts
    }

    fn is_over(&self) -> bool {
        let late = self.until.is_some_and(|until| Instant::now() > until);
        self.tries > MOST_TRIES || late || watch::look().is_err()
    }

    fn fault(&mut self, part: &Value) -> Option<Error> {
        self.tries = self.tries.saturating_add(1);
        if self.is_over() {
            return None;
        }
        let outcome = parser(self.vocabulary, self.prepared.grammar(part));
        outcome.err().filter(|error| error.code == Code::BadGrammar)
    }

    /// The keyword without which the part could be compiled.
    fn keyword(&mut self, part: &'a Value) -> Option<&'a str> {
        let Value::Object(map) = part else {
            return None;
        };
        let without = |name: &str| {
            let others = map.iter().filter(|(other, _)| *other != name);
            Value::Object(others.map(|(k, v)| (k.clone(), v.clone())).collect())
        };
        // What others are about is to blame last.
        let subject = |name: &&String| matches!(name.as_str(), "type" | "properties");
        let (subjects, others): (Vec<_>, Vec<_>) = map.keys().partition(subject);
        let mut names = others.into_iter().chain(subjects);
        let found = names.find(|name| self.fault(&without(name)).is_none() && !self.is_over());
        found.map(String::as_str)
    }
}
