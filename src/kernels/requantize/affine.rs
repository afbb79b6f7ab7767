//! Groups of whole numbers with a scale and a bias: `code * scale + bias`.

use super::super::layout::{Layout, ScaleKind};
use super::super::simd::Simd;
use super::{is_same, stored, total, LANES};

/// Times that scale and bias are made anew from the codes that they gave.
const REFINEMENTS: usize = 4;

/// Packs a group's numbers in place of `codes`, `scale` and `bias`. False where they are those already.
///
/// # Safety
/// The processor has S's instructions.
#[inline(always)]
pub unsafe fn pack<S: Simd>(
    layout: &Layout,
    values: &[f32; 256],
    wanted: &[[f32; LANES]],
    codes: &mut [u8],
    scale: &mut [u8],
    bias: &mut [u8],
) -> bool {
    let kind = layout.scales();
    let old = (read(kind, scale), read(kind, bias));
    if is_same(wanted, codes, values, old.0, old.1) {
        return false;
    }
    let top = ((1_u32 << layout.bits()) - 1) as f32;
    let mut search = Search::new(kind, wanted, top);
    search.consider::<S>(old.0, old.1);
    search.run::<S>();
    let best = search.best;
    write(kind, best.scale, scale);
    write(kind, best.bias, bias);
    let grid = Grid::<S>::new(best.scale, best.bias, top);
    let mut nearest = [0.0; LANES];
    for (codes, x) in codes.chunks_exact_mut(LANES).zip(wanted) {
        let mut at = 0;
        while at < LANES {
            let found = grid.codes(S::load(x.as_ptr().add(at)));
            S::store(nearest.as_mut_ptr().add(at), found);
            at += S::LANES;
        }
        for (code, nearest) in codes.iter_mut().zip(nearest) {
            *code = nearest as u8;
        }
    }
    true
}

/// A scale and a bias in all lanes.
struct Grid<S: Simd> {
    scale: S::F,
    inverse: S::F,
    bias: S::F,
    zero: S::F,
    top: S::F,
}

impl<S: Simd> Grid<S> {
    #[inline(always)]
    unsafe fn new(scale: f32, bias: f32, top: f32) -> Self {
        Grid {
            scale: S::splat(scale),
            inverse: S::splat(1.0 / scale),
            bias: S::splat(bias),
            zero: S::splat(0.0),
            top: S::splat(top),
        }
    }

    /// The nearest code of each lane; what is no number gets 0.
    #[inline(always)]
    unsafe fn codes(&self, x: S::F) -> S::F {
        let code = S::mul(S::sub(x, self.bias), self.inverse);
        S::round(S::min(S::max(code, self.zero), self.top))
    }

    #[inline(always)]
    unsafe fn off(&self, x: S::F, codes: S::F) -> S::F {
        S::sub(x, S::add(S::mul(codes, self.scale), self.bias))
    }
}

/// A scale and a bias as they are stored.
#[derive(Clone, Copy)]
struct Fit {
    scale: f32,
    bias: f32,
    /// The sum of squares; infinite where nothing was tried yet.
    error: f32,
}

struct Search<'a> {
    kind: ScaleKind,
    wanted: &'a [[f32; LANES]],
    /// The largest code.
    top: f32,
    count: f32,
    mean: f32,
    best: Fit,
}

impl<'a> Search<'a> {
    #[inline(always)]
    fn new(kind: ScaleKind, wanted: &'a [[f32; LANES]], top: f32) -> Self {
        let count = (wanted.len() * LANES) as f32;
        let mut sums = [0.0; LANES];
        for chunk in wanted {
            for (sum, x) in sums.iter_mut().zip(chunk) {
                *sum += x;
            }
        }
        Search {
            kind,
            wanted,
            top,
            count,
            mean: total(sums) / count,
            best: Fit {
                scale: 0.0,
                bias: 0.0,
                error: f32::INFINITY,
            },
        }
    }

    #[inline(always)]
    unsafe fn run<S: Simd>(&mut self) {
        let (low, high) = self.range();
        let rounded = |x| stored(self.kind, x).0;
        // mlx-lm packs numbers that were rounded to the stored type.
        let theirs = mlx(rounded(low), rounded(high), self.top);
        for (scale, bias) in [mlx(low, high, self.top), theirs] {
            self.consider::<S>(scale, bias);
        }
        // Ranges that cut off some of both ends: the fewer codes there are, the more it pays.
        let cuts: [f32; 3] = match self.top {
            ..4.0 => [0.04, 0.14, 0.24],
            ..16.0 => [0.0, 0.05, 0.1],
            _ => [-0.5, 0.3, 1.0].map(|steps| steps / self.top),
        };
        for below in cuts {
            for above in cuts {
                let range = high - low;
                let scale = range * (1.0 - below - above) / self.top;
                self.consider::<S>(scale, low + below * range);
            }
        }
        self.refine::<S>();
        self.vary::<S>();
        self.refine::<S>();
    }

    #[inline(always)]
    fn range(&self) -> (f32, f32) {
        let (mut low, mut high) = ([f32::INFINITY; LANES], [f32::NEG_INFINITY; LANES]);
        for chunk in self.wanted {
            for i in 0..LANES {
                low[i] = low[i].min(chunk[i]);
                high[i] = high[i].max(chunk[i]);
            }
        }
        (
            low.into_iter().fold(f32::INFINITY, f32::min),
            high.into_iter().fold(f32::NEG_INFINITY, f32::max),
        )
    }

