//! A loaded model to disk, with adapters fused in: a folder that this library and mlx-lm load.
//!
//! The engine makes a block of rows in each turn, so that requests go on in between and no copy of a weight is ever
//! whole in memory; what was packed is packed again on the caller's thread, a group that is as it was not at all. Nothing is
//! read again but the small files, which are copied.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{json, Map, Value};

use super::adapter::check_set;
use super::engine::Command;
use super::model::{additional_templates, Model, JINJA, TEMPLATES};
use super::session::Applied;
use super::staging::{NewFile, SaveOptions, Staging};
use super::worker::{Trim, Worker};
use crate::dtype::Dtype;
use crate::error::{Code, Error, Result};
use crate::kernels::{self, Layout, QuantizedMut};
use crate::load::{parse_object, Limits, ModelFolder, ModuleShape, Sentence, Slot, SENTENCE_FILES};
use crate::mlx::memory;
use crate::model::adapter::Fused;
use crate::model::modules::Site;
use crate::model::{Modules, Names, Weight};

/// As mlx-lm's `make_shards`; a larger tensor has a file of its own.
const SHARD_BYTES: u64 = 5 << 30;
/// Elements of a matrix that are made at once.
const BLOCK: u64 = 1 << 20;
/// Bytes for each of them while adapters are fused into it: a few copies in f32.
const FUSED_BYTES: u64 = 32;
/// And where it only comes out of the device.
const COPIED_BYTES: u64 = 8;
const SUSPENDED_LOOK: Duration = Duration::from_millis(5);

/// What the files of a head that predicts further tokens are called.
const AHEAD: &str = "mtp";
const CONFIG: &str = "config.json";
const INDEX: &str = "model.safetensors.index.json";
/// What is copied as it is, where it is there: settings, and what tokenizers and chat templates come in.
const COPIED: [&str; 13] = [
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "tokenizer.model",
    "spiece.model",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tekken.json",
];

/// Where a model came from, and what its files held.
pub(super) struct Source {
    folder: ModelFolder,
    config: Vec<u8>,
    /// Of `COPIED`, what was there, what the folder says of embeddings, and the additional templates.
    copied: Vec<String>,
    names: Names,
    parameters: u64,
    modules: Vec<SavedModule>,
}

/// The tensors of one module, in the order of `Tensors::iter`.
#[derive(Clone)]
struct SavedModule {
    site: Site,
    /// Of a head that predicts further tokens.
    ahead: bool,
    tensors: Vec<SavedTensor>,
}

#[derive(Clone)]
struct SavedTensor {
    name: String,
    dtype: Dtype,
    shape: Vec<i32>,
    bytes: u64,
}

impl Source {
    pub fn new(
        folder: ModelFolder,
        config: Vec<u8>,
        names: Names,
        parameters: u64,
        modules: &Modules<Slot>,
        sentence: Option<&Sentence>,
    ) -> Result<Self> {
        let tensor = |tensor: &Slot| SavedTensor {
            name: tensor.name.clone(),
            dtype: tensor.dtype,
            shape: tensor.shape.clone(),
            bytes: tensor.bytes,
        };
        let modules = modules.iter().map(|(module, tensors)| SavedModule {
            site: module.site,
            ahead: modules.is_ahead(module.site),
            tensors: match tensors.unpacked(module) {
                // Of matrices that are unpacked once they are loaded, as they are then.
                Some((weight, dtype, shape)) => vec![SavedTensor {
                    name: weight.name.clone(),
                    dtype,
                    bytes: shape.iter().map(|&n| n as u64).product::<u64>() * dtype.size() as u64,
                    shape: shape.to_vec(),
                }],
                None => tensors.iter().map(tensor).collect(),
            },
        });
        let modules = modules.collect();
        let copied = COPIED.into_iter().filter(|name| folder.has(name));
        let mut copied: Vec<String> = copied.map(str::to_owned).collect();
        if let Some(Sentence { folders, dense, .. }) = sentence {
            let there = SENTENCE_FILES.into_iter().filter(|name| folder.has(name));
            copied.extend(there.map(str::to_owned));
            copied.extend(folders.iter().map(|folder| format!("{folder}/{CONFIG}")));
            let weights = dense.iter().map(|dense| &dense.folder);
            copied.extend(weights.map(|folder| format!("{folder}/model.safetensors")));
        }
        // Without those that cannot be read: there was a warning.
        if let Ok(Some((templates, files))) = additional_templates(&folder) {
            let there = files.iter().filter(|file| templates.has(file));
            copied.extend(there.map(|file| format!("{TEMPLATES}/{file}")));
        }
        Ok(Source {
            folder,
            config,
            copied,
            names,
            parameters,
            modules,
        })
    }

