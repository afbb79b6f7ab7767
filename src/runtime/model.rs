//! A loaded model as callers see it, and how it is loaded: headers checked first, then the weights read on the caller's
//! thread straight into MLX's memory, then handed to the engine.

use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use serde_json::{json, Map, Value};

use super::calls::KeptCalls;
use super::draft;
use super::engine::{self, Command, Engine, Hold};
use super::estimate::Estimate;
use super::identity::{Identity, WeightsHash};
use super::metrics::{self, Counters};
use super::model_save::Source;
use super::session::SessionOptions;
use super::worker::Worker;
use crate::dtype::{Dtype, Scheme};
use crate::error::{Code, Error, Result};
use crate::grammar::{self, Grammar, Vocabulary};
use crate::host;
use crate::load::{
    parse_object, read_sentence, Catalog, DenseModule, GenerationConfig, Limits, ModelFolder,
    Object, PackedScheme, Pick, Piece, Quantization, Recipe, Sentence, Slot, Tensor, Warnings,
    WeightFile,
};
use crate::mlx::{memory, Array, HostBuffer};
use crate::model::cache::CacheSpec;
use crate::model::cost::WeightCost;
use crate::model::families::{self, Family};
use crate::model::modules::Module;
use crate::model::{Decoder, DecoderConfig, Dense, Modules, Names, Planned, Repacked, Weight};
use crate::text::{
    Channels, ChatFormat, ChatTemplate, Specials, TemplateFiles, TokenFiles, Tokenizer,
};
use crate::watch::{self, Watch};
use crate::words::quoted;

/// Bytes read between two looks at progress and watch.
const READ_STEP: usize = 8 << 20;

pub struct Model {
    pub(super) id: u64,
    pub(super) engine: Hold,
    pub(super) tokenizer: Arc<Tokenizer>,
    pub(super) chat: Chat,
    /// Its markers, if it thinks or calls tools.
    pub(super) channels: Option<Marked>,
    pub(super) defaults: GenerationConfig,
    pub(super) vocab_size: usize,
    /// The most tokens a session may ask for.
    pub(super) context: u32,
    /// Numbers of a head's key or value that its sessions keep, each once.
    pub(super) token_dims: Vec<i32>,
    /// What adapters can reach, and what its name begins with in mlx-lm.
    pub(super) modules: Vec<Module>,
    pub(super) names: Names,
    pub(super) source: Source,
    pub(super) identity: Identity,
    pub(super) model_type: &'static str,
    /// As it was given.
    pub(super) path: String,
    /// What the caches of its sessions keep, and in which type.
    pub(super) kept: Vec<(CacheSpec, Dtype)>,
    /// What the folder says of embeddings, or why that is not supported.
    pub(super) sentence: Result<Option<Sentence>>,
    /// An encoder: its tokens see those behind them.
    pub(super) both_ways: bool,
    /// Why it generates nothing.
    silent: Option<String>,
    /// Guesses for it.
    pub(super) draft: Option<Arc<Model>>,
    /// Its head that predicts further tokens, as a model of the engine's.
    pub(super) ahead: Option<u64>,
    pub counters: Arc<Counters>,
    /// What its grammars share, from the first of them on.
    vocabulary: Mutex<Option<Arc<Vocabulary>>>,
    pub(super) calls: KeptCalls,
    info: String,
    weight_bytes: u64,
}

/// How conversations become prompts.
pub(super) enum Chat {
    /// The folder's own template.
    Template(Box<ChatTemplate>),
    BuiltIn(ChatFormat),
    /// There is no template, and how the family writes conversations is not known here.
    Unknown,
}

/// How a model marks its thinking and its calls.
#[derive(Clone)]
pub(super) struct Marked {
    pub channels: Arc<Channels>,
    /// What ends thinking, in the words of its template.
    pub end_of_thinking: Arc<[i32]>,
}

impl Marked {
    /// `parser`: what the folder calls the format of the model's calls.
    pub fn find(chat: &Chat, tokenizer: &Tokenizer, parser: Option<&str>) -> Result<Option<Self>> {
        let template = match chat {
            Chat::Template(template) => Some(template),
            _ => None,
        };
        let source = template
            .map(|template| template.source())
            .unwrap_or_default();
        let id_of = |text: &str| tokenizer.token_to_id(text);
        let Some(channels) = Channels::find(&source, &id_of, parser) else {
            return Ok(None);
        };
        let marker = channels.end_of_thinking().unwrap_or("");
        let template = template.filter(|_| channels.thinks());
        let written = template.and_then(|template| template.end_of_thinking());
        let written = written.filter(|text| text.contains(marker) && text.len() <= 256);
        let end = written.as_deref().unwrap_or(marker);
        Ok(Some(Marked {
            end_of_thinking: tokenizer.encode(end, Specials::Recognise, false)?.into(),
            channels,
        }))
    }
}

pub struct LoadOptions<'a> {
    /// 0 = the model's.
    pub context: u32,
    /// The folder's files may be links to anywhere.
    pub follow_links: bool,
    /// The folder of a draft model, or its id in the cache.
    pub draft: Option<&'a str>,
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
    /// What the config says; `planned` has what the weights are.
    quantization: Quantization,
    generation: GenerationConfig,
    catalog: Catalog,
    planned: Planned,
    /// See `Model`.
    sentence: Result<Option<Sentence>>,
    /// Behind the pooling of texts, in the order of `sentence`.
    dense: Vec<DenseSlots>,
    /// What is odd about it; the reading of every file may add to them.
    warnings: Warnings,
}

