//! Tokens as a folder's other files declare them: `tokenizer_config.json`, `special_tokens_map.json`, `added_tokens.json`.
//!
//! What is added to `tokenizer.json`'s tokens, and with which flags, is what transformers 5 adds: the
//! `added_tokens_decoder`, or where there is none the two older files; then the named tokens and the extra ones that are
//! not there yet. Ids come as in transformers, too: a text that the vocabulary has keeps its id, others get the next ones.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::{Map, Value};
use tokenizers::{AddedToken, NormalizedString, Normalizer};

use super::sanitise::{brief, refuse, MAX_ADDED_TOKEN, MAX_VOCABULARY};
use crate::error::Result;

const CONFIG: &str = "tokenizer_config.json";
const MAP: &str = "special_tokens_map.json";
const ADDED: &str = "added_tokens.json";
/// The special tokens that transformers knows by name, in its order.
const NAMED: [&str; 7] = [
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
];
const EXTRA: &str = "extra_special_tokens";
/// What `extra_special_tokens` was called before transformers 5.
const ADDITIONAL: &str = "additional_special_tokens";
/// Tokens that have a name; each is a variable of every template.
const MOST_NAMED: usize = 256;
/// Tokens that are called `eos_token`.
const MOST_ENDS: usize = 1024;
/// Of all added texts together: recognising them takes a hundred times as much.
const MAX_ADDED_BYTES: usize = 2 << 20;

/// The files, parsed; None where there is none.
#[derive(Debug, Default)]
pub struct TokenFiles {
    /// `tokenizer_config.json`
    pub config: Option<Map<String, Value>>,
    /// `special_tokens_map.json`
    pub special_tokens_map: Option<Map<String, Value>>,
    /// `added_tokens.json`
    pub added_tokens: Option<Map<String, Value>>,
}

/// What the files say.
#[derive(Debug, Default)]
pub(super) struct Declared {
    /// In the order in which they get their ids.
    pub added: Vec<Added>,
    /// Name and text.
    pub named: Vec<(String, String)>,
    /// Every text that any file calls special, also where transformers would not look.
    pub special: HashSet<String>,
    /// Every text that any file calls `eos_token`.
    pub eos: Vec<String>,
}

#[derive(Debug)]
pub(super) struct Added {
    file: &'static str,
    /// The id that the file gives it.
    id: Option<u64>,
    token: AddedToken,
}

/// What is odd, one sentence for each kind however often it occurs.
#[derive(Default)]
struct Odd(BTreeMap<String, (String, usize)>);

impl Odd {
    fn add(&mut self, kind: String, example: &str) {
        let entry = self.0.entry(kind).or_insert_with(|| {
            let shown: String = example.chars().take(60).collect();
            (format!("{shown:?}"), 0)
        });
        entry.1 = entry.1.saturating_add(1);
    }

    fn warn(self, warnings: &mut Vec<String>) {
        warnings.extend(self.0.into_iter().map(|(kind, (example, count))| {
            match count.saturating_sub(1) {
                0 => format!("{kind}: {example}"),
                more => format!("{kind}: {example} and {more} more"),
            }
        }));
    }
}

/// A token as JSON has it: its text, or an object with `content` and flags.
struct Written<'a> {
    content: &'a str,
    flags: Option<&'a Map<String, Value>>,
}

impl<'a> Written<'a> {
    fn read(value: &'a Value) -> Option<Self> {
        let (content, flags) = match value {
            Value::String(content) => (content.as_str(), None),
            Value::Object(flags) => (flags.get("content")?.as_str()?, Some(flags)),
            _ => return None,
        };
        Some(Written { content, flags })
    }

    /// None: a flag has a wrong type. `special`: whatever the object says.
    fn token(&self, special: bool) -> Option<AddedToken> {
        let flag = |name: &str| match self.flags.and_then(|flags| flags.get(name)) {
            None | Some(Value::Null) => Some(None),
            Some(Value::Bool(flag)) => Some(Some(*flag)),
            Some(_) => None,
        };
        let special = flag("special")?.unwrap_or(self.flags.is_none()) || special;
        let token = AddedToken::from(self.content, special)
            .single_word(flag("single_word")?.unwrap_or(false))
            .lstrip(flag("lstrip")?.unwrap_or(false))
            .rstrip(flag("rstrip")?.unwrap_or(false));
        // By default, special tokens are matched as they are and others after normalisation.
        Some(token.normalized(flag("normalized")?.unwrap_or(!special)))
    }
}

