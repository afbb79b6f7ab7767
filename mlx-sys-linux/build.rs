//! Builds mlx-c on Linux: its sources come out of the `mlx-sys` package that Cargo.lock pins (that crate itself
//! builds on Apple systems only), MLX out of its own binary wheel, and the bindings out of the same headers.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    for name in ["MLXRT_MLX_DIR", "LIBCLANG_PATH"] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    for name in ["build.rs", "format_shim.h", "mlx.txt", "libclang.txt"] {
        println!("cargo:rerun-if-changed={name}");
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let mlx = mlx_dir(&out);
    let mlx_c = mlx_c_source();

    compile(&mlx_c, &mlx.join("include"));
    bind(&mlx_c, &out);

    let lib = mlx.join("lib");
    println!("cargo:rustc-link-search=native={}", lib.display());
    println!("cargo:rustc-link-lib=dylib=mlx");
    // Dependents read these as DEP_MLX_LINUX_INCLUDE, _RPATH and _LIBS.
    let include = env::join_paths([mlx.join("include"), mlx_c]).expect("no ':' in build paths");
    println!("cargo:include={}", include.to_string_lossy());
    if env::var_os("MLXRT_MLX_DIR").is_some() {
        // Used where it lies: the CUDA wheel compiles kernels against headers that it finds from there.
        println!("cargo:rpath={}", lib.display());
    } else {
        let libs = env::join_paths(runtime_libs(&mlx)).expect("no ':' in build paths");
        println!("cargo:libs={}", libs.to_string_lossy());
    }
}

/// One sentence that says what to do, then the end.
fn fail(sentence: &str) -> ! {
    eprintln!("\nmlxrt cannot be built yet: {sentence}\n");
    std::process::exit(1);
}

/// The folder with `include/` and `lib/libmlx.so`: the one that MLXRT_MLX_DIR names, or the pinned wheel's.
fn mlx_dir(out: &Path) -> PathBuf {
    if let Some(dir) = env::var_os("MLXRT_MLX_DIR") {
        let dir = PathBuf::from(dir);
        if !dir.join("include/mlx/mlx.h").is_file() || !dir.join("lib/libmlx.so").is_file() {
            fail(&format!(
                "MLXRT_MLX_DIR is {}, which has no include/mlx/mlx.h and lib/libmlx.so; unset it to fetch MLX's wheel from PyPI.",
                dir.display()
            ));
        }
        return dir;
    }
    wheel("mlx.txt", "manylinux_2_35", &out.join("mlx")).join("mlx")
}

/// Downloads the wheel pinned in `requirements` (pip checks its hash) and unpacks it into `into`.
fn wheel(requirements: &str, platform: &str, into: &Path) -> PathBuf {
    let arch = env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets CARGO_CFG_TARGET_ARCH");
    // libclang runs on the machine that builds, MLX on the one that is built for.
    let arch = if requirements == "libclang.txt" {
        env::consts::ARCH.to_owned()
    } else {
        arch
    };
    let stamp = into.join(format!("{arch}.complete"));
    let wanted = fs::read_to_string(requirements).expect("the package holds its requirement files");
    if fs::read_to_string(&stamp).is_ok_and(|done| done == wanted) {
        return into.to_owned();
    }
    let _ = fs::remove_dir_all(into);
    fs::create_dir_all(into).expect("OUT_DIR can be written");
    python(
        Command::new("python3")
            .args([
                "-m",
                "pip",
                "download",
                "--quiet",
                "--disable-pip-version-check",
                "--no-deps",
            ])
            .args([
                "--only-binary=:all:",
                "--require-hashes",
                "--requirement",
                requirements,
            ])
            .args(["--platform", &format!("{platform}_{arch}"), "--dest"])
            .arg(into),
    );
    let file = fs::read_dir(into)
        .expect("just made")
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension() == Some(OsStr::new("whl")))
        .unwrap_or_else(|| fail("pip downloaded no wheel; see its words above."));
    python(
        Command::new("python3")
            .args(["-m", "zipfile", "-e"])
            .arg(&file)
            .arg(into),
    );
    let _ = fs::remove_file(file);
    fs::write(stamp, wanted).expect("OUT_DIR can be written");
    into.to_owned()
}

