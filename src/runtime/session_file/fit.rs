//! A file's header beside the model that it is to go on with: whether they fit, and what is to be read.

use std::sync::Arc;

use crate::dtype::{Dtype, Scheme};
use crate::error::{Code, Error, Result};
use crate::load::{
    SavedLayer, SavedMark, SavedPair, SavedSession, SavedState, SavedTokens, Stored, Written,
};
use crate::model::cache::{CacheSpec, Extent, StateSpec, TokensSpec, MARKS, WINDOW_MARKS};
use crate::runtime::adapter::Adapter;
use crate::runtime::job::CacheSpec as CacheOptions;
use crate::runtime::model::Model;
use crate::runtime::session::{Applied, Session, SessionOptions};
use crate::words::quoted;

/// What a layer is made of, by the names of its tensors.
pub(super) enum Plan {
    Tokens {
        own: TokensPlan,
        scheme: Option<Scheme>,
        marks: Vec<(i32, Option<TokensPlan>)>,
    },
    State {
        offset: i32,
        arrays: Vec<Stored>,
        marks: Vec<(i32, Vec<Stored>)>,
    },
}

pub(super) struct TokensPlan {
    pub extent: Extent,
    pub tensors: SavedPair,
}

impl Plan {
    pub fn tensors(&self) -> Box<dyn Iterator<Item = &Stored> + '_> {
        match self {
            Plan::Tokens { own, marks, .. } => {
                let marks = marks.iter().filter_map(|(_, kept)| kept.as_ref());
                let all = std::iter::once(own).chain(marks);
                Box::new(all.flat_map(|plan| plan.tensors.iter().flatten()))
            }
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
            let scheme = saved.layers.iter().find_map(|layer| match layer {
                SavedLayer::Tokens(layer) => layer.scheme,
                SavedLayer::State(_) => None,
            });
            if let Some(scheme) = scheme {
                options.kv_bits = scheme.bits.unsigned_abs();
                options.kv_group_size = scheme.group_size.unsigned_abs();
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
        let CacheOptions {
            window,
            keep,
            scheme,
            ..
        } = session.cache;
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
                    at.tokens(saved, own, empty, scheme)?
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
        scheme: Option<Scheme>,
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
        if saved.scheme != scheme {
            let words = |scheme: Option<Scheme>| match scheme {
                Some(Scheme {
                    bits, group_size, ..
                }) => format!("packed in {bits} bits by {group_size}"),
                None => "not packed".to_owned(),
            };
            let (saved, own) = (words(saved.scheme), words(scheme));
            return Err(self.wrong(&format!("is {saved}, and the session's are {own}")));
        }
        let Some(tensors) = &saved.tensors else {
            return Ok(None);
        };
        let plan = |offset, index, tensors: &SavedPair| {
            self.plan((offset, index), tensors, spec, (&empty, scheme))
        };
        let own = plan(saved.offset, saved.index, tensors)?;
        if empty.window().is_none() && !saved.marks.is_empty() {
            return Err(self.wrong("has marks and no window"));
        }
        if saved.marks.len() > WINDOW_MARKS {
            return Err(self.wrong(&format!("has more than {WINDOW_MARKS} marks")));
        }
        let mut marks = Vec::with_capacity(saved.marks.len());
        for SavedMark { offset, kept } in &saved.marks {
            let is_cut_to = *offset == saved.offset || own.extent.is_trimmable();
            let kept = match kept {
                Some((index, tensors)) => Some(plan(*offset, *index, tensors)?),
                None => None,
            };
            let depends = |kept: &TokensPlan| kept.extent.is_path_dependent();
            if kept.is_some() == is_cut_to || kept.as_ref().is_some_and(depends) {
                return Err(self.wrong(&format!("has a mark at {offset}, which cannot be")));
            }
            marks.push((*offset, kept));
        }
        Ok(Some(Plan::Tokens { own, scheme, marks }))
    }

    /// Arrays whose tokens an extent may say where they are.
    fn plan(
        &self,
        (offset, index): (i32, i32),
        tensors: &SavedPair,
        spec: &TokensSpec,
        (empty, scheme): (&Extent, Option<Scheme>),
    ) -> Result<TokensPlan> {
        let first = tensors.iter().flatten().next();
        let capacity = first.and_then(|tensor| tensor.shape.get(2).copied());
        let capacity = capacity.unwrap_or(0);
        let arrays = spec.arrays(capacity, self.dtype, scheme);
        for (tensors, arrays) in tensors.iter().zip(&arrays) {
            for (tensor, (dtype, shape)) in tensors.iter().zip(arrays) {
                self.check(tensor, shape, *dtype)?;
            }
        }
        let extent = empty.restored(offset, index, capacity);
        let extent = extent.ok_or_else(|| {
            Error::bad_model(format!(
                "{}: layer {} has room for {capacity} tokens, has seen {offset} and writes the next to {index}, which cannot be",
                self.fit.saved.name, self.layer
            ))
        })?;
        let tensors = tensors.clone();
        Ok(TokensPlan { extent, tensors })
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
