//! A request that runs or waits, as the engine thread sees it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use super::draft::Pace;
use super::heads::Out;
use super::lookup::Lookup;
use super::Turn;
use crate::error::{Error, Result};
use crate::grammar::calls::Start;
use crate::grammar::Matcher;
use crate::mlx::{memory, Array};
use crate::model::AdapterSet;
use crate::runtime::caches::CacheKey;
use crate::runtime::exit;
use crate::runtime::job::{End, EndReason, Job, Kv, TokenOutput};
use crate::runtime::ledger::Ledger;
use crate::sampling::{Draw, Sampler};

pub(super) struct Running {
    pub job: Job,
    pub phase: Phase,
    /// Which cache it uses; known with its adapters, when it begins.
    pub key: CacheKey,
    pub adapters: AdapterSet,
    /// It shares passes with requests that have other adapters.
    pub mixes: bool,
    /// What the request goes on from.
    pub prompt: Vec<i32>,
    pub deadline: Option<Instant>,
    pub sampler: Option<Sampler>,
    /// Where the answer stands in the grammar that it follows just now: the job's, or that of a call.
    pub matcher: Option<Matcher>,
    /// What it follows was there from the beginning of the answer on.
    from_start: bool,
    pub generated: Vec<i32>,
    /// Which of them was the last that was not forced behind another.
    pub last_drawn: usize,
    /// What has to come next, whatever is drawn.
    pub forced: VecDeque<i32>,
    pub lookup: Lookup,
    pub pace: Pace,
    /// What guessed last.
    pub guessing: Guessing,
    /// Tokens in its cache before the last pass with guesses.
    pub before_guesses: usize,
    /// Behind guesses its numbers were not finite: it gets none any more.
    pub guesses_spoil: bool,
    /// Tokens that were guessed, and those that were right.
    pub drafted: u64,
    pub accepted: u64,
    /// Of a score the target's log-probabilities, as far as they are read.
    pub logprobs: Vec<f32>,
    /// Where states are remembered, in tokens from the front on; empty where there are none.
    pub marks: Vec<usize>,
    pub cached_tokens: u64,
    pub started: Option<Instant>,
    /// Its last turn, and when that was.
    pub turned: u64,
    pub last_turn: Instant,
    /// Memory was short when so many requests had ended: it waits until it may be otherwise.
    pub gave_way: Option<u64>,
    pub first_token: Option<Instant>,
    /// Something failed while it had work in flight. Each of its turns is computed to its end with nothing else in flight,
    /// so that what fails there is its own, until a token has come out of one.
    pub suspect: bool,
    /// How often something failed while it had work in flight.
    pub failures: u32,
}

/// One that was struck so often stays a suspect: perhaps it cannot be computed a step ahead.
const TRUSTED_FAILURES: u32 = 1;

pub(super) enum Phase {
    /// The request does not know its tokens yet.
    Begin,
    /// The cache is to be compared with the tokens.
    Match,
    Prefill {
        total: usize,
    },
    /// A token is queued and not read, and perhaps more behind it.
    Decode {
        next: Draw,
        guessed: Guessed,
        /// What came out of the model that it was drawn from, if somebody guesses from that.
        out: Option<Out>,
        step: u64,
    },
}

/// Tokens that went into a pass before anybody knew whether they would be drawn, and of each what comes behind it: it is worth
/// something where the one before has drawn that token.
pub(super) type Guessed = Vec<(i32, Behind)>;

/// The next token, as far as it can be known before the one before it is.
pub(super) enum Behind {
    Drawn(Draw),
    /// What is allowed there depends on what came before: logits `[vocab]`.
    Logits(Array),
}

/// What knows best how often its guesses are right.
#[derive(Clone, Copy, Default)]
pub(super) enum Guessing {
    #[default]
    Lookup,
    /// A draft model, or the model's own head.
    Draft,
}

impl Running {
    pub fn new(job: Job) -> Self {
        Running {
            deadline: job.deadline,
            key: CacheKey {
                session: job.cache.session,
                draft: false,
                adapters: Vec::new(),
            },
            adapters: AdapterSet::default(),
            mixes: false,
            job,
            phase: Phase::Begin,
            prompt: Vec::new(),
            sampler: None,
            matcher: None,
            from_start: false,
            generated: Vec::new(),
            last_drawn: 0,
            forced: VecDeque::new(),
            lookup: Lookup::default(),
            pace: Pace::default(),
            guessing: Guessing::default(),
            before_guesses: 0,
            guesses_spoil: false,
            drafted: 0,
            accepted: 0,
            logprobs: Vec::new(),
            marks: Vec::new(),
            cached_tokens: 0,
            started: None,
            turned: 0,
            last_turn: Instant::now(),
            gave_way: None,
            first_token: None,
            suspect: false,
            failures: 0,
        }
    }

