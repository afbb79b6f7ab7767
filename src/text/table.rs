//! The bytes of every token, out of the decoder section of tokenizer.json.

use serde_json::Value;

use super::sanitise::brief;
use crate::error::{Code, Error, Result};
use crate::watch;

/// Of all tokens' texts.
const MAX_TABLE_BYTES: usize = 256 << 20;
/// Of one token's, after each step of the decoder. Those of published ones are no longer than their names.
const MAX_TOKEN_BYTES: usize = 4 << 10;
/// Steps of the decoder, whatever they are nested in.
const MAX_STEPS: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// No such token: a padding row of the model's vocabulary, or a hole in the tokenizer's.
    Unknown,
    Plain,
    Special,
}

/// Every token's bytes, made once at load.
#[derive(Debug)]
pub struct Table {
    plain: Bytes,
    /// The bytes of a token that opens the text, where the decoder treats that place differently.
    first: Option<Bytes>,
    standing: Vec<Standing>,
    /// The tokens that are one byte each, by that byte; a few of each.
    bytes: Vec<Vec<u32>>,
    /// So many of this character are cut off the front of the text.
    pub(super) strip: Option<(char, usize)>,
}

/// Of tokens for the same byte; byte-fallback vocabularies have two where a letter is an entry of its own.
const MOST_FOR_A_BYTE: usize = 4;

#[derive(Debug, Default)]
struct Bytes {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Bytes {
    fn push(&mut self, token: &[u8]) -> Result<()> {
        let end = self.bytes.len().saturating_add(token.len());
        if end > MAX_TABLE_BYTES {
            return Err(too_long());
        }
        let room = self.bytes.try_reserve(token.len());
        room.and_then(|()| self.ends.try_reserve(1)).map_err(|_| {
            let message = format!("tokenizer.json: no memory for the {end} bytes of its tokens");
            Error::new(Code::OutOfMemory, message)
        })?;
        self.bytes.extend_from_slice(token);
        self.ends.push(end);
        Ok(())
    }

    fn get(&self, id: usize) -> &[u8] {
        let start = match id.checked_sub(1) {
            Some(before) => self.ends.get(before).copied().unwrap_or(0),
            None => 0,
        };
        self.ends
            .get(id)
            .and_then(|end| self.bytes.get(start..*end))
            .unwrap_or(&[])
    }
}

impl Table {
    /// `tokens` gives each id's string and whether it is special, in order of the ids.
    pub fn new(
        decoder: &Value,
        tokens: impl Iterator<Item = Option<(String, bool)>>,
    ) -> Result<Self> {
        let plan = Plan::parse(decoder)?;
        let mut plain = Bytes::default();
        let mut first = plan.first_differs().then(Bytes::default);
        let mut standing = Vec::new();
        let mut by_byte = vec![Vec::new(); 256];
        for token in tokens {
            watch::look()?;
            let (string, kind) = match token {
                Some((string, true)) => (string, Standing::Special),
                Some((string, false)) => (string, Standing::Plain),
                None => (String::new(), Standing::Unknown),
            };
            let id = standing.len() as u32;
            standing.push(kind);
            let known = kind != Standing::Unknown;
            if let Some(first) = &mut first {
                first.push(&if known {
                    plan.bytes(&string, true)?
                } else {
                    Vec::new()
                })?;
            }
            let bytes = if known {
                plan.bytes(&string, false)?
            } else {
                Vec::new()
            };
            if let ([byte], Standing::Plain) = (bytes.as_slice(), kind) {
                let ids = by_byte.get_mut(usize::from(*byte));
                if let Some(ids) = ids.filter(|ids| ids.len() < MOST_FOR_A_BYTE) {
                    ids.push(id);
                }
            }
            plain.push(&bytes)?;
        }
        Ok(Table {
            plain,
            first,
            standing,
            bytes: by_byte,
            strip: plan.strip,
        })
    }

    pub fn len(&self) -> usize {
        self.standing.len()
    }

    /// A special token is text after all.
    pub fn set_plain(&mut self, id: u32) {
        if let Some(standing) = self.standing.get_mut(id as usize) {
            *standing = Standing::Plain;
        }
    }

    /// A token's bytes in tokens of one byte each; None where one of them has none that is allowed.
    pub(super) fn spelled(&self, id: u32, allowed: impl Fn(u32) -> bool) -> Option<Vec<u32>> {
        let bytes = self.plain.get(id as usize);
        let token = |byte: &u8| {
            let ids = self.bytes.get(usize::from(*byte))?;
            ids.iter().copied().find(|id| allowed(*id))
        };
        bytes.iter().map(token).collect()
    }

