//! Weight files: truncated, overlapping, absurd, and tensors that are not those the config asks for.

use serde_json::{json, Value};

use crate::folder::{gives_no_token, join, loads, refused_at_sight, split, Folder};
use crate::{damage, Class};

pub const CLASS: Class = Class {
    row: "7",
    name: "safetensors",
    generators: &[
        truncated_anywhere,
        header_lengths,
        headers_that_are_no_headers,
        entries,
        tensors_that_overlap_or_leave_holes,
        tensors_that_are_missing,
        tensors_of_another_shape,
        tensors_of_another_type,
        values,
        more_than_the_config_asks_for,
        damage::weights,
    ],
    programs: &[],
};

const BAD: &[&str] = &["BAD_MODEL", "UNSUPPORTED"];
const NORM: &str = "model.norm.weight";

/// Cut at every byte of the header, and at some of the data.
fn truncated_anywhere() {
    let folder = Folder::copy_of("qwen3-f32");
    let whole = folder.read("model.safetensors");
    let header = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let data = (header..whole.len()).step_by(9973);
    for length in (0..header).chain(data).chain([header + 1, whole.len() - 1]) {
        folder.write("model.safetensors", &whole[..length]);
        refused_at_sight(
            &format!("{length} bytes"),
            folder.path(),
            BAD,
            &["model.safetensors"],
        );
    }
    folder.write("model.safetensors", [&whole[..], b"x"].concat());
    refused_at_sight("one byte more", folder.path(), BAD, &["model.safetensors"]);
}

fn header_lengths() {
    let folder = Folder::copy_of("qwen3-f32");
    let whole = folder.read("model.safetensors");
    for length in [
        0,
        1,
        2,
        7,
        1 << 20,
        99_999_999,
        100_000_001,
        1 << 31,
        1 << 32,
        1 << 63,
        u64::MAX,
        u64::MAX - 7,
    ] {
        let length: u64 = length;
        folder.write(
            "model.safetensors",
            [&length.to_le_bytes(), &whole[8..]].concat(),
        );
        refused_at_sight(
            &format!("a header of {length}"),
            folder.path(),
            BAD,
            &["model.safetensors"],
        );
    }
}

fn headers_that_are_no_headers() {
    let folder = Folder::copy_of("qwen3-f32");
    let (_, data) = split(&folder.read("model.safetensors"));
    let entry = r#"{"dtype":"F32","shape":[32],"data_offsets":[0,128]}"#;
    let many: Vec<String> = (0..150_000)
        .map(|i| format!("\"t{i}\":{{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]}}"))
        .collect();
    for (what, header) in [
        ("nothing", String::new()),
        ("a list", "[]".into()),
        ("null", "null".into()),
        ("empty", "{}".into()),
        ("deep", "[".repeat(100_000)),
        (
            "deep metadata",
            format!(
                "{{\"__metadata__\":{}1{}}}",
                "{\"a\":".repeat(10_000),
                "}".repeat(10_000)
            ),
        ),
        ("a number for a tensor", "{\"a\":7}".into()),
        (
            "twice the same name",
            format!("{{\"{NORM}\":{entry},\"{NORM}\":{entry}}}"),
        ),
        ("an empty name", format!("{{\"\":{entry}}}")),
        ("a NUL in a name", format!("{{\"a\\u0000\":{entry}}}")),
        (
            "a long name",
            format!("{{\"{}\":{entry}}}", "x".repeat(1_000_000)),
        ),
        ("150,000 tensors", format!("{{{}}}", many.join(","))),
        ("text behind it", format!("{{\"a\":{entry}}} x")),
    ] {
        folder.write("model.safetensors", join(header, &data));
        refused_at_sight(what, folder.path(), BAD, &[]);
    }
    folder.write("model.safetensors", join(b"{\"a\xff\":{}}", &data));
    refused_at_sight("no UTF-8", folder.path(), BAD, &["model.safetensors"]);
}

fn entries() {
    for (key, value) in [
        ("dtype", json!("Q9")),
        ("dtype", json!(7)),
        ("dtype", json!(null)),
        ("dtype", json!("F64")),
        ("dtype", json!("I32")),
        ("dtype", json!("BOOL")),
        ("dtype", json!("F16")),
        ("shape", json!(7)),
        ("shape", json!("32")),
        ("shape", json!([])),
        ("shape", json!([31])),
        ("shape", json!([33])),
        ("shape", json!([-32])),
        ("shape", json!([0])),
        ("shape", json!([1, 32])),
        ("shape", json!([32, 1])),
        ("shape", json!([32.0])),
        ("shape", json!([4_294_967_296_u64 + 32])),
        ("shape", json!([u64::MAX])),
        ("shape", json!([1_u64 << 32, 1_u64 << 32])),
        ("shape", json!([1_u64 << 63, 2])),
        ("shape", json!([1, 1, 1, 1, 1, 1, 1, 1, 1, 32])),
        ("data_offsets", json!([])),
        ("data_offsets", json!([0])),
        ("data_offsets", json!([128, 0])),
        ("data_offsets", json!([0, 128, 256])),
        ("data_offsets", json!([0, 127])),
        ("data_offsets", json!([0, 1_u64 << 40])),
        ("data_offsets", json!([u64::MAX - 127, u64::MAX])),
        ("data_offsets", json!([-128, 0])),
        ("data_offsets", json!(["0", "128"])),
    ] {
        let folder = Folder::copy_of("qwen3-f32");
        folder.edit_header(|header, _| header[NORM][key] = value.clone());
        refused_at_sight(&format!("{key} = {value}"), folder.path(), BAD, &[]);
    }
}

