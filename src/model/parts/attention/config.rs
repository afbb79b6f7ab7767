//! What families say of their attention.

use crate::mlx::nn::Temperature;
use crate::model::rope::Rope;

#[derive(Clone, Debug, PartialEq)]
pub struct AttentionConfig {
    pub names: AttentionNames,
    pub heads: i32,
    pub kv_heads: i32,
    pub head_dim: i32,
    /// Of the scores.
    pub scale: f32,
    /// The scores' bound: `cap * tanh(scores / cap)`.
    pub softcap: Option<f32>,
    /// Each head has a score that belongs to no token.
    pub sinks: bool,
    /// One `qkv_proj`: the rows of queries, keys and values one after the other.
    pub fused: bool,
    /// No `v_proj`: values are what `k_proj` gives.
    pub values_are_keys: bool,
    /// The eps of an RMS norm of each value head, without weights.
    pub value_norm: Option<f32>,
    /// The block whose keys and values it sees, in place of its own.
    pub keys_of: Option<usize>,
    /// Where it sees another's, folders may have its own all the same, which nothing computes with: they are saved as they were,
    /// and adapters may name them.
    pub idle_keys: bool,
    pub qkv_bias: bool,
    pub o_bias: bool,
    pub qk_norm: Option<QkNorm>,
    /// None: positions do not show.
    pub rope: Option<Rope>,
    /// Tokens that a query may look back on, itself included, and as far ahead where tokens see both ways; `None` = all.
    pub window: Option<i32>,
    pub gate: Option<OutputGate>,
    pub temperature: Option<Temperature>,
}

/// Where families do not agree.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionNames {
    /// Inside of its block.
    pub part: &'static str,
    pub q_proj: &'static str,
    pub k_proj: &'static str,
    pub v_proj: &'static str,
    /// All three in one.
    pub qkv_proj: &'static str,
    pub o_proj: &'static str,
    pub q_norm: &'static str,
    pub k_norm: &'static str,
}

impl AttentionNames {
    pub const USUAL: AttentionNames = AttentionNames {
        part: "self_attn",
        q_proj: "q_proj",
        k_proj: "k_proj",
        v_proj: "v_proj",
        qkv_proj: "qkv_proj",
        o_proj: "o_proj",
        q_norm: "q_norm",
        k_norm: "k_norm",
    };
}

/// RMS norms of queries and keys before they are turned.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QkNorm {
    pub eps: f32,
    pub plus_one: bool,
    pub over: QkNormOver,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QkNormOver {
    /// Each head.
    Heads,
    /// Each head, without weights.
    BareHeads,
    /// All heads of a token together.
    Projection,
}

/// What the heads' output is multiplied by, made of the same rows as the queries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputGate {
    /// `gate_proj` through a sigmoid, for each number.
    Sigmoid,
    /// `g_proj` through a softplus, for each head.
    Softplus,
    /// Through a sigmoid, for each number: behind the rows of each head's queries come as many of its gate.
    InQueries,
}
