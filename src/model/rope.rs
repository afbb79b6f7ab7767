//! Rotary position embeddings: what queries and keys are turned by.

use std::f64::consts::PI;
use std::sync::Arc;

use crate::error::Result;
use crate::kernels;
use crate::mlx::{nn, Array};

#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Elements of a head that are turned, from its front.
    pub dims: i32,
    pub base: f32,
    /// Rotates neighbouring elements instead of halves.
    pub traditional: bool,
    pub scaling: RopeScaling,
}

#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    None,
    /// Positions are divided by this.
    Linear(f32),
    Llama3 {
        factor: f32,
        low_freq_factor: f32,
        high_freq_factor: f32,
        original_context: f32,
    },
    Yarn {
        factor: f32,
        original_context: f32,
        beta_fast: f32,
        beta_slow: f32,
        /// Whether the bounds between short and long wavelengths are whole numbers of pairs.
        truncate: bool,
        /// What the turned elements are multiplied by.
        attention_factor: f32,
    },
    /// Of all pairs the first turn, as they would if all did; the others stay.
    Proportional {
        pairs: i32,
        /// Of the wavelengths.
        factor: f32,
    },
    /// One factor for each pair: the short ones up to `original_context` tokens, beyond that the long ones for all of them.
    Long {
        short: Vec<f32>,
        long: Vec<f32>,
        original_context: i32,
        /// What the turned elements are multiplied by.
        attention_factor: f32,
    },
}

pub struct RotaryEmbedding {
    dims: i32,
    traditional: bool,
    scale: f32,
    frequencies: Frequencies,
    /// Those of sequences with more tokens than this.
    long: Option<(i32, Frequencies)>,
    /// What the turned elements are multiplied by.
    attention_factor: f32,
}

struct Frequencies {
    base: f32,
    /// `[dims / 2]`, f32: the wavelengths over 2π, where they are not the powers of the base
    table: Option<Array>,
    /// The same for the CPU's kernels.
    kernel: Arc<kernels::Rope>,
}

impl Rope {
    /// Wavelengths over 2π, `[dims / 2]`; None where they are the powers of the base.
    fn wavelengths(&self) -> Option<Vec<f32>> {
        let plain = |pair| self.plain(pair);
        let pairs = 0..self.dims / 2;
        let table = match &self.scaling {
            RopeScaling::None | RopeScaling::Linear(_) => return None,
            RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_context,
            } => {
                let [factor, low, high, context] =
                    [factor, low_freq_factor, high_freq_factor, original_context]
                        .map(|x| f64::from(*x));
                let stretched = |pair| llama3(plain(pair), factor, low, high, context);
                pairs.map(stretched).collect::<Vec<f64>>()
            }
            RopeScaling::Yarn {
                factor,
                original_context,
                beta_fast,
                beta_slow,
                truncate,
                ..
            } => {
                let bounds =
                    self.yarn_bounds([*beta_fast, *beta_slow], *original_context, *truncate);
                let factor = f64::from(*factor);
                let blended = |pair| yarn(plain(pair), f64::from(pair), factor, bounds);
                pairs.map(blended).collect()
            }
            RopeScaling::Proportional {
                pairs: turned,
                factor,
            } => {
                let factor = f64::from(*factor);
                let wavelength = |pair| match pair < *turned {
                    true => factor * plain(pair),
                    false => f64::INFINITY,
                };
                pairs.map(wavelength).collect()
            }
            RopeScaling::Long { short, .. } => return Some(self.stretched(short)),
        };
        Some(
            table
                .into_iter()
                .map(|wavelength| wavelength as f32)
                .collect(),
        )
    }

    /// A pair's wavelength without scaling.
    fn plain(&self, pair: i32) -> f64 {
        f64::from(self.base).powf(2.0 * f64::from(pair) / f64::from(self.dims))
    }

    /// Each pair's wavelength by its factor.
    fn stretched(&self, factors: &[f32]) -> Vec<f32> {
        let pairs = (0..self.dims / 2).map(|pair| self.plain(pair)).zip(factors);
        pairs
            .map(|(plain, factor)| (plain * f64::from(*factor)) as f32)
            .collect()
    }

    /// The pairs up to which wavelengths are short enough to stay, and from which on they are stretched.
    fn yarn_bounds(&self, betas: [f32; 2], original_context: f32, truncate: bool) -> [f64; 2] {
        let (dims, base) = (f64::from(self.dims), f64::from(self.base));
        let [low, high] = betas.map(|turns| {
            let longest = f64::from(original_context) / (f64::from(turns) * 2.0 * PI);
            dims * longest.ln() / (2.0 * base.ln())
        });
        let [low, high] = match truncate {
            true => [low.floor(), high.ceil()],
            false => [low, high],
        };
        let (low, high) = (low.max(0.0), high.min(dims - 1.0));
        [low, if low == high { high + 0.001 } else { high }]
    }

    /// What the turned elements are multiplied by.
    fn attention_factor(&self) -> f32 {
        match self.scaling {
            RopeScaling::Yarn {
                attention_factor, ..
            }
            | RopeScaling::Long {
                attention_factor, ..
            } => attention_factor,
            _ => 1.0,
        }
    }
}

