//! Keys and values of all sessions: for each session one cache for each set of adapters that it was used with, since
//! what one set computed is worth nothing to another. What a session gives away is kept for others (`prefixes.rs`).

use std::collections::HashMap;
use std::sync::Arc;

use super::job::Kv;
use super::ledger::Ledger;
use crate::dtype::Scheme;
use crate::error::{Error, Result};
use crate::mlx::{self, Array};
use crate::model::cache::Tokens;
use crate::model::Cache;

mod prefixes;
mod waiting;

#[cfg(test)]
pub use prefixes::for_tests as prefixes_for_tests;
pub use prefixes::set_limit as set_prefix_limit;
use prefixes::Prefixes;
pub use waiting::OutRows;
use waiting::Waiting;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CacheKey {
    pub session: u64,
    /// Of the draft model, or of the model's head that predicts further tokens; adapters are the model's.
    pub draft: bool,
    pub adapters: Vec<AppliedAdapter>,
}

/// One adapter of a set, in the state that it was computed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AppliedAdapter {
    pub id: u64,
    /// Counts changes of its weights.
    pub version: u64,
    /// The bits of the f32 that its own scale is multiplied by.
    pub strength: u32,
}

/// What the layers of caches must have in common for one to go on from another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheKind {
    pub model: u64,
    pub window: Option<i32>,
    pub keep: i32,
    /// How keys and values are packed.
    pub scheme: Option<Scheme>,
}

/// The caches of all layers and the tokens whose keys and values they hold.
pub struct SessionCache {
    kind: CacheKind,
    pub layers: Vec<Cache>,
    pub tokens: Vec<i32>,
    /// The last step that wrote to it.
    pub last_step: u64,
    /// Its keys are turned as those of a long sequence (`Decoder::is_long`).
    pub long: bool,
    /// Behind so many tokens what was taken back and has come nevertheless.
    again: (usize, Vec<i32>),
    /// Of a head that predicts further tokens.
    waiting: Waiting,
    /// The session's, which is told when they go.
    ledger: Arc<Ledger>,
}

impl SessionCache {
    pub fn new(kind: CacheKind, layers: Vec<Cache>, ledger: Arc<Ledger>) -> Self {
        SessionCache {
            kind,
            layers,
            tokens: Vec::new(),
            last_step: 0,
            long: false,
            again: (0, Vec::new()),
            waiting: Waiting::default(),
            ledger,
        }
    }

    pub fn clear(&mut self) {
        self.layers.iter_mut().for_each(Cache::clear);
        self.tokens.clear();
        self.waiting = Waiting::default();
    }

    /// How many tokens it is of: those of its layers, and of rows that wait.
    fn known(&self) -> usize {
        self.tokens.len() + self.waiting.tokens.len()
    }

    /// The same for another session; nothing is copied before one of the two goes on.
    fn fork(&mut self, ledger: Arc<Ledger>) -> SessionCache {
        SessionCache {
            kind: self.kind,
            layers: self.layers.iter_mut().map(Cache::fork).collect(),
            tokens: self.tokens.clone(),
            last_step: self.last_step,
            long: self.long,
            again: self.again.clone(),
            waiting: self.waiting.clone(),
            ledger,
        }
    }

    /// Tokens at the front that it has in common with these.
    fn alike(&self, tokens: &[i32]) -> usize {
        let pairs = self.tokens.iter().chain(&self.waiting.tokens).zip(tokens);
        pairs.take_while(|(a, b)| a == b).count()
    }

    /// Those of them that all layers can go back to.
    fn common(&self, tokens: &[i32]) -> usize {
        self.reach(self.alike(tokens))
    }

    /// And from which others may go on, too.
    fn shared(&self, tokens: &[i32]) -> usize {
        self.reach(self.alike(tokens).min(self.exact()))
    }

