//! Adapters of experts as PEFT has them, brought to the model's stacked matrices: of one parameter of all experts in which gate
//! and up are one (transformers from version 5 on), or of each expert's own layers (before).

use std::collections::{BTreeMap, BTreeSet};

use super::super::slot::{Every, Slot};
use super::super::weights::Tensor;
use super::names::Target;
use super::{AdapterFile, Entry, Low, Order, Part, Problems};
use crate::error::{Code, Error, Result};
use crate::words::quoted;

/// A stacked matrix of the model's experts, `[experts, output, input]`, and where other programs keep it.
#[derive(Clone, Debug)]
pub struct ExpertModule {
    /// As [`AdapterFile::check`] has it.
    pub path: String,
    pub experts: i32,
    pub input: i32,
    pub output: i32,
    pub place: ExpertPlace,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpertPlace {
    /// transformers' parameter of all experts: `gate_up_proj`.
    pub parameter: &'static str,
    /// Which of its rows.
    pub share: Share,
    /// The layer of one expert, `experts.0.{each}`, where transformers had one.
    pub each: Option<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    All,
    /// The first half of them, or the second.
    Half(i32),
    /// Every other, from the first or the second on.
    InTurn(i32),
}

impl ExpertModule {
    /// Rows of the parameter.
    fn rows(&self) -> Option<i32> {
        match self.place.share {
            Share::All => Some(self.output),
            Share::Half(_) | Share::InTurn(_) => self.output.checked_mul(2),
        }
    }

    fn own_rows(&self) -> Option<Every> {
        Some(match self.place.share {
            Share::All => Every::new(0, 1, self.output),
            Share::Half(which) => Every::new(which.checked_mul(self.output)?, 1, self.output),
            Share::InTurn(which) => Every::new(which, 2, self.output),
        })
    }

    /// Whether a path, up to the experts' own, is in this module's block.
    fn is_beside(&self, layer: Option<u32>, container: &str) -> bool {
        let own = Target::parse(&self.path).and_then(|target| target.layer);
        own.is_some() && own == layer && container.rsplit('.').next() == Some("experts")
    }

    fn has_parameter(&self, target: &Target) -> bool {
        match target.module.rsplit_once('.') {
            Some((container, name)) => {
                name == self.place.parameter && self.is_beside(target.layer, container)
            }
            None => false,
        }
    }

    /// The expert whose layer it is.
    fn expert(&self, target: &Target) -> Option<u32> {
        let (rest, name) = target.module.rsplit_once('.')?;
        let (container, index) = rest.rsplit_once('.')?;
        let is_own = Some(name) == self.place.each && self.is_beside(target.layer, container);
        let plain = index == "0" || !index.starts_with('0');
        let digits = index.bytes().all(|byte| byte.is_ascii_digit());
        (is_own && plain && digits).then(|| index.parse().ok())?
    }
}

/// Of one stacked matrix what single experts have.
type Singles = BTreeMap<u32, (String, Low)>;

impl AdapterFile {
    /// Makes of entries of experts, as PEFT has them, entries of the model's modules. Those for which there is none stay, and
    /// [`AdapterFile::check`] names them.
    ///
    /// Errors: `Incompatible`, naming the entries; `BadModel`; `Unsupported` where shapes do not tell which of A and B is which.
    pub fn place_experts(&mut self, modules: &[ExpertModule]) -> Result<()> {
        let by_layer = by_layer(modules);
        let of = |target: &Target| by_layer.get(&target.layer).map_or(&[][..], Vec::as_slice);
        let swapped = self.are_swapped(&of)?;
        let mut problems = Problems::default();
        let mut placed = Vec::new();
        let mut singles: BTreeMap<&str, (&ExpertModule, Singles)> = BTreeMap::new();
        for entry in std::mem::take(&mut self.entries) {
            let Part::Low(low) = &entry.part else {
                placed.push(entry);
                continue;
            };
            let nearby = of(&entry.target);
            let single = nearby
                .iter()
                .find_map(|module| Some((*module, module.expert(&entry.target)?)));
            if let Some((module, expert)) = single {
                let (_, all) = singles
                    .entry(&module.path)
                    .or_insert((module, Singles::new()));
                all.insert(expert, (entry.target.path(), low.clone()));
                continue;
            }
            let own = nearby
                .iter()
                .filter(|module| module.has_parameter(&entry.target));
            let own: Vec<&&ExpertModule> = own.filter(|_| low.of_parameter).collect();
            for module in &own {
                match low.of_module(module, swapped)? {
                    Some(low) => placed.extend(module.entry(low)),
                    None => problems.add(|| misshaped(&entry.target, low, module)),
                }
            }
            if own.is_empty() {
                placed.push(entry);
            }
        }
        for (module, all) in singles.into_values() {
            match module.stacked(all)? {
                Ok(low) => placed.extend(module.entry(low)),
                Err(problem) => problems.add(|| problem),
            }
        }
        let mut known = BTreeSet::new();
        let low = |entry: &&Entry| matches!(entry.part, Part::Low(_));
        for entry in placed.iter().filter(low) {
            if !known.insert(&entry.target) {
                problems.add(|| format!("{} is adapted twice", quoted(&entry.target.path(), 160)));
            }
        }
        if let Some(sentence) = problems.sentence("the adapter does not fit the model") {
            return Err(Error::new(Code::Incompatible, sentence));
        }
        placed.sort_by(|one, other| one.target.cmp(&other.target));
        self.entries = placed;
        Ok(())
    }

