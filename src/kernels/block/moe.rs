//! The mixture of experts of a block.

use super::super::experts::{ByExpert, ExpertMatrix};
use super::super::float::{Floats, FloatsMut};
use super::super::scratch::Buffer;
use super::super::Kernels;
use super::{ExpertLinear, Experts, GateUp, Matrix, Moe};
use crate::dtype::Dtype;

impl Kernels {
    /// x `[n, hidden]` → y, the same shape. Logits, scores and weights are f32; what experts give has the type of x, and its
    /// weighted sum is rounded once.
    pub(super) fn moe(&self, moe: &Moe<Matrix, Floats>, x: &Floats, y: &mut Buffer) {
        let (n, k) = (x.rows(), moe.routing.top_k);
        let (count, _) = moe.router.weight.shape();
        let (mut experts, mut weights) = (vec![0; n * k], vec![0.0; n * k]);
        {
            let mut logits = Buffer::new(&self.scratch, Dtype::F32, n, count);
            self.linears(x, &[&moe.router], &mut [&mut logits]);
            self.route(&logits.floats(), &moe.routing, &mut experts, &mut weights);
        }
        let given = self.experts(&moe.experts, x, &experts, (k, count));
        let weights = Floats::of(&weights, k);
        let to = &mut y.floats_mut();
        let Some(shared) = &moe.shared else {
            return self.weighted_sum(&given.floats(), &weights, None, to);
        };
        let mut own = Buffer::new(&self.scratch, x.dtype(), n, x.width());
        self.mlp(&shared.mlp, x, &mut own);
        let gate = shared.gate.as_ref().map(|gate| {
            let mut logits = Buffer::new(&self.scratch, Dtype::F32, n, 1);
            self.linears(x, &[gate], &mut [&mut logits]);
            logits
        });
        let gate = gate.as_ref().map(Buffer::floats);
        let shared = Some((&own.floats(), gate.as_ref()));
        self.weighted_sum(&given.floats(), &weights, shared, to);
    }

    /// What each row's `k` experts, of `count`, give: x `[n, hidden]`, experts `[n, k]` → `[n * k, hidden]`
    fn experts(
        &self,
        layers: &Experts<Matrix, Floats>,
        x: &Floats,
        experts: &[u32],
        (k, count): (usize, usize),
    ) -> Buffer<'_> {
        let routes = experts.len();
        let new = |width| Buffer::new(&self.scratch, x.dtype(), routes, width);
        let by_expert = ByExpert::new(experts.iter().copied(), count);
        // A row's choices follow each other.
        let row = |route: u32| route as usize / k;
        let products = |layers: &[&ExpertLinear<Matrix, Floats>], y: &mut [FloatsMut]| {
            let matrices: Vec<_> = layers.iter().map(|layer| matrix(layer, count)).collect();
            self.expert_matmuls(x, row, &by_expert, &matrices, y);
            self.expert_biases(layers, experts, y);
        };
        let (_, size) = layers.down_proj.weight.shape();
        let mut inner = new(size);
        match &layers.gate_up {
            GateUp::Apart { gate_proj, up_proj } => {
                let (mut gate, mut up) = (new(size), new(size));
                let y = &mut [gate.floats_mut(), up.floats_mut()];
                products(&[gate_proj, up_proj], y);
                let to = &mut inner.floats_mut();
                self.gated(&gate.floats(), &up.floats(), layers.activation, to);
            }
            GateUp::Fused(gate_up_proj) => {
                let mut both = new(2 * size);
                products(&[gate_up_proj], &mut [both.floats_mut()]);
                let (both, to) = (both.floats(), &mut inner.floats_mut());
                let (gate, up) = (both.columns(0, size), both.columns(size, size));
                self.gated(&gate, &up, layers.activation, to);
            }
            GateUp::UpAlone(up_proj) => {
                let mut up = new(size);
                products(&[up_proj], &mut [up.floats_mut()]);
                self.activated(&up.floats(), layers.activation, &mut inner.floats_mut());
            }
        }
        let mut given = new(x.width());
        let down_proj = &layers.down_proj;
        let (inner, y) = (inner.floats(), &mut [given.floats_mut()]);
        let own = |route: u32| route as usize;
        self.expert_matmuls(&inner, own, &by_expert, &[matrix(down_proj, count)], y);
        self.expert_biases(&[down_proj], experts, y);
        given
    }

    fn expert_biases(
        &self,
        layers: &[&ExpertLinear<Matrix, Floats>],
        experts: &[u32],
        y: &mut [FloatsMut],
    ) {
        for (layer, y) in layers.iter().zip(y) {
            if let Some(bias) = &layer.bias {
                self.add_rows(bias, |route| experts[route] as usize, y);
            }
        }
    }
}

/// Of `count` experts, so that every choice has its weights.
fn matrix<'a>(layer: &ExpertLinear<Matrix<'a>, Floats>, count: usize) -> ExpertMatrix<'a> {
    let Matrix::Experts(experts) = &layer.weight else {
        panic!("block: an expert's weights are those of one");
    };
    assert!(
        experts.count() == count && layer.bias.is_none_or(|bias| bias.rows() == count),
        "block: {} experts, and a router for {count}",
        experts.count()
    );
    *experts
}
