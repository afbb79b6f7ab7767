//! tokenizer.json before the `tokenizers` crate sees it: what would abort the process, or let a few bytes
//! of text become gigabytes, is refused by name; what has no business in encoding is dropped.

use std::collections::HashSet;

use serde_json::{from_value, Map, Value};
use tokenizers::{AddedToken, ModelWrapper, PostProcessorWrapper};

use super::steps::Steps;
use super::{growth, newer};
use crate::error::{Error, Result};
use crate::watch;

const MAX_FILE: usize = 128 << 20;
/// Ids stay under this, as do the vocabulary's entries.
pub(super) const MAX_VOCABULARY: u64 = 1 << 22;
/// Recognising added tokens costs at most so many steps per byte of a text.
pub(super) const MAX_ADDED_TOKEN: usize = 256;
/// Of all added texts together, grown as the normalizer lets them: recognising them takes a hundred times as much.
pub(super) const MAX_ADDED_BYTES: usize = 2 << 20;
const MAX_TEMPLATE_IDS: usize = 4096;
/// Post-processors, whatever they are nested in.
const MAX_PROCESSORS: usize = 64;
/// Bytes of a token, and of what is put in front of parts of words or behind words. Published vocabularies have up to 512.
const MAX_TOKEN: usize = 1024;
/// Models that look up every beginning of what is left of a word take the square of it for each character.
const MAX_LOOKED_UP_TOKEN: usize = 256;
/// Characters of a word that WordPiece looks at: it takes the square of it for each.
const MAX_WORD: u64 = 512;

/// The parts of a checked file: what the crate loads, and the decoder, which is ours.
pub(super) struct Checked {
    pub file: Map<String, Value>,
    pub decoder: Value,
    /// Content and declared id of every added token.
    pub added: Vec<(String, u64)>,
    /// The largest id plus one.
    pub size: u64,
    /// Saved by tokenizers 1.x, and rewritten.
    pub newer: bool,
    /// Name and text of special tokens, where the file has such.
    pub roles: Vec<(String, String)>,
    pub unknown: Unknown,
    /// What the post-processor puts around texts.
    pub framing: Vec<u32>,
    /// The bytes of the model's longest token.
    pub longest: usize,
    pub joins: Option<Joins>,
}

/// Over which pairs of characters the merges of a BPE vocabulary can go, of those whose second is no letter or digit.
#[derive(Debug)]
pub(super) struct Joins(HashSet<(char, char)>);

impl Joins {
    /// None where words have beginnings and ends of their own, or where tokens share an id.
    fn new(file: &Map<String, Value>) -> Option<Joins> {
        let model = file.get("model")?.as_object()?;
        let is_set = |key: &str| match model.get(key) {
            None | Some(Value::Null | Value::Bool(false)) => false,
            Some(Value::String(text)) => !text.is_empty(),
            _ => true,
        };
        let own = [
            "continuing_subword_prefix",
            "end_of_word_suffix",
            "ignore_merges",
        ];
        if own.into_iter().any(is_set) {
            return None;
        }
        let vocab = model.get("vocab")?.as_object()?;
        let mut ids: Vec<u64> = vocab.values().filter_map(Value::as_u64).collect();
        ids.sort_unstable();
        ids.dedup();
        if ids.len() != vocab.len() {
            return None;
        }
        let pairs = model.get("merges")?.as_array()?.iter().map(|merge| {
            let (first, second) = match merge {
                Value::String(pair) => pair.split_once(' ')?,
                pair => (pair.get(0)?.as_str()?, pair.get(1)?.as_str()?),
            };
            Some((first.chars().next_back()?, second.chars().next()?))
        });
        let pairs: Option<Vec<(char, char)>> = pairs.collect();
        let pairs = pairs?.into_iter();
        Some(Joins(pairs.filter(|(_, c)| !c.is_alphanumeric()).collect()))
    }

    /// Whether no token goes over this place, both of whose characters are tokens themselves.
    pub fn divides(&self, left: char, right: char) -> bool {
        !right.is_alphanumeric() && !self.0.contains(&(left, right))
    }
}

/// What a model makes of characters that it does not know.
pub(super) enum Unknown {
    None,
    Token(String),
    Id(u32),
}

