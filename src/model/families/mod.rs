//! One file per family: `config.json` into a [`DecoderConfig`]. A new family is one more file and one more row here.

mod gemma3;
mod llama;
mod qwen2;
mod qwen3;
mod shared;

use super::config::DecoderConfig;
use crate::error::{Error, Result};
use crate::load::Object;
use crate::text::ChatFormat;

pub struct Family {
    pub model_type: &'static str,
    pub read: fn(&Object) -> Result<DecoderConfig>,
    /// How its conversations are written where the folder has no template of its own.
    pub chat: ChatFormat,
}

pub const FAMILIES: &[Family] = &[
    Family {
        model_type: "gemma3",
        read: gemma3::read_wrapper,
        chat: ChatFormat::Gemma,
    },
    Family {
        model_type: "gemma3_text",
        read: gemma3::read,
        chat: ChatFormat::Gemma,
    },
    Family {
        model_type: "llama",
        read: llama::read,
        chat: ChatFormat::Llama,
    },
    Family {
        model_type: "mistral",
        read: llama::read,
        chat: ChatFormat::Mistral,
    },
    Family {
        model_type: "qwen2",
        read: qwen2::read,
        chat: ChatFormat::Qwen,
    },
    Family {
        model_type: "qwen3",
        read: qwen3::read,
        chat: ChatFormat::Qwen,
    },
];

/// The family that `config.json` names.
pub fn find(config: &Object) -> Result<&'static Family> {
    let model_type = config.str("model_type")?;
    FAMILIES
        .iter()
        .find(|family| family.model_type == model_type)
        .ok_or_else(|| {
            let known: Vec<_> = FAMILIES.iter().map(|family| family.model_type).collect();
            let shown: String = model_type.chars().take(60).collect();
            Error::unsupported(format!(
                "config.json: the model_type \"{shown}\" is not supported; supported are {}",
                known.join(", ")
            ))
        })
}

#[cfg(test)]
mod tests;
