//! How long tokenising takes. `cargo test --release --lib text::tests::speed -- --ignored --nocapture --test-threads 1`

use std::time::Instant;

use super::{shared, Rng};
use crate::text::{Specials, Tokenizer};

fn peak() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM"));
    line.unwrap_or("").to_owned()
}

fn prose(length: usize) -> String {
    let words: Vec<&str> = "the of and a to in is you that it he was for on are as with his they I at be this have from or one had by \
        word but not what all were we when your can said there use an each which she do how their if will up other about out \
        many then them these so some her would make like him into time has look two more write go see number no way could \
        people my than first water been call who oil its now find 2024 17 (example) \"quoted\", however: Größe école данные 数据，模型。"
        .split(' ').collect();
    let mut rng = Rng::new(7);
    let mut text = String::new();
    while text.len() < length {
        let word: &str = rng.pick(&words[..]);
        text.push_str(word);
        text.push_str(match rng.below(20) {
            0 => ".\n\n",
            1 => ",\n    ",
            _ => " ",
        });
    }
    text
}

#[test]
#[ignore]
fn speed() {
    let Some(root) = shared("tokenizers") else {
        return;
    };
    let only = std::env::var("ONLY").ok();
    for name in [
        "qwen2.5",
        "llama-3-8b-instruct",
        "phi-2",
        "llama2",
        "t5-small",
        "bert-base-uncased",
    ] {
        if only.as_deref().is_some_and(|only| only != name) {
            continue;
        }
        let json = std::fs::read(root.join(name).join("tokenizer.json")).unwrap();
        let start = Instant::now();
        let tokenizer = Tokenizer::from_bytes(&json, None).unwrap();
        eprintln!("{name}: load {:?} {}", start.elapsed(), peak());
        for length in [2_000, 200_000] {
            let text = prose(length);
            let mut best = f64::MAX;
            for _ in 0..(4_000_000 / length).max(5) {
                let start = Instant::now();
                std::hint::black_box(tokenizer.encode(&text, Specials::AsText, false).unwrap());
                best = best.min(start.elapsed().as_secs_f64());
            }
            eprintln!("{name}: {length} bytes: {:.3} ms", best * 1e3);
        }
        let word: String = prose(600_000)
            .chars()
            .filter(|c| c.is_ascii_alphabetic())
            .collect();
        let largest = (10..=256).rev().map(|kb| kb << 10).find(|length| {
            let start = Instant::now();
            let ids = tokenizer.encode(&word[..*length], Specials::AsText, false);
            if let Ok(ids) = &ids {
                eprintln!(
                    "{name}: a word of {length}: {:?}, {} tokens",
                    start.elapsed(),
                    ids.len()
                );
            }
            ids.is_ok()
        });
        assert!(largest.is_some());
        let text = prose(16 << 20);
        let start = Instant::now();
        let ids = tokenizer.encode(&text, Specials::AsText, false);
        eprintln!(
            "{name}: 16 MB: {:?}, {} tokens {}",
            start.elapsed(),
            ids.map_or(0, |ids| ids.len()),
            peak()
        );
    }
}
