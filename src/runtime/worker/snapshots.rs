//! What sessions have computed, on its way to files and from them.

use std::ops::Range;
use std::sync::Arc;

use super::room::Trim;
use super::Worker;
use crate::dtype::{Dtype, Scheme};
use crate::error::{Code, Error, Result};
use crate::mlx::Array;
use crate::model::cache::{self, Cache, Extent, Tokens};
use crate::runtime::caches::{AppliedAdapter, CacheKey, CacheKind, SessionCache};
use crate::runtime::job::CacheSpec;
use crate::runtime::ledger::Ledger;

/// A session's caches at some moment, without their numbers.
pub(in crate::runtime) struct Snapshot {
    /// Tokens of the ledger, from the front on, that they hold.
    pub cached: usize,
    /// See `SessionCache::long`.
    pub long: bool,
    pub layers: Vec<KeptLayer>,
}

pub(in crate::runtime) enum KeptLayer {
    Tokens {
        kept: KeptTokens,
        /// The size of a window and the first tokens that it keeps.
        window: Option<(i32, i32)>,
        scheme: Option<Scheme>,
        /// In tokens, the oldest first, with what it has of those that it cannot be cut to.
        marks: Vec<(i32, Option<KeptTokens>)>,
    },
    State {
        /// What the part keeps, whether there is something or not.
        arrays: Vec<KeptTensor>,
        /// In tokens, the oldest first.
        marks: Vec<i32>,
    },
}

pub(in crate::runtime) struct KeptTokens {
    /// Keys and values, each as `TokensSpec::arrays` has them, without spare room. None: there are no tokens.
    pub tensors: Option<[Vec<KeptTensor>; 2]>,
    pub offset: i32,
    pub index: i32,
}

#[derive(Clone, Debug, PartialEq)]
pub(in crate::runtime) struct KeptTensor {
    pub dtype: Dtype,
    pub shape: Vec<i32>,
}

impl From<(Dtype, Vec<i32>)> for KeptTensor {
    fn from((dtype, shape): (Dtype, Vec<i32>)) -> Self {
        KeptTensor { dtype, shape }
    }
}

/// Which array of a layer; those of values are behind those of keys.
#[derive(Clone, Copy, Debug)]
pub(in crate::runtime) enum Which {
    Own(usize),
    /// A mark and an array of it.
    Mark(usize, usize),
}

impl Worker {
    /// Which cache a session uses with these adapters: ids, what their scales are multiplied by, and their versions.
    ///
    /// Errors: `Busy` when one has another version.
    fn key(&self, session: u64, adapters: &[(u64, f32, u64)]) -> Result<CacheKey> {
        let adapters = adapters.iter().map(|&(id, strength, version)| {
            if self.loaded.adapter(id)?.version != version {
                let message = "an adapter of the session was changed meanwhile";
                return Err(Error::new(Code::Busy, message));
            }
            Ok(AppliedAdapter {
                id,
                version,
                strength: strength.to_bits(),
            })
        });
        Ok(CacheKey {
            session,
            draft: false,
            adapters: adapters.collect::<Result<_>>()?,
        })
    }

    /// Keeps what a session without requests has computed of these tokens, under `id`, until `drop_snapshot`.
    ///
    /// Errors: `Suspended`, `Busy`.
    pub(in crate::runtime) fn snapshot(
        &mut self,
        id: u64,
        spec: CacheSpec,
        adapters: &[(u64, f32, u64)],
        tokens: &[i32],
    ) -> Result<Snapshot> {
        self.ready_for(0)?;
        let key = self.key(spec.session, adapters)?;
        // What was queued for it is there then, or has failed and is forgotten.
        self.twice(Worker::wait_for_device)?;
        let decoder = self.loaded.model(spec.model)?;
        let kept = decoder.kept();
        let fits = |cache: &SessionCache| {
            let layers = cache.layers.iter().zip(&kept);
            layers
                .clone()
                .all(|(layer, (spec, dtype))| is_of(layer, spec, *dtype))
        };
        let copy = self.caches.copy(&key, tokens);
        let copy = copy.filter(|copy| !copy.tokens.is_empty() && fits(copy));
        let describe = |layers: &[Cache]| {
            let layers = layers.iter().zip(&kept);
            let layers = layers.map(|(layer, (spec, dtype))| describe(layer, spec, *dtype));
            layers.collect()
        };
        let snapshot = match &copy {
            Some(copy) => Snapshot {
                cached: copy.tokens.len(),
                long: copy.long,
                layers: describe(&copy.layers),
            },
            None => Snapshot {
                cached: 0,
                long: false,
                layers: {
                    let mut fresh = decoder.make_caches(spec.window, spec.keep);
                    fresh
                        .iter_mut()
                        .for_each(|layer| layer.pack_in(spec.scheme));
                    describe(&fresh)
                },
            },
        };
        if let Some(copy) = copy {
            self.snapshots.insert(id, copy);
        }
        Ok(snapshot)
    }

    /// Some bytes of an array of a snapshot, as `KeptTensor` describes it.
    ///
    /// Errors: `Suspended`.
    pub(in crate::runtime) fn snapshot_bytes(
        &mut self,
        id: u64,
        (layer, which): (usize, Which),
        wanted: Range<usize>,
    ) -> Result<Vec<u8>> {
        self.ready_for(wanted.len() as u64)?;
        self.twice(|worker| worker.bytes_of_snapshot(id, layer, which, wanted.clone()))
    }

