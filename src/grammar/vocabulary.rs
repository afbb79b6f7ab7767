//! A model's tokens as grammars know them: a trie of their bytes.

use std::sync::Arc;

use llguidance::ParserFactory;
use toktrie::{InferenceCapabilities, TokEnv, TokRxInfo, TokTrie, TokenId, TokenizerEnv};

use crate::error::{Error, Result};
use crate::room;
use crate::text::{Specials, Tokenizer};
use crate::watch;

/// Longer tokens are left out: the trie counts the way back from a leaf in ten bits. (GLM 4 has one of 1,024 spaces.)
const LONGEST_TOKEN: usize = 1000;
/// The trie counts a subtree in 22 bits.
const MOST_NODES: usize = (1 << 22) - 1;
/// Bytes for each token and each byte of a token, in the trie and in the parts of it that slices are.
const COST: usize = 160;
/// Tokens that can stand anywhere in a JSON string, which most of a vocabulary is: where one may come all of them may,
/// and the trie is not walked for them.
///
/// Where a string has an end, those that fit into what is left of it: short ones, longer ones, all.
const SLICES: [&str; 3] = [
    r#"[^"\\\x00-\x1F\x7F]{1,10}"#,
    r#"[^"\\\x00-\x1F\x7F]{1,30}"#,
    r#"[^"\\\x00-\x1F\x7F]+"#,
];
/// Of 1 to 2 KB each.
const LEXER_STATES: usize = 50_000;
/// What may come at one place: four for each property in a row that may be missing.
const ROW_ITEMS: usize = 4_000;
/// Nodes of expressions that are made while a grammar is compiled; some tens of thousands take a millisecond.
const COMPILE_FUEL: u64 = 500_000;
/// Of productions.
const SYMBOLS: usize = 250_000;
/// Text that ends as this does means a control token to the trie; it is no byte of UTF-8.
const MARKER: u8 = TokTrie::SPECIAL_TOKEN_MARKER;

pub struct Vocabulary {
    factory: ParserFactory,
    rows: usize,
}

impl Vocabulary {
    /// `rows`: of the model's logits. `ends`: the tokens that end a text. `markers`: those that mark thinking and calls, which are
    /// no part of any text. Takes some tenths of a second.
    ///
    /// Errors: `Unsupported` for a vocabulary that the trie cannot hold; `OutOfMemory`; what the watch gives.
    pub fn new(
        tokenizer: &Arc<Tokenizer>,
        rows: usize,
        ends: &[i32],
        markers: &[i32],
    ) -> Result<Vocabulary> {
        let ids = || 0..i32::try_from(rows).unwrap_or(i32::MAX);
        let bytes: usize = ids().map(|id| tokenizer.bytes(id).len()).sum();
        room::ask(rows.saturating_add(bytes), COST, "the vocabulary")?;
        let mut words = Vec::with_capacity(rows);
        for id in ids() {
            if id % 4096 == 0 {
                watch::look()?;
            }
            let special = ends.contains(&id) || markers.contains(&id) || tokenizer.is_control(id);
            words.push(word(tokenizer.bytes(id), special));
        }
        check_nodes(&words)?;
        let mut ends = ends.iter().filter_map(|&id| TokenId::try_from(id).ok());
        let ends: Vec<TokenId> = ends.by_ref().filter(|&id| (id as usize) < rows).collect();
        let first = ends.first().copied().unwrap_or(toktrie::INVALID_TOKEN);
        let size = u32::try_from(rows).map_err(|_| too_large())?;
        let mut trie = TokTrie::from(&TokRxInfo::new(size, first), &words);
        if !ends.is_empty() {
            trie = trie.with_eos_tokens(&ends);
        }
        watch::look()?;
        let tokens: TokEnv = Arc::new(Tokens {
            trie,
            tokenizer: tokenizer.clone(),
        });
        let wanted = InferenceCapabilities {
            ff_tokens: true,
            ..InferenceCapabilities::default()
        };
        let mut factory = ParserFactory::new(&tokens, wanted, &SLICES.map(str::to_owned))
            .map_err(|error| Error::internal(format!("the slices of a vocabulary: {error}")))?;
        factory.quiet();
        let limits = factory.limits_mut();
        limits.max_lexer_states = LEXER_STATES;
        limits.max_items_in_row = ROW_ITEMS;
        limits.initial_lexer_fuel = COMPILE_FUEL;
        limits.max_grammar_size = SYMBOLS;
        limits.verbose_errors = false;
        Ok(Vocabulary { factory, rows })
    }

    /// How many tokens a mask tells of.
    pub fn rows(&self) -> usize {
        self.rows
    }

    pub(super) fn factory(&self) -> &ParserFactory {
        &self.factory
    }
}

/// What the trie is given for a token; nothing for one that no grammar can make.
fn word(bytes: &[u8], special: bool) -> Vec<u8> {
    if bytes.contains(&MARKER) || bytes.len() > LONGEST_TOKEN {
        return Vec::new();
    }
    if special {
        return [&[MARKER], bytes].concat();
    }
    bytes.to_vec()
}

fn check_nodes(words: &[Vec<u8>]) -> Result<()> {
    let mut sorted: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
    sorted.sort_unstable();
    let mut before: &[u8] = &[];
    let mut nodes = 1_usize;
    for word in sorted {
        let shared = word.iter().zip(before).take_while(|(a, b)| a == b).count();
        nodes = nodes.saturating_add(word.len().saturating_sub(shared));
        before = word;
    }
    match nodes > MOST_NODES {
        true => Err(too_large()),
        false => Ok(()),
    }
}

fn too_large() -> Error {
    Error::unsupported("the model's vocabulary is too large for grammars")
}

struct Tokens {
    trie: TokTrie,
    tokenizer: Arc<Tokenizer>,
}

impl Tokens {
    /// The longest token and again; nothing where the vocabulary lacks a byte, which the trie would skip.
    fn greedy(&self, bytes: &[u8]) -> Vec<TokenId> {
        let ids = self.trie.greedy_tokenize(bytes);
        let length: usize = ids.iter().map(|&id| self.trie.token(id).len()).sum();
        if length == bytes.len() {
            ids
        } else {
            Vec::new()
        }
    }
}

impl TokenizerEnv for Tokens {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    /// As the model's tokenizer has it where that gives this very text; it may add a space in front, or be unable to write it.
    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<TokenId> {
        let (text, rest) = match std::str::from_utf8(bytes) {
            Ok(text) => (text, &[][..]),
            Err(error) => {
                let (valid, rest) = bytes.split_at(error.valid_up_to());
                (std::str::from_utf8(valid).unwrap_or_default(), rest)
            }
        };
        let encoded = self.tokenizer.encode(text, Specials::AsText, false);
        let ids = encoded.unwrap_or_default().into_iter();
        let mut ids: Vec<TokenId> = ids.filter_map(|id| TokenId::try_from(id).ok()).collect();
        let mut left = text.as_bytes();
        let same = ids.iter().all(|&id| {
            let word = self.trie.token(id);
            match left.strip_prefix(word) {
                Some(behind) if !word.is_empty() => {
                    left = behind;
                    true
                }
                _ => false,
            }
        });
        if !same || !left.is_empty() {
            return self.greedy(bytes);
        }
        ids.extend(self.greedy(rest));
        ids
    }
}