/// A linear layer behind the pooling, in files of its own.
struct DenseSlots {
    catalog: Catalog,
    weight: Slot,
    bias: Option<Slot>,
    tanh: bool,
}

impl DenseSlots {
    fn find(folder: &ModelFolder, module: &DenseModule, warnings: &mut Warnings) -> Result<Self> {
        let name = &module.folder;
        let own = folder.subfolder(name)?;
        let own = own.ok_or_else(|| Error::bad_model(format!("{name}: is missing")))?;
        let catalog = Catalog::open(&own, warnings).map_err(|error| error.within(name))?;
        let [output, input] =
            [module.output, module.input].map(|n| i32::try_from(n).unwrap_or(i32::MAX));
        let slot = |tensor: &str, shape: &[i32]| {
            let found = catalog.get(tensor);
            let found = found.ok_or_else(|| catalog.missing(tensor).within(name))?;
            match found.shape == shape && found.dtype.is_float() && found.float8.is_none() {
                true => Ok(Slot::whole(found)),
                false => Err(Error::bad_model(format!(
                    "{name}: tensor {} is {} {:?}, and its config.json implies floats {shape:?}",
                    quoted(tensor, 160),
                    found.kind(),
                    found.shape
                ))),
            }
        };
        let weight = slot("linear.weight", &[output, input])?;
        let bias = match module.bias {
            true => Some(slot("linear.bias", &[output])?),
            false => None,
        };
        Ok(DenseSlots {
            weight,
            bias,
            catalog,
            tanh: module.tanh,
        })
    }

    fn slots(&self) -> impl Iterator<Item = &Slot> {
        std::iter::once(&self.weight).chain(&self.bias)
    }
}

impl Description {
    fn read(path: &str, follow_links: bool) -> Result<Self> {
        let mut warnings = Warnings::default();
        let folder = ModelFolder::open(path)?.following_links(follow_links);
        let bytes = folder.read("config.json", Limits::DEFAULT.config_bytes)?;
        let bytes = bytes.ok_or_else(|| folder.no_config())?;
        let map = parse_object("config.json", &bytes)?;
        let object = Object::new("config.json", &map);
        let family = families::find(&object)?;
        let config = (family.read)(&object)?;
        let quantization = Quantization::parse(&object, &mut warnings)?;
        let generation = GenerationConfig::read(&folder, &object, &mut warnings)?;
        let mut find = || {
            let catalog = Catalog::open(&folder, &mut warnings)?;
            let planned = Planned::find(&config, &catalog, &quantization, &mut warnings)
                .map_err(|error| catalog.explain(error))?;
            let used: Vec<&Tensor> = planned.used.iter().collect();
            catalog.check_copies(&used, &Limits::DEFAULT, &mut watch::look)?;
            for (tensor, listed) in &planned.listed {
                watch::look()?;
                listed.check(&catalog, tensor)?;
            }
            Ok((catalog, planned))
        };
        let (catalog, planned) = find().map_err(|error| quantization.explain(error))?;
        drop(map);
        let (sentence, dense) = Self::embeddings(&folder, &config, &mut warnings)?;
        Ok(Description {
            folder,
            json: bytes,
            family,
            config,
            quantization,
            generation,
            catalog,
            planned,
            sentence,
            dense,
            warnings,
        })
    }

    /// What the folder says of embeddings; what is wrong with that is no reason to refuse the model.
    #[allow(clippy::type_complexity)]
    fn embeddings(
        folder: &ModelFolder,
        config: &DecoderConfig,
        warnings: &mut Warnings,
    ) -> Result<(Result<Option<Sentence>>, Vec<DenseSlots>)> {
        let mut read = || -> Result<_> {
            let sentence = read_sentence(folder, config.hidden_size.unsigned_abs())?;
            let modules = sentence.iter().flat_map(|sentence| &sentence.dense);
            let dense = modules.map(|module| DenseSlots::find(folder, module, warnings));
            let dense = dense.collect::<Result<_>>()?;
            Ok((sentence, dense))
        };
        match read() {
            Ok((sentence, dense)) => Ok((Ok(sentence), dense)),
            Err(error) if error.code.is_of_the_moment() => Err(error),
            Err(error) => {
                warnings.add(format!("{error}; embeddings of the folder's own kind fail"));
                Ok((Err(error), Vec::new()))
            }
        }
    }

    /// Why the model generates nothing.
    fn silent(&self) -> Option<String> {
        let kind = self.family.model_type;
        match (self.config.both_ways, self.planned.headless) {
            (true, _) => Some(format!(
                "the model is an encoder ({kind}): it makes embeddings, and generates no tokens"
            )),
            (false, true) => Some(format!(
                "the model ({kind}) has no output layer: it makes embeddings, and generates no tokens"
            )),
            (false, false) => None,
        }
    }

    /// How the folder wants its embeddings made; null: it does not say.
    fn embedding_json(&self) -> Value {
        let Ok(Some(sentence)) = &self.sentence else {
            return Value::Null;
        };
        let last = sentence.dense.last().map(|dense| dense.output);
        json!({
            "pooling": sentence.pooling.name(),
            "dimensions": last.unwrap_or(self.config.hidden_size.unsigned_abs()),
            "normalize": sentence.normalize,
            "prompt": sentence.prompt,
        })
    }

