//! Row 11: adapters that are broken, of another model, or changed while they are used; and broken training data.

use std::ffi::CString;
use std::path::Path;
use std::ptr;

use serde_json::{json, Map, Value};

use crate::abi::*;
use crate::child::{alive, ask, exactly, leaks_nothing, qwen, PROMPT, RIGHT};
use crate::common::{c_path, load, outcome, Failure, Model, Prompt};
use crate::damage::{damage, Random};
use crate::folder::{join, split, Folder};
use crate::list::{run_list, run_one, Cases};
use crate::runner::case;
use crate::verdict::*;
use crate::{ensure, sized, Class};

pub const CLASS: Class = Class {
    row: "11",
    name: "adapters and training data",
    generators: &[configs, tensors, files, damaged, || {
        run_list("adapter-use", uses())
    }],
    programs: &[
        ("adapter", child),
        ("adapter-use", |args| run_one(uses(), args)),
    ],
};

const MLX: &str = "mlx-lora-qwen3-last-embed";
const PEFT: &str = "peft-patterns-qwen3";
const CONFIG: &str = "adapter_config.json";

/// Freed when it is dropped.
struct Adapter(*mut mlxrt_adapter);

impl Drop for Adapter {
    fn drop(&mut self) {
        // SAFETY: any handle is safe to free.
        unsafe { mlxrt_adapter_free(self.0) }
    }
}

fn load_adapter(model: &Model, path: &Path) -> Result<Adapter, Failure> {
    let (path, mut out) = (c_path(path), ptr::null_mut());
    // SAFETY: the path is NUL-terminated, the output writable.
    let loaded =
        outcome(unsafe { mlxrt_adapter_load(model.0, path.as_ptr(), ptr::null(), &mut out) });
    assert_eq!(loaded.is_err(), out.is_null());
    loaded.map(|()| Adapter(out))
}

fn apply(session: *mut mlxrt_session, adapters: &[*mut mlxrt_adapter]) -> Result<(), Failure> {
    // SAFETY: so many handles.
    outcome(unsafe { mlxrt_apply_adapter(session, adapters.as_ptr(), ptr::null(), adapters.len()) })
}

/// `adapter WISH PATH CODES WORDS...`: loaded over the model three times, and used where it loads.
fn child(args: &[&str]) -> Outcome {
    let [wish, path, codes, words @ ..] = args else {
        panic!("adapter WISH PATH CODES WORDS...")
    };
    let codes: Vec<&str> = codes.split(',').collect();
    let model = load(&qwen()).unwrap();
    let verdict = leaks_nothing(2, || match load_adapter(&model, Path::new(path)) {
        Ok(adapter) => {
            ensure!(*wish != "refused", "it loads");
            let session = model.session(0);
            apply(session.0, &[adapter.0]).unwrap();
            let told = ask(session.0, &Prompt::Text(PROMPT), &exactly(3), |_| true);
            let verdict = match &told.failure {
                None => {
                    ensure!(told.tokens.len() == 3, "{:?}", told.tokens);
                    fine()?
                }
                Some(failure) => {
                    ensure!(*wish == "survives", "{failure:?}");
                    named(failure, &["BAD_MODEL"], &["not finite"])?
                }
            };
            drop((session, adapter));
            // When this is done, the engine has let go of them.
            // SAFETY: no pointers.
            outcome(unsafe { mlxrt_memory_trim(0) }).unwrap();
            Ok(verdict)
        }
        Err(failure) => {
            ensure!(*wish != "loads", "{failure:?}");
            named(&failure, &codes, words)
        }
    })?;
    // The model that it was for is as it was.
    let told = ask(
        model.session(0).0,
        &Prompt::Text(PROMPT),
        &exactly(8),
        |_| true,
    );
    ensure!(told.tokens == RIGHT, "afterwards {:?}", told.tokens);
    alive()?;
    Ok(verdict)
}

fn refused(what: &str, path: &Path, codes: &[&str], words: &[&str]) {
    let (path, codes) = (path.to_str().unwrap(), codes.join(","));
    case(
        what,
        &[&["adapter", "refused", path, &codes][..], words].concat(),
    );
}

