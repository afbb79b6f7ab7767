//! What adapters of low rank add to a step's products.

use super::driver::Address;
use super::maker::{linears, shape};
use super::memory::{lasting, lasting_address_of, upload};
use super::step::{Half, Linear};
use crate::dtype::Dtype;
use crate::error::Result;
use crate::mlx::fast::Matrix;
use crate::mlx::Array;

/// The highest rank that the kernels know (`product.cu`).
pub(super) const MAX_RANK: u32 = 64;

/// `Low` of numbers.cu.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Low {
    a: Address,
    b: Address,
    scale: f32,
    rank: u32,
}

/// The low-rank parts of one set of adapters, where the kernels look for them.
pub struct Lows {
    /// Where a `Low` for each numbered product is.
    pub(super) table: Address,
    /// That, and what these point to.
    _arrays: Vec<Array>,
}

impl Lows {
    /// See `Step::lows`. `numbered`: the weights of products, by number.
    pub(super) fn new(
        numbered: &[Address],
        dtype: Dtype,
        halves: &[Half],
        lm_head: Option<&Linear>,
        count: usize,
    ) -> Result<Option<Lows>> {
        let mut table = vec![Low::default(); numbered.len()];
        let mut arrays = Vec::new();
        let mut known = 0;
        for linear in halves.iter().flat_map(linears).chain(lm_head) {
            let low = match linear.low.as_slice() {
                [] => continue,
                [low] => low,
                _ => return Ok(None),
            };
            let weight = match &linear.weight {
                Matrix::Dense(dense) => dense,
                Matrix::AsMlx(packed) => packed.weight,
                _ => return Ok(None),
            };
            let Some([out, inputs]) = shape(&linear.weight) else {
                return Ok(None);
            };
            let weight = lasting_address_of(weight)?;
            let at = numbered.iter().position(|other| *other == weight);
            let Some(own) = at.and_then(|at| table.get_mut(at)) else {
                return Ok(None);
            };
            let ((a, a_at), (b, b_at)) = (lasting(low.a)?, lasting(low.b)?);
            let rank = u32::try_from(a.dim(-1)).unwrap_or(0);
            let fits = [&a, &b].iter().all(|of| of.dtype() == dtype)
                && a.shape() == [inputs as i32, rank as i32]
                && b.shape() == [rank as i32, out as i32];
            if !fits || ![8, 16, 32, MAX_RANK].contains(&rank) {
                return Ok(None);
            }
            *own = Low {
                a: a_at,
                b: b_at,
                scale: low.scale,
                rank,
            };
            // A is read 16 bytes at a time.
            if !own.a.is_multiple_of(16) {
                return Ok(None);
            }
            arrays.extend([a, b]);
            known += 1;
        }
        if known != count {
            return Ok(None);
        }
        let words = |low: &Low| {
            let tail = u64::from(low.scale.to_bits()) | u64::from(low.rank) << 32;
            [low.a, low.b, tail].map(u64::to_le_bytes).concat()
        };
        let bytes: Vec<u8> = table.iter().flat_map(words).collect();
        let (array, table) = lasting(&upload(&bytes)?)?;
        arrays.push(array);
        Ok(Some(Lows {
            table,
            _arrays: arrays,
        }))
    }
}
