//! Embeddings of the tokens for each block: what all blocks get is made once, and each lets through what x opens.

use super::PartTypes;
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::mlx::nn::{self, Activation};
use crate::mlx::{ops, Array};
use crate::model::config::{NormConfig, PerLayerConfig};
use crate::model::cost::{size, Known, TypesOf};
use crate::model::decoder::{last_rows, Forward};
use crate::model::modules::Site;
use crate::model::plan::Scope;

/// Of one block: `per_layer_projection(gelu(per_layer_input_gate(x)) * its embeddings)`
#[derive(Clone, Copy)]
pub struct PerLayer {
    width: i32,
    /// `[width, hidden]`
    gate: Site,
    /// `[hidden, width]`
    projection: Site,
}

impl PerLayer {
    pub fn declare(scope: &mut Scope, width: i32, hidden: i32) -> Result<Self> {
        Ok(PerLayer {
            width,
            gate: scope.linear("per_layer_input_gate", [width, hidden], false)?,
            projection: scope.linear("per_layer_projection", [hidden, width], false)?,
        })
    }

    pub fn width(&self) -> u64 {
        size(self.width)
    }

    /// x `[batch, n, hidden]` and the block's embeddings, `[batch, n or more, width]`, of which x has the last → as x
    pub fn forward(&self, with: &Forward, x: &Array, own: Option<&Array>) -> Result<Array> {
        let own = own.ok_or_else(|| Error::internal("a block without its embeddings"))?;
        let own = last_rows(own, x.dim(1))?;
        let gate = with.linear(self.gate, x)?;
        let opened = nn::gated(&gate, &own, Activation::GeluTanh)?;
        with.linear(self.projection, &opened)
    }

    pub fn types<T: Known>(&self, of: &TypesOf<T>, x: Dtype) -> PartTypes {
        let opened = of.linear(self.gate, x).wider(of.per_layer);
        PartTypes {
            kept: None,
            output: of.linear(self.projection, opened),
        }
    }
}

/// What all blocks get, made of the tokens and of their embeddings.
#[derive(Clone, Copy)]
pub struct PerLayerInputs {
    config: PerLayerConfig,
    blocks: i32,
    /// `[vocab, blocks * width]`
    table: Site,
    /// `[blocks * width, hidden]`
    projection: Site,
    /// `[width]`
    norm: Site,
}

impl PerLayerInputs {
    pub fn declare(
        scope: &mut Scope,
        config: PerLayerConfig,
        [blocks, hidden]: [i32; 2],
    ) -> Result<Self> {
        let wide = blocks * config.width;
        let norm = NormConfig {
            name: "per_layer_projection_norm",
            eps: config.eps,
            plus_one: false,
            layer: false,
            bias: false,
        };
        Ok(PerLayerInputs {
            config,
            blocks,
            table: scope.table("embed_tokens_per_layer", [config.vocab, wide])?,
            projection: scope.linear("per_layer_model_projection", [wide, hidden], false)?,
            norm: scope.norm(&norm, config.width)?,
        })
    }

    /// Numbers of a token that are there while all blocks compute, and those that are while these are made.
    pub fn row(&self) -> u64 {
        4 * size(self.blocks) * size(self.config.width)
    }

    /// tokens `[batch, n]`, `h`: what goes into the first block, `[batch, n, hidden]` → of each block `[batch, n, width]`
    pub fn forward(&self, with: &Forward, tokens: &Array, h: &Array) -> Result<Vec<Array>> {
        let PerLayerConfig { vocab, width, .. } = self.config;
        let (batch, n, hidden) = (h.dim(0), h.dim(1), h.dim(2));
        let times =
            |x: &Array, factor: f64| ops::multiply(x, &Array::scalar(factor as f32, x.dtype())?);
        let number = |number: i32| ops::astype(&Array::from_i32(&[number])?, tokens.dtype());
        // Tokens that the table does not have, such as those of images, have the row of token 0.
        let known = ops::less(tokens, &number(vocab)?)?;
        let tokens = ops::select(&known, tokens, &number(0)?)?;
        let own = with.rows(self.table, &tokens)?;
        let own = times(&own, f64::from(width).sqrt())?;
        let made = with.linear(self.projection, h)?;
        let made = times(&made, 1.0 / f64::from(hidden).sqrt())?;
        // [batch, n, blocks * width] → [batch, n, blocks, width]
        let apart = |x: &Array| ops::reshape(x, &[batch, n, self.blocks, width]);
        let made = with.norm(self.norm, &apart(&made)?)?;
        let all = times(&ops::add(&made, &apart(&own)?)?, 0.5f64.sqrt())?;
        let block = |index: i32| {
            let one = ops::slice(&all, &[0, 0, index, 0], &[batch, n, index + 1, width])?;
            ops::reshape(&one, &[batch, n, width])
        };
        (0..self.blocks).map(block).collect()
    }

    /// The type of what all blocks get. `h`: of what goes into the first.
    pub fn types<T: Known>(&self, of: &TypesOf<T>, h: Dtype) -> Dtype {
        let made = of.norm(self.norm, of.linear(self.projection, h));
        made.wider(of.rows(self.table))
    }
}
