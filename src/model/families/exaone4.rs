//! EXAONE 4: norms behind each part, norms of query and key heads; among layers with windows those that see everything have
//! no positions.

use super::ropes;
use super::shared::{self, Defaults};
use crate::error::Result;
use crate::load::Object;
use crate::model::config::{DecoderConfig, PartConfig};

pub fn read(config: &Object) -> Result<DecoderConfig> {
    let hidden_size = shared::hidden_size(config, None)?;
    let eps = shared::norm_eps(config, None)?;
    let mut attention = shared::attention(config, hidden_size, (None, None, None))?;
    attention.qk_norm = Some(shared::head_norms(eps));
    attention.rope = Some(ropes::rope(config, attention.head_dim, Some(1_000_000.0))?);
    let count = shared::layer_count(config, None)?;
    let mut attentions = vec![attention; count];
    if let Some(sliding) = sliding(config, count)? {
        let window = shared::window(config, Some(4096))?;
        shared::slide(&mut attentions, &sliding, window);
        for attention in attentions.iter_mut().filter(|of| of.window.is_none()) {
            attention.rope = None;
        }
    }
    let mlp = shared::silu_mlp(config)?;
    let blocks = attentions.into_iter();
    let blocks = blocks.map(|of| shared::post_norm(eps, of, PartConfig::Mlp(mlp.clone())));
    let defaults = Defaults {
        context: 32_768,
        tie_word_embeddings: false,
    };
    shared::decoder(config, eps, blocks.collect(), defaults)
}

/// Which layers have a window; None: no layer has.
fn sliding(config: &Object, count: usize) -> Result<Option<Vec<bool>>> {
    const KEY: &str = "sliding_window_pattern";
    // The list is looked at in any case, so that one that is wrong is an error.
    let listed = shared::sliding_layers(config, count)?;
    if !config.has("sliding_window") {
        return Ok(None);
    }
    if let Some(sliding) = listed {
        return Ok(Some(sliding).filter(|sliding| sliding.contains(&true)));
    }
    if !config.has(KEY) {
        return Ok(None);
    }
    let pattern = config.str(KEY)?;
    let letters = pattern.chars().take(shared::LIMITS.layers as usize);
    let letters = letters.map(|letter| match letter {
        'L' => Ok(true),
        'G' => Ok(false),
        _ => Err(config.wrong(KEY, "a word of the letters L and G")),
    });
    let letters: Vec<bool> = letters.collect::<Result<_>>()?;
    if letters.is_empty() {
        return Ok(None);
    }
    Ok(Some(letters.into_iter().cycle().take(count).collect()))
}
