//! Reading the codes and scales of a packed block, and what single codes mean.

#![allow(unsafe_op_in_unsafe_fn)]

use super::layout::ScaleKind;
use super::simd::Simd;

/// How a quad's codes come out of a run: as bytes without sign that the products of bytes take.
pub(super) trait Codec: Copy {
    const RUN_BYTES: usize;
    /// Whether a run holds two groups of 16 inputs.
    const HALVES: bool;
    /// Quads, 1 to 8, whose products with digits (at most 127 in size) fit in 16 bits when they are summed by `Simd::pairs`.
    const QUADS: usize;

    /// Quad Q of the run at `run`, which is already moved to the first wanted lane.
    ///
    /// # Safety
    /// The processor has S's instructions; the run lies wholly in memory from its own start.
    unsafe fn quad<S: Simd, const Q: usize>(run: *const u8) -> S::I;
}

/// Whole numbers of `B` bits.
#[derive(Clone, Copy)]
pub(super) struct Bits<const B: usize>;

impl<const B: usize> Codec for Bits<B> {
    const RUN_BYTES: usize = 64 * B;
    const HALVES: bool = false;
    // The largest codes of 4 bits: 8 quads of two products of at most 15 * 127.
    const QUADS: usize = match B {
        2..=4 => 8,
        5 => 4,
        6 => 2,
        _ => 1,
    };

    #[inline(always)]
    unsafe fn quad<S: Simd, const Q: usize>(run: *const u8) -> S::I {
        match B {
            2 => plane2::<S, Q, 0>(run),
            3 => S::or(plane2::<S, Q, 0>(run), plane1::<S, Q, 2>(run.add(128))),
            4 => plane4::<S, Q>(run),
            5 => S::or(plane4::<S, Q>(run), plane1::<S, Q, 4>(run.add(256))),
            6 => S::or(plane4::<S, Q>(run), plane2::<S, Q, 4>(run.add(256))),
            _ => S::load_bytes(run.add(64 * Q)),
        }
    }
}

/// Floats of 4 bits (E2M1), as twice their value plus 12. `HALVES`: in groups of 16.
#[derive(Clone, Copy)]
pub(super) struct Fp4<const HALVES: bool>;

/// Twice the value of each E2M1 code, plus `FP4_OFFSET`.
static FP4_TABLE: [u8; 16] = [12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0];
const FP4_OFFSET: f32 = 12.0;

impl<const HALVES: bool> Codec for Fp4<HALVES> {
    const RUN_BYTES: usize = 256;
    const HALVES: bool = HALVES;
    const QUADS: usize = 4;

    #[inline(always)]
    unsafe fn quad<S: Simd, const Q: usize>(run: *const u8) -> S::I {
        S::lookup(&FP4_TABLE, plane4::<S, Q>(run))
    }
}

#[inline(always)]
unsafe fn plane4<S: Simd, const Q: usize>(plane: *const u8) -> S::I {
    let bytes = S::load_bytes(plane.add(64 * (Q / 2)));
    let shifted = match Q % 2 {
        0 => bytes,
        _ => S::shr16::<4>(bytes),
    };
    S::and(shifted, S::splat_byte(15))
}

/// Two bits at AT (0 or 4) of each byte.
#[inline(always)]
unsafe fn plane2<S: Simd, const Q: usize, const AT: usize>(plane: *const u8) -> S::I {
    let bytes = S::load_bytes(plane.add(64 * (Q / 4)));
    let shifted = match (Q % 4, AT) {
        (0, 0) | (2, 4) => bytes,
        (0, _) => S::shl16::<4>(bytes),
        (1, 0) => S::shr16::<2>(bytes),
        (1, _) => S::shl16::<2>(bytes),
        (2, _) => S::shr16::<4>(bytes),
        (_, 0) => S::shr16::<6>(bytes),
        _ => S::shr16::<2>(bytes),
    };
    S::and(shifted, S::splat_byte(3 << AT))
}

/// One bit at AT (2 or 4) of each byte.
#[inline(always)]
unsafe fn plane1<S: Simd, const Q: usize, const AT: usize>(plane: *const u8) -> S::I {
    let bytes = S::load_bytes(plane);
    let shifted = match Q as isize - AT as isize {
        -4 => S::shl16::<4>(bytes),
        -3 => S::shl16::<3>(bytes),
        -2 => S::shl16::<2>(bytes),
        -1 => S::shl16::<1>(bytes),
        0 => bytes,
        1 => S::shr16::<1>(bytes),
        2 => S::shr16::<2>(bytes),
        3 => S::shr16::<3>(bytes),
        4 => S::shr16::<4>(bytes),
        _ => S::shr16::<5>(bytes),
    };
    S::and(shifted, S::splat_byte(1 << AT))
}

/// Scale and bias of outputs `lane ..` in the group whose scales start at `p`, for codes as `Codec` gives them: a weight is
/// `code * scale + bias`.
///
/// # Safety
/// The processor has S's instructions; `p` points to a group's scales of that kind.
#[inline(always)]
pub(super) unsafe fn scales<S: Simd>(kind: ScaleKind, p: *const u8, lane: usize) -> (S::F, S::F) {
    match kind {
        ScaleKind::BF16 => {
            let p = p.cast::<u16>();
            (S::load_bf16(p.add(lane)), S::load_bf16(p.add(16 + lane)))
        }
        ScaleKind::F16 => {
            let p = p.cast::<u16>();
            (S::load_f16(p.add(lane)), S::load_f16(p.add(16 + lane)))
        }
        ScaleKind::F32 => {
            let p = p.cast::<f32>();
            (S::load(p.add(lane)), S::load(p.add(16 + lane)))
        }
        ScaleKind::E8M0 => {
            let scale = S::mul(S::load_e8m0(p.add(lane)), S::splat(0.5));
            (scale, S::mul(scale, S::splat(-FP4_OFFSET)))
        }
        ScaleKind::E4M3 => {
            let scale = S::mul(S::load_e4m3(p.add(lane)), S::splat(128.0));
            (scale, S::mul(scale, S::splat(-FP4_OFFSET)))
        }
    }
}

/// An 8-bit float with 4 bits of exponent; as in MLX, the code that other programs read as NaN is 480.
pub fn e4m3(code: u8) -> f32 {
    let magnitude = half::f16::from_bits(u16::from(code & 0x7f) << 7).to_f32() * 256.0;
    if code & 0x80 == 0 {
        magnitude
    } else {
        -magnitude
    }
}

/// 2^(code - 127); as in MLX, 255 is infinity.
pub fn e8m0(code: u8) -> f32 {
    f32::from_bits((u32::from(code) << 23).max(0x40_0000))
}

/// A 4-bit float: E2M1.
pub fn e2m1(code: u8) -> f32 {
    (f32::from(FP4_TABLE[usize::from(code & 15)]) - FP4_OFFSET) / 2.0
}
