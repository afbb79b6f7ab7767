//! A place in a text that is parsed by hand.

use crate::template::Json;

/// Lists and objects within each other.
pub(super) const MOST_DEPTH: u32 = 64;

#[derive(Clone, Copy)]
pub(super) struct Cursor<'a>(pub &'a str);

impl<'a> Cursor<'a> {
    pub fn space(&mut self) {
        self.0 = self.0.trim_start();
    }

    pub fn peek(&self) -> Option<char> {
        self.0.chars().next()
    }

    /// Whether this comes next; then it is taken.
    pub fn take(&mut self, text: &str) -> bool {
        match self.0.strip_prefix(text) {
            Some(rest) => {
                self.0 = rest;
                true
            }
            None => false,
        }
    }

    /// What comes before `end`, which is taken too.
    pub fn until(&mut self, end: &str) -> Option<&'a str> {
        let (before, rest) = self.0.split_once(end)?;
        self.0 = rest;
        Some(before)
    }

    /// The characters that are so, one or more.
    pub fn word(&mut self, is: impl Fn(char) -> bool) -> Option<&'a str> {
        let end = self.0.find(|c| !is(c)).unwrap_or(self.0.len());
        let (word, rest) = self.0.split_at_checked(end)?;
        self.0 = rest;
        (!word.is_empty()).then_some(word)
    }

    /// A number as JSON writes it, or Python without its extras.
    pub fn number(&mut self) -> Option<Json> {
        let is = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
        let word = self.word(is)?;
        let word = word.strip_prefix('+').unwrap_or(word);
        if let Ok(number @ (Json::Int(_) | Json::Big(_) | Json::Float(_))) =
            Json::parse(word.as_bytes())
        {
            return Some(number)
                .filter(|number| !matches!(number, Json::Float(f) if !f.is_finite()));
        }
        // `.5` and `5.`
        let plain = word
            .bytes()
            .all(|b| b.is_ascii_digit() || b == b'.' || b == b'-');
        let float: f64 = word.parse().ok().filter(|_| plain)?;
        Some(Json::Float(float))
    }
}