pub(super) fn check(bytes: &[u8]) -> Result<Checked> {
    if bytes.len() > MAX_FILE {
        return Err(refuse(format!(
            "has {} bytes, at most {MAX_FILE} are read",
            bytes.len()
        )));
    }
    // Of the JSON, the vocabularies made from it and our table.
    crate::room::ask(bytes.len(), 48, "tokenizer.json")?;
    watch::look()?;
    let parsed: Value =
        serde_json::from_slice(bytes).map_err(|e| refuse(format!("is not valid JSON: {e}")))?;
    let Value::Object(mut file) = parsed else {
        return Err(refuse("must be a JSON object"));
    };
    let newer = newer::is_newer(&file);
    match file.get("version") {
        None => {}
        Some(Value::String(version)) if version == "1.0" || newer => {}
        Some(other) => {
            return Err(refuse(format!(
                "version must be \"1.0\", or \"2.0\" as tokenizers 1.x writes it, not {}",
                brief(other)
            )))
        }
    }
    let roles = newer::roles(&mut file);
    if newer {
        newer::rewrite(&mut file).map_err(newer::of_newer)?;
    }
    file.remove("truncation");
    file.remove("padding");
    let decoder = file.remove("decoder").unwrap_or(Value::Null);

    let unknown = file.get("model").map_or(Unknown::None, unknown);
    let (entries, model_size, longest) = check_model(&mut file)?;
    let joins = Joins::new(&file);
    let added = check_added(&file, entries)?;
    let size = added
        .iter()
        .map(|(_, id)| id.saturating_add(1))
        .fold(model_size, u64::max);
    if size == 0 {
        return Err(refuse("the vocabulary is empty"));
    }
    growth::check(file.get("normalizer"), file.get("pre_tokenizer"))?;
    let mut framing = Vec::new();
    if let Some(processor) = file.get("post_processor") {
        check_post_processor(processor, &mut 0)?;
        collect_framing(processor, &mut framing);
    }
    Ok(Checked {
        file,
        decoder,
        added,
        size,
        newer,
        roles,
        unknown,
        framing,
        longest,
        joins,
    })
}

fn unknown(model: &Value) -> Unknown {
    let id = model.get("unk_id").and_then(Value::as_u64);
    let id = id.and_then(|id| u32::try_from(id).ok());
    match (id, model.get("unk_token").and_then(Value::as_str)) {
        (Some(id), _) => Unknown::Id(id),
        (None, Some(token)) => Unknown::Token(token.to_owned()),
        (None, None) => Unknown::None,
    }
}

pub(super) fn refuse(what: impl std::fmt::Display) -> Error {
    Error::bad_model(format!("tokenizer.json: {}", brief(&what)))
}

/// Returns how many entries the model's vocabulary has, its largest id plus one, and the bytes of its longest token.
fn check_model(file: &mut Map<String, Value>) -> Result<(u64, u64, usize)> {
    let model = file
        .get_mut("model")
        .and_then(Value::as_object_mut)
        .ok_or_else(|| refuse("model must be an object"))?;
    // Dropout would make the same text give different ids.
    if model.contains_key("dropout") {
        model.insert("dropout".into(), Value::Null);
    }
    if let Some(n) = model
        .get("max_input_chars_per_word")
        .and_then(Value::as_u64)
    {
        if n > MAX_WORD {
            return Err(refuse(format!(
                "model.max_input_chars_per_word is {n}, at most {MAX_WORD} is allowed"
            )));
        }
    }
    for key in [
        "continuing_subword_prefix",
        "end_of_word_suffix",
        "unk_token",
    ] {
        let text = model.get(key).and_then(Value::as_str).unwrap_or("");
        if text.len() > MAX_TOKEN {
            return Err(too_long(key, text, MAX_TOKEN));
        }
    }
    let merges = model.get("merges").and_then(Value::as_array);
    let merges = merges.map_or(0, |merges| merges.len() as u64);
    if merges > MAX_VOCABULARY {
        return Err(refuse(format!(
            "model.merges has {merges} entries, at most {MAX_VOCABULARY} are allowed"
        )));
    }
    check_merges(model)?;
    let named = model.get("type").and_then(Value::as_str).unwrap_or("BPE");
    let most = match model.get("merges") {
        Some(_) if named == "BPE" => MAX_TOKEN,
        _ => MAX_LOOKED_UP_TOKEN,
    };
    let (mut size, mut longest) = (0u64, 0usize);
    let mut measure = |token: &str| {
        watch::look()?;
        longest = longest.max(token.len());
        match token.len() > most {
            true => Err(too_long("vocab", token, most)),
            false => Ok(()),
        }
    };
    let entries = match model.get("vocab") {
        Some(Value::Object(vocab)) => {
            let limit = sparse_limit(vocab.len() as u64);
            for (token, id) in vocab {
                measure(token)?;
                let id = id.as_u64().ok_or_else(|| {
                    refuse(format!(
                        "model.vocab: the id of {token:?} must be a whole number"
                    ))
                })?;
                check_id("model.vocab", token, id, limit)?;
                size = size.max(id.saturating_add(1));
            }
            vocab.len()
        }
        Some(Value::Array(vocab)) => {
            for entry in vocab {
                measure(entry.get(0).and_then(Value::as_str).unwrap_or(""))?;
            }
            size = vocab.len() as u64;
            vocab.len()
        }
        _ => return Err(refuse("model.vocab must be an object or a list")),
    } as u64;
    if entries > MAX_VOCABULARY {
        return Err(refuse(format!(
            "model.vocab has {entries} entries, at most {MAX_VOCABULARY} are allowed"
        )));
    }
    Ok((entries, size, longest))
}

