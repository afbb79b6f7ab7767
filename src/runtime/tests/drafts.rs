//! A draft model: it changes how fast an answer comes, and nothing of it.

use super::guesses::{repetitive, same, with};
use super::many::{same_as_alone, several, tokens};
use super::*;
use crate::error::Code;
use crate::runtime::options::Drafts;

/// How many of its guesses were right, and how many there were.
fn right(model: &Arc<Model>, options: &GenerateOptions) -> [u64; 2] {
    let given = run(&session(model), &Input::Tokens(tokens(3, 9)), options);
    given.result.unwrap();
    [given.report.accepted, given.report.drafted]
}

#[test]
fn answers_are_those_without_a_draft() {
    let _lock = engine_lock();
    for (name, draft) in [
        ("llama-f32", "llama-f32"),
        ("qwen3-4bit", "qwen3-f32"),
        ("qwen3-f32", "qwen3_5-f32"),
        ("deepseek_v3-f32", "lfm2-f32"),
        ("gemma2-bf16", "gemma3-text-f32"),
        // More rows than the other has tokens.
        ("llama-f32", "llama-f32-untied-bias"),
        ("llama-f32-untied-bias", "llama-f32"),
    ] {
        let model = load_with_draft(name, Some(draft));
        let mut guessed = 0;
        for number in 0..6 {
            let options = GenerateOptions {
                greedy: number % 2 == 0,
                temperature: Some(0.8),
                seed: number as u64 + 1,
                logprobs: (number == 2).then_some(2),
                presence_penalty: if number == 3 { 0.4 } else { 0.0 },
                bias: match number {
                    5 => vec![(3, 0.5), (130, -2.0)],
                    _ => Vec::new(),
                },
                ..computed_anew(if number == 4 { 7 } else { 60 })
            };
            let input = match number {
                0..=2 => Input::Tokens(tokens(number, 40)),
                _ => repetitive(number),
            };
            let [drafted, _] = same(&model, SessionOptions::default(), &input, &options);
            guessed += drafted;
        }
        assert!(guessed > 100, "{name} by {draft}: {guessed} were guessed");
    }
}

/// It draws as the request does: where it thinks as the model does, all of its guesses are right, at any temperature.
#[test]
fn a_draft_that_thinks_alike_is_right() {
    let _lock = engine_lock();
    let model = load_with_draft("llama-f32", Some("llama-f32"));
    for temperature in [0.0, 0.7, 1.5] {
        let options = GenerateOptions {
            greedy: temperature == 0.0,
            temperature: Some(temperature),
            seed: 5,
            frequency_penalty: 0.3,
            ..with(Drafts::Most(4), &computed_anew(80))
        };
        let [right, guessed] = right(&model, &options);
        // (What stood before is guessed, too.)
        assert!(
            guessed > 50 && 10 * right > 9 * guessed,
            "{right} of {guessed}"
        );
    }
    assert_eq!(
        right(&model, &with(Drafts::Off, &computed_anew(80))),
        [0, 0]
    );
}

#[test]
fn drafts_share_passes() {
    let _lock = engine_lock();
    let model = load_with_draft("qwen3-4bit", Some("qwen3-f32"));
    let asked = several(&[5, 9, 30, 4], 60);
    assert!(same_as_alone(&model, &asked, "drafts") >= 3);
}

/// A session goes on, is forked and cut, and its draft follows.
#[test]
fn drafts_follow_sessions() {
    let _lock = engine_lock();
    let model = load_with_draft("qwen3-f32", Some("qwen3-4bit"));
    let going_on = |drafts| {
        let first = session(&model);
        let mut all = run(&first, &repetitive(2), &with(drafts, &exactly(33))).tokens;
        let fork = first.fork().unwrap();
        for (session, number) in [(&first, 2), (&fork, 7), (&first, 4)] {
            let more = Input::Tokens(tokens(number, 4));
            all.extend(run(session, &more, &with(drafts, &exactly(20))).tokens);
        }
        first.truncate(20).unwrap();
        let more = Input::Tokens(tokens(9, 4));
        all.extend(run(&first, &more, &with(drafts, &exactly(20))).tokens);
        all
    };
    assert_eq!(going_on(Drafts::Usual), going_on(Drafts::Off));
}

