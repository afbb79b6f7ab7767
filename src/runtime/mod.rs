//! Everything between the C ABI and the model: the engine thread that owns MLX, loaded models, sessions and their
//! requests, metrics.
//!
//! The caller's thread does the text (rendering, tokenising, detokenising, stop strings, callbacks); the engine thread
//! does the arrays. Between them go a [`Job`](job::Job) one way and its [`Output`](job::Output)s the other.

mod clock;
pub mod engine;
mod exit;
pub mod generate;
mod job;
pub mod metrics;
pub mod model;
mod options;
mod prompt;
mod report;
pub mod session;
mod worker;

#[cfg(test)]
mod tests;
