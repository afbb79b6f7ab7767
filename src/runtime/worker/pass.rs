//! A pass: requests that decode get their next token in one forward pass, whose rows are theirs.
//!
//! On a GPU a pass is queued from tokens that nobody knows yet, and they are read while the device computes it. On the CPU queueing
//! waits until little is left of what was queued before, so nothing is lost when they are read first; and then it is known who goes
//! on, and what a grammar forces behind a token goes into the same pass. What may come behind a token is known when the token is:
//! with a grammar the draw waits for that, and the pass does not.

use std::time::Instant;

use super::draft::{Drafting, Timed};
use super::heads::Out;
use super::lookup::{self, Sequence};
use super::running::{Behind, Guessed, Guessing, Phase, Running};
use super::{Turn, Worker};
use crate::error::{Error, Result};
use crate::mlx::{self, memory, ops, Array, Device};
use crate::model::{AdapterSet, Cache, Logits, Segment};
use crate::runtime::caches::OutRows;
use crate::runtime::options::Drafts;
use crate::sampling::Draw;

/// Passes after which freed buffers go back to the system.
const CLEAR_CACHE_EVERY: u64 = 256;
/// Tokens of one request that go into a pass; more are a chunk of their own.
const ROWS_OF_ONE: usize = 15;

/// A request in a pass.
pub(super) struct Member {
    pub index: usize,
    /// Queued, and not read yet.
    pub current: Draw,
    /// And behind it.
    pub guessed: Guessed,
    /// See `Phase::Decode`.
    pub out: Option<Out>,
    /// In which step it was.
    pub step: u64,
    /// What becomes of it behind that token, where there is no room for another one.
    pub refusal: Option<Turn>,
    /// Behind it all keys are turned otherwise: they are computed again.
    pub again: bool,
    /// The pass waits for it.
    reads_first: bool,
    /// Tokens that go in.
    pub rows: usize,
    /// And guesses behind them.
    pub guesses: Vec<i32>,
}

impl Member {
    fn all_rows(&self) -> usize {
        self.rows.saturating_add(self.guesses.len())
    }
}

impl Worker {
    /// What becomes of each of them goes into `turns`. Where this fails, those that are not there have lost what was queued.
    pub(super) fn pass(&mut self, indices: &[usize], turns: &mut Vec<(usize, Turn)>) -> Result<()> {
        let mut members = Vec::with_capacity(indices.len());
        for &index in indices {
            // Somebody before it may have needed its memory.
            if self.running[index].decodes() {
                members.push(self.member(index)?);
            }
        }
        let timed = self.timed.take();
        let timed = timed.filter(|timed| timed.step == self.steps);
        let all_read = members.iter().all(|member| member.reads_first);
        let mut going = Vec::with_capacity(members.len());
        for mut member in members {
            let turn = match member.reads_first {
                // Its token is drawn once more.
                _ if member.refusal.is_none() && self.gave_way(&member) => Some(Turn::More),
                true => self.read_first(&mut member)?,
                false => None,
            };
            match turn {
                Some(turn) => turns.push((member.index, turn)),
                None => going.push(member),
            }
        }
        if let Some(timed) = timed.filter(|_| all_read) {
            self.time_of_pass(timed);
        }
        going.retain(|member| {
            let gave_way = self.gave_way(member);
            if gave_way {
                turns.push((member.index, Turn::More));
            }
            !gave_way
        });
        let mut left = self.rows_of_pass().saturating_sub(going.len());
        for at in (0..going.len()).rev() {
            let more = going[at].rows - 1;
            if more <= left {
                left -= more;
                continue;
            }
            // So many forced tokens do not fit beside the others.
            let index = going.remove(at).index;
            let turn = self.has_left(index)?;
            turns.push((index, turn));
        }
        if going.is_empty() {
            return Ok(());
        }
        self.guess(&mut going, left)?;
        for member in going.iter().filter(|member| !member.guesses.is_empty()) {
            let running = &mut self.running[member.index];
            running.before_guesses = self.caches.of(&running.key)?.tokens.len();
        }
        let (logits, mut outs) = self.queue_pass(&going)?;
        let mut drawn = self.draw_ahead(&going, &logits)?;
        let mut row = 0;
        for ((member, (next, guessed)), out) in going.iter_mut().zip(&mut drawn).zip(&mut outs) {
            let (index, ahead) = (member.index, !member.reads_first);
            let own = row;
            row += 1 + member.guesses.len();
            let turn = match ahead {
                true => self.read(member, true)?,
                false => None,
            };
            let turn = match (turn, next.take()) {
                (Some(turn), _) => turn,
                (None, Some(next)) => {
                    self.goes_on(index, next, std::mem::take(guessed), out.take())
                }
                (None, None) if self.left(index)? > 0 => self.has_left(index)?,
                (None, None) => {
                    let logits = logits.row(own)?;
                    self.draw_allowed(index, logits, std::mem::take(guessed), out.take())?
                }
            };
            turns.push((index, turn));
        }
        if self.turns.count.is_multiple_of(CLEAR_CACHE_EVERY) {
            memory::clear_cache();
        }
        Ok(())
    }

