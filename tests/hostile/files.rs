//! Files that are missing, of another kind, no JSON or too large: part of row 8.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use crate::common::fixtures;
use crate::folder::{loads, loads_with_a_warning, refused_at_sight, Folder};

pub fn no_folder() {
    refused_at_sight(
        "a folder that is not there",
        &fixtures().join("nowhere"),
        &["NOT_FOUND"],
        &["nowhere"],
    );
    refused_at_sight(
        "a file",
        &fixtures().join("cases.json"),
        &["INVALID_ARGUMENT"],
        &["cases.json", "file"],
    );
    refused_at_sight(
        "an id that is not in the cache",
        "nobody/nothing".as_ref(),
        &["NOT_FOUND"],
        &["nobody/nothing"],
    );
    let folder = Folder::copy_of("qwen3-f32");
    for entry in fs::read_dir(folder.path()).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    refused_at_sight(
        "an empty folder",
        folder.path(),
        &["BAD_MODEL"],
        &["config.json", "missing"],
    );
}

pub fn files_that_are_missing() {
    for (fixture, name, word) in [
        ("qwen3-f32", "config.json", "config.json"),
        ("qwen3-f32", "model.safetensors", "safetensors"),
        (
            "qwen3-f32-shards",
            "model-00002-of-00003.safetensors",
            "model-00002-of-00003.safetensors",
        ),
    ] {
        let folder = Folder::copy_of(fixture);
        folder.remove(name);
        refused_at_sight(name, folder.path(), &["BAD_MODEL"], &[word]);
    }
    let folder = Folder::copy_of("qwen3-f32");
    folder.remove("tokenizer.json");
    refused_at_sight(
        "tokenizer.json",
        folder.path(),
        &["BAD_MODEL"],
        &["tokenizer.json", "missing"],
    );
    // These are optional.
    let folder = Folder::copy_of("qwen3-f32");
    for name in [
        "generation_config.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "model.safetensors.index.json",
    ] {
        folder.remove(name);
        loads(name, folder.path());
    }
}

const FILES: [&str; 6] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "model.safetensors",
    "model.safetensors.index.json",
];

/// A model loads without these and is right, so whatever they are, it is no more than a warning.
const HINTS: [&str; 3] = [
    "generation_config.json",
    "model.safetensors.index.json",
    "tokenizer_config.json",
];

/// The folder is refused with one of these codes; where the file is only a hint it loads, and a warning names the file.
fn unusable(name: &str, what: &str, folder: &Folder, codes: &[&str]) {
    if HINTS.contains(&name) {
        loads_with_a_warning(what, folder.path(), &[name]);
    } else {
        refused_at_sight(what, folder.path(), codes, &[name]);
    }
}

pub fn files_of_another_kind() {
    for name in FILES {
        let folder = Folder::copy_of("qwen3-f32");
        folder.remove(name);
        fs::create_dir(folder.file(name)).unwrap();
        let what = format!("{name} is a folder");
        unusable(name, &what, &folder, &["BAD_MODEL", "IO"]);

        let folder = Folder::copy_of("qwen3-f32");
        folder.remove(name);
        let made = Command::new("mkfifo").arg(folder.file(name)).status();
        assert!(made.is_ok_and(|status| status.success()), "mkfifo");
        let what = format!("{name} is a pipe");
        unusable(name, &what, &folder, &["BAD_MODEL", "IO"]);

        for device in ["/dev/zero", "/dev/null", "/dev/tty"] {
            let folder = Folder::copy_of("qwen3-f32");
            folder.remove(name);
            symlink(device, folder.file(name)).unwrap();
            let what = format!("{name} is {device}");
            unusable(name, &what, &folder, &["BAD_MODEL", "IO"]);
        }

        let folder = Folder::copy_of("qwen3-f32");
        folder.remove(name);
        symlink("/nowhere/at/all", folder.file(name)).unwrap();
        let what = format!("{name} is a broken link");
        unusable(name, &what, &folder, &["NOT_FOUND", "BAD_MODEL", "IO"]);

        let folder = Folder::copy_of("qwen3-f32");
        folder.remove(name);
        symlink(name, folder.file(name)).unwrap();
        let what = format!("{name} is a link to itself");
        unusable(name, &what, &folder, &["NOT_FOUND", "BAD_MODEL", "IO"]);
    }
}

pub fn files_without_permission() {
    // SAFETY: no preconditions.
    if unsafe { libc::geteuid() } == 0 {
        println!("skipped: the superuser may read everything");
        return;
    }
    use std::os::unix::fs::PermissionsExt;
    for name in FILES {
        let folder = Folder::copy_of("qwen3-f32");
        fs::set_permissions(folder.file(name), fs::Permissions::from_mode(0o0)).unwrap();
        unusable(name, name, &folder, &["IO"]);
    }
}

pub fn text_that_is_no_json() {
    let deep = "[".repeat(200_000);
    let nested = format!(
        "{{\"model_type\":{}1{}}}",
        "[".repeat(5_000),
        "]".repeat(5_000)
    );
    let bad: [&[u8]; 12] = [
        b"",
        b" ",
        b"{",
        b"[]",
        b"null",
        b"7",
        b"\"text\"",
        b"{\"a\":1}}",
        b"{\"a\":\xff}",
        b"\0\0\0\0",
        deep.as_bytes(),
        nested.as_bytes(),
    ];
    for name in FILES.into_iter().filter(|name| name.ends_with(".json")) {
        for text in bad {
            let folder = Folder::copy_of("qwen3-f32");
            folder.write(name, text);
            let what = format!(
                "{name}: {}",
                String::from_utf8_lossy(&text[..text.len().min(20)])
            );
            unusable(name, &what, &folder, &["BAD_MODEL", "UNSUPPORTED"]);
        }
        let folder = Folder::copy_of("qwen3-f32");
        let whole = folder.read(name);
        folder.write(name, &whole[..whole.len() / 2]);
        unusable(name, &format!("half of {name}"), &folder, &["BAD_MODEL"]);
    }
}

pub fn files_that_are_too_large() {
    for name in FILES.into_iter().filter(|name| name.ends_with(".json")) {
        let folder = Folder::copy_of("qwen3-f32");
        // Sparse: it takes no room on the disk.
        fs::File::create(folder.file(name))
            .unwrap()
            .set_len(1 << 40)
            .unwrap();
        unusable(name, name, &folder, &["BAD_MODEL", "UNSUPPORTED"]);
    }
}
