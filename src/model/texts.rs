//! Several texts in one pass: their rows lie one after the other, and each text sees itself alone. Nothing is kept of them.

use std::sync::Arc;

use super::adapter::AdapterSet;
use super::block::Past;
use super::decoder::{Decoder, Forward, Rows};
use super::parts::Part;
use super::segments::Session;
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::kernels::Visible;
use crate::mlx::{ops, Array};

/// The texts of a pass, the longest first.
pub struct Texts {
    lengths: Arc<[usize]>,
    both_ways: bool,
}

/// Texts of one length that follow each other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Run {
    /// The first row of the first one.
    pub first: i32,
    pub count: i32,
    /// Of each.
    pub length: i32,
}

/// What becomes of a text's rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    Mean,
    Last,
    /// The first.
    Cls,
}

/// A pass that is under way.
pub struct TextsPass {
    texts: Texts,
    /// `[1, tokens, hidden]`
    h: Array,
    /// The next block.
    next: usize,
}

/// What comes behind the pooling: `x Wᵀ + b`, or its tanh.
pub struct Dense {
    /// `[out, in]`
    pub weight: Array,
    /// `[out]`
    pub bias: Option<Array>,
    pub tanh: bool,
}

impl Texts {
    fn new(lengths: &[usize], both_ways: bool) -> Self {
        Texts {
            lengths: lengths.into(),
            both_ways,
        }
    }

    pub fn lengths(&self) -> &Arc<[usize]> {
        &self.lengths
    }

    pub fn longest(&self) -> i32 {
        let longest = self.lengths.iter().max();
        longest.map_or(0, |&length| count(length))
    }

    pub fn both_ways(&self) -> bool {
        self.both_ways
    }

    /// What a token sees of its text, for the CPU's kernels.
    pub fn visible(&self, window: Option<i32>) -> Visible {
        let window = window.and_then(|window| usize::try_from(window).ok());
        match (self.both_ways, window) {
            (false, window) => Visible::Causal { window },
            (true, None) => Visible::All,
            (true, Some(window)) => Visible::Near { window },
        }
    }

    /// Texts of one length together, or each by itself.
    pub fn runs(&self, each: bool) -> Vec<Run> {
        let (mut runs, mut first) = (Vec::<Run>::new(), 0);
        for &length in self.lengths.iter() {
            let length = count(length);
            match runs.last_mut() {
                Some(run) if run.length == length && !each => run.count += 1,
                _ => runs.push(Run {
                    first,
                    count: 1,
                    length,
                }),
            }
            first += length;
        }
        runs
    }
}

fn count(n: usize) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

impl Decoder {
    /// Whether several texts can be one pass: nothing but attention looks at other tokens.
    pub fn packs_texts(&self) -> bool {
        let packs = |part: &Part| match part {
            Part::Attention(attention) => attention.config().keys_of.is_none(),
            Part::Mlp(_) | Part::Moe(_) | Part::Beside(_) => true,
            _ => false,
        };
        let beside = self.per_layer.is_some() || self.spread.is_some();
        let mut blocks = self.blocks.iter();
        !beside && blocks.all(|block| block.halves.iter().all(|half| packs(&half.part)))
    }

    /// Begins a pass: the tokens of all texts, and how many each has.
    pub fn begin_texts(&self, tokens: &[i32], lengths: &[usize]) -> Result<TextsPass> {
        if lengths.iter().sum::<usize>() != tokens.len() || !self.packs_texts() {
            return Err(Error::internal("texts that are no pass"));
        }
        let texts = Texts::new(lengths, self.config.both_ways);
        let ids = ops::reshape(&Array::from_i32(tokens)?, &[1, count(tokens.len())])?;
        let none = AdapterSet::default();
        let with = self.live.with(&none);
        let mut h = self.embed(&ids, &none)?;
        if let Some(types) = self.summed.types {
            let first = Array::from_i32(&[0])?;
            h = ops::add(&h, &with.rows(types, &first)?)?;
        }
        if let (Some(table), Some(positions)) = (self.summed.positions, self.config.embed.positions)
        {
            let places = lengths
                .iter()
                .flat_map(|&length| (positions.first..).take(length));
            let places: Vec<i32> = places.collect();
            let places = ops::reshape(&Array::from_i32(&places)?, &[1, count(tokens.len())])?;
            h = ops::add(&h, &with.rows(table, &places)?)?;
        }
        if let Some(norm) = self.summed.norm {
            h = with.norm(norm, &h)?;
        }
        Ok(TextsPass { texts, h, next: 0 })
    }

