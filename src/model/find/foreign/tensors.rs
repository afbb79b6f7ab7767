//! The tensors of a matrix that another program packed, and what is wrong with them.

use super::Matrix;
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::load::{Float8, Number, Slot, Tensor};

impl Matrix<'_, '_, '_> {
    /// One of the module's tensors, which is used.
    pub fn take(&mut self, leaf: &str) -> Result<Option<Slot>> {
        let found = self.places.place(self.finder, self.path, leaf)?;
        Ok(found.map(|(slot, from)| {
            self.finder.used.extend(from);
            slot
        }))
    }

    pub fn need(&mut self, leaf: &str) -> Result<Slot> {
        let found = self.take(leaf)?;
        found.ok_or_else(|| {
            let name = format!("{}.{leaf}", self.path);
            self.finder.catalog.missing(&name)
        })
    }

    /// The files' tensors of whole numbers that say something of each matrix.
    pub fn list(&mut self, leaf: &str, shape: &[i32]) -> Result<Option<Vec<Tensor>>> {
        let found = self.places.place(self.finder, self.path, leaf)?;
        let Some((slot, from)) = found else {
            return Ok(None);
        };
        if self.own(&slot)? != shape {
            return Err(self.other_shape(&slot));
        }
        self.finder.used.extend(from.iter().cloned());
        Ok(Some(from))
    }

    /// The shape of one matrix's tensor.
    pub fn own<'s>(&self, slot: &'s Slot) -> Result<&'s [i32]> {
        let own = slot.shape.strip_prefix(self.stack);
        own.ok_or_else(|| self.other_shape(slot))
    }

    pub fn is(&self, slot: &Slot, shape: &[i32], dtype: Dtype) -> Result<()> {
        if self.own(slot)? != shape {
            return Err(self.other_shape(slot));
        }
        let same = slot.dtype == dtype || (dtype == Dtype::I32 && slot.dtype == Dtype::U32);
        match same {
            true => Ok(()),
            false => Err(self.other_type(slot, dtype.name())),
        }
    }

    pub fn float(&self, scales: &Slot) -> Result<Number> {
        match scales.dtype.is_float() {
            true => Ok(Number::Float(scales.dtype)),
            false => Err(self.other_type(scales, "F32, F16 or BF16")),
        }
    }

    /// Of scales that may be powers of two in bytes.
    pub fn number(&self, scales: &Slot) -> Result<Number> {
        match (scales.dtype, scales.float8) {
            (Dtype::U8, None | Some(Float8::E8m0)) => Ok(Number::Small(Float8::E8m0)),
            (Dtype::U8, _) => Err(self.other_type(scales, "F32, F16, BF16 or F8_E8M0")),
            _ => self.float(scales),
        }
    }

    pub fn other_type(&self, slot: &Slot, wanted: &str) -> Error {
        Error::bad_model(format!(
            "tensor \"{}\" is of type {}; it must be {wanted}",
            slot.name,
            slot.kind()
        ))
    }

    pub fn other_shape(&self, slot: &Slot) -> Error {
        let [rows, input] = [self.rows, self.input];
        Error::bad_model(format!(
            "tensor \"{}\" has the shape {:?}, which does not fit {rows} rows of {input} elements",
            slot.name, slot.shape
        ))
    }

    pub fn unknown(&self, slot: &Slot) -> Error {
        let [rows, input] = [self.rows, self.input];
        self.finder.quantization.not_read(Error::unsupported(format!(
            "tensor \"{}\" is {} {:?}, which is no packing of {rows} rows of {input} elements that is known",
            slot.name,
            slot.kind(),
            slot.shape
        )))
    }
}
