//! What lies about its packing, or is packed in a way that is not read, is named; in the same words by `inspect`.

use super::super::odd_weights::refused;
use super::pack::{ints, tensor, words};
use super::*;
use crate::error::Code;

const NAME: &str = "model.layers.1.mlp.up_proj";

fn integers(way: &str, block: Value, change: impl Fn(&mut Tensors)) -> TempFolder {
    let pair = pair(LLAMA, block, Kind::F32, &|all, name, dice, size| {
        let integers = Integers::new(dice, size, (4, 64), Kind::F16, false);
        match way {
            "awq" => integers.awq(all, name, Kind::F16),
            "gptq" => integers.gptq(all, name, Kind::F16, 1),
            _ => integers.compressed(all, name, Kind::F16, false),
        }
        integers.dense()
    });
    changed(pair.packed, change)
}

fn changed(folder: TempFolder, change: impl Fn(&mut Tensors)) -> TempFolder {
    let bytes = std::fs::read(folder.path().join(WEIGHTS)).unwrap();
    let mut all = super::super::odd_weights::tensors_in(&bytes);
    change(&mut all);
    write(&folder, WEIGHTS, &all);
    folder
}

fn with(leaf: &str, new: super::super::odd_weights::Tensor) -> impl Fn(&mut Tensors) + '_ {
    move |all| drop(all.insert(format!("{NAME}.{leaf}"), new.clone()))
}

fn without(leaf: &str) -> impl Fn(&mut Tensors) + '_ {
    move |all| drop(all.remove(&format!("{NAME}.{leaf}")).unwrap())
}

/// up_proj is [192, 128]: two groups of 64.
#[test]
fn integers_that_lie() {
    let _lock = engine_lock();
    let awq = || json!({"quant_method": "awq", "bits": 4, "group_size": 64});
    let gptq = || json!({"quant_method": "gptq", "bits": 4, "group_size": 64});
    let packed = || json!({"quant_method": "compressed-tensors", "format": "pack-quantized"});
    let zeros = |shape: &[usize]| words(shape, &vec![0; shape.iter().product()]);
    let halves = |shape: &[usize]| floats(Kind::F16, shape, &vec![0.5; shape.iter().product()]);
    let order = |of: &dyn Fn(usize) -> i32| ints(&(0..128).map(of).collect::<Vec<_>>());

    for (way, block) in [("awq", awq()), ("gptq", gptq())] {
        for (change, code, says) in [
            (
                &without("scales") as &dyn Fn(&mut Tensors),
                Code::BadModel,
                "up_proj.scales",
            ),
            (
                &with("scales", halves(&[2, 191])),
                Code::BadModel,
                "[2, 191]",
            ),
            (
                &with("scales", halves(&[192, 2])),
                Code::BadModel,
                "[192, 2]",
            ),
            (
                &with("scales", zeros(&[2, 192])),
                Code::BadModel,
                "must be F32, F16 or BF16",
            ),
            // Groups of 16, and of no whole number.
            (
                &with("scales", halves(&[8, 192])),
                Code::Unsupported,
                "8 groups of its 128 inputs",
            ),
            (
                &with("scales", halves(&[3, 192])),
                Code::Unsupported,
                "3 groups of its 128 inputs",
            ),
            (&with("qzeros", zeros(&[2, 23])), Code::BadModel, "[2, 23]"),
            (
                &with("qzeros", halves(&[2, 24])),
                Code::BadModel,
                "must be I32",
            ),
            // 2 bits, and none.
            (
                &with("qweight", zeros(&[8, 192])),
                Code::Unsupported,
                "no packing of 192 rows of 128 elements",
            ),
            (
                &with("qweight", zeros(&[128])),
                Code::Unsupported,
                "no packing of 192 rows of 128 elements",
            ),
            (
                &with("qweight", halves(&[16, 192])),
                Code::Unsupported,
                "F16 [16, 192]",
            ),
            (&without("qweight"), Code::Unsupported, "up_proj.weight"),
            // In an order of their own, and out of range.
            (
                &with("g_idx", order(&|n| (n % 2) as i32)),
                Code::Unsupported,
                "act-order",
            ),
            (
                &with("g_idx", order(&|n| (n / 64 * 2) as i32)),
                Code::BadModel,
                "into group 2, and there are 2",
            ),
            (
                &with("g_idx", order(&|n| n as i32 / 64 - 1)),
                Code::BadModel,
                "into group -1",
            ),
            (&with("g_idx", ints(&[0; 127])), Code::BadModel, "[127]"),
        ] {
            refused(&integers(way, block.clone(), change), code, &[NAME, says]);
        }
    }
    let mut block = gptq();
    block["desc_act"] = json!(true);
    refused(
        &integers("gptq", block, without("g_idx")),
        Code::Unsupported,
        &[NAME, "act-order"],
    );
    refused(
        &integers("gptq", Value::Null, |_| ()),
        Code::Unsupported,
        &["as GPTQ does it"],
    );
    let bias = floats(Kind::F16, &[192], &[0.5; 192]);
    let biased = integers("gptq", gptq(), with("bias", bias));
    refused(&biased, Code::BadModel, &[NAME, "is not of zeros"]);
    let mut block = awq();
    block["version"] = json!("gemv");
    refused(
        &integers("awq", block, |_| ()),
        Code::Unsupported,
        &["\"gemv\""],
    );

    let shape = |n: i64| {
        tensor(
            Kind::I64,
            &[2],
            [192, n]
                .iter()
                .flat_map(|n: &i64| n.to_le_bytes())
                .collect(),
        )
    };
    for (change, code, says) in [
        (
            &without("weight_scale") as &dyn Fn(&mut Tensors),
            Code::BadModel,
            "up_proj.weight_scale",
        ),
        (
            &with("weight_scale", halves(&[191, 2])),
            Code::BadModel,
            "[191, 2]",
        ),
        (
            &with("weight_zero_point", zeros(&[2, 24])),
            Code::BadModel,
            "[2, 24]",
        ),
        (
            &with("weight_packed", zeros(&[192, 4])),
            Code::Unsupported,
            "no packing of 192 rows",
        ),
        (
            &with("weight_packed", zeros(&[191, 16])),
            Code::Unsupported,
            "no packing of 192 rows",
        ),
        (
            &with("weight_shape", shape(127)),
            Code::BadModel,
            "[192, 127]",
        ),
        (
            &with("weight_shape", ints(&[192; 3])),
            Code::BadModel,
            "[3]",
        ),
        (
            &with("weight_shape", floats(Kind::F32, &[2], &[192.0, 128.0])),
            Code::BadModel,
            "must be I32 or I64",
        ),
        (
            &with("weight_g_idx", order(&|n| (n % 2) as i32)),
            Code::Unsupported,
            "act-order",
        ),
    ] {
        refused(&integers("packed", packed(), change), code, &[NAME, says]);
    }
}