    /// Rows of a pass at most.
    pub(super) fn rows_of_pass(&self) -> usize {
        match self.device {
            // Fewer than matrix units (AMX) are given, which round otherwise.
            Device::Cpu => 15,
            // As many as MLX takes at the price of one: what is queued for each session's attention costs more than larger products
            // save (benches/README.md).
            Device::Gpu => 8,
        }
    }

    /// Whether one that goes before it took its memory, in this pass.
    fn gave_way(&self, member: &Member) -> bool {
        self.running[member.index].gave_way.is_some()
    }

    fn member(&mut self, index: usize) -> Result<Member> {
        let running = &self.running[index];
        let end = running.end_at(running.generated.len() + 1);
        // The token that is there goes out either way.
        let (current, guessed, out, step) = self.running[index].take_draw()?;
        let refusal = match end {
            None => self.room_for(index, 1)?,
            Some(_) => None,
        };
        let head = self.head_of(index)?.is_some();
        let running = &mut self.running[index];
        let cache = self.caches.of(&running.key)?;
        let decoder = self.loaded.model(running.job.cache.model)?;
        let longer = cache.layers.iter().map(|layer| layer.length(1)).max();
        let again = !cache.long && decoder.is_long(longer.unwrap_or(0));
        let goes_on = end.is_none() && refusal.is_none() && !again;
        // What is guessed goes in behind what is known.
        let guesses = match running.job.drafts {
            Drafts::Off => false,
            // While a head rests, nothing waits for it.
            Drafts::Usual => running.job.draft.is_some() && !(head && running.rests()),
            Drafts::Most(_) => true,
        };
        // A first token goes out before anything else is queued; and a sampler that is made anew has to know it.
        let first = running.generated.is_empty() || running.sampler.is_none();
        Ok(Member {
            index,
            current,
            guessed,
            out,
            step,
            refusal,
            again,
            reads_first: self.reads_first || guesses || first || !goes_on,
            rows: 1,
            guesses: Vec::new(),
        })
    }

    /// Reads a token before the pass; what becomes of the request where it does not go into that.
    fn read_first(&mut self, member: &mut Member) -> Result<Option<Turn>> {
        if let Some(turn) = self.read(member, false)? {
            return Ok(Some(turn));
        }
        let index = member.index;
        member.rows = self.left(index)?;
        if member.rows > ROWS_OF_ONE {
            return self.has_left(index).map(Some);
        }
        if member.rows > 1 {
            return self.room_for(index, member.rows);
        }
        Ok(None)
    }

    /// Makes room for `n` more tokens; else what becomes of the request.
    fn room_for(&mut self, index: usize, n: usize) -> Result<Option<Turn>> {
        while let Some(why) = self.make_room_for_rows(index, n, 0, true)? {
            let turn = self.without_room(index, why)?;
            if turn.is_some() {
                return Ok(turn);
            }
        }
        Ok(None)
    }

