//! Multi-head latent attention: of each token a latent is kept, which all heads' keys and values are made of, and one turned key
//! that they share.

use super::PartTypes;
use crate::dtype::Dtype;
use crate::error::Result;
use crate::mlx::nn::{self, InParts};
use crate::mlx::stored::Stored;
use crate::mlx::{ops, Array};
use crate::model::cache::{CacheSpec, TokensSpec};
use crate::model::config::NormConfig;
use crate::model::cost::{size, Known, TypesOf};
use crate::model::decoder::{last_row, Forward, Rows};
use crate::model::modules::Site;
use crate::model::plan::Scope;
use crate::model::rope::Rope;
use crate::model::segments::{Own, Seen};

#[derive(Clone, Debug, PartialEq)]
pub struct MlaConfig {
    pub heads: i32,
    /// Numbers that a token's queries are made of; None: of all of it.
    pub query_rank: Option<i32>,
    /// Of a latent.
    pub rank: i32,
    /// Of each head's query and key the part that positions do not turn.
    pub plain_dim: i32,
    /// And the part that they do, which all heads have the same key of.
    pub turned_dim: i32,
    pub value_dim: i32,
    /// Of the scores.
    pub scale: f32,
    /// Of what queries and latents are made by, but for the last step of queries, and of the output.
    pub bias: bool,
    /// Of the norms of latents and of what queries are made of.
    pub eps: f32,
    /// None: positions do not show.
    pub rope: Option<Rope>,
}

#[derive(Clone)]
pub struct Mla {
    config: MlaConfig,
    queries: Queries,
    /// `[rank + turned_dim, hidden]`
    kv_a_proj: Site,
    /// `[rank]`
    kv_a_norm: Site,
    /// `[heads, rank, plain_dim]`
    embed_q: Site,
    /// `[heads, value_dim, rank]`
    unembed_out: Site,
    /// `[hidden, heads * value_dim]`
    o_proj: Site,
    rope: Option<usize>,
    cache: usize,
}

#[derive(Clone, Copy)]
enum Queries {
    /// `[heads * (plain_dim + turned_dim), hidden]`
    Whole(Site),
    InSteps {
        /// `[query_rank, hidden]`
        q_a_proj: Site,
        /// `[query_rank]`
        q_a_norm: Site,
        /// `[heads * (plain_dim + turned_dim), query_rank]`
        q_b_proj: Site,
    },
}

impl MlaConfig {
    /// Of each head's query and key.
    fn query_dim(&self) -> i32 {
        self.plain_dim + self.turned_dim
    }

    /// Weights that a token is multiplied with.
    pub fn parameters(&self, hidden: u64) -> u64 {
        let queries = size(self.heads) * size(self.query_dim());
        let queries = match self.query_rank.map(size) {
            Some(rank) => rank * (hidden + queries),
            None => hidden * queries,
        };
        let latents = hidden * size(self.rank + self.turned_dim);
        let heads = size(self.heads) * size(self.rank) * size(self.plain_dim + self.value_dim);
        queries + latents + heads + size(self.heads) * size(self.value_dim) * hidden
    }

    /// Queries as projected, turned and taken to the latents, latents as projected and normed, and what heads give, of latents and
    /// of values.
    pub fn row(&self) -> u64 {
        let queries = 2 * self.query_dim() + 2 * self.rank + self.turned_dim;
        let head = size(queries) + 2 * size(self.rank + self.value_dim);
        let latents = 4 * size(self.rank + self.turned_dim);
        2 * size(self.query_rank.unwrap_or(0)) + size(self.heads) * head + latents
    }

    /// Numbers that are made of each token that `tokens` others see.
    pub fn seen(&self, tokens: u64, kernels: bool) -> u64 {
        let heads = size(self.heads);
        match (kernels, tokens) {
            // Latents and turned keys are looked at where they are kept.
            (true, _) => 0,
            // Scores of turned queries, with and without those that are not seen.
            (false, 1) => 2 * heads,
            // And every head's keys and values.
            (false, tokens) => heads * (size(self.plain_dim + self.value_dim) + 2 * tokens),
        }
    }

