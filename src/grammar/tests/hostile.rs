//! Grammars that are made to cost: each ends by its name, in bounded time. (What they took before there were limits is minutes.)

use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use super::*;

/// Far above what any of them takes, also where the machine is shared; far below what they would take.
const LONGEST: Duration = Duration::from_secs(20);

fn named(count: usize, schema: impl Fn(usize) -> Value) -> Value {
    let each = (0..count).map(|i| (format!("p{i}"), schema(i)));
    Value::Object(each.collect())
}

#[test]
fn what_would_take_long_is_refused_by_name() {
    let vocabulary = all_bytes();
    let integer = |_| json!({ "type": "integer" });
    let patterns: serde_json::Map<_, _> = (0..100)
        .map(|i| (format!("^p{i}x.*y$"), integer(i)))
        .collect();
    let product = |i: usize| {
        let each = (0..4).map(|j| json!({ "properties": { format!("p{i}{j}"): { "const": j } } }));
        json!({ "type": "object", "anyOf": each.collect::<Vec<_>>() })
    };
    let both = |c: &str| json!({ "type": "string", "pattern": format!("[{c}]{{3}}.*{c}{{5}}") });
    let letters = ["a", "b", "c", "d", "e", "f", "g", "h"];
    for (schema, place) in [
        (
            json!({ "type": "object", "properties": named(1000, integer) }),
            "#/properties",
        ),
        (
            json!({ "type": "object", "properties": named(200, integer), "minProperties": 1,
                "additionalProperties": false }),
            "#/minProperties",
        ),
        (
            json!({ "type": "object", "patternProperties": patterns }),
            "#/patternProperties",
        ),
        (
            json!({ "allOf": (0..8).map(product).collect::<Vec<_>>() }),
            "#/allOf",
        ),
        (json!({ "allOf": letters.map(both) }), "#/allOf"),
        (
            json!({ "type": "integer", "multipleOf": 4_000_000_000_u64 }),
            "#/multipleOf",
        ),
        (
            json!({ "type": "integer", "multipleOf": 9973, "minimum": 1 }),
            "#/multipleOf",
        ),
        (
            json!({ "type": "string", "minLength": 10_000_000_000_u64 }),
            "#/minLength",
        ),
        (
            json!({ "type": "string", "pattern": "(a{1000}){1000}" }),
            "#/pattern",
        ),
    ] {
        let begun = Instant::now();
        let message = refusal(&vocabulary, Kind::JsonSchema, &schema.to_string());
        assert!(message.starts_with(&format!("\"{place}")), "{message}");
        assert!(message.len() < 2000, "{} bytes", message.len());
        assert!(
            begun.elapsed() < LONGEST,
            "{place} took {:?}",
            begun.elapsed()
        );
    }
}

#[test]
fn what_looks_costly_and_is_not_is_followed() {
    let vocabulary = all_bytes();
    let required: Vec<_> = (0..300).map(|i| format!("p{i}")).collect();
    for schema in [
        json!({ "type": "string", "pattern": "^((a{1,100}){1,100}){1,100}$" }),
        json!({ "type": "string", "pattern": "^[ab]*a[ab]{60}$" }),
        json!({ "type": "string", "pattern": "^(\\p{L}\\p{M}*){1,200}[^\\p{Z}]{50}$" }),
        json!({ "type": "string", "maxLength": 1_000_000 }),
        json!({ "type": "array", "minItems": 1_000_000, "items": { "type": "integer" } }),
        json!({ "enum": (0..3000).map(|i| format!("value {i}")).collect::<Vec<_>>() }),
        json!({ "type": "object", "required": required, "properties": named(300, |i| json!({ "minimum": i, "type": "integer" })) }),
        json!({ "type": "object", "properties": named(400, |_| json!({ "type": "string" })) }),
    ] {
        let begun = Instant::now();
        let grammar = compile(&vocabulary, Kind::JsonSchema, &schema.to_string()).unwrap();
        draw(&grammar, 1, 60);
        assert!(
            begun.elapsed() < LONGEST,
            "{schema:.60} took {:?}",
            begun.elapsed()
        );
    }
}

/// The thread that compiles is told, and the caller gets why.
#[test]
fn compiling_is_stopped() {
    let vocabulary = all_bytes();
    // Some hundred parts are tried before the one that cannot be compiled.
    let part = |i| json!({ "type": "object", "properties": named(40, |_| json!({ "minimum": i, "type": "number" })) });
    let mut parts = named(280, part);
    parts["last"] = json!({ "oneOf": [{ "type": "integer" }, { "type": "number" }] });
    let source = json!({ "type": "object", "properties": parts }).to_string();
    let looks = Arc::new(AtomicUsize::new(0));
    let counted = looks.clone();
    let watch = Watch {
        work: "compiling the grammar",
        deadline: None,
        stopped: Some(Box::new(move || {
            // The first look comes before the work.
            match counted.fetch_add(1, Ordering::Relaxed) {
                0 => Ok(()),
                _ => Err(Error::new(Code::Cancelled, "enough")),
            }
        })),
    };
    let error = watch::during(watch, || compile(&vocabulary, Kind::JsonSchema, &source));
    assert_eq!(error.err().unwrap().code, Code::Cancelled);
    assert!(looks.load(Ordering::Relaxed) > 1);
}
