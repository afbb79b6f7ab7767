//! The CPU's own kernels as operations of MLX's graph: faster than MLX's, which are the reference and do what these do
//! not. Only products have a gradient, by what the weights are multiplied by.

mod block;
mod experts;
mod kept;
mod latent;
mod mixture;
mod recurrence;

use std::cell::{Cell, RefCell};
use std::mem::MaybeUninit;
use std::ops::Range;
use std::sync::{Arc, Weak};

use super::array::Array;
use super::custom::{Custom, Outcome, Run, View};
use super::ops;
use super::stored::Stored;
use crate::dtype::{Dtype, Mode, Scheme};
use crate::error::{Error, Result};
use crate::kernels::{
    self, Activation, AttentionOptions, Floats, FloatsMut, HeadShape, Heads, HeadsMut, Kernels,
    Layout, Packed, Quantized, QuantizedMut, Temperature, Visible,
};

pub use block::{block, AsMlx, Matrix, Place, Seen, SessionRows};
pub use experts::{expert_linear, packed_experts_size, PackedExperts};
pub use kept::pack_tokens;
pub use latent::attention_in_parts;
pub use mixture::{route, weighted_sum};
pub use recurrence::{recurrence, short_conv};

use kept::{stored, Kind};

thread_local! {
    static KERNELS: RefCell<Option<Arc<Kernels>>> = const { RefCell::new(None) };
    static USE: Cell<Use> = const { Cell::new(Use::All) };
}

/// Which kernels a thread's operations run on.
#[derive(Clone, Copy, PartialEq)]
enum Use {
    All,
    Products,
    /// Tests compare with that.
    #[cfg_attr(not(test), allow(dead_code))]
    None,
}

/// From now on the calling thread computes with these. Its device must be the CPU.
pub fn start(kernels: Kernels) {
    KERNELS.set(Some(Arc::new(kernels)));
}

/// Ends the kernels' threads, once the stream has come to rest.
pub(super) fn stop() {
    drop(KERNELS.take());
}

/// Frees the kernels' working memory.
pub fn trim() {
    KERNELS.with_borrow(|kernels| kernels.iter().for_each(|kernels| kernels.trim()));
}

/// What `work` queues on this thread is MLX's own operations: for comparison.
#[cfg(test)]
pub fn plainly<T>(work: impl FnOnce() -> T) -> T {
    using(Use::None, work)
}

/// What `work` queues on this thread has gradients: MLX's own operations, but for products of 16-bit floats. In f32 training
/// is to be mlx-lm's bit by bit: after some steps of Adam it would show in what order a sum was made.
pub fn with_gradients<T>(work: impl FnOnce() -> T) -> T {
    match USE.get() {
        Use::None => work(),
        _ => using(Use::Products, work),
    }
}

fn using<T>(these: Use, work: impl FnOnce() -> T) -> T {
    struct Restore(Use);
    impl Drop for Restore {
        fn drop(&mut self) {
            USE.set(self.0);
        }
    }
    let _restore = Restore(USE.replace(these));
    work()
}

/// Whether operations of this thread run on the kernels.
pub fn active() -> bool {
    USE.get() == Use::All && has_kernels()
}

/// Whether what this thread queues is to be MLX's own operations.
pub fn is_plain() -> bool {
    USE.get() != Use::All
}

/// Whether products of x of this type do, and rows of this type.
pub fn products(x: Dtype) -> bool {
    let these = match USE.get() {
        Use::All => true,
        Use::Products => x != Dtype::F32,
        Use::None => false,
    };
    these && has_kernels()
}

fn has_kernels() -> bool {
    KERNELS.with_borrow(Option::is_some)
}

/// The kernels as operations hold them: these may outlive the engine, whose threads must not.
fn hold() -> Result<Weak<Kernels>> {
    KERNELS
        .with_borrow(|kernels| kernels.as_ref().map(Arc::downgrade))
        .ok_or_else(|| Error::internal("a kernel was asked for where there are none"))
}

/// What an operation does beside computing its outputs.
#[derive(Default)]
struct Traits {
    /// As in `Custom`.
    strided: u32,
    /// As in `Custom`.
    written: Range<usize>,
    /// As in `Custom`.
    gradient: Option<Work>,
}

type Work = Box<dyn Fn(&Kernels, &[View], &[View]) -> Outcome + Send + Sync>;

