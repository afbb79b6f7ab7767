//! What a mixture of experts does beside its products, as operations.

use super::{bytes_mut, floats, floats_mut, one, queue, Array, View};
use crate::dtype::Dtype;
use crate::error::Result;
use crate::kernels::{Kernels, Routing};

/// Router logits `[…, rows, experts]` → experts i32 and weights f32 `[…, rows, top_k]`, the best first.
pub fn route(logits: &Array, routing: &Routing<&Array>) -> Result<(Array, Array)> {
    let mut shape = logits.shape().to_vec();
    shape.pop();
    shape.push(i32::try_from(routing.top_k).unwrap_or(i32::MAX));
    let mut inputs = vec![logits];
    inputs.extend(routing.selection_bias);
    let routing = Routing {
        top_k: routing.top_k,
        score: routing.score,
        selection_bias: None,
        groups: routing.groups,
        normalise: routing.normalise,
        scaling: routing.scaling,
    };
    let run = move |kernels: &Kernels, from: &[View], to: &[View]| {
        let logits = floats(&from[0])?;
        let routing = Routing {
            selection_bias: from.get(1).map(floats).transpose()?,
            ..routing
        };
        let len = logits.rows() * routing.top_k;
        let (mut experts, mut weights) = (vec![0; len], vec![0.0; len]);
        kernels.route(&logits, &routing, &mut experts, &mut weights);
        for (to, expert) in bytes_mut(&to[0])?.chunks_exact_mut(4).zip(experts) {
            to.copy_from_slice(&expert.to_ne_bytes());
        }
        for (to, weight) in bytes_mut(&to[1])?.chunks_exact_mut(4).zip(weights) {
            to.copy_from_slice(&weight.to_ne_bytes());
        }
        Ok(())
    };
    let outputs = [(&shape[..], Dtype::I32), (&shape[..], Dtype::F32)];
    let [experts, weights] = queue(c"route", 0, &inputs, outputs, run)?;
    Ok((experts, weights))
}

/// What experts give, `[…, rows, top_k, hidden]`, by weights f32 `[…, rows, top_k]`, summed in f32, with what a shared expert
/// gives, `[…, rows, hidden]`, times the sigmoid of its gate, `[…, rows, 1]`; rounded once, in the type of x.
pub fn weighted_sum(
    x: &Array,
    weights: &Array,
    shared: Option<(&Array, Option<&Array>)>,
) -> Result<Array> {
    let mut shape = weights.shape().to_vec();
    shape.pop();
    shape.extend(x.shape().last());
    let mut inputs = vec![x, weights];
    if let Some((shared, gate)) = shared {
        inputs.push(shared);
        inputs.extend(gate);
    }
    let run = move |kernels: &Kernels, from: &[View], to: &[View]| {
        let (x, weights) = (floats(&from[0])?, floats(&from[1])?);
        let shared = from.get(2).map(floats).transpose()?;
        let gate = from.get(3).map(floats).transpose()?;
        let shared = shared.as_ref().map(|shared| (shared, gate.as_ref()));
        kernels.weighted_sum(&x, &weights, shared, &mut floats_mut(&to[0])?);
        Ok(())
    };
    let out = (&shape[..], x.dtype());
    Ok(one(queue(c"weighted_sum", 0, &inputs, [out], run)?))
}
