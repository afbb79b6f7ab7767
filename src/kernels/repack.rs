//! From MLX's arrays of quantised weights to the kernels' layout and back, byte for byte.

use std::mem::MaybeUninit;

use super::layout::{Layout, Packed, ROWS, RUN};
use super::pool::Pool;
use super::shared::SharedMut;
use crate::dtype::Mode;

/// MLX's arrays of one quantised matrix, row-major and without gaps.
#[derive(Clone, Copy)]
pub struct Quantized<'a> {
    /// `[rows, inputs * bits / 8]`
    pub weight: &'a [u8],
    /// `[rows, groups]` of the scales' type
    pub scales: &'a [u8],
    /// The same shape; in affine schemes
    pub biases: Option<&'a [u8]>,
}

/// The same, to be written.
pub struct QuantizedMut<'a> {
    pub weight: &'a mut [u8],
    pub scales: &'a mut [u8],
    pub biases: Option<&'a mut [u8]>,
}

/// Runs the body with `$BITS` a constant: the loops over bits are unrolled.
macro_rules! with_bits {
    ($bits:expr, $BITS:ident => $body:expr) => {
        match $bits {
            2 => {
                const $BITS: usize = 2;
                $body
            }
            3 => {
                const $BITS: usize = 3;
                $body
            }
            4 => {
                const $BITS: usize = 4;
                $body
            }
            5 => {
                const $BITS: usize = 5;
                $body
            }
            6 => {
                const $BITS: usize = 6;
                $body
            }
            _ => {
                const $BITS: usize = 8;
                $body
            }
        }
    };
}

impl Layout {
    /// Whether arrays of these lengths are a matrix of this layout.
    pub(super) fn fits(&self, weight: usize, scales: usize, biases: Option<usize>) -> bool {
        let of_scales = self.rows() * self.mlx_scale_row();
        weight == self.rows() * self.mlx_weight_row()
            && scales == of_scales
            && biases == self.scales().has_biases().then_some(of_scales)
    }
}

/// Packs `from` into `to`, which has `layout.nbytes()` bytes; all of them are written. False, and nothing written, where the
/// sizes do not fit together.
pub fn pack(pool: &Pool, layout: &Layout, from: Quantized, to: &mut [MaybeUninit<u8>]) -> bool {
    let fits = layout.fits(
        from.weight.len(),
        from.scales.len(),
        from.biases.map(<[u8]>::len),
    );
    if !fits || to.len() != layout.nbytes() {
        return false;
    }
    let bytes = layout.panel_bytes();
    let to = SharedMut::new(to);
    pool.parallel(layout.panels(), |panel| {
        // SAFETY: every panel is handed out once, and they do not overlap.
        let to = unsafe { to.slice(panel * bytes, bytes) };
        // In the panel's own thread, whose cache it then is in.
        // SAFETY: the slice's own bytes, which are numbers from here on.
        let to = unsafe {
            to.as_mut_ptr().write_bytes(0, to.len());
            std::slice::from_raw_parts_mut(to.as_mut_ptr().cast::<u8>(), to.len())
        };
        with_bits!(layout.bits(), BITS => pack_panel::<BITS>(layout, &from, panel, to));
    });
    true
}

/// Unpacks into the arrays that were packed. False where the sizes do not fit together.
pub fn unpack(pool: &Pool, packed: &Packed, to: QuantizedMut) -> bool {
    let layout = *packed.layout();
    let fits = layout.fits(
        to.weight.len(),
        to.scales.len(),
        to.biases.as_ref().map(|biases| biases.len()),
    );
    if !fits {
        return false;
    }
    let (row, scale_row) = (layout.mlx_weight_row(), layout.mlx_scale_row());
    let weight = SharedMut::new(to.weight);
    let scales = SharedMut::new(to.scales);
    let biases = to.biases.map(SharedMut::new);
    pool.parallel(layout.panels(), |panel| {
        let first = panel * ROWS;
        let rows = ROWS.min(layout.rows() - first);
        // SAFETY: every panel's rows are handed out once, and panels do not share rows.
        let (weight, scales, biases) = unsafe {
            (
                weight.slice(first * row, rows * row),
                scales.slice(first * scale_row, rows * scale_row),
                biases
                    .as_ref()
                    .map(|biases| biases.slice(first * scale_row, rows * scale_row)),
            )
        };
        let panel = packed.panel(panel);
        with_bits!(layout.bits(), BITS => {
            unpack_panel::<BITS>(&layout, panel, weight, scales, biases)
        });
    });
    true
}

