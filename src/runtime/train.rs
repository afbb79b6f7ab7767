//! Training an adapter: the caller's thread tokenises, makes batches and calls back; the engine computes one step for each
//! turn that it is given, so that requests go on in between.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::engine::{self, Command};
use super::model::Model;
use super::prompt::{Conversation, Input, Prompt};
use super::worker::{Trim, Worker};
use crate::error::{Code, Error, Result};
use crate::mlx::memory;
use crate::model::training::StepSize;
use crate::train::data::{self, Line, Text};
use crate::train::{
    Batch, Batches, Optimizer, Order, Sample, Schedule, Shape, StepOptions, Trainer,
};

/// mlx-lm's.
const VALIDATION_BATCHES: usize = 25;
const MOST_BATCH: u32 = 1 << 16;
/// How often a suspended training looks whether it may go on.
const SUSPENDED_LOOK: Duration = Duration::from_millis(5);

#[derive(Clone, Debug)]
pub struct TrainOptions {
    /// JSONL.
    pub train: Vec<u8>,
    pub valid: Option<Vec<u8>>,
    pub mask_prompt: bool,
    pub steps: u64,
    pub batch_size: u32,
    /// The most tokens of a sample; the rest is cut.
    pub max_tokens: u32,
    /// Steps whose gradients are averaged for one update.
    pub accumulate: u32,
    /// Steps between events, validations, saves; 0: none but at the end.
    pub report_every: u32,
    pub validate_every: u32,
    pub save_every: u32,
    pub optimizer: Optimizer,
    pub schedule: Shape,
    pub learning_rate: f32,
    /// Updates over which the rate rises.
    pub warmup: u32,
    /// Of the adapter's inputs while it is trained.
    pub dropout: f32,
    pub checkpoint: bool,
    pub seed: u64,
}

impl Default for TrainOptions {
    /// mlx-lm's, with AdamW.
    fn default() -> Self {
        TrainOptions {
            train: Vec::new(),
            valid: None,
            mask_prompt: false,
            steps: 1000,
            batch_size: 4,
            max_tokens: 2048,
            accumulate: 1,
            report_every: 10,
            validate_every: 200,
            save_every: 100,
            optimizer: Optimizer::AdamW { weight_decay: 0.01 },
            schedule: Shape::Constant,
            learning_rate: 1e-5,
            warmup: 0,
            dropout: 0.0,
            checkpoint: false,
            seed: 0,
        }
    }
}

/// What happened since the event before.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TrainEvent {
    /// Steps done, of how many.
    pub step: u64,
    pub steps: u64,
    /// Predictions trained since the start.
    pub trained_tokens: u64,
    /// Samples of the training data that were cut.
    pub truncated_samples: u64,
    pub peak_bytes: u64,
    /// The mean over the steps.
    pub loss: f64,
    /// Before this step.
    pub validation_loss: Option<f64>,
    /// Without the time of validations, saves and callbacks.
    pub tokens_per_second: f64,
    /// Of the last update.
    pub learning_rate: f64,
}

/// What a training asks of its caller, on the caller's thread.
pub trait Observer {
    /// False: stop, and keep what there is.
    fn event(&mut self, event: &TrainEvent) -> bool;
    /// The adapter is to be saved: every `save_every` steps, then also under the step's number (`checkpoint`), and at the
    /// end.
    fn save(&mut self, step: u64, checkpoint: bool) -> Result<()>;
}

/// Trains the weights of an adapter of `model`, in place, until the last step or until the observer stops it. After an
/// error the adapter has the weights of the last good step.
pub fn train(
    model: &Arc<Model>,
    adapter: u64,
    options: &TrainOptions,
    observer: &mut dyn Observer,
) -> Result<()> {
    check(options)?;
    model.refuse_silent()?;
    let read = |what: &str, jsonl: &[u8]| samples(model, what, jsonl, options);
    let train = read("train", &options.train)?;
    let valid = options.valid.as_deref();
    let valid = valid.map(|jsonl| read("valid", jsonl)).transpose()?;
    train_on(model, adapter, train, valid, options, observer)
}

