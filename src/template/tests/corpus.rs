//! Published chat templates, rendered as transformers renders them.

use super::*;

/// The variables of one of the shared cases, as one dict.
pub(super) fn case_variables(inputs: &Json, case: &str) -> serde_json::Map<String, Json> {
    let mut variables = inputs["vars"].as_object().unwrap().clone();
    let prompt = inputs["add_generation_prompt"].clone();
    variables.insert("add_generation_prompt".into(), prompt);
    variables.extend(inputs["cases"][case].as_object().unwrap().clone());
    variables
}

#[test]
fn renders_equal_transformers() {
    let (Some(renders), Some(templates)) = (data("renders"), data("templates")) else {
        return;
    };
    let inputs = json(&renders.join("_inputs.json"));
    let mut count = 0;
    for entry in std::fs::read_dir(&renders).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_string();
        if name == "_inputs" {
            continue;
        }
        let source = std::fs::read_to_string(templates.join(format!("{name}.jinja"))).unwrap();
        for (case, wanted) in json(&path).as_object().unwrap() {
            let variables = Json::Object(case_variables(&inputs, case));
            let got = render(&source, variables);
            match wanted["text"].as_str() {
                Some(text) => assert_eq!(got.unwrap(), text, "{name}, {case}"),
                None => {
                    let error = got.expect_err(&name);
                    let python = wanted["error"].as_str().unwrap();
                    let (_, message) = python.split_once(": ").unwrap();
                    assert_eq!(error.message, message, "{name}, {case}");
                }
            }
            count += 1;
        }
    }
    assert_eq!(count, 270);
}

#[test]
fn oneliners_equal_jinja2() {
    let Some(path) = data("jinja/oneliners.json") else {
        return;
    };
    let file = json(&path);
    let entries = file["context"].as_object().unwrap().iter();
    let entries = entries.map(|(key, value)| {
        // More digits than serde_json keeps.
        let value = match key.as_str() {
            "big" => Value::int_from_digits("12345678901234567890123").unwrap(),
            _ => Value::from_json(value, Origin::Content).unwrap(),
        };
        (Str::new(key.as_str(), Origin::Content), value)
    });
    let context = Value::dict(entries.collect()).unwrap();
    let cases = file["cases"].as_array().unwrap();
    for case in cases {
        let source = case["template"].as_str().unwrap();
        let got = render_with(source, &context);
        match case["text"].as_str() {
            Some(text) => assert_eq!(got.unwrap().text, text, "{source}"),
            None => {
                let error = got.expect_err(source);
                let (_, message) = case["error"].as_str().unwrap().split_once(": ").unwrap();
                assert_eq!(error.message, message, "{source}");
            }
        }
    }
    assert_eq!(cases.len(), 53);
}

#[test]
fn a_long_chat_takes_few_steps() {
    let Some(templates) = data("templates") else {
        return;
    };
    let messages: Vec<Json> = (0..1000)
        .map(|i| {
            let role = if i % 2 == 0 { "user" } else { "assistant" };
            serde_json::json!({"role": role, "content": format!("Message {i}, and some words more.")})
        })
        .collect();
    let context = serde_json::json!({
        "messages": messages, "bos_token": "<s>", "eos_token": "</s>", "add_generation_prompt": true,
    });
    let context = Value::from_json(&context, Origin::Content).unwrap();
    for entry in std::fs::read_dir(templates).unwrap() {
        let path = entry.unwrap().path();
        if path
            .extension()
            .is_none_or(|extension| extension != "jinja")
        {
            continue;
        }
        let source = std::fs::read_to_string(&path).unwrap();
        match render_with(&source, &context) {
            // One template looks through the whole history for every message.
            Ok(rendered) => assert!(rendered.steps < 8_000_000, "{path:?}: {}", rendered.steps),
            Err(error) => assert_ne!(error.kind, ErrorKind::Limit, "{path:?}: {error}"),
        }
    }
}
