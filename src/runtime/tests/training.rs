//! Training against mlx-lm's own trainer on the same samples (tests/fixtures/training.py), and what may go wrong.
//!
//! Bounds, relative: both run the same MLX primitives, but logits are made here only where a prediction is trained, padding
//! is shorter and the loss is computed in f32, so sums are rounded otherwise. f32: gradients 1e-4 of their norm, losses of
//! 20 steps 1e-4, weights at the end 1e-3. bf16, where a logit has 8 bits: gradients and losses 5 %.

use std::collections::HashMap;

use safetensors::SafeTensors;
use serde_json::Value;

use super::parity::{f32s, fixtures, json};
use super::*;
use crate::dtype::Dtype;
use crate::error::Code;
use crate::mlx::{fault, memory, ops, Array};
use crate::model::adapter::{Adapter, Part};
use crate::model::training::Pass;
use crate::runtime::adapter::{Adapter as Handle, AdapterOptions};
use crate::runtime::engine::{resume, suspend};
use crate::runtime::train::{tokenise, train, train_on, Observer, TrainEvent, TrainOptions};
use crate::train::{
    data, Batches, Optimizer, Order, Sample, Schedule, Shape, StepOptions, Trainer,
};

/// f32 tensors by name.
type Tensors = HashMap<String, (Vec<i32>, Vec<f32>)>;

fn tensors(prefix: &str) -> Tensors {
    let bytes = std::fs::read(fixtures().join("train.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let own = file.names().into_iter().filter_map(|name| {
        let key = name.strip_prefix(prefix)?;
        let view = file.tensor(name).unwrap();
        let mut shape: Vec<i32> = view.shape().iter().map(|&n| n as i32).collect();
        let mut data = f32s(&file, name);
        // Of experts, which mlx-lm has the other way around.
        if let [_, rows, columns] = shape[..] {
            let (rows, columns) = (rows as usize, columns as usize);
            let each = data.chunks(rows * columns).flat_map(|one| {
                let at = move |column: usize| (0..rows).map(move |row| one[row * columns + column]);
                (0..columns).flat_map(at)
            });
            data = each.collect();
            shape.swap(1, 2);
        }
        Some((key.to_owned(), (shape, data)))
    });
    let own: Tensors = own.collect();
    assert!(!own.is_empty(), "{prefix}");
    own
}

/// The modules of an adapter in the order of its parts, and the leaves of each.
fn leaves(model: &Model, tensors: &Tensors) -> Vec<(usize, Vec<String>)> {
    let mut all = Vec::new();
    for (index, module) in model.modules.iter().enumerate() {
        let full = ["model.", ""].map(|prefix| format!("{prefix}{}", module.name));
        for full in full {
            if tensors.contains_key(&format!("{full}.lora_a")) {
                let mut names = vec![format!("{full}.lora_a"), format!("{full}.lora_b")];
                names.extend(Some(format!("{full}.m")).filter(|m| tensors.contains_key(m)));
                all.push((index, names));
            }
        }
    }
    assert_eq!(
        all.iter().map(|(_, n)| n.len()).sum::<usize>(),
        tensors.len()
    );
    all
}

/// Puts an adapter of those arrays beside the model.
fn put(model: &Arc<Model>, tensors: &Tensors, scale: f32) -> u64 {
    let id = model.engine.next_id();
    let parts: Vec<_> = leaves(model, tensors)
        .into_iter()
        .map(|(module, names)| {
            let arrays: Vec<_> = names.iter().map(|name| tensors[name].clone()).collect();
            (model.modules[module].site, arrays)
        })
        .collect();
    let made = model.engine.call(move |worker| {
        let mut made = Vec::new();
        for (site, arrays) in parts {
            let mut arrays = arrays
                .iter()
                .map(|(shape, data)| ops::reshape(&Array::from_f32(data).unwrap(), shape).unwrap());
            let part = Part::Low {
                a: arrays.next().unwrap(),
                b: arrays.next().unwrap(),
                scale,
                magnitude: arrays.next(),
                tied: true,
            };
            made.push((site, part));
        }
        worker.add_adapter(id, Adapter::new(made));
        Ok(())
    });
    made.unwrap();
    id
}

