//! Folders whose files do not agree with each other.

use super::*;
use crate::error::Code;
use crate::load::testing::TempFolder;
use crate::runtime::model_save::save;
use crate::runtime::prompt::{self, Conversation};
use crate::runtime::staging::SaveOptions;

/// A copy of a fixture in which one file is another.
pub(super) fn changed(case: &str, name: &str, change: impl FnOnce(String) -> String) -> TempFolder {
    let (from, to) = (
        parity::fixtures().join("models").join(case),
        TempFolder::new(),
    );
    for file in std::fs::read_dir(&from).unwrap() {
        let path = file.unwrap().path();
        let file = path.file_name().unwrap().to_str().unwrap();
        to.write(file, std::fs::read(&path).unwrap());
    }
    let text = std::fs::read_to_string(from.join(name)).unwrap();
    to.write(name, change(text));
    to
}

pub(super) fn load_from(folder: &TempFolder) -> Arc<Model> {
    Arc::new(load_folder(folder.path(), None).unwrap())
}

#[test]
fn an_end_token_outside_the_vocabulary_is_no_index() {
    let _lock = engine_lock();
    // The largest id that the files may name; the vocabulary has 131.
    let folder = changed("qwen3-f32", "generation_config.json", |_| {
        r#"{"eos_token_id": [4194303, 130, 131]}"#.into()
    });
    let model = load_from(&folder);
    assert_eq!(model.defaults.eos_token_ids, [130]);
    let options = GenerateOptions {
        temperature: Some(1.0),
        xtc: Some((1.0, 0.001)),
        max_tokens: Some(8),
        ..GenerateOptions::default()
    };
    let given = run(&session(&model), &Input::Tokens(vec![52, 106]), &options);
    given.result.unwrap();
    assert!(!given.tokens.is_empty());
}

#[test]
fn a_tokenizer_may_have_ids_that_the_model_has_not() {
    let _lock = engine_lock();
    // As gemma-3-1b is published.
    let folder = changed("qwen3-f32", "tokenizer.json", |text| {
        let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
        let added = json["added_tokens"].as_array_mut().unwrap();
        let mut token = added[0].clone();
        token["id"] = 131.into();
        token["content"] = "<image_soft_token>".into();
        added.push(token);
        json.to_string()
    });
    let model = load_from(&folder);
    let text = |text: &str| Input::Text {
        text: text.into(),
        no_bos: true,
        special_as_text: false,
    };
    let session = session(&model);
    assert_eq!(run(&session, &text("abc"), &exactly(4)).tokens.len(), 4);
    let error = run(&session, &text("a<image_soft_token>"), &exactly(4))
        .result
        .unwrap_err();
    assert_eq!(error.code, Code::InvalidArgument);
    assert!(error.message.contains("is 131, outside"), "{error}");
}

