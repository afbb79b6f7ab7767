//! Row 33: each function of the header with little address space left: from one megabyte above what the process has. It
//! works, says OUT_OF_MEMORY, or says what it says without a limit; and then, without one, all is as before.

use std::path::PathBuf;

use crate::child::{alive, qwen};
use crate::common::{fixtures, Failure};
use crate::folder::Folder;
use crate::list::{run_list, Cases};
use crate::surface::{function, offset_of, size_of_struct, surface, Call, Function, World};
use crate::verdict::*;
use crate::Class;

pub const CLASS: Class = Class {
    row: "33",
    name: "little address space left",
    generators: &[|| run_list("short", cases())],
    // It ends with the usual request by itself, where the case ends the engine.
    programs: &[("short", |args| {
        let number: usize = args[0].parse().expect("a number");
        cases().into_iter().nth(number).expect("a case").1()
    })],
};

/// Kilobytes that are left.
const LEFT: [u64; 10] = [
    256,
    1 << 10,
    2 << 10,
    4 << 10,
    8 << 10,
    16 << 10,
    32 << 10,
    64 << 10,
    128 << 10,
    256 << 10,
];

/// What else a call may say: what it needs beside memory.
const CODES: &[&str] = &["OUT_OF_MEMORY", "RESOURCES"];

const MB: usize = 1 << 20;

/// Makes the arguments of a good call large.
type Grow = fn(&mut Call);

fn cases() -> Cases {
    let mut cases: Cases = vec![];
    for function in &surface().functions {
        let mut sizes: Vec<(&str, Grow)> = vec![("as usual", |_| {})];
        let has = |name: &str| {
            function
                .params
                .iter()
                .any(|p| p.struct_name() == Some(name))
        };
        if has("mlxrt_input") {
            sizes.extend(INPUTS);
        }
        if has("mlxrt_generate_options") {
            sizes.extend(OPTIONS);
        }
        if has("mlxrt_train_options") {
            sizes.extend(LINES);
        }
        match function.name.as_str() {
            "mlxrt_tokenize" => sizes.push(("a text of 4 MB", |call| {
                let text = prose(4 * MB);
                call.args[2] = text.len() as u64;
                call.args[1] = call.text(&text);
            })),
            "mlxrt_detokenize" => sizes.push(("4 M ids", |call| {
                call.args[1] = numbers(call, 4 * MB, 5);
                call.args[2] = 4 * MB as u64;
            })),
            "mlxrt_adapter_create" => sizes.push(("a rank of 4096", |call| {
                set(call, "mlxrt_adapter_options", &[("rank", 4096)], &[]);
                set(call, "mlxrt_adapter_options", &[("kind", 1)], &[]);
            })),
            _ => {}
        }
        for (size, grow) in sizes {
            for left in LEFT {
                let what = format!("{}, {size}, {left} KB left", function.name);
                cases.push((what, Box::new(move || one_call(function, grow, left))));
            }
        }
    }
    for name in ["mlxrt_model_load", "mlxrt_model_inspect"] {
        for (what, folder) in FOLDERS {
            for left in LEFT {
                let text = format!("{name}, {what}, {left} KB left");
                let run = move || {
                    let (folder, _copy) = folder();
                    of_folder(function(name), folder, left)
                };
                cases.push((text, Box::new(run)));
            }
        }
    }
    for left in LEFT {
        let text = format!("the first call of all, {left} KB left");
        cases.push((text, Box::new(move || first_call(left))));
    }
    cases
}

