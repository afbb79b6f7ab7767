use super::support::{rounding, smallest, Array, Random, FLOATS};
use crate::dtype::Dtype;
use crate::{Floats, FloatsMut, Kernels, LowRank, Path};
use std::ops::Range;

/// Parts of two outputs, two of the first and one of the last; between them an output without any.
struct Case {
    x: Array,
    /// a, b, scale
    parts: [Vec<(Array, Array, f32)>; 3],
    y: [Array; 3],
}

fn part((a, b, scale): &(Array, Array, f32)) -> LowRank<Floats<'_>> {
    LowRank {
        a: a.view(),
        b: b.view(),
        scale: *scale,
        rows: None,
    }
}

impl Case {
    fn random(random: &mut Random, rows: usize, inputs: usize, rank: usize, out: usize) -> Case {
        let mut array = |rows, width| {
            let dtype = random.pick(&FLOATS);
            Array::random(random, dtype, rows, width)
        };
        let mut part = |out, scale| (array(inputs, rank), array(rank, out), scale);
        let parts = [
            vec![part(out, 2.0), part(out, -0.5)],
            vec![],
            vec![part(out + 3, 20.0)],
        ];
        Case {
            x: array(rows, inputs),
            y: [array(rows, out), array(rows, 4), array(rows, out + 3)],
            parts,
        }
    }

    /// The result on one path.
    fn run(&self, path: Path, threads: usize) -> Vec<Array> {
        let mut y: Vec<Array> = self
            .y
            .iter()
            .map(|y| Array::new(y.dtype, y.rows, y.width, |r, c| y.get(r, c) as f32))
            .collect();
        let parts: Vec<Vec<_>> = self
            .parts
            .iter()
            .map(|parts| parts.iter().map(part).collect())
            .collect();
        let low: Vec<_> = parts.iter().map(|parts| &parts[..]).collect();
        let mut views: Vec<_> = y.iter_mut().map(Array::view_mut).collect();
        Kernels::with_path(path, threads).add_low_ranks(&self.x.view(), &low, &mut views);
        drop(views);
        y
    }

    /// The exact result, and how far from it f32 may be.
    fn wanted(&self, output: usize, row: usize, column: usize) -> (f64, f64) {
        let start = self.y[output].get(row, column);
        let dtype = self.y[output].dtype;
        let unit = 2.0_f64.powi(-24);
        let (mut sum, mut bound) = (start, smallest(dtype));
        for (a, b, scale) in &self.parts[output] {
            let (mut part, mut size) = (0.0, 0.0);
            for r in 0..a.width {
                let products = (0..a.rows).map(|i| self.x.get(row, i) * a.get(i, r));
                let (z, of_z) = products.fold((0.0, 0.0), |(z, s), p| (z + p, s + p.abs()));
                part += z * b.get(r, column);
                size += of_z * b.get(r, column).abs();
            }
            sum += f64::from(*scale) * part;
            let sums = (a.rows + a.width + 16) as f64;
            bound += f64::from(*scale).abs() * size * sums * unit;
            bound += (sum.abs() + bound) * rounding(dtype);
        }
        (sum, bound)
    }
}

#[test]
fn what_is_added_is_within_its_bound() {
    let mut random = Random(77);
    for (rows, inputs, rank, out) in [
        (1, 64, 16, 64),
        (1, 1100, 16, 700),
        (3, 513, 5, 513),
        (9, 40, 33, 70),
        (2, 7, 1, 3),
        (1, 5, 0, 3),
        (0, 5, 2, 3),
    ] {
        for _ in 0..3 {
            let case = Case::random(&mut random, rows, inputs, rank, out);
            for path in Path::available() {
                let y = case.run(path, 2);
                let again = case.run(path, 1);
                for (output, (y, again)) in y.iter().zip(&again).enumerate() {
                    assert!(
                        y.bytes == again.bytes,
                        "{path:?}: threads show in the result"
                    );
                    for row in 0..rows {
                        for column in 0..y.width {
                            let (wanted, bound) = case.wanted(output, row, column);
                            let got = y.get(row, column);
                            assert!(
                                (got - wanted).abs() <= bound,
                                "{path:?}: {rows} by {inputs} by {rank}: {wanted} became {got}, allowed {bound}"
                            );
                        }
                    }
                }
            }
        }
    }
}

fn of_rows(
    (a, b, _): &(Array, Array, Range<usize>),
    rows: Option<Range<usize>>,
) -> LowRank<Floats<'_>> {
    LowRank {
        a: a.view(),
        b: b.view(),
        scale: 0.5,
        rows,
    }
}

/// Parts of some rows give these what they would alone, and the others nothing.
#[test]
fn parts_of_some_rows_are_those_of_these_rows_alone() {
    let mut random = Random(78);
    for round in 0..40 {
        let (inputs, rank, out) = random.pick(&[(64, 16, 64), (1100, 5, 700), (40, 33, 513)]);
        let n = random.below(20) + 1;
        let dtype = FLOATS[round % 3];
        let x = Array::random(&mut random, dtype, n, inputs);
        let y = Array::random(&mut random, dtype, n, out);
        let parts: Vec<_> = (0..random.below(5) + 1)
            .map(|_| {
                let weights = random.pick(&FLOATS);
                let start = random.below(n + 1);
                let a = Array::random(&mut random, weights, inputs, rank);
                let b = Array::random(&mut random, weights, rank, out);
                (a, b, start..start + random.below(n - start + 1))
            })
            .collect();
        let bytes = |rows: &Range<usize>, width: usize| {
            let row = width * dtype.size() as usize;
            rows.start * row..rows.end * row
        };
        for path in Path::available() {
            let mut wanted = y.bytes.clone();
            for part in &parts {
                let rows = part.2.clone();
                let own = &mut wanted[bytes(&rows, out)];
                let x = Floats::new(&x.bytes[bytes(&rows, inputs)], dtype, rows.len(), inputs);
                let own = FloatsMut::new(own, dtype, rows.len(), out).expect("sizes");
                let low = [of_rows(part, None)];
                Kernels::with_path(path, 1).add_low_ranks(&x.expect("sizes"), &[&low], &mut [own]);
            }
            let low = parts.iter().map(|part| of_rows(part, Some(part.2.clone())));
            let low: Vec<_> = low.collect();
            let mut made = Array {
                bytes: y.bytes.clone(),
                ..y
            };
            let kernels = Kernels::with_path(path, random.pick(&[1, 2, 3]));
            kernels.add_low_ranks(&x.view(), &[&low], &mut [made.view_mut()]);
            let rows: Vec<_> = parts.iter().map(|part| &part.2).collect();
            assert!(made.bytes == wanted, "{path:?} {dtype:?} {n}: {rows:?}");
        }
    }
}

#[test]
#[should_panic(expected = "rows 1..3 of [2, 8]")]
fn rows_that_there_are_not_are_refused() {
    let mut random = Random(2);
    let case = Case::random(&mut random, 2, 8, 2, 4);
    let low = LowRank {
        rows: Some(1..3),
        ..part(&case.parts[0][0])
    };
    let [mut y, ..] = case.y;
    let kernels = Kernels::with_path(Path::Portable, 1);
    kernels.add_low_ranks(&case.x.view(), &[&[low]], &mut [y.view_mut()]);
}

#[test]
#[should_panic(expected = "low rank")]
fn parts_that_do_not_fit_are_refused() {
    let mut random = Random(1);
    let mut case = Case::random(&mut random, 1, 8, 2, 4);
    case.parts[2][0].0 = Array::random(&mut random, Dtype::F32, 7, 2);
    case.run(Path::Portable, 1);
}