    /// Whether A is what B is, and B what A is. PEFT before 0.19.1 took a parameter `[experts, out, in]` for `[experts, in, out]`. The
    /// widths tell, of any of the parameters, since a model has them all in one order; where all are square, the version.
    fn are_swapped<'m>(&self, of: &impl Fn(&Target) -> &'m [&'m ExpertModule]) -> Result<bool> {
        let mut square = None;
        for entry in &self.entries {
            let Part::Low(low) = &entry.part else {
                continue;
            };
            let mut nearby = of(&entry.target).iter();
            let module = nearby.find(|module| module.has_parameter(&entry.target));
            let Some(module) = module.filter(|_| low.of_parameter) else {
                continue;
            };
            let (Some(wide), Some(rows)) = (low.a.shape.last(), module.rows()) else {
                continue;
            };
            if module.input != rows {
                return Ok(*wide == rows);
            }
            square.get_or_insert((module, &entry.target));
        }
        let Some((module, target)) = square else {
            return Ok(false);
        };
        let in_turn = matches!(module.place.share, Share::InTurn(_));
        by_version(self.peft_version.as_deref(), in_turn).ok_or_else(|| {
            Error::unsupported(format!(
                "{}: all adapted parameters of experts are square, and what saved the adapter, PEFT {}, does not tell whether A \
                 or B is at their inputs",
                quoted(&target.path(), 160),
                quoted(self.peft_version.as_deref().unwrap_or_default(), 40)
            ))
        })
    }
}

/// Whether this version of PEFT swapped A and B. `in_turn`: the parameter is `[experts, in, out]`.
fn by_version(version: Option<&str>, in_turn: bool) -> Option<bool> {
    // Configs have a version from 0.18 on.
    let Some(version) = version else {
        return Some(!in_turn);
    };
    let mut numbers = version.splitn(3, '.');
    let major: u32 = numbers.next()?.parse().ok()?;
    let minor: u32 = numbers.next()?.parse().ok()?;
    let patch: u32 = numbers.next().unwrap_or("0").parse().ok()?;
    match (major, minor, patch) {
        (0, ..=18, _) => Some(!in_turn),
        // It took those apart the wrong way around, where transformers said which they are.
        (0, 19, 0) if in_turn => None,
        (0, 19, 0) => Some(true),
        _ => Some(false),
    }
}

fn by_layer(modules: &[ExpertModule]) -> BTreeMap<Option<u32>, Vec<&ExpertModule>> {
    let mut by_layer: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for module in modules {
        let layer = Target::parse(&module.path).and_then(|target| target.layer);
        by_layer.entry(layer).or_default().push(module);
    }
    by_layer
}

fn misshaped(target: &Target, low: &Low, module: &ExpertModule) -> String {
    let sizes = |rows: i32| rows.checked_mul(module.experts).unwrap_or_default();
    format!(
        "{} has A of the shape {:?} and B of {:?}, and the model's module needs [{}, {}] and [{}, {}]",
        quoted(&target.path(), 160),
        low.a.shape,
        low.b.shape,
        sizes(low.rank),
        module.input,
        module.rows().unwrap_or_default(),
        sizes(low.rank)
    )
}

impl ExpertModule {
    fn entry(&self, low: Low) -> Option<Entry> {
        Some(Entry {
            target: Target::parse(&self.path)?,
            part: Part::Low(low),
            with_tied_output: false,
        })
    }

