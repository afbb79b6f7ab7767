//! Guesses of a draft model: a smaller model with the same tokens goes on from a request's tokens by itself, and the model looks at
//! what it said in one pass.
//!
//! It draws as the request does, with the same settings and the same random numbers: where both models think alike they then draw
//! the same token also at a high temperature. It has keys and values of its own in the session's caches. They follow the answer
//! a chunk at a time, while tokens come out without guesses, so no first token waits for them. Nothing of a draft is ever needed:
//! what does not fit into memory or cannot be cut back is not guessed.

use std::time::{Duration, Instant};

use super::pass::{states, Member};
use super::prefill::take_in;
use super::running::Guessing;
use super::Worker;
use crate::error::Result;
use crate::mlx::{self, ops, Array};
use crate::model::{row_of, AdapterSet, Decoder, Rows, Segment};
use crate::runtime::caches::{CacheKey, CacheKind, SessionCache};
use crate::runtime::estimate::{prefill_step, shared_step};
use crate::sampling::{Draw, Outcome, Sampler, Sampling};

/// Tokens of one request that go into the first step of a draft; more are a chunk of their own.
const FIRST_ROWS: usize = 16;
/// A draw's biases that are looked up for each guess; those of a request that has more do not count for its draft.
const BIASES: usize = 4096;
/// Tokens without a guess where none pays.
const LONGEST_REST: usize = 256;
/// How often a rest is doubled until it is as long.
const LENGTHENED: u32 = 4;

/// How often a draft is right about a request.
pub(super) struct Pace {
    /// Of `tried` guesses whose forerunners were right; what is long ago counts less.
    right: f32,
    tried: f32,
    /// How often in a row none paid.
    idle: u32,
    /// The sequence has to be so long for the next guess.
    from: usize,
}

impl Default for Pace {
    fn default() -> Self {
        Pace {
            right: 1.4,
            tried: 2.0,
            idle: 0,
            from: 0,
        }
    }
}

impl Pace {
    /// That a guess is right where all before it were.
    fn chance(&self) -> f32 {
        self.right / self.tried
    }

    /// What became of guesses.
    pub fn learn_from(&mut self, guessed: usize, right: usize) {
        const KEPT: f32 = 0.9;
        let tried = right + usize::from(right < guessed);
        self.right = KEPT * self.right + right as f32;
        self.tried = KEPT * self.tried + tried as f32;
    }

    /// A sequence is so long, and no guess is due.
    pub fn rests_at(&self, length: usize) -> bool {
        length < self.from
    }

    /// None pays in a sequence of so many tokens: it is asked again later.
    fn rest(&mut self, length: usize) {
        let rest = LONGEST_REST >> LENGTHENED.saturating_sub(self.idle);
        self.from = length.saturating_add(rest);
        self.idle = self.idle.saturating_add(1);
    }
}

/// What passes of a model and steps of its draft take, by their rows, in seconds; 0 = not known.
#[derive(Default)]
pub(super) struct Times {
    passes: [f32; 16],
    steps: [f32; 16],
}

impl Times {
    fn learn(times: &mut [f32], rows: usize, time: Duration) {
        if let Some(known) = times.get_mut(rows) {
            let time = time.as_secs_f32();
            *known = match *known {
                // One that something else held up says little.
                known if known > 0.0 => known + 0.2 * (time.min(2.0 * known) - known),
                _ => time,
            };
        }
    }

    /// Where it is not known, from those that are: between two, or from the nearest.
    fn of(times: &[f32], rows: usize) -> Option<f32> {
        /// What a row adds to a pass of one row. It decides until two times are known.
        const ROW: f32 = 0.08;
        let known = || times.iter().enumerate().filter(|(_, time)| **time > 0.0);
        let below = known().rfind(|(at, _)| *at <= rows);
        let above = known().find(|(at, _)| *at >= rows);
        match (below, above) {
            (Some((low, &less)), Some((high, &more))) => {
                let part = (rows - low) as f32 / (high - low).max(1) as f32;
                Some(less + part * (more - less))
            }
            (below, above) => {
                let (at, time) = below.or(above)?;
                let of = |rows: usize| 1.0 + ROW * (rows as f32 - 1.0);
                Some(time * of(rows) / of(at))
            }
        }
    }

    /// As far as is known, no guess for one request pays, even where nearly all are right.
    pub fn never_pay(&self) -> bool {
        self.best(1, 1, 0.95, 4) == Some(0)
    }

