//! Answers that follow a grammar. The fixtures' weights are random, so nothing but the grammar makes them JSON.

use std::time::Duration;

use serde_json::Value;

use super::*;
use crate::error::Code;
use crate::grammar::{Grammar, Kind};
use crate::runtime::generate::{Stop, REPETITION_PENALTY};

const SCHEMA: &str = r#"{
    "type": "object", "additionalProperties": false, "required": ["name", "kind", "count"],
    "properties": {
        "name": { "type": "string", "maxLength": 4 },
        "kind": { "enum": ["first kind", "second kind"] },
        "count": { "type": "integer", "minimum": 0, "maximum": 9 }
    }
}"#;

fn compile(model: &Arc<Model>, kind: Kind, source: &str) -> Arc<Grammar> {
    Arc::new(model.compile_grammar(kind, source, None).unwrap())
}

fn schema(model: &Arc<Model>) -> Arc<Grammar> {
    compile(model, Kind::JsonSchema, SCHEMA)
}

fn prompt() -> Input {
    Input::Tokens(vec![52, 106, 110, 78, 83])
}

fn following(grammar: &Arc<Grammar>) -> GenerateOptions {
    GenerateOptions {
        greedy: true,
        max_tokens: Some(200),
        grammar: Some(grammar.clone()),
        ..GenerateOptions::default()
    }
}

fn drawn(grammar: &Arc<Grammar>, seed: u64) -> GenerateOptions {
    GenerateOptions {
        greedy: false,
        temperature: Some(1.5),
        seed,
        ..following(grammar)
    }
}

fn text(model: &Model, given: &Given) -> String {
    model.tokenizer.detokenize(&given.tokens, true).unwrap()
}

/// An answer of the schema, whole.
fn check(model: &Model, given: &Given) -> Value {
    let text = text(model, given);
    let value: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
    assert!(
        value["name"].as_str().unwrap().chars().count() <= 4,
        "{text}"
    );
    assert!(value["kind"].as_str().unwrap().ends_with(" kind"), "{text}");
    assert!(value["count"].as_u64().unwrap() <= 9, "{text}");
    assert_eq!(given.report.stop, Stop::Grammar);
    assert_eq!(given.report.generated_tokens, given.tokens.len() as u64);
    value
}

#[test]
fn answers_obey_greedy_and_drawn() {
    let _lock = engine_lock();
    for case in [
        "qwen3-f32",
        "llama-4bit-bf16",
        "gemma3-text-f32",
        "lfm2-f32",
    ] {
        let model = load(case);
        let grammar = schema(&model);
        for options in [following(&grammar), drawn(&grammar, 7), drawn(&grammar, 8)] {
            let session = session(&model);
            let given = run(&session, &prompt(), &options);
            check(&model, &given);
            let kept = session.tokens().unwrap();
            assert!(kept.ends_with(&given.tokens), "{case}");
            // The session goes on as any other.
            let more = run(&session, &Input::Tokens(vec![3]), &exactly(4));
            let fresh = super::session(&model);
            let again = [kept.as_slice(), &[3]].concat();
            let anew = run(&fresh, &Input::Tokens(again), &computed_anew(4));
            assert_eq!(more.tokens, anew.tokens, "{case}");
        }
    }
}

/// With log-probabilities nothing is forced: each token has a step of its own, and is the same.
#[test]
fn forced_tokens_are_those_that_steps_give() {
    let _lock = engine_lock();
    let model = load("qwen3-f32");
    let grammar = schema(&model);
    let penalised = |options: GenerateOptions| GenerateOptions {
        repetition_penalty: Some(1.3),
        presence_penalty: 0.5,
        penalty_window: None,
        bias: vec![(12, 1.5), (14, -2.0)],
        ..options
    };
    assert!(REPETITION_PENALTY.contains(&1.3));
    for options in [
        following(&grammar),
        drawn(&grammar, 3),
        penalised(drawn(&grammar, 4)),
        penalised(following(&grammar)),
    ] {
        let by_steps = GenerateOptions {
            logprobs: Some(3),
            ..options.clone()
        };
        let forced = run(&session(&model), &prompt(), &options);
        let stepped = run(&session(&model), &prompt(), &by_steps);
        assert_eq!(forced.tokens, stepped.tokens);
        check(&model, &forced);
    }
}

