//! What a session's attention looks at, for those who want to see it.

use super::adapter::TensorData;
use super::request::Blocking;
use super::session::Session;
use super::worker::KeysOf;
use crate::error::Result;

impl Session {
    /// Keys of a layer, f32 `[kv_heads, tokens, head_dim]`: of the session's tokens, as far as they are computed, in the order
    /// of time.
    ///
    /// Errors: `Busy`; `InvalidArgument` beyond the last layer; `Unsupported` where a layer has no keys; `NotFound` when none
    /// are there; `Suspended`; `OutOfMemory`.
    pub fn inspect_attention(&self, layer: u32) -> Result<TensorData> {
        let _held = Blocking::between(self)?;
        // What computes goes on meanwhile, and may have to tell the ledger something: it is not locked.
        let tokens = self.tokens()?;
        let adapters = self.adapters();
        let of = KeysOf {
            model: self.model.id,
            session: self.cache.session,
            adapters: adapters
                .iter()
                .map(|(adapter, strength)| (adapter.id(), *strength))
                .collect(),
            layer,
            tokens,
        };
        self.model
            .engine
            .call(move |worker| worker.twice(|worker| worker.keys(&of)))
    }
}