    /// How many guesses for each of `drafting` requests give the most tokens a second, in a pass of `rows` without guesses. None
    /// before one without any was timed.
    fn best(&self, rows: usize, drafting: usize, chance: f32, most: usize) -> Option<usize> {
        let alone = self.passes.get(rows).copied();
        let alone = alone.filter(|&time| time > 0.0)?;
        let Some(step) = Times::of(&self.steps, drafting) else {
            // To be found out.
            return Some(most.min(2));
        };
        let others = rows.saturating_sub(drafting) as f32;
        let (mut best, mut rate) = (0, rows as f32 / alone);
        // Of one of them, so many tokens come out of a pass.
        let (mut tokens, mut all_right) = (1.0, 1.0);
        for guesses in 1..=most {
            all_right *= chance;
            tokens += all_right;
            let pass = Times::of(&self.passes, rows + drafting * guesses).unwrap_or(alone);
            let now = (others + drafting as f32 * tokens) / (pass + guesses as f32 * step);
            if now > rate {
                (best, rate) = (guesses, now);
            }
        }
        Some(best)
    }
}

/// A pass that was queued, to be timed.
pub(super) struct Timed {
    pub step: u64,
    pub model: u64,
    pub rows: usize,
    pub began: Instant,
}

/// A member of a pass that a draft guesses for.
pub(super) struct Drafting {
    /// Which.
    pub at: usize,
    /// Guesses at most.
    pub most: usize,
    /// So many are wanted, whether they pay or not.
    pub asked_for: bool,
}

/// One that is drafted for.
struct Drafted {
    key: CacheKey,
    at: usize,
    /// What the draft has not seen.
    tokens: Vec<i32>,
    guesses: Vec<i32>,
    /// Guesses at most.
    most: usize,
    /// Of a head: what goes in with the tokens, `[1, tokens, hidden]`.
    hidden: Option<Array>,
    /// Tokens that are known.
    length: usize,
    sampler: Sampler,
    goes_on: bool,
}

impl Worker {
    /// Adds what the draft model guesses: in all at most `left` tokens, as many for each as pay.
    pub(super) fn draft(
        &mut self,
        members: &mut [Member],
        drafting: Vec<Drafting>,
        left: usize,
    ) -> Result<()> {
        let rows = members.len();
        let index = |of: &Drafting| members.get(of.at).map(|member| member.index);
        let Some(first) = drafting.first().and_then(index) else {
            return Ok(());
        };
        // Those that share a pass have one model, and so one draft.
        let job = &self.running[first].job;
        let (model, Some(draft)) = (job.cache.model, job.draft) else {
            return Ok(());
        };
        let is_head = self.loaded.model(draft)?.is_ahead();
        let mut able = Vec::with_capacity(drafting.len());
        let mut took_chunk = false;
        for one in drafting {
            let Some(index) = index(&one) else {
                continue;
            };
            let near = match (is_head, self.running[index].rests()) {
                (_, true) => false,
                (true, _) => self.head_is_near(index, draft, one.most, &mut took_chunk)?,
                (false, _) => self.catch_up(index, draft, one.most, rows > 1, &mut took_chunk)?,
            };
            if near {
                able.push((one, index));
            }
        }
        let each = left / able.len().max(1);
        let usual = able.iter().filter(|(one, _)| !one.asked_for);
        let usual: Vec<usize> = usual.map(|(_, index)| *index).collect();
        let pay = self.as_pay(model, rows, &usual, each);
        let mut drafted = Vec::with_capacity(able.len());
        for (one, index) in able {
            let most = if one.asked_for { each } else { pay };
            let most = most.min(one.most);
            let known = members.get(one.at).map_or(1, |member| member.rows);
            if most > 0 && self.has_room_to_guess(index, known + most)? {
                drafted.push(self.drafted(index, one.at, most, is_head)?);
            }
        }
        self.guess_in_steps((draft, is_head), model, drafted, members)
    }

    /// As many guesses for each of these requests as pay in a pass of so many rows. Where none do, one now and then, so that it shows
    /// when they do again.
    fn as_pay(&mut self, model: u64, rows: usize, requests: &[usize], most: usize) -> usize {
        let drafting = requests.len();
        let chances = requests
            .iter()
            .map(|&index| self.running[index].pace.chance());
        let chance = chances.sum::<f32>() / drafting.max(1) as f32;
        let times = self.times.entry(model).or_default();
        let Some(best) = times.best(rows, drafting, chance, most) else {
            return 0;
        };
        for &index in requests {
            let running = &mut self.running[index];
            match best {
                0 => running
                    .pace
                    .rest(running.prompt.len() + running.generated.len()),
                _ => running.pace.idle = 0,
            }
        }
        best.max(1).min(most)
    }

