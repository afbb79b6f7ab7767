//! By how much a tokenizer's normalizers and pre-tokenizers can lengthen a text, at worst.

use serde_json::Value;

use super::pattern::Pattern;
use super::sanitise::{kind, refuse};
use crate::error::{Error, Result};

const MAX_GROWTH: u64 = 64;
/// Each is a pass over the whole text.
pub(super) const MAX_STEPS: usize = 64;
/// Of JSON, in what makes up to so many steps.
const MAX_OBJECTS: usize = 4 * MAX_STEPS;
/// Of all patterns together (`Pattern::weight`), since the crate compiles them, too. Published ones have up to 1,000.
const MAX_WEIGHT: usize = 8192;

/// Refuses what the crate must not even read: too many steps, patterns that are too large, damaged character maps.
/// The crate takes steps without a name, and with a wrong one, so that what an object holds decides what it is.
pub(super) fn check(normalizer: Option<&Value>, pre_tokenizer: Option<&Value>) -> Result<()> {
    let (mut objects, mut weight) = (0usize, 0usize);
    for part in [normalizer, pre_tokenizer].into_iter().flatten() {
        weigh(part, &mut objects, &mut weight)?;
    }
    Ok(())
}

fn weigh(value: &Value, objects: &mut usize, weight: &mut usize) -> Result<()> {
    match value {
        Value::Array(list) => list
            .iter()
            .try_for_each(|part| weigh(part, objects, weight)),
        Value::Object(object) => {
            *objects = objects.saturating_add(1);
            if *objects > MAX_OBJECTS {
                return Err(too_many());
            }
            if let Some(map) = object.get("precompiled_charsmap").and_then(Value::as_str) {
                charsmap_growth(map)?;
            }
            if let Some(Value::String(pattern)) = object.get("Regex") {
                *weight = weight.saturating_add(Pattern::new(pattern)?.weight());
                if *weight > MAX_WEIGHT {
                    return Err(refuse("its patterns are too large"));
                }
            }
            let parts = object.values();
            let mut parts = parts.filter(|part| part.is_array() || part.is_object());
            parts.try_for_each(|part| weigh(part, objects, weight))
        }
        _ => Ok(()),
    }
}

pub(super) fn too_many() -> Error {
    refuse(format!(
        "normalizer and pre_tokenizer have more than {MAX_STEPS} steps"
    ))
}

/// By how much the steps, in the crate's own words, may multiply a text's length; more than 64 is refused. Unicode's own
/// forms count as one.
pub(super) fn of_steps(steps: &[Value]) -> Result<usize> {
    let mut product = 1u64;
    for step in steps {
        product = product.saturating_mul(growth(step)?);
    }
    if product > MAX_GROWTH {
        return Err(refuse(format!(
            "normalizer and pre_tokenizer may multiply a text's length by more than {MAX_GROWTH}"
        )));
    }
    Ok(usize::try_from(product).unwrap_or(usize::MAX))
}

fn growth(step: &Value) -> Result<u64> {
    match kind(step) {
        "Replace" => {
            let content = step
                .get("content")
                .and_then(Value::as_str)
                .unwrap_or("")
                .len() as u64;
            match step
                .get("pattern")
                .and_then(|p| p.get("String"))
                .and_then(Value::as_str)
            {
                // In front of every character, and at the end.
                Some("") => Ok(content.saturating_add(1)),
                Some(from) => Ok(content.div_ceil(from.len() as u64).max(1)),
                // A regular expression may match the empty string between any two characters.
                None => Ok(content.saturating_add(1)),
            }
        }
        // Once per run of text, and runs can be as short as one character.
        "Prepend" => {
            let prepend = step
                .get("prepend")
                .and_then(Value::as_str)
                .unwrap_or("")
                .len() as u64;
            Ok(prepend.div_ceil(4).max(1))
        }
        "Precompiled" => {
            let map = step
                .get("precompiled_charsmap")
                .and_then(Value::as_str)
                .unwrap_or("");
            charsmap_growth(map)
        }
        // Every byte becomes a character of up to two, and every run may get a space in front.
        "ByteLevel" if step.get("add_prefix_space").and_then(Value::as_bool) == Some(true) => Ok(3),
        "ByteLevel" => Ok(2),
        "Metaspace" => Ok(4),
        "FixedLength" if step.get("length").and_then(Value::as_u64) == Some(0) => Err(refuse(
            "pre_tokenizer FixedLength must have a length of at least 1",
        )),
        _ => Ok(1),
    }
}

/// A charsmap is a little-endian length, a trie of that many bytes, then NUL-terminated replacements.
/// The longest replacement in Unicode's own NFKC has 33 bytes: up to 36 counts as no growth.
fn charsmap_growth(encoded: &str) -> Result<u64> {
    let bytes = base64(encoded)
        .ok_or_else(|| refuse("normalizer.precompiled_charsmap is not valid base64"))?;
    let short =
        || refuse("normalizer.precompiled_charsmap is shorter than the length that it declares");
    let (head, rest) = bytes.split_first_chunk::<4>().ok_or_else(short)?;
    let length = u32::from_le_bytes(*head) as usize;
    let replacements = rest.get(length..).ok_or_else(short)?;
    let longest = replacements
        .split(|b| *b == 0)
        .map(<[u8]>::len)
        .max()
        .unwrap_or(0);
    Ok((longest as u64).div_ceil(36).max(1))
}

fn base64(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=').as_bytes();
    let mut out = Vec::new();
    out.try_reserve(digits.len()).ok()?;
    let (mut bits, mut count) = (0u32, 0u32);
    for &digit in digits {
        let value = match digit {
            b'A'..=b'Z' => digit.checked_sub(b'A')?,
            b'a'..=b'z' => digit.checked_sub(b'a')?.checked_add(26)?,
            b'0'..=b'9' => digit.checked_sub(b'0')?.checked_add(52)?,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = ((bits & 0xffff) << 6) | u32::from(value);
        count = count.checked_add(6)?;
        if count >= 8 {
            count = count.checked_sub(8)?;
            out.push((bits >> count) as u8);
        }
    }
    Some(out)
}
