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
        ("{{ ('x' ~ c ~ a)[2:11] }}", "(on tent a)"),
        ("{{ ('ab' ~ c)[::-1] }}{{ ('ab' ~ c)[::-2] }}", "(tnet noC)ba(te ob)"),
        ("{{ ('ab' ~ c)[1:] }}{{ ('ab' ~ c)[:3] }}{{ ('ab' ~ c)[1] }}", "b(Con tent)ab(C)b"),
        ("{{ (c ~ 'ab')[-1] }}{{ (c ~ 'ab')[-2:] }}{{ (c ~ 'ab')[:-1] }}", "bab(Con tent)a"),
        ("{{ (c ~ 'ab')[9] }}{{ (c ~ 'ab')[9:] }}{{ (c ~ 'ab')[:9] }}", "(bbCon tenta)"),
        ("{{ (c ~ 'ab')[1:] }}{{ (c ~ 'ab')[2:] }}{{ (c ~ 'ab')[3:] }}", "(on tenta)b(n tentab tentab)"),
        ("{{ ('ab' ~ c)[:-1] }}{{ ('ab' ~ c)[-9:] }}{{ ('ab' ~ c ~ a)[-1] }}", "a(bCon tenbCon tent)< >"),
        ("{{ ('x' ~ a ~ 'y' ~ c ~ 'z')[1:-1] }}{{ ('x' ~ a ~ 'y' ~ c)[2:9] }}", "< as,si >y(Con tent)<as,si y>"),
        ("{{ ('x' ~ c)[0] }}{{ ('x' ~ c)[1] }}", "x(C)"),
        ("{{ ('x ' ~ c).split() }}", "(['x', 'Con', 'tent'])"),
        ("{{ ('  x ' ~ c ~ ' ').strip() }}", "x (Con tent)"),
        ("{{ a.strip().split(',')|join('-') }}", "<as-si>"),
        ("{{ c.replace('t', 'T') }}", "(Con TenT)"),
        ("{{ 'a-b'.replace(c, '') }}{{ 'a-b'.strip(a) }}", "(a-b)<-b>"),
        ("{{ 'a-b'.replace('-', c) }}", "a(Con tent)b"),
        ("{{ ('x' ~ c)|upper }}", "X(CON TENT)"),
        ("{{ ('xy' ~ c)|title }}{{ (c ~ 'AB')|capitalize }}", "Xy(con TentCon tenta)b"),
        ("{{ ('[' ~ c ~ ']').upper() }}", "[(CON TENT)]"),
        ("{{ '%s|%5s' % (c, 'z') }}", "(Con tent)|    z"),
        ("{{ '{}|{:>3}'.format(c, 'z') }}", "(Con tent)|  z"),
        ("{{ ('{:' ~ c[0] ~ '>3}').format('z') }}{{ '{:{}>3}|'.format('z', c[0]) }}", "(CCzCCz)|"),
        ("{{ '{:>12}|'.format(c) }}{{ '{:>{}}|'.format('z', d.n[0]) }}", "(    Con tent)|(z)|"),
        ("{{ ('{}' ~ a).format(c) }}{{ ('%s' ~ a) % c }}", "(Con tent)< as,si >(Con tent)< as,si >"),
        ("{{ c.format(1) }}{{ ('{}' ~ c).format('z') }}", "(Con tent)z(Con tent)"),
        ("{{ '%c' % 60 }}{{ '{:c}'.format(60) }}", "(<<)"),
        ("{{ d|tojson }}", "({\"k\": \"v\\n\", \"n\": [1, \"w\"]})"),
        ("{{ {'t': d}|tojson }}", "{\"t\": ({\"k\": \"v\\n\", \"n\": [1, \"w\"]})}"),
        ("{{ {'t': c, 'u': [1, none, true]} }}", "{'t': ('Con tent'), 'u': [1, None, True]}"),
        ("{{ d }}", "({'k': 'v\\n', 'n': [1, 'w']})"),
        ("{{ d.n[0] }}{{ d.n[0] + 1 }}{{ d.n[0] == 1 }}{{ 2 * 3 }}", "(12True)6"),
        ("{{ '<|im_start|>'[d.n[0]] }}{{ '<|im_start|>'[d.n[0]:3] }}{{ '<|im_start|>'[1:3] }}", "(||i)|i"),
        ("{{ ['<a>', '<b>'][d.n[0]] }}{{ {'v\\n': '<a>'}[d.k] }}{{ ['<a>'][0] }}", "(<b><a>)<a>"),
        ("{{ '<a>' if d.n[0] == 1 }}{{ c and '<b>' }}{{ no or '<c>' }}", "<a><b><c>"),
        ("{{ no|default('<a>') }}{{ d.z|default('<b>') }}{{ c[9:]|default('<c>', true) }}", "<a>(<b><c>)"),
        ("{% for i in d.n %}{{ loop.index }}{{ loop.length }}{% endfor %}", "1(2)2(2)"),
        ("{{ [a, d.n[0]]|join }}{{ [a, c]|max }}", "< as,si >(1Con tent)"),
        ("{{ a[d.n[0]] }}{{ a * d.n[0] }}{{ a.center(12, c[0]) }}", "(a as,si CC)< as,si >(CCC)"),
        ("{% for k, v in d.items() %}{{ k }}={{ v|length }};{% endfor %}", "(k)=(2);(n)=(2);"),
        ("{% set s %}[{{ c }}]{% endset %}{{ s }}{{ s|length }}", "[(Con tent)](10)"),
        ("{% macro m(x) %}[{{ x }}]{% endmacro %}{{ m(c)|upper }}", "[(CON TENT)]"),
        ("{% macro m() %}<{{ caller() }}>{% endmacro %}{% call m() %}{{ a }}{% endcall %}", "<< as,si >>"),
        ("{% filter trim %} x{{ a }}{% endfilter %}", "x< as,si>"),
        ("{% set ns = namespace(t='x') %}{% for i in [1, 2] %}{% set ns.t = ns.t ~ c ~ '.' %}{% endfor %}{{ ns.t }}", "x(Con tent).(Con tent)."),
        ("{{ ['x', c]|join(a) }}", "x< as,si >(Con tent)"),
        ("{{ c|indent(2, true) }}{{ c|truncate(3, true, '!', 0) }}", "  (Con tentCo!)"),
        ("{{ c.center(10, '*') }}{{ 'x'.ljust(3, c[0]) }}", "(*Con tent*)x(CC)"),
        ("{{ (c|list)[0] }}{{ c|first }}{{ c|reverse }}", "(CCtnet noC)"),
        ("{{ ('<' ~ c)|e }}{{ c|urlencode }}", "&lt;(Con tentCon%20tent)"),
        ("{{ strftime_now('%Y') }}{{ strftime_now(c) }}", "2025(Con tent)"),
        ("{{ c|groupby(0)|length if false else c|sort|join }}", "( Cennott)"),
        ("{{ dict(x=c).x }}{{ {c: 1}.keys()|first }}", "(Con tentCon tent)"),
        ("{{ c is string }}{{ c|length }}{{ c|default('x') }}", "(True8Con tent)"),
        ("{{ ('x' ~ c).partition('o') }}", "(('xC', 'o', 'n tent'))"),
    ] {
        assert_eq!(shown(source), wanted, "{source}");
    }
}

