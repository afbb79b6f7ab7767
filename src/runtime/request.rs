//! One request: the state that the engine thread and the readers share.
//!
//! The engine hands in token ids; they become text, events and, at the end, the session's new ledger. Readers take the
//! events, on any thread. The engine is only ever stopped by a flag that it reads between steps (`Ticket`), and waits
//! for nobody: a request whose reader is far behind is parked.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::answer::{Answer, Extent};
use super::job::{End, EndReason, Ticket, TokenOutput};
use super::metrics::{self, Counters};
use super::prompt::Prompt;
use super::report::{Report, Stop};
use super::score::of_argument;
use super::session::{Applied, Session};
use crate::error::{Code, Error, Result};
use crate::guard;
use crate::mail::Mailbox;
use crate::text::{
    Chunk, Finish, Kind, Splitter, StopStrings, StreamOptions, TextStream, Token, Tokenizer,
};

#[derive(Clone, Debug)]
pub enum Event {
    Progress { done: u64, total: u64 },
    Text(Chunk),
}

/// Tokens of a prompt in which the opening of the model's thinking is looked for.
const MOST_OPENING: usize = 1 << 16;

/// Called on the engine thread or on that of whoever ends a request.
pub type Notify = Box<dyn Fn() + Send + Sync>;

/// Who gets the events, and when the ledger takes the answer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// A blocking call hands them to a callback: what the callback did not get is not in the ledger.
    /// The call commits at its end.
    Push,
    /// They can be asked for: what was made counts as delivered. Commits when the engine is done.
    Pull,
}

/// What a request needs to turn tokens into its answer.
pub struct Plan {
    pub prompt: Prompt,
    /// The start of the answer, when the input has it.
    pub continued: String,
    pub stream: TextStream,
    /// As it was before the first token.
    pub splitter: Option<Splitter>,
    pub tokenizer: Arc<Tokenizer>,
    pub eos: Vec<i32>,
    pub stop_tokens: Vec<i32>,
    pub tokens_only: bool,
    pub prefill_only: bool,
    pub raw_text: bool,
    /// Tokens that the sequence may have.
    pub context: usize,
    pub seed: u64,
    /// Tokens that follow the prompt: their log-probabilities are wanted, and the session stays as it is.
    pub target: Option<Vec<i32>>,
}

pub struct Shared {
    pub ticket: Ticket,
    delivery: Delivery,
    called: Instant,
    /// The model's.
    counters: Arc<Counters>,
    state: Mutex<State>,
    changed: Condvar,
    notify: Mutex<Option<Notify>>,
}

struct State {
    plan: Plan,
    /// The session's tokens before the request and the input's.
    sequence: Vec<i32>,
    events: VecDeque<Event>,
    /// All events so far, and how much of them was handed out.
    answer: Answer,
    tokens: Vec<i32>,
    made: Extent,
    delivered: Extent,
    /// Of the target.
    logprobs: Vec<f32>,
    stopped: Option<Stop>,
    report: Report,
    /// The engine began it, or will not any more.
    begun: bool,
    /// The engine is done with it.
    engine_end: Option<End>,
    /// The session has its answer; what the request gives for ever.
    outcome: Option<Result<()>>,
}

