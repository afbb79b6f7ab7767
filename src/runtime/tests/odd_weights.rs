//! Weights as people have them: whatever the files around them say, the same tensors give the same logits, or a tensor, a
//! file or a module is named. What mlx-lm 0.32.0 does with each folder is in the tests' comments; it was run on them.

use std::collections::BTreeMap;
use std::os::unix::fs::symlink;

use safetensors::tensor::TensorView;
use safetensors::SafeTensors;
use serde_json::{json, Value};

use super::saving::logits;
use super::*;
use crate::error::Code;
use crate::load::testing::TempFolder;

const INDEX: &str = "model.safetensors.index.json";
pub(super) const WEIGHTS: &str = "model.safetensors";

#[derive(Clone, PartialEq)]
pub(super) struct Tensor {
    pub dtype: safetensors::Dtype,
    pub shape: Vec<usize>,
    pub data: Vec<u8>,
}

pub(super) type Tensors = BTreeMap<String, Tensor>;

fn path_of(fixture: &str) -> std::path::PathBuf {
    parity::fixtures().join("models").join(fixture)
}

/// All tensors of a fixture.
pub(super) fn tensors_of(fixture: &str) -> Tensors {
    let mut all = Tensors::new();
    for file in std::fs::read_dir(path_of(fixture)).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if name.starts_with("model") && name.ends_with(".safetensors") {
            let bytes = std::fs::read(&path).unwrap();
            all.extend(tensors_in(&bytes));
        }
    }
    all
}

/// All tensors of a file.
pub(super) fn tensors_in(bytes: &[u8]) -> Tensors {
    let file = SafeTensors::deserialize(bytes).unwrap();
    let tensors = file.tensors().into_iter().map(|(name, view)| {
        let tensor = Tensor {
            dtype: view.dtype(),
            shape: view.shape().to_vec(),
            data: view.data().to_vec(),
        };
        (name, tensor)
    });
    tensors.collect()
}

/// A fixture without its weights and their index.
pub(super) fn without_weights(fixture: &str) -> TempFolder {
    let to = TempFolder::new();
    for file in std::fs::read_dir(path_of(fixture)).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if !name.starts_with("model") && !name.starts_with("expected") {
            to.write(name, std::fs::read(&path).unwrap());
        }
    }
    to
}

fn copy(fixture: &str) -> TempFolder {
    let to = without_weights(fixture);
    for file in std::fs::read_dir(path_of(fixture)).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if name.starts_with("model") {
            to.write(name, std::fs::read(&path).unwrap());
        }
    }
    to
}

pub(super) fn write(folder: &TempFolder, file: &str, tensors: &Tensors) {
    let views = tensors.iter().map(|(name, tensor)| {
        let view = TensorView::new(tensor.dtype, tensor.shape.clone(), &tensor.data);
        (name.as_str(), view.unwrap())
    });
    folder.write(file, safetensors::serialize(views, None).unwrap());
}

/// A fixture with these tensors in one file, without an index.
pub(super) fn with_tensors(fixture: &str, change: impl FnOnce(&mut Tensors)) -> TempFolder {
    let folder = without_weights(fixture);
    let mut tensors = tensors_of(fixture);
    change(&mut tensors);
    write(&folder, WEIGHTS, &tensors);
    folder
}

pub(super) fn edit(folder: &TempFolder, file: &str, change: impl FnOnce(&mut Value)) {
    let mut json: Value =
        serde_json::from_slice(&std::fs::read(folder.path().join(file)).unwrap()).unwrap();
    change(&mut json);
    folder.write(file, json.to_string());
}

pub(super) fn load_with(folder: &TempFolder, follow_links: bool) -> Result<Arc<Model>> {
    let options = LoadOptions {
        context: 0,
        follow_links,
        draft: None,
        deadline: None,
        progress: &mut |_, _| true,
    };
    model::load(folder.path().to_str().unwrap(), options).map(Arc::new)
}

pub(super) fn inspect(folder: &TempFolder, follow_links: bool) -> Result<String> {
    let session = SessionOptions::default();
    model::inspect(
        folder.path().to_str().unwrap(),
        0,
        follow_links,
        None,
        &session,
    )
}

pub(super) fn warnings(json: &str) -> Vec<String> {
    let json: Value = serde_json::from_str(json).unwrap();
    serde_json::from_value(json["warnings"].clone()).unwrap()
}

