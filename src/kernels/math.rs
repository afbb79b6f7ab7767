//! Exponentials and what is made of them, in vectors.

#![allow(unsafe_op_in_unsafe_fn)]

use super::simd::Simd;

/// Under this, `exp` is 0: its result would be no normal number.
pub(super) const EXP_LOWEST: f32 = -87.336_54;
const EXP_HIGHEST: f32 = 88.722_83;

/// e^x with a relative error under 2^-22; 0 below -87.3, infinity above 88.72; NaN stays NaN.
///
/// x = n ln 2 + r with |r| <= ln 2 / 2: 2^n times e^r, whose series is cut after r^7 (an error of 2^-27).
///
/// # Safety
/// The processor has S's instructions.
#[inline(always)]
pub(super) unsafe fn exp<S: Simd>(x: S::F) -> S::F {
    let clamped = S::min(S::splat(EXP_HIGHEST), S::max(S::splat(EXP_LOWEST), x));
    let n = S::round(S::mul(clamped, S::splat(std::f32::consts::LOG2_E)));
    // ln 2 in two parts, the first exact for every n here.
    let r = S::fma(n, S::splat(-0.693_359_4), clamped);
    let r = S::fma(n, S::splat(2.121_944_4e-4), r);
    let mut sum = S::splat(1.0 / 5040.0);
    for factor in [720.0, 120.0, 24.0, 6.0, 2.0, 1.0, 1.0] {
        sum = S::fma(sum, r, S::splat(1.0 / factor));
    }
    // 2^128 is no float: in two steps.
    let half = S::round(S::mul(n, S::splat(0.5)));
    let result = S::mul(S::mul(sum, S::pow2(half)), S::pow2(S::sub(n, half)));
    let result = S::select_lt(x, S::splat(EXP_LOWEST), S::splat(0.0), result);
    S::select_lt(S::splat(EXP_HIGHEST), x, S::splat(f32::INFINITY), result)
}

/// 1 / (1 + e^-x), with an absolute error under 2^-22.
///
/// # Safety
/// The processor has S's instructions.
#[inline(always)]
pub(super) unsafe fn sigmoid<S: Simd>(x: S::F) -> S::F {
    let e = exp::<S>(S::sub(S::splat(0.0), x));
    S::div(S::splat(1.0), S::add(S::splat(1.0), e))
}

/// With an absolute error under 2^-21.
///
/// # Safety
/// The processor has S's instructions.
#[inline(always)]
pub(super) unsafe fn tanh<S: Simd>(x: S::F) -> S::F {
    let e = exp::<S>(S::add(x, x));
    let rest = S::div(S::splat(2.0), S::add(S::splat(1.0), e));
    S::sub(S::splat(1.0), rest)
}
