//! Weights as other programs pack them: the same logits as of the weights that they stand for, unpacked number by number in
//! `pack`, which shares nothing with the library.

mod hostile;
mod pack;

use safetensors::Dtype as Kind;
use serde_json::{json, Value};

use super::adapters::watch;
use super::odd_weights::{
    edit, inspect, load_with, warnings, without_weights, write, Tensors, PROMPT, WEIGHTS,
};
use super::saving::{load_from, logits, Folder};
use super::*;
use crate::load::testing::TempFolder;
use crate::mlx::fast;
use crate::runtime::model_save::save;
use pack::{floats, fp4, fp8, mxfp8, Dice, Fp4, Integers, Size};

/// Packs a matrix, and gives what it stands for.
type Pack<'a> = &'a dyn Fn(&mut Tensors, &str, &mut Dice, Size) -> Vec<f32>;

/// Two folders of one model: packed, and plain in f32. `plain`: the type of what is not packed.
struct Pair {
    packed: TempFolder,
    truth: TempFolder,
}

const LLAMA: &str = "llama-f32";
/// As DeepSeek publishes it: keys and values of all heads in one matrix.
const LATENTS: &str = "deepseek_v3-f32-hub";
const EXPERTS: &str = "qwen3_moe-f32-one-by-one";

/// A fixture made wider, so that groups fit.
fn wider(fixture: &str, n: usize) -> usize {
    match (fixture, n) {
        (LLAMA, 32) => 128,
        (LLAMA, 48) => 192,
        (LLAMA, 16) => 64,
        (EXPERTS, 24) => 64,
        (EXPERTS, 36) => 96,
        (EXPERTS, 12 | 20) => 32,
        (_, n) => n,
    }
}

fn pair(fixture: &str, block: Value, plain: Kind, pack: Pack) -> Pair {
    let (mut packed, mut truth) = (Tensors::new(), Tensors::new());
    let mut dice = Dice(7);
    for (name, tensor) in super::odd_weights::tensors_of(fixture) {
        let shape: Vec<usize> = tensor.shape.iter().map(|&n| wider(fixture, n)).collect();
        let path = name.strip_suffix(".weight").unwrap_or(&name);
        if path.ends_with("_proj") || path.ends_with("_mqa") {
            let size = Size {
                rows: shape[0],
                input: shape[1],
            };
            let dense = pack(&mut packed, path, &mut dice, size);
            truth.insert(name, floats(Kind::F32, &shape, &dense));
            continue;
        }
        let count = shape.iter().product::<usize>();
        let (about, spread) = if shape.len() == 1 {
            (1.0, 0.1)
        } else {
            (0.0, 0.25)
        };
        // Numbers that every type has.
        let values: Vec<f32> = (0..count)
            .map(|_| about + spread * (dice.roll(65) as f32 / 32.0 - 1.0))
            .collect();
        packed.insert(name.clone(), floats(plain, &shape, &values));
        let values = super::types::widen(plain, &packed[&name].data);
        truth.insert(name, floats(Kind::F32, &shape, &values));
    }
    let folders = [packed, truth].map(|tensors| {
        let folder = without_weights(fixture);
        edit(&folder, "config.json", |config| {
            for key in [
                "hidden_size",
                "intermediate_size",
                "moe_intermediate_size",
                "head_dim",
            ] {
                if let Some(n) = config[key].as_u64() {
                    config[key] = json!(wider(fixture, n as usize));
                }
            }
        });
        write(&folder, WEIGHTS, &tensors);
        folder
    });
    let [packed, truth] = folders;
    edit(&packed, "config.json", |config| {
        config["quantization_config"] = block
    });
    Pair { packed, truth }
}

fn plain_logits(model: &Arc<Model>) -> Vec<f32> {
    let of = model.id;
    let computed = model
        .engine
        .call(move |worker| fast::plainly(|| worker.logits_for_tests(of, &[], &PROMPT)));
    computed.unwrap()
}

fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter()
        .zip(b)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, |most, one| {
            if one > most || one.is_nan() {
                one
            } else {
                most
            }
        })
}