/// Queues `run` with the kernels.
fn queue<const N: usize>(
    name: &'static std::ffi::CStr,
    strided: u32,
    inputs: &[&Array],
    outputs: [(&[i32], Dtype); N],
    run: impl Fn(&Kernels, &[View], &[View]) -> Outcome + Send + Sync + 'static,
) -> Result<[Array; N]> {
    let traits = Traits {
        strided,
        ..Traits::default()
    };
    queue_with(name, traits, inputs, outputs, Box::new(run))
}

fn queue_with<const N: usize>(
    name: &'static std::ffi::CStr,
    traits: Traits,
    inputs: &[&Array],
    outputs: [(&[i32], Dtype); N],
    run: Work,
) -> Result<[Array; N]> {
    let kernels = hold()?;
    #[cfg(test)]
    let run: Work = match super::fault::fails_when_evaluated() {
        true => Box::new(|_, _, _| Err("a fault that the test asked for".to_owned())),
        false => run,
    };
    let with_kernels = |work: Work| -> Run {
        let kernels = kernels.clone();
        Box::new(move |inputs, outputs| {
            let kernels = kernels.upgrade().ok_or("the engine has ended")?;
            work(&kernels, inputs, outputs)
        })
    };
    let custom = Custom {
        name,
        strided: traits.strided,
        written: traits.written,
        run: with_kernels(run),
        gradient: traits.gradient.map(with_kernels),
    };
    custom.queue(inputs, outputs)
}

fn one([array]: [Array; 1]) -> Array {
    array
}

fn rows_and_width(view: &View) -> (usize, usize) {
    let shape = view.shape();
    let width = shape.last().map_or(1, |&n| n as usize);
    let rows = shape.iter().rev().skip(1).map(|&n| n as usize).product();
    (rows, width)
}

fn float_type(view: &View) -> Outcome<Dtype> {
    view.dtype()
        .filter(|dtype| dtype.is_float())
        .ok_or_else(|| "an array is not of a float type".to_owned())
}

/// Rows of a row-major view.
fn floats<'a>(view: &'a View) -> Outcome<Floats<'a>> {
    let (rows, width) = rows_and_width(view);
    // SAFETY: the view is row-major and alive, and MLX orders its writers before this.
    Ok(unsafe { Floats::from_raw(view.data(), float_type(view)?, rows, width, width) })
}

fn floats_mut<'a>(view: &'a View) -> Outcome<FloatsMut<'a>> {
    let (rows, width) = rows_and_width(view);
    // SAFETY: the output was made for this operation, which alone has it until it returns.
    Ok(unsafe { FloatsMut::from_raw(view.data(), float_type(view)?, rows, width, width) })
}

/// `[1, heads, tokens, dim]` of any strides.
fn head_shape(view: &View) -> Outcome<HeadShape> {
    let (&[1, heads, tokens, dim], &[_, head_stride, token_stride, _]) =
        (view.shape(), view.strides())
    else {
        return Err("an array is not [1, heads, tokens, dim]".to_owned());
    };
    Ok(HeadShape {
        heads: heads as usize,
        tokens: tokens as usize,
        dim: dim as usize,
        head_stride: head_stride as usize,
        token_stride: token_stride as usize,
    })
}

fn heads<'a>(view: &'a View) -> Outcome<Heads<'a>> {
    let shape = head_shape(view)?;
    // SAFETY: as for `floats`, with the view's own strides.
    Ok(unsafe { Heads::from_raw(view.data(), float_type(view)?, shape) })
}

/// Of an output.
fn heads_mut<'a>(view: &'a View) -> Outcome<HeadsMut<'a>> {
    let shape = head_shape(view)?;
    // SAFETY: as for `floats_mut`; outputs are row-major.
    Ok(unsafe { HeadsMut::from_raw(view.data(), float_type(view)?, shape) })
}

/// A quantised matrix `[out, in]` as the kernels want it.
pub struct PackedMatrix {
    layout: Layout,
    /// u32: the packed bytes from the first multiple of 64 on
    data: Array,
    /// Of scales and biases.
    scales: Dtype,
}

const ALIGNMENT: usize = 64;

fn packed_bytes<'a>(view: &'a View, layout: &Layout) -> &'a [u8] {
    let start = view.data();
    let skipped = start.align_offset(ALIGNMENT);
    // SAFETY: the array has room for `nbytes` behind its first multiple of 64, and was written before this runs.
    unsafe { std::slice::from_raw_parts(start.add(skipped), layout.nbytes()) }
}

