//! A session from a file: its header first, compared with the model; then the tensors, one after the other, straight into MLX's
//! memory; and when the checksum is right, all of them at once to the engine.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use super::fit::{Fit, Plan, TokensPlan};
use super::{fingerprints, Versions};
use crate::dtype::Dtype;
use crate::error::{Code, Error, Result};
use crate::load::{check_finite, Checksum, Limits, SavedSession, Stored};
use crate::mlx::{Array, HostBuffer};
use crate::model::cache::{Cache, State, Tokens};
use crate::room;
use crate::runtime::adapter::{Adapter, LoadOptions};
use crate::runtime::answer::Answer;
use crate::runtime::model::{check_budget, loading, Model};
use crate::runtime::session::{Applied, Session};
use crate::watch;
use crate::words::quoted;

/// Bytes read between two looks at progress and watch: they are hashed while they are near.
const READ_STEP: usize = 1 << 20;

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
            if saved.written.is_none() && tensor.dtype != Dtype::U32 {
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
        Some(written) => (Some(written.long), written.answer.map(Answer::from)),
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
            Plan::Tokens { own, scheme, marks } => {
                let mut tokens = |plan: TokensPlan, marks| -> Result<Tokens> {
                    let [keys, values] = plan.tensors;
                    let mut all = |of: Vec<Stored>| of.iter().map(&mut array).collect();
                    let pair = [all(keys), all(values)];
                    let [keys, values]: [Result<Vec<Array>>; 2] = pair;
                    Tokens::restored(plan.extent, scheme, [keys?, values?], marks)
                };
                let mut kept = Vec::with_capacity(marks.len());
                for (offset, plan) in marks {
                    let plan = plan.map(|plan| tokens(plan, Vec::new()));
                    kept.push((offset, plan.transpose()?));
                }
                Cache::Tokens(tokens(own, kept)?)
            }
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
