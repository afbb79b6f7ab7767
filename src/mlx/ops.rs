//! The MLX operations that mlxrt uses, on the engine's stream. Each only queues work; shapes are those of mlx.core's
//! functions of the same name.

use std::ffi::{c_int, CStr};

use mlx_sys::{mlx_array, mlx_stream};

use super::array::{Array, InMlx, VectorArray};
use super::device::{on_cuda, stream};
use super::error::check;
use crate::dtype::{Dtype, Mode, Scheme};
use crate::error::Result;

fn c_name(mode: Mode) -> &'static CStr {
    match mode {
        Mode::Affine => c"affine",
        Mode::Mxfp4 => c"mxfp4",
        Mode::Mxfp8 => c"mxfp8",
        Mode::Nvfp4 => c"nvfp4",
    }
}

/// Runs one mlx-c function that writes its result through a pointer.
fn make(call: impl FnOnce(*mut mlx_array, mlx_stream) -> c_int) -> Result<Array> {
    let mut out = Array::empty();
    let status = call(out.raw_mut(), stream());
    check(status)?;
    Ok(out)
}

const NONE: mlx_array = mlx_array {
    ctx: std::ptr::null_mut(),
};

fn optional(array: Option<&Array>) -> mlx_array {
    array.map_or(NONE, Array::raw)
}

macro_rules! unary {
    ($($name:ident = $function:ident;)*) => {$(
        pub fn $name(a: &Array) -> Result<Array> {
            // SAFETY: the array is alive and the result pointer is ours.
            make(|out, s| unsafe { mlx_sys::$function(out, a.raw(), s) })
        }
    )*};
}

macro_rules! binary {
    ($($name:ident = $function:ident;)*) => {$(
        pub fn $name(a: &Array, b: &Array) -> Result<Array> {
            // SAFETY: both arrays are alive and the result pointer is ours.
            make(|out, s| unsafe { mlx_sys::$function(out, a.raw(), b.raw(), s) })
        }
    )*};
}

unary! {
    sigmoid = mlx_sigmoid;
    tanh = mlx_tanh;
    exp = mlx_exp;
    expm1 = mlx_expm1;
    erf = mlx_erf;
    erfinv = mlx_erfinv;
    sqrt = mlx_sqrt;
    negative = mlx_negative;
    sort = mlx_sort;
    logical_not = mlx_logical_not;
}

binary! {
    add = mlx_add;
    subtract = mlx_subtract;
    multiply = mlx_multiply;
    divide = mlx_divide;
    matmul = mlx_matmul;
    less = mlx_less;
    greater = mlx_greater;
    equal = mlx_equal;
    greater_equal = mlx_greater_equal;
    logical_and = mlx_logical_and;
    power = mlx_power;
    logaddexp = mlx_logaddexp;
    minimum = mlx_minimum;
    maximum = mlx_maximum;
    floor_divide = mlx_floor_divide;
}

/// `a`, through which no gradient flows.
pub fn stop_gradient(a: &Array) -> Result<Array> {
    // SAFETY: the array is alive and the result pointer is ours.
    make(|out, s| unsafe { mlx_sys::mlx_stop_gradient(out, a.raw(), s) })
}

pub fn contiguous(a: &Array) -> Result<Array> {
    // SAFETY: the array is alive.
    make(|out, s| unsafe { mlx_sys::mlx_contiguous(out, a.raw(), false, s) })
}

pub fn astype(a: &Array, dtype: Dtype) -> Result<Array> {
    if a.dtype() == dtype {
        return Ok(a.clone());
    }
    // SAFETY: the array is alive.
    make(|out, s| unsafe { mlx_sys::mlx_astype(out, a.raw(), dtype.raw(), s) })
}

pub fn reshape(a: &Array, shape: &[i32]) -> Result<Array> {
    // SAFETY: `shape` has as many sizes as passed.
    make(|out, s| unsafe { mlx_sys::mlx_reshape(out, a.raw(), shape.as_ptr(), shape.len(), s) })
}