    /// Tokens of a request that are not in its cache.
    fn left(&self, index: usize) -> Result<usize> {
        let running = &self.running[index];
        let held = self.caches.of(&running.key)?.tokens.len();
        Ok(running.length().saturating_sub(held))
    }

    /// They are computed in a turn of their own.
    pub(super) fn has_left(&mut self, index: usize) -> Result<Turn> {
        let total = self.left(index)?;
        self.running[index].phase = Phase::Prefill { total };
        Ok(Turn::More)
    }

    /// Queues the forward pass; and of each member what came out, if somebody guesses from that.
    fn queue_pass(&mut self, members: &[Member]) -> Result<(Logits, Vec<Option<Out>>)> {
        let heads = members.iter().map(|member| self.head_of(member.index));
        let heads: Vec<Option<u64>> = heads.collect::<Result<_>>()?;
        self.steps += 1;
        let step = self.steps;
        let running = |member: &Member| &self.running[member.index];
        let Some(first) = members.first() else {
            return Err(Error::internal("a pass of nobody"));
        };
        let model = running(first).job.cache.model;
        self.timed = running(first).job.draft.map(|_| Timed {
            step,
            model,
            rows: members.iter().map(Member::all_rows).sum(),
            began: Instant::now(),
        });
        let decoder = self.loaded.model(model)?;
        let keys: Vec<_> = members.iter().map(|member| &running(member).key).collect();
        let mut caches = self.caches.of_many(&keys)?;
        let mut tokens = Vec::with_capacity(members.len());
        let (mut known, mut firsts) = (Vec::new(), Vec::with_capacity(members.len()));
        // Those that are drawn are u32, those that are known i32.
        let ahead = members.iter().all(|member| !member.reads_first);
        for (member, cache) in members.iter().zip(&mut caches) {
            cache.last_step = step;
            firsts.push(cache.tokens.len());
            if !member.guesses.is_empty() {
                cache.hold(member.all_rows(), member.rows)?;
            }
            if !member.reads_first {
                tokens.extend(flushed(&mut known)?);
                let token = &member.current.token;
                tokens.push(match ahead {
                    true => token.clone(),
                    false => ops::astype(token, crate::dtype::Dtype::I32)?,
                });
                continue;
            }
            let all = &running(member).generated;
            let new = all.get(all.len().saturating_sub(member.rows)..);
            for new in [new.unwrap_or_default(), &member.guesses] {
                known.extend_from_slice(new);
                cache.tokens.extend_from_slice(new);
            }
        }
        tokens.extend(flushed(&mut known)?);
        let tokens = match tokens.as_slice() {
            [one] => one.clone(),
            all => ops::concatenate(&all.iter().collect::<Vec<_>>(), 0)?,
        };
        let mut segments = Vec::with_capacity(members.len());
        for (at, (member, cache)) in members.iter().zip(caches).enumerate() {
            segments.push(Segment {
                rows: i32::try_from(member.all_rows()).unwrap_or(i32::MAX),
                wanted: i32::try_from(1 + member.guesses.len()).unwrap_or(i32::MAX),
                caches: &mut cache.layers,
                adapters: same_adapters(members.iter().take(at).map(running), running(member)),
            });
        }
        let next = decoder.next_rows(&tokens, &mut segments)?;
        let request = &running(first).job.request;
        request.passed(members.len() as u64);
        let (mut outs, mut row) = (Vec::with_capacity(members.len()), 0);
        for ((member, first), head) in members.iter().zip(firsts).zip(heads) {
            let end = row + i32::try_from(member.all_rows()).unwrap_or(0);
            outs.push(head.and(next.hidden.as_ref()).map(|hidden| Out {
                first,
                rows: OutRows::new(hidden.clone(), row..end),
            }));
            row = end;
        }
        Ok((next.logits, outs))
    }

