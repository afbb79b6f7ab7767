//! How to generate: the caller's options, and the model's own for what they leave open.

use std::sync::Arc;
use std::time::Duration;

use super::model::Model;
use crate::grammar::Grammar;
use crate::load::GenerationConfig;
pub use crate::load::REPETITION_PENALTY;
use crate::sampling::{Sampling, Xtc};

/// Checked options; 0 and `None` as `mlxrt_generate_options` has them.
#[derive(Clone, Default)]
pub struct GenerateOptions {
    pub max_tokens: Option<u64>,
    pub timeout: Option<Duration>,
    pub greedy: bool,
    pub no_model_defaults: bool,
    /// `None`: the model's.
    pub temperature: Option<f32>,
    pub top_p: Setting<f32>,
    pub min_p: Setting<f32>,
    pub top_k: Setting<u32>,
    pub xtc: Option<(f32, f32)>,
    /// `None`: the model's.
    pub repetition_penalty: Option<f32>,
    pub presence_penalty: f32,
    pub frequency_penalty: f32,
    /// `None` = all.
    pub penalty_window: Option<usize>,
    /// 0 = random.
    pub seed: u64,
    pub bias: Vec<(i32, f32)>,
    pub logprobs: Option<u32>,
    pub stop: Vec<String>,
    pub stop_tokens: Vec<i32>,
    pub ignore_eos: bool,
    pub tokens_only: bool,
    pub prefill_only: bool,
    pub no_prefix_cache: bool,
    pub raw_text: bool,
    pub grammar: Option<Arc<Grammar>>,
    /// Calls obey the schemas of their tools.
    pub strict_tools: bool,
    /// Arguments of calls are told as they come.
    pub tool_deltas: bool,
    pub progress_tokens: u32,
    pub thinking: Thinking,
    /// Higher first.
    pub priority: i32,
    pub drafts: Drafts,
}

/// How many tokens are guessed at a time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Drafts {
    /// What pays on this device.
    #[default]
    Usual,
    Off,
    Most(usize),
}

/// How much the model may think.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Thinking {
    #[default]
    Free,
    Off,
    /// So many tokens at most.
    Budget(u64),
}

impl Thinking {
    /// After how many tokens its end is forced.
    pub fn tokens(self) -> Option<u64> {
        match self {
            Thinking::Free => None,
            Thinking::Off => Some(0),
            Thinking::Budget(tokens) => Some(tokens),
        }
    }
}

/// A filter: the model's own setting, off, or a value.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Setting<T> {
    #[default]
    Model,
    Off,
    Value(T),
}

impl<T> Setting<T> {
    fn or(self, model: Option<T>) -> Option<T> {
        match self {
            Setting::Model => model,
            Setting::Off => None,
            Setting::Value(value) => Some(value),
        }
    }
}

/// The caller's options with the model's own for what was left open.
pub(super) fn sampling(
    options: &GenerateOptions,
    model: &Model,
    eos: &[i32],
    seed: u64,
) -> Sampling {
    let plain = GenerationConfig::default();
    let defaults = if options.no_model_defaults {
        &plain
    } else {
        &model.defaults
    };
    let temperature = match (options.greedy, options.temperature) {
        (true, _) => None,
        (false, Some(temperature)) => Some(temperature),
        (false, None) if options.no_model_defaults => Some(1.0),
        (false, None) if defaults.do_sample == Some(true) => {
            Some(defaults.temperature.unwrap_or(1.0)).filter(|&temperature| temperature > 0.0)
        }
        (false, None) => None,
    };
    Sampling {
        temperature,
        top_p: options.top_p.or(defaults.top_p).filter(|&p| p < 1.0),
        min_p: options.min_p.or(defaults.min_p),
        top_k: options
            .top_k
            .or(defaults.top_k.and_then(|k| u32::try_from(k).ok())),
        xtc: options.xtc.map(|(probability, threshold)| Xtc {
            probability,
            threshold,
            spared: eos.to_vec(),
        }),
        repetition_penalty: options
            .repetition_penalty
            .or(defaults.repetition_penalty)
            .filter(|&penalty| penalty != 1.0),
        presence_penalty: Some(options.presence_penalty).filter(|&penalty| penalty != 0.0),
        frequency_penalty: Some(options.frequency_penalty).filter(|&penalty| penalty != 0.0),
        penalty_window: options.penalty_window,
        bias: options.bias.clone(),
        seed,
        logprobs: options.logprobs,
    }
}
