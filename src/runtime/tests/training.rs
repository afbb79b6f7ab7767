//! Training against mlx-lm's own trainer on the same samples (tests/fixtures/training.py), and what may go wrong.
//!
//! Bounds, relative: both run the same MLX primitives, but logits are made here only where a prediction is trained, padding
//! is shorter and the loss is computed in f32, so sums are rounded otherwise. f32: gradients 1e-4 of their norm, losses
//! 1e-4. bf16, where a logit has 8 bits: gradients 5 %, losses 1 %.

use std::collections::HashMap;

use safetensors::SafeTensors;
use serde_json::Value;

use super::parity::{f32s, fixtures, json};
use super::*;
use crate::error::Code;
use crate::mlx::{ops, Array};
use crate::model::adapter::{Adapter, Part};
use crate::model::training::Pass;
use crate::runtime::train::{train, train_on, Observer, TrainEvent, TrainOptions};
use crate::train::{Batches, Optimizer, Order, Sample, Schedule, Shape, StepOptions, Trainer};

/// f32 tensors by name.
type Tensors = HashMap<String, (Vec<i32>, Vec<f32>)>;

fn tensors(prefix: &str) -> Tensors {
    let bytes = std::fs::read(fixtures().join("train.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let own = file.names().into_iter().filter_map(|name| {
        let key = name.strip_prefix(prefix)?;
        let view = file.tensor(name).unwrap();
        let shape = view.shape().iter().map(|&n| n as i32).collect();
        Some((key.to_owned(), (shape, f32s(&file, name))))
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
                all.push(array.to_f32()?);
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
struct Log {
    events: Vec<TrainEvent>,
    saves: Vec<u64>,
    stop_at: Option<u64>,
}

impl Observer for Log {
    fn event(&mut self, event: &TrainEvent) -> bool {
        self.events.push(*event);
        self.stop_at.is_none_or(|step| event.step < step)
    }

    fn save(&mut self, step: u64) -> Result<()> {
        self.saves.push(step);
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
        let (gradient_bound, loss_bound) = if coarse { (0.05, 0.01) } else { (1e-4, 1e-4) };
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
        assert_eq!(log.saves, [options.steps]);
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
