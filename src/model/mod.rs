//! What a model computes: a family reads `config.json` into one [`DecoderConfig`], the decoder is written once.
//!
//! The order of things: [`families::read`] → [`Weights::plan`] (every tensor that the config implies, checked against
//! the files' headers) → the loader reads them → [`Decoder::new`] on the engine thread → [`Decoder::forward`].

pub mod adapter;
mod attention;
pub mod cache;
mod config;
pub mod cost;
mod decoder;
mod extent;
pub mod families;
pub mod fused;
mod layers;
pub mod modules;
mod rope;
pub mod training;
mod weights;

pub use adapter::AdapterSet;
pub use cache::Cache;
pub use config::{DecoderConfig, Names};
pub use decoder::{Decoder, Rows};
pub use weights::{Planned, Weight, Weights};
