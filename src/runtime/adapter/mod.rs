//! Adapters as callers see them: read from a folder or made here, told about, read, changed and saved.

mod create;
mod fingerprint;
mod read;
mod save;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde_json::json;

use super::engine::Command;
use super::model::{check_budget, loading, too_large, Model, Reader};
use super::worker::Worker;
use crate::dtype::Dtype;
use crate::error::{Code, Error, Result};
use crate::load::{self, check_finite, AdapterFile, AdapterKind, ExpertModule, ModuleShape, Slot};
use crate::mlx::{ops, Array};
use crate::model::adapter::{self as arrays, Part};
use crate::model::modules::{Module, Site};
use crate::model::Names;
use crate::room;
use crate::watch;
use crate::words::quoted;

pub use create::AdapterOptions;
pub use fingerprint::Fingerprint;
use read::{expert_module, slots_of, whole, ReadPart, ReadTensor};

pub struct Adapter {
    id: u64,
    pub(super) model: Arc<Model>,
    settings: Settings,
    /// The parts' modules, in order.
    pub(super) modules: Vec<String>,
    /// By name, as mlx-lm names them: `model.layers.0.self_attn.q_proj.lora_a`.
    tensors: BTreeMap<String, TensorInfo>,
    /// Its low-rank parts' own, the one farthest from 0.
    scale: f32,
    /// The last that was asked for.
    fingerprint: Mutex<Option<Fingerprint>>,
}

/// Of one tensor in what is told about an adapter, as a value and as text.
const INFO_BYTES: usize = 4096;

/// What an adapter is as a whole.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settings {
    pub kind: AdapterKind,
    /// Where it came from; `None`: made here.
    pub format: Option<load::AdapterFormat>,
    pub rank: Option<i32>,
    pub scale: Option<f32>,
    pub dropout: f32,
}

#[derive(Clone, Debug)]
struct TensorInfo {
    shape: Vec<i32>,
    dtype: Dtype,
    part: usize,
    leaf: Leaf,
}

impl TensorInfo {
    fn elements(&self) -> u64 {
        let sizes = self.shape.iter().map(|&n| u64::from(n.unsigned_abs()));
        sizes.fold(1, u64::saturating_mul)
    }

    fn bytes(&self) -> u64 {
        self.bytes_as(self.dtype.size() as u64)
    }

    /// With elements of so many bytes.
    fn bytes_as(&self, size: u64) -> u64 {
        self.elements().saturating_mul(size)
    }
}

/// Which tensor of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaf {
    A,
    B,
    Magnitude,
    Weight,
    Bias,
}

impl Leaf {
    fn name(self) -> &'static str {
        match self {
            Leaf::A => "lora_a",
            Leaf::B => "lora_b",
            Leaf::Magnitude => "m",
            Leaf::Weight => "weight",
            Leaf::Bias => "bias",
        }
    }

    fn of(self, part: &Part) -> Option<&Array> {
        match (self, part) {
            (Leaf::A, Part::Low { a, .. }) => Some(a),
            (Leaf::B, Part::Low { b, .. }) => Some(b),
            (Leaf::Magnitude, Part::Low { magnitude, .. }) => magnitude.as_ref(),
            (Leaf::Weight, Part::Full { weight, .. }) => weight.as_ref(),
            (Leaf::Bias, Part::Full { bias, .. }) => bias.as_ref(),
            _ => None,
        }
    }

    fn of_mut(self, part: &mut Part) -> Option<&mut Array> {
        match (self, part) {
            (Leaf::A, Part::Low { a, .. }) => Some(a),
            (Leaf::B, Part::Low { b, .. }) => Some(b),
            (Leaf::Magnitude, Part::Low { magnitude, .. }) => magnitude.as_mut(),
            (Leaf::Weight, Part::Full { weight, .. }) => weight.as_mut(),
            (Leaf::Bias, Part::Full { bias, .. }) => bias.as_mut(),
            _ => None,
        }
    }

    const ALL: [Leaf; 5] = [Leaf::A, Leaf::B, Leaf::Magnitude, Leaf::Weight, Leaf::Bias];
}

