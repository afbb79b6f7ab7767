//! Mixtures of experts: which experts a row goes to, and the sum of what they give.

use super::{softcap, softplus};
use crate::dtype::Dtype;
use crate::error::Result;
use crate::kernels;
use crate::mlx::{fast, ops, Array};

/// How a row chooses. All of it is computed in f32.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Routing {
    /// Experts of a row.
    pub top_k: i32,
    /// The logits' bound: `cap * tanh(logits / cap)`.
    pub softcap: Option<f32>,
    pub score: Score,
    pub groups: Option<Groups>,
    /// Weights are divided by their sum.
    pub normalise: bool,
    /// What weights are multiplied by, last.
    pub scale: f32,
}

/// How a router's logits become scores, of which the largest are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Score {
    Softmax,
    /// The logits themselves; weights are a softmax over those that were chosen.
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

/// logits `[rows, experts]` → the chosen experts i32 or u32 `[rows, top_k]` and their weights f32 `[rows, top_k]`. correction
/// `[experts]`: what is added to the scores when experts are chosen, and not to their weights.
pub fn route(
    logits: &Array,
    routing: &Routing,
    correction: Option<&Array>,
) -> Result<(Array, Array)> {
    match routing.kernel() {
        Some(kernel) if fast::active() => {
            let with = kernels::Routing {
                selection_bias: correction,
                ..kernel
            };
            fast::route(logits, &with)
        }
        _ => routing.plain(logits, correction),
    }
}

/// What experts give, `[rows, top_k, hidden]`, by weights f32 `[rows, top_k]`, summed, and what a shared expert gives, `[rows,
/// hidden]`, times the sigmoid of its gate, f32 `[rows, 1]` → `[rows, hidden]`
pub fn weighted_sum(
    y: &Array,
    weights: &Array,
    shared: Option<(&Array, Option<&Array>)>,
) -> Result<Array> {
    let same = |(shared, _): (&Array, Option<&Array>)| shared.dtype() == y.dtype();
    if fast::active() && shared.is_none_or(same) {
        return fast::weighted_sum(y, weights, shared);
    }
    let [rows, top_k] = [weights.dim(0), weights.dim(1)];
    let by = ops::reshape(weights, &[rows, top_k, 1])?;
    let sum = ops::sum(&ops::multiply(y, &by)?, 1, false)?;
    let sum = match shared {
        None => sum,
        Some((shared, None)) => ops::add(&sum, shared)?,
        Some((shared, Some(gate))) => {
            ops::add(&sum, &ops::multiply(&ops::sigmoid(gate)?, shared)?)?
        }
    };
    let dtype = shared.map_or(y.dtype(), |(shared, _)| y.dtype().wider(shared.dtype()));
    ops::astype(&sum, dtype)
}

impl Routing {
    /// For the CPU's kernels; None where they do not know all of it.
    pub fn kernel<V>(&self) -> Option<kernels::Routing<V>> {
        let size = |n: i32| usize::try_from(n).unwrap_or(0);
        let score = match self.score {
            Score::Softmax => kernels::Score::Softmax,
            Score::SoftmaxOfChosen => kernels::Score::SoftmaxOfChosen,
            Score::Sigmoid => kernels::Score::Sigmoid,
            Score::SqrtSoftplus => return None,
        };
        let groups = self.groups.map(|groups| kernels::Groups {
            n_group: size(groups.count),
            topk_group: size(groups.chosen),
        });
        self.softcap.is_none().then_some(kernels::Routing {
            top_k: size(self.top_k),
            score,
            selection_bias: None,
            groups,
            normalise: self.normalise,
            scaling: self.scale,
        })
    }

    fn plain(&self, logits: &Array, correction: Option<&Array>) -> Result<(Array, Array)> {
        let mut logits = ops::astype(logits, Dtype::F32)?;
        if let Some(cap) = self.softcap {
            logits = softcap(&logits, cap)?;
        }
        let scores = match self.score {
            Score::Softmax => ops::softmax(&logits, -1)?,
            Score::SoftmaxOfChosen => logits,
            Score::Sigmoid => ops::sigmoid(&logits)?,
            Score::SqrtSoftplus => ops::sqrt(&softplus(&logits)?)?,
        };
        let mut ranks = match correction {
            Some(correction) => ops::add(&scores, correction)?,
            None => scores.clone(),
        };
        if let Some(groups) = self.groups {
            ranks = groups.best(&ranks)?;
        }
        let order = ops::argpartition(&ops::negative(&ranks)?, self.top_k - 1, -1)?;
        let chosen = ops::stop_gradient(&ops::columns(&order, 0..self.top_k)?)?;
        let mut weights = ops::take_along_axis(&scores, &chosen, -1)?;
        if self.score == Score::SoftmaxOfChosen {
            weights = ops::softmax(&weights, -1)?;
        }
        if self.normalise {
            let sum = ops::sum(&weights, -1, true)?;
            let sum = ops::add(&sum, &Array::scalar(1e-20, Dtype::F32)?)?;
            weights = ops::divide(&weights, &sum)?;
        }
        if self.scale != 1.0 {
            weights = ops::multiply(&weights, &Array::scalar(self.scale, Dtype::F32)?)?;
        }
        Ok((chosen, weights))
    }
}

impl Groups {
    /// ranks `[rows, experts]` → the same, with 0 in the groups that are not chosen
    fn best(self, ranks: &Array) -> Result<Array> {
        let dropped = self.count - self.chosen;
        if dropped < 1 {
            return Ok(ranks.clone());
        }
        let [rows, experts] = [ranks.dim(0), ranks.dim(1)];
        let size = experts / self.count;
        let grouped = ops::reshape(ranks, &[rows, self.count, size])?;
        // The two best of each: [rows, groups, 2] → [rows, groups]
        let two = ops::columns(&ops::sort_rows(&grouped)?, (size - 2).max(0)..size)?;
        let sums = ops::sum(&two, -1, false)?;
        let worst = ops::argpartition(&sums, dropped - 1, -1)?;
        let worst = ops::reshape(&ops::columns(&worst, 0..dropped)?, &[rows, dropped, 1])?;
        let worst = ops::broadcast_to(&worst, &[rows, dropped, size])?;
        let zeros = ops::zeros(&[rows, dropped, size], ranks.dtype())?;
        let kept = ops::put_along_axis(&grouped, &worst, &zeros, 1)?;
        ops::reshape(&kept, &[rows, experts])
    }
}
