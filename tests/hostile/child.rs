//! One case, in a process of its own: `hostile --child VERDICT-FILE PROGRAM ARGS...`.

use std::panic;
use std::path::PathBuf;
use std::time::Duration;

use crate::abi::*;
use crate::common::{self, fixtures, Prompt};
use crate::verdict::*;
use crate::{sized, CLASSES, PROGRAMS};

/// Runs the case, writes its verdict and returns from main, as a host does.
pub fn main(args: &[String]) {
    let [file, program, args @ ..] = args else {
        panic!("--child FILE PROGRAM ARGS...")
    };
    let file = PathBuf::from(file);
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
