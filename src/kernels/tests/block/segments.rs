//! A pass of several sessions gives each the bits that it gets alone.

use super::super::support::FLOATS;
use super::*;
use crate::Segment;

/// What a session brings to a pass.
struct Session {
    rows: usize,
    cache: Cache,
}

impl Session {
    fn random(random: &mut Random, dtype: Dtype, longest: usize) -> Session {
        let rows = random.pick(&[1, 1, 1, 2, 3, 4, 5]);
        let before = random.below(longest);
        let room = before + rows + random.below(3);
        let bits = random.pick(&[None, Some(4), Some(8)]);
        let mut cache = Cache::with_room(random, dtype, room, before, bits);
        let window = [None, Some(1), Some(9), Some(700)];
        cache.visible = Visible::Causal {
            window: random.pick(&window),
        };
        Session { rows, cache }
    }
}

fn is_same(a: &Cache, b: &Cache) -> bool {
    a.keys == b.keys && a.values == b.values
}

fn compare(random: &mut Random, dtype: Dtype, shape: &Shape, longest: usize) {
    let mut made = Made::new(random, dtype, shape);
    let count = random.below(9) + 1;
    let sessions: Vec<Session> = (0..count)
        .map(|_| Session::random(random, dtype, longest))
        .collect();
    let n = sessions.iter().map(|session| session.rows).sum();
    let x = Array::random(random, dtype, n, HIDDEN);
    // The adapter is that of some sessions.
    let first = random.below(count + 1);
    let adapted = first..first + random.below(count - first + 1);
    let rows = |sessions: &[Session]| sessions.iter().map(|session| session.rows).sum::<usize>();
    let before = rows(&sessions[..adapted.start]);
    let adapted_rows = before..before + rows(&sessions[adapted.clone()]);
    // There 16 rows and more take tiles of bf16, which round otherwise.
    for path in Path::available().filter(|&path| path != Path::Amx || n < 16) {
        let kernels = Kernels::with_path(path, random.pick(&[1, 2, 3, 5]));
        let mut caches: Vec<Cache> = sessions.iter().map(|s| s.cache.clone()).collect();
        let mut segments: Vec<Segment> = caches
            .iter_mut()
            .zip(&sessions)
            .map(|(cache, session)| Segment {
                rows: session.rows,
                past: cache.past(session.rows),
            })
            .collect();
        made.set_low_rows(Some(adapted_rows.clone()));
        let mut y = Array::zeros(dtype, n, HIDDEN);
        let block = made.block(shape);
        kernels.block_of_segments(&block, &x.view(), &mut segments, &mut y.view_mut());
        drop((block, segments));

        let mut first = 0;
        for (index, (session, cache)) in sessions.iter().zip(&caches).enumerate() {
            let rows = first..first + session.rows;
            let own = columns_and_rows(&x, rows.clone(), 0..HIDDEN);
            made.set_low_rows((!adapted.contains(&index)).then_some(0..0));
            let mut alone = session.cache.clone();
            let mut wanted = Array::zeros(dtype, session.rows, HIDDEN);
            let kernels = Kernels::with_path(path, random.pick(&[1, 2]));
            kernels.block(
                &made.block(shape),
                &own.view(),
                Some(&mut alone.past(session.rows)),
                &mut wanted.view_mut(),
            );
            let got = columns_and_rows(&y, rows, 0..HIDDEN);
            assert!(
                got.bytes == wanted.bytes,
                "{path:?} {dtype:?} session {index} of {count}: {shape:?}"
            );
            assert!(is_same(cache, &alone), "{path:?} {dtype:?}: {shape:?}");
            first += session.rows;
        }
    }
}

#[test]
fn sessions_of_one_pass_get_the_bits_that_each_gets_alone() {
    let mut random = Random(110);
    for round in 0..120 {
        let shape = Shape {
            attention: true,
            ..Shape::random(&mut random)
        };
        compare(&mut random, FLOATS[round % 3], &shape, 40);
    }
}

/// Keys enough for several pieces of work.
#[test]
fn so_do_sessions_of_many_tokens() {
    let mut random = Random(111);
    for round in 0..9 {
        let shape = Shape {
            attention: true,
            second: Second::None,
            ..Shape::random(&mut random)
        };
        compare(&mut random, FLOATS[round % 3], &shape, 1500);
    }
}

#[test]
fn rows_that_are_no_sessions_are_refused() {
    let mut random = Random(112);
    let shape = Shape::dense();
    let made = Made::new(&mut random, Dtype::F32, &shape);
    let x = Array::random(&mut random, Dtype::F32, 3, HIDDEN);
    let mut y = Array::zeros(Dtype::F32, 3, HIDDEN);
    let mut cache = Cache::random(&mut random, Dtype::F32, 4, None);
    let mut segments = [Segment {
        rows: 2,
        past: cache.past(2),
    }];
    let text = refused(|| {
        let (block, y) = (made.block(&shape), &mut y.view_mut());
        Kernels::new(1).block_of_segments(&block, &x.view(), &mut segments, y);
    });
    assert!(text.contains("3 rows of 2 of sessions"), "{text}");
}
