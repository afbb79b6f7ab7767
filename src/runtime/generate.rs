//! One blocking request: prompt, submission, events on the caller's thread, and what stays in the ledger.

use std::sync::mpsc::{channel, Receiver};
use std::time::{Duration, Instant};

use super::engine::Command;
use super::job::{End, EndReason, Job, Output};
use super::metrics;
use super::options::sampling;
pub use super::options::{GenerateOptions, Setting};
use super::prompt;
pub use super::prompt::{render, Conversation, Input};
pub use super::report::{Report, Stop};
use super::session::{Session, Use};
use crate::error::{Code, Error, Result};
use crate::text::{Chunk, Finish, Kind, StopStrings, StreamOptions, TextStream, Token};

pub enum Event<'a> {
    Progress { done: u64, total: u64 },
    Text(&'a Chunk),
}

/// Runs one request on `session` and hands its events to `on_event`, which returns false to stop. Blocks until the
/// engine is done with it.
pub fn generate(
    session: &Session,
    input: &Input,
    options: &GenerateOptions,
    on_event: &mut dyn FnMut(Event) -> bool,
) -> (Report, Result<()>) {
    let called = Instant::now();
    let counters = [&metrics::PROCESS, &session.model.counters];
    let mut report = Report::new(if options.seed == 0 {
        random_seed()
    } else {
        options.seed
    });
    let held = match session.begin(options.timeout.map(|timeout| called + timeout)) {
        Ok(held) => held,
        Err(error) => return (Report::refused(error.code as i32), Err(error)),
    };
    counters
        .iter()
        .for_each(|counters| counters.request_started());
    let result = Request {
        session,
        options,
        held: &held,
        called,
        report: &mut report,
    }
    .run(input, on_event);
    report.total_ns = nanos(called.elapsed());
    if let Err(error) = &result {
        report.stop = Stop::Error;
        report.error_code = error.code as i32;
    }
    counters
        .iter()
        .for_each(|counters| counters.request_ended(&report));
    (report, result)
}

struct Request<'a> {
    session: &'a Session,
    options: &'a GenerateOptions,
    held: &'a Use<'a>,
    called: Instant,
    report: &'a mut Report,
}

/// What the caller's side has made of the tokens so far.
struct Answer {
    stream: TextStream,
    text: String,
    tokens: Vec<i32>,
    stopped: Option<Stop>,
}

