//! Options that several commands share, and how they become the library's.

use std::ffi::{CStr, CString};
use std::path::{Path, PathBuf};
use std::ptr;
use std::rc::Rc;

use clap::{ArgAction, Args, ValueEnum};

use crate::failure::{quoted, Failure, Outcome};
use crate::ffi::*;
use crate::handles::{sized, Adapter, Generate, Grammar, Library, Model, Session};
use crate::interrupt::{self, Work};
use crate::ui::{self, Ui, When};

#[derive(Args)]
#[command(next_help_heading = "Options of all commands")]
pub struct Common {
    /// Write JSON to standard output, an object on each line
    #[arg(long, global = true)]
    pub json: bool,
    /// No notes and no progress bars on standard error
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Colours; "auto" means on a terminal, unless NO_COLOR is set
    #[arg(long, global = true, value_enum, default_value_t = When::Auto, value_name = "WHEN")]
    pub color: When,
    /// Show the library's log; twice for what developers want to know
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,
    /// Where to compute; "auto" means the GPU where there is one
    #[arg(long, global = true, value_enum, default_value_t = Device::Auto)]
    pub device: Device,
    /// The most threads that compute on the CPU [default: one for each physical core]
    #[arg(short, long, global = true, value_name = "THREADS", value_parser = threads)]
    pub threads: Option<u32>,
    /// The most memory to use, such as 8G; what does not fit is refused before it is allocated
    #[arg(long, global = true, value_name = "SIZE", value_parser = size)]
    pub memory_limit: Option<u64>,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum Device {
    Auto,
    Cpu,
    Gpu,
}

impl Common {
    /// Starts the library on the device that was asked for.
    pub fn start(&self) -> Outcome<Library> {
        let device = match self.device {
            Device::Auto => MLXRT_DEVICE_AUTO,
            Device::Cpu => MLXRT_DEVICE_CPU,
            Device::Gpu => MLXRT_DEVICE_GPU,
        };
        let options = sized!(mlxrt_init_options {
            device: device,
            cpu_threads: self.threads.unwrap_or(0),
            memory_limit: self.memory_limit.unwrap_or(0),
        });
        Library::init(&options)
    }
}

#[derive(Args)]
pub struct ModelArgs {
    #[command(flatten)]
    name: ModelName,
    /// The most tokens of a prompt and its answer [default: the model's]
    #[arg(short, long, visible_alias = "ctx-size", value_name = "TOKENS", value_parser = positive)]
    pub context: Option<u32>,
}

/// For commands that generate.
#[derive(Args)]
pub struct DraftArgs {
    /// A smaller model with the same tokens, which guesses for MODEL: a folder or an id. The answer is the same
    #[arg(long, visible_alias = "model-draft", value_name = "MODEL", value_parser = path)]
    draft_model: Option<CString>,
}

impl DraftArgs {
    /// What loads a model with it; as long as this lives.
    pub fn load_options(&self, model: &ModelArgs) -> mlxrt_load_options {
        let path = self.draft_model.as_deref();
        mlxrt_load_options {
            draft_path: path.map_or(ptr::null(), CStr::as_ptr),
            ..model.load_options()
        }
    }
}

fn path(text: &str) -> Result<CString, String> {
    CString::new(text).map_err(|_| "a path has a NUL character in it".to_owned())
}

/// As the first argument, or behind `--model` as other programs have it.
#[derive(Args)]
pub struct ModelName {
    /// A model folder, or the id of a model in the local Hugging Face cache
    #[arg(id = "first_model", value_name = "MODEL")]
    first: Option<String>,
    /// MODEL, as an option
    #[arg(id = "model", short = 'm', long = "model", value_name = "MODEL")]
    named: Option<String>,
    /// The folder's files may be links to files outside it, such as weights in a store
    #[arg(long)]
    follow_links: bool,
}

impl ModelName {
    /// For a model with its own context.
    pub fn load_options(&self) -> mlxrt_load_options {
        let flags = if self.follow_links {
            MLXRT_LOAD_FOLLOW_LINKS
        } else {
            0
        };
        sized!(mlxrt_load_options { flags: flags })
    }

