//! A loaded model as callers see it, and how it is loaded: headers checked first, then the weights read on the caller's
//! thread straight into MLX's memory, then handed to the engine.

use std::sync::Arc;
use std::time::Instant;

use serde_json::{json, Map, Value};

use super::engine::{self, Command, Engine, Hold};
use super::estimate::Estimate;
use super::metrics::{self, Counters};
use super::model_save::Source;
use super::session::SessionOptions;
use crate::dtype::Scheme;
use crate::error::{Code, Error, Result};
use crate::load::{
    parse_object, Catalog, GenerationConfig, Limits, ModelFolder, Object, Quantization, Tensor,
};
use crate::mlx::{memory, Array, HostBuffer};
use crate::model::cost::WeightCost;
use crate::model::families::{self, Family};
use crate::model::modules::{modules, Module};
use crate::model::{Decoder, DecoderConfig, Names, Weight, Weights};
use crate::text::{ChatFormat, ChatTemplate, Tokenizer};

/// Bytes read between two looks at progress and deadline.
const READ_STEP: usize = 8 << 20;

pub struct Model {
    pub(super) id: u64,
    pub(super) engine: Hold,
    pub(super) tokenizer: Arc<Tokenizer>,
    pub(super) chat: Chat,
    pub(super) defaults: GenerationConfig,
    pub(super) vocab_size: usize,
    /// The most tokens a session may ask for.
    pub(super) context: u32,
    /// What adapters can reach, and what its name begins with in mlx-lm.
    pub(super) modules: Vec<Module>,
    pub(super) names: Names,
    pub(super) source: Source,
    pub counters: Arc<Counters>,
    info: String,
    weight_bytes: u64,
}

/// How conversations become prompts.
pub(super) enum Chat {
    /// The folder's own template.
    Template(Box<ChatTemplate>),
    BuiltIn(ChatFormat),
}

pub struct LoadOptions<'a> {
    /// 0 = the model's.
    pub context: u32,
    pub deadline: Option<Instant>,
    /// Bytes done, of how many; false stops.
    pub progress: &'a mut dyn FnMut(u64, u64) -> bool,
}

/// What a folder says of its model, every header checked, no weights read.
struct Description {
    folder: ModelFolder,
    /// `config.json`
    json: Vec<u8>,
    family: &'static Family,
    config: DecoderConfig,
    quantization: Quantization,
    generation: GenerationConfig,
    catalog: Catalog,
    weights: Weights<Tensor>,
}

impl Description {
    fn read(path: &str) -> Result<Self> {
        let folder = ModelFolder::open(path)?;
        let bytes = folder.read_required("config.json", Limits::DEFAULT.config_bytes)?;
        let map = parse_object("config.json", &bytes)?;
        let object = Object::new("config.json", &map);
        let family = families::find(&object)?;
        let config = (family.read)(&object)?;
        let quantization = Quantization::parse(&object)?;
        let generation = GenerationConfig::read(&folder, &object)?;
        let catalog = Catalog::open(&folder)?;
        let weights = Weights::plan(&config, &catalog, &quantization)?;
        drop(map);
        Ok(Description {
            folder,
            json: bytes,
            family,
            config,
            quantization,
            generation,
            catalog,
            weights,
        })
    }

    fn tokenizer_config(&self) -> Result<Option<Map<String, Value>>> {
        let name = "tokenizer_config.json";
        let bytes = self.folder.read(name, Limits::DEFAULT.config_bytes)?;
        bytes.map(|bytes| parse_object(name, &bytes)).transpose()
    }

    fn tokenizer(&self, config: Option<&Map<String, Value>>) -> Result<Tokenizer> {
        let json = self
            .folder
            .read_required("tokenizer.json", Limits::DEFAULT.tokenizer_bytes)?;
        let mut tokenizer = Tokenizer::from_bytes(&json, config)?;
        let (ids, rows) = (tokenizer.vocab_size(), self.config.vocab_size as usize);
        if ids > rows {
            // gemma-3-1b is published so, with an image token that its text model has no row for. A prompt that
            // makes such an id is refused.
            crate::log::warn!(
                "tokenizer.json has token ids up to {}, and config.json's vocab_size is {rows}",
                ids - 1
            );
        }
        tokenizer.set_model_vocabulary(rows);
        Ok(tokenizer)
    }