pub fn transpose(a: &Array, axes: &[i32]) -> Result<Array> {
    // SAFETY: `axes` has as many numbers as passed.
    make(|out, s| unsafe {
        mlx_sys::mlx_transpose_axes(out, a.raw(), axes.as_ptr(), axes.len(), s)
    })
}

/// `a[start[0]..stop[0], start[1]..stop[1], …]`
pub fn slice(a: &Array, start: &[i32], stop: &[i32]) -> Result<Array> {
    let strides = ones(start.len());
    let (n, strides) = (start.len(), strides.as_ptr());
    // SAFETY: the three lists have `n` numbers each.
    make(|out, s| unsafe {
        mlx_sys::mlx_slice(
            out,
            a.raw(),
            start.as_ptr(),
            n,
            stop.as_ptr(),
            stop.len(),
            strides,
            n,
            s,
        )
    })
}

/// Some of the columns of `[…, columns]`.
pub fn columns(a: &Array, columns: std::ops::Range<i32>) -> Result<Array> {
    let mut stop = a.shape().to_vec();
    let mut start = vec![0; stop.len()];
    if let (Some(first), Some(end)) = (start.last_mut(), stop.last_mut()) {
        (*first, *end) = (columns.start, columns.end);
    }
    slice(a, &start, &stop)
}

/// `a` with `update` written at `start..stop`. Written in place when `a` has no other owner by the time it runs.
pub fn slice_update(a: &Array, update: &Array, start: &[i32], stop: &[i32]) -> Result<Array> {
    let strides = ones(start.len());
    let (n, strides) = (start.len(), strides.as_ptr());
    // SAFETY: the three lists have `n` numbers each.
    make(|out, s| unsafe {
        mlx_sys::mlx_slice_update(
            out,
            a.raw(),
            update.raw(),
            start.as_ptr(),
            n,
            stop.as_ptr(),
            stop.len(),
            strides,
            n,
            s,
        )
    })
}

/// Strides of 1 for a slice; MLX's arrays here have at most eight dimensions.
fn ones(n: usize) -> [i32; 8] {
    debug_assert!(n <= 8);
    [1; 8]
}

pub fn concatenate(arrays: &[&Array], axis: i32) -> Result<Array> {
    let list = VectorArray::new(arrays)?;
    // SAFETY: the list is alive.
    make(|out, s| unsafe { mlx_sys::mlx_concatenate_axis(out, list.raw(), axis, s) })
}

pub fn zeros(shape: &[i32], dtype: Dtype) -> Result<Array> {
    // SAFETY: `shape` has as many sizes as passed.
    make(|out, s| unsafe { mlx_sys::mlx_zeros(out, shape.as_ptr(), shape.len(), dtype.raw(), s) })
}

/// i32 numbers from `start` up to but without `stop`.
pub fn arange(start: i32, stop: i32) -> Result<Array> {
    let (start, stop) = (f64::from(start), f64::from(stop));
    // SAFETY: plain values.
    make(|out, s| unsafe { mlx_sys::mlx_arange(out, start, stop, 1.0, Dtype::I32.raw(), s) })
}

pub fn select(condition: &Array, yes: &Array, no: &Array) -> Result<Array> {
    // SAFETY: the arrays are alive.
    make(|out, s| unsafe { mlx_sys::mlx_where(out, condition.raw(), yes.raw(), no.raw(), s) })
}

/// Rows of `a` by index: `[indices…, a's other dimensions…]`.
pub fn take(a: &Array, indices: &Array) -> Result<Array> {
    take_along(a, indices, 0)
}

/// The same along an axis. What comes out has memory of its own.
pub fn take_along(a: &Array, indices: &Array, axis: i32) -> Result<Array> {
    // SAFETY: the arrays are alive.
    make(|out, s| unsafe { mlx_sys::mlx_take_axis(out, a.raw(), indices.raw(), axis, s) })
}

pub fn take_along_axis(a: &Array, indices: &Array, axis: i32) -> Result<Array> {
    // SAFETY: the arrays are alive.
    make(|out, s| unsafe { mlx_sys::mlx_take_along_axis(out, a.raw(), indices.raw(), axis, s) })
}

