//! Who holds the engine, and what its ends leave behind.

use std::time::Duration;

use super::*;
use crate::error::Code;
use crate::mlx::{device_available, Device};
use crate::runtime::engine::{self, EngineOptions};

fn load_with(progress: &mut dyn FnMut(u64, u64) -> bool) -> Result<Model> {
    let folder = parity::fixtures().join("models/qwen3-f32");
    let options = LoadOptions {
        context: 0,
        follow_links: false,
        draft: None,
        deadline: None,
        progress,
    };
    model::load(folder.to_str().unwrap(), options)
}

#[test]
fn a_model_that_is_being_loaded_holds_the_engine() {
    let _lock = engine_lock();
    let mut outcome = None;
    load_with(&mut |_, _| {
        if outcome.is_none() {
            engine::init(EngineOptions::default()).unwrap();
            outcome = Some(engine::shutdown(false, None));
        }
        true
    })
    .unwrap();
    assert_eq!(outcome.unwrap().unwrap_err().code, Code::Busy);
}

#[test]
fn a_load_that_the_shutdown_ends_says_so() {
    let _lock = engine_lock();
    let mut ended = false;
    let result = load_with(&mut |_, _| {
        if !ended {
            ended = true;
            engine::shutdown(true, None).unwrap();
        }
        true
    });
    assert_eq!(result.err().unwrap().code, Code::Cancelled);
    load_with(&mut |_, _| true).unwrap();
}

#[test]
fn an_init_that_fails_leaves_nothing_behind() {
    let _lock = engine_lock();
    if device_available(Device::Gpu) {
        println!("skipped: this machine has every device");
        return;
    }
    let options = EngineOptions {
        device: Some(Device::Gpu),
        ..EngineOptions::default()
    };
    assert_eq!(engine::init(options).unwrap_err().code, Code::Unsupported);
    load_with(&mut |_, _| true).unwrap();
}

#[test]
fn a_shutdown_after_a_timeout_waits_on() {
    let _lock = engine_lock();
    let model = load("qwen3-f32");
    // Work that takes a while.
    let _ = model
        .engine
        .send(super::super::engine::Command::Do(Box::new(|_| {
            std::thread::sleep(Duration::from_millis(300))
        })));
    let begun = std::time::Instant::now();
    let error = engine::shutdown(true, Some(Duration::ZERO)).unwrap_err();
    assert_eq!(error.code, Code::Timeout);
    engine::shutdown(true, None).unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(250));
    assert!(!model.engine.is_alive());
    // Another engine, beside what is left of the first.
    let other = load("qwen3-f32");
    assert_eq!(
        run(&session(&other), &Input::Tokens(vec![1, 2]), &exactly(2))
            .tokens
            .len(),
        2
    );
}

#[test]
fn the_last_hold_may_be_dropped_on_the_engine_thread() {
    let _lock = engine_lock();
    let _ = engine::shutdown(true, None);
    let model = load("qwen3-f32");
    let session = session(&model);
    let (go, may_go) = std::sync::mpsc::channel();
    let (dropped, was_dropped) = std::sync::mpsc::channel();
    let work = move |_: &mut super::super::worker::Worker| {
        let _ = may_go.recv();
        drop(session);
        let _ = dropped.send(());
    };
    model
        .engine
        .send(super::super::engine::Command::Do(Box::new(work)))
        .unwrap();
    drop(model);
    go.send(()).unwrap();
    was_dropped.recv_timeout(Duration::from_secs(10)).unwrap();
    let other = load("qwen3-f32");
    let given = run(
        &super::session(&other),
        &Input::Tokens(vec![1, 2]),
        &exactly(2),
    );
    assert_eq!(given.tokens.len(), 2);
}

#[test]
fn a_limit_refuses_weights_and_does_not_outlive_its_engine() {
    let _lock = engine_lock();
    let _ = engine::shutdown(true, None);
    let limits = engine::MemoryLimits {
        memory: Some(1000),
        ..Default::default()
    };
    engine::init(EngineOptions {
        limits,
        ..EngineOptions::default()
    })
    .unwrap();
    let error = load_with(&mut |_, _| panic!("weights were read"))
        .err()
        .unwrap();
    assert_eq!(error.code, Code::OutOfMemory, "{error}");
    engine::shutdown(false, None).unwrap();
    load_with(&mut |_, _| true).unwrap();
}