impl Shared {
    pub fn new(
        ticket: Ticket,
        delivery: Delivery,
        called: Instant,
        counters: Arc<Counters>,
        plan: Plan,
        notify: Option<Notify>,
    ) -> Self {
        for counters in [&metrics::PROCESS, &*counters] {
            counters.request_started();
            counters.request_waits();
        }
        let report = Report::new(plan.seed);
        Shared {
            ticket,
            delivery,
            called,
            counters,
            state: Mutex::new(State {
                plan,
                sequence: Vec::new(),
                events: VecDeque::new(),
                answer: Answer::default(),
                tokens: Vec::new(),
                made: Extent::default(),
                delivered: Extent::default(),
                logprobs: Vec::new(),
                stopped: None,
                report,
                begun: false,
                engine_end: None,
                outcome: None,
            }),
            changed: Condvar::new(),
            notify: Mutex::new(notify),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // ---- the engine's side ----

    /// Whether the session is free for it. Asked again until it is.
    pub fn may_begin(&self) -> bool {
        self.ticket.ledger.begin(self.ticket.id())
    }

    /// A pass was queued, of so many rows, this request's among them. Told by one of those that shared it.
    pub(super) fn passed(&self, rows: u64) {
        for counters in [&metrics::PROCESS, &*self.counters] {
            counters.pass(rows);
        }
    }

    /// After a failure of MLX it may begin once more.
    fn waits_no_longer(&self, state: &mut State) {
        if !std::mem::replace(&mut state.begun, true) {
            self.counters.request_begins();
            metrics::PROCESS.request_begins();
        }
    }

    /// The whole sequence to go on from: the session's tokens are those that the request before left. `forced` gets the
    /// tokens that the answer has to begin with.
    pub fn begin(&self, forced: &mut VecDeque<i32>) -> Result<Vec<i32>> {
        let mut state = self.state();
        self.waits_no_longer(&mut state);
        let before = &self.ticket.ledger.state().tokens;
        let mut sequence = state.plan.prompt.after(before);
        if state.plan.target.is_some() {
            sequence = sequence.map_err(|error| of_argument(error, "prefix"));
        }
        let mut sequence = sequence?;
        state.report.prompt_tokens = sequence.len() as u64;
        if let Some(target) = &state.plan.target {
            if target.len() > state.plan.context.saturating_sub(sequence.len()) {
                let message = format!(
                    "the target has {} tokens, what comes before it {}, and the session's context is {}",
                    target.len(),
                    sequence.len(),
                    state.plan.context
                );
                return Err(Error::new(Code::ContextFull, message));
            }
            sequence.extend_from_slice(target);
            state.report.prompt_tokens = sequence.len() as u64;
            return Ok(sequence);
        }
        if sequence.len() + usize::from(!state.plan.prefill_only) > state.plan.context {
            return Err(Error::new(
                Code::ContextFull,
                format!(
                    "the prompt has {} tokens, and the session's context is {}",
                    sequence.len(),
                    state.plan.context
                ),
            ));
        }
        state.sequence.clone_from(&sequence);
        state.plan.open(&sequence);
        forced.extend(state.plan.stream.forced());
        Ok(sequence)
    }

    pub fn progress(&self, done: u64, total: u64) {
        let mut state = self.state();
        if state.stopped.is_none() {
            state.events.push_back(Event::Progress { done, total });
            self.announce(state, 1);
        }
    }

    /// Takes the next token; false: no more are wanted. `forced` gets tokens that have to come next.
    pub fn token(&self, token: TokenOutput, forced: &mut VecDeque<i32>) -> bool {
        let mut state = self.state();
        if state.stopped.is_some() {
            return false;
        }
        if state.report.first_token_ns == 0 {
            state.report.first_token_ns = nanos(self.called.elapsed());
        }
        let kind = state.plan.kind(token.id);
        let token = Token {
            id: token.id,
            logprob: token.logprob,
            top: token.top,
        };
        state.plan.stream.push(token, kind);
        forced.extend(state.plan.stream.forced());
        let made = state.take_chunks();
        let go_on = state.stopped.is_none();
        self.announce(state, made);
        go_on
    }

    /// Whether the answer is in the model's thinking, as far as it has come.
    pub fn thinks(&self) -> bool {
        self.state().plan.stream.is_thinking()
    }

    /// What `look` makes of the call that the answer has open just now, if it has one: see `TextStream::open_call`.
    pub fn open_call<T>(&self, look: impl FnOnce(Option<&str>, &str) -> T) -> Option<T> {
        let state = self.state();
        let (tool, body) = state.plan.stream.open_call()?;
        Some(look(tool, body))
    }

    /// The call that is open is text.
    pub fn refuse_call(&self) {
        let mut state = self.state();
        state.plan.stream.refuse_call();
        let made = state.take_chunks();
        self.announce(state, made);
    }

    /// Takes the target's log-probabilities.
    pub fn scored(&self, logprobs: Vec<f32>) {
        self.state().logprobs = logprobs;
    }

    /// The engine is done. Only the first end counts.
    pub fn end(&self, mut end: End) {
        let mut state = self.state();
        if state.engine_end.is_some() {
            return;
        }
        self.waits_no_longer(&mut state);
        let mut made = 0;
        if state.stopped.is_none() {
            let finish = if end.is_complete() {
                Finish::End
            } else {
                Finish::Cancelled
            };
            // Nothing else stands between a bug in here and the engine thread's end.
            let finished = guard::catch(|| {
                state.plan.stream.finish(finish);
                Ok(state.take_chunks())
            });
            match finished {
                Ok(chunks) => made = chunks,
                Err(error) => end.reason = Err(error),
            }
            // A callback that is far behind hears nothing more after a cancel or its deadline.
            if self.delivery == Delivery::Push && end.is_cut_short() {
                state.events.clear();
                made = 0;
            }
        }
        // Now and not when the caller comes to it: by then the session may have lost them for another.
        if let Some(kv) = end.kv {
            let ledger = &self.ticket.ledger;
            ledger.set_kv(&mut ledger.state(), kv.tokens, kv.bytes);
        }
        state.engine_end = Some(end);
        // A blocking call that a panic has ended commits nothing any more.
        if self.delivery == Delivery::Pull || !self.ticket.ledger.is_blocking(self.ticket.id()) {
            self.commit(&mut state);
        }
        self.announce(state, made);
    }

    /// The engine ended before it could take the request: its caller is told, and nobody else.
    pub fn refuse(&self) {
        *self.notify.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.end(End::cancelled());
        self.commit(&mut self.state());
    }

    /// Tells readers that there is something new.
    fn announce(&self, state: MutexGuard<'_, State>, events: usize) {
        self.ticket.make(events);
        let ended = state.engine_end.is_some();
        drop(state);
        if events == 0 && !ended {
            return;
        }
        self.changed.notify_all();
        if let Some(notify) = &*self.notify.lock().unwrap_or_else(PoisonError::into_inner) {
            notify();
        }
    }

    // ---- the readers' side ----

    /// Takes the next event, waiting until `deadline` for it (`None` = as long as it takes).
    pub fn next(&self, deadline: Option<Instant>) -> Next {
        let mut state = self.state();
        loop {
            if let Some(event) = state.events.pop_front() {
                if let Event::Text(chunk) = &event {
                    state.delivered.add(chunk);
                }
                return Next::Event(event);
            }
            if state.engine_end.is_some() {
                return Next::Done(state.outcome.clone().unwrap_or(Ok(())));
            }
            match self.wait(state, deadline) {
                Some(woken) => state = woken,
                None => return Next::Pending,
            }
        }
    }

    /// Drops the events that nobody has read, or waits for a change where there are none; gives how many there were, and
    /// whether the request has ended.
    fn drain(&self, deadline: Option<Instant>) -> (usize, bool) {
        let mut state = self.state();
        if state.events.is_empty() && state.engine_end.is_none() {
            match self.wait(state, deadline) {
                Some(woken) => state = woken,
                None => return (0, false),
            }
        }
        // The engine may wait to hear that these are taken: not a moment of waiting before the caller says so.
        let dropped = state.events.drain(..).count();
        (dropped, state.engine_end.is_some())
    }

    /// Waits for a change; none when `deadline` has come.
    fn wait<'a>(
        &self,
        state: MutexGuard<'a, State>,
        deadline: Option<Instant>,
    ) -> Option<MutexGuard<'a, State>> {
        let Some(deadline) = deadline else {
            let woken = self.changed.wait(state);
            return Some(woken.unwrap_or_else(PoisonError::into_inner));
        };
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        let woken = self.changed.wait_timeout(state, left);
        Some(woken.unwrap_or_else(PoisonError::into_inner).0)
    }