fn tensors_that_overlap_or_leave_holes() {
    let folder = Folder::copy_of("qwen3-f32");
    folder.edit_header(|header, _| {
        let other = header["model.layers.0.input_layernorm.weight"]["data_offsets"].clone();
        header[NORM]["data_offsets"] = other;
    });
    refused_at_sight("overlap", folder.path(), BAD, &["model.safetensors"]);
    let folder = Folder::copy_of("qwen3-f32");
    folder.edit_header(|_, data| data.extend([0; 64]));
    refused_at_sight(
        "a hole at the end",
        folder.path(),
        BAD,
        &["model.safetensors"],
    );
}

fn tensors_that_are_missing() {
    let names: Vec<String> = split(&Folder::copy_of("qwen3-f32").read("model.safetensors"))
        .0
        .keys()
        .cloned()
        .collect();
    for name in names.iter().filter(|name| *name != "__metadata__") {
        let folder = Folder::copy_of("qwen3-f32");
        // Renamed: the data stays without a hole.
        folder.edit_header(|header, _| {
            let entry = header.remove(name).unwrap();
            header.insert("renamed".into(), entry);
        });
        refused_at_sight(name, folder.path(), BAD, &[name.as_str()]);
    }
    // Parts of quantised ones.
    let names: Vec<String> = split(&Folder::copy_of("qwen3-4bit").read("model.safetensors"))
        .0
        .keys()
        .cloned()
        .collect();
    for name in names
        .iter()
        .filter(|name| name.starts_with("model.layers.0.mlp"))
    {
        let folder = Folder::copy_of("qwen3-4bit");
        folder.edit_header(|header, _| {
            let entry = header.remove(name).unwrap();
            header.insert("renamed".into(), entry);
        });
        refused_at_sight(name, folder.path(), BAD, &["model.layers.0.mlp"]);
    }
}

fn tensors_of_another_shape() {
    let (header, _) = split(&Folder::copy_of("qwen3-f32").read("model.safetensors"));
    for (name, entry) in header.iter().filter(|(name, _)| *name != "__metadata__") {
        let shape: Vec<u64> = serde_json::from_value(entry["shape"].clone()).unwrap();
        let transposed: Vec<u64> = shape.iter().rev().copied().collect();
        let flat = vec![shape.iter().product::<u64>()];
        let nested = [vec![1], shape.clone()].concat();
        for other in [transposed, flat, nested] {
            if other == shape {
                continue;
            }
            let folder = Folder::copy_of("qwen3-f32");
            folder.edit_header(|header, _| header[name]["shape"] = json!(other));
            refused_at_sight(
                &format!("{name} {other:?}"),
                folder.path(),
                BAD,
                &[name.as_str()],
            );
        }
    }
}

fn tensors_of_another_type() {
    let (header, _) = split(&Folder::copy_of("qwen3-4bit").read("model.safetensors"));
    for (name, entry) in header
        .iter()
        .filter(|(name, _)| name.starts_with("model.layers.0."))
    {
        for dtype in ["I32", "F32", "U32", "I64", "F64", "U8"] {
            let same_size = matches!(entry["dtype"].as_str(), Some("F32" | "U32"))
                && matches!(dtype, "I32" | "F32" | "U32");
            if entry["dtype"] == dtype || !same_size {
                continue;
            }
            let folder = Folder::copy_of("qwen3-4bit");
            folder.edit_header(|header, _| header[name]["dtype"] = json!(dtype));
            refused_at_sight(&format!("{name} as {dtype}"), folder.path(), BAD, &[]);
        }
    }
}

/// Numbers are data: whatever they are, nothing crashes. Of those that are no numbers nothing is drawn.
fn values() {
    for value in [f32::NAN, f32::INFINITY, f32::MAX, f32::MIN_POSITIVE, 0.0] {
        let folder = Folder::copy_of("qwen3-f32");
        folder.edit_header(|_, data| {
            data.chunks_exact_mut(4)
                .for_each(|bytes| bytes.copy_from_slice(&value.to_le_bytes()))
        });
        let what = format!("all weights {value}");
        match value.is_finite() {
            true => loads(&what, folder.path()),
            false => gives_no_token(&what, folder.path(), BAD, &["not finite"]),
        };
    }
    let folder = Folder::copy_of("qwen3-4bit");
    folder.edit_header(|_, data| data.fill(0xff));
    gives_no_token("all bits set", folder.path(), BAD, &["not finite"]);
}

fn more_than_the_config_asks_for() {
    let folder = Folder::copy_of("qwen3-f32");
    folder.edit_header(|header, data| {
        let at = data.len();
        data.extend([0; 128]);
        header.insert(
            "model.layers.7.extra.weight".into(),
            json!({"dtype": "F32", "shape": [32], "data_offsets": [at, at + 128]}),
        );
    });
    refused_at_sight(
        "an extra tensor",
        folder.path(),
        BAD,
        &["model.layers.7.extra.weight"],
    );
    let folder = Folder::copy_of("qwen3-f32");
    folder.edit_header(|header, _| {
        header.insert(
            "__metadata__".into(),
            json!({"format": Value::from("mlx"), "x": "y".repeat(10_000)}),
        );
    });
    loads("much metadata", folder.path());
}
