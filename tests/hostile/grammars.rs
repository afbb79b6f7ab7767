//! Row 12: grammars that are none, that cost, that are cut or broken anywhere; of each kind.

use std::ptr;

use serde_json::{json, Value};

use crate::abi::*;
use crate::child::{ask, qwen, PROMPT, RIGHT};
use crate::common::{self, load, Failure, Model, Prompt};
use crate::list::Cases;
use crate::verdict::*;
use crate::{ensure, list_class, sized};

list_class!("12", "grammars", "grammars");

const CODES: &[&str] = &[
    "BAD_GRAMMAR",
    "INVALID_ARGUMENT",
    "UNSUPPORTED",
    "OUT_OF_MEMORY",
    "TIMEOUT",
];

const SCHEMA: &str = r##"{"type":"object","properties":{"a":{"type":"string","pattern":"^[a-f]+$"},"b":{"type":"array","items":{"$ref":"#/$defs/n"},"maxItems":3}},"required":["a"],"additionalProperties":false,"$defs":{"n":{"type":"integer","minimum":0}}}"##;
const REGEX: &str = r"(ab|[^c-f\d]{2,4}|\p{L}\w*?)+x{0,3}(?:y|z)";
const LARK: &str = "start: item (\",\" item)*\nitem: WORD | \"[\" start \"]\"\nWORD: /[a-z]{1,4}/\n%ignore /[ ]{0,1}/\n";

/// Every word that means something in a schema.
const KEYWORDS: &[&str] = &[
    "type",
    "enum",
    "const",
    "properties",
    "required",
    "additionalProperties",
    "patternProperties",
    "propertyNames",
    "minProperties",
    "maxProperties",
    "dependentRequired",
    "dependentSchemas",
    "dependencies",
    "unevaluatedProperties",
    "items",
    "prefixItems",
    "additionalItems",
    "unevaluatedItems",
    "contains",
    "minContains",
    "maxContains",
    "minItems",
    "maxItems",
    "uniqueItems",
    "minLength",
    "maxLength",
    "pattern",
    "format",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "allOf",
    "anyOf",
    "oneOf",
    "not",
    "if",
    "then",
    "else",
    "$ref",
    "$defs",
    "definitions",
    "$id",
    "$anchor",
    "$dynamicRef",
    "$schema",
    "x-guidance",
    "nullable",
    "title",
];

/// What may stand behind any of them.
fn values() -> Vec<Value> {
    vec![
        Value::Null,
        json!(true),
        json!(false),
        json!(-1),
        json!(0),
        json!(1.5),
        json!(u64::MAX),
        json!(1e300),
        json!(""),
        json!("x"),
        json!("("),
        json!("\u{e9}\u{1f600}"),
        json!("#/nowhere/\u{e4}"),
        json!("#"),
        json!([]),
        json!([[]]),
        json!(["string", 7]),
        json!({}),
        json!({"a": 7}),
        json!({"\u{e9}": {"type": "nothing"}}),
    ]
}

fn cases() -> Cases {
    let mut cases: Cases = vec![];
    let mut add = |what: String, kind: i32, source: Vec<u8>| {
        let run = move || tried(kind, &source, 10_000);
        cases.push((what, Box::new(run)));
    };
    for keyword in KEYWORDS {
        for value in values() {
            for schema in [
                json!({ *keyword: value }),
                json!({"type": "object", *keyword: value}),
            ] {
                let source = schema.to_string();
                add(
                    source.clone(),
                    MLXRT_GRAMMAR_JSON_SCHEMA,
                    source.into_bytes(),
                );
            }
        }
    }
    for (name, kind, source) in [
        ("schema", MLXRT_GRAMMAR_JSON_SCHEMA, SCHEMA),
        ("expression", MLXRT_GRAMMAR_REGEX, REGEX),
        ("Lark", MLXRT_GRAMMAR_LARK, LARK),
    ] {
        let bytes = source.as_bytes();
        for end in 0..=bytes.len() {
            add(format!("{name} cut at {end}"), kind, bytes[..end].to_vec());
        }
        for at in 0..bytes.len() {
            for (what, byte) in [
                ("0", 0),
                ("ff", 0xff),
                ("(", b'('),
                ("\"", b'"'),
                ("\\", b'\\'),
            ] {
                let mut broken = bytes.to_vec();
                broken[at] = byte;
                add(format!("{name} with {what} at {at}"), kind, broken);
            }
        }
    }
    for (what, kind, source) in large() {
        add(what.to_owned(), kind, source.into());
    }
    for kind in [i32::MIN, -1, 0, 5, 6, 1000, i32::MAX] {
        add(format!("kind {kind}"), kind, b"{}".to_vec());
    }
    for (what, kind, source) in large() {
        let run = move || tried(kind, source.as_bytes(), 1);
        cases.push((format!("{what}, in a millisecond"), Box::new(run)));
    }
    cases.push(("of another model".to_owned(), Box::new(of_another_model)));
    cases.push((
        "freed while it is followed".to_owned(),
        Box::new(freed_while_followed),
    ));
    cases
}

