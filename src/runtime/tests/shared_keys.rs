//! Blocks that see what earlier ones kept, and get embeddings of their own: in pieces of any size, and without caches as in
//! training.

use super::parity::{farthest, fixtures};
use super::*;
use crate::dtype::Dtype;
use crate::kernels::Kernels;
use crate::mlx::{self, fast, grad, ops, Array, Device};
use crate::model::adapter::{Adapter, Part};
use crate::model::training::{Pass, Trained};
use crate::model::{AdapterSet, Decoder, Rows};
use crate::runtime::model::decoder_for_tests;

const MODELS: [&str; 4] = [
    "gemma4_text-f32",
    "gemma4_text-f32-dense",
    "gemma4-f32",
    "gemma3n-f32",
];

/// More than two windows.
fn tokens() -> Vec<i32> {
    (0..29).map(|i| (i * 37 + 11) % 119).collect()
}

/// Logits of the tokens, `[n, vocab]`, which come so many at a time.
fn logits(decoder: &Decoder, by: usize, rows: Rows) -> Vec<f32> {
    let mut caches = decoder.make_caches(None, 0);
    let adapters = AdapterSet::default();
    let mut all = Vec::new();
    for piece in tokens().chunks(by) {
        let piece = Array::from_i32(piece).unwrap();
        let hidden = decoder.forward(&piece, &mut caches, rows, &adapters);
        let logits = decoder.logits(&hidden.unwrap(), &adapters).unwrap();
        all.extend(ops::astype(&logits, Dtype::F32).unwrap().to_f32().unwrap());
    }
    all
}

#[test]
fn tokens_come_one_by_one_or_together() {
    let _lock = engine_lock();
    mlx::install_error_handler();
    for kernels in [false, true] {
        mlx::enter(Device::Cpu).unwrap();
        if kernels {
            fast::start(Kernels::new(2));
        }
        for name in MODELS {
            let folder = fixtures().join("models").join(name);
            let (decoder, vocab) = decoder_for_tests(folder.to_str().unwrap(), false).unwrap();
            let together = logits(&decoder, 29, Rows::All);
            assert_eq!(together.len(), 29 * vocab);
            for by in [1, 3, 11] {
                let apart = logits(&decoder, by, Rows::All);
                let worst = farthest(&apart, &together);
                assert!(worst < 1e-4, "{name}, {by} at a time: {worst}");
                // Of each piece its last row.
                let last = logits(&decoder, by, Rows::Last);
                let ends = (by..=29).step_by(by).chain((29 % by != 0).then_some(29));
                let wanted: Vec<f32> = ends
                    .flat_map(|end| apart[(end - 1) * vocab..end * vocab].to_vec())
                    .collect();
                let worst = farthest(&last, &wanted);
                assert!(worst < 1e-4, "{name}, last of {by}: {worst}");
            }
        }
        mlx::leave();
    }
}

/// mlx-lm makes no use of them and does not load a folder without them, nor an adapter where they are not.
#[test]
fn idle_keys_are_there_for_those_who_look() {
    let _lock = engine_lock();
    let model = load("gemma3n-f32");
    for name in ["k_proj", "v_proj", "k_norm"] {
        for layer in 0..5 {
            let name = format!("layers.{layer}.self_attn.{name}");
            assert!(model.modules.iter().any(|of| of.name == name), "{name}");
        }
    }
    let shared = load("gemma4_text-f32-hub");
    let own = |name: &str| shared.modules.iter().any(|of| of.name == name);
    assert!(own("layers.2.self_attn.k_proj") && !own("layers.3.self_attn.k_proj"));
}

/// On the kernels: what a chunk of a prompt takes, and what a token behind it.
#[test]
fn what_tokens_take_is_told_before() {
    let _lock = engine_lock();
    mlx::install_error_handler();
    mlx::enter(Device::Cpu).unwrap();
    fast::start(Kernels::new(2));
    for name in MODELS
        .into_iter()
        .chain(["gemma4_text-4bit", "gemma3n-bf16"])
    {
        let folder = fixtures().join("models").join(name);
        let (decoder, _) = decoder_for_tests(folder.to_str().unwrap(), false).unwrap();
        let mut caches = decoder.make_caches(None, 0);
        for n in [128, 128, 64, 1, 1, 128, 1] {
            let ids: Vec<i32> = (0..n).map(|i| (i * 31 + 7) % 100).collect();
            let ids = Array::from_i32(&ids).unwrap();
            mlx::memory::clear_cache();
            let told = decoder.cost(n, false, &caches).more;
            let before = mlx::memory::active();
            mlx::memory::reset_peak();
            let logits = decoder.next_logits(&ids, &mut caches, &AdapterSet::default());
            mlx::eval(&[&logits.unwrap()]).unwrap();
            let took = mlx::memory::peak() - before;
            assert!(
                took <= told + 8192,
                "{name}: {n} tokens took {took} bytes, {told} were told"
            );
        }
    }
    mlx::leave();
}

