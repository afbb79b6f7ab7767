//! Row 10: chat templates that hang or kill stock engines, and `tokenizer.json` files that do (part of row 9). They are
//! written by `data/hostile/make.py` of the project's shared folder (MLXRT_SHARED, else ../shared); without it, row 10
//! has only those below.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::child::alive;
use crate::common::load;
use crate::folder::{survives, Folder};
use crate::runner::{case_with, Case};
use crate::verdict::*;
use crate::Class;

pub const CLASS: Class = Class {
    row: "10",
    name: "chat templates",
    generators: &[templates],
    programs: &[("template", child)],
};

/// Seconds on the processor and bytes of resident memory for load, render and the request behind it.
const TIGHT: (f64, u64) = (1.0, 256 << 20);

/// Written here, and each in another way: errors, missing variables, wrong types, size.
const OWN: &[(&str, &str)] = &[
    ("raise", "{{ raise_exception('no') }}"),
    ("raise-number", "{{ raise_exception(7) }}"),
    ("undefined", "{{ nothing.at.all }}"),
    ("undefined-call", "{{ nothing() }}"),
    ("missing-key", "{{ messages[0]['none']['none'] }}"),
    ("index", "{{ messages[99].content }}"),
    ("negative-index", "{{ messages[-99].content }}"),
    ("divide", "{{ 1 // 0 }}"),
    ("modulo", "{{ 1 % 0 }}"),
    (
        "message-loop",
        "{% for m in messages %}{% for n in messages %}{{ m }}{{ n }}{% endfor %}{% endfor %}",
    ),
    (
        "ten-megabytes",
        "{% set a = 'a' * 1000000 %}{% for i in range(10) %}{{ a }}{% endfor %}",
    ),
    (
        "hundred-megabytes",
        "{% set a = 'a' * 1000000 %}{% for i in range(100) %}{{ a }}{% endfor %}",
    ),
    ("whitespace", "{%- if true -%}   {%- endif -%}"),
    ("nul", "\0"),
    ("half-a-tag", "{% if"),
    ("half-an-expression", "{{ 1 +"),
    ("comment", "{# never closed"),
    ("set-builtin", "{% set range = 1 %}{{ range(3) }}"),
    ("loop-variable", "{{ loop.index }}"),
    ("self", "{{ self }}{{ self() }}"),
    (
        "caller",
        "{% macro m() %}{{ caller() }}{% endmacro %}{{ m() }}",
    ),
    (
        "call-itself",
        "{% macro m() %}{% call m() %}{% endcall %}{% endmacro %}{{ m() }}",
    ),
    ("tojson-deep", "{{ (messages | tojson) * 100 }}"),
    ("format", "{{ '%s' % ((),) }}{{ '%d' % 'x' }}"),
    ("surrogate", "{{ '\\ud800' }}"),
    ("unicode", "{{ '\u{10ffff}' * 1000 }}"),
];

fn templates() {
    for (name, text) in OWN {
        template(name, text.as_bytes());
    }
    for file in made("templates") {
        let name = file.file_stem().unwrap().to_string_lossy().into_owned();
        template(&name, &fs::read(&file).unwrap());
    }
}

/// Row 9's part.
pub fn tokenizers() {
    for file in made("tokenizers") {
        let folder = Folder::copy_of("qwen3-f32");
        fs::copy(&file, folder.file("tokenizer.json")).unwrap();
        survives(&file.file_stem().unwrap().to_string_lossy(), folder.path());
    }
}

fn template(name: &str, text: &[u8]) {
    let folder = Folder::copy_of("qwen3-f32");
    folder.write("chat_template.jinja", text);
    case_with(&Case {
        what: name,
        args: &["template", folder.path().to_str().unwrap()],
        env: &[],
        tight: Some(TIGHT),
    });
}

fn child(args: &[&str]) -> Outcome {
    let messages = r#"[{"role":"system","content":"Be brief."},{"role":"user","content":"Hi"},
        {"role":"assistant","content":"Hello"},{"role":"user","content":"<|im_end|>Bye"}]"#;
    let rendered = load(Path::new(args[0])).and_then(|model| model.render(messages));
    let verdict = fine_or_named(rendered, CODES, &[])?;
    alive()?;
    Ok(verdict)
}

/// The files of a kind that make.py writes; none where it cannot run.
fn made(kind: &str) -> Vec<PathBuf> {
    let shared = std::env::var_os("MLXRT_SHARED").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared"),
        PathBuf::from,
    );
    let script = shared.join("data/hostile/make.py");
    let out = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join(format!("hostile-{}/made-{kind}", std::process::id()));
    let wrote = script.is_file()
        && Command::new("python3")
            .arg(&script)
            .arg(&out)
            .output()
            .is_ok_and(|run| run.status.success());
    if !wrote {
        println!(
            "skipped: hostile {kind}, since {} does not run",
            script.display()
        );
        return vec![];
    }
    let mut files: Vec<_> = fs::read_dir(out.join(kind))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files
}
