//! Tests that need a model: the fixtures that mlx-lm wrote (tests/fixtures), run in this process.

mod adapters;
mod channels;
mod drafts;
mod embeddings;
mod engine;
mod foreign;
mod forks;
mod fusing;
mod grammar;
mod guesses;
mod heads;
mod inspect;
mod latents;
mod many;
mod models_page;
mod odd_folders;
mod odd_weights;
mod packed_keys;
mod parity;
mod recovery;
mod rows;
mod saving;
mod scores;
mod session_files;
mod sessions;
mod shared_keys;
mod states;
mod steps;
mod tools;
mod training;
mod types;
mod watched;
mod windows;

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::caches::prefixes_for_tests;
use super::generate::{generate, submit, Event, GenerateOptions, Input, Next, Report};
use super::model::{self, LoadOptions, Model};
use super::session::{Session, SessionOptions};
use crate::error::Result;

/// The engine is the process's, and some tests make it fail: one at a time. Nothing is kept of sessions that are gone, so that the
/// next one computes what a test is about.
pub(crate) fn engine_lock() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    let lock = LOCK.lock().unwrap_or_else(PoisonError::into_inner);
    prefixes_for_tests::set_limit(Some(0));
    lock
}

fn load(case: &str) -> Arc<Model> {
    load_with_draft(case, None)
}

fn load_with_draft(case: &str, draft: Option<&str>) -> Arc<Model> {
    let folder = |case| parity::fixtures().join("models").join(case);
    let draft = draft.map(folder);
    // Shown where a test fails.
    println!("{case}");
    Arc::new(load_folder(&folder(case), draft.as_deref()).unwrap())
}

fn load_folder(path: &Path, draft: Option<&Path>) -> Result<Model> {
    let options = LoadOptions {
        context: 0,
        follow_links: false,
        draft: draft.map(|folder| folder.to_str().unwrap()),
        deadline: None,
        progress: &mut |_, _| true,
    };
    model::load(path.to_str().unwrap(), options)
}

fn session(model: &Arc<Model>) -> Session {
    Session::new(model.clone(), SessionOptions::default()).unwrap()
}

/// Greedy, not ended by the model: exactly `n` tokens.
fn exactly(n: u64) -> GenerateOptions {
    GenerateOptions {
        greedy: true,
        ignore_eos: true,
        max_tokens: Some(n),
        ..GenerateOptions::default()
    }
}

/// As `exactly`, with nothing of what this session or another has computed.
fn computed_anew(n: u64) -> GenerateOptions {
    GenerateOptions {
        no_prefix_cache: true,
        ..exactly(n)
    }
}

/// What a request gave.
struct Given {
    report: Report,
    tokens: Vec<i32>,
    result: Result<()>,
}

fn run(session: &Session, input: &Input, options: &GenerateOptions) -> Given {
    let mut tokens = Vec::new();
    let (report, result) = generate(session, input, options, &mut |event| {
        if let Event::Text(chunk) = event {
            tokens.extend_from_slice(&chunk.tokens);
        }
        true
    });
    Given {
        report,
        tokens,
        result,
    }
}
