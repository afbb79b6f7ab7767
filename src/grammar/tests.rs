//! Grammars without a model: whatever tokens they allow are drawn with equal chances, which no model is worse than.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

mod calls;
mod hostile;
mod suite;
mod valid;

use std::time::Instant;

use serde_json::{json, Value};

use super::*;
use crate::random::mix;
use crate::text::Tokenizer;
use crate::watch::Watch;
use valid::valid;

/// The end of text of the fixtures' vocabulary.
const END: i32 = 130;

fn vocabulary() -> Arc<Vocabulary> {
    let folder = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/fixtures/models/qwen3-f32"
    );
    let file = std::fs::read(format!("{folder}/tokenizer.json")).unwrap();
    let tokenizer = Arc::new(Tokenizer::from_bytes(&file, None).unwrap());
    Arc::new(Vocabulary::new(&tokenizer, 131, &[END], &[]).unwrap())
}

/// The 256 bytes, so that there is no character that cannot be written, some words, and special tokens; gives the first one's id.
fn byte_tokenizer(specials: &[&str]) -> (Arc<Tokenizer>, i32) {
    let words = [
        "\":", "\",\"", "},{", "true", "null", "10", "00", "id", "\\u00", "\\n",
    ];
    // Bytes that are no letters are written as those from 256 on, as in GPT-2's vocabulary.
    let plain = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let mut others = 256_u32..;
    let letters: Vec<char> = (0..=255)
        .map(|byte| match plain(byte) {
            true => char::from(byte),
            false => char::from_u32(others.next().unwrap()).unwrap(),
        })
        .collect();
    let letters = letters.iter().map(char::to_string);
    let all = letters.chain(words.map(str::to_owned));
    let mut vocab: serde_json::Map<String, Value> = (0..)
        .zip(all)
        .map(|(id, word): (u32, _)| (word, id.into()))
        .collect();
    let first = vocab.len();
    let mut added = Vec::new();
    for (id, special) in (first..).zip(specials) {
        vocab.insert((*special).to_owned(), id.into());
        added.push(
            json!({ "id": id, "content": special, "special": true, "single_word": false,
            "lstrip": false, "rstrip": false, "normalized": false }),
        );
    }
    let file = json!({
        "added_tokens": added,
        "pre_tokenizer": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false },
        "decoder": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false },
        "model": { "type": "BPE", "vocab": vocab, "merges": [] },
    });
    let tokenizer = Tokenizer::from_bytes(file.to_string().as_bytes(), None).unwrap();
    (Arc::new(tokenizer), i32::try_from(first).unwrap())
}

fn all_bytes() -> Arc<Vocabulary> {
    let (tokenizer, end) = byte_tokenizer(&["<|end|>"]);
    Arc::new(Vocabulary::new(&tokenizer, end as usize + 1, &[end], &[]).unwrap())
}

fn compile(vocabulary: &Arc<Vocabulary>, kind: Kind, source: &str) -> Result<Grammar> {
    Grammar::compile(vocabulary.clone(), kind, source)
}

fn refusal(vocabulary: &Arc<Vocabulary>, kind: Kind, source: &str) -> String {
    match compile(vocabulary, kind, source) {
        Ok(_) => panic!("was compiled: {source}"),
        Err(error) => {
            assert_eq!(error.code, Code::BadGrammar, "{error}");
            error.message
        }
    }
}

/// Tokens that a grammar allows, drawn with equal chances, or the end of text where it may come and `ends`; and whether they came
/// to the grammar's end within `most`. What is forced is taken as such for even seeds.
fn tokens(grammar: &Grammar, seed: u64, most: usize, ends: bool) -> (Vec<i32>, bool) {
    let mut matcher = grammar.matcher(true).unwrap();
    let end = end_of_text(grammar);
    let mut all = Vec::new();
    while !matcher.is_over() && all.len() < most {
        let forced = match seed % 2 {
            0 => matcher.forced().unwrap(),
            _ => Vec::new(),
        };
        let ids = match forced.is_empty() {
            false => forced,
            true => {
                let Some(mask) = matcher.mask().unwrap() else {
                    break;
                };
                let allowed = (0..).zip(&mask).filter(|(_, m)| **m == 1);
                let allowed: Vec<i32> = allowed.map(|(id, _)| id).collect();
                let any = mix(seed, all.len() as u64) as usize % allowed.len();
                let wanted = allowed.iter().find(|&&id| ends && id == end);
                vec![*wanted.unwrap_or(&allowed[any])]
            }
        };
        for id in ids {
            matcher.take(id).unwrap();
            all.push(id);
        }
    }
    let complete = matcher.is_over();
    (all, complete)
}

