//! SmolLM 3: llama, with layers in which positions do not show.

use super::{llama, shared};
use crate::error::Result;
use crate::load::{Limits, Object};
use crate::model::config::{DecoderConfig, PartConfig};

pub fn read(config: &Object) -> Result<DecoderConfig> {
    let mut decoder = llama::read(config)?;
    let turns = turning_layers(config, decoder.blocks.len())?;
    for (block, turns) in decoder.blocks.iter_mut().zip(turns) {
        for half in &mut block.halves {
            if let PartConfig::Attention(attention) = &mut half.part {
                attention.rope = attention.rope.take().filter(|_| turns);
            }
        }
    }
    decoder.context = shared::context(config, 32_768)?;
    Ok(decoder)
}

/// In which layers positions show: `no_rope_layers` is 1 there, whatever its name says.
fn turning_layers(config: &Object, count: usize) -> Result<Vec<bool>> {
    const KEY: &str = "no_rope_layers";
    let Some(list) = config.opt_array(KEY)? else {
        let range = 1..=Limits::DEFAULT.layers;
        let every = config.opt_u32("no_rope_layer_interval", range)?;
        let every = every.unwrap_or(4) as usize;
        return Ok((1..=count).map(|layer| layer % every != 0).collect());
    };
    let turns = list.iter().map(|one| match one.as_u64() {
        Some(0) => Some(false),
        Some(1) => Some(true),
        _ => None,
    });
    let turns: Option<Vec<bool>> = turns.collect();
    let must = format!("a list of num_hidden_layers ({count}) times 0 or 1");
    let turns = turns.filter(|turns| turns.len() == count);
    turns.ok_or_else(|| config.wrong(KEY, &must))
}