    pub fn is_special(&self, id: i32) -> bool {
        self.standing(id) == Standing::Special
    }

    pub(super) fn standing(&self, id: i32) -> Standing {
        usize::try_from(id)
            .ok()
            .and_then(|id| self.standing.get(id).copied())
            .unwrap_or(Standing::Unknown)
    }

    pub(super) fn bytes(&self, id: i32, first: bool) -> &[u8] {
        let Ok(id) = usize::try_from(id) else {
            return &[];
        };
        match &self.first {
            Some(table) if first => table.get(id),
            _ => self.plain.get(id),
        }
    }
}

/// The decoder section as steps over one token's string.
#[derive(Debug, Default)]
struct Plan {
    steps: Vec<Step>,
    /// Steps that were read, sequences too.
    read: usize,
    fused: bool,
    /// No decoder at all: tokens are joined with a space.
    spaced: bool,
    strip: Option<(char, usize)>,
}

#[derive(Debug)]
enum Step {
    Replace {
        from: String,
        to: String,
    },
    ByteFallback,
    ByteLevel,
    Metaspace {
        replacement: char,
        keep_first: bool,
    },
    WordPiece {
        prefix: String,
        cleanup: bool,
    },
    Strip {
        content: char,
        start: usize,
        stop: usize,
    },
}

impl Plan {
    fn parse(decoder: &Value) -> Result<Plan> {
        let mut plan = Plan {
            spaced: decoder.is_null(),
            ..Plan::default()
        };
        if !plan.spaced {
            plan.add(decoder)?;
        }
        Ok(plan)
    }

    /// (The JSON parser bounds the depth.)
    fn add(&mut self, decoder: &Value) -> Result<()> {
        self.read = self.read.saturating_add(1);
        if self.read > MAX_STEPS {
            return Err(Error::bad_model(format!(
                "tokenizer.json: decoder has more than {MAX_STEPS} steps"
            )));
        }
        let kind = decoder
            .get("type")
            .and_then(Value::as_str)
            .ok_or_else(|| bad("type", "a string"))?;
        let text = |key: &str| {
            decoder
                .get(key)
                .and_then(Value::as_str)
                .map(str::to_string)
                .ok_or_else(|| bad(key, "a string"))
        };
        let letter = |key: &str| {
            let value = text(key)?;
            let mut chars = value.chars();
            match (chars.next(), chars.next()) {
                (Some(c), None) => Ok(c),
                _ => Err(bad(key, "one character")),
            }
        };
        let count = |key: &str| {
            decoder
                .get(key)
                .and_then(Value::as_u64)
                .and_then(|n| usize::try_from(n).ok())
                .ok_or_else(|| bad(key, "a count"))
        };
        let step = match kind {
            "Sequence" => {
                let list = decoder
                    .get("decoders")
                    .and_then(Value::as_array)
                    .ok_or_else(|| bad("decoders", "a list"))?;
                for part in list {
                    self.add(part)?;
                }
                return Ok(());
            }
            "Fuse" => {
                self.fused = true;
                return Ok(());
            }
            "Replace" => {
                let pattern = decoder
                    .get("pattern")
                    .and_then(|p| p.get("String"))
                    .and_then(Value::as_str);
                let from = pattern
                    .ok_or_else(|| unsupported("Replace with a regular expression"))?
                    .to_string();
                // Across token borders only a single character is found just as well token by token.
                if from.is_empty() || (self.fused && from.chars().count() != 1) {
                    return Err(unsupported("Replace of this pattern"));
                }
                Step::Replace {
                    from,
                    to: text("content")?,
                }
            }
            "Strip" => {
                let (content, start, stop) = (letter("content")?, count("start")?, count("stop")?);
                if self.fused {
                    if stop != 0 || self.strip.is_some() {
                        return Err(unsupported("Strip at the end of the text"));
                    }
                    self.strip = Some((content, start));
                    return Ok(());
                }
                Step::Strip {
                    content,
                    start,
                    stop,
                }
            }
            "ByteFallback" if !self.fused => Step::ByteFallback,
            "ByteLevel" if !self.fused => {
                self.fused = true;
                Step::ByteLevel
            }
            "Metaspace" if !self.fused => Step::Metaspace {
                replacement: letter("replacement")?,
                keep_first: decoder.get("prepend_scheme").and_then(Value::as_str) == Some("never")
                    || decoder.get("add_prefix_space").and_then(Value::as_bool) == Some(false),
            },
            "WordPiece" if !self.fused => Step::WordPiece {
                prefix: text("prefix")?,
                cleanup: decoder
                    .get("cleanup")
                    .and_then(Value::as_bool)
                    .unwrap_or(true),
            },
            other => return Err(unsupported(other)),
        };
        self.steps.push(step);
        Ok(())
    }

