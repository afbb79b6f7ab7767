//! Which tensors a config implies, and where they lie. Each part declares its modules in a [`Scope`], which finds them in the
//! files' headers, compares shapes and types, and puts them on the one list.

use std::ops::Range;

use super::block::Block;
use super::cache::{CacheSpec, Extent};
use super::config::{DecoderConfig, Names, NormConfig};
use super::find::{foreign_heads, undeclared_biases, Experts, Finder, HeadMatrix, Named, Renamed};
pub use super::find::{ExpertNames, Fused, Repacked};
use super::modules::{Kind, Modules, Site, Tensors};
use super::parts::per_layer::PerLayerInputs;
use super::rope::Rope;
use super::streams::Spread;
use crate::dtype::{Dtype, Scheme};
use crate::error::{Error, Result};
use crate::load::{Catalog, Listed, ModuleShape, Quantization, Slot, Tensor, Warnings};

/// What a config implies, where it lies, and what it shows.
pub struct Planned {
    pub blueprint: Blueprint,
    pub modules: Modules<Slot>,
    /// The files' tensors that they are read from.
    pub used: Vec<Tensor>,
    /// How the folder names them.
    pub names: Names,
    /// The packed matrices, by module path.
    pub schemes: Vec<(String, Scheme)>,
    /// Whether the config's quantisation is that of the weights, as they are here.
    pub as_said: bool,
    /// Matrices that another program packed.
    pub repacked: Vec<Repacked>,
    /// Tensors that must say what is expected of them.
    pub listed: Vec<(Tensor, Listed)>,
}

/// A decoder without its weights: which modules go where.
#[derive(Clone)]
pub struct Blueprint {
    pub(super) blocks: Vec<Block>,
    /// Parts that turn alike share what they turn by.
    pub(super) ropes: Vec<Rope>,
    /// What a session keeps.
    pub(super) caches: Vec<CacheSpec>,
    pub(super) per_layer: Option<PerLayerInputs>,
    pub(super) spread: Option<Spread>,
}

impl Blueprint {
    /// Empty caches of one session, None of states; `window` and `keep` turn the full ones into rotating ones.
    pub fn extents(&self, window: Option<i32>, keep: i32) -> Vec<Option<Extent>> {
        let caches = self.caches.iter();
        caches.map(|spec| spec.extent(window, keep)).collect()
    }
}

impl Planned {
    /// Finds every tensor that `config` implies in the files and compares its shape and type; what is missing, of
    /// another shape, or left over is an error. How a matrix is packed shows in its shapes; where `quantization` says
    /// something else it is a warning. Reads no data.
    pub fn find(
        config: &DecoderConfig,
        catalog: &Catalog,
        quantization: &Quantization,
        warnings: &mut Warnings,
    ) -> Result<Planned> {
        let embedding = |names: &Names| format!("{}{}.weight", names.body, names.embedding);
        let held = |names: &&Names| catalog.tensors.contains_key(&embedding(names));
        let lost = |names: &&Names| catalog.absent.contains_key(&embedding(names));
        let all = config.names;
        let Some(names) = all.iter().find(held) else {
            let names = all.iter().find(lost).or(all.first());
            return Err(catalog.missing(&names.map_or(String::new(), embedding)));
        };
        let float = float_of(catalog, &embedding(names));
        // As mlx-lm tells it: the convolutions of a converted folder end in a dimension of one.
        let mut tensors = catalog.tensors.values();
        let unconverted = tensors.any(|tensor| {
            tensor.name.ends_with("conv1d.weight") && tensor.shape.last() != Some(&1)
        });
        let mut planner = Planner {
            unconverted_norms: match unconverted {
                true => config.unconverted_norms,
                false => &[],
            },
            finder: Finder::new(catalog, quantization, float),
            modules: Modules::new(),
            ropes: Vec::new(),
            caches: Vec::new(),
            kept_by: Vec::new(),
        };
        let (per_layer, spread) = planner.outside(config, names)?;
        let blocks = planner.blocks(config, names)?;
        let tied = planner.modules.get(Site::LM_HEAD).is_none();
        let head = tied.then_some(names.head);
        let mut finder = planner.finder;
        undeclared_biases(&mut finder);
        finder.nothing_left(&config.ignored, head, warnings)?;
        finder.compare_with_config(warnings);
        Ok(Planned {
            blueprint: Blueprint {
                blocks,
                ropes: planner.ropes,
                caches: planner.caches,
                per_layer,
                spread,
            },
            modules: planner.modules,
            names: *names,
            as_said: finder.differ.is_empty()
                && finder.unpacked.is_empty()
                && finder.repacked.is_empty(),
            repacked: finder.repacked,
            listed: finder.listed,
            schemes: {
                let mut schemes = finder.schemes;
                schemes.retain(|(path, _)| !finder.unpacked.contains(path));
                schemes
            },
            used: finder.used,
        })
    }
}

/// The type that a model computes in: that of its embedding, or of its scales.
fn float_of(catalog: &Catalog, embedding: &str) -> Dtype {
    let scales = embedding.replace(".weight", ".scales");
    let named = [embedding, &scales].into_iter();
    let mut types = named.filter_map(|name| catalog.get(name).map(|tensor| tensor.dtype));
    types.find(|dtype| dtype.is_float()).unwrap_or(Dtype::BF16)
}

