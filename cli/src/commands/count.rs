//! `mlxrt count`: how many tokens a model would take in for a prompt.

use clap::Args;
use serde_json::json;

use crate::failure::Outcome;
use crate::options::{json_object, load_model, Common, ModelArgs};
use crate::prompt::PromptArgs;
use crate::ui::Ui;

/// Counted is what `generate` would take in with the same options, the chat template and what it adds included.
#[derive(Args)]
pub struct CountCommand {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    prompt: PromptArgs,
    /// Variables for the chat template, such as '{"enable_thinking":false}'
    #[arg(long, alias = "chat-template-kwargs", alias = "chat-template-config", value_name = "JSON", value_parser = json_object)]
    template_args: Option<String>,
}

pub fn run(command: &CountCommand, common: &Common, ui: &Ui) -> Outcome<()> {
    let (name, input) = command
        .prompt
        .model_and_input(&command.model, &command.template_args)?;
    let _library = common.start()?;
    let model = load_model(&name, command.model.load_options(), ui)?;
    let tokens = model.prompt_tokens(&input)?;
    if !ui.json {
        return ui.line(&tokens.len().to_string());
    }
    let texts = tokens
        .iter()
        .map(|&id| model.detokenize(&[id]))
        .collect::<Outcome<Vec<_>>>()?;
    ui.json_line(&json!({
        "event": "count", "path": name, "count": tokens.len(), "tokens": tokens, "token_texts": texts,
        "context": model.info()?["context"],
    }))
}
