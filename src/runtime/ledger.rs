//! What of a session the engine thread shares: its tokens, and which request has it.
//!
//! Nothing here holds a model or the engine: what the engine thread holds must never be the last thing that keeps the
//! engine alive, for the engine cannot end itself.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::job::Wish;
use super::metrics::{self, Counters};
use crate::error::{Code, Error, Result};
use crate::mail::{Letter, Mailbox};

/// Requests of one session, and of all, that were submitted and have not ended.
const MOST_OF_SESSION: usize = 1024;
const MOST_OF_PROCESS: usize = 16_384;
static SUBMITTED: AtomicUsize = AtomicUsize::new(0);

pub struct Ledger {
    /// The id of the request that has the session: from when the engine begins it until the answer is in. Or 0.
    running: AtomicU64,
    /// The id of the request of the blocking call, from its call to its return. Or 0.
    blocking: AtomicU64,
    /// Requests that were submitted, have not ended and were not cancelled by themselves.
    submitted: AtomicUsize,
    /// Theirs, and of some that have ended since.
    wishes: Mutex<Vec<Arc<Wish>>>,
    /// Cancels that came by the session's handle and were not looked at yet.
    letter: Letter,
    /// The ids of the requests, running and blocking, that the session's cancel reached last.
    cancelled: [AtomicU64; 2],
    /// The session's handle was freed: whatever still runs or waits is cancelled.
    closed: AtomicBool,
    state: Mutex<State>,
    /// The model's.
    counters: Arc<Counters>,
}

#[derive(Default)]
pub(super) struct State {
    pub tokens: Vec<i32>,
    /// The text of the last answer; none before the first.
    pub answer: Option<String>,
    pub kv_tokens: u64,
    pub kv_bytes: u64,
}