    fn bytes_of_snapshot(
        &self,
        id: u64,
        layer: usize,
        which: Which,
        wanted: Range<usize>,
    ) -> Result<Vec<u8>> {
        let gone = || Error::internal("a session that is being saved is gone");
        let snapshot = self.snapshots.get(&id).ok_or_else(gone)?;
        let layer = snapshot.layers.get(layer).ok_or_else(gone)?;
        let (array, extent) = array_of(layer, which).ok_or_else(gone)?;
        let (block, used) = match extent {
            Some(extent) => {
                // Of each head the tokens that there are: [1, kv_heads, capacity, …]
                let token = size(array.dim(3)) * array.dtype().size() as usize;
                let used = size(extent.filled_to());
                (size(array.dim(2)) * token, used * token)
            }
            None => [array.nbytes() as usize; 2].into(),
        };
        array.used_bytes(block, used, wanted)
    }

    pub(in crate::runtime) fn drop_snapshot(&mut self, id: u64) {
        self.snapshots.remove(&id);
        self.trim(Trim::Buffers);
    }

    /// Gives a new session what a file has of it.
    ///
    /// Errors: `Suspended`, `Busy`.
    pub(in crate::runtime) fn restore(
        &mut self,
        spec: CacheSpec,
        adapters: &[(u64, f32, u64)],
        tokens: Vec<i32>,
        long: Option<bool>,
        ledger: Arc<Ledger>,
        layers: impl FnOnce() -> Result<Vec<Cache>>,
    ) -> Result<()> {
        self.ready_for(0)?;
        let key = self.key(spec.session, adapters)?;
        let kind = CacheKind {
            model: spec.model,
            window: spec.window,
            keep: spec.keep,
            scheme: spec.scheme,
        };
        // mlx-lm turns keys as those of a long sequence always, where there are such.
        let long = match long {
            Some(long) => long,
            None => self.loaded.model(spec.model)?.is_long(i32::MAX),
        };
        let mut cache = SessionCache::new(kind, layers()?, ledger);
        cache.tokens = tokens;
        cache.long = long;
        cache.last_step = self.good_steps;
        self.caches.put(key, cache);
        Ok(())
    }
}

fn size(n: i32) -> usize {
    usize::try_from(n).unwrap_or(0)
}

/// An array, and where tokens lie in it.
fn array_of(layer: &Cache, which: Which) -> Option<(&Array, Option<&Extent>)> {
    match (layer, which) {
        (Cache::Tokens(tokens), which) => {
            let (tokens, index) = match which {
                Which::Own(index) => (tokens, index),
                Which::Mark(mark, index) => (tokens.marks().nth(mark)?.1?, index),
            };
            let array = tokens.arrays().nth(index)?;
            Some((array, Some(tokens.extent())))
        }
        (Cache::State(state), Which::Own(index)) => Some((state.get(index)?, None)),
        (Cache::State(state), Which::Mark(mark, index)) => {
            Some((state.marks().nth(mark)?.1.get(index)?, None))
        }
    }
}

/// Whether it is what its part keeps. (It is not where an adapter replaces weights by those of another type.)
fn is_of(layer: &Cache, spec: &cache::CacheSpec, dtype: Dtype) -> bool {
    let same = |array: &Array, (of, shape): &(Dtype, Vec<i32>)| {
        array.dtype() == *of && array.shape() == shape.as_slice()
    };
    match (layer, spec) {
        (Cache::Tokens(tokens), cache::CacheSpec::Tokens(spec)) => {
            let is_of = |tokens: &Tokens| {
                let arrays = spec.arrays(tokens.extent().capacity(), dtype, tokens.scheme());
                let arrays = arrays.concat();
                tokens.arrays().count() == arrays.len()
                    && tokens.arrays().zip(&arrays).all(|(a, of)| same(a, of))
            };
            is_of(tokens) && tokens.marks().filter_map(|(_, kept)| kept).all(is_of)
        }
        (Cache::State(state), cache::CacheSpec::State(spec)) => {
            let of: Vec<_> = spec
                .arrays
                .iter()
                .map(|(shape, of)| (of.dtype(dtype), shape.clone()))
                .collect();
            let is_of = |arrays: &[Array]| {
                arrays.len() == of.len() && arrays.iter().zip(&of).all(|(a, of)| same(a, of))
            };
            is_of(state.arrays()) && state.marks().all(|(_, arrays)| is_of(arrays))
        }
        _ => false,
    }
}

fn describe(layer: &Cache, spec: &cache::CacheSpec, dtype: Dtype) -> KeptLayer {
    match (layer, spec) {
        (Cache::Tokens(tokens), cache::CacheSpec::Tokens(spec)) => {
            let kept = |tokens: &Tokens| {
                let extent = tokens.extent();
                let arrays = spec.arrays(extent.filled_to(), dtype, tokens.scheme());
                let arrays =
                    arrays.map(|arrays| arrays.into_iter().map(KeptTensor::from).collect());
                KeptTokens {
                    tensors: (extent.offset() > 0).then_some(arrays),
                    offset: extent.offset(),
                    index: extent.index(),
                }
            };
            let extent = tokens.extent();
            let marks = tokens.marks();
            let marks = marks.map(|(offset, mark)| (offset, mark.map(&kept)));
            KeptLayer::Tokens {
                kept: kept(tokens),
                window: extent.window().map(|size| (size, extent.keep())),
                scheme: tokens.scheme(),
                marks: marks.collect(),
            }
        }
        (Cache::State(state), cache::CacheSpec::State(spec)) => {
            let arrays = spec.arrays.iter();
            let arrays = arrays.map(|(shape, of)| (of.dtype(dtype), shape.clone()).into());
            KeptLayer::State {
                arrays: arrays.collect(),
                marks: state.marks().map(|(offset, _)| offset).collect(),
            }
        }
        // `is_of` refused them.
        _ => KeptLayer::State {
            arrays: Vec::new(),
            marks: Vec::new(),
        },
    }
}
