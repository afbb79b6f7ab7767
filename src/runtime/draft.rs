//! A draft model as its owner loads it: a smaller model with the same tokens, whose guesses the model itself looks at
//! (`worker/draft.rs`).

use crate::error::{Code, Error, Result};
use crate::text::Tokenizer;
use crate::words::quoted;

/// The option that names its folder, in errors.
pub(super) const OPTION: &str = "options.draft_path";

/// Tokens that one vocabulary may have at its end and the other lacks: versions of a model differ by some markers.
const MORE: usize = 128;

/// Refuses a draft whose tokens are others.
pub(super) fn check_tokens(own: &Tokenizer, draft: &Tokenizer) -> Result<()> {
    let [size, draft_size] = [own.vocab_size(), draft.vocab_size()];
    if size.abs_diff(draft_size) > MORE {
        return Err(incompatible(format!(
            "its tokenizer has {draft_size} tokens and the model's has {size}: a draft model needs the same tokens"
        )));
    }
    let ids = 0..i32::try_from(size.min(draft_size)).unwrap_or(i32::MAX);
    let mut ids = ids.map(|id| (id, own.bytes(id), draft.bytes(id)));
    match ids.find(|(_, own, draft)| own != draft) {
        None => Ok(()),
        Some((id, own, draft)) => {
            let [own, draft] =
                [own, draft].map(|bytes| quoted(&String::from_utf8_lossy(bytes), 80));
            Err(incompatible(format!(
                "its token {id} is {draft} and the model's is {own}: a draft model needs the same tokens"
            )))
        }
    }
}

fn incompatible(message: String) -> Error {
    Error::new(Code::Incompatible, message)
}