pub(super) const PROMPT: [i32; 5] = [5, 17, 101, 3, 64];

fn fixtures_logits(fixture: &str) -> Vec<f32> {
    logits(&load(fixture), &[], &PROMPT)
}

/// The folder loads and computes what the fixture does, to the bit; its warnings, which `inspect` gives, too.
fn computes_as(fixture: &str, folder: &TempFolder) -> Vec<String> {
    let model = load_with(folder, false).unwrap();
    let same = logits(&model, &[], &PROMPT) == fixtures_logits(fixture);
    assert!(same, "{fixture}: other logits");
    let warned = warnings(model.info());
    assert_eq!(warnings(&inspect(folder, false).unwrap()), warned);
    warned
}

/// [`computes_as`], with one warning that says this.
fn computes_and_warns(fixture: &str, folder: &TempFolder, says: &str) {
    let warned = computes_as(fixture, folder);
    assert_eq!(warned.len(), 1, "{warned:?}");
    assert!(warned[0].contains(says), "{warned:?}");
}

fn computes_quietly(fixture: &str, folder: &TempFolder) {
    let warned = computes_as(fixture, folder);
    assert!(warned.is_empty(), "{warned:?}");
}

/// Loading and looking at it refuse the folder in the same words.
pub(super) fn refused(folder: &TempFolder, code: Code, says: &[&str]) {
    let error = load_with(folder, false).map(|_| ()).unwrap_err();
    let at_sight = inspect(folder, false).unwrap_err();
    assert_eq!(
        (at_sight.code, &at_sight.message),
        (error.code, &error.message)
    );
    assert_eq!(error.code, code, "{error}");
    for words in says {
        assert!(error.message.contains(words), "{error} says not {words}");
    }
}

/// mlx-lm does not look at the index.
#[test]
fn an_index_may_say_what_it_likes() {
    let _lock = engine_lock();
    const CASE: &str = "qwen3-f32-shards";
    let folder = copy(CASE);
    let first = "model-00001-of-00003.safetensors";
    let index: Value =
        serde_json::from_slice(&std::fs::read(folder.path().join(INDEX)).unwrap()).unwrap();

    // Entries of tensors and files that are gone.
    edit(&folder, INDEX, |index| {
        index["weight_map"]["visual.ghost"] = json!("model-00009-of-00009.safetensors");
        index["weight_map"]["ghost"] = json!(first);
    });
    computes_quietly(CASE, &folder);
    // Tensors in other files than it says, of which one is not there, one is outside, and one is no file's name.
    let names: Vec<String> = index["weight_map"]
        .as_object()
        .unwrap()
        .keys()
        .cloned()
        .collect();
    folder.write(INDEX, index.to_string());
    edit(&folder, INDEX, |index| {
        for name in &names {
            index["weight_map"][name] = json!(first);
        }
    });
    computes_and_warns(CASE, &folder, "; the files decide");
    edit(&folder, INDEX, |index| {
        for name in &names {
            index["weight_map"][name] = json!("model-00009-of-00009.safetensors");
        }
    });
    computes_and_warns(CASE, &folder, "; the files decide");
    edit(&folder, INDEX, |index| {
        for name in &names {
            index["weight_map"][name] = json!("../model.safetensors");
        }
    });
    computes_and_warns(CASE, &folder, "outside the folder");
    for text in [
        "{}",
        "",
        "[1",
        r#"{"weight_map": 7}"#,
        r#"{"metadata": {"total_size": 4}}"#,
    ] {
        folder.write(INDEX, text);
        computes_and_warns(CASE, &folder, INDEX);
    }
    std::fs::remove_file(folder.path().join(INDEX)).unwrap();
    computes_quietly(CASE, &folder);
}

