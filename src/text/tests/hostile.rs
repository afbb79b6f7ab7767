//! Files that abort or panic the stock crate: each gives a named error, or works.

use serde_json::{json, Value};

use super::shared;
use crate::text::{Specials, Tokenizer};

fn bpe(change: impl FnOnce(&mut Value)) -> Value {
    let mut file = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": null, "post_processor": null, "decoder": null,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "vocab": {"a": 0, "b": 1, "ab": 2, "é": 3}, "merges": ["a b"]}
    });
    change(&mut file);
    file
}

fn with(key: &str, value: Value) -> Value {
    bpe(|f| f[key] = value)
}

fn model(key: &str, value: Value) -> Value {
    bpe(|f| f["model"][key] = value)
}

fn added(key: &str, value: Value) -> Value {
    let mut token = json!({"id": 4, "content": "<z>", "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": true});
    token[key] = value;
    with("added_tokens", json!([token]))
}

fn charsmap(encoded: &str) -> Value {
    with(
        "normalizer",
        json!({"type": "Precompiled", "precompiled_charsmap": encoded}),
    )
}

fn padding(strategy: Value, multiple: Value) -> Value {
    with(
        "padding",
        json!({"strategy": strategy, "direction": "Right", "pad_to_multiple_of": multiple, "pad_id": 0,
            "pad_type_id": 0, "pad_token": "a"}),
    )
}

fn split(regex: &str) -> Value {
    with(
        "pre_tokenizer",
        json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false}),
    )
}

fn template(single: Value, specials: Value) -> Value {
    with(
        "post_processor",
        json!({"type": "TemplateProcessing", "single": single, "pair": [], "special_tokens": specials}),
    )
}

/// Loads a file, and uses what loads, on a thread with a small stack.
fn outcome(file: Vec<u8>) -> Result<(), String> {
    let run = move || -> Result<(), String> {
        let tokenizer = Tokenizer::from_bytes(&file, None).map_err(|e| e.message)?;
        let text = "ab é aaaaaaaaaaaaaaaaaaaaaaaaaaaaac <z> \u{ff0f}".repeat(20);
        for specials in [Specials::Recognise, Specials::AsText] {
            for special in [true, false] {
                let ids = tokenizer
                    .encode(&text, specials, special)
                    .map_err(|e| e.message)?;
                tokenizer.detokenize(&ids, true).map_err(|e| e.message)?;
            }
        }
        let all: Vec<i32> = (0..tokenizer.vocab_size() as i32).collect();
        tokenizer
            .detokenize(&all, false)
            .map_err(|e| e.message)
            .map(drop)
    };
    std::thread::Builder::new()
        .stack_size(512 << 10)
        .spawn(run)
        .unwrap()
        .join()
        .expect("no panic gets out")
}