    /// The model, and the argument behind it: with `--model`, the first argument is that one already.
    pub fn and_next(&self, next: Option<&str>, what: &str) -> Outcome<(String, Option<String>)> {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        match (self.named.as_deref(), self.first.as_deref(), next) {
            (None, Some(model), next) => Ok((model.to_owned(), owned(next))),
            (Some(model), first, None) => Ok((model.to_owned(), owned(first))),
            (Some(model), Some(first), Some(_)) => Err(Failure::usage(format!(
                "one argument too many: with --model {}, the first argument, {}, is {what}",
                quoted(model),
                quoted(first)
            ))),
            (None, None, _) | (Some(_), None, Some(_)) => Err(Failure::usage(
                "no model: give a folder or an id as MODEL or with --model",
            )),
        }
    }

    pub fn get(&self) -> Outcome<String> {
        match self.and_next(None, "")? {
            (model, None) => Ok(model),
            (model, Some(other)) => Err(Failure::usage(format!(
                "two models: {} and, with --model, {}",
                quoted(other),
                quoted(model)
            ))),
        }
    }
}

impl ModelArgs {
    pub fn load_options(&self) -> mlxrt_load_options {
        mlxrt_load_options {
            context: self.context.unwrap_or(0),
            ..self.name.load_options()
        }
    }

    pub fn name(&self) -> Outcome<String> {
        self.name.get()
    }

    /// `ModelName::and_next`.
    pub fn name_and_next(
        &self,
        next: Option<&str>,
        what: &str,
    ) -> Outcome<(String, Option<String>)> {
        self.name.and_next(next, what)
    }
}

/// Loads a model, with a bar where there is a terminal.
pub fn load_model(name: &str, options: mlxrt_load_options, ui: &Ui) -> Outcome<Model> {
    let _work = Work::begin();
    let bar = ui.bytes_bar("Loading");
    let loaded = Model::load(name, options, &mut |done, total| {
        bar.set_length(total);
        bar.set_position(done);
        interrupt::signal().is_none()
    });
    bar.finish_and_clear();
    interrupted_or(loaded).map_err(|failure| with_a_way_to_get(name, failure))
}

/// An id that is not in the cache can be fetched; by whom is for people to choose.
pub fn with_a_way_to_get(name: &str, mut failure: Failure) -> Failure {
    let plain = |part: &str| part.starts_with(|c: char| c.is_ascii_alphanumeric());
    let is_id = matches!(name.split_once('/'), Some((org, rest)) if plain(org) && plain(rest) && !rest.contains('/'));
    if failure.code == "NOT_FOUND" && is_id && !name.ends_with(".gguf") {
        failure.message +=
            &format!("; if it is the id of a model: huggingface-cli download {name}");
    }
    failure
}

/// A signal during the work ends it, also when the work was done before it could hear of it.
pub fn interrupted_or<T>(outcome: Outcome<T>) -> Outcome<T> {
    match (outcome, interrupt::signal()) {
        (Err(failure), Some(_)) if failure.code != "CANCELLED" => Err(failure),
        (_, Some(signal)) => Err(Failure::signal(signal)),
        (outcome, None) => outcome,
    }
}

#[derive(Args)]
#[command(next_help_heading = "Memory of the conversation")]
pub struct SessionArgs {
    /// Keep keys and values of only so many of the latest tokens: what is older is no longer seen
    #[arg(long, alias = "max-kv-size", value_name = "TOKENS", value_parser = positive)]
    pub window: Option<u32>,
    /// With --window: the first tokens that are never dropped [default: 4]
    #[arg(long, value_name = "TOKENS", requires = "window", value_parser = whole)]
    pub keep: Option<i32>,
    /// Pack keys and values in so many bits, 4 or 8: they take less memory
    #[arg(long, value_name = "BITS", value_parser = positive)]
    pub kv_bits: Option<u32>,
    /// With --kv-bits: numbers that share a scale, 32, 64 or 128 [default: 64, or 32 where heads are not made of 64]
    #[arg(long, value_name = "NUMBERS", requires = "kv_bits", value_parser = positive)]
    pub kv_group_size: Option<u32>,
    /// The most memory for keys and values, such as 512M
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub kv_limit: Option<u64>,
}

impl SessionArgs {
    pub fn raw(&self, context: Option<u32>) -> mlxrt_session_options {
        sized!(mlxrt_session_options {
            context: context.unwrap_or(0),
            window: self.window.unwrap_or(0),
            // In the C struct 0 means the default, and -1 none.
            keep: none_at_zero(self.keep),
            kv_bits: self.kv_bits.unwrap_or(0),
            kv_group_size: self.kv_group_size.unwrap_or(0),
            kv_limit: self.kv_limit.unwrap_or(0),
        })
    }
}

#[derive(Args)]
#[command(next_help_heading = "Adapters")]
pub struct AdapterArgs {
    /// Use an adapter, a folder of mlx-lm or PEFT, perhaps at SCALE times its own scale; may be given several times
    #[arg(
        long,
        alias = "adapter-path",
        alias = "lora",
        value_name = "PATH[=SCALE]"
    )]
    pub adapter: Vec<String>,
    /// The same, for any name of a folder
    #[arg(long, alias = "lora-scaled", num_args = 2, value_names = ["PATH", "SCALE"], action = ArgAction::Append, allow_negative_numbers = true)]
    pub adapter_scaled: Vec<String>,
}

