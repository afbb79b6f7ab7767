//! The two inner products that dense products and attention are made of, a few rows by a few columns in registers.

#![allow(unsafe_op_in_unsafe_fn)]
// Indices name registers here.
#![allow(clippy::needless_range_loop)]

use super::float::{load, Element};
use super::numbers::Numbers;
use super::simd::Simd;

/// Columns of one `dots`.
pub(super) const COLUMNS: usize = 4;

/// Rows of one `dots` or `accumulate` that this path has registers for.
pub(super) const fn rows_at_once(lanes: usize) -> usize {
    match lanes {
        16 => 4,
        _ => 2,
    }
}

/// `out[r][c] = Σ_i a[r][i] b[c][i]` over `n` numbers, for R rows of f32 and four columns of whatever numbers. What lies
/// `ahead` numbers behind each column is fetched meanwhile, where it is not 0: memory does not see it coming.
///
/// # Safety
/// The processor has S's instructions; every row has `n` elements.
#[inline(always)]
pub(super) unsafe fn dots<S: Simd, B: Numbers, const R: usize>(
    a: [*const f32; R],
    b: [B; COLUMNS],
    n: usize,
    ahead: usize,
) -> [[f32; COLUMNS]; R] {
    let mut sums = [[S::splat(0.0); COLUMNS]; R];
    let mut i = 0;
    while i + S::LANES <= n {
        if ahead > 0 && i.is_multiple_of(B::LINE) {
            for b in b {
                b.prefetch::<S>(i + ahead);
            }
        }
        let b = [
            b[0].load::<S>(i),
            b[1].load::<S>(i),
            b[2].load::<S>(i),
            b[3].load::<S>(i),
        ];
        for r in 0..R {
            let a = S::load(a[r].add(i));
            for c in 0..COLUMNS {
                sums[r][c] = S::fma(a, b[c], sums[r][c]);
            }
        }
        i += S::LANES;
    }
    if i < n {
        for c in 0..COLUMNS {
            let b = b[c].some::<S>(i, n - i);
            for r in 0..R {
                let a = load::<S, f32>(a[r].add(i), n - i);
                sums[r][c] = S::fma(a, b, sums[r][c]);
            }
        }
    }
    let mut out = [[0.0; COLUMNS]; R];
    for r in 0..R {
        out[r] = S::sum4(sums[r]);
    }
    out
}

/// Vectors of columns in one `accumulate`.
pub(super) const VECTORS: usize = 4;

/// `y[r][..] = y[r][..] * keep[r] + Σ_j p[r][j] v[j][column..]` for V vectors of columns, of which `n` numbers count (all
/// but the last vector are whole). Row j of v lies `stride` numbers after the one before; `ahead` as in `dots`.
///
/// # Safety
/// The processor has S's instructions; every row has its elements.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
pub(super) unsafe fn accumulate<S: Simd, N: Numbers, const R: usize, const V: usize>(
    y: [*mut f32; R],
    keep: [f32; R],
    p: [*const f32; R],
    (v, column): (N, usize),
    stride: usize,
    rows: usize,
    n: usize,
    ahead: usize,
) {
    let mut sums = [[S::splat(0.0); V]; R];
    for r in 0..R {
        for c in 0..V {
            let at = c * S::LANES;
            let old = load::<S, f32>(y[r].add(at), n - at);
            sums[r][c] = S::mul(old, S::splat(keep[r]));
        }
    }
    let mut from = v;
    for j in 0..rows {
        let mut values = [S::splat(0.0); V];
        for c in 0..V {
            let at = c * S::LANES;
            if ahead > 0 && at.is_multiple_of(N::LINE) {
                from.prefetch::<S>(column + at + ahead);
            }
            values[c] = from.some::<S>(column + at, n - at);
        }
        for r in 0..R {
            let p = S::splat(*p[r].add(j));
            for c in 0..V {
                sums[r][c] = S::fma(p, values[c], sums[r][c]);
            }
        }
        from = from.skip(1, stride);
    }
    for r in 0..R {
        for c in 0..V {
            let at = c * S::LANES;
            super::float::store::<S, f32>(y[r].add(at), n - at, sums[r][c]);
        }
    }
}

/// Adds to R rows of `columns` sums, `y_stride` apart: `rows` rows of v, `v_stride` apart, weighted by R rows of p.
///
/// # Safety
/// The processor has S's instructions; all rows have their elements.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
pub(super) unsafe fn weighted<S: Simd, E: Element, const R: usize>(
    y: *mut f32,
    y_stride: usize,
    p: *const f32,
    p_stride: usize,
    v: *const E,
    v_stride: usize,
    rows: usize,
    columns: usize,
) {
    let mut from = [p; R];
    for (r, from) in from.iter_mut().enumerate() {
        *from = p.add(r * p_stride);
    }
    let mut at = 0;
    while at < columns {
        let mut to = [y; R];
        for (r, to) in to.iter_mut().enumerate() {
            *to = y.add(r * y_stride + at);
        }
        let left = columns - at;
        if left >= VECTORS * S::LANES {
            let n = VECTORS * S::LANES;
            accumulate::<S, _, R, VECTORS>(to, [1.0; R], from, (v, at), v_stride, rows, n, 0);
            at += n;
        } else {
            let n = left.min(S::LANES);
            accumulate::<S, _, R, 1>(to, [1.0; R], from, (v, at), v_stride, rows, n, 0);
            at += S::LANES;
        }
    }
}
