//! What a model takes, in bytes that MLX's allocator counts, told by shapes and types alone: the same before a load, for an
//! estimate, and before each step, for the budget.
//!
//! On the CPU's kernels it is exact but for a few small arrays, and so it is a bound. Where MLX's own operations compute, the
//! intermediates are estimated: how many of them are there at a time depends on the device.

mod types;
mod weights;

use super::cache::{room_below, CacheBytes, CacheSpec, Extent, Room, TokenBytes};
use super::config::DecoderConfig;
use super::modules::{Modules, Site};
use super::parts::mla::MlaConfig;
use super::plan::Blueprint;
use super::streams::Spread;
use crate::dtype::{Dtype, Scheme};
use crate::load::Slot;
use crate::mlx::Array;
pub use types::{rows_type, TypesOf};
pub use weights::WeightCost;

/// Arrays of a few numbers that nothing below counts: scalars, tables of frequencies, token ids, what a draw needs.
const SMALL: u64 = 8 << 10;

/// Blocks whose operations MLX has begun before the first of them is done, where a block is many: it queues some hundred
/// operations on the CPU.
const BLOCKS_QUEUED: u64 = 5;

/// What is known of a tensor before it is read, and of an array.
pub trait Known {
    fn dtype(&self) -> Dtype;
    fn shape(&self) -> &[i32];

    fn bytes(&self) -> u64 {
        let count = self.shape().iter().map(|&n| size(n)).product::<u64>();
        count * self.dtype().size() as u64
    }
}

impl Known for Slot {
    fn dtype(&self) -> Dtype {
        self.dtype
    }
    fn shape(&self) -> &[i32] {
        &self.shape
    }
}

impl Known for Array {
    fn dtype(&self) -> Dtype {
        Array::dtype(self)
    }
    fn shape(&self) -> &[i32] {
        Array::shape(self)
    }
}

/// What the next tokens of a session take, in bytes.
pub struct StepCost {
    /// All its keys and values.
    pub kv: u64,
    /// More memory than now, at most.
    pub more: u64,
}

/// What of a session's options decides how much its keys and values take.
#[derive(Clone, Copy, Debug, Default)]
pub struct KvSpec {
    /// Tokens that full caches rotate over.
    pub window: Option<i32>,
    /// How they are packed.
    pub scheme: Option<Scheme>,
}

/// What tokens take.
pub struct Costs {
    /// By cache.
    layers: Vec<LayerCost>,
    blocks: u64,
    hidden: u64,
    vocab: u64,
    heads: u64,
    /// Of the blocks that look at latents, which are alike.
    latents: Option<MlaConfig>,
    /// Numbers of a row that a block computes, where it is not one operation.
    row: u64,
    /// Bytes of the widest number of a row.
    number: u64,
    /// Numbers of a token beside its row: what all blocks get, and what goes into a head that predicts further tokens.
    beside: u64,
    /// All rows of the last block are wanted at times.
    all_rows: bool,
    /// Blocks that are not one operation.
    plain: u64,
    scaled: bool,
    kernels: bool,
}

struct LayerCost {
    window: Option<i32>,
    /// Of keys and values, or of what of a state is in the block's type.
    kept: Dtype,
    bytes: CacheBytes,
}

impl Costs {
    /// `kernels`: the CPU's kernels compute.
    pub fn new<T: Known>(
        config: &DecoderConfig,
        blueprint: &Blueprint,
        modules: &Modules<T>,
        kernels: bool,
    ) -> Costs {
        let mut of = TypesOf {
            modules,
            per_layer: Dtype::BF16,
        };
        let mut h = of.rows(Site::EMBED_TOKENS);
        let per_layer = blueprint.per_layer;
        of.per_layer = per_layer.map_or(h, |inputs| inputs.types(&of, h));
        let hidden = size(config.hidden_size);
        let (mut widest, mut plain, mut row) = (h, 0, 0);
        let mut kept = vec![h; blueprint.caches.len()];
        for (index, block) in (blueprint.first..).zip(&blueprint.blocks) {
            if !(kernels && block.is_one_operation(config, &of, (index, h))) {
                plain += 1;
            }
            let computes = kernels && of.block_computes_in(index, h);
            row = block.row(hidden, computes).max(row);
            let types = block.types(&of, h);
            for (cache, dtype) in types.kept {
                if let Some(kept) = kept.get_mut(cache) {
                    *kept = dtype;
                }
            }
            h = types.output;
            widest = widest.wider(h);
        }
        let layers = blueprint
            .caches
            .iter()
            .zip(kept)
            .map(|(spec, dtype)| match spec {
                CacheSpec::Tokens(spec) => LayerCost {
                    window: spec.window,
                    kept: dtype,
                    bytes: CacheBytes::Tokens(TokenBytes {
                        numbers: spec.head_dims.map(|dim| size(spec.heads) * size(dim)),
                        dtype,
                    }),
                },
                CacheSpec::State(spec) => LayerCost {
                    window: None,
                    kept: dtype,
                    bytes: CacheBytes::State(spec.bytes(dtype)),
                },
            });
        let versions = blueprint.spread.as_ref().map_or(1, Spread::count);
        let latents = config.latents().next().cloned();
        let heads = config.attentions().map(|attention| attention.heads);
        let heads = heads.chain(latents.as_ref().map(|latents| latents.heads));
        Costs {
            layers: layers.collect(),
            blocks: blueprint.blocks.len() as u64,
            hidden: versions * hidden,
            vocab: size(config.vocab_size),
            heads: heads.map(size).max().unwrap_or(0),
            latents,
            row,
            number: widest.wider(of.per_layer).size() as u64,
            beside: match blueprint.first {
                0 => per_layer.map_or(0, |inputs| inputs.row()),
                // What came out and the embedding, both normed, and both in one row.
                _ => 6 * hidden,
            },
            all_rows: blueprint.ahead.is_some(),
            plain,
            scaled: config.embed.scale.is_some(),
            kernels,
        }
    }

