//! Embeddings: the caller's thread tokenises and sorts the texts by length; the engine computes a part of a pass in each turn that
//! it is given, so that requests go on in between.
//!
//! Short texts share a pass, in which each sees itself alone (`model/texts.rs`). Long ones of a model that looks back only, and
//! those of models with states, go through caches of their own, a part at a time, as prompts do.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::engine::{self, Command};
use super::estimate::prefill_step;
use super::model::Model;
use super::worker::Worker;
use crate::error::{Code, Error, Result};
use crate::load::SentencePooling;
use crate::mlx::{self, memory, ops, Array, Device};
use crate::model::{AdapterSet, Cache, Pooling, Rows, TextsPass};
use crate::room;
use crate::text::Specials;
use crate::watch::{self, Watch};

/// How often a suspended call looks whether it may go on.
const SUSPENDED_LOOK: Duration = Duration::from_millis(5);
/// Tokens of a pass: on the CPU more of them make no product faster.
const CPU_PASS: usize = 512;
const GPU_PASS: usize = 8192;
/// Bytes for each token and number of the hidden size that the kernels take beside MLX's arrays.
const SCRATCH: u64 = 64;
/// Norms below it count as this, as in PyTorch's `normalize`.
const SMALLEST_NORM: f64 = 1e-12;

pub struct EmbedOptions<'a> {
    /// None: all that the folder says of embeddings; where it says nothing, the last token of a model that looks back only, and
    /// the mean of one that sees both ways.
    pub pooling: Option<Pooling>,
    /// To a length of 1, whatever the folder says.
    pub normalize: bool,
    pub deadline: Option<Instant>,
    /// Tokens done, of how many; false stops.
    pub progress: &'a mut dyn FnMut(u64, u64) -> bool,
}

/// `[count, dim]`
pub struct Embeddings {
    pub count: usize,
    pub dim: usize,
    pub values: Vec<f32>,
}

/// How texts become numbers.
struct How {
    pooling: Pooling,
    prompt: String,
    lower: bool,
    /// Through the linear layers that the folder has behind the pooling.
    dense: bool,
    normalize: bool,
}

impl How {
    fn of(model: &Model, options: &EmbedOptions) -> Result<Self> {
        let plain = |pooling| How {
            pooling,
            prompt: String::new(),
            lower: false,
            dense: false,
            normalize: options.normalize,
        };
        if let Some(pooling) = options.pooling {
            return Ok(plain(pooling));
        }
        Ok(match &model.sentence {
            Err(error) => return Err(error.clone()),
            Ok(None) if model.both_ways => plain(Pooling::Mean),
            Ok(None) => plain(Pooling::Last),
            Ok(Some(sentence)) => How {
                pooling: match sentence.pooling {
                    SentencePooling::Mean => Pooling::Mean,
                    SentencePooling::Last => Pooling::Last,
                    SentencePooling::Cls => Pooling::Cls,
                },
                prompt: sentence.prompt.clone().unwrap_or_default(),
                lower: sentence.lower,
                dense: true,
                normalize: sentence.normalize || options.normalize,
            },
        })
    }
}

/// What the engine knows of the model.
struct Facts {
    /// Texts can share a pass.
    packs: bool,
    device: Device,
    blocks: usize,
    /// Tokens of one turn, through all blocks.
    step: usize,
}

