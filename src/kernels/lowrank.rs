//! What adapters add to a product: `y += scale (x A) B`.
//!
//! Both products are sums in f32; y is rounded once more. The work is cut the same way whatever the number of threads.

#![allow(unsafe_op_in_unsafe_fn)]

use std::ops::Range;

use super::activations::tiles;
use super::float::{load, store, with_element, Element, Floats, FloatsMut};
use super::microkernel::{rows_at_once, weighted};
use super::shared::SharedMut;
use super::simd::{Kernel, Simd};
use super::Kernels;

/// Inputs of one piece of work, and outputs of one.
const PIECE: usize = 512;

/// One low-rank part.
pub struct LowRank<V> {
    /// `[in, rank]`
    pub a: V,
    /// `[rank, out]`
    pub b: V,
    pub scale: f32,
    /// The rows of the product that it is added to, all of them where that is None.
    pub rows: Option<Range<usize>>,
}

impl<V> LowRank<V> {
    pub(super) fn try_map<W, E>(
        &self,
        f: &mut impl FnMut(&V) -> Result<W, E>,
    ) -> Result<LowRank<W>, E> {
        Ok(LowRank {
            a: f(&self.a)?,
            b: f(&self.b)?,
            scale: self.scale,
            rows: self.rows.clone(),
        })
    }
}

/// One part with what it belongs to.
struct Part<'a> {
    low: &'a LowRank<Floats<'a>>,
    rows: Range<usize>,
    /// Of the y that it is added to.
    output: usize,
    /// Where its sums begin: `[pieces, rows, rank]`.
    sums: usize,
}

impl Kernels {
    /// x `[n, in]`; to each y `[n, out]` its parts are added.
    ///
    /// Panics where shapes do not fit.
    pub(super) fn add_low_ranks(
        &self,
        x: &Floats,
        low: &[&[LowRank<Floats>]],
        y: &mut [FloatsMut],
    ) {
        let (n, inputs) = (x.rows(), x.width());
        let pieces = inputs.div_ceil(PIECE).max(1);
        let mut parts = Vec::new();
        let mut size = 0;
        for (output, low) in low.iter().enumerate() {
            for low in low.iter() {
                let rank = low.a.width();
                let rows = low.rows.clone().unwrap_or(0..n);
                assert!(
                    low.a.rows() == inputs
                        && low.b.rows() == rank
                        && low.b.width() == y[output].width()
                        && rows.start <= rows.end
                        && rows.end <= n,
                    "low rank: [{}, {rank}] by [{}, {}] for rows {rows:?} of [{n}, {inputs}] to {}",
                    low.a.rows(),
                    low.b.rows(),
                    low.b.width(),
                    y[output].width()
                );
                let sums = size;
                size += pieces * rows.len() * rank;
                parts.push(Part {
                    low,
                    rows,
                    output,
                    sums,
                });
            }
        }
        let first = parts.iter().map(|part| part.rows.start).min().unwrap_or(0);
        let end = parts.iter().map(|part| part.rows.end).max().unwrap_or(0);
        let wide = self.widened(x, first..end.max(first));
        let mut sums = self.scratch.floats();
        sums.resize(size, 0.0);
        let memory = SharedMut::new(&mut sums);
        self.pool.parallel(parts.len() * pieces, |index| {
            let (part, piece) = (&parts[index / pieces], index % pieces);
            let size = part.rows.len() * part.low.a.width();
            // SAFETY: every piece of every part has its own sums.
            let sums = unsafe { memory.slice(part.sums + piece * size, size) };
            let span = piece * PIECE..inputs.min((piece + 1) * PIECE);
            with_element!(part.low.a.dtype(), E => self.path.run(Down::<E> {
                x: &wide[(part.rows.start - first) * inputs..],
                inputs,
                span,
                a: &part.low.a,
                sums,
                element: std::marker::PhantomData,
            }));
        });
        // The pieces' sums, times the scale, in the first piece's place.
        for part in &parts {
            let len = part.rows.len() * part.low.a.width();
            let (first, rest) = sums[part.sums..part.sums + pieces * len].split_at_mut(len);
            for more in rest.chunks_exact(len.max(1)) {
                first
                    .iter_mut()
                    .zip(more)
                    .for_each(|(sum, more)| *sum += more);
            }
            first.iter_mut().for_each(|sum| *sum *= part.low.scale);
        }
        // Parts of one output are added one after the other, by the thread that has its columns.
        let columns = |output: usize| y[output].width().div_ceil(PIECE);
        let jobs: Vec<(usize, usize)> = (0..y.len())
            .filter(|&output| !low[output].is_empty())
            .flat_map(|output| (0..columns(output)).map(move |piece| (output, piece)))
            .collect();
        let (sums, y) = (&sums[..], &*y);
        self.pool.parallel(jobs.len(), |index| {
            let (output, piece) = jobs[index];
            let y = &y[output];
            let columns = piece * PIECE..y.width().min((piece + 1) * PIECE);
            for part in parts.iter().filter(|part| part.output == output) {
                let z = &sums[part.sums..part.sums + part.rows.len() * part.low.a.width()];
                with_element!(part.low.b.dtype(), E => self.path.run(Up::<E> {
                    z,
                    b: &part.low.b,
                    y,
                    rows: part.rows.clone(),
                    columns: columns.clone(),
                    element: std::marker::PhantomData,
                }));
            }
        });
    }
}

