//! Sessions: a conversation or text in progress.

use std::ffi::c_char;
use std::sync::Arc;

use super::boundary::{call, quietly, Use};
use super::error::mlxrt_error;
use super::handle::{table, Handle, Kind};
use super::structs::{read_options, Out};
use super::text::{ArrayOut, HandleOut, TextOut};
use super::types::{
    mlxrt_call_options, mlxrt_model, mlxrt_session, mlxrt_session_options, mlxrt_session_state,
};
use crate::error::{Error, Result};
use crate::mail::Mailbox;
use crate::runtime::model::Model;
use crate::runtime::session::{Session, SessionOptions};

impl Handle for Session {
    type C = mlxrt_session;
    const KIND: Kind = Kind::Session;
    const BIND: Option<fn(&Self, Mailbox)> = Some(Session::bind);
}

/// What is not there yet is refused, never ignored.
pub(super) fn read_session_options(options: &mlxrt_session_options) -> Result<SessionOptions> {
    let unsupported = [
        (
            "kv_bits",
            u64::from(options.kv_bits),
            "quantised keys and values",
        ),
        (
            "kv_group_size",
            u64::from(options.kv_group_size),
            "quantised keys and values",
        ),
    ];
    match unsupported.into_iter().find(|(_, value, _)| *value != 0) {
        None => Ok(SessionOptions {
            context: options.context,
            window: options.window,
            keep: options.keep,
            kv_limit: options.kv_limit,
        }),
        Some((field, _, what)) => Err(Error::unsupported(format!(
            "options.{field}: this version does not have {what}"
        ))),
    }
}

/// Starts a session on a model. It holds no memory to speak of before its first request.
///
/// Threads: any.
/// Blocks: no.
/// Errors: INVALID_ARGUMENT names the option; CANCELLED when the engine was shut down by force.
/// Owns: out is yours: mlxrt_session_free. The session keeps what it needs of the model alive.
#[no_mangle]
pub unsafe extern "C" fn mlxrt_session_create(
    model: *mut mlxrt_model,
    options: *const mlxrt_session_options,
    out: *mut *mut mlxrt_session,
) -> *mut mlxrt_error {
    // SAFETY: the caller's output is NULL or writable.
    let out = unsafe { HandleOut::clear(out, "out") };
    call("mlxrt_session_create", Use::Query, || {
        let out = out?;
        let model = table().get::<Model>(model, "model")?;
        // SAFETY: the caller's options are NULL or as large as their struct_size says.
        let options = unsafe { read_options(options, "options")? };
        let session = Session::new(model, read_session_options(&options)?)?;
        out.put(table().insert(Arc::new(session))?);
        Ok(())
    })
}

/// Gives a session up. A call that runs on it ends as cancelled. NULL does nothing.
///
/// Threads: any.
/// Blocks: no; when it was the last thing that held the engine, until the engine has ended.
/// Errors: none; a handle that is not a live session is logged.
/// Owns: takes the handle.
#[no_mangle]
pub unsafe extern "C" fn mlxrt_session_free(session: *mut mlxrt_session) {
    if !session.is_null() {
        quietly("mlxrt_session_free", Use::Query, || {
            table().remove::<Session>(session, "session")?.close();
            Ok(())
        });
    }
}

/// Makes a session of its own out of another: with the same tokens, options and adapters. What is computed is shared until
/// one of the two goes on, so that a fork costs no more than its tokens, however long the session is.
///
/// Threads: any.
/// Blocks: no.
/// Errors: BUSY while a request of the session runs or waits; CANCELLED when the engine was shut down by force.
/// Owns: out is yours: mlxrt_session_free. The two may be freed in any order.
#[no_mangle]
pub unsafe extern "C" fn mlxrt_session_fork(
    session: *mut mlxrt_session,
    options: *const mlxrt_call_options,
    out: *mut *mut mlxrt_session,
) -> *mut mlxrt_error {
    // SAFETY: the caller's output is NULL or writable.
    let out = unsafe { HandleOut::clear(out, "out") };
    call("mlxrt_session_fork", Use::Query, || {
        let out = out?;
        let session = table().get::<Session>(session, "session")?;
        // Nothing here takes long enough for what they say. SAFETY: NULL or as large as their struct_size says.
        let _: mlxrt_call_options = unsafe { read_options(options, "options")? };
        out.put(table().insert(Arc::new(session.fork()?))?);
        Ok(())
    })
}

