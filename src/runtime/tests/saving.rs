//! Models to disk, with and without adapters: what is loaded again is what was there, or computes what the session with
//! the adapters computed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::adapters::{adapter, history, watch};
use super::*;
use crate::dtype::{Dtype, Mode, Scheme};
use crate::error::Code;
use crate::mlx::{ops, Array};
use crate::model::Weight;
use crate::runtime::adapter::{Adapter, LoadOptions as AdapterLoad};
use crate::runtime::model_save::{save, save_in_shards};
use crate::runtime::session::Applied;
use crate::runtime::staging::SaveOptions;

/// A path that goes away.
pub(super) struct Folder(pub PathBuf);

impl Folder {
    pub fn new(name: &str) -> Self {
        let name = format!("mlxrt-saving-{name}-{}", std::process::id());
        let folder = Folder(std::env::temp_dir().join(name));
        let _ = std::fs::remove_dir_all(&folder.0);
        folder
    }

    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.0).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub(super) fn load_from(folder: &Path) -> Arc<Model> {
    Arc::new(load_folder(folder, None).unwrap())
}

/// Name → type, shape, bytes.
pub(super) type Tensors = BTreeMap<String, (String, Vec<usize>, Vec<u8>)>;

pub(super) fn tensors(folder: &Path) -> Tensors {
    let mut all = Tensors::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if !name.starts_with("model") || !name.ends_with(".safetensors") {
            continue;
        }
        let bytes = std::fs::read(path).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        for (name, view) in file.tensors() {
            let dtype = format!("{:?}", view.dtype());
            let data = (dtype, view.shape().to_vec(), view.data().to_vec());
            assert!(all.insert(name, data).is_none());
        }
    }
    all
}

/// All rows' logits.
pub(super) fn logits(
    model: &Arc<Model>,
    adapters: &[(&Arc<Adapter>, f32)],
    prompt: &[i32],
) -> Vec<f32> {
    let (of, prompt) = (model.id, prompt.to_vec());
    let ids = adapters
        .iter()
        .map(|(adapter, scale)| (adapter.id(), *scale));
    let ids: Vec<(u64, f32)> = ids.collect();
    let computed = model
        .engine
        .call(move |worker| worker.logits_for_tests(of, &ids, &prompt));
    computed.unwrap()
}

pub(super) fn load_adapter(model: &Arc<Model>, name: &str) -> Arc<Adapter> {
    let folder = parity::fixtures().join("adapters").join(name);
    let options = AdapterLoad {
        deadline: None,
        progress: &mut |_, _| true,
    };
    Arc::new(Adapter::load(model.clone(), folder.to_str().unwrap(), options).unwrap())
}

#[test]
fn without_adapters_it_is_what_was_loaded() {
    let _lock = engine_lock();
    let cases = parity::json("cases.json");
    let cases = cases.as_array().unwrap().iter();
    let cases = cases.map(|case| case["name"].as_str().unwrap());
    // And those of families with modules of other kinds, or that nothing computes with.
    let more = [
        "gemma3n-f32",
        "gemma3n-4bit",
        "gemma4-f32",
        "gemma4_text-4bit",
        "lfm2_moe-4bit",
        "qwen3_5-4bit",
        "qwen3_next-f32",
        "nemotron_h-f32",
        "granitemoehybrid-4bit",
        "kimi_linear-4bit",
        "deepseek_v3-4bit",
    ];
    let mut seen = 0;
    for name in cases.chain(more) {
        let original = parity::fixtures().join("models").join(name);
        if !original.join("model.safetensors").exists() && name != "qwen3-f32-shards" {
            continue;
        }
        seen += 1;
        let model = load(name);
        let folder = Folder::new(name);
        let mut told = Vec::new();
        let mut progress = |done, total| {
            told.push((done, total));
            true
        };
        save(&model, &vec![], &folder.0, watch(&mut progress)).unwrap();
        let total = told.last().unwrap().1;
        assert_eq!(told.last().unwrap().0, total);
        assert!(told.is_sorted());
        let (before, after) = (tensors(&original), tensors(&folder.0));
        for (name, data) in &after {
            assert!(before.get(name) == Some(data), "{name}");
        }
        // Only what belongs to no text model is left behind.
        let left = before.keys().filter(|name| !after.contains_key(*name));
        for name in left {
            let known = [
                "vision_tower",
                "audio_tower",
                "embed_vision",
                "embed_audio",
                "multi_modal_projector",
                "rotary_emb.inv_freq",
                "lm_head",
            ];
            assert!(known.iter().any(|word| name.contains(word)), "{name}");
        }
        for entry in std::fs::read_dir(&original).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if !name.starts_with("model") && !name.starts_with("expected") {
                let copy = std::fs::read(folder.0.join(name));
                assert_eq!(copy.unwrap(), std::fs::read(&path).unwrap(), "{name}");
            }
        }
        let again = load_from(&folder.0);
        assert_eq!(again.info(), model.info());
        let prompt = [5, 17, 101, 3, 64];
        assert_eq!(logits(&again, &[], &prompt), logits(&model, &[], &prompt));
    }
    assert!(seen >= 20, "{seen}");
}

