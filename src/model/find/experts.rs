//! Experts, wherever a folder keeps them.

use super::{Finder, Named, Places};
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::load::{Every, ExpertPlace, Share, Slot, Tensor};

/// Where a folder may keep its experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpertNames {
    /// All of them in one tensor, as mlx-lm has them: `{stacked}.{leaf}`.
    pub stacked: &'static str,
    /// What gate, up and down are called there.
    pub leaves: [&'static str; 3],
    /// One by one, `experts.0.{name}`: what gate, up and down are called.
    pub each: Option<[&'static str; 3]>,
    /// Gate and up in one.
    pub fused: Option<Fused>,
    /// That one, and down.
    pub fused_names: [&'static str; 2],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fused {
    /// `[experts, 2 * intermediate, hidden]`: the rows of the one, then those of the other.
    Halves,
    /// The rows in turn; where they are not packed `[experts, hidden, 2 * intermediate]`.
    InTurn,
}

impl ExpertNames {
    /// Where transformers has a matrix that adapters change. `which`: 0 gate, 1 up, 2 down.
    pub fn elsewhere(&self, which: usize) -> ExpertPlace {
        let gated = self.leaves.first().is_some_and(|gate| !gate.is_empty());
        let up = i32::from(which == 1);
        ExpertPlace {
            parameter: match which {
                2 => "down_proj",
                _ if gated => "gate_up_proj",
                _ => "up_proj",
            },
            share: match self.fused {
                _ if which == 2 || !gated => Share::All,
                Some(Fused::InTurn) => Share::InTurn(up),
                // Also where no folder has them so: transformers fuses them when it loads one.
                Some(Fused::Halves) | None => Share::Half(up),
            },
            each: self.each.and_then(|each| each.get(which).copied()),
        }
    }
}

/// One of the three matrices of all experts.
pub(in crate::model) struct Experts {
    pub names: ExpertNames,
    /// Of the files' names.
    pub at: String,
    /// 0 gate, 1 up, 2 down
    pub which: usize,
    pub count: i32,
    pub intermediate: i32,
}

impl Places for Experts {
    fn place(
        &self,
        finder: &Finder,
        path: &str,
        leaf: &str,
    ) -> Result<Option<(Slot, Vec<Tensor>)>> {
        if let Some(found) = Named.place(finder, path, leaf)? {
            return Ok(Some(found));
        }
        if let Some(found) = self.one_by_one(finder, path, leaf)? {
            return Ok(Some(found));
        }
        self.fused(finder, path, leaf)
    }
}

impl Experts {
    fn one_by_one(
        &self,
        finder: &Finder,
        path: &str,
        leaf: &str,
    ) -> Result<Option<(Slot, Vec<Tensor>)>> {
        let Some(name) = self
            .names
            .each
            .and_then(|each| each.get(self.which).copied())
        else {
            return Ok(None);
        };
        let of = |expert: i32| format!("{}experts.{expert}.{name}.{leaf}", self.at);
        if finder.catalog.get(&of(0)).is_none() {
            return Ok(None);
        }
        let all = (0..self.count).map(|expert| {
            let name = of(expert);
            let tensor = finder.catalog.get(&name);
            tensor.ok_or_else(|| finder.catalog.missing(&name))
        });
        let all: Vec<&Tensor> = all.collect::<Result<_>>()?;
        let slot = Slot::stacked(format!("{path}.{leaf}"), &all)?;
        Ok(Some((slot, all.into_iter().cloned().collect())))
    }

    fn fused(
        &self,
        finder: &Finder,
        path: &str,
        leaf: &str,
    ) -> Result<Option<(Slot, Vec<Tensor>)>> {
        let Some(fused) = self.names.fused else {
            return Ok(None);
        };
        let [gate_up, down] = self.names.fused_names;
        let matrix = if self.which == 2 { down } else { gate_up };
        let name = |suffix: &str| format!("{}{matrix}{suffix}", self.at);
        let suffixes: &[&str] = match leaf {
            "weight" => &["", ".weight", "_blocks"],
            "scales" => &["_scales"],
            "bias" => &["_bias"],
            _ => &[],
        };
        let tensor = suffixes
            .iter()
            .find_map(|suffix| finder.catalog.get(&name(suffix)));
        let Some(tensor) = tensor else {
            return Ok(None);
        };
        let which = i32::from(self.which == 1);
        let every = match fused {
            Fused::Halves => Every::new(which * self.intermediate, 1, self.intermediate),
            Fused::InTurn => Every::new(which, 2, self.intermediate),
        };
        let own = format!("{path}.{leaf}");
        let upright = tensor.dtype == Dtype::U8 || tensor.shape.len() == 2;
        let rows = |every| Slot::rows(own.clone(), tensor, every);
        let columns = |every| Slot::columns(own.clone(), tensor, every);
        let all = |axis: usize| Every::new(0, 1, tensor.shape.get(axis).copied().unwrap_or(0));
        let both = match fused {
            Fused::InTurn if !upright => 2,
            _ => 1,
        };
        let wide = tensor.shape.get(both).copied().map(i64::from);
        if self.which < 2 && wide != Some(2 * i64::from(self.intermediate)) {
            return Err(Error::bad_model(format!(
                "tensor \"{}\" has the shape {:?}, and config.json implies experts of {} each for gate and up",
                tensor.name, tensor.shape, self.intermediate
            )));
        }
        let slot = match (fused, self.which) {
            (Fused::InTurn, 2) if !upright => columns(all(2))?,
            (_, 2) => rows(all(1))?,
            (Fused::InTurn, _) if !upright => columns(every)?,
            _ => rows(every)?,
        };
        let slot = match tensor.name.ends_with("_blocks") {
            true => slot.into_words().ok_or_else(|| {
                Error::bad_model(format!("tensor \"{}\" is not of packed bytes", tensor.name))
            })?,
            false => slot,
        };
        Ok(Some((slot, vec![tensor.clone()])))
    }
}
