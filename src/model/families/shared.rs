//! What the families read in the same way. Every size is checked against the limits and against its neighbours before
//! it is used: the config is untrusted.

use crate::error::{Error, Result};
use crate::load::{Limits, Object};
use crate::mlx::nn::Activation;
use crate::model::config::{
    AheadConfig, BlockConfig, DecoderConfig, EmbedConfig, HalfConfig, LogitsConfig, Names,
    NormConfig, PartConfig,
};
use crate::model::parts::attention::{AttentionConfig, AttentionNames, QkNorm, QkNormOver};
use crate::model::parts::mlp::MlpConfig;
use crate::words::quoted;

pub const LIMITS: Limits = Limits::DEFAULT;

const EMBEDDING: &str = "embed_tokens";
pub const LAYERS: &str = "layers.";

const PLAIN: Names = Names {
    body: "model.",
    head: "",
    embedding: EMBEDDING,
    layers: LAYERS,
};
/// A text model inside another.
const INSIDE: Names = Names {
    body: "language_model.model.",
    head: "language_model.",
    embedding: EMBEDDING,
    layers: LAYERS,
};
/// As transformers writes it since 4.52.
const INSIDE_SINCE: Names = Names {
    body: "model.language_model.",
    head: "",
    embedding: EMBEDDING,
    layers: LAYERS,
};
/// Without the part around it that holds the head.
const INSIDE_BARE: Names = Names {
    body: "language_model.",
    head: "",
    embedding: EMBEDDING,
    layers: LAYERS,
};
const BARE: Names = Names {
    body: "",
    head: "",
    embedding: EMBEDDING,
    layers: LAYERS,
};

/// Tensor names of a text model: first mlx-lm's, then those that are left when it is cut out of another, or cut down.
pub const TEXT_NAMES: &[Names] = &[PLAIN, INSIDE, INSIDE_SINCE, INSIDE_BARE, BARE];
/// Those of a text model inside another.
pub const INSIDE_NAMES: &[Names] = &[INSIDE, INSIDE_SINCE, PLAIN, INSIDE_BARE, BARE];

/// A size that must be given, or has the family's default.
pub fn size(config: &Object, key: &str, max: u32, default: Option<u32>) -> Result<i32> {
    let value = match default {
        Some(default) => config.opt_u32(key, 1..=max)?.unwrap_or(default),
        None => config.u32(key, 1..=max)?,
    };
    i32::try_from(value).map_err(|_| config.wrong(key, "a smaller number"))
}

pub fn hidden_size(config: &Object, default: Option<u32>) -> Result<i32> {
    size(config, "hidden_size", LIMITS.hidden, default)
}

pub fn vocab_size(config: &Object, default: Option<u32>) -> Result<i32> {
    size(config, "vocab_size", LIMITS.vocab, default)
}

pub fn intermediate_size(config: &Object, default: Option<u32>) -> Result<i32> {
    size(config, "intermediate_size", LIMITS.intermediate, default)
}

pub fn layer_count(config: &Object, default: Option<u32>) -> Result<usize> {
    Ok(size(config, "num_hidden_layers", LIMITS.layers, default)? as usize)
}

pub fn norm_eps(config: &Object, default: Option<f32>) -> Result<f32> {
    match default {
        Some(default) => Ok(config
            .opt_f32("rms_norm_eps", 0.0..=1.0)?
            .unwrap_or(default)),
        None => config.f32("rms_norm_eps", 0.0..=1.0),
    }
}

/// `max_position_embeddings`; a config without one gets `default`.
pub fn context(config: &Object, default: u32) -> Result<u32> {
    Ok(config
        .opt_u32("max_position_embeddings", 1..=LIMITS.context)?
        .unwrap_or(default))
}

