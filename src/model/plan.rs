//! Which tensors a config implies, and where they lie. Each part declares its modules in a [`Scope`], which finds them in the
//! files' headers, compares shapes and types, and puts them on the one list.

use super::block::Block;
use super::cache::{CacheSpec, Extent};
use super::config::{AheadConfig, DecoderConfig, Names};
use super::find::{undeclared_biases, Finder};
pub use super::find::{ExpertNames, Fused, Repacked};
use super::modules::{Kind, Modules, Site};
use super::parts::per_layer::PerLayerInputs;
use super::rope::Rope;
pub use super::scope::Scope;
use super::streams::Spread;
use crate::dtype::{Dtype, Scheme};
use crate::error::Result;
use crate::load::{Catalog, Listed, ModuleShape, Quantization, Slot, Tensor, Warnings};

/// What a config implies, where it lies, and what it shows.
pub struct Planned {
    pub blueprint: Blueprint,
    pub modules: Modules<Slot>,
    /// There is no output layer, so no token can be drawn.
    pub headless: bool,
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
    pub(super) summed: Summed,
    /// The number of its first block.
    pub(super) first: usize,
    pub(super) ahead: Option<Box<Ahead>>,
}

/// A head that predicts further tokens.
#[derive(Clone)]
pub struct Ahead {
    /// What it computes and keeps. It turns by the model's ropes.
    pub(super) blueprint: Blueprint,
    pub(super) joined: Joined,
}

/// What goes into the head's block, and the norm behind it.
#[derive(Clone, Copy)]
pub struct Joined {
    /// `[hidden]`
    pub(super) embedding_norm: Site,
    /// `[hidden]`
    pub(super) hidden_norm: Site,
    /// `[hidden, 2 * hidden]`
    pub(super) project: Site,
    /// `[hidden]`
    pub(super) norm: Site,
    /// See `AheadConfig`.
    pub(super) normed: bool,
}

/// What is added to embeddings, and the norm of the sum.
#[derive(Clone, Copy, Default)]
pub struct Summed {
    /// `[positions, hidden]`
    pub(super) positions: Option<Site>,
    /// `[types, hidden]`
    pub(super) types: Option<Site>,
    /// `[hidden]`
    pub(super) norm: Option<Site>,
}

impl Blueprint {
    /// Numbers of a head's key or value that it keeps, each once.
    pub fn token_dims(&self) -> Vec<i32> {
        let mut dims: Vec<i32> = Vec::new();
        for spec in &self.caches {
            let CacheSpec::Tokens(spec) = spec else {
                continue;
            };
            for dim in spec.head_dims {
                if !dims.contains(&dim) {
                    dims.push(dim);
                }
            }
        }
        dims
    }

    /// Empty caches of one session, None of states; `window` and `keep` turn the full ones into rotating ones.
    pub fn extents(&self, window: Option<i32>, keep: i32) -> Vec<Option<Extent>> {
        let caches = self.caches.iter();
        caches.map(|spec| spec.extent(window, keep)).collect()
    }

    pub fn has_ahead(&self) -> bool {
        self.ahead.is_some()
    }

    /// Of its head, as a model of its own.
    pub fn ahead(&self, config: &DecoderConfig) -> Option<(&Blueprint, DecoderConfig)> {
        let (ahead, head) = self.ahead.as_ref().zip(config.ahead.as_ref())?;
        let config = DecoderConfig {
            blocks: vec![head.block.clone()],
            ahead: None,
            ..config.clone()
        };
        Some((&ahead.blueprint, config))
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
            headless: false,
            kept_by: Vec::new(),
        };
        let (per_layer, spread, summed) = planner.outside(config, names)?;
        let blocks = planner.blocks(config, names)?;
        let ahead = planner.ahead(config, names, warnings)?;
        let tied = planner.modules.get(Site::LM_HEAD).is_none();
        let head = tied.then_some(names.head);
        let headless = planner.headless;
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
                summed,
                first: 0,
                ahead: ahead.map(Box::new),
            },
            modules: planner.modules,
            headless,
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

pub(super) struct Planner<'a> {
    pub(super) finder: Finder<'a>,
    /// See `DecoderConfig::unconverted_norms`; empty in a converted folder.
    pub(super) unconverted_norms: &'static [&'static str],
    pub(super) modules: Modules<Slot>,
    pub(super) ropes: Vec<Rope>,
    pub(super) caches: Vec<CacheSpec>,
    /// There is no output layer.
    headless: bool,
    /// The block of each cache.
    pub(super) kept_by: Vec<Option<usize>>,
}

