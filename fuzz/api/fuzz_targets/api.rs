//! Sequences of C API calls: the bytes choose functions, handles of every sort (live, stale, of another kind, made up),
//! struct sizes, flags and values, callbacks that call back in, and threads. Pointers that are no handles are always
//! valid, as the header asks. OPS is the table: a new function is a function here and a line there.
#![no_main]

mod calls;
mod world;

use std::sync::atomic::{AtomicU64, Ordering};

use libfuzzer_sys::fuzz_target;
use world::{Bytes, World};

type Op = fn(&World, &mut Bytes);

const OPS: &[Op] = &[
    calls::versions,
    calls::init,
    calls::shutdown,
    calls::device_info,
    calls::log_set,
    calls::errors_of_nothing,
    calls::memory_get,
    calls::model_inspect,
    calls::model_load,
    calls::model_info,
    calls::model_free,
    calls::tokenize,
    calls::detokenize,
    calls::render,
    calls::session_create,
    calls::session_free,
    calls::session_info,
    calls::session_tokens,
    calls::session_message,
    calls::session_cancel,
    calls::generate,
    calls::metrics,
    calls::count_tokens,
    calls::session_fork,
    calls::session_truncate,
    calls::submit,
    calls::crowd,
    calls::request_next,
    calls::request_result,
    calls::request_cancel,
    calls::request_free,
    calls::adapter_load,
    calls::apply_adapter,
    calls::adapter_free,
    calls::grammar_compile,
    calls::grammar_free,
    calls::memory_set,
    calls::memory_trim,
    calls::suspend,
];

/// Runs what the bytes say, one operation after the other.
fn run(world: &World, bytes: &mut Bytes) {
    while let Some(op) = bytes.next() {
        OPS[usize::from(op) % OPS.len()](world, bytes);
    }
}

fuzz_target!(|data: &[u8]| {
    static RUNS: AtomicU64 = AtomicU64::new(0);
    let world = World::new();
    // The first byte: how many threads share the rest.
    let (threads, data) = match data.split_first() {
        Some((first, data)) => (usize::from(*first % 4).max(1), data),
        None => return,
    };
    std::thread::scope(|scope| {
        for part in data.chunks(data.len().div_ceil(threads).max(1)) {
            let world = &world;
            let work = move || run(world, &mut Bytes::new(part));
            if threads == 1 {
                work();
            } else {
                scope.spawn(work);
            }
        }
    });
    world.end();
    if RUNS.fetch_add(1, Ordering::Relaxed) % 16 == 0 {
        calls::check_alive();
    }
});
