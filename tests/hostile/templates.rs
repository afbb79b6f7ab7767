//! Row 10: chat templates that hang or kill stock engines, and `tokenizer.json` files that do (part of row 9). They are
//! written by `data/hostile/make.py` of the project's shared folder (MLXRT_SHARED, else ../shared); without it, row 10
//! has only those below.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::abi::MLXRT_STOPPED_TIMEOUT;
use crate::child::{alive, ask, exactly};
use crate::common::{load, Prompt};
use crate::folder::{survives, Folder};
use crate::runner::{case_with, Case};
use crate::testing::{data, skipped};
use crate::verdict::*;
use crate::{ensure, Class};

pub const CLASS: Class = Class {
    row: "10",
    name: "chat templates",
    generators: &[templates, built_ins, stacks, deadlines],
    programs: &[
        ("template", child),
        ("template-content", with_content),
        ("template-stack", on_little_stack),
        ("template-deadline", with_deadline),
    ],
};

/// Seconds on the processor and bytes of resident memory for load, render and the request behind it.
const TIGHT: (f64, u64) = (1.0, 256 << 20);

/// As much, for a template that goes on to its last step with content of some megabytes.
const LIMITED: (f64, u64) = (4.0, 512 << 20);

/// Megabytes of the content that built-ins are given.
const LONG: usize = 4;

/// What reads its content, or names, keys and numbers as long as that; done again and again.
const BUILT_INS: &[&str] = &[
    "c|float",
    "c|int",
    "c|int(0, 16)",
    "c|filesizeformat",
    "{}|attr(c)",
    "c|attr(c)",
    "'x'|attr(c)",
    "{c: 1}|items|list",
    "{c: 1}[c]",
    "{}[c]",
    "namespace(**{c: 1})[c]",
    "c in c ~ 'b'",
    "c == c ~ ''",
    "c is sameas(c ~ '')",
    "[c]|sort",
    "[c, c]|unique|list",
    "[c, c]|groupby(0)",
    "[{'a': c}]|map(attribute=c)|list",
    "c|upper",
    "c|title",
    "c|capitalize",
    "c|trim(c)",
    "c|replace(c[:9999], '')",
    "c|indent",
    "c|wordcount",
    "c|urlencode",
    "c|tojson",
    "c|e",
    "c|string|length",
    "c|truncate(9)",
    "c|center(9)",
    "c|list|length",
    "c|first",
    "c|last",
    "c|reverse",
    "c[::-1]",
    "c[1000000]",
    "c.split()",
    "c.split(c[:99])",
    "c.rsplit('b', 1)",
    "c.splitlines()",
    "c.partition('b')",
    "c.find('b')",
    "c.rfind('b')",
    "c.count('b')",
    "c.startswith(c)",
    "c.strip()",
    "c.casefold()",
    "c.swapcase()",
    "c.islower()",
    "c.isprintable()",
    "c.isidentifier()",
    "c.expandtabs()",
    "c.zfill(9)",
    "c.format(c)",
    "c % ()",
    "'%s' % c",
    "'%.5s' % c",
    "'%r' % c",
    "'{:>9}'.format(c)",
    "c ~ c",
    "c + c",
    "c * 2",
    "c is lower",
    "[c, c] == [c ~ '', c]",
    "(c, c) in {}",
];

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

/// A message of some megabytes, and a template that does one thing with it until it may no more.
fn built_ins() {
    for expression in BUILT_INS {
        for content in ["a", "é ", "1"] {
            let source = format!(
                "{{% set c = messages[0].content %}}{{% for i in range(100000) %}}\
                 {{% set r = {expression} %}}{{% endfor %}}"
            );
            let folder = Folder::copy_of("qwen3-f32");
            folder.write("chat_template.jinja", source.as_bytes());
            case_with(&Case {
                what: &format!("{expression} of {content:?}"),
                args: &["template-content", folder.path().to_str().unwrap(), content],
                env: &[],
                tight: Some(LIMITED),
            });
        }
    }
}

fn with_content(args: &[&str]) -> Outcome {
    let content = args[1].repeat((LONG << 20) / args[1].len());
    let messages = json!([{"role": "user", "content": content}]).to_string();
    let rendered = load(Path::new(args[0])).and_then(|model| model.render(&messages));
    let verdict = fine_or_named(rendered, CODES, &[])?;
    alive()?;
    Ok(verdict)
}

