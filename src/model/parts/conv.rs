//! A short convolution between two gates, as LFM2 has it: `out_proj(C * conv(B * x))`, with B, C and x from one projection.

use super::PartTypes;
use crate::dtype::Dtype;
use crate::error::Result;
use crate::mlx::nn;
use crate::mlx::{ops, Array};
use crate::model::cache::{CacheSpec, StateSpec, StateType};
use crate::model::cost::{Known, TypesOf};
use crate::model::decoder::{last_row, Forward, Rows};
use crate::model::modules::Site;
use crate::model::plan::Scope;
use crate::model::segments::Seen;

#[derive(Clone, Debug, PartialEq)]
pub struct ConvConfig {
    /// Tokens that the convolution looks at, at least 2.
    pub taps: i32,
    /// Of the convolution and of both projections.
    pub bias: bool,
}

#[derive(Clone)]
pub struct Conv {
    hidden: i32,
    /// `[3 * hidden, hidden]`: the rows of B, then of C, then of x
    in_proj: Site,
    /// `[hidden, taps, 1]`
    taps: Site,
    /// `[hidden]`
    bias: Option<Site>,
    /// `[hidden, hidden]`
    out_proj: Site,
    /// `[1, taps - 1, hidden]`: the last tokens' `B * x`
    cache: usize,
}

impl ConvConfig {
    /// Weights that a token is multiplied with.
    pub fn parameters(&self, hidden: u64) -> u64 {
        4 * hidden * hidden
    }

    pub fn row(hidden: u64) -> u64 {
        6 * hidden
    }
}

impl Conv {
    pub fn declare(scope: &mut Scope, config: &ConvConfig, hidden: i32) -> Result<Self> {
        let mut scope = scope.within("conv");
        let in_proj = scope.linear("in_proj", [3 * hidden, hidden], config.bias)?;
        let taps = scope.taps("conv.weight", [hidden, config.taps])?;
        let bias = match config.bias {
            true => Some(scope.vector("conv.bias", hidden)?),
            false => None,
        };
        let kept = vec![1, config.taps - 1, hidden];
        Ok(Conv {
            hidden,
            in_proj,
            taps,
            bias,
            out_proj: scope.linear("out_proj", [hidden, hidden], config.bias)?,
            cache: scope.cache(CacheSpec::State(StateSpec {
                arrays: vec![(kept, StateType::Kept)],
            })),
        })
    }

    pub fn cache(&self) -> usize {
        self.cache
    }

    /// x `[batch, n, hidden]` → the wanted rows of the same
    pub fn forward(&self, with: &Forward, x: &Array, seen: Seen, rows: Rows) -> Result<Array> {
        let hidden = self.hidden;
        let all = with.linear(self.in_proj, x)?;
        let part = |number: i32| ops::columns(&all, number * hidden..(number + 1) * hidden);
        let (b, c, x) = (part(0)?, part(1)?, part(2)?);
        let bias = self.bias.map(|bias| with.vector(bias)).transpose()?;
        let taps = with.vector(self.taps)?;
        let y = seen.each([&ops::multiply(&b, &x)?], |[inner], own| {
            let state = own.cache.map(|cache| cache.state()).transpose()?;
            let past = state.as_ref().and_then(|state| state.get(0));
            let (y, past) = nn::short_conv(&inner, past, taps, bias, false)?;
            if let Some(state) = state {
                state.advance(inner.dim(1), vec![past]);
            }
            Ok(y)
        })?;
        let (y, c) = match rows {
            Rows::All => (y, c),
            Rows::Last => (last_row(&y)?, last_row(&c)?),
        };
        with.linear(self.out_proj, &ops::multiply(&c, &y)?)
    }

    pub fn types<T: Known>(&self, of: &TypesOf<T>, x: Dtype) -> PartTypes {
        let inner = of.linear(self.in_proj, x);
        PartTypes {
            kept: Some(inner),
            output: of.linear(self.out_proj, inner),
        }
    }
}
