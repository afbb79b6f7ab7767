//! How a folder's weights are quantised. The weights say it themselves, by their shapes and types; the `quantization` block
//! of `config.json` is compared with that, and tells which module is meant to be what.

use std::collections::BTreeMap;

use serde_json::{json, Map, Value};

use super::adapter::bare;
use super::json::{describe, Object};
use super::warnings::Warnings;
use crate::dtype::{Dtype, Mode, Scheme};
use crate::error::{Code, Error, Result};
use crate::words::quoted;

/// How MLX packs in a mode.
pub trait PackingMode {
    /// The legal bits and group sizes.
    fn legal(self) -> (&'static [i32], &'static [i32]);

    /// What MLX takes where a config names only the mode.
    fn default_scheme(self) -> Scheme;
}

impl PackingMode for Mode {
    fn legal(self) -> (&'static [i32], &'static [i32]) {
        match self {
            Mode::Affine => (&[2, 3, 4, 5, 6, 8], &[32, 64, 128]),
            Mode::Mxfp4 => (&[4], &[32]),
            Mode::Mxfp8 => (&[8], &[32]),
            Mode::Nvfp4 => (&[4], &[16]),
        }
    }

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

/// A scheme as folders have it.
pub trait PackedScheme: Sized {
    /// The scheme of a matrix whose rows of `input` elements are packed into `columns` 32-bit words, with `groups` scales.
    /// There is only one: the words give the bits, the scales the group, and the scales' type the mode, since only affine
    /// has scales of the weights' own type and each other mode has one size. Inside, why there is none.
    fn of_shapes(
        input: i32,
        columns: i32,
        groups: i32,
        scales: Dtype,
    ) -> std::result::Result<Self, String>;

    /// `8 bits in groups of 64 (affine)`
    fn shown(self) -> String;

    /// As `config.json` has it.
    fn to_json(self) -> Value;
}

impl PackedScheme for Scheme {
    fn of_shapes(
        input: i32,
        columns: i32,
        groups: i32,
        scales: Dtype,
    ) -> std::result::Result<Scheme, String> {
        let whole = |a: i64, b: i64| {
            let quotient = (a.checked_rem(b)? == 0).then(|| a.checked_div(b))??;
            i32::try_from(quotient).ok()
        };
        let (input, columns) = (i64::from(input), i64::from(columns));
        let group_size = whole(input, groups.into());
        let bits = whole(columns.saturating_mul(32), input);
        let modes: &[Mode] = match scales {
            Dtype::U8 => &[Mode::Mxfp4, Mode::Mxfp8, Mode::Nvfp4],
            _ => &[Mode::Affine],
        };
        let scheme = bits.zip(group_size).and_then(|(bits, group_size)| {
            let has = |mode: &&Mode| {
                let (all_bits, group_sizes) = mode.legal();
                all_bits.contains(&bits) && group_sizes.contains(&group_size)
            };
            let &mode = modes.iter().find(has)?;
            Some(Scheme {
                mode,
                bits,
                group_size,
            })
        });
        scheme.ok_or_else(|| {
            format!(
                "has rows of {input} elements in {columns} words with {groups} scales of type {}: no quantisation that MLX has",
                scales.name()
            )
        })
    }

    fn shown(self) -> String {
        let (bits, group_size) = (self.bits, self.group_size);
        format!(
            "{bits} bits in groups of {group_size} ({})",
            self.mode.name()
        )
    }

    fn to_json(self) -> Value {
        json!({ "group_size": self.group_size, "bits": self.bits, "mode": self.mode.name() })
    }
}

/// What `config.json` says about quantisation; empty for a folder of plain weights.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Quantization {
    /// The scheme of modules that are not named but come with scales.
    pub default: Option<Scheme>,
    /// Modules that are named, by module path without a decoder's prefix: their scheme, or None for plain weights.
    pub per_module: BTreeMap<String, Option<Scheme>>,
    /// What is said of another program's method.
    pub foreign: Option<Foreign>,
}

