//! `src/ffi.rs` is what bindgen makes of `include/mlxrt.h`. `make cli-bindings` writes it; this test fails when the two
//! differ.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use bindgen::callbacks::{IntKind, ParseCallbacks};

/// Constants that go into fields and results of type int32_t; the others are flags and limits of type uint32_t.
const SIGNED: [&str; 15] = [
    "OK",
    "E_",
    "DEVICE_",
    "LOG_",
    "RETURN_",
    "EVENT_",
    "STOPPED_",
    "NEXT_",
    "DTYPE_",
    "LORA",
    "DORA",
    "OPTIMIZER_",
    "SCHEDULE_",
    "POOLING_",
    "GRAMMAR_",
];

#[derive(Debug)]
struct Kinds;

impl ParseCallbacks for Kinds {
    fn int_macro(&self, name: &str, _value: i64) -> Option<IntKind> {
        let name = name.strip_prefix("MLXRT_")?;
        let signed = SIGNED.iter().any(|prefix| name.starts_with(prefix));
        Some(if signed { IntKind::I32 } else { IntKind::U32 })
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The libclang that the build of mlx-sys-linux fetched, or the same one by pip, as that build does it.
fn find_libclang() {
    if env::var_os("LIBCLANG_PATH").is_some() || cfg!(target_os = "macos") {
        return;
    }
    let inside = "libclang-18.1.1.data/platlib/clang/native";
    for profile in ["release", "debug"] {
        let builds = root().join("target").join(profile).join("build");
        for build in fs::read_dir(builds).into_iter().flatten().flatten() {
            let found = build.path().join("out/libclang").join(inside);
            if found.join("libclang.so").is_file() {
                env::set_var("LIBCLANG_PATH", found);
                return;
            }
        }
    }
    let into = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("libclang");
    if !into.join(inside).is_dir() {
        let wanted = root().join("mlx-sys-linux/libclang.txt");
        let pip = "set -e; python3 -m pip download --quiet --no-deps --only-binary=:all: --require-hashes -r \"$1\" \
                   --platform \"manylinux2014_$(uname -m)\" --dest \"$2\"; python3 -m zipfile -e \"$2\"/*.whl \"$2\"";
        let status = Command::new("sh")
            .args(["-c", pip, "sh"])
            .arg(wanted)
            .arg(&into)
            .status();
        assert!(
            status.is_ok_and(|status| status.success()),
            "no libclang: install pip, or set LIBCLANG_PATH"
        );
    }
    env::set_var("LIBCLANG_PATH", into.join(inside));
}

fn generate() -> String {
    find_libclang();
    let mut builder = bindgen::Builder::default()
        .header(root().join("include/mlxrt.h").to_string_lossy())
        .allowlist_item("(mlxrt|MLXRT)_.*")
        // The table of functions is for programs that load the library while they run.
        .blocklist_item("mlxrt_api|mlxrt_get_api")
        .blocklist_item("MLXRT_(NONNULL|NULLABLE|MUST_USE)")
        .parse_callbacks(Box::new(Kinds))
        .derive_debug(false)
        .derive_default(true)
        .default_macro_constant_type(bindgen::MacroTypeVariation::Unsigned)
        .generate_comments(false)
        .disable_header_comment()
        .raw_line("//! The C ABI, as bindgen reads `include/mlxrt.h`: `make cli-bindings` writes this file.")
        .raw_line("#![allow(dead_code, non_camel_case_types)]")
        .rust_edition(bindgen::RustEdition::Edition2021);
    // The libclang wheel brings no built-in headers; gcc's serve as well.
    if let Ok(found) = Command::new("gcc").arg("-print-file-name=include").output() {
        let folder = String::from_utf8_lossy(&found.stdout).trim().to_owned();
        builder = builder.clang_arg(format!("-I{folder}"));
    }
    builder
        .generate()
        .expect("bindgen reads the header")
        .to_string()
}

#[test]
fn committed_bindings_are_those_of_the_header() {
    let path = root().join("cli/src/ffi.rs");
    let made = generate();
    if env::var_os("MLXRT_WRITE_BINDINGS").is_some() {
        fs::write(&path, &made).expect("the source folder can be written");
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == made,
        "cli/src/ffi.rs is not what bindgen makes of include/mlxrt.h: run `make cli-bindings`"
    );
}
