//! Rotary position embeddings: what queries and keys are turned by.

use std::f64::consts::PI;
use std::sync::Arc;

use crate::error::Result;
use crate::kernels;
use crate::mlx::{nn, ops, Array};

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
    /// One factor for each pair.
    Long {
        factors: Vec<f32>,
        /// What the turned elements are multiplied by.
        attention_factor: f32,
    },
    /// The first `rotated` of the dims, at the wavelengths of all.
    Proportional {
        rotated: i32,
        factor: f32,
    },
}

#[derive(Clone)]
pub struct RotaryEmbedding {
    dims: i32,
    traditional: bool,
    scale: f32,
    frequencies: Frequencies,
    /// The same for the CPU's kernels.
    kernel: Arc<kernels::Rope>,
    /// What the turned elements are multiplied by.
    attention_factor: f32,
}

#[derive(Clone)]
enum Frequencies {
    Base(f32),
    /// `[dims / 2]`, f32: the wavelengths over 2π
    Table(Array),
}

impl Rope {
    /// Wavelengths over 2π, `[dims / 2]`; None where they are the powers of the base.
    fn wavelengths(&self) -> Option<Vec<f32>> {
        let dims = f64::from(self.dims);
        let plain = |pair: i32| f64::from(self.base).powf(2.0 * f64::from(pair) / dims);
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
            RopeScaling::Long { factors, .. } => {
                let stretched = pairs.map(plain).zip(factors);
                stretched
                    .map(|(plain, factor)| plain * f64::from(*factor))
                    .collect()
            }
            RopeScaling::Proportional { rotated, factor } => pairs
                .map(|pair| match pair < rotated / 2 {
                    true => plain(pair) * f64::from(*factor),
                    false => f64::INFINITY,
                })
                .collect(),
        };
        Some(
            table
                .into_iter()
                .map(|wavelength| wavelength as f32)
                .collect(),
        )
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
    pub fn attention_factor(&self) -> f32 {
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
        let size = usize::try_from(rope.dims).unwrap_or(0);
        let (kernel, frequencies) = match rope.wavelengths() {
            Some(table) => (
                kernels::Rope::from_wavelengths(rope.traditional, scale, &table),
                Frequencies::Table(Array::from_f32(&table)?),
            ),
            None => (
                kernels::Rope::from_base(size, rope.traditional, scale, rope.base),
                Frequencies::Base(rope.base),
            ),
        };
        Ok(RotaryEmbedding {
            dims: rope.dims,
            traditional: rope.traditional,
            scale,
            frequencies,
            kernel: Arc::new(kernel),
            attention_factor: rope.attention_factor(),
        })
    }

    /// For the CPU's kernels; None where they do not know all of it.
    pub fn kernel(&self) -> Option<Arc<kernels::Rope>> {
        (self.attention_factor == 1.0).then(|| self.kernel.clone())
    }

    /// x `[batch, heads, tokens, head_dim]`, its first token at position `offset`.
    pub fn forward(&self, x: &Array, offset: i32) -> Result<Array> {
        let x = self.enlarged(x)?;
        let (base, table) = match &self.frequencies {
            Frequencies::Base(base) => (Some(*base), None),
            Frequencies::Table(table) => (None, Some(table)),
        };
        let turn = nn::Turn {
            dims: self.dims,
            traditional: self.traditional,
            scale: self.scale,
            base,
            table,
            kernel: &self.kernel,
        };
        nn::rope(&x, turn, offset)
    }

    /// The elements that will be turned, times the attention factor.
    fn enlarged(&self, x: &Array) -> Result<Array> {
        if self.attention_factor == 1.0 {
            return Ok(x.clone());
        }
        let factor = Array::scalar(self.attention_factor, x.dtype())?;
        let width = x.dim(3);
        let turned = ops::multiply(&ops::columns(x, 0..self.dims)?, &factor)?;
        match self.dims < width {
            true => ops::concatenate(&[&turned, &ops::columns(x, self.dims..width)?], -1),
            false => Ok(turned),
        }
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
