//! Who wrote each character.

use super::corpus::case_variables;
use super::*;

/// Characters that no template writes: private use, one each for the origins.
const CONTENT: char = '\u{e000}';
const ASSISTANT: char = '\u{e001}';

/// Puts the mark into every string of a value, keys included, and has all of it be of the origin.
fn marked(json: &Json, origin: Origin) -> Json {
    let mark = match origin {
        Origin::Assistant => ASSISTANT,
        _ => CONTENT,
    };
    match json {
        Json::String(text) => Json::String(format!("{mark}{text}{mark}")),
        Json::Array(items) => items.iter().map(|item| marked(item, origin)).collect(),
        Json::Object(entries) => entries
            .iter()
            .map(|(key, value)| (key.clone(), marked(value, origin)))
            .collect(),
        other => other.clone(),
    }
}

/// Content that is marked, in messages whose roles still mean something.
fn message(json: &Json) -> (Json, Origin) {
    let origin = match json["role"].as_str() {
        Some("assistant") => Origin::Assistant,
        _ => Origin::Content,
    };
    let entries = json.as_object().unwrap().iter().map(|(key, value)| {
        let value = match key.as_str() {
            "role" => value.clone(),
            _ => marked(value, origin),
        };
        (key.clone(), value)
    });
    (entries.collect(), origin)
}

fn context(variables: &serde_json::Map<String, Json>) -> Value {
    let entries = variables.iter().map(|(key, value)| {
        let value = match key.as_str() {
            "messages" => {
                let messages = value.as_array().unwrap().iter().map(|json| {
                    let (json, origin) = message(json);
                    Value::from_json(&json, origin).unwrap()
                });
                Value::list(messages.collect()).unwrap()
            }
            "tools" => Value::from_json(&marked(value, Origin::Content), Origin::Content).unwrap(),
            _ => Value::from_json(value, Origin::Template).unwrap(),
        };
        (Str::new(key.as_str(), Origin::Template), value)
    });
    Value::dict(entries.collect()).unwrap()
}

#[test]
fn no_template_makes_content_its_own() {
    let (Some(renders), Some(templates)) = (data("renders"), data("templates")) else {
        return;
    };
    let inputs = json(&renders.join("_inputs.json"));
    let (mut rendered_cases, mut marks) = (0, 0);
    for entry in std::fs::read_dir(templates).unwrap() {
        let path = entry.unwrap().path();
        if path
            .extension()
            .is_none_or(|extension| extension != "jinja")
        {
            continue;
        }
        let source = std::fs::read_to_string(&path).unwrap();
        for case in inputs["cases"].as_object().unwrap().keys() {
            // Some templates refuse some of the cases, marked or not.
            let Ok(rendered) = render_with(&source, &context(&case_variables(&inputs, case)))
            else {
                continue;
            };
            rendered_cases += 1;
            let mut joined = String::new();
            for (piece, origin) in rendered.pieces() {
                joined.push_str(piece);
                let content = piece.matches(CONTENT).count();
                let assistant = piece.matches(ASSISTANT).count();
                marks += content + assistant;
                let allowed = match origin {
                    Origin::Template => content + assistant == 0,
                    Origin::Assistant => content == 0,
                    Origin::Content => assistant == 0,
                };
                assert!(allowed, "{path:?}, {case}: {origin:?} {piece:?}");
            }
            assert_eq!(joined, rendered.text);
        }
    }
    assert!(rendered_cases >= 230, "{rendered_cases}");
    assert!(marks > 2000, "{marks}");
}

/// `text` with every piece that is not the template's in brackets of its kind.
fn shown(source: &str) -> String {
    let context = Value::dict(vec![
        (
            Str::new("c", Origin::Template),
            Value::str("Con tent", Origin::Content),
        ),
        (
            Str::new("a", Origin::Template),
            Value::str(" as,si ", Origin::Assistant),
        ),
        (
            Str::new("d", Origin::Template),
            Value::from_json(
                &serde_json::json!({"k": "v\n", "n": [1, "w"]}),
                Origin::Content,
            )
            .unwrap(),
        ),
    ])
    .unwrap();
    let rendered = render_with(source, &context).unwrap();
    rendered
        .pieces()
        .map(|(piece, origin)| match origin {
            Origin::Template => piece.to_string(),
            Origin::Assistant => format!("<{piece}>"),
            Origin::Content => format!("({piece})"),
        })
        .collect()
}

