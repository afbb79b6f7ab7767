//! A block of a decoder, as a list of halves that each add something to x. What is computed in one call is what the parts
//! give one by one, bit by bit, without what it costs to call them one by one.

mod attend;
mod compute;
mod map;
mod moe;
mod segments;
mod texts;

use super::attention::{Texts, Visible};
use super::experts::ExpertMatrix;
use super::float::Floats;
use super::gated::Activation;
use super::layout::Packed;
use super::lowrank::LowRank;
use super::packed_heads::StoredMut;
use super::rope::Rope;
use super::routing::Routing;
use super::temperature::Temperature;
use std::ops::Range;
use std::sync::Arc;

/// Halves one after the other, at most one of them with attention. `M` is what a matrix is, `V` what other weights are.
pub struct Block<M, V> {
    pub halves: Vec<Half<M, V>>,
}

/// `out_norm(x + multiplier * post_norm(part(norm(x))))`
pub struct Half<M, V> {
    pub norm: Option<Norm<V>>,
    pub part: Part<M, V>,
    pub post_norm: Option<Norm<V>>,
    pub multiplier: f32,
    pub out_norm: Option<Norm<V>>,
}

/// RMS norm, or layer norm.
pub struct Norm<V> {
    /// `[width]`
    pub weight: V,
    /// `[width]`, of a layer norm
    pub bias: Option<V>,
    pub eps: f32,
    /// A layer norm, which takes the mean off first.
    pub layer: bool,
}

/// x `[n, hidden]` → the same shape. Parts by their names in mlx-lm.
// Blocks are few, and a part behind a pointer would be one more allocation in each step.
#[allow(clippy::large_enum_variant)]
pub enum Part<M, V> {
    Attention(Attention<M, V>),
    Mlp(Mlp<M, V>),
    Moe(Moe<M, V>),
}

pub struct Attention<M, V> {
    pub sizes: AttentionSizes,
    pub projections: Projections<M, V>,
    /// `[head_dim]`, of each head; or as wide as the projection, of all of it
    pub q_norm: Option<Norm<V>>,
    /// The same, of the keys.
    pub k_norm: Option<Norm<V>>,
    /// `[heads]`, see `AttentionOptions`
    pub sinks: Option<V>,
    /// `[hidden, heads * head_dim]`
    pub o_proj: Linear<M, V>,
}

/// What attention is beside its weights.
#[derive(Clone)]
pub struct AttentionSizes {
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    /// Of the scores.
    pub scale: f32,
    /// None where positions are not told.
    pub rope: Option<Arc<Rope>>,
    /// See `AttentionOptions`.
    pub softcap: Option<f32>,
    /// Of the queries, after the rope.
    pub temperature: Option<Temperature>,
}

#[allow(clippy::large_enum_variant)]
pub enum Projections<M, V> {
    Apart {
        /// `[heads * head_dim, hidden]`
        q_proj: Linear<M, V>,
        /// `[kv_heads * head_dim, hidden]`
        k_proj: Linear<M, V>,
        /// `[kv_heads * head_dim, hidden]`
        v_proj: Linear<M, V>,
    },
    /// `[(heads + 2 * kv_heads) * head_dim, hidden]`: all queries, then keys, then values
    Fused(Linear<M, V>),
}

pub struct Mlp<M, V> {
    /// `[intermediate, hidden]` each
    pub gate_up: GateUp<Linear<M, V>>,
    /// `[hidden, intermediate]`
    pub down_proj: Linear<M, V>,
    pub activation: Activation,
}

/// What comes before an MLP's activation.
pub enum GateUp<L> {
    Apart {
        gate_proj: L,
        up_proj: L,
    },
    /// Rows of the gate, then as many of up.
    Fused(L),
    /// Without a gate.
    UpAlone(L),
}

/// A mixture of experts.
pub struct Moe<M, V> {
    /// `[experts, hidden]`
    pub router: Linear<M, V>,
    pub routing: Routing<V>,
    pub experts: Experts<M, V>,
    pub shared: Option<Shared<M, V>>,
}

