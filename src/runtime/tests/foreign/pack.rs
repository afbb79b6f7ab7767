//! Weights as other programs pack them, written down number by number, and what each is as f32.

use half::{bf16, f16};
use safetensors::Dtype as Kind;

use super::super::odd_weights::{Tensor, Tensors};

/// Numbers that look random: the same each time.
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self, sides: u32) -> u32 {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        ((self.0 >> 33) as u32) % sides
    }

    /// 0.5 to 1.5
    fn near_one(&mut self) -> f32 {
        0.5 + self.roll(1001) as f32 / 1000.0
    }
}

/// A matrix `[out, in]`.
#[derive(Clone, Copy)]
pub struct Size {
    pub rows: usize,
    pub input: usize,
}

pub fn tensor(dtype: Kind, shape: &[usize], data: Vec<u8>) -> Tensor {
    Tensor {
        dtype,
        shape: shape.to_vec(),
        data,
    }
}

pub fn floats(dtype: Kind, shape: &[usize], values: &[f32]) -> Tensor {
    let bytes = values.iter().flat_map(|&value| match dtype {
        Kind::F16 => f16::from_f32(value).to_le_bytes().to_vec(),
        Kind::BF16 => bf16::from_f32(value).to_le_bytes().to_vec(),
        _ => value.to_le_bytes().to_vec(),
    });
    tensor(dtype, shape, bytes.collect())
}

/// As that type has them.
fn rounded(dtype: Kind, value: f32) -> f32 {
    match dtype {
        Kind::F16 => f16::from_f32(value).to_f32(),
        Kind::BF16 => bf16::from_f32(value).to_f32(),
        _ => value,
    }
}

pub fn words(shape: &[usize], values: &[u32]) -> Tensor {
    tensor(
        Kind::I32,
        shape,
        values.iter().flat_map(|word| word.to_le_bytes()).collect(),
    )
}

pub fn ints(values: &[i32]) -> Tensor {
    let bytes = values.iter().flat_map(|word| word.to_le_bytes());
    tensor(Kind::I32, &[values.len()], bytes.collect())
}

/// Whole numbers, scales and zeros of a matrix in groups.
pub struct Integers {
    size: Size,
    bits: u32,
    group: usize,
    values: Vec<u32>,
    pub scales: Vec<f32>,
    zeros: Vec<u32>,
}

impl Integers {
    /// `middle`: all zeros are.
    pub fn new(
        dice: &mut Dice,
        size: Size,
        (bits, group): (u32, usize),
        scale: Kind,
        middle: bool,
    ) -> Self {
        let groups = size.rows * size.input / group;
        let unit = 1.0 / ((size.input as f32).sqrt() * (1 << (bits - 1)) as f32);
        Integers {
            size,
            bits,
            group,
            values: (0..size.rows * size.input)
                .map(|_| dice.roll(1 << bits))
                .collect(),
            scales: (0..groups)
                .map(|_| rounded(scale, unit * dice.near_one()))
                .collect(),
            zeros: (0..groups)
                .map(|_| {
                    if middle {
                        1 << (bits - 1)
                    } else {
                        1 + dice.roll((1 << bits) - 1)
                    }
                })
                .collect(),
        }
    }

    fn groups(&self) -> usize {
        self.size.input / self.group
    }

    pub fn dense(&self) -> Vec<f32> {
        let at = |n: usize| {
            let (row, input) = (n / self.size.input, n % self.size.input);
            let group = row * self.groups() + input / self.group;
            (self.values[n] as f32 - self.zeros[group] as f32) * self.scales[group]
        };
        (0..self.values.len()).map(at).collect()
    }

    /// Of `[a, b]` numbers, packed along b in this order in a word.
    fn pack(
        &self,
        [a, b]: [usize; 2],
        order: &[usize],
        of: impl Fn(usize, usize) -> u32,
    ) -> Tensor {
        let per_word = order.len();
        let mut packed = Vec::new();
        for row in 0..a {
            for first in (0..b).step_by(per_word) {
                let parts = order.iter().enumerate();
                packed.push(parts.fold(0u32, |word, (place, n)| {
                    word | of(row, first + n) << (place as u32 * self.bits)
                }));
            }
        }
        words(&[a, b / per_word], &packed)
    }

    fn plain(&self) -> Vec<usize> {
        (0..32 / self.bits as usize).collect()
    }

