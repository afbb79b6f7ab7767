//! A session from a file: its header first, compared with the model; then the tensors, one after the other, straight into MLX's
//! memory; and when the checksum is right, all of them at once to the engine.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use super::{fingerprints, Versions};
use crate::dtype::Dtype;
use crate::error::{Code, Error, Result};
use crate::load::{
    check_finite, Checksum, Limits, SavedLayer, SavedSession, SavedState, SavedTokens, Stored,
    Written,
};
use crate::mlx::{Array, HostBuffer};
use crate::model::cache::{Cache, CacheSpec, Extent, State, StateSpec, Tokens, TokensSpec, MARKS};
use crate::room;
use crate::runtime::adapter::{Adapter, LoadOptions};
use crate::runtime::model::{check_budget, loading, Model};
use crate::runtime::session::{Applied, Session, SessionOptions};
use crate::watch;
use crate::words::quoted;

/// Bytes read between two looks at progress and watch.
const READ_STEP: usize = 8 << 20;

pub(super) fn load(
    model: Arc<Model>,
    path: &Path,
    adapters: &[Arc<Adapter>],
    options: LoadOptions,
) -> Result<Session> {
    watch::during(loading(options.deadline), || {
        load_watched(model, path, adapters, options)
    })
}

fn load_watched(
    model: Arc<Model>,
    path: &Path,
    adapters: &[Arc<Adapter>],
    options: LoadOptions,
) -> Result<Session> {
    let saved = SavedSession::open(path, &Limits::DEFAULT)?;
    let fit = Fit {
        saved: &saved,
        model: &model,
    };
    let session_options = fit.check()?;
    let applied = match &saved.written {
        Some(written) => fit.adapters(written, adapters)?,
        None => Applied::new(),
    };
    let session =
        Session::new(model.clone(), session_options).map_err(|error| error.within(&saved.name))?;
    let plans = fit.layers(&session)?;
    let buffers = read(&model, &saved, &plans, options)?;
    let (versions, _) = fingerprints(&applied)?;
    session.apply(applied)?;
    give(&session, saved, versions, plans, buffers)?;
    Ok(session)
}

/// What a layer is made of, by the names of its tensors.
enum Plan {
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
    fn tensors(&self) -> Box<dyn Iterator<Item = &Stored> + '_> {
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
struct Fit<'a> {
    saved: &'a SavedSession,
    model: &'a Arc<Model>,
}

