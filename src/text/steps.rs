//! A tokenizer's normalizers and pre-tokenizers, taken one by one: their patterns are matched under a budget, and it is
//! known where a text can be divided so that its parts give the same tokens as the whole.

use std::sync::LazyLock;

use serde_json::{from_value, to_value, Value};
use tokenizers::normalizer::Range;
use tokenizers::normalizers::ByteLevel as Bytes;
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::{
    NormalizedString, Normalizer, NormalizerWrapper, PreTokenizedString, PreTokenizer,
    PreTokenizerWrapper, SplitDelimiterBehavior,
};

use super::growth;
use super::pattern::Pattern;
use super::sanitise::{brief, refuse};
use crate::error::Result;
use crate::watch;

type CrateResult<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// What ByteLevel splits at, as in the crate.
const GPT_2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
static BYTE_LEVEL: LazyLock<Option<Pattern>> = LazyLock::new(|| Pattern::new(GPT_2).ok());

#[derive(Debug)]
enum Normal {
    Replace { pattern: Pattern, content: String },
    Other(NormalizerWrapper),
}

#[derive(Debug)]
enum Pre {
    Split {
        pattern: Pattern,
        behavior: SplitDelimiterBehavior,
        invert: bool,
    },
    ByteLevel {
        prefix: bool,
        regex: bool,
    },
    Other(PreTokenizerWrapper),
}

#[derive(Debug, Default)]
pub(super) struct Steps {
    normalizers: Vec<Normal>,
    pre_tokenizers: Vec<Pre>,
    /// By how much they may multiply a text's length.
    pub growth: usize,
    /// A step asks whether a part is the first of the text.
    place_matters: bool,
}

/// A place between two characters where a text may be divided.
pub(super) struct Cut {
    /// The characters on both sides as the model gets them.
    pub left: char,
    pub right: char,
    /// The model gets what is on both sides as two words.
    pub between_words: bool,
    /// As the added tokens get them that are matched in normalised text.
    pub normalized: (char, char),
}

/// What a step does at such a place.
enum At {
    /// Always begins a new word.
    Border,
    /// Works on both sides as it does on the whole.
    Clear,
    /// Neither is known.
    Unknown,
}

impl Steps {
    pub fn new(normalizer: Value, pre_tokenizer: Value) -> Result<Steps> {
        let mut this = Steps::default();
        let mut words = Vec::new();
        let normalizer: Option<NormalizerWrapper> =
            from_value(normalizer).map_err(|e| refuse(format!("normalizer: {}", brief(&e))))?;
        if let Some(normalizer) = normalizer {
            this.add_normalizer(normalizer, &mut words)?;
        }
        let pre_tokenizer: Option<PreTokenizerWrapper> = from_value(pre_tokenizer)
            .map_err(|e| refuse(format!("pre_tokenizer: {}", brief(&e))))?;
        if let Some(pre_tokenizer) = pre_tokenizer {
            this.add_pre_tokenizer(pre_tokenizer, &mut words)?;
        }
        this.growth = growth::of_steps(&words)?;
        Ok(this)
    }

    fn add_normalizer(&mut self, step: NormalizerWrapper, words: &mut Vec<Value>) -> Result<()> {
        if let NormalizerWrapper::Sequence(steps) = step {
            return steps
                .into_iter()
                .try_for_each(|step| self.add_normalizer(step, words));
        }
        let word = Self::word(to_value(&step), words)?;
        self.normalizers.push(match step {
            NormalizerWrapper::Replace(replace) => Normal::Replace {
                pattern: pattern(&word)?,
                content: replace.content.clone(),
            },
            other => Normal::Other(other),
        });
        words.push(word);
        Ok(())
    }

    fn add_pre_tokenizer(
        &mut self,
        step: PreTokenizerWrapper,
        words: &mut Vec<Value>,
    ) -> Result<()> {
        if let PreTokenizerWrapper::Sequence(steps) = step {
            return steps
                .into_iter()
                .try_for_each(|step| self.add_pre_tokenizer(step, words));
        }
        let word = Self::word(to_value(&step), words)?;
        self.pre_tokenizers.push(match step {
            PreTokenizerWrapper::Split(split) => Pre::Split {
                pattern: pattern(&word)?,
                behavior: split.behavior,
                invert: split.invert,
            },
            PreTokenizerWrapper::ByteLevel(bytes) => Pre::ByteLevel {
                prefix: bytes.add_prefix_space,
                regex: bytes.use_regex,
            },
            PreTokenizerWrapper::Metaspace(metaspace) => {
                self.place_matters |= metaspace.prepend_scheme == PrependScheme::First;
                Pre::Other(PreTokenizerWrapper::Metaspace(metaspace))
            }
            other => Pre::Other(other),
        });
        words.push(word);
        Ok(())
    }

