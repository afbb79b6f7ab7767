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

/// What jinja2 3.1.6 prints or raises in transformers' environment: what the sandbox hides is undefined, and unsafe to use.
#[test]
fn what_the_sandbox_hides_is_undefined_and_unsafe_to_use() {
    let mut wrong = Vec::new();
    for (source, wanted) in [
        ("{{ ''.__class__ }}", Ok("")),
        ("{{ ''.__class__.mro }}", Err("SecurityError: access to attribute '__class__' of 'str' object is unsafe.")),
        ("{{ ''.__class__() }}", Err("SecurityError: access to attribute '__class__' of 'str' object is unsafe.")),
        ("{{ ''.__class__|default('d') }}", Ok("d")),
        ("{{ ''.__class__ is defined }}", Ok("False")),
        ("{{ ''.__class__ == 1 }}", Ok("False")),
        ("{{ ''.__class__ ~ 'a' }}", Ok("a")),
        ("{{ ''.__class__ + 'a' }}", Err("SecurityError: access to attribute '__class__' of 'str' object is unsafe.")),
        ("{{ ''.__class__|string }}", Ok("")),
        ("{{ ''.__class__|tojson }}", Err("TypeError: Object of type Undefined is not JSON serializable")),
        ("{{ ''.__class__|list }}", Ok("[]")),
        ("{{ ''.__class__ and 1 }}", Ok("")),
        ("{{ not ''.__class__ }}", Ok("True")),
        ("{{ ''.__foo__ }}", Ok("")),
        ("{{ ''.__foo__.x }}", Err("UndefinedError: 'str object' has no attribute '__foo__'")),
        ("{{ ''._x }}", Ok("")),
        ("{{ ''._x.y }}", Err("UndefinedError: 'str object' has no attribute '_x'")),
        ("{{ [].__len__ }}", Ok("")),
        ("{{ [].append }}", Ok("")),
        ("{{ [].append(1) }}", Err("SecurityError: access to attribute 'append' of 'list' object is unsafe.")),
        ("{{ [].append.x }}", Err("SecurityError: access to attribute 'append' of 'list' object is unsafe.")),
        ("{{ [].clear|string }}", Ok("")),
        ("{{ {}.update }}", Ok("")),
        ("{{ {}.update({}) }}", Err("SecurityError: access to attribute 'update' of 'dict' object is unsafe.")),
        ("{{ {}.items.x }}", Ok("")),
        ("{{ {}.__init__ }}", Ok("")),
        ("{{ {}.pop('a') }}", Err("SecurityError: access to attribute 'pop' of 'dict' object is unsafe.")),
        ("{{ {'pop': 1}.pop }}", Ok("")),
        ("{{ {'__class__': 1}.__class__ }}", Ok("")),
        ("{{ {'__class__': 1}['__class__'] }}", Ok("1")),
        ("{{ {'__foo__': 1}.__foo__ }}", Ok("1")),
        ("{{ {'_x': 1}._x }}", Ok("1")),
        ("{{ {'_x': 1}['_x'] }}", Ok("1")),
        ("{{ nothing.__class__ }}", Ok("")),
        ("{{ nothing.__foo__ }}", Err("UndefinedError: 'nothing' is undefined")),
        ("{{ nothing._x }}", Err("UndefinedError: 'nothing' is undefined")),
        ("{{ nothing.x }}", Err("UndefinedError: 'nothing' is undefined")),
        ("{{ nothing['__class__'] }}", Err("UndefinedError: 'nothing' is undefined")),
        ("{{ nothing['x'] }}", Err("UndefinedError: 'nothing' is undefined")),
        ("{{ namespace(a=1).__dict__ }}", Ok("")),
        ("{{ namespace(a=1)._Namespace__attrs }}", Ok("")),
        ("{{ namespace(a=1)._x }}", Ok("")),
        ("{{ namespace(a=1).__getitem__ }}", Ok("")),
        ("{{ namespace(a=1).__class__ }}", Ok("")),
        ("{{ ''['__class__'] }}", Ok("")),
        ("{{ ''['__foo__'] }}", Ok("")),
        ("{{ ''|attr('__class__') }}", Ok("")),
        ("{{ ''|attr('__foo__') }}", Ok("")),
        ("{{ (''|attr('__class__')).x }}", Err("SecurityError: access to attribute '__class__' of 'str' object is unsafe.")),
        ("{{ (''|attr('__foo__')).x }}", Err("UndefinedError: 'str object' has no attribute '__foo__'")),
        ("{{ ''['__class__'].x }}", Err("SecurityError: access to attribute '__class__' of 'str' object is unsafe.")),
        ("{{ range.__init__ }}", Ok("")),
        ("{{ range.__init__() }}", Err("SecurityError: access to attribute '__init__' of 'function' object is unsafe.")),
        ("{{ range(3).__len__ }}", Ok("")),
        ("{{ range(3).__len__() }}", Err("SecurityError: access to attribute '__len__' of 'range' object is unsafe.")),
        ("{{ range(3).__class__.x }}", Err("SecurityError: access to attribute '__class__' of 'range' object is unsafe.")),
        ("{{ dict.__call__ }}", Ok("")),
        ("{{ dict.fromkeys(['a']) }}", Ok("{'a': None}")),
        ("{{ joiner.__init__.__globals__ }}", Err("SecurityError: access to attribute '__init__' of 'type' object is unsafe.")),
        ("{{ cycler.__init__.__globals__ }}", Err("SecurityError: access to attribute '__init__' of 'type' object is unsafe.")),
        ("{{ cycler(1).__class__ }}", Ok("")),
        ("{{ cycler(1)._x }}", Ok("")),
        ("{{ 1 .__class__ }}", Ok("")),
        ("{{ 1.5.__class__.x }}", Err("SecurityError: access to attribute '__class__' of 'float' object is unsafe.")),
        ("{{ 1 .__add__ }}", Ok("")),
        ("{{ true.__class__ }}", Ok("")),
        ("{{ none.__class__ }}", Ok("")),
        ("{{ none.__class__.x }}", Err("SecurityError: access to attribute '__class__' of 'NoneType' object is unsafe.")),
        ("{{ none.__foo__.x }}", Err("UndefinedError: 'None' has no attribute '__foo__'")),
        ("{{ none._x.y }}", Err("UndefinedError: 'None' has no attribute '_x'")),
        ("{{ ([1]|map('string')).gi_frame }}", Ok("")),
        ("{{ ([1]|map('string')).gi_frame.x }}", Err("SecurityError: access to attribute 'gi_frame' of 'generator' object is unsafe.")),
        ("{{ ([1]|map('string')).gi_code.x }}", Err("SecurityError: access to attribute 'gi_code' of 'generator' object is unsafe.")),
        ("{{ ''.upper.__class__ }}", Ok("")),
        ("{{ ''.upper.__name__ }}", Ok("")),
        ("{{ ''.upper.__name__.x }}", Err("SecurityError: access to attribute '__name__' of 'builtin_function_or_method' object is unsafe.")),
        ("{{ ''.upper.x }}", Ok("")),
        ("{{ ''.upper.x.y }}", Err("UndefinedError: 'builtin_function_or_method object' has no attribute 'x'")),
        ("{{ '{0.__class__}'.format('a') }}", Ok("")),
        ("{{ '{0.__class__.mro}'.format('a') }}", Err("SecurityError: access to attribute '__class__' of 'str' object is unsafe.")),
        ("{{ '{0.__foo__}'.format('a') }}", Ok("")),
        ("{{ '{0._x}'.format('a') }}", Ok("")),
        ("{{ '{0[__class__]}'.format({}) }}", Ok("")),
        ("{{ '{0[x]}'.format({'x': 1}) }}", Ok("1")),
        ("{{ '{a.__class__}'.format(a=1) }}", Ok("")),
        ("{{ '{a.real}'.format(a=1) }}", Ok("1")),
        ("{{ '{0.__class__!r}'.format('a') }}", Ok("Undefined")),
        ("{{ '{0.__class__!s:>3}'.format('a') }}", Ok("   ")),
        ("{{ '{x.__class__}'.format_map({'x': 1}) }}", Ok("")),
        ("{{ '%s' % ''.__class__ }}", Ok("")),
        ("{{ '%r' % ''.__class__ }}", Ok("Undefined")),
        ("{{ [''.__class__] }}", Ok("[Undefined]")),
        ("{{ ['a']|map(attribute='__class__')|list }}", Ok("[Undefined]")),
        ("{{ ['a']|map(attribute='__class__')|join(',') }}", Ok("")),
        ("{{ ['a']|map(attribute='__class__.x')|list }}", Err("SecurityError: access to attribute '__class__' of 'str' object is unsafe.")),
        ("{{ ['a']|map(attribute='__foo__')|list }}", Ok("[Undefined]")),
        ("{{ ['a']|map(attribute='__class__', default='d')|list }}", Ok("['d']")),
        ("{{ ['a']|selectattr('__class__')|list }}", Ok("[]")),
        ("{{ ['a']|selectattr('__class__', 'defined')|list }}", Ok("[]")),
        ("{{ ['a']|sort(attribute='__class__') }}", Ok("['a']")),
        ("{{ ['a']|groupby('__class__')|list }}", Ok("[(Undefined, ['a'])]")),
        ("{{ ['a']|sum(attribute='__class__') }}", Err("SecurityError: access to attribute '__class__' of 'str' object is unsafe.")),
        ("{{ ['a']|unique(attribute='__class__')|list }}", Ok("['a']")),
        ("{{ ['a']|join(',', attribute='__class__') }}", Ok("")),
        ("{{ ['a']|map('attr', '__class__')|list }}", Ok("[Undefined]")),
        ("{{ [{'k': 1}]|groupby('k')|first|attr('_fields') }}", Ok("")),
        ("{{ ([{'k': 1}]|groupby('k')|first)._fields }}", Ok("")),
        ("{{ ([{'k': 1}]|groupby('k')|first)._asdict() }}", Err("SecurityError: access to attribute '_asdict' of '_GroupTuple' object is unsafe.")),
        ("{{ ([{'k': 1}]|groupby('k')|first)._x }}", Ok("")),
        ("{{ ([{'k': 1}]|groupby('k')|first).count(1) }}", Ok("1")),
        ("{{ (1, 2).count(1) }}", Ok("1")),
        ("{{ [1].copy() }}", Ok("[1]")),
        ("{{ [1].sort }}", Ok("")),
        ("{{ [1].sort() }}", Err("SecurityError: access to attribute 'sort' of 'list' object is unsafe.")),
        ("{{ [1].sort.x }}", Err("SecurityError: access to attribute 'sort' of 'list' object is unsafe.")),
        ("{{ [1].index(1) }}", Ok("0")),
        ("{{ ''.__class__ is callable }}", Ok("True")),
        ("{{ ''.__class__ is string }}", Ok("False")),
        ("{{ ''.__class__ is none }}", Ok("False")),
        ("{{ ''.__class__ is iterable }}", Ok("True")),
        ("{{ ''.__class__ in 'a' }}", Err("TypeError: 'in <string>' requires string as left operand, not Undefined")),
        ("{{ ''.__class__ in ['a'] }}", Ok("False")),
        ("{{ 'a' in ''.__class__ }}", Ok("False")),
        ("{{ ''.__class__[0] }}", Err("SecurityError: access to attribute '__class__' of 'str' object is unsafe.")),
        ("{{ ''.__class__[0:1] }}", Err("SecurityError: access to attribute '__class__' of 'str' object is unsafe.")),
        ("{{ -''.__class__ }}", Err("SecurityError: access to attribute '__class__' of 'str' object is unsafe.")),
        ("{{ ''.__class__ > 1 }}", Err("SecurityError: access to attribute '__class__' of 'str' object is unsafe.")),
        ("{{ ''.__class__ or 'x' }}", Ok("x")),
        ("{{ (''.__class__ if true else 1) }}", Ok("")),
        ("{{ ''.__class__|upper }}", Ok("")),
        ("{{ ''.__class__|int }}", Err("SecurityError: access to attribute '__class__' of 'str' object is unsafe.")),
        ("{{ ''.__class__|e }}", Ok("")),
        ("{{ ''.__class__|first }}", Ok("")),
        ("{{ ''.__class__|join }}", Ok("")),
        ("{{ ''.__class__|items|list }}", Ok("[]")),
        ("{{ ''.__class__|dictsort }}", Err("SecurityError: access to attribute '__class__' of 'str' object is unsafe.")),
        ("{{ namespace(a=''.__class__).a }}", Ok("")),
        ("{{ namespace(__a=1) }}", Err("SecurityError: Chat templates cannot store underscore-prefixed attributes on a namespace, but got '__a'. Please rename the attribute.")),
        ("{{ namespace(a=1)['_b'] }}", Ok("")),
        ("{{ {''.__class__: 1} }}", Ok("{Undefined: 1}")),
        ("{{ ''.__class__.__class__ }}", Ok("")),
        ("{{ (''.__class__).format() }}", Err("SecurityError: access to attribute '__class__' of 'str' object is unsafe.")),
        ("{{ ''.__class__|default('d').x }}", Err("TemplateSyntaxError: expected token 'end of print statement', got '.'")),
        ("{{ ''.__class__|default('')|upper }}", Ok("")),
        ("{{ b.__class__ }}", Ok("")),
        ("{{ caller }}", Ok("")),
        ("{{ loop }}", Ok("")),
        ("{{ loop.x }}", Err("UndefinedError: 'loop' is undefined")),
        ("{{ varargs }}", Ok("")),
        ("{{ strftime_now.__globals__ }}", Ok("")),
        ("{{ strftime_now.__globals__.x }}", Err("SecurityError: access to attribute '__globals__' of 'function' object is unsafe.")),
        ("{{ raise_exception.__code__.x }}", Err("SecurityError: access to attribute '__code__' of 'function' object is unsafe.")),
        ("{{ strftime_now.func_code }}", Ok("")),
        ("{{ strftime_now.func_code.x }}", Err("UndefinedError: 'function object' has no attribute 'func_code'")),
        ("{{ namespace.mro }}", Ok("")),
        ("{{ namespace.mro() }}", Err("SecurityError: access to attribute 'mro' of 'type' object is unsafe.")),
        ("{{ namespace.mro.x }}", Err("SecurityError: access to attribute 'mro' of 'type' object is unsafe.")),
        ("{{ cycler.mro.x }}", Err("SecurityError: access to attribute 'mro' of 'type' object is unsafe.")),
        ("{{ joiner.x }}", Ok("")),
        ("{{ joiner.mro.x }}", Err("SecurityError: access to attribute 'mro' of 'type' object is unsafe.")),
        ("{{ range.mro }}", Ok("")),
        ("{{ range.mro.x }}", Err("UndefinedError: 'function object' has no attribute 'mro'")),
        ("{{ range.start }}", Ok("")),
        ("{{ range.x }}", Ok("")),
    ] {
        let got = render(source, json!({}));
        let same = match (&got, wanted) {
            (Ok(text), Ok(wanted)) => text == wanted,
            (Err(error), Err(wanted)) => {
                let (python, message) = wanted.split_once(": ").unwrap();
                error.message == message && (error.kind == ErrorKind::Security) == (python == "SecurityError")
            }
            _ => false,
        };
        if !same {
            wrong.push(format!("{source}: {got:?}, not {wanted:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
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