    /// What `n` more tokens take in caches that have this `room` for them, each of whose tokens sees `longest` at most.
    pub fn step(&self, n: i32, longest: i32, rooms: &[Room]) -> StepCost {
        let sum = |of: fn(&Room) -> u64| rooms.iter().map(of).fold(0, u64::saturating_add);
        let (before, after) = (sum(|room| room.before), sum(|room| room.after));
        let moving = sum(|room| room.before.max(room.after));
        let copied = rooms.iter().map(|room| room.copied).max().unwrap_or(0);
        let then = after.saturating_add(self.work(n, longest));
        StepCost {
            kv: after,
            more: moving
                .saturating_add(copied)
                .max(then)
                .saturating_sub(before),
        }
    }

    /// What a pass over texts takes, of so many tokens together, each of which sees `longest` at most: an estimate, rather too high.
    pub fn texts(&self, tokens: i32, longest: i32) -> u64 {
        let (tokens, longest) = (size(tokens), size(longest));
        let row = self.hidden * self.number;
        // What goes into a block and comes out of it, embeddings, the last rows in f32.
        let mut work = tokens.saturating_mul(4 * row + 4 * self.hidden + 8);
        if self.plain > 0 {
            let queued = if self.kernels { BLOCKS_QUEUED } else { 1 };
            let block = tokens.saturating_mul(4 * self.row);
            work = work.saturating_add(queued.min(self.plain).saturating_mul(block));
        }
        if !self.kernels {
            let scores = 2 * 4 * self.heads * longest;
            work = work.saturating_add(tokens.saturating_mul(scores));
        }
        work
    }

