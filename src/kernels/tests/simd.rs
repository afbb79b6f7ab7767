use super::support::Random;
use crate::math::{exp, sigmoid, tanh};
use crate::simd::{Kernel, Simd};
use crate::Path;

/// Runs one vector operation over lanes of numbers, 16 at a time.
struct Map<'a, F>(&'a mut [f32; 16], F);

trait Operation {
    /// # Safety
    /// See `Simd`.
    unsafe fn apply<S: Simd>(&self, x: S::F) -> S::F;
}

impl<F: Operation> Kernel for Map<'_, F> {
    type Output = ();
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        for lanes in self.0.chunks_exact_mut(S::LANES) {
            // SAFETY: the chunk has as many floats as a vector.
            unsafe {
                S::store(
                    lanes.as_mut_ptr(),
                    self.1.apply::<S>(S::load(lanes.as_ptr())),
                )
            };
        }
    }
}

macro_rules! operation {
    ($name:ident, $S:ident, $x:ident => $body:expr) => {
        struct $name;
        impl Operation for $name {
            #[inline(always)]
            unsafe fn apply<$S: Simd>(&self, $x: $S::F) -> $S::F {
                // SAFETY: the caller has the instructions.
                unsafe { $body }
            }
        }
    };
}

operation!(Exp, S, x => exp::<S>(x));
operation!(Sigmoid, S, x => sigmoid::<S>(x));
operation!(Tanh, S, x => tanh::<S>(x));
operation!(Round, S, x => S::round(x));
operation!(ToIntAndBack, S, x => S::to_float(S::to_int(x)));
operation!(Pow2, S, x => S::pow2(x));
operation!(Abs, S, x => S::abs(x));
operation!(MaxWithOne, S, x => S::max(S::splat(1.0), x));
operation!(MinWithOne, S, x => S::min(S::splat(1.0), x));

fn map(path: Path, operation: impl Operation, x: [f32; 16]) -> [f32; 16] {
    let mut lanes = x;
    path.run(Map(&mut lanes, operation));
    lanes
}

#[test]
fn exponentials_are_within_their_bounds() {
    let mut random = Random(20);
    for path in Path::available() {
        for _ in 0..2000 {
            let x = [(); 16].map(|()| 90.0 * random.float());
            let e = map(path, Exp, x);
            for (x, e) in x.into_iter().zip(e) {
                let wanted = f64::from(x).exp();
                let error = (f64::from(e) - wanted).abs();
                if x > -87.3 && x < 88.7 {
                    assert!(
                        error <= wanted * 2.0_f64.powi(-22),
                        "{path:?} exp({x}) = {e}"
                    );
                }
            }
            let x = x.map(|x| x / 4.0);
            let sigmoids = map(path, Sigmoid, x);
            let tanhs = map(path, Tanh, x);
            for (i, x) in x.into_iter().enumerate() {
                let x = f64::from(x);
                let wanted = 1.0 / (1.0 + (-x).exp());
                assert!((f64::from(sigmoids[i]) - wanted).abs() <= 2.0_f64.powi(-22));
                assert!((f64::from(tanhs[i]) - x.tanh()).abs() <= 2.0_f64.powi(-21));
            }
        }
        let edges = map(
            path,
            Exp,
            [
                0.0,
                -0.0,
                f32::NAN,
                f32::INFINITY,
                f32::NEG_INFINITY,
                -87.33,
                -87.34,
                -1e30, //
                88.72,
                88.73,
                1e30,
                1e-30,
                -1e-30,
                1.0,
                -1.0,
                0.5,
            ],
        );
        assert_eq!(
            (edges[0], edges[1], edges[11], edges[12]),
            (1.0, 1.0, 1.0, 1.0)
        );
        assert!(edges[2].is_nan());
        assert_eq!(
            (edges[3], edges[9], edges[10]),
            (f32::INFINITY, f32::INFINITY, f32::INFINITY)
        );
        assert_eq!((edges[4], edges[6], edges[7]), (0.0, 0.0, 0.0));
        assert!(edges[5] > 0.0 && edges[8].is_finite(), "{path:?} {edges:?}");
    }
}