/// On texts that are tokens already.
pub(super) fn train_on(
    model: &Arc<Model>,
    adapter: u64,
    train: Vec<Sample>,
    valid: Option<Vec<Sample>>,
    options: &TrainOptions,
    observer: &mut dyn Observer,
) -> Result<()> {
    let (size, limit) = (options.batch_size as usize, options.max_tokens as usize);
    let mut batches = Batches::new("train", train, size, limit)?;
    let valid = valid.map(|samples| Batches::new("valid", samples, size, limit));
    let mut valid = valid.transpose()?;
    let training = Training::start(model, adapter, options)?;

    let mut order = Order::new(options.seed);
    let mut since = Since::default();
    let mut trained_tokens = 0;
    for step in 1..=options.steps {
        let batch = batches.next(&mut order)?;
        let last = step == options.steps;
        let validation_loss = match &mut valid {
            Some(valid) if step == 1 || last || is_due(step, options.validate_every) => {
                Some(training.validate(valid, &mut order)?)
            }
            _ => None,
        };
        let tokens = batch.tokens();
        let began = Instant::now();
        let report = training.step(batch)?;
        since.add(report.loss, tokens, began.elapsed());
        trained_tokens += tokens;
        let mut stop = false;
        if last || validation_loss.is_some() || is_due(step, options.report_every) {
            stop = !observer.event(&TrainEvent {
                step,
                steps: options.steps,
                trained_tokens,
                truncated_samples: batches.truncated(),
                peak_bytes: memory::peak(),
                loss: since.loss / since.steps as f64,
                validation_loss,
                tokens_per_second: since.tokens as f64 / since.time.as_secs_f64().max(1e-9),
                learning_rate: report.learning_rate.into(),
            });
            since = Since::default();
        }
        let checkpoint = is_due(step, options.save_every);
        if stop || last || checkpoint {
            observer.save(step, checkpoint)?;
        }
        if stop {
            break;
        }
    }
    Ok(())
}

fn is_due(step: u64, every: u32) -> bool {
    every > 0 && step.is_multiple_of(every.into())
}

/// What the next event tells.
#[derive(Default)]
struct Since {
    steps: u64,
    tokens: u64,
    loss: f64,
    time: Duration,
}

impl Since {
    fn add(&mut self, loss: f32, tokens: u64, time: Duration) {
        self.steps += 1;
        self.tokens += tokens;
        self.loss += f64::from(loss);
        self.time += time;
    }
}

fn check(options: &TrainOptions) -> Result<()> {
    let refuse = |what: String| Err(Error::invalid(what));
    if options.steps == 0 || options.accumulate == 0 {
        return refuse("options.steps and options.accumulate must be at least 1".into());
    }
    if options.steps < u64::from(options.accumulate) {
        return refuse(format!(
            "options.accumulate is {} and options.steps {}: there would be no update",
            options.accumulate, options.steps
        ));
    }
    if !(1..=MOST_BATCH).contains(&options.batch_size) {
        return refuse(format!(
            "options.batch_size is {}; it must be from 1 to {MOST_BATCH}",
            options.batch_size
        ));
    }
    if !(2..=1 << 20).contains(&options.max_tokens) {
        return refuse(format!(
            "options.max_tokens is {}; it must be from 2 to {}",
            options.max_tokens,
            1 << 20
        ));
    }
    if !(options.learning_rate.is_finite() && options.learning_rate > 0.0) {
        return refuse(format!(
            "options.learning_rate is {}; it must be above 0",
            options.learning_rate
        ));
    }
    let decay = match options.optimizer {
        Optimizer::AdamW { weight_decay } | Optimizer::Sgd { weight_decay } => weight_decay,
        Optimizer::Adam => 0.0,
    };
    if !(decay.is_finite() && decay >= 0.0) {
        return refuse(format!(
            "options.weight_decay is {decay}; it must be 0 or more"
        ));
    }
    if !(0.0..1.0).contains(&options.dropout) {
        return refuse(format!(
            "the adapter's dropout is {}; it must be at least 0 and below 1",
            options.dropout
        ));
    }
    Ok(())
}

