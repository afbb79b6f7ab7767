//! Every kernel on every path of this machine, against plain f64 arithmetic, within bounds derived from how it computes.

mod attention;
mod block;
mod conv;
mod dense;
mod draw;
mod experts;
mod gated;
mod gather;
mod lowrank;
mod packed_heads;
mod quantized;
mod recurrence;
mod repack;
mod rope;
mod routing;
mod rowwise;
mod simd;
pub(crate) mod support;
mod texts;
mod transposed;
