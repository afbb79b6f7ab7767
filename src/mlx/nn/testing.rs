//! What tests of layers share.

use crate::dtype::Dtype;
use crate::kernels::Kernels;
use crate::mlx::{self, fast, ops, Array, Device};

pub fn with_kernels(work: impl FnOnce()) {
    // What others measure of MLX's memory is the process's.
    let _lock = crate::runtime::tests::engine_lock();
    mlx::install_error_handler();
    mlx::enter(Device::Cpu).unwrap();
    fast::start(Kernels::new(2));
    work();
    mlx::leave();
}

/// SplitMix64's numbers from -1 to 1.
pub fn random(seed: u64, len: usize) -> Vec<f32> {
    let numbers = (0..len as u64).map(|i| {
        let mut x = ((seed << 32) + i).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((x ^ (x >> 31)) >> 40) as f32 / (1 << 23) as f32 - 1.0
    });
    numbers.collect()
}

pub fn array(numbers: &[f32], shape: &[i32]) -> Array {
    ops::reshape(&Array::from_f32(numbers).unwrap(), shape).unwrap()
}

pub fn f32s(x: &Array) -> Vec<f32> {
    let wide = ops::astype(x, Dtype::F32).unwrap();
    wide.to_f32().unwrap()
}

/// No difference is over `bound` times the largest number of b, or times 1.
pub fn assert_close(a: &[f32], b: &[f32], bound: f32, what: &str) {
    assert_eq!(a.len(), b.len());
    let largest = b.iter().fold(1.0_f32, |most, x| most.max(x.abs()));
    for (a, b) in a.iter().zip(b) {
        let apart = (a - b).abs() / largest;
        assert!(
            apart <= bound,
            "{what}: {a}, not {b}: {apart:e} over {bound:e}"
        );
    }
}
