//! What is done with some rows of a state, in vectors over the channels of keys.

#![allow(unsafe_op_in_unsafe_fn)]

use std::ops::Range;

use super::super::float::{load, store};
use super::super::math::exp;
use super::super::simd::{Kernel, Simd};
use super::{Piece, Ready, ROWS};

/// Rows that share what is read of keys and queries.
const TOGETHER: usize = 4;

/// The rows as they were before the first token.
pub(super) struct Begin<'a> {
    pub piece: &'a Piece<'a>,
}

impl Kernel for Begin<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let piece = self.piece;
        let dim = piece.new_state.width();
        for row in piece.rows.clone() {
            let row = piece.row(row);
            let to = piece.new_state.row::<f32>(row);
            let from = piece.state.map(|state| state.row::<f32>(row));
            let mut i = 0;
            while i < dim {
                let x = match from {
                    Some(from) => load::<S, f32>(from.add(i), dim - i),
                    None => S::splat(0.0),
                };
                store::<S, f32>(to.add(i), dim - i, x);
                i += S::LANES;
            }
        }
    }
}

/// One row, in place.
pub(super) struct Norm<'a> {
    pub x: &'a mut [f32],
    pub scale: f32,
    pub eps: f32,
}

impl Kernel for Norm<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let (n, x) = (self.x.len(), self.x.as_mut_ptr());
        let mut sum = S::splat(0.0);
        let mut i = 0;
        while i < n {
            let v = load::<S, f32>(x.add(i), n - i);
            sum = S::fma(v, v, sum);
            i += S::LANES;
        }
        let scale = S::splat(self.scale / (S::sum(sum) / n as f32 + self.eps).sqrt());
        let mut i = 0;
        while i < n {
            let v = load::<S, f32>(x.add(i), n - i);
            store::<S, f32>(x.add(i), n - i, S::mul(v, scale));
            i += S::LANES;
        }
    }
}

/// As many exponentials as `to` has.
pub(super) struct Exp<'a> {
    pub x: *const f32,
    pub to: &'a mut [f32],
}

impl Kernel for Exp<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let (n, to) = (self.to.len(), self.to.as_mut_ptr());
        let mut i = 0;
        while i < n {
            let e = exp::<S>(load::<S, f32>(self.x.add(i), n - i));
            store::<S, f32>(to.add(i), n - i, e);
            i += S::LANES;
        }
    }
}

/// Some tokens by all rows of a piece.
pub(super) struct Steps<'a, 'b> {
    pub piece: &'a Piece<'a>,
    pub ready: &'a mut Ready<'b>,
    pub tokens: Range<usize>,
}

impl Kernel for Steps<'_, '_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let (piece, ready) = (self.piece, self.ready);
        let rows = piece.rows.len();
        let whole = rows / TOGETHER * TOGETHER;
        let mut row = 0;
        while row < whole {
            some_rows::<S, TOGETHER>(piece, ready, row, self.tokens.len());
            row += TOGETHER;
        }
        while row < rows {
            some_rows::<S, 1>(piece, ready, row, self.tokens.len());
            row += 1;
        }
        for (i, token) in self.tokens.enumerate() {
            let mut row = 0;
            while row < rows {
                // ROWS is a multiple of 16, so that there are as many numbers.
                let from = ready.v.as_ptr().add(i * ROWS + row);
                let column = piece.row(piece.rows.start + row);
                piece.y.put::<S>(token, column, from, (rows - row).min(16));
                row += 16;
            }
        }
    }
}

/// `R` rows from `row` of the piece on, over the tokens that are ready; y takes the place of v.
#[inline(always)]
unsafe fn some_rows<S: Simd, const R: usize>(
    piece: &Piece,
    ready: &mut Ready,
    row: usize,
    tokens: usize,
) {
    let dim = piece.new_state.width();
    let first = piece.row(piece.rows.start + row);
    let states: [*mut f32; R] = std::array::from_fn(|r| piece.new_state.row::<f32>(first + r));
    let learns = piece.of.beta.is_some();
    for token in 0..tokens {
        let k = ready.k.as_ptr().add(token * dim);
        let q = ready.q.as_ptr().add(token * dim);
        let decay = ready.decay.as_ptr().add(token * dim);
        let v = ready.v.as_mut_ptr().add(token * ROWS + row);
        let mut d: [f32; R] = std::array::from_fn(|r| *v.add(r));
        if learns {
            // What the decayed state has for the key.
            let mut sums = [S::splat(0.0); R];
            let mut i = 0;
            while i < dim {
                let n = dim - i;
                let key = load::<S, f32>(k.add(i), n);
                let by = load::<S, f32>(decay.add(i), n);
                for r in 0..R {
                    let s = S::mul(load::<S, f32>(states[r].add(i), n), by);
                    sums[r] = S::fma(s, key, sums[r]);
                }
                i += S::LANES;
            }
            let beta = *ready.beta.as_ptr().add(token);
            for (d, has) in d.iter_mut().zip(totals::<S, R>(sums)) {
                *d = beta * (*d - has);
            }
        }
        let mut sums = [S::splat(0.0); R];
        let mut i = 0;
        while i < dim {
            let n = dim - i;
            let key = load::<S, f32>(k.add(i), n);
            let query = load::<S, f32>(q.add(i), n);
            let by = load::<S, f32>(decay.add(i), n);
            for r in 0..R {
                let s = S::mul(load::<S, f32>(states[r].add(i), n), by);
                let s = S::fma(S::splat(d[r]), key, s);
                store::<S, f32>(states[r].add(i), n, s);
                sums[r] = S::fma(s, query, sums[r]);
            }
            i += S::LANES;
        }
        for (r, y) in totals::<S, R>(sums).into_iter().enumerate() {
            *v.add(r) = y;
        }
    }
}

/// The sums of `R` vectors.
#[inline(always)]
unsafe fn totals<S: Simd, const R: usize>(sums: [S::F; R]) -> [f32; R] {
    if R == 4 {
        let all = S::sum4(std::array::from_fn(|r| sums[r % R]));
        return std::array::from_fn(|r| all[r % 4]);
    }
    sums.map(|sum| S::sum(sum))
}