/// A tensor that a caller reads or gives.
pub struct TensorData {
    pub shape: Vec<i32>,
    /// Row-major.
    pub values: Vec<f32>,
}

pub struct LoadOptions<'a> {
    pub deadline: Option<Instant>,
    /// Bytes done, of how many; false stops.
    pub progress: &'a mut dyn FnMut(u64, u64) -> bool,
}

impl Adapter {
    pub fn load(model: Arc<Model>, path: &str, options: LoadOptions) -> Result<Self> {
        watch::during(loading(options.deadline), || {
            Self::load_watched(model, path, options)
        })
    }

    fn load_watched(model: Arc<Model>, path: &str, options: LoadOptions) -> Result<Self> {
        let begun = Instant::now();
        let mut file = AdapterFile::open(path)?;
        let experts: Vec<ExpertModule> = model.modules.iter().filter_map(expert_module).collect();
        file.place_experts(&experts)?;
        let modules: Vec<(String, ModuleShape)> = model
            .modules
            .iter()
            .map(|module| (module.name.clone(), module.shape))
            .collect();
        file.check(&modules)?;
        let total = file
            .entries
            .iter()
            .flat_map(slots_of)
            .map(|slot| slot.bytes)
            .sum::<u64>();
        check_budget(&model.engine, total)?;
        let mut reader = Reader {
            engine: Some(&model.engine),
            catalog: &file.catalog,
            progress: options.progress,
            done: 0,
            total,
            beside: 0,
        };
        let mut parts = Vec::with_capacity(file.entries.len());
        for entry in &file.entries {
            let path = entry.target.path();
            let module = find(&model.modules, &path)
                .ok_or_else(|| Error::internal("an adapter's module is gone"))?;
            let mut read = |slot: Slot| -> Result<ReadTensor> {
                let (slot, buffer) = reader.read(slot)?;
                check_finite(&slot.name, buffer.bytes(), slot.dtype, 0)?;
                Ok(ReadTensor { slot, buffer })
            };
            let part = match &entry.part {
                load::Part::Low(low) => ReadPart::Low {
                    a: (read(low.a.clone())?, low.a_order),
                    b: (read(low.b.clone())?, low.b_order),
                    scale: low.scale,
                    magnitude: whole(&low.magnitude).map(&mut read).transpose()?,
                },
                load::Part::Full(full) => ReadPart::Full {
                    weight: whole(&full.weight).map(&mut read).transpose()?,
                    bias: whole(&full.bias).map(&mut read).transpose()?,
                    copy: full.base_layer,
                },
            };
            parts.push((module.site, part, entry.with_tied_output));
        }
        let names = file
            .entries
            .iter()
            .map(|entry| entry.target.path())
            .collect();
        let settings = Settings {
            kind: file.kind,
            format: Some(file.format),
            rank: file.rank,
            scale: file.scale,
            dropout: file.dropout,
        };
        // Those that lie the other way are made anew.
        let turned: u64 = parts.iter().map(|(_, part, _)| part.turned()).sum();
        let adapter = Self::register(model, settings, names, turned, move |_| {
            parts
                .into_iter()
                .map(|(site, part, tied)| Ok((site, part.into_part(tied)?)))
                .collect()
        })?;
        crate::log::info!(
            "loaded the adapter {path}: {}, rank {}, {} modules, {total} bytes, in {} ms",
            adapter.settings.kind.name(),
            adapter.settings.rank.unwrap_or(0),
            adapter.modules.len(),
            begun.elapsed().as_millis()
        );
        Ok(adapter)
    }

