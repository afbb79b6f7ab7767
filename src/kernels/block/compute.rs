//! A block's halves one after the other, its MLPs, and the products of all of its parts.

use super::super::attention::Texts;
use super::super::float::{Floats, FloatsMut};
use super::super::layout::Packed;
use super::super::qmatmul::same_digits;
use super::super::scratch::Buffer;
use super::super::Kernels;
use super::{Block, GateUp, Half, Linear, Matrix, Mlp, Norm, Part, Past, Sees, Segment};

impl Kernels {
    /// x `[n, hidden]` → y, its last rows. All n keys and values are written. What is written between the parts has the
    /// type of x.
    ///
    /// Panics where shapes do not fit together, and where there is attention without a past.
    pub fn block(
        &self,
        block: &Block<Matrix, Floats>,
        x: &Floats,
        past: Option<&mut Past>,
        y: &mut FloatsMut,
    ) {
        self.block_that(block, x, past.map_or(Sees::Nothing, Sees::Past), y);
    }

    /// The same of rows that are `texts`, one after the other: x and y `[tokens, hidden]`.
    ///
    /// Panics where shapes do not fit together.
    pub fn block_of_texts(
        &self,
        block: &Block<Matrix, Floats>,
        x: &Floats,
        texts: &Texts,
        y: &mut FloatsMut,
    ) {
        assert!(
            [x.rows(), y.rows()] == [texts.tokens(); 2],
            "block: {} rows of texts to {}",
            x.rows(),
            y.rows()
        );
        self.block_that(block, x, Sees::Texts(texts), y);
    }

    /// The same of rows that are several sessions', one after the other: x and y `[rows, hidden]`. What a row gives does not
    /// depend on the other sessions, which share no memory.
    ///
    /// Panics where shapes do not fit together.
    pub fn block_of_segments(
        &self,
        block: &Block<Matrix, Floats>,
        x: &Floats,
        segments: &mut [Segment],
        y: &mut FloatsMut,
    ) {
        let rows = segments.iter().map(|segment| segment.rows).sum();
        assert!(
            [x.rows(), y.rows()] == [rows; 2],
            "block: {} rows of {rows} of sessions to {}",
            x.rows(),
            y.rows()
        );
        self.block_that(block, x, Sees::Segments(segments), y);
    }

    fn block_that(
        &self,
        block: &Block<Matrix, Floats>,
        x: &Floats,
        mut sees: Sees,
        y: &mut FloatsMut,
    ) {
        let asking = y.rows();
        assert!(
            asking <= x.rows() && x.width() == y.width(),
            "block: [{}, {}] to [{asking}, {}]",
            x.rows(),
            x.width(),
            y.width()
        );
        let attending = block.halves.iter().filter(|half| half.attends()).count();
        assert!(attending <= 1, "block: attention more than once");
        let Some((last, before)) = block.halves.split_last() else {
            panic!("block: no halves");
        };
        let mut h: Option<Buffer> = None;
        for (index, half) in before.iter().enumerate() {
            let x = h.as_ref().map_or(*x, Buffer::floats);
            // Attention that is to come makes keys and values of all rows.
            let later = block.halves[index + 1..].iter().any(Half::attends);
            let rows = if later { x.rows() } else { asking };
            let mut made = Buffer::new(&self.scratch, x.dtype(), rows, x.width());
            self.half(half, &x, sees.again(), &mut made.floats_mut());
            h = Some(made);
        }
        let x = h.as_ref().map_or(*x, Buffer::floats);
        self.half(last, &x, sees, y);
    }