/// All its arrays, in order.
fn get(model: &Arc<Model>, id: u64) -> Vec<Vec<f32>> {
    let got = model.engine.call(move |worker| {
        let mut all = Vec::new();
        for (_, part) in &worker.adapter(id)?.parts {
            let Part::Low {
                a, b, magnitude, ..
            } = part
            else {
                panic!("whole weights");
            };
            for array in [a, b].into_iter().chain(magnitude) {
                all.push(ops::astype(array, Dtype::F32)?.to_f32()?);
            }
        }
        Ok(all)
    });
    got.unwrap()
}

fn samples(list: &Value, limit: usize) -> Vec<Sample> {
    let sample = |pair: &Value| {
        let tokens = pair[0].as_array().unwrap().iter();
        let tokens = tokens.map(|id| id.as_i64().unwrap() as i32).collect();
        Sample::new(tokens, pair[1].as_u64().unwrap() as usize, limit)
    };
    list.as_array().unwrap().iter().map(sample).collect()
}

fn options(case: &Value) -> TrainOptions {
    let number = |key: &str| case[key].as_u64().unwrap();
    let small = |key: &str| number(key) as u32;
    TrainOptions {
        steps: number("steps"),
        batch_size: small("batch_size"),
        max_tokens: small("max_tokens"),
        accumulate: small("accumulate"),
        report_every: 1,
        validate_every: small("validate_every"),
        save_every: 0,
        optimizer: match case["optimizer"].as_str().unwrap() {
            "adamw" => Optimizer::AdamW { weight_decay: 0.01 },
            "adam" => Optimizer::Adam,
            _ => Optimizer::Sgd { weight_decay: 0.0 },
        },
        schedule: match case["schedule"].as_str().unwrap() {
            "cosine" => Shape::Cosine,
            "linear" => Shape::Linear,
            _ => Shape::Constant,
        },
        learning_rate: case["learning_rate"].as_f64().unwrap() as f32,
        warmup: small("warmup"),
        checkpoint: case["checkpoint"].as_bool().unwrap(),
        seed: number("seed"),
        ..TrainOptions::default()
    }
}

/// Keeps what it is told; stops at a step if it is to.
#[derive(Default)]
pub(super) struct Log {
    pub events: Vec<TrainEvent>,
    saves: Vec<(u64, bool)>,
    stop_at: Option<u64>,
}

impl Observer for Log {
    fn event(&mut self, event: &TrainEvent) -> bool {
        self.events.push(*event);
        self.stop_at.is_none_or(|step| event.step < step)
    }

    fn save(&mut self, step: u64, checkpoint: bool) -> Result<()> {
        self.saves.push((step, checkpoint));
        Ok(())
    }
}

fn distance(ours: &[f32], theirs: &[f32]) -> f64 {
    assert_eq!(ours.len(), theirs.len());
    let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
    let apart = ours.iter().zip(theirs).map(|(a, b)| f64::from(a - b));
    let own = theirs.iter().map(|&b| f64::from(b));
    norm(&mut { apart }) / norm(&mut { own }).max(1e-12)
}

/// The gradients of the first batch.
fn gradients(model: &Arc<Model>, id: u64, case: &Value, pass: Pass) -> (f32, u64, Vec<Vec<f32>>) {
    let limit = case["max_tokens"].as_u64().unwrap() as usize;
    let (samples, size) = (samples(&case["train"], limit), case["batch_size"].as_u64());
    let mut batches = Batches::new("train", samples, size.unwrap() as usize, limit).unwrap();
    let mut order = Order::new(case["seed"].as_u64().unwrap());
    let batch = batches.next(&mut order).unwrap();
    let of = model.id;
    let computed = model.engine.call(move |worker| {
        let adapter = worker.adapter(id)?;
        let options = StepOptions {
            optimizer: Optimizer::Adam,
            schedule: Schedule {
                shape: Shape::Constant,
                rate: 1.0,
                warmup: 0,
                updates: 1,
            },
            accumulate: 1,
            dropout: 0.0,
            seed: 0,
            checkpoint: false,
        };
        let trainer = Trainer::new(adapter, options)?;
        let decoder = worker.decoder(of)?;
        let (loss, arrays) = trainer.gradients(decoder, adapter, &batch, pass)?;
        let arrays = arrays.iter().map(Array::to_f32).collect::<Result<_>>()?;
        Ok((loss, batch.tokens(), arrays))
    });
    computed.unwrap()
}

