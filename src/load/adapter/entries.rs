//! The tensors of an adapter, joined to one entry for each module that they change.

use std::collections::BTreeMap;

use super::super::limits::Limits;
use super::super::slot::Slot;
use super::super::weights::{Catalog, Tensor};
use super::names::{self, Leaf, Target};
use super::pattern::Budget;
use super::settings::{Settings, WEIGHT};
use super::{AdapterFormat, AdapterKind, Entry, Full, Low, Order, Part, Problems};
use crate::error::{Error, Result};
use crate::words::quoted;

/// The tensors of one module.
#[derive(Default)]
struct Group<'a> {
    a: Option<&'a Tensor>,
    b: Option<&'a Tensor>,
    magnitude: Option<&'a Tensor>,
    weight: Option<&'a Tensor>,
    bias: Option<&'a Tensor>,
    base_weight: Option<&'a Tensor>,
    base_bias: Option<&'a Tensor>,
    path: &'a str,
    embedding: bool,
    /// What PEFT adapted of the module, where that is a parameter.
    parameter: Option<&'static str>,
}

/// Joins and checks all tensors; what is wrong with any of them is one `BadModel` error that names them.
pub(super) fn gather(
    catalog: &Catalog,
    settings: &Settings,
    limits: &Limits,
) -> Result<Vec<Entry>> {
    let mut problems = Problems::default();
    let mut groups: BTreeMap<Target, Group> = BTreeMap::new();
    // Of each module its adapted parameters, in the order in which PEFT wrapped them.
    let mut adapted: BTreeMap<&str, Vec<&'static str>> = BTreeMap::new();
    for tensor in catalog.tensors.values() {
        let shown = || quoted(&tensor.name, 160);
        let Some(name) = names::parse(&tensor.name, settings.format, settings.kind) else {
            problems.add(|| {
                let (format, kind) = (settings.format.name(), settings.kind.name());
                format!("{} is no tensor of a {kind} adapter of {format}", shown())
            });
            continue;
        };
        if !tensor.dtype.is_float() {
            let dtype = tensor.kind();
            problems.add(|| format!("{} is of type {dtype}, not F32, F16 or BF16", shown()));
        }
        let low = matches!(name.leaf, Leaf::A | Leaf::B | Leaf::Magnitude);
        let parameters = adapted.entry(name.path);
        let parameters = parameters.or_insert_with(|| settings.parameters_of(name.path));
        let inner = parameters.len().checked_sub(1);
        let parameter = inner.and_then(|inner| parameters.get(inner.checked_sub(name.wrappers)?));
        if name.wrappers > 0 && parameter.is_none() {
            let (wrapped, named) = (name.wrappers.saturating_add(1), parameters.len());
            problems.add(|| {
                format!(
                    "{} is of the {wrapped} wrappers of a module, of which \"target_parameters\" of the config names {named} parameters",
                    shown()
                )
            });
            continue;
        }
        let parameter = parameter.copied().filter(|_| low);
        let mut target = name.target;
        if let Some(experts) = parameter.filter(|name| *name != WEIGHT) {
            target.module = format!("{}.{experts}", target.module);
        }
        let group = groups.entry(target).or_default();
        group.parameter = group.parameter.or(parameter);
        group.path = name.path;
        group.embedding |= name.embedding;
        let slot = group.slot(name.leaf);
        match slot {
            None => *slot = Some(tensor),
            Some(other) => problems.add(|| {
                let other = quoted(&other.name, 160);
                format!("{other} and {} are the same part of one module", shown())
            }),
        }
    }

    let mut entries = Vec::new();
    let mut budget = Budget::new(limits);
    for (target, group) in &groups {
        group.entries(target, settings, &mut budget, &mut problems, &mut entries)?;
    }
    let file = catalog.files.first().map_or("", |file| file.name.as_str());
    if let Some(sentence) = problems.sentence(file) {
        return Err(Error::bad_model(sentence));
    }
    if entries.is_empty() {
        return Err(Error::bad_model(format!("{file}: holds no tensors")));
    }
    Ok(entries)
}