pub fn put_along_axis(a: &Array, indices: &Array, values: &Array, axis: i32) -> Result<Array> {
    // SAFETY: the arrays are alive.
    make(|out, s| unsafe {
        mlx_sys::mlx_put_along_axis(out, a.raw(), indices.raw(), values.raw(), axis, s)
    })
}

/// Like `put_along_axis`, but adds, also where an index occurs more than once.
pub fn scatter_add_axis(a: &Array, indices: &Array, values: &Array, axis: i32) -> Result<Array> {
    // SAFETY: the arrays are alive.
    make(|out, s| unsafe {
        mlx_sys::mlx_scatter_add_axis(out, a.raw(), indices.raw(), values.raw(), axis, s)
    })
}

pub fn argpartition(a: &Array, kth: i32, axis: i32) -> Result<Array> {
    // SAFETY: the array is alive.
    make(|out, s| unsafe { mlx_sys::mlx_argpartition_axis(out, a.raw(), kth, axis, s) })
}

/// Along the last axis.
pub fn sort_rows(a: &Array) -> Result<Array> {
    // SAFETY: the array is alive.
    make(|out, s| unsafe { mlx_sys::mlx_sort_axis(out, a.raw(), -1, s) })
}

pub fn argsort(a: &Array, axis: i32) -> Result<Array> {
    // SAFETY: the array is alive.
    make(|out, s| unsafe { mlx_sys::mlx_argsort_axis(out, a.raw(), axis, s) })
}

pub fn broadcast_to(a: &Array, shape: &[i32]) -> Result<Array> {
    // SAFETY: `shape` has as many sizes as passed.
    make(|out, s| unsafe {
        mlx_sys::mlx_broadcast_to(out, a.raw(), shape.as_ptr(), shape.len(), s)
    })
}

pub fn argmax(a: &Array, axis: i32) -> Result<Array> {
    // SAFETY: the array is alive.
    make(|out, s| unsafe { mlx_sys::mlx_argmax_axis(out, a.raw(), axis, false, s) })
}

pub fn max(a: &Array, axis: i32, keepdims: bool) -> Result<Array> {
    // SAFETY: the array is alive.
    make(|out, s| unsafe { mlx_sys::mlx_max_axis(out, a.raw(), axis, keepdims, s) })
}

pub fn min(a: &Array, axis: i32, keepdims: bool) -> Result<Array> {
    // SAFETY: the array is alive.
    make(|out, s| unsafe { mlx_sys::mlx_min_axis(out, a.raw(), axis, keepdims, s) })
}

pub fn sum(a: &Array, axis: i32, keepdims: bool) -> Result<Array> {
    // SAFETY: the array is alive.
    make(|out, s| unsafe { mlx_sys::mlx_sum_axis(out, a.raw(), axis, keepdims, s) })
}

pub fn mean(a: &Array, axis: i32, keepdims: bool) -> Result<Array> {
    // SAFETY: the array is alive.
    make(|out, s| unsafe { mlx_sys::mlx_mean_axis(out, a.raw(), axis, keepdims, s) })
}

/// The standard deviation of all that is there.
pub fn deviation(a: &Array, axis: i32, keepdims: bool) -> Result<Array> {
    // SAFETY: the array is alive.
    make(|out, s| unsafe { mlx_sys::mlx_std_axis(out, a.raw(), axis, keepdims, 0, s) })
}

pub fn logsumexp(a: &Array, axis: i32, keepdims: bool) -> Result<Array> {
    // SAFETY: the array is alive.
    make(|out, s| unsafe { mlx_sys::mlx_logsumexp_axis(out, a.raw(), axis, keepdims, s) })
}

pub fn softmax(a: &Array, axis: i32) -> Result<Array> {
    // SAFETY: the array is alive.
    make(|out, s| unsafe { mlx_sys::mlx_softmax_axis(out, a.raw(), axis, true, s) })
}

