//! Gradients of Rust closures. MLX calls the closure once, with arrays that record what is done with them.

use std::ffi::c_int;

use super::array::{Array, VectorArray};
use super::closure::{own_error, Closure};
use super::error::check;
use super::fast;
use crate::error::Result;

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
    // SAFETY: `work` outlives the closure: MLX calls it inside of the call below only, and records what it did, not the
    // closure.
    let closure = unsafe { Closure::borrowing(&work) };
    // SAFETY: an empty object, owned by the value.
    let mut differentiated = ValueAndGrad(unsafe { mlx_sys::mlx_closure_value_and_grad_new() });
    // SAFETY: the closure is alive and `all` has as many numbers as passed.
    check(unsafe {
        mlx_sys::mlx_value_and_grad(
            &mut differentiated.0,
            closure.raw(),
            all.as_ptr(),
            all.len(),
        )
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
    let closure = Closure::new(work);
    let mut repeated = Closure::empty();
    // SAFETY: both are alive.
    check(unsafe { mlx_sys::mlx_checkpoint(repeated.raw_mut(), closure.raw()) })?;
    repeated.call(&inputs.iter().collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;
    use crate::error::{Code, Error};
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
