//! Training of adapters as mlx-lm does it: the same batches in the same order, loss, optimisers and schedules.
//!
//! The order of things: [`data::parse`] → a tokeniser makes [`Sample`]s → [`Batches`] → [`Trainer::step`] on the engine
//! thread, one batch at a time.

pub mod batches;
pub mod data;
mod flat;
mod loss;
mod optimizer;
mod order;
mod schedule;
mod trainer;

pub use batches::{Batch, Batches, Sample};
pub use optimizer::Optimizer;
pub use order::Order;
pub use schedule::{Schedule, Shape};
pub use trainer::{StepOptions, Trainer};

#[cfg(test)]
mod tests;
