//! Times as callers give them, in milliseconds.

use std::time::{Duration, Instant};

use super::constants::MLXRT_FOREVER;

/// A timeout argument; `None` waits as long as it takes.
pub(super) fn timeout(timeout_ms: u32) -> Option<Duration> {
    (timeout_ms != MLXRT_FOREVER).then(|| Duration::from_millis(timeout_ms.into()))
}

/// An option's timeout_ms; 0 = none.
pub(super) fn time_limit(timeout_ms: u32) -> Option<Duration> {
    (timeout_ms != 0).then(|| Duration::from_millis(timeout_ms.into()))
}

/// When an option's timeout_ms, counted from now, is over.
pub(super) fn deadline(timeout_ms: u32) -> Option<Instant> {
    time_limit(timeout_ms).map(|time| Instant::now() + time)
}
