//! `mlxrt chat`: a conversation in the terminal, or line by line from a pipe.

use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::{CompletionType, Config, Editor};
use serde_json::{json, Value};
use signal_hook::consts::SIGINT;

use crate::answer::{self, result_json, stop_words};
use crate::commands::complete::Completion;
use crate::failure::{plain, Failure, Outcome};
use crate::ffi::mlxrt_result;
use crate::handles::{save_session, Adapter, Generate, Input, Model, Session};
use crate::interrupt;
use crate::options::{
    cost, interrupted_or, load_adapter, load_model, read_text, AdapterArgs, Common, DraftArgs,
    GenerateArgs, ModelArgs, SessionArgs,
};
use crate::ui::{printable, Style, Ui};

/// The commands of a chat: name, argument, what it does.
pub const COMMANDS: [(&str, &str, &str); 9] = [
    (
        "/adapter",
        "PATH|off",
        "use an adapter from the next answer on, or none; without PATH, tell which",
    ),
    (
        "/system",
        "[TEXT]",
        "change what the model is told first; without TEXT, nothing",
    ),
    ("/save", "FILE", "write the conversation as JSON"),
    (
        "/load",
        "FILE",
        "go on with a conversation that /save wrote",
    ),
    ("/reset", "", "forget the conversation"),
    (
        "/stats",
        "",
        "what the last answer cost, and how full the context is",
    ),
    ("/help", "", "this list"),
    ("/quit", "", "end, as Ctrl-D does"),
    ("/exit", "", "the same"),
];

#[derive(Args)]
pub struct ChatCommand {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    draft: DraftArgs,
    /// The first message; the conversation goes on from there
    #[arg(short, long, value_name = "TEXT")]
    prompt: Option<String>,
    /// What the model is told before the conversation
    #[arg(long, visible_alias = "system-prompt", value_name = "TEXT")]
    system: Option<String>,
    /// Go on with a conversation that /save wrote
    #[arg(long, value_name = "FILE")]
    load: Option<PathBuf>,
    /// Go on with the session of a file where there is one, and write it at the end, also when a signal ends the program; the
    /// conversation goes to FILE.json beside it
    #[arg(
        id = "session_file",
        long = "session",
        value_name = "FILE",
        conflicts_with = "load"
    )]
    session_file: Option<PathBuf>,
    /// A JSON file with an array of tools that the model may call; the line behind a call is what the tool gave
    #[arg(long, value_name = "FILE")]
    tools: Option<PathBuf>,
    /// Keep no history of what is typed
    #[arg(long)]
    no_history: bool,
    /// Special tokens written in messages count as such
    #[arg(long)]
    trust_content: bool,
    #[command(flatten)]
    generate: GenerateArgs,
    #[command(flatten)]
    adapters: AdapterArgs,
    #[command(flatten)]
    session: SessionArgs,
}

pub fn run(command: &ChatCommand, common: &Common, ui: &Ui) -> Outcome<()> {
    let adapters = command.adapters.list()?;
    let name = command.model.name()?;
    let _library = common.start()?;
    let model = load_model(&name, command.draft.load_options(&command.model), ui)?;
    let kept = command.session_file.as_deref().map(Kept::at).transpose()?;
    let before = kept.as_ref().filter(|kept| kept.is_there());
    let mut loaded = Vec::new();
    let session = match before {
        None => model.session(&command.session.raw(command.model.context))?,
        Some(kept) => {
            kept.refuse_options(&command.session)?;
            // The file's adapters are looked for among those that are loaded.
            for (path, _) in &adapters {
                loaded.push((path.clone(), load_adapter(&model, path, ui)?));
            }
            kept.load(&model, ui)?
        }
    };
    let mut options = command.generate.options();
    options.grammar = command.generate.grammar(&model)?;
    let mut chat = Chat {
        model: &model,
        session,
        ui,
        options,
        template_args: command.generate.template_args.clone(),
        tools: command.tools.as_ref().map(read_text).transpose()?,
        input_flags: if command.trust_content {
            crate::ffi::MLXRT_INPUT_TRUST_CONTENT
        } else {
            0
        },
        messages: Vec::new(),
        adapters: loaded,
        applied: Vec::new(),
        last: None,
    };
    chat.apply(adapters)?;
    match before {
        Some(kept) => chat.load(&kept.messages)?,
        None => command
            .load
            .as_deref()
            .map_or(Ok(()), |path| chat.load(path))?,
    }
    if let Some(system) = &command.system {
        chat.set_system(system);
    }
    let mut lines = Lines::open(command.no_history, ui)?;
    if lines.interactive() {
        ui.note("/help lists the commands, Ctrl-C stops an answer, Ctrl-D ends the chat.");
    }
    let Some(kept) = &kept else {
        return chat.talk(&mut lines, command.prompt.clone(), &|_| Ok(()));
    };
    kept.save_before_a_signal_ends(&chat.session);
    let talked = chat.talk(&mut lines, command.prompt.clone(), &|chat| {
        kept.save_messages(chat)
    });
    interrupt::before_end(None);
    match (talked, kept.save(&chat)) {
        (Ok(()), saved) => saved,
        (Err(failure), Ok(())) => Err(failure),
        (Err(failure), Err(unsaved)) => {
            ui.error(&unsaved.message);
            Err(failure)
        }
    }
}

