//! A block of a decoder over its cache, from the first norm to the last sum, in one call: what its parts give one by one,
//! bit by bit, without what it costs to call them one by one.

use super::attention::{AttentionOptions, Visible};
use super::float::{Floats, FloatsMut};
use super::heads::{HeadShape, HeadsMut};
use super::layout::Packed;
use super::lowrank::LowRank;
use super::qmatmul::same_digits;
use super::rope::Rope;
use super::rowwise::Gate;
use super::scratch::Buffer;
use super::Kernels;
use std::sync::Arc;

/// A block's parts, by their names in mlx-lm; `M` is what a matrix is, `V` what other weights are.
pub struct Block<M, V> {
    pub sizes: Sizes,
    /// `[hidden]`
    pub input_layernorm: V,
    /// `[heads * head_dim, hidden]`
    pub q_proj: Linear<M, V>,
    /// `[kv_heads * head_dim, hidden]`
    pub k_proj: Linear<M, V>,
    /// `[kv_heads * head_dim, hidden]`
    pub v_proj: Linear<M, V>,
    /// `[head_dim]`
    pub q_norm: Option<V>,
    /// `[head_dim]`
    pub k_norm: Option<V>,
    /// `[hidden, heads * head_dim]`
    pub o_proj: Linear<M, V>,
    /// `[hidden]`, of what attention gives
    pub after_attention: Option<V>,
    /// `[hidden]`, before the MLP
    pub mlp_layernorm: V,
    /// `[intermediate, hidden]`
    pub gate_proj: Linear<M, V>,
    /// `[intermediate, hidden]`
    pub up_proj: Linear<M, V>,
    /// `[hidden, intermediate]`
    pub down_proj: Linear<M, V>,
    /// `[hidden]`, of what the MLP gives
    pub after_mlp: Option<V>,
}

/// What a block is beside its weights.
#[derive(Clone)]
pub struct Sizes {
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    /// Of the scores.
    pub scale: f32,
    /// Of the norms.
    pub eps: f32,
    pub gate: Gate,
    pub rope: Arc<Rope>,
}

/// `x Wᵀ + bias + Σ scale (x A) B`
pub struct Linear<M, V> {
    pub weight: M,
    /// `[out]`
    pub bias: Option<V>,
    pub low: Vec<LowRank<V>>,
}

/// `[out, in]`
pub enum Matrix<'a> {
    Dense(Floats<'a>),
    Packed(Packed<'a>),
}

/// The keys and values that a block's queries see, with room for the new ones among them.
pub struct Past<'a> {
    /// `[kv_heads, tokens, head_dim]`
    pub keys: HeadsMut<'a>,
    /// `[kv_heads, tokens, head_dim]`
    pub values: HeadsMut<'a>,
    /// Where the new tokens' go.
    pub at: usize,
    /// The first new token's position.
    pub offset: i32,
    pub visible: Visible,
}

impl<M, V> Block<M, V> {
    /// Every weight through `matrix` or `vector`, always in the same order; the first error ends it.
    pub fn try_map<N, W, E>(
        &self,
        matrix: &mut impl FnMut(&M) -> Result<N, E>,
        vector: &mut impl FnMut(&V) -> Result<W, E>,
    ) -> Result<Block<N, W>, E> {
        let mut linear = |from: &Linear<M, V>| -> Result<Linear<N, W>, E> {
            Ok(Linear {
                weight: matrix(&from.weight)?,
                bias: from.bias.as_ref().map(&mut *vector).transpose()?,
                low: from
                    .low
                    .iter()
                    .map(|low| low.try_map(vector))
                    .collect::<Result<_, E>>()?,
            })
        };
        let [q_proj, k_proj, v_proj, o_proj] = [
            linear(&self.q_proj)?,
            linear(&self.k_proj)?,
            linear(&self.v_proj)?,
            linear(&self.o_proj)?,
        ];
        let [gate_proj, up_proj, down_proj] = [
            linear(&self.gate_proj)?,
            linear(&self.up_proj)?,
            linear(&self.down_proj)?,
        ];
        let mut option = |from: &Option<V>| from.as_ref().map(&mut *vector).transpose();
        Ok(Block {
            sizes: self.sizes.clone(),
            q_norm: option(&self.q_norm)?,
            k_norm: option(&self.k_norm)?,
            after_attention: option(&self.after_attention)?,
            after_mlp: option(&self.after_mlp)?,
            input_layernorm: vector(&self.input_layernorm)?,
            mlp_layernorm: vector(&self.mlp_layernorm)?,
            q_proj,
            k_proj,
            v_proj,
            o_proj,
            gate_proj,
            up_proj,
            down_proj,
        })
    }
}

