//! `generate`, `info`, `bench`, and what systems want to know.

use std::fs;
use std::process::Command;

use serde_json::{json, Value};

use crate::{
    copy_folder, demo, fixture, json_lines, mlxrt, root, run, run_with_input, scratch, tiny,
};

const FRANCE: &str = "What is the capital of France?";

#[test]
fn generate_answers() {
    let ran = run([
        "generate",
        &demo(),
        FRANCE,
        "--greedy",
        "-n",
        "12",
        "--stats",
    ]);
    assert!(
        ran.err.contains("answer") && ran.err.contains("tok/s"),
        "{}",
        ran.err
    );
    assert_eq!(ran.fine(), "The capital of France is Paris.\n");
}

#[test]
fn prompts_come_from_everywhere() {
    let folder = scratch("prompts");
    let file = folder.join("prompt.txt");
    fs::write(&file, "abc\n").unwrap();
    let file = file.to_str().unwrap();
    let end = ["--greedy", "-n", "5"];
    let model = tiny();
    let with = |more: &[&str]| run([&["generate", &model], more, &end].concat());
    let given = |more: &[&str], input: &[u8]| {
        run_with_input([&["generate", &model], more, &end].concat(), input)
    };
    let wanted = with(&["abc"]).fine();
    assert!(!wanted.is_empty());
    assert_eq!(with(&["--file", file]).fine(), wanted);
    assert_eq!(given(&[], b"abc\n").fine(), wanted);
    assert_eq!(given(&["-"], b"abc").fine(), wanted);
    assert_eq!(given(&["--file", "-"], b"abc").fine(), wanted);
    let messages = folder.join("messages.json");
    fs::write(&messages, r#"[{"role":"user","content":"abc"}]"#).unwrap();
    let messages = messages.to_str().unwrap();
    assert_eq!(with(&["--messages", messages]).fine(), wanted);
    assert_ne!(with(&["abc", "--raw"]).fine(), wanted);
    assert_ne!(with(&["abc", "--system", "def"]).fine(), wanted);
}

#[test]
fn embed_gives_a_line_for_each_text() {
    let encoder = fixture("embeddings/bert");
    let given = json_lines(&run(["embed", &encoder, "the rain", "no"]).fine());
    assert_eq!(given.len(), 2);
    assert_eq!(given[1]["index"], 1);
    assert_eq!(given[0]["embedding"].as_array().unwrap().len(), 36);
    let lines = run_with_input(["embed", &encoder, "-"], b"the rain\nno\n").fine();
    assert_eq!(json_lines(&lines), given);
    let mean = ["embed", &encoder, "no", "--pooling", "mean", "--normalize"];
    assert_ne!(
        json_lines(&run(mean).fine())[0]["embedding"],
        given[0]["embedding"]
    );
    run_with_input(["embed", &encoder], b"").fails(2, "no text");
    let long = "town ".repeat(400);
    run(["embed", &encoder, &long]).fails(9, "texts[0]");
    run(["generate", &encoder, "no"]).fails(7, "encoder");
}

#[test]
fn count_tells_what_generate_takes_in() {
    let model = demo();
    let folder = scratch("count");
    let messages = folder.join("messages.json");
    let said = json!([{"role": "user", "content": FRANCE}, {"role": "assistant", "content": "It"}]);
    fs::write(&messages, said.to_string()).unwrap();
    let messages = messages.to_str().unwrap();
    for prompt in [
        &[FRANCE][..],
        &[FRANCE, "--system", "Be brief."],
        &["<|im_end|>"],
        &["<|im_end|>", "--trust-content"],
        &["<|im_end|>", "--raw"],
        &["--messages", messages, "--continue-last"],
        &[FRANCE, "--template-args", "{\"enable_thinking\":false}"],
    ] {
        let with =
            |command: &str, more: &[&str]| run([&[command, &model], prompt, more].concat()).fine();
        let events = json_lines(&with("generate", &["-n", "1", "--json"]));
        let taken = &events.last().unwrap()["prompt_tokens"];
        assert_eq!(with("count", &[]), format!("{taken}\n"), "{prompt:?}");
        let count = &json_lines(&with("count", &["--json"]))[0];
        assert_eq!(&count["count"], taken);
        for list in ["tokens", "token_texts"] {
            let length = count[list].as_array().unwrap().len();
            assert_eq!(taken, &json!(length), "{list} of {prompt:?}");
        }
        assert_eq!(count["context"], 2048);
    }
    assert_eq!(
        run_with_input(["count", &model, "--raw"], b"Once upon a time\n").fine(),
        run(["count", &model, "Once upon a time", "--raw"]).fine()
    );
    run(["count", &model, "x", "--raw", "--system", "y"]).fails(2, "--system");
}

#[test]
fn score_tells_how_likely_a_text_is() {
    let model = demo();
    let score = |more: &[&str]| {
        let line = [&["score", &model], more, &["--json"]].concat();
        let mut lines = json_lines(&run(line).fine());
        lines.pop().unwrap()
    };
    let floats = |event: &Value, field: &str| -> Vec<f64> {
        let list = event[field].as_array().unwrap().iter();
        list.map(|number| number.as_f64().unwrap()).collect()
    };
    let text = "The capital of France is Paris, a city on the Seine.";
    let event = score(&[text]);
    let logprobs = floats(&event, "logprobs");
    let n = logprobs.len() as f64;
    let sum: f64 = logprobs.iter().sum();
    assert_eq!(event["count"], logprobs.len());
    assert_eq!(event["tokens"].as_array().unwrap().len(), logprobs.len());
    assert!((event["logprob"].as_f64().unwrap() - sum).abs() < 1e-3);
    let perplexity = event["perplexity"].as_f64().unwrap();
    assert!((perplexity - (-sum / n).exp()).abs() < 1e-3 * perplexity);
    // What makes sense is likelier.
    let other = score(&["Paris capital of, Seine France is a city on the The."]);
    assert!(other["perplexity"].as_f64().unwrap() > perplexity);

    // The first token is not scored, unless something comes before it.
    let whole = json_lines(&run(["count", &model, text, "--raw", "--json"]).fine());
    assert_eq!(whole[0]["count"], logprobs.len() + 1);
    let behind = score(&[text, "--prefix", "A fact: "]);
    assert_eq!(behind["count"], logprobs.len() + 1);

    // In sequences, the rest left out; one of them is the text's beginning.
    let pieces = score(&[text, "--sequence-length", "4"]);
    let taken = floats(&pieces, "logprobs");
    assert_eq!(taken.len(), (logprobs.len() + 1) / 4 * 3);
    for (a, b) in taken[..3].iter().zip(&logprobs) {
        assert!((a - b).abs() < 0.05, "{a} {b}");
    }

    // As the answer to a conversation.
    let folder = scratch("score");
    let messages = folder.join("messages.json");
    fs::write(
        &messages,
        json!([{"role": "user", "content": FRANCE}]).to_string(),
    )
    .unwrap();
    let messages = messages.to_str().unwrap();
    let right = score(&["Paris", "--messages", messages, "--summary"]);
    let wrong = score(&["Seven", "--messages", messages, "--summary"]);
    assert!(right["logprob"].as_f64() > wrong["logprob"].as_f64());
    assert!(right.get("logprobs").is_none());

    // From a file or standard input, and for people.
    let file = folder.join("text");
    fs::write(&file, text).unwrap();
    let shown = run(["score", &model, "--file", file.to_str().unwrap()]).fine();
    assert_eq!(
        shown,
        run_with_input(["score", &model], text.as_bytes()).fine()
    );
    assert_eq!(shown.lines().count(), logprobs.len() + 1);
    assert!(
        shown.lines().last().unwrap().starts_with("Perplexity: "),
        "{shown}"
    );
    let short = run(["score", &model, text, "--summary"]).fine();
    assert_eq!(short.lines().count(), 1);

    run(["score", &model, ""]).fails(2, "empty");
    run(["score", &model, text, "--sequence-length", "1"]).fails(2, "2 or greater");
    run(["score", &model, text, "--sequence-length", "1000"]).fails(2, "--sequence-length is 1000");
    run([
        "score",
        &model,
        text,
        "--prefix",
        "a",
        "--messages",
        messages,
    ])
    .fails(2, "--messages");
    run(["score", &model, text, "-c", "8"]).fails(9, "context is 8");
    run(["score", &model, text, "--file", "no"]).fails(2, "two texts");
    run(["score", &model, "--file", "no-file"]).fails(3, "no-file");
    run(["score", &model, text, "--messages", "no-file"]).fails(3, "no-file");
}

#[test]
fn links_are_followed_on_wish() {
    let folder = scratch("links");
    for file in fs::read_dir(tiny()).unwrap().flatten() {
        std::os::unix::fs::symlink(file.path(), folder.join(file.file_name())).unwrap();
    }
    let model = folder.to_str().unwrap();
    for (command, more) in [
        ("info", &[][..]),
        ("generate", &["abc", "-n", "1"]),
        ("count", &["abc"]),
        ("score", &["abcabc"]),
    ] {
        let line = [&[command, model], more].concat();
        run(&line).fails(5, "link");
        run([&line[..], &["--follow-links"]].concat()).fine();
    }
}

#[test]
fn the_log_is_shown_on_wish() {
    let with = |more: &[&str]| {
        let ran = run([&["generate", &tiny(), "abc", "--greedy", "-n", "5"], more].concat());
        (ran.err.clone(), ran.fine())
    };
    let (plain, wanted) = with(&[]);
    let (told, answer) = with(&["-v"]);
    let (all, same) = with(&["-vv"]);
    assert_eq!((&answer, &same), (&wanted, &wanted));
    for (log, lines) in [(&plain, 0), (&told, 1), (&all, 1)] {
        for words in ["loaded ", " tokens in, "] {
            assert_eq!(log.matches(words).count(), lines, "{words}: {log}");
        }
    }
    assert!(
        !told.contains("tokens to compute") && all.contains("tokens to compute"),
        "{all}"
    );
}

#[test]
fn json_says_the_same_as_text() {
    let base = [
        "generate",
        &tiny(),
        "abc",
        "-n",
        "6",
        "--seed",
        "7",
        "--ignore-eos",
        "--temp",
        "0.9",
    ];
    let text = run(base).fine();
    let more = ["--json", "--top-logprobs", "2", "--progress", "1"];
    let events = json_lines(&run(base.iter().chain(&more)).fine());
    let of = |kind: &str| {
        events
            .iter()
            .filter(|e| e["event"] == kind)
            .collect::<Vec<_>>()
    };
    let joined: String = of("text")
        .iter()
        .map(|e| e["text"].as_str().unwrap())
        .collect();
    assert_eq!(joined, text.trim_end_matches('\n'));
    assert!(!of("progress").is_empty());
    let end = events.last().unwrap();
    assert_eq!(
        (&end["event"], &end["stop"]),
        (&"end".into(), &"length".into())
    );
    assert_eq!(
        (&end["seed"], &end["generated_tokens"]),
        (&7.into(), &6.into())
    );
    let mut tokens = 0;
    for event in of("text") {
        let count = event["tokens"].as_array().unwrap().len();
        tokens += count;
        assert_eq!(event["logprobs"].as_array().unwrap().len(), count);
        let tops = event["top_logprobs"].as_array().unwrap();
        assert_eq!(tops.len(), count);
        assert!(
            tops.iter().all(|top| top.as_array().unwrap().len() == 2),
            "{event}"
        );
    }
    assert_eq!(tokens, 6);
    // Without --progress nobody asked for it.
    assert!(!run(base.iter().chain(&["--json"]))
        .fine()
        .contains("\"progress\""));
}

#[test]
fn stop_strings_stop() {
    let out = run([
        "generate",
        &demo(),
        FRANCE,
        "--greedy",
        "-n",
        "12",
        "--stop",
        "no",
        "--stop",
        " France",
        "--json",
    ]);
    let events = json_lines(&out.fine());
    let joined: String = events.iter().filter_map(|e| e["text"].as_str()).collect();
    assert_eq!(joined, "The capital of");
    let end = events.last().unwrap();
    assert_eq!(
        (&end["stop"], &end["stop_index"]),
        (&"string".into(), &1.into())
    );
}

#[test]
fn every_sampling_option_is_taken() {
    let options = "--temperature 0.7 --top-p 0.9 --top-k 20 --min-p 0.05 --xtc-probability 0.1 --xtc-threshold 0.2 \
                   --repetition-penalty 1.1 --presence-penalty -0.5 --frequency-penalty 0.5 --penalty-window all \
                   --logit-bias 5=-inf --logit-bias 6=1.5 --seed 3 --no-model-defaults --ignore-eos --stop-token 9 \
                   --timeout 60 --special --context 200 --threads 1 -n 4";
    let model = tiny();
    let all = || {
        ["generate", &model, "abc"]
            .into_iter()
            .chain(options.split_whitespace())
    };
    let once = run(all()).fine();
    assert_eq!(run(all()).fine(), once);
    // 0 turns off what a library's 0 would leave to the model.
    run([
        "generate",
        &model,
        "abc",
        "-n",
        "2",
        "--top-k",
        "0",
        "--min-p",
        "0",
        "--xtc-probability",
        "0",
    ])
    .fine();
    let greedy = run(["generate", &model, "abc", "-n", "8", "--greedy"]).fine();
    assert_eq!(
        run(["generate", &model, "abc", "-n", "8", "--temp", "0"]).fine(),
        greedy
    );
}

#[test]
fn answers_obey_grammars() {
    let (model, folder) = (tiny(), scratch("grammars"));
    let file = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let schema = file("schema.json", r#"{"enum":["yes","no"]}"#);
    let grammar = file("yes.lark", "start: \"yes\" | \"no\"");
    let answer = |more: &[&str]| {
        let base = ["generate", &model, "abc", "-n", "30"];
        run([&base[..], more].concat()).fine().trim().to_owned()
    };
    assert!(["\"yes\"", "\"no\""].contains(&answer(&["--schema", &schema]).as_str()));
    assert!(["yes", "no"].contains(&answer(&["--grammar", &grammar]).as_str()));
    let three = answer(&["--regex", "[a-c]{3}"]);
    assert!(
        three.len() == 3 && three.chars().all(|c| ('a'..='c').contains(&c)),
        "{three}"
    );
    let told = run(["generate", &model, "abc", "--regex", "[a-c]{3}", "--json"]).fine();
    assert_eq!(json_lines(&told).last().unwrap()["stop"], "grammar");
    let wrong = |more: &[&str]| run([&["generate", &model, "abc"], more].concat());
    let not = file("not.json", r#"{"properties":{"a":{"not":{}}}}"#);
    wrong(&["--schema", &not]).fails(2, "#/properties/a/not");
    wrong(&["--regex", "("]).fails(2, "--regex");
    wrong(&["--regex", "a", "--schema", &schema]).fails(2, "--schema");
    wrong(&["--schema", "no/such/file"]).fails(3, "no/such/file");
}

/// An answer of the smallest packed model with these options.
fn answer_with(options: &[&str]) -> String {
    let model = fixture("models/qwen3-4bit");
    let base = [
        "generate",
        &model,
        "--raw",
        "abc",
        "--greedy",
        "-n",
        "12",
        "--ignore-eos",
    ];
    run([&base[..], options].concat()).fine()
}

#[test]
fn adapters_change_answers() {
    let adapter = fixture("adapters/mlx-lora-qwen3-4bit");
    let without = answer_with(&[]);
    let with = answer_with(&["--adapter", &adapter]);
    assert_ne!(with, without);
    let scaled = |scale: &str| answer_with(&["--adapter-scaled", &adapter, scale]);
    assert_eq!(scaled("1"), with);
    assert_eq!(scaled("0"), without);
}

#[test]
fn an_adapter_may_have_its_scale_in_its_name() {
    let adapter = fixture("adapters/mlx-lora-qwen3-4bit");
    let (plain, whole) = (answer_with(&[]), answer_with(&["--adapter", &adapter]));
    let named = |scale: &str| answer_with(&["--adapter", &format!("{adapter}={scale}")]);
    assert_eq!(named("0"), plain);
    assert_eq!(
        named("-0.75"),
        answer_with(&["--adapter-scaled", &adapter, "-0.75"])
    );
    // A folder of that name is that folder.
    let copy = scratch("scale").join("adapter=0");
    copy_folder(&adapter, &copy);
    assert_eq!(answer_with(&["--adapter", copy.to_str().unwrap()]), whole);
}

#[test]
fn models_are_saved() {
    let adapter = fixture("adapters/mlx-lora-qwen3-4bit");
    let model = fixture("models/qwen3-4bit");
    let out = scratch("saved").join("out");
    let out = out.to_str().unwrap();
    let ask = |model: &str, more: &[&str]| {
        let base = [
            "generate",
            model,
            "--raw",
            "abc",
            "--greedy",
            "-n",
            "12",
            "--ignore-eos",
        ];
        run([&base[..], more].concat()).fine()
    };
    let text = run(["save", &model, out]).fine();
    assert!(text.contains(out) && text.contains("KB"), "{text}");
    assert_eq!(ask(out, &[]), ask(&model, &[]));

    let scaled = format!("{adapter}=-2");
    let fused = ["fuse", &model, "--adapter", &adapter, out];
    let refused = run(fused).fails(2, "--overwrite");
    assert!(refused.err.contains(out), "{}", refused.err);
    let text = run(fused.iter().chain(&["--overwrite"])).fine();
    assert!(text.contains("the adapter fused in"), "{text}");
    let (one, plain) = (ask(out, &[]), ask(&model, &[]));
    assert_ne!(one, plain);
    // Quantised as it was: as large as it was.
    let info = |model: &str| json_lines(&run(["info", model, "--json"]).fine())[0]["model"].clone();
    for key in ["weight_bytes", "parameters", "quantization"] {
        assert_eq!(info(out)[key], info(&model)[key]);
    }

    let both = ["--adapter", &adapter, "--adapter", &scaled];
    let save = ["save", &model, out, "--overwrite", "--json"];
    let events = json_lines(&run([&save[..], &both].concat()).fine());
    let (end, progress) = events.split_last().unwrap();
    assert!(!progress.is_empty() && progress.len() <= 101);
    assert!(progress.iter().all(|event| event["event"] == "progress"));
    let last = progress.last().unwrap();
    assert_eq!(last["done"], last["total"]);
    assert_eq!(end["event"], "end");
    assert_eq!(end["model"], out);
    assert_eq!(end["weight_bytes"], last["total"]);
    assert_eq!(
        end["adapters"],
        json!([{"path": adapter, "scale": 1.0}, {"path": adapter, "scale": -2.0}])
    );
    assert_ne!(ask(out, &[]), one);

    // The folder that the model itself is in.
    run(["save", out, out, "--overwrite"]).fine();
    run(["info", out]).fine();
}

#[test]
fn info_tells_before_loading() {
    let text = run(["info", &demo()]).fine();
    for words in ["qwen3", "11.4 million", "4 bits", "2048 tokens", "it fits"] {
        assert!(text.contains(words), "{words} is not in {text}");
    }
    let json = &json_lines(&run(["info", &demo(), "--json", "--context", "100"]).fine())[0];
    assert_eq!(json["model"]["session_context"], 100);
    assert_eq!(json["fits"], true);
    let limited = run(["info", &demo(), "--json", "--memory-limit", "1MB"]).fine();
    assert_eq!(json_lines(&limited)[0]["fits"], false);
    let text = run(["info", &demo(), "--memory-limit", "1MB"]).fine();
    assert!(text.contains("it does not fit"), "{text}");
}

#[test]
fn a_model_of_the_cache_has_an_id() {
    let hub = scratch("hub");
    let snapshot = hub.join("models--some--model/snapshots/abc");
    fs::create_dir_all(&snapshot).unwrap();
    fs::create_dir_all(hub.join("models--some--model/refs")).unwrap();
    fs::write(hub.join("models--some--model/refs/main"), "abc").unwrap();
    copy_folder(&tiny(), &snapshot);
    let output = mlxrt(["info", "some/model"])
        .env("HF_HUB_CACHE", &hub)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn bench_measures() {
    let base = ["bench", &tiny(), "-p", "20", "-n", "5", "-r", "2"];
    let text = run(base).fine();
    for words in [
        "prompt of 20 tokens",
        "answer of 5 tokens",
        "first token",
        "tok/s",
        "peak of memory",
    ] {
        assert!(text.contains(words), "{words} is not in {text}");
    }
    let json = &json_lines(&run(base.iter().chain(&["--json"])).fine())[0];
    assert_eq!(json["runs"].as_array().unwrap().len(), 2);
    for run in json["runs"].as_array().unwrap() {
        assert_eq!(run["prompt_tokens"], 20);
        assert_eq!(run["generated_tokens"], 5);
        assert_eq!(run["cached_tokens"], 0);
    }
    for rate in [
        "prefill_tokens_per_second",
        "decode_tokens_per_second",
        "first_token_ms",
    ] {
        assert!(json[rate]["mean"].as_f64().unwrap() > 0.0, "{json}");
    }
}

#[test]
fn manual_and_completions() {
    let share = scratch("share");
    let script = root().join("cli/docs.sh");
    let done = Command::new(script)
        .arg(env!("CARGO_BIN_EXE_mlxrt"))
        .arg(&share)
        .status();
    assert!(done.unwrap().success());
    let read = |name: &str| fs::read_to_string(share.join(name)).unwrap();
    assert!(read("man/man1/mlxrt.1").contains("Exit codes"));
    for name in ["chat", "generate", "info", "train", "save", "bench"] {
        let page = read(&format!("man/man1/mlxrt-{name}.1"));
        assert!(
            page.contains(&format!("mlxrt {name}")) || page.contains("SYNOPSIS"),
            "{page}"
        );
    }
    assert!(read("man/man1/mlxrt-generate.1").contains("repetition"));
    assert!(read("zsh/site-functions/_mlxrt").starts_with("#compdef mlxrt"));
    assert!(read("fish/vendor_completions.d/mlxrt.fish").contains("complete -c mlxrt"));
    let bash = share.join("bash-completion/completions/mlxrt");
    let ask = format!(
        "source {:?}; COMP_WORDS=(mlxrt gen); COMP_CWORD=1; _mlxrt mlxrt gen mlxrt; echo \"${{COMPREPLY[@]}}\"",
        bash.display().to_string()
    );
    let told = Command::new("bash").args(["-c", &ask]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&told.stdout).trim(), "generate");
}

#[test]
fn version_is_the_librarys() {
    let out = run(["--version"]).fine();
    assert!(
        out.starts_with("mlxrt ") && out.trim().split('.').count() == 3,
        "{out}"
    );
}
