//! Adapters fused into packed weights: what they do not change keeps its bytes, and what they change is at least as near to
//! the sum in f32 as mlx-lm's `fuse` is, weights and logits.

use std::path::Path;

use super::adapters::{adapter, logits, watch};
use super::saving::{load_adapter, load_from, numbers, tensors, Folder};
use super::*;
use crate::dtype::Dtype;
use crate::mlx::{fast, ops, Array};
use crate::model::adapter::{Adapter as Arrays, Part};
use crate::model::modules::Site;
use crate::model::{AdapterSet, Decoder, Weight};
use crate::runtime::adapter::{Adapter, AdapterOptions};
use crate::runtime::model::decoder_for_tests;
use crate::runtime::model_save::save;

fn folder_of(case: &str) -> std::path::PathBuf {
    parity::fixtures().join("models").join(case)
}

/// The names of the adapters and of their models, where those are packed.
fn over_packed() -> Vec<(String, String, String)> {
    let cases = parity::json("adapters.json");
    let text = |case: &serde_json::Value, key: &str| case[key].as_str().unwrap().to_owned();
    let all = cases.as_array().unwrap().iter().map(|case| {
        let config = std::fs::read(folder_of(&text(case, "model")).join("config.json")).unwrap();
        let config: serde_json::Value = serde_json::from_slice(&config).unwrap();
        let packed = config.get("quantization").is_some();
        let all = (text(case, "name"), text(case, "model"), text(case, "kind"));
        packed.then_some(all)
    });
    let all: Vec<_> = all.flatten().collect();
    assert!(all.len() >= 20, "{}", all.len());
    all
}

fn save_at(model: &Arc<Model>, one: &Arc<Adapter>, strength: f32, name: &str) -> Folder {
    let folder = Folder::new(name);
    let applied = vec![(one.clone(), strength)];
    save(model, &applied, &folder.0, watch(&mut |_, _| true)).unwrap();
    folder
}

/// Every tensor of `saved` is that of the model, byte for byte.
fn assert_untouched(case: &str, saved: &Path) {
    let (before, after) = (tensors(&folder_of(case)), tensors(saved));
    assert!(after.len() > 10);
    for (name, data) in &after {
        assert!(before.get(name) == Some(data), "{case}: {name}");
    }
}

#[test]
fn an_adapter_that_changes_nothing_leaves_every_byte() {
    let _lock = engine_lock();
    let mut count = 0;
    for case in parity::json("cases.json").as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        if !folder_of(name).join("model.safetensors").exists() {
            continue;
        }
        let model = load(name);
        for dora in [false, true] {
            let options = AdapterOptions {
                dora,
                keys: super::adapters::all_projections(),
                ..AdapterOptions::default()
            };
            let new = Arc::new(Adapter::create(model.clone(), &options).unwrap());
            assert_untouched(name, &save_at(&model, &new, 1.0, name).0);
            count += 1;
        }
    }
    // With embeddings and output layers.
    for (name, of, kind) in over_packed() {
        if kind == "lora" {
            let model = load(&of);
            let one = load_adapter(&model, &name);
            assert_untouched(&of, &save_at(&model, &one, 0.0, &name).0);
            count += 1;
        }
    }
    assert!(count > 80, "{count}");
}

/// B is zero for the second half of the outputs, and A for the first group of the inputs.
#[test]
fn rows_and_groups_that_an_adapter_does_not_change_keep_their_bytes() {
    let _lock = engine_lock();
    let mut count = 0;
    for case in parity::json("cases.json").as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        if !name.starts_with("qwen3-") || case["quantization"].is_null() {
            continue;
        }
        let model = load(name);
        let one = adapter(&model, 1, false);
        let module = "model.layers.0.mlp.down_proj";
        let before = tensors(&folder_of(name));
        let Some((_, shape, _)) = before.get(&format!("{module}.scales")) else {
            // One of a mixed model's, which is not packed.
            continue;
        };
        let (rows, groups) = (shape[0], shape[1]);
        let change = |half: &str, change: &dyn Fn(&mut [f32])| {
            let name = format!("{module}.{half}");
            let mut data = one.get(&name).unwrap();
            change(&mut data.values);
            one.set(&name, data).unwrap();
        };
        change("lora_a", &|a| {
            let group = a.len() / groups;
            a[..group].fill(0.0);
        });
        change("lora_b", &|b| {
            b.chunks_mut(rows).for_each(|row| row[rows / 2..].fill(0.0))
        });
        let folder = save_at(&model, &one, 1.0, name);
        let after = tensors(&folder.0);
        let mut changed = 0;
        for leaf in ["weight", "scales", "biases"] {
            let name = format!("{module}.{leaf}");
            let (Some((_, _, now)), Some((_, _, then))) = (after.get(&name), before.get(&name))
            else {
                assert_eq!(leaf, "biases");
                continue;
            };
            let size = now.len() / (rows * groups);
            for (index, (now, then)) in now.chunks(size).zip(then.chunks(size)).enumerate() {
                let (row, group) = (index / groups, index % groups);
                if row >= rows / 2 || group == 0 {
                    assert_eq!(now, then, "{name} row {row} group {group}");
                } else {
                    changed += usize::from(now != then);
                }
            }
        }
        // Where a row is one group, none is left to change.
        assert_eq!(changed > rows / 4, groups > 1, "{name}: {changed}");
        count += 1;
    }
    assert!(count >= 12, "{count}");
}

