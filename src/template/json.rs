//! JSON as Python reads it, for what a template sees: whole numbers of any length stay whole, keys keep their order, and
//! of two equal keys the last one counts, at the place of the first. (serde_json makes floats of long whole numbers, and
//! its way to keep them is a switch for every crate of the program.)

use std::collections::hash_map::RandomState;
use std::collections::HashMap;
use std::hash::BuildHasher;

use num_bigint::BigInt;

use super::error::{ErrorKind, TemplateError};
use super::string::{Origin, Str};
use super::value::{Value, V};
use crate::error::{Error, Result as Done};
use crate::watch;

/// Lists and objects within each other, as serde_json has it.
const MAX_DEPTH: u32 = 128;
/// Python refuses longer whole numbers too.
const MAX_DIGITS: usize = 4300;
/// From so many keys on, equal ones are found by their hashes.
const HASHED: usize = 12;
/// Values between two looks at the watch.
const LOOK_EVERY: usize = 1024;

/// Bytes for each byte of a text: of strings that grow, and of their copy as a value.
const BYTE_COST: usize = 4;
/// For each list, object, string and item: a list of one takes 290, its place and its value included.
const PART_COST: usize = 320;

#[derive(Clone, Debug, PartialEq)]
pub enum Json {
    Null,
    Bool(bool),
    Int(i64),
    /// Only what does not fit `Int`.
    Big(Box<BigInt>),
    Float(f64),
    Text(String),
    List(Vec<Json>),
    Object(Object),
}

/// Keys and values in their order; no key is there twice.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Object(Vec<(String, Json)>);

impl Object {
    pub fn get(&self, key: &str) -> Option<&Json> {
        let found = self.0.iter().find(|(have, _)| have == key);
        found.map(|(_, value)| value)
    }

    pub fn get_mut(&mut self, key: &str) -> Option<&mut Json> {
        let found = self.0.iter_mut().find(|(have, _)| have == key);
        found.map(|(_, value)| value)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &Json)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value))
    }

    pub fn retain(&mut self, keep: impl Fn(&Json) -> bool) {
        self.0.retain(|(_, value)| keep(value));
    }

    /// The value of a key, taken out.
    pub fn take(&mut self, key: &str) -> Option<Json> {
        let place = self.0.iter().position(|(have, _)| have == key)?;
        Some(self.0.remove(place).1)
    }

    /// Sets a key; an earlier one keeps its place.
    pub fn set(&mut self, key: &str, value: Json) {
        match self.get_mut(key) {
            Some(slot) => *slot = value,
            None => self.0.push((key.to_owned(), value)),
        }
    }

    /// Sets a key and puts it before all others.
    pub fn set_first(&mut self, key: &str, value: Json) {
        self.0.retain(|(have, _)| have != key);
        self.0.insert(0, (key.to_owned(), value));
    }
}

impl Json {
    /// Errors: what is wrong, with line and column.
    pub fn parse(json: &[u8]) -> Result<Json, String> {
        Reader::new(utf8(json)?).whole()
    }

    /// As `parse`, of an argument that may be long: the watch can end it.
    ///
    /// Errors: `InvalidArgument` names the argument; those of the watch.
    pub fn parse_argument(name: &str, json: &[u8]) -> Done<Json> {
        let wrong = |error| Error::invalid(format!("{name} is not valid JSON: {error}"));
        let mut reader = Reader::new(utf8(json).map_err(wrong)?);
        reader.watched = true;
        let value = reader.whole();
        match reader.stopped {
            Some(stopped) => Err(stopped),
            None => value.map_err(wrong),
        }
    }

    /// The value that a text begins with, and its length.
    pub fn first(text: &str) -> Option<(Json, usize)> {
        let mut reader = Reader::new(text);
        let value = reader.value(MAX_DEPTH).ok()?;
        Some((value, reader.at))
    }

    /// Bytes that a text comes to at most, parsed and made a template's value: what it is made of counts, not its length.
    pub fn cost(json: &[u8]) -> usize {
        let begins = |byte: &&u8| matches!(byte, b'[' | b'{' | b',' | b'"');
        let parts = json.iter().filter(begins).count();
        let text = json.len().saturating_mul(BYTE_COST);
        text.saturating_add(parts.saturating_mul(PART_COST))
    }

    /// As `parse` reads it.
    pub fn write(&self) -> String {
        let mut out = String::new();
        self.write_to(&mut out);
        out
    }

