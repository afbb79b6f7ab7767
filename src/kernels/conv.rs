//! Short causal convolutions, each channel by itself: what linear attention looks back with.

#![allow(unsafe_op_in_unsafe_fn)]

use std::ops::Range;

use super::float::{load, with_element, Element, Floats, FloatsMut};
use super::math::sigmoid;
use super::simd::{Kernel, Simd};
use super::Kernels;

/// Channels of one piece of work: whole cache lines of any type.
const CHANNELS: usize = 512;
/// Tokens of one piece of work.
const TOKENS: usize = 64;
/// Multiplications under which the work is not worth handing out.
const ALONE: usize = 1 << 14;
/// The most taps.
const MOST: usize = 8;

/// What each channel is multiplied by.
#[derive(Clone, Copy)]
pub struct ShortConv<'a> {
    /// `[channels, taps]`, 2 to 8 of them, the last one for a token itself.
    pub taps: Floats<'a>,
    /// `[1, channels]`
    pub bias: Option<Floats<'a>>,
    /// The sum s becomes `s sigmoid(s)`.
    pub silu: bool,
}

impl Kernels {
    /// `y[t] = f(Σ taps[j] before[t + j] + bias)`, channel by channel, with `before` the rows of past and then those of x. x and
    /// y `[n, channels]`, past and new_past `[taps - 1, channels]` of the type of x: the rows before x, and the last ones of
    /// both together. Summed in f32 and rounded once.
    ///
    /// Relative error, of the terms' sizes: `(taps + 1) * 2^-24`, and with silu 2^-20. Panics where shapes or types differ.
    pub fn short_conv(
        &self,
        x: &Floats,
        past: &Floats,
        conv: &ShortConv,
        y: &mut FloatsMut,
        new_past: &mut FloatsMut,
    ) {
        let (n, channels, taps) = (x.rows(), x.width(), conv.taps.width());
        let rows = taps.saturating_sub(1);
        let fits = (2..=MOST).contains(&taps)
            && conv.taps.rows() == channels
            && (past.rows(), past.width()) == (rows, channels)
            && (new_past.rows(), new_past.width()) == (rows, channels)
            && (y.rows(), y.width()) == (n, channels)
            && conv
                .bias
                .is_none_or(|bias| bias.rows() == 1 && bias.width() == channels);
        assert!(
            fits,
            "short_conv: [{n}, {channels}] behind [{}, {}] by [{}, {taps}]",
            past.rows(),
            past.width(),
            conv.taps.rows()
        );
        assert!(
            past.dtype() == x.dtype() && new_past.dtype() == x.dtype(),
            "short_conv: two types"
        );
        let (y, new_past) = (&*y, &*new_past);
        let parts = n.div_ceil(TOKENS).max(1);
        let pieces = channels.div_ceil(CHANNELS) * parts;
        let work = |index: usize| {
            let (block, part) = (index / parts, index % parts);
            let (first, token) = (block * CHANNELS, part * TOKENS);
            let piece = Piece {
                x,
                past,
                conv,
                y,
                new_past,
                channels: first..channels.min(first + CHANNELS),
                tokens: token..n.min(token + TOKENS),
            };
            with_element!(x.dtype(), E => self.convolve::<E>(&piece));
        };
        if n * channels * taps < ALONE {
            (0..pieces).for_each(work);
        } else {
            self.pool.parallel(pieces, work);
        }
    }

    fn convolve<E: Element>(&self, piece: &Piece) {
        let (taps, width) = (piece.conv.taps.width(), piece.channels.len());
        // A row of numbers for each tap, and the bias: vectors go over channels.
        let mut table = self.scratch.floats();
        table.resize((taps + 1) * width, 0.0);
        piece.fill(&mut table);
        self.path.run(Convolve::<E> {
            piece,
            table: &table,
            element: std::marker::PhantomData,
        });
        if piece.tokens.end == piece.x.rows() {
            piece.keep::<E>();
        }
    }
}

/// Some channels of some tokens.
struct Piece<'a> {
    x: &'a Floats<'a>,
    past: &'a Floats<'a>,
    conv: &'a ShortConv<'a>,
    y: &'a FloatsMut<'a>,
    new_past: &'a FloatsMut<'a>,
    channels: Range<usize>,
    tokens: Range<usize>,
}

impl Piece<'_> {
    /// The piece's channels in a row of past and x together.
    fn row<E: Element>(&self, row: usize) -> *const E {
        let rows = self.past.rows();
        let start = match row < rows {
            true => self.past.row::<E>(row),
            false => self.x.row::<E>(row - rows),
        };
        start.wrapping_add(self.channels.start)
    }

    /// `[taps + 1, channels]`
    fn fill(&self, table: &mut [f32]) {
        let (taps, width) = (self.conv.taps.width(), self.channels.len());
        let (table, bias) = table.split_at_mut(taps * width);
        with_element!(self.conv.taps.dtype(), T => {
            for (j, row) in table.chunks_exact_mut(width).enumerate() {
                for (to, channel) in row.iter_mut().zip(self.channels.clone()) {
                    let from = self.conv.taps.row::<T>(channel);
                    // SAFETY: the channel has so many taps.
                    *to = unsafe { from.add(j).read_unaligned() }.to_f32();
                }
            }
        });
        match &self.conv.bias {
            Some(given) => with_element!(given.dtype(), B => {
                for (to, channel) in bias.iter_mut().zip(self.channels.clone()) {
                    // SAFETY: the row has so many channels.
                    *to = unsafe { given.row::<B>(0).add(channel).read_unaligned() }.to_f32();
                }
            }),
            None => bias.fill(0.0),
        }
    }

    /// Writes the last rows.
    fn keep<E: Element>(&self) {
        for row in 0..self.new_past.rows() {
            let from = self.row::<E>(self.x.rows() + row);
            let to = self.new_past.row::<E>(row);
            let to = to.wrapping_add(self.channels.start);
            for i in 0..self.channels.len() {
                // SAFETY: both rows have the channels, which are written by the one piece that has them and the last tokens.
                unsafe { to.add(i).write_unaligned(from.add(i).read_unaligned()) };
            }
        }
    }
}

struct Convolve<'a, E> {
    piece: &'a Piece<'a>,
    table: &'a [f32],
    element: std::marker::PhantomData<E>,
}

impl<E: Element> Kernel for Convolve<'_, E> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let piece = self.piece;
        let (taps, width) = (piece.conv.taps.width(), piece.channels.len());
        let table = self.table.as_ptr();
        let mut rows = [std::ptr::null::<E>(); MOST];
        for token in piece.tokens.clone() {
            for (j, row) in rows[..taps].iter_mut().enumerate() {
                *row = piece.row::<E>(token + j);
            }
            let mut i = 0;
            while i < width {
                let n = width - i;
                let mut sum = load::<S, f32>(table.add(taps * width + i), n);
                for (j, row) in rows[..taps].iter().enumerate() {
                    let tap = load::<S, f32>(table.add(j * width + i), n);
                    sum = S::fma(load::<S, E>(row.add(i), n), tap, sum);
                }
                if piece.conv.silu {
                    sum = S::mul(sum, sigmoid::<S>(sum));
                }
                let mut lanes = [0.0; 16];
                S::store(lanes.as_mut_ptr(), sum);
                let n = n.min(S::LANES);
                piece
                    .y
                    .put::<S>(token, piece.channels.start + i, lanes.as_ptr(), n);
                i += S::LANES;
            }
        }
    }
}
