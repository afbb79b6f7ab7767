//! Row 35: threads as hosts have them: with little stack, with floating-point traps and other rounding, with a pending
//! pthread_cancel. Every function is called there, and what is deepest of what a library like this parses.

use std::arch::asm;
use std::ffi::c_void;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};

use crate::abi::*;
use crate::child::{ask, exactly, qwen, PROMPT, RIGHT};
use crate::common::{load, Failure, Prompt};
use crate::folder::Folder;
use crate::list::{run_list, run_one, Cases};
use crate::surface::{surface, Call, Function, World};
use crate::verdict::*;
use crate::{ensure, Class};

pub const CLASS: Class = Class {
    row: "35",
    name: "threads with small stacks, floating-point traps, a pending pthread_cancel",
    generators: &[|| run_list("guests", cases())],
    programs: &[("guests", |args| run_one(cases(), args))],
};

/// What the header promises to be enough.
const STACK: usize = 256 << 10;

fn cases() -> Cases {
    let mut cases: Cases = vec![];
    for function in &surface().functions {
        let name = &function.name;
        let mut add = |what: String, run: Box<dyn FnOnce() -> Outcome>| {
            cases.push((format!("{name}, {what}"), run));
        };
        add("256 KB of stack".into(), Box::new(|| small(function)));
        for (what, control) in CONTROLS {
            add((*what).into(), Box::new(|| floats(function, *control)));
        }
        for warm in [false, true] {
            let what = format!("a pending pthread_cancel, the engine runs: {warm}");
            add(what, Box::new(move || pending(function, warm)));
        }
    }
    for (what, folder) in DEEP {
        let run = || {
            let folder = folder();
            with_stack(|| deep(&folder))
        };
        cases.push((format!("256 KB of stack: {what}"), Box::new(run)));
    }
    for (what, control) in CONTROLS {
        let run = || with_control(*control, conversation).0;
        cases.push((format!("a request, {what}"), Box::new(run)));
        let run = || callbacks(*control);
        cases.push((format!("callbacks, {what}"), Box::new(run)));
    }
    cases
}

