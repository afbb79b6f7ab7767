//! NaN and infinity in raw weights.

use crate::dtype::Dtype;
use crate::error::{Error, Result};

/// Refuses a NaN or an infinity in the little-endian floats of the tensor `name`. `bytes` may be a piece of the tensor;
/// `first` is the index of its first element, for the error.
pub fn check_finite(name: &str, bytes: &[u8], dtype: Dtype, first: u64) -> Result<()> {
    let at = match dtype {
        Dtype::F32 => position::<4>(bytes, |b| {
            u32::from_le_bytes(b) & 0x7f80_0000 == 0x7f80_0000
        }),
        Dtype::BF16 => position::<2>(bytes, |b| u16::from_le_bytes(b) & 0x7f80 == 0x7f80),
        Dtype::F16 => position::<2>(bytes, |b| u16::from_le_bytes(b) & 0x7c00 == 0x7c00),
        _ => return Err(Error::internal("a tensor to be checked holds no floats")),
    };
    match at {
        None => Ok(()),
        Some(at) => Err(Error::bad_model(format!(
            "tensor {} holds a NaN or an infinite number, element {}",
            crate::words::quoted(name, 160),
            first.saturating_add(at as u64)
        ))),
    }
}

/// The first element that `is_bad` finds. Blocks are looked through without a branch, so that it runs at the speed of
/// memory.
fn position<const N: usize>(bytes: &[u8], is_bad: impl Fn([u8; N]) -> bool) -> Option<usize> {
    const BLOCK: usize = 1_024;
    let bad = |element: &[u8]| <[u8; N]>::try_from(element).is_ok_and(&is_bad);
    for (index, block) in bytes.chunks(BLOCK.saturating_mul(N)).enumerate() {
        let any = block
            .chunks_exact(N)
            .fold(false, |any, element| any | bad(element));
        if any {
            let within = block.chunks_exact(N).position(bad)?;
            return index.checked_mul(BLOCK)?.checked_add(within);
        }
    }
    None
}
