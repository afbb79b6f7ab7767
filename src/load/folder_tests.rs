#![allow(clippy::unwrap_used, clippy::panic)]

use std::os::unix::fs::symlink;

use super::super::testing::TempFolder;
use super::*;

fn message<T: std::fmt::Debug>(result: Result<T>, code: Code) -> String {
    let error = result.unwrap_err();
    assert_eq!(error.code, code, "{error}");
    error.message
}

fn open(path: &Path) -> Result<ModelFolder> {
    ModelFolder::open_in(path.to_str().unwrap(), None)
}

#[allow(unsafe_code)]
fn make_fifo(path: &Path) {
    let path = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
    // SAFETY: `path` is a NUL-terminated string that outlives the call.
    assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0);
}

#[test]
fn paths_that_are_no_folder() {
    assert_eq!(
        message(ModelFolder::open(""), Code::InvalidArgument),
        "the model path is empty"
    );
    assert_eq!(
        message(ModelFolder::open("a\0b"), Code::InvalidArgument),
        "the model path holds a NUL character"
    );
    let temp = TempFolder::new();
    temp.write("file", "x");
    let file = temp.path().join("file");
    for (name, cure) in [
        ("file", format!(": {WHAT_IS_READ}")),
        ("model.gguf", format!(": {WHAT_IS_READ}")),
        (
            "model.safetensors",
            "; give the folder that it lies in".to_string(),
        ),
    ] {
        temp.write(name, "x");
        let file = temp.path().join(name);
        let expected = format!(
            "the model path \"{}\" is a file, not a folder{cure}",
            file.display()
        );
        assert_eq!(message(open(&file), Code::InvalidArgument), expected);
    }
    assert!(
        message(open(Path::new("/dev/null")), Code::InvalidArgument).ends_with("is not a folder")
    );
    for absent in [temp.path().join("none"), file.join("below")] {
        let expected = format!("there is no folder \"{}\"", absent.display());
        assert_eq!(message(open(&absent), Code::NotFound), expected);
    }
    let long = "x/".repeat(100_000);
    assert!(message(ModelFolder::open(&long), Code::NotFound).len() < 500);
}

#[test]
fn reads_a_folder_also_behind_a_link() {
    let temp = TempFolder::new();
    temp.write("real/config.json", "{}");
    symlink("real", temp.path().join("link")).unwrap();
    for name in ["real", "link", "link/", "real/../link/."] {
        let folder = open(&temp.path().join(name)).unwrap();
        assert_eq!(folder.path(), temp.path().join("real"));
        assert_eq!(folder.read("config.json", 2).unwrap().unwrap(), b"{}");
        assert_eq!(folder.read("absent.json", 2).unwrap(), None);
    }
}

#[test]
fn sizes_and_missing_files_are_named() {
    let temp = TempFolder::new();
    temp.write("config.json", "{ }");
    temp.write("empty", "");
    let folder = temp.open();
    let expected = "config.json: is 3 bytes, more than the 2 that are accepted";
    assert_eq!(
        message(folder.read("config.json", 2), Code::BadModel),
        expected
    );
    assert_eq!(folder.read("empty", 0).unwrap().unwrap(), b"");
    let expected = format!(
        "tokenizer.json: is missing from the folder \"{}\"",
        temp.path().display()
    );
    assert_eq!(
        message(folder.open_file("tokenizer.json"), Code::BadModel),
        expected
    );
    assert_eq!(
        message(folder.read_required("tokenizer.json", 1), Code::BadModel),
        expected
    );
}

#[test]
fn names_are_one_plain_component() {
    let temp = TempFolder::new();
    temp.write("model/sub/x", "inside");
    temp.write("x", "outside");
    let folder = open(&temp.path().join("model")).unwrap();
    for name in [
        "",
        ".",
        "..",
        "../x",
        "sub/x",
        "/etc/passwd",
        "sub/",
        "a\\b",
        "x\0",
        &"x".repeat(256),
    ] {
        let message = message(folder.read(name, 100), Code::BadModel);
        assert!(message.starts_with("the file name \""), "{message}");
        assert!(folder.open_file(name).is_err());
    }
}

