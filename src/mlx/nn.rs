//! The one place that chooses what computes a layer: the CPU's kernels (`fast`) or MLX's own operations, which are the
//! reference.

mod latent;
mod packed;
mod recurrence;
mod routing;
mod short_conv;
#[cfg(all(test, not(target_os = "macos")))]
mod testing;

use std::sync::Arc;

use super::device::on_gpu;
use super::fast;
use super::ops::{self, Mask};
use super::stored::Stored;
use super::{compiled, Array};
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::kernels::{self, Visible};

pub use crate::kernels::{Activation, Temperature};
pub use latent::{known, latent_attention, looks_at_latents, InParts};
pub use recurrence::{log_decay, recurrence, steps, Normalise, Recurrence};
pub use routing::{route, weighted_sum, Groups, Routing, Score};
pub use short_conv::short_conv;

/// What the queries of one pass may look at in one cache.
pub enum AttentionMask {
    None,
    Causal,
    /// The last `size` keys up to the query's own; as a bool mask `[queries, keys]` too.
    Window {
        mask: Array,
        size: i32,
    },
    /// The keys less than `size` from the query's own, on both sides; as a bool mask `[queries, keys]` too.
    Near {
        mask: Array,
        size: i32,
    },
}

/// How scores are made into weights.
pub struct Scores<'a> {
    pub scale: f32,
    /// `cap * tanh(scores / cap)`
    pub softcap: Option<f32>,
    /// `[heads]`: the score of no token
    pub sinks: Option<&'a Array>,
}

/// What positions turn by: either `base` or `table` `[dims / 2]`.
pub struct Turn<'a> {
    pub dims: i32,
    pub traditional: bool,
    pub scale: f32,
    pub base: Option<f32>,
    pub table: Option<&'a Array>,
    /// What is turned is multiplied by this.
    pub factor: f32,
    /// The same for the kernels.
    pub kernel: &'a Arc<kernels::Rope>,
}

impl AttentionMask {
    /// For `n` tokens that follow `before` others, of which a window of that many is seen.
    pub fn new(n: i32, before: i32, window: Option<i32>) -> Result<Self> {
        if n == 1 {
            return Ok(AttentionMask::None);
        }
        let Some(size) = window else {
            return Ok(AttentionMask::Causal);
        };
        let held = before.min(size - 1);
        if held + n <= size {
            return Ok(AttentionMask::Causal);
        }
        let mask = near(n, held, Some(size))?;
        Ok(AttentionMask::Window { mask, size })
    }

    /// For a text of `n` tokens that is seen whole, or each token of it by those less than `window` from it.
    pub fn both_ways(n: i32, window: Option<i32>) -> Result<Self> {
        let Some(size) = window.filter(|&size| size < n) else {
            return Ok(AttentionMask::None);
        };
        let places = ops::arange(0, n)?;
        let apart = ops::subtract(&ops::reshape(&places, &[n, 1])?, &places)?;
        let [low, high] = [-size, size].map(|end| Array::from_i32(&[end]));
        let mask = ops::logical_and(&ops::greater(&apart, &low?)?, &ops::less(&apart, &high?)?)?;
        Ok(AttentionMask::Near { mask, size })
    }

    /// For the CPU's kernels.
    pub fn visible(&self) -> Visible {
        match self {
            AttentionMask::None => Visible::All,
            AttentionMask::Causal => Visible::Causal { window: None },
            AttentionMask::Window { size, .. } => Visible::Causal {
                window: usize::try_from(*size).ok(),
            },
            AttentionMask::Near { size, .. } => Visible::Near {
                window: usize::try_from(*size).unwrap_or(usize::MAX),
            },
        }
    }

    /// For the last `asking` of the queries. None: they see all of the keys.
    fn rows(&self, asking: i32, keys: i32) -> Result<Option<Array>> {
        match self {
            AttentionMask::None => Ok(None),
            // The newest token sees all.
            AttentionMask::Causal if asking == 1 => Ok(None),
            AttentionMask::Causal => near(asking, keys - asking, None).map(Some),
            AttentionMask::Window { mask, .. } | AttentionMask::Near { mask, .. } => {
                let n = mask.dim(0);
                ops::slice(mask, &[n - asking, 0], &[n, mask.dim(1)]).map(Some)
            }
        }
    }
}