/// The tokens that a value holds in any form: one, a list, or an object by name.
fn texts(value: &Value) -> Vec<&str> {
    let one = |value| Written::read(value).map(|written| written.content);
    match (one(value), value) {
        (Some(text), _) => vec![text],
        (None, Value::Array(list)) => list.iter().filter_map(one).collect(),
        (None, Value::Object(map)) => map.values().filter_map(one).collect(),
        _ => Vec::new(),
    }
}

fn names_tokens(key: &str) -> bool {
    key.ends_with("_token") || key == EXTRA || key == ADDITIONAL
}

fn is_set(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
        _ => true,
    }
}

impl Declared {
    /// `roles`: the names that `tokenizer.json` itself gives, for what no other file names. `inner` has its tokens.
    pub fn read(
        files: &TokenFiles,
        roles: &[(String, String)],
        inner: &tokenizers::Tokenizer,
        warnings: &mut Vec<String>,
    ) -> Declared {
        let mut odd = Odd::default();
        let mut this = Declared::default();
        let none = Map::new();
        let config = files.config.as_ref().unwrap_or(&none);
        let map = files.special_tokens_map.as_ref().unwrap_or(&none);
        let decoder = match config.get("added_tokens_decoder") {
            None | Some(Value::Null) => None,
            Some(Value::Object(decoder)) => Some(decoder),
            Some(_) => {
                let kind = format!("{CONFIG}: ignored, since it is no object");
                odd.add(kind, "added_tokens_decoder");
                None
            }
        };
        this.find_special(config, map, decoder, roles);

        // Name and value, as the last file that counts has it.
        let mut settings: Map<String, Value> = Map::new();
        for (key, value) in config.iter().filter(|(key, _)| names_tokens(key)) {
            settings.insert(key.clone(), value.clone());
        }
        if decoder.is_none() {
            for (key, value) in map.iter().filter(|(key, _)| names_tokens(key)) {
                let value = match (settings.get_mut(key), value) {
                    (Some(Value::Array(old)), Value::Array(new)) if key == EXTRA => {
                        old.extend(new.iter().cloned());
                        continue;
                    }
                    _ => value.clone(),
                };
                settings.insert(key.clone(), value);
            }
        }
        for (name, token) in roles {
            if !settings.get(name).is_some_and(is_set) {
                settings.insert(name.clone(), token.as_str().into());
            }
        }

        let named = this.name(&settings, &mut odd);
        let extra = [EXTRA, ADDITIONAL].into_iter();
        let extra = extra
            .filter_map(|key| settings.get(key))
            .find(|value| is_set(value));
        this.collect(
            decoder,
            files.added_tokens.as_ref(),
            named,
            extra,
            inner,
            &mut odd,
        );
        odd.warn(warnings);
        this
    }

    fn find_special(
        &mut self,
        config: &Map<String, Value>,
        map: &Map<String, Value>,
        decoder: Option<&Map<String, Value>>,
        roles: &[(String, String)],
    ) {
        for (key, value) in config
            .iter()
            .chain(map)
            .filter(|(key, _)| names_tokens(key))
        {
            let texts = texts(value).into_iter().map(str::to_owned);
            if key == "eos_token" {
                let room = MOST_ENDS.saturating_sub(self.eos.len());
                self.eos.extend(texts.clone().take(room));
            }
            self.special.extend(texts);
        }
        for (name, token) in roles {
            if name == "eos_token" {
                self.eos.push(token.clone());
            }
            self.special.insert(token.clone());
        }
        let tokens = decoder.into_iter().flat_map(Map::values);
        for token in tokens.filter(|t| t.get("special") == Some(&Value::Bool(true))) {
            self.special
                .extend(texts(token).into_iter().map(str::to_owned));
        }
    }

