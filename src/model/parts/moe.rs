//! A mixture of experts: a router chooses some for each token, and their outputs are summed by its weights.

use super::mlp::{Mlp, MlpConfig};
use super::PartTypes;
use crate::dtype::Dtype;
use crate::error::Result;
use crate::mlx::nn::{self, Activation};
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
    pub experts: i32,
    /// Of each token.
    pub top_k: i32,
    /// Of one expert.
    pub intermediate_size: i32,
    pub activation: Activation,
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

/// How a router's logits become scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Score {
    Softmax,
    /// Over those that were chosen.
    SoftmaxOfChosen,
    Sigmoid,
    SqrtSoftplus,
}

/// Experts are chosen out of the best groups, by the sum of each group's two best scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Groups {
    pub count: i32,
    pub chosen: i32,
}

#[derive(Clone, Debug, PartialEq)]
pub struct SharedConfig {
    pub mlp: MlpConfig,
    /// The name of a layer whose output, through a sigmoid, it is multiplied by.
    pub gate: Option<&'static str>,
}

#[derive(Clone)]
pub struct Moe {
    config: MoeConfig,
    /// `[experts, hidden]`
    router: Site,
    /// `[experts]`
    correction: Option<Site>,
    /// `[experts, intermediate, hidden]`
    gate_proj: Site,
    /// `[experts, intermediate, hidden]`
    up_proj: Site,
    /// `[experts, hidden, intermediate]`
    down_proj: Site,
    /// And its gate `[1, hidden]`.
    shared: Option<(Mlp, Option<Site>)>,
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
        let mut scope = scope.within(config.name);
        let name = scope.either(config.router.names, ".weight");
        let router = scope.linear(name, [experts, hidden], config.router.bias)?;
        let correction = match config.router.correction {
            [] => None,
            names => {
                let name = scope.either(names, "");
                Some(scope.vector(name, experts)?)
            }
        };
        let mut stacked = |leaf, shape| scope.experts(&config.names, leaf, shape, config.bias);
        Ok(Moe {
            router,
            correction,
            gate_proj: stacked("gate_proj", [experts, inner, hidden])?,
            up_proj: stacked("up_proj", [experts, inner, hidden])?,
            down_proj: stacked("down_proj", [experts, hidden, inner])?,
            shared: match &config.shared {
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

    /// x `[…, hidden]` → the same shape
    pub fn forward(&self, with: &Forward, x: &Array) -> Result<Array> {
        let hidden = x.dim(-1);
        let rows = i32::try_from(x.size()).unwrap_or(i32::MAX) / hidden.max(1);
        let flat = ops::reshape(x, &[rows, hidden])?;
        let (chosen, weights) = self.route(with, &flat)?;
        let top_k = self.config.top_k;
        // [rows, top_k, hidden]
        let y = match rows.saturating_mul(top_k) >= SORTED {
            false => self.chosen(with, &flat, &chosen, false)?,
            true => {
                // Each expert's rows one after the other, so that its weights are read once.
                let all = ops::reshape(&chosen, &[-1])?;
                let order = ops::argsort(&all, -1)?;
                let back = ops::argsort(&order, -1)?;
                let number = Array::from_i32(&[top_k])?;
                let in_order = ops::take(&flat, &ops::floor_divide(&order, &number)?)?;
                let own = ops::reshape(&ops::take(&all, &order)?, &[-1, 1])?;
                let y = self.chosen(with, &in_order, &own, true)?;
                let y = ops::take(&ops::reshape(&y, &[-1, hidden])?, &back)?;
                ops::reshape(&y, &[rows, top_k, hidden])?
            }
        };
        let weights = ops::reshape(&weights, &[rows, top_k, 1])?;
        let y = ops::sum(&ops::multiply(&y, &weights)?, 1, false)?;
        let mut y = ops::astype(&y, x.dtype())?;
        if let Some((mlp, gate)) = &self.shared {
            let mut shared = mlp.forward(with, &flat)?;
            if let Some(gate) = gate {
                let gate = ops::sigmoid(&with.linear(*gate, &flat)?)?;
                shared = ops::multiply(&gate, &shared)?;
            }
            y = ops::add(&y, &shared)?;
        }
        ops::reshape(&y, x.shape())
    }

    /// x `[n, hidden]`, the experts of each row `[n, k]` → `[n, k, hidden]`
    fn chosen(&self, with: &Forward, x: &Array, chosen: &Array, sorted: bool) -> Result<Array> {
        let gate = with.experts(self.gate_proj, x, chosen, sorted)?;
        let up = with.experts(self.up_proj, x, chosen, sorted)?;
        let inner = nn::gated(&gate, &up, self.config.activation)?;
        // [n, k, intermediate] → [n * k, intermediate], each row's own expert
        let inner = ops::reshape(&inner, &[-1, self.config.intermediate_size])?;
        let own = ops::reshape(chosen, &[-1, 1])?;
        let y = with.experts(self.down_proj, &inner, &own, sorted)?;
        ops::reshape(&y, &[chosen.dim(0), chosen.dim(1), y.dim(-1)])
    }

    /// x `[rows, hidden]` → the chosen experts u32 `[rows, top_k]` and their weights f32 `[rows, top_k]`. In f32 from the
    /// logits on: to choose otherwise for a rounding is a larger error than any rounding is.
    fn route(&self, with: &Forward, x: &Array) -> Result<(Array, Array)> {
        let RouterConfig {
            softcap,
            score,
            groups,
            normalise,
            scale,
            ..
        } = self.config.router;
        let mut logits = with.linear(self.router, &ops::astype(x, Dtype::F32)?)?;
        if let Some(cap) = softcap {
            logits = nn::softcap(&logits, cap)?;
        }
        let scores = match score {
            Score::Softmax => ops::softmax(&logits, -1)?,
            Score::SoftmaxOfChosen => logits,
            Score::Sigmoid => ops::sigmoid(&logits)?,
            Score::SqrtSoftplus => ops::sqrt(&nn::softplus(&logits)?)?,
        };
        let mut ranks = match self.correction {
            Some(correction) => ops::add(&scores, with.vector(correction)?)?,
            None => scores.clone(),
        };
        if let Some(groups) = groups {
            ranks = groups.best(&ranks)?;
        }
        let top_k = self.config.top_k;
        let order = ops::argpartition(&ops::negative(&ranks)?, top_k - 1, -1)?;
        let chosen = ops::stop_gradient(&ops::columns(&order, 0..top_k)?)?;
        let mut weights = ops::take_along_axis(&scores, &chosen, -1)?;
        if score == Score::SoftmaxOfChosen {
            weights = ops::softmax(&weights, -1)?;
        }
        if normalise {
            let sum = ops::sum(&weights, -1, true)?;
            let sum = ops::add(&sum, &Array::scalar(1e-20, Dtype::F32)?)?;
            weights = ops::divide(&weights, &sum)?;
        }
        if scale != 1.0 {
            weights = ops::multiply(&weights, &Array::scalar(scale, Dtype::F32)?)?;
        }
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

impl Groups {
    /// ranks `[rows, experts]` → the same, with 0 in the groups that are not chosen
    fn best(self, ranks: &Array) -> Result<Array> {
        if self.chosen >= self.count {
            return Ok(ranks.clone());
        }
        let [rows, experts] = [ranks.dim(0), ranks.dim(1)];
        let grouped = ops::reshape(ranks, &[rows, self.count, experts / self.count])?;
        // The two best of each: [rows, groups, 2] → [rows, groups]
        let size = experts / self.count;
        let sorted = ops::sort(&grouped)?;
        let two = ops::columns(&sorted, (size - 2).max(0)..size)?;
        let sums = ops::sum(&two, -1, false)?;
        let dropped = self.count - self.chosen;
        let order = ops::argpartition(&sums, dropped - 1, -1)?;
        let dropped = ops::columns(&order, 0..dropped)?;
        let shape = [rows, dropped.dim(1), 1];
        let dropped = ops::reshape(&dropped, &shape)?;
        let zeros = ops::zeros(&[rows, shape[1], size], ranks.dtype())?;
        let index = ops::broadcast_to(&dropped, &[rows, shape[1], size])?;
        let kept = ops::put_along_axis(&grouped, &index, &zeros, -2)?;
        ops::reshape(&kept, &[rows, experts])
    }
}
