//! A reference-counted MLX array, freed when the last `Array` goes.

use std::marker::PhantomData;
use std::ops::Range;

use super::error::check;
use crate::dtype::Dtype;
use crate::error::{Error, Result};

/// An element type by MLX's number.
pub(super) trait InMlx: Sized {
    fn raw(self) -> mlx_sys::mlx_dtype;

    /// `None` for what mlxrt never makes (f64, complex).
    fn from_raw(raw: mlx_sys::mlx_dtype) -> Option<Self>;
}

const TYPES: [(Dtype, mlx_sys::mlx_dtype); 12] = [
    (Dtype::Bool, mlx_sys::mlx_dtype__MLX_BOOL),
    (Dtype::U8, mlx_sys::mlx_dtype__MLX_UINT8),
    (Dtype::U16, mlx_sys::mlx_dtype__MLX_UINT16),
    (Dtype::U32, mlx_sys::mlx_dtype__MLX_UINT32),
    (Dtype::U64, mlx_sys::mlx_dtype__MLX_UINT64),
    (Dtype::I8, mlx_sys::mlx_dtype__MLX_INT8),
    (Dtype::I16, mlx_sys::mlx_dtype__MLX_INT16),
    (Dtype::I32, mlx_sys::mlx_dtype__MLX_INT32),
    (Dtype::I64, mlx_sys::mlx_dtype__MLX_INT64),
    (Dtype::F16, mlx_sys::mlx_dtype__MLX_FLOAT16),
    (Dtype::BF16, mlx_sys::mlx_dtype__MLX_BFLOAT16),
    (Dtype::F32, mlx_sys::mlx_dtype__MLX_FLOAT32),
];

impl InMlx for Dtype {
    fn raw(self) -> mlx_sys::mlx_dtype {
        TYPES[self as usize].1
    }

    fn from_raw(raw: mlx_sys::mlx_dtype) -> Option<Dtype> {
        TYPES.iter().find(|row| row.1 == raw).map(|row| row.0)
    }
}

pub struct Array {
    raw: mlx_sys::mlx_array,
    /// Streams are thread-local: an array stays on the engine thread.
    _not_send: PhantomData<*mut ()>,
}

impl Drop for Array {
    fn drop(&mut self) {
        // SAFETY: `raw` is owned and freed once.
        unsafe { mlx_sys::mlx_array_free(self.raw) };
    }
}

impl Clone for Array {
    /// Another owner of the same array; no data is copied.
    fn clone(&self) -> Self {
        let mut copy = Array::empty();
        // SAFETY: both arrays are alive. It fails only for an empty source, whose copy is empty too.
        unsafe { mlx_sys::mlx_array_set(&mut copy.raw, self.raw) };
        copy
    }
}

impl Array {
    pub(super) fn empty() -> Array {
        Array {
            raw: mlx_sys::mlx_array {
                ctx: std::ptr::null_mut(),
            },
            _not_send: PhantomData,
        }
    }

    /// Takes an array, or an empty one.
    #[cfg(not(target_os = "macos"))]
    pub(super) fn from_raw(raw: mlx_sys::mlx_array) -> Array {
        Array {
            raw,
            _not_send: PhantomData,
        }
    }

    pub(super) fn raw(&self) -> mlx_sys::mlx_array {
        self.raw
    }

    pub(super) fn raw_mut(&mut self) -> *mut mlx_sys::mlx_array {
        &mut self.raw
    }

    /// A row-major copy of `data`.
    fn from_bytes(data: *const std::ffi::c_void, shape: &[i32], dtype: Dtype) -> Result<Array> {
        // SAFETY: the callers pass as many elements as `shape` has.
        let raw = unsafe {
            mlx_sys::mlx_array_new_data(data, shape.as_ptr(), shape.len() as i32, dtype.raw())
        };
        let array = Array {
            raw,
            _not_send: PhantomData,
        };
        check(0)?;
        Ok(array)
    }

    /// `[data.len()]`
    pub fn from_i32(data: &[i32]) -> Result<Array> {
        Self::from_bytes(data.as_ptr().cast(), &[data.len() as i32], Dtype::I32)
    }

    /// `[data.len()]`
    pub fn from_f32(data: &[f32]) -> Result<Array> {
        Self::from_bytes(data.as_ptr().cast(), &[data.len() as i32], Dtype::F32)
    }