impl<'a> Group<'a> {
    fn slot(&mut self, leaf: Leaf) -> &mut Option<&'a Tensor> {
        match leaf {
            Leaf::A => &mut self.a,
            Leaf::B => &mut self.b,
            Leaf::Magnitude => &mut self.magnitude,
            Leaf::Weight => &mut self.weight,
            Leaf::Bias => &mut self.bias,
            Leaf::BaseWeight => &mut self.base_weight,
            Leaf::BaseBias => &mut self.base_bias,
        }
    }

    fn entries(
        &self,
        target: &Target,
        settings: &Settings,
        budget: &mut Budget,
        problems: &mut Problems,
        entries: &mut Vec<Entry>,
    ) -> Result<()> {
        let shown = || quoted(&target.path(), 160);
        let has_low = self.a.is_some() || self.b.is_some() || self.magnitude.is_some();
        let has_full = self.weight.is_some() || self.bias.is_some();
        let has_base = self.base_weight.is_some() || self.base_bias.is_some();
        if has_full && (has_low || has_base) {
            problems.add(|| format!("{} is both adapted and replaced", shown()));
            return Ok(());
        }
        let full = |weight: Option<&Tensor>, bias: Option<&Tensor>, base_layer| Entry {
            target: target.clone(),
            part: Part::Full(Full {
                weight: weight.cloned(),
                bias: bias.cloned(),
                base_layer,
            }),
            with_tied_output: base_layer || settings.format != AdapterFormat::Peft,
        };
        if has_full {
            if settings.excludes_full(target, self.path) {
                problems.add(|| format!("{} is not in \"modules_to_save\" of the config", shown()));
            }
            entries.push(full(self.weight, self.bias, false));
        }
        if has_base {
            entries.push(full(self.base_weight, self.base_bias, true));
        }
        if !has_low {
            if has_base {
                problems.add(|| format!("{} has a base layer without lora_A and lora_B", shown()));
            }
            return Ok(());
        }
        let named = self.parameter.is_some();
        if let (false, Some(why)) = (named, settings.excludes_low(target, self.path, budget)?) {
            problems.add(|| format!("{} {why}", shown()));
        }
        match self.low(settings, budget)? {
            Ok(low) => entries.push(Entry {
                target: target.clone(),
                part: Part::Low(low),
                with_tied_output: settings.format != AdapterFormat::Peft,
            }),
            Err(problem) => problems.add(|| format!("{} {problem}", shown())),
        }
        Ok(())
    }

    /// The low-rank part; inside, what is wrong with it.
    fn low(
        &self,
        settings: &Settings,
        budget: &mut Budget,
    ) -> Result<std::result::Result<Low, String>> {
        let (a, b) = match (self.a, self.b) {
            (Some(a), Some(b)) => (a, b),
            (Some(_), None) => return Ok(Err("has A without B".into())),
            (None, Some(_)) => return Ok(Err("has B without A".into())),
            (None, None) => return Ok(Err("has a magnitude without A and B".into())),
        };
        let stacked = match (a.shape.len(), b.shape.len()) {
            (2, 2) => false,
            // Only mlx-lm has stacked experts, and no DoRA of them.
            (3, 3) if settings.format == AdapterFormat::MlxLm => true,
            _ if self.of_experts() => false,
            _ => {
                let (a, b) = (&a.shape, &b.shape);
                let problem = format!("has A of the shape {a:?} and B of {b:?}, not two matrices");
                return Ok(Err(problem));
            }
        };
        let dora = settings.kind == AdapterKind::Dora;
        match self.magnitude {
            Some(_) if !dora => {
                return Ok(Err(
                    "has a magnitude, but the config is of plain LoRA".into()
                ))
            }
            None if dora => return Ok(Err("has no magnitude, but the config is of DoRA".into())),
            Some(_) if stacked => return Ok(Err("is DoRA of stacked experts".into())),
            _ => {}
        }
        let (rank, scale) = match self.parameter {
            None => settings.of_module(self.path, budget)?,
            Some(name) => settings.of_module(&format!("{}.{name}", self.path), budget)?,
        };
        if self.of_experts() {
            return Ok(self.of_all_experts(a, b, rank, scale));
        }
        let is = |dim: Option<&i32>| dim == Some(&rank);
        // The rank is the last but one dimension of A and the last of B when they are stored transposed.
        let transposed = is(a.shape.iter().nth_back(1)) && is(b.shape.last());
        let plain = is(a.shape.last()) && is(b.shape.iter().nth_back(1));
        let transposed = match settings.format {
            AdapterFormat::MlxLm if stacked => transposed.then_some(true),
            AdapterFormat::MlxLm => plain.then_some(false),
            AdapterFormat::Peft => transposed.then_some(true),
            // Its later versions also take mlx-lm's orientation.
            AdapterFormat::Original => match (transposed, plain) {
                (true, _) => Some(true),
                (false, true) => Some(false),
                (false, false) => None,
            },
        };
        let Some(transposed) = transposed else {
            let (a, b) = (&a.shape, &b.shape);
            let problem =
                format!("has A of the shape {a:?} and B of {b:?}, and the config's rank is {rank}");
            return Ok(Err(problem));
        };
        let order = match transposed {
            true => Order::Transposed,
            false => Order::Plain,
        };
        Ok(Ok(Low {
            a: Slot::whole(a),
            a_order: order,
            b: Slot::whole(b),
            b_order: order,
            rank,
            scale,
            magnitude: self.magnitude.cloned(),
            magnitude_by_column: self.embedding && settings.format == AdapterFormat::Peft,
            of_parameter: false,
        }))
    }

    fn of_experts(&self) -> bool {
        self.parameter.is_some_and(|name| name != WEIGHT)
    }

    /// PEFT's of a parameter of all experts: A `[experts * r, in]`, B `[out, r * experts]`.
    fn of_all_experts(
        &self,
        a: &Tensor,
        b: &Tensor,
        rank: i32,
        scale: f32,
    ) -> std::result::Result<Low, String> {
        let rows = |of: Option<&i32>| {
            of.copied()
                .filter(|&rows| rows.checked_rem(rank) == Some(0))
        };
        let both = match (a.shape.as_slice(), b.shape.as_slice()) {
            ([all, _], [_, again]) => rows(Some(all)) == Some(*again),
            _ => false,
        };
        if !both {
            let (a, b) = (&a.shape, &b.shape);
            return Err(format!(
                "has A of the shape {a:?} and B of {b:?}, not [experts * rank, in] and [out, rank * experts] with the config's rank, {rank}"
            ));
        }
        Ok(Low {
            a: Slot::whole(a),
            a_order: Order::Transposed,
            b: Slot::whole(b),
            b_order: Order::Transposed,
            rank,
            scale,
            magnitude: None,
            magnitude_by_column: false,
            of_parameter: true,
        })
    }
}
