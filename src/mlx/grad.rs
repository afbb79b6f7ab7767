//! Gradients of Rust closures. MLX calls the closure once, with arrays that record what is done with them.
//!
//! A closure that fails tells mlx-c only that it failed, so its own error is kept here and handed to whoever called MLX.

use std::cell::RefCell;
use std::ffi::{c_int, c_void};
use std::panic::AssertUnwindSafe;

use super::array::{Array, VectorArray};
use super::error::check;
use super::fast;
use crate::error::{Error, Result};

thread_local! {
    /// Of the first closure that failed since the last outermost call.
    static FAILED: RefCell<Option<Error>> = const { RefCell::new(None) };
}

struct Closure(mlx_sys::mlx_closure);

impl Drop for Closure {
    fn drop(&mut self) {
        // SAFETY: owned and freed once.
        unsafe { mlx_sys::mlx_closure_free(self.0) };
    }
}

struct ValueAndGrad(mlx_sys::mlx_closure_value_and_grad);

impl Drop for ValueAndGrad {
    fn drop(&mut self) {
        // SAFETY: owned and freed once.
        unsafe { mlx_sys::mlx_closure_value_and_grad_free(self.0) };
    }
}

/// What `work` makes of `inputs`, and the gradients of its first array (one number) by each of them. With operations that
/// have gradients (see `fast`).
pub fn value_and_grad(
    work: impl Fn(&[Array]) -> Result<Vec<Array>>,
    inputs: &[Array],
) -> Result<(Vec<Array>, Vec<Array>)> {
    fast::with_gradients(|| differentiate(work, inputs))
}

fn differentiate(
    work: impl Fn(&[Array]) -> Result<Vec<Array>>,
    inputs: &[Array],
) -> Result<(Vec<Array>, Vec<Array>)> {
    let all: Vec<c_int> = (0..inputs.len() as c_int).collect();
    let inputs = VectorArray::new(&inputs.iter().collect::<Vec<_>>())?;
    let payload = std::ptr::from_ref(&work).cast_mut().cast::<c_void>();
    // SAFETY: `payload` is what `trampoline_of` expects, and `work` outlives the closure: MLX calls it inside of the
    // call below only, and records what it did, not the closure.
    let closure = Closure(unsafe {
        mlx_sys::mlx_closure_new_func_payload(Some(trampoline_of(&work)), payload, None)
    });
    // SAFETY: an empty object, owned by the value.
    let mut differentiated = ValueAndGrad(unsafe { mlx_sys::mlx_closure_value_and_grad_new() });
    // SAFETY: the closure is alive and `all` has as many numbers as passed.
    check(unsafe {
        mlx_sys::mlx_value_and_grad(&mut differentiated.0, closure.0, all.as_ptr(), all.len())
    })?;
    let (mut values, mut grads) = (VectorArray::new(&[])?, VectorArray::new(&[])?);
    // SAFETY: everything is alive and the results are ours; this is the engine thread.
    let status = unsafe {
        mlx_sys::mlx_closure_value_and_grad_apply(
            values.raw_mut(),
            grads.raw_mut(),
            differentiated.0,
            inputs.raw(),
        )
    };
    own_error(status)?;
    Ok((values.arrays()?, grads.arrays()?))
}

/// What `work` makes of `inputs`. Inside of `value_and_grad` nothing in between is kept: it is computed again for the
/// gradients, which flow to `inputs` alone, not to arrays that `work` brings along.
pub fn checkpoint<F>(work: F, inputs: &[Array]) -> Result<Vec<Array>>
where
    F: Fn(&[Array]) -> Result<Vec<Array>> + 'static,
{
    let inputs = VectorArray::new(&inputs.iter().collect::<Vec<_>>())?;
    let trampoline = trampoline_of(&work);
    let payload = Box::into_raw(Box::new(work)).cast::<c_void>();
    // SAFETY: the payload is an `F` on the heap, which MLX keeps for as long as it may call it and then frees with
    // `free`. Graphs are made and freed on the engine thread only, so what `F` owns need not be `Send`.
    let closure = Closure(unsafe {
        mlx_sys::mlx_closure_new_func_payload(Some(trampoline), payload, Some(free::<F>))
    });
    // SAFETY: an empty object, owned by the value.
    let mut repeated = Closure(unsafe { mlx_sys::mlx_closure_new() });
    // SAFETY: both are alive.
    check(unsafe { mlx_sys::mlx_checkpoint(&mut repeated.0, closure.0) })?;
    let mut outputs = VectorArray::new(&[])?;
    // SAFETY: everything is alive and the result is ours; this is the engine thread.
    let status = unsafe { mlx_sys::mlx_closure_apply(outputs.raw_mut(), repeated.0, inputs.raw()) };
    own_error(status)?;
    outputs.arrays()
}

