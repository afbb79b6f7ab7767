//! One file per family: `config.json` into a [`DecoderConfig`]. A new family is one more file and one more row here.

mod apertus;
mod bert;
mod deepseek_v3;
mod exaone4;
mod experts;
mod gemma2;
mod gemma3;
mod gemma3n;
mod gemma4;
mod glm4;
mod glm4_moe;
mod glm4_moe_lite;
mod gpt_oss;
mod granite;
mod granitemoehybrid;
mod kimi_linear;
mod laguna;
mod lfm2;
mod lfm2_moe;
mod llama;
mod minimax;
mod ministral3;
mod mistral3;
mod mixtral;
mod modernbert;
mod muse_glimmer;
mod nemotron_h;
mod olmo2;
mod olmo3;
mod olmoe;
mod phi3;
mod qwen2;
mod qwen2_moe;
mod qwen3;
mod qwen3_5;
mod qwen3_moe;
mod qwen3_next;
mod ropes;
mod seed_oss;
mod shared;
mod smollm3;

use super::config::DecoderConfig;
use crate::error::{Error, Result};
use crate::load::Object;
use crate::text::ChatFormat;
use crate::words::quoted;

pub struct Family {
    pub model_type: &'static str,
    pub read: fn(&Object) -> Result<DecoderConfig>,
    /// How its conversations are written where the folder has no template of its own; None: not known here.
    pub chat: Option<ChatFormat>,
}

pub const FAMILIES: &[Family] = &[
    family("apertus", apertus::read, None),
    family("bert", bert::read, None),
    family("deepseek_v3", deepseek_v3::read, None),
    family("exaone4", exaone4::read, None),
    family("gemma2", gemma2::read, Some(ChatFormat::Gemma)),
    family("gemma3", gemma3::read_wrapper, Some(ChatFormat::Gemma)),
    family("gemma3_text", gemma3::read, Some(ChatFormat::Gemma)),
    family("gemma3n", gemma3n::read, Some(ChatFormat::Gemma)),
    family("gemma4", gemma4::read_wrapper, None),
    family("gemma4_text", gemma4::read, None),
    family("gemma4_unified", gemma4::read_wrapper, None),
    family("glm4", glm4::read, None),
    family("glm4_moe", glm4_moe::read, None),
    family("glm4_moe_lite", glm4_moe_lite::read, None),
    family("gpt_oss", gpt_oss::read, None),
    family("granite", granite::read, None),
    family("granitemoehybrid", granitemoehybrid::read, None),
    family("kimi_k2", deepseek_v3::read, None),
    family("kimi_linear", kimi_linear::read, None),
    family("laguna", laguna::read, None),
    family("lfm2", lfm2::read, Some(ChatFormat::Qwen)),
    family("lfm2_moe", lfm2_moe::read, Some(ChatFormat::Qwen)),
    family("llama", llama::read, Some(ChatFormat::Llama)),
    family("minimax", minimax::read, None),
    family("minimax_m2", minimax::read, None),
    family("ministral3", ministral3::read, Some(ChatFormat::Mistral)),
    family("mistral", llama::read, Some(ChatFormat::Mistral)),
    family("mistral3", mistral3::read, Some(ChatFormat::Mistral)),
    family("mixtral", mixtral::read, Some(ChatFormat::Mistral)),
    family("modernbert", modernbert::read, None),
    family("muse_glimmer", muse_glimmer::read, None),
    family("nemotron_h", nemotron_h::read, None),
    family("olmo2", olmo2::read, None),
    family("olmo3", olmo3::read, None),
    family("olmoe", olmoe::read, None),
    family("phi3", phi3::read, None),
    family("qwen2", qwen2::read, Some(ChatFormat::Qwen)),
    family("qwen2_moe", qwen2_moe::read, Some(ChatFormat::Qwen)),
    family("qwen3", qwen3::read, Some(ChatFormat::Qwen)),
    family("qwen3_moe", qwen3_moe::read, Some(ChatFormat::Qwen)),
    family("qwen3_5", qwen3_5::read, Some(ChatFormat::Qwen)),
    family("qwen3_5_moe", qwen3_5::read, Some(ChatFormat::Qwen)),
    family("qwen3_5_moe_text", qwen3_5::read, Some(ChatFormat::Qwen)),
    family("qwen3_5_text", qwen3_5::read, Some(ChatFormat::Qwen)),
    family("qwen3_next", qwen3_next::read, Some(ChatFormat::Qwen)),
    family("roberta", bert::read_roberta, None),
    family("seed_oss", seed_oss::read, None),
    family("smollm3", smollm3::read, Some(ChatFormat::Qwen)),
    family("xlm-roberta", bert::read_roberta, None),
];

const fn family(
    model_type: &'static str,
    read: fn(&Object) -> Result<DecoderConfig>,
    chat: Option<ChatFormat>,
) -> Family {
    Family {
        model_type,
        read,
        chat,
    }
}

/// The family that `config.json` names.
pub fn find(config: &Object) -> Result<&'static Family> {
    let model_type = config.str("model_type")?;
    FAMILIES
        .iter()
        .find(|family| family.model_type == model_type)
        .ok_or_else(|| {
            let known: Vec<_> = FAMILIES.iter().map(|family| family.model_type).collect();
            let shown = quoted(model_type, 60);
            Error::unsupported(format!(
                "config.json: the model_type {shown} is not supported; supported are {}",
                known.join(", ")
            ))
        })
}

#[cfg(test)]
mod tests;
