//! The next token from logits: filters and the draw, by the arithmetic of `sampling/`'s operations and the random numbers
//! of MLX's, so that a seed gives the same tokens there and here.
//!
//! The filters cut by thresholds, which are found in a histogram of the log-probabilities instead of a sorted copy; the
//! draw makes noise for those tokens only that could win with it.

#![allow(unsafe_op_in_unsafe_fn)]

use super::float::{load, store, with_element, Element, Floats};
use super::math::exp;
use super::scratch::Buffer;
use super::simd::{Kernel, Simd};
use super::Kernels;

/// What the draw is made with; a filter that is off is `None`.
#[derive(Clone, Copy, Debug)]
pub struct Draw {
    /// 1 / temperature; `None` takes the first largest logit.
    pub sharpness: Option<f32>,
    /// in (0, 1)
    pub top_p: Option<f32>,
    /// in (0, 1]
    pub min_p: Option<f32>,
    /// at least 1
    pub top_k: Option<usize>,
    /// As of MLX's `random::key`.
    pub seed: u64,
}

/// Buckets of the histogram, and how many of them a log-probability of 1 goes through. The last takes the rest.
const BUCKETS: usize = 1024;
const PER_NAT: f32 = 32.0;

/// Above every number that `gumbel` gives: -ln(-ln(1 - 2^-24)) is 16.64.
const MOST_NOISE: f32 = 16.7;

/// A token, and what the logits were that it was drawn from.
#[derive(Clone, Copy, Debug)]
pub struct Drawn {
    /// Any where `level` is not finite.
    pub token: u32,
    pub level: f32,
}

/// Which tokens are left.
struct Kept {
    /// Log-probabilities above it.
    above: f32,
    /// And the first so many that are equal to it.
    equal: usize,
}

impl Kernels {
    /// The token, from one row of logits.
    ///
    /// Panics where there is not one row.
    pub fn draw(&self, logits: &Floats, draw: Draw) -> Drawn {
        assert!(logits.rows() == 1, "draw: {} rows", logits.rows());
        let Some(sharpness) = draw.sharpness else {
            return with_element!(logits.dtype(), E => {
                self.path.run(First { x: logits.row::<E>(0), n: logits.width() })
            });
        };
        let (logprobs, largest, level) = self.logprobs(logits);
        let kept = self.keep(&logprobs.floats(), largest, draw);
        let noise = Noise::new(draw.seed, logits.width());
        let (mut best, mut winner) = (f32::NEG_INFINITY, 0);
        with_element!(logits.dtype(), E => kept.each(elements::<E>(&logprobs.floats()), |id, logprob| {
            let weight = logprob * sharpness;
            if weight + MOST_NOISE <= best {
                return;
            }
            let value = noise.gumbel(id) + weight;
            if value > best {
                (best, winner) = (value, id);
            }
        }));
        Drawn {
            token: winner as u32,
            level,
        }
    }

    /// The largest of one row of logits; -infinity where there is no other number, NaN where one is NaN or +infinity.
    pub fn level(&self, logits: &Floats) -> f32 {
        with_element!(logits.dtype(), E => {
            self.path.run(Level { x: logits.row::<E>(0), n: logits.width() })
        })
    }

    /// `logits - logsumexp(logits)`, both in the logits' type, the largest, and the logits' level.
    fn logprobs(&self, logits: &Floats) -> (Buffer<'_>, f32, f32) {
        let (n, dtype) = (logits.width(), logits.dtype());
        let mut to = Buffer::new(&self.scratch, dtype, 1, n);
        let (largest, level) = with_element!(dtype, E => self.path.run(LogProbs {
            x: logits.row::<E>(0),
            y: to.floats_mut().row::<E>(0),
            n,
        }));
        (to, largest, level)
    }

    /// `largest`: the largest log-probability.
    fn keep(&self, logprobs: &Floats, largest: f32, draw: Draw) -> Kept {
        with_element!(logprobs.dtype(), E => {
            let all = elements::<E>(logprobs);
            let mut kept = Kept { above: f32::NEG_INFINITY, equal: usize::MAX };
            let histogram = (draw.top_p.is_some() || draw.top_k.is_some())
                .then(|| self.histogram::<E>(logprobs, largest, draw.top_p.is_some()));
            if let (Some(p), Some(histogram)) = (draw.top_p, &histogram) {
                kept.above = histogram.top_p(all, p);
            }
            if let Some(p) = draw.min_p {
                let least = E::from_f32(largest + E::from_f32(p.ln()).to_f32()).to_f32();
                kept.above = kept.above.max(least);
            }
            if let (Some(k), Some(histogram)) = (draw.top_k, &histogram) {
                let (least, equal) = histogram.top_k(all, k);
                if least >= kept.above {
                    kept = Kept { above: least, equal };
                }
            }
            kept
        })
    }

