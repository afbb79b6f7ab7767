//! Row 18: a memory budget that does not suffice: refused by name, before anything of the size is allocated.

use std::path::PathBuf;

use crate::abi::*;
use crate::child::{ask, exactly, qwen, PROMPT, RIGHT};
use crate::common::{fixtures, load, outcome, Prompt};
use crate::list::Cases;
use crate::verdict::*;
use crate::{ensure, list_class, sized};

list_class!("18", "memory budget too small", "budget");

fn models() -> [(&'static str, PathBuf); 3] {
    let root = fixtures().join("../..");
    [
        ("qwen3-f32", qwen()),
        (
            "gemma3-4bit-bf16",
            fixtures().join("models/gemma3-4bit-bf16"),
        ),
        ("demo", root.join("demo/model")),
    ]
}

fn cases() -> Cases {
    let mut cases: Cases = vec![];
    for (name, path) in models() {
        // Of the weights' bytes, in percent.
        for share in [0, 1, 10, 25, 50, 75, 90, 99, 100, 110, 150, 300] {
            let path = path.clone();
            let run = move || at_load(path, share);
            cases.push((format!("{name}: {share} % of its weights"), Box::new(run)));
        }
    }
    for limit in [1, 2, 4095, 4096, 1 << 20, 64 << 20, u64::MAX - 1, u64::MAX] {
        let run = move || with_limit(qwen(), limit, None);
        cases.push((format!("a limit of {limit}"), Box::new(run)));
    }
    for rank in [256, 1024, 4096] {
        for kind in [MLXRT_LORA, MLXRT_DORA] {
            let run = move || new_adapter(rank, kind);
            cases.push((
                format!("a new adapter of rank {rank}, kind {kind}"),
                Box::new(run),
            ));
        }
    }
    cases.push((
        "requests without end".into(),
        Box::new(requests_without_end),
    ));
    cases
}

/// Refused before any of it is allocated.
fn new_adapter(rank: u32, kind: i32) -> Outcome {
    let model = load(&qwen()).unwrap();
    let before = memory();
    let mut limits = sized!(mlxrt_memory_limits);
    limits.memory_limit = before.active_bytes + (64 << 10);
    // SAFETY: complete limits.
    outcome(unsafe { mlxrt_memory_set(&limits) }).unwrap();
    let mut options = sized!(mlxrt_adapter_options);
    (options.rank, options.kind) = (rank, kind);
    let mut adapter = std::ptr::null_mut();
    // SAFETY: complete options, a writable output.
    let made = outcome(unsafe { mlxrt_adapter_create(model.0, &options, &mut adapter) });
    let after = memory();
    limits.memory_limit = u64::MAX;
    // SAFETY: complete limits.
    outcome(unsafe { mlxrt_memory_set(&limits) }).unwrap();
    let Err(failure) = made else {
        return Err(Wrong("it was made".into()));
    };
    let grown = after.peak_bytes.saturating_sub(before.peak_bytes);
    ensure!(grown == 0, "refused after {grown} bytes were allocated");
    named(&failure, &["OUT_OF_MEMORY"], &["the adapter"])
}

/// The first is one that nobody reads, so that the others wait.
fn requests_without_end() -> Outcome {
    let model = load(&qwen()).unwrap();
    let session = model.session(0);
    let (input, options) = (Prompt::Text(PROMPT).input(), exactly(1000));
    let mut requests = vec![];
    let failure = loop {
        let mut request = std::ptr::null_mut();
        // SAFETY: complete structs, a writable output.
        let submitted = outcome(unsafe { mlxrt_submit(session.0, &input, &options, &mut request) });
        match submitted {
            Ok(()) if requests.len() < 2000 => requests.push(request),
            Ok(()) => return Err(Wrong("it takes more and more".into())),
            Err(failure) => break failure,
        }
    };
    ensure!(requests.len() == 1024, "{} requests wait", requests.len());
    for request in requests {
        // SAFETY: a live request.
        unsafe { mlxrt_request_free(request) };
    }
    named(
        &failure,
        &["RESOURCES"],
        &["1024 submitted requests of this session"],
    )
}

fn memory() -> mlxrt_memory {
    let mut memory = sized!(mlxrt_memory);
    // SAFETY: a complete output struct.
    outcome(unsafe { mlxrt_memory_get(&mut memory) }).unwrap();
    memory
}

fn at_load(path: PathBuf, share: u64) -> Outcome {
    let weights: u64 = std::fs::metadata(path.join("model.safetensors"))
        .unwrap()
        .len();
    with_limit(path, (weights * share / 100).max(1), Some(weights))
}

fn with_limit(path: PathBuf, limit: u64, weights: Option<u64>) -> Outcome {
    let mut options = sized!(mlxrt_init_options);
    options.memory_limit = limit;
    // SAFETY: complete options.
    outcome(unsafe { mlxrt_init(&options) }).unwrap();
    let verdict = match load(&path) {
        Ok(model) => {
            ensure!(
                weights.is_none_or(|weights| limit >= weights / 2),
                "it loads under a limit of {limit}"
            );
            // The demo model takes its time: one token of it is enough.
            let (prompt, count) = match path == qwen() {
                true => (Prompt::Text(PROMPT), 8),
                false => (Prompt::Tokens(&[1]), 1),
            };
            let told = ask(model.session(0).0, &prompt, &exactly(count), |_| true);
            match told.failure {
                None if path == qwen() => {
                    ensure!(told.tokens == RIGHT, "{:?}", told.tokens);
                    fine()
                }
                None => fine(),
                Some(failure) => named(&failure, &["OUT_OF_MEMORY"], &[]),
            }
        }
        Err(failure) => {
            let memory = memory();
            ensure!(
                weights.is_none_or(|weights| memory.peak_bytes < weights / 2),
                "refused after {} bytes were allocated",
                memory.peak_bytes
            );
            ensure!(
                memory.active_bytes == 0,
                "{} bytes stay",
                memory.active_bytes
            );
            named(&failure, &["OUT_OF_MEMORY"], &[])
        }
    };
    // The limit ends with the engine: what comes next may use what it needs.
    // SAFETY: no preconditions.
    outcome(unsafe { mlxrt_shutdown(0, MLXRT_FOREVER) }).unwrap();
    verdict
}
