//! A token of an answer that follows a grammar.
//!
//! What may come behind a token is known when the token is, so the draw waits for it, and the step does not: on a GPU the
//! forward pass of step n+1 is queued from the lazy token of step n; token n is read and the mask made of it while the
//! device computes that pass; and then the draw is queued. On the CPU queueing waits until little is left of what was
//! queued before, so nothing is lost when the token is read first; and then what the grammar forces behind it is known
//! before the pass, and goes into it.

use super::running::{Phase, Running};
use super::step::{queue, read, Turn, CLEAR_CACHE_EVERY};
use super::Worker;
use crate::error::Result;
use crate::mlx::memory;
use crate::runtime::job::{EndReason, TokenOutput};

impl Worker {
    pub(super) fn follow(&mut self, index: usize) -> Result<Turn> {
        let running = &self.running[index];
        let mut end = running.end_at(running.generated.len() + 1);
        // The token that is there goes out either way.
        let refusal = match end {
            None => self.make_room(index, 1, true)?,
            Some(_) => None,
        };
        let running = &mut self.running[index];
        let decoder = self.loaded.model(running.job.cache.model)?;
        let cache = self.caches.of_mut(&running.key)?;
        let (current, step) = running.take_draw()?;
        let longer = cache.layers.iter().map(|layer| layer.length(1)).max();
        let again = !cache.long && decoder.is_long(longer.unwrap_or(0));
        let reads_first = self.reads_first || running.generated.is_empty();
        let goes_on = end.is_none() && refusal.is_none() && !again;
        let ahead = match running.sampler {
            Some(_) if goes_on && !reads_first => {
                self.steps += 1;
                cache.last_step = self.steps;
                let (token, layers) = (&current.token, &mut cache.layers);
                let logits = decoder.next_logits(token, layers, &running.adapters)?;
                queue(vec![&logits], &cache.layers)?;
                Some(logits)
            }
            _ => None,
        };
        let token = match read(&current)? {
            Ok(token) => token,
            Err(outcome) => return self.undrawn(index, outcome),
        };
        self.good_steps = self.good_steps.max(step);
        if ahead.is_some() {
            cache.tokens.push(token.id);
        }
        if self.steps.is_multiple_of(CLEAR_CACHE_EVERY) {
            memory::clear_cache();
        }
        if let Some(turn) = take(running, token) {
            return Ok(turn);
        }
        if let Some(refusal) = refusal {
            return Ok(Turn::Refused(refusal));
        }
        let forced = match forced(running) {
            Ok(forced) => forced,
            Err(error) => return Ok(Turn::Refused(error)),
        };
        let none_forced = forced.is_empty();
        for id in forced {
            if end.is_some() {
                break;
            }
            let token = TokenOutput {
                id,
                logprob: 0.0,
                top: Vec::new(),
            };
            if let Some(turn) = take(running, token) {
                return Ok(turn);
            }
            end = running.end_at(running.generated.len());
        }
        if let Some(end) = end {
            return Ok(Turn::Ended(end));
        }
        if again {
            // From here on all keys are turned otherwise: they are computed again.
            running.phase = Phase::Match;
            return Ok(Turn::More);
        }
        match ahead {
            Some(logits) if none_forced => self.draw_next(index, logits),
            _ => {
                let total = running.prompt.len() + running.generated.len() - cache.tokens.len();
                running.phase = Phase::Prefill { total };
                self.prefill(index, total)
            }
        }
    }
}

/// Takes a token; the turn that it ends the request with, if it does.
fn take(running: &mut Running, token: TokenOutput) -> Option<Turn> {
    let id = token.id;
    let follows = running.follows();
    let matcher = running.matcher.as_mut().filter(|_| follows);
    if let Some(Err(error)) = matcher.map(|matcher| matcher.take(id)) {
        return Some(Turn::Refused(error));
    }
    if !running.take(token) {
        return Some(Turn::Ended(EndReason::Satisfied));
    }
    if running.job.stop_tokens.contains(&id) {
        return Some(Turn::Ended(EndReason::StopToken));
    }
    match running.look_at_grammar() {
        Ok(None) => None,
        Ok(Some(end)) => Some(Turn::Ended(end)),
        Err(error) => Some(Turn::Refused(error)),
    }
}

/// What comes next in any case; with log-probabilities nothing does, since each token's is wanted.
fn forced(running: &mut Running) -> Result<Vec<i32>> {
    let follows = running.follows();
    match &mut running.matcher {
        Some(matcher) if follows && running.job.sampling.logprobs.is_none() => matcher.forced(),
        _ => Ok(Vec::new()),
    }
}