/// Log-probabilities are the model's own, whatever the grammar allows.
#[test]
fn logprobs_are_those_without_a_grammar() {
    let _lock = engine_lock();
    let model = load("qwen3-f32");
    let grammar = schema(&model);
    let first = |grammar: Option<Arc<Grammar>>| {
        let mut top = None;
        let options = GenerateOptions {
            logprobs: Some(4),
            grammar,
            ..exactly(1)
        };
        let (_, result) = generate(&session(&model), &prompt(), &options, &mut |event| {
            if let Event::Text(chunk) = event {
                top = top.take().or(chunk.tops.first().cloned());
            }
            true
        });
        result.unwrap();
        top.unwrap()
    };
    assert_eq!(first(None), first(Some(grammar)));
}

#[test]
fn ends_are_named() {
    let _lock = engine_lock();
    let model = load("qwen3-f32");
    let session = || super::session(&model);
    let grammar = schema(&model);
    let cut = |n: u64| GenerateOptions {
        max_tokens: Some(n),
        ..following(&grammar)
    };
    let whole = run(&session(), &prompt(), &cut(200)).tokens;
    for n in 1..whole.len() {
        let given = run(&session(), &prompt(), &cut(n as u64));
        assert_eq!(given.report.stop, Stop::Length);
        assert_eq!(given.tokens, whole[..n], "max_tokens {n}");
    }
    let given = run(&session(), &prompt(), &cut(whole.len() as u64));
    assert_eq!(given.report.stop, Stop::Grammar);
    // The only thing that may follow is the end.
    let maybe = compile(&model, Kind::Regex, "(a|b)?");
    let given = run(&session(), &prompt(), &following(&maybe));
    assert!(matches!(given.report.stop, Stop::Eos | Stop::Grammar));
    let unending = GenerateOptions {
        ignore_eos: true,
        ..following(&maybe)
    };
    let given = run(&session(), &prompt(), &unending);
    assert_eq!(given.report.stop, Stop::Grammar);
    assert_eq!(given.tokens.len(), 1);
    // Nothing at all.
    let nothing = compile(&model, Kind::Regex, "");
    let given = run(
        &session(),
        &prompt(),
        &GenerateOptions {
            ignore_eos: true,
            ..following(&nothing)
        },
    );
    given.result.unwrap();
    assert_eq!((given.report.stop, given.tokens.len()), (Stop::Grammar, 0));
    // A stop string in the middle of what is forced.
    let stopped = GenerateOptions {
        stop: vec!["kind\":".into()],
        ..following(&grammar)
    };
    let given = run(&session(), &prompt(), &stopped);
    assert_eq!(given.report.stop, Stop::String);
}

#[test]
fn a_bias_that_leaves_nothing_is_named() {
    let _lock = engine_lock();
    let model = load("qwen3-f32");
    let grammar = compile(&model, Kind::Regex, "[xy]+");
    let ids = model
        .tokenizer
        .encode("xy", crate::text::Specials::AsText, false)
        .unwrap();
    let options = GenerateOptions {
        bias: ids.iter().map(|&id| (id, f32::NEG_INFINITY)).collect(),
        ignore_eos: true,
        ..following(&grammar)
    };
    let given = run(&session(&model), &prompt(), &options);
    let error = given.result.unwrap_err();
    assert_eq!(error.code, Code::InvalidArgument);
    assert!(error.message.contains("the grammar allows"), "{error}");
}

#[test]
fn a_grammar_is_of_one_model() {
    let _lock = engine_lock();
    let (model, other) = (load("qwen3-f32"), load("llama-f32"));
    let again = load("qwen3-f32");
    schema(&again);
    for grammar in [schema(&other), schema(&again)] {
        let given = run(&session(&model), &prompt(), &following(&grammar));
        assert_eq!(given.result.unwrap_err().code, Code::Incompatible);
    }
    // It needs nothing of its model's handle.
    let grammar = schema(&model);
    let session = session(&model);
    drop(model);
    let given = run(&session, &prompt(), &following(&grammar));
    assert_eq!(given.report.stop, Stop::Grammar);
}

