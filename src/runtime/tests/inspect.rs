//! Keys of a session's layers, against mlx-lm's caches.

use safetensors::SafeTensors;

use super::parity::{bound, f32s, farthest, fixtures, i32s_of, json};
use super::*;
use crate::error::Code;
use crate::runtime::engine::Trim;

/// Takes tokens in as mlx-lm was given them: some together, and the others one by one.
fn fill(session: &Session, tokens: &[i32], together: usize) {
    let prefill = GenerateOptions {
        prefill_only: true,
        ..exactly(1)
    };
    let (first, rest) = tokens.split_at(together);
    for piece in std::iter::once(first).chain(rest.chunks(1)) {
        run(session, &Input::Tokens(piece.to_vec()), &prefill)
            .result
            .unwrap();
    }
}

#[test]
fn keys_are_those_of_mlx_lm() {
    let _lock = engine_lock();
    let bytes = std::fs::read(fixtures().join("keys.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    for case in json("scores.json")["keys"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let folder = case["model"].as_str().unwrap();
        let model = load(folder);
        let options = SessionOptions {
            window: case["window"].as_u64().unwrap_or(0) as u32,
            ..SessionOptions::default()
        };
        let session = Session::new(model, options).unwrap();
        let tokens = i32s_of(&case["tokens"]);
        fill(
            &session,
            &tokens,
            case["together"].as_u64().unwrap() as usize,
        );
        for layer in i32s_of(&case["layers"]) {
            let tensor = format!("{name}/{layer}");
            let ours = session.inspect_attention(layer as u32).unwrap();
            let shape: Vec<i32> = file
                .tensor(&tensor)
                .unwrap()
                .shape()
                .iter()
                .map(|&n| n as i32)
                .collect();
            assert_eq!(ours.shape, shape, "{tensor}");
            let theirs = f32s(&file, &tensor);
            let largest = theirs
                .iter()
                .fold(0.0, |most: f32, key| most.max(key.abs()));
            let most = match folder.ends_with("bf16") {
                // Two roundings to 8 bits.
                true => largest / 64.0,
                false => bound("f32"),
            };
            let worst = farthest(&ours.values, &theirs);
            assert!(worst <= most, "{tensor}: {worst}");
        }
    }
}

#[test]
fn keys_are_of_the_sessions_own_tokens() {
    let _lock = engine_lock();
    for case in ["qwen3-f32", "lfm2-f32"] {
        let model = load(case);
        let layer = if case == "lfm2-f32" { 1 } else { 0 };
        let session = session(&model);
        let tokens = |session: &Session| session.inspect_attention(layer).map(|keys| keys.shape[1]);
        let error = tokens(&session).unwrap_err();
        assert_eq!(error.code, Code::NotFound);
        assert_eq!(
            error.message,
            "the session holds no tokens yet, and so no keys"
        );

        let prompt: Vec<i32> = (3..15).collect();
        run(&session, &Input::Tokens(prompt), &exactly(4))
            .result
            .unwrap();
        // The last token is not computed before the next request.
        assert_eq!(session.tokens().unwrap().len(), 16);
        assert_eq!(tokens(&session), Ok(15));
        let all = session.inspect_attention(layer).unwrap();
        let fork = session.fork().unwrap();
        assert_eq!(fork.inspect_attention(layer).unwrap().values, all.values);

        // A cut takes keys away at once, also in layers beside which states go back to marks only.
        session.truncate(7).unwrap();
        let cut = session.inspect_attention(layer).unwrap();
        assert_eq!(cut.shape, [all.shape[0], 7, all.shape[2]]);
        let dim = all.shape[2] as usize;
        for head in 0..all.shape[0] as usize {
            let of = |keys: &super::super::adapter::TensorData, n: usize| {
                let rows = keys.shape[1] as usize * dim;
                keys.values[head * rows..head * rows + n * dim].to_vec()
            };
            assert_eq!(of(&cut, 7), of(&all, 7));
        }
        assert_eq!(tokens(&fork), Ok(15));
        session.truncate(0).unwrap();
        assert_eq!(tokens(&session).unwrap_err().code, Code::NotFound);

        super::super::engine::trim(Trim::IdleSessions).unwrap();
        let error = tokens(&fork).unwrap_err();
        assert_eq!(error.code, Code::NotFound);
        assert_eq!(
            error.message,
            "of the session's 16 tokens no keys are there: its next request computes them"
        );
        run(&fork, &Input::Tokens(vec![5]), &exactly(1))
            .result
            .unwrap();
        assert_eq!(tokens(&fork), Ok(17));
    }
}

#[test]
fn a_window_that_has_turned_has_no_keys_of_a_cut_session() {
    let _lock = engine_lock();
    let options = SessionOptions {
        window: 8,
        keep: 2,
        ..SessionOptions::default()
    };
    let session = Session::new(load("qwen3-f32"), options).unwrap();
    fill(&session, &(3..23).collect::<Vec<_>>(), 20);
    assert_eq!(session.inspect_attention(0).unwrap().shape[1], 8);
    session.truncate(19).unwrap();
    assert_eq!(
        session.inspect_attention(0).err().unwrap().code,
        Code::NotFound
    );
}

#[test]
fn what_has_no_keys_is_named() {
    let _lock = engine_lock();
    for (case, layer, code, message) in [
        (
            "qwen3-f32",
            2,
            Code::InvalidArgument,
            "layer is 2, and the model has 2 layers, the first of which is 0",
        ),
        (
            "qwen3-f32",
            u32::MAX,
            Code::InvalidArgument,
            "layer is 4294967295, and the model has 2 layers, the first of which is 0",
        ),
        (
            "deepseek_v3-f32",
            0,
            Code::Unsupported,
            "layer 0 has no keys: it keeps a latent of each token",
        ),
        (
            "lfm2-f32",
            0,
            Code::Unsupported,
            "layer 0 has no keys: it keeps a state of all tokens",
        ),
        (
            "nemotron_h-f32",
            1,
            Code::Unsupported,
            "layer 1 has no keys: it looks at no other tokens",
        ),
    ] {
        let model = load(case);
        let session = session(&model);
        run(&session, &Input::Tokens(vec![3, 4, 5]), &exactly(1))
            .result
            .unwrap();
        let error = session.inspect_attention(layer).err().unwrap();
        assert_eq!(
            (error.code, error.message.as_str()),
            (code, message),
            "{case}"
        );
    }
}

#[test]
fn keys_are_of_the_adapters_that_are_applied() {
    let _lock = engine_lock();
    let model = load("qwen3-f32");
    let session = session(&model);
    run(&session, &Input::Tokens(vec![3, 4, 5]), &exactly(2))
        .result
        .unwrap();
    let plain = session.inspect_attention(1).unwrap();
    let options = crate::runtime::adapter::AdapterOptions::default();
    let adapter = crate::runtime::adapter::Adapter::create(model.clone(), &options).unwrap();
    let adapter = Arc::new(adapter);
    session.apply(vec![(adapter.clone(), 1.0)]).unwrap();
    assert_eq!(
        session.inspect_attention(1).err().unwrap().code,
        Code::NotFound
    );
    run(&session, &Input::Tokens(vec![]), &exactly(1))
        .result
        .unwrap();
    assert_eq!(session.inspect_attention(1).unwrap().shape[1], 5);
    session.apply(Vec::new()).unwrap();
    // What was computed without them is still there.
    assert_eq!(session.inspect_attention(1).unwrap().values, plain.values);
}

#[test]
fn what_is_busy_shows_no_keys() {
    let _lock = engine_lock();
    let model = load("qwen3-f32");
    let session = Arc::new(session(&model));
    let mut tried = Vec::new();
    let (_, result) = generate(
        &session,
        &Input::Tokens(vec![1, 2, 3]),
        &exactly(2),
        &mut |_| {
            tried.push(session.inspect_attention(0).err().map(|error| error.code));
            true
        },
    );
    result.unwrap();
    assert!(!tried.is_empty() && tried.iter().all(|code| *code == Some(Code::Busy)));
    session.inspect_attention(0).unwrap();
    // Nothing is left of the hold.
    run(&session, &Input::Tokens(vec![1]), &exactly(2))
        .result
        .unwrap();
}

#[test]
fn no_keys_are_copied_where_the_memory_is_short() {
    let _lock = engine_lock();
    let model = load("qwen3-f32");
    let session = session(&model);
    run(&session, &Input::Tokens(vec![1, 2, 3]), &exactly(2))
        .result
        .unwrap();
    let before = crate::mlx::memory::limit();
    let limit = |bytes| {
        let limits = crate::runtime::engine::MemoryLimits {
            memory: Some(bytes),
            ..Default::default()
        };
        crate::runtime::engine::set_limits(limits).unwrap();
    };
    limit(crate::mlx::memory::active());
    let error = session.inspect_attention(0).err().unwrap();
    limit(before);
    assert_eq!(error.code, Code::OutOfMemory);
    assert!(error.message.contains("the keys take up to"), "{error}");
    session.inspect_attention(0).unwrap();
}
