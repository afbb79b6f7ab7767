//! Qwen 3.5 to 3.8, dense and with experts: the text model of an image folder, or of one of its own. As Qwen 3 Next, with the
//! projections of linear attention apart.

use super::{qwen2_moe, qwen3_next, shared};
use crate::error::Result;
use crate::load::Object;
use crate::model::config::{DecoderConfig, PartConfig};

pub fn read(config: &Object) -> Result<DecoderConfig> {
    let text = config.opt_object("text_config")?;
    let own = text.as_ref().unwrap_or(config);
    let count = shared::layer_count(own, None)?;
    let experts = own.opt_u32("num_experts", 0..=shared::LIMITS.experts)?;
    let part = match experts.unwrap_or(0) {
        0 => PartConfig::Mlp(shared::silu_mlp(own)?),
        _ => {
            let mut moe = qwen2_moe::shared_moe(own)?;
            moe.router.normalise = own.opt_bool("norm_topk_prob")?.unwrap_or(true);
            PartConfig::Moe(moe)
        }
    };
    let decoder = qwen3_next::decoder(own, vec![part; count], false)?;
    let tied = match own.opt_bool("tie_word_embeddings")? {
        None => config.opt_bool("tie_word_embeddings")?,
        tied => tied,
    };
    Ok(DecoderConfig {
        tie_word_embeddings: Some(tied.unwrap_or(false)),
        names: shared::INSIDE_NAMES,
        ignored: shared::words(&["mtp.", "vision_tower.", "model.visual."]),
        ..decoder
    })
}
