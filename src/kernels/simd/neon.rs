//! NEON: 4 lanes. The byte products come from dotprod where it is there.

#![allow(unsafe_op_in_unsafe_fn)]

use std::arch::aarch64::*;
use std::arch::asm;

use super::{Kernel, Simd};

/// `DOT`: `dot` is one instruction.
#[derive(Clone, Copy)]
pub struct Neon<const DOT: bool>;

/// # Safety
/// The processor has what is enabled here.
#[target_feature(enable = "neon")]
pub unsafe fn enter<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<Neon<false>>()
}

/// # Safety
/// The processor has what is enabled here.
#[target_feature(enable = "neon,dotprod")]
pub unsafe fn enter_dot<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<Neon<true>>()
}

impl<const DOT: bool> Simd for Neon<DOT> {
    type F = float32x4_t;
    type I = uint32x4_t;
    const LANES: usize = 4;
    const ROWS: usize = 4;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::F {
        vdupq_n_f32(x)
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self::F {
        vreinterpretq_f32_u8(vld1q_u8(p.cast()))
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, x: Self::F) {
        vst1q_u8(p.cast(), vreinterpretq_u8_f32(x))
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u16) -> Self::F {
        let x = vreinterpret_u16_u8(vld1_u8(p.cast()));
        vreinterpretq_f32_u32(vshll_n_u16::<16>(x))
    }
    #[inline(always)]
    unsafe fn store_bf16(p: *mut u16, x: Self::F) {
        let bits = vreinterpretq_u32_f32(x);
        let odd = vandq_u32(vshrq_n_u32::<16>(bits), vdupq_n_u32(1));
        let rounded = vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff)));
        let number = vceqq_f32(x, x);
        let rounded = vbslq_u32(number, rounded, vdupq_n_u32(0x7fc0_0000));
        vst1_u8(p.cast(), vreinterpret_u8_u16(vshrn_n_u32::<16>(rounded)))
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> Self::F {
        widen(vreinterpret_u16_u8(vld1_u8(p.cast())))
    }
    #[inline(always)]
    unsafe fn store_f16(p: *mut u16, x: Self::F) {
        let half: uint16x4_t;
        asm!("fcvtn {0:v}.4h, {1:v}.4s", out(vreg) half, in(vreg) x, options(pure, nomem, nostack));
        vst1_u8(p.cast(), vreinterpret_u8_u16(half))
    }
    #[inline(always)]
    unsafe fn load_e4m3(p: *const u8) -> Self::F {
        let bytes = vcreate_u8(u64::from(p.cast::<u32>().read_unaligned()));
        let x = vget_low_u16(vmovl_u8(bytes));
        let magnitude = vshl_n_u16::<7>(vand_u16(x, vdup_n_u16(0x7f)));
        let sign = vshl_n_u16::<8>(vand_u16(x, vdup_n_u16(0x80)));
        widen(vorr_u16(sign, magnitude))
    }
    #[inline(always)]
    unsafe fn load_e8m0(p: *const u8) -> Self::F {
        let bytes = vcreate_u8(u64::from(p.cast::<u32>().read_unaligned()));
        let x = vmovl_u16(vget_low_u16(vmovl_u8(bytes)));
        vreinterpretq_f32_u32(vmaxq_u32(vshlq_n_u32::<23>(x), vdupq_n_u32(0x40_0000)))
    }

    #[inline(always)]
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F {
        vaddq_f32(a, b)
    }
    #[inline(always)]
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F {
        vsubq_f32(a, b)
    }
    #[inline(always)]
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F {
        vmulq_f32(a, b)
    }
    #[inline(always)]
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F {
        vdivq_f32(a, b)
    }
    #[inline(always)]
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        vfmaq_f32(c, a, b)
    }
    #[inline(always)]
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F {
        vbslq_f32(vcgtq_f32(a, b), a, b)
    }
    #[inline(always)]
    unsafe fn min(a: Self::F, b: Self::F) -> Self::F {
        vbslq_f32(vcltq_f32(a, b), a, b)
    }
    #[inline(always)]
    unsafe fn abs(a: Self::F) -> Self::F {
        vabsq_f32(a)
    }
    #[inline(always)]
    unsafe fn round(a: Self::F) -> Self::F {
        vrndnq_f32(a)
    }
    #[inline(always)]
    unsafe fn pow2(a: Self::F) -> Self::F {
        let exponent = vaddq_s32(vcvtnq_s32_f32(a), vdupq_n_s32(127));
        vreinterpretq_f32_s32(vshlq_n_s32::<23>(exponent))
    }
    #[inline(always)]
    unsafe fn select_lt(a: Self::F, b: Self::F, then: Self::F, other: Self::F) -> Self::F {
        vbslq_f32(vcltq_f32(a, b), then, other)
    }
    #[inline(always)]
    unsafe fn sum(a: Self::F) -> f32 {
        vaddvq_f32(a)
    }
    #[inline(always)]
    unsafe fn sum4([a, b, c, d]: [Self::F; 4]) -> [f32; 4] {
        let mut out = [0.0; 4];
        let all = vpaddq_f32(vpaddq_f32(a, b), vpaddq_f32(c, d));
        vst1q_f32(out.as_mut_ptr(), all);
        out
    }
    #[inline(always)]
    unsafe fn largest(a: Self::F) -> f32 {
        vmaxvq_f32(a)
    }

    #[inline(always)]
    unsafe fn izero() -> Self::I {
        vdupq_n_u32(0)
    }
    #[inline(always)]
    unsafe fn load_bytes(p: *const u8) -> Self::I {
        vreinterpretq_u32_u8(vld1q_u8(p))
    }
    #[inline(always)]
    unsafe fn load_u8(p: *const u8) -> Self::I {
        let bytes = vcreate_u8(u64::from(p.cast::<u32>().read_unaligned()));
        vmovl_u16(vget_low_u16(vmovl_u8(bytes)))
    }
    #[inline(always)]
    unsafe fn load_nibbles(p: *const u8) -> Self::I {
        let bytes = vcreate_u8(u64::from(p.cast::<u16>().read_unaligned()));
        let low = vand_u8(bytes, vdup_n_u8(15));
        let all = vzip1_u8(low, vshr_n_u8::<4>(bytes));
        vmovl_u16(vget_low_u16(vmovl_u8(all)))
    }
    #[inline(always)]
    unsafe fn splat_byte(x: u8) -> Self::I {
        vreinterpretq_u32_u8(vdupq_n_u8(x))
    }
    #[inline(always)]
    unsafe fn broadcast(p: *const u8) -> Self::I {
        vdupq_n_u32(p.cast::<u32>().read_unaligned())
    }
    #[inline(always)]
    unsafe fn and(a: Self::I, b: Self::I) -> Self::I {
        vandq_u32(a, b)
    }
    #[inline(always)]
    unsafe fn or(a: Self::I, b: Self::I) -> Self::I {
        vorrq_u32(a, b)
    }
    #[inline(always)]
    unsafe fn shr16<const N: u32>(a: Self::I) -> Self::I {
        let by = vdupq_n_s16(-(N as i16));
        vreinterpretq_u32_u16(vshlq_u16(vreinterpretq_u16_u32(a), by))
    }
    #[inline(always)]
    unsafe fn shl16<const N: u32>(a: Self::I) -> Self::I {
        let by = vdupq_n_s16(N as i16);
        vreinterpretq_u32_u16(vshlq_u16(vreinterpretq_u16_u32(a), by))
    }
    #[inline(always)]
    unsafe fn lookup(table: &'static [u8; 16], index: Self::I) -> Self::I {
        let table = vld1q_u8(table.as_ptr());
        vreinterpretq_u32_u8(vqtbl1q_u8(table, vreinterpretq_u8_u32(index)))
    }
    #[inline(always)]
    unsafe fn dot(sum: Self::I, w: Self::I, x: Self::I) -> Self::I {
        if DOT {
            // The instruction takes both with a sign: w - 128, and 128 times the sum of x back.
            let mut sum = sum;
            let signed = veorq_u32(w, vdupq_n_u32(0x8080_8080));
            asm!(
                "sdot {sum:v}.4s, {w:v}.16b, {x:v}.16b",
                "sdot {sum:v}.4s, {half:v}.16b, {x:v}.16b",
                "sdot {sum:v}.4s, {half:v}.16b, {x:v}.16b",
                sum = inout(vreg) sum,
                w = in(vreg) signed,
                half = in(vreg) vdupq_n_u32(0x4040_4040),
                x = in(vreg) x,
                options(pure, nomem, nostack)
            );
            sum
        } else {
            // A pair's products fit in 16 bits, as `Simd::dot` asks.
            let (w, x) = (vreinterpretq_u8_u32(w), vreinterpretq_s8_u32(x));
            let wide = |w| vreinterpretq_s16_u16(vmovl_u8(w));
            let low = vmulq_s16(wide(vget_low_u8(w)), vmovl_s8(vget_low_s8(x)));
            let high = vmulq_s16(wide(vget_high_u8(w)), vmovl_s8(vget_high_s8(x)));
            let pairs = vpaddq_s16(low, high);
            vreinterpretq_u32_s32(vpadalq_s16(vreinterpretq_s32_u32(sum), pairs))
        }
    }
    #[inline(always)]
    unsafe fn iadd(a: Self::I, b: Self::I) -> Self::I {
        vaddq_u32(a, b)
    }
    #[inline(always)]
    unsafe fn isub(a: Self::I, b: Self::I) -> Self::I {
        vsubq_u32(a, b)
    }
    #[inline(always)]
    unsafe fn isplat(x: i32) -> Self::I {
        vdupq_n_u32(x as u32)
    }
    #[inline(always)]
    unsafe fn ishl<const N: u32>(a: Self::I) -> Self::I {
        vshlq_u32(a, vdupq_n_s32(N as i32))
    }
    #[inline(always)]
    unsafe fn ishr<const N: u32>(a: Self::I) -> Self::I {
        let by = vdupq_n_s32(-(N as i32));
        vreinterpretq_u32_s32(vshlq_s32(vreinterpretq_s32_u32(a), by))
    }
    #[inline(always)]
    unsafe fn to_float(a: Self::I) -> Self::F {
        vcvtq_f32_s32(vreinterpretq_s32_u32(a))
    }
    #[inline(always)]
    unsafe fn to_int(a: Self::F) -> Self::I {
        vreinterpretq_u32_s32(vcvtnq_s32_f32(a))
    }
    #[inline(always)]
    unsafe fn store_low_bytes(p: *mut u8, a: Self::I) {
        let half = vmovn_u32(a);
        let bytes = vmovn_u16(vcombine_u16(half, half));
        let low = vget_lane_u32::<0>(vreinterpret_u32_u8(bytes));
        p.cast::<u32>().write_unaligned(low);
    }

    #[inline(always)]
    unsafe fn prefetch(p: *const u8) {
        asm!("prfm pldl1keep, [{}]", in(reg) p, options(readonly, nostack, preserves_flags));
    }
    #[inline(always)]
    unsafe fn prefetch_far(p: *const u8) {
        asm!("prfm pldl2keep, [{}]", in(reg) p, options(readonly, nostack, preserves_flags));
    }
}

/// Half precision to f32.
#[inline(always)]
unsafe fn widen(half: uint16x4_t) -> float32x4_t {
    let x: float32x4_t;
    asm!("fcvtl {0:v}.4s, {1:v}.4h", out(vreg) x, in(vreg) half, options(pure, nomem, nostack));
    x
}
