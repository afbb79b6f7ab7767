//! Working memory that is kept from one call to the next.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};

use super::activations::Digits;
#[cfg(target_arch = "x86_64")]
use super::amx::Line;
use super::float::{Floats, FloatsMut};
use crate::dtype::Dtype;

#[derive(Default)]
pub(super) struct Scratch {
    digits: Mutex<Vec<Digits>>,
    floats: Mutex<Vec<Vec<f32>>>,
    /// Of `Buffer`s, whose lengths never shrink.
    buffers: Mutex<Vec<Vec<f32>>>,
    #[cfg(target_arch = "x86_64")]
    lines: Mutex<Vec<Vec<Line>>>,
}

impl Scratch {
    pub fn digits(&self) -> Lent<'_, Digits> {
        Lent::new(&self.digits)
    }

    pub fn floats(&self) -> Lent<'_, Vec<f32>> {
        Lent::new(&self.floats)
    }

    #[cfg(target_arch = "x86_64")]
    pub fn lines(&self) -> Lent<'_, Vec<Line>> {
        Lent::new(&self.lines)
    }

    /// Gives all of it back to the system.
    pub fn clear(&self) {
        self.digits
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
        for floats in [&self.floats, &self.buffers] {
            floats
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clear();
        }
        #[cfg(target_arch = "x86_64")]
        self.lines
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }
}

/// Goes back when dropped. Its content is whatever the last user left.
pub(super) struct Lent<'a, T: Default> {
    value: T,
    home: &'a Mutex<Vec<T>>,
}

impl<'a, T: Default> Lent<'a, T> {
    fn new(home: &'a Mutex<Vec<T>>) -> Self {
        let value = home
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop()
            .unwrap_or_default();
        Lent { value, home }
    }
}

impl<T: Default> Deref for Lent<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: Default> DerefMut for Lent<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

impl<T: Default> Drop for Lent<'_, T> {
    fn drop(&mut self) {
        self.home
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(std::mem::take(&mut self.value));
    }
}

/// `[rows, width]` of a float type, to be written before it is read.
pub(super) struct Buffer<'a> {
    memory: Lent<'a, Vec<f32>>,
    dtype: Dtype,
    rows: usize,
    width: usize,
}

impl<'a> Buffer<'a> {
    pub fn new(scratch: &'a Scratch, dtype: Dtype, rows: usize, width: usize) -> Self {
        let mut memory = Lent::new(&scratch.buffers);
        let len = (rows * width * dtype.size() as usize).div_ceil(size_of::<f32>());
        let len = len.max(memory.len());
        memory.resize(len, 0.0);
        Buffer {
            memory,
            dtype,
            rows,
            width,
        }
    }

    pub fn floats(&self) -> Floats<'_> {
        let data = self.memory.as_ptr().cast();
        // SAFETY: the memory has room for the rows, holds plain numbers, and is borrowed.
        unsafe { Floats::from_raw(data, self.dtype, self.rows, self.width, self.width) }
    }

    pub fn floats_mut(&mut self) -> FloatsMut<'_> {
        let data = self.memory.as_mut_ptr().cast();
        // SAFETY: as above, and borrowed by nobody else.
        unsafe { FloatsMut::from_raw(data, self.dtype, self.rows, self.width, self.width) }
    }
}
