//! Which part of a schema cannot be compiled: llguidance says what is wrong, and not where.

use serde_json::Value;

use super::schema::{below, Prepared};
use super::{parser, Vocabulary};
use crate::error::{Code, Error};
use crate::words::quoted;

/// Parts that are tried.
const MOST_TRIES: usize = 300;

struct Search<'a> {
    vocabulary: &'a Vocabulary,
    prepared: &'a Prepared,
    tries: usize,
    /// Referred parts that were looked into.
    seen: Vec<&'a str>,
}

/// The error with the place of what it is about in front: the deepest part that cannot be compiled by itself.
pub fn of(vocabulary: &Vocabulary, prepared: &Prepared, error: Error) -> Error {
    if error.code != Code::BadGrammar {
        return error;
    }
    let mut search = Search {
        vocabulary,
        prepared,
        tries: 0,
        seen: Vec::new(),
    };
    let (place, error) = search.below("#".to_owned(), &prepared.root, error);
    Error::bad_grammar(format!("{}: {}", quoted(&place, 200), error.message))
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

    fn fault(&mut self, part: &Value) -> Option<Error> {
        self.tries = self.tries.saturating_add(1);
        if self.tries > MOST_TRIES {
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
        let (types, others): (Vec<_>, Vec<_>) = map.keys().partition(|name| *name == "type");
        let mut names = others.into_iter().chain(types);
        let found = names.find(|name| self.fault(&without(name)).is_none());
        found.map(String::as_str)
    }
}
