//! Sessions to files and back: what is restored gives the tokens that the original gives, computes nothing again, and what is
//! damaged or another's is refused by name.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{json, Value};

use super::adapters::{adapter, watch};
use super::saving::{load_from, Folder};
use super::sessions::{messages, second, FIRST};
use super::*;
use crate::error::{Code, Error};
use crate::load::Checksum;
use crate::mlx::{fault, memory};
use crate::runtime::adapter::{Adapter, LoadOptions as SessionLoad, TensorData};
use crate::runtime::engine::Trim;
use crate::runtime::staging::SaveOptions;

pub(super) fn save(session: &Session, path: &Path) -> Result<()> {
    let options = SaveOptions {
        deadline: None,
        progress: &mut |_, _| true,
    };
    session.save(path, options)
}

pub(super) fn restore_with(
    model: &Arc<Model>,
    path: &Path,
    adapters: &[Arc<Adapter>],
) -> Result<Session> {
    let options = SessionLoad {
        deadline: None,
        progress: &mut |_, _| true,
    };
    Session::load(model.clone(), path, adapters, options)
}

fn restore(model: &Arc<Model>, path: &Path) -> Result<Session> {
    restore_with(model, path, &[])
}

/// A folder that goes away, and a file in it.
pub(super) fn place(name: &str) -> (Folder, PathBuf) {
    let folder = Folder::new(&format!("session-{name}"));
    std::fs::create_dir_all(&folder.0).unwrap();
    let path = folder.0.join("session.safetensors");
    (folder, path)
}

fn window(window: u32, keep: i32) -> SessionOptions {
    SessionOptions {
        window,
        keep,
        ..SessionOptions::default()
    }
}

fn bits(kv_bits: u32, of: SessionOptions) -> SessionOptions {
    SessionOptions { kv_bits, ..of }
}

/// One of each kind of cache, and of each type.
fn cases() -> Vec<(&'static str, SessionOptions)> {
    let all = SessionOptions::default();
    vec![
        ("qwen3-f32", all),
        ("qwen3-4bit", all),
        ("qwen3-f32", window(16, -1)),
        ("qwen3-f32", window(16, 4)),
        ("llama-4bit-bf16", window(64, 4)),
        ("gemma3-text-f32", all),
        ("gemma3-text-bf16", all),
        ("gemma3n-f32", all),
        ("gemma4_text-f32", all),
        ("gpt_oss-bf16", all),
        ("lfm2-f32", all),
        ("lfm2-bf16", all),
        ("qwen3_5-f32", all),
        ("qwen3_next-f32-hub", all),
        ("nemotron_h-f32", all),
        ("granitemoehybrid-f32", all),
        ("kimi_linear-f32", all),
        ("kimi_linear-bf16", all),
        ("deepseek_v3-f32", all),
        ("deepseek_v3-4bit", all),
        ("phi3-f32-longrope", all),
        ("qwen3-4bit", bits(8, all)),
        ("qwen3-4bit-bf16", bits(4, all)),
        ("qwen3-4bit", bits(4, window(16, -1))),
        ("qwen3-4bit", bits(8, window(16, 4))),
        ("gemma3n-4bit", bits(8, all)),
        ("gpt_oss-4bit", bits(4, all)),
        ("qwen3_next-4bit", bits(4, all)),
        ("granitemoehybrid-4bit", bits(8, all)),
    ]
}

/// Greedy tokens, and how many were not computed.
fn ask(session: &Session, input: &Input, n: u64) -> (Vec<i32>, u64) {
    let given = run(session, input, &exactly(n));
    given.result.unwrap();
    (given.tokens, given.report.cached_tokens)
}

#[test]
fn a_restored_session_goes_on_as_the_original() {
    let _lock = engine_lock();
    for (number, (case, options)) in cases().into_iter().enumerate() {
        let (_folder, path) = place(&format!("goes-on-{number}"));
        let model = load(case);
        // A handle of its own shares nothing.
        let elsewhere = load(case);
        let session = Session::new(model, options).unwrap();
        // In a window of 16: not full, just turned, turned long ago.
        for (turn, n) in [3, 9, 20].into_iter().enumerate() {
            let prompt: Vec<i32> = (0..7)
                .map(|i| 3 + (turn as i32 * 29 + i * 5) % 100)
                .collect();
            ask(&session, &Input::Tokens(prompt), n);
            save(&session, &path).unwrap();
            let restored = restore(&elsewhere, &path).unwrap();
            assert_eq!(restored.tokens(), session.tokens(), "{case}");
            assert_eq!(restored.message(), session.message(), "{case}");
            let (own, its) = (session.info(), restored.info());
            assert_eq!(own.kv_tokens, its.kv_tokens, "{case}");
            assert_eq!(own.context, its.context, "{case}");
            // A fork goes on, so that the original is there for the next turn.
            let fork = session.fork().unwrap();
            let before = session.tokens().unwrap().len();
            let next = Input::Tokens(vec![9, 8, 7, 11]);
            let other = Input::Tokens(vec![1, 30, 2]);
            // And as any other: gone on, forked, cut.
            let live = |session: &Session| {
                let answer = ask(session, &next, 12);
                let branch = session.fork().unwrap();
                session.truncate(before).unwrap();
                let again = ask(session, &next, 12);
                (answer, ask(&branch, &other, 4), again)
            };
            let wanted = live(&fork);
            drop(fork);
            let alone = restore(&elsewhere, &path).unwrap();
            assert_eq!(live(&restored), wanted, "{case} turn {turn}");
            drop(restored);
            // All but the last token, which was delivered and not put in.
            let wanted = wanted.0;
            assert_eq!(wanted.1, before as u64 - 1, "{case} turn {turn}");
            assert_eq!(ask(&alone, &next, 12), wanted, "{case} turn {turn}");
        }
    }
}

