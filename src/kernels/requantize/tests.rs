use super::*;
use crate::dtype::{Dtype, Mode, Scheme};

/// A matrix in MLX's arrays.
#[derive(Clone, PartialEq)]
struct Rows {
    weight: Vec<u8>,
    scales: Vec<u8>,
    biases: Option<Vec<u8>>,
}

impl Rows {
    fn new(layout: &Layout) -> Rows {
        let scales = layout.rows() * layout.mlx_scale_row();
        Rows {
            weight: vec![0; layout.rows() * layout.mlx_weight_row()],
            scales: vec![0; scales],
            biases: layout.scales().has_biases().then(|| vec![0; scales]),
        }
    }

    fn pack(&mut self, path: Path, layout: &Layout, wanted: &[f32]) -> bool {
        let rows = QuantizedMut {
            weight: &mut self.weight,
            scales: &mut self.scales,
            biases: self.biases.as_deref_mut(),
        };
        requantize(path, layout, wanted, rows)
    }

    /// What is packed, number by number.
    fn numbers(&self, layout: &Layout) -> Vec<f32> {
        let (n, size) = (layout.group(), layout.scales().size());
        let scale = |from: &[u8], group: usize| {
            let from = &from[group * size..(group + 1) * size];
            match layout.scales() {
                ScaleKind::F32 => f32::from_le_bytes(from.try_into().unwrap()),
                ScaleKind::F16 => half::f16::from_le_bytes(from.try_into().unwrap()).to_f32(),
                ScaleKind::BF16 => half::bf16::from_le_bytes(from.try_into().unwrap()).to_f32(),
                ScaleKind::E8M0 => crate::codec::e8m0(from[0]),
                ScaleKind::E4M3 => crate::codec::e4m3(from[0]),
            }
        };
        let mut all = Vec::new();
        for (group, bytes) in self.weight.chunks(n * layout.bits() / 8).enumerate() {
            let mut codes = vec![0; n];
            unpack_codes(layout.bits(), bytes, &mut codes);
            let by = scale(&self.scales, group);
            all.extend(codes.into_iter().map(|code| match layout.scheme().mode {
                Mode::Affine => f32::from(code) * by + scale(self.biases.as_ref().unwrap(), group),
                Mode::Mxfp8 => crate::codec::e4m3(code) * by,
                _ => crate::codec::e2m1(code) * by,
            }));
        }
        all
    }
}

fn layouts(rows: usize) -> Vec<Layout> {
    let mut all = Vec::new();
    let mut add = |mode, bits, group_size, scales| {
        let scheme = Scheme {
            mode,
            bits,
            group_size,
        };
        all.push(Layout::new(scheme, scales, rows, 2 * group_size as usize).unwrap());
    };
    for bits in [2, 3, 4, 5, 6, 8] {
        for group_size in [32, 64, 128] {
            for scales in [Dtype::F32, Dtype::F16, Dtype::BF16] {
                add(Mode::Affine, bits, group_size, scales);
            }
        }
    }
    add(Mode::Mxfp4, 4, 32, Dtype::U8);
    add(Mode::Mxfp8, 8, 32, Dtype::U8);
    add(Mode::Nvfp4, 4, 16, Dtype::U8);
    all
}

/// Numbers as weights are distributed, about: sums of four that are even.
fn weights(layout: &Layout, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut even = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    let count = layout.rows() * layout.inputs();
    (0..count)
        .map(|_| 0.05 * (even() + even() + even() + even()) + 0.003)
        .collect()
}

fn apart(given: &[f32], wanted: &[f32]) -> f64 {
    let squares = given.iter().zip(wanted);
    squares
        .map(|(x, y)| f64::from(x - y).powi(2))
        .sum::<f64>()
        .sqrt()
}

#[test]
fn what_is_packed_again_keeps_its_bytes() {
    for layout in layouts(5) {
        let mut rows = Rows::new(&layout);
        assert!(rows.pack(Path::best(), &layout, &weights(&layout, 1)));
        let before = rows.clone();
        let numbers = rows.numbers(&layout);
        assert!(rows.pack(Path::best(), &layout, &numbers));
        assert!(rows == before, "{layout:?}");
        // As another device rounds.
        let nearly: Vec<f32> = numbers.iter().map(|x| x * (1.0 + 3e-7)).collect();
        assert!(rows.pack(Path::best(), &layout, &nearly));
        assert!(rows == before, "{layout:?}");
    }
}

