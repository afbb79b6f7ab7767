//! What a cache of tokens gives back, against a list of what went in.

use super::*;
use crate::mlx::{self, ops, Device};
use crate::runtime::tests::engine_lock;

/// Keys and values of so many tokens from `first` on, which tell their position: `[1, 2, n, 1]`; the second head's are negative.
fn of_positions(first: i32, n: i32, scale: f32) -> Array {
    let positions = (first..first + n).map(|at| at as f32 * scale);
    let heads = positions.clone().chain(positions.map(|at| -at));
    let heads = Array::from_f32(&heads.collect::<Vec<_>>()).unwrap();
    ops::reshape(&heads, &[1, 2, n, 1]).unwrap()
}

fn positions(x: &Array, scale: f32) -> Vec<i32> {
    let (n, numbers) = (x.dim(2) as usize, x.to_f32().unwrap());
    let of =
        |numbers: &[f32]| -> Vec<i32> { numbers.iter().map(|at| (at / scale) as i32).collect() };
    let (first, second) = numbers.split_at(n);
    let second: Vec<f32> = second.iter().map(|at| -at).collect();
    assert_eq!(of(first), of(&second));
    of(first)
}

/// However it was filled, forked and cut.
#[test]
fn tokens_come_back_in_the_order_of_time() {
    let _lock = engine_lock();
    mlx::install_error_handler();
    mlx::enter(Device::Cpu).unwrap();
    let mut random = 7u64;
    let mut next = |below: i32| {
        random = random
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (random >> 33) as i32 % below
    };
    for round in 0..200 {
        let size = 1 + next(12);
        let window = (round % 4 != 0).then_some((size, next(size)));
        let extent = match window {
            Some((size, keep)) => Extent::rotating(size, keep),
            None => Extent::full(),
        };
        let mut tokens = Tokens::new(extent);
        assert!(tokens.in_order().unwrap().is_none());
        for _ in 0..8 {
            let n = if next(2) == 0 { 1 } else { 1 + next(7) };
            let first = tokens.offset();
            let (keys, values) = (of_positions(first, n, 1.0), of_positions(first, n, 3.0));
            let other = (next(4) == 0).then(|| tokens.fork());
            let before = other.as_ref().map(|other| other.in_order().unwrap());
            tokens.update_and_fetch(keys, values).unwrap();
            if let Some((other, (old, _))) = other.zip(before.flatten()) {
                let again = other.keys_in_order().unwrap().unwrap();
                assert_eq!(positions(&again, 1.0), positions(&old, 1.0));
            }
            if next(5) == 0 {
                let to = tokens.reach(next(tokens.offset() + 1));
                tokens.cut(to);
            }
            let wanted: Vec<i32> = match window {
                Some((size, keep)) if tokens.offset() > size => (0..keep)
                    .chain(tokens.offset() - (size - keep)..tokens.offset())
                    .collect(),
                _ => (0..tokens.offset()).collect(),
            };
            let Some((keys, values)) = tokens.in_order().unwrap() else {
                assert_eq!(tokens.offset(), 0);
                continue;
            };
            assert_eq!(positions(&keys, 1.0), wanted, "{window:?}");
            assert_eq!(positions(&values, 3.0), wanted, "{window:?}");
            let keys = tokens.keys_in_order().unwrap().unwrap();
            assert_eq!(positions(&keys, 1.0), wanted, "{window:?}");
        }
    }
    mlx::leave();
}
