//! Self-attention with grouped queries over a cache.

use super::adapter::AdapterSet;
use super::cache::{AttentionMask, Cache};
use super::config::AttentionConfig;
use super::decoder::{last_row, Rows};
use super::layers::{Linear, Norm};
use super::rope::RotaryEmbedding;
use crate::error::Result;
use crate::mlx::ops::{self, Mask};
use crate::mlx::{fast, Array};

pub struct Attention {
    pub q_proj: Linear,
    pub k_proj: Linear,
    pub v_proj: Linear,
    pub o_proj: Linear,
    /// `[head_dim]`
    pub q_norm: Option<Norm>,
    /// `[head_dim]`
    pub k_norm: Option<Norm>,
    pub norm_eps: f32,
    pub rope: RotaryEmbedding,
    pub config: AttentionConfig,
}

impl Attention {
    /// x `[1, n, hidden]` → the wanted rows of the same; the cache takes the n keys and values. Without a cache the n tokens
    /// are all there are, and there may be a batch of them.
    pub fn forward(
        &self,
        x: &Array,
        mask: &AttentionMask,
        cache: Option<&mut Cache>,
        rows: Rows,
        adapters: &AdapterSet,
    ) -> Result<Array> {
        let (heads, kv_heads) = (self.config.heads, self.config.kv_heads);
        let offset = cache.as_ref().map_or(0, |cache| cache.offset());
        let split =
            |x: &Array, heads: i32, norm: Option<&Norm>| self.heads(x, heads, norm, adapters);
        let keys = split(
            &self.k_proj.forward(x, adapters)?,
            kv_heads,
            self.k_norm.as_ref(),
        )?;
        let values = split(&self.v_proj.forward(x, adapters)?, kv_heads, None)?;
        let keys = self.rope.forward(&keys, offset)?;
        // MLX attends in the widest type of all; the cache holds both in theirs, so that they are widened once.
        let kv_type = keys.dtype().wider(values.dtype());
        let (keys, values) = (ops::astype(&keys, kv_type)?, ops::astype(&values, kv_type)?);
        // Both `[1, kv_heads, tokens in the cache, head_dim]`.
        let (keys, values) = match cache {
            Some(cache) => cache.update_and_fetch(keys, values)?,
            None => (keys, values),
        };

        // The queries: `[1, heads, asking, head_dim]`.
        let end = offset + x.dim(1);
        let x = match rows {
            Rows::All => x.clone(),
            Rows::Last => last_row(x)?,
        };
        let asking = x.dim(1);
        let queries = split(
            &self.q_proj.forward(&x, adapters)?,
            heads,
            self.q_norm.as_ref(),
        )?;
        let queries = self.rope.forward(&queries, end - asking)?;
        let output = if fast::active() {
            let (scale, visible) = (self.config.scale, mask.visible());
            fast::attention(&queries, &keys, &values, scale, visible, None, None)?
        } else {
            self.attend(&queries, &keys, &values, mask)?
        };
        self.o_proj.forward(&output, adapters)
    }

    /// queries `[batch, heads, n, head_dim]` → `[batch, n, heads * head_dim]`, with MLX's own operation
    fn attend(
        &self,
        queries: &Array,
        keys: &Array,
        values: &Array,
        mask: &AttentionMask,
    ) -> Result<Array> {
        let (batch, asking) = (queries.dim(0), queries.dim(2));
        let last_of_mask;
        let mask = match mask {
            AttentionMask::None => Mask::All,
            // The newest token sees all.
            AttentionMask::Causal if asking == 1 => Mask::All,
            AttentionMask::Causal => Mask::Causal,
            AttentionMask::Window { mask, .. } => {
                let n = mask.dim(0);
                last_of_mask = ops::slice(mask, &[n - asking, 0], &[n, mask.dim(1)])?;
                Mask::Array(&last_of_mask)
            }
        };
        let output =
            ops::scaled_dot_product_attention(queries, keys, values, self.config.scale, mask)?;
        // [batch, heads, asking, head_dim] → [batch, asking, heads * head_dim]
        let output = ops::transpose(&output, &[0, 2, 1, 3])?;
        let size = self.config.heads * self.config.head_dim;
        ops::reshape(&output, &[batch, asking, size])
    }

    /// `[1, n, heads * head_dim]` → `[1, heads, n, head_dim]`, each head normed where there is a norm
    fn heads(
        &self,
        x: &Array,
        heads: i32,
        norm: Option<&Norm>,
        adapters: &AdapterSet,
    ) -> Result<Array> {
        let mut split = ops::reshape(x, &[x.dim(0), x.dim(1), heads, self.config.head_dim])?;
        if let Some(norm) = norm {
            split = norm.forward(&split, self.norm_eps, adapters)?;
        }
        ops::transpose(&split, &[0, 2, 1, 3])
    }
}
