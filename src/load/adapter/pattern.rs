//! The regular expressions of PEFT's `rank_pattern`, `alpha_pattern` and `target_modules`, matched with module paths.
//!
//! The part of Python's syntax that such configs use: characters, `.`, classes, `\d \w \s \b` and their opposites,
//! groups, `|`, `^`, `$`, and `* + ? {m,n}` (lazy ones match the same whole paths). A pattern becomes a program that
//! runs in all its states at once, so the time is bounded by its size times the path's length, and a budget bounds
//! the sum of that over a config.

use std::rc::Rc;

use super::super::limits::Limits;
use crate::error::{Error, Result};

/// Steps that all matching of one adapter may take: a few seconds at most, and far beyond what real configs need.
pub(super) struct Budget(u64);

impl Budget {
    pub fn new(limits: &Limits) -> Budget {
        Budget((limits.tensors as u64).saturating_mul(10_000))
    }

    fn take(&mut self, steps: usize) -> Result<()> {
        self.0 = self.0.checked_sub(steps as u64).ok_or_else(|| {
            Error::bad_model("adapter_config.json: its patterns take too long to match")
        })?;
        Ok(())
    }
}

#[derive(Debug)]
pub(super) enum Pattern {
    /// Of [`Pattern::at_end`], with nothing in it but names and dots, each of which is any character.
    Plain(String),
    Program(Vec<Step>),
}

#[derive(Debug)]
pub(super) enum Step {
    /// One character.
    One(Rc<Class>),
    /// Goes on at both.
    Split(usize, usize),
    Jump(usize),
    Start,
    End,
    /// `\b`, or `\B` when false.
    Border(bool),
    Match,
}

/// A set of characters: ranges, or all but them.
#[derive(Debug)]
pub(super) struct Class {
    not: bool,
    ranges: Vec<(char, char)>,
}

impl Class {
    fn has(&self, c: char) -> bool {
        self.not
            != self
                .ranges
                .iter()
                .any(|(low, high)| (*low..=*high).contains(&c))
    }
}

enum Node {
    One(Rc<Class>),
    Start,
    End,
    Border(bool),
    All(Vec<Node>),
    Any(Vec<Node>),
    Repeat(Box<Node>, u32, Option<u32>),
}

const MAX_BYTES: usize = 8_192;
const MAX_DEPTH: usize = 50;
const MAX_REPEAT: u32 = 1_000;
const MAX_RANGES: usize = 100;
const MAX_PROGRAM: usize = 5_000;

type Parsed<T> = std::result::Result<T, String>;

impl Pattern {
    /// Matches whole paths (`re.fullmatch`). The error continues "the pattern".
    pub fn whole(text: &str) -> Parsed<Pattern> {
        Self::compile(parse(text)?)
    }

    /// Matches a path or its end after a dot, as PEFT compares `(.*\.)?(text)$`.
    pub fn at_end(text: &str) -> Parsed<Pattern> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.');
        if text.chars().all(plain) {
            return Ok(Pattern::Plain(text.to_string()));
        }
        let before = parse(r"(.*\.)?")?;
        Self::compile(Node::All(vec![before, parse(text)?]))
    }

    fn compile(node: Node) -> Parsed<Pattern> {
        let mut compiler = Compiler::default();
        compiler.emit(&node)?;
        compiler.program.push(Step::Match);
        Ok(Pattern::Program(compiler.program))
    }

    /// What it takes in memory, in steps or bytes.
    pub fn size(&self) -> usize {
        match self {
            Pattern::Plain(text) => text.len(),
            Pattern::Program(program) => program.len(),
        }
    }

    pub fn matches(&self, path: &str, budget: &mut Budget) -> Result<bool> {
        budget.take(self.size())?;
        match self {
            Pattern::Plain(text) => Ok(ends_like(path, text)),
            Pattern::Program(program) => run(program, path, budget),
        }
    }
}

/// Whether `path` or its end after a dot is `text`, whose dots are any character.
fn ends_like(path: &str, text: &str) -> bool {
    let mut path = path.chars().rev();
    let alike = |c: char| path.next().is_some_and(|found| c == '.' || c == found);
    text.chars().rev().all(alike) && matches!(path.next(), None | Some('.'))
}

fn run(program: &[Step], path: &str, budget: &mut Budget) -> Result<bool> {
    let mut states = States::new(program.len());
    let mut next = States::new(program.len());
    let mut before = None;
    let mut rest = path.chars();
    states.add(0);
    loop {
        let after = rest.clone().next();
        // Grows while it is walked: what a state leads to without a character is a state, too.
        let mut matched = false;
        let mut walked = 0;
        while let Some(&at) = states.list.get(walked) {
            walked = walked.saturating_add(1);
            let following = at.saturating_add(1);
            match program.get(at) {
                Some(Step::One(class)) => {
                    if after.is_some_and(|c| class.has(c)) {
                        next.add(following);
                    }
                }
                Some(Step::Split(one, other)) => {
                    states.add(*one);
                    states.add(*other);
                }
                Some(Step::Jump(to)) => states.add(*to),
                Some(Step::Start) if before.is_none() => states.add(following),
                Some(Step::End) if after.is_none() => states.add(following),
                Some(Step::Border(wanted)) => {
                    let word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
                    if (word(before) != word(after)) == *wanted {
                        states.add(following);
                    }
                }
                Some(Step::Match) => matched |= after.is_none(),
                Some(Step::Start | Step::End) | None => {}
            }
        }
        budget.take(walked.saturating_add(1))?;
        if matched {
            return Ok(true);
        }
        before = rest.next();
        if before.is_none() || next.list.is_empty() {
            return Ok(false);
        }
        states.clear();
        std::mem::swap(&mut states, &mut next);
    }
}