#[test]
fn as_mlx_lm_trains() {
    let _lock = engine_lock();
    let cases = json("train.json")["cases"].clone();
    let mut farthest: Vec<(String, f64, f64, f64)> = Vec::new();
    for case in cases.as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let coarse = name.ends_with("bf16");
        let (gradient_bound, loss_bound) = if coarse { (0.05, 0.05) } else { (1e-4, 1e-4) };
        let model = load(case["model"].as_str().unwrap());
        let start = tensors(&format!("{name}/start/"));
        let scale = case["scale"].as_f64().unwrap() as f32;
        let id = put(&model, &start, scale);

        let wanted = tensors(&format!("{name}/grad/"));
        let names: Vec<String> = leaves(&model, &start)
            .into_iter()
            .flat_map(|(_, names)| names)
            .collect();
        let mut worst: f64 = 0.0;
        for checkpoint in [false, true] {
            let pass = Pass {
                checkpoint,
                ..Pass::default()
            };
            let (loss, tokens, grads) = gradients(&model, id, case, pass);
            assert_eq!(tokens, case["first_tokens"].as_u64().unwrap(), "{name}");
            let theirs = case["first_loss"].as_f64().unwrap();
            assert!(
                (f64::from(loss) - theirs).abs() < loss_bound * theirs,
                "{name}: {loss} {theirs}"
            );
            assert_eq!(grads.len(), names.len());
            for (key, grad) in names.iter().zip(&grads) {
                let far = distance(grad, &wanted[key].1);
                assert!(far < gradient_bound, "{name} {key}: {far}");
                worst = worst.max(far);
            }
        }

        let options = options(case);
        let limit = options.max_tokens as usize;
        let valid = Some(&case["valid"]).filter(|valid| !valid.is_null());
        let valid = valid.map(|valid| samples(valid, limit));
        let mut log = Log::default();
        let train = samples(&case["train"], limit);
        train_on(&model, id, train, valid, &options, &mut log).unwrap();
        let steps = case["steps_reported"].as_array().unwrap();
        assert_eq!(log.events.len(), steps.len());
        assert_eq!(log.saves, [(options.steps, false)]);
        let mut worst_loss: f64 = 0.0;
        for (event, theirs) in log.events.iter().zip(steps) {
            let number = |index: usize| theirs[index].as_f64().unwrap();
            let far = (event.loss - number(0)).abs() / number(0);
            assert!(far < loss_bound, "{name} step {}: {far}", event.step);
            worst_loss = worst_loss.max(far);
            let rate = (event.learning_rate - number(1)).abs();
            assert!(
                rate < 1e-6 * f64::from(options.learning_rate),
                "{name}: {event:?}"
            );
            assert_eq!(event.trained_tokens as f64, number(2), "{name}");
        }
        let measured = log
            .events
            .iter()
            .filter(|event| event.validation_loss.is_some());
        let measured: Vec<_> = measured.collect();
        let theirs = case["validations"].as_array().unwrap();
        assert_eq!(measured.len(), theirs.len(), "{name}");
        for (event, theirs) in measured.iter().zip(theirs) {
            assert_eq!(event.step, theirs[0].as_u64().unwrap() + 1);
            let (ours, theirs) = (event.validation_loss.unwrap(), theirs[1].as_f64().unwrap());
            assert!(
                (ours - theirs).abs() < loss_bound * theirs,
                "{name}: {ours} {theirs}"
            );
        }
        let end = tensors(&format!("{name}/end/"));
        let mut worst_end: f64 = 0.0;
        for (key, ours) in names.iter().zip(get(&model, id)) {
            let far = distance(&ours, &end[key].1);
            assert!(
                far < 10.0 * gradient_bound,
                "{name} {key} at the end: {far}"
            );
            worst_end = worst_end.max(far);
        }
        farthest.push((name.to_owned(), worst, worst_loss, worst_end));
    }
    for (name, gradient, loss, end) in farthest {
        println!(
            "{name}: gradients {gradient:.1e}, losses {loss:.1e}, weights at the end {end:.1e}"
        );
    }
}

