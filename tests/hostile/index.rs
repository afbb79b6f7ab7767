//! model.safetensors.index.json: names that leave the folder, shards that are not there, absurd numbers of entries.

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::{json, Map, Value};

use crate::folder::{loads, refused_at_sight, Folder};
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
        refused_at_sight(&format!("{name:?}"), with_shard(name).path(), BAD, &[]);
    }
    refused_at_sight(
        "a long name",
        with_shard(&"x".repeat(100_000)).path(),
        BAD,
        &[],
    );
}

fn links_that_leave_the_folder() {
    let outside = Folder::copy_of("qwen3-f32-shards");
    let shard = "model-00001-of-00003.safetensors";
    let folder = Folder::copy_of("qwen3-f32-shards");
    folder.remove(shard);
    symlink(outside.file(shard), folder.file(shard)).unwrap();
    refused_at_sight(
        "a link to another folder",
        folder.path(),
        &["BAD_MODEL"],
        &[shard],
    );
    fs::remove_file(folder.file(shard)).unwrap();
    symlink("/etc/passwd", folder.file(shard)).unwrap();
    refused_at_sight(
        "a link to /etc/passwd",
        folder.path(),
        &["BAD_MODEL"],
        &[shard],
    );
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
        refused_at_sight(&format!("{key} = {value}"), folder.path(), BAD, &[]);
    }
    // An empty map names nothing, and the shards themselves say what they hold.
    let folder = Folder::copy_of("qwen3-f32-shards");
    folder.edit(INDEX, |index| index["weight_map"] = json!({}));
    loads("an empty map", folder.path());
    let folder = Folder::copy_of("qwen3-f32-shards");
    folder.write(INDEX, "{}");
    refused_at_sight("no map", folder.path(), BAD, &["weight_map"]);
}

fn tensors_in_the_wrong_shard() {
    let folder = with_shard("model-00002-of-00003.safetensors");
    refused_at_sight(
        "the wrong shard",
        folder.path(),
        BAD,
        &["model.embed_tokens.weight"],
    );
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
        refused_at_sight(&format!("{entries} entries"), folder.path(), BAD, &[]);
    }
}