impl AdapterArgs {
    /// Path and scale of each.
    pub fn list(&self) -> Outcome<Vec<(String, f32)>> {
        let mut list: Vec<_> = self.adapter.iter().map(|text| scaled(text)).collect();
        for pair in self.adapter_scaled.chunks_exact(2) {
            let scale = number(&pair[1])
                .map_err(|error| Failure::usage(format!("--adapter-scaled: SCALE {error}")))?;
            list.push((pair[0].clone(), scale));
        }
        Ok(list)
    }

    /// Loads them and applies them to a session.
    pub fn apply(&self, model: &Model, session: &Session, ui: &Ui) -> Outcome<()> {
        session.apply(&load_adapters(model, &self.list()?, ui)?)
    }
}

/// "PATH" or "PATH=SCALE"; what is there by that name is a path, whatever it looks like.
fn scaled(text: &str) -> (String, f32) {
    let parts = text.rsplit_once('=').filter(|(path, _)| !path.is_empty());
    let split = parts.and_then(|(path, scale)| Some((path, number(scale).ok()?)));
    match split {
        Some((path, scale)) if !Path::new(text).exists() => (path.to_owned(), scale),
        _ => (text.to_owned(), 1.0),
    }
}

pub fn load_adapters(
    model: &Model,
    list: &[(String, f32)],
    ui: &Ui,
) -> Outcome<Vec<(Adapter, f32)>> {
    let load = |(path, scale): &(String, f32)| Ok((load_adapter(model, path, ui)?, *scale));
    list.iter().map(load).collect()
}

pub fn load_adapter(model: &Model, path: &str, ui: &Ui) -> Outcome<Adapter> {
    let _work = Work::begin();
    let bar = ui.bytes_bar("Loading the adapter");
    let loaded = model.load_adapter(path, &mut |done, total| {
        bar.set_length(total);
        bar.set_position(done);
        interrupt::signal().is_none()
    });
    bar.finish_and_clear();
    interrupted_or(loaded)
}

#[derive(Args)]
#[command(next_help_heading = "Generation")]
pub struct GenerateArgs {
    /// The most tokens to generate [default: until the model ends or the context is full]
    #[arg(short = 'n', long, visible_alias = "predict", alias = "n-predict", value_name = "TOKENS", value_parser = positive)]
    pub max_tokens: Option<u32>,
    /// End the answer after so many seconds
    #[arg(long, value_name = "SECONDS", value_parser = timeout)]
    pub timeout: Option<u32>,
    /// Guess so many tokens at a time; 0 = none (default: as many as pay)
    #[arg(long, alias = "num-draft-tokens", value_name = "TOKENS", value_parser = clap::value_parser!(i32).range(0..))]
    pub draft_tokens: Option<i32>,
    /// A text that ends the answer and is not part of it; may be given several times
    #[arg(long, value_name = "TEXT", value_parser = not_empty)]
    pub stop: Vec<String>,
    /// A token that ends the answer; may be given several times
    #[arg(long, value_name = "ID")]
    pub stop_token: Vec<i32>,
    /// Go on past the model's end of text
    #[arg(long)]
    pub ignore_eos: bool,
    /// The answer is JSON that obeys the JSON schema in FILE
    #[arg(long, value_name = "FILE", conflicts_with_all = ["grammar", "regex"])]
    pub schema: Option<PathBuf>,
    /// The answer matches the grammar in FILE, in Lark's syntax
    #[arg(long, value_name = "FILE", conflicts_with = "regex")]
    pub grammar: Option<PathBuf>,
    /// The whole answer matches this regular expression
    #[arg(long, value_name = "REGEX")]
    pub regex: Option<String>,
    /// The arguments of a call obey the schema of its tool
    #[arg(long, conflicts_with_all = ["schema", "grammar", "regex", "special"])]
    pub strict_tools: bool,
    /// Show the answer as the model writes it: thinking and calls of tools among the text, with their markers
    #[arg(long)]
    pub special: bool,
    /// The most tokens that the model may think; 0 is not at all [default: no limit]
    #[arg(long, value_name = "TOKENS", value_parser = whole)]
    pub thinking_budget: Option<i32>,
    /// The model is not to think, as with --thinking-budget 0
    #[arg(long, conflicts_with = "thinking_budget")]
    pub no_thinking: bool,
    /// Variables for the chat template, such as '{"enable_thinking":false}'
    #[arg(long, alias = "chat-template-kwargs", alias = "chat-template-config", value_name = "JSON", value_parser = json_object)]
    pub template_args: Option<String>,
    #[command(flatten)]
    pub sampling: SamplingArgs,
}

