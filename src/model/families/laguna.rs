//! Laguna: layers with their own number of heads and their own positions, a gate for each head, dense layers first, then
//! experts beside a shared one.

use super::experts::{self, Keys};
use super::ropes;
use super::shared::{self, Defaults};
use crate::error::Result;
use crate::load::Object;
use crate::mlx::nn::Score;
use crate::model::config::{DecoderConfig, PartConfig};
use crate::model::parts::attention::{AttentionConfig, OutputGate};
use crate::model::parts::moe::MoeConfig;

pub fn read(config: &Object) -> Result<DecoderConfig> {
    let eps = shared::norm_eps(config, Some(1e-6))?;
    let count = shared::layer_count(config, Some(40))?;
    let attentions = attentions(config, count, eps)?;
    let sparse = sparse(config, count)?;
    let (moe, mlp) = (moe(config)?, shared::silu_mlp(config)?);
    let blocks = attentions.into_iter().zip(sparse).map(|(of, sparse)| {
        let part = match sparse {
            true => PartConfig::Moe(moe.clone()),
            false => PartConfig::Mlp(mlp.clone()),
        };
        shared::pre_norm(eps, of, part)
    });
    let defaults = Defaults {
        context: 262_144,
        tie_word_embeddings: false,
    };
    shared::decoder(config, eps, blocks.collect(), defaults)
}

fn attentions(config: &Object, count: usize, eps: f32) -> Result<Vec<AttentionConfig>> {
    let hidden_size = shared::hidden_size(config, None)?;
    let mut all = shared::attention(config, hidden_size, (Some(48), Some(8), Some(128)))?;
    all.qkv_bias = config.opt_bool("qkv_bias")?.unwrap_or(false);
    all.o_bias = config.opt_bool("attention_bias")?.unwrap_or(false);
    all.qk_norm = Some(shared::head_norms(eps));
    if config.opt_bool("gating")?.unwrap_or(true) {
        all.gate = Some(OutputGate::Softplus);
    }
    let sliding = shared::sliding_layers(config, count)?;
    let sliding = sliding.unwrap_or_else(|| vec![false; count]);
    let window = match sliding.contains(&true) {
        true => Some(shared::window(config, Some(512))?),
        false => None,
    };
    let parameters = config.opt_object("rope_parameters")?;
    let rope = |kind: &str| {
        let own = match &parameters {
            Some(parameters) => parameters.opt_object(kind)?,
            None => None,
        };
        match own {
            Some(own) => ropes::of_layers(config, &own, all.head_dim, 10_000.0),
            None => Ok(ropes::plain(all.head_dim, 10_000.0)),
        }
    };
    let (full, local) = (rope("full_attention")?, rope("sliding_attention")?);
    let heads = heads(config, count, &all)?;
    let of = |(heads, slides): (i32, bool)| AttentionConfig {
        heads,
        rope: Some(if slides { local.clone() } else { full.clone() }),
        window: window.filter(|_| slides),
        ..all.clone()
    };
    Ok(heads.into_iter().zip(sliding).map(of).collect())
}

/// Of each layer.
fn heads(config: &Object, count: usize, all: &AttentionConfig) -> Result<Vec<i32>> {
    const KEY: &str = "num_attention_heads_per_layer";
    let Some(list) = config.opt_array(KEY)? else {
        return Ok(vec![all.heads; count]);
    };
    let most = u64::from(shared::LIMITS.heads);
    let heads = list.iter().map(|heads| {
        let heads = heads.as_u64().filter(|heads| (1..=most).contains(heads))?;
        let heads = i32::try_from(heads).ok()?;
        (heads.checked_rem(all.kv_heads) == Some(0)).then_some(heads)
    });
    let heads: Option<Vec<i32>> = heads.collect();
    let must = format!(
        "a list of num_hidden_layers ({count}) multiples of num_key_value_heads, {}",
        all.kv_heads
    );
    let heads = heads.filter(|heads| heads.len() == count);
    heads.ok_or_else(|| config.wrong(KEY, &must))
}

/// Which layers have experts: without a word all but the first.
fn sparse(config: &Object, count: usize) -> Result<Vec<bool>> {
    const KEY: &str = "mlp_layer_types";
    let Some(kinds) = config.opt_strs(KEY, shared::LIMITS.layers as usize)? else {
        return Ok((0..count).map(|layer| layer > 0).collect());
    };
    let sparse = kinds.into_iter().map(|kind| match kind {
        "sparse" => Some(true),
        "dense" => Some(false),
        _ => None,
    });
    let sparse: Option<Vec<bool>> = sparse.collect();
    let must = format!("a list of num_hidden_layers ({count}) times \"dense\" or \"sparse\"");
    let sparse = sparse.filter(|sparse| sparse.len() == count);
    sparse.ok_or_else(|| config.wrong(KEY, &must))
}

fn moe(config: &Object) -> Result<MoeConfig> {
    let keys = Keys {
        experts: "num_experts",
        top_k: "num_experts_per_tok",
        intermediate: "moe_intermediate_size",
    };
    let mut moe = experts::moe(config, keys)?;
    moe.router.names = &["gate.proj", "gate"];
    moe.router.correction = &[
        "gate.e_score_correction_bias",
        "experts.e_score_correction_bias",
    ];
    moe.router.normalise = true;
    let cap = config.opt_f32("moe_router_logit_softcapping", 0.0..=1e6)?;
    moe.router.softcap = cap.filter(|&cap| cap > 0.0);
    moe.router.score = match config.opt_str("moe_router_score_func")? {
        None | Some("sigmoid") => Score::Sigmoid,
        Some("sqrtsoftplus") => Score::SqrtSoftplus,
        Some(_) => {
            let known = "sigmoid or sqrtsoftplus";
            return Err(experts::unknown(config, "moe_router_score_func", known));
        }
    };
    let scale = config.opt_f32("moe_routed_scaling_factor", 1e-6..=1e6)?;
    moe.router.scale = scale.unwrap_or(1.0);
    let key = "shared_expert_intermediate_size";
    let inner = shared::size(config, key, shared::LIMITS.intermediate, Some(512))?;
    moe.shared = Some(experts::shared_expert("shared_expert", inner));
    Ok(moe)
}
