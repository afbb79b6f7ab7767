//! A session is its token ledger; keys and values on the engine's side are only a cache of it.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use super::adapter::{check_set, Adapter};
use super::answer::Answer;
use super::engine::Command;
use super::job::CacheSpec;
use super::ledger::{Ledger, State};
use super::model::Model;
use crate::dtype::Scheme;
use crate::error::{Code, Error, Result};
use crate::mail::Mailbox;
use crate::mlx::stored::token_scheme;
use crate::room;

pub struct Session {
    pub(super) model: Arc<Model>,
    pub(super) context: usize,
    pub(super) ledger: Arc<Ledger>,
    pub(super) cache: CacheSpec,
    adapters: Mutex<Arc<Applied>>,
}

/// Adapters and what their own scale is multiplied by.
pub type Applied = Vec<(Arc<Adapter>, f32)>;

/// What was asked for; 0 is the default throughout.
#[derive(Clone, Copy, Debug, Default)]
pub struct SessionOptions {
    pub context: u32,
    /// Tokens that a rotating cache keeps; 0 = all.
    pub window: u32,
    /// First tokens that a rotating cache never drops; -1 = none.
    pub keep: i32,
    /// Of a cached key or value: 4 or 8; 0 = as they are.
    pub kv_bits: u32,
    /// Numbers that share a scale.
    pub kv_group_size: u32,
    /// Bytes of keys and values at most; 0 = what the process's budget leaves.
    pub kv_limit: u64,
}

pub struct SessionInfo {
    pub tokens: u64,
    pub context: u64,
    pub kv_tokens: u64,
    pub kv_bytes: u64,
    pub busy: bool,
    pub adapters: u32,
}

const DEFAULT_KEEP: i32 = 4;
/// The groups that MLX packs, the default first and then what takes its place where heads are not made of such.
const GROUPS: [i32; 3] = [64, 32, 128];

impl SessionOptions {
    /// Tokens that full caches rotate over, if they do, and the first that these never drop.
    pub(super) fn window(&self) -> Result<(Option<i32>, i32)> {
        let keep = match self.keep {
            0 => DEFAULT_KEEP,
            -1 => 0,
            keep if keep > 0 => keep,
            keep => {
                return Err(Error::invalid(format!(
                    "options.keep must be -1, 0 or more, is {keep}"
                )))
            }
        };
        match i32::try_from(self.window) {
            Ok(0) => Ok((None, 0)),
            // A default never makes a small window illegal.
            Ok(window) if self.keep == 0 && window <= keep => Ok((Some(window), window - 1)),
            Ok(window) if window > keep => Ok((Some(window), keep)),
            _ => Err(Error::invalid(format!(
                "options.window is {}, and must be larger than the {keep} tokens to keep",
                self.window
            ))),
        }
    }

    /// How keys and values are packed. `dims`: numbers of a head's key or value, of all that the model keeps.
    pub(super) fn kv_scheme(&self, dims: &[i32]) -> Result<Option<Scheme>> {
        let Self {
            kv_bits: bits,
            kv_group_size: group,
            ..
        } = *self;
        if !matches!(bits, 0 | 4 | 8) {
            return Err(Error::invalid(format!(
                "options.kv_bits must be 0, 4 or 8, is {bits}"
            )));
        }
        let asked = i32::try_from(group).ok().filter(|of| GROUPS.contains(of));
        if group != 0 && asked.is_none() {
            return Err(Error::invalid(format!(
                "options.kv_group_size must be 0, 32, 64 or 128, is {group}"
            )));
        }
        if bits == 0 {
            return match group {
                0 => Ok(None),
                _ => Err(Error::invalid(
                    "options.kv_group_size is set, and options.kv_bits is not",
                )),
            };
        }
        if dims.is_empty() {
            return Err(Error::unsupported(
                "options.kv_bits: the model keeps no keys and values",
            ));
        }
        let odd = |group: i32| dims.iter().copied().find(|dim| dim % group != 0);
        let group = match asked {
            Some(group) => match odd(group) {
                None => group,
                Some(dim) => {
                    let what = format!("options.kv_group_size is {group}, and the model has heads of {dim} numbers, which are no multiple of it");
                    return Err(Error::new(Code::Incompatible, what));
                }
            },
            None => {
                let [first, second, _] = GROUPS;
                let fits = [first, second]
                    .into_iter()
                    .find(|&group| odd(group).is_none());
                fits.ok_or_else(|| {
                    let dim = odd(second).unwrap_or_default();
                    Error::unsupported(format!("options.kv_bits: the model has heads of {dim} numbers, and groups of 32, 64 or 128 do not fill them"))
                })?
            }
        };
        // 4 or 8, as was looked at.
        Ok(Some(token_scheme(bits as i32, group)))
    }
}

impl Session {
    pub fn new(model: Arc<Model>, options: SessionOptions) -> Result<Session> {
        model.refuse_silent()?;
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
        let (window, keep) = options.window()?;
        let scheme = options.kv_scheme(&model.token_dims)?;
        if !model.engine.is_alive() {
            return Err(super::engine::ended());
        }
        let cache = CacheSpec {
            session: model.engine.next_id(),
            model: model.id,
            window,
            keep,
            scheme,
            limit: (options.kv_limit != 0).then_some(options.kv_limit),
        };
        model.engine.sessions.fetch_add(1, Ordering::AcqRel);
        Ok(Session {
            context: context as usize,
            ledger: Arc::new(Ledger::new(model.counters.clone())),
            cache,
            adapters: Mutex::default(),
            model,
        })
    }