    /// An optional file, parsed; what cannot be is as if it were not there, with a warning.
    fn optional(&mut self, name: &str) -> Result<Option<Map<String, Value>>> {
        let bytes = self.folder.read(name, Limits::DEFAULT.config_bytes);
        let parsed =
            bytes.and_then(|bytes| bytes.map(|bytes| parse_object(name, &bytes)).transpose());
        self.warnings.forgive(parsed)
    }

    /// What the files beside `tokenizer.json` say of tokens; `tokenizer_config.json` among them.
    fn token_files(&mut self) -> Result<TokenFiles> {
        Ok(TokenFiles {
            config: self.optional("tokenizer_config.json")?,
            special_tokens_map: self.optional("special_tokens_map.json")?,
            added_tokens: self.optional("added_tokens.json")?,
        })
    }

    /// The tokenizer, and the tokens that end a text of this model into `generation`. `look`: see `Tokenizer::load`.
    fn tokenizer(
        &mut self,
        files: &Arc<TokenFiles>,
        look: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Tokenizer> {
        let json = self
            .folder
            .read_required("tokenizer.json", Limits::DEFAULT.tokenizer_bytes)?;
        let rows = self.config.vocab_size as usize;
        let mut warnings = Vec::new();
        let mut tokenizer = Tokenizer::load(json, files, Some(rows), &mut warnings, look)?;
        warnings
            .into_iter()
            .for_each(|sentence| self.warnings.add(sentence));
        let ids = tokenizer.vocab_size();
        if ids > rows {
            // gemma-3-1b is published so, with an image token that its text model has no row for. A prompt that
            // makes such an id is refused.
            self.warnings.add(format!(
                "tokenizer.json has token ids up to {}, and config.json's vocab_size is {rows}",
                ids - 1
            ));
        }
        tokenizer.set_model_vocabulary(rows);
        self.generation.add_ends(tokenizer.eos_ids());
        self.drop_unknown_eos();
        tokenizer.mark_ends(&self.generation.eos_token_ids)?;
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
    fn chat(&mut self, files: &TokenFiles, tokenizer: &Tokenizer) -> Result<Chat> {
        let legacy = self.optional("chat_template.json")?;
        let additional = self.additional_templates();
        let files = TemplateFiles {
            jinja: read_template(&self.folder, "chat_template.jinja"),
            additional,
            config: files.config.as_ref(),
            legacy: legacy.as_ref(),
        };
        let Some(template) = ChatTemplate::find(files, tokenizer.named_tokens()) else {
            return Ok(match chat_format(self.family, tokenizer) {
                Some(format) => Chat::BuiltIn(format),
                None => Chat::Unknown,
            });
        };
        for problem in template.problems() {
            // No fault of the folder's.
            if problem.code.is_of_the_moment() {
                return Err(problem.clone());
            }
            self.warnings
                .add(format!("{problem}; conversations that need it fail"));
        }
        Ok(Chat::Template(Box::new(template)))
    }

    /// What `additional_chat_templates` holds. Only two of its names mean something here.
    fn additional_templates(&mut self) -> Vec<(String, Option<Result<Vec<u8>>>)> {
        let (folder, files) = match additional_templates(&self.folder) {
            Ok(Some(listed)) => listed,
            Ok(None) => return Vec::new(),
            Err(error) => {
                self.warnings
                    .add(format!("{TEMPLATES}: {error}; it is ignored"));
                return Vec::new();
            }
        };
        let read = |file: String| {
            let name = file.strip_suffix(JINJA)?.to_owned();
            let bytes = match name.as_str() {
                "default" | "tool_use" => read_template(&folder, &file),
                _ => None,
            };
            Some((name, bytes))
        };
        files.into_iter().filter_map(read).collect()
    }

    fn weight_bytes(&self) -> u64 {
        let dense = self.dense.iter().flat_map(DenseSlots::slots);
        let modules = self.planned.modules.tensors();
        modules.chain(dense).map(|tensor| tensor.bytes).sum()
    }

    /// Weights of the model, as they were before packing.
    fn parameters(&self) -> u64 {
        let elements = |slot: &Slot| slot.shape.iter().map(|&n| n as u64).product::<u64>();
        let modules = self.planned.modules.iter();
        let of_each = modules.map(|(_, tensors)| {
            let weight = match &tensors.weight {
                Weight::Dense(tensor) => elements(tensor),
                Weight::Quantized { scales, scheme, .. } => {
                    elements(scales) * scheme.group_size as u64
                }
            };
            weight + tensors.bias.as_ref().map_or(0, elements)
        });
        of_each.sum()
    }

    /// The config's scheme where a matrix has it, else what most have.
    fn scheme(&self) -> Option<Scheme> {
        let schemes = || self.planned.schemes.iter().map(|(_, scheme)| *scheme);
        let default = self.quantization.default;
        let default = default.filter(|default| schemes().any(|scheme| scheme == *default));
        default.or_else(|| Quantization::most_frequent(schemes()))
    }

    /// The config as a saved model has it: where it does not describe the weights, with a block that does.
    fn config_to_save(&self) -> Result<Vec<u8>> {
        if self.planned.as_said {
            return Ok(self.json.clone());
        }
        let mut config = parse_object("config.json", &self.json)?;
        for key in ["quantization", "quantization_config"] {
            match Quantization::block(&self.planned.schemes) {
                Some(block) => config.insert(key.into(), Value::Object(block)),
                None => config.shift_remove(key),
            };
            // Another program's, where the block above counts.
            if let Some(Value::Object(text)) = config.get_mut("text_config") {
                text.shift_remove(key);
            }
        }
        Ok(format!("{:#}\n", Value::Object(config)).into_bytes())
    }

    fn to_json(&self, context: u32) -> Map<String, Value> {
        let config = &self.config;
        let attention = config.attentions().next();
        let heads = attention.map(|of| [of.heads, of.kv_heads, of.head_dim]);
        // What all heads look at is one latent and one turned key.
        let latents = config.latents().next();
        let latents = latents.map(|of| [of.heads, 1, of.rank + of.turned_dim]);
        let heads = heads.or(latents);
        let json = json!({
            "model_type": self.family.model_type,
            "parameters": self.parameters(),
            "weight_bytes": self.weight_bytes(),
            "quantization": self.scheme().map(scheme_json),
            "repacked": repacked_json(&self.planned.repacked),
            "context": context,
            "model_context": config.context,
            "vocab_size": config.vocab_size,
            "hidden_size": config.hidden_size,
            "layers": config.blocks.len(),
            "heads": heads.map(|[heads, _, _]| heads),
            "kv_heads": heads.map(|[_, kv_heads, _]| kv_heads),
            "head_dim": heads.map(|[_, _, head_dim]| head_dim),
            "sliding_window": config.attentions().find_map(|attention| attention.window),
            "generates": self.silent().is_none(),
            "mtp": self.planned.blueprint.has_ahead(),
            "embedding": self.embedding_json(),
            "eos_token_ids": self.generation.eos_token_ids,
            "warnings": self.warnings.sentences(),
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

/// What became of matrices that another program packed: each way once.
fn repacked_json(repacked: &[Repacked]) -> Vec<Value> {
    let way = |of: &Repacked| (of.from, of.scheme, of.dtype, of.rounded);
    let mut ways: Vec<(&Repacked, u64)> = Vec::new();
    for of in repacked {
        match ways.iter_mut().find(|(first, _)| way(first) == way(of)) {
            Some((_, count)) => *count += 1,
            None => ways.push((of, 1)),
        }
    }
    let shown = ways.into_iter().map(|(of, count)| {
        json!({
            "from": of.from,
            "modules": count,
            "to": of.scheme.map_or(of.dtype.name().to_owned(), PackedScheme::shown),
            "exact": of.rounded.is_none(),
        })
    });
    shown.collect()
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

/// All that is known of a model before its weights are read. What is wrong with a folder shows here, so that `inspect`
/// refuses what `load` refuses.
struct Plan {
    description: Description,
    context: u32,
    tokenizer: Tokenizer,
    chat: Chat,
    marked: Option<Marked>,
}

impl Plan {
    /// `progress` hears of 0 bytes of the weights, while something else takes long.
    ///
    /// Errors: `Cancelled` when it stops that.
    fn make(
        path: &str,
        context: u32,
        follow_links: bool,
        progress: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<Self> {
        engine::prepare();
        let mut description = Description::read(path, follow_links)?;
        let context = checked_context(context, &description.config)?;
        let token_files = Arc::new(description.token_files()?);
        let total = description.weight_bytes();
        let mut look = || go_on(progress(0, total));
        let tokenizer = description.tokenizer(&token_files, &mut look)?;
        let chat = description.chat(&token_files, &tokenizer)?;
        let parser = token_files.config.as_ref();
        let parser = parser.and_then(|config| config.get("tool_parser_type")?.as_str());
        if let Some(name) = parser.filter(|name| !Channels::knows(name)) {
            description.warnings.add(format!(
                "tokenizer_config.json: tool_parser_type {} is not known, and what the template shows counts",
                quoted(name, 80)
            ));
        }
        let marked = Marked::find(&chat, &tokenizer, parser)?;
        Ok(Plan {
            marked,
            description,
            context,
            tokenizer,
            chat,
        })
    }

    /// Of the draft model that guesses for another one, and its path.
    ///
    /// Errors: as `make`; `Incompatible` for one with other tokens.
    fn of_draft<'a>(
        path: Option<&'a str>,
        follow_links: bool,
        model: &Plan,
        progress: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<Option<(&'a str, Plan)>> {
        let Some(path) = path else {
            return Ok(None);
        };
        let mut plan = || {
            let beside = model.description.weight_bytes();
            let mut progress = |done, total: u64| progress(done, total.saturating_add(beside));
            let plan = Plan::make(path, 0, follow_links, &mut progress)?;
            if let Some(why) = model.description.silent().or(plan.description.silent()) {
                return Err(Error::unsupported(why));
            }
            draft::check_tokens(&model.tokenizer, &plan.tokenizer)?;
            Ok((path, plan))
        };
        let plan = plan().map_err(|error| error.within(draft::OPTION))?;
        Ok(Some(plan))
    }

    fn estimate(&self, session: &SessionOptions, context: u32) -> Result<Estimate> {
        Estimate::new(
            &self.description.config,
            &self.description.planned,
            session,
            context.min(self.context),
            engine::device()?,
        )
    }

    fn as_draft(&self, path: &str) -> Value {
        let Plan { description, .. } = self;
        json!({
            "path": path,
            "model_type": description.family.model_type,
            "parameters": description.parameters(),
            "weight_bytes": description.weight_bytes(),
        })
    }

    fn to_json(&self) -> Map<String, Value> {
        let mut json = self.description.to_json(self.context);
        json.insert("draft".into(), Value::Null);
        let format = match &self.chat {
            Chat::Template(_) => "template".to_owned(),
            Chat::BuiltIn(format) => format!("{format:?}").to_lowercase(),
            Chat::Unknown => "none".to_owned(),
        };
        json.insert("chat_format".into(), format.into());
        let channels = self.marked.as_ref().map(|marked| &marked.channels);
        let thinks = channels.is_some_and(|channels| channels.thinks());
        json.insert("thinking".into(), thinks.into());
        let calls = channels.and_then(|channels| channels.calls());
        json.insert("tool_calls".into(), calls.into());
        json
    }
}

/// What a model is and what it would need, as JSON, without reading its weights.
pub fn inspect(
    path: &str,
    context: u32,
    follow_links: bool,
    draft: Option<&str>,
    session: &SessionOptions,
) -> Result<String> {
    let mut nobody = |_, _| true;
    let plan = Plan::make(path, context, follow_links, &mut nobody)?;
    let draft = Plan::of_draft(draft, follow_links, &plan, &mut nobody)?;
    let session_context = match session.context {
        0 => plan.context,
        wanted => wanted.min(plan.context),
    };
    let mut estimate = plan.estimate(session, session_context)?;
    let mut json = plan.to_json();
    if let Some((path, draft)) = &draft {
        // Its keys and values are never packed, and it keeps those of the whole session.
        let own = draft.estimate(&SessionOptions::default(), session_context)?;
        estimate.kv = estimate.kv.saturating_add(own.kv);
        estimate.peak = estimate.peak.saturating_add(own.peak);
        json.insert("draft".into(), draft.as_draft(path));
    }
    json.insert("session_context".into(), session_context.into());
    let token_dims = plan.description.planned.blueprint.token_dims();
    let scheme = session.kv_scheme(&token_dims)?;
    json.insert("kv_quantization".into(), scheme.map(scheme_json).into());
    json.insert("kv_bytes".into(), estimate.kv.into());
    json.insert("estimated_bytes".into(), estimate.peak.into());
    Ok(Value::Object(json).to_string())
}

pub fn load(path: &str, options: LoadOptions) -> Result<Model> {
    watch::during(loading(options.deadline), || load_watched(path, options))
}

/// A process that exits ends it, too, and a forced shutdown, from before there is an engine.
pub(super) fn loading(deadline: Option<Instant>) -> Watch {
    let before = engine::forced_shutdowns();
    let stopped = move || match engine::forced_shutdowns() == before {
        true => host::refuse_at_exit(),
        false => Err(engine::ended()),
    };
    Watch {
        work: "loading",
        deadline,
        stopped: Some(Box::new(stopped)),
    }
}

fn load_watched(path: &str, options: LoadOptions) -> Result<Model> {
    let LoadOptions {
        context,
        follow_links,
        draft,
        progress,
        ..
    } = options;
    let plan = Plan::make(path, context, follow_links, progress)?;
    let draft = Plan::of_draft(draft, follow_links, &plan, progress)?;
    let Some((draft_path, draft)) = draft else {
        return read_weights(path, plan, None, progress);
    };
    let of_draft = draft.description.weight_bytes();
    let total = of_draft.saturating_add(plan.description.weight_bytes());
    let engine = engine::acquire()?;
    check_budget(&engine, total)?;
    let shown = draft.as_draft(draft_path);
    let draft = read_weights(draft_path, draft, None, &mut |done, _| {
        progress(done, total)
    });
    let draft = draft.map_err(|error| error.within(draft::OPTION))?;
    let draft = Some((Arc::new(draft), shown));
    read_weights(path, plan, draft, &mut |done, _| {
        progress(of_draft.saturating_add(done), total)
    })
}

/// `draft`: what guesses for it, and that as JSON.
fn read_weights(
    path: &str,
    plan: Plan,
    draft: Option<(Arc<Model>, Value)>,
    progress: &mut dyn FnMut(u64, u64) -> bool,
) -> Result<Model> {
    let begun = Instant::now();
    let mut info = plan.to_json();
    let draft = draft.map(|(draft, shown)| {
        info.insert("draft".into(), shown);
        draft
    });
    let Plan {
        description,
        context,
        tokenizer,
        chat,
        marked,
    } = plan;
    let scheme = description.scheme();
    let weight_bytes = description.weight_bytes();
    let parameters = description.parameters();
    let json = description.config_to_save()?;
    let silent = description.silent();
    let Description {
        folder,
        family,
        config,
        generation,
        catalog,
        planned,
        sentence,
        dense,
        warnings,
        ..
    } = description;
    let Planned {
        blueprint,
        modules: weights,
        names,
        ..
    } = planned;
    let config_text = json.clone();
    let said = sentence.as_ref().ok().and_then(Option::as_ref);
    let source = Source::new(folder, json, names, parameters, &weights, said)?;
    let both_ways = config.both_ways;
    let modules = weights.described();
    let names = config.names.first().copied();
    let token_dims = blueprint.token_dims();
    let engine = engine::acquire()?;
    let (_, kernels) = engine::device()?;
    let cost = WeightCost::of(&weights, kernels);
    let beside = cost.held.saturating_sub(weight_bytes) + cost.packing;
    check_budget(&engine, weight_bytes.saturating_add(beside))?;

    // Buffers that others freed would be taken for tensors that are up to 8 KiB smaller.
    memory::clear_cache();
    let mut reader = Reader {
        engine: Some(&engine),
        catalog: &catalog,
        progress,
        done: 0,
        total: weight_bytes,
        beside,
    };
    let mut hash = WeightsHash::default();
    // What sessions keep does not depend on a head that predicts further tokens.
    let mut hashed = weights.tensors_before_ahead();
    let weights = weights.try_map(|slot| -> Result<_> {
        let (slot, buffer) = reader.read(slot)?;
        if hashed > 0 {
            hash.add(&slot, buffer.bytes());
            hashed -= 1;
        }
        Ok((slot, buffer))
    })?;
    let identity = Identity::new(hash, &config_text, &source)?;
    let mut behind = Vec::with_capacity(dense.len());
    for DenseSlots {
        catalog,
        weight,
        bias,
        tanh,
    } in dense
    {
        let mut own = Reader {
            engine: reader.engine,
            catalog: &catalog,
            progress: &mut *reader.progress,
            done: reader.done,
            total: reader.total,
            beside: reader.beside,
        };
        let weight = own.read(weight)?;
        let bias = bias.map(|bias| own.read(bias)).transpose()?;
        reader.done = own.done;
        behind.push((weight, bias, tanh));
    }
    let id = engine.next_id();
    let ahead = blueprint.has_ahead().then(|| engine.next_id());
    let (vocab_size, for_engine) = (config.vocab_size as usize, config);
    let kept = engine.call(move |worker| {
        worker.ready_for(beside)?;
        if !worker.make_room_for(beside) {
            return Err(too_large("the weights", beside));
        }
        let weights: Modules<Array> =
            weights.try_map(|(slot, buffer)| buffer.into_array(&slot.shape, slot.dtype))?;
        let array = |(slot, buffer): (Slot, HostBuffer)| buffer.into_array(&slot.shape, slot.dtype);
        let dense = behind.into_iter().map(|(weight, bias, tanh)| {
            Ok(Dense {
                weight: array(weight)?,
                bias: bias.map(array).transpose()?,
                tanh,
            })
        });
        let dense = dense.collect::<Result<_>>()?;
        let mut decoder = Decoder::new(for_engine, blueprint, weights)?;
        let kept = decoder.kept();
        if let Some((ahead, head)) = ahead.zip(decoder.take_ahead()) {
            worker.add_model(ahead, head);
        }
        worker.add_model(id, decoder.with_dense(dense));
        Ok(kept)
    })?;
    let model = Model {
        id,
        engine,
        tokenizer: Arc::new(tokenizer),
        chat,
        channels: marked,
        defaults: generation,
        vocab_size,
        context,
        token_dims,
        modules,
        names: names.ok_or_else(|| Error::internal("a family without names"))?,
        source,
        identity,
        model_type: family.model_type,
        path: path.to_owned(),
        kept,
        sentence,
        both_ways,
        silent,
        draft,
        ahead,
        counters: Arc::new(Counters::new()),
        vocabulary: Mutex::new(None),
        calls: KeptCalls::default(),
        info: Value::Object(info).to_string(),
        weight_bytes,
    };
    model.counters.weights_changed(0, weight_bytes);
    metrics::PROCESS.weights_changed(0, weight_bytes);
    crate::log::info!(
        "loaded {path}: {}, {}, {weight_bytes} bytes of weights, in {} ms, {} warnings",
        family.model_type,
        words_of(scheme),
        begun.elapsed().as_millis(),
        warnings.sentences().len()
    );
    Ok(model)
}

/// The folder for chat templates beside the default one, and how their names end.
pub(super) const TEMPLATES: &str = "additional_chat_templates";
pub(super) const JINJA: &str = ".jinja";
/// More of them are none.
const MOST_TEMPLATES: usize = 256;

/// The folder of additional templates and the names in it, where there is one.
pub(super) fn additional_templates(
    folder: &ModelFolder,
) -> Result<Option<(ModelFolder, Vec<String>)>> {
    let Some(templates) = folder.subfolder(TEMPLATES)? else {
        return Ok(None);
    };
    let names = templates.list("", JINJA, MOST_TEMPLATES)?;
    Ok(Some((templates, names)))
}

fn read_template(folder: &ModelFolder, name: &str) -> Option<Result<Vec<u8>>> {
    folder
        .read(name, Limits::DEFAULT.template_bytes)
        .transpose()
}

/// The family's format, unless the tokenizer shows that the model was tuned on another one: it has no tokens for the
/// turns of the first, or has those of ChatML.
fn chat_format(family: &Family, tokenizer: &Tokenizer) -> Option<ChatFormat> {
    let has = |token: &str| tokenizer.token_to_id(token).is_some();
    match family.chat {
        None | Some(ChatFormat::Llama | ChatFormat::Mistral) if has("<|im_start|>") => {
            Some(ChatFormat::Qwen)
        }
        Some(ChatFormat::Llama) if !has("<|start_header_id|>") => Some(ChatFormat::Llama2),
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
    Err(too_large("the weights", weight_bytes))
}

pub(super) fn too_large(what: &str, bytes: u64) -> Error {
    let (active, limit) = (memory::active(), memory::limit());
    Error::new(
        Code::OutOfMemory,
        format!("{what}: {bytes} bytes are needed, {active} are in use, and the limit is {limit}"),
    )
}

/// Reads tensors into MLX's memory.
pub(super) struct Reader<'a> {
    /// Whose budget the weights come out of.
    pub engine: Option<&'a Engine>,
    pub catalog: &'a Catalog,
    pub progress: &'a mut dyn FnMut(u64, u64) -> bool,
    pub done: u64,
    pub total: u64,
    /// Bytes that they take on top, once they are read.
    pub beside: u64,
}

impl Reader<'_> {
    pub fn read(&mut self, slot: Slot) -> Result<(Slot, HostBuffer)> {
        let bytes = usize::try_from(slot.bytes).map_err(|_| {
            Error::new(
                Code::OutOfMemory,
                format!("tensor \"{}\" is too large", slot.name),
            )
        })?;
        // Again for each: others may have taken the room meanwhile, or the limit may have changed.
        if let Some(engine) = self.engine {
            check_budget(engine, self.total.saturating_sub(self.done) + self.beside)?;
        }
        let mut buffer = HostBuffer::new(bytes)?;
        if let Some(recipe) = &slot.recipe {
            self.make(&slot, recipe, &mut buffer)?;
            return full(slot, buffer);
        }
        for piece in &slot.pieces {
            match piece.pick {
                Pick::All => self.read_whole(&slot.name, piece, &mut buffer)?,
                _ => self.read_picked(&slot.name, piece, &mut buffer)?,
            }
        }
        full(slot, buffer)
    }

    /// What another program packed, matrix by matrix: what one is made of is in memory beside it.
    fn make(&mut self, slot: &Slot, recipe: &Recipe, buffer: &mut HostBuffer) -> Result<()> {
        let mut made = crate::room::zeros(recipe.bytes(), &slot.name)?;
        for pieces in slot.pieces.chunks(recipe.sources.max(1)) {
            let before = buffer.filled();
            let mut sources = Vec::with_capacity(pieces.len());
            for piece in pieces {
                let file = self.file(piece.file)?;
                let extent = usize::try_from(piece.extent()).unwrap_or(usize::MAX);
                let mut bytes = crate::room::zeros(extent, &file.name)?;
                file.file
                    .read_exact_at(&mut bytes, piece.offset)
                    .map_err(|error| unreadable(file, &slot.name, &error))?;
                sources.push(match piece.pick {
                    Pick::All => bytes,
                    _ => piece.picked(&bytes).flatten().copied().collect(),
                });
            }
            recipe.run(&sources, &mut made);
            if recipe.picks.is_empty() {
                buffer.append(&made);
            }
            for pick in &recipe.picks {
                let of = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
                let part = made
                    .get(of(pick.offset)..)
                    .and_then(|rest| rest.get(..of(pick.extent())));
                let part = part.ok_or_else(|| Error::internal("a pick of what is not made"))?;
                pick.picked(part).for_each(|some| buffer.append(some));
            }
            self.has_read((buffer.filled() - before) as u64)?;
        }
        Ok(())
    }

    fn file(&self, number: usize) -> Result<&WeightFile> {
        let file = self.catalog.files.get(number);
        file.ok_or_else(|| Error::internal("a tensor of a file that is not open"))
    }

    /// Straight into the buffer.
    fn read_whole(&mut self, name: &str, piece: &Piece, buffer: &mut HostBuffer) -> Result<()> {
        let (mut read, bytes) = (0, piece.bytes());
        while read < bytes {
            let file = self.file(piece.file)?;
            let most = READ_STEP.min(usize::try_from(bytes - read).unwrap_or(READ_STEP));
            let got = buffer
                .read_some(&file.file, piece.offset + read, most)
                .map_err(|error| unreadable(file, name, &error))?;
            if got == 0 {
                return Err(Error::internal("a tensor is larger than its buffer"));
            }
            read += got as u64;
            self.has_read(got as u64)?;
        }
        Ok(())
    }

    /// All of a part of the file, of which some stays.
    fn read_picked(&mut self, name: &str, piece: &Piece, buffer: &mut HostBuffer) -> Result<()> {
        let file = self.file(piece.file)?;
        let extent = usize::try_from(piece.extent()).unwrap_or(usize::MAX);
        let mut bytes = crate::room::zeros(extent, &file.name)?;
        file.file
            .read_exact_at(&mut bytes, piece.offset)
            .map_err(|error| unreadable(file, name, &error))?;
        piece.picked(&bytes).for_each(|some| buffer.append(some));
        self.has_read(piece.bytes())
    }

    fn has_read(&mut self, bytes: u64) -> Result<()> {
        self.done += bytes;
        go_on((self.progress)(self.done, self.total))?;
        watch::look()
    }
}

/// What a progress callback said.
fn go_on(goes_on: bool) -> Result<()> {
    let stopped = "loading was stopped by the progress callback";
    goes_on
        .then_some(())
        .ok_or_else(|| Error::new(Code::Cancelled, stopped))
}

fn full(slot: Slot, buffer: HostBuffer) -> Result<(Slot, HostBuffer)> {
    match buffer.is_full() {
        true => Ok((slot, buffer)),
        false => Err(Error::internal("a tensor was not read whole")),
    }
}

fn unreadable(file: &WeightFile, tensor: &str, error: &std::io::Error) -> Error {
    let (file, tensor) = (&file.name, quoted(tensor, 160));
    let message = format!("{file}: tensor {tensor} cannot be read: {error}");
    Error::new(Code::Io, message)
}

impl Model {
    /// Errors: `Unsupported` of one that makes embeddings only.
    pub(super) fn refuse_silent(&self) -> Result<()> {
        match &self.silent {
            Some(why) => Err(Error::unsupported(why.clone())),
            None => Ok(()),
        }
    }

    /// What `mlxrt_model_info` gives: JSON.
    pub fn info(&self) -> &str {
        &self.info
    }

    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Ids of a text, see `Tokenizer::encode`.
    pub fn tokenize(
        self: &Arc<Self>,
        text: &str,
        specials: Specials,
        add_special: bool,
    ) -> Result<Vec<i32>> {
        self.watched(|| self.tokenizer.encode(text, specials, add_special))
    }

    /// Does work on text outside of any request: the engine's end ends it.
    pub(super) fn watched<T>(self: &Arc<Self>, work: impl FnOnce() -> T) -> T {
        let model = self.clone();
        let watch = Watch {
            stopped: Some(Box::new(move || model.engine.refuse_when_ending())),
            ..Watch::default()
        };
        watch::during(watch, work)
    }

    /// Compiles a grammar for this model's tokens. The first one makes what all of them share.
    ///
    /// Errors: as `Grammar::compile` and `Vocabulary::new`.
    pub fn compile_grammar(
        self: &Arc<Self>,
        kind: grammar::Kind,
        source: &str,
        deadline: Option<Instant>,
    ) -> Result<Grammar> {
        let model = self.clone();
        let watch = Watch {
            work: "compiling the grammar",
            deadline,
            stopped: Some(Box::new(move || model.engine.refuse_when_ending())),
        };
        watch::during(watch, || Grammar::compile(self.vocabulary()?, kind, source))
    }

    pub(super) fn vocabulary(&self) -> Result<Arc<Vocabulary>> {
        let mut made = self
            .vocabulary
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(vocabulary) = &*made {
            return Ok(vocabulary.clone());
        }
        let ends = &self.defaults.eos_token_ids;
        let channels = self.channels.as_ref().map(|marked| &marked.channels);
        let markers: Vec<i32> = channels.map_or_else(Vec::new, |channels| {
            channels.token_markers().map(|(id, _)| id).collect()
        });
        let vocabulary = Vocabulary::new(&self.tokenizer, self.vocab_size, ends, &markers)?;
        Ok(made.insert(Arc::new(vocabulary)).clone())
    }

    /// Refuses a grammar that was compiled for another model.
    pub(super) fn check_grammar(&self, grammar: &Grammar) -> Result<()> {
        let made = self
            .vocabulary
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match &*made {
            Some(vocabulary) if Arc::ptr_eq(vocabulary, grammar.vocabulary()) => Ok(()),
            _ => Err(Error::new(
                Code::Incompatible,
                "options.grammar was compiled for another model",
            )),
        }
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
        let (id, ahead) = (self.id, self.ahead);
        let drop = move |worker: &mut Worker| {
            ahead.into_iter().for_each(|id| worker.drop_model(id));
            worker.drop_model(id);
        };
        // Fails only when the engine ended, and then the arrays went with it.
        let _ = self.engine.send(Command::Do(Box::new(drop)));
        metrics::PROCESS.weights_changed(self.weight_bytes, 0);
    }
}

/// The modules of a folder.
#[cfg(test)]
pub(super) fn modules_for_tests(path: &str) -> Result<Vec<Module>> {
    Ok(Description::read(path, false)?.planned.modules.described())
}

/// A decoder on the calling thread, without an engine, and the size of its vocabulary; `wide`: its floats as f32.
#[cfg(test)]
pub(super) fn decoder_for_tests(path: &str, wide: bool) -> Result<(Decoder, usize)> {
    let description = Description::read(path, false)?;
    let total = description.weight_bytes();
    let Description {
        config,
        catalog,
        planned:
            Planned {
                blueprint,
                modules: weights,
                ..
            },
        ..
    } = description;
    let mut reader = Reader {
        engine: None,
        catalog: &catalog,
        progress: &mut |_, _| true,
        done: 0,
        total,
        beside: 0,
    };
    let weights = weights.try_map(|slot| reader.read(slot))?;
    let weights = weights.try_map(|(slot, buffer)| {
        let array = buffer.into_array(&slot.shape, slot.dtype)?;
        if wide && slot.dtype.is_float() {
            return crate::mlx::ops::astype(&array, Dtype::F32);
        }
        Ok(array)
    })?;
    let vocab = config.vocab_size as usize;
    Ok((Decoder::new(config, blueprint, weights)?, vocab))
}
