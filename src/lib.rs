//! mlxrt: large language models on Apple's MLX behind a C ABI. ARCHITECTURE.md is the map.

#![deny(unsafe_op_in_unsafe_fn, clippy::undocumented_unsafe_blocks)]

pub mod capi;

mod aside;
mod error;
mod files;
mod grammar;
mod guard;
mod host;
mod load;
mod log;
mod mail;
mod mlx;
mod model;
mod random;
mod reserve;
mod room;
mod runtime;
mod sampling;
mod template;
#[cfg(test)]
mod testing;
mod text;
mod train;
mod watch;
mod words;

use mlxrt_kernels::{self as kernels, dtype};