/// true where `key <= query` and the query is less than `window` after the key; the queries follow `held` keys.
/// `[n, held + n]`
fn near(n: i32, held: i32, window: Option<i32>) -> Result<Array> {
    let keys = ops::arange(0, held + n)?;
    let queries = ops::reshape(&ops::arange(held, held + n)?, &[n, 1])?;
    let causal = ops::greater_equal(&queries, &keys)?;
    let Some(window) = window else {
        return Ok(causal);
    };
    let near = ops::less(&queries, &ops::add(&keys, &Array::from_i32(&[window])?)?)?;
    ops::logical_and(&causal, &near)
}

/// q `[batch, heads, n, dim]`, k and v of one type `[batch, kv_heads, keys, dim]` → `[batch, n, heads * dim]`
pub fn attention(
    q: &Array,
    k: &Stored,
    v: &Stored,
    mask: &AttentionMask,
    scores: Scores,
) -> Result<Array> {
    if fast::active() {
        let (softcap, sinks) = (scores.softcap, scores.sinks);
        return fast::attention(q, k, v, scores.scale, mask.visible(), softcap, sinks);
    }
    let [batch, heads, asking, dim] = [q.dim(0), q.dim(1), q.dim(2), v.dim()];
    let output = match (k, v) {
        (Stored::Floats(k), Stored::Floats(v)) => float_attention(q, k, v, mask, scores)?,
        (Stored::Packed(k), Stored::Packed(v)) => packed::attention(q, k, v, mask, scores)?,
        _ => return Err(Error::internal("keys and values are not stored alike")),
    };
    // [batch, heads, asking, dim] → [batch, asking, heads * dim]
    let output = ops::transpose(&output, &[0, 2, 1, 3])?;
    ops::reshape(&output, &[batch, asking, heads * dim])
}

/// → `[batch, heads, n, dim]`
fn float_attention(
    q: &Array,
    k: &Array,
    v: &Array,
    mask: &AttentionMask,
    scores: Scores,
) -> Result<Array> {
    let asking = q.dim(2);
    match scores.softcap {
        Some(cap) => capped_attention(q, k, v, mask, (scores.scale, cap)),
        None => {
            let rows;
            let mask = match mask {
                AttentionMask::Causal if asking > 1 => Mask::Causal,
                _ => {
                    rows = mask.rows(asking, k.dim(2))?;
                    rows.as_ref().map_or(Mask::All, Mask::Array)
                }
            };
            ops::scaled_dot_product_attention(q, k, v, scores.scale, mask, scores.sinks)
        }
    }
}

/// Attention whose scores are bounded by a cap, which MLX's own operation does not know: → `[batch, heads, n, dim]`.
fn capped_attention(
    q: &Array,
    k: &Array,
    v: &Array,
    mask: &AttentionMask,
    (scale, cap): (f32, f32),
) -> Result<Array> {
    let [batch, heads, n, dim] = [q.dim(0), q.dim(1), q.dim(2), q.dim(3)];
    let [kv_heads, keys] = [k.dim(1), k.dim(2)];
    let number = |value: f32| Array::scalar(value, q.dtype());
    // Heads that share keys lie in a dimension of their own: [batch, kv_heads, group, n, dim]
    let group = heads / kv_heads.max(1);
    let q = ops::reshape(
        &ops::multiply(q, &number(scale)?)?,
        &[batch, kv_heads, group, n, dim],
    )?;
    let shared = |x: &Array| ops::reshape(x, &[batch, kv_heads, 1, keys, x.dim(3)]);
    let (k, v) = (shared(k)?, shared(v)?);
    let scores = ops::matmul(&q, &ops::transpose(&k, &[0, 1, 2, 4, 3])?)?;
    let scores = softcap(&scores, cap)?;
    let scores = match mask.rows(n, keys)? {
        Some(seen) => {
            let lowest = Array::scalar(lowest(scores.dtype()), scores.dtype())?;
            ops::select(&seen, &scores, &lowest)?
        }
        None => scores,
    };
    let output = ops::matmul(&ops::softmax(&scores, -1)?, &v)?;
    ops::reshape(&output, &[batch, heads, n, v.dim(4)])
}