/// The deepest tests/hostile reaches with legal input is in other rows; these are the deepest that parsers may go.
type Deep = (&'static str, fn() -> Folder);

const DEEP: &[Deep] = &[
    ("a deep config.json", || {
        let folder = Folder::copy_of("qwen3-f32");
        nest(&folder, "config.json", 120);
        folder
    }),
    ("a deep tokenizer.json", || {
        let folder = Folder::copy_of("qwen3-f32");
        nest(&folder, "tokenizer.json", 120);
        folder
    }),
    ("a deep tokenizer_config.json", || {
        let folder = Folder::copy_of("qwen3-f32");
        nest(&folder, "tokenizer_config.json", 120);
        folder
    }),
    ("a deep template", || {
        let folder = Folder::copy_of("qwen3-f32");
        let text = format!(
            "{}x{}",
            "{% if true %}".repeat(90),
            "{% endif %}".repeat(90)
        );
        folder.write("chat_template.jinja", text);
        folder
    }),
    ("a deep expression", || {
        let folder = Folder::copy_of("qwen3-f32");
        let text = format!("{{{{ {}1{} }}}}", "(".repeat(90), ")".repeat(90));
        folder.write("chat_template.jinja", text);
        folder
    }),
    ("a deep pattern", || {
        pattern(&format!("{}a{}", "(?:".repeat(60), ")".repeat(60)))
    }),
    ("a deep pattern with captures", || {
        pattern(&format!("{}a{}", "(".repeat(60), ")".repeat(60)))
    }),
    ("a deep pattern with looking ahead", || {
        pattern(&format!("{}a{}", "(?=".repeat(40), ")".repeat(40)))
    }),
    ("a pattern of many repetitions", || {
        pattern(&format!("{}a{}", "(?:".repeat(40), "+)?".repeat(40)))
    }),
    ("a pattern of many choices", || {
        pattern(&vec!["ab"; 500].join("|"))
    }),
    ("a pattern of a large class", || {
        pattern(r"[\p{L}\p{N}&&[^\p{Lu}]]{1,50}")
    }),
    ("a pattern of 200 groups", || {
        pattern(&format!("{}a{}", "(?:".repeat(200), ")".repeat(200)))
    }),
    ("a pattern of 249 captures", || {
        pattern(&format!("{}a{}", "(".repeat(249), ")".repeat(249)))
    }),
    ("a pattern of 240 repetitions", || {
        pattern(&format!("{}a{}", "(?:".repeat(240), ")?".repeat(240)))
    }),
    ("a pattern of 5000 groups", || {
        pattern(&format!("{}a{}", "(".repeat(5000), ")".repeat(5000)))
    }),
    ("a pattern of 60 looks behind", || {
        pattern(&format!("{}a{}", "(?<=".repeat(60), ")".repeat(60)))
    }),
    ("pre-tokenizers in sequences, 20 deep", || {
        sequences("pre_tokenizer", "pretokenizers", 20)
    }),
    ("pre-tokenizers in sequences, 50 deep", || {
        sequences("pre_tokenizer", "pretokenizers", 50)
    }),
    ("normalizers in sequences, 20 deep", || {
        sequences("normalizer", "normalizers", 20)
    }),
    ("normalizers in sequences, 50 deep", || {
        sequences("normalizer", "normalizers", 50)
    }),
    ("decoders in sequences, 20 deep", || {
        sequences("decoder", "decoders", 20)
    }),
    ("decoders in sequences, 50 deep", || {
        sequences("decoder", "decoders", 50)
    }),
    ("a weight file's deep header", || {
        let folder = Folder::copy_of("qwen3-f32");
        folder.edit_header(|header, _| {
            let deep = format!("{}1{}", "[".repeat(120), "]".repeat(120));
            let deep: serde_json::Value = serde_json::from_str(&deep).unwrap();
            header.insert("__metadata__".into(), serde_json::json!({ "deep": deep }));
        });
        folder
    }),
];

fn nest(folder: &Folder, file: &str, depth: usize) {
    let text = String::from_utf8(folder.read(file)).unwrap();
    let deep = format!(
        "{{\"mlxrt_test\":{}1{},",
        "[{\"a\":".repeat(depth / 2),
        "}]".repeat(depth / 2)
    );
    folder.write(file, text.replacen('{', &deep, 1));
}

/// A sequence in a sequence in …, around what is there.
fn sequences(part: &str, list: &str, depth: usize) -> Folder {
    let folder = Folder::copy_of("qwen3-f32");
    folder.edit("tokenizer.json", |json| {
        let mut inner = json[part].clone();
        for _ in 0..depth {
            let of = if inner.is_null() { vec![] } else { vec![inner] };
            let mut outer = serde_json::json!({"type": "Sequence"});
            outer[list] = of.into();
            inner = outer;
        }
        json[part] = inner;
    });
    folder
}

fn pattern(regex: &str) -> Folder {
    let folder = Folder::copy_of("qwen3-f32");
    folder.edit("tokenizer.json", |json| {
        let old = json["pre_tokenizer"].clone();
        let split = serde_json::json!({
            "type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false
        });
        json["pre_tokenizer"] =
            serde_json::json!({"type": "Sequence", "pretokenizers": [split, old]});
    });
    folder
}

/// Loads it, and uses what of it is deep; legal or refused, but never out of stack.
fn deep(folder: &Folder) -> Outcome {
    let nested = format!("{}1{}", "[".repeat(100), "]".repeat(100));
    let messages = [
        r#"[{"role":"user","content":"Hi aaaa there"}]"#.to_owned(),
        format!(r#"[{{"role":"user","content":"Hi","more":{nested}}}]"#),
    ];
    let answers: Result<Vec<_>, Failure> = load(folder.path()).and_then(|model| {
        let session = model.session(0);
        let ask = |messages: &String| session.generate(Prompt::Messages(messages), 3, false);
        messages.iter().map(ask).collect()
    });
    fine_or_named(answers, CODES, &[])
}

/// Runs it on a thread with `STACK` bytes of stack; how many of them it used. The memory is new, so all zeros, and what was
/// ever written to is hardly zero at its end.
fn on_small_stack<T>(work: impl FnOnce() -> T) -> (T, usize) {
    struct Job<F, T>(Option<F>, Option<T>);
    extern "C" fn start<F: FnOnce() -> T, T>(job: *mut c_void) -> *mut c_void {
        // SAFETY: the job below, which outlives the thread.
        let job = unsafe { &mut *job.cast::<Job<F, T>>() };
        job.1 = job.0.take().map(|work| work());
        std::ptr::null_mut()
    }
    fn run<F: FnOnce() -> T, T>(work: F) -> (T, usize) {
        const GUARD: usize = 64 << 10;
        let mut job = Job(Some(work), None);
        // SAFETY: the stack is mapped, of a page's alignment, and unmapped after the thread has ended; its low end is
        // forbidden, so that one byte too many is a crash.
        unsafe {
            let (read_write, private) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE);
            let whole = GUARD + STACK;
            let low = libc::mmap(
                std::ptr::null_mut(),
                whole,
                read_write,
                private | libc::MAP_ANON,
                -1,
                0,
            );
            assert_ne!(low, libc::MAP_FAILED);
            assert_eq!(libc::mprotect(low, GUARD, libc::PROT_NONE), 0);
            let stack = low.cast::<u8>().add(GUARD);
            let mut attributes: libc::pthread_attr_t = std::mem::zeroed();
            assert_eq!(libc::pthread_attr_init(&mut attributes), 0);
            assert_eq!(
                libc::pthread_attr_setstack(&mut attributes, stack.cast(), STACK),
                0
            );
            let mut thread: libc::pthread_t = std::mem::zeroed();
            let data = (&raw mut job).cast();
            assert_eq!(
                libc::pthread_create(&mut thread, &attributes, start::<F, T>, data),
                0
            );
            assert_eq!(libc::pthread_join(thread, std::ptr::null_mut()), 0);
            let bytes = std::slice::from_raw_parts(stack, STACK);
            let untouched = bytes.iter().take_while(|&&byte| byte == 0).count();
            libc::munmap(low, whole);
            (job.1.unwrap(), STACK - untouched)
        }
    }
    run(work)
}

/// A quarter of the stack is left: the system's own libraries differ.
const MOST_USED: usize = 192 << 10;

fn with_stack(work: impl FnOnce() -> Outcome) -> Outcome {
    let (verdict, used) = on_small_stack(work);
    ensure!(used <= MOST_USED, "{used} bytes of stack are used");
    verdict
}

/// What it needs is made here: handles.
fn small(function: &'static Function) -> Outcome {
    let call = Call::good(function, &mut World::new());
    library();
    let verdict = with_stack(|| works(&call));
    go_on(function);
    verdict
}

/// Nothing is asked of a suspended library.
fn go_on(function: &Function) {
    if function.name == "mlxrt_suspend" {
        Call::good(crate::surface::function("mlxrt_resume"), &mut World::new())
            .run()
            .unwrap();
    }
}

/// Good arguments succeed, but for what nothing was suspended for or is still at work.
fn works(call: &Call) -> Outcome {
    match call.run() {
        Ok(_) => fine(),
        Err(failure) => named(
            &failure,
            &["INVALID_ARGUMENT", "NOT_FOUND", "TIMEOUT", "INVALID_HANDLE"],
            &[],
        ),
    }
}

/// Names, and what MXCSR and FPCR become.
type Control = (u32, u64);

const CONTROLS: &[(&str, Control)] = &[
    ("all floating-point traps", (0x0000, 0x9f00)),
    (
        "division by zero and invalid operations trap",
        (0x1d00, 0x0300),
    ),
    ("inexact results trap", (0x0f80, 0x1000)),
    ("rounding up", (0x5f80, 0x40_0000)),
    ("rounding down", (0x3f80, 0x80_0000)),
    ("rounding to zero", (0x7f80, 0xc0_0000)),
    ("small numbers are zero", (0x9fc0, 0x100_0000)),
];

#[cfg(target_arch = "x86_64")]
fn set_control((mxcsr, _): Control) {
    // SAFETY: a legal value of the register.
    unsafe { asm!("ldmxcsr [{}]", in(reg) &mxcsr, options(nostack)) }
}

#[cfg(target_arch = "x86_64")]
fn is_control((wanted, _): Control) -> bool {
    let mut mxcsr = 0_u32;
    // SAFETY: writes the register to a place of its size.
    unsafe { asm!("stmxcsr [{}]", in(reg) &mut mxcsr, options(nostack)) };
    (mxcsr ^ wanted) & !0x3f == 0
}

#[cfg(target_arch = "aarch64")]
fn set_control((_, fpcr): Control) {
    // SAFETY: a legal value of the register.
    unsafe { asm!("msr fpcr, {}", in(reg) fpcr) }
}

#[cfg(target_arch = "aarch64")]
fn is_control((_, wanted): Control) -> bool {
    let fpcr: u64;
    // SAFETY: reads the register.
    unsafe { asm!("mrs {}, fpcr", out(reg) fpcr) };
    // Processors need not have traps.
    (fpcr ^ wanted) & !0x9f00 == 0
}

const PLAIN: Control = (0x1f80, 0);

/// Runs it with that control; whether it is still the same afterwards.
fn with_control<T>(control: Control, work: impl FnOnce() -> T) -> (T, bool) {
    set_control(control);
    let done = work();
    let same = is_control(control);
    set_control(PLAIN);
    (done, same)
}

fn floats(function: &'static Function, control: Control) -> Outcome {
    let call = Call::good(function, &mut World::new());
    // Nothing of the case's own computes with it.
    let (returned, same) = with_control(control, || call.raw());
    go_on(function);
    ensure!(same, "the control is another one afterwards");
    if function.ret == "mlxrt_error *" {
        return match crate::common::outcome(returned as *mut mlxrt_error) {
            Ok(()) => fine(),
            Err(failure) => named(
                &failure,
                &["INVALID_ARGUMENT", "NOT_FOUND", "TIMEOUT", "INVALID_HANDLE"],
                &[],
            ),
        };
    }
    fine()
}

/// The engine is started, and MLX's threads with it, by a thread like that: tokens and template arithmetic are the same.
fn conversation() -> Outcome {
    let model = load(&qwen()).unwrap();
    let told = ask(
        model.session(0).0,
        &Prompt::Text(PROMPT),
        &exactly(8),
        |_| true,
    );
    ensure!(told.tokens == RIGHT, "{:?} {:?}", told.tokens, told.failure);
    fine()
}

/// A callback has the host's control, and may change it.
fn callbacks(control: Control) -> Outcome {
    static SAME: AtomicU32 = AtomicU32::new(0);
    let model = load(&qwen()).unwrap();
    let session = model.session(0);
    let (told, _) = with_control(control, || {
        ask(session.0, &Prompt::Text(PROMPT), &exactly(8), |_| {
            SAME.fetch_add(is_control(control).into(), Ordering::Relaxed);
            true
        })
    });
    ensure!(told.tokens == RIGHT, "{:?} {:?}", told.tokens, told.failure);
    ensure!(
        SAME.load(Ordering::Relaxed) as usize == told.events,
        "of {} callbacks {SAME:?} had it",
        told.events
    );
    fine()
}

extern "C" {
    fn pthread_cancel(thread: libc::pthread_t) -> i32;
    fn pthread_setcancelstate(state: i32, before: *mut i32) -> i32;
}

/// A cancel that is pending from before the call stays pending through it: files, waits and locks are cancellation points.
fn pending(function: &'static Function, warm: bool) -> Outcome {
    static BEFORE: AtomicI32 = AtomicI32::new(-1);
    let mut world = World::new();
    if warm {
        // The engine runs, and the files are in the system's cache.
        load(&qwen()).unwrap();
    }
    let call = Call::good(function, &mut world);
    library();
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: of this thread, which has not been cancelled yet; nothing before the call is a cancellation point.
            unsafe { pthread_cancel(libc::pthread_self()) };
            let returned = call.raw();
            let mut before = -1;
            // SAFETY: held off before the thread comes to a cancellation point of the case's own.
            unsafe { pthread_setcancelstate(1, &mut before) };
            BEFORE.store(before, Ordering::Relaxed);
            if function.ret == "mlxrt_error *" {
                let _ = crate::common::outcome(returned as *mut mlxrt_error);
            }
        });
        thread.join().unwrap();
    });
    go_on(function);
    let before = BEFORE.load(Ordering::Relaxed);
    ensure!(before == 0, "the thread's state is {before} afterwards");
    fine()
}
