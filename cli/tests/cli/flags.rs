//! The flags that people know from mlx-lm and llama.cpp, and that every flag of the help does something.

use std::collections::BTreeSet;

use crate::{demo, fixture, json_lines, run, run_with_input, scratch, tiny};

const FRANCE: &str = "What is the capital of France?";
const PARIS: &str = "The capital of France is Paris.\n";

#[test]
fn a_line_of_mlx_lm_works() {
    let model = demo();
    let line =
        format!("generate --model {model} --max-tokens 12 --temp 0 --top-p 1.0 --seed 1 --prompt");
    let words = line.split(' ').chain([FRANCE]);
    assert_eq!(run(words).fine(), PARIS);
    let raw = [
        "generate",
        "--model",
        &model,
        "--ignore-chat-template",
        "-p",
        "Once",
        "-n",
        "3",
        "--temp",
        "0",
    ];
    assert_eq!(
        run(raw).fine(),
        run(["generate", &model, "Once", "--raw", "-n", "3", "--greedy"]).fine()
    );
    let system = [
        "generate",
        "--model",
        &model,
        "--system-prompt",
        "Be brief.",
        "-p",
        FRANCE,
        "-n",
        "3",
        "--temp",
        "0",
    ];
    run(system).fine();
}

#[test]
fn a_line_of_llama_cpp_works() {
    let line = format!(
        "generate -m {} -n 12 --temp 0 -c 512 -t 1 --repeat-penalty 1.0 -s 1 -p",
        demo()
    );
    assert_eq!(run(line.split(' ').chain([FRANCE])).fine(), PARIS);
    let line = line
        .replace("-n ", "--n-predict ")
        .replace("-c ", "--ctx-size ")
        .replace("-t ", "--threads ");
    assert_eq!(run(line.split(' ').chain([FRANCE])).fine(), PARIS);
}

#[test]
fn a_model_is_an_argument_or_an_option() {
    let model = demo();
    let end = ["--greedy", "-n", "12"];
    for start in [
        &["generate", &model, FRANCE][..],
        &["generate", "-m", &model, FRANCE],
        &["generate", &model, "-p", FRANCE],
        &["generate", "-p", FRANCE, "-m", &model],
        &["-m", &model],
    ] {
        let ran = match start {
            // Not an option of the program itself.
            ["-m", ..] => {
                run(start.iter().copied()).fails(2, "-m");
                continue;
            }
            _ => run([start, &end].concat()),
        };
        assert_eq!(ran.fine(), PARIS, "{start:?}");
    }
    let piped = run_with_input(
        ["generate", "-m", &model, "--greedy", "-n", "12"],
        FRANCE.as_bytes(),
    );
    assert_eq!(piped.fine(), PARIS);
    let chat = run_with_input(
        ["chat", "-m", &model, "-p", FRANCE, "--greedy", "-n", "12"],
        b"",
    );
    assert_eq!(chat.fine(), PARIS);
    assert_eq!(
        run(["info", "--model", &model]).fine(),
        run(["info", &model]).fine()
    );
    let out = scratch("named-out").join("out");
    let out = out.to_str().unwrap();
    let tiny = tiny();
    run(["save", "--model", &tiny, "--save-path", out]).fine();
    run(["save", "-m", &tiny, out, "--overwrite"]).fine();
    run(["save", &tiny, "-o", out, "--overwrite"]).fine();
}

#[test]
fn threads_and_context_reach_the_library() {
    let asked = |more: &[&str]| {
        json_lines(&run([&["info", &tiny(), "--json"], more].concat()).fine()).remove(0)
    };
    for flags in [["-t", "3"], ["--threads", "3"], ["-t", "1"]] {
        let given: u64 = flags[1].parse().unwrap();
        assert_eq!(asked(&flags)["device"]["kernels"]["threads"], given);
    }
    assert_eq!(asked(&["-c", "77"])["model"]["session_context"], 77);
}

