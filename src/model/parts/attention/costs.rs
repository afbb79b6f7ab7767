//! What attention takes.

use super::{Attention, AttentionConfig, OutputGate, Projections};
use crate::dtype::Dtype;
use crate::model::cost::{size, Known, TypesOf};
use crate::model::modules::Site;
use crate::model::parts::PartTypes;

impl AttentionConfig {
    /// Weights that a token is multiplied with.
    pub fn parameters(&self, hidden: u64) -> u64 {
        let [queries, keys] = self.widths().map(size);
        let own = match (self.keys_of, self.values_are_keys) {
            (Some(_), _) => 0,
            (None, true) => 1,
            (None, false) => 2,
        };
        (2 * queries + own * keys) * hidden
    }

    /// Queries, keys and values as projected, normed and turned.
    pub fn row(&self) -> u64 {
        let [queries, keys] = self.widths().map(size);
        4 * (queries + keys)
    }

    /// Before and after their turn; and scores before and after the softmax.
    pub fn training_row(&self, width: u64) -> u64 {
        let [queries, keys] = self.widths().map(size);
        2 * (queries + 2 * keys) + 3 * size(self.heads) * width
    }
}

impl Attention {
    pub fn types<T: Known>(&self, of: &TypesOf<T>, x: Dtype) -> PartTypes {
        let linear = |site| of.linear(site, x);
        let (queries, own) = match self.projections {
            Projections::Apart {
                q_proj,
                k_proj,
                v_proj,
            } => (linear(q_proj), Some([k_proj, v_proj].map(linear))),
            Projections::Fused { qkv_proj } => {
                let all = linear(qkv_proj);
                (all, Some([all; 2]))
            }
            Projections::Same { q_proj, k_proj } => (linear(q_proj), Some([linear(k_proj); 2])),
            Projections::Queries { q_proj } => (linear(q_proj), None),
        };
        let normed = |x: Dtype, norm: Option<Site>| norm.map_or(x, |norm| of.norm(norm, x));
        let asked = queries;
        let queries = normed(queries, self.q_norm);
        // A cache holds both in the wider of their types.
        let kept = own.map(|[keys, values]| normed(keys, self.k_norm).wider(values));
        let attended = kept.map_or(queries, |kept| queries.wider(kept));
        let gated = match (self.config.gate, self.gate) {
            (Some(OutputGate::InQueries), _) => attended.wider(asked),
            (_, Some(gate)) => attended.wider(of.linear(gate, x)),
            _ => attended,
        };
        PartTypes {
            kept,
            output: of.linear(self.o_proj, gated),
        }
    }
}
