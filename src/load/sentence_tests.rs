#![allow(clippy::unwrap_used)]

use super::super::testing::TempFolder;
use super::*;
use crate::error::Code;

fn folder(files: &[(&str, &str)]) -> TempFolder {
    let folder = TempFolder::new();
    for (name, text) in files {
        folder.write(name, text);
    }
    folder
}

fn modules(kinds: &[(&str, &str)]) -> String {
    let list = kinds.iter().map(|(path, kind)| {
        format!(
            r#"{{"idx":0,"name":"0","path":"{path}","type":"sentence_transformers.models.{kind}"}}"#
        )
    });
    format!("[{}]", list.collect::<Vec<_>>().join(","))
}

const PLAIN: [(&str, &str); 2] = [("", "Transformer"), ("1_Pooling", "Pooling")];

#[test]
fn a_folder_without_modules_says_nothing() {
    let folder = folder(&[("config_sentence_transformers.json", "{")]);
    assert_eq!(read(&folder.open(), 8), Ok(None));
}

#[test]
fn old_and_new_words_for_pooling() {
    for (text, wanted) in [
        ("{}", SentencePooling::Mean),
        (r#"{"pooling_mode_cls_token":true}"#, SentencePooling::Cls),
        (
            r#"{"pooling_mode_lasttoken":true,"pooling_mode_mean_tokens":false}"#,
            SentencePooling::Last,
        ),
        (
            r#"{"pooling_mode":"cls","pooling_mode_mean_tokens":true}"#,
            SentencePooling::Cls,
        ),
        (r#"{"pooling_mode":["lasttoken"]}"#, SentencePooling::Last),
    ] {
        let folder = folder(&[
            ("modules.json", &modules(&PLAIN)),
            ("1_Pooling/config.json", text),
        ]);
        let read = read(&folder.open(), 8).unwrap().unwrap();
        assert_eq!(read.pooling, wanted, "{text}");
        assert!(!read.normalize && read.prompt.is_none() && !read.lower);
        assert_eq!(read.folders, ["1_Pooling"]);
    }
}

#[test]
fn all_that_a_folder_may_say() {
    let kinds = [
        PLAIN[0],
        PLAIN[1],
        ("2_Dense", "Dense"),
        ("3_Normalize", "Normalize"),
    ];
    let folder = folder(&[
        ("modules.json", &modules(&kinds)),
        ("1_Pooling/config.json", r#"{"pooling_mode":"mean"}"#),
        (
            "2_Dense/config.json",
            r#"{"in_features":8,"out_features":3,"bias":false,"activation_function":"torch.nn.modules.linear.Identity"}"#,
        ),
        ("sentence_bert_config.json", r#"{"do_lower_case":true}"#),
        (
            "config_sentence_transformers.json",
            r#"{"prompts":{"a":"x: ","b":""},"default_prompt_name":"a"}"#,
        ),
    ]);
    let read = read(&folder.open(), 8).unwrap().unwrap();
    assert_eq!(read.prompt.as_deref(), Some("x: "));
    assert!(read.lower && read.normalize);
    let dense = DenseModule {
        folder: "2_Dense".into(),
        input: 8,
        output: 3,
        bias: false,
        tanh: false,
    };
    assert_eq!(read.dense, [dense]);
}

#[test]
fn what_is_wrong_is_named() {
    let pooling = ("1_Pooling/config.json", r#"{"pooling_mode":"mean"}"#);
    let with = |kinds: &[(&str, &str)], more: &[(&str, &str)]| {
        let list = modules(kinds);
        let mut files = vec![("modules.json", list.as_str()), pooling];
        files.extend(more);
        let folder = folder(&files);
        read(&folder.open(), 8).unwrap_err()
    };
    let dense = |text| ("2_Dense/config.json", text);
    let of_dense = [PLAIN[0], PLAIN[1], ("2_Dense", "Dense")];
    for (kinds, more, code, word) in [
        (&[PLAIN[0]][..], &[][..], Code::Unsupported, "no Pooling"),
        (
            &[("0_Transformer", "Transformer")],
            &[],
            Code::Unsupported,
            "0_Transformer",
        ),
        (&[("", "CLIPModel")], &[], Code::Unsupported, "CLIPModel"),
        (
            &[PLAIN[0], PLAIN[0]],
            &[],
            Code::Unsupported,
            "as the first",
        ),
        (
            &[PLAIN[0], PLAIN[1], ("2", "LSTM")],
            &[],
            Code::Unsupported,
            "LSTM",
        ),
        (
            &[PLAIN[0], PLAIN[1], PLAIN[1]],
            &[],
            Code::Unsupported,
            "once",
        ),
        (
            &[PLAIN[0], ("../x", "Pooling")],
            &[],
            Code::BadModel,
            "../x",
        ),
        (
            &[PLAIN[0], ("gone", "Pooling")],
            &[],
            Code::BadModel,
            "gone",
        ),
        (
            &PLAIN,
            &[("1_Pooling/config.json", "[]")],
            Code::BadModel,
            "1_Pooling/config.json",
        ),
        (
            &PLAIN,
            &[("1_Pooling/config.json", r#"{"pooling_mode":"max"}"#)],
            Code::Unsupported,
            "max",
        ),
        (
            &PLAIN,
            &[(
                "1_Pooling/config.json",
                r#"{"pooling_mode":["cls","mean"]}"#,
            )],
            Code::Unsupported,
            "cls, mean",
        ),
        (
            &PLAIN,
            &[(
                "config_sentence_transformers.json",
                r#"{"default_prompt_name":3}"#,
            )],
            Code::BadModel,
            "default_prompt_name",
        ),
        (
            &PLAIN,
            &[("sentence_bert_config.json", r#"{"do_lower_case":"yes"}"#)],
            Code::BadModel,
            "do_lower_case",
        ),
        (
            &of_dense,
            &[dense(r#"{"in_features":7,"out_features":3}"#)],
            Code::BadModel,
            "in_features",
        ),
        (
            &of_dense,
            &[dense(r#"{"in_features":8}"#)],
            Code::BadModel,
            "out_features",
        ),
        (
            &of_dense,
            &[dense(
                r#"{"in_features":8,"out_features":3,"use_residual":true}"#,
            )],
            Code::Unsupported,
            "use_residual",
        ),
        (
            &of_dense,
            &[dense(
                r#"{"in_features":8,"out_features":3,"module_input_name":"token_embeddings"}"#,
            )],
            Code::Unsupported,
            "module_input_name",
        ),
    ] {
        let error = with(kinds, more);
        assert_eq!(error.code, code, "{error}");
        assert!(error.message.contains(word), "{word}: {error}");
    }
    let many = vec![PLAIN[0]; 17];
    assert!(with(&many, &[]).message.contains("17 modules"));
}