#[test]
fn lines_become_the_tokens_that_mlx_lm_makes_of_them() {
    let _lock = engine_lock();
    let json = json("train.json");
    let list = json["tokens"].as_array().unwrap();
    for name in ["llama-f32", "qwen3-f32", "gemma3-text-f32"] {
        let model = load(name);
        let own = list.iter().filter(|case| case["model"] == name);
        let mut count = 0;
        for case in own {
            let line = case["line"].as_str().unwrap();
            let text = data::parse("train", line.as_bytes())
                .unwrap()
                .remove(0)
                .text;
            let (tokens, prompt) = tokenise(&model, text, case["mask"] == true).unwrap();
            assert_eq!(serde_json::json!(tokens), case["tokens"], "{name} {line}");
            assert_eq!(prompt, case["prompt"], "{name} {line}");
            count += 1;
        }
        assert_eq!(count, 8);
    }
}

const TASK: &str = concat!(
    "{\"prompt\": \"What is it?\", \"completion\": \"A cat.\"}\n",
    "{\"prompt\": \"Who are you?\", \"completion\": \"A dog, and a large one.\"}\n",
    "{\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}, {\"role\": \"assistant\", \"content\": \"Hello\"}]}\n",
    "{\"prompt\": \"Bye\", \"completion\": \"See you\"}\n",
);

/// The small task: answers by heart.
pub(super) fn task(steps: u64) -> TrainOptions {
    TrainOptions {
        train: TASK.into(),
        mask_prompt: true,
        steps,
        batch_size: 2,
        report_every: 1,
        save_every: 0,
        learning_rate: 0.01,
        ..TrainOptions::default()
    }
}

fn new_adapter(model: &Arc<Model>, dora: bool) -> Arc<Handle> {
    let options = AdapterOptions {
        dora,
        scale: 2.0,
        keys: ["q_proj", "v_proj", "o_proj", "down_proj"]
            .map(str::to_owned)
            .into(),
        ..AdapterOptions::default()
    };
    Arc::new(Handle::create(model.clone(), &options).unwrap())
}

fn answer(model: &Arc<Model>, adapters: Vec<(Arc<Handle>, f32)>) -> Vec<i32> {
    let session = session(model);
    session.apply(adapters).unwrap();
    run(
        &session,
        &Input::Tokens(vec![52, 106, 110, 78]),
        &exactly(8),
    )
    .tokens
}

fn losses(log: &Log) -> Vec<f64> {
    log.events.iter().map(|event| event.loss).collect()
}

/// Trains a new adapter: what it heard, the weights, and how it ended.
fn trained(model: &Arc<Model>, options: &TrainOptions) -> (Log, Vec<Vec<f32>>, Result<()>) {
    let adapter = new_adapter(model, false);
    let mut log = Log::default();
    let end = train(model, adapter.id(), options, &mut log);
    let weights = get(model, adapter.id());
    (log, weights, end)
}

