//! A decoder's step on NVIDIA GPUs as a CUDA graph of our own, beside MLX's: the host queues one graph for a token instead of some
//! hundred operations, and products of one to eight rows read weights about as fast as the memory gives them.
//!
//! MLX owns the memory, prefills, draws and computes what the kernels do not know; [`Step`] is everything between the tokens and
//! their logits. Both work on the same CUDA stream, MLX's own, so neither waits for the other and no order is lost. The driver and the
//! compiler are found while the library runs: nothing is linked, and where they are not there [`Step::new`] gives none.

mod compiler;
mod draw;
mod driver;
mod lows;
mod maker;
mod memory;
mod step;

pub use draw::{draw, prepare, settle_draws, stop, Drawn};
pub use lows::Lows;
#[cfg(test)]
pub use step::LEFT_OUT;
pub use step::{Best, Model, Ready, Step, Stepped, MAX_ROWS};
