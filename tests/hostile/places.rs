//! Row 31: what is in the place of files and folders that are read and written: FIFOs, sockets, devices, links; folders that are
//! exchanged with links meanwhile; saves that are stopped, refused, or beyond the process's limit for files.

use std::collections::BTreeMap;
use std::ffi::{c_void, CString};
use std::fs;
use std::os::unix::fs::{symlink, FileTypeExt};
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use crate::abi::*;
use crate::child::qwen;
use crate::common::{c_path, load, outcome, Failure, Model};
use crate::folder::Folder;
use crate::list::Cases;
use crate::said::fifo;
use crate::verdict::*;
use crate::{ensure, list_class, sized};

list_class!(
    "31",
    "what is no file, leads elsewhere or may not be",
    "places"
);

/// Puts something there.
type Put = fn(&Path);

/// What is no file, and the word for it.
const NO_FILES: &[(&str, Put)] = &[
    ("a folder", |at| fs::create_dir(at).unwrap()),
    ("a FIFO", fifo),
    ("a socket", |at| {
        drop(std::os::unix::net::UnixListener::bind(at).unwrap())
    }),
];

/// Links, and the word for what they lead to.
const LINKS: &[(&str, &str)] = &[
    ("/dev/zero", "a device"),
    ("/dev/null", "a device"),
    ("/dev/tty", "a device"),
    ("/dev/full", "a device"),
    ("/tmp", "a folder"),
    ("kind", "cannot be read"),
    ("/nowhere/at/all", "cannot be read"),
];

/// Who saves.
#[derive(Clone, Copy, Debug)]
enum Who {
    Model,
    Adapter,
    Training,
}

const ALL: [Who; 3] = [Who::Model, Who::Adapter, Who::Training];

impl Who {
    /// The files it writes.
    fn files(self) -> &'static [&'static str] {
        match self {
            Who::Model => &[
                "config.json",
                "model.safetensors",
                "model.safetensors.index.json",
                "tokenizer.json",
                "chat_template.jinja",
            ],
            _ => &["adapters.safetensors", "adapter_config.json"],
        }
    }
}

struct Saver {
    model: Model,
    adapter: *mut mlxrt_adapter,
}

impl Drop for Saver {
    fn drop(&mut self) {
        // SAFETY: any handle is safe to free.
        unsafe { mlxrt_adapter_free(self.adapter) }
    }
}

impl Saver {
    fn new() -> Saver {
        Self::of(load(&qwen()).unwrap())
    }

    fn of(model: Model) -> Saver {
        let mut adapter = ptr::null_mut();
        // SAFETY: the output is writable.
        outcome(unsafe { mlxrt_adapter_create(model.0, ptr::null(), &mut adapter) }).unwrap();
        Saver { model, adapter }
    }

    /// `at` gets the number of each call of progress, from 1 on, and says whether to go on.
    fn save(
        &self,
        who: Who,
        path: &Path,
        mut at: &mut dyn FnMut(u32) -> bool,
    ) -> Result<(), Failure> {
        struct Seen<'a>(u32, &'a mut dyn FnMut(u32) -> bool);
        fn hear(data: *mut c_void) -> i32 {
            // SAFETY: the data is the `seen` below, which lives through the call.
            let seen = unsafe { &mut *data.cast::<Seen>() };
            seen.0 += 1;
            match (seen.1)(seen.0) {
                true => MLXRT_RETURN_CONTINUE,
                false => MLXRT_RETURN_STOP,
            }
        }
        unsafe extern "C" fn progress(data: *mut c_void, _: u64, _: u64) -> i32 {
            hear(data)
        }
        unsafe extern "C" fn trained(data: *mut c_void, _: *const mlxrt_train_event) -> i32 {
            hear(data)
        }
        let mut seen = Seen(0, &mut at);
        let data = (&raw mut seen).cast();
        let path = c_path(path);
        let mut options = sized!(mlxrt_call_options);
        options.progress = Some(progress);
        options.progress_data = data;
        let text = "{\"text\":\"Hello there\"}\n";
        let mut training = sized!(mlxrt_train_options);
        (training.train, training.train_len) = (text.as_ptr().cast(), text.len());
        (training.steps, training.batch_size, training.report_every) = (1, 1, 1);
        training.save_path = path.as_ptr();
        // SAFETY: all structs are complete, all text is NUL-terminated and lives through the calls.
        outcome(unsafe {
            match who {
                Who::Model => {
                    let (model, none) = (self.model.0, ptr::null());
                    mlxrt_model_save(model, none, ptr::null(), 0, path.as_ptr(), &options)
                }
                Who::Adapter => mlxrt_adapter_save(self.adapter, path.as_ptr(), &options),
                Who::Training => {
                    mlxrt_train(self.model.0, self.adapter, &training, Some(trained), data)
                }
            }
        })
    }

    fn plainly(&self, who: Who, path: &Path) -> Result<(), Failure> {
        self.save(who, path, &mut |_| true)
    }
}

