//! Log-probabilities of tokens that there are, against mlx-lm's, and what they leave behind.

use std::time::Duration;

use super::adapters::adapter;
use super::parity::{bound, farthest, i32s_of, json};
use super::*;
use crate::error::Code;
use crate::mlx::fault::{self, Kind, Lasting};
use crate::mlx::memory;
use crate::runtime::engine::{resume, suspend};
use crate::runtime::score::score;
use crate::runtime::worker::Worker;

fn tokens(ids: &[i32]) -> Input {
    Input::Tokens(ids.to_vec())
}

fn text(text: &str) -> Input {
    Input::Text {
        text: text.to_owned(),
        no_bos: false,
        special_as_text: false,
    }
}

fn of(session: &Session, prefix: &[i32], target: &[i32]) -> Result<Vec<f32>> {
    score(session, &tokens(prefix), &tokens(target), None, None)
}

fn prefill(session: &Session, ids: &[i32]) {
    let options = GenerateOptions {
        prefill_only: true,
        ..exactly(1)
    };
    run(session, &tokens(ids), &options).result.unwrap();
}

fn floats(value: &serde_json::Value) -> Vec<f32> {
    let list = value.as_array().unwrap().iter();
    list.map(|number| number.as_f64().unwrap() as f32).collect()
}

/// Tokens of no meaning.
fn ids(n: usize) -> Vec<i32> {
    (0..n).map(|i| ((i * 37 + 11) % 107) as i32 + 3).collect()
}

#[test]
fn scores_are_those_of_mlx_lm() {
    let _lock = engine_lock();
    for case in json("scores.json")["scores"].as_array().unwrap() {
        let folder = case["model"].as_str().unwrap();
        let model = load(folder);
        let (all, wanted) = (i32s_of(&case["tokens"]), floats(&case["logprobs"]));
        let exact = case.get("exact").map(floats);
        // In 16 bits the kernels may be as far from the truth as mlx-lm is, and half as far again.
        let (wanted, most) = match exact {
            Some(exact) => {
                let most = 1.5 * farthest(&wanted, &exact);
                (exact, most)
            }
            // What is packed is unpacked in another order of sums.
            None if folder == "qwen3-4bit" => (wanted, 1e-3),
            None => (wanted, bound("f32")),
        };
        // The first so many as the session's, the next as the prefix, the others as the target.
        for (held, prefix) in [(0, 1), (0, 9), (6, 0), (6, 7)] {
            let session = session(&model);
            if held > 0 {
                prefill(&session, &all[..held]);
            }
            let start = held + prefix;
            let ours = of(&session, &all[held..start], &all[start..]).unwrap();
            let worst = farthest(&ours, &wanted[start - 1..]);
            assert!(worst <= most, "{folder} {held} {prefix}: {worst}");
            assert_eq!(session.tokens().unwrap(), all[..held]);
        }
    }
}

/// As docs/sessions.md shows it.
#[test]
fn perplexity_is_mlx_lms() {
    let _lock = engine_lock();
    for case in json("scores.json")["perplexities"].as_array().unwrap() {
        let model = load(case["model"].as_str().unwrap());
        let session = session(&model);
        let mut all = Vec::new();
        for sequence in case["sequences"].as_array().unwrap() {
            let sequence = i32s_of(sequence);
            all.extend(of(&session, &sequence[..1], &sequence[1..]).unwrap());
        }
        let n = all.len() as f64;
        let mean = all.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
        let squares = all
            .iter()
            .map(|&x| (f64::from(x) - mean).powi(2))
            .sum::<f64>();
        let perplexity = (-mean).exp();
        let error = perplexity * (squares / (n - 1.0)).sqrt() / n.sqrt();
        for (ours, theirs) in [(perplexity, "perplexity"), (error, "standard_error")] {
            let theirs = case[theirs].as_f64().unwrap();
            assert!((ours / theirs - 1.0).abs() < 1e-5, "{ours} {theirs}");
        }
    }
}

