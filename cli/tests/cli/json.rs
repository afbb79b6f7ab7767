//! docs/json.md names every event and field of `--json`, and no other.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;

use crate::{fixture, json_lines, root, run, run_with_input, scratch, tiny};

/// (command, event, field).
type Row = (String, String, String);

fn in_backticks(text: &str) -> Vec<String> {
    text.split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

const COMMANDS: [&str; 9] = [
    "generate", "chat", "count", "score", "embed", "info", "bench", "train", "save",
];

/// "## generate, chat: `end`", and a table whose first cells have the fields.
fn written() -> BTreeSet<Row> {
    let page = fs::read_to_string(root().join("docs/json.md")).unwrap();
    let mut rows = BTreeSet::new();
    for section in page.split("\n## ").skip(1) {
        let heading = section.lines().next().unwrap();
        let (who, events) = heading.split_once(": ").unwrap();
        let commands: Vec<&str> = match who {
            "every command" => COMMANDS.to_vec(),
            list => list.split(", ").collect(),
        };
        let fields: Vec<_> = section
            .lines()
            .filter(|line| line.starts_with("| `"))
            .flat_map(|line| in_backticks(line.split('|').nth(1).unwrap()))
            .collect();
        assert!(!fields.is_empty(), "{heading} has no fields");
        for command in &commands {
            assert!(COMMANDS.contains(command), "{heading}");
            for event in in_backticks(events) {
                for field in &fields {
                    rows.insert(((*command).to_owned(), event.clone(), field.clone()));
                }
            }
        }
    }
    rows
}

fn seen() -> BTreeSet<Row> {
    let folder = scratch("json-rows");
    let data = folder.join("data.jsonl");
    fs::write(&data, "{\"text\":\"abcabc\"}\n".repeat(2)).unwrap();
    let (data, out) = (data.to_str().unwrap(), folder.join("out"));
    let saved = folder.join("saved");
    let adapter = fixture("adapters/mlx-lora-qwen3-4bit");
    let (out, saved, model, packed) = (
        out.to_str().unwrap(),
        saved.to_str().unwrap(),
        tiny(),
        fixture("models/qwen3-4bit"),
    );
    let mut rows = BTreeSet::new();
    let mut take = |command: &str, text: &str| {
        for line in json_lines(text) {
            let Value::Object(line) = line else {
                panic!("{line} is no object");
            };
            let event = line["event"].as_str().unwrap().to_owned();
            for field in line.keys().filter(|key| *key != "event") {
                rows.insert((command.to_owned(), event.clone(), field.clone()));
            }
        }
    };
    let sampled = ["-n", "4", "--ignore-eos", "--json"];
    let tops = ["--top-logprobs", "2", "--progress", "1"];
    take(
        "generate",
        &run([&["generate", &model, "abc"], &sampled[..], &tops].concat()).fine(),
    );
    // It thinks and calls a tool.
    let script = fixture("script");
    let both = ["--json", "--top-logprobs", "2"];
    take(
        "generate",
        &run([&["generate", &script, "abc"], &both[..]].concat()).fine(),
    );
    take(
        "chat",
        &run_with_input(["chat", &script, "--json"], b"abc\n").fine(),
    );
    // Each token is one that ends it.
    let stops: Vec<String> = (0..20).map(|id| format!("--stop-token={id}")).collect();
    let mut stopped: Vec<&str> = [
        &["generate", &model, "abc", "--logit-bias", "5=100"],
        &sampled[..],
    ]
    .concat();
    stopped.extend(stops.iter().map(String::as_str));
    take("generate", &run(stopped).fine());
    take(
        "chat",
        &run_with_input(
            [&["chat", &model], &sampled[..]].concat(),
            b"ab\n/stats\n/help\n",
        )
        .fine(),
    );
    take("count", &run(["count", &model, "abc", "--json"]).fine());
    take("score", &run(["score", &model, "abcabc", "--json"]).fine());
    take("embed", &run(["embed", &model, "abc", "--json"]).fine());
    take("info", &run(["info", &model, "--json"]).fine());
    take(
        "bench",
        &run(["bench", &model, "-p", "4", "-n", "2", "-r", "1", "--json"]).fine(),
    );
    let train = [
        "train",
        &model,
        "--data",
        data,
        "--out",
        out,
        "--steps",
        "2",
        "--batch-size",
        "1",
        "--json",
    ];
    take("train", &run(train).fine());
    take(
        "save",
        &run(["save", &packed, saved, "--adapter", &adapter, "--json"]).fine(),
    );
    for command in COMMANDS {
        take(
            command,
            &run([command, "/no/model", "--nonsense", "--json"]).out,
        );
    }
    rows
}

#[test]
fn every_field_is_written_down() {
    let (written, seen) = (written(), seen());
    let new: Vec<_> = seen.difference(&written).collect();
    assert!(new.is_empty(), "docs/json.md lacks {new:?}");
    // What is for later versions, or only with options that chat does not have.
    let absent = |row: &&Row| {
        let (command, event, field) = (row.0.as_str(), row.1.as_str(), row.2.as_str());
        !(command == "chat"
            && (event == "progress" || field.ends_with("logprobs") || field == "stop_index"))
    };
    let gone: Vec<_> = written.difference(&seen).filter(absent).collect();
    assert!(
        gone.is_empty(),
        "docs/json.md has, and nothing wrote, {gone:?}"
    );
    assert!(seen.len() > 80, "only {} fields were seen", seen.len());
}

#[test]
fn tokens_have_their_texts() {
    for model in [tiny(), fixture("models/llama-f32")] {
        let base = [
            "generate",
            &model,
            "abc",
            "--raw",
            "-n",
            "12",
            "--ignore-eos",
            "--seed",
            "3",
            "--temp",
            "1.5",
        ];
        let ran = run([&base[..], &["--json", "--top-logprobs", "3"]].concat());
        let (mut joined, mut text, mut special) = (String::new(), String::new(), false);
        for event in json_lines(&ran.fine())
            .iter()
            .filter(|event| event["event"] == "text")
        {
            let (tokens, texts) = (
                event["tokens"].as_array().unwrap(),
                event["token_texts"].as_array().unwrap(),
            );
            assert_eq!(tokens.len(), texts.len());
            text += event["text"].as_str().unwrap();
            for (place, own) in event["top_logprobs"].as_array().unwrap().iter().zip(texts) {
                let own = own.as_str().unwrap();
                special |= own.starts_with('<') && own.ends_with('>');
                joined += own;
                assert!(
                    place
                        .as_array()
                        .unwrap()
                        .iter()
                        .all(|top| top["text"].is_string()),
                    "{place}"
                );
            }
        }
        // Parts of characters stand for themselves, and special tokens are named and not shown.
        if !joined.contains('\u{fffd}') && !special {
            assert_eq!(joined, text, "{model}");
        }
        assert!(!joined.is_empty());
    }
}

/// Thinking, text and a call are events of their own; a budget cuts the first, and `--special` shows what the model wrote.
#[test]
fn thinking_and_calls_are_told_apart() {
    let script = fixture("script");
    let of = |more: &[&str]| {
        let ran = run([&["generate", &script, "How warm is it?"], more].concat());
        ran.fine()
    };
    let joined = |text: &str, event: &str| -> String {
        let lines = json_lines(text);
        let lines = lines.iter().filter(|line| line["event"] == event);
        lines.map(|line| line["text"].as_str().unwrap()).collect()
    };
    let text = of(&["--json"]);
    assert_eq!(joined(&text, "thinking"), "Let me look it up.");
    assert_eq!(joined(&text, "text"), "I ask:");
    let call: Value = serde_json::from_str(&joined(&text, "tool_call")).unwrap();
    assert_eq!(call["name"], "weather");
    assert_eq!(call["arguments"]["city"], "Oslo");
    let end = json_lines(&text).pop().unwrap();
    assert_eq!(end["stop"], "tool_call");
    assert_eq!(end["thinking_tokens"], 6);
    let cut = of(&["--json", "--thinking-budget", "2"]);
    assert_eq!(joined(&cut, "thinking"), "Let me");
    for off in [
        &["--json", "--no-thinking"][..],
        &["--json", "--thinking-budget", "0"],
    ] {
        assert_eq!(joined(&of(off), "thinking"), "");
    }
    let folder = scratch("tools");
    let tools = folder.join("tools.json");
    let schema =
        r#"{"type":"object","required":["city"],"properties":{"city":{"const":"Bergen"}}}"#;
    std::fs::write(
        &tools,
        format!(r#"[{{"name":"weather","parameters":{schema}}}]"#),
    )
    .unwrap();
    let tools = tools.to_str().unwrap();
    for more in [
        &["--strict-tools"][..],
        &["--tool-choice", "required"],
        &["--tool-choice", "weather"],
    ] {
        let text = of(&[&["--json", "--tools", tools], more].concat());
        let call: Value = serde_json::from_str(&joined(&text, "tool_call")).unwrap();
        assert_eq!(call["arguments"]["city"], "Bergen", "{more:?}");
        assert_eq!(joined(&text, "text").is_empty(), more[0] == "--tool-choice");
    }
    let script = fixture("script");
    run([
        "generate",
        &script,
        "a",
        "--tools",
        tools,
        "--tool-choice",
        "clock",
    ])
    .fails(2, "clock");
    // The line behind a call is what the tool gave.
    let said = b"How warm is it?\n-3\n";
    let chat = run_with_input(["chat", &script, "--tools", tools], said).fine();
    let called = chat.contains("\"city\":\"Oslo\"");
    assert!(called && chat.ends_with("It is cold.\n"), "{chat}");
    // For a pipe: the answer without what was thought, and calls on lines of their own.
    let plain = of(&[]);
    assert!(plain.starts_with("I ask:\n{\"id\":\""), "{plain}");
    assert!(of(&["--special"]).starts_with("<think>\nLet me look it up.\n</think>"));
}