pub fn cumsum(a: &Array, axis: i32, reverse: bool, inclusive: bool) -> Result<Array> {
    let axes = i32::try_from(a.shape().len()).unwrap_or(i32::MAX);
    let own = if axis < 0 { axis + axes } else { axis };
    if !on_cuda() || own + 1 == axes {
        return cumsum_as_it_is(a, axis, reverse, inclusive);
    }
    // Along any other axis MLX 0.32.2 starts more blocks on CUDA than there are rows where sizes do not divide each other, which write
    // behind the array (get_2d_grid_dims of mlx/backend/common/utils.cpp).
    let mut order: Vec<i32> = (0..axes).collect();
    if let (Ok(own), Some(last)) = (usize::try_from(own), order.len().checked_sub(1)) {
        order.swap(own.min(last), last);
    }
    let turned = contiguous(&transpose(a, &order)?)?;
    transpose(&cumsum_as_it_is(&turned, -1, reverse, inclusive)?, &order)
}

fn cumsum_as_it_is(a: &Array, axis: i32, reverse: bool, inclusive: bool) -> Result<Array> {
    let dtype = mlx_sys::mlx_optional_dtype {
        value: a.dtype().raw(),
        has_value: false,
    };
    // SAFETY: the array is alive.
    make(|out, s| unsafe {
        mlx_sys::mlx_cumsum_axis(out, a.raw(), axis, reverse, inclusive, dtype, s)
    })
}

pub fn clip(a: &Array, low: &Array, high: &Array) -> Result<Array> {
    // SAFETY: the arrays are alive.
    make(|out, s| unsafe { mlx_sys::mlx_clip(out, a.raw(), low.raw(), high.raw(), s) })
}

/// `c + a @ b`
pub fn addmm(c: &Array, a: &Array, b: &Array) -> Result<Array> {
    // SAFETY: the arrays are alive.
    make(|out, s| unsafe { mlx_sys::mlx_addmm(out, c.raw(), a.raw(), b.raw(), 1.0, 1.0, s) })
}

fn some(value: i32) -> mlx_sys::mlx_optional_int {
    mlx_sys::mlx_optional_int {
        value,
        has_value: true,
    }
}

/// `x @ dequantize(w)ᵀ` with w `[…, out, in * bits / 32]`, scales and biases `[…, out, in / group_size]`; not `transposed`
/// `x @ dequantize(w)`.
pub fn quantized_matmul(
    x: &Array,
    w: &Array,
    scales: &Array,
    biases: Option<&Array>,
    scheme: Scheme,
    transposed: bool,
) -> Result<Array> {
    if on_cuda() && goes_wrong_on_cuda(x, scales, scheme, transposed) {
        let w = dequantize(w, scales, biases, scheme)?;
        if !transposed {
            return matmul(x, &w);
        }
        let mut axes: Vec<i32> = (0..).take(w.shape().len()).collect();
        let last = axes.len().saturating_sub(2);
        axes.get_mut(last..).unwrap_or_default().reverse();
        return matmul(x, &transpose(&w, &axes)?);
    }
    let (group, bits) = (some(scheme.group_size), some(scheme.bits));
    let mode = c_name(scheme.mode).as_ptr();
    // SAFETY: the arrays are alive and the mode is NUL-terminated.
    make(|out, s| unsafe {
        mlx_sys::mlx_quantized_matmul(
            out,
            x.raw(),
            w.raw(),
            scales.raw(),
            optional(biases),
            transposed,
            group,
            bits,
            mode,
            s,
        )
    })
}

/// Whether MLX 0.32.2's kernels do not compute this product. Where all inputs are one group, what several rows take on a Hopper GPU
/// leaves the result as its memory was (findings/products-of-one-group-in-mlx-on-cuda.sh); where all outputs are, scales of several
/// heads have a stride that every kernel refuses. With f32 rows and groups of 128 its plain kernel cannot be launched, and that
/// ends the process.
fn goes_wrong_on_cuda(x: &Array, scales: &Array, scheme: Scheme, transposed: bool) -> bool {
    let rows: i32 = x.shape().iter().rev().skip(1).product();
    let affine = scheme.mode == Mode::Affine;
    let one_group = scales.dim(-1) == 1 && (rows > 1 || !transposed);
    let too_large = x.dtype() == Dtype::F32 && scheme.group_size >= 128 && rows > 16;
    affine && (one_group || too_large)
}

