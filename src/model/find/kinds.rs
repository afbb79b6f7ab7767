//! The types that tensors may have.

use crate::dtype::Dtype;
use crate::error::Error;
use crate::load::Slot;

/// Types that a tensor may have.
#[derive(Clone, Copy)]
pub(super) enum Kinds {
    Float,
    Words,
    Bytes,
    Scales,
}

impl Kinds {
    pub fn hold(self, dtype: Dtype) -> bool {
        match self {
            Kinds::Float => dtype.is_float(),
            Kinds::Words => dtype == Dtype::U32,
            Kinds::Bytes => dtype == Dtype::U8,
            Kinds::Scales => dtype.is_float() || dtype == Dtype::U8,
        }
    }

    pub fn words(self) -> &'static str {
        match self {
            Kinds::Float => "F32, F16 or BF16",
            Kinds::Words => "U32",
            Kinds::Bytes => "U8",
            Kinds::Scales => "F32, F16, BF16 or U8",
        }
    }
}

pub(super) fn other_type(slot: &Slot, kinds: Kinds) -> Error {
    Error::bad_model(format!(
        "tensor \"{}\" is of type {}; it must be {}",
        slot.name,
        slot.kind(),
        kinds.words()
    ))
}
