//! Generated templates against jinja2; `tests/template/differential.py` writes the cases.

use super::*;

#[test]
fn generated_templates_equal_jinja2() {
    let file: Json =
        serde_json::from_str(include_str!("../../../tests/template/differential.json")).unwrap();
    let context = Value::from_json(&file["context"], Origin::Content).unwrap();
    let clock = || Now {
        minute: 34,
        second: 56,
        ..NOON
    };
    let limits = Limits::default();
    let cases = file["cases"].as_array().unwrap();
    for case in cases {
        let source = case["template"].as_str().unwrap();
        let got = Template::parse(source, &limits)
            .and_then(|template| template.render(&context, &clock, &limits));
        match (case["text"].as_str(), got) {
            (Some(text), Ok(rendered)) => {
                assert_eq!(rendered.text, text, "{source}");
                let joined: String = rendered.pieces().map(|(piece, _)| piece).collect();
                assert_eq!(joined, text, "{source}");
            }
            (None, Err(error)) => {
                assert_ne!(error.kind, ErrorKind::Limit, "{source}: {error}");
                if let Some(raised) = case["error"]
                    .as_str()
                    .unwrap()
                    .strip_prefix("TemplateError: ")
                {
                    // The file keeps the first line of a message.
                    assert_eq!(error.message.lines().next(), Some(raised), "{source}");
                }
            }
            (_, got) => panic!("{source}\n{case}\n{got:?}"),
        }
    }
    assert!(cases.len() >= 2000);
}
