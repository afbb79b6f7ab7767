//! Guesses of a model's own head that predicts further tokens. Its input is what came out of the model's last block for a token, and the
//! token behind that; from what it makes of the last ones it goes on by itself.
//!
//! It has keys and values of its own in the session's caches, under the key that a draft model's would have. Whatever the model computes
//! leaves its rows there (`SessionCache::wait`): those of a prompt's chunk go in at once, those of passes when the next guess is made, all
//! together. Rows that nobody has, since another session computed their tokens or nothing was to be guessed then, are taken for zeros
//! where they are few; else the head knows of what comes behind them only. Its guesses are then less often right, and nothing else.

use super::draft::Times;
use super::lookup::Sequence;
use super::prefill::take_in;
use super::Worker;
use crate::error::Result;
use crate::mlx::Array;
use crate::runtime::caches::{CacheKind, OutRows, SessionCache};
use crate::runtime::estimate::prefill_step;
use crate::runtime::options::Drafts;

/// Rows of one request that go into the first step of a guess; more are a chunk of their own.
const FIRST_ROWS: usize = 16;
/// More of them do not wait.
const MOST_WAITING: usize = 2048;

/// What came out of the model for a request's tokens from a place on.
pub(super) struct Out {
    pub first: usize,
    pub rows: OutRows,
}

impl Worker {
    /// The head that guesses for a request, if one does.
    pub(super) fn head_of(&self, index: usize) -> Result<Option<u64>> {
        let job = &self.running[index].job;
        let guesses = !matches!(job.drafts, Drafts::Off) && job.score.is_none();
        let Some(head) = job.draft.filter(|_| guesses) else {
            return Ok(None);
        };
        Ok((self.loaded.model(head)?.is_ahead()).then_some(head))
    }

    /// The same where the rows of its prompt are worth their time: not where no guess can pay, however often it is right.
    pub(super) fn head_for_prompt(&self, index: usize) -> Result<Option<u64>> {
        let job = &self.running[index].job;
        let times = self.times.get(&job.cache.model);
        let never = times.is_some_and(Times::never_pay);
        match job.drafts {
            // The one token takes no guess.
            _ if job.max_tokens == Some(1) => Ok(None),
            Drafts::Usual if never => Ok(None),
            _ => self.head_of(index),
        }
    }

    /// Cuts what a head has of a session to what the model's cache holds of a request's tokens.
    pub(super) fn match_head(&mut self, index: usize) -> Result<()> {
        let Some(head) = self.head_of(index)? else {
            return Ok(());
        };
        let running = &self.running[index];
        let held = self.caches.of(&running.key)?.tokens.len();
        let all = [running.prompt.as_slice(), &running.generated].concat();
        let (ignored, limit) = (running.job.ignore_cache, running.job.cache.limit);
        let key = running.head_key();
        let long = self.caches.of(&running.key)?.long;
        let cache = self.cache_of_head(index, head)?;
        if ignored || cache.long != long {
            cache.clear();
        }
        cache.long = long;
        if !ignored {
            self.caches.match_prefix(&key, &all, held, limit)?;
        }
        Ok(())
    }

    fn cache_of_head(&mut self, index: usize, head: u64) -> Result<&mut SessionCache> {
        let running = &self.running[index];
        let decoder = self.loaded.model(head)?;
        let kind = CacheKind {
            model: head,
            window: None,
            keep: 0,
            scheme: None,
        };
        let ledger = running.ledger();
        Ok(self.caches.get_or_insert(&running.head_key(), || {
            SessionCache::new(kind, decoder.make_caches(None, 0), ledger.clone())
        }))
    }

    /// Rows that came out of the model wait for its head: the first `n`, whose tokens are the request's.
    pub(super) fn wait_for_head(&mut self, index: usize, out: Out, n: usize) -> Result<()> {
        let Some(head) = self.head_of(index)? else {
            return Ok(());
        };
        self.cache_of_head(index, head)?;
        let running = &self.running[index];
        let cache = self.caches.of_mut(&running.head_key())?;
        let Out { first, mut rows } = out;
        rows.cut(n);
        let tokens = Sequence(&running.prompt, &running.generated);
        cache.wait(first, rows, |at| tokens.get(at));
        let too_many = cache.waiting() > MOST_WAITING;
        let over = running.job.cache.limit;
        let over = over.is_some_and(|limit| self.caches.kv(&running.key).bytes > limit);
        if too_many || over {
            self.caches.of_mut(&running.head_key())?.clear();
        }
        Ok(())
    }

