//! A block in one call gives the bits that its parts give one by one, row by row.

use super::packed_heads::Packed as PackedTokens;
use super::support::{Array, Random};
use crate::dtype::{Dtype, Mode, Scheme};
use crate::{
    Activation, Attention, AttentionSizes, Block, ExpertMatrix, Experts, Floats, GateUp, Groups,
    Half, HeadShape, Heads, HeadsMut, Kernels, Linear, Matrix, Mlp, Moe, Norm, Packed, Part, Past,
    Path, Projections, Routing, Score, Shared, StoredMut, Temperature, Visible,
};

mod parts;
mod random_block;
mod segments;
mod shape;

use parts::Parts;
use random_block::{Made, HEAD_DIM, HIDDEN, KV_HEADS};

use shape::{Second, Shape};

/// Keys and values of a cache, `[KV_HEADS, room, HEAD_DIM]`, of which some tokens are there already.
#[derive(Clone)]
struct Cache {
    keys: Kept,
    values: Kept,
    dtype: Dtype,
    room: usize,
    before: usize,
    visible: Visible,
}

#[derive(Clone, PartialEq)]
enum Kept {
    Floats(Vec<u8>),
    Packed(PackedTokens),
}

const ROOM: usize = 24;

impl Kept {
    fn stored(&mut self, dtype: Dtype, shape: HeadShape) -> StoredMut<'_> {
        match self {
            Kept::Floats(bytes) => {
                StoredMut::Floats(HeadsMut::new(bytes, dtype, shape).expect("sizes"))
            }
            Kept::Packed(packed) => StoredMut::Packed(packed.view_mut(shape.tokens)),
        }
    }
}

impl Cache {
    /// Packed in so many bits where that is some.
    fn random(random: &mut Random, dtype: Dtype, before: usize, bits: Option<i32>) -> Cache {
        Cache::with_room(random, dtype, ROOM, before, bits)
    }

    fn with_room(
        random: &mut Random,
        dtype: Dtype,
        room: usize,
        before: usize,
        bits: Option<i32>,
    ) -> Cache {
        let shape = HeadShape::heads_first(KV_HEADS, room, HEAD_DIM);
        let mut kept = || {
            let array = Array::random(random, dtype, KV_HEADS * room, HEAD_DIM);
            let Some(bits) = bits else {
                return Kept::Floats(array.bytes);
            };
            let scheme = Scheme {
                mode: Mode::Affine,
                bits,
                group_size: 32,
            };
            let mut packed = PackedTokens::new(scheme, dtype, [KV_HEADS, room, HEAD_DIM]);
            let array = Heads::new(&array.bytes, dtype, shape).expect("sizes");
            Kernels::new(1).pack_heads(&array, &mut packed.view_mut(room));
            Kept::Packed(packed)
        };
        Cache {
            keys: kept(),
            values: kept(),
            dtype,
            room,
            before,
            visible: Visible::Causal { window: Some(9) },
        }
    }

    fn shape(&self, tokens: usize) -> HeadShape {
        HeadShape {
            head_stride: self.room * HEAD_DIM,
            ..HeadShape::heads_first(KV_HEADS, tokens, HEAD_DIM)
        }
    }

    fn past(&mut self, n: usize) -> Past<'_> {
        let (shape, dtype) = (self.shape(self.before + n), self.dtype);
        Past {
            keys: self.keys.stored(dtype, shape),
            values: self.values.stored(dtype, shape),
            at: self.before,
            offset: 40 + self.before as i32,
            ring: None,
            visible: self.visible,
        }
    }
}

fn copy(x: &Array) -> Array {
    columns_and_rows(x, 0..x.rows, 0..x.width)
}

fn columns_and_rows(
    x: &Array,
    rows: std::ops::Range<usize>,
    columns: std::ops::Range<usize>,
) -> Array {
    let size = x.dtype.size() as usize;
    let bytes = rows.clone().flat_map(|row| {
        let start = row * x.width * size;
        x.bytes[start + columns.start * size..start + columns.end * size]
            .iter()
            .copied()
    });
    Array {
        bytes: bytes.collect(),
        dtype: x.dtype,
        rows: rows.len(),
        width: columns.len(),
    }
}

