//! `mlxrt`: large language models on the command line, over the C ABI of libmlxrt and nothing else.

mod answer;
mod commands;
mod curve;
mod failure;
#[rustfmt::skip]
mod ffi;
mod handles;
mod interrupt;
mod options;
mod plot;
mod ui;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use serde_json::json;

use crate::commands::{bench, chat, docs, generate, info, save, train};
use crate::failure::{Failure, Outcome, EXIT_CODES};
use crate::options::Common;
use crate::ui::Ui;

/// Large language models on MLX.
///
/// A model is a folder as mlx-lm writes it, or the id of a model that is in the local Hugging Face cache; nothing is
/// downloaded.
#[derive(Parser)]
#[command(name = "mlxrt", after_long_help = EXIT_CODES)]
#[command(after_help = "Exit codes are in `mlxrt --help`.")]
struct Program {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    common: Common,
}

#[derive(Subcommand)]
enum Command {
    /// Talk with a model
    Chat(chat::ChatCommand),
    /// Answer one prompt, from the command line, a file or standard input
    Generate(generate::GenerateCommand),
    /// Tell what a model is and what memory it needs, without loading it
    Info(info::InfoCommand),
    /// Make an adapter out of examples
    Train(train::TrainCommand),
    /// Write a model with adapters fused into its weights
    #[command(visible_alias = "fuse")]
    Save(save::SaveCommand),
    /// Measure how fast a model is
    Bench(bench::BenchCommand),
    /// Write a script that makes a shell complete mlxrt's options
    Completions(docs::CompletionsCommand),
    /// Write the manual's pages into a folder
    #[command(hide = true)]
    Man(docs::ManCommand),
}

fn program() -> clap::Command {
    Program::command().version(handles::version())
}

fn main() {
    let matches = program().get_matches();
    let program = Program::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let common = &program.common;
    let ui = Ui::new(common.json, common.quiet, common.color);
    let exit = match run(&program.command, common, &ui) {
        Ok(()) => 0,
        Err(failure) => {
            tell(&failure, &ui);
            failure.exit
        }
    };
    std::process::exit(exit);
}

fn run(command: &Command, common: &Common, ui: &Ui) -> Outcome<()> {
    handles::check_abi()?;
    interrupt::listen().map_err(|error| {
        let message = format!("signals cannot be listened to: {}", failure::plain(&error));
        Failure::of_library(ffi::MLXRT_E_INTERNAL, "INTERNAL", message)
    })?;
    let level = match common.verbose {
        0 => ffi::MLXRT_LOG_WARN,
        1 => ffi::MLXRT_LOG_INFO,
        _ => ffi::MLXRT_LOG_DEBUG,
    };
    if !common.quiet {
        handles::log_to_stderr(level)?;
    }
    match command {
        Command::Chat(command) => chat::run(command, common, ui),
        Command::Generate(command) => generate::run(command, common, ui),
        Command::Info(command) => info::run(command, common, ui),
        Command::Train(command) => train::run(command, common, ui),
        Command::Save(command) => save::run(command, common, ui),
        Command::Bench(command) => bench::run(command, common, ui),
        Command::Completions(command) => docs::completions(command, crate::program()),
        Command::Man(command) => docs::man(command, crate::program()),
    }
}

/// Says what went wrong, for people and with --json for programs.
fn tell(failure: &Failure, ui: &Ui) {
    if failure.message.is_empty() {
        return;
    }
    ui.error(&failure.message);
    if ui.json {
        // Nobody is left to tell when standard output is what fails.
        let _ = ui.json_line(&json!({
            "event": "error", "code": failure.code, "exit": failure.exit, "message": failure.message,
        }));
    }
}