    /// Turned by 90 degrees.
    fn turned(packed: Tensor) -> Tensor {
        let [a, b] = [packed.shape[0], packed.shape[1]];
        let size = packed.data.len() / (a * b);
        let data = (0..b).flat_map(|column| (0..a).map(move |row| (row * b + column) * size));
        let data = data
            .flat_map(|at| packed.data[at..at + size].to_vec())
            .collect();
        tensor(packed.dtype, &[b, a], data)
    }

    fn value(&self, row: usize, input: usize) -> u32 {
        self.values[row * self.size.input + input]
    }

    fn zero(&self, row: usize, group: usize) -> u32 {
        self.zeros[row * self.groups() + group]
    }

    fn scales(&self, kind: Kind) -> Tensor {
        floats(kind, &[self.size.rows, self.groups()], &self.scales)
    }

    pub fn awq(&self, all: &mut Tensors, name: &str, kind: Kind) {
        const ORDER: [usize; 8] = [0, 2, 4, 6, 1, 3, 5, 7];
        let Size { rows, input } = self.size;
        all.insert(
            format!("{name}.qweight"),
            self.pack([input, rows], &ORDER, |i, row| self.value(row, i)),
        );
        all.insert(
            format!("{name}.qzeros"),
            self.pack([self.groups(), rows], &ORDER, |g, row| self.zero(row, g)),
        );
        all.insert(format!("{name}.scales"), Self::turned(self.scales(kind)));
    }

    pub fn gptq(&self, all: &mut Tensors, name: &str, kind: Kind, less: u32) {
        let Size { rows, input } = self.size;
        let weight = self.pack([rows, input], &self.plain(), |row, i| self.value(row, i));
        all.insert(format!("{name}.qweight"), Self::turned(weight));
        let zeros = self.pack([self.groups(), rows], &self.plain(), |g, row| {
            self.zero(row, g) - less
        });
        all.insert(format!("{name}.qzeros"), zeros);
        all.insert(format!("{name}.scales"), Self::turned(self.scales(kind)));
        let groups: Vec<i32> = (0..input).map(|i| (i / self.group) as i32).collect();
        all.insert(format!("{name}.g_idx"), ints(&groups));
    }

    pub fn compressed(&self, all: &mut Tensors, name: &str, kind: Kind, symmetric: bool) {
        let Size { rows, input } = self.size;
        let weight = self.pack([rows, input], &self.plain(), |row, i| self.value(row, i));
        all.insert(format!("{name}.weight_packed"), weight);
        all.insert(format!("{name}.weight_scale"), self.scales(kind));
        let shape = [rows as i64, input as i64];
        let shape = shape.iter().flat_map(|n| n.to_le_bytes()).collect();
        all.insert(
            format!("{name}.weight_shape"),
            tensor(Kind::I64, &[2], shape),
        );
        if !symmetric {
            let zeros = self.pack([self.groups(), rows], &self.plain(), |g, row| {
                self.zero(row, g)
            });
            all.insert(format!("{name}.weight_zero_point"), Self::turned(zeros));
        }
    }

    /// Bytes with a sign.
    pub fn bytes(&self, all: &mut Tensors, name: &str, kind: Kind) {
        let Size { rows, input } = self.size;
        let bytes = self
            .values
            .iter()
            .map(|&value| (value as i32 - 128) as i8 as u8)
            .collect();
        all.insert(
            format!("{name}.weight"),
            tensor(Kind::I8, &[rows, input], bytes),
        );
        all.insert(format!("{name}.weight_scale"), self.scales(kind));
    }
}

/// What 8 bits are, with 4 of exponent.
fn e4m3(byte: u8) -> f32 {
    let sign = if byte >= 128 { -1.0 } else { 1.0 };
    let (exponent, fraction) = (i32::from(byte / 8 % 16), f32::from(byte % 8));
    sign * match exponent {
        0 => fraction / 8.0 * 2f32.powi(-6),
        _ => (1.0 + fraction / 8.0) * 2f32.powi(exponent - 7),
    }
}

fn e2m1(bits: u8) -> f32 {
    let sign = if bits >= 8 { -1.0 } else { 1.0 };
    sign * [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0][usize::from(bits % 8)]
}

/// Bytes whose values are at most 1.
fn small(dice: &mut Dice) -> u8 {
    (dice.roll(57) + 128 * dice.roll(2)) as u8
}

