//! The types of what modules compute, as MLX promotes them.

use super::weights::packed;
use super::Known;
use crate::dtype::{Dtype, Mode};
use crate::model::modules::{Kind, Modules, Site, Tensors, Weight};

/// The types of what modules compute, as MLX promotes them.
pub struct TypesOf<'a, T> {
    pub(super) modules: &'a Modules<T>,
    /// Of what blocks get beside their rows.
    pub per_layer: Dtype,
}

impl<T: Known> TypesOf<'_, T> {
    /// Of what a layer makes of x.
    pub fn linear(&self, site: Site, x: Dtype) -> Dtype {
        let Some(Tensors { weight, bias }) = self.modules.get(site) else {
            return x;
        };
        let product = match weight {
            Weight::Quantized { scheme, .. } if scheme.mode != Mode::Affine => x,
            weight => x.wider(rows_type(weight)),
        };
        bias.as_ref()
            .map_or(product, |bias| product.wider(bias.dtype()))
    }

    pub fn norm(&self, site: Site, x: Dtype) -> Dtype {
        self.linear(site, x)
    }

    /// Of an embedding's rows.
    pub fn rows(&self, site: Site) -> Dtype {
        let tensors = self.modules.get(site);
        tensors.map_or(Dtype::F32, |tensors| rows_type(&tensors.weight))
    }

    /// Whether all modules of a block compute in this type on the kernels.
    pub fn block_computes_in(&self, block: usize, dtype: Dtype) -> bool {
        let own = self.modules.iter();
        let own = own.filter(|(module, _)| module.site.layer() == Some(block));
        // What the kernels take in any type.
        let any = |kind| matches!(kind, Kind::Vector | Kind::Number);
        let mut own = own.filter(|(module, _)| !any(module.kind));
        own.all(|(_, Tensors { weight, bias })| {
            let fits = match weight {
                Weight::Dense(weight) => weight.dtype() == dtype,
                Weight::Quantized { scales, scheme, .. } => {
                    let own = match scheme.mode {
                        Mode::Affine => scales.dtype(),
                        _ => dtype,
                    };
                    own == dtype && packed(weight, true).is_some()
                }
            };
            fits && bias.as_ref().is_none_or(|bias| bias.dtype() == dtype)
        })
    }
}

/// The type of a matrix's rows once they are unpacked.
pub fn rows_type<T: Known>(weight: &Weight<T>) -> Dtype {
    match weight {
        Weight::Dense(weight) => weight.dtype(),
        Weight::Quantized { scales, scheme, .. } if scheme.mode == Mode::Affine => scales.dtype(),
        Weight::Quantized { .. } => Dtype::BF16,
    }
}
