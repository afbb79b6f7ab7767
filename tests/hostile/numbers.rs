//! Row 4: numbers out of range, in every field and argument that is a number.

use std::ffi::{c_char, c_void};

use crate::abi::*;
use crate::child::{ask, exactly, qwen, Told, PROMPT, RIGHT};
use crate::common::{load, outcome, Failure, Model, Prompt};
use crate::list::Cases;
use crate::surface::{function, offset_of, Call, Param, World};
use crate::verdict::*;
use crate::{ensure, list_class, sized};

list_class!("4", "numbers out of range", "numbers");

const NAN: f32 = f32::NAN;
const INF: f32 = f32::INFINITY;

/// Function, argument, field, values that are no values for it.
const FLOATS: &[(&str, &[f32])] = &[
    ("temperature", &[NAN, INF, -INF, -1.0, -0.001, -1e30]),
    ("top_p", &[NAN, INF, -INF, -1.0, -0.5, 1.001, 2.0, 1e30]),
    ("min_p", &[NAN, INF, -INF, -2.0, -0.5, 1.001, 2.0, 1e30]),
    ("xtc_probability", &[NAN, INF, -INF, -2.0, -0.5, 1.001, 2.0]),
    ("xtc_threshold", &[NAN, INF, -INF, -1.0, 0.501, 1.0, 2.0]),
    (
        "repetition_penalty",
        &[
            NAN, INF, -INF, -1.0, -0.5, -1e-9, 1e-45, 1e-30, 9e-7, 2e6, 1e30, 3e38,
        ],
    ),
    ("presence_penalty", &[NAN, INF, -INF, -2.1, 2.1, 1e30]),
    ("frequency_penalty", &[NAN, INF, -INF, -2.1, 2.1, 1e30]),
];

const FIELDS: &[(&str, &str, &str, &[i64])] = &[
    (
        "mlxrt_generate",
        "options",
        "top_k",
        &[-2, -100, i32::MIN as i64],
    ),
    (
        "mlxrt_generate",
        "options",
        "top_logprobs",
        &[1, 1_000_000, u32::MAX as i64],
    ),
    (
        "mlxrt_generate",
        "options",
        "thinking_budget",
        &[-2, i32::MIN as i64],
    ),
    (
        "mlxrt_generate",
        "options",
        "draft_tokens",
        &[-2, i32::MIN as i64],
    ),
    (
        "mlxrt_generate",
        "options",
        "stop_count",
        &[1, 3, i64::MAX, -1],
    ),
    (
        "mlxrt_generate",
        "options",
        "stop_token_count",
        &[1, i64::MAX, -1],
    ),
    (
        "mlxrt_generate",
        "options",
        "bias_count",
        &[1, i64::MAX, -1],
    ),
    (
        "mlxrt_init",
        "options",
        "device",
        &[-1, 3, i32::MAX as i64, i32::MIN as i64],
    ),
    (
        "mlxrt_session_create",
        "options",
        "context",
        &[100_000_000, u32::MAX as i64],
    ),
    (
        "mlxrt_session_create",
        "options",
        "keep",
        &[1, 100, i32::MIN as i64, i32::MAX as i64],
    ),
    (
        "mlxrt_session_create",
        "options",
        "window",
        &[1, u32::MAX as i64],
    ),
    (
        "mlxrt_session_create",
        "options",
        "kv_bits",
        &[1, 3, 5, 16, u32::MAX as i64],
    ),
    (
        "mlxrt_session_create",
        "options",
        "kv_group_size",
        &[1, 7, 64, u32::MAX as i64],
    ),
    ("mlxrt_model_load", "options", "context", &[u32::MAX as i64]),
    (
        "mlxrt_model_inspect",
        "session",
        "context",
        &[u32::MAX as i64],
    ),
    (
        "mlxrt_model_inspect",
        "session",
        "window",
        &[u32::MAX as i64],
    ),
];

/// Plain arguments.
const ARGS: &[(&str, &str, &[u64])] = &[
    ("mlxrt_shutdown", "flags", &[2, 1 << 31, 0xffff_fffe]),
    (
        "mlxrt_log_set",
        "level",
        &[5, 100, i32::MAX as u64, -1_i32 as u32 as u64],
    ),
    ("mlxrt_tokenize", "flags", &[4, 1 << 31]),
    ("mlxrt_detokenize", "flags", &[2, 4, 1 << 31]),
];