/// Low-rank parts beside some layers, with numbers that are not zero.
fn adapter(model: &Model) -> Adapter {
    let wanted = ["layers.0.self_attn.k_proj", "layers.2.self_attn.v_proj"];
    let wanted = |name: &str| wanted.contains(&name) || name == "per_layer_model_projection";
    let parts = model.modules.iter().filter(|module| wanted(&module.name));
    let parts = parts.map(|module| {
        let crate::load::ModuleShape::Linear { input, output, .. } = module.shape else {
            panic!("{} is no linear layer", module.name);
        };
        let wave = |count: i32, by: f32| {
            let numbers: Vec<f32> = (0..count).map(|i| 0.3 * (by * i as f32).sin()).collect();
            Array::from_f32(&numbers).unwrap()
        };
        let part = Part::Low {
            a: ops::reshape(&wave(2 * input, 0.7), &[input, 2]).unwrap(),
            b: ops::reshape(&wave(2 * output, 1.3), &[2, output]).unwrap(),
            scale: 1.0,
            magnitude: None,
            tied: true,
        };
        (module.site, part)
    });
    Adapter::new(parts.collect())
}

/// The logits of a pass for training are those of a request, and the gradients are the slopes.
#[test]
fn training_sees_the_same_and_gradients_reach_what_was_shared() {
    let _lock = engine_lock();
    for name in ["gemma4_text-f32", "gemma3n-f32"] {
        let model = load(name);
        let id = model.id;
        let shared = model.clone();
        let computed = model.engine.call(move |worker| {
            let decoder = worker.decoder(id)?;
            let mut own = adapter(&shared);
            assert!(own.parts.len() >= 2);
            let trained = Trained::of(&own)?;
            let parameters = trained.parameters(&own)?;
            let ids = tokens();
            let n = ids.len() as i32;
            let batch = ops::reshape(&Array::from_i32(&ids)?, &[1, n])?;
            let pass = |checkpoint| Pass {
                checkpoint,
                ..Pass::default()
            };
            let logits = |parameters: &[Array], checkpoint| {
                let hidden =
                    decoder.forward_training(&batch, &trained, parameters, pass(checkpoint))?;
                decoder.logits(&hidden.rows, &hidden.adapters)
            };
            let here = fast::with_gradients(|| logits(&parameters, false)?.to_f32())?;
            let mut set = AdapterSet::default();
            decoder.add_adapter(&mut set, &mut own, 1.0)?;
            let mut caches = decoder.make_caches(None, 0);
            let line = Array::from_i32(&ids)?;
            let hidden = decoder.forward(&line, &mut caches, Rows::All, &set)?;
            let there = decoder.logits(&hidden, &set)?.to_f32()?;
            // A sum of cosines of the logits: one number that all of them move.
            let loss = |parameters: &[Array], checkpoint| -> Result<Array> {
                let logits = logits(parameters, checkpoint)?;
                ops::sum(&ops::reshape(&ops::tanh(&logits)?, &[-1])?, 0, false)
            };
            let gradients = |checkpoint| {
                let work = |arrays: &[Array]| Ok(vec![loss(arrays, checkpoint)?]);
                let (_, gradients) = grad::value_and_grad(work, &parameters)?;
                gradients
                    .iter()
                    .map(Array::to_f32)
                    .collect::<Result<Vec<_>>>()
            };
            let (plain, again) = (gradients(false)?, gradients(true)?);
            let at = |index: usize, by: f32| -> Result<f32> {
                let mut moved = parameters.clone();
                moved[index] = ops::add(&moved[index], &Array::scalar(by, Dtype::F32)?)?;
                let value = fast::with_gradients(|| loss(&moved, false)?.to_f32())?;
                Ok(value[0])
            };
            let mut slopes = Vec::new();
            for index in 0..parameters.len() {
                slopes.push((at(index, 5e-4)? - at(index, -5e-4)?) / 1e-3);
            }
            Ok((here, there, plain, again, slopes))
        });
        let (here, there, plain, again, slopes) = computed.unwrap();
        let worst = farthest(&here, &there);
        assert!(worst < 1e-4, "{name}: logits {worst}");
        for (index, slope) in slopes.into_iter().enumerate() {
            // Every number moves by as much.
            let sum: f32 = plain[index].iter().sum();
            let near = (sum - slope).abs() < 0.02 * slope.abs().max(50.0);
            assert!(near, "{name}: gradient {index} is {sum}, the slope {slope}");
            let worst = farthest(&plain[index], &again[index]);
            assert!(worst < 1e-3, "{name}: checkpoints give others: {worst}");
        }
    }
}
