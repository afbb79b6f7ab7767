//! Mamba 2: each head's state fades by a step that the token chooses, and takes in the token.

use super::PartTypes;
use crate::dtype::Dtype;
use crate::error::Result;
use crate::mlx::nn::{self, Activation, Recurrence};
use crate::mlx::{ops, Array};
use crate::model::cache::{CacheSpec, StateSpec, StateType};
use crate::model::config::NormConfig;
use crate::model::cost::{size, Known, TypesOf};
use crate::model::decoder::{last_row, Forward, Rows};
use crate::model::modules::Site;
use crate::model::plan::Scope;
use crate::model::segments::{Own, Seen};

#[derive(Clone, Debug, PartialEq)]
pub struct MambaConfig {
    /// Inside of its block.
    pub name: &'static str,
    pub heads: i32,
    pub head_dim: i32,
    /// Heads that share what goes into and comes out of the state; a divisor of `heads`.
    pub groups: i32,
    /// Numbers of a state for each of a head's.
    pub state: i32,
    /// Tokens that the convolution looks at, at least 2.
    pub taps: i32,
    pub conv_bias: bool,
    /// Of both projections.
    pub bias: bool,
    /// Of the norm behind, over each group's heads.
    pub eps: f32,
    /// Of steps.
    pub step_limits: [f32; 2],
}

#[derive(Clone)]
pub struct Mamba {
    config: MambaConfig,
    /// `[inner + channels + heads, hidden]`, with inner = heads * head_dim and channels = inner + 2 * groups * state: the rows of
    /// the gate, of what is convolved, of the steps
    in_proj: Site,
    /// `[channels, taps, 1]`
    taps: Site,
    /// `[channels]`
    conv_bias: Option<Site>,
    /// `[heads]` each
    dt_bias: Site,
    a_log: Site,
    d: Site,
    /// `[inner]`
    norm: Site,
    /// `[hidden, inner]`
    out_proj: Site,
    /// `[1, taps - 1, channels]`, and f32 `[1, heads, head_dim, state]`
    cache: usize,
}

impl MambaConfig {
    fn inner(&self) -> i32 {
        self.heads * self.head_dim
    }

    fn shared(&self) -> i32 {
        self.groups * self.state
    }

    fn channels(&self) -> i32 {
        self.inner() + 2 * self.shared()
    }

    /// Weights that a token is multiplied with.
    pub fn parameters(&self, hidden: u64) -> u64 {
        hidden * (2 * size(self.inner()) + size(self.channels()) + size(self.heads))
    }

    pub fn row(&self) -> u64 {
        4 * size(self.channels()) + 6 * size(self.inner()) + 4 * size(self.heads)
    }

    pub fn training_row(&self) -> u64 {
        // And of each chunk's products.
        3 * self.row() + 6 * 64 * size(self.heads)
    }
}

impl Mamba {
    pub fn declare(scope: &mut Scope, config: &MambaConfig, hidden: i32) -> Result<Self> {
        let (inner, channels, heads) = (config.inner(), config.channels(), config.heads);
        let mut scope = scope.within(config.name);
        let norm = NormConfig {
            name: "norm",
            eps: config.eps,
            plus_one: false,
            layer: false,
            bias: false,
        };
        let convolved = vec![1, config.taps - 1, channels];
        let state = vec![1, heads, config.head_dim, config.state];
        let wide = inner + channels + heads;
        Ok(Mamba {
            in_proj: scope.linear("in_proj", [wide, hidden], config.bias)?,
            taps: scope.taps("conv1d.weight", [channels, config.taps])?,
            conv_bias: match config.conv_bias {
                true => Some(scope.vector("conv1d.bias", channels)?),
                false => None,
            },
            dt_bias: scope.vector("dt_bias", heads)?,
            a_log: scope.vector("A_log", heads)?,
            d: scope.vector("D", heads)?,
            norm: scope.norm(&norm, inner)?,
            out_proj: scope.linear("out_proj", [hidden, inner], config.bias)?,
            cache: scope.cache(CacheSpec::State(StateSpec {
                arrays: vec![(convolved, StateType::Kept), (state, StateType::F32)],
            })),
            config: config.clone(),
        })
    }

    pub fn config(&self) -> &MambaConfig {
        &self.config
    }

    pub fn cache(&self) -> usize {
        self.cache
    }

