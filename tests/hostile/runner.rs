//! Starts each case as a child process under limits, and judges how it ended.

use std::cell::Cell;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use crate::verdict::{Fine, Leak, Named, Verdict, Wrong};
use crate::CLASSES;

/// What no case may pass, the time not counted in which its threads only waited for a processor.
pub const LONGEST: Duration = Duration::from_secs(10);
/// And with that time.
const LONGEST_ON_A_BUSY_MACHINE: Duration = Duration::from_secs(60);
/// Of address space (RLIMIT_AS; MLX on the CPU bears it).
pub const MOST_MEMORY: u64 = 2 << 30;

/// Where a child may leave files: they are removed with the run.
pub const SCRATCH: &str = "MLXRT_HOSTILE_SCRATCH";

/// How a case ended, as the table counts it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Counts {
    pub cases: usize,
    pub ok: usize,
    pub named: usize,
    pub crash: usize,
    pub hang: usize,
    pub leak: usize,
    pub wrong: usize,
    pub printed: usize,
}

impl Counts {
    pub fn bad(&self) -> usize {
        self.crash + self.hang + self.leak + self.wrong + self.printed
    }
}

pub struct Run {
    /// Only every so many-th case of a class.
    pub step: usize,
    pub counts: Vec<Mutex<Counts>>,
    /// What went wrong, to be printed at the end.
    pub bad: Mutex<Vec<String>>,
    /// The cases that took longest, by milliseconds.
    pub slow: Mutex<Vec<(u128, String)>>,
    seen: Vec<AtomicUsize>,
    scratch: PathBuf,
    /// For looking into one case.
    only: Option<String>,
}

pub static RUN: OnceLock<Run> = OnceLock::new();

thread_local! {
    /// The class whose generator this thread runs.
    static CLASS: Cell<usize> = const { Cell::new(0) };
}

impl Run {
    pub fn new(step: usize, only: Option<String>) -> Run {
        let scratch =
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("hostile-{}", std::process::id()));
        fs::create_dir_all(&scratch).unwrap();
        Run {
            step,
            counts: CLASSES.iter().map(|_| Mutex::default()).collect(),
            bad: Mutex::default(),
            slow: Mutex::default(),
            seen: CLASSES.iter().map(|_| AtomicUsize::new(0)).collect(),
            scratch,
            only,
        }
    }

    pub fn clean(&self) {
        let _ = fs::remove_dir_all(&self.scratch);
    }
}

/// All cases that follow on this thread are of this class.
pub fn enter(class: usize) {
    CLASS.set(class);
}

/// A case: a name, and the program and arguments of the child.
pub struct Case<'a> {
    pub what: &'a str,
    pub args: &'a [&'a str],
    pub env: &'a [(&'a str, &'a str)],
    /// Seconds on the processor and bytes of resident memory, where less than everybody's is allowed.
    pub tight: Option<(f64, u64)>,
}

/// Runs a case of this thread's class and counts it. None when this run leaves it out.
pub fn case(what: &str, args: &[&str]) -> Option<Verdict> {
    case_with(&Case {
        what,
        args,
        env: &[],
        tight: None,
    })
}

pub fn case_with(case: &Case) -> Option<Verdict> {
    let run = RUN.get().expect("the run has begun");
    let class = CLASS.get();
    let number = run.seen[class].fetch_add(1, Ordering::Relaxed);
    let wanted = match &run.only {
        Some(only) => case.what.contains(only.as_str()),
        None => number.is_multiple_of(run.step),
    };
    if !wanted {
        return None;
    }
    let began = Instant::now();
    let mut end = start(run, case);
    if matches!(end, End::Hang) {
        // A busy machine is no hang: it counts when it happens twice.
        end = start(run, case);
    }
    let took = began.elapsed().as_millis();
    if took > 3_000 {
        let mut slow = run.slow.lock().unwrap();
        slow.push((took, format!("{}: {}", CLASSES[class].row, case.what)));
    }
    let mut counts = run.counts[class].lock().unwrap();
    counts.cases += 1;
    let bad = match &end {
        End::Said(Fine(_)) => {
            counts.ok += 1;
            None
        }
        End::Said(Named(_)) => {
            counts.named += 1;
            None
        }
        End::Said(Wrong(why)) => {
            counts.wrong += 1;
            Some(format!("wrong: {why}"))
        }
        End::Said(Leak(why)) => {
            counts.leak += 1;
            Some(format!("leak: {why}"))
        }
        End::Crash(why) => {
            counts.crash += 1;
            Some(format!("crash: {why}"))
        }
        End::Hang => {
            counts.hang += 1;
            Some(format!("hang: not done after {LONGEST:?}"))
        }
        End::Printed(text) => {
            counts.printed += 1;
            Some(format!("printed: {text:?}"))
        }
    };
    drop(counts);
    if let Some(why) = bad {
        let line = format!(
            "{} {}: {}: {why}",
            CLASSES[class].row, CLASSES[class].name, case.what
        );
        run.bad.lock().unwrap().push(line);
    }
    match end {
        End::Said(verdict) => Some(verdict),
        _ => Some(Wrong(String::new())),
    }
}