    /// Of the cache of the draft model, which knows no adapters.
    pub fn draft_key(&self) -> CacheKey {
        CacheKey {
            session: self.key.session,
            draft: true,
            adapters: Vec::new(),
        }
    }

    /// Of the cache of the model's head that predicts further tokens: what goes in came out with the adapters.
    pub fn head_key(&self) -> CacheKey {
        CacheKey {
            draft: true,
            ..self.key.clone()
        }
    }

    /// Guesses do not pay just now.
    pub fn rests(&self) -> bool {
        self.pace.rests_at(self.length())
    }

    pub fn session(&self) -> u64 {
        self.job.cache.session
    }

    /// Told when its cache goes: the session's, but for a score.
    pub fn ledger(&self) -> &Arc<Ledger> {
        match &self.job.score {
            None => &self.job.request.ticket.ledger,
            Some(score) => &score.ledger,
        }
    }

    /// Tokens that go into the cache before the next one is drawn: of a score all but the last, which only has to be known.
    pub fn length(&self) -> usize {
        let length = self.prompt.len().saturating_add(self.generated.len());
        length.saturating_sub(usize::from(self.job.score.is_some()))
    }

    /// Those of them that need no logits, which are computed in any case for the others: the last one, or a target's.
    pub fn without_logits(&self) -> usize {
        let with = match &self.job.score {
            None => 1,
            Some(score) => score.target.saturating_sub(self.logprobs.len()),
        };
        self.length().saturating_sub(with)
    }

    pub fn is_cancelled(&self) -> bool {
        self.job.request.ticket.is_cancelled()
    }

    pub fn is_late(&self) -> bool {
        self.deadline
            .is_some_and(|deadline| Instant::now() >= deadline)
    }

    /// Not while its reader is far behind, unless it is to end.
    pub fn can_go_on(&self) -> bool {
        self.is_cancelled() || self.is_late() || !self.job.request.ticket.must_wait()
    }

    /// Whether the next token is one that the grammar allows: an answer's are, and not what the model thinks before it, nor the end
    /// of that where it is forced.
    pub fn follows(&self) -> bool {
        let thinking_too = self.start().is_some_and(|start| start.thinks) && self.from_start;
        self.forced.is_empty() && (thinking_too || !self.job.request.thinks())
    }

    /// Whether the next draw is from what the grammar allows.
    pub fn needs_mask(&self) -> bool {
        self.matcher.is_some() && self.follows()
    }

    /// Whether each token is read before the next one is drawn.
    pub fn reads_each(&self) -> bool {
        self.matcher.is_some() || self.job.calls.is_some()
    }

    /// What the answer to tools that it must or may call follows from its beginning on.
    fn start(&self) -> Option<&Start> {
        self.job.calls.as_ref()?.start.as_ref()
    }

    /// The grammar at the beginning of the answer.
    pub fn begin_grammar(&mut self) -> Result<()> {
        let start = self.start().map(|start| &start.grammar);
        if let Some(grammar) = self.job.grammar.as_deref().or(start) {
            self.matcher = Some(grammar.matcher(!self.job.ignore_eos)?);
            self.from_start = true;
        }
        Ok(())
    }

    /// Behind a token: a call may have been opened, which has a grammar of its own, or may have come to its end. Gives why the
    /// request ends here, if it does.
    pub fn look_at_grammar(&mut self) -> Result<Option<EndReason>> {
        let over = self.matcher.as_ref().is_some_and(Matcher::is_over);
        let Some(calls) = &self.job.calls else {
            return Ok(over.then_some(EndReason::Grammar));
        };
        let calls = calls.clone();
        if over {
            (self.matcher, self.from_start) = (None, false);
            return Ok(calls.end_answer.then_some(EndReason::Called));
        }
        let request = &self.job.request;
        let required = calls.start.as_ref().is_some_and(|start| start.required);
        if self.matcher.is_some() && self.from_start && required {
            return Ok(None);
        }
        // (A copy, since the request is not locked while a grammar is at work.)
        let open = request.open_call(|tool, body| match self.matcher {
            Some(_) => None,
            None => Some((tool.map(str::to_owned), body.to_owned())),
        });
        match open {
            None => (self.matcher, self.from_start) = (None, false),
            Some(None) => {}
            Some(Some((tool, body))) => {
                let grammar = calls.behind(tool.as_deref());
                let matcher = grammar.map(|grammar| grammar.matcher(!self.job.ignore_eos));
                let mut matcher = matcher.transpose()?;
                let begun = matcher.as_mut().map(|matcher| matcher.take_text(&body));
                match begun {
                    Some(Ok(())) => self.matcher = matcher,
                    // Of a tool that there is none of, or begun as no call begins: it will never be one.
                    _ => request.refuse_call(),
                }
            }
        }
        Ok(None)
    }

    /// Tokens that may still come when it has so many.
    pub fn most_left(&self, count: usize) -> usize {
        let most = self.job.max_tokens.map_or(usize::MAX, |most| {
            usize::try_from(most).unwrap_or(usize::MAX)
        });
        let room = self.job.context.saturating_sub(self.prompt.len());
        most.min(room).saturating_sub(count)
    }