/// An empty folder of the case's own.
fn room() -> Folder {
    let folder = Folder::copy_of("qwen3-f32");
    for entry in fs::read_dir(folder.path()).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    folder
}

/// All that there is below a folder: kinds and bytes.
fn everything(folder: &Path) -> BTreeMap<PathBuf, String> {
    fn walk(folder: &Path, all: &mut BTreeMap<PathBuf, String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let kind = fs::symlink_metadata(&path).unwrap().file_type();
            let what = match () {
                () if kind.is_file() => format!("{:?}", fs::read(&path).unwrap()),
                () if kind.is_symlink() => format!("-> {:?}", fs::read_link(&path).unwrap()),
                () if kind.is_fifo() => "FIFO".to_owned(),
                () => "other".to_owned(),
            };
            if kind.is_dir() {
                walk(&path, all);
            }
            all.insert(path, what);
        }
    }
    let mut all = BTreeMap::new();
    walk(folder, &mut all);
    all
}

/// A folder, full of what must never be read or changed, and itself full of lies.
fn secret() -> Folder {
    let folder = Folder::copy_of("llama-f32");
    folder.write("chat_template.jinja", "a secret");
    folder.write("generation_config.json", "{\"a\": \"a secret\"}");
    folder.write("adapter_config.json", "a secret");
    folder.write("adapters.safetensors", "a secret");
    folder
}

/// From now on the path leads there; what was there lies beside it.
fn exchange(path: &Path, with: &Path) {
    let aside = path.with_extension("moved");
    fs::rename(path, aside).unwrap();
    symlink(with, path).unwrap();
}

fn cases() -> Cases {
    let mut cases: Cases = vec![];
    training_data(&mut cases);
    targets(&mut cases);
    files_in_the_way(&mut cases);
    exchanged(&mut cases);
    parents(&mut cases);
    limits(&mut cases);
    cases
}

fn training_data(cases: &mut Cases) {
    type Place = fn(&mut mlxrt_train_options, &CString);
    const PLACES: &[(&str, Place)] = &[
        ("train", |options, path| {
            (options.train, options.train_len) = (path.as_ptr(), path.count_bytes())
        }),
        ("valid", |options, path| {
            (options.valid, options.valid_len) = (path.as_ptr(), path.count_bytes())
        }),
    ];
    fn trained(place: Place, path: &Path) -> Result<(), Failure> {
        let saver = Saver::new();
        let good = room();
        good.write("good", "{\"text\":\"Hello there\"}\n");
        let (path, good) = (c_path(path), c_path(&good.file("good")));
        let mut options = sized!(mlxrt_train_options);
        (options.train, options.train_len) = (good.as_ptr(), good.count_bytes());
        (options.steps, options.batch_size, options.flags) = (1, 1, MLXRT_TRAIN_PATHS);
        place(&mut options, &path);
        let none = ptr::null_mut();
        // SAFETY: the options are complete; their text lives through the call.
        outcome(unsafe { mlxrt_train(saver.model.0, saver.adapter, &options, None, none) })
    }
    fn refused(place: Place, path: &Path, word: &str) -> Outcome {
        match trained(place, path) {
            Ok(()) => Err(Wrong("it is trained on".into())),
            Err(failure) => named(&failure, &["IO", "NOT_FOUND"], &["kind", word]),
        }
    }
    for &(name, place) in PLACES {
        for &(word, put) in NO_FILES {
            let run = move || {
                let room = room();
                put(&room.file("kind"));
                refused(place, &room.file("kind"), word)
            };
            cases.push((format!("{name} is {word}"), Box::new(run)));
            let run = move || {
                let room = room();
                put(&room.file("it"));
                symlink("it", room.file("kind")).unwrap();
                refused(place, &room.file("kind"), word)
            };
            cases.push((format!("{name} is a link to {word}"), Box::new(run)));
        }
        for &(to, word) in LINKS {
            let run = move || {
                let room = room();
                symlink(to, room.file("kind")).unwrap();
                refused(place, &room.file("kind"), word)
            };
            cases.push((format!("{name} is a link to {to}"), Box::new(run)));
        }
        let run = move || {
            let room = room();
            room.write("it", "{\"text\":\"Hello there\"}\n");
            symlink("it", room.file("kind")).unwrap();
            fine_or_named(trained(place, &room.file("kind")), &[], &[])
        };
        cases.push((
            format!("{name} is a link to what it should be"),
            Box::new(run),
        ));
    }
}

