#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use std::os::unix::fs::{symlink, FileExt};

use super::super::testing::{safetensors, vectors, TempFolder};
use super::*;
use crate::error::Code;

fn refused(temp: &TempFolder) -> String {
    let error = Catalog::open(&temp.open()).unwrap_err();
    assert_eq!(error.code, Code::BadModel, "{error}");
    error.message
}

/// A folder with two shards and this `weight_map`.
fn sharded(weight_map: &str) -> TempFolder {
    let temp = TempFolder::new();
    temp.write(
        "model-00001-of-00002.safetensors",
        vectors(&[("a", 1), ("b", 2)]),
    );
    temp.write("model-00002-of-00002.safetensors", vectors(&[("c", 3)]));
    temp.write(
        INDEX,
        format!("{{\"metadata\":{{\"total_size\":24}},\"weight_map\":{weight_map}}}"),
    );
    temp
}

#[test]
fn one_file() {
    let temp = TempFolder::new();
    temp.write("model.safetensors", vectors(&[("a", 2), ("b", 3)]));
    temp.write("modeling.py", "");
    temp.write("adapter.safetensors", "not read");
    let catalog = Catalog::open(&temp.open()).unwrap();
    assert_eq!(catalog.files.len(), 1);
    assert_eq!(catalog.total_bytes, 20);
    assert_eq!(catalog.tensors.keys().collect::<Vec<_>>(), ["a", "b"]);
    // The place is right: the data counts up from 0, and b comes after the eight bytes of a.
    let b = catalog.get("b").unwrap();
    let mut data = vec![0; b.bytes as usize];
    catalog.files[b.file]
        .file
        .read_exact_at(&mut data, b.offset)
        .unwrap();
    assert_eq!(data, (8..20).collect::<Vec<u8>>());
}