    /// A step in the crate's own words.
    fn word(step: serde_json::Result<Value>, words: &[Value]) -> Result<Value> {
        if words.len() >= growth::MAX_STEPS {
            return Err(growth::too_many());
        }
        step.map_err(|e| refuse(brief(&e)))
    }

    /// By how much a text takes more than usual: up to 4 bytes for one are in every measure already.
    pub fn scale(&self) -> usize {
        self.growth.div_ceil(4).max(1)
    }

    /// A part of a text that begins at byte `start` of it, and the number to add to the part's original offsets.
    pub fn part(&self, text: &str, start: usize) -> (NormalizedString, usize) {
        if start == 0 || !self.place_matters {
            return (NormalizedString::from(text), start);
        }
        // What steps see is whether the offset is 0.
        let shifted = NormalizedString::from(format!(".{text}"));
        match shifted.slice(Range::Normalized(1..shifted.len())) {
            Some(part) => (part, start.saturating_sub(1)),
            None => (NormalizedString::from(text), start),
        }
    }

    /// `goes_on`: the part begins at a `Cut`.
    pub fn normalize(&self, part: &mut NormalizedString, goes_on: bool) -> CrateResult<()> {
        for step in &self.normalizers {
            watch::look()?;
            match step {
                Normal::Replace { pattern, content } => part.replace(pattern, content)?,
                Normal::Other(NormalizerWrapper::Prepend(_)) if goes_on => {}
                Normal::Other(step) => step.normalize(part)?,
            }
        }
        Ok(())
    }

    pub fn pre_tokenize(&self, split: &mut PreTokenizedString) -> CrateResult<()> {
        for step in &self.pre_tokenizers {
            watch::look()?;
            match step {
                Pre::Split {
                    pattern,
                    behavior,
                    invert: true,
                } => {
                    let pattern = || tokenizers::pattern::Invert(pattern);
                    split.split(|_, part| part.split(pattern(), *behavior))?;
                }
                Pre::Split {
                    pattern, behavior, ..
                } => split.split(|_, part| part.split(pattern, *behavior))?,
                Pre::ByteLevel { prefix, regex } => {
                    let pattern = BYTE_LEVEL.as_ref().filter(|_| *regex);
                    if *prefix || pattern.is_some() {
                        split.split(|_, mut part| {
                            if *prefix && !part.get().starts_with(' ') {
                                part.prepend(" ");
                            }
                            match pattern {
                                Some(pattern) => {
                                    part.split(pattern, SplitDelimiterBehavior::Isolated)
                                }
                                None => Ok(vec![part]),
                            }
                        })?;
                    }
                    split.normalize(|part| Bytes::new().normalize(part))?;
                }
                Pre::Other(step) => step.pre_tokenize(split)?,
            }
        }
        Ok(())
    }

