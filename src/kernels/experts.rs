//! The weights of many experts, and which rows go to which.

use super::dense;
use super::float::Floats;
use super::layout::{Layout, Packed};
use super::qmatmul::same_digits;
use crate::dtype::Mode;
use std::ops::Range;

/// A row of x by an expert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    pub row: u32,
    pub expert: u32,
}

/// The weights of several experts of one shape.
#[derive(Clone, Copy)]
pub enum ExpertMatrix<'a> {
    Packed {
        layout: Layout,
        /// Bytes from one expert to the next, at least `layout.nbytes()`.
        stride: usize,
        data: &'a [u8],
    },
    /// `[experts * outputs, inputs]`
    Dense { weights: Floats<'a>, outputs: usize },
}

impl<'a> ExpertMatrix<'a> {
    /// Experts.
    pub fn count(&self) -> usize {
        match self {
            ExpertMatrix::Packed {
                layout,
                stride,
                data,
            } => match data.len().checked_sub(layout.nbytes()) {
                Some(rest) if *stride >= layout.nbytes() => {
                    rest.checked_div(*stride).map_or(0, |n| n + 1)
                }
                _ => 0,
            },
            ExpertMatrix::Dense { weights, outputs } => {
                weights.rows().checked_div(*outputs).unwrap_or(0)
            }
        }
    }

    /// Outputs and inputs of each.
    pub fn shape(&self) -> (usize, usize) {
        match self {
            ExpertMatrix::Packed { layout, .. } => (layout.rows(), layout.inputs()),
            ExpertMatrix::Dense { weights, outputs } => (*outputs, weights.width()),
        }
    }

    /// One expert's, which exists.
    pub(super) fn one(&self, expert: usize) -> One<'a> {
        match *self {
            ExpertMatrix::Packed {
                layout,
                stride,
                data,
            } => {
                let data = &data[expert * stride..][..layout.nbytes()];
                match Packed::new(layout, data) {
                    Some(packed) => One::Packed(packed),
                    None => unreachable!("the slice is of the layout's size"),
                }
            }
            ExpertMatrix::Dense { weights, outputs } => {
                One::Dense(weights.some_rows(expert * outputs, outputs))
            }
        }
    }

    /// Whether rows are made digits for it, and are not taken as f32.
    pub(super) fn takes_digits(&self) -> Option<Layout> {
        match self {
            ExpertMatrix::Packed { layout, .. } if layout.scheme().mode != Mode::Mxfp8 => {
                Some(*layout)
            }
            _ => None,
        }
    }

    /// Whether rows are made ready for both in the same way.
    pub(super) fn takes_the_same(&self, other: &ExpertMatrix) -> bool {
        match (self, other) {
            (ExpertMatrix::Packed { layout: a, .. }, ExpertMatrix::Packed { layout: b, .. }) => {
                same_digits(a, b)
            }
            (ExpertMatrix::Dense { .. }, ExpertMatrix::Dense { .. }) => true,
            _ => false,
        }
    }

    /// Sixteen outputs each, and their bytes.
    pub(super) fn panels(&self) -> (usize, usize) {
        match self {
            ExpertMatrix::Packed { layout, .. } => (layout.panels(), layout.panel_bytes()),
            ExpertMatrix::Dense { weights, outputs } => {
                let bytes = dense::PANEL * weights.width() * weights.dtype().size() as usize;
                (outputs.div_ceil(dense::PANEL), bytes)
            }
        }
    }
}

#[derive(Clone, Copy)]
pub(super) enum One<'a> {
    Packed(Packed<'a>),
    Dense(Floats<'a>),
}

/// Rows of a result by the expert that makes them.
pub(super) struct ByExpert {
    /// Rows of the result; those of one expert follow each other, in their own order.
    pub order: Vec<u32>,
    /// Experts that have rows, with their part of `order`.
    pub segments: Vec<(usize, Range<usize>)>,
}

impl ByExpert {
    /// `experts[i]` makes row i; all are below `count`.
    pub fn new(experts: impl ExactSizeIterator<Item = u32> + Clone, count: usize) -> ByExpert {
        let mut ends = vec![0_usize; count + 1];
        for expert in experts.clone() {
            ends[expert as usize + 1] += 1;
        }
        let mut segments = Vec::with_capacity(count.min(experts.len()));
        for expert in 0..count {
            let (start, rows) = (ends[expert], ends[expert + 1]);
            ends[expert + 1] += start;
            if rows > 0 {
                segments.push((expert, start..start + rows));
            }
        }
        let mut order = vec![0; experts.len()];
        for (row, expert) in experts.enumerate() {
            let next = &mut ends[expert as usize];
            order[*next] = row as u32;
            *next += 1;
        }
        ByExpert { order, segments }
    }
}
