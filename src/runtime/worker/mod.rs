//! The engine thread's side: models, caches, and the requests that run, turn by turn (`plan.rs`).
//!
//! After an MLX error nothing that was queued can be trusted (an error surfaces
//! at a later, unrelated evaluation), so the worker takes a new stream, forgets every cache with work in flight and
//! computes it again from the tokens. The requests that had such work are suspects: each turn of theirs has the device
//! for itself and is computed to its end, so that one that fails again ends with its error, and those beside it only
//! wait for a turn.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::caches::{Caches, SessionCache};
use super::embed::Embedding;
use super::engine::{Alive, Command};
use super::job::{EndReason, Kv};
use super::ledger::Ledger;
use crate::error::{Code, Error, Result};
use crate::mlx::{self, memory, Device};
use crate::model::AdapterSet;
use crate::train::Trainer;

mod admit;
mod draft;
mod heads;
mod inspect;
mod loaded;
pub(in crate::runtime) mod lookup;
mod marks;
mod pass;
mod plan;
mod prefill;
mod read;
mod room;
mod running;
mod score;
mod snapshots;

use draft::{Timed, Times};
pub(super) use inspect::KeysOf;
use loaded::Loaded;
use plan::Turns;
pub use room::Trim;
use running::{Phase, Running};
pub(in crate::runtime) use snapshots::{KeptLayer, KeptTensor, Snapshot, Which};

/// What became of a request in its turn.
pub(super) enum Turn {
    More,
    Ended(EndReason),
    /// An error of this request alone; nothing was queued.
    Refused(Error),
}

pub struct Worker {
    /// The first to be dropped.
    _alive: Alive,
    device: Device,
    commands: Receiver<Command>,
    loaded: Loaded,
    /// Trainings that are under way.
    pub(super) trainers: HashMap<u64, Trainer>,
    /// What is fused into models that are being saved.
    pub(super) savings: HashMap<u64, AdapterSet>,
    /// Sessions' caches as they were when somebody began to write them to a file.
    snapshots: HashMap<u64, SessionCache>,
    /// Passes over texts that are under way.
    pub(super) embeddings: HashMap<u64, Embedding>,
    caches: Caches,
    running: Vec<Running>,
    /// Requests whose session another one has, in the order in which they came.
    // Boxed, since all of them are moved when somebody is looked for who may begin.
    #[allow(clippy::vec_box)]
    waiting: Vec<Box<Running>>,
    /// A waiting request may have become able to begin.
    look_at_waiting: bool,
    looked_at_waiting: Instant,
    paused: Option<Pause>,
    turns: Turns,
    /// Requests that have.
    ended: u64,
    /// Counts queued steps; a step is known to be good once a token of it or of a later one was read.
    steps: u64,
    good_steps: u64,
    /// Bytes that the steps which were queued since the device was last idle may take: what MLX counts may lack them.
    queued_bytes: u64,
    /// How much the system was last found to have, and when.
    asked: Option<(u64, Instant)>,
    /// The failure that the log was told of last; none once a request has ended well.
    told: Option<String>,
    /// Of models that have a draft, what tells how many guesses pay.
    times: HashMap<u64, Times>,
    /// The pass that was queued last, if its time is wanted.
    timed: Option<Timed>,
    /// Tokens are read before the pass behind them is queued.
    pub(in crate::runtime) reads_first: bool,
    #[cfg(test)]
    pub(in crate::runtime) trace: Trace,
}

/// What happened, for tests.
#[cfg(test)]
#[derive(Clone, Default)]
pub(in crate::runtime) struct Trace {
    /// The model of each turn that counts (`Worker::begin_turn`).
    pub turns: Vec<u64>,
    /// How many requests shared a turn.
    pub largest: usize,
    /// Of each failure the model whose turn it was.
    pub failures: Vec<Option<u64>>,
}

/// How often requests that cannot go on are asked whether they were cancelled.
const LOOK: Duration = Duration::from_millis(10);

