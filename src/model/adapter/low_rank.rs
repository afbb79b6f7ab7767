//! Two matrices of low rank beside a weight.

use super::{Dropout, Site};
use crate::error::Result;
use crate::mlx::{ops, Array};

#[derive(Clone)]
pub struct LowRank {
    /// `[in, rank]`; of experts `[experts, in, rank]`
    pub a: Array,
    /// `[rank, out]`; of experts `[experts, rank, out]`
    pub b: Array,
    /// What is left to multiply with.
    pub scale: f32,
    /// DoRA: `[out]`, the magnitude over the norm of the adapted weight's rows (of an embedding `[vocab]`, or over that of
    /// its columns `[hidden]`)
    pub gain: Option<Array>,
    pub tied: bool,
    pub dropout: Option<Dropout>,
}

impl LowRank {
    /// With the scale in B, and both columns by columns: so a GPU multiplies one row in one small kernel, where MLX asks
    /// its library for a way to multiply matrices otherwise. An embedding is looked up in A, and as the output layer
    /// multiplied with both transposed: they stay.
    pub fn lay_out(&mut self, site: Site) -> Result<()> {
        let scale = Array::scalar(self.scale, self.b.dtype())?;
        self.b = ops::multiply(&scale, &self.b)?;
        self.scale = 1.0;
        if site != Site::EMBED_TOKENS && self.a.shape().len() == 2 {
            for array in [&mut self.a, &mut self.b] {
                let columns = ops::contiguous(&ops::transpose(array, &[1, 0])?)?;
                *array = ops::transpose(&columns, &[1, 0])?;
            }
        }
        Ok(())
    }

    /// x `[…, in]` → `[…, out]`
    pub fn product(&self, x: &Array) -> Result<Array> {
        ops::matmul(&ops::matmul(&self.dropped(x)?, &self.a)?, &self.b)
    }

    /// x `[n, in]` by A `[experts, in, rank]` and B `[experts, rank, out]` of the chosen ones `[n, k]` → `[n, k, out]`
    pub fn experts_product(&self, x: &Array, chosen: &Array, sorted: bool) -> Result<Array> {
        let x = ops::astype(&self.dropped(x)?, self.a.dtype())?;
        // MLX has no gradient of A and B by sorted indices of two dimensions (`findings/`).
        let (rows, own) = match sorted {
            true => (
                [x.dim(0), 1, x.dim(1)].to_vec(),
                ops::reshape(chosen, &[-1])?,
            ),
            false => ([x.dim(0), 1, 1, x.dim(1)].to_vec(), chosen.clone()),
        };
        let inner = ops::gather_mm(&ops::reshape(&x, &rows)?, &self.a, &own, sorted)?;
        let z = ops::gather_mm(&inner, &self.b, &own, sorted)?;
        ops::reshape(&z, &[chosen.dim(0), chosen.dim(1), z.dim(-1)])
    }

    /// x without what is dropped, the rest enlarged in its place.
    pub fn dropped(&self, x: &Array) -> Result<Array> {
        let Some(Dropout { rate, seed }) = self.dropout else {
            return Ok(x.clone());
        };
        let keep = 1.0 - rate;
        let kept = ops::random_bernoulli(keep, x.shape(), &ops::random_key(seed)?)?;
        let factor = ops::astype(&kept, x.dtype())?;
        let factor = ops::multiply(&Array::scalar(1.0 / keep, x.dtype())?, &factor)?;
        ops::multiply(&factor, x)
    }

    /// x `[…, hidden]` → `[…, vocab]`
    pub fn transposed_product(&self, x: &Array) -> Result<Array> {
        let (a, b) = (
            ops::transpose(&self.a, &[1, 0])?,
            ops::transpose(&self.b, &[1, 0])?,
        );
        ops::matmul(&ops::matmul(&self.dropped(x)?, &b)?, &a)
    }

    /// scale * z, in the type of `like`
    pub fn scaled(&self, z: &Array, like: &Array) -> Result<Array> {
        if self.scale == 1.0 {
            return ops::astype(z, like.dtype());
        }
        let scale = Array::scalar(self.scale, z.dtype())?;
        ops::astype(&ops::multiply(&scale, z)?, like.dtype())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mlx::{self, Device};

    fn numbers(shape: [i32; 2], seed: f32) -> Array {
        let count = shape[0] * shape[1];
        let data: Vec<f32> = (0..count).map(|i| (seed * (i + 1) as f32).sin()).collect();
        ops::reshape(&Array::from_f32(&data).unwrap(), &shape).unwrap()
    }

    /// As a GPU multiplies with it: the same but for what the scale rounds.
    #[test]
    fn what_is_laid_out_for_a_gpu_gives_the_same() {
        mlx::install_error_handler();
        mlx::enter(Device::Cpu).unwrap();
        for site in [Site::LM_HEAD, Site::EMBED_TOKENS] {
            let low = LowRank {
                a: numbers([40, 4], 0.7),
                b: numbers([4, 24], 0.3),
                scale: 2.5,
                gain: None,
                tied: true,
                dropout: None,
            };
            let mut laid_out = low.clone();
            laid_out.lay_out(site).unwrap();
            assert_eq!(
                (laid_out.a.shape(), laid_out.b.shape()),
                (low.a.shape(), low.b.shape())
            );
            let base = numbers([2, 24], 0.1);
            let product = |low: &LowRank| {
                let z = low.product(&numbers([2, 40], 1.1)).unwrap();
                low.scaled(&z, &base).unwrap().to_f32().unwrap()
            };
            let transposed = |low: &LowRank| {
                let z = low.transposed_product(&base).unwrap();
                low.scaled(&z, &base).unwrap().to_f32().unwrap()
            };
            for (ours, theirs) in [
                (product(&laid_out), product(&low)),
                (transposed(&laid_out), transposed(&low)),
            ] {
                assert_eq!(ours.len(), theirs.len());
                for (ours, theirs) in ours.iter().zip(theirs) {
                    assert!((ours - theirs).abs() <= 1e-4 * theirs.abs().max(1.0));
                }
            }
        }
        mlx::leave();
    }
}
