//! JSON of a model folder, read with checks: every value has its type and range tested where it is taken,
//! and every error names the file and the key.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use super::limits::Limits;
use super::scan::{line_and_column, scan, Finding};
use crate::aside::aside;
use crate::error::{Error, Result};
use crate::room;
use crate::watch;
use crate::words::quoted;

/// Bytes for each byte of a file: strings that grow, and the text again where it has Python's words or is long.
const BYTE_COST: usize = 5;
/// Longer texts are parsed aside: the parser does not look at the watch.
const LONG: usize = 1 << 20;
/// For each list, object, string and item: lists of one within each other take 300.
const PART_COST: usize = 360;

/// Parses a JSON file that must hold one object. Refuses keys given twice, nesting beyond the parser's
/// bound and more values than [`Limits::json_values`]. The words `NaN`, `Infinity` and `-Infinity`, which
/// Python writes, come back as strings of that name, so that no number can hold them.
///
/// `file` is the name for errors; the caller has capped the size of `bytes`.
pub fn parse_object(file: &str, bytes: &[u8]) -> Result<Map<String, Value>> {
    let _room = room::hold_for(cost(bytes), file)?;
    let words = check_text(file, bytes, Limits::DEFAULT.json_values)?;
    if words.is_empty() {
        return parse_checked(file, bytes);
    }
    let mut text = Vec::with_capacity(bytes.len());
    let mut done = 0;
    for word in words {
        text.extend_from_slice(bytes.get(done..word.start).unwrap_or_default());
        text.push(b'"');
        text.extend_from_slice(bytes.get(word.clone()).unwrap_or_default());
        text.push(b'"');
        done = word.end;
    }
    text.extend_from_slice(bytes.get(done..).unwrap_or_default());
    parse_checked(file, &text)
}

/// Parses JSON of any kind that is no file: a caller's. As [`parse_object`], without Python's words.
pub fn parse_json(name: &str, bytes: &[u8]) -> Result<Value> {
    let _room = room::hold_for(cost(bytes), name)?;
    check_text(name, bytes, Limits::DEFAULT.json_values)?;
    parse(bytes)?.map_err(|error| Error::bad_model(format!("{name}: is not valid JSON: {error}")))
}

/// A JSON file that must hold one list; checked as [`parse_object`] does, and without Python's words.
pub(super) fn parse_list(file: &str, bytes: &[u8]) -> Result<Vec<Value>> {
    let _room = room::hold_for(cost(bytes), file)?;
    check_text(file, bytes, Limits::DEFAULT.json_values)?;
    match parse(bytes)? {
        Ok(Value::Array(list)) => Ok(list),
        Ok(other) => Err(Error::bad_model(format!(
            "{file}: must hold a JSON list, holds {}",
            describe(&other)
        ))),
        Err(error) => Err(Error::bad_model(format!(
            "{file}: is not valid JSON: {error}"
        ))),
    }
}

/// [`parse_object`] without Python's words and with another bound on the number of values.
pub(super) fn parse_strict_object(
    file: &str,
    bytes: &[u8],
    max_values: usize,
) -> Result<Map<String, Value>> {
    let _room = room::hold_for(cost(bytes), file)?;
    check_text(file, bytes, max_values)?;
    parse_checked(file, bytes)
}

/// Bytes that a file comes to at most while it is checked and parsed, by what it is made of.
fn cost(bytes: &[u8]) -> usize {
    let begins = |byte: &&u8| matches!(byte, b'[' | b'{' | b',' | b'"');
    let parts = bytes.iter().filter(begins).count();
    let text = bytes.len().saturating_mul(BYTE_COST);
    text.saturating_add(parts.saturating_mul(PART_COST))
}

