//! Penalties on tokens that occurred among the last ones. The history lives on the device, since its newest token is
//! not known yet when the next step is queued.

use super::Sampling;
use crate::dtype::Dtype;
use crate::error::Result;
use crate::mlx::{ops, Array};

pub struct Penalties {
    repetition: Option<f32>,
    presence: Option<f32>,
    frequency: Option<f32>,
    window: Option<usize>,
    /// u32 `[n]`, n at most the window; `None` while nothing is penalised or there is no token yet
    history: Option<Array>,
}

impl Penalties {
    pub fn new(sampling: &Sampling, history: &[i32]) -> Result<Self> {
        let mut penalties = Penalties {
            repetition: sampling.repetition_penalty,
            presence: sampling.presence_penalty,
            frequency: sampling.frequency_penalty,
            window: sampling.penalty_window,
            history: None,
        };
        let kept = penalties.window.unwrap_or(usize::MAX).min(history.len());
        let last = &history[history.len() - kept..];
        if penalties.any() && !last.is_empty() {
            penalties.history = Some(ops::astype(&Array::from_i32(last)?, Dtype::U32)?);
        }
        Ok(penalties)
    }

    pub fn any(&self) -> bool {
        self.repetition.is_some() || self.presence.is_some() || self.frequency.is_some()
    }

    /// logits `[vocab]` → the same shape
    pub fn apply(&self, logits: &Array) -> Result<Array> {
        let Some(history) = &self.history else {
            return Ok(logits.clone());
        };
        let number = |value: f32| Array::scalar(value, logits.dtype());
        let mut logits = logits.clone();
        if let Some(penalty) = self.repetition {
            let selected = ops::take_along_axis(&logits, history, 0)?;
            let negative = ops::less(&selected, &number(0.0)?)?;
            let (more, less) = (
                ops::multiply(&selected, &number(penalty)?)?,
                ops::divide(&selected, &number(penalty)?)?,
            );
            logits =
                ops::put_along_axis(&logits, history, &ops::select(&negative, &more, &less)?, 0)?;
        }
        if let Some(penalty) = self.presence {
            let selected = ops::take_along_axis(&logits, history, 0)?;
            logits = ops::put_along_axis(
                &logits,
                history,
                &ops::subtract(&selected, &number(penalty)?)?,
                0,
            )?;
        }
        if let Some(penalty) = self.frequency {
            let each = ops::add(
                &ops::zeros(history.shape(), logits.dtype())?,
                &number(-penalty)?,
            )?;
            logits = ops::scatter_add_axis(&logits, history, &each, 0)?;
        }
        Ok(logits)
    }

    /// token u32 `[n]`: one, or those that came at once
    pub fn push(&mut self, token: &Array) -> Result<()> {
        if !self.any() {
            return Ok(());
        }
        let longer = match &self.history {
            Some(history) => ops::concatenate(&[history, token], 0)?,
            None => token.clone(),
        };
        let n = longer.dim(0);
        let kept = self
            .window
            .map_or(n, |window| n.min(i32::try_from(window).unwrap_or(n)));
        self.history = Some(ops::slice(&longer, &[n - kept], &[n])?);
        Ok(())
    }
}
