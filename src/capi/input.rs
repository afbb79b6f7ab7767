//! What a request is given: `mlxrt_input` and `mlxrt_generate_options`, copied in and checked.

use super::constants::*;
use super::handle::table;
use super::structs::read_options;
use super::text::{length_of, opt_str_arg, slice_arg, str_arg, strings_arg};
use super::time::time_limit;
use super::types::{mlxrt_generate_options, mlxrt_input};
use crate::error::{Error, Result};
use crate::grammar::Grammar;
use crate::room;
use crate::runtime::generate::{
    check_length, Conversation, Drafts, GenerateOptions, Input, Setting, Thinking,
    REPETITION_PENALTY,
};
use crate::text::MOST_STOP_STRINGS;

const DEFAULT_PENALTY_WINDOW: usize = 20;
const DEFAULT_XTC_THRESHOLD: f32 = 0.1;
const MOST_TOP_LOGPROBS: u32 = 1024;
/// Each token of an answer is compared with all of them.
const MOST_STOP_TOKENS: usize = 4096;
/// As many as a vocabulary may have.
const MOST_BIASES: usize = 1 << 22;

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
    for (text, length, name) in [
        (input.text, input.text_len, "text"),
        (input.messages, input.messages_len, "messages"),
        (input.tools, input.tools_len, "tools"),
        (
            input.template_args,
            input.template_args_len,
            "template_args",
        ),
        (input.tool_choice, input.tool_choice_len, "tool_choice"),
    ] {
        if text.is_null() {
            continue;
        }
        if length == 0 && name != "text" {
            return Err(Error::invalid(format!(
                "input.{name}_len is 0: set it to the bytes of input.{name}, or to MLXRT_NTS if that ends with a NUL"
            )));
        }
        // SAFETY: as this function's own contract; it is not NULL.
        let bytes = unsafe { length_of(text, length) };
        check_length(name, bytes)?;
    }
    // SAFETY: as this function's own contract.
    unsafe {
        let tools = opt_str_arg(input.tools, input.tools_len, "input.tools")?;
        let args = opt_str_arg(
            input.template_args,
            input.template_args_len,
            "input.template_args",
        )?;
        let choice = opt_str_arg(
            input.tool_choice,
            input.tool_choice_len,
            "input.tool_choice",
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
            return Ok(Input::messages(Conversation {
                messages: str_arg(input.messages, input.messages_len, "input.messages")?,
                tools,
                template_args: args,
                tool_choice: choice,
                trust_content: has(MLXRT_INPUT_TRUST_CONTENT),
                no_generation_prompt: has(MLXRT_INPUT_NO_GENERATION_PROMPT),
                continue_last: has(MLXRT_INPUT_CONTINUE_LAST),
            }));
        }
        if tools.is_some() || args.is_some() || choice.is_some() {
            return Err(Error::invalid(
                "input.tools, input.template_args and input.tool_choice go with messages only",
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
/// The fields are as the header wants them.
pub(super) unsafe fn read_generate_options(o: &mlxrt_generate_options) -> Result<GenerateOptions> {
    let has = |flag: u32| o.flags & flag != 0;
    for (name, count, most) in [
        ("stop", o.stop_count, MOST_STOP_STRINGS),
        ("stop_tokens", o.stop_token_count, MOST_STOP_TOKENS),
        ("bias_tokens", o.bias_count, MOST_BIASES),
    ] {
        if count > most {
            return Err(Error::invalid(format!(
                "options.{name} has {count} entries, at most {most} are allowed"
            )));
        }
    }
    // Of what is copied here, and once more on the way to the device.
    let bytes = o.bias_count.saturating_mul(8);
    let _room = room::hold(bytes, 4, "options.bias_tokens")?;
    // SAFETY: as this function's own contract.
    let (stop, stop_tokens, bias_tokens, bias_values) = unsafe {
        (
            strings_arg(o.stop, o.stop_lens, o.stop_count, "options.stop")?,
            slice_arg(o.stop_tokens, o.stop_token_count, "options.stop_tokens")?,
            slice_arg(o.bias_tokens, o.bias_count, "options.bias_tokens")?,
            slice_arg(o.bias_values, o.bias_count, "options.bias_values")?,
        )
    };
    if let Some(index) = bias_values
        .iter()
        .position(|bias| bias.is_nan() || *bias == f32::INFINITY)
    {
        return Err(Error::invalid(format!(
            "options.bias_values[{index}] is {}",
            bias_values[index]
        )));
    }
    let bias = biases(bias_tokens, bias_values)?;
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
    if has(MLXRT_GEN_TOOL_DELTAS) {
        for (flag, name) in [
            (MLXRT_GEN_TOKENS_ONLY, "MLXRT_GEN_TOKENS_ONLY"),
            (MLXRT_GEN_RAW_TEXT, "MLXRT_GEN_RAW_TEXT"),
        ] {
            if has(flag) {
                return Err(Error::invalid(format!(
                    "options.flags: MLXRT_GEN_TOOL_DELTAS tells calls, and with {name} there are none"
                )));
            }
        }
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
    let thinking = match o.thinking_budget {
        0 => Thinking::Free,
        -1 => Thinking::Off,
        tokens => Thinking::Budget(u64::try_from(tokens).map_err(|_| {
            Error::invalid(format!(
                "options.thinking_budget is {tokens}; it must be 1 or more, 0 (no limit) or -1 (no thinking)"
            ))
        })?),
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
        timeout: time_limit(o.timeout_ms),
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
            |p| REPETITION_PENALTY.contains(&p),
            "from 1e-6 to 1e6",
        )?,
        presence_penalty: penalty(o.presence_penalty, "presence_penalty")?,
        frequency_penalty: penalty(o.frequency_penalty, "frequency_penalty")?,
        penalty_window: match o.penalty_window {
            0 => Some(DEFAULT_PENALTY_WINDOW),
            u32::MAX => None,
            window => Some(window as usize),
        },
        seed: o.seed,
        bias,
        logprobs,
        stop,
        stop_tokens,
        ignore_eos: has(MLXRT_GEN_IGNORE_EOS),
        tokens_only: has(MLXRT_GEN_TOKENS_ONLY),
        prefill_only: has(MLXRT_GEN_PREFILL_ONLY),
        no_prefix_cache: has(MLXRT_GEN_NO_PREFIX_CACHE),
        raw_text: has(MLXRT_GEN_RAW_TEXT),
        grammar: match o.grammar.is_null() {
            true => None,
            false => Some(table().get::<Grammar>(o.grammar, "options.grammar")?),
        },
        strict_tools: has(MLXRT_GEN_STRICT_TOOLS),
        tool_deltas: has(MLXRT_GEN_TOOL_DELTAS),
        progress_tokens: o.progress_tokens,
        thinking,
        priority: o.priority,
        drafts: drafts(o.draft_tokens)?,
    })
}

/// So low a bias bans as -infinity does: beside it nothing is left of what the model said.
const BANS: f64 = -1e6;

/// One for each token: those of a token that is named twice are added.
fn biases(tokens: Vec<i32>, values: Vec<f32>) -> Result<Vec<(i32, f32)>> {
    let mut pairs: Vec<(i32, f64)> = tokens
        .into_iter()
        .zip(values.into_iter().map(f64::from))
        .collect();
    pairs.sort_by_key(|&(token, _)| token);
    pairs.dedup_by(|next, kept| {
        let same = next.0 == kept.0;
        if same {
            kept.1 += next.1;
        }
        same
    });
    let bias = |(token, sum): (i32, f64)| match sum as f32 {
        narrow if sum.is_finite() && !narrow.is_finite() => Err(Error::invalid(format!(
            "options.bias_values of token {token} add up to {sum:.2e}, more than f32 holds"
        ))),
        _ if sum <= BANS => Ok((token, f32::NEG_INFINITY)),
        narrow => Ok((token, narrow)),
    };
    pairs.into_iter().map(bias).collect()
}

fn drafts(tokens: i32) -> Result<Drafts> {
    Ok(match tokens {
        0 => Drafts::Usual,
        -1 => Drafts::Off,
        _ => Drafts::Most(usize::try_from(tokens).map_err(|_| {
            Error::invalid(format!(
                "options.draft_tokens must be a number of tokens, 0 or -1, is {tokens}"
            ))
        })?),
    })
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

#[cfg(test)]
mod tests {
    use super::super::text::NTS;
    use super::*;
    use crate::error::Code;

    #[test]
    fn biases_of_a_token_are_added() {
        let no = f32::NEG_INFINITY;
        let sums = |pairs: &[(i32, f32)]| {
            let (tokens, values) = pairs.iter().copied().unzip();
            biases(tokens, values).map_err(|error| error.message)
        };
        assert_eq!(sums(&[]), Ok(vec![]));
        assert_eq!(
            sums(&[(7, 1.0), (3, -2.0), (7, 0.5)]),
            Ok(vec![(3, -2.0), (7, 1.5)])
        );
        // In whatever order: not every sum on the way has to be an f32.
        assert_eq!(
            sums(&[(1, 3e38), (1, 3e38), (1, -3e38)]),
            Ok(vec![(1, 3e38)])
        );
        assert_eq!(sums(&[(1, no), (1, 3e38)]), Ok(vec![(1, no)]));
        assert_eq!(sums(&[(1, -1e6), (2, -9e5)]), Ok(vec![(1, no), (2, -9e5)]));
        for much in [3e38, -3e38] {
            let error = sums(&[(5, much), (5, much)]).unwrap_err();
            assert!(
                error.contains("token 5") && error.contains("6.00e38"),
                "{error}"
            );
        }
    }

    /// What remains of a JSON field whose length was forgotten is no JSON; the cure is said instead.
    #[test]
    fn a_forgotten_length_is_named_with_the_cure() {
        let json = c"[]";
        for name in [
            "messages_len",
            "tools_len",
            "template_args_len",
            "tool_choice_len",
        ] {
            // SAFETY: integers and raw pointers may be zero.
            let mut input: mlxrt_input = unsafe { std::mem::zeroed() };
            input.struct_size = size_of::<mlxrt_input>() as u32;
            (input.messages, input.messages_len) = (json.as_ptr(), NTS);
            (input.tools, input.tools_len) = (json.as_ptr(), NTS);
            (input.template_args, input.template_args_len) = (json.as_ptr(), NTS);
            (input.tool_choice, input.tool_choice_len) = (json.as_ptr(), NTS);
            // SAFETY: every text is there and ends with a NUL.
            assert!(unsafe { read_input(&input) }.is_ok());
            match name {
                "messages_len" => input.messages_len = 0,
                "tools_len" => input.tools_len = 0,
                "tool_choice_len" => input.tool_choice_len = 0,
                _ => input.template_args_len = 0,
            }
            // SAFETY: as before; nothing is read of a text whose length is 0.
            let error = unsafe { read_input(&input) }.unwrap_err();
            assert_eq!(error.code, Code::InvalidArgument);
            let cure = format!("input.{name} is 0: set it to the bytes of input.");
            assert!(
                error.message.starts_with(&cure) && error.message.contains("MLXRT_NTS"),
                "{error}"
            );
        }
    }
}
