//! model.safetensors.index.json: names that leave the folder, shards that are not there, absurd numbers of entries.

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::{json, Map, Value};

use crate::folder::{join, loads, loads_with_a_warning, refused_at_sight, Folder};
use crate::{damage, files, Class};

pub const CLASS: Class = Class {
    row: "8",
    name: "index.json, links, files of another kind",
    generators: &[
        names_that_leave_the_folder,
        links_that_leave_the_folder,
        maps_that_are_no_maps,
        tensors_in_the_wrong_shard,
        tensors_that_no_shard_has,
        absurd_numbers_of_entries,
        tensors_that_are_there_twice,
        files::no_folder,
        files::files_that_are_missing,
        files::files_of_another_kind,
        files::files_without_permission,
        files::text_that_is_no_json,
        files::files_that_are_too_large,
        damage::index,
    ],
    programs: &[],
};

const INDEX: &str = "model.safetensors.index.json";
const BAD: &[&str] = &["BAD_MODEL", "UNSUPPORTED", "NOT_FOUND"];

/// A copy whose index says of the embedding that it is in `shard`.
fn with_shard(shard: &str) -> Folder {
    let folder = Folder::copy_of("qwen3-f32-shards");
    folder.edit(INDEX, |index| {
        index["weight_map"]["model.embed_tokens.weight"] = json!(shard)
    });
    folder
}

/// The index is a hint: the embedding is where it is, whatever is said of it, and nothing outside is opened for it.
fn names_that_leave_the_folder() {
    for name in [
        "../model-00001-of-00003.safetensors",
        "../../etc/passwd",
        "/etc/passwd",
        "/etc/passwd.safetensors",
        "a/model.safetensors",
        "./model-00001-of-00003.safetensors",
        "..",
        ".",
        "",
        "/",
        "model\0.safetensors",
        "model-00001-of-00003.safetensors\0",
        "..\\model.safetensors",
        "C:\\model.safetensors",
        "~/model.safetensors",
        "config.json",
        "tokenizer.json",
        "nowhere.safetensors",
    ] {
        loads_with_a_warning(&format!("{name:?}"), with_shard(name).path(), &[INDEX]);
    }
    let long = "x".repeat(100_000);
    loads_with_a_warning("a long name", with_shard(&long).path(), &[INDEX]);
    // And where it is nowhere else, the name does not lead to it.
    let outside = Folder::copy_of("qwen3-f32-shards");
    let shard = "model-00001-of-00003.safetensors";
    for name in [
        format!("{}/{shard}", outside.path().display()),
        format!(
            "../{}/{shard}",
            outside.path().file_name().unwrap().display()
        ),
    ] {
        let folder = with_shard(&name);
        folder.remove(shard);
        refused_at_sight(&name, folder.path(), BAD, &["model.embed_tokens.weight"]);
    }
}

fn links_that_leave_the_folder() {
    let outside = Folder::copy_of("qwen3-f32-shards");
    let shard = "model-00001-of-00003.safetensors";
    let flag = "MLXRT_LOAD_FOLLOW_LINKS";
    for name in [shard, "weights.safetensors"] {
        let folder = with_shard(name);
        folder.remove(shard);
        let words = ["leaves the folder", name, flag];
        symlink(outside.file(shard), folder.file(name)).unwrap();
        refused_at_sight("a link to another folder", folder.path(), BAD, &words);
        fs::remove_file(folder.file(name)).unwrap();
        symlink("/etc/passwd", folder.file(name)).unwrap();
        refused_at_sight("a link to /etc/passwd", folder.path(), BAD, &words);
    }
    // Of what is not needed nothing is read.
    let folder = Folder::copy_of("qwen3-f32-shards");
    folder.edit(INDEX, |index| {
        index["weight_map"]["ghost"] = json!("weights.safetensors")
    });
    symlink("/dev/zero", folder.file("weights.safetensors")).unwrap();
    loads("a stale entry for a device", folder.path());
}

