//! How families write their calls, one file each.

mod apertus;
mod cursor;
mod deepseek;
mod function_gemma;
mod gemma4;
mod glm;
mod json;
mod kimi;
mod kimi_k3;
mod llama;
mod minimax;
mod mistral;
mod pythonic;
mod value;
mod xml;

use super::call::Format;
pub(super) use kimi_k3::KIMI_K3;

/// The first that fits counts.
pub(super) const FORMATS: &[&Format] = &[
    &minimax::MINIMAX,
    &gemma4::GEMMA4,
    &function_gemma::FUNCTION_GEMMA,
    &glm::LONGCAT,
    &xml::SEED,
    &glm::GLM,
    &pythonic::LFM2,
    &pythonic::LLAMA4,
    &xml::QWEN3_CODER,
    &kimi::KIMI_K2,
    &deepseek::DEEPSEEK,
    &mistral::MISTRAL,
    &json::NEMOTRON,
    &apertus::APERTUS,
    &json::PHI,
    &json::GRANITE,
    &json::HERMES,
    &llama::LLAMA3,
];
