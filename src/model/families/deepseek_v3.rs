//! DeepSeek V3 and R1, Moonlight, Kimi K2: attention over latents, dense layers first, then experts out of the best groups beside
//! shared ones.

use super::experts;
use super::ropes;
use super::shared::{self, size, Defaults, LIMITS};
use crate::error::Result;
use crate::load::Object;
use crate::model::config::{BlockConfig, DecoderConfig, PartConfig};
use crate::model::parts::mla::MlaConfig;
use crate::model::rope::Rope;

/// What a config leaves open, and what it does not say.
pub struct Own {
    pub eps: f32,
    /// Of the norms inside of attention; None: as all others.
    pub latent_eps: Option<f32>,
    pub context: u32,
    pub theta: f32,
    /// Of a head's query and key without the turned part, and of its value.
    pub head_dims: [u32; 2],
    pub query_rank: u32,
    /// Layers without experts.
    pub dense: u32,
    /// Shared experts.
    pub shared: u32,
    /// What experts' weights are multiplied by.
    pub scale: f32,
    /// Where a head that predicts further tokens is beside, however many layers there are.
    pub ahead: Option<usize>,
}

/// Layers of a head that predicts further tokens, behind all others.
const MOST_AHEAD: u32 = 16;

pub fn read(config: &Object) -> Result<DecoderConfig> {
    let own = Own {
        eps: 1e-6,
        // Not the config's: neither mlx-lm nor transformers looks there.
        latent_eps: Some(1e-6),
        context: 4096,
        theta: 10_000.0,
        head_dims: [128, 128],
        query_rank: 1536,
        dense: 0,
        shared: 0,
        scale: 1.0,
        // As in mlx-lm: behind DeepSeek's own, in folders that were cut down, too.
        ahead: Some(61),
    };
    read_as(config, &own)
}

pub fn read_as(config: &Object, own: &Own) -> Result<DecoderConfig> {
    let eps = shared::norm_eps(config, Some(own.eps))?;
    let attention = latents(config, own, own.latent_eps.unwrap_or(eps))?;
    let mlp = shared::silu_mlp(config)?;
    // Without experts at all every layer is dense.
    let moe = match config.has("n_routed_experts") {
        true => Some(experts::corrected(config, own.scale, own.shared)?),
        false => None,
    };
    let count = shared::layer_count(config, None)?;
    let dense = config.opt_u32("first_k_dense_replace", 0..=LIMITS.layers)?;
    let dense = dense.unwrap_or(own.dense) as usize;
    let every = config.opt_u32("moe_layer_freq", 1..=LIMITS.layers)?;
    let every = every.unwrap_or(1) as usize;
    let block = |layer: usize| -> BlockConfig {
        let part = match &moe {
            Some(moe) if layer >= dense && layer.is_multiple_of(every) => {
                PartConfig::Moe(moe.clone())
            }
            _ => PartConfig::Mlp(mlp.clone()),
        };
        shared::pre_norms(eps, PartConfig::Mla(attention.clone()), part)
    };
    let blocks = (0..count).map(block);
    let ahead = config.opt_u32("num_nextn_predict_layers", 0..=MOST_AHEAD)?;
    let head = shared::ahead_behind(count, ahead, eps, block);
    let ahead = ahead.unwrap_or(1).max(1) as usize;
    let ahead = (count..count + ahead).chain(own.ahead);
    let ignored = ahead.map(|layer| format!("model.layers.{layer}."));
    let defaults = Defaults {
        context: own.context,
        tie_word_embeddings: false,
    };
    Ok(DecoderConfig {
        ahead: head,
        ignored: ignored.collect(),
        ..shared::decoder(config, eps, blocks.collect(), defaults)?
    })
}

fn latents(config: &Object, own: &Own, eps: f32) -> Result<MlaConfig> {
    const QUERY_RANK: &str = "q_lora_rank";
    const TURNED: &str = "qk_rope_head_dim";
    let dim = |key, default| size(config, key, LIMITS.head_dim, Some(default));
    let [plain, value] = own.head_dims;
    let (plain_dim, turned_dim) = (dim("qk_nope_head_dim", plain)?, dim(TURNED, 64)?);
    if turned_dim % 2 != 0 {
        return Err(config.wrong(TURNED, "an even number"));
    }
    // Null says that there is none, and a config without the key says nothing.
    let query_rank = match config.keys().any(|key| key == QUERY_RANK) && !config.has(QUERY_RANK) {
        true => None,
        false => Some(size(
            config,
            QUERY_RANK,
            LIMITS.hidden,
            Some(own.query_rank),
        )?),
    };
    let whole = f64::from(plain_dim) + f64::from(turned_dim);
    Ok(MlaConfig {
        heads: size(config, "num_attention_heads", LIMITS.heads, None)?,
        query_rank,
        rank: size(config, "kv_lora_rank", LIMITS.hidden, Some(512))?,
        plain_dim,
        turned_dim,
        value_dim: dim("v_head_dim", value)?,
        scale: (enlarged(config)?.powi(2) / whole.sqrt()) as f32,
        bias: config.opt_bool("attention_bias")?.unwrap_or(false),
        eps,
        rope: Some(Rope {
            // Neighbours, as mlx-lm always has them; halves where a config says so, as in transformers.
            traditional: config.opt_bool("rope_interleave")?.unwrap_or(true),
            ..ropes::rope(config, turned_dim, Some(own.theta))?
        }),
    })
}

/// What queries and keys are multiplied by in a longer context than the first.
fn enlarged(config: &Object) -> Result<f64> {
    let parameters = config.opt_object("rope_parameters")?;
    let Some(scaling) = config.opt_object("rope_scaling")?.or(parameters) else {
        return Ok(1.0);
    };
    let by = scaling.opt_f32("mscale_all_dim", 0.0..=1e6)?.unwrap_or(0.0);
    if by == 0.0 {
        return Ok(1.0);
    }
    let factor = f64::from(scaling.f32("factor", ropes::FACTOR)?);
    Ok(match factor > 1.0 {
        true => 0.1 * f64::from(by) * factor.ln() + 1.0,
        false => 1.0,
    })
}
