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
    let mut marked = 0;
    for round in 0..400 {
        let size = 1 + next(12);
        let window = (round % 4 != 0).then_some((size, next(size)));
        let extent = match window {
            Some((size, keep)) => Extent::rotating(size, keep),
            None => Extent::full(),
        };
        let mut tokens = Tokens::new(extent);
        assert!(tokens.in_order().unwrap().is_none());
        let token = TokenBytes {
            numbers: [2, 2],
            dtype: Dtype::F32,
        };
        for _ in 0..12 {
            if next(3) == 0 {
                tokens.mark(next(tokens.offset() + 1));
            }
            let n = if next(2) == 0 { 1 } else { 1 + next(7) };
            let first = tokens.offset();
            let (keys, values) = (of_positions(first, n, 1.0), of_positions(first, n, 3.0));
            let other = (next(4) == 0).then(|| tokens.fork());
            let before = other.as_ref().map(|other| other.in_order().unwrap());
            let (room, bytes) = (tokens.room_for(n, false, token), tokens.nbytes());
            tokens.update_and_fetch(keys, values).unwrap();
            assert_eq!(room.after, tokens.nbytes(), "{window:?}");
            assert!(room.before <= bytes, "{window:?}");
            if let Some((other, (old, _))) = other.zip(before.flatten()) {
                let again = other.keys_in_order().unwrap().unwrap();
                assert_eq!(positions(&again, 1.0), positions(&old, 1.0));
            }
            if next(5) == 0 {
                let (at, held) = (tokens.offset(), next(tokens.offset() + 1));
                let to = tokens.reach(held);
                let turned = window.is_some_and(|(size, _)| at >= size);
                marked += u32::from(turned && 0 < to && to < at);
                assert!(to <= held && (turned || to == held));
                tokens.cut(to).unwrap();
                assert_eq!(tokens.offset(), to);
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
    assert!(marked > 40, "{marked} cuts to a mark");
    mlx::leave();
}

/// Marks of a window keep nothing before it turns, the same tensors where they were made before that, and no more than the window.
#[test]
fn marks_take_a_window_each_and_only_where_they_must() {
    let _lock = engine_lock();
    mlx::install_error_handler();
    mlx::enter(Device::Cpu).unwrap();
    let put = |tokens: &mut Tokens, n: i32| {
        let first = tokens.offset();
        let (keys, values) = (of_positions(first, n, 1.0), of_positions(first, n, 3.0));
        tokens.update_and_fetch(keys, values).unwrap();
    };
    // Two heads of a number, of keys and of values, in f32.
    let bytes = |tokens: i32| 16 * tokens as u64;
    let mut tokens = Tokens::new(Extent::rotating(40, 0));
    put(&mut tokens, 20);
    assert_eq!(tokens.nbytes(), bytes(32));
    for at in [7, 20, 12] {
        tokens.mark(at);
    }
    put(&mut tokens, 12);
    assert_eq!(tokens.nbytes(), bytes(32));
    // Two at most, the last ones: it turns, and both are in what there was.
    put(&mut tokens, 30);
    assert_eq!(tokens.nbytes(), bytes(32) + bytes(62));
    assert_eq!(
        [11, 12, 19, 40, 62].map(|n| tokens.reach(n)),
        [0, 12, 12, 20, 62]
    );
    // What a mark keeps is no more than the window.
    tokens.mark(62);
    tokens.mark(50);
    put(&mut tokens, 10);
    assert_eq!(tokens.nbytes(), bytes(32) + bytes(40) + bytes(49));
    let mut fork = tokens.fork();
    fork.cut(62).unwrap();
    assert_eq!(fork.nbytes(), bytes(32) + bytes(40));
    fork.cut(20).unwrap();
    assert_eq!((fork.nbytes(), fork.reach(15)), (bytes(32), 15));
    assert!(tokens.drop_marks() && !tokens.drop_marks());
    assert_eq!((tokens.nbytes(), tokens.reach(62)), (bytes(49), 0));
    // First tokens that are kept: only before it turns.
    let mut tokens = Tokens::new(Extent::rotating(40, 4));
    put(&mut tokens, 30);
    tokens.mark(30);
    put(&mut tokens, 30);
    tokens.mark(60);
    put(&mut tokens, 1);
    assert_eq!((tokens.reach(60), tokens.is_path_dependent()), (30, true));
    tokens.cut(30).unwrap();
    assert!(!tokens.is_path_dependent());
    mlx::leave();
}

/// Tokens that were taken back have left no trace, in a window that has turned or turns with them, and a fork has them still.
#[test]
fn what_is_taken_back_leaves_nothing() {
    let _lock = engine_lock();
    mlx::install_error_handler();
    mlx::enter(Device::Cpu).unwrap();
    let mut random = 11u64;
    let mut next = |below: i32| {
        random = random
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (random >> 33) as i32 % below
    };
    let put = |tokens: &mut Tokens, first: i32, n: i32| {
        let (keys, values) = (of_positions(first, n, 1.0), of_positions(first, n, 3.0));
        tokens.update_and_fetch(keys, values).unwrap();
    };
    let held = |tokens: &Tokens| {
        let (keys, values) = tokens.in_order().unwrap().unwrap();
        (positions(&keys, 1.0), positions(&values, 3.0))
    };
    // As it lies in memory: attention adds in that order.
    let lies = |tokens: &Tokens| {
        let extent = tokens.extent();
        let (keys, _) = tokens.fetch().unwrap();
        let keys = positions(&keys.floats().unwrap(), 1.0);
        (extent.offset(), extent.index(), keys)
    };
    let token = TokenBytes {
        numbers: [2, 2],
        dtype: Dtype::F32,
    };
    let (mut turned, mut forked) = (0, 0);
    for _ in 0..400 {
        let size = 1 + next(12);
        let keep = next(size);
        let mut tokens = Tokens::new(Extent::rotating(size, keep));
        let mut twin = Tokens::new(Extent::rotating(size, keep));
        for _ in 0..1 + next(6) {
            let n = if next(2) == 0 { 1 } else { 1 + next(7) };
            let first = tokens.offset();
            put(&mut tokens, first, n);
            put(&mut twin, first, n);
        }
        for _ in 0..4 {
            let (first, n) = (tokens.offset(), 1 + next(size - keep));
            let shared = (next(4) == 0).then(|| tokens.fork());
            if next(4) == 0 {
                tokens.mark(first);
                twin.mark(first);
            }
            let (room, over) = (tokens.room_for(n, true, token), tokens.held_by(n, token));
            tokens.hold(n).unwrap();
            // Of other positions, which show.
            (0..n).for_each(|at| put(&mut tokens, 500 + first + at, 1));
            if first + n >= size {
                let bytes = tokens.nbytes();
                assert!(
                    room.after <= bytes && bytes <= room.after + over,
                    "{bytes} {}",
                    room.after
                );
            }
            let mut fork = (next(3) == 0).then(|| tokens.fork());
            let kept = next(n + 1);
            turned += i32::from(first + n > size && kept < n);
            assert_eq!(tokens.reach(first + kept), first + kept);
            let all = held(&tokens);
            tokens.cut(first).unwrap();
            assert_eq!(held(&tokens), held(&twin), "{size} {keep} {first} {n}");
            if let Some(shared) = shared {
                assert_eq!(held(&shared), held(&twin));
            }
            if let Some(fork) = &mut fork {
                forked += 1;
                assert_eq!(held(fork), all);
                fork.cut(first).unwrap();
                assert_eq!(held(fork), held(&twin));
            }
            // Those that stay are right.
            tokens.hold(n).unwrap();
            for at in 0..n {
                let of = if at < kept { first + at } else { 700 + at };
                put(&mut tokens, of, 1);
            }
            (0..kept).for_each(|at| put(&mut twin, first + at, 1));
            tokens.cut(first + kept).unwrap();
            tokens.settle();
            assert_eq!(
                held(&tokens),
                held(&twin),
                "{size} {keep} {first} {n} {kept}"
            );
            assert!(tokens.held().next().is_none());
            assert_eq!(tokens.reach(first), twin.reach(first));
            put(&mut tokens, first + kept, 1);
            put(&mut twin, first + kept, 1);
            assert_eq!(lies(&tokens), lies(&twin), "{size} {keep} {first} {n}");
        }
    }
    assert!(turned > 300 && forked > 300, "{turned} {forked}");
    mlx::leave();
}
