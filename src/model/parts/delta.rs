//! Linear attention by the gated delta rule, as in Qwen3-Next and Qwen3.5: each head's state fades, and takes in of a token's
//! value what it does not yet give for the token's key.

use super::PartTypes;
use crate::dtype::Dtype;
use crate::error::Result;
use crate::mlx::nn::{self, Activation, Normalise, Recurrence};
use crate::mlx::{ops, Array};
use crate::model::cache::{CacheSpec, StateSpec, StateType};
use crate::model::config::NormConfig;
use crate::model::cost::{size, Known, TypesOf};
use crate::model::decoder::{last_row, Forward, Rows};
use crate::model::modules::Site;
use crate::model::plan::Scope;
use crate::model::segments::{Own, Seen};

/// Added to the sum of a query's or key's squares.
const QK_EPS: f32 = 1e-6;

#[derive(Clone, Debug, PartialEq)]
pub struct DeltaConfig {
    /// Of queries and of keys.
    pub key_heads: i32,
    /// A multiple of them.
    pub value_heads: i32,
    pub key_dim: i32,
    pub value_dim: i32,
    /// Tokens that the convolution looks at, at least 2.
    pub taps: i32,
    /// Of the norm behind.
    pub eps: f32,
    /// `in_proj_qkvz` and `in_proj_ba`: of each key head its query, its key, its value heads and their gates, and so on. Else
    /// four projections.
    pub mixed: bool,
}

#[derive(Clone)]
pub struct Delta {
    config: DeltaConfig,
    projections: Projections,
    /// `[2 * keys + values, taps, 1]`, with keys = key_heads * key_dim and values = value_heads * value_dim
    taps: Site,
    /// `[value_heads]`
    dt_bias: Site,
    /// `[value_heads]`
    a_log: Site,
    /// `[value_dim]`
    norm: Site,
    /// `[hidden, values]`
    out_proj: Site,
    /// `[1, taps - 1, 2 * keys + values]`, and f32 `[1, value_heads, value_dim, key_dim]`
    cache: usize,
}

#[derive(Clone, Copy)]
enum Projections {
    Mixed {
        /// `[2 * keys + 2 * values, hidden]`
        qkvz: Site,
        /// `[2 * value_heads, hidden]`
        ba: Site,
    },
    Apart {
        /// `[2 * keys + values, hidden]`
        qkv: Site,
        /// `[values, hidden]`
        z: Site,
        /// `[value_heads, hidden]`
        b: Site,
        /// `[value_heads, hidden]`
        a: Site,
    },
}

/// Of n tokens.
struct Projected {
    /// `[batch, n, 2 * keys + values]`
    qkv: Array,
    /// `[batch, n, values]`
    z: Array,
    /// `[batch, n, value_heads]` each
    b: Array,
    a: Array,
}

impl DeltaConfig {
    fn keys(&self) -> i32 {
        self.key_heads * self.key_dim
    }

    fn values(&self) -> i32 {
        self.value_heads * self.value_dim
    }

    fn mixed_width(&self) -> i32 {
        2 * self.keys() + self.values()
    }

    /// Weights that a token is multiplied with.
    pub fn parameters(&self, hidden: u64) -> u64 {
        let width = size(self.mixed_width()) + 2 * size(self.values());
        hidden * (width + 2 * size(self.value_heads))
    }

    /// As projected, behind the convolution, and what comes of it.
    pub fn row(&self) -> u64 {
        let own = 4 * size(self.mixed_width()) + 5 * size(self.values());
        own + 8 * size(self.value_heads)
    }

    pub fn training_row(&self) -> u64 {
        // And of each chunk's products.
        3 * self.row() + 6 * 64 * size(self.value_heads)
    }
}

/// Queries and keys of length 1, and what queries are multiplied by.
pub(super) fn normalise(key_dim: i32) -> Normalise {
    let scale = 1.0 / (key_dim as f32).sqrt();
    Normalise {
        eps: QK_EPS * scale * scale,
        q_scale: scale * scale,
        k_scale: scale,
    }
}

impl Delta {
    pub fn declare(scope: &mut Scope, config: &DeltaConfig, hidden: i32) -> Result<Self> {
        let mut scope = scope.within("linear_attn");
        let (width, values, heads) = (config.mixed_width(), config.values(), config.value_heads);
        let projections = match config.mixed {
            true => Projections::Mixed {
                qkvz: scope.linear("in_proj_qkvz", [width + values, hidden], false)?,
                ba: scope.linear("in_proj_ba", [2 * heads, hidden], false)?,
            },
            false => Projections::Apart {
                qkv: scope.linear("in_proj_qkv", [width, hidden], false)?,
                z: scope.linear("in_proj_z", [values, hidden], false)?,
                b: scope.linear("in_proj_b", [heads, hidden], false)?,
                a: scope.linear("in_proj_a", [heads, hidden], false)?,
            },
        };
        let norm = NormConfig {
            name: "norm",
            eps: config.eps,
            plus_one: false,
            layer: false,
            bias: false,
        };
        let convolved = vec![1, config.taps - 1, width];
        let state = vec![1, heads, config.value_dim, config.key_dim];
        Ok(Delta {
            projections,
            taps: scope.taps("conv1d.weight", [width, config.taps])?,
            dt_bias: scope.vector("dt_bias", heads)?,
            a_log: scope.vector("A_log", heads)?,
            norm: scope.norm(&norm, config.value_dim)?,
            out_proj: scope.linear("out_proj", [hidden, values], false)?,
            cache: scope.cache(CacheSpec::State(StateSpec {
                arrays: vec![(convolved, StateType::Kept), (state, StateType::F32)],
            })),
            config: config.clone(),
        })
    }