/// A module as `mlx_lm.fuse` makes it: unpacked to the scales' type, the product rounded to it and added, packed again; f32.
fn mlx_lm(stored: &Weight<Array>, site: Site, part: &Part, strength: f32) -> Result<Array> {
    let Part::Low {
        a,
        b,
        scale,
        magnitude,
        ..
    } = part
    else {
        panic!("mlx-lm fuses low ranks");
    };
    let (weight, scheme) = match stored {
        Weight::Dense(weight) => (weight.clone(), None),
        Weight::Quantized {
            weight,
            scales,
            biases,
            scheme,
        } => {
            let weight = ops::dequantize(weight, scales, biases.as_ref(), *scheme)?;
            (weight, Some(*scheme))
        }
    };
    let upright = |x: &Array| match site {
        Site::EMBED_TOKENS => Ok(x.clone()),
        _ if x.shape().len() == 3 => ops::transpose(x, &[0, 2, 1]),
        _ => ops::transpose(x, &[1, 0]),
    };
    let stacked = (a.shape().len() == 3).then(|| [a.dim(0), b.dim(2), a.dim(1)]);
    let by = Array::scalar(scale * strength, b.dtype())?;
    let delta = match site {
        Site::EMBED_TOKENS => ops::matmul(&ops::multiply(&by, a)?, b)?,
        _ => ops::matmul(&ops::multiply(&by, &upright(b)?)?, &upright(a)?)?,
    };
    // Experts lie one after the other.
    let delta = ops::reshape(&delta, weight.shape())?;
    let mut weight = ops::add(&weight, &ops::astype(&delta, weight.dtype())?)?;
    if let Some(magnitude) = magnitude {
        let squares = ops::sum(&ops::multiply(&weight, &weight)?, 1, true)?;
        let magnitude = ops::reshape(magnitude, &[magnitude.dim(0), 1])?;
        weight = ops::multiply(&ops::divide(&magnitude, &ops::sqrt(&squares)?)?, &weight)?;
    }
    let packed = match scheme {
        None => Weight::Dense(weight),
        Some(scheme) => {
            let (weight, scales, biases) = ops::quantize(&weight, scheme)?;
            Weight::Quantized {
                weight,
                scales,
                biases,
                scheme,
            }
        }
    };
    let (numbers, shape, _) = numbers(packed)?;
    let shape = stacked.map_or(shape.to_vec(), |shape| shape.to_vec());
    ops::reshape(&Array::from_f32(&numbers)?, &shape)
}

/// The whole weight of a module as it lies in a file.
fn stored(decoder: &Decoder, site: Site) -> Result<Weight<Array>> {
    let none = AdapterSet::default();
    Ok(decoder.fused(&none, site, 0..i32::MAX)?.tensors.weight)
}

/// What it is to be with an adapter, where it is packed.
fn wanted(decoder: &Decoder, set: &AdapterSet, site: Site) -> Result<Option<Array>> {
    let (Weight::Dense(rows) | Weight::Quantized { weight: rows, .. }) = stored(decoder, site)?;
    Ok(decoder.fused(set, site, 0..rows.dim(0))?.wanted)
}

fn prompts() -> Vec<Vec<i32>> {
    let token = |prompt: i32, i: i32| (prompt * 37 + i * (11 + 2 * prompt) + i * i) % 125;
    (0..12)
        .map(|prompt| (0..24).map(|i| token(prompt, i)).collect())
        .collect()
}

/// Root mean squares of the distances of the logits from the truth, as parts of that of the truth.
struct Distances {
    ours: f64,
    theirs: f64,
}

/// The truth: the unpacked base and the adapter's parts, computed in f32 one beside the other. Both models are computed in
/// f32, too, so that what is apart is what they hold.
fn distances(base: &Path, saved: &Path, adapter: &Arrays, strength: f32) -> Result<Distances> {
    let open = |path: &Path, wide| decoder_for_tests(path.to_str().unwrap(), wide);
    let (own, _) = open(base, false)?;
    let ((base, _), (saved, _)) = (open(base, true)?, open(saved, true)?);
    let scaled = |part: &Part| match part {
        Part::Low {
            a,
            b,
            scale,
            magnitude,
            tied,
        } => Part::Low {
            a: a.clone(),
            b: b.clone(),
            scale: scale * strength,
            magnitude: magnitude.clone(),
            tied: *tied,
        },
        Part::Full { .. } => panic!("over packed weights there are low ranks"),
    };
    let truth = Arrays::new(
        adapter
            .parts
            .iter()
            .map(|(site, part)| (*site, scaled(part)))
            .collect(),
    );
    let theirs = adapter.parts.iter().map(|(site, part)| {
        let weight = mlx_lm(&stored(&own, *site)?, *site, part, strength)?;
        let full = Part::Full {
            weight: Some(weight),
            bias: None,
            tied: true,
            copy: false,
        };
        Ok((*site, full))
    });
    let theirs = Arrays::new(theirs.collect::<Result<_>>()?);
    let none = Arrays::new(Vec::new());
    let (mut size, mut ours_off, mut theirs_off) = (0.0, 0.0, 0.0);
    for prompt in prompts() {
        let truth = logits(&base, &truth, true, &prompt)?;
        let square = |x: &[f32]| -> f64 {
            let both = x.iter().zip(&truth);
            both.map(|(x, y)| f64::from(x - y).powi(2)).sum()
        };
        size += square(&vec![0.0; truth.len()]);
        ours_off += square(&logits(&saved, &none, true, &prompt)?);
        theirs_off += square(&logits(&base, &theirs, true, &prompt)?);
    }
    Ok(Distances {
        ours: (ours_off / size).sqrt(),
        theirs: (theirs_off / size).sqrt(),
    })
}

