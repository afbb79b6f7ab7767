//! The one error type of the library: a frozen code and one sentence.

/// The codes of `include/mlxrt.h` (`MLXRT_E_*`); the numbers are frozen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Code {
    InvalidArgument = 1,
    InvalidHandle = 2,
    NotFound = 3,
    Io = 4,
    BadModel = 5,
    Incompatible = 6,
    Unsupported = 7,
    OutOfMemory = 8,
    ContextFull = 9,
    Busy = 10,
    Cancelled = 11,
    Timeout = 12,
    Suspended = 13,
    Device = 14,
    Resources = 15,
    BadGrammar = 16,
    Reentrant = 17,
    Forked = 18,
    Internal = 19,
}

impl Code {
    /// Whether it says nothing of what was read, which may be as it should be: only of the moment.
    pub fn is_of_the_moment(self) -> bool {
        matches!(self, Code::OutOfMemory | Code::Timeout | Code::Cancelled)
    }
}

/// What a failed call hands back. The message is one sentence that names the file, key or argument,
/// and holds nothing of the machine the library was built on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    pub code: Code,
    pub message: String,
}

pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Error {
            code,
            message: message.into(),
        }
    }

    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Code::InvalidArgument, message)
    }

    pub fn bad_model(message: impl Into<String>) -> Self {
        Self::new(Code::BadModel, message)
    }

    pub fn bad_grammar(message: impl Into<String>) -> Self {
        Self::new(Code::BadGrammar, message)
    }

    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(Code::Unsupported, message)
    }

    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Code::Internal, message)
    }

    /// Puts the place where it happened in front of the sentence: `config.json: …`.
    pub fn within(mut self, place: &str) -> Self {
        self.message = format!("{place}: {}", self.message);
        self
    }
}