#[derive(Args)]
#[command(
    next_help_heading = "Sampling (without these, what the model's generation_config.json says)"
)]
pub struct SamplingArgs {
    /// How much chance there is; 0 takes the likeliest token always
    #[arg(long, visible_alias = "temp", value_parser = not_negative)]
    pub temperature: Option<f32>,
    /// The likeliest token always, as with --temperature 0
    #[arg(long, conflicts_with = "temperature")]
    pub greedy: bool,
    /// The smallest set of likely tokens with this probability; 1 turns it off
    #[arg(long, value_name = "P", value_parser = top_p)]
    pub top_p: Option<f32>,
    /// The so many likeliest tokens; 0 turns it off
    #[arg(long, value_name = "TOKENS", value_parser = whole)]
    pub top_k: Option<i32>,
    /// Tokens at least this share of the likeliest one's probability; 0 turns it off
    #[arg(long, value_name = "P", value_parser = share)]
    pub min_p: Option<f32>,
    /// Probability with which the likeliest tokens are left out; 0 turns it off
    #[arg(long, value_name = "P", value_parser = share)]
    pub xtc_probability: Option<f32>,
    /// With XTC: only tokens above this probability are left out, up to 0.5 [default: 0.1]
    #[arg(long, value_name = "P", value_parser = above_zero)]
    pub xtc_threshold: Option<f32>,
    /// Divides the logits of tokens seen; 1 turns it off
    #[arg(long, visible_alias = "repeat-penalty", value_name = "FACTOR", value_parser = above_zero)]
    pub repetition_penalty: Option<f32>,
    /// Taken from the logits of tokens seen, -2 to 2
    #[arg(long, value_name = "X", allow_negative_numbers = true, value_parser = number)]
    pub presence_penalty: Option<f32>,
    /// Taken from the logits of tokens seen, for each time, -2 to 2
    #[arg(long, value_name = "X", allow_negative_numbers = true, value_parser = number)]
    pub frequency_penalty: Option<f32>,
    /// How many of the latest tokens the penalties look at, or "all" [default: 20]
    #[arg(long, alias = "repeat-last-n", value_name = "TOKENS", value_parser = window)]
    pub penalty_window: Option<u32>,
    /// Added to a token's logit; "-inf" bans it; may be given several times
    #[arg(long, value_name = "ID=X", value_parser = bias)]
    pub logit_bias: Vec<(i32, f32)>,
    /// The same seed gives the same answer; 1 or greater [default: random, and reported]
    #[arg(short, long, value_parser = seed)]
    pub seed: Option<u64>,
    /// Do not use the model's generation_config.json
    #[arg(long)]
    pub no_model_defaults: bool,
}

