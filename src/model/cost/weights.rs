//! What weights take.

use super::{size, Known};
use crate::mlx::fast::{packed_experts_size, packed_layout, packed_size};
use crate::model::modules::{Kind, Modules, Weight};

/// Weights, in bytes.
pub struct WeightCost {
    /// Once they are loaded.
    pub held: u64,
    /// More than that while they are loaded: what is packed for the kernels is there twice.
    pub packing: u64,
}

impl WeightCost {
    /// `kernels`: as for `Costs`.
    pub fn of<T: Known>(modules: &Modules<T>, kernels: bool) -> Self {
        let (mut held, mut packing) = (0u64, 0);
        for (module, tensors) in modules.iter() {
            let loaded = tensors
                .weight
                .tensors()
                .iter()
                .map(|tensor| tensor.bytes())
                .sum();
            if let Some((_, dtype, shape)) = tensors.unpacked(module) {
                let numbers = shape.iter().map(|&n| size(n)).product::<u64>();
                let unpacked = numbers * dtype.size() as u64;
                packing = unpacked.saturating_add(loaded).max(packing);
                held += unpacked.max(loaded);
                continue;
            }
            held += match packed(&tensors.weight, kernels) {
                Some(bytes) => {
                    packing = bytes.max(packing);
                    bytes.max(loaded)
                }
                None => loaded,
            };
            held += tensors.bias.as_ref().map_or(0, Known::bytes);
            if matches!(module.kind, Kind::Norm { plus_one: true, .. }) {
                // Beside what is stored, what is computed with.
                held += loaded;
            }
        }
        WeightCost { held, packing }
    }
}

/// Bytes of a matrix as the kernels have it; None where they take it as it is.
pub(super) fn packed<T: Known>(weight: &Weight<T>, kernels: bool) -> Option<u64> {
    let Weight::Quantized {
        weight,
        scales,
        biases,
        scheme,
    } = weight
    else {
        return None;
    };
    let (experts, rows, groups) = match (weight.shape(), scales.shape()) {
        (&[rows, _], &[_, groups]) => (None, rows, groups),
        (&[experts, rows, _], &[_, _, groups]) => (usize::try_from(experts).ok(), rows, groups),
        _ => return None,
    };
    let biases = biases.as_ref().map(Known::dtype);
    let layout = packed_layout([rows, groups], scales.dtype(), biases, *scheme);
    let layout = layout.filter(|_| kernels)?;
    let words = match experts {
        Some(experts) => packed_experts_size(&layout, experts),
        None => packed_size(&layout),
    };
    words.map(|words| 4 * size(words))
}
