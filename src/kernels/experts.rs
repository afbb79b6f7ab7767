//! Products with experts: each row of the result takes one row of x and the weights of one expert.

use super::float::{Floats, FloatsMut};
use super::layout::{Layout, Packed};
use super::Kernels;

/// A row of x by an expert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    pub row: u32,
    pub expert: u32,
}

/// The weights of several experts of one shape, one after the other.
#[derive(Clone, Copy)]
pub enum Experts<'a> {
    Packed {
        layout: Layout,
        /// `layout.nbytes()` each
        data: &'a [u8],
    },
    /// `[experts * outputs, inputs]`
    Dense { weights: Floats<'a>, outputs: usize },
}

impl<'a> Experts<'a> {
    fn count(&self) -> usize {
        match self {
            Experts::Packed { layout, data } => {
                data.len().checked_div(layout.nbytes()).unwrap_or(0)
            }
            Experts::Dense { weights, outputs } => {
                weights.rows().checked_div(*outputs).unwrap_or(0)
            }
        }
    }

    fn shape(&self) -> (usize, usize) {
        match self {
            Experts::Packed { layout, .. } => (layout.rows(), layout.inputs()),
            Experts::Dense { weights, outputs } => (*outputs, weights.width()),
        }
    }
}

impl Kernels {
    /// `y[i] = x[routes[i].row] Wᵀ` with the weights of `routes[i].expert`: x `[rows, inputs]`, y `[routes, outputs]`.
    /// Routes to the same expert share the reading of its weights, in whatever order they come.
    ///
    /// False, and nothing written, where a row or an expert does not exist. Panics where the shapes do not fit.
    #[must_use]
    pub fn expert_matmul(
        &self,
        x: &Floats,
        experts: &Experts,
        routes: &[Route],
        y: &mut FloatsMut,
    ) -> bool {
        let (outputs, inputs) = experts.shape();
        assert!(
            x.width() == inputs && y.width() == outputs && y.rows() == routes.len(),
            "expert_matmul: [{}, {}] by [{outputs}, {inputs}] to [{}, {}] for {} routes",
            x.rows(),
            x.width(),
            y.rows(),
            y.width(),
            routes.len()
        );
        let known = |route: &Route| {
            (route.row as usize) < x.rows() && (route.expert as usize) < experts.count()
        };
        if !routes.iter().all(known) {
            return false;
        }
        let mut order: Vec<usize> = (0..routes.len()).collect();
        order.sort_by_key(|&index| routes[index].expert);
        let (mut from, mut to) = (Vec::new(), Vec::new());
        let (x_row, y_row) = (
            inputs * x.dtype().size() as usize,
            outputs * y.dtype().size() as usize,
        );
        for same in order.chunk_by(|&a, &b| routes[a].expert == routes[b].expert) {
            from.clear();
            for &index in same {
                from.extend_from_slice(x.row_bytes(routes[index].row as usize));
            }
            to.clear();
            to.resize(same.len() * y_row, 0);
            debug_assert_eq!(from.len(), same.len() * x_row);
            let expert = routes[same[0]].expert as usize;
            let rows = Floats::new(&from, x.dtype(), same.len(), inputs);
            let result = FloatsMut::new(&mut to, y.dtype(), same.len(), outputs);
            if let (Some(rows), Some(mut result)) = (rows, result) {
                self.one_expert(&rows, experts, expert, &mut result);
            }
            for (row, &index) in same.iter().enumerate() {
                y.row_bytes_mut(index)
                    .copy_from_slice(&to[row * y_row..(row + 1) * y_row]);
            }
        }
        true
    }

    fn one_expert(&self, x: &Floats, experts: &Experts, expert: usize, y: &mut FloatsMut) {
        match experts {
            Experts::Packed { layout, data } => {
                let bytes = layout.nbytes();
                let data = &data[expert * bytes..(expert + 1) * bytes];
                if let Some(packed) = Packed::new(*layout, data) {
                    self.quantized_matmul(x, &packed, y);
                }
            }
            Experts::Dense { weights, outputs } => {
                self.matmul(x, &weights.some_rows(expert * outputs, *outputs), y);
            }
        }
    }
}
