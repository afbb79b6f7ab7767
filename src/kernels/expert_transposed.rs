//! What gradients flow back through: products with experts by the other side of their weights.

use super::block::Matrix;
use super::experts::{ByExpert, ExpertMatrix, One, Route};
use super::float::{Floats, FloatsMut};
use super::scratch::Buffer;
use super::Kernels;
use crate::dtype::Dtype;

impl Kernels {
    /// `dx[r] = Σ dy[i] W` over the routes i of row r, with the weights of their experts: dy `[routes, outputs]`, dx `[rows,
    /// inputs]`. Summed in f32 in the order of the routes, rounded once.
    ///
    /// False, and nothing written, where a row or an expert does not exist. Panics where the shapes do not fit.
    #[must_use]
    pub fn expert_product_transposed(
        &self,
        dy: &Floats,
        experts: &ExpertMatrix,
        routes: &[Route],
        dx: &mut FloatsMut,
    ) -> bool {
        let ((outputs, inputs), count) = (experts.shape(), experts.count());
        assert!(
            dy.width() == outputs && dx.width() == inputs && dy.rows() == routes.len(),
            "expert_product_transposed: [{}, {}] by [{outputs}, {inputs}] to [{}, {}]",
            dy.rows(),
            dy.width(),
            dx.rows(),
            dx.width()
        );
        let known =
            |route: &Route| (route.row as usize) < dx.rows() && (route.expert as usize) < count;
        if !routes.iter().all(known) {
            return false;
        }
        let by_expert = ByExpert::new(routes.iter().map(|route| route.expert), count);
        // [routes, inputs]
        let mut each = Buffer::new(&self.scratch, Dtype::F32, routes.len(), inputs);
        for (expert, segment) in &by_expert.segments {
            let own = &by_expert.order[segment.clone()];
            let mut from = Buffer::new(&self.scratch, dy.dtype(), own.len(), outputs);
            let mut to = Buffer::new(&self.scratch, Dtype::F32, own.len(), inputs);
            for (index, &route) in own.iter().enumerate() {
                let bytes = dy.row_bytes(route as usize);
                from.floats_mut()
                    .row_bytes_mut(index)
                    .copy_from_slice(bytes);
            }
            let weights = match experts.one(*expert) {
                One::Packed(packed) => Matrix::Packed(packed),
                One::Dense(dense) => Matrix::Dense(dense),
            };
            self.product_transposed(&from.floats(), &weights, &mut to.floats_mut());
            for (index, &route) in own.iter().enumerate() {
                each.floats_mut()
                    .row_bytes_mut(route as usize)
                    .copy_from_slice(to.floats().row_bytes(index));
            }
        }
        let by_row = ByExpert::new(routes.iter().map(|route| route.row), dx.rows());
        let mut sum = Buffer::new(&self.scratch, Dtype::F32, dx.rows(), inputs);
        for row in 0..dx.rows() {
            sum.floats_mut().row_bytes_mut(row).fill(0);
        }
        for (row, segment) in &by_row.segments {
            let mut sum = sum.floats_mut();
            for &route in &by_row.order[segment.clone()] {
                let more = each.floats().some_rows(route as usize, 1);
                self.add_row(&more, &mut sum.one_row(*row));
            }
        }
        self.round(&sum.floats(), dx);
        true
    }
}
