//! What goes wrong in a template: one sentence, its place, and what Python would have called it.

use std::borrow::Cow;
use std::fmt;

use crate::error::{Code, Error};

/// The Python (or jinja2) exception that the same mistake raises there; `Limit` and `Unsupported` are our own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The template does not parse.
    Syntax,
    /// The template called `raise_exception`: the message is its text.
    Raised,
    Undefined,
    Security,
    Type,
    Value,
    Key,
    Index,
    Attribute,
    ZeroDivision,
    Overflow,
    Runtime,
    /// A part of Jinja that is refused or left out.
    Unsupported,
    /// A limit of `Limits` would be passed.
    Limit,
    /// Whoever wanted the text wants it no more, or has no memory for it.
    Stopped(Code),
}

/// Why a template did not parse or render. Lines and columns count from 1, columns in characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateError {
    pub line: u32,
    pub column: u32,
    pub kind: ErrorKind,
    /// For `ErrorKind::Raised`, what the template raised: its first 8,192 characters.
    pub message: String,
}

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(
            f,
            "line {}, column {}: {}",
            self.line, self.column, self.message
        )
    }
}

impl std::error::Error for TemplateError {}

impl From<TemplateError> for Error {
    /// A template that does not parse is a fault of the model; one that does not render, of this input.
    fn from(error: TemplateError) -> Self {
        let code = match error.kind {
            ErrorKind::Syntax => Code::BadModel,
            ErrorKind::Unsupported | ErrorKind::Limit => Code::Unsupported,
            ErrorKind::Stopped(code) => code,
            _ => Code::InvalidArgument,
        };
        Error::new(code, format!("chat template, {error}"))
    }
}

/// What a message quotes at most of a text, in characters.
const QUOTED: usize = 200;

/// And of what the template raised.
const RAISED: usize = 8192;

/// A text to quote in a message: the beginning of a long one.
pub(super) fn brief(text: &str) -> Cow<'_, str> {
    cut(text, QUOTED)
}

fn cut(text: &str, chars: usize) -> Cow<'_, str> {
    match text.char_indices().nth(chars) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or("")).into(),
        None => text.into(),
    }
}

/// An error on its way out; the innermost node with a place fills it in.
#[derive(Debug)]
pub(super) struct Fault {
    pub kind: ErrorKind,
    pub message: String,
    /// Byte offset into the template.
    pub at: Option<u32>,
}

pub(super) type Result<T> = std::result::Result<T, Box<Fault>>;

impl Fault {
    #[cold]
    pub fn new<T>(kind: ErrorKind, message: impl Into<String>) -> Result<T> {
        Err(Box::new(Fault {
            kind,
            message: message.into(),
            at: None,
        }))
    }

    #[cold]
    pub fn raised<T>(message: &str) -> Result<T> {
        Self::new(ErrorKind::Raised, cut(message, RAISED))
    }

    #[cold]
    pub fn type_error<T>(message: impl Into<String>) -> Result<T> {
        Self::new(ErrorKind::Type, message)
    }

    #[cold]
    pub fn value_error<T>(message: impl Into<String>) -> Result<T> {
        Self::new(ErrorKind::Value, message)
    }

    #[cold]
    pub fn limit<T>(message: impl Into<String>) -> Result<T> {
        Self::new(ErrorKind::Limit, message)
    }

    #[cold]
    pub fn unsupported<T>(message: impl Into<String>) -> Result<T> {
        Self::new(ErrorKind::Unsupported, message)
    }

    pub fn placed(mut self: Box<Self>, at: u32) -> Box<Self> {
        self.at.get_or_insert(at);
        self
    }

    /// Turns the offset into line and column of the source it points into.
    pub fn locate(self, source: &str) -> TemplateError {
        let at = (self.at.unwrap_or(0) as usize).min(source.len());
        let before = source.get(..at).unwrap_or("");
        let line = before.matches('\n').count().saturating_add(1);
        let column = before
            .rsplit('\n')
            .next()
            .map_or(0, |line| line.chars().count())
            .saturating_add(1);
        TemplateError {
            line: u32::try_from(line).unwrap_or(u32::MAX),
            column: u32::try_from(column).unwrap_or(u32::MAX),
            kind: self.kind,
            message: self.message,
        }
    }
}