fn other(wish: &str, what: &str, path: &Path) {
    case(
        what,
        &["adapter", wish, path.to_str().unwrap(), &CODES.join(",")],
    );
}

fn configs() {
    let bad: &[&str] = &["BAD_MODEL", "UNSUPPORTED", "INCOMPATIBLE"];
    let numbers = [
        json!(0),
        json!(-1),
        json!(4097),
        json!(2147483648_u64),
        json!(9007199254740993_u64),
        json!(1.5),
        json!("4"),
        json!([4]),
        json!({}),
        json!(true),
    ];
    for (fixture, places) in [
        (MLX, &["/lora_parameters/rank", "/num_layers"][..]),
        (PEFT, &["/r", "/rank_pattern/k_proj"]),
    ] {
        for place in places {
            for number in &numbers {
                let folder = Folder::copy_of_adapter(fixture);
                folder.edit(CONFIG, |config| {
                    *config.pointer_mut(place).unwrap() = number.clone();
                });
                let what = format!("{fixture}: {place} is {number}");
                // Fewer layers than there are, more, or all: each is somebody's way to say it.
                if place == &"/num_layers" {
                    other("survives", &what, folder.path());
                } else {
                    refused(&what, folder.path(), bad, &[]);
                }
            }
        }
    }
    for (fixture, places) in [
        (
            MLX,
            &["/lora_parameters/scale", "/lora_parameters/dropout"][..],
        ),
        (PEFT, &["/lora_alpha", "/alpha_pattern/down_proj"]),
    ] {
        for place in places {
            for raw in [
                "NaN",
                "Infinity",
                "-Infinity",
                "1e39",
                "1e999",
                "\"2\"",
                "[]",
                "{}",
            ] {
                let folder = Folder::copy_of_adapter(fixture);
                folder.edit(CONFIG, |config| {
                    *config.pointer_mut(place).unwrap() = json!("<raw>");
                });
                let text = String::from_utf8(folder.read(CONFIG)).unwrap();
                folder.write(CONFIG, text.replace("\"<raw>\"", raw));
                let what = format!("{fixture}: {place} is {raw}");
                refused(&what, folder.path(), bad, &[CONFIG]);
            }
        }
    }
    for key in ["fine_tune_type", "lora_parameters"] {
        for value in [
            json!(null),
            json!(7),
            json!("x"),
            json!([]),
            json!("full"),
            json!("dora"),
        ] {
            let folder = Folder::copy_of_adapter(MLX);
            folder.edit(CONFIG, |config| config[key] = value.clone());
            other("survives", &format!("{key} is {value}"), folder.path());
        }
    }
    let keys: [(&str, Value); 7] = [
        ("of no module", json!(["self_attn.x_proj"])),
        ("empty", json!([])),
        ("numbers", json!([1])),
        ("a text", json!("self_attn.q_proj")),
        (
            "without q_proj",
            json!(["self_attn.v_proj", "mlp.down_proj", "model.embed_tokens"]),
        ),
        ("100,000", json!(vec!["self_attn.q_proj"; 100_000])),
        ("a megabyte", json!(["q".repeat(1 << 20)])),
    ];
    for (what, value) in keys {
        let folder = Folder::copy_of_adapter(MLX);
        folder.edit(CONFIG, |config| config["lora_parameters"]["keys"] = value);
        match what {
            "100,000" => other("survives", &format!("keys: {what}"), folder.path()),
            _ => refused(&format!("keys: {what}"), folder.path(), bad, &[]),
        }
    }
    for (key, value) in [
        ("peft_type", json!("LOHA")),
        ("peft_type", json!(null)),
        ("bias", json!("all")),
        ("fan_in_fan_out", json!(true)),
        ("layer_replication", json!([[0, 2]])),
        ("target_modules", json!(7)),
        ("use_dora", json!("yes")),
        ("rank_pattern", json!({"(": 2})),
        (
            "rank_pattern",
            json!({"(a+)+$": 2, "((((((((((x*)*)*)*)*)*)*)*)*)*": 3}),
        ),
        ("rank_pattern", json!({"x{1000000}{1000000}": 2})),
        ("alpha_pattern", json!([1])),
        ("modules_to_save", json!(["lm_head"])),
    ] {
        let folder = Folder::copy_of_adapter(PEFT);
        folder.edit(CONFIG, |config| config[key] = value.clone());
        other("survives", &format!("{key} is {value}"), folder.path());
    }
    for text in [
        "",
        "{",
        "[]",
        "null",
        "7",
        "{}",
        "{\"peft_type\":\"LORA\",\"lora_parameters\":{}}",
        "\u{feff}{}",
    ] {
        let folder = Folder::copy_of_adapter(MLX);
        folder.write(CONFIG, text);
        refused(
            &format!("the config is {text:?}"),
            folder.path(),
            bad,
            &[CONFIG],
        );
    }
    let folder = Folder::copy_of_adapter(MLX);
    folder.write(CONFIG, "[".repeat(200_000));
    refused("a deep config", folder.path(), bad, &[CONFIG]);
    folder.write(CONFIG, vec![b' '; 17 << 20]);
    refused("a config of 17 MB", folder.path(), bad, &[CONFIG]);
}

