//! Weights as other programs pack them: how MLX's tensors are made of theirs, matrix by matrix, while they are read.
//!
//! Shapes were compared when the headers were read; what the bytes say is not trusted, and cannot lead out of them.

mod floats;
mod listed;

use std::ops::Range;

use super::slot::{Pick, Piece, Slot};
use super::weights::Tensor;
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use floats::{e2m1, put, put_half};
pub use floats::{Float8, Number};
pub use listed::Listed;

/// How a matrix, or each of several stacked ones, is made of others.
#[derive(Clone, Debug)]
pub struct Recipe {
    pub make: Make,
    /// Pieces of the files that one matrix is made of, in the order of `make`.
    pub sources: usize,
    /// Of one matrix.
    pub rows: usize,
    pub columns: usize,
    /// Of what is made.
    pub dtype: Dtype,
    /// What is taken of a matrix that is made, by places in it; empty: all.
    pub picks: Vec<Piece>,
}

#[derive(Clone, Copy, Debug)]
pub enum Make {
    /// AWQ's 4 bits `[columns * 8, rows / 8]`, the rows of a word in an order of their own → words `[rows, columns]`.
    FromAwq,
    /// Words `[columns, rows]` → `[rows, columns]`.
    Transposed,
    /// Bytes with a sign → bytes that are 128 more, as words.
    Unsigned,
    /// Scales → `[rows, columns]`.
    Scales(Grid),
    /// Scales, and zeros where there are some → `-zero * scale`.
    Biases(Grid, Zeros),
    /// 8-bit floats `[rows, columns]`, and scales → their products.
    Float8(Blocks),
    /// 4-bit floats, two in a byte, a scale for each 16, and a scale of scales → their products. `divided`: by the last.
    Nvfp4 { divided: bool },
}

/// Scales, and how they lie.
#[derive(Clone, Copy, Debug)]
pub struct Grid {
    pub number: Number,
    /// `[groups, rows]`
    pub transposed: bool,
    /// Columns that have one of them.
    pub repeat: usize,
}

/// The values that are zero, whole numbers without a sign.
#[derive(Clone, Copy, Debug)]
pub enum Zeros {
    /// 4 bits `[groups, rows / 8]`, in AWQ's order.
    Awq,
    /// `[groups, rows * bits / 32]`; `more`: what is stored is so much less.
    Across { bits: u32, more: u32 },
    /// `[rows * bits / 32, groups]`
    Down { bits: u32 },
    /// The middle of so many bits, everywhere.
    Middle { bits: u32 },
}

/// So many rows and columns have one scale.
#[derive(Clone, Copy, Debug)]
pub struct Blocks {
    pub number: Number,
    pub rows: usize,
    pub columns: usize,
}

