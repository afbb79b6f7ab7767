//! What is restored goes on as the original, with its options and adapters.

use super::*;

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
                draft: None,
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
