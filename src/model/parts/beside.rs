//! A dense MLP and a mixture of experts side by side: what both give is added.

use super::mlp::{Mlp, MlpConfig};
use super::moe::{Moe, MoeConfig};
use super::PartTypes;
use crate::dtype::Dtype;
use crate::error::Result;
use crate::mlx::{ops, Array};
use crate::model::config::NormConfig;
use crate::model::cost::{Known, TypesOf};
use crate::model::decoder::Forward;
use crate::model::modules::Site;
use crate::model::plan::Scope;

/// `mlp_norms[1](mlp(mlp_norms[0](x))) + moe_norms[1](moe(moe_norms[0](x)))`; the router looks at x itself.
#[derive(Clone, Debug, PartialEq)]
pub struct BesideConfig {
    pub mlp: MlpConfig,
    /// Before and behind.
    pub mlp_norms: [NormConfig; 2],
    pub moe: MoeConfig,
    /// Before and behind.
    pub moe_norms: [NormConfig; 2],
}

#[derive(Clone)]
pub struct Beside {
    config: BesideConfig,
    mlp: Mlp,
    /// `[hidden]` each
    mlp_norms: [Site; 2],
    moe: Moe,
    /// `[hidden]` each
    moe_norms: [Site; 2],
}

impl BesideConfig {
    /// Weights that a token is multiplied with.
    pub fn parameters(&self, hidden: u64) -> u64 {
        self.mlp.parameters(hidden) + self.moe.parameters(hidden)
    }

    /// With what the norms give.
    pub fn row(&self, hidden: u64) -> u64 {
        self.mlp.row() + self.moe.row(hidden) + 5 * hidden
    }

    pub fn training_row(&self, hidden: u64) -> u64 {
        self.mlp.training_row() + self.moe.training_row(hidden) + 5 * hidden
    }
}

impl Beside {
    pub fn declare(scope: &mut Scope, config: &BesideConfig, hidden: i32) -> Result<Self> {
        let norms = |[before, behind]: &[NormConfig; 2], scope: &mut Scope| -> Result<_> {
            Ok([scope.norm(before, hidden)?, scope.norm(behind, hidden)?])
        };
        Ok(Beside {
            mlp_norms: norms(&config.mlp_norms, scope)?,
            mlp: Mlp::declare(scope, &config.mlp, hidden)?,
            moe_norms: norms(&config.moe_norms, scope)?,
            moe: Moe::declare(scope, &config.moe, hidden)?,
            config: config.clone(),
        })
    }

    pub fn config(&self) -> &BesideConfig {
        &self.config
    }

    /// x `[…, hidden]` → the same shape
    pub fn forward(&self, with: &Forward, x: &Array) -> Result<Array> {
        let [before, behind] = self.mlp_norms;
        let dense = self.mlp.forward(with, &with.norm(before, x)?)?;
        let dense = with.norm(behind, &dense)?;
        let [before, behind] = self.moe_norms;
        let mixed = self.moe.forward_by(with, &with.norm(before, x)?, x)?;
        ops::add(&dense, &with.norm(behind, &mixed)?)
    }

    pub fn types<T: Known>(&self, of: &TypesOf<T>, x: Dtype) -> PartTypes {
        let [before, behind] = self.mlp_norms;
        let dense = self.mlp.types(of, of.norm(before, x)).output;
        let dense = of.norm(behind, dense);
        let [before, behind] = self.moe_norms;
        let mixed = self.moe.types(of, of.norm(before, x)).output;
        PartTypes {
            kept: None,
            output: dense.wider(of.norm(behind, mixed)),
        }
    }
}
