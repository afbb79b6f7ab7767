//! A head that predicts further tokens, and what its model gives it.

use super::{AdapterSet, Cache, Decoder, Kept, Past, Rows, Session};
use crate::error::{Error, Result};
use crate::mlx::{self, ops, Array};
use crate::model::cache::Tokens;

impl Decoder {
    /// The head that predicts further tokens, as a decoder of its own with this one's arrays.
    pub fn take_ahead(&mut self) -> Option<Decoder> {
        self.ahead.take().map(|ahead| *ahead)
    }

    /// Whether it is such a head: what goes in is what came out of its model, and the next tokens.
    pub fn is_ahead(&self) -> bool {
        self.joined.is_some()
    }

    /// As `forward` of the last row, and of all rows, for a head that predicts further tokens. What is computed of all rows is not to the
    /// bit what is computed of the last alone; so the last block computes both, and its caches take the tokens twice. None of all rows
    /// where they cannot: it then gives the last one only.
    pub fn forward_twice(
        &self,
        tokens: &Array,
        caches: &mut [Cache],
        adapters: &AdapterSet,
    ) -> Result<(Array, Option<Array>)> {
        let n = tokens.dim(0);
        let goes_back = |cache: &Cache| {
            let full = |tokens: &Tokens| tokens.extent().window().is_none();
            cache.as_tokens().is_some_and(full)
        };
        let own: Vec<usize> = self
            .blocks
            .last()
            .map_or(Vec::new(), |b| b.keeps().collect());
        let twice = (own.iter()).all(|&at| caches.get(at).is_some_and(goes_back));
        let plain = self.spread.is_none() && self.per_layer.is_none();
        let last = self.blocks.last().filter(|_| twice && plain && n > 1);
        let Some((last, behind)) = last.zip(self.blocks.len().checked_sub(1)) else {
            let hidden = self.forward(tokens, caches, Rows::Last, adapters)?;
            return Ok((hidden, None));
        };
        let with = self.live.with(adapters);
        let tokens = ops::reshape(tokens, &[1, n])?;
        let mut h = self.embed(&tokens, adapters)?;
        let session = self.session(n, caches)?;
        let mut kept: Vec<Kept> = vec![None; self.caches.len()];
        let mut past = Past {
            sessions: vec![session],
            kept: &mut kept,
            texts: None,
            per_layer: None,
        };
        for block in self.blocks.iter().take(behind) {
            h = block.forward(&with, &h, &mut past, Rows::All)?;
        }
        let alone = last.forward(&with, &h, &mut past, Rows::Last)?;
        let missing = || Error::internal("a session without its caches");
        let caches = &mut past.sessions.first_mut().ok_or_else(missing)?.caches;
        // Else what is written next would be another array.
        let own_caches = own.iter().filter_map(|&at| caches.get(at));
        let mut wanted: Vec<&Array> = own_caches.flat_map(Cache::arrays).collect();
        wanted.push(&alone);
        mlx::eval(&wanted)?;
        for &at in &own {
            let cache = caches.get_mut(at).ok_or_else(missing)?;
            cache.cut(cache.offset() - n)?;
        }
        let all = last.forward(&with, &h, &mut past, Rows::All)?;
        let caches = &past.sessions.first().ok_or_else(missing)?.caches;
        let own_caches = own.iter().filter_map(|&at| caches.get(at));
        let mut wanted: Vec<&Array> = own_caches.flat_map(Cache::arrays).collect();
        wanted.push(&all);
        mlx::eval(&wanted)?;
        Ok((alone, Some(all)))
    }

    /// Of a head: tokens i32 `[n]`, and what came out of the model, or with `own` of the head, for the tokens before each of them,
    /// `[1, n, hidden]` → what comes out of the head's block
    pub(in crate::model) fn through_head(
        &self,
        tokens: &Array,
        (hidden, own): (&Array, bool),
        sessions: Vec<Session>,
        rows: Rows,
    ) -> Result<Array> {
        let joined = self.joined.ok_or_else(|| Error::internal("no head"))?;
        let none = AdapterSet::default();
        let with = self.live.with(&none);
        let tokens = ops::reshape(tokens, &[1, tokens.dim(0)])?;
        let embedding = with.norm(joined.embedding_norm, &self.embed(&tokens, &none)?)?;
        let hidden = match joined.normed && !own {
            true => self.normed(&with, hidden)?,
            false => hidden.clone(),
        };
        let hidden = with.norm(joined.hidden_norm, &hidden)?;
        let embedding = ops::astype(&embedding, hidden.dtype())?;
        // [1, n, 2 * hidden]
        let both = ops::concatenate(&[&embedding, &hidden], -1)?;
        let h = with.linear(joined.project, &both)?;
        self.blocks_of(&with, h, (sessions, Vec::new()), rows)
    }

    /// Of a head, as `forward`: the caches take the tokens, each with what came out of the model for the one before it.
    pub fn forward_ahead(
        &self,
        tokens: &Array,
        hidden: &Array,
        caches: &mut [Cache],
    ) -> Result<Array> {
        let session = self.session(tokens.dim(0), caches)?;
        self.through_head(tokens, (hidden, false), vec![session], Rows::Last)
    }
}