/// How weights of so many rows and groups are packed; None where the kernels do not know such weights.
pub fn packed_layout(
    [rows, groups]: [i32; 2],
    scales: Dtype,
    biases: Option<Dtype>,
    scheme: Scheme,
) -> Option<Layout> {
    let size = |n: i32| usize::try_from(n).unwrap_or(0);
    let inputs = size(groups).checked_mul(size(scheme.group_size))?;
    let layout = Layout::new(scheme, scales, size(rows), inputs)?;
    biases
        .is_none_or(|biases| biases == scales)
        .then_some(layout)
}

/// The packed array's length, in u32.
pub fn packed_size(layout: &Layout) -> Option<i32> {
    i32::try_from((layout.nbytes() + ALIGNMENT) / 4).ok()
}

impl PackedMatrix {
    /// Packs now, so that the caller can free the originals. None where the kernels do not know such weights, or are off.
    pub fn new(
        weight: &Array,
        scales: &Array,
        biases: Option<&Array>,
        scheme: Scheme,
    ) -> Result<Option<PackedMatrix>> {
        let shape = [weight.dim(0), scales.dim(1)];
        let layout = packed_layout(shape, scales.dtype(), biases.map(Array::dtype), scheme);
        let layout = layout.filter(|_| active());
        let Some((layout, words)) = layout.and_then(|layout| Some((layout, packed_size(&layout)?)))
        else {
            return Ok(None);
        };
        // What was packed before was freed: MLX would take its buffers for this, up to 8 KiB larger, and keep them.
        super::memory::clear_cache();
        let mut arrays = vec![weight, scales];
        arrays.extend(biases);
        let data = one(queue(
            c"pack",
            0,
            &arrays,
            [(&[words], Dtype::U32)],
            move |kernels, from, to| {
                let [weight, scales, biases @ ..] = from else {
                    return Err("an array is missing".to_owned());
                };
                let start = to[0].data();
                let skipped = start.align_offset(ALIGNMENT);
                // SAFETY: the output has 64 bytes more than the packed matrix, and what it holds does not matter yet.
                let to = unsafe {
                    let to = start.add(skipped).cast::<MaybeUninit<u8>>();
                    std::slice::from_raw_parts_mut(to, layout.nbytes())
                };
                let from = Quantized {
                    weight: bytes(weight)?,
                    scales: bytes(scales)?,
                    biases: biases.first().map(bytes).transpose()?,
                };
                match kernels::pack(kernels.pool(), &layout, from, to) {
                    true => Ok(()),
                    false => Err("the arrays do not fit together".to_owned()),
                }
            },
        )?);
        super::eval(&[&data])?;
        Ok(Some(PackedMatrix {
            layout,
            data,
            scales: scales.dtype(),
        }))
    }

    /// MLX's arrays as they were packed: weight, scales, biases; of each these rows, as far as there are so many.
    pub fn unpack(&self, rows: Range<i32>) -> Result<(Array, Array, Option<Array>)> {
        let layout = self.layout;
        let size = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
        let end = rows.end.min(size(layout.rows()));
        // Rows are packed a panel at a time.
        let panel = usize::try_from(rows.start).unwrap_or(0) / kernels::ROWS;
        let start = size(panel * kernels::ROWS);
        let count = (end - start).max(0);
        let run = move |kernels: &Kernels, from: &[View], to: &[View]| {
            let part = packed(&from[0], layout)?.part(panel, count as usize);
            let [weight, scales, biases @ ..] = to else {
                return Err("an array is missing".to_owned());
            };
            let to = QuantizedMut {
                weight: bytes_mut(weight)?,
                scales: bytes_mut(scales)?,
                biases: biases.first().map(bytes_mut).transpose()?,
            };
            match part.is_some_and(|part| kernels::unpack(kernels.pool(), &part, to)) {
                true => Ok(()),
                false => Err("the arrays do not fit together".to_owned()),
            }
        };
        let cut = |array: Array| match rows.start > start {
            true => {
                let columns = array.dim(1);
                ops::slice(&array, &[rows.start - start, 0], &[count, columns])
            }
            false => Ok(array),
        };
        let weight = [count, size(layout.mlx_weight_row() / 4)];
        let scales = [count, size(layout.groups())];
        let (weight, scales) = ((&weight[..], Dtype::U32), (&scales[..], self.scales));
        if layout.scheme().mode == Mode::Affine {
            let [weight, scales, biases] =
                queue(c"unpack", 0, &[&self.data], [weight, scales, scales], run)?;
            return Ok((cut(weight)?, cut(scales)?, Some(cut(biases)?)));
        }
        let [weight, scales] = queue(c"unpack", 0, &[&self.data], [weight, scales], run)?;
        Ok((cut(weight)?, cut(scales)?, None))
    }

