//! Templates that stop, hang or starve other engines: here each is an error, or right, on a small stack and in time.

use std::time::{Duration, Instant};

use super::*;

/// What must come of it.
enum Outcome {
    Text(&'static str),
    Error(ErrorKind),
}

use Outcome::{Error, Text};

/// The aim is a second (the slowest takes half of one on a quiet machine); this has room for a busy one.
const LONGEST: Duration = Duration::from_secs(5);

const LIMIT: Outcome = Error(ErrorKind::Limit);

fn check(name: &str, source: String, wanted: Outcome) {
    let begun = Instant::now();
    let got = on_small_stack(move || render(&source, serde_json::json!({})));
    let took = begun.elapsed();
    assert!(took < LONGEST, "{name}: {took:?}");
    match (wanted, got) {
        (Text(wanted), Ok(text)) => assert_eq!(text, wanted, "{name}"),
        (Error(kind), Err(error)) => assert_eq!(error.kind, kind, "{name}: {error}"),
        (_, got) => panic!("{name}: {:?}", got.map(|text| text.len())),
    }
}

const NS: &str = "{% set ns = namespace(x='0123456789', l=['x'], m=['x']) %}";

fn doubling(set: &str) -> String {
    format!("{NS}{{% for i in range(60) %}}{set}{{% endfor %}}{{{{ ns.x|length }}}}")
}

#[test]
fn growth_is_refused_before_it_happens() {
    for (name, set) in [
        ("concat", "{% set ns.x = ns.x ~ ns.x %}"),
        ("plus", "{% set ns.x = ns.x + ns.x %}"),
        (
            "capture",
            "{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}",
        ),
        ("replace", "{% set ns.x = ns.x|replace('0', ns.x) %}"),
        ("join", "{% set ns.x = [ns.x, ns.x]|join %}"),
        ("join-method", "{% set ns.x = ns.x.join(['', '', '']) %}"),
        ("percent", "{% set ns.x = '%s%s' % (ns.x, ns.x) %}"),
        ("format", "{% set ns.x = '{0}{0}'.format(ns.x) %}"),
        ("lists", "{% set ns.l = ns.l + ns.l %}"),
        ("shared-lists", "{% set ns.l = [ns.l, ns.l] %}"),
        ("shared-dicts", "{% set ns.l = {'a': ns.l, 'b': ns.l} %}"),
        (
            "tojson",
            "{% set ns.x = ns.x|tojson|tojson|tojson|tojson ~ ns.x %}",
        ),
        ("escape", "{% set ns.x = (ns.x ~ '&')|forceescape ~ ns.x %}"),
        (
            "integers",
            "{% if ns.i is not defined %}{% set ns.i = 9 %}{% endif %}{% set ns.i = ns.i * ns.i %}",
        ),
    ] {
        check(name, doubling(set), LIMIT);
    }
    let macro_capture = "{% macro m(x) %}{{ x }}{{ x }}{% endmacro %}";
    check(
        "macro-capture",
        macro_capture.to_string() + &doubling("{% set ns.x = m(ns.x) %}"),
        LIMIT,
    );
}

#[test]
fn sizes_are_refused_before_they_are_made() {
    for (name, source) in [
        ("repeat", "{{ ('x' * 10**9)|length }}"),
        ("list-repeat", "{{ ([1] * 100000000)|length }}"),
        ("range-lists", "{% set ns = namespace(l=[]) %}{% for i in range(2000) %}{% set ns.l = [range(99999)|list, ns.l] %}{% endfor %}"),
        ("format-width", "{{ '{:>1000000000}'.format('x')|length }}"),
        ("format-precision", "{{ '{:.1000000000f}'.format(1.0) }}"),
        ("percent-width", "{{ ('%1000000000d'|format(3))|length }}"),
        ("percent-precision", "{{ '%.1000000000d' % 3 }}"),
        ("ljust", "{{ 'x'.ljust(10**9)|length }}"),
        ("zfill", "{{ 'x'.zfill(10**9)|length }}"),
        ("center", "{{ 'x'|center(10**9) }}"),
        ("tabs", "{{ '\\t'.expandtabs(10**9) }}"),
        ("indent", "{{ ('\\n' * 5000000)|indent(100000) }}"),
        ("batch", "{{ [1]|batch(10**9, 0)|list|length }}"),
        ("slice", "{{ [1]|slice(10**9)|list|length }}"),
        ("string-list", "{{ ('a' * 9000000)|list|length }}"),
        ("split", "{{ ('a ' * 9000000).split()|length }}"),
        ("tojson-indent", "{{ [[1]]|tojson(indent=10**9) }}"),
        ("join-range", "{{ range(100000)|join('a' * 1000000) }}"),
        ("output", "{% set a = 'a' * 9000000 %}{% for i in range(10000) %}{{ a }}{% endfor %}"),
        ("date", "{{ strftime_now('%c' * 9000000) }}"),
        ("origins", "{% set ns = namespace(x='') %}{% for i in range(99999) %}{% for j in range(99999) %}{{ '%c' % 97 }}x{% endfor %}{% endfor %}"),
    ] {
        check(name, source.to_string(), LIMIT);
    }
    check(
        "range",
        "{% for i in range(10**9) %}{% endfor %}".into(),
        Error(ErrorKind::Overflow),
    );
    check(
        "power",
        "{{ 9 ** 9 ** 9 }}".into(),
        Text("196627050475552913618075908526912116283103450944214766927315415537966391196809"),
    );
    check("powers", "{{ 9 ** 9999 ** 9 }}".into(), LIMIT);
    check("digits", "{{ 10 ** 5000 }}".into(), Error(ErrorKind::Value));
}

#[test]
fn time_is_bounded() {
    for (name, source) in [
        ("loops", "{% for i in range(99999) %}{% for j in range(99999) %}x{% endfor %}{% endfor %}"),
        ("empty-loops", "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"),
        ("macros", "{% macro m(n) %}{% if n > 0 %}{{ m(n-1) }}{{ m(n-1) }}{% endif %}{% endmacro %}{{ m(60) }}"),
        ("sorts", "{% set l = range(99999)|list %}{% for i in range(10000) %}{% set x = l|sort(reverse=true) %}{% endfor %}"),
        ("searches", "{% set a = 'a' * 5000000 %}{% set b = 'a' * 2500000 ~ 'b' %}{% for i in range(10000) %}{% if b in a %}{% endif %}{% endfor %}"),
        ("counts", "{% set a = 'a' * 5000000 %}{% for i in range(10000) %}{% set x = a.count('b') %}{% endfor %}"),
        ("strips", "{% set a = 'a' * 5000000 %}{% set b = 'b' * 5000000 ~ 'a' %}{% for i in range(10000) %}{% set x = a.strip(b) %}{% endfor %}"),
        ("uppers", "{% set a = 'é' * 2500000 %}{% for i in range(10000) %}{% set x = a|upper %}{% endfor %}"),
        ("lengths", "{% set a = 'é' * 9000000 %}{% for i in range(99999) %}{% for j in range(999) %}{% set x = a|length %}{% endfor %}{% endfor %}"),
        ("equal", "{% set a = 'a' * 9000000 %}{% set b = 'a' * 9000000 %}{% for i in range(99999) %}{% if a == b %}{% endif %}{% endfor %}"),
        ("numbers-as-keys", "{{ range(99999)|unique|list|length }}"),
        ("repeats", "{% for i in range(1000) %}{% set x = 'x' * 9999999 %}{% endfor %}"),
        ("wide-scopes", "{% macro m() %}WIDE{% for i in range(99999) %}{% for j in range(99999) %}{{ a0 }}{% endfor %}{% endfor %}{% endmacro %}{{ m() }}"),
        ("big-numbers", "{% set a = 7 ** 20000 %}{% for i in range(99999) %}{% set x = a * 3 // 5 %}{% endfor %}"),
        ("big-floats", "{% set a = 7 ** 300 %}{% for i in range(99999) %}{% for j in range(999) %}{% set x = a / 3 %}{% endfor %}{% endfor %}"),
        ("long-items", "{% set a = 'é' * 5000000 %}{% for i in range(99999) %}{% set x = a[4000000] %}{% endfor %}"),
    ] {
        let wide: String = (1..5000).map(|i| format!("{{% set a{i} = 1 %}}")).collect();
        check(name, source.replace("WIDE", &wide), LIMIT);
    }
}

#[test]
fn depth_is_counted() {
    let deep = |set: &str| format!("{NS}{{% for i in range(90000) %}}{set}{{% endfor %}}");
    for (name, source) in [
        ("lists", deep("{% set ns.l = [ns.l] %}")),
        ("tuples", deep("{% set ns.l = (ns.l,) %}")),
        ("dicts", deep("{% set ns.l = {'a': ns.l} %}")),
        ("methods", deep("{% set ns.l = [[ns.l].index] %}")),
        ("iterators", deep("{% set ns.l = [ns.l]|map('list') %}")),
        (
            "macro-recursion",
            "{% macro m(n) %}{{ m(n+1) }}{% endmacro %}{{ m(0) }}".into(),
        ),
        (
            "loop-recursion",
            "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}".into(),
        ),
        (
            "caller-recursion",
            "{% macro m() %}{{ caller is defined }}{% call m() %}{% endcall %}{% endmacro %}{{ m() }}".into(),
        ),
        (
            "default-recursion",
            "{% macro m(a=m()) %}{% endmacro %}{{ m() }}".into(),
        ),
        (
            "namespace-recursion",
            "{% set ns = namespace() %}{% set ns.a = [ns] %}{{ ns }}".into(),
        ),
        (
            "parens",
            format!("{{{{ {}1{} }}}}", "(".repeat(30000), ")".repeat(30000)),
        ),
        (
            "brackets",
            format!("{{{{ {}1{} }}}}", "[".repeat(30000), "]".repeat(30000)),
        ),
        (
            "braces",
            format!("{{{{ {}1{} }}}}", "{1:".repeat(30000), "}".repeat(30000)),
        ),
        (
            "arguments",
            format!("{{{{ {}1{} }}}}", "a(".repeat(30000), ")".repeat(30000)),
        ),
        (
            "items",
            format!("{{{{ {}1{} }}}}", "a[".repeat(30000), "]".repeat(30000)),
        ),
        ("tests", format!("{{{{ 1{} }}}}", " is eq [1".repeat(30000))),
        (
            "ifs",
            "{% if 1 %}".repeat(6000) + &"{% endif %}".repeat(6000),
        ),
        ("fors", "{% for x in y %}".repeat(6000)),
        ("targets", format!("{{% set {}a = 1 %}}", "(".repeat(60000))),
        (
            "wrapped-conditions",
            format!("{{{{ 1{} }}}}", " if 1".repeat(10000)),
        ),
    ] {
        check(name, source, LIMIT);
    }
}

/// The best of some tries, on a machine that has other work, too.
#[test]
fn a_deadline_ends_a_render() {
    use crate::watch::{during, Watch};
    let text =
        "{% set a = 'Äb ' * 2000000 %}{% for i in range(99999) %}{% for j in range(99) %}{% set x = WORK %}{% endfor %}{% endfor %}";
    for work in [
        "[1, 2]",
        "a|upper",
        "a|title",
        "a.find('c')",
        "a.split()",
        "a|tojson",
        "range(99999)|sort(reverse=true)",
        "7 ** 20000 // 3",
    ] {
        let template = Template::parse(&text.replace("WORK", work), &Limits::default()).unwrap();
        let context = Value::dict(vec![]).unwrap();
        let endless = Limits {
            steps: u64::MAX,
            ..Limits::default()
        };
        let late = (0..5).map(|_| {
            let deadline = Instant::now() + Duration::from_millis(20);
            let watch = Watch {
                deadline: Some(deadline),
                ..Watch::default()
            };
            let rendered = during(watch, || template.render(&context, &|| NOON, &endless));
            let kind = rendered.unwrap_err().kind;
            assert_eq!(
                kind,
                ErrorKind::Stopped(crate::error::Code::Timeout),
                "{work}"
            );
            Instant::now().duration_since(deadline)
        });
        let late = late.min().unwrap();
        assert!(late < Duration::from_millis(100), "{work}: {late:?} late");
    }
}

#[test]
fn a_deadline_ends_a_parse() {
    use crate::watch::{during, Watch};
    let watch = Watch {
        deadline: Some(Instant::now()),
        ..Watch::default()
    };
    let source = "{{ a }}".repeat(80_000);
    let parsed = during(watch, || Template::parse(&source, &Limits::default()));
    let kind = parsed.unwrap_err().kind;
    assert_eq!(kind, ErrorKind::Stopped(crate::error::Code::Timeout));
    let begun = Instant::now();
    for source in [
        "{{ a }}".repeat(140_000),
        format!(
            "{{{{ m({}) }}}}",
            (0..90_000).map(|i| format!("a{i}=1,")).collect::<String>()
        ),
        "{%- raw -%}{% endraw".repeat(50_000),
        "{{ [".to_string() + &"1,".repeat(240_000) + "] }}",
        format!("{{{{ {} }}}}", "x".repeat(1_000_000)),
    ] {
        let _ = Template::parse(&source, &Limits::default());
    }
    assert!(begun.elapsed() < LONGEST, "{:?}", begun.elapsed());
}

/// The frames of a debug build are a few times larger.
const DEEP: usize = if cfg!(debug_assertions) { 10 } else { 60 };
const VALUES: usize = if cfg!(debug_assertions) { 40 } else { 150 };

#[test]
fn nesting_that_is_allowed_fits_the_stack() {
    let nested = |open: &str, close: &str, n: usize| open.repeat(n) + "1" + &close.repeat(n);
    let parens = format!("{{{{ {} }}}}", nested("(", ")", DEEP));
    check("parens", parens, Text("1"));
    let lists = format!(
        "{{{{ {}|string|length == {} }}}}",
        nested("[", "]", DEEP),
        DEEP * 2 + 1
    );
    check("lists", lists, Text("True"));
    let ifs = nested("{% if 1 %}", "{% endif %}", DEEP);
    check("ifs", ifs, Text("1"));
    let recursion =
        "{% macro m(n) %}{% if n %}{{ m(n-1) }}{% endif %}.{% endmacro %}{{ m(N)|length == N + 1 }}";
    let recursion = recursion.replace('N', &(DEEP / 2).to_string());
    check("recursion", recursion, Text("True"));
    let deep =
        format!("{NS}{{% for i in range({VALUES}) %}}{{% set ns.l = [ns.l] %}}{{% endfor %}}");
    check(
        "repr",
        format!("{deep}{{{{ ns.l|string|length == {VALUES} * 2 + 5 }}}}"),
        Text("True"),
    );
    check(
        "json",
        format!("{deep}{{{{ ns.l|tojson|length == {VALUES} * 2 + 5 }}}}"),
        Text("True"),
    );
    check(
        "equal",
        format!("{deep}{{{{ ns.l == [ns.l][0] }}}}"),
        Text("True"),
    );
}

#[test]
fn chains_are_flat() {
    let n = 30000;
    let ones: &'static str = Box::leak("1".repeat(n + 1).into_boxed_str());
    for (name, source, wanted) in [
        (
            "additions",
            format!("{{{{ 1{} }}}}", "+1".repeat(n)),
            Text("30001"),
        ),
        (
            "concats",
            format!("{{{{ 1{} }}}}", "~1".repeat(n)),
            Text(ones),
        ),
        (
            "filters",
            format!("{{{{ 'a'{} }}}}", "|upper".repeat(n)),
            Text("A"),
        ),
        (
            "ors",
            format!("{{{{ 0{} }}}}", " or 0".repeat(n)),
            Text("0"),
        ),
        (
            "comparisons",
            format!("{{{{ 0{} }}}}", " < 1".repeat(n)),
            Text("False"),
        ),
        (
            "ternaries",
            format!("{{{{ {}1 }}}}", "1 if 0 else ".repeat(n / 3)),
            Text("1"),
        ),
        (
            "powers",
            format!("{{{{ 1{} }}}}", "**1".repeat(n)),
            Text("1"),
        ),
        (
            "nots",
            format!("{{{{ {}1 }}}}", "not ".repeat(n)),
            Text("True"),
        ),
        ("minus", format!("{{{{ {}1 }}}}", "-".repeat(n)), Text("1")),
        (
            "elifs",
            format!("{{% if 0 %}}{}{{% endif %}}", "{% elif 0 %}x".repeat(9000)),
            Text(""),
        ),
        (
            "attributes",
            format!("{{{{ a{} }}}}", ".a".repeat(n)),
            Error(ErrorKind::Undefined),
        ),
        (
            "calls",
            format!("{{{{ a{} }}}}", "()".repeat(n)),
            Error(ErrorKind::Undefined),
        ),
        (
            "subscripts",
            format!("{{{{ a{} }}}}", "[0]".repeat(n)),
            Error(ErrorKind::Undefined),
        ),
        (
            "parts",
            format!("{{{{ 1{} }}}}", "+1".repeat(400_000)),
            LIMIT,
        ),
        ("huge", "x".repeat(3_000_000), LIMIT),
    ] {
        check(name, source, wanted);
    }
}

/// All files of the shared generator, where it and a Python are present.
#[test]
fn the_shared_generator_finds_nothing() {
    let Some(script) = data("hostile/make.py") else {
        return;
    };
    let folder = std::env::temp_dir().join(format!("hostile-templates-{}", std::process::id()));
    let made = std::process::Command::new("python3")
        .arg(script)
        .arg(&folder)
        .output();
    if !made.is_ok_and(|output| output.status.success()) {
        skipped("python3 does not run");
        return;
    }
    let mut count = 0;
    for entry in std::fs::read_dir(folder.join("templates")).unwrap() {
        let path = entry.unwrap().path();
        let source = std::fs::read_to_string(&path).unwrap();
        let begun = Instant::now();
        let got = on_small_stack(move || render(&source, serde_json::json!({})));
        assert!(begun.elapsed() < LONGEST, "{path:?}");
        if let Err(error) = got {
            assert!(!error.message.is_empty(), "{path:?}");
        }
        count += 1;
    }
    std::fs::remove_dir_all(&folder).unwrap();
    assert_eq!(count, 69);
}
