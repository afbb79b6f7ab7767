//! Keys or values of tokens as a cache holds them: floats, or packed numbers.

use std::ops::Range;

use super::{fast, ops, Array};
use crate::dtype::{Dtype, Mode, Scheme};
use crate::error::{Error, Result};

/// `[1, heads, tokens, dim]`
#[derive(Clone)]
pub enum Stored {
    Floats(Array),
    Packed(PackedTokens),
}

/// As `mx.quantize` packs the rows of `[1, heads, tokens, dim]`.
#[derive(Clone)]
pub struct PackedTokens {
    /// u32 `[1, heads, tokens, dim * bits / 32]`
    pub codes: Array,
    /// `[1, heads, tokens, dim / group_size]`
    pub scales: Array,
    /// `[1, heads, tokens, dim / group_size]`
    pub biases: Array,
    /// Affine.
    pub scheme: Scheme,
}

impl Stored {
    /// Room for so many tokens of `[1, heads, tokens, dim]`; `dim` in whole groups of the scheme.
    pub fn zeros(
        [heads, tokens, dim]: [i32; 3],
        dtype: Dtype,
        scheme: Option<Scheme>,
    ) -> Result<Stored> {
        let arrays = arrays_of([heads, tokens, dim], dtype, scheme);
        let arrays = arrays
            .iter()
            .map(|(dtype, shape)| ops::zeros(shape, *dtype));
        Stored::from_arrays(arrays.collect::<Result<_>>()?, scheme)
    }

    /// Of the arrays that `arrays_of` describes.
    pub fn from_arrays(arrays: Vec<Array>, scheme: Option<Scheme>) -> Result<Stored> {
        let mut arrays = arrays.into_iter();
        let mut next = || {
            let missing = || Error::internal("tokens without one of their arrays");
            arrays.next().ok_or_else(missing)
        };
        Ok(match scheme {
            None => Stored::Floats(next()?),
            Some(scheme) => Stored::Packed(PackedTokens {
                codes: next()?,
                scales: next()?,
                biases: next()?,
                scheme,
            }),
        })
    }

    /// x `[1, heads, tokens, dim]`, packed where there is a scheme.
    pub fn of(x: Array, scheme: Option<Scheme>) -> Result<Stored> {
        let Some(scheme) = scheme else {
            return Ok(Stored::Floats(x));
        };
        if fast::active() {
            return fast::pack_tokens(&x, scheme).map(Stored::Packed);
        }
        let (codes, scales, biases) = ops::quantize(&x, scheme)?;
        let biases = biases.ok_or_else(|| Error::internal("tokens packed without biases"))?;
        Ok(Stored::Packed(PackedTokens {
            codes,
            scales,
            biases,
            scheme,
        }))
    }

    pub fn arrays(&self) -> impl Iterator<Item = &Array> {
        let (first, rest) = match self {
            Stored::Floats(floats) => (floats, None),
            Stored::Packed(packed) => (&packed.codes, Some([&packed.scales, &packed.biases])),
        };
        std::iter::once(first).chain(rest.into_iter().flatten())
    }

    pub fn nbytes(&self) -> u64 {
        self.arrays().map(Array::nbytes).sum()
    }

    pub fn tokens(&self) -> i32 {
        match self {
            Stored::Floats(floats) => floats.dim(2),
            Stored::Packed(packed) => packed.codes.dim(2),
        }
    }

    pub fn dim(&self) -> i32 {
        match self {
            Stored::Floats(floats) => floats.dim(3),
            Stored::Packed(packed) => packed.scales.dim(3) * packed.scheme.group_size,
        }
    }

    /// Of the numbers, as attention sees them.
    pub fn dtype(&self) -> Dtype {
        match self {
            Stored::Floats(floats) => floats.dtype(),
            Stored::Packed(packed) => packed.scales.dtype(),
        }
    }

    /// The numbers, `[1, heads, tokens, dim]`.
    pub fn floats(&self) -> Result<Array> {
        match self {
            Stored::Floats(floats) => Ok(floats.clone()),
            Stored::Packed(packed) => ops::dequantize(
                &packed.codes,
                &packed.scales,
                Some(&packed.biases),
                packed.scheme,
            ),
        }
    }

    /// Each array by itself, one after the other.
    pub fn map(self, mut each: impl FnMut(Array) -> Result<Array>) -> Result<Stored> {
        Ok(match self {
            Stored::Floats(floats) => Stored::Floats(each(floats)?),
            Stored::Packed(packed) => Stored::Packed(PackedTokens {
                codes: each(packed.codes)?,
                scales: each(packed.scales)?,
                biases: each(packed.biases)?,
                scheme: packed.scheme,
            }),
        })
    }

    /// Some of the tokens.
    pub fn take(&self, tokens: Range<i32>) -> Result<Stored> {
        if tokens == (0..self.tokens()) {
            return Ok(self.clone());
        }
        self.clone()
            .map(|array| take_tokens(&array, tokens.clone()))
    }

    /// With `update` written over its tokens from `at` on; in place, as it is given away.
    pub fn write(self, update: &Stored, at: i32) -> Result<Stored> {
        let mut updates = update.arrays();
        self.map(|array| {
            let missing = || Error::internal("tokens that are stored in two ways");
            write_tokens(array, updates.next().ok_or_else(missing)?, at)
        })
    }
}

/// The types and shapes of the arrays that keep `[1, heads, tokens, dim]`; `dim` in whole groups of the scheme.
pub fn arrays_of(
    [heads, tokens, dim]: [i32; 3],
    dtype: Dtype,
    scheme: Option<Scheme>,
) -> Vec<(Dtype, Vec<i32>)> {
    let array = |last, dtype| (dtype, vec![1, heads, tokens, last]);
    match scheme {
        None => vec![array(dim, dtype)],
        Some(scheme) => {
            let groups = array(dim / scheme.group_size, dtype);
            let codes = array(dim / 32 * scheme.bits, Dtype::U32);
            vec![codes, groups.clone(), groups]
        }
    }
}

/// The scheme of packed keys and values.
pub fn token_scheme(bits: i32, group_size: i32) -> Scheme {
    Scheme {
        mode: Mode::Affine,
        bits,
        group_size,
    }
}

/// Some of the tokens of `[1, heads, tokens, …]`.
pub fn take_tokens(x: &Array, tokens: Range<i32>) -> Result<Array> {
    let stop = [1, x.dim(1), tokens.end, x.dim(3)];
    ops::slice(x, &[0, 0, tokens.start, 0], &stop)
}

/// `x` with `update` written over its tokens from `at` on; in place, as `x` is given away.
pub fn write_tokens(x: Array, update: &Array, at: i32) -> Result<Array> {
    let (heads, n, dim) = (x.dim(1), update.dim(2), x.dim(3));
    ops::slice_update(&x, update, &[0, 0, at, 0], &[1, heads, at + n, dim])
}
