//! The build script that `check-apple.sh` gives to its copy of the pinned `mlx-sys`: the crate's own bindings, no CMake.

use std::env;
use std::path::{Path, PathBuf};

#[allow(dead_code)]
#[path = "src/bindgen_config.rs"]
mod bindgen_config;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=LIBCLANG_PATH");
    println!("cargo:rerun-if-env-changed=BINDGEN_EXTRA_CLANG_ARGS");
    let mlx_c = Path::new("src/mlx-c");
    let headers = bindgen_config::discover_headers(mlx_c).expect("mlx-sys holds mlx-c's headers");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    bindgen_config::builder(mlx_c, &headers)
        // Not what the C library of this machine declares besides.
        .allowlist_item("_?mlx_.*|MLX_.*")
        .generate()
        .expect("bindgen reads mlx-c's headers")
        .write_to_file(out.join("bindings.rs"))
        .expect("OUT_DIR can be written");
    // Dependents read this as DEP_MLX_INCLUDE.
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    println!("cargo:include={}", manifest.join(mlx_c).display());
}