#[test]
fn a_chat_goes_on_and_goes_back_to_its_marks() {
    let _lock = engine_lock();
    for case in [
        "qwen3-f32",
        "lfm2-f32",
        "kimi_linear-f32",
        "gemma3-text-f32",
        "gpt_oss-f32",
    ] {
        let (_folder, path) = place(&format!("chat-{case}"));
        let (model, elsewhere) = (load(case), load(case));
        let own = session(&model);
        ask(&own, &messages(FIRST), 6);
        let history = second(&own);
        save(&own, &path).unwrap();
        let restored = restore(&elsewhere, &path).unwrap();
        assert_eq!(second(&restored), history);
        let other = history.replace("Why?", "And what is twice that?");
        for turn in [&history, &history, &other] {
            let wanted = ask(&own, &messages(turn), 8);
            assert_eq!(ask(&restored, &messages(turn), 8), wanted, "{case}: {turn}");
            assert!(wanted.1 > 0, "{case}: {turn}");
        }
    }
}

#[test]
fn what_is_not_computed_is_computed_then() {
    let _lock = engine_lock();
    let (_folder, path) = place("nothing");
    for case in ["qwen3-f32", "lfm2-f32", "gemma3n-f32"] {
        let model = load(case);
        let own = session(&model);
        save(&own, &path).unwrap();
        let restored = restore(&model, &path).unwrap();
        assert!(restored.tokens().unwrap().is_empty());
        assert_eq!(restored.message().unwrap_err().code, Code::NotFound);
        let input = Input::Tokens(vec![3, 4, 5, 6]);
        ask(&own, &input, 5);
        // What was forgotten is not in the file.
        own.truncate(1).unwrap();
        save(&own, &path).unwrap();
        let restored = restore(&model, &path).unwrap();
        assert_eq!(restored.tokens().unwrap(), [3]);
        assert!(restored.info().kv_tokens <= 1, "{case}");
        // Nor is what was trimmed.
        ask(&own, &input, 5);
        let trim = |worker: &mut crate::runtime::worker::Worker| {
            worker.trim(Trim::IdleSessions);
            Ok(())
        };
        model.engine.call(trim).unwrap();
        save(&own, &path).unwrap();
        let restored = restore(&load(case), &path).unwrap();
        assert_eq!(restored.tokens(), own.tokens());
        assert_eq!(restored.info().kv_tokens, 0);
        let next = Input::Tokens(vec![9]);
        assert_eq!(ask(&restored, &next, 6), ask(&own, &next, 6), "{case}");
    }
}

#[test]
fn options_are_those_of_the_session() {
    let _lock = engine_lock();
    let (_folder, path) = place("options");
    let model = load("qwen3-f32");
    let options = SessionOptions {
        context: 40,
        window: 16,
        keep: 2,
        kv_limit: 1 << 20,
        ..SessionOptions::default()
    };
    let own = Session::new(model.clone(), options).unwrap();
    ask(&own, &Input::Tokens(vec![3, 4, 5]), 20);
    save(&own, &path).unwrap();
    let restored = restore(&model, &path).unwrap();
    assert_eq!(restored.info().context, 40);
    let spec = |session: &Session| {
        let spec = session.cache;
        (spec.window, spec.keep, spec.limit)
    };
    assert_eq!(spec(&restored), spec(&own));
    // One that may be as long as its model's stays so; one that cannot be is refused.
    let own = session(&model);
    ask(&own, &Input::Tokens(vec![3, 4, 5]), 20);
    let long = place("options-long");
    save(&own, &long.1).unwrap();
    let small = {
        let folder = parity::fixtures().join("models").join("qwen3-f32");
        let load = |context| {
            let options = LoadOptions {
                context,
                follow_links: false,
                deadline: None,
                progress: &mut |_, _| true,
            };
            model::load(folder.to_str().unwrap(), options).unwrap()
        };
        [30, 22].map(|context| Arc::new(load(context)))
    };
    assert_eq!(restore(&small[0], &long.1).unwrap().info().context, 30);
    refused(
        restore(&small[1], &long.1),
        Code::Incompatible,
        "has 23 tokens",
    );
    refused(
        restore(&small[0], &path),
        Code::Incompatible,
        "may have 40 tokens",
    );
}

#[track_caller]
fn refused(outcome: Result<Session>, code: Code, words: &str) {
    let error = outcome.err().expect("it was accepted");
    assert_eq!(error.code, code, "{error}");
    assert!(error.message.contains(words), "{error}");
}

/// A short session of a small model with a state, a window or all kinds of keys, in a file.
fn small(case: &str, path: &Path) -> Arc<Model> {
    small_with(case, SessionOptions::default(), 3, path)
}

/// And one of so many tokens.
fn small_with(case: &str, options: SessionOptions, prompt: i32, path: &Path) -> Arc<Model> {
    let model = load(case);
    let own = Session::new(model.clone(), options).unwrap();
    ask(&own, &Input::Tokens((3..3 + prompt).collect()), 2);
    save(&own, path).unwrap();
    model
}

#[test]
fn a_file_that_is_cut_short_anywhere_is_refused() {
    let _lock = engine_lock();
    for (number, (case, options, tokens)) in of_all_kinds().into_iter().enumerate() {
        let (folder, path) = place(&format!("cut-{number}"));
        let model = small_with(case, options, tokens, &path);
        let bytes = std::fs::read(&path).unwrap();
        let cut = folder.0.join("cut");
        for length in 0..bytes.len() {
            std::fs::write(&cut, &bytes[..length]).unwrap();
            let error = restore(&model, &cut).err().expect("accepted");
            assert_eq!(error.code, Code::BadModel, "{case}, {length}: {error}");
            assert!(error.message.contains(cut.to_str().unwrap()), "{error}");
        }
        // And what is behind its end.
        let longer = [bytes.as_slice(), b"x"].concat();
        std::fs::write(&cut, longer).unwrap();
        refused(restore(&model, &cut), Code::BadModel, "describes only");
    }
}