    fn first_differs(&self) -> bool {
        self.spaced
            || self
                .steps
                .iter()
                .any(|s| matches!(s, Step::Metaspace { .. } | Step::WordPiece { .. }))
    }

    fn bytes(&self, token: &str, first: bool) -> Result<Vec<u8>> {
        let mut text = token.to_string();
        if self.spaced && !first {
            text.insert(0, ' ');
        }
        let mut bytes: Option<Vec<u8>> = None;
        for step in &self.steps {
            if bytes.is_some() && !matches!(step, Step::Replace { .. }) {
                continue;
            }
            match step {
                Step::Replace { from, to } => match &bytes {
                    None => text = replace(&text, from, to)?,
                    Some(raw) => {
                        if let Ok(utf8) = std::str::from_utf8(raw) {
                            bytes = Some(replace(utf8, from, to)?.into_bytes());
                        }
                    }
                },
                Step::ByteFallback => bytes = byte_token(&text).map(|b| vec![b]),
                Step::ByteLevel => bytes = byte_level(&text),
                Step::Metaspace {
                    replacement,
                    keep_first,
                } => {
                    let to = if first && !keep_first { "" } else { " " };
                    text = text.replace(*replacement, to);
                }
                Step::WordPiece { prefix, cleanup } => {
                    if !first {
                        text = match text.strip_prefix(prefix.as_str()) {
                            Some(rest) => rest.to_string(),
                            None => format!(" {text}"),
                        };
                    }
                    if *cleanup {
                        text = clean_up(&text);
                    }
                }
                Step::Strip {
                    content,
                    start,
                    stop,
                } => {
                    let mut rest = text.as_str();
                    for _ in 0..*start {
                        let Some(shorter) = rest.strip_prefix(*content) else {
                            break;
                        };
                        rest = shorter;
                    }
                    for _ in 0..*stop {
                        let Some(shorter) = rest.strip_suffix(*content) else {
                            break;
                        };
                        rest = shorter;
                    }
                    text = rest.to_string();
                }
            }
        }
        Ok(bytes.unwrap_or_else(|| text.into_bytes()))
    }
}

/// As `str::replace`, unless it becomes too long.
fn replace(text: &str, from: &str, to: &str) -> Result<String> {
    let more = to.len().saturating_sub(from.len());
    let length = match more {
        0 => text.len(),
        _ => text
            .matches(from)
            .count()
            .saturating_mul(more)
            .saturating_add(text.len()),
    };
    match length > MAX_TOKEN_BYTES {
        true => Err(too_long()),
        false => Ok(text.replace(from, to)),
    }
}

fn too_long() -> Error {
    Error::bad_model("tokenizer.json: decoder makes the tokens' texts too long")
}

fn bad(key: &str, wanted: &str) -> Error {
    Error::bad_model(format!("tokenizer.json: decoder's {key} must be {wanted}"))
}

fn unsupported(what: &str) -> Error {
    Error::unsupported(format!(
        "tokenizer.json: decoder {} is not supported",
        brief(&what)
    ))
}

/// `<0x41>` is the byte 0x41.
fn byte_token(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2)
        .then(|| u8::from_str_radix(digits, 16).ok())
        .flatten()
}

/// Byte-level alphabets write each byte as a printable character; other strings stand for themselves.
fn byte_level(token: &str) -> Option<Vec<u8>> {
    token.chars().map(byte_of).collect()
}

/// Printable Latin-1 characters are their own byte; the other 68 bytes follow from U+0100 on, in order.
fn byte_of(c: char) -> Option<u8> {
    let code = c as u32;
    match code {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => u8::try_from(code).ok(),
        0x100..=0x120 => u8::try_from(code.checked_sub(0x100)?).ok(),
        0x121..=0x142 => u8::try_from(code.checked_sub(0x121)?.checked_add(0x7f)?).ok(),
        0x143 => Some(0xad),
        _ => None,
    }
}

/// What BERT's decoder tidies inside one token.
fn clean_up(text: &str) -> String {
    const PAIRS: [(&str, &str); 11] = [
        (" .", "."),
        (" ?", "?"),
        (" !", "!"),
        (" ,", ","),
        (" ' ", "'"),
        (" n't", "n't"),
        (" 'm", "'m"),
        (" do not", " don't"),
        (" 's", "'s"),
        (" 've", "'ve"),
        (" 're", "'re"),
    ];
    PAIRS
        .iter()
        .fold(text.to_string(), |text, (from, to)| text.replace(from, to))
}
