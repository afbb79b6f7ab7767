//! The tensors of a decoder, generic over what a tensor is: first a header entry that the config implies
//! (`Weights<Tensor>`), then bytes in MLX's memory, then an [`Array`](crate::mlx::Array). One walk, `try_map`, turns
//! each stage into the next.

use std::collections::{BTreeSet, HashSet};

use super::config::{DecoderConfig, Names, NormPlacement};
use super::modules::{BlockModule, Site};
use crate::dtype::{Dtype, Mode, Scheme};
use crate::error::{Error, Result};
use crate::load::{Catalog, Quantization, Tensor, Warnings};

pub struct Weights<T> {
    /// `[vocab, hidden]`
    pub embed_tokens: Weight<T>,
    pub layers: Vec<Block<T>>,
    /// `[hidden]`
    pub norm: T,
    /// `[vocab, hidden]`; absent when tied
    pub lm_head: Option<Linear<T>>,
}

pub struct Block<T> {
    /// `[heads * head_dim, hidden]`
    pub q_proj: Linear<T>,
    /// `[kv_heads * head_dim, hidden]`
    pub k_proj: Linear<T>,
    /// `[kv_heads * head_dim, hidden]`
    pub v_proj: Linear<T>,
    /// `[hidden, heads * head_dim]`
    pub o_proj: Linear<T>,
    /// `[head_dim]`
    pub q_norm: Option<T>,
    /// `[head_dim]`
    pub k_norm: Option<T>,
    /// `[intermediate, hidden]`
    pub gate_proj: Linear<T>,
    /// `[intermediate, hidden]`
    pub up_proj: Linear<T>,
    /// `[hidden, intermediate]`
    pub down_proj: Linear<T>,
    // Norms, each `[hidden]`.
    pub input_layernorm: T,
    pub post_attention_layernorm: T,
    pub pre_feedforward_layernorm: Option<T>,
    pub post_feedforward_layernorm: Option<T>,
}

pub struct Linear<T> {
    pub weight: Weight<T>,
    /// `[out]`
    pub bias: Option<T>,
}

#[derive(Clone)]
pub enum Weight<T> {
    /// `[out, in]`
    Dense(T),
    Quantized {
        /// `[out, in * bits / 32]`, u32
        weight: T,
        /// `[out, in / group_size]`
        scales: T,
        /// `[out, in / group_size]`; affine only
        biases: Option<T>,
        scheme: Scheme,
    },
}

impl<T> Weight<T> {
    pub(super) fn try_map<U, E>(
        self,
        f: &mut impl FnMut(T) -> std::result::Result<U, E>,
    ) -> std::result::Result<Weight<U>, E> {
        Ok(match self {
            Weight::Dense(weight) => Weight::Dense(f(weight)?),
            Weight::Quantized {
                weight,
                scales,
                biases,
                scheme,
            } => Weight::Quantized {
                weight: f(weight)?,
                scales: f(scales)?,
                biases: biases.map(f).transpose()?,
                scheme,
            },
        })
    }
}

impl<T> Linear<T> {
    fn try_map<U, E>(
        self,
        f: &mut impl FnMut(T) -> std::result::Result<U, E>,
    ) -> std::result::Result<Linear<U>, E> {
        Ok(Linear {
            weight: self.weight.try_map(f)?,
            bias: self.bias.map(f).transpose()?,
        })
    }
}

impl<T> Weights<T> {
    /// Every tensor through `f`, in the order of computation; the first error ends it.
    pub fn try_map<U, E>(
        self,
        mut f: impl FnMut(T) -> std::result::Result<U, E>,
    ) -> std::result::Result<Weights<U>, E> {
        let f = &mut f;
        Ok(Weights {
            embed_tokens: self.embed_tokens.try_map(f)?,
            layers: self
                .layers
                .into_iter()
                .map(|block| block.try_map(f))
                .collect::<std::result::Result<_, E>>()?,
            norm: f(self.norm)?,
            lm_head: self.lm_head.map(|head| head.try_map(f)).transpose()?,
        })
    }
}