    /// All experts' own, one after the other; inside, what is wrong with them.
    fn stacked(&self, all: Singles) -> Result<std::result::Result<Low, String>> {
        let shown = || quoted(&self.path, 160);
        let experts = u32::try_from(self.experts).unwrap_or(0);
        if let Some(missing) = (0..experts).find(|expert| !all.contains_key(expert)) {
            return Ok(Err(format!(
                "{} is adapted in some experts, and not in expert {missing}",
                shown()
            )));
        }
        if let Some((path, _)) = all.range(experts..).next().map(|(_, single)| single) {
            let path = quoted(path, 160);
            return Ok(Err(format!(
                "{path} is of an expert beyond the model's {experts}"
            )));
        }
        let mut singles = all.into_values();
        let Some((first_path, first)) = singles.next() else {
            return Ok(Err(format!("{} has no experts", shown())));
        };
        let (mut a, mut b) = (first.a.clone(), first.b.clone());
        let (mut pieces_a, mut pieces_b) = (Vec::new(), Vec::new());
        for (path, low) in std::iter::once((first_path.clone(), first.clone())).chain(singles) {
            if low.magnitude.is_some() {
                let path = quoted(&path, 160);
                return Err(Error::unsupported(format!(
                    "{path} is DoRA of an expert; experts are adapted by LoRA alone"
                )));
            }
            let alike =
                |one: &Slot, other: &Slot| (one.dtype, &one.shape) == (other.dtype, &other.shape);
            let same =
                (low.rank, low.scale, low.a_order) == (first.rank, first.scale, first.a_order);
            if !same || !alike(&low.a, &first.a) || !alike(&low.b, &first.b) {
                return Ok(Err(format!(
                    "{} has another rank, scale, shape or type than {}: experts that lie in one matrix are adapted alike",
                    quoted(&path, 160),
                    quoted(&first_path, 160)
                )));
            }
            pieces_a.extend(low.a.pieces);
            pieces_b.extend(low.b.pieces);
        }
        for (slot, pieces) in [(&mut a, pieces_a), (&mut b, pieces_b)] {
            slot.shape.insert(0, self.experts);
            slot.bytes = slot.bytes.saturating_mul(u64::from(experts));
            slot.pieces = pieces;
        }
        Ok(Ok(Low { a, b, ..first }))
    }
}

impl Low {
    /// Its part of one of the model's modules; None where shapes differ.
    fn of_module(&self, module: &ExpertModule, swapped: bool) -> Result<Option<Low>> {
        let (Some(all), Some(rows), Some(own)) = (
            module.experts.checked_mul(self.rank),
            module.rows(),
            module.own_rows(),
        ) else {
            return Ok(None);
        };
        let is = |slot: &Slot, shape: [i32; 2]| slot.shape == shape;
        let [a, b] = match swapped {
            false => [module.input, rows],
            true => [rows, module.input],
        };
        if !is(&self.a, [all, a]) || !is(&self.b, [b, all]) {
            return Ok(None);
        }
        let (Some(in_a), Some(in_b)) = (tensor_of(&self.a), tensor_of(&self.b)) else {
            return Ok(None);
        };
        let mut low = self.clone();
        low.of_parameter = false;
        if swapped {
            // B [in, r * experts] is A, and of A [experts, r, out] some columns are B.
            low.a = self.b.clone();
            low.a.shape = vec![module.input, self.rank, module.experts];
            low.a_order = Order::ExpertsLast;
            let each = Tensor {
                shape: vec![module.experts, self.rank, rows],
                ..in_a
            };
            low.b = Slot::columns(each.name.clone(), &each, own)?;
            low.b_order = Order::Transposed;
        } else {
            low.a.shape = vec![module.experts, self.rank, module.input];
            low.a_order = Order::Transposed;
            let one = Tensor {
                shape: vec![1, rows, all],
                ..in_b
            };
            low.b = Slot::rows(one.name.clone(), &one, own)?;
            low.b.shape = vec![module.output, self.rank, module.experts];
            low.b_order = Order::ExpertsLast;
        }
        Ok(Some(low))
    }
}

/// The tensor that a slot is all of.
fn tensor_of(slot: &Slot) -> Option<Tensor> {
    let piece = slot.pieces.first()?;
    Some(Tensor {
        name: slot.name.clone(),
        dtype: slot.dtype,
        shape: slot.shape.clone(),
        bytes: slot.bytes,
        file: piece.file,
        offset: piece.offset,
        float8: None,
    })
}
