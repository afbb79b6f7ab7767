//! A model's tokenizer: text to ids, and the tables for the way back.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Arc;

use tokenizers::{
    Encoding, Model, ModelWrapper, NormalizedString, PreTokenizedString, Token as CrateToken,
};

use super::added::{self, AddedTokens, Found, Origins, Place, Writers};
use super::control::{Control, Letters};
use super::declared::{Declared, TokenFiles};
use super::detokenize::Detokenizer;
use super::extend;
use super::newer;
use super::sanitise::{self, brief, Joins, Unknown};
use super::steps::Steps;
use super::table::Table;
use super::words::{Borrowed, Words};
use crate::aside::aside;
use crate::error::{Code, Error, Result};
use crate::room;
use crate::watch;

type CrateResult<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Longer texts are refused. As all sizes here, of a text that normalizers and pre-tokenizers lengthen no more than usual.
pub const MAX_TEXT: usize = 64 << 20;
/// A part of a text that is worked on at once, where it can be divided.
const SECTION: usize = 64 << 10;
/// And where it cannot.
const MAX_UNDIVIDED: usize = 1 << 20;
/// A word for BPE.
const MAX_MERGED_WORD: usize = 256 << 10;
/// A word for Unigram, times the longest token that it looks for at every character.
const MAX_LOOKED_UP: usize = 4 << 20;
/// What the crate takes for each byte of a part of a text while it works: measured 84 to 225, by how many tokens come out.
const WORKING_BYTES: usize = 256;
/// Places of which it is remembered whether a text can be divided there.
const MAX_KNOWN: usize = 4096;
/// A `tokenizer.json` that is read in a few milliseconds.
const SHORT_FILE: usize = 64 << 10;
/// Bytes of words between two looks at the watch.
const LOOK_EVERY: usize = 8 << 10;

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
    /// The model, the added tokens' ids and the post-processor.
    inner: tokenizers::Tokenizer,
    steps: Steps,
    /// Of a model that gets whole texts as one word, and can be given parts of them.
    joins: Option<Joins>,
    /// Words are no longer than this, in bytes.
    longest_word: usize,
    /// Parts of texts that are worked on at once are about this long, in bytes.
    section: usize,
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
    /// What the post-processor makes of a text, without and with the special tokens that it adds.
    frames: [Frame; 2],
    declared: Declared,
}

/// What a post-processor puts around a text.
#[derive(Debug, Default)]
struct Frame {
    before: Vec<i32>,
    /// The text itself, which a template may leave out.
    text: bool,
    after: Vec<i32>,
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