    /// Fills `named`, and returns the tokens behind it.
    fn name(&mut self, settings: &Map<String, Value>, odd: &mut Odd) -> Vec<AddedToken> {
        let standard = NAMED
            .iter()
            .filter_map(|name| settings.get_key_value(*name));
        let own = settings.iter().filter(|(name, value)| {
            // Settings such as `add_bos_token` end so, too.
            let is_token = value.is_string() || value.is_object();
            name.ends_with("_token") && !NAMED.contains(&name.as_str()) && is_token
        });
        let of_extra = match settings.get(EXTRA).filter(|value| is_set(value)) {
            Some(Value::Object(named)) => Some(named),
            Some(_) => None,
            None => settings.get(ADDITIONAL).and_then(Value::as_object),
        };
        let all = standard.chain(own).chain(of_extra.into_iter().flatten());
        let mut tokens = Vec::new();
        for (name, value) in all.filter(|(_, value)| is_set(value)) {
            // A list, which transformers does not take, names its first.
            let first = value
                .as_array()
                .and_then(|list| list.first())
                .unwrap_or(value);
            let written = Written::read(first).filter(|written| !written.content.is_empty());
            let token = written.and_then(|written| written.token(true));
            let Some(token) = token else {
                let kind = format!("{CONFIG} or {MAP}: ignored, since it is no token");
                odd.add(kind, name);
                continue;
            };
            if self.named.len() < MOST_NAMED {
                self.named.push((name.clone(), token.content.clone()));
            } else {
                let kind =
                    format!("{CONFIG} or {MAP}: name ignored, there are more than {MOST_NAMED}");
                odd.add(kind, name);
            }
            tokens.push(token);
        }
        tokens
    }

    /// Fills `added`.
    fn collect(
        &mut self,
        decoder: Option<&Map<String, Value>>,
        legacy: Option<&Map<String, Value>>,
        named: Vec<AddedToken>,
        extra: Option<&Value>,
        inner: &tokenizers::Tokenizer,
        odd: &mut Odd,
    ) {
        let present = inner.get_added_vocabulary().get_added_tokens_decoder();
        let names: HashSet<String> = named.iter().map(|token| token.content.clone()).collect();
        let mut by_id: BTreeMap<u64, AddedToken> = BTreeMap::new();
        let not_a_token = |file: &str| format!("{file}: ignored, since it is no token with an id");
        let another =
            |file: &str| format!("{file}: ignored, since another token has its id as well");
        if let Some(decoder) = decoder {
            for (id, value) in decoder {
                let token = Written::read(value).filter(|written| written.flags.is_some());
                let special = |w: &Written| names.contains(w.content);
                let token = token.and_then(|written| written.token(special(&written)));
                match (id.trim().parse(), token) {
                    (Ok(id), Some(token)) => {
                        if let Some(other) = by_id.insert(id, token) {
                            odd.add(another(CONFIG), &other.content);
                        }
                    }
                    _ => odd.add(not_a_token(CONFIG), id),
                }
            }
        } else {
            let extra: HashSet<&str> = extra.map(texts).unwrap_or_default().into_iter().collect();
            for (content, id) in legacy.into_iter().flatten() {
                let Some(id) = id.as_u64() else {
                    odd.add(not_a_token(ADDED), content);
                    continue;
                };
                let special = names.contains(content) || extra.contains(content.as_str());
                // tokenizer.json's own token of that id counts.
                let own = u32::try_from(id).ok().and_then(|id| present.get(&id));
                let lost = match own {
                    Some(own) if own.content != *content => Some(content.clone()),
                    Some(_) => None,
                    None => by_id
                        .insert(id, AddedToken::from(content.as_str(), special))
                        .map(|other| other.content),
                };
                if let Some(lost) = lost {
                    odd.add(another(ADDED), &lost);
                }
            }
        }
        let file = if decoder.is_some() { CONFIG } else { ADDED };
        let equal: HashMap<&str, &AddedToken> = present
            .values()
            .map(|token| (token.content.as_str(), token))
            .collect();
        let mut known: HashSet<String> = equal.keys().map(|content| content.to_string()).collect();
        for (id, token) in by_id {
            if equal
                .get(token.content.as_str())
                .is_some_and(|own| **own == token)
            {
                continue;
            }
            known.insert(token.content.clone());
            let id = Some(id);
            self.added.push(Added { file, id, token });
        }
        let listed = extra.and_then(Value::as_array).into_iter().flatten();
        let listed: Vec<AddedToken> = listed
            .filter_map(|value| {
                let token = Written::read(value).and_then(|written| written.token(true));
                if token.is_none() {
                    let kind = format!("{CONFIG} or {MAP}: {EXTRA} holds what is no token");
                    odd.add(kind, &brief(value));
                }
                token
            })
            .collect();
        for token in named.into_iter().chain(listed) {
            if known.insert(token.content.clone()) {
                self.added.push(Added {
                    file: CONFIG,
                    id: None,
                    token,
                });
            }
        }
    }
}

