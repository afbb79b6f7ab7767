//! How quantised weights lie in memory for the kernels.
//!
//! Sixteen output rows share a vector, so that no sum crosses lanes and a group's scales are one multiply-add. A matrix is
//! a row of *blocks* for every 16 outputs; a block is 16 outputs by `max(group, 32)` inputs: first the codes, 32 inputs
//! (a *run*) after the other, then for each of its groups 16 scales and, in affine schemes, 16 biases.
//!
//! A run's codes of `bits` bits are cut into planes of 4, 2 and 1 bits (3 = 2 + 1, 5 = 4 + 1, 6 = 4 + 2; 8 stays whole),
//! the low bits first. A *quad* is four neighbouring inputs of 16 outputs, 64 bytes when a code takes a byte: lane r holds
//! output r. A plane's 64 bytes hold two quads of 4 bits, four of 2 or eight of 1, the first quad in the lowest bits. The
//! codes of `mxfp8` lie input after input, 16 outputs each.
//!
//! Outputs are padded to 16 and inputs to 32 with zeros; otherwise the size is that of the arrays that were packed.

use crate::dtype::{Dtype, Mode, Scheme};

/// Outputs that share a vector.
pub const ROWS: usize = 16;
/// Inputs whose codes lie together.
pub const RUN: usize = 32;

/// The shape of one packed matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    scheme: Scheme,
    scales: ScaleKind,
    rows: usize,
    inputs: usize,
}

/// How a scale (and a bias) is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScaleKind {
    F32,
    F16,
    BF16,
    /// A power of two, without biases.
    E8M0,
    /// An 8-bit float, without biases.
    E4M3,
}

impl ScaleKind {
    pub fn size(self) -> usize {
        match self {
            ScaleKind::F32 => 4,
            ScaleKind::F16 | ScaleKind::BF16 => 2,
            ScaleKind::E8M0 | ScaleKind::E4M3 => 1,
        }
    }

    pub fn has_biases(self) -> bool {
        matches!(self, ScaleKind::F32 | ScaleKind::F16 | ScaleKind::BF16)
    }
}

impl Layout {
    /// For weights of `rows` outputs and `inputs`, `scales` being the type of the scales' array (and the biases', in
    /// affine schemes). None where that is not a scheme that MLX has, or the inputs are no whole number of groups.
    pub fn new(scheme: Scheme, scales: Dtype, rows: usize, inputs: usize) -> Option<Layout> {
        let Scheme {
            mode,
            bits,
            group_size,
        } = scheme;
        let scales = match (mode, bits, group_size, scales) {
            (Mode::Affine, 2..=6 | 8, 32 | 64 | 128, Dtype::F32) => ScaleKind::F32,
            (Mode::Affine, 2..=6 | 8, 32 | 64 | 128, Dtype::F16) => ScaleKind::F16,
            (Mode::Affine, 2..=6 | 8, 32 | 64 | 128, Dtype::BF16) => ScaleKind::BF16,
            (Mode::Mxfp4, 4, 32, Dtype::U8) | (Mode::Mxfp8, 8, 32, Dtype::U8) => ScaleKind::E8M0,
            (Mode::Nvfp4, 4, 16, Dtype::U8) => ScaleKind::E4M3,
            _ => return None,
        };
        let layout = Layout {
            scheme,
            scales,
            rows,
            inputs,
        };
        let whole = inputs.checked_rem(layout.group())? == 0;
        // So that no product of sizes below can overflow.
        let small = rows < 1 << 31 && inputs < 1 << 31;
        (whole && small).then_some(layout)
    }

    pub fn scheme(&self) -> Scheme {
        self.scheme
    }
    pub fn scales(&self) -> ScaleKind {
        self.scales
    }
    /// Outputs.
    pub fn rows(&self) -> usize {
        self.rows
    }
    pub fn inputs(&self) -> usize {
        self.inputs
    }
    pub fn bits(&self) -> usize {
        self.scheme.bits as usize
    }
    /// Inputs that share a scale.
    pub fn group(&self) -> usize {
        self.scheme.group_size as usize
    }

    /// Inputs of one block.
    pub fn block_inputs(&self) -> usize {
        self.group().max(RUN)
    }
    /// Groups that hold weights, in one row.
    pub fn groups(&self) -> usize {
        self.inputs / self.group()
    }
    /// Groups of one row, the padding's included.
    pub fn padded_groups(&self) -> usize {
        self.blocks() * self.groups_per_block()
    }
    pub fn groups_per_block(&self) -> usize {
        self.block_inputs() / self.group()
    }
    /// Blocks one after the other for 16 outputs.
    pub fn blocks(&self) -> usize {
        self.inputs.div_ceil(self.block_inputs())
    }
    /// Runs of one row.
    pub fn runs(&self) -> usize {
        self.blocks() * (self.block_inputs() / RUN)
    }
    /// Rows of blocks: 16 outputs each.
    pub fn panels(&self) -> usize {
        self.rows.div_ceil(ROWS)
    }
    /// Bytes of 32 inputs' codes.
    pub fn run_bytes(&self) -> usize {
        ROWS * RUN * self.bits() / 8
    }
    /// Bytes of a block's codes.
    pub fn code_bytes(&self) -> usize {
        self.run_bytes() * (self.block_inputs() / RUN)
    }
    /// Bytes of one group's scales and biases for 16 outputs.
    pub fn scale_bytes(&self) -> usize {
        ROWS * self.scales.size() * if self.scales.has_biases() { 2 } else { 1 }
    }
    pub fn block_bytes(&self) -> usize {
        self.code_bytes() + self.scale_bytes() * self.groups_per_block()
    }
    /// Bytes of 16 outputs.
    pub fn panel_bytes(&self) -> usize {
        self.block_bytes() * self.blocks()
    }
    /// Bytes of the packed matrix.
    pub fn nbytes(&self) -> usize {
        self.panel_bytes() * self.panels()
    }

    /// Bytes of one row of the array of packed weights that MLX has.
    pub fn mlx_weight_row(&self) -> usize {
        self.inputs * self.bits() / 8
    }
    /// Bytes of one row of MLX's scales, or biases.
    pub fn mlx_scale_row(&self) -> usize {
        self.groups() * self.scales.size()
    }
}

/// A packed matrix in memory.
#[derive(Clone, Copy)]
pub struct Packed<'a> {
    layout: Layout,
    data: &'a [u8],
}

impl<'a> Packed<'a> {
    /// None where `data` is not of the layout's size.
    pub fn new(layout: Layout, data: &'a [u8]) -> Option<Packed<'a>> {
        (data.len() == layout.nbytes()).then_some(Packed { layout, data })
    }

    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Its first `rows` outputs from panel `first` on, as a matrix of its own. None where there are no so many.
    pub fn part(&self, first: usize, rows: usize) -> Option<Packed<'a>> {
        let layout = Layout {
            rows,
            ..self.layout
        };
        let start = first.checked_mul(layout.panel_bytes())?;
        let end = start.checked_add(layout.nbytes())?;
        Packed::new(layout, self.data.get(start..end)?)
    }

    pub fn data(&self) -> &'a [u8] {
        self.data
    }

    /// The bytes of outputs `16 * index` to `16 * index + 15`.
    pub(super) fn panel(&self, index: usize) -> &'a [u8] {
        let bytes = self.layout.panel_bytes();
        &self.data[index * bytes..(index + 1) * bytes]
    }
}