fn pack_panel<const BITS: usize>(layout: &Layout, from: &Quantized, panel: usize, to: &mut [u8]) {
    let first = panel * ROWS;
    let rows = ROWS.min(layout.rows() - first);
    let (row, scale_row, size) = (
        layout.mlx_weight_row(),
        layout.mlx_scale_row(),
        layout.scales().size(),
    );
    let fp8 = layout.scheme().mode == Mode::Mxfp8;
    for (index, block) in to.chunks_exact_mut(layout.block_bytes()).enumerate() {
        let (codes, scales) = block.split_at_mut(layout.code_bytes());
        for (r, run) in codes.chunks_exact_mut(layout.run_bytes()).enumerate() {
            let bytes = RUN * layout.bits() / 8;
            let at = (index * (layout.block_inputs() / RUN) + r) * bytes;
            for lane in 0..rows {
                let from = &from.weight[(first + lane) * row..(first + lane + 1) * row];
                let from = &from[at..from.len().min(at + bytes)];
                if fp8 {
                    for (k, &code) in from.iter().enumerate() {
                        run[k * ROWS + lane] = code;
                    }
                } else {
                    to_planes::<BITS>(&quads::<BITS>(from), run, lane);
                }
            }
        }
        for (g, scales) in scales.chunks_exact_mut(layout.scale_bytes()).enumerate() {
            let group = index * layout.groups_per_block() + g;
            if group >= layout.groups() {
                break;
            }
            for lane in 0..rows {
                let at = (first + lane) * scale_row + group * size;
                scales[lane * size..(lane + 1) * size].copy_from_slice(&from.scales[at..at + size]);
                if let Some(biases) = from.biases {
                    let to = (ROWS + lane) * size;
                    scales[to..to + size].copy_from_slice(&biases[at..at + size]);
                }
            }
        }
    }
}

fn unpack_panel<const BITS: usize>(
    layout: &Layout,
    panel: &[u8],
    weight: &mut [u8],
    scales: &mut [u8],
    mut biases: Option<&mut [u8]>,
) {
    let (row, scale_row, size) = (
        layout.mlx_weight_row(),
        layout.mlx_scale_row(),
        layout.scales().size(),
    );
    let rows = weight.len().checked_div(row).unwrap_or(0);
    let fp8 = layout.scheme().mode == Mode::Mxfp8;
    for (index, block) in panel.chunks_exact(layout.block_bytes()).enumerate() {
        let (codes, block_scales) = block.split_at(layout.code_bytes());
        for (r, run) in codes.chunks_exact(layout.run_bytes()).enumerate() {
            let bytes = RUN * layout.bits() / 8;
            let at = (index * (layout.block_inputs() / RUN) + r) * bytes;
            for lane in 0..rows {
                let to = &mut weight[lane * row..(lane + 1) * row];
                let end = to.len().min(at + bytes);
                let to = &mut to[at..end];
                if fp8 {
                    for (k, code) in to.iter_mut().enumerate() {
                        *code = run[k * ROWS + lane];
                    }
                } else {
                    from_quads::<BITS>(&from_planes::<BITS>(run, lane), to);
                }
            }
        }
        for (g, from) in block_scales.chunks_exact(layout.scale_bytes()).enumerate() {
            let group = index * layout.groups_per_block() + g;
            if group >= layout.groups() {
                break;
            }
            for lane in 0..rows {
                let at = lane * scale_row + group * size;
                scales[at..at + size].copy_from_slice(&from[lane * size..(lane + 1) * size]);
                if let Some(biases) = &mut biases {
                    let from = &from[(ROWS + lane) * size..(ROWS + lane + 1) * size];
                    biases[at..at + size].copy_from_slice(from);
                }
            }
        }
    }
}