    /// Queues the draws that need not wait for a token, and all that the pass leaves behind: of each member the draw, if there is
    /// one, and those behind its guesses, as if all of them were right.
    fn draw_ahead(
        &mut self,
        members: &[Member],
        logits: &Logits,
    ) -> Result<Vec<(Option<Draw>, Guessed)>> {
        let mut drawn = Vec::with_capacity(members.len());
        let mut row = 0;
        for member in members {
            let running = &mut self.running[member.index];
            let waits = match member.reads_first {
                true => running.needs_mask(),
                false => running.reads_each(),
            };
            let first = match waits {
                true => None,
                false => {
                    let (own, best) = (logits.row(row)?, logits.best(row));
                    Some(running.sampler()?.draw_known(&own, best)?)
                }
            };
            let mut guessed = Vec::with_capacity(member.guesses.len());
            for (behind, &guess) in (row + 1..).zip(&member.guesses) {
                let (own, best) = (logits.row(behind)?, logits.best(behind));
                let next = match waits || running.reads_each() {
                    true => Behind::Logits(own),
                    false => Behind::Drawn(running.drawing()?.draw_known(&own, best)?),
                };
                guessed.push((guess, next));
            }
            row += 1 + guessed.len();
            drawn.push((first, guessed));
        }
        let mut wanted = Vec::new();
        let mut as_logits = false;
        for (first, guessed) in &drawn {
            as_logits |= first.is_none();
            wanted.extend(first.iter().flat_map(Draw::arrays));
            for (_, behind) in guessed {
                match behind {
                    Behind::Drawn(draw) => wanted.extend(draw.arrays()),
                    Behind::Logits(_) => as_logits = true,
                }
            }
        }
        if as_logits {
            wanted.push(&logits.all);
        }
        for member in members {
            let layers = &self.caches.of(&self.running[member.index].key)?.layers;
            wanted.extend(states(layers));
        }
        mlx::async_eval(&wanted)?;
        Ok(drawn)
    }

    /// Queues the draw from the logits `[vocab]` of the step that was queued last.
    pub(super) fn draw_next(
        &mut self,
        index: usize,
        logits: Array,
        out: Option<Out>,
    ) -> Result<Turn> {
        let running = &mut self.running[index];
        let layers = &self.caches.of(&running.key)?.layers;
        if running.needs_mask() {
            // The mask is made while the device computes what it is for.
            queue(vec![&logits], layers)?;
            return self.draw_allowed(index, logits, Vec::new(), out);
        }
        let draw = running.sampler()?.draw(&logits, None)?;
        drop(logits);
        queue(draw.arrays(), layers)?;
        Ok(self.goes_on(index, draw, Vec::new(), out))
    }

    /// The same, of what the grammar allows, from logits that are queued; and what is known behind it.
    fn draw_allowed(
        &mut self,
        index: usize,
        logits: Array,
        guessed: Guessed,
        out: Option<Out>,
    ) -> Result<Turn> {
        let running = &mut self.running[index];
        match running.allowed_draw(&logits)? {
            Ok(draw) => {
                drop(logits);
                mlx::async_eval(&draw.arrays())?;
                Ok(self.goes_on(index, draw, guessed, out))
            }
            Err(turn) => {
                self.caches.of_mut(&running.key)?.take_back(guessed.len());
                Ok(turn)
            }
        }
    }

    fn goes_on(&mut self, index: usize, next: Draw, guessed: Guessed, out: Option<Out>) -> Turn {
        self.running[index].phase = Phase::Decode {
            next,
            guessed,
            out,
            step: self.steps,
        };
        Turn::More
    }