    fn write_to(&self, out: &mut String) {
        match self {
            Json::Null => out.push_str("null"),
            Json::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
            Json::Int(value) => out.push_str(&value.to_string()),
            Json::Big(value) => out.push_str(&value.to_string()),
            // What was too large.
            Json::Float(value) if value.is_infinite() => {
                out.push_str(if *value > 0.0 { "1e999" } else { "-1e999" });
            }
            Json::Float(value) => out.push_str(&format!("{value:?}")),
            Json::Text(text) => write_text(text, out),
            Json::List(items) => {
                out.push('[');
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    item.write_to(out);
                }
                out.push(']');
            }
            Json::Object(object) => {
                out.push('{');
                for (index, (key, value)) in object.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    write_text(key, out);
                    out.push(':');
                    value.write_to(out);
                }
                out.push('}');
            }
        }
    }

    pub fn as_text(&self) -> Option<&str> {
        match self {
            Json::Text(text) => Some(text),
            _ => None,
        }
    }

    /// With its article, for error messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Json::Null => "null",
            Json::Bool(_) => "a boolean",
            Json::Int(_) | Json::Big(_) | Json::Float(_) => "a number",
            Json::Text(_) => "a string",
            Json::List(_) => "a list",
            Json::Object(_) => "an object",
        }
    }

    /// As a template's value: everything in it, keys, numbers and how many there are included, has the one origin.
    ///
    /// Errors: deeper than a template's values may be; those of the watch.
    pub fn to_value(&self, origin: Origin) -> Result<Value, TemplateError> {
        let value = match self {
            Json::Null => Value(V::none()),
            Json::Bool(value) => Value::bool(*value),
            Json::Int(value) => Value(V::int(*value)),
            Json::Big(value) => Value(V::given_big(BigInt::clone(value))),
            Json::Float(value) => Value(V::float(*value)),
            Json::Text(text) => return Ok(Value::str(text.as_str(), origin)),
            // No iterators, which would take several frames for each level.
            Json::List(items) => {
                let mut values = Vec::with_capacity(items.len());
                for items in items.chunks(LOOK_EVERY) {
                    wanted()?;
                    for item in items {
                        values.push(item.to_value(origin)?);
                    }
                }
                Value::list(values)?
            }
            Json::Object(Object(entries)) => {
                let mut values = Vec::with_capacity(entries.len());
                for entries in entries.chunks(LOOK_EVERY) {
                    wanted()?;
                    for (key, value) in entries {
                        let value = value.to_value(origin)?;
                        values.push((Str::new(key.as_str(), origin), value));
                    }
                }
                Value::dict(values)?
            }
        };
        Ok(value.shaped(origin))
    }
}

/// Whether the value is still wanted. (It has no place in a template.)
fn wanted() -> Result<(), TemplateError> {
    watch::look().map_err(|error| TemplateError {
        line: 0,
        column: 0,
        kind: ErrorKind::Stopped(error.code),
        message: error.message,
    })
}

fn write_text(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\0'..='\u{1f}' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
}

fn utf8(json: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(json).map_err(|error| format!("not UTF-8 at byte {}", error.valid_up_to()))
}

struct Reader<'a> {
    text: &'a str,
    /// In bytes, on the border of a character.
    at: usize,
    /// Whether to look at the watch, the values since it was looked at, and what it said.
    watched: bool,
    values: usize,
    stopped: Option<Error>,
}

impl<'a> Reader<'a> {
    fn new(text: &'a str) -> Self {
        Reader {
            text,
            at: 0,
            watched: false,
            values: 0,
            stopped: None,
        }
    }

    fn whole(&mut self) -> Result<Json, String> {
        let value = self.value(MAX_DEPTH)?;
        self.space();
        match self.peek() {
            None => Ok(value),
            Some(_) => Err(self.wrong("trailing characters")),
        }
    }

