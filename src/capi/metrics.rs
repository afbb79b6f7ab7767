//! Metrics: counters since the start.

use super::boundary::{call, Use};
use super::error::mlxrt_error;
use super::handle;
use super::structs::Out;
use super::types::{mlxrt_metrics_data, mlxrt_model};
use crate::mlx::memory;
use crate::runtime::model::Model;
use crate::runtime::{engine, metrics};

/// Gives the counters of one model, or with NULL those of the whole process. active_bytes, cache_bytes and peak_bytes
/// are the process's either way.
///
/// Threads: any.
/// Blocks: no.
/// Errors: none but those of every function.
/// Owns: nothing.
#[no_mangle]
pub unsafe extern "C" fn mlxrt_metrics(
    model: *const mlxrt_model,
    out: *mut mlxrt_metrics_data,
) -> *mut mlxrt_error {
    call("mlxrt_metrics", Use::Query, || {
        // SAFETY: the caller's struct is NULL or as large as its struct_size says.
        let out = unsafe { Out::check(out, "out")? };
        let counters = if model.is_null() {
            engine::prepare();
            metrics::PROCESS.snapshot()
        } else {
            handle::table()
                .get::<Model>(model, "model")?
                .counters
                .snapshot()
        };
        let running = counters.running();
        let last = counters.last;
        let of_last =
            |field: fn(&crate::runtime::generate::Report) -> u64| last.as_ref().map_or(0, field);
        out.write(mlxrt_metrics_data {
            struct_size: 0,
            flags: 0,
            requests_started: counters.started,
            requests_running: running,
            requests_completed: counters.completed,
            requests_cancelled: counters.cancelled,
            requests_failed: counters.failed,
            prompt_tokens: counters.prompt_tokens,
            cached_tokens: counters.cached_tokens,
            generated_tokens: counters.generated_tokens,
            prefill_ns: counters.prefill_ns,
            decode_ns: counters.decode_ns,
            active_bytes: memory::active(),
            cache_bytes: memory::cache(),
            peak_bytes: engine::peak_bytes(),
            weight_bytes: counters.weight_bytes,
            kv_bytes: counters.kv_bytes,
            last_prompt_tokens: of_last(|last| last.prompt_tokens),
            last_cached_tokens: of_last(|last| last.cached_tokens),
            last_generated_tokens: of_last(|last| last.generated_tokens),
            last_prefill_ns: of_last(|last| last.prefill_ns),
            last_first_token_ns: of_last(|last| last.first_token_ns),
            last_decode_ns: of_last(|last| last.decode_ns),
            last_total_ns: of_last(|last| last.total_ns),
            last_peak_bytes: of_last(|last| last.peak_bytes),
            requests_waiting: counters.waiting,
            queue_ns: counters.queue_ns,
            passes: counters.passes,
            pass_rows: counters.pass_rows,
        });
        Ok(())
    })
}
