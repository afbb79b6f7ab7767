//! AVX2 with FMA and F16C: 8 lanes. The byte products come from AVX-VNNI where it is there.

#![allow(unsafe_op_in_unsafe_fn)]

use std::arch::asm;
use std::arch::x86_64::*;

use super::{Kernel, Simd};

/// `VNNI`: `dot` is one instruction.
#[derive(Clone, Copy)]
pub struct Avx2<const VNNI: bool>;

/// # Safety
/// The processor has what is enabled here.
#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn enter<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<Avx2<false>>()
}

/// # Safety
/// The processor has what is enabled here.
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
pub unsafe fn enter_vnni<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<Avx2<true>>()
}

impl<const VNNI: bool> Simd for Avx2<VNNI> {
    type F = __m256;
    type I = __m256i;
    const LANES: usize = 8;
    const ROWS: usize = 4;
    const PAIRS: bool = !VNNI;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::F {
        _mm256_set1_ps(x)
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self::F {
        _mm256_loadu_ps(p)
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, x: Self::F) {
        _mm256_storeu_ps(p, x)
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u16) -> Self::F {
        let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast()));
        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
    }
    #[inline(always)]
    unsafe fn store_bf16(p: *mut u16, x: Self::F) {
        let bits = _mm256_castps_si256(x);
        let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
        let round = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff));
        let rounded = _mm256_srli_epi32::<16>(_mm256_add_epi32(bits, round));
        let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(x, x));
        let rounded = _mm256_blendv_epi8(rounded, _mm256_set1_epi32(0x7fc0), nan);
        let packed = _mm256_packus_epi32(rounded, rounded);
        let packed = _mm256_permute4x64_epi64::<0b1000>(packed);
        _mm_storeu_si128(p.cast(), _mm256_castsi256_si128(packed))
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> Self::F {
        _mm256_cvtph_ps(_mm_loadu_si128(p.cast()))
    }
    #[inline(always)]
    unsafe fn store_f16(p: *mut u16, x: Self::F) {
        _mm_storeu_si128(p.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x))
    }
    #[inline(always)]
    unsafe fn load_e4m3(p: *const u8) -> Self::F {
        let x = _mm_cvtepu8_epi16(_mm_loadl_epi64(p.cast()));
        let magnitude = _mm_slli_epi16::<7>(_mm_and_si128(x, _mm_set1_epi16(0x7f)));
        let sign = _mm_slli_epi16::<8>(_mm_and_si128(x, _mm_set1_epi16(0x80)));
        _mm256_cvtph_ps(_mm_or_si128(sign, magnitude))
    }
    #[inline(always)]
    unsafe fn load_e8m0(p: *const u8) -> Self::F {
        let bits = _mm256_slli_epi32::<23>(_mm256_cvtepu8_epi32(_mm_loadl_epi64(p.cast())));
        _mm256_castsi256_ps(_mm256_max_epu32(bits, _mm256_set1_epi32(0x40_0000)))
    }

    #[inline(always)]
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F {
        _mm256_add_ps(a, b)
    }
    #[inline(always)]
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F {
        _mm256_sub_ps(a, b)
    }
    #[inline(always)]
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F {
        _mm256_mul_ps(a, b)
    }
    #[inline(always)]
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F {
        _mm256_div_ps(a, b)
    }
    #[inline(always)]
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        _mm256_fmadd_ps(a, b, c)
    }
    #[inline(always)]
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F {
        _mm256_max_ps(a, b)
    }
    #[inline(always)]
    unsafe fn min(a: Self::F, b: Self::F) -> Self::F {
        _mm256_min_ps(a, b)
    }
    #[inline(always)]
    unsafe fn abs(a: Self::F) -> Self::F {
        _mm256_andnot_ps(_mm256_set1_ps(-0.0), a)
    }
    #[inline(always)]
    unsafe fn round(a: Self::F) -> Self::F {
        _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a)
    }
    #[inline(always)]
    unsafe fn pow2(a: Self::F) -> Self::F {
        let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(a), _mm256_set1_epi32(127));
        _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent))
    }
    #[inline(always)]
    unsafe fn select_lt(a: Self::F, b: Self::F, then: Self::F, other: Self::F) -> Self::F {
        _mm256_blendv_ps(other, then, _mm256_cmp_ps::<_CMP_LT_OQ>(a, b))
    }
    #[inline(always)]
    unsafe fn sum(a: Self::F) -> f32 {
        let a = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
        let a = _mm_add_ps(a, _mm_movehl_ps(a, a));
        _mm_cvtss_f32(_mm_add_ss(a, _mm_movehdup_ps(a)))
    }
    #[inline(always)]
    unsafe fn sum4([a, b, c, d]: [Self::F; 4]) -> [f32; 4] {
        let all = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
        let sums = _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps::<1>(all));
        let mut out = [0.0; 4];
        _mm_storeu_ps(out.as_mut_ptr(), sums);
        out
    }
    #[inline(always)]
    unsafe fn largest(a: Self::F) -> f32 {
        let a = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
        let a = _mm_max_ps(a, _mm_movehl_ps(a, a));
        _mm_cvtss_f32(_mm_max_ss(a, _mm_movehdup_ps(a)))
    }

    #[inline(always)]
    unsafe fn izero() -> Self::I {
        _mm256_setzero_si256()
    }
    #[inline(always)]
    unsafe fn load_bytes(p: *const u8) -> Self::I {
        _mm256_loadu_si256(p.cast())
    }
    #[inline(always)]
    unsafe fn load_u8(p: *const u8) -> Self::I {
        _mm256_cvtepu8_epi32(_mm_loadl_epi64(p.cast()))
    }
    #[inline(always)]
    unsafe fn load_nibbles(p: *const u8) -> Self::I {
        let bytes = _mm_cvtsi32_si128(p.cast::<i32>().read_unaligned());
        let high = _mm_srli_epi16::<4>(bytes);
        let all = _mm_and_si128(_mm_unpacklo_epi8(bytes, high), _mm_set1_epi8(15));
        _mm256_cvtepu8_epi32(all)
    }
    #[inline(always)]
    unsafe fn splat_byte(x: u8) -> Self::I {
        _mm256_set1_epi8(x as i8)
    }
    #[inline(always)]
    unsafe fn broadcast(p: *const u8) -> Self::I {
        _mm256_set1_epi32(p.cast::<i32>().read_unaligned())
    }
    #[inline(always)]
    unsafe fn and(a: Self::I, b: Self::I) -> Self::I {
        _mm256_and_si256(a, b)
    }
    #[inline(always)]
    unsafe fn or(a: Self::I, b: Self::I) -> Self::I {
        _mm256_or_si256(a, b)
    }
    #[inline(always)]
    unsafe fn shr16<const N: u32>(a: Self::I) -> Self::I {
        _mm256_srl_epi16(a, _mm_cvtsi32_si128(N as i32))
    }
    #[inline(always)]
    unsafe fn shl16<const N: u32>(a: Self::I) -> Self::I {
        _mm256_sll_epi16(a, _mm_cvtsi32_si128(N as i32))
    }
    #[inline(always)]
    unsafe fn lookup(table: &'static [u8; 16], index: Self::I) -> Self::I {
        let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
        _mm256_shuffle_epi8(table, index)
    }
    #[inline(always)]
    unsafe fn dot(sum: Self::I, w: Self::I, x: Self::I) -> Self::I {
        if VNNI {
            in_order(_mm256_dpbusd_avx_epi32(sum, w, x))
        } else {
            Self::join(sum, _mm256_maddubs_epi16(w, x))
        }
    }
    #[inline(always)]
    unsafe fn pairs(sum: Self::I, w: Self::I, x: Self::I) -> Self::I {
        if VNNI {
            Self::dot(sum, w, x)
        } else {
            in_order(_mm256_add_epi16(sum, _mm256_maddubs_epi16(w, x)))
        }
    }
    #[inline(always)]
    unsafe fn join(sum: Self::I, pairs: Self::I) -> Self::I {
        if VNNI {
            Self::iadd(sum, pairs)
        } else {
            _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
        }
    }
    #[inline(always)]
    unsafe fn iadd(a: Self::I, b: Self::I) -> Self::I {
        _mm256_add_epi32(a, b)
    }
    #[inline(always)]
    unsafe fn isub(a: Self::I, b: Self::I) -> Self::I {
        _mm256_sub_epi32(a, b)
    }
    #[inline(always)]
    unsafe fn isplat(x: i32) -> Self::I {
        _mm256_set1_epi32(x)
    }
    #[inline(always)]
    unsafe fn ishl<const N: u32>(a: Self::I) -> Self::I {
        _mm256_sll_epi32(a, _mm_cvtsi32_si128(N as i32))
    }
    #[inline(always)]
    unsafe fn ishr<const N: u32>(a: Self::I) -> Self::I {
        _mm256_sra_epi32(a, _mm_cvtsi32_si128(N as i32))
    }
    #[inline(always)]
    unsafe fn to_float(a: Self::I) -> Self::F {
        _mm256_cvtepi32_ps(a)
    }
    #[inline(always)]
    unsafe fn to_int(a: Self::F) -> Self::I {
        _mm256_cvtps_epi32(a)
    }
    #[inline(always)]
    unsafe fn store_low_bytes(p: *mut u8, a: Self::I) {
        let low = _mm256_setr_epi8(
            0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, //
            0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1,
        );
        let a = _mm256_shuffle_epi8(a, low);
        p.cast::<i32>()
            .write_unaligned(_mm256_extract_epi32::<0>(a));
        p.add(4)
            .cast::<i32>()
            .write_unaligned(_mm256_extract_epi32::<4>(a));
    }

    #[inline(always)]
    unsafe fn prefetch(p: *const u8) {
        _mm_prefetch::<_MM_HINT_T0>(p.cast())
    }
    #[inline(always)]
    unsafe fn prefetch_far(p: *const u8) {
        _mm_prefetch::<_MM_HINT_T1>(p.cast())
    }
}

/// The same. Sums through here are made one after the other: in the order that the compiler finds better they need more registers
/// than there are.
///
/// # Safety
/// The processor has AVX2.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn in_order(mut sum: __m256i) -> __m256i {
    asm!("/* {0} */", inout(ymm_reg) sum, options(pure, nomem, nostack, preserves_flags));
    sum
}