/// 8-bit floats with a scale for so many rows and columns; gives the weights.
pub fn fp8(
    all: &mut Tensors,
    name: &str,
    dice: &mut Dice,
    size: Size,
    [down, across]: [usize; 2],
    scale: (&str, Kind, &[usize]),
) -> Vec<f32> {
    let Size { rows, input } = size;
    let (leaf, kind, shape) = scale;
    let bytes: Vec<u8> = (0..rows * input).map(|_| small(dice)).collect();
    let wide = input.div_ceil(across);
    let unit = 2.0 / (input as f32).sqrt();
    let scales: Vec<f32> = (0..rows.div_ceil(down) * wide)
        .map(|_| rounded(kind, unit * dice.near_one()))
        .collect();
    let dense = bytes.iter().enumerate().map(|(n, &byte)| {
        let (row, column) = (n / input, n % input);
        e4m3(byte) * scales[row / down * wide + column / across]
    });
    let dense = dense.collect();
    all.insert(format!("{name}.{leaf}"), floats(kind, shape, &scales));
    all.insert(
        format!("{name}.weight"),
        tensor(Kind::F8_E4M3, &[rows, input], bytes),
    );
    dense
}

/// MLX's own 8 bits: a power of two for each 32.
pub fn mxfp8(
    all: &mut Tensors,
    name: &str,
    dice: &mut Dice,
    Size { rows, input }: Size,
) -> Vec<f32> {
    let bytes: Vec<u8> = (0..rows * input).map(|_| small(dice)).collect();
    let scales: Vec<u8> = (0..rows * input / 32)
        .map(|_| (122 + dice.roll(3)) as u8)
        .collect();
    let dense = bytes
        .iter()
        .enumerate()
        .map(|(n, &byte)| e4m3(byte) * 2f32.powi(i32::from(scales[n / 32]) - 127));
    let dense = dense.collect();
    all.insert(
        format!("{name}.weight"),
        tensor(Kind::F8_E4M3, &[rows, input], bytes),
    );
    all.insert(
        format!("{name}.weight_scale"),
        tensor(Kind::U8, &[rows, input / 32], scales),
    );
    dense
}

#[derive(Clone, Copy, PartialEq)]
pub enum Fp4 {
    Mx,
    /// NVIDIA's, by modelopt and by compressed-tensors.
    Modelopt,
    Compressed,
}

pub fn fp4(
    all: &mut Tensors,
    name: &str,
    dice: &mut Dice,
    Size { rows, input }: Size,
    way: Fp4,
) -> Vec<f32> {
    let values: Vec<u8> = (0..rows * input).map(|_| dice.roll(16) as u8).collect();
    let bytes = values.chunks(2).map(|two| two[0] | two[1] << 4).collect();
    let leaf = if way == Fp4::Modelopt {
        "weight"
    } else {
        "weight_packed"
    };
    all.insert(
        format!("{name}.{leaf}"),
        tensor(Kind::U8, &[rows, input / 2], bytes),
    );
    let group = if way == Fp4::Mx { 32 } else { 16 };
    let groups = rows * input / group;
    let (kind, scales): (Kind, Vec<u8>) = match way {
        Fp4::Mx => (
            Kind::U8,
            (0..groups).map(|_| (121 + dice.roll(3)) as u8).collect(),
        ),
        _ => (
            Kind::F8_E4M3,
            (0..groups).map(|_| (40 + dice.roll(30)) as u8).collect(),
        ),
    };
    let global = 0.021 * dice.near_one();
    let dense = values.iter().enumerate().map(|(n, &value)| {
        let scale = scales[n / group];
        e2m1(value)
            * match way {
                Fp4::Mx => 2f32.powi(i32::from(scale) - 127),
                Fp4::Modelopt => e4m3(scale) * global,
                Fp4::Compressed => e4m3(scale) / (1.0 / global),
            }
    });
    let dense = dense.collect();
    all.insert(
        format!("{name}.weight_scale"),
        tensor(kind, &[rows, input / group], scales),
    );
    match way {
        Fp4::Mx => {}
        Fp4::Modelopt => drop(all.insert(
            format!("{name}.weight_scale_2"),
            floats(Kind::F32, &[], &[global]),
        )),
        Fp4::Compressed => drop(all.insert(
            format!("{name}.weight_global_scale"),
            floats(Kind::F32, &[1], &[1.0 / global]),
        )),
    }
    dense
}
