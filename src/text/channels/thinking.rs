//! How families mark their thinking.

/// The markers of one family.
#[derive(Debug)]
pub(super) struct Thinking {
    pub start: &'static str,
    pub end: &'static str,
    /// A word that stands behind the first marker.
    pub label: &'static str,
}

const fn pair(start: &'static str, end: &'static str) -> Thinking {
    Thinking {
        start,
        end,
        label: "",
    }
}

/// The first that a model has counts.
pub(super) const THINKING: &[Thinking] = &[
    // Gemma 4
    Thinking {
        start: "<|channel>",
        end: "<channel|>",
        label: "thought",
    },
    // Seed-OSS
    pair("<seed:think>", "</seed:think>"),
    // LongCat
    pair("<longcat_think>", "</longcat_think>"),
    // Magistral, Ministral 3
    pair("[THINK]", "[/THINK]"),
    // Apertus
    pair("<|inner_prefix|>", "<|inner_suffix|>"),
    // Command A
    pair("<|START_THINKING|>", "<|END_THINKING|>"),
    pair("<|think:start|>", "<|think:end|>"),
    // Kimi-VL
    pair("◁think▷", "◁/think▷"),
    // Qwen, DeepSeek, GLM, SmolLM3, MiniMax, Nemotron, StepFun, Kimi K2 and most others
    pair("<think>", "</think>"),
    // EXAONE Deep
    pair("<thought>", "</thought>"),
];
