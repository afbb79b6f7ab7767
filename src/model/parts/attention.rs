//! Self-attention with grouped queries over a cache.

use super::PartTypes;
use crate::dtype::Dtype;
use crate::error::Result;
use crate::mlx::nn::{self, Scores, Temperature};
use crate::mlx::{ops, Array};
use crate::model::cache::{CacheSpec, TokensSpec};
use crate::model::config::NormConfig;
use crate::model::cost::{size, Known, TypesOf};
use crate::model::decoder::{last_row, Forward, Rows, Seen};
use crate::model::modules::Site;
use crate::model::plan::Scope;
use crate::model::rope::Rope;

#[derive(Clone, Debug, PartialEq)]
pub struct AttentionConfig {
    pub names: AttentionNames,
    pub heads: i32,
    pub kv_heads: i32,
    pub head_dim: i32,
    /// Of the scores.
    pub scale: f32,
    /// The scores' bound: `cap * tanh(scores / cap)`.
    pub softcap: Option<f32>,
    /// Each head has a score that belongs to no token.
    pub sinks: bool,
    /// One `qkv_proj`: the rows of queries, keys and values one after the other.
    pub fused: bool,
    pub qkv_bias: bool,
    pub o_bias: bool,
    pub qk_norm: Option<QkNorm>,
    /// None: positions do not show.
    pub rope: Option<Rope>,
    /// Tokens that a query may look back on, itself included; `None` = all.
    pub window: Option<i32>,
    pub gate: Option<OutputGate>,
    pub temperature: Option<Temperature>,
}

/// Where families do not agree.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionNames {
    /// Inside of its block.
    pub part: &'static str,
    pub o_proj: &'static str,
    pub q_norm: &'static str,
    pub k_norm: &'static str,
}

impl AttentionNames {
    pub const USUAL: AttentionNames = AttentionNames {
        part: "self_attn",
        o_proj: "o_proj",
        q_norm: "q_norm",
        k_norm: "k_norm",
    };
}

/// RMS norms of queries and keys before they are turned.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QkNorm {
    pub eps: f32,
    pub plus_one: bool,
    pub over: QkNormOver,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QkNormOver {
    /// Each head.
    Heads,
    /// Each head, without weights.
    BareHeads,
    /// All heads of a token together.
    Projection,
}

/// What the heads' output is multiplied by, made of the same rows as the queries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputGate {
    /// `gate_proj` through a sigmoid, for each number.
    Sigmoid,
    /// `g_proj` through a softplus, for each head.
    Softplus,
    /// Through a sigmoid, for each number: behind the rows of each head's queries come as many of its gate.
    InQueries,
}

#[derive(Clone)]
pub struct Attention {
    config: AttentionConfig,
    pub(in crate::model) projections: Projections,
    /// `[head_dim]` or `[heads * head_dim]`
    pub(in crate::model) q_norm: Option<Site>,
    /// `[head_dim]` or `[kv_heads * head_dim]`
    pub(in crate::model) k_norm: Option<Site>,
    /// `[heads]`
    pub(in crate::model) sinks: Option<Site>,
    /// `[heads * head_dim, hidden]` or `[heads, hidden]`
    gate: Option<Site>,
    /// `[hidden, heads * head_dim]`
    pub(in crate::model) o_proj: Site,
    pub(in crate::model) rope: Option<usize>,
    cache: usize,
}

#[derive(Clone, Copy)]
pub(in crate::model) enum Projections {
    Apart {
        /// `[heads * head_dim, hidden]`
        q_proj: Site,
        /// `[kv_heads * head_dim, hidden]`
        k_proj: Site,
        /// `[kv_heads * head_dim, hidden]`
        v_proj: Site,
    },
    Fused {
        /// `[(heads + 2 * kv_heads) * head_dim, hidden]`
        qkv_proj: Site,
    },
}

impl AttentionConfig {
    /// Numbers of a token's queries, and of its keys or values.
    fn widths(&self) -> [i32; 2] {
        [self.heads, self.kv_heads].map(|heads| heads * self.head_dim)
    }

    /// Weights that a token is multiplied with.
    pub fn parameters(&self, hidden: u64) -> u64 {
        let [queries, keys] = self.widths().map(size);
        2 * (queries + keys) * hidden
    }

    /// Queries, keys and values as projected, normed and turned.
    pub fn row(&self) -> u64 {
        let [queries, keys] = self.widths().map(size);
        4 * (queries + keys)
    }

    /// Before and after their turn; and scores before and after the softmax.
    pub fn training_row(&self, width: u64) -> u64 {
        let [queries, keys] = self.widths().map(size);
        2 * (queries + 2 * keys) + 3 * size(self.heads) * width
    }
}