    pub fn config(&self) -> &DeltaConfig {
        &self.config
    }

    pub fn cache(&self) -> usize {
        self.cache
    }

    /// x `[batch, n, hidden]` → the wanted rows of the same
    pub fn forward(&self, with: &Forward, x: &Array, seen: Seen, rows: Rows) -> Result<Array> {
        let config = &self.config;
        let Projected { qkv, z, b, a } = self.project(with, x)?;
        let steps = nn::steps(&a, with.vector(self.dt_bias)?)?;
        let log_decay = nn::log_decay(&steps, with.vector(self.a_log)?)?;
        let beta = ops::sigmoid(&ops::astype(&b, Dtype::F32)?)?;
        let taps = with.vector(self.taps)?;
        let y = seen.each([&qkv, &log_decay, &beta], |[qkv, log_decay, beta], own| {
            self.recur(taps, &qkv, [&log_decay, &beta], own)
        })?;
        // [batch, n, value_heads, value_dim] → [batch, n, values]
        let y = with.norm(self.norm, &y)?;
        let y = ops::reshape(&y, &[y.dim(0), y.dim(1), config.values()])?;
        let (y, z) = match rows {
            Rows::All => (y, z),
            Rows::Last => (last_row(&y)?, last_row(&z)?),
        };
        with.linear(self.out_proj, &nn::gated(&z, &y, Activation::Silu)?)
    }

    /// Of one session, or of a batch: qkv as projected, decays and betas f32 `[batch, n, value_heads]` → `[batch, n, value_heads,
    /// value_dim]`
    fn recur(
        &self,
        taps: &Array,
        qkv: &Array,
        [log_decay, beta]: [&Array; 2],
        own: Own,
    ) -> Result<Array> {
        let config = &self.config;
        let [batch, n] = [qkv.dim(0), qkv.dim(1)];
        let state = own.cache.map(|cache| cache.state()).transpose()?;
        let kept = |index| state.as_ref().and_then(|state| state.get(index));
        let (qkv, past) = nn::short_conv(qkv, kept(0), taps, None, true)?;
        let (keys, values) = (config.keys(), config.values());
        let heads = |columns, heads: i32, dim: i32| {
            let part = ops::columns(&qkv, columns)?;
            ops::reshape(&part, &[batch, n, heads, dim])
        };
        // q and k [batch, n, key_heads, key_dim], v [batch, n, value_heads, value_dim]
        let q = heads(0..keys, config.key_heads, config.key_dim)?;
        let k = heads(keys..2 * keys, config.key_heads, config.key_dim)?;
        let v = heads(
            2 * keys..2 * keys + values,
            config.value_heads,
            config.value_dim,
        )?;
        let (y, state_after) = nn::recurrence(Recurrence {
            q: &q,
            k: &k,
            v: &v,
            log_decay,
            beta: Some(beta),
            normalise: Some(normalise(config.key_dim)),
            state: kept(1),
        })?;
        if let Some(state) = state {
            state.advance(n, vec![past, state_after]);
        }
        Ok(y)
    }

    /// x `[batch, n, hidden]`
    fn project(&self, with: &Forward, x: &Array) -> Result<Projected> {
        let config = &self.config;
        let (qkvz, ba) = match self.projections {
            Projections::Mixed { qkvz, ba } => (with.linear(qkvz, x)?, with.linear(ba, x)?),
            Projections::Apart { qkv, z, b, a } => {
                return Ok(Projected {
                    qkv: with.linear(qkv, x)?,
                    z: with.linear(z, x)?,
                    b: with.linear(b, x)?,
                    a: with.linear(a, x)?,
                })
            }
        };
        let [batch, n] = [x.dim(0), x.dim(1)];
        let heads = config.key_heads;
        // A key head's value heads, and their numbers.
        let share = config.value_heads / heads.max(1);
        let values = share * config.value_dim;
        // [batch, n, key_heads * width] → [batch, n, key_heads, width] → some columns, [batch, n, key_heads * columns]
        let part = |of: &Array, columns: std::ops::Range<i32>| {
            let width = of.dim(2) / heads.max(1);
            let by_head = ops::reshape(of, &[batch, n, heads, width])?;
            let taken = columns.end - columns.start;
            let part = ops::columns(&by_head, columns)?;
            ops::reshape(&part, &[batch, n, heads * taken])
        };
        let dim = config.key_dim;
        let q = part(&qkvz, 0..dim)?;
        let k = part(&qkvz, dim..2 * dim)?;
        let v = part(&qkvz, 2 * dim..2 * dim + values)?;
        Ok(Projected {
            qkv: ops::concatenate(&[&q, &k, &v], -1)?,
            z: part(&qkvz, 2 * dim + values..2 * dim + 2 * values)?,
            b: part(&ba, 0..share)?,
            a: part(&ba, share..2 * share)?,
        })
    }

    pub fn types<T: Known>(&self, of: &TypesOf<T>, x: Dtype) -> PartTypes {
        let (qkv, z) = match self.projections {
            Projections::Mixed { qkvz, .. } => [of.linear(qkvz, x); 2].into(),
            Projections::Apart { qkv, z, .. } => (of.linear(qkv, x), of.linear(z, x)),
        };
        let inner = of.norm(self.norm, qkv).wider(z);
        PartTypes {
            kept: Some(qkv),
            output: of.linear(self.out_proj, inner),
        }
    }
}
