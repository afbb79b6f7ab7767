//! What goes into a model: a prompt or a conversation, from wherever it comes.

use std::io::{self, IsTerminal};
use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use crate::failure::{Failure, Outcome};
use crate::ffi::*;
use crate::handles::Input;
use crate::options::{read_stdin, read_text, ModelArgs};

/// Behind `ModelArgs`, and with an option `template_args` beside it.
#[derive(Args)]
pub struct PromptArgs {
    /// The prompt; "-" or nothing reads standard input
    #[arg(id = "second_prompt", value_name = "PROMPT")]
    second: Option<String>,
    /// PROMPT, as an option
    #[arg(
        id = "prompt",
        short = 'p',
        long = "prompt",
        value_name = "PROMPT",
        conflicts_with = "file"
    )]
    named: Option<String>,
    /// Read the prompt from a file; one new line at its end is dropped
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Read a whole conversation from a JSON file: an array of messages, as /save of chat writes it
    #[arg(long, value_name = "FILE", conflicts_with_all = ["prompt", "file", "system", "raw"])]
    messages: Option<PathBuf>,
    /// What the model is told before the prompt
    #[arg(long, visible_alias = "system-prompt", value_name = "TEXT")]
    system: Option<String>,
    /// A JSON file with an array of tools that the model may call
    #[arg(long, value_name = "FILE", conflicts_with = "raw")]
    tools: Option<PathBuf>,
    /// Which of the tools the model calls: "auto", "none", "required", or the name of one [default: auto]
    #[arg(long, value_name = "CHOICE", requires = "tools")]
    tool_choice: Option<String>,
    /// Continue the prompt as it is: no chat template
    #[arg(long, alias = "ignore-chat-template", conflicts_with_all = ["system", "template_args"])]
    raw: bool,
    /// With --raw: put no BOS in front
    #[arg(long, requires = "raw")]
    no_bos: bool,
    /// With --raw: special tokens written in the prompt are just text
    #[arg(long, requires = "raw")]
    special_as_text: bool,
    /// Special tokens written in messages count as such
    #[arg(long, conflicts_with = "raw")]
    trust_content: bool,
    /// Go on with the last message of --messages, which must be the assistant's
    #[arg(long, requires = "messages")]
    continue_last: bool,
}

impl PromptArgs {
    /// The model's name, and what goes into it.
    pub fn model_and_input(
        &self,
        model: &ModelArgs,
        template_args: &Option<String>,
    ) -> Outcome<(String, Input)> {
        let (name, argument) = model.name_and_next(self.second.as_deref(), "the prompt")?;
        if argument.is_some() {
            for (given, option) in [
                (self.named.is_some(), "--prompt"),
                (self.file.is_some(), "--file"),
                (self.messages.is_some(), "--messages"),
            ] {
                if given {
                    return Err(Failure::usage(format!(
                        "two prompts: one as an argument, and one with {option}"
                    )));
                }
            }
        }
        let mut input = self.input(argument)?;
        input.template_args.clone_from(template_args);
        Ok((name, input))
    }

    fn input(&self, argument: Option<String>) -> Outcome<Input> {
        let mut input = Input::default();
        for (set, flag) in [
            (self.no_bos, MLXRT_INPUT_NO_BOS),
            (self.special_as_text, MLXRT_INPUT_SPECIAL_AS_TEXT),
            (self.trust_content, MLXRT_INPUT_TRUST_CONTENT),
            (self.continue_last, MLXRT_INPUT_CONTINUE_LAST),
        ] {
            if set {
                input.flags |= flag;
            }
        }
        input.tools = self.tools.as_ref().map(read_text).transpose()?;
        let choice = |choice: &String| match choice.as_str() {
            "auto" | "none" | "required" => json!(choice).to_string(),
            name => json!({ "name": name }).to_string(),
        };
        input.tool_choice = self.tool_choice.as_ref().map(choice);
        if let Some(path) = &self.messages {
            input.messages = Some(read_text(path)?);
            return Ok(input);
        }
        let prompt = self.prompt(argument)?;
        if self.raw {
            input.text = Some(prompt);
            return Ok(input);
        }
        let mut messages = Vec::new();
        if let Some(system) = &self.system {
            messages.push(json!({"role": "system", "content": system}));
        }
        messages.push(json!({"role": "user", "content": prompt}));
        input.messages = Some(json!(messages).to_string());
        Ok(input)
    }

    fn prompt(&self, argument: Option<String>) -> Outcome<String> {
        let given = argument.or_else(|| self.named.clone());
        let mut text = match (given, &self.file) {
            (Some(prompt), _) if prompt != "-" => return Ok(prompt),
            (_, Some(path)) => read_text(path)?,
            (None, None) if io::stdin().is_terminal() => {
                return Err(Failure::usage(
                    "no prompt: give one behind the model, with --prompt or --file, or on standard input",
                ))
            }
            _ => read_stdin()?,
        };
        if text.ends_with('\n') {
            text.pop();
        }
        if text.is_empty() {
            return Err(Failure::usage("the prompt is empty"));
        }
        Ok(text)
    }
}
