//! The engine thread's side: models, caches, and the requests that run, one step of one request after the other.
//!
//! Decoding runs one step ahead: step n+1 is queued from the lazy token of step n, and only then is token n read, so
//! the device never waits for the host. After an MLX error nothing that was queued can be trusted (an error surfaces
//! at a later, unrelated evaluation), so the worker takes a new stream, forgets every cache with work in flight and
//! computes it again from the tokens, one request at a time; the request that fails again is the one that fails.

use std::collections::{HashMap, HashSet};
use std::panic::AssertUnwindSafe;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

use super::caches::{AppliedAdapter, CacheKey, Caches, SessionCache};
use super::engine::{Alive, Command};
use super::job::{CacheSpec, End, EndReason, Job, Kv, TokenOutput};
use crate::error::{Code, Error, Result};
use crate::mlx::{self, memory, Array, Device};
use crate::model::adapter::Adapter;
use crate::model::{AdapterSet, Cache, Decoder, Rows};
use crate::sampling::{Draw, Sampler};
use crate::train::Trainer;

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
    adapters: HashMap<u64, LoadedAdapter>,
    /// Trainings that are under way.
    pub(super) trainers: HashMap<u64, Trainer>,
    caches: Caches,
    running: Vec<Running>,
    /// Requests whose session another one has, in the order in which they came.
    waiting: Vec<Running>,
    /// A waiting request may have become able to begin.
    look_at_waiting: bool,
    paused: Option<Pause>,
    /// Whose turn is next.
    turn: usize,
    /// Counts queued steps; a step is known to be good once a token of it or of a later one was read.
    steps: u64,
    good_steps: u64,
    /// Bytes that the steps which were queued since the device was last idle may take: what MLX counts may lack them.
    queued_bytes: u64,
}

/// No device work is started.
struct Pause {
    since: Instant,
    /// When it ends by itself.
    until: Option<Instant>,
}

/// An adapter's arrays, and how often they have changed.
struct LoadedAdapter {
    adapter: Adapter,
    version: u64,
}

struct Running {
    job: Job,
    phase: Phase,
    /// Which cache it uses; known with its adapters, when it begins.
    key: CacheKey,
    adapters: AdapterSet,
    /// What the request goes on from.
    prompt: Vec<i32>,
    deadline: Option<Instant>,
    sampler: Option<Sampler>,
    generated: Vec<i32>,
    cached_tokens: u64,
    started: Option<Instant>,
    first_token: Option<Instant>,
    /// Runs with no other request until it has read a token: something failed while it had work in flight.
    alone: bool,
    retried: bool,
}

enum Phase {
    /// The request does not know its tokens yet.
    Begin,
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
    /// An error of this request alone; nothing was queued.
    Refused(Error),
}

impl Worker {
    pub(super) fn new(device: Device, commands: Receiver<Command>, alive: Alive) -> Self {
        Worker {
            _alive: alive,
            device,
            commands,
            models: HashMap::new(),
            adapters: HashMap::new(),
            trainers: HashMap::new(),
            caches: Caches::default(),
            running: Vec::new(),
            waiting: Vec::new(),
            look_at_waiting: false,
            paused: None,
            turn: 0,
            steps: 0,
            good_steps: 0,
            queued_bytes: 0,
        }
    }

    pub(super) fn run(mut self) {
        while self.take_commands() {
            if let Some(index) = self.next_turn() {
                self.run_turn(index);
            }
        }
        for running in self.running.drain(..).chain(self.waiting.drain(..)).rev() {
            let kv = self.caches.kv(&running.key);
            running.end(Ok(EndReason::Cancelled), Some(kv));
        }
    }

