//! Models: looking at a folder, loading it, tokens and prompts.

use std::ffi::{c_char, c_void};
use std::sync::Arc;

use super::adapter::read_adapters;
use super::boundary::{call, quietly, with_callback_mark, Callback, Use};
use super::constants::*;
use super::error::mlxrt_error;
use super::handle::{table, Handle, Kind};
use super::input::read_input;
use super::session::read_session_options;
use super::structs::{check_flags, read_options};
use super::text::{opt_path_arg, path_arg, slice_arg, str_arg, ArrayOut, HandleOut, TextOut};
use super::time::deadline;
use super::types::{
    mlxrt_adapter, mlxrt_call_options, mlxrt_input, mlxrt_load_options, mlxrt_model,
    mlxrt_progress_fn, mlxrt_session_options,
};
use crate::error::Result;
use crate::runtime::generate::{render, tokens};
use crate::runtime::model::{self, LoadOptions, Model};
use crate::runtime::model_save;
use crate::runtime::staging::SaveOptions;
use crate::text::Specials;

impl Handle for Model {
    type C = mlxrt_model;
    const KIND: Kind = Kind::Model;
}

fn draft_path(options: &mlxrt_load_options) -> Result<Option<String>> {
    // SAFETY: the field is NULL or NUL-terminated.
    let path = unsafe { opt_path_arg(options.draft_path, "options.draft_path")? };
    Ok(path.map(|path| path.to_string_lossy().into_owned()))
}

/// Calls the host's progress function, if there is one; false stops.
pub(super) fn report(
    progress: mlxrt_progress_fn,
    user_data: *mut c_void,
    done: u64,
    total: u64,
) -> bool {
    let Some(progress) = progress else {
        return true;
    };
    // SAFETY: the host gave the function for calls with this user_data during this call.
    let answer = with_callback_mark(Callback::Event, || unsafe {
        progress(user_data, done, total)
    });
    answer != MLXRT_RETURN_STOP
}

/// Tells what a model folder holds and what it would need, as JSON, without reading its weights: "model_type",
/// "parameters", "weight_bytes", "quantization", "repacked" (what became of weights that another program packed),
/// "context", "vocab_size", sizes of the network, "eos_token_ids",
/// "chat_format", "thinking" (whether it has markers of thinking), "tool_calls" (the format of its calls, or null),
/// "mtp" (whether it has a head of its own that predicts further tokens),
/// "session_context", "kv_quantization" (what kv_bits make of it, or null), "kv_bytes" (of one full session), "estimated_bytes", and
/// "warnings": sentences about
/// what is odd in the folder and does no harm. "estimated_bytes" is the most that a process takes which loads the model and
/// fills that session, as mlxrt_memory's peak_bytes counts it. With a memory limit of that much it can; where the CPU
/// computes and the weights have one float type it is at most 15 % and 32 KiB above what is measured, elsewhere it is
/// estimated with more to spare. What an adapter, another session, training and a request with log-probabilities or
/// penalties take comes on top.
/// What mlxrt_model_load refuses is refused here, in the same words: the headers of all files are checked, and the
/// tokenizer and the chat template are read.
/// path is a folder, or the id of a model that is in the local Hugging Face cache. With a draft model "draft" tells of it (else
/// null), and "kv_bytes" and "estimated_bytes" are of both.
///
/// Threads: any.
/// Blocks: while it reads headers and the tokenizer.
/// Errors: NOT_FOUND, IO, BAD_MODEL, UNSUPPORTED, each naming the file and key; INCOMPATIBLE for a draft with other tokens.
/// Owns: json is yours: mlxrt_free.
#[no_mangle]
pub unsafe extern "C" fn mlxrt_model_inspect(
    path: *const c_char,
    load: *const mlxrt_load_options,
    session: *const mlxrt_session_options,
    json: *mut *mut c_char,
    len: *mut usize,
) -> *mut mlxrt_error {
    // SAFETY: the caller's outputs are NULL or writable.
    let out = unsafe { TextOut::clear(json, len, "json") };
    call("mlxrt_model_inspect", Use::Blocking, || {
        let out = out?;
        // SAFETY: a path is NUL-terminated; options are NULL or as large as their struct_size says.
        let (path, load, session) = unsafe {
            (
                path_arg(path, "path")?,
                read_options(load, "load")?,
                read_options(session, "session")?,
            )
        };
        let draft = draft_path(&load)?;
        out.put(&model::inspect(
            &path.to_string_lossy(),
            load.context,
            load.flags & MLXRT_LOAD_FOLLOW_LINKS != 0,
            draft.as_deref(),
            &read_session_options(&session),
        )?)
    })
}