#[test]
fn what_is_trained_is_learnt_and_live() {
    let _lock = engine_lock();
    for (case, dora) in [
        ("llama-f32", false),
        ("qwen3-4bit", true),
        ("llama-4bit-bf16", false),
    ] {
        let model = load(case);
        let adapter = new_adapter(&model, dora);
        let base = answer(&model, vec![]);
        let with = || answer(&model, vec![(adapter.clone(), 1.0)]);
        assert_eq!(with(), base, "{case}");
        let options = TrainOptions {
            valid: Some(TASK.into()),
            save_every: 25,
            report_every: 20,
            validate_every: 30,
            ..task(60)
        };
        let mut log = Log::default();
        train(&model, adapter.id(), &options, &mut log).unwrap();
        let steps: Vec<u64> = log.events.iter().map(|event| event.step).collect();
        assert_eq!(steps, [1, 20, 30, 40, 60]);
        assert_eq!(log.saves, [(25, true), (50, true), (60, false)]);
        let (first, last) = (&log.events[0], &log.events[4]);
        assert!(last.loss < 0.3 * first.loss, "{case}: {:?}", losses(&log));
        assert!(last.validation_loss.unwrap() < 0.3 * first.validation_loss.unwrap());
        assert!(last.tokens_per_second > 0.0 && last.peak_bytes > 0);
        assert_ne!(with(), base, "{case}");
        assert_eq!(answer(&model, vec![]), base, "{case}");
    }
}

/// F16 holds neither Adam's squares nor most of its changes: what rounding takes is kept beside the weights, so that such an
/// adapter learns what one of f32 learns, from steps far below what F16 tells apart.
#[test]
fn adapters_of_f16_learn_as_those_of_f32_do() {
    let _lock = engine_lock();
    for (case, dora, steps) in [
        ("llama-f32", false, 60),
        ("llama-f32", true, 20),
        ("qwen3-f16", true, 20),
        ("qwen3-4bit-f16", false, 60),
        ("llama-4bit-bf16", false, 20),
    ] {
        let model = load(case);
        let adapter = |dtype| {
            let options = AdapterOptions {
                dora,
                scale: 2.0,
                keys: ["q_proj", "v_proj", "down_proj"].map(str::to_owned).into(),
                dtype: Some(dtype),
                ..AdapterOptions::default()
            };
            Arc::new(Handle::create(model.clone(), &options).unwrap())
        };
        let learnt = |dtype, rate: f32| {
            let adapter = adapter(dtype);
            let base = answer(&model, vec![]);
            assert_eq!(answer(&model, vec![(adapter.clone(), 1.0)]), base, "{case}");
            let mut log = Log::default();
            let options = TrainOptions {
                learning_rate: rate,
                report_every: 1,
                ..task(steps)
            };
            train(&model, adapter.id(), &options, &mut log).unwrap();
            let info = adapter.info().unwrap();
            assert!(info.contains(dtype.name()), "{info}");
            let weights = get(&model, adapter.id());
            assert!(weights.iter().flatten().all(|weight| weight.is_finite()));
            (losses(&log), weights)
        };
        // Where much is learnt, a rounding of the first weights shows after some steps, this way or that.
        let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
        let rate = task(1).learning_rate;
        let (wide, narrow) = (learnt(Dtype::F32, rate).0, learnt(Dtype::F16, rate).0);
        let (a, b) = (mean(&wide), mean(&narrow));
        assert!((a - b).abs() <= 0.1 * a, "{case}: {a}, in F16 {b}");
        // Changes far below what F16 tells apart are kept until they are enough.
        let (wide, wide_weights) = learnt(Dtype::F32, 1e-6);
        let (narrow, narrow_weights) = learnt(Dtype::F16, 1e-6);
        for (step, (a, b)) in wide.iter().zip(&narrow).enumerate() {
            assert!(
                (a - b).abs() <= 0.01 * a,
                "{case}, step {step}: {a}, in F16 {b}"
            );
        }
        let start = |dtype| get(&model, adapter(dtype).id());
        for (index, (wide, narrow)) in wide_weights.iter().zip(&narrow_weights).enumerate() {
            // Of B, which began at 0: both have gone the same way.
            if start(Dtype::F32)[index].iter().any(|&weight| weight != 0.0) {
                continue;
            }
            let size: f64 = wide.iter().map(|a| f64::from(*a).powi(2)).sum();
            let off = wide
                .iter()
                .zip(narrow)
                .map(|(a, b)| f64::from(a - b).powi(2));
            let off: f64 = off.sum();
            assert!(size > 0.0 && off <= 0.25 * size, "{case}: {off} of {size}");
        }
    }
}

