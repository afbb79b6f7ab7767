//! Makes the text of include/mlxrt.h: cbindgen reads src/capi, and a pass over its lines adds what it cannot.
//!
//! That pass relies on cbindgen's form, one line for each prototype, field and constant, and puts in: nullability
//! words, MLXRT_MUST_USE on what returns an error, section headings, line breaks. It takes out: `struct` before
//! names that have a typedef, empty lines between constants that belong together.

use std::fs;
use std::path::{Path, PathBuf};

use crate::{nullability, table};

/// Files of src/capi with functions, and their headings, in the order of the header.
const SECTIONS: &[(&str, &str)] = &[
    ("library", "The library"),
    ("error", "Errors"),
    ("memory", "Memory"),
    ("model", "Models"),
    ("adapter", "Adapters"),
    ("train", "Training"),
    ("session", "Sessions"),
    ("generate", "Generation"),
    ("grammar", "Grammars"),
    ("embed", "Embeddings"),
    ("metrics", "Metrics"),
];

const WIDTH: usize = 110;

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The header as the source gives it.
pub fn header() -> String {
    let config = cbindgen::Config::from_file(root().join("cbindgen.toml")).expect("cbindgen.toml");
    let mut builder = cbindgen::Builder::new().with_config(config);
    for name in ["constants", "types"] {
        builder = builder.with_src(source(name));
    }
    let mut headings = Vec::new();
    for (name, heading) in SECTIONS.iter().filter(|(name, _)| source(name).is_file()) {
        let text = fs::read_to_string(source(name)).expect("a source file");
        let first = text
            .split("extern \"C\" fn mlxrt_")
            .nth(1)
            .and_then(|rest| rest.split('(').next());
        let first = first.unwrap_or_else(|| panic!("{name}.rs is a section without functions"));
        headings.push((format!("mlxrt_{first}"), *heading));
        builder = builder.with_src(source(name));
    }
    let mut raw = Vec::new();
    builder.generate().expect("cbindgen").write(&mut raw);
    finish(&String::from_utf8(raw).expect("UTF-8"), &headings)
}

fn source(name: &str) -> PathBuf {
    root().join("src/capi").join(format!("{name}.rs"))
}

fn finish(raw: &str, headings: &[(String, &str)]) -> String {
    let mut out: Vec<String> = Vec::new();
    // The documentation that stands before what it is about.
    let mut comment: Vec<String> = Vec::new();
    let mut inside_struct: Option<String> = None;
    let mut constant_before = String::new();
    let mut table = table::Table::default();
    // The opening and what cbindgen.toml adds behind the includes are written as they shall be.
    let (opening, body) = raw
        .split_once(VERBATIM_END)
        .expect("the end of after_includes");
    for line in body.lines() {
        let line = line.split("//").next().unwrap_or_default().trim_end();
        let code = line.trim_start();
        if code.starts_with("/**") || code.starts_with('*') {
            comment.push(line.to_owned());
            continue;
        }
        let comment = one_line(std::mem::take(&mut comment));
        if let Some(rest) = code.strip_prefix("#define ") {
            let group: String = rest.split('_').take(2).collect();
            if group == constant_before && out.last().is_some_and(String::is_empty) {
                out.pop();
            }
            constant_before = group;
            out.extend(comment);
            out.push(line.to_owned());
        } else if let Some(owner) = code
            .strip_prefix("typedef struct ")
            .and_then(|c| c.strip_suffix(" {"))
        {
            inside_struct = Some(owner.to_owned());
            out.extend(comment);
            out.push(line.to_owned());
        } else if code.starts_with('}') || code.starts_with('#') || !code.ends_with(';') {
            inside_struct = if code.starts_with('}') {
                None
            } else {
                inside_struct
            };
            out.extend(comment);
            out.push(line.to_owned());
        } else if code.starts_with("typedef struct ") {
            out.extend(comment);
            out.push(line.to_owned());
        } else if let Some(owner) = &inside_struct {
            out.extend(comment);
            let declaration = code.trim_end_matches(';').replace("struct ", "");
            out.push(format!("  {};", nullability::field(owner, &declaration)));
        } else {
            let declaration = code.trim_end_matches(';').replace("struct ", "");
            let (name, lines) = prototype(&declaration);
            table.add(&name, &declaration);
            if let Some((_, heading)) = headings.iter().find(|(first, _)| *first == name) {
                out.push(format!("/* ---- {heading} ---- */"));
                out.push(String::new());
            }
            out.extend(comment);
            out.extend(lines);
        }
    }
    let functions = out
        .iter()
        .position(|line| line == "#ifdef __cplusplus")
        .expect("the functions' beginning");
    out.splice(functions..functions, table.finish());
    let end = out
        .iter()
        .rposition(|line| line.starts_with("#endif"))
        .expect("the include guard");
    out.splice(end..end, POP.lines().map(str::to_owned));
    let mut text = format!("{}\n{}\n", opening.trim_end(), out.join("\n"));
    while text.contains("\n\n\n") {
        text = text.replace("\n\n\n", "\n\n");
    }
    text
}

