//! Samples into batches.

use super::order::Order;
use crate::error::{Error, Result};
use crate::room;

/// Bytes for each token of a batch: its input, and its place and target while their lists grow.
const TOKEN_COST: usize = 32;

/// One text as tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// At most as many as a sample may have.
    pub tokens: Vec<i32>,
    /// Tokens of the prompt, whose prediction is not trained.
    pub prompt: usize,
    /// Tokens before they were cut to the limit.
    pub length: usize,
}

impl Sample {
    pub fn new(mut tokens: Vec<i32>, prompt: usize, limit: usize) -> Self {
        let length = tokens.len();
        tokens.truncate(limit);
        Sample {
            tokens,
            prompt,
            length,
        }
    }

    pub fn is_truncated(&self) -> bool {
        self.tokens.len() < self.length
    }
}

/// What one step computes.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// i32 `[rows, width]`, row-major: what goes in.
    pub inputs: Vec<i32>,
    pub rows: i32,
    pub width: i32,
    /// Where in `inputs` a prediction is trained.
    pub places: Vec<i32>,
    /// What is to be predicted there.
    pub targets: Vec<i32>,
}

impl Batch {
    /// mlx-lm pads to one more than a multiple of 32 and trains the prediction of the first padding token (0) after each
    /// sample, except where the limit leaves no room for it. Here the longest sample gets one padding token, the others
    /// up to its length: what is behind is never looked at.
    fn new(samples: &[&Sample], limit: usize) -> Result<Self> {
        let longest = samples.iter().map(|sample| sample.tokens.len()).max();
        // Of what goes in; the last target is one further.
        let width = longest.unwrap_or(0).min(limit.saturating_sub(1));
        let tokens = samples.len().saturating_mul(width);
        dimension(tokens)?;
        room::ask(tokens, TOKEN_COST, "a batch")?;
        let mut batch = Batch {
            inputs: Vec::with_capacity(samples.len() * width),
            rows: dimension(samples.len())?,
            width: dimension(width)?,
            places: Vec::new(),
            targets: Vec::new(),
        };
        for sample in samples {
            let row = batch.inputs.len();
            let token = |index: usize| sample.tokens.get(index).copied().unwrap_or(0);
            batch.inputs.extend((0..width).map(token));
            for target in sample.trained(width) {
                batch.places.push((row + target - 1) as i32);
                batch.targets.push(token(target));
            }
        }
        Ok(batch)
    }

    /// Predictions that are trained.
    pub fn tokens(&self) -> u64 {
        self.places.len() as u64
    }
}

fn dimension(size: usize) -> Result<i32> {
    i32::try_from(size).map_err(|_| Error::invalid("a batch has more than 2^31 tokens"))
}

impl Sample {
    /// Indices of the tokens whose prediction is trained, in a batch with inputs of that width.
    fn trained(&self, width: usize) -> std::ops::RangeInclusive<usize> {
        self.prompt.max(1)..=self.tokens.len().min(width)
    }

    /// Nothing in it is trained: the prompt fills it.
    fn is_idle(&self, limit: usize) -> bool {
        self.trained(limit.saturating_sub(1)).is_empty()
    }
}

/// The batches of a data set: of samples of about the same length, in an order that is drawn anew each time around.
pub struct Batches {
    samples: Vec<Sample>,
    batches: Vec<Vec<usize>>,
    limit: usize,
    order: Vec<usize>,
}

impl Batches {
    /// `what` names the data set in errors; `limit`: tokens that a sample may have.
    pub fn new(what: &str, samples: Vec<Sample>, size: usize, limit: usize) -> Result<Self> {
        let all = samples.len();
        let samples: Vec<Sample> = samples
            .into_iter()
            .filter(|sample| !sample.is_idle(limit))
            .collect();
        if all == 0 {
            return Err(Error::invalid(format!("{what} has no samples")));
        }
        let idle = all - samples.len();
        if idle > 0 {
            crate::log::warn!(
                "{what}: {idle} samples are left out, whose prompts fill max_tokens ({limit})"
            );
        }
        if size == 0 || samples.len() < size {
            let left = match idle {
                0 => String::new(),
                idle => format!(" besides {idle} whose prompts fill max_tokens ({limit})"),
            };
            return Err(Error::invalid(format!(
                "{what} has {} samples{left}, and batch_size is {size}",
                samples.len(),
            )));
        }
        let mut by_length: Vec<usize> = (0..samples.len()).collect();
        by_length.sort_by_key(|&index| samples.get(index).map_or(0, |sample| sample.length));
        let batches = by_length.chunks_exact(size).map(<[usize]>::to_vec);
        Ok(Batches {
            batches: batches.collect(),
            samples,
            limit,
            order: Vec::new(),
        })
    }

    /// How many there are in one round.
    pub fn count(&self) -> usize {
        self.batches.len()
    }

    pub fn truncated(&self) -> u64 {
        let cut = self.samples.iter().filter(|sample| sample.is_truncated());
        cut.count() as u64
    }

    /// The next one. Around the end of each round a new order is drawn.
    pub fn next(&mut self, order: &mut Order) -> Result<Batch> {
        if self.order.is_empty() {
            self.start(order);
        }
        let index = self.order.pop().unwrap_or(0);
        let members = self.batches.get(index).map_or(&[][..], Vec::as_slice);
        let members: Vec<&Sample> = members
            .iter()
            .filter_map(|&index| self.samples.get(index))
            .collect();
        Batch::new(&members, self.limit)
    }

    /// Draws the order of a new round.
    pub fn start(&mut self, order: &mut Order) {
        self.order = order.permutation(self.batches.len() as u32);
        self.order.reverse();
    }
}