fn cases() -> Cases {
    let mut cases: Cases = vec![];
    for &(field, values) in FLOATS {
        for &value in values {
            let run = move || {
                let bytes = value.to_ne_bytes();
                refused("mlxrt_generate", "options", field, &bytes)
            };
            cases.push((format!("{field} = {value}"), Box::new(run)));
        }
    }
    for &(name, arg, field, values) in FIELDS {
        for &value in values {
            let run = move || {
                let bytes = value.to_ne_bytes();
                let wide = field.ends_with("count");
                let bytes = if wide { &bytes[..] } else { &bytes[..4] };
                refused(name, arg, field, bytes)
            };
            cases.push((format!("{name}: {arg}.{field} = {value}"), Box::new(run)));
        }
    }
    for &(name, arg, values) in ARGS {
        for &value in values {
            let run = move || {
                let (mut call, at) = prepared(name, arg);
                call.args[at] = value;
                if name == "mlxrt_log_set" {
                    // Without a function the level does not matter.
                    call.args[1] = silent as *const () as u64;
                }
                judge(call.run().map(drop), name, arg)
            };
            cases.push((format!("{name}: {arg} = {value}"), Box::new(run)));
        }
    }
    for (what, pairs, words) in BIASES {
        let run = move || bias(pairs, words);
        cases.push((format!("biases: {what}"), Box::new(run)));
    }
    for (value, what) in [
        (-INF, "-infinity"),
        (-1e6, "-1e6"),
        (-1e30, "-1e30"),
        (f32::MIN, "the least"),
    ] {
        for sampled in [false, true] {
            for but in [0, 1] {
                let what = format!("all but {but} tokens banned by {what}, sampled {sampled}");
                cases.push((what, Box::new(move || banned(value, sampled, but))));
            }
        }
    }
    for dtype in [MLXRT_DTYPE_F32, MLXRT_DTYPE_F16, MLXRT_DTYPE_BF16] {
        for kind in [MLXRT_LORA, MLXRT_DORA] {
            for scale in [
                1.0,
                -1.0,
                1e4,
                65_504.0,
                65_520.0,
                1e6,
                1e30,
                3.4e38,
                f32::MAX,
                NAN,
                INF,
            ] {
                let what = format!("a new adapter of kind {kind}, type {dtype}, scale {scale:e}");
                cases.push((what, Box::new(move || neutral(kind, dtype, scale))));
            }
        }
    }
    for value in [65_520.0, 1e30, 3.4e38, -1e30] {
        for dtype in [MLXRT_DTYPE_F16, MLXRT_DTYPE_BF16] {
            let what = format!("an adapter's tensor of type {dtype} set to {value:e}");
            cases.push((what, Box::new(move || set(dtype, value))));
        }
    }
    cases
}

/// Token, bias.
type Pairs = &'static [(i32, f32)];

/// Sums of biases, and what an error about them says; none where they are legal.
const BIASES: &[(&str, Pairs, Option<&str>)] = &[
    ("NaN", &[(5, NAN)], Some("bias_values[0]")),
    ("+infinity", &[(3, 1.0), (5, INF)], Some("bias_values[1]")),
    ("twice 3e38", &[(5, 3e38), (5, 3e38)], Some("token 5")),
    ("twice -3e38", &[(5, -3e38), (5, -3e38)], Some("token 5")),
    (
        "a sum that comes back",
        &[(5, 3e38), (5, 3e38), (5, -3e38), (5, -3e38)],
        None,
    ),
    ("banned and wanted", &[(5, -INF), (5, 3e38)], None),
    ("the largest", &[(5, f32::MAX)], None),
    ("the least", &[(5, f32::MIN)], None),
    ("100 on both sides", &[(5, 100.0), (6, -100.0)], None),
];

fn with_bias(tokens: &[i32], values: &[f32], sampled: bool) -> Told {
    let model = load(&qwen()).unwrap();
    let mut options = exactly(8);
    if sampled {
        options.flags = MLXRT_GEN_IGNORE_EOS;
        options.temperature = 1.0;
    }
    (options.bias_tokens, options.bias_values) = (tokens.as_ptr(), values.as_ptr());
    options.bias_count = tokens.len();
    let session = model.session(0);
    ask(session.0, &Prompt::Text(PROMPT), &options, |_| true)
}

fn bias(pairs: Pairs, words: &Option<&str>) -> Outcome {
    let (tokens, values): (Vec<i32>, Vec<f32>) = pairs.iter().copied().unzip();
    let told = with_bias(&tokens, &values, false);
    match (told.failure, words) {
        (Some(failure), Some(words)) => named(&failure, &["INVALID_ARGUMENT"], &[words]),
        (None, None) if told.tokens.len() == 8 => fine(),
        (failure, _) => Err(Wrong(format!("{failure:?} {:?}", told.tokens))),
    }
}

/// Of all tokens that there are the first few are left.
fn banned(value: f32, sampled: bool, but: i32) -> Outcome {
    let model = load(&qwen()).unwrap();
    let config = std::fs::read_to_string(qwen().join("config.json")).unwrap();
    let config: serde_json::Value = serde_json::from_str(&config).unwrap();
    let vocab = config["vocab_size"].as_i64().unwrap() as i32;
    drop(model);
    let tokens: Vec<i32> = (but..vocab).collect();
    let told = with_bias(&tokens, &vec![value; tokens.len()], sampled);
    match (told.failure, but) {
        (Some(failure), 0) => {
            ensure!(told.tokens.is_empty(), "{:?}", told.tokens);
            named(
                &failure,
                &["INVALID_ARGUMENT"],
                &["options.bias", "bans every token"],
            )
        }
        (None, 1) if told.tokens == [0; 8] => fine(),
        (failure, _) => Err(Wrong(format!("{failure:?} {:?}", told.tokens))),
    }
}