    /// Files beside the weights and the config.
    pub(super) fn copied(&self) -> impl Iterator<Item = &str> {
        self.copied.iter().map(String::as_str)
    }

    /// One of the files that are copied.
    pub(super) fn read(&self, name: &str) -> Result<Vec<u8>> {
        let most = Limits::DEFAULT.tokenizer_bytes;
        match name.split_once('/') {
            None => self.folder.read_required(name, most),
            Some((subfolder, file)) => match self.folder.subfolder(subfolder)? {
                Some(subfolder) => subfolder.read_required(file, most),
                None => Err(Error::bad_model(format!("{name}: is gone"))),
            },
        }
    }

    /// An output layer of its own, as the embedding that it was tied to is stored.
    fn head(&self) -> Option<SavedModule> {
        let Names {
            body,
            head,
            embedding: name,
            ..
        } = self.names;
        let embedding = self.modules.first()?;
        let tensors = embedding.tensors.iter().map(|tensor| {
            let leaf = tensor.name.strip_prefix(&format!("{body}{name}."))?;
            Some(SavedTensor {
                name: format!("{head}lm_head.{leaf}"),
                ..tensor.clone()
            })
        });
        Some(SavedModule {
            site: Site::LM_HEAD,
            ahead: false,
            tensors: tensors.collect::<Option<_>>()?,
        })
    }

    /// The config of the same model with an output layer of its own, which is packed as the embedding is.
    fn untied_config(&self) -> Result<Vec<u8>> {
        let Names {
            body,
            head,
            embedding: name,
            ..
        } = self.names;
        let mut config = parse_object(CONFIG, &self.config)?;
        untie(&mut config, true);
        if let Some(Value::Object(text)) = config.get_mut("text_config") {
            untie(text, false);
        }
        for key in ["quantization", "quantization_config"] {
            if let Some(Value::Object(block)) = config.get_mut(key) {
                match block.get(&format!("{body}{name}")).cloned() {
                    Some(own) => block.insert(format!("{head}lm_head"), own),
                    None => block.remove(&format!("{head}lm_head")),
                };
            }
        }
        let text = format!("{:#}\n", Value::Object(config));
        Ok(text.into_bytes())
    }
}

fn untie(config: &mut Map<String, Value>, always: bool) {
    const KEY: &str = "tie_word_embeddings";
    if always || config.contains_key(KEY) {
        config.insert(KEY.into(), false.into());
    }
}

/// Where a tensor's data goes.
struct Place {
    shard: usize,
    offset: u64,
}

/// One weight file: its name, and what comes before the data.
struct Shard {
    name: String,
    header: Vec<u8>,
}

