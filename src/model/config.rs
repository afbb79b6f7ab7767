//! The one description of a decoder-only transformer that every family is read into.

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
    /// Bytes of keys and values after `tokens` tokens, each number of `element` bytes; `window` as a session has it.
    pub fn kv_bytes(&self, tokens: u32, window: Option<u32>, element: u64) -> u64 {
        let one = 2 * self.attention.kv_heads as u64 * self.attention.head_dim as u64 * element;
        let held = |layer: &Layer| match layer
            .window
            .and_then(|own| u32::try_from(own).ok())
            .or(window)
        {
            Some(window) => tokens.min(window),
            None => tokens,
        };
        self.layers
            .iter()
            .map(|layer| u64::from(held(layer)) * one)
            .sum()
    }
}
