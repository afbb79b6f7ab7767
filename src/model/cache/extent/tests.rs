use super::*;

#[test]
fn room_is_small_and_then_grows_in_steps() {
    let rooms = [
        (1, 32),
        (13, 32),
        (32, 32),
        (33, 256),
        (256, 256),
        (257, 512),
        (5000, 5120),
    ];
    for (tokens, wanted) in rooms {
        assert_eq!(room(tokens), wanted, "{tokens}");
    }
    for tokens in 1..3000 {
        let (room, below) = (room(tokens), room_below(tokens));
        assert!(room >= tokens && room - tokens < 256);
        assert!(below < tokens && super::room(below + 1) >= tokens);
    }
    assert!(room(i32::MAX) > 0 && room_below(i32::MAX) > 0);
}

#[test]
fn no_room_is_made_for_more_than_will_come() {
    let mut extent = Extent::full();
    extent.expect(20, 20);
    assert_eq!(extent.place(4).capacity, 20);
    extent.expect(20, 40);
    assert_eq!(extent.place(4).capacity, 32);
    // What is asked for is made room for: whether it may be is looked at before.
    assert_eq!(extent.place(50).capacity, 50);
}

/// Positions that a cache holds, moved and written as `place` says, against what a window is: by a list of them.
#[test]
fn a_window_holds_the_first_tokens_and_the_newest() {
    let mut random = 1u64;
    let mut next = |below: i32| {
        random = random
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (random >> 33) as i32 % below
    };
    for _ in 0..2000 {
        let size = 1 + next(20);
        let keep = next(size);
        let mut extent = Extent::rotating(size, keep);
        let (mut memory, mut wanted): (Vec<i32>, Vec<i32>) = Default::default();
        extent.expect(next(30), i32::MAX);
        for _ in 0..12 {
            let n = if next(2) == 0 { 1 } else { 1 + next(9) };
            let first = extent.offset();
            let place = extent.place(n);
            if let Some(moved) = &place.moved {
                let mut new: Vec<i32> = Vec::new();
                for part in moved.clone() {
                    new.extend(&memory[part.start as usize..part.end as usize]);
                }
                new.resize(place.capacity as usize, -1);
                memory = new;
            }
            assert_eq!(memory.len(), place.capacity as usize);
            let seen = extent.seen(n, &place);
            for i in 0..n {
                memory[(place.at + i) as usize] = first + i;
            }
            extent.advance(n, &place);
            // Alone a token takes the place of the oldest; several see a full window each.
            let left = if n == 1 {
                size - 1
            } else {
                (size - 1).min(wanted.len() as i32)
            };
            let drop = (wanted.len() as i32 - left).max(0);
            wanted.drain(
                keep.min(wanted.len() as i32) as usize
                    ..(keep + drop).min(wanted.len() as i32) as usize,
            );
            wanted.extend(first..first + n);
            // As from a file, without its spare room.
            let (index, filled) = (extent.index(), extent.filled_to());
            let written = Extent::rotating(size, keep).restored(extent.offset, index, filled);
            let written = written.map(|written| written.in_order());
            assert_eq!(written, Some(extent.in_order()), "{extent:?}");
            let mut held = memory[..seen as usize].to_vec();
            if n > 1 {
                // In order of time, which the mask is made for.
                assert_eq!(held, wanted, "{size} {keep} {n}");
            }
            held.sort_unstable();
            assert_eq!(held, wanted, "{size} {keep} {n}");
            let mut seen = wanted.clone();
            if seen.len() > size as usize {
                seen.drain(keep as usize..keep as usize + seen.len() - size as usize);
            }
            let parts = extent.in_order().into_iter().flatten();
            let in_order: Vec<i32> = parts.map(|at| memory[at as usize]).collect();
            assert_eq!(in_order, seen, "{size} {keep} {n}");
        }
    }
}
