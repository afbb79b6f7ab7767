//! Nemotron H: layers of one half each, Mamba 2, attention without positions, MLPs or experts without a gate, in the order
//! that a pattern spells.

use super::experts;
use super::lfm2::taps;
use super::shared;
use crate::error::Result;
use crate::load::Object;
use crate::mlx::nn::Activation;
use crate::model::config::{
    BlockConfig, DecoderConfig, EmbedConfig, HalfConfig, LogitsConfig, Names, PartConfig,
};
use crate::model::parts::attention::{AttentionConfig, AttentionNames};
use crate::model::parts::mamba::MambaConfig;
use crate::model::parts::mlp::{MlpConfig, MlpShape};
use crate::model::parts::moe::{MoeConfig, SharedConfig};
use crate::model::plan::ExpertNames;

/// Inside of a layer.
const PART: &str = "mixer";

const BACKBONE: Names = Names {
    body: "backbone.",
    head: "",
    embedding: "embeddings",
    layers: shared::LAYERS,
};

const EXPERTS: ExpertNames = ExpertNames {
    leaves: ["", "fc1", "fc2"],
    each: Some(["", "up_proj", "down_proj"]),
    fused: None,
    ..experts::NAMES
};

#[derive(Clone, Copy)]
enum Kind {
    Mamba,
    Attention,
    Mlp,
    Moe,
}

pub fn read(config: &Object) -> Result<DecoderConfig> {
    let hidden_size = shared::hidden_size(config, None)?;
    let eps = match config.opt_f32("layer_norm_epsilon", 0.0..=1.0)? {
        Some(eps) => eps,
        None => shared::norm_eps(config, None)?,
    };
    let layer = |kind: Kind| -> Result<BlockConfig> {
        let part = match kind {
            Kind::Mamba => PartConfig::Mamba(mamba(config, eps)?),
            Kind::Attention => PartConfig::Attention(attention(config, hidden_size)?),
            Kind::Mlp => PartConfig::Mlp(mlp(config, shared::intermediate_size(config, None)?)?),
            Kind::Moe => PartConfig::Moe(moe(config)?),
        };
        Ok(BlockConfig::of(vec![HalfConfig::after(
            shared::norm("norm", eps),
            part,
        )]))
    };
    Ok(DecoderConfig {
        hidden_size,
        vocab_size: shared::vocab_size(config, None)?,
        context: shared::context(config, 4096)?,
        embed: EmbedConfig::default(),
        blocks: pattern(config)?
            .into_iter()
            .map(layer)
            .collect::<Result<_>>()?,
        norm: Some(shared::norm("norm_f", eps)),
        both_ways: false,
        tie_word_embeddings: Some(config.opt_bool("tie_word_embeddings")?.unwrap_or(false)),
        logits: LogitsConfig::default(),
        clip_residual: false,
        names: &[BACKBONE],
        ignored: shared::words(&["mtp."]),
        unconverted_norms: &[],
        ahead: None,
    })
}

/// What each layer is: letters, or words.
fn pattern(config: &Object) -> Result<Vec<Kind>> {
    const LETTERS: &str = "hybrid_override_pattern";
    let most = shared::LIMITS.layers as usize;
    if let Some(letters) = config.opt_str(LETTERS)? {
        let kinds = letters.chars().take(most + 1).map(|letter| match letter {
            'M' => Some(Kind::Mamba),
            '*' => Some(Kind::Attention),
            '-' => Some(Kind::Mlp),
            'E' => Some(Kind::Moe),
            _ => None,
        });
        let kinds: Option<Vec<Kind>> = kinds.collect();
        let kinds = kinds.filter(|kinds| (1..=most).contains(&kinds.len()));
        return kinds.ok_or_else(|| {
            config.wrong(
                LETTERS,
                "a letter for each layer: M, *, - or E, at most 1024",
            )
        });
    }
    for key in ["layers_block_type", "layer_types"] {
        let Some(words) = config.opt_strs(key, most)? else {
            continue;
        };
        let kinds = words.into_iter().map(|word| match word {
            "mamba" | "linear_attention" | "conv" => Some(Kind::Mamba),
            "attention" | "full_attention" => Some(Kind::Attention),
            "mlp" => Some(Kind::Mlp),
            "moe" => Some(Kind::Moe),
            _ => None,
        });
        let kinds: Option<Vec<Kind>> = kinds.collect();
        let kinds = kinds.filter(|kinds| !kinds.is_empty());
        let must = "a list of \"mamba\", \"attention\", \"mlp\" and \"moe\"";
        return kinds.ok_or_else(|| config.wrong(key, must));
    }
    Err(config.wrong(LETTERS, "a letter for each layer: M, *, - or E"))
}

