//! The ledger: what a session keeps, and that reuse never changes a token.

use super::*;
use crate::error::Code;
use crate::runtime::generate::{Conversation, Stop};

pub(super) fn messages(json: &str) -> Input {
    Input::messages(Conversation {
        messages: json.into(),
        ..Conversation::default()
    })
}

pub(super) const FIRST: &str = r#"[{"role":"user","content":"The answer is 17"}]"#;

pub(super) fn second(session: &Session) -> String {
    let answer = session.message().unwrap();
    format!(
        r#"[{{"role":"user","content":"The answer is 17"}},{answer},{{"role":"user","content":"Why?"}}]"#
    )
}

#[test]
fn a_second_turn_reuses_the_first_and_equals_a_fresh_session() {
    let _lock = engine_lock();
    for case in ["qwen3-f32", "llama-f32", "gemma3-text-f32"] {
        let model = load(case);
        let session = session(&model);
        let first = run(&session, &messages(FIRST), &exactly(5));
        first.result.unwrap();
        assert_eq!(first.report.cached_tokens, 0);
        let history = second(&session);
        let reused = run(&session, &messages(&history), &exactly(20));
        let fresh = super::session(&model);
        let anew = run(&fresh, &messages(&history), &computed_anew(20));
        assert_eq!(reused.tokens, anew.tokens, "{case}");
        assert_eq!(session.tokens().unwrap(), fresh.tokens().unwrap(), "{case}");
        assert!(
            reused.report.cached_tokens > 0 || case.starts_with("gemma"),
            "{case}: nothing was reused"
        );
        assert_eq!(anew.report.cached_tokens, 0);
    }
}

#[test]
fn a_window_that_has_turned_starts_again_and_gives_the_same() {
    let _lock = engine_lock();
    let model = load("qwen3-f32");
    let options = SessionOptions {
        window: 16,
        keep: 4,
        ..SessionOptions::default()
    };
    let session = Session::new(model.clone(), options).unwrap();
    run(&session, &messages(FIRST), &exactly(30))
        .result
        .unwrap();
    let history = second(&session);
    let again = run(&session, &messages(&history), &exactly(10));
    let fresh = Session::new(model, options).unwrap();
    assert_eq!(
        again.tokens,
        run(&fresh, &messages(&history), &computed_anew(10)).tokens
    );
    assert_eq!(again.report.cached_tokens, 0);
}

#[test]
fn a_window_that_is_just_full_gives_the_same() {
    let _lock = engine_lock();
    let model = load("qwen3-f32");
    let first = GenerateOptions {
        prefill_only: true,
        ..exactly(1)
    };
    let probe = session(&model);
    run(&probe, &messages(FIRST), &first).result.unwrap();
    let options = SessionOptions {
        window: probe.tokens().unwrap().len() as u32,
        keep: 4,
        ..SessionOptions::default()
    };
    let session = Session::new(model.clone(), options).unwrap();
    run(&session, &messages(FIRST), &first).result.unwrap();
    assert_eq!(session.info().kv_tokens, u64::from(options.window));
    let history = FIRST.replace(
        ']',
        r#",{"role":"assistant","content":"17"},{"role":"user","content":"Why?"}]"#,
    );
    let logprobs = |session: &Session| {
        let mut all = Vec::new();
        let options = GenerateOptions {
            logprobs: Some(0),
            ..exactly(5)
        };
        let (_, result) = generate(session, &messages(&history), &options, &mut |event| {
            if let Event::Text(chunk) = event {
                all.extend_from_slice(&chunk.logprobs);
            }
            true
        });
        result.unwrap();
        all
    };
    let again = logprobs(&session);
    let anew = logprobs(&Session::new(model, options).unwrap());
    for (a, b) in again.iter().zip(&anew) {
        assert!((a - b).abs() < 1e-4, "{again:?} {anew:?}");
    }
}

/// Longrope turns all tokens of a long sequence by other factors than those of a short one.
#[test]
fn a_sequence_that_outgrows_its_short_factors_goes_on_as_a_long_one() {
    let _lock = engine_lock();
    let model = load("phi3-f32-longrope");
    // The model was made for 48 tokens.
    let prompt: Vec<i32> = (0..40).map(|i| (i * 37 + 5) % 120).collect();
    let grown = session(&model);
    let answer = run(&grown, &Input::Tokens(prompt.clone()), &exactly(30));
    answer.result.unwrap();
    let after = |taken: usize, more: u64| {
        let history = [prompt.as_slice(), &answer.tokens[..taken]].concat();
        run(&session(&model), &Input::Tokens(history), &exactly(more)).tokens
    };
    // 48 tokens are still a short one: the eighth comes of 47.
    assert_eq!(after(0, 8), answer.tokens[..8]);
    for taken in [9, 10, 15, 29] {
        let more = 30 - taken as u64;
        assert_eq!(after(taken, more), answer.tokens[taken..], "{taken}");
    }
}

