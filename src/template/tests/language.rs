//! The language, where the corpora do not reach: places of errors, refusals, the API.

use serde_json::json;

use super::*;

#[test]
fn errors_have_places_and_kinds() {
    for (source, line, column, kind, part) in [
        (
            "a\nb {{ x",
            2,
            7,
            ErrorKind::Syntax,
            "unexpected end of template",
        ),
        (
            "{% if x %}\n  {% frob %}",
            2,
            6,
            ErrorKind::Syntax,
            "unknown tag 'frob'",
        ),
        (
            "é {{ 'a' | nope }}",
            1,
            12,
            ErrorKind::Syntax,
            "No filter named 'nope'.",
        ),
        (
            "{{ 1 is nope }}",
            1,
            9,
            ErrorKind::Syntax,
            "No test named 'nope'.",
        ),
        ("{{ 'abc", 1, 4, ErrorKind::Syntax, "unexpected char '\\''"),
        (
            "{# never",
            1,
            1,
            ErrorKind::Syntax,
            "Missing end of comment tag",
        ),
        (
            "{% raw %}x",
            1,
            1,
            ErrorKind::Syntax,
            "Missing end of raw directive",
        ),
        (
            "{{ (1] }}",
            1,
            6,
            ErrorKind::Syntax,
            "unexpected ']', expected ')'",
        ),
        ("{% break %}", 1, 4, ErrorKind::Syntax, "outside of a loop"),
        (
            "\n\n{{ x.y }}",
            3,
            5,
            ErrorKind::Undefined,
            "'x' is undefined",
        ),
        (
            "{{ 1 / 0 }}",
            1,
            4,
            ErrorKind::ZeroDivision,
            "division by zero",
        ),
        (
            "{{ raise_exception('no\nway') }}",
            1,
            19,
            ErrorKind::Raised,
            "no\nway",
        ),
        (
            "{{ [].append(1) }}",
            1,
            13,
            ErrorKind::Security,
            "access to attribute 'append'",
        ),
        (
            "{% include 'x' %}",
            1,
            4,
            ErrorKind::Unsupported,
            "'include' is refused",
        ),
        (
            "{% extends 'x' %}",
            1,
            4,
            ErrorKind::Unsupported,
            "'extends' is refused",
        ),
        (
            "{% from 'x' import y %}",
            1,
            4,
            ErrorKind::Unsupported,
            "'from' is refused",
        ),
        (
            "{% set ns = namespace() %}{% set ns._x = 1 %}",
            1,
            34,
            ErrorKind::Security,
            "underscore",
        ),
        (
            "{{ [1]|random }}",
            1,
            7,
            ErrorKind::Unsupported,
            "'random' is not supported",
        ),
        (
            "{% for a, b in [1] %}{% endfor %}",
            1,
            8,
            ErrorKind::Type,
            "cannot unpack",
        ),
    ] {
        let error = render(source, json!({})).expect_err(source);
        assert_eq!(error.kind, kind, "{source}: {error}");
        assert!(error.message.contains(part), "{source}: {error}");
        assert_eq!(
            (error.line, error.column),
            (line, column),
            "{source}: {error}"
        );
    }
}

#[test]
fn unknown_filters_count_only_where_they_are_reached() {
    let source = "{% if flag %}{{ 1|nope }}{% endif %}{{ (1|nope) if flag else 2 }}";
    assert_eq!(render(source, json!({"flag": false})).unwrap(), "2");
    let error = render(source, json!({"flag": true})).unwrap_err();
    assert!(error.message.contains("No filter named 'nope'"), "{error}");
    // A loop has a scope of its own: there, jinja2 looks at once.
    let source = "{% if false %}{% for x in [] %}{{ x|nope }}{% endfor %}{% endif %}";
    assert_eq!(
        render(source, json!({})).unwrap_err().kind,
        ErrorKind::Syntax
    );
}

#[test]
fn underscores_open_nothing() {
    for source in [
        "{{ ''.__class__ }}",
        "{{ nothing.__class__ }}",
        "{{ [].__len__ }}",
        "{{ {}.__init__ }}",
        "{{ namespace(a=1).__dict__ }}",
        "{{ ''['__class__'] }}",
        "{{ (''|attr('__class__')) }}",
        "{% macro m() %}{% endmacro %}{{ m.__call__ }}",
    ] {
        assert_eq!(render(source, json!({})).unwrap(), "", "{source}");
        let used = source.replace(" }}", ".mro }}").replace(")).mro", ").mro)");
        assert!(render(&used, json!({})).is_err(), "{used}");
    }
}

