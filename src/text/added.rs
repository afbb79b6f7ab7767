//! Added tokens in a text: recognised as the `tokenizers` crate does, but only where the text's origin allows.

use std::collections::HashMap;

use tokenizers::normalizer::Range;
use tokenizers::{NormalizedString, Normalizer, NormalizerWrapper, PreTokenizedString, Token};

use super::tokenizer::Origin;

type CrateResult<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Who may write a token so that it is recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Writers {
    /// Control tokens: the template alone.
    Template,
    /// Tokens that are not special but shaped like markers, `<think>` or `[INST]`: the model itself too.
    TemplateAndAssistant,
    /// Runs of spaces and the like are plain text.
    Anyone,
}

#[derive(Debug)]
struct AddedToken {
    id: u32,
    single_word: bool,
    lstrip: bool,
    rstrip: bool,
    writers: Writers,
    /// What normalisation puts around the token's own content, in bytes.
    around: (usize, usize),
}

/// The added tokens of a tokenizer, those matched before normalisation and those matched after it.
#[derive(Debug, Default)]
pub(super) struct AddedTokens {
    raw: Trie,
    normalized: Trie,
}

/// Which origin each byte of a text has: piece ends in order.
pub(super) struct Origins {
    ends: Vec<(usize, Origin)>,
}

impl Origins {
    pub fn new(pieces: impl Iterator<Item = (usize, Origin)>) -> Self {
        let mut ends: Vec<(usize, Origin)> = Vec::new();
        let mut at = 0usize;
        for (length, origin) in pieces {
            at = at.saturating_add(length);
            match ends.last_mut() {
                Some(last) if last.1 == origin => last.0 = at,
                _ => ends.push((at, origin)),
            }
        }
        Origins { ends }
    }

    pub fn allow(&self, writers: Writers, start: usize, end: usize) -> bool {
        let first = self
            .ends
            .partition_point(|(piece_end, _)| *piece_end <= start);
        let mut from = start;
        for (piece_end, origin) in self.ends.get(first..).unwrap_or(&[]) {
            if from >= end {
                break;
            }
            let allowed = match writers {
                Writers::Anyone => true,
                Writers::Template => *origin == Origin::Template,
                Writers::TemplateAndAssistant => *origin != Origin::Content,
            };
            // An empty piece has no characters to object to.
            if !allowed && *piece_end > from {
                return false;
            }
            from = *piece_end;
        }
        true
    }
}

impl AddedTokens {
    /// `writers` says of each who may write it.
    pub fn new(
        tokenizer: &tokenizers::Tokenizer,
        writers: impl Fn(u32, &tokenizers::AddedToken) -> Writers,
    ) -> Self {
        let mut this = AddedTokens::default();
        for (&id, token) in tokenizer.get_added_vocabulary().get_added_tokens_decoder() {
            let normalized = match tokenizer.get_normalizer() {
                Some(normalizer) if token.normalized => {
                    let mut content = NormalizedString::from(token.content.as_str());
                    normalizer
                        .normalize(&mut content)
                        .map(|()| content.get().to_string())
                        .ok()
                }
                _ => None,
            };
            let pattern = normalized.as_deref().unwrap_or(&token.content);
            let around = pattern
                .split_once(token.content.as_str())
                .map(|(l, r)| (l.len(), r.len()));
            let added = AddedToken {
                id,
                single_word: token.single_word,
                lstrip: token.lstrip,
                rstrip: token.rstrip,
                writers: writers(id, token),
                around: around.unwrap_or((0, 0)),
            };
            let trie = if token.normalized {
                &mut this.normalized
            } else {
                &mut this.raw
            };
            trie.insert(pattern.as_bytes(), added);
        }
        this
    }

    /// The ids that only certain writers may make: control tokens and markers.
    pub fn guarded(&self) -> HashMap<u32, Writers> {
        let nodes = self.raw.nodes.iter().chain(&self.normalized.nodes);
        nodes
            .filter_map(|n| n.token.as_ref())
            .filter(|t| t.writers != Writers::Anyone)
            .map(|t| (t.id, t.writers))
            .collect()
    }

    /// Splits a text at the added tokens that its origin allows, and normalises what lies between.
    pub fn extract(
        &self,
        text: &str,
        origins: &Origins,
        normalizer: Option<&NormalizerWrapper>,
    ) -> CrateResult<PreTokenizedString> {
        let mut split = PreTokenizedString::from(text);
        split.split(|_, part| self.raw.split(part, origins))?;
        split.split(|_, mut part| {
            if let Some(normalizer) = normalizer {
                normalizer.normalize(&mut part)?;
            }
            self.normalized.split(part, origins)
        })?;
        Ok(split)
    }
}

/// Who may write an added token that is no control token.
pub(super) fn writers_of_marker(content: &str) -> Writers {
    let shaped = |open: char, close: char| {
        let inner = content
            .trim()
            .strip_prefix(open)
            .and_then(|s| s.strip_suffix(close));
        inner.is_some_and(|inner| !inner.is_empty())
    };
    if shaped('<', '>') || shaped('[', ']') || shaped('＜', '＞') {
        Writers::TemplateAndAssistant
    } else {
        Writers::Anyone
    }
}

