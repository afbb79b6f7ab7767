//! Row 14: files that change, shrink or vanish during and after a load. Weights are read and never mapped, so that a
//! file cut short is an error and no SIGBUS.

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::child::{ask, exactly, PROMPT, RIGHT};
use crate::common::{inspect, load, load_with, Model, Prompt};
use crate::folder::Folder;
use crate::list::Cases;
use crate::verdict::*;
use crate::{ensure, list_class};

list_class!("14", "files that change during and after a load", "changed");

const ONE: (&str, &str) = ("qwen3-f32", "model.safetensors");
const SHARD: (&str, &str) = ("qwen3-f32-shards", "model-00003-of-00003.safetensors");

type Change = fn(&Folder, &str);

const CHANGES: &[(&str, Change, bool)] = &[
    ("removed", |folder, name| folder.remove(name), true),
    (
        "replaced by an empty file",
        |folder, name| replace(folder, name, b""),
        true,
    ),
    (
        "replaced by other bytes",
        |folder, name| replace(folder, name, &[0xff; 70_000]),
        true,
    ),
    (
        "overwritten with zeros",
        |folder, name| {
            let length = folder.read(name).len();
            folder.write(name, vec![0; length]);
        },
        false,
    ),
    (
        "longer",
        |folder, name| {
            let whole = folder.read(name);
            folder.write(name, [&whole[..], &[0; 4096]].concat());
        },
        false,
    ),
    (
        "a folder",
        |folder, name| {
            folder.remove(name);
            fs::create_dir(folder.file(name)).unwrap();
        },
        true,
    ),
    (
        "a link to /dev/zero",
        |folder, name| {
            folder.remove(name);
            symlink("/dev/zero", folder.file(name)).unwrap();
        },
        true,
    ),
    (
        "without its config",
        |folder, _| folder.remove("config.json"),
        true,
    ),
    (
        "without its tokenizer",
        |folder, _| folder.remove("tokenizer.json"),
        true,
    ),
    (
        "without permissions",
        |folder, name| {
            use std::os::unix::fs::PermissionsExt;
            fs::set_permissions(folder.file(name), fs::Permissions::from_mode(0o0)).unwrap();
        },
        true,
    ),
];

fn replace(folder: &Folder, name: &str, bytes: &[u8]) {
    folder.remove(name);
    folder.write(name, bytes);
}

fn cut(folder: &Folder, name: &str, length: u64) {
    let file = fs::OpenOptions::new().write(true).open(folder.file(name));
    file.unwrap().set_len(length).unwrap();
}

fn cases() -> Cases {
    let mut cases: Cases = vec![];
    for (fixture, name) in [ONE, SHARD] {
        for length in [0, 1, 8, 100, 2_000, 20_000] {
            let run = move || cut_while_loading(fixture, name, length);
            cases.push((
                format!("{name} is cut to {length} while loading"),
                Box::new(run),
            ));
            let run = move || {
                let folder = Folder::copy_of(fixture);
                let model = load(folder.path()).unwrap();
                cut(&folder, name, length);
                works(&model, fixture)
            };
            cases.push((
                format!("{name} is cut to {length} after loading"),
                Box::new(run),
            ));
        }
        for &(what, change, same) in CHANGES {
            let run = move || changed_while_loading(fixture, name, change, same);
            cases.push((format!("{name} while loading: {what}"), Box::new(run)));
            let run = move || {
                let folder = Folder::copy_of(fixture);
                let model = load(folder.path()).unwrap();
                change(&folder, name);
                works(&model, fixture)
            };
            cases.push((format!("{name} after loading: {what}"), Box::new(run)));
            let run = move || {
                let folder = Folder::copy_of(fixture);
                inspect(folder.path()).unwrap();
                change(&folder, name);
                fine_or_named(load(folder.path()), CODES, &[])
            };
            cases.push((
                format!("{name} between a look and a load: {what}"),
                Box::new(run),
            ));
        }
    }
    for (what, length) in [("shrinks and grows", 3_000), ("vanishes and comes", 0)] {
        let run = move || under_the_readers_hands(length);
        cases.push((format!("the file {what} all the time"), Box::new(run)));
    }
    cases
}

/// Both fixtures hold the same weights.
fn works(model: &Model, _fixture: &str) -> Outcome {
    let told = ask(
        model.session(0).0,
        &Prompt::Text(PROMPT),
        &exactly(8),
        |_| true,
    );
    ensure!(told.failure.is_none(), "{:?}", told.failure);
    ensure!(told.tokens == RIGHT, "{:?}", told.tokens);
    fine()
}

fn once_while_loading(
    folder: &Folder,
    mut change: impl FnMut(),
) -> Result<Model, crate::common::Failure> {
    let mut calls = 0;
    load_with(folder.path(), &mut |_, _| {
        calls += 1;
        if calls == 1 {
            change();
        }
    })
}

fn cut_while_loading(fixture: &str, name: &str, length: u64) -> Outcome {
    let folder = Folder::copy_of(fixture);
    match once_while_loading(&folder, || cut(&folder, name, length)) {
        Ok(_) => Err(Wrong("it loads".into())),
        Err(failure) => named(&failure, &["IO"], &[name]),
    }
}

/// What is open is read to its end: `same` means that the old bytes are still there.
fn changed_while_loading(fixture: &str, name: &str, change: Change, same: bool) -> Outcome {
    let folder = Folder::copy_of(fixture);
    match once_while_loading(&folder, || change(&folder, name)) {
        Ok(model) if same => works(&model, fixture),
        result => fine_or_named(result, CODES, &[]),
    }
}

/// A thread cuts and restores the file while this one loads it, again and again.
fn under_the_readers_hands(length: u64) -> Outcome {
    let folder = Folder::copy_of(ONE.0);
    let whole = folder.read(ONE.1);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                if length == 0 {
                    let _ = fs::remove_file(folder.file(ONE.1));
                } else {
                    cut(&folder, ONE.1, length);
                }
                folder.write(ONE.1, &whole);
            }
        });
        let all = || -> Outcome {
            for _ in 0..60 {
                if let Err(failure) = load(folder.path()) {
                    named(&failure, CODES, &[])?;
                }
            }
            fine()
        };
        let verdict = all();
        stop.store(true, Ordering::Relaxed);
        verdict
    })
}