struct Planner<'a> {
    finder: Finder<'a>,
    /// See `DecoderConfig::unconverted_norms`; empty in a converted folder.
    unconverted_norms: &'static [&'static str],
    modules: Modules<Slot>,
    ropes: Vec<Rope>,
    caches: Vec<CacheSpec>,
    /// The block of each cache.
    kept_by: Vec<Option<usize>>,
}

/// What a matrix is called behind its module's name, here and by programs that pack it otherwise.
const MATRICES: [&str; 3] = [".weight", ".qweight", ".weight_packed"];

/// Where a part declares its modules, in the order in which it computes.
pub struct Scope<'s, 'a> {
    planner: &'s mut Planner<'a>,
    /// Of the files' names.
    prefix: &'static str,
    /// Of the modules' names.
    path: String,
    layer: Option<usize>,
}

impl<'a> Scope<'_, 'a> {
    /// A part of this one.
    pub fn within<'s>(&'s mut self, name: &str) -> Scope<'s, 'a> {
        Scope {
            path: format!("{}{name}.", self.path),
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
        let name = format!("{}.weight", self.in_files(config.name));
        let weight = self.planner.finder.float(&name, &[dims])?;
        let shifted = self.planner.unconverted_norms;
        let kind = Kind::Norm {
            eps: config.eps,
            plus_one: config.plus_one,
            unconverted: match self.layer {
                Some(_) => shifted.contains(&config.name),
                None => !shifted.is_empty(),
            },
        };
        let shape = (ModuleShape::Norm { dims }, kind);
        Ok(self.put(config.name, shape, Some(Tensors::dense(weight))))
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

    /// Whether the folder has a tensor of this name.
    pub fn holds(&self, name: &str) -> bool {
        let catalog = self.planner.finder.catalog;
        catalog.get(&self.in_files(name)).is_some()
    }

    /// The error of a tensor that is not there.
    pub fn missing(&self, name: &str) -> Error {
        self.planner.finder.catalog.missing(&self.in_files(name))
    }

    /// Whether the folder has this tensor.
    pub fn has(&self, name: &str) -> bool {
        self.planner
            .finder
            .catalog
            .get(&self.in_files(name))
            .is_some()
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
        Ok(self.put(&name, (shape, Kind::Experts), Some(tensors)))
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
    fn embedding(&mut self, names: (&str, &str), shape: [i32; 2]) -> Result<Site> {
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

    fn in_files(&self, name: &str) -> String {
        format!("{}{}{name}", self.prefix, self.path)
    }

    fn put(
        &mut self,
        name: &str,
        what: (ModuleShape, Kind),
        tensors: Option<Tensors<Slot>>,
    ) -> Site {
        let name = format!("{}{name}", self.path);
        self.planner.modules.push(self.layer, name, what, tensors)
    }
}

impl<'a> Planner<'a> {
    /// What is not in a block.
    fn outside(
        &mut self,
        config: &DecoderConfig,
        names: &Names,
    ) -> Result<(Option<PerLayerInputs>, Option<Spread>)> {
        let (hidden, vocab) = (config.hidden_size, config.vocab_size);
        let head = format!("{}lm_head.weight", names.head);
        let embedding = format!("{}{}.weight", names.body, names.embedding);
        // Where the config does not say, a head that the index names and no file holds is missing, not tied.
        let tied = config.tie_word_embeddings.unwrap_or_else(|| {
            let Finder { catalog, .. } = self.finder;
            self.finder.beside(&embedding, &head).is_none() && !catalog.absent.contains_key(&head)
        });
        // In the order of `Site`'s constants.
        let mut body = self.scope(names.body, String::new(), None);
        body.embedding(("embed_tokens", names.embedding), [vocab, hidden])?;
        body.norm(&config.norm, hidden)?;
        let mut outside = self.scope(names.head, String::new(), None);
        match tied {
            true => {
                let shape = ModuleShape::Linear {
                    input: hidden,
                    output: vocab,
                    bias: false,
                };
                outside.put("lm_head", (shape, Kind::Linear), None)
            }
            false => outside.linear("lm_head", [vocab, hidden], false)?,
        };
        let mut body = self.scope(names.body, String::new(), None);
        let count = i32::try_from(config.blocks.len()).unwrap_or(i32::MAX);
        let per_layer = config.embed.per_layer;
        let per_layer = per_layer
            .map(|per_layer| PerLayerInputs::declare(&mut body, per_layer, [count, hidden]));
        let streams = config.embed.streams;
        let spread = streams.map(|streams| Spread::declare(&mut body, streams, hidden));
        Ok((per_layer.transpose()?, spread.transpose()?))
    }

    fn blocks(&mut self, config: &DecoderConfig, names: &Names) -> Result<Vec<Block>> {
        let hidden = config.hidden_size;
        let blocks = config.blocks.iter().enumerate().map(|(index, block)| {
            let path = format!("layers.{index}.");
            let mut scope = self.scope(names.body, path, Some(index));
            Block::declare(&mut scope, block, hidden)
        });
        blocks.collect()
    }

    fn scope<'s>(
        &'s mut self,
        prefix: &'static str,
        path: String,
        layer: Option<usize>,
    ) -> Scope<'s, 'a> {
        Scope {
            planner: self,
            prefix,
            path,
            layer,
        }
    }
}
