//! `train`.

use std::fs;
use std::path::Path;

use crate::{json_lines, run, scratch, tiny};

fn data(folder: &Path) -> String {
    let line = |word: &str| {
        format!("{{\"messages\":[{{\"role\":\"user\",\"content\":\"{word}\"}},{{\"role\":\"assistant\",\"content\":\"aaaa\"}}]}}\n")
    };
    let data = folder.join("data");
    fs::create_dir_all(&data).unwrap();
    fs::write(data.join("train.jsonl"), line("ab").repeat(8)).unwrap();
    fs::write(data.join("valid.jsonl"), line("ba").repeat(2)).unwrap();
    data.to_str().unwrap().to_owned()
}

#[test]
fn an_adapter_comes_out() {
    let folder = scratch("train");
    let data = data(&folder);
    let file = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let (out, svg, png) = (file("made/out"), file("curve.svg"), file("curve.png"));
    let model = tiny();
    let base = [
        "train",
        &model,
        "--data",
        &data,
        "--out",
        &out,
        "--batch-size",
        "2",
    ];
    let options = "--steps 25 --learning-rate 1e-2 --rank 4 --keys q_proj,mlp.gate_proj --mask-prompt --seed 5 \
                   --schedule cosine --warmup 2 --optimizer adam --report-every 5 --validate-every 10 --kind dora";
    let with = |more: &[&str]| {
        run([
            &base,
            options.split_whitespace().collect::<Vec<_>>().as_slice(),
            more,
        ]
        .concat())
    };

    let text = with(&["--plot", &svg]).fine();
    assert_eq!(
        text.lines()
            .filter(|line| line.starts_with("step "))
            .count(),
        5,
        "{text}"
    );
    for words in ["step 25", "on valid", "tok/s", "└", &out, &svg] {
        assert!(text.contains(words), "{words} is not in {text}");
    }
    for name in ["adapters.safetensors", "adapter_config.json"] {
        assert!(Path::new(&out).join(name).is_file());
    }
    assert!(fs::read_to_string(&svg).unwrap().starts_with("<svg"));

    with(&[]).fails(2, "--overwrite");
    let events = json_lines(&with(&["--overwrite", "--json", "--plot", &png]).fine());
    let (end, steps) = events.split_last().unwrap();
    assert_eq!(steps.len(), 5);
    assert!(steps.iter().all(|step| step["event"] == "step"));
    assert!(
        steps[4]["loss"].as_f64() < steps[0]["loss"].as_f64(),
        "{steps:?}"
    );
    assert_eq!(
        (&end["event"], &end["steps"], &end["stopped"]),
        (&"end".into(), &25.into(), &false.into())
    );
    assert!(fs::read(&png).unwrap().starts_with(b"\x89PNG\r\n\x1a\n"));

    // What was made changes answers, and can be gone on with.
    let ask = ["generate", &model, "ab", "--greedy", "-n", "4"];
    assert_ne!(
        run(ask.iter().chain(&["--adapter", out.as_str()])).fine(),
        run(ask).fine()
    );
    let more = run([
        &base[..],
        &[
            "--adapter",
            &out,
            "--overwrite",
            "--mask-prompt",
            "--steps",
            "3",
            "--json",
        ],
    ]
    .concat())
    .fine();
    let first = json_lines(&more)[0]["loss"].as_f64().unwrap();
    assert!(first < steps[0]["loss"].as_f64().unwrap(), "{more}");
}
