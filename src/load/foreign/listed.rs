//! Small tensors that say how others are to be read: they are compared with what is read here before anything is.

use std::os::unix::fs::FileExt;

use super::super::folder::cannot_read;
use super::super::weights::{Catalog, Tensor};
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::words::quoted;

/// Whole numbers that must be these.
#[derive(Clone, Debug)]
pub enum Listed {
    /// The group of each input: input / size, of so many groups.
    Groups { size: i64, groups: i64 },
    /// Rows and inputs, of each matrix.
    Shape([i64; 2]),
    /// Zeros, of any float type: a bias that a model does not have, which old versions of AutoGPTQ write.
    Zeros,
}

/// More bytes are no list of inputs.
const MOST: u64 = 16 << 20;

impl Listed {
    /// Reads `tensor` and compares it.
    ///
    /// # Errors
    /// UNSUPPORTED where inputs are in another order, BAD_MODEL where it says what cannot be, IO.
    pub fn check(&self, catalog: &Catalog, tensor: &Tensor) -> Result<()> {
        let name = quoted(&tensor.name, 160);
        let wrong = |why: String| Error::bad_model(format!("tensor {name} {why}"));
        let size = usize::try_from(tensor.bytes).ok();
        let size = size.filter(|_| tensor.bytes <= MOST);
        let size = size.ok_or_else(|| wrong("is too large for what it says".into()))?;
        let file = catalog.files.get(tensor.file);
        let file = file.ok_or_else(|| Error::internal("a tensor without a file"))?;
        let mut bytes = crate::room::zeros(size, &file.name)?;
        file.file
            .read_exact_at(&mut bytes, tensor.offset)
            .map_err(|error| cannot_read(&file.name, &error))?;
        if let Listed::Zeros = self {
            let size = usize::try_from(tensor.dtype.size()).unwrap_or(1).max(1);
            // But for the sign, which is the highest bit of the last byte.
            let is_zero = |number: &[u8]| match number.split_last() {
                Some((last, rest)) => last & 0x7f == 0 && rest.iter().all(|&byte| byte == 0),
                None => true,
            };
            return match tensor.dtype.is_float() && bytes.chunks_exact(size).all(is_zero) {
                true => Ok(()),
                false => Err(wrong(
                    "is not of zeros, and config.json implies that there is none".into(),
                )),
            };
        }
        let numbers: Vec<i64> = match tensor.dtype {
            Dtype::I64 => bytes
                .chunks_exact(8)
                .filter_map(|eight| eight.first_chunk().copied().map(i64::from_le_bytes))
                .collect(),
            Dtype::I32 => bytes
                .chunks_exact(4)
                .filter_map(|four| four.first_chunk().copied().map(i32::from_le_bytes))
                .map(i64::from)
                .collect(),
            _ => {
                return Err(wrong(format!(
                    "is of type {}; it must be I32 or I64",
                    tensor.dtype.name()
                )))
            }
        };
        match self {
            Listed::Zeros => Ok(()),
            Listed::Groups { size, groups } => {
                let own = |input: usize| i64::try_from(input).ok()?.checked_div(*size);
                let mut moved = None;
                for (input, &group) in numbers.iter().enumerate() {
                    if !(0..*groups).contains(&group) {
                        return Err(wrong(format!(
                            "puts input {input} into group {group}, and there are {groups}"
                        )));
                    }
                    if own(input) != Some(group) {
                        moved.get_or_insert(input);
                    }
                }
                match moved {
                    None => Ok(()),
                    Some(input) => Err(Error::unsupported(format!(
                        "tensor {name} has inputs in an order of their own (act-order), which is not supported: the first is \
                         input {input}"
                    ))),
                }
            }
            Listed::Shape(shape) => match numbers.chunks(2).find(|said| said != shape) {
                None => Ok(()),
                Some(said) => Err(wrong(format!(
                    "says that the weight is {said:?}, and config.json implies {shape:?}"
                ))),
            },
        }
    }
}