/// Texts to numbers. A text's numbers do not depend on the others but by the rounding of products of more or fewer rows.
///
/// Errors: `InvalidArgument` and `ContextFull` name the text; `Unsupported` what the folder wants and is not here; `Suspended` when the
/// library is; `Timeout`, `Cancelled`, `OutOfMemory`, `BadModel` where the numbers are not finite.
pub fn embed(model: &Arc<Model>, texts: &[String], options: EmbedOptions) -> Result<Embeddings> {
    engine::refuse_when_suspended()?;
    if texts.is_empty() {
        return Err(Error::invalid("count is 0: there are no texts"));
    }
    let how = How::of(model, &options)?;
    let stops = model.clone();
    let watch = Watch {
        work: "embedding",
        deadline: options.deadline,
        stopped: Some(Box::new(move || stops.engine.refuse_when_ending())),
    };
    let tokens = watch::during(watch, || {
        let texts = texts.iter().enumerate();
        let texts = texts.map(|(index, text)| tokenise(model, &how, index, text));
        texts.collect::<Result<Vec<_>>>()
    })?;
    let id = model.id;
    let facts = model.engine.call(move |worker| {
        let device = worker.device();
        let decoder = worker.decoder(id)?;
        Ok(Facts {
            packs: decoder.packs_texts(),
            device,
            blocks: decoder.config().blocks.len(),
            step: prefill_step(device, decoder.config(), 0),
        })
    })?;
    let mut order: Vec<usize> = (0..tokens.len()).collect();
    // The longest first: what does not fit is told before anything is computed.
    order.sort_by_key(|&index| std::cmp::Reverse(tokens.get(index).map_or(0, Vec::len)));
    let total = tokens.iter().map(|tokens| tokens.len() as u64).sum();
    let mut out = Out {
        count: tokens.len(),
        values: Vec::new(),
        dim: 0,
    };
    let mut pause = Duration::ZERO;
    let mut done = 0;
    let mut rest = order.as_slice();
    while let Some((&first, _)) = rest.split_first() {
        let longest = tokens.get(first).map_or(0, Vec::len);
        let alone = !facts.packs || (longest > facts.pass() && !model.both_ways);
        let size = match alone {
            true => 1,
            false => facts.fit(
                rest.iter()
                    .map(|&index| tokens.get(index).map_or(0, Vec::len)),
            ),
        };
        let (batch, others) = rest.split_at(size.min(rest.len()));
        rest = others;
        let of: Vec<&[i32]> = batch
            .iter()
            .filter_map(|&index| tokens.get(index).map(Vec::as_slice))
            .collect();
        let before = done;
        let mut tell = |within: u64| {
            let late = |at: Instant| Instant::now() >= at + pause;
            if options.deadline.is_some_and(late) {
                let message = "embedding took longer than timeout_ms";
                return Err(Error::new(Code::Timeout, message));
            }
            match (options.progress)(before + within, total) {
                true => Ok(()),
                false => Err(Error::new(
                    Code::Cancelled,
                    "embedding was stopped by the progress callback",
                )),
            }
        };
        let pass = Pass {
            model,
            how: &how,
            facts: &facts,
            texts: &of,
            id: model.engine.next_id(),
        };
        let mut waited = Duration::ZERO;
        let rows = pass.run(alone, &mut tell, &mut waited)?;
        pause += waited;
        done += of.iter().map(|tokens| tokens.len() as u64).sum::<u64>();
        out.put(batch, &rows, how.normalize)?;
    }
    super::exit::watch_again();
    Ok(Embeddings {
        count: out.count,
        dim: out.dim,
        values: out.values,
    })
}

impl Facts {
    /// Tokens of a pass.
    fn pass(&self) -> usize {
        match self.device {
            Device::Cpu => CPU_PASS,
            Device::Gpu => GPU_PASS,
        }
    }

    /// How many of these texts, the longest first, are one pass; at least one.
    fn fit(&self, lengths: impl Iterator<Item = usize>) -> usize {
        let mut sum = 0;
        let fits = |&length: &usize| {
            sum += length;
            sum <= self.pass()
        };
        lengths.take_while(fits).count().max(1)
    }

    /// Blocks of one turn, for so many tokens.
    fn blocks_at_once(&self, tokens: usize) -> usize {
        (self.blocks * self.step / tokens.max(1)).max(1)
    }
}