    fn histogram<E: Element>(&self, logprobs: &Floats, largest: f32, masses: bool) -> Histogram {
        let mut histogram = Histogram {
            largest,
            counts: vec![0; BUCKETS],
            masses: vec![0.0; BUCKETS],
        };
        let mut chunk = [0.0_f32; 512];
        let n = logprobs.width();
        let from = logprobs.row::<E>(0);
        let mut at = 0;
        while at < n {
            let len = chunk.len().min(n - at);
            let probs = &mut chunk[..len];
            if masses {
                self.path.run(Exp {
                    x: from.wrapping_add(at),
                    y: probs.as_mut_ptr(),
                    n: len,
                });
            }
            for (&prob, &logprob) in probs.iter().zip(&elements::<E>(logprobs)[at..at + len]) {
                let bucket = histogram.bucket(logprob.to_f32());
                histogram.counts[bucket] += 1;
                histogram.masses[bucket] += f64::from(prob);
            }
            at += len;
        }
        histogram
    }
}

/// One row.
fn elements<'a, E: Element>(row: &Floats<'a>) -> &'a [E] {
    let start = row.row::<E>(0);
    assert!(start.is_aligned());
    // SAFETY: the row has as many elements, in a buffer that is aligned for f32, and is borrowed for as long.
    unsafe { std::slice::from_raw_parts(start, row.width()) }
}

impl Kept {
    /// Calls `f` for every token that is left, in order.
    fn each<E: Element>(&self, logprobs: &[E], mut f: impl FnMut(usize, f32)) {
        let mut equal = self.equal;
        for (id, logprob) in logprobs.iter().enumerate() {
            let logprob = logprob.to_f32();
            if logprob > self.above {
                f(id, logprob);
            } else if logprob == self.above && equal > 0 {
                equal -= 1;
                f(id, logprob);
            }
        }
    }
}

/// How many tokens, and how much probability, lie how far under the most likely token.
struct Histogram {
    largest: f32,
    counts: Vec<usize>,
    masses: Vec<f64>,
}

impl Histogram {
    /// Of NaN the first.
    fn bucket(&self, logprob: f32) -> usize {
        (((self.largest - logprob) * PER_NAT) as usize).min(BUCKETS - 1)
    }

    /// The log-probabilities in one bucket, the largest first.
    fn sorted<E: Element>(&self, logprobs: &[E], bucket: usize) -> Vec<f32> {
        let all = logprobs.iter().map(|logprob| logprob.to_f32());
        let mut inside: Vec<f32> = all
            .filter(|&logprob| self.bucket(logprob) == bucket)
            .collect();
        inside.sort_unstable_by(|a, b| b.total_cmp(a));
        inside
    }

    /// The smallest log-probability that is kept: tokens are, the most likely first, as long as those before them do not
    /// reach `p` of all.
    fn top_p<E: Element>(&self, logprobs: &[E], p: f32) -> f32 {
        let enough = f64::from(p.max(1e-9)) * self.masses.iter().sum::<f64>();
        let mut before = 0.0;
        for (bucket, mass) in self.masses.iter().enumerate() {
            if before + mass < enough {
                before += mass;
                continue;
            }
            let mut least = self.largest;
            for logprob in self.sorted(logprobs, bucket) {
                if before >= enough {
                    break;
                }
                before += f64::from(logprob.exp());
                least = logprob;
            }
            return least;
        }
        f32::NEG_INFINITY
    }

    /// The `k`th largest log-probability, and how many of those equal to it are kept.
    fn top_k<E: Element>(&self, logprobs: &[E], k: usize) -> (f32, usize) {
        let mut before = 0;
        for (bucket, &count) in self.counts.iter().enumerate() {
            if before + count < k {
                before += count;
                continue;
            }
            let sorted = self.sorted(logprobs, bucket);
            let Some(&least) = sorted.get(k - before - 1) else {
                break;
            };
            let larger = sorted.iter().filter(|&&logprob| logprob > least).count();
            return (least, k - before - larger);
        }
        (f32::NEG_INFINITY, usize::MAX)
    }
}

/// The noise of `random::categorical`: MLX fills an array of `n` with Threefry-2x32, two words at a time.
struct Noise {
    key: [u32; 2],
    n: usize,
}

impl Noise {
    fn new(seed: u64, n: usize) -> Self {
        Noise {
            key: [(seed >> 32) as u32, seed as u32],
            n,
        }
    }

    fn bits(&self, index: usize) -> u32 {
        let (half, odd) = (self.n / 2, self.n % 2);
        if index < half {
            threefry(self.key, [index as u32, (index + half + odd) as u32])[0]
        } else if index == half && odd == 1 {
            threefry(self.key, [index as u32, 0])[0]
        } else {
            let pair = index - half - odd;
            threefry(self.key, [pair as u32, index as u32])[1]
        }
    }

