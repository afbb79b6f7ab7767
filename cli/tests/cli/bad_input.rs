//! Each class of errors: its exit code, and a sentence that names what is wrong.

use std::fs;

use crate::{fixture, json_lines, run, run_with_input, scratch, tiny};

fn broken_model() -> String {
    let folder = scratch("broken-model");
    for name in [
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "model.safetensors",
    ] {
        fs::copy(format!("{}/{name}", tiny()), folder.join(name)).unwrap();
    }
    fs::write(folder.join("config.json"), "{\"model_type\": \"qwen3\", ").unwrap();
    folder.to_str().unwrap().to_owned()
}

#[test]
fn models() {
    for command in ["info", "generate", "bench", "chat"] {
        let prompt: &[&str] = if command == "generate" { &["hi"] } else { &[] };
        let with = |model: &str| run([&[command, model], prompt].concat());
        with("/no/such/folder").fails(3, "\"/no/such/folder\"");
        with("nobody/nothing").fails(3, "huggingface-cli download nobody/nothing");
        with(&broken_model()).fails(5, "config.json");
    }
}

#[test]
fn errors_are_json_too() {
    let ran = run(["info", "/no/such/folder", "--json"]).fails(3, "/no/such/folder");
    let error = &json_lines(&ran.out)[0];
    assert_eq!(error["event"], "error");
    assert_eq!(error["code"], "NOT_FOUND");
    assert_eq!(error["exit"], 3);
    assert!(error["message"]
        .as_str()
        .unwrap()
        .contains("/no/such/folder"));
}

/// What is wrong with options is told before there is a command that could tell it.
#[test]
fn wrong_usage_is_json_too() {
    let model = tiny();
    for (arguments, exit, code, words) in [
        (
            &["generate", &model, "x", "--json", "--nonsense"][..],
            2,
            "INVALID_ARGUMENT",
            "'--nonsense'",
        ),
        (
            &["--json", "generate", &model, "x", "--top-p", "7"],
            2,
            "INVALID_ARGUMENT",
            "--top-p",
        ),
        (
            &["train", &model, "--json"],
            2,
            "INVALID_ARGUMENT",
            "--data <FILE|FOLDER> --out <FOLDER>",
        ),
        (&["--json"], 2, "INVALID_ARGUMENT", "no command"),
        (&["nonsense", "--json"], 2, "INVALID_ARGUMENT", "'nonsense'"),
        (&["generate", "--json"], 2, "INVALID_ARGUMENT", "no model"),
        (
            &["generate", &model, "x", "--json", "--kv-bits", "4"],
            7,
            "UNSUPPORTED",
            "--kv-bits",
        ),
        (
            &["chat", &model, "--json", "--presence-penalty", "x"],
            2,
            "INVALID_ARGUMENT",
            "--presence-penalty",
        ),
    ] {
        let ran = run(arguments);
        assert_eq!(ran.code, Some(exit), "{arguments:?}: {}", ran.err);
        let lines = json_lines(&ran.out);
        assert_eq!(lines.len(), 1, "{arguments:?}: {}", ran.out);
        let (error, message) = (&lines[0], lines[0]["message"].as_str().unwrap());
        assert_eq!(
            (&error["event"], &error["code"], &error["exit"]),
            (&"error".into(), &code.into(), &exit.into())
        );
        assert!(
            message.contains(words) && !message.contains('\n'),
            "{arguments:?}: {message:?}"
        );
        assert!(!message.contains("Usage"), "{message:?}");
        assert!(!ran.err.is_empty());
    }
    // Without it standard output stays empty, and behind "--" it is text.
    assert_eq!(run(["generate", &model, "x", "--nonsense"]).out, "");
    assert_eq!(
        run(["generate", &model, "--", "x", "--json", "--nonsense"]).out,
        ""
    );
    // Help and the version are no errors.
    assert!(run(["--help", "--json"]).fine().contains("Exit codes"));
}

#[test]
fn a_model_and_a_prompt_are_given_once() {
    let model = tiny();
    run(["generate"]).fails(
        2,
        "no model: give a folder or an id as MODEL or with --model",
    );
    run(["info", &model, "-m", &model]).fails(2, "two models");
    run(["generate", "-m", &model, "a", "b"]).fails(2, "one argument too many");
    for more in [&["-p", "b"][..], &["--file", "f"], &["--messages", "f"]] {
        run([&["generate", &model, "a"], more].concat()).fails(2, "two prompts");
    }
    run(["generate", &model, "-p", "b", "--file", "f"]).fails(2, "--file");
    run(["save", &model]).fails(2, "no folder to write to");
    run(["save", &model, "a", "--out", "b"]).fails(2, "OUT is given twice");
    run(["save", "-m", &model, "a", "b"]).fails(2, "one argument too many");
    run(["chat"]).fails(2, "no model");
}

