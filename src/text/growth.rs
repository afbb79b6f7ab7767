//! By how much a tokenizer's normalizers and pre-tokenizers can lengthen a text, at worst.

use serde_json::Value;

use super::sanitise::{kind, refuse};
use crate::error::Result;

const MAX_GROWTH: u64 = 64;
/// Each is a pass over the whole text.
const MAX_STEPS: usize = 64;

/// Refuses what may multiply a text's length by more than 64. Unicode's own forms count as one.
pub(super) fn check(normalizer: Option<&Value>, pre_tokenizer: Option<&Value>) -> Result<()> {
    let mut steps = Vec::new();
    flatten(normalizer, "normalizers", &mut steps)?;
    flatten(pre_tokenizer, "pretokenizers", &mut steps)?;
    let mut product = 1u64;
    for step in steps {
        product = product.saturating_mul(growth(step)?);
    }
    if product > MAX_GROWTH {
        return Err(refuse(format!(
            "normalizer and pre_tokenizer may multiply a text's length by more than {MAX_GROWTH}"
        )));
    }
    Ok(())
}

/// The steps of nested sequences, in order. The JSON parser bounds the depth.
fn flatten<'a>(value: Option<&'a Value>, key: &str, out: &mut Vec<&'a Value>) -> Result<()> {
    let Some(value) = value else { return Ok(()) };
    if out.len() >= MAX_STEPS {
        return Err(refuse(format!(
            "normalizer and pre_tokenizer have more than {MAX_STEPS} steps"
        )));
    }
    if kind(value) != "Sequence" {
        out.push(value);
        return Ok(());
    }
    for part in value
        .get(key)
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        flatten(Some(part), key, out)?;
    }
    Ok(())
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
                Some(from) => Ok(content.div_ceil(from.len().max(1) as u64).max(1)),
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
