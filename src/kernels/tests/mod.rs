//! Every kernel on every path of this machine, against plain f64 arithmetic, within bounds derived from how it computes.

mod attention;
mod dense;
mod draw;
mod gather;
mod lowrank;
mod quantized;
mod repack;
mod rope;
mod rowwise;
mod simd;
pub(in crate::kernels) mod support;
mod transposed;
