//! Products of activations with plain weights of f32, f16 or bf16, in f32.
//!
//! Error of an output: `(inputs / lanes + 8) * 2^-24 * Σ |x w|`, beside its rounding. The order of an output's sum depends
//! only on the path and on the number of inputs, and on whether there are many rows (`many.rs`).

#![allow(unsafe_op_in_unsafe_fn)]

use std::ops::Range;

use super::float::{with_element, Element, Floats, FloatsMut};
use super::microkernel::{dots, rows_at_once, COLUMNS};
use super::rows_of::To;
use super::simd::{Kernel, Simd};
use super::{Kernels, Path};

/// Outputs whose weights stay in a core's first caches while rows pass by.
pub(super) const PANEL: usize = 16;
/// Bytes of activations that stay in a core's second cache.
const CACHED: usize = 512 << 10;

impl Kernels {
    /// `y = x Wᵀ`: x `[rows, inputs]`, weights `[outputs, inputs]`, y `[rows, outputs]`.
    ///
    /// Panics where the shapes do not fit together.
    pub fn matmul(&self, x: &Floats, weights: &Floats, y: &mut FloatsMut) {
        assert!(
            x.width() == weights.width() && y.width() == weights.rows() && x.rows() == y.rows(),
            "matmul: [{}, {}] by [{}, {}] to [{}, {}]",
            x.rows(),
            x.width(),
            weights.rows(),
            weights.width(),
            y.rows(),
            y.width()
        );
        let (inputs, outputs) = (x.width(), y.width());
        let y = &*y;
        #[cfg(target_arch = "x86_64")]
        if self.tiles_pay(x.rows(), x.dtype(), weights.dtype()) {
            return self.tile_matmul(x, super::amx::Weights::Dense(*weights), y);
        }
        if Kernels::are_many(x.rows(), inputs) {
            return self.matmul_of_many(x, weights, y);
        }
        let at_once = (CACHED / (4 * inputs).max(1)).max(8) / 8 * 8;
        let mut from = 0;
        while from < x.rows() {
            let rows = at_once.min(x.rows() - from);
            let floats = self.widened(x, from..from + rows);
            let size = weights.dtype().size() as usize * inputs * PANEL;
            let chunks = self.chunks(outputs.div_ceil(PANEL), size * rows.div_ceil(4));
            self.pool.parallel(chunks.count, |chunk| {
                let (panels, to) = (chunks.range(chunk), To::From(from));
                super::dense::outputs(self.path, weights, &floats, rows, y, to, panels);
            });
            from += rows;
        }
    }
}

/// Some panels of outputs of `rows` rows of x, which go `to` these of y.
pub(super) fn outputs(
    path: Path,
    weights: &Floats,
    x: &[f32],
    rows: usize,
    y: &FloatsMut,
    to: To,
    panels: Range<usize>,
) {
    let outputs = panels.start * PANEL..weights.rows().min(panels.end * PANEL);
    with_element!(weights.dtype(), W => path.run(Outputs::<W> {
        weights,
        x,
        rows,
        y,
        to,
        outputs,
        element: std::marker::PhantomData,
    }));
}

/// Some outputs of some rows.
struct Outputs<'a, W> {
    weights: &'a Floats<'a>,
    /// `[rows, inputs]`
    x: &'a [f32],
    rows: usize,
    y: &'a FloatsMut<'a>,
    /// The rows of y that those of x belong to.
    to: To<'a>,
    outputs: Range<usize>,
    element: std::marker::PhantomData<W>,
}

impl<W: Element> Kernel for Outputs<'_, W> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let most = rows_at_once(S::LANES);
        let mut panel = self.outputs.start;
        while panel < self.outputs.end {
            let end = self.outputs.end.min(panel + PANEL);
            for (first, size) in super::activations::tiles(self.rows, most) {
                let mut out = [[0.0_f32; PANEL]; 4];
                match size {
                    4 => self.tile::<S, 4>(first, panel..end, &mut out),
                    2 => self.tile::<S, 2>(first, panel..end, &mut out),
                    _ => self.tile::<S, 1>(first, panel..end, &mut out),
                }
                for (row, out) in out.iter().enumerate().take(size) {
                    let row = self.to.row(first + row);
                    self.y.put::<S>(row, panel, out.as_ptr(), end - panel);
                }
            }
            panel = end;
        }
    }
}

impl<W: Element> Outputs<'_, W> {
    #[inline(always)]
    unsafe fn tile<S: Simd, const R: usize>(
        &self,
        first: usize,
        outputs: Range<usize>,
        out: &mut [[f32; PANEL]; 4],
    ) {
        let inputs = self.weights.width();
        let mut a = [self.x.as_ptr(); R];
        for (r, a) in a.iter_mut().enumerate() {
            *a = a.add((first + r) * inputs);
        }
        let last = outputs.end - 1;
        let mut column = outputs.start;
        while column < outputs.end {
            // Past the end the last output is made again.
            let b = [
                self.weights.row::<W>(column),
                self.weights.row::<W>(last.min(column + 1)),
                self.weights.row::<W>(last.min(column + 2)),
                self.weights.row::<W>(last.min(column + 3)),
            ];
            // With few rows it is memory that takes the time.
            let ahead = if R == 1 { COLUMNS * inputs } else { 0 };
            let sums = dots::<S, *const W, R>(a, b, inputs, ahead);
            for (out, sums) in out.iter_mut().zip(sums) {
                let at = column - outputs.start;
                out[at..at + COLUMNS].copy_from_slice(&sums);
            }
            column += COLUMNS;
        }
    }
}
