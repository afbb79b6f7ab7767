//! Attention among the rows of several texts, operation by operation: texts of one length are a batch.

use super::Attention;
use crate::error::{Error, Result};
use crate::mlx::nn::{self, AttentionMask, Scores};
use crate::mlx::stored::Stored;
use crate::mlx::{ops, Array};
use crate::model::decoder::{Forward, Rows};
use crate::model::texts::{Run, Texts};

impl Attention {
    /// x `[1, tokens, hidden]`, the rows of all texts → the same shape
    pub(super) fn forward_texts(&self, with: &Forward, x: &Array, texts: &Texts) -> Result<Array> {
        let (queries, own) = self.project(with, x, x, Rows::All)?;
        let (queries, gate) = self.gate(with, queries, x)?;
        let [keys, values] = own.ok_or_else(|| Error::internal("texts that borrow keys"))?;
        let scores = || -> Result<Scores> {
            Ok(Scores {
                scale: self.config.scale,
                softcap: self.config.softcap,
                sinks: self.sinks.map(|sinks| with.vector(sinks)).transpose()?,
            })
        };
        let mut outputs = Vec::new();
        for run in texts.runs(!nn::takes_batches()) {
            let Run {
                first,
                count,
                length,
            } = run;
            // [1, tokens, width] → [count, length, width]
            let batch = |x: &Array| {
                let width = x.dim(2);
                let rows = ops::slice(x, &[0, first, 0], &[1, first + count * length, width])?;
                ops::reshape(&rows, &[count, length, width])
            };
            let by_head = |x: Array| ops::transpose(&x, &[0, 2, 1, 3]);
            let keys = self.heads(with, &batch(&keys)?, self.config.kv_heads, self.k_norm)?;
            let keys = self.turn(with, by_head(keys)?, 0, length)?;
            let values = by_head(self.values(&batch(&values)?)?)?;
            let kv_type = keys.dtype().wider(values.dtype());
            let (keys, values) = (ops::astype(&keys, kv_type)?, ops::astype(&values, kv_type)?);
            let queries = self.heads(with, &batch(&queries)?, self.config.heads, self.q_norm)?;
            let mut queries = self.turn(with, by_head(queries)?, 0, length)?;
            if let Some(temperature) = self.config.temperature {
                queries = nn::temper(&queries, temperature, 0)?;
            }
            let mask = match texts.both_ways() {
                true => AttentionMask::both_ways(length, self.config.window)?,
                false => AttentionMask::new(length, 0, self.config.window)?,
            };
            let output = nn::attention(
                &queries,
                &Stored::Floats(keys),
                &Stored::Floats(values),
                &mask,
                scores()?,
            )?;
            // [count, length, heads * head_dim] → [1, count * length, heads * head_dim]
            let width = output.dim(2);
            outputs.push(ops::reshape(&output, &[1, count * length, width])?);
        }
        let outputs: Vec<&Array> = outputs.iter().collect();
        let output = match outputs.as_slice() {
            [one] => (*one).clone(),
            all => ops::concatenate(all, 1)?,
        };
        let output = self.gated(output, gate)?;
        with.linear(self.o_proj, &output)
    }
}
