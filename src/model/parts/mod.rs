//! The parts of a block, a mechanism in each file: what it declares, computes, keeps and costs.

pub mod attention;
pub mod mla;
pub mod mlp;
pub mod moe;

use super::config::PartConfig;
use super::cost::{Known, TypesOf};
use super::decoder::{Forward, Rows, Seen};
use super::plan::Scope;
use crate::dtype::Dtype;
use crate::error::Result;
use crate::mlx::Array;

pub use attention::Attention;
pub use mla::Mla;
pub use mlp::Mlp;
pub use moe::Moe;

// Blocks are few.
#[allow(clippy::large_enum_variant)]
#[derive(Clone)]
pub enum Part {
    Attention(Attention),
    Mla(Mla),
    Mlp(Mlp),
    Moe(Moe),
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
            PartConfig::Mla(config) => Part::Mla(Mla::declare(scope, config, hidden)?),
            PartConfig::Mlp(config) => Part::Mlp(Mlp::declare(scope, config, hidden)?),
            PartConfig::Moe(config) => Part::Moe(Moe::declare(scope, config, hidden)?),
        })
    }

    /// x `[batch, n, hidden]` → the same, or of what mixes tokens the wanted rows of it.
    pub fn forward(&self, with: &Forward, x: &Array, seen: Seen, rows: Rows) -> Result<Array> {
        match self {
            Part::Attention(attention) => attention.forward(with, x, seen, rows),
            Part::Mla(mla) => mla.forward(with, x, seen, rows),
            Part::Mlp(mlp) => mlp.forward(with, x),
            Part::Moe(moe) => moe.forward(with, x),
        }
    }

    /// Whether it looks at other tokens: so it gives the wanted rows only.
    pub fn mixes(&self) -> bool {
        self.cache().is_some()
    }

    /// Its cache's number, where it keeps something.
    pub fn cache(&self) -> Option<usize> {
        match self {
            Part::Attention(attention) => Some(attention.cache()),
            Part::Mla(mla) => Some(mla.cache()),
            Part::Mlp(_) | Part::Moe(_) => None,
        }
    }

    /// `x`: the type of what goes in.
    pub fn types<T: Known>(&self, of: &TypesOf<T>, x: Dtype) -> PartTypes {
        match self {
            Part::Attention(attention) => attention.types(of, x),
            Part::Mla(mla) => mla.types(of, x),
            Part::Mlp(mlp) => mlp.types(of, x),
            Part::Moe(moe) => moe.types(of, x),
        }
    }

    /// Numbers of a token that are there while it is computed operation by operation, beside its input and output.
    pub fn row(&self, hidden: u64) -> u64 {
        match self {
            Part::Attention(attention) => attention.config().row(),
            Part::Mla(mla) => mla.config().row(),
            Part::Mlp(mlp) => mlp.config().row(),
            Part::Moe(moe) => moe.config().row(hidden),
        }
    }

    /// Numbers of a token, among `width` in its row, that gradients need of it.
    pub fn training_row(&self, hidden: u64, width: u64) -> u64 {
        match self {
            Part::Attention(attention) => attention.config().training_row(width),
            Part::Mla(mla) => mla.config().training_row(width),
            Part::Mlp(mlp) => mlp.config().training_row(),
            Part::Moe(moe) => moe.config().training_row(hidden),
        }
    }
}