/// The MLPs that rows are routed to.
pub struct Experts<M, V> {
    /// `[intermediate, hidden]` each, of each expert
    pub gate_up: GateUp<ExpertLinear<M, V>>,
    /// `[hidden, intermediate]` of each expert
    pub down_proj: ExpertLinear<M, V>,
    pub activation: Activation,
}

/// The same layer of every expert.
pub struct ExpertLinear<M, V> {
    pub weight: M,
    /// `[experts, out]`
    pub bias: Option<V>,
}

/// An expert that every row has.
pub struct Shared<M, V> {
    pub mlp: Mlp<M, V>,
    /// `[1, hidden]`: what the MLP gives is multiplied by the sigmoid of this.
    pub gate: Option<Linear<M, V>>,
}

/// `x Wᵀ + bias + Σ scale (x A) B`
pub struct Linear<M, V> {
    pub weight: M,
    /// `[out]`
    pub bias: Option<V>,
    pub low: Vec<LowRank<V>>,
}

/// A weight in memory.
pub enum Matrix<'a> {
    /// `[out, in]`
    Dense(Floats<'a>),
    /// `[out, in]`
    Packed(Packed<'a>),
    /// `[experts, out, in]`: of an `ExpertLinear`, and there alone
    Experts(ExpertMatrix<'a>),
}

/// The keys and values that a block's queries see, with room for the new ones among them.
pub struct Past<'a> {
    /// `[kv_heads, tokens, head_dim]`
    pub keys: StoredMut<'a>,
    /// `[kv_heads, tokens, head_dim]`
    pub values: StoredMut<'a>,
    /// Where the new tokens' go.
    pub at: usize,
    /// The first new token's position.
    pub offset: i32,
    /// The new tokens go in one at a time, each of which sees what was there when it came: behind the end of this the next one goes to
    /// its start. Of `Segment`s.
    pub ring: Option<Range<usize>>,
    pub visible: Visible,
}

impl Past<'_> {
    /// Where the token goes that comes so many behind the first new one; in a ring that is full, in the place of another.
    fn place(&self, token: usize) -> usize {
        let at = self.at + token;
        match &self.ring {
            Some(ring) if at >= ring.end => ring.start + (at - ring.end) % ring.len().max(1),
            _ => at,
        }
    }

    /// Tokens from the front on that the one sees that comes so many behind the first new one and goes in alone.
    fn seen(&self, token: usize) -> usize {
        let all = self.keys.tokens();
        let position = usize::try_from(self.offset).unwrap_or(0) + token;
        all.min(position + 1)
    }
}

/// The rows of one session in a pass of several.
pub struct Segment<'a> {
    pub rows: usize,
    pub past: Past<'a>,
}

/// What a block's attention sees.
enum Sees<'s, 'a> {
    /// There is none.
    Nothing,
    Past(&'s mut Past<'a>),
    Segments(&'s mut [Segment<'a>]),
    /// The rows are texts of their own.
    Texts(&'s Texts<'s>),
}

impl<'a> Sees<'_, 'a> {
    fn again(&mut self) -> Sees<'_, 'a> {
        match self {
            Sees::Nothing => Sees::Nothing,
            Sees::Past(past) => Sees::Past(past),
            Sees::Segments(segments) => Sees::Segments(segments),
            Sees::Texts(texts) => Sees::Texts(texts),
        }
    }
}

impl<M, V> Half<M, V> {
    fn attends(&self) -> bool {
        matches!(self.part, Part::Attention(_))
    }
}

impl Matrix<'_> {
    /// Outputs and inputs; of one expert where there are several.
    pub(super) fn shape(&self) -> (usize, usize) {
        match self {
            Matrix::Dense(weight) => (weight.rows(), weight.width()),
            Matrix::Packed(packed) => (packed.layout().rows(), packed.layout().inputs()),
            Matrix::Experts(experts) => experts.shape(),
        }
    }
}
