//! The memory budget: whether what comes next fits, and what goes when it does not.

use std::cmp::Reverse;
use std::time::{Duration, Instant};

use super::running::{in_use, Phase};
use super::{Turn, Worker};
use crate::error::{Code, Error, Result};
use crate::mlx::{memory, Device};
use crate::room;

/// What MLX takes beside its arrays: graphs, tasks, what its allocator rounds up. Where an allocation of these fails in the
/// middle of an evaluation, MLX ends the process.
const GRAPH: u64 = 4 << 20;
/// So long what the system was found to have counts as there: a small model's steps are as short as asking is.
const FRESH: Duration = Duration::from_millis(2);
/// Bytes for each token of a step and number of the hidden size: the kernels' own arrays, of which an MLP's are the largest.
const SCRATCH: u64 = 64;
/// Bytes for each entry of the vocabulary: what a draw sorts.
const DRAW: u64 = 16;

/// What a trim gives back; each also what is before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trim {
    /// MLX's cached buffers.
    Buffers,
    /// What is kept of no session.
    Prefixes,
    /// The keys and values of sessions that no request uses.
    IdleSessions,
}

/// Why tokens do not fit.
pub(super) struct NoRoom {
    error: Error,
    /// By the session's own limit: nobody who goes makes room.
    own: bool,
}

impl Worker {
    /// Gives back what can be made again, as much as is asked for.
    pub(in crate::runtime) fn trim(&mut self, what: Trim) {
        match what {
            Trim::Buffers => {}
            Trim::Prefixes => self.caches.drop_kept(),
            Trim::IdleSessions => while self.drop_oldest_idle() {},
        }
        memory::give_back();
    }

    /// Looks whether `n` more tokens of a request fit. What is kept of no session goes for them, and where `idle_may_go` the marks of
    /// idle sessions, its own, and the keys and values of idle sessions. Gives OUT_OF_MEMORY, before anything is allocated, when they
    /// do not.
    pub(super) fn make_room(
        &mut self,
        index: usize,
        n: usize,
        idle_may_go: bool,
    ) -> Result<Option<NoRoom>> {
        self.make_room_with(index, n, 0, idle_may_go)
    }

    /// As `make_room`, with so many bytes more.
    pub(super) fn make_room_with(
        &mut self,
        index: usize,
        n: usize,
        more: u64,
        idle_may_go: bool,
    ) -> Result<Option<NoRoom>> {
        self.make_room_of(index, (n, false), more, idle_may_go)
    }

    /// As `make_room`, for rows of a pass and so many bytes more.
    pub(super) fn make_room_for_rows(
        &mut self,
        index: usize,
        rows: usize,
        more: u64,
        idle_may_go: bool,
    ) -> Result<Option<NoRoom>> {
        self.make_room_of(index, (rows, true), more, idle_may_go)
    }

    /// Of so many tokens, which come `singly` or not.
    fn make_room_of(
        &mut self,
        index: usize,
        (n, singly): (usize, bool),
        more: u64,
        idle_may_go: bool,
    ) -> Result<Option<NoRoom>> {
        let running = &self.running[index];
        let spec = running.job.cache;
        let decoder = self.loaded.model(spec.model)?;
        let cache = self.caches.of(&running.key)?;
        let n = i32::try_from(n).unwrap_or(i32::MAX);
        let running_tokens = running.prompt.len().saturating_add(running.generated.len());
        let config = decoder.config();
        let scratch = u64::from(config.hidden_size.unsigned_abs()).saturating_mul(SCRATCH);
        let draw = u64::from(config.vocab_size.unsigned_abs()).saturating_mul(DRAW);
        let mut cost = decoder.cost(n, singly, &cache.layers);
        let refuse = |what: String, own: bool| {
            let error = Error::new(Code::OutOfMemory, what);
            Ok(Some(NoRoom { error, own }))
        };
        if let Some(limit) = spec.limit {
            let others = self.caches.other_bytes(&running.key);
            if cost.kv.saturating_add(others) > limit {
                self.caches.drop_others(&running.key);
            }
            let cache = self.caches.of_mut(&running.key)?;
            if cost.kv > limit && cache.drop_marks() {
                cost = decoder.cost(n, singly, &cache.layers);
            }
            if cost.kv > limit {
                let what = format!(
                    "the keys and values would have {} bytes, and the session's kv_limit is {limit}",
                    cost.kv
                );
                return refuse(what, true);
            }
        }
        cost.more = cost.more.saturating_add(more);
        let key = running.key.clone();
        while !self.fits(cost.more)? {
            let dropped = match idle_may_go {
                true => {
                    let in_use = in_use(&self.running);
                    self.caches.drop_oldest_spare(&in_use)
                        || self.caches.of_mut(&key)?.drop_marks()
                        || self.caches.drop_oldest_idle(&in_use)
                }
                false => self.caches.drop_oldest_kept(),
            };
            if dropped {
                // It may have had the same tensors, which need not be copied any more; and a mark may need none.
                let decoder = self.loaded.model(spec.model)?;
                cost = decoder.cost(n, singly, &self.caches.of(&key)?.layers);
                cost.more = cost.more.saturating_add(more);
                continue;
            }
            let what = format!(
                "{} bytes are in use, the next {n} tokens take up to {} more, and the limit is {}",
                memory::active(),
                cost.more,
                memory::limit()
            );
            return refuse(what, false);
        }
        let tokens = (running_tokens as u64).saturating_mul(4 * size_of::<i32>() as u64);
        let scratch = scratch.saturating_mul(u64::from(n.unsigned_abs()));
        let beside = tokens.saturating_add(scratch).saturating_add(draw);
        if let Err(error) = self.ask_system(cost.more.saturating_add(beside)) {
            return Ok(Some(NoRoom { error, own: false }));
        }
        self.queued_bytes = self.queued_bytes.saturating_add(cost.more);
        Ok(None)
    }

