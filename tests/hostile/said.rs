//! Row 30: what names make of errors, warnings and the log. Every place where a name of a file's or a caller's can show gets
//! names that would steer a terminal, forge a line or turn the direction of text, and names that are much too long. What is
//! said then is one line of at most 1900 bytes, without any such character, and still shows the name.

use std::ffi::{c_char, c_void, CString};
use std::path::Path;
use std::ptr;
use std::sync::Mutex;

use serde_json::{json, Value};

use crate::abi::*;
use crate::child::qwen;
use crate::common::{c_path, inspect, load, outcome, Failure, Model, Prompt};
use crate::folder::Folder;
use crate::list::Cases;
use crate::verdict::*;
use crate::{ensure, list_class, sized};

list_class!("30", "names in what is said", "said");

/// What every name begins with, and no message has of itself.
const MARK: &str = "zqz";
const MOST_BYTES: usize = 1_900;

/// What a name is, and itself.
fn names() -> Vec<(String, String)> {
    let mut names: Vec<(String, String)> = [
        "\n",
        "\r",
        "\t",
        "\0",
        "\x07",
        "\x08",
        "\x1b[2J\x1b]0;title\x07",
        "\x7f",
        "\u{85}",
        "\u{9b}31m",
        "\u{202e}",
        "\u{2066}",
        "\u{2028}",
        "\u{feff}",
        "\nerror: forged\n",
    ]
    .iter()
    .map(|inside| (format!("{inside:?}"), format!("{MARK}{inside}{MARK}")))
    .collect();
    for (what, unit, count) in [
        ("100,000 letters", "x", 100_000),
        ("50,000 letters of three bytes", "語", 50_000),
        ("30,000 escapes", "\x1b", 30_000),
        ("30,000 words", "a b ", 30_000),
    ] {
        names.push((what.to_owned(), format!("{MARK}{}", unit.repeat(count))));
    }
    names
}

/// May be said.
fn is_clean(text: &str) -> bool {
    let steers = |c: char| {
        c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
    };
    text.len() <= MOST_BYTES && !text.chars().any(steers)
}

static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());

unsafe extern "C" fn keep(_: *mut c_void, _: i32, line: *const c_char, length: usize) {
    // SAFETY: the line is so long and lives through the call.
    let line = unsafe { std::slice::from_raw_parts(line.cast::<u8>(), length) };
    LINES
        .lock()
        .unwrap()
        .push(String::from_utf8_lossy(line).into_owned());
}

/// What of the name has to be there.
#[derive(Clone, Copy, PartialEq)]
enum Shows {
    /// In the error or in a warning.
    Yes,
    /// It may be named by its place only.
    Perhaps,
}

type Say = fn(&str) -> Result<(), Failure>;

/// A place in a folder: a fixture, and what the name makes of it.
type Edit = fn(&Folder, &str);

