//! mlxrt: large language models on Apple's MLX behind a C ABI. ARCHITECTURE.md is the map.

#![deny(unsafe_op_in_unsafe_fn, clippy::undocumented_unsafe_blocks)]

mod error;
#[allow(dead_code, unused_imports)]
mod text;
