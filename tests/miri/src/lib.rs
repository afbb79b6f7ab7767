//! The handle table, structs between versions, and text and arrays in and out: the unsafe code that needs no MLX.
//! `make miri` runs their own tests under Miri.
#![deny(unsafe_op_in_unsafe_fn, clippy::undocumented_unsafe_blocks)]
#![allow(dead_code, unused_imports, unused_macros)]

pub mod capi;

#[path = "../../../src/error.rs"]
mod error;
#[path = "../../../src/guard.rs"]
mod guard;
#[path = "../../../src/host.rs"]
mod host;
#[path = "../../../src/log.rs"]
mod log;
#[path = "../../../src/mail.rs"]
mod mail;
#[path = "../../../src/random.rs"]
mod random;
#[path = "../../../src/reserve.rs"]
mod reserve;
#[path = "../../../src/words.rs"]
mod words;