fn weights_of(fixture: &str) -> &'static str {
    match fixture {
        PEFT => "adapter_model.safetensors",
        _ => "adapters.safetensors",
    }
}

/// Changes header and data of an adapter's tensors.
fn edited(fixture: &str, edit: impl FnOnce(&mut Map<String, Value>, &mut Vec<u8>)) -> Folder {
    let folder = Folder::copy_of_adapter(fixture);
    let (mut header, mut data) = split(&folder.read(weights_of(fixture)));
    edit(&mut header, &mut data);
    let whole = join(Value::Object(header).to_string(), &data);
    folder.write(weights_of(fixture), whole);
    folder
}

fn names(header: &Map<String, Value>) -> Vec<String> {
    header
        .keys()
        .filter(|key| *key != "__metadata__")
        .cloned()
        .collect()
}

/// Where a tensor's data lies.
fn range(header: &Map<String, Value>, name: &str) -> (usize, usize) {
    let offsets = &header[name]["data_offsets"];
    (
        offsets[0].as_u64().unwrap() as usize,
        offsets[1].as_u64().unwrap() as usize,
    )
}

fn tensors() {
    let bad: &[&str] = &["BAD_MODEL", "INCOMPATIBLE", "UNSUPPORTED"];
    for fixture in [MLX, PEFT] {
        let whole = Folder::copy_of_adapter(fixture);
        let (header, _) = split(&whole.read(weights_of(fixture)));
        let all = names(&header);
        // One tensor of each kind.
        let some: Vec<&String> = all.iter().step_by(all.len() / 6).collect();
        for name in some {
            let to = |new: String| {
                edited(fixture, |header, _| {
                    let value = header.remove(name).unwrap();
                    header.insert(new, value);
                })
            };
            let (module, leaf) = name.rsplit_once('.').unwrap();
            for (what, new) in [
                (
                    "another layer",
                    name.replace("layers.0", "layers.9")
                        .replace("layers.1", "layers.9")
                        .replace("embed_tokens", "embed_positions"),
                ),
                (
                    "no module",
                    format!("model.layers.1.self_attn.x_proj.{leaf}"),
                ),
                (
                    "a negative layer",
                    format!("model.layers.-1.self_attn.q_proj.{leaf}"),
                ),
                (
                    "a layer of 2^32",
                    format!("model.layers.4294967297.self_attn.q_proj.{leaf}"),
                ),
                ("no leaf", module.to_owned()),
                ("another leaf", format!("{module}.lora_c")),
                ("a long name", format!("{}.{leaf}", "m".repeat(100_000))),
                ("an empty name", String::new()),
            ] {
                let folder = to(new);
                let what = format!("{fixture}: {name} is named after {what}");
                refused(&what, folder.path(), bad, &[]);
            }
            let shape = header[name]["shape"].clone();
            let (rows, columns) = (shape[0].as_u64().unwrap(), shape[1].as_u64().unwrap());
            for new in [
                json!([columns, rows]),
                json!([rows * columns]),
                json!([1, rows, columns]),
                json!([rows, columns, 1]),
                json!([rows * columns, 1]),
                json!([]),
                json!([0, columns]),
                json!([-1, -1]),
                json!([4294967296_u64, rows]),
                json!([rows, 4294967296_u64 * columns]),
                json!("x"),
            ] {
                if new == shape {
                    continue;
                }
                let folder = edited(fixture, |header, _| header[name]["shape"] = new.clone());
                let what = format!("{fixture}: {name} has the shape {new}");
                refused(&what, folder.path(), bad, &[]);
            }
            for dtype in ["I32", "U32", "F8_E4M3", "BOOL", "X", "F64", "F16"] {
                let folder = edited(fixture, |header, _| header[name]["dtype"] = dtype.into());
                refused(
                    &format!("{fixture}: {name} is of {dtype}"),
                    folder.path(),
                    bad,
                    &[],
                );
            }
            for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                for last in [false, true] {
                    let folder = edited(fixture, |header, data| {
                        let (start, end) = range(header, name);
                        let at = if last { end - 4 } else { start };
                        data[at..at + 4].copy_from_slice(&value.to_le_bytes());
                    });
                    let what = format!("{fixture}: {name} holds {value}, the last: {last}");
                    refused(&what, folder.path(), bad, &[name]);
                }
            }
            let folder = edited(fixture, |header, data| {
                let (start, end) = range(header, name);
                for number in data[start..end].as_chunks_mut::<4>().0 {
                    *number = f32::MAX.to_le_bytes();
                }
            });
            // Finite, so it loads; what it computes is nobody's, and comes to an end, or is no number at all.
            let what = format!("{fixture}: {name} is as large as can be");
            other("survives", &what, folder.path());
            let folder = edited(fixture, |header, data| {
                let (start, end) = range(header, name);
                let cut = end - start;
                data.drain(start..end);
                header.remove(name);
                for (_, value) in header.iter_mut().filter(|(key, _)| *key != "__metadata__") {
                    for at in 0..2 {
                        let offset = value["data_offsets"][at].as_u64().unwrap() as usize;
                        if offset >= end {
                            value["data_offsets"][at] = json!(offset - cut);
                        }
                    }
                }
            });
            let what = format!("{fixture}: without {name}");
            refused(&what, folder.path(), bad, &[]);
        }
    }
    // Of another model.
    for fixture in [
        "mlx-lora-llama",
        "mlx-lora-gemma3-text",
        "mlx-full-llama-bias",
        "mlx-dora-llama-bias-head",
        "peft-dora-llama-bias",
        "peft-saved-llama-head-tied",
        "original-llama",
    ] {
        let folder = Folder::copy_of_adapter(fixture);
        refused(
            &format!("{fixture} over qwen3"),
            folder.path(),
            &["INCOMPATIBLE"],
            &[],
        );
    }
    for fixture in [MLX, PEFT, "mlx-dora-qwen3", "peft-saved-qwen3-norms"] {
        other("loads", fixture, Folder::copy_of_adapter(fixture).path());
    }
}

