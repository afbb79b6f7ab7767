//! Float arrays as the kernels take them: raw memory of f32, f16 or bf16.

#![allow(unsafe_op_in_unsafe_fn)]

use std::marker::PhantomData;

use super::heads::{HeadShape, Heads, HeadsMut};
use super::simd::Simd;
use crate::dtype::Dtype;

/// A float type that arrays are made of. Kernels compute in f32.
pub(super) trait Element: Copy + Send + Sync + 'static {
    /// # Safety
    /// See `Simd`.
    unsafe fn load<S: Simd>(p: *const Self) -> S::F;
    /// # Safety
    /// See `Simd`.
    unsafe fn store<S: Simd>(p: *mut Self, x: S::F);
    fn to_f32(self) -> f32;
    fn from_f32(x: f32) -> Self;
}

impl Element for f32 {
    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const f32) -> S::F {
        S::load(p)
    }
    #[inline(always)]
    unsafe fn store<S: Simd>(p: *mut f32, x: S::F) {
        S::store(p, x)
    }
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }
    #[inline(always)]
    fn from_f32(x: f32) -> f32 {
        x
    }
}

impl Element for half::bf16 {
    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const half::bf16) -> S::F {
        S::load_bf16(p.cast())
    }
    #[inline(always)]
    unsafe fn store<S: Simd>(p: *mut half::bf16, x: S::F) {
        S::store_bf16(p.cast(), x)
    }
    #[inline(always)]
    fn to_f32(self) -> f32 {
        half::bf16::to_f32(self)
    }
    #[inline(always)]
    fn from_f32(x: f32) -> half::bf16 {
        half::bf16::from_f32(x)
    }
}

impl Element for half::f16 {
    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const half::f16) -> S::F {
        S::load_f16(p.cast())
    }
    #[inline(always)]
    unsafe fn store<S: Simd>(p: *mut half::f16, x: S::F) {
        S::store_f16(p.cast(), x)
    }
    #[inline(always)]
    fn to_f32(self) -> f32 {
        half::f16::to_f32(self)
    }
    #[inline(always)]
    fn from_f32(x: f32) -> half::f16 {
        half::f16::from_f32(x)
    }
}

/// The first `n` elements at `p` (at most `S::LANES` of them count), the other lanes zero.
///
/// # Safety
/// The processor has S's instructions; `n` elements at `p` can be read.
#[inline(always)]
pub(super) unsafe fn load<S: Simd, E: Element>(p: *const E, n: usize) -> S::F {
    if n >= S::LANES {
        return E::load::<S>(p);
    }
    let mut lanes = [0.0; 16];
    for (i, lane) in lanes.iter_mut().enumerate().take(n) {
        *lane = p.add(i).read_unaligned().to_f32();
    }
    S::load(lanes.as_ptr())
}

/// Writes the first `n` lanes (all where there are more than `S::LANES`).
///
/// # Safety
/// The processor has S's instructions; `n` elements at `p` can be written.
#[inline(always)]
pub(super) unsafe fn store<S: Simd, E: Element>(p: *mut E, n: usize, x: S::F) {
    if n >= S::LANES {
        return E::store::<S>(p, x);
    }
    let mut lanes = [0.0; 16];
    S::store(lanes.as_mut_ptr(), x);
    for (i, &lane) in lanes.iter().enumerate().take(n) {
        p.add(i).write_unaligned(E::from_f32(lane));
    }
}

/// Runs the body with `$E` naming the element type of a float dtype.
macro_rules! with_element {
    ($dtype:expr, $E:ident => $body:expr) => {
        match $dtype {
            $crate::dtype::Dtype::BF16 => {
                type $E = half::bf16;
                $body
            }
            $crate::dtype::Dtype::F16 => {
                type $E = half::f16;
                $body
            }
            _ => {
                type $E = f32;
                $body
            }
        }
    };
}
pub(super) use with_element;

/// Rows of floats somewhere in memory, each row without gaps.
#[derive(Clone, Copy)]
pub struct Floats<'a> {
    data: *const u8,
    dtype: Dtype,
    rows: usize,
    width: usize,
    /// Elements from one row to the next.
    stride: usize,
    borrow: PhantomData<&'a [u8]>,
}

