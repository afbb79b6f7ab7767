//! A file's header beside the model that it is to go on with: whether they fit, and what is to be read.

use std::sync::Arc;

use crate::dtype::Dtype;
use crate::error::{Code, Error, Result};
use crate::load::{SavedLayer, SavedSession, SavedState, SavedTokens, Stored, Written};
use crate::model::cache::{CacheSpec, Extent, StateSpec, TokensSpec, MARKS};
use crate::runtime::adapter::Adapter;
use crate::runtime::model::Model;
use crate::runtime::session::{Applied, Session, SessionOptions};
use crate::words::quoted;

/// What a layer is made of, by the names of its tensors.
pub(super) enum Plan {
    Tokens {
        extent: Extent,
        tensors: [Stored; 2],
    },
    State {
        offset: i32,
        arrays: Vec<Stored>,
        marks: Vec<(i32, Vec<Stored>)>,
    },
}

impl Plan {
    pub fn tensors(&self) -> Box<dyn Iterator<Item = &Stored> + '_> {
        match self {
            Plan::Tokens { tensors, .. } => Box::new(tensors.iter()),
            Plan::State { arrays, marks, .. } => {
                let marks = marks.iter().flat_map(|(_, arrays)| arrays);
                Box::new(arrays.iter().chain(marks))
            }
        }
    }
}

/// A file beside the model that it is to go on with.
pub(super) struct Fit<'a> {
    pub saved: &'a SavedSession,
    pub model: &'a Arc<Model>,
}

impl Fit<'_> {
    fn incompatible(&self, what: &str) -> Error {
        Error::new(Code::Incompatible, format!("{}: {what}", self.saved.name))
    }

    /// Whether it is of this model, as far as it says, and with which options it goes on.
    pub fn check(&self) -> Result<SessionOptions> {
        let (saved, model) = (self.saved, self.model);
        let (tokens, context) = (saved.tokens.len(), model.context as usize);
        let mut options = SessionOptions::default();
        if let Some(written) = &saved.written {
            self.check_model(written)?;
            if written.context > model.context {
                return Err(self.incompatible(&format!(
                    "the session may have {} tokens, and the model is loaded with a context of {context}",
                    written.context
                )));
            }
            options = SessionOptions {
                context: written.context,
                window: written.window,
                keep: if written.keep == 0 { -1 } else { written.keep },
                kv_bits: written.kv_bits,
                kv_group_size: written.kv_group_size,
                kv_limit: written.kv_limit,
            };
        }
        if tokens > context {
            return Err(self.incompatible(&format!(
                "the session has {tokens} tokens, and the model is loaded with a context of {context}"
            )));
        }
        model
            .check_ids(&saved.tokens, "tokens")
            .map_err(|error| self.incompatible(&error.message))?;
        if saved.layers.len() != model.kept.len() {
            return Err(self.incompatible(&format!(
                "it has caches of {} layers, and the model has {}",
                saved.layers.len(),
                model.kept.len()
            )));
        }
        if saved.written.is_none() {
            // Where the model keeps all, its window is the session's.
            let pairs = saved.layers.iter().zip(&model.kept);
            let window = pairs.clone().find_map(|(layer, kept)| match (layer, kept) {
                (SavedLayer::Tokens(layer), (CacheSpec::Tokens(spec), _)) => {
                    layer.window.filter(|_| spec.window.is_none())
                }
                _ => None,
            });
            if let Some((size, keep)) = window {
                let size = u32::try_from(size).unwrap_or(0);
                options.window = size;
                options.keep = if keep == 0 { -1 } else { keep };
            }
        }
        Ok(options)
    }

    fn check_model(&self, written: &Written) -> Result<()> {
        let (model, own) = (self.model, &self.model.identity);
        if written.model_type != model.model_type {
            return Err(self.incompatible(&format!(
                "the session is of a model of type {}, and this one is of type {}",
                quoted(&written.model_type, 80),
                model.model_type
            )));
        }
        let parts = [
            ("weights are", &written.weights, &own.weights),
            ("config.json is", &written.config, &own.config),
            ("tokenizer is", &written.tokenizer, &own.tokenizer),
            ("chat template is", &written.template, &own.template),
        ];
        for (what, saved, own) in parts {
            if saved != own {
                return Err(self.incompatible(&format!(
                    "the session is of another model: its {what} {}, and this one's {own}",
                    quoted(saved, 40)
                )));
            }
        }
        Ok(())
    }

    /// Of the adapters that there are, those that it was saved with.
    pub fn adapters(&self, written: &Written, there: &[Arc<Adapter>]) -> Result<Applied> {
        let mut applied = Applied::new();
        for saved in &written.adapters {
            let mut found = None;
            for adapter in there.iter().filter(|adapter| adapter.is_of(self.model)) {
                let is_used = |(other, _): &(Arc<Adapter>, f32)| other.id() == adapter.id();
                if !applied.iter().any(is_used) && adapter.fingerprint()?.digits == saved.weights {
                    found = Some(adapter.clone());
                    break;
                }
            }
            let found = found.ok_or_else(|| {
                self.incompatible(&format!(
                    "the session was saved with an adapter, {}, that is not loaded: its weights are {}",
                    quoted(&saved.what, 80),
                    quoted(&saved.weights, 40)
                ))
            })?;
            applied.push((found, saved.scale));
        }
        Ok(applied)
    }

    /// Empty: there is nothing computed.
    pub fn layers(&self, session: &Session) -> Result<Vec<Plan>> {
        let (window, keep) = (session.cache.window, session.cache.keep);
        let mut plans = Vec::with_capacity(self.saved.layers.len());
        for (layer, (saved, (spec, dtype))) in
            self.saved.layers.iter().zip(&self.model.kept).enumerate()
        {
            let at = At {
                fit: self,
                layer,
                dtype: *dtype,
            };
            let plan = match (saved, spec) {
                (SavedLayer::Tokens(saved), CacheSpec::Tokens(own)) => {
                    let empty = spec.extent(window, keep);
                    let empty = empty.ok_or_else(|| Error::internal("keys without an extent"))?;
                    at.tokens(saved, own, empty)?
                }
                (SavedLayer::State(saved), CacheSpec::State(own)) => {
                    at.state(saved, own, self.saved.cached)?
                }
                (SavedLayer::Tokens(_), CacheSpec::State(_)) => {
                    return Err(at.wrong("has keys and values, and the model's has a state"))
                }
                (SavedLayer::State(_), CacheSpec::Tokens(_)) => {
                    return Err(at.wrong("has a state, and the model's has keys and values"))
                }
            };
            plans.extend(plan);
        }
        Ok(plans)
    }
}

