//! The parts of a block one by one, experts row by row.

use super::super::support::Array;
use super::random_block::{HEADS, HEAD_DIM, KV_HEADS};
use super::{columns_and_rows, copy, Cache};
use crate::dtype::Dtype;
use crate::{
    Activation, Attention, AttentionOptions, Block, ExpertLinear, ExpertMatrix, Experts, Floats,
    GateUp, HeadShape, Heads, HeadsMut, Kernels, Linear, Matrix, Mlp, Moe, Norm, Packed, Part,
    Projections, StoredMut,
};

/// The parts one by one.
pub struct Parts<'a> {
    pub kernels: &'a Kernels,
}

impl Parts<'_> {
    pub fn block(
        &self,
        block: &Block<Matrix, Floats>,
        x: Array,
        cache: &mut Cache,
        asking: usize,
    ) -> Array {
        let y = block.halves.iter().fold(x, |x, half| {
            let input = match &half.norm {
                Some(norm) => self.norm(&x, norm),
                None => copy(&x),
            };
            let mut r = match &half.part {
                Part::Attention(attention) => self.attention(attention, &input, cache),
                Part::Mlp(mlp) => self.mlp(mlp, &input),
                Part::Moe(moe) => self.moe(moe, &input),
            };
            if let Some(norm) = &half.post_norm {
                r = self.norm(&r, norm);
            }
            let mut y = Array::zeros(x.dtype, x.rows, x.width);
            let to = &mut y.view_mut();
            match half.multiplier == 1.0 {
                true => self.kernels.add(&x.view(), &r.view(), to),
                false => self
                    .kernels
                    .add_times(&x.view(), &r.view(), half.multiplier, to),
            }
            y
        });
        columns_and_rows(&y, y.rows - asking..y.rows, 0..y.width)
    }

    /// Parts of each row as wide as the weight.
    fn norm(&self, x: &Array, norm: &Norm<Floats>) -> Array {
        let width = norm.weight.width();
        let mut y = copy(x);
        y.rows *= y.width / width;
        y.width = width;
        let from = copy(&y);
        let to = &mut y.view_mut();
        self.kernels
            .rms_norm(&from.view(), Some(&norm.weight), 0.0, norm.eps, to);
        (y.rows, y.width) = (x.rows, x.width);
        y
    }

    fn linear(&self, x: &Array, linear: &Linear<Matrix, Floats>, to: Dtype) -> Array {
        let (outputs, _) = linear.weight.shape();
        let mut y = Array::zeros(to, x.rows, outputs);
        self.kernels
            .product(&x.view(), &linear.weight, &mut y.view_mut());
        if let Some(bias) = &linear.bias {
            self.kernels.add_row(bias, &mut y.view_mut());
        }
        if !linear.low.is_empty() {
            let low = [&linear.low[..]];
            self.kernels
                .add_low_ranks(&x.view(), &low, &mut [y.view_mut()]);
        }
        y
    }

    fn attention(
        &self,
        attention: &Attention<Matrix, Floats>,
        x: &Array,
        cache: &mut Cache,
    ) -> Array {
        let (n, dtype) = (x.rows, x.dtype);
        let (q, kv) = (HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM);
        let [mut queries, mut keys, values] = match &attention.projections {
            Projections::Apart {
                q_proj,
                k_proj,
                v_proj,
            } => [q_proj, k_proj, v_proj].map(|linear| self.linear(x, linear, dtype)),
            Projections::Fused(qkv_proj) => {
                let all = self.linear(x, qkv_proj, dtype);
                [0..q, q..q + kv, q + kv..q + 2 * kv]
                    .map(|columns| columns_and_rows(&all, 0..n, columns))
            }
        };
        if let Some(norm) = &attention.q_norm {
            queries = self.norm(&queries, norm);
        }
        if let Some(norm) = &attention.k_norm {
            keys = self.norm(&keys, norm);
        }
        let sizes = &attention.sizes;
        let offset = 40 + cache.before as i32;
        let (asked, own) = (
            HeadShape::tokens_first(HEADS, n, HEAD_DIM),
            HeadShape::tokens_first(KV_HEADS, n, HEAD_DIM),
        );
        let heads = |array: &Array, shape| {
            // SAFETY: the array has the shape's elements, and lives as long as the test's step.
            unsafe { Heads::from_raw(array.bytes.as_ptr(), dtype, shape) }
        };
        if let Some(rope) = &sizes.rope {
            for (array, shape) in [(&mut queries, asked), (&mut keys, own)] {
                let from = copy(array);
                let mut to = HeadsMut::new(&mut array.bytes, dtype, shape).expect("sizes");
                self.kernels
                    .rope(rope, &heads(&from, shape), offset, &mut to);
            }
        }
        if let Some(temperature) = &sizes.temperature {
            let from = copy(&queries);
            let mut to = HeadsMut::new(&mut queries.bytes, dtype, asked).expect("sizes");
            self.kernels
                .temper(temperature, &heads(&from, asked), offset, &mut to);
        }
        let mut past = cache.past(n);
        let (at, visible) = (past.at, past.visible);
        for (from, to) in [(&keys, &mut past.keys), (&values, &mut past.values)] {
            match to.some_tokens(at, n) {
                StoredMut::Floats(mut to) => self.kernels.copy_heads(&heads(from, own), &mut to),
                StoredMut::Packed(mut to) => self.kernels.pack_heads(&heads(from, own), &mut to),
            }
        }
        let mut attended = Array::zeros(dtype, n, q);
        let options = AttentionOptions {
            scale: sizes.scale,
            visible,
            softcap: sizes.softcap,
            sinks: attention.sinks,
        };
        let mut to = HeadsMut::new(&mut attended.bytes, dtype, asked).expect("sizes");
        self.kernels.attention(
            &heads(&queries, asked),
            past.keys.read(),
            past.values.read(),
            options,
            &mut to,
        );
        self.linear(&attended, &attention.o_proj, dtype)
    }

    fn activate(&self, gate_up: &GateUp<Array>, activation: Activation) -> Array {
        let (gate, up) = match gate_up {
            GateUp::UpAlone(up) => {
                let mut y = Array::zeros(up.dtype, up.rows, up.width);
                self.kernels
                    .activated(&up.view(), activation, &mut y.view_mut());
                return y;
            }
            GateUp::Apart { gate_proj, up_proj } => (copy(gate_proj), copy(up_proj)),
            GateUp::Fused(both) => {
                let size = both.width / 2;
                (
                    columns_and_rows(both, 0..both.rows, 0..size),
                    columns_and_rows(both, 0..both.rows, size..2 * size),
                )
            }
        };
        let mut y = Array::zeros(up.dtype, up.rows, up.width);
        self.kernels
            .gated(&gate.view(), &up.view(), activation, &mut y.view_mut());
        y
    }

    fn mlp(&self, mlp: &Mlp<Matrix, Floats>, x: &Array) -> Array {
        let made = match &mlp.gate_up {
            GateUp::Apart { gate_proj, up_proj } => GateUp::Apart {
                gate_proj: self.linear(x, gate_proj, x.dtype),
                up_proj: self.linear(x, up_proj, x.dtype),
            },
            GateUp::Fused(both) => GateUp::Fused(self.linear(x, both, x.dtype)),
            GateUp::UpAlone(up) => GateUp::UpAlone(self.linear(x, up, x.dtype)),
        };
        let inner = self.activate(&made, mlp.activation);
        self.linear(&inner, &mlp.down_proj, x.dtype)
    }

    fn moe(&self, moe: &Moe<Matrix, Floats>, x: &Array) -> Array {
        let k = moe.routing.top_k;
        let logits = self.linear(x, &moe.router, Dtype::F32);
        let (mut experts, mut weights) = (vec![0; x.rows * k], vec![0.0; x.rows * k]);
        self.kernels
            .route(&logits.view(), &moe.routing, &mut experts, &mut weights);
        let mut given = Array::zeros(x.dtype, 0, x.width);
        for (index, &expert) in experts.iter().enumerate() {
            let row = columns_and_rows(x, index / k..index / k + 1, 0..x.width);
            let y = self.mlp(&one_expert(&moe.experts, expert as usize), &row);
            given.bytes.extend(y.bytes);
            given.rows += 1;
        }
        let shared = moe.shared.as_ref().map(|shared| {
            let gate = &shared.gate;
            (
                self.mlp(&shared.mlp, x),
                gate.as_ref().map(|gate| self.linear(x, gate, Dtype::F32)),
            )
        });
        let views = shared
            .as_ref()
            .map(|(own, gate)| (own.view(), gate.as_ref().map(Array::view)));
        let mut y = Array::zeros(x.dtype, x.rows, x.width);
        self.kernels.weighted_sum(
            &given.view(),
            &Floats::of(&weights, k),
            views.as_ref().map(|(own, gate)| (own, gate.as_ref())),
            &mut y.view_mut(),
        );
        y
    }
}