/// mlx-lm names them, too ("Missing 1 parameters").
#[test]
fn what_is_missing_is_named() {
    let _lock = engine_lock();
    const CASE: &str = "qwen3-f32-shards";
    let second = "model-00002-of-00003.safetensors";
    let folder = copy(CASE);
    std::fs::remove_file(folder.path().join(second)).unwrap();
    refused(
        &folder,
        Code::BadModel,
        &[INDEX, second, "is missing", "model.layers."],
    );
    std::fs::remove_file(folder.path().join(INDEX)).unwrap();
    refused(
        &folder,
        Code::BadModel,
        &["the weights hold no tensor \"model.layers."],
    );
    let scales = "model.layers.1.mlp.up_proj.scales";
    let folder = with_tensors("qwen3-4bit", |tensors| {
        tensors.remove(scales);
    });
    refused(&folder, Code::BadModel, &[scales]);
    let biases = "model.layers.1.mlp.up_proj.biases";
    let folder = with_tensors("qwen3-4bit", |tensors| {
        tensors.remove(biases);
    });
    refused(&folder, Code::BadModel, &[biases]);
}

/// mlx-lm reads `model*.safetensors` and nothing else.
#[test]
fn files_beside_the_weights_are_not_read() {
    let _lock = engine_lock();
    const CASE: &str = "qwen3-4bit";
    let folder = copy(CASE);
    for name in [
        "pytorch_model.bin",
        "consolidated.safetensors",
        "consolidated.00.pth",
        "adapters.safetensors",
        "adapter_model.safetensors",
        "._model.safetensors",
        "._config.json",
        "model.safetensors.bak",
        "model.gguf",
        ".DS_Store",
        "tf_model.h5",
    ] {
        folder.write(name, "what people leave there");
    }
    std::fs::create_dir(folder.path().join("original")).unwrap();
    computes_quietly(CASE, &folder);
}

/// mlx-lm takes whichever its system lists last.
#[test]
fn a_second_file_of_equal_tensors_changes_nothing() {
    let _lock = engine_lock();
    const CASE: &str = "qwen3-4bit-bf16";
    let folder = copy(CASE);
    folder.write(
        "model-copy.safetensors",
        std::fs::read(folder.path().join(WEIGHTS)).unwrap(),
    );
    computes_and_warns(CASE, &folder, "in more than one file");
    std::fs::remove_file(folder.path().join(INDEX)).unwrap();
    computes_quietly(CASE, &folder);
    // Also if it holds a part only.
    let mut part = tensors_of(CASE);
    part.retain(|name, _| name.contains("layers.1."));
    write(&folder, "model-copy.safetensors", &part);
    computes_quietly(CASE, &folder);
}

/// Here mlx-lm computes with a mixture, or with whichever file it lists last.
#[test]
fn of_two_models_in_one_folder_the_indexed_one_counts() {
    let _lock = engine_lock();
    const CASE: &str = "qwen3-f32-shards";
    for (other, file) in [
        ("zeros", "model.safetensors"),
        ("zeros", "model-zzz.safetensors"),
        ("packed", "model.safetensors"),
    ] {
        let folder = copy(CASE);
        let mut stale = match other {
            "packed" => tensors_of("qwen3-4bit"),
            _ => tensors_of(CASE),
        };
        if other == "zeros" {
            stale.values_mut().for_each(|tensor| tensor.data.fill(0));
        }
        write(&folder, file, &stale);
        let warned = computes_as(CASE, &folder);
        let about = |words: &str| warned.iter().any(|warning| warning.contains(words));
        assert!(about("in more than one file"), "{warned:?}");
        std::fs::remove_file(folder.path().join(INDEX)).unwrap();
        refused(
            &folder,
            Code::BadModel,
            &["is in both", file, "remove the file"],
        );
    }
}

/// mlx-lm refuses it ("Received 1 parameters not in model").
#[test]
fn a_stray_file_of_other_tensors_is_ignored_where_the_index_tells() {
    let _lock = engine_lock();
    const CASE: &str = "qwen3-f32-shards";
    let folder = copy(CASE);
    let norm = tensors_of(CASE).remove("model.norm.weight").unwrap();
    let extra = Tensors::from([("medusa.0.weight".to_string(), norm.clone())]);
    write(&folder, "model-extra.safetensors", &extra);
    computes_and_warns(
        CASE,
        &folder,
        "model-extra.safetensors: is not in the index",
    );
    std::fs::remove_file(folder.path().join(INDEX)).unwrap();
    let says = ["does not imply, such as \"medusa.0.weight\" in model-extra.safetensors"];
    refused(&folder, Code::BadModel, &says);
    // In a file that is used, it is no stray.
    let folder = with_tensors("qwen3-f32", |tensors| {
        tensors.insert("medusa.0.weight".into(), norm);
    });
    folder.write(
        INDEX,
        json!({"weight_map": {"model.norm.weight": WEIGHTS}}).to_string(),
    );
    refused(&folder, Code::BadModel, &["medusa.0.weight", WEIGHTS]);
}