impl Kernels {
    /// x `[n, hidden]` → y, its last rows. All n keys and values are written. What is written between the parts has the
    /// type of x.
    ///
    /// Panics where shapes do not fit together.
    pub fn block(
        &self,
        block: &Block<Matrix, Floats>,
        x: &Floats,
        past: &mut Past,
        y: &mut FloatsMut,
    ) {
        let sizes = &block.sizes;
        let (n, hidden, dtype) = (x.rows(), x.width(), x.dtype());
        let asking = y.rows();
        assert!(asking <= n, "block: {asking} rows of {n}");
        let new = |rows, width| Buffer::new(&self.scratch, dtype, rows, width);
        let norm = |x: &Floats, weight: &Floats, y: &mut Buffer| {
            self.rms_norm(x, Some(weight), 0.0, sizes.eps, &mut y.floats_mut());
        };
        let query_size = sizes.heads * sizes.head_dim;
        let key_size = sizes.kv_heads * sizes.head_dim;

        let mut normed = new(n, hidden);
        norm(x, &block.input_layernorm, &mut normed);
        let normed = normed.floats();
        let mut queries = new(asking, query_size);
        let (mut keys, mut values) = (new(n, key_size), new(n, key_size));
        if asking == n {
            self.linears(
                &normed,
                &[&block.q_proj, &block.k_proj, &block.v_proj],
                &mut [&mut queries, &mut keys, &mut values],
            );
        } else {
            self.linears(
                &normed,
                &[&block.k_proj, &block.v_proj],
                &mut [&mut keys, &mut values],
            );
            let last = normed.some_rows(n - asking, asking);
            self.linears(&last, &[&block.q_proj], &mut [&mut queries]);
        }

        // A head's tokens are normed and turned: [n, heads * head_dim] as [n * heads, head_dim] and as heads.
        let keys = self.head_norm(keys, block.k_norm.as_ref(), sizes);
        let queries = self.head_norm(queries, block.q_norm.as_ref(), sizes);
        let shape = |heads, tokens| HeadShape::tokens_first(heads, tokens, sizes.head_dim);
        let own = shape(sizes.kv_heads, n);
        let to = &mut past.keys.some_tokens(past.at, n);
        self.rope(&sizes.rope, &keys.floats().heads(own), past.offset, to);
        let to = &mut past.values.some_tokens(past.at, n);
        self.copy_heads(&values.floats().heads(own), to);
        let mut turned = new(asking, query_size);
        let asked = shape(sizes.heads, asking);
        let offset = past.offset + (n - asking) as i32;
        let to = &mut turned.floats_mut().heads(asked);
        self.rope(&sizes.rope, &queries.floats().heads(asked), offset, to);

        let mut attended = new(asking, query_size);
        let options = AttentionOptions {
            scale: sizes.scale,
            visible: past.visible,
            softcap: None,
            sinks: None,
        };
        self.attention(
            &turned.floats().heads(asked),
            &past.keys.read(),
            &past.values.read(),
            options,
            &mut attended.floats_mut().heads(asked),
        );

        let (mut r, mut h, mut other) = (
            new(asking, hidden),
            new(asking, hidden),
            new(asking, hidden),
        );
        self.linears(&attended.floats(), &[&block.o_proj], &mut [&mut r]);
        if let Some(weight) = &block.after_attention {
            norm(&r.floats(), weight, &mut other);
            std::mem::swap(&mut r, &mut other);
        }
        let x = x.some_rows(n - asking, asking);
        self.add(&x, &r.floats(), &mut h.floats_mut());
        norm(&h.floats(), &block.mlp_layernorm, &mut other);
        let (size, _) = block.gate_proj.weight.shape();
        let (mut gate, mut up, mut inner) =
            (new(asking, size), new(asking, size), new(asking, size));
        self.linears(
            &other.floats(),
            &[&block.gate_proj, &block.up_proj],
            &mut [&mut gate, &mut up],
        );
        let to = &mut inner.floats_mut();
        self.gated(&gate.floats(), &up.floats(), sizes.gate, to);
        self.linears(&inner.floats(), &[&block.down_proj], &mut [&mut r]);
        if let Some(weight) = &block.after_mlp {
            norm(&r.floats(), weight, &mut other);
            std::mem::swap(&mut r, &mut other);
        }
        self.add(&h.floats(), &r.floats(), y);
    }