#[test]
fn flags_of_mlx_lms_training_work() {
    let folder = scratch("mlx-lm-training");
    let (data, out) = (folder.join("data.jsonl"), folder.join("out"));
    std::fs::write(&data, "{\"text\":\"abcabc\"}\n".repeat(2)).unwrap();
    let line = format!(
        "train --model {} --data {} --adapter-path {} --iters 2 --batch-size 1 --num-layers 1 --max-seq-length 64 \
         --fine-tune-type dora --steps-per-report 1 --steps-per-eval 2 --save-every 2 --grad-checkpoint \
         --grad-accumulation-steps 1 --learning-rate 1e-4 --json",
        tiny(),
        data.display(),
        out.display()
    );
    let events = json_lines(&run(line.split_whitespace()).fine());
    assert_eq!(events.len(), 3, "{events:?}");
    assert!(out.join("adapters.safetensors").is_file());
}

/// The long flags that a command's help shows, hidden ones not.
fn shown(command: &str) -> BTreeSet<String> {
    let help = run([command, "--help"]).fine();
    let flag = |line: &str| {
        // What is further in goes on with a description.
        let line = line.get(2..).filter(|_| !line.starts_with("       "))?;
        let line = line.trim_start();
        let long = line.strip_prefix("--").or_else(|| {
            let (short, long) = line.split_once(", --")?;
            (short.starts_with('-') && short.len() == 2).then_some(long)
        })?;
        let end = long
            .find(|c: char| !c.is_ascii_alphanumeric() && c != '-')
            .unwrap_or(long.len());
        Some(format!("--{}", &long[..end]))
    };
    help.lines().filter_map(flag).collect()
}