/// The file of a session, and of its conversation.
struct Kept {
    session: String,
    messages: PathBuf,
}

impl Kept {
    fn at(path: &Path) -> Outcome<Kept> {
        let session = path.to_str().ok_or_else(|| {
            let name = path.display().to_string();
            Failure::usage(format!("--session: {name:?} is not UTF-8"))
        })?;
        Ok(Kept {
            session: session.to_owned(),
            messages: PathBuf::from(format!("{session}.json")),
        })
    }

    fn is_there(&self) -> bool {
        Path::new(&self.session).exists()
    }

    fn refuse_options(&self, options: &SessionArgs) -> Outcome<()> {
        let given = [
            (options.window.is_some(), "--window"),
            (options.keep.is_some(), "--keep"),
            (options.kv_bits.is_some(), "--kv-bits"),
            (options.kv_limit.is_some(), "--kv-limit"),
        ];
        match given.into_iter().find(|(given, _)| *given) {
            None => Ok(()),
            Some((_, option)) => Err(Failure::usage(format!(
                "{option} is for a new session, and {:?} has its own",
                self.session
            ))),
        }
    }

    fn load(&self, model: &Model, ui: &Ui) -> Outcome<Session> {
        let _work = interrupt::Work::begin();
        let bar = ui.bytes_bar("Loading the session");
        let loaded = model.load_session(&self.session, &mut |done, total| {
            bar.set_length(total);
            bar.set_position(done);
            interrupt::signal().is_none()
        });
        bar.finish_and_clear();
        interrupted_or(loaded)
    }

    /// While nothing runs; what runs is ended first, and then all is saved as at any end.
    fn save_before_a_signal_ends(&self, session: &Session) {
        let (id, path) = (session.id() as usize, self.session.clone());
        interrupt::before_end(Some(Box::new(move || {
            let id = id as *mut crate::ffi::mlxrt_session;
            if let Err(failure) = save_session(id, &path) {
                crate::ui::stderr_line(&format!("mlxrt: {}", printable(&failure.message)));
            }
        })));
    }

    /// After each turn, so that they are those of the session whenever that is saved.
    fn save_messages(&self, chat: &Chat) -> Outcome<()> {
        write_messages(&chat.messages, &self.messages)
    }

    fn save(&self, chat: &Chat) -> Outcome<()> {
        let _work = interrupt::Work::with_notice("saving the session …");
        save_session(chat.session.id(), &self.session)?;
        self.save_messages(chat)
    }
}

struct Chat<'a> {
    model: &'a Model,
    session: Session,
    ui: &'a Ui,
    options: Generate,
    template_args: Option<String>,
    tools: Option<String>,
    input_flags: u32,
    /// The whole conversation, the system's message first if there is one.
    messages: Vec<Value>,
    /// Those that were loaded, so that going back to one is quick and finds its keys and values again.
    adapters: Vec<(String, Adapter)>,
    applied: Vec<(String, f32)>,
    last: Option<Last>,
}

struct Last {
    result: mlxrt_result,
    signal: Option<i32>,
}