impl GenerateArgs {
    pub fn options(&self) -> Generate {
        let sampling = &self.sampling;
        let mut raw = sized!(mlxrt_generate_options {
            max_tokens: self.max_tokens.unwrap_or(0),
            timeout_ms: self.timeout.unwrap_or(0),
            top_p: sampling.top_p.unwrap_or(0.0),
            xtc_threshold: sampling.xtc_threshold.unwrap_or(0.0),
            repetition_penalty: sampling.repetition_penalty.unwrap_or(0.0),
            presence_penalty: sampling.presence_penalty.unwrap_or(0.0),
            frequency_penalty: sampling.frequency_penalty.unwrap_or(0.0),
            penalty_window: sampling.penalty_window.unwrap_or(0),
            seed: sampling.seed.unwrap_or(0),
            draft_tokens: match self.draft_tokens {
                None => 0,
                Some(0) => -1,
                Some(most) => most,
            },
        });
        // In the C struct 0 means the default, so that off, none and greedy are said in other ways.
        let off_at_zero =
            |value: Option<f32>| value.map_or(0.0, |value| if value == 0.0 { -1.0 } else { value });
        raw.min_p = off_at_zero(sampling.min_p);
        raw.xtc_probability = off_at_zero(sampling.xtc_probability);
        raw.top_k = none_at_zero(sampling.top_k);
        raw.thinking_budget = match self.no_thinking {
            true => -1,
            false => none_at_zero(self.thinking_budget),
        };
        match sampling.temperature {
            Some(0.0) => raw.flags |= MLXRT_GEN_GREEDY,
            temperature => raw.temperature = temperature.unwrap_or(0.0),
        }
        for (set, flag) in [
            (sampling.greedy, MLXRT_GEN_GREEDY),
            (sampling.no_model_defaults, MLXRT_GEN_NO_MODEL_DEFAULTS),
            (self.ignore_eos, MLXRT_GEN_IGNORE_EOS),
            (self.special, MLXRT_GEN_RAW_TEXT),
            (self.strict_tools, MLXRT_GEN_STRICT_TOOLS),
        ] {
            if set {
                raw.flags |= flag;
            }
        }
        Generate {
            raw,
            stop: self.stop.clone(),
            stop_tokens: self.stop_token.clone(),
            bias: sampling.logit_bias.clone(),
            grammar: None,
        }
    }

    /// What the answers must match.
    pub fn grammar(&self, model: &Model) -> Outcome<Option<Rc<Grammar>>> {
        let of_file = |path: &PathBuf| {
            let name = quoted(path.display());
            read_text(path).map(|source| (source, name))
        };
        let (kind, (source, name)) = match (&self.schema, &self.grammar, &self.regex) {
            (Some(path), _, _) => (MLXRT_GRAMMAR_JSON_SCHEMA, of_file(path)?),
            (_, Some(path), _) => (MLXRT_GRAMMAR_LARK, of_file(path)?),
            (_, _, Some(regex)) => (MLXRT_GRAMMAR_REGEX, (regex.clone(), "--regex".to_owned())),
            _ => return Ok(None),
        };
        let compiled = model.compile_grammar(kind, &source);
        let grammar = compiled.map_err(|failure| failure.about(name))?;
        Ok(Some(Rc::new(grammar)))
    }
}

/// For fields where 0 means the default and -1 none.
fn none_at_zero(value: Option<i32>) -> i32 {
    value.map_or(0, |value| if value == 0 { -1 } else { value })
}

/// Reads a file that has to be UTF-8; "-" is standard input.
pub fn read_text(path: &PathBuf) -> Outcome<String> {
    if path.as_os_str() == "-" {
        return read_stdin();
    }
    let bytes = std::fs::read(path).map_err(|error| Failure::file(path, "read", &error))?;
    utf8(bytes, &format!("{:?}", path.display().to_string()))
}

pub fn read_stdin() -> Outcome<String> {
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut std::io::stdin().lock(), &mut bytes).map_err(|error| {
        let message = format!(
            "standard input cannot be read: {}",
            crate::failure::plain(&error)
        );
        Failure::of_library(MLXRT_E_IO, "IO", message)
    })?;
    utf8(bytes, "standard input")
}

fn utf8(bytes: Vec<u8>, what: &str) -> Outcome<String> {
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let line = 1 + error.as_bytes()[..at]
            .iter()
            .filter(|b| **b == b'\n')
            .count();
        Failure::usage(format!(
            "{what} is not UTF-8 text: see line {line}, byte {at} of all"
        ))
    })
}

pub fn positive(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err(format!("it must be a whole number from 1 to {}", u32::MAX)),
        Ok(value) => Ok(value),
    }
}

/// People who know `-t` as the temperature are told.
fn threads(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(value @ 1..=1024) => Ok(value),
        _ => Err(
            "it must be a whole number from 1 to 1024; the temperature is --temperature".to_owned(),
        ),
    }
}

fn whole(text: &str) -> Result<i32, String> {
    match text.parse() {
        Ok(value) if value >= 0 => Ok(value),
        _ => Err(format!("it must be a whole number from 0 to {}", i32::MAX)),
    }
}

pub fn seed(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err(format!("it must be a whole number from 1 to {}", u64::MAX)),
        Ok(value) => Ok(value),
    }
}

pub fn number(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(value) if value.is_finite() => Ok(value),
        _ => Err("it must be a number".to_owned()),
    }
}