    /// And scores of both parts, as they are, added up, and after the softmax.
    pub fn training_row(&self, width: u64) -> u64 {
        let made = size(self.heads) * size(self.plain_dim + self.value_dim);
        2 * self.row() + 2 * made + 6 * size(self.heads) * width
    }
}

impl Mla {
    pub fn declare(scope: &mut Scope, config: &MlaConfig, hidden: i32) -> Result<Self> {
        let (heads, rank, bias) = (config.heads, config.rank, config.bias);
        let (plain, value) = (config.plain_dim, config.value_dim);
        let queries = heads * config.query_dim();
        let norm = |name| NormConfig {
            name,
            eps: config.eps,
            plus_one: false,
            layer: false,
            bias: false,
        };
        let mut scope = scope.within("self_attn");
        let queries = match config.query_rank {
            None => Queries::Whole(scope.linear("q_proj", [queries, hidden], false)?),
            Some(rank) => Queries::InSteps {
                q_a_proj: scope.linear("q_a_proj", [rank, hidden], bias)?,
                q_a_norm: scope.norm(&norm("q_a_layernorm"), rank)?,
                q_b_proj: scope.linear("q_b_proj", [queries, rank], false)?,
            },
        };
        let kept = rank + config.turned_dim;
        // Hugging Face has both in one: of each head the rows that make keys of latents, then those that make values. Queries are
        // taken to the latents by the former turned around.
        let both = ("kv_b_proj", plain + value);
        let all = plain + value;
        Ok(Mla {
            queries,
            kv_a_proj: scope.linear("kv_a_proj_with_mqa", [kept, hidden], bias)?,
            kv_a_norm: scope.norm(&norm("kv_a_layernorm"), rank)?,
            embed_q: scope.heads("embed_q", [heads, rank, plain], both, (0..plain, true))?,
            unembed_out: scope.heads(
                "unembed_out",
                [heads, value, rank],
                both,
                (plain..all, false),
            )?,
            o_proj: scope.linear("o_proj", [hidden, heads * value], bias)?,
            rope: config.rope.as_ref().map(|rope| scope.rope(rope)),
            cache: scope.cache(CacheSpec::Tokens(TokensSpec {
                window: None,
                heads: 1,
                head_dims: [rank, config.turned_dim],
            })),
            config: config.clone(),
        })
    }

    pub fn config(&self) -> &MlaConfig {
        &self.config
    }

    pub fn cache(&self) -> usize {
        self.cache
    }

    /// As `Attention::forward`.
    pub fn forward(&self, with: &Forward, x: &Array, seen: Seen, rows: Rows) -> Result<Array> {
        let MlaConfig {
            rank, turned_dim, ..
        } = self.config;
        let last = match rows {
            Rows::All => x.clone(),
            Rows::Last => last_row(x)?,
        };
        // [batch, n, rank + turned_dim]
        let kept = with.linear(self.kv_a_proj, x)?;
        let latents = with.norm(self.kv_a_norm, &ops::columns(&kept, 0..rank)?)?;
        let keys = ops::columns(&kept, rank..rank + turned_dim)?;
        let queries = self.queries(with, &last)?;
        let output = seen.each(
            [&queries, &latents, &keys],
            |[queries, latents, keys], own| self.attend(with, &queries, [&latents, &keys], own),
        )?;
        with.linear(self.o_proj, &output)
    }