impl Chat<'_> {
    /// Line by line, to the end. `after` is called behind each.
    fn talk(
        &mut self,
        lines: &mut Lines,
        mut first: Option<String>,
        after: &dyn Fn(&Chat) -> Outcome<()>,
    ) -> Outcome<()> {
        while let Some(line) = first
            .take()
            .map_or_else(|| lines.next(), |line| Ok(Some(line)))?
        {
            let outcome = self.take(&line);
            after(self)?;
            match outcome {
                Ok(true) => {}
                Ok(false) => break,
                // The chat goes on after what people can do otherwise; a pipe has nobody to do so.
                Err(failure) if lines.interactive() && failure.exit == 128 + SIGINT => {
                    self.ui.note("[stopped]");
                }
                Err(failure) if lines.interactive() && failure.exit < 128 => {
                    self.ui.error(&failure.message);
                    if failure.code == "CONTEXT_FULL" {
                        self.ui.note("/reset starts a new conversation.");
                    }
                }
                Err(failure) => return Err(failure),
            }
            if let Some(signal) = self.last.as_ref().and_then(|last| last.signal) {
                if !lines.interactive() || signal != SIGINT {
                    return Err(Failure::signal(signal));
                }
            }
        }
        Ok(())
    }

    /// Does what a line says; false ends the chat.
    fn take(&mut self, line: &str) -> Outcome<bool> {
        self.last = self.last.take().map(|last| Last {
            signal: None,
            ..last
        });
        let line = line.trim();
        if line.is_empty() {
            return Ok(true);
        }
        let Some(command) = line.strip_prefix('/') else {
            return self.say(line).map(|()| true);
        };
        if let Some(text) = command.strip_prefix('/') {
            return self.say(&format!("/{text}")).map(|()| true);
        }
        let (name, argument) = command
            .split_once(char::is_whitespace)
            .unwrap_or((command, ""));
        let argument = argument.trim();
        match name {
            "adapter" => self.adapter(argument)?,
            "system" => {
                self.set_system(argument);
                self.ui.note(if argument.is_empty() {
                    "The model is told nothing before the conversation."
                } else {
                    "The model is told that from now on."
                });
            }
            "save" => self.save(Path::new(&file_of(argument, "/save")?))?,
            "load" => {
                self.load(Path::new(&file_of(argument, "/load")?))?;
                self.ui.note(&format!("{} messages.", self.messages.len()));
            }
            "reset" => {
                let system = self.system();
                self.messages.clear();
                self.messages.extend(system);
                self.last = None;
                self.ui.note("A new conversation.");
            }
            "stats" => self.stats()?,
            "help" => {
                for (name, argument, what) in COMMANDS {
                    let usage = format!("{name} {argument}");
                    self.ui.help(&format!("{usage:18} {what}"))?;
                }
                self.ui.help("A line that ends with \\ goes on in the next one; // in front is for text that starts with /.")?;
            }
            "quit" | "exit" => return Ok(false),
            _ => {
                return Err(Failure::usage(format!(
                "there is no command /{name}; /help lists them, and // in front sends it as text"
            )))
            }
        }
        Ok(true)
    }

    /// One turn: what the user says, or what a tool gave that the model has called. What was not answered at all is not kept.
    fn say(&mut self, text: &str) -> Outcome<()> {
        let message = match self.called(0) {
            Some(call) => {
                let name = &call["function"]["name"];
                json!({"role": "tool", "tool_call_id": call["id"], "name": name, "content": text})
            }
            None => json!({"role": "user", "content": text}),
        };
        let next = self.called(1).map(|call| call["function"]["name"].clone());
        self.messages.push(message);
        if let Some(Value::String(name)) = next {
            self.ui
                .note(&format!("And what does {} give?", printable(&name)));
            return Ok(());
        }
        let answered = self.answer();
        let keep = matches!(&answered, Ok(last) if last.result.generated_tokens > 0);
        if keep {
            self.messages.push(self.session.message()?);
        } else {
            self.messages.pop();
        }
        let last = answered?;
        if !self.ui.json && (io::stderr().is_terminal() || last.result.generated_tokens == 0) {
            match stop_words(&last.result) {
                Some("stopped") if !keep => self
                    .ui
                    .note("[stopped before the answer; the message is not kept]"),
                Some(words) => self.ui.note(&format!("[{words}]")),
                None if !keep => self
                    .ui
                    .note("[the model answered nothing; the message is not kept]"),
                None => {}
            }
        }
        self.last = Some(last);
        Ok(())
    }

    /// The calls of the last answer that no tool has answered yet: the first, or one behind it.
    fn called(&self, behind: usize) -> Option<&Value> {
        let of_a_tool = |message: &&Value| message["role"] == "tool";
        let answered = self.messages.iter().rev().take_while(of_a_tool).count();
        let last = self.messages.iter().rev().nth(answered)?;
        last["tool_calls"].as_array()?.get(answered + behind)
    }

    fn answer(&self) -> Outcome<Last> {
        let answer = answer::run(
            self.model,
            &self.session,
            &self.input(),
            &self.options,
            self.ui,
        )?;
        Ok(Last {
            result: answer.result,
            signal: answer.signal,
        })
    }

    fn input(&self) -> Input {
        Input {
            messages: Some(json!(self.messages).to_string()),
            template_args: self.template_args.clone(),
            tools: self.tools.clone(),
            flags: self.input_flags,
            ..Input::default()
        }
    }

    fn system(&self) -> Option<Value> {
        self.messages
            .first()
            .filter(|message| message["role"] == "system")
            .cloned()
    }

    fn set_system(&mut self, text: &str) {
        if self.system().is_some() {
            self.messages.remove(0);
        }
        if !text.is_empty() {
            self.messages
                .insert(0, json!({"role": "system", "content": text}));
        }
    }

    fn adapter(&mut self, argument: &str) -> Outcome<()> {
        match argument {
            "" => {}
            "off" => self.apply(Vec::new())?,
            path => self.apply(vec![(unquoted(path).to_owned(), 1.0)])?,
        }
        let names: Vec<_> = self.applied.iter().map(|(path, _)| path.as_str()).collect();
        self.ui.note(&if names.is_empty() {
            "No adapter.".to_owned()
        } else {
            format!("With the adapter {}.", names.join(" and "))
        });
        Ok(())
    }

    fn apply(&mut self, wanted: Vec<(String, f32)>) -> Outcome<()> {
        for (path, _) in &wanted {
            if !self.adapters.iter().any(|(loaded, _)| loaded == path) {
                let adapter = load_adapter(self.model, path, self.ui)?;
                self.adapters.push((path.clone(), adapter));
            }
        }
        let find = |path: &str| self.adapters.iter().find(|(loaded, _)| loaded == path);
        let handles: Vec<_> = wanted
            .iter()
            .filter_map(|(path, scale)| find(path).map(|(_, adapter)| (adapter, *scale)))
            .collect();
        self.session.apply(&handles)?;
        self.applied = wanted;
        Ok(())
    }

    /// Writes the conversation.
    fn save(&self, path: &Path) -> Outcome<()> {
        write_messages(&self.messages, path)?;
        self.ui
            .note(&format!("{} messages written.", self.messages.len()));
        Ok(())
    }

    /// Takes a conversation over, if the model's chat format can show it.
    fn load(&mut self, path: &Path) -> Outcome<()> {
        let text = read_text(&path.to_owned())?;
        let name = format!("{:?}", path.display().to_string());
        let messages: Vec<Value> = serde_json::from_str(&text).map_err(|error| {
            Failure::usage(format!("{name} is not a JSON array of messages: {error}"))
        })?;
        let before = std::mem::replace(&mut self.messages, messages);
        let shown = if self.messages.is_empty() {
            Ok(String::new())
        } else {
            self.model.render(&self.input())
        };
        if let Err(failure) = shown {
            self.messages = before;
            return Err(failure.about(name));
        }
        self.last = None;
        Ok(())
    }

    fn stats(&self) -> Outcome<()> {
        let state = self.session.state()?;
        if self.ui.json {
            let last = self.last.as_ref().map(|last| result_json(&last.result));
            return self.ui.json_line(&json!({
                "event": "stats", "messages": self.messages.len(), "tokens": state.tokens, "context": state.context,
                "kv_tokens": state.kv_tokens, "kv_bytes": state.kv_bytes, "adapters": state.adapters, "last": last,
            }));
        }
        match &self.last {
            Some(last) => self.ui.line(&cost(&last.result))?,
            None => self.ui.line("no answer yet")?,
        }
        self.ui.line(&format!(
            "{} messages, {} of {} tokens, {} of keys and values",
            self.messages.len(),
            state.tokens,
            state.context,
            crate::ui::bytes(state.kv_bytes)
        ))
    }
}

