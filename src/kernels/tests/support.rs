//! Seeded numbers, arrays of them, and quantised matrices that are read independently of the kernels' layout.

use std::mem::MaybeUninit;

use crate::dtype::{Dtype, Mode, Scheme};
use crate::{codec, Floats, FloatsMut, Layout, Pool, Quantized};

/// SplitMix64.
pub struct Random(pub u64);

impl Random {
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }
    pub fn below(&mut self, n: usize) -> usize {
        (self.bits() % n as u64) as usize
    }
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
    /// -1 to 1.
    pub fn float(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }
}

pub const FLOATS: [Dtype; 3] = [Dtype::F32, Dtype::BF16, Dtype::F16];

/// The largest relative error of rounding to the type.
pub fn rounding(dtype: Dtype) -> f64 {
    match dtype {
        Dtype::BF16 => 1.0 / 256.0,
        Dtype::F16 => 1.0 / 2048.0,
        _ => 2.0_f64.powi(-24),
    }
}

/// What the type cannot tell from zero, and rounds by near zero.
pub fn smallest(dtype: Dtype) -> f64 {
    match dtype {
        Dtype::F16 => 2.0_f64.powi(-25),
        _ => 1e-38,
    }
}

pub fn write(x: f32, dtype: Dtype, to: &mut Vec<u8>) {
    match dtype {
        Dtype::BF16 => to.extend(half::bf16::from_f32(x).to_le_bytes()),
        Dtype::F16 => to.extend(half::f16::from_f32(x).to_le_bytes()),
        _ => to.extend(x.to_le_bytes()),
    }
}

pub fn read(bytes: &[u8], dtype: Dtype, index: usize) -> f32 {
    let size = dtype.size() as usize;
    let at = &bytes[index * size..(index + 1) * size];
    match dtype {
        Dtype::BF16 => half::bf16::from_le_bytes([at[0], at[1]]).to_f32(),
        Dtype::F16 => half::f16::from_le_bytes([at[0], at[1]]).to_f32(),
        _ => f32::from_le_bytes([at[0], at[1], at[2], at[3]]),
    }
}

/// As `pack` takes what it writes.
pub fn unwritten(bytes: &mut [u8]) -> &mut [MaybeUninit<u8>] {
    // SAFETY: the same bytes; `pack` leaves them as they are or writes numbers.
    unsafe { &mut *(bytes as *mut [u8] as *mut [MaybeUninit<u8>]) }
}

/// A matrix of floats in memory.
pub struct Array {
    pub bytes: Vec<u8>,
    pub dtype: Dtype,
    pub rows: usize,
    pub width: usize,
}

impl Array {
    pub fn new(
        dtype: Dtype,
        rows: usize,
        width: usize,
        mut f: impl FnMut(usize, usize) -> f32,
    ) -> Array {
        let mut bytes = Vec::new();
        for row in 0..rows {
            for column in 0..width {
                write(f(row, column), dtype, &mut bytes);
            }
        }
        Array {
            bytes,
            dtype,
            rows,
            width,
        }
    }
    pub fn random(random: &mut Random, dtype: Dtype, rows: usize, width: usize) -> Array {
        Array::new(dtype, rows, width, |_, _| random.float())
    }
    pub fn zeros(dtype: Dtype, rows: usize, width: usize) -> Array {
        Array::new(dtype, rows, width, |_, _| 0.0)
    }
    pub fn get(&self, row: usize, column: usize) -> f64 {
        f64::from(read(&self.bytes, self.dtype, row * self.width + column))
    }
    pub fn set(&mut self, row: usize, column: usize, x: f32) {
        let mut one = Vec::new();
        write(x, self.dtype, &mut one);
        let at = (row * self.width + column) * one.len();
        self.bytes[at..at + one.len()].copy_from_slice(&one);
    }
    pub fn view(&self) -> Floats<'_> {
        Floats::new(&self.bytes, self.dtype, self.rows, self.width).expect("sizes fit")
    }
    pub fn view_mut(&mut self) -> FloatsMut<'_> {
        FloatsMut::new(&mut self.bytes, self.dtype, self.rows, self.width).expect("sizes fit")
    }
}

