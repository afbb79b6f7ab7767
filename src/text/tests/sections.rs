//! Long texts are tokenised in sections, which changes no token; limits are met before the work that they bound.

use std::time::{Duration, Instant};

use serde_json::{json, Value};
use tokenizers::pattern::Pattern as _;
use tokenizers::utils::SysRegex;

use super::{shared, Rng};
use crate::error::Code;
use crate::text::pattern::Pattern;
use crate::text::tokenizer::{around, Origin, Piece};
use crate::text::{Specials, Tokenizer};
use crate::watch::{during, Watch};

const PARTS: &[&str] = &[
    "a",
    "b",
    "Z",
    "the",
    "Hello",
    "don't",
    "I'LL",
    "'s",
    " ",
    " ",
    " ",
    "  ",
    "      ",
    "\n",
    "\n\n",
    "\r\n",
    "\t",
    " \n",
    "1",
    "23",
    "4567",
    ".",
    ",",
    ", ",
    ". ",
    "!",
    "...",
    "(x)",
    "{",
    "}",
    "\"",
    "_",
    "-",
    "==",
    "/",
    "é",
    "e\u{301}",
    "\u{301}",
    "Ünï",
    "ß",
    "İ",
    "数据",
    "模型，",
    "。",
    "かな",
    "カナ",
    "한국어",
    "привет",
    "мир",
    "שלום",
    "سلام",
    "नमस्ते",
    "ไทย",
    "🙂",
    "👨\u{200d}👩",
    "\u{a0}",
    "\u{3000}",
    "\u{200b}",
    "\u{feff}",
    "\u{2581}",
    "Ġ",
    "<s>",
    "</s>",
    "<|im_end|>",
    "<tok>",
    "<x",
    "\0",
    "ﬁ",
    "①",
    "Å",
    "\u{1100}\u{1161}",
    "\u{11a8}",
];

fn text(rng: &mut Rng, parts: usize) -> String {
    let mut text = String::new();
    for _ in 0..parts {
        let part = *rng.pick(PARTS);
        // Now and then a long run of one kind.
        let times = match rng.below(60) {
            0 => rng.below(300),
            _ => 1,
        };
        text.push_str(&part.repeat(times));
    }
    text
}

const PATTERNS: &[&str] = &[
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"[一-龥぀-ゟ゠-ヿ]+",
    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##,
    r" ?[^(\s|[.,!?…。，、।۔،])]+",
    r"\p{N}",
    r"\d{3}(?=\d)|\d",
    r"(?<=a)b|\w+?\b",
    r"^\s+|\s+$",
    r"(?m)^a|b$",
    r"a*",
    r"",
    r"(a|the)*?e",
    r"(?>a+)b|.",
    r"(?:(?i)hello|é)+",
    r"[^a-z]{2,5}?",
    r"\p{L}++|\s++(?!\S)|\S",
    r"(?<!\w)\w+(?!\w)",
    r"(ab|a)(b|)",
    r"\s+$|\S+\s",
    r"(?s).{7}",
    r"x{0}a|b{0,2}c?",
    r"(?:'[sS]|'[tT])?\w",
    r"(?i)STRASSE|ß|ſ|k",
    r"\Bo|\bt",
];

#[test]
fn patterns_match_as_the_engine_matches() {
    let mut rng = Rng::new(11);
    for source in PATTERNS {
        let (ours, theirs) = (
            Pattern::new(source).unwrap(),
            SysRegex::new(source).unwrap(),
        );
        for round in 0..120 {
            let text = text(&mut rng, round);
            let (ours, theirs) = ((&ours).find_matches(&text), (&theirs).find_matches(&text));
            match ours {
                Ok(ours) => assert_eq!(ours, theirs.unwrap(), "{source:?} on {text:?}"),
                // To the end of every run and back.
                Err(error) => assert!(source.contains('$'), "{error}"),
            }
        }
    }
}