#[test]
fn scopes_are_those_of_jinja2() {
    for (source, wanted) in [
        ("{% set x = 1 %}{% for i in [1, 2] %}{{ x }}{% set x = 5 %}{{ x }}{% endfor %}{{ x }}", "15151"),
        ("{% macro m() %}{{ x }}{% endmacro %}{% set x = 1 %}{{ m() }}", "1"),
        ("{% for i in [1] %}{% macro m() %}{{ i }}{% endmacro %}{{ m() }}{% endfor %}", "1"),
        ("{% set ns = namespace() %}{% for i in [1, 2] %}{% macro m() %}{{ i }}{% endmacro %}{% set ns.m = m %}{% endfor %}{{ ns.m() }}", "2"),
        ("{% set x = 1 %}{% with x = 2, y = x %}{{ x }}{{ y }}{% endwith %}{{ x }}", "211"),
        ("{% generation %}{% set x = 1 %}{{ x }}{% endgeneration %}{{ x }}", "1"),
        ("{% set x = 'a' %}{% set y = x %}{% set x = x ~ 'b' %}{{ x }}{{ y }}", "aba"),
        ("{% set l = [1] %}{% set k = l %}{% set l = l + [2] %}{{ l }}{{ k }}", "[1, 2][1]"),
        ("{% set ns = namespace(f=true) %}{% for x in [1, 2, 3] if ns.f %}{{ x }}{% set ns.f = false %}{% endfor %}", "1"),
        ("{% if true %}{% set x = 1 %}{% endif %}{{ x }}", "1"),
        ("{% block b %}{{ y }}{% set z = 1 %}{% endblock %}{{ z }}", "Y"),
        ("{% set ns = namespace(me=1) %}{% set ns.me = [ns] %}{{ ns.me|length }}", "1"),
    ] {
        assert_eq!(render(source, json!({"y": "Y"})).unwrap(), wanted, "{source}");
    }
}

#[test]
fn white_space_is_that_of_jinja2() {
    for (source, wanted) in [
        ("a\r\nb\rc\n", "a\nb\nc"),
        ("a\n\n", "a\n"),
        ("  {%+ if true %}x{% endif +%}\n", "  x"),
        ("  {%+ if true %}x{% endif +%}\ny", "  x\ny"),
        ("{{ 1 -}}\n  {{- 2 }}", "12"),
        ("x {#- c -#} y", "xy"),
        ("x\n  {# c #}\ny", "x\ny"),
        ("{% raw -%}  {{ x }}  {%- endraw %}", "{{ x }}"),
        ("{{ '{{' }}{{ {'a': {'b': 1}}['a']['b'] }}", "{{1"),
    ] {
        assert_eq!(render(source, json!({})).unwrap(), wanted, "{source:?}");
    }
}

#[test]
fn dates_are_pythons() {
    for (seconds, ahead, wanted) in [
        (0, 0, "1970-01-01 00:00:00 Thursday 001 00 00 01 70"),
        (
            951_782_400,
            0,
            "2000-02-29 00:00:00 Tuesday 060 09 09 09 00",
        ),
        (
            1_735_689_599,
            0,
            "2024-12-31 23:59:59 Tuesday 366 52 53 01 24",
        ),
        (
            1_609_459_200,
            3600,
            "2021-01-01 01:00:00 Friday 001 00 00 53 21",
        ),
        (-1, 0, "1969-12-31 23:59:59 Wednesday 365 52 52 01 69"),
    ] {
        let now = Now::from_unix(seconds, ahead);
        assert_eq!(now.strftime("%F %T %A %j %U %W %V %y"), wanted);
    }
    assert_eq!(
        NOON.strftime("%-d/%-m %_d %^b %p %I %q %"),
        "1/7  1 JUL PM 12 %q %"
    );
}

#[test]
fn the_context_may_hold_anything() {
    assert!(render_with("", &Value::none()).is_err());
    let mut deep = json!(1);
    for _ in 0..250 {
        deep = json!([deep]);
    }
    let error = Value::from_json(&deep, Origin::Content).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Limit);
    let text = "\0\u{feff}<|x|>".repeat(1000);
    assert_eq!(render("{{ t }}", json!({"t": text})).unwrap(), text);
    assert_eq!(
        render(
            "{{ range }}|{{ x is defined }}",
            json!({"range": 1, "x": null})
        )
        .unwrap(),
        "1|True"
    );
}

#[test]
fn a_value_is_two_words() {
    assert_eq!(std::mem::size_of::<Value>(), 16);
}

#[test]
fn templates_go_between_threads() {
    fn shared<T: Send + Sync>(_: &T) {}
    shared(&Template::parse("{{ x }}", &Limits::default()).unwrap());
    shared(&Value::none());
}

#[test]
fn errors_have_codes() {
    let code = |source: &str| {
        let error = render(source, json!({})).expect_err(source);
        let error: crate::error::Error = error.into();
        assert!(error.message.starts_with("chat template, line 1, column "));
        error.code
    };
    use crate::error::Code;
    assert_eq!(code("{{"), Code::BadModel);
    assert_eq!(code("{{ x.y }}"), Code::InvalidArgument);
    assert_eq!(code("{{ 'x' * 10**9 }}"), Code::Unsupported);
    assert_eq!(code("{% import 'x' as y %}"), Code::Unsupported);
}
