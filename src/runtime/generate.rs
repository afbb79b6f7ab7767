//! Starting requests: input and options are checked and turned into tokens on the caller's thread, then the engine has it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::calls::{calls, marked};
use super::engine;
use super::job::{End, EndReason, Job, Score, Ticket};
use super::ledger::Ledger;
use super::metrics;
use super::options::sampling;
pub use super::options::{Drafts, GenerateOptions, Setting, Thinking, REPETITION_PENALTY};
use super::prompt::Prompt;
pub use super::prompt::{check_length, render, tokens, Conversation, Input};
pub use super::report::{Report, Stop};
use super::request::{Blocking, Delivery, Plan, Shared};
pub use super::request::{Event, Next, Notify, Request};
use super::session::{Applied, Session};
use crate::error::{Code, Error, Result};
use crate::random;
use crate::text::{Budget, Splitter, StopStrings, StreamOptions, TextStream};
use crate::watch::{self, Watch};

/// Runs one request on `session` and hands its events to `on_event`, which returns false to stop. Blocks until the
/// engine is done with it.
pub fn generate(
    session: &Session,
    input: &Input,
    options: &GenerateOptions,
    on_event: &mut dyn FnMut(Event) -> bool,
) -> (Report, Result<()>) {
    let mut run = || {
        let entry = Entry::new(session, Delivery::Push, None)?;
        let held = Blocking::take(session, entry.ticket.id())?;
        let shared = entry.generate(input, options)?;
        Ok(held.run(&shared, on_event))
    };
    run().unwrap_or_else(|error: Error| (Report::refused(error.code as i32), Err(error)))
}

/// Queues one request on `session`, behind those that were submitted before it. Blocks for the text work only.
pub fn submit(
    session: Arc<Session>,
    input: &Input,
    options: &GenerateOptions,
    notify: Option<Notify>,
) -> Result<Request> {
    let entry = Entry::new(&session, Delivery::Pull, notify)?;
    let adapters = entry.adapters.clone();
    let shared = entry.generate(input, options)?;
    Ok(Request::new(shared, session, adapters))
}

/// What a request is made of besides its input and options.
pub(super) struct Entry<'a> {
    session: &'a Session,
    adapters: Arc<Applied>,
    pub ticket: Ticket,
    delivery: Delivery,
    notify: Option<Notify>,
    called: Instant,
}

impl<'a> Entry<'a> {
    pub fn new(session: &'a Session, delivery: Delivery, notify: Option<Notify>) -> Result<Self> {
        engine::refuse_when_suspended()?;
        let ticket = Ticket::new(
            session.model.engine.next_id(),
            session.ledger.clone(),
            delivery == Delivery::Pull,
        )?;
        Ok(Entry {
            session,
            adapters: session.adapters(),
            ticket,
            delivery,
            notify,
            called: Instant::now(),
        })
    }

    fn generate(self, input: &Input, options: &GenerateOptions) -> Result<Arc<Shared>> {
        let (model, context) = (&self.session.model, self.session.context);
        let whole_history = matches!(input, Input::Messages(_));
        let read = || {
            let mut prompt = Prompt::with(model, input, options.thinking, context)?;
            prompt.calls = calls(model, &prompt, options)?;
            Ok((prompt, None))
        };
        self.start(read, whole_history, options)
    }

    /// Makes tokens of the input by `read`, a prompt's and for a score the target's, and sends the request to the engine. One
    /// that is refused here counts as failed.
    pub fn start(
        self,
        read: impl FnOnce() -> Result<(Prompt, Option<Vec<i32>>)>,
        whole_history: bool,
        options: &GenerateOptions,
    ) -> Result<Arc<Shared>> {
        let model = &self.session.model;
        let watch = self.watch(options.timeout);
        let mut ended = None;
        // An engine that had ended before is an error; one that ends meanwhile, the end of the request.
        let read = model.engine.refuse_when_ending().and_then(|()| {
            watch::during(watch, read).or_else(|error| {
                ended = EndReason::of_watch(&error);
                ended.map(|_| Default::default()).ok_or(error)
            })
        });
        let prepared =
            read.and_then(|(prompt, target)| self.prepare(prompt, target, whole_history, options));
        let (job, shared) = prepared.inspect_err(|error| {
            for counters in [&metrics::PROCESS, &*model.counters] {
                counters.request_started();
                counters.request_ended(&Report::refused(error.code as i32));
            }
        })?;
        match ended {
            Some(reason) => shared.end(End::early(reason)),
            None => model.engine.start_job(Box::new(job))?,
        }
        Ok(shared)
    }

