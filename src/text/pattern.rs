//! Regular expressions of tokenizer.json, matched under a budget.
//!
//! A pattern is read as `fancy-regex` reads it and matched as a backtracking engine does, but every step is counted: one
//! that scans the rest at every position, or goes back and forth, is given up with an error that says so, and the watch is
//! looked at on the way. The engine below would stop without a word, and take the rest of the text for one piece.
//!
//! It also tells whether a text can be divided between two characters without changing what is matched (`Facts`).

use fancy_regex::{Assertion, Expr, LookAround};
use regex_syntax::hir::{self, Hir, HirKind};

use super::sanitise::{brief, refuse};
use crate::error::{Error, Result};
use crate::watch;

type CrateResult<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Bytes of one pattern; published ones have up to 2,000.
const MAX_PATTERN: usize = 8 << 10;
/// Of a compiled pattern; published ones have under 100.
const MAX_CODE: usize = 2048;
/// Steps for each byte of a text, and for any text. Published patterns take 5 to 30.
const STEPS_PER_BYTE: usize = 512;
const STEPS: usize = 10_000;
/// Places to go back to, at once.
const MAX_BACK: usize = 1 << 20;
/// Between two looks at the watch: well under a millisecond.
const LOOK_EVERY: usize = 1 << 16;

/// Some characters.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Set {
    ascii: u128,
    /// Sorted, of characters beyond ASCII.
    ranges: Box<[(char, char)]>,
}

impl Set {
    fn new(ranges: impl Iterator<Item = (char, char)>) -> Set {
        let (mut ascii, mut others) = (0u128, Vec::new());
        for (first, last) in ranges {
            for c in ('\0'..='\x7f').filter(|c| first <= *c && *c <= last) {
                ascii |= 1 << (c as u32);
            }
            if last > '\x7f' {
                others.push((first.max('\u{80}'), last));
            }
        }
        others.sort_unstable();
        Set {
            ascii,
            ranges: others.into(),
        }
    }

    fn has(&self, c: char) -> bool {
        if c.is_ascii() {
            return (self.ascii >> (c as u32)) & 1 == 1;
        }
        let place = self.ranges.partition_point(|(_, last)| *last < c);
        self.ranges.get(place).is_some_and(|(first, _)| *first <= c)
    }
}

#[derive(Debug)]
enum Node {
    Set(Set),
    Concat(Vec<Node>),
    Alt(Vec<Node>),
    Repeat {
        child: Box<Node>,
        low: usize,
        high: Option<usize>,
        greedy: bool,
    },
    Look {
        child: Box<Node>,
        /// How many characters back it begins.
        behind: Option<usize>,
        negative: bool,
    },
    Atomic(Box<Node>),
    Assert(Assertion),
}

/// What of a pattern touches a place between two characters of a text.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Facts {
    nullable: bool,
    starts_right: bool,
    ends_left: bool,
    /// A match, or what it looks ahead at, may reach over the place.
    pub crosses: bool,
    pub eats_left: bool,
    pub eats_right: bool,
    /// It asks what is in front of it, or where the text ends, or may match nothing.
    pub blind: bool,
}

impl Node {
    fn facts(&self, left: char, right: char) -> Facts {
        match self {
            Node::Set(set) => {
                let (eats_left, eats_right) = (set.has(left), set.has(right));
                Facts {
                    starts_right: eats_right,
                    ends_left: eats_left,
                    eats_left,
                    eats_right,
                    ..Facts::default()
                }
            }
            Node::Concat(nodes) => {
                let none = Facts {
                    nullable: true,
                    ..Facts::default()
                };
                nodes.iter().fold(none, |a, node| {
                    let b = node.facts(left, right);
                    Facts {
                        nullable: a.nullable && b.nullable,
                        starts_right: a.starts_right || (a.nullable && b.starts_right),
                        ends_left: b.ends_left || (b.nullable && a.ends_left),
                        crosses: a.crosses || b.crosses || (a.ends_left && b.starts_right),
                        eats_left: a.eats_left || b.eats_left,
                        eats_right: a.eats_right || b.eats_right,
                        blind: a.blind || b.blind,
                    }
                })
            }
            Node::Alt(nodes) => nodes.iter().fold(Facts::default(), |a, node| {
                let b = node.facts(left, right);
                Facts {
                    nullable: a.nullable || b.nullable,
                    starts_right: a.starts_right || b.starts_right,
                    ends_left: a.ends_left || b.ends_left,
                    crosses: a.crosses || b.crosses,
                    eats_left: a.eats_left || b.eats_left,
                    eats_right: a.eats_right || b.eats_right,
                    blind: a.blind || b.blind,
                }
            }),
            Node::Repeat {
                child, low, high, ..
            } => {
                let mut facts = child.facts(left, right);
                facts.crosses |= *high != Some(1) && facts.ends_left && facts.starts_right;
                facts.nullable |= *low == 0;
                facts
            }
            // What it looks at is not part of the match: what comes after it goes on from in front of it.
            Node::Look { child, behind, .. } => {
                let mut facts = child.facts(left, right);
                facts.nullable = true;
                facts.ends_left = false;
                facts.blind |= behind.is_some();
                facts
            }
            Node::Atomic(child) => child.facts(left, right),
            Node::Assert(_) => Facts {
                nullable: true,
                blind: true,
                ..Facts::default()
            },
        }
    }