#[test]
fn requests_go_on_and_a_suspended_library_waits() {
    struct Busy<'a> {
        model: &'a Arc<Model>,
        base: Vec<i32>,
        other: Option<std::thread::JoinHandle<()>>,
        events: u64,
    }
    impl Observer for Busy<'_> {
        fn event(&mut self, event: &TrainEvent) -> bool {
            assert_eq!(answer(self.model, vec![]), self.base);
            if event.step == 2 {
                suspend(Some(std::time::Duration::from_secs(60))).unwrap();
                self.other = Some(std::thread::spawn(|| {
                    std::thread::sleep(std::time::Duration::from_millis(50));
                    resume().unwrap();
                }));
            }
            self.events += 1;
            // It must be over before the next request is made.
            if event.step == 3 {
                self.other.take().unwrap().join().unwrap();
            }
            true
        }
        fn save(&mut self, _: u64, _: bool) -> Result<()> {
            Ok(())
        }
    }
    let _lock = engine_lock();
    let model = load("llama-f32");
    let adapter = new_adapter(&model, false);
    let base = answer(&model, vec![]);
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let beside = {
        let (model, base, stop) = (model.clone(), base.clone(), stop.clone());
        std::thread::spawn(move || {
            let mut count = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                // Nothing where it was refused, since the library was suspended.
                let tokens = answer(&model, vec![]);
                assert!(tokens.is_empty() || tokens == base);
                count += 1;
            }
            count
        })
    };
    let mut busy = Busy {
        model: &model,
        base,
        other: None,
        events: 0,
    };
    train(&model, adapter.id(), &task(6), &mut busy).unwrap();
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(busy.events, 6);
    assert!(beside.join().unwrap() > 0);
}

#[test]
fn a_stop_keeps_what_there_is() {
    let _lock = engine_lock();
    let model = load("llama-f32");
    let (short, wanted, end) = trained(&model, &task(3));
    end.unwrap();
    let adapter = new_adapter(&model, false);
    let mut log = Log {
        stop_at: Some(3),
        ..Log::default()
    };
    train(&model, adapter.id(), &task(50), &mut log).unwrap();
    assert_eq!(losses(&log), losses(&short));
    assert_eq!(log.saves, [(3, false)]);
    assert_eq!(get(&model, adapter.id()), wanted);
}

#[test]
fn losses_that_are_no_numbers_end_it_with_the_last_good_weights() {
    let _lock = engine_lock();
    let model = load("llama-f32");
    let wild = |steps, learning_rate| TrainOptions {
        learning_rate,
        optimizer: Optimizer::Sgd { weight_decay: 0.0 },
        ..task(steps)
    };
    // Finite weights whose products are not.
    let (_, wanted, end) = trained(&model, &wild(1, 1e20));
    end.unwrap();
    let (log, weights, end) = trained(&model, &wild(9, 1e20));
    let error = end.unwrap_err();
    assert_eq!(error.code, Code::InvalidArgument);
    assert!(
        error.message.starts_with("the loss of step 2 is "),
        "{error}"
    );
    assert_eq!(log.events.len(), 1);
    assert_eq!(weights, wanted);
    // Weights that are not: nothing was good but the start.
    let start = get(&model, new_adapter(&model, false).id());
    let (log, weights, end) = trained(&model, &wild(9, f32::MAX));
    let error = end.unwrap_err();
    assert!(error.message.contains("step 1"), "{error}");
    assert!(log.events.is_empty() && log.saves.is_empty());
    assert_eq!(weights, start);
}

