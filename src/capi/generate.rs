//! Generation.

use std::ffi::c_void;
use std::ptr;
use std::time::Duration;

use super::boundary::{call, with_callback_mark, Callback, Use};
use super::constants::*;
use super::error::mlxrt_error;
use super::handle::table;
use super::structs::{read_options, Out};
use super::text::{opt_str_arg, slice_arg, str_arg, strings_arg};
use super::types::{
    mlxrt_event, mlxrt_event_fn, mlxrt_generate_options, mlxrt_input, mlxrt_result, mlxrt_session,
};
use crate::error::{Error, Result};
use crate::runtime::generate::{
    self, Conversation, Event, GenerateOptions, Input, Report, Setting, Stop,
};
use crate::runtime::session::Session;
use crate::text::Chunk;

const DEFAULT_PENALTY_WINDOW: usize = 20;
const DEFAULT_XTC_THRESHOLD: f32 = 0.1;
const MOST_TOP_LOGPROBS: u32 = 1024;

/// Runs one request on the session and hands what it produces to fn, on this thread, until it ends: by the model's
/// end of text, a stop string or token, max_tokens, the context's end, fn, a cancel, or timeout_ms. All of these are
/// results and no errors; out says which, and what it cost. Messages are the whole history: what the session already
/// holds of it is not computed again. Text and tokens continue the session; when the request fails or is cancelled
/// before its first token, the session stays as it was. fn may be NULL, and out may be.
///
/// Threads: any; fn runs on this one. A session does one blocking call at a time.
/// Blocks: until the request has ended.
/// Errors: INVALID_ARGUMENT names the field; CONTEXT_FULL; BUSY; DEVICE; OUT_OF_MEMORY; CANCELLED when the engine
/// had been shut down by force before.
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
    // The result is filled either way, so its place is looked at first. It may be NULL.
    // SAFETY: the caller's struct is NULL or as large as its struct_size says.
    let place = (!out.is_null())
        .then(|| unsafe { Out::check(out, "out") })
        .transpose();
    let mut report = None;
    let error = call("mlxrt_generate", Use::Blocking, || {
        if let Err(error) = &place {
            return Err(error.clone());
        }
        let session = table().get::<Session>(session, "session")?;
        // SAFETY: the caller's structs and what they point to are readable.
        let (input, options) = unsafe { (read_input(input)?, read_generate_options(options)?) };
        let top = options.logprobs;
        let (filled, result) =
            generate::generate(&session, &input, &options, &mut |event| match event {
                Event::Progress { done, total } => send_progress(r#fn, user_data, done, total),
                Event::Text(chunk) => send_chunk(r#fn, user_data, chunk, top),
            });
        report = Some(filled);
        result
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
            Stop::Length => MLXRT_STOPPED_LENGTH,
            Stop::Context => MLXRT_STOPPED_CONTEXT,
            Stop::Callback => MLXRT_STOPPED_CALLBACK,
            Stop::Cancelled => MLXRT_STOPPED_CANCELLED,
            Stop::Timeout => MLXRT_STOPPED_TIMEOUT,
            Stop::Error => MLXRT_STOPPED_ERROR,
        },
        stop_index: report.stop_index,
        error_code: report.error_code,
        seed: report.seed,
        prompt_tokens: report.prompt_tokens,
        cached_tokens: report.cached_tokens,
        generated_tokens: report.generated_tokens,
        thinking_tokens: 0,
        drafted: 0,
        accepted: 0,
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

const EMPTY_EVENT: mlxrt_event = mlxrt_event {
    struct_size: size_of::<mlxrt_event>() as u32,
    kind: 0,
    text: c"".as_ptr(),
    text_len: 0,
    tokens: ptr::null(),
    token_count: 0,
    logprobs: ptr::null(),
    top_tokens: ptr::null(),
    top_logprobs: ptr::null(),
    top_count: 0,
    done: 0,
    total: 0,
};

/// Calls the host; false stops.
fn send(function: mlxrt_event_fn, user_data: *mut c_void, event: &mlxrt_event) -> bool {
    let Some(function) = function else {
        return true;
    };
    // SAFETY: the host gave the function for calls with this user_data during this call; the event lives through it.
    let answer = with_callback_mark(Callback::Event, || unsafe { function(user_data, event) });
    answer != MLXRT_RETURN_STOP
}

fn send_progress(function: mlxrt_event_fn, user_data: *mut c_void, done: u64, total: u64) -> bool {
    send(
        function,
        user_data,
        &mlxrt_event {
            kind: MLXRT_EVENT_PROGRESS,
            done,
            total,
            ..EMPTY_EVENT
        },
    )
}

/// `logprobs`: whether they were asked for, and how many alternatives.
fn send_chunk(
    function: mlxrt_event_fn,
    user_data: *mut c_void,
    chunk: &Chunk,
    logprobs: Option<u32>,
) -> bool {
    let text = [chunk.text.as_bytes(), b"\0"].concat();
    let top_count = chunk.tops.first().map_or(0, Vec::len);
    let (top_tokens, top_logprobs): (Vec<i32>, Vec<f32>) =
        chunk.tops.iter().flatten().copied().unzip();
    let tops = logprobs.is_some() && top_count > 0;
    let event = mlxrt_event {
        kind: MLXRT_EVENT_TEXT,
        text: text.as_ptr().cast(),
        text_len: chunk.text.len(),
        tokens: chunk.tokens.as_ptr(),
        token_count: chunk.tokens.len(),
        logprobs: if logprobs.is_some() {
            chunk.logprobs.as_ptr()
        } else {
            ptr::null()
        },
        top_tokens: if tops {
            top_tokens.as_ptr()
        } else {
            ptr::null()
        },
        top_logprobs: if tops {
            top_logprobs.as_ptr()
        } else {
            ptr::null()
        },
        top_count: if tops { top_count } else { 0 },
        ..EMPTY_EVENT
    };
    send(function, user_data, &event)
}

/// Copies an input in and checks that it is exactly one of text, tokens and messages.
///
/// # Safety
/// `input` is NULL or as large as its struct_size says, and its fields are as the header wants them.
pub(super) unsafe fn read_input(input: *const mlxrt_input) -> Result<Input> {
    if input.is_null() {
        return Err(Error::invalid("input is NULL"));
    }
    // SAFETY: as this function's own contract.
    let input = unsafe { read_options(input, "input")? };
    let given = [
        !input.text.is_null(),
        !input.tokens.is_null(),
        !input.messages.is_null(),
    ];
    if given.into_iter().filter(|&given| given).count() != 1 {
        return Err(Error::invalid(
            "input must have exactly one of text, tokens and messages",
        ));
    }
    let has = |flag: u32| input.flags & flag != 0;
    let only_messages =
        MLXRT_INPUT_TRUST_CONTENT | MLXRT_INPUT_NO_GENERATION_PROMPT | MLXRT_INPUT_CONTINUE_LAST;
    let only_text = MLXRT_INPUT_NO_BOS | MLXRT_INPUT_SPECIAL_AS_TEXT;
    let wrong_flag = |what: &str| {
        Err(Error::invalid(format!(
            "input.flags is {:#x}, and one of these flags is not for {what}",
            input.flags
        )))
    };
    // SAFETY: as this function's own contract.
    unsafe {
        let tools = opt_str_arg(input.tools, input.tools_len, "input.tools")?;
        let args = opt_str_arg(
            input.template_args,
            input.template_args_len,
            "input.template_args",
        )?;
        if !input.messages.is_null() {
            if has(only_text) {
                return wrong_flag("messages");
            }
            if has(MLXRT_INPUT_CONTINUE_LAST) && has(MLXRT_INPUT_NO_GENERATION_PROMPT) {
                return Err(Error::invalid(
                    "input.flags: CONTINUE_LAST has no generation prompt to leave out",
                ));
            }
            return Ok(Input::Messages(Conversation {
                messages: str_arg(input.messages, input.messages_len, "input.messages")?,
                tools,
                template_args: args,
                trust_content: has(MLXRT_INPUT_TRUST_CONTENT),
                no_generation_prompt: has(MLXRT_INPUT_NO_GENERATION_PROMPT),
                continue_last: has(MLXRT_INPUT_CONTINUE_LAST),
            }));
        }
        if tools.is_some() || args.is_some() {
            return Err(Error::invalid(
                "input.tools and input.template_args go with messages only",
            ));
        }
        if has(only_messages) || (!input.tokens.is_null() && has(only_text)) {
            return wrong_flag("text or tokens");
        }
        if !input.tokens.is_null() {
            return Ok(Input::Tokens(slice_arg(
                input.tokens,
                input.token_count,
                "input.tokens",
            )?));
        }
        Ok(Input::Text {
            text: str_arg(input.text, input.text_len, "input.text")?,
            no_bos: has(MLXRT_INPUT_NO_BOS),
            special_as_text: has(MLXRT_INPUT_SPECIAL_AS_TEXT),
        })
    }
}

/// # Safety
/// `options` is NULL or as large as its struct_size says, and its fields are as the header wants them.
unsafe fn read_generate_options(options: *const mlxrt_generate_options) -> Result<GenerateOptions> {
    // SAFETY: as this function's own contract.
    let o = unsafe { read_options(options, "options")? };
    let has = |flag: u32| o.flags & flag != 0;
    // SAFETY: as this function's own contract.
    let (stop, stop_tokens, bias_tokens, bias_values) = unsafe {
        (
            strings_arg(o.stop, o.stop_lens, o.stop_count, "options.stop")?,
            slice_arg(o.stop_tokens, o.stop_token_count, "options.stop_tokens")?,
            slice_arg(o.bias_tokens, o.bias_count, "options.bias_tokens")?,
            slice_arg(o.bias_values, o.bias_count, "options.bias_values")?,
        )
    };
    refuse_what_is_missing(&o)?;
    if let Some(index) = bias_values
        .iter()
        .position(|bias| bias.is_nan() || *bias == f32::INFINITY)
    {
        return Err(Error::invalid(format!(
            "options.bias_values[{index}] is {}",
            bias_values[index]
        )));
    }
    let temperature = optional(o.temperature, "temperature", |t| t > 0.0, "greater than 0")?;
    if has(MLXRT_GEN_GREEDY) && temperature.is_some() {
        return Err(Error::invalid(
            "options.temperature is set together with MLXRT_GEN_GREEDY",
        ));
    }
    if has(MLXRT_GEN_TOKENS_ONLY) && !stop.is_empty() {
        return Err(Error::invalid(
            "options.stop needs text, and MLXRT_GEN_TOKENS_ONLY makes none",
        ));
    }
    let logprobs = match (has(MLXRT_GEN_LOGPROBS), o.top_logprobs) {
        (false, 0) => None,
        (false, _) => {
            return Err(Error::invalid(
                "options.top_logprobs needs the flag MLXRT_GEN_LOGPROBS",
            ))
        }
        (true, top) if top <= MOST_TOP_LOGPROBS => Some(top),
        (true, top) => {
            return Err(Error::invalid(format!(
                "options.top_logprobs is {top}; at most {MOST_TOP_LOGPROBS} are given"
            )))
        }
    };
    let share = |p: f32| p > 0.0 && p <= 1.0;
    let xtc_probability = setting(o.xtc_probability, "xtc_probability", share, "in (0, 1]")?;
    let xtc_threshold = optional(
        o.xtc_threshold,
        "xtc_threshold",
        |t| t > 0.0 && t <= 0.5,
        "in (0, 0.5]",
    )?;
    Ok(GenerateOptions {
        max_tokens: (o.max_tokens != 0).then_some(o.max_tokens.into()),
        timeout: (o.timeout_ms != 0).then(|| Duration::from_millis(o.timeout_ms.into())),
        greedy: has(MLXRT_GEN_GREEDY),
        no_model_defaults: has(MLXRT_GEN_NO_MODEL_DEFAULTS),
        temperature,
        top_p: match optional(o.top_p, "top_p", share, "in (0, 1]")? {
            None => Setting::Model,
            Some(p) => Setting::Value(p),
        },
        min_p: setting(o.min_p, "min_p", share, "in (0, 1]")?,
        top_k: match o.top_k {
            0 => Setting::Model,
            -1 => Setting::Off,
            k => Setting::Value(u32::try_from(k).map_err(|_| {
                Error::invalid(format!(
                    "options.top_k is {k}; it must be 1 or more, 0 (the model's) or -1 (off)"
                ))
            })?),
        },
        xtc: match xtc_probability {
            Setting::Value(p) => Some((p, xtc_threshold.unwrap_or(DEFAULT_XTC_THRESHOLD))),
            Setting::Model | Setting::Off => None,
        },
        repetition_penalty: optional(
            o.repetition_penalty,
            "repetition_penalty",
            |p| p > 0.0,
            "greater than 0",
        )?,
        presence_penalty: penalty(o.presence_penalty, "presence_penalty")?,
        frequency_penalty: penalty(o.frequency_penalty, "frequency_penalty")?,
        penalty_window: match o.penalty_window {
            0 => Some(DEFAULT_PENALTY_WINDOW),
            u32::MAX => None,
            window => Some(window as usize),
        },
        seed: o.seed,
        bias: bias_tokens.into_iter().zip(bias_values).collect(),
        logprobs,
        stop,
        stop_tokens,
        ignore_eos: has(MLXRT_GEN_IGNORE_EOS),
        tokens_only: has(MLXRT_GEN_TOKENS_ONLY),
        prefill_only: has(MLXRT_GEN_PREFILL_ONLY),
        no_prefix_cache: has(MLXRT_GEN_NO_PREFIX_CACHE),
        raw_text: has(MLXRT_GEN_RAW_TEXT),
        progress_tokens: o.progress_tokens,
    })
}

/// Fields of the surface that this version does not have: an error, never ignored.
fn refuse_what_is_missing(o: &mlxrt_generate_options) -> Result<()> {
    if !o.grammar.is_null() {
        return Err(Error::unsupported(
            "options.grammar: this version has no grammars",
        ));
    }
    if o.thinking_budget != 0 {
        return Err(Error::unsupported(
            "options.thinking_budget: this version does not tell thinking from text",
        ));
    }
    match o.draft_tokens {
        0 | -1 => {}
        _ => {
            return Err(Error::unsupported(
                "options.draft_tokens: this version has no speculation",
            ))
        }
    }
    if o.notify.is_some() {
        return Err(Error::invalid(
            "options.notify is for requests that are submitted, not for mlxrt_generate",
        ));
    }
    Ok(())
}

/// 0 is "not set"; anything else must be legal, which NaN and infinities never are.
fn optional(
    value: f32,
    field: &str,
    legal: impl Fn(f32) -> bool,
    words: &str,
) -> Result<Option<f32>> {
    match value {
        0.0 => Ok(None),
        value if value.is_finite() && legal(value) => Ok(Some(value)),
        value => Err(Error::invalid(format!(
            "options.{field} is {value}; it must be {words}, or 0 for the default"
        ))),
    }
}

/// As `optional`, with -1 for "off".
fn setting(
    value: f32,
    field: &str,
    legal: impl Fn(f32) -> bool,
    words: &str,
) -> Result<Setting<f32>> {
    if value == -1.0 {
        return Ok(Setting::Off);
    }
    let value = optional(value, field, legal, &format!("{words}, -1 for off"))?;
    Ok(value.map_or(Setting::Model, Setting::Value))
}

fn penalty(value: f32, field: &str) -> Result<f32> {
    Ok(optional(value, field, |p| (-2.0..=2.0).contains(&p), "from -2 to 2")?.unwrap_or(0.0))
}