    /// Whether a text can be divided behind `before`, its last two characters there, and in front of `right`. None where
    /// that is not known to change nothing.
    pub fn cut(&self, before: [char; 2], right: char) -> Option<Cut> {
        let plain = |c: char| is_simple(c) || may_follow(c);
        if !plain(before[0]) || !is_simple(before[1]) || !may_follow(right) {
            return None;
        }
        let mut left = NormalizedString::from(before.iter().collect::<String>());
        let mut rest = NormalizedString::from(right.to_string());
        for step in &self.normalizers {
            let (x, y) = ends(&left, &rest)?;
            if !self.divides(step, [before[0], x], y) {
                return None;
            }
            let mut whole = NormalizedString::from(format!("{}{}", left.get(), rest.get()));
            for part in [&mut left, &mut rest, &mut whole] {
                match step {
                    Normal::Replace { pattern, content } => part.replace(pattern, content).ok()?,
                    Normal::Other(NormalizerWrapper::Prepend(_)) => {}
                    Normal::Other(step) => step.normalize(part).ok()?,
                }
            }
            if whole.get() != format!("{}{}", left.get(), rest.get()) {
                return None;
            }
        }
        let normalized = ends(&left, &rest)?;
        let mut between_words = false;
        for step in &self.pre_tokenizers {
            let (x, y) = ends(&left, &rest)?;
            // Words are taken one by one: what comes behind a border knows nothing of what is in front of it.
            if !between_words {
                match pre_tokenizer_at(step, x, y) {
                    At::Border => between_words = true,
                    At::Clear => {}
                    At::Unknown => return None,
                }
            }
            match step {
                Pre::ByteLevel { .. } => {
                    Bytes::new().normalize(&mut left).ok()?;
                    Bytes::new().normalize(&mut rest).ok()?;
                }
                Pre::Other(PreTokenizerWrapper::Metaspace(metaspace)) if y == ' ' => {
                    rest = NormalizedString::from(metaspace.get_replacement().to_string());
                }
                _ => {}
            }
        }
        let (left, right) = ends(&left, &rest)?;
        Some(Cut {
            left,
            right,
            between_words,
            normalized,
        })
    }

    /// Whether a normalizer makes of the two sides what it makes of the whole.
    fn divides(&self, step: &Normal, before: [char; 2], right: char) -> bool {
        match step {
            Normal::Replace { pattern, .. } => {
                let facts = pattern.facts(before[1], right);
                let eats = facts.eats_left || facts.eats_right;
                !facts.crosses && !facts.blind && (!eats || pattern.is_single())
            }
            Normal::Other(step) => match step {
                // A character by itself, or composed with marks that follow it; none of those that `may_follow`.
                NormalizerWrapper::NFC(_)
                | NormalizerWrapper::NFD(_)
                | NormalizerWrapper::NFKC(_)
                | NormalizerWrapper::NFKD(_)
                | NormalizerWrapper::Lowercase(_)
                | NormalizerWrapper::Nmt(_)
                | NormalizerWrapper::StripAccents(_)
                | NormalizerWrapper::BertNormalizer(_)
                | NormalizerWrapper::ByteLevel(_)
                // Where the text begins.
                | NormalizerWrapper::Prepend(_) => true,
                // By grapheme clusters.
                NormalizerWrapper::Precompiled(_) => {
                    before.iter().all(char::is_ascii) && right.is_ascii()
                }
                // Where the text begins and ends.
                NormalizerWrapper::StripNormalizer(_) => false,
                NormalizerWrapper::Replace(_) | NormalizerWrapper::Sequence(_) => false,
            },
        }
    }
}

/// The pattern of a Replace or Split in the crate's own words.
fn pattern(step: &Value) -> Result<Pattern> {
    let part = |key: &str| step.get("pattern")?.get(key)?.as_str();
    match (part("String"), part("Regex")) {
        (Some(text), _) => Pattern::literal(text),
        (None, Some(pattern)) => Pattern::new(pattern),
        (None, None) => Err(refuse("a pattern must be a String or a Regex")),
    }
}

/// The last character of one and the first of the other.
fn ends(left: &NormalizedString, right: &NormalizedString) -> Option<(char, char)> {
    Some((left.get().chars().next_back()?, right.get().chars().next()?))
}