fn check_text(file: &str, bytes: &[u8], max_values: usize) -> Result<Vec<std::ops::Range<usize>>> {
    scan(bytes, max_values).map_err(|finding| {
        let (what, at) = match finding {
            Finding::Duplicate { key, at } => {
                (format!("the key {} is given twice", quoted(&key, 80)), at)
            }
            Finding::TooDeep { at } => ("the JSON nests too deep".to_string(), at),
            Finding::TooMany { at } => {
                (format!("the JSON holds more than {max_values} values"), at)
            }
            Finding::Stopped(error) => return error,
        };
        let (line, column) = line_and_column(bytes, at);
        Error::bad_model(format!("{file}: {what}, at line {line} column {column}"))
    })
}

fn parse(bytes: &[u8]) -> Result<serde_json::Result<Value>> {
    if bytes.len() <= LONG {
        return Ok(serde_json::from_slice(bytes));
    }
    watch::look()?;
    let bytes = bytes.to_vec();
    aside("reading JSON", &mut || Ok(()), move || {
        Ok(serde_json::from_slice(&bytes))
    })
}

fn parse_checked(file: &str, bytes: &[u8]) -> Result<Map<String, Value>> {
    match parse(bytes)? {
        Ok(Value::Object(map)) => Ok(map),
        Ok(other) => Err(Error::bad_model(format!(
            "{file}: must hold a JSON object, holds {}",
            describe(&other)
        ))),
        Err(error) => Err(Error::bad_model(format!(
            "{file}: is not valid JSON: {error}"
        ))),
    }
}

/// A JSON object together with the file and the key path it came from. `null` counts as absent everywhere.
#[derive(Clone, Debug)]
pub struct Object<'a> {
    file: &'a str,
    path: String,
    map: &'a Map<String, Value>,
}

impl<'a> Object<'a> {
    /// The top-level object of a file.
    pub fn new(file: &'a str, map: &'a Map<String, Value>) -> Self {
        Object {
            file,
            path: String::new(),
            map,
        }
    }