/// In 8-bit floats whose scales are powers of two, both round each number to the nearest one that there is, but where MLX
/// cuts the largest off: they come out alike, and by chance a little to one side. So do a few matrices beside states, which pass a
/// rounding on to all later tokens. Together ours are nearer.
#[test]
fn logits_are_at_least_as_near_to_the_truth_as_those_of_mlx_lm() {
    let _lock = engine_lock();
    let (mut told, mut bad) = (Vec::new(), Vec::new());
    let mut alike = (0.0, 0.0);
    for (name, of, kind) in over_packed() {
        assert_ne!(kind, "full");
        for strength in [1.0, 0.3, 0.1, 0.01] {
            let model = load(&of);
            let one = load_adapter(&model, &name);
            let folder = save_at(&model, &one, strength, &name);
            let (id, base, saved) = (one.id(), folder_of(&of), folder.0.clone());
            let found = model.engine.call(move |worker| {
                let adapter = worker.adapter(id)?;
                fast::plainly(|| distances(&base, &saved, adapter, strength))
            });
            let Distances { ours, theirs } = found.unwrap();
            let line = format!("{name} at {strength}: {ours:.5}, mlx-lm {theirs:.5}");
            let mut bound = theirs;
            if of.contains("mxfp8") || of.contains("nemotron_h") {
                alike = (alike.0 + ours * ours, alike.1 + theirs * theirs);
                bound *= 1.03;
            }
            if ours.is_nan() || ours > bound {
                bad.push(line.clone());
            }
            told.push(line);
        }
    }
    println!("{}", told.join("\n"));
    assert!(bad.is_empty(), "{bad:#?}");
    assert!(alike.0 <= alike.1, "{alike:?}");
    assert!(told.len() >= 80);
}

/// The sum of squares of each group.
fn errors(given: &[f32], wanted: &[f32], group: usize) -> Vec<f64> {
    let groups = given.chunks(group).zip(wanted.chunks(group));
    let square = |(x, y): (&f32, &f32)| f64::from(x - y).powi(2);
    groups
        .map(|(given, wanted)| given.iter().zip(wanted).map(square).sum())
        .collect()
}

#[test]
fn no_group_is_farther_from_the_sum_than_mlx_packs_it() {
    let _lock = engine_lock();
    let (mut groups, mut nearer) = (0, 0);
    for (name, of, _) in over_packed() {
        let model = load(&of);
        let one = load_adapter(&model, &name);
        let folder = save_at(&model, &one, 1.0, &name);
        let again = load_from(&folder.0);
        let (before, after, id) = (model.id, again.id, one.id());
        let found = model.engine.call(move |worker| {
            let set = worker.set_to_fuse(before, &[(id, 1.0)])?;
            let parts = &worker.adapter(id)?.parts;
            let sites: Vec<Site> = parts.iter().map(|(site, _)| *site).collect();
            let mut all = Vec::new();
            for site in sites {
                let Some(wanted) = wanted(worker.decoder(before)?, &set, site)? else {
                    continue;
                };
                let (given, _, packing) = numbers(stored(worker.decoder(after)?, site)?)?;
                let (scheme, dtype) = packing.unwrap();
                let (weight, scales, biases) =
                    ops::quantize(&ops::astype(&wanted, dtype)?, scheme)?;
                let (mlx, _, _) = numbers(Weight::Quantized {
                    weight,
                    scales,
                    biases,
                    scheme,
                })?;
                let wanted = ops::astype(&wanted, Dtype::F32)?.to_f32()?;
                let group = scheme.group_size as usize;
                let ours = errors(&given, &wanted, group);
                all.extend(ours.into_iter().zip(errors(&mlx, &wanted, group)));
            }
            Ok(all)
        });
        for (ours, mlx) in found.unwrap() {
            assert!(
                ours <= mlx * 1.0001 + 1e-12,
                "{name}: {ours} where MLX has {mlx}"
            );
            groups += 1;
            nearer += usize::from(ours < 0.95 * mlx);
        }
    }
    println!("{nearer} of {groups} groups are nearer");
    assert!(
        groups > 10_000 && nearer > groups / 2,
        "{nearer} of {groups}"
    );
}
