//! What is damaged, cannot be or is another model's is refused by name.

use super::*;

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