impl<T> Block<T> {
    fn try_map<U, E>(
        self,
        f: &mut impl FnMut(T) -> std::result::Result<U, E>,
    ) -> std::result::Result<Block<U>, E> {
        Ok(Block {
            input_layernorm: f(self.input_layernorm)?,
            q_proj: self.q_proj.try_map(f)?,
            k_proj: self.k_proj.try_map(f)?,
            v_proj: self.v_proj.try_map(f)?,
            q_norm: self.q_norm.map(&mut *f).transpose()?,
            k_norm: self.k_norm.map(&mut *f).transpose()?,
            o_proj: self.o_proj.try_map(f)?,
            post_attention_layernorm: f(self.post_attention_layernorm)?,
            pre_feedforward_layernorm: self.pre_feedforward_layernorm.map(&mut *f).transpose()?,
            gate_proj: self.gate_proj.try_map(f)?,
            up_proj: self.up_proj.try_map(f)?,
            down_proj: self.down_proj.try_map(f)?,
            post_feedforward_layernorm: self.post_feedforward_layernorm.map(&mut *f).transpose()?,
        })
    }
}

/// The tensors that a config implies, where they lie, and what they show.
pub struct Planned {
    pub weights: Weights<Tensor>,
    /// How the folder names them.
    pub names: Names,
    /// The packed matrices, by module path.
    pub schemes: Vec<(String, Scheme)>,
    /// Whether the config's quantisation is that of the weights.
    pub as_said: bool,
}

impl Weights<Tensor> {
    /// Finds every tensor that `config` implies in the files and compares its shape and type; what is missing, of
    /// another shape, or left over is an error. How a matrix is packed shows in its shapes; where `quantization` says
    /// something else it is a warning. Reads no data.
    pub fn plan(
        config: &DecoderConfig,
        catalog: &Catalog,
        quantization: &Quantization,
        warnings: &mut Warnings,
    ) -> Result<Planned> {
        let embedding = |names: &Names| format!("{}embed_tokens.weight", names.body);
        let held = |names: &&Names| catalog.tensors.contains_key(&embedding(names));
        let lost = |names: &&Names| catalog.absent.contains_key(&embedding(names));
        let all = config.names;
        let Some(names) = all.iter().find(held) else {
            let names = all.iter().find(lost).or(all.first());
            return Err(catalog.missing(&names.map_or(String::new(), embedding)));
        };
        let mut planner = Planner {
            catalog,
            quantization,
            used: 0,
            schemes: Vec::new(),
            differ: Vec::new(),
        };
        let weights = planner.weights(config, names)?;
        planner.nothing_left(config, names, &weights, warnings)?;
        planner.compare_with_config(warnings);
        Ok(Planned {
            weights,
            names: *names,
            as_said: planner.differ.is_empty(),
            schemes: planner.schemes,
        })
    }
}

struct Planner<'a> {
    catalog: &'a Catalog,
    quantization: &'a Quantization,
    used: usize,
    schemes: Vec<(String, Scheme)>,
    /// Matrices that are packed otherwise than the config says: the path, what it says, what they are.
    differ: Vec<(String, Option<Scheme>, Option<Scheme>)>,
}