/// The folder to save to is none.
fn targets(cases: &mut Cases) {
    fn refused(who: Who, room: &Folder, word: &str) -> Outcome {
        let before = everything(room.path());
        let saved = Saver::new().plainly(who, &room.file("kind"));
        let after = everything(room.path());
        ensure!(
            after == before,
            "{:?} became {:?}",
            before.keys(),
            after.keys()
        );
        match saved {
            Ok(()) => Err(Wrong("it is saved".into())),
            Err(failure) => named(&failure, &["IO"], &["kind", word]),
        }
    }
    for who in ALL {
        let file: (&str, Put) = ("a file", |at| fs::write(at, "kept").unwrap());
        for &(word, put) in NO_FILES.iter().skip(1).chain([&file]) {
            let run = move || {
                let room = room();
                put(&room.file("kind"));
                refused(who, &room, word)
            };
            cases.push((format!("{who:?} saves to {word}"), Box::new(run)));
            let run = move || {
                let room = room();
                put(&room.file("it"));
                symlink("it", room.file("kind")).unwrap();
                refused(who, &room, word)
            };
            cases.push((format!("{who:?} saves to a link to {word}"), Box::new(run)));
            let run = move || {
                let room = room();
                put(&room.file("kind"));
                let before = everything(room.path());
                let saved = Saver::new().plainly(who, &room.file("kind/below/it"));
                ensure!(
                    everything(room.path()) == before,
                    "something is left behind"
                );
                fine_or_named(saved, &["IO"], &["kind"])
            };
            cases.push((format!("{who:?} saves below {word}"), Box::new(run)));
        }
        for (to, word) in [
            ("/dev/null", "a device"),
            ("/dev/zero", "a device"),
            ("kind", "cannot be made"),
            ("/nowhere/at/all", "cannot be made"),
        ] {
            let run = move || {
                let room = room();
                symlink(to, room.file("kind")).unwrap();
                refused(who, &room, word)
            };
            cases.push((format!("{who:?} saves to a link to {to}"), Box::new(run)));
        }
    }
}

/// In the folder to save to, one of the files is none. What is no file stays, and all else as it was; links are replaced, and what
/// they lead to stays.
fn files_in_the_way(cases: &mut Cases) {
    for who in ALL {
        for &name in who.files() {
            for &(word, put) in NO_FILES {
                let run = move || {
                    let room = room();
                    put(&room.file(name));
                    room.write("other", "kept");
                    let before = everything(room.path());
                    let saved = Saver::new().plainly(who, room.path());
                    let after = everything(room.path());
                    ensure!(
                        after == before,
                        "{:?} became {:?}",
                        before.keys(),
                        after.keys()
                    );
                    match saved {
                        Ok(()) => Err(Wrong("it is saved".into())),
                        Err(failure) => named(&failure, &["IO"], &[name, word]),
                    }
                };
                cases.push((format!("{who:?} saves, {name} is {word}"), Box::new(run)));
            }
            for to in ["../outside", "/dev/full", "fifo", "nowhere", "itself"] {
                let run = move || {
                    let room = room();
                    let (inside, to) = match to {
                        "itself" => (room.file("in"), name),
                        other => (room.file("in"), other),
                    };
                    fs::create_dir(&inside).unwrap();
                    room.write("outside", "kept");
                    fifo(&inside.join("fifo"));
                    symlink(to, inside.join(name)).unwrap();
                    Saver::new()
                        .plainly(who, &inside)
                        .map_err(|failure| Wrong(format!("{failure:?}")))?;
                    ensure!(room.read("outside") == b"kept", "it wrote behind the link");
                    let kind = fs::symlink_metadata(inside.join(name)).unwrap();
                    ensure!(kind.is_file() && kind.len() > 0, "{name} is no file");
                    let kind = fs::symlink_metadata(inside.join("fifo")).unwrap();
                    ensure!(kind.file_type().is_fifo(), "the FIFO is gone");
                    fine()
                };
                cases.push((
                    format!("{who:?} saves, {name} is a link to {to}"),
                    Box::new(run),
                ));
            }
        }
    }
}

