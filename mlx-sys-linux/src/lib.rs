//! The functions of mlx-c, as the crate `mlx-sys` declares them on macOS. See build.rs for where they come from.
#![allow(
    non_upper_case_globals,
    non_camel_case_types,
    non_snake_case,
    clippy::all
)]

include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