const FOLDERS: &[(&str, &str, Edit, Shows)] = &[
    (
        "model_type",
        "qwen3-f32",
        |f, name| set(f, "/model_type", json!(name)),
        Shows::Yes,
    ),
    (
        "hidden_act",
        "qwen3-f32",
        |f, name| set(f, "/hidden_act", json!(name)),
        Shows::Yes,
    ),
    (
        "a rope type",
        "llama-f32",
        |f, name| set(f, "/rope_scaling", json!({"rope_type": name})),
        Shows::Yes,
    ),
    (
        "a size",
        "qwen3-f32",
        |f, name| set(f, "/head_dim", json!(name)),
        Shows::Yes,
    ),
    (
        "a flag",
        "qwen3-f32",
        |f, name| set(f, "/tie_word_embeddings", json!(name)),
        Shows::Yes,
    ),
    (
        "a layer's type",
        "gpt_oss-f32",
        |f, name| set(f, "/layer_types/0", json!(name)),
        Shows::Perhaps,
    ),
    (
        "a pattern of layers",
        "nemotron_h-f32",
        |f, name| set(f, "/hybrid_override_pattern", json!(name)),
        Shows::Perhaps,
    ),
    (
        "a router",
        "qwen3_moe-f32",
        |f, name| set(f, "/scoring_func", json!(name)),
        Shows::Perhaps,
    ),
    (
        "a quantisation's mode",
        "qwen3-4bit",
        |f, name| {
            f.edit("config.json", |config| {
                config["quantization"]["mode"] = json!(name);
                config["quantization_config"]["mode"] = json!(name);
            });
        },
        Shows::Yes,
    ),
    (
        "a module's quantisation",
        "qwen3-4bit",
        |f, name| {
            f.edit("config.json", |config| {
                config["quantization"][name] = json!({"bits": 3, "group_size": 7});
            });
        },
        Shows::Perhaps,
    ),
    (
        "a key that is there twice",
        "qwen3-f32",
        |f, name| {
            let key = json!(name);
            f.write("config.json", format!("{{{key}:1,{key}:2}}"));
        },
        Shows::Yes,
    ),
    (
        "what is no JSON",
        "qwen3-f32",
        |f, name| f.write("config.json", name),
        Shows::Perhaps,
    ),
    (
        "a tensor that nobody asked for",
        "qwen3-f32",
        |f, name| {
            header(f, |header, (from, _)| {
                header.insert(name.to_owned(), from);
            })
        },
        Shows::Perhaps,
    ),
    (
        "a tensor's name",
        "qwen3-f32",
        |f, name| {
            header(f, |header, (from, key)| {
                header.remove(&key);
                header.insert(name.to_owned(), from);
            })
        },
        Shows::Perhaps,
    ),
    (
        "a tensor's type",
        "qwen3-f32",
        |f, name| {
            header(f, |header, (_, key)| {
                header[&key]["dtype"] = json!(name);
            })
        },
        Shows::Yes,
    ),
    (
        "a tensor's dimension",
        "qwen3-f32",
        |f, name| {
            header(f, |header, (_, key)| {
                header[&key]["shape"][0] = json!(name);
            })
        },
        Shows::Yes,
    ),
    (
        "metadata of the weights",
        "qwen3-f32",
        |f, name| {
            header(f, |header, _| {
                header.insert("__metadata__".into(), json!({ name: 7 }));
            })
        },
        Shows::Yes,
    ),
    (
        "a file in the index",
        "qwen3-f32-shards",
        |f, name| {
            f.edit("model.safetensors.index.json", |index| {
                for file in index["weight_map"].as_object_mut().unwrap().values_mut() {
                    *file = json!(name);
                }
            });
        },
        Shows::Perhaps,
    ),
    (
        "a file of the index that is missing",
        "qwen3-f32-shards",
        |f, name| {
            f.remove("model-00002-of-00003.safetensors");
            f.edit("model.safetensors.index.json", |index| {
                for file in index["weight_map"].as_object_mut().unwrap().values_mut() {
                    *file = json!(name);
                }
            });
        },
        Shows::Perhaps,
    ),
    (
        "a weight file's own name",
        "qwen3-f32",
        |f, name| {
            f.write(
                &format!("model{}.safetensors", in_a_name(name)),
                "no weights",
            );
        },
        Shows::Yes,
    ),
    (
        "a weight file that is a FIFO",
        "qwen3-f32",
        |f, name| {
            fifo(&f.file(&format!("model{}.safetensors", in_a_name(name))));
        },
        Shows::Yes,
    ),
    (
        "a weight file that leads out",
        "qwen3-f32",
        |f, name| {
            let link = f.file(&format!("model{}.safetensors", in_a_name(name)));
            std::os::unix::fs::symlink("/etc/passwd", link).unwrap();
        },
        Shows::Yes,
    ),
    (
        "the file of another program",
        "qwen3-f32",
        |f, name| {
            f.remove("model.safetensors");
            f.remove("model.safetensors.index.json");
            f.write(&format!("{}.gguf", in_a_name(name)), "");
        },
        Shows::Yes,
    ),
    (
        "an end of text",
        "qwen3-f32",
        |f, name| {
            f.edit("generation_config.json", |config| {
                config["eos_token_id"] = json!(name)
            });
        },
        Shows::Yes,
    ),
    (
        "a temperature",
        "qwen3-f32",
        |f, name| {
            f.edit("generation_config.json", |config| {
                config["temperature"] = json!(name)
            });
        },
        Shows::Perhaps,
    ),
    (
        "the tokenizer's version",
        "qwen3-f32",
        |f, name| token(f, "/version", name),
        Shows::Yes,
    ),
    (
        "the tokenizer's model",
        "qwen3-f32",
        |f, name| token(f, "/model/type", name),
        Shows::Perhaps,
    ),
    (
        "the tokenizer's merges",
        "qwen3-f32",
        |f, name| token(f, "/model/merges", name),
        Shows::Perhaps,
    ),
    (
        "a pre-tokenizer",
        "qwen3-f32",
        |f, name| token(f, "/pre_tokenizer/type", name),
        Shows::Perhaps,
    ),
    (
        "a decoder",
        "qwen3-f32",
        |f, name| token(f, "/decoder/type", name),
        Shows::Perhaps,
    ),
    (
        "an added token",
        "qwen3-f32",
        |f, name| {
            f.edit("tokenizer.json", |json| {
                json["added_tokens"][0]["content"] = json!(name);
                json["added_tokens"][0]["id"] = json!(1 << 30);
            });
        },
        Shows::Perhaps,
    ),
    (
        "a token of the vocabulary",
        "qwen3-f32",
        |f, name| {
            f.edit("tokenizer.json", |json| {
                json["model"]["vocab"][name] = json!(-1)
            });
        },
        Shows::Perhaps,
    ),
    (
        "what goes around a text",
        "qwen3-f32",
        |f, name| {
            f.edit("tokenizer.json", |json| {
                json["post_processor"]["single"][0] =
                    json!({"SpecialToken": {"id": name, "type_id": 0}});
            });
        },
        Shows::Perhaps,
    ),
    (
        "a special token",
        "qwen3-f32",
        |f, name| {
            f.write(
                "special_tokens_map.json",
                json!({ "bos_token": name, name: 7 }).to_string(),
            );
        },
        Shows::Perhaps,
    ),
    (
        "an added token of its own file",
        "qwen3-f32",
        |f, name| {
            f.write(
                "added_tokens.json",
                json!({ name: -1, "a": name }).to_string(),
            );
        },
        Shows::Perhaps,
    ),
    (
        "a chat template's words",
        "qwen3-f32",
        |f, name| {
            f.write("chat_template.jinja", format!("{{{{ x|{name} }}}}"));
        },
        Shows::Perhaps,
    ),
    (
        "an additional chat template",
        "qwen3-f32",
        |f, name| {
            std::fs::create_dir(f.file("additional_chat_templates")).unwrap();
            f.write(
                &format!("additional_chat_templates/{}.jinja", in_a_name(name)),
                "{{ {% }}",
            );
        },
        Shows::Perhaps,
    ),
    (
        "a chat template by name",
        "qwen3-f32",
        |f, name| {
            f.remove("chat_template.jinja");
            f.edit("tokenizer_config.json", |config| {
                config["chat_template"] =
                    json!([{"name": name, "template": "{{"}, {"name": name, "template": 7}]);
            });
        },
        Shows::Perhaps,
    ),
];

