//! Muse Glimmer: gemma's four norms, a gate on what attention gives, norms without weights on embeddings, queries and keys;
//! layers that see everything have no positions.

use super::gemma3::sandwich;
use super::{ropes, shared};
use crate::error::Result;
use crate::load::Object;
use crate::mlx::nn::Activation;
use crate::model::config::{DecoderConfig, EmbedConfig, LogitsConfig};
use crate::model::parts::attention::{AttentionConfig, OutputGate, QkNorm, QkNormOver};
use crate::model::parts::mlp::MlpConfig;

pub fn read(config: &Object) -> Result<DecoderConfig> {
    let text = config.opt_object("text_config")?;
    let config = text.as_ref().unwrap_or(config);
    shared::check_activation(config, &["silu"])?;
    let hidden_size = shared::hidden_size(config, Some(6656))?;
    let eps = shared::norm_eps(config, Some(1e-5))?;
    let mut attention = shared::attention(config, hidden_size, (Some(32), Some(2), Some(128)))?;
    attention.gate = Some(OutputGate::Sigmoid);
    attention.qk_norm = Some(QkNorm {
        eps,
        plus_one: false,
        over: QkNormOver::BareHeads,
    });
    let factor = config.opt_f32("qk_scale_factor", 1e-3..=1e6)?;
    attention.scale *= factor.unwrap_or(3.87);
    let attentions = attentions(config, &attention)?;

    let inner = shared::intermediate_size(config, Some(19_968))?;
    let mlp = MlpConfig::new(inner, Activation::Silu);
    let behind = config.opt_f32("post_norm_eps", 0.0..=1.0)?;
    let behind = behind.unwrap_or(1e-8);
    let blocks = attentions.into_iter().map(|attention| {
        let mut block = sandwich(eps, attention, mlp.clone());
        let norms = block.halves.iter_mut();
        let norms = norms.filter_map(|half| half.post_norm.as_mut());
        norms.for_each(|norm| norm.eps = behind);
        block
    });
    let multiplier = config.opt_f32("output_multiplier", 1e-6..=1e6)?;
    let cap = config.opt_f32("final_logit_softcapping", 1e-3..=1e6)?;
    let tied = config.opt_bool("tie_word_embeddings")?;
    Ok(DecoderConfig {
        hidden_size,
        vocab_size: shared::vocab_size(config, Some(202_048))?,
        context: shared::context(config, 131_072)?,
        embed: EmbedConfig {
            scale: None,
            norm: Some(eps),
            ..EmbedConfig::default()
        },
        blocks: blocks.collect(),
        norm: Some(shared::norm("norm", eps)),
        both_ways: false,
        tie_word_embeddings: Some(tied.unwrap_or(false)),
        logits: LogitsConfig {
            scale: Some(multiplier.unwrap_or(0.196_116_14)),
            softcap: Some(cap.unwrap_or(20.0)),
        },
        clip_residual: false,
        names: shared::TEXT_NAMES,
        ignored: shared::words(&["vision_tower", "vision_adapter", "vision_projection"]),
        unconverted_norms: &[],
        ahead: None,
    })
}

/// Those of the layers.
fn attentions(config: &Object, all: &AttentionConfig) -> Result<Vec<AttentionConfig>> {
    const KEY: &str = "layer_rope_theta";
    let count = shared::layer_count(config, Some(52))?;
    let sliding = match shared::sliding_layers(config, count)? {
        Some(sliding) => sliding,
        None => (1..=count).map(|layer| layer % 4 != 0).collect(),
    };
    let window = shared::window(config, Some(2048))?;
    let rope = ropes::rope(config, all.head_dim, Some(500_000.0))?;
    // A base of 0 stands for no positions; any other one is the model's.
    let turns = match config.opt_array(KEY)? {
        None => sliding.clone(),
        Some(list) => {
            let bases: Option<Vec<f64>> = list.iter().map(|base| base.as_f64()).collect();
            let bases = bases.filter(|bases| bases.len() == count);
            let must = format!("a list of num_hidden_layers ({count}) numbers");
            let bases = bases.ok_or_else(|| config.wrong(KEY, &must))?;
            bases.into_iter().map(|base| base != 0.0).collect()
        }
    };
    let attention = |(slides, turns): (bool, bool)| AttentionConfig {
        window: slides.then_some(window),
        rope: turns.then(|| rope.clone()),
        ..all.clone()
    };
    Ok(sliding.into_iter().zip(turns).map(attention).collect())
}