    /// Ids that the model has no row for can never be drawn, and must not be an index of logits.
    fn drop_unknown_eos(&mut self) {
        let rows = self.config.vocab_size;
        self.generation
            .eos_token_ids
            .retain(|id| (0..rows).contains(id));
    }

    /// The folder's template, or the family's format where there is none.
    fn chat(&self, config: Option<&Map<String, Value>>, tokenizer: &Tokenizer) -> Result<Chat> {
        let jinja = self
            .folder
            .read("chat_template.jinja", Limits::DEFAULT.template_bytes)?;
        Ok(match ChatTemplate::find(jinja.as_deref(), config)? {
            Some(template) => Chat::Template(Box::new(template)),
            None => Chat::BuiltIn(chat_format(self.family, tokenizer)),
        })
    }

    fn weight_bytes(&self) -> u64 {
        let mut bytes = 0;
        self.weights.for_each(&mut |tensor| bytes += tensor.bytes);
        bytes
    }

    /// Weights of the model, as they were before packing.
    fn parameters(&self) -> u64 {
        let elements = |tensor: &Tensor| tensor.shape.iter().map(|&n| n as u64).product::<u64>();
        let mut count = 0;
        self.weights.for_each_weight(&mut |weight| {
            count += match weight {
                Weight::Dense(tensor) => elements(tensor),
                Weight::Quantized { scales, scheme, .. } => {
                    elements(scales) * scheme.group_size as u64
                }
            };
        });
        self.weights
            .for_each_vector(&mut |tensor| count += elements(tensor));
        count
    }

    fn to_json(&self, context: u32) -> Map<String, Value> {
        let config = &self.config;
        let json = json!({
            "model_type": self.family.model_type,
            "parameters": self.parameters(),
            "weight_bytes": self.weight_bytes(),
            "quantization": self.quantization.default.map(scheme_json),
            "context": context,
            "model_context": config.context,
            "vocab_size": config.vocab_size,
            "hidden_size": config.hidden_size,
            "layers": config.layers.len(),
            "heads": config.attention.heads,
            "kv_heads": config.attention.kv_heads,
            "head_dim": config.attention.head_dim,
            "sliding_window": config.layers.iter().find_map(|layer| layer.window),
            "eos_token_ids": self.generation.eos_token_ids,
        });
        match json {
            Value::Object(map) => map,
            _ => Map::new(),
        }
    }
}

fn scheme_json(scheme: Scheme) -> Value {
    json!({ "mode": scheme.mode.name(), "bits": scheme.bits, "group_size": scheme.group_size })
}

/// For the log.
fn words_of(scheme: Option<Scheme>) -> String {
    match scheme {
        Some(Scheme {
            mode,
            bits,
            group_size,
        }) => format!("{bits} bits {} in groups of {group_size}", mode.name()),
        None => "not quantised".to_owned(),
    }
}

/// The tokens a session may have: what was asked for, at most what the model was made for.
fn checked_context(wanted: u32, config: &DecoderConfig) -> Result<u32> {
    match wanted {
        0 => Ok(config.context),
        wanted if wanted <= config.context => Ok(wanted),
        wanted => Err(Error::invalid(format!(
            "a context of {wanted} tokens was asked for, and the model's is {}",
            config.context
        ))),
    }
}

/// What a model is and what it would need, as JSON, without reading its weights.
pub fn inspect(path: &str, context: u32, session: &SessionOptions) -> Result<String> {
    let description = Description::read(path)?;
    let context = checked_context(context, &description.config)?;
    let session_context = match session.context {
        0 => context,
        wanted => wanted.min(context),
    };
    let estimate = Estimate::new(
        &description.config,
        &description.weights,
        session,
        session_context,
        engine::device()?,
    )?;
    let mut json = description.to_json(context);
    json.insert("session_context".into(), session_context.into());
    json.insert("kv_bytes".into(), estimate.kv.into());
    json.insert("estimated_bytes".into(), estimate.peak.into());
    Ok(Value::Object(json).to_string())
}