fn maps_that_are_no_maps() {
    for (key, value) in [
        ("weight_map", json!(null)),
        ("weight_map", json!([])),
        ("weight_map", json!("x")),
        ("weight_map", json!({"model.embed_tokens.weight": 7})),
        ("weight_map", json!({"model.embed_tokens.weight": null})),
        (
            "weight_map",
            json!({"model.embed_tokens.weight": ["model-00001-of-00003.safetensors"]}),
        ),
    ] {
        let folder = Folder::copy_of("qwen3-f32-shards");
        folder.edit(INDEX, |index| index[key] = value.clone());
        loads_with_a_warning(&format!("{key} = {value}"), folder.path(), &[INDEX, key]);
    }
    // An empty map names nothing, and the shards themselves say what they hold.
    let folder = Folder::copy_of("qwen3-f32-shards");
    folder.edit(INDEX, |index| index["weight_map"] = json!({}));
    loads("an empty map", folder.path());
    let folder = Folder::copy_of("qwen3-f32-shards");
    folder.write(INDEX, "{}");
    loads_with_a_warning("no map", folder.path(), &[INDEX, "weight_map"]);
}

fn tensors_in_the_wrong_shard() {
    let folder = with_shard("model-00002-of-00003.safetensors");
    let words = [INDEX, "model.embed_tokens.weight"];
    loads_with_a_warning("the wrong shard", folder.path(), &words);
}

/// Indices outlive what a conversion drops; mlx-lm does not read them at all.
fn tensors_that_no_shard_has() {
    let folder = Folder::copy_of("qwen3-f32-shards");
    folder.edit(INDEX, |index| {
        index["weight_map"]["ghost"] = json!("model-00001-of-00003.safetensors");
        index["weight_map"]["visual.ghost"] = json!("model-00004-of-00004.safetensors");
        // The head is tied: a copy of it is not needed.
        index["weight_map"]["lm_head.weight"] = json!("model-00004-of-00004.safetensors");
    });
    loads("stale entries", folder.path());
    folder.edit("config.json", |config| {
        config["tie_word_embeddings"] = json!(false)
    });
    let words = [
        "lm_head.weight",
        "model-00004-of-00004.safetensors",
        "is missing",
    ];
    refused_at_sight("an untied head", folder.path(), BAD, &words);

    let folder = Folder::copy_of("qwen3-f32-shards");
    let shard = "model-00002-of-00003.safetensors";
    folder.remove(shard);
    refused_at_sight("a lost shard", folder.path(), BAD, &[shard, "is missing"]);

    // Gemma's configs do not say whether the head is tied: one that was lost must not decide it.
    let folder = Folder::copy_of("gemma3-text-f32");
    folder.edit(INDEX, |index| {
        index["weight_map"]["lm_head.weight"] = json!("model-00002-of-00002.safetensors")
    });
    let words = ["lm_head.weight", "model-00002-of-00002.safetensors"];
    refused_at_sight("a lost head", folder.path(), BAD, &words);
}

fn absurd_numbers_of_entries() {
    for (entries, shards) in [(200_000, 1), (10_000, 10_000)] {
        let map: Map<String, Value> = (0..entries)
            .map(|i| {
                (
                    format!("t{i}"),
                    json!(format!("s{}.safetensors", i % shards)),
                )
            })
            .collect();
        let folder = Folder::copy_of("qwen3-f32-shards");
        folder.write(INDEX, json!({ "weight_map": map }).to_string());
        loads_with_a_warning(&format!("{entries} entries"), folder.path(), &[INDEX]);
    }
}

/// Copies are compared before one of them is believed.
fn tensors_that_are_there_twice() {
    let folder = Folder::copy_of("qwen3-f32");
    folder.write("model-b.safetensors", folder.read("model.safetensors"));
    folder.remove(INDEX);
    loads("a copy", folder.path());
    let mut other = folder.read("model.safetensors");
    *other.last_mut().unwrap() ^= 1;
    folder.write("model-b.safetensors", other);
    let words = ["is in both", "model.safetensors", "model-b.safetensors"];
    refused_at_sight("a copy with another bit", folder.path(), BAD, &words);
    // A terabyte of holes is not read to compare it.
    let huge = |name: &str| {
        let (length, data) = (1_u64 << 40, 1_u64 << 38);
        let entry = json!({"dtype": "F32", "shape": [data], "data_offsets": [0, length]});
        let header = json!({ "model.norm.weight": entry }).to_string();
        folder.write(name, join(&header, &[]));
        let file = fs::File::options().write(true).open(folder.file(name));
        let size = length + 8 + header.len() as u64;
        file.unwrap().set_len(size).unwrap();
    };
    huge("model-b.safetensors");
    refused_at_sight("a large copy", folder.path(), BAD, &[]);
    huge("model.safetensors");
    refused_at_sight("two large ones", folder.path(), BAD, &[]);
}