#[test]
fn patterns_that_go_over_a_text_again_and_again_are_given_up() {
    for (source, text) in [
        ("(a+)+$", "a".repeat(60) + "b"),
        ("(?=a*)a*a*a*a*b", "a".repeat(2_000)),
        ("[a-z]+X|[a-z]", "a".repeat(50_000)),
        ("(?:a|a?b)+(?!.)c", "ab".repeat(20_000)),
    ] {
        let pattern = Pattern::new(source).unwrap();
        let start = Instant::now();
        let error = (&pattern).find_matches(&text).unwrap_err().to_string();
        assert!(error.contains("given up"), "{source}: {error}");
        assert!(start.elapsed() < Duration::from_secs(8), "{source}");
        assert!((&pattern).find_matches("ab ba").is_ok(), "{source}");
    }
}

/// The vocabulary of a small model: letters, marks, some words, and bytes.
fn small(change: impl FnOnce(&mut Value)) -> Tokenizer {
    let mut vocab = serde_json::Map::new();
    let mut add = |token: String| {
        let id = vocab.len();
        vocab.entry(token).or_insert(json!(id));
    };
    add("<unk>".into());
    (0..=255u32).for_each(|byte| add(format!("<0x{byte:02X}>")));
    ('!'..='~').for_each(|c| add(c.to_string()));
    for token in [
        "▁", "Ġ", "Ċ", "，", "。", "数", "据", "é", "th", "the", "▁the", "lo", "ll", "▁▁", "▁a",
        "a▁", "..", "Ġt", "Ġthe", ", ",
    ] {
        add(token.into());
    }
    let mut file = json!({
        "version": "1.0",
        "added_tokens": [
            {"id": 500, "content": "<tok>", "single_word": false, "lstrip": true, "rstrip": true, "normalized": false, "special": false},
            {"id": 501, "content": "Hello", "single_word": true, "lstrip": false, "rstrip": false, "normalized": true, "special": false},
            {"id": 502, "content": "y.\n", "single_word": false, "lstrip": false, "rstrip": true, "normalized": true, "special": false},
            {"id": 503, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": true, "special": true},
        ],
        "normalizer": null, "pre_tokenizer": null, "post_processor": null, "decoder": null,
        "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true, "vocab": vocab,
            "merges": ["t h", "th e", "▁ the", "l o", "l l", "▁ ▁", "▁ a", ". .", "Ġ t", "Ġt he"]},
    });
    file["model"]["merges"].as_array_mut().unwrap().pop();
    change(&mut file);
    // Ids of added tokens follow those of the vocabulary.
    let size = file["model"]["vocab"].as_object().unwrap().len();
    for (index, token) in file["added_tokens"]
        .as_array_mut()
        .unwrap()
        .iter_mut()
        .enumerate()
    {
        token["id"] = json!(size + index);
    }
    Tokenizer::from_bytes(&serde_json::to_vec(&file).unwrap(), None).unwrap()
}

fn split(pattern: &str, behavior: &str, invert: bool) -> Value {
    json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": invert})
}