    /// The reader wants no more; what it has not taken is not in the ledger.
    fn stop(&self) {
        self.state().stopped = Some(Stop::Callback);
        self.ticket.cancel();
    }

    /// What a score that has ended well gave.
    pub fn take_logprobs(&self) -> Vec<f32> {
        std::mem::take(&mut self.state().logprobs)
    }

    fn report(&self) -> (Report, Result<()>) {
        let state = self.state();
        let outcome = state.outcome.clone().unwrap_or(Ok(()));
        (state.report.clone(), outcome)
    }

    /// Gives the session what was delivered. Once, by whoever ends the request.
    fn commit(&self, state: &mut State) {
        if state.outcome.is_some() {
            return;
        }
        let Some(end) = state.engine_end.take() else {
            return;
        };
        state.fill_report(&end);
        let given = match self.delivery {
            Delivery::Push => state.delivered,
            Delivery::Pull => state.made,
        };
        let tokens = given.tokens;
        state.answer.cut(&given);
        state.tokens.truncate(tokens);
        state.report.generated_tokens = tokens as u64;
        state.report.thinking_tokens = given.thinking_tokens;
        if tokens == 0 {
            state.report.first_token_ns = 0;
        }

        let mut ledger = self.ticket.ledger.state();
        let ended_itself = state.stopped.is_none() && end.is_complete();
        let answered = tokens > 0 || ended_itself || state.stopped == Some(Stop::String);
        // A request that ended before its first token leaves no trace but a warm cache, and a score none at all.
        if answered && state.plan.target.is_none() {
            if state.plan.tokens_only {
                state.answer = state.plan.answer_of(&state.tokens);
            }
            ledger.tokens = std::mem::take(&mut state.sequence);
            ledger.tokens.extend_from_slice(&state.tokens);
            if !state.plan.prefill_only {
                let mut answer = std::mem::take(&mut state.answer);
                let continued = state.plan.continued.as_str();
                let (thought, said) = match &state.plan.splitter {
                    Some(splitter) => splitter.channels().thought_in(continued),
                    None => ("", continued),
                };
                answer.thinking.insert_str(0, thought);
                answer.text.insert_str(0, said);
                ledger.answer = Some(answer);
            }
        }
        drop(ledger);
        let outcome = match (state.stopped, &end.reason) {
            (None, Err(error)) => Err(error.clone()),
            _ => Ok(()),
        };
        state.engine_end = Some(end);
        state.close(self.called.elapsed(), outcome);
        self.counters.request_ended(&state.report);
        metrics::PROCESS.request_ended(&state.report);
        // Before anybody can see that it has ended. What a log function may call takes no lock of a request.
        crate::log::info!("request {}: {}", self.ticket.id(), state.report);
        self.ticket.uncount();
        self.ticket.ledger.release(self.ticket.id());
    }
}

