//! Log-probabilities of a text that there is, after a session and a prefix.

use std::time::Duration;

use super::generate::{Entry, Event, GenerateOptions, Input, Stop};
use super::prompt::Prompt;
use super::request::{Blocking, Delivery};
use super::session::Session;
use crate::error::{Code, Error, Result};
use crate::room;

/// Called with tokens computed and in all; false stops.
pub type OnProgress<'a> = &'a mut dyn FnMut(u64, u64) -> bool;

/// The log-probability of each token of `target` after the session's, those of `prefix`, and the target's before it. Blocks
/// until the engine is done with it; the session stays as it is.
pub fn score(
    session: &Session,
    prefix: &Input,
    target: &Input,
    timeout: Option<Duration>,
    on_progress: Option<OnProgress>,
) -> Result<Vec<f32>> {
    if matches!(target, Input::Messages(_)) {
        return Err(Error::invalid(
            "target.messages: a target is text or tokens; messages are a prefix",
        ));
    }
    let options = GenerateOptions {
        timeout,
        // Nothing is drawn.
        seed: 1,
        greedy: true,
        prefill_only: true,
        max_tokens: Some(1),
        // After each chunk, whatever it is.
        progress_tokens: on_progress.as_ref().map_or(0, |_| u32::MAX),
        ..GenerateOptions::default()
    };
    let read = || {
        let read = |input, name| {
            let prompt = Prompt::new(&session.model, input, session.context);
            prompt.map_err(|error| of_argument(error, name))
        };
        let prefix = read(prefix, "prefix")?;
        let target = read(target, "target")?.into_tokens();
        if target.is_empty() {
            return Err(Error::invalid(
                "target has no tokens: there is nothing to score",
            ));
        }
        // Eight numbers for each: the sequence has it too, and each has a log-probability, here, on the way, and the caller's.
        room::ask(target.len(), size_of::<[i32; 8]>(), "target")?;
        Ok((prefix, Some(target)))
    };

    let entry = Entry::new(session, Delivery::Push, None)?;
    let held = Blocking::take(session, entry.ticket.id())?;
    let whole_history = matches!(prefix, Input::Messages(_));
    let shared = entry.start(read, whole_history, &options)?;
    let mut on_progress = on_progress;
    let (report, outcome) = held.run(&shared, &mut |event| match (event, &mut on_progress) {
        (Event::Progress { done, total }, Some(on_progress)) => on_progress(done, total),
        _ => true,
    });
    outcome?;
    match report.stop {
        Stop::Length => Ok(shared.take_logprobs()),
        Stop::Timeout => Err(Error::new(
            Code::Timeout,
            "the score was not done in options.timeout_ms",
        )),
        Stop::Callback => Err(Error::new(Code::Cancelled, "progress stopped the score")),
        _ => Err(Error::new(Code::Cancelled, "the score was cancelled")),
    }
}

/// What is wrong with an input, of one of the two that there are here.
pub fn of_argument(error: Error, name: &str) -> Error {
    let renamed = ["input", "the input", "the prompt"]
        .iter()
        .find_map(|general| {
            let rest = error.message.strip_prefix(general)?;
            let the = if general.starts_with("the ") {
                "the "
            } else {
                ""
            };
            Some(format!("{the}{name}{rest}"))
        });
    match renamed {
        Some(message) => Error { message, ..error },
        None => error,
    }
}