/// Loads a model: its config, tokenizer and weights, each checked before it is used. path is a folder in mlx-lm's
/// form, or the id of a model that is in the local Hugging Face cache. Starts the engine if it does not run. The weights
/// decide: the index is a hint, and so is what config.json says of their quantisation; where they differ, and where
/// generation_config.json cannot be read, a warning goes to the log and to mlxrt_model_info. Files of the folder may be
/// links that stay inside it (or inside the model's part of the cache); with MLXRT_LOAD_FOLLOW_LINKS they may lead anywhere. That
/// holds, too, where a folder or a file is exchanged with a link while it is read. Nothing but regular files is opened.
///
/// Limits: config.json and any other small JSON file 16 MB and 1,000,000 values, the index 64 MB, tokenizer.json 128 MB and
/// 4,194,304 ids, the header of a weight file 100 MB (of 1,000,000 bytes), 100,000 tensors of 8 dimensions in 4,096 weight files,
/// 1,024 layers. What is over one is BAD_MODEL. A chat template of more than 1 MB makes conversations UNSUPPORTED, and so does one
/// that takes more than 20 million steps or more than 64 MB at once. SECURITY.md has all limits.
///
/// Threads: any; progress runs on this one.
/// Blocks: while it reads the files; progress may stop it and a forced shutdown does (CANCELLED), timeout_ms ends it (TIMEOUT), each
/// within 50 ms or the time of one read of 8 MB.
/// Errors: NOT_FOUND, IO, BAD_MODEL, UNSUPPORTED, each naming the file and key; INCOMPATIBLE for a draft with other tokens;
/// OUT_OF_MEMORY, CANCELLED, TIMEOUT, SUSPENDED, DEVICE.
/// Owns: out is yours: mlxrt_model_free.
#[no_mangle]
pub unsafe extern "C" fn mlxrt_model_load(
    path: *const c_char,
    options: *const mlxrt_load_options,
    out: *mut *mut mlxrt_model,
) -> *mut mlxrt_error {
    // SAFETY: the caller's output is NULL or writable.
    let out = unsafe { HandleOut::clear(out, "out") };
    call("mlxrt_model_load", Use::Blocking, || {
        let out = out?;
        // SAFETY: a path is NUL-terminated; options are NULL or as large as their struct_size says.
        let (path, options) =
            unsafe { (path_arg(path, "path")?, read_options(options, "options")?) };
        let draft = draft_path(&options)?;
        let loaded = model::load(
            &path.to_string_lossy(),
            LoadOptions {
                context: options.context,
                follow_links: options.flags & MLXRT_LOAD_FOLLOW_LINKS != 0,
                draft: draft.as_deref(),
                deadline: deadline(options.timeout_ms),
                progress: &mut |done, total| {
                    report(options.progress, options.progress_data, done, total)
                },
            },
        )?;
        out.put(table().insert(Arc::new(loaded))?);
        Ok(())
    })
}

/// Tells what a loaded model is, as JSON: as mlxrt_model_inspect without the session's part.
///
/// Threads: any.
/// Blocks: no.
/// Errors: none but those of every function.
/// Owns: json is yours: mlxrt_free.
#[no_mangle]
pub unsafe extern "C" fn mlxrt_model_info(
    model: *const mlxrt_model,
    json: *mut *mut c_char,
    len: *mut usize,
) -> *mut mlxrt_error {
    // SAFETY: the caller's outputs are NULL or writable.
    let out = unsafe { TextOut::clear(json, len, "json") };
    call("mlxrt_model_info", Use::Query, || {
        out?.put(table().get::<Model>(model, "model")?.info())
    })
}

