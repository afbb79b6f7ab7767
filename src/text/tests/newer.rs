//! tokenizer.json as tokenizers 1.x saves it.

use serde_json::{json, Value};

use crate::error::Code;
use crate::text::{Specials, Tokenizer};

/// `tests/fixtures/text/newer.py` asked its release candidate.
fn cases() -> Vec<Value> {
    let text = include_str!("../../../tests/fixtures/text/newer.json");
    serde_json::from_str(text).unwrap()
}

fn load(file: &Value) -> crate::error::Result<Tokenizer> {
    Tokenizer::from_bytes(&serde_json::to_vec(file).unwrap(), None)
}

#[test]
fn ids_and_texts_are_those_of_tokenizers_1() {
    let cases = cases();
    assert!(cases.len() >= 10);
    for case in &cases {
        let name = &case["name"];
        let tokenizer = load(&case["file"]).unwrap();
        for of_text in case["texts"].as_array().unwrap() {
            let text = of_text[0].as_str().unwrap();
            for (add_special, wanted) in [(false, &of_text[1]), (true, &of_text[2])] {
                let ids = tokenizer.encode(text, Specials::Recognise, add_special);
                assert_eq!(json!(ids.unwrap()), *wanted, "{name} {text:?}");
            }
            let ids: Vec<i32> = serde_json::from_value(of_text[1].clone()).unwrap();
            let back = tokenizer.detokenize(&ids, false).unwrap();
            assert_eq!(json!(back), of_text[3], "{name} {text:?}");
        }
    }
}

#[test]
fn its_roles_name_tokens_that_no_other_file_names() {
    let mut file = cases()[0]["file"].clone();
    file["role_to_token"] = json!({"eos_token": "<e>", "bos_token": "a"});
    let tokenizer = load(&file).unwrap();
    let id = tokenizer.token_to_id("<e>").unwrap();
    assert_eq!(
        (tokenizer.eos_ids(), tokenizer.bos_token()),
        (vec![id], Some("a"))
    );
    let config = json!({"bos_token": "b"});
    let bytes = serde_json::to_vec(&file).unwrap();
    let tokenizer = Tokenizer::from_bytes(&bytes, config.as_object()).unwrap();
    assert_eq!(
        (tokenizer.eos_token(), tokenizer.bos_token()),
        (Some("<e>"), Some("b"))
    );
}

#[test]
fn what_is_not_understood_is_refused_by_its_name() {
    let of = |name: &str| {
        let mut cases = cases().into_iter();
        cases.find(|case| case["name"] == name).unwrap()["file"].clone()
    };
    let change = |name: &str, change: &dyn Fn(&mut Value)| {
        let mut file = of(name);
        change(&mut file);
        load(&file).unwrap_err()
    };
    let (level, space) = ("byte-level", "Metaspace");
    for (error, word) in [
        (
            change(level, &|f| f["model"]["byte_level"] = json!(1)),
            "byte_level",
        ),
        (
            change(level, &|f| f["pre_tokenizer"] = json!({"type": "Coming"})),
            "pre_tokenizer",
        ),
        (
            change(level, &|f| f["normalizer"] = json!({"type": "Coming"})),
            "normalizer",
        ),
        (
            change(level, &|f| {
                f["post_processor"]["single"][0] = json!({"text": "A"})
            }),
            "post_processor",
        ),
        (
            change(space, &|f| {
                f["pre_tokenizer"] = json!({"type": "Whitespace"})
            }),
            "MetaspaceNormalizer",
        ),
        (
            change(space, &|f| {
                f["pre_tokenizer"]["behavior"] = json!("Removed")
            }),
            "MetaspaceNormalizer",
        ),
        (
            change(space, &|f| {
                f["normalizer"]["drop_whitespace"] = json!(true);
                f["normalizer"]["prepend"] = json!("first");
            }),
            "drop_whitespace",
        ),
        (
            change(space, &|f| {
                let own = f["normalizer"].clone();
                f["normalizer"] =
                    json!({"type": "Sequence", "normalizers": [own, {"type": "Lowercase"}]});
            }),
            "the last normalizer",
        ),
    ] {
        assert_eq!(error.code, Code::Unsupported, "{error}");
        let start = "tokenizer.json: was written by tokenizers 1.x (version \"2.0\"), ";
        assert!(
            error.message.starts_with(start) && error.message.contains(word),
            "{error}"
        );
    }
    let mut later = of(level);
    later["version"] = json!("3.0");
    let error = load(&later).unwrap_err();
    assert_eq!(
        (error.code, error.message.as_str()),
        (
            Code::BadModel,
            "tokenizer.json: version must be \"1.0\", or \"2.0\" as tokenizers 1.x writes it, not \"3.0\""
        )
    );
}
