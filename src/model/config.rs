//! The one description of a decoder-only transformer that every family is read into.

use super::extent::Extent;

/// Sizes are numbers of elements; all were checked by the family that read them.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderConfig {
    pub hidden_size: i32,
    pub vocab_size: i32,
    /// Tokens the model was made for (`max_position_embeddings`).
    pub context: u32,
    pub norm_eps: f32,
    /// Gemma stores norm weights minus one.
    pub norm_plus_one: bool,
    pub norm_placement: NormPlacement,
    /// What the embeddings are multiplied by, rounded to bf16 first.
    pub embed_scale: Option<f32>,
    /// Whether the embedding is also the output layer; `None`: it is when there is no `lm_head` in the files.
    pub tie_word_embeddings: Option<bool>,
    pub attention: AttentionConfig,
    pub mlp: MlpConfig,
    pub layers: Vec<Layer>,
    /// In float16 the residual is added in f32 and clipped, since gemma's overflows.
    pub clip_residual: bool,
    /// Where the decoder's tensors are found: the first prefix pair whose embedding exists.
    pub names: &'static [Names],
    /// Tensors with these words in their name belong to parts that are not run (a vision tower).
    pub ignored: &'static [&'static str],
}

/// Prefixes of tensor names: `{body}layers.0…`, `{head}lm_head…`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Names {
    pub body: &'static str,
    pub head: &'static str,
}

#[derive(Clone, Debug, PartialEq)]
pub struct AttentionConfig {
    pub heads: i32,
    pub kv_heads: i32,
    pub head_dim: i32,
    pub scale: f32,
    pub qkv_bias: bool,
    pub o_bias: bool,
    /// RMS norm of each query and key head before the rotation.
    pub qk_norm: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct MlpConfig {
    pub intermediate_size: i32,
    pub bias: bool,
    pub activation: Activation,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Activation {
    Silu,
    GeluTanh,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum NormPlacement {
    /// Before attention and before the MLP.
    Pre,
    /// Before and after each (gemma).
    Sandwich,
}

/// What differs from layer to layer.
#[derive(Clone, Debug, PartialEq)]
pub struct Layer {
    pub rope: Rope,
    /// Tokens that a query may look back on, itself included; `None` = all.
    pub window: Option<i32>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    pub base: f32,
    /// Rotates neighbouring elements instead of halves.
    pub traditional: bool,
    pub scaling: RopeScaling,
}

#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    None,
    /// Positions are divided by this.
    Linear(f32),
    Llama3 {
        factor: f32,
        low_freq_factor: f32,
        high_freq_factor: f32,
        original_context: f32,
    },
}

impl DecoderConfig {
    /// Empty caches of one session; `window` and `keep` turn the full ones into rotating ones.
    pub fn extents(&self, window: Option<i32>, keep: i32) -> Vec<Extent> {
        let extent = |layer: &Layer| match (layer.window, window) {
            (Some(size), _) => Extent::rotating(size, 0),
            (None, Some(size)) => Extent::rotating(size, keep),
            (None, None) => Extent::full(),
        };
        self.layers.iter().map(extent).collect()
    }

    /// Weights of all blocks' linear layers.
    pub fn block_parameters(&self) -> u64 {
        let size = |n: i32| u64::try_from(n).unwrap_or(0);
        let heads = 2 * size(self.attention.heads) + 2 * size(self.attention.kv_heads);
        let block = heads * size(self.attention.head_dim) + 3 * size(self.mlp.intermediate_size);
        self.layers.len() as u64 * size(self.hidden_size) * block
    }
}
