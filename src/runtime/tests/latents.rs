//! Attention over latents: however its tokens come, wherever a folder has its matrices, and what adapters reach of it.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::tensor::TensorView;
use safetensors::{Dtype as Type, SafeTensors};

use super::adapters::watch;
use super::parity::{bound, farthest, fixtures};
use super::saving::{load_from, logits, tensors as saved_tensors, Folder};
use super::training::{task, Log};
use super::*;
use crate::dtype::{Dtype, Mode, Scheme};
use crate::error::Code;
use crate::kernels::Kernels;
use crate::load::testing::TempFolder;
use crate::mlx::stored::token_scheme;
use crate::mlx::{self, fast, ops, Array, Device};
use crate::model::adapter::AdapterSet;
use crate::model::Rows;
use crate::runtime::adapter::{Adapter, AdapterOptions};
use crate::runtime::model::decoder_for_tests;
use crate::runtime::model_save::save;
use crate::runtime::train::train;

const FAMILIES: [&str; 3] = [
    "deepseek_v3-f32",
    "deepseek_v3-f32-no-lora",
    "glm4_moe_lite-f32",
];

/// All rows' logits of 40 tokens that come so many at a time.
fn fed(case: &str, at_once: usize) -> Vec<f32> {
    fed_in(&fixtures().join("models").join(case), at_once, None)
}

/// `scheme`: how what is kept is packed.
fn fed_in(folder: &Path, at_once: usize, scheme: Option<Scheme>) -> Vec<f32> {
    let (decoder, _) = decoder_for_tests(folder.to_str().unwrap(), false).unwrap();
    let (mut caches, none) = (decoder.make_caches(None, 0), AdapterSet::default());
    caches.iter_mut().for_each(|cache| cache.pack_in(scheme));
    let tokens: Vec<i32> = (0..40).map(|i| (i * 37 + 11) % 131).collect();
    let rows = tokens.chunks(at_once).flat_map(|tokens| {
        let tokens = Array::from_i32(tokens).unwrap();
        let hidden = decoder.forward(&tokens, &mut caches, Rows::All, &none);
        let logits = decoder.logits(&hidden.unwrap(), &none).unwrap();
        logits.to_f32().unwrap()
    });
    rows.collect()
}

#[test]
fn tokens_one_by_one_give_what_they_give_together() {
    // What others measure of MLX's memory is the process's.
    let _lock = engine_lock();
    mlx::install_error_handler();
    let mut plain = Vec::new();
    for kernels in [None, Some(3)] {
        mlx::enter(Device::Cpu).unwrap();
        if let Some(threads) = kernels {
            fast::start(Kernels::new(threads));
        }
        for (index, case) in FAMILIES.into_iter().enumerate() {
            let together = fed(case, 40);
            for at_once in [1, 7] {
                let far = farthest(&fed(case, at_once), &together);
                assert!(far < bound("f32"), "{case}, {at_once} at a time: {far}");
            }
            match plain.get(index) {
                None => plain.push(together),
                Some(plain) => {
                    let far = farthest(&together, plain);
                    assert!(far < bound("f32"), "{case} on the kernels: {far}");
                }
            }
        }
        mlx::leave();
    }
}

type Tensors = BTreeMap<String, (Type, Vec<usize>, Vec<u8>)>;

fn path_of(case: &str) -> std::path::PathBuf {
    fixtures().join("models").join(case)
}

fn tensors_of(folder: &Path) -> Tensors {
    let bytes = std::fs::read(folder.join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let all = file.tensors().into_iter();
    all.map(|(name, view)| {
        let tensor = (view.dtype(), view.shape().to_vec(), view.data().to_vec());
        (name, tensor)
    })
    .collect()
}

/// A fixture with these tensors.
fn with_tensors(case: &str, tensors: &Tensors) -> TempFolder {
    let folder = TempFolder::new();
    for file in std::fs::read_dir(path_of(case)).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if !name.starts_with("model") && !name.starts_with("expected") {
            folder.write(name, std::fs::read(&path).unwrap());
        }
    }
    let views = tensors.iter().map(|(name, (dtype, shape, data))| {
        let view = TensorView::new(*dtype, shape.clone(), data).unwrap();
        (name.as_str(), view)
    });
    let bytes = safetensors::serialize(views, None).unwrap();
    folder.write("model.safetensors", bytes);
    folder
}

fn bytes_of(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}