impl Planner<'_> {
    fn weights(&mut self, config: &DecoderConfig, names: &Names) -> Result<Weights<Tensor>> {
        let (hidden, vocab) = (config.hidden_size, config.vocab_size);
        let head = format!("{}lm_head", names.head);
        // Where the config does not say, a head that the index names and no file holds is missing, not tied.
        let head_weight = format!("{head}.weight");
        let embedding = format!("{}embed_tokens.weight", names.body);
        let tied = config.tie_word_embeddings.unwrap_or_else(|| {
            self.beside(&embedding, &head_weight).is_none()
                && !self.catalog.absent.contains_key(&head_weight)
        });
        Ok(Weights {
            embed_tokens: self.weight(&format!("{}embed_tokens", names.body), vocab, hidden)?,
            layers: (0..config.layers.len())
                .map(|index| self.block(config, &format!("{}layers.{index}.", names.body)))
                .collect::<Result<_>>()?,
            norm: self.norm(&format!("{}norm", names.body), hidden)?,
            lm_head: if tied {
                None
            } else {
                Some(self.linear(&head, vocab, hidden, false)?)
            },
        })
    }

    fn block(&mut self, config: &DecoderConfig, at: &str) -> Result<Block<Tensor>> {
        let (hidden, intermediate) = (config.hidden_size, config.mlp.intermediate_size);
        let attention = &config.attention;
        let (q, kv) = (
            attention.heads * attention.head_dim,
            attention.kv_heads * attention.head_dim,
        );
        let (bias, sandwich) = (
            attention.qkv_bias,
            config.norm_placement == NormPlacement::Sandwich,
        );
        let path = |leaf: &str| format!("{at}{leaf}");
        Ok(Block {
            q_proj: self.linear(&path("self_attn.q_proj"), q, hidden, bias)?,
            k_proj: self.linear(&path("self_attn.k_proj"), kv, hidden, bias)?,
            v_proj: self.linear(&path("self_attn.v_proj"), kv, hidden, bias)?,
            o_proj: self.linear(&path("self_attn.o_proj"), hidden, q, attention.o_bias)?,
            q_norm: self.norm_if(
                attention.qk_norm,
                &path("self_attn.q_norm"),
                attention.head_dim,
            )?,
            k_norm: self.norm_if(
                attention.qk_norm,
                &path("self_attn.k_norm"),
                attention.head_dim,
            )?,
            gate_proj: self.linear(
                &path("mlp.gate_proj"),
                intermediate,
                hidden,
                config.mlp.bias,
            )?,
            up_proj: self.linear(&path("mlp.up_proj"), intermediate, hidden, config.mlp.bias)?,
            down_proj: self.linear(
                &path("mlp.down_proj"),
                hidden,
                intermediate,
                config.mlp.bias,
            )?,
            input_layernorm: self.norm(&path("input_layernorm"), hidden)?,
            post_attention_layernorm: self.norm(&path("post_attention_layernorm"), hidden)?,
            pre_feedforward_layernorm: self.norm_if(
                sandwich,
                &path("pre_feedforward_layernorm"),
                hidden,
            )?,
            post_feedforward_layernorm: self.norm_if(
                sandwich,
                &path("post_feedforward_layernorm"),
                hidden,
            )?,
        })
    }

    fn linear(&mut self, path: &str, out: i32, input: i32, bias: bool) -> Result<Linear<Tensor>> {
        let weight = self.weight(path, out, input)?;
        let bias = if bias {
            Some(self.float(&format!("{path}.bias"), &[out])?)
        } else {
            None
        };
        Ok(Linear { weight, bias })
    }

    /// `[out, input]`, dense or packed: packed where there are scales beside it.
    fn weight(&mut self, path: &str, out: i32, input: i32) -> Result<Weight<Tensor>> {
        let (name, scales) = (format!("{path}.weight"), format!("{path}.scales"));
        let found = self.beside(&name, &scales);
        let packed = match (found, self.catalog.get(&name)) {
            (Some(found), Some(weight)) => Some((weight, found)),
            (None, Some(weight)) if weight.dtype == Dtype::U32 => {
                return Err(self.catalog.missing(&scales));
            }
            // The weight itself is missing, which the search for it says.
            _ => None,
        };
        let said = self.quantization.said(path, found.is_some());
        let scheme = match packed {
            None => None,
            Some((weight, scales)) => Some(self.scheme(path, out, input, weight, scales)?),
        };
        if said != scheme {
            self.differ.push((path.to_owned(), said, scheme));
        }
        let Some(scheme) = scheme else {
            return Ok(Weight::Dense(self.float(&name, &[out, input])?));
        };
        self.schemes.push((path.to_owned(), scheme));
        let groups = [out, input / scheme.group_size];
        // Legal combinations of bits and group size make this a whole number.
        let columns = groups[1] * (scheme.group_size * scheme.bits / 32);
        let is_u32 = |dtype| dtype == Dtype::U32;
        let weight = self.tensor(&name, &[out, columns], is_u32, "U32")?;
        let (scales, biases) = if scheme.mode == Mode::Affine {
            let biases = format!("{path}.biases");
            (
                self.float(&scales, &groups)?,
                Some(self.float(&biases, &groups)?),
            )
        } else {
            let is_u8 = |dtype| dtype == Dtype::U8;
            (self.tensor(&scales, &groups, is_u8, "U8")?, None)
        };
        Ok(Weight::Quantized {
            weight,
            scales,
            biases,
            scheme,
        })
    }

    /// An optional tensor that belongs to another: one of a stray file does not belong to one of the index's.
    fn beside(&self, name: &str, other: &str) -> Option<&Tensor> {
        let is_stray = |tensor: &Tensor| self.catalog.is_stray(tensor.file);
        let of_index = self
            .catalog
            .get(name)
            .is_some_and(|tensor| !is_stray(tensor));
        let other = self.catalog.get(other)?;
        (!(of_index && is_stray(other))).then_some(other)
    }

    /// What the shapes say.
    fn scheme(
        &self,
        path: &str,
        out: i32,
        input: i32,
        weight: &Tensor,
        scales: &Tensor,
    ) -> Result<Scheme> {
        for (tensor, legal, words) in [
            (weight, weight.dtype == Dtype::U32, "U32"),
            (
                scales,
                scales.dtype.is_float() || scales.dtype == Dtype::U8,
                "F32, F16, BF16 or U8",
            ),
        ] {
            if !legal {
                return Err(self.other_type(tensor, words));
            }
        }
        match (weight.shape.as_slice(), scales.shape.as_slice()) {
            (&[rows, columns], &[scale_rows, groups]) if rows == out && scale_rows == out => {
                Scheme::of_shapes(input, columns, groups, scales.dtype)
                    .map_err(|why| Error::bad_model(format!("\"{path}\" {why}")))
            }
            (shape, scale_shape) => Err(Error::bad_model(format!(
                "\"{path}\" is packed as {shape:?} with scales {scale_shape:?}, and config.json implies {out} rows of {input} \
                 elements"
            ))),
        }
    }

    fn norm(&mut self, path: &str, size: i32) -> Result<Tensor> {
        self.float(&format!("{path}.weight"), &[size])
    }

    fn norm_if(&mut self, wanted: bool, path: &str, size: i32) -> Result<Option<Tensor>> {
        wanted.then(|| self.norm(path, size)).transpose()
    }

    fn float(&mut self, name: &str, shape: &[i32]) -> Result<Tensor> {
        self.tensor(name, shape, Dtype::is_float, "F32, F16 or BF16")
    }

    fn tensor(
        &mut self,
        name: &str,
        shape: &[i32],
        legal: fn(Dtype) -> bool,
        words: &str,
    ) -> Result<Tensor> {
        let tensor = self
            .catalog
            .get(name)
            .ok_or_else(|| self.catalog.missing(name))?;
        if tensor.shape != shape {
            return Err(Error::bad_model(format!(
                "tensor \"{name}\" has the shape {:?}, and config.json implies {shape:?}",
                tensor.shape
            )));
        }
        if !legal(tensor.dtype) {
            return Err(self.other_type(tensor, words));
        }
        self.used += 1;
        Ok(tensor.clone())
    }

    fn other_type(&self, tensor: &Tensor, words: &str) -> Error {
        Error::bad_model(format!(
            "tensor \"{}\" is of type {}; it must be {words}",
            tensor.name,
            tensor.dtype.name()
        ))
    }

    /// A tensor that nothing uses means that the config and the weights are of two models, unless it lies in a stray file
    /// that nothing at all is used of.
    fn nothing_left(
        &self,
        config: &DecoderConfig,
        names: &Names,
        weights: &Weights<Tensor>,
        warnings: &mut Warnings,
    ) -> Result<()> {
        if self.used == self.catalog.tensors.len() {
            return Ok(());
        }
        let mut planned = HashSet::new();
        let mut files = HashSet::new();
        weights.for_each(&mut |tensor| {
            planned.insert(tensor.name.as_str());
            files.insert(tensor.file);
        });
        let head = format!("{}lm_head.", names.head);
        let dropped = |name: &str| {
            // Tables that old exporters wrote out, and the copy of a tied embedding.
            name.ends_with("rotary_emb.inv_freq")
                || (weights.lm_head.is_none() && name.starts_with(&head))
                || config.ignored.iter().any(|word| name.contains(word))
        };
        let all_indexed = !files.iter().any(|&file| self.catalog.is_stray(file));
        let mut strays = BTreeSet::new();
        let mut left = self
            .catalog
            .tensors
            .values()
            .filter(|tensor| !planned.contains(tensor.name.as_str()) && !dropped(&tensor.name))
            .filter(|tensor| {
                let stray = all_indexed && self.catalog.is_stray(tensor.file);
                if stray {
                    strays.insert(self.catalog.file_of(tensor));
                }
                !stray
            });
        if let Some(tensor) = left.next() {
            let more = left.count();
            return Err(Error::bad_model(format!(
                "the weights hold {} that config.json does not imply, such as \"{}\" in {}",
                if more == 0 {
                    "a tensor".to_owned()
                } else {
                    format!("{} tensors", more + 1)
                },
                tensor.name,
                self.catalog.file_of(tensor)
            )));
        }
        drop(left);
        for file in strays {
            warnings.add(format!(
                "{file}: is not in the index, and the model needs nothing of it; it is ignored"
            ));
        }
        Ok(())
    }

    fn compare_with_config(&self, warnings: &mut Warnings) {
        let Some((path, said, is)) = self.differ.first() else {
            return;
        };
        let shown = |scheme: &Option<Scheme>| scheme.map_or("plain".to_owned(), Scheme::shown);
        let which = match self.differ.len() {
            1 => format!("of \"{path}\""),
            count => format!("of {count} modules, such as \"{path}\","),
        };
        warnings.add(format!(
            "config.json's quantization {which} is not that of the weights: they are {}, not {}; the weights decide",
            shown(is),
            shown(said)
        ));
    }
}