    /// Of one session, or of a batch: queries `[batch, asking, heads, plain_dim + turned_dim]`, latents `[batch, n, rank]` and keys
    /// that are not turned yet `[batch, n, turned_dim]` → `[batch, asking, heads * value_dim]`
    fn attend(
        &self,
        with: &Forward,
        queries: &Array,
        [latents, keys]: [&Array; 2],
        seen: Own,
    ) -> Result<Array> {
        let MlaConfig {
            heads,
            rank,
            plain_dim,
            turned_dim,
            value_dim,
            ..
        } = self.config;
        let [batch, n] = [keys.dim(0), keys.dim(1)];
        let offset = seen.cache.as_ref().map_or(0, |cache| cache.offset());
        let end = offset + n;
        let length = seen.cache.as_ref().map_or(end, |cache| cache.length(n));
        let rope = self.rope.map(|rope| with.rope(rope)).transpose()?;
        let turn = |x: Array, offset: i32| match rope {
            Some(rope) => rope.forward(&x, offset, length),
            None => Ok(x),
        };
        // [batch, n, …] → [batch, 1, n, …]
        let latents = ops::reshape(latents, &[batch, 1, n, rank])?;
        let keys = turn(ops::reshape(keys, &[batch, 1, n, turned_dim])?, offset)?;
        // Of one type, as with `Attention`.
        let dtype = latents.dtype().wider(keys.dtype());
        let (latents, keys) = (ops::astype(&latents, dtype)?, ops::astype(&keys, dtype)?);
        let traced = seen.cache.is_none();
        // Both `[batch, 1, tokens in the cache, …]`.
        let (latents, keys) = match seen.cache {
            Some(cache) => {
                let (latents, keys) = cache.tokens()?.update_and_fetch(latents, keys)?;
                (nn::known(latents)?, nn::known(keys)?)
            }
            None => (Stored::Floats(latents), Stored::Floats(keys)),
        };

        let asking = queries.dim(1);
        // [batch, asking, heads, plain_dim] and [batch, heads, asking, turned_dim]
        let turned = ops::columns(queries, plain_dim..plain_dim + turned_dim)?;
        let turned = ops::transpose(&turned, &[0, 2, 1, 3])?;
        let turned = turn(turned, end - asking)?;
        let plain = ops::columns(queries, 0..plain_dim)?;

        let (embed_q, unembed_out) = (
            with.experts_layer(self.embed_q)?,
            with.experts_layer(self.unembed_out)?,
        );
        let attend = |plain: &Array, own: &Stored, values: &Stored| {
            // [batch, asking, heads, …] → [batch, heads, asking, …]
            let queries = InParts {
                plain: &ops::transpose(plain, &[0, 2, 1, 3])?,
                turned: &turned,
            };
            let keys = InParts {
                plain: own,
                turned: &keys,
            };
            let how = (self.config.scale, traced);
            nn::latent_attention(queries, keys, values, seen.mask, how)
        };
        // [batch, asking, heads, value_dim]
        let output = match nn::looks_at_latents(asking) {
            true => {
                let plain = embed_q.by_head(&plain)?;
                unembed_out.by_head(&attend(&plain, &latents, &latents)?)?
            }
            false => {
                let latents = latents.floats()?;
                let own = Stored::Floats(embed_q.back_of_heads(&latents)?);
                let values = Stored::Floats(unembed_out.of_heads(&latents)?);
                attend(&plain, &own, &values)?
            }
        };
        ops::reshape(&output, &[batch, asking, heads * value_dim])
    }

    /// x `[batch, n, hidden]` → `[batch, n, heads, plain_dim + turned_dim]`
    fn queries(&self, with: &Forward, x: &Array) -> Result<Array> {
        let queries = match self.queries {
            Queries::Whole(q_proj) => with.linear(q_proj, x)?,
            Queries::InSteps {
                q_a_proj,
                q_a_norm,
                q_b_proj,
            } => {
                let inner = with.norm(q_a_norm, &with.linear(q_a_proj, x)?)?;
                with.linear(q_b_proj, &inner)?
            }
        };
        let (heads, dim) = (self.config.heads, self.config.query_dim());
        ops::reshape(&queries, &[x.dim(0), x.dim(1), heads, dim])
    }

    pub fn types<T: Known>(&self, of: &TypesOf<T>, x: Dtype) -> PartTypes {
        let queries = match self.queries {
            Queries::Whole(q_proj) => of.linear(q_proj, x),
            Queries::InSteps {
                q_a_proj,
                q_a_norm,
                q_b_proj,
            } => of.linear(q_b_proj, of.norm(q_a_norm, of.linear(q_a_proj, x))),
        };
        let turned = of.linear(self.kv_a_proj, x);
        let kept = of.norm(self.kv_a_norm, turned).wider(turned);
        let queries = of.linear(self.embed_q, queries);
        let output = of.linear(self.unembed_out, queries.wider(kept));
        PartTypes {
            kept: Some(kept),
            output: of.linear(self.o_proj, output),
        }
    }
}
