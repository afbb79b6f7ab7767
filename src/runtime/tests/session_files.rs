//! Sessions to files and back: what is restored gives the tokens that the original gives, computes nothing again, and what is
//! damaged or another's is refused by name.

use std::path::{Path, PathBuf};

use super::saving::{load_adapter, Folder};
use super::sessions::{messages, second, FIRST};
use super::*;
use crate::error::Code;
use crate::runtime::adapter::{Adapter, LoadOptions as SessionLoad};
use crate::runtime::staging::SaveOptions;

fn save(session: &Session, path: &Path) -> Result<()> {
    let options = SaveOptions {
        deadline: None,
        progress: &mut |_, _| true,
    };
    session.save(path, options)
}

fn restore_with(model: &Arc<Model>, path: &Path, adapters: &[Arc<Adapter>]) -> Result<Session> {
    let options = SessionLoad {
        deadline: None,
        progress: &mut |_, _| true,
    };
    Session::load(model.clone(), path, adapters, options)
}

fn restore(model: &Arc<Model>, path: &Path) -> Result<Session> {
    restore_with(model, path, &[])
}

/// A folder that goes away, and a file in it.
fn place(name: &str) -> (Folder, PathBuf) {
    let folder = Folder::new(&format!("session-{name}"));
    std::fs::create_dir_all(&folder.0).unwrap();
    let path = folder.0.join("session.safetensors");
    (folder, path)
}

fn window(window: u32, keep: i32) -> SessionOptions {
    SessionOptions {
        window,
        keep,
        ..SessionOptions::default()
    }
}

/// One of each kind of cache, and of each type.
fn cases() -> Vec<(&'static str, SessionOptions)> {
    let all = SessionOptions::default();
    vec![
        ("qwen3-f32", all),
        ("qwen3-4bit", all),
        ("qwen3-f32", window(16, -1)),
        ("qwen3-f32", window(16, 4)),
        ("llama-4bit-bf16", window(64, 4)),
        ("gemma3-text-f32", all),
        ("gemma3-text-bf16", all),
        ("gemma3n-f32", all),
        ("gemma4_text-f32", all),
        ("gpt_oss-bf16", all),
        ("lfm2-f32", all),
        ("lfm2-bf16", all),
        ("qwen3_5-f32", all),
        ("qwen3_next-f32-hub", all),
        ("nemotron_h-f32", all),
        ("granitemoehybrid-f32", all),
        ("kimi_linear-f32", all),
        ("kimi_linear-bf16", all),
        ("deepseek_v3-f32", all),
        ("deepseek_v3-4bit", all),
        ("phi3-f32-longrope", all),
    ]
}

/// Greedy tokens, and how many were not computed.
fn ask(session: &Session, input: &Input, n: u64) -> (Vec<i32>, u64) {
    let given = run(session, input, &exactly(n));
    given.result.unwrap();
    (given.tokens, given.report.cached_tokens)
}

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
