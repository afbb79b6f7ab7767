//! `mlxrt info`: what a model is and what it needs, before anything is loaded.

use clap::Args;
use serde_json::{json, Value};

use crate::failure::Outcome;
use crate::handles;
use crate::options::{with_a_way_to_get, Common, DraftArgs, ModelArgs, SessionArgs};
use crate::ui::{self, Style, Ui};

#[derive(Args)]
pub struct InfoCommand {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    draft: DraftArgs,
    #[command(flatten)]
    session: SessionArgs,
}

pub fn run(command: &InfoCommand, common: &Common, ui: &Ui) -> Outcome<()> {
    let load = command.draft.load_options(&command.model);
    let session = command.session.raw(command.model.context);
    let name = command.model.name()?;
    let model = handles::inspect(&name, &load, &session)
        .map_err(|failure| with_a_way_to_get(&name, failure))?;
    let _library = common.start()?;
    let device = handles::device_info()?;
    let limit = handles::memory()?.limit_bytes;
    let needed = model["estimated_bytes"].as_u64().unwrap_or(0);
    let limit = (limit != u64::MAX).then_some(limit);
    if ui.json {
        let fits = limit.map(|limit| needed <= limit);
        return ui.json_line(&json!({
            "event": "info", "path": name, "model": model, "device": device,
            "memory_limit": limit, "fits": fits, "version": handles::version(),
        }));
    }
    let rows = rows(&model, &device, limit, needed);
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, value) in rows {
        ui.styled(Style::Bold, &format!("{name:width$}"))?;
        ui.line(&format!("  {value}"))?;
    }
    Ok(())
}

fn rows(
    model: &Value,
    device: &Value,
    limit: Option<u64>,
    needed: u64,
) -> Vec<(&'static str, String)> {
    let number = |key: &str| model[key].as_u64().unwrap_or(0);
    let mut rows = vec![
        ("Family", words(&model["model_type"])),
        ("Parameters", ui::count(number("parameters"))),
        ("Weights", ui::bytes(number("weight_bytes"))),
        ("Quantisation", quantization(&model["quantization"])),
        (
            "Network",
            format!(
                "{} layers of {}, {} heads, {} for keys and values, of {}",
                number("layers"),
                number("hidden_size"),
                number("heads"),
                number("kv_heads"),
                number("head_dim")
            ),
        ),
        ("Vocabulary", format!("{} tokens", number("vocab_size"))),
    ];
    if let Some(window) = model["sliding_window"].as_u64() {
        rows.push(("Sliding window", format!("{window} tokens, in some layers")));
    }
    let context = number("session_context");
    let own = number("model_context");
    let of = if own > context {
        format!(" of the model's {own}")
    } else {
        String::new()
    };
    rows.push(("Context", format!("{context} tokens{of}")));
    rows.push((
        "Memory",
        format!(
            "{} in all: weights, and {} of keys and values when the context is full",
            ui::bytes(needed),
            ui::bytes(number("kv_bytes"))
        ),
    ));
    rows.push((
        "Memory limit",
        match limit {
            None => "none".to_owned(),
            Some(limit) if needed <= limit => format!("{}: it fits", ui::bytes(limit)),
            Some(limit) if number("weight_bytes") <= limit => {
                format!(
                    "{}: a full context does not fit; see --context",
                    ui::bytes(limit)
                )
            }
            Some(limit) => format!("{}: it does not fit", ui::bytes(limit)),
        },
    ));
    let name = device["info"]["device_name"].as_str().unwrap_or("unknown");
    rows.push((
        "Device",
        format!(
            "{} ({name}), MLX {}",
            words(&device["device"]),
            words(&device["mlx_version"])
        ),
    ));
    rows
}

fn words(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn quantization(value: &Value) -> String {
    if value.is_null() {
        return "none".to_owned();
    }
    let mode = value["mode"].as_str().unwrap_or("affine");
    format!(
        "{} bits, {mode}, in groups of {}",
        value["bits"], value["group_size"]
    )
}
