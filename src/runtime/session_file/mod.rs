//! Sessions to files and back: one safetensors file, whose tensors lie as in a prompt cache of mlx-lm 0.32, so that mlx-lm
//! reads it too. docs/sessions.md has the layout; `load/session.rs` reads it as far as bytes go.

mod read;
mod write;

use std::path::Path;
use std::sync::Arc;

use super::adapter::{Adapter, LoadOptions};
use super::model::Model;
use super::session::{Applied, Session};
use super::staging::SaveOptions;
use crate::error::Result;

/// An adapter's id, what its scale is multiplied by, and the version of its weights.
type Versions = Vec<(u64, f32, u64)>;

impl Session {
    /// Writes a file, whole or not at all. No request of the session begins meanwhile.
    ///
    /// Errors: `Busy`, `Io`, `Timeout`, `Cancelled`, `OutOfMemory`.
    pub fn save(&self, path: &Path, options: SaveOptions) -> Result<()> {
        write::save(self, path, options)
    }

    /// Makes a session of a file. `adapters`: those that it may have been saved with.
    ///
    /// Errors: `NotFound`, `Io`; `BadModel` for a file that is damaged or none; `Unsupported`; `Incompatible` names what is not
    /// the model's; `Timeout`, `Cancelled`, `OutOfMemory`.
    pub fn load(
        model: Arc<Model>,
        path: &Path,
        adapters: &[Arc<Adapter>],
        options: LoadOptions,
    ) -> Result<Session> {
        read::load(model, path, adapters, options)
    }
}

/// The versions of applied adapters' weights, with the digits of each.
fn fingerprints(applied: &Applied) -> Result<(Versions, Vec<String>)> {
    let mut versions = Versions::with_capacity(applied.len());
    let mut digits = Vec::with_capacity(applied.len());
    for (adapter, scale) in applied {
        let own = adapter.fingerprint()?;
        versions.push((adapter.id(), *scale, own.version));
        digits.push(own.digits);
    }
    Ok((versions, digits))
}