/// Nesting, on a thread with the least stack that may make a call.
fn stacks() {
    let nested = |open: &str, close: &str, n: usize| open.repeat(n) + "1" + &close.repeat(n);
    let deep =
        "{% set ns = namespace(l=1) %}{% for i in range(150) %}{% set ns.l = [ns.l] %}{% endfor %}";
    for n in [10, 30, 60, 200, 5_000] {
        for (what, source) in [
            ("parentheses", format!("{{{{ {} }}}}", nested("(", ")", n))),
            ("lists", format!("{{{{ {} }}}}", nested("[", "]", n))),
            ("ifs", nested("{% if 1 %}", "{% endif %}", n)),
            ("loops", nested("{% for x in [1] %}", "{% endfor %}", n)),
            ("filters", format!("{{{{ {} }}}}", nested("[1]|map('default', ", ")|list", n))),
            (
                "macros",
                format!("{{% macro m(n) %}}{{% if n %}}{{{{ m(n-1) }}}}{{% endif %}}{{% endmacro %}}{{{{ m({n}) }}}}"),
            ),
            ("printed", format!("{deep}{}", nested("{% if 1 %}{{ ns.l }}{{ ns.l|tojson }}", "{% endif %}", n))),
            ("compared", format!("{deep}{{{{ {} }}}}", nested("[ns.l == [ns.l][0], ", "]", n))),
        ] {
            let folder = Folder::copy_of("qwen3-f32");
            folder.write("chat_template.jinja", source.as_bytes());
            let path = folder.path().to_str().unwrap();
            case_with(&Case {
                what: &format!("{n} {what} on 256 KB of stack"),
                args: &["template-stack", path],
                env: &[],
                tight: None,
            });
        }
    }
    // JSON that nests, as much as it may and more.
    for n in [100, 120, 128, 100_000] {
        let folder = Folder::copy_of("qwen3-f32");
        folder.write(
            "chat_template.jinja",
            b"{{ messages }}{{ messages|tojson }}",
        );
        let path = folder.path().to_str().unwrap();
        case_with(&Case {
            what: &format!("messages {n} deep on 256 KB of stack"),
            args: &["template-stack", path, &n.to_string()],
            env: &[],
            tight: None,
        });
    }
}

fn on_little_stack(args: &[&str]) -> Outcome {
    let depth = args.get(1).map_or(1, |depth| depth.parse().unwrap());
    let inner = "[".repeat(depth) + &"]".repeat(depth);
    let messages = format!(r#"[{{"role":"user","content":"Hi","extra":{inner}}}]"#);
    let path = PathBuf::from(args[0]);
    let run = move || load(&path).and_then(|model| model.render(&messages));
    let thread = std::thread::Builder::new().stack_size(256 << 10);
    let rendered = thread.spawn(run).unwrap().join().unwrap();
    let verdict = fine_or_named(rendered, CODES, &[])?;
    alive()?;
    Ok(verdict)
}

/// Templates that take long, and a request that has not the time.
fn deadlines() {
    for (what, source) in [
        ("loops", "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"),
        ("upper case", "{% set c = messages[0].content %}{% for i in range(99999) %}{% set r = c|upper %}{% endfor %}"),
        ("searches", "{% set c = messages[0].content %}{% for i in range(99999) %}{% set r = c.find('b') %}{% endfor %}"),
        ("sorts", "{% for i in range(99999) %}{% set r = range(99999)|sort(reverse=true) %}{% endfor %}"),
        ("titles", "{% set c = messages[0].content %}{% for i in range(99999) %}{% set r = c|title %}{% endfor %}"),
    ] {
        for ms in [1, 20, 100] {
            let folder = Folder::copy_of("qwen3-f32");
            folder.write("chat_template.jinja", source.as_bytes());
            case_with(&Case {
                what: &format!("{what} with {ms} ms"),
                args: &["template-deadline", folder.path().to_str().unwrap(), &ms.to_string()],
                env: &[],
                tight: None,
            });
        }
    }
}

fn with_deadline(args: &[&str]) -> Outcome {
    let content = "é".repeat(1 << 20);
    let messages = json!([{"role": "user", "content": content}]).to_string();
    let model = load(Path::new(args[0])).unwrap();
    let session = model.session(0);
    let mut options = exactly(1);
    options.timeout_ms = args[1].parse().unwrap();
    let began = Instant::now();
    let told = ask(session.0, &Prompt::Messages(&messages), &options, |_| true);
    let took = began.elapsed();
    ensure!(took < Duration::from_secs(1), "{took:?}");
    let verdict = match told.failure {
        Some(failure) => named(&failure, &["TIMEOUT"], &[])?,
        None => {
            let stop = told.result.stop;
            ensure!(stop == MLXRT_STOPPED_TIMEOUT, "stop {stop}");
            fine()?
        }
    };
    alive()?;
    Ok(verdict)
}

/// The files of a kind that make.py writes; none where it cannot run.
fn made(kind: &str) -> Vec<PathBuf> {
    let Some(script) = data("hostile/make.py") else {
        return vec![];
    };
    let out = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join(format!("hostile-{}/made-{kind}", std::process::id()));
    let run = Command::new("python3").arg(&script).arg(&out).output();
    let wrote = run.is_ok_and(|run| run.status.success());
    if !wrote {
        skipped(&format!(
            "hostile {kind}: {} does not run",
            script.display()
        ));
        return vec![];
    }
    let mut files: Vec<_> = fs::read_dir(out.join(kind))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files
}