/// Replaces a file only when everything is on the disk.
fn write_messages(messages: &[Value], path: &Path) -> Outcome<()> {
    let text = format!("{:#}\n", json!(messages));
    let failed = |error: io::Error| Failure::file(path, "written", &error);
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}", std::process::id()));
    let aside = path.with_file_name(name);
    let written = fs::File::create(&aside).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&aside, path)
    });
    if written.is_err() {
        let _ = fs::remove_file(&aside);
    }
    written.map_err(failed)
}

fn file_of(argument: &str, command: &str) -> Outcome<String> {
    match unquoted(argument) {
        "" => Err(Failure::usage(format!(
            "{command} needs the name of a file"
        ))),
        "~" => Err(Failure::usage(format!(
            "{command} needs the name of a file"
        ))),
        path => Ok(match (path.strip_prefix("~/"), std::env::var("HOME")) {
            (Some(rest), Ok(home)) => format!("{home}/{rest}"),
            _ => path.to_owned(),
        }),
    }
}

fn unquoted(text: &str) -> &str {
    ['"', '\'']
        .iter()
        .find_map(|quote| text.strip_prefix(*quote)?.strip_suffix(*quote))
        .unwrap_or(text)
}

/// Where the lines come from.
enum Lines {
    Terminal {
        editor: Box<Editor<Completion, FileHistory>>,
        history: Option<PathBuf>,
        prompt: String,
    },
    Pipe(io::Lines<io::StdinLock<'static>>),
}

impl Lines {
    fn open(no_history: bool, ui: &Ui) -> Outcome<Lines> {
        if !io::stdin().is_terminal() || !ui.out_terminal() || ui.json {
            return Ok(Lines::Pipe(io::stdin().lines()));
        }
        let failed = |error: ReadlineError| {
            Failure::of_library(
                crate::ffi::MLXRT_E_IO,
                "IO",
                format!("the terminal cannot be used: {error}"),
            )
        };
        let config = Config::builder()
            .completion_type(CompletionType::List)
            .history_ignore_space(true)
            .build();
        let mut editor = Editor::with_config(config).map_err(failed)?;
        editor.set_helper(Some(Completion::new()));
        let history = if no_history { None } else { history_file() };
        if let Some(path) = &history {
            // The first time there is none.
            let _ = editor.load_history(path);
        }
        let prompt = if ui.out_color() {
            crate::ui::paint(Style::Green, "> ")
        } else {
            "> ".to_owned()
        };
        Ok(Lines::Terminal {
            editor: Box::new(editor),
            history,
            prompt,
        })
    }

