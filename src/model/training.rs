//! The decoder's pass for training: a batch, no caches, and an adapter's arrays as inputs that gradients are wanted for.

use std::rc::Rc;

use super::adapter::{Adapter, AdapterSet, Dropout, Part, Traced};
use super::block::{Kept, Past};
use super::decoder::{Decoder, Rows};
use super::modules::Site;
use super::segments::Session;
use super::streams::Spread;
use crate::error::{Error, Result};
use crate::mlx::nn::AttentionMask;
use crate::mlx::{grad, Array};
use crate::random::mix;

/// Which arrays of an adapter are trained, and where they belong. The arrays themselves come in a list, in the order in
/// which `parameters` gives them.
pub struct Trained {
    parts: Vec<TrainedPart>,
}

#[derive(Clone, Copy)]
struct TrainedPart {
    site: Site,
    scale: f32,
    tied: bool,
    magnitude: bool,
}

impl TrainedPart {
    /// Arrays of it in the list: A, B and DoRA's magnitude.
    fn count(self) -> usize {
        2 + usize::from(self.magnitude)
    }
}

/// How one pass is computed.
#[derive(Clone, Copy, Default)]
pub struct Pass {
    /// What is dropped of the adapter's inputs: 0 = nothing.
    pub dropout: f32,
    pub dropout_seed: u64,
    /// Blocks are computed again for the gradients instead of kept.
    pub checkpoint: bool,
}

impl Trained {
    /// # Errors
    /// UNSUPPORTED where the adapter has whole weights, or nothing else to train.
    pub fn of(adapter: &Adapter) -> Result<Self> {
        let part = |(site, part): &(Site, Part)| match part {
            Part::Low {
                scale,
                magnitude,
                tied,
                ..
            } => Ok(TrainedPart {
                site: *site,
                scale: *scale,
                tied: *tied,
                magnitude: magnitude.is_some(),
            }),
            Part::Full { .. } => Err(Error::unsupported(
                "the adapter replaces whole weights, and only LoRA and DoRA can be trained",
            )),
        };
        let parts: Vec<_> = adapter.parts.iter().map(part).collect::<Result<_>>()?;
        if parts.is_empty() {
            return Err(Error::unsupported("the adapter has nothing to train"));
        }
        Ok(Trained { parts })
    }

    /// The arrays that are trained.
    pub fn parameters(&self, adapter: &Adapter) -> Result<Vec<Array>> {
        let mut all = Vec::new();
        for (wanted, (_, part)) in self.parts.iter().zip(&adapter.parts) {
            match part {
                Part::Low {
                    a, b, magnitude, ..
                } if magnitude.is_some() == wanted.magnitude => {
                    all.extend([a, b].into_iter().chain(magnitude).cloned());
                }
                _ => return Err(changed()),
            }
        }
        Ok(all)
    }

    /// Gives the adapter other arrays.
    pub fn set_parameters(&self, adapter: &mut Adapter, parameters: Vec<Array>) -> Result<()> {
        let count: usize = self.parts.iter().map(|part| part.count()).sum();
        if parameters.len() != count || adapter.parts.len() != self.parts.len() {
            return Err(changed());
        }
        let mut next = parameters.into_iter();
        for (_, part) in &mut adapter.parts {
            let Part::Low {
                a, b, magnitude, ..
            } = part
            else {
                return Err(changed());
            };
            for place in [a, b].into_iter().chain(magnitude) {
                *place = next.next().ok_or_else(changed)?;
            }
        }
        Ok(())
    }

    /// The parts of one block, or those outside of all, and their arrays.
    fn of_layer(
        &self,
        layer: Option<usize>,
        parameters: &[Array],
    ) -> Result<(Vec<TrainedPart>, Vec<Array>)> {
        let (mut parts, mut arrays) = (Vec::new(), Vec::new());
        let mut at = 0;
        for part in &self.parts {
            let end = at + part.count();
            if part.site.layer() == layer {
                parts.push(*part);
                arrays.extend_from_slice(parameters.get(at..end).ok_or_else(changed)?);
            }
            at = end;
        }
        Ok((parts, arrays))
    }
}

fn changed() -> Error {
    Error::internal("an adapter's parts changed while it was trained")
}

/// What these arrays do. `weight` gives a module's base weight, dense.
fn traced_set(
    parts: &[TrainedPart],
    mut arrays: &[Array],
    pass: Pass,
    weight: &dyn Fn(Site) -> Result<Array>,
) -> Result<AdapterSet> {
    let mut set = AdapterSet::default();
    for part in parts {
        let (own, rest) = arrays.split_at_checked(part.count()).ok_or_else(changed)?;
        arrays = rest;
        let [a, b, magnitude @ ..] = own else {
            return Err(changed());
        };
        let dropout = (pass.dropout > 0.0).then(|| Dropout {
            rate: pass.dropout,
            seed: mix(pass.dropout_seed, part.site.number()),
        });
        let traced = Traced {
            site: part.site,
            a,
            b,
            magnitude: magnitude.first(),
            scale: part.scale,
            tied: part.tied,
            dropout,
        };
        set.add_traced(&traced, weight)?;
    }
    Ok(set)
}

/// What one step works on.
#[derive(Clone, Copy)]
pub struct StepSize {
    pub rows: i32,
    /// Tokens of a row.
    pub width: i32,
    /// Where a prediction is trained.
    pub predictions: usize,
    pub checkpoint: bool,
}

/// The last block's output, and what the output layer is computed with.
pub struct Hidden {
    /// `[batch, n, hidden]`
    pub rows: Array,
    pub adapters: AdapterSet,
}

