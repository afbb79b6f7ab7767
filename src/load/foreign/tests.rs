#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use super::*;

/// All bytes of both types, against their definitions.
#[test]
fn eight_bits_are_what_they_are_defined_as() {
    for byte in 0..=255u8 {
        let (exponent, fraction) = (i32::from(byte >> 3 & 15), f64::from(byte & 7) / 8.0);
        let size = match exponent {
            0 => fraction * 2f64.powi(-6),
            _ => (1.0 + fraction) * 2f64.powi(exponent - 7),
        };
        let value = f64::from(Float8::E4m3.value(byte));
        match byte & 127 {
            127 => assert!(value.is_nan()),
            _ if byte >= 128 => assert_eq!(value, -size),
            _ => assert_eq!(value, size),
        }
        let power = f64::from(Float8::E8m0.value(byte));
        match byte {
            255 => assert!(power.is_nan()),
            byte => assert_eq!(power, 2f64.powi(i32::from(byte) - 127)),
        }
    }
    assert_eq!(Float8::E4m3.value(126), 448.0);
}

fn recipe(make: Make, rows: usize, columns: usize, dtype: Dtype) -> Recipe {
    Recipe {
        make,
        sources: 1,
        rows,
        columns,
        dtype,
        picks: Vec::new(),
    }
}

/// Bytes that are not there are zeros, and nothing is written behind the end.
#[test]
fn too_few_bytes_do_no_harm() {
    let grid = |transposed| Grid {
        number: Number::Float(Dtype::F16),
        transposed,
        repeat: 2,
    };
    let blocks = Blocks {
        number: Number::Float(Dtype::F32),
        rows: 0,
        columns: 0,
    };
    for make in [
        Make::FromAwq,
        Make::Transposed,
        Make::Unsigned,
        Make::Scales(grid(true)),
        Make::Biases(grid(false), Zeros::Awq),
        Make::Biases(grid(true), Zeros::Across { bits: 0, more: 1 }),
        Make::Biases(grid(true), Zeros::Down { bits: 32 }),
        Make::Biases(grid(true), Zeros::Middle { bits: 0 }),
        Make::Float8(blocks),
        Make::Nvfp4 { divided: true },
    ] {
        for dtype in [Dtype::F32, Dtype::BF16, Dtype::U32] {
            for sources in [vec![], vec![vec![1u8; 7]], vec![vec![9u8; 33]; 3]] {
                for bytes in [0, 5, 64, 257] {
                    let recipe = recipe(make, 8, 4, dtype);
                    recipe.run(&sources, &mut vec![0; bytes]);
                }
            }
        }
    }
    let odd = recipe(Make::Transposed, usize::MAX, 0, Dtype::U32);
    assert_eq!(odd.bytes(), 0);
    odd.run(&[], &mut [0; 16]);
}

#[test]
fn rounding_is_to_even() {
    // 1 + 2^-8 lies between two numbers of bf16, and 1 + 3 * 2^-8, too.
    let halves = [1.0f32 + 1.0 / 256.0, 1.0 + 3.0 / 256.0]
        .map(f32::to_le_bytes)
        .concat();
    let grid = Grid {
        number: Number::Float(Dtype::F32),
        transposed: false,
        repeat: 1,
    };
    let mut made = [0; 4];
    recipe(Make::Scales(grid), 1, 2, Dtype::BF16).run(&[halves], &mut made);
    let values = [0, 1].map(|n| Number::Float(Dtype::BF16).of(&made, n));
    assert_eq!(values, [1.0, 1.0 + 1.0 / 64.0]);
}
