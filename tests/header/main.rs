//! include/mlxrt.h: comes out of src/capi, agrees with tests/abi/agreed.h, keeps what tests/abi/1 froze, and compiles
//! by itself.
//!
//! `MLXRT_WRITE_HEADER=1 cargo test --test header committed` writes it (`make header`).

mod c;
mod compile;
mod exports;
mod frozen;
mod generate;
mod limits;
mod nullability;
mod table;

use std::fs;

use generate::{header, root};

fn agreed() -> c::Header {
    c::parse(&fs::read_to_string(root().join("tests/abi/agreed.h")).expect("tests/abi/agreed.h"))
}

#[test]
fn the_committed_header_is_what_the_source_gives() {
    let path = root().join("include/mlxrt.h");
    let expected = header();
    if std::env::var_os("MLXRT_WRITE_HEADER").is_some() {
        fs::create_dir_all(root().join("include")).expect("include");
        fs::write(&path, &expected).expect("include/mlxrt.h");
        let map = fs::read_to_string(exports::path()).unwrap_or_default();
        fs::write(exports::path(), exports::exports(&map)).expect("src/capi/exports.map");
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    let mut pairs = committed.lines().zip(expected.lines()).enumerate();
    let different = pairs.find(|(_, (old, new))| old != new);
    if let Some((number, (old, new))) = different {
        let number = number + 1;
        panic!("include/mlxrt.h:{number} is out of date; run `make header`\n- {old}\n+ {new}");
    }
    assert!(
        committed == expected,
        "include/mlxrt.h is out of date at its end; run `make header`"
    );
}

#[test]
fn functions_and_callbacks_are_the_agreed_ones() {
    let (ours, agreed) = (c::parse(&header()), agreed());
    assert!(!ours.functions.is_empty() && agreed.functions.len() > 40);
    for (name, signature) in &ours.functions {
        assert_eq!(Some(signature), agreed.functions.get(name), "{name}");
    }
    for (name, signature) in &ours.callbacks {
        assert_eq!(Some(signature), agreed.callbacks.get(name), "{name}");
    }
    for name in &ours.opaque {
        assert!(agreed.opaque.contains(name), "{name}");
    }
}

#[test]
fn constants_are_the_agreed_ones() {
    let (ours, agreed) = (c::parse(&header()), agreed());
    assert!(ours.constants.len() > 60);
    for (name, value) in &ours.constants {
        assert_eq!(Some(value), agreed.constants.get(name), "{name}");
    }
    // Numbers that come in families come whole, so that no value in between is taken for another.
    for family in [
        "MLXRT_E_",
        "MLXRT_INPUT_",
        "MLXRT_GEN_",
        "MLXRT_EVENT_",
        "MLXRT_STOPPED_",
    ] {
        for name in agreed
            .constants
            .keys()
            .filter(|name| name.starts_with(family))
        {
            assert!(ours.constants.contains_key(name), "{name} is missing");
        }
    }
}

#[test]
fn structs_are_the_agreed_ones() {
    let (ours, agreed) = (c::parse(&header()), agreed());
    assert!(ours.structs.len() >= 10);
    for (name, fields) in &ours.structs {
        if name != "mlxrt_api" {
            assert_eq!(Some(fields), agreed.structs.get(name), "{name}");
        }
        assert_eq!(
            (fields[0].name.as_str(), fields[0].ty.as_str()),
            ("struct_size", "uint32_t"),
            "{name}"
        );
    }
}

#[test]
fn every_pointer_says_whether_it_may_be_null() {
    let text = c::without_comments(&header());
    let code: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    let mut seen = 0;
    for line in code.iter().filter(|line| !line.contains("sizeof")) {
        // `(*name)` of a callback type says it where the type is used.
        let line = line.replace("(*mlxrt_", "(mlxrt_");
        for (at, _) in line.match_indices('*') {
            let behind = &line[at + 1..];
            let said = ["MLXRT_NULLABLE ", "MLXRT_NONNULL "]
                .iter()
                .any(|word| behind.starts_with(word));
            assert!(said, "{line}");
            seen += 1;
        }
        let callback = line.split(['(', ',']).map(str::trim).find(|part| {
            part.split(' ')
                .next()
                .is_some_and(|ty| ty.starts_with("mlxrt_") && ty.ends_with("_fn"))
        });
        if let Some(callback) = callback.filter(|_| !line.starts_with("typedef")) {
            assert!(
                callback.contains("_fn MLXRT_NULL") || callback.contains("_fn MLXRT_NONNULL"),
                "{line}"
            );
        }
    }
    assert!(seen > 30);
}

#[test]
fn everything_is_documented() {
    let text = header();
    let lines: Vec<&str> = text.lines().collect();
    let body = lines
        .iter()
        .position(|line| line.starts_with("#define MLXRT_ABI"))
        .expect("MLXRT_ABI")
        - 1;
    let mut comment = String::new();
    let mut continued = false;
    // Functions are documented where they are declared, and not once more in the table.
    let mut in_table = false;
    for line in &lines[body..] {
        let code = line.trim_start();
        if code == "uint32_t abi;" || code == "};" {
            in_table = code != "};";
            comment.clear();
        }
        if in_table {
            continue;
        }
        if code.starts_with("/**") {
            comment.clear();
        }
        if code.starts_with("/*") || code.starts_with('*') {
            comment.push_str(code);
            comment.push('\n');
            continue;
        }
        let declares = code.starts_with("#define")
            || (code.starts_with("typedef"))
            || (code.contains("(") && !continued && !code.starts_with('#'))
            || (line.starts_with("  ") && !line.starts_with("   "));
        if declares {
            assert!(!comment.is_empty(), "no documentation: {line}");
            let function = !line.starts_with([' ', '#']) && !code.starts_with("typedef");
            if function {
                let mut rest = comment.as_str();
                for tail in [
                    "\n* Threads: ",
                    "\n* Blocks: ",
                    "\n* Errors: ",
                    "\n* Owns: ",
                ] {
                    let at = rest.find(tail);
                    rest = &rest[at.unwrap_or_else(|| {
                        panic!("{tail:?} is missing or out of order: {line}")
                    })..];
                }
            }
            comment.clear();
        }
        continued = code.ends_with('(') || (continued && code.ends_with(','));
    }
}

/// Nothing of Rust's, mlx-c's or a dependency's leaks out of the library file, and nothing of the header is missing.
#[test]
fn the_library_exports_exactly_the_headers_functions() {
    let test = std::env::current_exe().expect("this test's file");
    let library = test.with_file_name("libmlxrt.so");
    if !library.is_file() {
        println!("skipped: {} is not there", library.display());
        return;
    }
    let listed = std::process::Command::new("nm")
        .args(["-D", "--defined-only", "--format=just-symbols"])
        .arg(&library)
        .output()
        .expect("nm runs");
    let listed = String::from_utf8(listed.stdout).expect("symbols are ASCII");
    let exported: std::collections::BTreeSet<&str> = listed.lines().map(str::trim).collect();
    let ours = c::parse(&header());
    let declared: std::collections::BTreeSet<&str> =
        ours.functions.keys().map(String::as_str).collect();
    assert_eq!(exported, declared);
}