    fn interactive(&self) -> bool {
        matches!(self, Lines::Terminal { .. })
    }

    fn next(&mut self) -> Outcome<Option<String>> {
        match self {
            Lines::Pipe(lines) => lines.next().transpose().map_err(|error| {
                let what = if error.kind() == io::ErrorKind::InvalidData {
                    return Failure::usage("standard input is not UTF-8 text");
                } else {
                    plain(&error)
                };
                Failure::of_library(
                    crate::ffi::MLXRT_E_IO,
                    "IO",
                    format!("standard input cannot be read: {what}"),
                )
            }),
            Lines::Terminal {
                editor,
                history,
                prompt,
            } => {
                let line = read_terminal(editor, prompt)?;
                if let (Some(line), Some(path)) = (&line, history) {
                    if !line.trim().is_empty() && editor.add_history_entry(line).unwrap_or(false) {
                        // A history that cannot be written is not worth a word at each line.
                        let _ = editor.append_history(path);
                    }
                }
                Ok(line)
            }
        }
    }
}

/// One message: a line, and the next ones as long as each ends with a backslash.
fn read_terminal(
    editor: &mut Editor<Completion, FileHistory>,
    prompt: &str,
) -> Outcome<Option<String>> {
    let mut text = String::new();
    loop {
        interrupt::remember_terminal();
        let line = editor.readline(if text.is_empty() { prompt } else { ". " });
        interrupt::forget_terminal();
        match line {
            Ok(line) => match line.strip_suffix('\\') {
                Some(line) => {
                    text.push_str(line);
                    text.push('\n');
                }
                None => {
                    text.push_str(&line);
                    return Ok(Some(text));
                }
            },
            // Ctrl-C empties the line; Ctrl-D ends.
            Err(ReadlineError::Interrupted) => text.clear(),
            Err(ReadlineError::Eof) => return Ok(None),
            Err(error) => {
                let message = format!("the terminal cannot be read: {error}");
                return Err(Failure::of_library(crate::ffi::MLXRT_E_IO, "IO", message));
            }
        }
    }
}

/// `$XDG_STATE_HOME/mlxrt/history`, in a folder that only its owner can read.
fn history_file() -> Option<PathBuf> {
    use std::os::unix::fs::DirBuilderExt;
    let state = std::env::var_os("XDG_STATE_HOME")
        .filter(|path| Path::new(path).is_absolute())
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".local/state")))?;
    let folder = state.join("mlxrt");
    let made = fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&folder);
    made.ok().map(|()| folder.join("history"))
}