/// No device work is started.
struct Pause {
    since: Instant,
    /// When it ends by itself.
    until: Option<Instant>,
}

impl Worker {
    pub(super) fn new(device: Device, commands: Receiver<Command>, alive: Alive) -> Self {
        Worker {
            _alive: alive,
            device,
            commands,
            loaded: Loaded::default(),
            trainers: HashMap::new(),
            savings: HashMap::new(),
            snapshots: HashMap::new(),
            embeddings: HashMap::new(),
            caches: Caches::default(),
            running: Vec::new(),
            waiting: Vec::new(),
            look_at_waiting: false,
            looked_at_waiting: Instant::now(),
            paused: None,
            turns: Turns::default(),
            ended: 0,
            steps: 0,
            good_steps: 0,
            queued_bytes: 0,
            asked: None,
            told: None,
            times: HashMap::new(),
            timed: None,
            reads_first: device == Device::Cpu,
            #[cfg(test)]
            trace: Trace::default(),
        }
    }

    pub(super) fn run(mut self) {
        while self.take_commands() {
            if let Some(members) = self.next_turn() {
                self.run_turn(&members);
            }
        }
        let running = std::mem::take(&mut self.running).into_iter();
        let waiting = std::mem::take(&mut self.waiting);
        let waiting = waiting.into_iter().map(|running| *running);
        for running in running.chain(waiting).rev() {
            let kv = self.let_go(&running);
            running.end(Ok(EndReason::Cancelled), kv);
        }
    }

    /// Takes what was sent; waits for something where no request can go on. False: stop.
    fn take_commands(&mut self) -> bool {
        loop {
            // All of it, before anybody looks what may begin.
            let command = match self.commands.try_recv() {
                Ok(command) => command,
                Err(TryRecvError::Disconnected) => return false,
                Err(TryRecvError::Empty) if self.can_do_something() => return true,
                Err(TryRecvError::Empty) => {
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
                }
            };
            if !self.obey(command) {
                return false;
            }
        }
    }

    /// False: stop.
    fn obey(&mut self, command: Command) -> bool {
        match command {
            Command::Stop => return false,
            Command::Wake => self.look_at_waiting = true,
            Command::Start(job) => {
                self.waiting.push(Box::new(Running::new(*job)));
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
                // What it may have queued must not be blamed on a suspect.
                self.steps += 1;
            }
        }
        true
    }

    fn can_do_something(&mut self) -> bool {
        let due = |pause: &Pause| pause.until.is_some_and(|until| Instant::now() >= until);
        if self.paused.as_ref().is_some_and(due) {
            self.go_on();
        }
        // Who waits no longer is looked at from time to time: queues may be long, and tokens quick.
        let look = std::mem::take(&mut self.look_at_waiting);
        if look || self.looked_at_waiting.elapsed() >= LOOK {
            self.looked_at_waiting = Instant::now();
            self.admit();
        }
        self.next_turn().is_some()
    }