#[test]
fn one_grammar_serves_many_at_once() {
    let _lock = engine_lock();
    let model = load("qwen3-f32");
    let grammar = schema(&model);
    let alone: Vec<Vec<i32>> = (1..=6)
        .map(|seed| run(&session(&model), &prompt(), &drawn(&grammar, seed)).tokens)
        .collect();
    std::thread::scope(|scope| {
        for (seed, wanted) in (1..=6).zip(&alone) {
            let (model, grammar) = (&model, &grammar);
            scope.spawn(move || {
                let given = run(&session(model), &prompt(), &drawn(grammar, seed));
                assert_eq!(given.tokens, *wanted);
                check(model, &given);
            });
        }
        // And one without.
        scope.spawn(|| {
            run(&session(&model), &prompt(), &exactly(40))
                .result
                .unwrap()
        });
    });
    // Freed while it is used.
    let session = Arc::new(session(&model));
    let options = drawn(&grammar, 1);
    let request = submit(session.clone(), &prompt(), &options, None).unwrap();
    drop((options, grammar));
    request.result(None).unwrap().1.unwrap();
    assert!(session.tokens().unwrap().ends_with(&alone[0]));
}

/// What a request may have besides a grammar, alone and together.
fn everything(grammar: &Arc<Grammar>, seed: u64) -> Vec<GenerateOptions> {
    let plain = drawn(grammar, seed);
    let penalties = GenerateOptions {
        repetition_penalty: Some(1.4),
        presence_penalty: 0.7,
        frequency_penalty: 0.3,
        ..plain.clone()
    };
    let bias = GenerateOptions {
        bias: vec![(12, 2.0), (14, f32::NEG_INFINITY), (40, -3.0)],
        ..plain.clone()
    };
    let all = GenerateOptions {
        bias: bias.bias.clone(),
        logprobs: Some(2),
        // (It may only come within the first value.)
        stop: vec!["zz".into()],
        ..penalties.clone()
    };
    let logprobs = GenerateOptions {
        logprobs: Some(3),
        ..plain.clone()
    };
    vec![plain, penalties, bias, logprobs, all]
}

/// Whole, or the beginning of an answer up to a stop string.
fn check_end(model: &Model, given: &Given) {
    match given.report.stop {
        Stop::String => assert!(text(model, given).contains("zz")),
        _ => drop(check(model, given)),
    }
}

#[test]
fn an_adapter_answers_by_the_grammar() {
    let _lock = engine_lock();
    for case in ["qwen3-f32", "llama-4bit-bf16"] {
        let model = load(case);
        let grammar = schema(&model);
        let adapter = super::adapters::adapter(&model, 3, false);
        let mut differ = 0;
        for (base, adapted) in everything(&grammar, 11)
            .iter()
            .zip(everything(&grammar, 11))
        {
            let plain = run(&session(&model), &prompt(), base);
            let session = session(&model);
            session.apply(vec![(adapter.clone(), 1.0)]).unwrap();
            let given = run(&session, &prompt(), &adapted);
            given.result.as_ref().unwrap();
            check_end(&model, &given);
            differ += usize::from(given.tokens != plain.tokens);
            // What is forced and what has a step of its own leave the same keys and values.
            let kept = session.tokens().unwrap();
            let more = run(&session, &Input::Tokens(vec![3]), &exactly(4));
            let fresh = super::session(&model);
            fresh.apply(vec![(adapter.clone(), 1.0)]).unwrap();
            let again = [kept.as_slice(), &[3]].concat();
            let anew = run(&fresh, &Input::Tokens(again), &computed_anew(4));
            assert_eq!(more.tokens, anew.tokens, "{case}");
        }
        assert!(differ > 0, "{case}: the adapter changes nothing");
    }
}