fn too_long(key: &str, text: &str, most: usize) -> Error {
    let shown: String = text.chars().take(40).collect();
    refuse(format!(
        "model.{key} has a text of {} bytes, at most {most} are allowed: {shown:?}",
        text.len()
    ))
}

/// The crate cuts the prefix off a merge's second part without looking whether it is there, and takes what
/// remains for valid UTF-8.
fn check_merges(model: &Map<String, Value>) -> Result<()> {
    let prefix = model
        .get("continuing_subword_prefix")
        .and_then(Value::as_str)
        .unwrap_or("");
    if prefix.is_empty() {
        return Ok(());
    }
    for (index, merge) in model
        .get("merges")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .enumerate()
    {
        watch::look()?;
        let second = match merge {
            Value::String(pair) => pair.split_once(' ').map(|(_, second)| second),
            pair => pair.get(1).and_then(Value::as_str),
        };
        if !second.is_some_and(|second| second.starts_with(prefix)) {
            return Err(refuse(format!(
                "model.merges[{index}] lacks the continuing_subword_prefix {prefix:?}"
            )));
        }
    }
    Ok(())
}

/// Ids may have holes, but not so many that a table by id dwarfs the file.
fn sparse_limit(entries: u64) -> u64 {
    entries
        .saturating_mul(4)
        .saturating_add(65_536)
        .min(MAX_VOCABULARY)
}

fn check_id(place: &str, token: &str, id: u64, limit: u64) -> Result<()> {
    if id < limit {
        return Ok(());
    }
    let shown: String = token.chars().take(40).collect();
    Err(refuse(format!(
        "{place}: the id {id} of {shown:?} is too large for this vocabulary (limit {limit})"
    )))
}

fn check_added(file: &Map<String, Value>, entries: u64) -> Result<Vec<(String, u64)>> {
    let list = match file.get("added_tokens") {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(list)) => list,
        Some(_) => return Err(refuse("added_tokens must be a list")),
    };
    let limit = sparse_limit(entries.saturating_add(list.len() as u64));
    let mut added = Vec::new();
    let mut bytes = 0usize;
    for (index, token) in list.iter().enumerate() {
        watch::look()?;
        let content = token.get("content").and_then(Value::as_str);
        let id = token.get("id").and_then(Value::as_u64);
        let (Some(content), Some(id)) = (content, id) else {
            return Err(refuse(format!(
                "added_tokens[{index}] must have a content and an id"
            )));
        };
        if content.len() > MAX_ADDED_TOKEN {
            return Err(refuse(format!(
                "added_tokens[{index}] is longer than {MAX_ADDED_TOKEN} bytes"
            )));
        }
        bytes = bytes.saturating_add(content.len());
        if bytes > MAX_ADDED_BYTES {
            return Err(refuse(format!(
                "added_tokens have more than {MAX_ADDED_BYTES} bytes"
            )));
        }
        check_id("added_tokens", content, id, limit)?;
        if !content.is_empty() {
            added.push((content.to_string(), id));
        }
    }
    Ok(added)
}

pub(super) fn kind(value: &Value) -> &str {
    value.get("type").and_then(Value::as_str).unwrap_or("")
}

/// The text may appear once, and only a few ids around it.
/// (The crate takes them without their names, too, by what they hold.)
fn check_post_processor(value: &Value, count: &mut usize) -> Result<()> {
    *count = count.saturating_add(1);
    if *count > MAX_PROCESSORS {
        return Err(refuse(format!(
            "post_processor has more than {MAX_PROCESSORS} steps"
        )));
    }
    for key in ["single", "pair"] {
        check_template(key, value)?;
    }
    let parts = value.get("processors").and_then(Value::as_array);
    parts
        .into_iter()
        .flatten()
        .try_for_each(|part| check_post_processor(part, count))
}

