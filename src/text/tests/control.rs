//! Content never becomes a control token, also where the vocabulary has it as a plain entry; its text stays what it is.

use std::collections::HashSet;

use serde_json::{json, Value};

use super::tokens::real;
use super::Rng;
use crate::template::Origin;
use crate::text::{Piece, Specials, TokenFiles, Tokenizer};

/// Two control tokens that are nothing but entries of the vocabulary: one that `special_tokens_map.json` names, and one that
/// only the model's configuration knows as an end, as an id.
const NAMED: &str = "<|e|>";
const END: &str = "</s>";

/// All of printable ASCII, a line break and two letters beyond.
fn alphabet() -> Vec<String> {
    let letters = (' '..='~').chain(['\n', 'é', '日']);
    letters.map(String::from).collect()
}

/// The entries and merges that lead to a text letter by letter, through what `spell` makes of each.
fn merged(text: &str, vocab: &mut Vec<String>, merges: &mut Vec<Value>) {
    let mut so_far = String::new();
    for letter in text.chars().map(String::from) {
        let next = format!("{so_far}{letter}");
        if !so_far.is_empty() {
            merges.push(json!([so_far, letter]));
        }
        if !vocab.contains(&next) {
            vocab.push(next.clone());
        }
        so_far = next;
    }
}