    /// Whether nothing at all is among what it matches, wherever it is.
    fn is_optional(&self) -> bool {
        match self {
            Node::Concat(nodes) => nodes.iter().all(Node::is_optional),
            Node::Alt(nodes) => nodes.iter().any(Node::is_optional),
            Node::Repeat { child, low, .. } => *low == 0 || child.is_optional(),
            _ => false,
        }
    }

    /// Whether this one character alone is among what it matches, whatever is around it.
    fn takes(&self, c: char) -> bool {
        match self {
            Node::Set(set) => set.has(c),
            Node::Alt(nodes) => nodes.iter().any(|node| node.takes(c)),
            Node::Repeat {
                child, low, high, ..
            } => *high != Some(0) && (*low <= 1 || child.is_optional()) && child.takes(c),
            Node::Concat(nodes) => {
                let needed = nodes.iter().filter(|node| !node.is_optional()).count();
                nodes
                    .iter()
                    .any(|node| node.takes(c) && needed <= usize::from(!node.is_optional()))
            }
            _ => false,
        }
    }

    /// How many characters it matches, where that is always the same number.
    fn width(&self) -> Option<usize> {
        match self {
            Node::Set(_) => Some(1),
            Node::Concat(nodes) => nodes
                .iter()
                .try_fold(0usize, |sum, node| sum.checked_add(node.width()?)),
            Node::Alt(nodes) => {
                let (first, others) = nodes.split_first()?;
                let width = first.width()?;
                let same = others.iter().all(|node| node.width() == Some(width));
                same.then_some(width)
            }
            Node::Repeat {
                child, low, high, ..
            } => (Some(*low) == *high)
                .then(|| child.width()?.checked_mul(*low))
                .flatten(),
            Node::Look { .. } | Node::Assert(_) => Some(0),
            Node::Atomic(child) => child.width(),
        }
    }

    fn weight(&self) -> usize {
        let sum = |nodes: &[Node]| {
            let weights = nodes.iter().map(Node::weight);
            weights.fold(1usize, usize::saturating_add)
        };
        match self {
            Node::Set(set) => (set.ranges.len() / 16).saturating_add(1),
            Node::Concat(nodes) | Node::Alt(nodes) => sum(nodes),
            Node::Repeat {
                child, low, high, ..
            } => {
                let times = high.unwrap_or(low.saturating_add(1)).max(1);
                child.weight().saturating_mul(times)
            }
            Node::Look { child, .. } | Node::Atomic(child) => child.weight().saturating_add(1),
            Node::Assert(_) => 1,
        }
    }

    fn may_be_empty(&self) -> bool {
        self.facts('a', 'a').nullable
    }
}

#[derive(Clone, Debug)]
enum Insn {
    Set(usize),
    /// As many as there are; gives them back one by one.
    Run {
        set: usize,
        low: usize,
        high: usize,
    },
    /// The first, and should that fail the second.
    Split(usize, usize),
    Jump(usize),
    /// What it looks at follows.
    Look {
        behind: Option<usize>,
        negative: bool,
        next: usize,
    },
    Atomic(usize),
    Assert(Assertion),
    Accept,
}

/// A compiled pattern.
#[derive(Debug)]
pub(super) struct Pattern {
    source: String,
    node: Node,
    code: Vec<Insn>,
    sets: Vec<Set>,
    word: Set,
    /// The ASCII characters that a match can begin with.
    starts: u128,
}

/// Somewhere to go back to.
enum Back {
    To { pc: usize, at: usize },
    Run { pc: usize, least: usize, at: usize },
}

