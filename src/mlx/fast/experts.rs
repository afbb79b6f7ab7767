//! Weights of many experts: packed for the kernels, and their products as operations.

use std::mem::MaybeUninit;
use std::ops::Range;

use super::{
    active, bytes, bytes_mut, floats, floats_mut, one, packed_layout, queue, queue_with, Array,
    Outcome, Traits, View, ALIGNMENT,
};
use crate::dtype::{Dtype, Mode, Scheme};
use crate::error::Result;
use crate::kernels::{self, ExpertMatrix, Kernels, Layout, Packed, Quantized, QuantizedMut, Route};

/// Quantised matrices `[experts, out, in]` as the kernels want them, in one array.
pub struct PackedExperts {
    pub(super) layout: Layout,
    pub(super) experts: usize,
    /// u32: from the first multiple of 64 on each expert's packed bytes, `stride` apart
    pub(super) data: Array,
    /// Of scales and biases.
    scales: Dtype,
}

/// Bytes from one packed expert to the next: each begins where a cache line does.
fn stride(layout: &Layout) -> usize {
    layout.nbytes().next_multiple_of(ALIGNMENT)
}

/// The length of the packed array of so many experts, in u32.
pub fn packed_experts_size(layout: &Layout, experts: usize) -> Option<i32> {
    let bytes = stride(layout)
        .checked_mul(experts)?
        .checked_add(ALIGNMENT)?;
    i32::try_from(bytes / 4).ok()
}

fn size(n: i32) -> usize {
    usize::try_from(n).unwrap_or(0)
}

fn count(n: usize) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

impl PackedExperts {
    /// Packs weight `[experts, out, in * bits / 32]`, scales `[experts, out, groups]` and, in affine schemes, biases, now, so
    /// that the caller can free the originals: only these and the packed array are held meanwhile. None where the kernels
    /// do not know such weights, or are off.
    pub fn new(
        weight: &Array,
        scales: &Array,
        biases: Option<&Array>,
        scheme: Scheme,
    ) -> Result<Option<PackedExperts>> {
        let shape = [weight.dim(1), scales.dim(2)];
        let layout = packed_layout(shape, scales.dtype(), biases.map(Array::dtype), scheme);
        let experts = size(weight.dim(0));
        let known = layout
            .filter(|_| active() && experts > 0)
            .and_then(|layout| Some((layout, packed_experts_size(&layout, experts)?)));
        let Some((layout, words)) = known else {
            return Ok(None);
        };
        // What was packed before was freed: MLX would take its buffers for this, up to 8 KiB larger, and keep them.
        super::super::memory::clear_cache();
        let mut arrays = vec![weight, scales];
        arrays.extend(biases);
        let run = move |kernels: &Kernels, from: &[View], to: &[View]| {
            let [weight, scales, biases @ ..] = from else {
                return Err("an array is missing".to_owned());
            };
            let (weight, scales) = (bytes(weight)?, bytes(scales)?);
            let biases = biases.first().map(bytes).transpose()?;
            let start = to[0].data();
            let skipped = start.align_offset(ALIGNMENT);
            let stride = stride(&layout);
            // SAFETY: the output has 64 bytes more than the packed experts, and what it holds does not matter yet.
            let to = unsafe {
                let to = start.add(skipped).cast::<MaybeUninit<u8>>();
                std::slice::from_raw_parts_mut(to, stride * experts)
            };
            for (expert, to) in to.chunks_exact_mut(stride).enumerate() {
                let (to, gap) = to.split_at_mut(layout.nbytes());
                gap.fill(MaybeUninit::new(0));
                let from = Quantized {
                    weight: part(weight, expert, experts)?,
                    scales: part(scales, expert, experts)?,
                    biases: biases
                        .map(|biases| part(biases, expert, experts))
                        .transpose()?,
                };
                if !kernels::pack(kernels.pool(), &layout, from, to) {
                    return Err("the arrays do not fit together".to_owned());
                }
            }
            Ok(())
        };
        let data = one(queue(c"pack", 0, &arrays, [(&[words], Dtype::U32)], run)?);
        super::super::eval(&[&data])?;
        Ok(Some(PackedExperts {
            layout,
            experts,
            data,
            scales: scales.dtype(),
        }))
    }