    /// A session of its own with the same tokens, options and adapters; what is computed is shared until one of the two
    /// goes on.
    ///
    /// Errors: `Busy`; `Cancelled` when the engine has ended.
    pub fn fork(&self) -> Result<Session> {
        let engine = &self.model.engine;
        let cache = CacheSpec {
            session: engine.next_id(),
            ..self.cache
        };
        let adapters = self.adapters();
        let ledger = Arc::new(Ledger::new(self.model.counters.clone()));
        self.between(|state| {
            let answer = state.answer.as_ref().map_or(0, Answer::bytes);
            let bytes = size_of_val(state.tokens.as_slice()).saturating_add(answer);
            // Here, and beside its caches.
            room::ask(bytes, 2, "the session's tokens")?;
            {
                let mut new = ledger.state();
                new.tokens.clone_from(&state.tokens);
                new.answer.clone_from(&state.answer);
            }
            // No request of the two can come to the engine before this.
            let (from, to, ledger) = (self.cache.session, cache.session, ledger.clone());
            engine.send(Command::Do(Box::new(move |worker| {
                worker.fork_session(from, to, &ledger)
            })))
        })?;
        engine.sessions.fetch_add(1, Ordering::AcqRel);
        Ok(Session {
            model: self.model.clone(),
            context: self.context,
            ledger,
            cache,
            adapters: Mutex::new(adapters),
        })
    }

    /// Keeps the first `tokens` tokens.
    ///
    /// Errors: `Busy`; `InvalidArgument` when there are fewer.
    pub fn truncate(&self, tokens: usize) -> Result<()> {
        self.between(|state| {
            let held = state.tokens.len();
            if tokens > held {
                return Err(Error::invalid(format!(
                    "tokens is {tokens}, and the session holds {held}"
                )));
            }
            if tokens < held {
                state.tokens.truncate(tokens);
                state.answer = None;
            }
            Ok(())
        })
    }

    fn between<T>(&self, work: impl FnOnce(&mut State) -> Result<T>) -> Result<T> {
        let given = self.ledger.between(self.model.engine.next_id(), work);
        // A request that was submitted meanwhile can begin.
        self.wake();
        given
    }

    /// What requests from now on are computed with.
    pub fn apply(&self, adapters: Applied) -> Result<()> {
        check_set(&adapters, &self.model)?;
        crate::log::info!(
            "session {}: {} adapter{} applied, from the next request on",
            self.cache.session,
            adapters.len(),
            if adapters.len() == 1 { "" } else { "s" }
        );
        *self.lock_adapters() = Arc::new(adapters);
        Ok(())
    }

    pub(super) fn adapters(&self) -> Arc<Applied> {
        self.lock_adapters().clone()
    }

    fn lock_adapters(&self) -> std::sync::MutexGuard<'_, Arc<Applied>> {
        self.adapters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its handle was freed: ends what runs and waits, and what a call that still holds the session is about to begin.
    pub fn close(&self) {
        self.ledger.close();
        self.wake();
    }

    /// It has a handle, by which it can be cancelled.
    pub fn bind(&self, mailbox: Mailbox) {
        self.ledger.bind(mailbox);
    }

    /// The engine may be waiting: for a slow reader, for the session, or for work.
    pub(super) fn wake(&self) {
        let _ = self.model.engine.send(Command::Wake);
    }

    pub fn info(&self) -> SessionInfo {
        let state = self.ledger.state();
        SessionInfo {
            tokens: state.tokens.len() as u64,
            context: self.context as u64,
            kv_tokens: state.kv_tokens,
            kv_bytes: state.kv_bytes,
            busy: self.ledger.is_busy(),
            adapters: self.adapters().len() as u32,
        }
    }

    /// A copy of the ledger.
    ///
    /// Errors: `OutOfMemory`.
    pub fn tokens(&self) -> Result<Vec<i32>> {
        let state = self.ledger.state();
        let bytes = state.tokens.len().saturating_mul(2 * size_of::<i32>());
        let _room = room::hold_for(bytes, "the session's tokens")?;
        Ok(state.tokens.clone())
    }

    /// The last answer as a message, JSON.
    pub fn message(&self) -> Result<String> {
        match &self.ledger.state().answer {
            Some(answer) => {
                // A value, and what it is as text, where each byte may become six.
                let _room = room::hold(answer.bytes(), 20, "the session's message")?;
                Ok(answer.to_message())
            }
            None => Err(Error::new(Code::NotFound, "the session has no answer yet")),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // The engine frees them when it comes to it.
        self.ledger.set_kv(&mut self.ledger.state(), 0, 0);
        let id = self.cache.session;
        let _ = self
            .model
            .engine
            .send(Command::Do(Box::new(move |worker| worker.drop_session(id))));
        self.model.engine.sessions.fetch_sub(1, Ordering::AcqRel);
    }
}
