use super::support::{schemes, unwritten, Matrix, Random, FLOATS};
use crate::dtype::{Dtype, Mode, Scheme};
use crate::{codec, pack, unpack, Layout, Packed, Pool, QuantizedMut};

#[test]
fn what_was_packed_comes_back() {
    let mut random = Random(1);
    let pool = Pool::new(2);
    for scheme in schemes() {
        let group = scheme.group_size as usize;
        for (rows, groups) in [(1, 1), (16, 2), (17, 3), (48, 5), (35, 1), (0, 3), (5, 0)] {
            let dtype = random.pick(&FLOATS);
            let matrix = Matrix::random(&mut random, scheme, dtype, rows, groups * group);
            let packed = matrix.pack();
            let layout = matrix.layout;
            let mut weight = vec![1; matrix.weight.len()];
            let mut scales = vec![1; matrix.scales.len()];
            let mut biases = matrix.biases.as_ref().map(|biases| vec![1; biases.len()]);
            let to = QuantizedMut {
                weight: &mut weight,
                scales: &mut scales,
                biases: biases.as_deref_mut(),
            };
            let packed = Packed::new(layout, &packed).expect("its size");
            assert!(unpack(&pool, &packed, to));
            let same =
                weight == matrix.weight && scales == matrix.scales && biases == matrix.biases;
            assert!(same, "{scheme:?} {rows} by {groups} groups");
        }
    }
}

#[test]
fn the_packed_size_is_the_size_of_what_was_packed() {
    for scheme in schemes() {
        let scales = match scheme.mode {
            Mode::Affine => Dtype::BF16,
            _ => Dtype::U8,
        };
        let layout = Layout::new(scheme, scales, 1024, 2048).expect("legal");
        let of_scales = layout.mlx_scale_row() * if scheme.mode == Mode::Affine { 2 } else { 1 };
        assert_eq!(
            layout.nbytes(),
            1024 * (layout.mlx_weight_row() + of_scales)
        );
    }
}

#[test]
fn wrong_sizes_and_schemes_are_refused() {
    let scheme = |mode, bits, group_size| Scheme {
        mode,
        bits,
        group_size,
    };
    let affine = scheme(Mode::Affine, 4, 64);
    assert!(Layout::new(affine, Dtype::BF16, 4, 96).is_none());
    assert!(Layout::new(affine, Dtype::U8, 4, 64).is_none());
    assert!(Layout::new(scheme(Mode::Affine, 7, 64), Dtype::F32, 4, 64).is_none());
    assert!(Layout::new(scheme(Mode::Mxfp4, 4, 64), Dtype::U8, 4, 64).is_none());
    assert!(Layout::new(affine, Dtype::F32, 1 << 31, 64).is_none());
    let mut random = Random(2);
    let matrix = Matrix::random(&mut random, affine, Dtype::F32, 3, 64);
    let mut packed = matrix.pack();
    let pool = Pool::new(1);
    assert!(!pack(
        &pool,
        &matrix.layout,
        matrix.arrays(),
        unwritten(&mut packed[1..])
    ));
    let mut short = matrix.arrays();
    short.scales = &short.scales[1..];
    assert!(!pack(&pool, &matrix.layout, short, unwritten(&mut packed)));
    let mut without = matrix.arrays();
    without.biases = None;
    assert!(!pack(
        &pool,
        &matrix.layout,
        without,
        unwritten(&mut packed)
    ));
    assert!(Packed::new(matrix.layout, &packed[1..]).is_none());
}

#[test]
fn small_floats_are_mlx_s() {
    assert_eq!(
        [0x7e, 0x7f, 0xff, 1, 8].map(codec::e4m3),
        [448.0, 480.0, -480.0, 1.0 / 512.0, 1.0 / 64.0]
    );
    assert_eq!(codec::e8m0(127), 1.0);
    assert_eq!(codec::e8m0(0), 2.0_f32.powi(-127));
    assert_eq!(codec::e8m0(255), f32::INFINITY);
    let values = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
    for (code, value) in values.into_iter().enumerate() {
        assert_eq!(codec::e2m1(code as u8), value);
        assert_eq!(codec::e2m1(code as u8 + 8), -value);
    }
}
