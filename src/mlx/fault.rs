//! Tests only: makes MLX fail on the calling thread, to see what the engine makes of it.

use std::cell::Cell;

use super::array::Array;
use super::device::stream;
use super::ops;
use crate::error::{Code, Error, Result};

thread_local! {
    static COUNTDOWN: Cell<u64> = const { Cell::new(0) };
    static FOR_EVER: Cell<bool> = const { Cell::new(false) };
    static LASTING: Cell<Option<Lasting>> = const { Cell::new(None) };
    /// Of the turn that runs: calls until it is struck, 0 for none.
    static LEFT_OF_TURN: Cell<u64> = const { Cell::new(0) };
    static STRUCK: Cell<u64> = const { Cell::new(0) };
}

/// What goes wrong in each turn of one model's requests, or of one session's.
#[derive(Clone, Copy)]
pub struct Lasting {
    pub model: u64,
    pub session: Option<u64>,
    pub kind: Kind,
    /// Which of the turn: 1 = the first.
    pub number: u64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// A checked MLX call fails.
    Call,
    /// A kernel's operation is queued and fails when it is evaluated.
    Evaluation,
}

/// Sets what lasts, or ends it; gives how often the last one struck.
pub fn fail_turns(lasting: Option<Lasting>) -> u64 {
    LASTING.set(lasting);
    LEFT_OF_TURN.set(0);
    STRUCK.replace(0)
}

/// A turn of this model's begins, with these sessions.
pub fn turn_of(model: u64, sessions: &[u64]) {
    let is_of = |lasting: &Lasting| {
        let own = lasting.session.is_none_or(|own| sessions.contains(&own));
        lasting.model == model && own
    };
    let lasting = LASTING.get().filter(is_of);
    LEFT_OF_TURN.set(lasting.map_or(0, |lasting| lasting.number));
}

/// Whether this one of the turn is the one that fails.
fn strikes(kind: Kind) -> bool {
    if LASTING.get().is_none_or(|lasting| lasting.kind != kind) {
        return false;
    }
    let left = LEFT_OF_TURN.get();
    LEFT_OF_TURN.set(left.saturating_sub(1));
    STRUCK.set(STRUCK.get() + u64::from(left == 1));
    left == 1
}

/// Whether the operation that is queued now is to fail when it is evaluated.
pub(super) fn fails_when_evaluated() -> bool {
    strikes(Kind::Evaluation)
}

fn asked_for() -> Error {
    Error::new(Code::Device, "MLX: a fault that the test asked for")
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
    if strikes(Kind::Call) {
        return Err(asked_for());
    }
    let left = COUNTDOWN.get();
    if left == 0 {
        return Ok(());
    }
    if left > 1 || !FOR_EVER.get() {
        COUNTDOWN.set(left - 1);
    }
    match left {
        1 => Err(asked_for()),
        _ => Ok(()),
    }
}

/// Queues work that fails when it is evaluated: MLX reports it at the next, unrelated evaluation on the stream.
pub fn poison_stream() {
    // Where the device is quick, the evaluation that reports it is its own: then once more.
    let queued = (0..100).any(|_| {
        // 0 has no inverse.
        let matrix = Array::from_f32(&[0.0])
            .and_then(|x| ops::reshape(&x, &[1, 1]))
            .unwrap();
        let mut out = Array::empty();
        // SAFETY: the array is alive and the result pointer is ours.
        let status = unsafe { mlx_sys::mlx_linalg_inv(out.raw_mut(), matrix.raw(), stream()) };
        assert_eq!(status, 0);
        super::async_eval(&[&out]).is_ok()
    });
    assert!(queued, "every failure was reported at once");
}