/// A fixture with latents of 64 numbers and turned keys of 32, of other weights.
fn with_wide_latents() -> TempFolder {
    let case = "deepseek_v3-f32-no-lora";
    let mut tensors = tensors_of(&path_of(case));
    let mut random = 1_u64;
    let mut number = |scale: f32| {
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1);
        scale * ((random >> 40) as f32 / (1 << 23) as f32 - 1.0)
    };
    for layer in 0..4 {
        let shapes = [
            ("embed_q.weight", vec![3, 64, 8], 0.5),
            ("kv_a_layernorm.weight", vec![64], 1.5),
            ("kv_a_proj_with_mqa.bias", vec![96], 0.2),
            ("kv_a_proj_with_mqa.weight", vec![96, 28], 0.4),
            ("q_proj.weight", vec![120, 28], 0.4),
            ("unembed_out.weight", vec![3, 10, 64], 0.2),
        ];
        for (name, shape, scale) in shapes {
            let count: usize = shape.iter().product();
            let numbers: Vec<f32> = (0..count).map(|_| number(scale)).collect();
            let name = format!("model.layers.{layer}.self_attn.{name}");
            let old = tensors.insert(name, (Type::F32, shape, bytes_of(&numbers)));
            assert!(old.is_some());
        }
    }
    let folder = with_tensors(case, &tensors);
    let config = std::fs::read_to_string(path_of(case).join("config.json")).unwrap();
    let config = config.replace("\"kv_lora_rank\": 12", "\"kv_lora_rank\": 64");
    let config = config.replace("\"qk_rope_head_dim\": 6", "\"qk_rope_head_dim\": 32");
    folder.write("config.json", config);
    folder
}

/// On the kernels they are read as they are packed, elsewhere unpacked: the same but for single codes, and however they come.
#[test]
fn latents_may_be_packed() {
    // What others measure of MLX's memory is the process's.
    let _lock = engine_lock();
    mlx::install_error_handler();
    let folder = with_wide_latents();
    for (bits, step) in [(8, 0.05), (4, 1.0)] {
        let scheme = Some(token_scheme(bits, 32));
        mlx::enter(Device::Cpu).unwrap();
        let exact = fed_in(folder.path(), 40, None);
        let plain = fed_in(folder.path(), 40, scheme);
        fast::start(Kernels::new(3));
        for at_once in [40, 7, 1] {
            let packed = fed_in(folder.path(), at_once, scheme);
            let far = farthest(&packed, &plain);
            assert!(far <= step, "{bits} bits, {at_once} at a time: {far}");
            let rounded = farthest(&packed, &exact);
            assert!(
                rounded > 0.0 && rounded < 20.0 * step,
                "{bits} bits: {rounded}"
            );
        }
        mlx::leave();
    }
}

const PACKED: &str = "deepseek_v3-4bit";
/// Of `PACKED`: heads, the rank, and a head's numbers without the turned ones, which its values have as many of.
const SIZES: [usize; 3] = [2, 32, 32];

/// `PACKED` with the matrices of keys and values in one that is packed, as older versions of mlx-lm left it; and with those of
/// keys as they are in that, unpacked, and those of values as they are packed there.
fn in_one_and_apart() -> [Tensors; 2] {
    let scheme = Scheme {
        mode: Mode::Affine,
        bits: 4,
        group_size: 32,
    };
    let [heads, rank, dim] = SIZES;
    let mut one = tensors_of(&path_of(PACKED));
    let mut apart = one.clone();
    for layer in 0..2 {
        let name =
            |module: &str, leaf: &str| format!("model.layers.{layer}.self_attn.{module}.{leaf}");
        for leaf in ["weight", "scales", "biases"] {
            for module in ["embed_q", "unembed_out"] {
                one.remove(&name(module, leaf)).unwrap();
                apart.remove(&name(module, leaf)).unwrap();
            }
        }
        let rows = 2 * heads * dim;
        let values: Vec<f32> = (0..rows * rank)
            .map(|i| ((i * 7919 + layer * 13) % 1009) as f32 / 1009.0 - 0.5)
            .collect();
        let shape = [rows as i32, rank as i32];
        let both = ops::reshape(&Array::from_f32(&values).unwrap(), &shape).unwrap();
        let (weight, scales, biases) = ops::quantize(&both, scheme).unwrap();
        let biases = biases.unwrap();
        let dense = ops::dequantize(&weight, &scales, Some(&biases), scheme).unwrap();
        let dense = dense.to_f32().unwrap();
        for (leaf, array) in [("weight", weight), ("scales", scales), ("biases", biases)] {
            let dtype = match array.dtype() {
                Dtype::U32 => Type::U32,
                _ => Type::F32,
            };
            let (data, columns) = (array.to_bytes().unwrap(), array.dim(1) as usize);
            let head = data.len() / heads;
            let values = data
                .chunks(head)
                .flat_map(|head| head[head.len() / 2..].to_vec());
            let shape = vec![heads, dim, columns];
            apart.insert(name("unembed_out", leaf), (dtype, shape, values.collect()));
            one.insert(name("kv_b_proj", leaf), (dtype, vec![rows, columns], data));
        }
        // [heads, 2 * dim, rank] → [heads, rank, dim]
        let numbers = (0..heads * rank * dim).map(|i| {
            let (head, column, row) = (i / (rank * dim), i / dim % rank, i % dim);
            dense[(head * 2 * dim + row) * rank + column]
        });
        let numbers: Vec<f32> = numbers.collect();
        let tensor = (Type::F32, vec![heads, rank, dim], bytes_of(&numbers));
        apart.insert(name("embed_q", "weight"), tensor);
    }
    [one, apart]
}