/// The closure's own error where it failed, else MLX's.
fn own_error(status: c_int) -> Result<()> {
    let outcome = check(status);
    let failed = FAILED.with(|failed| failed.borrow_mut().take());
    match (outcome, failed) {
        (Err(_), Some(own)) => Err(own),
        (outcome, _) => outcome,
    }
}

type Trampoline = unsafe extern "C" fn(
    *mut mlx_sys::mlx_vector_array,
    mlx_sys::mlx_vector_array,
    *mut c_void,
) -> c_int;

fn trampoline_of<F: Fn(&[Array]) -> Result<Vec<Array>>>(_: &F) -> Trampoline {
    trampoline::<F>
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

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;
    use crate::error::Code;
    use crate::mlx::{self, ops, Device};

    fn cube_of_sum(inputs: &[Array]) -> Result<Vec<Array>> {
        let [x, y] = inputs else {
            return Err(Error::internal("two are expected"));
        };
        let sum = ops::add(x, y)?;
        let cube = ops::multiply(&ops::multiply(&sum, &sum)?, &sum)?;
        Ok(vec![ops::sum(&cube, 0, false)?])
    }

    fn inputs() -> Vec<Array> {
        mlx::install_error_handler();
        mlx::enter(Device::Cpu).unwrap();
        let (x, y) = ([1.0, 2.0], [0.5, -1.0]);
        [x, y].map(|data| Array::from_f32(&data).unwrap()).into()
    }

    #[test]
    fn gradients_by_all_inputs() {
        let inputs = inputs();
        let (value, grads) = value_and_grad(cube_of_sum, &inputs).unwrap();
        assert_eq!(value[0].to_f32().unwrap(), [1.5f32.powi(3) + 1.0]);
        assert_eq!(grads.len(), 2);
        for grad in &grads {
            assert_eq!(grad.to_f32().unwrap(), [3.0 * 1.5 * 1.5, 3.0]);
        }
    }

    #[test]
    fn a_checkpoint_computes_again_and_is_freed() {
        let inputs = inputs();
        let calls = Rc::new(std::cell::Cell::new(0));
        let counted = calls.clone();
        let work = move |inputs: &[Array]| {
            let counted = counted.clone();
            let inner = move |inputs: &[Array]| {
                counted.set(counted.get() + 1);
                cube_of_sum(inputs)
            };
            checkpoint(inner, inputs)
        };
        let (value, grads) = value_and_grad(work, &inputs).unwrap();
        assert_eq!(calls.get(), 2);
        assert_eq!(value[0].to_f32().unwrap(), [1.5f32.powi(3) + 1.0]);
        assert_eq!(grads[1].to_f32().unwrap(), [6.75, 3.0]);
        drop((value, grads));
        assert_eq!(Rc::strong_count(&calls), 1);
    }

    #[test]
    fn a_closures_own_error_arrives_and_nothing_of_it_stays() {
        let inputs = inputs();
        let refuse = |_: &[Array]| Err(Error::invalid("not today"));
        let error = |work: &dyn Fn(&[Array]) -> Result<Vec<Array>>| {
            value_and_grad(work, &inputs).map(|_| ()).unwrap_err()
        };
        assert_eq!(error(&refuse), Error::invalid("not today"));
        // MLX's own, of the operation that failed.
        let bad = error(&|inputs| {
            let wide = ops::reshape(&inputs[0], &[1, 2])?;
            Ok(vec![ops::matmul(&wide, &wide)?])
        });
        assert_eq!(bad.code, Code::Device);
        assert!(bad.message.contains("matmul"), "{bad}");
        let bug = error(&|_| panic!("in a closure"));
        assert_eq!(bug.code, Code::Internal);
        assert!(bug.message.contains("in a closure"), "{bug}");
        // What is no number has no gradient: MLX says so.
        let shape = error(&|inputs| Ok(inputs.to_vec()));
        assert!(shape.message.contains("[vjp]"), "{shape}");
        let inner = error(&|inputs| checkpoint(refuse, inputs));
        assert_eq!(inner, Error::invalid("not today"));
        assert!(value_and_grad(cube_of_sum, &inputs).is_ok());
    }

    #[test]
    fn a_checkpoint_that_fails_the_second_time() {
        let inputs = inputs();
        let calls = Rc::new(std::cell::Cell::new(0));
        let work = move |inputs: &[Array]| {
            let calls = calls.clone();
            let inner = move |inputs: &[Array]| {
                calls.set(calls.get() + 1);
                match calls.get() {
                    1 => cube_of_sum(inputs),
                    _ => Err(Error::invalid("once is enough")),
                }
            };
            checkpoint(inner, inputs)
        };
        let error = value_and_grad(work, &inputs).map(|_| ()).unwrap_err();
        assert_eq!(error, Error::invalid("once is enough"));
    }
}