impl Pattern {
    /// Errors: `BadModel` for what is no pattern or too large, `Unsupported` for what cannot be matched under a budget.
    pub fn new(source: &str) -> Result<Pattern> {
        if source.len() > MAX_PATTERN {
            return Err(refuse(format!(
                "a pattern has {} bytes, at most {MAX_PATTERN} are allowed",
                source.len()
            )));
        }
        let shown = || format!("the pattern {:?}", brief(&source));
        let tree = Expr::parse_tree(source)
            .map_err(|e| refuse(format!("{} is not valid: {}", shown(), brief(&e))))?;
        let node = read(&tree.expr).map_err(|why| {
            let message = format!("tokenizer.json: {} {why}", shown());
            Error::unsupported(message)
        })?;
        Self::compile(source, node)
    }

    /// Matches exactly this text.
    pub fn literal(text: &str) -> Result<Pattern> {
        Self::compile(text, letters(text))
    }

    fn compile(source: &str, node: Node) -> Result<Pattern> {
        let mut this = Pattern {
            source: source.to_owned(),
            code: Vec::new(),
            sets: Vec::new(),
            word: word_characters(),
            starts: 0,
            node: Node::Concat(Vec::new()),
        };
        this.add(&node).map_err(|why| {
            let message = format!("tokenizer.json: the pattern {:?} {why}", brief(&source));
            Error::unsupported(message)
        })?;
        this.push(Insn::Accept);
        let facts = node.facts('a', 'a');
        for c in '\0'..='\x7f' {
            if facts.nullable || node.facts(c, c).starts_right {
                this.starts |= 1 << (c as u32);
            }
        }
        this.node = node;
        Ok(this)
    }

    /// How large it is for an engine that writes its repetitions out, in about 40 for a class such as `\p{L}`.
    pub fn weight(&self) -> usize {
        self.node.weight()
    }

    pub fn facts(&self, left: char, right: char) -> Facts {
        let mut facts = self.node.facts(left, right);
        facts.blind |= facts.nullable;
        facts
    }

    /// Whether this one character alone is always matched, unless a longer match takes it.
    pub fn takes(&self, c: char) -> bool {
        self.node.takes(c)
    }

    /// Whether every match is one character.
    pub fn is_single(&self) -> bool {
        self.node.width() == Some(1)
    }

    fn push(&mut self, insn: Insn) -> usize {
        self.code.push(insn);
        self.code.len().saturating_sub(1)
    }

    fn set(&mut self, at: usize, insn: Insn) {
        if let Some(place) = self.code.get_mut(at) {
            *place = insn;
        }
    }

    fn add_set(&mut self, set: &Set) -> usize {
        let known = self.sets.iter().position(|other| other == set);
        known.unwrap_or_else(|| {
            self.sets.push(set.clone());
            self.sets.len().saturating_sub(1)
        })
    }

