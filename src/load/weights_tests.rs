#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use std::os::unix::fs::{symlink, FileExt};

use super::super::testing::{safetensors, vectors, TempFolder};
use super::*;
use crate::error::Code;

/// The catalog of a folder in which nothing is odd.
fn open(temp: &TempFolder) -> Result<Catalog> {
    let (catalog, warnings) = warned(temp)?;
    assert!(warnings.is_empty(), "{warnings:?}");
    Ok(catalog)
}

fn warned(temp: &TempFolder) -> Result<(Catalog, Vec<String>)> {
    let mut warnings = Warnings::default();
    let catalog = Catalog::open(&temp.open(), &mut warnings)?;
    Ok((catalog, warnings.sentences().to_vec()))
}

/// The names of the tensors, and in which file each lies.
fn places(catalog: &Catalog) -> Vec<(&str, &str)> {
    let place = |tensor| catalog.file_of(tensor);
    let tensors = catalog.tensors.iter();
    tensors
        .map(|(name, tensor)| (name.as_str(), place(tensor)))
        .collect()
}

/// What comparing the tensors of one name gives, where all of them are used.
fn compared(catalog: &Catalog) -> Result<()> {
    let used: Vec<&Tensor> = catalog.tensors.values().collect();
    catalog.check_copies(&used, &Limits::DEFAULT, &mut || Ok(()))
}

fn refused(temp: &TempFolder) -> String {
    let error = open(temp).unwrap_err();
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
    let catalog = open(&temp).unwrap();
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
        let catalog = open(&temp).unwrap();
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
    assert_eq!(open(&temp).unwrap().tensors.len(), 4);
}

