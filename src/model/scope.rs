//! Where a part declares its modules: each is found in the files' headers, compared with what the config implies, and put on the
//! one list.

use std::ops::Range;

use super::cache::CacheSpec;
use super::config::NormConfig;
use super::find::{foreign_heads, ExpertNames, Experts, HeadMatrix, Named, Renamed};
use super::modules::{Kind, Site, Tensors, Weight};
use super::plan::Planner;
use super::rope::Rope;
use crate::error::{Error, Result};
use crate::load::{ModuleShape, Slot};

/// What a matrix is called behind its module's name, here and by programs that pack it otherwise.
const MATRICES: [&str; 3] = [".weight", ".qweight", ".weight_packed"];

/// Where a part declares its modules, in the order in which it computes.
pub struct Scope<'s, 'a> {
    pub(super) planner: &'s mut Planner<'a>,
    /// Of the files' names.
    pub(super) prefix: &'static str,
    /// Of the modules' names.
    pub(super) path: String,
    pub(super) layer: Option<usize>,
}

impl<'a> Scope<'_, 'a> {
    /// A part of this one; none of a name of its own: this one.
    pub fn within<'s>(&'s mut self, name: &str) -> Scope<'s, 'a> {
        Scope {
            path: match name {
                "" => self.path.clone(),
                name => format!("{}{name}.", self.path),
            },
            prefix: self.prefix,
            layer: self.layer,
            planner: &mut *self.planner,
        }
    }

    /// This one.
    pub fn same<'s>(&'s mut self) -> Scope<'s, 'a> {
        Scope {
            path: self.path.clone(),
            prefix: self.prefix,
            layer: self.layer,
            planner: &mut *self.planner,
        }
    }

    /// `[output, input]`
    pub fn linear(&mut self, name: &str, shape: [i32; 2], bias: bool) -> Result<Site> {
        self.linear_of(&[name], shape, bias)
    }

    /// The same, under the first of these names, which a folder may have under another of them.
    pub fn linear_of(
        &mut self,
        names: &[&str],
        [output, input]: [i32; 2],
        bias: bool,
    ) -> Result<Site> {
        let name = names.first().copied().unwrap_or_default();
        let (path, found) = (
            self.in_files(name),
            self.in_files(self.either_matrix(names)),
        );
        let finder = &mut self.planner.finder;
        let tensors = Tensors {
            weight: match found == path {
                true => finder.matrix(&path, &[output, input], &Named)?,
                false => finder.matrix(&path, &[output, input], &Renamed(found))?,
            },
            bias: match bias {
                true => Some(finder.float(&format!("{path}.bias"), &[output])?),
                false => None,
            },
        };
        let shape = ModuleShape::Linear {
            input,
            output,
            bias,
        };
        Ok(self.put(name, (shape, Kind::Linear), Some(tensors)))
    }

    /// `[dims]`
    pub fn norm(&mut self, config: &NormConfig, dims: i32) -> Result<Site> {
        let path = self.in_files(config.name);
        // What old folders of bert have them under comes second.
        let [weight, bias] = match config.layer {
            true => [&["weight", "gamma"][..], &["bias", "beta"][..]],
            false => [&["weight"][..], &[][..]],
        };
        let of = |leaves: &[&str]| {
            let leaf = |leaf: &&&str| self.has(&format!("{}.{leaf}", config.name));
            let found = leaves.iter().find(leaf).or(leaves.first());
            format!("{path}.{}", found.copied().unwrap_or_default())
        };
        let (weight, bias) = (of(weight), config.bias.then(|| of(bias)));
        let finder = &mut self.planner.finder;
        let tensors = Tensors {
            weight: Weight::Dense(finder.float(&weight, &[dims])?),
            bias: bias.map(|bias| finder.float(&bias, &[dims])).transpose()?,
        };
        let shifted = self.planner.unconverted_norms;
        let kind = Kind::Norm {
            eps: config.eps,
            plus_one: config.plus_one,
            layer: config.layer,
            unconverted: match self.layer {
                Some(_) => shifted.contains(&config.name),
                None => !shifted.is_empty(),
            },
        };
        let shape = (ModuleShape::Norm { dims }, kind);
        Ok(self.put(config.name, shape, Some(tensors)))
    }

    /// What other models have here.
    pub fn absent(&mut self, name: &str, dims: i32) -> Site {
        self.put(name, (ModuleShape::Norm { dims }, Kind::Absent), None)
    }

    /// `[dims]`, of any float type.
    pub fn vector(&mut self, name: &str, dims: i32) -> Result<Site> {
        self.numbers(name, &[dims])
    }

    /// Few numbers of any float type that a part looks at itself.
    pub fn numbers(&mut self, name: &str, shape: &[i32]) -> Result<Site> {
        let weight = self.planner.finder.float(&self.in_files(name), shape)?;
        let dims = shape.iter().product();
        let what = (ModuleShape::Norm { dims }, Kind::Vector);
        Ok(self.put(name, what, Some(Tensors::dense(weight))))
    }

    /// The taps of a depthwise convolution, `[channels, taps, 1]`, which lie in memory as PyTorch's `[channels, 1, taps]` do.
    pub fn taps(&mut self, name: &str, [channels, taps]: [i32; 2]) -> Result<Site> {
        self.numbers_of(&[name], &[&[channels, taps, 1], &[channels, 1, taps]])
    }

    /// Numbers of any float type, under the first of these names and in the first of these shapes, which a folder may have
    /// under another of them and in another.
    pub fn numbers_of(&mut self, names: &[&str], shapes: &[&[i32]]) -> Result<Site> {
        let name = names.first().copied().unwrap_or_default();
        let (own, found) = (self.in_files(name), self.in_files(self.either(names, "")));
        let weight = self.planner.finder.numbers(own, &found, shapes)?;
        let dims = shapes.first().and_then(|shape| shape.iter().max());
        let dims = dims.copied().unwrap_or_default();
        let what = (ModuleShape::Norm { dims }, Kind::Vector);
        Ok(self.put(name, what, Some(Tensors::dense(weight))))
    }

    /// A number, where the folder has it.
    pub fn number(&mut self, name: &str) -> Result<Option<Site>> {
        let found = self.planner.finder.number(&self.in_files(name))?;
        let what = (ModuleShape::Norm { dims: 1 }, Kind::Number);
        Ok(found.map(|slot| self.put(name, what, Some(Tensors::dense(slot)))))
    }

    /// The error of a tensor that is not there.
    pub fn missing(&self, name: &str) -> Error {
        self.planner.finder.catalog.missing(&self.in_files(name))
    }

    /// Whether the folder has this tensor.
    pub fn has(&self, name: &str) -> bool {
        let catalog = self.planner.finder.catalog;
        catalog.get(&self.in_files(name)).is_some()
    }

    /// Whether the folder has this matrix, however it is packed.
    pub fn has_matrix(&self, name: &str) -> bool {
        let mut leaves = MATRICES.into_iter();
        leaves.any(|leaf| self.has(&format!("{name}{leaf}")))
    }

    /// The first of these names that the folder has a tensor `{name}{leaf}` of, else the first.
    pub fn either<'n>(&self, names: &[&'n str], leaf: &str) -> &'n str {
        let catalog = self.planner.finder.catalog;
        let is_there = |name: &&&'n str| {
            let name = format!("{}{leaf}", self.in_files(name));
            catalog.get(&name).is_some()
        };
        let found = names.iter().find(is_there).or(names.first());
        found.copied().unwrap_or_default()
    }

    /// The same of matrices, however they are packed.
    fn either_matrix<'n>(&self, names: &[&'n str]) -> &'n str {
        let own = names.first().copied().unwrap_or_default();
        let found = MATRICES.into_iter().map(|leaf| self.either(names, leaf));
        found.into_iter().find(|found| *found != own).unwrap_or(own)
    }

    /// `[experts, output, input]`. `which`: 0 gate, 1 up, 2 down.
    pub fn experts(
        &mut self,
        names: &ExpertNames,
        which: usize,
        [count, output, input]: [i32; 3],
        bias: bool,
    ) -> Result<Site> {
        let leaf = names.leaves.get(which).copied().unwrap_or_default();
        let name = format!("{}.{leaf}", names.stacked);
        let path = self.in_files(&name);
        let places = Experts {
            names: *names,
            at: self.in_files(""),
            which,
            count,
            intermediate: output,
        };
        let finder = &mut self.planner.finder;
        let tensors = Tensors {
            weight: finder.matrix(&path, &[count, output, input], &places)?,
            bias: match bias {
                true => Some(finder.expert_bias(&path, &[count, output], &places)?),
                false => None,
            },
        };
        let shape = ModuleShape::Experts {
            experts: count,
            input,
            output,
            bias,
        };
        let kind = Kind::Experts(names.elsewhere(which));
        Ok(self.put(&name, (shape, kind), Some(tensors)))
    }

    /// `[heads, output, input]`, of each head its own. `both`: a matrix `[heads * each, …]` that a folder may have instead, of
    /// which this is some of each head's `rows`, or with `turns` their columns.
    pub fn heads(
        &mut self,
        name: &str,
        [heads, output, input]: [i32; 3],
        both: (&str, i32),
        (rows, turns): (Range<i32>, bool),
    ) -> Result<Site> {
        let path = self.in_files(name);
        let places = HeadMatrix {
            both: self.in_files(both.0),
            heads,
            each: both.1,
            rows,
            turns,
        };
        let finder = &mut self.planner.finder;
        let turned = places.turns_packed(finder, &path);
        let shape = match turned {
            true => [heads, input, output],
            false => [heads, output, input],
        };
        let weight = match foreign_heads(finder, &path, [heads, output, input], &places)? {
            Some(weight) => weight,
            None => finder.matrix(&path, &shape, &places)?,
        };
        if turned {
            finder.unpacked.push(path);
        }
        let shape = ModuleShape::Experts {
            experts: heads,
            input,
            output,
            bias: false,
        };
        let tensors = Tensors { weight, bias: None };
        Ok(self.put(name, (shape, Kind::Heads { turned }), Some(tensors)))
    }

    /// `[vocab, dims]`; what it is called here and in the files.
    pub(super) fn embedding(&mut self, names: (&str, &str), shape: [i32; 2]) -> Result<Site> {
        self.rows(names, shape, Kind::Embedding)
    }

    /// Rows for tokens, beside the embedding: `[vocab, dims]`
    pub fn table(&mut self, name: &str, shape: [i32; 2]) -> Result<Site> {
        self.rows((name, name), shape, Kind::Table)
    }

    fn rows(
        &mut self,
        (name, own): (&str, &str),
        [vocab, dims]: [i32; 2],
        kind: Kind,
    ) -> Result<Site> {
        let path = self.in_files(own);
        let weight = self.planner.finder.matrix(&path, &[vocab, dims], &Named)?;
        let tensors = Tensors { weight, bias: None };
        let shape = ModuleShape::Embedding { vocab, dims };
        Ok(self.put(name, (shape, kind), Some(tensors)))
    }

    /// What a part turns queries and keys by, as a number.
    pub fn rope(&mut self, rope: &Rope) -> usize {
        let ropes = &mut self.planner.ropes;
        ropes
            .iter()
            .position(|known| known == rope)
            .unwrap_or_else(|| {
                ropes.push(rope.clone());
                ropes.len() - 1
            })
    }

    /// What a part keeps of the tokens before, as a number.
    pub fn cache(&mut self, spec: CacheSpec) -> usize {
        self.planner.caches.push(spec);
        self.planner.kept_by.push(self.layer);
        self.planner.caches.len() - 1
    }

    /// The number of what an earlier block keeps.
    pub fn cache_of(&self, block: usize) -> Result<usize> {
        let kept_by = &self.planner.kept_by;
        let number = kept_by.iter().position(|of| *of == Some(block));
        number.ok_or_else(|| Error::internal("keys of a block that keeps none"))
    }

    pub(super) fn in_files(&self, name: &str) -> String {
        format!("{}{}{name}", self.prefix, self.path)
    }

    pub(super) fn put(
        &mut self,
        name: &str,
        what: (ModuleShape, Kind),
        tensors: Option<Tensors<Slot>>,
    ) -> Site {
        let name = format!("{}{name}", self.path);
        self.planner.modules.push(self.layer, name, what, tensors)
    }
}