/// Another program's method, as far as the weights do not tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Foreign {
    /// Where it is said, and what.
    said: String,
    pub method: String,
    /// What GPTQ's zeros are stored less: 1 in its first format.
    pub zeros_less: u32,
    /// The inputs may be in an order of their own.
    pub act_order: bool,
    /// Rows and columns of an 8-bit matrix that have one scale.
    pub block: [i32; 2],
}

impl Foreign {
    /// Blocks that nothing is said of: DeepSeek's, which others took over.
    pub const BLOCK: [i32; 2] = [128, 128];

    /// Methods whose weights are read, where they are packed in a way that is known.
    fn is_read(&self) -> bool {
        const READ: [&str; 8] = [
            "awq",
            "gptq",
            "fp8",
            "compressed-tensors",
            "mxfp4",
            "mxfp8",
            "nvfp4",
            "modelopt",
        ];
        READ.contains(&self.method.as_str())
    }

    fn explain(&self, error: Error) -> Error {
        match error.code {
            Code::BadModel | Code::Unsupported => Error::unsupported(format!(
                "{}, a quantisation that is not supported: {}",
                self.said, error.message
            )),
            _ => error,
        }
    }
}

impl Quantization {
    /// Reads the block `quantization`, else `quantization_config` (at the top, else under `text_config`). Nothing in it is
    /// needed, so odd values are warnings, except where weights could mean something else than their shapes say.
    ///
    /// Errors: `Unsupported` for quantised activations and unknown modes.
    pub fn parse(config: &Object, warnings: &mut Warnings) -> Result<Quantization> {
        if config.opt_bool("quantize_activations")? == Some(true) {
            let place = config.place("quantize_activations");
            return Err(Error::unsupported(format!(
                "{place} is true: quantised activations are not supported"
            )));
        }
        let text = warnings.forgive(config.opt_object("text_config"))?;
        for parent in [Some(config), text.as_ref()].into_iter().flatten() {
            for key in ["quantization", "quantization_config"] {
                if let Some(block) = warnings.forgive(parent.opt_object(key))? {
                    return parse_block(&block, warnings);
                }
            }
        }
        Ok(Quantization::default())
    }

    /// What is said of the module at `path`, given whether the weights hold `<path>.scales`; None for plain weights.
    pub fn said(&self, path: &str, has_scales: bool) -> Option<Scheme> {
        match self.per_module.get(bare(path)) {
            Some(named) => *named,
            None => self.default.filter(|_| has_scales),
        }
    }

    /// An error about weights, where the reason may be that another program packed them.
    pub fn explain(&self, error: Error) -> Error {
        match &self.foreign {
            Some(foreign) if !foreign.is_read() => foreign.explain(error),
            _ => error,
        }
    }

    /// The error of a weight that is not there as any that is read here.
    pub fn not_read(&self, error: Error) -> Error {
        match &self.foreign {
            Some(foreign) if foreign.is_read() => foreign.explain(error),
            _ => error,
        }
    }

    /// The block for these modules, by path, as mlx-lm writes it: the most frequent scheme, and the modules that differ.
    pub fn block(modules: &[(String, Scheme)]) -> Option<Map<String, Value>> {
        let most = Self::most_frequent(modules.iter().map(|(_, scheme)| *scheme))?;
        let Value::Object(mut block) = most.to_json() else {
            return None;
        };
        for (path, scheme) in modules.iter().filter(|(_, scheme)| *scheme != most) {
            block.insert(path.clone(), scheme.to_json());
        }
        Some(block)
    }

    pub fn most_frequent(schemes: impl Iterator<Item = Scheme>) -> Option<Scheme> {
        let mut counts: Vec<(Scheme, usize)> = Vec::new();
        for scheme in schemes {
            match counts.iter_mut().find(|(known, _)| *known == scheme) {
                Some((_, count)) => *count = count.saturating_add(1),
                None => counts.push((scheme, 1)),
            }
        }
        // Of equals the first.
        let most = counts.iter().map(|(_, count)| *count).max()?;
        let found = counts.iter().find(|(_, count)| *count == most)?;
        Some(found.0)
    }
}

