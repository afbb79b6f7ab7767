//! A block of a decoder, or one half of it, as one operation.

use std::ops::Range;
use std::sync::Arc;

use super::experts::Held;
use super::kept::{stored_mut, Kind as KeptKind};
use super::{
    floats, floats_mut, matrix, one, queue_with, Array, Outcome, PackedExperts, PackedMatrix,
    Traits, View,
};
use crate::dtype::Scheme;
use crate::error::{Error, Result};
use crate::kernels::{self, Kernels, Layout, Past, Segment, Texts, Visible};
use crate::mlx::stored::Stored;

/// A weight among MLX's arrays.
#[derive(Clone, Copy)]
pub enum Matrix<'a> {
    /// `[out, in]`
    Dense(&'a Array),
    /// `[out, in]`
    Packed(&'a PackedMatrix),
    /// `[experts, out, in]`, of an `ExpertLinear`
    DenseExperts(&'a Array),
    /// The same.
    PackedExperts(&'a PackedExperts),
    /// `[out, in]`, or of an `ExpertLinear` `[experts, out, in]`, for a GPU's kernels
    AsMlx(AsMlx<'a>),
}

/// A matrix as MLX packs it, or matrices of experts one behind the other.
#[derive(Clone, Copy)]
pub struct AsMlx<'a> {
    /// u32 `[out, in * bits / 32]`
    pub weight: &'a Array,
    /// `[out, in / group_size]`
    pub scales: &'a Array,
    /// `[out, in / group_size]`
    pub biases: Option<&'a Array>,
    pub scheme: Scheme,
}

/// Where a block's keys and values go, and what its queries see of them.
pub struct Place {
    /// `[1, kv_heads, capacity, head_dim]`, the cache's own: written in place, in the order of the stream.
    pub keys: Stored,
    /// The same.
    pub values: Stored,
    /// Where the new tokens are written.
    pub at: i32,
    /// Tokens from the first on that are seen, the new ones included.
    pub seen: i32,
    /// The position of the first new token.
    pub offset: i32,
    /// The new tokens go in one at a time: behind the end of this the next one is written to its start, and each sees what was there
    /// when it came.
    pub ring: Option<Range<i32>>,
}

/// The rows of one session among those of a pass.
pub struct SessionRows {
    pub rows: i32,
    pub place: Place,
    pub visible: Visible,
}

/// What a block's attention sees.
pub enum Seen<'a> {
    /// There is none.
    Nothing,
    Past(&'a Place, Visible),
    /// The rows are several sessions', one after the other; no two of them have a cache in common.
    Sessions(&'a [SessionRows]),
    /// The rows are texts of these lengths, each of which sees itself.
    Texts(&'a Arc<[usize]>, Visible),
}

/// Where a weight is among the operation's inputs.
type Input = usize;

/// What is in the memory of a matrix.
enum Kind {
    One(Option<Layout>),
    Experts(Held),
}

/// What a block's attention sees, among the operation's inputs.
enum Attention {
    None,
    Past(Kept),
    /// Each with its rows.
    Segments(Vec<(usize, Kept)>),
    Texts(Arc<[usize]>, Visible),
}

/// The keys and values of a `Place`.
struct Kept {
    keys: (Input, KeptKind),
    values: (Input, KeptKind),
    at: i32,
    seen: i32,
    offset: i32,
    ring: Option<Range<i32>>,
    visible: Visible,
}

/// Adds the place's arrays to the inputs.
fn kept<'a>(inputs: &mut Vec<&'a Array>, place: &'a Place, visible: Visible) -> Kept {
    let mut add = |stored: &'a Stored| {
        let first = inputs.len();
        inputs.extend(stored.arrays());
        (first, KeptKind::of(stored))
    };
    Kept {
        keys: add(&place.keys),
        values: add(&place.values),
        at: place.at,
        seen: place.seen,
        offset: place.offset,
        ring: place.ring.clone(),
        visible,
    }
}

impl Kept {
    fn past<'a>(&self, from: &'a [View]) -> Outcome<Past<'a>> {
        let stored = |(first, kind)| stored_mut(from, first, kind, self.seen);
        Ok(Past {
            keys: stored(self.keys)?,
            values: stored(self.values)?,
            at: self.at as usize,
            offset: self.offset,
            ring: self
                .ring
                .as_ref()
                .map(|ring| ring.start as usize..ring.end as usize),
            visible: self.visible,
        })
    }
}

/// x `[1, n, hidden]` → the last `asking` rows of what the block makes of it, `[1, asking, hidden]`, in the type of x; so
/// are the weights, but for those that a mixture's router and its experts' choice are made with. A block without attention
/// needs no place.
pub fn block(
    x: &Array,
    block: &kernels::Block<Matrix, &Array>,
    seen: Seen,
    asking: i32,
) -> Result<Array> {
    const X: Input = 0;
    let mut inputs = vec![x];
    let attention = match seen {
        Seen::Nothing => Attention::None,
        Seen::Past(place, visible) => Attention::Past(kept(&mut inputs, place, visible)),
        Seen::Sessions(sessions) => {
            let segments = sessions.iter().map(|session| {
                let rows = session.rows.max(0) as usize;
                (rows, kept(&mut inputs, &session.place, session.visible))
            });
            Attention::Segments(segments.collect())
        }
        Seen::Texts(lengths, visible) => Attention::Texts(lengths.clone(), visible),
    };
    // Those behind x are written, too.
    let written = X + 1..inputs.len();
    let next = std::cell::RefCell::new(&mut inputs);
    let add = |array| {
        let mut inputs = next.borrow_mut();
        inputs.push(array);
        inputs.len() - 1
    };
    let plan = block.try_map::<_, _, Error>(
        &mut |matrix| {
            Ok(match matrix {
                Matrix::Dense(weight) => (add(weight), Kind::One(None)),
                Matrix::Packed(packed) => (add(&packed.data), Kind::One(Some(packed.layout))),
                Matrix::DenseExperts(weight) => (add(weight), Kind::Experts(Held::dense(weight))),
                Matrix::PackedExperts(packed) => (add(&packed.data), Kind::Experts(packed.held())),
                Matrix::AsMlx(_) => {
                    return Err(Error::internal("a weight that is packed for a GPU"))
                }
            })
        },
        &mut |vector| Ok(add(*vector)),
    )?;
    let run = move |kernels: &Kernels, from: &[View], to: &[View]| {
        let input = |index: Input| from.get(index).ok_or("an array is missing");
        let block = plan.try_map::<_, _, String>(
            &mut |(index, kind)| weight(input(*index)?, kind),
            &mut |vector| floats(input(*vector)?),
        )?;
        let (x, mut y) = (floats(input(X)?)?, floats_mut(&to[0])?);
        match &attention {
            Attention::None => kernels.block(&block, &x, None, &mut y),
            Attention::Past(kept) => {
                kernels.block(&block, &x, Some(&mut kept.past(from)?), &mut y);
            }
            Attention::Segments(segments) => {
                let segments = segments.iter().map(|(rows, kept)| {
                    Ok(Segment {
                        rows: *rows,
                        past: kept.past(from)?,
                    })
                });
                let mut segments = segments.collect::<Outcome<Vec<_>>>()?;
                kernels.block_of_segments(&block, &x, &mut segments, &mut y);
            }
            Attention::Texts(lengths, visible) => {
                let (lengths, visible) = (lengths, *visible);
                kernels.block_of_texts(&block, &x, &Texts { lengths, visible }, &mut y);
            }
        }
        Ok(())
    };
    let traits = Traits {
        written,
        ..Traits::default()
    };
    let shape = [1, asking, x.dim(2)];
    let out = (&shape[..], x.dtype());
    let made = queue_with(c"block", traits, &inputs, [out], Box::new(run))?;
    Ok(one(made))
}

fn weight<'a>(view: &'a View, kind: &Kind) -> Outcome<kernels::Matrix<'a>> {
    Ok(match kind {
        Kind::One(layout) => matrix(view, *layout)?,
        Kind::Experts(held) => kernels::Matrix::Experts(held.of(view)?),
    })
}

#[cfg(all(test, not(target_os = "macos")))]
#[path = "block_tests.rs"]
mod tests;