/// Heads and their size. `head_dim` is the config's, or hidden / heads where the family has no default of its own.
pub fn attention(
    config: &Object,
    hidden_size: i32,
    defaults: (Option<u32>, Option<u32>, Option<u32>),
) -> Result<AttentionConfig> {
    let (default_heads, default_kv_heads, default_head_dim) = defaults;
    let heads = size(config, "num_attention_heads", LIMITS.heads, default_heads)?;
    let kv_heads = size(
        config,
        "num_key_value_heads",
        LIMITS.heads,
        default_kv_heads.or(Some(heads as u32)),
    )?;
    if heads % kv_heads != 0 {
        return Err(config.wrong(
            "num_key_value_heads",
            &format!("a divisor of num_attention_heads, {heads}"),
        ));
    }
    let head_dim = match (
        config.opt_u32("head_dim", 1..=LIMITS.head_dim)?,
        default_head_dim,
    ) {
        (Some(given), _) | (None, Some(given)) => given as i32,
        (None, None) if hidden_size % heads == 0 => hidden_size / heads,
        (None, None) => {
            return Err(config.wrong(
                "num_attention_heads",
                &format!("a divisor of hidden_size, {hidden_size}"),
            ))
        }
    };
    if head_dim % 2 != 0 {
        return Err(Error::bad_model(format!(
            "{}: head_dim must be even for rotary positions, is {head_dim}",
            config.file()
        )));
    }
    Ok(AttentionConfig {
        names: AttentionNames::USUAL,
        heads,
        kv_heads,
        head_dim,
        scale: inverse_root(head_dim.into()),
        softcap: None,
        sinks: false,
        fused: false,
        values_are_keys: false,
        value_norm: None,
        keys_of: None,
        idle_keys: false,
        qkv_bias: false,
        o_bias: false,
        qk_norm: None,
        rope: None,
        window: None,
        gate: None,
        temperature: None,
    })
}

/// What the attention scores are multiplied by, rounded once.
pub fn inverse_root(size: f64) -> f32 {
    (1.0 / size.sqrt()) as f32
}

/// Refuses an activation that the family does not have, where the config names one.
pub fn check_activation(config: &Object, known: &[&str]) -> Result<()> {
    for key in ["hidden_act", "hidden_activation"] {
        if let Some(name) = config.opt_str(key)? {
            if !known.contains(&name) {
                let shown = quoted(name, 40);
                return Err(Error::unsupported(format!(
                    "{} is {shown}; supported here is {}",
                    config.place(key),
                    known.join(", ")
                )));
            }
        }
    }
    Ok(())
}

/// For each layer whether it slides, from `layer_types` where the config has it.
pub fn sliding_layers(config: &Object, layers: usize) -> Result<Option<Vec<bool>>> {
    layer_kinds(config, layers, ["full_attention", "sliding_attention"])
}

/// For each layer whether it is of the second of two kinds, from `layer_types` where the config has it.
pub fn layer_kinds(
    config: &Object,
    layers: usize,
    [no, yes]: [&str; 2],
) -> Result<Option<Vec<bool>>> {
    let Some(types) = config.opt_strs("layer_types", LIMITS.layers as usize)? else {
        return Ok(None);
    };
    if types.len() != layers {
        return Err(config.wrong(
            "layer_types",
            &format!("a list of num_hidden_layers ({layers}) names"),
        ));
    }
    types
        .into_iter()
        .map(|name| match name {
            name if name == no => Ok(false),
            name if name == yes => Ok(true),
            _ => {
                let must = format!("a list of \"{no}\" and \"{yes}\"");
                Err(config.wrong("layer_types", &must))
            }
        })
        .collect::<Result<_>>()
        .map(Some)
}

/// For `DecoderConfig::ignored`.
pub fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

/// A window for the layers that slide.
pub fn slide(attentions: &mut [AttentionConfig], sliding: &[bool], window: i32) {
    for (attention, &slides) in attentions.iter_mut().zip(sliding) {
        attention.window = slides.then_some(window);
    }
}

/// `sliding_window` for the layers that `layer_types` says slide.
pub fn windows(config: &Object, attentions: &mut [AttentionConfig]) -> Result<()> {
    match sliding_layers(config, attentions.len())? {
        Some(sliding) if sliding.contains(&true) => {
            slide(attentions, &sliding, window(config, None)?);
        }
        _ => {}
    }
    Ok(())
}

pub fn window(config: &Object, default: Option<u32>) -> Result<i32> {
    size(config, "sliding_window", LIMITS.context, default)
}

/// What a config leaves open, family by family.
pub struct Defaults {
    pub context: u32,
    pub tie_word_embeddings: bool,
}

