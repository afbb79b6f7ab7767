//! Memory: what is in use, and how much may be.

use super::boundary::{call, Use};
use super::error::mlxrt_error;
use super::library::limit;
use super::structs::{read_options, write_out};
use super::types::{mlxrt_memory, mlxrt_memory_limits};
use crate::error::Error;
use crate::mlx::memory;
use crate::runtime::engine::{MemoryLimits, Trim};
use crate::runtime::{engine, metrics};

/// Changes how much memory may be used, for the whole process: the last one to set it wins. memory_limit is a budget
/// that is looked at before anything is allocated: a load, or the next part of a request, that does not fit is refused
/// with OUT_OF_MEMORY; idle sessions lose their keys and values before that (their tokens stay). What is in use already
/// is not touched: mlxrt_memory_trim.
///
/// Threads: any.
/// Blocks: no.
/// Errors: DEVICE.
/// Owns: nothing.
#[no_mangle]
pub unsafe extern "C" fn mlxrt_memory_set(limits: *const mlxrt_memory_limits) -> *mut mlxrt_error {
    call("mlxrt_memory_set", Use::Query, || {
        // SAFETY: the caller's struct is NULL or as large as its struct_size says.
        let limits = unsafe { read_options(limits, "limits")? };
        engine::set_limits(MemoryLimits {
            memory: limit(limits.memory_limit),
            cache: limit(limits.cache_limit),
            wired: limit(limits.wired_limit),
        })
    })
}

/// Frees what can be made again. Level 0: buffers kept for reuse. 1: also the keys and values that are kept of sessions which are
/// gone, or have gone on to something else. 2: also those of idle sessions; they keep their tokens, and are computed anew when used.
///
/// Threads: any.
/// Blocks: until the engine's running step is done.
/// Errors: UNSUPPORTED for another level.
/// Owns: nothing.
#[no_mangle]
pub unsafe extern "C" fn mlxrt_memory_trim(level: i32) -> *mut mlxrt_error {
    call("mlxrt_memory_trim", Use::Blocking, || match level {
        0 => engine::trim(Trim::Buffers),
        1 => engine::trim(Trim::Prefixes),
        2 => engine::trim(Trim::IdleSessions),
        _ => Err(Error::unsupported(format!(
            "level is {level}; known are 0 (buffers), 1 (and prefixes) and 2 (and idle sessions)"
        ))),
    })
}

/// Tells what the whole process uses of MLX's memory.
///
/// Threads: any.
/// Blocks: no.
/// Errors: none but those of every function.
/// Owns: nothing.
#[no_mangle]
pub unsafe extern "C" fn mlxrt_memory_get(out: *mut mlxrt_memory) -> *mut mlxrt_error {
    call("mlxrt_memory_get", Use::Query, || {
        engine::prepare();
        let counters = metrics::PROCESS.snapshot();
        let value = mlxrt_memory {
            struct_size: 0,
            flags: 0,
            active_bytes: memory::active(),
            cache_bytes: memory::cache(),
            peak_bytes: engine::peak_bytes(),
            weight_bytes: counters.weight_bytes,
            kv_bytes: counters.kv_bytes,
            limit_bytes: memory::limit(),
        };
        // SAFETY: the caller's struct is NULL or as large as its struct_size says.
        unsafe { write_out(out, "out", value) }
    })
}