    pub fn scheme(&self) -> Scheme {
        self.layout.scheme()
    }

    /// The type of a product with x, as MLX has it.
    pub fn product_type(&self, x: Dtype) -> Dtype {
        match self.layout.scheme().mode {
            Mode::Affine => x.wider(self.scales),
            _ => x,
        }
    }

    /// x `[…, in]` → `[…, out]`
    pub fn product(&self, x: &Array) -> Result<Array> {
        self.product_as(x, self.product_type(x.dtype()))
    }

    /// The same, in another float type.
    pub fn product_as(&self, x: &Array, dtype: Dtype) -> Result<Array> {
        let layout = self.layout;
        let shape = with_last(x, layout.rows());
        let out = (&shape[..], dtype);
        product(c"quantized_matmul", x, (&self.data, Some(layout)), out)
    }

    /// The type of its rows.
    pub fn rows_type(&self) -> Dtype {
        match self.layout.scheme().mode {
            Mode::Affine => self.scales,
            _ => Dtype::BF16,
        }
    }

    /// Rows by index, i32 or u32 `[…]` → `[…, in]`, as `dequantize` gives them.
    pub fn rows(&self, indices: &Array) -> Result<Array> {
        let layout = self.layout;
        let mut shape = indices.shape().to_vec();
        shape.push(i32::try_from(layout.inputs()).unwrap_or(i32::MAX));
        let dtype = self.rows_type();
        let run = move |kernels: &Kernels, from: &[View], to: &[View]| {
            let (weights, mut to) = (packed(&from[1], layout)?, floats_mut(&to[0])?);
            let count: usize = from[0].shape().iter().map(|&n| n as usize).product();
            if !matches!(from[0].dtype(), Some(Dtype::I32 | Dtype::U32)) {
                return Err("rows are numbered in another type".to_owned());
            }
            let rows: Vec<u32> = (0..count)
                // SAFETY: the view is row-major, of `count` 32-bit numbers.
                .map(|i| unsafe { from[0].data().cast::<u32>().add(i).read_unaligned() })
                .collect();
            match kernels.dequantize_rows(&weights, &rows, &mut to) {
                true => Ok(()),
                false => Err("there is no such row".to_owned()),
            }
        };
        Ok(one(queue(
            c"dequantize_rows",
            0,
            &[indices, &self.data],
            [(&shape, dtype)],
            run,
        )?))
    }
}

fn packed<'a>(view: &'a View, layout: Layout) -> Outcome<Packed<'a>> {
    Packed::new(layout, packed_bytes(view, &layout)).ok_or_else(|| "not a matrix".to_owned())
}

fn nbytes(view: &View) -> Outcome<usize> {
    let count: usize = view.shape().iter().map(|&n| n as usize).product();
    let dtype = view.dtype().ok_or("an array of an unknown type")?;
    Ok(count * dtype.size() as usize)
}

fn bytes(view: &View) -> Outcome<&[u8]> {
    match nbytes(view)? {
        0 => Ok(&[]),
        // SAFETY: the view is row-major and alive, and MLX orders its writers before this.
        len => Ok(unsafe { std::slice::from_raw_parts(view.data(), len) }),
    }
}

/// Of an output.
#[allow(clippy::mut_from_ref)]
fn bytes_mut(view: &View) -> Outcome<&mut [u8]> {
    match nbytes(view)? {
        0 => Ok(&mut []),
        // SAFETY: the output was made for this operation, which alone has it; zeroed before it is looked at.
        len => Ok(unsafe {
            std::ptr::write_bytes(view.data(), 0, len);
            std::slice::from_raw_parts_mut(view.data(), len)
        }),
    }
}

/// The shape of x with another last dimension.
fn with_last(x: &Array, last: usize) -> Vec<i32> {
    let mut shape = x.shape().to_vec();
    shape.pop();
    shape.push(i32::try_from(last).unwrap_or(i32::MAX));
    shape
}

/// x `[…, in]` by a dense weight `[out, in]` → `[…, out]`
pub fn linear(x: &Array, weight: &Array) -> Result<Array> {
    linear_as(x, weight, x.dtype().wider(weight.dtype()))
}

/// The same, in another float type.
pub fn linear_as(x: &Array, weight: &Array, dtype: Dtype) -> Result<Array> {
    let shape = with_last(x, weight.dim(0).max(0) as usize);
    let out = (&shape[..], dtype);
    product(c"linear", x, (weight, None), out)
}