/// x `[…, n, in]` by the matrices of w `[experts, in, out]` that `indices` `[…]` name → `[…, n, out]`. `sorted`: they come in
/// order.
pub fn gather_mm(x: &Array, w: &Array, indices: &Array, sorted: bool) -> Result<Array> {
    // SAFETY: the arrays are alive.
    make(|out, s| unsafe {
        mlx_sys::mlx_gather_mm(out, x.raw(), w.raw(), NONE, indices.raw(), sorted, s)
    })
}

/// The same by packed ones, w `[experts, out, in * bits / 32]`.
pub fn gather_qmm(
    x: &Array,
    w: &Array,
    scales: &Array,
    biases: Option<&Array>,
    (indices, sorted): (&Array, bool),
    scheme: Scheme,
) -> Result<Array> {
    let (group, bits) = (some(scheme.group_size), some(scheme.bits));
    let mode = c_name(scheme.mode).as_ptr();
    // SAFETY: the arrays are alive and the mode is NUL-terminated.
    make(|out, s| unsafe {
        mlx_sys::mlx_gather_qmm(
            out,
            x.raw(),
            w.raw(),
            scales.raw(),
            optional(biases),
            NONE,
            indices.raw(),
            true,
            group,
            bits,
            mode,
            sorted,
            s,
        )
    })
}

/// Packs w `[…, in]`: the weight, the scales, and for affine ones the biases, in w's type. Of keys and values; weights that are
/// saved are packed by `kernels::requantize`.
pub fn quantize(w: &Array, scheme: Scheme) -> Result<(Array, Array, Option<Array>)> {
    let mut out = VectorArray::new(&[])?;
    let (group, bits) = (some(scheme.group_size), some(scheme.bits));
    let mode = c_name(scheme.mode).as_ptr();
    // SAFETY: the list is owned, the array is alive and the mode is NUL-terminated.
    check(unsafe {
        mlx_sys::mlx_quantize(out.raw_mut(), w.raw(), group, bits, mode, NONE, stream())
    })?;
    let mut parts = out.arrays()?.into_iter();
    match (parts.next(), parts.next()) {
        (Some(weight), Some(scales)) => Ok((weight, scales, parts.next())),
        _ => Err(crate::error::Error::internal(
            "MLX packs a weight into two arrays or three",
        )),
    }
}

/// The float rows of packed `w`, in the scales' type (bf16 where the scales are no floats).
pub fn dequantize(
    w: &Array,
    scales: &Array,
    biases: Option<&Array>,
    scheme: Scheme,
) -> Result<Array> {
    let (group, bits) = (some(scheme.group_size), some(scheme.bits));
    let mode = c_name(scheme.mode).as_ptr();
    let dtype = mlx_sys::mlx_optional_dtype {
        value: scales.dtype().raw(),
        has_value: false,
    };
    // SAFETY: the arrays are alive and the mode is NUL-terminated.
    make(|out, s| unsafe {
        mlx_sys::mlx_dequantize(
            out,
            w.raw(),
            scales.raw(),
            optional(biases),
            group,
            bits,
            mode,
            NONE,
            dtype,
            s,
        )
    })
}

/// Over the last dimension; no weight means 1.
pub fn rms_norm(x: &Array, weight: Option<&Array>, eps: f32) -> Result<Array> {
    if super::fast::active() {
        return super::fast::rms_norm(x, weight, eps);
    }
    // SAFETY: the arrays are alive.
    make(|out, s| unsafe { mlx_sys::mlx_fast_rms_norm(out, x.raw(), optional(weight), eps, s) })
}

