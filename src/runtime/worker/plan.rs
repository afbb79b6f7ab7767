//! Whose turn is next.
//!
//! A turn is a pass, in which requests that decode get a token each, or a chunk of one prompt. Where both are wanted they alternate,
//! so that those who decode wait for one chunk at most. The higher priority goes first, also where more want to decode than a pass
//! takes; equals take turns; and whoever has had none for a while gets one whatever its priority is.

use std::cmp::Reverse;
use std::time::{Duration, Instant};

use super::running::{Phase, Running};
use super::Worker;

/// Who has had no turn for so long gets the next but one, at the latest.
const STARVED: Duration = Duration::from_secs(1);

/// What the last turns were.
#[derive(Default)]
pub(super) struct Turns {
    /// How many there were.
    pub count: u64,
    /// The last one was a chunk, or the beginning of a request.
    chunk: bool,
    /// The last one was somebody's who had waited too long.
    fed: bool,
}

impl Worker {
    /// The requests of the next turn; one alone, but for a pass. None: nobody can do anything.
    pub(super) fn next_turn(&self) -> Option<Vec<usize>> {
        let all = self.running.iter().enumerate();
        if self.paused.is_some() {
            let cancelled = self.running.iter().position(Running::is_cancelled);
            return cancelled.map(|index| vec![index]);
        }
        let mut ready: Vec<_> = all.filter(|(_, running)| running.can_go_on()).collect();
        let ends = |(_, running): &&(usize, &Running)| running.is_cancelled() || running.is_late();
        if let Some((index, _)) = ready.iter().find(ends) {
            return Some(vec![*index]);
        }
        ready.retain(|(_, running)| self.may_have_room(running));
        let (first, running) = self.first_of(&ready)?;
        if !running.joins() {
            return Some(vec![first]);
        }
        let mut pass = ready;
        pass.retain(|(index, other)| *index == first || self.share(running, other));
        pass.sort_by_key(|(index, running)| {
            let rank = (Reverse(running.job.priority), running.turned);
            (*index != first, rank)
        });
        // Where not all fit into one, passes of like size.
        let passes = pass.len().div_ceil(self.rows_of_pass().max(1));
        pass.truncate(pass.len().div_ceil(passes.max(1)));
        Some(pass.into_iter().map(|(index, _)| index).collect())
    }

    fn first_of<'a>(&self, ready: &[(usize, &'a Running)]) -> Option<(usize, &'a Running)> {
        let highest = ready
            .iter()
            .map(|(_, running)| running.job.priority)
            .max()?;
        let oldest = |(_, running): &&(usize, &Running)| running.turned;
        let starved = |(_, running): &&(usize, &Running)| {
            running.job.priority < highest && running.last_turn.elapsed() >= STARVED
        };
        if !self.turns.fed {
            if let Some(starved) = ready.iter().filter(starved).min_by_key(oldest) {
                return Some(*starved);
            }
        }
        let high = ready.iter();
        let high = high.filter(|(_, running)| running.job.priority == highest);
        let of = |decodes: bool| {
            let of = high
                .clone()
                .filter(|(_, running)| running.decodes() == decodes);
            of.min_by_key(oldest)
        };
        of(self.turns.chunk)
            .or_else(|| of(!self.turns.chunk))
            .copied()
    }

    /// Whether two requests that decode go into one pass.
    fn share(&self, one: &Running, other: &Running) -> bool {
        let alike = |one: &Running, other: &Running| {
            let caches = [one, other].map(|running| self.caches.of(&running.key));
            let [Ok(cache), Ok(other_cache)] = caches else {
                return false;
            };
            cache.long == other_cache.long
        };
        let adapters = one.key.adapters == other.key.adapters || (one.mixes && other.mixes);
        let same_model = one.job.cache.model == other.job.cache.model;
        same_model && other.joins() && adapters && alike(one, other)
    }

    /// One that gave way looks again when somebody has ended, when nobody else is left, and from time to time, since what others free
    /// is not told.
    fn may_have_room(&self, running: &Running) -> bool {
        let gave_way = running.gave_way;
        let waits = gave_way.is_some_and(|ended| ended == self.ended);
        !waits
            || running.last_turn.elapsed() >= STARVED
            || self.running.iter().all(|other| other.gave_way.is_some())
    }

    /// Whether somebody who decodes waits for this request's chunk, and is not to.
    pub(super) fn others_wait(&self, index: usize) -> bool {
        let priority = self.running[index].job.priority;
        let others = self.running.iter().enumerate();
        let mut others = others.filter(|(at, _)| *at != index);
        others.any(|(_, other)| other.decodes() && other.job.priority >= priority)
    }

    /// These have their turn now. False: what comes before the first chunk is none.
    pub(super) fn begin_turn(&mut self, members: &[usize]) -> bool {
        let highest = self
            .running
            .iter()
            .map(|running| running.job.priority)
            .max();
        let begins =
            |&index: &usize| matches!(self.running[index].phase, Phase::Begin | Phase::Match);
        if members.iter().all(begins) {
            return false;
        }
        self.turns.count += 1;
        let (count, now) = (self.turns.count, Instant::now());
        let mut first = true;
        for &index in members {
            let running = &mut self.running[index];
            running.gave_way = None;
            if std::mem::take(&mut first) {
                let waited = now.saturating_duration_since(running.last_turn) >= STARVED;
                self.turns.fed = waited && Some(running.job.priority) < highest;
                self.turns.chunk = !running.decodes();
            }
            (running.turned, running.last_turn) = (count, now);
        }
        true
    }
}

impl Running {
    pub fn decodes(&self) -> bool {
        matches!(self.phase, Phase::Decode { .. })
    }

    /// Whether its token can come out of a pass with others.
    fn joins(&self) -> bool {
        self.decodes() && !self.suspect
    }
}
