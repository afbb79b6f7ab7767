//! Blocks of random weights.

use super::super::support::{Array, Matrix as Quantised, Random};
use super::shape::{HeadNorm, Kind, Second, Shape, SharedKind};
use super::*;
use crate::dtype::{Mode, Scheme};
use crate::{ExpertLinear, Layout, LowRank, Rope};
use std::ops::Range;
use std::sync::Arc;

pub const HIDDEN: usize = 96;
pub const HEADS: usize = 6;
pub const KV_HEADS: usize = 3;
pub const HEAD_DIM: usize = 32;
const SIZE: usize = 64;
const EXPERTS: usize = 8;
const TOP_K: usize = 3;
const EPS: f32 = 1e-5;

enum Stored {
    Dense(Array),
    Packed(Layout, Vec<u8>),
}

/// One layer's weights; of several experts where it has rows for more than one.
struct Layer {
    weight: Stored,
    outputs: usize,
    bias: Option<Array>,
    low: Option<(Array, Array)>,
    /// Of the low-rank part.
    rows: Option<Range<usize>>,
}

/// The weights of a block.
pub struct Made {
    /// q, k, v or all; o
    attention: Vec<Layer>,
    /// gate, up or both; down
    mlp: Vec<Layer>,
    experts: Vec<Layer>,
    router: Layer,
    shared_gate: Layer,
    /// Of the halves, before and behind.
    norms: Vec<Array>,
    q_norm: Array,
    k_norm: Array,
    sinks: Array,
    selection_bias: Array,
}

impl Made {
    pub fn new(random: &mut Random, dtype: Dtype, shape: &Shape) -> Made {
        let scheme = Scheme {
            mode: Mode::Affine,
            bits: 4,
            group_size: 32,
        };
        let mut layer = |outputs: usize, inputs: usize, count: usize, packed: bool| {
            let rows = outputs * count;
            let weight = match packed && shape.packed {
                false => {
                    Stored::Dense(Array::new(dtype, rows, inputs, |_, _| 0.3 * random.float()))
                }
                true => {
                    let of: Vec<_> = (0..count)
                        .map(|_| Quantised::random(random, scheme, dtype, outputs, inputs))
                        .collect();
                    let data = of.iter().flat_map(Quantised::pack).collect();
                    Stored::Packed(of[0].layout, data)
                }
            };
            let bias = shape
                .biases
                .then(|| Array::random(random, dtype, count, outputs));
            let low = (shape.low && count == 1).then(|| {
                (
                    Array::random(random, dtype, inputs, 4),
                    Array::random(random, dtype, 4, outputs),
                )
            });
            Layer {
                weight,
                outputs,
                bias,
                low,
                rows: None,
            }
        };
        let (q, kv) = (HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM);
        let mut attention: Vec<Layer> = match shape.fused_qkv {
            true => vec![layer(q + 2 * kv, HIDDEN, 1, true)],
            false => [q, kv, kv].map(|n| layer(n, HIDDEN, 1, true)).into(),
        };
        attention.push(layer(HIDDEN, q, 1, true));
        let mut mlp = |count| {
            let before = match shape.gate_up {
                Kind::Apart => 2,
                _ => 1,
            };
            let size = match shape.gate_up {
                Kind::Fused => 2 * SIZE,
                _ => SIZE,
            };
            let mut layers: Vec<_> = (0..before)
                .map(|_| layer(size, HIDDEN, count, true))
                .collect();
            layers.push(layer(HIDDEN, SIZE, count, true));
            layers
        };
        let (mlp, experts) = (mlp(1), mlp(EXPERTS));
        let (router, shared_gate) = (layer(EXPERTS, HIDDEN, 1, true), layer(1, HIDDEN, 1, false));
        let (q_norm, k_norm) = match shape.head_norm {
            HeadNorm::Whole => (q, kv),
            _ => (HEAD_DIM, HEAD_DIM),
        };
        let mut vector = |width| Array::random(random, dtype, 1, width);
        Made {
            attention,
            mlp,
            experts,
            router,
            shared_gate,
            norms: (0..4).map(|_| vector(HIDDEN)).collect(),
            q_norm: vector(q_norm),
            k_norm: vector(k_norm),
            sinks: vector(HEADS),
            selection_bias: vector(EXPERTS),
        }
    }

    /// Low-rank parts are added to these rows alone.
    pub fn set_low_rows(&mut self, rows: Option<Range<usize>>) {
        let apart = [&mut self.router, &mut self.shared_gate];
        let layers = self.attention.iter_mut().chain(&mut self.mlp).chain(apart);
        layers.for_each(|layer| layer.rows = rows.clone());
    }

    pub fn block(&self, shape: &Shape) -> Block<Matrix<'_>, Floats<'_>> {
        let half = |part, first: usize| Half {
            norm: shape.pre_norm.then(|| norm(&self.norms[first])),
            part,
            post_norm: shape.post_norm.then(|| norm(&self.norms[first + 1])),
            multiplier: shape.multiplier,
            out_norm: None,
        };
        let mut halves = Vec::new();
        if shape.attention {
            halves.push(half(Part::Attention(self.attention(shape)), 0));
        }
        match shape.second {
            Second::None => {}
            Second::Mlp => halves.push(half(Part::Mlp(mlp(&self.mlp, shape)), 2)),
            Second::Moe => halves.push(half(Part::Moe(self.moe(shape)), 2)),
        }
        Block { halves }
    }

