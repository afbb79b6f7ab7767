//! What programs were compiled against: tests/abi/1/mlxrt.h, the header of version 1. Every name in it keeps its value,
//! its offset or its signature for ever; later headers only add. (`make freeze` renews it until the first release.)

use std::fs;

use crate::generate::{header, root};
use crate::{c, compile, exports};

fn frozen() -> String {
    fs::read_to_string(root().join("tests/abi/1/mlxrt.h")).expect("tests/abi/1/mlxrt.h")
}

/// Where `new` breaks a program that was compiled with `old`, in words.
fn broken(old: &c::Header, new: &c::Header) -> Vec<String> {
    let mut broken = Vec::new();
    let mut check = |kept: bool, what: &str| {
        if !kept {
            broken.push(what.to_owned());
        }
    };
    for (name, value) in &old.constants {
        // The one number that rises.
        let kept = new
            .constants
            .get(name)
            .is_some_and(|now| now == value || name == "MLXRT_ABI");
        check(kept, name);
    }
    for (name, signature) in &old.functions {
        check(new.functions.get(name) == Some(signature), name);
    }
    for (name, signature) in &old.callbacks {
        check(new.callbacks.get(name) == Some(signature), name);
    }
    for name in &old.opaque {
        check(
            new.opaque.contains(name) || new.structs.contains_key(name),
            name,
        );
    }
    for (name, fields) in &old.structs {
        let now = new.structs.get(name).map_or(&[][..], Vec::as_slice);
        for (index, field) in fields.iter().enumerate() {
            let kept = now.get(index).is_some_and(|now| {
                // A place in the function table gets its function.
                let arrives =
                    name == "mlxrt_api" && field.ty == "const void *" && now.ty.contains("(*)");
                now.name == field.name && (now.ty == field.ty || arrives)
            });
            check(kept, &format!("{name}.{}", field.name));
        }
    }
    broken
}

#[test]
fn nothing_that_was_frozen_changed() {
    let (old, new) = (c::parse(&frozen()), c::parse(&header()));
    assert!(old.functions.len() > 25 && old.structs.len() >= 10 && old.constants.len() > 60);
    assert_eq!(broken(&old, &new), Vec::<String>::new());
}

/// Programs ask for them by this name: MLXRT_1 in the shipped library.
#[test]
fn frozen_functions_stay_in_their_release() {
    let map = fs::read_to_string(exports::path()).expect("src/capi/exports.map");
    let nodes = exports::nodes(&map);
    for name in c::parse(&frozen()).order {
        assert!(
            nodes[0].1.contains(&name),
            "{name} is not in {}",
            nodes[0].0
        );
    }
}

/// As the compiler sees it.
#[test]
fn frozen_fields_keep_their_offsets_and_sizes() {
    let structs = c::parse(&frozen()).structs;
    let structs: Vec<_> = structs.iter().collect();
    let old = compile::layout(&structs, "frozen/old", &frozen(), false);
    let new = compile::layout(&structs, "frozen/new", &header(), false);
    assert!(old.lines().count() > 150);
    for (old, new) in old.lines().zip(new.lines()) {
        assert_eq!(new, old, "name, offset, size");
    }
}

#[test]
fn changes_are_seen() {
    let text = "#define MLXRT_ABI 1u\n#define MLXRT_X 2\n#define MLXRT_Y ((size_t)-1)\n\
                typedef struct mlxrt_a mlxrt_a;\n\
                typedef struct mlxrt_s { uint32_t struct_size, flags; uint64_t n; } mlxrt_s;\n\
                typedef struct mlxrt_api mlxrt_api;\n\
                struct mlxrt_api { uint32_t struct_size, abi; const void *mlxrt_g; };\n\
                typedef void (*mlxrt_fn)(void *user_data);\n\
                int32_t mlxrt_f(const mlxrt_s *options, size_t n);\n";
    let found = |from: &str, to: &str| {
        assert!(text.contains(from), "{from}");
        broken(&c::parse(text), &c::parse(&text.replace(from, to)))
    };
    let none: [&str; 0] = [];
    // What may come.
    assert_eq!(found("MLXRT_ABI 1u", "MLXRT_ABI 2u"), none);
    assert_eq!(
        found(
            "#define MLXRT_X 2\n",
            "#define MLXRT_X 2\n#define MLXRT_Z 3\n"
        ),
        none
    );
    assert_eq!(found("uint64_t n;", "uint64_t n; uint64_t more;"), none);
    assert_eq!(
        found("const void *mlxrt_g;", "void (*mlxrt_g)(void);"),
        none
    );
    assert_eq!(
        found("int32_t mlxrt_f", "void mlxrt_g(void);\nint32_t mlxrt_f"),
        none
    );
    // What may not.
    assert_eq!(found("MLXRT_X 2", "MLXRT_X 3"), ["MLXRT_X"]);
    assert_eq!(found("#define MLXRT_X 2\n", ""), ["MLXRT_X"]);
    assert_eq!(
        found("struct mlxrt_a mlxrt_a", "struct mlxrt_b mlxrt_b"),
        ["mlxrt_a"]
    );
    assert_eq!(found("uint64_t n;", ""), ["mlxrt_s.n"]);
    assert_eq!(found("uint64_t n;", "int64_t n;"), ["mlxrt_s.n"]);
    assert_eq!(found("uint64_t n;", "uint64_t m, n;"), ["mlxrt_s.n"]);
    assert_eq!(found("const void *mlxrt_g;", ""), ["mlxrt_api.mlxrt_g"]);
    assert_eq!(
        found("(void *user_data)", "(const void *user_data)"),
        ["mlxrt_fn"]
    );
    assert_eq!(found("size_t n)", "int n)"), ["mlxrt_f"]);
    assert_eq!(found("int32_t mlxrt_f(", "int64_t mlxrt_f("), ["mlxrt_f"]);
    assert_eq!(
        found("int32_t mlxrt_f(const mlxrt_s *options, size_t n);\n", ""),
        ["mlxrt_f"]
    );
}