/// States, windows that have turned or not, and keys of all kinds; the tokens of a prompt.
fn of_all_kinds() -> [(&'static str, SessionOptions, i32); 4] {
    let all = SessionOptions::default();
    [
        ("lfm2-f32", all, 3),
        ("gemma3n-f32", all, 3),
        ("gpt_oss-f32", all, 12),
        ("gpt_oss-4bit", bits(4, all), 12),
    ]
}

#[test]
fn a_flipped_bit_anywhere_is_refused() {
    let _lock = engine_lock();
    for (number, (case, options, tokens)) in of_all_kinds().into_iter().enumerate() {
        let (folder, path) = place(&format!("flipped-{number}"));
        let model = small_with(case, options, tokens, &path);
        let bytes = std::fs::read(&path).unwrap();
        let flipped = folder.0.join("flipped");
        let before = memory::active();
        for at in 0..bytes.len() {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1 << (at % 8);
            std::fs::write(&flipped, bytes).unwrap();
            let error = restore(&model, &flipped);
            let error = error.err().unwrap_or_else(|| panic!("{case}: byte {at}"));
            let known = [Code::BadModel, Code::Incompatible, Code::Unsupported];
            assert!(known.contains(&error.code), "{case}, byte {at}: {error}");
        }
        model.engine.call(|_| Ok(())).unwrap();
        assert!(memory::active() <= before, "{case}: something stayed");
        restore(&model, &path).unwrap();
    }
}

/// Writes a file anew, with another header, and a checksum that is right for it.
fn rewrite(from: &Path, to: &Path, change: impl FnOnce(&mut Value, &mut Value)) {
    let bytes = std::fs::read(from).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let (text, data) = bytes[8..].split_at(length);
    let mut header: Value = serde_json::from_slice(text).unwrap();
    let own = header["__metadata__"]["0.mlxrt"].as_str().unwrap();
    let mut own: Value = serde_json::from_str(own).unwrap();
    change(&mut header, &mut own);
    header["__metadata__"]["0.mlxrt"] = own.to_string().into();
    header["__metadata__"]["0.checksum"] = Checksum::UNKNOWN.into();
    let mut text = header.to_string().into_bytes();
    let mut checksum = Checksum::of_header(&text);
    checksum.add(data);
    let at = Checksum::place(&text).unwrap();
    let digits = checksum.digits();
    text[at..at + digits.len()].copy_from_slice(digits.as_bytes());
    let length = (text.len() as u64).to_le_bytes();
    std::fs::write(to, [length.as_slice(), &text, data].concat()).unwrap();
}

/// What a file can say with a right checksum, and whether it is refused by name.
#[test]
fn what_a_file_claims_is_compared_with_the_model() {
    let _lock = engine_lock();
    let (folder, path) = place("claims");
    let changed = folder.0.join("changed");
    let model = small("gemma3n-f32", &path);
    rewrite(&path, &changed, |_, _| {});
    restore(&model, &changed).unwrap();
    type Change = fn(&mut Value, &mut Value);
    let cases: &[(Change, Code, &str)] = &[
        (
            |_, own| own["format"] = 2.into(),
            Code::Unsupported,
            "format 2",
        ),
        (
            |_, own| own["format"] = 0.into(),
            Code::BadModel,
            "\"format\" must be",
        ),
        (
            |_, own| own["format"] = Value::Null,
            Code::BadModel,
            "\"format\" is missing",
        ),
        (
            |_, own| own["kv_bits"] = 8.into(),
            Code::BadModel,
            "\"kv_bits\" must be",
        ),
        (
            |_, own| {
                own["kv_bits"] = 8.into();
                own["kv_group_size"] = 32.into();
            },
            Code::Incompatible,
            "heads of 10 numbers",
        ),
        (
            |_, own| own["model"]["type"] = "qwen3".into(),
            Code::Incompatible,
            "type \"qwen3\"",
        ),
        (
            |_, own| own["model"]["weights"] = "00".into(),
            Code::Incompatible,
            "weights are \"00\"",
        ),
        (
            |_, own| own["model"]["config"] = "00".into(),
            Code::Incompatible,
            "config.json is",
        ),
        (
            |_, own| own["model"]["tokenizer"] = "00".into(),
            Code::Incompatible,
            "tokenizer is",
        ),
        (
            |_, own| own["model"]["template"] = "00".into(),
            Code::Incompatible,
            "chat template is",
        ),
        (
            |_, own| own["model"] = 7.into(),
            Code::BadModel,
            "\"model\" must be an object",
        ),
        (
            |_, own| own["cached"] = 5.into(),
            Code::BadModel,
            "holds 4 tokens, and others hold 5",
        ),
        (
            |_, own| own["cached"] = 6.into(),
            Code::BadModel,
            "hold 6 tokens, and it names 5",
        ),
        (
            |_, own| own["cached"] = 0.into(),
            Code::BadModel,
            "holds 4 tokens",
        ),
        (
            |_, own| own["cached"] = (-1).into(),
            Code::BadModel,
            "\"cached\" must be",
        ),
        (
            |_, own| own["window"] = 16.into(),
            Code::Incompatible,
            "no window",
        ),
        (
            |_, own| own["window"] = 4_000_000_000_u32.into(),
            Code::BadModel,
            "\"window\"",
        ),
        (
            |_, own| own["context"] = 4096.into(),
            Code::Incompatible,
            "may have 4096 tokens",
        ),
        (
            |_, own| own["kv_limit"] = (-1).into(),
            Code::BadModel,
            "\"kv_limit\"",
        ),
        (|_, own| own["long"] = 1.into(), Code::BadModel, "\"long\""),
        (
            |_, own| own["answer"] = 1.into(),
            Code::BadModel,
            "\"answer\" must be an object",
        ),
        (
            |_, own| own["marks"] = json!([]),
            Code::BadModel,
            "marks of 0 layers",
        ),
        (
            |_, own| own["marks"][1] = json!([1]),
            Code::Incompatible,
            "layer 1 has marks and no window",
        ),
        (
            |_, own| own["marks"][0] = json!(["a"]),
            Code::BadModel,
            "\"marks\"",
        ),
        (
            |_, own| {
                own["adapters"] = json!([{"weights": "00", "scale": 1, "what": "lora of rank 3"}])
            },
            Code::Incompatible,
            "an adapter, \"lora of rank 3\", that is not loaded",
        ),
        (
            |_, own| own["adapters"] = json!([7]),
            Code::BadModel,
            "\"adapters\"",
        ),
        (
            |header, _| header["__metadata__"]["0.tokens"] = "[3,4,5,1000000,7]".into(),
            Code::Incompatible,
            "tokens[3] is 1000000",
        ),
        (
            |header, _| header["__metadata__"]["0.tokens"] = "[3,4,5,-1,7]".into(),
            Code::Incompatible,
            "tokens[3] is -1",
        ),
        (
            |header, _| header["__metadata__"]["0.tokens"] = "[3,4,5,99999999999]".into(),
            Code::BadModel,
            "list of token ids",
        ),
        (
            |header, _| header["__metadata__"]["0.tokens"] = "[3,4,5".into(),
            Code::BadModel,
            "list of token ids",
        ),
        (
            |header, _| header["__metadata__"]["1.0"] = "KVCache".into(),
            Code::Incompatible,
            "layer 0 has no window",
        ),
        (
            |header, _| header["__metadata__"]["1.0"] = "CacheList".into(),
            Code::Unsupported,
            "layer 0 is a \"CacheList\"",
        ),
        (
            |header, _| header["__metadata__"]["1.0"] = "ArraysCache".into(),
            Code::Unsupported,
            "layer 0 is of a batch",
        ),
        (
            |header, _| {
                let metadata = header["__metadata__"].as_object_mut().unwrap();
                metadata.remove("1.2");
            },
            Code::BadModel,
            "",
        ),
        (
            |header, _| {
                let shape = &mut header["0.0"]["shape"];
                let [heads, tokens] = [1, 2].map(|axis| shape[axis].clone());
                (shape[1], shape[2]) = (tokens, heads);
            },
            Code::Incompatible,
            "layer 0 has the tensor \"0.0\" of shape",
        ),
        (
            |header, _| header["0.1"]["dtype"] = "I32".into(),
            Code::Incompatible,
            "type I32",
        ),
        (
            |header, _| {
                let table = header.as_object_mut().unwrap();
                let tensor = table.remove("0.1").unwrap();
                table.insert("0.9".into(), tensor);
            },
            Code::BadModel,
            "holds no tensor \"0.1\"",
        ),
        (
            |header, _| header["0.2"]["shape"] = json!([1]),
            Code::BadModel,
            "\"0.2\" must be one whole number",
        ),
    ];
    for (number, (change, code, words)) in cases.iter().enumerate() {
        rewrite(&path, &changed, change);
        let error = restore(&model, &changed);
        let error = error
            .err()
            .unwrap_or_else(|| panic!("case {number} was accepted"));
        assert_eq!(error.code, *code, "case {number}: {error}");
        assert!(error.message.contains(words), "case {number}: {error}");
        assert!(
            error.message.starts_with(changed.to_str().unwrap()),
            "{error}"
        );
    }
    restore(&model, &path).unwrap();
}

/// Where tokens lie, in a window that has turned: only what can be.
#[test]
fn places_that_cannot_be_are_refused() {
    let _lock = engine_lock();
    let (folder, path) = place("places");
    let changed = folder.0.join("changed");
    let model = load("qwen3-f32");
    let own = Session::new(model.clone(), window(16, 4)).unwrap();
    ask(&own, &Input::Tokens(vec![3, 4, 5]), 22);
    save(&own, &path).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    // offset, keep, size, index
    for (name, values) in [
        ("0.2", &[0, 1, 15, 23, 25, i32::MAX, -1, i32::MIN][..]),
        ("0.3", &[0, 3, 5, 16, i32::MAX, -1]),
        ("0.4", &[0, 1, 15, 17, i32::MAX, -1]),
        ("0.5", &[0, 1, 4, 17, i32::MAX, -1]),
    ] {
        let at = header[name]["data_offsets"][0].as_u64().unwrap() as usize + 8 + length;
        for value in values {
            let mut bytes = bytes.clone();
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
            std::fs::write(&changed, &bytes).unwrap();
            rewrite(&changed, &changed, |_, _| {});
            let error = restore(&model, &changed);
            let error = error.err().unwrap_or_else(|| panic!("{name} of {value}"));
            let known = [Code::BadModel, Code::Incompatible];
            assert!(known.contains(&error.code), "{name} of {value}: {error}");
        }
    }
}

/// A copy of a fixture with one file changed.
fn changed_model(
    case: &str,
    folder: &Path,
    file: &str,
    change: impl FnOnce(&mut Vec<u8>),
) -> Arc<Model> {
    let from = parity::fixtures().join("models").join(case);
    let _ = std::fs::remove_dir_all(folder);
    std::fs::create_dir_all(folder).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
    }
    let path = folder.join(file);
    let mut bytes = std::fs::read(&path).unwrap_or_default();
    change(&mut bytes);
    std::fs::write(path, bytes).unwrap();
    load_from(folder)
}

