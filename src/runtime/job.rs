//! What travels between a caller's thread and the engine's.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::ledger::Ledger;
use super::options::Drafts;
use super::request::Shared;
use crate::dtype::Scheme;
use crate::error::{Code, Error, Result};
use crate::grammar::calls::Calls;
use crate::grammar::Grammar;
use crate::mail::{Letter, Mailbox};
use crate::sampling::Sampling;

/// Events that the engine may be ahead of a reader before it parks the request.
const RUN_AHEAD: u64 = 64;

/// A request as the engine sees it: tokens in, tokens out.
pub struct Job {
    pub cache: CacheSpec,
    /// Ids of adapters, and what their own scale is multiplied by.
    pub adapters: Vec<(u64, f32)>,
    pub sampling: Sampling,
    /// What the answer must match.
    pub grammar: Option<Arc<Grammar>>,
    /// What its calls must match; not together with a grammar.
    pub calls: Option<Arc<Calls>>,
    /// Tokens to generate at most; `None` = to the end of the context.
    pub max_tokens: Option<u64>,
    /// Tokens that the sequence may have in all.
    pub context: usize,
    /// Ids after which generation ends: the end-of-sequence tokens and the caller's own.
    pub stop_tokens: Vec<i32>,
    /// The end-of-sequence tokens are none of these.
    pub ignore_eos: bool,
    pub prefill_only: bool,
    pub ignore_cache: bool,
    /// The tokens replace the session's: the answer must be that of a fresh session. (Else they continue it.)
    pub whole_history: bool,
    /// Tokens between two progress reports; 0 = none.
    pub progress_tokens: u32,
    /// Higher first; equals take turns.
    pub priority: i32,
    pub drafts: Drafts,
    /// What guesses: a draft model, or the model's own head that predicts further tokens.
    pub draft: Option<u64>,
    /// The log-probabilities of tokens that there are, in place of new tokens.
    pub score: Option<Score>,
    pub submitted: Instant,
    pub deadline: Option<Instant>,
    /// Where its tokens come from and its outputs go.
    pub request: Arc<Shared>,
}

impl Drop for Job {
    /// One that the engine never came to, because it ended, ends as cancelled. (The first end counts.)
    fn drop(&mut self) {
        self.request.end(End::cancelled());
    }
}

/// A cache of the job's own goes on from the session's and goes with the job: the session keeps what it has.
pub struct Score {
    /// The session, and its tokens behind those of the prompt.
    pub session: u64,
    pub target: usize,
    /// Of the job's own cache.
    pub ledger: Arc<Ledger>,
}

/// Which cache a job uses, and how it is made when it is not there.
#[derive(Clone, Copy)]
pub struct CacheSpec {
    pub session: u64,
    pub model: u64,
    /// Tokens that the full caches rotate over; `None` = every token is kept.
    pub window: Option<i32>,
    pub keep: i32,
    /// How keys and values are packed.
    pub scheme: Option<Scheme>,
    /// Bytes that it may hold.
    pub limit: Option<u64>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct TokenOutput {
    pub id: i32,
    pub logprob: f32,
    /// Most likely first.
    pub top: Vec<(i32, f32)>,
}

impl TokenOutput {
    /// One that nobody drew.
    pub fn forced(id: i32) -> Self {
        TokenOutput {
            id,
            logprob: 0.0,
            top: Vec::new(),
        }
    }
}

pub struct End {
    pub reason: Result<EndReason>,
    /// Prompt tokens that were not computed, because the cache had them.
    pub cached_tokens: u64,
    /// Tokens that were guessed, and those of them that were right.
    pub drafted: u64,
    pub accepted: u64,
    /// From the submission to the first work.
    pub queue: Duration,
    /// From the first work to the first token, or to the end if none came.
    pub prefill: Duration,
    /// From the first token to the end.
    pub decode: Duration,
    pub kv: Option<Kv>,
    pub peak_bytes: u64,
    pub active_bytes: u64,
}

/// What a session's caches hold.
#[derive(Clone, Copy, Default)]
pub struct Kv {
    pub tokens: u64,
    pub bytes: u64,
}

impl End {
    /// Of a request that the engine dropped.
    pub fn cancelled() -> Self {
        End::early(EndReason::Cancelled)
    }

