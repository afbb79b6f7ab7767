//! A pass over JSON text before the parser sees it. It bounds what the parser would build, and finds what
//! the parser forgives: a key that an object holds twice.
//!
//! It does not check syntax. It may stop at malformed text, because the parser, which reads in the same
//! order, then stops there too and says what is wrong.

use std::borrow::Cow;
use std::collections::HashSet;
use std::ops::Range;

use crate::error::Error;
use crate::watch;

/// Nesting that the parser would still take.
pub(super) const MAX_DEPTH: usize = 127;

/// Bytes between two looks at the watch.
const LOOK_EVERY: usize = 1 << 20;

/// What makes a text unacceptable; `at` is a byte offset.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Finding {
    Duplicate {
        key: String,
        at: usize,
    },
    TooDeep {
        at: usize,
    },
    TooMany {
        at: usize,
    },
    /// The work is wanted no more.
    Stopped(Error),
}

/// Checks nesting, the number of values and the keys of each object. Returns the places of the words `NaN`,
/// `Infinity` and `-Infinity`, which are not JSON, but which Python writes.
pub(super) fn scan(text: &[u8], max_values: usize) -> Result<Vec<Range<usize>>, Finding> {
    let mut scanner = Scanner { text, at: 0 };
    // One entry for each open bracket: the keys so far and whether a key comes next, or None for an array.
    let mut open: Vec<Option<(HashSet<Cow<str>>, bool)>> = Vec::new();
    let mut values = 0usize;
    let mut words = Vec::new();
    let mut next_look = LOOK_EVERY;
    while let Some(byte) = scanner.peek() {
        let at = scanner.at;
        if at >= next_look {
            watch::look().map_err(Finding::Stopped)?;
            next_look = at.saturating_add(LOOK_EVERY);
        }
        let mut is_value = true;
        match byte {
            b'{' | b'[' => {
                if open.len() >= MAX_DEPTH {
                    return Err(Finding::TooDeep { at });
                }
                open.push((byte == b'{').then(|| (HashSet::new(), true)));
                scanner.step(1);
            }
            b'}' | b']' => {
                open.pop();
                is_value = false;
                scanner.step(1);
            }
            b',' | b':' => {
                if let Some(Some((_, key_next))) = open.last_mut() {
                    *key_next = byte == b',';
                }
                is_value = false;
                scanner.step(1);
            }
            b' ' | b'\t' | b'\r' | b'\n' => {
                is_value = false;
                scanner.step(1);
            }
            b'"' => {
                let Some(quoted) = scanner.string() else {
                    return Ok(words);
                };
                if let Some(Some((keys, true))) = open.last_mut() {
                    let Some(key) = unquote(quoted) else {
                        return Ok(words);
                    };
                    if let Some(key) = keys.replace(key) {
                        return Err(Finding::Duplicate {
                            key: key.into_owned(),
                            at,
                        });
                    }
                }
            }
            _ => {
                let word = scanner.word();
                if matches!(word, b"NaN" | b"Infinity" | b"-Infinity") {
                    words.push(at..scanner.at);
                }
            }
        }
        if is_value {
            values = values.saturating_add(1);
            if values > max_values {
                return Err(Finding::TooMany { at });
            }
        }
    }
    Ok(words)
}

/// Line and column, both from 1, of a byte offset.
pub(super) fn line_and_column(text: &[u8], at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line = before
        .iter()
        .filter(|&&b| b == b'\n')
        .count()
        .saturating_add(1);
    let column = before
        .iter()
        .rev()
        .take_while(|&&b| b != b'\n')
        .count()
        .saturating_add(1);
    (line, column)
}

/// The string inside the quotes. None when it is not valid.
fn unquote(quoted: &[u8]) -> Option<Cow<'_, str>> {
    if quoted.contains(&b'\\') {
        return serde_json::from_slice(quoted).ok().map(Cow::Owned);
    }
    let inner = quoted.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    std::str::from_utf8(inner).ok().map(Cow::Borrowed)
}

