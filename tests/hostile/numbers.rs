//! Row 4: numbers out of range, in every field and argument that is a number.

use std::ffi::{c_char, c_void};

use crate::list::Cases;
use crate::list_class;
use crate::surface::{function, offset_of, Call, World};
use crate::verdict::*;

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
    ("repetition_penalty", &[NAN, INF, -INF, -1.0, -0.5, -1e-9]),
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
        &[-2, 5, i32::MIN as i64],
    ),
    (
        "mlxrt_generate",
        "options",
        "draft_tokens",
        &[-2, 2, i32::MAX as i64],
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
    cases
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