/// Writes a model as a folder that mlx-lm and this library load: its weights, with adapters fused into them, each at
/// scales times its own scale (NULL = 1 each), and the config, tokenizer and chat template that it was loaded with. Weights
/// are quantised as they were, module by module, and the others keep their types; what no adapter changes stays as it is,
/// byte for byte. An adapter that tells a tied embedding and output layer apart gives the model an output layer of its own.
/// The folder gets its place, or its new files, when all of them are on the disk. A model that is in the folder is replaced,
/// also if it is the one that was loaded; other files stay. Files come from the folder that was loaded, and go to the one that is
/// there when the call begins, also where a link takes its place meanwhile.
///
/// Threads: any; progress runs on this one. Sessions of the model go on in between.
/// Blocks: while it computes and writes; progress, in bytes of weights, may stop it (CANCELLED), timeout_ms ends it
/// (TIMEOUT). A suspension makes it wait.
/// Errors: IO names the file: also for a FIFO, a socket or a device in its place, and for what is larger than the process may write
/// (RLIMIT_FSIZE). The signal of that, SIGXFSZ, is held off on this thread and taken back on Linux; on macOS, where the process
/// gets it, a host with such a limit has to ignore it, or it ends.
/// BAD_MODEL where a file of the folder that was loaded is gone; INCOMPATIBLE for an adapter of
/// another model, for two that replace the same weights, one that does and has a scale, and for weights that become too
/// large for their type; INVALID_ARGUMENT for an adapter that is there twice and for scales that are not finite;
/// OUT_OF_MEMORY; SUSPENDED; DEVICE. After each of them, and after CANCELLED and TIMEOUT, what was in the folder is there as it
/// was, and what was made is gone again, folders above path included.
/// Owns: nothing.
#[no_mangle]
pub unsafe extern "C" fn mlxrt_model_save(
    model: *mut mlxrt_model,
    adapters: *const *mut mlxrt_adapter,
    scales: *const f32,
    count: usize,
    path: *const c_char,
    options: *const mlxrt_call_options,
) -> *mut mlxrt_error {
    call("mlxrt_model_save", Use::Blocking, || {
        let model = table().get::<Model>(model, "model")?;
        // SAFETY: the caller's arrays are NULL or have count elements; a path is NUL-terminated; options are NULL or as
        // large as their struct_size says.
        let (adapters, path, options): (_, _, mlxrt_call_options) = unsafe {
            (
                read_adapters(adapters, scales, count)?,
                path_arg(path, "path")?,
                read_options(options, "options")?,
            )
        };
        let watch = SaveOptions {
            deadline: deadline(options.timeout_ms),
            progress: &mut |done, total| {
                report(options.progress, options.progress_data, done, total)
            },
        };
        model_save::save(&model, &adapters, &path, watch)
    })
}

/// Gives a model up. What sessions still need of it lives until the last of them is freed. NULL does nothing.
///
/// Threads: any.
/// Blocks: no; when it was the last thing that held the engine, until the engine has ended.
/// Errors: none; a handle that is not a live model is logged.
/// Owns: takes the handle.
#[no_mangle]
pub unsafe extern "C" fn mlxrt_model_free(model: *mut mlxrt_model) {
    if !model.is_null() {
        quietly("mlxrt_model_free", Use::Query, || {
            table().remove::<Model>(model, "model").map(drop)
        });
    }
}

/// Turns text into token ids. flags are MLXRT_TOKENIZE_*.
///
/// Threads: any.
/// Blocks: no.
/// Errors: INVALID_ARGUMENT for text that is not UTF-8, has more than 64 MB, or more than 1 MB without a place where it can be
/// divided (a word of 256 KB); OUT_OF_MEMORY; BAD_MODEL when a pattern of tokenizer.json is given up.
/// Owns: ids is yours: mlxrt_free.
#[no_mangle]
pub unsafe extern "C" fn mlxrt_tokenize(
    model: *const mlxrt_model,
    text: *const c_char,
    len: usize,
    flags: u32,
    ids: *mut *mut i32,
    count: *mut usize,
) -> *mut mlxrt_error {
    // SAFETY: the caller's outputs are NULL or writable.
    let out = unsafe { ArrayOut::clear(ids, count, "ids") };
    call("mlxrt_tokenize", Use::Query, || {
        let out = out?;
        check_flags(
            flags,
            MLXRT_TOKENIZE_ADD_SPECIAL | MLXRT_TOKENIZE_SPECIAL_AS_TEXT,
            "flags",
        )?;
        let model = table().get::<Model>(model, "model")?;
        // SAFETY: the caller's text has `len` bytes, or a NUL.
        let text = unsafe { str_arg(text, len, "text")? };
        let specials = match flags & MLXRT_TOKENIZE_SPECIAL_AS_TEXT {
            0 => Specials::Recognise,
            _ => Specials::AsText,
        };
        let add_special = flags & MLXRT_TOKENIZE_ADD_SPECIAL != 0;
        out.put(&model.tokenize(&text, specials, add_special)?)
    })
}