    /// Takes a scale and a bias, rounded, if they are better than all before.
    #[inline(always)]
    unsafe fn consider<S: Simd>(&mut self, scale: f32, bias: f32) -> bool {
        let (scale, bias) = (stored(self.kind, scale).0, stored(self.kind, bias).0);
        let error = self.error::<S>(scale, bias);
        // Not where it is no number.
        let better = error < self.best.error && scale.is_finite() && bias.is_finite();
        if better {
            self.best = Fit { scale, bias, error };
        }
        better
    }

    #[inline(always)]
    unsafe fn error<S: Simd>(&self, scale: f32, bias: f32) -> f32 {
        let grid = Grid::<S>::new(scale, bias, self.top);
        let mut sums = [0.0; LANES];
        let mut at = 0;
        while at < LANES {
            let mut sum = S::splat(0.0);
            for chunk in self.wanted {
                let x = S::load(chunk.as_ptr().add(at));
                let off = grid.off(x, grid.codes(x));
                sum = S::add(sum, S::mul(off, off));
            }
            S::store(sums.as_mut_ptr().add(at), sum);
            at += S::LANES;
        }
        total(sums)
    }

    /// Of the best codes so far: their sum, that of their squares, and that of their products with the numbers less the mean.
    #[inline(always)]
    unsafe fn moments<S: Simd>(&self) -> [f32; 3] {
        let grid = Grid::<S>::new(self.best.scale, self.best.bias, self.top);
        let mean = S::splat(self.mean);
        let mut sums = [[0.0; LANES]; 3];
        let mut at = 0;
        while at < LANES {
            let mut sum = [S::splat(0.0); 3];
            for chunk in self.wanted {
                let x = S::load(chunk.as_ptr().add(at));
                let codes = grid.codes(x);
                sum[0] = S::add(sum[0], codes);
                sum[1] = S::add(sum[1], S::mul(codes, codes));
                sum[2] = S::add(sum[2], S::mul(codes, S::sub(x, mean)));
            }
            for (sums, sum) in sums.iter_mut().zip(sum) {
                S::store(sums.as_mut_ptr().add(at), sum);
            }
            at += S::LANES;
        }
        [total(sums[0]), total(sums[1]), total(sums[2])]
    }

    /// Least squares: the scale and bias that are best for the codes of the best so far, and the codes that these give, in
    /// turns. Of what they round to, both sides are tried.
    #[inline(always)]
    unsafe fn refine<S: Simd>(&mut self) {
        for _ in 0..REFINEMENTS {
            let [codes, squares, products] = self.moments::<S>();
            let middle = codes / self.count;
            let spread = squares - codes * middle;
            if spread <= 0.0 {
                return;
            }
            let mut better = false;
            for scale in both(stored(self.kind, products / spread)) {
                for bias in both(stored(self.kind, self.mean - scale * middle)) {
                    better |= self.consider::<S>(scale, bias);
                }
            }
            if !better {
                return;
            }
        }
    }

    /// Scales and biases around the best: each moves some codes by one.
    #[inline(always)]
    unsafe fn vary<S: Simd>(&mut self) {
        let Fit { scale, bias, .. } = self.best;
        for wider in [-1.0, -0.5, 0.5, 1.0] {
            let wider = scale * (1.0 + wider / self.top);
            for shift in [-0.25, 0.0, 0.25] {
                // Around the middle of the codes.
                let middle = bias + 0.5 * self.top * (scale - wider);
                self.consider::<S>(wider, middle + shift * scale);
            }
        }
    }
}

/// Two numbers, or one if they are the same.
#[inline(always)]
fn both((one, other): (f32, f32)) -> impl Iterator<Item = f32> {
    let count = if one == other { 1 } else { 2 };
    [one, other].into_iter().take(count)
}

/// MLX's scale and bias: zero has a code of its own.
#[inline(always)]
fn mlx(low: f32, high: f32, top: f32) -> (f32, f32) {
    let scale = ((high - low) / top).max(1e-7);
    let (scale, edge) = match low.abs() > high.abs() {
        true => (scale, low),
        false => (-scale, high),
    };
    match (edge / scale).round_ties_even() {
        0.0 => (scale, 0.0),
        zero => (edge / zero, edge),
    }
}

#[inline(always)]
fn read(kind: ScaleKind, from: &[u8]) -> f32 {
    match (kind, from) {
        (ScaleKind::F16, &[a, b]) => half::f16::from_le_bytes([a, b]).to_f32(),
        (ScaleKind::BF16, &[a, b]) => half::bf16::from_le_bytes([a, b]).to_f32(),
        (_, &[a, b, c, d]) => f32::from_le_bytes([a, b, c, d]),
        _ => f32::NAN,
    }
}

#[inline(always)]
fn write(kind: ScaleKind, x: f32, to: &mut [u8]) {
    match kind {
        ScaleKind::F16 => to.copy_from_slice(&half::f16::from_f32(x).to_le_bytes()),
        ScaleKind::BF16 => to.copy_from_slice(&half::bf16::from_f32(x).to_le_bytes()),
        _ => to.copy_from_slice(&x.to_le_bytes()),
    }
}