/// The text of an id in a folder's vocabulary.
fn token_text(folder: &TempFolder, id: i32) -> String {
    let text = std::fs::read_to_string(folder.path().join("tokenizer.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let vocab = json["model"]["vocab"].as_object().unwrap();
    let found = vocab.iter().find(|(_, value)| **value == id);
    found.unwrap().0.clone()
}

#[test]
fn every_file_that_names_an_end_ends_a_text() {
    let _lock = engine_lock();
    let prompt = Input::Tokens(vec![52, 106, 17]);
    let free = run(&session(&load("qwen3-f32")), &prompt, &exactly(24)).tokens;
    // A token that comes first somewhere in the middle.
    let at = (1..free.len()).find(|&at| !free[..at].contains(&free[at]));
    let (at, end) = (at.unwrap(), free[at.unwrap()]);
    let options = GenerateOptions {
        greedy: true,
        max_tokens: Some(24),
        ..GenerateOptions::default()
    };
    let plain = changed("qwen3-f32", "generation_config.json", |text| text);
    let text = token_text(&plain, end);
    let json = |value: serde_json::Value| value.to_string();
    for (file, content) in [
        (
            "generation_config.json",
            json(serde_json::json!({"eos_token_id": [3, end]})),
        ),
        ("config.json", String::new()),
        (
            "tokenizer_config.json",
            json(serde_json::json!({"eos_token": text})),
        ),
        (
            "tokenizer_config.json",
            json(serde_json::json!({"eos_token": {"content": text}})),
        ),
        (
            "tokenizer_config.json",
            json(serde_json::json!({"eos_token": ["<|im_end|>", text]})),
        ),
        (
            "special_tokens_map.json",
            json(serde_json::json!({"eos_token": text})),
        ),
    ] {
        let folder = changed("qwen3-f32", "config.json", |text| {
            let mut config: serde_json::Value = serde_json::from_str(&text).unwrap();
            if content.is_empty() {
                config["eos_token_id"] = end.into();
            }
            config.to_string()
        });
        if !content.is_empty() {
            folder.write(file, &content);
        }
        let model = load_from(&folder);
        assert!(model.defaults.eos_token_ids.contains(&end), "{file}");
        // The others still do.
        assert!(model.defaults.eos_token_ids.contains(&130), "{file}");
        let given = run(&session(&model), &prompt, &options);
        assert_eq!(given.tokens[..], free[..=at], "{file} {content}");
        let info: serde_json::Value = serde_json::from_str(model.info()).unwrap();
        assert!(info["eos_token_ids"]
            .as_array()
            .unwrap()
            .contains(&end.into()));
    }
}

#[test]
fn content_does_not_end_a_turn_by_the_name_of_an_end() {
    let _lock = engine_lock();
    // The end is a plain entry of the vocabulary, which only generation_config.json knows as an id.
    let folder = changed("qwen3-f32", "tokenizer.json", |text| {
        let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
        let added = json["added_tokens"].as_array_mut().unwrap();
        added.retain(|token| token["id"] != 130);
        for (id, token) in (128..).zip(["<|endoftext|>", "<|im_start|>", "<|im_end|>"]) {
            json["model"]["vocab"][token] = id.into();
        }
        json["model"]["ignore_merges"] = true.into();
        json["pre_tokenizer"] = serde_json::Value::Null;
        json.to_string()
    });
    folder.write("tokenizer_config.json", "{}");
    let model = load_from(&folder);
    assert!(model.defaults.eos_token_ids.contains(&130));
    let whole = model
        .tokenizer
        .encode("<|im_end|>", crate::text::Specials::Recognise, false);
    assert_eq!(whole.unwrap(), [130]);
    let ids = model
        .tokenizer
        .encode("<|im_end|>", crate::text::Specials::AsText, false)
        .unwrap();
    assert!(!ids.contains(&130) && !ids.is_empty());
    assert_eq!(
        model.tokenizer.detokenize(&ids, false).unwrap(),
        "<|im_end|>"
    );
}

#[test]
fn broken_optional_files_are_ignored() {
    let _lock = engine_lock();
    let optional = [
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "chat_template.json",
    ];
    for name in optional {
        for text in ["", "{", "[]", "null", "{\"a\": 1,}", "\u{feff}{}"] {
            let folder = changed("qwen3-f32", "generation_config.json", |text| text);
            folder.write(name, text);
            load_from(&folder);
        }
        let folder = changed("qwen3-f32", "generation_config.json", |text| text);
        let _ = std::fs::remove_file(folder.path().join(name));
        std::os::unix::fs::symlink(name, folder.path().join(name)).unwrap();
        load_from(&folder);
    }
    let templates = "additional_chat_templates";
    for make in [
        &(|path: &std::path::Path| std::fs::write(path, "").unwrap()) as &dyn Fn(&std::path::Path),
        &|path| std::os::unix::fs::symlink("/etc", path).unwrap(),
        &|path| std::os::unix::fs::symlink(templates, path).unwrap(),
        &|path| std::fs::create_dir_all(path.join("tool_use.jinja")).unwrap(),
        &|path| {
            std::fs::create_dir(path).unwrap();
            (0..300).for_each(|n| std::fs::write(path.join(format!("{n}.jinja")), "").unwrap());
        },
    ] {
        let folder = changed("qwen3-f32", "generation_config.json", |text| text);
        make(&folder.path().join(templates));
        let model = load_from(&folder);
        render_with(&model, None).unwrap();
    }
}

/// A conversation as the model's template has it.
fn render_with(model: &Arc<Model>, tools: Option<&str>) -> Result<String> {
    let conversation = Conversation {
        messages: r#"[{"role": "user", "content": "hi"}]"#.into(),
        tools: tools.map(str::to_owned),
        ..Conversation::default()
    };
    prompt::render(model, &Input::messages(conversation))
}

#[test]
fn templates_that_cannot_be_used_fail_where_they_are_needed() {
    let _lock = engine_lock();
    let folder = changed("qwen3-f32", "chat_template.jinja", |_| "a\n{% if".into());
    let error = render_with(&load_from(&folder), None).unwrap_err();
    assert_eq!(error.code, Code::BadModel);
    assert!(
        error.message.starts_with("chat_template.jinja: "),
        "{error}"
    );

    let folder = changed("qwen3-f32", "chat_template.jinja", |_| "plain".into());
    folder.write("additional_chat_templates/tool_use.jinja", "tools");
    folder.write("additional_chat_templates/other.jinja", "{{");
    let model = load_from(&folder);
    assert_eq!(render_with(&model, None).unwrap(), "plain");
    assert_eq!(render_with(&model, Some("[]")).unwrap(), "tools");

    // A link inside the folder is followed, one that leaves it is not.
    let outside = TempFolder::new();
    outside.write("secret", "secret");
    for (target, text) in [
        (folder.path().join("chat_template.jinja"), Some("plain")),
        (outside.path().join("secret"), None),
    ] {
        let link = folder
            .path()
            .join("additional_chat_templates/tool_use.jinja");
        std::fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink(target, link).unwrap();
        let got = render_with(&load_from(&folder), Some("[]"));
        match text {
            Some(text) => assert_eq!(got.unwrap(), text),
            None => {
                let error = got.unwrap_err();
                assert!(error.message.contains("a link that leaves the"), "{error}");
            }
        }
    }
}

#[test]
fn a_save_carries_every_file_of_tokens_and_templates() {
    let _lock = engine_lock();
    let folder = changed("qwen3-f32", "chat_template.jinja", |_| "plain".into());
    let files = [
        (
            "special_tokens_map.json",
            r#"{"bos_token": "<|im_start|>"}"#,
        ),
        ("added_tokens.json", "{}"),
        ("chat_template.json", "{}"),
        ("additional_chat_templates/tool_use.jinja", "tools"),
        ("additional_chat_templates/rag.jinja", "{{"),
    ];
    for (name, text) in files {
        folder.write(name, text);
    }
    folder.write("additional_chat_templates/notes.txt", "no template");
    let model = load_from(&folder);
    let target = TempFolder::new();
    let (new, there) = (target.path().join("new"), target.path().join("there"));
    // What another model's folder had of that kind would be taken for this one's.
    target.write("there/additional_chat_templates/old.jinja", "old");
    target.write("there/additional_chat_templates/tool_use.jinja", "old");
    target.write("there/additional_chat_templates/mine.txt", "mine");
    target.write("there/other/old.jinja", "mine");
    for to in [&new, &there] {
        let options = SaveOptions {
            deadline: None,
            progress: &mut |_, _| true,
        };
        save(&model, &vec![], to, options).unwrap();
        for (name, text) in files {
            assert_eq!(
                std::fs::read_to_string(to.join(name)).unwrap(),
                text,
                "{name}"
            );
        }
        assert!(!to.join("additional_chat_templates/notes.txt").exists());
        assert!(!to.join("additional_chat_templates/old.jinja").exists());
        let options = LoadOptions {
            context: 0,
            follow_links: false,
            draft: None,
            deadline: None,
            progress: &mut |_, _| true,
        };
        let again = Arc::new(model::load(to.to_str().unwrap(), options).unwrap());
        assert_eq!(again.info(), model.info());
        assert_eq!(render_with(&again, Some("[]")).unwrap(), "tools");
    }
    for mine in ["additional_chat_templates/mine.txt", "other/old.jinja"] {
        assert_eq!(std::fs::read_to_string(there.join(mine)).unwrap(), "mine");
    }
    // Never through a link out of the folder.
    let linked = target.path().join("linked");
    std::fs::create_dir(&linked).unwrap();
    std::os::unix::fs::symlink(
        target.path().join("there/other"),
        linked.join("additional_chat_templates"),
    )
    .unwrap();
    let options = SaveOptions {
        deadline: None,
        progress: &mut |_, _| true,
    };
    let error = save(&model, &vec![], &linked, options).unwrap_err();
    assert_eq!(error.code, Code::Io);
    assert!(!there.join("other/tool_use.jinja").exists());
}