fn exchanged(cases: &mut Cases) {
    for who in [Who::Model, Who::Adapter] {
        for call in 1..=6 {
            // The folder itself, which exists; the one that it will be in.
            for (what, target, moved) in [("folder", "to", "to"), ("parent", "in/to", "in")] {
                let run = move || {
                    let (room, secret) = (room(), secret());
                    fs::create_dir(room.file(moved)).unwrap();
                    let before = everything(secret.path());
                    let saved = Saver::new().save(who, &room.file(target), &mut |number| {
                        if number == call {
                            exchange(&room.file(moved), secret.path());
                        }
                        true
                    });
                    ensure!(
                        everything(secret.path()) == before,
                        "it went through the link"
                    );
                    let left = everything(room.path());
                    let temporary = |path: &&PathBuf| path.to_string_lossy().ends_with(".new");
                    let temporary = left.keys().find(temporary);
                    ensure!(temporary.is_none(), "{temporary:?} is left behind");
                    fine_or_named(saved, &["IO"], &[])
                };
                cases.push((
                    format!("{who:?} saves, its {what} becomes a link at call {call}"),
                    Box::new(run),
                ));
            }
        }
    }
    for subfolder in [false, true] {
        let run = move || saved_from_where_it_was(subfolder);
        let what = if subfolder {
            "a subfolder"
        } else {
            "its folder"
        };
        cases.push((
            format!("{what} becomes a link between load and save"),
            Box::new(run),
        ));
    }
    for round in 0..4 {
        cases.push((
            format!("a folder and a link change places all the time, {round}"),
            Box::new(never_mixed),
        ));
        cases.push((
            format!("a file and a link out change places all the time, {round}"),
            Box::new(never_out),
        ));
    }
}

/// What a save copies comes from the folder that was loaded.
fn saved_from_where_it_was(subfolder: bool) -> Outcome {
    const TEMPLATES: &str = "additional_chat_templates";
    let (folder, room, secret) = (Folder::copy_of("qwen3-f32"), room(), secret());
    secret.write("more.jinja", "a secret");
    fs::create_dir(folder.file(TEMPLATES)).unwrap();
    folder.write(&format!("{TEMPLATES}/more.jinja"), "more");
    let saver = Saver::of(load(folder.path()).map_err(|failure| Wrong(format!("{failure:?}")))?);
    match subfolder {
        true => exchange(&folder.file(TEMPLATES), secret.path()),
        false => exchange(folder.path(), secret.path()),
    }
    let saved = saver.plainly(Who::Model, &room.file("to"));
    let said = everything(room.path());
    for (path, bytes) in &said {
        let secret = format!("{:?}", b"a secret");
        ensure!(
            !bytes.contains(secret.trim_matches(['[', ']'])),
            "{path:?} is the secret"
        );
    }
    // The copy of the folder goes away with the case, wherever it is.
    let moved = folder.path().with_extension("moved");
    let whole = !subfolder && fs::remove_file(folder.path()).is_ok();
    if whole {
        fs::rename(moved, folder.path()).unwrap();
    }
    if whole && saved.is_ok() {
        let copied = fs::read(room.file("to/tokenizer.json")).unwrap();
        ensure!(copied == folder.read("tokenizer.json"), "another tokenizer");
    }
    fine_or_named(saved, &["BAD_MODEL", "IO"], &[])
}

