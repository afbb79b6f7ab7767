//! Tests only: lets the Nth MLX call from now on fail, to see what the engine makes of it.

use std::sync::atomic::{AtomicI64, Ordering};

use crate::error::{Code, Error, Result};

static CALLS_LEFT: AtomicI64 = AtomicI64::new(i64::MIN);

/// The `n`th checked MLX call from now on (1 = the next) fails once.
pub fn fail_at(n: i64) {
    CALLS_LEFT.store(n, Ordering::SeqCst);
}

/// Whether a fault that was asked for has not struck yet.
pub fn pending() -> bool {
    CALLS_LEFT.load(Ordering::SeqCst) > 0
}

pub(super) fn strike() -> Result<()> {
    if CALLS_LEFT.load(Ordering::Relaxed) > 0 && CALLS_LEFT.fetch_sub(1, Ordering::SeqCst) == 1 {
        return Err(Error::new(Code::Device, "MLX: a fault that the test asked for"));
    }
    Ok(())
}
