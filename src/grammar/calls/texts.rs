//! Texts that stand in a call without quotes.

use serde_json::{Map, Value};

use super::fields::not_here;
use super::write::Writer;
use crate::error::Result;
use crate::grammar::keywords::{format, keyword, Format, Keyword};
use crate::grammar::schema::{bad, below};
use crate::text::shape::Values;

/// Characters that are counted; longer texts are allowed no more.
const MOST_COUNTED: u64 = 1 << 14;

/// Which texts there may be.
pub(super) struct Texts {
    /// One of these.
    choices: Option<Vec<String>>,
    shortest: u64,
    longest: Option<u64>,
    /// No blanks at its ends: who reads it takes them away.
    trimmed: bool,
    /// Not `null`, which is read as no text.
    not_null: bool,
}

impl Texts {
    /// Of a tagged argument; none where it is JSON.
    ///
    /// Errors: `BadGrammar` names a keyword that a text without quotes cannot be held to.
    pub fn of_tagged(values: Values, place: &str, schema: &Value) -> Result<Option<Texts>> {
        let plain = Map::new();
        let map = match schema {
            Value::Object(map) => map,
            Value::Bool(true) => &plain,
            _ => return bad(place, "no value is allowed"),
        };
        let texts = match (map.get("type").and_then(Value::as_str), values) {
            (Some("string"), _) => Texts::of(place, map)?,
            (Some(_), _) | (None, Values::Glm) => return Ok(None),
            // Whatever stands there is read as a text.
            (None, Values::Coder | Values::MiniMax) => match any_text(map) {
                None => Texts::of(place, &plain)?,
                Some(keyword) => return not_here(&below(place, keyword), keyword),
            },
        };
        Ok(Some(Texts {
            trimmed: values != Values::Coder,
            not_null: values != Values::Glm,
            ..texts
        }))
    }

    /// Of the type `string`.
    pub fn of(place: &str, map: &Map<String, Value>) -> Result<Texts> {
        let mut texts = Texts {
            choices: None,
            shortest: 0,
            longest: None,
            trimmed: false,
            not_null: false,
        };
        for (name, value) in map {
            let place = below(place, name);
            match name.as_str() {
                "type" => {}
                "enum" => {
                    let list = value.as_array().map(Vec::as_slice).unwrap_or_default();
                    let list = list.iter().filter_map(Value::as_str).map(str::to_owned);
                    texts.choices = Some(list.collect());
                }
                "const" => {
                    texts.choices = Some(value.as_str().map(str::to_owned).into_iter().collect())
                }
                "minLength" => texts.shortest = count(&place, value)?,
                "maxLength" => texts.longest = Some(count(&place, value)?.min(MOST_COUNTED)),
                "format" => match value.as_str().map(format) {
                    Some(Format::Hint) => {}
                    _ => return not_here(&place, name),
                },
                _ if matches!(keyword(name), Keyword::Silent | Keyword::Unknown) => {}
                _ => return not_here(&place, name),
            }
        }
        if texts.shortest > MOST_COUNTED {
            return bad(
                &below(place, "minLength"),
                format!("at most {MOST_COUNTED} characters are counted"),
            );
        }
        Ok(texts)
    }

    /// Those of the choices that are read as they are written, `behind` being what ends a text.
    fn kept(&self, choices: &[String], behind: &str) -> Vec<String> {
        let kept = choices.iter().filter(|text| {
            let length = text.chars().count() as u64;
            let long = length >= self.shortest && self.longest.is_none_or(|most| length <= most);
            let trimmed = !self.trimmed || text.trim() == text.as_str();
            let null = self.not_null && text.eq_ignore_ascii_case("null");
            let ends = text.contains(behind.trim());
            long && trimmed && !null && !ends && !text.starts_with('\n') && !text.ends_with('\n')
        });
        kept.cloned().collect()
    }

    /// As a regular expression.
    fn pattern(&self) -> String {
        let counted = |least: u64, most: Option<u64>| match most {
            None if least == 0 => "(?s:.*)".to_owned(),
            None => format!("(?s:.{{{least},}})"),
            Some(most) => format!("(?s:.{{{least},{most}}})"),
        };
        if !self.trimmed {
            return counted(self.shortest, self.longest);
        }
        let mut ways = Vec::new();
        if self.shortest == 0 {
            ways.push(String::new());
        }
        if self.shortest <= 1 && self.longest != Some(0) {
            ways.push("\\S".to_owned());
        }
        if self.longest.is_none_or(|most| most >= 2) {
            let inner = counted(
                self.shortest.saturating_sub(2),
                self.longest.map(|most| most.saturating_sub(2)),
            );
            ways.push(format!("\\S{inner}\\S"));
        }
        format!("({})", ways.join("|"))
    }
}

/// Why a schema without a type of its own may not be any text: the keyword.
fn any_text(map: &Map<String, Value>) -> Option<&str> {
    let is_text = |schema: &Value| match schema {
        Value::Bool(any) => *any,
        Value::Object(map) => {
            let only = |name: &String| name == "type" || keyword(name) == Keyword::Silent;
            map.keys().all(only) && map.get("type").is_none_or(has_string)
        }
        _ => false,
    };
    let mut odd = map.iter().filter(|(name, value)| match name.as_str() {
        "type" => !has_string(value),
        "anyOf" => !value
            .as_array()
            .is_some_and(|list| list.iter().any(is_text)),
        name => !matches!(keyword(name), Keyword::Silent | Keyword::Unknown),
    });
    odd.next().map(|(name, _)| name.as_str())
}

fn has_string(kind: &Value) -> bool {
    match kind {
        Value::Array(kinds) => kinds.iter().any(has_string),
        kind => kind == "string",
    }
}

fn count(place: &str, value: &Value) -> Result<u64> {
    match value.as_u64() {
        Some(count) => Ok(count),
        None => bad(place, "must be a whole number that is not negative"),
    }
}

impl Writer<'_> {
    /// A text, and what stands behind it.
    pub fn text(&mut self, texts: &Texts, behind: &str) -> String {
        let end = self.literal(behind);
        if let Some(choices) = &texts.choices {
            let kept = texts.kept(choices, behind);
            let kept: Vec<String> = kept
                .iter()
                .map(|text| Value::from(text.as_str()).to_string())
                .collect();
            // Nothing is left where none can be written: no text matches.
            let choice = match kept.is_empty() {
                true => "/[^\\s\\S]/".to_owned(),
                false => kept.join(" | "),
            };
            return self.rule(&format!("({choice}) {end}"));
        }
        let mut pattern = format!("/{}/", texts.pattern());
        if texts.not_null {
            pattern.push_str(" & ~/(?i:null)/");
        }
        let terminal = self.terminal(&pattern);
        // A token ends a text wherever it stands; letters only where they are looked for from the front.
        if end.starts_with('<') {
            return format!("{terminal} {end}");
        }
        let (literal, rest) = match self.channels.token_in(behind) {
            Some((at, _, _)) => behind.split_at_checked(at).unwrap_or((behind, "")),
            None => (behind, ""),
        };
        let name = self.name("r");
        let suffix = Value::from(literal).to_string();
        self.define(&format!("{name}[suffix={suffix}]"), &terminal);
        format!("{name} {}", self.literal(rest))
    }
}