    /// As `new`, of files of any length: the crate that builds vocabularies does not look at the watch, so this does
    /// meanwhile, and calls `look`, at least every 50 ms.
    ///
    /// Errors: as `new`; what `look` and the watch give.
    pub fn load(
        tokenizer_json: Vec<u8>,
        files: &Arc<TokenFiles>,
        rows: Option<usize>,
        warnings: &mut Vec<String>,
        look: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Tokenizer> {
        if tokenizer_json.len() <= SHORT_FILE && files.are_short() {
            return Self::new(&tokenizer_json, files, rows, warnings);
        }
        let files = Arc::clone(files);
        let (tokenizer, odd) = aside("building the vocabulary", look, move || {
            let mut odd = Vec::new();
            Self::new(&tokenizer_json, &files, rows, &mut odd).map(|tokenizer| (tokenizer, odd))
        })?;
        warnings.extend(odd);
        Ok(tokenizer)
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
        let (mut inner, steps) = guarded(move || sanitise::build(file))?.map_err(|error| {
            if newer && error.code != Code::Timeout && error.code != Code::Cancelled {
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
        let size = guarded(|| {
            extend::extend(
                &mut inner,
                &steps,
                &declared.added,
                checked.size,
                rows,
                warnings,
            )
        })??;
        let specials = inner.get_added_vocabulary().get_added_tokens_decoder();
        let strings = (0..size).map(|id| {
            let added = specials.get(&id);
            let special = added.is_some_and(|token| token.special);
            // As the crate decodes: tokens that are matched after normalisation have the text that they are matched by.
            let normalized = added.filter(|token| token.normalized).and_then(|token| {
                let mut text = NormalizedString::from(token.content.as_str());
                steps.normalize(&mut text, false).ok()?;
                Some(text.get().to_owned())
            });
            let token = normalized.or_else(|| inner.id_to_token(id));
            token.map(|token| (token, special))
        });
        let table = guarded(|| Table::new(&checked.decoder, strings))??;
        let unknown = match checked.unknown {
            Unknown::Id(id) => Some(id),
            Unknown::Token(token) => inner.get_model().token_to_id(&token),
            Unknown::None => None,
        };
        let marked = specials.iter().filter(|(_, token)| token.special);
        let marked = marked.map(|(id, _)| *id).collect();
        let longest_word = match inner.get_model() {
            ModelWrapper::BPE(_) => MAX_MERGED_WORD,
            ModelWrapper::Unigram(_) => MAX_LOOKED_UP
                .checked_div(checked.longest)
                .unwrap_or(MAX_LOOKED_UP),
            // They look words up, or no longer ones than `sanitise` lets them.
            ModelWrapper::WordPiece(_) | ModelWrapper::WordLevel(_) => usize::MAX,
        };
        let cut = guarded(|| steps.cut(['e', 'n'], ' '))?;
        let words = cut.is_some_and(|cut| cut.between_words);
        let mut this = Tokenizer {
            joins: checked.joins.filter(|_| !words),
            longest_word,
            section: SECTION.checked_div(steps.scale()).unwrap_or(SECTION),
            steps,
            added: AddedTokens::default(),
            marked,
            control: Control::default(),
            unknown,
            words: None,
            inner,
            table: Arc::new(table),
            model_vocabulary: size as usize,
            frames: Default::default(),
            declared,
        };
        let named = this.declared.special.iter();
        let named: Vec<u32> = named
            .filter_map(|token| this.inner.token_to_id(token))
            .collect();
        this.mark(named.into_iter().chain(checked.framing))?;
        this.frames = [this.frame(size, false)?, this.frame(size, true)?];
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
        self.added = guarded(|| AddedTokens::new(&self.inner, &self.steps, writers))??;
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
    /// Errors: `InvalidArgument` over 64 MB, and over 1 MB without a place where it can be divided; `OutOfMemory`; what the
    /// watch gives; `BadModel` where the tokenizer's rules fail.
    pub fn encode(&self, text: &str, specials: Specials, add_special: bool) -> Result<Vec<i32>> {
        let tokens = self.encode_within(text, specials, usize::MAX)?;
        let frame = self.frames.get(usize::from(add_special));
        let Some(frame) = frame.filter(|f| !(f.text && f.before.is_empty() && f.after.is_empty()))
        else {
            return Ok(tokens);
        };
        let tokens = if frame.text { tokens } else { Vec::new() };
        Ok([frame.before.as_slice(), &tokens, &frame.after].concat())
    }

    /// As `encode` with what the post-processor adds, of a text that is to come to at most `most` ids with it.
    ///
    /// Errors: as `encode`; `ContextFull` as soon as there are more.
    pub fn encode_framed(&self, text: &str, specials: Specials, most: usize) -> Result<Vec<i32>> {
        let [_, frame] = &self.frames;
        let Frame {
            before,
            text: text_stays,
            after,
        } = frame;
        let around = before.len().saturating_add(after.len());
        let tokens = self.encode_within(text, specials, most.saturating_sub(around))?;
        let tokens = if *text_stays { tokens } else { Vec::new() };
        Ok([before.as_slice(), &tokens, after].concat())
    }

    /// Ids of a text, which is to come to at most `most` of them.
    ///
    /// Errors: as `encode`; `ContextFull` as soon as there are more.
    pub fn encode_within(&self, text: &str, specials: Specials, most: usize) -> Result<Vec<i32>> {
        let content = || Origins::new(std::iter::once((text.len(), Origin::Content)));
        let origins = match specials {
            Specials::Recognise => None,
            Specials::AsText => Some(content()),
        };
        self.tokens(text, origins.as_ref(), most)
    }

    /// Ids of a rendered prompt: one text, in which special tokens and markers are recognised only where
    /// all of their characters come from those who may write them; `trust_content` lifts that.
    /// Adds no BOS: a template writes its own.
    ///
    /// Errors: as `encode_within`.
    pub fn encode_pieces(
        &self,
        pieces: &[Piece],
        trust_content: bool,
        most: usize,
    ) -> Result<Vec<i32>> {
        let length = pieces
            .iter()
            .fold(0usize, |sum, piece| sum.saturating_add(piece.text.len()));
        self.check_length(length)?;
        room::ask(length, 1, "text")?;
        let mut text = String::with_capacity(length);
        for piece in pieces {
            text.push_str(&piece.text);
        }
        let origins = Origins::new(pieces.iter().map(|p| (p.text.len(), p.origin)));
        self.tokens(&text, Some(&origins).filter(|_| !trust_content), most)
    }

    /// Ids of a text, piece by piece: what the crate's `encode_fast` gives for the whole, with added tokens only where the
    /// text's origin allows. Without origins they are allowed everywhere.
    fn tokens(&self, text: &str, origins: Option<&Origins>, most: usize) -> Result<Vec<i32>> {
        self.check_length(text.len())?;
        let work = Work {
            tokenizer: self,
            words: self.words.as_ref().map(Words::borrow),
            out: RefCell::new(Vec::new()),
            until_look: 0.into(),
            most,
        };
        guarded(|| {
            self.added
                .find_raw(text, origins, &mut |found| match found {
                    Found::Token(id) => work.add(id),
                    Found::Text(range) => work.text(text, range, origins),
                })
        })?
        .map_err(named)?;
        Ok(work.out.into_inner())
    }

    fn check_length(&self, length: usize) -> Result<()> {
        let most = MAX_TEXT.checked_div(self.steps.scale()).unwrap_or(0);
        if length > most {
            return Err(Error::invalid(format!(
                "text has {length} bytes, at most {most} can be tokenised at once"
            )));
        }
        Ok(())
    }

    /// Whether a text can be divided between the second and the third character so that its parts have the tokens of the
    /// whole.
    pub(super) fn divides(&self, [first, second, right]: [char; 3]) -> bool {
        let Some(cut) = self.steps.cut([first, second], right) else {
            return false;
        };
        let (left, right) = cut.normalized;
        if !self.added.divides(left, right) {
            return false;
        }
        let is_token = |c: char| {
            let mut buffer = [0; 4];
            let id = self
                .inner
                .get_model()
                .token_to_id(c.encode_utf8(&mut buffer));
            id.is_some()
        };
        cut.between_words
            || self.joins.as_ref().is_some_and(|joins| {
                joins.divides(cut.left, cut.right) && is_token(cut.left) && is_token(cut.right)
            })
    }

    #[cfg(test)]
    pub fn set_section(&mut self, bytes: usize) {
        self.section = bytes;
    }

    /// What the post-processor puts around an id that is nobody's.
    fn frame(&self, nobody: u32, add_special: bool) -> Result<Frame> {
        let encoding = guarded(|| {
            let token = CrateToken::new(nobody, "a".to_string(), (0, 1));
            let encoding = Encoding::from_tokens(vec![token], 0);
            self.inner.post_process(encoding, None, add_special)
        })?;
        let encoding =
            encoding.map_err(|e| Error::bad_model(format!("tokenizer.json: {}", brief(&e))))?;
        let mut frame = Frame::default();
        for id in encoding.get_ids() {
            if *id == nobody {
                frame.text = true;
                continue;
            }
            let id = self.known(*id).ok_or_else(|| {
                Error::bad_model(
                    "tokenizer.json: post_processor adds an id that the vocabulary lacks",
                )
            })?;
            match frame.text {
                false => frame.before.push(id),
                true => frame.after.push(id),
            }
        }
        Ok(frame)
    }

    fn known(&self, id: u32) -> Option<i32> {
        let signed = i32::try_from(id).ok()?;
        ((id as usize) < self.table.len()).then_some(signed)
    }

    /// The ids that belong in front of a text (BOS, or nothing).
    pub fn bos_prefix(&self) -> Vec<i32> {
        let [_, frame] = &self.frames;
        frame.before.clone()
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

    /// Whether a token is more than its text: a special token or a marker, which plain text never becomes.
    pub fn is_control(&self, id: i32) -> bool {
        let guarded = u32::try_from(id).is_ok_and(|id| self.control.contains(id));
        guarded || self.table.is_special(id)
    }

    /// The bytes of a token in the middle of a text; none where it is no token.
    pub fn bytes(&self, id: i32) -> &[u8] {
        self.table.bytes(id, false)
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
        // A byte that is part of no character becomes three.
        let lengths = ids.iter().map(|id| self.table.bytes(*id, false).len());
        let length = lengths.fold(0, usize::saturating_add);
        room::ask(length, 6, "ids")?;
        let mut text = String::new();
        let mut detokenizer = self.detokenizer(skip_special, false);
        let mut written = Ok(());
        let mut write = |part: &str| {
            if written.is_ok() {
                written = room::push(&mut text, part, "text");
            }
        };
        for (index, id) in ids.iter().enumerate() {
            if index % 4096 == 0 {
                watch::look()?;
            }
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

/// An error that came through the crate: our own, or its word for what is wrong with the rules.
pub(super) fn named(error: Box<dyn std::error::Error + Send + Sync>) -> Error {
    match error.downcast::<Error>() {
        Ok(own) => *own,
        Err(other) => Error::bad_model(format!(
            "tokenizer.json: its rules fail on this text: {}",
            brief(&other)
        )),
    }
}

/// Two characters in front of a place and one behind it.
pub(super) fn around(text: &str, at: usize) -> Option<[char; 3]> {
    let mut before = text.get(..at)?.chars().rev();
    let (second, first) = (before.next()?, before.next()?);
    Some([first, second, text.get(at..)?.chars().next()?])
}

/// Tokenising one text.
struct Work<'a> {
    tokenizer: &'a Tokenizer,
    words: Option<Borrowed<'a>>,
    out: RefCell<Vec<i32>>,
    /// Bytes of words until the watch is looked at.
    until_look: Cell<usize>,
    most: usize,
}

impl Work<'_> {
    fn add(&self, id: u32) -> CrateResult<()> {
        let id = self.tokenizer.known(id);
        let id = id.ok_or("it gives an id that the vocabulary lacks")?;
        let mut out = self.out.borrow_mut();
        out.push(id);
        self.check(out.len())
    }

    fn check(&self, count: usize) -> CrateResult<()> {
        if count > self.most {
            let most = self.most;
            let message = format!(
                "the prompt has more than {most} tokens, and the session's context is {most}"
            );
            return Err(Error::new(Code::ContextFull, message).into());
        }
        Ok(())
    }

    /// The tokens of a part of the text that holds no token matched before normalisation.
    fn text(&self, text: &str, range: Range<usize>, origins: Option<&Origins>) -> CrateResult<()> {
        let mut start = range.start;
        while start < range.end {
            watch::look()?;
            let end = self.section(text, start, range.end)?;
            let part = text.get(start..end).unwrap_or("");
            let scaled = part.len().saturating_mul(self.tokenizer.steps.scale());
            room::ask(scaled, WORKING_BYTES, "text")?;
            // No more tokens than bytes.
            let room = self.out.borrow_mut().try_reserve(scaled);
            room.map_err(|_| {
                let message = format!("text: no memory for the tokens of its {} bytes", text.len());
                Error::new(Code::OutOfMemory, message)
            })?;
            self.part(part, start, start > range.start, origins)?;
            self.check(self.out.borrow().len())?;
            start = end;
        }
        Ok(())
    }

    /// Where the part that begins at `start` ends: at `end`, or earlier where the text can be divided.
    fn section(&self, text: &str, start: usize, end: usize) -> CrateResult<usize> {
        let scale = self.tokenizer.steps.scale();
        let section = self.tokenizer.section;
        let undivided = MAX_UNDIVIDED
            .checked_div(scale)
            .unwrap_or(section)
            .max(section);
        let full = start.saturating_add(section);
        // What is a little longer is one part.
        if end <= full.saturating_add(section / 2) {
            return Ok(end);
        }
        let half = start.saturating_add(section / 2);
        let most = start.saturating_add(undivided);
        let mut known: HashMap<[char; 3], bool> = HashMap::new();
        for at in (half..full).rev().chain(full..end.min(most)) {
            if at % 256 == 0 {
                watch::look()?;
            }
            let Some(around) = around(text, at) else {
                continue;
            };
            if known.len() > MAX_KNOWN {
                known.clear();
            }
            let divides = || self.tokenizer.divides(around);
            if *known.entry(around).or_insert_with(divides) {
                return Ok(at);
            }
        }
        if end <= most {
            return Ok(end);
        }
        let message = format!(
            "text: it cannot be divided between bytes {start} and {most} without changing its tokens, and at most \
             {undivided} bytes can be tokenised undivided"
        );
        Err(Error::invalid(message).into())
    }

    /// The tokens of a section of the text. `goes_on`: it was divided from what is in front of it.
    fn part(
        &self,
        text: &str,
        start: usize,
        goes_on: bool,
        origins: Option<&Origins>,
    ) -> CrateResult<()> {
        let Tokenizer { steps, added, .. } = self.tokenizer;
        let (mut part, shift) = steps.part(text, start);
        let place = origins.map(|origins| Place { origins, shift });
        steps.normalize(&mut part, goes_on)?;
        let mut whole = Some(part);
        let mut found = Vec::new();
        if let Some(part) = &whole {
            added.find_normalized(part, place, &mut |piece| {
                found.push(piece);
                Ok(())
            })?;
        }
        for piece in found {
            match piece {
                Found::Token(id) => self.add(id)?,
                Found::Text(range) => {
                    let all = whole.take_if(|part| range == (0..part.get().len()));
                    let slice = |part: &NormalizedString| {
                        part.slice(tokenizers::normalizer::Range::Normalized(range.clone()))
                    };
                    let piece = all.or_else(|| whole.as_ref().and_then(slice));
                    let piece = piece.ok_or("an added token does not lie on a character border")?;
                    self.piece(piece, place)?;
                }
            }
        }
        Ok(())
    }

    /// The tokens of normalised text without added tokens; with a place the model makes control tokens only of what the
    /// template wrote.
    fn piece(&self, piece: NormalizedString, place: Option<Place>) -> CrateResult<()> {
        if piece.is_empty() {
            return Ok(());
        }
        let mut split = PreTokenizedString::from(piece);
        self.tokenizer.steps.pre_tokenize(&mut split)?;
        split.tokenize(|word| {
            self.word(word, place)?;
            Ok(Vec::new())
        })
    }

    fn word(&self, word: &NormalizedString, place: Option<Place>) -> CrateResult<()> {
        let text = word.get();
        let Tokenizer {
            control,
            inner,
            table,
            longest_word,
            ..
        } = self.tokenizer;
        match self.until_look.get().checked_sub(text.len()) {
            Some(left) => self.until_look.set(left),
            None => {
                watch::look()?;
                self.until_look.set(LOOK_EVERY);
            }
        }
        if text.len() > *longest_word {
            let message = format!(
                "text: it has a word of {} bytes for the tokenizer, and at most {longest_word} are taken",
                text.len()
            );
            return Err(Error::invalid(message).into());
        }
        let words = self.words.as_ref();
        let model = inner.get_model();
        let (tokens, controls) = match words.and_then(|words| words.get(text)) {
            Some(met) => met,
            None => {
                let tokens = model.tokenize(text)?;
                let controls = tokens.iter().any(|t| control.contains(t.id));
                if let Some(words) = words {
                    words.put(text, &tokens, controls);
                }
                (tokens, controls)
            }
        };
        let tokens = match place {
            Some(place) if controls => control.respell(tokens, word, place, model, table)?,
            _ => tokens,
        };
        let mut out = self.out.borrow_mut();
        for token in tokens {
            let id = self.tokenizer.known(token.id);
            out.push(id.ok_or("it gives an id that the vocabulary lacks")?);
        }
        Ok(())
    }
}
