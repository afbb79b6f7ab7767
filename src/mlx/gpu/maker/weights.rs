//! Weights as the kernels read them.

use super::{Maker, MAX_GROUPS, TILE};
use crate::dtype::{Dtype, Mode, Scheme};
use crate::error::Result;
use crate::kernels::{ExpertLinear, Norm};
use crate::mlx::fast::Matrix;
use crate::mlx::gpu::driver::Address;
use crate::mlx::gpu::step::Linear;
use crate::mlx::{ops, Array};

pub(super) type Experts<'a> = ExpertLinear<Matrix<'a>, &'a Array>;

/// `Weight` of packed.cu.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub(super) struct Weight {
    pub w: Address,
    pub scales: Address,
    pub biases: Address,
    pub bias: Address,
    pub out: u32,
    pub first: u32,
    pub number: u32,
    pub column: u32,
    pub width: u32,
}

/// What the kernels call MXFP4 in the place of bits (`packed.cu`).
pub(super) const MXFP4: u32 = 256 + 4;
/// The largest power of two, as MXFP4 has it, that they know.
const MOST_OF_MXFP4: u32 = 128;

/// How the kernels read a weight: bits of a number, or `MXFP4`; numbers that share a scale.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Kind {
    pub bits: u32,
    pub group: u32,
}

impl Kind {
    /// Bits of a number.
    pub fn width(self) -> u32 {
        self.bits % 256
    }
}

/// A weight of a product that the kernels know.
#[derive(Clone, Copy)]
pub(super) struct Known {
    pub kind: Kind,
    pub weight: Weight,
    pub inputs: u32,
}

impl Maker {
    /// A norm's weight `[width]`, if it is one that the kernels know.
    pub(super) fn norm(&mut self, norm: &Norm<&Array>, width: u32) -> Result<Option<Address>> {
        let known = !norm.layer
            && norm.bias.is_none()
            && norm.weight.dtype() == self.dtype
            && norm.weight.shape() == [width as i32];
        match known {
            true => self.held(norm.weight).map(Some),
            false => Ok(None),
        }
    }

    pub(super) fn weight(&mut self, linear: &Linear) -> Result<Option<Known>> {
        let mut known = known!(self.with_bias(&linear.weight, linear.bias)?);
        known.weight.number = u32::try_from(self.numbered.len()).unwrap_or(u32::MAX);
        known.weight.width = known.weight.out;
        self.numbered.push(known.weight.w);
        Ok(Some(known))
    }

    /// One of every expert, `[experts, out, in]`, and which of them is left to the kernels.
    pub(super) fn experts(&mut self, linear: &Experts) -> Result<Option<Known>> {
        self.with_bias(&linear.weight, linear.bias)
    }

    fn with_bias(&mut self, matrix: &Matrix, bias: Option<&Array>) -> Result<Option<Known>> {
        let mut known = known!(self.matrix(matrix)?);
        if let Some(bias) = bias {
            if bias.dtype() != self.dtype {
                return Ok(None);
            }
            known.weight.bias = self.held(bias)?;
        }
        Ok(Some(known))
    }

    pub(super) fn matrix(&mut self, matrix: &Matrix) -> Result<Option<Known>> {
        let [out, inputs] = known!(shape(matrix));
        let mut weight = Weight {
            out,
            ..Weight::default()
        };
        let kind = match matrix {
            Matrix::Dense(dense) | Matrix::DenseExperts(dense) if dense.dtype() == self.dtype => {
                weight.w = self.held(dense)?;
                let (bits, group) = (16, 1);
                Kind { bits, group }
            }
            Matrix::AsMlx(packed) if packed.scheme.mode == Mode::Mxfp4 => {
                let most = ops::max(&ops::reshape(packed.scales, &[-1])?, -1, false)?;
                let most = ops::astype(&most, Dtype::U32)?;
                if self.dtype != Dtype::BF16 || most.item_u32()? > MOST_OF_MXFP4 {
                    return Ok(None);
                }
                weight.w = self.held(packed.weight)?;
                weight.scales = self.held(packed.scales)?;
                let (bits, group) = (MXFP4, 32);
                Kind { bits, group }
            }
            Matrix::AsMlx(packed) => {
                let Scheme {
                    mode: Mode::Affine,
                    bits: bits @ (4 | 8),
                    group_size: group @ (64 | 128),
                } = packed.scheme
                else {
                    return Ok(None);
                };
                let Some(biases) = packed.biases else {
                    return Ok(None);
                };
                if [packed.scales, biases]
                    .iter()
                    .any(|of| of.dtype() != self.dtype)
                {
                    return Ok(None);
                }
                weight.w = self.held(packed.weight)?;
                weight.scales = self.held(packed.scales)?;
                weight.biases = self.held(biases)?;
                let (bits, group) = (bits as u32, group as u32);
                Kind { bits, group }
            }
            _ => return Ok(None),
        };
        // Read 16 bytes at a time, and two scales.
        let whole = weight.w.is_multiple_of(16)
            && (weight.scales | weight.biases).is_multiple_of(4)
            && inputs.is_multiple_of(2 * TILE)
            && inputs / kind.group.max(TILE) <= MAX_GROUPS;
        Ok(whole.then_some(Known {
            kind,
            weight,
            inputs,
        }))
    }
}

/// The bits of a weight's numbers.
pub(super) fn bits_of(matrix: &Matrix) -> Option<u32> {
    match matrix {
        Matrix::Dense(_) | Matrix::DenseExperts(_) => Some(16),
        Matrix::AsMlx(packed) => u32::try_from(packed.scheme.bits).ok(),
        _ => None,
    }
}

/// Outputs and inputs of a matrix as MLX has it.
pub(in crate::mlx::gpu) fn shape(matrix: &Matrix) -> Option<[u32; 2]> {
    let number = |n: i32| u32::try_from(n).ok();
    match matrix {
        Matrix::Dense(dense) | Matrix::DenseExperts(dense) => {
            Some([number(dense.dim(-2))?, number(dense.dim(-1))?])
        }
        Matrix::AsMlx(packed) => {
            let groups = number(packed.scales.dim(-1))?;
            let group = u32::try_from(packed.scheme.group_size).ok()?;
            Some([number(packed.weight.dim(-2))?, groups.checked_mul(group)?])
        }
        _ => None,
    }
}

/// The rows of the gate and those of up.
pub(super) fn halves(both: Known) -> Option<(Known, Known)> {
    let (kind, inputs) = (both.kind, u64::from(both.inputs));
    let out = both.weight.out / 2;
    let gate = Weight { out, ..both.weight };
    let rows = u64::from(out);
    let behind = |address: Address, bytes: u64| match address {
        0 => 0,
        address => address + bytes,
    };
    let of_scale = if kind.bits == MXFP4 { 1 } else { 2 };
    let scales = of_scale * rows * (inputs / u64::from(kind.group));
    let up = Weight {
        w: gate.w + rows * inputs * u64::from(kind.width()) / 8,
        scales: behind(gate.scales, scales),
        biases: behind(gate.biases, scales),
        bias: behind(gate.bias, 2 * rows),
        column: out,
        ..gate
    };
    let [gate, up] = [gate, up].map(|weight| Known { weight, ..both });
    both.weight.out.is_multiple_of(2).then_some((gate, up))
}
