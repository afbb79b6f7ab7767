//! The only code that touches `mlx_sys`: arrays, operations, streams, errors and memory, as safe Rust.
//!
//! MLX's streams belong to the thread that made them, so everything that takes or makes an [`Array`] runs on the
//! engine thread; `Array` is neither `Send` nor `Sync`. The memory figures, [`HostBuffer`] and [`device_available`]
//! work on any thread. A C++ exception arrives here as an [`Error`](crate::error::Error) value.

mod array;
mod buffer;
mod closure;
pub mod compiled;
#[cfg_attr(target_os = "macos", path = "no_custom.rs")]
mod custom;
mod device;
mod error;
pub mod fast;
#[cfg(test)]
pub mod fault;
pub mod gpu;
pub mod grad;
pub mod memory;
pub mod nn;
pub mod ops;
pub mod stored;

pub use array::Array;
pub use buffer::HostBuffer;
#[cfg(test)]
pub use device::tested;
pub use device::{
    device_available, device_info, enter, leave, refuse_other_version, set_resource_dir,
    synchronize, version, Device,
};
pub use error::{forget_error, install_error_handler};

/// Computes something small, so that MLX makes the objects it keeps for the whole process.
pub fn warm_up() -> crate::error::Result<()> {
    let numbers = Array::from_i32(&[1, 2])?;
    eval(&[&ops::add(&numbers, &numbers)?])
}

/// Queues the computation of `arrays` and returns at once.
pub fn async_eval(arrays: &[&Array]) -> crate::error::Result<()> {
    let list = array::VectorArray::new(arrays)?;
    // SAFETY: the vector is alive; this is the engine thread (Array is not Send).
    error::check(unsafe { mlx_sys::mlx_async_eval(list.raw()) })
}

/// Computes `arrays` and waits for them.
pub fn eval(arrays: &[&Array]) -> crate::error::Result<()> {
    let list = array::VectorArray::new(arrays)?;
    // SAFETY: as in `async_eval`.
    error::check(unsafe { mlx_sys::mlx_eval(list.raw()) })
}