/// A list of states without duplicates.
struct States {
    list: Vec<usize>,
    present: Vec<bool>,
}

impl States {
    fn new(size: usize) -> States {
        States {
            list: Vec::new(),
            present: vec![false; size],
        }
    }

    fn add(&mut self, state: usize) {
        if let Some(present @ false) = self.present.get_mut(state) {
            *present = true;
            self.list.push(state);
        }
    }

    fn clear(&mut self) {
        for state in self.list.drain(..) {
            if let Some(present) = self.present.get_mut(state) {
                *present = false;
            }
        }
    }
}

#[derive(Default)]
struct Compiler {
    program: Vec<Step>,
    /// Nodes that were compiled; repeated empty groups make many of them and no steps.
    nodes: usize,
}

impl Compiler {
    fn emit(&mut self, node: &Node) -> Parsed<()> {
        self.nodes = self.nodes.saturating_add(1);
        if self.program.len() > MAX_PROGRAM || self.nodes > MAX_PROGRAM.saturating_mul(4) {
            return Err("is too large".into());
        }
        match node {
            Node::One(class) => self.program.push(Step::One(class.clone())),
            Node::Start => self.program.push(Step::Start),
            Node::End => self.program.push(Step::End),
            Node::Border(wanted) => self.program.push(Step::Border(*wanted)),
            Node::All(nodes) => {
                for node in nodes {
                    self.emit(node)?;
                }
            }
            Node::Any(nodes) => {
                let mut ends = Vec::new();
                for (index, node) in nodes.iter().enumerate() {
                    let last = index.saturating_add(1) == nodes.len();
                    let split = self.program.len();
                    if !last {
                        self.program.push(Step::Split(split.saturating_add(1), 0));
                    }
                    self.emit(node)?;
                    if !last {
                        ends.push(self.program.len());
                        self.program.push(Step::Jump(0));
                        self.patch(split);
                    }
                }
                for end in ends {
                    self.patch(end);
                }
            }
            Node::Repeat(node, least, most) => {
                for _ in 0..*least {
                    self.emit(node)?;
                }
                match most {
                    None => {
                        let split = self.program.len();
                        self.program.push(Step::Split(split.saturating_add(1), 0));
                        self.emit(node)?;
                        self.program.push(Step::Jump(split));
                        self.patch(split);
                    }
                    Some(most) => {
                        let mut splits = Vec::new();
                        for _ in *least..*most {
                            let split = self.program.len();
                            splits.push(split);
                            self.program.push(Step::Split(split.saturating_add(1), 0));
                            self.emit(node)?;
                        }
                        for split in splits {
                            self.patch(split);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Lets the step at `at` go on after all that is there by now.
    fn patch(&mut self, at: usize) {
        let end = self.program.len();
        match self.program.get_mut(at) {
            Some(Step::Split(_, other)) => *other = end,
            Some(Step::Jump(to)) => *to = end,
            _ => {}
        }
    }
}

fn parse(text: &str) -> Parsed<Node> {
    if text.len() > MAX_BYTES {
        return Err(format!("is longer than {MAX_BYTES} bytes"));
    }
    let mut parser = Parser {
        rest: text.chars().peekable(),
    };
    let node = parser.alternatives(0)?;
    match parser.rest.next() {
        None => Ok(node),
        Some(c) => Err(format!("has {c:?} where nothing was open")),
    }
}

struct Parser<'a> {
    rest: std::iter::Peekable<std::str::Chars<'a>>,
}

impl Parser<'_> {
    fn alternatives(&mut self, depth: usize) -> Parsed<Node> {
        if depth > MAX_DEPTH {
            return Err("nests too deep".into());
        }
        let mut nodes = Vec::new();
        loop {
            nodes.push(self.sequence(depth)?);
            if self.rest.next_if_eq(&'|').is_none() {
                return Ok(Node::Any(nodes));
            }
        }
    }

    fn sequence(&mut self, depth: usize) -> Parsed<Node> {
        let mut nodes = Vec::new();
        while let Some(c) = self.rest.next_if(|c| !matches!(c, '|' | ')')) {
            let node = match c {
                '.' => one(true, vec![('\n', '\n')]),
                '^' => Node::Start,
                '$' => Node::End,
                '[' => Node::One(Rc::new(self.class()?)),
                '(' => self.group(depth)?,
                '\\' => self.escaped()?,
                '*' | '+' | '?' => return Err(format!("has nothing to repeat before {c:?}")),
                c => literal(c),
            };
            let node = self.repeated(node)?;
            nodes.push(node);
        }
        Ok(Node::All(nodes))
    }

    fn group(&mut self, depth: usize) -> Parsed<Node> {
        if self.rest.next_if_eq(&'?').is_some() && self.rest.next_if_eq(&':').is_none() {
            return Err("has a group with \"(?\", of which only \"(?:\" is supported".into());
        }
        let node = self.alternatives(depth.saturating_add(1))?;
        match self.rest.next() {
            Some(')') => Ok(node),
            _ => Err("has a group that is not closed".into()),
        }
    }

    fn escaped(&mut self) -> Parsed<Node> {
        match self.rest.next() {
            Some('b') => Ok(Node::Border(true)),
            Some('B') => Ok(Node::Border(false)),
            Some(c) => match named(c) {
                Some(class) => Ok(Node::One(Rc::new(class))),
                None if c.is_ascii_alphanumeric() => Err(format!("has the escape \\{c}")),
                None => Ok(literal(c)),
            },
            None => Err("ends with a backslash".into()),
        }
    }

    fn class(&mut self) -> Parsed<Class> {
        let open = || "has a class that is not closed".to_string();
        let not = self.rest.next_if_eq(&'^').is_some();
        let mut ranges = Vec::new();
        let mut first = true;
        loop {
            if ranges.len() > MAX_RANGES {
                return Err(format!("has a class of more than {MAX_RANGES} ranges"));
            }
            let c = self.rest.next().ok_or_else(open)?;
            let low = match c {
                ']' if !first => return Ok(Class { not, ranges }),
                '\\' => {
                    let c = self.rest.next().ok_or_else(open)?;
                    match named(c) {
                        Some(class) if !class.not => {
                            ranges.extend(class.ranges);
                            first = false;
                            continue;
                        }
                        None if !c.is_ascii_alphanumeric() => c,
                        _ => return Err(format!("has \\{c} in a class")),
                    }
                }
                c => c,
            };
            first = false;
            if self.rest.next_if_eq(&'-').is_none() {
                ranges.push((low, low));
                continue;
            }
            match self.rest.next().ok_or_else(open)? {
                // A minus at the end stands for itself.
                ']' => {
                    ranges.extend([(low, low), ('-', '-')]);
                    return Ok(Class { not, ranges });
                }
                high if high != '\\' && low <= high => ranges.push((low, high)),
                _ => return Err("has a class with a range that is none".into()),
            }
        }
    }

    fn repeated(&mut self, node: Node) -> Parsed<Node> {
        let (least, most) = match self.rest.peek() {
            Some('*') => (0, None),
            Some('+') => (1, None),
            Some('?') => (0, Some(1)),
            Some('{') => {
                let mut ahead = self.rest.clone();
                ahead.next();
                let inside: String = ahead.by_ref().take_while(|c| *c != '}').collect();
                let Some(bounds) = bounds(&inside) else {
                    return Err(format!("has the repetition {{{inside}}}"));
                };
                // All but the bracket that the next line takes.
                for _ in 0..inside.chars().count().saturating_add(1) {
                    self.rest.next();
                }
                bounds
            }
            _ => return Ok(node),
        };
        self.rest.next();
        if matches!(node, Node::Start | Node::End | Node::Border(_)) {
            return Err("repeats what is no character".into());
        }
        self.rest.next_if_eq(&'?');
        match self.rest.peek() {
            Some('*' | '+' | '?' | '{') => Err("repeats a repetition".into()),
            _ => Ok(Node::Repeat(Box::new(node), least, most)),
        }
    }
}

/// `m`, `m,`, `,n` or `m,n`.
fn bounds(inside: &str) -> Option<(u32, Option<u32>)> {
    let number = |text: &str| text.parse::<u32>().ok().filter(|n| *n <= MAX_REPEAT);
    let (least, most) = match inside.split_once(',') {
        None => (number(inside)?, Some(number(inside)?)),
        Some(("", "")) => return None,
        Some(("", most)) => (0, Some(number(most)?)),
        Some((least, "")) => (number(least)?, None),
        Some((least, most)) => (number(least)?, Some(number(most)?)),
    };
    most.is_none_or(|most| least <= most)
        .then_some((least, most))
}

fn literal(c: char) -> Node {
    one(false, vec![(c, c)])
}

fn one(not: bool, ranges: Vec<(char, char)>) -> Node {
    Node::One(Rc::new(Class { not, ranges }))
}

/// The classes that have an escape of their own.
fn named(c: char) -> Option<Class> {
    let ranges = match c.to_ascii_lowercase() {
        'd' => vec![('0', '9')],
        'w' => vec![('0', '9'), ('A', 'Z'), ('_', '_'), ('a', 'z')],
        's' => vec![(' ', ' '), ('\t', '\r')],
        _ => return None,
    };
    Some(Class {
        not: c.is_ascii_uppercase(),
        ranges,
    })
}