    /// Queues so many blocks more. False: they were the last.
    pub fn go_on(&self, pass: &mut TextsPass, blocks: usize) -> Result<bool> {
        let none = AdapterSet::default();
        let with = self.live.with(&none);
        let end = pass.next.saturating_add(blocks).min(self.blocks.len());
        for block in self.blocks.get(pass.next..end).unwrap_or_default() {
            let mut past = Past {
                sessions: vec![Session::default()],
                kept: &mut [],
                texts: Some(&pass.texts),
                per_layer: None,
            };
            pass.h = block.forward(&with, &pass.h, &mut past, Rows::All)?;
        }
        pass.next = end;
        Ok(end < self.blocks.len())
    }

    /// The end of a pass: what each text became, f32 `[texts, hidden]`.
    pub fn pooled(&self, pass: &TextsPass, pooling: Pooling) -> Result<Array> {
        let none = AdapterSet::default();
        let with = self.live.with(&none);
        let hidden = pass.h.dim(2);
        if pooling == Pooling::Mean {
            let h = self.rows_of(&with, &pass.h)?;
            let mut means = Vec::new();
            for Run {
                first,
                count,
                length,
            } in pass.texts.runs(false)
            {
                let rows = ops::slice(&h, &[0, first, 0], &[1, first + count * length, hidden])?;
                // [1, count * length, hidden] → [count, length, hidden] → [count, hidden]
                let rows = ops::reshape(&rows, &[count, length, hidden])?;
                means.push(ops::mean(&rows, 1, false)?);
            }
            let means: Vec<&Array> = means.iter().collect();
            return ops::concatenate(&means, 0);
        }
        let (mut wanted, mut first) = (Vec::new(), 0);
        for &length in pass.texts.lengths.iter() {
            wanted.push(match pooling {
                Pooling::Last => first + count(length) - 1,
                _ => first,
            });
            first += count(length);
        }
        // [tokens, hidden] → [texts, hidden]
        let h = ops::reshape(&pass.h, &[first, hidden])?;
        self.rows_of(&with, &ops::take(&h, &Array::from_i32(&wanted)?)?)
    }

    /// What stands for tokens, f32: h `[…, hidden]` as it came out of the last block.
    fn rows_of(&self, with: &Forward, h: &Array) -> Result<Array> {
        ops::astype(&self.normed(with, h)?, Dtype::F32)
    }

    /// The same of a part of one text, whose rows are summed up for a mean: h `[1, n, hidden]` → f32 `[hidden]`.
    pub fn part_of_text(&self, h: &Array, pooling: Pooling) -> Result<Array> {
        let none = AdapterSet::default();
        let with = self.live.with(&none);
        let (n, hidden) = (h.dim(1), h.dim(2));
        let row = |at: i32| ops::slice(h, &[0, at, 0], &[1, at + 1, hidden]);
        let rows = match pooling {
            Pooling::Mean => ops::sum(&self.rows_of(&with, h)?, 1, false)?,
            Pooling::Last => self.rows_of(&with, &row(n - 1)?)?,
            Pooling::Cls => self.rows_of(&with, &row(0)?)?,
        };
        ops::reshape(&rows, &[hidden])
    }

    /// Through what the folder has behind the pooling: f32 `[texts, hidden]` → f32 `[texts, dim]`
    pub fn through_dense(&self, pooled: &Array) -> Result<Array> {
        let mut x = pooled.clone();
        for Dense { weight, bias, tanh } in &self.dense {
            let weight = ops::transpose(&ops::astype(weight, Dtype::F32)?, &[1, 0])?;
            x = ops::matmul(&x, &weight)?;
            if let Some(bias) = bias {
                x = ops::add(&x, &ops::astype(bias, Dtype::F32)?)?;
            }
            if *tanh {
                x = ops::tanh(&x)?;
            }
        }
        Ok(x)
    }
}

impl TextsPass {
    /// What has been queued.
    pub fn rows(&self) -> &Array {
        &self.h
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_one_length_are_a_run() {
        let texts = Texts::new(&[5, 3, 3, 1], false);
        let run = |first, count, length| Run {
            first,
            count,
            length,
        };
        assert_eq!(
            texts.runs(false),
            [run(0, 1, 5), run(5, 2, 3), run(11, 1, 1)]
        );
        assert_eq!(
            texts.runs(true),
            [run(0, 1, 5), run(5, 1, 3), run(8, 1, 3), run(11, 1, 1)]
        );
        assert_eq!(texts.longest(), 5);
    }

    #[test]
    fn what_is_seen_goes_by_the_model_and_the_window() {
        let (causal, both) = (Texts::new(&[3], false), Texts::new(&[3], true));
        assert_eq!(causal.visible(None), Visible::Causal { window: None });
        assert_eq!(causal.visible(Some(4)), Visible::Causal { window: Some(4) });
        assert_eq!(both.visible(None), Visible::All);
        assert_eq!(both.visible(Some(4)), Visible::Near { window: 4 });
    }
}
