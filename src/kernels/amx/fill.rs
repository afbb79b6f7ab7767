//! Weights as tiles of bf16: for 16 outputs and 32 inputs 16 lines, line i inputs 2 i and 2 i + 1 of every output.

#![allow(unsafe_op_in_unsafe_fn)]
// Indices name registers here.
#![allow(clippy::needless_range_loop)]

use std::arch::x86_64::*;

use super::{Line, Weights, TILE};
use crate::codec::{scales, Bits, Codec, Fp4};
use crate::dtype::Mode;
use crate::float::Floats;
use crate::layout::{Packed, ROWS, RUN};
use crate::simd::{Avx512, Simd};

/// Makes the tiles of outputs `16 * panel ..`; `to` has their lines.
///
/// # Safety
/// The processor has AVX-512 with BF16.
pub(super) unsafe fn panel(weights: &Weights, panel: usize, to: &mut [Line]) {
    match weights {
        Weights::Dense(dense) => transpose(dense, panel, to),
        Weights::Packed(packed) => {
            let scheme = packed.layout().scheme();
            match (scheme.mode, scheme.bits) {
                (Mode::Mxfp8, _) => fp8(packed, panel, to),
                (Mode::Mxfp4, _) => codes::<Fp4<false>>(packed, panel, to),
                (Mode::Nvfp4, _) => codes::<Fp4<true>>(packed, panel, to),
                (_, 2) => codes::<Bits<2>>(packed, panel, to),
                (_, 3) => codes::<Bits<3>>(packed, panel, to),
                (_, 4) => codes::<Bits<4>>(packed, panel, to),
                (_, 5) => codes::<Bits<5>>(packed, panel, to),
                (_, 6) => codes::<Bits<6>>(packed, panel, to),
                _ => codes::<Bits<8>>(packed, panel, to),
            }
        }
    }
}

/// Two inputs of 16 outputs, rounded to bf16, side by side.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
unsafe fn pair(even: __m512, odd: __m512, to: &mut Line) {
    let half = |x| {
        _mm512_cvtepu16_epi32(std::mem::transmute::<__m256bh, __m256i>(
            _mm512_cvtneps_pbh(x),
        ))
    };
    let line = _mm512_or_si512(half(even), _mm512_slli_epi32::<16>(half(odd)));
    _mm512_store_si512(to.0.as_mut_ptr().cast(), line);
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16,avx2,fma,f16c")]
unsafe fn codes<C: Codec>(packed: &Packed, panel: usize, to: &mut [Line]) {
    let layout = packed.layout();
    let (kind, data) = (layout.scales(), packed.panel(panel).as_ptr());
    let runs = layout.block_inputs() / RUN;
    let mask = _mm512_set1_epi32(255);
    for (index, lines) in to.chunks_exact_mut(TILE).enumerate() {
        let block = data.add(index / runs * layout.block_bytes());
        let run = block.add(index % runs * C::RUN_BYTES);
        let first = block.add(layout.code_bytes());
        let (scale, bias) = scales::<Avx512>(kind, first, 0);
        let (scale2, bias2) = if C::HALVES {
            scales::<Avx512>(kind, first.add(layout.scale_bytes()), 0)
        } else {
            (scale, bias)
        };
        macro_rules! quad {
            ($Q:literal, $scale:expr, $bias:expr) => {
                let w = C::quad::<Avx512, $Q>(run);
                let float = |w| {
                    _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_and_si512(w, mask)), $scale, $bias)
                };
                let (a, b) = (float(w), float(_mm512_srli_epi32::<8>(w)));
                pair(a, b, &mut lines[2 * $Q]);
                let (a, b) = (
                    float(_mm512_srli_epi32::<16>(w)),
                    float(_mm512_srli_epi32::<24>(w)),
                );
                pair(a, b, &mut lines[2 * $Q + 1]);
            };
        }
        quad!(0, scale, bias);
        quad!(1, scale, bias);
        quad!(2, scale, bias);
        quad!(3, scale, bias);
        quad!(4, scale2, bias2);
        quad!(5, scale2, bias2);
        quad!(6, scale2, bias2);
        quad!(7, scale2, bias2);
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16,avx2,fma,f16c")]
unsafe fn fp8(packed: &Packed, panel: usize, to: &mut [Line]) {
    let layout = packed.layout();
    let data = packed.panel(panel).as_ptr();
    for (index, lines) in to.chunks_exact_mut(TILE).enumerate() {
        let block = data.add(index * layout.block_bytes());
        let scale = Avx512::load_e8m0(block.add(layout.code_bytes()));
        let scale = _mm512_mul_ps(scale, _mm512_set1_ps(256.0));
        for (i, line) in lines.iter_mut().enumerate() {
            let even = Avx512::load_e4m3(block.add(2 * i * ROWS));
            let odd = Avx512::load_e4m3(block.add((2 * i + 1) * ROWS));
            pair(_mm512_mul_ps(even, scale), _mm512_mul_ps(odd, scale), line);
        }
    }
}

/// Rows of bf16 turned into columns, pair by pair: a transposition of 16 by 16 numbers of 32 bits.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn transpose(dense: &Floats, panel: usize, to: &mut [Line]) {
    let rows = ROWS.min(dense.rows() - panel * ROWS);
    for (index, lines) in to.chunks_exact_mut(TILE).enumerate() {
        let left = dense.width() - RUN * index;
        let wanted = if left >= RUN {
            u32::MAX
        } else {
            (1 << left) - 1
        };
        let mut a = [_mm512_setzero_si512(); 16];
        for (r, a) in a.iter_mut().enumerate().take(rows) {
            let from = dense.row::<half::bf16>(panel * ROWS + r).add(RUN * index);
            *a = _mm512_maskz_loadu_epi16(wanted, from.cast());
        }
        // 32-bit pairs, 64-bit pairs, then 128-bit lanes.
        let mut b = a;
        for i in (0..16).step_by(2) {
            b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
            b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
        }
        for i in (0..16).step_by(4) {
            a[i] = _mm512_unpacklo_epi64(b[i], b[i + 2]);
            a[i + 1] = _mm512_unpackhi_epi64(b[i], b[i + 2]);
            a[i + 2] = _mm512_unpacklo_epi64(b[i + 1], b[i + 3]);
            a[i + 3] = _mm512_unpackhi_epi64(b[i + 1], b[i + 3]);
        }
        for i in 0..4 {
            b[i] = _mm512_shuffle_i32x4::<0x88>(a[i], a[i + 4]);
            b[i + 4] = _mm512_shuffle_i32x4::<0xdd>(a[i], a[i + 4]);
            b[i + 8] = _mm512_shuffle_i32x4::<0x88>(a[i + 8], a[i + 12]);
            b[i + 12] = _mm512_shuffle_i32x4::<0xdd>(a[i + 8], a[i + 12]);
        }
        for i in 0..8 {
            // Columns i and i + 8 for i < 4; i and i + 8 likewise for the odd lanes.
            let even = _mm512_shuffle_i32x4::<0x88>(b[i], b[i + 8]);
            let odd = _mm512_shuffle_i32x4::<0xdd>(b[i], b[i + 8]);
            _mm512_store_si512(lines[i].0.as_mut_ptr().cast(), even);
            _mm512_store_si512(lines[i + 8].0.as_mut_ptr().cast(), odd);
        }
    }
}
