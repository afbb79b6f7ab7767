//! AVX-512 with VNNI: 16 lanes.

#![allow(unsafe_op_in_unsafe_fn)]

use std::arch::x86_64::*;

use super::{Kernel, Simd};

#[derive(Clone, Copy)]
pub struct Avx512;

/// # Safety
/// The processor has what is enabled here.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
pub unsafe fn enter<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<Avx512>()
}

impl Simd for Avx512 {
    type F = __m512;
    type I = __m512i;
    const LANES: usize = 16;
    const ROWS: usize = 8;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::F {
        _mm512_set1_ps(x)
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self::F {
        _mm512_loadu_ps(p)
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, x: Self::F) {
        _mm512_storeu_ps(p, x)
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u16) -> Self::F {
        let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast()));
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
    }
    #[inline(always)]
    unsafe fn store_bf16(p: *mut u16, x: Self::F) {
        let bits = _mm512_castps_si512(x);
        let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
        let round = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
        let rounded = _mm512_srli_epi32::<16>(_mm512_add_epi32(bits, round));
        let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x);
        let rounded = _mm512_mask_blend_epi32(nan, rounded, _mm512_set1_epi32(0x7fc0));
        _mm256_storeu_si256(p.cast(), _mm512_cvtepi32_epi16(rounded))
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> Self::F {
        _mm512_cvtph_ps(_mm256_loadu_si256(p.cast()))
    }
    #[inline(always)]
    unsafe fn store_f16(p: *mut u16, x: Self::F) {
        _mm256_storeu_si256(p.cast(), _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x))
    }
    #[inline(always)]
    unsafe fn load_e4m3(p: *const u8) -> Self::F {
        let x = _mm256_cvtepu8_epi16(_mm_loadu_si128(p.cast()));
        let magnitude = _mm256_slli_epi16::<7>(_mm256_and_si256(x, _mm256_set1_epi16(0x7f)));
        let sign = _mm256_slli_epi16::<8>(_mm256_and_si256(x, _mm256_set1_epi16(0x80)));
        _mm512_cvtph_ps(_mm256_or_si256(sign, magnitude))
    }
    #[inline(always)]
    unsafe fn load_e8m0(p: *const u8) -> Self::F {
        let bits = _mm512_slli_epi32::<23>(_mm512_cvtepu8_epi32(_mm_loadu_si128(p.cast())));
        _mm512_castsi512_ps(_mm512_max_epu32(bits, _mm512_set1_epi32(0x40_0000)))
    }

    #[inline(always)]
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F {
        _mm512_add_ps(a, b)
    }
    #[inline(always)]
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F {
        _mm512_sub_ps(a, b)
    }
    #[inline(always)]
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F {
        _mm512_mul_ps(a, b)
    }
    #[inline(always)]
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F {
        _mm512_div_ps(a, b)
    }
    #[inline(always)]
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        _mm512_fmadd_ps(a, b, c)
    }
    #[inline(always)]
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F {
        _mm512_max_ps(a, b)
    }
    #[inline(always)]
    unsafe fn min(a: Self::F, b: Self::F) -> Self::F {
        _mm512_min_ps(a, b)
    }
    #[inline(always)]
    unsafe fn abs(a: Self::F) -> Self::F {
        _mm512_abs_ps(a)
    }
    #[inline(always)]
    unsafe fn round(a: Self::F) -> Self::F {
        _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a)
    }
    #[inline(always)]
    unsafe fn pow2(a: Self::F) -> Self::F {
        let exponent = _mm512_add_epi32(_mm512_cvtps_epi32(a), _mm512_set1_epi32(127));
        _mm512_castsi512_ps(_mm512_slli_epi32::<23>(exponent))
    }
    #[inline(always)]
    unsafe fn select_lt(a: Self::F, b: Self::F, then: Self::F, other: Self::F) -> Self::F {
        _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b), other, then)
    }
    #[inline(always)]
    unsafe fn sum(a: Self::F) -> f32 {
        _mm512_reduce_add_ps(a)
    }
    #[inline(always)]
    unsafe fn sum4([a, b, c, d]: [Self::F; 4]) -> [f32; 4] {
        // Each 128 bits become partial sums of a and b, of c and d, of all four; then the four 128 bits are added.
        let ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
        let cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
        let low = _mm512_shuffle_ps::<0b01_00_01_00>(ab, cd);
        let high = _mm512_shuffle_ps::<0b11_10_11_10>(ab, cd);
        let all = _mm512_add_ps(low, high);
        let half = _mm256_add_ps(
            _mm512_castps512_ps256(all),
            _mm512_extractf32x8_ps::<1>(all),
        );
        let sums = _mm_add_ps(
            _mm256_castps256_ps128(half),
            _mm256_extractf128_ps::<1>(half),
        );
        let mut out = [0.0; 4];
        _mm_storeu_ps(out.as_mut_ptr(), sums);
        out
    }
    #[inline(always)]
    unsafe fn largest(a: Self::F) -> f32 {
        _mm512_reduce_max_ps(a)
    }

    #[inline(always)]
    unsafe fn izero() -> Self::I {
        _mm512_setzero_si512()
    }
    #[inline(always)]
    unsafe fn load_bytes(p: *const u8) -> Self::I {
        _mm512_loadu_si512(p.cast())
    }
    #[inline(always)]
    unsafe fn load_u8(p: *const u8) -> Self::I {
        _mm512_cvtepu8_epi32(_mm_loadu_si128(p.cast()))
    }
    #[inline(always)]
    unsafe fn load_nibbles(p: *const u8) -> Self::I {
        let bytes = _mm_loadl_epi64(p.cast());
        let high = _mm_srli_epi16::<4>(bytes);
        let all = _mm_and_si128(_mm_unpacklo_epi8(bytes, high), _mm_set1_epi8(15));
        _mm512_cvtepu8_epi32(all)
    }
    #[inline(always)]
    unsafe fn splat_byte(x: u8) -> Self::I {
        _mm512_set1_epi8(x as i8)
    }
    #[inline(always)]
    unsafe fn broadcast(p: *const u8) -> Self::I {
        _mm512_set1_epi32(p.cast::<i32>().read_unaligned())
    }
    #[inline(always)]
    unsafe fn and(a: Self::I, b: Self::I) -> Self::I {
        _mm512_and_si512(a, b)
    }
    #[inline(always)]
    unsafe fn or(a: Self::I, b: Self::I) -> Self::I {
        _mm512_or_si512(a, b)
    }
    #[inline(always)]
    unsafe fn shr16<const N: u32>(a: Self::I) -> Self::I {
        _mm512_srli_epi16::<N>(a)
    }
    #[inline(always)]
    unsafe fn shl16<const N: u32>(a: Self::I) -> Self::I {
        _mm512_slli_epi16::<N>(a)
    }
    #[inline(always)]
    unsafe fn lookup(table: &'static [u8; 16], index: Self::I) -> Self::I {
        let table = _mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast()));
        _mm512_shuffle_epi8(table, index)
    }
    #[inline(always)]
    unsafe fn dot(sum: Self::I, w: Self::I, x: Self::I) -> Self::I {
        _mm512_dpbusd_epi32(sum, w, x)
    }
    #[inline(always)]
    unsafe fn iadd(a: Self::I, b: Self::I) -> Self::I {
        _mm512_add_epi32(a, b)
    }
    #[inline(always)]
    unsafe fn isub(a: Self::I, b: Self::I) -> Self::I {
        _mm512_sub_epi32(a, b)
    }
    #[inline(always)]
    unsafe fn isplat(x: i32) -> Self::I {
        _mm512_set1_epi32(x)
    }
    #[inline(always)]
    unsafe fn ishl<const N: u32>(a: Self::I) -> Self::I {
        _mm512_slli_epi32::<N>(a)
    }
    #[inline(always)]
    unsafe fn ishr<const N: u32>(a: Self::I) -> Self::I {
        _mm512_srai_epi32::<N>(a)
    }
    #[inline(always)]
    unsafe fn to_float(a: Self::I) -> Self::F {
        _mm512_cvtepi32_ps(a)
    }
    #[inline(always)]
    unsafe fn to_int(a: Self::F) -> Self::I {
        _mm512_cvtps_epi32(a)
    }
    #[inline(always)]
    unsafe fn store_low_bytes(p: *mut u8, a: Self::I) {
        _mm_storeu_si128(p.cast(), _mm512_cvtepi32_epi8(a))
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
