//! Deadlines, cancels and shutdowns reach the work on a request's input.

use std::time::{Duration, Instant};

use super::odd_folders::{changed, load_from};
use super::sessions::{messages, FIRST};
use super::*;
use crate::aside;
use crate::error::Code;
use crate::load::testing::TempFolder;
use crate::runtime::engine;
use crate::runtime::generate::{render, Conversation, Stop};

/// Steps without end, as far as the template's limit lets it.
const SLOW: &str = "{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}";

fn slow_model() -> Arc<Model> {
    load_from(&changed("qwen3-f32", "chat_template.jinja", |_| {
        SLOW.into()
    }))
}

#[test]
fn a_deadline_ends_a_slow_template() {
    let _lock = engine_lock();
    let model = slow_model();
    let session = session(&model);
    let options = GenerateOptions {
        timeout: Some(Duration::from_millis(20)),
        ..exactly(4)
    };
    let began = Instant::now();
    let given = run(&session, &messages(FIRST), &options);
    assert!(began.elapsed() < Duration::from_secs(2), "it was late");
    given.result.unwrap();
    assert_eq!(given.report.stop, Stop::Timeout);
    assert!(session.tokens().unwrap().is_empty());
    let session = Arc::new(session);
    let request = submit(session.clone(), &messages(FIRST), &options, None).unwrap();
    assert!(matches!(request.next(None), Next::Done(Ok(()))));
    assert_eq!(request.result(None).unwrap().0.stop, Stop::Timeout);
    // Text needs no template, and the session is as it was.
    let text = Input::Tokens(vec![5, 6, 7]);
    assert_eq!(run(&session, &text, &exactly(3)).tokens.len(), 3);
}

#[test]
fn a_cancel_ends_a_slow_template() {
    let _lock = engine_lock();
    let session = session(&slow_model());
    let given = std::thread::scope(|scope| {
        let running = scope.spawn(|| run(&session, &messages(FIRST), &exactly(4)));
        while !session.info().busy && !running.is_finished() {
            std::thread::yield_now();
        }
        session.ledger.cancel();
        running.join().unwrap()
    });
    given.result.unwrap();
    assert_eq!(given.report.stop, Stop::Cancelled);
}

#[test]
fn a_shutdown_ends_a_slow_template() {
    let _lock = engine_lock();
    let model = slow_model();
    let session = session(&model);
    let input = messages(FIRST);
    std::thread::scope(|scope| {
        let running = scope.spawn(|| run(&session, &input, &exactly(4)));
        let rendering = scope.spawn(|| render(&model, &input));
        while !session.info().busy && !running.is_finished() {
            std::thread::yield_now();
        }
        engine::shutdown(true, None).unwrap();
        let given = running.join().unwrap();
        // It may have ended before the call looked whether it does, which is then refused.
        let refused = given
            .result
            .is_err_and(|error| error.code == Code::Cancelled);
        assert!(refused || given.report.stop == Stop::Cancelled);
        let rendered = rendering.join().unwrap();
        assert_eq!(rendered.unwrap_err().code, Code::Cancelled);
    });
}

