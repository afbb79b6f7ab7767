//! The multilayer perceptron of a dense block.

use super::PartTypes;
use crate::dtype::Dtype;
use crate::error::Result;
use crate::mlx::nn::{self, Activation};
use crate::mlx::{ops, Array};
use crate::model::cost::{size, Known, TypesOf};
use crate::model::decoder::Forward;
use crate::model::modules::Site;
use crate::model::plan::Scope;

#[derive(Clone, Debug, PartialEq)]
pub struct MlpConfig {
    /// Inside of its block.
    pub name: &'static str,
    /// Of gate, up and down; what a folder may have them under comes behind.
    pub names: [&'static [&'static str]; 3],
    /// Of gate and up in one.
    pub fused_name: &'static str,
    /// The part, gate and up in one, and down, as a folder may have them that was not converted to MLX's layout.
    pub unconverted: Option<(&'static str, &'static str, &'static [&'static str])>,
    pub intermediate_size: i32,
    pub bias: bool,
    pub shape: MlpShape,
    pub activation: Activation,
    /// The part of a row's gates, were they distributed normally, that count as zero: those below what separates them, which all
    /// others are lowered by.
    pub sparsity: Option<f32>,
}

/// What goes through the activation, and what is multiplied with that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MlpShape {
    /// `gate_proj`, `up_proj`
    Gated,
    /// `gate_up_proj`: the rows of the one, then those of the other
    Fused,
    /// `up_proj` through an activation that needs no gate
    Plain,
    /// `up_proj` through an xIELU, whose numbers the folder has; nothing is multiplied with it
    Xielu,
}

/// Of folders that do not say.
const XIELU_BETA: f32 = 0.5;
const XIELU_EPS: f32 = -1e-6;

#[derive(Clone)]
pub struct Mlp {
    config: MlpConfig,
    pub(in crate::model) inner: Inner,
    /// `[hidden, intermediate]`
    pub(in crate::model) down_proj: Site,
}

#[derive(Clone, Copy)]
pub(in crate::model) enum Inner {
    /// Each `[intermediate, hidden]`.
    Gated { gate_proj: Site, up_proj: Site },
    /// `[2 * intermediate, hidden]`
    Fused { gate_up_proj: Site },
    /// `[intermediate, hidden]`
    Plain { up_proj: Site },
    Xielu {
        /// `[intermediate, hidden]`
        up_proj: Site,
        /// One number each.
        alpha_p: Site,
        alpha_n: Site,
        beta: Option<Site>,
        eps: Option<Site>,
    },
}

impl MlpConfig {
    pub fn new(intermediate_size: i32, activation: Activation) -> Self {
        MlpConfig {
            name: "mlp",
            names: [&["gate_proj"], &["up_proj"], &["down_proj"]],
            fused_name: "gate_up_proj",
            unconverted: None,
            intermediate_size,
            bias: false,
            shape: MlpShape::Gated,
            activation,
            sparsity: None,
        }
    }

    /// Weights that a token is multiplied with.
    pub fn parameters(&self, hidden: u64) -> u64 {
        3 * hidden * size(self.intermediate_size)
    }

    /// The halves and their product.
    pub fn row(&self) -> u64 {
        3 * size(self.intermediate_size)
    }

    pub fn training_row(&self) -> u64 {
        4 * size(self.intermediate_size)
    }
}

impl Mlp {
    pub fn declare(scope: &mut Scope, config: &MlpConfig, hidden: i32) -> Result<Self> {
        if let Some((part, both, down)) = config.unconverted {
            if scope.has_matrix(&format!("{part}.{both}")) {
                let fused = MlpConfig {
                    name: part,
                    names: [&[], &[], down],
                    fused_name: both,
                    shape: MlpShape::Fused,
                    unconverted: None,
                    ..config.clone()
                };
                return Mlp::declare(scope, &fused, hidden);
            }
        }
        let [gate, up, down] = config.names;
        let (inner, bias) = (config.intermediate_size, config.bias);
        let mut scope = scope.within(config.name);
        let inner = match config.shape {
            MlpShape::Gated => Inner::Gated {
                gate_proj: scope.linear_of(gate, [inner, hidden], bias)?,
                up_proj: scope.linear_of(up, [inner, hidden], bias)?,
            },
            MlpShape::Fused => Inner::Fused {
                gate_up_proj: scope.linear(config.fused_name, [2 * inner, hidden], bias)?,
            },
            MlpShape::Plain => Inner::Plain {
                up_proj: scope.linear_of(up, [inner, hidden], bias)?,
            },
            MlpShape::Xielu => {
                let up_proj = scope.linear("up_proj", [inner, hidden], bias)?;
                let mut numbers = scope.within("act_fn");
                let (alpha_p, alpha_n) = (numbers.number("alpha_p")?, numbers.number("alpha_n")?);
                let (beta, eps) = (numbers.number("beta")?, numbers.number("eps")?);
                let missing = || numbers.missing("alpha_p");
                Inner::Xielu {
                    up_proj,
                    alpha_p: alpha_p.ok_or_else(missing)?,
                    alpha_n: alpha_n.ok_or_else(missing)?,
                    beta,
                    eps,
                }
            }
        };
        let wide = [hidden, config.intermediate_size];
        Ok(Mlp {
            inner,
            down_proj: scope.linear_of(down, wide, bias)?,
            config: config.clone(),
        })
    }

