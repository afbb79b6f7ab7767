//! Starting requests: input and options are checked and turned into tokens on the caller's thread, then the engine has it.

use std::sync::Arc;
use std::time::Instant;

use super::engine;
use super::job::{Job, Ticket};
use super::metrics;
use super::options::sampling;
pub use super::options::{GenerateOptions, Setting};
use super::prompt;
pub use super::prompt::{render, Conversation, Input};
pub use super::report::{Report, Stop};
use super::request::{Blocking, Delivery, Plan, Shared};
pub use super::request::{Event, Next, Notify, Request};
use super::session::{Applied, Session};
use crate::error::{Error, Result};
use crate::text::{StopStrings, StreamOptions, TextStream};

/// Runs one request on `session` and hands its events to `on_event`, which returns false to stop. Blocks until the
/// engine is done with it.
pub fn generate(
    session: &Session,
    input: &Input,
    options: &GenerateOptions,
    on_event: &mut dyn FnMut(Event) -> bool,
) -> (Report, Result<()>) {
    let mut run = || {
        engine::refuse_when_suspended()?;
        let ticket = ticket(session, Delivery::Push);
        let held = Blocking::take(session, ticket.id())?;
        let adapters = session.adapters();
        let shared = start(
            session,
            &adapters,
            ticket,
            input,
            options,
            Delivery::Push,
            None,
        )?;
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
    engine::refuse_when_suspended()?;
    let ticket = ticket(&session, Delivery::Pull);
    let adapters = session.adapters();
    let shared = start(
        &session,
        &adapters,
        ticket,
        input,
        options,
        Delivery::Pull,
        notify,
    )?;
    Ok(Request::new(shared, session, adapters))
}

fn ticket(session: &Session, delivery: Delivery) -> Ticket {
    Ticket::new(
        session.model.engine.next_id(),
        session.ledger.clone(),
        delivery == Delivery::Pull,
    )
}

/// Sends a request to the engine. One that is refused here counts as failed.
fn start(
    session: &Session,
    adapters: &Applied,
    ticket: Ticket,
    input: &Input,
    options: &GenerateOptions,
    delivery: Delivery,
    notify: Option<Notify>,
) -> Result<Arc<Shared>> {
    let prepared = prepare(session, adapters, ticket, input, options, delivery, notify);
    let (job, shared) = prepared.inspect_err(|error| {
        for counters in [&metrics::PROCESS, &*session.model.counters] {
            counters.request_started();
            counters.request_ended(&Report::refused(error.code as i32));
        }
    })?;
    session.model.engine.start_job(Box::new(job))?;
    Ok(shared)
}

fn prepare(
    session: &Session,
    adapters: &Applied,
    ticket: Ticket,
    input: &Input,
    options: &GenerateOptions,
    delivery: Delivery,
    notify: Option<Notify>,
) -> Result<(Job, Arc<Shared>)> {
    let called = Instant::now();
    let model = &session.model;
    let stops = StopStrings::new(&options.stop)?;
    model.check_ids(&options.stop_tokens, "options.stop_tokens")?;
    let ids: Vec<i32> = options.bias.iter().map(|(id, _)| *id).collect();
    model.check_ids(&ids, "options.bias_tokens")?;
    let eos = match options.ignore_eos {
        true => Vec::new(),
        false => model.defaults.eos_token_ids.clone(),
    };
    let seed = match options.seed {
        0 => random_seed(),
        seed => seed,
    };
    let sampling = sampling(options, model, &eos, seed);
    let stop_tokens = eos.iter().chain(&options.stop_tokens).copied().collect();
    let detokenizer = model.tokenizer.detokenizer(!options.raw_text, true);
    let stream_options = StreamOptions {
        tokens_only: options.tokens_only,
    };
    let plan = Plan {
        prompt: prompt::Prompt::new(model, input)?,
        continued: prompt::continued_text(input)?,
        stream: TextStream::new(detokenizer, &stops, stream_options),
        tokenizer: model.tokenizer.clone(),
        eos,
        stop_tokens: options.stop_tokens.clone(),
        tokens_only: options.tokens_only,
        prefill_only: options.prefill_only,
        raw_text: options.raw_text,
        context: session.context,
        seed,
    };
    let counters = model.counters.clone();
    let shared = Arc::new(Shared::new(
        ticket, delivery, called, counters, plan, notify,
    ));
    let job = Job {
        cache: session.cache,
        adapters: adapters
            .iter()
            .map(|(adapter, strength)| (adapter.id(), *strength))
            .collect(),
        sampling,
        max_tokens: options.max_tokens,
        context: session.context,
        stop_tokens,
        prefill_only: options.prefill_only,
        ignore_cache: options.no_prefix_cache,
        whole_history: matches!(input, Input::Messages(_)),
        progress_tokens: options.progress_tokens,
        submitted: called,
        deadline: options.timeout.map(|timeout| called + timeout),
        request: shared.clone(),
    };
    Ok((job, shared))
}

/// Not 0, which means "random" on the way in.
fn random_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new()
        .build_hasher()
        .finish()
        .max(1)
}