/// Up to 32 codes, packed one after the other from the lowest bit on, as one byte each: four in a number.
#[inline(always)]
fn quads<const BITS: usize>(from: &[u8]) -> [u32; 8] {
    let mut quads = [0; 8];
    // Eight codes are BITS bytes.
    for (pair, from) in quads.chunks_exact_mut(2).zip(from.chunks_exact(BITS)) {
        let mut bytes = [0; 8];
        bytes[..BITS].copy_from_slice(from);
        let codes = u64::from_le_bytes(bytes);
        let spread = match BITS {
            8 => codes,
            4 => spread_nibbles(codes),
            _ => {
                let mask = (1 << BITS) - 1;
                (0..8).fold(0, |all, i| all | ((codes >> (BITS * i)) & mask) << (8 * i))
            }
        };
        pair[0] = spread as u32;
        pair[1] = (spread >> 32) as u32;
    }
    quads
}

/// The inverse of `quads`.
#[inline(always)]
fn from_quads<const BITS: usize>(quads: &[u32; 8], to: &mut [u8]) {
    for (pair, to) in quads.chunks_exact(2).zip(to.chunks_exact_mut(BITS)) {
        let spread = u64::from(pair[0]) | u64::from(pair[1]) << 32;
        let codes = (0..8).fold(0, |all, i| all | ((spread >> (8 * i)) & 0xff) << (BITS * i));
        to.copy_from_slice(&codes.to_le_bytes()[..BITS]);
    }
}

#[inline(always)]
fn spread_nibbles(codes: u64) -> u64 {
    let x = codes & 0xffff_ffff;
    let x = (x | x << 16) & 0x0000_ffff_0000_ffff;
    let x = (x | x << 8) & 0x00ff_00ff_00ff_00ff;
    (x | x << 4) & 0x0f0f_0f0f_0f0f_0f0f
}

/// The planes of codes of `bits` bits: width, and the lowest bit that it holds.
#[inline(always)]
const fn planes(bits: usize) -> &'static [(u32, u32)] {
    match bits {
        2 => &[(2, 0)],
        3 => &[(2, 0), (1, 2)],
        4 => &[(4, 0)],
        5 => &[(4, 0), (1, 4)],
        6 => &[(4, 0), (2, 4)],
        _ => &[(8, 0)],
    }
}

#[inline(always)]
fn mask(width: u32) -> u32 {
    ((1_u32 << width) - 1) * 0x0101_0101
}

#[inline(always)]
fn to_planes<const BITS: usize>(quads: &[u32; 8], run: &mut [u8], lane: usize) {
    let mut at = 4 * lane;
    for &(width, low) in planes(BITS) {
        for quads in quads.chunks_exact(8 / width as usize) {
            let word = quads.iter().rev().fold(0, |word, quad| {
                word << (width & 7) | (quad >> low) & mask(width)
            });
            run[at..at + 4].copy_from_slice(&word.to_le_bytes());
            at += 64;
        }
    }
}

#[inline(always)]
fn from_planes<const BITS: usize>(run: &[u8], lane: usize) -> [u32; 8] {
    let mut all = [0; 8];
    let mut at = 4 * lane;
    for &(width, low) in planes(BITS) {
        for quads in all.chunks_exact_mut(8 / width as usize) {
            let word = u32::from_le_bytes([run[at], run[at + 1], run[at + 2], run[at + 3]]);
            for (i, quad) in quads.iter_mut().enumerate() {
                *quad |= ((word >> (width * i as u32)) & mask(width)) << low;
            }
            at += 64;
        }
    }
    all
}

/// The codes of output `row` in one run, counted from the first input: one byte each, as many as `to` has.
pub(super) fn run_codes(packed: &Packed, row: usize, run: usize, to: &mut [u8]) {
    let layout = packed.layout();
    let (panel, lane) = (packed.panel(row / ROWS), row % ROWS);
    let runs_per_block = layout.block_inputs() / RUN;
    let start =
        run / runs_per_block * layout.block_bytes() + run % runs_per_block * layout.run_bytes();
    let run = &panel[start..start + layout.run_bytes()];
    if layout.scheme().mode == Mode::Mxfp8 {
        for (k, code) in to.iter_mut().enumerate() {
            *code = run[k * ROWS + lane];
        }
    } else {
        let quads = with_bits!(layout.bits(), BITS => from_planes::<BITS>(run, lane));
        for (to, quad) in to.chunks_mut(4).zip(quads) {
            to.copy_from_slice(&quad.to_le_bytes()[..to.len()]);
        }
    }
}