#[test]
fn a_packed_matrix_of_keys_and_values_is_read() {
    let _lock = engine_lock();
    mlx::install_error_handler();
    mlx::enter(Device::Cpu).unwrap();
    let [one, apart] = in_one_and_apart();
    mlx::leave();
    let folders = [&one, &apart].map(|tensors| with_tensors(PACKED, tensors));
    let [one, other] = [0, 1].map(|index: usize| load_from(folders[index].path()));
    let prompt: Vec<i32> = (0..20).map(|i| (i * 29 + 3) % 131).collect();
    let expected = logits(&other, &[], &prompt);
    assert!(logits(&one, &[], &prompt) == expected);
    // It is saved as it is computed.
    let saved = Folder::new("latents");
    save(&one, &vec![], &saved.0, watch(&mut |_, _| true)).unwrap();
    let written = saved_tensors(&saved.0);
    assert!(written == saved_tensors(folders[1].path()));
    let again = load_from(&saved.0);
    assert!(logits(&again, &[], &prompt) == expected);
    let info: serde_json::Value = serde_json::from_str(again.info()).unwrap();
    assert_eq!(info["warnings"], serde_json::json!([]));
    assert_eq!(
        (&info["heads"], &info["kv_heads"], &info["head_dim"]),
        (&2.into(), &1.into(), &48.into())
    );
}

#[test]
fn a_matrix_of_other_heads_is_named() {
    let mut tensors = tensors_of(&path_of("deepseek_v3-f32-hub"));
    let name = "model.layers.1.self_attn.kv_b_proj.weight";
    let (_, shape, data) = tensors.get_mut(name).unwrap();
    shape[0] -= 1;
    data.truncate(shape[0] * shape[1] * 4);
    let folder = with_tensors("deepseek_v3-f32-hub", &tensors);
    let load = |folder: &TempFolder| decoder_for_tests(folder.path().to_str().unwrap(), false);
    let error = load(&folder).map(|_| ()).unwrap_err();
    assert_eq!(error.code, Code::BadModel);
    let says = error.message.contains(name) && error.message.contains("3 heads of 18 rows");
    assert!(says, "{error}");
    tensors.remove(name);
    let error = load(&with_tensors("deepseek_v3-f32-hub", &tensors)).map(|_| ());
    let error = error.unwrap_err();
    assert!(
        error.message.contains("layers.1.self_attn.embed_q.weight"),
        "{error}"
    );
}

#[test]
fn adapters_reach_its_linear_layers_alone() {
    let _lock = engine_lock();
    let model = load("deepseek_v3-f32");
    let with = |keys: &[&str], dora| {
        let options = AdapterOptions {
            rank: 4,
            scale: 2.0,
            dora,
            keys: keys.iter().map(|&key| key.to_owned()).collect(),
            ..AdapterOptions::default()
        };
        Adapter::create(model.clone(), &options).map(Arc::new)
    };
    for key in ["embed_q", "unembed_out", "kv_b_proj"] {
        let error = with(&[key], false).err().unwrap();
        assert_eq!(error.code, Code::InvalidArgument, "{key}");
        assert!(error.message.contains("kv_a_proj_with_mqa"), "{error}");
    }
    let keys = ["q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "o_proj"];
    let prompt: Vec<i32> = (0..12).map(|i| (i * 29 + 3) % 131).collect();
    for dora in [false, true] {
        let adapter = with(&keys, dora).unwrap();
        let base = logits(&model, &[], &prompt);
        let far = farthest(&logits(&model, &[(&adapter, 1.0)], &prompt), &base);
        assert!(far < 1e-4, "a new one: {far}");
        let options = crate::runtime::train::TrainOptions {
            // All samples in each step, so that losses can be compared.
            batch_size: 4,
            ..task(40)
        };
        let mut log = Log::default();
        train(&model, adapter.id(), &options, &mut log).unwrap();
        let [first, .., last] = log.events.as_slice() else {
            panic!("{:?}", log.events);
        };
        assert!(
            last.loss < 0.95 * first.loss,
            "{} {}",
            first.loss,
            last.loss
        );
        // Fused, it computes what it computed beside.
        let adapted = logits(&model, &[(&adapter, 1.0)], &prompt);
        assert!(farthest(&adapted, &base) > 0.01);
        let saved = Folder::new("latents-fused");
        save(
            &model,
            &vec![(adapter, 1.0)],
            &saved.0,
            watch(&mut |_, _| true),
        )
        .unwrap();
        let fused = logits(&load_from(&saved.0), &[], &prompt);
        let far = farthest(&fused, &adapted);
        assert!(far < 1e-3, "fused: {far}");
    }
}