    /// MLX's arrays as they were packed: weight, scales, biases; of each these experts, as far as there are so many.
    pub fn unpack(&self, experts: Range<i32>) -> Result<(Array, Array, Option<Array>)> {
        let (layout, all) = (self.layout, self.experts);
        let end = size(experts.end).min(all);
        let first = size(experts.start).min(end);
        let n = end - first;
        let run = move |kernels: &Kernels, from: &[View], to: &[View]| {
            let data = expert_bytes(&from[0], &layout, all);
            let [weight, scales, biases @ ..] = to else {
                return Err("an array is missing".to_owned());
            };
            let (weight, scales) = (bytes_mut(weight)?, bytes_mut(scales)?);
            let mut biases = biases.first().map(bytes_mut).transpose()?;
            for expert in 0..n {
                let packed = &data[(first + expert) * stride(&layout)..][..layout.nbytes()];
                let to = QuantizedMut {
                    weight: part_mut(weight, expert, n)?,
                    scales: part_mut(scales, expert, n)?,
                    biases: biases
                        .as_deref_mut()
                        .map(|biases| part_mut(biases, expert, n))
                        .transpose()?,
                };
                let packed = Packed::new(layout, packed);
                if !packed.is_some_and(|packed| kernels::unpack(kernels.pool(), &packed, to)) {
                    return Err("the arrays do not fit together".to_owned());
                }
            }
            Ok(())
        };
        let of = |width: usize| [count(n), count(layout.rows()), count(width)];
        let (weight, scales) = (of(layout.mlx_weight_row() / 4), of(layout.groups()));
        let (weight, scales) = ((&weight[..], Dtype::U32), (&scales[..], self.scales));
        if layout.scheme().mode == Mode::Affine {
            let outputs = [weight, scales, scales];
            let [weight, scales, biases] = queue(c"unpack", 0, &[&self.data], outputs, run)?;
            return Ok((weight, scales, Some(biases)));
        }
        let [weight, scales] = queue(c"unpack", 0, &[&self.data], [weight, scales], run)?;
        Ok((weight, scales, None))
    }

    pub(super) fn held(&self) -> Held {
        Held::Packed {
            layout: self.layout,
            experts: self.experts,
        }
    }

    pub fn scheme(&self) -> Scheme {
        self.layout.scheme()
    }

    /// Of each expert.
    pub fn rows(&self) -> i32 {
        count(self.layout.rows())
    }

    /// The type of a product with x, as MLX has it.
    pub fn product_type(&self, x: Dtype) -> Dtype {
        match self.layout.scheme().mode {
            Mode::Affine => x.wider(self.scales),
            _ => x,
        }
    }

    /// x `[…, rows, 1 or top_k, in]` by the experts i32 or u32 `[…, rows, top_k]` → `[…, rows, top_k, out]`, with a gradient
    /// by x; the experts must not be traced.
    pub fn product(&self, x: &Array, experts: &Array) -> Result<Array> {
        let dtype = self.product_type(x.dtype());
        expert_product(c"gather_qmm", x, (&self.data, self.held()), experts, dtype)
    }
}

/// x `[…, rows, 1 or top_k, in]` by weights `[experts, out, in]`, those of the experts i32 or u32 `[…, rows, top_k]` →
/// `[…, rows, top_k, out]`, with a gradient as well
pub fn expert_linear(x: &Array, weight: &Array, experts: &Array) -> Result<Array> {
    let dtype = x.dtype().wider(weight.dtype());
    expert_product(
        c"gather_mm",
        x,
        (weight, Held::dense(weight)),
        experts,
        dtype,
    )
}

/// What the memory of many experts' weights holds.
#[derive(Clone, Copy)]
pub(super) enum Held {
    /// As `PackedExperts` has it.
    Packed { layout: Layout, experts: usize },
    /// `[experts, outputs, in]`
    Dense { outputs: usize },
}

impl Held {
    pub fn dense(weight: &Array) -> Held {
        Held::Dense {
            outputs: size(weight.dim(1)),
        }
    }

