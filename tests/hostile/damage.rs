//! Bytes changed at random, with a fixed seed: each folder loads and generates, or fails by name. Part of rows 6 to 9.
//! `MLXRT_FUZZ_SEED=7 make hostile` tries others.

use crate::folder::{survives, Folder};

/// xorshift64*.
pub struct Random(pub u64);

impl Random {
    pub fn new() -> Random {
        let seed = std::env::var("MLXRT_FUZZ_SEED").ok();
        let seed = seed.and_then(|seed| seed.parse().ok());
        Random(seed.unwrap_or(20_261_121))
    }

    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % bound
    }
}

/// What JSON breaks on.
const PIECES: [&str; 16] = [
    "0",
    "-1",
    "4294967296",
    "1e999",
    "null",
    "true",
    "{}",
    "[]",
    "\"\"",
    ",",
    ":",
    "}",
    "]",
    "\"",
    "\\u0000",
    "9",
];

pub fn damage(random: &mut Random, bytes: &mut Vec<u8>, range: usize) {
    for _ in 0..1 + random.below(3) {
        let at = random
            .below(range.min(bytes.len()).max(1))
            .min(bytes.len().saturating_sub(1));
        match random.below(4) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = random.below(256) as u8,
            2 => {
                let piece = PIECES[random.below(PIECES.len())].bytes();
                let end = (at + 1 + random.below(4)).min(bytes.len());
                bytes.splice(at..end, piece).for_each(drop);
            }
            _ => {
                let end = (at + random.below(40)).min(bytes.len());
                bytes.drain(at..end).for_each(drop);
            }
        }
    }
}

pub fn config() {
    damaged("qwen3-f32", "config.json", 250);
    damaged("gemma3-4bit-bf16", "config.json", 150);
    damaged("qwen3-f32", "generation_config.json", 60);
}

pub fn weights() {
    damaged("qwen3-f32", "model.safetensors", 250);
    damaged("qwen3-4bit", "model.safetensors", 150);
}

pub fn index() {
    damaged("qwen3-f32-shards", "model.safetensors.index.json", 100);
}

pub fn tokenizer() {
    damaged("qwen3-f32", "tokenizer.json", 250);
    damaged("qwen3-f32", "tokenizer_config.json", 60);
}

fn damaged(fixture: &str, name: &str, rounds: usize) {
    let mut random = Random::new();
    let folder = Folder::copy_of(fixture);
    let whole = folder.read(name);
    // In a weight file the header is what can be wrong.
    let range = match name {
        "model.safetensors" => 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize,
        _ => whole.len(),
    };
    for round in 0..rounds {
        let mut bytes = whole.clone();
        damage(&mut random, &mut bytes, range);
        folder.write(name, bytes);
        survives(&format!("{fixture}/{name} round {round}"), folder.path());
    }
}