    /// Whether the draft's keys and values are near enough to the end of a request's tokens, to guess so many behind them. Else they
    /// come nearer by a chunk.
    fn catch_up(
        &mut self,
        index: usize,
        draft: u64,
        most: usize,
        shared: bool,
        took_chunk: &mut bool,
    ) -> Result<bool> {
        let running = &self.running[index];
        let length = running.length();
        let decoder = self.loaded.model(draft)?;
        let most_tokens = decoder.config().context as usize;
        let longest = length.saturating_add(most);
        if longest > most_tokens || !knows(decoder, &running.prompt, &running.generated) {
            return Ok(false);
        }
        let key = running.draft_key();
        let kind = CacheKind {
            model: draft,
            window: None,
            keep: 0,
            scheme: None,
        };
        let (ledger, limit) = (running.ledger().clone(), running.job.cache.limit);
        let cache = self.caches.get_or_insert(&key, || {
            SessionCache::new(kind, decoder.make_caches(None, 0), ledger)
        });
        let long = decoder.is_long(i32::try_from(longest).unwrap_or(i32::MAX));
        if cache.long != long {
            cache.clear();
        }
        cache.long = long;
        let all = [running.prompt.as_slice(), &running.generated].concat();
        let end = length.saturating_sub(1);
        match cache.tokens.is_empty() {
            true => drop(self.caches.match_prefix(&key, &all, end, limit)?),
            false => cache.cut_to_common(all.get(..end).unwrap_or(&[])),
        }
        let cache = self.caches.of_mut(&key)?;
        cache.settle();
        let held = cache.tokens.len();
        let missing = all.get(held..).unwrap_or(&[]);
        let near = missing.len() <= FIRST_ROWS;
        let rows = i32::try_from(missing.len() + most).unwrap_or(i32::MAX);
        let able = match near {
            true => decoder.most_taken_back(rows, &cache.layers) == rows,
            false => !*took_chunk,
        };
        if !able {
            return Ok(false);
        }
        let step = match shared {
            true => shared_step(self.device, decoder.config(), 0),
            false => prefill_step(self.device, decoder.config(), 0),
        };
        let n = match near {
            true => missing.len() + most,
            false => step.min(missing.len() - 1),
        };
        let context = i32::try_from(running.job.context.min(most_tokens)).unwrap_or(i32::MAX);
        let expected = i32::try_from(longest).unwrap_or(i32::MAX).min(context);
        for layer in &mut cache.layers {
            layer.expect(expected, context);
        }
        let chunk = missing.get(..n).map(<[i32]>::to_vec);
        if !self.has_room(&key, draft, n, limit)? {
            return Ok(false);
        }
        if let (false, Some(chunk)) = (near, chunk) {
            *took_chunk = true;
            self.steps += 1;
            let cache = self.caches.of_mut(&key)?;
            cache.last_step = self.steps;
            let decoder = self.loaded.model(draft)?;
            let tokens = Array::from_i32(&chunk)?;
            let none = AdapterSet::default();
            let hidden = decoder.forward(&tokens, &mut cache.layers, Rows::Last, &none)?;
            take_in(&hidden, cache)?;
            self.caches.of_mut(&key)?.tokens.extend_from_slice(&chunk);
            self.device_is_idle();
        }
        Ok(near)
    }

    /// Whether `n` more tokens of a draft fit. Nothing of a session goes for them.
    pub(super) fn has_room(
        &mut self,
        key: &CacheKey,
        draft: u64,
        n: usize,
        limit: Option<u64>,
    ) -> Result<bool> {
        let cache = self.caches.of(key)?;
        let n = i32::try_from(n).unwrap_or(i32::MAX);
        let decoder = self.loaded.model(draft)?;
        let held = decoder.held_by(n, &cache.layers);
        let mut cost = decoder.cost(n, true, &cache.layers);
        cost.kv = cost.kv.saturating_add(held);
        cost.more = cost.more.saturating_add(held);
        let others = self.caches.other_bytes(key);
        if limit.is_some_and(|limit| cost.kv.saturating_add(others) > limit) {
            return Ok(false);
        }
        while !self.fits(cost.more)? {
            if !self.caches.drop_oldest_kept() {
                return Ok(false);
            }
        }
        self.queued_bytes = self.queued_bytes.saturating_add(cost.more);
        Ok(self.ask_system(cost.more).is_ok())
    }

