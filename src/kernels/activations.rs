//! Rows of activations made ready for products with packed codes.
//!
//! Every group of a row (as the weights have them) is written as whole numbers of a step, and these in signed digits of
//! base 128, one byte each: two digits (15 bits; 14 for weights of 8 bits, whose products must not overflow 16 bits on
//! AVX2) or three (22; 21). With `a` the largest activation of the group in size, the step is `a / 16256` (`a / 8064`;
//! `a / 2080768`, `a / 1032192`), and no activation moves by more than half a step. A group that holds NaN or infinity
//! gets a step of NaN, and with it every output of the row; one whose largest is under 1e-30 counts as zero.

#![allow(unsafe_op_in_unsafe_fn)]

use super::float::{load, with_element, Element, Floats};
use super::layout::{Layout, RUN};
use super::pool::Pool;
use super::shared::SharedMut;
use super::simd::{Kernel, Simd};
use super::Path;
use crate::dtype::Dtype;

/// Groups whose largest number is below this count as zero, so that steps stay normal numbers.
pub const SMALLEST: f32 = 1e-30;

/// Rows of activations as digits. Rows lie in tiles of a few (see `tiles`); a tile's bytes are, run after run, row after row,
/// digit after digit (the largest first), the 32 inputs' digits.
#[derive(Default)]
pub(super) struct Digits {
    pub digits: usize,
    pub rows: usize,
    /// Bytes of one row.
    pub row_bytes: usize,
    /// Groups of one row.
    pub groups: usize,
    pub bytes: Vec<u8>,
    /// For each tile, group and row: the step, and the sum of the group's numbers as they were rounded.
    pub steps: Vec<[f32; 2]>,
}

/// The tiles that `rows` rows are cut into: (first row, rows), each a power of two, at most `most`.
pub(super) fn tiles(rows: usize, most: usize) -> impl Iterator<Item = (usize, usize)> {
    let mut first = 0;
    std::iter::from_fn(move || {
        let left = rows - first;
        if left == 0 {
            return None;
        }
        let size = most.min(1 << left.ilog2());
        first += size;
        Some((first - size, size))
    })
}

/// How many digits activations of this type take, so that rounding them to steps adds less than their own precision.
pub(super) fn digits_for(dtype: Dtype) -> usize {
    match dtype {
        Dtype::F32 => 3,
        _ => 2,
    }
}

/// The largest whole number of steps.
pub(super) fn most_steps(bits: usize, digits: usize) -> f32 {
    let first = if bits == 8 { 63 } else { 127 };
    (first << (7 * (digits - 1))) as f32
}

impl Digits {
    /// Takes rows `from .. from + rows` of `x`, `[…, layout.inputs()]`, in tiles of at most `tile` rows.
    #[allow(clippy::too_many_arguments)]
    pub fn fill(
        &mut self,
        path: Path,
        pool: &Pool,
        layout: &Layout,
        x: &Floats,
        from: usize,
        rows: usize,
        tile: usize,
    ) {
        let tiles: Vec<_> = tiles(rows, tile).collect();
        self.fill_from(path, pool, layout, x, rows, |row| from + row, &tiles);
    }

    /// Takes the rows `sources` of `x`, cut into `tiles`.
    pub fn fill_tiles(
        &mut self,
        path: Path,
        pool: &Pool,
        layout: &Layout,
        x: &Floats,
        sources: &[usize],
        tiles: &[(usize, usize)],
    ) {
        let rows = sources.len();
        self.fill_from(path, pool, layout, x, rows, |row| sources[row], tiles);
    }

