//! Untrusted bytes of a model folder, turned into validated values. Nothing here knows of MLX or of threads.
//!
//! - `folder`: which folder a path or a Hugging Face id means, and how its files are opened;
//! - `limits`: every bound, in one struct;
//! - `scan`, `json`: JSON with bounds, and a reader whose errors name file and key;
//! - `quantization`: which scheme shapes show, and what `config.json` says of it;
//! - `foreign`: how MLX's packed weights are made of other programs';
//! - `safetensors`, `weights`: the headers of all weight files as one catalog of tensors;
//! - `sentence`: what sentence-transformers' files say of embeddings;
//! - `warnings`: what is odd about a folder that loads all the same;
//! - `generation_config`: the model's own sampling settings and its end-of-sequence tokens;
//! - `session`: saved sessions, and mlx-lm's prompt caches;
//! - `adapter`: LoRA, DoRA and full adapters of three formats as one description.
//!
//! The rules: a size is compared with its limit before anything of that size is read or allocated, numbers
//! are calculated with checks, a name from a file never leaves the folder, and what is refused is refused
//! with an error that names the file and the key.

#![deny(
    unsafe_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

mod adapter;
mod folder;
mod foreign;
mod generation_config;
mod json;
mod limits;
mod quantization;
mod safetensors;
mod scan;
mod sentence;
mod session;
mod slot;
mod warnings;
mod weights;

#[cfg(test)]
pub(crate) mod testing;

pub use adapter::{
    check_finite, AdapterFile, AdapterFormat, AdapterKind, Entry, ExpertModule, ExpertPlace,
    ModuleShape, Order, Part, Share,
};
pub use folder::ModelFolder;
pub use foreign::{Blocks, Float8, Grid, Listed, Make, Number, Recipe, Zeros};
pub use generation_config::{GenerationConfig, REPETITION_PENALTY};
pub use json::{parse_json, parse_object, Object};
pub use limits::Limits;
#[cfg(test)]
pub use quantization::PackingMode;
pub use quantization::{Foreign, PackedScheme, Quantization};
pub use sentence::{read as read_sentence, DenseModule, Sentence, SentencePooling, SENTENCE_FILES};
pub use session::{
    class_of, Checksum, SavedAnswer, SavedLayer, SavedMark, SavedPair, SavedSession, SavedState,
    SavedTokens, Stored, Written, CHECKSUM_KEY, FORMAT, SESSION_KEY, TOKENS_KEY,
};
pub use slot::{Every, Pick, Piece, Slot};
pub use warnings::Warnings;
pub use weights::{Catalog, Tensor, WeightFile};
