//! From logits to the next token, on the device: processors, filters and the draw are lazy operations, so the next
//! step can be queued before this step's token is known.
//!
//! Order and arithmetic are mlx-lm's: bias, then repetition, presence and frequency penalties on the logits; then
//! top-p, min-p, XTC and top-k on the log-probabilities before temperature; then the draw from log-probabilities
//! divided by temperature. Greedy takes the largest logit and computes none of that.

mod filters;
mod penalties;
#[cfg(test)]
mod tests;

use crate::dtype::Dtype;
use crate::error::Result;
use crate::kernels;
use crate::mlx::{fast, ops, Array};
use crate::random::mix;
use penalties::Penalties;

/// Checked settings; a filter that is off is `None`.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// `None`: greedy.
    pub temperature: Option<f32>,
    /// in (0, 1)
    pub top_p: Option<f32>,
    /// in (0, 1]
    pub min_p: Option<f32>,
    /// at least 1
    pub top_k: Option<u32>,
    pub xtc: Option<Xtc>,
    /// > 0
    pub repetition_penalty: Option<f32>,
    pub presence_penalty: Option<f32>,
    pub frequency_penalty: Option<f32>,
    /// Tokens that the penalties look back on; `None` = all.
    pub penalty_window: Option<usize>,
    /// Added to the logits of these ids; -infinity bans.
    pub bias: Vec<(i32, f32)>,
    pub seed: u64,
    /// Log-probabilities wanted: of the drawn token and of this many most likely ones.
    pub logprobs: Option<u32>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Xtc {
    /// in (0, 1]
    pub probability: f32,
    /// in [0, 0.5]
    pub threshold: f32,
    /// Never removed: the end of the answer.
    pub spared: Vec<i32>,
}

/// One drawn token, not yet computed.
pub struct Draw {
    /// u32 `[1]`
    pub token: Array,
    pub logprobs: Option<DrawLogprobs>,
}

/// Of the model's own distribution, before penalties, bias and temperature.
pub struct DrawLogprobs {
    /// f32 `[1]`
    pub token: Array,
    /// u32 ids and f32 values, `[top_logprobs]` each, in no order
    pub top: Option<(Array, Array)>,
}

pub struct Sampler {
    sampling: Sampling,
    penalties: Penalties,
    /// i32 `[n]` and f32 `[n]`
    bias: Option<(Array, Array)>,
    /// Tokens drawn so far in this request; with the seed it names the random key.
    drawn: u64,
}

impl Sampler {
    /// `history`: every token before the first draw. `drawn`: tokens of this request among them, not 0 only when a
    /// request is taken up again.
    pub fn new(sampling: Sampling, history: &[i32], drawn: u64) -> Result<Self> {
        let bias = match sampling.bias.as_slice() {
            [] => None,
            pairs => {
                let (ids, values): (Vec<i32>, Vec<f32>) = pairs.iter().copied().unzip();
                Some((Array::from_i32(&ids)?, Array::from_f32(&values)?))
            }
        };
        Ok(Sampler {
            penalties: Penalties::new(&sampling, history)?,
            bias,
            drawn,
            sampling,
        })
    }

    /// logits `[vocab]`, of any float type.
    pub fn draw(&mut self, logits: &Array) -> Result<Draw> {
        let processed = self.process(logits)?;
        let token = match (self.kernel(), self.sampling.temperature) {
            (Some(draw), _) => fast::draw(&processed, draw)?,
            (None, None) => ops::argmax(&processed, -1)?,
            (None, Some(temperature)) => self.draw_random(&processed, temperature)?,
        };
        let token = ops::reshape(&token, &[1])?;
        let logprobs = self
            .sampling
            .logprobs
            .map(|top| logprobs(logits, &token, top))
            .transpose()?;
        self.penalties.push(&token)?;
        self.drawn += 1;
        Ok(Draw { token, logprobs })
    }

    /// Bias and penalties.
    fn process(&self, logits: &Array) -> Result<Array> {
        let biased = match &self.bias {
            Some((ids, values)) => {
                ops::scatter_add_axis(logits, ids, &ops::astype(values, logits.dtype())?, 0)?
            }
            None => logits.clone(),
        };
        self.penalties.apply(&biased)
    }

    /// For the CPU's kernels, which do not know XTC.
    fn kernel(&self) -> Option<kernels::Draw> {
        let sampling = &self.sampling;
        let knows = fast::active() && (sampling.temperature.is_none() || sampling.xtc.is_none());
        knows.then(|| kernels::Draw {
            sharpness: sampling.temperature.map(sharpness),
            top_p: sampling.top_p,
            min_p: sampling.min_p,
            top_k: sampling.top_k.map(|k| k as usize),
            seed: self.random_seed(),
        })
    }

    /// Of the next draw's key.
    fn random_seed(&self) -> u64 {
        mix(self.sampling.seed, 2 * self.drawn)
    }

    fn draw_random(&self, logits: &Array, temperature: f32) -> Result<Array> {
        let key = ops::random_key(self.random_seed())?;
        ops::random_categorical(&self.scaled(logits, temperature)?, -1, &key)
    }

    /// What the draw is made from: filtered log-probabilities over temperature.
    fn scaled(&self, logits: &Array, temperature: f32) -> Result<Array> {
        let sampling = &self.sampling;
        let mut logprobs = ops::subtract(logits, &ops::logsumexp(logits, -1, true)?)?;
        if let Some(p) = sampling.top_p {
            logprobs = filters::top_p(&logprobs, p)?;
        }
        if let Some(p) = sampling.min_p {
            logprobs = filters::min_p(&logprobs, p)?;
        }
        if let Some(xtc) = &sampling.xtc {
            let key = ops::random_key(mix(sampling.seed, 2 * self.drawn + 1))?;
            logprobs = filters::xtc(&logprobs, xtc, &key)?;
        }
        if let Some(k) = sampling.top_k {
            logprobs = filters::top_k(&logprobs, k)?;
        }
        // In f32: in f16 a temperature under 1.5e-5 would make it 0 * infinity.
        ops::multiply(
            &ops::astype(&logprobs, Dtype::F32)?,
            &Array::scalar(sharpness(temperature), Dtype::F32)?,
        )
    }
}

/// What log-probabilities are multiplied by: a finite number.
fn sharpness(temperature: f32) -> f32 {
    (1.0 / temperature).min(1e30)
}

fn logprobs(logits: &Array, token: &Array, top: u32) -> Result<DrawLogprobs> {
    let logits = ops::astype(logits, Dtype::F32)?;
    let all = ops::subtract(&logits, &ops::logsumexp(&logits, -1, true)?)?;
    let vocab = all.dim(0);
    let top = match i32::try_from(top).unwrap_or(i32::MAX).min(vocab) {
        0 => None,
        k => {
            let ids = filters::top_ids(&all, k)?;
            let values = ops::take_along_axis(&all, &ids, 0)?;
            Some((ids, values))
        }
    };
    Ok(DrawLogprobs {
        token: ops::take_along_axis(&all, token, 0)?,
        top,
    })
}