fn mamba(config: &Object, eps: f32) -> Result<MambaConfig> {
    let (heads, dim) = (shared::LIMITS.heads, shared::LIMITS.head_dim);
    let size = |key: &str, most: u32| shared::size(config, key, most, None);
    let flag =
        |key: &str, default: bool| -> Result<bool> { Ok(config.opt_bool(key)?.unwrap_or(default)) };
    checked(
        config,
        MambaConfig {
            name: PART,
            heads: size("mamba_num_heads", heads)?,
            head_dim: size("mamba_head_dim", dim)?,
            groups: size("n_groups", heads)?,
            state: size("ssm_state_size", dim)?,
            taps: taps(config, "conv_kernel")?,
            conv_bias: flag("use_conv_bias", true)?,
            bias: flag("mamba_proj_bias", false)?,
            eps,
            step_limits: step_limits(config, [0.0, f32::INFINITY])?,
        },
        ["mamba_num_heads", "n_groups"],
    )
}

/// Whether all heads fall into groups. `keys`: of heads and of groups.
pub fn checked(
    config: &Object,
    mamba: MambaConfig,
    [heads, groups]: [&str; 2],
) -> Result<MambaConfig> {
    let inner = i64::from(mamba.heads) * i64::from(mamba.head_dim);
    if inner > i64::from(shared::LIMITS.intermediate) {
        return Err(config.wrong(heads, "fewer, or smaller ones"));
    }
    match mamba.heads % mamba.groups {
        0 => Ok(mamba),
        _ => Err(config.wrong(groups, &format!("a divisor of {heads}, {}", mamba.heads))),
    }
}

/// `time_step_limit`: the least and the largest step.
pub fn step_limits(config: &Object, default: [f32; 2]) -> Result<[f32; 2]> {
    const KEY: &str = "time_step_limit";
    let Some(list) = config.opt_array(KEY)? else {
        return Ok(default);
    };
    let number = |value: &serde_json::Value| match value.as_str() {
        Some("Infinity" | "inf") => Some(f32::INFINITY),
        _ => value.as_f64().map(|number| number as f32),
    };
    match list
        .iter()
        .map(number)
        .collect::<Option<Vec<_>>>()
        .as_deref()
    {
        Some(&[low, high]) if low >= 0.0 && low <= high => Ok([low, high]),
        _ => Err(config.wrong(KEY, "two numbers, the first not larger than the second")),
    }
}

fn attention(config: &Object, hidden_size: i32) -> Result<AttentionConfig> {
    let own = config.opt_u32("attention_head_dim", 1..=shared::LIMITS.head_dim)?;
    let bias = config.opt_bool("attention_bias")?.unwrap_or(false);
    let attention = shared::attention(config, hidden_size, (None, None, own))?;
    Ok(AttentionConfig {
        names: AttentionNames {
            part: PART,
            ..AttentionNames::USUAL
        },
        qkv_bias: bias,
        o_bias: bias,
        ..attention
    })
}

/// Without a gate.
fn mlp(config: &Object, inner: i32) -> Result<MlpConfig> {
    if config
        .opt_str("mlp_hidden_act")?
        .is_some_and(|name| name != "relu2")
    {
        return Err(experts::unknown(config, "mlp_hidden_act", "relu2"));
    }
    Ok(MlpConfig {
        name: PART,
        shape: MlpShape::Plain,
        bias: config.opt_bool("mlp_bias")?.unwrap_or(false),
        ..MlpConfig::new(inner, Activation::Relu2)
    })
}

fn moe(config: &Object) -> Result<MoeConfig> {
    let mut moe = experts::corrected(config, 1.0, 0)?;
    moe.name = PART;
    moe.names = EXPERTS;
    moe.activation = Activation::Relu2;
    moe.gated = false;
    let latent = config.opt_u32("moe_latent_size", 1..=shared::LIMITS.hidden)?;
    moe.latent = latent.and_then(|latent| i32::try_from(latent).ok());
    moe.latent_bias = config.opt_bool("mlp_bias")?.unwrap_or(false);
    moe.shared = match config.opt_u32("n_shared_experts", 0..=shared::LIMITS.experts)? {
        None | Some(0) => None,
        Some(_) => {
            let key = "moe_shared_expert_intermediate_size";
            let inner = shared::size(config, key, shared::LIMITS.intermediate, None)?;
            Some(SharedConfig {
                mlp: MlpConfig {
                    name: "shared_experts",
                    ..mlp(config, inner)?
                },
                gate: None,
                beside: false,
            })
        }
    };
    Ok(moe)
}