/// Places in adapters.
const ADAPTERS: &[(&str, &str, Edit, Shows)] = &[
    (
        "an adapter's type",
        "mlx-lora-qwen3-last-embed",
        |f, name| adapter(f, "/fine_tune_type", name),
        Shows::Yes,
    ),
    (
        "an adapter's rank",
        "mlx-lora-qwen3-last-embed",
        |f, name| adapter(f, "/lora_parameters/rank", name),
        Shows::Yes,
    ),
    (
        "PEFT's type",
        "peft-patterns-qwen3",
        |f, name| adapter(f, "/peft_type", name),
        Shows::Yes,
    ),
    (
        "PEFT's bias",
        "peft-patterns-qwen3",
        |f, name| adapter(f, "/bias", name),
        Shows::Perhaps,
    ),
    (
        "PEFT's pattern of ranks",
        "peft-patterns-qwen3",
        |f, name| {
            f.edit("adapter_config.json", |config| {
                config["rank_pattern"] = json!({ name: "x", "(": 3 })
            });
        },
        Shows::Perhaps,
    ),
    (
        "an adapter's tensor",
        "mlx-lora-qwen3-last-embed",
        |f, name| {
            let file = f.read("adapters.safetensors");
            let (mut header, data) = crate::folder::split(&file);
            let key = header
                .keys()
                .find(|key| *key != "__metadata__")
                .unwrap()
                .clone();
            let value = header.remove(&key).unwrap();
            header.insert(format!("model.layers.0.{name}.lora_a"), value);
            f.write(
                "adapters.safetensors",
                crate::folder::join(Value::Object(header).to_string(), &data),
            );
        },
        Shows::Perhaps,
    ),
];

