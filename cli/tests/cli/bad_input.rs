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
        with("nobody/nothing").fails(3, "nobody/nothing");
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
    with(&["--kv-bits", "4"]).fails(7, "--kv-bits");
    with(&["--draft-model", &model]).fails(7, "--draft-model");
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