    /// Behind so many tokens what it holds depends on how it was filled.
    fn exact(&self) -> usize {
        match self.is_path_dependent() {
            // What such a layer goes back to is of a time when it did not.
            true => self.tokens.len().saturating_sub(1),
            false => self.known(),
        }
    }

    /// How many of the first `n` tokens all layers can go back to.
    fn reach(&self, n: usize) -> usize {
        let skipped = self.waiting.skipped;
        let mut to = n.min(self.known());
        while to < self.tokens.len() {
            if to <= skipped && skipped > 0 {
                return 0;
            }
            let wanted = i32::try_from(to - skipped).unwrap_or(i32::MAX);
            let reached = self.layers.iter().map(|layer| layer.reach(wanted)).min();
            match usize::try_from(reached.unwrap_or(wanted)) {
                Ok(reached) if reached < to - skipped => to = reached + skipped,
                _ => break,
            }
        }
        to
    }

    /// The layer that the number says, and how many of its tokens are the first of these; none: no keys, or of other tokens.
    pub fn keys(&self, number: usize, tokens: &[i32]) -> Option<(&Tokens, i32)> {
        let layer = self.layers.get(number)?.as_tokens()?;
        let reached = layer.reach(i32::try_from(self.alike(tokens)).unwrap_or(i32::MAX));
        (reached > 0).then_some((layer, reached))
    }

    /// Of the next `n` tokens all but the first `sure` can be taken back until others come; those of them that stay nevertheless are
    /// computed again where there are states.
    pub fn hold(&mut self, n: usize, sure: usize) -> Result<()> {
        let [n, sure] = [n, sure].map(|n| i32::try_from(n).unwrap_or(i32::MAX));
        let mut layers = self.layers.iter_mut();
        layers.try_for_each(|layer| layer.hold(n, sure))?;
        let held: Vec<&Array> = self.layers.iter().flat_map(Cache::held).collect();
        match held.is_empty() {
            true => Ok(()),
            false => mlx::async_eval(&held),
        }
    }

    /// Nothing is taken back any more.
    pub fn settle(&mut self) {
        self.layers.iter_mut().for_each(Cache::settle);
    }

    /// Keeps of the first `n` tokens as many as all layers can go back to. Where that fails nothing is kept.
    pub fn cut(&mut self, n: usize) {
        let to = self.reach(n);
        if to >= self.tokens.len() {
            return self.waiting.cut((to - self.tokens.len()).saturating_add(1));
        }
        if to <= self.waiting.skipped && self.waiting.skipped > 0 {
            return self.clear();
        }
        self.tokens.truncate(to);
        self.waiting.cut(0);
        let to = to - self.waiting.skipped;
        if let Err(error) = self.cut_layers(i32::try_from(to).unwrap_or(0)) {
            crate::log::debug!("keys and values are computed again: {error}");
            self.clear();
        }
    }

    fn cut_layers(&mut self, to: i32) -> Result<()> {
        let mut written: Vec<&Array> = Vec::new();
        for layer in &mut self.layers {
            let held = layer.held().next().is_some();
            layer.cut(to)?;
            if held {
                written.extend(layer.arrays());
            }
        }
        match written.is_empty() {
            true => Ok(()),
            false => mlx::async_eval(&written),
        }
    }

    /// Without the last `n` tokens, which did not come. Those before them that had to go, too, are known (`again`).
    pub fn take_back(&mut self, n: usize) {
        let end = self.tokens.len().saturating_sub(n);
        let reached = self.reach(end);
        let again = self.tokens.get(reached..end).unwrap_or_default();
        self.again = (reached, again.to_vec());
        self.cut(end);
        self.settle();
    }

    /// Goes back to before a pass, when it held `n` tokens, of which those up to the first `sure` are to come again.
    pub fn before_pass(&mut self, n: usize, sure: usize) {
        let again = self.tokens.get(n..sure).unwrap_or_default().to_vec();
        self.take_back(self.tokens.len().saturating_sub(n));
        self.again.1.extend(again);
    }

