//! A mixture of experts: a router chooses some for each token, and their outputs are summed by its weights.

use super::mlp::{Mlp, MlpConfig};
use super::PartTypes;
use crate::dtype::Dtype;
use crate::error::Result;
use crate::mlx::nn::{self, Activation, Groups, Routing, Score};
use crate::mlx::{ops, Array};
use crate::model::cost::{size, Known, TypesOf};
use crate::model::decoder::Forward;
use crate::model::modules::Site;
use crate::model::plan::{ExpertNames, Scope};

/// Rows by experts from which on they are put in order.
const SORTED: i32 = 64;

#[derive(Clone, Debug, PartialEq)]
pub struct MoeConfig {
    /// Inside of its block.
    pub name: &'static str,
    /// As a folder may have it that was not converted to MLX's layout.
    pub unconverted: Option<&'static str>,
    pub experts: i32,
    /// Of each token.
    pub top_k: i32,
    /// Of one expert.
    pub intermediate_size: i32,
    pub activation: Activation,
    /// Or `down(activation(up))` without a gate.
    pub gated: bool,
    /// Experts compute in this width, with a projection before and one behind.
    pub latent: Option<i32>,
    /// Of these two projections.
    pub latent_bias: bool,
    /// Of the experts.
    pub bias: bool,
    pub names: ExpertNames,
    pub router: RouterConfig,
    /// What all tokens go through beside.
    pub shared: Option<SharedConfig>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct RouterConfig {
    /// The first that a folder has.
    pub names: &'static [&'static str],
    pub bias: bool,
    /// What rows go through before the router.
    pub norm: Option<RouterNorm>,
    /// The name of numbers that the weights of each expert are multiplied by.
    pub gains: Option<&'static str>,
    /// `cap * tanh(logits / cap)`
    pub softcap: Option<f32>,
    pub score: Score,
    /// Numbers that are added to the scores when experts are chosen, and not to their weights: the first of these names that a
    /// folder has. Empty: none.
    pub correction: &'static [&'static str],
    pub groups: Option<Groups>,
    /// Weights are divided by their sum.
    pub normalise: bool,
    /// What weights are multiplied by.
    pub scale: f32,
}

/// An RMS norm by numbers, all of them times a factor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RouterNorm {
    pub name: &'static str,
    pub eps: f32,
    pub factor: f32,
}

#[derive(Clone, Debug, PartialEq)]
pub struct SharedConfig {
    pub mlp: MlpConfig,
    /// The name of a layer whose output, through a sigmoid, it is multiplied by.
    pub gate: Option<&'static str>,
    /// Its name is the block's, not the part's.
    pub beside: bool,
}

#[derive(Clone)]
pub struct Moe {
    config: MoeConfig,
    /// `[experts, hidden]`
    pub(in crate::model) router: Site,
    /// `[hidden]`
    norm: Option<Site>,
    /// `[experts]`
    gains: Option<Site>,
    /// `[experts]`
    pub(in crate::model) correction: Option<Site>,
    /// `[experts, intermediate, width]`, where width is hidden or the latent one
    pub(in crate::model) gate_proj: Option<Site>,
    /// `up_proj` `[experts, intermediate, width]`, `down_proj` `[experts, width, intermediate]`
    pub(in crate::model) experts: [Site; 2],
    /// `[latent, hidden]` and `[hidden, latent]`
    pub(in crate::model) latent: Option<[Site; 2]>,
    /// And its gate `[1, hidden]`.
    pub(in crate::model) shared: Option<(Mlp, Option<Site>)>,
}

impl MoeConfig {
    /// Weights that a token is multiplied with.
    pub fn parameters(&self, hidden: u64) -> u64 {
        let shared = self.shared.as_ref();
        let shared = shared.map_or(0, |shared| shared.mlp.parameters(hidden));
        let inner = size(self.top_k) * size(self.intermediate_size);
        3 * hidden * inner + size(self.experts) * hidden + shared
    }

    /// Of each expert the halves and their product, and what it gives.
    pub fn row(&self, hidden: u64) -> u64 {
        let shared = self.shared.as_ref().map_or(0, |shared| shared.mlp.row());
        let own = 3 * size(self.intermediate_size) + 2 * hidden;
        size(self.top_k) * own + 4 * size(self.experts) + shared
    }