    fn drafted(&self, index: usize, at: usize, most: usize, is_head: bool) -> Result<Drafted> {
        let running = &self.running[index];
        let all = [running.prompt.as_slice(), &running.generated].concat();
        let key = match is_head {
            true => running.head_key(),
            false => running.draft_key(),
        };
        let held = self.caches.of(&key)?.tokens.len();
        let sampling = &running.job.sampling;
        let sampling = Sampling {
            // What it says of its guesses nobody reads.
            logprobs: None,
            bias: match sampling.bias.len() <= BIASES {
                true => sampling.bias.clone(),
                false => Vec::new(),
            },
            ..sampling.clone()
        };
        Ok(Drafted {
            at,
            sampler: Sampler::new(sampling, &all, running.generated.len() as u64)?,
            tokens: all.get(held..).unwrap_or(&[]).to_vec(),
            guesses: Vec::new(),
            most,
            key,
            hidden: None,
            length: all.len(),
            goes_on: true,
        })
    }

    /// Step by step: of all that still guess the next token.
    fn guess_in_steps(
        &mut self,
        (draft, is_head): (u64, bool),
        model: u64,
        mut drafted: Vec<Drafted>,
        members: &mut [Member],
    ) -> Result<()> {
        let vocab = self.loaded.model(model)?.config().vocab_size;
        let none = AdapterSet::default();
        loop {
            let mut going: Vec<&mut Drafted> = drafted
                .iter_mut()
                .filter(|one| one.goes_on && one.guesses.len() < one.most)
                .collect();
            if going.is_empty() {
                break;
            }
            let began = Instant::now();
            self.steps += 1;
            let step = self.steps;
            let decoder = self.loaded.model(draft)?;
            let keys: Vec<_> = going.iter().map(|one| &one.key).collect();
            let caches = self.caches.of_many(&keys)?;
            let mut tokens = Vec::new();
            let mut segments = Vec::with_capacity(caches.len());
            for (one, cache) in going.iter_mut().zip(caches) {
                cache.last_step = step;
                if one.guesses.is_empty() {
                    // What nobody draws is taken back.
                    let sure = one.tokens.len();
                    cache.hold(sure + one.most, sure)?;
                }
                tokens.extend_from_slice(&one.tokens);
                match is_head && one.guesses.is_empty() {
                    true => one.hidden = Some(cache.take_waiting(&one.tokens)?),
                    false => cache.tokens.extend_from_slice(&one.tokens),
                }
                segments.push(Segment {
                    rows: i32::try_from(one.tokens.len()).unwrap_or(i32::MAX),
                    wanted: 1,
                    caches: &mut cache.layers,
                    adapters: &none,
                });
            }
            let rows = tokens.len();
            let tokens = Array::from_i32(&tokens)?;
            let next = match is_head {
                false => decoder.next_rows(&tokens, &mut segments)?,
                true => {
                    // Those that guess began together: what goes in came out of the model for all of them, or of the head.
                    let own = going.iter().any(|one| !one.guesses.is_empty());
                    let hidden: Vec<&Array> = going.iter().flat_map(|one| &one.hidden).collect();
                    let hidden = match hidden.as_slice() {
                        [one] => (*one).clone(),
                        all => ops::concatenate(all, 1)?,
                    };
                    decoder.next_rows_ahead(&tokens, (&hidden, own), &mut segments)?
                }
            };
            let logits = as_wide_as(&next.logits.all, vocab)?;
            let mut draws: Vec<Draw> = Vec::with_capacity(going.len());
            for (row, one) in going.iter_mut().enumerate() {
                draws.push(one.sampler.draw(&row_of(&logits, row)?, None)?);
            }
            let mut wanted: Vec<&Array> = draws.iter().flat_map(Draw::arrays).collect();
            let hidden = next.hidden.as_ref().filter(|_| is_head);
            wanted.extend(hidden);
            for one in &going {
                wanted.extend(states(&self.caches.of(&one.key)?.layers));
            }
            mlx::eval(&wanted)?;
            // All that was queued before is done, too.
            self.device_is_idle();
            let members_of_step = going.len();
            for (row, (one, draw)) in (0..).zip(going.into_iter().zip(draws)) {
                if let Some(hidden) = hidden {
                    let stop = [1, row + 1, hidden.dim(2)];
                    one.hidden = Some(ops::slice(hidden, &[0, row, 0], &stop)?);
                }
                // What goes wrong here says nothing of the request.
                one.goes_on = draw.outcome()? == Outcome::Drawn;
                if !one.goes_on {
                    continue;
                }
                let id = draw.token.item_u32()? as i32;
                one.guesses.push(id);
                one.tokens = vec![id];
            }
            if rows == members_of_step {
                let times = self.times.entry(model).or_default();
                Times::learn(&mut times.steps, rows, began.elapsed());
            }
        }
        for one in drafted {
            if is_head {
                // What it made of its own guesses goes: what comes out of the model for them goes in later.
                let cache = self.caches.of_mut(&one.key)?;
                cache.take_back(cache.tokens.len().saturating_sub(one.length));
            }
            if let Some(member) = members.get_mut(one.at) {
                self.running[member.index].guessing = Guessing::Draft;
                member.guesses = one.guesses;
            }
        }
        Ok(())
    }