/// A kind of cache each, and what sessions are made with.
fn cases() -> Vec<(&'static str, SessionOptions)> {
    let window = |window, keep| SessionOptions {
        window,
        keep,
        ..SessionOptions::default()
    };
    vec![
        ("qwen3-f32", window(0, 0)),
        ("qwen3-f32", window(16, -1)),
        ("qwen3-f32", window(16, 4)),
        ("gemma3-text-f32", window(0, 0)),
        ("lfm2-f32", window(0, 0)),
        ("qwen3_5-f32", window(0, 0)),
        ("nemotron_h-f32", window(0, 0)),
        ("deepseek_v3-f32", window(0, 0)),
        ("gemma3n-f32", window(0, 0)),
        ("phi3-f32-longrope", window(0, 0)),
    ]
}

#[test]
fn what_was_generated_is_scored_as_it_was_said() {
    let _lock = engine_lock();
    for (case, options) in cases() {
        let model = load(case);
        let session = Session::new(model.clone(), options).unwrap();
        // Longer than every window, and in turns.
        prefill(&session, &ids(21));
        run(&session, &tokens(&ids(3)), &exactly(5)).result.unwrap();
        let asked = GenerateOptions {
            logprobs: Some(0),
            ..exactly(1)
        };
        let before = session.tokens().unwrap();
        let fork = session.fork().unwrap();
        let (mut said, mut logprobs) = (Vec::new(), Vec::new());
        let (_, result) = generate(&fork, &tokens(&[7, 9]), &asked, &mut |event| {
            if let Event::Text(chunk) = event {
                said.extend_from_slice(&chunk.tokens);
                logprobs.extend_from_slice(&chunk.logprobs);
            }
            true
        });
        result.unwrap();
        let scored = of(&session, &[7, 9], &said).unwrap();
        let worst = farthest(&scored, &logprobs);
        assert!(worst < 1e-4, "{case}: {scored:?} {logprobs:?}");
        assert_eq!(session.tokens().unwrap(), before);
    }
}

#[test]
fn a_score_leaves_no_trace_in_its_session() {
    let _lock = engine_lock();
    for (case, options) in cases() {
        let model = load(case);
        let new = || {
            let session = Session::new(model.clone(), options).unwrap();
            prefill(&session, &ids(21));
            run(&session, &tokens(&ids(3)), &exactly(5)).result.unwrap();
            session
        };
        let (scored, plain) = (new(), new());
        let state = |session: &Session| {
            let info = session.info();
            (
                session.tokens(),
                session.message(),
                info.kv_tokens,
                info.kv_bytes,
                info.busy,
            )
        };
        let before = state(&scored);
        let first = of(&scored, &[5, 6], &ids(40)).unwrap();
        assert_eq!(of(&scored, &[5, 6], &ids(40)).unwrap(), first, "{case}");
        of(&scored, &[], &[8]).unwrap();
        let history = Input::messages(crate::runtime::generate::Conversation {
            messages: r#"[{"role":"user","content":"The answer is 17"}]"#.into(),
            ..Default::default()
        });
        match score(&scored, &history, &text("yes"), None, None) {
            Ok(values) => assert!(!values.is_empty()),
            // A folder without a template.
            Err(error) => assert_eq!(error.code, Code::Unsupported, "{case}: {error}"),
        }
        assert_eq!(state(&scored), before, "{case}");
        let next = |session: &Session| {
            let given = run(session, &tokens(&[5]), &exactly(6));
            given.result.unwrap();
            (given.tokens, given.report.cached_tokens)
        };
        assert_eq!(next(&scored), next(&plain), "{case}");
    }
}

#[test]
fn what_is_computed_of_the_beginning_is_used() {
    let _lock = engine_lock();
    let model = load("qwen3-f32");
    let last = || model.counters.snapshot().last.unwrap();
    let (session, other) = (session(&model), session(&model));
    let all = ids(60);
    prefill(&session, &all[..40]);
    of(&session, &[], &all[40..]).unwrap();
    // The last token's logits are wanted, so that one is computed again.
    assert_eq!((last().prompt_tokens, last().cached_tokens), (60, 39));
    of(&session, &all[40..44], &all[44..]).unwrap();
    assert_eq!(last().cached_tokens, 40);
    of(&other, &all[..44], &all[44..]).unwrap();
    assert_eq!(last().cached_tokens, 40, "another session's");
    assert_eq!(last().generated_tokens, 0);
}

