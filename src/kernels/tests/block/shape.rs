//! Every shape of a block that there is.

use super::super::support::Random;
use super::{Activation, Groups, Score, Temperature};

/// What a block is made of.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub attention: bool,
    pub second: Second,
    /// In 4 bits, else plain.
    pub packed: bool,
    pub biases: bool,
    pub low: bool,
    pub fused_qkv: bool,
    pub gate_up: Kind,
    pub activation: Activation,
    pub pre_norm: bool,
    pub post_norm: bool,
    pub head_norm: HeadNorm,
    pub sinks: bool,
    pub rope: bool,
    pub softcap: Option<f32>,
    pub temperature: Option<Temperature>,
    pub multiplier: f32,
    pub score: Score,
    pub selection_bias: bool,
    pub groups: Option<Groups>,
    pub normalise: bool,
    pub shared: SharedKind,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Second {
    None,
    Mlp,
    Moe,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    Apart,
    Fused,
    UpAlone,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum HeadNorm {
    None,
    Heads,
    Whole,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum SharedKind {
    None,
    Plain,
    Gated,
}

impl Shape {
    pub fn random(random: &mut Random) -> Shape {
        let attention = random.pick(&[true, true, false]);
        let kinds = [Second::Mlp, Second::Moe];
        let mut yes = || random.pick(&[true, false]);
        let bools: [bool; 12] = std::array::from_fn(|_| yes());
        let gate_up = random.pick(&[Kind::Apart, Kind::Apart, Kind::Fused, Kind::UpAlone]);
        Shape {
            attention,
            second: match attention {
                true => random.pick(&[Second::None, Second::Mlp, Second::Moe]),
                false => random.pick(&kinds),
            },
            packed: bools[0],
            biases: bools[1],
            low: bools[2],
            fused_qkv: bools[3],
            gate_up,
            activation: match gate_up {
                Kind::UpAlone => random.pick(&[
                    Activation::Relu2,
                    Activation::Xielu {
                        alpha_p: 0.8,
                        alpha_n: 1.3,
                        beta: 0.5,
                        eps: -1e-6,
                    },
                ]),
                _ => random.pick(&[
                    Activation::Silu,
                    Activation::GeluTanh,
                    Activation::SwigluClamped {
                        alpha: 1.702,
                        limit: 7.0,
                    },
                ]),
            },
            pre_norm: bools[4],
            post_norm: bools[5],
            head_norm: random.pick(&[HeadNorm::None, HeadNorm::Heads, HeadNorm::Whole]),
            sinks: bools[6],
            rope: bools[7],
            softcap: bools[8].then_some(20.0),
            temperature: bools[9].then_some(Temperature {
                beta: 0.1,
                original_context: 8,
            }),
            multiplier: random.pick(&[1.0, 0.22]),
            score: random.pick(&[Score::Softmax, Score::SoftmaxOfChosen, Score::Sigmoid]),
            selection_bias: bools[10],
            groups: random.pick(&[
                None,
                Some(Groups {
                    n_group: 4,
                    topk_group: 2,
                }),
            ]),
            normalise: bools[11],
            shared: random.pick(&[SharedKind::None, SharedKind::Plain, SharedKind::Gated]),
        }
    }

    /// Attention and an MLP.
    pub fn dense() -> Shape {
        Shape {
            attention: true,
            second: Second::Mlp,
            ..Shape::plain_mixture()
        }
    }

    /// Only that, of plain weights.
    pub fn plain_mixture() -> Shape {
        Shape {
            attention: false,
            second: Second::Moe,
            packed: false,
            biases: true,
            low: false,
            fused_qkv: false,
            gate_up: Kind::Apart,
            activation: Activation::Silu,
            pre_norm: false,
            post_norm: false,
            head_norm: HeadNorm::None,
            sinks: false,
            rope: true,
            softcap: None,
            temperature: None,
            multiplier: 1.0,
            score: Score::Softmax,
            selection_bias: false,
            groups: None,
            normalise: true,
            shared: SharedKind::Gated,
        }
    }
}
