//! Where MLX's arrays lie on the GPU, and the stream that it computes on.

use std::ffi::{c_int, c_void};

use super::driver::Address;
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::mlx::device::stream;
use crate::mlx::error::check;
use crate::mlx::{self, ops, Array, HostBuffer};

extern "C" {
    fn mlxrt_shim_device_data(array: *const c_void, stays: c_int, data: *mut *mut c_void) -> c_int;
    fn mlxrt_shim_cuda_stream(stream: *mut c_void, cuda: *mut *mut c_void) -> c_int;
}

/// Where a row-major array's first element is in the GPU's memory, until the host reads it. It may still be computed, on the engine's
/// stream. None: nobody has asked for it to be computed, or it is not row-major.
pub fn address(array: &Array) -> Result<Option<Address>> {
    data(array, false)
}

fn data(array: &Array, stays: bool) -> Result<Option<Address>> {
    let (raw, mut data) = (array.raw(), std::ptr::null_mut());
    // SAFETY: the array is alive, this is the engine thread (Array is not Send), and the out-pointer is ours.
    check(unsafe { mlxrt_shim_device_data((&raw const raw).cast(), stays.into(), &mut data) })?;
    Ok((!data.is_null()).then_some(data as Address))
}

/// The same of one that was evaluated.
pub fn address_of(array: &Array) -> Result<Address> {
    address(array)?.ok_or_else(|| Error::internal("an array that is not in the GPU's memory"))
}

/// The same, for as long as the array lives.
pub fn lasting_address_of(array: &Array) -> Result<Address> {
    mlx::eval(&[array])?;
    let none = || Error::internal("an array that is not row-major in the GPU's memory");
    data(array, true)?.ok_or_else(none)
}

/// An array, or a copy of it that is row-major, and where that is for as long as it lives.
pub fn lasting(array: &Array) -> Result<(Array, Address)> {
    mlx::eval(&[array])?;
    if let Some(at) = data(array, true)? {
        return Ok((array.clone(), at));
    }
    let copy = ops::contiguous(array)?;
    let at = lasting_address_of(&copy)?;
    Ok((copy, at))
}

/// The CUDA stream of the engine thread. None: MLX does not compute with CUDA.
pub fn cuda_stream() -> Result<Option<*mut c_void>> {
    let mut cuda = std::ptr::null_mut();
    // SAFETY: the stream is the engine thread's own, which this is; the out-pointer is ours.
    check(unsafe { mlxrt_shim_cuda_stream(stream().ctx, &mut cuda) })?;
    Ok((!cuda.is_null()).then_some(cuda))
}

/// Bytes that the GPU reads, as an array u8 `[len]`.
pub fn upload(bytes: &[u8]) -> Result<Array> {
    let mut buffer = HostBuffer::new(bytes.len())?;
    buffer.append(bytes);
    let length = i32::try_from(bytes.len()).map_err(|_| Error::internal("a table of 2 GB"))?;
    buffer.into_array(&[length], Dtype::U8)
}
