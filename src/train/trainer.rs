//! One training's state on the engine thread. The adapter itself holds the weights.

use super::batches::Batch;
use super::flat::Layout;
use super::loss::loss;
use super::optimizer::{Moments, Optimizer};
use super::schedule::Schedule;
use crate::dtype::Dtype;
use crate::error::{Code, Error, Result};
use crate::mlx::{self, grad, ops, Array};
use crate::model::adapter::Adapter;
use crate::model::training::{Pass, Trained};
use crate::model::Decoder;
use crate::random::mix;

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepOptions {
    pub optimizer: Optimizer,
    pub schedule: Schedule,
    /// Steps whose gradients are averaged for one update, at least 1.
    pub accumulate: u64,
    pub dropout: f32,
    pub seed: u64,
    pub checkpoint: bool,
}

pub struct Trainer {
    trained: Trained,
    /// Of what is trained: gradients, moments and updates are one array of each type.
    layout: Layout,
    options: StepOptions,
    state: State,
}

/// What a step changes, all of it or nothing.
#[derive(Clone, Default)]
struct State {
    moments: Moments,
    /// Of each group of F16 what rounding took from its weights, f32: with that they are trained in f32. In F16 alone Adam's
    /// squares of gradients are nothing, and most of its changes. Empty before the first update.
    lost: Vec<Option<Array>>,
    /// The sum of the gradients since the last update.
    gradients: Option<Vec<Array>>,
    steps: u64,
    updates: u64,
}

/// What came of one.
pub struct Step {
    pub loss: f32,
    /// The rate of the last update; that of the first one before it.
    pub learning_rate: f32,
    /// The new weights, where the step was an update.
    pub update: Option<Vec<Array>>,
}

impl Trainer {
    pub fn new(adapter: &Adapter, options: StepOptions) -> Result<Self> {
        let trained = Trained::of(adapter)?;
        Ok(Trainer {
            layout: Layout::of(&trained.parameters(adapter)?)?,
            trained,
            options,
            state: State::default(),
        })
    }

    /// Computes one batch, and waits for it. A step that fails changes nothing and may be tried again.
    ///
    /// # Errors
    /// INVALID_ARGUMENT when the loss or the new weights are no finite numbers.
    pub fn step(&mut self, decoder: &Decoder, adapter: &Adapter, batch: &Batch) -> Result<Step> {
        let options = &self.options;
        let number = self.state.steps + 1;
        let joined = self.joined(adapter)?;
        let parameters = match self.has_f16() {
            true => self.layout.split(&joined)?,
            false => self.trained.parameters(adapter)?,
        };
        let pass = Pass {
            dropout: options.dropout,
            dropout_seed: mix(options.seed, number),
            checkpoint: options.checkpoint,
        };
        let work = |parameters: &[Array]| -> Result<Vec<Array>> {
            let loss = loss(decoder, &self.trained, parameters, batch, pass)?;
            Ok(vec![loss])
        };
        let (values, gradients) = grad::value_and_grad(work, &parameters)?;
        let mut gradients = self.layout.join(&gradients)?;
        if let Some(before) = &self.state.gradients {
            for (gradient, before) in gradients.iter_mut().zip(before) {
                *gradient = ops::add(gradient, before)?;
            }
        }
        let mut state = State {
            steps: number,
            ..self.state.clone()
        };
        let mut update = None;
        let (mut learning_rate, mut finite) = (options.schedule.at(state.updates.max(1) - 1), None);
        if number.is_multiple_of(options.accumulate) {
            if options.accumulate > 1 {
                for gradient in &mut gradients {
                    let count = Array::scalar(options.accumulate as f32, gradient.dtype())?;
                    *gradient = ops::divide(gradient, &count)?;
                }
            }
            learning_rate = options.schedule.at(state.updates);
            let moments = &self.state.moments;
            let (updated, moments) =
                options
                    .optimizer
                    .update(&joined, &gradients, moments, learning_rate)?;
            let (updated, lost) = self.rounded(updated)?;
            state.lost = lost;
            finite = Some(zero_if_finite(&updated)?);
            (state.moments, state.gradients) = (moments, None);
            state.updates += 1;
            update = Some(self.layout.split(&updated)?);
        } else {
            state.gradients = Some(gradients);
        }
        let wanted: Vec<&Array> = values
            .iter()
            .chain(&finite)
            .chain(state.moments.arrays())
            .chain(state.lost.iter().flatten())
            .chain(state.gradients.iter().flatten())
            .chain(update.iter().flatten())
            .collect();
        mlx::eval(&wanted)?;
        let loss = read(values.first())?;
        if !loss.is_finite() {
            return Err(diverged(&format!("the loss of step {number} is {loss}")));
        }
        if let Some(finite) = &finite {
            if read(Some(finite))? != 0.0 {
                let what = format!("the weights after step {number} are not finite");
                return Err(diverged(&what));
            }
        }
        self.state = state;
        Ok(Step {
            loss,
            learning_rate,
            update,
        })
    }

