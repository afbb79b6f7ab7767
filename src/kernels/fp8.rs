//! Products of activations with packed 8-bit floats (mxfp8), in f32.
//!
//! The error is f32's own: sums of 32 products in a group, then of the groups.

#![allow(unsafe_op_in_unsafe_fn)]
// Indices name registers here.
#![allow(clippy::needless_range_loop)]

use std::ops::Range;

use super::activations::tiles;
use super::float::{Floats, FloatsMut};
use super::layout::{Packed, ROWS, RUN};
use super::rows_of::To;
use super::simd::{Kernel, Simd};
use super::Kernels;

/// Rows of activations that one pass over the weights takes.
const TILE: usize = 4;
/// Rows made ready at once: they stay in a core's second cache.
const CACHED: usize = 512 << 10;

impl Kernels {
    pub(super) fn fp8_matmul(&self, x: &Floats, weights: &Packed, y: &mut FloatsMut) {
        let layout = weights.layout();
        let at_once = (CACHED / (4 * layout.inputs()).max(1)).max(TILE) / TILE * TILE;
        let mut from = 0;
        while from < x.rows() {
            let rows = at_once.min(x.rows() - from);
            let floats = self.widened(x, from..from + rows);
            let chunks = self.chunks(layout.panels(), layout.panel_bytes() * rows.div_ceil(4));
            self.pool.parallel(chunks.count, |chunk| {
                self.path.run(Panels {
                    weights: *weights,
                    x: &floats,
                    rows,
                    y: &*y,
                    to: To::From(from),
                    panels: chunks.range(chunk),
                });
            });
            from += rows;
        }
    }
}

pub(super) struct Panels<'a> {
    pub weights: Packed<'a>,
    /// `[rows, inputs]`
    pub x: &'a [f32],
    pub rows: usize,
    pub y: &'a FloatsMut<'a>,
    /// The rows of y that they belong to.
    pub to: To<'a>,
    pub panels: Range<usize>,
}

impl Kernel for Panels<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let layout = *self.weights.layout();
        for panel in self.panels.clone() {
            let data = self.weights.panel(panel).as_ptr();
            let columns = ROWS.min(layout.rows() - panel * ROWS);
            for (first, size) in tiles(self.rows, TILE) {
                let mut out = [[0.0_f32; ROWS]; TILE];
                let x = self.x[first * layout.inputs()..].as_ptr();
                let mut lane = 0;
                while lane < ROWS {
                    match size {
                        4 => tile::<S, 4>(&self.weights, data, x, lane, &mut out),
                        2 => tile::<S, 2>(&self.weights, data, x, lane, &mut out),
                        _ => tile::<S, 1>(&self.weights, data, x, lane, &mut out),
                    }
                    lane += S::LANES;
                }
                for (row, out) in out.iter().enumerate().take(size) {
                    let row = self.to.row(first + row);
                    self.y.put::<S>(row, panel * ROWS, out.as_ptr(), columns);
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn tile<S: Simd, const M: usize>(
    weights: &Packed,
    data: *const u8,
    x: *const f32,
    lane: usize,
    out: &mut [[f32; ROWS]; TILE],
) {
    let layout = weights.layout();
    let mut y = [S::splat(0.0); M];
    for block in 0..layout.blocks() {
        let codes = data.add(block * layout.block_bytes());
        let mut sums = [[S::splat(0.0); 2]; M];
        for pair in 0..RUN / 2 {
            for k in 0..2 {
                let input = 2 * pair + k;
                let w = S::load_e4m3(codes.add(ROWS * input + lane));
                for m in 0..M {
                    let x = *x.add(m * layout.inputs() + block * RUN + input);
                    sums[m][k] = S::fma(w, S::splat(x), sums[m][k]);
                }
            }
        }
        let scale = S::load_e8m0(codes.add(layout.code_bytes() + lane));
        for m in 0..M {
            let sum = S::mul(S::add(sums[m][0], sums[m][1]), S::splat(256.0));
            y[m] = S::fma(scale, sum, y[m]);
        }
    }
    for (out, y) in out.iter_mut().zip(y) {
        S::store(out.as_mut_ptr().add(lane), y);
    }
}