struct Scanner<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Scanner<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn step(&mut self, bytes: usize) {
        self.at = self.at.saturating_add(bytes);
    }

    /// Steps over a string and returns it with its quotes; None when it does not end.
    fn string(&mut self) -> Option<&'a [u8]> {
        let start = self.at;
        self.step(1);
        loop {
            match self.peek()? {
                b'"' => {
                    self.step(1);
                    return self.text.get(start..self.at);
                }
                b'\\' => self.step(2),
                _ => self.step(1),
            }
        }
    }

    /// Steps over a number or a word: at least one byte.
    fn word(&mut self) -> &'a [u8] {
        let start = self.at;
        self.step(1);
        while let Some(byte) = self.peek() {
            if matches!(
                byte,
                b'{' | b'}' | b'[' | b']' | b',' | b':' | b'"' | b' ' | b'\t' | b'\r' | b'\n'
            ) {
                break;
            }
            self.step(1);
        }
        self.text.get(start..self.at).unwrap_or_default()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn finds_a_key_given_twice_also_when_spelled_with_escapes() {
        let twice = |text: &str| match scan(text.as_bytes(), 1000) {
            Err(Finding::Duplicate { key, at }) => Some((key, at)),
            _ => None,
        };
        assert_eq!(twice(r#"{"a":1,"a":2}"#), Some(("a".into(), 7)));
        assert_eq!(twice(r#"{"a":1,"\u0061":2}"#), Some(("a".into(), 7)));
        assert_eq!(
            twice(r#"{"x":[{"b":{},"c":1, "b" :2}]}"#),
            Some(("b".into(), 21))
        );
        assert_eq!(twice(r#"{"a":{"a":["a","a",{"a":1}]},"b":"a"}"#), None);
        assert_eq!(twice(r#"{"a\"":1,"a":2,"a\\":3,"":4}"#), None);
    }

    #[test]
    fn counts_values_and_depth() {
        assert_eq!(scan(b"[1,2,3]", 4), Ok(vec![]));
        assert_eq!(scan(b"[1,2,3]", 3), Err(Finding::TooMany { at: 5 }));
        assert_eq!(scan(&b"[".repeat(MAX_DEPTH), 1000), Ok(vec![]));
        assert_eq!(
            scan(&b"[".repeat(100_000), 1000),
            Err(Finding::TooDeep { at: MAX_DEPTH })
        );
    }

    #[test]
    fn the_bound_on_depth_is_the_parsers() {
        let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        serde_json::from_str::<serde_json::Value>(&nested(MAX_DEPTH)).unwrap();
        serde_json::from_str::<serde_json::Value>(&nested(MAX_DEPTH.wrapping_add(1))).unwrap_err();
    }

    #[test]
    fn finds_python_words_outside_strings_only() {
        let text = br#"{"a": NaN, "NaN": "Infinity", "b": [-Infinity,Infinity]}"#;
        let found: Vec<_> = scan(text, 100)
            .unwrap()
            .into_iter()
            .map(|r| text.get(r).unwrap())
            .collect();
        assert_eq!(found, [&b"NaN"[..], b"-Infinity", b"Infinity"]);
    }

    #[test]
    fn survives_every_prefix_and_every_single_byte_change() {
        let text = br#"{"a\n": [1, -2.5e3, {"b": "c\\"}], "d": NaN, "e": {"f": null}}"#;
        for end in 0..text.len() {
            let _ = scan(text.get(..end).unwrap(), 100);
            for byte in 0..=255 {
                let mut changed = text.to_vec();
                *changed.get_mut(end).unwrap() = byte;
                let _ = scan(&changed, 100);
            }
        }
    }

    #[test]
    fn names_lines_and_columns() {
        assert_eq!(line_and_column(b"ab\ncd", 0), (1, 1));
        assert_eq!(line_and_column(b"ab\ncd", 4), (2, 2));
        assert_eq!(line_and_column(b"ab\ncd", 99), (2, 3));
    }
}