    /// Gives the engine the arrays that `make` makes on its thread, for which it takes so many `bytes`; `modules` names theirs,
    /// in order.
    fn register(
        model: Arc<Model>,
        settings: Settings,
        modules: Vec<String>,
        bytes: u64,
        make: impl FnOnce(&mut Worker) -> Result<Vec<(Site, Part)>> + Send + 'static,
    ) -> Result<Self> {
        let id = model.engine.next_id();
        let names = model.names;
        let named = modules.clone();
        let (tensors, scale) = model.engine.call(move |worker| {
            worker.ready_for(bytes)?;
            if !worker.make_room_for(bytes) {
                return Err(too_large("the adapter", bytes));
            }
            let parts = make(worker)?;
            let scales = parts.iter().map(|(_, part)| match part {
                Part::Low { scale, .. } => scale.abs(),
                Part::Full { .. } => 0.0,
            });
            let scale = scales.fold(0.0, f32::max);
            let mut tensors = BTreeMap::new();
            let mut all = Vec::new();
            for (index, ((_, part), module)) in parts.iter().zip(&named).enumerate() {
                for leaf in Leaf::ALL {
                    let Some(array) = leaf.of(part) else { continue };
                    all.push(array);
                    let info = TensorInfo {
                        shape: array.shape().to_vec(),
                        dtype: array.dtype(),
                        part: index,
                        leaf,
                    };
                    tensors.insert(full_name(&names, module, leaf), info);
                }
            }
            crate::mlx::eval(&all)?;
            worker.add_adapter(id, arrays::Adapter::new(parts));
            Ok((tensors, scale))
        })?;
        Ok(Adapter {
            id,
            model,
            settings,
            modules,
            tensors,
            scale,
            fingerprint: Mutex::default(),
        })
    }

    fn lock_fingerprint(&self) -> MutexGuard<'_, Option<Fingerprint>> {
        self.fingerprint
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The type of its tensors that holds the least, which a scale has to fit.
    fn narrowest(&self) -> Dtype {
        let types = self.tensors.values().map(|tensor| tensor.dtype);
        types
            .min_by(|a, b| largest(*a).total_cmp(&largest(*b)))
            .unwrap_or(Dtype::F32)
    }

    pub fn id(&self) -> u64 {
        self.id
    }

    /// The share of its inputs that training leaves out.
    pub fn dropout(&self) -> f32 {
        self.settings.dropout
    }

    pub fn is_of(&self, model: &Model) -> bool {
        self.model.id == model.id
    }

    /// JSON: what it is, and its tensors by name.
    ///
    /// Errors: `OutOfMemory`.
    pub fn info(&self) -> Result<String> {
        let _room = room::hold(self.tensors.len(), INFO_BYTES, "the adapter's tensors")?;
        let parameters: u64 = self.tensors.values().map(TensorInfo::elements).sum();
        let bytes: u64 = self.tensors.values().map(TensorInfo::bytes).sum();
        let tensors: Vec<_> = self
            .tensors
            .iter()
            .map(|(name, info)| json!({"name": name, "shape": info.shape, "dtype": info.dtype.name()}))
            .collect();
        Ok(json!({
            "kind": self.settings.kind.name(),
            "format": self.settings.format.map(load::AdapterFormat::name),
            "rank": self.settings.rank,
            "scale": self.settings.scale,
            "dropout": self.settings.dropout,
            "parameters": parameters,
            "bytes": bytes,
            "tensors": tensors,
        })
        .to_string())
    }

    fn tensor(&self, name: &str) -> Result<&TensorInfo> {
        self.tensors.get(name).ok_or_else(|| {
            let some: Vec<&str> = self.tensors.keys().take(3).map(String::as_str).collect();
            Error::new(
                Code::NotFound,
                format!(
                    "the adapter has no tensor {}; it has {}, ... ({} in all)",
                    quoted(name, 200),
                    some.join(", "),
                    self.tensors.len()
                ),
            )
        })
    }

    /// A copy of one tensor, as f32.
    pub fn get(&self, name: &str) -> Result<TensorData> {
        let info = self.tensor(name)?;
        let (part, leaf, bytes, id) = (info.part, info.leaf, info.bytes_as(4), self.id);
        // The array as f32 and its copy, and the caller's.
        let _room = room::hold_for(usize_of(bytes.saturating_mul(2)), name)?;
        let (shape, values) = self.model.engine.call(move |worker| {
            worker.ready_for(bytes)?;
            let array = worker
                .adapter(id)?
                .parts
                .get(part)
                .and_then(|(_, part)| leaf.of(part))
                .ok_or_else(|| Error::internal("an adapter's tensor is gone"))?;
            let values = ops::astype(array, Dtype::F32)?.to_f32()?;
            Ok((array.shape().to_vec(), values))
        })?;
        Ok(TensorData { shape, values })
    }

