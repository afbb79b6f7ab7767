//! The engine thread's side: models, caches, and the requests that run, one step of one request after the other.
//!
//! Decoding runs one step ahead: step n+1 is queued from the lazy token of step n, and only then is token n read, so
//! the device never waits for the host. After an MLX error nothing that was queued can be trusted (an error surfaces
//! at a later, unrelated evaluation), so the worker takes a new stream, forgets every cache with work in flight and
//! computes it again from the tokens, one request at a time; the request that fails again is the one that fails.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};

use super::engine::{Alive, Command};
use super::job::{CacheSpec, End, EndReason, Job, Output, TokenOutput};
use crate::error::{Error, Result};
use crate::mlx::{self, Array, Device};
use crate::model::{Cache, Decoder, Rows};
use crate::sampling::{Draw, Sampler};

const GPU_PREFILL_STEP: usize = 2048;

/// Tokens of a prompt that are computed in one pass. The CPU device takes small bites: they cost it nothing, a cancel
/// waits for one, and its intermediates are what a prompt's peak of memory is made of.
fn prefill_step(device: Device) -> usize {
    match device {
        Device::Cpu => 32,
        Device::Gpu => GPU_PREFILL_STEP,
    }
}

/// Steps after which freed buffers go back to the system.
const CLEAR_CACHE_EVERY: u64 = 256;

pub struct Worker {
    /// The first to be dropped.
    _alive: Alive,
    device: Device,
    commands: Receiver<Command>,
    models: HashMap<u64, Decoder>,
    caches: HashMap<u64, SessionCache>,
    running: Vec<Running>,
    /// Whose turn is next.
    turn: usize,
    /// Counts queued steps; a step is known to be good once a token of it or of a later one was read.
    steps: u64,
    good_steps: u64,
}

/// The caches of one session and the tokens whose keys and values they hold.
struct SessionCache {
    layers: Vec<Cache>,
    tokens: Vec<i32>,
    /// The last step that wrote to it.
    last_step: u64,
}

struct Running {
    job: Job,
    phase: Phase,
    sampler: Option<Sampler>,
    generated: Vec<i32>,
    sent: u64,
    cached_tokens: u64,
    started: Option<Instant>,
    first_token: Option<Instant>,
    /// Runs with no other request until it has read a token: something failed while it had work in flight.
    alone: bool,
    retried: bool,
}

enum Phase {
    /// The cache is to be compared with the tokens.
    Match,
    Prefill {
        total: usize,
    },
    /// A token is queued and not read.
    Decode {
        next: Draw,
        step: u64,
    },
}

enum Turn {
    More,
    Ended(EndReason),
}

impl Worker {
    pub(super) fn new(device: Device, commands: Receiver<Command>, alive: Alive) -> Self {
        Worker {
            _alive: alive,
            device,
            commands,
            models: HashMap::new(),
            caches: HashMap::new(),
            running: Vec::new(),
            turn: 0,
            steps: 0,
            good_steps: 0,
        }
    }

    pub(super) fn run(mut self) {
        while self.take_commands() {
            if let Some(index) = self.next_turn() {
                self.run_turn(index);
            }
        }
        for index in (0..self.running.len()).rev() {
            self.end(index, Ok(EndReason::Cancelled));
        }
    }

    /// Takes what was sent; waits for something where no request can go on. False: stop.
    fn take_commands(&mut self) -> bool {
        loop {
            let command = if self.next_turn().is_some() {
                match self.commands.try_recv() {
                    Ok(command) => command,
                    Err(TryRecvError::Empty) => return true,
                    Err(TryRecvError::Disconnected) => return false,
                }
            } else {
                // A parked request may have a deadline.
                match self.commands.recv_timeout(Duration::from_millis(
                    if self.running.is_empty() { 60_000 } else { 20 },
                )) {
                    Ok(command) => command,
                    Err(std::sync::mpsc::RecvTimeoutError::Timeout) => continue,
                    Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => return false,
                }
            };
            match command {
                Command::Stop => return false,
                Command::Wake => {}
                Command::Start(job) => self.running.push(Running::new(*job)),
                Command::Do(work) => {
                    // A panic in there drops the reply, which its caller notices.
                    let _ = crate::guard::catch(AssertUnwindSafe(|| {
                        work(self);
                        Ok(())
                    }));
                }
            }
        }
    }