#[test]
fn another_model_is_told_by_what_differs() {
    let _lock = engine_lock();
    let (folder, path) = place("models");
    small("qwen3-f32", &path);
    let copy = folder.0.join("copy");
    let same = changed_model("qwen3-f32", &copy, "README.md", |_| {});
    restore(&same, &path).unwrap();
    type Change = fn(&mut Vec<u8>);
    let cases: [(&str, &str, Change); 5] = [
        ("model.safetensors", "its weights are", |bytes| {
            let last = bytes.len() - 2;
            bytes[last] ^= 1;
        }),
        ("config.json", "its config.json is", |bytes| {
            bytes.push(b' ')
        }),
        ("tokenizer.json", "its tokenizer is", |bytes| {
            bytes.push(b' ')
        }),
        ("special_tokens_map.json", "its tokenizer is", |bytes| {
            *bytes = b"{}".to_vec()
        }),
        ("chat_template.jinja", "its chat template is", |bytes| {
            bytes.push(b' ')
        }),
    ];
    for (file, words, change) in cases {
        let other = changed_model("qwen3-f32", &copy, file, change);
        refused(restore(&other, &path), Code::Incompatible, words);
    }
    for case in ["llama-f32", "lfm2-f32", "qwen3-bf16", "qwen3-4bit"] {
        refused(restore(&load(case), &path), Code::Incompatible, "");
    }
}

