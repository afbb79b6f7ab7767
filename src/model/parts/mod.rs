//! The parts of a block, a mechanism in each file: what it declares, computes, keeps and costs.

pub mod attention;
pub mod beside;
pub mod conv;
pub mod delta;
pub mod kimi;
pub mod mamba;
pub mod mla;
pub mod mlp;
pub mod moe;
pub mod per_layer;

use self::conv::ConvConfig;
use super::config::PartConfig;
use super::cost::{Known, TypesOf};
use super::decoder::{Forward, Rows};
use super::plan::Scope;
use super::segments::Seen;
use crate::dtype::Dtype;
use crate::error::Result;
use crate::mlx::Array;

pub use attention::Attention;
pub use beside::Beside;
pub use conv::Conv;
pub use delta::Delta;
pub use kimi::Kimi;
pub use mamba::Mamba;
pub use mla::Mla;
pub use mlp::Mlp;
pub use moe::Moe;
pub use per_layer::PerLayer;

// Blocks are few.
#[allow(clippy::large_enum_variant)]
#[derive(Clone)]
pub enum Part {
    Attention(Attention),
    Conv(Conv),
    Delta(Delta),
    Kimi(Kimi),
    Mamba(Mamba),
    Mla(Mla),
    Mlp(Mlp),
    Moe(Moe),
    Beside(Beside),
    PerLayer(PerLayer),
}

/// The types of a part's arrays, as MLX promotes them.
pub struct PartTypes {
    /// Of what a cache keeps, keys and values alike.
    pub kept: Option<Dtype>,
    pub output: Dtype,
}

impl Part {
    pub fn declare(scope: &mut Scope, config: &PartConfig, hidden: i32) -> Result<Self> {
        Ok(match config {
            PartConfig::Attention(config) => {
                Part::Attention(Attention::declare(scope, config, hidden)?)
            }
            PartConfig::Conv(config) => Part::Conv(Conv::declare(scope, config, hidden)?),
            PartConfig::Delta(config) => Part::Delta(Delta::declare(scope, config, hidden)?),
            PartConfig::Kimi(config) => Part::Kimi(Kimi::declare(scope, config, hidden)?),
            PartConfig::Mamba(config) => Part::Mamba(Mamba::declare(scope, config, hidden)?),
            PartConfig::Mla(config) => Part::Mla(Mla::declare(scope, config, hidden)?),
            PartConfig::Mlp(config) => Part::Mlp(Mlp::declare(scope, config, hidden)?),
            PartConfig::Moe(config) => Part::Moe(Moe::declare(scope, config, hidden)?),
            PartConfig::Beside(config) => Part::Beside(Beside::declare(scope, config, hidden)?),
            PartConfig::PerLayer { width } => {
                Part::PerLayer(PerLayer::declare(scope, *width, hidden)?)
            }
        })
    }

    /// x `[batch, n, hidden]` → the same, or of what mixes tokens the wanted rows of it.
    pub fn forward(&self, with: &Forward, x: &Array, seen: Seen, rows: Rows) -> Result<Array> {
        match self {
            Part::Attention(attention) => attention.forward(with, x, seen, rows),
            Part::Conv(conv) => conv.forward(with, x, seen, rows),
            Part::Delta(delta) => delta.forward(with, x, seen, rows),
            Part::Kimi(kimi) => kimi.forward(with, x, seen, rows),
            Part::Mamba(mamba) => mamba.forward(with, x, seen, rows),
            Part::Mla(mla) => mla.forward(with, x, seen, rows),
            Part::Mlp(mlp) => mlp.forward(with, x),
            Part::Moe(moe) => moe.forward(with, x),
            Part::Beside(beside) => beside.forward(with, x),
            Part::PerLayer(part) => part.forward(with, x, seen.per_layer()),
        }
    }

    /// Whether it looks at other tokens: so it gives the wanted rows only.
    pub fn mixes(&self) -> bool {
        self.cache().is_some()
    }

    /// Whether what it sees was kept by another block.
    pub fn borrows(&self) -> bool {
        match self {
            Part::Attention(attention) => attention.config().keys_of.is_some(),
            _ => false,
        }
    }

    /// The number of the cache that it sees, its own or another block's.
    pub fn cache(&self) -> Option<usize> {
        match self {
            Part::Attention(attention) => Some(attention.cache()),
            Part::Conv(conv) => Some(conv.cache()),
            Part::Delta(delta) => Some(delta.cache()),
            Part::Kimi(kimi) => Some(kimi.cache()),
            Part::Mamba(mamba) => Some(mamba.cache()),
            Part::Mla(mla) => Some(mla.cache()),
            Part::Mlp(_) | Part::Moe(_) | Part::Beside(_) | Part::PerLayer(_) => None,
        }
    }

    /// `x`: the type of what goes in.
    pub fn types<T: Known>(&self, of: &TypesOf<T>, x: Dtype) -> PartTypes {
        match self {
            Part::Attention(attention) => attention.types(of, x),
            Part::Conv(conv) => conv.types(of, x),
            Part::Delta(delta) => delta.types(of, x),
            Part::Kimi(kimi) => kimi.types(of, x),
            Part::Mamba(mamba) => mamba.types(of, x),
            Part::Mla(mla) => mla.types(of, x),
            Part::Mlp(mlp) => mlp.types(of, x),
            Part::Moe(moe) => moe.types(of, x),
            Part::Beside(beside) => beside.types(of, x),
            Part::PerLayer(part) => part.types(of, x),
        }
    }

    /// Numbers of a token that are there while it is computed operation by operation, beside its input and output.
    pub fn row(&self, hidden: u64) -> u64 {
        match self {
            Part::Attention(attention) => attention.config().row(),
            Part::Conv(_) => ConvConfig::row(hidden),
            Part::Delta(delta) => delta.config().row(),
            Part::Kimi(kimi) => kimi.config().row(),
            Part::Mamba(mamba) => mamba.config().row(),
            Part::Mla(mla) => mla.config().row(),
            Part::Mlp(mlp) => mlp.config().row(),
            Part::Moe(moe) => moe.config().row(hidden),
            Part::Beside(beside) => beside.config().row(hidden),
            Part::PerLayer(part) => 3 * part.width(),
        }
    }

    /// Numbers of a token, among `width` in its row, that gradients need of it.
    pub fn training_row(&self, hidden: u64, width: u64) -> u64 {
        match self {
            Part::Attention(attention) => attention.config().training_row(width),
            Part::Conv(_) => 2 * ConvConfig::row(hidden),
            Part::Delta(delta) => delta.config().training_row(),
            Part::Kimi(kimi) => kimi.config().training_row(),
            Part::Mamba(mamba) => mamba.config().training_row(),
            Part::Mla(mla) => mla.config().training_row(width),
            Part::Mlp(mlp) => mlp.config().training_row(),
            Part::Moe(moe) => moe.config().training_row(hidden),
            Part::Beside(beside) => beside.config().training_row(hidden),
            Part::PerLayer(part) => 4 * part.width(),
        }
    }
}