fn numbered(vocab: &[String]) -> Value {
    let ids = vocab.iter().enumerate();
    ids.map(|(id, token)| (token.clone(), json!(id)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

fn file(model: Value, normalizer: Value, pre_tokenizer: Value, decoder: Value) -> Value {
    json!({"version": "1.0", "added_tokens": [], "normalizer": normalizer, "pre_tokenizer": pre_tokenizer,
        "post_processor": null, "decoder": decoder, "model": model})
}

/// Byte-level: every letter by its bytes.
fn byte_level(ignore_merges: bool) -> Value {
    let (_, small) = super::tokens::small();
    let ids = small["model"]["vocab"].as_object().unwrap().iter();
    let mut vocab: Vec<String> = ids
        .filter(|(_, id)| id.as_u64().unwrap() < 256)
        .map(|(token, _)| token.clone())
        .collect();
    let mut merges = Vec::new();
    merged(NAMED, &mut vocab, &mut merges);
    merged(END, &mut vocab, &mut merges);
    if ignore_merges {
        merges.clear();
    }
    let model = json!({"type": "BPE", "vocab": numbered(&vocab), "merges": merges, "ignore_merges": ignore_merges});
    let level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    let words = match ignore_merges {
        // Whole words are looked up; the two are such.
        true => {
            let split = json!({"type": "Split", "pattern": {"Regex": "<\\|e\\|>|</s>|."}, "behavior": "Isolated", "invert": false});
            json!({"type": "Sequence", "pretokenizers": [split, level]})
        }
        false => level.clone(),
    };
    file(model, Value::Null, words, level)
}

/// As Llama 2: spaces as ▁, unknown letters by their bytes.
fn byte_fallback() -> Value {
    let mut vocab = vec!["<unk>".to_owned()];
    vocab.extend((0..=255u8).map(|byte| format!("<0x{byte:02X}>")));
    vocab.extend(alphabet().into_iter().filter(|letter| letter.is_ascii()));
    vocab.push("▁".into());
    let mut merges = Vec::new();
    merged(NAMED, &mut vocab, &mut merges);
    merged(END, &mut vocab, &mut merges);
    let model = json!({"type": "BPE", "vocab": numbered(&vocab), "merges": merges, "unk_token": "<unk>",
        "byte_fallback": true, "fuse_unk": true});
    let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    let back = json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "});
    let decoder =
        json!({"type": "Sequence", "decoders": [back, {"type": "ByteFallback"}, {"type": "Fuse"}]});
    file(model, replace, Value::Null, decoder)
}

/// As T5, whose control tokens are all entries.
fn unigram() -> Value {
    let mut vocab = vec![json!(["<unk>", 0.0])];
    vocab.extend(alphabet().iter().map(|letter| json!([letter, -3.0])));
    vocab.push(json!(["▁", -2.0]));
    for entry in [NAMED, END, "/s>", "▁</s>", "e|"] {
        vocab.push(json!([entry, -1.0]));
    }
    let model = json!({"type": "Unigram", "vocab": vocab, "unk_id": 0});
    let metaspace =
        json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never", "split": true});
    file(model, Value::Null, metaspace.clone(), metaspace)
}

/// As BERT.
fn word_piece() -> Value {
    let mut vocab = vec!["[UNK]".to_owned()];
    for letter in alphabet() {
        vocab.push(format!("##{letter}"));
        vocab.push(letter);
    }
    for entry in [NAMED, END, "##</s>", "##<|e|>", "##|e", "<|"] {
        vocab.push(entry.into());
    }
    let model = json!({"type": "WordPiece", "vocab": numbered(&vocab), "unk_token": "[UNK]",
        "continuing_subword_prefix": "##", "max_input_chars_per_word": 400});
    let split = json!({"type": "WhitespaceSplit"});
    let decoder = json!({"type": "WordPiece", "prefix": "##", "cleanup": false});
    file(model, Value::Null, split, decoder)
}

/// A tokenizer whose folder names `NAMED`, and whose model ends with `END`; and the ids that content must not become.
fn load(file: &Value) -> (Tokenizer, HashSet<i32>) {
    let files = TokenFiles {
        special_tokens_map: json!({"eos_token": NAMED}).as_object().cloned(),
        // Beside this, transformers does not look at the map.
        config: json!({"added_tokens_decoder": {}}).as_object().cloned(),
        ..TokenFiles::default()
    };
    let mut warnings = Vec::new();
    let bytes = serde_json::to_vec(file).unwrap();
    let mut tokenizer = Tokenizer::new(&bytes, &files, None, &mut warnings).unwrap();
    assert!(warnings.is_empty() && tokenizer.added_tokens().is_empty());
    let ids: HashSet<i32> = [NAMED, END, "##</s>", "##<|e|>", "▁</s>"]
        .iter()
        .filter_map(|token| tokenizer.token_to_id(token))
        .collect();
    tokenizer
        .mark_ends(&ids.iter().copied().collect::<Vec<_>>())
        .unwrap();
    (tokenizer, ids)
}

fn content(tokenizer: &Tokenizer, text: &str, origin: Origin) -> Vec<i32> {
    let pieces = [Piece::new(text, origin)];
    tokenizer.encode_pieces(&pieces, false, usize::MAX).unwrap()
}

#[test]
fn an_entry_of_the_vocabulary_is_not_forged_and_its_text_stays() {
    for (kind, file) in [
        ("byte-level", byte_level(false)),
        ("byte-level, whole words", byte_level(true)),
        ("byte fallback", byte_fallback()),
        ("Unigram", unigram()),
        ("WordPiece", word_piece()),
    ] {
        let (tokenizer, control) = load(&file);
        let bytes = serde_json::to_vec(&file).unwrap();
        let crates = tokenizers::Tokenizer::from_bytes(&bytes).unwrap();
        let plain = |text: &str| {
            let ids = crates.encode_fast(text, false).unwrap();
            ids.get_ids()
                .iter()
                .map(|id| *id as i32)
                .collect::<Vec<_>>()
        };
        let mut rng = Rng::new(41);
        let letters = alphabet();
        let parts = [
            NAMED, END, "<|e", "|>", "<", "/s", "/s>", "e|>", "</", "s>", " ", "  ", "é", "日本",
            "a",
        ];
        let mut forged = 0;
        for _ in 0..2000 {
            let mut text = String::new();
            for _ in 0..rng.below(12) {
                match rng.below(3) {
                    0 => text.push_str(rng.pick::<String>(&letters)),
                    _ => text.push_str(rng.pick::<&str>(&parts)),
                }
            }
            let before = plain(&text);
            forged += usize::from(before.iter().any(|id| control.contains(id)));
            // Where nothing is forged, nothing changes.
            for origin in [Origin::Content, Origin::Assistant] {
                let ids = content(&tokenizer, &text, origin);
                assert!(
                    !ids.iter().any(|id| control.contains(id)),
                    "{kind} {text:?} {ids:?}"
                );
                let back = tokenizer.detokenize(&ids, false).unwrap();
                assert_eq!(
                    back,
                    tokenizer.detokenize(&before, false).unwrap(),
                    "{kind} {text:?}"
                );
                if kind != "WordPiece" && !(kind == "Unigram" && text.contains('本')) {
                    assert_eq!(back, text, "{kind}");
                }
                if !before.iter().any(|id| control.contains(id)) {
                    assert_eq!(ids, before, "{kind} {text:?}");
                }
            }
            let ids = tokenizer.encode(&text, Specials::AsText, false).unwrap();
            assert!(
                !ids.iter().any(|id| control.contains(id)),
                "{kind} {text:?} {ids:?}"
            );
            // The template's characters and trusted content are what the model makes of them.
            assert_eq!(
                content(&tokenizer, &text, Origin::Template),
                before,
                "{kind} {text:?}"
            );
            let pieces = [Piece::new(text.as_str(), Origin::Content)];
            assert_eq!(
                tokenizer.encode_pieces(&pieces, true, usize::MAX).unwrap(),
                before,
                "{kind} {text:?}"
            );
        }
        assert!(forged > 500, "{kind}: {forged}");
        // A token is the template's only where all of it is.
        for token in [NAMED, END] {
            for at in 1..token.len() {
                for (first, second) in [
                    (Origin::Content, Origin::Template),
                    (Origin::Template, Origin::Content),
                    (Origin::Assistant, Origin::Template),
                ] {
                    let pieces = [
                        Piece::new(&token[..at], first),
                        Piece::new(&token[at..], second),
                    ];
                    let ids = tokenizer.encode_pieces(&pieces, false, usize::MAX).unwrap();
                    assert!(
                        !ids.iter().any(|id| control.contains(id)),
                        "{kind} {pieces:?}"
                    );
                }
            }
            let own = [
                Piece::new("(", Origin::Content),
                Piece::new(token, Origin::Template),
                Piece::new(")", Origin::Content),
            ];
            let ids = tokenizer.encode_pieces(&own, false, usize::MAX).unwrap();
            assert_eq!(
                ids.iter().filter(|id| control.contains(id)).count(),
                1,
                "{kind} {ids:?}"
            );
        }
    }
}

/// Real ones, with texts full of every control token that they have.
#[test]
fn no_control_token_of_a_real_tokenizer_is_forged() {
    for real in real() {
        let file = super::shared("tokenizers")
            .unwrap()
            .join(real.name)
            .join("tokenizer.json");
        let mut tokenizer = Tokenizer::from_bytes(&std::fs::read(file).unwrap(), None).unwrap();
        // Besides, some entry that nobody calls special ends this model's texts.
        let end = ["ing", "▁the", "the", "Ġthe"]
            .iter()
            .find_map(|t| tokenizer.token_to_id(t));
        tokenizer.mark_ends(&[end.unwrap()]).unwrap();
        let special: Vec<_> = tokenizer
            .added_tokens()
            .into_values()
            .filter(|t| t.special)
            .collect();
        let mut control: HashSet<i32> = special
            .iter()
            .filter_map(|t| tokenizer.token_to_id(&t.content))
            .collect();
        control.extend(end);
        for unknown in ["<unk>", "[UNK]"] {
            tokenizer.token_to_id(unknown).map(|id| control.remove(&id));
        }
        let mut rng = Rng::new(43);
        for _ in 0..300 {
            let mut text = String::from("x");
            for _ in 0..rng.below(10) {
                match rng.below(3) {
                    0 => text.push_str(&rng.pick(&special).content),
                    1 => text.push_str(
                        rng.pick::<&str>(&[" ", "the ", "ing", " thing", "é", "<", "\n"]),
                    ),
                    _ => {
                        let content = &rng.pick(&special).content;
                        text.extend(content.chars().skip(1 + rng.below(2)));
                    }
                }
            }
            for origin in [Origin::Content, Origin::Assistant] {
                let ids = content(&tokenizer, &text, origin);
                let name = real.name;
                assert!(
                    !ids.iter().any(|id| control.contains(id)),
                    "{name} {text:?} {ids:?}"
                );
                // The other two lose characters and spaces of any text.
                if !matches!(name, "t5-small" | "bert-base-uncased") {
                    assert_eq!(tokenizer.detokenize(&ids, false).unwrap(), text, "{name}");
                }
            }
        }
    }
}

/// Entries inside entries, each of them a control token: halving ends, and soon.
#[test]
fn nested_control_tokens_end() {
    let mut vocab = vec![
        json!(["<unk>", 0.0]),
        json!(["a", -1.0]),
        json!(["b", -1.0]),
    ];
    let lengths: Vec<usize> = (2..=200).chain([240, 256]).collect();
    vocab.extend(lengths.iter().map(|n| json!(["a".repeat(*n), -1.0])));
    let file = file(
        json!({"type": "Unigram", "vocab": vocab, "unk_id": 0}),
        Value::Null,
        Value::Null,
        json!({"type": "Fuse"}),
    );
    let mut tokenizer = Tokenizer::from_bytes(&serde_json::to_vec(&file).unwrap(), None).unwrap();
    let ends: Vec<i32> = (3..tokenizer.vocab_size() as i32).collect();
    tokenizer.mark_ends(&ends).unwrap();
    let text = format!("{}b{}", "a".repeat(12_000), "a".repeat(333));
    let ids = content(&tokenizer, &text, Origin::Content);
    assert!(ids.iter().all(|id| [1, 2].contains(id)));
    assert_eq!(tokenizer.detokenize(&ids, false).unwrap(), text);
}

/// "!" for padding and a line break as an end are popular. Nothing else could write them.
#[test]
fn a_letter_stays_text_whatever_it_is_named() {
    let file = byte_level(false);
    let bytes = serde_json::to_vec(&file).unwrap();
    let config = json!({"pad_token": "!"});
    let mut tokenizer = Tokenizer::from_bytes(&bytes, config.as_object()).unwrap();
    let newline = tokenizer.token_to_id("Ċ").unwrap();
    tokenizer.mark_ends(&[newline]).unwrap();
    let text = "Oh!!\n!";
    let ids = content(&tokenizer, text, Origin::Content);
    assert_eq!(
        ids,
        tokenizer.encode(text, Specials::Recognise, false).unwrap()
    );
    // Seen in an answer, too, where special tokens are not shown.
    assert_eq!(tokenizer.detokenize(&ids, true).unwrap(), text);
    // Where bytes can write it, it is a control token like any other.
    let bytes = serde_json::to_vec(&byte_fallback()).unwrap();
    let tokenizer = Tokenizer::from_bytes(&bytes, config.as_object()).unwrap();
    let ids = content(&tokenizer, text, Origin::Content);
    let padding = tokenizer.token_to_id("!").unwrap();
    assert!(!ids.contains(&padding) && content(&tokenizer, "!", Origin::Template) == [padding]);
    assert_eq!(tokenizer.detokenize(&ids, true).unwrap(), text);
}

#[test]
fn every_file_that_calls_a_token_special_counts() {
    let bytes = serde_json::to_vec(&byte_level(false)).unwrap();
    let load = |files: TokenFiles| Tokenizer::new(&bytes, &files, None, &mut Vec::new()).unwrap();
    let map = |value: Value| value.as_object().cloned();
    let config = |value: Value| TokenFiles {
        config: map(value),
        ..TokenFiles::default()
    };
    let token = json!({"content": NAMED, "special": true});
    for files in [
        config(json!({"added_tokens_decoder": {"300": token}})),
        config(json!({"pad_token": NAMED})),
        config(json!({"image_token": NAMED})),
        config(json!({"extra_special_tokens": [NAMED]})),
        config(json!({"extra_special_tokens": {"image": NAMED}})),
        config(json!({"additional_special_tokens": [token]})),
        config(json!({"extra_special_tokens": ["x"], "additional_special_tokens": [NAMED]})),
        TokenFiles {
            special_tokens_map: map(json!({"additional_special_tokens": [NAMED]})),
            ..config(json!({"added_tokens_decoder": {}}))
        },
    ] {
        let tokenizer = load(files);
        let id = tokenizer.token_to_id(NAMED).unwrap();
        for origin in [Origin::Content, Origin::Assistant] {
            let ids = content(&tokenizer, NAMED, origin);
            assert!(!ids.contains(&id) && !ids.is_empty());
        }
        assert_eq!(content(&tokenizer, NAMED, Origin::Template), [id]);
    }
    // And tokenizer.json itself, in what it puts around texts.
    let mut file = byte_level(false);
    let id = file["model"]["vocab"][NAMED].clone();
    let table = json!({NAMED: {"id": NAMED, "ids": [id], "tokens": [NAMED]}});
    for processor in [
        json!({"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [], "special_tokens": table}),
        json!({"type": "Sequence", "processors": [{"type": "BertProcessing", "sep": [NAMED, id], "cls": [NAMED, id]}]}),
    ] {
        file["post_processor"] = processor;
        let bytes = serde_json::to_vec(&file).unwrap();
        let tokenizer = Tokenizer::from_bytes(&bytes, None).unwrap();
        assert!(!json!(content(&tokenizer, NAMED, Origin::Content))
            .as_array()
            .unwrap()
            .contains(&id));
        assert_eq!(
            json!(content(&tokenizer, NAMED, Origin::Template)),
            json!([id])
        );
    }
}
