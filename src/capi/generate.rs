//! Generation: pushed to a callback, or submitted and pulled.

use std::ffi::c_void;
use std::sync::Arc;

use super::boundary::{call, quietly, with_callback_mark, Callback, Use};
use super::constants::*;
use super::error::mlxrt_error;
use super::event::EventBlock;
use super::handle::{table, Handle, Kind};
use super::input::{read_generate_options, read_input};
use super::library::UserData;
use super::model::report;
use super::structs::{read_options, Out};
use super::text::{ArrayOut, HandleOut};
use super::time::{time_limit, timeout};
use super::types::{
    mlxrt_call_options, mlxrt_event, mlxrt_event_fn, mlxrt_generate_options, mlxrt_input,
    mlxrt_request, mlxrt_result, mlxrt_session,
};
use crate::error::{Error, Result};
use crate::mail::Mailbox;
use crate::runtime::generate::{self, Event, Input, Next, Notify, Report, Request, Stop};
use crate::runtime::score::{of_argument, score, OnProgress};
use crate::runtime::session::Session;

/// Runs one request on the session and hands what it produces to fn, on this thread, until it ends: by the model's
/// end of text, a stop string or token, max_tokens, the context's end, fn, a cancel, or timeout_ms. All of these are
/// results and no errors; out says which, and what it cost. Messages are the whole history: what the session already
/// holds of it is not computed again. Text and tokens continue the session; when the request fails or is cancelled
/// before its first token, the session stays as it was. fn may be NULL, and out may be.
///
/// Threads: any; fn runs on this one. A session does one blocking call at a time.
/// Blocks: until the request has ended.
/// Errors: INVALID_ARGUMENT names the field, also when bias_values ban every token that could come; INCOMPATIBLE for a grammar of another model; BAD_GRAMMAR where the
/// grammar becomes too complex, or the model has no token to go on with; CONTEXT_FULL; BUSY, also
/// while submitted requests run or wait; BAD_MODEL when the model's numbers are not finite; DEVICE; OUT_OF_MEMORY; SUSPENDED; CANCELLED when the engine had been shut down by force before.
/// Owns: nothing; events live until fn returns.
#[no_mangle]
pub unsafe extern "C" fn mlxrt_generate(
    session: *mut mlxrt_session,
    input: *const mlxrt_input,
    options: *const mlxrt_generate_options,
    r#fn: mlxrt_event_fn,
    user_data: *mut c_void,
    out: *mut mlxrt_result,
) -> *mut mlxrt_error {
    // SAFETY: the caller's struct is NULL or as large as its struct_size says.
    unsafe {
        reporting("mlxrt_generate", Use::Blocking, out, || {
            let session = table().get::<Session>(session, "session")?;
            let given = read_options(options, "options")?;
            if given.notify.is_some() {
                return Err(Error::invalid(
                    "options.notify is for requests that are submitted, not for mlxrt_generate",
                ));
            }
            let (input, options) = (read_input(input)?, read_generate_options(&given)?);
            let logprobs = options.logprobs.is_some();
            let mut lost = None;
            let (report, result) = generate::generate(&session, &input, &options, &mut |event| {
                let sent = send(r#fn, user_data, &event, logprobs);
                sent.unwrap_or_else(|error| {
                    lost = Some(error);
                    false
                })
            });
            Ok((report, lost.map_or(result, Err)))
        })
    }
}

/// Queues one request on the session, behind those that were submitted before it, and gives a handle to it: its events
/// are asked for with mlxrt_request_next. Everything else is as in mlxrt_generate; what the session holds when the
/// request's turn comes is what it goes on from, and what was made counts as delivered. options.notify is called when
/// events or the end become available.
///
/// Threads: any, also from event and progress callbacks; notify is called on any thread.
/// Blocks: no; input is made into tokens here.
/// Errors: INVALID_ARGUMENT names the field; SUSPENDED; CANCELLED when the engine had been shut down by force before;
/// RESOURCES when 1,024 requests of the session, or 16,384 in all, have not ended; OUT_OF_MEMORY.
/// Owns: out is yours: mlxrt_request_free. The request keeps what it needs of the session alive.
#[no_mangle]
pub unsafe extern "C" fn mlxrt_submit(
    session: *mut mlxrt_session,
    input: *const mlxrt_input,
    options: *const mlxrt_generate_options,
    out: *mut *mut mlxrt_request,
) -> *mut mlxrt_error {
    // SAFETY: the caller's output is NULL or writable.
    let out = unsafe { HandleOut::clear(out, "out") };
    call("mlxrt_submit", Use::Query, || {
        let out = out?;
        let session = table().get::<Session>(session, "session")?;
        // SAFETY: the caller's structs and what they point to are readable.
        let (input, given, options) = unsafe {
            let given = read_options(options, "options")?;
            (read_input(input)?, given, read_generate_options(&given)?)
        };
        let user_data = UserData(given.notify_data);
        let notify = given.notify.map(|function| -> Notify {
            // SAFETY: the caller gave the function for calls on any thread with this data, until the request is freed.
            let call = move || unsafe { function(user_data.get()) };
            Box::new(move || with_callback_mark(Callback::Notify, call))
        });
        let submitted = Submitted {
            request: generate::submit(session, &input, &options, notify)?,
            logprobs: options.logprobs.is_some(),
        };
        out.put(table().insert(Arc::new(submitted))?);
        Ok(())
    })
}

/// Takes the next event of a request. state says what there was: MLXRT_NEXT_EVENT, and out is the event;
/// MLXRT_NEXT_PENDING, there is none yet; MLXRT_NEXT_DONE, there will be none any more. Any number of threads may ask:
/// each event goes to one of them. Events that were made before the end or before a cancel come first. A request that
/// failed gives its error instead of DONE, every time.
///
/// Threads: any; with timeout_ms 0 also from event and progress callbacks.
/// Blocks: until there is something, at most timeout_ms; 0 does not wait.
/// Errors: those of mlxrt_generate, once all events are taken.
/// Owns: out is one block and yours: mlxrt_free.
#[no_mangle]
pub unsafe extern "C" fn mlxrt_request_next(
    request: *mut mlxrt_request,
    timeout_ms: u32,
    out: *mut *mut mlxrt_event,
    state: *mut i32,
) -> *mut mlxrt_error {
    // SAFETY: the caller's outputs are NULL or writable.
    let out = unsafe { HandleOut::clear(out, "out") };
    let state = (!state.is_null()).then_some(state);
    call("mlxrt_request_next", waiting(timeout_ms), || {
        let out = out?;
        let state = state.ok_or_else(|| Error::invalid("state is NULL"))?;
        let submitted = table().get::<Submitted>(request, "request")?;
        let next = match submitted.request.next(timeout(timeout_ms)) {
            Next::Pending => MLXRT_NEXT_PENDING,
            Next::Done(outcome) => {
                outcome?;
                MLXRT_NEXT_DONE
            }
            Next::Event(event) => {
                out.put(EventBlock::new(&event, submitted.logprobs)?.into_raw());
                MLXRT_NEXT_EVENT
            }
        };
        // SAFETY: not NULL, so writable.
        unsafe { state.write_unaligned(next) };
        Ok(())
    })
}

/// Ends a request, running or waiting, within one decode step or one chunk of the prompt; its end is
/// MLXRT_STOPPED_CANCELLED. After its end this does nothing. The session stays usable and keeps what was made.
///
/// Threads: any, also from inside every callback, and from a signal handler: it is async-signal-safe.
/// Blocks: no; it takes no lock and no memory.
/// Errors: none; a handle that is not a live request does nothing.
/// Owns: nothing.
#[no_mangle]
pub unsafe extern "C" fn mlxrt_request_cancel(request: *mut mlxrt_request) {
    // As mlxrt_session_cancel.
    table().send_cancel::<Submitted>(request);
}

/// Waits for the end of a request, dropping events that nobody has taken, and tells what it did and what it cost. Can
/// be called again.
///
/// Threads: any; with timeout_ms 0 also from event and progress callbacks.
/// Blocks: until the request has ended, at most timeout_ms; 0 does not wait.
/// Errors: those of mlxrt_generate; TIMEOUT when it has not ended by then.
/// Owns: nothing.
#[no_mangle]
pub unsafe extern "C" fn mlxrt_request_result(
    request: *mut mlxrt_request,
    timeout_ms: u32,
    out: *mut mlxrt_result,
) -> *mut mlxrt_error {
    // SAFETY: the caller's struct is NULL or as large as its struct_size says.
    unsafe {
        reporting("mlxrt_request_result", waiting(timeout_ms), out, || {
            let submitted = table().get::<Submitted>(request, "request")?;
            submitted.request.result(timeout(timeout_ms))
        })
    }
}

/// Gives a request up and cancels it. When this returns, its notify neither runs nor will. NULL does nothing.
///
/// Threads: any, but not from notify.
/// Blocks: until a notify that runs has returned.
/// Errors: none; a handle that is not a live request is logged.
/// Owns: takes the handle; events that were taken stay yours.
#[no_mangle]
pub unsafe extern "C" fn mlxrt_request_free(request: *mut mlxrt_request) {
    if !request.is_null() {
        quietly("mlxrt_request_free", Use::Query, || {
            table()
                .remove::<Submitted>(request, "request")?
                .request
                .close();
            Ok(())
        });
    }
}

/// Gives the log-probability of each token of target: what the model said of it after the session's tokens, those of prefix, and
/// the target's before it. (The logarithm is natural, of the softmax in f32 of the model's own logits, as with
/// MLXRT_GEN_LOGPROBS.) prefix is as mlxrt_generate's input: text and tokens follow the session's, messages stand in their place,
/// and NULL is nothing. target is text or tokens, made into tokens by itself and without a BOS. The session stays as it is; what
/// it and others have computed of the beginning is used, and so are its adapters. Any length is computed in chunks, and the
/// logits of a few tokens at a time. With the first token of a text as the prefix and the others as the target, the exponential
/// of the mean of what comes out, times -1, is the text's perplexity.
///
/// Threads: any; progress runs on this one, with tokens computed and in all. A session does one blocking call at a time.
/// Blocks: until all is computed; progress and mlxrt_session_cancel may stop it (CANCELLED), timeout_ms ends it (TIMEOUT).
/// Errors: INVALID_ARGUMENT names the field, also when target is empty, or there is nothing before it; CONTEXT_FULL; BUSY, also
/// while submitted requests run or wait; BAD_MODEL when the model's numbers are not finite; DEVICE; OUT_OF_MEMORY; SUSPENDED.
/// Owns: logprobs is yours: mlxrt_free.
#[no_mangle]
pub unsafe extern "C" fn mlxrt_score(
    session: *mut mlxrt_session,
    prefix: *const mlxrt_input,
    target: *const mlxrt_input,
    options: *const mlxrt_call_options,
    logprobs: *mut *mut f32,
    count: *mut usize,
) -> *mut mlxrt_error {
    // SAFETY: the caller's outputs are NULL or writable.
    let out = unsafe { ArrayOut::clear(logprobs, count, "logprobs") };
    call("mlxrt_score", Use::Blocking, || {
        let out = out?;
        let session = table().get::<Session>(session, "session")?;
        // SAFETY: the caller's structs and what they point to are readable.
        let (prefix, target, options) = unsafe {
            let options: mlxrt_call_options = read_options(options, "options")?;
            let prefix = match prefix.is_null() {
                true => Input::nothing(),
                false => read_input_of(prefix, "prefix")?,
            };
            (prefix, read_input_of(target, "target")?, options)
        };
        let (progress, data) = (options.progress, options.progress_data);
        let mut tell = |done, total| report(progress, data, done, total);
        let on_progress = progress.map(|_| &mut tell as OnProgress);
        let timeout = time_limit(options.timeout_ms);
        out.put(&score(&session, &prefix, &target, timeout, on_progress)?)
    })
}

/// As `read_input`, of an argument with this name.
///
/// # Safety
/// As `read_input`'s.
unsafe fn read_input_of(input: *const mlxrt_input, name: &str) -> Result<Input> {
    // SAFETY: as this function's own contract.
    let read = unsafe { read_input(input) };
    read.map_err(|error| {
        let mut error = of_argument(error, name);
        error.message = error.message.replace("input.", &format!("{name}."));
        error
    })
}

/// A request that was submitted.
struct Submitted {
    request: Request,
    logprobs: bool,
}

impl Handle for Submitted {
    type C = mlxrt_request;
    const KIND: Kind = Kind::Request;
    const BIND: Option<fn(&Self, Mailbox)> = Some(|submitted, mailbox| {
        submitted.request.bind(mailbox);
    });
}

/// Asking without waiting is a query.
fn waiting(timeout_ms: u32) -> Use {
    if timeout_ms == 0 {
        Use::Query
    } else {
        Use::Blocking
    }
}

/// `call` for functions with a result that is filled either way; its place may be NULL, and is looked at first.
///
/// # Safety
/// `out` is NULL or as large as its struct_size says.
unsafe fn reporting(
    name: &str,
    usage: Use,
    out: *mut mlxrt_result,
    work: impl FnOnce() -> Result<(Report, Result<()>)>,
) -> *mut mlxrt_error {
    // SAFETY: as this function's own contract.
    let place = (!out.is_null())
        .then(|| unsafe { Out::check(out, "out") })
        .transpose();
    let mut report = None;
    let error = call(name, usage, || {
        if let Err(error) = &place {
            return Err(error.clone());
        }
        let (filled, outcome) = work()?;
        report = Some(filled);
        outcome
    });
    if let Ok(Some(place)) = place {
        let report = report.unwrap_or_else(|| {
            // SAFETY: the error was just made, or is NULL, which never happens without a report.
            let code = unsafe { super::error::mlxrt_error_code(error) };
            Report::refused(code)
        });
        place.write(result(&report));
    }
    error
}

fn result(report: &Report) -> mlxrt_result {
    mlxrt_result {
        struct_size: 0,
        stop: match report.stop {
            Stop::Eos => MLXRT_STOPPED_EOS,
            Stop::String => MLXRT_STOPPED_STRING,
            Stop::Token => MLXRT_STOPPED_TOKEN,
            Stop::ToolCall => MLXRT_STOPPED_TOOL_CALL,
            Stop::Length => MLXRT_STOPPED_LENGTH,
            Stop::Context => MLXRT_STOPPED_CONTEXT,
            Stop::Callback => MLXRT_STOPPED_CALLBACK,
            Stop::Cancelled => MLXRT_STOPPED_CANCELLED,
            Stop::Timeout => MLXRT_STOPPED_TIMEOUT,
            Stop::Grammar => MLXRT_STOPPED_GRAMMAR,
            Stop::Error => MLXRT_STOPPED_ERROR,
        },
        stop_index: report.stop_index,
        error_code: report.error_code,
        seed: report.seed,
        prompt_tokens: report.prompt_tokens,
        cached_tokens: report.cached_tokens,
        generated_tokens: report.generated_tokens,
        thinking_tokens: report.thinking_tokens,
        drafted: report.drafted,
        accepted: report.accepted,
        queue_ns: report.queue_ns,
        prefill_ns: report.prefill_ns,
        first_token_ns: report.first_token_ns,
        decode_ns: report.decode_ns,
        total_ns: report.total_ns,
        peak_bytes: report.peak_bytes,
        active_bytes: report.active_bytes,
        kv_bytes: report.kv_bytes,
    }
}

/// Calls the host; false stops.
fn send(
    function: mlxrt_event_fn,
    user_data: *mut c_void,
    event: &Event,
    logprobs: bool,
) -> Result<bool> {
    let Some(function) = function else {
        return Ok(true);
    };
    let block = EventBlock::new(event, logprobs)?;
    // SAFETY: the host gave the function for calls with this user_data during this call; the event lives through it.
    let answer = with_callback_mark(Callback::Event, || unsafe {
        function(user_data, block.as_ptr())
    });
    Ok(answer != MLXRT_RETURN_STOP)
}
