//! The beginning of a request: when its session is free, what it computes with, and what its session has of its tokens.

use std::collections::HashSet;
use std::time::Instant;

use super::marks::marks;
use super::running::{Phase, Running};
use super::{Turn, Worker};
use crate::error::{Code, Result};
use crate::model::cost::KvSpec;
use crate::model::{AdapterSet, Cache};
use crate::runtime::caches::{CacheKind, Known, SessionCache};
use crate::runtime::engine;
use crate::runtime::job::{CacheSpec, EndReason};

impl Worker {
    /// Lets waiting requests begin whose session is free, in order, and ends those that wait no longer.
    pub(super) fn admit(&mut self) {
        let paused = self.paused.is_some();
        let mut taken: HashSet<u64> = self.running.iter().map(Running::session).collect();
        for running in std::mem::take(&mut self.waiting) {
            let ticket = &running.job.request.ticket;
            if ticket.is_cancelled() {
                running.end(Ok(EndReason::Cancelled), None);
            } else if running.is_late() && !paused {
                running.end(Ok(EndReason::Deadline), None);
            } else if taken.insert(running.session()) && running.job.request.may_begin() {
                self.running.push(*running);
            } else {
                self.waiting.push(running);
            }
        }
    }

    pub(super) fn begin(&mut self, index: usize) -> Result<Turn> {
        let mut gains = 0_u64;
        for &(id, _) in &self.running[index].job.adapters {
            gains = gains.saturating_add(self.loaded.adapter(id)?.adapter.cost_of_gains());
        }
        if let Err(refusal) = self.ask_system(gains) {
            return Ok(Turn::Refused(refusal));
        }
        let running = &mut self.running[index];
        running.key.adapters.clear();
        running.adapters = AdapterSet::default();
        for &(id, strength) in &running.job.adapters {
            let (decoder, loaded) = self.loaded.adapter_of(running.job.cache.model, id)?;
            match decoder.add_adapter(&mut running.adapters, &mut loaded.adapter, strength) {
                // Adapters that do not go together; nothing of MLX's.
                Err(error) if error.code == Code::Incompatible => return Ok(Turn::Refused(error)),
                added => added?,
            }
            let applied = self.loaded.applied(id, strength)?;
            running.key.adapters.push(applied);
        }
        let decoder = self.loaded.model(running.job.cache.model)?;
        running.mixes = decoder.shares_pass(&running.adapters);
        match running.job.request.begin(&mut running.forced) {
            Ok(prompt) => {
                running.prompt = prompt;
                running.phase = Phase::Match;
            }
            Err(error) => return Ok(Turn::Refused(error)),
        }
        match running.begin_grammar() {
            Ok(()) => Ok(Turn::More),
            Err(error) => Ok(Turn::Refused(error)),
        }
    }

    /// Cuts the session's cache back to what it has in common with the tokens.
    pub(super) fn match_cache(&mut self, index: usize) -> Result<Turn> {
        let alone = self.running.len() == 1;
        let running = &mut self.running[index];
        if running.started.is_none() {
            running.started = Some(Instant::now());
            if alone {
                engine::reset_peak();
            }
        }
        let CacheSpec {
            model,
            window,
            keep,
            scheme,
            ..
        } = running.job.cache;
        let decoder = self.loaded.model(model)?;
        let kind = CacheKind {
            model,
            window,
            keep,
            scheme,
        };
        self.caches.get_or_insert(&running.key, || {
            let ledger = running.ledger().clone();
            let mut layers = decoder.make_caches(window, keep);
            layers.iter_mut().for_each(|layer| layer.pack_in(scheme));
            SessionCache::new(kind, layers, ledger)
        });
        if let Some(score) = &running.job.score {
            self.caches.go_on_from(score.session, &running.key)?;
        }
        let cache = self.caches.of_mut(&running.key)?;
        let held = cache.tokens.len();
        let length = running.length();
        // And the first token of the answer goes in, unless it is the last.
        let more = running.job.max_tokens != Some(1);
        let expected = i32::try_from(length + usize::from(more)).unwrap_or(0);
        let long = decoder.is_long(expected);
        if running.job.ignore_cache || cache.long != long {
            cache.clear();
        }
        if running.job.whole_history {
            cache.cut_to_exact();
        }
        cache.long = long;
        let wanted = [running.prompt.as_slice(), &running.generated].concat();
        // What logits are wanted of is computed in any case.
        let end = running.without_logits();
        let known = match running.job.ignore_cache {
            true => Known::default(),
            false => {
                let limit = running.job.cache.limit;
                self.caches
                    .match_prefix(&running.key, &wanted, end, limit)?
            }
        };
        let cache = self.caches.of_mut(&running.key)?;
        if cache.tokens.len() < held {
            let (left, id) = (cache.tokens.len(), running.job.request.ticket.id());
            crate::log::debug!("request {id}: of {held} tokens of keys and values {left} stay");
        }
        let context = i32::try_from(running.job.context).unwrap_or(i32::MAX);
        let most = match running.job.cache.limit {
            Some(limit) => {
                let kv = KvSpec { window, scheme };
                decoder.costs().most_tokens(context, kv, limit)
            }
            None => context,
        };
        for layer in &mut cache.layers {
            layer.expect(expected.min(most), most);
        }
        if running.failures == 0 && running.generated.is_empty() {
            running.cached_tokens = cache.tokens.len() as u64;
        }
        // The end of the answer before, if the session goes on from there.
        let next = wanted.get(cache.tokens.len()..).unwrap_or_default();
        if cache.again(next) == 0 {
            cache.mark_states();
        }
        running.marks = match cache.layers.iter().any(Cache::takes_marks) {
            true => {
                // A score's target is left behind.
                let prompt = running.prompt.get(..=end).unwrap_or(&running.prompt);
                let states = cache.layers.iter().any(Cache::is_state);
                let known = known.beyond(cache.tokens.len());
                marks(prompt, &running.job.stop_tokens, known, states)
            }
            false => Vec::new(),
        };
        for &at in &running.marks {
            cache.mark(at);
        }
        running.phase = Phase::Prefill {
            total: length - cache.tokens.len(),
        };
        self.match_head(index)?;
        Ok(Turn::More)
    }
}
