//! The decoder's pass for training: a batch, no caches, and an adapter's arrays as inputs that gradients are wanted for.

use std::rc::Rc;

use super::adapter::{Adapter, AdapterSet, Dropout, Part, Traced};
use super::cache::AttentionMask;
use super::decoder::{Decoder, Rows};
use super::modules::Site;
use crate::error::{Error, Result};
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

/// The last block's output, and what the output layer is computed with.
pub struct Hidden {
    /// `[batch, n, hidden]`
    pub rows: Array,
    pub adapters: AdapterSet,
}

impl Decoder {
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
        let mut masks: Vec<(Option<i32>, Rc<AttentionMask>)> = Vec::with_capacity(2);
        for (index, (block, layer)) in self.blocks.iter().zip(&self.config.layers).enumerate() {
            let mask = match masks.iter().find(|(window, _)| *window == layer.window) {
                Some((_, mask)) => mask.clone(),
                None => {
                    let mask = Rc::new(AttentionMask::new(n, 0, layer.window)?);
                    masks.push((layer.window, mask.clone()));
                    mask
                }
            };
            let (parts, arrays) = trained.of_layer(Some(index), parameters)?;
            let (block, config) = (block.clone(), self.config.clone());
            let compute = move |inputs: &[Array]| -> Result<Vec<Array>> {
                let [x, arrays @ ..] = inputs else {
                    return Err(changed());
                };
                let set = traced_set(&parts, arrays, pass, &|site| block.weight(site))?;
                let y = block.forward(&config, x, &mask, None, Rows::All, &set)?;
                Ok(vec![y])
            };
            let inputs: Vec<Array> = std::iter::once(h).chain(arrays).collect();
            let mut outputs = if pass.checkpoint {
                grad::checkpoint(compute, &inputs)?
            } else {
                compute(&inputs)?
            };
            h = outputs.pop().ok_or_else(changed)?;
        }
        Ok(Hidden { rows: h, adapters })
    }
}