#[test]
fn single_operations_mean_the_same_on_every_path() {
    for path in Path::available() {
        let x = [
            0.5, 1.5, 2.5, -0.5, -1.5, 1e6, -3.7, 0.0, 7.0, -126.0, 127.0, 3.2, -0.0, 8.5, 9.5,
            -9.5,
        ];
        let rounded = map(path, Round, x);
        for (x, r) in x.into_iter().zip(rounded) {
            assert_eq!(r, x.round_ties_even(), "{path:?}");
        }
        let powers = map(path, Pow2, rounded.map(|x| x.clamp(-126.0, 127.0)));
        for (x, p) in rounded.into_iter().zip(powers) {
            assert_eq!(p, 2.0_f32.powi(x.clamp(-126.0, 127.0) as i32), "{path:?}");
        }
        assert_eq!(map(path, Abs, x), x.map(f32::abs));
        // The second number where either is NaN, so that NaN passes through clamps.
        let odd = [f32::NAN; 16];
        assert!(
            map(path, MaxWithOne, odd).iter().all(|x| x.is_nan()),
            "{path:?}"
        );
        assert!(
            map(path, MinWithOne, odd).iter().all(|x| x.is_nan()),
            "{path:?}"
        );
    }
}

/// Stores in both small types, and loads what was stored.
struct Small<'a>(
    &'a [f32; 16],
    &'a mut [[u16; 16]; 2],
    &'a mut [[f32; 16]; 2],
);

impl Kernel for Small<'_> {
    type Output = ();
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        for at in (0..16).step_by(S::LANES) {
            // SAFETY: every array has 16 elements, a multiple of the lanes.
            unsafe {
                let x = S::load(self.0.as_ptr().add(at));
                S::store_bf16(self.1[0].as_mut_ptr().add(at), x);
                S::store_f16(self.1[1].as_mut_ptr().add(at), x);
                let (bf16, f16) = (self.1[0].as_ptr().add(at), self.1[1].as_ptr().add(at));
                S::store(self.2[0].as_mut_ptr().add(at), S::load_bf16(bf16));
                S::store(self.2[1].as_mut_ptr().add(at), S::load_f16(f16));
            }
        }
    }
}

