//! Rust closures that MLX calls with arrays: to record what is done with them.
//!
//! A closure that fails tells mlx-c only that it failed, so its own error is kept here and handed to whoever called MLX.

use std::cell::RefCell;
use std::ffi::{c_int, c_void};
use std::panic::AssertUnwindSafe;

use super::array::{Array, VectorArray};
use super::error::check;
use crate::error::{Error, Result};

thread_local! {
    /// Of the first closure that failed since the last outermost call.
    static FAILED: RefCell<Option<Error>> = const { RefCell::new(None) };
}

pub(super) struct Closure(mlx_sys::mlx_closure);

impl Closure {
    /// Of `work`, which MLX keeps for as long as it may call it. Graphs are made and freed on the engine thread only, so
    /// what `work` owns need not be `Send`.
    pub fn new<F>(work: F) -> Self
    where
        F: Fn(&[Array]) -> Result<Vec<Array>> + 'static,
    {
        let payload = Box::into_raw(Box::new(work)).cast::<c_void>();
        // SAFETY: the payload is an `F` on the heap, which `free` frees when MLX needs it no more.
        Closure(unsafe {
            mlx_sys::mlx_closure_new_func_payload(Some(trampoline::<F>), payload, Some(free::<F>))
        })
    }

    /// # Safety
    /// MLX must not call it after `work` has gone.
    pub unsafe fn borrowing<F: Fn(&[Array]) -> Result<Vec<Array>>>(work: &F) -> Self {
        let payload = std::ptr::from_ref(work).cast_mut().cast::<c_void>();
        // SAFETY: the payload is the `F` that this trampoline is made for; it is never changed through it.
        Closure(unsafe {
            mlx_sys::mlx_closure_new_func_payload(Some(trampoline::<F>), payload, None)
        })
    }

    /// To be filled by mlx-c.
    pub fn empty() -> Self {
        // SAFETY: an empty object, owned by the value.
        Closure(unsafe { mlx_sys::mlx_closure_new() })
    }

    pub fn raw(&self) -> mlx_sys::mlx_closure {
        self.0
    }

    pub fn raw_mut(&mut self) -> *mut mlx_sys::mlx_closure {
        &mut self.0
    }

    pub fn call(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        let inputs = VectorArray::new(inputs)?;
        let mut outputs = VectorArray::new(&[])?;
        // SAFETY: everything is alive and the result is ours; this is the engine thread.
        let status = unsafe { mlx_sys::mlx_closure_apply(outputs.raw_mut(), self.0, inputs.raw()) };
        own_error(status)?;
        outputs.arrays()
    }
}

impl Drop for Closure {
    fn drop(&mut self) {
        // SAFETY: owned and freed once.
        unsafe { mlx_sys::mlx_closure_free(self.0) };
    }
}

/// The closure's own error where it failed, else MLX's.
pub(super) fn own_error(status: c_int) -> Result<()> {
    let outcome = check(status);
    let failed = FAILED.with(|failed| failed.borrow_mut().take());
    match (outcome, failed) {
        (Err(_), Some(own)) => Err(own),
        (outcome, _) => outcome,
    }
}

/// Neither a panic nor an error leaves it but as a status.
unsafe extern "C" fn trampoline<F: Fn(&[Array]) -> Result<Vec<Array>>>(
    out: *mut mlx_sys::mlx_vector_array,
    inputs: mlx_sys::mlx_vector_array,
    payload: *mut c_void,
) -> c_int {
    let outcome = crate::guard::catch(AssertUnwindSafe(|| {
        // SAFETY: the payload is the `F` that this trampoline was made for, alive and never changed.
        let work = unsafe { &*payload.cast::<F>() };
        // SAFETY: mlx-c's list lives for the call.
        let inputs = unsafe { VectorArray::arrays_of(inputs) }?;
        let outputs = work(&inputs)?;
        let outputs = VectorArray::new(&outputs.iter().collect::<Vec<_>>())?;
        // SAFETY: `out` is mlx-c's to be filled, `outputs` is alive and copied.
        check(unsafe { mlx_sys::mlx_vector_array_set(out, outputs.raw()) })
    }));
    match outcome {
        Ok(()) => 0,
        Err(error) => {
            FAILED.with(|failed| failed.borrow_mut().get_or_insert(error).clone());
            1
        }
    }
}

unsafe extern "C" fn free<F>(payload: *mut c_void) {
    let _ = crate::guard::catch(AssertUnwindSafe(|| {
        // SAFETY: made by `Box::into_raw` of an `F`; MLX calls this once.
        drop(unsafe { Box::from_raw(payload.cast::<F>()) });
        Ok(())
    }));
}