    /// -ln(-ln u) for u from [0, 1).
    fn gumbel(&self, index: usize) -> f32 {
        let u = (self.bits(index) as f32 / u32::MAX as f32).min(1.0_f32.next_down());
        -(-u.ln()).ln()
    }
}

/// Threefry-2x32 in 20 rounds.
fn threefry([a, b]: [u32; 2], [mut x, mut y]: [u32; 2]) -> [u32; 2] {
    const TURNS: [[u32; 4]; 2] = [[13, 15, 26, 6], [17, 29, 16, 24]];
    let keys = [a, b, a ^ b ^ 0x1bd1_1bda];
    x = x.wrapping_add(keys[0]);
    y = y.wrapping_add(keys[1]);
    for round in 0..5 {
        for turn in TURNS[round % 2] {
            x = x.wrapping_add(y);
            y = y.rotate_left(turn) ^ x;
        }
        x = x.wrapping_add(keys[(round + 1) % 3]);
        y = y
            .wrapping_add(keys[(round + 2) % 3])
            .wrapping_add(round as u32 + 1);
    }
    [x, y]
}

/// The index of the first largest.
struct First<E> {
    x: *const E,
    n: usize,
}

impl<E: Element> Kernel for First<E> {
    type Output = Drawn;

    #[inline(always)]
    unsafe fn run<S: Simd>(self) -> Drawn {
        let (largest, level) = largest::<S, E>(self.x, self.n);
        let first = (0..self.n).find(|&i| self.x.add(i).read_unaligned().to_f32() == largest);
        Drawn {
            token: first.unwrap_or(0) as u32,
            level,
        }
    }
}

struct Level<E> {
    x: *const E,
    n: usize,
}

impl<E: Element> Kernel for Level<E> {
    type Output = f32;

    #[inline(always)]
    unsafe fn run<S: Simd>(self) -> f32 {
        largest::<S, E>(self.x, self.n).1
    }
}

/// The largest, -infinity where there is no other number, NaN not counted; and the same, but NaN where one is NaN or
/// +infinity.
///
/// # Safety
/// The processor has S's instructions; there are `n` elements.
#[inline(always)]
unsafe fn largest<S: Simd, E: Element>(x: *const E, n: usize) -> (f32, f32) {
    let mut largest = S::splat(f32::NEG_INFINITY);
    // 0 as long as all are finite or -infinity: times 0, what is not becomes NaN, and no sum loses that.
    let mut zeros = S::splat(0.0);
    let mut i = 0;
    while i + S::LANES <= n {
        let x = E::load::<S>(x.add(i));
        // The second where either is NaN.
        largest = S::max(x, largest);
        zeros = S::fma(S::max(S::splat(f32::MIN), x), S::splat(0.0), zeros);
        i += S::LANES;
    }
    let (mut largest, mut zero) = (S::largest(largest), S::sum(zeros));
    for rest in i..n {
        let x = x.add(rest).read_unaligned().to_f32();
        largest = largest.max(x);
        zero += if x == f32::NEG_INFINITY { 0.0 } else { x * 0.0 };
    }
    (largest, largest + zero)
}

struct LogProbs<E> {
    x: *const E,
    y: *mut E,
    n: usize,
}

impl<E: Element> Kernel for LogProbs<E> {
    /// The largest result, and the level of what it is made of.
    type Output = (f32, f32);

    #[inline(always)]
    unsafe fn run<S: Simd>(self) -> (f32, f32) {
        let (largest, level) = largest::<S, E>(self.x, self.n);
        // With none that is finite there is nothing to shift by.
        let shift = if largest.is_finite() { largest } else { 0.0 };
        let mut sums = S::splat(0.0);
        let mut i = 0;
        while i + S::LANES <= self.n {
            let x = E::load::<S>(self.x.add(i));
            sums = S::add(sums, exp::<S>(S::sub(x, S::splat(shift))));
            i += S::LANES;
        }
        let mut sum = S::sum(sums);
        for rest in i..self.n {
            sum += (self.x.add(rest).read_unaligned().to_f32() - shift).exp();
        }
        let total = E::from_f32(shift + sum.ln()).to_f32();
        let mut i = 0;
        while i < self.n {
            let n = self.n - i;
            let x = load::<S, E>(self.x.add(i), n);
            store::<S, E>(self.y.add(i), n, S::sub(x, S::splat(total)));
            i += S::LANES;
        }
        (E::from_f32(largest - total).to_f32(), level)
    }
}

struct Exp<E> {
    x: *const E,
    y: *mut f32,
    n: usize,
}

impl<E: Element> Kernel for Exp<E> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let mut i = 0;
        while i < self.n {
            let n = self.n - i;
            store::<S, f32>(self.y.add(i), n, exp::<S>(load::<S, E>(self.x.add(i), n)));
            i += S::LANES;
        }
    }
}
