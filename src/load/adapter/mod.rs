//! An adapter on disk, whichever program wrote it, as one description of what it changes. No data is read.
//!
//! Three formats, told apart by what `adapter_config.json` holds:
//!
//! - mlx-lm's: `fine_tune_type` or `lora_parameters`; A is `[in, r]`, B `[r, out]`;
//! - PEFT's: `peft_type`; A is `[r, in]`, B `[out, r]`, and the scale is calculated from `lora_alpha`;
//! - the original's: `rank` and `alpha` at the top; A is `[r, in]`, B `[out, r]`.
//!
//! Parts: `settings` reads the config, `names` takes tensor names apart, `pattern` matches PEFT's regular expressions,
//! `entries` joins tensors to entries, `experts` brings PEFT's experts to a model's stacked ones, `fit` holds the entries against
//! a model, `finite` looks for NaN.

mod entries;
mod experts;
mod finite;
mod fit;
mod names;
mod pattern;
mod settings;

#[cfg(test)]
mod tests;

use super::folder::ModelFolder;
use super::json::{parse_object, Object};
use super::limits::Limits;
use super::slot::Slot;
use super::weights::{Catalog, Tensor};
use crate::error::{Error, Result};

pub use experts::{ExpertModule, ExpertPlace, Share};
pub use finite::check_finite;
pub use fit::ModuleShape;
pub(super) use names::bare;
pub use names::Target;
use settings::Settings;

/// Which program's format an adapter has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdapterFormat {
    MlxLm,
    Peft,
    /// The Go library that this one follows.
    Original,
}

impl AdapterFormat {
    pub fn name(self) -> &'static str {
        match self {
            AdapterFormat::MlxLm => "mlx-lm",
            AdapterFormat::Peft => "peft",
            AdapterFormat::Original => "original",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdapterKind {
    /// `y = base(x) + scale * (x A) B`
    Lora,
    /// `y = magnitude / |W + scale * A B| * (x W + scale * (x A) B) + bias`
    Dora,
    /// Weights that replace the model's.
    Full,
}

impl AdapterKind {
    /// As mlx-lm's `fine_tune_type` spells it.
    pub fn name(self) -> &'static str {
        match self {
            AdapterKind::Lora => "lora",
            AdapterKind::Dora => "dora",
            AdapterKind::Full => "full",
        }
    }
}

/// An adapter's settings and where its tensors lie.
#[derive(Debug)]
pub struct AdapterFile {
    pub format: AdapterFormat,
    pub kind: AdapterKind,
    /// The settings' own rank and scale; an entry may differ, by PEFT's patterns. Both absent in a full adapter.
    pub rank: Option<i32>,
    pub scale: Option<f32>,
    /// Of the training; it means nothing to inference.
    pub dropout: f32,
    /// The one open weight file, whose index in [`Catalog::files`] entries have.
    pub catalog: Catalog,
    /// By layer and module.
    pub entries: Vec<Entry>,
    /// mlx-lm's `num_layers`: only the last so many layers may be adapted.
    last_layers: Option<u32>,
    /// Of the PEFT that saved it, as it says.
    peft_version: Option<String>,
}

/// What changes one module.
#[derive(Clone, Debug)]
pub struct Entry {
    pub target: Target,
    pub part: Part,
    /// For `embed_tokens` where it is the output layer, too: whether the output changes along. In mlx-lm it does; in
    /// PEFT only the lookup of the input changes.
    pub with_tied_output: bool,
}

#[derive(Clone, Debug)]
pub enum Part {
    Low(Low),
    Full(Full),
}

/// Two matrices of low rank. With A `[in, r]` and B `[r, out]`, `(x A) B` is what is added, times `scale`. An embedding
/// is a layer from `vocab` to `dims`. Both have a leading dimension of experts where the layer is one of stacked experts.
#[derive(Clone, Debug)]
pub struct Low {
    pub a: Slot,
    pub a_order: Order,
    pub b: Slot,
    pub b_order: Order,
    pub rank: i32,
    /// Finite.
    pub scale: f32,
    /// DoRA's `[out]`. Of an embedding: mlx-lm's is `[vocab]`, see `magnitude_by_column`.
    pub magnitude: Option<Tensor>,
    /// Only of an embedding `[vocab, dims]`: the norms are those of its columns, so the magnitude is `[dims]` (PEFT);
    /// else they are those of its rows (mlx-lm).
    pub magnitude_by_column: bool,
    /// PEFT's of a parameter of all experts, `[experts * r, in]` and `[out, r * experts]`, until
    /// [`AdapterFile::place_experts`] has found the model's modules for it.
    pub of_parameter: bool,
}

/// How A and B are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// A `[.., in, r]`, B `[.., r, out]`.
    Plain,
    /// A `[.., r, in]`, B `[.., out, r]`.
    Transposed,
    /// A `[in, r, experts]`, B `[out, r, experts]`.
    ExpertsLast,
}

