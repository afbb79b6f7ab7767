//! A session is its token ledger; keys and values on the engine's side are only a cache of it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::json;

use super::engine::Command;
use super::job::{CacheSpec, Ticket};
use super::metrics;
use super::model::Model;
use crate::error::{Code, Error, Result};

pub struct Session {
    pub(super) id: u64,
    pub(super) model: Arc<Model>,
    pub(super) context: usize,
    window: Option<i32>,
    keep: i32,
    /// The id of the request that runs, or 0.
    running: AtomicU64,
    /// The id of the request that was cancelled last.
    cancelled: Arc<AtomicU64>,
    state: Mutex<State>,
}

#[derive(Default)]
pub(super) struct State {
    pub ledger: Vec<i32>,
    /// The text of the last answer; none before the first.
    pub answer: Option<String>,
    pub kv_tokens: u64,
    pub kv_bytes: u64,
}

/// What was asked for; 0 is the default throughout.
#[derive(Clone, Copy, Debug, Default)]
pub struct SessionOptions {
    pub context: u32,
    /// Tokens that a rotating cache keeps; 0 = all.
    pub window: u32,
    /// First tokens that a rotating cache never drops; -1 = none.
    pub keep: i32,
}

pub struct SessionInfo {
    pub tokens: u64,
    pub context: u64,
    pub kv_tokens: u64,
    pub kv_bytes: u64,
    pub busy: bool,
}

const DEFAULT_KEEP: i32 = 4;

impl Session {
    pub fn new(model: Arc<Model>, options: SessionOptions) -> Result<Session> {
        let context = match options.context {
            0 => model.context,
            wanted if wanted <= model.context => wanted,
            wanted => {
                return Err(Error::invalid(format!(
                    "options.context is {wanted}, and the model allows {} tokens",
                    model.context
                )))
            }
        };
        let keep = match options.keep {
            0 => DEFAULT_KEEP,
            -1 => 0,
            keep if keep > 0 => keep,
            keep => {
                return Err(Error::invalid(format!(
                    "options.keep must be -1, 0 or more, is {keep}"
                )))
            }
        };
        let window = match i32::try_from(options.window) {
            Ok(0) => None,
            // A default never makes a small window illegal.
            Ok(window) if options.keep == 0 && window <= keep => Some((window, window - 1)),
            Ok(window) if window > keep => Some((window, keep)),
            _ => {
                return Err(Error::invalid(format!(
                    "options.window is {}, and must be larger than the {keep} tokens to keep",
                    options.window
                )))
            }
        };
        if !model.engine.is_alive() {
            return Err(super::engine::ended());
        }
        let id = model.engine.next_id();
        model.engine.sessions.fetch_add(1, Ordering::AcqRel);
        Ok(Session {
            id,
            context: context as usize,
            window: window.map(|(window, _)| window),
            keep: window.map_or(0, |(_, keep)| keep),
            running: AtomicU64::new(0),
            cancelled: Arc::new(AtomicU64::new(0)),
            state: Mutex::default(),
            model,
        })
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn cache(&self) -> CacheSpec {
        CacheSpec {
            session: self.id,
            model: self.model.id,
            window: self.window,
            keep: self.keep,
        }
    }

    /// Marks the session as used by one request; BUSY when it is.
    pub(super) fn begin(&self, deadline: Option<std::time::Instant>) -> Result<Use<'_>> {
        let ticket = Ticket::new(
            self.model.engine.next_id(),
            self.cancelled.clone(),
            deadline,
        );
        match self
            .running
            .compare_exchange(0, ticket.id(), Ordering::AcqRel, Ordering::Acquire)
        {
            Ok(_) => Ok(Use {
                session: self,
                ticket: Arc::new(ticket),
            }),
            Err(_) => Err(Error::new(Code::Busy, "the session already runs a request")),
        }
    }

    /// Ends what runs now, if anything does; the next request is not touched.
    pub fn cancel(&self) {
        let running = self.running.load(Ordering::Acquire);
        if running != 0 {
            self.cancelled.store(running, Ordering::Release);
            // The engine may be waiting for a slow reader of this request.
            let _ = self.model.engine.send(Command::Wake);
        }
    }

    pub fn info(&self) -> SessionInfo {
        let state = self.state();
        SessionInfo {
            tokens: state.ledger.len() as u64,
            context: self.context as u64,
            kv_tokens: state.kv_tokens,
            kv_bytes: state.kv_bytes,
            busy: self.running.load(Ordering::Acquire) != 0,
        }
    }

    /// A copy of the ledger.
    pub fn tokens(&self) -> Vec<i32> {
        self.state().ledger.clone()
    }

    /// The last answer as a message, JSON.
    pub fn message(&self) -> Result<String> {
        match &self.state().answer {
            Some(text) => Ok(json!({ "role": "assistant", "content": text }).to_string()),
            None => Err(Error::new(Code::NotFound, "the session has no answer yet")),
        }
    }

    /// Keys and values grew or shrank to so many bytes.
    pub(super) fn set_kv(&self, state: &mut State, tokens: u64, bytes: u64) {
        self.model.counters.kv_changed(state.kv_bytes, bytes);
        metrics::PROCESS.kv_changed(state.kv_bytes, bytes);
        (state.kv_tokens, state.kv_bytes) = (tokens, bytes);
    }
}

/// One request's hold on its session.
pub(super) struct Use<'a> {
    session: &'a Session,
    pub ticket: Arc<Ticket>,
}

impl Drop for Use<'_> {
    fn drop(&mut self) {
        self.session.running.store(0, Ordering::Release);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let id = self.id;
        let _ = self
            .model
            .engine
            .send(Command::Do(Box::new(move |worker| worker.drop_session(id))));
        self.model.engine.sessions.fetch_sub(1, Ordering::AcqRel);
        let mut state = std::mem::take(&mut *self.state());
        self.set_kv(&mut state, 0, 0);
    }
}