/// Tokenises a data set as mlx-lm does.
fn samples(
    model: &Arc<Model>,
    what: &str,
    jsonl: &[u8],
    options: &TrainOptions,
) -> Result<Vec<Sample>> {
    let _room = crate::room::hold_for(data::cost(jsonl), what)?;
    data::parse(what, jsonl)?
        .into_iter()
        .map(|Line { number, text }| {
            crate::watch::look()?;
            let (tokens, prompt) = tokenise(model, text, options.mask_prompt)
                .map_err(|error| error.within(&data::place(what, number)))?;
            Ok(Sample::new(tokens, prompt, options.max_tokens as usize))
        })
        .collect()
}

/// The tokens, and how many of them are the prompt's.
pub(super) fn tokenise(
    model: &Arc<Model>,
    text: Text,
    mask_prompt: bool,
) -> Result<(Vec<i32>, usize)> {
    match text {
        Text::Plain(_) if mask_prompt => Err(Error::unsupported(
            "a \"text\" has no prompt that could be masked",
        )),
        Text::Plain(text) => {
            let input = Input::Text {
                text,
                no_bos: false,
                special_as_text: false,
            };
            let mut tokens = Prompt::new(model, &input, usize::MAX)?.after(&[])?;
            if let Some(eos) = eos(model) {
                if tokens.last() != Some(&eos) {
                    tokens.push(eos);
                }
            }
            Ok((tokens, 0))
        }
        Text::Chat {
            messages,
            before_last,
            last_is_answer,
            tools,
        } => {
            let render = |messages: String, generation_prompt: bool| {
                let input = Input::messages(Conversation {
                    messages,
                    tools: tools.clone(),
                    trust_content: true,
                    no_generation_prompt: !generation_prompt,
                    ..Conversation::default()
                });
                Prompt::new(model, &input, usize::MAX)?.after(&[])
            };
            let tokens = render(messages, false)?;
            let prompt = match before_last {
                Some(before) if mask_prompt => render(before, last_is_answer)?.len(),
                _ => 0,
            };
            Ok((tokens, prompt))
        }
    }
}

/// The token that ends a text.
fn eos(model: &Model) -> Option<i32> {
    let own = model.tokenizer.eos_token();
    own.and_then(|token| model.tokenizer.token_to_id(token))
        .or_else(|| model.defaults.eos_token_ids.first().copied())
        .filter(|&id| usize::try_from(id).is_ok_and(|id| id < model.vocab_size))
}

/// One that is under way on the engine, which forgets it when this goes.
struct Training<'a> {
    model: &'a Arc<Model>,
    adapter: u64,
    id: u64,
    checkpoint: bool,
}

struct Report {
    loss: f32,
    learning_rate: f32,
}

impl<'a> Training<'a> {
    fn start(model: &'a Arc<Model>, adapter: u64, options: &TrainOptions) -> Result<Self> {
        let accumulate = u64::from(options.accumulate);
        let options = StepOptions {
            optimizer: options.optimizer,
            schedule: Schedule {
                shape: options.schedule,
                rate: options.learning_rate,
                warmup: options.warmup.into(),
                updates: options.steps / accumulate,
            },
            accumulate,
            dropout: options.dropout,
            seed: options.seed,
            checkpoint: options.checkpoint,
        };
        let id = model.engine.next_id();
        let checkpoint = options.checkpoint;
        model.engine.call(move |worker| {
            worker.ask_system(0)?;
            let trainer = Trainer::new(worker.adapter(adapter)?, options)?;
            worker.trainers.insert(id, trainer);
            engine::reset_peak();
            Ok(())
        })?;
        Ok(Training {
            model,
            adapter,
            id,
            checkpoint,
        })
    }

