//! Where the linker finds libmlxrt, and where the finished program will: in `../lib` beside its own folder.

use std::env;
use std::path::{Path, PathBuf};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=MLXRT_PREFIX");
    let macos = env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "macos");
    let file = if macos {
        "libmlxrt.dylib"
    } else {
        "libmlxrt.so"
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let folders: Vec<PathBuf> = match env::var_os("MLXRT_PREFIX") {
        Some(prefix) => vec![PathBuf::from(prefix).join("lib")],
        // What `make ship` writes, whose names have versions; else what cargo does.
        None => vec![root.join("build/lib"), root.join("target/release")],
    };
    match folders.iter().find(|folder| folder.join(file).exists()) {
        Some(folder) => println!("cargo:rustc-link-search=native={}", folder.display()),
        None => println!(
            "cargo:warning={file} is not in {}; run `make ship` first, or set MLXRT_PREFIX to where mlxrt is installed",
            folders[0].display()
        ),
    }
    println!("cargo:rustc-link-lib=dylib=mlxrt");
    let origin = if macos { "@executable_path" } else { "$ORIGIN" };
    println!("cargo:rustc-link-arg-bins=-Wl,-rpath,{origin}/../lib");
    if !macos {
        // The library brings its own libraries with it; the linker need not look for them.
        println!("cargo:rustc-link-arg-bins=-Wl,--allow-shlib-undefined");
    }
}
