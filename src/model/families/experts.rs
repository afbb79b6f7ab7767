//! What families with experts read in the same way.

use super::shared::{self, size, LIMITS};
use crate::error::{Error, Result};
use crate::load::Object;
use crate::mlx::nn::{Activation, Groups, Score};
use crate::model::parts::mlp::MlpConfig;
use crate::model::parts::moe::{MoeConfig, RouterConfig, SharedConfig};
use crate::model::plan::{ExpertNames, Fused};
use crate::words::quoted;

/// As most families have them: mlx-lm's name, and Hugging Face's two.
pub const NAMES: ExpertNames = ExpertNames {
    stacked: "switch_mlp",
    leaves: ["gate_proj", "up_proj", "down_proj"],
    each: Some(["gate_proj", "up_proj", "down_proj"]),
    fused: Some(Fused::Halves),
    fused_names: ["experts.gate_up_proj", "experts.down_proj"],
};

/// As Mixtral's.
pub const W_NAMES: ExpertNames = ExpertNames {
    each: Some(["w1", "w3", "w2"]),
    ..NAMES
};

/// Keys of the number of experts, of those of a token, and of their size.
pub struct Keys {
    pub experts: &'static str,
    pub top_k: &'static str,
    pub intermediate: &'static str,
}

/// Experts with silu, a softmax over all of them, and nothing else.
pub fn moe(config: &Object, keys: Keys) -> Result<MoeConfig> {
    shared::check_activation(config, &["silu"])?;
    of_keys(config, keys)
}

/// The same without a look at the activation.
pub fn of_keys(config: &Object, keys: Keys) -> Result<MoeConfig> {
    let experts = size(config, keys.experts, LIMITS.experts, None)?;
    let top_k = size(config, keys.top_k, LIMITS.experts, None)?;
    if top_k > experts {
        return Err(config.wrong(
            keys.top_k,
            &format!("at most {}, which is {experts}", keys.experts),
        ));
    }
    Ok(MoeConfig {
        name: "mlp",
        unconverted: None,
        experts,
        top_k,
        intermediate_size: size(config, keys.intermediate, LIMITS.intermediate, None)?,
        activation: Activation::Silu,
        gated: true,
        latent: None,
        latent_bias: false,
        bias: false,
        names: NAMES,
        router: RouterConfig {
            names: &["gate"],
            bias: false,
            norm: None,
            gains: None,
            softcap: None,
            score: Score::Softmax,
            correction: &[],
            groups: None,
            normalise: false,
            scale: 1.0,
        },
        shared: None,
    })
}

/// What all tokens go through.
pub fn shared_expert(name: &'static str, intermediate: i32) -> SharedConfig {
    let mut mlp = MlpConfig::new(intermediate, Activation::Silu);
    mlp.name = name;
    SharedConfig {
        mlp,
        gate: None,
        beside: false,
    }
}

/// So many of the size of one, as one; `key`: where the config says how many.
pub fn shared_experts(
    config: &Object,
    moe: &MoeConfig,
    count: u32,
    key: &str,
) -> Result<Option<SharedConfig>> {
    if count == 0 {
        return Ok(None);
    }
    let inner = i64::from(moe.intermediate_size) * i64::from(count);
    let inner = i32::try_from(inner).map_err(|_| config.wrong(key, "a smaller number"))?;
    Ok(Some(shared_expert("shared_experts", inner)))
}

/// Experts with a sigmoid and a correction of it, out of the best groups, and so many beside that all tokens go through. `scale` and
/// `shared`: where the config does not say.
pub fn corrected(config: &Object, scale: f32, shared: u32) -> Result<MoeConfig> {
    for (key, known) in [("scoring_func", "sigmoid"), ("topk_method", "noaux_tc")] {
        if config.opt_str(key)?.is_some_and(|name| name != known) {
            return Err(unknown(config, key, known));
        }
    }
    let keys = Keys {
        experts: "n_routed_experts",
        intermediate: "moe_intermediate_size",
        top_k: "num_experts_per_tok",
    };
    let mut moe = moe(config, keys)?;
    moe.router.score = Score::Sigmoid;
    moe.router.correction = &["gate.e_score_correction_bias"];
    let normalise = config.opt_bool("norm_topk_prob")?.unwrap_or(true);
    // The weight of one alone would be 1, whatever its score.
    moe.router.normalise = normalise && moe.top_k > 1;
    let own = config.opt_f32("routed_scaling_factor", 1e-6..=1e6)?;
    moe.router.scale = own.unwrap_or(scale);
    moe.router.groups = groups(config, &moe)?;
    let own = config.opt_u32("n_shared_experts", 0..=LIMITS.experts)?;
    let shared = own.unwrap_or(shared);
    moe.shared = shared_experts(config, &moe, shared, "n_shared_experts")?;
    Ok(moe)
}

fn groups(config: &Object, moe: &MoeConfig) -> Result<Option<Groups>> {
    groups_of(config, moe, "n_group")
}

/// `key`: of the number of groups.
pub fn groups_of(config: &Object, moe: &MoeConfig, key: &str) -> Result<Option<Groups>> {
    let number = |key: &str| -> Result<i32> {
        let number = config.opt_u32(key, 1..=LIMITS.experts)?;
        let number = i32::try_from(number.unwrap_or(1));
        number.map_err(|_| config.wrong(key, "a smaller number"))
    };
    let (count, chosen) = (number(key)?, number("topk_group")?);
    if count <= 1 {
        return Ok(None);
    }
    if moe.experts % count != 0 {
        let must = format!("a divisor of the number of experts, {}", moe.experts);
        return Err(config.wrong(key, &must));
    }
    let reachable = i64::from(moe.experts / count) * i64::from(chosen);
    if chosen > count || i64::from(moe.top_k) > reachable {
        let must = format!("at most {key}, {count}, and enough for the experts of a token");
        return Err(config.wrong("topk_group", &must));
    }
    Ok(Some(Groups { count, chosen }))
}

/// Whether layers have experts: those that `mlp_only_layers` does not name, every `decoder_sparse_step`-th.
pub fn sparse_layers(config: &Object, count: usize) -> Result<Vec<bool>> {
    const ONLY: &str = "mlp_only_layers";
    let step = config.opt_u32("decoder_sparse_step", 1..=LIMITS.layers)?;
    let step = step.unwrap_or(1) as usize;
    let mut sparse: Vec<bool> = (1..=count).map(|layer| layer % step == 0).collect();
    let list = config.opt_array(ONLY)?.unwrap_or_default();
    for layer in list.iter().take(LIMITS.layers as usize) {
        let layer = layer.as_u64().and_then(|layer| usize::try_from(layer).ok());
        let layer = layer.ok_or_else(|| config.wrong(ONLY, "a list of layer numbers"))?;
        if let Some(sparse) = sparse.get_mut(layer) {
            *sparse = false;
        }
    }
    Ok(sparse)
}

/// A router that nothing here knows.
pub fn unknown(config: &Object, key: &str, known: &str) -> Error {
    let shown = config.opt_str(key).ok().flatten().unwrap_or_default();
    let shown = quoted(shown, 40);
    Error::unsupported(format!(
        "{} is {shown}; supported is {known}",
        config.place(key)
    ))
}
