//! Learning rates, as `mlx.optimizers` schedules them.

/// The learning rate of each update.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    pub shape: Shape,
    /// The highest.
    pub rate: f32,
    /// Updates over which it rises from 0, in even steps; the first one has 0.
    pub warmup: u64,
    /// Updates in all: the last one comes near 0 unless the shape is constant.
    pub updates: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shape {
    #[default]
    Constant,
    Cosine,
    Linear,
}

impl Schedule {
    /// Of update `index`, from 0.
    pub fn at(&self, index: u64) -> f32 {
        if self.warmup > 0 && index <= self.warmup {
            return self.rate * (index as f32 / self.warmup as f32);
        }
        // mlx-lm joins the two with one update more of warm-up.
        let index = match self.warmup {
            0 => index,
            warmup => index - warmup - 1,
        };
        let steps = self.updates.saturating_sub(self.warmup).max(1);
        let part = index.min(steps) as f64 / steps as f64;
        let rate = f64::from(self.rate);
        (match self.shape {
            Shape::Constant => rate,
            Shape::Cosine => rate * 0.5 * (1.0 + (std::f64::consts::PI * part).cos()),
            Shape::Linear => rate * (1.0 - part),
        }) as f32
    }
}