#[test]
fn four_threads_share_a_grammar_with_options_of_their_own() {
    let _lock = engine_lock();
    let model = load("qwen3-f32");
    let grammar = schema(&model);
    let adapter = super::adapters::adapter(&model, 5, false);
    let adapted = |thread: usize| {
        let session = session(&model);
        if thread % 2 == 1 {
            session.apply(vec![(adapter.clone(), 1.0)]).unwrap();
        }
        session
    };
    let answers = |thread: usize, grammar: &Arc<Grammar>| -> Vec<Vec<i32>> {
        let options = everything(grammar, 20 + thread as u64);
        let each = options.iter().map(|options| {
            let given = run(&adapted(thread), &prompt(), options);
            given.result.as_ref().unwrap();
            check_end(&model, &given);
            given.tokens
        });
        each.collect()
    };
    let alone: Vec<_> = (0..4).map(|thread| answers(thread, &grammar)).collect();
    std::thread::scope(|scope| {
        for (thread, wanted) in alone.iter().enumerate() {
            // Each thread has its own handle, and the last to end frees the grammar.
            let (grammar, answers) = (grammar.clone(), &answers);
            scope.spawn(move || assert_eq!(answers(thread, &grammar), *wanted));
        }
        drop(grammar);
    });
}

/// As on a GPU, where the step behind a token is queued before the token is read.
fn ahead(model: &Model, ahead: bool) {
    let set = move |worker: &mut crate::runtime::worker::Worker| {
        worker.reads_first = !ahead;
        Ok(())
    };
    model.engine.call(set).unwrap();
}

#[test]
fn a_fault_at_any_call_is_survived_with_the_same_answer() {
    let _lock = engine_lock();
    let model = load("qwen3-f32");
    let grammar = schema(&model);
    let options = drawn(&grammar, 5);
    let wanted = run(&session(&model), &prompt(), &options).tokens;
    for runs_ahead in [false, true] {
        ahead(&model, runs_ahead);
        let survived = recovery::survived(&model, 3, &wanted, || {
            run(&session(&model), &prompt(), &options)
        });
        assert!(survived > 30, "only {survived} calls were tried");
    }
    ahead(&model, false);
}

#[test]
fn running_ahead_gives_the_same() {
    let _lock = engine_lock();
    for case in ["qwen3-f32", "lfm2-f32", "gemma3-text-f32"] {
        let model = load(case);
        let grammar = schema(&model);
        for options in [following(&grammar), drawn(&grammar, 7), drawn(&grammar, 9)] {
            let wanted = run(&session(&model), &prompt(), &options);
            ahead(&model, true);
            let session = session(&model);
            let given = run(&session, &prompt(), &options);
            assert_eq!(given.tokens, wanted.tokens, "{case}");
            check(&model, &given);
            // What it left in the caches is right.
            let more = run(&session, &Input::Tokens(vec![3]), &exactly(4));
            ahead(&model, false);
            let all = [vec![52, 106, 110, 78, 83], given.tokens, vec![3]].concat();
            let fresh = super::session(&model);
            let anew = run(&fresh, &Input::Tokens(all), &computed_anew(4));
            assert_eq!(more.tokens, anew.tokens, "{case}");
        }
    }
}

#[test]
fn cancels_and_deadlines_leave_the_session_usable() {
    let _lock = engine_lock();
    let model = load("qwen3-f32");
    let grammar = compile(&model, Kind::Regex, "[a-z]+");
    let session = Arc::new(session(&model));
    let unending = GenerateOptions {
        ignore_eos: true,
        max_tokens: None,
        ..following(&grammar)
    };
    for n in [1, 2, 5] {
        let mut left = n;
        let (report, result) = generate(&session, &prompt(), &unending, &mut |_| {
            left -= 1;
            left > 0
        });
        result.unwrap();
        assert_eq!(report.stop, Stop::Callback);
        assert_eq!(report.generated_tokens, n);
    }
    let late = GenerateOptions {
        timeout: Some(Duration::from_millis(30)),
        ..unending
    };
    let given = run(&session, &prompt(), &late);
    assert!(matches!(given.report.stop, Stop::Timeout | Stop::Context));
    let grammar = schema(&model);
    check(&model, &run(&session, &prompt(), &following(&grammar)));
}