fn end_of_text(grammar: &Grammar) -> i32 {
    let trie = grammar.vocabulary().factory().tok_env().tok_trie();
    trie.eos_token() as i32
}

/// A text of a grammar, and whether it came to its end within `most` tokens.
fn draw(grammar: &Grammar, seed: u64, most: usize) -> (String, bool) {
    let (ids, complete) = tokens(grammar, seed, most, false);
    let trie = grammar.vocabulary().factory().tok_env().tok_trie();
    let ids = ids.into_iter().filter(|&id| id != end_of_text(grammar));
    let text = ids.flat_map(|id| trie.token(id as u32).to_vec()).collect();
    (String::from_utf8(text).unwrap_or_default(), complete)
}

/// JSON; null where it holds a number such as 1e999, which is JSON, and more than this parser takes.
fn parsed(name: &str, text: &str) -> Value {
    match serde_json::from_str(text) {
        Ok(value) => value,
        Err(error) if error.to_string().starts_with("number out of range") => Value::Null,
        Err(error) => panic!("{name}: {error}: {text}"),
    }
}

#[test]
fn what_is_drawn_is_json() {
    let vocabulary = vocabulary();
    let grammar = compile(&vocabulary, Kind::Json, "").unwrap();
    let mut complete = 0;
    for seed in 0..40 {
        let (text, ended) = draw(&grammar, seed, 2000);
        if ended {
            let value = parsed("JSON", &text);
            assert!(
                value.is_null() || value.is_object() || value.is_array(),
                "{text}"
            );
            complete += 1;
        }
    }
    assert!(complete > 10, "{complete} of 40 came to an end");
}

/// The schemas of tests/grammar/schemas.json that `valid` knows every keyword of; `make check-grammars` has all of them.
#[test]
fn what_is_drawn_obeys_its_schema() {
    let vocabulary = all_bytes();
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/grammar/schemas.json");
    let cases: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let (mut schemas, mut complete) = (0, 0);
    for case in cases["compile"].as_array().unwrap() {
        let (name, schema) = (case["name"].as_str().unwrap(), &case["schema"]);
        let grammar = compile(&vocabulary, Kind::JsonSchema, &schema.to_string());
        let grammar = grammar.unwrap_or_else(|error| panic!("{name}: {error}"));
        if !valid::knows(schema) {
            continue;
        }
        schemas += 1;
        for seed in 0..10 {
            let (text, ended) = draw(&grammar, seed, 400);
            if !ended {
                continue;
            }
            complete += 1;
            let value = parsed(name, &text);
            let too_large = value.is_null() && text != "null";
            assert!(too_large || valid(schema, schema, &value), "{name}: {text}");
        }
    }
    assert!(schemas > 150, "only {schemas} schemas were tried");
    assert!(
        complete > schemas * 3,
        "{complete} texts of {schemas} schemas came to an end"
    );
}

/// Whether a document can be written, in whatever tokens.
fn takes(grammar: &Grammar, document: &str) -> bool {
    let mut matcher = grammar.matcher(true).unwrap();
    let trie = grammar.vocabulary().factory().tok_env().tok_trie();
    let mut rest = document.as_bytes();
    while !rest.is_empty() {
        // (What nothing goes on from is an error.)
        let Ok(Some(mask)) = matcher.mask() else {
            return false;
        };
        let next = (0..).zip(&mask).filter(|(_, allowed)| **allowed == 1);
        let next =
            next.filter_map(|(id, _)| rest.strip_prefix(trie.token(id)).map(|left| (id, left)));
        let Some((id, left)) = next
            .filter(|(id, _)| !trie.token(*id).is_empty())
            .min_by_key(|(_, left)| left.len())
        else {
            return false;
        };
        matcher.take(id as i32).unwrap();
        rest = left;
    }
    matcher.is_over()
        || matcher
            .mask()
            .is_ok_and(|mask| mask.is_none_or(|mask| mask[trie.eos_token() as usize] == 1))
}

