//! Changed weights into the packed form that they had.
//!
//! MLX packs a group from its smallest and largest number alone, and what it packed, unpacked and packed again is not what
//! it was. Here a group whose numbers are those already there keeps its bytes, and any other one gets the scale and bias
//! (as they are stored, rounded) with the least sum of squared errors of many that are tried, MLX's own among them.
//!
//! Sums run over 16 lanes in one order and nothing is fused, so every path and every machine packs the same bytes.

// Helpers take the instructions of the path that they are inlined into.
#![allow(unsafe_op_in_unsafe_fn)]

mod affine;
mod floats;
#[cfg(test)]
mod tests;

use super::codec::{e2m1, e4m3};
use super::cpu::Path;
use super::layout::{Layout, ScaleKind};
use super::repack::QuantizedMut;
use super::simd::{Kernel, Simd};
use crate::dtype::Mode;

/// Numbers that are summed side by side; every group is a multiple of them.
const LANES: usize = 16;
/// What a group's numbers may differ by, as a part of the largest, and still count as those already there: a device may
/// round once where `code * scale + bias` is rounded twice here.
const SAME: f32 = 1.0 / (1 << 18) as f32;
/// Above this, squares of numbers may be infinite.
const LARGEST: f32 = 1e15;

/// Packs `wanted` `[rows, inputs]` in place of what `rows` holds. False, and nothing written, where the sizes do not fit
/// together or a number is larger than 1e15 or none.
pub fn requantize(path: Path, layout: &Layout, wanted: &[f32], rows: QuantizedMut) -> bool {
    let fits = layout.fits(
        rows.weight.len(),
        rows.scales.len(),
        rows.biases.as_ref().map(|biases| biases.len()),
    );
    let sane = |x: &f32| x.abs() <= LARGEST;
    if !fits || wanted.len() != layout.rows() * layout.inputs() || !wanted.iter().all(sane) {
        return false;
    }
    path.run(Requantize {
        layout,
        values: std::array::from_fn(|code| value(layout.scheme().mode, code as u8)),
        wanted,
        rows,
    });
    true
}

/// What a code stands for, before its scale.
fn value(mode: Mode, code: u8) -> f32 {
    match mode {
        Mode::Affine => f32::from(code),
        Mode::Mxfp8 => e4m3(code),
        Mode::Mxfp4 | Mode::Nvfp4 => e2m1(code),
    }
}

struct Requantize<'a> {
    layout: &'a Layout,
    /// Of every code.
    values: [f32; 256],
    wanted: &'a [f32],
    rows: QuantizedMut<'a>,
}

impl Kernel for Requantize<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let layout = self.layout;
        let (n, size) = (layout.group(), layout.scales().size());
        let QuantizedMut {
            weight,
            scales,
            biases,
        } = self.rows;
        let mut codes = vec![0; n];
        let groups = self.wanted.chunks_exact(n).zip(
            weight
                .chunks_exact_mut(n * layout.bits() / 8)
                .zip(scales.chunks_exact_mut(size)),
        );
        let mut biases = biases.map(|biases| biases.chunks_exact_mut(size));
        for (wanted, (weight, scale)) in groups {
            let (wanted, _) = wanted.as_chunks::<LANES>();
            let bias = biases.as_mut().and_then(Iterator::next);
            unpack_codes(layout.bits(), weight, &mut codes);
            let changed = match bias {
                Some(bias) => {
                    affine::pack::<S>(layout, &self.values, wanted, &mut codes, scale, bias)
                }
                None => floats::pack::<S>(layout, &self.values, wanted, &mut codes, &mut scale[0]),
            };
            if changed {
                pack_codes(layout.bits(), &codes, weight);
            }
        }
    }
}

/// Codes one after the other from the lowest bit on, as one byte each. Eight codes are `bits` bytes.
#[inline(always)]
fn unpack_codes(bits: usize, from: &[u8], to: &mut [u8]) {
    let mask = (1_u64 << bits) - 1;
    for (to, from) in to.chunks_exact_mut(8).zip(from.chunks_exact(bits)) {
        let bytes = from.iter().rev();
        let all = bytes.fold(0, |all, &byte| all << 8 | u64::from(byte));
        for (i, code) in to.iter_mut().enumerate() {
            *code = ((all >> (bits * i)) & mask) as u8;
        }
    }
}

/// The inverse of `unpack_codes`.
#[inline(always)]
fn pack_codes(bits: usize, from: &[u8], to: &mut [u8]) {
    for (from, to) in from.chunks_exact(8).zip(to.chunks_exact_mut(bits)) {
        let codes = from.iter().rev();
        let all = codes.fold(0, |all, &code| all << bits | u64::from(code));
        for (i, byte) in to.iter_mut().enumerate() {
            *byte = (all >> (8 * i)) as u8;
        }
    }
}

/// The sum of 16 lanes, in one order.
#[inline(always)]
fn total(mut sums: [f32; LANES]) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            sums[i] += sums[i + half];
        }
        half /= 2;
    }
    sums[0]
}

/// Whether what is packed is what is wanted: each code's value, times the scale, plus the bias.
#[inline(always)]
fn is_same(
    wanted: &[[f32; LANES]],
    codes: &[u8],
    values: &[f32; 256],
    scale: f32,
    bias: f32,
) -> bool {
    let (mut largest, mut off) = (0.0_f32, 0.0_f32);
    for (&wanted, &code) in wanted.as_flattened().iter().zip(codes) {
        let value = values[usize::from(code)] * scale + bias;
        largest = largest.max(value.abs());
        off = off.max((wanted - value).abs());
    }
    off <= largest * SAME
}

/// A number as a scale is stored: the nearest one, and the nearest on its other side.
#[inline(always)]
fn stored(kind: ScaleKind, x: f32) -> (f32, f32) {
    fn neighbour(x: f32, near: f32, bits: u16) -> u16 {
        match near.abs() < x.abs() {
            true => bits.saturating_add(1),
            false => bits.saturating_sub(1),
        }
    }
    match kind {
        ScaleKind::F16 => {
            let near = half::f16::from_f32(x);
            let other = neighbour(x, near.to_f32(), near.to_bits());
            (near.to_f32(), half::f16::from_bits(other).to_f32())
        }
        ScaleKind::BF16 => {
            let near = half::bf16::from_f32(x);
            let other = neighbour(x, near.to_f32(), near.to_bits());
            (near.to_f32(), half::bf16::from_bits(other).to_f32())
        }
        _ => (x, x),
    }
}
