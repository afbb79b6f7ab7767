//! Elementwise operations as one kernel, on a GPU. Never on the CPU: there MLX writes C++ to /tmp, runs a compiler on it and
//! loads what that made.

use std::cell::RefCell;

use super::array::Array;
use super::closure::Closure;
use super::device::on_gpu;
use super::error::check;
use crate::error::{Error, Result};

thread_local! {
    /// By the function, what MLX compiled of it for this thread's stream.
    static COMPILED: RefCell<Vec<(usize, Closure)>> = const { RefCell::new(Vec::new()) };
}

/// `work` of `inputs`, whatever their shapes. It must be made of elementwise operations alone, and depend on nothing else.
pub fn fused<const N: usize>(
    inputs: [&Array; N],
    work: fn(&[Array; N]) -> Result<Array>,
) -> Result<Array> {
    if !on_gpu() {
        return work(&inputs.map(Clone::clone));
    }
    let key = work as usize;
    COMPILED.with(|compiled| {
        let mut compiled = compiled.borrow_mut();
        let place = match compiled.iter().position(|(of, _)| *of == key) {
            Some(place) => place,
            None => {
                compiled.push((key, compile(work)?));
                compiled.len() - 1
            }
        };
        let outputs = compiled[place].1.call(&inputs)?;
        outputs
            .into_iter()
            .next()
            .ok_or_else(|| Error::internal("a compiled function gave nothing"))
    })
}

fn compile<const N: usize>(work: fn(&[Array; N]) -> Result<Array>) -> Result<Closure> {
    let plain = Closure::new(move |inputs: &[Array]| {
        let inputs = inputs.try_into();
        let inputs = inputs.map_err(|_| Error::internal("a compiled function got other inputs"))?;
        Ok(vec![work(inputs)?])
    });
    let mut compiled = Closure::empty();
    // SAFETY: both are alive.
    check(unsafe { mlx_sys::mlx_compile(compiled.raw_mut(), plain.raw(), true) })?;
    Ok(compiled)
}

/// What was compiled runs on the stream that there was then.
pub(super) fn forget() {
    COMPILED.with(|compiled| compiled.borrow_mut().clear());
}
