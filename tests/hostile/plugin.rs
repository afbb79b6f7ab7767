//! Row 22: the library as a plugin: opened and closed again and again, twice in one process, beside the host's own MLX.

use std::ffi::{c_void, CStr};
use std::fs;
use std::path::{Path, PathBuf};

use crate::abi::{self, library_path, symbol};
use crate::child::Holdings;
use crate::common::c_path;
use crate::list::{run_list, Cases};
use crate::verdict::*;
use crate::{ensure, Class};

pub const CLASS: Class = Class {
    row: "22",
    name: "plugin: dlopen, dlclose, two copies",
    generators: &[|| run_list("plugin", cases())],
    // Without the usual request behind it: the process has its library open then.
    programs: &[("plugin", |args| {
        let number: usize = args[0].parse().expect("a number");
        cases().into_iter().nth(number).expect("a case").1()
    })],
};

fn cases() -> Cases {
    let mut cases: Cases = vec![];
    let mut add = |what: &str, run: fn() -> Outcome| cases.push((what.to_owned(), Box::new(run)));
    add("opened and closed 100 times", || again_and_again(100, 0));
    add("opened, used and closed 30 times", || {
        again_and_again(30, 1)
    });
    add("opened lazily", || {
        open_with(libc::RTLD_LAZY | libc::RTLD_LOCAL)
    });
    add("opened globally", || {
        open_with(libc::RTLD_NOW | libc::RTLD_GLOBAL)
    });
    add("opened deep", || {
        open_with(libc::RTLD_NOW | libc::RTLD_LOCAL | deep_bind())
    });
    add("closed with everything open", closed_with_everything_open);
    add(
        "a thread that ends after the close",
        thread_ends_after_the_close,
    );
    add("two copies in turn", || two_copies(false));
    add("two copies at once", || two_copies(true));
    add("the host's own MLX first", own_mlx_first);
    add("opened by many threads at once", opened_by_many_threads);
    add("still mapped after the close", still_mapped);
    cases
}

#[cfg(target_os = "linux")]
fn deep_bind() -> i32 {
    libc::RTLD_DEEPBIND
}

#[cfg(not(target_os = "linux"))]
fn deep_bind() -> i32 {
    0
}

fn open(path: &Path, mode: i32) -> Result<*mut c_void, Verdict> {
    let path = c_path(path);
    // SAFETY: a NUL-terminated path.
    let library = unsafe { libc::dlopen(path.as_ptr(), mode) };
    if library.is_null() {
        // SAFETY: dlopen just failed on this thread.
        let why = unsafe { CStr::from_ptr(libc::dlerror()) };
        return Err(Wrong(format!("dlopen: {why:?}")));
    }
    Ok(library)
}

fn close(library: *mut c_void) -> Result<(), Verdict> {
    // SAFETY: a handle of dlopen's, closed once.
    ensure!(unsafe { libc::dlclose(library) } == 0, "dlclose failed");
    Ok(())
}

/// Loads a model and generates through a library that was found by hand; with `end` shuts it down too.
fn use_it(library: *mut c_void, end: bool) -> Result<(), Verdict> {
    type Any = unsafe extern "C" fn(u64, u64, u64, u64, u64, u64) -> u64;
    let call = |name: &str, args: &[u64]| {
        let at = symbol(library, name);
        assert!(!at.is_null(), "{name} is not exported");
        let mut a = [0; 6];
        a[..args.len()].copy_from_slice(args);
        // SAFETY: all arguments are integers and pointers, passed in registers; `surface.rs` does the same.
        unsafe { std::mem::transmute::<*mut c_void, Any>(at)(a[0], a[1], a[2], a[3], a[4], a[5]) }
    };
    let check = |what: &str, error: u64| {
        let code = call("mlxrt_error_code", &[error]);
        call("mlxrt_error_free", &[error]);
        match code {
            0 => Ok(()),
            code => Err(Wrong(format!("{what}: code {code}"))),
        }
    };
    let path = c_path(&crate::child::qwen());
    let (mut model, mut session) = (0_u64, 0_u64);
    check(
        "load",
        call(
            "mlxrt_model_load",
            &[path.as_ptr() as u64, 0, &raw mut model as u64],
        ),
    )?;
    check(
        "session",
        call("mlxrt_session_create", &[model, 0, &raw mut session as u64]),
    )?;
    let input = crate::common::Prompt::Text("Hello").input();
    let options = crate::child::exactly(4);
    let args = [
        session,
        &raw const input as u64,
        &raw const options as u64,
        0,
        0,
        0,
    ];
    check("generate", call("mlxrt_generate", &args))?;
    if end {
        call("mlxrt_session_free", &[session]);
        call("mlxrt_model_free", &[model]);
        check("shutdown", call("mlxrt_shutdown", &[1, u32::MAX as u64]))?;
    }
    Ok(())
}