#[test]
fn scores_are_of_the_adapters_that_are_applied() {
    let _lock = engine_lock();
    let model = load("qwen3-f32");
    let session = session(&model);
    let all = ids(12);
    prefill(&session, &all[..6]);
    let plain = of(&session, &[], &all[6..]).unwrap();
    session
        .apply(vec![(adapter(&model, 1, false), 1.0)])
        .unwrap();
    let adapted = of(&session, &[], &all[6..]).unwrap();
    assert!(farthest(&plain, &adapted) > 0.01);
    let fresh = super::session(&model);
    fresh.apply(vec![(adapter(&model, 1, false), 1.0)]).unwrap();
    let wanted = of(&fresh, &all[..6], &all[6..]).unwrap();
    assert!(farthest(&adapted, &wanted) < 1e-4);
    session.apply(Vec::new()).unwrap();
    assert!(farthest(&of(&session, &[], &all[6..]).unwrap(), &plain) < 1e-6);
}

#[test]
fn texts_and_messages_are_scored_as_their_tokens() {
    let _lock = engine_lock();
    let model = load("llama-f32");
    let session = session(&model);
    let encode = |text: &str| {
        let input = Input::Text {
            text: text.to_owned(),
            no_bos: true,
            special_as_text: false,
        };
        crate::runtime::generate::tokens(&model, &input).unwrap()
    };
    let target = "the end of it";
    let bos = model.tokenizer.bos_prefix();
    assert!(!bos.is_empty());
    let with = |prefix: &[i32]| of(&session, prefix, &encode(target)).unwrap();
    let ours = |prefix: &Input| score(&session, prefix, &text(target), None, None).unwrap();
    assert_eq!(
        ours(&text("In ")),
        with(&[bos.as_slice(), &encode("In ")].concat())
    );
    // Nothing before a text is its BOS, which is not scored.
    assert_eq!(ours(&Input::nothing()), with(&bos));
    let history = super::adapters::history();
    let rendered = crate::runtime::generate::tokens(&model, &history).unwrap();
    assert_eq!(ours(&history), with(&rendered));
    // Messages stand in place of what the session holds.
    prefill(&session, &[5, 6, 7]);
    assert_eq!(ours(&history), with_of(&model, &rendered, &encode(target)));
    assert_eq!(session.tokens().unwrap(), [5, 6, 7]);
}

fn with_of(model: &Arc<Model>, prefix: &[i32], target: &[i32]) -> Vec<f32> {
    of(&session(model), prefix, target).unwrap()
}

#[test]
fn what_cannot_be_scored_is_named() {
    let _lock = engine_lock();
    let model = load("qwen3-f32");
    let options = SessionOptions {
        context: 32,
        ..SessionOptions::default()
    };
    let session = Session::new(model.clone(), options).unwrap();
    let refused = |prefix: &Input, target: &Input| {
        let error = score(&session, prefix, target, None, None).unwrap_err();
        (error.code, error.message)
    };
    let (one, nothing) = (tokens(&[5]), tokens(&[]));
    let cases = [
        (
            &one,
            &nothing,
            Code::InvalidArgument,
            "target has no tokens: there is nothing to score",
        ),
        (
            &one,
            &text(""),
            Code::InvalidArgument,
            "target has no tokens: there is nothing to score",
        ),
        (
            &nothing,
            &one,
            Code::InvalidArgument,
            "the prefix has no tokens and the session is empty: there is nothing to go on from",
        ),
        (
            &one,
            &super::adapters::history(),
            Code::InvalidArgument,
            "target.messages: a target is text or tokens; messages are a prefix",
        ),
        (
            &one,
            &tokens(&[1, 1 << 20]),
            Code::InvalidArgument,
            "target.tokens[1] is 1048576",
        ),
        (
            &tokens(&[-1]),
            &one,
            Code::InvalidArgument,
            "prefix.tokens[0] is -1",
        ),
        (
            &one,
            &tokens(&ids(32)),
            Code::ContextFull,
            "the target has 32 tokens, what comes before it 1, and the session's context is 32",
        ),
        (
            &tokens(&ids(33)),
            &one,
            Code::ContextFull,
            "the prefix has 33 tokens, and the session's context is 32",
        ),
        (
            &one,
            &text(&"word ".repeat(1000)),
            Code::ContextFull,
            "the target has more than 32 tokens, and the session's context is 32",
        ),
    ];
    for (prefix, target, code, message) in cases {
        let (found, said) = refused(prefix, target);
        assert_eq!(found, code, "{said}");
        assert!(said.starts_with(message), "{said}");
        assert!(!session.info().busy && session.tokens().unwrap().is_empty());
    }
    // As long as there may be.
    assert_eq!(of(&session, &[5], &ids(31)).unwrap().len(), 31);
}