impl Order {
    /// The axes in the order that makes it plain; None where it is.
    pub fn axes(self, dims: usize, is_b: bool) -> Option<&'static [i32]> {
        match (self, dims) {
            (Order::Plain, _) => None,
            (Order::Transposed, 3) => Some(&[0, 2, 1]),
            (Order::Transposed, _) => Some(&[1, 0]),
            (Order::ExpertsLast, _) if is_b => Some(&[2, 1, 0]),
            (Order::ExpertsLast, _) => Some(&[2, 0, 1]),
        }
    }
}

/// Parameters in place of the model's own, in the model's own shapes before quantisation.
#[derive(Clone, Debug, PartialEq)]
pub struct Full {
    pub weight: Option<Tensor>,
    pub bias: Option<Tensor>,
    /// PEFT's copy of a base weight below a low-rank part, which it saves with embeddings. Usually it is equal to the
    /// model's own.
    pub base_layer: bool,
}

const CONFIG: &str = "adapter_config.json";

impl AdapterFile {
    /// Reads settings and header. `path` names a folder, one `.safetensors` file with its `adapter_config.json` beside
    /// it, or an adapter in the local Hugging Face cache.
    ///
    /// Errors: `NotFound`, `InvalidArgument` for the path; `BadModel` naming key or tensors for what is malformed;
    /// `Unsupported` for kinds of adapters and settings that are not.
    pub fn open(path: &str) -> Result<AdapterFile> {
        Self::open_within(path, &Limits::DEFAULT)
    }

    fn open_within(path: &str, limits: &Limits) -> Result<AdapterFile> {
        let (folder, file) = ModelFolder::open_adapter(path)?;
        let Some(config) = folder.read(CONFIG, limits.config_bytes)? else {
            return Err(Error::bad_model(format!(
                "{CONFIG}: is missing from the folder {}, so it is no adapter",
                folder.shown()
            )));
        };
        let map = parse_object(CONFIG, &config)?;
        let settings = Settings::read(&Object::new(CONFIG, &map), limits)?;
        let file = match file {
            Some(file) => file,
            None => weight_file(&folder, settings.format)?,
        };
        let catalog = Catalog::open_file(&folder, &file, limits)?;
        let entries = entries::gather(&catalog, &settings, limits)?;
        let low = settings.kind != AdapterKind::Full;
        Ok(AdapterFile {
            format: settings.format,
            kind: settings.kind,
            rank: low.then_some(settings.rank),
            scale: low.then_some(settings.scale),
            dropout: settings.dropout,
            catalog,
            entries,
            last_layers: settings.last_layers,
            peft_version: settings.peft_version().map(str::to_string),
        })
    }
}

/// The format's own file name; where there is none of it, the only safetensors file.
fn weight_file(folder: &ModelFolder, format: AdapterFormat) -> Result<String> {
    let usual = match format {
        AdapterFormat::MlxLm => "adapters.safetensors",
        AdapterFormat::Peft => "adapter_model.safetensors",
        AdapterFormat::Original => "adapter.safetensors",
    };
    let mut found = folder.list("", ".safetensors", 1_000)?;
    if found.iter().any(|name| name == usual) {
        return Ok(usual.to_string());
    }
    let shown = folder.shown();
    match (found.pop(), found.is_empty()) {
        (Some(only), true) => Ok(only),
        (Some(_), false) => Err(Error::bad_model(format!(
            "the folder {shown} holds no {usual}, and more than one other .safetensors file"
        ))),
        (None, _) => {
            for pickled in ["adapter_model.bin", "adapters.npz"] {
                if !folder.list(pickled, pickled, 2)?.is_empty() {
                    return Err(Error::unsupported(format!(
                        "the folder {shown} holds {pickled} and no {usual}: only safetensors files are read"
                    )));
                }
            }
            Err(Error::bad_model(format!(
                "{usual}: is missing from the folder {shown}"
            )))
        }
    }
}

/// Collects what is wrong, so that one error can name it all, and stays short.
#[derive(Default)]
struct Problems {
    shown: Vec<String>,
    more: usize,
}

impl Problems {
    const SHOWN: usize = 8;

    fn add(&mut self, problem: impl FnOnce() -> String) {
        if self.shown.len() < Self::SHOWN {
            self.shown.push(problem());
        } else {
            self.more = self.more.saturating_add(1);
        }
    }

    /// The sentence, after `start`; None when nothing was wrong.
    fn sentence(&self, start: &str) -> Option<String> {
        if self.shown.is_empty() {
            return None;
        }
        let more = match self.more {
            0 => String::new(),
            more => format!("; and {more} more"),
        };
        Some(format!("{start}: {}{more}", self.shown.join("; ")))
    }
}
