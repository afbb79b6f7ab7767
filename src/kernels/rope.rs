//! Rotary position embeddings: each pair of elements is turned by its position times the pair's frequency.

#![allow(unsafe_op_in_unsafe_fn)]

use std::sync::{Arc, Mutex, PoisonError};

use super::float::{load, store, with_element, Element};
use super::heads::{Heads, HeadsMut};
use super::simd::{Kernel, Simd};
use super::Kernels;

/// Which positions turn what by how much. Made once per layer kind; any scaling of frequencies (linear, llama3, yarn and
/// others) is a table.
pub struct Rope {
    /// Elements of a head that are turned, from its front.
    dims: usize,
    /// Neighbours are pairs, else the halves are.
    traditional: bool,
    /// Positions are multiplied by this.
    scale: f32,
    /// What is turned is multiplied by this.
    factor: f32,
    /// Radians for each position, `[dims / 2]`
    frequencies: Vec<f64>,
    last: Mutex<Option<Arc<Turns>>>,
}

impl Rope {
    /// Frequencies `base^(-2 i / dims)`; positions times `scale`. An odd last dim stays as it is.
    pub fn from_base(dims: usize, traditional: bool, scale: f32, base: f32) -> Rope {
        let frequencies = (0..dims / 2)
            .map(|pair| f64::from(base).powf(-2.0 * pair as f64 / dims as f64))
            .collect();
        Rope {
            dims: dims / 2 * 2,
            traditional,
            scale,
            factor: 1.0,
            frequencies,
            last: Mutex::new(None),
        }
    }

    /// From wavelengths over 2π, `[dims / 2]`, as MLX's `freqs` are: the inverse of radians for each position.
    pub fn from_wavelengths(traditional: bool, scale: f32, wavelengths: &[f32]) -> Rope {
        Rope {
            dims: 2 * wavelengths.len(),
            traditional,
            scale,
            factor: 1.0,
            frequencies: wavelengths.iter().map(|&w| 1.0 / f64::from(w)).collect(),
            last: Mutex::new(None),
        }
    }

    /// With what it turns multiplied by a factor.
    pub fn times(self, factor: f32) -> Rope {
        Rope { factor, ..self }
    }

    pub fn dims(&self) -> usize {
        self.dims
    }

    /// Neighbours are pairs, else the halves of what is turned are.
    pub fn is_traditional(&self) -> bool {
        self.traditional
    }

    /// Of positions.
    pub fn scale(&self) -> f32 {
        self.scale
    }

    /// Of what is turned.
    pub fn factor(&self) -> f32 {
        self.factor
    }

    /// Radians for each position, before `scale`: `[dims / 2]`
    pub fn frequencies(&self) -> &[f64] {
        &self.frequencies
    }

    /// The turns of all positions of the runs, and perhaps of more. The last ones are kept: the layers of a step ask for the
    /// same, and texts of one pass for fewer.
    fn turns(&self, runs: &[Run]) -> Arc<Turns> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(turns) = last.as_ref().filter(|turns| turns.begin_with(runs)) {
            return turns.clone();
        }
        let tokens: usize = runs.iter().map(|run| run.tokens).sum();
        let mut values = vec![0.0; tokens * self.dims];
        let factor = f64::from(self.factor);
        let positions = runs.iter().flat_map(|run| {
            let first = f64::from(run.offset);
            (0..run.tokens).map(move |token| first + token as f64)
        });
        let places = values.chunks_exact_mut(self.dims.max(1));
        for (position, values) in positions.zip(places) {
            // The angle is made in f64: as exact as the scale and the frequencies are.
            let position = position * f64::from(self.scale);
            let (cosines, sines) = values.split_at_mut(self.dims / 2);
            for ((cosine, sine), frequency) in cosines.iter_mut().zip(sines).zip(&self.frequencies)
            {
                let (s, c) = (position * frequency).sin_cos();
                *cosine = (c * factor) as f32;
                *sine = (s * factor) as f32;
            }
        }
        let turns = Arc::new(Turns {
            runs: runs.to_vec(),
            values,
        });
        *last = Some(turns.clone());
        turns
    }
}

/// Tokens whose positions follow each other.
#[derive(Clone, Copy)]
pub(super) struct Run {
    /// The first one's.
    pub offset: i32,
    pub tokens: usize,
}

/// What some positions turn by.
struct Turns {
    runs: Vec<Run>,
    /// For each position `dims / 2` cosines, then as many sines.
    values: Vec<f32>,
}