    /// x `[batch, n, hidden]` → the wanted rows of the same
    pub fn forward(&self, with: &Forward, x: &Array, seen: Seen, rows: Rows) -> Result<Array> {
        let config = &self.config;
        let (inner, channels) = (config.inner(), config.channels());
        let all = with.linear(self.in_proj, x)?;
        let gate = ops::columns(&all, 0..inner)?;
        let convolved = ops::columns(&all, inner..inner + channels)?;
        let steps = ops::columns(&all, inner + channels..inner + channels + config.heads)?;
        let steps = self.steps(with, &steps)?;
        let y = seen.each([&convolved, &steps], |[convolved, steps], own| {
            self.recur(with, &convolved, &steps, own)
        })?;
        let (y, gate) = match rows {
            Rows::All => (y, gate),
            Rows::Last => (last_row(&y)?, last_row(&gate)?),
        };
        let y = self.normed(with, &nn::gated(&gate, &y, Activation::Silu)?)?;
        with.linear(self.out_proj, &y)
    }

    /// Of one session, or of a batch: what is to be convolved `[batch, n, channels]`, and steps f32 `[batch, n, heads]` → `[batch, n,
    /// inner]`
    fn recur(&self, with: &Forward, convolved: &Array, steps: &Array, own: Own) -> Result<Array> {
        let config = &self.config;
        let [batch, n] = [convolved.dim(0), convolved.dim(1)];
        let (inner, shared) = (config.inner(), config.shared());
        let state = own.cache.map(|cache| cache.state()).transpose()?;
        let kept = |index| state.as_ref().and_then(|state| state.get(index));
        let bias = self.conv_bias.map(|bias| with.vector(bias)).transpose()?;
        let taps = with.vector(self.taps)?;
        let (convolved, past) = nn::short_conv(convolved, kept(0), taps, bias, true)?;
        let heads = |first: i32, heads: i32, dim: i32| {
            let part = ops::columns(&convolved, first..first + heads * dim)?;
            ops::reshape(&part, &[batch, n, heads, dim])
        };
        // x [batch, n, heads, head_dim], what goes in and what comes out [batch, n, groups, state]
        let x = heads(0, config.heads, config.head_dim)?;
        let inputs = heads(inner, config.groups, config.state)?;
        let outputs = heads(inner + shared, config.groups, config.state)?;
        let wide = ops::astype(&x, Dtype::F32)?;
        // [batch, n, heads] → [batch, n, heads, 1]
        let by_head = ops::reshape(steps, &[batch, n, config.heads, 1])?;
        let (y, state_after) = nn::recurrence(Recurrence {
            q: &outputs,
            k: &inputs,
            v: &ops::multiply(&wide, &by_head)?,
            log_decay: &nn::log_decay(steps, with.vector(self.a_log)?)?,
            beta: None,
            normalise: None,
            state: kept(1),
        })?;
        if let Some(state) = state {
            state.advance(n, vec![past, state_after]);
        }
        // [heads] → [heads, 1]
        let d = ops::astype(with.vector(self.d)?, Dtype::F32)?;
        let d = ops::reshape(&d, &[config.heads, 1])?;
        let y = ops::add(&y, &ops::multiply(&wide, &d)?)?;
        ops::astype(&ops::reshape(&y, &[batch, n, inner])?, x.dtype())
    }

    /// `[batch, n, inner]` → the same
    fn normed(&self, with: &Forward, y: &Array) -> Result<Array> {
        let groups = self.config.groups;
        if groups == 1 {
            return with.norm(self.norm, y);
        }
        let norm = with.norm_layer(self.norm)?;
        let inner = self.config.inner();
        let by_group = [y.dim(0), y.dim(1), groups, inner / groups.max(1)];
        let normed = ops::rms_norm(&ops::reshape(y, &by_group)?, None, norm.eps())?;
        ops::multiply(
            &ops::reshape(&normed, y.shape())?,
            with.norm_weight(self.norm)?,
        )
    }

    /// How far each head goes, f32 `[batch, n, heads]`, from as much of any type.
    fn steps(&self, with: &Forward, steps: &Array) -> Result<Array> {
        let steps = nn::steps(steps, with.vector(self.dt_bias)?)?;
        let [low, high] = self.config.step_limits;
        let limit = |limit: f32| Array::scalar(limit, Dtype::F32);
        ops::clip(&steps, &limit(low)?, &limit(high)?)
    }

    pub fn types<T: Known>(&self, of: &TypesOf<T>, x: Dtype) -> PartTypes {
        let inner = of.linear(self.in_proj, x);
        let normed = of.norm(self.norm, inner);
        PartTypes {
            kept: Some(inner),
            output: of.linear(self.out_proj, normed),
        }
    }
}
