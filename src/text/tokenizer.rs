//! A model's tokenizer: text to ids, and the tables for the way back.

use std::collections::HashSet;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Arc;

use serde_json::{Map, Value};
use tokenizers::{
    Encoding, Model, ModelWrapper, OffsetType, PreTokenizedString, PreTokenizer,
    Token as CrateToken,
};

use super::added::{AddedTokens, Origins};
use super::detokenize::Detokenizer;
use super::sanitise::{self, brief};
use super::table::Table;
use super::words::Words;
use crate::error::{Error, Result};
use crate::room;

/// Longer texts are refused.
const MAX_TEXT: usize = 64 << 20;
/// What the crate takes for each byte of a text while it works: measured 84 to 225, by how many tokens come out.
const WORKING_BYTES: usize = 256;

pub use crate::template::Origin;

/// A piece of a rendered prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    pub text: String,
    pub origin: Origin,
}

impl Piece {
    pub fn new(text: impl Into<String>, origin: Origin) -> Self {
        Piece {
            text: text.into(),
            origin,
        }
    }
}

/// What special tokens written in a text are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Specials {
    Recognise,
    /// Just text, and so are added tokens shaped like markers (`<tool_call>`).
    AsText,
}

/// Runs something that may panic on hostile input; a panic becomes `BadModel`.
pub fn guarded<T>(f: impl FnOnce() -> T) -> Result<T> {
    catch_unwind(AssertUnwindSafe(f)).map_err(|_| {
        Error::bad_model("tokenizer.json: its rules are inconsistent and cannot be applied")
    })
}

/// `Send + Sync`; every method may be called from several threads at once.
#[derive(Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    added: AddedTokens,
    /// Ids that the model itself must never make out of text.
    control: HashSet<u32>,
    /// Of models that give the same tokens for the same word and have no memory of their own.
    words: Option<Words>,
    pub(super) table: Arc<Table>,
    model_vocabulary: usize,
    bos_prefix: Vec<i32>,
    bos_token: Option<String>,
    eos_token: Option<String>,
}

impl Tokenizer {
    /// Reads `tokenizer.json`, and the special tokens of a parsed `tokenizer_config.json`.
    ///
    /// Errors: `BadModel` or `Unsupported`, naming the file and the part of it.
    pub fn from_bytes(
        tokenizer_json: &[u8],
        tokenizer_config: Option<&Map<String, Value>>,
    ) -> Result<Tokenizer> {
        let checked = sanitise::check(tokenizer_json)?;
        let file = checked.file;
        let inner = guarded(move || sanitise::build(file))??;
        for (content, id) in &checked.added {
            let loaded = inner.token_to_id(content);
            if loaded.map(u64::from) != Some(*id) {
                return Err(sanitise::refuse(format!(
                    "added_tokens: id {id} of {content:?} is not what the vocabulary leads to, {loaded:?}"
                )));
            }
        }
        let size = checked.size as u32;
        let specials = inner.get_added_vocabulary().get_added_tokens_decoder();
        let strings = (0..size).map(|id| {
            let special = specials.get(&id).is_some_and(|t| t.special);
            inner.id_to_token(id).map(|token| (token, special))
        });
        let table = guarded(|| Table::new(&checked.decoder, strings))??;
        let added = guarded(|| AddedTokens::new(&inner))?;
        let mut this = Tokenizer {
            control: added.guarded().collect(),
            added,
            words: match inner.get_model() {
                ModelWrapper::BPE(bpe) if bpe.dropout.is_none_or(|p| p == 0.0) => {
                    Some(Words::default())
                }
                _ => None,
            },
            inner,
            table: Arc::new(table),
            model_vocabulary: size as usize,
            bos_prefix: Vec::new(),
            bos_token: config_token(tokenizer_config, "bos_token"),
            eos_token: config_token(tokenizer_config, "eos_token"),
        };
        this.bos_prefix = this.prefix(size)?;
        // A file whose rules cannot encode anything is an error of loading it.
        this.encode("a b1\n", Specials::Recognise, true)?;
        this.encode("a b1\n", Specials::AsText, false)?;
        Ok(this)
    }

