//! A model's tokenizer: text to ids, and the tables for the way back.

use std::collections::HashSet;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Arc;

use tokenizers::{
    Encoding, Model, ModelWrapper, OffsetType, PreTokenizedString, PreTokenizer,
    Token as CrateToken,
};

use super::added::{self, AddedTokens, Origins, Writers};
use super::control::{Control, Letters};
use super::declared::{Declared, TokenFiles};
use super::detokenize::Detokenizer;
use super::extend;
use super::newer;
use super::sanitise::{self, brief, Unknown};
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
    /// What the files of the folder call special, and the ends of texts.
    marked: HashSet<u32>,
    /// What content must never become.
    control: Control,
    /// The id of the model's own unknown token.
    unknown: Option<u32>,
    /// Of models that give the same tokens for the same word and have no memory of their own.
    words: Option<Words>,
    pub(super) table: Arc<Table>,
    model_vocabulary: usize,
    bos_prefix: Vec<i32>,
    declared: Declared,
}

impl Tokenizer {
    /// Only `tokenizer.json`, and the special tokens of a parsed `tokenizer_config.json`.
    #[cfg(test)]
    pub fn from_bytes(
        tokenizer_json: &[u8],
        tokenizer_config: Option<&serde_json::Map<String, serde_json::Value>>,
    ) -> Result<Tokenizer> {
        let files = TokenFiles {
            config: tokenizer_config.cloned(),
            ..TokenFiles::default()
        };
        Self::new(tokenizer_json, &files, None, &mut Vec::new())
    }

    /// Reads `tokenizer.json`, with what the folder's other files say of tokens. `rows`: how many the model has. What is
    /// odd about the other files is added to `warnings`, and counts as if it were not there.
    ///
    /// Errors: `BadModel` or `Unsupported`, naming `tokenizer.json` and the part of it.
    pub fn new(
        tokenizer_json: &[u8],
        files: &TokenFiles,
        rows: Option<usize>,
        warnings: &mut Vec<String>,
    ) -> Result<Tokenizer> {
        let checked = sanitise::check(tokenizer_json)?;
        let (file, newer) = (checked.file, checked.newer);
        let mut inner = guarded(move || sanitise::build(file))?.map_err(|error| {
            if newer {
                newer::of_newer(error)
            } else {
                error
            }
        })?;
        for (content, id) in &checked.added {
            let loaded = inner.token_to_id(content);
            if loaded.map(u64::from) != Some(*id) {
                return Err(sanitise::refuse(format!(
                    "added_tokens: id {id} of {content:?} is not what the vocabulary leads to, {loaded:?}"
                )));
            }
        }
        let declared = Declared::read(files, &checked.roles, &inner, warnings);
        let size =
            guarded(|| extend::extend(&mut inner, &declared.added, checked.size, rows, warnings))??;
        let specials = inner.get_added_vocabulary().get_added_tokens_decoder();
        let strings = (0..size).map(|id| {
            let special = specials.get(&id).is_some_and(|t| t.special);
            inner.id_to_token(id).map(|token| (token, special))
        });
        let table = guarded(|| Table::new(&checked.decoder, strings))??;
        let unknown = match checked.unknown {
            Unknown::Id(id) => Some(id),
            Unknown::Token(token) => inner.get_model().token_to_id(&token),
            Unknown::None => None,
        };
        let marked = specials.iter().filter(|(_, token)| token.special);
        let marked = marked.map(|(id, _)| *id).collect();
        let mut this = Tokenizer {
            added: AddedTokens::default(),
            marked,
            control: Control::default(),
            unknown,
            words: None,
            inner,
            table: Arc::new(table),
            model_vocabulary: size as usize,
            bos_prefix: Vec::new(),
            declared,
        };
        let named = this.declared.special.iter();
        let named: Vec<u32> = named
            .filter_map(|token| this.inner.token_to_id(token))
            .collect();
        this.mark(named.into_iter().chain(checked.framing))?;
        this.bos_prefix = this.prefix(size)?;
        // A file whose rules cannot encode anything is an error of loading it.
        this.encode("a b1\n", Specials::Recognise, true)?;
        this.encode("a b1\n", Specials::AsText, false)?;
        Ok(this)
    }

