//! One blocking request: prompt, submission, events on the caller's thread, and what stays in the ledger.

use std::sync::mpsc::{channel, Receiver};
use std::time::{Duration, Instant};

use super::engine::{ended, Command};
use super::job::{End, EndReason, Job, Output};
use super::metrics;
use super::prompt;
pub use super::prompt::{render, Conversation, Input};
use super::session::{Session, Use};
use crate::error::{Code, Error, Result};
use crate::sampling::{Sampling, Xtc};
use crate::text::{Chunk, Finish, Kind, StopStrings, StreamOptions, TextStream, Token};

/// Checked options; 0 and `None` as `mlxrt_generate_options` has them.
#[derive(Clone, Debug, Default)]
pub struct GenerateOptions {
    pub max_tokens: Option<u64>,
    pub timeout: Option<Duration>,
    pub greedy: bool,
    pub no_model_defaults: bool,
    /// `None`: the model's.
    pub temperature: Option<f32>,
    pub top_p: Setting<f32>,
    pub min_p: Setting<f32>,
    pub top_k: Setting<u32>,
    pub xtc: Option<(f32, f32)>,
    /// `None`: the model's.
    pub repetition_penalty: Option<f32>,
    pub presence_penalty: f32,
    pub frequency_penalty: f32,
    /// `None` = all.
    pub penalty_window: Option<usize>,
    /// 0 = random.
    pub seed: u64,
    pub bias: Vec<(i32, f32)>,
    pub logprobs: Option<u32>,
    pub stop: Vec<String>,
    pub stop_tokens: Vec<i32>,
    pub ignore_eos: bool,
    pub tokens_only: bool,
    pub prefill_only: bool,
    pub no_prefix_cache: bool,
    pub raw_text: bool,
    pub progress_tokens: u32,
}

/// A filter: the model's own setting, off, or a value.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Setting<T> {
    #[default]
    Model,
    Off,
    Value(T),
}

impl<T> Setting<T> {
    fn or(self, model: Option<T>) -> Option<T> {
        match self {
            Setting::Model => model,
            Setting::Off => None,
            Setting::Value(value) => Some(value),
        }
    }
}

pub enum Event<'a> {
    Progress { done: u64, total: u64 },
    Text(&'a Chunk),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    Eos,
    String,
    Token,
    Length,
    Context,
    Callback,
    Cancelled,
    Timeout,
    Error,
}

/// What a request did and what it cost.
#[derive(Clone, Debug)]
pub struct Report {
    pub stop: Stop,
    /// Which stop string or stop token.
    pub stop_index: u32,
    pub error_code: i32,
    pub seed: u64,
    pub prompt_tokens: u64,
    pub cached_tokens: u64,
    pub generated_tokens: u64,
    pub queue_ns: u64,
    pub prefill_ns: u64,
    pub first_token_ns: u64,
    pub decode_ns: u64,
    pub total_ns: u64,
    pub peak_bytes: u64,
    pub active_bytes: u64,
    pub kv_bytes: u64,
}

impl Report {
    fn new(seed: u64) -> Self {
        Report {
            stop: Stop::Error,
            stop_index: 0,
            error_code: 0,
            seed,
            prompt_tokens: 0,
            cached_tokens: 0,
            generated_tokens: 0,
            queue_ns: 0,
            prefill_ns: 0,
            first_token_ns: 0,
            decode_ns: 0,
            total_ns: 0,
            peak_bytes: 0,
            active_bytes: 0,
            kv_bytes: 0,
        }
    }

    /// What is reported of a call that failed before it was a request.
    pub fn refused(error_code: i32) -> Self {
        Report {
            error_code,
            ..Report::new(0)
        }
    }
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
        self.finish(end, answer, tokens, eos, on_event)
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
            let output = receiver.recv().map_err(|_| ended())?;
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

    fn finish(
        &mut self,
        end: End,
        mut answer: Answer,
        mut tokens: Vec<i32>,
        eos: &[i32],
        on_event: &mut dyn FnMut(Event) -> bool,
    ) -> Result<()> {
        let complete = matches!(
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

        let mut state = self.session.state();
        self.session.set_kv(&mut state, end.kv_tokens, end.kv_bytes);
        // A request that ended before its first token leaves no trace but a warm cache.
        if !answer.tokens.is_empty() || complete || answer.stopped == Some(Stop::String) {
            if self.options.tokens_only {
                answer.text = self
                    .session
                    .model
                    .tokenizer
                    .detokenize(&answer.tokens, true)
                    .unwrap_or_default();
            }
            tokens.extend_from_slice(&answer.tokens);
            state.ledger = tokens;
            if !self.options.prefill_only {
                state.answer = Some(answer.text);
            }
        }
        drop(state);
        end.reason.map(drop)
    }
}

/// The caller's options with the model's own for what was left open.
fn sampling(
    options: &GenerateOptions,
    model: &super::model::Model,
    eos: &[i32],
    seed: u64,
) -> Sampling {
    let plain = crate::load::GenerationConfig::default();
    let defaults = if options.no_model_defaults {
        &plain
    } else {
        &model.defaults
    };
    let temperature = match (options.greedy, options.temperature) {
        (true, _) => None,
        (false, Some(temperature)) => Some(temperature),
        (false, None) if options.no_model_defaults => Some(1.0),
        (false, None) if defaults.do_sample == Some(true) => {
            Some(defaults.temperature.unwrap_or(1.0)).filter(|&temperature| temperature > 0.0)
        }
        (false, None) => None,
    };
    Sampling {
        temperature,
        top_p: options.top_p.or(defaults.top_p).filter(|&p| p < 1.0),
        min_p: options.min_p.or(defaults.min_p),
        top_k: options
            .top_k
            .or(defaults.top_k.and_then(|k| u32::try_from(k).ok())),
        xtc: options.xtc.map(|(probability, threshold)| Xtc {
            probability,
            threshold,
            spared: eos.to_vec(),
        }),
        repetition_penalty: options
            .repetition_penalty
            .or(defaults.repetition_penalty)
            .filter(|&penalty| penalty != 1.0),
        presence_penalty: Some(options.presence_penalty).filter(|&penalty| penalty != 0.0),
        frequency_penalty: Some(options.frequency_penalty).filter(|&penalty| penalty != 0.0),
        penalty_window: options.penalty_window,
        bias: options.bias.clone(),
        seed,
        logprobs: options.logprobs,
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