#[test]
fn shards_and_a_folder_that_is_there() {
    let _lock = engine_lock();
    let model = load("qwen3-4bit");
    let folder = Folder::new("shards");
    save_in_shards(&model, &vec![], &folder.0, watch(&mut |_, _| true), 20_000).unwrap();
    let names = folder.names();
    let shards: Vec<&String> = names
        .iter()
        .filter(|name| name.starts_with("model-"))
        .collect();
    assert!(shards.len() > 2, "{names:?}");
    let count = shards.len();
    assert_eq!(shards[0], &format!("model-00001-of-{count:05}.safetensors"));
    for shard in &shards {
        let bytes = std::fs::read(folder.0.join(shard)).unwrap();
        let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        let metadata = header.metadata().as_ref().unwrap();
        assert_eq!(metadata["format"], "mlx");
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let own: usize = file
            .tensors()
            .iter()
            .map(|(_, view)| view.data().len())
            .sum();
        assert!(own <= 20_000 || file.len() == 1, "{shard}: {own}");
    }
    let index = std::fs::read(folder.0.join("model.safetensors.index.json")).unwrap();
    let index: serde_json::Value = serde_json::from_slice(&index).unwrap();
    let all = tensors(&folder.0);
    let total: usize = all.values().map(|(_, _, bytes)| bytes.len()).sum();
    assert_eq!(index["metadata"]["total_size"], total);
    let info: serde_json::Value = serde_json::from_str(model.info()).unwrap();
    assert_eq!(index["metadata"]["total_parameters"], info["parameters"]);
    assert_eq!(index["weight_map"].as_object().unwrap().len(), all.len());
    let original = parity::fixtures().join("models/qwen3-4bit");
    assert!(all == tensors(&original));
    load_from(&folder.0);

    // Another model in its place: its own files go, those that are nobody's stay.
    std::fs::write(folder.0.join("notes.txt"), "mine").unwrap();
    std::fs::write(folder.0.join("vocab.txt"), "of the model before").unwrap();
    let other = load("llama-f32");
    save(&other, &vec![], &folder.0, watch(&mut |_, _| true)).unwrap();
    let names = folder.names();
    assert!(!names
        .iter()
        .any(|name| name.starts_with("model-") || name == "vocab.txt"));
    assert!(names.contains(&"notes.txt".into()));
    assert!(!names.iter().any(|name| name.starts_with('.')), "{names:?}");
    assert_eq!(load_from(&folder.0).info(), other.info());

    // The folder that a model was loaded from.
    let own = load_from(&folder.0);
    let one = adapter(&own, 3, false);
    let wanted = logits(&own, &[(&one, 1.0)], &[1, 2, 3]);
    save(&own, &vec![(one, 1.0)], &folder.0, watch(&mut |_, _| true)).unwrap();
    let again = logits(&load_from(&folder.0), &[], &[1, 2, 3]);
    let far = parity::farthest(&again, &wanted);
    assert!(far < 1e-4, "{far}");
}

/// How far logits may be from those of the adapter beside the base, as a part of the largest logit. In 32 bits the sums
/// are rounded otherwise. In 16 bits the fused weight is rounded once, to 2^-9 (bf16) or 2^-12 (f16) of it. Packed ones
/// are packed anew, which costs what packing costs (`fusing.rs` compares that with mlx-lm's): the numbers of these small and
/// random models, with mlx-lm's packing, times 1.5.
fn fused_bound(model: &str) -> f32 {
    let of = |part: &str| model.contains(part);
    match () {
        _ if of("2bit") => 1.6,
        _ if of("3bit") || of("4bit") || of("mxfp4") || of("nvfp4") || of("mixed") => 0.8,
        _ if of("5bit") => 0.25,
        _ if of("6bit") || of("mxfp8") => 0.15,
        _ if of("8bit") => 0.04,
        _ if of("bf16") => 0.06,
        _ if of("f16") => 0.006,
        _ => 1e-5,
    }
}