    /// Cache by cache.
    pub fn caches(&self) -> impl Iterator<Item = CacheBytes> + '_ {
        self.layers.iter().map(|layer| layer.bytes)
    }

    /// The type that each cache keeps.
    pub fn kept(&self) -> impl Iterator<Item = Dtype> + '_ {
        self.layers.iter().map(|layer| layer.kept)
    }

    /// Bytes of a token's keys and values, as floats, in each cache that has some.
    fn tokens(&self) -> impl Iterator<Item = u64> + '_ {
        self.caches().filter_map(|bytes| match bytes {
            CacheBytes::Tokens(token) => {
                let [keys, values] = token.of(None);
                Some(keys.saturating_add(values))
            }
            CacheBytes::State(_) => None,
        })
    }

    /// What `n` tokens take beside keys and values: the rows between the blocks, logits, and what sampling makes of them.
    fn work(&self, n: i32, longest: i32) -> u64 {
        let (tokens, blocks) = (size(n), self.blocks);
        let row = self.hidden * self.number;
        let last = u64::from(self.all_rows);
        let rows = tokens * (1 + u64::from(self.scaled) + blocks.saturating_sub(1) + last) + 2;
        let mut work = rows * row + self.vocab * (self.number + 8 * 4) + 4 * tokens;
        work = work.saturating_add(tokens * self.beside * self.number);
        if self.plain > 0 {
            // A block's intermediates, in f32 at worst (on the kernels some of a 16-bit model's are), and its cache in one piece where
            // it cannot be written in place.
            let bytes = match self.kernels {
                true => (4 + self.number) / 2,
                false => 4,
            };
            let queued = if self.kernels { BLOCKS_QUEUED } else { 1 };
            let token = self.tokens().max();
            let latents = self.latents.as_ref();
            let made = latents.map_or(0, |latents| latents.seen(tokens, self.kernels));
            let seen = token.unwrap_or(0).saturating_add(4 * made);
            let block = bytes * tokens * self.row + size(longest).saturating_mul(seen);
            work = work.saturating_add(queued.min(self.plain).saturating_mul(block));
        }
        if !self.kernels {
            // Scores before and after the softmax, where attention is not one operation.
            work = work.saturating_add(2 * 4 * tokens * self.heads * size(longest));
        }
        work
    }

    /// What `n` tokens take beside a step's, when all of their rows are wanted and the logits of so many at a time.
    pub fn all_rows(&self, n: usize, logits: usize) -> u64 {
        // What comes out of the last block, in one piece, and its norm; logits, twice where they are scaled, and in f32.
        let rows = (n as u64).saturating_mul(3 * self.hidden * self.number);
        let logit = self.vocab.saturating_mul(2 * self.number + 8);
        rows.saturating_add(logit.saturating_mul(logits as u64))
    }

    /// Most tokens, up to `context`, whose keys and values have at most `limit` bytes.
    pub fn most_tokens(&self, context: i32, kv: KvSpec, limit: u64) -> i32 {
        let (mut fit, mut too_many) = (0, context.saturating_add(1));
        while too_many - fit > 1 {
            let middle = fit + (too_many - fit) / 2;
            match self.kv_bytes(middle, kv) <= limit {
                true => fit = middle,
                false => too_many = middle,
            }
        }
        fit
    }

    /// Bytes of keys, values and states of so many tokens.
    pub fn kv_bytes(&self, tokens: i32, kv: KvSpec) -> u64 {
        let held = |layer: &LayerCost| match layer.window.or(kv.window) {
            Some(window) => tokens.min(window),
            None => tokens,
        };
        let bytes = |layer: &LayerCost| match layer.bytes {
            CacheBytes::Tokens(token) => {
                let [keys, values] = token.of(kv.scheme);
                size(held(layer)) * (keys + values)
            }
            CacheBytes::State(bytes) => bytes,
        };
        self.layers.iter().map(bytes).fold(0, u64::saturating_add)
    }

    /// The most that a session takes at a time until it has `context` tokens, however they come: as a prompt, `chunk` at a
    /// time, or one by one. `fresh`: its empty caches, in which tokens are packed by `scheme`.
    pub fn peak(
        &self,
        (fresh, scheme): (&[Option<Extent>], Option<Scheme>),
        context: i32,
        chunk: i32,
    ) -> u64 {
        let chunk = chunk.min(context).max(1);
        let at = |tokens: i32, capacity: i32, by: i32, n: i32| {
            let (mut rooms, mut longest) = (Vec::with_capacity(fresh.len()), 0);
            for (extent, bytes) in fresh.iter().zip(self.caches()) {
                let (extent, token) = match (extent, bytes) {
                    (Some(extent), CacheBytes::Tokens(token)) => (extent, token.of(scheme)),
                    (_, CacheBytes::State(bytes)) => {
                        rooms.push(Room::of_state(bytes));
                        continue;
                    }
                    _ => continue,
                };
                let mut extent = extent.filled(tokens, capacity, by);
                extent.expect(0, context);
                let place = extent.place(n);
                longest = extent.seen(n, &place).max(longest);
                let room = extent.room_for(&place, token);
                let marked = size(extent.most_marked()).saturating_mul(token[0] + token[1]);
                let held = |turned: bool| if turned { marked } else { 0 };
                rooms.push(Room {
                    before: room.before.saturating_add(held(!extent.is_trimmable())),
                    after: room.after.saturating_add(held(extent.turns(n))),
                    ..room
                });
            }
            let now = rooms
                .iter()
                .map(|room| room.before)
                .fold(0, u64::saturating_add);
            now.saturating_add(self.step(n, longest, &rooms).more)
        };
        // The last chunk, and the first token behind it, for which windows are cut to their size.
        let mut peak = at(context - chunk, context, chunk, chunk);
        peak = peak.max(at((context - 1).max(0), context, chunk, 1));
        // The last time that caches grow, all or some of them.
        let sizes = fresh.iter().flatten().filter_map(Extent::window);
        for size in sizes.chain([context]).filter(|&size| size <= context) {
            let below = room_below(size);
            peak = peak.max(at(below, below, 1, 1));
        }
        // A step is queued while the one before it is computed.
        let full = at((context - 1).max(0), context, 1, 1);
        peak.max(full.saturating_add(self.work(1, context)))
            .saturating_add(SMALL)
    }
}

pub fn size(n: i32) -> u64 {
    u64::try_from(n).unwrap_or(0)
}
