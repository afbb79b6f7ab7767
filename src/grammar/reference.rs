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
    let steps = fragment.match_indices('/').skip(1);
    let mut above = steps.filter_map(|(end, _)| root.pointer(fragment.get(..end)?));
    if above.any(is_resource) {
        return Err("leads into a schema with a $id of its own, which is not supported");
    }
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

/// Whether references below a value mean another document than the root's.
fn is_resource(value: &Value) -> bool {
    let id = value.get("$id").and_then(Value::as_str);
    id.is_some_and(|id| !id.starts_with('#'))
}

/// Where a schema calls itself `name`. (The parser bounds the depth.)
fn anchor<'a>(value: &'a Value, name: &str, place: &str) -> Option<(String, &'a Value)> {
    let below = |name: &str| super::schema::below(place, name);
    match value {
        Value::Object(map) => {
            if place != "#" && is_resource(value) {
                return None;
            }
            if map.get("$anchor").and_then(Value::as_str) == Some(name) {
                return Some((place.to_owned(), value));
            }
            // What is in these is no schema.
            let values = ["enum", "const", "default", "examples"];
            let mut schemas = map
                .iter()
                .filter(|(key, _)| !values.contains(&key.as_str()));
            schemas.find_map(|(key, value)| anchor(value, name, &below(key)))
        }
        Value::Array(list) => {
            let mut each = list.iter().enumerate();
            each.find_map(|(index, value)| anchor(value, name, &below(&index.to_string())))
        }
        _ => None,
    }
}