#[test]
fn adapters_are_found_by_their_weights() {
    let _lock = engine_lock();
    let (_folder, path) = place("adapters");
    let model = load("qwen3-f32");
    let (first, second) = (adapter(&model, 1, false), adapter(&model, 2, true));
    let own = session(&model);
    own.apply(vec![(first.clone(), 1.0), (second.clone(), -0.5)])
        .unwrap();
    ask(&own, &Input::Tokens(vec![3, 4, 5]), 9);
    save(&own, &path).unwrap();
    let next = Input::Tokens(vec![9]);
    let wanted = ask(&own, &next, 8);
    assert_eq!(wanted.1, 11);

    let elsewhere = load("qwen3-f32");
    refused(
        restore(&elsewhere, &path),
        Code::Incompatible,
        "lora of rank 4",
    );
    let mut there = vec![first.clone(), second, adapter(&elsewhere, 3, false)];
    there.push(adapter(&elsewhere, 1, false));
    let missing = restore_with(&elsewhere, &path, &there);
    refused(missing, Code::Incompatible, "dora of rank 4");
    there.insert(0, adapter(&elsewhere, 2, true));
    let restored = restore_with(&elsewhere, &path, &there).unwrap();
    assert_eq!(restored.info().adapters, 2);
    assert_eq!(ask(&restored, &next, 8), wanted);
    // One that has changed since is another.
    let info: Value = serde_json::from_str(&there[0].info().unwrap()).unwrap();
    let name = info["tensors"][0]["name"].as_str().unwrap();
    let TensorData { shape, mut values } = there[0].get(name).unwrap();
    values[0] += 1.0;
    there[0].set(name, TensorData { shape, values }).unwrap();
    let changed = restore_with(&elsewhere, &path, &there);
    refused(changed, Code::Incompatible, "dora of rank 4");
    // Saved and loaded, it is the same one.
    let beside = Folder::new("session-adapter");
    first
        .save(&beside.0, None, watch(&mut |_, _| true))
        .unwrap();
    let options = SessionLoad {
        deadline: None,
        progress: &mut |_, _| true,
    };
    let again = Adapter::load(elsewhere.clone(), beside.0.to_str().unwrap(), options).unwrap();
    assert_eq!(
        again.fingerprint().unwrap().digits,
        first.fingerprint().unwrap().digits
    );
    // Of a set that is applied no more, nothing is kept.
    own.apply(vec![]).unwrap();
    save(&own, &path).unwrap();
    let restored = restore(&elsewhere, &path).unwrap();
    assert_eq!(restored.tokens(), own.tokens());
    assert_eq!(restored.info().kv_tokens, 0);
}

#[test]
fn what_cannot_be_written_leaves_what_was_there() {
    let _lock = engine_lock();
    let (folder, path) = place("unwritten");
    let model = load("qwen3-f32");
    let own = session(&model);
    ask(&own, &Input::Tokens(vec![3, 4, 5]), 4);
    save(&own, &path).unwrap();
    let good = std::fs::read(&path).unwrap();
    let next = Input::Tokens(vec![9]);
    ask(&own, &next, 4);
    let held = own.tokens();
    let fails = |path: &Path, code: Code, words: &str| {
        let error = save(&own, path).unwrap_err();
        assert_eq!(error.code, code, "{error}");
        assert!(error.message.contains(words), "{error}");
    };
    fails(&path.join("below"), Code::Io, "session.safetensors");
    std::fs::create_dir(folder.0.join("folder")).unwrap();
    fails(
        &folder.0.join("folder"),
        Code::Io,
        "is a folder, not a regular file",
    );
    fails(&folder.0.join("name/"), Code::Io, "is no name of a file");
    fails(Path::new("/"), Code::Io, "is no name of a file");
    fails(Path::new("/proc/nothing/here"), Code::Io, "/proc");
    fails(
        Path::new("/dev/full"),
        Code::Io,
        "is a device, not a regular file",
    );
    fails(&folder.0.join("n".repeat(300)), Code::Io, "too long");
    // Stopped at each step, late, cancelled.
    let stops = |n: u64| {
        let mut left = n;
        let mut progress = |_, _| {
            left -= 1;
            left > 0
        };
        own.save(&path, watch(&mut progress))
    };
    let mut stopped = 0;
    for n in 1.. {
        match stops(n) {
            Ok(()) => break,
            Err(error) => assert_eq!(error.code, Code::Cancelled, "{error}"),
        }
        assert_eq!(std::fs::read(&path).unwrap(), good);
        stopped += 1;
    }
    assert!(stopped > 4, "{stopped} steps");
    let late = SaveOptions {
        deadline: Some(Instant::now() - Duration::from_millis(1)),
        progress: &mut |_, _| true,
    };
    let good = std::fs::read(&path).unwrap();
    assert_eq!(own.save(&path, late).unwrap_err().code, Code::Timeout);
    let mut cancels = |_, _| {
        own.ledger.cancel();
        true
    };
    let cancelled = own.save(&path, watch(&mut cancels)).unwrap_err();
    assert_eq!(cancelled.code, Code::Cancelled);
    assert_eq!(std::fs::read(&path).unwrap(), good);
    assert_eq!(own.tokens(), held);
    let names = std::fs::read_dir(&folder.0).unwrap();
    assert_eq!(names.count(), 2, "something was left behind");
    ask(&own, &next, 4);
    save(&own, &path).unwrap();
    // And what is read can be stopped, too.
    let load = |deadline, progress: &mut dyn FnMut(u64, u64) -> bool| {
        let options = SessionLoad { deadline, progress };
        Session::load(model.clone(), &path, &[], options)
    };
    refused(
        load(None, &mut |_, _| false),
        Code::Cancelled,
        "progress callback",
    );
    let late = Some(Instant::now() - Duration::from_millis(1));
    refused(load(late, &mut |_, _| true), Code::Timeout, "timeout_ms");
}

