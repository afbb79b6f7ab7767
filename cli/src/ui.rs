//! What people see: standard output as text or JSON lines, notes and progress bars on standard error, colours on
//! terminals only.

use std::env;
use std::io::{self, IsTerminal, Write};
use std::sync::OnceLock;

use clap::ValueEnum;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;

use crate::failure::{Failure, Outcome};

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum When {
    Auto,
    Always,
    Never,
}

pub struct Ui {
    pub json: bool,
    pub quiet: bool,
    out_terminal: bool,
    out_color: bool,
    err_color: bool,
}

impl Ui {
    pub fn new(json: bool, quiet: bool, color: When) -> Ui {
        let wanted = |terminal: bool| match color {
            When::Always => true,
            When::Never => false,
            When::Auto => {
                let no_color = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
                let dumb = env::var_os("TERM").is_some_and(|term| term == "dumb");
                terminal && !no_color && !dumb
            }
        };
        let out_terminal = io::stdout().is_terminal();
        Ui {
            json,
            quiet,
            out_terminal,
            out_color: wanted(out_terminal),
            err_color: wanted(io::stderr().is_terminal()),
        }
    }

    pub fn out_terminal(&self) -> bool {
        self.out_terminal
    }

    pub fn out_color(&self) -> bool {
        self.out_color
    }

    /// Writes text to standard output at once; a terminal gets no control characters but new lines and tabs.
    pub fn text(&self, text: &str) -> Outcome<()> {
        let mut out = io::stdout().lock();
        let done = if self.out_terminal {
            out.write_all(printable(text).as_bytes())
        } else {
            out.write_all(text.as_bytes())
        };
        done.and_then(|()| out.flush())
            .map_err(|error| Failure::output(&error))
    }

    /// The same in another style, where there are colours.
    pub fn styled(&self, style: Style, text: &str) -> Outcome<()> {
        if !self.out_color {
            return self.text(text);
        }
        let mut out = io::stdout().lock();
        let text = paint(style, &printable(text));
        out.write_all(text.as_bytes())
            .and_then(|()| out.flush())
            .map_err(|error| Failure::output(&error))
    }

    pub fn line(&self, text: &str) -> Outcome<()> {
        self.text(&format!("{text}\n"))
    }

    /// A line of help: no event, so that with --json it goes where notes go.
    pub fn help(&self, text: &str) -> Outcome<()> {
        if self.json {
            self.note(text);
            return Ok(());
        }
        self.line(text)
    }

    /// One line of JSON.
    pub fn json_line(&self, value: &Value) -> Outcome<()> {
        let mut out = io::stdout().lock();
        writeln!(out, "{value}")
            .and_then(|()| out.flush())
            .map_err(|error| Failure::output(&error))
    }

    /// A note for people on standard error; --quiet silences it.
    pub fn note(&self, text: &str) {
        if !self.quiet {
            self.say(Style::Dim, text);
        }
    }

    pub fn warn(&self, text: &str) {
        if !self.quiet {
            self.say(Style::Yellow, &format!("warning: {text}"));
        }
    }

    pub fn error(&self, text: &str) {
        let head = if self.err_color {
            paint(Style::Red, "mlxrt:")
        } else {
            "mlxrt:".to_owned()
        };
        stderr_line(&format!("{head} {}", printable(text)));
    }

    fn say(&self, style: Style, text: &str) {
        let text = printable(text);
        stderr_line(&if self.err_color {
            paint(style, &text)
        } else {
            text
        });
    }

    /// A bar on standard error, where that is a terminal.
    pub fn bar(&self, total: u64, template: &str) -> ProgressBar {
        if self.quiet {
            return ProgressBar::hidden();
        }
        let bar = bars().add(ProgressBar::new(total));
        let style = ProgressStyle::with_template(template).map(|style| style.progress_chars("━╸─"));
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar
    }

    /// The bar of something that reads bytes.
    pub fn tokens_bar(&self, what: &str) -> ProgressBar {
        let bar = self.bar(0, "{msg} {bar:30} {pos} of {len} tokens");
        bar.set_message(what.to_owned());
        bar
    }

    pub fn bytes_bar(&self, what: &str) -> ProgressBar {
        let bar = self.bar(0, "{msg} {bar:30} {decimal_bytes} of {decimal_total_bytes}");
        bar.set_message(what.to_owned());
        bar
    }
}

/// Where all bars are, so that lines can be written between them.
fn bars() -> &'static MultiProgress {
    static BARS: OnceLock<MultiProgress> = OnceLock::new();
    BARS.get_or_init(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr()))
}

/// Writes a line to standard error, above the bars. When that cannot be written to there is nobody to tell.
pub fn stderr_line(text: &str) {
    bars().suspend(|| {
        let _ = writeln!(io::stderr(), "{text}");
    });
}

/// For lines of standard output while a bar may be on the same terminal.
pub fn above_bars<T>(write: impl FnOnce() -> T) -> T {
    bars().suspend(write)
}

/// A line of the library's log.
pub fn log_line(level: i32, text: &str) {
    let level = match level {
        crate::ffi::MLXRT_LOG_ERROR => "error",
        crate::ffi::MLXRT_LOG_WARN => "warning",
        crate::ffi::MLXRT_LOG_INFO => "info",
        _ => "debug",
    };
    stderr_line(&format!("libmlxrt {level}: {}", printable(text)));
}

#[derive(Clone, Copy)]
pub enum Style {
    Bold,
    Dim,
    Red,
    Green,
    Yellow,
    Cyan,
}

pub fn paint(style: Style, text: &str) -> String {
    let code = match style {
        Style::Bold => 1,
        Style::Dim => 2,
        Style::Red => 31,
        Style::Green => 32,
        Style::Yellow => 33,
        Style::Cyan => 36,
    };
    format!("\x1b[{code}m{text}\x1b[0m")
}

/// Without what would steer a terminal: a model's words and a file's name are other people's.
pub fn printable(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\n' | '\t' => c,
            _ if c.is_control() => char::REPLACEMENT_CHARACTER,
            _ => c,
        })
        .collect()
}

/// 1536 as "1.5 KB": powers of 1000, as disks and networks have them.
pub fn bytes(count: u64) -> String {
    let mut value = count as f64;
    for unit in ["B", "KB", "MB", "GB", "TB"] {
        if value < 999.5 || unit == "TB" {
            return if unit == "B" || value >= 99.95 {
                format!("{value:.0} {unit}")
            } else {
                format!("{value:.1} {unit}")
            };
        }
        value /= 1000.0;
    }
    unreachable!("the last unit returns")
}

/// 11410816 as "11.4 million".
pub fn count(count: u64) -> String {
    let value = count as f64;
    if value >= 1e9 {
        format!("{:.1} billion", value / 1e9)
    } else if value >= 1e6 {
        format!("{:.1} million", value / 1e6)
    } else {
        count.to_string()
    }
}

pub fn seconds(nanoseconds: u64) -> String {
    let value = nanoseconds as f64 / 1e9;
    if value < 1.0 {
        format!("{:.0} ms", value * 1000.0)
    } else {
        format!("{value:.1} s")
    }
}

/// Tokens a second; 0 where it was too short to tell.
pub fn rate(tokens: u64, nanoseconds: u64) -> f64 {
    if nanoseconds == 0 {
        0.0
    } else {
        tokens as f64 / (nanoseconds as f64 / 1e9)
    }
}
