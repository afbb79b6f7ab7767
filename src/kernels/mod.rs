//! The CPU's own kernels: what a decoder needs, at the speed of memory, in Rust over raw memory.
//!
//! `Kernels` holds a path (the instruction set, chosen once) and a pool of threads; its methods are the operations. They
//! know nothing of MLX: arrays come as `Floats` (rows somewhere in memory) and `Packed` weights. Everything is computed in
//! f32, or in whole numbers that stand for 15 bits and more, and rounded once, when the result is written. No result
//! depends on the number of threads.
//!
//! A shape that does not fit is a mistake of the caller's and panics before anything is written.

#![deny(unsafe_op_in_unsafe_fn, clippy::undocumented_unsafe_blocks)]

mod activations;
#[cfg(target_arch = "x86_64")]
mod amx;
mod attention;
mod block;
pub(crate) mod codec;
mod conv;
mod cores;
mod cpu;
mod dense;
mod draw;
pub mod dtype;
mod expert_products;
mod expert_transposed;
mod experts;
mod float;
mod fp8;
mod gated;
mod heads;
mod kept;
mod layer_norm;
mod layout;
mod lowrank;
mod many;
mod math;
mod microkernel;
mod numbers;
mod packed_heads;
mod pool;
mod qmatmul;
mod recurrence;
mod repack;
mod requantize;
mod rope;
mod routing;
mod rows;
mod rows_of;
mod rowwise;
mod scratch;
mod shared;
mod simd;
mod temperature;
mod transposed;
mod widen;

pub use attention::{AttentionOptions, Texts, Visible};
pub use block::{
    Attention, AttentionSizes, Block, ExpertLinear, Experts, GateUp, Half, Linear, Matrix, Mlp,
    Moe, Norm, Part, Past, Projections, Segment, Shared,
};
pub use conv::ShortConv;
pub use cores::physical_cores;
pub use cpu::{features, Features, Path};
pub use draw::{Draw, Drawn};
pub use experts::{ExpertMatrix, Route};
pub use float::{Floats, FloatsMut};
pub use gated::Activation;
pub use heads::{HeadShape, Heads, HeadsMut};
pub use layout::{Layout, Packed, ScaleKind, ROWS};
pub use lowrank::LowRank;
pub use packed_heads::{PackedHeads, PackedHeadsMut, Stored, StoredMut};
pub use pool::Pool;
pub use recurrence::{Decay, Normalise, Recurrence};
pub use repack::{pack, unpack, Quantized, QuantizedMut};
pub use requantize::requantize;
pub use rope::Rope;
pub use routing::{Groups, Routing, Score};
pub use temperature::Temperature;

/// The operations, on one path and one pool.
pub struct Kernels {
    path: Path,
    pool: Pool,
    scratch: scratch::Scratch,
}

impl Kernels {
    /// With the best path of this machine and `threads` threads (at least 1), the caller included.
    pub fn new(threads: usize) -> Kernels {
        Kernels::with_path(Path::best(), threads)
    }

    /// Panics where this machine cannot take that path.
    pub fn with_path(path: Path, threads: usize) -> Kernels {
        Kernels::on(path, Pool::new(threads))
    }

    /// Panics where this machine cannot take that path.
    pub fn on(path: Path, pool: Pool) -> Kernels {
        assert!(path.is_available(), "no {} here", path.name());
        Kernels {
            path,
            pool,
            scratch: scratch::Scratch::default(),
        }
    }

    pub fn path(&self) -> Path {
        self.path
    }

    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Gives working memory that is kept between calls back to the system.
    pub fn trim(&self) {
        self.scratch.clear();
    }
}

#[cfg(test)]
mod tests;