fn files() {
    let codes: &[&str] = &["BAD_MODEL", "NOT_FOUND", "IO", "INVALID_ARGUMENT"];
    for fixture in [MLX, PEFT] {
        let name = weights_of(fixture);
        let whole = Folder::copy_of_adapter(fixture).read(name);
        let header = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
        let lengths = [
            0,
            1,
            7,
            8,
            9,
            header / 2,
            header - 1,
            header,
            header + 1,
            whole.len() - 1,
        ];
        for length in lengths {
            let folder = Folder::copy_of_adapter(fixture);
            folder.write(name, &whole[..length]);
            refused(
                &format!("{name} of {length} bytes"),
                folder.path(),
                codes,
                &[name],
            );
        }
        for length in [u64::MAX, 1 << 40, 0] {
            let folder = Folder::copy_of_adapter(fixture);
            folder.write(name, [&length.to_le_bytes(), &whole[8..]].concat());
            refused(
                &format!("{name} says {length}"),
                folder.path(),
                codes,
                &[name],
            );
        }
        for missing in [name, CONFIG] {
            let folder = Folder::copy_of_adapter(fixture);
            folder.remove(missing);
            refused(
                &format!("{fixture} without {missing}"),
                folder.path(),
                codes,
                &[missing],
            );
        }
        for target in ["/dev/zero", "/etc/passwd", "nowhere"] {
            for file in [name, CONFIG] {
                let folder = Folder::copy_of_adapter(fixture);
                folder.remove(file);
                std::os::unix::fs::symlink(target, folder.file(file)).unwrap();
                refused(
                    &format!("{file} is a link to {target}"),
                    folder.path(),
                    codes,
                    &[file],
                );
            }
        }
        let folder = Folder::copy_of_adapter(fixture);
        refused(
            "a file that is no adapter",
            &folder.file(CONFIG),
            codes,
            &[],
        );
        folder.remove(name);
        std::fs::create_dir(folder.file(name)).unwrap();
        refused(
            &format!("{name} is a folder"),
            folder.path(),
            codes,
            &[name],
        );
    }
}

