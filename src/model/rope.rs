//! Rotary position embeddings: default, linear and llama3 scaling.

use std::f32::consts::PI;
use std::sync::Arc;

use super::config::{Rope, RopeScaling};
use crate::error::Result;
use crate::kernels;
use crate::mlx::{fast, ops, Array};

#[derive(Clone)]
pub struct RotaryEmbedding {
    dims: i32,
    traditional: bool,
    scale: f32,
    frequencies: Frequencies,
    /// The same for the CPU's kernels.
    kernel: Arc<kernels::Rope>,
}

#[derive(Clone)]
enum Frequencies {
    Base(f32),
    /// `[dims / 2]`, f32: the wavelengths over 2π
    Table(Array),
}

impl RotaryEmbedding {
    pub fn new(rope: &Rope, dims: i32) -> Result<Self> {
        let scale = match rope.scaling {
            RopeScaling::Linear(factor) => 1.0 / factor,
            _ => 1.0,
        };
        let size = usize::try_from(dims).unwrap_or(0);
        let mut kernel = None;
        let frequencies = match rope.scaling {
            RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_context,
            } => {
                let table: Vec<f32> = (0..dims / 2)
                    .map(|pair| rope.base.powf(2.0 * pair as f32 / dims as f32))
                    .map(|freq| {
                        llama3(
                            freq,
                            factor,
                            low_freq_factor,
                            high_freq_factor,
                            original_context,
                        )
                    })
                    .collect();
                kernel = Some(kernels::Rope::from_wavelengths(
                    rope.traditional,
                    scale,
                    &table,
                ));
                Frequencies::Table(Array::from_f32(&table)?)
            }
            _ => Frequencies::Base(rope.base),
        };
        Ok(RotaryEmbedding {
            dims,
            traditional: rope.traditional,
            scale,
            frequencies,
            kernel: Arc::new(kernel.unwrap_or_else(|| {
                kernels::Rope::from_base(size, rope.traditional, scale, rope.base)
            })),
        })
    }

    /// For the CPU's kernels.
    pub fn kernel(&self) -> Arc<kernels::Rope> {
        self.kernel.clone()
    }

    /// x `[1, heads, tokens, head_dim]`, its first token at position `offset`.
    pub fn forward(&self, x: &Array, offset: i32) -> Result<Array> {
        if fast::active() {
            return fast::rope(x, &self.kernel, offset);
        }
        let (base, table) = match &self.frequencies {
            Frequencies::Base(base) => (Some(*base), None),
            Frequencies::Table(table) => (None, Some(table)),
        };
        ops::rope(
            x,
            self.dims,
            self.traditional,
            base,
            self.scale,
            offset,
            table,
        )
    }
}

/// Long wavelengths are stretched by `factor`, short ones kept, those between blended.
fn llama3(freq: f32, factor: f32, low: f32, high: f32, original_context: f32) -> f32 {
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