fn again_and_again(times: usize, uses: usize) -> Outcome {
    let once = || {
        let library = open(&library_path(), libc::RTLD_NOW | libc::RTLD_LOCAL)?;
        (0..uses).try_for_each(|_| use_it(library, true))?;
        close(library)
    };
    once()?;
    once()?;
    let before = Holdings::of_process();
    for _ in 0..times {
        once()?;
    }
    let after = Holdings::of_process();
    if before != after {
        return Err(Leak(format!("{before:?} became {after:?}")));
    }
    fine()
}

fn open_with(mode: i32) -> Outcome {
    let library = open(&library_path(), mode)?;
    use_it(library, true)?;
    close(library)?;
    fine()
}

/// The process goes on, and ends, with an engine whose library is closed.
fn closed_with_everything_open() -> Outcome {
    let library = open(&library_path(), libc::RTLD_NOW | libc::RTLD_LOCAL)?;
    use_it(library, false)?;
    close(library)?;
    std::thread::sleep(std::time::Duration::from_millis(50));
    fine()
}

/// Thread-locals of the library end with the thread, when the library is long closed.
fn thread_ends_after_the_close() -> Outcome {
    let (used, closed) = (std::sync::Barrier::new(2), std::sync::Barrier::new(2));
    std::thread::scope(|scope| {
        let library = open(&library_path(), libc::RTLD_NOW | libc::RTLD_LOCAL)?;
        let handle = crate::child::Shared(library);
        let (used, closed) = (&used, &closed);
        let thread = scope.spawn(move || {
            let result = use_it(handle.get(), true);
            used.wait();
            closed.wait();
            result
        });
        used.wait();
        close(library)?;
        closed.wait();
        thread.join().unwrap()
    })?;
    fine()
}

/// Another file with the same content, beside the first, where it finds libmlx too.
fn copy() -> PathBuf {
    let path = library_path();
    let name = format!("libmlxrt-copy-{}.so", std::process::id());
    let copy = path.with_file_name(name);
    fs::copy(path, &copy).unwrap();
    copy
}

fn two_copies(at_once: bool) -> Outcome {
    let second = copy();
    let run = || {
        let libraries = [
            open(&library_path(), libc::RTLD_NOW | libc::RTLD_LOCAL)?,
            open(&second, libc::RTLD_NOW | libc::RTLD_LOCAL)?,
        ];
        ensure!(libraries[0] != libraries[1], "it is the same library");
        if at_once {
            let threads = libraries.map(crate::child::Shared).map(|library| {
                std::thread::spawn(move || (0..5).try_for_each(|_| use_it(library.get(), true)))
            });
            for thread in threads {
                thread.join().unwrap()?;
            }
        } else {
            for _ in 0..3 {
                use_it(libraries[0], true)?;
                use_it(libraries[1], true)?;
            }
        }
        libraries.into_iter().try_for_each(close)?;
        fine()
    };
    let verdict = run();
    let _ = fs::remove_file(second);
    verdict
}

fn own_mlx_first() -> Outcome {
    let own = library_path().with_file_name("libmlx.so");
    if !own.exists() {
        // Then MLX is used where it lies, and found by the library only.
        return open_with(libc::RTLD_NOW);
    }
    // What MLX needs lies beside it, and needs each other.
    let folder = own.parent().unwrap();
    for _ in 0..6 {
        for file in fs::read_dir(folder).unwrap().flatten() {
            let name = file.file_name().to_string_lossy().into_owned();
            if name.contains(".so") && !name.contains("libmlx") {
                let _ = open(&file.path(), libc::RTLD_NOW | libc::RTLD_GLOBAL);
            }
        }
    }
    let mlx = open(&own, libc::RTLD_NOW | libc::RTLD_GLOBAL)?;
    let library = open(&library_path(), libc::RTLD_NOW | libc::RTLD_LOCAL)?;
    use_it(library, true)?;
    close(library)?;
    close(mlx)?;
    fine()
}

fn opened_by_many_threads() -> Outcome {
    let threads: Vec<_> = (0..8)
        .map(|_| {
            std::thread::spawn(|| {
                for _ in 0..5 {
                    let library = open(&library_path(), libc::RTLD_NOW | libc::RTLD_LOCAL)?;
                    use_it(library, false)?;
                    close(library)?;
                }
                Ok(())
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap()?;
    }
    fine()
}

/// -z nodelete: code that threads may still run stays.
fn still_mapped() -> Outcome {
    let library = open(&library_path(), libc::RTLD_NOW | libc::RTLD_LOCAL)?;
    let version = symbol(library, "mlxrt_abi_version");
    close(library)?;
    // SAFETY: the function has this type, and its library is never unmapped: that is what is tested.
    let version = unsafe { std::mem::transmute::<*mut c_void, extern "C" fn() -> u32>(version)() };
    ensure!(version == abi::MLXRT_ABI, "version {version}");
    fine()
}
