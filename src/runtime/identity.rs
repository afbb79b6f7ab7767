//! What a model is, in digits that go into files which are worth nothing to another one.
//!
//! They are no seal: who wants to can make another model of the same digits. They tell models apart that people have.

use xxhash_rust::xxh3::Xxh3;

use super::model::TEMPLATES;
use super::model_save::Source;
use crate::error::Result;
use crate::load::Slot;

/// Of every so many bytes of a tensor these are hashed. What was trained, merged or quantised otherwise differs all over a
/// tensor, and whoever loads a model does not wait for the hash of all of it. Small tensors are hashed whole.
const STEP: usize = 64 << 10;
const SAMPLE: usize = 4 << 10;

pub(super) struct Identity {
    /// Of the tensors as they were loaded: names, types, shapes and bytes.
    pub weights: String,
    /// Of `config.json`, which says what is computed with them.
    pub config: String,
    /// Of all files that say what tokens are.
    pub tokenizer: String,
    pub template: String,
}

/// The weights' digits, as they are read.
#[derive(Default)]
pub(super) struct WeightsHash(Xxh3);

impl WeightsHash {
    pub fn add(&mut self, slot: &Slot, bytes: &[u8]) {
        add_text(&mut self.0, &slot.name);
        add_text(&mut self.0, slot.dtype.name());
        for size in &slot.shape {
            self.0.update(&size.to_le_bytes());
        }
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        for block in bytes.chunks(STEP) {
            self.0.update(&block[..block.len().min(SAMPLE)]);
        }
        // A tensor's end, too.
        self.0.update(&bytes[bytes.len().saturating_sub(SAMPLE)..]);
    }
}

impl Identity {
    pub fn new(weights: WeightsHash, config: &[u8], source: &Source) -> Result<Self> {
        let (mut tokenizer, mut template) = (Xxh3::new(), Xxh3::new());
        for name in source.copied() {
            let is_template = name.starts_with("chat_template") || name.starts_with(TEMPLATES);
            let hash = match name {
                "generation_config.json" => continue,
                _ if is_template => &mut template,
                _ => &mut tokenizer,
            };
            add_text(hash, name);
            let bytes = match source.read(name) {
                // Loading ignored it, with a warning, or refused the model.
                Err(error) if !error.code.is_of_the_moment() => continue,
                bytes => bytes?,
            };
            hash.update(&(bytes.len() as u64).to_le_bytes());
            hash.update(&bytes);
        }
        let mut own = Xxh3::new();
        own.update(config);
        Ok(Identity {
            weights: digits(&weights.0),
            config: digits(&own),
            tokenizer: digits(&tokenizer),
            template: digits(&template),
        })
    }
}

/// With its length, so that no two lists of texts are the same bytes.
pub(super) fn add_text(hash: &mut Xxh3, text: &str) {
    hash.update(&(text.len() as u64).to_le_bytes());
    hash.update(text.as_bytes());
}

pub(super) fn digits(hash: &Xxh3) -> String {
    format!("{:032x}", hash.digest128())
}
