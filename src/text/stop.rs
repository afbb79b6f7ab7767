//! Stop strings: finds the earliest one in a stream of text, and says how much must be held back.

use std::sync::Arc;

use crate::error::{Error, Result};

pub const MOST_STOP_STRINGS: usize = 64;
const MAX_BYTES: usize = 4096;
const NONE: u32 = u32::MAX;

/// A set of stop strings, compiled once (Aho-Corasick). Cheap to clone.
#[derive(Clone, Debug)]
pub struct StopStrings(Arc<Automaton>);

#[derive(Debug)]
struct Automaton {
    nodes: Vec<Node>,
    lengths: Vec<usize>,
}

/// A node stands for a prefix of some stop string.
#[derive(Clone, Debug)]
struct Node {
    children: Vec<(u8, u32)>,
    /// The node of the longest proper suffix that is a prefix of some stop string too.
    fail: u32,
    depth: usize,
    /// The longest stop string that ends here.
    ends: u32,
}

/// Where a stop string was found, in bytes of the text pushed so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StopMatch {
    pub index: usize,
    pub start: usize,
    pub end: usize,
}

impl StopStrings {
    /// At most 64 strings of 1 to 4,096 bytes each; otherwise `InvalidArgument` naming the entry.
    pub fn new<S: AsRef<str>>(strings: &[S]) -> Result<Self> {
        if strings.len() > MOST_STOP_STRINGS {
            return Err(Error::invalid(format!(
                "stop has {} strings, at most {MOST_STOP_STRINGS} are allowed",
                strings.len()
            )));
        }
        let mut nodes = vec![Node::new(0)];
        let mut lengths = Vec::with_capacity(strings.len());
        for (index, string) in strings.iter().enumerate() {
            let bytes = string.as_ref().as_bytes();
            if bytes.is_empty() {
                return Err(Error::invalid(format!("stop[{index}] is empty")));
            }
            if bytes.len() > MAX_BYTES {
                return Err(Error::invalid(format!(
                    "stop[{index}] has {} bytes, at most {MAX_BYTES} are allowed",
                    bytes.len()
                )));
            }
            lengths.push(bytes.len());
            insert(&mut nodes, bytes, index as u32);
        }
        link(&mut nodes);
        Ok(StopStrings(Arc::new(Automaton { nodes, lengths })))
    }

    pub fn is_empty(&self) -> bool {
        self.0.lengths.is_empty()
    }

    pub fn matcher(&self) -> StopMatcher {
        StopMatcher {
            automaton: self.0.clone(),
            state: 0,
            position: 0,
        }
    }
}

impl Node {
    fn new(depth: usize) -> Self {
        Node {
            children: Vec::new(),
            fail: 0,
            depth,
            ends: NONE,
        }
    }

    fn child(&self, byte: u8) -> Option<u32> {
        self.children
            .iter()
            .find(|(b, _)| *b == byte)
            .map(|(_, node)| *node)
    }
}

fn insert(nodes: &mut Vec<Node>, bytes: &[u8], index: u32) {
    let mut at = 0u32;
    for (depth, &byte) in bytes.iter().enumerate() {
        let fresh = nodes.len() as u32;
        let Some(node) = nodes.get_mut(at as usize) else {
            return;
        };
        at = match node.child(byte) {
            Some(next) => next,
            None => {
                node.children.push((byte, fresh));
                nodes.push(Node::new(depth.saturating_add(1)));
                fresh
            }
        };
    }
    if let Some(node) = nodes.get_mut(at as usize) {
        // Of two equal strings the first one is reported.
        node.ends = node.ends.min(index);
    }
}

/// Breadth first, so that a node's fail link is always complete before its children need it.
fn link(nodes: &mut [Node]) {
    let mut queue: std::collections::VecDeque<u32> = std::collections::VecDeque::new();
    queue.push_back(0);
    while let Some(at) = queue.pop_front() {
        let Some(node) = nodes.get(at as usize) else {
            return;
        };
        let (children, fail) = (node.children.clone(), node.fail);
        for (byte, child) in children {
            let target = if at == 0 { 0 } else { step(nodes, fail, byte) };
            let inherited = nodes.get(target as usize).map_or(NONE, |n| n.ends);
            if let Some(node) = nodes.get_mut(child as usize) {
                node.fail = target;
                if node.ends == NONE {
                    node.ends = inherited;
                }
            }
            queue.push_back(child);
        }
    }
}