#[test]
fn a_busy_session_is_not_scored() {
    let _lock = engine_lock();
    let model = load("qwen3-f32");
    let session = Arc::new(session(&model));
    let request = submit(session.clone(), &tokens(&[1, 2]), &exactly(200), None).unwrap();
    assert_eq!(of(&session, &[1], &[2]).unwrap_err().code, Code::Busy);
    request.cancel();
    request.result(None).unwrap().1.unwrap();
    of(&session, &[1], &[2]).unwrap();
    // What is submitted while a score runs begins behind it.
    let mut submitted = None;
    let mut on_progress = |_, _| {
        let queue = || submit(session.clone(), &tokens(&[1]), &exactly(2), None).unwrap();
        submitted.get_or_insert_with(queue);
        assert_eq!(of(&session, &[1], &[2]).unwrap_err().code, Code::Busy);
        assert_eq!(session.fork().err().unwrap().code, Code::Busy);
        true
    };
    score(
        &session,
        &tokens(&[1]),
        &tokens(&ids(300)),
        None,
        Some(&mut on_progress),
    )
    .unwrap();
    submitted.unwrap().result(None).unwrap().1.unwrap();
}

#[test]
fn a_score_tells_how_far_it_is_and_can_be_ended() {
    let _lock = engine_lock();
    let model = load("qwen3-f32");
    let session = session(&model);
    let (prefix, target) = (tokens(&ids(300)), tokens(&ids(400)));
    let mut told = Vec::new();
    let mut on_progress = |done, total| {
        told.push((done, total));
        true
    };
    score(&session, &prefix, &target, None, Some(&mut on_progress)).unwrap();
    assert!(told.len() >= 4 && told.is_sorted(), "{told:?}");
    assert!(told.iter().all(|&(_, total)| total == 699));
    assert_eq!(told.last(), Some(&(699, 699)));

    let mut calls = 0;
    let mut stop = |_, _| {
        calls += 1;
        calls < 3
    };
    let error = score(&session, &prefix, &target, None, Some(&mut stop)).unwrap_err();
    assert_eq!(
        (error.code, error.message.as_str()),
        (Code::Cancelled, "progress stopped the score")
    );
    assert_eq!(calls, 3);

    let mut cancel = |_, _| {
        session.ledger.cancel();
        true
    };
    // The engine may be done before the first call is.
    let mut tries = (0..100).map(|_| score(&session, &prefix, &target, None, Some(&mut cancel)));
    let error = tries.find_map(Result::err).unwrap();
    assert_eq!(
        (error.code, error.message.as_str()),
        (Code::Cancelled, "the score was cancelled")
    );

    // Less than any machine needs, most of the time.
    let timeout = Some(Duration::from_millis(1));
    let mut tries = (0..100).map(|_| score(&session, &prefix, &target, timeout, None));
    let error = tries.find_map(Result::err).unwrap();
    assert_eq!(error.code, Code::Timeout);
    assert!(error.message.contains("options.timeout_ms"), "{error}");
    // While its texts are made into tokens, too.
    let long = text(&"some words and more ".repeat(20_000));
    let timeout = Some(Duration::from_millis(1));
    let error = score(&session, &long, &target, timeout, None).unwrap_err();
    assert!(
        matches!(error.code, Code::Timeout | Code::ContextFull),
        "{error}"
    );

    assert!(!session.info().busy && session.tokens().unwrap().is_empty());
    assert_eq!(of(&session, &[1], &ids(20)).unwrap().len(), 20);
    // What scores made for themselves is gone.
    model.engine.call(|_| Ok(())).unwrap();
    assert_eq!(session.info().kv_bytes, 0);
}

