//! OLMo 3: OLMo 2 with windows on three layers of four, whose positions are not stretched.

use super::{olmo2, ropes, shared};
use crate::error::Result;
use crate::load::Object;
use crate::model::config::DecoderConfig;

pub fn read(config: &Object) -> Result<DecoderConfig> {
    let count = shared::layer_count(config, None)?;
    let sliding = match shared::sliding_layers(config, count)? {
        Some(sliding) => sliding,
        None => (1..=count).map(|layer| layer % 4 != 0).collect(),
    };
    let window = shared::window(config, Some(4096))?;
    let mut attentions = vec![olmo2::attention(config)?; count];
    shared::slide(&mut attentions, &sliding, window);
    for attention in attentions.iter_mut().filter(|of| of.window.is_some()) {
        let base = attention.rope.as_ref().map(|rope| rope.base);
        attention.rope = base.map(|base| ropes::plain(attention.head_dim, base));
    }
    olmo2::blocks(config, attentions, false)
}
