//! Tests only: makes MLX fail on the calling thread, to see what the engine makes of it.

use std::cell::Cell;

use super::array::Array;
use super::device::stream;
use super::ops;
use crate::error::{Code, Error, Result};

thread_local! {
    static COUNTDOWN: Cell<u64> = const { Cell::new(0) };
    static FOR_EVER: Cell<bool> = const { Cell::new(false) };
}

/// The `n`th checked MLX call of this thread from now on (1 = the next) fails, once.
pub fn fail_at(n: u64) {
    COUNTDOWN.set(n);
    FOR_EVER.set(false);
}

/// From the `n`th call on every call fails, until `fail_at(0)`.
pub fn fail_from(n: u64) {
    COUNTDOWN.set(n);
    FOR_EVER.set(true);
}

/// Whether a fault that was asked for has not struck yet.
pub fn pending() -> bool {
    COUNTDOWN.get() > 0
}

pub(super) fn strike() -> Result<()> {
    let left = COUNTDOWN.get();
    if left == 0 {
        return Ok(());
    }
    if left > 1 || !FOR_EVER.get() {
        COUNTDOWN.set(left - 1);
    }
    match left {
        1 => Err(Error::new(
            Code::Device,
            "MLX: a fault that the test asked for",
        )),
        _ => Ok(()),
    }
}

/// Queues work that fails when it is evaluated: MLX reports it at the next, unrelated evaluation on the stream.
pub fn poison_stream() {
    // -1 has no square root.
    let matrix = Array::from_f32(&[-1.0])
        .and_then(|x| ops::reshape(&x, &[1, 1]))
        .unwrap();
    let mut out = Array::empty();
    // SAFETY: the array is alive and the result pointer is ours.
    let status =
        unsafe { mlx_sys::mlx_linalg_cholesky(out.raw_mut(), matrix.raw(), false, stream()) };
    assert_eq!(status, 0);
    super::async_eval(&[&out]).unwrap();
}
