//! Logits and greedy tokens against mlx-lm's on the same folders.
//!
//! Both run the same MLX primitives in the same order, so on one machine the logits are equal to the bit, in every type
//! and quantisation. The bounds leave room for another processor, whose BLAS and vector code sum in another order: 1e-4
//! absolute in f32; in 16 bits, where each operation rounds to 11 (f16) or 8 (bf16) bits of mantissa, two units in the
//! last place of a logit of 16 (standard deviation 3.5), which is less than the greedy tokens' lead.

use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use serde_json::Value;

use crate::mlx::{self, Array, Device};
use crate::model::{AdapterSet, Cache, Decoder, Rows};
use crate::runtime::model::decoder_for_tests;

pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

pub fn json(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(fixtures().join(name)).unwrap()).unwrap()
}

pub fn i32s(file: &SafeTensors, name: &str) -> Vec<i32> {
    let data = file.tensor(name).unwrap().data();
    data.chunks_exact(4)
        .map(|bytes| i32::from_le_bytes(bytes.try_into().unwrap()))
        .collect()
}

pub fn f32s(file: &SafeTensors, name: &str) -> Vec<f32> {
    let data = file.tensor(name).unwrap().data();
    data.chunks_exact(4)
        .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()))
        .collect()
}

pub fn bound(dtype: &str) -> f32 {
    match dtype {
        "f32" => 1e-4,
        "f16" => 0.04,
        _ => 0.125,
    }
}

pub fn farthest(ours: &[f32], theirs: &[f32]) -> f32 {
    assert_eq!(ours.len(), theirs.len());
    ours.iter()
        .zip(theirs)
        .map(|(a, b)| if a == b { 0.0 } else { (a - b).abs() })
        .fold(
            0.0,
            |most, d| {
                if d.is_nan() {
                    f32::NAN
                } else {
                    most.max(d)
                }
            },
        )
}

fn argmax(row: &[f32]) -> i32 {
    (0..row.len())
        .max_by(|&a, &b| row[a].total_cmp(&row[b]))
        .unwrap() as i32
}

struct Case {
    decoder: Decoder,
    caches: Vec<Cache>,
    vocab: usize,
}

impl Case {
    /// Logits f32, row-major `[n, vocab]`.
    fn feed(&mut self, tokens: &[i32]) -> Vec<f32> {
        let tokens = Array::from_i32(tokens).unwrap();
        let hidden = self
            .decoder
            .forward(&tokens, &mut self.caches, Rows::All, &AdapterSet::default())
            .unwrap();
        let logits = self
            .decoder
            .logits(&hidden, &AdapterSet::default())
            .unwrap();
        mlx::ops::astype(&logits, crate::dtype::Dtype::F32)
            .unwrap()
            .to_f32()
            .unwrap()
    }
}

/// The CPU, or with MLXRT_TEST_DEVICE=gpu the GPU. (There, set MLX_ENABLE_TF32=0 too, or float32 products are not.)
fn device() -> Device {
    match std::env::var("MLXRT_TEST_DEVICE").as_deref() {
        Ok("gpu") => Device::Gpu,
        _ => Device::Cpu,
    }
}

#[test]
fn every_fixture_gives_mlx_lms_logits_and_tokens() {
    mlx::install_error_handler();
    mlx::enter(device()).unwrap();
    let cases = json("cases.json");
    let mut runs = 0;
    for case in cases.as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let folder = fixtures().join("models").join(name);
        let bound = bound(case["dtype"].as_str().unwrap());
        for run in case["runs"].as_array().unwrap() {
            let file = run["file"].as_str().unwrap();
            let (window, keep) = match run["cache"]["kind"].as_str().unwrap() {
                "default" => (None, 0),
                _ => (
                    Some(run["cache"]["max_size"].as_i64().unwrap() as i32),
                    run["cache"]["keep"].as_i64().unwrap() as i32,
                ),
            };
            let (decoder, vocab) = decoder_for_tests(folder.to_str().unwrap()).unwrap();
            let caches = decoder.make_caches(window, keep);
            let mut case = Case {
                decoder,
                caches,
                vocab,
            };
            let bytes = std::fs::read(folder.join(file)).unwrap();
            let expected = SafeTensors::deserialize(&bytes).unwrap();

            let from = i32s(&expected, "prompt_logits_from")[0] as usize;
            let logits = case.feed(&i32s(&expected, "prompt"));
            let worst = farthest(
                &logits[from * case.vocab..],
                &f32s(&expected, "prompt_logits"),
            );
            assert!(
                worst <= bound,
                "{name}/{file}: prompt logits differ by {worst}, allowed {bound}"
            );

            // As generation does it: the last block computes the last row only.
            let prompt = Array::from_i32(&i32s(&expected, "prompt")).unwrap();
            let mut fresh = case.decoder.make_caches(window, keep);
            let last = case
                .decoder
                .next_logits(&prompt, &mut fresh, &AdapterSet::default())
                .unwrap();
            let last = mlx::ops::astype(&last, crate::dtype::Dtype::F32)
                .unwrap()
                .to_f32()
                .unwrap();
            let worst = farthest(&last, &logits[logits.len() - case.vocab..]);
            assert!(
                worst <= bound,
                "{name}/{file}: the last row alone differs by {worst}"
            );

            let tokens = i32s(&expected, "tokens");
            let steps = f32s(&expected, "step_logits");
            let mut next = argmax(&logits[logits.len() - case.vocab..]);
            for (i, (&token, theirs)) in tokens
                .iter()
                .zip(steps.chunks_exact(case.vocab))
                .enumerate()
            {
                assert_eq!(next, token, "{name}/{file}: greedy token {i}");
                let ours = case.feed(&[token]);
                let worst = farthest(&ours, theirs);
                assert!(
                    worst <= bound,
                    "{name}/{file}: logits of step {i} differ by {worst}, allowed {bound}"
                );
                next = argmax(&ours);
            }
            runs += 1;
        }
    }
    assert!(runs >= 40, "only {runs} runs");
    mlx::leave();
}