impl<T> Weights<T> {
    /// The tensors of each module, in the order of computation: a matrix, its scales and biases, and then the bias.
    pub fn modules(&self) -> Vec<(Site, Vec<&T>)> {
        let mut all = vec![(Site::EMBED_TOKENS, self.embed_tokens.tensors())];
        for (index, block) in self.layers.iter().enumerate() {
            let of_block = block.modules().into_iter();
            all.extend(of_block.map(|(module, tensors)| (Site::block(index, module), tensors)));
        }
        all.push((Site::NORM, vec![&self.norm]));
        all.extend(
            self.lm_head
                .iter()
                .map(|head| (Site::LM_HEAD, head.tensors())),
        );
        all
    }

    /// Every matrix.
    pub fn for_each_weight<'a>(&'a self, f: &mut dyn FnMut(&'a Weight<T>)) {
        f(&self.embed_tokens);
        for block in &self.layers {
            block
                .linears()
                .into_iter()
                .for_each(|linear| f(&linear.weight));
        }
        self.lm_head.iter().for_each(|head| f(&head.weight));
    }

    /// Every bias and norm.
    pub fn for_each_vector<'a>(&'a self, f: &mut dyn FnMut(&'a T)) {
        for block in &self.layers {
            block
                .linears()
                .into_iter()
                .filter_map(|linear| linear.bias.as_ref())
                .for_each(&mut *f);
            block.norms().into_iter().for_each(&mut *f);
        }
        f(&self.norm);
        self.lm_head
            .iter()
            .filter_map(|head| head.bias.as_ref())
            .for_each(f);
    }