fn tokenise(model: &Model, how: &How, index: usize, text: &str) -> Result<Vec<i32>> {
    watch::look()?;
    let place = format!("texts[{index}]");
    let _room = room::hold(text.len() + how.prompt.len(), 8, &place)?;
    let most = model.context as usize;
    let too_long = || {
        let message = format!("{place} has more than the {most} tokens that the model takes");
        Error::new(Code::ContextFull, message)
    };
    let whole;
    let text = match how.prompt.is_empty() && !how.lower {
        true => text,
        false => {
            whole = format!("{}{text}", how.prompt);
            whole.as_str()
        }
    };
    let lower;
    let text = match how.lower {
        true => {
            lower = text.to_lowercase();
            lower.as_str()
        }
        false => text,
    };
    let tokenizer = &model.tokenizer;
    let tokens = tokenizer.encode_framed(text, Specials::Recognise, most);
    let tokens = tokens.map_err(|error| match error.code {
        Code::ContextFull => too_long(),
        Code::InvalidArgument => error.within(&place),
        _ => error,
    })?;
    if tokens.len() > most {
        return Err(too_long());
    }
    if tokens.is_empty() {
        return Err(Error::invalid(format!("{place} has no tokens")));
    }
    model.check_ids(&tokens, &format!("the tokens of {place}"))?;
    Ok(tokens)
}

/// The rows of all texts, where they belong.
struct Out {
    count: usize,
    values: Vec<f32>,
    /// 0: not known yet.
    dim: usize,
}

impl Out {
    /// `rows`: of the texts with these numbers, one after the other.
    fn put(&mut self, texts: &[usize], rows: &[f32], normalize: bool) -> Result<()> {
        let dim = rows.len() / texts.len().max(1);
        if self.values.is_empty() {
            room::ask(self.count, dim * size_of::<f32>(), "the embeddings")?;
            self.dim = dim;
            self.values = vec![0.0; self.count * dim];
        }
        for (&text, row) in texts.iter().zip(rows.chunks_exact(dim.max(1))) {
            if !row.iter().all(|x| x.is_finite()) {
                let message = format!("the model's numbers are not finite for texts[{text}]");
                return Err(Error::bad_model(message));
            }
            let to = self.values.chunks_exact_mut(dim.max(1)).nth(text);
            let to = to.ok_or_else(|| Error::internal("an embedding of no text"))?;
            let factor = match normalize {
                true => {
                    let squares = row.iter().map(|&x| f64::from(x) * f64::from(x));
                    1.0 / squares.sum::<f64>().sqrt().max(SMALLEST_NORM)
                }
                false => 1.0,
            };
            for (to, &x) in to.iter_mut().zip(row) {
                *to = (f64::from(x) * factor) as f32;
            }
        }
        Ok(())
    }
}

/// What is under way on the engine.
pub(super) enum Embedding {
    Texts(TextsPass),
    /// One text, a part at a time.
    Parts {
        caches: Vec<Cache>,
        /// f32 `[hidden]`: the sum of its rows, or the one that is wanted.
        pooled: Option<Array>,
    },
}

/// Texts that are computed together. The engine forgets it when this goes.
struct Pass<'a> {
    model: &'a Arc<Model>,
    how: &'a How,
    facts: &'a Facts,
    texts: &'a [&'a [i32]],
    id: u64,
}