    /// Takes what was sent; waits for something where no request can go on. False: stop.
    fn take_commands(&mut self) -> bool {
        loop {
            let command = if self.can_do_something() {
                match self.commands.try_recv() {
                    Ok(command) => command,
                    Err(TryRecvError::Empty) => return true,
                    Err(TryRecvError::Disconnected) => return false,
                }
            } else {
                let outcome = match self.time_to_wait() {
                    None => self.commands.recv().map_err(RecvTimeoutError::from),
                    Some(time) => self.commands.recv_timeout(time),
                };
                match outcome {
                    Ok(command) => command,
                    Err(RecvTimeoutError::Timeout) => {
                        self.look_at_waiting = true;
                        continue;
                    }
                    Err(RecvTimeoutError::Disconnected) => return false,
                }
            };
            match command {
                Command::Stop => return false,
                Command::Wake => self.look_at_waiting = true,
                Command::Start(job) => {
                    self.waiting.push(Running::new(*job));
                    self.look_at_waiting = true;
                }
                Command::Pause(quiet) => {
                    self.pause();
                    let _ = quiet.send(());
                }
                Command::Resume(after) => self.resume(after),
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

    fn can_do_something(&mut self) -> bool {
        let due = |pause: &Pause| pause.until.is_some_and(|until| Instant::now() >= until);
        if self.paused.as_ref().is_some_and(due) {
            self.go_on();
        }
        if std::mem::take(&mut self.look_at_waiting) || self.waiting.iter().any(Running::is_late) {
            self.admit();
        }
        self.next_turn().is_some()
    }

    /// How long nothing can happen that is not sent: deadlines, also of parked requests, and the end of a pause.
    fn time_to_wait(&self) -> Option<Duration> {
        let next = match &self.paused {
            Some(pause) => pause.until,
            None => {
                let requests = self.running.iter().chain(&self.waiting);
                requests.filter_map(|running| running.deadline).min()
            }
        };
        next.map(|next| next.saturating_duration_since(Instant::now()))
    }

    /// Lets waiting requests begin whose session is free, in order, and ends those that wait no longer.
    fn admit(&mut self) {
        let paused = self.paused.is_some();
        let mut taken: HashSet<u64> = self.running.iter().map(Running::session).collect();
        for running in std::mem::take(&mut self.waiting) {
            let ticket = &running.job.request.ticket;
            if ticket.is_cancelled() {
                running.end(Ok(EndReason::Cancelled), None);
            } else if running.is_late() && !paused {
                running.end(Ok(EndReason::Deadline), None);
            } else if taken.insert(running.session()) && running.job.request.may_begin() {
                self.running.push(running);
            } else {
                self.waiting.push(running);
            }
        }
    }

    /// Waits until the device has done what was queued.
    fn pause(&mut self) {
        let since = self
            .paused
            .take()
            .map_or_else(Instant::now, |pause| pause.since);
        self.paused = Some(Pause { since, until: None });
        if let Err(error) = self.wait_for_device() {
            self.recover(None, error);
        }
    }

    /// Until it has done what was queued.
    fn wait_for_device(&mut self) -> Result<()> {
        mlx::synchronize()?;
        self.device_is_idle();
        Ok(())
    }

    fn device_is_idle(&mut self) {
        self.good_steps = self.steps;
        self.queued_bytes = 0;
    }

    fn resume(&mut self, after: Duration) {
        if let Some(pause) = &mut self.paused {
            pause.until = Some(Instant::now() + after);
        }
    }

    /// Deadlines do not run while the engine is paused.
    fn go_on(&mut self) {
        let Some(pause) = self.paused.take() else {
            return;
        };
        let paused = pause.since.elapsed();
        for running in self.running.iter_mut().chain(&mut self.waiting) {
            // One that was submitted meanwhile has lost less.
            let lost = paused.min(running.job.submitted.elapsed());
            running.deadline = running.deadline.map(|deadline| deadline + lost);
        }
        self.look_at_waiting = true;
    }

    /// SUSPENDED while no device work may be started.
    pub(super) fn refuse_when_paused(&self) -> Result<()> {
        match self.paused {
            // What only keeps quiet for a while, after a suspend that ran out of time, harms nobody.
            Some(Pause { until: Some(_), .. }) => Ok(()),
            None => Ok(()),
            Some(_) => Err(Error::new(
                Code::Suspended,
                "the library was suspended meanwhile",
            )),
        }
    }

    /// The next request that can do something, in turn.
    fn next_turn(&self) -> Option<usize> {
        let n = self.running.len();
        if self.paused.is_some() {
            return self.running.iter().position(Running::is_cancelled);
        }
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
        let alone = self.running[index].alone;
        if alone && self.good_steps < self.steps && self.paused.is_none() {
            // What others queued must fail before its turn, or it would be blamed.
            if let Err(error) = self.wait_for_device() {
                return self.recover(None, error);
            }
        }
        let outcome = crate::guard::catch(|| self.step(index));
        match outcome {
            Ok(Turn::More) => {}
            Ok(Turn::Ended(reason)) => self.end(index, Ok(reason)),
            Ok(Turn::Refused(error)) => self.end(index, Err(error)),
            Err(error) => self.recover(Some(index), error),
        }
    }

    /// One prefill chunk or one decode step.
    fn step(&mut self, index: usize) -> Result<Turn> {
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
            Phase::Decode { .. } => self.decode(index),
        }
    }

    fn begin(&mut self, index: usize) -> Result<Turn> {
        let running = &mut self.running[index];
        let decoder = self
            .models
            .get(&running.job.cache.model)
            .ok_or_else(|| Error::internal("the model is gone"))?;
        running.key.adapters.clear();
        running.adapters = AdapterSet::default();
        for &(id, strength) in &running.job.adapters {
            let LoadedAdapter { adapter, version } = self
                .adapters
                .get_mut(&id)
                .ok_or_else(|| Error::internal("an adapter is gone"))?;
            match decoder.add_adapter(&mut running.adapters, adapter, strength) {
                // Adapters that do not go together; nothing of MLX's.
                Err(error) if error.code == Code::Incompatible => return Ok(Turn::Refused(error)),
                added => added?,
            }
            running.key.adapters.push(AppliedAdapter {
                id,
                version: *version,
                strength: strength.to_bits(),
            });
        }
        match running.job.request.begin() {
            Ok(prompt) => {
                running.prompt = prompt;
                running.phase = Phase::Match;
                Ok(Turn::More)
            }
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
                super::engine::reset_peak();
            }
        }
        let CacheSpec {
            model,
            window,
            keep,
            ..
        } = running.job.cache;
        let decoder = self
            .models
            .get(&model)
            .ok_or_else(|| Error::internal("the model is gone"))?;
        let cache = self.caches.get_or_insert(&running.key, || {
            let ledger = running.job.request.ticket.ledger.clone();
            SessionCache::new(decoder.make_caches(window, keep), ledger)
        });
        let inexact =
            running.job.whole_history && cache.layers.iter().any(Cache::is_path_dependent);
        if running.job.ignore_cache || inexact {
            cache.clear();
        }
        let wanted = running.prompt.iter().chain(&running.generated);
        let common = cache
            .tokens
            .iter()
            .zip(wanted)
            .take_while(|(a, b)| a == b)
            .count();
        let length = running.prompt.len() + running.generated.len();
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
        let running = &self.running[index];
        let all: Vec<i32> = [running.prompt.as_slice(), &running.generated].concat();
        let left = match self.caches.get(&running.key) {
            Some(cache) => &all[cache.tokens.len()..],
            None => return Err(Error::internal("the session's cache is gone")),
        };
        let most = match (running.job.cache.keep, running.job.progress_tokens as usize) {
            // With kept tokens beyond the window, what a prompt sees depends on how it was cut: as mlx-lm cuts it.
            (1.., _) => GPU_PREFILL_STEP,
            (_, 0) => prefill_step(self.device),
            (_, progress) => prefill_step(self.device).min(progress),
        };
        // Balanced chunks, so that no small rest is left.
        let mut n = left.len().div_ceil(left.len().div_ceil(most));
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
        let chunk = &left[..n];
        let last = chunk.len() == left.len();

        let running = &mut self.running[index];
        let model = running.job.cache.model;
        let (Some(decoder), Some(cache)) =
            (self.models.get(&model), self.caches.get_mut(&running.key))
        else {
            return Err(Error::internal("the model or its cache is gone"));
        };
        self.steps += 1;
        cache.last_step = self.steps;
        let chunk_tokens = Array::from_i32(chunk)?;
        let logits = if last && !running.job.prefill_only {
            Some(decoder.next_logits(&chunk_tokens, &mut cache.layers, &running.adapters)?)
        } else {
            // Only what it leaves in the caches is wanted, and computed.
            decoder.forward(
                &chunk_tokens,
                &mut cache.layers,
                Rows::Last,
                &running.adapters,
            )?;
            None
        };
        cache.tokens.extend_from_slice(chunk);
        if logits.is_none() {
            let state: Vec<&Array> = cache.layers.iter().flat_map(Cache::state).collect();
            mlx::eval(&state)?;
            self.good_steps = self.steps;
            self.queued_bytes = 0;
            memory::clear_cache();
        }
        if running.job.progress_tokens > 0 {
            let every = u64::from(running.job.progress_tokens);
            let done = (total - (left.len() - chunk.len())) as u64;
            let before = done - chunk.len() as u64;
            if last || done / every > before / every {
                running.job.request.progress(done, total as u64);
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
        let running = &self.running[index];
        let count = running.generated.len() as u64 + 1;
        let length = running.prompt.len() + count as usize;
        let end = if running.job.max_tokens.is_some_and(|most| count >= most) {
            Some(EndReason::MaxTokens)
        } else if length >= running.job.context {
            Some(EndReason::Context)
        } else {
            None
        };
        // The token that is there goes out either way.
        let refusal = match end {
            None => self.make_room(index, 1, true)?,
            Some(_) => None,
        };
        let running = &mut self.running[index];
        let model = running.job.cache.model;
        let (Some(decoder), Some(cache)) =
            (self.models.get(&model), self.caches.get_mut(&running.key))
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
        // The first token goes out before the second step is queued: on the CPU, queueing waits until little is left
        // of what was queued before, so the token would be a step late.
        let (first, alone) = (running.generated.is_empty(), running.alone);
        let mut wanted = true;
        if first {
            wanted = running.take(read(&current)?);
            self.good_steps = self.good_steps.max(step);
        }
        let next = match end {
            Some(_) => None,
            None if !wanted || refusal.is_some() => None,
            None => {
                let sampler = running
                    .sampler
                    .as_mut()
                    .ok_or_else(|| Error::internal("the sampler is gone"))?;
                self.steps += 1;
                cache.last_step = self.steps;
                let logits =
                    decoder.next_logits(&current.token, &mut cache.layers, &running.adapters)?;
                Some(queue_draw(logits, sampler)?)
            }
        };
        if !first {
            wanted = running.take(read(&current)?);
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
            (end, _) => Ok(Turn::Ended(end.unwrap_or(EndReason::MaxTokens))),
        }
    }

    fn end(&mut self, index: usize, reason: Result<EndReason>) {
        let running = self.running.remove(index);
        let kv = self.caches.kv(&running.key);
        running.end(reason, Some(kv));
        // Its session may be free.
        self.look_at_waiting = true;
    }

    /// After an MLX error, in the turn of `index` or in nobody's.
    fn recover(&mut self, index: Option<usize>, error: Error) {
        crate::log::warn!("a step failed and is tried again from the tokens: {error}");
        let hopeless =
            index.filter(|&index| self.running[index].alone || error.code == Code::Internal);
        let good = self.good_steps;
        // Sessions that ended with a step still queued.
        for cache in self
            .caches
            .values_mut()
            .filter(|cache| cache.last_step > good)
        {
            cache.forget();
        }
        for running in &mut self.running {
            if !matches!(running.phase, Phase::Begin) {
                running.phase = Phase::Match;
            }
            running.sampler = None;
            running.alone = true;
            running.retried = true;
            if let Some(cache) = self.caches.get_mut(&running.key) {
                cache.forget();
            }
        }
        self.device_is_idle();
        let stream = mlx::enter(self.device);
        memory::clear_cache();
        if let Some(index) = hopeless {
            self.end(index, Err(error));
        }
        if let Err(error) = stream {
            for index in (0..self.running.len()).rev() {
                self.end(index, Err(error.clone()));
            }
        }
    }

    /// After an MLX error outside of any request.
    pub(super) fn failed(&mut self, error: Error) {
        self.recover(None, error);
    }

    /// No request can go on.
    #[cfg(test)]
    pub(super) fn is_idle(&self) -> bool {
        self.next_turn().is_none()
    }

    pub(super) fn add_model(&mut self, id: u64, decoder: Decoder) {
        self.models.insert(id, decoder);
    }

    pub(super) fn drop_model(&mut self, id: u64) {
        self.models.remove(&id);
        memory::clear_cache();
    }

    pub(super) fn drop_session(&mut self, id: u64) {
        self.caches.drop_session(id);
    }

    pub(super) fn add_adapter(&mut self, id: u64, adapter: Adapter) {
        let version = 0;
        self.adapters.insert(id, LoadedAdapter { adapter, version });
    }

    pub(super) fn drop_adapter(&mut self, id: u64) {
        self.adapters.remove(&id);
        self.drop_keys_of(id);
    }

    pub(super) fn decoder(&self, model: u64) -> Result<&Decoder> {
        self.models
            .get(&model)
            .ok_or_else(|| Error::internal("the model is gone"))
    }

    pub(super) fn adapter(&self, id: u64) -> Result<&Adapter> {
        match self.adapters.get(&id) {
            Some(loaded) => Ok(&loaded.adapter),
            None => Err(Error::internal("an adapter is gone")),
        }
    }

    /// Changes an adapter's weights. Requests that run go on with the old ones.
    pub(super) fn change_adapter(
        &mut self,
        id: u64,
        change: impl FnOnce(&mut Adapter) -> Result<()>,
    ) -> Result<()> {
        let loaded = self
            .adapters
            .get_mut(&id)
            .ok_or_else(|| Error::internal("an adapter is gone"))?;
        change(&mut loaded.adapter)?;
        loaded.adapter.forget_gains();
        loaded.version += 1;
        self.drop_keys_of(id);
        Ok(())
    }

    fn drop_keys_of(&mut self, adapter: u64) {
        let running = &self.running;
        let in_use = |key: &CacheKey| running.iter().any(|running| running.key == *key);
        self.caches.drop_adapter(adapter, &in_use);
    }

    /// Gives cached buffers back, and on wish the keys and values of sessions that no request uses.
    pub(super) fn trim(&mut self, idle_kv: bool) {
        if idle_kv {
            while self.drop_oldest_idle() {}
        }
        memory::clear_cache();
    }

    /// Looks whether `n` more tokens of a request fit, and where `idle_may_go` lets idle sessions lose their keys and
    /// values for them. Gives OUT_OF_MEMORY, before anything is allocated, when they do not.
    fn make_room(&mut self, index: usize, n: usize, idle_may_go: bool) -> Result<Option<Error>> {
        let running = &self.running[index];
        let spec = running.job.cache;
        let (Some(decoder), Some(cache)) =
            (self.models.get(&spec.model), self.caches.get(&running.key))
        else {
            return Err(Error::internal("the model or its cache is gone"));
        };
        let cost = decoder.cost(i32::try_from(n).unwrap_or(i32::MAX), &cache.layers);
        let refuse = |what: String| Ok(Some(Error::new(Code::OutOfMemory, what)));
        if let Some(limit) = spec.limit {
            let others = self.caches.other_bytes(&running.key);
            if cost.kv.saturating_add(others) > limit {
                self.caches.drop_others(&running.key);
            }
            if cost.kv > limit {
                return refuse(format!(
                    "the keys and values would have {} bytes, and the session's kv_limit is {limit}",
                    cost.kv
                ));
            }
        }
        while !self.fits(cost.more)? {
            if !(idle_may_go && self.drop_oldest_idle()) {
                return refuse(format!(
                    "{} bytes are in use, the next {n} tokens take up to {} more, and the limit is {}",
                    memory::active(),
                    cost.more,
                    memory::limit()
                ));
            }
        }
        self.queued_bytes = self.queued_bytes.saturating_add(cost.more);
        Ok(None)
    }

    /// Whether so many more bytes fit. What is in use is only known when the device is idle, so near the limit this waits
    /// for it.
    fn fits(&mut self, more: u64) -> Result<bool> {
        let fit = |queued: u64| {
            let now = memory::active().saturating_add(queued);
            now.saturating_add(more) <= memory::limit()
        };
        if fit(self.queued_bytes) {
            return Ok(true);
        }
        self.wait_for_device()?;
        Ok(fit(0))
    }

    /// Lets idle sessions lose their keys and values until so many bytes fit; false: they do not.
    pub(super) fn make_room_for(&mut self, bytes: u64) -> bool {
        loop {
            match self.fits(bytes) {
                Ok(true) => return true,
                Ok(false) if self.drop_oldest_idle() => {}
                Ok(false) => return false,
                Err(error) => self.recover(None, error),
            }
        }
    }

    fn drop_oldest_idle(&mut self) -> bool {
        let running = &self.running;
        let in_use = |key: &CacheKey| running.iter().any(|running| running.key == *key);
        self.caches.drop_oldest_idle(&in_use)
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
            deadline: job.deadline,
            key: CacheKey {
                session: job.cache.session,
                adapters: Vec::new(),
            },
            adapters: AdapterSet::default(),
            job,
            phase: Phase::Begin,
            prompt: Vec::new(),
            sampler: None,
            generated: Vec::new(),
            cached_tokens: 0,
            started: None,
            first_token: None,
            alone: false,
            retried: false,
        }
    }

    fn session(&self) -> u64 {
        self.job.cache.session
    }

    fn is_cancelled(&self) -> bool {
        self.job.request.ticket.is_cancelled()
    }

    fn is_late(&self) -> bool {
        self.deadline
            .is_some_and(|deadline| Instant::now() >= deadline)
    }

    /// Not while its reader is far behind, unless it is to end.
    fn can_go_on(&self) -> bool {
        self.is_cancelled() || self.is_late() || !self.job.request.ticket.must_wait()
    }

    /// A token was read; false: no more are wanted.
    fn take(&mut self, token: TokenOutput) -> bool {
        self.generated.push(token.id);
        super::exit::watch_again();
        self.first_token.get_or_insert_with(Instant::now);
        self.alone = false;
        self.job.request.token(token)
    }

    fn end(self, reason: Result<EndReason>, kv: Option<Kv>) {
        let now = Instant::now();
        let started = self.started.unwrap_or(now);
        let first = self.first_token.unwrap_or(now);
        self.job.request.end(End {
            reason,
            cached_tokens: self.cached_tokens,
            queue: started.saturating_duration_since(self.job.submitted),
            prefill: first - started,
            decode: now - first,
            kv,
            peak_bytes: memory::peak(),
            active_bytes: memory::active(),
        });
    }
}
