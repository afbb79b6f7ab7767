//! Tokens of a request that are not in its cache, a chunk at a time.

use super::heads::Out;
use super::{Turn, Worker};
use crate::error::Result;
use crate::mlx::{self, fast, memory, Array};
use crate::model::{last_row, Cache, Rows};
use crate::runtime::caches::{OutRows, SessionCache};
use crate::runtime::estimate::{prefill_step, shared_step};
use crate::runtime::job::EndReason;

impl Worker {
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
        // What was guessed behind the end of an answer has cost its last tokens.
        let again = self.caches.of(&running.key)?.again(left);
        let ahead = match again {
            0 => ahead,
            again => ahead.min(again),
        };
        let config = self.loaded.model(running.job.cache.model)?.config();
        let keep = running.job.cache.keep;
        let step = match self.others_wait(index) {
            true => shared_step(self.device, config, keep),
            false => prefill_step(self.device, config, keep),
        };
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
                Some(why) if smallest => {
                    if let Some(turn) = self.without_room(index, why)? {
                        return Ok(turn);
                    }
                }
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
        let head = self.head_for_prompt(index)?;

        let running = &mut self.running[index];
        let decoder = self.loaded.model(running.job.cache.model)?;
        let cache = self.caches.of_mut(&running.key)?;
        self.steps += 1;
        cache.last_step = self.steps;
        let chunk_tokens = Array::from_i32(chunk)?;
        let adapters = &running.adapters;
        let draws = last && !running.job.prefill_only;
        let layers = &mut cache.layers;
        let mut last_alone = None;
        let hidden = match (again, head) {
            (0, Some(_)) if draws => {
                let (alone, all) = decoder.forward_twice(&chunk_tokens, layers, adapters)?;
                let all = all.unwrap_or_else(|| alone.clone());
                last_alone = Some(alone);
                all
            }
            (0, Some(_)) => decoder.forward(&chunk_tokens, layers, Rows::All, adapters)?,
            (0, None) => decoder.forward(&chunk_tokens, layers, Rows::Last, adapters)?,
            _ => decoder.forward_singly(&chunk_tokens, layers, adapters)?,
        };
        let logits = if draws {
            let hidden = match last_alone {
                Some(alone) => alone,
                None => last_row(&hidden)?,
            };
            Some(decoder.logits_of_last(&hidden, adapters)?)
        } else {
            take_in(&hidden, cache)?;
            self.good_steps = self.steps;
            self.queued_bytes = 0;
            None
        };
        let out = head.map(|_| Out {
            first: done + n - usize::try_from(hidden.dim(1)).unwrap_or(0).min(n),
            rows: OutRows::new(hidden.clone(), 0..hidden.dim(1)),
        });
        cache.tokens.extend_from_slice(chunk);
        if again == n {
            cache.mark_states();
        }
        for &at in running.marks.iter().filter(|&&at| at > done) {
            cache.mark(at);
        }
        if !answers {
            running.progress(goes_in - done - n, n, total);
        }
        let Some(logits) = logits else {
            if let (Some(out), Some(head)) = (out, head) {
                self.wait_for_head(index, out, n)?;
                // But for the one whose next token comes with the next chunk.
                while self.feed_head(index, head, 1)? {}
            }
            return Ok(if last {
                Turn::Ended(EndReason::MaxTokens)
            } else {
                Turn::More
            });
        };
        self.draw_next(index, logits, out)
    }
}

/// Waits for what tokens leave in a cache. `hidden`: what came of them, `[1, rows, hidden]`.
pub(super) fn take_in(hidden: &Array, cache: &SessionCache) -> Result<()> {
    // The kernels write there as they compute the row. (All rows are wanted.)
    let mut wanted: Vec<&Array> = cache.layers.iter().flat_map(Cache::arrays).collect();
    if fast::active() || hidden.dim(1) > 1 {
        wanted.push(hidden);
    }
    mlx::eval(&wanted)?;
    memory::clear_cache();
    Ok(())
}