    /// Each head of each row normed, where there is a norm.
    fn head_norm<'a>(
        &'a self,
        x: Buffer<'a>,
        weight: Option<&Floats>,
        sizes: &Sizes,
    ) -> Buffer<'a> {
        let Some(weight) = weight else {
            return x;
        };
        let rows = x.floats();
        let mut y = Buffer::new(&self.scratch, rows.dtype(), rows.rows(), rows.width());
        let (heads, to) = (rows.split(sizes.head_dim), y.floats_mut());
        let to = &mut to.split(sizes.head_dim);
        self.rms_norm(&heads, Some(weight), 0.0, sizes.eps, to);
        y
    }

    /// `y = x Wᵀ`: x `[rows, inputs]`, y `[rows, outputs]`. Panics where the shapes do not fit together.
    pub fn product(&self, x: &Floats, weights: &Matrix, y: &mut FloatsMut) {
        match weights {
            Matrix::Dense(weights) => self.matmul(x, weights, y),
            Matrix::Packed(weights) => self.quantized_matmul(x, weights, y),
        }
    }

    /// Several layers of the same rows.
    fn linears(&self, x: &Floats, linears: &[&Linear<Matrix, Floats>], y: &mut [&mut Buffer]) {
        // Packed matrices whose rows are made ready alike go in one pass.
        let packed = linears.iter().map(|linear| match &linear.weight {
            Matrix::Packed(packed) => Some(*packed),
            Matrix::Dense(_) => None,
        });
        let together: Option<Vec<Packed>> = packed.collect();
        let mut outputs: Vec<FloatsMut> = y.iter_mut().map(|y| y.floats_mut()).collect();
        match together {
            Some(all) if all.windows(2).all(|two| same_digits(&two[0], &two[1])) => {
                self.quantized_matmuls(x, &all, &mut outputs);
            }
            _ => {
                for (linear, y) in linears.iter().zip(&mut outputs) {
                    self.product(x, &linear.weight, y);
                }
            }
        }
        for (linear, y) in linears.iter().zip(&mut outputs) {
            if let Some(bias) = &linear.bias {
                self.add_row(bias, y);
            }
        }
        if linears.iter().any(|linear| !linear.low.is_empty()) {
            let low: Vec<_> = linears.iter().map(|linear| &linear.low[..]).collect();
            self.add_low_ranks(x, &low, &mut outputs);
        }
    }
}

impl Matrix<'_> {
    /// Outputs and inputs.
    pub(super) fn shape(&self) -> (usize, usize) {
        match self {
            Matrix::Dense(weight) => (weight.rows(), weight.width()),
            Matrix::Packed(packed) => (packed.layout().rows(), packed.layout().inputs()),
        }
    }
}