    /// How many of the next tokens, where these are to come, were computed in passes and taken back. They are computed once more as
    /// there, so that nobody finds in the last bits that somebody guessed.
    pub fn again(&self, next: &[i32]) -> usize {
        let (at, tokens) = &self.again;
        match *at == self.tokens.len() && next.starts_with(tokens) {
            true => tokens.len(),
            false => 0,
        }
    }

    /// Keeps what it has in common with these tokens.
    pub fn cut_to_common(&mut self, tokens: &[i32]) {
        self.cut(self.common(tokens));
    }

    /// Keeps what does not depend on how it was filled.
    pub fn cut_to_exact(&mut self) {
        self.cut(self.exact());
    }

    /// The first `at` tokens are a place that it can go back to from now on, as far as its layers can now.
    pub fn mark(&mut self, at: usize) {
        let at = i32::try_from(at).unwrap_or(0);
        self.layers.iter_mut().for_each(|layer| layer.mark(at));
    }

    /// Where it is now is a place that its states can go back to.
    pub fn mark_states(&mut self) {
        let at = i32::try_from(self.tokens.len()).unwrap_or(0);
        let states = self.layers.iter_mut().filter(|layer| layer.is_state());
        states.for_each(|state| state.mark(at));
    }

    /// Only where it is now is kept; false: so it was before.
    pub fn drop_marks(&mut self) -> bool {
        let layers = self.layers.iter_mut().map(Cache::drop_marks);
        layers.fold(false, |any, dropped| any | dropped)
    }

    /// Another one can go on from it.
    fn fits(&self, other: &SessionCache) -> bool {
        (self.kind, self.long) == (other.kind, other.long)
    }

    /// Whatever goes on from the other can go on from this one.
    fn holds(&self, other: &SessionCache) -> bool {
        self.fits(other) && self.shared(&other.tokens) >= other.tokens.len()
    }

    /// Whether what it holds depends on how it was filled.
    pub fn is_path_dependent(&self) -> bool {
        self.layers.iter().any(Cache::is_path_dependent)
    }

    /// Whether a cut to `n` tokens loses more of them than a fork, which can be cut instead, makes its owner copy.
    fn loses_much_at(&self, n: usize) -> bool {
        self.tokens.len() > n.saturating_mul(2)
    }

    fn is_within(&self, limit: Option<u64>) -> bool {
        limit.is_none_or(|limit| self.nbytes() <= limit)
    }

    fn nbytes(&self) -> u64 {
        let layers = self.layers.iter().map(Cache::nbytes);
        layers.sum::<u64>() + self.waiting.nbytes()
    }
}

/// Tokens that a prompt begins with.
#[derive(Clone, Copy, Default)]
pub struct Known {
    /// The session's own cache did, too.
    pub own: usize,
    /// And another one.
    pub others: usize,
}

impl Known {
    /// What is worth to be gone back to beyond what can be; and of another cache, beyond the session's own.
    pub fn beyond(self, held: usize) -> Known {
        let worth = |at: usize| at >= held.saturating_add(WORTH);
        Known {
            own: if worth(self.own) { self.own } else { 0 },
            others: match worth(self.others) && self.others > self.own {
                true => self.others,
                false => 0,
            },
        }
    }
}

/// Fewer tokens than this are computed again rather than kept, or taken from another session.
const WORTH: usize = 8;

#[derive(Default)]
pub struct Caches {
    of_sessions: HashMap<CacheKey, SessionCache>,
    kept: Prefixes,
}

impl Caches {
    pub fn of(&self, key: &CacheKey) -> Result<&SessionCache> {
        self.of_sessions.get(key).ok_or_else(cache_is_gone)
    }

    /// None: the session was not used with these adapters, or has lost what it had.
    pub fn find(&self, key: &CacheKey) -> Option<&SessionCache> {
        self.of_sessions.get(key)
    }