fn pre_tokenizer_at(step: &Pre, left: char, right: char) -> At {
    use SplitDelimiterBehavior::{
        Contiguous, Isolated, MergedWithNext, MergedWithPrevious, Removed,
    };
    let of_pattern = |pattern: &Pattern, behavior: &SplitDelimiterBehavior| {
        let facts = pattern.facts(left, right);
        if facts.crosses || facts.blind {
            return At::Unknown;
        }
        if !facts.eats_left && !facts.eats_right {
            return At::Clear;
        }
        match behavior {
            Isolated | Removed if pattern.takes(left) || pattern.takes(right) => At::Border,
            Isolated | Removed => At::Clear,
            MergedWithNext if !facts.eats_left && pattern.takes(right) => At::Border,
            _ => At::Unknown,
        }
    };
    // Of one that looks at each character by itself.
    let of_class = |behavior: SplitDelimiterBehavior, is: &dyn Fn(char) -> bool| match (
        behavior,
        is(left),
        is(right),
    ) {
        (_, false, false) => At::Clear,
        (Isolated | Removed, _, _) => At::Border,
        (Contiguous, true, true) => At::Unknown,
        (Contiguous, _, _) => At::Border,
        (MergedWithPrevious, true, false) => At::Border,
        (MergedWithNext, false, true) => At::Border,
        _ => At::Unknown,
    };
    let is_punctuation = |c: char| c.is_ascii_punctuation() || is_other_punctuation(c);
    // Of other characters it is not known here whether they are punctuation or parts of words.
    let known = is_simple(left) && may_follow(right);
    match step {
        Pre::Split {
            pattern, behavior, ..
        } => of_pattern(pattern, behavior),
        Pre::ByteLevel { prefix, .. } if *prefix && right != ' ' => At::Unknown,
        Pre::ByteLevel { regex: false, .. } => At::Clear,
        Pre::ByteLevel { regex: true, .. } => match &*BYTE_LEVEL {
            Some(pattern) => of_pattern(pattern, &Isolated),
            None => At::Unknown,
        },
        Pre::Other(step) => match step {
            PreTokenizerWrapper::Metaspace(metaspace) => metaspace_at(metaspace, left, right),
            PreTokenizerWrapper::WhitespaceSplit(_) => of_class(Removed, &char::is_whitespace),
            PreTokenizerWrapper::Delimiter(split) => of_class(Removed, &|c| c == split.delimiter),
            PreTokenizerWrapper::Digits(digits) => {
                let behavior = match digits.individual_digits {
                    true => Isolated,
                    false => Contiguous,
                };
                of_class(behavior, &char::is_numeric)
            }
            PreTokenizerWrapper::Punctuation(split) if known => {
                of_class(split.behavior, &is_punctuation)
            }
            PreTokenizerWrapper::BertPreTokenizer(_) if known => {
                of_class(Isolated, &|c| c.is_whitespace() || is_punctuation(c))
            }
            // Letters and digits are one kind of word, what else is no white space the other.
            PreTokenizerWrapper::Whitespace(_) if known => At::Border,
            // The others count from where the text begins, or look back; or are taken apart when they are read.
            _ => At::Unknown,
        },
    }
}

fn metaspace_at(metaspace: &Metaspace, left: char, right: char) -> At {
    let mark = metaspace.get_replacement();
    if left == mark || left == ' ' {
        return At::Unknown;
    }
    let is_mark = right == mark || right == ' ';
    match metaspace.prepend_scheme {
        // In front of every part that does not begin with one.
        PrependScheme::Always if !is_mark => At::Unknown,
        _ if is_mark && metaspace.split => At::Border,
        _ => At::Clear,
    }
}

/// Letters and digits that are whole by themselves: no form of Unicode joins them to what is in front of them.
fn is_simple(c: char) -> bool {
    c.is_ascii_alphanumeric()
        || matches!(c,
            '\u{c0}'..='\u{d6}' | '\u{d8}'..='\u{f6}' | '\u{f8}'..='\u{17f}' // Latin
            | '\u{391}'..='\u{3a1}' | '\u{3a3}'..='\u{3c9}' // Greek
            | '\u{410}'..='\u{44f}' // Cyrillic
            | '\u{5d0}'..='\u{5ea}' // Hebrew
            | '\u{627}'..='\u{63a}' | '\u{641}'..='\u{64a}' // Arabic
            | '\u{905}'..='\u{939}' // Devanagari
            | '\u{e01}'..='\u{e2e}' // Thai
            | '\u{3041}'..='\u{3096}' | '\u{30a1}'..='\u{30fa}' // Kana
            | '\u{4e00}'..='\u{9fff}' // Han
            | '\u{ac00}'..='\u{d7a3}' // Hangul
        )
}

/// White space and punctuation that texts are full of, and that no form of Unicode joins to what is in front of it.
fn may_follow(c: char) -> bool {
    matches!(
        c,
        ' ' | '\n' | '\t' | ',' | '.' | ';' | ':' | '!' | '?' | '(' | ')' | '"' | '<' | '{' | '='
    ) || is_other_punctuation(c)
}

fn is_other_punctuation(c: char) -> bool {
    matches!(c, '，' | '。' | '、' | '！' | '？' | '：' | '；')
}