    pub fn config(&self) -> &MlpConfig {
        &self.config
    }

    /// With the folder's numbers.
    pub fn activation(&self, with: &Forward) -> Result<Activation> {
        let Inner::Xielu {
            alpha_p,
            alpha_n,
            beta,
            eps,
            ..
        } = self.inner
        else {
            return Ok(self.config.activation);
        };
        let softplus = |x: f32| f64::from(x).exp().ln_1p();
        let (alpha_p, alpha_n) = (with.number(alpha_p)?, with.number(alpha_n)?);
        let or = |site: Option<Site>, own: f32| site.map_or(Ok(own), |site| with.number(site));
        let beta = or(beta, XIELU_BETA)?;
        Ok(Activation::Xielu {
            alpha_p: softplus(alpha_p) as f32,
            alpha_n: (f64::from(beta) + softplus(alpha_n)) as f32,
            beta,
            eps: or(eps, XIELU_EPS)?,
        })
    }

    /// x `[…, hidden]` → the same shape
    pub fn forward(&self, with: &Forward, x: &Array) -> Result<Array> {
        let (gate, up) = match self.inner {
            Inner::Gated { gate_proj, up_proj } => {
                (with.linear(gate_proj, x)?, with.linear(up_proj, x)?)
            }
            Inner::Fused { gate_up_proj } => {
                let both = with.linear(gate_up_proj, x)?;
                let half = self.config.intermediate_size;
                (
                    ops::columns(&both, 0..half)?,
                    ops::columns(&both, half..2 * half)?,
                )
            }
            Inner::Plain { up_proj } | Inner::Xielu { up_proj, .. } => {
                let activation = self.activation(with)?;
                let inner = nn::activated(&with.linear(up_proj, x)?, activation)?;
                return with.linear(self.down_proj, &inner);
            }
        };
        let gate = match self.config.sparsity {
            Some(sparsity) => sparse(&gate, sparsity)?,
            None => gate,
        };
        let inner = nn::gated(&gate, &up, self.config.activation)?;
        with.linear(self.down_proj, &inner)
    }

    pub fn types<T: Known>(&self, of: &TypesOf<T>, x: Dtype) -> PartTypes {
        let inner = match self.inner {
            Inner::Gated { gate_proj, up_proj } => {
                of.linear(gate_proj, x).wider(of.linear(up_proj, x))
            }
            Inner::Fused {
                gate_up_proj: inner,
            }
            | Inner::Plain { up_proj: inner }
            | Inner::Xielu { up_proj: inner, .. } => of.linear(inner, x),
        };
        PartTypes {
            kept: None,
            output: of.linear(self.down_proj, inner),
        }
    }
}

/// gate `[…, intermediate]` above the quantile of its row, and zero below
fn sparse(gate: &Array, sparsity: f32) -> Result<Array> {
    let part = Array::scalar(2.0 * sparsity - 1.0, Dtype::F32)?;
    let root = Array::scalar(std::f32::consts::SQRT_2, Dtype::F32)?;
    let deviations = ops::multiply(&root, &ops::erfinv(&part)?)?;
    let deviations = ops::astype(&deviations, gate.dtype())?;
    // Both `[…, 1]`.
    let (mean, deviation) = (ops::mean(gate, -1, true)?, ops::deviation(gate, -1, true)?);
    let cutoff = ops::add(&mean, &ops::multiply(&deviation, &deviations)?)?;
    let zero = Array::scalar(0.0, gate.dtype())?;
    ops::maximum(&zero, &ops::subtract(gate, &cutoff)?)
}