impl Turns {
    /// Whether the runs are the first positions of these.
    fn begin_with(&self, runs: &[Run]) -> bool {
        let last = runs.len().saturating_sub(1);
        let same = |(index, (own, run)): (usize, (&Run, &Run))| {
            own.offset == run.offset
                && (own.tokens == run.tokens || index == last && own.tokens > run.tokens)
        };
        runs.len() <= self.runs.len() && self.runs.iter().zip(runs).enumerate().all(same)
    }
}

impl Kernels {
    /// Turns every head of every token; token t has position `offset + t`. y may be a place in a cache, and may be x.
    ///
    /// Error: `|x| * 2^-22` beside the output's rounding. Panics where the sizes differ, or the rope has more dims than a
    /// head.
    pub fn rope(&self, rope: &Rope, x: &Heads, offset: i32, y: &mut HeadsMut) {
        let tokens = x.shape().tokens;
        self.rope_runs(rope, x, &[Run { offset, tokens }], y);
    }

    /// The same of tokens that are several runs, one after the other.
    pub(super) fn rope_runs(&self, rope: &Rope, x: &Heads, runs: &[Run], y: &mut HeadsMut) {
        let (from, to) = (x.shape(), y.shape());
        assert!(
            (from.heads, from.tokens, from.dim) == (to.heads, to.tokens, to.dim)
                && runs.iter().map(|run| run.tokens).sum::<usize>() == from.tokens,
            "rope: {from:?} to {to:?}"
        );
        let (dims, tokens) = (rope.dims, from.tokens);
        assert!(dims <= from.dim, "rope: {dims} dims of {}", from.dim);
        let y = &*y;
        let turns = rope.turns(runs);
        self.rows(tokens, from.heads * from.dim, |token| {
            let turns = &turns.values[token * dims..(token + 1) * dims];
            for head in 0..from.heads {
                with_element!(x.dtype(), X => with_element!(y.dtype(), Y => self.path.run(Turn {
                    x: x.row::<X>(head, token),
                    y: y.row::<Y>(head, token),
                    n: from.dim,
                    traditional: rope.traditional,
                    turns,
                })));
            }
        });
    }
}

impl Kernels {
    /// y becomes x, which has the same type and sizes and shares nothing with it; panics where they differ.
    pub(super) fn copy_heads(&self, x: &Heads, y: &mut HeadsMut) {
        let (from, to) = (x.shape(), y.shape());
        assert!(
            (from.heads, from.tokens, from.dim) == (to.heads, to.tokens, to.dim)
                && x.dtype() == y.dtype(),
            "copy: {from:?} to {to:?}"
        );
        let bytes = from.dim * x.dtype().size() as usize;
        for token in 0..from.tokens {
            for head in 0..from.heads {
                with_element!(x.dtype(), E => {
                    let (x, y) = (x.row::<E>(head, token), y.row::<E>(head, token));
                    // SAFETY: both have `dim` elements, and do not overlap.
                    unsafe { std::ptr::copy_nonoverlapping(x.cast::<u8>(), y.cast::<u8>(), bytes) };
                });
            }
        }
    }
}

struct Turn<'a, X, Y> {
    x: *const X,
    y: *mut Y,
    n: usize,
    traditional: bool,
    /// Cosines, then sines.
    turns: &'a [f32],
}

impl<X: Element, Y: Element> Kernel for Turn<'_, X, Y> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let (dims, half) = (self.turns.len(), self.turns.len() / 2);
        let (cosines, sines) = (self.turns.as_ptr(), self.turns.as_ptr().add(half));
        if self.traditional {
            for pair in 0..half {
                let a = self.x.add(2 * pair).read_unaligned().to_f32();
                let b = self.x.add(2 * pair + 1).read_unaligned().to_f32();
                let (cosine, sine) = (*cosines.add(pair), *sines.add(pair));
                let to = self.y.add(2 * pair);
                to.write_unaligned(Y::from_f32(a * cosine - b * sine));
                to.add(1)
                    .write_unaligned(Y::from_f32(a * sine + b * cosine));
            }
        } else {
            let mut i = 0;
            while i < half {
                let n = half - i;
                let a = load::<S, X>(self.x.add(i), n);
                let b = load::<S, X>(self.x.add(half + i), n);
                let cosine = load::<S, f32>(cosines.add(i), n);
                let sine = load::<S, f32>(sines.add(i), n);
                let first = S::sub(S::mul(a, cosine), S::mul(b, sine));
                let second = S::fma(a, sine, S::mul(b, cosine));
                store::<S, Y>(self.y.add(i), n, first);
                store::<S, Y>(self.y.add(half + i), n, second);
                i += S::LANES;
            }
        }
        let mut i = dims;
        while i < self.n {
            let n = self.n - i;
            store::<S, Y>(self.y.add(i), n, load::<S, X>(self.x.add(i), n));
            i += S::LANES;
        }
    }
}