    /// The ends of this model's texts, which other files name: control tokens from now on.
    pub fn mark_ends(&mut self, ids: &[i32]) -> Result<()> {
        self.mark(ids.iter().filter_map(|id| u32::try_from(*id).ok()))
    }

    fn mark(&mut self, ids: impl IntoIterator<Item = u32>) -> Result<()> {
        let size = self.table.len();
        self.marked
            .extend(ids.into_iter().filter(|id| (*id as usize) < size));
        let letters = Letters { table: &self.table };
        let (letters, marked): (HashSet<u32>, HashSet<u32>) =
            self.marked.iter().partition(|id| letters.contains(**id));
        if let Some(table) = Arc::get_mut(&mut self.table) {
            letters.iter().for_each(|id| table.set_plain(*id));
        }
        let writers = |id: u32, token: &tokenizers::AddedToken| {
            if marked.contains(&id) {
                Writers::Template
            } else if letters.contains(&id) {
                Writers::Anyone
            } else {
                added::writers_of_marker(&token.content)
            }
        };
        self.added = guarded(|| AddedTokens::new(&self.inner, writers))?;
        let mut writers = self.added.guarded();
        writers.extend(marked.into_iter().map(|id| (id, Writers::Template)));
        self.control = Control::new(writers, self.unknown, self.inner.get_model());
        // What is known of words includes whether they hold a control token.
        self.words = match self.inner.get_model() {
            ModelWrapper::BPE(bpe) if bpe.dropout.is_none_or(|p| p == 0.0) => {
                Some(Words::default())
            }
            _ => None,
        };
        Ok(())
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
                let encoding = self.encode_split(split, None)?;
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
        self.encode_split(split, Some(origins))
    }

    /// Tokens of a text whose added tokens have been taken out; with `origins` the model makes control tokens only of what
    /// the template wrote.
    fn encode_split(
        &self,
        mut split: PreTokenizedString,
        origins: Option<&Origins>,
    ) -> tokenizers::Result<Encoding> {
        if let Some(pre_tokenizer) = self.inner.get_pre_tokenizer() {
            pre_tokenizer.pre_tokenize(&mut split)?;
        }
        let model = self.inner.get_model();
        let words = self.words.as_ref().map(Words::borrow);
        split.tokenize(|run| {
            let text = run.get();
            let met = words.as_ref().and_then(|words| words.get(text));
            let (tokens, control) = match met {
                Some(met) => met,
                None => {
                    let tokens = model.tokenize(text)?;
                    let control = tokens.iter().any(|t| self.control.contains(t.id));
                    if let Some(words) = &words {
                        words.put(text, &tokens, control);
                    }
                    (tokens, control)
                }
            };
            match origins {
                Some(origins) if control => {
                    self.control
                        .respell(tokens, run, origins, model, &self.table)
                }
                _ => Ok(tokens),
            }
        })?;
        split.into_encoding(None, 0, OffsetType::None)
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

    #[cfg(test)]
    pub fn added_tokens(&self) -> std::collections::BTreeMap<u32, tokenizers::AddedToken> {
        let added = self.inner.get_added_vocabulary().get_added_tokens_decoder();
        added
            .iter()
            .map(|(id, token)| (*id, token.clone()))
            .collect()
    }

    /// The ids of the tokens that the folder's tokenizer files call `eos_token`, each once.
    pub fn eos_ids(&self) -> Vec<i32> {
        let mut ids = Vec::new();
        for id in self
            .declared
            .eos
            .iter()
            .filter_map(|token| self.token_to_id(token))
        {
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        ids
    }

    /// Special tokens by the names that templates know them by, `bos_token` and so on.
    pub fn named_tokens(&self) -> &[(String, String)] {
        &self.declared.named
    }

    fn named(&self, name: &str) -> Option<&str> {
        let found = self.declared.named.iter().find(|(key, _)| key == name);
        found.map(|(_, token)| token.as_str())
    }

    pub fn bos_token(&self) -> Option<&str> {
        self.named("bos_token")
    }

    pub fn eos_token(&self) -> Option<&str> {
        self.named("eos_token")
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
        let mut written = Ok(());
        let mut write = |part: &str| {
            if written.is_ok() {
                written = room::push(&mut text, part, "text");
            }
        };
        for id in ids {
            detokenizer.feed(*id, |_, part| write(part));
        }
        detokenizer.flush(|_, part| write(part));
        written.map(|()| text)
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
