//! Keys and values of all sessions: for each session one cache for each set of adapters that it was used with, since
//! what one set computed is worth nothing to another.

use std::collections::HashMap;
use std::sync::Arc;

use super::job::Kv;
use super::ledger::Ledger;
use crate::error::{Error, Result};
use crate::model::cache::Tokens;
use crate::model::Cache;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CacheKey {
    pub session: u64,
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
            ledger,
        }
    }

    pub fn clear(&mut self) {
        self.layers.iter_mut().for_each(Cache::clear);
        self.tokens.clear();
    }

    /// The same for another session; nothing is copied before one of the two goes on.
    fn fork(&mut self, ledger: Arc<Ledger>) -> SessionCache {
        SessionCache {
            kind: self.kind,
            layers: self.layers.iter_mut().map(Cache::fork).collect(),
            tokens: self.tokens.clone(),
            last_step: self.last_step,
            long: self.long,
            ledger,
        }
    }

    /// Tokens at the front that it has in common with these and that all layers can go back to.
    fn common(&self, tokens: &[i32]) -> usize {
        let pairs = self.tokens.iter().zip(tokens);
        self.reach(pairs.take_while(|(a, b)| a == b).count())
    }

    /// How many of the first `n` tokens all layers can go back to.
    fn reach(&self, n: usize) -> usize {
        let mut to = n.min(self.tokens.len());
        while to < self.tokens.len() {
            let wanted = i32::try_from(to).unwrap_or(i32::MAX);
            let reached = self.layers.iter().map(|layer| layer.reach(wanted)).min();
            match usize::try_from(reached.unwrap_or(wanted)) {
                Ok(reached) if reached < to => to = reached,
                _ => break,
            }
        }
        to
    }

    /// The layer that the number says, and how many of its tokens are the first of these; none: no keys, or of other tokens.
    pub fn keys(&self, number: usize, tokens: &[i32]) -> Option<(&Tokens, i32)> {
        let pairs = self.tokens.iter().zip(tokens);
        let common = pairs.take_while(|(a, b)| a == b).count();
        let layer = self.layers.get(number)?.as_tokens()?;
        let reached = layer.reach(i32::try_from(common).unwrap_or(i32::MAX));
        (reached > 0).then_some((layer, reached))
    }

    /// Keeps of the first `n` tokens as many as all layers can go back to.
    pub fn cut(&mut self, n: usize) {
        let to = self.reach(n);
        if to == self.tokens.len() {
            return;
        }
        for layer in &mut self.layers {
            layer.cut(i32::try_from(to).unwrap_or(0));
        }
        self.tokens.truncate(to);
    }

    /// Keeps what it has in common with these tokens.
    pub fn cut_to(&mut self, tokens: &[i32]) {
        self.cut(self.common(tokens));
    }

    /// Where it is now is a place that it can go back to.
    pub fn mark(&mut self) {
        self.layers.iter_mut().for_each(Cache::mark);
    }

    /// Only where it is now is kept.
    pub fn drop_marks(&mut self) {
        self.layers.iter_mut().for_each(Cache::drop_marks);
    }

    fn nbytes(&self) -> u64 {
        self.layers.iter().map(Cache::nbytes).sum()
    }
}

/// Fewer tokens than this are computed again rather than taken from another session.
const WORTH: usize = 8;

#[derive(Default)]
pub struct Caches(HashMap<CacheKey, SessionCache>);

impl Caches {
    pub fn of(&self, key: &CacheKey) -> Result<&SessionCache> {
        self.0.get(key).ok_or_else(cache_is_gone)
    }

    /// None: the session was not used with these adapters, or has lost what it had.
    pub fn find(&self, key: &CacheKey) -> Option<&SessionCache> {
        self.0.get(key)
    }

    pub fn of_mut(&mut self, key: &CacheKey) -> Result<&mut SessionCache> {
        self.0.get_mut(key).ok_or_else(cache_is_gone)
    }

    pub fn get_or_insert(
        &mut self,
        key: &CacheKey,
        make: impl FnOnce() -> SessionCache,
    ) -> &mut SessionCache {
        self.0.entry(key.clone()).or_insert_with(make)
    }

    /// Gives a session the caches that another one has.
    pub fn fork_session(&mut self, from: u64, to: u64, ledger: &Arc<Ledger>) {
        let own = self.0.iter_mut().filter(|(key, _)| key.session == from);
        let forks = own.map(|(key, cache)| {
            let adapters = key.adapters.clone();
            let key = CacheKey {
                session: to,
                adapters,
            };
            (key, cache.fork(ledger.clone()))
        });
        let forks: Vec<(CacheKey, SessionCache)> = forks.collect();
        let last = forks.iter().max_by_key(|(_, cache)| cache.last_step);
        let tokens = last.map_or(0, |(_, cache)| cache.tokens.len() as u64);
        self.0.extend(forks);
        let bytes = self.session_bytes(to);
        ledger.set_kv(&mut ledger.state(), tokens, bytes);
    }

