//! Transposed products, `dx = dy W`: what the gradient of a product with a frozen weight takes.
//!
//! Error of a result: `(outputs + 8) * 2^-24 * Σ |dy w|`, beside its rounding. The order of sums does not depend on the
//! number of threads.

#![allow(unsafe_op_in_unsafe_fn)]

use super::activations::tiles;
use super::block::Matrix;
use super::float::{with_element, Floats, FloatsMut};
use super::microkernel::{rows_at_once, weighted};
use super::rows::dequantize;
use super::simd::{Kernel, Simd};
use super::widen::Widen;
use super::Kernels;

/// Inputs of one piece of work, and outputs whose weights are unpacked at a time.
const COLUMNS: usize = 128;
const OUTPUTS: usize = 64;

impl Kernels {
    /// dy `[rows, outputs]`, weights `[outputs, inputs]`, dx `[rows, inputs]`. Panics where the shapes do not fit.
    pub fn product_transposed(&self, dy: &Floats, weights: &Matrix, dx: &mut FloatsMut) {
        let (outputs, inputs) = weights.shape();
        assert!(
            dy.width() == outputs && dx.width() == inputs && dy.rows() == dx.rows(),
            "product_transposed: [{}, {}] by [{outputs}, {inputs}] to [{}, {}]",
            dy.rows(),
            dy.width(),
            dx.rows(),
            dx.width()
        );
        let rows = dy.rows();
        let wide = self.widened(dy, 0..rows);
        let (dy, dx) = (&wide[..], &*dx);
        // A multiple of every block's inputs.
        self.pool.parallel(inputs.div_ceil(COLUMNS), |piece| {
            let first = piece * COLUMNS;
            let columns = COLUMNS.min(inputs - first);
            let mut sums = self.scratch.floats();
            sums.clear();
            sums.resize(rows * columns, 0.0);
            let mut unpacked = vec![0.0; OUTPUTS * columns];
            let mut output = 0;
            while output < outputs {
                let count = OUTPUTS.min(outputs - output);
                for (index, to) in unpacked.chunks_exact_mut(columns).take(count).enumerate() {
                    match weights {
                        Matrix::Packed(packed) => dequantize(packed, output + index, first, to),
                        Matrix::Dense(dense) => with_element!(dense.dtype(), E => {
                            let x = dense.row::<E>(output + index).wrapping_add(first);
                            self.path.run(Widen { x, to });
                        }),
                        Matrix::Experts(_) => panic!("product_transposed: experts"),
                    }
                }
                self.path.run(Add {
                    dy: &dy[output..],
                    outputs,
                    weights: &unpacked[..count * columns],
                    columns,
                    sums: &mut sums,
                });
                output += count;
            }
            self.path.run(Write {
                sums: &sums,
                columns,
                first,
                dx,
            });
        });
    }
}

/// Some outputs' share of some columns of all rows.
struct Add<'a> {
    /// From the first of these outputs of the first row on; rows are `outputs` apart.
    dy: &'a [f32],
    outputs: usize,
    /// `[these outputs, columns]`
    weights: &'a [f32],
    columns: usize,
    /// `[rows, columns]`
    sums: &'a mut [f32],
}

impl Kernel for Add<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let (columns, outputs) = (self.columns, self.outputs);
        let count = self.weights.len() / columns;
        let w = self.weights.as_ptr();
        for (first, size) in tiles(self.sums.len() / columns, rows_at_once(S::LANES)) {
            let y = self.sums.as_mut_ptr().add(first * columns);
            let p = self.dy.as_ptr().add(first * outputs);
            match size {
                4 => weighted::<S, f32, 4>(y, columns, p, outputs, w, columns, count, columns),
                2 => weighted::<S, f32, 2>(y, columns, p, outputs, w, columns, count, columns),
                _ => weighted::<S, f32, 1>(y, columns, p, outputs, w, columns, count, columns),
            }
        }
    }
}

struct Write<'a> {
    sums: &'a [f32],
    columns: usize,
    first: usize,
    dx: &'a FloatsMut<'a>,
}

impl Kernel for Write<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        for (row, sums) in self.sums.chunks_exact(self.columns).enumerate() {
            for (index, sums) in sums.chunks(S::LANES).enumerate() {
                let mut lanes = [0.0; 16];
                lanes[..sums.len()].copy_from_slice(sums);
                let column = self.first + index * S::LANES;
                self.dx.put::<S>(row, column, lanes.as_ptr(), sums.len());
            }
        }
    }
}
