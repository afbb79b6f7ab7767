//! BERT: an encoder with learned positions, and a layer norm behind each sum. RoBERTa and XLM-RoBERTa are the same, but that
//! their positions begin behind that of the padding.

use super::shared;
use crate::error::{Error, Result};
use crate::load::Object;
use crate::mlx::nn::Activation;
use crate::model::config::{
    BlockConfig, DecoderConfig, EmbedConfig, HalfConfig, LogitsConfig, Names, NormConfig,
    PartConfig, PositionsConfig,
};
use crate::model::parts::attention::{AttentionConfig, AttentionNames};
use crate::model::parts::mlp::{MlpConfig, MlpShape};
use crate::words::quoted;

const fn names(body: &'static str) -> Names {
    Names {
        body,
        head: "",
        embedding: "embeddings.word_embeddings",
        layers: "encoder.layer.",
    }
}

const NAMES: &[Names] = &[names(""), names("bert."), names("roberta.")];

const ATTENTION: AttentionNames = AttentionNames {
    part: "attention",
    q_proj: "self.query",
    k_proj: "self.key",
    v_proj: "self.value",
    o_proj: "output.dense",
    ..AttentionNames::USUAL
};

/// What trained heads of these models are called, which embeddings are made without.
const HEADS: &[&str] = &[
    "pooler.",
    "cls.",
    "lm_head.",
    "classifier.",
    "qa_outputs.",
    "embeddings.position_ids",
];

pub fn read(config: &Object) -> Result<DecoderConfig> {
    read_from(config, 0)
}

pub fn read_roberta(config: &Object) -> Result<DecoderConfig> {
    let padding = config.opt_u32("pad_token_id", 0..=shared::LIMITS.vocab)?;
    let padding = i32::try_from(padding.unwrap_or(1)).unwrap_or(i32::MAX);
    read_from(config, padding.saturating_add(1))
}

/// `first`: the row of a text's first position.
fn read_from(config: &Object, first: i32) -> Result<DecoderConfig> {
    if config.opt_bool("is_decoder")?.unwrap_or(false) {
        return Err(Error::unsupported(format!(
            "{} is true, and only encoders of this kind are supported",
            config.place("is_decoder")
        )));
    }
    if let Some(other) = config.opt_str("position_embedding_type")? {
        if other != "absolute" {
            return Err(Error::unsupported(format!(
                "{} is {}; supported here is absolute",
                config.place("position_embedding_type"),
                quoted(other, 40)
            )));
        }
    }
    let hidden_size = shared::hidden_size(config, Some(768))?;
    let attention = shared::attention(config, hidden_size, (Some(12), None, None))?;
    let attention = AttentionConfig {
        names: ATTENTION,
        qkv_bias: true,
        o_bias: true,
        ..attention
    };
    let mlp = MlpConfig {
        name: "",
        names: [&[], &["intermediate.dense"], &["output.dense"]],
        bias: true,
        shape: MlpShape::Plain,
        ..MlpConfig::new(
            shared::intermediate_size(config, Some(3072))?,
            activation(config, "hidden_act")?,
        )
    };
    let eps = config
        .opt_f32("layer_norm_eps", 0.0..=1.0)?
        .unwrap_or(1e-12);
    let half = |part, name| HalfConfig {
        norm: None,
        part,
        post_norm: None,
        multiplier: 1.0,
        out_norm: Some(layer_norm(name, eps, true)),
    };
    let block = BlockConfig::of(vec![
        half(
            PartConfig::Attention(attention),
            "attention.output.LayerNorm",
        ),
        half(PartConfig::Mlp(mlp), "output.LayerNorm"),
    ]);
    let positions = shared::context(config, 512)?;
    let rows = i32::try_from(positions).unwrap_or(i32::MAX);
    let context = u32::try_from(rows.saturating_sub(first)).unwrap_or(0);
    if context == 0 {
        let must_be = format!("more than the {first} positions in front of a text's first");
        return Err(config.wrong("max_position_embeddings", &must_be));
    }
    let types = shared::size(config, "type_vocab_size", shared::LIMITS.vocab, Some(2))?;
    Ok(DecoderConfig {
        hidden_size,
        vocab_size: shared::vocab_size(config, Some(30_522))?,
        context,
        embed: EmbedConfig {
            positions: Some(PositionsConfig {
                name: "embeddings.position_embeddings",
                count: rows,
                first,
            }),
            types: Some(("embeddings.token_type_embeddings", types)),
            sum_norm: Some(layer_norm("embeddings.LayerNorm", eps, true)),
            ..EmbedConfig::default()
        },
        blocks: vec![block; shared::layer_count(config, Some(12))?],
        norm: None,
        both_ways: true,
        tie_word_embeddings: Some(true),
        logits: LogitsConfig::default(),
        clip_residual: false,
        names: NAMES,
        ignored: shared::words(HEADS),
        unconverted_norms: &[],
        ahead: None,
    })
}

pub fn layer_norm(name: &'static str, eps: f32, bias: bool) -> NormConfig {
    NormConfig {
        name,
        eps,
        plus_one: false,
        layer: true,
        bias,
    }
}

/// gelu, by the error function or by tanh.
pub fn activation(config: &Object, key: &str) -> Result<Activation> {
    match config.opt_str(key)? {
        None | Some("gelu") => Ok(Activation::Gelu),
        Some("gelu_new" | "gelu_fast" | "gelu_pytorch_tanh") => Ok(Activation::GeluTanh),
        Some(other) => Err(Error::unsupported(format!(
            "{} is {}; supported here are gelu, gelu_new, gelu_fast and gelu_pytorch_tanh",
            config.place(key),
            quoted(other, 40)
        ))),
    }
}