/// The same, to be written.
pub struct FloatsMut<'a> {
    data: *mut u8,
    dtype: Dtype,
    rows: usize,
    width: usize,
    stride: usize,
    borrow: PhantomData<&'a mut [u8]>,
}

// SAFETY: it is a shared borrow of plain numbers.
unsafe impl Send for Floats<'_> {}
// SAFETY: the same.
unsafe impl Sync for Floats<'_> {}
// SAFETY: it is a unique borrow of plain numbers.
unsafe impl Send for FloatsMut<'_> {}
// SAFETY: threads share it only to write rows that they do not share.
unsafe impl Sync for FloatsMut<'_> {}

impl<'a> Floats<'a> {
    /// `rows` rows of `width` elements of `dtype` (a float type), each `stride` elements after the one before. Needs no
    /// alignment.
    ///
    /// # Safety
    /// All rows can be read, and nobody writes them, for as long as `'a`.
    pub unsafe fn from_raw(
        data: *const u8,
        dtype: Dtype,
        rows: usize,
        width: usize,
        stride: usize,
    ) -> Floats<'a> {
        assert!(dtype.is_float(), "{} is no float type", dtype.name());
        Floats {
            data,
            dtype,
            rows,
            width,
            stride,
            borrow: PhantomData,
        }
    }

    /// The bytes of `rows` rows without gaps. None where they are not that many, or `dtype` is no float type.
    pub fn new(bytes: &'a [u8], dtype: Dtype, rows: usize, width: usize) -> Option<Floats<'a>> {
        let len = rows
            .checked_mul(width)?
            .checked_mul(dtype.size() as usize)?;
        // SAFETY: the length was compared; the borrow is `bytes`'.
        (dtype.is_float() && len == bytes.len())
            .then(|| unsafe { Floats::from_raw(bytes.as_ptr(), dtype, rows, width, width) })
    }

    /// Rows of `width` numbers.
    pub(super) fn of(numbers: &'a [f32], width: usize) -> Floats<'a> {
        let rows = numbers.len().checked_div(width).unwrap_or(0);
        // SAFETY: the rows are the slice's, whose borrow it is.
        unsafe { Floats::from_raw(numbers.as_ptr().cast(), Dtype::F32, rows, width, width) }
    }

    pub fn dtype(&self) -> Dtype {
        self.dtype
    }
    pub fn rows(&self) -> usize {
        self.rows
    }
    pub fn width(&self) -> usize {
        self.width
    }
    pub(super) fn row<E: Element>(&self, row: usize) -> *const E {
        debug_assert!(row < self.rows && size_of::<E>() == self.dtype.size() as usize);
        self.data
            .wrapping_add(row * self.stride * size_of::<E>())
            .cast()
    }
    /// The bytes of one row.
    pub(super) fn row_bytes(&self, row: usize) -> &'a [u8] {
        assert!(row < self.rows);
        let size = self.dtype.size() as usize;
        let at = self.data.wrapping_add(row * self.stride * size);
        // SAFETY: the row exists, and can be read as long as the borrow.
        unsafe { std::slice::from_raw_parts(at, self.width * size) }
    }
    /// Each row cut into rows of `width`; there are no gaps between them.
    pub(super) fn split(&self, width: usize) -> Floats<'a> {
        assert!(self.stride == self.width && self.width.is_multiple_of(width));
        Floats {
            rows: self.rows * (self.width / width),
            width,
            stride: width,
            ..*self
        }
    }
    /// Whether its rows do not follow each other directly.
    pub(super) fn has_gaps(&self) -> bool {
        self.stride != self.width
    }
    /// Each row as a token's heads of `dim` elements.
    pub(super) fn heads(&self, dim: usize) -> Heads<'a> {
        let shape = HeadShape::of_rows(self.rows, self.width, self.stride, dim);
        // SAFETY: the shape's elements are this array's.
        unsafe { Heads::from_raw(self.data, self.dtype, shape) }
    }
    /// `width` columns of every row, from `first` on.
    pub(super) fn columns(&self, first: usize, width: usize) -> Floats<'a> {
        assert!(first <= self.width && width <= self.width - first);
        Floats {
            data: self.data.wrapping_add(first * self.dtype.size() as usize),
            width,
            ..*self
        }
    }
    /// `rows` rows from `first` on.
    pub(super) fn some_rows(&self, first: usize, rows: usize) -> Floats<'a> {
        assert!(first <= self.rows && rows <= self.rows - first);
        let at = first * self.stride * self.dtype.size() as usize;
        Floats {
            data: self.data.wrapping_add(at),
            rows,
            ..*self
        }
    }
}