impl RotaryEmbedding {
    pub fn new(rope: &Rope) -> Result<Self> {
        let scale = match rope.scaling {
            RopeScaling::Linear(factor) => 1.0 / factor,
            _ => 1.0,
        };
        let frequencies = |table: Option<Vec<f32>>| -> Result<Frequencies> {
            let kernel = match &table {
                Some(table) => kernels::Rope::from_wavelengths(rope.traditional, scale, table),
                None => {
                    let size = usize::try_from(rope.dims).unwrap_or(0);
                    kernels::Rope::from_base(size, rope.traditional, scale, rope.base)
                }
            };
            let kernel = kernel.times(rope.attention_factor());
            Ok(Frequencies {
                base: rope.base,
                table: table.map(|table| Array::from_f32(&table)).transpose()?,
                kernel: Arc::new(kernel),
            })
        };
        let long = match &rope.scaling {
            RopeScaling::Long {
                long,
                original_context,
                ..
            } => Some((*original_context, frequencies(Some(rope.stretched(long)))?)),
            _ => None,
        };
        Ok(RotaryEmbedding {
            dims: rope.dims,
            traditional: rope.traditional,
            scale,
            frequencies: frequencies(rope.wavelengths())?,
            long,
            attention_factor: rope.attention_factor(),
        })
    }

    /// Whether a sequence with so many tokens has frequencies of its own.
    pub fn is_long(&self, length: i32) -> bool {
        self.long.as_ref().is_some_and(|(most, _)| length > *most)
    }

    /// Of a sequence with so many tokens.
    fn of(&self, length: i32) -> &Frequencies {
        match &self.long {
            Some((_, long)) if self.is_long(length) => long,
            _ => &self.frequencies,
        }
    }

    /// For the CPU's kernels, in a sequence of `length` tokens.
    pub fn kernel(&self, length: i32) -> Arc<kernels::Rope> {
        self.of(length).kernel.clone()
    }

    /// x `[batch, heads, tokens, head_dim]`, its first token at position `offset`, in a sequence of `length` tokens.
    pub fn forward(&self, x: &Array, offset: i32, length: i32) -> Result<Array> {
        let frequencies = self.of(length);
        let turn = nn::Turn {
            dims: self.dims,
            traditional: self.traditional,
            scale: self.scale,
            base: frequencies.table.is_none().then_some(frequencies.base),
            table: frequencies.table.as_ref(),
            factor: self.attention_factor,
            kernel: &frequencies.kernel,
        };
        nn::rope(x, turn, offset)
    }
}

/// Long wavelengths are stretched by `factor`, short ones kept, those between blended.
fn llama3(freq: f64, factor: f64, low: f64, high: f64, original_context: f64) -> f64 {
    let wavelength = 2.0 * PI * freq;
    if wavelength > original_context / low {
        freq * factor
    } else if wavelength > original_context / high {
        let smooth = (original_context / wavelength - low) / (high - low);
        freq / ((1.0 - smooth) / factor + smooth)
    } else {
        freq
    }
}

/// As above, by the number of the pair: its frequency is blended.
fn yarn(freq: f64, pair: f64, factor: f64, [low, high]: [f64; 2]) -> f64 {
    let stretched = ((pair - low) / (high - low)).clamp(0.0, 1.0);
    1.0 / (stretched / (factor * freq) + (1.0 - stretched) / freq)
}
