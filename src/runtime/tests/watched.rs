//! Deadlines, cancels and shutdowns reach the work on a request's input.

use std::time::{Duration, Instant};

use super::odd_folders::{changed, load_from};
use super::sessions::{messages, FIRST};
use super::*;
use crate::error::Code;
use crate::runtime::engine;
use crate::runtime::generate::{render, Stop};

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
