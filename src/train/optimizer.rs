//! Adam, AdamW and SGD as `mlx.optimizers` computes them, without bias correction.

use crate::error::{Error, Result};
use crate::mlx::{ops, Array};

const BETAS: (f64, f64) = (0.9, 0.999);
const EPSILON: f32 = 1e-8;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Optimizer {
    AdamW { weight_decay: f32 },
    Adam,
    Sgd { weight_decay: f32 },
}

/// Adam's moments of each parameter; none before the first update and for SGD.
#[derive(Clone, Default)]
pub struct Moments(Vec<(Array, Array)>);

impl Moments {
    pub fn arrays(&self) -> impl Iterator<Item = &Array> {
        self.0.iter().flat_map(|(m, v)| [m, v])
    }
}

impl Optimizer {
    /// The parameters after an update, and the moments for the next one; nothing is computed yet.
    pub fn update(
        self,
        parameters: &[Array],
        gradients: &[Array],
        moments: &Moments,
        rate: f32,
    ) -> Result<(Vec<Array>, Moments)> {
        if parameters.len() != gradients.len() {
            return Err(Error::internal(
                "as many gradients as parameters are expected",
            ));
        }
        let mut updated = Vec::with_capacity(parameters.len());
        let mut after = Vec::with_capacity(moments.0.len());
        for (index, (parameter, gradient)) in parameters.iter().zip(gradients).enumerate() {
            let number = |value: f32| Array::scalar(value, gradient.dtype());
            let times = |value: f32, array: &Array| ops::multiply(&number(value)?, array);
            if let Optimizer::Sgd { weight_decay } = self {
                let mut gradient = gradient.clone();
                if weight_decay != 0.0 {
                    gradient = ops::add(&gradient, &times(weight_decay, parameter)?)?;
                }
                updated.push(ops::subtract(parameter, &times(rate, &gradient)?)?);
                continue;
            }
            let decayed = match self {
                Optimizer::AdamW { weight_decay } => times(1.0 - rate * weight_decay, parameter)?,
                _ => parameter.clone(),
            };
            let zero;
            let (m, v) = match moments.0.get(index) {
                Some((m, v)) => (m, v),
                None => {
                    zero = ops::zeros(parameter.shape(), parameter.dtype())?;
                    (&zero, &zero)
                }
            };
            let square = ops::multiply(gradient, gradient)?;
            // Of the old one and the new: the difference is made before it is rounded.
            let blend = |beta: f64, old: &Array, new: &Array| {
                ops::add(&times(beta as f32, old)?, &times((1.0 - beta) as f32, new)?)
            };
            let (m, v) = (blend(BETAS.0, m, gradient)?, blend(BETAS.1, v, &square)?);
            let root = ops::add(&ops::sqrt(&v)?, &number(EPSILON)?)?;
            let change = ops::divide(&times(rate, &m)?, &root)?;
            updated.push(ops::subtract(&decayed, &change)?);
            after.push((m, v));
        }
        Ok((updated, Moments(after)))
    }
}