/// As what a case would be counted, without counting it.
pub fn judged(case: &Case) -> &'static str {
    match start(RUN.get().expect("the run has begun"), case) {
        End::Said(Fine(_)) => "ok",
        End::Said(Named(_)) => "named",
        End::Said(Wrong(_)) => "wrong",
        End::Said(Leak(_)) => "leak",
        End::Crash(_) => "crash",
        End::Hang => "hang",
        End::Printed(_) => "printed",
    }
}

/// A child that is no case: to count the calls that a sweep fails one after the other.
pub fn probe(args: &[&str], env: &[(&str, &str)]) -> usize {
    let run = RUN.get().expect("the run has begun");
    let case = Case {
        what: "probe",
        args,
        env,
        tight: None,
    };
    match start(run, &case) {
        End::Said(Fine(count)) => count.parse().expect("a count"),
        other => panic!("{args:?}: {other:?}"),
    }
}

#[derive(Debug)]
enum End {
    Said(Verdict),
    Crash(String),
    Hang,
    Printed(String),
}

fn start(run: &Run, case: &Case) -> End {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let verdict = run.scratch.join(format!("{number}.verdict"));
    let output = run.scratch.join(format!("{number}.output"));
    let printed = File::create(&output).unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .arg("--child")
        .arg(&verdict)
        .args(case.args)
        .env(SCRATCH, &run.scratch)
        .envs(case.env.iter().copied())
        .stdin(Stdio::null())
        .stdout(printed.try_clone().unwrap())
        .stderr(printed);
    // SAFETY: only setrlimit is called between fork and exec.
    unsafe {
        command.pre_exec(|| {
            limit(libc::RLIMIT_AS, MOST_MEMORY);
            limit(libc::RLIMIT_CORE, 0);
            Ok(())
        })
    };
    #[allow(
        clippy::zombie_processes,
        reason = "`wait` waits for it, with its usage"
    )]
    let child = command.spawn().expect("this program starts again");
    let end = wait(child.id() as libc::pid_t, case);
    let said = Verdict::read(&verdict);
    let text = fs::read(&output).unwrap_or_default();
    let _ = fs::remove_file(&verdict);
    let _ = fs::remove_file(&output);
    let text = String::from_utf8_lossy(&text[..text.len().min(300)]).into_owned();
    match (end, said) {
        (Some(end), _) => match end {
            End::Crash(why) if !text.is_empty() => End::Crash(format!("{why}, printed {text:?}")),
            end => end,
        },
        (None, None) => End::Crash(format!("it ended without a verdict, printed {text:?}")),
        (None, Some(_)) if !text.is_empty() => End::Printed(text),
        (None, Some(verdict)) => End::Said(verdict),
    }
}

fn limit(what: libc::__rlimit_resource_t, most: u64) {
    let limit = libc::rlimit {
        rlim_cur: most,
        rlim_max: most,
    };
    // SAFETY: a complete rlimit.
    unsafe { libc::setrlimit(what, &limit) };
}

/// None for an ordinary exit.
fn wait(pid: libc::pid_t, case: &Case) -> Option<End> {
    let began = Instant::now();
    let mut pause = Duration::from_micros(500);
    loop {
        let mut status = 0;
        // SAFETY: the child is ours and not waited for elsewhere; both outputs are writable.
        let (ended, usage) = unsafe {
            let mut usage: libc::rusage = std::mem::zeroed();
            (
                libc::wait4(pid, &mut status, libc::WNOHANG, &mut usage),
                usage,
            )
        };
        if ended == pid {
            return judge(status, &usage, case);
        }
        let took = began.elapsed();
        if took > LONGEST_ON_A_BUSY_MACHINE || took > LONGEST && took > LONGEST + waited(pid) {
            // SAFETY: the child is ours and not yet waited for.
            unsafe {
                libc::kill(pid, libc::SIGKILL);
                libc::waitpid(pid, &mut status, 0);
            }
            return Some(End::Hang);
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(5));
    }
}

/// How long the threads that a process has were ready to run and did not, all together.
fn waited(pid: libc::pid_t) -> Duration {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return Duration::ZERO;
    };
    // "ran waited slices", in nanoseconds.
    let of_one = |thread: fs::DirEntry| -> Option<u64> {
        let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split_whitespace().nth(1)?.parse().ok()
    };
    let all = threads.flatten().filter_map(of_one);
    Duration::from_nanos(all.fold(0, u64::saturating_add))
}

fn judge(status: i32, usage: &libc::rusage, case: &Case) -> Option<End> {
    if libc::WIFSIGNALED(status) {
        return Some(End::Crash(format!("signal {}", libc::WTERMSIG(status))));
    }
    if libc::WEXITSTATUS(status) != 0 {
        return Some(End::Crash(format!(
            "exit code {}",
            libc::WEXITSTATUS(status)
        )));
    }
    let (most_seconds, most_bytes) = case.tight?;
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    let used = seconds(usage.ru_utime) + seconds(usage.ru_stime);
    let bytes = usage.ru_maxrss as u64 * 1024;
    (used > most_seconds || bytes > most_bytes)
        .then(|| End::Said(Wrong(format!("it took {used:.2} s and {} MB", bytes >> 20))))
}
