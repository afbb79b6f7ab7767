//! `mlxrt generate`: one prompt, one answer.

use std::io::{self, IsTerminal};

use clap::Args;

use crate::answer::{self, stop_words};
use crate::failure::Outcome;
use crate::ffi::*;
use crate::options::{
    cost, load_model, AdapterArgs, Common, DraftArgs, GenerateArgs, ModelArgs, SessionArgs,
};
use crate::prompt::PromptArgs;
use crate::ui::Ui;

#[derive(Args)]
pub struct GenerateCommand {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    draft: DraftArgs,
    #[command(flatten)]
    prompt: PromptArgs,
    /// With --json: the log-probability of each token
    #[arg(long, requires = "json")]
    logprobs: bool,
    /// With --json: also so many of the likeliest tokens in each place
    #[arg(long, value_name = "TOKENS", requires = "json", value_parser = crate::options::positive)]
    top_logprobs: Option<u32>,
    /// With --json: tell how far the prompt is, every so many tokens
    #[arg(long, value_name = "TOKENS", requires = "json", value_parser = crate::options::positive)]
    progress: Option<u32>,
    /// Say on standard error what the answer cost, also where that is no terminal
    #[arg(long)]
    stats: bool,
    #[command(flatten)]
    generate: GenerateArgs,
    #[command(flatten)]
    adapters: AdapterArgs,
    #[command(flatten)]
    session: SessionArgs,
}

pub fn run(command: &GenerateCommand, common: &Common, ui: &Ui) -> Outcome<()> {
    let (name, input) = command
        .prompt
        .model_and_input(&command.model, &command.generate.template_args)?;
    command.adapters.list()?;
    let mut options = command.generate.options();
    if command.logprobs || command.top_logprobs.is_some() {
        options.raw.flags |= MLXRT_GEN_LOGPROBS;
        options.raw.top_logprobs = command.top_logprobs.unwrap_or(0);
    }
    options.raw.progress_tokens = command.progress.unwrap_or(0);

    let _library = common.start()?;
    let model = load_model(&name, command.draft.load_options(&command.model), ui)?;
    options.grammar = command.generate.grammar(&model)?;
    let session = model.session(&command.session.raw(command.model.context))?;
    command.adapters.apply(&model, &session, ui)?;
    let answer = answer::run(&model, &session, &input, &options, ui)?;
    if !ui.json && (command.stats || io::stderr().is_terminal()) {
        let why = stop_words(&answer.result).map_or(String::new(), |why| format!("{why} · "));
        ui.note(&format!("[{why}{}]", cost(&answer.result)));
    }
    answer.failure().map_or(Ok(()), Err)
}