    /// Called for each value. What it gives goes up to where `stopped` is looked at.
    fn look(&mut self) -> Result<(), String> {
        self.values = self.values.saturating_add(1);
        if self.values < LOOK_EVERY || !self.watched {
            return Ok(());
        }
        self.values = 0;
        watch::look().map_err(|error| {
            self.stopped = Some(error);
            String::new()
        })
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn skip(&mut self, bytes: usize) {
        self.at = self.at.saturating_add(bytes);
    }

    fn take(&mut self, byte: u8) -> bool {
        let there = self.peek() == Some(byte);
        self.skip(usize::from(there));
        there
    }

    fn space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.skip(1);
        }
    }

    #[cold]
    fn wrong(&self, what: &str) -> String {
        let before = self.text.get(..self.at).unwrap_or(self.text);
        let line = before.matches('\n').count().saturating_add(1);
        let column = before.rsplit('\n').next().map_or(0, |l| l.chars().count());
        format!("{what} at line {line} column {}", column.saturating_add(1))
    }

    /// `depth` is how much deeper it may still get.
    fn value(&mut self, depth: u32) -> Result<Json, String> {
        self.look()?;
        self.space();
        match self.peek() {
            Some(b'{' | b'[') if depth == 0 => Err(self.wrong("recursion limit exceeded")),
            Some(b'{') => self.object(depth.saturating_sub(1)),
            Some(b'[') => self.list(depth.saturating_sub(1)),
            Some(b'"') => self.string().map(Json::Text),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(_) => {
                let words = [
                    ("null", Json::Null),
                    ("true", Json::Bool(true)),
                    ("false", Json::Bool(false)),
                ];
                for (word, value) in words {
                    if self.rest().starts_with(word) {
                        self.skip(word.len());
                        return Ok(value);
                    }
                }
                Err(self.wrong("expected a value"))
            }
            None => Err(self.wrong("the end comes too early")),
        }
    }

    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or("")
    }

    fn list(&mut self, depth: u32) -> Result<Json, String> {
        self.skip(1);
        let mut items = Vec::new();
        self.space();
        if self.take(b']') {
            return Ok(Json::List(items));
        }
        loop {
            items.push(self.value(depth)?);
            self.space();
            if self.take(b']') {
                return Ok(Json::List(items));
            }
            if !self.take(b',') {
                return Err(self.wrong("expected \",\" or \"]\""));
            }
        }
    }

    fn object(&mut self, depth: u32) -> Result<Json, String> {
        self.skip(1);
        let mut entries = Entries::default();
        self.space();
        if self.take(b'}') {
            return Ok(Json::Object(entries.object));
        }
        loop {
            self.space();
            if self.peek() != Some(b'"') {
                return Err(self.wrong("key must be a string"));
            }
            let key = self.string()?;
            self.space();
            if !self.take(b':') {
                return Err(self.wrong("expected \":\""));
            }
            let value = self.value(depth)?;
            entries.add(key, value);
            self.space();
            if self.take(b'}') {
                return Ok(Json::Object(entries.object));
            }
            if !self.take(b',') {
                return Err(self.wrong("expected \",\" or \"}\""));
            }
        }
    }

    fn string(&mut self) -> Result<String, String> {
        self.skip(1);
        let mut out = String::new();
        loop {
            let rest = self.rest();
            let plain = rest
                .bytes()
                .position(|byte| matches!(byte, b'"' | b'\\' | 0..=0x1f))
                .unwrap_or(rest.len());
            out.push_str(rest.get(..plain).unwrap_or(""));
            self.skip(plain);
            match self.peek() {
                Some(b'"') => {
                    self.skip(1);
                    return Ok(out);
                }
                Some(b'\\') => out.push(self.escape()?),
                Some(_) => return Err(self.wrong("control character within a string")),
                None => return Err(self.wrong("the end comes within a string")),
            }
        }
    }

    fn escape(&mut self) -> Result<char, String> {
        self.skip(1);
        let byte = self.peek();
        self.skip(1);
        Ok(match byte {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => return self.code_unit(),
            _ => {
                self.at = self.at.saturating_sub(1);
                return Err(self.wrong("invalid escape"));
            }
        })
    }

    /// One `\uXXXX`, or two of them that make a character.
    fn code_unit(&mut self) -> Result<char, String> {
        let first = self.hex()?;
        if let Some(c) = char::from_u32(first) {
            return Ok(c);
        }
        // Half of a pair is no text.
        let mut units = vec![u16::try_from(first).unwrap_or(0)];
        if self.rest().starts_with("\\u") {
            self.skip(2);
            units.push(u16::try_from(self.hex()?).unwrap_or(0));
        }
        match char::decode_utf16(units).next() {
            Some(Ok(c)) => Ok(c),
            _ => Err(self.wrong("lone surrogate in an escape")),
        }
    }

    fn hex(&mut self) -> Result<u32, String> {
        let digits = self.rest().get(..4).unwrap_or("");
        if digits.len() != 4 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(self.wrong("invalid escape"));
        }
        self.skip(4);
        u32::from_str_radix(digits, 16).map_err(|_| self.wrong("invalid escape"))
    }

    fn digits(&mut self) -> Result<(), String> {
        let count = self
            .rest()
            .bytes()
            .position(|byte| !byte.is_ascii_digit())
            .unwrap_or(self.rest().len());
        self.skip(count);
        match count {
            0 => Err(self.wrong("invalid number")),
            _ => Ok(()),
        }
    }

    fn number(&mut self) -> Result<Json, String> {
        let rest = self.rest();
        let start = self.at;
        self.take(b'-');
        // No digit follows a leading zero.
        if !self.take(b'0') {
            self.digits()?;
        }
        let mut whole = true;
        if self.take(b'.') {
            self.digits()?;
            whole = false;
        }
        if self.take(b'e') || self.take(b'E') {
            let _ = self.take(b'+') || self.take(b'-');
            self.digits()?;
            whole = false;
        }
        if let Some(b'0'..=b'9') = self.peek() {
            return Err(self.wrong("invalid number"));
        }
        let number = rest.get(..self.at.saturating_sub(start)).unwrap_or("");
        if !whole {
            // What is too large is infinite, as in Python.
            return Ok(Json::Float(number.parse().unwrap_or(f64::NAN)));
        }
        if let Ok(small) = number.parse() {
            return Ok(Json::Int(small));
        }
        if number.len() > MAX_DIGITS {
            return Err(self.wrong("a whole number of more than 4300 digits"));
        }
        match number.parse() {
            Ok(big) => Ok(Json::Big(Box::new(big))),
            Err(_) => Err(self.wrong("invalid number")),
        }
    }
}

