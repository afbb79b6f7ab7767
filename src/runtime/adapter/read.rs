//! What is read of an adapter's file, on its way to arrays.

use crate::error::Result;
use crate::load::{self, ExpertModule, ModuleShape, Order, Slot, Tensor};
use crate::mlx::{ops, Array, HostBuffer};
use crate::model::adapter::Part;
use crate::model::modules::{Kind, Module};

pub(super) struct ReadTensor {
    pub slot: Slot,
    pub buffer: HostBuffer,
}

impl ReadTensor {
    fn into_array(self) -> Result<Array> {
        self.buffer.into_array(&self.slot.shape, self.slot.dtype)
    }
}

/// Bytes in MLX's memory, not yet arrays, and how A and B are stored.
pub(super) enum ReadPart {
    Low {
        a: (ReadTensor, Order),
        b: (ReadTensor, Order),
        scale: f32,
        magnitude: Option<ReadTensor>,
    },
    Full {
        weight: Option<ReadTensor>,
        bias: Option<ReadTensor>,
        copy: bool,
    },
}

impl ReadPart {
    /// Bytes of what is put in another order.
    pub fn turned(&self) -> u64 {
        let of = |(tensor, order): &(ReadTensor, Order)| match order {
            Order::Plain => 0,
            Order::Transposed | Order::ExpertsLast => tensor.slot.bytes,
        };
        match self {
            ReadPart::Low { a, b, .. } => of(a).saturating_add(of(b)),
            ReadPart::Full { .. } => 0,
        }
    }

    pub fn into_part(self, tied: bool) -> Result<Part> {
        let plain = |(tensor, order): (ReadTensor, Order), is_b: bool| -> Result<Array> {
            let array = tensor.into_array()?;
            match order.axes(array.shape().len(), is_b) {
                Some(axes) => ops::contiguous(&ops::transpose(&array, axes)?),
                None => Ok(array),
            }
        };
        let whole = |tensor: Option<ReadTensor>| tensor.map(ReadTensor::into_array).transpose();
        Ok(match self {
            ReadPart::Low {
                a,
                b,
                scale,
                magnitude,
            } => Part::Low {
                a: plain(a, false)?,
                b: plain(b, true)?,
                scale,
                magnitude: whole(magnitude)?,
                tied,
            },
            ReadPart::Full { weight, bias, copy } => Part::Full {
                weight: whole(weight)?,
                bias: whole(bias)?,
                tied,
                copy,
            },
        })
    }
}

pub(super) fn whole(tensor: &Option<Tensor>) -> Option<Slot> {
    tensor.as_ref().map(Slot::whole)
}

pub(super) fn slots_of(entry: &load::Entry) -> Vec<Slot> {
    let slots = match &entry.part {
        load::Part::Low(low) => {
            let (a, b) = (low.a.clone(), low.b.clone());
            [Some(a), Some(b), whole(&low.magnitude)]
        }
        load::Part::Full(full) => [whole(&full.weight), whole(&full.bias), None],
    };
    slots.into_iter().flatten().collect()
}

pub(super) fn expert_module(module: &Module) -> Option<ExpertModule> {
    match (module.kind, module.shape) {
        (
            Kind::Experts(place),
            ModuleShape::Experts {
                experts,
                input,
                output,
                ..
            },
        ) => Some(ExpertModule {
            path: module.name.clone(),
            experts,
            input,
            output,
            place,
        }),
        _ => None,
    }
}