pub fn load(path: &str, options: LoadOptions) -> Result<Model> {
    let LoadOptions {
        context,
        deadline,
        progress,
    } = options;
    let begun = Instant::now();
    let mut description = Description::read(path)?;
    let context = checked_context(context, &description.config)?;
    let tokenizer_config = description.tokenizer_config()?;
    let tokenizer = description.tokenizer(tokenizer_config.as_ref())?;
    description.drop_unknown_eos();
    if description.generation.eos_token_ids.is_empty() {
        description
            .generation
            .eos_token_ids
            .extend(tokenizer.eos_from_config());
        description.drop_unknown_eos();
    }
    let weight_bytes = description.weight_bytes();
    let mut info = description.to_json(context);
    let chat = description.chat(tokenizer_config.as_ref(), &tokenizer)?;
    drop(tokenizer_config);
    let format = match &chat {
        Chat::Template(_) => "template".to_owned(),
        Chat::BuiltIn(format) => format!("{format:?}").to_lowercase(),
    };
    info.insert("chat_format".into(), format.into());
    let parameters = description.parameters();
    let Description {
        folder,
        json,
        family,
        config,
        quantization,
        generation,
        catalog,
        weights,
    } = description;
    let source = Source::new(folder, json, config.names, parameters, &weights)?;
    let modules = modules(&config);
    let names = config.names.first().copied();
    let engine = engine::acquire()?;
    let (_, kernels) = engine::device()?;
    let cost = WeightCost::of(&config, &weights, kernels);
    let beside = cost.held.saturating_sub(weight_bytes) + cost.packing;
    check_budget(&engine, weight_bytes.saturating_add(beside))?;

    // Buffers that others freed would be taken for tensors that are up to 8 KiB smaller.
    memory::clear_cache();
    let mut reader = Reader {
        engine: Some(&engine),
        catalog: &catalog,
        deadline,
        progress,
        done: 0,
        total: weight_bytes,
        beside,
    };
    let weights = weights.try_map(|tensor| reader.read(tensor))?;
    let id = engine.next_id();
    let (vocab_size, for_engine) = (config.vocab_size as usize, config);
    engine.call(move |worker| {
        worker.refuse_when_paused()?;
        if !worker.make_room_for(beside) {
            return Err(too_large(beside));
        }
        let weights: Weights<Array> =
            weights.try_map(|(tensor, buffer)| buffer.into_array(&tensor.shape, tensor.dtype))?;
        worker.add_model(id, Decoder::new(for_engine, weights)?);
        Ok(())
    })?;
    let warnings = info.get("warnings").and_then(Value::as_array);
    let warnings = warnings.map_or(0, Vec::len);
    let model = Model {
        id,
        engine,
        tokenizer: Arc::new(tokenizer),
        chat,
        defaults: generation,
        vocab_size,
        context,
        modules,
        names: names.ok_or_else(|| Error::internal("a family without names"))?,
        source,
        counters: Arc::new(Counters::new()),
        info: Value::Object(info).to_string(),
        weight_bytes,
    };
    model.counters.weights_changed(0, weight_bytes);
    metrics::PROCESS.weights_changed(0, weight_bytes);
    crate::log::info!(
        "loaded {path}: {}, {}, {weight_bytes} bytes of weights, in {} ms, {warnings} warnings",
        family.model_type,
        words_of(quantization.default),
        begun.elapsed().as_millis()
    );
    Ok(model)
}

/// The family's format, unless the tokenizer shows that the model was tuned on another one: it has no tokens for the
/// turns of the first, or has those of ChatML.
fn chat_format(family: &Family, tokenizer: &Tokenizer) -> ChatFormat {
    let has = |token: &str| tokenizer.token_to_id(token).is_some();
    match family.chat {
        ChatFormat::Llama | ChatFormat::Mistral if has("<|im_start|>") => ChatFormat::Qwen,
        ChatFormat::Llama if !has("<|start_header_id|>") => ChatFormat::Llama2,
        format => format,
    }
}

/// Refuses weights that do not fit beside what is in use, before they are read. Idle sessions lose their keys and values
/// before that.
pub(super) fn check_budget(engine: &Engine, weight_bytes: u64) -> Result<()> {
    let fit = memory::active().saturating_add(weight_bytes) <= memory::limit();
    if fit || engine.call(move |worker| Ok(worker.make_room_for(weight_bytes)))? {
        return Ok(());
    }
    Err(too_large(weight_bytes))
}

