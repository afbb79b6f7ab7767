//! What a model computes: a family reads `config.json` into one [`DecoderConfig`], the decoder is written once.
//!
//! The order of things: [`families::read`] → [`Planned::find`] (every part declares its modules, found in the files' headers
//! and checked) → the loader reads them → [`Decoder::new`] on the engine thread → [`Decoder::forward`].

pub mod adapter;
mod block;
pub mod cache;
mod config;
pub mod cost;
mod decoder;
pub mod families;
mod find;
mod forward;
pub mod fused;
mod layers;
pub mod modules;
mod parts;
mod plan;
mod rope;
mod scope;
mod segments;
#[cfg_attr(not(test), allow(unreachable_pub))]
pub(crate) mod step;
mod streams;
mod texts;
pub mod training;

pub use adapter::AdapterSet;
pub use cache::Cache;
pub use config::{DecoderConfig, Names};
pub use decoder::{last_row, Decoder, Rows};
pub use modules::{Modules, Weight};
pub use plan::{Planned, Repacked};
pub use segments::{row_of, Logits, Segment};
pub use texts::{Dense, Pooling, TextsPass};