#[test]
fn a_busy_session_is_not_saved_and_one_that_is_saved_is_busy() {
    let _lock = engine_lock();
    let (_folder, path) = place("busy");
    let model = load("qwen3-f32");
    let own = Arc::new(session(&model));
    let mut tried = Vec::new();
    let (_, result) = generate(
        &own,
        &Input::Tokens(vec![1, 2, 3]),
        &exactly(3),
        &mut |_| {
            tried.push(save(&own, &path).unwrap_err().code);
            true
        },
    );
    result.unwrap();
    assert!(tried.len() > 1 && tried.iter().all(|code| *code == Code::Busy));
    assert!(!path.exists());
    let next = Input::Tokens(vec![4]);
    let mut request = None;
    let mut progress = |_, _| {
        assert!(own.info().busy);
        let (_, refused) = generate(&own, &next, &exactly(1), &mut |_| true);
        assert_eq!(refused.unwrap_err().code, Code::Busy);
        assert_eq!(own.fork().err().map(|error| error.code), Some(Code::Busy));
        // One that is submitted waits.
        request.get_or_insert_with(|| submit(own.clone(), &next, &exactly(2), None).unwrap());
        true
    };
    own.save(&path, watch(&mut progress)).unwrap();
    request.unwrap().result(None).unwrap().1.unwrap();
    assert_eq!(own.tokens().unwrap().len(), 9);
    assert_eq!(restore(&model, &path).unwrap().tokens().unwrap().len(), 6);
}

/// A session that is freed while it is saved, and others that need its memory.
#[test]
fn a_save_keeps_what_it_writes() {
    let _lock = engine_lock();
    let (_folder, path) = place("kept");
    let (model, elsewhere) = (load("qwen3-f32"), load("qwen3-f32"));
    let own = session(&model);
    ask(&own, &Input::Tokens((0..60).collect()), 4);
    let mut trims = 0;
    let mut progress = |_, _| {
        let trim = |worker: &mut crate::runtime::worker::Worker| {
            worker.trim(Trim::IdleSessions);
            Ok(())
        };
        model.engine.call(trim).unwrap();
        trims += 1;
        true
    };
    own.save(&path, watch(&mut progress)).unwrap();
    assert!(trims > 4);
    assert_eq!(own.info().kv_tokens, 0);
    let restored = restore(&elsewhere, &path).unwrap();
    assert_eq!(restored.info().kv_tokens, 63);
    let next = Input::Tokens(vec![9]);
    assert_eq!(ask(&restored, &next, 8).0, ask(&own, &next, 8).0);
    let mut closes = |_, _| {
        own.close();
        true
    };
    let closed: Result<()> = own.save(&path, watch(&mut closes));
    assert_eq!(closed.unwrap_err().code, Code::Cancelled);
    drop(own);
    model.engine.call(|_| Ok(())).unwrap();
}

#[test]
fn where_memory_is_short_a_session_is_refused_and_nothing_stays() {
    let _lock = engine_lock();
    let (_folder, path) = place("memory");
    let model = load("qwen3-f32");
    let own = session(&model);
    ask(&own, &Input::Tokens((0..100).collect()), 4);
    save(&own, &path).unwrap();
    drop(own);
    model.engine.call(|_| Ok(())).unwrap();
    let (limit, active) = (memory::limit(), memory::active());
    memory::set_limit(active + 4096).unwrap();
    let outcome = restore(&model, &path);
    memory::set_limit(limit).unwrap();
    refused(outcome, Code::OutOfMemory, "session.safetensors");
    model.engine.call(|_| Ok(())).unwrap();
    assert!(memory::active() <= active);
    restore(&model, &path).unwrap();
}

/// MLX fails at each of its calls, once: what is written is whole, or there is an error and nothing is lost.
#[test]
fn a_fault_at_any_call_loses_nothing() {
    let _lock = engine_lock();
    let (_folder, path) = place("faults");
    let model = load("lfm2-f32");
    let next = Input::Tokens(vec![9]);
    let own = session(&model);
    ask(&own, &Input::Tokens(vec![3, 4, 5]), 4);
    save(&own, &path).unwrap();
    let wanted = ask(&own.fork().unwrap(), &next, 6).0;
    let good = std::fs::read(&path).unwrap();
    let inject = |n: u64| {
        let fault = move |_: &mut crate::runtime::worker::Worker| {
            fault::fail_at(n);
            Ok(())
        };
        model.engine.call(fault).unwrap();
    };
    let struck = || model.engine.call(|_| Ok(!fault::pending())).unwrap();
    let of_mlx = |error: Error| assert_eq!(error.code, Code::Device, "{error}");
    let mut faults = [0, 0];
    for n in 1.. {
        inject(n);
        save(&own, &path).unwrap();
        let hit = struck();
        inject(0);
        if !hit {
            break;
        }
        faults[0] += 1;
        // Which tokens were computed, and how, is the same.
        assert_eq!(
            std::fs::read(&path).unwrap().len(),
            good.len(),
            "fault at {n}"
        );
        let restored = restore(&model, &path).unwrap();
        assert_eq!(ask(&restored, &next, 6).0, wanted, "fault at {n}");
    }
    for n in 1.. {
        inject(n);
        let restored = restore(&model, &path);
        let hit = struck();
        inject(0);
        match restored {
            Ok(restored) => assert_eq!(ask(&restored, &next, 6).0, wanted, "fault at {n}"),
            Err(error) => of_mlx(error),
        }
        if !hit {
            break;
        }
        faults[1] += 1;
    }
    assert!(faults[0] > 8 && faults[1] > 4, "{faults:?}");
    assert_eq!(ask(&own, &next, 6).0, wanted);
}

