//! Sessions to files and back: what is restored gives the tokens that the original gives, computes nothing again, and what is
//! damaged or another's is refused by name.

mod damaged;
mod disturbed;
mod going_on;
mod mlx_lm;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{json, Value};

use super::adapters::{adapter, watch};
use super::saving::{load_from, Folder};
use super::sessions::{messages, second, FIRST};
use super::*;
use crate::error::{Code, Error};
use crate::load::Checksum;
use crate::mlx::{fault, memory};
use crate::runtime::adapter::{Adapter, LoadOptions as SessionLoad, TensorData};
use crate::runtime::engine::Trim;
use crate::runtime::staging::SaveOptions;

pub(super) fn save(session: &Session, path: &Path) -> Result<()> {
    let options = SaveOptions {
        deadline: None,
        progress: &mut |_, _| true,
    };
    session.save(path, options)
}

pub(super) fn restore_with(
    model: &Arc<Model>,
    path: &Path,
    adapters: &[Arc<Adapter>],
) -> Result<Session> {
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
pub(super) fn place(name: &str) -> (Folder, PathBuf) {
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

fn bits(kv_bits: u32, of: SessionOptions) -> SessionOptions {
    SessionOptions { kv_bits, ..of }
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
        ("qwen3-4bit", bits(8, all)),
        ("qwen3-4bit-bf16", bits(4, all)),
        ("qwen3-4bit", bits(4, window(16, -1))),
        ("qwen3-4bit", bits(8, window(16, 4))),
        ("gemma3n-4bit", bits(8, all)),
        ("gpt_oss-4bit", bits(4, all)),
        ("qwen3_next-4bit", bits(4, all)),
        ("granitemoehybrid-4bit", bits(8, all)),
    ]
}

/// Greedy tokens, and how many were not computed.
fn ask(session: &Session, input: &Input, n: u64) -> (Vec<i32>, u64) {
    let given = run(session, input, &exactly(n));
    given.result.unwrap();
    (given.tokens, given.report.cached_tokens)
}

#[track_caller]
fn refused(outcome: Result<Session>, code: Code, words: &str) {
    let error = outcome.err().expect("it was accepted");
    assert_eq!(error.code, code, "{error}");
    assert!(error.message.contains(words), "{error}");
}

/// A short session of a small model with a state, a window or all kinds of keys, in a file.
fn small(case: &str, path: &Path) -> Arc<Model> {
    small_with(case, SessionOptions::default(), 3, path)
}

/// And one of so many tokens.
fn small_with(case: &str, options: SessionOptions, prompt: i32, path: &Path) -> Arc<Model> {
    let model = load(case);
    let own = Session::new(model.clone(), options).unwrap();
    ask(&own, &Input::Tokens((3..3 + prompt).collect()), 2);
    save(&own, path).unwrap();
    model
}

/// Writes a file anew, with another header, and a checksum that is right for it.
fn rewrite(from: &Path, to: &Path, change: impl FnOnce(&mut Value, &mut Value)) {
    let bytes = std::fs::read(from).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let (text, data) = bytes[8..].split_at(length);
    let mut header: Value = serde_json::from_slice(text).unwrap();
    let own = header["__metadata__"]["0.mlxrt"].as_str().unwrap();
    let mut own: Value = serde_json::from_str(own).unwrap();
    change(&mut header, &mut own);
    header["__metadata__"]["0.mlxrt"] = own.to_string().into();
    header["__metadata__"]["0.checksum"] = Checksum::UNKNOWN.into();
    let mut text = header.to_string().into_bytes();
    let mut checksum = Checksum::of_header(&text);
    checksum.add(data);
    let at = Checksum::place(&text).unwrap();
    let digits = checksum.digits();
    text[at..at + digits.len()].copy_from_slice(digits.as_bytes());
    let length = (text.len() as u64).to_le_bytes();
    std::fs::write(to, [length.as_slice(), &text, data].concat()).unwrap();
}
