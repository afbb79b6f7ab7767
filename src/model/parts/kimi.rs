//! Kimi's delta attention: the gated delta rule with a decay for each channel of the keys, and a convolution for each of
//! queries, keys and values.

use super::PartTypes;
use crate::dtype::Dtype;
use crate::error::Result;
use crate::mlx::nn::{self, Recurrence};
use crate::mlx::{ops, Array};
use crate::model::cache::{CacheSpec, StateSpec, StateType};
use crate::model::config::NormConfig;
use crate::model::cost::{size, Known, TypesOf};
use crate::model::decoder::{last_row, Forward, Rows};
use crate::model::modules::Site;
use crate::model::parts::delta::normalise;
use crate::model::plan::Scope;
use crate::model::segments::{Own, Seen};

#[derive(Clone, Debug, PartialEq)]
pub struct KimiConfig {
    pub heads: i32,
    /// Of keys and of values.
    pub head_dim: i32,
    /// Tokens that the convolutions look at, at least 2.
    pub taps: i32,
    /// Of the norm behind.
    pub eps: f32,
}

#[derive(Clone)]
pub struct Kimi {
    config: KimiConfig,
    /// Queries, keys and values, with width = heads * head_dim.
    branches: [Branch; 3],
    /// `[head_dim, hidden]` and `[width, head_dim]`: what the decays are made of
    decay: [Site; 2],
    /// The same, of the gate.
    gate: [Site; 2],
    /// `[heads, hidden]`
    b_proj: Site,
    /// `[1, 1, heads, 1]`
    a_log: Site,
    /// `[width]`
    dt_bias: Site,
    /// `[head_dim]`
    norm: Site,
    /// `[hidden, width]`
    o_proj: Site,
    /// Three times `[1, taps - 1, width]`, and f32 `[1, heads, head_dim, head_dim]`
    cache: usize,
}

#[derive(Clone, Copy)]
struct Branch {
    /// `[width, hidden]`
    proj: Site,
    /// `[width, taps, 1]`
    taps: Site,
}

impl KimiConfig {
    fn width(&self) -> i32 {
        self.heads * self.head_dim
    }

    /// Weights that a token is multiplied with.
    pub fn parameters(&self, hidden: u64) -> u64 {
        let (width, dim) = (size(self.width()), size(self.head_dim));
        4 * width * hidden + 2 * dim * (hidden + width) + size(self.heads) * hidden
    }

    pub fn row(&self) -> u64 {
        20 * size(self.width())
    }

    pub fn training_row(&self) -> u64 {
        // And of each chunk's products.
        3 * self.row() + 6 * 64 * size(self.heads)
    }
}

impl Kimi {
    pub fn declare(scope: &mut Scope, config: &KimiConfig, hidden: i32) -> Result<Self> {
        let mut scope = scope.within("self_attn");
        let (width, dim, heads) = (config.width(), config.head_dim, config.heads);
        let mut branch = |proj: &str, taps: [&str; 2]| -> Result<Branch> {
            Ok(Branch {
                proj: scope.linear(proj, [width, hidden], false)?,
                taps: scope
                    .numbers_of(&taps, &[&[width, config.taps, 1], &[width, 1, config.taps]])?,
            })
        };
        let branches = [
            branch("q_proj", ["q_conv.conv.weight", "q_conv1d.weight"])?,
            branch("k_proj", ["k_conv.conv.weight", "k_conv1d.weight"])?,
            branch("v_proj", ["v_conv.conv.weight", "v_conv1d.weight"])?,
        ];
        let norm = NormConfig {
            name: "o_norm",
            eps: config.eps,
            plus_one: false,
            layer: false,
            bias: false,
        };
        let convolved = vec![1, config.taps - 1, width];
        let state = vec![1, heads, dim, dim];
        Ok(Kimi {
            branches,
            decay: [
                scope.linear("f_a_proj", [dim, hidden], false)?,
                scope.linear("f_b_proj", [width, dim], false)?,
            ],
            gate: [
                scope.linear("g_a_proj", [dim, hidden], false)?,
                scope.linear("g_b_proj", [width, dim], false)?,
            ],
            b_proj: scope.linear("b_proj", [heads, hidden], false)?,
            a_log: scope.numbers_of(&["A_log"], &[&[1, 1, heads, 1], &[heads]])?,
            dt_bias: scope.numbers_of(&["dt_bias"], &[&[width], &[heads, dim]])?,
            norm: scope.norm(&norm, dim)?,
            o_proj: scope.linear("o_proj", [hidden, width], false)?,
            cache: scope.cache(CacheSpec::State(StateSpec {
                arrays: vec![
                    (convolved.clone(), StateType::Kept),
                    (convolved.clone(), StateType::Kept),
                    (convolved, StateType::Kept),
                    (state, StateType::F32),
                ],
            })),
            config: config.clone(),
        })
    }

