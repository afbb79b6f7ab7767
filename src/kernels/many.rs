//! Products of many rows with plain weights, in f32: weights are turned so that the outputs of a panel share vectors, and every
//! vector that is read of them meets several rows. Where rows are few, turning costs more than it saves (`dense.rs`).
//!
//! Error of an output: `(min(inputs, DEPTH) + inputs / DEPTH + 2) * 2^-24 * Σ |x w|`, beside its rounding. The order of an output's
//! sum depends only on the number of inputs.

#![allow(unsafe_op_in_unsafe_fn)]
// Indices name registers here.
#![allow(clippy::needless_range_loop)]

use std::ops::Range;

use super::activations::tiles;
use super::float::{with_element, Element, Floats, FloatsMut};
use super::simd::{Kernel, Simd};
use super::Kernels;
use crate::dtype::Dtype;

/// From so many rows on it is quicker. (A prompt's chunks on the CPU are shorter, so that their rows stay as those of single tokens
/// are, bit by bit.)
const FEWEST: usize = 192;
/// Inputs whose turned weights stay in a core's second cache while all rows pass by.
const DEPTH: usize = 768;
/// Outputs of one piece of work.
const GROUP: usize = 64;

/// Rows that this path has registers for, each with two vectors of outputs.
const fn rows_at_once(lanes: usize) -> usize {
    match lanes {
        16 => 12,
        8 => 6,
        _ => 8,
    }
}

impl Kernels {
    pub(super) fn are_many(rows: usize, inputs: usize) -> bool {
        rows >= FEWEST && inputs > 0
    }

    /// `y = x Wᵀ`; shapes were compared.
    pub(super) fn matmul_of_many(&self, x: &Floats, weights: &Floats, y: &FloatsMut) {
        let wide;
        let x = match x.dtype() {
            Dtype::F32 => *x,
            _ => {
                wide = self.widened(x, 0..x.rows());
                Floats::of(&wide, x.width())
            }
        };
        let outputs = weights.rows();
        self.pool.parallel(outputs.div_ceil(GROUP), |group| {
            let (mut turned, mut sums) = (self.scratch.floats(), self.scratch.floats());
            with_element!(weights.dtype(), W => self.path.run(Group::<W> {
                x,
                weights,
                y,
                outputs: group * GROUP..outputs.min((group + 1) * GROUP),
                turned: &mut turned,
                sums: &mut sums,
                element: std::marker::PhantomData,
            }));
        });
    }
}

/// Some outputs of all rows.
struct Group<'a, W> {
    x: Floats<'a>,
    weights: &'a Floats<'a>,
    y: &'a FloatsMut<'a>,
    outputs: Range<usize>,
    /// Panel by panel, input by input, the panel's weights.
    turned: &'a mut Vec<f32>,
    /// Panel by panel, row by row.
    sums: &'a mut Vec<f32>,
    element: std::marker::PhantomData<W>,
}

impl<W: Element> Kernel for Group<'_, W> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(mut self) {
        let width = 2 * S::LANES;
        let (rows, inputs) = (self.x.rows(), self.x.width());
        let panels = self.outputs.len().div_ceil(width);
        self.turned.resize(panels * width * DEPTH.min(inputs), 0.0);
        self.sums.resize(panels * width * rows, 0.0);
        let mut from = 0;
        while from < inputs {
            let depth = DEPTH.min(inputs - from);
            self.turn(width, from, depth);
            for (first, size) in tiles(rows, rows_at_once(S::LANES)) {
                for panel in 0..panels {
                    let weights = self.turned[panel * width * depth..].as_ptr();
                    let sums = self.sums[(panel * rows + first) * width..].as_mut_ptr();
                    let at = (first, from, depth);
                    match size {
                        12 => self.tile::<S, 12>(at, weights, sums),
                        8 => self.tile::<S, 8>(at, weights, sums),
                        6 => self.tile::<S, 6>(at, weights, sums),
                        4 => self.tile::<S, 4>(at, weights, sums),
                        2 => self.tile::<S, 2>(at, weights, sums),
                        _ => self.tile::<S, 1>(at, weights, sums),
                    }
                }
            }
            from += depth;
        }
        for panel in 0..panels {
            let first = self.outputs.start + panel * width;
            let n = width.min(self.outputs.end - first);
            for row in 0..rows {
                let sums = self.sums[(panel * rows + row) * width..].as_ptr();
                self.y.put::<S>(row, first, sums, n);
            }
        }
    }
}

impl<W: Element> Group<'_, W> {
    /// The weights of some inputs. Outputs that there are not have zeros.
    #[inline(always)]
    unsafe fn turn(&mut self, width: usize, from: usize, depth: usize) {
        let panels = self.turned.chunks_exact_mut(width * depth);
        for (panel, turned) in panels.enumerate() {
            for output in 0..width {
                let row = self.outputs.start + panel * width + output;
                let to = turned[output..].iter_mut().step_by(width).take(depth);
                if row < self.outputs.end {
                    let weights = self.weights.row::<W>(row).add(from);
                    for (k, to) in to.enumerate() {
                        *to = weights.add(k).read_unaligned().to_f32();
                    }
                } else {
                    to.for_each(|to| *to = 0.0);
                }
            }
        }
    }

    /// R rows from `first` on by `depth` inputs from `from` on.
    #[inline(always)]
    unsafe fn tile<S: Simd, const R: usize>(
        &self,
        (first, from, depth): (usize, usize, usize),
        weights: *const f32,
        sums: *mut f32,
    ) {
        let mut x = [std::ptr::null::<f32>(); R];
        for r in 0..R {
            x[r] = self.x.row::<f32>(first + r).add(from);
        }
        let mut made = [[S::splat(0.0); 2]; R];
        for k in 0..depth {
            let w = weights.add(k * 2 * S::LANES);
            let w = [S::load(w), S::load(w.add(S::LANES))];
            for r in 0..R {
                let x = S::splat(x[r].add(k).read_unaligned());
                made[r][0] = S::fma(x, w[0], made[r][0]);
                made[r][1] = S::fma(x, w[1], made[r][1]);
            }
        }
        for r in 0..R {
            for half in 0..2 {
                let to = sums.add((2 * r + half) * S::LANES);
                let sum = match from {
                    0 => made[r][half],
                    _ => S::add(S::load(to), made[r][half]),
                };
                S::store(to, sum);
            }
        }
    }
}
