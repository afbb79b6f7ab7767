//! Products of many rows on AMX tiles, in bf16 with sums in f32.
//!
//! Only for activations in bf16, which tiles take as they are. Weights of 32 outputs are made bf16 tiles that stay in a
//! core's second cache while all rows pass by, 32 at a time.
//!
//! Error of an output, beside its rounding: `Σ |w x| * (2^-8 + inputs * 2^-24)` for packed weights, which are rounded to
//! bf16 when they are unpacked; without the 2^-8 for weights that are bf16 already.

#![allow(unsafe_op_in_unsafe_fn)]

mod fill;
mod tile;

use std::ops::Range;

use super::float::{Floats, FloatsMut};
use super::layout::{Packed, ROWS, RUN};
use super::simd::{Kernel, Simd};
use super::{Kernels, Path};
use crate::dtype::Dtype;
use tile::{Hardware, Tiles};

/// From so many rows on tiles are quicker than products of bytes.
const FEWEST: usize = 16;
/// Bytes of activations that pass by in one go.
const CACHED: usize = 1 << 20;

/// 64 bytes where a cache line starts: tiles are read line by line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Line([u16; 32]);

/// Lines of one tile.
const TILE: usize = 16;

/// Weights that are made tiles.
#[derive(Clone, Copy)]
pub(super) enum Weights<'a> {
    Packed(Packed<'a>),
    /// bf16 `[outputs, inputs]`
    Dense(Floats<'a>),
}

impl Weights<'_> {
    fn outputs(&self) -> usize {
        match self {
            Weights::Packed(packed) => packed.layout().rows(),
            Weights::Dense(dense) => dense.rows(),
        }
    }

    /// Tiles of 32 inputs.
    fn tiles(&self) -> usize {
        match self {
            Weights::Packed(packed) => packed.layout().runs(),
            Weights::Dense(dense) => dense.width().div_ceil(RUN),
        }
    }
}

impl Kernels {
    /// Whether these products are quicker on tiles, and may round as they do.
    pub(super) fn tiles_pay(&self, rows: usize, x: Dtype, weights: Dtype) -> bool {
        self.path == Path::Amx && x == Dtype::BF16 && weights == Dtype::BF16 && rows >= FEWEST
    }

    /// `y = x Wᵀ` on the processor's tiles; shapes were compared.
    pub(super) fn tile_matmul(&self, x: &Floats, weights: Weights, y: &FloatsMut) {
        self.matmul_on::<Hardware>(x, weights, y);
    }

    fn matmul_on<T: Tiles>(&self, x: &Floats, weights: Weights, y: &FloatsMut) {
        let tiles = weights.tiles();
        let at_once = (CACHED / (2 * RUN * tiles).max(1)).max(32) / 32 * 32;
        let mut lines = self.scratch.lines();
        let mut from = 0;
        while from < x.rows() {
            let rows = at_once.min(x.rows() - from);
            gather_rows(x, from..from + rows, tiles, &mut lines);
            // Two panels at a time share what is read of the rows.
            let pairs = weights.outputs().div_ceil(2 * ROWS);
            let chunks = self.chunks(pairs, 2 * ROWS * RUN * tiles * rows.div_ceil(16));
            self.pool.parallel(chunks.count, |chunk| {
                let mut room = self.scratch.lines();
                self.path.run(Pairs::<T> {
                    x: &lines,
                    rows,
                    weights,
                    tiles,
                    room: &mut room,
                    y,
                    from,
                    pairs: chunks.range(chunk),
                    on: std::marker::PhantomData,
                });
            });
            from += rows;
        }
    }
}