    /// The file's name, for errors of the caller.
    pub fn file(&self) -> &'a str {
        self.file
    }

    /// The keys in the file's order.
    pub fn keys(&self) -> impl Iterator<Item = &'a str> {
        self.map.keys().map(String::as_str)
    }

    /// The raw value; None when it is absent or null.
    pub fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// Whether the key is there, be it null.
    pub fn names(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    pub fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// The error for a value that is not what it must be: `config.json: "a.b" must be …, is …`.
    pub fn wrong(&self, key: &str, must_be: &str) -> Error {
        match self.get(key) {
            Some(value) => Error::bad_model(format!(
                "{} must be {must_be}, is {}",
                self.place(key),
                describe(value)
            )),
            None => Error::bad_model(format!("{} is missing", self.place(key))),
        }
    }

    /// `config.json: "a.b"`, the start of an error about this key.
    pub fn place(&self, key: &str) -> String {
        format!(
            "{}: {}",
            self.file,
            quoted(&format!("{}{key}", self.path), 160)
        )
    }

    /// An integer. `64.0` is one, `true` and `"64"` are not.
    pub fn opt_i64(&self, key: &str, range: RangeInclusive<i64>) -> Result<Option<i64>> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        match integer(value).filter(|n| range.contains(n)) {
            Some(n) => Ok(Some(n)),
            None => Err(self.wrong(
                key,
                &format!("an integer from {} to {}", range.start(), range.end()),
            )),
        }
    }

    pub fn opt_u32(&self, key: &str, range: RangeInclusive<u32>) -> Result<Option<u32>> {
        let wide = i64::from(*range.start())..=i64::from(*range.end());
        Ok(self.opt_i64(key, wide)?.and_then(|n| u32::try_from(n).ok()))
    }

    pub fn u32(&self, key: &str, range: RangeInclusive<u32>) -> Result<u32> {
        self.opt_u32(key, range)?.ok_or_else(|| self.missing(key))
    }

    /// A finite number within the range, both ends included.
    pub fn opt_f32(&self, key: &str, range: RangeInclusive<f32>) -> Result<Option<f32>> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        match number(value).filter(|x| range.contains(x)) {
            Some(x) => Ok(Some(x)),
            None => Err(self.wrong(key, &describe_range(&range))),
        }
    }

    pub fn f32(&self, key: &str, range: RangeInclusive<f32>) -> Result<f32> {
        self.opt_f32(key, range)?.ok_or_else(|| self.missing(key))
    }

    pub fn opt_bool(&self, key: &str) -> Result<Option<bool>> {
        self.opt(key, "true or false", Value::as_bool)
    }

    pub fn opt_str(&self, key: &str) -> Result<Option<&'a str>> {
        self.opt(key, "a string", Value::as_str)
    }

    pub fn str(&self, key: &str) -> Result<&'a str> {
        self.opt_str(key)?.ok_or_else(|| self.missing(key))
    }

    pub fn opt_object(&self, key: &str) -> Result<Option<Object<'a>>> {
        let map = self.opt(key, "an object", Value::as_object)?;
        Ok(map.map(|map| Object {
            file: self.file,
            path: format!("{}{key}.", self.path),
            map,
        }))
    }

    pub fn object(&self, key: &str) -> Result<Object<'a>> {
        self.opt_object(key)?.ok_or_else(|| self.missing(key))
    }

    pub fn opt_array(&self, key: &str) -> Result<Option<&'a [Value]>> {
        self.opt(key, "an array", |value| value.as_array().map(Vec::as_slice))
    }

    /// An array of at most `max_len` strings.
    pub fn opt_strs(&self, key: &str, max_len: usize) -> Result<Option<Vec<&'a str>>> {
        self.opt_items(key, max_len, "a string", Value::as_str)
    }

    fn opt<T>(
        &self,
        key: &str,
        must_be: &str,
        take: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        take(value)
            .map(Some)
            .ok_or_else(|| self.wrong(key, must_be))
    }

    fn opt_items<T>(
        &self,
        key: &str,
        max_len: usize,
        must_be: &str,
        take: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<Vec<T>>> {
        let Some(values) = self.opt_array(key)? else {
            return Ok(None);
        };
        if values.len() > max_len {
            return Err(self.wrong(key, &format!("an array of at most {max_len}")));
        }
        let item = |(i, value)| {
            take(value).ok_or_else(|| {
                let place = self.place(&format!("{key}[{i}]"));
                Error::bad_model(format!("{place} must be {must_be}, is {}", describe(value)))
            })
        };
        values
            .iter()
            .enumerate()
            .map(item)
            .collect::<Result<Vec<T>>>()
            .map(Some)
    }

    fn missing(&self, key: &str) -> Error {
        Error::bad_model(format!("{} is missing", self.place(key)))
    }
}

pub(super) fn integer(value: &Value) -> Option<i64> {
    let Value::Number(number) = value else {
        return None;
    };
    if let Some(n) = number.as_i64() {
        return Some(n);
    }
    // Beyond 2^53 a float no longer says which integer it is.
    let x = number.as_f64()?;
    (x.fract() == 0.0 && x.abs() <= 9_007_199_254_740_992.0).then_some(x as i64)
}

fn number(value: &Value) -> Option<f32> {
    let Value::Number(number) = value else {
        return None;
    };
    Some(number.as_f64()? as f32).filter(|x| x.is_finite())
}

fn describe_range(range: &RangeInclusive<f32>) -> String {
    match (*range.start(), *range.end()) {
        (low, high) if low == -f32::MAX && high == f32::MAX => "a finite number".into(),
        (f32::MIN_POSITIVE, high) if high == f32::MAX => "a finite number above 0".into(),
        (f32::MIN_POSITIVE, high) => format!("a number above 0, up to {high}"),
        (low, high) if high == f32::MAX => format!("a finite number, {low} or more"),
        (low, high) => format!("a number from {low} to {high}"),
    }
}

/// A value as an error shows it: short, whatever it holds.
pub(super) fn describe(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(b) => b.to_string(),
        Value::Number(n) => n.to_string(),
        Value::String(s) => quoted(s, 40),
        Value::Array(a) => format!("an array of {}", a.len()),
        Value::Object(_) => "an object".into(),
    }
}

#[cfg(test)]
#[path = "json_tests.rs"]
mod tests;
