//! Self-attention with grouped queries over a cache.

mod config;
mod costs;
mod texts;

use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::mlx::nn::{self, Scores};
use crate::mlx::stored::Stored;
use crate::mlx::{ops, Array};
use crate::model::cache::{CacheSpec, TokensSpec};
use crate::model::config::NormConfig;
use crate::model::decoder::{last_row, Forward, Rows};
use crate::model::modules::Site;
use crate::model::plan::Scope;
use crate::model::segments::{Own, Seen};

pub use config::{AttentionConfig, AttentionNames, OutputGate, QkNorm, QkNormOver};

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
    /// Values are what `k_proj` gives.
    Same {
        /// `[heads * head_dim, hidden]`
        q_proj: Site,
        /// `[kv_heads * head_dim, hidden]`
        k_proj: Site,
    },
    /// Keys and values are another block's.
    Queries {
        /// `[heads * head_dim, hidden]`
        q_proj: Site,
    },
}

impl AttentionConfig {
    /// Numbers of a token's queries, and of its keys or values.
    fn widths(&self) -> [i32; 2] {
        [self.heads, self.kv_heads].map(|heads| heads * self.head_dim)
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
        let mut linear = |name, rows| scope.linear(name, [rows, hidden], bias);
        let projections = match (config.keys_of, config.fused, config.values_are_keys) {
            (Some(_), ..) => Projections::Queries {
                q_proj: linear(names.q_proj, asked)?,
            },
            (None, true, _) => Projections::Fused {
                qkv_proj: linear(names.qkv_proj, queries + 2 * keys)?,
            },
            (None, false, true) => Projections::Same {
                q_proj: linear(names.q_proj, asked)?,
                k_proj: linear(names.k_proj, keys)?,
            },
            (None, false, false) => Projections::Apart {
                q_proj: linear(names.q_proj, asked)?,
                k_proj: linear(names.k_proj, keys)?,
                v_proj: linear(names.v_proj, keys)?,
            },
        };
        let idle = config.keys_of.is_some() && config.idle_keys;
        for name in ["k_proj", "v_proj"] {
            if idle && scope.has(&format!("{name}.weight")) {
                scope.linear(name, [keys, hidden], bias)?;
            }
        }
        let idle_norm = idle && scope.has("k_norm.weight");
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
                layer: false,
                bias: false,
            };
            scope.norm(&of, dims).map(Some)
        };
        let q_norm = norm(names.q_norm, queries)?;
        let k_norm = match config.keys_of {
            Some(_) if idle_norm => norm("k_norm", keys).map(|_| None)?,
            Some(_) => None,
            None => norm(names.k_norm, keys)?,
        };
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
        let cache = match config.keys_of {
            Some(block) => scope.cache_of(block)?,
            None => scope.cache(CacheSpec::Tokens(TokensSpec {
                window: config.window,
                heads: config.kv_heads,
                head_dims: [config.head_dim; 2],
            })),
        };
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

    /// x `[1, n, hidden]` → the wanted rows of the same; the caches take the keys and values. Without a cache the n tokens are all
    /// there are, and there may be a batch of them.
    pub fn forward(&self, with: &Forward, x: &Array, seen: Seen, rows: Rows) -> Result<Array> {
        if let Some(texts) = seen.texts() {
            return self.forward_texts(with, x, texts);
        }
        let last = match rows {
            Rows::All => x.clone(),
            Rows::Last => last_row(x)?,
        };
        let (queries, own) = self.project(with, x, &last, rows)?;
        let (queries, gate) = self.gate(with, queries, &last)?;
        let queries = self.heads(with, &queries, self.config.heads, self.q_norm)?;
        let output = match own {
            Some([keys, values]) => {
                let keys = self.heads(with, &keys, self.config.kv_heads, self.k_norm)?;
                let values = self.values(&values)?;
                seen.each(
                    [&queries, &keys, &values],
                    |[queries, keys, values], own| {
                        self.attend(with, &queries, Some([keys, values]), own)
                    },
                )?
            }
            None => seen.each([&queries], |[queries], own| {
                self.attend(with, &queries, None, own)
            })?,
        };
        let output = self.gated(output, gate)?;
        with.linear(self.o_proj, &output)
    }

    /// Of one session, or of a batch: queries `[1, asking, heads, head_dim]`, keys and values `[1, n, kv_heads, head_dim]` where they
    /// are not another block's → `[1, asking, heads * head_dim]`
    fn attend(
        &self,
        with: &Forward,
        queries: &Array,
        own: Option<[Array; 2]>,
        seen: Own,
    ) -> Result<Array> {
        // Another block's cache has taken them already.
        let new = own.as_ref().map_or(0, |[keys, _]| keys.dim(1));
        let (end, length) = match (&seen.cache, seen.kept.as_deref()) {
            (Some(cache), _) => (cache.offset() + new, cache.length(new)),
            (None, Some(Some((keys, _)))) if new == 0 => (keys.dim(2), keys.dim(2)),
            (None, _) => (new, new),
        };
        let by_head = |x: &Array| ops::transpose(x, &[0, 2, 1, 3]);
        let own = match own {
            Some([keys, values]) => {
                let keys = self.turn(with, by_head(&keys)?, end - new, length)?;
                let values = by_head(&values)?;
                // MLX attends in the widest type of all; the cache holds both in theirs, so that they are widened once.
                let kv_type = keys.dtype().wider(values.dtype());
                Some((ops::astype(&keys, kv_type)?, ops::astype(&values, kv_type)?))
            }
            None => None,
        };
        // Both `[1, kv_heads, tokens in the cache, head_dim]`.
        let (keys, values) = match (own, seen.cache) {
            (Some((keys, values)), Some(cache)) => {
                cache.tokens()?.update_and_fetch(keys, values)?
            }
            (None, Some(cache)) => cache.tokens()?.fetch()?,
            (Some(own), None) => {
                if let Some(kept) = seen.kept {
                    *kept = Some(own.clone());
                }
                (Stored::Floats(own.0), Stored::Floats(own.1))
            }
            (None, None) => {
                let earlier = seen.kept.and_then(|kept| kept.clone());
                let missing = || Error::internal("keys of an earlier block are not there");
                let (keys, values) = earlier.ok_or_else(missing)?;
                (Stored::Floats(keys), Stored::Floats(values))
            }
        };

        // The queries: `[1, heads, asking, head_dim]`.
        let asking = queries.dim(1);
        let queries = self.turn(with, by_head(queries)?, end - asking, length)?;
        let queries = match self.config.temperature {
            Some(temperature) => nn::temper(&queries, temperature, end - asking)?,
            None => queries,
        };
        let scores = Scores {
            scale: self.config.scale,
            softcap: self.config.softcap,
            sinks: self.sinks.map(|sinks| with.vector(sinks)).transpose()?,
        };
        nn::attention(&queries, &keys, &values, seen.mask, scores)
    }

    /// x `[1, n, hidden]` → queries of `last`, its rows that ask, and keys and values of all: `[1, n, heads * head_dim]`.
    fn project(
        &self,
        with: &Forward,
        x: &Array,
        last: &Array,
        rows: Rows,
    ) -> Result<(Array, Option<[Array; 2]>)> {
        Ok(match self.projections {
            Projections::Apart {
                q_proj,
                k_proj,
                v_proj,
            } => {
                let own = [with.linear(k_proj, x)?, with.linear(v_proj, x)?];
                (with.linear(q_proj, last)?, Some(own))
            }
            Projections::Same { q_proj, k_proj } => {
                let keys = with.linear(k_proj, x)?;
                (with.linear(q_proj, last)?, Some([keys.clone(), keys]))
            }
            Projections::Queries { q_proj } => (with.linear(q_proj, last)?, None),
            Projections::Fused { qkv_proj } => {
                let all = with.linear(qkv_proj, x)?;
                let [queries, keys] = self.config.widths();
                let asked = ops::columns(&all, 0..queries)?;
                let asked = match rows {
                    Rows::All => asked,
                    Rows::Last => last_row(&asked)?,
                };
                let own = [
                    ops::columns(&all, queries..queries + keys)?,
                    ops::columns(&all, queries + keys..queries + 2 * keys)?,
                ];
                (asked, Some(own))
            }
        })
    }

    /// `[1, n, heads * head_dim]` → `[1, n, heads, head_dim]`
    fn split(&self, x: &Array, heads: i32) -> Result<Array> {
        ops::reshape(x, &[x.dim(0), x.dim(1), heads, self.config.head_dim])
    }

    /// `[1, n, heads * head_dim]` → `[1, n, heads, head_dim]`, normed where there is a norm
    fn heads(&self, with: &Forward, x: &Array, heads: i32, norm: Option<Site>) -> Result<Array> {
        let over = self.config.qk_norm.map(|norm| norm.over);
        let x = match (over, norm) {
            (Some(QkNormOver::Projection), Some(norm)) => with.norm(norm, x)?,
            _ => x.clone(),
        };
        let x = self.split(&x, heads)?;
        match (over, norm, self.config.qk_norm) {
            (Some(QkNormOver::Heads), Some(norm), _) => with.norm(norm, &x),
            (Some(QkNormOver::BareHeads), _, Some(norm)) => ops::rms_norm(&x, None, norm.eps),
            _ => Ok(x),
        }
    }

    /// `[1, n, kv_heads * head_dim]` → `[1, n, kv_heads, head_dim]`, normed where there is a norm
    fn values(&self, x: &Array) -> Result<Array> {
        let x = self.split(x, self.config.kv_heads)?;
        match self.config.value_norm {
            Some(eps) => ops::rms_norm(&x, None, eps),
            None => Ok(x),
        }
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
}
