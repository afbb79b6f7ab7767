//! The memory budget: whether what comes next fits, and what goes when it does not.

use super::running::in_use;
use super::Worker;
use crate::error::{Code, Error, Result};
use crate::mlx::memory;

impl Worker {
    /// Gives cached buffers back, and on wish the keys and values of sessions that no request uses.
    pub(in crate::runtime) fn trim(&mut self, idle_kv: bool) {
        if idle_kv {
            while self.drop_oldest_idle() {}
        }
        memory::give_back();
    }

    /// Looks whether `n` more tokens of a request fit, and where `idle_may_go` lets idle sessions lose their keys and
    /// values for them, and then the request its marks. Gives OUT_OF_MEMORY, before anything is allocated, when they do not.
    pub(super) fn make_room(
        &mut self,
        index: usize,
        n: usize,
        idle_may_go: bool,
    ) -> Result<Option<Error>> {
        let running = &self.running[index];
        let spec = running.job.cache;
        let decoder = self.loaded.model(spec.model)?;
        let cache = self.caches.of(&running.key)?;
        let n = i32::try_from(n).unwrap_or(i32::MAX);
        let mut cost = decoder.cost(n, &cache.layers);
        let refuse = |what: String| Ok(Some(Error::new(Code::OutOfMemory, what)));
        if let Some(limit) = spec.limit {
            let others = self.caches.other_bytes(&running.key);
            if cost.kv.saturating_add(others) > limit {
                self.caches.drop_others(&running.key);
            }
            if cost.kv > limit && decoder.keeps_states() {
                let cache = self.caches.of_mut(&running.key)?;
                cache.drop_marks();
                cost = decoder.cost(n, &cache.layers);
            }
            if cost.kv > limit {
                return refuse(format!(
                    "the keys and values would have {} bytes, and the session's kv_limit is {limit}",
                    cost.kv
                ));
            }
        }
        let key = running.key.clone();
        let mut marks_may_go = decoder.keeps_states();
        while !self.fits(cost.more)? {
            if idle_may_go && self.drop_oldest_idle() {
                continue;
            }
            if idle_may_go && std::mem::take(&mut marks_may_go) {
                self.caches.of_mut(&key)?.drop_marks();
                continue;
            }
            return refuse(format!(
                "{} bytes are in use, the next {n} tokens take up to {} more, and the limit is {}",
                memory::active(),
                cost.more,
                memory::limit()
            ));
        }
        self.queued_bytes = self.queued_bytes.saturating_add(cost.more);
        Ok(None)
    }

    /// Whether so many more bytes fit. What is in use is only known when the device is idle, so near the limit this waits
    /// for it.
    fn fits(&mut self, more: u64) -> Result<bool> {
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