#[test]
fn progress_changes_no_token() {
    let _lock = engine_lock();
    let model = load("qwen3-f32");
    let prompt: Vec<i32> = (0..40).map(|i| (i * 37 + 5) % 128).collect();
    for (window, keep) in [(0, 0), (16, -1), (16, 4)] {
        let given = [0, 1, 5].map(|progress_tokens| {
            let options = SessionOptions {
                window,
                keep,
                ..SessionOptions::default()
            };
            let session = Session::new(model.clone(), options).unwrap();
            let generate = GenerateOptions {
                progress_tokens,
                ..exactly(12)
            };
            run(&session, &Input::Tokens(prompt.clone()), &generate).tokens
        });
        assert_eq!(given[0], given[1], "window {window}, keep {keep}");
        assert_eq!(given[0], given[2], "window {window}, keep {keep}");
    }
}

#[test]
fn text_and_tokens_go_on_where_the_session_is() {
    let _lock = engine_lock();
    let model = load("qwen3-f32");
    let all: Vec<i32> = vec![52, 106, 110, 78, 83, 87, 109, 0, 126, 17, 23, 9, 41];
    let whole = run(&session(&model), &Input::Tokens(all.clone()), &exactly(8)).tokens;
    let parts = session(&model);
    for part in all[..10].chunks(3) {
        let options = GenerateOptions {
            prefill_only: true,
            ..exactly(1)
        };
        let given = run(&parts, &Input::Tokens(part.to_vec()), &options);
        given.result.unwrap();
        assert!(given.tokens.is_empty());
    }
    let given = run(&parts, &Input::Tokens(all[10..].to_vec()), &exactly(8));
    assert_eq!(given.tokens, whole);
    assert_eq!(
        (given.report.prompt_tokens, given.report.cached_tokens),
        (13, 10)
    );
    assert_eq!(parts.tokens().unwrap(), [all, whole].concat());
}

#[test]
fn a_stop_by_the_callback_keeps_what_was_delivered() {
    let _lock = engine_lock();
    let model = load("qwen3-f32");
    let wanted = run(
        &session(&model),
        &Input::Tokens(vec![5, 6, 7]),
        &exactly(60),
    )
    .tokens;
    let session = session(&model);
    let mut delivered = Vec::new();
    let (report, result) = generate(
        &session,
        &Input::Tokens(vec![5, 6, 7]),
        &exactly(60),
        &mut |event| {
            if let Event::Text(chunk) = event {
                delivered.extend_from_slice(&chunk.tokens);
            }
            delivered.len() < 10
        },
    );
    result.unwrap();
    assert_eq!(report.stop, Stop::Callback);
    assert_eq!(
        session.tokens().unwrap(),
        [vec![5, 6, 7], delivered.clone()].concat()
    );
    // Going on from there gives what would have come.
    let rest = run(
        &session,
        &Input::Tokens(vec![]),
        &exactly(60 - delivered.len() as u64),
    );
    assert_eq!([delivered, rest.tokens].concat(), wanted);
}

#[test]
fn a_stop_before_the_first_token_leaves_the_session_as_it_was() {
    let _lock = engine_lock();
    let model = load("qwen3-f32");
    let session = session(&model);
    run(&session, &Input::Tokens(vec![5, 6]), &exactly(2))
        .result
        .unwrap();
    let before = (session.tokens().unwrap(), session.message().unwrap());
    for prefill_only in [false, true] {
        let options = GenerateOptions {
            progress_tokens: 1,
            prefill_only,
            ..exactly(3)
        };
        let (report, result) = generate(
            &session,
            &Input::Tokens(vec![7]),
            &options,
            &mut |event| match event {
                Event::Progress { done, total } if done == total => {
                    // Meanwhile the engine comes to the end by itself.
                    std::thread::sleep(std::time::Duration::from_millis(200));
                    false
                }
                _ => true,
            },
        );
        result.unwrap();
        assert_eq!((report.stop, report.generated_tokens), (Stop::Callback, 0));
        let after = (session.tokens().unwrap(), session.message().unwrap());
        assert_eq!(after, before, "prefill_only: {prefill_only}");
    }
}

#[test]
fn a_session_that_was_closed_ends_what_begins_on_it() {
    let _lock = engine_lock();
    let model = load("qwen3-f32");
    let session = session(&model);
    session.close();
    let given = run(&session, &Input::Tokens(vec![5, 6]), &exactly(20));
    given.result.unwrap();
    assert_eq!(given.report.stop, Stop::Cancelled);
    assert!(given.tokens.is_empty());
}

#[test]
fn a_full_context_is_an_error_before_and_a_stop_within() {
    let _lock = engine_lock();
    let model = load("qwen3-f32");
    let small = Session::new(
        model,
        SessionOptions {
            context: 12,
            ..SessionOptions::default()
        },
    )
    .unwrap();
    let error = run(&small, &Input::Tokens(vec![1; 12]), &exactly(1))
        .result
        .unwrap_err();
    assert_eq!(error.code, Code::ContextFull);
    let given = run(
        &small,
        &Input::Tokens(vec![1; 5]),
        &GenerateOptions {
            max_tokens: None,
            ..exactly(0)
        },
    );
    assert_eq!((given.tokens.len(), given.report.stop), (7, Stop::Context));
    assert_eq!(small.tokens().unwrap().len(), 12);
}