    /// x `[n, hidden]` → y, its last rows.
    fn half(&self, half: &Half<Matrix, Floats>, x: &Floats, sees: Sees, y: &mut FloatsMut) {
        let (asking, hidden) = (y.rows(), x.width());
        let new = |rows| Buffer::new(&self.scratch, x.dtype(), rows, hidden);
        let asked = x.some_rows(x.rows() - asking, asking);
        let seen = if half.attends() { *x } else { asked };
        let normed = half.norm.as_ref().map(|norm| {
            let mut normed = new(seen.rows());
            self.norm(norm, &seen, &mut normed.floats_mut());
            normed
        });
        let input = normed.as_ref().map_or(seen, Buffer::floats);
        let mut r = new(asking);
        match &half.part {
            Part::Attention(attention) => {
                self.attend(attention, &input, sees, &mut r);
            }
            Part::Mlp(mlp) => self.mlp(mlp, &input, &mut r),
            Part::Moe(moe) => self.moe(moe, &input, &mut r),
        }
        drop(normed);
        if let Some(norm) = &half.post_norm {
            let mut normed = new(asking);
            self.norm(norm, &r.floats(), &mut normed.floats_mut());
            r = normed;
        }
        let Some(norm) = &half.out_norm else {
            return self.add_times(&asked, &r.floats(), half.multiplier, y);
        };
        let mut sum = new(asking);
        self.add_times(&asked, &r.floats(), half.multiplier, &mut sum.floats_mut());
        self.norm(norm, &sum.floats(), y);
    }

    fn norm(&self, norm: &Norm<Floats>, x: &Floats, y: &mut FloatsMut) {
        match norm.layer {
            true => self.layer_norm(x, &norm.weight, norm.bias.as_ref(), norm.eps, y),
            false => self.rms_norm(x, Some(&norm.weight), 0.0, norm.eps, y),
        }
    }

    /// x `[n, hidden]` → y, the same shape.
    pub(super) fn mlp(&self, mlp: &Mlp<Matrix, Floats>, x: &Floats, y: &mut Buffer) {
        let new = |width| Buffer::new(&self.scratch, x.dtype(), x.rows(), width);
        let (_, size) = mlp.down_proj.weight.shape();
        let mut inner = new(size);
        match &mlp.gate_up {
            GateUp::Apart { gate_proj, up_proj } => {
                let (mut gate, mut up) = (new(size), new(size));
                self.linears(x, &[gate_proj, up_proj], &mut [&mut gate, &mut up]);
                let to = &mut inner.floats_mut();
                self.gated(&gate.floats(), &up.floats(), mlp.activation, to);
            }
            GateUp::Fused(gate_up_proj) => {
                let mut both = new(2 * size);
                self.linears(x, &[gate_up_proj], &mut [&mut both]);
                let (both, to) = (both.floats(), &mut inner.floats_mut());
                let (gate, up) = (both.columns(0, size), both.columns(size, size));
                self.gated(&gate, &up, mlp.activation, to);
            }
            GateUp::UpAlone(up_proj) => {
                let mut up = new(size);
                self.linears(x, &[up_proj], &mut [&mut up]);
                self.activated(&up.floats(), mlp.activation, &mut inner.floats_mut());
            }
        }
        self.linears(&inner.floats(), &[&mlp.down_proj], &mut [y]);
    }

    /// `y = x Wᵀ`: x `[rows, inputs]`, y `[rows, outputs]`. Panics where the shapes do not fit together.
    pub fn product(&self, x: &Floats, weights: &Matrix, y: &mut FloatsMut) {
        match weights {
            Matrix::Dense(weights) => self.matmul(x, weights, y),
            Matrix::Packed(weights) => self.quantized_matmul(x, weights, y),
            Matrix::Experts(_) => panic!("product: experts, and nobody says which"),
        }
    }

    /// Several layers of the same rows.
    pub(super) fn linears(
        &self,
        x: &Floats,
        linears: &[&Linear<Matrix, Floats>],
        y: &mut [&mut Buffer],
    ) {
        // Packed matrices whose rows are made ready alike go in one pass.
        let packed = linears.iter().map(|linear| match &linear.weight {
            Matrix::Packed(packed) => Some(*packed),
            Matrix::Dense(_) | Matrix::Experts(_) => None,
        });
        let together: Option<Vec<Packed>> = packed.collect();
        let mut outputs: Vec<FloatsMut> = y.iter_mut().map(|y| y.floats_mut()).collect();
        match together {
            Some(all)
                if all
                    .windows(2)
                    .all(|two| same_digits(two[0].layout(), two[1].layout())) =>
            {
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