/// What mlx-lm wrote, and said from there on.
#[test]
fn prompt_caches_of_mlx_lm_go_on_as_there() {
    let _lock = engine_lock();
    let folder = parity::fixtures().join("prompt_caches");
    // As 0.32 says: in 0.31 layers of gemma3n that share keys take them for those of one token later.
    let said = std::fs::read(folder.join("said.json")).unwrap();
    let said: Value = serde_json::from_slice(&said).unwrap();
    let said = said.as_array().unwrap();
    assert_eq!(said.len(), 9);
    for version in ["0.31", "0.32"] {
        for case in said {
            let name = case["file"].as_str().unwrap();
            let file = &format!("{name}-{version}.safetensors");
            let numbers = |key: &str| -> Vec<i32> {
                let numbers = case[key].as_array().unwrap().iter();
                numbers.map(|n| n.as_i64().unwrap() as i32).collect()
            };
            let model = load(case["model"].as_str().unwrap());
            let session = restore(&model, &folder.join(file)).unwrap();
            let tokens = numbers("tokens");
            assert_eq!(session.tokens().unwrap(), tokens, "{file}");
            let window = case["window"].as_i64().map(|n| n as i32);
            assert_eq!(session.cache.window, window, "{file}");
            let packed = session
                .cache
                .scheme
                .map(|of| json!([of.bits, of.group_size]));
            assert_eq!(packed.unwrap_or_default(), case["packed"], "{file}");
            let (answer, cached) = ask(&session, &Input::Tokens(numbers("next")), 12);
            assert_eq!(answer, numbers("answer"), "{file}");
            assert_eq!(cached, tokens.len() as u64, "{file}");
            // From now on it is one of ours.
            let (_folder, path) = place(&format!("of-mlx-lm-{file}"));
            save(&session, &path).unwrap();
            let again = restore(&model, &path).unwrap();
            let next = Input::Tokens(vec![1]);
            assert_eq!(ask(&again, &next, 4), ask(&session, &next, 4), "{file}");
        }
    }
}

