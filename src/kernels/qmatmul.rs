//! Products of activations with packed weights of whole numbers and 4-bit floats, in products of bytes.
//!
//! An output's error, against exact arithmetic on the same weights, is at most
//! `Σ_groups step_g / 2 * Σ |w|` (see `activations`) plus f32's rounding of as many sums as there are groups. What a row
//! gives does not depend on the rows beside it, nor on the number of threads.

#![allow(unsafe_op_in_unsafe_fn)]
// Indices name registers here.
#![allow(clippy::needless_range_loop)]

use std::ops::Range;

use super::activations::{tiles, Digits};
use super::codec::{scales, Bits, Codec, Fp4};
use super::float::{Floats, FloatsMut};
use super::layout::{Layout, Packed, ROWS, RUN};
use super::rows_of::To;
use super::simd::{Kernel, Simd};
use super::Kernels;
use crate::dtype::Mode;

/// Most rows of one pass over the weights: with more, registers run out.
pub(super) const TILE: usize = 8;
/// Rows whose products take about as long as the reading of the weights.
pub(super) const ROWS_OF_A_READING: usize = 4;
/// Bytes of a panel up to which the next one fits beside it in a core's second cache.
const FETCHED: usize = 128 << 10;
/// How far ahead weights are fetched that are used once.
const AHEAD: usize = 8 * 576;
/// Bytes of digits that stay in a core's second cache while weights pass by.
const CACHED: usize = 256 << 10;
/// Bytes of weights under which a chunk is not worth handing out.
const CHUNK: usize = 32 << 10;

/// Whether rows are made ready for both in the same way.
pub(super) fn same_digits(a: &Layout, b: &Layout) -> bool {
    let kind = |layout: &Layout| {
        let eight = layout.bits() == 8;
        (
            layout.inputs(),
            layout.group(),
            eight,
            layout.scheme().mode == Mode::Mxfp8,
        )
    };
    kind(a) == kind(b)
}

impl Kernels {
    /// `y = x Wᵀ` for packed weights of any scheme: x `[rows, inputs]`, y `[rows, outputs]`.
    ///
    /// Panics where the shapes do not fit together.
    pub fn quantized_matmul(&self, x: &Floats, weights: &Packed, y: &mut FloatsMut) {
        self.quantized_matmuls(x, std::slice::from_ref(weights), std::slice::from_mut(y));
    }

    /// Several matrices, for which `same_digits`, by the same rows.
    pub(super) fn quantized_matmuls(&self, x: &Floats, weights: &[Packed], y: &mut [FloatsMut]) {
        assert!(weights.len() == y.len());
        for (weights, y) in weights.iter().zip(&*y) {
            let layout = weights.layout();
            assert!(
                x.width() == layout.inputs() && y.width() == layout.rows() && x.rows() == y.rows(),
                "quantized_matmul: [{}, {}] by [{}, {}] to [{}, {}]",
                x.rows(),
                x.width(),
                layout.rows(),
                layout.inputs(),
                y.rows(),
                y.width()
            );
        }
        #[cfg(target_arch = "x86_64")]
        if self.tiles_pay(x.rows(), x.dtype(), x.dtype()) {
            for (weights, y) in weights.iter().zip(y) {
                self.tile_matmul(x, super::amx::Weights::Packed(*weights), y);
            }
            return;
        }
        let Some(layout) = weights.first().map(Packed::layout) else {
            return;
        };
        if layout.scheme().mode == Mode::Mxfp8 {
            for (weights, y) in weights.iter().zip(y) {
                self.fp8_matmul(x, weights, y);
            }
            return;
        }
        let y = &*y;
        let mut digits = self.scratch.digits();
        let per_row = layout.runs() * RUN * super::activations::digits_for(x.dtype());
        let most = self.tile_rows(super::activations::digits_for(x.dtype()));
        // Whole tiles, and rows about equally many in each pass.
        let at_once = (CACHED / per_row.max(1)).max(TILE) / TILE * TILE;
        let passes = x.rows().div_ceil(at_once).max(1);
        let at_once = x.rows().div_ceil(passes).next_multiple_of(TILE);
        let mut from = 0;
        while from < x.rows() {
            let rows = at_once.min(x.rows() - from);
            digits.fill(self.path, &self.pool, layout, x, from, rows, most);
            let chunks: Vec<(usize, Range<usize>)> = weights
                .iter()
                .enumerate()
                .flat_map(|(index, weights)| {
                    let layout = weights.layout();
                    let bytes = layout.panel_bytes() * rows.div_ceil(ROWS_OF_A_READING);
                    let chunks = self.chunks(layout.panels(), bytes);
                    (0..chunks.count).map(move |chunk| (index, chunks.range(chunk)))
                })
                .collect();
            self.pool.parallel(chunks.len(), |chunk| {
                let (index, panels) = chunks[chunk].clone();
                let job = Job {
                    weights: weights[index],
                    digits: &digits,
                    first: 0,
                    rows,
                    y: &y[index],
                    to: To::From(from),
                    most,
                    panels,
                };
                job.run(self.path);
            });
            from += rows;
        }
    }