#[test]
fn every_operation_keeps_origins() {
    for (source, wanted) in [
        ("x{{ c }}y{{ a }}", "x(Con tent)y< as,si >"),
        ("{{ 'x' + c + 'y' }}", "x(Con tent)y"),
        ("{{ ('x' ~ c ~ a)[2:11] }}", "(on tent)< a>"),
        ("{{ ('ab' ~ c)[::-2] }}", "(te o)b"),
        ("{{ ('x' ~ c)[0] }}{{ ('x' ~ c)[1] }}", "x(C)"),
        ("{{ ('x ' ~ c).split() }}", "['x', '(Con)', '(tent)']"),
        ("{{ ('  x ' ~ c ~ ' ').strip() }}", "x (Con tent)"),
        ("{{ a.strip().split(',')|join('-') }}", "<as>-<si>"),
        ("{{ c.replace('t', 'T') }}", "(Con )T(en)T"),
        ("{{ 'a-b'.replace('-', c) }}", "a(Con tent)b"),
        ("{{ ('x' ~ c)|upper }}", "X(CON TENT)"),
        ("{{ ('xy' ~ c)|title }}{{ (c ~ 'AB')|capitalize }}", "Xy(con TentCon tent)ab"),
        ("{{ '%s|%5s' % (c, 'z') }}", "(Con tent)|    z"),
        ("{{ '{}|{:>3}'.format(c, 'z') }}", "(Con tent)|  z"),
        ("{{ c.format(1) }}{{ ('{}' ~ c).format('z') }}", "(Con tent)z(Con tent)"),
        ("{{ '%c' % 60 }}{{ '{:c}'.format(60) }}", "(<<)"),
        ("{{ d|tojson }}", "{\"(k)\": \"(v\\n)\", \"(n)\": [1, \"(w)\"]}"),
        ("{{ d }}", "{'(k)': '(v\\n)', '(n)': [1, '(w)']}"),
        ("{% for k, v in d.items() %}{{ k }}={{ v|length }};{% endfor %}", "(k)=2;(n)=2;"),
        ("{% set s %}[{{ c }}]{% endset %}{{ s }}{{ s|length }}", "[(Con tent)]10"),
        ("{% macro m(x) %}[{{ x }}]{% endmacro %}{{ m(c)|upper }}", "[(CON TENT)]"),
        ("{% macro m() %}<{{ caller() }}>{% endmacro %}{% call m() %}{{ a }}{% endcall %}", "<< as,si >>"),
        ("{% filter trim %} x{{ a }}{% endfilter %}", "x< as,si>"),
        ("{% set ns = namespace(t='x') %}{% for i in [1, 2] %}{% set ns.t = ns.t ~ c ~ '.' %}{% endfor %}{{ ns.t }}", "x(Con tent).(Con tent)."),
        ("{{ ['x', c]|join(a) }}", "x< as,si >(Con tent)"),
        ("{{ c|indent(2, true) }}{{ c|truncate(3, true, '!', 0) }}", "  (Con tentCo)!"),
        ("{{ c.center(10, '*') }}{{ 'x'.ljust(3, c[0]) }}", "*(Con tent)*x(CC)"),
        ("{{ (c|list)[0] }}{{ c|first }}{{ c|reverse }}", "(CCtnet noC)"),
        ("{{ ('<' ~ c)|e }}{{ c|urlencode }}", "&lt;(Con tentCon%20tent)"),
        ("{{ strftime_now('%Y') }}{{ strftime_now(c) }}", "2025(Con tent)"),
        ("{{ c|groupby(0)|length if false else c|sort|join }}", "( Cennott)"),
        ("{{ dict(x=c).x }}{{ {c: 1}.keys()|first }}", "(Con tentCon tent)"),
        ("{{ c is string }}{{ c|length }}{{ c|default('x') }}", "True8(Con tent)"),
        ("{{ ('x' ~ c).partition('o') }}", "('x(C)', '(o)', '(n tent)')"),
    ] {
        assert_eq!(shown(source), wanted, "{source}");
    }
}