fn new_adapter(
    model: &Model,
    kind: i32,
    dtype: i32,
    scale: f32,
) -> Result<*mut mlxrt_adapter, Failure> {
    let mut options = sized!(mlxrt_adapter_options);
    (options.kind, options.dtype, options.scale) = (kind, dtype, scale);
    let mut adapter = std::ptr::null_mut();
    // SAFETY: a live model, complete options, a writable output.
    outcome(unsafe { mlxrt_adapter_create(model.0, &options, &mut adapter) })?;
    Ok(adapter)
}

/// Refused, or it changes nothing: the tokens are those without it.
fn neutral(kind: i32, dtype: i32, scale: f32) -> Outcome {
    let model = load(&qwen()).unwrap();
    let most = if dtype == MLXRT_DTYPE_F16 {
        65_504.0
    } else {
        1e30
    };
    let adapter = match new_adapter(&model, kind, dtype, scale) {
        Ok(adapter) => adapter,
        Err(failure) => {
            ensure!(scale.is_nan() || scale.abs() > most, "{failure:?}");
            return named(&failure, &["INVALID_ARGUMENT"], &["options.scale"]);
        }
    };
    ensure!(scale.abs().total_cmp(&most).is_le(), "it is made");
    let session = model.session(0);
    for strength in [1.0, -1.0, 0.5, 1e30, f32::MAX] {
        // SAFETY: live handles, one of each.
        let applied = outcome(unsafe { mlxrt_apply_adapter(session.0, &adapter, &strength, 1) });
        let product = f64::from(scale) * f64::from(strength);
        let over = product.abs().total_cmp(&f64::from(most));
        match applied {
            Ok(()) => ensure!(over.is_le(), "{strength:e} is taken"),
            Err(failure) => {
                ensure!(over.is_gt(), "{failure:?}");
                named(&failure, &["INVALID_ARGUMENT"], &["scales[0]"])?;
                continue;
            }
        }
        let told = ask(session.0, &Prompt::Text(PROMPT), &exactly(8), |_| true);
        ensure!(
            told.failure.is_none(),
            "at {strength:e}: {:?}",
            told.failure
        );
        if strength == 1.0 {
            ensure!(told.tokens == RIGHT, "{:?}", told.tokens);
        }
    }
    // SAFETY: a live handle.
    unsafe { mlxrt_adapter_free(adapter) };
    fine()
}

fn set(dtype: i32, value: f32) -> Outcome {
    let model = load(&qwen()).unwrap();
    let adapter = new_adapter(&model, MLXRT_LORA, dtype, 1.0).unwrap();
    let mut world = World::from([("mlxrt_adapter".to_owned(), adapter as u64)]);
    let mut view = Call::good(function("mlxrt_adapter_set"), &mut world);
    let structs = |p: &Param| p.struct_name().is_some();
    let tensor = view.function.params.iter().position(structs).unwrap();
    let data = offset_of("mlxrt_tensor_view", "data").unwrap();
    let values = vec![value; 1 << 16];
    view.set(tensor, data, &(values.as_ptr() as u64).to_ne_bytes());
    let outcome = view.run().map(drop);
    let fits = dtype == MLXRT_DTYPE_BF16 && value.abs() < 3.38e38;
    // SAFETY: a live handle.
    unsafe { mlxrt_adapter_free(adapter) };
    match outcome {
        Ok(()) if fits => fine(),
        Ok(()) => Err(Wrong("it is taken".into())),
        Err(failure) => {
            ensure!(!fits, "{failure:?}");
            named(&failure, &["INVALID_ARGUMENT"], &["in.data[0]"])
        }
    }
}

extern "C" fn silent(_: *mut c_void, _: i32, _: *const c_char, _: usize) {}

fn prepared(name: &str, arg: &str) -> (Call, usize) {
    let function = function(name);
    let at = function.params.iter().position(|p| p.name == arg);
    (
        Call::good(function, &mut World::new()),
        at.expect("an argument of that name"),
    )
}

fn refused(name: &str, arg: &str, field: &str, bytes: &[u8]) -> Outcome {
    let (mut call, at) = prepared(name, arg);
    let of = call.function.params[at].struct_name().expect("a struct");
    let offset = offset_of(of, field).expect("a field of that name");
    call.set(at, offset, bytes);
    judge(call.run().map(drop), name, field)
}

/// Legal after all: what some fields say of themselves.
const LEGAL: &[&str] = &["window", "context", "keep", "kv_group_size"];

fn judge(result: Result<(), crate::common::Failure>, name: &str, field: &str) -> Outcome {
    let word = field
        .trim_end_matches("_count")
        .trim_end_matches("token")
        .trim_end_matches('_');
    match result {
        Ok(()) if LEGAL.contains(&field) => fine(),
        Ok(()) => Err(Wrong(format!("{name} accepts it"))),
        Err(failure) => named(&failure, &["INVALID_ARGUMENT", "UNSUPPORTED"], &[word]),
    }
}
