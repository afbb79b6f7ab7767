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
        costly_patterns,
        growth,
        steps,
        long_tokens,
        decoders,
        stripped_runs,
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

/// Sequences of so many steps: the most that are taken, and one more.
fn steps() {
    let lower = || json!({"type": "Lowercase"});
    let sequence = |key: &str, steps: Vec<Value>| json!({"type": "Sequence", key: steps});
    let replace = || json!({"type": "Replace", "pattern": {"String": "x"}, "content": "y"});
    let bytes = || json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    let digits = || json!({"type": "Digits", "individual_digits": false});
    for (part, key, step) in [
        ("normalizer", "normalizers", lower()),
        ("pre_tokenizer", "pretokenizers", digits()),
        ("decoder", "decoders", replace()),
        ("post_processor", "processors", bytes()),
    ] {
        // A sequence is a step of its own for decoders and post-processors.
        let most = match part {
            "pre_tokenizer" => 64,
            // The fixture has a pre-tokenizer, too.
            _ => 63,
        };
        let folder = Folder::copy_of("qwen3-f32");
        folder.edit("tokenizer.json", |json| {
            json[part] = sequence(key, vec![step.clone(); most]);
        });
        loads(&format!("{most} steps of {part}"), folder.path());
        for count in [most + 1, 1_000, 100_000] {
            broken(&format!("{count} steps of {part}"), |json| {
                json[part] = sequence(key, vec![step.clone(); count]);
            });
            broken(&format!("{count} empty sequences in {part}"), |json| {
                json[part] = sequence(key, vec![sequence(key, vec![]); count.max(300)]);
            });
        }
        // By what they hold, whatever they are called.
        broken(&format!("steps of {part} without a name"), |json| {
            let inner = sequence(key, vec![step.clone(); 50]);
            let mut outer = sequence(key, vec![inner.clone(), inner]);
            outer.as_object_mut().unwrap().remove("type");
            json[part] = outer;
        });
    }
    // Growth under another name.
    for name in ["Nothing", "Prepend", "Replace"] {
        broken(&format!("growth under the name {name}"), |json| {
            json["normalizer"] = json!({"type": name, "prepend": "x".repeat(100_000), "pattern": {"String": ""},
                "content": "x".repeat(1_000)});
        });
    }
    broken("an empty pattern that grows", |json| {
        json["normalizer"] =
            json!({"type": "Replace", "pattern": {"String": ""}, "content": "x".repeat(64)});
    });
    let folder = Folder::copy_of("qwen3-f32");
    folder.edit("tokenizer.json", |json| {
        json["normalizer"] =
            json!({"type": "Replace", "pattern": {"String": ""}, "content": "x".repeat(31)});
    });
    survives("an empty pattern that grows a little", folder.path());
}

/// Tokens of the most bytes that are taken, and of one more.
fn long_tokens() {
    for (length, fits) in [(1_024, true), (1_025, false), (1_000_000, false)] {
        let folder = Folder::copy_of("qwen3-f32");
        folder.edit("tokenizer.json", |json| {
            let vocab = json["model"]["vocab"].as_object_mut().unwrap();
            let id = vocab.remove("!").unwrap();
            vocab.insert("!".repeat(length), id);
        });
        let what = format!("a token of {length} bytes");
        match fits {
            true => survives(&what, folder.path()),
            false => refused_at_sight(&what, folder.path(), BAD, &["tokenizer.json", "bytes"]),
        }
    }
    for key in [
        "continuing_subword_prefix",
        "end_of_word_suffix",
        "unk_token",
    ] {
        broken(&format!("a long {key}"), |json| {
            json["model"][key] = json!("x".repeat(1_025))
        });
    }
    for (length, fits) in [(256, true), (257, false), (100_000, false)] {
        let folder = Folder::copy_of("qwen3-f32");
        folder.edit("tokenizer.json", |json| {
            json["model"] = json!({"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", -1.0], ["x".repeat(length), -2.0]]});
            json["added_tokens"] = json!([]);
        });
        let what = format!("a token of {length} bytes in Unigram");
        match fits {
            true => survives(&what, folder.path()),
            false => refused_at_sight(&what, folder.path(), BAD, &["tokenizer.json", "bytes"]),
        }
    }
    for most in [513_u64, 10_000, u64::MAX] {
        broken(&format!("words of {most} characters"), |json| {
            json["model"] = json!({"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                "max_input_chars_per_word": most, "vocab": {"[UNK]": 0, "x": 1, "##x": 2}});
            json["added_tokens"] = json!([]);
        });
    }
}

/// The text of a token may grow to 4 KB while it is decoded.
fn decoders() {
    let replace = |to: usize| json!({"type": "Replace", "pattern": {"String": "a"}, "content": "a".repeat(to)});
    let sequence = |steps: Vec<Value>| json!({"type": "Sequence", "decoders": steps});
    for steps in [
        vec![replace(100_000)],
        vec![replace(1_000); 3],
        vec![replace(2); 40],
    ] {
        broken("a decoder that grows", |json| {
            json["decoder"] = sequence(steps);
        });
    }
    let folder = Folder::copy_of("qwen3-f32");
    folder.edit("tokenizer.json", |json| {
        json["decoder"] = sequence(vec![replace(2); 10]);
    });
    survives("a decoder that grows a little", folder.path());
}

/// Patterns that go over the rest of a text at every place, or back and forth: given up by name, or within the budget.
fn costly_patterns() {
    for pattern in [
        "[a-z ]+X|[a-z ]",
        "(?:a|a?b)+(?!.)c",
        "(?:[a-z ]?){30}X",
        "(?=.*X).|(?!.*X).",
        "(?:.+.+)+Y",
        r"(?s).*?\z\b",
    ] {
        for behavior in ["Isolated", "Removed", "Contiguous"] {
            for invert in [false, true] {
                let folder = Folder::copy_of("qwen3-f32");
                folder.edit("tokenizer.json", |json| {
                    json["pre_tokenizer"] = json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior,
                        "invert": invert});
                });
                survives(&format!("{pattern} {behavior} {invert}"), folder.path());
            }
        }
        let folder = Folder::copy_of("qwen3-f32");
        folder.edit("tokenizer.json", |json| {
            json["normalizer"] =
                json!({"type": "Replace", "pattern": {"Regex": pattern}, "content": "x"});
        });
        survives(&format!("{pattern} replaced"), folder.path());
    }
    for pattern in [
        r"(a)\1",
        r"(?:a*)*",
        r"(?<=a+)b",
        r"(?:\p{L}{100}){100}",
        r"a\Kb",
        &"a".repeat(10_000),
    ] {
        broken(&pattern.chars().take(40).collect::<String>(), |json| {
            json["pre_tokenizer"] = json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated",
                "invert": false});
        });
    }
}

/// Added tokens that take the white space beside them, and are white space.
fn stripped_runs() {
    for content in ["a", " ", "\n", "n", "ab"] {
        for (left, right) in [(true, true), (true, false), (false, true)] {
            for normalized in [true, false] {
                let folder = Folder::copy_of("qwen3-f32");
                folder.edit("tokenizer.json", |json| {
                    let added = json["added_tokens"].as_array_mut().unwrap();
                    added.push(json!({"id": 131, "content": content, "single_word": false, "lstrip": left, "rstrip": right,
                        "normalized": normalized, "special": false}));
                });
                survives(
                    &format!("{content:?} {left} {right} {normalized}"),
                    folder.path(),
                );
            }
        }
    }
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
