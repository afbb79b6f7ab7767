//! Gemma 3n: rows in several versions, of which each block computes one; a small product beside attention; embeddings for each
//! layer; MLPs whose small gates count as nothing; and last layers that see the keys and values of earlier ones.

use super::gemma2::cap;
use super::gemma4::{per_layer, shared_layers, towers};
use super::shared::{self, norm, size, LIMITS};
use crate::error::Result;
use crate::load::Object;
use crate::mlx::nn::Activation;
use crate::model::config::{
    BlockConfig, DecoderConfig, EmbedConfig, HalfConfig, LogitsConfig, PartConfig, PerLayerConfig,
    StreamsConfig,
};
use crate::model::parts::attention::AttentionConfig;
use crate::model::parts::mlp::MlpConfig;

/// Versions of a row at most; published models have four.
const MOST_STREAMS: u32 = 16;

/// The text model of a `gemma3n` folder; its towers for images and sounds are not run.
pub fn read(config: &Object) -> Result<DecoderConfig> {
    let config = &config.object("text_config")?;
    shared::check_activation(config, &["gelu_pytorch_tanh", "gelu_tanh"])?;
    let hidden_size = shared::hidden_size(config, None)?;
    let eps = shared::norm_eps(config, None)?;
    let count = shared::layer_count(config, None)?;
    let missing = || config.wrong("layer_types", "a list of names");
    let sliding = shared::sliding_layers(config, count)?.ok_or_else(missing)?;
    let keys_of = shared_layers(config, &sliding, 15)?;
    let attentions = attentions(config, (hidden_size, eps), &sliding, &keys_of)?;
    let missing = || config.wrong("hidden_size_per_layer_input", "a number above 0");
    let per_layer = per_layer(config, (256, 262_144), eps)?.ok_or_else(missing)?;
    let streams = streams(config, per_layer, eps)?;
    let mlps = inner_sizes(config, count)?.into_iter();
    let mlps = mlps.zip(sparsities(config, count)?);
    let blocks = attentions.into_iter().zip(mlps);
    let blocks = blocks.map(|(attention, (inner, sparsity))| {
        let mut mlp = MlpConfig::new(inner, Activation::GeluTanh);
        mlp.sparsity = sparsity;
        let half =
            |before, part, after| HalfConfig::after(norm(before, eps), part).then(norm(after, eps));
        let halves = vec![
            half(
                "input_layernorm",
                PartConfig::Attention(attention),
                "post_attention_layernorm",
            ),
            half(
                "pre_feedforward_layernorm",
                PartConfig::Mlp(mlp),
                "post_feedforward_layernorm",
            ),
        ];
        BlockConfig {
            streams: Some(streams),
            ..BlockConfig::of(halves)
        }
    });
    Ok(DecoderConfig {
        hidden_size,
        vocab_size: shared::vocab_size(config, None)?,
        context: shared::context(config, 32_768)?,
        embed: EmbedConfig {
            scale: Some((hidden_size as f32).sqrt()),
            norm: None,
            per_layer: Some(per_layer),
            streams: Some(streams),
            ..EmbedConfig::default()
        },
        blocks: blocks.collect(),
        norm: Some(norm("norm", eps)),
        both_ways: false,
        tie_word_embeddings: Some(true),
        logits: LogitsConfig {
            scale: None,
            softcap: cap(config, "final_logit_softcapping", 30.0)?,
        },
        clip_residual: false,
        names: shared::INSIDE_NAMES,
        ignored: towers(),
        unconverted_norms: &[],
        ahead: None,
    })
}

/// Those of the layers.
fn attentions(
    config: &Object,
    (hidden_size, eps): (i32, f32),
    sliding: &[bool],
    keys_of: &[Option<usize>],
) -> Result<Vec<AttentionConfig>> {
    let mut attention = shared::attention(config, hidden_size, (None, None, Some(256)))?;
    attention.scale = 1.0;
    attention.qk_norm = Some(shared::head_norms(eps));
    attention.value_norm = Some(eps);
    // mlx-lm does not load a folder without them.
    attention.idle_keys = true;
    let window = shared::window(config, None)?;
    let (global, local) = super::gemma3::ropes(config, attention.head_dim)?;
    let of = |(&slides, &keys_of): (&bool, &Option<usize>)| AttentionConfig {
        keys_of,
        rope: Some(if slides {
            local.clone()
        } else {
            global.clone()
        }),
        window: slides.then_some(window),
        ..attention.clone()
    };
    Ok(sliding.iter().zip(keys_of).map(of).collect())
}

fn streams(config: &Object, per_layer: PerLayerConfig, eps: f32) -> Result<StreamsConfig> {
    const ACTIVE: &str = "altup_active_idx";
    let count = size(config, "altup_num_inputs", MOST_STREAMS, None)?;
    let active = config.u32(ACTIVE, 0..=MOST_STREAMS)?;
    let active = i32::try_from(active).ok().filter(|&active| active < count);
    let must = format!("less than altup_num_inputs, {count}");
    Ok(StreamsConfig {
        count,
        active: active.ok_or_else(|| config.wrong(ACTIVE, &must))?,
        clip: config.opt_f32("altup_coef_clip", 1e-6..=1e6)?,
        scaled: config.opt_bool("altup_correct_scale")?.unwrap_or(true),
        laurel_rank: size(config, "laurel_rank", LIMITS.hidden, None)?,
        per_layer: per_layer.width,
        eps,
    })
}

/// `intermediate_size`: one for all layers, or one for each.
fn inner_sizes(config: &Object, count: usize) -> Result<Vec<i32>> {
    const KEY: &str = "intermediate_size";
    let Some(list) = config.get(KEY).and_then(|value| value.as_array()) else {
        return Ok(vec![shared::intermediate_size(config, None)?; count]);
    };
    let number = |value: &serde_json::Value| {
        let number = value.as_u64().and_then(|number| u32::try_from(number).ok());
        let number = number.filter(|number| (1..=LIMITS.intermediate).contains(number));
        number.and_then(|number| i32::try_from(number).ok())
    };
    let list = (list.len() == count).then_some(list);
    let sizes = list.and_then(|list| list.iter().map(number).collect());
    let must = format!("a number, or a list of num_hidden_layers ({count}) numbers");
    sizes.ok_or_else(|| config.wrong(KEY, &must))
}

/// `activation_sparsity_pattern`: of each layer the part of the gates that count as nothing.
fn sparsities(config: &Object, count: usize) -> Result<Vec<Option<f32>>> {
    const KEY: &str = "activation_sparsity_pattern";
    let number = |value: &serde_json::Value| {
        let number = value.as_f64().map(|number| number as f32);
        number.filter(|number| (0.0..=0.9999).contains(number))
    };
    let numbers: Option<Vec<f32>> = match config.get(KEY) {
        Some(serde_json::Value::Array(list)) if list.len() == count => {
            list.iter().map(number).collect()
        }
        Some(value) => number(value).map(|number| vec![number; count]),
        None => None,
    };
    let must = format!("a list of num_hidden_layers ({count}) numbers from 0 to 0.9999");
    let numbers = numbers.ok_or_else(|| config.wrong(KEY, &must))?;
    let some = |number: f32| (number > 0.0).then_some(number);
    Ok(numbers.into_iter().map(some).collect())
}