    /// Adds guesses to those who may have some, at most so many: rows that cost little beside those that are there.
    fn guess(&mut self, members: &mut [Member], mut left: usize) -> Result<()> {
        left = left.min(ROWS_OF_ONE.saturating_sub(members.len()));
        let mut drafting = Vec::new();
        for (at, member) in members.iter_mut().enumerate() {
            let running = &mut self.running[member.index];
            let most = match running.job.drafts {
                Drafts::Off => 0,
                Drafts::Usual if !self.reads_first && running.job.draft.is_none() => 0,
                Drafts::Usual => lookup::MOST,
                Drafts::Most(most) => most,
            };
            let plain = member.reads_first;
            let count = running.generated.len();
            let most = most.min(left).min(ROWS_OF_ONE.saturating_sub(member.rows));
            // The last token that may come needs no guess behind it.
            let most = most.min(running.most_left(count).saturating_sub(1));
            let may = plain && running.forced.is_empty();
            if !may || most == 0 || running.suspect || running.guesses_spoil {
                continue;
            }
            let cache = self.caches.of(&running.key)?;
            let decoder = self.loaded.model(running.job.cache.model)?;
            let rows = i32::try_from(member.rows + most).unwrap_or(i32::MAX);
            let longer = cache.layers.iter().map(|layer| layer.length(rows)).max();
            let turns = !cache.long && decoder.is_long(longer.unwrap_or(0));
            let rows = decoder.most_taken_back(rows, &cache.layers);
            let rows = usize::try_from(rows).unwrap_or(0);
            let most = most.min(rows.saturating_sub(member.rows));
            if turns || most == 0 {
                continue;
            }
            let tokens = Sequence(&running.prompt, &running.generated);
            // A draft knows more than a single token that is the same.
            let least = match running.job.draft {
                Some(_) => lookup::ALIKE,
                None => 1,
            };
            let guesses = running.lookup.guess(&tokens, most, least);
            if guesses.is_empty() {
                if running.job.draft.is_some() {
                    let asked_for = matches!(running.job.drafts, Drafts::Most(_));
                    drafting.push(Drafting {
                        at,
                        most,
                        asked_for,
                    });
                }
                continue;
            }
            running.guessing = Guessing::Lookup;
            if self.has_room_to_guess(member.index, member.rows + guesses.len())? {
                left -= guesses.len();
                member.guesses = guesses;
            }
        }
        self.draft(members, drafting, left)
    }

    /// Whether so many rows fit that may be taken back. No mark goes for them, and nobody's keys and values.
    pub(super) fn has_room_to_guess(&mut self, index: usize, rows: usize) -> Result<bool> {
        let running = &self.running[index];
        let spec = running.job.cache;
        let cache = self.caches.of(&running.key)?;
        let decoder = self.loaded.model(spec.model)?;
        let n = i32::try_from(rows).unwrap_or(i32::MAX);
        let held = decoder.held_by(n, &cache.layers);
        if let Some(limit) = spec.limit {
            let others = self.caches.other_bytes(&running.key);
            let kv = decoder.cost(n, true, &cache.layers).kv;
            if kv.saturating_add(held).saturating_add(others) > limit {
                return Ok(false);
            }
        }
        let room = self.make_room_for_rows(index, rows, held, false)?;
        Ok(room.is_none())
    }
}

/// The tokens that were gathered, as an array i32 `[n]`, if there are any.
fn flushed(known: &mut Vec<i32>) -> Result<Option<Array>> {
    let tokens = std::mem::take(known);
    (!tokens.is_empty())
        .then(|| Array::from_i32(&tokens))
        .transpose()
}

/// The adapters of a request; where one before it has the same, by that one's reference.
fn same_adapters<'a>(
    mut before: impl Iterator<Item = &'a Running>,
    running: &'a Running,
) -> &'a AdapterSet {
    let same = before.find(|other| other.key.adapters == running.key.adapters);
    &same.unwrap_or(running).adapters
}

/// What a step leaves in states, which its logits need not have been made of.
pub(super) fn states(layers: &[Cache]) -> impl Iterator<Item = &Array> {
    let states = layers.iter().filter(|layer| layer.is_state());
    states.flat_map(Cache::arrays)
}

pub(super) fn queue<'a>(mut wanted: Vec<&'a Array>, layers: &'a [Cache]) -> Result<()> {
    wanted.extend(states(layers));
    mlx::async_eval(&wanted)
}
