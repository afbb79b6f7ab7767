//! Embeddings.

use std::ffi::{c_char, c_void};

use super::adapter::MOST_DIMENSIONS;
use super::boundary::{call, Use};
use super::constants::*;
use super::error::mlxrt_error;
use super::handle::table;
use super::model::report;
use super::structs::{read_options, Out};
use super::text::{allocate, strings_arg};
use super::time::deadline;
use super::types::{mlxrt_embed_options, mlxrt_model, mlxrt_tensor};
use crate::error::{Error, Result};
use crate::model::Pooling;
use crate::runtime::embed::{embed, EmbedOptions};
use crate::runtime::model::Model;

/// Turns texts into embeddings: out is F32 [count, dim], a row for each text. lens may be NULL: all texts are NUL-terminated.
/// Each text gets the special tokens that the tokenizer puts around one; special tokens written in a text are special, as in
/// mlxrt_tokenize.
/// With MLXRT_POOLING_MODEL the folder's own modules make the embedding, where it has sentence-transformers' files: its pooling,
/// the linear layers and the normalisation behind it, and its default prompt in front of each text. Other prompts ("query: ") are
/// the caller's to put there. Without such files it is the last token of a model that generates text, and the mean of an encoder.
/// The other poolings are of the model's last hidden states and nothing else. Adapters are not applied.
/// Short texts are computed together, whatever their order; what a text becomes does not depend on the others, but by the
/// rounding of sums. Texts are never cut: one that is too long is an error.
/// mlxrt_model_info tells what the folder says as "embedding", and whether the model generates text, too.
///
/// Threads: any; progress runs on this one.
/// Blocks: until all texts are done; progress, in tokens, may stop it (CANCELLED), timeout_ms ends it (TIMEOUT). Sessions go on in
/// between. A suspension in the middle makes it wait.
/// Errors: INVALID_ARGUMENT for a count of 0, and naming a text that is NULL, not UTF-8 or has no tokens; CONTEXT_FULL names
/// one that has more tokens than the model's context or positions; UNSUPPORTED for an unknown pooling, and with
/// MLXRT_POOLING_MODEL for modules that are not known here, by their file and key; BAD_MODEL for such files that are wrong, and for
/// numbers that are not finite; OUT_OF_MEMORY before a part that does not fit into the limit; SUSPENDED; DEVICE.
/// Owns: out->data is yours: mlxrt_free.
#[no_mangle]
pub unsafe extern "C" fn mlxrt_embed(
    model: *mut mlxrt_model,
    texts: *const *const c_char,
    lens: *const usize,
    count: usize,
    options: *const mlxrt_embed_options,
    out: *mut mlxrt_tensor,
) -> *mut mlxrt_error {
    call("mlxrt_embed", Use::Blocking, || {
        // SAFETY: the caller's struct is NULL or as large as its struct_size says.
        let out = unsafe { Out::check(out, "out")? };
        let model = table().get::<Model>(model, "model")?;
        // SAFETY: options are NULL or as large as their struct_size says; the arrays have count elements, each text its length.
        let (o, texts): (mlxrt_embed_options, _) = unsafe {
            let options = read_options(options, "options")?;
            (options, strings_arg(texts, lens, count, "texts")?)
        };
        let options = EmbedOptions {
            pooling: pooling(o.pooling)?,
            normalize: o.flags & MLXRT_EMBED_NORMALIZE != 0,
            deadline: deadline(o.timeout_ms),
            progress: &mut |done, total| report(o.progress, o.progress_data, done, total),
        };
        let made = embed(&model, &texts, options)?;
        let data = allocate::<f32>(made.values.len(), 0)?;
        // SAFETY: the buffer has room for all values.
        unsafe { std::ptr::copy_nonoverlapping(made.values.as_ptr(), data, made.values.len()) };
        let mut shape = [0; MOST_DIMENSIONS];
        shape[0] = made.count as u64;
        shape[1] = made.dim as u64;
        out.write(mlxrt_tensor {
            struct_size: 0,
            dtype: MLXRT_DTYPE_F32,
            rank: 2,
            reserved: 0,
            shape,
            data: data.cast::<c_void>(),
            bytes: (made.values.len() * size_of::<f32>()) as u64,
        });
        Ok(())
    })
}

fn pooling(code: i32) -> Result<Option<Pooling>> {
    match code {
        MLXRT_POOLING_MODEL => Ok(None),
        MLXRT_POOLING_MEAN => Ok(Some(Pooling::Mean)),
        MLXRT_POOLING_LAST => Ok(Some(Pooling::Last)),
        MLXRT_POOLING_CLS => Ok(Some(Pooling::Cls)),
        other => Err(Error::unsupported(format!(
            "options.pooling is {other}, which is not known"
        ))),
    }
}