    /// A number of no dimensions in a given float type, so that it does not widen what it meets.
    pub fn scalar(value: f32, dtype: Dtype) -> Result<Array> {
        match dtype {
            Dtype::F16 => Self::from_bytes(
                (&half::f16::from_f32(value) as *const half::f16).cast(),
                &[],
                dtype,
            ),
            Dtype::BF16 => Self::from_bytes(
                (&half::bf16::from_f32(value) as *const half::bf16).cast(),
                &[],
                dtype,
            ),
            _ => Self::from_bytes((&value as *const f32).cast(), &[], Dtype::F32),
        }
    }

    pub fn shape(&self) -> &[i32] {
        // SAFETY: MLX keeps `ndim` sizes behind the pointer for the array's life.
        unsafe {
            let rank = mlx_sys::mlx_array_ndim(self.raw);
            let sizes = mlx_sys::mlx_array_shape(self.raw);
            if rank == 0 || sizes.is_null() {
                return &[];
            }
            std::slice::from_raw_parts(sizes, rank)
        }
    }

    /// The size of dimension `axis`, from the end when negative; 0 where there is none.
    pub fn dim(&self, axis: i32) -> i32 {
        let shape = self.shape();
        let index = if axis < 0 {
            axis + shape.len() as i32
        } else {
            axis
        };
        usize::try_from(index)
            .ok()
            .and_then(|index| shape.get(index))
            .copied()
            .unwrap_or(0)
    }

    pub fn size(&self) -> usize {
        // SAFETY: the array is alive.
        unsafe { mlx_sys::mlx_array_size(self.raw) }
    }

    pub fn nbytes(&self) -> u64 {
        // SAFETY: the array is alive.
        unsafe { mlx_sys::mlx_array_nbytes(self.raw) as u64 }
    }

    pub fn dtype(&self) -> Dtype {
        // SAFETY: the array is alive.
        Dtype::from_raw(unsafe { mlx_sys::mlx_array_dtype(self.raw) }).unwrap_or(Dtype::F32)
    }

    /// Waits for the array and reads its elements, which must be of this type, row-major.
    fn read<T: Copy>(
        &self,
        dtype: Dtype,
        data: impl Fn(mlx_sys::mlx_array) -> *const T,
    ) -> Result<Vec<T>> {
        if self.dtype() != dtype {
            return Err(Error::internal(format!(
                "an array of {:?} was read as {dtype:?}",
                self.dtype()
            )));
        }
        let contiguous = super::ops::contiguous(self)?;
        // SAFETY: the array is alive and this is the engine thread.
        check(unsafe { mlx_sys::mlx_array_eval(contiguous.raw) })?;
        let (pointer, size) = (data(contiguous.raw), contiguous.size());
        // Neither has a status of its own.
        check(0)?;
        if pointer.is_null() || size == 0 {
            return Ok(Vec::new());
        }
        // SAFETY: evaluated, row-major, `size` elements of T.
        Ok(unsafe { std::slice::from_raw_parts(pointer, size) }.to_vec())
    }