/// Keeps the first tokens of a session, as mlxrt_session_tokens gives them, and forgets the rest, the last answer too. The
/// next request goes on from there; what is computed of them is kept where the model's caches can be cut.
///
/// Threads: any.
/// Blocks: no.
/// Errors: INVALID_ARGUMENT when the session holds fewer; BUSY while a request of it runs or waits.
/// Owns: nothing.
#[no_mangle]
pub unsafe extern "C" fn mlxrt_session_truncate(
    session: *mut mlxrt_session,
    tokens: usize,
) -> *mut mlxrt_error {
    call("mlxrt_session_truncate", Use::Query, || {
        table().get::<Session>(session, "session")?.truncate(tokens)
    })
}

/// Tells where a session is: tokens held, room, keys and values computed, whether it is busy.
///
/// Threads: any.
/// Blocks: no.
/// Errors: none but those of every function.
/// Owns: nothing.
#[no_mangle]
pub unsafe extern "C" fn mlxrt_session_info(
    session: *const mlxrt_session,
    out: *mut mlxrt_session_state,
) -> *mut mlxrt_error {
    call("mlxrt_session_info", Use::Query, || {
        // SAFETY: the caller's struct is NULL or as large as its struct_size says.
        let out = unsafe { Out::check(out, "out")? };
        let info = table().get::<Session>(session, "session")?.info();
        out.write(mlxrt_session_state {
            struct_size: 0,
            flags: 0,
            tokens: info.tokens,
            context: info.context,
            kv_tokens: info.kv_tokens,
            kv_bytes: info.kv_bytes,
            busy: info.busy.into(),
            adapters: info.adapters,
        });
        Ok(())
    })
}

/// Gives the tokens that the session holds: its ledger. It ends with the last token that was delivered.
///
/// Threads: any.
/// Blocks: no.
/// Errors: none but those of every function.
/// Owns: ids is yours: mlxrt_free.
#[no_mangle]
pub unsafe extern "C" fn mlxrt_session_tokens(
    session: *const mlxrt_session,
    ids: *mut *mut i32,
    count: *mut usize,
) -> *mut mlxrt_error {
    // SAFETY: the caller's outputs are NULL or writable.
    let out = unsafe { ArrayOut::clear(ids, count, "ids") };
    call("mlxrt_session_tokens", Use::Query, || {
        out?.put(&table().get::<Session>(session, "session")?.tokens()?)
    })
}

/// Gives the last answer in the form that messages takes, as JSON: {"role":"assistant","content":"..."}, with
/// "reasoning_content" where the model thought, and with "tool_calls" where it called tools, each
/// {"id","type":"function","function":{"name","arguments"}}, the arguments as a string of JSON. A chat is: append it to the
/// messages, append the user's next one or, for each call, {"role":"tool","tool_call_id","content"}, generate.
///
/// Threads: any.
/// Blocks: no.
/// Errors: NOT_FOUND when there is no answer yet.
/// Owns: json is yours: mlxrt_free.
#[no_mangle]
pub unsafe extern "C" fn mlxrt_session_message(
    session: *const mlxrt_session,
    json: *mut *mut c_char,
    len: *mut usize,
) -> *mut mlxrt_error {
    // SAFETY: the caller's outputs are NULL or writable.
    let out = unsafe { TextOut::clear(json, len, "json") };
    call("mlxrt_session_message", Use::Query, || {
        out?.put(&table().get::<Session>(session, "session")?.message()?)
    })
}

/// Ends what runs on the session now, within one decode step or one chunk of the prompt; a later request is not
/// touched. The session stays usable and keeps what was delivered.
///
/// Threads: any, also from inside every callback, and from a signal handler: it is async-signal-safe.
/// Blocks: no; it takes no lock and no memory.
/// Errors: none; a handle that is not a live session does nothing.
/// Owns: nothing.
#[no_mangle]
pub unsafe extern "C" fn mlxrt_session_cancel(session: *mut mlxrt_session) {
    // Not inside the boundary, which looks at what belongs to the thread and may log.
    table().send_cancel::<Session>(session);
}
