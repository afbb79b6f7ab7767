//! How a folder's weights are quantised: the `quantization` block of `config.json`.

use std::collections::BTreeMap;

use serde_json::Value;

use super::json::{quoted, Object};
use crate::dtype::{Mode, Scheme};
use crate::error::{Error, Result};

impl Mode {
    /// The legal bits and group sizes.
    fn legal(self) -> (&'static [i32], &'static [i32]) {
        match self {
            Mode::Affine => (&[2, 3, 4, 5, 6, 8], &[32, 64, 128]),
            Mode::Mxfp4 => (&[4], &[32]),
            Mode::Mxfp8 => (&[8], &[32]),
            Mode::Nvfp4 => (&[4], &[16]),
        }
    }

    /// What MLX takes where a config names only the mode.
    fn default_scheme(self) -> Scheme {
        let (bits, group_size) = match self {
            Mode::Affine => (4, 64),
            Mode::Mxfp4 => (4, 32),
            Mode::Mxfp8 => (8, 32),
            Mode::Nvfp4 => (4, 16),
        };
        Scheme {
            mode: self,
            bits,
            group_size,
        }
    }
}

/// What `config.json` says about quantisation; empty for a folder of plain weights.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Quantization {
    /// The scheme of modules that are not named but come with scales.
    pub default: Option<Scheme>,
    /// Modules that are named, by module path: their scheme, or None for plain weights.
    pub per_module: BTreeMap<String, Option<Scheme>>,
}

impl Quantization {
    /// Reads the block `quantization`, else `quantization_config` (at the top, else under `text_config`).
    ///
    /// Errors: `BadModel` for wrong types and values, `Unsupported` for the formats of other programs.
    pub fn parse(config: &Object) -> Result<Quantization> {
        if config.opt_bool("quantize_activations")? == Some(true) {
            let place = config.place("quantize_activations");
            return Err(Error::unsupported(format!(
                "{place} is true: quantised activations are not supported"
            )));
        }
        if let Some(block) = config.opt_object("quantization")? {
            return parse_block(config, "quantization", &block);
        }
        if let Some(block) = config.opt_object("quantization_config")? {
            return parse_foreign(config, &block);
        }
        match config.opt_object("text_config")? {
            Some(text) => match text.opt_object("quantization_config")? {
                Some(block) => parse_foreign(&text, &block),
                None => Ok(Quantization::default()),
            },
            None => Ok(Quantization::default()),
        }
    }

    /// The scheme of the module at `path`, given whether the weights hold `<path>.scales`.
    pub fn scheme(&self, path: &str, has_scales: bool) -> Option<Scheme> {
        match self.per_module.get(path) {
            Some(named) => *named,
            None => self.default.filter(|_| has_scales),
        }
    }
}

/// `quantization_config` holds the same block when mlx-lm wrote it, and otherwise another program's.
fn parse_foreign(parent: &Object, block: &Object) -> Result<Quantization> {
    for key in ["quant_method", "quant_algo"] {
        if block.has(key) {
            let place = block.place(key);
            let method = quoted(block.str(key)?, 40);
            return Err(Error::unsupported(format!(
                "{place} is {method}, a quantisation that is not supported"
            )));
        }
    }
    let parsed = parse_block(parent, "quantization_config", block)?;
    if parsed == Quantization::default() {
        let place = parent.place("quantization_config");
        return Err(Error::unsupported(format!(
            "{place} names neither bits nor group_size nor a known method"
        )));
    }
    Ok(parsed)
}

fn parse_block(parent: &Object, name: &str, block: &Object) -> Result<Quantization> {
    let default = match SCHEME_KEYS.iter().any(|key| block.has(key)) {
        true => Some(parse_scheme(block)?),
        false => None,
    };
    let mut per_module = BTreeMap::new();
    for path in block.keys().filter(|key| !SCHEME_KEYS.contains(key)) {
        let scheme = match block.get(path) {
            None => continue,
            Some(Value::Bool(false)) => None,
            Some(Value::Bool(true)) if default.is_none() => {
                let places = (block.place(path), parent.place(name));
                return Err(Error::bad_model(format!(
                    "{} is true, but {} gives no bits",
                    places.0, places.1
                )));
            }
            Some(Value::Bool(true)) => default,
            Some(Value::Object(_)) => Some(parse_scheme(&block.object(path)?)?),
            // Other programs leave notes here. A module's path has a dot, or is the head.
            Some(_) if !path.contains('.') && path != "lm_head" => continue,
            Some(_) => return Err(block.wrong(path, "true, false or an object")),
        };
        per_module.insert(path.to_string(), scheme);
    }
    Ok(Quantization {
        default,
        per_module,
    })
}

const SCHEME_KEYS: [&str; 3] = ["mode", "bits", "group_size"];

fn parse_scheme(object: &Object) -> Result<Scheme> {
    let mode = match object.opt_str("mode")? {
        None => Mode::Affine,
        Some(name) => Mode::ALL
            .into_iter()
            .find(|mode| mode.name() == name)
            .ok_or_else(|| {
                let known = Mode::ALL.map(Mode::name).join(", ");
                Error::unsupported(format!(
                    "{} is {}, known are {known}",
                    object.place("mode"),
                    quoted(name, 40)
                ))
            })?,
    };
    let default = mode.default_scheme();
    let (bits, group_sizes) = mode.legal();
    Ok(Scheme {
        mode,
        bits: one_of(object, "bits", bits, mode)?.unwrap_or(default.bits),
        group_size: one_of(object, "group_size", group_sizes, mode)?.unwrap_or(default.group_size),
    })
}

fn one_of(object: &Object, key: &str, legal: &[i32], mode: Mode) -> Result<Option<i32>> {
    let all: Vec<String> = legal.iter().map(i32::to_string).collect();
    let wrong = || {
        object.wrong(
            key,
            &format!("{} in mode {}", all.join(" or "), mode.name()),
        )
    };
    let Some(given) = object
        .opt_i64(key, i64::MIN..=i64::MAX)
        .map_err(|_| wrong())?
    else {
        return Ok(None);
    };
    let found = legal.iter().find(|&&n| i64::from(n) == given);
    found.copied().map(Some).ok_or_else(wrong)
}

#[cfg(test)]
#[path = "quantization_tests.rs"]
mod tests;