/// The files for all tensors, in order, and the place of each. Those of a head that predicts further tokens have files of their own:
/// only the index tells of them, and mlx-lm, which knows no such heads, does not look there.
fn plan(modules: &[SavedModule], shard_bytes: u64) -> (Vec<Shard>, Vec<Place>) {
    let mut tables: Vec<(Map<String, Value>, u64, bool)> = Vec::new();
    let mut places = Vec::new();
    let tensors = modules.iter().flat_map(|module| {
        let tensors = module.tensors.iter();
        tensors.map(|tensor| (tensor, module.ahead))
    });
    for (tensor, ahead) in tensors {
        let fits =
            |(_, size, of): &(_, u64, bool)| *of == ahead && size + tensor.bytes <= shard_bytes;
        if !tables.last().is_some_and(fits) {
            let metadata = json!({ "format": "mlx" });
            let table = [("__metadata__".to_owned(), metadata)];
            tables.push((table.into_iter().collect(), 0, ahead));
        }
        let shard = tables.len() - 1;
        if let Some((table, size, _)) = tables.last_mut() {
            let (offset, end) = (*size, *size + tensor.bytes);
            places.push(Place { shard, offset });
            table.insert(
                tensor.name.clone(),
                json!({ "dtype": tensor.dtype.name(), "shape": tensor.shape, "data_offsets": [offset, end] }),
            );
            *size = end;
        }
    }
    let of_ahead = tables.iter().filter(|(_, _, ahead)| *ahead).count();
    let of_model = tables.len() - of_ahead;
    let shards: Vec<Shard> = tables
        .into_iter()
        .enumerate()
        .map(|(index, (table, _, ahead))| {
            let mut text = Value::Object(table).to_string().into_bytes();
            // So that the data begins at a multiple of 8.
            text.resize(text.len().next_multiple_of(8), b' ');
            let mut header = (text.len() as u64).to_le_bytes().to_vec();
            header.extend(text);
            let (start, index, count) = match ahead {
                false => ("model", index, of_model),
                true => (AHEAD, index - of_model, of_ahead),
            };
            let name = match count {
                1 => format!("{start}.safetensors"),
                _ => format!("{start}-{:05}-of-{count:05}.safetensors", index + 1),
            };
            Shard { name, header }
        })
        .collect();
    for place in &mut places {
        place.offset += shards[place.shard].header.len() as u64;
    }
    (shards, places)
}

/// Writes a folder. Without adapters: the tensors that were loaded, byte for byte.
pub fn save(
    model: &Arc<Model>,
    adapters: &Applied,
    path: &Path,
    options: SaveOptions,
) -> Result<()> {
    save_in_shards(model, adapters, path, options, SHARD_BYTES)
}

pub(super) fn save_in_shards(
    model: &Arc<Model>,
    adapters: &Applied,
    path: &Path,
    mut options: SaveOptions,
    shard_bytes: u64,
) -> Result<()> {
    check_set(adapters, model)?;
    let source = &model.source;
    let saving = Saving::start(model, adapters)?;
    let mut modules = source.modules.clone();
    let mut parameters = source.parameters;
    let config = if saving.untied {
        let head = source.head();
        modules.push(head.ok_or_else(|| Error::internal("an embedding without a name"))?);
        modules.sort_by_key(|module| module.ahead);
        if let Some(ModuleShape::Embedding { vocab, dims }) = model.modules.first().map(|m| m.shape)
        {
            parameters += vocab as u64 * dims as u64;
        }
        source.untied_config()?
    } else {
        source.config.clone()
    };
    let (shards, places) = plan(&modules, shard_bytes);
    let mut staging = Staging::new(path)?;

    let total = modules.iter().flat_map(|module| &module.tensors);
    let total = total.map(|tensor| tensor.bytes).sum();
    let mut files = Vec::with_capacity(shards.len());
    for shard in &shards {
        let file = staging.create(&shard.name)?;
        file.write_at(&shard.header, 0)?;
        files.push(file);
    }
    let mut writer = Writer {
        saving: &saving,
        files: &files,
        options: &mut options,
        done: 0,
        total,
    };
    let mut rest = places.as_slice();
    for module in &modules {
        let (own, others) = rest.split_at(module.tensors.len());
        rest = others;
        writer.module(module, own)?;
    }
    files.into_iter().try_for_each(NewFile::finish)?;

    let mut put = |name: &str, bytes: &[u8]| -> Result<()> {
        let file = staging.create(name)?;
        file.write_at(bytes, 0)?;
        file.finish()
    };
    let names = modules.iter().flat_map(|module| &module.tensors);
    let names = names.map(|tensor| tensor.name.as_str()).zip(&places);
    put(INDEX, &index(names, &shards, total, parameters))?;
    for name in &source.copied {
        put(name, &source.read(name)?)?;
    }
    put(CONFIG, &config)?;
    options.check(total, total)?;
    // What is there of another model would be taken for a part of this one.
    staging.commit(Some(CONFIG), &|name| {
        let template = name.strip_prefix(TEMPLATES);
        let weights = name.starts_with("model") || name.starts_with(AHEAD);
        (weights && name.ends_with(".safetensors"))
            || COPIED.contains(&name)
            || SENTENCE_FILES.contains(&name)
            || template.is_some_and(|file| file == "/" || file.ends_with(JINJA))
    })
}

