//! `mlxrt embed`: texts to embeddings, an object on each line.

use std::io::IsTerminal;

use clap::{Args, ValueEnum};
use serde_json::json;

use crate::failure::{Failure, Outcome};
use crate::ffi::*;
use crate::handles::sized;
use crate::interrupt::{self, Work};
use crate::options::{interrupted_or, load_model, read_stdin, Common, ModelArgs};
use crate::ui::Ui;

/// The output is JSON, a line for each text, with --json or without. Prompts such as "query: " are part of the text.
#[derive(Args)]
pub struct EmbedCommand {
    #[command(flatten)]
    model: ModelArgs,
    /// The texts; "-" or nothing reads standard input, where each line is one
    #[arg(id = "texts", value_name = "TEXT")]
    texts: Vec<String>,
    /// What of the tokens becomes the embedding; "model" is what the folder says
    #[arg(long, value_enum, default_value_t = Pooling::Model)]
    pooling: Pooling,
    /// Give each embedding the length 1, whatever the folder says
    #[arg(long)]
    normalize: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Pooling {
    Model,
    Mean,
    Last,
    Cls,
}

pub fn run(command: &EmbedCommand, common: &Common, ui: &Ui) -> Outcome<()> {
    let (first, others) = match command.texts.split_first() {
        Some((first, others)) => (Some(first.as_str()), others),
        None => (None, &[][..]),
    };
    let (name, first) = command.model.name_and_next(first, "the first text")?;
    let mut texts: Vec<String> = first.into_iter().collect();
    texts.extend_from_slice(others);
    if texts.is_empty() && std::io::stdin().is_terminal() {
        return Err(Failure::usage(
            "no text: give some behind the model, or on standard input, one on each line",
        ));
    }
    if texts.is_empty() || texts == ["-"] {
        texts = read_stdin()?.lines().map(str::to_owned).collect();
    }
    if texts.is_empty() {
        return Err(Failure::usage("standard input is empty: there is no text"));
    }
    let _library = common.start()?;
    let model = load_model(&name, command.model.load_options(), ui)?;
    let options = sized!(mlxrt_embed_options {
        flags: if command.normalize {
            MLXRT_EMBED_NORMALIZE
        } else {
            0
        },
        pooling: match command.pooling {
            Pooling::Model => MLXRT_POOLING_MODEL,
            Pooling::Mean => MLXRT_POOLING_MEAN,
            Pooling::Last => MLXRT_POOLING_LAST,
            Pooling::Cls => MLXRT_POOLING_CLS,
        },
    });
    let rows = {
        let _work = Work::begin();
        let bar = ui.tokens_bar("Embedding");
        let made = model.embed(&texts, &options, &mut |done, total| {
            bar.set_length(total);
            bar.set_position(done);
            interrupt::signal().is_none()
        });
        bar.finish_and_clear();
        interrupted_or(made)?
    };
    for (index, row) in rows.iter().enumerate() {
        ui.json_line(&json!({"event": "embedding", "index": index, "embedding": row}))?;
    }
    Ok(())
}
