//! Adapters to disk, in mlx-lm's format.
//!
//! That format has one rank and one scale, and the same modules in each of the last layers. What an adapter has
//! otherwise is brought to it without changing what it computes: a smaller rank is filled up with zeros, another
//! scale goes into B, and a module that it leaves alone gets a part that does nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use safetensors::tensor::TensorView;
use serde_json::{json, Value};

use super::create::{low_rank_bytes, whole_bytes};
use super::{full_name, usize_of, Adapter, Leaf, Settings};
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::load::{check_finite, AdapterKind, ModuleShape};
use crate::mlx::{ops, Array};
use crate::model::adapter::Part;
use crate::model::modules::{Module, Site};
use crate::room;
use crate::runtime::model::too_large;
use crate::runtime::staging::{SaveOptions, Staging};
use crate::runtime::worker::Worker;

const WEIGHTS: &str = "adapters.safetensors";
const CONFIG: &str = "adapter_config.json";
/// Bytes written between two looks at progress and deadline.
const WRITE_STEP: usize = 8 << 20;

/// One tensor's bytes, row-major.
struct Saved {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl Adapter {
    /// Writes a folder that mlx-lm and this library load. What was there under the same names is replaced only when
    /// everything is written. With a training's `step` the weights are kept also under its number, as mlx-lm does.
    pub fn save(&self, path: &Path, step: Option<u64>, mut options: SaveOptions) -> Result<()> {
        // A module may have a larger one than the settings say.
        let ranks = self.tensors.values().filter(|info| info.leaf == Leaf::A);
        let largest = ranks.filter_map(|info| info.shape.last().copied()).max();
        let rank = largest.unwrap_or(0);
        let plan = Plan::new(&self.settings, rank, &self.model.modules, &self.modules)?;
        let config = plan.config(&self.settings, &self.model.names);
        let (id, model, names) = (self.id, self.model.id, self.model.names);
        let bytes = plan.bytes();
        // On the device, as bytes, and in the file's order.
        let _room = room::hold_for(usize_of(bytes.saturating_mul(2)), "the adapter")?;
        let tensors = self.model.engine.call(move |worker| {
            worker.ready_for(bytes)?;
            if !worker.make_room_for(bytes) {
                return Err(too_large("the adapter's save", bytes));
            }
            plan.tensors(worker, id, model, &names)
        })?;
        let views: Vec<(&String, TensorView)> = tensors
            .iter()
            .map(|(name, saved)| Ok((name, saved.view()?)))
            .collect::<Result<_>>()?;
        let bytes = safetensors::serialize(views, None)
            .map_err(|error| Error::internal(format!("safetensors: {error}")))?;
        let config = format!("{config:#}\n");
        let numbered = step.map(|step| format!("{step:07}_{WEIGHTS}"));
        let mut files = vec![(WEIGHTS, bytes.as_slice())];
        files.extend(numbered.as_deref().map(|name| (name, bytes.as_slice())));
        files.push((CONFIG, config.as_bytes()));
        let total = files.iter().map(|(_, bytes)| bytes.len() as u64).sum();
        let mut staging = Staging::new(path)?;
        let mut done = 0;
        for (name, bytes) in files {
            let file = staging.create(name)?;
            let mut offset = 0;
            for piece in bytes.chunks(WRITE_STEP) {
                file.write_at(piece, offset)?;
                offset += piece.len() as u64;
                done += piece.len() as u64;
                options.check(done, total)?;
            }
            file.finish()?;
        }
        staging.commit(None, &|_| false)
    }
}

/// What is written for an adapter.
struct Plan {
    full: bool,
    dora: bool,
    rank: i32,
    scale: f32,
    /// The first layer that is adapted, and how many there are.
    first: usize,
    layers: usize,
    /// Modules to write and the part of the adapter that they have, if any.
    modules: Vec<(Module, Option<usize>)>,
}

impl Plan {
    fn new(settings: &Settings, rank: i32, all: &[Module], own: &[String]) -> Result<Self> {
        let layers = all.iter().filter_map(|module| layer(&module.name)).max();
        let layers = layers.map_or(0, |last| last.0 + 1);
        let first = own
            .iter()
            .filter_map(|name| layer(name))
            .map(|(layer, _)| layer)
            .min();
        let first = first.unwrap_or(0);
        let full = settings.kind == AdapterKind::Full;
        let keys: BTreeSet<&str> = own
            .iter()
            .map(|name| layer(name).map_or(name.as_str(), |(_, key)| key))
            .collect();
        let wanted = |module: &&Module| match layer(&module.name) {
            Some((layer, key)) => !full && layer >= first && keys.contains(key),
            None => false,
        };
        let part_of = |name: &str| own.iter().position(|own| own == name);
        let modules = all
            .iter()
            .filter(|module| wanted(module) || part_of(&module.name).is_some())
            .map(|module| (module.clone(), part_of(&module.name)))
            .collect();
        Ok(Plan {
            full,
            dora: settings.kind == AdapterKind::Dora,
            rank,
            scale: settings.scale.unwrap_or(1.0),
            first,
            layers,
            modules,
        })
    }