/// An object in the making.
#[derive(Default)]
struct Entries {
    object: Object,
    hasher: RandomState,
    /// By the hash of a key, where it is.
    places: HashMap<u64, usize>,
}

impl Entries {
    fn add(&mut self, key: String, value: Json) {
        let entries = &mut self.object.0;
        let place = if entries.len() < HASHED {
            entries.iter().position(|(have, _)| *have == key)
        } else {
            if self.places.is_empty() {
                let keys = entries.iter().enumerate();
                self.places = keys
                    .map(|(place, (key, _))| (self.hasher.hash_one(key), place))
                    .collect();
            }
            let next = entries.len();
            let place = *self
                .places
                .entry(self.hasher.hash_one(&key))
                .or_insert(next);
            // Two keys of one hash: what a template makes of the object looks again.
            let same = entries.get(place).is_some_and(|(have, _)| *have == key);
            same.then_some(place)
        };
        match place.and_then(|place| entries.get_mut(place)) {
            Some(slot) => slot.1 = value,
            None => entries.push((key, value)),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::{Limits, Now, Template};
    use super::*;

    fn shown(json: &Json) -> String {
        let value = json.to_value(Origin::Content).unwrap();
        let context = Value::dict(vec![(Str::new("x", Origin::Template), value)]).unwrap();
        let template = Template::parse("{{ x | tojson }}", &Limits::default()).unwrap();
        let clock = || Now::from_unix(0, 0);
        let rendered = template.render(&context, &clock, &Limits::default());
        rendered.unwrap().text
    }

    /// What json.dumps(json.loads(text), ensure_ascii=False) prints in Python.
    #[test]
    fn reads_what_python_reads() {
        for (json, python) in [
            ("123456789012345678901234", "123456789012345678901234"),
            (
                "[-9223372036854775808, -9223372036854775809]",
                "[-9223372036854775808, -9223372036854775809]",
            ),
            (
                "[18446744073709551616, 0, -0, -1]",
                "[18446744073709551616, 0, 0, -1]",
            ),
            (
                "[1.0, -0.0, 1e2, 1E-7, 2.50]",
                "[1.0, -0.0, 100.0, 1e-07, 2.5]",
            ),
            (r#" {"a" : 1 , "b":2, "a":3} "#, r#"{"a": 3, "b": 2}"#),
            (
                r#""\"\\\/\b\f\n\r\t\u00e9\ud83d\ude00""#,
                "\"\\\"\\\\/\\b\\f\\n\\r\\té😀\"",
            ),
            ("[null,true,false,[],{}]", "[null, true, false, [], {}]"),
        ] {
            let value = Json::parse(json.as_bytes()).unwrap();
            assert_eq!(shown(&value), python, "{json}");
        }
        let many: Vec<String> = (0..40).map(|i| format!("\"k{}\":{i}", i % 20)).collect();
        let many = Json::parse(format!("{{{}}}", many.join(",")).as_bytes()).unwrap();
        let wanted = (0..20).map(|i| (format!("k{i}"), Json::Int(i + 20)));
        assert_eq!(many, Json::Object(Object(wanted.collect())));
    }

    #[test]
    fn what_is_no_json_is_refused_with_its_place() {
        for (json, wanted) in [
            ("", "the end comes too early at line 1 column 1"),
            ("[1,\n é]", "expected a value at line 2 column 2"),
            ("[1 2]", "expected \",\" or \"]\" at line 1 column 4"),
            ("{1:2}", "key must be a string at line 1 column 2"),
            ("{\"a\" 1}", "expected \":\" at line 1 column 6"),
            ("{\"a\":1,}", "key must be a string at line 1 column 8"),
            ("[1,]", "expected a value at line 1 column 4"),
            ("nul", "expected a value at line 1 column 1"),
            ("NaN", "expected a value at line 1 column 1"),
            ("1 1", "trailing characters at line 1 column 3"),
            ("01", "invalid number at line 1 column 2"),
            ("-", "invalid number at line 1 column 2"),
            ("1.", "invalid number at line 1 column 3"),
            ("1e+", "invalid number at line 1 column 4"),
            (
                "\"a\nb\"",
                "control character within a string at line 1 column 3",
            ),
            ("\"a", "the end comes within a string at line 1 column 3"),
            ("\"\\x\"", "invalid escape at line 1 column 3"),
            ("\"\\u12é4\"", "invalid escape at line 1 column 4"),
            ("\"\\", "invalid escape at line 1 column 3"),
            (
                "\"\\ud800\"",
                "lone surrogate in an escape at line 1 column 8",
            ),
            (
                "\"\\ud800\\u0041\"",
                "lone surrogate in an escape at line 1 column 14",
            ),
        ] {
            assert_eq!(Json::parse(json.as_bytes()).unwrap_err(), wanted, "{json}");
        }
        assert_eq!(Json::parse(b"\"\xff\"").unwrap_err(), "not UTF-8 at byte 1");
    }

    #[test]
    fn depth_and_digits_are_bounded() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(Json::parse(nested(128).as_bytes()).is_ok());
        let error = Json::parse(nested(200_000).as_bytes()).unwrap_err();
        assert_eq!(error, "recursion limit exceeded at line 1 column 129");
        // As deep as it gets, on as little stack as a caller may have for it.
        let text = format!("{}{}", r#"{"a":["#.repeat(64), "]}".repeat(64));
        let used = super::super::tests::on_small_stack(move || {
            let json = Json::parse(text.as_bytes()).unwrap();
            let value = json.to_value(Origin::Content).unwrap();
            drop(json.clone());
            (json.write() == text, json == json.clone(), value)
        });
        assert!(used.0 && used.1);
        assert!(Json::parse("9".repeat(4300).as_bytes()).is_ok());
        let error = Json::parse("9".repeat(1 << 20).as_bytes()).unwrap_err();
        assert!(
            error.starts_with("a whole number of more than 4300 digits"),
            "{error}"
        );
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod cost_tests {
    use super::*;

    /// What costs most for its length, and what people send.
    #[test]
    fn parsing_takes_no_more_than_it_says() {
        let n = 20_000;
        let list = |one: &str| format!("[{}0]", one.repeat(n));
        let keys: String = (0..n).map(|i| format!("\"{i:x}\":0,")).collect();
        let deep = format!("{}0{},", "[".repeat(100), "]".repeat(100));
        let deep_objects = format!("{}0{},", "{\"\":".repeat(100), "}".repeat(100));
        for doc in [
            format!("\"{}\"", "x".repeat(n * 10)),
            format!("\"{}\"", "\\n".repeat(n * 5)),
            format!("\"{}\"", "\\ud83d\\ude00".repeat(n)),
            format!("\"{}\"", "once upon a time, there was a fox. ".repeat(n)),
            list("0,"),
            list("[],"),
            list("[0],"),
            list("[0,0,0,0,0],"),
            list("{},"),
            list("{\"\":0},"),
            list("{\"a\":0,\"b\":0,\"c\":0,\"d\":0,\"e\":0},"),
            list("\"\","),
            list("\"a\","),
            list("99999999999999999999,"),
            format!("{{{keys}\"\":0}}"),
            format!("[{}0]", deep.repeat(n / 100)),
            format!("[{}0]", deep_objects.repeat(n / 100)),
        ] {
            let (peak, _) = crate::reserve::peak_of(|| {
                let json = Json::parse(doc.as_bytes()).unwrap();
                let value = json.to_value(Origin::Content).unwrap();
                (json, value)
            });
            let (cost, start) = (Json::cost(doc.as_bytes()), doc.get(..40));
            assert!(peak <= cost, "{start:?}: {peak} and not {cost}");
        }
        let prose = "once upon a time, there was a fox. ".repeat(n);
        let cost = Json::cost(prose.as_bytes());
        assert!(cost < 16 * prose.len(), "{cost} for {}", prose.len());
    }
}