/// An expert as an MLP.
fn one_expert<'a>(
    experts: &Experts<Matrix<'a>, Floats<'a>>,
    expert: usize,
) -> Mlp<Matrix<'a>, Floats<'a>> {
    let one = |of: &ExpertLinear<Matrix<'a>, Floats<'a>>| Linear {
        weight: match &of.weight {
            Matrix::Experts(ExpertMatrix::Dense { weights, outputs }) => {
                Matrix::Dense(weights.some_rows(expert * outputs, *outputs))
            }
            Matrix::Experts(ExpertMatrix::Packed {
                layout,
                stride,
                data,
            }) => {
                let data = &data[expert * stride..][..layout.nbytes()];
                Matrix::Packed(Packed::new(*layout, data).expect("its size"))
            }
            _ => panic!("not experts"),
        },
        bias: of.bias.as_ref().map(|bias| bias.some_rows(expert, 1)),
        low: Vec::new(),
    };
    Mlp {
        gate_up: match &experts.gate_up {
            GateUp::Apart { gate_proj, up_proj } => GateUp::Apart {
                gate_proj: one(gate_proj),
                up_proj: one(up_proj),
            },
            GateUp::Fused(both) => GateUp::Fused(one(both)),
            GateUp::UpAlone(up) => GateUp::UpAlone(one(up)),
        },
        down_proj: one(&experts.down_proj),
        activation: experts.activation,
    }
}