fn too_large(bytes: u64) -> Error {
    let (active, limit) = (memory::active(), memory::limit());
    Error::new(
        Code::OutOfMemory,
        format!("the weights take {bytes} bytes, {active} are in use, and the limit is {limit}"),
    )
}

/// Reads tensors into MLX's memory.
pub(super) struct Reader<'a> {
    /// Whose budget the weights come out of.
    pub engine: Option<&'a Engine>,
    pub catalog: &'a Catalog,
    pub deadline: Option<Instant>,
    pub progress: &'a mut dyn FnMut(u64, u64) -> bool,
    pub done: u64,
    pub total: u64,
    /// Bytes that they take on top, once they are read.
    pub beside: u64,
}

impl Reader<'_> {
    pub fn read(&mut self, tensor: Tensor) -> Result<(Tensor, HostBuffer)> {
        let file = self
            .catalog
            .files
            .get(tensor.file)
            .ok_or_else(|| Error::internal("a tensor of a file that is not open"))?;
        let bytes = usize::try_from(tensor.bytes).map_err(|_| {
            Error::new(
                Code::OutOfMemory,
                format!("tensor \"{}\" is too large", tensor.name),
            )
        })?;
        // Again for each: others may have taken the room meanwhile, or the limit may have changed.
        if let Some(engine) = self.engine {
            check_budget(engine, self.total.saturating_sub(self.done) + self.beside)?;
        }
        let mut buffer = HostBuffer::new(bytes)?;
        loop {
            let read = buffer
                .read_some(&file.file, tensor.offset, READ_STEP)
                .map_err(|error| {
                    Error::new(
                        Code::Io,
                        format!(
                            "{}: tensor \"{}\" cannot be read: {error}",
                            file.name, tensor.name
                        ),
                    )
                })?;
            if read == 0 {
                return Ok((tensor, buffer));
            }
            self.done += read as u64;
            if !(self.progress)(self.done, self.total) {
                return Err(Error::new(
                    Code::Cancelled,
                    "loading was stopped by the progress callback",
                ));
            }
            if self
                .deadline
                .is_some_and(|deadline| Instant::now() >= deadline)
            {
                return Err(Error::new(
                    Code::Timeout,
                    "loading took longer than timeout_ms",
                ));
            }
        }
    }
}

impl Model {
    /// What `mlxrt_model_info` gives: JSON.
    pub fn info(&self) -> &str {
        &self.info
    }

    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Refuses ids that the model has no row for.
    pub(super) fn check_ids(&self, ids: &[i32], what: &str) -> Result<()> {
        match ids
            .iter()
            .position(|&id| !usize::try_from(id).is_ok_and(|id| id < self.vocab_size))
        {
            None => Ok(()),
            Some(index) => Err(Error::invalid(format!(
                "{what}[{index}] is {}, outside the vocabulary of {} tokens",
                ids[index], self.vocab_size
            ))),
        }
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        let id = self.id;
        // Fails only when the engine ended, and then the arrays went with it.
        let _ = self
            .engine
            .send(Command::Do(Box::new(move |worker| worker.drop_model(id))));
        metrics::PROCESS.weights_changed(self.weight_bytes, 0);
    }
}

/// A decoder on the calling thread, without an engine, and the size of its vocabulary; `wide`: its floats as f32.
#[cfg(test)]
pub(super) fn decoder_for_tests(path: &str, wide: bool) -> Result<(Decoder, usize)> {
    use crate::dtype::Dtype;
    let description = Description::read(path)?;
    let total = description.weight_bytes();
    let Description {
        config,
        catalog,
        weights,
        ..
    } = description;
    let mut reader = Reader {
        engine: None,
        catalog: &catalog,
        deadline: None,
        progress: &mut |_, _| true,
        done: 0,
        total,
        beside: 0,
    };
    let weights = weights.try_map(|tensor| reader.read(tensor))?;
    let weights = weights.try_map(|(tensor, buffer)| {
        let array = buffer.into_array(&tensor.shape, tensor.dtype)?;
        if wide && tensor.dtype.is_float() {
            return crate::mlx::ops::astype(&array, Dtype::F32);
        }
        Ok(array)
    })?;
    let vocab = config.vocab_size as usize;
    Ok((Decoder::new(config, weights)?, vocab))
}