#[test]
fn many_sessions_at_once_give_what_they_give_alone() {
    let _lock = engine_lock();
    let models = [
        load("qwen3-4bit"),
        load("llama-f32"),
        load("gemma3-text-f32"),
    ];
    let prompts: Vec<Vec<i32>> = (0..6)
        .map(|i| (0..=i + 3).map(|t| (t * 7 + i) % 120).collect())
        .collect();
    let alone: Vec<Vec<i32>> = (0..6)
        .map(|i| {
            run(
                &session(&models[i % 3]),
                &Input::Tokens(prompts[i].clone()),
                &exactly(50),
            )
            .tokens
        })
        .collect();
    std::thread::scope(|scope| {
        for i in 0..6 {
            let (model, prompt, wanted) = (&models[i % 3], &prompts[i], &alone[i]);
            scope.spawn(move || {
                for _ in 0..3 {
                    let given = run(
                        &session(model),
                        &Input::Tokens(prompt.clone()),
                        &exactly(50),
                    );
                    assert_eq!(&given.tokens, wanted);
                }
            });
        }
    });
}

#[test]
fn memory_comes_back() {
    let _lock = engine_lock();
    let keep = load("llama-f32");
    let settle = || {
        keep.engine
            .call(|_| Ok(crate::mlx::memory::active()))
            .unwrap()
    };
    let before = settle();
    for _ in 0..5 {
        let model = load("qwen3-4bit");
        let session = session(&model);
        run(&session, &messages(FIRST), &exactly(20))
            .result
            .unwrap();
    }
    assert_eq!(settle(), before, "bytes of arrays that are still alive");
}

/// Of an answer that its template trims, what the prompt has of it.
#[test]
fn a_continued_answer_is_one_message() {
    let _lock = engine_lock();
    for (model, answer, start) in [
        ("qwen3-f32", "The answer", "The answer"),
        ("llama-f32", "\\n The answer \\n", "The answer"),
    ] {
        let model = load(model);
        let session = session(&model);
        let input = Input::messages(Conversation {
            messages: format!(
                r#"[{{"role":"user","content":"Hi"}},{{"role":"assistant","content":"{answer}"}}]"#
            ),
            continue_last: true,
            ..Conversation::default()
        });
        let mut text = String::new();
        let (_, result) = generate(&session, &input, &exactly(6), &mut |event| {
            if let Event::Text(chunk) = event {
                text.push_str(&chunk.text);
            }
            true
        });
        result.unwrap();
        let message: serde_json::Value = serde_json::from_str(&session.message().unwrap()).unwrap();
        assert_eq!(message["content"], format!("{start}{text}"));
    }
}

/// A folder like `case`, with another chat template.
fn folder_with_template(case: &str, template: &str) -> std::path::PathBuf {
    let from = parity::fixtures().join("models").join(case);
    let to = std::env::temp_dir().join(format!("mlxrt-template-{}-{case}", std::process::id()));
    std::fs::create_dir_all(&to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
    std::fs::write(to.join("chat_template.jinja"), template).unwrap();
    to
}

/// As Qwen 3 does it: only the last answer keeps its thinking.
const DROPS_THINKING: &str = "{%- for m in messages -%}
<|im_start|>{{ m.role }}
{% if m.role == 'assistant' and not loop.last %}{{ m.content.split('!')[-1] }}{% else %}{{ m.content }}{% endif %}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif -%}";

#[test]
fn a_template_that_rewrites_answers_keeps_the_prefix_before_them() {
    let _lock = engine_lock();
    let folder = folder_with_template("qwen3-f32", DROPS_THINKING);
    let model = Arc::new(load_folder(&folder, None).unwrap());
    std::fs::remove_dir_all(&folder).unwrap();

    let ask = r#"{"role":"user","content":"The answer is 17"}"#;
    let first = messages(&format!("[{ask}]"));
    let session = session(&model);
    let asked = run(&session, &first, &exactly(12)).report.prompt_tokens;
    // What the template cuts from an answer that is not the last.
    let history = format!(
        r#"[{ask},{{"role":"assistant","content":"thought! said"}},{{"role":"user","content":"Why?"}}]"#
    );
    let again = run(&session, &messages(&history), &exactly(12));
    let fresh = super::session(&model);
    assert_eq!(
        again.tokens,
        run(&fresh, &messages(&history), &computed_anew(12)).tokens
    );
    assert_eq!(session.tokens().unwrap(), fresh.tokens().unwrap());
    // All of the first turn's prompt is still there, the generation prompt included.
    assert!(
        again.report.cached_tokens >= asked,
        "{} of {asked}",
        again.report.cached_tokens
    );
}

#[test]
fn a_template_without_output_leaves_nothing_to_go_on_from() {
    let _lock = engine_lock();
    let folder = folder_with_template("llama-f32", "{# nothing #}");
    let model = Arc::new(load_folder(&folder, None).unwrap());
    std::fs::remove_dir_all(&folder).unwrap();
    let error = run(&session(&model), &messages(FIRST), &exactly(1))
        .result
        .unwrap_err();
    assert_eq!(error.code, Code::InvalidArgument);
}