#[test]
fn options() {
    let model = tiny();
    let with = |more: &[&str]| run([&["generate", &model, "abc"], more].concat());
    for (more, words) in [
        (&["--top-p", "0"][..], "--top-p"),
        (&["--top-p", "1.5"], "--top-p"),
        (&["-n", "0"], "--max-tokens"),
        (&["--seed", "0"], "--seed"),
        (&["--temperature", "nan"], "--temperature"),
        (&["--stop", ""], "--stop"),
        (&["--logit-bias", "5"], "42=-1.5"),
        (&["--template-args", "[1]"], "JSON object"),
        (&["--memory-limit", "lots"], "8G"),
        (&["--adapter-scaled", "x", "much"], "SCALE"),
        (&["--logprobs"], "--json"),
        (&["--nonsense"], "--nonsense"),
        (&["--raw", "--system", "x"], "--system"),
        // The library looks at these.
        (&["--presence-penalty", "3"], "--presence-penalty"),
        (&["--stop-token", "99999"], "--stop-token is 99999"),
        (&["--logit-bias", "99999=1"], "--logit-bias"),
    ] {
        with(more).fails(2, words);
    }
    with(&["--kv-bits", "4"]).fails(7, "--kv-bits: the model has heads of 16 numbers");
    with(&["--draft-model", "/nowhere"]).fails(3, "--draft-model: there is no folder");
    with(&["--thinking-budget=-1"]).fails(2, "--thinking-budget");
    with(&["--thinking-budget", "1", "--no-thinking"]).fails(2, "--no-thinking");
    // Not the temperature.
    with(&["-t", "0.7"]).fails(2, "the temperature is --temperature");
    with(&["-t", "0"]).fails(2, "from 1 to 1024");
    with(&["--memory-limit", "2000"]).fails(8, "memory");
    with(&["--context", "4"]).fails(9, "context");
    let long = ["--timeout", "0.001", "--ignore-eos", "-n", "1000"];
    with(&long).fails(12, "--timeout");
}

#[test]
fn prompts() {
    let model = tiny();
    run(["generate", &model]).fails(2, "the prompt is empty");
    run_with_input(["generate", &model], b"a\nb\xff")
        .fails(2, "standard input is not UTF-8 text: see line 2");
    run(["generate", &model, "--file", "/no/prompt"]).fails(3, "\"/no/prompt\"");
    run(["generate", &model, "--file", "/"]).fails(4, "\"/\"");
    let folder = scratch("bad-prompts");
    let file = |name: &str, text: &str| {
        let path = folder.join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let messages = file("messages.json", r#"[{"role":"user"}]"#);
    run(["generate", &model, "--messages", &messages]).fails(2, "messages[0]");
    let tools = file("tools.json", "{");
    run(["generate", &model, "hi", "--tools", &tools]).fails(2, "tools");
}

#[test]
fn adapters() {
    let model = tiny();
    let with = |adapter: &str| run(["generate", &model, "abc", "--adapter", adapter]);
    with("/no/adapter").fails(3, "/no/adapter");
    with(&fixture("adapters/mlx-lora-llama-4bit-bf16-head")).fails(6, "");
}

#[test]
fn saving() {
    let (model, folder) = (tiny(), scratch("bad-saves"));
    let file = folder.join("file");
    fs::write(&file, "").unwrap();
    let (file, out) = (file.to_str().unwrap(), folder.join("out"));
    run(["save", &model, ""]).fails(2, "OUT");
    run(["save", &model, file]).fails(2, "is a file");
    run(["save", &model, &format!("{file}/out")]).fails(4, file);
    run(["save", "/no/model", out.to_str().unwrap()]).fails(3, "/no/model");
    let with = |adapter: &str| run(["save", &model, out.to_str().unwrap(), "--adapter", adapter]);
    with("/no/adapter=2").fails(3, "\"/no/adapter\"");
    with(&fixture("adapters/mlx-lora-llama-4bit-bf16-head")).fails(6, "");
    assert!(!out.exists());
    // Each is whole, and both replace the same weights.
    let whole = fixture("adapters/mlx-full-llama");
    let llama = fixture("models/llama-f32");
    run([
        "save",
        &llama,
        out.to_str().unwrap(),
        "--adapter",
        &whole,
        "--adapter",
        &whole,
    ])
    .fails(6, "");
    assert!(!out.exists());
}

#[test]
fn training_data() {
    let folder = scratch("bad-data");
    let out = folder.join("out");
    let file = |name: &str, text: &[u8]| {
        let path = folder.join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let model = tiny();
    let with = |data: &str| {
        run([
            "train",
            &model,
            "--data",
            data,
            "--out",
            out.to_str().unwrap(),
            "--steps",
            "2",
            "--batch-size",
            "1",
        ])
    };
    with("/no/data.jsonl").fails(3, "\"/no/data.jsonl\"");
    with(folder.to_str().unwrap()).fails(3, "train.jsonl");
    let good = "{\"text\":\"abc\"}\n";
    let bad = file(
        "bad.jsonl",
        format!("{good}{good}{{\"txt\":1}}\n").as_bytes(),
    );
    with(&bad).fails(2, "bad.jsonl\", line 3");
    let bad = file("json.jsonl", format!("{good}not json\n").as_bytes());
    with(&bad).fails(2, "json.jsonl\", line 2");
    let bad = file("bytes.jsonl", b"{\"text\":\"a\"}\n\xff\n");
    with(&bad).fails(2, "bytes.jsonl");
    let empty = file("empty.jsonl", b"");
    with(&empty).fails(2, "empty.jsonl");
    assert!(
        !out.exists(),
        "nothing was trained, so nothing may be there"
    );
    let fine = file("fine.jsonl", good.as_bytes());
    let valid = ["--valid", &bad];
    let base = [
        "train",
        &model,
        "--data",
        &fine,
        "--out",
        out.to_str().unwrap(),
        "--steps",
        "2",
        "--batch-size",
        "1",
    ];
    run(base.iter().chain(&valid)).fails(2, "bytes.jsonl");
    run(base.iter().chain(&["--plot", "curve.bmp"])).fails(2, ".svg or .png");
    run(base.iter().chain(&["--keys", "nonsense"])).fails(2, "nonsense");
    run(["train", &model, "--data", &fine, "--out", &fine]).fails(2, "is a file");
    run([
        "train",
        &model,
        "--data",
        &fine,
        "--out",
        "/proc/nothing/out",
    ])
    .fails(3, "/proc/nothing");
}