/// Rows of bf16 as tiles: 16 rows by 32 inputs after each other, those of the same rows together; zeros beyond the ends.
fn gather_rows(x: &Floats, rows: Range<usize>, tiles: usize, to: &mut Vec<Line>) {
    to.clear();
    to.resize(rows.len().div_ceil(TILE) * TILE * tiles, Line([0; 32]));
    for (index, row) in rows.enumerate() {
        let from = x.row::<half::bf16>(row).cast::<u16>();
        for tile in 0..tiles {
            let n = RUN.min(x.width() - RUN * tile);
            let to = &mut to[(index / TILE * tiles + tile) * TILE + index % TILE];
            // SAFETY: the row has `width` elements, of which `n` are left from here, and a line has room for 32.
            unsafe { std::ptr::copy_nonoverlapping(from.add(RUN * tile), to.0.as_mut_ptr(), n) };
        }
    }
}

/// Some pairs of panels (32 outputs) by all rows.
struct Pairs<'a, T> {
    x: &'a [Line],
    rows: usize,
    weights: Weights<'a>,
    tiles: usize,
    room: &'a mut Vec<Line>,
    y: &'a FloatsMut<'a>,
    /// The row of y that the first row belongs to.
    from: usize,
    pairs: Range<usize>,
    on: std::marker::PhantomData<T>,
}

impl<T: Tiles> Kernel for Pairs<'_, T> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let outputs = self.weights.outputs();
        let panel_lines = TILE * self.tiles;
        self.room.resize(2 * panel_lines, Line([0; 32]));
        let mut registers = T::start();
        let blocks = self.rows.div_ceil(TILE);
        for pair in self.pairs.clone() {
            let first = 2 * pair * ROWS;
            // Of the second panel, when there is none, whatever is left is used, and not stored.
            for panel in 0..2 {
                if first + panel * ROWS < outputs {
                    let room = &mut self.room[panel * panel_lines..(panel + 1) * panel_lines];
                    fill::panel(&self.weights, 2 * pair + panel, room);
                }
            }
            let mut block = 0;
            while block < blocks {
                // Of the last rows, when they are 16 or fewer, the same tiles are used twice.
                let second = (block + 1).min(blocks - 1);
                let a = [block, second].map(|block| self.x[block * panel_lines..].as_ptr());
                let b = [0, 1].map(|panel| self.room[panel * panel_lines..].as_ptr());
                let mut out = [[0.0_f32; ROWS]; 4 * TILE];
                products(&mut registers, a, b, self.tiles, &mut out);
                for (index, out) in out.iter().enumerate() {
                    let (tile, row) = (index / TILE, index % TILE);
                    let row = (block + tile / 2) * TILE + row;
                    let column = first + tile % 2 * ROWS;
                    if row < self.rows && column < outputs {
                        let n = ROWS.min(outputs - column);
                        self.y.put::<S>(self.from + row, column, out.as_ptr(), n);
                    }
                }
                block += 2;
            }
        }
    }
}

/// Two blocks of rows by two panels: the first rows by both panels, then the second.
#[inline(always)]
unsafe fn products<T: Tiles>(
    registers: &mut T,
    a: [*const Line; 2],
    b: [*const Line; 2],
    tiles: usize,
    out: &mut [[f32; ROWS]; 4 * TILE],
) {
    const STRIDE: usize = size_of::<Line>();
    registers.zero::<0>();
    registers.zero::<1>();
    registers.zero::<2>();
    registers.zero::<3>();
    for tile in 0..tiles {
        let at = TILE * tile;
        registers.load::<4>(a[0].add(at).cast(), STRIDE);
        registers.load::<6>(b[0].add(at).cast(), STRIDE);
        registers.load::<7>(b[1].add(at).cast(), STRIDE);
        registers.product::<0, 4, 6>();
        registers.product::<1, 4, 7>();
        registers.load::<5>(a[1].add(at).cast(), STRIDE);
        registers.product::<2, 5, 6>();
        registers.product::<3, 5, 7>();
    }
    let out = out.as_mut_ptr().cast::<u8>();
    registers.store::<0>(out, STRIDE);
    registers.store::<1>(out.add(TILE * STRIDE), STRIDE);
    registers.store::<2>(out.add(2 * TILE * STRIDE), STRIDE);
    registers.store::<3>(out.add(3 * TILE * STRIDE), STRIDE);
}

#[cfg(test)]
mod tests;