/// Loads both, and compares logits and what is told: `to` is of `repacked`, none where the matrices are as MLX has them.
fn same(what: &str, pair: &Pair, bound: f32, from: &str, to: &str, exact: bool) -> Arc<Model> {
    let (model, truth) = (
        load_with(&pair.packed, false).unwrap(),
        load_with(&pair.truth, false).unwrap(),
    );
    let expected = logits(&truth, &[], &PROMPT);
    let size = expected.iter().fold(0f32, |most, one| most.max(one.abs()));
    let kernels = distance(&logits(&model, &[], &PROMPT), &expected);
    let plain = distance(&plain_logits(&model), &expected);
    println!("{what}: logits up to {size}, kernels {kernels:e}, plain {plain:e}");
    assert!(size > 0.5, "{what}: {size}");
    assert!(
        kernels <= bound && plain <= bound,
        "{what}: {kernels} {plain}"
    );
    let info: Value = serde_json::from_str(model.info()).unwrap();
    let ways = info["repacked"].as_array().unwrap();
    assert_eq!(ways.len(), 1, "{what}: {ways:?}");
    assert_eq!(
        (&ways[0]["from"], &ways[0]["to"], &ways[0]["exact"]),
        (&json!(from), &json!(to), &json!(exact)),
        "{what}"
    );
    let said = warnings(model.info());
    assert_eq!(said.is_empty(), exact, "{what}: {said:?}");
    assert_eq!(warnings(&inspect(&pair.packed, false).unwrap()), said);
    // What is saved is MLX's, and computes the same.
    let folder = Folder::new("foreign");
    save(&model, &vec![], &folder.0, watch(&mut |_, _| true)).unwrap();
    let again = load_from(&folder.0);
    assert_eq!(
        distance(&logits(&again, &[], &PROMPT), &logits(&model, &[], &PROMPT)),
        0.0,
        "{what}"
    );
    let info: Value = serde_json::from_str(again.info()).unwrap();
    assert_eq!(info["repacked"], json!([]), "{what}");
    assert!(
        warnings(again.info()).is_empty(),
        "{what}: {:?}",
        warnings(again.info())
    );
    model
}

const CLOSE: f32 = 1e-3;

#[test]
fn awq_and_gptq_are_exact_in_f32() {
    let _lock = engine_lock();
    for (fixture, group) in [(LLAMA, 64), (LLAMA, 32), (EXPERTS, 32)] {
        let block = json!({"quant_method": "awq", "bits": 4, "group_size": group, "version": "gemm", "zero_point": true});
        let awq = pair(fixture, block, Kind::F32, &|all, name, dice, size| {
            let integers = Integers::new(dice, size, (4, group), Kind::F16, false);
            integers.awq(all, name, Kind::F16);
            integers.dense()
        });
        let to = format!("4 bits in groups of {group} (affine)");
        same(
            &format!("awq {fixture} {group}"),
            &awq,
            CLOSE,
            "awq",
            &to,
            true,
        );
        for bits in [4, 8] {
            for (format, less) in [("gptq", 1), ("gptq_v2", 0)] {
                let block = json!({"quant_method": "gptq", "bits": bits, "group_size": group, "checkpoint_format": format, "desc_act": true});
                let gptq = pair(fixture, block, Kind::F32, &|all, name, dice, size| {
                    let integers =
                        Integers::new(dice, size, (bits, group), Kind::F16, bits == 4 && less == 0);
                    integers.gptq(all, name, Kind::F16, less);
                    if fixture == LLAMA && bits == 8 {
                        // As old versions of AutoGPTQ write them for a model without.
                        let zeros = vec![0.0; size.rows];
                        all.insert(
                            format!("{name}.bias"),
                            floats(Kind::F16, &[size.rows], &zeros),
                        );
                    }
                    integers.dense()
                });
                let to = format!("{bits} bits in groups of {group} (affine)");
                same(
                    &format!("{format} {bits} bits {fixture} {group}"),
                    &gptq,
                    CLOSE,
                    "gptq",
                    &to,
                    true,
                );
            }
        }
    }
}

