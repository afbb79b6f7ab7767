//! The one description of a transformer that every family is read into, decoders and encoders alike: blocks, each a list of
//! halves.

use super::parts::attention::AttentionConfig;
use super::parts::beside::BesideConfig;
use super::parts::conv::ConvConfig;
use super::parts::delta::DeltaConfig;
use super::parts::kimi::KimiConfig;
use super::parts::mamba::MambaConfig;
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
    /// Behind the blocks.
    pub norm: Option<NormConfig>,
    /// Tokens see those behind them, too: what comes out stands for texts, and no token is generated.
    pub both_ways: bool,
    /// Whether the embedding is also the output layer; `None`: it is when there is no `lm_head` in the files.
    pub tie_word_embeddings: Option<bool>,
    pub logits: LogitsConfig,
    /// In float16 the residual is added in f32 and clipped, since gemma's overflows.
    pub clip_residual: bool,
    /// Where the decoder's tensors are found: the first prefix pair whose embedding exists.
    pub names: &'static [Names],
    /// Tensors with these words in their name belong to parts that are not run (a vision tower).
    pub ignored: Vec<String>,
    /// Names of the blocks' norms whose weights are stored minus one, as that outside of the blocks is, in folders that were
    /// not converted to MLX's layout, which the convolutions' shape shows.
    pub unconverted_norms: &'static [&'static str],
    /// Where the folder has its tensors.
    pub ahead: Option<AheadConfig>,
}

/// A head that says what comes behind the next token: of what came out of the last block for a token and the embedding of the next one,
/// each through a norm, a product makes what goes into a block of its own; the embedding and the output layer are the model's.
#[derive(Clone, Debug, PartialEq)]
pub struct AheadConfig {
    /// Its tensors are beside the blocks, not beside the output layer.
    pub in_body: bool,
    /// Of all its tensors.
    pub path: String,
    pub embedding_norm: NormConfig,
    pub hidden_norm: NormConfig,
    /// The name of the product, `[hidden, 2 * hidden]`: of the embedding, and what came out.
    pub project: &'static str,
    /// Of the block's tensors, behind `path`.
    pub block_path: &'static str,
    pub block: BlockConfig,
    /// Behind the block.
    pub norm: NormConfig,
    /// What came out is taken behind the norm, the model's or its own.
    pub normed: bool,
}

/// Of tensors: `{body}{layers}0…`, `{body}{embedding}…`, `{head}lm_head…`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Names {
    pub body: &'static str,
    pub head: &'static str,
    pub embedding: &'static str,
    pub layers: &'static str,
}

/// What becomes of the embeddings before the first block.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EmbedConfig {
    /// What they are multiplied by.
    pub scale: Option<f32>,
    /// The eps of an RMS norm without a weight.
    pub norm: Option<f32>,
    /// Rows that are added, by the tokens' positions in their text.
    pub positions: Option<PositionsConfig>,
    /// The name of the table of token types, and how many it has. All tokens are of the first.
    pub types: Option<(&'static str, i32)>,
    /// Of what was added up.
    pub sum_norm: Option<NormConfig>,
    /// What each block gets of the tokens beside.
    pub per_layer: Option<PerLayerConfig>,
    /// Rows go through the blocks in several versions side by side.
    pub streams: Option<StreamsConfig>,
}

/// A table of learned positions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PositionsConfig {
    pub name: &'static str,
    /// Its rows.
    pub count: i32,
    /// The row of a text's first token.
    pub first: i32,
}

/// Versions of each row, of which a block computes one and corrects all by it (AltUp).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StreamsConfig {
    pub count: i32,
    /// The one that blocks compute.
    pub active: i32,
    /// The bound of the numbers that versions are mixed by.
    pub clip: Option<f32>,
    /// Whether what opens the block's own embeddings is multiplied by numbers of its own.
    pub scaled: bool,
    /// Of the small product beside attention.
    pub laurel_rank: i32,
    /// Of the block's own embeddings.
    pub per_layer: i32,
    pub eps: f32,
}

/// Embeddings of their own for each block, and what the others become for it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PerLayerConfig {
    /// Tokens beyond have those of token 0.
    pub vocab: i32,
    /// Of one block.
    pub width: i32,
    pub eps: f32,
}

/// What becomes of the output layer's numbers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LogitsConfig {
    /// What they are multiplied by.
    pub scale: Option<f32>,
    /// `cap * tanh(logits / cap)`
    pub softcap: Option<f32>,
}

/// An RMS norm, or a layer norm.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NormConfig {
    /// Inside of its block, or outside of all.
    pub name: &'static str,
    pub eps: f32,
    /// Gemma stores norm weights minus one.
    pub plus_one: bool,
    /// A layer norm: the mean is taken off first.
    pub layer: bool,
    /// Of a layer norm.
    pub bias: bool,
}

/// Halves, one after the other; two make a usual block.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockConfig {
    pub halves: Vec<HalfConfig>,
    /// The name of a number that what comes out is multiplied by.
    pub scalar: Option<&'static str>,
    /// Its halves compute one of several versions of each row; the first half has a small product beside it.
    pub streams: Option<StreamsConfig>,
}

/// `out_norm(x + multiplier * post_norm(part(norm(x))))`
#[derive(Clone, Debug, PartialEq)]
pub struct HalfConfig {
    pub norm: Option<NormConfig>,
    pub part: PartConfig,
    pub post_norm: Option<NormConfig>,
    /// 1 where a family has none.
    pub multiplier: f32,
    /// Of the sum.
    pub out_norm: Option<NormConfig>,
}

// Blocks are few.
#[allow(clippy::large_enum_variant)]
#[derive(Clone, Debug, PartialEq)]
pub enum PartConfig {
    Attention(AttentionConfig),
    Conv(ConvConfig),
    Delta(DeltaConfig),
    Kimi(KimiConfig),
    Mamba(MambaConfig),
    Mla(MlaConfig),
    Mlp(MlpConfig),
    Moe(MoeConfig),
    Beside(BesideConfig),
    /// Adds the block's own embeddings of the tokens, of this width.
    PerLayer {
        width: i32,
    },
}

impl BlockConfig {
    pub fn of(halves: Vec<HalfConfig>) -> Self {
        BlockConfig {
            halves,
            scalar: None,
            streams: None,
        }
    }
}

impl HalfConfig {
    /// A part with a norm before it.
    pub fn after(norm: NormConfig, part: PartConfig) -> Self {
        HalfConfig {
            norm: Some(norm),
            part,
            post_norm: None,
            multiplier: 1.0,
            out_norm: None,
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
        let streams = self.blocks.iter().filter_map(|block| block.streams);
        let halves = self.blocks.iter().flat_map(|block| &block.halves);
        halves
            .map(|half| match &half.part {
                PartConfig::Attention(attention) => attention.parameters(hidden),
                PartConfig::Conv(conv) => conv.parameters(hidden),
                PartConfig::Delta(delta) => delta.parameters(hidden),
                PartConfig::Kimi(kimi) => kimi.parameters(hidden),
                PartConfig::Mamba(mamba) => mamba.parameters(hidden),
                PartConfig::Mla(mla) => mla.parameters(hidden),
                PartConfig::Mlp(mlp) => mlp.parameters(hidden),
                PartConfig::Moe(moe) => moe.parameters(hidden),
                PartConfig::Beside(beside) => beside.parameters(hidden),
                PartConfig::PerLayer { width } => 2 * hidden * u64::try_from(*width).unwrap_or(0),
            })
            .chain(streams.map(|streams| streams.parameters(hidden)))
            .sum()
    }
}