    /// Waits for the array and copies its elements as they are, row-major.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let contiguous = super::ops::contiguous(self)?;
        // SAFETY: the array is alive and this is the engine thread.
        check(unsafe { mlx_sys::mlx_array_eval(contiguous.raw) })?;
        // SAFETY: evaluated; the pointer is to its first element, whatever its type.
        let pointer = unsafe { mlx_sys::mlx_array_data_uint8(contiguous.raw) };
        let bytes = contiguous.nbytes() as usize;
        // Neither has a status of its own.
        check(0)?;
        if pointer.is_null() || bytes == 0 {
            return Ok(Vec::new());
        }
        // SAFETY: row-major, so `nbytes` bytes from there on are its elements.
        Ok(unsafe { std::slice::from_raw_parts(pointer, bytes) }.to_vec())
    }

    /// Waits for the array, whose elements row-major are blocks of `block` bytes, and copies these bytes of what lies in the
    /// first `used` of each block, one block behind the other.
    pub fn used_bytes(&self, block: usize, used: usize, wanted: Range<usize>) -> Result<Vec<u8>> {
        let mut is_row_major = false;
        // SAFETY: the array is alive and this is the engine thread.
        check(unsafe { mlx_sys::mlx_array_eval(self.raw) })?;
        // SAFETY: it is evaluated, which this needs.
        check(unsafe { mlx_sys::_mlx_array_is_row_contiguous(&mut is_row_major, self.raw) })?;
        if !is_row_major {
            let copy = super::ops::contiguous(self)?;
            // SAFETY: as above.
            check(unsafe { mlx_sys::mlx_array_eval(copy.raw) })?;
            return copy.used_bytes_of_rows(block, used, wanted);
        }
        self.used_bytes_of_rows(block, used, wanted)
    }

    /// As `used_bytes`, once it is evaluated and row-major.
    fn used_bytes_of_rows(
        &self,
        block: usize,
        used: usize,
        wanted: Range<usize>,
    ) -> Result<Vec<u8>> {
        // SAFETY: evaluated; the pointer is to its first element, whatever its type.
        let pointer = unsafe { mlx_sys::mlx_array_data_uint8(self.raw) };
        let bytes = self.nbytes() as usize;
        // Neither has a status of its own.
        check(0)?;
        if pointer.is_null() || used == 0 || used > block {
            return Err(Error::internal("an array without bytes"));
        }
        // SAFETY: row-major, so `nbytes` bytes from there on are its elements; nothing writes to them meanwhile: what would is
        // queued by this thread.
        let all = unsafe { std::slice::from_raw_parts(pointer, bytes) };
        let mut copy = Vec::with_capacity(wanted.len());
        let mut at = wanted.start;
        while at < wanted.end {
            let (number, inside) = (at / used, at % used);
            let length = (used - inside).min(wanted.end - at);
            let start = number.saturating_mul(block).saturating_add(inside);
            let part = all.get(start..start.saturating_add(length));
            let part = part.ok_or_else(|| Error::internal("bytes beyond an array's end"))?;
            copy.extend_from_slice(part);
            at += length;
        }
        Ok(copy)
    }

    pub fn to_f32(&self) -> Result<Vec<f32>> {
        // SAFETY: the array is alive; `read` checks the type.
        self.read(Dtype::F32, |raw| unsafe {
            mlx_sys::mlx_array_data_float32(raw)
        })
    }

    pub fn to_u32(&self) -> Result<Vec<u32>> {
        // SAFETY: as above.
        self.read(Dtype::U32, |raw| unsafe {
            mlx_sys::mlx_array_data_uint32(raw)
        })
    }

    /// Waits for the array, which must have one element of type u32, and reads it.
    pub fn item_u32(&self) -> Result<u32> {
        let mut value = 0;
        // SAFETY: the array is alive; MLX checks that it has one element.
        check(unsafe { mlx_sys::mlx_array_item_uint32(&mut value, self.raw) })?;
        Ok(value)
    }
}

pub(super) struct VectorArray(mlx_sys::mlx_vector_array);

impl VectorArray {
    pub fn new(arrays: &[&Array]) -> Result<VectorArray> {
        // SAFETY: the new vector is owned by the value.
        let list = VectorArray(unsafe { mlx_sys::mlx_vector_array_new() });
        for array in arrays {
            // SAFETY: both are alive; the vector takes its own reference.
            check(unsafe { mlx_sys::mlx_vector_array_append_value(list.0, array.raw) })?;
        }
        Ok(list)
    }

    pub fn raw(&self) -> mlx_sys::mlx_vector_array {
        self.0
    }

    pub fn raw_mut(&mut self) -> *mut mlx_sys::mlx_vector_array {
        &mut self.0
    }

    /// The arrays of a list that is another's.
    ///
    /// # Safety
    /// `list` is alive.
    pub unsafe fn arrays_of(list: mlx_sys::mlx_vector_array) -> Result<Vec<Array>> {
        // SAFETY: the caller's promise.
        let count = unsafe { mlx_sys::mlx_vector_array_size(list) };
        (0..count)
            .map(|index| {
                let mut array = Array::empty();
                // SAFETY: the list is alive and has such an index; the array takes its own reference.
                check(unsafe { mlx_sys::mlx_vector_array_get(array.raw_mut(), list, index) })?;
                Ok(array)
            })
            .collect()
    }

    pub fn arrays(&self) -> Result<Vec<Array>> {
        // SAFETY: owned, so alive.
        unsafe { Self::arrays_of(self.0) }
    }
}

impl Drop for VectorArray {
    fn drop(&mut self) {
        // SAFETY: owned and freed once.
        unsafe { mlx_sys::mlx_vector_array_free(self.0) };
    }
}