    /// Ids of a text. `add_special` adds what the post-processor adds (BOS, EOS).
    ///
    /// Errors: `InvalidArgument` over 64 MB; `OutOfMemory`; `BadModel` where the tokenizer's rules fail.
    pub fn encode(&self, text: &str, specials: Specials, add_special: bool) -> Result<Vec<i32>> {
        check_length(text.len())?;
        let encoding = guarded(|| match specials {
            // As the crate's `encode_fast`.
            Specials::Recognise => {
                let normalizer = self.inner.get_normalizer();
                let added = self.inner.get_added_vocabulary();
                let split = added.extract_and_normalize(normalizer, text);
                let encoding = self.encode_split(split, false)?;
                self.inner.post_process(encoding, None, add_special)
            }
            Specials::AsText => {
                let origins = Origins::new(std::iter::once((text.len(), Origin::Content)));
                let encoding = self.encode_guarded(text, &origins)?;
                self.inner.post_process(encoding, None, add_special)
            }
        })?;
        self.ids(encoding)
    }

    /// Ids of a rendered prompt: one text, in which special tokens and markers are recognised only where
    /// all of their characters come from those who may write them; `trust_content` lifts that.
    /// Adds no BOS: a template writes its own.
    pub fn encode_pieces(&self, pieces: &[Piece], trust_content: bool) -> Result<Vec<i32>> {
        let length = pieces
            .iter()
            .fold(0usize, |sum, piece| sum.saturating_add(piece.text.len()));
        check_length(length)?;
        let mut text = String::with_capacity(length);
        for piece in pieces {
            text.push_str(&piece.text);
        }
        if trust_content {
            return self.encode(&text, Specials::Recognise, false);
        }
        let origins = Origins::new(pieces.iter().map(|p| (p.text.len(), p.origin)));
        let encoding = guarded(|| self.encode_guarded(&text, &origins))?;
        self.ids(encoding)
    }

    fn encode_guarded(&self, text: &str, origins: &Origins) -> tokenizers::Result<Encoding> {
        let split = self
            .added
            .extract(text, origins, self.inner.get_normalizer())?;
        self.encode_split(split, true)
    }

    /// Tokens of a text whose added tokens have been taken out; with `no_control` the model makes no control tokens of
    /// the rest.
    fn encode_split(
        &self,
        mut split: PreTokenizedString,
        no_control: bool,
    ) -> tokenizers::Result<Encoding> {
        if let Some(pre_tokenizer) = self.inner.get_pre_tokenizer() {
            pre_tokenizer.pre_tokenize(&mut split)?;
        }
        let model = self.inner.get_model();
        let words = self.words.as_ref().map(Words::borrow);
        split.tokenize(|run| {
            let run = run.get();
            let met = words.as_ref().and_then(|words| words.get(run));
            let (tokens, control) = match met {
                Some(met) => met,
                None => {
                    let tokens = model.tokenize(run)?;
                    let control = tokens.iter().any(|t| self.control.contains(&t.id));
                    if let Some(words) = &words {
                        words.put(run, &tokens, control);
                    }
                    (tokens, control)
                }
            };
            if control && no_control {
                return self.without_control(model.tokenize(run)?, run);
            }
            Ok(tokens)
        })?;
        split.into_encoding(None, 0, OffsetType::None)
    }

    /// Some vocabularies (Unigram above all) hold their control tokens as ordinary entries: where the tokens of a run of
    /// plain text spell one, it is broken after its first character.
    fn without_control(
        &self,
        tokens: Vec<CrateToken>,
        run: &str,
    ) -> tokenizers::Result<Vec<CrateToken>> {
        let model = self.inner.get_model();
        let mut out = Vec::with_capacity(tokens.len());
        // What is still to be looked at, last first: tokens with the text that they stand for.
        let mut todo: Vec<(CrateToken, String)> = Vec::new();
        let covered = |run: &str, token: CrateToken| {
            let text = run
                .get(token.offsets.0..token.offsets.1)
                .unwrap_or(&token.value)
                .to_string();
            (token, text)
        };
        todo.extend(tokens.into_iter().rev().map(|t| covered(run, t)));
        while let Some((token, text)) = todo.pop() {
            // The unknown token is a control token too, but then the text spells something else. Several entries may
            // have one id, of which the model then knows one text only: both ways are asked.
            let spelled = self.control.contains(&token.id)
                && (model.token_to_id(&text) == Some(token.id)
                    || model.id_to_token(token.id).is_some_and(|s| s == text));
            if !spelled {
                out.push(token);
                continue;
            }
            let first = text.chars().next().map_or(0, char::len_utf8);
            let (head, tail) = text.split_at(first);
            if tail.is_empty() {
                // A control token of one character cannot be written any other way: it is left out.
                continue;
            }
            for part in [tail, head] {
                todo.extend(
                    model
                        .tokenize(part)?
                        .into_iter()
                        .rev()
                        .map(|t| covered(part, t)),
                );
            }
        }
        Ok(out)
    }