/// Places in arguments.
const ARGUMENTS: &[(&str, Say, Shows)] = &[
    (
        "the path of a model",
        |name| inspect(Path::new(&in_a_path(name))).map(drop),
        Shows::Yes,
    ),
    (
        "the path of an adapter",
        |name| over(|model| load_adapter(model, Path::new(&in_a_path(name)))),
        Shows::Yes,
    ),
    (
        "a path to save a model to",
        |name| {
            over(|model| {
                let file = Folder::copy_of("qwen3-f32");
                let path = c_path(&file.file("config.json").join(in_a_path(name)));
                // SAFETY: the path is NUL-terminated; no adapters.
                outcome(unsafe {
                    mlxrt_model_save(
                        model.0,
                        ptr::null(),
                        ptr::null(),
                        0,
                        path.as_ptr(),
                        ptr::null(),
                    )
                })
            })
        },
        Shows::Perhaps,
    ),
    (
        "a path to save an adapter to",
        |name| {
            made(|_, adapter| {
                let file = Folder::copy_of("qwen3-f32");
                let path = c_path(&file.file("config.json").join(in_a_path(name)));
                // SAFETY: the path is NUL-terminated.
                outcome(unsafe { mlxrt_adapter_save(adapter, path.as_ptr(), ptr::null()) })
            })
        },
        Shows::Perhaps,
    ),
    (
        "a tensor that is set",
        |name| {
            made(|_, adapter| {
                let name = CString::new(in_a_path(name)).unwrap();
                let (mut view, zeros) = (sized!(mlxrt_tensor_view), [0_f32; 4]);
                (view.dtype, view.rank, view.bytes) = (1, 1, 16);
                (view.shape[0], view.data) = (4, zeros.as_ptr().cast());
                // SAFETY: the view is complete, and its data as long as it says.
                outcome(unsafe { mlxrt_adapter_set(adapter, name.as_ptr(), &view) })
            })
        },
        Shows::Yes,
    ),
    (
        "a module to adapt",
        |name| {
            over(|model| {
                let key = CString::new(nul_free(name)).unwrap();
                let keys = [key.as_ptr()];
                let mut options = sized!(mlxrt_adapter_options);
                (options.keys, options.key_count) = (keys.as_ptr(), 1);
                let mut out = ptr::null_mut();
                // SAFETY: the options are complete, the output writable.
                outcome(unsafe { mlxrt_adapter_create(model.0, &options, &mut out) })
            })
        },
        Shows::Yes,
    ),
    (
        "a path of training data",
        |name| train(&in_a_path(name), MLXRT_TRAIN_PATHS),
        Shows::Yes,
    ),
    (
        "a line of training data",
        |name| train(&json!({ name: name }).to_string(), 0),
        Shows::Perhaps,
    ),
    (
        "a role",
        |name| render(&json!([{"role": name, "content": "a"}]).to_string(), None),
        Shows::Perhaps,
    ),
    (
        "the type of a part",
        |name| {
            render(
                &json!([{"role": "user", "content": [{"type": name}]}]).to_string(),
                None,
            )
        },
        Shows::Perhaps,
    ),
    (
        "messages that are no JSON",
        |name| render(name, None),
        Shows::Perhaps,
    ),
    (
        "a template's argument",
        |name| {
            render(
                r#"[{"role":"user","content":"a"}]"#,
                Some(&json!({ name: 1, "messages": 2 }).to_string()),
            )
        },
        Shows::Perhaps,
    ),
    (
        "what a template raises",
        |name| templated("{{ raise_exception(messages[0].content) }}", name),
        Shows::Yes,
    ),
    (
        "a key that a template looks for",
        |name| templated("{{ {}[messages[0].content]|length }}", name),
        Shows::Perhaps,
    ),
    (
        "an attribute that a template asks for",
        |name| templated("{{ (messages[0]|attr(messages[0].content))() }}", name),
        Shows::Perhaps,
    ),
    (
        "what a template takes for a number",
        |name| templated("{{ 1 + messages[0].content }}", name),
        Shows::Perhaps,
    ),
];