/// Adds tokens to those of `tokenizer.json`, whose ids are under `size`. Returns the same of all of them. A text that would
/// get an id for which the model has no row stays text.
pub(super) fn extend(
    inner: &mut tokenizers::Tokenizer,
    added: &[Added],
    size: u64,
    rows: Option<usize>,
    warnings: &mut Vec<String>,
) -> Result<u32> {
    let mut odd = Odd::default();
    let vocabulary = inner.get_added_vocabulary();
    let model_size = inner.get_vocab_size(false) as u64;
    let largest = vocabulary.get_added_tokens_decoder().keys().max();
    // As the crate counts.
    let mut next = match largest.map(|id| u64::from(*id)) {
        Some(id) if id >= model_size => id.saturating_add(1),
        _ => model_size,
    };
    let rows = rows.map_or(MAX_VOCABULARY, |rows| MAX_VOCABULARY.min(rows as u64));
    let normalized = |token: &AddedToken| match inner.get_normalizer() {
        Some(normalizer) if token.normalized => {
            let mut text = NormalizedString::from(token.content.as_str());
            normalizer
                .normalize(&mut text)
                .ok()
                .map(|()| text.get().to_owned())
        }
        _ => Some(token.content.clone()),
    };
    // What is searched for in normalised text, and whose it is.
    let mut patterns: HashMap<String, String> = HashMap::new();
    let own = vocabulary.get_added_tokens_decoder();
    for token in own.values().filter(|token| token.normalized) {
        patterns.extend(normalized(token).map(|pattern| (pattern, token.content.clone())));
    }
    let mut special: HashMap<&str, bool> = own
        .values()
        .map(|token| (token.content.as_str(), token.special))
        .collect();
    let mut ids: HashMap<&str, u64> = HashMap::new();
    let mut bytes = 0usize;
    let mut accepted: Vec<AddedToken> = Vec::new();
    for Added {
        file,
        id: declared,
        token,
    } in added
    {
        let content = token.content.as_str();
        if content.is_empty() {
            continue;
        }
        let mut ignore = |why: &str| odd.add(format!("{file}: token ignored, {why}"), content);
        bytes = bytes.saturating_add(content.len());
        if content.len() > MAX_ADDED_TOKEN {
            ignore(&format!("it is longer than {MAX_ADDED_TOKEN} bytes"));
            continue;
        }
        if bytes > MAX_ADDED_BYTES {
            ignore(&format!(
                "all together have more than {MAX_ADDED_BYTES} bytes"
            ));
            continue;
        }
        if token.normalized {
            let pattern = normalized(token).filter(|pattern| !pattern.is_empty());
            let Some(pattern) = pattern else {
                ignore("nothing is left of it after normalisation");
                continue;
            };
            let owner = patterns
                .entry(pattern)
                .or_insert_with(|| content.to_owned());
            if owner != content {
                ignore("another one is the same after normalisation");
                continue;
            }
        }
        let known = ids.get(content).copied();
        let known = known.or_else(|| inner.token_to_id(content).map(u64::from));
        let id = known.unwrap_or(next);
        if known.is_none() {
            let taken = u32::try_from(id).is_ok_and(|id| inner.id_to_token(id).is_some());
            if id >= rows || taken {
                ignore("the model has no row for it");
                continue;
            }
            next = next.saturating_add(1);
            ids.insert(content, id);
        }
        if declared.is_some_and(|declared| declared != id) {
            odd.add(
                format!("{file}: token with another id than the file says"),
                content,
            );
        }
        let mut token = token.clone();
        let was_special = special.insert(content, token.special).unwrap_or(false);
        token.special |= was_special;
        accepted.push(token);
    }
    odd.warn(warnings);
    if accepted.is_empty() {
        return Ok(u32::try_from(size).unwrap_or(u32::MAX));
    }
    let contents: Vec<String> = accepted.iter().map(|token| token.content.clone()).collect();
    inner.add_tokens(accepted).map_err(|e| {
        refuse(format!(
            "{CONFIG} adds tokens that cannot be added: {}",
            brief(&e)
        ))
    })?;
    let ids = contents
        .iter()
        .filter_map(|content| inner.token_to_id(content));
    let end = ids
        .map(|id| u64::from(id).saturating_add(1))
        .max()
        .unwrap_or(0);
    Ok(u32::try_from(size.max(end)).unwrap_or(u32::MAX))
}