/// Turns token ids into text; bytes that are no character come out as U+FFFD. flags are MLXRT_DETOKENIZE_*.
///
/// Threads: any.
/// Blocks: no.
/// Errors: INVALID_ARGUMENT names an id outside the vocabulary.
/// Owns: text is yours: mlxrt_free.
#[no_mangle]
pub unsafe extern "C" fn mlxrt_detokenize(
    model: *const mlxrt_model,
    ids: *const i32,
    count: usize,
    flags: u32,
    text: *mut *mut c_char,
    len: *mut usize,
) -> *mut mlxrt_error {
    // SAFETY: the caller's outputs are NULL or writable.
    let out = unsafe { TextOut::clear(text, len, "text") };
    call("mlxrt_detokenize", Use::Query, || {
        let out = out?;
        check_flags(flags, MLXRT_DETOKENIZE_SKIP_SPECIAL, "flags")?;
        let model = table().get::<Model>(model, "model")?;
        // SAFETY: the caller's array has `count` ids.
        let ids = unsafe { slice_arg(ids, count, "ids")? };
        out.put(
            &model
                .tokenizer()
                .detokenize(&ids, flags & MLXRT_DETOKENIZE_SKIP_SPECIAL != 0)?,
        )
    })
}

/// Writes a conversation as the prompt that the model sees. input must have messages.
///
/// Threads: any.
/// Blocks: no.
/// Errors: INVALID_ARGUMENT names the message and key; UNSUPPORTED for what the model's chat format does not have.
/// Owns: text is yours: mlxrt_free.
#[no_mangle]
pub unsafe extern "C" fn mlxrt_render(
    model: *const mlxrt_model,
    input: *const mlxrt_input,
    text: *mut *mut c_char,
    len: *mut usize,
) -> *mut mlxrt_error {
    // SAFETY: the caller's outputs are NULL or writable.
    let out = unsafe { TextOut::clear(text, len, "text") };
    call("mlxrt_render", Use::Query, || {
        let out = out?;
        let model = table().get::<Model>(model, "model")?;
        // SAFETY: the caller's input and what it points to are readable.
        let input = unsafe { read_input(input)? };
        out.put(&render(&model, &input)?)
    })
}

/// Turns an input into the token ids that mlxrt_generate would take in on a fresh session: text with the tokenizer's BOS
/// unless it has one or MLXRT_INPUT_NO_BOS is set, tokens as they are, messages through the chat template with every flag,
/// tool and argument of the input. Special tokens in the content of messages are text here as there, so the count is exact,
/// which mlxrt_tokenize of what mlxrt_render gives is not. A session that has tokens already puts text and tokens behind
/// them, without a BOS; messages are the whole history in any case. ids may be NULL where only the count is wanted.
///
/// Threads: any.
/// Blocks: no.
/// Errors: those that mlxrt_generate has for its input: INVALID_ARGUMENT names the field, message and key, and is given for
/// an input without tokens; UNSUPPORTED for what the model's chat format does not have.
/// Owns: ids is yours: mlxrt_free.
#[no_mangle]
pub unsafe extern "C" fn mlxrt_count_tokens(
    model: *const mlxrt_model,
    input: *const mlxrt_input,
    ids: *mut *mut i32,
    count: *mut usize,
) -> *mut mlxrt_error {
    // SAFETY: the caller's outputs are NULL or writable.
    let out = unsafe { ArrayOut::clear_count(ids, count) };
    call("mlxrt_count_tokens", Use::Query, || {
        let out = out?;
        let model = table().get::<Model>(model, "model")?;
        // SAFETY: the caller's input and what it points to are readable.
        let input = unsafe { read_input(input)? };
        out.put(&tokens(&model, &input)?)
    })
}
