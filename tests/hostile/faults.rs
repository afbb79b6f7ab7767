//! faults.cpp, as cases use it: compiled when the run begins, loaded into children with LD_PRELOAD.

use std::ffi::{c_char, c_int, c_long, c_void, CString};
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::abi::library_path;
use crate::runner::{case_with, probe, Case};
use crate::verdict::Verdict;

/// What fails.
#[derive(Clone, Copy)]
pub enum Kind {
    Files = 0,
    Allocations = 1,
    Mlx = 2,
    /// Allocations of the library's own.
    Own = 3,
}

/// The compiled file; None where it cannot be made, with a word about it.
fn preload() -> Option<&'static Path> {
    static BUILT: OnceLock<Option<PathBuf>> = OnceLock::new();
    let built = BUILT.get_or_init(|| {
        if cfg!(not(all(target_os = "linux", target_arch = "x86_64"))) {
            println!("skipped: injected faults need Linux on x86-64");
            return None;
        }
        Some(build().unwrap_or_else(|why| panic!("faults.cpp: {why}")))
    });
    built.as_deref()
}

fn build() -> Result<PathBuf, String> {
    let folder =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("hostile-{}", std::process::id()));
    let nm = Command::new("nm")
        .args(["-D", "--undefined-only"])
        .arg(library_path())
        .output()
        .map_err(|e| format!("nm: {e}"))?;
    let mut functions = String::new();
    let names = String::from_utf8_lossy(&nm.stdout).into_owned();
    let names = names.split_whitespace().filter(|name| fails(name));
    for (number, name) in names.enumerate() {
        writeln!(functions, "MLX_FUNCTION({number}, \"{name}\")").unwrap();
    }
    fs::write(folder.join("mlx_functions.inc"), functions).map_err(|e| e.to_string())?;
    let out = folder.join("faults.so");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/hostile/faults.cpp");
    let compiler = std::env::var("CXX").unwrap_or("c++".into());
    let run = Command::new(compiler)
        .args(["-std=c++17", "-O2", "-fPIC", "-shared", "-I"])
        .arg(&folder)
        .arg(source)
        .arg("-o")
        .arg(&out)
        .args(["-ldl"])
        .output()
        .map_err(|e| format!("the C++ compiler: {e}"))?;
    match run.status.success() {
        true => Ok(out),
        false => Err(String::from_utf8_lossy(&run.stderr).into_owned()),
    }
}

/// A function of MLX's that may throw. Destructors may not, and what frees is not asked.
fn fails(name: &str) -> bool {
    let mlx = name.starts_with("_ZN3mlx4core") || name.starts_with("_ZNK3mlx4core");
    let destroys = ["D0Ev", "D1Ev", "D2Ev"]
        .iter()
        .any(|end| name.ends_with(end));
    // Part of every array's destruction; it only hands out the one allocator.
    let allocator = name == "_ZN3mlx4core9allocator9allocatorEv";
    mlx && !destroys && !allocator
}

/// A case under the preloaded faults.
pub fn faulty(what: &str, args: &[&str]) -> Option<Verdict> {
    let preload = preload()?.to_str().unwrap();
    case_with(&Case {
        what,
        args,
        env: &[("LD_PRELOAD", preload)],
        tight: None,
    })
}

/// How many calls there are to fail; 0 where nothing can be preloaded.
pub fn count(args: &[&str]) -> usize {
    let Some(preload) = preload() else {
        return 0;
    };
    probe(args, &[("LD_PRELOAD", preload.to_str().unwrap())])
}

fn preloaded(name: &str) -> *mut c_void {
    let name = CString::new(name).unwrap();
    // SAFETY: a NUL-terminated name.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    assert!(!found.is_null(), "{name:?} is not preloaded");
    found
}

/// In the child: see hostile_arm in faults.cpp.
pub fn arm(kind: Kind, at: usize, lasting: bool, error: i64, folder: Option<&Path>) {
    type Arm = unsafe extern "C" fn(c_int, c_long, c_int, c_long, *const c_char);
    // It keeps the pointer.
    let folder = folder.map_or(std::ptr::null(), |folder| {
        crate::common::c_path(folder).into_raw().cast_const()
    });
    // SAFETY: the function has this type; the folder's name is leaked.
    unsafe {
        let arm: Arm = std::mem::transmute(preloaded("hostile_arm"));
        arm(kind as c_int, at as c_long, lasting.into(), error, folder);
    }
}

/// Ends it; gives how many calls there were.
pub fn disarm(kind: Kind) -> usize {
    type Disarm = unsafe extern "C" fn(c_int) -> c_long;
    // SAFETY: the function has this type.
    unsafe {
        let disarm: Disarm = std::mem::transmute(preloaded("hostile_disarm"));
        disarm(kind as c_int) as usize
    }
}
