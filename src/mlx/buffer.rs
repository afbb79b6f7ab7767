//! Memory of MLX's allocator that a loader fills before it becomes an array: weights are read straight into it,
//! without a copy and without a mapping (a file that is truncated under a mapping kills the process).

use std::ffi::{c_int, c_void};
use std::fs::File;
use std::os::fd::AsRawFd;

use super::array::{Array, InMlx};
use super::error::check;
use crate::dtype::Dtype;
use crate::error::{Code, Error, Result};

extern "C" {
    fn mlxrt_shim_buffer_new(
        buffer: *mut *mut c_void,
        data: *mut *mut c_void,
        bytes: usize,
    ) -> c_int;
    fn mlxrt_shim_buffer_free(buffer: *mut c_void);
    fn mlxrt_shim_buffer_into_array(
        array: *mut c_void,
        buffer: *mut c_void,
        shape: *const c_int,
        rank: c_int,
        dtype: c_int,
    ) -> c_int;
}

pub struct HostBuffer {
    buffer: *mut c_void,
    data: *mut u8,
    len: usize,
    /// How much was read into it from the front; only a full buffer becomes an array.
    filled: usize,
}

// SAFETY: the buffer is plain memory with one owner; MLX's allocator locks.
unsafe impl Send for HostBuffer {}

impl HostBuffer {
    /// `len` bytes, their content undefined until written. Any thread.
    pub fn new(len: usize) -> Result<HostBuffer> {
        let (mut buffer, mut data) = (std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: both out-pointers are ours.
        check(unsafe { mlxrt_shim_buffer_new(&mut buffer, &mut data, len) })?;
        if buffer.is_null() || (data.is_null() && len > 0) {
            return Err(Error::new(
                Code::OutOfMemory,
                format!("MLX gave no memory for {len} bytes"),
            ));
        }
        Ok(HostBuffer {
            buffer,
            data: data.cast(),
            len,
            filled: 0,
        })
    }

    /// Reads up to `most` more bytes from `file`, from `position` on. Gives how many were read; 0 when the buffer is full. A
    /// file that ends early is an error.
    pub fn read_some(&mut self, file: &File, position: u64, most: usize) -> std::io::Result<usize> {
        let wanted = most.min(self.len - self.filled);
        if wanted == 0 {
            return Ok(0);
        }
        let position = i64::try_from(position).map_err(|_| std::io::ErrorKind::InvalidInput)?;
        loop {
            // SAFETY: `wanted` bytes from `filled` on lie inside the allocation, which this value alone owns.
            let got = unsafe {
                let to = self.data.add(self.filled).cast();
                libc::pread(file.as_raw_fd(), to, wanted, position)
            };
            match got {
                0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                n if n > 0 => {
                    self.filled += n as usize;
                    return Ok(n as usize);
                }
                _ => {
                    let error = std::io::Error::last_os_error();
                    if error.kind() != std::io::ErrorKind::Interrupted {
                        return Err(error);
                    }
                }
            }
        }
    }

    /// How many bytes are there.
    pub fn filled(&self) -> usize {
        self.filled
    }

    /// Puts bytes behind those that are there, as many as there is room for.
    pub fn append(&mut self, bytes: &[u8]) {
        let count = bytes.len().min(self.len - self.filled);
        // SAFETY: `count` bytes from `filled` on lie inside the allocation, which this value alone owns.
        unsafe {
            let to = self.data.add(self.filled);
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, count);
        }
        self.filled += count;
    }

    pub fn is_full(&self) -> bool {
        self.filled == self.len
    }

    /// What was read so far.
    pub fn bytes(&self) -> &[u8] {
        if self.filled == 0 {
            return &[];
        }
        // SAFETY: `filled` bytes of the allocation are written, and only `&mut self` writes to it.
        unsafe { std::slice::from_raw_parts(self.data, self.filled) }
    }

    /// Makes it an array of `shape`, row-major. The engine thread only.
    pub fn into_array(self, shape: &[i32], dtype: Dtype) -> Result<Array> {
        let elements: usize = shape.iter().map(|&n| n.max(0) as usize).product();
        if elements.checked_mul(dtype.size() as usize) != Some(self.len) || self.filled != self.len
        {
            return Err(Error::internal(format!(
                "{} bytes do not make an array of {shape:?}",
                self.len
            )));
        }
        self.array_of(shape, dtype)
    }

    /// An array whose numbers are undefined until a GPU's kernel writes them. The engine thread only.
    pub(super) fn unwritten(shape: &[i32], dtype: Dtype) -> Result<Array> {
        let elements = shape.iter().try_fold(1, |all: usize, &n| {
            all.checked_mul(usize::try_from(n).ok()?)
        });
        let bytes = elements.and_then(|elements| elements.checked_mul(dtype.size() as usize));
        let bytes = bytes.ok_or_else(|| Error::internal("an array without a size"))?;
        HostBuffer::new(bytes)?.array_of(shape, dtype)
    }

    /// `shape` and `dtype` make as many bytes as there are.
    fn array_of(self, shape: &[i32], dtype: Dtype) -> Result<Array> {
        let mut array = Array::empty();
        let this = std::mem::ManuallyDrop::new(self);
        // SAFETY: the shim takes the buffer, whatever happens; the sizes were compared above.
        let status = unsafe {
            mlxrt_shim_buffer_into_array(
                array.raw_mut().cast(),
                this.buffer,
                shape.as_ptr(),
                shape.len() as c_int,
                dtype.raw() as c_int,
            )
        };
        check(status)?;
        Ok(array)
    }
}

impl Drop for HostBuffer {
    fn drop(&mut self) {
        // SAFETY: made by mlxrt_shim_buffer_new and not given away.
        unsafe { mlxrt_shim_buffer_free(self.buffer) };
    }
}