impl Fit<'_> {
    fn incompatible(&self, what: &str) -> Error {
        Error::new(Code::Incompatible, format!("{}: {what}", self.saved.name))
    }

    /// Whether it is of this model, as far as it says, and with which options it goes on.
    fn check(&self) -> Result<SessionOptions> {
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
    fn adapters(&self, written: &Written, there: &[Arc<Adapter>]) -> Result<Applied> {
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
    fn layers(&self, session: &Session) -> Result<Vec<Plan>> {
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

type Buffers = HashMap<String, HostBuffer>;

/// What the plans want, in the order of the file, all of which the checksum is of.
fn read(
    model: &Model,
    saved: &SavedSession,
    plans: &[Plan],
    options: LoadOptions,
) -> Result<Buffers> {
    let wanted: HashMap<&str, &Stored> = plans
        .iter()
        .flat_map(Plan::tensors)
        .map(|tensor| (tensor.name.as_str(), tensor))
        .collect();
    let total = wanted.values().map(|tensor| tensor.bytes);
    let total = total.fold(0, u64::saturating_add);
    let mut reader = Reader {
        saved,
        progress: options.progress,
        done: 0,
        total,
        checksum: saved.checksum.clone(),
    };
    room::ask(usize::try_from(total).unwrap_or(usize::MAX), 1, &saved.name)?;
    let mut buffers = Buffers::with_capacity(wanted.len());
    for tensor in &saved.tensors {
        if wanted.contains_key(tensor.name.as_str()) {
            // Again for each: others may have taken the room meanwhile, or the limit may have changed.
            check_budget(&model.engine, total.saturating_sub(reader.done))
                .map_err(|error| error.within(&saved.name))?;
            let buffer = reader.tensor(tensor)?;
            if saved.written.is_none() {
                check_finite(&tensor.name, buffer.bytes(), tensor.dtype, 0)
                    .map_err(|error| error.within(&saved.name))?;
            }
            buffers.insert(tensor.name.clone(), buffer);
        } else if saved.written.is_some() {
            reader.pass_over(tensor)?;
        }
    }
    match &saved.written {
        Some(written) if written.checksum != reader.checksum.digits() => {
            Err(Error::bad_model(format!(
                "{}: is damaged: its checksum is {}, and it says {}",
                saved.name,
                reader.checksum.digits(),
                quoted(&written.checksum, 40)
            )))
        }
        _ => Ok(buffers),
    }
}

struct Reader<'a, 'b> {
    saved: &'a SavedSession,
    progress: &'b mut dyn FnMut(u64, u64) -> bool,
    done: u64,
    total: u64,
    checksum: Checksum,
}

impl Reader<'_, '_> {
    fn tensor(&mut self, tensor: &Stored) -> Result<HostBuffer> {
        let bytes = usize::try_from(tensor.bytes).map_err(|_| {
            let message = format!("{}: a tensor is too large", self.saved.name);
            Error::new(Code::OutOfMemory, message)
        })?;
        let mut buffer = HostBuffer::new(bytes)?;
        while !buffer.is_full() {
            let before = buffer.filled();
            let got = buffer
                .read_some(&self.saved.file, tensor.offset + before as u64, READ_STEP)
                .map_err(|error| self.unreadable(tensor, &error))?;
            if got == 0 {
                return Err(Error::internal("a tensor is larger than its buffer"));
            }
            self.checksum.add(&buffer.bytes()[before..]);
            self.done += got as u64;
            if !(self.progress)(self.done, self.total) {
                return Err(Error::new(
                    Code::Cancelled,
                    "loading was stopped by the progress callback",
                ));
            }
            watch::look()?;
        }
        Ok(buffer)
    }

    /// Only for the checksum.
    fn pass_over(&mut self, tensor: &Stored) -> Result<()> {
        let mut at = 0;
        let step = tensor.bytes.min(READ_STEP as u64);
        let mut bytes = room::zeros(step as usize, &self.saved.name)?;
        while at < tensor.bytes {
            let count = (tensor.bytes - at).min(step) as usize;
            let part = &mut bytes[..count];
            std::os::unix::fs::FileExt::read_exact_at(&self.saved.file, part, tensor.offset + at)
                .map_err(|error| self.unreadable(tensor, &error))?;
            self.checksum.add(part);
            at += count as u64;
            watch::look()?;
        }
        Ok(())
    }

    fn unreadable(&self, tensor: &Stored, error: &std::io::Error) -> Error {
        let (name, tensor) = (&self.saved.name, quoted(&tensor.name, 160));
        let message = format!("{name}: tensor {tensor} cannot be read: {error}");
        match error.kind() {
            std::io::ErrorKind::UnexpectedEof => Error::bad_model(message),
            _ => Error::new(Code::Io, message),
        }
    }
}

/// The tokens to the session and what is computed of them to the engine.
fn give(
    session: &Session,
    saved: SavedSession,
    versions: Versions,
    plans: Vec<Plan>,
    mut buffers: Buffers,
) -> Result<()> {
    let SavedSession {
        written,
        tokens,
        cached,
        ..
    } = saved;
    let (long, answer) = match written {
        Some(written) => (Some(written.long), written.answer),
        None => (None, None),
    };
    if !plans.is_empty() {
        let computed = tokens.get(..cached as usize).unwrap_or_default().to_vec();
        let (spec, ledger) = (session.cache, session.ledger.clone());
        session.model.engine.call(move |worker| {
            let layers = || {
                let plans = plans.into_iter();
                plans.map(|plan| plan.into_cache(&mut buffers)).collect()
            };
            worker.restore(spec, &versions, computed, long, ledger, layers)
        })?;
    }
    let mut state = session.ledger.state();
    (state.tokens, state.answer) = (tokens, answer);
    Ok(())
}

impl Plan {
    fn into_cache(self, buffers: &mut Buffers) -> Result<Cache> {
        let mut array = |tensor: &Stored| -> Result<Array> {
            let buffer = buffers.remove(&tensor.name);
            let buffer = buffer.ok_or_else(|| Error::internal("a tensor was not read"))?;
            buffer.into_array(&tensor.shape, tensor.dtype)
        };
        Ok(match self {
            Plan::Tokens {
                extent,
                tensors: [keys, values],
            } => Cache::Tokens(Tokens::restored(extent, array(&keys)?, array(&values)?)),
            Plan::State {
                offset,
                arrays,
                marks,
            } => {
                let mut all = |arrays: Vec<Stored>| -> Result<Vec<Array>> {
                    arrays.iter().map(&mut array).collect()
                };
                let arrays = all(arrays)?;
                let marks = marks.into_iter();
                let marks = marks.map(|(offset, arrays)| Ok((offset, all(arrays)?)));
                let marks = marks.collect::<Result<Vec<_>>>()?;
                Cache::State(State::restored(offset, arrays, marks))
            }
        })
    }
}
