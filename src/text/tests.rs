//! Tests across the text layer: real tokenizers, hostile files, and the stream's guarantees.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

mod channels;
mod chat;
mod chat_template;
mod control;
mod hostile;
mod messages;
mod newer;
mod sections;
mod stream;
mod token_files;
mod tokens;

pub use crate::testing::data as shared;

/// As the library reads what its caller sends.
pub fn read(json: &serde_json::Value) -> crate::template::Json {
    crate::template::Json::parse(json.to_string().as_bytes()).unwrap()
}

/// As `read`, of an object.
pub fn read_object(json: &serde_json::Value) -> crate::template::Object {
    match read(json) {
        crate::template::Json::Object(object) => object,
        other => panic!("{other:?}"),
    }
}

/// xorshift64*: the same numbers in every run.
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// 0 to `n - 1`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() >> 33) as usize % n
    }

    pub fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len())]
    }
}
