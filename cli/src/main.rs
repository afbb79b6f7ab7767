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
mod prompt;
mod ui;

use std::ffi::OsString;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::commands::{bench, chat, count, docs, embed, generate, info, save, score, train};
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
    /// Tell how many tokens a prompt is
    Count(count::CountCommand),
    /// Tell how likely a model finds a text: log-probabilities and perplexity
    Score(score::ScoreCommand),
    /// Turn texts into embeddings
    Embed(embed::EmbedCommand),
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
    let arguments: Vec<_> = std::env::args_os().collect();
    let program = program()
        .try_get_matches_from(&arguments)
        .and_then(|matches| Program::from_arg_matches(&matches))
        .unwrap_or_else(|error| end(&error, &arguments));
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
        Command::Count(command) => count::run(command, common, ui),
        Command::Score(command) => score::run(command, common, ui),
        Command::Embed(command) => embed::run(command, common, ui),
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
    if !failure.message.is_empty() {
        ui.error(&failure.message);
    }
    if ui.json {
        // Nobody is left to tell when standard output is what fails.
        let _ = ui.json_line(&failure.event());
    }
}

/// Ends the program when its arguments are no command: help, the version, or an error.
fn end(error: &clap::Error, arguments: &[OsString]) -> ! {
    if !error.use_stderr() {
        error.exit();
    }
    let failure = Failure::of_arguments(error);
    if failure.exit == failure::EXIT_USAGE {
        // In colours, with the usage and what may have been meant.
        let _ = error.print();
    } else {
        ui::stderr_line(&format!("mlxrt: {}", ui::printable(&failure.message)));
    }
    let before_text = arguments.iter().take_while(|argument| *argument != "--");
    if before_text.into_iter().any(|argument| argument == "--json") {
        let ui = Ui::new(true, true, ui::When::Never);
        let _ = ui.json_line(&failure.event());
    }
    std::process::exit(failure.exit);
}