/// What llguidance 1.9.1 takes otherwise than the standard, each with what is right: documents that obey, and some that do not.
#[test]
fn what_llguidance_has_otherwise_is_right() {
    let vocabulary = all_bytes();
    for (schema, right, wrong) in [
        // A listed name, written otherwise, with a value that its schema does not know.
        (
            json!({ "type": "object", "properties": { "a": { "type": "integer" } } }),
            &["{\"a\":1}", "{\"a\":1,\"b\":\"x\"}", "{\"b\":\"x\"}"][..],
            &["{\"\\u0061\":\"x\"}", "{\"a\":1,\"\\u0061\":\"x\"}"][..],
        ),
        (
            json!({ "patternProperties": { "^x": { "type": "integer" } }, "type": "object" }),
            &["{\"x\":1,\"y\":\"s\"}"],
            &["{\"\\u0078\":\"s\"}", "{\"x\":\"s\"}"],
        ),
        // Excluded whole numbers less than 1 from the other bound.
        (
            json!({ "type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 0.5 }),
            &["0.1", "0.4999"],
            &["0", "0.0", "0.5", "-0"],
        ),
        (
            json!({ "type": "number", "minimum": -0.5, "exclusiveMaximum": 0 }),
            &["-0.5", "-0.01"],
            &["0", "-0", "0.0"],
        ),
        (
            json!({ "allOf": [{ "type": "number", "exclusiveMinimum": 3 }, { "maximum": 3.5 }] }),
            &["3.1", "3.5"],
            &["3", "3.0"],
        ),
        // Keywords on both sides of an applied schema.
        (
            json!({ "type": "integer", "minimum": 5, "allOf": [{}], "exclusiveMinimum": true }),
            &["6"],
            &["5"],
        ),
        (
            json!({ "patternProperties": { "^a": { "type": "integer" } }, "anyOf": [{ "required": ["ab"] }],
                "additionalProperties": false, "type": "object" }),
            &["{\"ab\":1}"],
            &["{}", "{\"ab\":1,\"b\":1}"],
        ),
        // `additionalItems` says nothing beside `prefixItems`.
        (
            json!({ "type": "array", "prefixItems": [{ "type": "boolean" }], "additionalItems": false }),
            &["[true]", "[true,1]"],
            &["[1]"],
        ),
        // An end of a line to ECMA 262, and white space to others than it.
        (
            json!({ "type": "string", "pattern": "^.\\s\\S$" }),
            &["\"a b\""],
            &["\"\\r b\"", "\"a\u{85}b\"", "\"a \u{feff}\""],
        ),
        (
            json!({ "type": "string", "format": "date" }),
            &["\"2024-02-29\"", "\"2000-02-29\""],
            &["\"2023-02-29\"", "\"1900-02-29\"", "\"0000-01-01\""],
        ),
        (
            json!({ "type": "string", "format": "hostname", "pattern": "m$" }),
            &["\"a-b.com\""],
            &["\"xn--x.com\"", "\"a-.com\"", "\"a.org\""],
        ),
        (
            json!({ "type": "object", "properties": { "a": {}, "b": {}, "c": {} }, "required": ["b"],
                "additionalProperties": false, "minProperties": 2 }),
            &[
                "{\"a\":1,\"b\":1}",
                "{\"b\":1,\"c\":1}",
                "{\"a\":1,\"b\":1,\"c\":1}",
            ],
            &["{\"b\":1}", "{\"a\":1}"],
        ),
    ] {
        let grammar = compile(&vocabulary, Kind::JsonSchema, &schema.to_string()).unwrap();
        for document in right {
            assert!(takes(&grammar, document), "{schema}: {document}");
        }
        for document in wrong {
            assert!(!takes(&grammar, document), "{schema}: {document}");
        }
    }
}

#[test]
fn places_are_those_of_the_schema_that_was_given() {
    let vocabulary = vocabulary();
    let none = json!({ "oneOf": [{ "type": "integer" }, { "type": "number" }] });
    for (schema, place) in [
        (
            json!({ "type": "array", "items": [{}, none], "minItems": 2 }),
            "#/items/1/oneOf",
        ),
        (
            json!({ "type": "array", "items": [{}], "additionalItems": none, "minItems": 2 }),
            "#/additionalItems/oneOf",
        ),
        (
            json!({ "type": "array", "prefixItems": [none], "minItems": 1 }),
            "#/prefixItems/0/oneOf",
        ),
    ] {
        let message = refusal(&vocabulary, Kind::JsonSchema, &schema.to_string());
        assert!(
            message.starts_with(&format!("\"{place}\": ")),
            "{schema}: {message}"
        );
    }
}

#[test]
fn what_cannot_be_followed_is_refused_by_its_place() {
    let vocabulary = vocabulary();
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/grammar/schemas.json");
    let cases: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    for case in cases["refuse"].as_array().unwrap() {
        let source = case["schema"].to_string();
        let message = refusal(&vocabulary, Kind::JsonSchema, &source);
        let place = case["place"].as_str().unwrap();
        assert!(
            message.starts_with(&format!("\"{place}\": ")),
            "{source}: {message}"
        );
    }
}

#[test]
fn what_is_no_schema_is_refused() {
    let vocabulary = vocabulary();
    let deep = format!("{}1{}", "[".repeat(10_000), "]".repeat(10_000));
    for (source, word) in [
        ("", "not valid JSON"),
        ("{", "not valid JSON"),
        ("[1]", "must be an object"),
        ("\"\u{e9}\"", "must be an object"),
        (r#"{"type":"string","type":"number"}"#, "twice"),
        (&deep, "too deep"),
    ] {
        let message = refusal(&vocabulary, Kind::JsonSchema, source);
        assert!(message.contains(word), "{source:.60}: {message}");
    }
    let long = " ".repeat(LONGEST_SOURCE + 1);
    for kind in [Kind::JsonSchema, Kind::Regex, Kind::Lark] {
        let error = compile(&vocabulary, kind, &long).err().unwrap();
        assert_eq!(error.code, Code::InvalidArgument, "{error}");
    }
    let error = compile(&vocabulary, Kind::Json, "{}").err().unwrap();
    assert_eq!(error.code, Code::InvalidArgument, "{error}");
}

#[test]
fn expressions_match_whole_answers_or_are_refused() {
    let vocabulary = vocabulary();
    for (source, text) in [
        ("(yes|no)", None),
        ("[a-c]{3}-[0-9]{2}", None),
        ("caf\u{e9} a la carte", Some("caf\u{e9} a la carte")),
        ("", Some("")),
        (r"<\|im_end\|>", Some("<|im_end|>")),
    ] {
        let grammar = compile(&vocabulary, Kind::Regex, source).unwrap();
        let whole = regex_of(source);
        for seed in 0..8 {
            let (drawn, ended) = draw(&grammar, seed, 100);
            assert!(
                ended && whole.is_match(&drawn).unwrap(),
                "{source}: {drawn}"
            );
            assert!(text.is_none_or(|text| text == drawn), "{drawn}");
        }
    }
    let nested = format!("{}a{}", "(".repeat(200), ")".repeat(200));
    for (source, word) in [
        ("(?=a)b", "look-around"),
        ("(?<!a)b", "look-around"),
        (r"(a)\1", "backreference"),
        ("(\u{e9}", "unclosed group"),
        ("(a{1000}){1000}", "at least 1000000 bytes"),
        ("[^\\x00-\\x{10ffff}]", "no text matches"),
        (&nested, "nest"),
        (&"a".repeat(65_537), "at most 65536"),
        // The vocabulary has no token for it.
        ("\u{4e2d}", "no token of the model can go on"),
    ] {
        let message = refusal(&vocabulary, Kind::Regex, source);
        assert!(message.contains(word), "{source:.60}: {message}");
    }
}

fn regex_of(source: &str) -> fancy_regex::Regex {
    fancy_regex::Regex::new(&format!("^(?:{source})$")).unwrap()
}

#[test]
fn lark_grammars_are_followed_or_refused() {
    let vocabulary = vocabulary();
    let sums = "start: sum\nsum: NUMBER (\"+\" NUMBER)~1..3 \";\"\nNUMBER: /[1-9][0-9]?/\n";
    let grammar = compile(&vocabulary, Kind::Lark, sums).unwrap();
    let whole = regex_of(r"[1-9][0-9]?(\+[1-9][0-9]?){1,3};");
    for seed in 0..10 {
        let (text, ended) = draw(&grammar, seed, 100);
        assert!(ended && whole.is_match(&text).unwrap(), "{text}");
    }
    let deep = format!("start: {}\"a\"{}", "(".repeat(5000), ")".repeat(5000));
    let many = "start: \"a\"\n".to_owned() + &"a: \"a\"\n".repeat(2000);
    for (source, word) in [
        ("", "start"),
        ("start: \"a", ""),
        ("start: other", "other"),
        ("start: start \"a\"", "already at the beginning"),
        ("start: a\na: b\nb: a", ""),
        ("start: <nothing>", "special token"),
        ("start: %json {\"not\": {}}", "line 1: %json"),
        (
            "%llguidance {\"allow_invalid_utf8\": true}\nstart: \"a\"",
            "line 1: %llguidance",
        ),
        ("start: A\nA: /(?=a)b/", "line 2: the expression"),
        (&deep, "deeper"),
        (&many, "line 2001: there are more than 2000 rules"),
        ("start: \"\u{e9}\u{e9}\" \u{e9}", ""),
    ] {
        let message = refusal(&vocabulary, Kind::Lark, source);
        assert!(message.contains(word), "{source:.60}: {message}");
    }
}

#[test]
fn special_tokens_come_by_name_only() {
    let vocabulary = vocabulary();
    let trie = vocabulary.factory().tok_env().tok_trie();
    let special = trie.get_special_token("<|im_start|>").unwrap();
    let text = compile(&vocabulary, Kind::JsonSchema, r#"{"const":"<|im_start|>"}"#).unwrap();
    let named = compile(&vocabulary, Kind::Lark, "start: \"a\" <|im_start|> \"b\"").unwrap();
    let tokens = |grammar: &Grammar| {
        let mut matcher = grammar.matcher(true).unwrap();
        let mut all = Vec::new();
        while let Some(mask) = matcher.mask().unwrap() {
            let id = mask.iter().position(|&allowed| allowed == 1).unwrap();
            matcher.take(id as i32).unwrap();
            all.push(id as u32);
        }
        all
    };
    assert!(!tokens(&text).contains(&special));
    assert!(tokens(&named).contains(&special));
}

/// llguidance 1.9.1 cuts the value in an error at a byte.
#[test]
fn a_panic_of_llguidance_is_an_error() {
    let vocabulary = vocabulary();
    let schema = json!({ "type": "string", "minLength": "\u{e9}".repeat(80) });
    let error = parser(&vocabulary, TopLevelGrammar::from_json_schema(schema))
        .err()
        .unwrap();
    assert_eq!(error.code, Code::Internal, "{error}");
    assert!(error.message.contains("llguidance"), "{error}");
    // The same through the door is looked at before.
    let source = format!(
        r#"{{"type":"string","minLength":"{}"}}"#,
        "\u{e9}".repeat(80)
    );
    let message = refusal(&vocabulary, Kind::JsonSchema, &source);
    assert!(message.starts_with("\"#/minLength\": "), "{message}");
}

#[test]
fn a_deadline_that_has_passed_ends_the_work() {
    let vocabulary = vocabulary();
    let watch = Watch {
        work: "compiling the grammar",
        deadline: Some(Instant::now()),
        ..Watch::default()
    };
    let outcome = watch::during(watch, || compile(&vocabulary, Kind::Json, ""));
    assert_eq!(outcome.err().unwrap().code, Code::Timeout);
}

#[test]
fn a_grammar_without_an_end_of_text_ends_itself() {
    let vocabulary = vocabulary();
    let grammar = compile(&vocabulary, Kind::Regex, "a?").unwrap();
    let mut matcher = grammar.matcher(false).unwrap();
    let mask = matcher.mask().unwrap().unwrap();
    assert_eq!(mask[END as usize], 0);
    let a = mask.iter().position(|&allowed| allowed == 1).unwrap();
    matcher.take(a as i32).unwrap();
    assert!(matcher.mask().unwrap().is_none());
    let mut ends = grammar.matcher(true).unwrap();
    assert_eq!(ends.mask().unwrap().unwrap()[END as usize], 1);
    ends.take(END).unwrap();
    assert!(ends.is_over());
}