impl<'a> FloatsMut<'a> {
    /// See `Floats::from_raw`.
    ///
    /// # Safety
    /// All rows can be written and do not overlap, and nobody else reads or writes them, for as long as `'a`.
    pub unsafe fn from_raw(
        data: *mut u8,
        dtype: Dtype,
        rows: usize,
        width: usize,
        stride: usize,
    ) -> FloatsMut<'a> {
        assert!(dtype.is_float(), "{} is no float type", dtype.name());
        FloatsMut {
            data,
            dtype,
            rows,
            width,
            stride,
            borrow: PhantomData,
        }
    }

    /// See `Floats::new`.
    pub fn new(
        bytes: &'a mut [u8],
        dtype: Dtype,
        rows: usize,
        width: usize,
    ) -> Option<FloatsMut<'a>> {
        let len = rows
            .checked_mul(width)?
            .checked_mul(dtype.size() as usize)?;
        // SAFETY: the length was compared; the borrow is `bytes`'.
        (dtype.is_float() && len == bytes.len())
            .then(|| unsafe { FloatsMut::from_raw(bytes.as_mut_ptr(), dtype, rows, width, width) })
    }

    pub fn dtype(&self) -> Dtype {
        self.dtype
    }
    pub fn rows(&self) -> usize {
        self.rows
    }
    pub fn width(&self) -> usize {
        self.width
    }
    /// See `Floats::split`.
    pub(super) fn split(self, width: usize) -> FloatsMut<'a> {
        assert!(self.stride == self.width && self.width.is_multiple_of(width));
        FloatsMut {
            rows: self.rows * (self.width / width),
            width,
            stride: width,
            ..self
        }
    }
    /// See `Floats::heads`.
    pub(super) fn heads(self, dim: usize) -> HeadsMut<'a> {
        let shape = HeadShape::of_rows(self.rows, self.width, self.stride, dim);
        // SAFETY: the shape's elements are this array's, each of them once.
        unsafe { HeadsMut::from_raw(self.data, self.dtype, shape) }
    }
    /// See `Floats::columns`.
    pub(super) fn columns(self, first: usize, width: usize) -> FloatsMut<'a> {
        assert!(first <= self.width && width <= self.width - first);
        FloatsMut {
            data: self.data.wrapping_add(first * self.dtype.size() as usize),
            width,
            ..self
        }
    }
    /// Whoever writes through it sees to it that no two threads write the same elements.
    pub(super) fn row<E: Element>(&self, row: usize) -> *mut E {
        debug_assert!(row < self.rows && size_of::<E>() == self.dtype.size() as usize);
        self.data
            .wrapping_add(row * self.stride * size_of::<E>())
            .cast()
    }

    /// One row by itself.
    pub(super) fn one_row(&mut self, row: usize) -> FloatsMut<'_> {
        assert!(row < self.rows);
        let at = row * self.stride * self.dtype.size() as usize;
        FloatsMut {
            data: self.data.wrapping_add(at),
            rows: 1,
            ..*self
        }
    }

    /// The bytes of one row.
    pub(super) fn row_bytes_mut(&mut self, row: usize) -> &mut [u8] {
        assert!(row < self.rows);
        let size = self.dtype.size() as usize;
        let at = self.data.wrapping_add(row * self.stride * size);
        // SAFETY: the row exists, and is ours alone as long as the borrow.
        unsafe { std::slice::from_raw_parts_mut(at, self.width * size) }
    }

    /// Writes `n` floats (at most 16) from `from` on into `row`, from column `column` on.
    ///
    /// # Safety
    /// The processor has S's instructions; the columns exist, and no other thread writes them.
    #[inline(always)]
    pub(super) unsafe fn put<S: Simd>(
        &self,
        row: usize,
        column: usize,
        from: *const f32,
        n: usize,
    ) {
        with_element!(self.dtype, E => {
            let to = self.row::<E>(row).add(column);
            let mut i = 0;
            while i < n {
                store::<S, E>(to.add(i), n - i, S::load(from.add(i)));
                i += S::LANES;
            }
        })
    }
}
