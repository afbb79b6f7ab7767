//! A block of a decoder as one operation.

use super::{
    float_type, floats, floats_mut, head_shape, matrix, one, queue_with, Array, Outcome,
    PackedMatrix, Traits, View,
};
use crate::error::Result;
use crate::kernels::{self, HeadShape, HeadsMut, Kernels, Visible};

/// `[out, in]`
#[derive(Clone, Copy)]
pub enum Matrix<'a> {
    Dense(&'a Array),
    Packed(&'a PackedMatrix),
}

/// Where a block's keys and values go, and what its queries see of them.
pub struct Place {
    /// `[1, kv_heads, capacity, head_dim]`, the cache's own: written in place, in the order of the stream.
    pub keys: Array,
    /// The same.
    pub values: Array,
    /// Where the new tokens are written.
    pub at: i32,
    /// Tokens from the first on that are seen, the new ones included.
    pub seen: i32,
    /// The position of the first new token.
    pub offset: i32,
}

/// Where a weight is among the operation's inputs.
type Input = usize;

/// x `[1, n, hidden]` → the last `asking` rows of what the block makes of it, `[1, asking, hidden]`, in the type of x; so
/// are the weights.
pub fn block(
    x: &Array,
    block: &kernels::Block<Matrix, &Array>,
    place: &Place,
    visible: Visible,
    asking: i32,
) -> Result<Array> {
    const X: Input = 0;
    const KEYS: Input = 1;
    const VALUES: Input = 2;
    let mut inputs = vec![x, &place.keys, &place.values];
    let next = std::cell::RefCell::new(&mut inputs);
    let add = |array| {
        let mut inputs = next.borrow_mut();
        inputs.push(array);
        inputs.len() - 1
    };
    let plan = block.try_map::<_, _, crate::error::Error>(
        &mut |matrix| {
            Ok(match matrix {
                Matrix::Dense(weight) => (add(weight), None),
                Matrix::Packed(packed) => (add(&packed.data), Some(packed.layout)),
            })
        },
        &mut |vector| Ok(add(*vector)),
    )?;
    let (at, seen, offset) = (place.at, place.seen, place.offset);
    let run = move |kernels: &Kernels, from: &[View], to: &[View]| {
        let input = |index: Input| from.get(index).ok_or("an array is missing");
        let block = plan.try_map::<_, _, String>(
            &mut |(index, layout)| matrix(input(*index)?, *layout),
            &mut |vector| floats(input(*vector)?),
        )?;
        let mut past = kernels::Past {
            keys: cache(input(KEYS)?, seen)?,
            values: cache(input(VALUES)?, seen)?,
            at: at as usize,
            offset,
            visible,
        };
        kernels.block(
            &block,
            &floats(input(X)?)?,
            &mut past,
            &mut floats_mut(&to[0])?,
        );
        Ok(())
    };
    let traits = Traits {
        written: 1 << KEYS | 1 << VALUES,
        ..Traits::default()
    };
    let shape = [1, asking, x.dim(2)];
    let out = (&shape[..], x.dtype());
    let made = queue_with(c"block", traits, &inputs, [out], Box::new(run))?;
    Ok(one(made))
}

/// The first tokens of a cache.
fn cache<'a>(view: &'a View, tokens: i32) -> Outcome<HeadsMut<'a>> {
    let shape = head_shape(view)?;
    if tokens as usize > shape.tokens {
        return Err("a cache is too small".to_owned());
    }
    let shape = HeadShape {
        tokens: tokens as usize,
        ..shape
    };
    // SAFETY: the memory is the cache's alone, and operations run one after another (see `Place`).
    Ok(unsafe { HeadsMut::from_raw(view.data(), float_type(view)?, shape) })
}
