//! Attention of a step's rows.

use super::weights::bits_of;
use super::{Input, Maker, TILE};
use crate::error::{Error, Result};
use crate::kernels::{self, Norm, Projections};
use crate::mlx::fast::Matrix;
use crate::mlx::gpu::driver::{Address, Arguments};
use crate::mlx::gpu::memory::upload;
use crate::mlx::gpu::step::{Half, Linear, Place, INPUTS, MAX_ROWS};
use crate::mlx::Array;

/// The widest head that the kernels know.
const MAX_HEAD_DIM: u32 = 256;
/// Blocks that share the keys of a row.
const MOST_PARTS: u32 = 64;

/// `HeadsOf` of heads.cu.
#[derive(Clone, Copy)]
#[repr(C)]
struct Heads {
    heads: u32,
    kv_heads: u32,
    turned: u32,
    traditional: u32,
    scale: f32,
    factor: f32,
    eps: f32,
    frequencies: Address,
    q_norm: Address,
    k_norm: Address,
}

/// `AttentionOf` of attention.cu.
#[derive(Clone, Copy)]
#[repr(C)]
struct Attention {
    parts: u32,
    scale: f32,
    softcap: f32,
    sinks: Address,
}

impl Maker {
    pub(super) fn attention(
        &mut self,
        attention: &kernels::Attention<Matrix, &Array>,
        (half, input, next): (&Half, &Input, &Input),
    ) -> Result<bool> {
        let sizes = &attention.sizes;
        let number = |n: usize| u32::try_from(n).unwrap_or(0);
        let [heads, kv_heads] = [number(sizes.heads), number(sizes.kv_heads)];
        let dim = number(sizes.head_dim);
        let fits = (TILE..=MAX_HEAD_DIM).contains(&dim) && dim.is_multiple_of(TILE);
        if !fits || kv_heads == 0 || !heads.is_multiple_of(kv_heads) || sizes.temperature.is_some()
        {
            return Ok(false);
        }
        let mut weights = Vec::with_capacity(3);
        for linear in projections(attention) {
            let Some(known) = self.weight(linear)? else {
                return Ok(false);
            };
            weights.push(known);
        }
        let width = (heads + 2 * kv_heads) * dim;
        let rows = |width: u32| MAX_ROWS * width as usize;
        let qkv = self.room("qkv", rows(width), 4)?;
        let Some(first) = weights.first() else {
            return Ok(false);
        };
        let product = self.product_of(first.inputs, input.norm);
        let own: Vec<_> = weights.iter().map(|known| known.weight).collect();
        let product = self.adapted(product, &own, input.order)?;
        self.project(&weights, product, (width, qkv));

        let mut own_norm = |norm: &Option<Norm<&Array>>| match norm {
            None => Ok::<_, Error>(Some((0, 0.0))),
            Some(norm) => Ok(self.norm(norm, dim)?.map(|weight| (weight, norm.eps))),
        };
        let (Some((q_norm, eps)), Some((k_norm, k_eps))) =
            (own_norm(&attention.q_norm)?, own_norm(&attention.k_norm)?)
        else {
            return Ok(false);
        };
        if q_norm != 0 && k_norm != 0 && eps != k_eps {
            return Ok(false);
        }
        let eps = if q_norm != 0 { eps } else { k_eps };
        let rope = sizes.rope.as_deref();
        let frequencies = match rope {
            Some(rope) => {
                let bytes = rope.frequencies().iter().flat_map(|f| f.to_ne_bytes());
                let table = upload(&bytes.collect::<Vec<_>>())?;
                self.held(&table)?
            }
            None => 0,
        };
        let made = Heads {
            heads,
            kv_heads,
            turned: rope.map_or(0, |rope| number(rope.dims())),
            traditional: rope.is_some_and(kernels::Rope::is_traditional).into(),
            scale: rope.map_or(1.0, kernels::Rope::scale),
            factor: rope.map_or(1.0, kernels::Rope::factor),
            eps,
            frequencies,
            q_norm,
            k_norm,
        };
        let before = self.attentions * MAX_ROWS * size_of::<Place>();
        let places = self.inputs + (INPUTS + before) as Address;
        self.attentions += 1;
        // Heads that share keys go together, up to four: with eight a block takes longer than two that read the keys once each.
        let shared = heads / kv_heads;
        let group = shared.next_power_of_two().min(4);
        let groups = kv_heads * shared.div_ceil(group);
        let sinks = match attention.sinks {
            Some(sinks) if sinks.dtype() != self.dtype => return Ok(false),
            Some(sinks) => self.held(sinks)?,
            None => 0,
        };
        let of = Attention {
            parts: (self.multiprocessors / groups).clamp(1, MOST_PARTS),
            scale: sizes.scale,
            softcap: sizes.softcap.unwrap_or(0.0),
            sinks,
        };
        let attended = self.room("attended", rows(heads * dim), 2)?;
        let sums = self.room("sums of attended", rows(heads * dim / TILE), 4)?;
        let Some(order) = bits_of(&attention.o_proj.weight) else {
            return Ok(false);
        };
        let found = self.room("found", rows(heads * of.parts * (dim + 2)), 4)?;
        let counts = self.room("counts", rows(groups), 4)?;
        let kernel = format!("attention<{}, {dim}, {group}>", self.type_name);
        let threads = if dim > 128 { 128 } else { 256 };
        self.launch(kernel, threads, move |pass| {
            let arguments = Arguments::new().add(made).add(of).add(places).add(qkv);
            let arguments = arguments
                .add(attended)
                .add(order)
                .add(sums)
                .add(found)
                .add(counts);
            ([of.parts, groups, pass.rows], arguments)
        });
        self.residual(&attention.o_proj, [attended, sums], (half, next))
    }
}

pub(super) fn projections<'m, 'a>(
    attention: &'m kernels::Attention<Matrix<'a>, &'a Array>,
) -> Vec<&'m Linear<'a>> {
    match &attention.projections {
        Projections::Apart {
            q_proj,
            k_proj,
            v_proj,
        } => vec![q_proj, k_proj, v_proj],
        Projections::Fused(qkv_proj) => vec![qkv_proj],
    }
}