    /// Rows of one pass over the weights.
    pub(super) fn tile_rows(&self, digits: usize) -> usize {
        struct Most(usize);
        impl Kernel for Most {
            type Output = usize;
            #[inline(always)]
            unsafe fn run<S: Simd>(self) -> usize {
                tile_rows::<S>(self.0)
            }
        }
        self.path.run(Most(digits))
    }

    /// Cuts `panels` of `bytes` of work each so that threads that are held up hold up little.
    pub(super) fn chunks(&self, panels: usize, bytes: usize) -> Chunks {
        let threads = self.pool.threads();
        let by_size = (panels * bytes / CHUNK).max(1);
        Chunks {
            count: if threads == 1 {
                1
            } else {
                by_size.min(8 * threads).min(panels.max(1))
            },
            items: panels,
        }
    }
}

/// Rows of one pass over the weights; sums of three digits need more registers.
const fn tile_rows<S: Simd>(digits: usize) -> usize {
    if digits == 3 && S::ROWS > 1 {
        S::ROWS / 2
    } else {
        S::ROWS
    }
}

/// `items` cut into `count` ranges of about the same length.
#[derive(Clone, Copy)]
pub(super) struct Chunks {
    pub count: usize,
    pub items: usize,
}

impl Chunks {
    pub fn range(&self, chunk: usize) -> Range<usize> {
        self.items * chunk / self.count..self.items * (chunk + 1) / self.count
    }
}

/// Some panels of the weights by rows that were made ready.
pub(super) struct Job<'a> {
    pub weights: Packed<'a>,
    pub digits: &'a Digits,
    /// Which rows of the digits: their tiles are cut by `tiles(rows, most)`, from `first` on.
    pub first: usize,
    pub rows: usize,
    pub y: &'a FloatsMut<'a>,
    /// The rows of y that they belong to.
    pub to: To<'a>,
    /// Rows of a tile.
    pub most: usize,
    pub panels: Range<usize>,
}

impl Job<'_> {
    pub fn run(&self, path: super::Path) {
        fn go<C: Codec, const D: usize>(path: super::Path, job: &Job) {
            path.run(Panels {
                job,
                codec: std::marker::PhantomData::<C>,
                digits: std::marker::PhantomData::<[(); D]>,
            });
        }
        fn with<C: Codec>(path: super::Path, job: &Job) {
            match job.digits.digits {
                3 => go::<C, 3>(path, job),
                _ => go::<C, 2>(path, job),
            }
        }
        let scheme = self.weights.layout().scheme();
        match (scheme.mode, scheme.bits) {
            (Mode::Mxfp4, _) => with::<Fp4<false>>(path, self),
            (Mode::Nvfp4, _) => with::<Fp4<true>>(path, self),
            (_, 2) => with::<Bits<2>>(path, self),
            (_, 3) => with::<Bits<3>>(path, self),
            (_, 4) => with::<Bits<4>>(path, self),
            (_, 5) => with::<Bits<5>>(path, self),
            (_, 6) => with::<Bits<6>>(path, self),
            _ => with::<Bits<8>>(path, self),
        }
    }
}

