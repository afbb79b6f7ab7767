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
use crate::error::{Code, Error, Result};
use crate::kernels;
use crate::mlx::gpu::{self, Best, Ready};
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
    /// f32 `[2]`: of the logits with bias and penalties and of the model's own, a number that is finite where a token can
    /// be drawn from them
    levels: Array,
    /// What the host has to wait for before it reads the token.
    ready: Option<Ready>,
    pub logprobs: Option<DrawLogprobs>,
}

/// Of the model's own distribution, before penalties, bias and temperature.
pub struct DrawLogprobs {
    /// f32 `[vocab]`
    all: Array,
    /// f32 `[1]`
    pub token: Array,
    /// u32 ids and f32 values, `[top_logprobs]` each, in no order
    pub top: Option<(Array, Array)>,
}

impl Draw {
    /// What has to be computed.
    pub fn arrays(&self) -> Vec<&Array> {
        let mut all = vec![&self.token, &self.levels];
        if let Some(logprobs) = &self.logprobs {
            all.push(&logprobs.token);
            all.extend(logprobs.top.iter().flat_map(|(ids, values)| [ids, values]));
        }
        all
    }

    /// Makes it another token than the one that was drawn. What drew it does not know.
    pub fn force(&mut self, id: i32) -> Result<()> {
        self.token = ops::astype(&Array::from_i32(&[id])?, Dtype::U32)?;
        if let Some(logprobs) = &mut self.logprobs {
            logprobs.token = ops::take_along_axis(&logprobs.all, &self.token, 0)?;
        }
        Ok(())
    }

    /// Waits for it, and tells whether the token was drawn at all: before the token is read. MLX's argmax passes over NaN, and of logits that are
    /// all -infinity it takes the first.
    pub fn outcome(&self) -> Result<Outcome> {
        if let Some(ready) = &self.ready {
            ready.wait()?;
            gpu::settle_draws();
        }
        let levels = self.levels.to_f32()?;
        let [level, own] = levels[..] else {
            return Err(Error::new(Code::Device, "a draw without its levels"));
        };
        Ok(match (level.is_finite(), own.is_finite()) {
            (true, _) => Outcome::Drawn,
            (false, false) => Outcome::NotFinite,
            (false, true) if level == f32::NEG_INFINITY => Outcome::Banned,
            (false, true) => Outcome::Overflow,
        })
    }
}

/// Of a draw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Drawn,
    /// NaN or +infinity is among the model's own numbers, or they are all -infinity.
    NotFinite,
    /// The bias left no token, or none that was allowed.
    Banned,
    /// The bias or a penalty made more of a number than f32 can hold.
    Overflow,
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

    /// From these logits `[vocab]`, of which the largest is known already.
    pub fn draw_known(&mut self, logits: &Array, best: Option<&Best>) -> Result<Draw> {
        let takes_it = self.sampling.temperature.is_none() && !self.changes_logits();
        let Some(best) = best.filter(|_| takes_it) else {
            return self.draw(logits, None);
        };
        let Best {
            token,
            levels,
            ready,
        } = best.clone();
        self.made(logits, (token, levels), Some(ready))
    }

    /// logits `[vocab]`, of any float type. `allowed`: bool `[vocab]`, the tokens that may be drawn.
    pub fn draw(&mut self, logits: &Array, allowed: Option<&Array>) -> Result<Draw> {
        let mut processed = self.process(logits)?;
        if let Some(allowed) = allowed {
            let banned = Array::scalar(f32::NEG_INFINITY, processed.dtype())?;
            processed = ops::select(allowed, &processed, &banned)?;
        }
        let changed = allowed.is_some() || self.changes_logits();
        if let Some(draw) = self.kernel() {
            if fast::active() {
                let [token, levels] = fast::draw(&processed, logits, draw)?;
                return self.made(logits, (token, levels), None);
            }
            if let Some(drawn) = gpu::draw(&processed, changed.then_some(logits), draw)? {
                let gpu::Drawn {
                    token,
                    levels,
                    ready,
                } = drawn;
                return self.made(logits, (token, levels), Some(ready));
            }
        }
        let made = self.draw_plainly(&processed, logits, changed)?;
        self.made(logits, made, None)
    }

    fn made(
        &mut self,
        logits: &Array,
        (token, levels): (Array, Array),
        ready: Option<Ready>,
    ) -> Result<Draw> {
        let logprobs = self
            .sampling
            .logprobs
            .map(|top| logprobs(logits, &token, top))
            .transpose()?;
        self.penalties.push(&token)?;
        self.drawn += 1;
        Ok(Draw {
            token,
            levels,
            ready,
            logprobs,
        })
    }

    /// Tokens that come without a draw, as a grammar forces them, behind those that were drawn.
    pub fn skip(&mut self, tokens: &[i32]) -> Result<()> {
        if tokens.is_empty() {
            return Ok(());
        }
        self.drawn += tokens.len() as u64;
        let tokens = ops::astype(&Array::from_i32(tokens)?, Dtype::U32)?;
        self.penalties.push(&tokens)
    }

    /// How many tokens of the request it knows.
    pub fn drawn(&self) -> u64 {
        self.drawn
    }

    /// By MLX's own operations.
    fn draw_plainly(&self, logits: &Array, own: &Array, changed: bool) -> Result<(Array, Array)> {
        // A sum loses neither NaN nor infinities, which MLX's argmax and sort pass over.
        let level = ops::logsumexp(logits, -1, true)?;
        let token = match self.sampling.temperature {
            None => ops::argmax(logits, -1)?,
            Some(temperature) => self.draw_random(logits, &level, temperature)?,
        };
        let own = match changed {
            true => ops::logsumexp(own, -1, true)?,
            false => level.clone(),
        };
        let levels = [level, own].map(|level| ops::astype(&level, Dtype::F32));
        let [level, own] = levels;
        let levels = ops::concatenate(&[&level?, &own?], 0)?;
        Ok((ops::reshape(&token, &[1])?, levels))
    }

    fn changes_logits(&self) -> bool {
        self.bias.is_some() || self.penalties.any()
    }

    /// Bias and penalties, in f32 whatever the logits' type is: in f16 65,520 would be infinity, in bf16 a bias of 1,000 on
    /// every token would leave steps of 4 of what the model said.
    fn process(&self, logits: &Array) -> Result<Array> {
        if !self.changes_logits() {
            return Ok(logits.clone());
        }
        let logits = ops::astype(logits, Dtype::F32)?;
        let biased = match &self.bias {
            Some((ids, values)) => ops::scatter_add_axis(&logits, ids, values, 0)?,
            None => logits,
        };
        self.penalties.apply(&biased)
    }

    /// For kernels, which do not know XTC.
    fn kernel(&self) -> Option<kernels::Draw> {
        let sampling = &self.sampling;
        let knows = sampling.temperature.is_none() || sampling.xtc.is_none();
        let knows = knows && !fast::is_plain();
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

    fn draw_random(&self, logits: &Array, total: &Array, temperature: f32) -> Result<Array> {
        let key = ops::random_key(self.random_seed())?;
        ops::random_categorical(&self.scaled(logits, total, temperature)?, -1, &key)
    }

    /// What the draw is made from: filtered log-probabilities over temperature. `total`: the logits' logsumexp, `[1]`.
    fn scaled(&self, logits: &Array, total: &Array, temperature: f32) -> Result<Array> {
        let sampling = &self.sampling;
        let mut logprobs = ops::subtract(logits, total)?;
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
        all: all.clone(),
        token: ops::take_along_axis(&all, token, 0)?,
        top,
    })
}