    fn attention(&self, shape: &Shape) -> Attention<Matrix<'_>, Floats<'_>> {
        let layers = &self.attention;
        let head_norm = |weight| (shape.head_norm != HeadNorm::None).then(|| norm(weight));
        Attention {
            sizes: AttentionSizes {
                heads: HEADS,
                kv_heads: KV_HEADS,
                head_dim: HEAD_DIM,
                scale: 0.2,
                // Of a part of each head.
                rope: shape
                    .rope
                    .then(|| Arc::new(Rope::from_base(HEAD_DIM - 8, false, 1.0, 1e4))),
                softcap: shape.softcap,
                temperature: shape.temperature,
            },
            projections: match shape.fused_qkv {
                true => Projections::Fused(linear(&layers[0])),
                false => Projections::Apart {
                    q_proj: linear(&layers[0]),
                    k_proj: linear(&layers[1]),
                    v_proj: linear(&layers[2]),
                },
            },
            q_norm: head_norm(&self.q_norm),
            k_norm: head_norm(&self.k_norm),
            sinks: shape.sinks.then(|| self.sinks.view()),
            o_proj: linear(&layers[layers.len() - 1]),
        }
    }

    fn moe(&self, shape: &Shape) -> Moe<Matrix<'_>, Floats<'_>> {
        Moe {
            router: linear(&self.router),
            routing: Routing {
                top_k: TOP_K,
                score: shape.score,
                selection_bias: shape.selection_bias.then(|| self.selection_bias.view()),
                groups: shape.groups,
                normalise: shape.normalise,
                scaling: 1.5,
            },
            experts: Experts {
                gate_up: gate_up(&self.experts, shape, expert_linear),
                down_proj: expert_linear(&self.experts[self.experts.len() - 1]),
                activation: shape.activation,
            },
            shared: (shape.shared != SharedKind::None).then(|| Shared {
                mlp: mlp(&self.mlp, shape),
                gate: (shape.shared == SharedKind::Gated).then(|| linear(&self.shared_gate)),
            }),
        }
    }

    /// What `Shape::plain_mixture` makes of a row.
    pub fn mixture_in_f64(&self, x: &[f64]) -> Vec<f64> {
        let product = |layer: &Layer, expert: usize, x: &[f64]| -> Vec<f64> {
            let Stored::Dense(weight) = &layer.weight else {
                panic!("not plain");
            };
            let bias = layer.bias.as_ref().expect("a bias");
            (0..layer.outputs)
                .map(|row| {
                    let products = x
                        .iter()
                        .enumerate()
                        .map(|(i, x)| x * weight.get(expert * layer.outputs + row, i));
                    products.sum::<f64>() + bias.get(expert, row)
                })
                .collect()
        };
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        let mlp = |layers: &[Layer], expert: usize| {
            let gate = product(&layers[0], expert, x);
            let up = product(&layers[1], expert, x);
            let inner: Vec<f64> = gate
                .iter()
                .zip(up)
                .map(|(g, u)| g * sigmoid(*g) * u)
                .collect();
            product(&layers[2], expert, &inner)
        };
        let logits = product(&self.router, 0, x);
        let mut order: Vec<usize> = (0..EXPERTS).collect();
        order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
        order.truncate(TOP_K);
        let sum: f64 = order.iter().map(|&expert| logits[expert].exp()).sum();
        let mut y = x.to_vec();
        let mut add = |factor: f64, part: Vec<f64>| {
            y.iter_mut()
                .zip(part)
                .for_each(|(y, part)| *y += factor * part);
        };
        for &expert in &order {
            add(1.5 * logits[expert].exp() / sum, mlp(&self.experts, expert));
        }
        let gate = product(&self.shared_gate, 0, x)[0];
        add(sigmoid(gate), mlp(&self.mlp, 0));
        y
    }
}

fn norm(weight: &Array) -> Norm<Floats<'_>> {
    Norm {
        weight: weight.view(),
        bias: None,
        eps: EPS,
        layer: false,
    }
}

fn linear(layer: &Layer) -> Linear<Matrix<'_>, Floats<'_>> {
    Linear {
        weight: match &layer.weight {
            Stored::Dense(array) => Matrix::Dense(array.view()),
            Stored::Packed(layout, data) => {
                Matrix::Packed(Packed::new(*layout, data).expect("its size"))
            }
        },
        bias: layer.bias.as_ref().map(Array::view),
        low: layer
            .low
            .iter()
            .map(|(a, b)| LowRank {
                a: a.view(),
                b: b.view(),
                scale: 0.5,
                rows: layer.rows.clone(),
            })
            .collect(),
    }
}

fn expert_linear(layer: &Layer) -> ExpertLinear<Matrix<'_>, Floats<'_>> {
    ExpertLinear {
        weight: Matrix::Experts(match &layer.weight {
            Stored::Dense(array) => ExpertMatrix::Dense {
                weights: array.view(),
                outputs: layer.outputs,
            },
            Stored::Packed(layout, data) => ExpertMatrix::Packed {
                layout: *layout,
                stride: layout.nbytes(),
                data,
            },
        }),
        bias: layer.bias.as_ref().map(Array::view),
    }
}

fn gate_up<'a, L>(layers: &'a [Layer], shape: &Shape, of: fn(&'a Layer) -> L) -> GateUp<L> {
    match shape.gate_up {
        Kind::Apart => GateUp::Apart {
            gate_proj: of(&layers[0]),
            up_proj: of(&layers[1]),
        },
        Kind::Fused => GateUp::Fused(of(&layers[0])),
        Kind::UpAlone => GateUp::UpAlone(of(&layers[0])),
    }
}

fn mlp<'a>(layers: &'a [Layer], shape: &Shape) -> Mlp<Matrix<'a>, Floats<'a>> {
    Mlp {
        gate_up: gate_up(layers, shape, linear),
        down_proj: linear(&layers[layers.len() - 1]),
        activation: shape.activation,
    }
}