/// mlx-lm drops the first two in most families.
#[test]
fn what_old_exporters_wrote_is_ignored() {
    let _lock = engine_lock();
    for case in ["qwen3-4bit", "llama-f32", "qwen2-f32"] {
        let folder = with_tensors(case, |tensors| {
            let table = Tensor {
                dtype: safetensors::Dtype::F32,
                shape: vec![8],
                data: vec![0; 32],
            };
            for layer in 0..2 {
                let name = format!("model.layers.{layer}.self_attn.rotary_emb.inv_freq");
                tensors.insert(name, table.clone());
            }
            tensors.insert("model.rotary_emb.inv_freq".into(), table);
            let tied = !tensors.contains_key("lm_head.weight");
            for leaf in ["weight", "scales", "biases"].iter().filter(|_| tied) {
                let tied = tensors.get(&format!("model.embed_tokens.{leaf}")).cloned();
                if let Some(mut tensor) = tied {
                    tensor.data.fill(7);
                    tensors.insert(format!("lm_head.{leaf}"), tensor);
                }
            }
        });
        computes_quietly(case, &folder);
    }
}

const BLOCKS: [&str; 2] = ["quantization", "quantization_config"];

fn with_block(fixture: &str, block: impl Fn(&mut Value)) -> TempFolder {
    let folder = copy(fixture);
    edit(&folder, "config.json", |config| {
        BLOCKS.iter().for_each(|key| block(&mut config[key]));
    });
    folder
}

/// mlx-lm infers bits, group and mode of what the config does not name from the shapes; where the config names them
/// otherwise, or says nothing, it fails with other shapes than it expects.
#[test]
fn shapes_decide_how_weights_are_packed() {
    let _lock = engine_lock();
    let cases = [
        "qwen3-2bit",
        "qwen3-3bit",
        "qwen3-4bit",
        "qwen3-4bit-f16",
        "qwen3-4bit-g32",
        "qwen3-4bit-g128",
        "qwen3-5bit",
        "qwen3-6bit",
        "qwen3-8bit",
        "qwen3-mixed",
        "qwen3-mxfp4-bf16",
        "qwen3-mxfp8-bf16",
        "qwen3-nvfp4-bf16",
        "llama-4bit-bf16",
        "gemma3-4bit-bf16",
    ];
    for case in cases {
        let other = match case {
            "qwen3-3bit" => json!({"group_size": 32, "bits": 4, "mode": "mxfp4"}),
            _ => json!({"group_size": 64, "bits": 3}),
        };
        computes_and_warns(
            case,
            &with_block(case, |block| *block = other.clone()),
            "; the weights decide",
        );
        let says_nothing = copy(case);
        edit(&says_nothing, "config.json", |config| {
            BLOCKS.iter().for_each(|key| config[key] = Value::Null);
        });
        computes_and_warns(case, &says_nothing, "not plain; the weights decide");
    }
}

/// mlx-lm: right for the first three, and fails for the others.
#[test]
fn one_module_may_be_packed_in_another_way() {
    let _lock = engine_lock();
    const CASE: &str = "qwen3-mixed";
    // One in 8 bits, one in another group, one plain, of which the config says nothing.
    let folder = with_block(CASE, |block| {
        *block = json!({"group_size": 64, "bits": 4, "mode": "affine"});
    });
    computes_and_warns(
        CASE,
        &folder,
        "of 2 modules, such as \"model.embed_tokens\", is not that",
    );
    // Names under another prefix, and of modules that are not there.
    let folder = with_block(CASE, |block| {
        let named = block.as_object().unwrap().clone();
        for (path, scheme) in named {
            if let Some(rest) = path.strip_prefix("model.") {
                block.as_object_mut().unwrap().remove(&path);
                block[format!("language_model.model.{rest}")] = scheme;
            }
        }
        block["vision_tower.blocks.0.proj"] = json!({"group_size": 64, "bits": 8});
        block["model.layers.9.self_attn.q_proj"] = json!(false);
        block["lm_head"] = json!({"group_size": 32, "bits": 6});
    });
    computes_quietly(CASE, &folder);
    // Another scheme than the weights have, plain ones that are packed, packed ones that are plain.
    let folder = with_block(CASE, |block| {
        block["model.embed_tokens"] = json!({"group_size": 32, "bits": 2});
    });
    computes_and_warns(
        CASE,
        &folder,
        "config.json's quantization of \"model.embed_tokens\" is not that of the weights: they are 8 bits in groups of 64 \
         (affine), not 2 bits in groups of 32 (affine); the weights decide",
    );
    let folder = with_block(CASE, |block| {
        block["model.layers.1.self_attn.q_proj"] = json!(false);
    });
    computes_and_warns(
        CASE,
        &folder,
        "they are 4 bits in groups of 32 (affine), not plain",
    );
    let folder = with_block(CASE, |block| {
        block["model.layers.0.mlp.down_proj"] = json!({"group_size": 64, "bits": 4});
    });
    computes_and_warns(CASE, &folder, "they are plain, not 4 bits in groups of 64");
}

