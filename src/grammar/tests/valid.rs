//! Whether a document obeys a schema, for the keywords that the tests here use: the standard read again, by other means than
//! a grammar's.

use serde_json::Value;

use crate::grammar::reference;

const KNOWN: &[&str] = &[
    "$schema",
    "$defs",
    "definitions",
    "title",
    "description",
    "default",
    "examples",
    "$comment",
    "type",
    "enum",
    "const",
    "properties",
    "required",
    "additionalProperties",
    "items",
    "prefixItems",
    "minItems",
    "maxItems",
    "minLength",
    "maxLength",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "anyOf",
    "allOf",
    "oneOf",
    "$ref",
    "minProperties",
    "maxProperties",
];

/// Whether every keyword in it is one of these.
pub fn knows(schema: &Value) -> bool {
    let Value::Object(map) = schema else {
        return true;
    };
    map.iter().all(|(name, value)| {
        let below = || match (name.as_str(), value) {
            ("properties" | "$defs" | "definitions", Value::Object(named)) => {
                named.values().all(knows)
            }
            ("items" | "additionalProperties", _) => knows(value),
            ("anyOf" | "allOf" | "oneOf" | "prefixItems", Value::Array(list)) => {
                list.iter().all(knows)
            }
            // (Draft 4 has true and false there.)
            ("exclusiveMinimum" | "exclusiveMaximum", _) => value.is_number(),
            _ => true,
        };
        KNOWN.contains(&name.as_str()) && below()
    })
}

pub fn valid(root: &Value, schema: &Value, value: &Value) -> bool {
    let map = match schema {
        Value::Bool(any) => return *any,
        Value::Object(map) => map,
        _ => unreachable!("no schema"),
    };
    map.iter().all(|(name, said)| match name.as_str() {
        "type" => match said {
            Value::Array(types) => types.iter().any(|said| is(said, value)),
            said => is(said, value),
        },
        "enum" => said
            .as_array()
            .unwrap()
            .iter()
            .any(|said| same(said, value)),
        "const" => same(said, value),
        "anyOf" => said
            .as_array()
            .unwrap()
            .iter()
            .any(|s| valid(root, s, value)),
        "allOf" => said
            .as_array()
            .unwrap()
            .iter()
            .all(|s| valid(root, s, value)),
        "oneOf" => {
            said.as_array()
                .unwrap()
                .iter()
                .filter(|s| valid(root, s, value))
                .count()
                == 1
        }
        "$ref" => {
            let (_, referred) = reference::find(root, said.as_str().unwrap()).unwrap();
            valid(root, referred, value)
        }
        _ => match value {
            Value::Object(object) => {
                let listed = |key: &String| map.get("properties").and_then(|p| p.get(key));
                match name.as_str() {
                    "properties" => object
                        .iter()
                        .all(|(k, v)| listed(k).is_none_or(|s| valid(root, s, v))),
                    "additionalProperties" => object
                        .iter()
                        .all(|(k, v)| listed(k).is_some() || valid(root, said, v)),
                    "required" => said
                        .as_array()
                        .unwrap()
                        .iter()
                        .all(|key| object.contains_key(key.as_str().unwrap())),
                    "minProperties" => object.len() as u64 >= said.as_u64().unwrap(),
                    "maxProperties" => object.len() as u64 <= said.as_u64().unwrap(),
                    _ => true,
                }
            }
            Value::Array(list) => {
                let first = map.get("prefixItems").and_then(Value::as_array);
                let fixed = first.map_or(0, Vec::len);
                match name.as_str() {
                    "prefixItems" => first
                        .unwrap()
                        .iter()
                        .zip(list)
                        .all(|(s, v)| valid(root, s, v)),
                    "items" => list.iter().skip(fixed).all(|v| valid(root, said, v)),
                    "minItems" => list.len() as u64 >= said.as_u64().unwrap(),
                    "maxItems" => list.len() as u64 <= said.as_u64().unwrap(),
                    _ => true,
                }
            }
            Value::String(text) => {
                let length = text.chars().count() as u64;
                match name.as_str() {
                    "minLength" => length >= said.as_u64().unwrap(),
                    "maxLength" => length <= said.as_u64().unwrap(),
                    _ => true,
                }
            }
            Value::Number(number) => {
                let (number, bound) = (number.as_f64().unwrap(), said.as_f64());
                match name.as_str() {
                    "minimum" => number >= bound.unwrap(),
                    "maximum" => number <= bound.unwrap(),
                    "exclusiveMinimum" => number > bound.unwrap(),
                    "exclusiveMaximum" => number < bound.unwrap(),
                    _ => true,
                }
            }
            _ => true,
        },
    })
}

fn is(said: &Value, value: &Value) -> bool {
    match said.as_str().unwrap() {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        "number" => value.is_number(),
        "integer" => value.as_f64().is_some_and(|number| number.fract() == 0.0),
        _ => unreachable!("no type"),
    }
}

/// 1 is 1.0.
fn same(said: &Value, value: &Value) -> bool {
    match (said, value) {
        (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(k, a)| b.get(k).is_some_and(|b| same(a, b)))
        }
        _ => said == value,
    }
}
