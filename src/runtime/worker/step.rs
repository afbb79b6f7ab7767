//! One step of one request: a chunk of its prompt, or one token.

use std::time::Instant;

use super::marks::marks;
use super::running::Phase;
use super::Worker;
use crate::error::{Code, Error, Result};
use crate::mlx::{self, fast, memory, Array};
use crate::model::cost::KvSpec;
use crate::model::{AdapterSet, Cache, Rows};
use crate::runtime::caches::{CacheKind, Known, SessionCache};
use crate::runtime::engine;
use crate::runtime::estimate::prefill_step;
use crate::runtime::job::{CacheSpec, EndReason, TokenOutput};
use crate::sampling::{Draw, Outcome, Sampler};

/// Steps after which freed buffers go back to the system.
pub(super) const CLEAR_CACHE_EVERY: u64 = 256;

pub(super) enum Turn {
    More,
    Ended(EndReason),
    /// An error of this request alone; nothing was queued.
    Refused(Error),
}

impl Worker {
    /// One prefill chunk or one decode step.
    pub(super) fn step(&mut self, index: usize) -> Result<Turn> {
        let running = &mut self.running[index];
        if running.is_cancelled() {
            return Ok(Turn::Ended(EndReason::Cancelled));
        }
        if running.is_late() {
            return Ok(Turn::Ended(EndReason::Deadline));
        }
        match running.phase {
            Phase::Begin => self.begin(index),
            Phase::Match => self.match_cache(index),
            Phase::Prefill { total } => self.prefill(index, total),
            Phase::Decode { .. } if running.reads_each() => self.follow(index),
            Phase::Decode { .. } => self.decode(index),
        }
    }