    /// The next request that can do something, in turn.
    fn next_turn(&self) -> Option<usize> {
        let n = self.running.len();
        if let Some(alone) = self
            .running
            .iter()
            .position(|running| running.alone && running.can_go_on())
        {
            return Some(alone);
        }
        (0..n)
            .map(|i| (self.turn + i) % n)
            .find(|&i| self.running[i].can_go_on())
    }

    fn run_turn(&mut self, index: usize) {
        self.turn = index + 1;
        let outcome = crate::guard::catch(|| self.step(index));
        match outcome {
            Ok(Turn::More) => {}
            Ok(Turn::Ended(reason)) => self.end(index, Ok(reason)),
            Err(error) => self.recover(index, error),
        }
    }

    /// One prefill chunk or one decode step.
    fn step(&mut self, index: usize) -> Result<Turn> {
        let running = &mut self.running[index];
        if running.job.ticket.is_cancelled() {
            return Ok(Turn::Ended(EndReason::Cancelled));
        }
        if running.job.ticket.is_late() {
            return Ok(Turn::Ended(EndReason::Deadline));
        }
        match running.phase {
            Phase::Match => self.match_cache(index),
            Phase::Prefill { total } => self.prefill(index, total),
            Phase::Decode { .. } => self.decode(index),
        }
    }

    /// Cuts the session's cache back to what it has in common with the tokens.
    fn match_cache(&mut self, index: usize) -> Result<Turn> {
        let alone = self.running.len() == 1;
        let running = &mut self.running[index];
        if running.started.is_none() {
            running.started = Some(Instant::now());
            if alone {
                super::engine::reset_peak();
            }
        }
        let CacheSpec {
            session,
            model,
            window,
            keep,
        } = running.job.cache;
        let decoder = self
            .models
            .get(&model)
            .ok_or_else(|| Error::internal("the model is gone"))?;
        let cache = self.caches.entry(session).or_insert_with(|| SessionCache {
            layers: decoder.make_caches(window, keep),
            tokens: Vec::new(),
            last_step: 0,
        });
        let inexact =
            running.job.whole_history && cache.layers.iter().any(Cache::is_path_dependent);
        if running.job.ignore_cache || inexact {
            cache.clear();
        }
        let wanted = running.job.tokens.iter().chain(&running.generated);
        let common = cache
            .tokens
            .iter()
            .zip(wanted)
            .take_while(|(a, b)| a == b)
            .count();
        let length = running.job.tokens.len() + running.generated.len();
        // The last token is computed in any case: its logits are wanted.
        cache.cut(common.min(length.saturating_sub(1)));
        if !running.retried {
            running.cached_tokens = cache.tokens.len() as u64;
        }
        running.phase = Phase::Prefill {
            total: length - cache.tokens.len(),
        };
        Ok(Turn::More)
    }

    fn prefill(&mut self, index: usize, total: usize) -> Result<Turn> {
        let running = &mut self.running[index];
        let CacheSpec { session, model, .. } = running.job.cache;
        let (Some(decoder), Some(cache)) = (self.models.get(&model), self.caches.get_mut(&session))
        else {
            return Err(Error::internal("the model or its cache is gone"));
        };
        let done = cache.tokens.len();
        let all: Vec<i32> = running
            .job
            .tokens
            .iter()
            .chain(&running.generated)
            .copied()
            .collect();
        let left = &all[done..];
        let most = match (running.job.cache.keep, running.job.progress_tokens as usize) {
            // With kept tokens beyond the window, what a prompt sees depends on how it was cut: as mlx-lm cuts it.
            (1.., _) => GPU_PREFILL_STEP,
            (_, 0) => prefill_step(self.device),
            (_, progress) => prefill_step(self.device).min(progress),
        };
        // Balanced chunks, so that no small rest is left.
        let chunk = &left[..left.len().div_ceil(left.len().div_ceil(most))];
        let last = chunk.len() == left.len();

        self.steps += 1;
        cache.last_step = self.steps;
        let chunk_tokens = Array::from_i32(chunk)?;
        let logits = if last && !running.job.prefill_only {
            Some(decoder.next_logits(&chunk_tokens, &mut cache.layers)?)
        } else {
            // Only what it leaves in the caches is wanted, and computed.
            decoder.forward(&chunk_tokens, &mut cache.layers, Rows::Last)?;
            None
        };
        cache.tokens.extend_from_slice(chunk);
        if logits.is_none() {
            let state: Vec<&Array> = cache.layers.iter().flat_map(Cache::state).collect();
            mlx::eval(&state)?;
            self.good_steps = self.steps;
            mlx::memory::clear_cache();
        }
        if running.job.progress_tokens > 0 {
            let every = u64::from(running.job.progress_tokens);
            let done = (total - (left.len() - chunk.len())) as u64;
            let before = done - chunk.len() as u64;
            if last || done / every > before / every {
                let total = total as u64;
                running.send(Output::Progress { done, total });
            }
        }
        let Some(logits) = logits else {
            return Ok(if last {
                Turn::Ended(EndReason::MaxTokens)
            } else {
                Turn::More
            });
        };
        let mut sampler = Sampler::new(
            running.job.sampling.clone(),
            &all,
            running.generated.len() as u64,
        )?;
        let next = queue_draw(logits, &mut sampler)?;
        running.sampler = Some(sampler);
        running.phase = Phase::Decode {
            next,
            step: self.steps,
        };
        Ok(Turn::More)
    }

