//! A pass as one step of a GPU's kernels (`mlx/gpu`), made of the same parts as the plain path; where the kernels do not know all of
//! a model, or of a pass, MLX's operations compute it.

use super::adapter::AdapterSet;
use super::cache::Cache;
use super::decoder::Decoder;
use super::fused::{session_rows, Gather};
use super::modules::Site;
use super::parts::Part;
use super::segments::{Adapters, Session};
use crate::dtype::Dtype;
use crate::error::Result;
use crate::kernels;
use crate::mlx::gpu::{Model, Step, Stepped, MAX_ROWS};
use crate::mlx::nn::AttentionMask;
use crate::mlx::Array;

#[cfg(test)]
thread_local! {
    /// For tests: how many passes were steps, or None where none is to be.
    pub static COUNT: std::cell::Cell<Option<usize>> = const { std::cell::Cell::new(Some(0)) };
}

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
        let halves = self.blocks.iter().flat_map(|block| &block.halves);
        let halves = halves.map(|half| gather.half(half));
        let halves = halves.collect::<Result<Option<Vec<_>>>>()?;
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
            false => gather.linear(Site::LM_HEAD)?,
        };
        let (Some(halves), Some(norm), Some(lm_head)) = (halves, norm, lm_head) else {
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
        let adapted = || adapters.rows().any(|(_, set)| set.sites().next().is_some());
        let known = |session: &Session| self.is_known(session);
        if rows > MAX_ROWS || adapted() || !sessions.iter().all(known) {
            return Ok(None);
        }
        let halves = self.blocks.iter().flat_map(|block| &block.halves);
        let layers = halves.filter_map(|half| match &half.part {
            Part::Attention(attention) => Some(session_rows(attention, sessions, step.dtype())),
            _ => None,
        });
        let layers = layers.collect::<Result<_>>()?;
        #[cfg(test)]
        COUNT.set(COUNT.get().map(|count| count + 1));
        step.run(tokens, layers).map(Some)
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
