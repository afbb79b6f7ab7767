//! One vocabulary of vectors that every instruction set speaks, so that each kernel is written once.
//!
//! A `Kernel` is run by `Path::run`, which enters a function compiled for the path's instruction set; the kernel and all
//! methods of `Simd` are inlined into it. Every method is unsafe for the same two reasons: the processor must have the
//! instructions (`Path::run` sees to that), and pointers must be good for as many elements as the method names.

#![allow(unsafe_op_in_unsafe_fn)]

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;

#[cfg(target_arch = "x86_64")]
pub(super) use avx512::Avx512;

use super::cpu::Path;

/// Vectors of `LANES` floats, or of `LANES` 32-bit integers that are also `4 * LANES` bytes. Nothing needs alignment.
#[allow(clippy::missing_safety_doc)]
pub trait Simd: Copy + 'static {
    type F: Copy;
    type I: Copy;
    const LANES: usize;
    /// Rows of activations, each in two digits, that one pass over packed weights has registers for: 1, 2, 4 or 8.
    const ROWS: usize;
    /// Whether `pairs` and `join` are quicker than `dot`.
    const PAIRS: bool = false;

    unsafe fn splat(x: f32) -> Self::F;
    unsafe fn load(p: *const f32) -> Self::F;
    unsafe fn store(p: *mut f32, x: Self::F);
    unsafe fn load_bf16(p: *const u16) -> Self::F;
    /// Rounds to nearest even; NaN stays NaN.
    unsafe fn store_bf16(p: *mut u16, x: Self::F);
    unsafe fn load_f16(p: *const u16) -> Self::F;
    unsafe fn store_f16(p: *mut u16, x: Self::F);
    /// `LANES` numbers in E4M3, divided by 256 (exactly: half precision has the same mantissa).
    unsafe fn load_e4m3(p: *const u8) -> Self::F;
    /// `LANES` powers of two in E8M0.
    unsafe fn load_e8m0(p: *const u8) -> Self::F;

    unsafe fn add(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`, rounded once or twice.
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// The larger; `b` where either is NaN.
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F;
    /// The smaller; `b` where either is NaN.
    unsafe fn min(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn abs(a: Self::F) -> Self::F;
    /// To the nearest whole number, ties to even; for |a| < 2^22.
    unsafe fn round(a: Self::F) -> Self::F;
    /// 2^a for whole numbers from -126 to 127.
    unsafe fn pow2(a: Self::F) -> Self::F;
    /// `then` where `a < b`, else `other`.
    unsafe fn select_lt(a: Self::F, b: Self::F, then: Self::F, other: Self::F) -> Self::F;
    unsafe fn sum(a: Self::F) -> f32;
    /// The sums of four vectors.
    #[inline(always)]
    unsafe fn sum4(a: [Self::F; 4]) -> [f32; 4] {
        a.map(|a| Self::sum(a))
    }
    /// The largest lane; anything where a lane is NaN.
    unsafe fn largest(a: Self::F) -> f32;

    unsafe fn izero() -> Self::I;
    /// `4 * LANES` bytes.
    unsafe fn load_bytes(p: *const u8) -> Self::I;
    /// `LANES` bytes without sign, one in each lane.
    unsafe fn load_u8(p: *const u8) -> Self::I;
    /// `LANES` numbers of 4 bits without sign, the first of each byte in its low half, one in each lane.
    unsafe fn load_nibbles(p: *const u8) -> Self::I;
    unsafe fn splat_byte(x: u8) -> Self::I;
    /// The four bytes at `p` in every lane.
    unsafe fn broadcast(p: *const u8) -> Self::I;
    unsafe fn and(a: Self::I, b: Self::I) -> Self::I;
    unsafe fn or(a: Self::I, b: Self::I) -> Self::I;
    /// Shifts 16-bit lanes right or left, filling with zeros.
    unsafe fn shr16<const N: u32>(a: Self::I) -> Self::I;
    unsafe fn shl16<const N: u32>(a: Self::I) -> Self::I;
    /// Each byte of `index` (below 16) replaced by that entry of the table.
    unsafe fn lookup(table: &'static [u8; 16], index: Self::I) -> Self::I;
    /// Adds to every 32-bit lane the products of its four bytes: `w` without sign, `x` with. A pair's sum of products
    /// must fit in 16 bits.
    unsafe fn dot(sum: Self::I, w: Self::I, x: Self::I) -> Self::I;
    /// The first half of `dot`, for sums of several products: adds to every 16-bit lane the products of its two bytes, and must
    /// not overflow it.
    #[inline(always)]
    unsafe fn pairs(sum: Self::I, w: Self::I, x: Self::I) -> Self::I {
        Self::dot(sum, w, x)
    }
    /// The second: adds to every 32-bit lane what `pairs` summed in its halves.
    #[inline(always)]
    unsafe fn join(sum: Self::I, pairs: Self::I) -> Self::I {
        Self::iadd(sum, pairs)
    }
    unsafe fn iadd(a: Self::I, b: Self::I) -> Self::I;
    unsafe fn isub(a: Self::I, b: Self::I) -> Self::I;
    unsafe fn isplat(x: i32) -> Self::I;
    /// Shifts 32-bit lanes, right with the sign.
    unsafe fn ishl<const N: u32>(a: Self::I) -> Self::I;
    unsafe fn ishr<const N: u32>(a: Self::I) -> Self::I;
    unsafe fn to_float(a: Self::I) -> Self::F;
    /// Rounded as `round` does; anything that is not below 2^31 in size gives anything.
    unsafe fn to_int(a: Self::F) -> Self::I;
    /// The low byte of each of the `LANES` lanes.
    unsafe fn store_low_bytes(p: *mut u8, a: Self::I);

    /// A hint that the line at `p`, which need not exist, is wanted soon.
    unsafe fn prefetch(p: *const u8);
    /// The same for what is wanted later: it need not come nearer than the second cache.
    unsafe fn prefetch_far(p: *const u8);
}

/// Work that can be done with any instruction set.
pub(super) trait Kernel {
    type Output;

    /// Marked `#[inline(always)]` by those who write it.
    ///
    /// # Safety
    /// The processor has the instructions of `S`.
    unsafe fn run<S: Simd>(self) -> Self::Output;
}

impl Path {
    /// Runs `kernel` with this path's instructions.
    #[inline]
    pub(super) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        debug_assert!(self.is_available());
        // SAFETY: a path is only ever chosen where `is_available` says that the processor has it.
        unsafe {
            match self {
                #[cfg(target_arch = "x86_64")]
                Path::Amx | Path::Avx512 => avx512::enter(kernel),
                #[cfg(target_arch = "x86_64")]
                Path::AvxVnni => avx2::enter_vnni(kernel),
                #[cfg(target_arch = "x86_64")]
                Path::Avx2 => avx2::enter(kernel),
                #[cfg(target_arch = "aarch64")]
                Path::NeonDot => neon::enter_dot(kernel),
                #[cfg(target_arch = "aarch64")]
                Path::Neon => neon::enter(kernel),
                _ => kernel.run::<portable::Portable>(),
            }
        }
    }
}