/// One layer.
struct At<'a> {
    fit: &'a Fit<'a>,
    layer: usize,
    /// What it keeps.
    dtype: Dtype,
}

impl At<'_> {
    fn wrong(&self, what: &str) -> Error {
        self.fit
            .incompatible(&format!("layer {} {what}", self.layer))
    }

    fn tokens(
        &self,
        saved: &SavedTokens,
        spec: &TokensSpec,
        empty: Extent,
    ) -> Result<Option<Plan>> {
        let own = empty.window().map(|size| (size, empty.keep()));
        if saved.window != own {
            let words = |window: Option<(i32, i32)>| match window {
                Some((size, keep)) => format!("a window of {size} tokens that keeps {keep}"),
                None => "no window".to_owned(),
            };
            let (saved, own) = (words(saved.window), words(own));
            return Err(self.wrong(&format!("has {saved}, and the model's has {own}")));
        }
        let Some([keys, values]) = &saved.tensors else {
            return Ok(None);
        };
        let capacity = keys.shape.get(2).copied().unwrap_or(0);
        for (tensor, head_dim) in [(keys, spec.head_dims[0]), (values, spec.head_dims[1])] {
            self.check(tensor, &[1, spec.heads, capacity, head_dim], self.dtype)?;
        }
        let extent = empty.restored(saved.offset, saved.index, capacity);
        let extent = extent.ok_or_else(|| {
            Error::bad_model(format!(
                "{}: layer {} has room for {capacity} tokens, has seen {} and writes the next to {}, which cannot be",
                self.fit.saved.name, self.layer, saved.offset, saved.index
            ))
        })?;
        Ok(Some(Plan::Tokens {
            extent,
            tensors: [keys.clone(), values.clone()],
        }))
    }

    fn state(&self, saved: &SavedState, spec: &StateSpec, offset: i32) -> Result<Option<Plan>> {
        if saved.arrays.is_empty() {
            return Ok(None);
        }
        let all = saved.marks.iter().map(|(_, arrays)| arrays);
        for arrays in all.chain([&saved.arrays]) {
            if arrays.len() != spec.arrays.len() {
                return Err(self.wrong(&format!(
                    "has a state of {} arrays, and the model's has {}",
                    arrays.len(),
                    spec.arrays.len()
                )));
            }
            for (tensor, (shape, of)) in arrays.iter().zip(&spec.arrays) {
                self.check(tensor, shape, of.dtype(self.dtype))?;
            }
        }
        if saved.marks.len() > MARKS {
            return Err(self.wrong(&format!("has more than {MARKS} marks")));
        }
        Ok(Some(Plan::State {
            offset,
            arrays: saved.arrays.clone(),
            marks: saved.marks.clone(),
        }))
    }

    fn check(&self, tensor: &Stored, shape: &[i32], dtype: Dtype) -> Result<()> {
        if tensor.shape == shape && tensor.dtype == dtype {
            return Ok(());
        }
        Err(self.wrong(&format!(
            "has the tensor {} of shape {:?} and type {}, and the model's has {shape:?} and {}",
            quoted(&tensor.name, 80),
            tensor.shape,
            tensor.dtype.name(),
            dtype.name()
        )))
    }
}
