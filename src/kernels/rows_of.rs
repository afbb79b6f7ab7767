//! Which rows of a result a kernel's rows are.

/// Where the rows of one pass go.
#[derive(Clone, Copy)]
pub(super) enum To<'a> {
    /// From this one on.
    From(usize),
    Each(&'a [u32]),
}

impl To<'_> {
    #[inline(always)]
    pub fn row(&self, index: usize) -> usize {
        match self {
            To::From(first) => first + index,
            To::Each(rows) => rows[index] as usize,
        }
    }
}
