//! A step of a score: some tokens of the target go in, and what the model said of each that follows is read.

use super::{Turn, Worker};
use crate::dtype::Dtype;
use crate::error::Result;
use crate::mlx::{self, memory, ops, Array};
use crate::model::{Cache, Rows};
use crate::runtime::estimate::prefill_step;
use crate::runtime::job::EndReason;

/// Bytes that logits take at a time, where that is more than one row's: a target may be long, and a vocabulary large.
const LOGITS: u64 = 64 << 20;

impl Worker {
    pub(super) fn score(&mut self, index: usize, total: usize) -> Result<Turn> {
        let running = &self.running[index];
        let done = self.caches.of(&running.key)?.tokens.len();
        let (goes_in, without_logits) = (running.length(), running.without_logits());
        let keep = running.job.cache.keep;
        let decoder = self.loaded.model(running.job.cache.model)?;
        let step = prefill_step(self.device, decoder.config(), keep);
        let row = decoder.costs().all_rows(0, 1).max(1);
        let left = goes_in - done;
        let mut n = left.div_ceil(left.div_ceil(step));
        let mut rows = n.min(usize::try_from(LOGITS / row).unwrap_or(n).max(1));
        loop {
            let decoder = self.loaded.model(self.running[index].job.cache.model)?;
            let more = decoder.costs().all_rows(n, rows);
            // With kept tokens what a chunk sees depends on how it was cut.
            let whole = n == 1 || keep > 0;
            let smallest = whole && rows == 1;
            match self.make_room_with(index, n, more, smallest)? {
                None => break,
                Some(why) if smallest => {
                    if let Some(turn) = self.without_room(index, why)? {
                        return Ok(turn);
                    }
                }
                Some(_) if whole => rows = rows.div_ceil(2),
                Some(_) => {
                    n = n.div_ceil(2);
                    rows = rows.min(n);
                }
            }
        }

        let running = &mut self.running[index];
        let decoder = self.loaded.model(running.job.cache.model)?;
        let cache = self.caches.of_mut(&running.key)?;
        self.steps += 1;
        cache.last_step = self.steps;
        let chunk = &running.prompt[done..done + n];
        let tokens = Array::from_i32(chunk)?;
        // [1, n, hidden]
        let hidden = decoder.forward(&tokens, &mut cache.layers, Rows::All, &running.adapters)?;
        let mut wanted: Vec<&Array> = cache.layers.iter().flat_map(Cache::arrays).collect();
        wanted.push(&hidden);
        mlx::eval(&wanted)?;
        // Rows of the prefix, where it is in the same chunk.
        let skip = without_logits.saturating_sub(done).min(n);
        let next = &running.prompt[done + skip + 1..done + n + 1];
        let mut logprobs = Vec::with_capacity(next.len());
        for (piece, targets) in next.chunks(rows).enumerate() {
            let first = (skip + piece * rows) as i32;
            let stop = [1, first + targets.len() as i32, hidden.dim(2)];
            let hidden = ops::slice(&hidden, &[0, first, 0], &stop)?;
            let logits = decoder.logits(&hidden, &running.adapters)?;
            logprobs.extend(of_targets(&logits, targets)?);
        }
        self.good_steps = self.steps;
        self.queued_bytes = 0;
        memory::clear_cache();
        if let Some(at) = logprobs.iter().position(Option::is_none) {
            return Ok(Turn::Refused(self.not_finite(index, done + skip + 1 + at)?));
        }
        cache.tokens.extend_from_slice(chunk);
        running.logprobs.extend(logprobs.into_iter().flatten());
        running.progress(left - n, n, total);
        if n < left {
            return Ok(Turn::More);
        }
        let logprobs = std::mem::take(&mut running.logprobs);
        running.job.request.scored(logprobs);
        Ok(Turn::Ended(EndReason::MaxTokens))
    }
}

/// What the logits `[1, n, vocab]` say of a token each: its log-probability, in f32. None: they are not finite.
fn of_targets(logits: &Array, targets: &[i32]) -> Result<Vec<Option<f32>>> {
    let [n, vocab] = [logits.dim(1), logits.dim(2)];
    let logits = ops::reshape(&ops::astype(logits, Dtype::F32)?, &[n, vocab])?;
    let targets = ops::reshape(&Array::from_i32(targets)?, &[n, 1])?;
    // [n, 1]
    let level = ops::logsumexp(&logits, -1, true)?;
    let own = ops::take_along_axis(&logits, &targets, 1)?;
    // [n, 2]
    let both = ops::concatenate(&[&ops::subtract(&own, &level)?, &level], 1)?;
    let both = both.to_f32()?;
    let pairs = both.as_chunks::<2>().0.iter();
    Ok(pairs
        .map(|&[logprob, level]| level.is_finite().then_some(logprob))
        .collect())
}
