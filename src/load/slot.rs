//! A tensor of the model, and where its bytes lie: one tensor of the files, several of them one after the other, or some of
//! one's rows.

use std::ops::Range;

use super::foreign::{Float8, Recipe};
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
    /// What its bytes are, where they are 8-bit floats.
    pub float8: Option<Float8>,
    /// How it is made of its pieces; None where it is these.
    pub recipe: Option<Box<Recipe>>,
}

/// A part of a file, as rows, and what is taken of it.
#[derive(Clone, Debug)]
pub struct Piece {
    /// Which of [`Catalog::files`](super::Catalog::files).
    pub file: usize,
    /// In bytes from the start of the file.
    pub offset: u64,
    /// Bytes of a row.
    pub row: u64,
    pub rows: u64,
    pub pick: Pick,
}

#[derive(Clone, Copy, Debug)]
pub enum Pick {
    All,
    Rows(Every),
    /// Columns of elements of so many bytes, each as a row.
    Columns(Every, u64),
}

/// `taken` of them: `first`, `first + step`, …
#[derive(Clone, Copy, Debug)]
pub struct Every {
    pub first: u64,
    pub step: u64,
    pub taken: u64,
}

impl Every {
    pub fn new(first: i32, step: i32, taken: i32) -> Every {
        let [first, step, taken] = [first, step, taken].map(|n| u64::try_from(n).unwrap_or(0));
        Every { first, step, taken }
    }

    fn is_within(self, count: u64) -> bool {
        let last = self.taken.checked_sub(1);
        let last = last.and_then(|last| last.checked_mul(self.step)?.checked_add(self.first));
        last.is_some_and(|last| last < count)
    }
}

impl Piece {
    /// Bytes of the file that it looks at.
    pub fn extent(&self) -> u64 {
        self.row.saturating_mul(self.rows)
    }

    /// Bytes that it gives.
    pub fn bytes(&self) -> u64 {
        match self.pick {
            Pick::All => self.extent(),
            Pick::Rows(every) => self.row.saturating_mul(every.taken),
            Pick::Columns(every, element) => {
                let column = element.saturating_mul(self.rows);
                column.saturating_mul(every.taken)
            }
        }
    }