impl Request<'_> {
    fn run(&mut self, input: &Input, on_event: &mut dyn FnMut(Event) -> bool) -> Result<()> {
        let (session, options) = (self.session, self.options);
        let model = &session.model;
        let stops = StopStrings::new(&options.stop)?;
        model.check_ids(&options.stop_tokens, "options.stop_tokens")?;
        let ids: Vec<i32> = options.bias.iter().map(|(id, _)| *id).collect();
        model.check_ids(&ids, "options.bias_tokens")?;
        let eos: &[i32] = if options.ignore_eos {
            &[]
        } else {
            &model.defaults.eos_token_ids
        };

        let tokens = prompt::sequence(model, &session.state().ledger, input)?;
        let continued = prompt::continued_text(input)?;
        self.report.prompt_tokens = tokens.len() as u64;
        if tokens.len() + usize::from(!options.prefill_only) > session.context {
            return Err(Error::new(
                Code::ContextFull,
                format!(
                    "the prompt has {} tokens, and the session's context is {}",
                    tokens.len(),
                    session.context
                ),
            ));
        }
        let (outputs, receiver) = channel();
        model.engine.send(Command::Start(Box::new(Job {
            cache: session.cache(),
            tokens: tokens.clone(),
            sampling: sampling(options, model, eos, self.report.seed),
            max_tokens: options.max_tokens,
            context: session.context,
            stop_tokens: eos.iter().chain(&options.stop_tokens).copied().collect(),
            prefill_only: options.prefill_only,
            ignore_cache: options.no_prefix_cache,
            whole_history: matches!(input, Input::Messages(_)),
            progress_tokens: options.progress_tokens,
            submitted: self.called,
            ticket: self.held.ticket.clone(),
            outputs,
        })))?;

        let detokenizer = model.tokenizer.detokenizer(!options.raw_text, true);
        let mut answer = Answer {
            stream: TextStream::new(
                detokenizer,
                &stops,
                StreamOptions {
                    tokens_only: options.tokens_only,
                },
            ),
            text: String::new(),
            tokens: Vec::new(),
            stopped: None,
        };
        let end = self.follow(&receiver, &mut answer, eos, on_event)?;
        self.finish(end, answer, tokens, continued, eos, on_event)
    }

    /// Takes outputs until the last one.
    fn follow(
        &mut self,
        receiver: &Receiver<Output>,
        answer: &mut Answer,
        eos: &[i32],
        on_event: &mut dyn FnMut(Event) -> bool,
    ) -> Result<End> {
        loop {
            // Dropped without an answer: the engine was shut down with the request still in its queue.
            let Ok(output) = receiver.recv() else {
                return Ok(End::cancelled());
            };
            if self.held.ticket.take_one() {
                let _ = self.session.model.engine.send(Command::Wake);
            }
            match output {
                Output::End(end) => return Ok(end),
                // What comes after a stop is run-ahead.
                _ if answer.stopped.is_some() => {}
                Output::Progress { done, total } => {
                    if !on_event(Event::Progress { done, total }) {
                        self.stop(answer, Stop::Callback);
                    }
                }
                Output::Token(token) => {
                    if self.report.first_token_ns == 0 {
                        self.report.first_token_ns = nanos(self.called.elapsed());
                    }
                    let kind = self.kind(token.id, eos);
                    answer.stream.push(
                        Token {
                            id: token.id,
                            logprob: token.logprob,
                            top: token.top,
                        },
                        kind,
                    );
                    self.deliver(answer, on_event);
                    if let (None, Some(index)) = (answer.stopped, answer.stream.stopped()) {
                        self.report.stop_index = index as u32;
                        self.stop(answer, Stop::String);
                    }
                }
            }
        }
    }

    /// The end of the text and special tokens have none to show.
    fn kind(&self, id: i32, eos: &[i32]) -> Kind {
        let ends = eos.contains(&id) || self.options.stop_tokens.contains(&id);
        if ends || (!self.options.raw_text && self.session.model.tokenizer.is_special(id)) {
            Kind::Silent
        } else {
            Kind::Normal
        }
    }

    fn stop(&self, answer: &mut Answer, stop: Stop) {
        answer.stopped = Some(stop);
        self.held.ticket.cancel();
        let _ = self.session.model.engine.send(Command::Wake);
    }

    /// Hands out what is complete, until the callback stops it.
    fn deliver(&self, answer: &mut Answer, on_event: &mut dyn FnMut(Event) -> bool) {
        while answer.stopped.is_none() || answer.stopped == Some(Stop::String) {
            let Some(chunk) = answer.stream.pop() else {
                return;
            };
            answer.text.push_str(&chunk.text);
            answer.tokens.extend_from_slice(&chunk.tokens);
            if !on_event(Event::Text(&chunk)) {
                self.stop(answer, Stop::Callback);
            }
        }
    }

    /// The text that the events of TOKENS_ONLY did not carry; the token that ended it has none.
    fn text_of(&self, tokens: &[i32], eos: &[i32]) -> String {
        let shown = match tokens.split_last() {
            Some((&last, before)) if self.kind(last, eos) == Kind::Silent => before,
            _ => tokens,
        };
        let tokenizer = &self.session.model.tokenizer;
        tokenizer.detokenize(shown, true).unwrap_or_default()
    }

    fn fill_report(&mut self, end: &End, answer: &Answer, eos: &[i32]) {
        let last = answer.tokens.last().copied();
        let report = &mut *self.report;
        report.cached_tokens = end.cached_tokens;
        report.generated_tokens = answer.tokens.len() as u64;
        report.queue_ns = nanos(end.queue);
        report.prefill_ns = nanos(end.prefill);
        report.decode_ns = nanos(end.decode);
        report.peak_bytes = end.peak_bytes;
        report.active_bytes = end.active_bytes;
        report.kv_bytes = end.kv_bytes;
        report.stop = match (answer.stopped, &end.reason) {
            (Some(stop), _) => stop,
            (None, Ok(EndReason::StopToken)) => match last.filter(|last| !eos.contains(last)) {
                None => Stop::Eos,
                Some(last) => {
                    let index = self.options.stop_tokens.iter().position(|&id| id == last);
                    report.stop_index = index.unwrap_or(0) as u32;
                    Stop::Token
                }
            },
            (None, Ok(EndReason::MaxTokens)) => Stop::Length,
            (None, Ok(EndReason::Context)) => Stop::Context,
            (None, Ok(EndReason::Cancelled)) => Stop::Cancelled,
            (None, Ok(EndReason::Deadline)) => Stop::Timeout,
            (None, Err(_)) => Stop::Error,
        };
    }

    /// Hands out the rest, and commits what was delivered to the ledger.
    fn finish(
        &mut self,
        end: End,
        mut answer: Answer,
        mut tokens: Vec<i32>,
        continued: String,
        eos: &[i32],
        on_event: &mut dyn FnMut(Event) -> bool,
    ) -> Result<()> {
        // An end that came by itself; after a stop it is the run-ahead's, which nobody sees.
        let complete = answer.stopped.is_none()
            && matches!(
                end.reason,
                Ok(EndReason::StopToken | EndReason::MaxTokens | EndReason::Context)
            );
        if answer.stopped.is_none() {
            answer.stream.finish(if complete {
                Finish::End
            } else {
                Finish::Cancelled
            });
            self.deliver(&mut answer, on_event);
            if let (None, Some(index)) = (answer.stopped, answer.stream.stopped()) {
                self.report.stop_index = index as u32;
                answer.stopped = Some(Stop::String);
            }
        }
        self.fill_report(&end, &answer, eos);

        let mut state = self.session.state();
        self.session.set_kv(&mut state, end.kv_tokens, end.kv_bytes);
        // A request that ended before its first token leaves no trace but a warm cache.
        if !answer.tokens.is_empty() || complete || answer.stopped == Some(Stop::String) {
            if self.options.tokens_only {
                answer.text = self.text_of(&answer.tokens, eos);
            }
            tokens.extend_from_slice(&answer.tokens);
            state.ledger = tokens;
            if !self.options.prefill_only {
                state.answer = Some(continued + &answer.text);
            }
        }
        drop(state);
        match answer.stopped {
            Some(_) => Ok(()),
            None => end.reason.map(drop),
        }
    }
}

/// Not 0, which means "random" on the way in.
fn random_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new()
        .build_hasher()
        .finish()
        .max(1)
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