#[test]
fn every_fixture_fused_is_the_session_with_it() {
    let _lock = engine_lock();
    let (mut told, mut bad) = (Vec::new(), Vec::new());
    let cases = parity::json("adapters.json");
    for case in cases.as_array().unwrap() {
        let (name, of) = (
            case["name"].as_str().unwrap(),
            case["model"].as_str().unwrap(),
        );
        let model = load(of);
        let one = load_adapter(&model, name);
        let prompt = [3, 77, 12, 50, 9, 110, 31];
        let wanted = logits(&model, &[(&one, 1.0)], &prompt);
        let base = logits(&model, &[], &prompt);
        let folder = Folder::new(name);
        save(
            &model,
            &vec![(one.clone(), 1.0)],
            &folder.0,
            watch(&mut |_, _| true),
        )
        .unwrap();
        let again = load_from(&folder.0);
        let given = logits(&again, &[], &prompt);
        let largest = wanted.iter().fold(0.0f32, |most, x| most.max(x.abs()));
        let far = parity::farthest(&given, &wanted) / largest;
        let bound = fused_bound(of);
        let change = parity::farthest(&base, &wanted) / largest;
        told.push(format!(
            "{name}: {far:.1e} of the largest logit; the adapter changes {change:.1e}"
        ));
        if far > bound || far.is_nan() {
            bad.push(format!("{name}: {far} (the adapter changes {change})"));
        }
        // Types and shapes are those of the base; a tied model may get an output layer.
        let before = tensors(&parity::fixtures().join("models").join(of));
        let after = tensors(&folder.0);
        let mut extra = 0;
        for (name, (dtype, shape, _)) in &after {
            match before.get(name) {
                Some((old, old_shape, _)) => assert_eq!((dtype, shape), (old, old_shape), "{name}"),
                None => {
                    assert!(name.contains("lm_head."), "{name}");
                    extra += 1;
                }
            }
        }
        let tells_apart =
            name.starts_with("peft") && (name.ends_with("-tied") || name.ends_with("-embed"));
        assert_eq!(extra > 0, tells_apart, "{name}");
        if of.contains("f32") {
            let with = session(&model);
            with.apply(vec![(one, 1.0)]).unwrap();
            let (with, alone) = (
                run(&with, &history(), &exactly(16)),
                run(&session(&again), &history(), &exactly(16)),
            );
            assert_eq!(with.tokens, alone.tokens, "{name}");
        }
    }
    println!("{}", told.join("\n"));
    assert!(bad.is_empty(), "{bad:#?}");
    assert!(told.len() >= 50);
}

#[test]
fn every_fixture_saved_is_the_adapter() {
    let _lock = engine_lock();
    let (mut same, mut refused) = (0, Vec::new());
    let cases = parity::json("adapters.json");
    for case in cases.as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let model = load(case["model"].as_str().unwrap());
        let one = load_adapter(&model, name);
        let folder = Folder::new(name);
        if let Err(error) = one.save(&folder.0, None, watch(&mut |_, _| true)) {
            assert_eq!(error.code, Code::Unsupported, "{name}: {error}");
            refused.push(name);
            continue;
        }
        let options = AdapterLoad {
            deadline: None,
            progress: &mut |_, _| true,
        };
        let again = Adapter::load(model.clone(), folder.0.to_str().unwrap(), options).unwrap();
        let prompt = [3, 77, 12, 50, 9, 110, 31];
        let wanted = logits(&model, &[(&one, 1.0)], &prompt);
        let given = logits(&model, &[(&Arc::new(again), 1.0)], &prompt);
        let far = parity::farthest(&given, &wanted);
        assert!(far < 1e-4, "{name}: {far}");
        same += 1;
    }
    // What tells a tied embedding and output layer apart, or replaces weights beside low-rank parts.
    let kinds = ["-tied", "-embed", "-head", "peft-saved"];
    let known =
        |name: &&str| name.starts_with("peft") && kinds.iter().any(|kind| name.contains(kind));
    assert!(refused.iter().all(known), "{refused:?}");
    assert!(same >= 45, "{same}");
}

/// How a weight is packed, and the type that it is packed from.
pub(super) type Packing = Option<(Scheme, Dtype)>;

