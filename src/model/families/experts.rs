//! What families with experts read in the same way.

use super::shared::{self, size, LIMITS};
use crate::error::{Error, Result};
use crate::load::Object;
use crate::mlx::nn::{Activation, Score};
use crate::model::parts::mlp::MlpConfig;
use crate::model::parts::moe::{MoeConfig, RouterConfig, SharedConfig};
use crate::model::plan::{ExpertNames, Fused};

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
        experts,
        top_k,
        intermediate_size: size(config, keys.intermediate, LIMITS.intermediate, None)?,
        activation: Activation::Silu,
        gated: true,
        latent: None,
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
    let shown: String = shown.chars().take(40).collect();
    Error::unsupported(format!(
        "{} is \"{shown}\"; supported is {known}",
        config.place(key)
    ))
}