    /// What is taken of its extent's bytes, piece by piece.
    pub fn picked<'a>(&self, extent: &'a [u8]) -> Box<dyn Iterator<Item = &'a [u8]> + 'a> {
        let size = |n: u64| usize::try_from(n).unwrap_or(usize::MAX).max(1);
        let row = size(self.row);
        let of = |every: Every| (size(every.step), usize::try_from(every.taken).unwrap_or(0));
        let skipped = |every: Every| usize::try_from(every.first).unwrap_or(usize::MAX);
        match self.pick {
            Pick::All => Box::new(std::iter::once(extent)),
            Pick::Rows(every) => {
                let (step, taken) = of(every);
                let rows = extent.chunks_exact(row).skip(skipped(every));
                Box::new(rows.step_by(step).take(taken))
            }
            Pick::Columns(every, element) => {
                let ((step, taken), element) = (of(every), size(element));
                let columns = (skipped(every)..).step_by(step).take(taken);
                Box::new(columns.flat_map(move |column| {
                    let rows = extent.chunks_exact(row);
                    rows.filter_map(move |row| row.chunks_exact(element).nth(column))
                }))
            }
        }
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
                pick: Pick::All,
            }],
            float8: tensor.float8,
            recipe: None,
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
            |tensor: &&&Tensor| (tensor.kind(), &tensor.shape) != (first.kind(), &first.shape);
        if let Some(other) = tensors.iter().find(differs) {
            return Err(Error::bad_model(format!(
                "tensor \"{}\" is {} {:?}, and \"{}\" is {} {:?}",
                other.name,
                other.kind(),
                other.shape,
                first.name,
                first.kind(),
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
            float8: first.float8,
            recipe: None,
            name,
        })
    }

    /// Of a tensor `[count, rows, …]` some rows of each → `[count, taken, …]`.
    ///
    /// # Errors
    /// BAD_MODEL where there are not so many.
    pub fn rows(name: String, tensor: &Tensor, every: Every) -> Result<Slot> {
        let [_, rows, ..] = tensor.shape.as_slice() else {
            return Err(other_shape(tensor));
        };
        let rows = u64::try_from(*rows).unwrap_or(0);
        Slot::picked(name, tensor, (rows, every, Pick::Rows(every)), |shape| {
            if let Some(rows) = shape.get_mut(1) {
                *rows = i32::try_from(every.taken).unwrap_or(0);
            }
        })
    }

    /// Of a tensor `[count, rows, columns]` some columns of each → `[count, taken, rows]`.
    ///
    /// # Errors
    /// As for `rows`.
    pub fn columns(name: String, tensor: &Tensor, every: Every) -> Result<Slot> {
        let [_, _, columns] = *tensor.shape.as_slice() else {
            return Err(other_shape(tensor));
        };
        let columns = u64::try_from(columns).unwrap_or(0);
        let element = u64::try_from(tensor.dtype.size()).unwrap_or(0);
        let pick = Pick::Columns(every, element);
        Slot::picked(name, tensor, (columns, every, pick), |shape| {
            if let [_, rows, columns] = shape {
                *columns = *rows;
                *rows = i32::try_from(every.taken).unwrap_or(0);
            }
        })
    }

    /// Of a tensor `[heads * each, columns]` some of each head's rows → `[heads, rows, columns]`, or turned `[heads, columns,
    /// rows]`. None where there are not so many.
    pub fn of_heads(
        name: String,
        tensor: &Tensor,
        (heads, each): (i32, i32),
        rows: Range<i32>,
        turned: bool,
    ) -> Option<Slot> {
        let [all, columns] = *tensor.shape.as_slice() else {
            return None;
        };
        let count = rows
            .end
            .checked_sub(rows.start)
            .filter(|&count| count > 0)?;
        if heads.checked_mul(each)? != all || rows.start < 0 || rows.end > each {
            return None;
        }
        let size = |n: i32| u64::try_from(n).ok();
        let row = tensor.bytes.checked_div(size(all)?)?;
        let element = size(columns).filter(|&columns| columns > 0)?;
        let element = row.checked_div(element)?;
        let pieces = (0..size(heads)?).map(|head| {
            let before = head
                .checked_mul(size(each)?)?
                .checked_add(size(rows.start)?)?;
            Some(Piece {
                file: tensor.file,
                offset: tensor.offset.checked_add(before.checked_mul(row)?)?,
                row,
                rows: size(count)?,
                pick: match turned {
                    true => Pick::Columns(Every::new(0, 1, columns), element),
                    false => Pick::All,
                },
            })
        });
        let pieces: Vec<Piece> = pieces.collect::<Option<_>>()?;
        Some(Slot {
            name,
            dtype: tensor.dtype,
            shape: match turned {
                true => vec![heads, columns, count],
                false => vec![heads, count, columns],
            },
            bytes: pieces.iter().map(Piece::bytes).fold(0, u64::saturating_add),
            pieces,
            float8: tensor.float8,
            recipe: None,
        })
    }

    /// `within`: how many there are to take from.
    fn picked(
        name: String,
        tensor: &Tensor,
        (within, every, pick): (u64, Every, Pick),
        reshape: impl FnOnce(&mut [i32]),
    ) -> Result<Slot> {
        let wrong = || other_shape(tensor);
        let [count, rows, ..] = tensor.shape.as_slice() else {
            return Err(wrong());
        };
        let size = |n: i32| u64::try_from(n).map_err(|_| wrong());
        let (count, rows) = (size(*count)?, size(*rows)?);
        let all = count.checked_mul(rows).filter(|&all| all > 0);
        let row = all.and_then(|all| tensor.bytes.checked_div(all));
        let row = row.filter(|_| every.is_within(within)).ok_or_else(wrong)?;
        let pieces = (0..count).map(|index| {
            let before = index.checked_mul(rows)?.checked_mul(row)?;
            Some(Piece {
                file: tensor.file,
                offset: tensor.offset.checked_add(before)?,
                row,
                rows,
                pick,
            })
        });
        let pieces: Option<Vec<Piece>> = pieces.collect();
        let pieces = pieces.ok_or_else(wrong)?;
        let mut shape = tensor.shape.clone();
        reshape(&mut shape);
        Ok(Slot {
            name,
            dtype: tensor.dtype,
            bytes: pieces.iter().map(Piece::bytes).fold(0, u64::saturating_add),
            shape,
            pieces,
            float8: tensor.float8,
            recipe: None,
        })
    }

    /// The name of its type, as files have it.
    pub fn kind(&self) -> &'static str {
        self.float8.map_or(self.dtype.name(), Float8::name)
    }

    /// Its bytes as 32-bit words: U8 `[…, a, b]` as U32 `[…, a * b / 4]`. None where they are no bytes, or no whole words.
    pub fn into_words(mut self) -> Option<Slot> {
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

fn other_shape(tensor: &Tensor) -> Error {
    Error::bad_model(format!(
        "tensor \"{}\" has the shape {:?}, and config.json implies other experts",
        tensor.name, tensor.shape
    ))
}

fn too_large(name: &str) -> Error {
    Error::bad_model(format!("tensor \"{name}\" is too large"))
}
