//! `mlxrt bench`: how fast a model takes prompts in and answers, and what memory it needs.

use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{json, Value};

use crate::answer::result_json;
use crate::failure::{Failure, Outcome};
use crate::ffi::*;
use crate::handles::{device_info, sized, version, Generate, Input, Model, Session};
use crate::interrupt::{self, Work};
use crate::options::{
    load_model, positive, AdapterArgs, Common, DraftArgs, ModelArgs, SessionArgs,
};
use crate::ui::{self, Style, Ui};

#[derive(Args)]
pub struct BenchCommand {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    draft: DraftArgs,
    /// Tokens of the prompt
    #[arg(short, long, value_name = "TOKENS", default_value_t = 512, value_parser = positive)]
    prompt_tokens: u32,
    /// Tokens of the answer
    #[arg(short = 'n', long, value_name = "TOKENS", default_value_t = 128, value_parser = positive)]
    generate_tokens: u32,
    /// How often each is measured, after one time that does not count
    #[arg(short, long, value_name = "TIMES", default_value_t = 3, value_parser = positive)]
    repeat: u32,
    #[command(flatten)]
    adapters: AdapterArgs,
    #[command(flatten)]
    session: SessionArgs,
}

pub fn run(command: &BenchCommand, common: &Common, ui: &Ui) -> Outcome<()> {
    command.adapters.list()?;
    let name = command.model.name()?;
    let _library = common.start()?;
    let start = Instant::now();
    let model = load_model(&name, command.draft.load_options(&command.model), ui)?;
    let load_ns = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
    let prompt = prompt(&model, command.prompt_tokens as usize)?;
    let rounds = command.repeat.saturating_add(1);
    let bar = ui.bar(
        u64::from(rounds),
        "Measuring {bar:30} {pos} of {len} times, {elapsed}",
    );
    bar.enable_steady_tick(Duration::from_secs(1));
    let mut results = Vec::new();
    for round in 0..rounds {
        // A session of its own, so that nothing of the round before is there.
        let session = model.session(&command.session.raw(command.model.context))?;
        command.adapters.apply(&model, &session, ui)?;
        let result = measure(&session, &prompt, command.generate_tokens);
        bar.inc(1);
        let result = result.inspect_err(|_| bar.finish_and_clear())?;
        if round > 0 {
            results.push(result);
        }
    }
    bar.finish_and_clear();
    report(command, &name, &model.info()?, load_ns, &results, ui)
}

/// Ordinary words, as many tokens of them as asked for.
fn prompt(model: &Model, count: usize) -> Outcome<Vec<i32>> {
    let words =
        "The quick brown fox jumps over the lazy dog, and the river runs past the old stone mill. ";
    let some = model.tokenize(words)?;
    if some.is_empty() {
        return Err(Failure::of_library(
            MLXRT_E_BAD_MODEL,
            "BAD_MODEL",
            "the tokenizer makes no tokens of plain words".to_owned(),
        ));
    }
    Ok(some.into_iter().cycle().take(count).collect())
}

fn measure(session: &Session, prompt: &[i32], generate: u32) -> Outcome<mlxrt_result> {
    let input = Input {
        tokens: Some(prompt.to_owned()),
        ..Input::default()
    };
    let options = Generate {
        raw: sized!(mlxrt_generate_options {
            flags: MLXRT_GEN_GREEDY | MLXRT_GEN_IGNORE_EOS | MLXRT_GEN_NO_PREFIX_CACHE,
            max_tokens: generate,
        }),
        stop: Vec::new(),
        stop_tokens: Vec::new(),
        bias: Vec::new(),
        grammar: None,
    };
    let _work = Work::on_session(session.id());
    let (result, done) = session.generate(&input, &options, &mut |_| interrupt::signal().is_none());
    done?;
    interrupt::signal().map_or(Ok(result), |signal| Err(Failure::signal(signal)))
}

/// The mean and the standard deviation.
fn spread(values: &[f64]) -> (f64, f64) {
    let count = values.len().max(1) as f64;
    let mean = values.iter().sum::<f64>() / count;
    let square = values
        .iter()
        .map(|value| (value - mean).powi(2))
        .sum::<f64>();
    (mean, (square / (count - 1.0).max(1.0)).sqrt())
}

fn report(
    command: &BenchCommand,
    name: &str,
    info: &Value,
    load_ns: u64,
    results: &[mlxrt_result],
    ui: &Ui,
) -> Outcome<()> {
    let of = |value: &dyn Fn(&mlxrt_result) -> f64| {
        spread(&results.iter().map(value).collect::<Vec<_>>())
    };
    let prefill = of(&|r| ui::rate(r.prompt_tokens, r.prefill_ns));
    let decode = of(&|r| ui::rate(r.generated_tokens.saturating_sub(1), r.decode_ns));
    let first = of(&|r| r.first_token_ns as f64 / 1e6);
    let peak = results.iter().map(|r| r.peak_bytes).max().unwrap_or(0);
    let kv = results.iter().map(|r| r.kv_bytes).max().unwrap_or(0);
    let weights = info["weight_bytes"].as_u64().unwrap_or(0);
    let device = device_info()?;
    if ui.json {
        let pair = |(mean, deviation): (f64, f64)| json!({"mean": mean, "deviation": deviation});
        let runs: Vec<_> = results.iter().map(result_json).collect();
        return ui.json_line(&json!({
            "event": "bench", "model": name, "version": version(), "device": device,
            "prompt_tokens": command.prompt_tokens, "generate_tokens": command.generate_tokens, "load_ns": load_ns,
            "prefill_tokens_per_second": pair(prefill), "decode_tokens_per_second": pair(decode),
            "first_token_ms": pair(first), "peak_bytes": peak, "weight_bytes": weights, "kv_bytes": kv, "runs": runs,
        }));
    }
    ui.styled(
        Style::Bold,
        &format!("{:24} {:>12} {:>10}", "", "mean", "deviation"),
    )?;
    ui.line("")?;
    let rows = [
        (
            format!("prompt of {} tokens", command.prompt_tokens),
            prefill,
            "tok/s",
        ),
        (
            format!("answer of {} tokens", command.generate_tokens),
            decode,
            "tok/s",
        ),
        ("first token".to_owned(), first, "ms"),
    ];
    for (name, (mean, deviation), unit) in rows {
        ui.line(&format!("{name:24} {mean:12.1} {deviation:10.1} {unit}"))?;
    }
    ui.line(&format!("{:24} {:>12}", "load", ui::seconds(load_ns)))?;
    ui.line(&format!("{:24} {:>12}", "peak of memory", ui::bytes(peak)))?;
    ui.line(&format!("{:24} {:>12}", "weights", ui::bytes(weights)))?;
    ui.line(&format!("{:24} {:>12}", "keys and values", ui::bytes(kv)))?;
    let chip = device["info"]["device_name"].as_str().unwrap_or("unknown");
    ui.line(&format!(
        "\n{}, on the {} ({chip}), mlxrt {}, MLX {}",
        match results.len() {
            1 => "once".to_owned(),
            count => format!("{count} times"),
        },
        device["device"].as_str().unwrap_or("device"),
        version(),
        device["mlx_version"]
            .as_str()
            .unwrap_or("of unknown version"),
    ))
}