/// The last line of `after_includes` in cbindgen.toml.
const VERBATIM_END: &str = "/* end of after_includes */";

/// Closes what `after_includes` opens.
const POP: &str = "#if defined(__clang__)\n#pragma clang diagnostic pop\n#endif\n";

/// `/**`, ` * words`, ` */` in one line where there is one line of words.
fn one_line(comment: Vec<String>) -> Vec<String> {
    match comment.as_slice() {
        [_, words, _] => {
            let indent = words.len() - words.trim_start().len() - 1;
            let words = words.trim_start().trim_start_matches('*').trim();
            vec![format!("{}/** {words} */", " ".repeat(indent))]
        }
        _ => comment,
    }
}

/// Of a function or callback type: what stands before its parameters, its name, and its parameters with their words.
pub fn parts(declaration: &str) -> (&str, &str, Vec<String>) {
    let (head, params) = declaration
        .strip_suffix(')')
        .and_then(|d| d.rsplit_once('('))
        .expect("a prototype");
    let name = head
        .trim_end_matches(')')
        .rsplit([' ', '*'])
        .next()
        .unwrap_or_default();
    let params = params
        .split(", ")
        .map(|param| nullability::parameter(name, param))
        .collect();
    (head, name, params)
}

/// The name of a function or callback type, and its declaration with all words and line breaks.
fn prototype(declaration: &str) -> (String, Vec<String>) {
    let (head, name, params) = parts(declaration);
    let start = match head.strip_prefix("typedef ") {
        Some(_) => head.to_owned(),
        None if head.starts_with("mlxrt_error *") => {
            format!("MLXRT_MUST_USE {}", nullability::result(head))
        }
        None => nullability::result(head),
    };
    (name.to_owned(), wrap(format!("{start}("), &params))
}

pub fn wrap(start: String, params: &[String]) -> Vec<String> {
    let whole = format!("{start}{});", params.join(", "));
    if whole.len() <= WIDTH {
        return vec![whole];
    }
    // Four more than the declaration itself has.
    let indent = " ".repeat(start.len() - start.trim_start().len() + 3);
    let mut lines = vec![start];
    let mut line = indent.clone();
    for (index, param) in params.iter().enumerate() {
        let end = if index + 1 == params.len() { ");" } else { "," };
        if line.len() + param.len() + end.len() + 1 > WIDTH {
            lines.push(std::mem::replace(&mut line, indent.clone()));
        }
        line.push(' ');
        line.push_str(param);
        line.push_str(end);
    }
    lines.push(line);
    lines
}

#[test]
fn every_file_with_functions_is_a_section() {
    for entry in fs::read_dir(root().join("src/capi")).expect("src/capi") {
        let path = entry.expect("an entry").path();
        let text = fs::read_to_string(&path).unwrap_or_default();
        let name = path
            .file_stem()
            .and_then(|stem| stem.to_str())
            .unwrap_or_default();
        let has_functions = text.lines().any(|line| line.trim() == "#[no_mangle]");
        let listed = SECTIONS.iter().any(|(section, _)| *section == name);
        assert_eq!(has_functions, listed, "src/capi/{name}.rs and SECTIONS");
    }
}