    /// What becomes of a request whose next tokens do not fit. Beside one that goes before it, it waits until somebody has ended, and
    /// loses its keys and values for that, which are computed again; where it goes first, the last of the others does. None: so there
    /// is more room now.
    pub(super) fn without_room(&mut self, index: usize, why: NoRoom) -> Result<Option<Turn>> {
        // The first one goes on until it ends, so that all do: by priority, and of equals who began before.
        let rank = |at: usize| (Reverse(self.running[at].job.priority), at);
        let others = (0..self.running.len()).filter(|&at| at != index);
        let holds = |&at: &usize| {
            let cache = self.caches.of(&self.running[at].key);
            cache.is_ok_and(|cache| !cache.tokens.is_empty())
        };
        let first = others
            .clone()
            .filter(|&at| self.running[at].gave_way.is_none());
        let goes_before = first
            .map(rank)
            .min()
            .is_some_and(|first| first < rank(index));
        let last = others.filter(holds).max_by_key(|&at| rank(at));
        let gives_way = match (why.own, goes_before, last) {
            (true, ..) | (false, false, None) => return Ok(Some(Turn::Refused(why.error))),
            (false, true, _) => index,
            (false, false, Some(last)) => last,
        };
        self.give_way(gives_way)?;
        Ok((gives_way == index).then_some(Turn::More))
    }

    fn give_way(&mut self, index: usize) -> Result<()> {
        let running = &mut self.running[index];
        let id = running.job.request.ticket.id();
        crate::log::debug!("request {id} waits for memory, until another one has ended");
        running.gave_way = Some(self.ended);
        running.phase = Phase::Match;
        // What is queued for it may be in its sampler.
        running.sampler = None;
        self.caches.of_mut(&running.key)?.clear();
        Ok(())
    }

    /// Whether the system has so many bytes, beside what MLX takes in any case.
    ///
    /// Errors: `OutOfMemory`.
    pub(in crate::runtime) fn ask_system(&mut self, bytes: u64) -> Result<()> {
        // Others have memory of their own, whose limit MLX knows.
        let bytes = if self.device == Device::Cpu { bytes } else { 0 };
        // In large steps: a token more is no other question.
        let wanted = bytes.saturating_add(GRAPH) / GRAPH;
        let wanted = wanted.saturating_add(1).saturating_mul(GRAPH);
        let is_fresh = |(had, at): (u64, Instant)| had >= wanted && at.elapsed() < FRESH;
        if self.asked.is_some_and(is_fresh) && !crate::reserve::short() {
            return Ok(());
        }
        let wanted_here = usize::try_from(wanted).unwrap_or(usize::MAX);
        self.asked = None;
        room::now(wanted_here, "the engine's next step")?;
        self.asked = Some((wanted, Instant::now()));
        Ok(())
    }

    /// Whether so many more bytes fit. What is in use is only known when the device is idle, so near the limit this waits
    /// for it.
    pub(super) fn fits(&mut self, more: u64) -> Result<bool> {
        let fit = |queued: u64| {
            let now = memory::active().saturating_add(queued);
            now.saturating_add(more) <= memory::limit()
        };
        if fit(self.queued_bytes) {
            return Ok(true);
        }
        self.wait_for_device()?;
        Ok(fit(0))
    }

    /// Lets idle sessions lose their keys and values until so many bytes fit; false: they do not.
    pub(in crate::runtime) fn make_room_for(&mut self, bytes: u64) -> bool {
        let room = self.twice(|worker| {
            while !worker.fits(bytes)? {
                if !worker.drop_oldest_idle() {
                    return Ok(false);
                }
            }
            Ok(true)
        });
        room.unwrap_or(false)
    }

    fn drop_oldest_idle(&mut self) -> bool {
        self.caches.drop_oldest_idle(&in_use(&self.running))
    }
}
