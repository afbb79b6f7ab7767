//! Folders whose files do not agree with each other.

use super::*;
use crate::error::Code;
use crate::load::testing::TempFolder;

/// A copy of a fixture in which one file is another.
fn changed(case: &str, name: &str, change: impl FnOnce(String) -> String) -> TempFolder {
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
    let options = LoadOptions {
        context: 0,
        follow_links: false,
        deadline: None,
        progress: &mut |_, _| true,
    };
    Arc::new(model::load(folder.path().to_str().unwrap(), options).unwrap())
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