#[test]
fn dropout_and_checkpoints() {
    let _lock = engine_lock();
    let model = load("llama-f32");
    let with = |dropout, checkpoint, seed| {
        let options = TrainOptions {
            dropout,
            checkpoint,
            seed,
            // Each round has the one batch.
            batch_size: 4,
            ..task(5)
        };
        let (log, _, end) = trained(&model, &options);
        end.unwrap();
        losses(&log)
    };
    let plain = with(0.0, false, 1);
    let close = |a: &[f64], b: &[f64]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-4 * b);
    assert!(close(&with(0.0, true, 1), &plain));
    let dropped = with(0.3, false, 1);
    assert!(!close(&dropped, &plain));
    // The same is dropped when a block is computed again.
    assert!(close(&with(0.3, true, 1), &dropped));
    assert!(!close(&with(0.3, false, 2), &dropped));
}

#[test]
fn failures_of_mlx() {
    let _lock = engine_lock();
    let model = load("llama-f32");
    let on_engine = |work: fn(u64), n: u64| {
        model
            .engine
            .call(move |_| {
                work(n);
                Ok(())
            })
            .unwrap()
    };
    let (calm, wanted, end) = trained(&model, &task(3));
    end.unwrap();
    // Once, at some call of the training: the step is done again.
    for n in [1, 40, 333, 900] {
        let adapter = new_adapter(&model, false);
        on_engine(fault::fail_at, n);
        let mut log = Log::default();
        train(&model, adapter.id(), &task(3), &mut log).unwrap();
        assert_eq!(losses(&log), losses(&calm), "{n}");
        assert_eq!(get(&model, adapter.id()), wanted, "{n}");
    }
    // What another left on the stream is not held against it.
    let adapter = new_adapter(&model, false);
    on_engine(|_| fault::poison_stream(), 0);
    let mut log = Log::default();
    train(&model, adapter.id(), &task(3), &mut log).unwrap();
    assert_eq!(losses(&log), losses(&calm));
    // For good.
    let adapter = new_adapter(&model, false);
    let start = get(&model, adapter.id());
    on_engine(fault::fail_from, 50);
    let error = train(&model, adapter.id(), &task(3), &mut Log::default()).unwrap_err();
    on_engine(fault::fail_at, 0);
    assert_eq!(error.code, Code::Device);
    assert_eq!(get(&model, adapter.id()), start);
    let mut log = Log::default();
    train(&model, adapter.id(), &task(3), &mut log).unwrap();
    assert_eq!(losses(&log), losses(&calm));
}

#[test]
fn what_is_refused() {
    let _lock = engine_lock();
    let model = load("llama-f32");
    let error = |options: &TrainOptions| trained(&model, options).2.unwrap_err().message;
    let bad = |train: &str| {
        error(&TrainOptions {
            train: train.into(),
            ..task(1)
        })
    };
    assert_eq!(bad(""), "train has no samples");
    assert!(bad(&format!("{TASK}{{\n")).starts_with("train, line 5: not valid JSON"));
    assert!(bad("{\"text\": \"a\"}").starts_with("train, line 1: a \"text\" has no prompt"));
    let role = bad("\n{\"messages\": [{\"content\": \"a\"}]}");
    assert!(
        role.starts_with("train, line 2: messages[0].role is missing"),
        "{role}"
    );
    let few = error(&TrainOptions {
        batch_size: 5,
        ..task(1)
    });
    assert_eq!(few, "train has 4 samples, and batch_size is 5");
    let valid = error(&TrainOptions {
        valid: Some(b"{}".to_vec()),
        ..task(1)
    });
    assert!(valid.starts_with("valid, line 1: "), "{valid}");
    let rate = error(&TrainOptions {
        learning_rate: f32::NAN,
        ..task(1)
    });
    assert!(rate.starts_with("options.learning_rate is NaN"), "{rate}");
    assert!(error(&TrainOptions {
        accumulate: 2,
        ..task(1)
    })
    .contains("no update"));
    assert!(error(&TrainOptions {
        max_tokens: 1,
        ..task(1)
    })
    .contains("max_tokens is 1"));
    assert!(error(&TrainOptions {
        batch_size: 0,
        ..task(1)
    })
    .contains("batch_size is 0"));
    // Long samples are cut and counted.
    let cut = TrainOptions {
        max_tokens: 33,
        ..task(1)
    };
    let (log, _, end) = trained(&model, &cut);
    end.unwrap();
    assert!(
        (1..4).contains(&log.events[0].truncated_samples),
        "{:?}",
        log.events[0]
    );
    // Whole weights are not trained.
    let id = model.engine.next_id();
    let put = model.engine.call(move |worker| {
        let part = Part::Full {
            weight: Some(Array::from_f32(&[1.0; 32])?),
            bias: None,
            tied: true,
            copy: false,
        };
        let site = crate::model::modules::Site::NORM;
        worker.add_adapter(id, Adapter::new(vec![(site, part)]));
        Ok(())
    });
    put.unwrap();
    let error = train(&model, id, &task(1), &mut Log::default()).unwrap_err();
    assert_eq!(error.code, Code::Unsupported);
}

