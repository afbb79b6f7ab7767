//! The C ABI: one file for each section of `include/mlxrt.h`, over a few that they share.
//!
//! | file | holds |
//! |---|---|
//! | `constants.rs`, `types.rs` | what the header declares besides functions, with its documentation |
//! | `boundary.rs` | `call` and `quietly`, which every function runs in: panics, callbacks, forks |
//! | `structs.rs` | `read_options`, `Out`: structs between versions |
//! | `text.rs` | text, paths and arrays, in and out |
//! | `handle.rs` | the table of handles |
//! | `input.rs`, `event.rs` | what a request is given, and gives |
//! | `api.rs` | the table of functions |
//! | `error.rs`, `library.rs`, … | the functions, section by section |
//!
//! # To add a function
//!
//! 1. Take its name and parameters from the agreed surface (`tests/abi/agreed.h`). Write it in its section's file
//!    as `#[no_mangle] pub unsafe extern "C" fn`, outside any macro; a new file also goes into `SECTIONS` of
//!    `tests/header/generate.rs`. Pointers are raw, never references. Types and constants it is the first to
//!    use go into `types.rs` (fields documented: unit, meaning of zero) and `constants.rs`, and a struct's rules
//!    into the list at the end of `structs.rs`.
//! 2. Document it for people who see the header only: a sentence or more, then the four lines `Threads:`,
//!    `Blocks:`, `Errors:`, `Owns:`.
//! 3. Clear the outputs first, then do all else inside `call`:
//!    ```ignore
//!    // SAFETY: the caller's outputs are NULL or writable.
//!    let out = unsafe { TextOut::clear(json, len, "json") };
//!    call("mlxrt_model_info", Use::Query, || {
//!        let out = out?;
//!        let model = handle::table().get::<Model>(model, "model")?;
//!        out.put(&model.info())
//!    })
//!    ```
//!    Options: `read_options(options, "options")?`. An output struct: `Out::check` before the work, `write` after
//!    it. A new handle: `HandleOut::clear`, then `put(table().insert(object)?)`. A callback of the host's runs in
//!    `with_callback_mark`. A void function runs in `quietly`.
//! 4. Where NULL is allowed is written down in `tests/header/nullability.rs`; its defaults mostly hold.
//! 5. Say in its line of `api.rs` where it is.
//! 6. `make header` writes `include/mlxrt.h` and `exports.map`; the tests in `tests/header` compare them with the
//!    agreed surface.
//! 7. `tests/c` calls it; a new struct goes into `tests/c/skew.c`, a new section into `tests/c/fork.c`. Until the first
//!    release `make freeze` takes it into version 1, and `tests/abi/1/client.c` uses it.

#![allow(non_camel_case_types, reason = "the names are C's")]
#![allow(
    clippy::missing_safety_doc,
    reason = "the words on each function are the header's; what a caller must \
    keep to is in the header's opening"
)]

pub mod adapter;
mod api;
pub mod boundary;
pub mod constants;
pub mod embed;
pub mod error;
pub mod event;
pub mod generate;
pub mod grammar;
pub mod handle;
pub mod input;
pub mod library;
pub mod memory;
pub mod metrics;
pub mod model;
pub mod session;
pub mod structs;
pub mod text;
mod time;
pub mod train;
pub mod types;
