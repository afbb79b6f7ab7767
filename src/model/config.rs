//! The one description of a decoder-only transformer that every family is read into: blocks, each a list of halves.

use super::parts::attention::AttentionConfig;
use super::parts::mla::MlaConfig;
use super::parts::mlp::MlpConfig;
use super::parts::moe::MoeConfig;

/// Sizes are numbers of elements; all were checked by the family that read them.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderConfig {
    pub hidden_size: i32,
    pub vocab_size: i32,
    /// Tokens the model was made for (`max_position_embeddings`).
    pub context: u32,
    pub embed: EmbedConfig,
    pub blocks: Vec<BlockConfig>,
    /// Before the output layer.
    pub norm: NormConfig,
    /// Whether the embedding is also the output layer; `None`: it is when there is no `lm_head` in the files.
    pub tie_word_embeddings: Option<bool>,
    pub logits: LogitsConfig,
    /// In float16 the residual is added in f32 and clipped, since gemma's overflows.
    pub clip_residual: bool,
    /// Where the decoder's tensors are found: the first prefix pair whose embedding exists.
    pub names: &'static [Names],
    /// Tensors with these words in their name belong to parts that are not run (a vision tower).
    pub ignored: Vec<String>,
}

/// Prefixes of tensor names: `{body}layers.0…`, `{head}lm_head…`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Names {
    pub body: &'static str,
    pub head: &'static str,
}

/// What becomes of the embeddings before the first block.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EmbedConfig {
    /// What they are multiplied by.
    pub scale: Option<f32>,
    /// The eps of an RMS norm without a weight.
    pub norm: Option<f32>,
}

/// What becomes of the output layer's numbers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LogitsConfig {
    /// What they are multiplied by.
    pub scale: Option<f32>,
    /// `cap * tanh(logits / cap)`
    pub softcap: Option<f32>,
}

/// An RMS norm.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NormConfig {
    /// Inside of its block, or outside of all.
    pub name: &'static str,
    pub eps: f32,
    /// Gemma stores norm weights minus one.
    pub plus_one: bool,
}

/// Halves, one after the other; two make a usual block.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockConfig {
    pub halves: Vec<HalfConfig>,
}

/// `x + multiplier * post_norm(part(norm(x)))`
#[derive(Clone, Debug, PartialEq)]
pub struct HalfConfig {
    pub norm: Option<NormConfig>,
    pub part: PartConfig,
    pub post_norm: Option<NormConfig>,
    /// 1 where a family has none.
    pub multiplier: f32,
}

#[derive(Clone, Debug, PartialEq)]
pub enum PartConfig {
    Attention(AttentionConfig),
    Mla(MlaConfig),
    Mlp(MlpConfig),
    Moe(MoeConfig),
}

impl HalfConfig {
    /// A part with a norm before it.
    pub fn after(norm: NormConfig, part: PartConfig) -> Self {
        HalfConfig {
            norm: Some(norm),
            part,
            post_norm: None,
            multiplier: 1.0,
        }
    }

    /// And with one behind it.
    pub fn then(self, norm: NormConfig) -> Self {
        HalfConfig {
            post_norm: Some(norm),
            ..self
        }
    }
}

impl DecoderConfig {
    /// The attention of the blocks that have one, in order.
    pub fn attentions(&self) -> impl Iterator<Item = &AttentionConfig> {
        let halves = self.blocks.iter().flat_map(|block| &block.halves);
        halves.filter_map(|half| match &half.part {
            PartConfig::Attention(attention) => Some(attention),
            _ => None,
        })
    }

    /// The attention over latents of the blocks that have one, in order.
    pub fn latents(&self) -> impl Iterator<Item = &MlaConfig> {
        let halves = self.blocks.iter().flat_map(|block| &block.halves);
        halves.filter_map(|half| match &half.part {
            PartConfig::Mla(mla) => Some(mla),
            _ => None,
        })
    }

    /// Weights that a token is multiplied with in all blocks.
    pub fn block_parameters(&self) -> u64 {
        let hidden = u64::try_from(self.hidden_size).unwrap_or(0);
        let halves = self.blocks.iter().flat_map(|block| &block.halves);
        halves
            .map(|half| match &half.part {
                PartConfig::Attention(attention) => attention.parameters(hidden),
                PartConfig::Mla(mla) => mla.parameters(hidden),
                PartConfig::Mlp(mlp) => mlp.parameters(hidden),
                PartConfig::Moe(moe) => moe.parameters(hidden),
            })
            .sum()
    }
}