/// The head that predicts further tokens as DeepSeek writes it, as one more layer. Of several in a row there are none.
pub fn ahead_behind(
    layers: usize,
    count: Option<u32>,
    eps: f32,
    block: impl Fn(usize) -> BlockConfig,
) -> Option<AheadConfig> {
    (count == Some(1)).then(|| AheadConfig {
        in_body: true,
        path: format!("{LAYERS}{layers}."),
        embedding_norm: norm("enorm", eps),
        hidden_norm: norm("hnorm", eps),
        project: "eh_proj",
        block_path: "",
        block: block(layers),
        // With the output layer it is what a head shares with the model; so both are taken in front of it.
        norm: norm("shared_head.norm", eps),
        normed: false,
    })
}

/// A decoder of these blocks, with what most configs say of the rest.
pub fn decoder(
    config: &Object,
    eps: f32,
    blocks: Vec<BlockConfig>,
    defaults: Defaults,
) -> Result<DecoderConfig> {
    let tied = config.opt_bool("tie_word_embeddings")?;
    Ok(DecoderConfig {
        hidden_size: hidden_size(config, None)?,
        vocab_size: vocab_size(config, None)?,
        context: context(config, defaults.context)?,
        embed: EmbedConfig::default(),
        blocks,
        norm: Some(norm("norm", eps)),
        both_ways: false,
        tie_word_embeddings: Some(tied.unwrap_or(defaults.tie_word_embeddings)),
        logits: LogitsConfig::default(),
        clip_residual: false,
        names: TEXT_NAMES,
        ignored: Vec::new(),
        unconverted_norms: &[],
        ahead: None,
    })
}

/// A decoder of llama's shape: norms before each part, silu.
pub fn llama_like(
    config: &Object,
    attentions: Vec<AttentionConfig>,
    defaults: Defaults,
) -> Result<DecoderConfig> {
    let (eps, mlp) = (norm_eps(config, None)?, silu_mlp(config)?);
    let blocks = attentions
        .into_iter()
        .map(|attention| pre_norm(eps, attention, PartConfig::Mlp(mlp.clone())));
    decoder(config, eps, blocks.collect(), defaults)
}

/// `intermediate_size`, `mlp_bias`, and silu.
pub fn silu_mlp(config: &Object) -> Result<MlpConfig> {
    check_activation(config, &["silu"])?;
    let mut mlp = MlpConfig::new(intermediate_size(config, None)?, Activation::Silu);
    mlp.bias = config.opt_bool("mlp_bias")?.unwrap_or(false);
    Ok(mlp)
}

pub fn norm(name: &'static str, eps: f32) -> NormConfig {
    NormConfig {
        name,
        eps,
        plus_one: false,
        layer: false,
        bias: false,
    }
}

/// A norm of all heads' queries, and one of all heads' keys.
pub fn projection_norms(eps: f32) -> QkNorm {
    QkNorm {
        over: QkNormOver::Projection,
        ..head_norms(eps)
    }
}

/// Norms of each query and key head.
pub fn head_norms(eps: f32) -> QkNorm {
    QkNorm {
        eps,
        plus_one: false,
        over: QkNormOver::Heads,
    }
}

/// A norm behind attention and one behind the feed-forward part, and none before.
pub fn post_norm(eps: f32, attention: AttentionConfig, feed_forward: PartConfig) -> BlockConfig {
    let half = |part, after| HalfConfig {
        norm: None,
        part,
        post_norm: Some(norm(after, eps)),
        multiplier: 1.0,
        out_norm: None,
    };
    BlockConfig::of(vec![
        half(PartConfig::Attention(attention), "post_attention_layernorm"),
        half(feed_forward, "post_feedforward_layernorm"),
    ])
}

/// A usual block: a norm before attention and one before the feed-forward part.
pub fn pre_norm(eps: f32, attention: AttentionConfig, feed_forward: PartConfig) -> BlockConfig {
    pre_norms(eps, PartConfig::Attention(attention), feed_forward)
}

/// The same of any part that looks at other tokens.
pub fn pre_norms(eps: f32, mixer: PartConfig, feed_forward: PartConfig) -> BlockConfig {
    BlockConfig::of(vec![
        HalfConfig::after(norm("input_layernorm", eps), mixer),
        HalfConfig::after(norm("post_attention_layernorm", eps), feed_forward),
    ])
}
