//! Small floats, and floats of files as f32.

use half::{bf16, f16};

use crate::dtype::Dtype;

/// 8-bit floats, which MLX has as bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Float8 {
    E4m3,
    /// Powers of two.
    E8m0,
}

/// A type of numbers in files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Number {
    Float(Dtype),
    Small(Float8),
}

impl Float8 {
    /// As a safetensors header spells it.
    pub fn name(self) -> &'static str {
        match self {
            Float8::E4m3 => "F8_E4M3",
            Float8::E8m0 => "F8_E8M0",
        }
    }

    pub fn parse(name: &str) -> Option<Float8> {
        let mut all = [Float8::E4m3, Float8::E8m0].into_iter();
        all.find(|kind| kind.name() == name)
    }

    /// Exact: f32 has all of them.
    pub fn value(self, byte: u8) -> f32 {
        match self {
            Float8::E4m3 => {
                let (exponent, fraction) = (byte >> 3 & 15, byte & 7);
                let size = match (exponent, fraction) {
                    (15, 7) => f32::NAN,
                    (0, fraction) => f32::from(fraction) * 2f32.powi(-9),
                    (exponent, fraction) => {
                        let power = i32::from(exponent).saturating_sub(10);
                        f32::from(fraction | 8) * 2f32.powi(power)
                    }
                };
                if byte & 0x80 == 0 {
                    size
                } else {
                    -size
                }
            }
            Float8::E8m0 => match byte {
                255 => f32::NAN,
                // 2^-127 is subnormal.
                0 => f32::from_bits(1 << 22),
                byte => f32::from_bits(u32::from(byte) << 23),
            },
        }
    }

    /// The values of all bytes.
    pub fn table(self) -> [f32; 256] {
        std::array::from_fn(|byte| self.value(u8::try_from(byte).unwrap_or(0)))
    }
}

/// A 4-bit float: its sign and 0, 0.5, 1, 1.5, 2, 3, 4 or 6.
pub fn e2m1(bits: u8) -> f32 {
    const SIZES: [f32; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
    let size = SIZES.get(usize::from(bits & 7)).copied().unwrap_or(0.0);
    if bits & 8 == 0 {
        size
    } else {
        -size
    }
}

impl Number {
    /// One of those that lie there; zero behind the end, which shapes rule out.
    pub fn of(self, bytes: &[u8], index: usize) -> f32 {
        let four = |bytes: &[u8]| bytes.first_chunk().map(|bytes| f32::from_le_bytes(*bytes));
        let two = |bytes: &[u8]| bytes.first_chunk().copied();
        let at = |size: usize| bytes.get(index.saturating_mul(size)..);
        let value = match self {
            Number::Small(kind) => bytes.get(index).map(|&byte| kind.value(byte)),
            Number::Float(Dtype::F16) => at(2)
                .and_then(two)
                .map(|two| f16::from_le_bytes(two).to_f32()),
            Number::Float(Dtype::BF16) => at(2)
                .and_then(two)
                .map(|two| bf16::from_le_bytes(two).to_f32()),
            Number::Float(_) => at(4).and_then(four),
        };
        value.unwrap_or(0.0)
    }
}

/// Rounded to the nearest of a 16-bit type, of equals to the even one, as MLX does.
pub fn put_half(dtype: Dtype, value: f32) -> [u8; 2] {
    match dtype {
        Dtype::F16 => f16::from_f32(value).to_le_bytes(),
        _ => bf16::from_f32(value).to_le_bytes(),
    }
}

/// The same of any type, as many as there is room for.
pub fn put(to: &mut [u8], dtype: Dtype, values: impl Iterator<Item = f32>) {
    match dtype {
        Dtype::F32 => fill(to, values, f32::to_le_bytes),
        Dtype::F16 => fill(to, values, |value| put_half(Dtype::F16, value)),
        _ => fill(to, values, |value| put_half(Dtype::BF16, value)),
    }
}

fn fill<const N: usize>(
    to: &mut [u8],
    values: impl Iterator<Item = f32>,
    bytes: impl Fn(f32) -> [u8; N],
) {
    for (to, value) in to.chunks_exact_mut(N).zip(values) {
        to.copy_from_slice(&bytes(value));
    }
}