#[test]
fn small_floats_round_as_they_should() {
    let mut random = Random(21);
    for path in Path::available() {
        for round in 0..2000 {
            let x = [(); 16].map(|()| match round % 3 {
                0 => f32::from_bits(random.bits() as u32),
                1 => random.float(),
                _ => random.float() * 2.0_f32.powi(random.below(40) as i32 - 30),
            });
            let (mut bits, mut back) = ([[0; 16]; 2], [[0.0; 16]; 2]);
            path.run(Small(&x, &mut bits, &mut back));
            for (i, x) in x.into_iter().enumerate() {
                let (b, h) = (half::bf16::from_f32(x), half::f16::from_f32(x));
                if x.is_nan() {
                    assert!(back[0][i].is_nan() && back[1][i].is_nan(), "{path:?}");
                } else {
                    assert_eq!(
                        (bits[0][i], bits[1][i]),
                        (b.to_bits(), h.to_bits()),
                        "{path:?} {x:e}"
                    );
                    assert_eq!(
                        (back[0][i], back[1][i]),
                        (b.to_f32(), h.to_f32()),
                        "{path:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn whole_numbers_are_the_nearest() {
    let mut random = Random(23);
    for path in Path::available() {
        for size in [1.0, 8.0, 1e3, 2.0_f32.powi(21)] {
            for _ in 0..500 {
                let x = [(); 16].map(|()| (size * random.float() * 4.0).round() / 4.0);
                let wanted = x.map(f32::round_ties_even);
                assert_eq!(map(path, ToIntAndBack, x), wanted, "{path:?} {x:?}");
                let x = [(); 16].map(|()| size * random.float());
                let wanted = x.map(f32::round_ties_even);
                assert_eq!(map(path, ToIntAndBack, x), wanted, "{path:?} {x:?}");
            }
        }
    }
}

/// All bytes as 8-bit floats and scales.
struct Bytes<'a>(&'a [u8; 256], &'a mut [[f32; 256]; 2]);

impl Kernel for Bytes<'_> {
    type Output = ();
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        for at in (0..256).step_by(S::LANES) {
            // SAFETY: every array has 256 elements, a multiple of the lanes.
            unsafe {
                let p = self.0.as_ptr().add(at);
                S::store(self.1[0].as_mut_ptr().add(at), S::load_e4m3(p));
                S::store(self.1[1].as_mut_ptr().add(at), S::load_e8m0(p));
            }
        }
    }
}

#[test]
fn eight_bit_floats_are_read_alike() {
    use crate::codec::{e4m3, e8m0};
    let bytes: [u8; 256] = std::array::from_fn(|i| i as u8);
    for path in Path::available() {
        let mut floats = [[0.0; 256]; 2];
        path.run(Bytes(&bytes, &mut floats));
        for byte in 0..=255 {
            assert_eq!(floats[0][usize::from(byte)] * 256.0, e4m3(byte), "{path:?}");
            assert_eq!(floats[1][usize::from(byte)], e8m0(byte), "{path:?}");
        }
    }
}

/// Eight quads of 16 outputs by four digits each, summed one after the other.
struct Products<'a> {
    w: &'a [[u8; 64]; 8],
    x: &'a [[i8; 4]; 8],
    /// By `dot`, and by `pairs` and `join`.
    sums: &'a mut [[f32; 16]; 2],
}

impl Kernel for Products<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        for lane in (0..16).step_by(S::LANES) {
            // SAFETY: a quad has four bytes for each of 16 lanes, and the caller has the instructions.
            unsafe {
                let (mut dots, mut pairs) = (S::izero(), S::izero());
                for (w, x) in self.w.iter().zip(self.x) {
                    let w = S::load_bytes(w.as_ptr().add(4 * lane));
                    let x = S::broadcast(x.as_ptr().cast());
                    dots = S::dot(dots, w, x);
                    pairs = S::pairs(pairs, w, x);
                }
                let joined = S::join(S::izero(), pairs);
                for (to, sums) in self.sums.iter_mut().zip([dots, joined]) {
                    S::store(to.as_mut_ptr().add(lane), S::to_float(sums));
                }
            }
        }
    }
}

#[test]
fn products_of_bytes_are_exact_in_both_ways() {
    let mut random = Random(60);
    for round in 0..50 {
        // The largest codes of 4 bits by the largest digits fill 16 bits.
        let extreme = round < 2;
        let digit = |random: &mut Random| match (extreme, round) {
            (true, 0) => 127,
            (true, _) => -127,
            _ => random.below(255) as i8,
        };
        let w = std::array::from_fn(|_| {
            std::array::from_fn(|_| if extreme { 15 } else { random.below(16) as u8 })
        });
        let x = std::array::from_fn(|_| std::array::from_fn(|_| digit(&mut random).max(-127)));
        for path in Path::available() {
            let mut sums = [[0.0; 16]; 2];
            path.run(Products {
                w: &w,
                x: &x,
                sums: &mut sums,
            });
            for lane in 0..16 {
                let wanted: i32 = (0..8)
                    .flat_map(|quad| (0..4).map(move |k| (quad, k)))
                    .map(|(quad, k)| i32::from(w[quad][4 * lane + k]) * i32::from(x[quad][k]))
                    .sum();
                assert_eq!(
                    [sums[0][lane], sums[1][lane]],
                    [wanted as f32; 2],
                    "{path:?} {lane}"
                );
            }
        }
    }
}