/// Much of something, or deep, or round and round.
fn large() -> Vec<(&'static str, i32, String)> {
    let nested = |depth: usize, open: &str, inner: &str, close: &str| {
        format!("{}{inner}{}", open.repeat(depth), close.repeat(depth))
    };
    let many = |count: usize, each: &dyn Fn(usize) -> (String, Value)| {
        Value::Object((0..count).map(each).collect())
    };
    let named = |count| many(count, &|i| (format!("p{i}"), json!({"type": "integer"})));
    let schema = |value: Value| value.to_string();
    let all = MLXRT_GRAMMAR_JSON_SCHEMA;
    vec![
        (
            "a deep schema",
            all,
            nested(10_000, r#"{"items":"#, "{}", "}"),
        ),
        (
            "a schema of some depth",
            all,
            nested(90, r#"{"type":"array","items":"#, "{}", "}"),
        ),
        ("brackets", all, "[".repeat(200_000)),
        (
            "2 MB of a title",
            all,
            schema(json!({"title": "x".repeat(2 << 20)})),
        ),
        (
            "2,000 properties",
            all,
            schema(json!({"type": "object", "properties": named(2000)})),
        ),
        (
            "an enum of 20,000",
            all,
            schema(json!({"enum": (0..20_000).collect::<Vec<_>>()})),
        ),
        ("a reference to itself", all, schema(json!({"$ref": "#"}))),
        (
            "references in a ring",
            all,
            schema(
                json!({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}),
            ),
        ),
        (
            "a tree",
            all,
            schema(
                json!({"type": "object", "properties": {"next": {"$ref": "#"}}, "additionalProperties": false}),
            ),
        ),
        (
            "an endless tree",
            all,
            schema(
                json!({"type": "object", "properties": {"next": {"$ref": "#"}}, "required": ["next"]}),
            ),
        ),
        (
            "a reference elsewhere",
            all,
            schema(json!({"$ref": "https://example.com/schema.json"})),
        ),
        (
            "a reference to a file",
            all,
            schema(json!({"$ref": "file:///etc/passwd"})),
        ),
        (
            "nothing at all",
            all,
            schema(json!({"type": "string", "minLength": 5, "maxLength": 2})),
        ),
        ("false", all, "false".into()),
        (
            "both true and not",
            all,
            schema(json!({"type": "integer", "minimum": 5, "maximum": 1})),
        ),
        (
            "many choices of many",
            all,
            schema(
                json!({"allOf": (0..6).map(|i| json!({"anyOf": (0..6).map(|j| json!({"properties": {format!("p{i}{j}"): {"const": j}}})).collect::<Vec<_>>()})).collect::<Vec<_>>()}),
            ),
        ),
        (
            "a pattern with a look ahead",
            all,
            schema(json!({"type": "string", "pattern": "(?=a)b"})),
        ),
        (
            "a pattern that refers back",
            all,
            schema(json!({"type": "string", "pattern": "(a)\\1"})),
        ),
        ("an empty expression", MLXRT_GRAMMAR_REGEX, String::new()),
        ("a look behind", MLXRT_GRAMMAR_REGEX, "(?<!a)b".into()),
        (
            "repetitions of repetitions",
            MLXRT_GRAMMAR_REGEX,
            "((a{500}){500}){500}".into(),
        ),
        (
            "deep parentheses",
            MLXRT_GRAMMAR_REGEX,
            nested(5_000, "(", "a", ")"),
        ),
        (
            "30,000 alternatives",
            MLXRT_GRAMMAR_REGEX,
            vec!["ab"; 30_000].join("|"),
        ),
        (
            "an expression of nothing",
            MLXRT_GRAMMAR_REGEX,
            "[^\\s\\S]".into(),
        ),
        (
            "an expression of 2 MB",
            MLXRT_GRAMMAR_REGEX,
            "a".repeat(2 << 20),
        ),
        (
            "Lark without a start",
            MLXRT_GRAMMAR_LARK,
            "item: \"a\"".into(),
        ),
        (
            "a rule that is itself",
            MLXRT_GRAMMAR_LARK,
            "start: start".into(),
        ),
        (
            "a rule that begins with itself",
            MLXRT_GRAMMAR_LARK,
            "start: start \"a\" | \"b\"".into(),
        ),
        ("a rule of nothing", MLXRT_GRAMMAR_LARK, "start:".into()),
        (
            "a rule that is not there",
            MLXRT_GRAMMAR_LARK,
            "start: other".into(),
        ),
        (
            "a token that is not there",
            MLXRT_GRAMMAR_LARK,
            "start: <|nobody|> \"a\"".into(),
        ),
        (
            "any tokens by number",
            MLXRT_GRAMMAR_LARK,
            "start: <[0-4294967295]>".into(),
        ),
        (
            "10,000 rules",
            MLXRT_GRAMMAR_LARK,
            (0..10_000).fold("start: r0\n".to_owned(), |text, i| {
                text + &format!("r{i}: \"a\" r{}\n", i + 1)
            }),
        ),
        (
            "an import",
            MLXRT_GRAMMAR_LARK,
            "%import /etc/passwd\nstart: \"a\"".into(),
        ),
        (
            "Lark with a schema that is none",
            MLXRT_GRAMMAR_LARK,
            "start: %json {\"type\": 7}".into(),
        ),
        (
            "any JSON, whatever is said",
            MLXRT_GRAMMAR_JSON,
            "anything".into(),
        ),
    ]
}

struct Grammar(*mut mlxrt_grammar);

impl Drop for Grammar {
    fn drop(&mut self) {
        // SAFETY: any handle is safe to free.
        unsafe { mlxrt_grammar_free(self.0) }
    }
}

fn compile(model: &Model, kind: i32, source: &[u8], timeout_ms: u32) -> Result<Grammar, Failure> {
    let mut options = sized!(mlxrt_call_options);
    options.timeout_ms = timeout_ms;
    let mut grammar = ptr::null_mut();
    // SAFETY: a live model, `source` is as long as told, complete options, a writable output.
    let error = unsafe {
        mlxrt_grammar_compile(
            model.0,
            kind,
            source.as_ptr().cast(),
            source.len(),
            &options,
            &mut grammar,
        )
    };
    common::outcome(error)?;
    Ok(Grammar(grammar))
}

/// What the model says in the grammar's bounds, at most so many tokens.
fn follow(model: &Model, grammar: &Grammar, count: u32) -> Option<Failure> {
    let session = model.session(0);
    let mut options = sized!(mlxrt_generate_options);
    options.flags = MLXRT_GEN_GREEDY;
    options.max_tokens = count;
    options.grammar = grammar.0;
    ask(session.0, &Prompt::Text(PROMPT), &options, |_| true).failure
}

/// It is refused by name, or followed; and the model answers as before.
fn tried(kind: i32, source: &[u8], timeout_ms: u32) -> Outcome {
    let model = load(&qwen()).unwrap();
    let outcome = match compile(&model, kind, source, timeout_ms) {
        Err(failure) => named(&failure, CODES, &[])?,
        // A grammar may lead where nothing may follow, or its limits end it.
        Ok(grammar) => match follow(&model, &grammar, 16) {
            Some(failure) => named(&failure, CODES, &[])?,
            None => fine()?,
        },
    };
    right(&model)?;
    Ok(outcome)
}

fn right(model: &Model) -> Result<(), Verdict> {
    let session = model.session(0);
    let answer = session.generate(Prompt::Text(PROMPT), RIGHT.len() as u32, false);
    let tokens = answer.map(|answer| answer.tokens);
    let is_right = tokens.as_ref().is_ok_and(|tokens| tokens == &RIGHT);
    ensure!(is_right, "afterwards {tokens:?}");
    Ok(())
}

/// One vocabulary's grammar says nothing of another's tokens.
fn of_another_model() -> Outcome {
    let (one, other) = (
        load(&qwen()).unwrap(),
        load(&common::fixtures().join("models/gemma3-text-f32")).unwrap(),
    );
    let grammar = compile(&one, MLXRT_GRAMMAR_JSON, b"", 0)
        .map_err(|failure| Wrong(format!("{failure:?}")))?;
    let Some(failure) = follow(&other, &grammar, 4) else {
        return Err(Wrong("it was followed".into()));
    };
    right(&one)?;
    named(
        &failure,
        &["INVALID_ARGUMENT", "INCOMPATIBLE"],
        &["grammar"],
    )
}

/// Who gives it up in the middle of an answer changes nothing of that.
fn freed_while_followed() -> Outcome {
    let model = load(&qwen()).unwrap();
    let grammar = compile(&model, MLXRT_GRAMMAR_JSON_SCHEMA, SCHEMA.as_bytes(), 0);
    let grammar = grammar.map_err(|failure| Wrong(format!("{failure:?}")))?;
    let session = model.session(0);
    let mut options = sized!(mlxrt_generate_options);
    options.flags = MLXRT_GEN_GREEDY;
    options.max_tokens = 24;
    options.grammar = grammar.0;
    let mut grammar = Some(grammar);
    let told = ask(session.0, &Prompt::Text(PROMPT), &options, |_| {
        grammar = None;
        true
    });
    ensure!(told.failure.is_none(), "{:?}", told.failure);
    ensure!(grammar.is_none(), "there was no event");
    right(&model)?;
    fine()
}
