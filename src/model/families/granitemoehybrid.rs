//! Granite 4: Mamba 2 or attention, then an MLP or experts beside one, with granite's multipliers.

use super::experts::{self, Keys};
use super::lfm2::taps;
use super::nemotron_h::{checked, step_limits};
use super::{granite, ropes, shared};
use crate::error::Result;
use crate::load::Object;
use crate::mlx::nn::{Activation, Score};
use crate::model::config::{DecoderConfig, PartConfig};
use crate::model::parts::attention::AttentionConfig;
use crate::model::parts::mamba::MambaConfig;
use crate::model::parts::mlp::{MlpConfig, MlpShape};
use crate::model::parts::moe::{MoeConfig, SharedConfig};
use crate::model::plan::{ExpertNames, Fused};

/// The halves of an MLP, or of all experts, in one.
const INPUT: &str = "input_linear";
const OUTPUT: &str = "output_linear";

pub fn read(config: &Object) -> Result<DecoderConfig> {
    let eps = shared::norm_eps(config, None)?;
    let count = shared::layer_count(config, None)?;
    let kinds = shared::layer_kinds(config, count, ["attention", "mamba"])?;
    let missing = || config.wrong("layer_types", "a list of \"attention\" and \"mamba\"");
    let kinds = kinds.ok_or_else(missing)?;
    let attention = attention(config)?;
    let mamba = match kinds.contains(&true) {
        true => Some(mamba(config, eps)?),
        false => None,
    };
    let feed_forward = feed_forward(config)?;
    let blocks = kinds.into_iter().map(|is_mamba| {
        let mixer = match &mamba {
            Some(mamba) if is_mamba => PartConfig::Mamba(mamba.clone()),
            _ => PartConfig::Attention(attention.clone()),
        };
        shared::pre_norms(eps, mixer, feed_forward.clone())
    });
    let defaults = shared::Defaults {
        context: 131_072,
        tie_word_embeddings: true,
    };
    granite::multiplied(
        config,
        shared::decoder(config, eps, blocks.collect(), defaults)?,
    )
}

fn attention(config: &Object) -> Result<AttentionConfig> {
    let hidden_size = shared::hidden_size(config, None)?;
    let attention = shared::attention(config, hidden_size, (None, None, None))?;
    let bias = config.opt_bool("attention_bias")?.unwrap_or(false);
    let rope = match config.opt_str("position_embedding_type")? {
        Some("nope") => None,
        _ => Some(ropes::rope(config, attention.head_dim, Some(10_000.0))?),
    };
    Ok(AttentionConfig {
        qkv_bias: bias,
        o_bias: bias,
        rope,
        ..attention
    })
}

fn mamba(config: &Object, eps: f32) -> Result<MambaConfig> {
    let (heads, dim) = (shared::LIMITS.heads, shared::LIMITS.head_dim);
    let size = |key: &str, most: u32| shared::size(config, key, most, None);
    checked(
        config,
        MambaConfig {
            name: "mamba",
            heads: size("mamba_n_heads", heads)?,
            head_dim: size("mamba_d_head", dim)?,
            groups: size("mamba_n_groups", heads)?,
            state: size("mamba_d_state", dim)?,
            taps: taps(config, "mamba_d_conv")?,
            conv_bias: config.opt_bool("mamba_conv_bias")?.unwrap_or(true),
            bias: config.opt_bool("mamba_proj_bias")?.unwrap_or(false),
            eps,
            // As transformers has it; mlx-lm bounds them by 0.001 and 100.
            step_limits: step_limits(config, [0.0, f32::INFINITY])?,
        },
        ["mamba_n_heads", "mamba_n_groups"],
    )
}

fn feed_forward(config: &Object) -> Result<PartConfig> {
    let experts = config.opt_u32("num_local_experts", 0..=shared::LIMITS.experts)?;
    match experts.unwrap_or(0) {
        0 => {
            let mut mlp = shared::silu_mlp(config)?;
            // Hugging Face's layout of the same.
            mlp.unconverted = Some(("shared_mlp", INPUT, &[OUTPUT]));
            Ok(PartConfig::Mlp(mlp))
        }
        _ => Ok(PartConfig::Moe(moe(config)?)),
    }
}

fn moe(config: &Object) -> Result<MoeConfig> {
    let keys = Keys {
        experts: "num_local_experts",
        intermediate: "intermediate_size",
        top_k: "num_experts_per_tok",
    };
    let mut moe = experts::moe(config, keys)?;
    moe.name = "block_sparse_moe";
    moe.names = ExpertNames {
        each: None,
        fused: Some(Fused::Halves),
        fused_names: [INPUT, OUTPUT],
        ..experts::NAMES
    };
    moe.router.names = &["router.layer"];
    moe.router.score = Score::SoftmaxOfChosen;
    let key = "shared_intermediate_size";
    let inner = shared::size(config, key, shared::LIMITS.intermediate, None)?;
    moe.shared = Some(SharedConfig {
        mlp: MlpConfig {
            name: "shared_mlp",
            names: [&[], &[], &[OUTPUT]],
            fused_name: INPUT,
            shape: MlpShape::Fused,
            ..MlpConfig::new(inner, Activation::Silu)
        },
        gate: None,
        beside: true,
    });
    Ok(moe)
}