    fn add(&mut self, node: &Node) -> std::result::Result<(), &'static str> {
        if self.code.len() > MAX_CODE {
            return Err("is too large");
        }
        match node {
            Node::Set(set) => {
                let set = self.add_set(set);
                self.push(Insn::Set(set));
            }
            Node::Concat(nodes) => {
                for node in nodes {
                    self.add(node)?;
                }
            }
            Node::Alt(nodes) => {
                let mut jumps = Vec::new();
                let Some((last, others)) = nodes.split_last() else {
                    return Ok(());
                };
                for node in others {
                    let split = self.push(Insn::Jump(0));
                    self.add(node)?;
                    jumps.push(self.push(Insn::Jump(0)));
                    let (first, second) = (split.saturating_add(1), self.code.len());
                    self.set(split, Insn::Split(first, second));
                }
                self.add(last)?;
                let end = self.code.len();
                jumps
                    .into_iter()
                    .for_each(|jump| self.set(jump, Insn::Jump(end)));
            }
            Node::Repeat {
                child,
                low,
                high,
                greedy,
            } => self.repeat(child, *low, *high, *greedy)?,
            Node::Look {
                child,
                behind,
                negative,
            } => {
                let look = self.push(Insn::Accept);
                self.add(child)?;
                self.push(Insn::Accept);
                let (behind, negative, next) = (*behind, *negative, self.code.len());
                self.set(
                    look,
                    Insn::Look {
                        behind,
                        negative,
                        next,
                    },
                );
            }
            Node::Atomic(child) => {
                let atomic = self.push(Insn::Accept);
                self.add(child)?;
                self.push(Insn::Accept);
                let next = self.code.len();
                self.set(atomic, Insn::Atomic(next));
            }
            Node::Assert(assertion) => {
                self.push(Insn::Assert(*assertion));
            }
        }
        Ok(())
    }

    fn repeat(
        &mut self,
        child: &Node,
        low: usize,
        high: Option<usize>,
        greedy: bool,
    ) -> std::result::Result<(), &'static str> {
        if let (Node::Set(set), true) = (child, greedy) {
            let set = self.add_set(set);
            let high = high.unwrap_or(usize::MAX);
            self.push(Insn::Run { set, low, high });
            return Ok(());
        }
        let order = |body: usize, end: usize| match greedy {
            true => Insn::Split(body, end),
            false => Insn::Split(end, body),
        };
        for _ in 0..low {
            self.add(child)?;
        }
        let Some(high) = high else {
            if child.may_be_empty() {
                return Err("repeats what may be empty without an end, which is not supported");
            }
            let split = self.push(Insn::Jump(0));
            self.add(child)?;
            self.push(Insn::Jump(split));
            let insn = order(split.saturating_add(1), self.code.len());
            self.set(split, insn);
            return Ok(());
        };
        let mut splits = Vec::new();
        for _ in low..high {
            splits.push(self.push(Insn::Jump(0)));
            self.add(child)?;
        }
        let end = self.code.len();
        for split in splits {
            let insn = order(split.saturating_add(1), end);
            self.set(split, insn);
        }
        Ok(())
    }

    fn has(&self, set: usize, c: char) -> bool {
        self.sets.get(set).is_some_and(|set| set.has(c))
    }

    /// Where a match that begins at `at` ends.
    fn run(
        &self,
        text: &str,
        mut pc: usize,
        mut at: usize,
        back: &mut Vec<Back>,
        meter: &mut Meter,
    ) -> CrateResult<Option<usize>> {
        let floor = back.len();
        loop {
            meter.count(1)?;
            let next = pc.saturating_add(1);
            let went = match self.code.get(pc) {
                Some(Insn::Set(set)) => match char_at(text, at).filter(|c| self.has(*set, *c)) {
                    Some(c) => {
                        at = at.saturating_add(c.len_utf8());
                        pc = next;
                        true
                    }
                    None => false,
                },
                Some(Insn::Run { set, low, high }) => {
                    let (mut end, mut least, mut count) = (at, at, 0usize);
                    while count < *high {
                        let Some(c) = char_at(text, end).filter(|c| self.has(*set, *c)) else {
                            break;
                        };
                        end = end.saturating_add(c.len_utf8());
                        count = count.saturating_add(1);
                        if count == *low {
                            least = end;
                        }
                    }
                    meter.count(count)?;
                    if end > least && count > *low {
                        let pc = next;
                        back.push(Back::Run { pc, least, at: end });
                    }
                    (at, pc) = (end, next);
                    count >= *low
                }
                Some(Insn::Split(first, second)) => {
                    if back.len() > MAX_BACK {
                        return Err(meter.gave_up());
                    }
                    back.push(Back::To { pc: *second, at });
                    pc = *first;
                    true
                }
                Some(Insn::Jump(to)) => {
                    pc = *to;
                    true
                }
                Some(Insn::Look {
                    behind,
                    negative,
                    next: to,
                }) => {
                    let start = match behind {
                        None => Some(at),
                        Some(count) => (0..*count).try_fold(at, |at, _| before(text, at)),
                    };
                    let found = match start {
                        Some(start) => self.run(text, next, start, back, meter)?.is_some(),
                        None => false,
                    };
                    pc = *to;
                    found != *negative
                }
                Some(Insn::Atomic(to)) => match self.run(text, next, at, back, meter)? {
                    Some(end) => {
                        (at, pc) = (end, *to);
                        true
                    }
                    None => false,
                },
                Some(Insn::Assert(assertion)) => {
                    pc = next;
                    self.holds(*assertion, text, at)
                }
                Some(Insn::Accept) | None => {
                    back.truncate(floor);
                    return Ok(Some(at));
                }
            };
            if went {
                continue;
            }
            if back.len() <= floor {
                return Ok(None);
            }
            match back.pop() {
                Some(Back::To { pc: to, at: place }) => (pc, at) = (to, place),
                Some(Back::Run {
                    pc: to,
                    least,
                    at: end,
                }) => {
                    let shorter = before(text, end).unwrap_or(least);
                    if shorter > least {
                        let at = shorter;
                        back.push(Back::Run { pc: to, least, at });
                    }
                    (pc, at) = (to, shorter);
                }
                None => return Ok(None),
            }
        }
    }

    fn holds(&self, assertion: Assertion, text: &str, at: usize) -> bool {
        let previous = || before(text, at).and_then(|start| char_at(text, start));
        let next = || char_at(text, at);
        let is_word = |c: Option<char>| c.is_some_and(|c| self.word.has(c));
        match assertion {
            Assertion::StartText => at == 0,
            Assertion::EndText => at == text.len(),
            Assertion::StartLine { .. } => previous().is_none_or(|c| c == '\n'),
            Assertion::EndLine { .. } => next().is_none_or(|c| c == '\n'),
            Assertion::WordBoundary => is_word(previous()) != is_word(next()),
            // `read` lets no others through.
            _ => is_word(previous()) == is_word(next()),
        }
    }

    /// All matches, as the engine's iterator gives them.
    fn matches(&self, text: &str) -> CrateResult<Vec<(usize, usize)>> {
        let mut meter = Meter::new(self, text);
        let (mut found, mut back) = (Vec::new(), Vec::new());
        let (mut from, mut last_end) = (0usize, None);
        'matches: while from <= text.len() {
            let mut start = from;
            let end = loop {
                let c = char_at(text, start);
                let hopeless = match c {
                    Some(c) if c.is_ascii() => (self.starts >> (c as u32)) & 1 == 0,
                    Some(_) => false,
                    None => false,
                };
                if hopeless {
                    meter.count(1)?;
                } else if let Some(end) = self.run(text, 0, start, &mut back, &mut meter)? {
                    break end;
                }
                match c {
                    Some(c) => start = start.saturating_add(c.len_utf8()),
                    None => break 'matches,
                }
            };
            if end == start {
                let step = char_at(text, end).map_or(1, char::len_utf8);
                from = end.saturating_add(step);
                // No empty match right behind a match.
                if last_end == Some(end) {
                    continue;
                }
            } else {
                from = end;
            }
            last_end = Some(end);
            found.push((start, end));
        }
        Ok(found)
    }
}

