#![allow(non_camel_case_types, reason = "the names are C's")]
#![allow(clippy::missing_safety_doc)]

#[path = "../../../src/capi/boundary.rs"]
pub mod boundary;
#[path = "../../../src/capi/constants.rs"]
pub mod constants;
#[path = "../../../src/capi/error.rs"]
pub mod error;
#[path = "../../../src/capi/handle.rs"]
pub mod handle;
#[path = "../../../src/capi/structs.rs"]
pub mod structs;
#[path = "../../../src/capi/text.rs"]
pub mod text;
#[path = "../../../src/capi/types.rs"]
pub mod types;
