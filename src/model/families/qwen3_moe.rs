//! Qwen 3 with experts: qwen3's attention, no shared expert.

use super::{qwen2_moe, ropes, shared};
use crate::error::Result;
use crate::load::Object;
use crate::model::config::DecoderConfig;

pub fn read(config: &Object) -> Result<DecoderConfig> {
    let hidden_size = shared::hidden_size(config, None)?;
    let mut attention = shared::attention(config, hidden_size, (None, None, Some(128)))?;
    attention.qk_norm = Some(shared::head_norms(shared::norm_eps(config, None)?));
    attention.rope = Some(ropes::rope(config, attention.head_dim, Some(1_000_000.0))?);
    qwen2_moe::blocks(config, attention, qwen2_moe::moe(config)?)
}
