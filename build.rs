//! Compiles the C++ shim of `src/mlx` and sets how the shared library is linked.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=src/mlx/shim.cpp");
    println!("cargo:rerun-if-changed=src/mlx/custom.cpp");
    println!("cargo:rerun-if-changed=src/mlx/shim.h");
    let macos = env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "macos");
    let include = env::var_os(if macos {
        "DEP_MLX_INCLUDE"
    } else {
        "DEP_MLX_LINUX_INCLUDE"
    })
    .expect("the mlx-sys crates publish their include folders");

    let mut shim = cc::Build::new();
    shim.cpp(true)
        .std("c++20")
        .pic(true)
        .flag_if_supported("-fvisibility=hidden");
    for folder in env::split_paths(&include) {
        // Nothing of this machine is to be in what it builds; scripts/rustc.sh does the same for Rust.
        shim.flag_if_supported(format!("-ffile-prefix-map={}=/mlx", folder.display()));
        // As system headers: their warnings are not ours.
        shim.flag("-isystem").flag(folder);
    }
    if let Ok(root) = env::var("CARGO_MANIFEST_DIR") {
        shim.flag_if_supported(format!("-ffile-prefix-map={root}=/mlxrt"));
    }
    shim.file("src/mlx/shim.cpp");
    if !macos {
        // There the GPU computes, and MLX's own operations are fast.
        shim.file("src/mlx/custom.cpp");
    }
    shim.compile("mlxrt_shim");

    if macos {
        println!("cargo:rustc-cdylib-link-arg=-Wl,-install_name,@rpath/libmlxrt.dylib");
        return;
    }
    // A sanitizer's runtime is in the program, so that the library alone has names that nothing defines.
    if env::var_os("CARGO_CFG_SANITIZE").is_none() {
        println!("cargo:rustc-cdylib-link-arg=-Wl,-z,defs");
    }
    for arg in [
        "-Wl,-soname,libmlxrt.so.1",
        // Thread-locals and MLX's own threads outlive a dlclose: never unmap.
        "-Wl,-z,nodelete",
        // libmlx.so and its BLAS lie beside the library. RPATH, not RUNPATH: it also serves libmlx.so's own needs.
        "-Wl,--disable-new-dtags",
        "-Wl,--exclude-libs,ALL",
    ] {
        println!("cargo:rustc-cdylib-link-arg={arg}");
    }
    // What a sanitizer instruments is defined in the program.
    let sanitized = ["CARGO_CFG_FUZZING", "CARGO_CFG_SANITIZE"];
    if !sanitized.iter().any(|name| env::var_os(name).is_some()) {
        println!("cargo:rustc-cdylib-link-arg=-Wl,-z,defs");
    }
    let rpath = env::var("DEP_MLX_LINUX_RPATH").unwrap_or_else(|_| "$ORIGIN".into());
    println!("cargo:rustc-cdylib-link-arg=-Wl,-rpath,{rpath}");
    place_beside(&env::var_os("DEP_MLX_LINUX_LIBS").unwrap_or_default());
}

/// Puts libmlx.so and its BLAS beside the library that cargo writes, so that it runs from there; none when MLX is used
/// where it lies.
fn place_beside(libs: &std::ffi::OsStr) {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    // OUT_DIR is <target>/<profile>/build/mlxrt-<hash>/out.
    let Some(profile) = out.ancestors().nth(3) else {
        return;
    };
    if libs.is_empty() {
        let _ = fs::remove_file(profile.join("libmlx.so"));
    }
    for lib in env::split_paths(libs).filter(|lib| lib.is_file()) {
        let Some(name) = lib.file_name() else {
            continue;
        };
        let to = profile.join(name);
        if !same_length(&lib, &to) {
            let _ = fs::remove_file(&to);
            copy(&lib, &to).unwrap_or_else(|error| panic!("{}: {error}", to.display()));
        }
        println!("cargo:rerun-if-changed={}", to.display());
    }
    // Programs ask for the library by its SONAME.
    let soname = profile.join("libmlxrt.so.1");
    if fs::symlink_metadata(&soname).is_err() {
        let _ = std::os::unix::fs::symlink("libmlxrt.so", soname);
    }
}

/// With the time of the original: a file that is newer than this run would make cargo run it, and build all, again.
fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::copy(from, to)?;
    let time = fs::metadata(from)?.modified()?;
    fs::File::options().write(true).open(to)?.set_modified(time)
}

fn same_length(a: &Path, b: &Path) -> bool {
    matches!((fs::metadata(a), fs::metadata(b)), (Ok(a), Ok(b)) if a.len() == b.len())
}