impl tokenizers::pattern::Pattern for &Pattern {
    fn find_matches(&self, inside: &str) -> tokenizers::Result<Vec<(tokenizers::Offsets, bool)>> {
        if inside.is_empty() {
            return Ok(vec![((0, 0), false)]);
        }
        let mut pieces = Vec::new();
        let mut done = 0;
        for (start, end) in self.matches(inside)? {
            if done != start {
                pieces.push(((done, start), false));
            }
            pieces.push(((start, end), true));
            done = end;
        }
        if done != inside.len() {
            pieces.push(((done, inside.len()), false));
        }
        Ok(pieces)
    }
}

/// Counts the steps over one text.
struct Meter<'a> {
    pattern: &'a Pattern,
    bytes: usize,
    left: usize,
    until_look: usize,
}

impl<'a> Meter<'a> {
    fn new(pattern: &'a Pattern, text: &str) -> Self {
        Meter {
            pattern,
            bytes: text.len(),
            left: text
                .len()
                .saturating_mul(STEPS_PER_BYTE)
                .saturating_add(STEPS),
            until_look: LOOK_EVERY,
        }
    }

    fn count(&mut self, steps: usize) -> CrateResult<()> {
        let Some(left) = self.left.checked_sub(steps) else {
            return Err(self.gave_up());
        };
        self.left = left;
        match self.until_look.checked_sub(steps) {
            Some(until) => self.until_look = until,
            None => {
                watch::look()?;
                self.until_look = LOOK_EVERY;
            }
        }
        Ok(())
    }

    fn gave_up(&self) -> Box<dyn std::error::Error + Send + Sync> {
        let message = format!(
            "tokenizer.json: the pattern {:?} was given up on a part of the text with {} bytes, since it goes over it \
             again and again",
            brief(&self.pattern.source),
            self.bytes
        );
        Error::bad_model(message).into()
    }
}

fn char_at(text: &str, at: usize) -> Option<char> {
    match text.as_bytes().get(at) {
        None => None,
        Some(byte) if byte.is_ascii() => Some(char::from(*byte)),
        Some(_) => text.get(at..).and_then(|rest| rest.chars().next()),
    }
}

/// The place of the character in front of `at`.
fn before(text: &str, at: usize) -> Option<usize> {
    let c = text.get(..at)?.chars().next_back()?;
    at.checked_sub(c.len_utf8())
}

fn word_characters() -> Set {
    let parsed = regex_syntax::parse(r"\w").ok();
    match parsed.as_ref().map(Hir::kind) {
        Some(HirKind::Class(class)) => set_of(class),
        _ => Set::new(std::iter::empty()),
    }
}