#[test]
fn a_block_gives_the_bits_of_its_parts() {
    let mut random = Random(100);
    for round in 0..120 {
        let dtype = super::support::FLOATS[round % 3];
        let shape = Shape::random(&mut random);
        let made = Made::new(&mut random, dtype, &shape);
        let block = made.block(&shape);
        let n = random.pick(&[1, 1, 2, 7, 13]);
        let asking = random.pick(&[1, n]);
        let mut x = Array::random(&mut random, dtype, n, HIDDEN);
        if round % 10 == 9 {
            x.set(n - 1, 3, f32::NAN);
        }
        let before = random.below(ROOM - n);
        let bits = random.pick(&[None, Some(4), Some(8)]);
        let cache = Cache::random(&mut random, dtype, before, bits);
        for path in Path::available() {
            let kernels = Kernels::with_path(path, random.pick(&[1, 2, 3]));
            let parts = Parts { kernels: &kernels };
            let (mut own, mut wanted_cache) = (cache.clone(), cache.clone());
            let wanted = parts.block(&block, copy(&x), &mut wanted_cache, asking);
            let mut y = Array::zeros(dtype, asking, HIDDEN);
            let attends = block
                .halves
                .iter()
                .any(|half| matches!(half.part, Part::Attention(_)));
            let mut past = attends.then(|| own.past(n));
            kernels.block(&block, &x.view(), past.as_mut(), &mut y.view_mut());
            assert!(
                y.bytes == wanted.bytes,
                "{path:?} {dtype:?} {n} rows: {shape:?}"
            );
            assert!(own.keys == wanted_cache.keys && own.values == wanted_cache.values);
            if round % 10 == 9 {
                assert!(
                    (0..HIDDEN).all(|i| y.get(asking - 1, i).is_nan()),
                    "{shape:?}"
                );
            }
        }
    }
}

/// A mixture against plain arithmetic, so that what the parts give together is what the formula says.
#[test]
fn a_mixture_is_what_its_formula_says() {
    let mut random = Random(101);
    for _ in 0..8 {
        let shape = Shape::plain_mixture();
        let made = Made::new(&mut random, Dtype::F32, &shape);
        let block = made.block(&shape);
        let x = Array::random(&mut random, Dtype::F32, 5, HIDDEN);
        let mut y = Array::zeros(Dtype::F32, 5, HIDDEN);
        for path in Path::available() {
            Kernels::with_path(path, 2).block(&block, &x.view(), None, &mut y.view_mut());
            for row in 0..5 {
                let row_of_x: Vec<f64> = (0..HIDDEN).map(|i| x.get(row, i)).collect();
                let wanted = made.mixture_in_f64(&row_of_x);
                for (i, wanted) in wanted.iter().enumerate() {
                    let error = (y.get(row, i) - wanted).abs();
                    assert!(error < 2e-5 * wanted.abs().max(1.0), "{path:?}: {error}");
                }
            }
        }
    }
}

fn refused(work: impl FnOnce()) -> String {
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).expect_err("refused");
    match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(panic) => (*panic.downcast::<&str>().expect("a text")).to_owned(),
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let mut random = Random(102);
    let x = Array::random(&mut random, Dtype::F32, 2, HIDDEN);
    let mut y = Array::zeros(Dtype::F32, 2, HIDDEN);
    let kernels = Kernels::new(1);
    let mut run = |made: &Made, shape: &Shape, work: &dyn Fn(&mut Block<Matrix, Floats>)| {
        let mut block = made.block(shape);
        work(&mut block);
        refused(|| kernels.block(&block, &x.view(), None, &mut y.view_mut()))
    };
    let shape = Shape::dense();
    let made = Made::new(&mut random, Dtype::F32, &shape);
    let text = run(&made, &shape, &|_| {});
    assert!(text.contains("without keys and values"), "{text}");
    let text = run(&made, &shape, &|block| block.halves.clear());
    assert!(text.contains("no halves"), "{text}");
    let shape = Shape::plain_mixture();
    let made = Made::new(&mut random, Dtype::F32, &shape);
    let text = run(&made, &shape, &|block| {
        if let Part::Moe(moe) = &mut block.halves[0].part {
            if let Matrix::Experts(ExpertMatrix::Dense { weights, outputs }) =
                &mut moe.experts.down_proj.weight
            {
                *weights = weights.some_rows(0, *outputs);
            }
        }
    });
    assert!(text.contains("1 experts, and a router for"), "{text}");
}