pub enum Next {
    Event(Event),
    Pending,
    Done(Result<()>),
}

impl End {
    /// It came by itself.
    fn is_complete(&self) -> bool {
        use EndReason::*;
        matches!(
            self.reason,
            Ok(StopToken | MaxTokens | Context | Grammar | Called)
        )
    }

    /// Somebody or a clock ended it.
    fn is_cut_short(&self) -> bool {
        matches!(self.reason, Ok(EndReason::Cancelled | EndReason::Deadline))
    }
}

impl State {
    /// Moves what is complete to the events; gives how many there were.
    fn take_chunks(&mut self) -> usize {
        let mut made = 0;
        while let Some(chunk) = self.plan.stream.pop() {
            self.made.add(&chunk);
            self.tokens.extend_from_slice(&chunk.tokens);
            self.answer.add(&chunk);
            self.events.push_back(Event::Text(chunk));
            made += 1;
        }
        if let (None, Some(index)) = (self.stopped, self.plan.stream.stopped()) {
            self.report.stop_index = index as u32;
            self.stopped = Some(Stop::String);
        }
        made
    }

    fn fill_report(&mut self, end: &End) {
        let last = self.tokens.last().copied();
        let calls = !self.answer.calls.is_empty();
        let report = &mut self.report;
        report.cached_tokens = end.cached_tokens;
        (report.drafted, report.accepted) = (end.drafted, end.accepted);
        report.queue_ns = nanos(end.queue);
        report.prefill_ns = nanos(end.prefill);
        report.decode_ns = nanos(end.decode);
        report.peak_bytes = end.peak_bytes;
        report.active_bytes = end.active_bytes;
        report.kv_bytes = end.kv.map_or(0, |kv| kv.bytes);
        report.stop = match (self.stopped, &end.reason) {
            (Some(stop), _) => stop,
            (None, Ok(EndReason::StopToken)) => {
                match last.filter(|last| !self.plan.eos.contains(last)) {
                    None if calls => Stop::ToolCall,
                    None => Stop::Eos,
                    Some(last) => {
                        let index = self.plan.stop_tokens.iter().position(|&id| id == last);
                        report.stop_index = index.unwrap_or(0) as u32;
                        Stop::Token
                    }
                }
            }
            (None, Ok(EndReason::MaxTokens)) => Stop::Length,
            (None, Ok(EndReason::Context)) => Stop::Context,
            (None, Ok(EndReason::Called)) if calls => Stop::ToolCall,
            (None, Ok(EndReason::Grammar | EndReason::Called)) => Stop::Grammar,
            (None, Ok(EndReason::Cancelled | EndReason::Satisfied)) => Stop::Cancelled,
            (None, Ok(EndReason::Deadline)) => Stop::Timeout,
            (None, Err(_)) => Stop::Error,
        };
    }