#[test]
fn prompt_caches_that_do_not_fit_are_refused_by_name() {
    let _lock = engine_lock();
    let from = parity::fixtures().join("prompt_caches");
    let (folder, _) = place("odd-caches");
    let changed = folder.0.join("changed");
    // The metadata, as text: both forms are the same there.
    let edit = |file: &str, pairs: &[(&str, &str)]| {
        let bytes = std::fs::read(from.join(file)).unwrap();
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let (text, data) = bytes[8..].split_at(length);
        let mut text = String::from_utf8(text.to_vec()).unwrap();
        for (from, to) in pairs {
            assert!(text.contains(from), "{file}: {from}");
            text = text.replace(from, to);
        }
        let length = (text.len() as u64).to_le_bytes();
        std::fs::write(&changed, [&length, text.as_bytes(), data].concat()).unwrap();
    };
    let lfm2 = load("lfm2-f32");
    for version in ["0.31", "0.32"] {
        let file = format!("lfm2-f32-9-0-{version}.safetensors");
        for (pairs, code, words) in [
            (
                &[(".tokens\"", ".others\"")][..],
                Code::Unsupported,
                "without the tokens",
            ),
            (
                &[("\"[3, ", "\"[-3, ")],
                Code::Incompatible,
                "tokens[0] is -3",
            ),
            (&[(", 59]", "]")], Code::BadModel, "names 8"),
            (
                &[("\"KVCache\"", "\"QuantizedKVCache\"")],
                Code::BadModel,
                "is one tensor, and its layer says that it is packed",
            ),
            (
                &[("\"KVCache\"", "\"BatchKVCache\"")],
                Code::Unsupported,
                "a \"BatchKVCache\"",
            ),
            (
                &[("\"ArraysCache\"", "\"__builtins__\"")],
                Code::Unsupported,
                "\"__builtins__\"",
            ),
            (&[("\"F32\"", "\"I32\"")], Code::Incompatible, "type I32"),
        ] {
            edit(&file, pairs);
            refused(restore(&lfm2, &changed), code, words);
        }
        // Another model's.
        refused(
            restore(&load("qwen3-f32"), &from.join(&file)),
            Code::Incompatible,
            "caches of 4 layers",
        );
        // Cut short anywhere, here at every 16th byte: it has no checksum, but a length.
        let bytes = std::fs::read(from.join(&file)).unwrap();
        for length in (0..bytes.len()).step_by(16) {
            std::fs::write(&changed, &bytes[..length]).unwrap();
            refused(restore(&lfm2, &changed), Code::BadModel, "");
        }
        // Numbers that are none.
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
        let name = ["0.0", "0.0.0"][usize::from(version == "0.32")];
        let at = header[name]["data_offsets"][0].as_u64().unwrap() as usize + 8 + length;
        let mut bytes = bytes;
        bytes[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
        std::fs::write(&changed, &bytes).unwrap();
        refused(restore(&lfm2, &changed), Code::BadModel, name);
    }
    // No session at all.
    let weights = parity::fixtures().join("models/lfm2-f32/model.safetensors");
    refused(
        restore(&lfm2, &weights),
        Code::BadModel,
        "is neither a saved session nor",
    );
    refused(restore(&lfm2, &folder.0), Code::Io, "is a folder");
    refused(
        restore(&lfm2, &folder.0.join("none")),
        Code::NotFound,
        "there is no file",
    );
}

/// What a file of packed keys and values can say, with a right checksum.
#[test]
fn packed_keys_are_compared_with_the_model() {
    let _lock = engine_lock();
    let (folder, path) = place("packed");
    let changed = folder.0.join("changed");
    let model = small_with("qwen3-4bit", bits(8, SessionOptions::default()), 5, &path);
    let restored = restore(&model, &path).unwrap();
    assert_eq!(restored.info().kv_tokens, 6);
    rewrite(&path, &changed, |_, _| {});
    restore(&model, &changed).unwrap();
    type Change = fn(&mut Value, &mut Value);
    fn swap(header: &mut Value, one: &str, other: &str) {
        let (first, second) = (header[one].clone(), header[other].clone());
        (header[one], header[other]) = (second, first);
    }
    let cases: &[(Change, Code, &str)] = &[
        (
            |_, own| own["kv_bits"] = 4.into(),
            Code::Incompatible,
            "layer 0 is packed in 8 bits by 32, and the session's are packed in 4 bits by 32",
        ),
        (
            |_, own| (own["kv_bits"], own["kv_group_size"]) = (0.into(), 0.into()),
            Code::Incompatible,
            "layer 0 is packed in 8 bits by 32, and the session's are not packed",
        ),
        (
            |header, _| swap(header, "1.3", "1.4"),
            Code::Unsupported,
            "layer 1 is packed in 32 bits by 8",
        ),
        (
            |header, _| swap(header, "0.2", "0.3"),
            Code::Unsupported,
            "layer 0 is packed in 8 bits by 6",
        ),
        (
            |header, _| header["__metadata__"]["1.1"] = "KVCache".into(),
            Code::BadModel,
            "holds no tensor \"1.0\"",
        ),
        (
            |header, _| header["__metadata__"]["1.1"] = "QuantizedRotatingKVCache".into(),
            Code::BadModel,
            "holds no tensor \"1.5\"",
        ),
        (
            |header, _| header["__metadata__"]["1.1"] = "QuantizedBatchKVCache".into(),
            Code::Unsupported,
            "layer 1 is a \"QuantizedBatchKVCache\"",
        ),
        (
            |header, _| swap(header, "0.0.0", "0.0.1"),
            Code::Incompatible,
            "layer 0 has the tensor \"0.0.0\"",
        ),
        (
            |header, _| header["0.1.2"]["dtype"] = "I32".into(),
            Code::Incompatible,
            "the tensor \"0.1.2\" of shape",
        ),
        (
            |header, _| {
                let shape = &mut header["0.1.0"]["shape"];
                let [heads, tokens] = [1, 2].map(|axis| shape[axis].clone());
                (shape[1], shape[2]) = (tokens, heads);
            },
            Code::Incompatible,
            "the tensor \"0.1.0\" of shape",
        ),
        (
            |header, _| {
                let table = header.as_object_mut().unwrap();
                let tensor = table.remove("0.1.2").unwrap();
                table.insert("0.1.3".into(), tensor);
            },
            Code::BadModel,
            "holds no tensor \"0.1.2\"",
        ),
    ];
    for (number, (change, code, words)) in cases.iter().enumerate() {
        rewrite(&path, &changed, change);
        let error = restore(&model, &changed);
        let error = error.err().unwrap_or_else(|| panic!("case {number}"));
        assert_eq!(error.code, *code, "case {number}: {error}");
        assert!(error.message.contains(words), "case {number}: {error}");
    }
    // Of another model.
    refused(
        restore(&load("qwen3-4bit-bf16"), &path),
        Code::Incompatible,
        "another model",
    );
}

/// Marks of a window that has turned, which say where tokens lie in their tensors.
#[test]
fn marks_of_a_window_are_compared_with_it() {
    let _lock = engine_lock();
    let (folder, path) = place("window-marks");
    let changed = folder.0.join("changed");
    let options = SessionOptions {
        window: 8,
        keep: -1,
        ..SessionOptions::default()
    };
    let model = small_with("qwen3-f32", options, 12, &path);
    let restored = restore(&model, &path).unwrap();
    restored.truncate(0).unwrap();
    let again = Input::Tokens((3..15).collect());
    assert_eq!(ask(&restored, &again, 2).1, 11);
    drop(restored);
    let cases: [(Value, Code, &str); 9] = [
        (json!([]), Code::Incompatible, ""),
        (
            json!([11]),
            Code::Incompatible,
            "a mark at 11, which cannot be",
        ),
        (
            json!([[13, 5]]),
            Code::Incompatible,
            "a mark at 13, which cannot be",
        ),
        (
            json!([[14, 5]]),
            Code::BadModel,
            "a mark at 14, behind one at 0",
        ),
        (json!([[11, 9]]), Code::BadModel, "writes the next to 9"),
        (
            json!([[7, 3]]),
            Code::BadModel,
            "has seen 7 and writes the next to 3",
        ),
        (
            json!([[11, 8], [11, 8]]),
            Code::BadModel,
            "holds no tensor \"2.0.1.0\"",
        ),
        (json!([[11]]), Code::BadModel, "\"marks\""),
        (json!([[11, -1]]), Code::BadModel, "\"marks\""),
    ];
    for (marks, code, words) in cases {
        let outcome = |marks: &Value| {
            rewrite(&path, &changed, |_, own| own["marks"][0] = marks.clone());
            restore(&model, &changed)
        };
        if marks == json!([]) {
            // Without marks it is as good, and goes back to nothing.
            let session = outcome(&marks).unwrap();
            session.truncate(0).unwrap();
            assert_eq!(ask(&session, &again, 2).1, 0);
            continue;
        }
        refused(outcome(&marks), code, words);
    }
}
