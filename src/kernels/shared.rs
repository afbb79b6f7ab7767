//! Memory that several threads write disjoint parts of.

use std::marker::PhantomData;

/// A slice of which each thread takes its own part.
pub(super) struct SharedMut<'a, T> {
    start: *mut T,
    len: usize,
    borrow: PhantomData<&'a mut [T]>,
}

// SAFETY: it only hands out parts, and who takes one promises that nobody else has it.
unsafe impl<T: Send> Sync for SharedMut<'_, T> {}

impl<'a, T> SharedMut<'a, T> {
    pub fn new(slice: &'a mut [T]) -> Self {
        SharedMut {
            start: slice.as_mut_ptr(),
            len: slice.len(),
            borrow: PhantomData,
        }
    }

    /// # Safety
    /// Nobody else holds any of these elements while the result lives.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn slice(&self, from: usize, len: usize) -> &mut [T] {
        assert!(from <= self.len && len <= self.len - from);
        // SAFETY: in bounds as checked, alive as borrowed, and unshared as the caller promises.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(from), len) }
    }
}