impl Ledger {
    pub(super) fn new(counters: Arc<Counters>) -> Self {
        Ledger {
            running: AtomicU64::new(0),
            blocking: AtomicU64::new(0),
            submitted: AtomicUsize::new(0),
            wishes: Mutex::default(),
            letter: Letter::default(),
            cancelled: [AtomicU64::new(0), AtomicU64::new(0)],
            closed: AtomicBool::new(false),
            state: Mutex::default(),
            counters,
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with the session's tokens between two requests: `id` is nobody else's.
    ///
    /// Errors: `Busy` when a request has the session or waits for it.
    pub(super) fn between<T>(
        &self,
        id: u64,
        work: impl FnOnce(&mut State) -> Result<T>,
    ) -> Result<T> {
        self.hold(id)?;
        let given = work(&mut self.state());
        self.give_up(id);
        given
    }

    /// Keeps requests from beginning until `give_up(id)`: `id` is nobody else's.
    ///
    /// Errors: as `between`.
    pub(super) fn hold(&self, id: u64) -> Result<()> {
        self.take(id)?;
        if self.begin(id) {
            return Ok(());
        }
        self.give_up(id);
        Err(busy())
    }

    /// For a blocking call, which goes on behind what was cancelled but behind nothing else: its reader may be this very
    /// thread.
    pub(super) fn take(&self, request: u64) -> Result<()> {
        // A cancel that came before is not for this request.
        self.look();
        self.blocking
            .compare_exchange(0, request, Ordering::SeqCst, Ordering::SeqCst)
            .map_err(|_| busy())?;
        // Which of them were cancelled the engine may not have seen yet.
        self.wishes().iter().for_each(|wish| {
            wish.look(self);
        });
        if self.submitted.load(Ordering::SeqCst) > 0 {
            self.blocking.store(0, Ordering::SeqCst);
            return Err(busy());
        }
        Ok(())
    }

    /// The blocking call ends; a request of it that still runs is cancelled.
    pub(super) fn give_up(&self, request: u64) {
        self.cancelled[1].store(request, Ordering::SeqCst);
        self.blocking.store(0, Ordering::SeqCst);
        self.release(request);
    }

    pub(super) fn is_blocking(&self, request: u64) -> bool {
        self.blocking.load(Ordering::SeqCst) == request
    }

    /// One more request is submitted: what waits keeps its tokens.
    ///
    /// Errors: `Resources`.
    pub(super) fn count(&self, wish: &Arc<Wish>) -> Result<()> {
        let own = (&self.submitted, MOST_OF_SESSION, "session");
        for (count, most, of) in [own, (&SUBMITTED, MOST_OF_PROCESS, "process")] {
            if count.fetch_add(1, Ordering::SeqCst) >= most {
                count.fetch_sub(1, Ordering::SeqCst);
                if of == "process" {
                    self.submitted.fetch_sub(1, Ordering::SeqCst);
                }
                let message = format!(
                    "{most} submitted requests of this {of} have not ended, and more are not queued"
                );
                return Err(Error::new(Code::Resources, message));
            }
        }
        let mut wishes = self.wishes();
        wishes.retain(|wish| wish.is_counted());
        wishes.push(wish.clone());
        Ok(())
    }

    fn wishes(&self) -> MutexGuard<'_, Vec<Arc<Wish>>> {
        self.wishes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn bind(&self, mailbox: Mailbox) {
        self.letter.bind(mailbox);
    }

    /// Takes up a cancel that came by the handle.
    fn look(&self) {
        if self.letter.take() {
            self.cancel();
        }
    }

    pub(super) fn uncount(&self) {
        self.submitted.fetch_sub(1, Ordering::SeqCst);
        SUBMITTED.fetch_sub(1, Ordering::SeqCst);
    }

    /// Whether the session was free, and is `request`'s now.
    pub(super) fn begin(&self, request: u64) -> bool {
        self.look();
        self.running
            .compare_exchange(0, request, Ordering::SeqCst, Ordering::SeqCst)
            .is_ok()
    }

    /// The next request may have the session.
    pub(super) fn release(&self, request: u64) {
        let _ = self
            .running
            .compare_exchange(request, 0, Ordering::SeqCst, Ordering::SeqCst);
    }

    pub(super) fn is_busy(&self) -> bool {
        self.running.load(Ordering::SeqCst) != 0
            || self.blocking.load(Ordering::SeqCst) != 0
            || self.submitted.load(Ordering::SeqCst) != 0
    }

    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    /// Ends the request that has the session and the one of a blocking call; a later one is not touched.
    pub(super) fn cancel(&self) {
        let current = [&self.running, &self.blocking].map(|id| id.load(Ordering::SeqCst));
        for (cancelled, id) in self.cancelled.iter().zip(current) {
            if id != 0 {
                cancelled.store(id, Ordering::SeqCst);
            }
        }
    }

    pub(super) fn is_cancelled(&self, request: u64) -> bool {
        self.look();
        let is = |cancelled: &AtomicU64| cancelled.load(Ordering::Acquire) == request;
        self.cancelled.iter().any(is) || self.closed.load(Ordering::Acquire)
    }

    /// Keys and values grew or shrank to so much.
    pub(super) fn set_kv(&self, state: &mut State, tokens: u64, bytes: u64) {
        self.counters.kv_changed(state.kv_bytes, bytes);
        metrics::PROCESS.kv_changed(state.kv_bytes, bytes);
        (state.kv_tokens, state.kv_bytes) = (tokens, bytes);
    }
}

fn busy() -> Error {
    Error::new(Code::Busy, "the session already runs a request")
}

impl Drop for Ledger {
    fn drop(&mut self) {
        let mut state = std::mem::take(&mut *self.state());
        self.set_kv(&mut state, 0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_queues_so_many_requests_and_no_more() {
        let ledger = Ledger::new(Arc::new(Counters::new()));
        let wish = Arc::new(Wish::default());
        for _ in 0..MOST_OF_SESSION {
            ledger.count(&wish).unwrap();
        }
        let before = SUBMITTED.load(Ordering::SeqCst);
        let error = ledger.count(&wish).unwrap_err();
        assert_eq!(error.code, Code::Resources);
        assert!(
            error
                .message
                .starts_with("1024 submitted requests of this session"),
            "{error}"
        );
        ledger.uncount();
        ledger.count(&wish).unwrap();
        (0..MOST_OF_SESSION).for_each(|_| ledger.uncount());
        assert_eq!(ledger.submitted.load(Ordering::SeqCst), 0);
        assert!(SUBMITTED.load(Ordering::SeqCst) <= before);
    }
}