/// `x Wᵀ`, with a gradient by x. Weights with a layout are packed.
fn product(
    name: &'static std::ffi::CStr,
    x: &Array,
    (weights, layout): (&Array, Option<Layout>),
    out: (&[i32], Dtype),
) -> Result<Array> {
    let run = move |kernels: &Kernels, from: &[View], to: &[View]| {
        let (x, weights) = (floats(&from[0])?, matrix(&from[1], layout)?);
        kernels.product(&x, &weights, &mut floats_mut(&to[0])?);
        Ok(())
    };
    let gradient = move |kernels: &Kernels, from: &[View], to: &[View]| {
        let (dy, weights) = (floats(&from[0])?, matrix(&from[1], layout)?);
        kernels.product_transposed(&dy, &weights, &mut floats_mut(&to[0])?);
        Ok(())
    };
    let traits = Traits {
        gradient: Some(Box::new(gradient)),
        ..Traits::default()
    };
    let inputs = [x, weights];
    Ok(one(queue_with(
        name,
        traits,
        &inputs,
        [out],
        Box::new(run),
    )?))
}

/// Of a packed array where there is a layout.
fn matrix(view: &View, layout: Option<Layout>) -> Outcome<kernels::Matrix<'_>> {
    Ok(match layout {
        Some(layout) => kernels::Matrix::Packed(packed(view, layout)?),
        None => kernels::Matrix::Dense(floats(view)?),
    })
}

pub(super) fn rms_norm(x: &Array, weight: Option<&Array>, eps: f32) -> Result<Array> {
    let dtype = weight.map_or(x.dtype(), |weight| x.dtype().wider(weight.dtype()));
    let mut arrays = vec![x];
    arrays.extend(weight);
    let run = move |kernels: &Kernels, from: &[View], to: &[View]| {
        let weight = from.get(1).map(floats).transpose()?;
        let (x, mut y) = (floats(&from[0])?, floats_mut(&to[0])?);
        kernels.rms_norm(&x, weight.as_ref(), 0.0, eps, &mut y);
        Ok(())
    };
    Ok(one(queue(
        c"rms_norm",
        0,
        &arrays,
        [(x.shape(), dtype)],
        run,
    )?))
}

/// Over the last dimension; weight and bias of one type.
pub(super) fn layer_norm(
    x: &Array,
    weight: &Array,
    bias: Option<&Array>,
    eps: f32,
) -> Result<Array> {
    let dtype = x.dtype().wider(weight.dtype());
    let mut arrays = vec![x, weight];
    arrays.extend(bias);
    let run = move |kernels: &Kernels, from: &[View], to: &[View]| {
        let bias = from.get(2).map(floats).transpose()?;
        let (x, weight) = (floats(&from[0])?, floats(&from[1])?);
        kernels.layer_norm(&x, &weight, bias.as_ref(), eps, &mut floats_mut(&to[0])?);
        Ok(())
    };
    let out = (x.shape(), dtype);
    Ok(one(queue(c"layer_norm", 0, &arrays, [out], run)?))
}

/// f(gate) * up, see `Activation`
pub fn gated(gate: &Array, up: &Array, kind: Activation) -> Result<Array> {
    let run = move |kernels: &Kernels, from: &[View], to: &[View]| {
        let (gate, up) = (floats(&from[0])?, floats(&from[1])?);
        kernels.gated(&gate, &up, kind, &mut floats_mut(&to[0])?);
        Ok(())
    };
    let out = (gate.shape(), gate.dtype());
    Ok(one(queue(c"gated", 0, &[gate, up], [out], run)?))
}

/// f(x), of an activation that needs no gate
pub fn activated(x: &Array, kind: Activation) -> Result<Array> {
    let run = move |kernels: &Kernels, from: &[View], to: &[View]| {
        kernels.activated(&floats(&from[0])?, kind, &mut floats_mut(&to[0])?);
        Ok(())
    };
    let out = (x.shape(), x.dtype());
    Ok(one(queue(c"activated", 0, &[x], [out], run)?))
}

/// x + multiplier * other, rounded once; of one type and shape
pub fn add_times(x: &Array, other: &Array, multiplier: f32) -> Result<Array> {
    let run = move |kernels: &Kernels, from: &[View], to: &[View]| {
        let (x, other) = (floats(&from[0])?, floats(&from[1])?);
        kernels.add_times(&x, &other, multiplier, &mut floats_mut(&to[0])?);
        Ok(())
    };
    let out = (x.shape(), x.dtype());
    Ok(one(queue(c"add_times", 0, &[x, other], [out], run)?))
}