    /// Of a request that the engine never saw.
    pub fn early(reason: EndReason) -> Self {
        End {
            reason: Ok(reason),
            cached_tokens: 0,
            drafted: 0,
            accepted: 0,
            queue: Duration::ZERO,
            prefill: Duration::ZERO,
            decode: Duration::ZERO,
            kv: None,
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
    /// The grammar allows nothing more.
    Grammar,
    /// A call is complete, and nothing comes behind it.
    Called,
    Cancelled,
    Deadline,
    /// The request wants no more: a stop string, or its reader stopped it.
    Satisfied,
}

impl EndReason {
    /// What a watch's error is as the end of a request: neither a cancel nor a deadline is a failure of one.
    pub fn of_watch(error: &Error) -> Option<EndReason> {
        match error.code {
            Code::Cancelled => Some(EndReason::Cancelled),
            Code::Timeout => Some(EndReason::Deadline),
            _ => None,
        }
    }
}

/// Whether a request is still wanted.
#[derive(Default)]
pub struct Wish {
    cancelled: AtomicBool,
    /// The session counts it among those that a blocking call must not wait for.
    counted: AtomicBool,
    /// Cancels that came by its handle and were not looked at yet.
    letter: Letter,
}

impl Wish {
    fn cancel(&self, ledger: &Ledger) {
        self.cancelled.store(true, Ordering::Release);
        self.uncount(ledger);
    }

    fn uncount(&self, ledger: &Ledger) {
        if self.counted.swap(false, Ordering::SeqCst) {
            ledger.uncount();
        }
    }

    pub(super) fn is_counted(&self) -> bool {
        self.counted.load(Ordering::SeqCst)
    }

    /// Takes up a cancel that came by the handle; whether it is cancelled.
    pub(super) fn look(&self, ledger: &Ledger) -> bool {
        if self.letter.take() {
            self.cancel(ledger);
        }
        self.cancelled.load(Ordering::Acquire)
    }
}

/// The flags of a request, read by the engine between steps.
pub struct Ticket {
    id: u64,
    wish: Arc<Wish>,
    pub ledger: Arc<Ledger>,
    /// Events made, and those that the reader has taken.
    made: AtomicU64,
    taken: AtomicU64,
    parked: AtomicBool,
    /// It was said in the log: once, for a slow reader parks a request again and again.
    told: AtomicBool,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.uncount();
    }
}

impl Ticket {
    /// `counted`: it was submitted.
    ///
    /// Errors: `Resources` when too many are.
    pub fn new(id: u64, ledger: Arc<Ledger>, counted: bool) -> Result<Self> {
        let wish = Arc::new(Wish {
            counted: AtomicBool::new(counted),
            ..Wish::default()
        });
        if counted {
            ledger.count(&wish)?;
        }
        Ok(Ticket {
            id,
            wish,
            ledger,
            made: AtomicU64::new(0),
            taken: AtomicU64::new(0),
            parked: AtomicBool::new(false),
            told: AtomicBool::new(false),
        })
    }

    pub fn id(&self) -> u64 {
        self.id
    }

    /// It has a handle, by which it can be cancelled.
    pub fn bind(&self, mailbox: Mailbox) {
        self.wish.letter.bind(mailbox);
    }

    /// Ends the request at its next step.
    pub fn cancel(&self) {
        self.wish.cancel(&self.ledger);
    }

    /// It has ended, or will without anybody's help.
    pub fn uncount(&self) {
        self.wish.uncount(&self.ledger);
    }

    pub fn is_cancelled(&self) -> bool {
        self.wish.look(&self.ledger) || self.ledger.is_cancelled(self.id)
    }

    pub fn make(&self, events: usize) {
        self.made.fetch_add(events as u64, Ordering::SeqCst);
    }

    /// The reader took some; true when the engine waits to be told.
    pub fn take(&self, events: usize) -> bool {
        // Sequentially consistent, here and in `must_wait`: one of the two sides sees what the other did.
        self.taken.fetch_add(events as u64, Ordering::SeqCst);
        self.parked.swap(false, Ordering::SeqCst)
    }

    /// Whether the engine has to wait for the reader; if so it will be woken.
    pub fn must_wait(&self) -> bool {
        let ahead = || {
            let (made, taken) = (&self.made, &self.taken);
            made.load(Ordering::SeqCst)
                .saturating_sub(taken.load(Ordering::SeqCst))
                >= RUN_AHEAD
        };
        if !ahead() {
            return false;
        }
        self.parked.store(true, Ordering::SeqCst);
        // The reader may have caught up between the look and the flag.
        let waits = ahead();
        if waits && !self.told.swap(true, Ordering::Relaxed) {
            crate::log::debug!(
                "request {} is parked whenever its reader is {RUN_AHEAD} events behind",
                self.id
            );
        }
        waits
    }
}