/// Conversations whose parsing, whose values and whose freeing take long: of numbers, of lists, of texts, of escapes.
fn long_conversations() -> Vec<(&'static str, Conversation)> {
    let list = |one: &str, bytes: usize| format!("[{}0]", one.repeat(bytes / one.len()));
    let usual = || Conversation {
        messages: r#"[{"role": "user", "content": "Hi"}]"#.into(),
        ..Conversation::default()
    };
    let args = |one| format!("{{\"a\":{}}}", list(one, 12 << 20));
    let message = |content: &str| format!(r#"[{{"role":"user","content":"x","name":{content}}}]"#);
    vec![
        (
            "tools of numbers",
            Conversation {
                tools: Some(list("1,", 16 << 20)),
                ..usual()
            },
        ),
        (
            "arguments of lists",
            Conversation {
                template_args: Some(args("[],")),
                ..usual()
            },
        ),
        (
            "arguments of texts",
            Conversation {
                template_args: Some(args("\"ab\",")),
                ..usual()
            },
        ),
        (
            "a message of objects",
            Conversation {
                messages: message(&list("{\"a\":1},", 16 << 20)),
                ..usual()
            },
        ),
        (
            "a message of escapes",
            Conversation {
                messages: message(&format!("\"{}\"", "\\u00e9".repeat(24 << 20))),
                ..usual()
            },
        ),
    ]
}

#[test]
fn a_deadline_ends_the_reading_of_long_conversations() {
    let _lock = engine_lock();
    let model = load_from(&changed("qwen3-f32", "chat_template.jinja", |_| {
        "{{ messages[0].content }}".into()
    }));
    let session = session(&model);
    let given = Duration::from_millis(20);
    let options = GenerateOptions {
        timeout: Some(given),
        ..exactly(4)
    };
    for (what, conversation) in long_conversations() {
        let input = Input::messages(conversation);
        let _alone = aside::alone();
        let began = Instant::now();
        render(&model, &input).unwrap();
        let whole = began.elapsed();
        let began = Instant::now();
        let answer = run(&session, &input, &options);
        let late = began.elapsed().saturating_sub(given);
        println!("{what}: {late:?} late, of {whole:?}");
        answer.result.unwrap();
        assert_eq!(answer.report.stop, Stop::Timeout, "{what}");
        // Within 50 ms, and what a busy machine takes.
        assert!(late < Duration::from_millis(200), "{what}: {late:?}");
        assert!(whole > Duration::from_millis(300), "{what}: {whole:?}");
    }
    let short = messages(FIRST);
    assert_eq!(run(&session, &short, &exactly(3)).tokens.len(), 3);
}

/// As many tokens and merges as the largest published vocabularies have, whose building nothing interrupts.
fn large_vocabulary() -> TempFolder {
    changed("qwen3-f32", "tokenizer.json", |text| {
        let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
        let model = json["model"].as_object_mut().unwrap();
        let vocab = model["vocab"].as_object_mut().unwrap();
        let mut merges = Vec::new();
        let mut all: Vec<String> = ('a'..='z').map(String::from).collect();
        let mut last = all.clone();
        for _ in 0..3 {
            let longer = last.iter().flat_map(|token| {
                ('a'..='z').map(move |letter| (token.clone(), letter.to_string()))
            });
            let longer: Vec<(String, String)> = longer.collect();
            last = longer.iter().map(|(a, b)| format!("{a}{b}")).collect();
            merges.extend(longer.iter().map(|(a, b)| serde_json::json!([a, b])));
            all.extend(last.iter().cloned());
        }
        let mut next = vocab.values().filter_map(|id| id.as_u64()).max().unwrap() + 1;
        for token in all {
            vocab.entry(token).or_insert_with(|| {
                next += 1;
                next.into()
            });
        }
        model.insert("merges".into(), merges.into());
        // Their ids would be behind all of those.
        json["added_tokens"] = serde_json::json!([]);
        json.to_string()
    })
}

fn load_until(
    folder: &TempFolder,
    deadline: Option<Duration>,
    progress: &mut dyn FnMut(u64, u64) -> bool,
) -> Result<Model> {
    let options = LoadOptions {
        context: 0,
        follow_links: false,
        draft: None,
        deadline: deadline.map(|wait| Instant::now() + wait),
        progress,
    };
    model::load(folder.path().to_str().unwrap(), options)
}

#[test]
fn deadlines_cancels_and_shutdowns_reach_the_building_of_a_vocabulary() {
    let _lock = engine_lock();
    let folder = large_vocabulary();
    let began = Instant::now();
    load_until(&folder, None, &mut |_, _| true).unwrap();
    let whole = began.elapsed();
    println!("the whole load: {whole:?}");
    assert!(
        whole > Duration::from_millis(300),
        "too short to be stopped in: {whole:?}"
    );

    // Each within 50 ms, and what a busy machine takes.
    const LATE: Duration = Duration::from_millis(200);
    let _alone = aside::alone();
    let began = Instant::now();
    let given = Duration::from_millis(100);
    let error = load_until(&folder, Some(given), &mut |_, _| true);
    let late = began.elapsed().saturating_sub(given);
    println!("a deadline: {late:?} late");
    assert_eq!(error.err().unwrap().code, Code::Timeout);
    assert!(late < LATE, "{late:?}");
    drop(_alone);

    let _alone = aside::alone();
    let mut calls = Vec::new();
    let error = load_until(&folder, None, &mut |done, total| {
        calls.push((Instant::now(), done, total));
        calls.len() < 8
    });
    let late = calls.last().unwrap().0.elapsed();
    println!("a progress callback: {late:?} late");
    assert_eq!(error.err().unwrap().code, Code::Cancelled);
    assert!(late < LATE, "{late:?}");
    assert!(calls
        .iter()
        .all(|(_, done, total)| *done == 0 && *total > 0));
    let longest = calls.windows(2).map(|pair| pair[1].0 - pair[0].0).max();
    println!("between two calls: at most {longest:?}");
    assert!(longest.unwrap() < LATE, "{longest:?}");
    drop(_alone);

    let _alone = aside::alone();
    let (late, error) = std::thread::scope(|scope| {
        let (here, began) = std::sync::mpsc::channel();
        let running = scope.spawn(|| {
            let mut here = Some(here);
            let error = load_until(&folder, None, &mut |_, _| {
                here.take().map(|here| here.send(()));
                true
            });
            (Instant::now(), error)
        });
        began.recv().unwrap();
        let forced = Instant::now();
        engine::shutdown(true, None).unwrap();
        let (ended, error) = running.join().unwrap();
        (ended - forced, error)
    });
    println!("a shutdown: {late:?} late");
    assert_eq!(error.err().unwrap().code, Code::Cancelled);
    assert!(late < LATE, "{late:?}");
}