/// x `[1, heads, tokens, dim]`, its first token at `offset`.
pub fn rope(x: &Array, rope: &Arc<kernels::Rope>, offset: i32) -> Result<Array> {
    let rope = rope.clone();
    let run = move |kernels: &Kernels, from: &[View], to: &[View]| {
        kernels.rope(&rope, &heads(&from[0])?, offset, &mut heads_mut(&to[0])?);
        Ok(())
    };
    let out = (x.shape(), x.dtype());
    Ok(one(queue(c"rope", 1, &[x], [out], run)?))
}

/// Queries `[1, heads, tokens, dim]`, the first token at `offset`, each times its factor.
pub fn temper(x: &Array, temperature: Temperature, offset: i32) -> Result<Array> {
    let run = move |kernels: &Kernels, from: &[View], to: &[View]| {
        let (x, to) = (heads(&from[0])?, &mut heads_mut(&to[0])?);
        kernels.temper(&temperature, &x, offset, to);
        Ok(())
    };
    let out = (x.shape(), x.dtype());
    Ok(one(queue(c"temper", 1, &[x], [out], run)?))
}

/// q `[1, heads, n, dim]`, k and v of one type `[1, kv_heads, keys, dim]` → `[1, n, heads * dim]`; `softcap` and the sinks
/// `[heads]` as in `AttentionOptions`
pub fn attention(
    q: &Array,
    k: &Stored,
    v: &Stored,
    scale: f32,
    visible: Visible,
    softcap: Option<f32>,
    sinks: Option<&Array>,
) -> Result<Array> {
    let (count, tokens, dim) = (q.dim(1), q.dim(2), v.dim());
    let shape = [1, tokens, count * dim];
    let kinds = [k, v].map(Kind::of);
    let values_at = 1 + kinds[0].count();
    let sinks_at = values_at + kinds[1].count();
    let dtype = q.dtype().wider(k.dtype()).wider(v.dtype());
    let (count, tokens, dim) = (count as usize, tokens as usize, dim as usize);
    let run = move |kernels: &Kernels, from: &[View], to: &[View]| {
        let shape = HeadShape::tokens_first(count, tokens, dim);
        // SAFETY: as for `floats_mut`; the shape is that of the output, cut into heads.
        let mut out = unsafe { HeadsMut::from_raw(to[0].data(), float_type(&to[0])?, shape) };
        let options = AttentionOptions {
            scale,
            visible,
            softcap,
            sinks: from.get(sinks_at).map(floats).transpose()?,
        };
        let q = heads(&from[0])?;
        let (k, v) = (
            stored(from, 1, kinds[0])?,
            stored(from, values_at, kinds[1])?,
        );
        kernels.attention(&q, k, v, options, &mut out);
        Ok(())
    };
    let mut inputs = vec![q];
    inputs.extend(k.arrays().chain(v.arrays()));
    // All but the sinks.
    let strided = (1 << sinks_at) - 1;
    inputs.extend(sinks);
    let out = (&shape[..], dtype);
    Ok(one(queue(c"attention", strided, &inputs, [out], run)?))
}

/// The id of the next token, u32 `[1]`, from logits `[vocab]` of any float type, and the levels, f32 `[2]`, of these and of the
/// model's `own`, from which they were made: not finite where no token can be drawn from them.
pub fn draw(logits: &Array, own: &Array, draw: kernels::Draw) -> Result<[Array; 2]> {
    let run = move |kernels: &Kernels, from: &[View], to: &[View]| {
        let kernels::Drawn { token, level } = kernels.draw(&floats(&from[0])?, draw);
        let own = match level.is_finite() {
            true => level,
            false => kernels.level(&floats(&from[1])?),
        };
        bytes_mut(&to[0])?.copy_from_slice(&token.to_ne_bytes());
        let levels = [level.to_ne_bytes(), own.to_ne_bytes()];
        bytes_mut(&to[1])?.copy_from_slice(levels.as_flattened());
        Ok(())
    };
    let outputs: [(&[i32], Dtype); 2] = [(&[1], Dtype::U32), (&[2], Dtype::F32)];
    queue(c"draw", 0, &[logits, own], outputs, run)
}

#[cfg(all(test, not(target_os = "macos")))]
#[path = "fast_tests.rs"]
mod tests;
