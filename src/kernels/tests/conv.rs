//! Short convolutions against a plain sum in f64, and cut in time, which must not show in a bit.

use super::support::{rounding, smallest, Array, Random, FLOATS};
use crate::dtype::Dtype;
use crate::{Kernels, Path, ShortConv};

const EPSILON: f64 = 1.0 / (1 << 24) as f64;

/// A convolution over rows, and what it was given.
struct Conv {
    x: Array,
    past: Array,
    taps: Array,
    bias: Option<Array>,
    silu: bool,
    to: Dtype,
}

impl Conv {
    fn random(random: &mut Random, n: usize, channels: usize, taps: usize) -> Conv {
        let dtype = random.pick(&FLOATS);
        let (of_taps, of_bias) = (random.pick(&FLOATS), random.pick(&FLOATS));
        let bias = Array::random(random, of_bias, 1, channels);
        Conv {
            x: Array::random(random, dtype, n, channels),
            past: Array::random(random, dtype, taps - 1, channels),
            taps: Array::random(random, of_taps, channels, taps),
            bias: random.pick(&[true, false]).then_some(bias),
            silu: random.pick(&[true, false]),
            to: random.pick(&FLOATS),
        }
    }

    /// y and the last rows, of so many tokens at a time.
    fn run(&self, kernels: &Kernels, step: usize) -> (Vec<u8>, Vec<u8>) {
        let conv = ShortConv {
            taps: self.taps.view(),
            bias: self.bias.as_ref().map(Array::view),
            silu: self.silu,
        };
        let width = self.x.width;
        let (mut y, mut first) = (Vec::new(), 0);
        let mut past = Array::zeros(self.x.dtype, self.past.rows, width);
        past.bytes.clone_from(&self.past.bytes);
        while first < self.x.rows {
            let n = step.min(self.x.rows - first);
            let x = self.x.view().some_rows(first, n);
            let mut part = Array::new(self.to, n, width, |_, _| 7.0);
            let mut next = Array::new(self.x.dtype, past.rows, width, |_, _| 7.0);
            let to = (&mut part.view_mut(), &mut next.view_mut());
            kernels.short_conv(&x, &past.view(), &conv, to.0, to.1);
            y.extend(part.bytes);
            past = next;
            first += n;
        }
        (y, past.bytes)
    }

    fn before(&self, row: usize, channel: usize) -> f64 {
        match row < self.past.rows {
            true => self.past.get(row, channel),
            false => self.x.get(row - self.past.rows, channel),
        }
    }
}

#[test]
fn short_convolutions_are_within_their_bounds() {
    let mut random = Random(44);
    for path in Path::available() {
        for taps in 2..=8 {
            for (n, channels) in [
                (1, 1),
                (2, 17),
                (3, 515),
                (7, 16),
                (64, 100),
                (130, 33),
                (1, 1100),
            ] {
                let conv = Conv::random(&mut random, n, channels, taps);
                let threads = random.pick(&[1, 2, 3]);
                let (y, last) = conv.run(&Kernels::with_path(path, threads), n);
                let mut got = Array::zeros(conv.to, n, channels);
                got.bytes = y;
                for (t, i) in (0..n).flat_map(|t| (0..channels).map(move |i| (t, i))) {
                    let bias = conv.bias.as_ref().map_or(0.0, |bias| bias.get(0, i));
                    let (mut wanted, mut size) = (bias, bias.abs());
                    for j in 0..taps {
                        let term = conv.taps.get(i, j) * conv.before(t + j, i);
                        wanted += term;
                        size += term.abs();
                    }
                    let mut bound = EPSILON * (taps + 1) as f64 * size;
                    if conv.silu {
                        wanted /= 1.0 + (-wanted).exp();
                        bound = 2.0 * bound + 2.0_f64.powi(-20) * size;
                    }
                    let bound =
                        bound + (wanted.abs() + bound) * rounding(conv.to) + smallest(conv.to);
                    let error = (got.get(t, i) - wanted).abs();
                    assert!(
                        error <= bound,
                        "{path:?} {taps} taps, [{n}, {channels}]: {wanted} became {}, {error:e} over {bound:e}",
                        got.get(t, i)
                    );
                }
                // The last rows are those that came, bit by bit.
                let row = channels * conv.x.dtype.size() as usize;
                let all = [&conv.past.bytes[..], &conv.x.bytes].concat();
                assert!(last == all[n * row..]);
            }
        }
    }
}

#[test]
fn convolutions_go_on_where_they_were_cut() {
    let mut random = Random(45);
    for path in Path::available() {
        for (taps, channels) in [(4, 600), (2, 17), (8, 129)] {
            let conv = Conv::random(&mut random, 67, channels, taps);
            let whole = conv.run(&Kernels::with_path(path, 1), 67);
            for (threads, step) in [(1, 1), (2, 3), (3, 67), (2, 64)] {
                let parts = conv.run(&Kernels::with_path(path, threads), step);
                assert!(parts == whole, "{path:?} {taps} taps by {step}");
            }
        }
    }
}

#[test]
#[should_panic(expected = "short_conv: two types")]
fn a_past_of_another_type_is_refused() {
    let x = Array::zeros(Dtype::F32, 2, 4);
    let past = Array::zeros(Dtype::BF16, 3, 4);
    let taps = Array::zeros(Dtype::F32, 4, 4);
    let (mut y, mut next) = (
        Array::zeros(Dtype::F32, 2, 4),
        Array::zeros(Dtype::F32, 3, 4),
    );
    let conv = ShortConv {
        taps: taps.view(),
        bias: None,
        silu: false,
    };
    Kernels::new(1).short_conv(
        &x.view(),
        &past.view(),
        &conv,
        &mut y.view_mut(),
        &mut next.view_mut(),
    );
}
