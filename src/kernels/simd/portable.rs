//! Plain Rust, four lanes: what every processor can do.

#![allow(unsafe_op_in_unsafe_fn)]

use std::array::from_fn;

use super::Simd;

const N: usize = 4;

#[derive(Clone, Copy)]
pub struct Portable;

#[inline(always)]
fn bytes(x: [u32; N]) -> [u8; 4 * N] {
    from_fn(|i| x[i / 4].to_le_bytes()[i % 4])
}

#[inline(always)]
fn lanes(x: [u8; 4 * N]) -> [u32; N] {
    from_fn(|i| u32::from_le_bytes([x[4 * i], x[4 * i + 1], x[4 * i + 2], x[4 * i + 3]]))
}

#[inline(always)]
fn halves(x: u32, f: impl Fn(u16) -> u16) -> u32 {
    u32::from(f(x as u16)) | u32::from(f((x >> 16) as u16)) << 16
}

impl Simd for Portable {
    type F = [f32; N];
    type I = [u32; N];
    const LANES: usize = N;
    const ROWS: usize = 1;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::F {
        [x; N]
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self::F {
        p.cast::<[f32; N]>().read_unaligned()
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, x: Self::F) {
        p.cast::<[f32; N]>().write_unaligned(x)
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u16) -> Self::F {
        from_fn(|i| half::bf16::from_bits(p.add(i).read_unaligned()).to_f32())
    }
    #[inline(always)]
    unsafe fn store_bf16(p: *mut u16, x: Self::F) {
        for (i, x) in x.into_iter().enumerate() {
            p.add(i).write_unaligned(half::bf16::from_f32(x).to_bits());
        }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> Self::F {
        from_fn(|i| half::f16::from_bits(p.add(i).read_unaligned()).to_f32())
    }
    #[inline(always)]
    unsafe fn store_f16(p: *mut u16, x: Self::F) {
        for (i, x) in x.into_iter().enumerate() {
            p.add(i).write_unaligned(half::f16::from_f32(x).to_bits());
        }
    }
    #[inline(always)]
    unsafe fn load_e4m3(p: *const u8) -> Self::F {
        from_fn(|i| crate::codec::e4m3(*p.add(i)) / 256.0)
    }
    #[inline(always)]
    unsafe fn load_e8m0(p: *const u8) -> Self::F {
        from_fn(|i| crate::codec::e8m0(*p.add(i)))
    }

    #[inline(always)]
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F {
        from_fn(|i| a[i] + b[i])
    }
    #[inline(always)]
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F {
        from_fn(|i| a[i] - b[i])
    }
    #[inline(always)]
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F {
        from_fn(|i| a[i] * b[i])
    }
    #[inline(always)]
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F {
        from_fn(|i| a[i] / b[i])
    }
    #[inline(always)]
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        from_fn(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F {
        from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn min(a: Self::F, b: Self::F) -> Self::F {
        from_fn(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn abs(a: Self::F) -> Self::F {
        a.map(f32::abs)
    }
    #[inline(always)]
    unsafe fn round(a: Self::F) -> Self::F {
        a.map(f32::round_ties_even)
    }
    #[inline(always)]
    unsafe fn pow2(a: Self::F) -> Self::F {
        a.map(|a| f32::from_bits(((a as i32).wrapping_add(127) as u32) << 23))
    }
    #[inline(always)]
    unsafe fn select_lt(a: Self::F, b: Self::F, then: Self::F, other: Self::F) -> Self::F {
        from_fn(|i| if a[i] < b[i] { then[i] } else { other[i] })
    }
    #[inline(always)]
    unsafe fn sum(a: Self::F) -> f32 {
        (a[0] + a[2]) + (a[1] + a[3])
    }
    #[inline(always)]
    unsafe fn largest(a: Self::F) -> f32 {
        a.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }

    #[inline(always)]
    unsafe fn izero() -> Self::I {
        [0; N]
    }
    #[inline(always)]
    unsafe fn load_bytes(p: *const u8) -> Self::I {
        lanes(p.cast::<[u8; 4 * N]>().read_unaligned())
    }
    #[inline(always)]
    unsafe fn load_u8(p: *const u8) -> Self::I {
        from_fn(|i| u32::from(*p.add(i)))
    }
    #[inline(always)]
    unsafe fn load_nibbles(p: *const u8) -> Self::I {
        from_fn(|i| u32::from(*p.add(i / 2) >> (4 * (i % 2)) & 15))
    }
    #[inline(always)]
    unsafe fn splat_byte(x: u8) -> Self::I {
        [u32::from_le_bytes([x; 4]); N]
    }
    #[inline(always)]
    unsafe fn broadcast(p: *const u8) -> Self::I {
        [u32::from_le_bytes(p.cast::<[u8; 4]>().read_unaligned()); N]
    }
    #[inline(always)]
    unsafe fn and(a: Self::I, b: Self::I) -> Self::I {
        from_fn(|i| a[i] & b[i])
    }
    #[inline(always)]
    unsafe fn or(a: Self::I, b: Self::I) -> Self::I {
        from_fn(|i| a[i] | b[i])
    }
    #[inline(always)]
    unsafe fn shr16<const S: u32>(a: Self::I) -> Self::I {
        a.map(|x| halves(x, |h| h >> S))
    }
    #[inline(always)]
    unsafe fn shl16<const S: u32>(a: Self::I) -> Self::I {
        a.map(|x| halves(x, |h| h << S))
    }
    #[inline(always)]
    unsafe fn lookup(table: &'static [u8; 16], index: Self::I) -> Self::I {
        lanes(bytes(index).map(|i| table[usize::from(i & 15)]))
    }
    #[inline(always)]
    unsafe fn dot(sum: Self::I, w: Self::I, x: Self::I) -> Self::I {
        let (w, x) = (bytes(w), bytes(x));
        from_fn(|i| {
            (4 * i..4 * i + 4).fold(sum[i], |sum, k| {
                sum.wrapping_add((i32::from(w[k]) * i32::from(x[k] as i8)) as u32)
            })
        })
    }
    #[inline(always)]
    unsafe fn iadd(a: Self::I, b: Self::I) -> Self::I {
        from_fn(|i| a[i].wrapping_add(b[i]))
    }
    #[inline(always)]
    unsafe fn isub(a: Self::I, b: Self::I) -> Self::I {
        from_fn(|i| a[i].wrapping_sub(b[i]))
    }
    #[inline(always)]
    unsafe fn isplat(x: i32) -> Self::I {
        [x as u32; N]
    }
    #[inline(always)]
    unsafe fn ishl<const S: u32>(a: Self::I) -> Self::I {
        a.map(|x| x << S)
    }
    #[inline(always)]
    unsafe fn ishr<const S: u32>(a: Self::I) -> Self::I {
        a.map(|x| ((x as i32) >> S) as u32)
    }
    #[inline(always)]
    unsafe fn to_float(a: Self::I) -> Self::F {
        a.map(|x| x as i32 as f32)
    }
    #[inline(always)]
    unsafe fn to_int(a: Self::F) -> Self::I {
        a.map(|x| x.round_ties_even() as i32 as u32)
    }
    #[inline(always)]
    unsafe fn store_low_bytes(p: *mut u8, a: Self::I) {
        for (i, x) in a.into_iter().enumerate() {
            *p.add(i) = x as u8;
        }
    }

    #[inline(always)]
    unsafe fn prefetch(_: *const u8) {}
    #[inline(always)]
    unsafe fn prefetch_far(_: *const u8) {}
}