fn damaged() {
    let mut random = Random::new();
    for (fixture, name, rounds) in [
        (MLX, CONFIG, 60),
        (PEFT, CONFIG, 100),
        (MLX, weights_of(MLX), 80),
        (PEFT, weights_of(PEFT), 80),
    ] {
        let folder = Folder::copy_of_adapter(fixture);
        let whole = folder.read(name);
        let range = match name {
            CONFIG => whole.len(),
            _ => 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize,
        };
        for round in 0..rounds {
            let mut bytes = whole.clone();
            damage(&mut random, &mut bytes, range);
            folder.write(name, bytes);
            other(
                "survives",
                &format!("{fixture}/{name} round {round}"),
                folder.path(),
            );
        }
    }
}

fn created(model: &Model, rank: u32) -> Result<Adapter, Failure> {
    let mut options = sized!(mlxrt_adapter_options);
    options.rank = rank;
    let mut out = ptr::null_mut();
    // SAFETY: the options are complete, the output writable.
    outcome(unsafe { mlxrt_adapter_create(model.0, &options, &mut out) })?;
    Ok(Adapter(out))
}

fn fixture(name: &str) -> std::path::PathBuf {
    crate::common::fixtures().join("adapters").join(name)
}

fn tokens(model: &Model, adapters: &[*mut mlxrt_adapter]) -> Vec<i32> {
    let session = model.session(0);
    apply(session.0, adapters).unwrap();
    let told = ask(session.0, &Prompt::Text(PROMPT), &exactly(8), |_| true);
    assert!(told.failure.is_none(), "{:?}", told.failure);
    told.tokens
}

