//! A block as one operation of the CPU's kernels, made of the same parts as the plain path.

use super::block::{Block, Half, Past};
use super::cache::Like;
use super::config::DecoderConfig;
use super::cost::{Known, TypesOf};
use super::decoder::{Forward, Rows};
use super::modules::Site;
use super::parts::attention::{Projections, QkNormOver};
use super::parts::mlp::Inner;
use super::parts::{Attention, Mlp, Part};
use super::plan::Blueprint;
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

type Parts<'a> = kernels::Block<Matrix<'a>, &'a Array>;

impl Block {
    /// As `forward`. None, and nothing done, where the kernels do not know all that the block or its adapters do.
    pub(super) fn fused(
        &self,
        with: &Forward,
        x: &Array,
        past: &mut Past,
        rows: Rows,
    ) -> Result<Option<Array>> {
        #[cfg(test)]
        if COUNT.get().is_none() {
            return Ok(None);
        }
        let (n, dtype) = (x.dim(1), x.dtype());
        let clips = with.clip_residual && dtype == Dtype::F16;
        if !fast::active() || clips {
            return Ok(None);
        }
        let Some(((_, attention), _)) = self.known() else {
            return Ok(None);
        };
        let (Some(cache), Some(mask)) = (
            past.caches.get_mut(attention.cache()),
            past.masks.get(attention.cache()),
        ) else {
            return Ok(None);
        };
        let Some(parts) = self.parts(with, dtype, cache.length(n))? else {
            return Ok(None);
        };
        let like = Like {
            heads: attention.config().kv_heads,
            head_dim: attention.config().head_dim,
            dtype,
        };
        let place = cache.place(n, like)?;
        let asking = match rows {
            Rows::All => n,
            Rows::Last => 1,
        };
        #[cfg(test)]
        COUNT.set(COUNT.get().map(|count| count + 1));
        fast::block(x, &parts, &place, mask.visible(), asking).map(Some)
    }

    /// Whether it is one operation without adapters. `index`: the block's number, `h`: the type of what goes in.
    pub(super) fn is_one_operation<T: Known>(
        &self,
        config: &DecoderConfig,
        blueprint: &Blueprint,
        of: &TypesOf<T>,
        (index, h): (usize, Dtype),
    ) -> bool {
        let clips = config.clip_residual && h == Dtype::F16;
        let Some(((_, attention), _)) = self.known() else {
            return false;
        };
        let rope = attention.rope.and_then(|rope| blueprint.ropes.get(rope));
        !clips
            && rope.is_some_and(|rope| rope.attention_factor() == 1.0)
            && of.block_computes_in(index, h)
    }

    /// Attention and MLP, where the kernels know all that they do.
    fn known(&self) -> Option<((&Half, &Attention), (&Half, &Mlp))> {
        let [first, second] = self.halves.as_slice() else {
            return None;
        };
        let (Part::Attention(attention), Part::Mlp(mlp)) = (&first.part, &second.part) else {
            return None;
        };
        mlp.config().activation.kernel()?;
        let config = attention.config();
        let plain = |half: &Half| half.multiplier == 1.0 && half.norm.is_some();
        let over = config.qk_norm.map(|norm| norm.over);
        let known = plain(first)
            && plain(second)
            && matches!(over, None | Some(QkNormOver::Heads))
            && config.softcap.is_none()
            && config.gate.is_none()
            && config.temperature.is_none()
            && !config.sinks;
        known.then_some(((first, attention), (second, mlp)))
    }

    /// None where something does not have the type of x, or is more than a product.
    fn parts<'a>(
        &self,
        with: &Forward<'a>,
        dtype: Dtype,
        length: i32,
    ) -> Result<Option<Parts<'a>>> {
        let Some(((first, attention), (second, mlp))) = self.known() else {
            return Ok(None);
        };
        let (
            Projections::Apart {
                q_proj,
                k_proj,
                v_proj,
            },
            Inner::Gated { gate_proj, up_proj },
            Some(rope),
        ) = (attention.projections, mlp.inner, attention.rope)
        else {
            return Ok(None);
        };
        let Some(rope) = with.rope(rope)?.kernel(length) else {
            return Ok(None);
        };
        let size = |n: i32| usize::try_from(n).unwrap_or(0);
        let mut fits = true;
        let mut linear = |site: Site| -> Result<Option<_>> {
            let parts = with.linear_layer(site)?.parts(with.adapters, dtype);
            fits &= parts.is_some();
            Ok(parts)
        };
        let [q_proj, k_proj, v_proj, o_proj] = [
            linear(q_proj)?,
            linear(k_proj)?,
            linear(v_proj)?,
            linear(attention.o_proj)?,
        ];
        let [gate_proj, up_proj, down_proj] =
            [linear(gate_proj)?, linear(up_proj)?, linear(mlp.down_proj)?];
        let mut eps = 0.0;
        let mut norm = |site: Option<Site>| -> Result<Option<&'a Array>> {
            let Some(site) = site else { return Ok(None) };
            let norm = with.norm_layer(site)?;
            let weight = norm.adapted(with.adapters);
            eps = norm.eps();
            fits &= weight.dtype() == dtype;
            Ok(Some(weight))
        };
        let [input_layernorm, after_attention, mlp_layernorm, after_mlp, q_norm, k_norm] = [
            norm(first.norm)?,
            norm(first.post_norm)?,
            norm(second.norm)?,
            norm(second.post_norm)?,
            norm(attention.q_norm)?,
            norm(attention.k_norm)?,
        ];
        let Some(gate) = mlp.config().activation.kernel() else {
            return Ok(None);
        };
        let config = attention.config();
        let sizes = kernels::Sizes {
            heads: size(config.heads),
            kv_heads: size(config.kv_heads),
            head_dim: size(config.head_dim),
            scale: config.scale,
            eps,
            gate,
            rope,
        };
        let whole = || {
            Some(kernels::Block {
                sizes,
                input_layernorm: input_layernorm?,
                q_proj: q_proj?,
                k_proj: k_proj?,
                v_proj: v_proj?,
                q_norm,
                k_norm,
                o_proj: o_proj?,
                after_attention,
                mlp_layernorm: mlp_layernorm?,
                gate_proj: gate_proj?,
                up_proj: up_proj?,
                down_proj: down_proj?,
                after_mlp,
            })
        };
        Ok(if fits { whole() } else { None })
    }
}