    /// Why it ends when it has so many tokens.
    pub fn end_at(&self, count: usize) -> Option<EndReason> {
        let most = self.job.max_tokens;
        if most.is_some_and(|most| count as u64 >= most) {
            return Some(EndReason::MaxTokens);
        }
        let full = self.prompt.len() + count >= self.job.context;
        full.then_some(EndReason::Context)
    }

    /// The draw that is queued, as what is forced has it, and its step. The request is left in a phase from which `recover` starts it
    /// anew when something fails behind this.
    pub fn take_draw(&mut self) -> Result<(Draw, Guessed, Option<Out>, u64)> {
        let phase = std::mem::replace(&mut self.phase, Phase::Match);
        let Phase::Decode {
            mut next,
            guessed,
            out,
            step,
        } = phase
        else {
            return Err(Error::internal("a request was decoded before its prompt"));
        };
        if let Some(&id) = self.forced.front() {
            next.force(id)?;
            // It has not heard of the token.
            self.sampler = None;
        }
        Ok((next, guessed, out, step))
    }

    /// The sampler, which knows all tokens that came.
    pub fn sampler(&mut self) -> Result<&mut Sampler> {
        let drawn = self.generated.len() as u64;
        let sampler = match self.sampler.take() {
            Some(mut sampler) => {
                // One that drew what is not read yet knows more.
                let known = sampler.drawn().min(drawn) as usize;
                sampler.skip(&self.generated[known..])?;
                sampler
            }
            None => {
                let all = [self.prompt.as_slice(), &self.generated].concat();
                Sampler::new(self.job.sampling.clone(), &all, drawn)?
            }
        };
        Ok(self.sampler.insert(sampler))
    }

    /// A draw of what the grammar allows, where one is followed, from logits `[vocab]`; or how the request ends for it.
    pub fn allowed_draw(&mut self, logits: &Array) -> Result<std::result::Result<Draw, Turn>> {
        let needs_mask = self.needs_mask();
        let mask = match self.matcher.as_mut().filter(|_| needs_mask) {
            Some(matcher) => match matcher.mask() {
                Ok(Some(mask)) => Some(Array::from_bools(&mask)?),
                Ok(None) => return Ok(Err(Turn::Ended(EndReason::Grammar))),
                Err(error) => return Ok(Err(Turn::Refused(error))),
            },
            None => None,
        };
        self.sampler()?.draw(logits, mask.as_ref()).map(Ok)
    }

    /// The sampler for another draw before those that it made are read.
    pub fn drawing(&mut self) -> Result<&mut Sampler> {
        let missing = || Error::internal("a draw behind none");
        self.sampler.as_mut().ok_or_else(missing)
    }

    /// A token was read; false: no more are wanted.
    pub fn take(&mut self, token: TokenOutput) -> bool {
        self.generated.push(token.id);
        self.forced.pop_front();
        exit::watch_again();
        self.first_token.get_or_insert_with(Instant::now);
        self.job.request.token(token, &mut self.forced)
    }

    /// Tells how much of the `total` is computed, when `left` of it is not and `n` tokens just were.
    pub fn progress(&self, left: usize, n: usize, total: usize) {
        let every = u64::from(self.job.progress_tokens);
        if every == 0 {
            return;
        }
        let done = total.saturating_sub(left) as u64;
        let before = done.saturating_sub(n as u64);
        let each = self.job.score.is_some();
        if each || left == 0 || done / every > before / every {
            self.job.request.progress(done, total as u64);
        }
    }

    /// Work of it may have failed: it goes on from its tokens, as a suspect.
    pub fn strike(&mut self) {
        if !matches!(self.phase, Phase::Begin) {
            self.phase = Phase::Match;
        }
        self.suspect = true;
        self.failures = self.failures.saturating_add(1);
    }

    /// A token came out of a turn of its own.
    pub fn clear(&mut self) {
        self.suspect = self.failures > TRUSTED_FAILURES;
    }

    pub fn end(self, reason: Result<EndReason>, kv: Option<Kv>) {
        let now = Instant::now();
        let started = self.started.unwrap_or(now);
        let first = self.first_token.unwrap_or(now);
        self.job.request.end(End {
            reason,
            cached_tokens: self.cached_tokens,
            drafted: self.drafted,
            accepted: self.accepted,
            queue: started.saturating_duration_since(self.job.submitted),
            prefill: first - started,
            decode: now - first,
            kv,
            peak_bytes: memory::peak(),
            active_bytes: memory::active(),
        });
    }
}

/// Whether a cache is one of those that `running` requests use.
pub(super) fn in_use(running: &[Running]) -> impl Fn(&CacheKey) -> bool + '_ {
    |key| running.iter().any(|running| running.key == *key)
}
