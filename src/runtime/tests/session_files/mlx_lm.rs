//! Prompt caches of mlx-lm.

use super::*;

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
