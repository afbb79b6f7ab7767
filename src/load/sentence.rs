//! What a folder says of embeddings, as sentence-transformers writes it: `modules.json`, the config of each module in a folder of
//! its own, and prompts.

use serde_json::Value;

use super::folder::ModelFolder;
use super::json::{parse_list, parse_object, Object};
use super::limits::Limits;
use crate::error::{Error, Result};
use crate::words::quoted;

const MODULES: &str = "modules.json";
const PROMPTS: &str = "config_sentence_transformers.json";
const TRANSFORMER: &str = "sentence_bert_config.json";
/// In the folder of a module.
const CONFIG: &str = "config.json";
/// More modules have no use.
const MOST_MODULES: usize = 16;
const MOST_PROMPTS: usize = 1024;

/// Beside the model itself, the files that say so.
pub const SENTENCE_FILES: [&str; 3] = [MODULES, PROMPTS, TRANSFORMER];

/// How texts become embeddings.
#[derive(Clone, Debug, PartialEq)]
pub struct Sentence {
    pub pooling: SentencePooling,
    /// What stands in front of every text.
    pub prompt: Option<String>,
    /// Texts are made lower case before anything else.
    pub lower: bool,
    pub dense: Vec<DenseModule>,
    pub normalize: bool,
    /// The modules' folders.
    pub folders: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SentencePooling {
    Mean,
    Last,
    Cls,
}

impl SentencePooling {
    pub fn name(self) -> &'static str {
        match self {
            SentencePooling::Mean => "mean",
            SentencePooling::Last => "last",
            SentencePooling::Cls => "cls",
        }
    }
}

/// A linear layer behind the pooling.
#[derive(Clone, Debug, PartialEq)]
pub struct DenseModule {
    /// Which holds its weights.
    pub folder: String,
    pub input: u32,
    pub output: u32,
    pub bias: bool,
    pub tanh: bool,
}

/// What a folder says; None: nothing.
///
/// Errors: `BadModel` and `Unsupported`, naming the file and the key.
pub fn read(folder: &ModelFolder, hidden: u32) -> Result<Option<Sentence>> {
    let most = Limits::DEFAULT.config_bytes;
    let Some(bytes) = folder.read(MODULES, most)? else {
        return Ok(None);
    };
    let list = parse_list(MODULES, &bytes)?;
    if list.len() > MOST_MODULES {
        return Err(Error::bad_model(format!(
            "{MODULES}: has {} modules, at most {MOST_MODULES} are accepted",
            list.len()
        )));
    }
    let mut pooling = None;
    let mut sentence = Sentence {
        pooling: SentencePooling::Mean,
        prompt: prompt(folder)?,
        lower: lower(folder)?,
        dense: Vec::new(),
        normalize: false,
        folders: Vec::new(),
    };
    let mut width = hidden;
    for (index, module) in list.iter().enumerate() {
        let Value::Object(module) = module else {
            let message = format!("{MODULES}: module {index} must be an object");
            return Err(Error::bad_model(message));
        };
        let module = Object::new(MODULES, module);
        let (kind, path) = (module.str("type")?, module.str("path")?);
        let out_of_place = |what: &str| {
            Error::unsupported(format!(
                "{MODULES}: module {index} is {}, and is supported {what} only",
                quoted(kind, 120)
            ))
        };
        match kind.rsplit('.').next().unwrap_or_default() {
            "Transformer" if index > 0 => return Err(out_of_place("as the first")),
            "Transformer" if path.is_empty() => {}
            "Transformer" => {
                return Err(Error::unsupported(format!(
                    "{MODULES}: the model lies in the folder {}; give that one",
                    quoted(path, 80)
                )))
            }
            _ if index == 0 => {
                return Err(Error::unsupported(format!(
                    "{MODULES}: the first module is {}; supported is Transformer",
                    quoted(kind, 120)
                )))
            }
            "Pooling" if pooling.is_none() && sentence.dense.is_empty() => {
                pooling = Some(read_pooling(folder, path, sentence.prompt.is_some())?);
                sentence.folders.push(path.to_owned());
            }
            "Dense" if pooling.is_some() && !sentence.normalize => {
                let dense = read_dense(folder, path, width)?;
                width = dense.output;
                sentence.dense.push(dense);
                sentence.folders.push(path.to_owned());
            }
            "Normalize" if pooling.is_some() => sentence.normalize = true,
            "Pooling" => return Err(out_of_place("once, behind the model")),
            "Dense" => return Err(out_of_place("between Pooling and Normalize")),
            "Normalize" => return Err(out_of_place("behind Pooling")),
            _ => {
                return Err(Error::unsupported(format!(
                    "{MODULES}: module {index} is {}; supported are Transformer, Pooling, Dense and Normalize",
                    quoted(kind, 120)
                )))
            }
        }
    }
    let missing = || Error::unsupported(format!("{MODULES}: has no Pooling"));
    sentence.pooling = pooling.ok_or_else(missing)?;
    Ok(Some(sentence))
}

/// The config of a module, and what to call it.
fn module_config(
    folder: &ModelFolder,
    path: &str,
) -> Result<(String, serde_json::Map<String, Value>)> {
    let name = format!("{path}/{CONFIG}");
    let own = folder.subfolder(path)?;
    let own = own.ok_or_else(|| folder.missing(path))?;
    let bytes = own.read(CONFIG, Limits::DEFAULT.config_bytes)?;
    let bytes = bytes.ok_or_else(|| folder.missing(&name))?;
    let map = parse_object(&name, &bytes)?;
    Ok((name, map))
}

