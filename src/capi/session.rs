//! Sessions: a conversation or text in progress.

use std::ffi::c_char;
use std::sync::Arc;

use super::adapter::tensor;
use super::boundary::{call, quietly, Use};
use super::error::mlxrt_error;
use super::handle::{table, Handle, Kind};
use super::model::report;
use super::structs::{read_options, Out};
use super::text::{path_arg, ArrayOut, HandleOut, TextOut};
use super::time::deadline;
use super::types::{
    mlxrt_call_options, mlxrt_model, mlxrt_session, mlxrt_session_options, mlxrt_session_state,
    mlxrt_tensor,
};
use crate::error::{Error, Result};
use crate::mail::Mailbox;
use crate::runtime::adapter::{Adapter, LoadOptions};
use crate::runtime::model::Model;
use crate::runtime::session::{Session, SessionOptions};
use crate::runtime::staging::SaveOptions;

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

/// Gives the last answer in the form that messages takes, as JSON: {"role":"assistant","content":"..."}. A chat is:
/// append it to the messages, append the user's next one, generate.
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

/// Gives the keys that a layer's attention looks at, behind the rotary embedding and as f32, whatever type they are kept in:
/// [kv_heads, tokens, head_dim], where the tokens are the first of mlxrt_session_tokens that are computed, mostly all but the
/// last one. Where a window has turned they are its first tokens that are kept and then the newest, in the order of time. A
/// layer that looks at an earlier layer's keys gives those. Nothing is computed for it: after mlxrt_memory_trim, or with adapters
/// that were applied since, there is nothing before the next request.
///
/// Threads: any.
/// Blocks: until the engine's running step is done.
/// Errors: INVALID_ARGUMENT when the model has no such layer; UNSUPPORTED when the layer has no keys, but a state or latents;
/// NOT_FOUND when nothing of the session is computed; BUSY while a request of the session runs or waits; SUSPENDED;
/// OUT_OF_MEMORY before anything is copied; DEVICE.
/// Owns: out.data is yours: mlxrt_free.
#[no_mangle]
pub unsafe extern "C" fn mlxrt_inspect_attention(
    session: *mut mlxrt_session,
    layer: u32,
    out: *mut mlxrt_tensor,
) -> *mut mlxrt_error {
    call("mlxrt_inspect_attention", Use::Blocking, || {
        // SAFETY: the caller's struct is NULL or as large as its struct_size says.
        let out = unsafe { Out::check(out, "out")? };
        let session = table().get::<Session>(session, "session")?;
        out.write(tensor(session.inspect_attention(layer)?)?);
        Ok(())
    })
}

/// Writes a session to a file: its tokens, its last answer, its options, which adapters are applied to it, and what is computed
/// with these. The file is a safetensors file that mlx-lm 0.32 reads as a prompt cache. What was there is replaced only when all
/// of it is on the disk; the folder is made where it does not exist. No request of the session begins meanwhile; those of others
/// go on.
///
/// Threads: any; progress runs on this one.
/// Blocks: while it writes; progress may stop it, and so do mlxrt_session_cancel and mlxrt_session_free (CANCELLED), timeout_ms ends
/// it (TIMEOUT).
/// Errors: BUSY while a request of the session runs or waits; IO names the file: also for a folder, a FIFO, a socket or a device in
/// its place, and for what is larger than the process may write (RLIMIT_FSIZE; of the signal of that mlxrt_adapter_save tells);
/// OUT_OF_MEMORY; DEVICE. The session is as it was.
/// Owns: nothing.
#[no_mangle]
pub unsafe extern "C" fn mlxrt_session_save(
    session: *mut mlxrt_session,
    path: *const c_char,
    options: *const mlxrt_call_options,
) -> *mut mlxrt_error {
    call("mlxrt_session_save", Use::Blocking, || {
        let session = table().get::<Session>(session, "session")?;
        // SAFETY: a path is NUL-terminated; options are NULL or as large as their struct_size says.
        let (path, options): (_, mlxrt_call_options) =
            unsafe { (path_arg(path, "path")?, read_options(options, "options")?) };
        let watch = SaveOptions {
            deadline: deadline(options.timeout_ms),
            progress: &mut |done, total| {
                report(options.progress, options.progress_data, done, total)
            },
        };
        session.save(&path, watch)
    })
}

/// Makes a session of a file that mlxrt_session_save wrote, or save_prompt_cache of mlx-lm 0.31 or 0.32 with the tokens in its
/// metadata: metadata={"tokens": json.dumps(tokens)}. It goes on as the one that was saved would have, and computes nothing again.
/// Adapters that were applied to that one are found among those of the model whose handles are live, by their weights, and are
/// applied again.
///
/// Threads: any; progress runs on this one.
/// Blocks: while it reads; progress may stop it (CANCELLED), timeout_ms ends it (TIMEOUT).
/// Errors: NOT_FOUND; IO; BAD_MODEL for a file that is damaged, was cut short or is no session; INCOMPATIBLE for one of
/// another model (weights, config.json, tokenizer, chat template or layers are named), for more tokens than the model's context, and for an
/// adapter that is not loaded; UNSUPPORTED for a newer format, for caches that this version does not have, and for mlx-lm's
/// files without tokens; OUT_OF_MEMORY; SUSPENDED; DEVICE.
/// Owns: out is yours: mlxrt_session_free. The session keeps what it needs of the model and the adapters alive.
#[no_mangle]
pub unsafe extern "C" fn mlxrt_session_load(
    model: *mut mlxrt_model,
    path: *const c_char,
    options: *const mlxrt_call_options,
    out: *mut *mut mlxrt_session,
) -> *mut mlxrt_error {
    // SAFETY: the caller's output is NULL or writable.
    let out = unsafe { HandleOut::clear(out, "out") };
    call("mlxrt_session_load", Use::Blocking, || {
        let out = out?;
        let model = table().get::<Model>(model, "model")?;
        // SAFETY: a path is NUL-terminated; options are NULL or as large as their struct_size says.
        let (path, options): (_, mlxrt_call_options) =
            unsafe { (path_arg(path, "path")?, read_options(options, "options")?) };
        let watch = LoadOptions {
            deadline: deadline(options.timeout_ms),
            progress: &mut |done, total| {
                report(options.progress, options.progress_data, done, total)
            },
        };
        let adapters = table().all::<Adapter>();
        let session = Session::load(model, &path, &adapters, watch)?;
        out.put(table().insert(Arc::new(session))?);
        Ok(())
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
