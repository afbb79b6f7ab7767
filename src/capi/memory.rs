//! Memory: what is in use.

use super::boundary::{call, Use};
use super::error::mlxrt_error;
use super::structs::write_out;
use super::types::mlxrt_memory;
use crate::mlx::memory;
use crate::runtime::{engine, metrics};

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
