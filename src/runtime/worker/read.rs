//! Tokens that were drawn, as they come out.

use super::pass::Member;
use super::running::{Behind, Guessed, Guessing, Phase, Running};
use super::{Turn, Worker};
use crate::error::{Error, Result};
use crate::runtime::job::{EndReason, TokenOutput};
use crate::sampling::{Draw, Outcome};

impl Worker {
    /// Waits for the token of a request and takes it, and what a grammar forces behind it; what becomes of the request where it does
    /// not go on. `ahead`: the pass behind the token is queued.
    pub(super) fn read(&mut self, member: &mut Member, ahead: bool) -> Result<Option<Turn>> {
        let index = member.index;
        let token = match read(&member.current)? {
            Ok(token) => token,
            Err(Outcome::NotFinite) if !member.guessed.is_empty() => {
                return self.without_guesses(index).map(Some);
            }
            Err(outcome) => return self.undrawn(index, outcome).map(Some),
        };
        self.good_steps = self.good_steps.max(member.step);
        if ahead {
            let key = &self.running[index].key;
            self.caches.of_mut(key)?.tokens.push(token.id);
        }
        let guesses = std::mem::take(&mut member.guessed);
        let count = guesses.len();
        let (turn, right) = self.take_guessed(member, guesses, token)?;
        let turn = match turn {
            Some(turn) => Some(turn),
            None => self.take_forced(member)?,
        };
        if count > 0 {
            let running = &self.running[index];
            let drawn = running.prompt.len() + running.last_drawn;
            let cache = self.caches.of_mut(&running.key)?;
            let wrong = count - right;
            // What a grammar forced to the end is computed by the next request, as without guesses: in windows it shows in the last
            // bits how a prompt was cut.
            let forced = match turn {
                Some(Turn::Ended(_)) => {
                    let known = cache.tokens.len().saturating_sub(wrong);
                    known.saturating_sub(drawn)
                }
                _ => 0,
            };
            cache.take_back(wrong + forced);
        }
        Ok(turn)
    }

    /// Behind a token: what a grammar forces, and how the request ends, if it does.
    fn take_forced(&mut self, member: &mut Member) -> Result<Option<Turn>> {
        let index = member.index;
        let running = &mut self.running[index];
        if let Some(refusal) = member.refusal.take() {
            return Ok(Some(refusal));
        }
        let mut end = running.end_at(running.generated.len());
        let forced = match forced(running) {
            Ok(forced) => forced,
            Err(error) => return Ok(Some(Turn::Refused(error))),
        };
        for id in forced {
            if end.is_some() {
                break;
            }
            if let Some(turn) = take(running, TokenOutput::forced(id)) {
                return Ok(Some(turn));
            }
            end = running.end_at(running.generated.len());
        }
        if let Some(end) = end {
            return Ok(Some(Turn::Ended(end)));
        }
        if member.again {
            running.phase = Phase::Match;
            return Ok(Some(Turn::More));
        }
        Ok(None)
    }

    /// Takes a token, and those behind it that were guessed right; and how many they are.
    fn take_guessed(
        &mut self,
        member: &mut Member,
        guesses: Guessed,
        token: TokenOutput,
    ) -> Result<(Option<Turn>, usize)> {
        let out = member.out.take();
        let running = &mut self.running[member.index];
        let (count, mut right) = (guesses.len(), 0);
        let mut id = token.id;
        running.last_drawn = running.generated.len();
        let mut turn = take(running, token);
        // It has heard of guesses that nobody may draw.
        let mut ahead = false;
        for (guess, behind) in guesses {
            ahead |= matches!(behind, Behind::Drawn(_));
            let over = turn.is_some() || member.refusal.is_some() || !running.forced.is_empty();
            if over || guess != id || running.end_at(running.generated.len()).is_some() {
                break;
            }
            match next(running, behind)? {
                Ok((token, drawn)) => {
                    id = token.id;
                    if drawn {
                        running.last_drawn = running.generated.len();
                    }
                    turn = take(running, token);
                }
                // What could not be drawn is drawn once more, and is an error then.
                Err(None) => break,
                Err(ends) => turn = ends,
            }
            right += 1;
        }
        if let Some(out) = out {
            let n = out.rows.len() - (count - right).min(out.rows.len());
            self.wait_for_head(member.index, out, n)?;
        }
        if count == 0 {
            return Ok((turn, 0));
        }
        let running = &mut self.running[member.index];
        running.drafted += count as u64;
        running.accepted += right as u64;
        let length = running.prompt.len() + running.generated.len();
        match running.guessing {
            Guessing::Lookup => running.lookup.learn_from(count, right, length),
            Guessing::Draft => running.pace.learn_from(count, right),
        }
        if right < count && ahead {
            running.sampler = None;
        }
        Ok((turn, right))
    }

    /// Numbers that are not finite may come of a guess: what is masked counts nothing, but 0 by NaN is NaN. The tokens of that pass are
    /// computed again, and what comes of them then is their own.
    fn without_guesses(&mut self, index: usize) -> Result<Turn> {
        self.wait_for_device()?;
        let running = &mut self.running[index];
        running.guesses_spoil = true;
        running.sampler = None;
        let sure = running.length();
        let cache = self.caches.of_mut(&running.key)?;
        cache.before_pass(running.before_guesses, sure);
        self.has_left(index)
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

/// The token behind a guess that was right, and whether it was drawn; else how the request ends, or nothing where it could not be drawn.
fn next(
    running: &mut Running,
    behind: Behind,
) -> Result<std::result::Result<(TokenOutput, bool), Option<Turn>>> {
    let draw = match behind {
        Behind::Drawn(draw) => draw,
        Behind::Logits(logits) => {
            match forced(running) {
                Ok(forced) => {
                    if let Some(&id) = forced.first() {
                        return Ok(Ok((TokenOutput::forced(id), false)));
                    }
                }
                Err(error) => return Ok(Err(Some(Turn::Refused(error)))),
            }
            match running.allowed_draw(&logits)? {
                Ok(draw) => draw,
                Err(turn) => return Ok(Err(Some(turn))),
            }
        }
    };
    Ok(read(&draw)?.map(|token| (token, true)).map_err(|_| None))
}

/// What comes next in any case; with log-probabilities nothing does, since each token's is wanted.
fn forced(running: &mut Running) -> Result<Vec<i32>> {
    let follows = running.follows();
    match &mut running.matcher {
        Some(matcher) if follows && running.job.sampling.logprobs.is_none() => matcher.forced(),
        _ => Ok(Vec::new()),
    }
}

/// Waits for a queued draw, or tells why nothing could be drawn.
fn read(draw: &Draw) -> Result<std::result::Result<TokenOutput, Outcome>> {
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