fn collect_framing(processor: &Value, out: &mut Vec<u32>) {
    let mut add = |id: Option<&Value>| {
        let id = id
            .and_then(Value::as_u64)
            .and_then(|id| u32::try_from(id).ok());
        out.extend(id);
    };
    // BertProcessing and RobertaProcessing: a text and its id.
    for key in ["cls", "sep"] {
        add(processor.get(key).and_then(|pair| pair.get(1)));
    }
    let table = processor.get("special_tokens").and_then(Value::as_object);
    for entry in table.into_iter().flat_map(Map::values) {
        let ids = entry.get("ids").and_then(Value::as_array);
        ids.into_iter().flatten().for_each(|id| add(Some(id)));
    }
    let parts = processor.get("processors").and_then(Value::as_array);
    for part in parts.into_iter().flatten() {
        collect_framing(part, out);
    }
}

fn check_template(key: &str, processor: &Value) -> Result<()> {
    let Some(list) = processor.get(key).and_then(Value::as_array) else {
        return Ok(());
    };
    let (mut texts, mut ids) = (0usize, 0usize);
    for entry in list {
        let special = entry
            .get("SpecialToken")
            .and_then(|t| t.get("id"))
            .and_then(Value::as_str);
        match special.or_else(|| entry.as_str().filter(|s| !s.starts_with('$'))) {
            Some(name) => {
                let declared = processor.get("special_tokens").and_then(|t| t.get(name));
                let list = declared
                    .and_then(|t| t.get("ids"))
                    .and_then(Value::as_array);
                let list = list.ok_or_else(|| {
                    refuse(format!("post_processor's template names {name:?}, which special_tokens does not have"))
                })?;
                ids = ids.saturating_add(list.len());
            }
            None => texts = texts.saturating_add(1),
        }
    }
    if texts > 2 || (key == "single" && texts > 1) || ids > MAX_TEMPLATE_IDS {
        return Err(refuse(format!(
            "post_processor's template {key} repeats the text or adds too many tokens"
        )));
    }
    Ok(())
}

/// Builds the crate's tokenizer from the checked parts, and what is ours of it. (The crate's own way copies the vocabulary
/// three times.)
pub(super) fn build(mut file: Map<String, Value>) -> Result<(tokenizers::Tokenizer, Steps)> {
    fn part<T>(place: &str, parsed: serde_json::Result<T>) -> Result<T> {
        parsed.map_err(|e| refuse(format!("{place}: {}", brief(&e))))
    }
    let mut take = |key: &str| file.remove(key).unwrap_or(Value::Null);
    let mut model = take("model");
    // Old files name no type: the crate then tries one after the other.
    let named = model.as_object_mut().and_then(|m| m.remove("type"));
    let mut model = match named.as_ref().and_then(Value::as_str).unwrap_or("") {
        "BPE" => ModelWrapper::BPE(part("model", from_value(model))?),
        "WordPiece" => ModelWrapper::WordPiece(part("model", from_value(model))?),
        "WordLevel" => ModelWrapper::WordLevel(part("model", from_value(model))?),
        "Unigram" => ModelWrapper::Unigram(part("model", from_value(model))?),
        other if !other.is_empty() => {
            return Err(refuse(format!("model.type {other:?} is not known")))
        }
        _ => part("model", from_value(model))?,
    };
    // The crate's cache of words belongs to the thread, grows with every tokenizer that the thread uses and outlives
    // them all; ours (`words.rs`) goes with the tokenizer.
    if let ModelWrapper::BPE(bpe) = &mut model {
        bpe.resize_cache(0);
    }
    let mut tokenizer = tokenizers::Tokenizer::new(model);
    let steps = Steps::new(take("normalizer"), take("pre_tokenizer"))?;
    let post_processor: Option<PostProcessorWrapper> =
        part("post_processor", from_value(take("post_processor")))?;
    tokenizer.with_post_processor(post_processor);
    let added: Option<Vec<AddedToken>> = part("added_tokens", from_value(take("added_tokens")))?;
    let added = added.unwrap_or_default();
    let bytes: usize = added.iter().map(|token| token.content.len()).sum();
    if bytes.saturating_mul(steps.scale()) > MAX_ADDED_BYTES {
        return Err(refuse(
            "added_tokens: the normalizer may make them longer than is allowed",
        ));
    }
    watch::look()?;
    tokenizer
        .add_tokens(added)
        .map_err(|e| refuse(format!("added_tokens: {}", brief(&e))))?;
    watch::look()?;
    Ok((tokenizer, steps))
}

/// The first line of a message from below, cut to a readable length.
pub(super) fn brief(error: &impl std::fmt::Display) -> String {
    error
        .to_string()
        .lines()
        .next()
        .unwrap_or("")
        .chars()
        .take(200)
        .collect()
}