/// Which tensor is in which file.
fn index<'a>(
    names: impl Iterator<Item = (&'a str, &'a Place)>,
    shards: &[Shard],
    total: u64,
    parameters: u64,
) -> Vec<u8> {
    let mut map: Vec<(&str, &str)> = names
        .map(|(name, place)| (name, shards[place.shard].name.as_str()))
        .collect();
    map.sort_unstable();
    let map: Map<String, Value> = map
        .into_iter()
        .map(|(name, file)| (name.to_owned(), file.into()))
        .collect();
    let index = json!({
        "metadata": { "total_size": total, "total_parameters": parameters },
        "weight_map": map,
    });
    format!("{index:#}\n").into_bytes()
}

struct Writer<'a, 'b> {
    saving: &'a Saving<'a>,
    files: &'a [NewFile],
    options: &'a mut SaveOptions<'b>,
    done: u64,
    total: u64,
}

impl Writer<'_, '_> {
    fn module(&mut self, module: &SavedModule, places: &[Place]) -> Result<()> {
        let Some(first) = module.tensors.first() else {
            return Ok(());
        };
        // Those of experts one after the other.
        let matrix = match *first.shape.as_slice() {
            [rows, columns] => Some((rows, columns)),
            [experts, rows, columns] => Some((experts.saturating_mul(rows), columns)),
            _ => None,
        };
        let (rows, columns) = match matrix {
            // A packed number has 16 elements at most.
            Some((rows, columns)) if first.dtype == Dtype::U32 => (rows, columns as u64 * 16),
            Some((rows, columns)) => (rows, columns as u64),
            None => (1, first.bytes),
        };
        let step = (BLOCK / columns.max(1)).clamp(1, i32::MAX as u64) as i32;
        let mut start = 0;
        while start < rows {
            let block = start..start.saturating_add(step).min(rows);
            let elements = columns * block.len() as u64;
            let packed = self.block(module.site, &block, elements)?.packed()?;
            let tensors = module.tensors.iter().zip(places);
            for ((tensor, place), bytes) in tensors.zip(packed) {
                // The bias, too, is whole.
                let of_rows = matrix.is_some() && tensor.shape.len() == first.shape.len();
                let (row, wanted) = match of_rows {
                    true => {
                        let row = tensor.bytes / rows as u64;
                        (row, row * block.len() as u64)
                    }
                    false => (tensor.bytes, tensor.bytes),
                };
                if bytes.len() as u64 != wanted {
                    let message = format!("{} bytes of \"{}\"", bytes.len(), tensor.name);
                    return Err(Error::internal(message));
                }
                let offset = place.offset + row * start as u64;
                self.files[place.shard].write_at(&bytes, offset)?;
                self.done += wanted;
            }
            self.options.check(self.done, self.total)?;
            start = block.end;
        }
        Ok(())
    }

    /// While the library is suspended it waits.
    fn block(&mut self, site: Site, rows: &Range<i32>, elements: u64) -> Result<Block> {
        loop {
            match self.saving.block(site, rows.clone(), elements) {
                Err(error) if error.code == Code::Suspended => {
                    self.options.check(self.done, self.total)?;
                    std::thread::sleep(SUSPENDED_LOOK);
                }
                outcome => return outcome,
            }
        }
    }
}

/// Rows of a module.
struct Block {
    /// The bytes of its tensors.
    tensors: Vec<Vec<u8>>,
    /// Where the weight is packed and changed: what it is to be, `[rows, in]`.
    wanted: Option<(Layout, Vec<f32>)>,
}