    /// For the work on its input: a cancel, the session's end, the engine's and the deadline end it.
    fn watch(&self, timeout: Option<Duration>) -> Watch {
        let (ledger, id) = (self.ticket.ledger.clone(), self.ticket.id());
        let model = self.session.model.clone();
        Watch {
            work: "the work on the input",
            deadline: timeout.map(|timeout| self.called + timeout),
            stopped: Some(Box::new(move || match ledger.is_cancelled(id) {
                false => model.engine.refuse_when_ending(),
                true => Err(Error::new(Code::Cancelled, "the request was cancelled")),
            })),
        }
    }

    fn prepare(
        self,
        mut prompt: Prompt,
        target: Option<Vec<i32>>,
        whole_history: bool,
        options: &GenerateOptions,
    ) -> Result<(Job, Arc<Shared>)> {
        let Entry {
            session, called, ..
        } = self;
        let model = &session.model;
        let stops = StopStrings::new(&options.stop)?;
        model.check_ids(&options.stop_tokens, "options.stop_tokens")?;
        let ids: Vec<i32> = options.bias.iter().map(|(id, _)| *id).collect();
        model.check_ids(&ids, "options.bias_tokens")?;
        let eos = match options.ignore_eos {
            true => Vec::new(),
            false => model.defaults.eos_token_ids.clone(),
        };
        if let Some(grammar) = &options.grammar {
            model.check_grammar(grammar)?;
        }
        let seed = match options.seed {
            0 => random::seed(),
            seed => seed,
        };
        let sampling = sampling(options, model, &eos, seed);
        let stop_tokens = eos.iter().chain(&options.stop_tokens).copied().collect();
        let (mut cache, mut score) = (session.cache, None);
        if let Some(target) = &target {
            cache.session = model.engine.next_id();
            score = Some(Score {
                session: session.cache.session,
                target: target.len(),
                ledger: Arc::new(Ledger::new(model.counters.clone())),
            });
        }
        let detokenizer = model.tokenizer.detokenizer(!options.raw_text, true);
        let marked = match options.raw_text {
            true => None,
            false => marked(model, &prompt)?,
        };
        let marked = marked.as_ref();
        let tools = Arc::new(std::mem::take(&mut prompt.tools));
        let stream_options = StreamOptions {
            tokens_only: options.tokens_only,
            splitter: marked.map(|marked| {
                Splitter::new(marked.channels.clone(), tools).telling(options.tool_deltas)
            }),
            budget: marked
                .zip(options.thinking.tokens())
                .map(|(marked, tokens)| Budget {
                    tokens,
                    end: marked.end_of_thinking.clone(),
                }),
        };
        let calls = prompt.calls.take();
        let plan = Plan {
            continued: std::mem::take(&mut prompt.continued),
            prompt,
            stream: TextStream::new(detokenizer, &stops, stream_options),
            splitter: None,
            tokenizer: model.tokenizer.clone(),
            eos,
            stop_tokens: options.stop_tokens.clone(),
            tokens_only: options.tokens_only,
            prefill_only: options.prefill_only,
            raw_text: options.raw_text,
            context: session.context,
            seed,
            target,
        };
        let counters = model.counters.clone();
        let shared = Arc::new(Shared::new(
            self.ticket,
            self.delivery,
            called,
            counters,
            plan,
            self.notify,
        ));
        let job = Job {
            cache,
            adapters: self
                .adapters
                .iter()
                .map(|(adapter, strength)| (adapter.id(), *strength))
                .collect(),
            sampling,
            grammar: options.grammar.clone(),
            calls,
            max_tokens: options.max_tokens,
            context: session.context,
            stop_tokens,
            ignore_eos: options.ignore_eos,
            prefill_only: options.prefill_only,
            ignore_cache: options.no_prefix_cache,
            whole_history,
            progress_tokens: options.progress_tokens,
            priority: options.priority,
            drafts: options.drafts,
            draft: model.draft.as_ref().map(|draft| draft.id).or(model.ahead),
            score,
            submitted: called,
            deadline: options.timeout.map(|timeout| called + timeout),
            request: shared.clone(),
        };
        Ok((job, shared))
    }
}
