//! LFM2: short convolutions, with attention on some layers.

use super::{ropes, shared};
use crate::error::Result;
use crate::load::Object;
use crate::mlx::nn::Activation;
use crate::model::config::{
    BlockConfig, DecoderConfig, EmbedConfig, HalfConfig, LogitsConfig, PartConfig,
};
use crate::model::parts::attention::{AttentionConfig, AttentionNames};
use crate::model::parts::conv::ConvConfig;
use crate::model::parts::mlp::MlpConfig;

const NAMES: AttentionNames = AttentionNames {
    part: "self_attn",
    o_proj: "out_proj",
    q_norm: "q_layernorm",
    k_norm: "k_layernorm",
    ..AttentionNames::USUAL
};

pub fn read(config: &Object) -> Result<DecoderConfig> {
    let mlp = MlpConfig {
        name: "feed_forward",
        names: [&["w1"], &["w3"], &["w2"]],
        ..MlpConfig::new(intermediate_size(config)?, Activation::Silu)
    };
    decoder(config, |_| Ok(PartConfig::Mlp(mlp.clone())))
}

/// `feed_forward` gives each layer's.
pub fn decoder(
    config: &Object,
    feed_forward: impl Fn(usize) -> Result<PartConfig>,
) -> Result<DecoderConfig> {
    let hidden_size = shared::hidden_size(config, None)?;
    let eps = config.f32("norm_eps", 0.0..=1.0)?;
    let attention = AttentionConfig {
        names: NAMES,
        qk_norm: Some(shared::head_norms(eps)),
        ..shared::attention(config, hidden_size, (None, None, None))?
    };
    let attention = AttentionConfig {
        rope: Some(ropes::rope(config, attention.head_dim, Some(1_000_000.0))?),
        ..attention
    };
    let conv = ConvConfig {
        taps: taps(config, "conv_L_cache")?,
        bias: config.opt_bool("conv_bias")?.unwrap_or(false),
    };
    let count = shared::layer_count(config, None)?;
    let attends = attends(config, count)?;
    let block = |(layer, attends): (usize, bool)| {
        let mixer = match attends {
            true => PartConfig::Attention(attention.clone()),
            false => PartConfig::Conv(conv.clone()),
        };
        Ok(BlockConfig::of(vec![
            HalfConfig::after(shared::norm("operator_norm", eps), mixer),
            HalfConfig::after(shared::norm("ffn_norm", eps), feed_forward(layer)?),
        ]))
    };
    let blocks = attends.into_iter().enumerate().map(block);
    Ok(DecoderConfig {
        hidden_size,
        vocab_size: shared::vocab_size(config, None)?,
        context: shared::context(config, 128_000)?,
        embed: EmbedConfig::default(),
        blocks: blocks.collect::<Result<_>>()?,
        norm: Some(shared::norm("embedding_norm", eps)),
        both_ways: false,
        tie_word_embeddings: Some(true),
        logits: LogitsConfig::default(),
        clip_residual: false,
        names: shared::TEXT_NAMES,
        ignored: Vec::new(),
        unconverted_norms: &[],
        ahead: None,
    })
}

/// Tokens that a convolution looks at.
pub fn taps(config: &Object, key: &str) -> Result<i32> {
    match shared::size(config, key, shared::LIMITS.taps, None)? {
        1 => Err(config.wrong(key, "more than 1")),
        taps => Ok(taps),
    }
}

/// Which layers attend: those that `full_attn_idxs` lists, or `layer_types` names so.
fn attends(config: &Object, count: usize) -> Result<Vec<bool>> {
    const KEY: &str = "full_attn_idxs";
    let Some(list) = config.opt_array(KEY)? else {
        let kinds = shared::layer_kinds(config, count, ["conv", "full_attention"])?;
        let missing = || config.wrong("layer_types", "a list of \"conv\" and \"full_attention\"");
        return kinds.ok_or_else(missing);
    };
    let mut attends = vec![false; count];
    for layer in list {
        let layer = layer.as_u64().and_then(|layer| usize::try_from(layer).ok());
        let place = layer.and_then(|layer| attends.get_mut(layer));
        let must = format!("a list of numbers of layers, below num_hidden_layers, {count}");
        *place.ok_or_else(|| config.wrong(KEY, &must))? = true;
    }
    Ok(attends)
}

/// `block_ff_dim`, which may be what others call so before it is cut to two thirds.
fn intermediate_size(config: &Object) -> Result<i32> {
    const KEY: &str = "block_ff_dim";
    let most = shared::LIMITS.intermediate;
    let given = match config.has(KEY) && config.get(KEY).is_some_and(|value| !value.is_null()) {
        true => shared::size(config, KEY, most, None)?,
        false => shared::intermediate_size(config, None)?,
    };
    if !config.opt_bool("block_auto_adjust_ff_dim")?.unwrap_or(true) {
        return Ok(given);
    }
    let multiplier = config.opt_f32("block_ffn_dim_multiplier", 1e-3..=1e3)?;
    let multiple = shared::size(config, "block_multiple_of", most, Some(256))?;
    let wanted = (2.0 * f64::from(given) / 3.0).floor();
    let wanted = match multiplier {
        // As Python has the number that the config spells.
        Some(_) => (number(config, "block_ffn_dim_multiplier") * wanted).floor(),
        None => wanted,
    };
    let multiple = f64::from(multiple);
    let size = multiple * (wanted / multiple).ceil();
    match size >= 1.0 && size <= f64::from(most) {
        true => Ok(size as i32),
        false => Err(config.wrong(KEY, "a size that the adjustments leave in range")),
    }
}

fn number(config: &Object, key: &str) -> f64 {
    let number = config.get(key).and_then(|value| value.as_f64());
    number.unwrap_or(1.0)
}
