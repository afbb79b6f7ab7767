//! Tokens and templates wherever a folder keeps them: as in transformers where that loads it, and ignored with a sentence
//! where they are broken.

use serde_json::{json, Map, Value};

use crate::error::{Code, Error, Result};
use crate::template::{Json, Now};
use crate::text::{
    ChatTemplate, Message, Piece, Specials, TemplateFiles, TemplateOptions, TokenFiles, Tokenizer,
};

/// `tests/fixtures/text/token_files.py` asked transformers.
fn fixture() -> Value {
    let text = include_str!("../../../tests/fixtures/text/token_files.json");
    serde_json::from_str(text).unwrap()
}

fn object(value: &Value) -> Option<Map<String, Value>> {
    value.as_object().cloned()
}

fn token_files(config: &Value, files: &Value) -> TokenFiles {
    TokenFiles {
        config: object(config),
        special_tokens_map: object(&files["special_tokens_map.json"]),
        added_tokens: object(&files["added_tokens.json"]),
    }
}

fn load(tokenizer: &Value, files: &TokenFiles) -> (Tokenizer, Vec<String>) {
    let mut warnings = Vec::new();
    let bytes = serde_json::to_vec(tokenizer).unwrap();
    let tokenizer = Tokenizer::new(&bytes, files, Some(1000), &mut warnings).unwrap();
    (tokenizer, warnings)
}

#[test]
fn tokens_are_those_of_transformers() {
    for case in fixture()["tokens"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let files = token_files(&case["config"], &case["files"]);
        let (tokenizer, _) = load(&case["tokenizer"], &files);
        let added: Map<String, Value> = tokenizer
            .added_tokens()
            .iter()
            .map(|(id, t)| {
                let flags = json!([
                    t.content,
                    t.special,
                    t.normalized,
                    t.lstrip,
                    t.rstrip,
                    t.single_word
                ]);
                (id.to_string(), flags)
            })
            .collect();
        let mut wanted = case["added"].clone();
        if name == "the same text twice" {
            // What one entry calls special stays so, as it does in transformers' own decoding.
            wanted["12"][1] = true.into();
        }
        assert_eq!(Value::from(added), wanted, "{name}");
        let named: Map<String, Value> = tokenizer
            .named_tokens()
            .iter()
            .map(|(name, text)| (name.clone(), text.as_str().into()))
            .collect();
        assert_eq!(Value::from(named), case["named"], "{name}");
        if let Some(eos) = case["eos"].as_i64() {
            assert!(tokenizer.eos_ids().contains(&(eos as i32)), "{name}");
        }
        for pair in case["texts"].as_array().unwrap() {
            let text = pair[0].as_str().unwrap();
            let wanted: Vec<i32> = serde_json::from_value(pair[1].clone()).unwrap();
            // What the template writes is what transformers makes of a text.
            let of_template = [Piece::new(text, crate::template::Origin::Template)];
            for ids in [
                tokenizer.encode(text, Specials::Recognise, false).unwrap(),
                tokenizer
                    .encode_pieces(&of_template, false, usize::MAX)
                    .unwrap(),
            ] {
                assert_eq!(ids, wanted, "{name}: {text:?}");
            }
        }
    }
}

fn templates<'a>(
    config: &'a Value,
    files: &'a Value,
    legacy: Option<&'a Map<String, Value>>,
) -> TemplateFiles<'a> {
    let bytes = |text: &Value| Ok(text.as_str().unwrap().as_bytes().to_vec());
    let additional = files
        .as_object()
        .unwrap()
        .iter()
        .filter_map(|(file, text)| {
            let name = file.strip_prefix("additional_chat_templates/")?;
            let name = name.strip_suffix(".jinja")?.to_owned();
            let read = matches!(name.as_str(), "default" | "tool_use").then(|| bytes(text));
            Some((name, read))
        });
    TemplateFiles {
        jinja: files.get("chat_template.jinja").map(bytes),
        additional: additional.collect(),
        config: config.as_object(),
        legacy,
    }
}

