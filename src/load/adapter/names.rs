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
        let rest = match bare(path) {
            // nemotron_h's.
            "embeddings" => "embed_tokens",
            rest => rest,
        };
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

/// A module's path without the prefix that a decoder has in its folder.
pub fn bare(path: &str) -> &str {
    // The longest first: each is the start of no later one.
    let prefixes = [
        "model.language_model.",
        "language_model.model.",
        "language_model.",
        "model.",
        "backbone.",
    ];
    let rest = prefixes.iter().find_map(|prefix| path.strip_prefix(prefix));
    rest.unwrap_or(path)
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
    /// PEFT wraps a module once for each of its parameters that it adapts: the wrappers around this one.
    pub wrappers: usize,
}

/// The name of a tensor of an adapter; None for a name that no such adapter has.
pub(super) fn parse(name: &str, format: AdapterFormat, kind: AdapterKind) -> Option<Name<'_>> {
    let mut wrappers = 0_usize;
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
            let name = without_wrappers(name);
            let (mut path, leaf) = split_peft(name)?;
            while let (Leaf::A | Leaf::B, Some(inner)) = (leaf, path.strip_suffix(".base_layer")) {
                (path, wrappers) = (inner, wrappers.saturating_add(1));
            }
            (path, leaf, name.contains(".lora_embedding_"))
        }
    };
    Some(Name {
        target: Target::parse(path)?,
        leaf,
        path,
        embedding,
        wrappers,
    })
}

/// PEFT's wrapper is in the name as often as the model was wrapped when it was saved: once by PEFT itself, not at all by
/// those who save a bare module's state, twice where an adapted model was adapted again.
fn without_wrappers(mut name: &str) -> &str {
    while let Some(rest) = name.strip_prefix("base_model.model.") {
        name = rest;
    }
    name
}

/// PEFT takes the adapter's own name out when it saves; those who save the whole state leave it in
/// (`lora_A.default.weight`).
fn split_peft(name: &str) -> Option<(&str, Leaf)> {
    // Whether the part is a parameter itself, or a module with a weight.
    const LOW: [(&str, Leaf, bool); 5] = [
        (".lora_A", Leaf::A, false),
        (".lora_B", Leaf::B, false),
        (".lora_embedding_A", Leaf::A, true),
        (".lora_embedding_B", Leaf::B, true),
        (".lora_magnitude_vector", Leaf::Magnitude, true),
    ];
    const WHOLE: [(&str, Leaf); 4] = [
        (".base_layer.weight", Leaf::BaseWeight),
        (".base_layer.bias", Leaf::BaseBias),
        (".weight", Leaf::Weight),
        (".bias", Leaf::Bias),
    ];
    // Nothing, or the adapter's name behind a dot.
    let is_adapter = |rest: &str| match rest.strip_prefix('.') {
        Some(adapter) => !adapter.is_empty() && !adapter.contains('.'),
        None => rest.is_empty(),
    };
    for (part, leaf, parameter) in LOW {
        if let Some((path, rest)) = name.split_once(part) {
            let known = match rest.strip_suffix(".weight") {
                Some(rest) => is_adapter(rest),
                None => parameter && is_adapter(rest),
            };
            return known.then_some((path, leaf));
        }
    }
    let (path, leaf) = split(name, &WHOLE)?;
    match path.split_once(".modules_to_save") {
        Some((path, rest)) => is_adapter(rest).then_some((path, leaf)),
        None => Some((path, leaf)),
    }
}

fn split<'a>(name: &'a str, leaves: &[(&str, Leaf)]) -> Option<(&'a str, Leaf)> {
    leaves
        .iter()
        .find_map(|(suffix, leaf)| name.strip_suffix(suffix).map(|path| (path, *leaf)))
}