impl Decoder {
    /// Bytes that one step takes beside the weights, the adapter and its optimiser's state: an estimate, rather too high
    /// than too low. What the gradients need is kept of every block, with checkpoints of one at a time.
    pub fn training_cost(&self, adapter: &Adapter, step: StepSize) -> u64 {
        let size = |n: i32| u64::try_from(n).unwrap_or(0);
        let hidden = size(self.config.hidden_size);
        let width = size(step.width);
        let blocks = self.blocks.len().max(1) as u64;
        // Of one token in one block.
        let rows = self
            .blocks
            .iter()
            .map(|block| block.training_row(hidden, width));
        let plain = rows.max().unwrap_or(0);
        // Of one token in all blocks: what adapters add to each projection.
        let outputs = adapter.parts.iter().map(|(_, part)| match part {
            Part::Low { b, .. } => 2 * size(b.dim(1)),
            Part::Full { .. } => 0,
        });
        let adapted: u64 = outputs.sum();
        let tokens = size(step.rows) * width;
        let block = tokens * (plain + adapted / blocks);
        let versions = self.spread.as_ref().map_or(1, Spread::count);
        let beside = self.per_layer.map_or(0, |inputs| inputs.row());
        let activations = match step.checkpoint {
            true => blocks * tokens * versions * hidden + 2 * block,
            false => (blocks + 1) * block,
        } + 2 * tokens * beside;
        let logits = 5 * step.predictions as u64 * size(self.config.vocab_size);
        // Weights, gradients, moments and new weights, some of them twice while they become one array; of DoRA copies of
        // the weights that it looks at.
        let (mut own, mut looked_at) = (0, 0);
        for (site, part) in &adapter.parts {
            let Part::Low {
                a, b, magnitude, ..
            } = part
            else {
                continue;
            };
            own += (a.size() + b.size()) as u64;
            if magnitude.is_some() {
                let copies = 5 * size(a.dim(0)) * size(b.dim(1));
                looked_at = match step.checkpoint && site.layer().is_some() {
                    // Those of one block, of which no weight is looked at more often than the block has weights.
                    true => looked_at.max(7 * copies),
                    false => looked_at + copies,
                };
            }
        }
        4 * (activations + logits + 8 * own + looked_at)
    }

    /// tokens i32 `[batch, n]`, each row from position 0 on; `parameters` as `trained` lists them.
    pub fn forward_training(
        &self,
        tokens: &Array,
        trained: &Trained,
        parameters: &[Array],
        pass: Pass,
    ) -> Result<Hidden> {
        let n = tokens.dim(1);
        let (parts, arrays) = trained.of_layer(None, parameters)?;
        let adapters = traced_set(&parts, &arrays, pass, &|site| self.weight(site))?;
        let mut h = self.embed(tokens, &adapters)?;
        let outside = self.live.with(&adapters);
        let mut per_layer = self.per_layer(&outside, tokens, &h)?.into_iter();
        h = self.spread(&outside, h)?;
        // What later blocks see of earlier ones goes in and out of them, so that gradients flow through it.
        let seen: Vec<usize> = self.blocks.iter().flat_map(|of| of.borrows()).collect();
        let mut kept: Vec<Kept> = vec![None; self.caches.len()];
        let masks = Rc::new(self.masks(|_, spec| AttentionMask::new(n, 0, spec.window))?);
        for (index, block) in self.blocks.iter().enumerate() {
            let (parts, arrays) = trained.of_layer(Some(index), parameters)?;
            let (block, live, masks) = (block.clone(), self.live.clone(), masks.clone());
            let borrowed: Vec<usize> = block.borrows().collect();
            let given: Vec<usize> = block.keeps().filter(|of| seen.contains(of)).collect();
            let (own, caches) = (per_layer.next(), kept.len());
            let mut inputs = vec![h];
            inputs.extend(own.clone());
            for &number in &borrowed {
                let (keys, values) = kept.get(number).cloned().flatten().ok_or_else(changed)?;
                inputs.extend([keys, values]);
            }
            inputs.extend(arrays);
            let (has_own, given_too) = (own.is_some(), given.clone());
            let compute = move |inputs: &[Array]| -> Result<Vec<Array>> {
                let mut inputs = inputs.iter();
                let mut next = || inputs.next().cloned().ok_or_else(changed);
                let x = next()?;
                let per_layer = has_own.then(&mut next).transpose()?;
                let mut kept: Vec<Kept> = vec![None; caches];
                for &number in &borrowed {
                    let pair = (next()?, next()?);
                    *kept.get_mut(number).ok_or_else(changed)? = Some(pair);
                }
                let set = traced_set(&parts, inputs.as_slice(), pass, &|site| live.weight(site))?;
                let mut past = Past {
                    sessions: vec![Session {
                        masks: masks.as_ref().clone(),
                        ..Session::default()
                    }],
                    kept: &mut kept,
                    texts: None,
                    per_layer,
                };
                let y = block.forward(&live.with(&set), &x, &mut past, Rows::All)?;
                let mut outputs = vec![y];
                for &number in &given_too {
                    let (keys, values) = kept.get(number).cloned().flatten().ok_or_else(changed)?;
                    outputs.extend([keys, values]);
                }
                Ok(outputs)
            };
            let outputs = if pass.checkpoint {
                grad::checkpoint(compute, &inputs)?
            } else {
                compute(&inputs)?
            };
            let mut outputs = outputs.into_iter();
            h = outputs.next().ok_or_else(changed)?;
            for number in given {
                let pair = (outputs.next(), outputs.next());
                let (Some(keys), Some(values)) = pair else {
                    return Err(changed());
                };
                *kept.get_mut(number).ok_or_else(changed)? = Some((keys, values));
            }
        }
        let rows = self.join(&self.live.with(&adapters), h)?;
        Ok(Hidden { rows, adapters })
    }
}
