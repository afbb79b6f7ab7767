use super::support::{rounding, smallest, Array, Random, FLOATS};
use crate::dtype::Dtype;
use crate::{Floats, Kernels, LowRank, Path};

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

#[test]
#[should_panic(expected = "low rank")]
fn parts_that_do_not_fit_are_refused() {
    let mut random = Random(1);
    let mut case = Case::random(&mut random, 1, 8, 2, 4);
    case.parts[2][0].0 = Array::random(&mut random, Dtype::F32, 7, 2);
    case.run(Path::Portable, 1);
}