/// Where AWQ has row 0, 1, … of eight in a word.
const AWQ_ORDER: [u32; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

impl Slot {
    /// What is made of `sources`, each of `count` matrices; `shape`: of what is made.
    ///
    /// # Errors
    /// BAD_MODEL where a source does not consist of so many.
    pub fn made(
        name: String,
        shape: Vec<i32>,
        count: usize,
        sources: &[&Slot],
        recipe: Recipe,
    ) -> Result<Slot> {
        let of_each: Option<Vec<Vec<Piece>>> =
            sources.iter().map(|slot| slot.matrices(count)).collect();
        let of_each = of_each
            .ok_or_else(|| Error::bad_model(format!("\"{name}\" is not of whole matrices")))?;
        let pieces = (0..count).flat_map(|matrix| {
            let of_matrix = of_each.iter().map(move |pieces| pieces.get(matrix));
            of_matrix.flatten().cloned()
        });
        let bytes = shape.iter().try_fold(recipe.dtype.size(), |all, &n| {
            all.checked_mul(i64::from(n)).filter(|&all| all > 0)
        });
        let bytes = bytes.and_then(|bytes| u64::try_from(bytes).ok());
        Ok(Slot {
            bytes: bytes.ok_or_else(|| Error::bad_model(format!("\"{name}\" is too large")))?,
            pieces: pieces.collect(),
            dtype: recipe.dtype,
            float8: None,
            recipe: Some(Box::new(recipe)),
            shape,
            name,
        })
    }

    /// Of a matrix `[heads * each, columns]` that is made, some of each head's rows, as `of_heads`. None where it is not made, or
    /// there are not so many.
    pub fn made_of_heads(
        self,
        name: String,
        (heads, each): (i32, i32),
        rows: Range<i32>,
        turned: bool,
    ) -> Option<Slot> {
        let made = Tensor {
            name: self.name,
            dtype: self.dtype,
            shape: self.shape,
            file: 0,
            offset: 0,
            bytes: self.bytes,
            float8: None,
        };
        let picked = Slot::of_heads(name, &made, (heads, each), rows, turned)?;
        let mut recipe = self.recipe?;
        recipe.picks = picked.pieces;
        Some(Slot {
            pieces: self.pieces,
            recipe: Some(recipe),
            ..picked
        })
    }

    /// A piece for each of its matrices.
    fn matrices(&self, count: usize) -> Option<Vec<Piece>> {
        match self.pieces.as_slice() {
            pieces if pieces.len() == count => Some(pieces.to_vec()),
            [whole] if matches!(whole.pick, Pick::All) => {
                let count = u64::try_from(count).ok()?;
                let extent = whole.extent();
                if extent.checked_rem(count)? != 0 {
                    return None;
                }
                let row = extent.checked_div(count)?;
                let pieces = (0..count).map(|matrix| {
                    let before = matrix.checked_mul(row)?;
                    Some(Piece {
                        offset: whole.offset.checked_add(before)?,
                        row,
                        rows: 1,
                        ..whole.clone()
                    })
                });
                pieces.collect()
            }
            _ => None,
        }
    }
}

impl Recipe {
    /// Bytes of a matrix that is made.
    pub fn bytes(&self) -> usize {
        let size = usize::try_from(self.dtype.size()).unwrap_or(usize::MAX);
        self.rows.saturating_mul(self.columns).saturating_mul(size)
    }

    /// One matrix. `sources`: their bytes. `made`: `bytes` of them.
    pub fn run(&self, sources: &[Vec<u8>], made: &mut [u8]) {
        let source = |n: usize| sources.get(n).map_or(&[] as &[u8], Vec::as_slice);
        let first = source(0);
        match self.make {
            Make::FromAwq => self.awq(first, made),
            Make::Transposed => self.each(made, |row, column| {
                word(first, self.at(column, row)).to_le_bytes()
            }),
            Make::Unsigned => {
                for (to, from) in made.iter_mut().zip(first) {
                    *to = from ^ 0x80;
                }
            }
            Make::Scales(grid) => {
                self.numbers(made, |row, column| self.scale(grid, first, row, column));
            }
            Make::Biases(grid, zeros) => {
                let packed = source(1);
                self.numbers(made, |row, column| {
                    let scale = self.scale(grid, first, row, column);
                    -(self.zero((zeros, grid), packed, row, column) * scale)
                });
            }
            Make::Float8(blocks) => self.float8(blocks, first, source(1), made),
            Make::Nvfp4 { divided } => self.nvfp4(divided, [first, source(1), source(2)], made),
        }
    }

    /// Element by element, each of as many bytes as `make` gives.
    fn each<const N: usize>(&self, made: &mut [u8], make: impl Fn(usize, usize) -> [u8; N]) {
        let row_bytes = self.columns.saturating_mul(N).max(1);
        for (row, out) in made.chunks_exact_mut(row_bytes).enumerate() {
            for (column, to) in out.chunks_exact_mut(N).enumerate() {
                to.copy_from_slice(&make(row, column));
            }
        }
    }

    fn numbers(&self, made: &mut [u8], make: impl Fn(usize, usize) -> f32) {
        match self.dtype {
            Dtype::F32 => self.each(made, |row, column| make(row, column).to_le_bytes()),
            dtype => self.each(made, |row, column| put_half(dtype, make(row, column))),
        }
    }

    /// Where element `(major, minor)` of a tensor is whose minor dimension is the rows of what is made.
    fn at(&self, major: usize, minor: usize) -> usize {
        major.saturating_mul(self.rows).saturating_add(minor)
    }

    /// Eight rows at once: each word of the source has one column of them.
    fn awq(&self, from: &[u8], made: &mut [u8]) {
        let row_bytes = self.columns.saturating_mul(4).max(1);
        let width = self.rows / 8;
        for (block, out) in made
            .chunks_exact_mut(row_bytes.saturating_mul(8))
            .enumerate()
        {
            for column in 0..self.columns {
                let first = column.saturating_mul(8);
                let words: [u32; 8] = std::array::from_fn(|n| {
                    let input = first.saturating_add(n);
                    word(from, input.saturating_mul(width).saturating_add(block))
                });
                for (row, place) in out.chunks_exact_mut(row_bytes).zip(AWQ_ORDER) {
                    let value = words.iter().rev().fold(0u32, |value, word| {
                        (value << 4) | (word >> place.wrapping_mul(4) & 15)
                    });
                    if let Some(to) = row.chunks_exact_mut(4).nth(column) {
                        to.copy_from_slice(&value.to_le_bytes());
                    }
                }
            }
        }
    }

    fn scale(&self, grid: Grid, scales: &[u8], row: usize, column: usize) -> f32 {
        let (group, groups) = self.group(grid, column);
        let at = match grid.transposed {
            true => self.at(group, row),
            false => row.saturating_mul(groups).saturating_add(group),
        };
        grid.number.of(scales, at)
    }

    /// Which group a column belongs to, of how many.
    fn group(&self, grid: Grid, column: usize) -> (usize, usize) {
        let of = |n: usize| n.checked_div(grid.repeat).unwrap_or(0);
        (of(column), of(self.columns))
    }

    fn zero(&self, (zeros, grid): (Zeros, Grid), packed: &[u8], row: usize, column: usize) -> f32 {
        let (group, groups) = self.group(grid, column);
        let mask = |bits: u32| 1u32.wrapping_shl(bits).wrapping_sub(1);
        // The word of a row, and where in it, where so many bits of each row lie one behind the other.
        let place = |bits: u32| {
            let per_word = usize::try_from(32u32.checked_div(bits).unwrap_or(1)).unwrap_or(1);
            let word = row.checked_div(per_word).unwrap_or(0);
            let within = row.checked_rem(per_word).unwrap_or(0);
            let within = u32::try_from(within).unwrap_or(0);
            (word, within, self.rows.checked_div(per_word).unwrap_or(0))
        };
        let bits_of = |word: u32, within: u32, bits: u32| {
            word.wrapping_shr(within.wrapping_mul(bits)) & mask(bits)
        };
        let zero = match zeros {
            Zeros::Middle { bits } => 1u32.wrapping_shl(bits.wrapping_sub(1)),
            Zeros::Awq => {
                let (at, within, width) = place(4);
                let order = AWQ_ORDER.get(usize::try_from(within).unwrap_or(0));
                let at = group.saturating_mul(width).saturating_add(at);
                bits_of(word(packed, at), order.copied().unwrap_or(0), 4)
            }
            Zeros::Across { bits, more } => {
                let (at, within, width) = place(bits);
                let at = group.saturating_mul(width).saturating_add(at);
                bits_of(word(packed, at), within, bits).wrapping_add(more)
            }
            Zeros::Down { bits } => {
                let (at, within, _) = place(bits);
                let at = at.saturating_mul(groups).saturating_add(group);
                bits_of(word(packed, at), within, bits)
            }
        };
        // At most 256.
        zero as f32
    }

    fn float8(&self, blocks: Blocks, bytes: &[u8], scales: &[u8], made: &mut [u8]) {
        let table = Float8::E4m3.table();
        let of = |byte: u8| table.get(usize::from(byte)).copied().unwrap_or(0.0);
        let size = usize::try_from(self.dtype.size()).unwrap_or(1);
        let (wide, columns) = (blocks.columns.max(1), self.columns.max(1));
        let across = columns.div_ceil(wide);
        let out = made.chunks_exact_mut(columns.saturating_mul(size));
        for (row, (out, bytes)) in out.zip(bytes.chunks_exact(columns)).enumerate() {
            let down = row.checked_div(blocks.rows).unwrap_or(0);
            let parts = out.chunks_mut(wide.saturating_mul(size));
            for (block, (out, bytes)) in parts.zip(bytes.chunks(wide)).enumerate() {
                let at = down.saturating_mul(across).saturating_add(block);
                let scale = blocks.number.of(scales, at);
                put(out, self.dtype, bytes.iter().map(|&byte| of(byte) * scale));
            }
        }
    }

    fn nvfp4(&self, divided: bool, [packed, scales, global]: [&[u8]; 3], made: &mut [u8]) {
        let global = Number::Float(Dtype::F32).of(global, 0);
        let table = Float8::E4m3.table();
        let size = usize::try_from(self.dtype.size()).unwrap_or(1);
        // Sixteen of a row lie in eight bytes, and rows are whole sixteens.
        let groups = made.chunks_exact_mut(size.saturating_mul(16));
        for ((out, bytes), &scale) in groups.zip(packed.chunks_exact(8)).zip(scales) {
            let scale = table.get(usize::from(scale)).copied().unwrap_or(0.0);
            let scale = match divided {
                true => scale / global,
                false => scale * global,
            };
            let values = bytes.iter().flat_map(|byte| [byte & 15, byte >> 4]);
            put(out, self.dtype, values.map(|value| e2m1(value) * scale));
        }
    }
}

/// One of the words that lie there; zero behind the end, which shapes rule out.
fn word(bytes: &[u8], index: usize) -> u32 {
    let at = bytes.get(index.saturating_mul(4)..);
    at.and_then(|rest| rest.first_chunk())
        .map_or(0, |word| u32::from_le_bytes(*word))
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