const INPUTS: [(&str, Grow); 8] = [
    ("a message of 1 MB", |call| message(call, MB)),
    ("a message of 32 MB", |call| message(call, 32 * MB)),
    ("a message of 1 M lists", |call| {
        let content = lists(MB);
        let json = format!(r#"[{{"role":"tool","content":{content}}}]"#);
        give(call, &[("messages", json)]);
    }),
    ("100,000 messages", |call| {
        let one = r#"{"role":"user","content":"Hi"},"#.repeat(100_000);
        give(
            call,
            &[("messages", format!("[{}]", one.trim_end_matches(',')))],
        );
    }),
    ("tools of 1 M lists", |call| {
        give(call, &[("messages", hi()), ("tools", lists(MB))]);
    }),
    ("arguments of 1 M lists", |call| {
        let args = format!(r#"{{"x":{}}}"#, lists(MB));
        give(call, &[("messages", hi()), ("template_args", args)]);
    }),
    ("a text of 2 MB", |call| {
        give(call, &[("text", prose(2 * MB))])
    }),
    ("16 M tokens", |call| {
        let ids = numbers(call, 16 * MB, 5);
        give(call, &[]);
        set(
            call,
            "mlxrt_input",
            &[],
            &[("tokens", ids), ("token_count", 16 * MB as u64)],
        );
    }),
];

const OPTIONS: [(&str, Grow); 3] = [
    ("1 M biases", |call| {
        let (ids, values) = (numbers(call, MB, 5), numbers(call, MB, 0));
        let fields = [
            ("bias_tokens", ids),
            ("bias_values", values),
            ("bias_count", MB as u64),
        ];
        set(call, "mlxrt_generate_options", &[], &fields);
    }),
    ("1 M stop tokens", |call| {
        let ids = numbers(call, MB, 5);
        let fields = [("stop_tokens", ids), ("stop_token_count", MB as u64)];
        set(call, "mlxrt_generate_options", &[], &fields);
    }),
    ("1 M stop strings", |call| {
        let text = call.text("no such text");
        let all = call.keep(text.to_ne_bytes().repeat(MB));
        let fields = [("stop", all), ("stop_count", MB as u64)];
        set(call, "mlxrt_generate_options", &[], &fields);
    }),
];

const LINES: [(&str, Grow); 4] = [
    ("100,000 lines", |call| {
        lines(call, r#"{"text":"Hello there"}"#, 100_000)
    }),
    ("a line of 4 MB", |call| {
        lines(call, &format!(r#"{{"text":"{}"}}"#, prose(4 * MB)), 1);
    }),
    ("a line of 1 M lists", |call| {
        let tools = lists(MB);
        lines(
            call,
            &format!(r#"{{"messages":{},"tools":{tools}}}"#, hi()),
            1,
        );
    }),
    ("batches of 65536", |call| {
        lines(call, &format!(r#"{{"text":"{}"}}"#, prose(2000)), 1000);
        let most = 1 << 16;
        set(
            call,
            "mlxrt_train_options",
            &[("batch_size", most), ("max_tokens", 1 << 20)],
            &[],
        );
    }),
];

type MakeFolder = fn() -> (PathBuf, Option<Folder>);

const FOLDERS: [(&str, MakeFolder); 6] = [
    ("the demo model", || {
        (fixtures().join("../../demo/model"), None)
    }),
    ("a quantised model", || {
        (fixtures().join("models/gemma3-4bit-bf16"), None)
    }),
    ("a config of 1 M lists", || {
        copy(|folder| {
            let list = lists(MB);
            let config = String::from_utf8(folder.read("config.json")).unwrap();
            folder.write(
                "config.json",
                config.replacen('{', &format!(r#"{{"x":{list},"#), 1),
            );
        })
    }),
    ("an index of 500,000 entries", || {
        copy(|folder| {
            let entries: Vec<String> = (0..500_000)
                .map(|n| format!(r#""tensor.{n}":"x""#))
                .collect();
            let index = format!(r#"{{"weight_map":{{{}}}}}"#, entries.join(","));
            folder.write("model.safetensors.index.json", index);
        })
    }),
    ("a tokenizer of 200,000 entries", || {
        copy(|folder| {
            folder.edit("tokenizer.json", |json| {
                let vocab = json["model"]["vocab"].as_object_mut().unwrap();
                for id in 1_000..200_000 {
                    vocab.insert(format!("word{id}"), id.into());
                }
            });
        })
    }),
    ("a template of 1 MB", || {
        copy(|folder| {
            let template = "{{ messages[0].content + 'x' }}".repeat(MB / 31);
            folder.write("chat_template.jinja", template);
        })
    }),
];

fn copy(change: impl FnOnce(&Folder)) -> (PathBuf, Option<Folder>) {
    let folder = Folder::copy_of("qwen3-f32");
    change(&folder);
    (folder.path().to_owned(), Some(folder))
}

fn hi() -> String {
    r#"[{"role":"user","content":"Hi"}]"#.into()
}

fn prose(bytes: usize) -> String {
    let mut text = "once upon a time, there was a fox. ".repeat(bytes / 35 + 1);
    text.truncate(bytes);
    text
}

/// So many bytes of what a parser makes most of.
fn lists(bytes: usize) -> String {
    format!("[{}0]", "[0],".repeat(bytes / 4))
}

fn message(call: &mut Call, bytes: usize) {
    let json = format!(r#"[{{"role":"user","content":"{}"}}]"#, prose(bytes));
    give(call, &[("messages", json)]);
}

fn lines(call: &mut Call, line: &str, count: usize) {
    let text = call.text(&format!("{line}\n").repeat(count));
    let fields = [("train", text), ("train_len", usize::MAX as u64)];
    set(call, "mlxrt_train_options", &[], &fields);
}

/// Sets the input to these texts alone.
fn give(call: &mut Call, texts: &[(&str, String)]) {
    set(
        call,
        "mlxrt_input",
        &[],
        &[("messages", 0), ("messages_len", 0)],
    );
    for (name, text) in texts {
        let at = call.text(text);
        let length = format!("{name}_len");
        set(
            call,
            "mlxrt_input",
            &[],
            &[(name, at), (&length, text.len() as u64)],
        );
    }
}

fn numbers(call: &mut Call, count: usize, value: i32) -> u64 {
    call.keep(value.to_ne_bytes().repeat(count))
}

/// Sets fields of the struct of this type, of 4 and of 8 bytes.
fn set(call: &mut Call, name: &str, small: &[(&str, u32)], large: &[(&str, u64)]) {
    let params = &call.function.params;
    let arg = params
        .iter()
        .position(|p| p.struct_name() == Some(name))
        .expect(name);
    let at = |field: &str| offset_of(name, field).expect("a field");
    assert!(size_of_struct(name) > 0);
    for (field, value) in small {
        call.set(arg, at(field), &value.to_ne_bytes());
    }
    for (field, value) in large {
        call.set(arg, at(field), &value.to_ne_bytes());
    }
}

/// The engine runs and the handles are there, so that what is met is the call's own need.
fn one_call(function: &'static Function, grow: Grow, left: u64) -> Outcome {
    alive()?;
    let mut world = World::new();
    let mut call = Call::good(function, &mut world);
    grow(&mut call);
    let run = || {
        let result = call.run();
        // What it queued meets the limit too.
        match (function.name.as_str(), &result) {
            ("mlxrt_submit", Ok(_)) => wait_for(call.memory.last().unwrap()[0]),
            _ => result,
        }
    };
    let verdict = judge(with_left(left, run), run)?;
    let resume = Call::good(crate::surface::function("mlxrt_resume"), &mut world);
    while resume.run().is_ok() {}
    alive()?;
    Ok(verdict)
}

fn of_folder(function: &'static Function, path: PathBuf, left: u64) -> Outcome {
    alive()?;
    let mut call = Call::good(function, &mut World::new());
    call.args[0] = call.text(path.to_str().unwrap());
    let verdict = judge(with_left(left, || call.run()), || call.run())?;
    alive()?;
    Ok(verdict)
}

/// Without an engine: all that is needed once is needed now.
fn first_call(left: u64) -> Outcome {
    crate::abi::library();
    let mut call = Call::good(function("mlxrt_model_load"), &mut World::new());
    call.args[0] = call.text(qwen().to_str().unwrap());
    let verdict = judge(with_left(left, || call.run()), || call.run())?;
    alive()?;
    Ok(verdict)
}

fn wait_for(request: u64) -> Result<u64, Failure> {
    let mut world = World::new();
    world.insert("mlxrt_request".into(), request);
    Call::good(function("mlxrt_request_result"), &mut world).run()
}

/// Success, an error of memory, or what the call says in any case.
fn judge(result: Result<u64, Failure>, again: impl FnOnce() -> Result<u64, Failure>) -> Outcome {
    let failure = match result {
        Ok(_) => return fine(),
        Err(failure) => failure,
    };
    if CODES.contains(&failure.code.as_str()) {
        return named(&failure, CODES, &[]);
    }
    match again() {
        Err(usual) if usual.code == failure.code => named(&failure, &[&failure.code], &[]),
        usual => Err(Wrong(format!("{failure:?}, and without a limit {usual:?}"))),
    }
}

/// With so many kilobytes of address space more than there is now.
fn with_left<T>(left: u64, work: impl FnOnce() -> T) -> T {
    // What this thread's stack may grow by is no part of it, and neither is what the heap has free.
    touch_stack();
    #[cfg(target_env = "gnu")]
    // SAFETY: any thread may call it.
    unsafe {
        libc::malloc_trim(0);
    }
    let before = limit_to(size_now() + left * 1024);
    let done = work();
    limit_to(before);
    done
}

#[inline(never)]
fn touch_stack() {
    let room = [0_u8; MB];
    std::hint::black_box(&room);
}

/// Bytes of address space in use.
fn size_now() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = pages.split(' ').next().and_then(|n| n.parse::<u64>().ok());
    pages.expect("/proc/self/statm") * 4096
}

/// Sets the soft limit; gives the one before.
fn limit_to(bytes: u64) -> u64 {
    // SAFETY: complete values.
    unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        libc::getrlimit(libc::RLIMIT_AS, &mut limit);
        let before = limit.rlim_cur;
        limit.rlim_cur = bytes.min(limit.rlim_max);
        libc::setrlimit(libc::RLIMIT_AS, &limit);
        before
    }
}