#[test]
fn shards_with_and_without_an_index() {
    let first = "model-00001-of-00002.safetensors";
    let second = "model-00002-of-00002.safetensors";
    let temp = sharded(&format!(
        r#"{{"a":"{first}","b":"{first}","c":"{second}"}}"#
    ));
    for _ in 0..2 {
        let catalog = Catalog::open(&temp.open()).unwrap();
        let file_of = |name: &str| catalog.files[catalog.get(name).unwrap().file].name.clone();
        assert_eq!(
            (file_of("a"), file_of("b"), file_of("c")),
            (first.into(), first.into(), second.into())
        );
        assert_eq!(catalog.total_bytes, 24);
        let _ = std::fs::remove_file(temp.path().join(INDEX));
    }
    // A file that only the index names is read too.
    temp.write("other.safetensors", vectors(&[("d", 1)]));
    temp.write(INDEX, r#"{"weight_map":{"d":"other.safetensors"}}"#);
    assert_eq!(Catalog::open(&temp.open()).unwrap().tensors.len(), 4);
}

#[test]
fn nothing_to_load() {
    let temp = TempFolder::new();
    temp.write("pytorch_model.bin", "");
    let shown = quoted(temp.path().to_str().unwrap(), 400);
    assert_eq!(
        refused(&temp),
        format!("the folder {shown} holds no model*.safetensors")
    );
    temp.write(INDEX, r#"{"weight_map":{}}"#);
    assert_eq!(
        refused(&temp),
        format!("the folder {shown} holds no model*.safetensors")
    );
}

#[test]
fn index_entries_stay_inside_the_folder() {
    let outside = TempFolder::new();
    outside.write("x.safetensors", vectors(&[("a", 1), ("b", 2)]));
    let absolute = outside.path().join("x.safetensors");
    for file in [
        "../x.safetensors",
        "..",
        ".",
        "",
        "/x.safetensors",
        "a/b.safetensors",
        "./model.safetensors",
        "a\\\\b.safetensors",
        "x\\u0000.safetensors",
        absolute.to_str().unwrap(),
    ] {
        let message = refused(&sharded(&format!(r#"{{"a":"{file}"}}"#)));
        assert!(
            message.starts_with(&format!(
                "{INDEX}: \"weight_map.a\" names a file outside the folder: \""
            )),
            "{message}"
        );
    }
    let long = format!("{}.safetensors", "x".repeat(300));
    assert!(refused(&sharded(&format!(r#"{{"a":"{long}"}}"#))).contains("is longer than 255 bytes"));

    let temp = sharded(r#"{"a":"link.safetensors"}"#);
    symlink(&absolute, temp.path().join("link.safetensors")).unwrap();
    assert_eq!(
        refused(&temp),
        "link.safetensors: is a link that leaves the model folder"
    );
    let temp = sharded("{}");
    symlink(&absolute, temp.path().join("model-x.safetensors")).unwrap();
    assert_eq!(
        refused(&temp),
        "model-x.safetensors: is a link that leaves the model folder"
    );
    let temp = sharded(r#"{"a":"zero.safetensors"}"#);
    symlink("/dev/zero", temp.path().join("zero.safetensors")).unwrap();
    assert_eq!(
        refused(&temp),
        "zero.safetensors: is a link that leaves the model folder"
    );
    let temp = sharded(r#"{"a":"folder.safetensors"}"#);
    std::fs::create_dir(temp.path().join("folder.safetensors")).unwrap();
    assert_eq!(
        refused(&temp),
        "folder.safetensors: is a folder, not a regular file"
    );
}

#[test]
fn the_index_must_tell_the_truth() {
    let first = "model-00001-of-00002.safetensors";
    let second = "model-00002-of-00002.safetensors";
    for (weight_map, expected) in [
        (
            format!(r#"{{"a":"{second}"}}"#),
            format!("{INDEX}: \"weight_map\" puts tensor \"a\" in {second}, but it is in {first}"),
        ),
        (
            r#"{"a":7}"#.into(),
            format!("{INDEX}: \"weight_map.a\" must be a string, is 7"),
        ),
        (
            r#"{"a":null}"#.into(),
            format!("{INDEX}: \"weight_map.a\" is missing"),
        ),
        (
            r#"[]"#.into(),
            format!("{INDEX}: \"weight_map\" must be an object, is an array of 0"),
        ),
        ("null".into(), format!("{INDEX}: \"weight_map\" is missing")),
        (
            r#"{"a":"model.gguf"}"#.into(),
            format!(
                "{INDEX}: \"weight_map.a\" names \"model.gguf\", which is not a .safetensors file"
            ),
        ),
    ] {
        assert_eq!(refused(&sharded(&weight_map)), expected);
    }
    // A file that is not there cannot hold what another file holds.
    let third = "model-00003-of-00003.safetensors";
    assert_eq!(
        refused(&sharded(&format!(r#"{{"a":"{third}"}}"#))),
        format!("{INDEX}: \"weight_map\" puts tensor \"a\" in {third}, but it is in {first}")
    );
    let message = refused(&sharded(&format!(r#"{{"a":"{first}","a":"{second}"}}"#)));
    assert!(
        message.starts_with(&format!("{INDEX}: the key \"a\" is given twice, at line 1")),
        "{message}"
    );
    let temp = sharded("{}");
    temp.write(INDEX, "{");
    assert!(refused(&temp).starts_with(&format!("{INDEX}: is not valid JSON: ")));
}

#[test]
fn what_only_the_index_names_is_an_error_where_it_is_needed() {
    let first = "model-00001-of-00002.safetensors";
    let third = "model-00003-of-00003.safetensors";
    let temp = sharded(&format!(r#"{{"a":"{first}","x":"{first}","y":"{third}"}}"#));
    let catalog = Catalog::open(&temp.open()).unwrap();
    assert_eq!(catalog.files.len(), 2);
    assert!(catalog.get("x").is_none() && catalog.get("y").is_none());
    for (name, why) in [
        (
            "x",
            format!("{INDEX} puts it in {first}, which does not hold it"),
        ),
        ("y", format!("{INDEX} puts it in {third}, which is missing")),
    ] {
        let error = catalog.missing(name);
        assert_eq!(error.code, Code::BadModel);
        assert_eq!(
            error.message,
            format!("the weights hold no tensor \"{name}\": {why}")
        );
    }
    assert_eq!(
        catalog.missing("z").message,
        "the weights hold no tensor \"z\""
    );

    let temp = TempFolder::new();
    temp.write(INDEX, format!(r#"{{"weight_map":{{"a":"{third}"}}}}"#));
    assert!(refused(&temp).ends_with("holds no model*.safetensors"));
    temp.write(INDEX, r#"{"weight_map":{"a":"link.safetensors"}}"#);
    symlink("gone", temp.path().join("link.safetensors")).unwrap();
    assert_eq!(
        refused(&temp),
        "link.safetensors: is a link to a file that is not there"
    );
}

#[test]
fn crowds() {
    let entries: Vec<String> = (0..1_000_000)
        .map(|i| format!("\"t{i}\":\"model-1.safetensors\""))
        .collect();
    let message = refused(&sharded(&format!("{{{}}}", entries.join(","))));
    assert!(
        message.contains("the JSON holds more than 210000 values"),
        "{message}"
    );

    let folder = sharded("{}").open();
    let temp = sharded("{}");
    let limits = Limits {
        tensors: 2,
        ..Limits::DEFAULT
    };
    let error = Catalog::open_within(&temp.open(), &limits).unwrap_err();
    assert_eq!(
        error.message,
        "model-00002-of-00002.safetensors: the folder holds more than 2 tensors"
    );
    let limits = Limits {
        shards: 1,
        ..Limits::DEFAULT
    };
    let error = Catalog::open_within(&temp.open(), &limits).unwrap_err();
    assert!(
        error
            .message
            .ends_with("holds more than 1 files model*.safetensors"),
        "{error}"
    );
    temp.write("other.safetensors", vectors(&[("d", 1)]));
    temp.write(INDEX, r#"{"weight_map":{"d":"other.safetensors"}}"#);
    let limits = Limits {
        shards: 2,
        ..Limits::DEFAULT
    };
    let error = Catalog::open_within(&temp.open(), &limits).unwrap_err();
    assert_eq!(error.message, format!("{INDEX}: names more than 2 files"));
    let limits = Limits {
        index_bytes: 4,
        ..Limits::DEFAULT
    };
    let error = Catalog::open_within(&temp.open(), &limits).unwrap_err();
    assert!(
        error.message.starts_with(&format!("{INDEX}: is "))
            && error.message.ends_with("more than the 4 that are accepted")
    );

    // The folder vanished between being found and being read.
    assert_eq!(Catalog::open(&folder).unwrap_err().code, Code::Io);
}

#[test]
fn one_name_in_two_files() {
    let temp = TempFolder::new();
    temp.write("model-a.safetensors", vectors(&[("w", 1)]));
    temp.write("model-b.safetensors", vectors(&[("v", 1), ("w", 1)]));
    assert_eq!(
        refused(&temp),
        "tensor \"w\" is in both model-a.safetensors and model-b.safetensors"
    );
}

#[test]
fn a_bad_shard_is_named() {
    let temp = sharded("{}");
    let whole = vectors(&[("d", 5)]);
    temp.write("model-x.safetensors", &whole[..whole.len() - 1]);
    let expected = format!(
        "is truncated: it is {} bytes, its header needs {}",
        whole.len() - 1,
        whole.len()
    );
    assert_eq!(refused(&temp), format!("model-x.safetensors: {expected}"));
    temp.write(
        "model-x.safetensors",
        safetensors(
            r#"{"d":{"dtype":"F64","shape":[1],"data_offsets":[0,8]}}"#,
            8,
        ),
    );
    let error = Catalog::open(&temp.open()).unwrap_err();
    assert_eq!(
        (error.code, error.message.as_str()),
        (
            Code::Unsupported,
            "model-x.safetensors: tensor \"d\" has the type \"F64\", which MLX has not"
        )
    );
}