/// Steps of many kinds: (normalizer, pre-tokenizer).
fn kinds() -> Vec<(Value, Value)> {
    let mark = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    let llama =
        json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, mark]});
    let metaspace = |scheme: &str, split: bool| json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": split});
    let bytes = |prefix: bool, regex: bool| json!({"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": true, "use_regex": regex});
    let sequence = |list: Vec<Value>| json!({"type": "Sequence", "pretokenizers": list});
    let form = |name: &str| json!({"type": name});
    let mut kinds = vec![
        (Value::Null, Value::Null),
        (llama.clone(), Value::Null),
        (
            mark.clone(),
            json!({"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": false}),
        ),
        (
            json!({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}),
            metaspace("first", true),
        ),
        (
            json!({"type": "Replace", "pattern": {"Regex": "e\\s"}, "content": "e"}),
            Value::Null,
        ),
        (
            json!({"type": "Strip", "strip_left": true, "strip_right": true}),
            form("WhitespaceSplit"),
        ),
        (
            json!({"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null, "lowercase": true}),
            form("BertPreTokenizer"),
        ),
        (form("NFKC"), form("Whitespace")),
        (form("NFD"), form("UnicodeScripts")),
        (
            form("Lowercase"),
            json!({"type": "FixedLength", "length": 5}),
        ),
        (json!({"type": "ByteLevel"}), form("Whitespace")),
        (
            Value::Null,
            json!({"type": "CharDelimiterSplit", "delimiter": "."}),
        ),
        (
            form("NFC"),
            sequence(vec![
                split(PATTERNS[3], "Isolated", false),
                split(PATTERNS[4], "Isolated", false),
                bytes(false, false),
            ]),
        ),
        (
            Value::Null,
            sequence(vec![form("WhitespaceSplit"), metaspace("always", true)]),
        ),
        (
            Value::Null,
            sequence(vec![
                json!({"type": "Digits", "individual_digits": true}),
                bytes(true, true),
            ]),
        ),
        (
            Value::Null,
            sequence(vec![
                json!({"type": "Digits", "individual_digits": false}),
                bytes(false, true),
            ]),
        ),
        (
            Value::Null,
            sequence(vec![
                json!({"type": "Punctuation", "behavior": "Contiguous"}),
                bytes(true, false),
            ]),
        ),
        (
            form("Nmt"),
            json!({"type": "Punctuation", "behavior": "MergedWithNext"}),
        ),
    ];
    for scheme in ["first", "always", "never"] {
        for split in [true, false] {
            kinds.push((Value::Null, metaspace(scheme, split)));
        }
    }
    for prefix in [true, false] {
        for regex in [true, false] {
            kinds.push((form("NFC"), bytes(prefix, regex)));
        }
    }
    for pattern in PATTERNS.iter().filter(|pattern| !pattern.is_empty()) {
        for behavior in [
            "Isolated",
            "Removed",
            "MergedWithPrevious",
            "MergedWithNext",
            "Contiguous",
        ] {
            for invert in [true, false] {
                kinds.push((Value::Null, split(pattern, behavior, invert)));
            }
        }
    }
    kinds
}

/// Every way of encoding, in sections of so many bytes.
fn encode(tokenizer: &mut Tokenizer, section: usize, text: &str) -> Vec<Vec<i32>> {
    tokenizer.set_section(section);
    let middle = text
        .char_indices()
        .map(|(at, _)| at)
        .nth(text.chars().count() / 2)
        .unwrap_or(0);
    let pieces = [
        Piece::new(&text[..middle], Origin::Template),
        Piece::new(&text[middle..], Origin::Content),
    ];
    vec![
        tokenizer.encode(text, Specials::Recognise, true).unwrap(),
        tokenizer.encode(text, Specials::AsText, false).unwrap(),
        tokenizer.encode_pieces(&pieces, false, usize::MAX).unwrap(),
    ]
}

/// How many of `rounds` texts could be divided at all.
fn sections_equal_the_whole(tokenizer: &mut Tokenizer, what: &str, rounds: usize) -> usize {
    let mut rng = Rng::new(5);
    let mut divided = 0;
    for round in 0..rounds {
        let text = text(&mut rng, 40 + 10 * round);
        let whole = encode(tokenizer, usize::MAX, &text);
        for section in [8, 16, 50, 200] {
            let parts = encode(tokenizer, section, &text);
            assert_eq!(parts, whole, "{what}, sections of {section}: {text:?}");
        }
        divided += usize::from(
            (1..text.len())
                .filter_map(|at| around(&text, at))
                .any(|place| tokenizer.divides(place)),
        );
    }
    divided
}

#[test]
fn sections_of_made_up_tokenizers_equal_the_whole() {
    let mut divided = 0;
    let kinds = kinds();
    for (normalizer, pre_tokenizer) in &kinds {
        let mut tokenizer = small(|file| {
            file["normalizer"] = normalizer.clone();
            file["pre_tokenizer"] = pre_tokenizer.clone();
        });
        let what = format!("{normalizer} {pre_tokenizer}");
        divided += usize::from(sections_equal_the_whole(&mut tokenizer, &what, 4) > 0);
    }
    assert!(divided * 3 > kinds.len(), "{divided} of {}", kinds.len());
}

#[test]
fn sections_of_published_tokenizers_equal_the_whole() {
    let Some(root) = shared("tokenizers") else {
        return;
    };
    for name in [
        "qwen2.5",
        "llama-3-8b-instruct",
        "phi-2",
        "llama2",
        "t5-small",
        "bert-base-uncased",
    ] {
        let json = std::fs::read(root.join(name).join("tokenizer.json")).unwrap();
        let mut tokenizer = Tokenizer::from_bytes(&json, None).unwrap();
        let divided = sections_equal_the_whole(&mut tokenizer, name, 20);
        assert!(
            divided >= 15,
            "{name}: {divided} of 20 texts could be divided"
        );
    }
}

#[test]
fn a_text_without_a_place_to_divide_it_has_a_limit() {
    let tokenizer = small(|file| file["pre_tokenizer"] = split(r"\s+", "Isolated", false));
    let error = |text: &str| {
        tokenizer
            .encode(text, Specials::AsText, false)
            .map(|ids| ids.len())
    };
    let long = error(&"<".repeat((1 << 20) + 1)).unwrap_err();
    assert_eq!(long.code, Code::InvalidArgument);
    assert!(long.message.contains("cannot be divided"), "{long}");
    let word = error(&"<".repeat((256 << 10) + 1)).unwrap_err();
    assert_eq!(word.code, Code::InvalidArgument);
    assert!(word.message.contains("word"), "{word}");
    let fits = "the ".repeat(300_000);
    assert!(error(&fits).is_ok());
}

#[test]
fn more_tokens_than_wanted_end_the_work_early() {
    let tokenizer = small(|file| file["pre_tokenizer"] = json!({"type": "WhitespaceSplit"}));
    let text = "a ".repeat(8 << 20);
    let start = Instant::now();
    let error = tokenizer
        .encode_within(&text, Specials::AsText, 1000)
        .unwrap_err();
    assert_eq!(error.code, Code::ContextFull);
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(
        tokenizer
            .encode_within("a a", Specials::AsText, 2)
            .unwrap()
            .len(),
        2
    );
    assert!(tokenizer
        .encode_within("a a a", Specials::AsText, 2)
        .is_err());
}

#[test]
fn the_watch_ends_tokenising_and_loading() {
    let tokenizer = small(|file| file["pre_tokenizer"] = json!({"type": "WhitespaceSplit"}));
    let text = "the ".repeat(4 << 20);
    let start = Instant::now();
    let watch = Watch {
        deadline: Some(start + Duration::from_millis(100)),
        ..Watch::default()
    };
    let error = during(watch, || tokenizer.encode(&text, Specials::AsText, false)).unwrap_err();
    assert_eq!(error.code, Code::Timeout);
    assert!(
        start.elapsed() < Duration::from_secs(3),
        "{:?}",
        start.elapsed()
    );
    let cancelled = || Watch {
        stopped: Some(Box::new(|| {
            Err(crate::error::Error::new(Code::Cancelled, "enough"))
        })),
        ..Watch::default()
    };
    let error = during(cancelled(), || {
        tokenizer.encode("a", Specials::AsText, false)
    })
    .unwrap_err();
    assert_eq!(error.code, Code::Cancelled);
    let file = json!({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}).to_string();
    let error = during(cancelled(), || Tokenizer::from_bytes(file.as_bytes(), None)).unwrap_err();
    assert_eq!(error.code, Code::Cancelled);
}

/// Each in the time of a text without them.
#[test]
fn runs_that_added_tokens_strip_are_taken_in_one_pass() {
    for (content, left, right) in [
        ("\n", true, true),
        ("\n", true, false),
        ("\n", false, true),
        (" x", true, true),
    ] {
        for normalized in [true, false] {
            let tokenizer = small(|file| {
                file["added_tokens"] = json!([{"id": 0, "content": content, "single_word": false, "lstrip": left,
                    "rstrip": right, "normalized": normalized, "special": false}]);
            });
            for text in [
                "\n".repeat(60_000),
                " \n".repeat(30_000),
                "\n\t".repeat(30_000) + " x",
            ] {
                let start = Instant::now();
                tokenizer.encode(&text, Specials::Recognise, false).unwrap();
                assert!(
                    start.elapsed() < Duration::from_secs(4),
                    "{content:?} {left} {right}"
                );
            }
        }
    }
}