/// `x A` over some of the inputs.
struct Down<'a, E> {
    /// `[rows, inputs]`, and perhaps more rows
    x: &'a [f32],
    inputs: usize,
    span: Range<usize>,
    a: &'a Floats<'a>,
    /// `[rows, rank]`
    sums: &'a mut [f32],
    element: std::marker::PhantomData<E>,
}

impl<E: Element> Kernel for Down<'_, E> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let rank = self.a.width();
        self.sums.fill(0.0);
        if rank == 0 || self.span.is_empty() {
            return;
        }
        let rows = self.sums.len() / rank;
        for (first, size) in tiles(rows, rows_at_once(S::LANES)) {
            let x = self.x.as_ptr().add(first * self.inputs + self.span.start);
            let sums = self.sums.as_mut_ptr().add(first * rank);
            let a = self.a.row::<E>(self.span.start);
            let n = self.span.len();
            match size {
                4 => weighted::<S, E, 4>(sums, rank, x, self.inputs, a, rank, n, rank),
                2 => weighted::<S, E, 2>(sums, rank, x, self.inputs, a, rank, n, rank),
                _ => weighted::<S, E, 1>(sums, rank, x, self.inputs, a, rank, n, rank),
            }
        }
    }
}

/// `y += z B` for some of the outputs.
struct Up<'a, E> {
    /// `[rows, rank]`
    z: &'a [f32],
    b: &'a Floats<'a>,
    y: &'a FloatsMut<'a>,
    rows: Range<usize>,
    /// At most PIECE.
    columns: Range<usize>,
    element: std::marker::PhantomData<E>,
}

impl<E: Element> Kernel for Up<'_, E> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let (rank, out, columns) = (self.b.rows(), self.b.width(), self.columns.len());
        if rank == 0 {
            return;
        }
        let b = self.b.row::<E>(0).add(self.columns.start);
        for (first, size) in tiles(self.rows.len(), rows_at_once(S::LANES)) {
            let mut delta = [0.0_f32; 4 * PIECE];
            let to = delta.as_mut_ptr();
            let z = self.z.as_ptr().add(first * rank);
            match size {
                4 => weighted::<S, E, 4>(to, PIECE, z, rank, b, out, rank, columns),
                2 => weighted::<S, E, 2>(to, PIECE, z, rank, b, out, rank, columns),
                _ => weighted::<S, E, 1>(to, PIECE, z, rank, b, out, rank, columns),
            }
            for row in 0..size {
                let delta = delta.as_ptr().add(row * PIECE);
                with_element!(self.y.dtype(), Y => {
                    let y = self.y.row::<Y>(self.rows.start + first + row).add(self.columns.start);
                    let mut i = 0;
                    while i < columns {
                        let n = columns - i;
                        let sum = S::add(load::<S, Y>(y.add(i), n), load::<S, f32>(delta.add(i), n));
                        store::<S, Y>(y.add(i), n, sum);
                        i += S::LANES;
                    }
                });
            }
        }
    }
}