/// With a large vocabulary the logits of all rows would be most of the memory.
#[test]
fn logits_are_there_a_few_at_a_time() {
    let _lock = engine_lock();
    let model = load("qwen3-f32");
    let session = session(&model);
    let long = ids(2000);
    of(&session, &[1], &ids(2)).unwrap();
    model.engine.call(|_| Ok(())).unwrap();
    let before = memory::active();
    memory::reset_peak();
    assert_eq!(of(&session, &[1], &long).unwrap().len(), 2000);
    let took = memory::peak() - before;
    model.engine.call(|_| Ok(())).unwrap();
    assert_eq!(memory::active(), before);
    // Under a limit that leaves so much and no more it goes as well, and with less there is a word.
    let unlimited = memory::limit();
    let limit = |bytes| {
        let limits = crate::runtime::engine::MemoryLimits {
            memory: Some(bytes),
            ..Default::default()
        };
        crate::runtime::engine::set_limits(limits).unwrap();
    };
    let mut fitted = 0;
    for tenths in 3..=10 {
        let most = before + took * tenths / 10;
        limit(most);
        memory::reset_peak();
        let given = of(&session, &[1], &long);
        limit(unlimited);
        match given {
            // With smaller chunks, and as told.
            Ok(logprobs) => {
                assert_eq!(logprobs.len(), 2000);
                let peak = memory::peak();
                assert!(peak <= most, "{tenths}: {peak} of {most}");
                fitted += 1;
            }
            Err(error) => {
                assert_eq!(error.code, Code::OutOfMemory);
                assert!(error.message.contains("bytes are in use"), "{error}");
                assert_eq!(fitted, 0, "{tenths}: less was enough");
            }
        }
        assert!(session.tokens().unwrap().is_empty());
    }
    assert!((1..8).contains(&fitted), "{fitted}");
}

#[test]
fn a_limit_of_keys_and_values_holds() {
    let _lock = engine_lock();
    let model = load("qwen3-f32");
    let options = SessionOptions {
        kv_limit: 100_000,
        ..SessionOptions::default()
    };
    let session = Session::new(model.clone(), options).unwrap();
    let error = of(&session, &[1], &ids(1500)).unwrap_err();
    assert_eq!(error.code, Code::OutOfMemory);
    assert!(error.message.contains("kv_limit"), "{error}");
    of(&session, &[1], &ids(50)).unwrap();
}

fn inject(model: &Model, fault: fn(u64), n: u64) {
    let set = move |_: &mut Worker| {
        fault(n);
        Ok(())
    };
    model.engine.call(set).unwrap();
}

#[test]
fn a_fault_at_any_call_is_survived_with_the_same_numbers() {
    let _lock = engine_lock();
    for (case, step) in [("qwen3-f32", 1), ("lfm2-f32", 5)] {
        let model = load(case);
        let session = session(&model);
        prefill(&session, &ids(9));
        let target = ids(150);
        let wanted = of(&session, &[], &target).unwrap();
        let mut survived = 0;
        for n in (1..).step_by(step) {
            inject(&model, fault::fail_at, n);
            let given = of(&session, &[], &target);
            let struck = model.engine.call(|_| Ok(!fault::pending())).unwrap();
            inject(&model, fault::fail_at, 0);
            let worst = farthest(&given.unwrap(), &wanted);
            // Another way to cut the tokens is another order of sums.
            assert!(worst < 1e-4, "{case}: fault at call {n}: {worst}");
            if !struck {
                break;
            }
            survived += 1;
        }
        assert!(survived > 20, "{case}: only {survived} calls were tried");
        assert_eq!(session.tokens().unwrap(), ids(9));
    }
}