/// The most negative number of a float type.
fn lowest(dtype: Dtype) -> f32 {
    match dtype {
        Dtype::F16 => half::f16::MIN.to_f32(),
        Dtype::BF16 => half::bf16::MIN.to_f32(),
        _ => f32::MIN,
    }
}

/// `cap * tanh(x / cap)`
pub fn softcap(x: &Array, cap: f32) -> Result<Array> {
    let cap = Array::scalar(cap, x.dtype())?;
    ops::multiply(&ops::tanh(&ops::divide(x, &cap)?)?, &cap)
}

/// `ln(1 + exp(x))`
pub fn softplus(x: &Array) -> Result<Array> {
    ops::logaddexp(x, &Array::scalar(0.0, x.dtype())?)
}

/// x `[batch, heads, tokens, head_dim]`, its first token at position `offset`
pub fn rope(x: &Array, turn: Turn, offset: i32) -> Result<Array> {
    if fast::active() {
        return fast::rope(x, turn.kernel, offset);
    }
    let x = enlarged(x, turn.dims, turn.factor)?;
    ops::rope(
        &x,
        turn.dims,
        turn.traditional,
        turn.base,
        turn.scale,
        offset,
        turn.table,
    )
}

/// The first `dims` elements of x `[batch, heads, tokens, head_dim]` times a factor
fn enlarged(x: &Array, dims: i32, factor: f32) -> Result<Array> {
    if factor == 1.0 {
        return Ok(x.clone());
    }
    let width = x.dim(3);
    let factor = Array::scalar(factor, x.dtype())?;
    let turned = ops::multiply(&ops::columns(x, 0..dims)?, &factor)?;
    match dims < width {
        true => ops::concatenate(&[&turned, &ops::columns(x, dims..width)?], -1),
        false => Ok(turned),
    }
}

/// Queries `[batch, heads, tokens, head_dim]`, the first token at `offset`, each times the factor of its position
pub fn temper(x: &Array, temperature: Temperature, offset: i32) -> Result<Array> {
    if fast::active() {
        return fast::temper(x, temperature, offset);
    }
    let n = x.dim(2);
    let factors: Vec<f32> = (offset..offset + n)
        .map(|position| temperature.factor(position.into()))
        .collect();
    let factors = ops::reshape(&Array::from_f32(&factors)?, &[n, 1])?;
    ops::multiply(x, &ops::astype(&factors, x.dtype())?)
}

/// x + multiplier * y
pub fn add_times(x: &Array, y: &Array, multiplier: f32) -> Result<Array> {
    if multiplier == 1.0 {
        return ops::add(x, y);
    }
    if fast::active() && x.dtype() == y.dtype() {
        return fast::add_times(x, y, multiplier);
    }
    let multiplier = Array::scalar(multiplier, y.dtype())?;
    ops::add(x, &ops::multiply(y, &multiplier)?)
}

/// f(gate) * up, or what an activation makes of both
pub fn gated(gate: &Array, up: &Array, activation: Activation) -> Result<Array> {
    if fast::active() && gate.dtype() == up.dtype() {
        return fast::gated(gate, up, activation);
    }
    match activation {
        Activation::Silu => compiled::fused([gate, up], swiglu),
        Activation::GeluTanh => compiled::fused([gate, up], geglu_tanh),
        Activation::SwigluClamped { alpha, limit } => swiglu_clamped(gate, up, alpha, limit),
        Activation::Gelu | Activation::Relu2 | Activation::Xielu { .. } => {
            ops::multiply(&activated(gate, activation)?, up)
        }
    }
}