#[test]
fn only_regular_files_are_opened_and_nothing_blocks() {
    let temp = TempFolder::new();
    std::fs::create_dir(temp.path().join("folder")).unwrap();
    make_fifo(&temp.path().join("fifo"));
    symlink("fifo", temp.path().join("to-fifo")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(temp.path().join("socket")).unwrap();
    let folder = temp.open();
    for (name, what) in [
        ("folder", "a folder"),
        ("fifo", "a FIFO"),
        ("to-fifo", "a FIFO"),
        ("socket", "a socket"),
    ] {
        let expected = format!("{name}: is {what}, not a regular file");
        assert_eq!(message(folder.read(name, 100), Code::BadModel), expected);
        assert_eq!(message(folder.open_file(name), Code::BadModel), expected);
    }
}

#[test]
fn links_stay_inside() {
    let temp = TempFolder::new();
    temp.write("model/real", "inside");
    temp.write("outside", "secret");
    temp.write("model2/x", "secret");
    let model = temp.path().join("model");
    let link = |to: &str, name: &str| symlink(to, model.join(name)).unwrap();
    link("real", "good");
    link("good", "good-twice");
    link("../outside", "out");
    link("../model2/x", "beside");
    link("/dev/zero", "device");
    link("/etc/passwd", "absolute");
    link("nowhere", "dangling");
    link("loop", "loop");
    let folder = open(&model).unwrap();
    assert_eq!(folder.read("good", 100).unwrap().unwrap(), b"inside");
    assert_eq!(folder.read("good-twice", 100).unwrap().unwrap(), b"inside");
    for name in ["out", "beside", "device", "absolute"] {
        let expected =
            format!("{name}: is a link that leaves the folder; MLXRT_LOAD_FOLLOW_LINKS allows it");
        assert_eq!(message(folder.read(name, 100), Code::BadModel), expected);
    }
    let expected = "dangling: is a link to a file that is not there";
    assert_eq!(
        message(folder.read("dangling", 100), Code::BadModel),
        expected
    );
    assert!(message(folder.read("loop", 100), Code::Io).starts_with("loop: cannot be read: "));
}

#[test]
fn a_folder_that_is_exchanged_with_a_link_is_the_one_that_was_opened() {
    let temp = TempFolder::new();
    for (folder, text) in [("model", "inside"), ("secret", "secret")] {
        temp.write(&format!("{folder}/real"), text);
        temp.write(&format!("{folder}/more/a.jinja"), text);
    }
    let at = |name: &str| temp.path().join(name);
    symlink("real", at("model/good")).unwrap();
    symlink("real", at("secret/good")).unwrap();
    let folder = open(&at("model")).unwrap();
    let more = folder.subfolder("more").unwrap().unwrap();
    std::fs::rename(at("model"), at("moved")).unwrap();
    symlink("secret", at("model")).unwrap();
    assert_eq!(folder.read("real", 100).unwrap().unwrap(), b"inside");
    assert_eq!(more.read("a.jinja", 100).unwrap().unwrap(), b"inside");
    let again = folder.subfolder("more").unwrap().unwrap();
    assert_eq!(again.read("a.jinja", 100).unwrap().unwrap(), b"inside");
    assert_eq!(folder.list("r", "l", 9).unwrap(), ["real"]);
    // Where a link leads is found by its path, which is elsewhere now.
    let error = message(folder.read("good", 100), Code::BadModel);
    assert!(error.starts_with("good: is a link that leaves "), "{error}");
    // A path that leads to a folder of the same name again: the file in there is not the one that is read.
    std::fs::remove_file(at("model")).unwrap();
    temp.write("model/real", "another");
    symlink("real", at("model/good")).unwrap();
    assert_eq!(folder.read("good", 100).unwrap().unwrap(), b"inside");
}

#[test]
fn links_may_lead_anywhere_if_the_host_says_so() {
    let temp = TempFolder::new();
    temp.write("model/config.json", "");
    temp.write("store/blob", "weights");
    temp.write("store/folder/x", "");
    make_fifo(&temp.path().join("store/fifo"));
    let model = temp.path().join("model");
    let link = |to: &str, name: &str| symlink(to, model.join(name)).unwrap();
    link("../store/blob", "relative");
    link(temp.path().join("store/blob").to_str().unwrap(), "absolute");
    link("relative", "twice");
    link("../store/fifo", "fifo");
    link("../store/folder", "folder");
    link("/dev/zero", "device");
    link("../store/none", "dangling");
    link("loop", "loop");
    let strict = open(&model).unwrap();
    let folder = strict.clone().following_links(true);
    for name in ["relative", "absolute", "twice"] {
        assert_eq!(folder.read(name, 100).unwrap().unwrap(), b"weights");
        let expected =
            format!("{name}: is a link that leaves the folder; MLXRT_LOAD_FOLLOW_LINKS allows it");
        assert_eq!(message(strict.read(name, 100), Code::BadModel), expected);
    }
    // What they lead to is a regular file all the same.
    for (name, what) in [
        ("fifo", "a FIFO"),
        ("folder", "a folder"),
        ("device", "a device"),
    ] {
        let expected = format!("{name}: is {what}, not a regular file");
        assert_eq!(message(folder.open_file(name), Code::BadModel), expected);
    }
    let expected = "dangling: is a link to a file that is not there";
    assert_eq!(
        message(folder.open_file("dangling"), Code::BadModel),
        expected
    );
    assert!(message(folder.open_file("loop"), Code::Io).starts_with("loop: cannot be read: "));
    // A name from a file is still one plain component, and the folder's own links are no others'.
    assert!(folder.open_file("../store/blob").is_err());
    assert_eq!(
        message(
            strict.following_links(false).read("twice", 9),
            Code::BadModel
        ),
        "twice: is a link that leaves the folder; MLXRT_LOAD_FOLLOW_LINKS allows it"
    );
}

#[test]
fn an_adapter_has_no_flag_to_name() {
    let temp = TempFolder::new();
    temp.write("adapter/x.safetensors", "");
    temp.write("secret", "");
    let adapter = temp.path().join("adapter");
    symlink("../secret", adapter.join("adapter_config.json")).unwrap();
    for path in [adapter.clone(), adapter.join("x.safetensors")] {
        let (folder, _) = ModelFolder::open_adapter(path.to_str().unwrap()).unwrap();
        assert_eq!(
            message(folder.read("adapter_config.json", 9), Code::BadModel),
            "adapter_config.json: is a link that leaves the folder"
        );
    }
}

#[test]
fn a_subfolder_stays_inside() {
    let temp = TempFolder::new();
    temp.write("model/more/a.jinja", "inside");
    temp.write("model/beside", "inside");
    temp.write("model/file", "");
    temp.write("other/a.jinja", "secret");
    let model = temp.path().join("model");
    symlink("more", model.join("good")).unwrap();
    symlink("../other", model.join("out")).unwrap();
    symlink("loop", model.join("loop")).unwrap();
    symlink("nowhere", model.join("dangling")).unwrap();
    symlink("../beside", model.join("more/b.jinja")).unwrap();
    symlink("../../other/a.jinja", model.join("more/c.jinja")).unwrap();
    let folder = open(&model).unwrap();
    for name in ["more", "good"] {
        let more = folder.subfolder(name).unwrap().unwrap();
        assert_eq!(more.list("", ".jinja", 3).unwrap().len(), 3);
        for name in ["a.jinja", "b.jinja"] {
            assert_eq!(more.read(name, 100).unwrap().unwrap(), b"inside");
        }
        let error = message(more.read("c.jinja", 100), Code::BadModel);
        assert!(
            error.starts_with("c.jinja: is a link that leaves the "),
            "{error}"
        );
    }
    for name in ["absent", "file", "dangling"] {
        assert!(folder.subfolder(name).unwrap().is_none(), "{name}");
    }
    let error = message(folder.subfolder("out"), Code::BadModel);
    assert!(
        error.starts_with("out: is a link that leaves the "),
        "{error}"
    );
    message(folder.subfolder("loop"), Code::Io);
    message(folder.subfolder("../other"), Code::BadModel);
}

#[test]
fn lists_names_in_order() {
    let temp = TempFolder::new();
    for name in [
        "model-2.safetensors",
        "model-10.safetensors",
        "model.safetensors",
        "model.bin",
        "x.safetensors",
    ] {
        temp.write(name, "");
    }
    let folder = temp.open();
    let expected = [
        "model-10.safetensors",
        "model-2.safetensors",
        "model.safetensors",
    ];
    assert_eq!(folder.list("model", ".safetensors", 3).unwrap(), expected);
    assert!(
        message(folder.list("model", ".safetensors", 2), Code::BadModel)
            .contains("holds more than 2 files")
    );
}

/// A cache with one model, as the hub's libraries lay it out.
fn cache() -> TempFolder {
    let temp = TempFolder::new();
    temp.write("models--org--name/blobs/0123", "{}");
    temp.write("models--org--name/refs/main", "abcdef\n");
    temp.write("models--org--name/snapshots/abcdef/README.md", "");
    temp.write("models--org--other/blobs/4567", "secret");
    let snapshot = temp.path().join("models--org--name/snapshots/abcdef");
    symlink("../../blobs/0123", snapshot.join("config.json")).unwrap();
    symlink(
        "../../../models--org--other/blobs/4567",
        snapshot.join("tokenizer.json"),
    )
    .unwrap();
    temp
}

fn open_id(id: &str, cache: &TempFolder) -> Result<ModelFolder> {
    ModelFolder::open_in(id, Some(cache.path().to_path_buf()))
}

#[test]
fn a_cached_model_by_id_or_by_path() {
    let cache = cache();
    let snapshot = cache.path().join("models--org--name/snapshots/abcdef");
    for folder in [
        open_id("org/name", &cache).unwrap(),
        open(&snapshot).unwrap(),
    ] {
        assert_eq!(folder.path(), snapshot);
        assert_eq!(folder.read("config.json", 9).unwrap().unwrap(), b"{}");
        let expected =
            "tokenizer.json: is a link that leaves the folder; MLXRT_LOAD_FOLLOW_LINKS allows it";
        assert_eq!(
            message(folder.read("tokenizer.json", 9), Code::BadModel),
            expected
        );
    }
}

#[test]
fn ids_that_are_not_cached_say_where_was_looked() {
    let cache = cache();
    let base = |model: &str| quoted(cache.path().join(model).to_str().unwrap(), 400);
    let expected = format!(
        "there is no folder \"org/none\", and no such model in the Hugging Face cache at {}",
        base("models--org--none")
    );
    assert_eq!(
        message(open_id("org/none", &cache), Code::NotFound),
        expected
    );
    let expected = format!(
        "there is no folder \"org/other\", and no refs/main in the Hugging Face cache at {}",
        base("models--org--other")
    );
    assert_eq!(
        message(open_id("org/other", &cache), Code::NotFound),
        expected
    );
    assert!(
        message(ModelFolder::open_in("org/name", None), Code::NotFound).contains("no home folder")
    );
    for id in [
        "name",
        "a/b/c",
        "../name",
        "org/..",
        "-a/b",
        "a/b ",
        "a--b/c",
        "/org/name",
        "org/",
        "a/b\\c",
        "a/é",
    ] {
        assert_eq!(hub_entry_name(id), None, "{id}");
        assert_eq!(
            message(open_id(id, &cache), Code::NotFound),
            format!("there is no folder {}", quoted(id, 400))
        );
    }
    assert_eq!(
        hub_entry_name("mlx-community/Qwen3-0.6B_4bit").unwrap(),
        "models--mlx-community--Qwen3-0.6B_4bit"
    );
}

#[test]
fn a_hostile_cache_entry() {
    let cache = cache();
    let refs = "models--org--name/refs/main";
    for commit in ["../..", "..", "", "\n", "a/b", "/etc", "a\0b"] {
        cache.write(refs, commit);
        let message = message(open_id("org/name", &cache), Code::BadModel);
        assert!(
            message.starts_with("refs/main in the Hugging Face cache at \""),
            "{message}"
        );
    }
    cache.write(refs, "x".repeat(300));
    assert!(open_id("org/name", &cache).is_err());
    cache.write(refs, "0000");
    assert!(message(open_id("org/name", &cache), Code::NotFound).contains("no snapshot \"0000\""));
    symlink(
        "../../models--org--other",
        cache.path().join("models--org--name/snapshots/0000"),
    )
    .unwrap();
    assert!(
        message(open_id("org/name", &cache), Code::BadModel).ends_with("is a link that leaves it")
    );
    std::fs::remove_file(cache.path().join(refs)).unwrap();
    make_fifo(&cache.path().join(refs));
    assert!(message(open_id("org/name", &cache), Code::BadModel).contains("is a FIFO"));
}

#[test]
fn where_the_cache_lies() {
    let at = |variables: &[(&str, &str)]| {
        let variables: std::collections::HashMap<_, _> = variables.iter().copied().collect();
        hub_cache(|name| variables.get(name).map(OsString::from)).unwrap()
    };
    assert_eq!(
        at(&[("HOME", "/h")]),
        Path::new("/h/.cache/huggingface/hub")
    );
    assert_eq!(
        at(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")]),
        Path::new("/x/huggingface/hub")
    );
    assert_eq!(
        at(&[("HOME", "/h"), ("HF_HOME", "/f")]),
        Path::new("/f/hub")
    );
    assert_eq!(
        at(&[("HOME", "/h"), ("HF_HOME", "/f"), ("HF_HUB_CACHE", "/c")]),
        Path::new("/c")
    );
    assert_eq!(
        at(&[("HOME", "/h"), ("HF_HUB_CACHE", "")]),
        Path::new("/h/.cache/huggingface/hub")
    );
    assert_eq!(
        at(&[("HOME", "/h"), ("HF_HUB_CACHE", "~/models")]),
        Path::new("/h/models")
    );
}