fn step(nodes: &[Node], mut state: u32, byte: u8) -> u32 {
    while let Some(node) = nodes.get(state as usize) {
        if let Some(next) = node.child(byte) {
            return next;
        }
        if state == 0 {
            break;
        }
        state = node.fail;
    }
    0
}

/// Walks over a text piece by piece.
#[derive(Clone, Debug)]
pub struct StopMatcher {
    automaton: Arc<Automaton>,
    state: u32,
    position: usize,
}

impl StopMatcher {
    /// Takes the next bytes of the text. The match that ends first is reported; of several that end
    /// there, the one that starts first. After a match the matcher is spent.
    pub fn push(&mut self, bytes: &[u8]) -> Option<StopMatch> {
        for &byte in bytes {
            self.position = self.position.saturating_add(1);
            self.state = step(&self.automaton.nodes, self.state, byte);
            let ends = self
                .automaton
                .nodes
                .get(self.state as usize)
                .map_or(NONE, |n| n.ends);
            if let Some(&length) = self.automaton.lengths.get(ends as usize) {
                return Some(StopMatch {
                    index: ends as usize,
                    start: self.position.saturating_sub(length),
                    end: self.position,
                });
            }
        }
        None
    }

    /// How many bytes have come since it began.
    pub fn position(&self) -> usize {
        self.position
    }

    /// Begins anew: what came before is part of no match.
    pub fn reset(&mut self) {
        (self.state, self.position) = (0, 0);
    }

    /// How many of the last bytes could still become a stop string.
    pub fn held(&self) -> usize {
        self.automaton
            .nodes
            .get(self.state as usize)
            .map_or(0, |n| n.depth)
    }
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing
)]
mod tests {
    use super::*;
    use crate::text::tests::Rng;

    /// The definition, written down the slow way.
    fn slow(text: &[u8], stops: &[String]) -> Option<StopMatch> {
        for end in 1..=text.len() {
            let mut best: Option<StopMatch> = None;
            for (index, stop) in stops.iter().enumerate() {
                if text[..end].ends_with(stop.as_bytes()) {
                    let start = end - stop.len();
                    if best.is_none_or(|b| start < b.start) {
                        best = Some(StopMatch { index, start, end });
                    }
                }
            }
            if best.is_some() {
                return best;
            }
        }
        None
    }

    #[test]
    fn equals_the_definition_and_holds_back_no_more_than_needed() {
        let mut rng = Rng::new(7);
        let mut found = 0;
        for _ in 0..20_000 {
            let word = |rng: &mut Rng, max: usize| -> String {
                (0..rng.below(max))
                    .map(|_| ['a', 'b', 'é'][rng.below(3)])
                    .collect()
            };
            let stops: Vec<String> = (0..1 + rng.below(4))
                .map(|_| word(&mut rng, 5) + "a")
                .collect();
            let text = word(&mut rng, 20);
            let expected = slow(text.as_bytes(), &stops);
            found += usize::from(expected.is_some());
            let mut matcher = StopStrings::new(&stops).unwrap().matcher();
            let mut got = None;
            for (i, byte) in text.bytes().enumerate() {
                got = matcher.push(&[byte]);
                if got.is_some() {
                    break;
                }
                let seen = &text.as_bytes()[..=i];
                let longest = (0..=seen.len()).rev().find(|n| {
                    stops
                        .iter()
                        .any(|s| s.as_bytes().starts_with(&seen[seen.len() - n..]))
                });
                assert_eq!(Some(matcher.held()), longest, "{text:?} {stops:?}");
            }
            assert_eq!(got, expected, "{text:?} {stops:?}");
        }
        assert!(found > 5_000);
    }

    #[test]
    fn bad_stop_strings_are_named() {
        let message = |s: &[&str]| StopStrings::new(s).unwrap_err().message;
        assert_eq!(message(&["a", ""]), "stop[1] is empty");
        assert!(message(&["x".repeat(4097).as_str()]).starts_with("stop[0] has 4097 bytes"));
        assert!(message(&["x"; 65]).starts_with("stop has 65 strings"));
        assert!(StopStrings::new::<&str>(&[]).unwrap().is_empty());
    }
}