    pub fn of_mut(&mut self, key: &CacheKey) -> Result<&mut SessionCache> {
        self.of_sessions.get_mut(key).ok_or_else(cache_is_gone)
    }

    /// Those of several sessions, in the order of these keys, which differ.
    pub fn of_many(&mut self, keys: &[&CacheKey]) -> Result<Vec<&mut SessionCache>> {
        if let [key] = keys {
            return Ok(vec![self.of_mut(key)?]);
        }
        let places: HashMap<&CacheKey, usize> = keys.iter().copied().zip(0..).collect();
        let mut found: Vec<Option<&mut SessionCache>> = Vec::new();
        found.resize_with(keys.len(), || None);
        for (key, cache) in &mut self.of_sessions {
            if let Some(place) = places.get(key).and_then(|&at| found.get_mut(at)) {
                *place = Some(cache);
            }
        }
        let found = found.into_iter();
        found.map(|cache| cache.ok_or_else(cache_is_gone)).collect()
    }

    pub fn get_or_insert(
        &mut self,
        key: &CacheKey,
        make: impl FnOnce() -> SessionCache,
    ) -> &mut SessionCache {
        self.of_sessions.entry(key.clone()).or_insert_with(make)
    }

    /// Gives a session the caches that another one has.
    pub fn fork_session(&mut self, from: u64, to: u64, ledger: &Arc<Ledger>) {
        let own = self
            .of_sessions
            .iter_mut()
            .filter(|(key, _)| key.session == from);
        let forks = own.map(|(key, cache)| {
            let key = CacheKey {
                session: to,
                ..key.clone()
            };
            (key, cache.fork(ledger.clone()))
        });
        let forks: Vec<(CacheKey, SessionCache)> = forks.collect();
        let own = forks.iter().filter(|(key, _)| !key.draft);
        let last = own.max_by_key(|(_, cache)| cache.last_step);
        let tokens = last.map_or(0, |(_, cache)| cache.tokens.len() as u64);
        self.of_sessions.extend(forks);
        let bytes = self.session_bytes(to);
        ledger.set_kv(&mut ledger.state(), tokens, bytes);
    }

    /// What there is under a key, cut back to what it has in common with these tokens; the session notices nothing.
    pub fn copy(&mut self, key: &CacheKey, tokens: &[i32]) -> Option<SessionCache> {
        let cache = self.of_sessions.get_mut(key)?;
        let mut copy = cache.fork(cache.ledger.clone());
        copy.cut_to_common(tokens);
        copy.settle();
        Some(copy)
    }

    /// Gives a session what was computed for it elsewhere.
    pub fn put(&mut self, key: CacheKey, cache: SessionCache) {
        let (session, tokens) = (key.session, cache.tokens.len() as u64);
        let ledger = cache.ledger.clone();
        self.of_sessions.insert(key, cache);
        let bytes = self.session_bytes(session);
        ledger.set_kv(&mut ledger.state(), tokens, bytes);
    }

    /// Lets a cache that is empty go on from that of the session, however that was filled.
    pub fn go_on_from(&mut self, session: u64, key: &CacheKey) -> Result<()> {
        let own = self.of(key)?;
        let ledger = own.ledger.clone();
        let from = CacheKey {
            session,
            ..key.clone()
        };
        if let (true, Some(other)) = (own.tokens.is_empty(), self.of_sessions.get_mut(&from)) {
            let fork = other.fork(ledger);
            self.of_sessions.insert(key.clone(), fork);
        }
        Ok(())
    }