    #[allow(clippy::too_many_arguments)]
    fn fill_from(
        &mut self,
        path: Path,
        pool: &Pool,
        layout: &Layout,
        x: &Floats,
        rows: usize,
        source: impl Fn(usize) -> usize + Sync,
        tiles: &[(usize, usize)],
    ) {
        self.digits = digits_for(x.dtype());
        self.rows = rows;
        self.row_bytes = layout.runs() * RUN * self.digits;
        self.groups = layout.padded_groups();
        self.bytes.resize(rows * self.row_bytes, 0);
        self.steps.resize(rows * self.groups, [0.0; 2]);
        let bytes = SharedMut::new(&mut self.bytes);
        let steps = SharedMut::new(&mut self.steps);
        let (row_bytes, groups, digits) = (self.row_bytes, self.groups, self.digits);
        let one = |index: usize| {
            let (first, size) = tiles[index];
            // SAFETY: tiles do not share rows, and each is handed out once.
            let (bytes, steps) = unsafe {
                (
                    bytes.slice(first * row_bytes, size * row_bytes),
                    steps.slice(first * groups, size * groups),
                )
            };
            for row in 0..size {
                let (bytes, steps) = (bytes.as_mut_ptr(), steps.as_mut_ptr());
                with_element!(x.dtype(), E => path.run(Row {
                    layout,
                    digits,
                    tile: size,
                    row,
                    x: x.row::<E>(source(first + row)),
                    bytes,
                    steps,
                }));
            }
        };
        // A few rows are quicker done than given to another thread.
        if rows * layout.inputs() < 1 << 15 {
            (0..tiles.len()).for_each(one);
        } else {
            pool.parallel(tiles.len(), one);
        }
    }

    /// A tile's digits and steps.
    pub fn tile(&self, first: usize) -> (*const u8, *const [f32; 2]) {
        (
            self.bytes[first * self.row_bytes..].as_ptr(),
            self.steps[first * self.groups..].as_ptr(),
        )
    }
}

/// One row into its places in the tile.
struct Row<'a, E> {
    layout: &'a Layout,
    digits: usize,
    tile: usize,
    row: usize,
    x: *const E,
    bytes: *mut u8,
    steps: *mut [f32; 2],
}

impl<E: Element> Kernel for Row<'_, E> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let (group, inputs) = (self.layout.group(), self.layout.inputs());
        let most = most_steps(self.layout.bits(), self.digits);
        for g in 0..self.layout.padded_groups() {
            let start = g * group;
            // Inputs of this group that there are; the padding has none.
            let n = inputs.saturating_sub(start).min(group);
            let x = self.x.wrapping_add(start);
            let (mut largest, mut odd) = (S::splat(0.0), S::splat(0.0));
            let mut i = 0;
            while i < n {
                let v = load::<S, E>(x.add(i), n - i);
                largest = S::max(largest, S::abs(v));
                odd = S::fma(v, S::splat(0.0), odd);
                i += S::LANES;
            }
            let (largest, odd) = (S::largest(largest), S::sum(odd));
            let (step, inverse) = if odd.is_nan() {
                (f32::NAN, 0.0)
            } else if largest < SMALLEST {
                (0.0, 0.0)
            } else {
                (largest / most, most / largest)
            };
            let mut total = S::izero();
            let mut i = 0;
            while i < group {
                let v = if i < n && !step.is_nan() {
                    load::<S, E>(x.add(i), n - i)
                } else {
                    S::splat(0.0)
                };
                let q = S::to_int(S::mul(v, S::splat(inverse)));
                total = S::iadd(total, q);
                let at = start + i;
                let run = (at / RUN * self.tile + self.row) * self.digits;
                let to = self.bytes.add(run * RUN + at % RUN);
                let mut rest = q;
                if self.digits == 3 {
                    let first = S::ishr::<14>(S::iadd(rest, S::isplat(1 << 13)));
                    S::store_low_bytes(to, first);
                    rest = S::isub(rest, S::ishl::<14>(first));
                }
                let next = S::ishr::<7>(S::iadd(rest, S::isplat(1 << 6)));
                let to = to.add((self.digits - 2) * RUN);
                S::store_low_bytes(to, next);
                S::store_low_bytes(to.add(RUN), S::isub(rest, S::ishl::<7>(next)));
                i += S::LANES;
            }
            let sum = S::sum(S::to_float(total)) * step;
            *self.steps.add(g * self.tile + self.row) = [step, sum];
        }
    }
}