    /// Every norm.
    pub fn for_each_norm<'a>(&'a self, f: &mut dyn FnMut(&'a T)) {
        for block in &self.layers {
            block.norms().into_iter().for_each(&mut *f);
        }
        f(&self.norm);
    }

    /// Every tensor.
    pub fn for_each<'a>(&'a self, f: &mut dyn FnMut(&'a T)) {
        self.for_each_weight(&mut |weight| match weight {
            Weight::Dense(weight) => f(weight),
            Weight::Quantized {
                weight,
                scales,
                biases,
                ..
            } => {
                f(weight);
                f(scales);
                biases.iter().for_each(&mut *f);
            }
        });
        self.for_each_vector(f);
    }
}

impl<T> Weight<T> {
    pub(super) fn tensors(&self) -> Vec<&T> {
        match self {
            Weight::Dense(weight) => vec![weight],
            Weight::Quantized {
                weight,
                scales,
                biases,
                ..
            } => [weight, scales].into_iter().chain(biases).collect(),
        }
    }
}

impl<T> Linear<T> {
    fn tensors(&self) -> Vec<&T> {
        let mut all = self.weight.tensors();
        all.extend(&self.bias);
        all
    }
}

impl<T> Block<T> {
    fn modules(&self) -> Vec<(BlockModule, Vec<&T>)> {
        use BlockModule::*;
        let all = [
            (InputLayernorm, vec![&self.input_layernorm]),
            (QProj, self.q_proj.tensors()),
            (KProj, self.k_proj.tensors()),
            (VProj, self.v_proj.tensors()),
            (QNorm, self.q_norm.iter().collect()),
            (KNorm, self.k_norm.iter().collect()),
            (OProj, self.o_proj.tensors()),
            (PostAttentionLayernorm, vec![&self.post_attention_layernorm]),
            (
                PreFeedforwardLayernorm,
                self.pre_feedforward_layernorm.iter().collect(),
            ),
            (GateProj, self.gate_proj.tensors()),
            (UpProj, self.up_proj.tensors()),
            (DownProj, self.down_proj.tensors()),
            (
                PostFeedforwardLayernorm,
                self.post_feedforward_layernorm.iter().collect(),
            ),
        ];
        let there = all.into_iter().filter(|(_, tensors)| !tensors.is_empty());
        there.collect()
    }

    pub(super) fn norms(&self) -> Vec<&T> {
        let optional = [
            &self.q_norm,
            &self.k_norm,
            &self.pre_feedforward_layernorm,
            &self.post_feedforward_layernorm,
        ];
        let mut all: Vec<&T> = optional.into_iter().flatten().collect();
        all.extend([&self.input_layernorm, &self.post_attention_layernorm]);
        all
    }

    pub(super) fn linears(&self) -> [&Linear<T>; 7] {
        [
            &self.q_proj,
            &self.k_proj,
            &self.v_proj,
            &self.o_proj,
            &self.gate_proj,
            &self.up_proj,
            &self.down_proj,
        ]
    }
}
