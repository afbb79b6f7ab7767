//! Tokens that other files declare, added to those of `tokenizer.json`, as far as they can be.

use std::collections::{BTreeMap, HashMap};

use tokenizers::{AddedToken, NormalizedString};

use super::declared::Added;
use super::sanitise::{brief, refuse, MAX_ADDED_BYTES, MAX_ADDED_TOKEN, MAX_VOCABULARY};
use super::steps::Steps;
use crate::error::Result;
use crate::watch;

/// What is odd, one sentence for each kind however often it occurs.
#[derive(Default)]
pub(super) struct Odd(BTreeMap<String, (String, usize)>);

impl Odd {
    pub fn add(&mut self, kind: String, example: &str) {
        let entry = self.0.entry(kind).or_insert_with(|| {
            let shown: String = example.chars().take(60).collect();
            (format!("{shown:?}"), 0)
        });
        entry.1 = entry.1.saturating_add(1);
    }

    pub fn warn(self, warnings: &mut Vec<String>) {
        warnings.extend(self.0.into_iter().map(|(kind, (example, count))| {
            match count.saturating_sub(1) {
                0 => format!("{kind}: {example}"),
                more => format!("{kind}: {example} and {more} more"),
            }
        }));
    }
}

/// Adds tokens to those of `tokenizer.json`, whose ids are under `size`. Returns the same of all of them. A text that would
/// get an id for which the model has no row stays text.
pub(super) fn extend(
    inner: &mut tokenizers::Tokenizer,
    steps: &Steps,
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
    let normalized = |token: &AddedToken| {
        let mut text = NormalizedString::from(token.content.as_str());
        if token.normalized {
            steps.normalize(&mut text, false).ok()?;
        }
        Some(text.get().to_owned())
    };
    // What is searched for in normalised text, and whose it is.
    let mut patterns: HashMap<String, String> = HashMap::new();
    let own = vocabulary.get_added_tokens_decoder();
    for token in own.values().filter(|token| token.normalized) {
        watch::look()?;
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
        watch::look()?;
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
            "tokenizer_config.json adds tokens that cannot be added: {}",
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
