//! A grammar as one request follows it.

use std::fmt::Display;

use llguidance::api::StopReason;
use llguidance::TokenParser;

use crate::error::{Code, Error, Result};
use crate::{guard, room};

/// Where a text stands in its grammar. Every call runs in a guard: a bug in there ends one request.
pub struct Matcher {
    parser: TokenParser,
    /// Tokens that a mask tells of.
    rows: usize,
    /// The tokens that end a text may end this one.
    may_end: bool,
    over: bool,
}

/// Which tokens may come next: a byte for each, 1 for those.
pub type Mask = Vec<u8>;

impl Matcher {
    pub(super) fn new(parser: TokenParser, rows: usize, may_end: bool) -> Result<Matcher> {
        let mut matcher = Matcher {
            parser,
            rows,
            may_end,
            over: false,
        };
        matcher.guarded(|matcher| matcher.look_for_the_end())?;
        Ok(matcher)
    }

    /// Nothing may follow.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// Takes a token that the mask allowed.
    ///
    /// Errors: `BadGrammar` where the grammar becomes too complex.
    pub fn take(&mut self, id: i32) -> Result<()> {
        if self.over {
            return Ok(());
        }
        self.guarded(|matcher| {
            let id = u32::try_from(id).map_err(|_| Error::internal("a token below 0"))?;
            let back = matcher.parser.consume_token(id);
            let back = back.map_err(|error| matcher.failed(&error))?;
            if back != 0 {
                return Err(Error::internal("a grammar wants tokens back"));
            }
            matcher.look_for_the_end()
        })
    }

    /// Takes a text that came before anybody asked for a mask.
    ///
    /// Errors: as `take`; `BadGrammar` where it does not match.
    pub fn take_text(&mut self, text: &str) -> Result<()> {
        let tokens = self.parser.token_env.tok_trie();
        for id in tokens.greedy_tokenize(text.as_bytes()) {
            let id =
                i32::try_from(id).map_err(|_| Error::internal("a token beyond what ids are"))?;
            self.take(id)?;
        }
        Ok(())
    }

    /// What may come next; none where nothing may.
    ///
    /// Errors: `BadGrammar` where no token can go on, or the grammar becomes too complex.
    pub fn mask(&mut self) -> Result<Option<Mask>> {
        if self.over {
            return Ok(None);
        }
        self.guarded(|matcher| {
            let mut mask = match matcher.parser.compute_mask() {
                Ok(mask) => mask,
                // A model without an end of text has no token for it.
                Err(_) if matcher.is_complete() => return Ok(None),
                Err(error) => return Err(matcher.failed(&error)),
            };
            if !matcher.may_end {
                for &end in matcher.parser.token_env.tok_trie().eos_tokens() {
                    if (end as usize) < matcher.rows {
                        mask.disallow_token(end);
                    }
                }
                if mask.is_zero() {
                    return Ok(None);
                }
            }
            let mut bytes = room::zeros(matcher.rows, "a grammar's mask")?;
            for (part, bits) in bytes.chunks_mut(32).zip(mask.as_slice()) {
                for (place, byte) in (0..).zip(part) {
                    *byte = u8::from(bits.rotate_right(place) & 1 == 1);
                }
            }
            Ok(Some(bytes))
        })
    }

    /// It has stopped because no token can go on, at a place where the text may end.
    fn is_complete(&mut self) -> bool {
        self.parser.stop_reason() == StopReason::NoExtensionBias && self.parser.is_accepting()
    }

    /// The tokens that come next in any case.
    pub fn forced(&mut self) -> Result<Vec<i32>> {
        if self.over {
            return Ok(Vec::new());
        }
        self.guarded(|matcher| {
            let forced = matcher.parser.compute_ff_tokens();
            let ids = forced.into_iter().map(i32::try_from);
            ids.collect::<std::result::Result<_, _>>()
                .map_err(|_| Error::internal("a forced token beyond what ids are"))
        })
    }

    fn look_for_the_end(&mut self) -> Result<()> {
        let over = self.parser.check_stop();
        self.over = over.map_err(|error| self.failed(&error))?;
        Ok(())
    }

    fn guarded<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        guard::catch(|| work(self))
    }

    fn failed(&self, error: &impl Display) -> Error {
        let (code, what) = match self.parser.stop_reason() {
            StopReason::NoExtensionBias => (Code::BadGrammar, "no token of the model can go on"),
            StopReason::LexerTooComplex | StopReason::ParserTooComplex => {
                (Code::BadGrammar, "it becomes too complex")
            }
            _ => (Code::Internal, "it cannot be followed"),
        };
        let said = super::said(&error.to_string());
        Error::new(code, format!("the grammar: {what} ({said})"))
    }
}
