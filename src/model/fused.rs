//! A block as one operation of the CPU's kernels, made of the same parts as the plain path.

use super::adapter::AdapterSet;
use super::cache::{AttentionMask, Cache, Like};
use super::config::DecoderConfig;
use super::decoder::{Block, Norms, Rows};
use super::layers::{Linear, Norm};
use crate::dtype::Dtype;
use crate::error::Result;
use crate::kernels;
use crate::mlx::fast::{self, Matrix};
use crate::mlx::Array;

#[cfg(test)]
thread_local! {
    /// For tests: how many blocks were computed so, or None where none is to be.
    pub static COUNT: std::cell::Cell<Option<usize>> = const { std::cell::Cell::new(Some(0)) };
}

impl Block {
    /// As `forward`. None, and nothing done, where the kernels do not know all that the block or its adapters do.
    pub(super) fn fused(
        &self,
        config: &DecoderConfig,
        x: &Array,
        mask: &AttentionMask,
        cache: &mut Cache,
        rows: Rows,
        adapters: &AdapterSet,
    ) -> Result<Option<Array>> {
        #[cfg(test)]
        if COUNT.get().is_none() {
            return Ok(None);
        }
        let (n, dtype) = (x.dim(1), x.dtype());
        let clips = config.clip_residual && dtype == Dtype::F16;
        let Some(parts) = self
            .parts(adapters, dtype)
            .filter(|_| fast::active() && !clips)
        else {
            return Ok(None);
        };
        let like = Like {
            heads: self.attention.config.kv_heads,
            head_dim: self.attention.config.head_dim,
            dtype,
        };
        let place = cache.place(n, like)?;
        let asking = match rows {
            Rows::All => n,
            Rows::Last => 1,
        };
        #[cfg(test)]
        COUNT.set(COUNT.get().map(|count| count + 1));
        fast::block(x, &parts, Some(&place), mask.visible(), asking).map(Some)
    }

    /// None where something does not have the type of x, or is more than a product.
    fn parts<'a>(
        &'a self,
        adapters: &'a AdapterSet,
        dtype: Dtype,
    ) -> Option<kernels::Block<Matrix<'a>, &'a Array>> {
        let (attention, mlp) = (&self.attention, &self.mlp);
        let size = |n: i32| usize::try_from(n).unwrap_or(0);
        let linear = |linear: &'a Linear| linear.parts(adapters, dtype);
        let norm = |norm: &'a Norm| {
            let (weight, eps) = (norm.adapted(adapters), attention.norm_eps);
            (weight.dtype() == dtype).then_some(kernels::Norm { weight, eps })
        };
        // Outer None: there is one that does not fit.
        let option = |of: Option<&'a Norm>| match of {
            None => Some(None),
            Some(of) => norm(of).map(Some),
        };
        let (before, after_attention, mlp_norm, after_mlp) = match &self.norms {
            Norms::Pre { attention, mlp } => (attention, None, mlp, None),
            Norms::Sandwich {
                attention,
                after_attention,
                mlp,
                after_mlp,
            } => (attention, Some(after_attention), mlp, Some(after_mlp)),
        };
        let attend = kernels::Attention {
            sizes: kernels::AttentionSizes {
                heads: size(attention.config.heads),
                kv_heads: size(attention.config.kv_heads),
                head_dim: size(attention.config.head_dim),
                scale: attention.config.scale,
                rope: Some(attention.rope.kernel()),
                softcap: None,
                temperature: None,
            },
            projections: kernels::Projections::Apart {
                q_proj: linear(&attention.q_proj)?,
                k_proj: linear(&attention.k_proj)?,
                v_proj: linear(&attention.v_proj)?,
            },
            q_norm: option(attention.q_norm.as_ref())?,
            k_norm: option(attention.k_norm.as_ref())?,
            sinks: None,
            o_proj: linear(&attention.o_proj)?,
        };
        let activation = mlp.gate();
        let mlp = kernels::Mlp {
            gate_up: kernels::GateUp::Apart {
                gate_proj: linear(&mlp.gate_proj)?,
                up_proj: linear(&mlp.up_proj)?,
            },
            down_proj: linear(&mlp.down_proj)?,
            activation,
        };
        Some(kernels::Block {
            halves: vec![
                kernels::Half {
                    norm: Some(norm(before)?),
                    part: kernels::Part::Attention(attend),
                    post_norm: option(after_attention)?,
                    multiplier: 1.0,
                },
                kernels::Half {
                    norm: Some(norm(mlp_norm)?),
                    part: kernels::Part::Mlp(mlp),
                    post_norm: option(after_mlp)?,
                    multiplier: 1.0,
                },
            ],
        })
    }
}
