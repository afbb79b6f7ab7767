//! `chat`, line by line from a pipe. What it does on a terminal is in `terminal`.

use std::fs;

use crate::{demo, fixture, json_lines, run_with_input, scratch, tiny};

#[test]
fn lines_are_answered() {
    let ran = run_with_input(
        ["chat", &demo(), "--greedy", "-n", "12"],
        b"What is the capital of France?\n",
    );
    assert_eq!(ran.fine(), "The capital of France is Paris.\n");
}

#[test]
fn a_conversation_is_kept_saved_and_loaded() {
    let folder = scratch("chat");
    let file = folder.join("talk.json");
    let name = file.to_str().unwrap();
    let input = format!("ab\nba\n/save {name}\n/reset\n/stats\n/load {name}\n/stats\nab\n/stats\n");
    let ran = run_with_input(
        [
            "chat",
            &tiny(),
            "--json",
            "-n",
            "3",
            "--greedy",
            "--ignore-eos",
            "--system",
            "b",
        ],
        input.as_bytes(),
    );
    let events = json_lines(&ran.fine());
    let stats: Vec<_> = events
        .iter()
        .filter(|e| e["event"] == "stats")
        .map(|e| e["messages"].clone())
        .collect();
    assert_eq!(stats, [1, 5, 7]);
    let ends: Vec<_> = events.iter().filter(|e| e["event"] == "end").collect();
    // The second turn computes only what is new.
    assert!(
        ends[1]["cached_tokens"].as_u64().unwrap() > 0,
        "{}",
        ends[1]
    );
    let saved: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    let roles: Vec<_> = saved
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m["role"].as_str().unwrap())
        .collect();
    assert_eq!(roles, ["system", "user", "assistant", "user", "assistant"]);
    assert_eq!(saved[1]["content"], "ab");
    let said: String = events
        .iter()
        .take_while(|e| e["event"] != "end")
        .filter_map(|e| e["text"].as_str())
        .collect();
    assert_eq!(saved[2]["content"], said);
}

#[test]
fn adapters_come_and_go() {
    let adapter = fixture("adapters/mlx-lora-qwen3-4bit");
    let model = fixture("models/qwen3-4bit");
    let turn = "/reset\nabc\n";
    let input =
        format!("{turn}/adapter {adapter}\n{turn}/adapter off\n{turn}/adapter {adapter}\n{turn}");
    let ran = run_with_input(
        [
            "chat",
            &model,
            "-n",
            "12",
            "--greedy",
            "--ignore-eos",
            "--json",
        ],
        input.as_bytes(),
    );
    let err = ran.err.clone();
    let mut answers = vec![String::new()];
    for event in json_lines(&ran.fine()) {
        match event["event"].as_str().unwrap() {
            "text" => answers
                .last_mut()
                .unwrap()
                .push_str(event["text"].as_str().unwrap()),
            _ => answers.push(String::new()),
        }
    }
    assert_eq!(answers[0], answers[2]);
    assert_eq!(answers[1], answers[3]);
    assert_ne!(answers[0], answers[1]);
    assert!(
        err.contains("With the adapter") && err.contains("No adapter."),
        "{err}"
    );
}

#[test]
fn bad_lines_end_a_pipe() {
    let chat = |input: &str| run_with_input(["chat", &tiny(), "-n", "2"], input.as_bytes());
    chat("/nonsense\n").fails(2, "/help");
    chat("/save\n").fails(2, "needs the name of a file");
    chat("/load /no/talk\n").fails(3, "/no/talk");
    chat("/save /no/folder/talk\n").fails(3, "/no/folder/talk");
    chat("/adapter /no/adapter\n").fails(3, "/no/adapter");
    let folder = scratch("bad-talk");
    let talk = folder.join("talk.json");
    fs::write(&talk, r#"[{"role":"user","content":5}]"#).unwrap();
    chat(&format!("/load {}\n", talk.display())).fails(2, "messages[0]");
    run_with_input(["chat", &tiny()], b"\xff\n").fails(2, "not UTF-8");
    assert_eq!(chat("/quit\n/nonsense\n").fine(), "");
}

#[test]
fn help_lists_every_command() {
    let out = run_with_input(["chat", &tiny()], b"/help\n").fine();
    for name in [
        "/adapter", "/save", "/load", "/system", "/reset", "/stats", "/help", "/quit",
    ] {
        assert!(out.contains(name), "{name} is not in {out}");
    }
}
