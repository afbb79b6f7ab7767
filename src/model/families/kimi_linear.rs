//! Kimi Linear: Kimi's delta attention, attention over latents on some layers, and experts after dense layers.

use super::experts::{self, Keys};
use super::lfm2::taps;
use super::ropes;
use super::shared::{self, size, LIMITS};
use crate::error::Result;
use crate::load::Object;
use crate::mlx::nn::Score;
use crate::model::config::{DecoderConfig, PartConfig};
use crate::model::parts::kimi::KimiConfig;
use crate::model::parts::mla::MlaConfig;
use crate::model::parts::moe::MoeConfig;
use crate::model::plan::ExpertNames;

pub fn read(config: &Object) -> Result<DecoderConfig> {
    let eps = shared::norm_eps(config, None)?;
    let count = shared::layer_count(config, None)?;
    let linear = config.object("linear_attn_config")?;
    let delta = KimiConfig {
        heads: size(&linear, "num_heads", LIMITS.heads, None)?,
        head_dim: size(&linear, "head_dim", LIMITS.head_dim, None)?,
        taps: match linear.has("short_conv_kernel_size") {
            true => taps(&linear, "short_conv_kernel_size")?,
            false => 4,
        },
        eps,
    };
    let (latents, mlp, moe) = (
        latents(config, eps)?,
        shared::silu_mlp(config)?,
        moe(config)?,
    );
    let dense = config.opt_u32("first_k_dense_replace", 0..=LIMITS.layers)?;
    let dense = dense.unwrap_or(0) as usize;
    let every = config.opt_u32("moe_layer_freq", 1..=LIMITS.layers)?;
    let every = every.unwrap_or(1) as usize;
    let blocks = linear_layers(&linear, count)?.into_iter().enumerate();
    let blocks = blocks.map(|(layer, linear)| {
        let mixer = match linear {
            true => PartConfig::Kimi(delta.clone()),
            false => PartConfig::Mla(latents.clone()),
        };
        let part = match layer >= dense && layer % every == 0 {
            true => PartConfig::Moe(moe.clone()),
            false => PartConfig::Mlp(mlp.clone()),
        };
        shared::pre_norms(eps, mixer, part)
    });
    let defaults = shared::Defaults {
        context: config
            .opt_u32("model_max_length", 1..=LIMITS.context)?
            .unwrap_or(4096),
        tie_word_embeddings: false,
    };
    Ok(DecoderConfig {
        ignored: shared::words(&["model.mtp"]),
        ..shared::decoder(config, eps, blocks.collect(), defaults)?
    })
}

/// Those that `kda_layers` numbers, from 1 on.
fn linear_layers(linear: &Object, count: usize) -> Result<Vec<bool>> {
    const KEY: &str = "kda_layers";
    let must = format!("a list of numbers of layers, from 1 to num_hidden_layers, {count}");
    let wrong = || linear.wrong(KEY, &must);
    let mut layers = vec![false; count];
    for layer in linear.opt_array(KEY)?.ok_or_else(wrong)? {
        let layer = layer.as_u64().and_then(|layer| usize::try_from(layer).ok());
        let place = layer.and_then(|layer| layers.get_mut(layer.checked_sub(1)?));
        *place.ok_or_else(wrong)? = true;
    }
    Ok(layers)
}

fn latents(config: &Object, eps: f32) -> Result<MlaConfig> {
    const TURNED: &str = "qk_rope_head_dim";
    let head_dim = config.opt_u32("head_dim", 1..=LIMITS.head_dim)?;
    let dim = |key: &str| size(config, key, LIMITS.head_dim, head_dim);
    let (plain_dim, turned_dim) = (
        dim("qk_nope_head_dim")?,
        size(config, TURNED, LIMITS.head_dim, None)?,
    );
    if turned_dim % 2 != 0 {
        return Err(config.wrong(TURNED, "an even number"));
    }
    Ok(MlaConfig {
        heads: size(config, "num_attention_heads", LIMITS.heads, None)?,
        query_rank: None,
        rank: size(config, "kv_lora_rank", LIMITS.hidden, None)?,
        plain_dim,
        turned_dim,
        value_dim: dim("v_head_dim")?,
        scale: shared::inverse_root(f64::from(plain_dim) + f64::from(turned_dim)),
        bias: false,
        eps,
        // mlx-lm turns nothing, whatever the config says; no folder is known that says otherwise.
        rope: match config.opt_bool("mla_use_nope")? {
            Some(false) => Some(ropes::rope(config, turned_dim, Some(10_000.0))?),
            _ => None,
        },
    })
}

fn moe(config: &Object) -> Result<MoeConfig> {
    let keys = Keys {
        experts: "num_experts",
        top_k: "num_experts_per_token",
        intermediate: "moe_intermediate_size",
    };
    let mut moe = experts::moe(config, keys)?;
    moe.unconverted = Some("block_sparse_moe");
    moe.names = ExpertNames {
        fused: None,
        ..experts::W_NAMES
    };
    moe.router.correction = &["e_score_correction_bias", "gate.e_score_correction_bias"];
    moe.router.score = match config.opt_str("moe_router_activation_func")? {
        None | Some("sigmoid") => Score::Sigmoid,
        Some("softmax") => Score::Softmax,
        Some(_) => {
            let known = "sigmoid or softmax";
            return Err(experts::unknown(
                config,
                "moe_router_activation_func",
                known,
            ));
        }
    };
    let normalise = config.opt_bool("moe_renormalize")?.unwrap_or(true);
    // The weight of one alone would be 1, whatever its score.
    moe.router.normalise = normalise && moe.top_k > 1;
    let scale = config.opt_f32("routed_scaling_factor", 1e-6..=1e6)?;
    moe.router.scale = scale.unwrap_or(1.0);
    moe.router.groups = experts::groups_of(config, &moe, "num_expert_group")?;
    let shared = config.opt_u32("num_shared_experts", 0..=LIMITS.experts)?;
    moe.shared = experts::shared_experts(config, &moe, shared.unwrap_or(0), "num_shared_experts")?;
    Ok(moe)
}
