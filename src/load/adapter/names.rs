//! Tensor names, taken apart into the module they belong to and what they are of it.

use super::{AdapterFormat, AdapterKind};

/// A module of the decoder, whatever prefix its weights have in a folder.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    /// None for `embed_tokens`, `norm` and `lm_head`.
    pub layer: Option<u32>,
    /// In mlx-lm's names, below its layer: `self_attn.q_proj`, `mlp.gate_proj`, `input_layernorm`.
    pub module: String,
}

impl Target {
    /// `layers.3.self_attn.q_proj`, `embed_tokens`, `lm_head`.
    pub fn path(&self) -> String {
        match self.layer {
            Some(layer) => format!("layers.{layer}.{}", self.module),
            None => self.module.clone(),
        }
    }

    /// Reads a module's path with any of the prefixes that decoders have.
    pub(super) fn parse(path: &str) -> Option<Target> {
        // The longest first: each is the start of no later one.
        let prefixes = [
            "model.language_model.",
            "language_model.model.",
            "language_model.",
            "model.",
        ];
        let rest = prefixes
            .iter()
            .find_map(|prefix| path.strip_prefix(prefix))
            .unwrap_or(path);
        if matches!(rest, "embed_tokens" | "norm" | "lm_head") {
            return Some(Target {
                layer: None,
                module: rest.to_string(),
            });
        }
        let (index, module) = rest.strip_prefix("layers.")?.split_once('.')?;
        // As Python prints it: two spellings of one layer would be one layer twice.
        let plain = index == "0" || !index.starts_with('0');
        let digits = index.bytes().all(|b| b.is_ascii_digit());
        if !plain || !digits || module.split('.').any(str::is_empty) {
            return None;
        }
        Some(Target {
            layer: Some(index.parse().ok()?),
            module: module.to_string(),
        })
    }
}

/// What of a module a tensor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leaf {
    A,
    B,
    Magnitude,
    Weight,
    Bias,
    /// PEFT's `base_layer.weight` below an adapted layer.
    BaseWeight,
    BaseBias,
}

/// A name taken apart.
#[derive(Debug, PartialEq)]
pub(super) struct Name<'a> {
    pub target: Target,
    pub leaf: Leaf,
    /// The module's path as PEFT sees it, which its patterns and targets are matched with.
    pub path: &'a str,
    /// PEFT names the halves of an embedding in its own way.
    pub embedding: bool,
}

/// The name of a tensor of an adapter; None for a name that no such adapter has.
pub(super) fn parse(name: &str, format: AdapterFormat, kind: AdapterKind) -> Option<Name<'_>> {
    let (path, leaf, embedding) = match format {
        AdapterFormat::MlxLm if kind == AdapterKind::Full => {
            let (path, leaf) = split(name, &[(".weight", Leaf::Weight), (".bias", Leaf::Bias)])?;
            (path, leaf, false)
        }
        AdapterFormat::MlxLm | AdapterFormat::Original => {
            let leaves = [
                (".lora_a", Leaf::A),
                (".lora_b", Leaf::B),
                (".m", Leaf::Magnitude),
            ];
            let (path, leaf) = split(name, &leaves)?;
            (path, leaf, false)
        }
        AdapterFormat::Peft => {
            let name = name.strip_prefix("base_model.model.")?;
            let (path, leaf) = split(name, &PEFT_LEAVES)?;
            (path, leaf, name.contains(".lora_embedding_"))
        }
    };
    Some(Name {
        target: Target::parse(path)?,
        leaf,
        path,
        embedding,
    })
}

/// The longer of two that end alike comes first.
const PEFT_LEAVES: [(&str, Leaf); 12] = [
    (".lora_A.weight", Leaf::A),
    (".lora_B.weight", Leaf::B),
    (".lora_embedding_A", Leaf::A),
    (".lora_embedding_B", Leaf::B),
    (".lora_magnitude_vector.weight", Leaf::Magnitude),
    (".lora_magnitude_vector", Leaf::Magnitude),
    (".modules_to_save.weight", Leaf::Weight),
    (".modules_to_save.bias", Leaf::Bias),
    (".base_layer.weight", Leaf::BaseWeight),
    (".base_layer.bias", Leaf::BaseBias),
    (".weight", Leaf::Weight),
    (".bias", Leaf::Bias),
];

fn split<'a>(name: &'a str, leaves: &[(&str, Leaf)]) -> Option<(&'a str, Leaf)> {
    leaves
        .iter()
        .find_map(|(suffix, leaf)| name.strip_suffix(suffix).map(|path| (path, *leaf)))
}