/// Every legal scheme.
pub fn schemes() -> Vec<Scheme> {
    let scheme = |mode, bits, group_size| Scheme {
        mode,
        bits,
        group_size,
    };
    let mut all = vec![
        scheme(Mode::Mxfp4, 4, 32),
        scheme(Mode::Mxfp8, 8, 32),
        scheme(Mode::Nvfp4, 4, 16),
    ];
    for bits in [2, 3, 4, 5, 6, 8] {
        for group in [32, 64, 128] {
            all.push(scheme(Mode::Affine, bits, group));
        }
    }
    all
}

/// A quantised matrix as MLX holds it.
pub struct Matrix {
    pub layout: Layout,
    pub weight: Vec<u8>,
    pub scales: Vec<u8>,
    pub biases: Option<Vec<u8>>,
    dtype: Dtype,
}

/// One weight and the sizes of the terms that it is the sum of.
#[derive(Clone, Copy)]
pub struct Weight {
    pub value: f64,
    pub terms: f64,
}

impl Matrix {
    /// Random codes; scales that make weights of about 1 in size.
    pub fn random(
        random: &mut Random,
        scheme: Scheme,
        dtype: Dtype,
        rows: usize,
        inputs: usize,
    ) -> Matrix {
        let affine = scheme.mode == Mode::Affine;
        let dtype = if affine { dtype } else { Dtype::U8 };
        let layout = Layout::new(scheme, dtype, rows, inputs).expect("a legal layout");
        let weight = (0..rows * layout.mlx_weight_row())
            .map(|_| random.bits() as u8)
            .collect();
        let (mut scales, mut biases) = (Vec::new(), Vec::new());
        for _ in 0..rows * layout.groups() {
            let top = (1 << scheme.bits) as f32;
            match scheme.mode {
                Mode::Affine => {
                    write((1.5 + random.float()) / top, dtype, &mut scales);
                    write(-0.7 + 0.5 * random.float(), dtype, &mut biases);
                }
                Mode::Mxfp4 => scales.push(123 + random.below(4) as u8),
                Mode::Mxfp8 => scales.push(116 + random.below(4) as u8),
                Mode::Nvfp4 => {
                    scales.push(0x10 + random.below(0x18) as u8 + 0x80 * random.below(2) as u8)
                }
            }
        }
        Matrix {
            layout,
            weight,
            scales,
            biases: affine.then_some(biases),
            dtype,
        }
    }

    pub fn arrays(&self) -> Quantized<'_> {
        Quantized {
            weight: &self.weight,
            scales: &self.scales,
            biases: self.biases.as_deref(),
        }
    }

    pub fn pack(&self) -> Vec<u8> {
        let mut packed = vec![0xa5; self.layout.nbytes()];
        let done = crate::pack(
            &Pool::new(1),
            &self.layout,
            self.arrays(),
            unwritten(&mut packed),
        );
        assert!(done);
        packed
    }

    pub fn weight(&self, row: usize, input: usize) -> Weight {
        let bits = self.layout.bits();
        let bytes = &self.weight[row * self.layout.mlx_weight_row()..];
        let code = (0..bits).fold(0, |code, bit| {
            let at = input * bits + bit;
            code | usize::from(bytes[at / 8] >> (at % 8) & 1) << bit
        });
        let group = row * self.layout.groups() + input / self.layout.group();
        let (value, terms) = match self.layout.scheme().mode {
            Mode::Affine => {
                let scale = f64::from(read(&self.scales, self.dtype, group));
                let biases = self.biases.as_ref().expect("affine");
                let bias = f64::from(read(biases, self.dtype, group));
                let term = scale * code as f64;
                (term + bias, term.abs() + bias.abs())
            }
            Mode::Mxfp8 => {
                let value =
                    f64::from(codec::e4m3(code as u8)) * f64::from(codec::e8m0(self.scales[group]));
                (value, value.abs())
            }
            mode => {
                let scale = match mode {
                    Mode::Mxfp4 => codec::e8m0(self.scales[group]),
                    _ => codec::e4m3(self.scales[group]),
                };
                let scale = f64::from(scale);
                // Codes are shifted by 6 in the products.
                let value = f64::from(codec::e2m1(code as u8)) * scale;
                (value, value.abs() + 12.0 * scale.abs())
            }
        };
        Weight { value, terms }
    }
}
