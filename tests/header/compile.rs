//! What C and C++ compilers say about the header. Needs `cc` and `c++` (or `CC` and `CXX`).

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::c;
use crate::generate::{header, root};

/// A folder of its own for each test, under cargo's.
fn folder(test: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join("header")
        .join(test);
    fs::create_dir_all(&folder).expect("a folder");
    folder
}

fn compiler(cpp: bool) -> Command {
    let (variable, name) = if cpp { ("CXX", "c++") } else { ("CC", "cc") };
    Command::new(std::env::var_os(variable).unwrap_or_else(|| name.into()))
}

fn run(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}\n{errors}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

const WARNINGS: [&str; 7] = [
    "-Wall",
    "-Wextra",
    "-Wpedantic",
    "-Wpadded",
    "-Werror",
    // In the header itself; one that nobody includes has unused parts.
    "-Wundef",
    "-Wshadow",
];

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

#[test]
fn it_compiles_alone_in_every_language() {
    let folder = folder("alone");
    write(&folder.join("mlxrt.h"), &header());
    // Twice, for the include guard; a use of the macros.
    let source = "#include \"mlxrt.h\"\n#include \"mlxrt.h\"\n\
                  int has(const mlxrt_event *event, size_t length);\n\
                  int has(const mlxrt_event *event, size_t length) {\n  \
                  return MLXRT_HAS(event, total) && length == MLXRT_NTS;\n}\n";
    for (cpp, standard) in [
        (false, "c99"),
        (false, "c11"),
        (false, "c2x"),
        (true, "c++17"),
        (true, "c++20"),
    ] {
        let file = folder.join(if cpp { "alone.cpp" } else { "alone.c" });
        write(&file, source);
        let standard = format!("-std={standard}");
        run(compiler(cpp)
            .arg(standard)
            .args(WARNINGS)
            .arg("-fsyntax-only")
            .arg(&file));
    }
}

#[test]
fn clang_finds_no_pointer_without_a_word() {
    if Command::new("clang").arg("--version").output().is_err() {
        println!("skipped: there is no clang here (gcc ignores nullability)");
        return;
    }
    let folder = folder("clang");
    write(&folder.join("mlxrt.h"), &header());
    write(&folder.join("clang.c"), "#include \"mlxrt.h\"\n");
    for standard in ["-std=c99", "-std=c2x"] {
        run(Command::new("clang")
            .args([standard, "-Wnullability-completeness", "-fsyntax-only"])
            .args(WARNINGS)
            .arg(folder.join("clang.c")));
    }
}

/// Of every field of `structs`: its name, offset and size, as the compiler has them with the header `text`. `folder` is
/// this test's own. Sizes of whole structs only where `sizes` asks for them.
pub fn layout(
    structs: &[(&String, &Vec<c::Field>)],
    test: &str,
    text: &str,
    sizes: bool,
) -> String {
    let mut program = String::from("#include <stdio.h>\n#include \"mlxrt.h\"\nint main(void) {\n");
    for (name, fields) in structs {
        if sizes {
            writeln!(program, "  printf(\"{name} %zu\\n\", sizeof({name}));").expect("a string");
        }
        for field in *fields {
            let field = &field.name;
            let size = format!("sizeof((({name} *)0)->{field})");
            let line = format!(
                "printf(\"{name}.{field} %zu %zu\\n\", offsetof({name}, {field}), {size});"
            );
            writeln!(program, "  {line}").expect("a string");
        }
    }
    program.push_str("  return 0;\n}\n");
    let folder = folder(test);
    write(&folder.join("mlxrt.h"), text);
    write(&folder.join("layout.c"), &program);
    let out = folder.join("layout");
    run(compiler(false)
        .arg(folder.join("layout.c"))
        .arg("-o")
        .arg(&out));
    run(&mut Command::new(out))
}

#[test]
fn the_layout_is_the_agreed_one() {
    let ours = header();
    // (The agreed file says in words what the function table is; see `table.rs`.)
    let structs = c::parse(&ours).structs;
    let structs: Vec<_> = structs
        .iter()
        .filter(|(name, _)| *name != "mlxrt_api")
        .collect();
    let agreed = fs::read_to_string(root().join("tests/abi/agreed.h")).expect("tests/abi/agreed.h");
    let agreed = layout(&structs, "layout/agreed", &agreed, true);
    let ours = layout(&structs, "layout/ours", &ours, true);
    assert!(ours.lines().count() > 100, "{ours}");
    assert_eq!(ours.lines().count(), agreed.lines().count());
    for (ours, agreed) in ours.lines().zip(agreed.lines()) {
        assert_eq!(ours, agreed, "name, offset, size");
    }
}

/// The program in the header's opening.
fn example() -> String {
    let text = header();
    let (_, rest) = text
        .split_once("A complete program:\n")
        .expect("the program's beginning");
    let lines = rest.lines().skip_while(|line| !line.contains("#include"));
    let program: Vec<&str> = lines
        .take_while(|line| line.starts_with(" *   ") || *line == " *")
        .map(|line| line.get(5..).unwrap_or(""))
        .collect();
    program.join("\n").trim_end().to_owned() + "\n"
}

#[test]
fn the_program_in_the_opening_compiles() {
    let program = example();
    let lines = program.lines().count();
    assert!((15..=30).contains(&lines), "{lines} lines:\n{program}");
    let folder = folder("example");
    let ours = header();
    let agreed = fs::read_to_string(root().join("tests/abi/agreed.h")).expect("tests/abi/agreed.h");
    let mut headers = vec![("agreed", agreed)];
    if c::parse(&ours).functions.contains_key("mlxrt_generate") {
        headers.push(("ours", ours));
    }
    for (name, text) in headers {
        let folder = folder.join(name);
        fs::create_dir_all(&folder).expect("a folder");
        write(&folder.join("mlxrt.h"), &text);
        let file = folder.join("example.c");
        write(&file, &program);
        for standard in ["-std=c99", "-std=c11", "-std=c2x"] {
            let warnings = [
                standard,
                "-Wall",
                "-Wextra",
                "-Wpedantic",
                "-Werror",
                "-fsyntax-only",
                "-I",
            ];
            run(compiler(false).args(warnings).arg(&folder).arg(&file));
        }
    }
}