#[test]
fn nothing_to_load() {
    let temp = TempFolder::new();
    let shown = quoted(temp.path().to_str().unwrap(), 400);
    let nothing = format!("the folder {shown} holds no model*.safetensors");
    assert_eq!(refused(&temp), nothing);
    temp.write(INDEX, r#"{"weight_map":{}}"#);
    assert_eq!(refused(&temp), nothing);
    for other in ["pytorch_model.bin", "model-Q4_K_M.gguf"] {
        temp.write(other, "");
        let message = refused(&temp);
        let start = format!("{nothing}, but \"{other}\": mlxrt reads folders in mlx-lm's form");
        assert!(message.starts_with(&start), "{message}");
        assert!(message.contains("mlx_lm.convert"), "{message}");
    }
}

#[test]
fn index_entries_stay_inside_the_folder() {
    let outside = TempFolder::new();
    outside.write("x.safetensors", vectors(&[("a", 1), ("b", 2), ("x", 1)]));
    let absolute = outside.path().join("x.safetensors");
    let long = format!("{}.safetensors", "x".repeat(300));
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
        &long,
    ] {
        let temp = sharded(&format!(r#"{{"x":"{file}"}}"#));
        let (catalog, warnings) = warned(&temp).unwrap();
        assert_eq!((catalog.files.len(), catalog.tensors.len()), (2, 3));
        assert!(catalog.absent.is_empty());
        let start = format!("{INDEX}: \"weight_map.x\" names a file outside the folder: \"");
        assert!(warnings[0].starts_with(&start), "{warnings:?}");
        assert!(warnings[0].ends_with("; it is ignored"), "{warnings:?}");
    }

    // What is not needed is not opened, whatever it is; what is needed names the reason.
    let cannot = |name: &str, why: &str| {
        let temp = sharded(&format!(r#"{{"a":"{name}","x":"{name}"}}"#));
        match name {
            "link.safetensors" => symlink(&absolute, temp.path().join(name)).unwrap(),
            "zero.safetensors" => symlink("/dev/zero", temp.path().join(name)).unwrap(),
            "folder.safetensors" => std::fs::create_dir(temp.path().join(name)).unwrap(),
            _ => temp.write(name, "no safetensors"),
        }
        let (catalog, _) = warned(&temp).unwrap();
        assert_eq!((catalog.files.len(), catalog.tensors.len()), (2, 3));
        assert_eq!(
            catalog.missing("x").message,
            format!("the weights hold no tensor \"x\": {INDEX} puts it in {name}, which cannot be used: {name}: {why}")
        );
    };
    let leaves = "is a link that leaves the folder; MLXRT_LOAD_FOLLOW_LINKS allows it";
    cannot("link.safetensors", leaves);
    cannot("zero.safetensors", leaves);
    cannot("folder.safetensors", "is a folder, not a regular file");
    cannot(
        "text.safetensors",
        "its header is 8387222449776783214 bytes, more than the 100000000 that are accepted",
    );

    let temp = sharded("{}");
    symlink(&absolute, temp.path().join("model-x.safetensors")).unwrap();
    assert_eq!(refused(&temp), format!("model-x.safetensors: {leaves}"));
    let folder = temp.open().following_links(true);
    let catalog = Catalog::open(&folder, &mut Warnings::default()).unwrap();
    assert_eq!(catalog.files.len(), 3);
    assert!(catalog.get("x").is_some());
}

#[test]
fn the_files_decide_and_not_the_index() {
    let first = "model-00001-of-00002.safetensors";
    let second = "model-00002-of-00002.safetensors";
    let stale = |names: &str, these: &str| {
        format!("{INDEX}: puts {names} into files that do not hold {these}; the files decide")
    };
    let ignored = |why: &str| format!("{INDEX}: {why}; it is ignored");
    let third = "model-00003-of-00003.safetensors";
    for (index, expected) in [
        (
            format!(r#"{{"weight_map":{{"a":"{second}"}}}}"#),
            stale("tensor \"a\"", "it"),
        ),
        (
            format!(r#"{{"weight_map":{{"a":"{second}","c":"{first}","b":"{first}"}}}}"#),
            stale("2 tensors, such as \"a\",", "them"),
        ),
        // A file that is not there cannot hold what another file holds.
        (
            format!(r#"{{"weight_map":{{"a":"{third}"}}}}"#),
            stale("tensor \"a\"", "it"),
        ),
        (
            r#"{"weight_map":{"a":7}}"#.into(),
            ignored("\"weight_map.a\" must be a string, is 7"),
        ),
        (
            r#"{"weight_map":{"a":null,"b":null,"c":null}}"#.into(),
            format!("{INDEX}: \"weight_map.a\" is missing; 3 entries like that are ignored"),
        ),
        (
            r#"{"weight_map":[]}"#.into(),
            ignored("\"weight_map\" must be an object, is an array of 0"),
        ),
        (
            r#"{"weight_map":null}"#.into(),
            ignored("\"weight_map\" is missing"),
        ),
        ("{}".into(), ignored("\"weight_map\" is missing")),
        (
            r#"{"weight_map":{"a":"model.gguf"}}"#.into(),
            ignored("\"weight_map.a\" names \"model.gguf\", which is not a .safetensors file"),
        ),
        (
            "{".into(),
            ignored("is not valid JSON: EOF while parsing an object at line 1 column 1"),
        ),
        (
            format!(r#"{{"weight_map":{{"a":"{first}","a":"{second}"}}}}"#),
            ignored("the key \"a\" is given twice, at line 1 column 55"),
        ),
    ] {
        let temp = sharded("{}");
        temp.write(INDEX, &index);
        let (catalog, warnings) = warned(&temp).unwrap();
        assert_eq!(warnings, [expected], "{index}");
        assert_eq!(
            places(&catalog),
            [("a", first), ("b", first), ("c", second)]
        );
    }
    let temp = sharded("{}");
    std::fs::remove_file(temp.path().join(INDEX)).unwrap();
    std::fs::create_dir(temp.path().join(INDEX)).unwrap();
    let (catalog, warnings) = warned(&temp).unwrap();
    assert_eq!(warnings, [ignored("is a folder, not a regular file")]);
    assert_eq!(catalog.tensors.len(), 3);
}

#[test]
fn what_only_the_index_names_is_an_error_where_it_is_needed() {
    let first = "model-00001-of-00002.safetensors";
    let third = "model-00003-of-00003.safetensors";
    let temp = sharded(&format!(r#"{{"a":"{first}","x":"{first}","y":"{third}"}}"#));
    let catalog = open(&temp).unwrap();
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
    assert!(refused(&temp).ends_with("holds no model*.safetensors"));
}

#[test]
fn crowds() {
    let entries: Vec<String> = (0..1_000_000)
        .map(|i| format!("\"t{i}\":\"model-1.safetensors\""))
        .collect();
    let temp = sharded(&format!("{{{}}}", entries.join(",")));
    let (catalog, warnings) = warned(&temp).unwrap();
    assert_eq!(catalog.tensors.len(), 3);
    assert!(
        warnings[0].contains("the JSON holds more than 210000 values"),
        "{warnings:?}"
    );

    let folder = sharded("{}").open();
    let temp = sharded("{}");
    let within = |limits: &Limits| {
        let mut warnings = Warnings::default();
        let catalog = Catalog::open_within(&temp.open(), limits, &mut warnings);
        catalog.map(|catalog| (catalog, warnings.sentences().to_vec()))
    };
    let limits = Limits {
        tensors: 2,
        ..Limits::DEFAULT
    };
    let too_many = "model-00002-of-00002.safetensors: the folder holds more than 2 tensors";
    assert_eq!(within(&limits).unwrap_err().message, too_many);
    let limits = Limits {
        shards: 1,
        ..Limits::DEFAULT
    };
    let error = within(&limits).unwrap_err();
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
    let (catalog, warnings) = within(&limits).unwrap();
    assert_eq!(catalog.files.len(), 2);
    assert_eq!(
        warnings,
        [format!(
            "{INDEX}: names more than 2 files; those that are no model*.safetensors are ignored"
        )]
    );
    let limits = Limits {
        index_bytes: 4,
        ..Limits::DEFAULT
    };
    let (_, warnings) = within(&limits).unwrap();
    assert!(
        warnings[0].starts_with(&format!("{INDEX}: is "))
            && warnings[0].ends_with("more than the 4 that are accepted; it is ignored"),
        "{warnings:?}"
    );
    // Copies count, too.
    temp.write("model-x.safetensors", vectors(&[("a", 1)]));
    let limits = Limits {
        tensors: 3,
        ..Limits::DEFAULT
    };
    let too_many = "model-x.safetensors: the folder holds more than 3 tensors";
    assert_eq!(within(&limits).unwrap_err().message, too_many);

    // The folder vanished between being found and being read: by its handle it is empty.
    let error = Catalog::open(&folder, &mut Warnings::default()).unwrap_err();
    assert_eq!(error.code, Code::BadModel);
}

#[test]
fn files_that_only_the_index_names_give_what_no_other_has() {
    let first = "model-00001-of-00002.safetensors";
    let temp = sharded(r#"{"a":"other.safetensors","d":"other.safetensors"}"#);
    temp.write(
        "other.safetensors",
        vectors(&[("a", 7), ("d", 1), ("unnamed", 1)]),
    );
    let (catalog, warnings) = warned(&temp).unwrap();
    assert_eq!(catalog.tensors.len(), 4);
    assert_eq!(catalog.file_of(catalog.get("a").unwrap()), first);
    assert_eq!(
        catalog.file_of(catalog.get("d").unwrap()),
        "other.safetensors"
    );
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    compared(&catalog).unwrap();
}

/// `w`, filled with one byte.
fn w(length: usize, byte: u8) -> Vec<u8> {
    let mut file = vectors(&[("w", length)]);
    let data = file.len() - length * 4;
    file[data..].fill(byte);
    file
}

#[test]
fn one_name_in_two_files_is_one_tensor_where_both_are_equal() {
    let temp = TempFolder::new();
    // Longer than what is compared at once.
    let long = COMPARED / 4 * 2 + 3;
    temp.write("model-a.safetensors", w(long, 1));
    temp.write("model-b.safetensors", w(long, 1));
    let catalog = open(&temp).unwrap();
    assert_eq!(catalog.tensors.len(), 1);
    assert_eq!(catalog.total_bytes, 2 * catalog.get("w").unwrap().bytes);
    compared(&catalog).unwrap();
    let mut asked = 0;
    let mut stop_at_2 = || {
        asked += 1;
        match asked {
            2 => Err(Error::new(Code::Timeout, "late")),
            _ => Ok(()),
        }
    };
    let used = [catalog.get("w").unwrap()];
    let stopped = catalog.check_copies(&used, &Limits::DEFAULT, &mut stop_at_2);
    assert_eq!(stopped.unwrap_err().code, Code::Timeout);
    let limits = Limits {
        compared_bytes: 100,
        ..Limits::DEFAULT
    };
    let limited = catalog.check_copies(&used, &limits, &mut || Ok(()));
    assert!(limited.unwrap_err().message.contains("too much"));

    // The last byte counts.
    let mut other = w(long, 1);
    *other.last_mut().unwrap() = 2;
    temp.write("model-b.safetensors", other);
    let catalog = open(&temp).unwrap();
    let error = compared(&catalog).unwrap_err();
    assert_eq!(
        (error.code, error.message.as_str()),
        (
            Code::BadModel,
            "tensor \"w\" is in both model-a.safetensors and model-b.safetensors, with different contents; remove the file \
             that is not of this model"
        )
    );
    // What is not used does not matter.
    catalog
        .check_copies(&[], &Limits::DEFAULT, &mut || Ok(()))
        .unwrap();
    temp.write("model-b.safetensors", w(long - 1, 1));
    let error = compared(&open(&temp).unwrap()).unwrap_err();
    assert!(
        error.message.contains("with different types or shapes"),
        "{error}"
    );
}

#[test]
fn the_index_decides_which_of_two_tensors_counts() {
    let temp = TempFolder::new();
    temp.write("model-a.safetensors", w(3, 1));
    temp.write("model-b.safetensors", w(4, 2));
    temp.write("model-c.safetensors", w(5, 3));
    for (file, length) in [
        ("model-a.safetensors", 3),
        ("model-b.safetensors", 4),
        ("model-c.safetensors", 5),
    ] {
        temp.write(INDEX, format!(r#"{{"weight_map":{{"w":"{file}"}}}}"#));
        let (catalog, warnings) = warned(&temp).unwrap();
        let tensor = catalog.get("w").unwrap();
        assert_eq!(
            (catalog.file_of(tensor), &*tensor.shape),
            (file, &[length][..])
        );
        compared(&catalog).unwrap();
        let expected =
            format!("tensor \"w\" is in more than one file; {INDEX} decides which one counts");
        assert_eq!(warnings, [expected]);
        let strays: Vec<bool> = (0..3).map(|file| catalog.is_stray(file)).collect();
        assert_eq!(strays.iter().filter(|stray| !**stray).count(), 1);
        assert!(!catalog.is_stray(tensor.file));
    }
    // An index that knows nothing of it decides nothing.
    temp.write(INDEX, r#"{"weight_map":{"w":"model-d.safetensors"}}"#);
    let (catalog, _) = warned(&temp).unwrap();
    assert!(compared(&catalog).is_err());
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
    let error = open(&temp).unwrap_err();
    assert_eq!(
        (error.code, error.message.as_str()),
        (
            Code::Unsupported,
            "model-x.safetensors: tensor \"d\" has the type \"F64\", which MLX has not"
        )
    );
}