/// f(x), of an activation that needs no gate
pub fn activated(x: &Array, activation: Activation) -> Result<Array> {
    if fast::active() {
        return fast::activated(x, activation);
    }
    let number = |value: f32| Array::scalar(value, x.dtype());
    match activation {
        Activation::Silu => ops::multiply(x, &ops::sigmoid(x)?),
        Activation::GeluTanh => gelu_tanh(x),
        Activation::Gelu => {
            let root = number(std::f32::consts::FRAC_1_SQRT_2)?;
            let sum = ops::add(&number(1.0)?, &ops::erf(&ops::multiply(x, &root)?)?)?;
            ops::multiply(&ops::multiply(&number(0.5)?, x)?, &sum)
        }
        Activation::Relu2 => {
            let positive = ops::maximum(x, &number(0.0)?)?;
            ops::multiply(&positive, &positive)
        }
        Activation::Xielu {
            alpha_p,
            alpha_n,
            beta,
            eps,
        } => {
            let above = ops::multiply(&number(alpha_p)?, &ops::multiply(x, x)?)?;
            let below = ops::expm1(&ops::minimum(x, &number(eps)?)?)?;
            let below = ops::multiply(&ops::subtract(&below, x)?, &number(alpha_n)?)?;
            let curve = ops::select(&ops::greater(x, &number(0.0)?)?, &above, &below)?;
            ops::add(&curve, &ops::multiply(&number(beta)?, x)?)
        }
        _ => Err(Error::internal("an activation without its gate")),
    }
}

/// silu(gate) * up
fn swiglu([gate, up]: &[Array; 2]) -> Result<Array> {
    ops::multiply(&ops::multiply(gate, &ops::sigmoid(gate)?)?, up)
}

/// gelu(gate) * up
fn geglu_tanh([gate, up]: &[Array; 2]) -> Result<Array> {
    ops::multiply(&gelu_tanh(gate)?, up)
}

/// 0.5 x (1 + tanh(√(2/π) (x + 0.044715 x³)))
fn gelu_tanh(x: &Array) -> Result<Array> {
    let number = |value: f32| Array::scalar(value, x.dtype());
    let cube = ops::power(x, &number(3.0)?)?;
    let inner = ops::add(x, &ops::multiply(&number(0.044715)?, &cube)?)?;
    let tanh = ops::tanh(&ops::multiply(
        &number((2.0 / std::f32::consts::PI).sqrt())?,
        &inner,
    )?)?;
    let half = ops::multiply(&number(0.5)?, x)?;
    ops::multiply(&half, &ops::add(&number(1.0)?, &tanh)?)
}

fn swiglu_clamped(gate: &Array, up: &Array, alpha: f32, limit: f32) -> Result<Array> {
    let number = |value: f32| Array::scalar(value, gate.dtype());
    let gate = ops::minimum(gate, &number(limit)?)?;
    let up = ops::clip(up, &number(-limit)?, &number(limit)?)?;
    let sigmoid = ops::sigmoid(&ops::multiply(&number(alpha)?, &gate)?)?;
    let up = ops::add(&up, &number(1.0)?)?;
    ops::multiply(&up, &ops::multiply(&gate, &sigmoid)?)
}

/// x `[n, in]` by dense matrices w `[experts, out, in]`, of which `chosen` `[n, k]` names some for each row → `[n, k, out]`.
/// `sorted`: they come in order.
pub fn experts(x: &Array, w: &Array, chosen: &Array, sorted: bool) -> Result<Array> {
    if fast::products(x.dtype()) && w.shape().len() == 3 {
        let rows = ops::reshape(x, &[x.dim(0), 1, x.dim(1)])?;
        return fast::expert_linear(&rows, w, chosen);
    }
    let rows = ops::reshape(x, &[x.dim(0), 1, 1, x.dim(1)])?;
    // MLX multiplies 16-bit floats so on a GPU only.
    let dtype = x.dtype().wider(w.dtype());
    let own = if on_gpu() { dtype } else { Dtype::F32 };
    let w = ops::transpose(&ops::astype(w, own)?, &[0, 2, 1])?;
    let y = ops::gather_mm(&ops::astype(&rows, own)?, &w, chosen, sorted)?;
    let shape = [chosen.dim(0), chosen.dim(1), y.dim(-1)];
    ops::astype(&ops::reshape(&y, &shape)?, dtype)
}

/// Whether rope and attention take a batch of several.
pub fn takes_batches() -> bool {
    !fast::active()
}

/// Whether products of x of this type are the CPU's kernels'.
pub fn on_kernels(x: Dtype) -> bool {
    fast::products(x)
}