/// Each flag that the help shows, given a value that makes sense, is taken: none is there to be refused.
#[test]
fn the_help_shows_nothing_that_is_refused() {
    let model = fixture("models/qwen3-4bit");
    let folder = scratch("every-flag");
    let file = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let prompt = file("prompt.txt", "abc");
    let messages = file(
        "messages.json",
        r#"[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]"#,
    );
    let tools = file("tools.json", "[]");
    let schema = file("schema.json", r#"{"enum":["a","b"]}"#);
    let grammar = file("grammar.lark", "start: \"a\" | \"b\"\n");
    let data = file(
        "data.jsonl",
        &"{\"prompt\":\"ab\",\"completion\":\"ba\"}\n".repeat(4),
    );
    let adapter = fixture("adapters/mlx-lora-qwen3-4bit");
    let kept = folder.join("kept").to_str().unwrap().to_owned();
    let plot = folder.join("curve.svg").to_str().unwrap().to_owned();
    let value = |flag: &str| -> Option<Vec<&str>> {
        Some(match flag {
            "--help" | "--version" | "--model" | "--data" | "--out" => return None,
            "--prompt" => vec!["abc"],
            "--file" => vec![&prompt],
            "--messages" => vec![&messages],
            "--continue-last" => vec!["--messages", &messages],
            "--tools" => vec![&tools],
            "--tool-choice" => vec!["auto", "--tools", &tools],
            "--strict-tools" => vec![],
            "--schema" => vec![&schema],
            "--grammar" => vec![&grammar],
            "--regex" => vec!["[ab]+"],
            "--system" => vec!["b"],
            "--no-bos" | "--special-as-text" => vec!["--raw"],
            "--logprobs"
            | "--greedy"
            | "--raw"
            | "--stats"
            | "--trust-content"
            | "--no-history"
            | "--ignore-eos"
            | "--special"
            | "--no-model-defaults"
            | "--json"
            | "--quiet"
            | "--verbose"
            | "--overwrite"
            | "--mask-prompt"
            | "--checkpoint"
            | "--follow-links"
            | "--normalize"
            | "--no-thinking"
            | "--summary" => vec![],
            "--load" => vec![&messages],
            "--session" => vec![&kept],
            "--keep" => vec!["2", "--window", "64"],
            "--window" | "--context" | "--max-tokens" | "--penalty-window" | "--batch-size" => {
                vec!["64"]
            }
            "--threads" | "--top-k" | "--seed" | "--progress" | "--top-logprobs"
            | "--stop-token" | "--timeout" | "--rank" | "--layers" | "--steps" | "--accumulate"
            | "--warmup" | "--report-every" | "--validate-every" | "--save-every" | "--repeat"
            | "--prompt-tokens" | "--generate-tokens" => vec!["1"],
            "--thinking-budget" | "--draft-tokens" => vec!["0"],
            "--draft-model" => vec![&model],
            "--kv-limit" | "--memory-limit" => vec!["1G"],
            "--kv-bits" => vec!["8"],
            "--kv-group-size" => vec!["32", "--kv-bits", "4"],
            "--device" => vec!["cpu"],
            "--color" => vec!["never"],
            "--adapter" => vec![&adapter],
            "--adapter-scaled" => vec![&adapter, "0.5"],
            "--stop" => vec!["zzz"],
            "--template-args" => vec!["{\"enable_thinking\":false}"],
            "--temperature"
            | "--top-p"
            | "--min-p"
            | "--xtc-probability"
            | "--xtc-threshold"
            | "--repetition-penalty"
            | "--presence-penalty"
            | "--frequency-penalty"
            | "--scale"
            | "--dropout"
            | "--weight-decay" => vec!["0.3"],
            "--learning-rate" => vec!["1e-4"],
            "--logit-bias" => vec!["5=1.5"],
            "--valid" => vec![&data],
            "--plot" => vec![&plot],
            "--kind" => vec!["dora"],
            "--pooling" => vec!["mean"],
            "--keys" => vec!["q_proj"],
            "--prefix" => vec!["abc"],
            "--sequence-length" => vec!["2"],
            "--dtype" => vec!["bf16"],
            "--schedule" => vec!["cosine"],
            "--optimizer" => vec!["sgd"],
            other => panic!("{other} is new: this test needs a value for it"),
        })
    };
    let out = folder.join("out").to_str().unwrap().to_owned();
    let mut tried = 0;
    for (command, base, short) in [
        ("generate", &["-m", &model][..], &["--max-tokens", "2"][..]),
        ("chat", &["-m", &model], &["--max-tokens", "2"]),
        ("count", &["-m", &model], &[]),
        ("score", &["-m", &model], &[]),
        ("embed", &["-m", &model], &[]),
        ("info", &["-m", &model], &[]),
        (
            "bench",
            &["-m", &model],
            &[
                "--prompt-tokens",
                "4",
                "--generate-tokens",
                "2",
                "--repeat",
                "1",
            ],
        ),
        (
            "train",
            &["-m", &model, "--data", &data, "--out", &out],
            &["--steps", "1", "--batch-size", "1"],
        ),
        ("save", &["-m", &model, "--out", &out], &["--overwrite"]),
    ] {
        let flags = shown(command);
        assert!(
            flags.contains("--model") && flags.contains("--threads"),
            "{flags:?}"
        );
        for flag in &flags {
            let Some(mut values) = value(flag) else {
                continue;
            };
            if flag == "--batch-size" {
                values = vec!["2"];
            }
            let mut arguments = vec![command];
            arguments.extend(base);
            arguments.push(flag);
            arguments.extend(&values);
            arguments.extend(short.chunks(2).filter(|pair| pair[0] != flag).flatten());
            let whole =
                ["--prompt", "--file", "--messages", "--continue-last"].contains(&flag.as_str());
            if ["generate", "count"].contains(&command) && !whole {
                arguments.extend(["--prompt", "abc"]);
            }
            if command == "score" && flag != "--file" {
                arguments.push("abcabc");
            }
            if command == "embed" {
                arguments.push("abc");
            }
            if ["--logprobs", "--top-logprobs", "--progress"].contains(&flag.as_str()) {
                arguments.push("--json");
            }
            if command == "train" && flag != "--overwrite" {
                arguments.push("--overwrite");
            }
            let ran = run_with_input(&arguments, b"");
            assert_eq!(ran.code, Some(0), "{arguments:?}: {}", ran.err);
            tried += 1;
        }
    }
    assert!(tried > 80, "only {tried} flags were tried");
}

/// Nor do the manual and the completions.
#[test]
fn what_is_refused_is_nowhere() {
    let folder = scratch("nowhere");
    run(["man", folder.to_str().unwrap()]).fine();
    let mut text = String::new();
    for page in std::fs::read_dir(&folder).unwrap().flatten() {
        // Hyphens are escaped there.
        text += &std::fs::read_to_string(page.path())
            .unwrap()
            .replace('\\', "");
    }
    for shell in ["bash", "zsh", "fish"] {
        text += &run(["completions", shell]).fine();
    }
    assert!(text.contains("kv-limit") && text.contains("threads"));
    assert!(text.contains("draft-model"));
}