    pub fn config(&self) -> &KimiConfig {
        &self.config
    }

    pub fn cache(&self) -> usize {
        self.cache
    }

    /// x `[batch, n, hidden]` → the wanted rows of the same
    pub fn forward(&self, with: &Forward, x: &Array, seen: Seen, rows: Rows) -> Result<Array> {
        let (heads, dim, width) = (self.config.heads, self.config.head_dim, self.config.width());
        let [batch, n] = [x.dim(0), x.dim(1)];
        // [batch, n, width] → [batch, n, heads, head_dim]
        let by_head = |x: &Array| ops::reshape(x, &[batch, x.dim(1), heads, dim]);
        let twice = |[first, second]: [Site; 2], x: &Array| -> Result<Array> {
            with.linear(second, &with.linear(first, x)?)
        };
        let [q, k, v] = self.branches.map(|branch| with.linear(branch.proj, x));
        let beta = ops::astype(&with.linear(self.b_proj, x)?, Dtype::F32)?;
        let beta = ops::sigmoid(&beta)?;
        let log_decay = self.log_decay(with, &by_head(&twice(self.decay, x)?)?)?;
        let arrays = [&q?, &k?, &v?, &log_decay, &beta];
        let y = seen.each(arrays, |[q, k, v, log_decay, beta], own| {
            self.recur(with, [&q, &k, &v], [&log_decay, &beta], own)
        })?;
        let (y, x) = match rows {
            Rows::All => (y, x.clone()),
            Rows::Last => {
                let y = ops::reshape(&y, &[batch, n, width])?;
                (by_head(&last_row(&y)?)?, last_row(x)?)
            }
        };
        let gate = ops::sigmoid(&by_head(&twice(self.gate, &x)?)?)?;
        let y = ops::multiply(&with.norm(self.norm, &y)?, &gate)?;
        with.linear(self.o_proj, &ops::reshape(&y, &[batch, y.dim(1), width])?)
    }

    /// Of one session, or of a batch: queries, keys and values as projected, decays f32 `[batch, n, heads, head_dim]` and betas f32
    /// `[batch, n, heads]` → `[batch, n, heads, head_dim]`
    fn recur(
        &self,
        with: &Forward,
        projected: [&Array; 3],
        [log_decay, beta]: [&Array; 2],
        own: Own,
    ) -> Result<Array> {
        let (heads, dim) = (self.config.heads, self.config.head_dim);
        let state = own.cache.map(|cache| cache.state()).transpose()?;
        let kept = |index| state.as_ref().and_then(|state| state.get(index));
        let (mut convolved, mut after) = (Vec::new(), Vec::new());
        for (index, (branch, own)) in self.branches.iter().zip(projected).enumerate() {
            let taps = with.vector(branch.taps)?;
            let (own, past) = nn::short_conv(own, kept(index), taps, None, true)?;
            // [batch, n, width] → [batch, n, heads, head_dim]
            convolved.push(ops::reshape(&own, &[own.dim(0), own.dim(1), heads, dim])?);
            after.push(past);
        }
        let [q, k, v] = &convolved[..] else {
            return Err(crate::error::Error::internal("a branch is missing"));
        };
        let (y, state_after) = nn::recurrence(Recurrence {
            q,
            k,
            v,
            log_decay,
            beta: Some(beta),
            normalise: Some(normalise(dim)),
            state: kept(3),
        })?;
        if let Some(state) = state {
            after.push(state_after);
            state.advance(y.dim(1), after);
        }
        Ok(y)
    }

    /// `[batch, n, heads, head_dim]` → `-exp(A_log) * softplus(x + dt_bias)`, f32
    fn log_decay(&self, with: &Forward, x: &Array) -> Result<Array> {
        let (heads, dim) = (self.config.heads, self.config.head_dim);
        let bias = ops::reshape(with.vector(self.dt_bias)?, &[heads, dim])?;
        let a_log = ops::reshape(with.vector(self.a_log)?, &[heads, 1])?;
        nn::log_decay(&nn::steps(x, &bias)?, &a_log)
    }

    pub fn types<T: Known>(&self, of: &TypesOf<T>, x: Dtype) -> PartTypes {
        let projected = self.branches.map(|branch| of.linear(branch.proj, x));
        let [q, k, v] = projected;
        let gate = of.linear(self.gate[1], of.linear(self.gate[0], x));
        PartTypes {
            kept: Some(q.wider(k).wider(v)),
            output: of.linear(self.o_proj, of.norm(self.norm, v).wider(gate)),
        }
    }
}