    fn ids(&self, encoding: tokenizers::Result<Encoding>) -> Result<Vec<i32>> {
        let encoding = encoding.map_err(|e| {
            Error::bad_model(format!(
                "tokenizer.json: its rules fail on this text: {}",
                brief(&e)
            ))
        })?;
        let size = self.table.len();
        let ids = encoding
            .get_ids()
            .iter()
            .map(|id| i32::try_from(*id).ok().filter(|_| (*id as usize) < size));
        ids.collect::<Option<Vec<i32>>>().ok_or_else(|| {
            Error::bad_model("tokenizer.json: post_processor adds an id that the vocabulary lacks")
        })
    }

    /// What the post-processor puts in front of an id that is nobody's.
    fn prefix(&self, nobody: u32) -> Result<Vec<i32>> {
        let encoding = guarded(|| {
            let token = CrateToken::new(nobody, "a".to_string(), (0, 1));
            self.inner
                .post_process(Encoding::from_tokens(vec![token], 0), None, true)
        })?;
        let encoding =
            encoding.map_err(|e| Error::bad_model(format!("tokenizer.json: {}", brief(&e))))?;
        Ok(encoding
            .get_ids()
            .iter()
            .take_while(|id| **id != nobody)
            .map(|id| *id as i32)
            .collect())
    }

    /// The ids that belong in front of a text (BOS, or nothing).
    pub fn bos_prefix(&self) -> Vec<i32> {
        self.bos_prefix.clone()
    }

    /// The largest id plus one. The model may have more rows.
    pub fn vocab_size(&self) -> usize {
        self.table.len()
    }

    /// The model's own vocabulary: ids up to there are padding and detokenise to nothing.
    pub fn set_model_vocabulary(&mut self, size: usize) {
        self.model_vocabulary = size.max(self.table.len());
    }

    pub fn token_to_id(&self, token: &str) -> Option<i32> {
        self.inner
            .token_to_id(token)
            .and_then(|id| i32::try_from(id).ok())
    }

    pub fn is_special(&self, id: i32) -> bool {
        self.table.is_special(id)
    }

    /// The id of the EOS token that `tokenizer_config.json` names.
    pub fn eos_from_config(&self) -> Option<i32> {
        self.token_to_id(self.eos_token()?)
    }

    /// `bos_token` of `tokenizer_config.json`.
    pub fn bos_token(&self) -> Option<&str> {
        self.bos_token.as_deref()
    }

    /// `eos_token` of `tokenizer_config.json`.
    pub fn eos_token(&self) -> Option<&str> {
        self.eos_token.as_deref()
    }

    /// The text of ids; equals a [`Detokenizer`]'s pieces joined.
    ///
    /// Errors: `InvalidArgument` naming an id outside the vocabulary and its index.
    pub fn detokenize(&self, ids: &[i32], skip_special: bool) -> Result<String> {
        for (index, id) in ids.iter().enumerate() {
            if !usize::try_from(*id).is_ok_and(|id| id < self.model_vocabulary) {
                return Err(Error::invalid(format!(
                    "ids[{index}] is {id}, outside the vocabulary of {} tokens",
                    self.model_vocabulary
                )));
            }
        }
        let mut text = String::new();
        let mut detokenizer = self.detokenizer(skip_special, false);
        for id in ids {
            detokenizer.feed(*id, |_, part| text.push_str(part));
        }
        detokenizer.flush(|_, part| text.push_str(part));
        Ok(text)
    }

    /// Decodes ids one at a time; `continuing` when they go on in the middle of a text.
    pub fn detokenizer(&self, skip_special: bool, continuing: bool) -> Detokenizer {
        Detokenizer::new(Arc::clone(&self.table), skip_special, continuing)
    }
}

fn check_length(length: usize) -> Result<()> {
    if length > MAX_TEXT {
        return Err(Error::invalid(format!(
            "text has {length} bytes, at most {MAX_TEXT} can be tokenised at once"
        )));
    }
    room::ask(length, WORKING_BYTES, "text")
}

/// A token is a string, or an object with its content.
fn config_token(config: Option<&Map<String, Value>>, key: &str) -> Option<String> {
    let token = config?.get(key)?;
    token
        .as_str()
        .or_else(|| token.get("content").and_then(Value::as_str))
        .map(str::to_string)
}