fn read_pooling(folder: &ModelFolder, path: &str, prompt: bool) -> Result<SentencePooling> {
    let (name, map) = module_config(folder, path)?;
    let config = Object::new(&name, &map);
    if prompt && config.opt_bool("include_prompt")? == Some(false) {
        return Err(Error::unsupported(format!(
            "{} is false, and the folder has a default prompt: that is not supported",
            config.place("include_prompt")
        )));
    }
    let unknown = |key: &str, mode: &str| {
        Error::unsupported(format!(
            "{} says {}; supported are mean, lasttoken and cls, one of them",
            config.place(key),
            quoted(mode, 80)
        ))
    };
    let of = |key: &str, mode: &str| match mode {
        "mean" => Ok(SentencePooling::Mean),
        "lasttoken" => Ok(SentencePooling::Last),
        "cls" => Ok(SentencePooling::Cls),
        other => Err(unknown(key, other)),
    };
    const MODE: &str = "pooling_mode";
    match config.get(MODE) {
        Some(Value::String(mode)) => return of(MODE, mode),
        Some(_) => {
            let modes = config.opt_strs(MODE, MOST_MODULES)?.unwrap_or_default();
            return match modes.as_slice() {
                [mode] => of(MODE, mode),
                modes => Err(unknown(MODE, &modes.join(", "))),
            };
        }
        None => {}
    }
    let mut found = Vec::new();
    for (key, mode) in [
        ("pooling_mode_cls_token", "cls"),
        ("pooling_mode_max_tokens", "max"),
        ("pooling_mode_mean_tokens", "mean"),
        ("pooling_mode_mean_sqrt_len_tokens", "mean_sqrt_len_tokens"),
        ("pooling_mode_weightedmean_tokens", "weightedmean"),
        ("pooling_mode_lasttoken", "lasttoken"),
    ] {
        if config.opt_bool(key)?.unwrap_or(false) {
            found.push((key, mode));
        }
    }
    match found.as_slice() {
        [] => Ok(SentencePooling::Mean),
        [(key, mode)] => of(key, mode),
        [(key, _), ..] => {
            let modes: Vec<_> = found.iter().map(|(_, mode)| *mode).collect();
            Err(unknown(key, &modes.join(", ")))
        }
    }
}

fn read_dense(folder: &ModelFolder, path: &str, width: u32) -> Result<DenseModule> {
    let (name, map) = module_config(folder, path)?;
    let config = Object::new(&name, &map);
    let most = Limits::DEFAULT.intermediate;
    let input = config.u32("in_features", 1..=most)?;
    if input != width {
        let must_be = format!("{width}, the numbers that come out of the module before");
        return Err(config.wrong("in_features", &must_be));
    }
    if config.opt_bool("use_residual")?.unwrap_or(false) {
        return Err(Error::unsupported(format!(
            "{} is true, which is not supported",
            config.place("use_residual")
        )));
    }
    for key in ["module_input_name", "module_output_name"] {
        if let Some(other) = config.opt_str(key)? {
            if other != "sentence_embedding" {
                return Err(Error::unsupported(format!(
                    "{} is {}; supported is sentence_embedding",
                    config.place(key),
                    quoted(other, 80)
                )));
            }
        }
    }
    const ACTIVATION: &str = "activation_function";
    let function = config.opt_str(ACTIVATION)?.unwrap_or("Tanh");
    let tanh = match function.rsplit('.').next().unwrap_or_default() {
        "Tanh" => true,
        "Identity" => false,
        _ => {
            return Err(Error::unsupported(format!(
                "{} is {}; supported are Identity and Tanh",
                config.place(ACTIVATION),
                quoted(function, 80)
            )))
        }
    };
    Ok(DenseModule {
        folder: path.to_owned(),
        input,
        output: config.u32("out_features", 1..=most)?,
        bias: config.opt_bool("bias")?.unwrap_or(true),
        tanh,
    })
}

/// The prompt that stands in front of every text unless another is named.
fn prompt(folder: &ModelFolder) -> Result<Option<String>> {
    let Some(bytes) = folder.read(PROMPTS, Limits::DEFAULT.config_bytes)? else {
        return Ok(None);
    };
    let map = parse_object(PROMPTS, &bytes)?;
    let config = Object::new(PROMPTS, &map);
    let Some(name) = config.opt_str("default_prompt_name")? else {
        return Ok(None);
    };
    let prompts = config.opt_object("prompts")?;
    let prompts = prompts.filter(|prompts| prompts.keys().count() <= MOST_PROMPTS);
    let named = prompts.as_ref().map(|prompts| prompts.opt_str(name));
    match named.transpose()?.flatten() {
        Some(prompt) => Ok(Some(prompt.to_owned()).filter(|prompt| !prompt.is_empty())),
        None => Err(Error::bad_model(format!(
            "{} is {}, and \"prompts\" has none of that name",
            config.place("default_prompt_name"),
            quoted(name, 80)
        ))),
    }
}

fn lower(folder: &ModelFolder) -> Result<bool> {
    let Some(bytes) = folder.read(TRANSFORMER, Limits::DEFAULT.config_bytes)? else {
        return Ok(false);
    };
    let map = parse_object(TRANSFORMER, &bytes)?;
    let lower = Object::new(TRANSFORMER, &map).opt_bool("do_lower_case")?;
    Ok(lower.unwrap_or(false))
}

#[cfg(test)]
#[path = "sentence_tests.rs"]
mod tests;
