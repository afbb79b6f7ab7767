//! GLM 4.7 Flash: DeepSeek V3's layers with other sizes.

use super::deepseek_v3::{read_as, Own};
use crate::error::Result;
use crate::load::Object;
use crate::model::config::DecoderConfig;

pub fn read(config: &Object) -> Result<DecoderConfig> {
    let own = Own {
        eps: 1e-5,
        // As in mlx-lm; transformers has DeepSeek's 1e-6 there.
        latent_eps: None,
        context: 202_752,
        theta: 1_000_000.0,
        head_dims: [192, 256],
        query_rank: 768,
        dense: 1,
        shared: 1,
        scale: 1.8,
        ahead: None,
    };
    read_as(config, &own)
}