    fn decode(&mut self, index: usize) -> Result<Turn> {
        let running = &mut self.running[index];
        let CacheSpec { session, model, .. } = running.job.cache;
        let (Some(decoder), Some(cache)) = (self.models.get(&model), self.caches.get_mut(&session))
        else {
            return Err(Error::internal("the model or its cache is gone"));
        };
        // Left in this phase when something fails below; `recover` starts it anew.
        let Phase::Decode {
            next: current,
            step,
        } = std::mem::replace(&mut running.phase, Phase::Match)
        else {
            return Err(Error::internal("a request was decoded before its prompt"));
        };
        let count = running.generated.len() as u64 + 1;
        let length = running.job.tokens.len() + count as usize;
        let end = if running.job.max_tokens.is_some_and(|most| count >= most) {
            Some(EndReason::MaxTokens)
        } else if length >= running.job.context {
            Some(EndReason::Context)
        } else {
            None
        };
        // The first token goes out before the second step is queued: on the CPU, queueing waits until little is left
        // of what was queued before, so the token would be a step late.
        let (first, alone) = (running.generated.is_empty(), running.alone);
        if first {
            running.take(read(&current)?);
            self.good_steps = self.good_steps.max(step);
        }
        let next = match end {
            Some(_) => None,
            None => {
                let sampler = running
                    .sampler
                    .as_mut()
                    .ok_or_else(|| Error::internal("the sampler is gone"))?;
                self.steps += 1;
                cache.last_step = self.steps;
                let logits = decoder.next_logits(&current.token, &mut cache.layers)?;
                Some(queue_draw(logits, sampler)?)
            }
        };
        if !first {
            running.take(read(&current)?);
            self.good_steps = self.good_steps.max(step);
        }
        if alone {
            // What it queued must fail in its own turn: the next one may be another's that is alone, and be blamed.
            if let Some(next) = &next {
                mlx::eval(&[&next.token])?;
                self.good_steps = self.steps;
            }
        }
        let id = running.generated.last().copied().unwrap_or_default();
        if next.is_some() {
            cache.tokens.push(id);
        }
        if self.steps.is_multiple_of(CLEAR_CACHE_EVERY) {
            mlx::memory::clear_cache();
        }
        if running.job.stop_tokens.contains(&id) {
            return Ok(Turn::Ended(EndReason::StopToken));
        }
        match (end, next) {
            (None, Some(next)) => {
                running.phase = Phase::Decode {
                    next,
                    step: self.steps,
                };
                Ok(Turn::More)
            }
            (end, _) => Ok(Turn::Ended(end.unwrap_or(EndReason::MaxTokens))),
        }
    }