impl Attention {
    pub fn declare(scope: &mut Scope, config: &AttentionConfig, hidden: i32) -> Result<Self> {
        let [queries, keys] = config.widths();
        let asked = match config.gate {
            Some(OutputGate::InQueries) => 2 * queries,
            _ => queries,
        };
        let bias = config.qkv_bias;
        let names = config.names;
        let mut scope = scope.within(names.part);
        let projections = match config.fused {
            true => Projections::Fused {
                qkv_proj: scope.linear("qkv_proj", [queries + 2 * keys, hidden], bias)?,
            },
            false => Projections::Apart {
                q_proj: scope.linear("q_proj", [asked, hidden], bias)?,
                k_proj: scope.linear("k_proj", [keys, hidden], bias)?,
                v_proj: scope.linear("v_proj", [keys, hidden], bias)?,
            },
        };
        let mut norm = |name: &'static str, width: i32| {
            let Some(norm) = config.qk_norm else {
                return Ok(None);
            };
            let dims = match norm.over {
                QkNormOver::BareHeads => return Ok(None),
                QkNormOver::Heads => config.head_dim,
                QkNormOver::Projection => width,
            };
            let QkNorm { eps, plus_one, .. } = norm;
            let of = NormConfig {
                name,
                eps,
                plus_one,
            };
            scope.norm(&of, dims).map(Some)
        };
        let (q_norm, k_norm) = (norm(names.q_norm, queries)?, norm(names.k_norm, keys)?);
        let sinks = match config.sinks {
            true => Some(scope.vector("sinks", config.heads)?),
            false => None,
        };
        let gate = match config.gate {
            Some(OutputGate::Sigmoid) => {
                Some(scope.linear("gate_proj", [queries, hidden], false)?)
            }
            Some(OutputGate::Softplus) => {
                Some(scope.linear("g_proj", [config.heads, hidden], false)?)
            }
            Some(OutputGate::InQueries) | None => None,
        };
        let o_proj = scope.linear(names.o_proj, [hidden, queries], config.o_bias)?;
        let rope = config.rope.as_ref().map(|rope| scope.rope(rope));
        let cache = scope.cache(CacheSpec::Tokens(TokensSpec {
            window: config.window,
            heads: config.kv_heads,
            head_dims: [config.head_dim; 2],
        }));
        Ok(Attention {
            projections,
            q_norm,
            k_norm,
            sinks,
            gate,
            o_proj,
            rope,
            cache,
            config: config.clone(),
        })
    }

    pub fn config(&self) -> &AttentionConfig {
        &self.config
    }

    pub fn cache(&self) -> usize {
        self.cache
    }

    /// x `[1, n, hidden]` → the wanted rows of the same; the cache takes the n keys and values. Without a cache the n tokens
    /// are all there are, and there may be a batch of them.
    pub fn forward(&self, with: &Forward, x: &Array, seen: Seen, rows: Rows) -> Result<Array> {
        let offset = seen.cache.as_ref().map_or(0, |cache| cache.offset());
        let end = offset + x.dim(1);
        let length = seen
            .cache
            .as_ref()
            .map_or(end, |cache| cache.length(x.dim(1)));
        let last = match rows {
            Rows::All => x.clone(),
            Rows::Last => last_row(x)?,
        };
        let [queries, keys, values] = self.project(with, x, &last, rows)?;
        let (queries, gate) = self.gate(with, queries, &last)?;
        let (heads, kv_heads) = (self.config.heads, self.config.kv_heads);
        let keys = self.heads(with, &keys, kv_heads, self.k_norm)?;
        let values = self.split(&values, kv_heads)?;
        let values = ops::transpose(&values, &[0, 2, 1, 3])?;
        let keys = self.turn(with, keys, offset, length)?;
        // MLX attends in the widest type of all; the cache holds both in theirs, so that they are widened once.
        let kv_type = keys.dtype().wider(values.dtype());
        let (keys, values) = (ops::astype(&keys, kv_type)?, ops::astype(&values, kv_type)?);
        // Both `[1, kv_heads, tokens in the cache, head_dim]`.
        let (keys, values) = match seen.cache {
            Some(cache) => cache.tokens()?.update_and_fetch(keys, values)?,
            None => (keys, values),
        };

        // The queries: `[1, heads, asking, head_dim]`.
        let asking = last.dim(1);
        let queries = self.heads(with, &queries, heads, self.q_norm)?;
        let queries = self.turn(with, queries, end - asking, length)?;
        let queries = match self.config.temperature {
            Some(temperature) => nn::temper(&queries, temperature, end - asking)?,
            None => queries,
        };
        let scores = Scores {
            scale: self.config.scale,
            softcap: self.config.softcap,
            sinks: self.sinks.map(|sinks| with.vector(sinks)).transpose()?,
        };
        let output = nn::attention(&queries, &keys, &values, seen.mask, scores)?;
        let output = self.gated(output, gate)?;
        with.linear(self.o_proj, &output)
    }

    /// x `[1, n, hidden]` → queries of `last`, its rows that ask, and keys and values of all: `[1, n, heads * head_dim]`.
    fn project(&self, with: &Forward, x: &Array, last: &Array, rows: Rows) -> Result<[Array; 3]> {
        match self.projections {
            Projections::Apart {
                q_proj,
                k_proj,
                v_proj,
            } => Ok([
                with.linear(q_proj, last)?,
                with.linear(k_proj, x)?,
                with.linear(v_proj, x)?,
            ]),
            Projections::Fused { qkv_proj } => {
                let all = with.linear(qkv_proj, x)?;
                let [queries, keys] = self.config.widths();
                let asked = ops::columns(&all, 0..queries)?;
                let asked = match rows {
                    Rows::All => asked,
                    Rows::Last => last_row(&asked)?,
                };
                Ok([
                    asked,
                    ops::columns(&all, queries..queries + keys)?,
                    ops::columns(&all, queries + keys..queries + 2 * keys)?,
                ])
            }
        }
    }

    /// `[1, n, heads * head_dim]` → `[1, n, heads, head_dim]`
    fn split(&self, x: &Array, heads: i32) -> Result<Array> {
        ops::reshape(x, &[x.dim(0), x.dim(1), heads, self.config.head_dim])
    }

    /// `[1, n, heads * head_dim]` → `[1, heads, n, head_dim]`, normed where there is a norm
    fn heads(&self, with: &Forward, x: &Array, heads: i32, norm: Option<Site>) -> Result<Array> {
        let over = self.config.qk_norm.map(|norm| norm.over);
        let x = match (over, norm) {
            (Some(QkNormOver::Projection), Some(norm)) => with.norm(norm, x)?,
            _ => x.clone(),
        };
        let x = self.split(&x, heads)?;
        let x = match (over, norm, self.config.qk_norm) {
            (Some(QkNormOver::Heads), Some(norm), _) => with.norm(norm, &x)?,
            (Some(QkNormOver::BareHeads), _, Some(norm)) => ops::rms_norm(&x, None, norm.eps)?,
            _ => x,
        };
        ops::transpose(&x, &[0, 2, 1, 3])
    }

    /// `[1, heads, n, head_dim]`, its first token at `offset`, of a sequence with `length` tokens
    fn turn(&self, with: &Forward, x: Array, offset: i32, length: i32) -> Result<Array> {
        match self.rope {
            Some(rope) => with.rope(rope)?.forward(&x, offset, length),
            None => Ok(x),
        }
    }

    /// Of the rows x `[1, asking, hidden]`, as projected, the queries and what goes into the gate.
    fn gate(&self, with: &Forward, queries: Array, x: &Array) -> Result<(Array, Option<Array>)> {
        if self.config.gate != Some(OutputGate::InQueries) {
            let gate = self.gate.map(|gate| with.linear(gate, x)).transpose()?;
            return Ok((queries, gate));
        }
        // [1, asking, heads * 2 * head_dim] → [1, asking, heads, 2 * head_dim]
        let (heads, dim) = (self.config.heads, self.config.head_dim);
        let [batch, asking] = [queries.dim(0), queries.dim(1)];
        let both = ops::reshape(&queries, &[batch, asking, heads, 2 * dim])?;
        let half = |columns| {
            let half = ops::columns(&both, columns)?;
            ops::reshape(&half, &[batch, asking, heads * dim])
        };
        Ok((half(0..dim)?, Some(half(dim..2 * dim)?)))
    }

    /// output `[1, asking, heads * head_dim]`
    fn gated(&self, output: Array, gate: Option<Array>) -> Result<Array> {
        let (Some(kind), Some(gate)) = (self.config.gate, gate) else {
            return Ok(output);
        };
        match kind {
            OutputGate::Sigmoid | OutputGate::InQueries => {
                ops::multiply(&output, &ops::sigmoid(&gate)?)
            }
            OutputGate::Softplus => {
                let factors = nn::softplus(&ops::astype(&gate, Dtype::F32)?)?;
                let factors = ops::astype(&factors, output.dtype())?;
                // [1, asking, heads] → [1, asking, heads, 1]
                let [batch, asking] = [output.dim(0), output.dim(1)];
                let factors = ops::reshape(&factors, &[batch, asking, self.config.heads, 1])?;
                let output = ops::multiply(&self.split(&output, self.config.heads)?, &factors)?;
                ops::reshape(&output, &[batch, asking, self.config.widths()[0]])
            }
        }
    }

    pub fn types<T: Known>(&self, of: &TypesOf<T>, x: Dtype) -> PartTypes {
        let [queries, keys, values] = match self.projections {
            Projections::Apart {
                q_proj,
                k_proj,
                v_proj,
            } => [q_proj, k_proj, v_proj].map(|site| of.linear(site, x)),
            Projections::Fused { qkv_proj } => [of.linear(qkv_proj, x); 3],
        };
        let normed = |x: Dtype, norm: Option<Site>| norm.map_or(x, |norm| of.norm(norm, x));
        let asked = queries;
        let (queries, keys) = (normed(queries, self.q_norm), normed(keys, self.k_norm));
        // A cache holds both in the wider of their types.
        let kept = keys.wider(values);
        let attended = queries.wider(kept);
        let gated = match (self.config.gate, self.gate) {
            (Some(OutputGate::InQueries), _) => attended.wider(asked),
            (_, Some(gate)) => attended.wider(of.linear(gate, x)),
            _ => attended,
        };
        PartTypes {
            kept: Some(kept),
            output: of.linear(self.o_proj, gated),
        }
    }
}