/// Without the mean, over the deviation, of the last dimension; no bias means 0.
pub fn layer_norm(x: &Array, weight: &Array, bias: Option<&Array>, eps: f32) -> Result<Array> {
    let one_type = bias.is_none_or(|bias| bias.dtype() == weight.dtype());
    if super::fast::active() && one_type {
        return super::fast::layer_norm(x, weight, bias, eps);
    }
    // SAFETY: the arrays are alive.
    make(|out, s| unsafe {
        mlx_sys::mlx_fast_layer_norm(out, x.raw(), weight.raw(), optional(bias), eps, s)
    })
}

/// Rotary positions for x `[batch, heads, tokens, head_dim]`, the first token at `offset`. Either `base` or `freqs`
/// `[dims / 2]`.
pub fn rope(
    x: &Array,
    dims: i32,
    traditional: bool,
    base: Option<f32>,
    scale: f32,
    offset: i32,
    freqs: Option<&Array>,
) -> Result<Array> {
    let base = mlx_sys::mlx_optional_float {
        value: base.unwrap_or(0.0),
        has_value: base.is_some(),
    };
    // SAFETY: the arrays are alive.
    make(|out, s| unsafe {
        mlx_sys::mlx_fast_rope(
            out,
            x.raw(),
            dims,
            traditional,
            base,
            scale,
            offset,
            optional(freqs),
            s,
        )
    })
}

/// What a query may look at.
pub enum Mask<'a> {
    All,
    Causal,
    /// bool, true where it may look, or float, what is added to the scores; `[queries, keys]` or what broadcasts to `[batch,
    /// heads, queries, keys]`
    Array(&'a Array),
}

/// q `[batch, heads, queries, head_dim]`, k and v `[batch, kv_heads, keys, head_dim]` → like q. sinks `[heads]`: scores of
/// no key.
pub fn scaled_dot_product_attention(
    q: &Array,
    k: &Array,
    v: &Array,
    scale: f32,
    mask: Mask,
    sinks: Option<&Array>,
) -> Result<Array> {
    let (mode, array) = match mask {
        Mask::All => (c"", NONE),
        Mask::Causal => (c"causal", NONE),
        Mask::Array(array) => (c"array", array.raw()),
    };
    // SAFETY: the arrays are alive and the mode is NUL-terminated.
    make(|out, s| unsafe {
        mlx_sys::mlx_fast_scaled_dot_product_attention(
            out,
            q.raw(),
            k.raw(),
            v.raw(),
            scale,
            mode.as_ptr(),
            array,
            optional(sinks),
            false,
            s,
        )
    })
}

/// A random key, the same for the same seed.
pub fn random_key(seed: u64) -> Result<Array> {
    // SAFETY: plain values.
    make(|out, _| unsafe { mlx_sys::mlx_random_key(out, seed) })
}

/// An index drawn from the softmax of `logits` over `axis`.
pub fn random_categorical(logits: &Array, axis: i32, key: &Array) -> Result<Array> {
    // SAFETY: the arrays are alive.
    make(|out, s| unsafe { mlx_sys::mlx_random_categorical(out, logits.raw(), axis, key.raw(), s) })
}

/// One f32 from [0, 1).
pub fn random_uniform(key: &Array) -> Result<Array> {
    let (low, high) = (
        Array::scalar(0.0, Dtype::F32)?,
        Array::scalar(1.0, Dtype::F32)?,
    );
    // SAFETY: the arrays are alive; a shape of no sizes is a scalar.
    make(|out, s| unsafe {
        mlx_sys::mlx_random_uniform(
            out,
            low.raw(),
            high.raw(),
            std::ptr::NonNull::<i32>::dangling().as_ptr(),
            0,
            Dtype::F32.raw(),
            key.raw(),
            s,
        )
    })
}

/// true with probability `p` for each element of a `shape`.
pub fn random_bernoulli(p: f32, shape: &[i32], key: &Array) -> Result<Array> {
    let p = Array::scalar(p, Dtype::F32)?;
    // SAFETY: the arrays are alive and `shape` has as many sizes as passed.
    make(|out, s| unsafe {
        mlx_sys::mlx_random_bernoulli(out, p.raw(), shape.as_ptr(), shape.len(), key.raw(), s)
    })
}
