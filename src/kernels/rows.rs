//! Single rows of packed weights as floats: what an embedding looks up.

use super::codec::{e2m1, e4m3, e8m0};
use super::float::{with_element, Element, FloatsMut};
use super::layout::{Packed, ScaleKind, ROWS, RUN};
use super::repack::run_codes;
use super::Kernels;
use crate::dtype::Mode;

impl Kernels {
    /// Row i of y `[n, inputs]` becomes row `rows[i]` of the weights, made in f32 and rounded once.
    ///
    /// False, and nothing written, where a row does not exist. Panics where the shapes do not fit.
    #[must_use]
    pub fn dequantize_rows(&self, weights: &Packed, rows: &[u32], y: &mut FloatsMut) -> bool {
        let layout = *weights.layout();
        assert!(
            y.rows() == rows.len() && y.width() == layout.inputs(),
            "dequantize_rows: {} rows of {} to [{}, {}]",
            rows.len(),
            layout.inputs(),
            y.rows(),
            y.width()
        );
        if rows.iter().any(|&row| row as usize >= layout.rows()) {
            return false;
        }
        let y = &*y;
        self.rows(rows.len(), layout.inputs(), |index| {
            let mut values = vec![0.0; layout.inputs()];
            dequantize(weights, rows[index] as usize, 0, &mut values);
            with_element!(y.dtype(), E => {
                let to = y.row::<E>(index);
                for (i, &value) in values.iter().enumerate() {
                    // SAFETY: the column exists, and this row is written here alone.
                    unsafe { to.add(i).write_unaligned(E::from_f32(value)) };
                }
            });
        });
        true
    }
}

/// The weights of output `row` from input `first` on, which begins a block.
pub(super) fn dequantize(weights: &Packed, row: usize, first: usize, to: &mut [f32]) {
    let layout = weights.layout();
    debug_assert!(first.is_multiple_of(layout.block_inputs()));
    let mut codes = [0; RUN];
    for (run, to) in to.chunks_mut(RUN).enumerate() {
        let start = first + run * RUN;
        let codes = &mut codes[..to.len()];
        run_codes(weights, row, start / RUN, codes);
        let group = layout.group();
        for (index, (to, codes)) in to.chunks_mut(group).zip(codes.chunks(group)).enumerate() {
            let (scale, bias) = scale_of(weights, row, start / group + index);
            for (to, &code) in to.iter_mut().zip(codes) {
                *to = match layout.scheme().mode {
                    Mode::Affine => f32::from(code) * scale + bias,
                    Mode::Mxfp8 => e4m3(code) * scale,
                    Mode::Mxfp4 | Mode::Nvfp4 => e2m1(code) * scale,
                };
            }
        }
    }
}

/// The scale of one output's group, and its bias or 0.
fn scale_of(weights: &Packed, row: usize, group: usize) -> (f32, f32) {
    let layout = weights.layout();
    let kind = layout.scales();
    let per_block = layout.groups_per_block();
    let at = group / per_block * layout.block_bytes()
        + layout.code_bytes()
        + group % per_block * layout.scale_bytes();
    let panel = weights.panel(row / ROWS);
    let read = |index: usize| {
        let at = at + index * kind.size();
        let bytes = &panel[at..at + kind.size()];
        match kind {
            ScaleKind::F32 => f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]),
            ScaleKind::F16 => half::f16::from_le_bytes([bytes[0], bytes[1]]).to_f32(),
            ScaleKind::BF16 => half::bf16::from_le_bytes([bytes[0], bytes[1]]).to_f32(),
            ScaleKind::E8M0 => e8m0(bytes[0]),
            ScaleKind::E4M3 => e4m3(bytes[0]),
        }
    };
    let lane = row % ROWS;
    let bias = if kind.has_biases() {
        read(ROWS + lane)
    } else {
        0.0
    };
    (read(lane), bias)
}
