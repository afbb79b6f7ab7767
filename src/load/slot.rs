//! A tensor of the model, and where its bytes lie: one tensor of the files, several of them one after the other, or some of
//! one's rows.

use super::weights::Tensor;
use crate::dtype::Dtype;
use crate::error::{Error, Result};

/// What is read into one array.
#[derive(Clone, Debug)]
pub struct Slot {
    /// As a saved model has it.
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<i32>,
    pub bytes: u64,
    pub pieces: Vec<Piece>,
}

/// Rows of a file's tensor, every `step`-th of them.
#[derive(Clone, Debug)]
pub struct Piece {
    /// Which of [`Catalog::files`](super::Catalog::files).
    pub file: usize,
    /// Of the first row, in bytes from the start of the file.
    pub offset: u64,
    /// Bytes of a row.
    pub row: u64,
    pub rows: u64,
    pub step: u64,
}

impl Piece {
    /// Bytes that it gives.
    pub fn bytes(&self) -> u64 {
        self.row.saturating_mul(self.rows)
    }

    /// Bytes of the file from its first row to the end of its last.
    pub fn extent(&self) -> u64 {
        let before = self.rows.saturating_sub(1).saturating_mul(self.step);
        before.saturating_add(1).saturating_mul(self.row)
    }
}

impl Slot {
    pub fn whole(tensor: &Tensor) -> Slot {
        Slot {
            name: tensor.name.clone(),
            dtype: tensor.dtype,
            shape: tensor.shape.clone(),
            bytes: tensor.bytes,
            pieces: vec![Piece {
                file: tensor.file,
                offset: tensor.offset,
                row: tensor.bytes,
                rows: 1,
                step: 1,
            }],
        }
    }

    /// Tensors of one type and shape as one, with a dimension more in front.
    ///
    /// # Errors
    /// BAD_MODEL naming the first that differs.
    pub fn stacked(name: String, tensors: &[&Tensor]) -> Result<Slot> {
        let Some(first) = tensors.first() else {
            return Err(Error::internal("nothing to stack"));
        };
        let differs =
            |tensor: &&&Tensor| (tensor.dtype, &tensor.shape) != (first.dtype, &first.shape);
        if let Some(other) = tensors.iter().find(differs) {
            return Err(Error::bad_model(format!(
                "tensor \"{}\" is {} {:?}, and \"{}\" is {} {:?}",
                other.name,
                other.dtype.name(),
                other.shape,
                first.name,
                first.dtype.name(),
                first.shape
            )));
        }
        let count = i32::try_from(tensors.len()).map_err(|_| too_large(&name))?;
        let wholes = tensors.iter().flat_map(|tensor| Slot::whole(tensor).pieces);
        let count_bytes = first.bytes.checked_mul(u64::from(count.unsigned_abs()));
        Ok(Slot {
            dtype: first.dtype,
            shape: [&[count], first.shape.as_slice()].concat(),
            bytes: count_bytes.ok_or_else(|| too_large(&name))?,
            pieces: wholes.collect(),
            name,
        })
    }

    /// Of a tensor `[count, rows, …]` in each of the first dimension the rows `first`, `first + step`, …: `taken` of them.
    ///
    /// # Errors
    /// BAD_MODEL where there are not so many.
    pub fn rows(name: String, tensor: &Tensor, [first, step, taken]: [i32; 3]) -> Result<Slot> {
        let wrong = || {
            Error::bad_model(format!(
                "tensor \"{}\" has the shape {:?}, and config.json implies other experts",
                tensor.name, tensor.shape
            ))
        };
        let [count, rows, rest @ ..] = tensor.shape.as_slice() else {
            return Err(wrong());
        };
        let size = |n: i32| u64::try_from(n).map_err(|_| wrong());
        let (count, rows) = (size(*count)?, size(*rows)?);
        let (first_row, step_rows, taken_rows) = (size(first)?, size(step)?, size(taken)?);
        let all = count.checked_mul(rows).filter(|&all| all > 0);
        let row = all
            .and_then(|all| tensor.bytes.checked_div(all))
            .ok_or_else(wrong)?;
        let last = taken_rows
            .checked_sub(1)
            .and_then(|last| last.checked_mul(step_rows)?.checked_add(first_row))
            .ok_or_else(wrong)?;
        if last >= rows {
            return Err(wrong());
        }
        let pieces = (0..count).map(|expert| {
            let before = expert
                .checked_mul(rows)?
                .checked_add(first_row)?
                .checked_mul(row)?;
            Some(Piece {
                file: tensor.file,
                offset: tensor.offset.checked_add(before)?,
                row,
                rows: taken_rows,
                step: step_rows,
            })
        });
        let pieces: Option<Vec<Piece>> = pieces.collect();
        let pieces = pieces.ok_or_else(wrong)?;
        let mut shape = tensor.shape.clone();
        if let Some(rows) = shape.get_mut(1) {
            *rows = taken;
        }
        debug_assert_eq!(shape.len(), rest.len().saturating_add(2));
        Ok(Slot {
            name,
            dtype: tensor.dtype,
            bytes: pieces.iter().map(Piece::bytes).fold(0, u64::saturating_add),
            shape,
            pieces,
        })
    }

    /// Its bytes as 32-bit words: U8 `[…, a, b]` as U32 `[…, a * b / 4]`. None where they are no bytes, or no whole words.
    pub fn as_words(mut self) -> Option<Slot> {
        let (b, a) = (self.shape.pop()?, self.shape.pop()?);
        let bytes = a.checked_mul(b)?;
        if self.dtype != Dtype::U8 || bytes.checked_rem(4) != Some(0) {
            return None;
        }
        self.shape.push(bytes.checked_div(4)?);
        self.dtype = Dtype::U32;
        Some(self)
    }
}

fn too_large(name: &str) -> Error {
    Error::bad_model(format!("tensor \"{name}\" is too large"))
}