    /// Some rows that wait go into the head, all but the last `left` of them at most. False: there is no room for them, or none to
    /// be put in.
    pub(super) fn feed_head(&mut self, index: usize, head: u64, left: usize) -> Result<bool> {
        let running = &self.running[index];
        let key = running.head_key();
        let Some(cache) = self.caches.find(&key) else {
            return Ok(false);
        };
        let (held, waiting) = (cache.tokens.len(), cache.waiting());
        let decoder = self.loaded.model(head)?;
        let step = prefill_step(self.device, decoder.config(), 0);
        let n = waiting.saturating_sub(left).min(step);
        let tokens = Sequence(&running.prompt, &running.generated);
        let tokens: Vec<i32> = (held..held + n).map_while(|at| tokens.get(at)).collect();
        if tokens.is_empty() || tokens.len() < n {
            return Ok(false);
        }
        let (context, limit) = (running.job.context, running.job.cache.limit);
        let expected = running.length().saturating_add(1).min(context);
        self.expect_in_head(index, expected)?;
        if !self.has_room(&key, head, n, limit)? {
            self.caches.of_mut(&key)?.clear();
            return Ok(false);
        }
        self.steps += 1;
        let cache = self.caches.of_mut(&key)?;
        cache.last_step = self.steps;
        let decoder = self.loaded.model(head)?;
        let hidden = cache.take_waiting(&tokens)?;
        let tokens = Array::from_i32(&tokens)?;
        let out = decoder.forward_ahead(&tokens, &hidden, &mut cache.layers)?;
        take_in(&out, cache)?;
        self.device_is_idle();
        Ok(true)
    }

    fn expect_in_head(&mut self, index: usize, tokens: usize) -> Result<()> {
        let running = &self.running[index];
        let of = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
        let most = of(running.job.context);
        let cache = self.caches.of_mut(&running.head_key())?;
        for layer in &mut cache.layers {
            layer.expect(of(tokens).min(most), most);
        }
        Ok(())
    }

    /// Whether the head can guess so many tokens behind a request's: all rows before them wait, or are in. Where more wait than go in
    /// with a guess, some go in now.
    pub(super) fn head_is_near(
        &mut self,
        index: usize,
        head: u64,
        most: usize,
        took_chunk: &mut bool,
    ) -> Result<bool> {
        let running = &self.running[index];
        let (length, limit) = (running.length(), running.job.cache.limit);
        let key = running.head_key();
        let Some(cache) = self.caches.find(&key) else {
            return Ok(false);
        };
        let longest = length.saturating_add(most);
        let decoder = self.loaded.model(head)?;
        let long = decoder.is_long(i32::try_from(longest).unwrap_or(i32::MAX));
        let mut waiting = cache.waiting();
        let complete = waiting > 0 && cache.tokens.len() + waiting == length;
        if !complete || cache.long != long || longest > decoder.config().context as usize {
            return Ok(false);
        }
        if waiting > FIRST_ROWS {
            // One block computes them: nobody waits long for that.
            if std::mem::replace(took_chunk, true) || !self.feed_head(index, head, 1)? {
                return Ok(false);
            }
            waiting = self.caches.of(&key)?.waiting();
            if waiting > FIRST_ROWS {
                return Ok(false);
            }
        }
        let decoder = self.loaded.model(head)?;
        let cache = self.caches.of_mut(&key)?;
        cache.settle();
        let rows = i32::try_from(waiting + most).unwrap_or(i32::MAX);
        if decoder.most_taken_back(rows, &cache.layers) != rows {
            return Ok(false);
        }
        self.expect_in_head(index, longest)?;
        self.has_room(&key, head, waiting + most, limit)
    }
}
