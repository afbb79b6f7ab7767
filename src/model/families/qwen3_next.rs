//! Qwen 3 Next: linear attention by the gated delta rule, every few layers attention with a gate, and experts beside a shared
//! one.

use super::lfm2::taps;
use super::{experts, qwen2_moe, ropes, shared};
use crate::error::Result;
use crate::load::Object;
use crate::model::config::{AheadConfig, DecoderConfig, PartConfig};
use crate::model::parts::attention::{AttentionConfig, OutputGate};
use crate::model::parts::delta::DeltaConfig;
use crate::model::rope::Rope;

pub fn read(config: &Object) -> Result<DecoderConfig> {
    let count = shared::layer_count(config, None)?;
    let sparse = experts::sparse_layers(config, count)?;
    let moe = PartConfig::Moe(qwen2_moe::shared_moe(config)?);
    let mlp = match sparse.contains(&false) {
        true => PartConfig::Mlp(shared::silu_mlp(config)?),
        false => moe.clone(),
    };
    let parts = sparse.into_iter().map(|sparse| match sparse {
        true => moe.clone(),
        false => mlp.clone(),
    });
    decoder(config, parts.collect(), true)
}

/// `feed_forward`: of each layer. `mixed`: as in `DeltaConfig`.
pub fn decoder(
    config: &Object,
    feed_forward: Vec<PartConfig>,
    mixed: bool,
) -> Result<DecoderConfig> {
    let hidden_size = shared::hidden_size(config, None)?;
    let eps = shared::norm_eps(config, Some(1e-6))?;
    let attention = shared::attention(config, hidden_size, (None, None, None))?;
    let bias = config.opt_bool("attention_bias")?.unwrap_or(false);
    let gated = config.opt_bool("attn_output_gate")?.unwrap_or(true);
    let attention = AttentionConfig {
        qkv_bias: bias,
        o_bias: bias,
        qk_norm: Some(shared::head_norms(eps)),
        rope: Some(rope(config, attention.head_dim)?),
        gate: gated.then_some(OutputGate::InQueries),
        ..attention
    };
    let delta = delta(config, eps, mixed)?;
    let linear = linear_layers(config, feed_forward.len())?;
    let ahead = match feed_forward.first() {
        Some(part) => ahead(config, eps, &attention, part)?,
        None => None,
    };
    let blocks = linear.into_iter().zip(feed_forward);
    let blocks = blocks.map(|(linear, feed_forward)| {
        let mixer = match linear {
            true => PartConfig::Delta(delta.clone()),
            false => PartConfig::Attention(attention.clone()),
        };
        shared::pre_norms(eps, mixer, feed_forward)
    });
    let defaults = shared::Defaults {
        context: 131_072,
        tie_word_embeddings: false,
    };
    Ok(DecoderConfig {
        ahead,
        ignored: shared::words(&["mtp."]),
        unconverted_norms: &[
            "input_layernorm",
            "post_attention_layernorm",
            "q_norm",
            "k_norm",
        ],
        ..shared::decoder(config, eps, blocks.collect(), defaults)?
    })
}

/// The head that predicts further tokens, whose block looks at all tokens. Of several in a row, and with an embedding of its own, there
/// are none.
fn ahead(
    config: &Object,
    eps: f32,
    attention: &AttentionConfig,
    part: &PartConfig,
) -> Result<Option<AheadConfig>> {
    let count = |key| config.opt_u32(key, 0..=u32::MAX);
    let layers = match count("mtp_num_hidden_layers")? {
        None => count("num_nextn_predict_layers")?,
        layers => layers,
    };
    let dedicated = config.opt_bool("mtp_use_dedicated_embeddings")?;
    if layers.unwrap_or(1) != 1 || dedicated == Some(true) {
        return Ok(None);
    }
    let mixer = PartConfig::Attention(attention.clone());
    Ok(Some(AheadConfig {
        in_body: false,
        path: "mtp.".to_owned(),
        embedding_norm: shared::norm("pre_fc_norm_embedding", eps),
        hidden_norm: shared::norm("pre_fc_norm_hidden", eps),
        project: "fc",
        block_path: "layers.0.",
        block: shared::pre_norms(eps, mixer, part.clone()),
        norm: shared::norm("norm", eps),
        // As Qwen's own code for vLLM has it; in front of the norm fewer guesses are right.
        normed: true,
    }))
}

/// A quarter of each head where the config does not say.
fn rope(config: &Object, head_dim: i32) -> Result<Rope> {
    const KEY: &str = "partial_rotary_factor";
    let inner = config.opt_object("rope_parameters")?;
    let said = config.has(KEY) || inner.is_some_and(|inner| inner.has(KEY));
    let rope = ropes::rope(config, head_dim, Some(100_000.0))?;
    let quarter = head_dim / 4;
    match said {
        false if quarter > 1 && quarter % 2 == 0 => Ok(Rope {
            dims: quarter,
            ..rope
        }),
        false => Err(config.wrong("head_dim", "a multiple of 8, of which a quarter is turned")),
        true => Ok(rope),
    }
}

fn delta(config: &Object, eps: f32, mixed: bool) -> Result<DeltaConfig> {
    let (heads, dim) = (shared::LIMITS.heads, shared::LIMITS.head_dim);
    let size = |key: &str, most: u32| shared::size(config, key, most, None);
    let delta = DeltaConfig {
        key_heads: size("linear_num_key_heads", heads)?,
        value_heads: size("linear_num_value_heads", heads)?,
        key_dim: size("linear_key_head_dim", dim)?,
        value_dim: size("linear_value_head_dim", dim)?,
        taps: taps(config, "linear_conv_kernel_dim")?,
        eps,
        mixed,
    };
    match delta.value_heads % delta.key_heads {
        0 => Ok(delta),
        _ => Err(config.wrong(
            "linear_num_value_heads",
            &format!(
                "a multiple of linear_num_key_heads, which is {}",
                delta.key_heads
            ),
        )),
    }
}

/// Those whose attention is linear: as `layer_types` names them (which mlx-lm 0.32.0 does not look at), or all but every
/// `full_attention_interval`-th.
fn linear_layers(config: &Object, count: usize) -> Result<Vec<bool>> {
    let kinds = ["full_attention", "linear_attention"];
    if let Some(linear) = shared::layer_kinds(config, count, kinds)? {
        return Ok(linear);
    }
    let every = config.opt_u32("full_attention_interval", 1..=shared::LIMITS.layers)?;
    let every = every.unwrap_or(4) as usize;
    Ok((1..=count).map(|layer| layer % every != 0).collect())
}