/// The numbers of a weight, its shape, and how it is packed if it is.
pub(super) fn numbers(weight: Weight<Array>) -> Result<(Vec<f32>, [i32; 2], Packing)> {
    let (array, scheme) = match weight {
        Weight::Dense(weight) => (weight, None),
        Weight::Quantized {
            weight,
            scales,
            biases,
            scheme,
        } => {
            let dtype = match scheme.mode {
                Mode::Affine => scales.dtype(),
                _ => Dtype::F32,
            };
            let exact = |x: &Array| ops::astype(x, Dtype::F32);
            let array = match &biases {
                Some(biases) => {
                    ops::dequantize(&weight, &exact(&scales)?, Some(&exact(biases)?), scheme)?
                }
                None => ops::dequantize(&weight, &scales, None, scheme)?,
            };
            (array, Some((scheme, dtype)))
        }
    };
    let shape = [array.dim(0), array.dim(1)];
    Ok((ops::astype(&array, Dtype::F32)?.to_f32()?, shape, scheme))
}

#[test]
fn several_adapters_with_scales() {
    let _lock = engine_lock();
    for case in ["qwen3-f32", "gemma3-text-f32", "llama-f32-untied-bias"] {
        let model = load(case);
        let (one, two) = (adapter(&model, 1, false), adapter(&model, 2, true));
        let three = adapter(&model, 3, true);
        let sets: [Vec<(&Arc<Adapter>, f32)>; 3] = [
            vec![(&one, -0.5)],
            vec![(&one, 0.7), (&two, 1.0)],
            vec![(&two, 0.5), (&three, 1.5), (&one, 1.0)],
        ];
        for set in sets {
            let folder = Folder::new(case);
            let applied: Applied = set
                .iter()
                .map(|(one, scale)| ((*one).clone(), *scale))
                .collect();
            let prompt = [3, 77, 12, 50, 9, 110, 31];
            let wanted = logits(&model, &set, &prompt);
            save(&model, &applied, &folder.0, watch(&mut |_, _| true)).unwrap();
            let given = logits(&load_from(&folder.0), &[], &prompt);
            let largest = wanted.iter().fold(0.0f32, |most, x| most.max(x.abs()));
            let far = parity::farthest(&given, &wanted) / largest;
            assert!(far < 1e-4, "{case}: {far}");
        }
    }
}

#[test]
fn what_does_not_come_to_its_end_leaves_nothing() {
    let _lock = engine_lock();
    let model = load("qwen3-4bit");
    let folder = Folder::new("ends");
    let refused = |adapters: Applied, progress: &mut dyn FnMut(u64, u64) -> bool| {
        save(&model, &adapters, &folder.0, watch(progress)).unwrap_err()
    };
    let stopped = refused(vec![], &mut |done, _| done == 0);
    assert_eq!(stopped.code, Code::Cancelled);
    assert!(!folder.0.exists());
    let stopped = refused(vec![], &mut |done, total| done < total);
    assert_eq!(stopped.code, Code::Cancelled);
    assert!(!folder.0.exists());
    let late = SaveOptions {
        deadline: Some(std::time::Instant::now()),
        progress: &mut |_, _| true,
    };
    let late = save(&model, &vec![], &folder.0, late).unwrap_err();
    assert_eq!(late.code, Code::Timeout);
    let parent = folder.0.parent().unwrap();
    let name = folder.0.file_name().unwrap().to_str().unwrap();
    let leftovers = || {
        let all = std::fs::read_dir(parent).unwrap();
        all.filter(|entry| {
            let found = entry.as_ref().unwrap().file_name();
            found.to_str().unwrap().contains(name)
        })
        .count()
    };
    assert_eq!(leftovers(), 0);

    save(&model, &vec![], &folder.0, watch(&mut |_, _| true)).unwrap();
    let good = tensors(&folder.0);
    let names = folder.names();
    let one = adapter(&model, 1, false);
    let stopped = refused(vec![(one.clone(), 1.0)], &mut |done, total| done < total);
    assert_eq!(stopped.code, Code::Cancelled);
    // A folder where a file goes.
    std::fs::remove_file(folder.0.join("config.json")).unwrap();
    std::fs::create_dir(folder.0.join("config.json")).unwrap();
    let blocked = refused(vec![(one.clone(), 1.0)], &mut |_, _| true);
    assert_eq!(blocked.code, Code::Io);
    assert!(tensors(&folder.0) == good);
    assert_eq!(folder.names(), names);

    let other = load("llama-f32");
    let foreign = adapter(&other, 1, false);
    let go = &mut |_, _| true;
    assert_eq!(refused(vec![(foreign, 1.0)], go).code, Code::Incompatible);
    let twice = vec![(one.clone(), 1.0), (one.clone(), 1.0)];
    assert_eq!(refused(twice, go).code, Code::InvalidArgument);
    let nan = vec![(one.clone(), f32::NAN)];
    assert_eq!(refused(nan, go).code, Code::InvalidArgument);
    let file = folder.0.join("file");
    std::fs::write(&file, "").unwrap();
    let error = save(&model, &vec![], &file, watch(go)).unwrap_err();
    assert_eq!(error.code, Code::Io);
    assert!(error.message.contains("is a file"), "{error}");
}