fn rendered(template: &ChatTemplate, tools: Option<&str>) -> Result<String> {
    let messages = Message::parse_list(br#"[{"role": "user", "content": "a"}]"#)?;
    let tools = tools.map(|tools| Json::parse(tools.as_bytes()).unwrap());
    let options = TemplateOptions {
        tools: tools.as_ref(),
        ..TemplateOptions::default()
    };
    let pieces = template.render(&messages, options, &|| Now::from_unix(0, 0))?;
    Ok(pieces.into_iter().map(|piece| piece.text).collect())
}

#[test]
fn templates_are_those_of_transformers() {
    let words = fixture()["tokens"][0]["tokenizer"].clone();
    for case in fixture()["templates"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let (config, files) = (&case["config"], &case["files"]);
        let (tokenizer, _) = load(&words, &token_files(config, files));
        let found = ChatTemplate::find(templates(config, files, None), tokenizer.named_tokens());
        assert_eq!(Value::from(found.is_some()), case["there"], "{name}");
        let Some(found) = found else { continue };
        for (key, tools) in [
            ("without", None),
            ("no_tools", Some("[]")),
            (
                "with",
                Some(r#"[{"type": "function", "function": {"name": "f"}}]"#),
            ),
        ] {
            let got = rendered(&found, tools);
            match case[key].as_str() {
                Some(text) => assert_eq!(got.as_deref(), Ok(text), "{name} {key}"),
                None => {
                    let error = got.unwrap_err();
                    assert!(
                        matches!(error.code, Code::BadModel | Code::Unsupported),
                        "{name} {key}: {error}"
                    );
                    assert!(found.problems().any(|problem| *problem == error), "{name}");
                }
            }
        }
    }
}

/// transformers reads that file for processors only; there is no reason to leave it unread where there is nothing else.
#[test]
fn the_file_of_processors_is_the_last_that_is_looked_at() {
    let (none, legacy) = (json!({}), json!({"chat_template": "P {{ eos_token }}"}));
    let named = [("eos_token".to_owned(), "</s>".to_owned())];
    let find = |config: &Value, files: &Value| {
        let files = templates(config, files, legacy.as_object());
        rendered(&ChatTemplate::find(files, &named).unwrap(), None).unwrap()
    };
    assert_eq!(find(&none, &none), "P </s>");
    assert_eq!(find(&json!({"chat_template": "C"}), &none), "C");
    assert_eq!(find(&none, &json!({"chat_template.jinja": "J"})), "J");
}

#[test]
fn what_is_wrong_with_a_template_shows_when_it_is_needed() {
    let error = |config: Value, files: Value, tools| {
        let found = ChatTemplate::find(templates(&config, &files, None), &[]).unwrap();
        rendered(&found, tools).unwrap_err()
    };
    let none = json!({});
    for (got, start) in [
        (
            error(
                none.clone(),
                json!({"chat_template.jinja": "a\n{% if"}),
                None,
            ),
            "chat_template.jinja: ",
        ),
        (
            error(
                none.clone(),
                json!({"chat_template.jinja": "J", "additional_chat_templates/tool_use.jinja": "{{"}),
                Some("[]"),
            ),
            "additional_chat_templates/tool_use.jinja: ",
        ),
        (
            error(json!({"chat_template": {"default": 7}}), none.clone(), None),
            "tokenizer_config.json: chat_template must be a text, a list or an object of texts",
        ),
        (
            error(
                json!({"chat_template": [{"template": "x"}]}),
                none.clone(),
                None,
            ),
            "tokenizer_config.json: each chat_template must have a name and a template",
        ),
        (
            error(json!({"chat_template": {"rag": "R", "b": "B"}}), none, None),
            "the folder's chat templates (\"rag\", \"b\") have none named \"default\"",
        ),
    ] {
        assert!(got.message.starts_with(start), "{got}");
    }
    let unreadable = TemplateFiles {
        jinja: Some(Err(Error::bad_model("chat_template.jinja: is a folder"))),
        ..TemplateFiles::default()
    };
    let found = ChatTemplate::find(unreadable, &[]).unwrap();
    assert_eq!(found.problems().count(), 1);
    assert_eq!(
        rendered(&found, None).unwrap_err().message,
        "chat_template.jinja: is a folder"
    );
}

#[test]
fn ends_are_found_in_every_form_and_file() {
    let words = fixture()["tokens"][0]["tokenizer"].clone();
    let ends = |config: Value, files: Value| {
        let (tokenizer, warnings) = load(&words, &token_files(&config, &files));
        assert!(warnings.is_empty(), "{warnings:?}");
        tokenizer.eos_ids()
    };
    let none = json!({});
    assert!(ends(none.clone(), none.clone()).is_empty());
    for form in [json!("<e>"), json!({"content": "<e>"}), json!(["<e>"])] {
        assert_eq!(ends(json!({"eos_token": form}), none.clone()), [5]);
        let map = json!({"special_tokens_map.json": {"eos_token": form}});
        assert_eq!(ends(none.clone(), map.clone()), [5]);
        // Also where transformers would take one of them.
        assert_eq!(ends(json!({"eos_token": "</s>"}), map.clone()), [4, 5]);
        let config = json!({"eos_token": "</s>", "added_tokens_decoder": {}});
        assert_eq!(ends(config, map), [4, 5]);
    }
    let list = json!({"eos_token": ["<e>", {"content": "</s>"}, "<e>"]});
    assert_eq!(ends(list, none), [5, 4]);
}

#[test]
fn broken_entries_are_ignored_with_a_sentence() {
    let words = fixture()["tokens"][0]["tokenizer"].clone();
    let long = "x".repeat(257);
    let mut lower = words.clone();
    lower["normalizer"] = json!({"type": "Lowercase"});
    for (tokenizer, config, files, wanted) in [
        (
            &words,
            json!({"added_tokens_decoder": 7}),
            json!({}),
            "added_tokens_decoder",
        ),
        (
            &words,
            json!({"added_tokens_decoder": {"12": "<x>"}}),
            json!({}),
            "\"12\"",
        ),
        (
            &words,
            json!({"added_tokens_decoder": {"x": {"content": "<x>"}, "-1": {"content": "<x>"}}}),
            json!({}),
            "\"x\" and 1 more",
        ),
        (
            &words,
            json!({"added_tokens_decoder": {"12": {"content": "<x>", "lstrip": "yes"}}}),
            json!({}),
            "\"12\"",
        ),
        (
            &words,
            json!({"added_tokens_decoder": {"12": {"content": 7}}}),
            json!({}),
            "\"12\"",
        ),
        (
            &words,
            json!({"added_tokens_decoder": {"12": {"content": long}}}),
            json!({}),
            "longer than 256 bytes",
        ),
        (
            &words,
            json!({"added_tokens_decoder": {"012": {"content": "<x>"}, "12": {"content": "<y>"}}}),
            json!({}),
            "another token has its id",
        ),
        (
            &words,
            json!({"added_tokens_decoder": {"500": {"content": "<x>"}}}),
            json!({}),
            "another id than the file says",
        ),
        (
            &lower,
            json!({"added_tokens_decoder": {"12": {"content": "<X>"}, "13": {"content": "<x>"}}}),
            json!({}),
            "the same after normalisation",
        ),
        (
            &words,
            json!({"eos_token": [], "bos_token": 7}),
            json!({}),
            "\"bos_token\"",
        ),
        (
            &words,
            json!({"eos_token": {"content": 7}}),
            json!({}),
            "\"eos_token\"",
        ),
        (
            &words,
            json!({"extra_special_tokens": [7, null, "<e>"]}),
            json!({}),
            "7",
        ),
        (
            &words,
            json!({}),
            json!({"added_tokens.json": {"<x>": "y"}}),
            "\"<x>\"",
        ),
        (
            &words,
            json!({}),
            json!({"special_tokens_map.json": {"eos_token": true}}),
            "\"eos_token\"",
        ),
    ] {
        let (tokenizer, warnings) = load(tokenizer, &token_files(&config, &files));
        assert!(
            warnings.len() == 1 && warnings[0].contains(wanted),
            "{config} {files}: {warnings:?}"
        );
        assert!(tokenizer.encode("ab", Specials::Recognise, true).is_ok());
    }
}

#[test]
fn a_hundred_thousand_entries_are_bounded() {
    let words = fixture()["tokens"][0]["tokenizer"].clone();
    let decoder: Map<String, Value> = (12..100_012)
        .map(|id| (id.to_string(), json!({"content": format!("<{id}>")})))
        .collect();
    let config = json!({ "added_tokens_decoder": decoder });
    let (tokenizer, warnings) = load(&words, &token_files(&config, &json!({})));
    // The model has a thousand rows.
    assert_eq!(tokenizer.vocab_size(), 1000);
    assert!(
        warnings.len() == 1 && warnings[0].contains("no row for it: \"<1000>\" and 99011 more"),
        "{warnings:?}"
    );
    assert_eq!(tokenizer.token_to_id("<999>"), Some(999));
    assert_eq!(tokenizer.token_to_id("<1000>"), None);
    // And where it has them, their bytes are bounded.
    let decoder: Map<String, Value> = (12..20_012)
        .map(|id| (id.to_string(), json!({"content": format!("{id:0200}")})))
        .collect();
    let files = token_files(&json!({ "added_tokens_decoder": decoder }), &json!({}));
    let bytes = serde_json::to_vec(&words).unwrap();
    let mut warnings = Vec::new();
    let tokenizer = Tokenizer::new(&bytes, &files, None, &mut warnings).unwrap();
    assert_eq!(tokenizer.vocab_size(), 12 + (2 << 20) / 200);
    assert!(
        warnings[0].contains("more than 2097152 bytes"),
        "{warnings:?}"
    );
}

#[test]
fn long_lists_cost_little() {
    let words = fixture()["tokens"][0]["tokenizer"].clone();
    let named: Map<String, Value> = (0..100_000)
        .map(|n| (format!("a{n}"), json!("<e>")))
        .collect();
    let ends: Vec<String> = (0..100_000).map(|n| format!("<{}>", n % 2000)).collect();
    let templates: Vec<Value> = (0..100_000)
        .map(|n| json!({"name": format!("t{n}"), "template": ""}))
        .collect();
    let config = json!({
        "extra_special_tokens": named, "eos_token": ends, "added_tokens_decoder": {},
        "additional_special_tokens": ends, "chat_template": templates,
    });
    let (tokenizer, warnings) = load(&words, &token_files(&config, &json!({})));
    assert_eq!(tokenizer.named_tokens().len(), 256);
    assert!(
        warnings.len() == 1 && warnings[0].contains("more than 256"),
        "{warnings:?}"
    );
    assert!(tokenizer.eos_ids().len() <= 1024);
    let files = TemplateFiles {
        config: config.as_object(),
        ..TemplateFiles::default()
    };
    let found = ChatTemplate::find(files, tokenizer.named_tokens()).unwrap();
    let error = rendered(&found, None).unwrap_err();
    assert!(error.message.len() < 400, "{error}");
}
