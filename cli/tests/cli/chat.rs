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

/// Answers of a chat, and how much of their prompts was kept.
fn answers(text: &str) -> Vec<(String, u64)> {
    let mut answers = vec![(String::new(), 0)];
    for event in json_lines(text) {
        let last = answers.last_mut().unwrap();
        match event["event"].as_str().unwrap() {
            "text" => last.0 += event["text"].as_str().unwrap(),
            "end" => {
                last.1 = event["cached_tokens"].as_u64().unwrap();
                answers.push(Default::default());
            }
            _ => {}
        }
    }
    answers.pop();
    answers
}

#[test]
fn a_session_goes_on_where_it_was() {
    let folder = scratch("chat-session");
    let file = folder.join("talk.session");
    let name = file.to_str().unwrap();
    let model = demo();
    let base = ["chat", &model, "--json", "--greedy", "-n", "16"];
    let with =
        |more: &[&str], input: &str| run_with_input([&base[..], more].concat(), input.as_bytes());
    let turns = ["What is the capital of France?\n", "And of Italy?\n"];
    let at_once = answers(&with(&[], &turns.concat()).fine());
    let first = answers(&with(&["--session", name], turns[0]).fine());
    assert!(file.exists() && folder.join("talk.session.json").exists());
    let second = answers(&with(&["--session", name], turns[1]).fine());
    let said = |answers: &[(String, u64)]| -> Vec<String> {
        answers.iter().map(|(text, _)| text.clone()).collect()
    };
    assert_eq!([said(&first), said(&second)].concat(), said(&at_once));
    assert!(second[0].1 > 10, "{second:?}");

    // What does not fit is named, and the file stays as it is.
    let before = fs::read(&file).unwrap();
    run_with_input(["chat", &tiny(), "--session", name], b"ab\n").fails(6, "talk.session");
    with(&["--session", name, "--window", "64"], "ab\n").fails(2, "--window");
    with(&["--session", name, "--load", name], "ab\n").fails(2, "--load");
    assert_eq!(fs::read(&file).unwrap(), before);
    fs::write(&file, &before[..before.len() / 2]).unwrap();
    with(&["--session", name], "ab\n").fails(5, "talk.session");
    fs::remove_file(folder.join("talk.session.json")).unwrap();
    fs::write(&file, &before).unwrap();
    with(&["--session", name], "ab\n").fails(3, "talk.session.json");
    let nowhere = folder.join("talk.session/below");
    with(&["--session", nowhere.to_str().unwrap()], "ab\n").fails(4, "talk.session");
}