    fn config(&self, settings: &Settings, names: &crate::model::Names) -> Value {
        let mut config = json!({
            "fine_tune_type": settings.kind.name(),
            "num_layers": self.layers - self.first,
        });
        if !self.full {
            let keys: BTreeSet<String> = self
                .modules
                .iter()
                .map(|(module, _)| match layer(&module.name) {
                    Some((_, key)) => key.to_owned(),
                    None => super::path(names, &module.name),
                })
                .collect();
            config["lora_parameters"] = json!({
                "rank": self.rank,
                "scale": self.scale,
                "dropout": settings.dropout,
                "keys": keys,
            });
        }
        config
    }

    /// From above: of modules without a part too, in f32, and what DoRA's magnitude of one is made of.
    fn bytes(&self) -> u64 {
        let of = |module: &Module| low_rank_bytes(module.shape, self.rank, 4);
        let modules = self.modules.iter().map(|(module, _)| module);
        let parts = modules.clone().map(of).fold(0, u64::saturating_add);
        let own = match self.full {
            true => modules
                .map(|module| whole_bytes(module.shape))
                .fold(0, u64::saturating_add),
            false if self.dora => modules
                .map(|module| 3 * whole_bytes(module.shape))
                .max()
                .unwrap_or(0),
            false => 0,
        };
        parts.saturating_add(own)
    }