    fn close(&mut self, took: Duration, outcome: Result<()>) {
        self.report.total_ns = nanos(took);
        if let Err(error) = &outcome {
            self.report.stop = Stop::Error;
            self.report.error_code = error.code as i32;
        }
        self.outcome = Some(outcome);
    }
}

impl Plan {
    /// The end of the text and special tokens have none to show.
    fn kind(&self, id: i32) -> Kind {
        let ends = self.eos.contains(&id) || self.stop_tokens.contains(&id);
        if ends || (!self.raw_text && self.tokenizer.is_special(id)) {
            Kind::Silent
        } else {
            Kind::Normal
        }
    }

    /// The prompt may have opened the model's thinking: its end, where it is known, else what came since the last end of a
    /// text.
    fn open(&mut self, sequence: &[i32]) {
        let end = match self.prompt.opening() {
            Some(opening) => opening,
            None => {
                let turn = sequence.iter().rposition(|id| self.eos.contains(id));
                sequence.get(turn.map_or(0, |at| at + 1)..).unwrap_or(&[])
            }
        };
        let end = end.get(end.len().saturating_sub(MOST_OPENING)..);
        let end = end.unwrap_or(&[]);
        let detokenizer = self.tokenizer.detokenizer(true, true);
        self.stream.begin(end, detokenizer);
        self.splitter = self.stream.splitter().cloned();
    }

    /// What the events of TOKENS_ONLY did not tell apart; the token that ended it has no text.
    fn answer_of(&self, tokens: &[i32]) -> Answer {
        let Ok(no_stops) = StopStrings::new::<&str>(&[]) else {
            return Answer::default();
        };
        let options = StreamOptions {
            splitter: self.splitter.clone(),
            ..StreamOptions::default()
        };
        let detokenizer = self.tokenizer.detokenizer(true, false);
        let mut stream = TextStream::new(detokenizer, &no_stops, options);
        let mut answer = Answer::default();
        for &id in tokens {
            let token = Token {
                id,
                ..Token::default()
            };
            stream.push(token, self.kind(id));
        }
        stream.finish(Finish::End);
        while let Some(chunk) = stream.pop() {
            answer.add(&chunk);
        }
        answer
    }
}

