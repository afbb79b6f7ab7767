//! Which adapter it is, by what it computes: to find it again in another process.

use xxhash_rust::xxh3::Xxh3;

use super::{usize_of, Adapter, Leaf};
use crate::error::{Code, Error, Result};
use crate::model::adapter::Part;
use crate::room;
use crate::runtime::identity::{add_text, digits};
use crate::runtime::model::too_large;

/// Bytes of tensors that are fetched in one turn of the engine.
const TURN: u64 = 8 << 20;
/// How often it may be changed while it is read.
const TRIES: u32 = 3;

/// Digits of an adapter's tensors: names, types, shapes, bytes, and their parts' scales.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    pub digits: String,
    /// Of the weights that they are of.
    pub version: u64,
}

/// What a part is beside its tensors.
type Manner = (u32, bool);

impl Adapter {
    /// Errors: `Suspended`, `OutOfMemory`; `Busy` when it is changed all the time.
    pub fn fingerprint(&self) -> Result<Fingerprint> {
        let id = self.id;
        for _ in 0..TRIES {
            let version = self
                .model
                .engine
                .call(move |worker| worker.adapter_version(id))?;
            let known = self.lock_fingerprint().clone();
            if let Some(known) = known.filter(|known| known.version == version) {
                return Ok(known);
            }
            if let Some(digits) = self.digits(version)? {
                let found = Fingerprint { digits, version };
                *self.lock_fingerprint() = Some(found.clone());
                return Ok(found);
            }
        }
        Err(Error::new(Code::Busy, "the adapter is being changed"))
    }

    /// None: it has another version meanwhile.
    fn digits(&self, version: u64) -> Result<Option<String>> {
        let mut hash = Xxh3::new();
        add_text(&mut hash, self.settings.kind.name());
        let tensors: Vec<_> = self.tensors.iter().collect();
        let mut rest = tensors.as_slice();
        while !rest.is_empty() {
            let mut bytes = 0_u64;
            let fits = |(_, info): &&(&String, &super::TensorInfo)| {
                bytes = bytes.saturating_add(info.bytes());
                bytes <= TURN
            };
            let count = rest.iter().take_while(fits).count().max(1);
            let (turn, others) = rest.split_at(count);
            rest = others;
            let Some(fetched) = self.fetch(turn, version)? else {
                return Ok(None);
            };
            for ((name, info), ((scale, tied), bytes)) in turn.iter().zip(fetched) {
                add_text(&mut hash, name);
                add_text(&mut hash, info.dtype.name());
                for size in &info.shape {
                    hash.update(&size.to_le_bytes());
                }
                hash.update(&scale.to_le_bytes());
                hash.update(&[u8::from(tied)]);
                hash.update(&bytes);
            }
        }
        Ok(Some(digits(&hash)))
    }

    fn fetch(
        &self,
        tensors: &[(&String, &super::TensorInfo)],
        version: u64,
    ) -> Result<Option<Vec<(Manner, Vec<u8>)>>> {
        let id = self.id;
        let wanted: Vec<(usize, Leaf)> = tensors
            .iter()
            .map(|(_, info)| (info.part, info.leaf))
            .collect();
        let bytes = tensors.iter().map(|(_, info)| info.bytes());
        let bytes = bytes.fold(0, u64::saturating_add);
        let _room = room::hold_for(usize_of(bytes), "the adapter")?;
        self.model.engine.call(move |worker| {
            worker.ready_for(bytes)?;
            if worker.adapter_version(id)? != version {
                return Ok(None);
            }
            if !worker.make_room_for(bytes) {
                return Err(too_large("the adapter", bytes));
            }
            let parts = &worker.adapter(id)?.parts;
            let fetched = wanted.iter().map(|&(part, leaf)| {
                let gone = || Error::internal("an adapter's tensor is gone");
                let (_, part) = parts.get(part).ok_or_else(gone)?;
                let manner = match part {
                    Part::Low { scale, tied, .. } => (scale.to_bits(), *tied),
                    Part::Full { tied, copy, .. } => (u32::from(*copy), *tied),
                };
                Ok((manner, leaf.of(part).ok_or_else(gone)?.to_bytes()?))
            });
            fetched.collect::<Result<_>>().map(Some)
        })
    }

    /// For people who look for it.
    pub fn words(&self) -> String {
        let rank = self.settings.rank.map(|rank| format!(" of rank {rank}"));
        let (kind, count) = (self.settings.kind.name(), self.modules.len());
        let s = if count == 1 { "" } else { "s" };
        format!("{kind}{} on {count} module{s}", rank.unwrap_or_default())
    }
}