#[test]
fn floats_that_lie() {
    let _lock = engine_lock();
    let fp8_folder = |change: &dyn Fn(&mut Tensors)| {
        let block = json!({"quant_method": "fp8", "weight_block_size": [128, 128]});
        let pair = pair(LLAMA, block, Kind::F32, &|all, name, dice, size| {
            let shape = [size.rows.div_ceil(128), size.input.div_ceil(128)];
            fp8(
                all,
                name,
                dice,
                size,
                [128, 128],
                ("weight_scale_inv", Kind::F32, &shape),
            )
        });
        changed(pair.packed, change)
    };
    let ones = |shape: &[usize]| floats(Kind::F32, shape, &vec![1.0; shape.iter().product()]);
    let bytes = |kind, shape: &[usize]| tensor(kind, shape, vec![0; shape.iter().product()]);
    for (change, code, says) in [
        (
            &without("weight_scale_inv") as &dyn Fn(&mut Tensors),
            Code::BadModel,
            "F8_E4M3; it must be F32",
        ),
        (
            &with("weight_scale_inv", ones(&[1, 1, 1])),
            Code::BadModel,
            "[1, 1, 1]",
        ),
        (
            &with("weight_scale_inv", ones(&[3, 1])),
            Code::BadModel,
            "[3, 1]",
        ),
        (
            &with("weight_scale_inv", bytes(Kind::F8_E4M3, &[2, 1])),
            Code::BadModel,
            "F8_E4M3; it must be",
        ),
        (
            &with("weight", bytes(Kind::F8_E4M3, &[191, 128])),
            Code::BadModel,
            "[191, 128]",
        ),
        (
            &with("weight", bytes(Kind::F8_E8M0, &[192, 128])),
            Code::Unsupported,
            "F8_E8M0",
        ),
        (
            &with("weight", bytes(Kind::F8_E5M2, &[192, 128])),
            Code::Unsupported,
            "F8_E5M2",
        ),
        (
            &with("weight", bytes(Kind::I8, &[192, 127])),
            Code::BadModel,
            "[192, 127]",
        ),
        (
            &with("weight", bytes(Kind::BOOL, &[192, 128])),
            Code::Unsupported,
            "BOOL",
        ),
    ] {
        refused(&fp8_folder(change), code, &[NAME, says]);
    }
    for (change, code, says) in [
        (
            &without("weight_scale") as &dyn Fn(&mut Tensors),
            Code::BadModel,
            "up_proj.weight_scale",
        ),
        (
            &with("weight_scale", bytes(Kind::F8_E4M3, &[192, 7])),
            Code::BadModel,
            "[192, 7]",
        ),
        (
            &with("weight_scale", bytes(Kind::F8_E8M0, &[192, 8])),
            Code::BadModel,
            "[192, 8]",
        ),
        (
            &with("weight_scale", ones(&[192, 8])),
            Code::BadModel,
            "it must be F8_E4M3",
        ),
        (
            &with("weight_packed", bytes(Kind::U8, &[192, 63])),
            Code::BadModel,
            "[192, 63]",
        ),
        (
            &with("weight_global_scale", ones(&[2])),
            Code::BadModel,
            "[2]",
        ),
        (
            &with("weight_global_scale", bytes(Kind::U8, &[1])),
            Code::BadModel,
            "U8; it must be F32",
        ),
    ] {
        let block = json!({"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized"});
        let pair = pair(LLAMA, block, Kind::F32, &|all, name, dice, size| {
            fp4(all, name, dice, size, Fp4::Compressed)
        });
        refused(&changed(pair.packed, change), code, &[NAME, says]);
    }
}

/// Scales of MLX's own modes may be called 8-bit floats, but not others than they are.
#[test]
fn scales_of_another_kind() {
    let _lock = engine_lock();
    let name = "model.layers.1.mlp.up_proj.scales";
    for (fixture, right, wrong) in [
        ("qwen3-nvfp4-bf16", Kind::F8_E4M3, Kind::F8_E8M0),
        ("qwen3-mxfp4-bf16", Kind::F8_E8M0, Kind::F8_E4M3),
    ] {
        let of = |kind| {
            super::super::odd_weights::with_tensors(fixture, |all| {
                all.get_mut(name).unwrap().dtype = kind;
            })
        };
        load_with(&of(right), false).unwrap();
        let says = ["model.layers.1.mlp.up_proj", &format!("{wrong:?}")];
        refused(&of(wrong), Code::BadModel, &says);
    }
}
