//! Added tokens in a text: recognised as the `tokenizers` crate does, but only where the text's origin allows.

use std::collections::{HashMap, HashSet};

use tokenizers::normalizer::Range;
use tokenizers::NormalizedString;

use super::sanitise::refuse;
use super::steps::Steps;
use super::tokenizer::{named, Origin};
use crate::error::Result;
use crate::watch;

/// Of a token's content after normalisation.
const MAX_NORMALIZED: usize = 1024;
/// Between two looks at the watch.
const LOOK_EVERY: usize = 1 << 14;

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
    touching: Touching,
}

/// Where tokens that are matched in normalised text may reach over a place between two characters, or look over it.
#[derive(Debug, Default)]
struct Touching {
    pairs: HashSet<(char, char)>,
    ends: HashSet<char>,
    starts: HashSet<char>,
}

impl Touching {
    fn add(&mut self, pattern: &str, token: &AddedToken) {
        self.pairs
            .extend(pattern.chars().zip(pattern.chars().skip(1)));
        if token.rstrip || token.single_word {
            self.ends.extend(pattern.chars().next_back());
        }
        if token.lstrip || token.single_word {
            self.starts.extend(pattern.chars().next());
        }
    }
}

/// A part of a text: its tokens or the text between them.
pub(super) enum Found {
    Text(std::ops::Range<usize>),
    Token(u32),
}

/// Which origin the bytes of a part of a text have.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub origins: &'a Origins,
    /// To add to the part's original offsets.
    pub shift: usize,
}

impl Place<'_> {
    /// Whether all of what stands behind these bytes of a part's normalised text comes from those who may write it.
    pub fn allows(
        &self,
        part: &NormalizedString,
        bytes: std::ops::Range<usize>,
        writers: Writers,
    ) -> bool {
        let Some(found) = part.convert_offsets(Range::Normalized(bytes)) else {
            return false;
        };
        let from = part.offsets_original().0.saturating_add(self.shift);
        let (start, end) = (
            from.saturating_add(found.start),
            from.saturating_add(found.end),
        );
        // A token made of characters that no original character stands behind was written by nobody.
        end > start && self.origins.allow(writers, start, end)
    }
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
        steps: &Steps,
        writers: impl Fn(u32, &tokenizers::AddedToken) -> Writers,
    ) -> Result<Self> {
        let mut this = AddedTokens::default();
        let mut touching = Touching::default();
        for (&id, token) in tokenizer.get_added_vocabulary().get_added_tokens_decoder() {
            watch::look()?;
            let mut pattern = NormalizedString::from(token.content.as_str());
            if token.normalized {
                steps.normalize(&mut pattern, false).map_err(named)?;
            }
            let pattern = pattern.get();
            if pattern.len() > MAX_NORMALIZED {
                return Err(refuse(format!(
                    "added_tokens: after normalisation, that of id {id} is longer than {MAX_NORMALIZED} bytes"
                )));
            }
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
                touching.add(pattern, &added);
                &mut this.normalized
            } else {
                &mut this.raw
            };
            trie.insert(pattern.as_bytes(), added);
        }
        this.touching = touching;
        Ok(this)
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

    /// Whether normalised text may be divided between these two characters.
    pub fn divides(&self, left: char, right: char) -> bool {
        let Touching {
            pairs,
            ends,
            starts,
        } = &self.touching;
        !pairs.contains(&(left, right)) && !ends.contains(&left) && !starts.contains(&right)
    }

    /// The tokens of a text that are matched before normalisation, where its origin allows (everywhere without one), and
    /// what lies between them.
    pub fn find_raw(
        &self,
        text: &str,
        origins: Option<&Origins>,
        each: &mut dyn FnMut(Found) -> CrateResult<()>,
    ) -> CrateResult<()> {
        let allowed = |token: &AddedToken, start: usize, end: usize| {
            origins.is_none_or(|origins| origins.allow(token.writers, start, end))
        };
        self.raw.find(text, &allowed, each)
    }

    /// Those of a normalised part that are matched after normalisation.
    pub fn find_normalized(
        &self,
        part: &NormalizedString,
        place: Option<Place>,
        each: &mut dyn FnMut(Found) -> CrateResult<()>,
    ) -> CrateResult<()> {
        let allowed = |token: &AddedToken, start: usize, end: usize| {
            let Some(place) = place.filter(|_| token.writers != Writers::Anyone) else {
                return true;
            };
            let own = start.saturating_add(token.around.0)..end.saturating_sub(token.around.1);
            place.allows(part, own, token.writers)
        };
        self.normalized.find(part.get(), &allowed, each)
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

    /// The tokens of a text and what lies between them, in order.
    fn find(
        &self,
        text: &str,
        allowed: &dyn Fn(&AddedToken, usize, usize) -> bool,
        each: &mut dyn FnMut(Found) -> CrateResult<()>,
    ) -> CrateResult<()> {
        if text.is_empty() {
            return Ok(());
        }
        if self.nodes.len() <= 1 {
            return each(Found::Text(0..text.len()));
        }
        let (mut done, mut at) = (0usize, 0usize);
        // The end of a run of white space, as far as it was followed.
        let mut run = 0..0;
        let mut until_look = LOOK_EVERY;
        while let Some(byte) = text.as_bytes().get(at) {
            until_look = match until_look.checked_sub(1) {
                Some(left) => left,
                None => {
                    watch::look()?;
                    LOOK_EVERY
                }
            };
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
                let free = text.get(done..start).unwrap_or("");
                done.saturating_add(free.trim_end().len())
            } else {
                start
            };
            if token.rstrip {
                if !run.contains(&stop) {
                    let length = after.len().saturating_sub(after.trim_start().len());
                    run = stop..stop.saturating_add(length);
                }
                stop = stop.max(run.end);
            }
            if done < start {
                each(Found::Text(done..start))?;
            }
            each(Found::Token(token.id))?;
            done = stop;
            // As in the crate, a token inside whitespace that was just swallowed is still found.
        }
        if done < text.len() {
            each(Found::Text(done..text.len()))?;
        }
        Ok(())
    }
}

/// `\w`, as regular expressions have it.
fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}