    fn begin(&mut self, index: usize) -> Result<Turn> {
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
    fn match_cache(&mut self, index: usize) -> Result<Turn> {
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
        cache.mark_states();
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
        Ok(Turn::More)
    }

    /// Computes tokens that are not in the cache: of the prompt, of an answer that is taken up again, or of one whose
    /// grammar forced them.
    pub(super) fn prefill(&mut self, index: usize, total: usize) -> Result<Turn> {
        let running = &self.running[index];
        let all: Vec<i32> = [running.prompt.as_slice(), &running.generated].concat();
        let done = self.caches.of(&running.key)?.tokens.len();
        // A score's rows with logits are not of the prompt.
        let scores = running.job.score.is_some();
        let goes_in = running.length();
        let end = match scores {
            true => running.without_logits(),
            false => goes_in,
        };
        // With kept tokens what a chunk sees depends on how it was cut, so prefix and target are one.
        if scores && (done >= end || running.job.cache.keep > 0) {
            return self.score(index, total);
        }
        let left = &all[done..end];
        let layers = &self.caches.of(&running.key)?.layers;
        let coming = i32::try_from(left.len()).unwrap_or(i32::MAX);
        let marks = match layers.iter().any(|layer| layer.marks_in_passing(coming)) {
            true => running.marks.as_slice(),
            false => &[],
        };
        let mark = marks.iter().find(|&&mark| mark > done);
        let ahead = mark.map_or(left.len(), |mark| left.len().min(mark - done));
        let config = self.loaded.model(running.job.cache.model)?.config();
        let step = prefill_step(self.device, config, running.job.cache.keep);
        let most = match (running.job.cache.keep, running.job.progress_tokens as usize) {
            (1.., _) | (_, 0) => step,
            (_, progress) => step.min(progress),
        };
        // Balanced chunks, so that no small rest is left.
        let mut n = ahead.div_ceil(ahead.div_ceil(most));
        let as_cut = running.job.cache.keep > 0;
        loop {
            // A smaller chunk needs less beside its keys and values.
            let smallest = n == 1 || as_cut;
            match self.make_room(index, n, smallest)? {
                None => break,
                Some(refusal) if smallest => return Ok(Turn::Refused(refusal)),
                Some(_) => n = n.div_ceil(2),
            }
        }
        // (In an answer nobody waits for progress, and the log has enough to tell.)
        let answers = !self.running[index].generated.is_empty();
        if goes_in - done == total && !answers {
            let id = self.running[index].job.request.ticket.id();
            crate::log::debug!("request {id}: {total} tokens to compute, {n} at a time");
        }
        let chunk = &left[..n];
        let last = done + n == goes_in;

        let running = &mut self.running[index];
        let decoder = self.loaded.model(running.job.cache.model)?;
        let cache = self.caches.of_mut(&running.key)?;
        self.steps += 1;
        cache.last_step = self.steps;
        let chunk_tokens = Array::from_i32(chunk)?;
        let logits = if last && !running.job.prefill_only {
            Some(decoder.next_logits(&chunk_tokens, &mut cache.layers, &running.adapters)?)
        } else {
            let hidden = decoder.forward(
                &chunk_tokens,
                &mut cache.layers,
                Rows::Last,
                &running.adapters,
            )?;
            // What it leaves in the caches is wanted. The kernels write there as they compute the row.
            let mut wanted: Vec<&Array> = cache.layers.iter().flat_map(Cache::arrays).collect();
            if fast::active() {
                wanted.push(&hidden);
            }
            mlx::eval(&wanted)?;
            self.good_steps = self.steps;
            self.queued_bytes = 0;
            memory::clear_cache();
            None
        };
        cache.tokens.extend_from_slice(chunk);
        for &at in running.marks.iter().filter(|&&at| at > done) {
            cache.mark(at);
        }
        if !answers {
            running.progress(goes_in - done - n, n, total);
        }
        let Some(logits) = logits else {
            return Ok(if last {
                Turn::Ended(EndReason::MaxTokens)
            } else {
                Turn::More
            });
        };
        let drawn = running.generated.len() as u64;
        match &mut running.sampler {
            Some(sampler) => {
                let known = sampler.drawn().min(drawn) as usize;
                sampler.skip(&running.generated[known..])?;
            }
            None => {
                let sampling = running.job.sampling.clone();
                running.sampler = Some(Sampler::new(sampling, &all, drawn)?);
            }
        }
        self.draw_next(index, logits)
    }

    /// Queues the draw from the logits `[vocab]` of the step that was queued last.
    pub(super) fn draw_next(&mut self, index: usize, logits: Array) -> Result<Turn> {
        let running = &mut self.running[index];
        let follows = running.matcher.is_some() && running.follows();
        let cache = self.caches.of(&running.key)?;
        let sampler = running.sampler.as_mut();
        let sampler = sampler.ok_or_else(|| Error::internal("a draw without a sampler"))?;
        let allowed = match &mut running.matcher {
            Some(matcher) if follows => {
                // The mask is made while the device computes what it is for.
                queue(vec![&logits], &cache.layers)?;
                match matcher.mask() {
                    Ok(Some(mask)) => Some(Array::from_bools(&mask)?),
                    Ok(None) => return Ok(Turn::Ended(EndReason::Grammar)),
                    Err(error) => return Ok(Turn::Refused(error)),
                }
            }
            _ => None,
        };
        let next = queue_draw(logits, sampler, allowed.as_ref(), &cache.layers)?;
        running.phase = Phase::Decode {
            next,
            step: self.steps,
        };
        Ok(Turn::More)
    }

    fn decode(&mut self, index: usize) -> Result<Turn> {
        let running = &self.running[index];
        let end = running.end_at(running.generated.len() + 1);
        // The token that is there goes out either way.
        let refusal = match end {
            None => self.make_room(index, 1, true)?,
            Some(_) => None,
        };
        let running = &mut self.running[index];
        let decoder = self.loaded.model(running.job.cache.model)?;
        let cache = self.caches.of_mut(&running.key)?;
        let (current, step) = running.take_draw()?;
        // The first token goes out before the second step is queued: on the CPU, queueing waits until little is left
        // of what was queued before, so the token would be a step late. So it does where the sampler has to know it.
        let first = running.generated.is_empty() || running.sampler.is_none();
        // From here on all keys are turned otherwise: they are computed again.
        let longer = cache.layers.iter().map(|layer| layer.length(1)).max();
        let again = !cache.long && decoder.is_long(longer.unwrap_or(0));
        let mut wanted = true;
        if first {
            match read(&current)? {
                Ok(token) => wanted = running.take(token),
                Err(outcome) => return self.undrawn(index, outcome),
            }
            self.good_steps = self.good_steps.max(step);
        }
        let next = match end {
            Some(_) => None,
            None if !wanted || refusal.is_some() || again => None,
            None => {
                let sampler = match &mut running.sampler {
                    Some(sampler) => sampler,
                    None => {
                        let all = [running.prompt.as_slice(), &running.generated].concat();
                        let sampling = running.job.sampling.clone();
                        let drawn = running.generated.len() as u64;
                        running.sampler.insert(Sampler::new(sampling, &all, drawn)?)
                    }
                };
                self.steps += 1;
                cache.last_step = self.steps;
                let logits =
                    decoder.next_logits(&current.token, &mut cache.layers, &running.adapters)?;
                Some(queue_draw(logits, sampler, None, &cache.layers)?)
            }
        };
        if !first {
            match read(&current)? {
                Ok(token) => wanted = running.take(token),
                Err(outcome) => return self.undrawn(index, outcome),
            }
            self.good_steps = self.good_steps.max(step);
        }
        let id = running.generated.last().copied().unwrap_or_default();
        if next.is_some() {
            cache.tokens.push(id);
        }
        if self.steps.is_multiple_of(CLEAR_CACHE_EVERY) {
            memory::clear_cache();
        }
        if !wanted {
            return Ok(Turn::Ended(EndReason::Satisfied));
        }
        if running.job.stop_tokens.contains(&id) {
            return Ok(Turn::Ended(EndReason::StopToken));
        }
        if let Some(refusal) = refusal {
            return Ok(Turn::Refused(refusal));
        }
        match (end, next) {
            (None, Some(next)) => {
                running.phase = Phase::Decode {
                    next,
                    step: self.steps,
                };
                Ok(Turn::More)
            }
            (None, None) if again => {
                running.phase = Phase::Match;
                Ok(Turn::More)
            }
            (end, _) => Ok(Turn::Ended(end.unwrap_or(EndReason::MaxTokens))),
        }
    }

    /// The end of a request whose next token could not be drawn.
    pub(super) fn undrawn(&mut self, index: usize, outcome: Outcome) -> Result<Turn> {
        // The step behind it may be queued, and writes to the caches.
        self.wait_for_device()?;
        let running = &self.running[index];
        let at = running.prompt.len() + running.generated.len();
        let could = match running.matcher {
            Some(_) => "the grammar allows",
            None => "could come next",
        };
        Ok(Turn::Refused(match outcome {
            Outcome::Banned => Error::invalid(format!(
                "options.bias bans every token that {could}, at token {at}"
            )),
            Outcome::Overflow => Error::invalid(format!(
                "options.bias_values and the penalties take a logit beyond what f32 holds, at token {at}"
            )),
            Outcome::Drawn | Outcome::NotFinite => self.not_finite(index, at)?,
        }))
    }

    /// What ends a request whose logits are not finite.
    pub(super) fn not_finite(&mut self, index: usize, at: usize) -> Result<Error> {
        let running = &self.running[index];
        // What it left in keys and values must not reach another request.
        self.caches.of_mut(&running.key)?.clear();
        let adapters = match running.job.adapters.is_empty() {
            true => "",
            false => ", with the adapters that are applied",
        };
        Ok(Error::bad_model(format!(
            "the model's numbers are not finite at token {at}{adapters}"
        )))
    }
}

/// Queues a draw from logits `[vocab]`, which are given away so that their memory can be used again; and what the step leaves in
/// states, which the logits need not have been made of.
fn queue_draw(
    logits: Array,
    sampler: &mut Sampler,
    allowed: Option<&Array>,
    layers: &[Cache],
) -> Result<Draw> {
    let draw = sampler.draw(&logits, allowed)?;
    drop(logits);
    queue(draw.arrays(), layers)?;
    Ok(draw)
}

pub(super) fn queue<'a>(mut wanted: Vec<&'a Array>, layers: &'a [Cache]) -> Result<()> {
    let states = layers.iter().filter(|layer| layer.is_state());
    wanted.extend(states.flat_map(Cache::arrays));
    mlx::async_eval(&wanted)
}

/// Waits for a queued draw, or tells why nothing could be drawn.
pub(super) fn read(draw: &Draw) -> Result<std::result::Result<TokenOutput, Outcome>> {
    let outcome = draw.outcome()?;
    if outcome != Outcome::Drawn {
        return Ok(Err(outcome));
    }
    read_token(draw).map(Ok)
}

fn read_token(draw: &Draw) -> Result<TokenOutput> {
    let id = draw.token.item_u32()? as i32;
    let Some(logprobs) = &draw.logprobs else {
        return Ok(TokenOutput {
            id,
            logprob: 0.0,
            top: Vec::new(),
        });
    };
    let logprob = logprobs
        .token
        .to_f32()?
        .first()
        .copied()
        .unwrap_or(f32::NAN);
    let mut top = Vec::new();
    if let Some((ids, values)) = &logprobs.top {
        top = ids
            .to_u32()?
            .into_iter()
            .map(|id| id as i32)
            .zip(values.to_f32()?)
            .collect();
        top.sort_by(|a: &(i32, f32), b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    }
    Ok(TokenOutput { id, logprob, top })
}