#[test]
fn the_block_may_lie_elsewhere_or_be_another_programs() {
    let _lock = engine_lock();
    // mlx-lm: does not find it there, and fails.
    let folder = copy("gemma3-4bit-bf16");
    edit(&folder, "config.json", |config| {
        config["text_config"]["quantization"] = config["quantization"].clone();
        let config = config.as_object_mut().unwrap();
        BLOCKS.iter().for_each(|key| drop(config.remove(*key)));
    });
    computes_quietly("gemma3-4bit-bf16", &folder);
    // mlx-lm: loads the weights as they are. Merged models keep the block of their base.
    let folder = copy("qwen3-bf16");
    edit(&folder, "config.json", |config| {
        config["quantization_config"] =
            json!({"quant_method": "bitsandbytes", "load_in_4bit": true});
    });
    computes_quietly("qwen3-bf16", &folder);
    // mlx-lm: the method names the mode, the shapes are MLX's own.
    let folder = copy("qwen3-mxfp4-bf16");
    edit(&folder, "config.json", |config| {
        config.as_object_mut().unwrap().remove("quantization");
        config["quantization_config"] = json!({"quant_method": "mxfp4"});
    });
    computes_as("qwen3-mxfp4-bf16", &folder);
    // Weights in another program's layout are refused, and the method is named.
    let folder = with_tensors("qwen3-4bit", |tensors| {
        let name = "model.layers.0.mlp.up_proj";
        let weight = tensors.remove(&format!("{name}.weight")).unwrap();
        tensors.insert(format!("{name}.qweight"), weight);
    });
    edit(&folder, "config.json", |config| {
        config.as_object_mut().unwrap().remove("quantization");
        config["quantization_config"] = json!({"quant_method": "awq", "bits": 4, "group_size": 64});
    });
    refused(
        &folder,
        Code::Unsupported,
        &[
            "\"awq\", a quantisation that is not supported",
            "model.layers.0.mlp.up_proj.qweight",
        ],
    );
}

/// mlx-lm knows each family's first prefix only.
#[test]
fn tensors_are_found_under_other_prefixes() {
    let _lock = engine_lock();
    for case in [
        "qwen3-mixed",
        "llama-f32-untied-bias",
        "gemma3-4bit-bf16",
        "gemma3-text-f32",
    ] {
        for (body, head) in [
            ("model.", ""),
            ("language_model.model.", "language_model."),
            ("model.language_model.", ""),
            ("language_model.", ""),
            ("", ""),
        ] {
            let folder = with_tensors(case, |tensors| {
                let renamed = std::mem::take(tensors).into_iter().map(|(name, tensor)| {
                    let rest = name.strip_prefix("language_model.").unwrap_or(&name);
                    let name = match rest.strip_prefix("model.") {
                        Some(rest) => format!("{body}{rest}"),
                        None if rest.starts_with("lm_head") => format!("{head}{rest}"),
                        None => rest.to_owned(),
                    };
                    (name, tensor)
                });
                tensors.extend(renamed);
            });
            // The quantisation of modules stays under the names that it had.
            computes_quietly(case, &folder);
        }
    }
}

