//! What a step of several rows costs by one of one row: for benches/cpu.py, as a line of JSON.

use std::time::Instant;

use crate::kernels::Kernels;
use crate::mlx::{self, Array, Device};
use crate::model::{AdapterSet, Cache, Decoder, Rows};
use crate::runtime::model::decoder_for_tests;

const CACHED: i32 = 128;
const ROUNDS: usize = 24;

/// Seconds of a step that takes `n` tokens and computes the logits of each.
fn step(decoder: &Decoder, caches: &mut [Cache], n: i32) -> f64 {
    let tokens = Array::from_i32(&(1..=n).collect::<Vec<_>>()).unwrap();
    let began = Instant::now();
    let adapters = AdapterSet::default();
    let hidden = decoder.forward(&tokens, caches, Rows::All, &adapters);
    let logits = decoder.logits(&hidden.unwrap(), &adapters).unwrap();
    mlx::eval(&[&logits]).unwrap();
    began.elapsed().as_secs_f64()
}

/// MLXRT_BENCH_MODEL names the folder, MLXRT_BENCH_THREADS says on how many threads.
#[test]
#[ignore = "a measurement"]
fn what_rows_cost() {
    let folder = std::env::var("MLXRT_BENCH_MODEL").unwrap();
    let threads = std::env::var("MLXRT_BENCH_THREADS").unwrap();
    mlx::install_error_handler();
    mlx::enter(Device::Cpu).unwrap();
    mlx::fast::start(Kernels::new(threads.parse().unwrap()));
    {
        let (decoder, _) = decoder_for_tests(&folder, false).unwrap();
        let mut caches = decoder.make_caches(None, 0);
        step(&decoder, &mut caches, CACHED);
        let sizes = [1, 2, 4, 8];
        let mut best = [f64::INFINITY; 4];
        for _ in 0..ROUNDS {
            for (&n, best) in sizes.iter().zip(&mut best) {
                *best = best.min(step(&decoder, &mut caches, n));
                caches
                    .iter_mut()
                    .for_each(|cache| cache.cut(CACHED).unwrap());
            }
        }
        let shares: Vec<f64> = best.iter().map(|time| time / best[0]).collect();
        println!(
            "{}",
            serde_json::json!({ "rows": sizes, "s": best, "by_one": shares })
        );
    }
    mlx::leave();
}
