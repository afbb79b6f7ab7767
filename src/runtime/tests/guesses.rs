//! Tokens that are guessed: they change how fast an answer comes, and nothing of it.

use super::many::{same_as_alone, several, tokens};
use super::*;
use crate::grammar::Kind;
use crate::runtime::options::Drafts;

/// A text in which much comes twice.
pub(super) fn repetitive(number: usize) -> Input {
    let part = tokens(number, 12);
    Input::Tokens([&part[..], &part, &tokens(number + 50, 5), &part].concat())
}

pub(super) fn with(drafts: Drafts, options: &GenerateOptions) -> GenerateOptions {
    GenerateOptions {
        drafts,
        ..options.clone()
    }
}

/// With guesses and without: the same tokens and log-probabilities. How many were guessed and right.
pub(super) fn same(
    model: &Arc<Model>,
    session: SessionOptions,
    input: &Input,
    options: &GenerateOptions,
) -> [u64; 2] {
    let run = |drafts| {
        let session = Session::new(model.clone(), session).unwrap();
        let mut given = (Vec::new(), Vec::new());
        let (report, result) = generate(&session, input, &with(drafts, options), &mut |event| {
            if let Event::Text(chunk) = event {
                given.0.extend_from_slice(&chunk.tokens);
                given
                    .1
                    .extend(chunk.logprobs.iter().map(|value| value.to_bits()));
            }
            true
        });
        result.unwrap();
        // What is left of guesses that were wrong is not in the session.
        let kv = session.info().kv_tokens;
        assert!(
            kv <= session.tokens().unwrap().len() as u64,
            "{kv} tokens are held"
        );
        (given, report)
    };
    let (wanted, plain) = run(Drafts::Off);
    assert_eq!((plain.drafted, plain.accepted), (0, 0));
    let mut counts = [0; 2];
    for drafts in [Drafts::Usual, Drafts::Most(3), Drafts::Most(1000)] {
        let (given, report) = run(drafts);
        assert_eq!(given, wanted, "{drafts:?}");
        assert_eq!(report.stop, plain.stop);
        assert!(report.accepted <= report.drafted);
        counts[0] += report.drafted;
        counts[1] += report.accepted;
    }
    counts
}

#[test]
fn answers_are_those_without_guesses() {
    let _lock = engine_lock();
    let mut all = [0; 2];
    for name in [
        "qwen3-4bit",
        "llama-f32",
        "gemma2-bf16",
        "deepseek_v3-f32",
        "gpt_oss-f32",
        "phi3-f32-longrope",
    ] {
        let model = load(name);
        for number in 0..6 {
            let options = GenerateOptions {
                greedy: number % 2 == 0,
                // Small models say anything; so what was said comes again.
                temperature: Some(0.05),
                seed: number as u64 + 1,
                logprobs: (number == 2).then_some(2),
                presence_penalty: if number == 3 { 0.4 } else { 0.0 },
                ..computed_anew(if number == 4 { 7 } else { 60 })
            };
            let counts = same(
                &model,
                SessionOptions::default(),
                &repetitive(number),
                &options,
            );
            all[0] += counts[0];
            all[1] += counts[1];
        }
    }
    assert!(all[1] > 500, "{} of {} guesses were right", all[1], all[0]);
}

#[test]
fn windows_and_states_are_never_guessed_beyond() {
    let _lock = engine_lock();
    let mut windows = 0;
    for (name, window) in [
        ("qwen3-f32", 120),
        ("gemma3-text-f32", 0),
        ("qwen3_5-f32", 0),
        ("lfm2-f32", 0),
    ] {
        let model = load(name);
        let kind = SessionOptions {
            window,
            keep: if window > 0 { -1 } else { 0 },
            ..SessionOptions::default()
        };
        let drafted =
            (0..5).map(|number| same(&model, kind, &repetitive(number), &computed_anew(100))[0]);
        let drafted: u64 = drafted.sum();
        let states = ["qwen3_5-f32", "lfm2-f32"].contains(&name);
        assert!(!states || drafted == 0, "{name}: {drafted} were guessed");
        windows += if states { 0 } else { drafted };
    }
    assert!(windows > 0, "nothing was guessed before windows turned");
}

/// Answers end where they would, in the middle of what was guessed right.
#[test]
fn ends_are_found_among_guesses() {
    let _lock = engine_lock();
    let model = load("llama-f32");
    let wanted = run(
        &session(&model),
        &repetitive(2),
        &with(Drafts::Off, &computed_anew(60)),
    )
    .tokens;
    for at in 1..40 {
        let most = computed_anew(at);
        same(&model, SessionOptions::default(), &repetitive(2), &most);
        let stop = GenerateOptions {
            stop_tokens: vec![wanted[at as usize]],
            ..computed_anew(60)
        };
        same(&model, SessionOptions::default(), &repetitive(2), &stop);
    }
    // And the next request of the session goes on from what was said.
    let going_on = |drafts| {
        let session = session(&model);
        let mut all = run(&session, &repetitive(2), &with(drafts, &exactly(33))).tokens;
        let more = Input::Tokens(tokens(2, 4));
        all.extend(run(&session, &more, &with(drafts, &exactly(20))).tokens);
        all
    };
    assert_eq!(going_on(Drafts::Usual), going_on(Drafts::Off));
}

#[test]
fn guesses_share_passes() {
    let _lock = engine_lock();
    let model = load("qwen3-4bit");
    let mut asked = several(&[5, 9, 30, 4], 60);
    for (number, asked) in asked.iter_mut().enumerate() {
        asked.input = repetitive(number);
        asked.options.temperature = Some(0.05);
    }
    assert!(same_as_alone(&model, &asked, "guesses") >= 3);
}

/// What is drawn is what the grammar allows there, also behind guesses, and what it forces comes as it does without.
#[test]
fn grammars_hold_behind_guesses() {
    let _lock = engine_lock();
    let mut all = [0; 2];
    for (model, logprobs) in [
        (load("qwen3-4bit"), None),
        (load_with_draft("qwen3-4bit", Some("qwen3-f32")), Some(1)),
    ] {
        let schema = r#"{"type": "array", "minItems": 6, "maxItems": 9, "items": {"enum": ["abcab", "abc", 12, 121212, true]}}"#;
        let lark = "start: (\"abcabc\" | \"ab\" | /[a-c]{3}/)+";
        for (kind, source) in [(Kind::JsonSchema, schema), (Kind::Lark, lark)] {
            let grammar = Arc::new(model.compile_grammar(kind, source, None).unwrap());
            for number in 0..4 {
                let options = GenerateOptions {
                    greedy: number % 2 == 0,
                    temperature: Some(0.4),
                    seed: number as u64 + 1,
                    grammar: Some(grammar.clone()),
                    ignore_eos: false,
                    presence_penalty: if number == 3 { 0.4 } else { 0.0 },
                    logprobs,
                    ..computed_anew(60)
                };
                let text = Input::Text {
                    text: "[\"abcab\", \"abcab\", 121212, \"abc\", \"abcab\", ".into(),
                    no_bos: false,
                    special_as_text: false,
                };
                for input in [text, repetitive(number)] {
                    let counts = same(&model, SessionOptions::default(), &input, &options);
                    all[0] += counts[0];
                    all[1] += counts[1];
                }
            }
        }
    }
    assert!(all[1] > 100, "{} of {} guesses were right", all[1], all[0]);
}