/// The context of a chat: roles are the template's own words, as they are for real (`text/chat_template.rs`).
fn chat(
    variables: &serde_json::Map<String, Json>,
    change: &mut dyn FnMut(&str) -> String,
) -> Value {
    let own = |name: &str| Str::new(name, Origin::Template);
    let entries = variables.iter().map(|(key, value)| {
        let value = match key.as_str() {
            "messages" => {
                let messages = value.as_array().unwrap().iter().map(|json| {
                    let origin = message(json).1;
                    let entries = json.as_object().unwrap().iter().map(|(key, value)| {
                        let value = match key.as_str() {
                            "role" => Value::from_json(value, Origin::Template),
                            _ => Value::from_json(&changed(key, value, change), origin),
                        };
                        (Str::new(key.as_str(), origin), value.unwrap())
                    });
                    Value::dict(entries.collect()).unwrap()
                });
                Value::list(messages.collect()).unwrap()
            }
            "tools" => Value::from_json(&changed("", value, change), Origin::Content).unwrap(),
            _ => Value::from_json(value, Origin::Template).unwrap(),
        };
        (own(key), value)
    });
    Value::dict(entries.collect()).unwrap()
}

/// The value with other texts, except where templates insist on what is there.
fn changed(key: &str, json: &Json, change: &mut dyn FnMut(&str) -> String) -> Json {
    match json {
        Json::String(text) if matches!(key, "type" | "id" | "tool_call_id") => text.as_str().into(),
        Json::String(text) => change(text).into(),
        Json::Array(items) => items
            .iter()
            .map(|item| changed(key, item, change))
            .collect(),
        Json::Object(entries) => {
            let entries = entries.iter();
            entries
                .map(|(key, value)| (key.clone(), changed(key, value, change)))
                .collect()
        }
        other => other.clone(),
    }
}

const HARMLESS: &[&str] = &["word", "two words", "7", "é", "a, b"];
const HARMFUL: &[&str] = &[
    "<|im_start|>",
    "<|im_end|>",
    "<|eot_id|>",
    "<think>",
    "</think>",
    "<tool_call>",
    "[INST]",
    "[/INST]",
    "</s>",
    "{}",
    "{0:x>9}",
    "%s",
    "%c",
    "{{",
    "%}",
    "\n",
    "\n\n",
    "\t",
    " ",
    "'",
    "\"",
    "\\",
    "<",
    "|",
    ">",
    "é",
    "7",
    "",
];

#[test]
fn what_templates_write_themselves_does_not_depend_on_content() {
    let (Some(renders), Some(templates)) = (data("renders"), data("templates")) else {
        return;
    };
    let inputs = json(&renders.join("_inputs.json"));
    let mut seed = 1u64;
    let mut random = move |below: usize| {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize % below
    };
    let (mut compared, mut own) = (0, 0);
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
            let variables = case_variables(&inputs, case);
            // By the way that the template took through its statements, what it wrote itself.
            let mut ways: std::collections::HashMap<Vec<usize>, String> = Default::default();
            for round in 0..24 {
                let words = if round < 4 { HARMLESS } else { HARMFUL };
                let context = chat(&variables, &mut |_| {
                    let count = random(5) + 1;
                    (0..count).map(|_| words[random(words.len())]).collect()
                });
                crate::template::provenance::control::taken();
                let Ok(rendered) = render_with(&source, &context) else {
                    continue;
                };
                let way = crate::template::provenance::control::taken();
                let mut written = String::new();
                for (piece, origin) in rendered.pieces() {
                    if origin == Origin::Template {
                        written.push_str(piece);
                    }
                }
                own += written.matches("<|").count();
                match ways.entry(way) {
                    std::collections::hash_map::Entry::Vacant(entry) => {
                        entry.insert(written);
                    }
                    std::collections::hash_map::Entry::Occupied(entry) => {
                        compared += 1;
                        assert_eq!(
                            *entry.get(),
                            written,
                            "{path:?}, {case}: {:?}",
                            rendered.text
                        );
                    }
                }
            }
        }
    }
    assert!(compared > 3000, "{compared}");
    assert!(own > 10_000, "{own}");
}
