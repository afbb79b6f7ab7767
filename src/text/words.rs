//! Tokens of words that were met before. The crate's own cache for BPE belongs to the thread and keeps what it holds of
//! every tokenizer until the thread ends, so it is off (`sanitise::build`); this one ends with its tokenizer.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokenizers::Token;

/// Longer words are rarely met again.
const LONGEST: usize = 256;
/// Of one table: over 20,000 words of prose.
const MOST_BYTES: usize = 4 << 20;
/// Tables that are kept for calls to come. One is in use for each thread that tokenises at the moment.
const MOST_IDLE: usize = 4;
/// What an entry costs beside its word and its tokens.
const ENTRY_BYTES: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Words {
    idle: Mutex<Vec<Known>>,
}

#[derive(Debug, Default)]
struct Known {
    words: HashMap<Box<str>, Word>,
    bytes: usize,
}

#[derive(Debug)]
struct Word {
    tokens: Box<[(u32, (usize, usize))]>,
    /// A control token is among them.
    control: bool,
}

/// A table in the hands of one call.
pub(super) struct Borrowed<'a> {
    owner: &'a Words,
    known: RefCell<Known>,
}

impl Words {
    pub(super) fn borrow(&self) -> Borrowed<'_> {
        Borrowed {
            owner: self,
            known: RefCell::new(self.idle().pop().unwrap_or_default()),
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Known>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Borrowed<'_> {
    /// The tokens of a word, without their texts; and whether a control token is among them.
    pub(super) fn get(&self, word: &str) -> Option<(Vec<Token>, bool)> {
        let known = self.known.borrow();
        let found = known.words.get(word)?;
        let token =
            |(id, offsets): &(u32, (usize, usize))| Token::new(*id, String::new(), *offsets);
        Some((found.tokens.iter().map(token).collect(), found.control))
    }

    pub(super) fn put(&self, word: &str, tokens: &[Token], control: bool) {
        let mut known = self.known.borrow_mut();
        let bytes = size_of_val(tokens)
            .saturating_add(word.len())
            .saturating_add(ENTRY_BYTES)
            .saturating_add(known.bytes);
        if word.len() > LONGEST || bytes > MOST_BYTES {
            return;
        }
        known.bytes = bytes;
        let tokens = tokens
            .iter()
            .map(|token| (token.id, token.offsets))
            .collect();
        known.words.insert(word.into(), Word { tokens, control });
    }
}

impl Drop for Borrowed<'_> {
    fn drop(&mut self) {
        let mut idle = self.owner.idle();
        if idle.len() < MOST_IDLE {
            idle.push(self.known.take());
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn tokens(ids: &[u32]) -> Vec<Token> {
        ids.iter()
            .map(|id| Token::new(*id, "text".into(), (0, 1)))
            .collect()
    }

    #[test]
    fn words_are_kept_for_the_next_call() {
        let words = Words::default();
        let first = words.borrow();
        assert!(first.get("a").is_none());
        first.put("a", &tokens(&[1, 2]), true);
        let second = words.borrow();
        assert!(second.get("a").is_none());
        drop(second);
        drop(first);
        let (found, control) = words.borrow().get("a").unwrap();
        assert_eq!(found.iter().map(|t| t.id).collect::<Vec<_>>(), [1, 2]);
        assert!(control);
    }

    #[test]
    fn size_and_number_are_bounded() {
        let words = Words::default();
        let one = words.borrow();
        for n in 0..200_000u32 {
            one.put(&n.to_string(), &tokens(&[n]), false);
        }
        one.put(&"x".repeat(LONGEST + 1), &tokens(&[1]), false);
        assert!(one.get(&"x".repeat(LONGEST + 1)).is_none());
        assert!(one.get("0").is_some() && one.get("199999").is_none());
        assert!(one.known.borrow().bytes <= MOST_BYTES);
        let many: Vec<_> = (0..20).map(|_| words.borrow()).collect();
        drop(many);
        assert_eq!(words.idle().len(), MOST_IDLE);
    }
}