fn python(command: &mut Command) {
    match command.status() {
        Ok(status) if status.success() => {}
        Ok(_) => fail(
            "pip could not fetch a pinned wheel from PyPI (its words are above); install python3-pip and allow PyPI, \
             or set MLXRT_MLX_DIR to an unpacked MLX 0.32.2 and LIBCLANG_PATH to a libclang.",
        ),
        Err(_) => fail("python3 is missing; install python3 with pip (Debian, Ubuntu: apt install python3-pip)."),
    }
}

/// Where cargo unpacked the pinned `mlx-sys`: never built here, only read.
fn mlx_c_source() -> PathBuf {
    let cargo = env::var_os("CARGO").expect("cargo sets CARGO");
    let output = Command::new(cargo)
        .args(["metadata", "--locked", "--format-version", "1"])
        .output()
        .expect("cargo runs");
    if !output.status.success() {
        fail(&format!(
            "cargo metadata failed: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        ));
    }
    let metadata: serde_json::Value =
        serde_json::from_slice(&output.stdout).expect("cargo metadata writes JSON");
    metadata["packages"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|package| package["name"] == "mlx-sys")
        .and_then(|package| package["manifest_path"].as_str())
        .map(|manifest| Path::new(manifest).with_file_name("src").join("mlx-c"))
        .unwrap_or_else(|| fail("Cargo.lock pins no mlx-sys; restore it from the repository."))
}

fn compile(mlx_c: &Path, include: &Path) {
    let sources: Vec<PathBuf> = fs::read_dir(mlx_c.join("mlx/c"))
        .expect("mlx-sys holds mlx-c's sources")
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension() == Some(OsStr::new("cpp")))
        .collect();
    let shim = fs::canonicalize("format_shim.h").expect("the package holds its shim");
    let result = cc::Build::new()
        .cpp(true)
        .std("c++20")
        .pic(true)
        .opt_level(2)
        .debug(false)
        .warnings(false)
        .flag("-fvisibility=hidden")
        // mlx-c puts the file's name into its errors, which is none of this machine's.
        .flag_if_supported(format!("-ffile-prefix-map={}=/mlx-c", mlx_c.display()))
        .flag_if_supported(format!("-ffile-prefix-map={}=/mlx", include.display()))
        .flag("-include")
        .flag(shim)
        .include(mlx_c)
        .include(include)
        .files(sources)
        .try_compile("mlxc");
    if let Err(error) = result {
        eprintln!("{error}");
        fail("mlx-c did not compile; a C++20 compiler is needed (Debian, Ubuntu: apt install g++, version 12 or newer).");
    }
}

fn bind(mlx_c: &Path, out: &Path) {
    if env::var_os("LIBCLANG_PATH").is_none() {
        let dir = wheel("libclang.txt", "manylinux2014", &out.join("libclang"));
        // A zip unpacked by hand keeps the part that pip would have moved to site-packages where it is.
        env::set_var(
            "LIBCLANG_PATH",
            dir.join("libclang-18.1.1.data/platlib/clang/native"),
        );
    }
    let mut builder = bindgen::Builder::default()
        .header(mlx_c.join("mlx/c/mlx.h").to_string_lossy())
        .clang_arg(format!("-I{}", mlx_c.display()))
        .allowlist_item("_?mlx_.*|MLX_.*")
        .layout_tests(false);
    // The libclang wheel brings no built-in headers; gcc's serve as well.
    if let Ok(found) = Command::new("gcc").arg("-print-file-name=include").output() {
        let dir = String::from_utf8_lossy(&found.stdout).trim().to_owned();
        builder = builder.clang_arg(format!("-I{dir}"));
    }
    let bindings = builder
        .generate()
        .unwrap_or_else(|error| fail(&format!("bindgen could not read mlx-c's headers: {error}.")));
    bindings
        .write_to_file(out.join("bindings.rs"))
        .expect("OUT_DIR can be written");
}

/// `libmlx.so` and the libraries that it brings (BLAS): what has to lie beside the
/// finished library.
fn runtime_libs(mlx: &Path) -> Vec<PathBuf> {
    let mut libs = vec![mlx.join("lib/libmlx.so")];
    let beside = mlx.parent().map(|root| root.join("mlx_cpu.libs"));
    if let Some(entries) = beside.and_then(|dir| fs::read_dir(dir).ok()) {
        libs.extend(entries.flatten().map(|entry| entry.path()));
    }
    libs
}
