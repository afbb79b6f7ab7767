//! `mlxrt save`: writes a model with adapters fused into its weights.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use crate::commands::train::{text_of, writable};
use crate::failure::{quoted, Failure, Outcome};
use crate::interrupt::{self, Work};
use crate::options::{interrupted_or, load_adapters, load_model, AdapterArgs, Common, ModelName};
use crate::ui::{self, Ui};

/// The folder that is written can be loaded by mlx-lm and by this program. Weights are quantised as they were, and what no
/// adapter changes stays as it is, byte for byte. Without an adapter it is a copy.
#[derive(Args)]
pub struct SaveCommand {
    #[command(flatten)]
    model: ModelName,
    /// The folder to write
    #[arg(id = "second_out", value_name = "OUT")]
    second: Option<PathBuf>,
    /// OUT, as an option
    #[arg(
        id = "out",
        short = 'o',
        long = "out",
        visible_alias = "save-path",
        value_name = "OUT"
    )]
    named: Option<PathBuf>,
    /// Replace a model that is in that folder; other files stay
    #[arg(long)]
    overwrite: bool,
    #[command(flatten)]
    adapters: AdapterArgs,
}

pub fn run(command: &SaveCommand, common: &Common, ui: &Ui) -> Outcome<()> {
    let adapters = command.adapters.list()?;
    let (name, out) = command.model_and_out()?;
    let out = command.checked(&out)?;
    let _library = common.start()?;
    let model = load_model(&name, command.model.load_options(), ui)?;
    let loaded = load_adapters(&model, &adapters, ui)?;
    let (mut written, mut told, mut unheard) = (0, None, Ok(()));
    let saved = {
        let _work = Work::begin();
        let bar = ui.bytes_bar("Saving");
        let saved = model.save(&loaded, &out, &mut |done, total| {
            bar.set_length(total);
            bar.set_position(done);
            written = total;
            // A line for each percent is enough.
            let percent = done.saturating_mul(100).checked_div(total);
            if ui.json && told != percent {
                told = percent;
                unheard = ui.json_line(&json!({"event": "progress", "done": done, "total": total}));
            }
            unheard.is_ok() && interrupt::signal().is_none()
        });
        bar.finish_and_clear();
        interrupted_or(saved)
    };
    unheard?;
    saved?;
    if ui.json {
        let list = adapters
            .iter()
            .map(|(path, scale)| json!({"path": path, "scale": scale}))
            .collect::<Vec<_>>();
        return ui.json_line(&json!({
            "event": "end", "model": out, "adapters": list, "weight_bytes": written,
        }));
    }
    let size = ui::bytes(written);
    ui.line(&match adapters.len() {
        0 => format!("The model ({size}) is in {out}"),
        1 => format!("The model ({size}), with the adapter fused in, is in {out}"),
        count => format!("The model ({size}), with {count} adapters fused in, is in {out}"),
    })
}

impl SaveCommand {
    fn model_and_out(&self) -> Outcome<(String, PathBuf)> {
        let second = self.second.as_deref().map(text_of).transpose()?;
        let (name, second) = self.model.and_next(second.as_deref(), "OUT")?;
        match (second.map(PathBuf::from), &self.named) {
            (Some(out), None) => Ok((name, out)),
            (None, Some(out)) => Ok((name, out.clone())),
            (Some(_), Some(_)) => Err(Failure::usage(
                "OUT is given twice: as an argument and with --out",
            )),
            (None, None) => Err(Failure::usage(
                "no folder to write to: give one as OUT or with --out",
            )),
        }
    }

    /// Refuses now what would fail, or be a loss, after minutes.
    fn checked(&self, out: &Path) -> Outcome<String> {
        let text = text_of(out)?;
        if out.is_file() {
            let message = format!("OUT: {} is a file; it must be a folder", quoted(&text));
            return Err(Failure::usage(message));
        }
        let parts = [
            "config.json",
            "model.safetensors",
            "model.safetensors.index.json",
        ];
        if !self.overwrite && parts.iter().any(|name| out.join(name).exists()) {
            return Err(Failure::usage(format!(
                "the folder {} has a model already; --overwrite replaces it",
                quoted(&text)
            )));
        }
        let parent = out.parent().unwrap_or(Path::new(""));
        writable(if out.is_dir() { out } else { parent })?;
        Ok(text)
    }
}