#[test]
fn too_large_for_its_type_is_named() {
    let _lock = engine_lock();
    let model = load("qwen3-f16");
    let one = adapter(&model, 1, false);
    let folder = Folder::new("large");
    let error = save(
        &model,
        &vec![(one, 1e9)],
        &folder.0,
        watch(&mut |_, _| true),
    )
    .unwrap_err();
    assert_eq!(error.code, Code::Incompatible);
    assert!(error.message.contains("F16"), "{error}");
    assert!(!folder.0.exists());
}

#[test]
fn a_budget_is_kept() {
    let _lock = engine_lock();
    let model = load("qwen3-f32");
    let one = adapter(&model, 1, true);
    let folder = Folder::new("budget");
    let limit = crate::mlx::memory::limit();
    model.engine.call(|_| Ok(())).unwrap();
    crate::mlx::memory::set_limit(crate::mlx::memory::active() + 4096).unwrap();
    let outcome = save(
        &model,
        &vec![(one, 1.0)],
        &folder.0,
        watch(&mut |_, _| true),
    );
    crate::mlx::memory::set_limit(limit).unwrap();
    let error = outcome.unwrap_err();
    assert_eq!(error.code, Code::OutOfMemory);
    assert!(error.message.contains("limit"), "{error}");
    assert!(!folder.0.exists());
}

#[test]
fn sessions_go_on_and_suspension_waits() {
    let _lock = engine_lock();
    let model = load("qwen3-f32");
    let one = adapter(&model, 1, false);
    let folder = Folder::new("meanwhile");
    let base = run(&session(&model), &history(), &exactly(8)).tokens;
    let mut calls = 0;
    let mut progress = |_, _| {
        calls += 1;
        if calls == 3 {
            let now = run(&session(&model), &history(), &exactly(8)).tokens;
            assert_eq!(now, base);
            crate::runtime::engine::suspend(Some(std::time::Duration::from_secs(60))).unwrap();
        }
        if calls == 6 {
            crate::runtime::engine::resume().unwrap();
        }
        true
    };
    save(
        &model,
        &vec![(one.clone(), 1.0)],
        &folder.0,
        watch(&mut progress),
    )
    .unwrap();
    assert!(calls > 6);
    let wanted = logits(&model, &[(&one, 1.0)], &[1, 2, 3]);
    let far = parity::farthest(&logits(&load_from(&folder.0), &[], &[1, 2, 3]), &wanted);
    assert!(far < 1e-4, "{far}");
}

#[test]
fn failures_of_mlx_are_tried_again() {
    let _lock = engine_lock();
    let model = load("qwen3-4bit");
    let one = adapter(&model, 1, true);
    let folder = Folder::new("failures");
    let wanted = {
        save(
            &model,
            &vec![(one.clone(), 1.0)],
            &folder.0,
            watch(&mut |_, _| true),
        )
        .unwrap();
        tensors(&folder.0)
    };
    let on_engine = |work: fn(u64), n: u64| {
        let done = model.engine.call(move |_| {
            work(n);
            Ok(())
        });
        done.unwrap();
    };
    for n in [1, 7, 50, 200] {
        on_engine(crate::mlx::fault::fail_at, n);
        save(
            &model,
            &vec![(one.clone(), 1.0)],
            &folder.0,
            watch(&mut |_, _| true),
        )
        .unwrap();
        assert!(tensors(&folder.0) == wanted, "{n}");
    }
    on_engine(crate::mlx::fault::fail_from, 60);
    let error = save(
        &model,
        &vec![(one, 1.0)],
        &folder.0,
        watch(&mut |_, _| true),
    );
    on_engine(crate::mlx::fault::fail_at, 0);
    assert_eq!(error.unwrap_err().code, Code::Device);
    assert!(tensors(&folder.0) == wanted);
}
