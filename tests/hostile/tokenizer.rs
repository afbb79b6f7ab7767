//! tokenizer.json and tokenizer_config.json.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use serde_json::{json, Value};

use crate::folder::{loads, refused_at_sight, survives, Folder};
use crate::{damage, templates, Class};

pub const CLASS: Class = Class {
    row: "9",
    name: "tokenizer.json, tokenizer_config.json",
    generators: &[
        absurd_ids,
        parts_of_other_types,
        merges,
        patterns,
        growth,
        tokenizer_config,
        optional_files,
        damage::tokenizer,
        templates::tokenizers,
    ],
    programs: &[],
};

const BAD: &[&str] = &["BAD_MODEL", "UNSUPPORTED"];

fn broken(what: &str, edit: impl FnOnce(&mut Value)) {
    let folder = Folder::copy_of("qwen3-f32");
    folder.edit("tokenizer.json", edit);
    refused_at_sight(what, folder.path(), BAD, &["tokenizer.json"]);
}

/// (Ids that the model has no row for are no reason to refuse: published gemma 3 folders have one.)
fn absurd_ids() {
    for id in [4_194_304_u64, 1 << 31, 1 << 32, u64::MAX] {
        broken(&format!("an added token {id}"), |json| {
            json["added_tokens"][0]["id"] = json!(id)
        });
        broken(&format!("a token {id}"), |json| {
            json["model"]["vocab"]["!"] = json!(id)
        });
    }
    for id in [json!(-1), json!("1"), json!(1.5), json!(null), json!([])] {
        broken(&format!("an added token {id}"), |json| {
            json["added_tokens"][0]["id"] = id.clone()
        });
        broken(&format!("a token {id}"), |json| {
            json["model"]["vocab"]["!"] = id.clone()
        });
    }
}

fn parts_of_other_types() {
    for value in [
        json!(7),
        json!("x"),
        json!([]),
        json!({}),
        json!({"type": "Nothing"}),
    ] {
        for part in [
            "model",
            "normalizer",
            "pre_tokenizer",
            "post_processor",
            "decoder",
        ] {
            broken(&format!("{part} = {value}"), |json| {
                json[part] = value.clone()
            });
        }
    }
    for value in [json!(7), json!("x"), json!({}), json!([7]), json!([{}])] {
        broken(&format!("added_tokens = {value}"), |json| {
            json["added_tokens"] = value.clone()
        });
    }
    broken("no model", |json| {
        json.as_object_mut().unwrap().remove("model");
    });
}

fn merges() {
    for value in [
        json!(7),
        json!([7]),
        json!(["a"]),
        json!(["a b c d"]),
        json!([["a"]]),
        json!(["no such"]),
        json!([["x1", "y2"]]),
    ] {
        broken(&format!("merges = {value}"), |json| {
            json["model"]["merges"] = value.clone()
        });
    }
}

fn patterns() {
    let split = |pattern: &str| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
    for pattern in ["(", "[", "a{99999999}", "(?P<", "*"] {
        broken(pattern, |json| json["pre_tokenizer"] = split(pattern));
    }
    // Legal, and slow where an engine goes back: a text of such a kind must not hang.
    for pattern in ["(a+)+$", "(a|aa)+$", "(?=a*)a*a*a*a*b"] {
        let folder = Folder::copy_of("qwen3-f32");
        folder.edit("tokenizer.json", |json| {
            json["pre_tokenizer"] = split(pattern)
        });
        survives(pattern, folder.path());
    }
}

fn growth() {
    for replacement in ["x".repeat(1_000_000), "x".repeat(1_000)] {
        let folder = Folder::copy_of("qwen3-f32");
        folder.edit("tokenizer.json", |json| {
            let replace =
                json!({"type": "Replace", "pattern": {"String": "x"}, "content": replacement});
            json["normalizer"] =
                json!({"type": "Sequence", "normalizers": [replace, replace, replace, replace]});
        });
        survives("growth", folder.path());
    }
    let mut deep = json!({"type": "Lowercase"});
    for _ in 0..60 {
        deep = json!({"type": "Sequence", "normalizers": [deep]});
    }
    let folder = Folder::copy_of("qwen3-f32");
    folder.edit("tokenizer.json", |json| json["normalizer"] = deep);
    survives("deep", folder.path());
}

/// Files that a model does without, whatever is wrong with them.
fn optional_files() {
    for name in [
        "special_tokens_map.json",
        "added_tokens.json",
        "chat_template.json",
        "additional_chat_templates",
    ] {
        let folder = Folder::copy_of("qwen3-f32");
        fs::create_dir(folder.file(name)).unwrap();
        loads(&format!("{name} is a folder"), folder.path());
        fs::remove_dir(folder.file(name)).unwrap();
        let made = Command::new("mkfifo").arg(folder.file(name)).status();
        assert!(made.is_ok_and(|status| status.success()), "mkfifo");
        loads(&format!("{name} is a pipe"), folder.path());
        for target in ["/dev/zero", "/etc", "/nowhere/at/all", name] {
            folder.remove(name);
            symlink(target, folder.file(name)).unwrap();
            loads(&format!("{name} is a link to {target}"), folder.path());
        }
        folder.remove(name);
        folder.write(name, b"{\"eos_token\": [[[");
        loads(&format!("{name} is no JSON"), folder.path());
    }
}

fn tokenizer_config() {
    for (key, value) in [
        ("eos_token", json!(7)),
        ("bos_token", json!([])),
        ("eos_token", json!({"content": 7})),
    ] {
        let folder = Folder::copy_of("qwen3-f32");
        folder.edit("tokenizer_config.json", |config| {
            config[key] = value.clone()
        });
        survives(&format!("{key} = {value}"), folder.path());
    }
}