    /// Replaces one tensor, in the type that it has. Requests that run go on with the old one.
    pub fn set(&self, name: &str, data: TensorData) -> Result<()> {
        let info = self.tensor(name)?;
        if info.shape != data.shape {
            return Err(Error::invalid(format!(
                "in.shape is {:?}, and the tensor's is {:?}",
                data.shape, info.shape
            )));
        }
        if let Some(at) = data.values.iter().position(|value| !value.is_finite()) {
            return Err(Error::invalid(format!(
                "in.data[{at}] is {}",
                data.values[at]
            )));
        }
        let (part, leaf, dtype, id) = (info.part, info.leaf, info.dtype, self.id);
        let most = largest(dtype);
        if let Some(at) = data.values.iter().position(|value| value.abs() > most) {
            return Err(Error::invalid(format!(
                "in.data[{at}] is {:e}, more than the tensor's {} holds",
                data.values[at],
                dtype.name()
            )));
        }
        let bytes = info.bytes_as(4).saturating_mul(2);
        self.model.engine.call(move |worker| {
            worker.ready_for(bytes)?;
            if !worker.make_room_for(bytes) {
                return Err(too_large("the tensor", bytes));
            }
            let array = ops::reshape(&Array::from_f32(&data.values)?, &data.shape)?;
            let array = ops::astype(&array, dtype)?;
            crate::mlx::eval(&[&array])?;
            worker.change_adapter(id, |adapter| {
                let place = adapter
                    .parts
                    .get_mut(part)
                    .and_then(|(_, part)| leaf.of_mut(part))
                    .ok_or_else(|| Error::internal("an adapter's tensor is gone"))?;
                *place = array;
                Ok(())
            })
        })
    }
}

impl Drop for Adapter {
    fn drop(&mut self) {
        let id = self.id;
        let _ = self
            .model
            .engine
            .send(Command::Do(Box::new(move |worker| worker.drop_adapter(id))));
    }
}

/// Whether these adapters and their scales can be used together on a model.
///
/// # Errors
/// INCOMPATIBLE for one of another model; INVALID_ARGUMENT.
pub(super) fn check_set(adapters: &[(Arc<Adapter>, f32)], model: &Model) -> Result<()> {
    for (index, (adapter, strength)) in adapters.iter().enumerate() {
        if !adapter.is_of(model) {
            return Err(Error::new(
                Code::Incompatible,
                format!("adapters[{index}] is of another model"),
            ));
        }
        if !strength.is_finite() {
            return Err(Error::invalid(format!("scales[{index}] is {strength}")));
        }
        let most = largest_scale(adapter.narrowest());
        if f64::from(adapter.scale) * f64::from(strength.abs()) > f64::from(most) {
            return Err(Error::invalid(format!(
                "scales[{index}] is {strength:e}: times the adapter's own, {:e}, it is more than {most:e}",
                adapter.scale
            )));
        }
        let before = &adapters[..index];
        if before.iter().any(|(other, _)| other.id() == adapter.id()) {
            return Err(Error::invalid(format!("adapters[{index}] is there twice")));
        }
    }
    Ok(())
}

/// The largest number of a float type.
fn largest(dtype: Dtype) -> f32 {
    match dtype {
        Dtype::F16 => 65_504.0,
        Dtype::BF16 => f32::from_bits(0x7f7f_0000),
        _ => f32::MAX,
    }
}

/// The largest scale of an adapter of that type. Above it, products with A alone may be more than floats hold, and times a B of
/// zeros that is NaN.
fn largest_scale(dtype: Dtype) -> f32 {
    largest(dtype).min(1e30)
}

fn usize_of(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

fn find<'a>(modules: &'a [Module], name: &str) -> Option<&'a Module> {
    modules.iter().find(|module| module.name == name)
}

/// As mlx-lm names it.
fn full_name(names: &Names, module: &str, leaf: Leaf) -> String {
    format!("{}.{}", path(names, module), leaf.name())
}

/// A module as the model's own files call it.
fn path(names: &Names, module: &str) -> String {
    match module {
        "lm_head" => format!("{}lm_head", names.head),
        "embed_tokens" => format!("{}{}", names.body, names.embedding),
        module => format!("{}{module}", names.body),
    }
}
