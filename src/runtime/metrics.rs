//! Counters of the whole process and of each model; always on.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::report::{Report, Stop};

/// The whole process.
pub static PROCESS: Counters = Counters::new();

pub struct Counters {
    started: AtomicU64,
    completed: AtomicU64,
    cancelled: AtomicU64,
    failed: AtomicU64,
    waiting: AtomicU64,
    prompt_tokens: AtomicU64,
    cached_tokens: AtomicU64,
    generated_tokens: AtomicU64,
    prefill_ns: AtomicU64,
    decode_ns: AtomicU64,
    queue_ns: AtomicU64,
    passes: AtomicU64,
    pass_rows: AtomicU64,
    weight_bytes: AtomicU64,
    kv_bytes: AtomicU64,
    last: Mutex<Option<Report>>,
}

/// What the counters say at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    pub started: u64,
    pub completed: u64,
    pub cancelled: u64,
    pub failed: u64,
    pub waiting: u64,
    pub prompt_tokens: u64,
    pub cached_tokens: u64,
    pub generated_tokens: u64,
    pub prefill_ns: u64,
    pub decode_ns: u64,
    pub queue_ns: u64,
    pub passes: u64,
    pub pass_rows: u64,
    pub weight_bytes: u64,
    pub kv_bytes: u64,
    pub last: Option<Report>,
}

impl Snapshot {
    pub fn running(&self) -> u64 {
        self.started
            .saturating_sub(self.completed + self.cancelled + self.failed)
    }
}

impl Counters {
    pub const fn new() -> Self {
        Counters {
            started: AtomicU64::new(0),
            completed: AtomicU64::new(0),
            cancelled: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            waiting: AtomicU64::new(0),
            prompt_tokens: AtomicU64::new(0),
            cached_tokens: AtomicU64::new(0),
            generated_tokens: AtomicU64::new(0),
            prefill_ns: AtomicU64::new(0),
            decode_ns: AtomicU64::new(0),
            queue_ns: AtomicU64::new(0),
            passes: AtomicU64::new(0),
            pass_rows: AtomicU64::new(0),
            weight_bytes: AtomicU64::new(0),
            kv_bytes: AtomicU64::new(0),
            last: Mutex::new(None),
        }
    }

    pub(super) fn request_started(&self) {
        self.started.fetch_add(1, Ordering::Relaxed);
    }

    /// A started request waits for the engine; `request_begins` is called once for each.
    pub(super) fn request_waits(&self) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
    }

    /// One that ends without having begun waits no longer either.
    pub(super) fn request_begins(&self) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }

    /// A forward pass was queued that computes the next tokens of so many sessions.
    pub(super) fn pass(&self, rows: u64) {
        self.passes.fetch_add(1, Ordering::Relaxed);
        self.pass_rows.fetch_add(rows, Ordering::Relaxed);
    }

    pub(super) fn request_ended(&self, report: &Report) {
        let ended = match report.stop {
            Stop::Cancelled | Stop::Timeout => &self.cancelled,
            Stop::Error => &self.failed,
            _ => &self.completed,
        };
        ended.fetch_add(1, Ordering::Relaxed);
        self.prompt_tokens
            .fetch_add(report.prompt_tokens, Ordering::Relaxed);
        self.cached_tokens
            .fetch_add(report.cached_tokens, Ordering::Relaxed);
        self.generated_tokens
            .fetch_add(report.generated_tokens, Ordering::Relaxed);
        self.prefill_ns
            .fetch_add(report.prefill_ns, Ordering::Relaxed);
        self.decode_ns
            .fetch_add(report.decode_ns, Ordering::Relaxed);
        self.queue_ns.fetch_add(report.queue_ns, Ordering::Relaxed);
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(report.clone());
    }

    /// Weights or keys and values came (`now` > `before`) or went.
    pub(super) fn weights_changed(&self, before: u64, now: u64) {
        change(&self.weight_bytes, before, now);
    }

    pub(super) fn kv_changed(&self, before: u64, now: u64) {
        change(&self.kv_bytes, before, now);
    }

    pub fn snapshot(&self) -> Snapshot {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Snapshot {
            started: get(&self.started),
            completed: get(&self.completed),
            cancelled: get(&self.cancelled),
            failed: get(&self.failed),
            waiting: get(&self.waiting),
            prompt_tokens: get(&self.prompt_tokens),
            cached_tokens: get(&self.cached_tokens),
            generated_tokens: get(&self.generated_tokens),
            prefill_ns: get(&self.prefill_ns),
            decode_ns: get(&self.decode_ns),
            queue_ns: get(&self.queue_ns),
            passes: get(&self.passes),
            pass_rows: get(&self.pass_rows),
            weight_bytes: get(&self.weight_bytes),
            kv_bytes: get(&self.kv_bytes),
            last: self
                .last
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone(),
        }
    }
}

fn change(counter: &AtomicU64, before: u64, now: u64) {
    // Wrapping on purpose: a smaller `now` subtracts.
    counter.fetch_add(now.wrapping_sub(before), Ordering::Relaxed);
}
