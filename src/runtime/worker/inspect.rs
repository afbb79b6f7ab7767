//! Looking at what a session's caches hold.

use super::Worker;
use crate::dtype::Dtype;
use crate::error::{Code, Error, Result};
use crate::mlx::{memory, ops};
use crate::runtime::adapter::TensorData;
use crate::runtime::caches::CacheKey;

/// Which keys.
pub(in crate::runtime) struct KeysOf {
    pub model: u64,
    pub session: u64,
    /// Ids of adapters, and what their own scale is multiplied by.
    pub adapters: Vec<(u64, f32)>,
    pub layer: u32,
    /// The session's.
    pub tokens: Vec<i32>,
}

impl Worker {
    /// Keys of those of the tokens that are computed, in the order of time, f32: `[kv_heads, tokens, head_dim]`.
    pub(in crate::runtime) fn keys(&mut self, of: &KeysOf) -> Result<TensorData> {
        let decoder = self.loaded.model(of.model)?;
        let number = decoder.keys_of(of.layer)?;
        let applied = |&(id, strength): &(u64, f32)| self.loaded.applied(id, strength);
        let key = CacheKey {
            session: of.session,
            draft: false,
            adapters: of.adapters.iter().map(applied).collect::<Result<_>>()?,
        };
        // After a cut: keys that are turned as those of a longer sequence are not what the next request goes on from.
        let next = i32::try_from(of.tokens.len().saturating_add(1)).unwrap_or(i32::MAX);
        let cache = self.caches.find(&key);
        let cache = cache.filter(|cache| !cache.long || decoder.is_long(next));
        let found = cache.and_then(|cache| cache.keys(number, &of.tokens));
        let Some((tokens, n)) = found else {
            return Err(nothing(of.tokens.len()));
        };
        let Some(keys) = tokens.keys_in_order()? else {
            return Err(nothing(of.tokens.len()));
        };
        // [1, kv_heads, tokens, head_dim]
        let stop = [1, keys.dim(1), n.min(keys.dim(2)), keys.dim(3)];
        let keys = ops::slice(&keys, &[0; 4], &stop)?;
        let numbers = stop.iter().map(|&n| u64::from(n.unsigned_abs()));
        let bytes = numbers
            .product::<u64>()
            .saturating_mul(size_of::<f32>() as u64);
        // In order, in one piece, and as f32.
        let arrays = bytes.saturating_mul(2).saturating_add(keys.nbytes());
        if !self.fits(arrays)? {
            let message = format!(
                "{} bytes are in use, the keys take up to {arrays} more, and the limit is {}",
                memory::active(),
                memory::limit()
            );
            return Err(Error::new(Code::OutOfMemory, message));
        }
        // And the two copies that are the caller's.
        self.ready_for(arrays.saturating_add(bytes.saturating_mul(2)))?;
        let values = ops::astype(&keys, Dtype::F32)?.to_f32()?;
        let [_, shape @ ..] = stop;
        Ok(TensorData {
            shape: shape.to_vec(),
            values,
        })
    }
}

fn nothing(tokens: usize) -> Error {
    let message = match tokens {
        0 => "the session holds no tokens yet, and so no keys".to_owned(),
        n => {
            format!("of the session's {n} tokens no keys are there: its next request computes them")
        }
    };
    Error::new(Code::NotFound, message)
}