    pub fn training_row(&self, hidden: u64) -> u64 {
        2 * self.row(hidden)
    }
}

impl Moe {
    pub fn declare(scope: &mut Scope, config: &MoeConfig, hidden: i32) -> Result<Self> {
        let (experts, inner) = (config.experts, config.intermediate_size);
        let shared = match &config.shared {
            Some(shared) if shared.beside => {
                Some((Mlp::declare(scope, &shared.mlp, hidden)?, None))
            }
            _ => None,
        };
        // Without a name they lie in their block.
        let is_there = |part: &&str| {
            let mut names = config.router.names.iter();
            names.any(|name| scope.has(&format!("{part}.{name}.weight")))
        };
        let mut scope = match config.unconverted.filter(is_there).unwrap_or(config.name) {
            "" => scope.same(),
            name => scope.within(name),
        };
        let name = scope.either(config.router.names, ".weight");
        let router = scope.linear(name, [experts, hidden], config.router.bias)?;
        let norm = config.router.norm;
        let norm = norm.map(|norm| scope.vector(norm.name, hidden));
        let gains = config.router.gains;
        let gains = gains.map(|name| scope.vector(name, experts));
        let (norm, gains) = (norm.transpose()?, gains.transpose()?);
        let correction = match config.router.correction {
            [] => None,
            names => {
                let name = scope.either(names, "");
                Some(scope.vector(name, experts)?)
            }
        };
        let latent = match config.latent {
            None => None,
            Some(latent) => Some([
                scope.linear("fc1_latent_proj", [latent, hidden], config.latent_bias)?,
                scope.linear("fc2_latent_proj", [hidden, latent], config.latent_bias)?,
            ]),
        };
        let width = config.latent.unwrap_or(hidden);
        let mut stacked = |which, shape| scope.experts(&config.names, which, shape, config.bias);
        let gate_proj = match config.gated {
            true => Some(stacked(0, [experts, inner, width])?),
            false => None,
        };
        Ok(Moe {
            gate_proj,
            latent,
            router,
            norm,
            gains,
            correction,
            experts: [
                stacked(1, [experts, inner, width])?,
                stacked(2, [experts, width, inner])?,
            ],
            shared: match &config.shared {
                _ if shared.is_some() => shared,
                None => None,
                Some(shared) => {
                    let mlp = Mlp::declare(&mut scope, &shared.mlp, hidden)?;
                    let gate = shared
                        .gate
                        .map(|name| scope.linear(name, [1, hidden], false));
                    Some((mlp, gate.transpose()?))
                }
            },
            config: config.clone(),
        })
    }

    pub fn config(&self) -> &MoeConfig {
        &self.config
    }

    /// Whether the router is one that the CPU's kernels know.
    pub fn is_plain(&self) -> bool {
        self.norm.is_none() && self.gains.is_none() && self.latent.is_none()
    }

    /// x `[…, hidden]` → the same shape
    pub fn forward(&self, with: &Forward, x: &Array) -> Result<Array> {
        self.forward_by(with, x, x)
    }

