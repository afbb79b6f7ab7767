//! The modules of a decoder that adapters can reach, by mlx-lm's names.

use super::config::{DecoderConfig, NormPlacement};
use crate::load::ModuleShape;

/// A module's place in an [`AdapterSet`](super::adapter::AdapterSet).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Site(pub(super) usize);

impl Site {
    pub const EMBED_TOKENS: Site = Site(0);
    pub const NORM: Site = Site(1);
    pub const LM_HEAD: Site = Site(2);

    pub fn block(layer: usize, module: BlockModule) -> Site {
        Site(3 + layer * BlockModule::NAMES.len() + module as usize)
    }

    /// The block it is in; none: outside of them.
    pub fn layer(self) -> Option<usize> {
        Some(self.0.checked_sub(3)? / BlockModule::NAMES.len())
    }

    /// A number that no other site of the model has.
    pub fn number(self) -> u64 {
        self.0 as u64
    }
}

/// The modules of one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockModule {
    QProj,
    KProj,
    VProj,
    OProj,
    GateProj,
    UpProj,
    DownProj,
    QNorm,
    KNorm,
    InputLayernorm,
    PostAttentionLayernorm,
    PreFeedforwardLayernorm,
    PostFeedforwardLayernorm,
}

impl BlockModule {
    const NAMES: [(BlockModule, &'static str); 13] = [
        (BlockModule::QProj, "self_attn.q_proj"),
        (BlockModule::KProj, "self_attn.k_proj"),
        (BlockModule::VProj, "self_attn.v_proj"),
        (BlockModule::OProj, "self_attn.o_proj"),
        (BlockModule::GateProj, "mlp.gate_proj"),
        (BlockModule::UpProj, "mlp.up_proj"),
        (BlockModule::DownProj, "mlp.down_proj"),
        (BlockModule::QNorm, "self_attn.q_norm"),
        (BlockModule::KNorm, "self_attn.k_norm"),
        (BlockModule::InputLayernorm, "input_layernorm"),
        (
            BlockModule::PostAttentionLayernorm,
            "post_attention_layernorm",
        ),
        (
            BlockModule::PreFeedforwardLayernorm,
            "pre_feedforward_layernorm",
        ),
        (
            BlockModule::PostFeedforwardLayernorm,
            "post_feedforward_layernorm",
        ),
    ];
}

#[derive(Clone, Debug, PartialEq)]
pub struct Module {
    /// Without a prefix: `layers.0.self_attn.q_proj`, `embed_tokens`, `norm`, `lm_head`.
    pub name: String,
    pub site: Site,
    pub shape: ModuleShape,
}

/// All modules, in the order of computation. The output layer is one also where it is the embedding: an adapter can
/// change it alone.
pub fn modules(config: &DecoderConfig) -> Vec<Module> {
    let (hidden, vocab) = (config.hidden_size, config.vocab_size);
    let module = |name: &str, site, shape| Module {
        name: name.to_owned(),
        site,
        shape,
    };
    let mut all = vec![module(
        "embed_tokens",
        Site::EMBED_TOKENS,
        ModuleShape::Embedding {
            vocab,
            dims: hidden,
        },
    )];
    for layer in 0..config.layers.len() {
        for (kind, name) in BlockModule::NAMES {
            if let Some(shape) = in_block(config, kind) {
                let name = format!("layers.{layer}.{name}");
                all.push(module(&name, Site::block(layer, kind), shape));
            }
        }
    }
    all.push(module(
        "norm",
        Site::NORM,
        ModuleShape::Norm { dims: hidden },
    ));
    let shape = ModuleShape::Linear {
        input: hidden,
        output: vocab,
        bias: false,
    };
    all.push(module("lm_head", Site::LM_HEAD, shape));
    all
}

/// What a block of this model has there.
fn in_block(config: &DecoderConfig, module: BlockModule) -> Option<ModuleShape> {
    use BlockModule::*;
    let (hidden, inner) = (config.hidden_size, config.mlp.intermediate_size);
    let attention = &config.attention;
    let (q, kv) = (
        attention.heads * attention.head_dim,
        attention.kv_heads * attention.head_dim,
    );
    let linear = |output, input, bias| {
        Some(ModuleShape::Linear {
            input,
            output,
            bias,
        })
    };
    let norm = |dims, there: bool| there.then_some(ModuleShape::Norm { dims });
    let sandwich = config.norm_placement == NormPlacement::Sandwich;
    match module {
        QProj => linear(q, hidden, attention.qkv_bias),
        KProj | VProj => linear(kv, hidden, attention.qkv_bias),
        OProj => linear(hidden, q, attention.o_bias),
        GateProj | UpProj => linear(inner, hidden, config.mlp.bias),
        DownProj => linear(hidden, inner, config.mlp.bias),
        QNorm | KNorm => norm(attention.head_dim, attention.qk_norm),
        InputLayernorm | PostAttentionLayernorm => norm(hidden, true),
        PreFeedforwardLayernorm | PostFeedforwardLayernorm => norm(hidden, sandwich),
    }
}