impl<'a> Planner<'a> {
    /// What is not in a block.
    fn outside(
        &mut self,
        config: &DecoderConfig,
        names: &Names,
    ) -> Result<(Option<PerLayerInputs>, Option<Spread>, Summed)> {
        let (hidden, vocab) = (config.hidden_size, config.vocab_size);
        let head = format!("{}lm_head.weight", names.head);
        let embedding = format!("{}{}.weight", names.body, names.embedding);
        // Where the config does not say, a head that the index names and no file holds is missing, not tied.
        let tied = config.tie_word_embeddings.unwrap_or_else(|| {
            let Finder { catalog, .. } = self.finder;
            self.finder.beside(&embedding, &head).is_none() && !catalog.absent.contains_key(&head)
        });
        // As models without a head are written: what their parts are called begins with nothing.
        let bare = names.body.is_empty() && !self.finder.catalog.tensors.contains_key(&head);
        let headless = !tied && bare && !self.finder.catalog.absent.contains_key(&head);
        let headless = headless || config.both_ways;
        self.headless = headless;
        // In the order of `Site`'s constants.
        let mut body = self.scope(names.body, String::new(), None);
        body.embedding(("embed_tokens", names.embedding), [vocab, hidden])?;
        match &config.norm {
            Some(norm) => body.norm(norm, hidden)?,
            None => body.absent("norm", hidden),
        };
        let mut outside = self.scope(names.head, String::new(), None);
        match tied {
            _ if headless => outside.absent("lm_head", hidden),
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
        let embed = &config.embed;
        let mut table = |name, count| body.table(name, [count, hidden]);
        let positions = embed.positions.map(|of| table(of.name, of.count));
        let types = embed.types.map(|(name, count)| table(name, count));
        let summed = Summed {
            positions: positions.transpose()?,
            types: types.transpose()?,
            norm: embed
                .sum_norm
                .map(|norm| body.norm(&norm, hidden))
                .transpose()?,
        };
        Ok((per_layer.transpose()?, spread.transpose()?, summed))
    }

    fn blocks(&mut self, config: &DecoderConfig, names: &Names) -> Result<Vec<Block>> {
        let hidden = config.hidden_size;
        let blocks = config.blocks.iter().enumerate().map(|(index, block)| {
            let path = format!("{}{index}.", names.layers);
            let mut scope = self.scope(names.body, path, Some(index));
            Block::declare(&mut scope, block, hidden)
        });
        blocks.collect()
    }

    /// The head that predicts further tokens, where the folder has one. What is wrong with it is no reason to refuse the model.
    fn ahead(
        &mut self,
        config: &DecoderConfig,
        names: &Names,
        warnings: &mut Warnings,
    ) -> Result<Option<Ahead>> {
        let Some(head) = &config.ahead else {
            return Ok(None);
        };
        let prefixes = match head.in_body {
            true => [names.body; 2],
            false => [names.head, ""],
        };
        let mut prefixes = prefixes.into_iter();
        let prefix = prefixes.find(|prefix| {
            let scope = self.scope(prefix, head.path.clone(), None);
            scope.has_matrix(head.project)
        });
        let Some(prefix) = prefix.filter(|_| !self.headless) else {
            return Ok(None);
        };
        let (found, ropes) = (self.finder.found(), self.ropes.len());
        let caches = std::mem::take(&mut self.caches);
        let kept_by = std::mem::take(&mut self.kept_by);
        self.modules.begin_ahead();
        let declared = self.declare_ahead(config, head, prefix);
        let own = std::mem::replace(&mut self.caches, caches);
        self.kept_by = kept_by;
        match declared {
            Ok((block, joined)) => Ok(Some(Ahead {
                blueprint: Blueprint {
                    blocks: vec![block],
                    ropes: Vec::new(),
                    caches: own,
                    per_layer: None,
                    spread: None,
                    summed: Summed::default(),
                    first: config.blocks.len(),
                    ahead: None,
                },
                joined,
            })),
            Err(error) => {
                self.finder.forget_since(found);
                self.ropes.truncate(ropes);
                self.modules.drop_ahead();
                warnings.forgive(Err(error.within("the head that predicts further tokens")))
            }
        }
    }

    fn declare_ahead(
        &mut self,
        config: &DecoderConfig,
        head: &AheadConfig,
        prefix: &'static str,
    ) -> Result<(Block, Joined)> {
        let hidden = config.hidden_size;
        let path = &head.path;
        let mut own = self.scope(prefix, path.clone(), None);
        let embedding_norm = own.norm(&head.embedding_norm, hidden)?;
        let hidden_norm = own.norm(&head.hidden_norm, hidden)?;
        let project = own.linear(head.project, [hidden, hidden.saturating_mul(2)], false)?;
        let norm = own.norm(&head.norm, hidden)?;
        let path = format!("{path}{}", head.block_path);
        let mut own = self.scope(prefix, path, Some(config.blocks.len()));
        let block = Block::declare(&mut own, &head.block, hidden)?;
        let joined = Joined {
            embedding_norm,
            hidden_norm,
            project,
            norm,
            normed: head.normed,
        };
        Ok((block, joined))
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