    /// In a turn of the engine; not while the library is suspended, and not where the memory does not suffice.
    fn turn<T: Send + 'static>(
        &self,
        batch: &Batch,
        work: impl Fn(&mut Worker, &mut Trainer) -> Result<T> + Clone + Send + 'static,
    ) -> Result<T> {
        let size = StepSize {
            rows: batch.rows,
            width: batch.width,
            predictions: batch.places.len(),
            checkpoint: self.checkpoint,
        };
        loop {
            let (id, model, adapter) = (self.id, self.model.id, self.adapter);
            let work = work.clone();
            let outcome = self.model.engine.call(move |worker| {
                worker.ready_for(0)?;
                make_room(worker, model, adapter, size)?;
                with_trainer(worker, id, &work)
            });
            match outcome {
                Err(error) if error.code == Code::Suspended => std::thread::sleep(SUSPENDED_LOOK),
                outcome => return outcome,
            }
        }
    }

    fn step(&self, batch: Batch) -> Result<Report> {
        let (model, adapter) = (self.model.id, self.adapter);
        let batch = Arc::new(batch);
        let of = batch.clone();
        let report = self.turn(&batch, move |worker, trainer| {
            let step = trainer.step(worker.decoder(model)?, worker.adapter(adapter)?, &of)?;
            if let Some(update) = step.update {
                worker.change_adapter(adapter, |adapter| trainer.put(adapter, update))?;
            }
            // The next batch is of another length, and hardly a buffer would be used again.
            memory::clear_cache();
            Ok(Report {
                loss: step.loss,
                learning_rate: step.learning_rate,
            })
        });
        super::exit::watch_again();
        report
    }

    /// The mean over the predictions of the first batches of a new round.
    fn validate(&self, batches: &mut Batches, order: &mut Order) -> Result<f64> {
        batches.start(order);
        let (mut sum, mut tokens) = (0.0, 0);
        for _ in 0..batches.count().min(VALIDATION_BATCHES) {
            let batch = Arc::new(batches.next(order)?);
            tokens += batch.tokens();
            let (model, adapter, of) = (self.model.id, self.adapter, batch.clone());
            let loss = self.turn(&batch, move |worker, trainer| {
                let loss = trainer.loss(worker.decoder(model)?, worker.adapter(adapter)?, &of);
                memory::clear_cache();
                loss
            })?;
            sum += f64::from(loss) * batch.tokens() as f64;
        }
        Ok(sum / tokens as f64)
    }
}

impl Drop for Training<'_> {
    fn drop(&mut self) {
        let id = self.id;
        let forget = move |worker: &mut Worker| {
            worker.trainers.remove(&id);
            worker.trim(Trim::Buffers);
        };
        // Fails only when the engine ended, and then the trainer went with it.
        let _ = self.model.engine.send(Command::Do(Box::new(forget)));
    }
}

/// OUT_OF_MEMORY before anything is allocated.
fn make_room(worker: &mut Worker, model: u64, adapter: u64, size: StepSize) -> Result<()> {
    let cost = worker
        .decoder(model)?
        .training_cost(worker.adapter(adapter)?, size);
    if worker.make_room_for(cost) {
        return worker.ask_system(cost);
    }
    let StepSize { rows, width, .. } = size;
    let (active, limit) = (memory::active(), memory::limit());
    Err(Error::new(
        Code::OutOfMemory,
        format!(
            "a step on {rows} samples of {width} tokens takes up to {cost} bytes more, {active} are in use, and the limit is {limit}: try a smaller batch_size or max_tokens, or MLXRT_TRAIN_CHECKPOINT"
        ),
    ))
}

fn with_trainer<T>(
    worker: &mut Worker,
    id: u64,
    work: &impl Fn(&mut Worker, &mut Trainer) -> Result<T>,
) -> Result<T> {
    let mut trainer = worker
        .trainers
        .remove(&id)
        .ok_or_else(|| Error::internal("a training is gone"))?;
    let outcome = worker.twice(|worker| work(worker, &mut trainer));
    worker.trainers.insert(id, trainer);
    outcome
}