/// The estimate before a step is above what the step takes, and not absurdly.
#[test]
fn a_step_is_refused_before_it_takes_more_than_there_is() {
    let _lock = engine_lock();
    let long = "{\"text\": \"All the words of a long line, one after the other, again and again and again\"}\n";
    for case in ["llama-f32", "qwen3-4bit", "gemma3-text-bf16"] {
        let model = load(case);
        for (dora, checkpoint, batch_size, times) in [
            (false, false, 1, 1),
            (false, false, 4, 8),
            (false, true, 4, 8),
            (true, false, 2, 4),
            (true, true, 2, 4),
        ] {
            let words = long.replace("again and", &"again and ".repeat(times));
            let options = TrainOptions {
                train: words.repeat(batch_size as usize).into(),
                batch_size,
                checkpoint,
                steps: 2,
                report_every: 1,
                save_every: 0,
                learning_rate: 0.001,
                ..TrainOptions::default()
            };
            let adapter = new_adapter(&model, dora);
            model.engine.call(|_| Ok(())).unwrap();
            let before = memory::active();
            let mut log = Log::default();
            train(&model, adapter.id(), &options, &mut log).unwrap();
            let taken = log.events[1].peak_bytes - before;

            let (start, limit) = (get(&model, adapter.id()), memory::limit());
            model.engine.call(|_| Ok(())).unwrap();
            let refused = |room: u64| {
                memory::set_limit(memory::active() + room).unwrap();
                let end = train(&model, adapter.id(), &options, &mut Log::default());
                memory::set_limit(limit).unwrap();
                end.err()
            };
            let error = refused(taken).expect("less than it takes is refused");
            assert_eq!(error.code, Code::OutOfMemory);
            assert!(error.message.contains(" samples of "), "{error}");
            let number = error.message.split("takes up to ").nth(1).unwrap();
            let cost: u64 = number.split(' ').next().unwrap().parse().unwrap();
            println!("{case} dora {dora} checkpoint {checkpoint} {batch_size}: {cost} for {taken}");
            assert!(cost < 4 * taken, "{case}: {cost} for {taken}");
            assert_eq!(get(&model, adapter.id()), start);
            let fits = refused(cost + cost / 4);
            assert!(fits.is_none(), "{fits:?}");
        }
    }
}

#[test]
fn memory_comes_back() {
    let _lock = engine_lock();
    let model = load("llama-f32");
    let active = || {
        model.engine.call(|_| Ok(())).unwrap();
        memory::active()
    };
    let options = TrainOptions {
        checkpoint: true,
        ..task(3)
    };
    // The first one may make what MLX keeps.
    trained(&model, &options).2.unwrap();
    let before = active();
    trained(&model, &options).2.unwrap();
    assert_eq!(active(), before);
    // Also of one that fails in the middle.
    let wild = TrainOptions {
        learning_rate: f32::MAX,
        ..options
    };
    trained(&model, &wild).2.unwrap_err();
    assert_eq!(active(), before);
}
