//! A pass as one step of a GPU's kernels (`mlx/gpu`), made of the same parts as the plain path; where the kernels do not know all of
//! a model, or of a pass, MLX's operations compute it.

use std::rc::Rc;

use super::adapter::AdapterSet;
use super::cache::Cache;
use super::decoder::Decoder;
use super::fused::{session_rows, Gather, Gathered};
use super::modules::Site;
use super::parts::Part;
use super::segments::{Adapters, Session};
use crate::dtype::Dtype;
use crate::error::Result;
use crate::kernels;
use crate::mlx::fast::Matrix;
use crate::mlx::gpu::{Lows, Model, Step, Stepped, MAX_ROWS};
use crate::mlx::nn::AttentionMask;
use crate::mlx::Array;

#[cfg(test)]
thread_local! {
    /// For tests: how many passes were steps, or None where none is to be.
    pub static COUNT: std::cell::Cell<Option<usize>> = const { std::cell::Cell::new(Some(0)) };
}

type KnownHalves<'a> = (
    Vec<kernels::Half<Matrix<'a>, &'a Array>>,
    Option<kernels::Linear<Matrix<'a>, &'a Array>>,
);

impl Decoder {
    /// For one that has just been made: its step, if there is one. Compiles kernels, once for models of a kind.
    pub(super) fn make_step(&self) -> Result<Option<Step>> {
        let plain = self.per_layer.is_none()
            && self.spread.is_none()
            && self.config.embed.norm.is_none()
            && self.blocks.iter().all(|block| block.is_plain());
        let Some((embed_tokens, dtype)) = self.live.embedding()?.as_mlx().filter(|_| plain) else {
            return Ok(None);
        };
        if self.config.clip_residual && dtype == Dtype::F16 {
            return Ok(None);
        }
        let none = AdapterSet::default();
        let with = self.live.with(&none);
        let gather = Gather {
            with: &with,
            dtype,
            length: 0,
        };
        let Some((halves, lm_head)) = self.known_halves(&gather)? else {
            return Ok(None);
        };
        let norm = match self.config.norm {
            Some(_) => gather.option(Some(Site::NORM))?.flatten(),
            None => None,
        };
        let lm_head = match self.is_tied() {
            true => Some(kernels::Linear {
                weight: embed_tokens,
                bias: None,
                low: Vec::new(),
            }),
            false => lm_head,
        };
        let (Some(norm), Some(lm_head)) = (norm, lm_head) else {
            return Ok(None);
        };
        Step::new(&Model {
            dtype,
            embed_tokens,
            embed_scale: self.live.scale_of_embeddings(dtype)?,
            halves,
            norm,
            lm_head,
        })
    }

    /// Makes it again, without one of its kernels.
    #[cfg(test)]
    pub fn step_without(&mut self, kernel: Option<&'static str>) -> Result<()> {
        crate::mlx::gpu::LEFT_OUT.set(kernel);
        self.step = self.make_step()?;
        crate::mlx::gpu::LEFT_OUT.set(None);
        Ok(())
    }

    /// All halves of all blocks, and the output layer where it is one of its own.
    fn known_halves<'a>(&self, gather: &Gather<'_, 'a>) -> Gathered<KnownHalves<'a>> {
        let halves = self.blocks.iter().flat_map(|block| &block.halves);
        let halves = halves.map(|half| gather.half(half));
        let Some(halves) = halves.collect::<Result<Option<Vec<_>>>>()? else {
            return Ok(None);
        };
        let lm_head = match self.is_tied() {
            true => None,
            false => gather.linear(Site::LM_HEAD)?,
        };
        Ok(Some((halves, lm_head)))
    }

    /// What a set adds to the step's products, made once; None where the kernels do not know all of it.
    fn lows(&self, step: &Step, set: &AdapterSet) -> Result<Option<Rc<Lows>>> {
        if let Some(lows) = set.lows.get() {
            return Ok(lows.clone());
        }
        let gather = Gather {
            with: &self.live.with(set),
            dtype: step.dtype(),
            length: 0,
        };
        let lows = match self.known_halves(&gather)? {
            Some((halves, lm_head)) => step.lows(&halves, lm_head.as_ref(), set.sites().count())?,
            None => None,
        };
        Ok(set.lows.get_or_init(|| lows.map(Rc::new)).clone())
    }

    /// Of each row its adapters. Outer None: the kernels do not know all of them.
    fn lows_of_rows(
        &self,
        step: &Step,
        adapters: Adapters,
        count: usize,
    ) -> Gathered<Vec<Option<Rc<Lows>>>> {
        let mut all = Vec::with_capacity(count);
        for (rows, set) in adapters.rows() {
            let own = match set.sites().next() {
                None => None,
                Some(_) => match self.lows(step, set)? {
                    Some(lows) => Some(lows),
                    None => return Ok(None),
                },
            };
            let rows = rows.map_or(count, |rows| usize::try_from(rows).unwrap_or(0));
            all.extend(std::iter::repeat_n(own, rows.min(count)));
        }
        all.resize(count, None);
        Ok(Some(all))
    }

    /// The logits after each of the rows, as the last layer gave them; the caches take the tokens. None, and nothing done, where the kernels
    /// do not know all of it.
    pub(super) fn step(
        &self,
        tokens: &Array,
        sessions: &mut [Session],
        adapters: Adapters,
    ) -> Result<Option<Stepped>> {
        let Some(step) = &self.step else {
            return Ok(None);
        };
        #[cfg(test)]
        if COUNT.get().is_none() {
            return Ok(None);
        }
        let rows = usize::try_from(tokens.dim(0)).unwrap_or(usize::MAX);
        let known = |session: &Session| self.is_known(session);
        if rows > MAX_ROWS || !sessions.iter().all(known) {
            return Ok(None);
        }
        let Some(lows) = self.lows_of_rows(step, adapters, rows)? else {
            return Ok(None);
        };
        let halves = self.blocks.iter().flat_map(|block| &block.halves);
        let layers = halves.filter_map(|half| match &half.part {
            Part::Attention(attention) => Some(session_rows(attention, sessions, step.dtype())),
            _ => None,
        });
        let layers = layers.collect::<Result<_>>()?;
        #[cfg(test)]
        COUNT.set(COUNT.get().map(|count| count + 1));
        step.run(tokens, layers, lows).map(Some)
    }

    /// Whether its rows can be some of a step: floats, which see all that is there before them.
    fn is_known(&self, session: &Session) -> bool {
        let several = session.rows > 1;
        let sees_all = |mask: &AttentionMask| match mask {
            AttentionMask::None => true,
            AttentionMask::Causal => several,
            AttentionMask::Window { .. } | AttentionMask::Near { .. } => false,
        };
        let mut caches = session.caches.iter();
        let known = |cache: &Cache| match cache {
            Cache::Tokens(tokens) => {
                let turns = several && tokens.is_turned_by(session.rows);
                tokens.scheme().is_none() && !turns && !self.is_long(tokens.length(session.rows))
            }
            _ => false,
        };
        caches.all(known) && session.masks.iter().all(|mask| sees_all(mask))
    }
}