pub fn not_negative(text: &str) -> Result<f32, String> {
    number(text)
        .ok()
        .filter(|value| *value >= 0.0)
        .ok_or("it must be a number, 0 or greater".to_owned())
}

pub fn above_zero(text: &str) -> Result<f32, String> {
    number(text)
        .ok()
        .filter(|value| *value > 0.0)
        .ok_or("it must be a number greater than 0".to_owned())
}

pub fn share(text: &str) -> Result<f32, String> {
    number(text)
        .ok()
        .filter(|value| (0.0..=1.0).contains(value))
        .ok_or("it must be a number from 0 to 1".to_owned())
}

fn top_p(text: &str) -> Result<f32, String> {
    share(text)
        .ok()
        .filter(|value| *value > 0.0)
        .ok_or("it must be greater than 0 and at most 1, which turns it off".to_owned())
}

fn window(text: &str) -> Result<u32, String> {
    if text == "all" {
        return Ok(u32::MAX);
    }
    positive(text).map_err(|_| "it must be \"all\" or a whole number, 1 or greater".to_owned())
}

fn bias(text: &str) -> Result<(i32, f32), String> {
    let wanted = || "it must be a token id, \"=\" and a number or -inf, such as 42=-1.5".to_owned();
    let (id, value) = text.split_once('=').ok_or_else(wanted)?;
    let id = id.parse().map_err(|_| wanted())?;
    let value: f32 = value.parse().map_err(|_| wanted())?;
    if value.is_nan() || value == f32::INFINITY {
        return Err(wanted());
    }
    Ok((id, value))
}

pub fn timeout(text: &str) -> Result<u32, String> {
    let seconds = above_zero(text)?;
    let milliseconds = f64::from(seconds) * 1000.0;
    if milliseconds >= f64::from(u32::MAX) {
        return Err("it must be less than 4294967 seconds".to_owned());
    }
    Ok((milliseconds as u32).max(1))
}

/// "8G" and "8GB" are powers of 1000, as all sizes that this program prints; "8GiB" of 1024.
pub fn size(text: &str) -> Result<u64, String> {
    let wanted = || "it must be a number of bytes, such as 8G, 512M or 1000000".to_owned();
    let end = text
        .find(|c: char| c.is_ascii_alphabetic())
        .unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    let value: f64 = digits.trim().parse().map_err(|_| wanted())?;
    let unit = unit.to_ascii_uppercase();
    let base = if unit.ends_with("IB") {
        1024f64
    } else {
        1000f64
    };
    let power = match unit.trim_end_matches("IB").trim_end_matches('B') {
        "" => 0,
        "K" => 1,
        "M" => 2,
        "G" => 3,
        "T" => 4,
        _ => return Err(wanted()),
    };
    let bytes = value * base.powi(power);
    // 0 means the default in the C struct, and 1 none.
    if !(2.0..1e18).contains(&bytes) {
        return Err(wanted());
    }
    Ok(bytes as u64)
}

fn not_empty(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err("it must not be empty".to_owned());
    }
    Ok(text.to_owned())
}

pub fn json_object(text: &str) -> Result<String, String> {
    match serde_json::from_str(text) {
        Ok(serde_json::Value::Object(_)) => Ok(text.to_owned()),
        Ok(_) => Err("it must be a JSON object".to_owned()),
        Err(error) => Err(format!("it is not JSON: {error}")),
    }
}

/// What a result cost, in a line for people.
pub fn cost(result: &mlxrt_result) -> String {
    if result.generated_tokens == 0 {
        return format!("no answer · peak {}", ui::bytes(result.peak_bytes));
    }
    let computed = result.prompt_tokens.saturating_sub(result.cached_tokens);
    let mut parts = Vec::new();
    let cached = match result.cached_tokens {
        0 => String::new(),
        cached => format!(" ({cached} kept)"),
    };
    parts.push(format!(
        "prompt {} tokens{cached}, {:.1} tok/s",
        result.prompt_tokens,
        ui::rate(computed, result.prefill_ns)
    ));
    parts.push(format!(
        "answer {} tokens, {:.1} tok/s",
        result.generated_tokens,
        ui::rate(result.generated_tokens.saturating_sub(1), result.decode_ns)
    ));
    parts.push(format!(
        "first token after {}",
        ui::seconds(result.first_token_ns)
    ));
    parts.push(format!("peak {}", ui::bytes(result.peak_bytes)));
    parts.join(" · ")
}
