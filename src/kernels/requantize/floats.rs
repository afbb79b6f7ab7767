//! Groups of small floats with a scale: `value * scale`.

use std::ops::RangeInclusive;

use super::super::codec::{e4m3, e8m0};
use super::super::layout::Layout;
use super::super::simd::Simd;
use super::{is_same, total, LANES};
use crate::dtype::Mode;

/// Packs a group's numbers in place of `codes` and `scale`. False where they are those already.
///
/// # Safety
/// The processor has S's instructions.
#[inline(always)]
pub unsafe fn pack<S: Simd>(
    layout: &Layout,
    values: &[f32; 256],
    wanted: &[[f32; LANES]],
    codes: &mut [u8],
    scale: &mut u8,
) -> bool {
    let mode = layout.scheme().mode;
    let scale_of: fn(u8) -> f32 = match mode {
        Mode::Nvfp4 => e4m3,
        _ => e8m0,
    };
    if is_same(wanted, codes, values, scale_of(*scale), 0.0) {
        return false;
    }
    let largest = wanted.as_flattened().iter();
    let largest = largest.fold(0.0_f32, |most, x| most.max(x.abs()));
    match mode {
        Mode::Mxfp4 => pack_as::<S, E2m1>(wanted, codes, scale, scale_of, powers(largest / 6.0)),
        Mode::Mxfp8 => pack_as::<S, E4m3>(wanted, codes, scale, scale_of, powers(largest / 448.0)),
        _ => pack_as::<S, E2m1>(wanted, codes, scale, scale_of, fractions(largest / 6.0)),
    }
    true
}

/// A small float.
trait Small {
    /// The largest one.
    const MOST: f32;
    const SIGN: u8;

    /// The nearest one to each magnitude, which is not above the largest.
    ///
    /// # Safety
    /// The processor has S's instructions.
    unsafe fn nearest<S: Simd>(x: S::F) -> S::F;

    /// The code of such a magnitude.
    fn code(magnitude: f32) -> u8;
}

struct E2m1;

impl Small for E2m1 {
    const MOST: f32 = 6.0;
    const SIGN: u8 = 8;

    /// Steps of a half below 2, of 1 below 4, of 2 from there on.
    #[inline(always)]
    unsafe fn nearest<S: Simd>(x: S::F) -> S::F {
        let (half, one, two) = (S::splat(0.5), S::splat(1.0), S::splat(2.0));
        let step = S::select_lt(x, S::splat(4.0), one, two);
        let step = S::select_lt(x, two, half, step);
        let per_step = S::select_lt(x, S::splat(4.0), one, half);
        let per_step = S::select_lt(x, two, two, per_step);
        S::mul(S::round(S::mul(x, per_step)), step)
    }

    fn code(magnitude: f32) -> u8 {
        let magnitudes = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
        magnitudes.partition_point(|&one| one < magnitude) as u8
    }
}

struct E4m3;

impl Small for E4m3 {
    const MOST: f32 = 448.0;
    const SIGN: u8 = 0x80;

    /// Three bits behind the leading one; below 2^-6 steps of 2^-9.
    #[inline(always)]
    unsafe fn nearest<S: Simd>(x: S::F) -> S::F {
        // Of a product with 2^20 + 1, what is taken away and added again leaves the upper 4 bits of 24.
        let moved = S::mul(x, S::splat(1_048_577.0));
        let normal = S::sub(moved, S::sub(moved, x));
        let below = S::mul(S::round(S::mul(x, S::splat(512.0))), S::splat(1.0 / 512.0));
        S::select_lt(x, S::splat(1.0 / 64.0), below, normal)
    }

    fn code(magnitude: f32) -> u8 {
        match magnitude < 1.0 / 64.0 {
            true => (magnitude * 512.0) as u8,
            false => ((magnitude.to_bits() - (120 << 23)) >> 20) as u8,
        }
    }
}

#[inline(always)]
unsafe fn pack_as<S: Simd, F: Small>(
    wanted: &[[f32; LANES]],
    codes: &mut [u8],
    scale: &mut u8,
    scale_of: fn(u8) -> f32,
    candidates: RangeInclusive<u8>,
) {
    let mut best = (*scale, error::<S, F>(wanted, scale_of(*scale)));
    for candidate in candidates {
        let error = error::<S, F>(wanted, scale_of(candidate));
        if error < best.1 || best.1.is_nan() {
            best = (candidate, error);
        }
    }
    *scale = best.0;
    let scale = scale_of(best.0);
    let inverse = S::splat(1.0 / scale);
    let mut nearest = [0.0; LANES];
    for (codes, x) in codes.chunks_exact_mut(LANES).zip(wanted) {
        let mut at = 0;
        while at < LANES {
            let found = magnitudes::<S, F>(S::load(x.as_ptr().add(at)), inverse);
            S::store(nearest.as_mut_ptr().add(at), found);
            at += S::LANES;
        }
        for ((code, nearest), x) in codes.iter_mut().zip(nearest).zip(x) {
            // A scale may be below zero in a file.
            let negative = nearest > 0.0 && (*x < 0.0) != (scale < 0.0);
            *code = F::code(nearest) | if negative { F::SIGN } else { 0 };
        }
    }
}

/// The nearest magnitude of each lane over a scale; what is no number gets the largest.
#[inline(always)]
unsafe fn magnitudes<S: Simd, F: Small>(x: S::F, inverse: S::F) -> S::F {
    F::nearest::<S>(S::min(S::abs(S::mul(x, inverse)), S::splat(F::MOST)))
}

/// The sum of squares.
#[inline(always)]
unsafe fn error<S: Simd, F: Small>(wanted: &[[f32; LANES]], scale: f32) -> f32 {
    let (inverse, scale) = (S::splat(1.0 / scale), S::splat(scale.abs()));
    let mut sums = [0.0; LANES];
    let mut at = 0;
    while at < LANES {
        let mut sum = S::splat(0.0);
        for chunk in wanted {
            let x = S::load(chunk.as_ptr().add(at));
            let off = S::sub(S::abs(x), S::mul(magnitudes::<S, F>(x, inverse), scale));
            sum = S::add(sum, S::mul(off, off));
        }
        S::store(sums.as_mut_ptr().add(at), sum);
        at += S::LANES;
    }
    total(sums)
}

/// Powers of two around the one that is not above `scale`; MLX's, which is the nearest, is among them.
fn powers(scale: f32) -> RangeInclusive<u8> {
    // Of a float, the exponent is just that.
    let code = (scale.to_bits() >> 23).clamp(1, 252) as u8;
    code - 1..=code + 2
}

/// The scales with which the largest number is cut to some two thirds, up to those with which it has the second largest
/// code; MLX's, which is the nearest to `scale`, is among them.
fn fractions(scale: f32) -> RangeInclusive<u8> {
    // The largest code that is not above it; 0 stands for zero and 126 for the largest.
    let code = E4m3::code(scale.min(E4m3::MOST));
    code.saturating_sub(5).max(1)..=code.saturating_add(7).min(126)
}