fn set(folder: &Folder, place: &str, value: Value) {
    folder.edit("config.json", |config| match config.pointer_mut(place) {
        Some(there) => *there = value,
        None => config[&place[1..]] = value,
    });
}

fn token(folder: &Folder, place: &str, name: &str) {
    folder.edit("tokenizer.json", |json| {
        *json.pointer_mut(place).unwrap() = json!(name)
    });
}

fn adapter(folder: &Folder, place: &str, name: &str) {
    folder.edit("adapter_config.json", |json| {
        match json.pointer_mut(place) {
            Some(there) => *there = json!(name),
            None => json[&place[1..]] = json!(name),
        }
    });
}

/// Changes the weights' header, given its first tensor and that one's name.
fn header(
    folder: &Folder,
    edit: impl FnOnce(&mut serde_json::Map<String, Value>, (Value, String)),
) {
    folder.edit_header(|header, _| {
        let first = header.iter().find(|(key, _)| *key != "__metadata__");
        let (key, value) = first
            .map(|(key, value)| (key.clone(), value.clone()))
            .unwrap();
        edit(header, (value, key));
    });
}

/// As much of it as a file's name can have.
fn in_a_name(name: &str) -> String {
    nul_free(name).replace('/', "").chars().take(60).collect()
}

/// As much of it as a path can have.
fn in_a_path(name: &str) -> String {
    nul_free(name).chars().take(1_200).collect()
}

fn nul_free(name: &str) -> String {
    name.replace('\0', "\x01")
}

pub fn fifo(path: &Path) {
    let path = c_path(path);
    // SAFETY: the path is NUL-terminated.
    assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0);
}

fn over(say: impl FnOnce(&Model) -> Result<(), Failure>) -> Result<(), Failure> {
    say(&load(&qwen()).unwrap())
}

/// With a new adapter.
fn made(
    say: impl FnOnce(&Model, *mut mlxrt_adapter) -> Result<(), Failure>,
) -> Result<(), Failure> {
    over(|model| {
        let mut out = ptr::null_mut();
        // SAFETY: the output is writable; the handle is freed once.
        unsafe {
            outcome(mlxrt_adapter_create(model.0, ptr::null(), &mut out)).unwrap();
            let said = say(model, out);
            mlxrt_adapter_free(out);
            said
        }
    })
}

fn load_adapter(model: &Model, path: &Path) -> Result<(), Failure> {
    let (path, mut out) = (c_path(path), ptr::null_mut());
    // SAFETY: the path is NUL-terminated, the output writable; any handle is safe to free.
    unsafe {
        let loaded = outcome(mlxrt_adapter_load(
            model.0,
            path.as_ptr(),
            ptr::null(),
            &mut out,
        ));
        mlxrt_adapter_free(out);
        loaded
    }
}

