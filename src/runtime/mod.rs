//! Everything between the C ABI and the model: the engine thread that owns MLX, loaded models, sessions and their
//! requests, metrics.
//!
//! The caller's thread renders and tokenises, and sends a [`Job`](job::Job); the engine thread does the arrays and hands
//! tokens to the job's request ([`Shared`](request::Shared)), which makes events of them for whoever asks.

pub mod adapter;
mod answer;
mod caches;
mod calls;
mod clock;
mod draft;
pub mod embed;
pub mod engine;
mod estimate;
mod exit;
pub mod generate;
mod identity;
mod inspect;
mod job;
mod ledger;
pub mod metrics;
pub mod model;
pub mod model_save;
mod options;
mod prompt;
mod report;
mod request;
pub mod score;
pub mod session;
mod session_file;
pub mod staging;
mod thread;
pub mod train;
mod worker;

#[cfg(test)]
pub(crate) mod tests;