fn uses() -> Cases {
    let mut cases: Cases = vec![];
    let mut add =
        |what: &str, run: Box<dyn FnOnce() -> Outcome>| cases.push((what.to_owned(), run));
    add(
        "swapped in each event of an answer",
        Box::new(|| swapped(|_, _, _| {})),
    );
    add(
        "its handle is freed in each event",
        Box::new(|| {
            swapped(|_, one, _| {
                // SAFETY: any handle is safe to free, again and again.
                unsafe { mlxrt_adapter_free(one) }
            })
        }),
    );
    add(
        "removed and applied in each event",
        Box::new(|| {
            swapped(|session, one, two| {
                for set in [&[][..], &[one], &[two, one], &[two]] {
                    apply(session, set).unwrap();
                }
            })
        }),
    );
    for rank in [4097, 1 << 20, u32::MAX] {
        let run = move || {
            let model = load(&qwen()).unwrap();
            let failure = created(&model, rank).err().expect("it is made");
            named(&failure, &["INVALID_ARGUMENT"], &["options.rank"])
        };
        add(&format!("one of rank {rank} is made"), Box::new(run));
    }
    add("100 of them at once", Box::new(many));
    add("on a session that was freed", Box::new(on_a_freed_session));
    add(
        "a set that goes wrong leaves the one before",
        Box::new(a_bad_set),
    );
    for (what, dtype, shape) in [
        ("another shape", 1, [3, 4]),
        ("no dimension", 1, [0, 4]),
        ("2^63", 1, [1 << 63, 2]),
        ("another type", 9, [32, 8]),
    ] {
        let run = move || {
            let model = load(&qwen()).unwrap();
            let adapter = created(&model, 8).unwrap();
            let mut view = sized!(mlxrt_tensor_view);
            let zeros = [0_f32; 4096];
            (view.dtype, view.rank) = (dtype, 2);
            view.shape[..2].copy_from_slice(&shape);
            view.data = zeros.as_ptr().cast();
            view.bytes = shape[0].wrapping_mul(shape[1]).wrapping_mul(4).min(16384);
            let name = CString::new("model.layers.0.self_attn.q_proj.lora_b").unwrap();
            // SAFETY: the view is complete, and never more than its zeros are read.
            let set = outcome(unsafe { mlxrt_adapter_set(adapter.0, name.as_ptr(), &view) });
            let failure = set.expect_err("it is set");
            named(&failure, &["INVALID_ARGUMENT", "UNSUPPORTED"], &["in."])
        };
        add(&format!("a tensor of {what} is set"), Box::new(run));
    }
    for (what, data, word) in data() {
        let run = move || {
            let model = load(&qwen()).unwrap();
            let adapter = created(&model, 2).unwrap();
            let before = tokens(&model, &[adapter.0]);
            let mut options = sized!(mlxrt_train_options);
            (options.train, options.train_len) = (data.as_ptr().cast(), data.len());
            (options.steps, options.batch_size, options.max_tokens) = (1, 1, 64);
            options.learning_rate = 0.1;
            let none = ptr::null_mut();
            // SAFETY: the options are complete; their text lives through the call.
            let trained = outcome(unsafe { mlxrt_train(model.0, adapter.0, &options, None, none) });
            match (trained, word) {
                (Ok(()), None) => fine(),
                (Ok(()), Some(_)) => Err(Wrong("it is trained on".into())),
                (Err(failure), word) => {
                    ensure!(
                        tokens(&model, &[adapter.0]) == before,
                        "the adapter has changed"
                    );
                    let codes = &["INVALID_ARGUMENT", "UNSUPPORTED", "OUT_OF_MEMORY"];
                    named(&failure, codes, &[word.unwrap_or("train")])
                }
            }
        };
        add(&format!("trained on {what}"), Box::new(run));
    }
    cases
}

/// Training data, and what the error says; None: it may also work.
fn data() -> Vec<(String, Vec<u8>, Option<&'static str>)> {
    let good = "{\"text\":\"Hello there\"}\n";
    let mut all: Vec<(String, Vec<u8>, Option<&'static str>)> = [
        ("", "train has no samples"),
        ("\n\n \n", "train has no samples"),
        ("{", "train, line 1"),
        ("7", "train, line 1"),
        ("[]", "train, line 1"),
        ("{}", "train, line 1"),
        ("{\"text\":7}", "train, line 1"),
        ("{\"text\":null}", "train, line 1"),
        ("{\"prompt\":\"a\"}", "train, line 1"),
        ("{\"completion\":\"a\"}", "train, line 1"),
        ("{\"prompt\":1,\"completion\":\"a\"}", "train, line 1"),
        ("{\"messages\":[]}", "train, line 1"),
        ("{\"messages\":7}", "train, line 1"),
        ("{\"messages\":[{}]}", "train, line 1"),
        ("{\"messages\":[{\"role\":\"user\"}]}", "train, line 1"),
        (
            "{\"messages\":[{\"role\":7,\"content\":\"a\"}]}",
            "train, line 1",
        ),
        ("{\"text\":\"\\ud800\"}", "train, line 1"),
    ]
    .map(|(text, word)| (format!("{text:?}"), text.as_bytes().to_vec(), Some(word)))
    .to_vec();
    let third = |line: &str| [good, good, line].concat().into_bytes();
    all.push((
        "a bad third line".into(),
        third("{\"text\":"),
        Some("train, line 3"),
    ));
    all.push((
        "UTF-8 that is none".into(),
        [good.as_bytes(), b"{\"text\":\"\xff\"}"].concat(),
        Some("train"),
    ));
    all.push((
        "a NUL".into(),
        b"{\"text\":\"a\0b\"}".to_vec(),
        Some("train, line 1"),
    ));
    all.push((
        "a deep line".into(),
        "[".repeat(200_000).into_bytes(),
        Some("train, line 1"),
    ));
    let deep = format!("{{\"messages\":{}1{}}}", "[".repeat(5000), "]".repeat(5000));
    all.push((
        "deep messages".into(),
        deep.into_bytes(),
        Some("train, line 1"),
    ));
    all.push(("one token".into(), b"{\"text\":\"\"}".to_vec(), None));
    let long = json!({ "text": "a ".repeat(500_000) }).to_string();
    all.push(("a line of a megabyte".into(), long.into_bytes(), None));
    all.push((
        "20,000 lines".into(),
        good.repeat(20_000).into_bytes(),
        None,
    ));
    all
}