    /// A pass has come to its end, and all of it was read.
    pub(super) fn time_of_pass(&mut self, timed: Timed) {
        let times = self.times.entry(timed.model).or_default();
        Times::learn(&mut times.passes, timed.rows, timed.began.elapsed());
    }
}

/// Whether it has a row for each of the tokens.
fn knows(decoder: &Decoder, prompt: &[i32], answer: &[i32]) -> bool {
    let vocab = decoder.config().vocab_size;
    prompt.iter().chain(answer).all(|&id| id < vocab)
}

/// Logits `[rows, …]` → `[rows, vocab]`: a model's rows may be padded beyond its tokens, each model's in its own way.
fn as_wide_as(logits: &Array, vocab: i32) -> Result<Array> {
    let [rows, own] = [logits.dim(0), logits.dim(1)];
    if own >= vocab {
        return match own == vocab {
            true => Ok(logits.clone()),
            false => ops::slice(logits, &[0, 0], &[rows, vocab]),
        };
    }
    let never = Array::scalar(f32::NEG_INFINITY, logits.dtype())?;
    let rest = ops::broadcast_to(&never, &[rows, vocab - own])?;
    ops::concatenate(&[logits, &rest], 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(passes: &[(usize, f32)], step: f32) -> Times {
        let mut times = Times::default();
        for &(rows, time) in passes {
            times.passes[rows] = time;
        }
        times.steps[1] = step;
        times
    }

    #[test]
    fn as_many_are_guessed_as_pay() {
        // Nothing is known: one pass without shows what it costs.
        assert_eq!(Times::default().best(1, 1, 0.9, 8), None);
        assert_eq!(times(&[(1, 0.03)], 0.0).best(1, 1, 0.9, 8), Some(2));
        let cheap = times(&[(1, 0.03), (8, 0.04)], 0.003);
        assert_eq!(cheap.best(1, 1, 0.0, 8), Some(0));
        let [seldom, often] = [0.3, 0.95].map(|chance| cheap.best(1, 1, chance, 8).unwrap());
        assert!(0 < seldom && seldom < often, "{seldom} and {often}");
        // Rows that cost as much as passes pay for nobody, nor does a draft as slow as its model.
        let rows = times(&[(1, 0.03), (2, 0.06), (3, 0.09), (8, 0.24)], 0.003);
        assert_eq!(rows.best(1, 1, 0.95, 8), Some(0));
        let slow = times(&[(1, 0.03), (8, 0.04)], 0.03);
        assert_eq!(slow.best(1, 1, 0.8, 8), Some(0));
        assert!(rows.never_pay() && slow.never_pay() && !cheap.never_pay());
        assert!(!Times::default().never_pay());
    }

    #[test]
    fn one_that_is_never_right_is_asked_seldom() {
        let mut pace = Pace::default();
        for _ in 0..20 {
            pace.learn_from(2, 0);
        }
        assert!(pace.chance() < 0.05);
        let mut asked = 0;
        for length in 0..2000 {
            if length >= pace.from {
                asked += 1;
                pace.rest(length);
            }
        }
        assert!((5..20).contains(&asked), "{asked} times");
        // And it stays so, however long that goes on.
        for length in 2000..50_000 {
            if length >= pace.from {
                asked += 1;
                pace.rest(length);
            }
        }
        assert!(asked < 220, "{asked} times");
        for _ in 0..20 {
            pace.learn_from(1, 1);
        }
        assert!(pace.chance() > 0.8);
    }
}