/// A byte trie; finds the longest token at a place that a condition allows.
#[derive(Debug)]
struct Trie {
    nodes: Vec<TrieNode>,
    starts: [bool; 256],
}

#[derive(Debug, Default)]
struct TrieNode {
    /// Sorted by byte.
    children: Vec<(u8, u32)>,
    token: Option<AddedToken>,
}

impl Default for Trie {
    fn default() -> Self {
        Trie {
            nodes: vec![TrieNode::default()],
            starts: [false; 256],
        }
    }
}

impl Trie {
    fn insert(&mut self, content: &[u8], token: AddedToken) {
        let Some(&first) = content.first() else {
            return;
        };
        if let Some(start) = self.starts.get_mut(usize::from(first)) {
            *start = true;
        }
        let mut at = 0usize;
        for &byte in content {
            let fresh = self.nodes.len();
            let Some(node) = self.nodes.get_mut(at) else {
                return;
            };
            at = match node.children.binary_search_by_key(&byte, |(b, _)| *b) {
                Ok(found) => node.children.get(found).map_or(0, |(_, n)| *n as usize),
                Err(place) => {
                    node.children.insert(place, (byte, fresh as u32));
                    self.nodes.push(TrieNode::default());
                    fresh
                }
            };
        }
        if let Some(node) = self.nodes.get_mut(at) {
            // Two tokens that normalise alike: the stricter one holds.
            let stricter = node
                .token
                .as_ref()
                .is_some_and(|old| old.writers == Writers::Template);
            if !stricter {
                node.token = Some(token);
            }
        }
    }

    fn longest(
        &self,
        text: &[u8],
        start: usize,
        allow: impl Fn(&AddedToken, usize) -> bool,
    ) -> Option<(usize, &AddedToken)> {
        let mut best = None;
        let mut node = self.nodes.first()?;
        let mut end = start;
        while let Some(byte) = text.get(end) {
            let Ok(found) = node.children.binary_search_by_key(byte, |(b, _)| *b) else {
                break;
            };
            let Some(next) = node
                .children
                .get(found)
                .and_then(|(_, n)| self.nodes.get(*n as usize))
            else {
                break;
            };
            node = next;
            end = end.saturating_add(1);
            if let Some(token) = &node.token {
                if allow(token, end) {
                    best = Some((end, token));
                }
            }
        }
        best
    }

    fn split(
        &self,
        part: NormalizedString,
        origins: &Origins,
    ) -> CrateResult<Vec<(NormalizedString, Option<Vec<Token>>)>> {
        let text = part.get();
        if self.nodes.len() <= 1 || text.is_empty() {
            return Ok(vec![(part, None)]);
        }
        let slice = |from: usize, to: usize| {
            part.slice(Range::Normalized(from..to))
                .ok_or("an added token does not lie on a character border")
        };
        let allowed = |token: &AddedToken, from: usize, to: usize| {
            if token.writers == Writers::Anyone {
                return true;
            }
            let own = from.saturating_add(token.around.0)..to.saturating_sub(token.around.1);
            let Some(piece) = part.slice(Range::Normalized(own)) else {
                return false;
            };
            let (start, end) = piece.offsets_original();
            // A token made of characters that no original character stands behind was written by nobody.
            end > start && origins.allow(token.writers, start, end)
        };
        let mut out = Vec::new();
        let (mut done, mut at) = (0usize, 0usize);
        while let Some(byte) = text.as_bytes().get(at) {
            let may_start = self
                .starts
                .get(usize::from(*byte))
                .copied()
                .unwrap_or(false);
            let found = if may_start {
                self.longest(text.as_bytes(), at, |token, end| allowed(token, at, end))
            } else {
                None
            };
            let Some((end, token)) = found else {
                at = at.saturating_add(1);
                continue;
            };
            let (before, after) = (text.get(..at).unwrap_or(""), text.get(end..).unwrap_or(""));
            let (start, mut stop) = (at, end);
            at = end;
            if token.single_word && (before.ends_with(is_word) || after.starts_with(is_word)) {
                continue;
            }
            let start = if token.lstrip {
                before.trim_end().len().max(done)
            } else {
                start
            };
            if token.rstrip {
                stop = stop.saturating_add(after.len().saturating_sub(after.trim_start().len()));
            }
            if done < start {
                out.push((slice(done, start)?, None));
            }
            let matched = slice(start, stop)?;
            let value = matched.get().to_string();
            let length = value.len();
            out.push((
                matched,
                Some(vec![Token::new(token.id, value, (0, length))]),
            ));
            done = stop;
            // As in the crate, a token inside whitespace that was just swallowed is still found.
        }
        if done < text.len() {
            out.push((slice(done, text.len())?, None));
        }
        Ok(out)
    }
}

/// `\w`, as regular expressions have it.
fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}