    /// Keeps of the cache of `key` what it has in common with the first `most` of these tokens. Where another session's cache, or
    /// one that is kept, has more of them and no more than `limit` bytes, it is given that beginning instead. Gives how many of the
    /// tokens it and another one begin with, whether or not they can go back to them.
    pub fn match_prefix(
        &mut self,
        key: &CacheKey,
        tokens: &[i32],
        most: usize,
        limit: Option<u64>,
    ) -> Result<Known> {
        let wanted = tokens.get(..most).unwrap_or(tokens);
        let own = self.of(key)?;
        let (held, ledger) = (own.common(wanted), own.ledger.clone());
        let fit = self.of_sessions.iter().filter(|(other, cache)| {
            *other != key && other.adapters == key.adapters && cache.fits(own)
        });
        let alike = fit.clone().map(|(_, cache)| cache.alike(wanted)).max();
        let alike = alike.max(self.kept.alike(&key.adapters, own, wanted));
        let known = Known {
            own: own.alike(wanted),
            others: alike.unwrap_or(0),
        };
        let others = fit.filter(|(_, cache)| cache.is_within(limit));
        let others = others.map(|(other, cache)| (other, cache.shared(wanted)));
        let other = others.max_by_key(|(_, common)| *common);
        let other = other.map(|(other, common)| (other.clone(), common));
        let kept = self.kept.best(&key.adapters, own, wanted, limit);
        let enough = held.saturating_add(WORTH);
        let better = match (kept, other) {
            // What is kept is often nobody else's, and then it is not copied.
            (Some((at, n)), other) if n >= enough.max(other.as_ref().map_or(0, |(_, n)| *n)) => {
                Some(self.kept.take(at, n, ledger))
            }
            (_, Some((other, n))) if n >= enough => {
                let mut fork = self.of_mut(&other)?.fork(ledger);
                fork.cut(n);
                Some(fork)
            }
            _ => None,
        };
        let own = self.of_mut(key)?;
        let left = match better {
            Some(better) => Some(std::mem::replace(own, better)),
            None => {
                let ledger = own.ledger.clone();
                let left = own.loses_much_at(held).then(|| own.fork(ledger));
                own.cut(held);
                left
            }
        };
        if let Some(left) = left {
            self.put_away(&key.adapters, left);
        }
        Ok(known)
    }

    /// Keeps what a session gives away, unless another one has as much.
    fn put_away(&mut self, adapters: &[AppliedAdapter], mut cache: SessionCache) {
        cache.settle();
        let mut others = self.of_sessions.iter();
        if !others.any(|(key, other)| key.adapters == adapters && other.holds(&cache)) {
            self.kept.keep(adapters, cache);
        }
    }

    /// Tokens of this cache, bytes of all that the session has.
    pub fn kv(&self, key: &CacheKey) -> Kv {
        Kv {
            tokens: self
                .of_sessions
                .get(key)
                .map_or(0, |cache| cache.tokens.len() as u64),
            bytes: self.session_bytes(key.session),
        }
    }

    fn session_bytes(&self, session: u64) -> u64 {
        let own = self
            .of_sessions
            .iter()
            .filter(|(key, _)| key.session == session);
        own.map(|(_, cache)| cache.nbytes()).sum()
    }

    /// Bytes that the session has besides those of `key`.
    pub fn other_bytes(&self, key: &CacheKey) -> u64 {
        let own = self.of_sessions.get(key).map_or(0, SessionCache::nbytes);
        self.session_bytes(key.session).saturating_sub(own)
    }

    /// Nothing of it is wanted again.
    pub fn forget_session(&mut self, session: u64) {
        self.of_sessions.retain(|key, _| key.session != session);
    }

    /// The session is gone.
    pub fn drop_session(&mut self, session: u64) {
        self.put_away_all(|key| key.session == session);
    }

    /// Of the session's caches only `key`'s stays.
    pub fn drop_others(&mut self, key: &CacheKey) {
        self.put_away_all(|other| other.session == key.session && other != key);
    }

    fn put_away_all(&mut self, which: impl Fn(&CacheKey) -> bool) {
        let keys = self.of_sessions.keys().filter(|key| which(key));
        for key in keys.cloned().collect::<Vec<_>>() {
            if let Some(cache) = self.of_sessions.remove(&key) {
                self.put_away(&key.adapters, cache);
            }
        }
    }