impl Block {
    /// The tensors with the changes in them.
    fn packed(mut self) -> Result<Vec<Vec<u8>>> {
        let Some((layout, wanted)) = self.wanted else {
            return Ok(self.tensors);
        };
        let rows = match self.tensors.as_mut_slice() {
            // A layer's bias may come behind them.
            [weight, scales, biases, ..] if layout.scales().has_biases() => QuantizedMut {
                weight,
                scales,
                biases: Some(biases),
            },
            [weight, scales, ..] => QuantizedMut {
                weight,
                scales,
                biases: None,
            },
            _ => return Err(Error::internal("a packed weight without scales")),
        };
        if kernels::requantize(kernels::Path::best(), &layout, &wanted, rows) {
            return Ok(self.tensors);
        }
        let message = "a fused weight is too large to be packed";
        Err(Error::new(Code::Incompatible, message))
    }
}

/// What is fused, kept on the engine, which forgets it when this goes.
struct Saving<'a> {
    model: &'a Arc<Model>,
    id: u64,
    untied: bool,
}

impl<'a> Saving<'a> {
    /// The adapters as they are now.
    fn start(model: &'a Arc<Model>, adapters: &Applied) -> Result<Self> {
        let id = model.engine.next_id();
        let of = model.id;
        let adapters: Vec<(u64, f32)> = adapters
            .iter()
            .map(|(adapter, strength)| (adapter.id(), *strength))
            .collect();
        let untied = model.engine.call(move |worker| {
            worker.ready_for(0)?;
            for (id, _) in &adapters {
                make_room(worker, worker.adapter(*id)?.cost_of_gains())?;
            }
            let set = worker.twice(|worker| worker.set_to_fuse(of, &adapters))?;
            let untied = worker.decoder(of)?.is_untied_by(&set);
            worker.savings.insert(id, set);
            Ok(untied)
        })?;
        Ok(Saving { model, id, untied })
    }

    /// A module's tensors, of matrices some rows.
    fn block(&self, site: Site, rows: Range<i32>, elements: u64) -> Result<Block> {
        let (model, id) = (self.model.id, self.id);
        self.model.engine.call(move |worker| {
            worker.ready_for(0)?;
            let gone = || Error::internal("a save is gone");
            let set = worker.savings.get(&id).ok_or_else(gone)?;
            let each = match worker.decoder(model)?.is_changed_by(set, site) {
                true => FUSED_BYTES,
                false => COPIED_BYTES,
            };
            make_room(worker, elements.saturating_mul(each))?;
            // And as bytes and numbers, on the way to the caller's thread.
            worker.ready_for(elements.saturating_mul(each + FUSED_BYTES))?;
            worker.twice(|worker| {
                let set = worker.savings.get(&id).ok_or_else(gone)?;
                let Fused { tensors, wanted } =
                    worker.decoder(model)?.fused(set, site, rows.clone())?;
                let wanted = match (&tensors.weight, wanted) {
                    (Weight::Quantized { scales, scheme, .. }, Some(wanted)) => {
                        let (rows, inputs) = (wanted.dim(0) as usize, wanted.dim(1) as usize);
                        let layout = Layout::new(*scheme, scales.dtype(), rows, inputs);
                        let layout = layout.ok_or_else(|| Error::internal("an unknown packing"))?;
                        Some((layout, wanted.to_f32()?))
                    }
                    _ => None,
                };
                let tensors = tensors.into_list();
                let tensors = tensors.iter().map(|array| array.to_bytes());
                Ok(Block {
                    tensors: tensors.collect::<Result<_>>()?,
                    wanted,
                })
            })
        })
    }
}

impl Drop for Saving<'_> {
    fn drop(&mut self) {
        let id = self.id;
        let forget = move |worker: &mut Worker| {
            worker.savings.remove(&id);
            worker.trim(Trim::Buffers);
        };
        // Fails only when the engine ended, and then the set went with it.
        let _ = self.model.engine.send(Command::Do(Box::new(forget)));
    }
}

fn make_room(worker: &mut Worker, bytes: u64) -> Result<()> {
    if worker.make_room_for(bytes) {
        return Ok(());
    }
    let (active, limit) = (memory::active(), memory::limit());
    Err(Error::new(
        Code::OutOfMemory,
        format!("saving takes {bytes} bytes more for a while, {active} are in use, and the limit is {limit}"),
    ))
}