/// While `change` runs again and again on a thread, `look` is asked so many times.
fn meanwhile(change: impl Fn() + Sync, times: u32, mut look: impl FnMut() -> Outcome) -> Outcome {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                change();
            }
        });
        let verdict = (0..times).try_for_each(|_| look().map(drop));
        stop.store(true, Ordering::Relaxed);
        verdict
    })?;
    fine()
}

/// Either folder may be the one that is meant; never a part of each.
fn never_mixed() -> Outcome {
    let room = room();
    for (name, template, context) in [("a", "AAA", 64), ("b", "BBB", 128)] {
        let from = Folder::copy_of("qwen3-f32");
        from.write("chat_template.jinja", template);
        from.edit("config.json", |config| {
            config["max_position_embeddings"] = context.into()
        });
        fs::rename(from.path(), room.file(name)).unwrap();
    }
    fs::rename(room.file("a"), room.file("it")).unwrap();
    let at = |name: &str| room.file(name);
    let change = || {
        fs::rename(at("it"), at("a")).unwrap();
        symlink("b", at("it")).unwrap();
        fs::remove_file(at("it")).unwrap();
        fs::rename(at("a"), at("it")).unwrap();
    };
    meanwhile(change, 40, || {
        let model = match load(&at("it")) {
            Ok(model) => model,
            Err(failure) => return named(&failure, CODES, &[]),
        };
        let text = model.render(r#"[{"role":"user","content":"a"}]"#).unwrap();
        let info = info(&model);
        let context = info["context"].as_u64();
        let wanted = if text == "AAA" { 64 } else { 128 };
        ensure!(context == Some(wanted), "{text} with {info}");
        fine()
    })
}

/// The file's own text, or an error that names it.
fn never_out() -> Outcome {
    let (folder, room) = (Folder::copy_of("qwen3-f32"), room());
    folder.write("chat_template.jinja", "inside");
    room.write("secret", "a secret");
    let at = |name: &str| folder.file(name);
    let change = || {
        fs::rename(at("chat_template.jinja"), at("aside")).unwrap();
        symlink(room.file("secret"), at("chat_template.jinja")).unwrap();
        fs::rename(at("aside"), at("chat_template.jinja")).unwrap();
    };
    meanwhile(change, 40, || {
        let model = match load(folder.path()) {
            Ok(model) => model,
            Err(failure) => return named(&failure, CODES, &["chat_template.jinja"]),
        };
        if let Ok(text) = model.render(r#"[{"role":"user","content":"a"}]"#) {
            ensure!(text != "a secret", "the link was followed");
        }
        fine()
    })
}

fn info(model: &Model) -> serde_json::Value {
    let mut json = ptr::null_mut();
    // SAFETY: the output is writable; the text is copied before it is freed.
    unsafe {
        outcome(mlxrt_model_info(model.0, &mut json, ptr::null_mut())).unwrap();
        let text = std::ffi::CStr::from_ptr(json).to_str().unwrap().to_owned();
        mlxrt_free(json.cast());
        serde_json::from_str(&text).unwrap()
    }
}

/// A save that does not come about leaves nothing, be it folders above the one that was wanted.
fn parents(cases: &mut Cases) {
    for who in [Who::Model, Who::Adapter] {
        for path in ["to", "a/to", "a/b/c/d/to", "a/./b//to/", "a/../b/to"] {
            for call in 1..=3 {
                let run = move || {
                    let room = room();
                    let saved =
                        Saver::new().save(who, &room.file(path), &mut |number| number < call);
                    let left = everything(room.path());
                    match saved {
                        // It was done before that call.
                        Ok(()) => fine(),
                        Err(failure) => {
                            ensure!(left.is_empty(), "{:?} is left behind", left.keys());
                            named(&failure, &["CANCELLED"], &[])
                        }
                    }
                };
                cases.push((
                    format!("{who:?} saves to {path} and is stopped at call {call}"),
                    Box::new(run),
                ));
            }
        }
        let run = move || {
            let room = room();
            fs::create_dir(room.file("a")).unwrap();
            room.write("a/other", "kept");
            let before = everything(room.path());
            let saved = Saver::new().save(who, &room.file("a/b/to"), &mut |_| false);
            ensure!(
                everything(room.path()) == before,
                "{:?}",
                everything(room.path()).keys()
            );
            fine_or_named(saved, &["CANCELLED"], &[])
        };
        cases.push((
            format!("{who:?} is stopped below a folder that was there"),
            Box::new(run),
        ));
        let run = move || {
            let room = room();
            let saved = Saver::new().save(who, &room.file("a/b/to"), &mut |_| {
                fs::write(room.file("a/theirs"), "kept").unwrap();
                false
            });
            ensure!(
                room.read("a/theirs") == b"kept",
                "what others wrote is gone"
            );
            ensure!(!room.file("a/b").exists(), "a/b is left behind");
            fine_or_named(saved, &["CANCELLED"], &[])
        };
        cases.push((
            format!("{who:?} is stopped, and others wrote there"),
            Box::new(run),
        ));
    }
    // A training looks at the folder before it begins.
    for path in ["to", "a/b/to"] {
        let run = move || {
            let room = room();
            let saver = Saver::new();
            let (path, bad) = (c_path(&room.file(path)), "7");
            let mut options = sized!(mlxrt_train_options);
            (options.train, options.train_len) = (bad.as_ptr().cast(), bad.len());
            options.save_path = path.as_ptr();
            let none = ptr::null_mut();
            // SAFETY: the options are complete; their text lives through the call.
            let trained =
                outcome(unsafe { mlxrt_train(saver.model.0, saver.adapter, &options, None, none) });
            ensure!(
                everything(room.path()).is_empty(),
                "something is left behind"
            );
            match trained {
                Ok(()) => Err(Wrong("it is trained on".into())),
                Err(failure) => named(&failure, &["INVALID_ARGUMENT"], &["train"]),
            }
        };
        cases.push((format!("a training to {path} with bad data"), Box::new(run)));
    }
}

static SIGNALS: AtomicU32 = AtomicU32::new(0);

extern "C" fn count(_: i32) {
    SIGNALS.fetch_add(1, Ordering::Relaxed);
}

/// A process that may not write files as large as these, whatever it does with the signal of that.
fn limits(cases: &mut Cases) {
    let handlers: [(&str, usize); 3] = [
        ("the default", libc::SIG_DFL),
        ("ignored", libc::SIG_IGN),
        ("a handler", count as extern "C" fn(i32) as usize),
    ];
    for who in ALL {
        for (what, handler) in handlers {
            for most in [0, 1, 100, 1_000, 4_096] {
                let run = move || {
                    let room = room();
                    let saver = Saver::new();
                    let path = room.file("a/to");
                    let saved = limited(most, handler, || saver.plainly(who, &path));
                    ensure!(
                        SIGNALS.load(Ordering::Relaxed) == 0,
                        "the host got a signal"
                    );
                    let left = everything(room.path());
                    let failure = match saved {
                        Ok(()) => return Err(Wrong(format!("it is saved: {:?}", left.keys()))),
                        Err(failure) => failure,
                    };
                    ensure!(left.is_empty(), "{:?} is left behind", left.keys());
                    let again = saver.plainly(who, &path);
                    ensure!(again.is_ok(), "afterwards: {again:?}");
                    named(&failure, &["IO"], &["to/", "large"])
                };
                cases.push((
                    format!("{who:?} saves with {most} bytes for a file, the signal is {what}"),
                    Box::new(run),
                ));
            }
        }
    }
}

fn limited<T>(most: u64, handler: usize, work: impl FnOnce() -> T) -> T {
    // SAFETY: complete structs; the handler is one that only counts, or none.
    unsafe {
        let mut before: libc::rlimit = std::mem::zeroed();
        assert_eq!(libc::getrlimit(libc::RLIMIT_FSIZE, &mut before), 0);
        let old = libc::signal(libc::SIGXFSZ, handler);
        let limit = libc::rlimit {
            rlim_cur: most,
            ..before
        };
        assert_eq!(libc::setrlimit(libc::RLIMIT_FSIZE, &limit), 0);
        let done = work();
        assert_eq!(libc::setrlimit(libc::RLIMIT_FSIZE, &before), 0);
        assert_eq!(
            libc::signal(libc::SIGXFSZ, old),
            handler,
            "the handler has changed"
        );
        done
    }
}