    /// Lets a cache that is empty go on from that of the session, however that was filled.
    pub fn go_on_from(&mut self, session: u64, key: &CacheKey) -> Result<()> {
        let own = self.of(key)?;
        let ledger = own.ledger.clone();
        let from = CacheKey {
            session,
            adapters: key.adapters.clone(),
        };
        if let (true, Some(other)) = (own.tokens.is_empty(), self.0.get_mut(&from)) {
            let fork = other.fork(ledger);
            self.0.insert(key.clone(), fork);
        }
        Ok(())
    }

    /// What there is under a key, cut back to what it has in common with these tokens; the session notices nothing.
    pub fn copy(&mut self, key: &CacheKey, tokens: &[i32]) -> Option<SessionCache> {
        let cache = self.0.get_mut(key)?;
        let mut copy = cache.fork(cache.ledger.clone());
        copy.cut_to(tokens);
        Some(copy)
    }

    /// Gives a session what was computed for it elsewhere.
    pub fn put(&mut self, key: CacheKey, cache: SessionCache) {
        let (session, tokens) = (key.session, cache.tokens.len() as u64);
        let ledger = cache.ledger.clone();
        self.0.insert(key, cache);
        let bytes = self.session_bytes(session);
        ledger.set_kv(&mut ledger.state(), tokens, bytes);
    }

    /// Lets the cache of `key` go on from that of another session, where that one has more of the first `most` of these tokens.
    pub fn borrow(&mut self, key: &CacheKey, tokens: &[i32], most: usize) -> Result<()> {
        let wanted = tokens.get(..most).unwrap_or(tokens);
        let own = self.of(key)?;
        let (kind, long, ledger) = (own.kind, own.long, own.ledger.clone());
        let enough = own.common(wanted).saturating_add(WORTH);
        let others = self.0.iter_mut().filter(|(other, cache)| {
            other.adapters == key.adapters
                && *other != key
                && (cache.kind, cache.long) == (kind, long)
                && !cache.layers.iter().any(Cache::is_path_dependent)
        });
        let others = others.map(|(_, cache)| (cache.common(wanted), cache));
        let best = others.max_by_key(|(common, _)| *common);
        let Some((common, other)) = best.filter(|(common, _)| *common >= enough) else {
            return Ok(());
        };
        let mut fork = other.fork(ledger);
        fork.cut(common);
        self.0.insert(key.clone(), fork);
        Ok(())
    }

    /// Tokens of this cache, bytes of all that the session has.
    pub fn kv(&self, key: &CacheKey) -> Kv {
        Kv {
            tokens: self.0.get(key).map_or(0, |cache| cache.tokens.len() as u64),
            bytes: self.session_bytes(key.session),
        }
    }

    fn session_bytes(&self, session: u64) -> u64 {
        let own = self.0.iter().filter(|(key, _)| key.session == session);
        own.map(|(_, cache)| cache.nbytes()).sum()
    }

    /// Bytes that the session has besides those of `key`.
    pub fn other_bytes(&self, key: &CacheKey) -> u64 {
        let own = self.0.get(key).map_or(0, SessionCache::nbytes);
        self.session_bytes(key.session).saturating_sub(own)
    }

    pub fn drop_session(&mut self, session: u64) {
        self.0.retain(|key, _| key.session != session);
    }

    /// Of the session's caches only `key`'s stays.
    pub fn drop_others(&mut self, key: &CacheKey) {
        self.0
            .retain(|other, _| other.session != key.session || other == key);
    }

    /// What was computed with an adapter that is gone or has changed.
    pub fn drop_adapter(&mut self, id: u64, in_use: &dyn Fn(&CacheKey) -> bool) {
        let has = |key: &CacheKey| key.adapters.iter().any(|applied| applied.id == id);
        let gone = self.0.keys().filter(|key| has(key) && !in_use(key));
        for key in gone.cloned().collect::<Vec<_>>() {
            if let Some(cache) = self.0.remove(&key) {
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

    /// Empties caches behind their sessions' backs.
    pub fn forget(&mut self, which: impl Fn(&CacheKey, &SessionCache) -> bool) {
        let keys = self.0.iter().filter(|(key, cache)| which(key, cache));
        for key in keys.map(|(key, _)| key.clone()).collect::<Vec<_>>() {
            self.empty(&key);
        }
    }

    /// Empties the cache that no request uses and that was used longest ago; false: there is none that holds anything.
    pub fn drop_oldest_idle(&mut self, in_use: &dyn Fn(&CacheKey) -> bool) -> bool {
        let idle = self.0.iter();
        let idle = idle.filter(|(key, cache)| !in_use(key) && cache.nbytes() > 0);
        let oldest = idle.min_by_key(|(_, cache)| cache.last_step);
        let Some(key) = oldest.map(|(key, _)| key.clone()) else {
            return false;
        };
        self.empty(&key);
        true
    }

    fn empty(&mut self, key: &CacheKey) {
        if let Some(cache) = self.0.get_mut(key) {
            cache.clear();
            let ledger = cache.ledger.clone();
            self.tell(key.session, &ledger);
        }
    }
}

fn cache_is_gone() -> Error {
    Error::internal("the session's cache is gone")
}