    fn tensors(
        &self,
        worker: &mut Worker,
        id: u64,
        model: u64,
        names: &crate::model::Names,
    ) -> Result<BTreeMap<String, Saved>> {
        let mut all = BTreeMap::new();
        let adapter = worker.adapter(id)?;
        let dtype = adapter.parts.iter().find_map(|(_, part)| match part {
            Part::Low { a, .. } => Some(a.dtype()),
            Part::Full { .. } => None,
        });
        let dtype = dtype.unwrap_or(Dtype::F32);
        for (module, part) in &self.modules {
            let part = part.and_then(|index| adapter.parts.get(index));
            let mut put = |leaf, array: &Array| -> Result<()> {
                let (name, saved) = (full_name(names, &module.name, leaf), Saved::of(array)?);
                // Another scale went into it.
                check_finite(&name, &saved.bytes, saved.dtype, 0).map_err(|_| {
                    Error::unsupported(format!(
                        "mlx-lm's format has one scale for all modules, and with {:e} \"{name}\" is not finite",
                        self.scale
                    ))
                })?;
                all.insert(name, saved);
                Ok(())
            };
            match part {
                Some((_, Part::Full { weight, bias, .. })) if self.full => {
                    weight.as_ref().map(|weight| put(Leaf::Weight, weight)).transpose()?;
                    bias.as_ref().map(|bias| put(Leaf::Bias, bias)).transpose()?;
                }
                Some((_, Part::Full { .. })) => {
                    return Err(Error::unsupported(format!(
                        "the adapter replaces the weight of \"{}\" beside its low-rank parts, which mlx-lm's format does not have",
                        module.name
                    )))
                }
                Some(_) if module.site == Site::LM_HEAD && worker.decoder(model)?.is_tied() => {
                    return Err(Error::unsupported(
                        "the adapter changes an output layer that is tied to the embedding, which mlx-lm's format does not have",
                    ))
                }
                Some((_, Part::Low { tied: false, .. }))
                    if module.site == Site::EMBED_TOKENS && worker.decoder(model)?.is_tied() =>
                {
                    return Err(Error::unsupported(
                        "the adapter changes embed_tokens and not the output layer that is tied to it, which mlx-lm's format does not have",
                    ))
                }
                Some((_, Part::Low { a, b, scale, magnitude, .. })) => {
                    let factor = Array::scalar(scale / self.scale, b.dtype())?;
                    let b = if *scale == self.scale { b.clone() } else { ops::multiply(b, &factor)? };
                    let (a, b) = (widened(a, self.rank, -1)?, widened(&b, self.rank, -2)?);
                    put(Leaf::A, &as_mlx_lm(a)?)?;
                    put(Leaf::B, &as_mlx_lm(b)?)?;
                    match magnitude {
                        Some(magnitude) => put(Leaf::Magnitude, magnitude)?,
                        None if self.dora => put(Leaf::Magnitude, &worker.decoder(model)?.row_norms(module.site)?)?,
                        None => {}
                    }
                }
                None => {
                    let (a, b) = match module.shape {
                        ModuleShape::Embedding { vocab, dims } => (vec![vocab, self.rank], vec![self.rank, dims]),
                        ModuleShape::Linear { input, output, .. } => (vec![input, self.rank], vec![self.rank, output]),
                        ModuleShape::Experts { experts, input, output, .. } => {
                            (vec![experts, self.rank, input], vec![experts, output, self.rank])
                        }
                        ModuleShape::Norm { .. } => continue,
                    };
                    put(Leaf::A, &ops::zeros(&a, dtype)?)?;
                    put(Leaf::B, &ops::zeros(&b, dtype)?)?;
                    if self.dora {
                        put(Leaf::Magnitude, &worker.decoder(model)?.row_norms(module.site)?)?;
                    }
                }
            }
        }
        Ok(all)
    }
}

/// Layer and key of a name inside a block.
fn layer(name: &str) -> Option<(usize, &str)> {
    let (layer, key) = name.strip_prefix("layers.")?.split_once('.')?;
    Some((layer.parse().ok()?, key))
}

/// A and B of experts the other way around, as mlx-lm has them.
fn as_mlx_lm(x: Array) -> Result<Array> {
    match x.shape().len() {
        3 => ops::contiguous(&ops::transpose(&x, &[0, 2, 1])?),
        _ => Ok(x),
    }
}

/// `x` with zeros behind it up to `rank` along `axis`.
fn widened(x: &Array, rank: i32, axis: i32) -> Result<Array> {
    let missing = rank - x.dim(axis);
    if missing <= 0 {
        return Ok(x.clone());
    }
    let mut shape = x.shape().to_vec();
    let at = shape.len().checked_add_signed(axis as isize);
    if let Some(size) = at.and_then(|at| shape.get_mut(at)) {
        *size = missing;
    }
    ops::concatenate(&[x, &ops::zeros(&shape, x.dtype())?], axis)
}

impl Saved {
    fn of(array: &Array) -> Result<Self> {
        Ok(Saved {
            dtype: array.dtype(),
            shape: array.shape().iter().map(|&n| n as usize).collect(),
            bytes: array.to_bytes()?,
        })
    }

    fn view(&self) -> Result<TensorView<'_>> {
        let dtype = match self.dtype {
            Dtype::F32 => safetensors::Dtype::F32,
            Dtype::F16 => safetensors::Dtype::F16,
            Dtype::BF16 => safetensors::Dtype::BF16,
            other => return Err(Error::internal(format!("an adapter of {}", other.name()))),
        };
        TensorView::new(dtype, self.shape.clone(), &self.bytes)
            .map_err(|error| Error::internal(format!("safetensors: {error}")))
    }
}
