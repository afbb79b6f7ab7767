//! What a request did and what it cost.

use std::fmt;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    Eos,
    String,
    Token,
    ToolCall,
    Length,
    Context,
    Callback,
    Cancelled,
    Timeout,
    Grammar,
    Error,
}

/// What a request did and what it cost.
#[derive(Clone, Debug)]
pub struct Report {
    pub stop: Stop,
    /// Which stop string or stop token.
    pub stop_index: u32,
    pub error_code: i32,
    pub seed: u64,
    pub prompt_tokens: u64,
    pub cached_tokens: u64,
    pub generated_tokens: u64,
    pub thinking_tokens: u64,
    pub drafted: u64,
    pub accepted: u64,
    pub queue_ns: u64,
    pub prefill_ns: u64,
    pub first_token_ns: u64,
    pub decode_ns: u64,
    pub total_ns: u64,
    pub peak_bytes: u64,
    pub active_bytes: u64,
    pub kv_bytes: u64,
}

impl Report {
    pub(super) fn new(seed: u64) -> Self {
        Report {
            stop: Stop::Error,
            stop_index: 0,
            error_code: 0,
            seed,
            prompt_tokens: 0,
            cached_tokens: 0,
            generated_tokens: 0,
            thinking_tokens: 0,
            drafted: 0,
            accepted: 0,
            queue_ns: 0,
            prefill_ns: 0,
            first_token_ns: 0,
            decode_ns: 0,
            total_ns: 0,
            peak_bytes: 0,
            active_bytes: 0,
            kv_bytes: 0,
        }
    }

    /// Tokens a second, of so many in so many nanoseconds.
    fn rate(tokens: u64, ns: u64) -> f64 {
        match ns {
            0 => 0.0,
            ns => tokens as f64 * 1e9 / ns as f64,
        }
    }

    /// What is reported of a call that failed before it was a request.
    pub fn refused(error_code: i32) -> Self {
        Report {
            error_code,
            ..Report::new(0)
        }
    }
}

/// For the log.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let computed = self.prompt_tokens.saturating_sub(self.cached_tokens);
        let decoded = self.generated_tokens.saturating_sub(1);
        write!(
            f,
            "{} tokens in, {} cached, {} out, prefill {:.1} tok/s, decode {:.1} tok/s, {} ms, stop {:?}",
            self.prompt_tokens,
            self.cached_tokens,
            self.generated_tokens,
            Report::rate(computed, self.prefill_ns),
            Report::rate(decoded, self.decode_ns),
            self.total_ns / 1_000_000,
            self.stop
        )?;
        match self.error_code {
            0 => Ok(()),
            code => write!(f, " (code {code})"),
        }
    }
}
