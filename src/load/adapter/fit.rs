//! An adapter held against the model it is to change.

use std::collections::HashMap;

use super::{AdapterFile, Entry, Full, Low, Order, Part, Problems};
use crate::error::{Code, Error, Result};
use crate::words::quoted;

/// What a module of the model is, in numbers of elements before quantisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModuleShape {
    /// Weight `[output, input]`.
    Linear { input: i32, output: i32, bias: bool },
    /// Weight `[vocab, dims]`.
    Embedding { vocab: i32, dims: i32 },
    /// Stacked experts, weight `[experts, output, input]`.
    Experts {
        experts: i32,
        input: i32,
        output: i32,
        bias: bool,
    },
    /// Weight `[dims]`.
    Norm { dims: i32 },
}

impl AdapterFile {
    /// Checks that every entry has its module in the model and fits it. `modules` lists the model's by
    /// [`Target::path`](super::Target::path); a tied output layer is listed, too, as `lm_head`, where it can be adapted
    /// on its own.
    ///
    /// Errors: `Incompatible`, naming the entries.
    pub fn check(&self, modules: &[(String, ModuleShape)]) -> Result<()> {
        let known: HashMap<&str, &ModuleShape> = modules
            .iter()
            .map(|(path, shape)| (path.as_str(), shape))
            .collect();
        let first_layer = self.first_layer(modules);
        let mut problems = Problems::default();
        for entry in &self.entries {
            let path = entry.target.path();
            let problem = match known.get(path.as_str()) {
                None => Some("the model has no such module".to_string()),
                Some(_) if entry.target.layer.is_some_and(|layer| layer < first_layer) => {
                    let count = self.last_layers.unwrap_or_default();
                    Some(format!(
                        "is not in the last {count} layers of the model (\"num_layers\")"
                    ))
                }
                Some(shape) => entry.misfit(shape),
            };
            if let Some(problem) = problem {
                problems.add(|| format!("{} {problem}", quoted(&path, 160)));
            }
        }
        match problems.sentence("the adapter does not fit the model") {
            None => Ok(()),
            Some(sentence) => Err(Error::new(Code::Incompatible, sentence)),
        }
    }

    /// The first layer that `num_layers` lets the adapter change.
    fn first_layer(&self, modules: &[(String, ModuleShape)]) -> u32 {
        let index = |path: &str| {
            let (index, _) = path.strip_prefix("layers.")?.split_once('.')?;
            index.parse::<u32>().ok()
        };
        let last = modules.iter().filter_map(|(path, _)| index(path)).max();
        match (last, self.last_layers) {
            (Some(last), Some(count)) => last.saturating_add(1).saturating_sub(count),
            _ => 0,
        }
    }
}

impl Entry {
    fn misfit(&self, shape: &ModuleShape) -> Option<String> {
        match &self.part {
            Part::Low(low) => low.misfit(shape),
            Part::Full(full) => full.misfit(shape),
        }
    }
}

impl Low {
    fn misfit(&self, shape: &ModuleShape) -> Option<String> {
        let (experts, input, output) = match *shape {
            ModuleShape::Linear { input, output, .. } => (None, input, output),
            ModuleShape::Embedding { vocab, dims } => (None, vocab, dims),
            ModuleShape::Experts {
                experts,
                input,
                output,
                ..
            } => (Some(experts), input, output),
            ModuleShape::Norm { .. } => {
                return Some("is a norm, which has no low-rank part".into());
            }
        };
        // Of rows and columns as computed with, of which `inner` is the one that is not the rank.
        let stored = |order: Order, [rows, columns]: [i32; 2], inner: i32| -> Vec<i32> {
            match order {
                Order::Plain => experts.into_iter().chain([rows, columns]).collect(),
                Order::Transposed => experts.into_iter().chain([columns, rows]).collect(),
                Order::ExpertsLast => [inner, self.rank].into_iter().chain(experts).collect(),
            }
        };
        let magnitude = match *shape {
            ModuleShape::Embedding { vocab, .. } if !self.magnitude_by_column => vocab,
            _ => output,
        };
        let a = stored(self.a_order, [input, self.rank], input);
        let b = stored(self.b_order, [self.rank, output], output);
        other_shape("A", &self.a.shape, &a)
            .or_else(|| other_shape("B", &self.b.shape, &b))
            .or_else(|| other_shape("magnitude", &self.magnitude.as_ref()?.shape, &[magnitude]))
    }
}

impl Full {
    fn misfit(&self, shape: &ModuleShape) -> Option<String> {
        let (weight, bias) = match *shape {
            ModuleShape::Linear {
                input,
                output,
                bias,
            } => (vec![output, input], bias.then(|| vec![output])),
            ModuleShape::Embedding { vocab, dims } => (vec![vocab, dims], None),
            ModuleShape::Experts {
                experts,
                input,
                output,
                bias,
            } => (
                vec![experts, output, input],
                bias.then(|| vec![experts, output]),
            ),
            ModuleShape::Norm { dims } => (vec![dims], None),
        };
        let of_weight = || other_shape("weight", &self.weight.as_ref()?.shape, &weight);
        let of_bias = || match (&self.bias, bias) {
            (Some(_), None) => Some("has no bias in the model".into()),
            (Some(tensor), Some(bias)) => other_shape("bias", &tensor.shape, &bias),
            (None, _) => None,
        };
        of_weight().or_else(of_bias)
    }
}

fn other_shape(what: &str, found: &[i32], expected: &[i32]) -> Option<String> {
    (found != expected).then(|| {
        format!("has {what} of the shape {found:?}, and the model's module needs {expected:?}")
    })
}