/// A prompt of several chunks: the first token does not wait for the draft.
#[test]
fn a_draft_catches_up_while_tokens_come() {
    let _lock = engine_lock();
    let model = load_with_draft("llama-f32", Some("llama-f32"));
    let input = Input::Tokens(tokens(1, 500));
    let options = computed_anew(60);
    let given = |drafts| run(&session(&model), &input, &with(drafts, &options));
    let (plain, drafted) = (given(Drafts::Off), given(Drafts::Most(4)));
    assert_eq!(plain.tokens, drafted.tokens);
    let Report {
        drafted, accepted, ..
    } = drafted.report;
    // (On a GPU the rows of a pass round otherwise than one does, and so some guesses are others.)
    assert!(
        drafted > 20 && 5 * accepted > 4 * drafted,
        "{accepted} of {drafted}"
    );
}

#[test]
fn other_tokens_are_refused() {
    let _lock = engine_lock();
    let folder = |case: &str| parity::fixtures().join("models").join(case);
    let load = |name: &str, draft: &std::path::Path| {
        let options = LoadOptions {
            context: 0,
            follow_links: false,
            draft: Some(draft.to_str().unwrap()),
            deadline: None,
            progress: &mut |_, _| true,
        };
        let loaded = model::load(folder(name).to_str().unwrap(), options);
        let looked = model::inspect(
            folder(name).to_str().unwrap(),
            0,
            false,
            draft.to_str(),
            &SessionOptions::default(),
        );
        let (loaded, looked) = (loaded.err().unwrap(), looked.err().unwrap());
        assert_eq!(
            (loaded.code, loaded.to_string()),
            (looked.code, looked.to_string())
        );
        (loaded.code, loaded.to_string())
    };
    let demo = parity::fixtures().join("../../demo/model");
    let (code, text) = load("llama-f32", &demo);
    assert_eq!(code, Code::Incompatible, "{text}");
    assert!(
        text.starts_with("options.draft_path: its tokenizer has "),
        "{text}"
    );
    let (code, text) = load("llama-f32", &folder("none"));
    assert_eq!(code, Code::NotFound, "{text}");
    assert!(text.starts_with("options.draft_path: "), "{text}");
}

/// What fails in a step of the draft is tried again, and the answer is the same.
#[test]
fn a_fault_at_any_call_is_survived_with_the_same_answer() {
    let _lock = engine_lock();
    let model = load_with_draft("qwen3-f32", Some("qwen3-4bit"));
    survives_faults(&model, 9);
}

/// A request with a prompt of so many tokens and guesses, with a fault at each call of MLX.
pub(super) fn survives_faults(model: &Arc<Model>, length: usize) {
    let options = with(Drafts::Most(3), &computed_anew(12));
    let input = Input::Tokens(tokens(3, length));
    let wanted = run(&session(model), &input, &options).tokens;
    let survived = recovery::survived(model, 7, &wanted, || run(&session(model), &input, &options));
    assert!(survived > 100, "only {survived} calls were tried");
}

/// Nothing of a draft is needed: its keys and values are within the session's limit, or it says nothing.
#[test]
fn a_draft_keeps_to_the_limit_of_its_session() {
    let _lock = engine_lock();
    let model = load_with_draft("qwen3-f32", Some("qwen3-4bit"));
    let input = Input::Tokens(tokens(3, 90));
    let options = with(Drafts::Most(3), &computed_anew(60));
    let free = session(&model);
    let wanted = run(&free, &input, &options);
    let both = free.info().kv_bytes;
    let mut drafted = Vec::new();
    // (A draft as large as its model has half of what both take.)
    for limit in [both * 2, both * 3 / 4, both * 5 / 8] {
        let kind = SessionOptions {
            kv_limit: limit,
            ..SessionOptions::default()
        };
        let tight = Session::new(model.clone(), kind).unwrap();
        let given = run(&tight, &input, &options);
        given.result.unwrap();
        assert_eq!(given.tokens, wanted.tokens, "{limit} of {both} bytes");
        let held = tight.info().kv_bytes;
        assert!(held <= limit, "{held} bytes are held, of {limit}");
        drafted.push(given.report.drafted);
    }
    assert!(drafted[0] > 0 && drafted[0] >= drafted[2], "{drafted:?}");
}