fn parse_block(block: &Object, warnings: &mut Warnings) -> Result<Quantization> {
    let foreign = foreign(block, warnings)?;
    let default = match SCHEME_KEYS.iter().any(|key| block.has(key)) && foreign.is_none() {
        true => parse_scheme(block, warnings)?,
        false => None,
    };
    let mut per_module = BTreeMap::new();
    for path in block.keys().filter(|key| !SCHEME_KEYS.contains(key)) {
        let scheme = match block.get(path) {
            Some(Value::Bool(false)) => None,
            Some(Value::Bool(true)) if default.is_some() => default,
            Some(Value::Object(_)) if is_module(path) => {
                match parse_scheme(&block.object(path)?, warnings)? {
                    None => continue,
                    scheme => scheme,
                }
            }
            Some(value) if is_module(path) => {
                warnings.add(format!(
                    "{} is {}, which says nothing; it is ignored",
                    block.place(path),
                    describe(value)
                ));
                continue;
            }
            // Other programs leave notes here.
            _ => continue,
        };
        per_module.insert(bare(path).to_string(), scheme);
    }
    Ok(Quantization {
        default,
        per_module,
        foreign,
    })
}

/// A module's path has a dot, or is one of these.
fn is_module(path: &str) -> bool {
    path.contains('.') || matches!(path, "lm_head" | "embed_tokens")
}

/// What the block says of another program's method. mlx-lm reads the weights of such a folder as they are, too, where it
/// does not know the method: merged models keep a block of the base that they were trained on.
fn foreign(block: &Object, warnings: &mut Warnings) -> Result<Option<Foreign>> {
    for key in ["quant_method", "quant_algo"] {
        if let Some(method) = warnings.forgive(block.opt_str(key))? {
            let said = format!("{} is {}", block.place(key), quoted(method, 40));
            if method == "bitnet" {
                // Its weights may be plain, and are rounded when they are used.
                return Err(Error::unsupported(format!(
                    "{said}, a quantisation that is not supported"
                )));
            }
            return described(block, said, method, warnings).map(Some);
        }
    }
    Ok(None)
}

fn described(
    block: &Object,
    said: String,
    method: &str,
    warnings: &mut Warnings,
) -> Result<Foreign> {
    let format = warnings.forgive(block.opt_str("checkpoint_format"))?;
    let version = match method {
        "awq" => warnings.forgive(block.opt_str("version"))?,
        _ => None,
    };
    if let Some(version) = version.filter(|version| !version.eq_ignore_ascii_case("gemm")) {
        return Err(Error::unsupported(format!(
            "{} is {}: of AWQ's formats \"gemm\" is supported",
            block.place("version"),
            quoted(version, 40)
        )));
    }
    let sizes = warnings.forgive(block.opt_array("weight_block_size"))?;
    let size = |value: &Value| value.as_i64().and_then(|n| i32::try_from(n).ok());
    let block_size = match sizes {
        Some([rows, columns]) => size(rows).zip(size(columns)),
        _ => None,
    };
    let block_size = block_size.map(|(rows, columns)| [rows, columns]);
    Ok(Foreign {
        said,
        method: match method {
            "FP8" | "NVFP4" | "MXFP8" | "MXFP4" => method.to_lowercase(),
            method => method.to_owned(),
        },
        zeros_less: u32::from(format != Some("gptq_v2")),
        act_order: warnings.forgive(block.opt_bool("desc_act"))? == Some(true),
        block: block_size
            .filter(|sizes| sizes.iter().all(|&n| n > 0))
            .unwrap_or(Foreign::BLOCK),
    })
}

const SCHEME_KEYS: [&str; 3] = ["mode", "bits", "group_size"];

/// None, with a warning, where it is no scheme.
fn parse_scheme(object: &Object, warnings: &mut Warnings) -> Result<Option<Scheme>> {
    let mode = match warnings.forgive(object.opt_str("mode"))? {
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
    let mut number = |key, legal, default| -> Result<Option<i32>> {
        let given = one_of(object, key, legal, mode).map(|given| Some(given.unwrap_or(default)));
        warnings.forgive(given)
    };
    let bits = number("bits", bits, default.bits)?;
    let group_size = number("group_size", group_sizes, default.group_size)?;
    Ok(bits.zip(group_size).map(|(bits, group_size)| Scheme {
        mode,
        bits,
        group_size,
    }))
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