struct Panels<'a, C, const D: usize> {
    job: &'a Job<'a>,
    codec: std::marker::PhantomData<C>,
    digits: std::marker::PhantomData<[(); D]>,
}

impl<C: Codec, const D: usize> Kernel for Panels<'_, C, D> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let job = self.job;
        let layout = job.weights.layout();
        let passes = tiles(job.rows, job.most).count() * (ROWS / S::LANES);
        for panel in job.panels.clone() {
            let data = job.weights.panel(panel);
            let columns = ROWS.min(layout.rows() - panel * ROWS);
            let mut pass = 0;
            for (first, size) in tiles(job.rows, job.most) {
                let mut out = [[0.0_f32; ROWS]; TILE];
                let (x, steps) = job.digits.tile(job.first + first);
                for lane in (0..ROWS).step_by(S::LANES) {
                    let begins = panel == job.panels.start && pass == 0;
                    let tile = Tile {
                        job,
                        data: data.as_ptr(),
                        x,
                        steps,
                        fetch: Fetch::new(data, layout.block_bytes(), (pass, passes), begins),
                    };
                    pass += 1;
                    match size {
                        8 if tile_rows::<S>(D) >= 8 => tile.go::<S, C, 8, D>(lane, &mut out),
                        4 if tile_rows::<S>(D) >= 4 => tile.go::<S, C, 4, D>(lane, &mut out),
                        2 if tile_rows::<S>(D) >= 2 => tile.go::<S, C, 2, D>(lane, &mut out),
                        _ => tile.go::<S, C, 1, D>(lane, &mut out),
                    }
                }
                for (row, out) in out.iter().enumerate().take(size) {
                    let row = job.to.row(first + row);
                    job.y.put::<S>(row, panel * ROWS, out.as_ptr(), columns);
                }
            }
        }
    }
}

/// What is fetched from memory while a panel passes by: each pass fetches its share of the next panel, so that memory has work
/// all the time.
#[derive(Clone, Copy)]
struct Fetch {
    from: *const u8,
    /// Bytes for each block that passes by.
    step: usize,
    far: bool,
}

impl Fetch {
    /// In one of the passes over a panel, perhaps the first one of all.
    fn new(
        panel: &[u8],
        block_bytes: usize,
        (pass, passes): (usize, usize),
        begins: bool,
    ) -> Fetch {
        let near = passes == 1 || panel.len() > FETCHED || begins;
        let (ahead, step) = match near {
            true if pass == 0 => (AHEAD, block_bytes),
            true => (0, 0),
            false => (
                panel.len() + panel.len() * pass / passes,
                block_bytes.div_ceil(passes),
            ),
        };
        Fetch {
            from: panel.as_ptr().wrapping_add(ahead),
            step,
            far: !near,
        }
    }
}

/// One panel by one tile of rows.
struct Tile<'a> {
    job: &'a Job<'a>,
    data: *const u8,
    x: *const u8,
    steps: *const [f32; 2],
    fetch: Fetch,
}