/// Calls `change` in each event of an answer with the first adapter. The answer is what it would have been.
fn swapped(change: fn(*mut mlxrt_session, *mut mlxrt_adapter, *mut mlxrt_adapter)) -> Outcome {
    let model = load(&qwen()).unwrap();
    let one = load_adapter(&model, &fixture("mlx-dora-qwen3")).unwrap();
    let two = load_adapter(&model, &fixture(PEFT)).unwrap();
    let wanted = tokens(&model, &[one.0]);
    ensure!(wanted != RIGHT, "the adapter says nothing");
    let session = model.session(0);
    apply(session.0, &[one.0]).unwrap();
    let told = ask(session.0, &Prompt::Text(PROMPT), &exactly(8), |_| {
        let _ = apply(session.0, &[two.0]);
        change(session.0, one.0, two.0);
        true
    });
    ensure!(told.failure.is_none(), "{:?}", told.failure);
    ensure!(
        told.tokens == wanted,
        "{:?}, expected {wanted:?}",
        told.tokens
    );
    apply(session.0, &[]).unwrap();
    ensure!(tokens(&model, &[]) == RIGHT, "something stayed");
    fine()
}

fn many() -> Outcome {
    let model = load(&qwen()).unwrap();
    let all: Vec<Adapter> = (0..100).map(|_| created(&model, 4).unwrap()).collect();
    let handles: Vec<_> = all.iter().map(|adapter| adapter.0).collect();
    // New ones change nothing.
    ensure!(tokens(&model, &handles) == RIGHT, "other tokens");
    fine()
}

fn on_a_freed_session() -> Outcome {
    let model = load(&qwen()).unwrap();
    let adapter = created(&model, 4).unwrap();
    let session = model.session(0).0;
    let failure = apply(session, &[adapter.0]).expect_err("it is applied");
    named(&failure, &["INVALID_HANDLE"], &["session"])
}

fn a_bad_set() -> Outcome {
    let model = load(&qwen()).unwrap();
    let one = load_adapter(&model, &fixture("mlx-dora-qwen3")).unwrap();
    let wanted = tokens(&model, &[one.0]);
    let session = model.session(0);
    apply(session.0, &[one.0]).unwrap();
    let gone = created(&model, 2).unwrap().0;
    for bad in [&[gone][..], &[one.0, one.0], &[one.0, ptr::null_mut()]] {
        let failure = apply(session.0, bad).expect_err("it is applied");
        named(
            &failure,
            &["INVALID_HANDLE", "INVALID_ARGUMENT"],
            &["adapters["],
        )?;
    }
    let told = ask(session.0, &Prompt::Text(PROMPT), &exactly(8), |_| true);
    ensure!(told.tokens == wanted, "{:?}", told.tokens);
    fine()
}