/// Rows of 192 with one scale, as group_size -1 has them: groups that MLX has, each with the same.
#[test]
fn wide_groups_are_cut() {
    let _lock = engine_lock();
    let block = json!({"quant_method": "gptq", "bits": 4, "group_size": -1});
    let gptq = pair(LLAMA, block, Kind::F32, &|all, name, dice, size| {
        let integers = Integers::new(dice, size, (4, size.input), Kind::F16, false);
        integers.gptq(all, name, Kind::F16, 1);
        // Nothing says that inputs are in an order of their own.
        all.remove(&format!("{name}.g_idx"));
        integers.dense()
    });
    let model = load_with(&gptq.packed, false).unwrap();
    let truth = load_with(&gptq.truth, false).unwrap();
    let distance = distance(&logits(&model, &[], &PROMPT), &logits(&truth, &[], &PROMPT));
    assert!(distance < CLOSE, "{distance}");
}

/// A zero times a scale has more bits than f16, and mlx-lm rounds it to f16 as well.
#[test]
fn in_16_bits_biases_are_rounded_and_it_is_said() {
    let _lock = engine_lock();
    for (kind, bound) in [(Kind::F16, 5e-2), (Kind::BF16, 4e-1)] {
        let block = json!({"quant_method": "awq", "bits": 4, "group_size": 64});
        let awq = pair(LLAMA, block, kind, &|all, name, dice, size| {
            let integers = Integers::new(dice, size, (4, 64), kind, false);
            integers.awq(all, name, kind);
            integers.dense()
        });
        let model = same(
            &format!("awq in {kind:?}"),
            &awq,
            bound,
            "awq",
            "4 bits in groups of 64 (affine)",
            false,
        );
        let said = warnings(model.info());
        assert!(
            said[0].starts_with("the biases of 14 modules of awq, such as \"model.layers.0."),
            "{said:?}"
        );
        // Zeros in the middle are powers of two.
        let block = json!({"quant_method": "compressed-tensors", "format": "pack-quantized"});
        let packed = pair(LLAMA, block, kind, &|all, name, dice, size| {
            let integers = Integers::new(dice, size, (4, 64), kind, true);
            integers.compressed(all, name, kind, true);
            integers.dense()
        });
        let to = "4 bits in groups of 64 (affine)";
        same(
            &format!("pack-quantized in {kind:?}"),
            &packed,
            bound,
            "pack-quantized",
            to,
            true,
        );
    }
}

#[test]
fn compressed_integers_are_exact() {
    let _lock = engine_lock();
    for (fixture, group) in [(LLAMA, 64), (EXPERTS, 32)] {
        for bits in [4, 8] {
            for symmetric in [true, false] {
                let block = json!({"quant_method": "compressed-tensors", "format": "pack-quantized", "ignore": ["lm_head", "re:.*gate$"]});
                let packed = pair(fixture, block, Kind::F32, &|all, name, dice, size| {
                    let integers = Integers::new(dice, size, (bits, group), Kind::BF16, symmetric);
                    integers.compressed(all, name, Kind::BF16, symmetric);
                    integers.dense()
                });
                let to = format!("{bits} bits in groups of {group} (affine)");
                let what = format!("pack-quantized {fixture} {bits} {symmetric}");
                same(&what, &packed, CLOSE, "pack-quantized", &to, true);
            }
        }
    }
    let block = json!({"quant_method": "compressed-tensors", "format": "int-quantized"});
    let bytes = pair(EXPERTS, block, Kind::F32, &|all, name, dice, size| {
        let integers = Integers::new(dice, size, (8, 32), Kind::F32, true);
        integers.bytes(all, name, Kind::F32);
        integers.dense()
    });
    same(
        "int-quantized",
        &bytes,
        CLOSE,
        "int-quantized",
        "8 bits in groups of 32 (affine)",
        true,
    );
}