#[test]
fn hostile_files_give_a_named_error_or_work() {
    let replace = json!({"type": "Replace", "pattern": {"String": "a"}, "content": "aa"});
    let deep = format!(
        "{{\"normalizer\":{}{}}}",
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    let a = json!({"Sequence": {"id": "A", "type_id": 0}});
    let x = json!({"SpecialToken": {"id": "[X]", "type_id": 0}});
    let ids = |ids: Value| json!({"[X]": {"id": "[X]", "ids": ids, "tokens": ["[X]"]}});
    // An empty wish means that the file works.
    let cases: Vec<(&str, Value, &str)> = vec![
        (
            "merge-result-missing",
            model("vocab", json!({"a": 0, "b": 1})),
            "tokenizer.json: ",
        ),
        (
            "merge-prefix",
            model("continuing_subword_prefix", json!("####")),
            "model.merges[0] lacks the continuing_subword_prefix",
        ),
        (
            "id-4e9",
            model("vocab", json!({"a": 0, "b": 4294967295u32, "ab": 2})),
            "the id 4294967295 of \"b\" is too large",
        ),
        (
            "id-1e18",
            model(
                "vocab",
                json!({"a": 0, "b": 1000000000000000000u64, "ab": 2}),
            ),
            "the id 1000000000000000000 of",
        ),
        (
            "id-negative",
            model("vocab", json!({"a": -1})),
            "the id of \"a\" must be a whole number",
        ),
        (
            "duplicate-ids",
            model("vocab", json!({"a": 0, "b": 0, "ab": 0})),
            "",
        ),
        ("dropout", model("dropout", json!(2.0)), ""),
        (
            "unk-missing",
            model("unk_token", json!("<unk>")),
            "tokenizer.json: ",
        ),
        (
            "stride",
            with(
                "truncation",
                json!({"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 5}),
            ),
            "",
        ),
        (
            "padding-1e10",
            padding(json!({"Fixed": 10_000_000_000u64}), Value::Null),
            "",
        ),
        (
            "padding-multiple-0",
            padding(json!("BatchLongest"), json!(0)),
            "",
        ),
        (
            "fixed-length-0",
            with("pre_tokenizer", json!({"type": "FixedLength", "length": 0})),
            "FixedLength must have a length",
        ),
        (
            "template-token-missing",
            template(json!([x, a]), json!({})),
            "names \"[X]\", which special_tokens does not have",
        ),
        (
            "template-many-texts",
            template(json!(vec![a.clone(); 1000]), json!({})),
            "repeats the text",
        ),
        (
            "template-many-ids",
            template(json!([x, a]), ids(json!(vec![1; 5000]))),
            "adds too many tokens",
        ),
        (
            "template-id-outside",
            template(json!([x, a]), ids(json!([77]))),
            "adds an id that the vocabulary lacks",
        ),
        (
            "strip-decoder",
            with(
                "decoder",
                json!({"type": "Strip", "content": "a", "start": 100, "stop": 100}),
            ),
            "",
        ),
        ("regex-bad", split("(("), "tokenizer.json: "),
        (
            "regex-backtracking",
            split("(a|a)*(?=c)(a+)+$"),
            "was given up on",
        ),
        (
            "regex-back-reference",
            split("(a)\\1"),
            "refers back to what it matched",
        ),
        (
            "regex-endless",
            split("(?:a*)*"),
            "repeats what may be empty without an end",
        ),
        (
            "regex-long",
            split(&"a".repeat(8193)),
            "at most 8192 are allowed",
        ),
        (
            "regex-repeated",
            split("(?:[a-z]{90}){100}"),
            "patterns are too large",
        ),
        ("regex-wide", split("[a-z]{8000}"), ""),
        (
            "empty-sequences",
            with(
                "normalizer",
                json!({"type": "Sequence", "normalizers": vec![json!({"type": "Sequence", "normalizers": []}); 300]}),
            ),
            "have more than 64 steps",
        ),
        (
            "replace-empty-pattern",
            with(
                "normalizer",
                json!({"type": "Replace", "pattern": {"String": ""}, "content": "a".repeat(64)}),
            ),
            "multiply a text's length by more than 64",
        ),
        (
            "growth-under-another-name",
            with(
                "normalizer",
                json!({"type": "Other", "prepend": "a".repeat(1000)}),
            ),
            "multiply a text's length",
        ),
        (
            "long-token",
            model(
                "vocab",
                json!({"a": 0, "b": 1, "ab": 2, "c".repeat(1025): 3}),
            ),
            "model.vocab has a text of 1025 bytes",
        ),
        (
            "long-token-that-fits",
            model(
                "vocab",
                json!({"a": 0, "b": 1, "ab": 2, "c".repeat(1024): 3}),
            ),
            "",
        ),
        (
            "decoder-growth",
            with(
                "decoder",
                json!({"type": "Replace", "pattern": {"String": "a"}, "content": "a".repeat(4097)}),
            ),
            "decoder makes the tokens' texts too long",
        ),
        (
            "decoder-that-fits",
            with(
                "decoder",
                json!({"type": "Replace", "pattern": {"String": "a"}, "content": "a".repeat(4090)}),
            ),
            "",
        ),
        (
            "decoder-steps",
            with(
                "decoder",
                json!({"type": "Sequence", "decoders": vec![json!({"type": "Sequence", "decoders": []}); 64]}),
            ),
            "decoder has more than 64 steps",
        ),
        (
            "processor-steps",
            with(
                "post_processor",
                json!({"type": "Sequence", "processors": vec![json!({"type": "Sequence", "processors": []}); 64]}),
            ),
            "post_processor has more than 64 steps",
        ),
        (
            "charsmap-short",
            charsmap("AAAA"),
            "shorter than the length that it declares",
        ),
        (
            "charsmap-4gb",
            charsmap("//////8AAAAA"),
            "shorter than the length that it declares",
        ),
        ("charsmap-not-base64", charsmap("§"), "not valid base64"),
        (
            "charsmap-offsets",
            charsmap("BAAAAAD///8="),
            "tokenizer.json: ",
        ),
        (
            "replace-growth",
            with(
                "normalizer",
                json!({"type": "Sequence", "normalizers": vec![replace; 34]}),
            ),
            "multiply a text's length by more than 64",
        ),
        (
            "byte-level-growth",
            with(
                "pre_tokenizer",
                json!({"type": "Sequence", "pretokenizers": vec![json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true}); 40]}),
            ),
            "multiply a text's length by more than 64",
        ),
        (
            "many-normalizers",
            with(
                "normalizer",
                json!({"type": "Sequence", "normalizers": vec![json!({"type": "NFC"}); 1000]}),
            ),
            "have more than 64 steps",
        ),
        (
            "prepend-growth",
            with(
                "normalizer",
                json!({"type": "Prepend", "prepend": "a".repeat(1000)}),
            ),
            "multiply a text's length",
        ),
        (
            "added-gap",
            added("id", json!(4_000_000_000u32)),
            "the id 4000000000 of \"<z>\" is too large",
        ),
        (
            "added-mismatch",
            added("id", json!(5)),
            "id 5 of \"<z>\" is not what the vocabulary leads to, Some(4)",
        ),
        (
            "added-long",
            added("content", json!("z".repeat(2000))),
            "added_tokens[0] is longer than 256 bytes",
        ),
        ("added-empty", added("content", json!("")), ""),
        (
            "added-no-id",
            added("id", Value::Null),
            "added_tokens[0] must have a content and an id",
        ),
        (
            "unigram-empty",
            json!({"version": "1.0", "added_tokens": [], "model": {"type": "Unigram", "unk_id": 0, "vocab": []}}),
            "tokenizer.json: ",
        ),
        (
            "unigram-unk",
            json!({"version": "1.0", "added_tokens": [], "model": {"type": "Unigram", "unk_id": 99, "vocab": [["a", -1.0]]}}),
            "tokenizer.json: ",
        ),
        (
            "wordpiece-unk",
            json!({"version": "1.0", "added_tokens": [], "model": {"type": "WordPiece", "unk_token": "[UNK]",
            "continuing_subword_prefix": "", "max_input_chars_per_word": 100, "vocab": {"a": 0}}}),
            "tokenizer.json: ",
        ),
        ("no-model", json!({}), "model must be an object"),
        ("a-list", json!([]), "must be a JSON object"),
        ("version", with("version", json!("9")), "version must be"),
        (
            "decoder-ctc",
            with("decoder", json!({"type": "CTC"})),
            "decoder CTC is not supported",
        ),
        (
            "decoder-keys",
            with("decoder", json!({"type": "Strip"})),
            "decoder's content must be a string",
        ),
    ];
    let mut wrong = Vec::new();
    for (name, file, wish) in cases {
        match outcome(serde_json::to_vec(&file).unwrap()) {
            Ok(()) if wish.is_empty() => {}
            Err(message)
                if !wish.is_empty()
                    && message.starts_with("tokenizer.json: ")
                    && message.contains(wish) => {}
            other => wrong.push(format!("{name}: {other:?}")),
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(outcome(deep.into_bytes())
        .unwrap_err()
        .contains("recursion limit exceeded"));
    assert!(outcome(b"{".to_vec())
        .unwrap_err()
        .contains("is not valid JSON"));
    assert!(outcome(Vec::new())
        .unwrap_err()
        .contains("is not valid JSON"));
}

#[test]
fn files_that_are_not_tokenizers_are_refused() {
    let Some(folder) = shared("tokenizers/_nonloading") else {
        return;
    };
    for name in ["added-tokens-ortx", "llama2-ortx"] {
        let file = std::fs::read(folder.join(name).join("tokenizer.json")).unwrap();
        assert!(
            outcome(file).unwrap_err().starts_with("tokenizer.json: "),
            "{name}"
        );
    }
}

#[test]
fn the_config_names_special_tokens() {
    let file = serde_json::to_vec(&bpe(|_| ())).unwrap();
    let load = |config: Value| Tokenizer::from_bytes(&file, config.as_object()).unwrap();
    let tokenizer = load(json!({"eos_token": {"content": "é"}, "bos_token": "a"}));
    assert_eq!(
        (tokenizer.eos_ids(), tokenizer.bos_token()),
        (vec![3], Some("a"))
    );
    // As in transformers, one that is not there is added.
    let new = load(json!({"eos_token": "gone", "bos_token": 7}));
    let size = load(json!({})).vocab_size();
    assert_eq!(new.eos_ids(), [size as i32]);
    assert_eq!((new.vocab_size(), new.bos_token()), (size + 1, None));
}

#[test]
fn a_text_over_the_cap_is_refused() {
    let tokenizer =
        Tokenizer::from_bytes(&serde_json::to_vec(&bpe(|_| ())).unwrap(), None).unwrap();
    let error = tokenizer
        .encode(&"a".repeat((64 << 20) + 1), Specials::Recognise, false)
        .unwrap_err();
    assert_eq!(error.code, crate::error::Code::InvalidArgument);
}

/// Every node of a JSON value, as a path of steps.
fn paths(value: &Value, at: &mut Vec<String>, out: &mut Vec<Vec<String>>) {
    out.push(at.clone());
    let children: Vec<(String, &Value)> = match value {
        Value::Object(map) => map.iter().take(40).map(|(k, v)| (k.clone(), v)).collect(),
        Value::Array(list) => list
            .iter()
            .take(40)
            .enumerate()
            .map(|(i, v)| (i.to_string(), v))
            .collect(),
        _ => Vec::new(),
    };
    for (step, child) in children {
        at.push(step);
        paths(child, at, out);
        at.pop();
    }
}

fn find<'a>(value: &'a mut Value, path: &[String]) -> Option<&'a mut Value> {
    path.iter().try_fold(value, |value, step| match value {
        Value::Object(map) => map.get_mut(step),
        Value::Array(list) => list.get_mut(step.parse::<usize>().ok()?),
        _ => None,
    })
}

/// Files of each kind of model, with as many of the optional parts as fit.
pub fn seeds() -> Vec<Value> {
    let token = json!({"id": 0, "content": "<unk>", "single_word": true, "lstrip": true, "rstrip": true, "normalized": true, "special": true});
    let post = json!({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<unk>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [], "special_tokens": {"<unk>": {"id": "<unk>", "ids": [0], "tokens": ["<unk>"]}}});
    let fallback = json!({"version": "1.0", "added_tokens": [token], "post_processor": post,
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
            {"type": "NFKC"}, {"type": "Lowercase"}, {"type": "Strip", "strip_left": true, "strip_right": true}, {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null, "lowercase": true}]},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Split", "pattern": {"Regex": "\\s+|[a-z]+"}, "behavior": "MergedWithNext", "invert": false},
            {"type": "Digits", "individual_digits": true}, {"type": "Punctuation", "behavior": "Isolated"}, {"type": "FixedLength", "length": 5}, {"type": "CharDelimiterSplit", "delimiter": "b"}]},
        "decoder": {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true, "ignore_merges": true, "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "vocab": {"<unk>": 0, "a": 1, "b": 2, "ab": 3, "▁": 4, "<0xC3>": 5, "<0xA9>": 6, "▁ab": 7}, "merges": [["a", "b"], ["▁", "ab"]]}});
    let unigram = json!({"version": "1.0", "added_tokens": [token], "normalizer": null, "post_processor": {"type": "RobertaProcessing", "sep": ["a", 1], "cls": ["<unk>", 0], "trim_offsets": true, "add_prefix_space": true},
        "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": true},
        "decoder": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true},
        "model": {"type": "Unigram", "unk_id": 0, "byte_fallback": true, "vocab": [["<unk>", 0.0], ["a", -1.5], ["▁", -2.0], ["ab", -3.0]]}});
    let wordpiece = json!({"version": "1.0", "added_tokens": [token], "normalizer": null, "post_processor": {"type": "BertProcessing", "sep": ["a", 1], "cls": ["<unk>", 0]},
        "pre_tokenizer": {"type": "BertPreTokenizer"}, "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {"type": "WordPiece", "unk_token": "<unk>", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100, "vocab": {"<unk>": 0, "a": 1, "##b": 2, "é": 3}}});
    let words = json!({"version": "1.0", "added_tokens": [token], "pre_tokenizer": {"type": "Whitespace"},
        "model": {"type": "WordLevel", "unk_token": "<unk>", "vocab": {"<unk>": 0, "ab": 1, "é": 2}}});
    // A trie of 256 empty units, and one replacement.
    let charsmap = charsmap(&format!("AAQA{}AABhAA==", "AAAA".repeat(341)));
    vec![
        bpe(|_| ()),
        fallback,
        unigram,
        wordpiece,
        words,
        charsmap,
        super::tokens::small().1,
    ]
}

/// Files of every kind with a few values replaced by nonsense, or by another part of the file.
#[test]
fn damaged_files_never_bring_the_process_down() {
    let rounds = std::env::var("MLXRT_FUZZ_ROUNDS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(400);
    let seeds = seeds();
    for seed in &seeds {
        outcome(serde_json::to_vec(seed).unwrap()).unwrap();
    }
    let nonsense = [
        json!(null),
        json!(true),
        json!(-1),
        json!(0),
        json!(1),
        json!(255),
        json!(3.5),
        json!(u32::MAX),
        json!(u64::MAX),
        json!(1e300),
        json!(4_194_303),
        json!(""),
        json!("a"),
        json!("aa"),
        json!("▁"),
        json!("<unk>"),
        json!("é"),
        json!("x".repeat(5000)),
        json!([]),
        json!({}),
        json!("(a*)*\\1"),
        json!("."),
        json!(""),
        json!({"String": ""}),
        json!({"Regex": ""}),
        json!({"Regex": "(?=a)"}),
        json!({"type": "ByteLevel"}),
        json!({"type": "Sequence"}),
    ];
    let mut rng = super::Rng::new(
        std::env::var("MLXRT_FUZZ_SEED")
            .ok()
            .and_then(|n| n.parse().ok())
            .unwrap_or(1),
    );
    let (mut loaded, mut refused) = (0, 0);
    for _ in 0..rounds {
        let mut file = rng.pick(&seeds).clone();
        for _ in 0..1 + rng.below(3) {
            let mut all = Vec::new();
            paths(&file, &mut Vec::new(), &mut all);
            let other = find(&mut file, rng.pick::<Vec<String>>(&all)).cloned();
            let value = if rng.below(3) == 0 {
                other.unwrap()
            } else {
                rng.pick(&nonsense).clone()
            };
            let path = rng.pick::<Vec<String>>(&all);
            if rng.below(6) == 0 {
                if let Some((last, parent)) = path.split_last() {
                    if let Some(map) = find(&mut file, parent).and_then(Value::as_object_mut) {
                        map.remove(last);
                    }
                }
            } else if !path.is_empty() {
                *find(&mut file, path).unwrap() = value;
            }
        }
        let bytes = serde_json::to_vec(&file).unwrap();
        let start = std::time::Instant::now();
        match outcome(bytes) {
            Ok(()) => loaded += 1,
            Err(message) => {
                refused += 1;
                assert!(
                    message.starts_with("tokenizer.json: ") && message.len() < 600,
                    "{message}"
                );
            }
        }
        assert!(
            start.elapsed().as_secs() < 5,
            "{:?} for {file}",
            start.elapsed()
        );
    }
    assert!(
        loaded > rounds / 20 && refused > rounds / 20,
        "{loaded} loaded, {refused} refused"
    );
}