#[test]
fn a_saved_model_describes_its_weights() {
    let _lock = engine_lock();
    const CASE: &str = "qwen3-mixed";
    let folder = with_block(CASE, |block| *block = json!({"group_size": 32, "bits": 8}));
    let model = load_with(&folder, false).unwrap();
    assert_eq!(warnings(model.info()).len(), 1);
    let saved = TempFolder::new();
    let options = crate::runtime::staging::SaveOptions {
        deadline: None,
        progress: &mut |_, _| true,
    };
    crate::runtime::model_save::save(&model, &vec![], saved.path(), options).unwrap();
    computes_quietly(CASE, &saved);
    let config: Value =
        serde_json::from_slice(&std::fs::read(saved.path().join("config.json")).unwrap()).unwrap();
    let expected = json!({
        "group_size": 64, "bits": 4, "mode": "affine",
        "model.embed_tokens": {"group_size": 64, "bits": 8, "mode": "affine"},
        "model.layers.1.self_attn.q_proj": {"group_size": 32, "bits": 4, "mode": "affine"},
    });
    assert_eq!(
        (&config["quantization"], &config["quantization_config"]),
        (&expected, &expected)
    );
    assert_eq!(
        config["rope_theta"],
        json!(1000000.0),
        "all else is as it was"
    );
}

/// mlx-lm follows every link.
#[test]
fn weights_may_lie_in_a_store() {
    let _lock = engine_lock();
    const CASE: &str = "qwen3-f32-shards";
    let (store, folder) = (copy(CASE), TempFolder::new());
    for (at, file) in std::fs::read_dir(store.path()).unwrap().enumerate() {
        let path = file.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        // By their own path, and through a link inside the folder.
        if at % 2 == 0 {
            symlink(&path, folder.path().join(name)).unwrap();
        } else {
            let blob = format!("blob-{at}");
            symlink(&path, folder.path().join(&blob)).unwrap();
            symlink(&blob, folder.path().join(name)).unwrap();
        }
    }
    let says = [
        "is a link that leaves the folder",
        "MLXRT_LOAD_FOLLOW_LINKS",
    ];
    refused(&folder, Code::BadModel, &says);
    let model = load_with(&folder, true).unwrap();
    assert!(logits(&model, &[], &PROMPT) == fixtures_logits(CASE));
    assert_eq!(
        warnings(model.info()),
        warnings(&inspect(&folder, true).unwrap())
    );
    assert!(warnings(model.info()).is_empty());
    // What is copied when it is saved is found there, too.
    let saved = TempFolder::new();
    let options = crate::runtime::staging::SaveOptions {
        deadline: None,
        progress: &mut |_, _| true,
    };
    crate::runtime::model_save::save(&model, &vec![], saved.path(), options).unwrap();
    computes_quietly(CASE, &saved);

    // The weights only.
    let folder = copy("qwen3-4bit");
    std::fs::rename(folder.path().join(WEIGHTS), store.path().join("blob")).unwrap();
    symlink(store.path().join("blob"), folder.path().join(WEIGHTS)).unwrap();
    refused(
        &folder,
        Code::BadModel,
        &[WEIGHTS, "MLXRT_LOAD_FOLLOW_LINKS"],
    );
    let model = load_with(&folder, true).unwrap();
    assert!(logits(&model, &[], &PROMPT) == fixtures_logits("qwen3-4bit"));
}

/// mlx-lm takes no more than `eos_token_id` out of it, and nothing of a file that is no JSON.
#[test]
fn an_odd_generation_config_is_a_warning() {
    let _lock = engine_lock();
    const CASE: &str = "qwen3-4bit";
    const FILE: &str = "generation_config.json";
    for (text, says) in [
        ("", "is not valid JSON"),
        ("{\"top_k\": 20,}", "is not valid JSON"),
        ("[]", "must hold a JSON object"),
        ("{\"eos_token_id\": -1}", "\"eos_token_id\" holds -1"),
        (
            "{\"top_p\": \"0.9\", \"eos_token_id\": 130}",
            "\"top_p\" must be",
        ),
    ] {
        let folder = copy(CASE);
        folder.write(FILE, text);
        computes_and_warns(CASE, &folder, &format!("{FILE}: {says}"));
        let model = load_with(&folder, false).unwrap();
        assert_eq!(model.defaults.eos_token_ids, [130], "{text}");
    }
}