    pub fn drop_model(&mut self, model: u64) {
        self.kept.retain(|_, cache| cache.kind.model != model);
    }

    /// Lets the least recently used of what is kept go; false: nothing is.
    pub fn drop_oldest_kept(&mut self) -> bool {
        self.kept.drop_oldest()
    }

    pub fn drop_kept(&mut self) {
        self.kept.clear();
    }

    /// What was computed with an adapter that is gone or has changed.
    pub fn drop_adapter(&mut self, id: u64, in_use: &dyn Fn(&CacheKey) -> bool) {
        let has = |adapters: &[AppliedAdapter]| adapters.iter().any(|applied| applied.id == id);
        self.kept.retain(|adapters, _| !has(adapters));
        let keys = self.of_sessions.keys();
        let gone = keys.filter(|key| has(&key.adapters) && !in_use(key));
        for key in gone.cloned().collect::<Vec<_>>() {
            if let Some(cache) = self.of_sessions.remove(&key) {
                self.tell(key.session, &cache.ledger);
            }
        }
    }

    /// Tells a session what is left; its tokens are those of the cache that was used last.
    fn tell(&self, session: u64, ledger: &Ledger) {
        let bytes = self.session_bytes(session);
        let mut state = ledger.state();
        let tokens = if bytes == 0 { 0 } else { state.kv_tokens };
        ledger.set_kv(&mut state, tokens, bytes);
    }

    /// Empties caches that a step after `good` wrote to, and those of `failed`; their sessions are told.
    pub fn forget_after(&mut self, good: u64, failed: &[CacheKey]) {
        self.kept.retain(|_, cache| cache.last_step <= good);
        let all = self.of_sessions.iter();
        let gone = all.filter(|(key, cache)| cache.last_step > good || failed.contains(key));
        for key in gone.map(|(key, _)| key.clone()).collect::<Vec<_>>() {
            self.empty(&key);
        }
    }

    /// Lets go what is kept, and then the marks of caches that no request uses; false: there are none.
    pub fn drop_oldest_spare(&mut self, in_use: &dyn Fn(&CacheKey) -> bool) -> bool {
        if self.drop_oldest_kept() {
            return true;
        }
        let mut idle: Vec<_> = self.of_sessions.iter_mut().collect();
        idle.retain(|(key, _)| !in_use(key));
        idle.sort_by_key(|(_, cache)| cache.last_step);
        let oldest = idle.into_iter().find_map(|(key, cache)| {
            let dropped = cache.drop_marks();
            dropped.then(|| (key.session, cache.ledger.clone()))
        });
        if let Some((session, ledger)) = &oldest {
            self.tell(*session, ledger);
        }
        oldest.is_some()
    }

    /// Empties the cache that no request uses and that was used longest ago, once nothing is spare; false: there is none that
    /// holds anything.
    pub fn drop_oldest_idle(&mut self, in_use: &dyn Fn(&CacheKey) -> bool) -> bool {
        if self.drop_oldest_spare(in_use) {
            return true;
        }
        let idle = self.of_sessions.iter();
        let idle = idle.filter(|(key, cache)| !in_use(key) && cache.nbytes() > 0);
        let oldest = idle.min_by_key(|(_, cache)| cache.last_step);
        let Some(key) = oldest.map(|(key, _)| key.clone()) else {
            return false;
        };
        self.empty(&key);
        true
    }

    fn empty(&mut self, key: &CacheKey) {
        if let Some(cache) = self.of_sessions.get_mut(key) {
            cache.clear();
            let ledger = cache.ledger.clone();
            self.tell(key.session, &ledger);
        }
    }
}

fn cache_is_gone() -> Error {
    Error::internal("the session's cache is gone")
}