    fn has_f16(&self) -> bool {
        self.layout.types().any(|dtype| dtype == Dtype::F16)
    }

    /// The adapter's weights, one array a group, those of F16 in f32.
    fn joined(&self, adapter: &Adapter) -> Result<Vec<Array>> {
        let joined = self.layout.join(&self.trained.parameters(adapter)?)?;
        let widen = |(index, array): (usize, Array)| match self.state.lost.get(index) {
            _ if array.dtype() != Dtype::F16 => Ok(array),
            Some(Some(lost)) => ops::add(&ops::astype(&array, Dtype::F32)?, lost),
            _ => ops::astype(&array, Dtype::F32),
        };
        joined.into_iter().enumerate().map(widen).collect()
    }

    /// New weights as the adapter has them, and what that takes from those of F16.
    fn rounded(&self, updated: Vec<Array>) -> Result<(Vec<Array>, Vec<Option<Array>>)> {
        let round = |(array, dtype): (Array, Dtype)| match dtype {
            Dtype::F16 => {
                let narrow = ops::astype(&array, Dtype::F16)?;
                let lost = ops::subtract(&array, &ops::astype(&narrow, Dtype::F32)?)?;
                Ok((narrow, Some(lost)))
            }
            _ => Ok((array, None)),
        };
        updated
            .into_iter()
            .zip(self.layout.types())
            .map(round)
            .collect()
    }

    /// The loss of one batch as it is now, without dropout.
    pub fn loss(&self, decoder: &Decoder, adapter: &Adapter, batch: &Batch) -> Result<f32> {
        let parameters = self.trained.parameters(adapter)?;
        let pass = Pass::default();
        let loss = || loss(decoder, &self.trained, &parameters, batch, pass);
        read(Some(&mlx::fast::with_gradients(loss)?))
    }

    /// Gives the adapter what a step made.
    pub fn put(&self, adapter: &mut Adapter, update: Vec<Array>) -> Result<()> {
        self.trained.set_parameters(adapter, update)
    }

    #[cfg(test)]
    pub fn gradients(
        &self,
        decoder: &Decoder,
        adapter: &Adapter,
        batch: &Batch,
        pass: Pass,
    ) -> Result<(f32, Vec<Array>)> {
        let parameters = self.trained.parameters(adapter)?;
        let work = |parameters: &[Array]| -> Result<Vec<Array>> {
            let loss = loss(decoder, &self.trained, parameters, batch, pass)?;
            Ok(vec![loss])
        };
        let (values, gradients) = grad::value_and_grad(work, &parameters)?;
        Ok((read(values.first())?, gradients))
    }
}

fn read(number: Option<&Array>) -> Result<f32> {
    let numbers = number.map(Array::to_f32).transpose()?;
    numbers
        .and_then(|numbers| numbers.first().copied())
        .ok_or_else(|| Error::internal("a loss is one number"))
}

/// 0, or NaN where any element of these `[elements]` is not finite: 0 times those is NaN.
fn zero_if_finite(arrays: &[Array]) -> Result<Array> {
    let mut total = Array::scalar(0.0, Dtype::F32)?;
    for array in arrays {
        let array = ops::astype(array, Dtype::F32)?;
        let zeros = ops::multiply(&array, &Array::scalar(0.0, Dtype::F32)?)?;
        total = ops::add(&total, &ops::sum(&zeros, 0, false)?)?;
    }
    Ok(total)
}

fn diverged(what: &str) -> Error {
    Error::new(
        Code::InvalidArgument,
        format!(
            "{what}: training ended with the weights before it; try a lower learning_rate or a warmup"
        ),
    )
}
