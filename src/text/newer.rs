//! tokenizer.json as tokenizers 1.x saves it: version "2.0", rewritten into the form that the crate reads.
//!
//! It says the same with other words. The byte alphabet is a flag of the model instead of a pre-tokenizer; a Metaspace
//! pre-tokenizer is a normalizer and a Split; a post-processor's template has ids instead of names. As of 1.0.0-rc.3.

use serde_json::{json, Map, Value};

use super::sanitise::{kind, refuse};
use crate::error::{Error, Result};

/// Whether a file has that version.
pub(super) fn is_newer(file: &Map<String, Value>) -> bool {
    file.get("version").and_then(Value::as_str) == Some("2.0")
}

/// In front of what is wrong with such a file.
pub(super) fn of_newer(error: Error) -> Error {
    let what = error.message.trim_start_matches("tokenizer.json: ");
    let message = format!(
        "tokenizer.json: was written by tokenizers 1.x (version \"2.0\"), of which this part is not supported: {what}"
    );
    Error::unsupported(message)
}

/// The names that the file gives to tokens, as `tokenizer_config.json` does.
pub(super) fn roles(file: &mut Map<String, Value>) -> Vec<(String, String)> {
    let Some(Value::Object(roles)) = file.remove("role_to_token") else {
        return Vec::new();
    };
    let named = roles.into_iter();
    named
        .filter_map(|(name, token)| Some((name, token.as_str()?.to_owned())))
        .collect()
}

pub(super) fn rewrite(file: &mut Map<String, Value>) -> Result<()> {
    let model = file.get_mut("model").and_then(Value::as_object_mut);
    let flag = model.and_then(|model| model.remove("byte_level"));
    let byte_level = match flag {
        None | Some(Value::Null) => false,
        Some(Value::Bool(flag)) => flag,
        Some(_) => return Err(refuse("model.byte_level must be true or false")),
    };
    let metaspace = take_metaspace(file)?;
    let split = file.remove("pre_tokenizer").unwrap_or(Value::Null);
    let split = match metaspace {
        Some(metaspace) => pre_tokenizer(&metaspace, &split)?,
        None => with_defaults(split),
    };
    let bytes = json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false,
    });
    let split = match (byte_level, split) {
        (false, split) => split,
        (true, Value::Null) => bytes,
        (true, split) => json!({ "type": "Sequence", "pretokenizers": [split, bytes] }),
    };
    file.insert("pre_tokenizer".into(), split);
    if let Some(processor) = file.get_mut("post_processor") {
        name_pieces(processor)?;
    }
    Ok(())
}

/// Takes the MetaspaceNormalizer out of the normalizers, of which it is the last.
fn take_metaspace(file: &mut Map<String, Value>) -> Result<Option<Value>> {
    const KIND: &str = "MetaspaceNormalizer";
    let Some(normalizer) = file.get_mut("normalizer") else {
        return Ok(None);
    };
    if kind(normalizer) == KIND {
        return Ok(Some(normalizer.take()));
    }
    let list = normalizer
        .get_mut("normalizers")
        .and_then(Value::as_array_mut);
    let Some(list) = list else { return Ok(None) };
    let taken = list.pop_if(|last| kind(last) == KIND);
    if list.iter().any(|other| kind(other) == KIND) {
        return Err(refuse(format!("{KIND} must be the last normalizer")));
    }
    Ok(taken)
}

/// The pre-tokenizer that a MetaspaceNormalizer and what stands beside it were.
fn pre_tokenizer(metaspace: &Value, split: &Value) -> Result<Value> {
    let get = |key: &str| metaspace.get(key).unwrap_or(&Value::Null);
    let splits = match (
        kind(split),
        split.get("pattern").and_then(|p| p.get("String")),
    ) {
        _ if split.is_null() => false,
        ("Split", Some(pattern))
            if pattern == get("replacement")
                && split.get("behavior").and_then(Value::as_str) == Some("MergedWithNext")
                && split.get("invert").and_then(Value::as_bool) != Some(true) =>
        {
            true
        }
        _ => {
            return Err(refuse(
                "the pre_tokenizer does not fit the MetaspaceNormalizer",
            ))
        }
    };
    let one = json!({
        "type": "Metaspace", "replacement": get("replacement"), "prepend_scheme": get("prepend"), "split": splits,
    });
    match (get("drop_whitespace"), splits, get("prepend").as_str()) {
        (Value::Bool(true), true, Some("always")) => {
            Ok(json!({ "type": "Sequence", "pretokenizers": [{ "type": "WhitespaceSplit" }, one] }))
        }
        (Value::Bool(true), _, _) => Err(refuse(
            "drop_whitespace needs a Split and prepend \"always\"",
        )),
        _ => Ok(one),
    }
}

/// What a Split may leave out.
fn with_defaults(mut pre_tokenizer: Value) -> Value {
    if let Some(list) = pre_tokenizer
        .get_mut("pretokenizers")
        .and_then(Value::as_array_mut)
    {
        for part in list {
            *part = with_defaults(part.take());
        }
    }
    if let ("Split", Some(split)) = (
        kind(&pre_tokenizer).to_owned().as_str(),
        pre_tokenizer.as_object_mut(),
    ) {
        split.entry("behavior").or_insert("Isolated".into());
        split.entry("invert").or_insert(false.into());
    }
    pre_tokenizer
}

/// Gives each run of ids in a template a name, and a table of the names.
fn name_pieces(processor: &mut Value) -> Result<()> {
    if kind(processor) != "TemplateProcessing" {
        return Ok(());
    }
    let mut table = Map::new();
    for key in ["single", "pair"] {
        let pieces = processor.get_mut(key).and_then(Value::as_array_mut);
        for piece in pieces.into_iter().flatten() {
            let type_id = piece.get("type_id").cloned().unwrap_or(0.into());
            let (seq, ids) = (piece.get("seq").cloned(), piece.get("ids").cloned());
            *piece = match (seq, ids) {
                (Some(seq), None) => json!({ "Sequence": { "id": seq, "type_id": type_id } }),
                (None, Some(Value::Array(ids))) => {
                    let name = format!("#{}", table.len());
                    let names: Vec<String> = ids.iter().map(Value::to_string).collect();
                    table.insert(
                        name.clone(),
                        json!({ "id": name, "ids": ids, "tokens": names }),
                    );
                    json!({ "SpecialToken": { "id": name, "type_id": type_id } })
                }
                _ => {
                    return Err(refuse(
                        "post_processor's template holds neither seq nor ids",
                    ))
                }
            };
        }
    }
    if let Some(processor) = processor.as_object_mut() {
        processor.insert("special_tokens".into(), Value::Object(table));
    }
    Ok(())
}