#[test]
fn only_groups_that_change_are_packed() {
    for layout in layouts(3) {
        let mut rows = Rows::new(&layout);
        assert!(rows.pack(Path::best(), &layout, &weights(&layout, 2)));
        let before = rows.clone();
        let mut wanted = rows.numbers(&layout);
        let n = layout.group();
        // The second of a row's two groups, in the second row.
        let changed = 3 * n..4 * n;
        for x in &mut wanted[changed] {
            *x = 0.9 * *x + 0.01;
        }
        assert!(rows.pack(Path::best(), &layout, &wanted));
        let same = |now: &[u8], then: &[u8]| {
            let bytes = now.len() / 6;
            let groups = now.chunks(bytes).zip(then.chunks(bytes));
            groups.map(|(now, then)| now == then).collect::<Vec<_>>()
        };
        let scales = same(&rows.scales, &before.scales);
        let weight = same(&rows.weight, &before.weight);
        for group in [0, 1, 2, 4, 5] {
            assert!(weight[group] && scales[group], "{layout:?} {group}");
        }
        assert!(!(weight[3] && scales[3]), "{layout:?}");
    }
}

#[test]
fn every_path_packs_the_same_bytes() {
    for layout in layouts(4) {
        let mut one: Option<Rows> = None;
        for path in Path::available() {
            let mut rows = Rows::new(&layout);
            for seed in [3, 4] {
                assert!(rows.pack(path, &layout, &weights(&layout, seed)));
            }
            match &one {
                Some(one) => assert!(rows == *one, "{layout:?} {}", path.name()),
                None => one = Some(rows),
            }
        }
    }
}

/// A change of a twentieth of a step is lost, and costs no more than that.
#[test]
fn a_small_change_costs_no_more_than_itself() {
    for layout in layouts(8) {
        let mut rows = Rows::new(&layout);
        assert!(rows.pack(Path::best(), &layout, &weights(&layout, 5)));
        let before = rows.numbers(&layout);
        let noise = weights(&layout, 6);
        let wanted: Vec<f32> = before
            .iter()
            .zip(noise)
            .map(|(x, y)| x + 1e-3 * y)
            .collect();
        assert!(rows.pack(Path::best(), &layout, &wanted));
        let (now, then) = (
            apart(&rows.numbers(&layout), &wanted),
            apart(&before, &wanted),
        );
        assert!(now <= then * 1.0001, "{layout:?}: {now} of {then}");
    }
}

#[test]
fn odd_groups() {
    for layout in layouts(4) {
        let n = layout.inputs();
        let ramp = |of: f32| (0..n).map(move |i| of * i as f32);
        let wanted: Vec<f32> = [0.0, 0.25, -1e-30, 60000.0]
            .into_iter()
            .flat_map(|of| ramp(of * 0.01).chain([]))
            .collect();
        let mut rows = Rows::new(&layout);
        assert!(rows.pack(Path::best(), &layout, &wanted));
        let numbers = rows.numbers(&layout);
        assert!(numbers.iter().all(|x| x.is_finite()), "{layout:?}");
        let mut constant = Rows::new(&layout);
        assert!(constant.pack(Path::best(), &layout, &vec![0.5; wanted.len()]));
        let far = apart(&constant.numbers(&layout), &vec![0.5; wanted.len()]);
        assert!(
            far < 1e-3 * (wanted.len() as f64).sqrt(),
            "{layout:?}: {far}"
        );
        // Nothing is written where nothing can be.
        let before = rows.clone();
        for bad in [f32::NAN, f32::INFINITY, 1e16] {
            let mut wanted = wanted.clone();
            wanted[7] = bad;
            assert!(!rows.pack(Path::best(), &layout, &wanted));
        }
        assert!(!rows.pack(Path::best(), &layout, &wanted[1..]));
        assert!(rows == before);
    }
}
