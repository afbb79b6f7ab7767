//! What travels between a caller's thread and the engine's.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::sampling::Sampling;

/// Tokens that the engine may be ahead of a reader before it parks the request.
const RUN_AHEAD: u64 = 64;

/// A request as the engine sees it: tokens in, tokens out.
pub struct Job {
    pub cache: CacheSpec,
    /// The whole sequence so far; what the cache already holds of it is not computed again. Never empty.
    pub tokens: Vec<i32>,
    pub sampling: Sampling,
    /// Tokens to generate at most; `None` = to the end of the context.
    pub max_tokens: Option<u64>,
    /// Tokens that the sequence may have in all.
    pub context: usize,
    /// Ids after which generation ends: the end-of-sequence tokens and the caller's own.
    pub stop_tokens: Vec<i32>,
    pub prefill_only: bool,
    pub ignore_cache: bool,
    /// The tokens replace the session's: the answer must be that of a fresh session. (Else they continue it.)
    pub whole_history: bool,
    /// Tokens between two progress reports; 0 = none.
    pub progress_tokens: u32,
    pub submitted: Instant,
    pub ticket: Arc<Ticket>,
    pub outputs: Sender<Output>,
}

/// Which cache a job uses, and how it is made when it is not there.
#[derive(Clone, Copy)]
pub struct CacheSpec {
    pub session: u64,
    pub model: u64,
    /// Tokens that the full caches rotate over; `None` = every token is kept.
    pub window: Option<i32>,
    pub keep: i32,
}

pub enum Output {
    /// Of the prompt: tokens done, of how many.
    Progress {
        done: u64,
        total: u64,
    },
    Token(TokenOutput),
    /// The last one.
    End(End),
}

#[derive(Clone, Debug, PartialEq)]
pub struct TokenOutput {
    pub id: i32,
    pub logprob: f32,
    /// Most likely first.
    pub top: Vec<(i32, f32)>,
}

pub struct End {
    pub reason: Result<EndReason, Error>,
    /// Prompt tokens that were not computed, because the cache had them.
    pub cached_tokens: u64,
    /// From the submission to the first work.
    pub queue: Duration,
    /// From the first work to the first token, or to the end if none came.
    pub prefill: Duration,
    /// From the first token to the end.
    pub decode: Duration,
    pub kv_bytes: u64,
    pub kv_tokens: u64,
    pub peak_bytes: u64,
    pub active_bytes: u64,
}

impl End {
    /// Of a request that the engine never saw.
    pub fn cancelled() -> Self {
        End {
            reason: Ok(EndReason::Cancelled),
            cached_tokens: 0,
            queue: Duration::ZERO,
            prefill: Duration::ZERO,
            decode: Duration::ZERO,
            kv_bytes: 0,
            kv_tokens: 0,
            peak_bytes: 0,
            active_bytes: 0,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndReason {
    /// One of the job's `stop_tokens` came; it was the last token sent.
    StopToken,
    MaxTokens,
    Context,
    Cancelled,
    Deadline,
}

/// The flags of a running request, read by the engine between steps. Shared with whoever may cancel it.
pub struct Ticket {
    id: u64,
    cancelled: AtomicBool,
    /// Holds the id of the request of its session that was cancelled last.
    session_cancel: Arc<AtomicU64>,
    pub deadline: Option<Instant>,
    /// Outputs that the reader has taken.
    taken: AtomicU64,
    parked: AtomicBool,
}

impl Ticket {
    pub fn new(id: u64, session_cancel: Arc<AtomicU64>, deadline: Option<Instant>) -> Self {
        Ticket {
            id,
            cancelled: AtomicBool::new(false),
            session_cancel,
            deadline,
            taken: AtomicU64::new(0),
            parked: AtomicBool::new(false),
        }
    }

    pub fn id(&self) -> u64 {
        self.id
    }

    /// Ends the request at its next step.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Release);
    }

    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
            || self.session_cancel.load(Ordering::Acquire) == self.id
    }

    pub fn is_late(&self) -> bool {
        self.deadline
            .is_some_and(|deadline| Instant::now() >= deadline)
    }

    /// The reader took one output; true when the engine waits to be told.
    pub fn take_one(&self) -> bool {
        // Sequentially consistent, here and in `must_wait`: one of the two sides sees what the other did.
        self.taken.fetch_add(1, Ordering::SeqCst);
        self.parked.swap(false, Ordering::SeqCst)
    }

    /// Whether the engine, having sent `sent` outputs, has to wait for the reader; if so it will be woken.
    pub fn must_wait(&self, sent: u64) -> bool {
        let ahead = || sent.saturating_sub(self.taken.load(Ordering::SeqCst)) >= RUN_AHEAD;
        if !ahead() {
            return false;
        }
        self.parked.store(true, Ordering::SeqCst);
        // The reader may have caught up between the look and the flag.
        ahead()
    }
}