    /// How long nothing can happen that is not sent: deadlines, also of parked requests, the end of a pause, and cancels,
    /// which may come from a signal handler and so wake nobody.
    fn time_to_wait(&self) -> Option<Duration> {
        let idle = self.running.is_empty() && self.waiting.is_empty();
        let next = match &self.paused {
            Some(pause) => pause.until,
            None => {
                let waiting = self.waiting.iter().map(Box::as_ref);
                let requests = self.running.iter().chain(waiting);
                requests.filter_map(|running| running.deadline).min()
            }
        };
        let time = next.map(|next| next.saturating_duration_since(Instant::now()));
        match idle {
            true => time,
            false => Some(time.map_or(LOOK, |time| time.min(LOOK))),
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
            self.recover(&[], error);
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
        let waiting = self.waiting.iter_mut().map(Box::as_mut);
        for running in self.running.iter_mut().chain(waiting) {
            // One that was submitted meanwhile has lost less.
            let lost = paused.min(running.job.submitted.elapsed());
            running.deadline = running.deadline.map(|deadline| deadline + lost);
        }
        self.look_at_waiting = true;
    }

    pub(super) fn device(&self) -> Device {
        self.device
    }

    /// Whether work for the device may begin that takes so many bytes.
    ///
    /// Errors: SUSPENDED while none may be started; OUT_OF_MEMORY.
    pub(super) fn ready_for(&mut self, bytes: u64) -> Result<()> {
        match self.paused {
            Some(Pause { until: None, .. }) => Err(Error::new(
                Code::Suspended,
                "the library was suspended meanwhile",
            )),
            // What only keeps quiet for a while, after a suspend that ran out of time, harms nobody.
            _ => self.ask_system(bytes),
        }
    }

    fn run_turn(&mut self, members: &[usize]) {
        let Some(&first) = members.first() else {
            return;
        };
        let _counts = self.begin_turn(members);
        let running = &self.running[first];
        #[cfg(test)]
        let model = running.job.cache.model;
        // A suspect is alone.
        let (suspect, decoded) = (running.suspect, running.decodes());
        if suspect && self.good_steps < self.steps && self.paused.is_none() {
            // What others queued must fail before its turn, or it would be blamed.
            if let Err(error) = self.wait_for_device() {
                return self.recover(&[], error);
            }
        }
        #[cfg(test)]
        {
            if _counts {
                self.trace.turns.push(model);
            }
            self.trace.largest = self.trace.largest.max(members.len());
            let session = |&index: &usize| self.running[index].session();
            let sessions: Vec<u64> = members.iter().map(session).collect();
            mlx::fault::turn_of(model, &sessions);
        }
        let mut turns = Vec::with_capacity(members.len());
        let outcome = crate::guard::catch(AssertUnwindSafe(|| {
            self.take_turn(members, &mut turns)?;
            if suspect && turns.iter().any(|(_, turn)| matches!(turn, Turn::More)) {
                self.wait_for_device()?;
            }
            Ok(())
        }));
        let failed = members.iter().filter(|index| match outcome {
            Ok(()) => false,
            // What it waited for was this one's.
            Err(_) if suspect => true,
            Err(_) => !turns.iter().any(|(done, _)| done == *index),
        });
        let mut failed: Vec<usize> = failed.copied().collect();
        // From the last on, since those that end go.
        turns.sort_by_key(|(index, _)| std::cmp::Reverse(*index));
        for (index, turn) in turns {
            match turn {
                Turn::More if failed.contains(&index) => continue,
                Turn::More => {
                    if decoded {
                        self.running[index].clear();
                    }
                    continue;
                }
                Turn::Ended(reason) => {
                    self.told = None;
                    self.end(index, Ok(reason));
                }
                Turn::Refused(error) => self.end(index, Err(error)),
            }
            failed.retain(|&other| other != index);
            let behind = failed.iter_mut().filter(|other| **other > index);
            behind.for_each(|other| *other -= 1);
        }
        if let Err(error) = outcome {
            self.recover(&failed, error);
        }
    }

    /// What becomes of each goes into `turns`: of one a chunk of its prompt or the like, of those that decode a token.
    fn take_turn(&mut self, members: &[usize], turns: &mut Vec<(usize, Turn)>) -> Result<()> {
        if let [index] = *members {
            let running = &self.running[index];
            let turn = match running.phase {
                _ if running.is_cancelled() => Turn::Ended(EndReason::Cancelled),
                _ if running.is_late() => Turn::Ended(EndReason::Deadline),
                Phase::Begin => self.begin(index)?,
                Phase::Match => self.match_cache(index)?,
                Phase::Prefill { total } => self.prefill(index, total)?,
                Phase::Decode { .. } => return self.pass(members, turns),
            };
            turns.push((index, turn));
            return Ok(());
        }
        self.pass(members, turns)
    }

    fn end(&mut self, index: usize, reason: Result<EndReason>) {
        let running = self.running.remove(index);
        self.ended += 1;
        if let Phase::Decode { guessed, .. } = &running.phase {
            // Nobody knows whether they are right.
            if let (false, Ok(cache)) = (guessed.is_empty(), self.caches.of_mut(&running.key)) {
                cache.take_back(guessed.len());
            }
        }
        let kv = self.let_go(&running);
        running.end(reason, kv);
        // Its session may be free.
        self.look_at_waiting = true;
    }

    /// What the session's caches hold at the end of a request; a score's own goes.
    fn let_go(&mut self, running: &Running) -> Option<Kv> {
        if running.job.score.is_some() {
            self.caches.forget_session(running.session());
            return None;
        }
        Some(self.caches.kv(&running.key))
    }

    /// After an MLX error, in the turn of these requests or outside of any. A suspect that fails in its own turn, and one alone that a
    /// bug of ours fails, ends with the error.
    pub(super) fn recover(&mut self, failed: &[usize], error: Error) {
        let alone = match *failed {
            [index] => Some(index),
            _ => None,
        };
        let hopeless =
            alone.filter(|&index| self.running[index].suspect || error.code == Code::Internal);
        #[cfg(test)]
        {
            let model = failed
                .first()
                .map(|&index| self.running[index].job.cache.model);
            self.trace.failures.push(model);
        }
        self.tell(&error, hopeless.is_some());
        let good = self.good_steps;
        // What was computed before is sound, also of those that run.
        let in_flight = |cache: &SessionCache| cache.last_step > good;
        for (i, running) in self.running.iter_mut().enumerate() {
            // Its state on the device may have been queued and never asked for; it is made anew from the tokens.
            running.sampler = None;
            if failed.contains(&i) || self.caches.of(&running.key).is_ok_and(in_flight) {
                if hopeless != Some(i) {
                    let id = running.job.request.ticket.id();
                    crate::log::debug!("request {id} is tried again");
                }
                running.strike();
            }
        }
        let keys = failed.iter().map(|&index| self.running[index].key.clone());
        let keys: Vec<_> = keys.collect();
        self.caches.forget_after(good, &keys);
        self.device_is_idle();
        mlx::forget_error();
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

    /// Tells the log of a failure, once until a request ends well.
    fn tell(&mut self, error: &Error, hopeless: bool) {
        let text = error.to_string();
        if self.told.as_ref() == Some(&text) {
            return;
        }
        match hopeless {
            true => crate::log::warn!("a step failed, and its request with it: {text}"),
            false => crate::log::warn!("a step failed and is tried again from the tokens: {text}"),
        }
        self.told = Some(text);
    }

    /// Does what computes, outside of any request. A failure of MLX may be that of other work on the stream, so what
    /// failed is done once more, on a new one.
    pub(super) fn twice<T>(&mut self, mut work: impl FnMut(&mut Worker) -> Result<T>) -> Result<T> {
        let of_mlx = |error: &Error| matches!(error.code, Code::Device | Code::OutOfMemory);
        match work(self) {
            Err(error) if of_mlx(&error) => self.recover(&[], error),
            outcome => return outcome,
        }
        match work(self) {
            Err(error) if of_mlx(&error) => {
                self.recover(&[], error.clone());
                Err(error)
            }
            outcome => outcome,
        }
    }

    /// Gives the session `to` what `from` has computed.
    pub(super) fn fork_session(&mut self, from: u64, to: u64, ledger: &Arc<Ledger>) {
        self.caches.fork_session(from, to, ledger);
    }

    pub(super) fn drop_session(&mut self, id: u64) {
        self.caches.drop_session(id);
    }

    /// No request can go on.
    #[cfg(test)]
    pub(super) fn is_idle(&self) -> bool {
        self.next_turn().is_none()
    }
}
