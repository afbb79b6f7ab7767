//! Control tokens in plain text: where content spells one, it is spelled with other tokens.
//!
//! Vocabularies hold their control tokens as ordinary entries (Unigram ones all of them, others those that no file adds),
//! so that a model makes them out of text like any other token. Such a token stays only where the template wrote all of its
//! characters. Elsewhere its text is cut in the middle and each half tokenised by itself, until no control token is left:
//! the text is the same, and halving bounds the work by the length of the token times its logarithm.

use std::collections::HashMap;

use tokenizers::models::wordpiece::WordPiece;
use tokenizers::{Model, ModelWrapper, NormalizedString, Token};

use super::added::{Place, Writers};
use super::table::Table;

type CrateResult<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// The control tokens of a tokenizer.
#[derive(Debug, Default)]
pub(super) struct Control {
    /// Who may write a token so that it is one.
    writers: HashMap<u32, Writers>,
    /// What the model makes of characters that it does not know; it is no control token there.
    unknown: Option<u32>,
    /// The longest entry of a WordPiece vocabulary, in bytes.
    longest: usize,
}

impl Control {
    pub fn new(
        writers: HashMap<u32, Writers>,
        unknown: Option<u32>,
        model: &ModelWrapper,
    ) -> Control {
        let longest = match model {
            ModelWrapper::WordPiece(model) => model.get_vocab().keys().map(String::len).max(),
            _ => None,
        };
        Control {
            writers,
            unknown,
            longest: longest.unwrap_or(0),
        }
    }

    pub fn contains(&self, id: u32) -> bool {
        self.writers.contains_key(&id)
    }

    /// The tokens of a run, with those spelled otherwise that only others may write. `tokens` is what the model made of
    /// the run; `table` knows the bytes of every token.
    pub fn respell(
        &self,
        tokens: Vec<Token>,
        run: &NormalizedString,
        place: Place,
        model: &ModelWrapper,
        table: &Table,
    ) -> CrateResult<Vec<Token>> {
        let may = |id: u32, (start, end): (usize, usize)| {
            let Some(writers) = self.writers.get(&id) else {
                return true;
            };
            place.allows(run, start..end, *writers)
        };
        let stays = |token: &Token| {
            may(token.id, token.offsets)
                || self.is_unknown(token.id, part_of(run.get(), token), model)
        };
        if tokens.iter().all(stays) {
            return Ok(tokens);
        }
        match model {
            ModelWrapper::WordPiece(model) => return self.pieces(run.get(), model, &may),
            // A word is its token or unknown.
            ModelWrapper::WordLevel(_) => return Ok(self.unknown.map(bare).into_iter().collect()),
            _ => {}
        }
        let mut out = Vec::with_capacity(tokens.len());
        for token in tokens {
            if stays(&token) {
                out.push(token);
            } else {
                self.spell(token.id, part_of(run.get(), &token), model, table, &mut out)?;
            }
        }
        Ok(out)
    }

    /// Characters that the model does not know give its unknown token; spelling that token's name does not count as such.
    fn is_unknown(&self, id: u32, text: &str, model: &ModelWrapper) -> bool {
        self.unknown == Some(id)
            && model.token_to_id(text) != Some(id)
            && model.id_to_token(id).is_none_or(|name| name != text)
    }

    /// The text of one control token in tokens that are none.
    fn spell(
        &self,
        id: u32,
        text: &str,
        model: &ModelWrapper,
        table: &Table,
        out: &mut Vec<Token>,
    ) -> CrateResult<()> {
        let Some((head, tail)) = halves(text) else {
            // One character. One that its bytes cannot write either is left out: what can stand for itself is no control
            // token (`Letters`).
            let bytes = table.spelled(id, |other| !self.contains(other));
            out.extend(bytes.into_iter().flatten().map(bare));
            return Ok(());
        };
        for half in [head, tail] {
            for token in model.tokenize(half)? {
                let text = part_of(half, &token);
                if !self.contains(token.id) || self.is_unknown(token.id, text, model) {
                    out.push(token);
                } else {
                    self.spell(token.id, text, model, table, out)?;
                }
            }
        }
        Ok(())
    }

    /// WordPiece without the control tokens that may not be: the longest entry at each place, else the word is unknown.
    fn pieces(
        &self,
        word: &str,
        model: &WordPiece,
        may: &dyn Fn(u32, (usize, usize)) -> bool,
    ) -> CrateResult<Vec<Token>> {
        let mut out = Vec::new();
        let mut start = 0usize;
        let mut entry = String::new();
        let room = self.longest;
        while start < word.len() {
            let rest = word.get(start..).unwrap_or("");
            let ends = rest
                .char_indices()
                .map(|(at, c)| at.saturating_add(c.len_utf8()));
            let ends: Vec<usize> = ends.take_while(|end| *end <= room).collect();
            let found = ends.iter().rev().find_map(|end| {
                entry.clear();
                if start > 0 {
                    entry.push_str(&model.continuing_subword_prefix);
                }
                entry.push_str(rest.get(..*end)?);
                let id = model.token_to_id(&entry)?;
                let end = start.saturating_add(*end);
                may(id, (start, end)).then_some((id, end))
            });
            let Some((id, end)) = found else {
                let unknown = self.unknown.ok_or("an unknown word, and no token for it")?;
                return Ok(vec![bare(unknown)]);
            };
            out.push(bare(id));
            start = end;
        }
        Ok(out)
    }
}

/// A token whose text and place nobody asks for.
fn bare(id: u32) -> Token {
    Token::new(id, String::new(), (0, 0))
}

/// What a token stands for in the text that the model was given.
fn part_of<'a>(text: &'a str, token: &Token) -> &'a str {
    text.get(token.offsets.0..token.offsets.1).unwrap_or("")
}

/// Two parts of a text of two characters or more.
fn halves(text: &str) -> Option<(&str, &str)> {
    let count = text.chars().count();
    let middle = count.checked_div(2).filter(|middle| *middle > 0)?;
    text.char_indices()
        .nth(middle)
        .and_then(|(at, _)| text.split_at_checked(at))
}

/// Which tokens are letters: one ordinary character that nothing else in the vocabulary can write. A file may name one as
/// its padding ("!" is popular) or an end (a line break): it is still needed for text, and no text would be left without it.
#[derive(Debug)]
pub(super) struct Letters<'a> {
    pub table: &'a Table,
}

impl Letters<'_> {
    pub fn contains(&self, id: u32) -> bool {
        let ordinary = |bytes: &[u8]| match (bytes, std::str::from_utf8(bytes)) {
            // A part of a character, in a vocabulary of bytes.
            ([byte], Err(_)) => !byte.is_ascii(),
            (_, Err(_)) => false,
            (_, Ok(text)) => {
                let mut chars = text.chars();
                matches!((chars.next(), chars.next()), (Some(c), None) if is_ordinary(c))
            }
        };
        let Ok(signed) = i32::try_from(id) else {
            return false;
        };
        [true, false]
            .iter()
            .any(|first| ordinary(self.table.bytes(signed, *first)))
            && self.table.spelled(id, |other| other != id).is_none()
    }
}

/// A character that people write: no control character but white space, and nothing for private use.
fn is_ordinary(c: char) -> bool {
    let private = matches!(c, '\u{e000}'..='\u{f8ff}' | '\u{f0000}'..);
    c.is_whitespace() || !(c.is_control() || private)
}