#[test]
fn an_operation_that_always_fails_ends_the_score_and_harms_nobody() {
    let _lock = engine_lock();
    let (broken, healthy) = (load("qwen3-4bit"), load("llama-f32"));
    let target = ids(40);
    let bad = session(&broken);
    prefill(&bad, &ids(5));
    let wanted = of(&bad, &[], &target).unwrap();
    let undisturbed = run(&session(&healthy), &tokens(&ids(4)), &exactly(40)).tokens;
    for kind in [Kind::Call, Kind::Evaluation] {
        let mut struck = 0;
        for number in 1.. {
            let lasting = Lasting {
                model: broken.id,
                session: None,
                kind,
                number,
            };
            let fail = |lasting: Option<Lasting>| {
                let set = move |_: &mut Worker| Ok(fault::fail_turns(lasting));
                broken.engine.call(set).unwrap()
            };
            fail(Some(lasting));
            let beside = Arc::new(session(&healthy));
            let steady = submit(beside.clone(), &tokens(&ids(4)), &exactly(40), None).unwrap();
            let given = of(&bad, &[], &target);
            steady.result(None).unwrap().1.unwrap();
            let times = fail(None);
            assert!(
                beside.tokens().unwrap().ends_with(&undisturbed),
                "{kind:?} {number}"
            );
            if times == 0 {
                break;
            }
            // What is only looked up may fail without harm.
            if let Err(error) = given {
                assert_eq!(error.code, Code::Device, "{kind:?} {number}: {error}");
                struck += 1;
            }
            assert_eq!(bad.tokens().unwrap(), ids(5));
        }
        let enough = if kind == Kind::Call { 10 } else { 3 };
        assert!(struck >= enough, "{kind:?}: only {struck} were tried");
    }
    assert!(farthest(&of(&bad, &[], &target).unwrap(), &wanted) < 1e-4);
}

#[test]
fn failures_of_others_do_not_change_a_score() {
    let _lock = engine_lock();
    let model = load("qwen3-f32");
    let target = ids(400);
    let wanted = of(&session(&model), &[1], &target).unwrap();
    let beside = Arc::new(session(&model));
    let steady = submit(beside.clone(), &tokens(&[1, 2]), &exactly(60), None).unwrap();
    let poisoned = |_: &mut Worker| {
        fault::poison_stream();
        Ok(())
    };
    let mut on_progress = |_, _| {
        model.engine.call(poisoned).unwrap();
        true
    };
    let session = session(&model);
    let given = score(
        &session,
        &tokens(&[1]),
        &tokens(&target),
        None,
        Some(&mut on_progress),
    );
    assert!(farthest(&given.unwrap(), &wanted) < 1e-4);
    steady.result(None).unwrap().1.unwrap();
}

#[test]
fn a_score_waits_while_the_library_is_suspended() {
    let _lock = engine_lock();
    let model = load("qwen3-f32");
    let session = session(&model);
    let target = ids(400);
    let wanted = of(&session, &[1], &target).unwrap();
    let other = super::session(&model);
    prefill(&other, &[1, 2, 3]);
    suspend(None).unwrap();
    let scored = of(&session, &[1], &target);
    let keys = other.inspect_attention(0).err();
    resume().unwrap();
    assert_eq!(scored.unwrap_err().code, Code::Suspended);
    assert_eq!(keys.unwrap().code, Code::Suspended);
    let mut calls = 0;
    let mut on_progress = |_, _| {
        calls += 1;
        if calls == 2 {
            suspend(Some(Duration::from_secs(60))).unwrap();
            let late = std::thread::spawn(|| {
                std::thread::sleep(Duration::from_millis(50));
                resume().unwrap();
            });
            late.join().unwrap();
        }
        true
    };
    let given = score(
        &session,
        &tokens(&[1]),
        &tokens(&target),
        None,
        Some(&mut on_progress),
    );
    assert!(farthest(&given.unwrap(), &wanted) < 1e-4);
}

#[test]
fn scores_take_turns_with_requests() {
    let _lock = engine_lock();
    let model = load("qwen3-f32");
    let wanted = of(&session(&model), &[1], &ids(500)).unwrap();
    let answer = run(&session(&model), &tokens(&[1, 2]), &exactly(80)).tokens;
    std::thread::scope(|scope| {
        let scores: Vec<_> = (0..3)
            .map(|_| scope.spawn(|| of(&session(&model), &[1], &ids(500)).unwrap()))
            .collect();
        let answers: Vec<_> = (0..2)
            .map(|_| scope.spawn(|| run(&session(&model), &tokens(&[1, 2]), &exactly(80)).tokens))
            .collect();
        for given in scores {
            assert!(farthest(&given.join().unwrap(), &wanted) < 1e-4);
        }
        for given in answers {
            assert_eq!(given.join().unwrap(), answer);
        }
    });
}
