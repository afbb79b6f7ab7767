//! What a `$ref` refers to, within its own document.

use serde_json::Value;

/// The place and value of what `reference` names, or why there is none.
pub fn find<'a>(root: &'a Value, reference: &str) -> Result<(String, &'a Value), &'static str> {
    let own = root.get("$id").and_then(Value::as_str).unwrap_or_default();
    let own = own.trim_end_matches('#');
    let fragment = match reference.split_once('#') {
        Some((before, fragment)) if before.is_empty() || before == own => fragment,
        None if reference == own && !own.is_empty() => "",
        _ => return Err("is in another document, and these are not read"),
    };
    let fragment = decoded(fragment).ok_or("is no valid reference")?;
    if fragment.is_empty() {
        return Ok(("#".to_owned(), root));
    }
    if !fragment.starts_with('/') {
        return anchor(root, &fragment, "#").ok_or("names an anchor that is not there");
    }
    let value = root.pointer(&fragment);
    let value = value.ok_or("names a place that is not there")?;
    Ok((format!("#{fragment}"), value))
}

/// With `%41` as the byte that it is.
fn decoded(fragment: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(fragment.len());
    let mut rest = fragment.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || char::from(rest.next()?).to_digit(16);
        let (high, low) = (digit()?, digit()?);
        bytes.push(u8::try_from(high.checked_mul(16)?.checked_add(low)?).ok()?);
    }
    String::from_utf8(bytes).ok()
}

/// Where a schema calls itself `name`. (The parser bounds the depth.)
fn anchor<'a>(value: &'a Value, name: &str, place: &str) -> Option<(String, &'a Value)> {
    let below = |name: &str| super::schema::below(place, name);
    match value {
        Value::Object(map) => {
            if map.get("$anchor").and_then(Value::as_str) == Some(name) {
                return Some((place.to_owned(), value));
            }
            map.iter()
                .find_map(|(key, value)| anchor(value, name, &below(key)))
        }
        Value::Array(list) => {
            let mut each = list.iter().enumerate();
            each.find_map(|(index, value)| anchor(value, name, &below(&index.to_string())))
        }
        _ => None,
    }
}