/// A request that was submitted, as its owner holds it. Dropped, it is cancelled.
pub struct Request {
    shared: Arc<Shared>,
    session: Arc<Session>,
    /// Alive until it has ended, whatever is applied to the session meanwhile.
    _adapters: Arc<Applied>,
}

impl Request {
    pub(super) fn new(shared: Arc<Shared>, session: Arc<Session>, adapters: Arc<Applied>) -> Self {
        Request {
            shared,
            session,
            _adapters: adapters,
        }
    }

    /// The next event; each goes to one caller. After the last one `Done` for ever. `None` waits as long as it takes.
    pub fn next(&self, timeout: Option<Duration>) -> Next {
        let next = self.shared.next(deadline(timeout));
        if matches!(next, Next::Event(_)) {
            self.taken(1);
        }
        next
    }

    /// What it did, when it has ended; events that nobody has read are dropped.
    pub fn result(&self, timeout: Option<Duration>) -> Result<(Report, Result<()>)> {
        let deadline = deadline(timeout);
        loop {
            let (dropped, ended) = self.shared.drain(deadline);
            self.taken(dropped);
            if ended {
                return Ok(self.shared.report());
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Err(Error::new(
                    Code::Timeout,
                    "the request has not ended in that time",
                ));
            }
        }
    }

    /// It has a handle, by which it can be cancelled.
    pub fn bind(&self, mailbox: Mailbox) {
        self.shared.ticket.bind(mailbox);
    }

    pub fn cancel(&self) {
        self.shared.ticket.cancel();
        self.session.wake();
    }

    fn taken(&self, events: usize) {
        if events > 0 && self.shared.ticket.take(events) {
            self.session.wake();
        }
    }

    /// Its handle was freed: cancels it, and when this returns its notify neither runs nor will.
    pub fn close(&self) {
        self.cancel();
        let notify = &self.shared.notify;
        *notify.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        self.close();
    }
}

/// A blocking call's hold on its session: it ends with the call, whatever happened in between.
pub(super) struct Blocking<'a> {
    session: &'a Session,
    id: u64,
}

impl<'a> Blocking<'a> {
    /// BUSY when another request has the session or waits for it.
    pub fn take(session: &'a Session, id: u64) -> Result<Self> {
        session.ledger.take(id)?;
        Ok(Blocking { session, id })
    }

    /// For what looks at the session between two requests.
    pub fn between(session: &'a Session) -> Result<Self> {
        let held = Blocking::take(session, session.model.engine.next_id())?;
        session.ledger.have(held.id)?;
        Ok(held)
    }

    /// Hands events to `on_event` until the last one, or until that returns false; waits for the engine's end.
    pub fn run(
        self,
        shared: &Shared,
        on_event: &mut dyn FnMut(Event) -> bool,
    ) -> (Report, Result<()>) {
        while let Next::Event(event) = shared.next(None) {
            if !on_event(event) {
                shared.stop();
                self.session.wake();
                break;
            }
            if shared.ticket.take(1) {
                self.session.wake();
            }
        }
        // What is dropped here needs no word to the engine: it was stopped, or has ended.
        while !shared.drain(None).1 {}
        shared.commit(&mut shared.state());
        shared.report()
    }
}

impl Drop for Blocking<'_> {
    fn drop(&mut self) {
        // After a panic its request may still run: the engine takes no further step of it, and begins no other one of the
        // session before it has dropped this one.
        self.session.ledger.give_up(self.id);
        self.session.wake();
    }
}

fn deadline(timeout: Option<Duration>) -> Option<Instant> {
    timeout.map(|timeout| Instant::now() + timeout)
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