    /// x `[…, hidden]` → the same shape, by what the router makes of `by`, of that shape too
    pub fn forward_by(&self, with: &Forward, x: &Array, by: &Array) -> Result<Array> {
        let hidden = x.dim(-1);
        let rows = i32::try_from(x.size()).unwrap_or(i32::MAX) / hidden.max(1);
        let flat = ops::reshape(x, &[rows, hidden])?;
        let (chosen, weights) = self.route(with, &ops::reshape(by, &[rows, hidden])?)?;
        let inner = match self.latent {
            Some([into, _]) => with.linear(into, &flat)?,
            None => flat.clone(),
        };
        let top_k = self.config.top_k;
        // [rows, top_k, hidden]
        // The kernels put them in order by themselves.
        let sorted = rows.saturating_mul(top_k) >= SORTED && !nn::on_kernels(x.dtype());
        let y = match sorted {
            false => self.chosen(with, &inner, &chosen, false)?,
            true => {
                // Each expert's rows one after the other, so that its weights are read once.
                let all = ops::reshape(&chosen, &[-1])?;
                let order = ops::argsort(&all, -1)?;
                let back = ops::argsort(&order, -1)?;
                let number = Array::from_i32(&[top_k])?;
                let in_order = ops::take(&inner, &ops::floor_divide(&order, &number)?)?;
                let own = ops::reshape(&ops::take(&all, &order)?, &[-1, 1])?;
                let y = self.chosen(with, &in_order, &own, true)?;
                let width = y.dim(-1);
                let y = ops::take(&ops::reshape(&y, &[-1, width])?, &back)?;
                ops::reshape(&y, &[rows, top_k, width])?
            }
        };
        let shared = match &self.shared {
            None => None,
            Some((mlp, gate)) => {
                let gate = gate.map(|gate| with.logits(gate, &flat)).transpose()?;
                Some((mlp.forward(with, &flat)?, gate))
            }
        };
        let shared = shared.as_ref().map(|(of, gate)| (of, gate.as_ref()));
        let y = match self.latent {
            None => nn::weighted_sum(&y, &weights, shared)?,
            // A shared expert without a gate is all that a sum behind the projection can be of.
            Some([_, out]) => {
                let y = with.linear(out, &nn::weighted_sum(&y, &weights, None)?)?;
                match shared {
                    Some((shared, _)) => ops::add(&y, shared)?,
                    None => y,
                }
            }
        };
        ops::reshape(&y, x.shape())
    }

    /// x `[n, hidden]`, the experts of each row `[n, k]` → `[n, k, hidden]`
    fn chosen(&self, with: &Forward, x: &Array, chosen: &Array, sorted: bool) -> Result<Array> {
        let [up_proj, down_proj] = self.experts;
        let up = with.experts(up_proj, x, chosen, sorted)?;
        let inner = match self.gate_proj {
            Some(gate_proj) => {
                let gate = with.experts(gate_proj, x, chosen, sorted)?;
                nn::gated(&gate, &up, self.config.activation)?
            }
            None => nn::activated(&up, self.config.activation)?,
        };
        // [n, k, intermediate] → [n * k, intermediate], each row's own expert
        let inner = ops::reshape(&inner, &[-1, self.config.intermediate_size])?;
        let own = ops::reshape(chosen, &[-1, 1])?;
        let y = with.experts(down_proj, &inner, &own, sorted)?;
        ops::reshape(&y, &[chosen.dim(0), chosen.dim(1), y.dim(-1)])
    }

    pub fn routing(&self) -> Routing {
        let RouterConfig {
            softcap,
            score,
            groups,
            normalise,
            scale,
            ..
        } = self.config.router;
        Routing {
            top_k: self.config.top_k,
            softcap,
            score,
            groups,
            normalise,
            scale,
        }
    }

    /// x `[rows, hidden]` → the chosen experts `[rows, top_k]` and their weights f32 `[rows, top_k]`. In f32 from the logits on:
    /// to choose otherwise for a rounding is a larger error than any rounding is.
    fn route(&self, with: &Forward, x: &Array) -> Result<(Array, Array)> {
        let normed = match (self.config.router.norm, self.norm) {
            (Some(norm), Some(site)) => {
                let weight = with.vector(site)?;
                let factor = Array::scalar(norm.factor, weight.dtype())?;
                ops::rms_norm(x, Some(&ops::multiply(weight, &factor)?), norm.eps)?
            }
            _ => x.clone(),
        };
        let logits = with.logits(self.router, &normed)?;
        let correction = self.correction.map(|site| with.vector(site)).transpose()?;
        let (chosen, weights) = nn::route(&logits, &self.routing(), correction)?;
        let Some(gains) = self.gains else {
            return Ok((chosen, weights));
        };
        let gains = ops::astype(with.vector(gains)?, Dtype::F32)?;
        let weights = ops::multiply(&weights, &ops::take(&gains, &chosen)?)?;
        Ok((chosen, weights))
    }

    pub fn types<T: Known>(&self, of: &TypesOf<T>, x: Dtype) -> PartTypes {
        // What the experts give is summed in f32, and is of the type of x.
        let shared = self.shared.as_ref();
        let shared = shared.map_or(x, |(mlp, _)| mlp.types(of, x).output);
        PartTypes {
            kept: None,
            output: x.wider(shared),
        }
    }
}