#[test]
fn a_tokenizer_that_loading_refuses_is_refused_at_sight() {
    let _lock = engine_lock();
    let folder = copy("qwen3-4bit");
    folder.write("tokenizer.json", "{");
    refused(&folder, Code::BadModel, &["tokenizer.json"]);
    std::fs::remove_file(folder.path().join("tokenizer.json")).unwrap();
    refused(&folder, Code::BadModel, &["tokenizer.json: is missing"]);
    let folder = copy("qwen3-4bit");
    folder.write("chat_template.jinja", "{% if");
    let loaded = load_with(&folder, false)
        .map(|_| ())
        .map_err(|error| error.message);
    let looked = inspect(&folder, false)
        .map(|_| ())
        .map_err(|error| error.message);
    assert_eq!(looked, loaded);
}

#[test]
fn a_gguf_gets_the_cure() {
    let folder = TempFolder::new();
    folder.write("model-Q4_K_M.gguf", "GGUF");
    refused(
        &folder,
        Code::BadModel,
        &[
            "config.json: is missing",
            "model-Q4_K_M.gguf",
            "mlx_lm.convert",
            "mlx-community",
        ],
    );
    let file = folder.path().join("model-Q4_K_M.gguf");
    let error = model::inspect(
        file.to_str().unwrap(),
        0,
        false,
        None,
        &SessionOptions::default(),
    );
    let error = error.unwrap_err();
    assert_eq!(error.code, Code::InvalidArgument);
    assert!(error.message.contains("mlx_lm.convert"), "{error}");
}

#[test]
fn what_git_has_not_fetched_is_named() {
    let _lock = engine_lock();
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n";
    for file in ["model.safetensors", "tokenizer.json", "config.json"] {
        let folder = copy("qwen3-4bit");
        folder.write(file, pointer);
        refused(
            &folder,
            Code::BadModel,
            &[file, "Git LFS pointer", "git lfs pull"],
        );
    }
}

#[test]
fn experts_that_do_not_fit_are_named() {
    let cases = [
        (
            "qwen3_moe-f32-one-by-one",
            "num_experts",
            7,
            "mlp.gate.weight",
        ),
        (
            "qwen3_moe-f32-one-by-one",
            "moe_intermediate_size",
            19,
            "gate_proj.weight",
        ),
        (
            "qwen3_moe-f32-fused",
            "moe_intermediate_size",
            10,
            "gate_up_proj",
        ),
        (
            "qwen3_moe-f32-fused",
            "moe_intermediate_size",
            40,
            "gate_up_proj",
        ),
        (
            "qwen3_moe-f32",
            "moe_intermediate_size",
            40,
            "switch_mlp.gate_proj",
        ),
        ("gpt_oss-f32-fused", "intermediate_size", 16, "gate_up_proj"),
        (
            "mixtral-f32-one-by-one",
            "num_local_experts",
            4,
            "gate.weight",
        ),
    ];
    for (fixture, key, value, word) in cases {
        let folder = copy(fixture);
        edit(&folder, "config.json", |config| config[key] = json!(value));
        refused(&folder, Code::BadModel, &[word]);
    }
    // One that is missing, one too many, one of another shape.
    let expert = |layer: usize, number: usize| {
        format!("model.layers.{layer}.mlp.experts.{number}.up_proj.weight")
    };
    let fixture = "qwen3_moe-f32-one-by-one";
    let layer = tensors_of(fixture)
        .keys()
        .find_map(|name| {
            let layer = name.strip_prefix("model.layers.")?.split('.').next()?;
            name.contains(".experts.")
                .then(|| layer.parse::<usize>().ok())?
        })
        .unwrap();
    let missing = with_tensors(fixture, |tensors| {
        tensors.remove(&expert(layer, 3)).unwrap();
    });
    refused(&missing, Code::BadModel, &[&expert(layer, 3)]);
    let more = with_tensors(fixture, |tensors| {
        let own = tensors[&expert(layer, 0)].clone();
        tensors.insert(expert(layer, 6), own);
    });
    refused(&more, Code::BadModel, &["experts.6"]);
    let other = with_tensors(fixture, |tensors| {
        let name = expert(layer, 2);
        let shape = tensors[&name].shape.iter().rev().copied().collect();
        tensors.get_mut(&name).unwrap().shape = shape;
    });
    refused(&other, Code::BadModel, &[&expert(layer, 2)]);
}
