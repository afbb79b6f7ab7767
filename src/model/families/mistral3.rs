//! The text model of a Mistral 3 folder, of one of two families; its vision tower is not run.

use super::{llama, ministral3, shared};
use crate::error::Result;
use crate::load::Object;
use crate::model::config::DecoderConfig;

pub fn read(config: &Object) -> Result<DecoderConfig> {
    let text = config.object("text_config")?;
    let read = match text.opt_str("model_type")? {
        Some("ministral3") => ministral3::read,
        _ => llama::read,
    };
    let tied = match text.opt_bool("tie_word_embeddings")? {
        None => config.opt_bool("tie_word_embeddings")?,
        tied => tied,
    };
    Ok(DecoderConfig {
        tie_word_embeddings: Some(tied.unwrap_or(false)),
        names: shared::INSIDE_NAMES,
        ignored: shared::words(&["vision_tower.", "multi_modal_projector."]),
        ..read(&text)?
    })
}