impl Pass<'_> {
    /// The rows of all texts, one after the other. A failure of MLX may be that of other work on the stream, so what failed is
    /// done once more.
    fn run(
        &self,
        alone: bool,
        tell: &mut dyn FnMut(u64) -> Result<()>,
        waited: &mut Duration,
    ) -> Result<Vec<f32>> {
        let mut once = || match alone {
            true => self.in_parts(tell, waited),
            false => self.together(tell, waited),
        };
        match once() {
            Err(error) if error.code == Code::Device => once(),
            outcome => outcome,
        }
    }

    fn together(
        &self,
        tell: &mut dyn FnMut(u64) -> Result<()>,
        waited: &mut Duration,
    ) -> Result<Vec<f32>> {
        let lengths: Arc<[usize]> = self.texts.iter().map(|text| text.len()).collect();
        let tokens: Arc<[i32]> = self.texts.concat().into();
        let (id, model, n) = (self.id, self.model.id, tokens.len());
        let longest = lengths.first().copied().unwrap_or(0);
        let blocks = self.facts.blocks_at_once(n);
        let mut more = true;
        let mut first = true;
        let mut turns = 0;
        while more {
            let (tokens, lengths) = (tokens.clone(), lengths.clone());
            more = self.turn(waited, move |worker| {
                let decoder = worker.decoder(model)?;
                let bytes = decoder.costs().texts(signed(n), signed(longest));
                let hidden = u64::from(decoder.config().hidden_size.unsigned_abs());
                let beside = hidden.saturating_mul(SCRATCH).saturating_mul(n as u64);
                make_room(worker, bytes, beside)?;
                worker.guarded(|worker| {
                    let mut pass = match worker.embeddings.remove(&id) {
                        Some(Embedding::Texts(pass)) if !first => pass,
                        _ => worker.decoder(model)?.begin_texts(&tokens, &lengths)?,
                    };
                    let more = worker.decoder(model)?.go_on(&mut pass, blocks)?;
                    mlx::eval(&[pass.rows()])?;
                    worker.embeddings.insert(id, Embedding::Texts(pass));
                    Ok(more)
                })
            })?;
            first = false;
            turns += 1;
            let through = (turns * blocks).min(self.facts.blocks);
            if more {
                tell((n * through / self.facts.blocks.max(1)) as u64)?;
            }
        }
        let (pooling, dense) = (self.how.pooling, self.how.dense);
        let rows = self.turn(waited, move |worker| {
            worker.guarded(|worker| {
                let Some(Embedding::Texts(pass)) = worker.embeddings.remove(&id) else {
                    return Err(gone());
                };
                let decoder = worker.decoder(model)?;
                let mut pooled = decoder.pooled(&pass, pooling)?;
                drop(pass);
                if dense {
                    pooled = decoder.through_dense(&pooled)?;
                }
                let rows = ops::contiguous(&pooled)?.to_f32()?;
                memory::clear_cache();
                Ok(rows)
            })
        })?;
        tell(n as u64)?;
        Ok(rows)
    }

    /// One text, through caches of its own.
    fn in_parts(
        &self,
        tell: &mut dyn FnMut(u64) -> Result<()>,
        waited: &mut Duration,
    ) -> Result<Vec<f32>> {
        let tokens: Arc<[i32]> = self.texts.concat().into();
        let (id, model, n) = (self.id, self.model.id, tokens.len());
        let pooling = self.how.pooling;
        let mut at = 0;
        while at < n {
            let end = (at + self.facts.step).min(n);
            let part = tokens.clone();
            self.turn(waited, move |worker| {
                let part = part.get(at..end).unwrap_or_default();
                let decoder = worker.decoder(model)?;
                let fresh;
                let caches = match worker.embeddings.get(&id) {
                    Some(Embedding::Parts { caches, .. }) if at > 0 => caches,
                    _ => {
                        let mut made = decoder.make_caches(None, 0);
                        made.iter_mut()
                            .for_each(|cache| cache.expect(signed(n), signed(n)));
                        fresh = made;
                        &fresh
                    }
                };
                let bytes = decoder.cost(signed(part.len()), false, caches).more;
                let hidden = u64::from(decoder.config().hidden_size.unsigned_abs());
                let beside = hidden.saturating_mul(SCRATCH);
                let beside = beside.saturating_mul(part.len() as u64);
                make_room(worker, bytes, beside)?;
                worker.guarded(|worker| {
                    let taken = worker.embeddings_taken(id);
                    let decoder = worker.decoder(model)?;
                    let (mut caches, before) = match (at, taken) {
                        (0, _) => {
                            let mut made = decoder.make_caches(None, 0);
                            made.iter_mut()
                                .for_each(|cache| cache.expect(signed(n), signed(n)));
                            (made, None)
                        }
                        (_, Some(Embedding::Parts { caches, pooled })) => (caches, pooled),
                        _ => return Err(gone()),
                    };
                    let none = AdapterSet::default();
                    let ids = Array::from_i32(part)?;
                    let h = decoder.forward(&ids, &mut caches, Rows::All, &none)?;
                    let own = decoder.part_of_text(&h, pooling)?;
                    let pooled = match (pooling, before) {
                        (Pooling::Mean, Some(before)) => ops::add(&before, &own)?,
                        (Pooling::Cls, Some(before)) => before,
                        _ => own,
                    };
                    let mut wanted: Vec<&Array> = caches.iter().flat_map(Cache::arrays).collect();
                    wanted.extend([&h, &pooled]);
                    mlx::eval(&wanted)?;
                    drop(h);
                    memory::clear_cache();
                    let pooled = Some(pooled);
                    let kept = Embedding::Parts { caches, pooled };
                    worker.embeddings.insert(id, kept);
                    Ok(())
                })
            })?;
            at = end;
            tell(at as u64)?;
        }
        let dense = self.how.dense;
        self.turn(waited, move |worker| {
            worker.guarded(|worker| {
                let taken = worker.embeddings_taken(id);
                let Some(Embedding::Parts {
                    pooled: Some(pooled),
                    ..
                }) = taken
                else {
                    return Err(gone());
                };
                let mut pooled = ops::reshape(&pooled, &[1, pooled.dim(0)])?;
                if pooling == Pooling::Mean {
                    let count = Array::scalar(n as f32, crate::dtype::Dtype::F32)?;
                    pooled = ops::divide(&pooled, &count)?;
                }
                if dense {
                    pooled = worker.decoder(model)?.through_dense(&pooled)?;
                }
                ops::contiguous(&pooled)?.to_f32()
            })
        })
    }

    /// In a turn of the engine; not while the library is suspended.
    fn turn<T: Send + 'static>(
        &self,
        waited: &mut Duration,
        work: impl FnOnce(&mut Worker) -> Result<T> + Clone + Send + 'static,
    ) -> Result<T> {
        loop {
            let work = work.clone();
            let outcome = self.model.engine.call(move |worker| {
                worker.ready_for(0)?;
                work(worker)
            });
            match outcome {
                Err(error) if error.code == Code::Suspended => {
                    std::thread::sleep(SUSPENDED_LOOK);
                    *waited += SUSPENDED_LOOK;
                }
                outcome => return outcome,
            }
        }
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        let id = self.id;
        let forget = move |worker: &mut Worker| {
            worker.embeddings.remove(&id);
        };
        // Fails only when the engine ended, and then the pass went with it.
        let _ = self.model.engine.send(Command::Do(Box::new(forget)));
    }
}

fn gone() -> Error {
    Error::internal("a pass over texts is gone")
}

fn signed(n: usize) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

fn make_room(worker: &mut Worker, bytes: u64, beside: u64) -> Result<()> {
    worker.ready_for(bytes.saturating_add(beside))?;
    if worker.make_room_for(bytes) {
        return Ok(());
    }
    let (active, limit) = (memory::active(), memory::limit());
    Err(Error::new(
        Code::OutOfMemory,
        format!("embedding takes {bytes} bytes more for a while, {active} are in use, and the limit is {limit}"),
    ))
}

impl Worker {
    fn embeddings_taken(&mut self, id: u64) -> Option<Embedding> {
        self.embeddings.remove(&id)
    }

    /// Does what computes; after a failure of MLX what the stream has is dropped, and the error is DEVICE.
    fn guarded<T>(&mut self, work: impl FnOnce(&mut Worker) -> Result<T>) -> Result<T> {
        let outcome = work(self);
        if let Err(error) = &outcome {
            if matches!(error.code, Code::Device | Code::OutOfMemory) {
                self.recover(&[], error.clone());
            }
        }
        outcome
    }
}