    pub fn of<'a>(&self, view: &'a View) -> Outcome<ExpertMatrix<'a>> {
        Ok(match *self {
            Held::Packed { layout, experts } => ExpertMatrix::Packed {
                layout,
                stride: stride(&layout),
                data: expert_bytes(view, &layout, experts),
            },
            Held::Dense { outputs } => ExpertMatrix::Dense {
                weights: floats(view)?,
                outputs,
            },
        })
    }

    fn outputs(&self) -> usize {
        match self {
            Held::Packed { layout, .. } => layout.rows(),
            Held::Dense { outputs } => *outputs,
        }
    }
}

fn expert_product(
    name: &'static std::ffi::CStr,
    x: &Array,
    (weights, held): (&Array, Held),
    experts: &Array,
    dtype: Dtype,
) -> Result<Array> {
    let mut shape = experts.shape().to_vec();
    shape.push(count(held.outputs()));
    let run = move |kernels: &Kernels, from: &[View], to: &[View]| {
        let (x, matrix) = (floats(&from[0])?, held.of(&from[1])?);
        let routes = routes(&from[2], x.rows())?;
        known(kernels.expert_matmul(&x, &matrix, &routes, &mut floats_mut(&to[0])?))
    };
    let gradient = move |kernels: &Kernels, from: &[View], to: &[View]| {
        let (dy, matrix) = (floats(&from[0])?, held.of(&from[1])?);
        let mut dx = floats_mut(&to[0])?;
        let routes = routes(&from[2], dx.rows())?;
        known(kernels.expert_product_transposed(&dy, &matrix, &routes, &mut dx))
    };
    let traits = Traits {
        gradient: Some(Box::new(gradient)),
        ..Traits::default()
    };
    let inputs = [x, weights, experts];
    let out = (&shape[..], dtype);
    Ok(one(queue_with(
        name,
        traits,
        &inputs,
        [out],
        Box::new(run),
    )?))
}

fn known(all: bool) -> Outcome {
    match all {
        true => Ok(()),
        false => Err("there is no such expert".to_owned()),
    }
}

/// What each of `[…, rows, top_k]` choices takes of x: one row for each, or one for all of a row's.
fn routes(experts: &View, rows: usize) -> Outcome<Vec<Route>> {
    let chosen = indices(experts)?;
    let top_k = experts.shape().last().map_or(1, |&k| size(k));
    let share = match chosen.len() {
        len if len == rows => 1,
        len if len == rows * top_k => top_k,
        len => return Err(format!("{len} experts for {rows} rows")),
    };
    let route = |(index, expert)| Route {
        row: (index / share) as u32,
        expert,
    };
    Ok(chosen.into_iter().enumerate().map(route).collect())
}

/// What indices are in memory; a negative one is larger than there are experts.
fn indices(view: &View) -> Outcome<Vec<u32>> {
    if !matches!(view.dtype(), Some(Dtype::I32 | Dtype::U32)) {
        return Err("experts are numbered in another type".to_owned());
    }
    let numbers = bytes(view)?.chunks_exact(4);
    Ok(numbers
        .map(|bytes| u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
        .collect())
}

fn expert_bytes<'a>(view: &'a View, layout: &Layout, experts: usize) -> &'a [u8] {
    let start = view.data();
    let skipped = start.align_offset(ALIGNMENT);
    // SAFETY: the array has room for all experts behind its first multiple of 64, and all of it was written when it was
    // packed.
    unsafe { std::slice::from_raw_parts(start.add(skipped), stride(layout) * experts) }
}

/// The bytes of one of `count` equal parts.
fn part(bytes: &[u8], index: usize, count: usize) -> Outcome<&[u8]> {
    let len = bytes.len() / count;
    bytes
        .get(index * len..(index + 1) * len)
        .ok_or_else(|| "the arrays do not fit together".to_owned())
}

fn part_mut(bytes: &mut [u8], index: usize, count: usize) -> Outcome<&mut [u8]> {
    let len = bytes.len() / count;
    bytes
        .get_mut(index * len..(index + 1) * len)
        .ok_or_else(|| "the arrays do not fit together".to_owned())
}
