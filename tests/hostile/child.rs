//! One case, in a process of its own: `hostile --child VERDICT-FILE PROGRAM ARGS...`.

use std::ffi::c_void;
use std::panic;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use crate::abi::*;
use crate::common::{self, fixtures, Failure, Prompt};
use crate::verdict::*;
use crate::{sized, CLASSES, PROGRAMS};

static FILE: OnceLock<PathBuf> = OnceLock::new();

/// Where the verdict goes: for a case that ends the process itself.
pub fn verdict_file() -> PathBuf {
    FILE.get().unwrap().clone()
}

/// Runs the case, writes its verdict and returns from main, as a host does.
pub fn main(args: &[String]) {
    let [file, program, args @ ..] = args else {
        panic!("--child FILE PROGRAM ARGS...")
    };
    let file = PathBuf::from(file);
    FILE.set(file.clone()).unwrap();
    // An assertion that fails is a wrong answer, and says so without printing. (Inside a callback the process could not
    // go on.)
    let for_panic = file.clone();
    panic::set_hook(Box::new(move |info| {
        Wrong(format!("the case failed: {info}").replace('\n', " ")).write(&for_panic);
        // SAFETY: ends the process, without anything of the library's that waits.
        unsafe { libc::_exit(0) }
    }));
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let found = CLASSES
        .iter()
        .flat_map(|class| class.programs)
        .chain(PROGRAMS)
        .find(|(name, _)| name == program);
    let (_, run) = found.unwrap_or_else(|| panic!("no program {program}"));
    let verdict = run(&args).unwrap_or_else(|verdict| verdict);
    verdict.write(&file);
}

/// Greedy tokens of a prompt that mlx-lm gives (tests/fixtures/generate.json).
pub const PROMPT: &str = "The answer is 1";
pub const RIGHT: [i32; 8] = [56, 42, 1, 24, 37, 15, 42, 67];

pub fn qwen() -> PathBuf {
    fixtures().join("models/qwen3-f32")
}

/// What every case ends with: a normal request gives the right tokens.
pub fn alive() -> Result<(), Verdict> {
    let answer = common::load(&qwen()).and_then(|model| {
        model
            .session(0)
            .generate(Prompt::Text(PROMPT), RIGHT.len() as u32, false)
    });
    match answer {
        Ok(answer) if answer.tokens == RIGHT => Ok(()),
        Ok(answer) => Err(Wrong(format!("afterwards, wrong tokens: {answer:?}"))),
        Err(failure) => Err(Wrong(format!("afterwards: {failure:?}"))),
    }
}

/// What a process holds that may leak.
#[derive(Debug, PartialEq)]
pub struct Holdings {
    active_bytes: u64,
    files: usize,
    threads: usize,
}

fn entries(folder: &str) -> usize {
    std::fs::read_dir(folder).map_or(0, Iterator::count)
}

pub fn active_bytes() -> u64 {
    let mut memory = sized!(mlxrt_memory);
    // SAFETY: a complete output struct.
    common::outcome(unsafe { mlxrt_memory_get(&mut memory) }).unwrap();
    memory.active_bytes
}

impl Holdings {
    /// Without the library: what any process can see of itself.
    pub fn of_process() -> Holdings {
        Holdings {
            active_bytes: 0,
            files: entries("/proc/self/fd"),
            threads: entries("/proc/self/task"),
        }
    }

    /// Where /proc does not say, files and threads are 0. A thread that ends takes a moment to vanish.
    pub fn now() -> Holdings {
        Holdings {
            active_bytes: active_bytes(),
            files: entries("/proc/self/fd"),
            threads: entries("/proc/self/task"),
        }
    }
}

/// Does it `times` more after the first few, and looks what it leaves behind.
pub fn leaks_nothing(times: usize, mut work: impl FnMut() -> Outcome) -> Outcome {
    let mut last = work()?;
    let before = Holdings::now();
    for _ in 0..times {
        last = work()?;
    }
    for _ in 0..50 {
        if Holdings::now() == before {
            return Ok(last);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let after = Holdings::now();
    Err(Leak(format!(
        "{before:?} became {after:?} in {times} times"
    )))
}

/// Exactly so many greedy tokens.
pub fn exactly(count: u32) -> mlxrt_generate_options {
    let mut options = sized!(mlxrt_generate_options);
    options.flags = MLXRT_GEN_GREEDY | MLXRT_GEN_IGNORE_EOS;
    options.max_tokens = count;
    options
}

/// What a request gave. It is filled on failure too.
pub struct Told {
    pub tokens: Vec<i32>,
    pub events: usize,
    pub result: mlxrt_result,
    pub failure: Option<Failure>,
}

/// Runs a request on the session. `at_event` gets the number of the event, from 1 on, and says whether to go on.
pub fn ask(
    session: *mut mlxrt_session,
    prompt: &Prompt,
    options: &mlxrt_generate_options,
    mut at_event: impl FnMut(usize) -> bool,
) -> Told {
    struct Seen<'a> {
        tokens: Vec<i32>,
        events: usize,
        at_event: &'a mut dyn FnMut(usize) -> bool,
    }
    unsafe extern "C" fn hear(user_data: *mut c_void, event: *const mlxrt_event) -> i32 {
        // SAFETY: user_data is the `seen` below; the event and its arrays live through this call.
        let (seen, event) = unsafe { (&mut *user_data.cast::<Seen>(), &*event) };
        if event.token_count > 0 {
            // SAFETY: as above.
            let tokens = unsafe { std::slice::from_raw_parts(event.tokens, event.token_count) };
            seen.tokens.extend_from_slice(tokens);
        }
        seen.events += 1;
        match (seen.at_event)(seen.events) {
            true => MLXRT_RETURN_CONTINUE,
            false => MLXRT_RETURN_STOP,
        }
    }
    let mut seen = Seen {
        tokens: vec![],
        events: 0,
        at_event: &mut at_event,
    };
    let (input, mut result) = (prompt.input(), sized!(mlxrt_result));
    let data = (&raw mut seen).cast();
    // SAFETY: all structs are complete and live through the call.
    let error = unsafe { mlxrt_generate(session, &input, options, Some(hear), data, &mut result) };
    Told {
        failure: common::outcome(error).err(),
        tokens: seen.tokens,
        events: seen.events,
        result,
    }
}

/// The session's ledger.
pub fn ledger(session: *mut mlxrt_session) -> Vec<i32> {
    let (mut ids, mut count) = (std::ptr::null_mut(), 0);
    // SAFETY: writable outputs; the ids are copied before they are freed.
    unsafe {
        common::outcome(mlxrt_session_tokens(session, &mut ids, &mut count)).unwrap();
        let tokens = match count {
            0 => vec![],
            _ => std::slice::from_raw_parts(ids, count).to_vec(),
        };
        mlxrt_free(ids.cast());
        tokens
    }
}

/// A pointer that another thread may use.
pub struct Shared<T>(pub *mut T);

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Shared<T> {}

// SAFETY: handles are ids, which any thread may use.
unsafe impl<T> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Shared<T> {}

impl<T> Shared<T> {
    pub fn get(self) -> *mut T {
        self.0
    }
}
