//! Caches that nobody has any more: of sessions that were freed, and of histories that a session left for another one. The
//! next prompt that begins as one of them goes on from it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use super::{AppliedAdapter, SessionCache, WORTH};
use crate::mlx::memory;
use crate::runtime::ledger::Ledger;

/// What is kept takes at most this part of the memory limit, unless it was given a limit of its own.
const PART: u64 = 8;
/// So many at most, as each prompt is compared with all of them.
const MOST: usize = 256;

/// `DEFAULT`, or bytes.
static LIMIT: AtomicU64 = AtomicU64::new(DEFAULT);
const DEFAULT: u64 = u64::MAX - 1;

/// Bytes of keys, values and states that are kept; `None`: an eighth of the memory limit. It holds from the next cache on.
pub fn set_limit(bytes: Option<u64>) {
    LIMIT.store(bytes.unwrap_or(DEFAULT), Ordering::Relaxed);
}

fn limit() -> u64 {
    #[cfg(test)]
    if let Some(bytes) = for_tests::limit() {
        return bytes;
    }
    match LIMIT.load(Ordering::Relaxed) {
        DEFAULT => memory::limit() / PART,
        bytes => bytes,
    }
}

struct Prefix {
    adapters: Vec<AppliedAdapter>,
    cache: SessionCache,
}

impl Prefix {
    /// Whether a cache has all that this one has.
    fn is_in(&self, adapters: &[AppliedAdapter], cache: &SessionCache) -> bool {
        self.adapters == adapters && cache.holds(&self.cache)
    }
}

/// The least recently used first.
#[derive(Default)]
pub struct Prefixes(Vec<Prefix>);

impl Prefixes {
    /// Keeps a cache that its session gives away, and lets the oldest go for it.
    pub fn keep(&mut self, adapters: &[AppliedAdapter], mut cache: SessionCache) {
        cache.cut_to_exact();
        let bytes = cache.nbytes();
        let held = |prefix: &Prefix| prefix.adapters == adapters && prefix.cache.holds(&cache);
        if cache.tokens.len() < WORTH || bytes > limit() || self.0.iter().any(held) {
            return;
        }
        self.0.retain(|prefix| !prefix.is_in(adapters, &cache));
        // Its session may live on; the bytes count with the model's.
        let ledger = Arc::new(cache.ledger.for_the_same_model());
        ledger.set_kv(&mut ledger.state(), cache.tokens.len() as u64, bytes);
        cache.ledger = ledger;
        let adapters = adapters.to_vec();
        self.0.push(Prefix { adapters, cache });
        while self.0.len() > MOST || self.nbytes() > limit() {
            self.drop_oldest();
        }
    }

    /// Those that a cache can go on from, and where they are.
    fn fit<'a>(
        &'a self,
        adapters: &'a [AppliedAdapter],
        own: &'a SessionCache,
    ) -> impl Iterator<Item = (usize, &'a SessionCache)> {
        let all = self.0.iter().enumerate();
        let fit =
            all.filter(move |(_, prefix)| prefix.adapters == adapters && prefix.cache.fits(own));
        fit.map(|(at, prefix)| (at, &prefix.cache))
    }

    /// See `SessionCache::alike`; the most of all that a cache can go on from.
    pub fn alike(
        &self,
        adapters: &[AppliedAdapter],
        own: &SessionCache,
        tokens: &[i32],
    ) -> Option<usize> {
        let fit = self.fit(adapters, own);
        fit.map(|(_, cache)| cache.alike(tokens)).max()
    }

    /// Of those that a cache can go on from, the one that can go back to most of these tokens: which, and to how many.
    pub fn best(
        &self,
        adapters: &[AppliedAdapter],
        own: &SessionCache,
        tokens: &[i32],
        limit: Option<u64>,
    ) -> Option<(usize, usize)> {
        let fit = self.fit(adapters, own);
        let fit = fit.filter(|(_, cache)| cache.is_within(limit));
        let reached = fit.map(|(at, cache)| (at, cache.common(tokens)));
        reached.max_by_key(|(_, common)| *common)
    }

    /// The first `n` tokens of one that `best` gave. It stays here too if more of it would be lost than has to be copied.
    pub fn take(&mut self, at: usize, n: usize, ledger: Arc<Ledger>) -> SessionCache {
        let mut prefix = self.0.remove(at);
        let mut taken = match prefix.cache.loses_much_at(n) {
            true => {
                let fork = prefix.cache.fork(ledger);
                self.0.push(prefix);
                fork
            }
            false => {
                prefix.cache.ledger = ledger;
                prefix.cache
            }
        };
        taken.cut(n);
        taken
    }

    /// False: there is none.
    pub fn drop_oldest(&mut self) -> bool {
        let any = !self.0.is_empty();
        self.0.drain(..usize::from(any));
        any
    }

    pub fn retain(&mut self, stays: impl Fn(&[AppliedAdapter], &SessionCache) -> bool) {
        self.0
            .retain(|prefix| stays(&prefix.adapters, &prefix.cache));
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }

    fn nbytes(&self) -> u64 {
        self.0.iter().map(|prefix| prefix.cache.nbytes()).sum()
    }
}

/// A limit of the tests' own, which no engine that starts sets back.
#[cfg(test)]
pub mod for_tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    const NONE: u64 = u64::MAX - 1;
    static LIMIT: AtomicU64 = AtomicU64::new(NONE);

    pub fn set_limit(bytes: Option<u64>) {
        LIMIT.store(bytes.unwrap_or(NONE), Ordering::Relaxed);
    }

    pub(super) fn limit() -> Option<u64> {
        Some(LIMIT.load(Ordering::Relaxed)).filter(|&bytes| bytes != NONE)
    }
}
