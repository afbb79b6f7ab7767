//! Tokens as a folder's other files declare them: `tokenizer_config.json`, `special_tokens_map.json`, `added_tokens.json`.
//!
//! What is added to `tokenizer.json`'s tokens, and with which flags, is what transformers 5 adds: the
//! `added_tokens_decoder`, or where there is none the two older files; then the named tokens and the extra ones that are
//! not there yet. Ids come as in transformers, too: a text that the vocabulary has keeps its id, others get the next ones.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::{Map, Value};
use tokenizers::AddedToken;

use super::extend::Odd;
use super::sanitise::brief;

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

/// Tokens of files that are read in a few milliseconds, and whatever else they hold.
const FEW: usize = 1000;

impl TokenFiles {
    /// Whether they have few tokens to add.
    pub(super) fn are_short(&self) -> bool {
        fn values(value: &Value) -> usize {
            match value {
                Value::Array(list) => list.iter().map(values).sum(),
                Value::Object(map) => map.values().map(values).sum(),
                _ => 1,
            }
        }
        let files = [&self.config, &self.special_tokens_map, &self.added_tokens];
        let values = files
            .into_iter()
            .flatten()
            .flat_map(Map::values)
            .map(values);
        values.sum::<usize>() <= FEW
    }
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
    pub file: &'static str,
    /// The id that the file gives it.
    pub id: Option<u64>,
    pub token: AddedToken,
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
        // Before the older file is looked at, whose `additional_special_tokens` do not count then.
        if !settings.get(EXTRA).is_some_and(is_set) {
            if let Some(old) = settings.remove(ADDITIONAL) {
                settings.insert(EXTRA.into(), old);
            }
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