impl Tile<'_> {
    /// M rows of D digits by outputs `lane .. lane + LANES` of the panel.
    #[inline(always)]
    unsafe fn go<S: Simd, C: Codec, const M: usize, const D: usize>(
        &self,
        lane: usize,
        out: &mut [[f32; ROWS]; TILE],
    ) {
        let layout = self.job.weights.layout();
        let (block_bytes, code_bytes) = (layout.block_bytes(), layout.code_bytes());
        let (kind, scale_bytes) = (layout.scales(), layout.scale_bytes());
        let runs = layout.block_inputs() / RUN;
        let mut y = [S::splat(0.0); M];
        let mut block = self.data;
        let mut x = self.x;
        let mut steps = self.steps;

        // Quad Q of the run by all rows. One row sums odd quads apart, so that a sum waits less for itself; sums of 16 bits
        // are joined before they overflow.
        macro_rules! quad {
            ($sums:ident, $joined:ident, $run:ident, $Q:literal) => {
                let w = C::quad::<S, $Q>($run);
                let chain = if M == 1 { $Q % 2 } else { 0 };
                for m in 0..M {
                    for d in 0..D {
                        let digits = S::broadcast(x.add((m * D + d) * RUN + 4 * $Q));
                        let sum = &mut $sums[chain][m][d];
                        *sum = match S::PAIRS {
                            true => S::pairs(*sum, w, digits),
                            false => S::dot(*sum, w, digits),
                        };
                    }
                }
                if S::PAIRS && ($Q + 1) % C::QUADS == 0 {
                    for m in 0..M {
                        for d in 0..D {
                            for chain in 0..if M == 1 { 2 } else { 1 } {
                                $joined[m][d] = S::join($joined[m][d], $sums[chain][m][d]);
                                $sums[chain][m][d] = S::izero();
                            }
                        }
                    }
                }
            };
        }
        // A whole group is summed: times its scale and step.
        macro_rules! finish {
            ($sums:ident, $joined:ident, $scales:expr) => {
                let (scale, bias) = scales::<S>(kind, $scales, lane);
                for m in 0..M {
                    let [step, sum] = *steps.add(m);
                    let mut digit = match S::PAIRS {
                        true => $joined[m],
                        false => $sums[0][m],
                    };
                    if M == 1 && !S::PAIRS {
                        for d in 0..D {
                            digit[d] = S::iadd(digit[d], $sums[1][m][d]);
                        }
                    }
                    let whole = if D == 2 {
                        S::to_float(S::iadd(S::ishl::<7>(digit[0]), digit[1]))
                    } else {
                        let low = S::iadd(S::ishl::<7>(digit[1]), digit[D - 1]);
                        let high = S::mul(S::to_float(digit[0]), S::splat(16384.0));
                        S::add(high, S::to_float(low))
                    };
                    y[m] = S::fma(bias, S::splat(sum), y[m]);
                    y[m] = S::fma(S::mul(scale, S::splat(step)), whole, y[m]);
                }
                steps = steps.add(M);
            };
        }

        let Fetch {
            from: fetch,
            step: fetch_step,
            far,
        } = self.fetch;
        let (mut fetched, mut due) = (0, 0);
        for _ in 0..layout.blocks() {
            let scale = block.add(code_bytes);
            let mut run = block.add(4 * lane);
            due += fetch_step;
            while fetched < due {
                let p = fetch.wrapping_add(fetched);
                match far {
                    true => S::prefetch_far(p),
                    false => S::prefetch(p),
                }
                fetched += 64;
            }
            if C::HALVES {
                let (mut sums, mut joined) = ([[[S::izero(); D]; M]; 2], [[S::izero(); D]; M]);
                quad!(sums, joined, run, 0);
                quad!(sums, joined, run, 1);
                quad!(sums, joined, run, 2);
                quad!(sums, joined, run, 3);
                finish!(sums, joined, scale);
                let (mut sums, mut joined) = ([[[S::izero(); D]; M]; 2], [[S::izero(); D]; M]);
                quad!(sums, joined, run, 4);
                quad!(sums, joined, run, 5);
                quad!(sums, joined, run, 6);
                quad!(sums, joined, run, 7);
                finish!(sums, joined, scale.add(scale_bytes));
                x = x.add(M * D * RUN);
            } else {
                let (mut sums, mut joined) = ([[[S::izero(); D]; M]; 2], [[S::izero(); D]; M]);
                for _ in 0..runs {
                    quad!(sums, joined, run, 0);
                    quad!(sums, joined, run, 1);
                    quad!(sums, joined, run, 2);
                    quad!(sums, joined, run, 3);
                    quad!(sums, joined, run, 4);
                    quad!(sums, joined, run, 5);
                    quad!(sums, joined, run, 6);
                    quad!(sums, joined, run, 7);
                    run = run.add(C::RUN_BYTES);
                    x = x.add(M * D * RUN);
                }
                finish!(sums, joined, scale);
            }
            block = block.add(block_bytes);
        }
        for (out, y) in out.iter_mut().zip(y) {
            S::store(out.as_mut_ptr().add(lane), y);
        }
    }
}