fn set_of(class: &hir::Class) -> Set {
    match class {
        hir::Class::Unicode(class) => Set::new(class.iter().map(|r| (r.start(), r.end()))),
        // Of a class with nothing beyond ASCII.
        hir::Class::Bytes(class) => {
            let ranges = class.iter().map(|r| (r.start(), r.end()));
            Set::new(ranges.map(|(first, last)| (char::from(first), char::from(last))))
        }
    }
}

fn letters(text: &str) -> Node {
    let set = |c| Node::Set(Set::new(std::iter::once((c, c))));
    concat(text.chars().map(set).collect())
}

fn concat(mut nodes: Vec<Node>) -> Node {
    match (nodes.len(), nodes.pop()) {
        (1, Some(only)) => only,
        (_, last) => {
            nodes.extend(last);
            Node::Concat(nodes)
        }
    }
}

/// The error is the end of a sentence.
fn read(expr: &Expr) -> std::result::Result<Node, &'static str> {
    let all = |list: &[Expr]| list.iter().map(read).collect::<std::result::Result<_, _>>();
    Ok(match expr {
        Expr::Empty => Node::Concat(Vec::new()),
        Expr::Any { newline: true } => read_plain(r"(?s:.)")?,
        Expr::Any { newline: false } => read_plain(".")?,
        Expr::Literal { val, casei: false } => letters(val),
        Expr::Literal { val, casei: true } => {
            read_plain(&format!("(?i:{})", regex_syntax::escape(val)))?
        }
        Expr::Delegate {
            inner, casei: true, ..
        } => read_plain(&format!("(?i:{inner})"))?,
        Expr::Delegate { inner, .. } => read_plain(inner)?,
        Expr::Concat(list) => concat(all(list)?),
        Expr::Alt(list) => Node::Alt(all(list)?),
        Expr::Group(child) => read(child)?,
        Expr::Repeat {
            child,
            lo,
            hi,
            greedy,
        } => Node::Repeat {
            child: Box::new(read(child)?),
            low: *lo,
            high: (*hi != usize::MAX).then_some(*hi),
            greedy: *greedy,
        },
        Expr::LookAround(child, look) => {
            let child = Box::new(read(child)?);
            let behind = matches!(look, LookAround::LookBehind | LookAround::LookBehindNeg);
            let width = "looks behind itself at parts of any length, which is not supported";
            Node::Look {
                behind: match behind {
                    true => Some(child.width().ok_or(width)?),
                    false => None,
                },
                child,
                negative: matches!(look, LookAround::LookAheadNeg | LookAround::LookBehindNeg),
            }
        }
        Expr::AtomicGroup(child) => Node::Atomic(Box::new(read(child)?)),
        Expr::Assertion(
            assertion @ (Assertion::StartText
            | Assertion::EndText
            | Assertion::StartLine { crlf: false }
            | Assertion::EndLine { crlf: false }
            | Assertion::WordBoundary
            | Assertion::NotWordBoundary),
        ) => Node::Assert(*assertion),
        _ => {
            return Err("refers back to what it matched, or has another part that is not supported")
        }
    })
}

/// A part that is for the simpler engine: a class of characters, mostly.
fn read_plain(source: &str) -> std::result::Result<Node, &'static str> {
    fn node(hir: &Hir) -> std::result::Result<Node, &'static str> {
        let all = |list: &[Hir]| list.iter().map(node).collect::<std::result::Result<_, _>>();
        Ok(match hir.kind() {
            HirKind::Empty => Node::Concat(Vec::new()),
            HirKind::Class(class) => Node::Set(set_of(class)),
            HirKind::Literal(literal) => {
                let text =
                    std::str::from_utf8(&literal.0).map_err(|_| "is not about characters")?;
                letters(text)
            }
            HirKind::Capture(capture) => node(&capture.sub)?,
            HirKind::Concat(list) => concat(all(list)?),
            HirKind::Alternation(list) => Node::Alt(all(list)?),
            HirKind::Repetition(repetition) => Node::Repeat {
                child: Box::new(node(&repetition.sub)?),
                low: repetition.min as usize,
                high: repetition.max.map(|max| max as usize),
                greedy: repetition.greedy,
            },
            HirKind::Look(_) => return Err("has an assertion that is not supported"),
        })
    }
    let hir =
        regex_syntax::parse(source).map_err(|_| "has a part that is no class of characters")?;
    node(&hir)
}