fn train(data: &str, flags: u32) -> Result<(), Failure> {
    made(|model, adapter| {
        let mut options = sized!(mlxrt_train_options);
        (options.train, options.train_len) = (data.as_ptr().cast(), data.len());
        (options.flags, options.steps, options.batch_size) = (flags, 1, 1);
        let none = ptr::null_mut();
        // SAFETY: the options are complete; their text lives through the call.
        outcome(unsafe { mlxrt_train(model.0, adapter, &options, None, none) })
    })
}

fn render(messages: &str, args: Option<&str>) -> Result<(), Failure> {
    rendered(&load(&qwen()).unwrap(), messages, args)
}

fn rendered(model: &Model, messages: &str, args: Option<&str>) -> Result<(), Failure> {
    let mut input = Prompt::Messages(messages).input();
    if let Some(args) = args {
        (input.template_args, input.template_args_len) = (args.as_ptr().cast(), args.len());
    }
    let mut text = ptr::null_mut();
    // SAFETY: the input is complete, the output writable; NULL may be freed.
    unsafe {
        let rendered = outcome(mlxrt_render(model.0, &input, &mut text, ptr::null_mut()));
        mlxrt_free(text.cast());
        rendered
    }
}

fn templated(template: &str, name: &str) -> Result<(), Failure> {
    let folder = Folder::copy_of("qwen3-f32");
    folder.write("chat_template.jinja", template);
    let messages = json!([{"role": "user", "content": name}]).to_string();
    rendered(&load(folder.path()).unwrap(), &messages, None)
}

fn cases() -> Cases {
    let mut cases: Cases = vec![];
    for (what, name) in names() {
        for &(place, fixture, edit, shows) in FOLDERS {
            let name = name.clone();
            let run = move || {
                listened(&name, shows, || {
                    let folder = Folder::copy_of(fixture);
                    edit(&folder, &name);
                    let model = load(folder.path())?;
                    rendered(&model, r#"[{"role":"user","content":"a"}]"#, None)
                })
            };
            cases.push((format!("{place}: {what}"), Box::new(run)));
        }
        for &(place, fixture, edit, shows) in ADAPTERS {
            let name = name.clone();
            let run = move || {
                listened(&name, shows, || {
                    let folder = Folder::copy_of_adapter(fixture);
                    edit(&folder, &name);
                    over(|model| load_adapter(model, folder.path()))
                })
            };
            cases.push((format!("{place}: {what}"), Box::new(run)));
        }
        for &(place, say, shows) in ARGUMENTS {
            let name = name.clone();
            let run = move || listened(&name, shows, || say(&name));
            cases.push((format!("{place}: {what}"), Box::new(run)));
        }
    }
    cases
}

/// Runs it with a log that hears all, and looks at everything that was said.
fn listened(name: &str, shows: Shows, say: impl FnOnce() -> Result<(), Failure>) -> Outcome {
    // SAFETY: the function may be called at any time; no user data.
    outcome(unsafe { mlxrt_log_set(MLXRT_LOG_DEBUG, Some(keep), ptr::null_mut()) }).unwrap();
    let said = say();
    // SAFETY: as above.
    outcome(unsafe { mlxrt_log_set(MLXRT_LOG_DEBUG, None, ptr::null_mut()) }).unwrap();
    let lines = std::mem::take(&mut *LINES.lock().unwrap());
    for line in &lines {
        ensure!(
            is_clean(line),
            "a line of {} bytes: {line:.300?}",
            line.len()
        );
    }
    let in_lines = lines.iter().any(|line| line.contains(MARK));
    match said {
        Ok(()) => {
            ensure!(shows == Shows::Perhaps || in_lines, "nothing says the name");
            fine()
        }
        Err(failure) => {
            let Failure { code, message } = &failure;
            ensure!(
                is_clean(message),
                "{code}, {} bytes: {message:.300?}",
                message.len()
            );
            let shown = in_lines || message.contains(MARK);
            ensure!(
                shows == Shows::Perhaps || shown,
                "{message} does not say {name:.80?}"
            );
            named(&failure, CODES, &[])
        }
    }
}