#[test]
fn floats_of_8_bits_become_plain() {
    let _lock = engine_lock();
    let block = || json!({"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128], "activation_scheme": "dynamic"});
    for fixture in [LLAMA, EXPERTS, LATENTS] {
        for (plain, scale) in [
            (Kind::F32, Kind::F32),
            (Kind::F32, Kind::BF16),
            (Kind::BF16, Kind::F32),
        ] {
            // In 16 bits another expert may be chosen.
            if fixture != LLAMA && plain == Kind::BF16 {
                continue;
            }
            let in_blocks = pair(fixture, block(), plain, &|all, name, dice, size| {
                let shape = [size.rows.div_ceil(128), size.input.div_ceil(128)];
                fp8(
                    all,
                    name,
                    dice,
                    size,
                    [128, 128],
                    ("weight_scale_inv", scale, &shape),
                )
            });
            let (to, bound) = if plain == Kind::F32 {
                ("F32", CLOSE)
            } else {
                ("BF16", 4e-1)
            };
            let what = format!("fp8 in blocks {fixture} {plain:?} {scale:?}");
            same(&what, &in_blocks, bound, "fp8", to, plain == Kind::F32);
        }
    }
    let block = || json!({"quant_method": "compressed-tensors", "format": "float-quantized"});
    let by_row = pair(EXPERTS, block(), Kind::F32, &|all, name, dice, size| {
        let shape = [size.rows, 1];
        fp8(
            all,
            name,
            dice,
            size,
            [1, size.input],
            ("weight_scale", Kind::BF16, &shape),
        )
    });
    same("fp8 by row", &by_row, CLOSE, "fp8", "F32", true);
    // As modelopt writes it, with the scales of activations and of the cache.
    let by_tensor = pair(
        LLAMA,
        json!({"quant_algo": "FP8", "kv_cache_scheme": "FP8"}),
        Kind::F32,
        &|all, name, dice, size| {
            all.insert(
                format!("{name}.input_scale"),
                floats(Kind::F32, &[], &[0.5]),
            );
            if name.ends_with("k_proj") {
                all.insert(format!("{name}.k_scale"), floats(Kind::F32, &[], &[0.5]));
            }
            fp8(
                all,
                name,
                dice,
                size,
                [size.rows, size.input],
                ("weight_scale", Kind::F32, &[]),
            )
        },
    );
    same("fp8 by tensor", &by_tensor, CLOSE, "fp8", "F32", true);
}

#[test]
fn small_floats_of_other_programs() {
    let _lock = engine_lock();
    let block = || json!({"quant_method": "mxfp4"});
    let mx4 = pair(LLAMA, block(), Kind::F32, &|all, name, dice, size| {
        fp4(all, name, dice, size, Fp4::Mx)
    });
    same(
        "mxfp4",
        &mx4,
        CLOSE,
        "mxfp4",
        "4 bits in groups of 32 (mxfp4)",
        true,
    );
    let mx8 = pair(
        EXPERTS,
        json!({"quant_method": "modelopt", "quant_algo": "MXFP8"}),
        Kind::F32,
        &|all, name, dice, size| mxfp8(all, name, dice, size),
    );
    same(
        "mxfp8",
        &mx8,
        CLOSE,
        "mxfp8",
        "8 bits in groups of 32 (mxfp8)",
        true,
    );
    for way in [Fp4::Modelopt, Fp4::Compressed] {
        for (plain, bound) in [(Kind::F32, CLOSE), (Kind::BF16, 4e-1)] {
            let block = json!({"quant_method": "modelopt", "quant_algo": "NVFP4"});
            let fixture = if plain == Kind::F32 { EXPERTS } else { LLAMA };
            let nv = pair(fixture, block, plain, &|all, name, dice, size| {
                fp4(all, name, dice, size, way)
            });
            let (to, exact) = if plain == Kind::F32 {
                ("F32", true)
            } else {
                ("BF16", false)
            };
            same(&format!("nvfp4 {plain:?}"), &nv, bound, "nvfp4", to, exact);
        }
    }
}
