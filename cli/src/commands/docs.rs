//! `mlxrt completions` and `mlxrt man`: what a shell and `man` want, made from the options themselves.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::{Args, Command};
use clap_complete::Shell;

use crate::failure::{Failure, Outcome};

#[derive(Args)]
pub struct CompletionsCommand {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

#[derive(Args)]
pub struct ManCommand {
    /// The folder to write the pages into
    folder: PathBuf,
}

pub fn completions(command: &CompletionsCommand, mut program: Command) -> Outcome<()> {
    let mut script = Vec::new();
    clap_complete::generate(command.shell, &mut program, "mlxrt", &mut script);
    io::Write::write_all(&mut io::stdout().lock(), &script).map_err(|error| Failure::output(&error))
}

/// A page for the program and one for each command.
pub fn man(command: &ManCommand, program: Command) -> Outcome<()> {
    let folder = &command.folder;
    fs::create_dir_all(folder).map_err(|error| Failure::file(folder, "made", &error))?;
    let program = program.disable_help_subcommand(true);
    page(folder, "mlxrt", program.clone())?;
    // The options of all commands are in the page of the program.
    for command in program
        .get_subcommands()
        .filter(|command| !command.is_hide_set())
    {
        let name = format!("mlxrt-{}", command.get_name());
        let shown = format!("mlxrt {}", command.get_name());
        let command = command.clone().name(name.clone()).bin_name(shown);
        page(folder, &name, command)?;
    }
    Ok(())
}

fn page(folder: &Path, name: &str, command: Command) -> Outcome<()> {
    let path = folder.join(format!("{name}.1"));
    let mut text = Vec::new();
    clap_mangen::Man::new(command)
        .render(&mut text)
        .and_then(|()| fs::write(&path, text))
        .map_err(|error| Failure::file(&path, "written", &error))
}
