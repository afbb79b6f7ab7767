//! Keys and values as inputs of operations, and their packing.

use super::{float_type, head_shape, heads, queue, Array, Outcome, View};
use crate::dtype::{Dtype, Scheme};
use crate::error::Result;
use crate::kernels::{self, HeadShape, HeadsMut, Kernels, PackedHeads, PackedHeadsMut};
use crate::mlx::stored::{PackedTokens, Stored};

/// How what a few inputs hold is stored.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Floats,
    Packed(Scheme),
}

impl Kind {
    pub fn of(stored: &Stored) -> Kind {
        match stored {
            Stored::Floats(_) => Kind::Floats,
            Stored::Packed(packed) => Kind::Packed(packed.scheme),
        }
    }

    /// Inputs that it is.
    pub fn count(self) -> usize {
        match self {
            Kind::Floats => 1,
            Kind::Packed(_) => 3,
        }
    }
}

fn some<const N: usize>(views: &[View], first: usize) -> Outcome<&[View; N]> {
    let some = views.get(first..).and_then(<[View]>::first_chunk);
    some.ok_or_else(|| "an array is missing".to_owned())
}

/// Inputs from `first` on, `[1, heads, tokens, …]` of any strides.
pub(super) fn stored(views: &[View], first: usize, kind: Kind) -> Outcome<kernels::Stored<'_>> {
    let Kind::Packed(scheme) = kind else {
        let [floats] = some(views, first)?;
        return Ok(kernels::Stored::Floats(heads(floats)?));
    };
    let [codes, scales, biases] = some(views, first)?;
    let factors = [heads(scales)?, heads(biases)?];
    // SAFETY: the view is alive, with its own strides, and MLX orders its writers before this.
    let packed =
        unsafe { PackedHeads::from_raw(words(codes)?, head_shape(codes)?, factors, scheme) };
    Ok(kernels::Stored::Packed(packed))
}

/// The first tokens of a cache: inputs from `first` on, which are written, too.
pub(super) fn stored_mut(
    views: &[View],
    first: usize,
    kind: Kind,
    tokens: i32,
) -> Outcome<kernels::StoredMut<'_>> {
    let shape = |view: &View| match head_shape(view)? {
        shape if tokens as usize > shape.tokens => Err("a cache is too small".to_owned()),
        shape => Ok(HeadShape {
            tokens: tokens as usize,
            ..shape
        }),
    };
    let floats = |view: &View| -> Outcome<HeadsMut<'_>> {
        // SAFETY: the memory is the cache's alone, and operations run one after another (see `Place`).
        Ok(unsafe { HeadsMut::from_raw(view.data(), float_type(view)?, shape(view)?) })
    };
    let Kind::Packed(scheme) = kind else {
        let [own] = some(views, first)?;
        return Ok(kernels::StoredMut::Floats(floats(own)?));
    };
    let [codes, scales, biases] = some(views, first)?;
    let factors = [floats(scales)?, floats(biases)?];
    // SAFETY: as above.
    let packed = unsafe { PackedHeadsMut::from_raw(words(codes)?, shape(codes)?, factors, scheme) };
    Ok(kernels::StoredMut::Packed(packed))
}

fn words(view: &View) -> Outcome<*mut u8> {
    match view.dtype() {
        Some(Dtype::U32) => Ok(view.data()),
        _ => Err("codes are not of 32 bits".to_owned()),
    }
}

/// x `[1, heads, tokens, dim]`, whose dim is whole groups of the scheme.
pub fn pack_tokens(x: &Array, scheme: Scheme) -> Result<PackedTokens> {
    let [heads_of, tokens, dim] = [x.dim(1), x.dim(2), x.dim(3)];
    let codes = [1, heads_of, tokens, dim / 32 * scheme.bits];
    let factors = [1, heads_of, tokens, dim / scheme.group_size];
    let run = move |kernels: &Kernels, from: &[View], to: &[View]| {
        let kernels::StoredMut::Packed(mut packed) =
            stored_mut(to, 0, Kind::Packed(scheme), tokens)?
        else {
            return Err("packed tokens as floats".to_owned());
        };
        kernels.pack_heads(&heads(&from[0])?, &mut packed);
        Ok(())
    };
    let outputs = [
        (&codes[..], Dtype::U32),
        (&factors[..], x.dtype()),
        (&factors[..], x.dtype()),
    ];
    let [codes, scales, biases] = queue(c"pack_tokens", 1, &[x], outputs, run)?;
    Ok(PackedTokens {
        codes,
        scales,
        biases,
        scheme,
    })
}