    fn end(&mut self, index: usize, reason: Result<EndReason>) {
        let running = self.running.remove(index);
        let now = Instant::now();
        let started = running.started.unwrap_or(now);
        let first = running.first_token.unwrap_or(now);
        let cache = self.caches.get(&running.job.cache.session);
        let end = End {
            reason,
            cached_tokens: running.cached_tokens,
            queue: started.saturating_duration_since(running.job.submitted),
            prefill: first - started,
            decode: now - first,
            kv_bytes: cache.map_or(0, SessionCache::nbytes),
            kv_tokens: cache.map_or(0, |cache| cache.tokens.len() as u64),
            peak_bytes: mlx::memory::peak(),
            active_bytes: mlx::memory::active(),
        };
        // A caller that is gone needs no answer.
        let _ = running.job.outputs.send(Output::End(end));
    }

    /// After an MLX error in the turn of `index`.
    fn recover(&mut self, index: usize, error: Error) {
        crate::log::warn!("a step failed and is tried again from the tokens: {error}");
        let hopeless = self.running[index].alone || error.code == crate::error::Code::Internal;
        let good = self.good_steps;
        // Sessions that ended with a step still queued.
        for cache in self
            .caches
            .values_mut()
            .filter(|cache| cache.last_step > good)
        {
            cache.clear();
        }
        for running in &mut self.running {
            running.phase = Phase::Match;
            running.sampler = None;
            running.alone = true;
            running.retried = true;
            if let Some(cache) = self.caches.get_mut(&running.job.cache.session) {
                cache.clear();
            }
        }
        self.good_steps = self.steps;
        let stream = mlx::enter(self.device);
        mlx::memory::clear_cache();
        if hopeless {
            self.end(index, Err(error));
        }
        if let Err(error) = stream {
            for index in (0..self.running.len()).rev() {
                self.end(index, Err(error.clone()));
            }
        }
    }

    pub(super) fn add_model(&mut self, id: u64, decoder: Decoder) {
        self.models.insert(id, decoder);
    }

    pub(super) fn drop_model(&mut self, id: u64) {
        self.models.remove(&id);
        mlx::memory::clear_cache();
    }

    pub(super) fn drop_session(&mut self, id: u64) {
        self.caches.remove(&id);
    }
}

/// Queues a draw from logits `[vocab]`, which are given away so that their memory can be used again.
fn queue_draw(logits: Array, sampler: &mut Sampler) -> Result<Draw> {
    let draw = sampler.draw(&logits)?;
    drop(logits);
    let mut wanted = vec![&draw.token];
    if let Some(logprobs) = &draw.logprobs {
        wanted.push(&logprobs.token);
        wanted.extend(logprobs.top.iter().flat_map(|(ids, values)| [ids, values]));
    }
    mlx::async_eval(&wanted)?;
    Ok(draw)
}

/// Waits for a queued draw.
fn read(draw: &Draw) -> Result<TokenOutput> {
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

impl Running {
    fn new(job: Job) -> Self {
        Running {
            job,
            phase: Phase::Match,
            sampler: None,
            generated: Vec::new(),
            sent: 0,
            cached_tokens: 0,
            started: None,
            first_token: None,
            alone: false,
            retried: false,
        }
    }

    /// Not while its reader is far behind, unless it is to end.
    fn can_go_on(&self) -> bool {
        let ticket = &self.job.ticket;
        ticket.is_cancelled() || ticket.is_late() || !ticket.must_wait(self.sent)
    }

    /// A token was read.
    fn take(&mut self, token: TokenOutput) {
        self.generated.push(token.id);
        super::exit::watch_again();
        self.first_token.get_or_insert_with(Instant::now);
        self.alone = false;
        self.send(Output::Token(token));
    }

    fn send(&mut self, output: Output) {
        self.sent += 1;
        if self.job.outputs.send(output).is_err() {
            // Nobody reads any more.
            self.job.ticket.cancel();
        }
    }
}

impl SessionCache {
    fn clear(&mut self) {
        self.layers.iter_mut().for_each(Cache::clear);
        self.tokens.clear();
    }

    /// Keeps the first `n` tokens; where a layer cannot go back, none.
    fn cut(&mut self, n: usize) {
        let extra = self.tokens.len() - n.min(self.tokens.len());
        if extra == 0 {
            return;
        }
        if !self.layers.iter().all(Cache::is_trimmable) {
            self.clear();
            return;
        }
        for layer in &mut self.layers {
            layer.trim(extra as i32);
        }
        self.tokens.truncate(n);
    }

    fn nbytes(&self) -> u64 {
        self.layers.iter().map(Cache::nbytes).sum()
    }
}
