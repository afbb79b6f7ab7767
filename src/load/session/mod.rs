//! Saved sessions: safetensors files whose tensors lie as in a prompt cache of mlx-lm 0.32, with what else a session is in the
//! metadata beside them (docs/sessions.md has the layout). mlx-lm's own files are read, too, those of 0.31 and of 0.32.

mod reader;

use std::fs::File;
use std::io;
use std::path::Path;

use xxhash_rust::xxh3::Xxh3;

use super::folder::cannot_read;
use super::json::Object;
use super::limits::Limits;
use super::safetensors::{read_whole_header, Entry, Header};
use crate::dtype::{Dtype, Scheme};
use crate::error::{Code, Error, Result};
use crate::files::{self, Opened};
use crate::words::cut;
use reader::Reader;

/// What mlxrt writes, and the newest that it reads.
pub const FORMAT: u32 = 1;
/// The metadata's keys of what is not mlx-lm's. Behind `0.` are those that `save_prompt_cache` is given.
pub const SESSION_KEY: &str = "0.mlxrt";
pub const TOKENS_KEY: &str = "0.tokens";
pub const CHECKSUM_KEY: &str = "0.checksum";

/// A file's header, read and checked, as far as a file can be without its model.
pub struct SavedSession {
    /// For errors.
    pub name: String,
    pub file: File,
    /// None: mlx-lm wrote it.
    pub written: Option<Written>,
    /// The ledger.
    pub tokens: Vec<i32>,
    /// How many of them, from the front on, the layers hold.
    pub cached: i32,
    pub layers: Vec<SavedLayer>,
    /// All of them, in the order in which they lie in the file.
    pub tensors: Vec<Stored>,
    /// Of the file up to its data.
    pub checksum: Checksum,
}

/// mlx-lm's name of a cache of keys and values; it has none that rotates and is packed.
pub fn class_of(rotates: bool, is_packed: bool) -> &'static str {
    match (rotates, is_packed) {
        (false, false) => "KVCache",
        (true, false) => "RotatingKVCache",
        (false, true) => "QuantizedKVCache",
        (true, true) => "QuantizedRotatingKVCache",
    }
}

/// What mlxrt knows of a session beside its tokens and tensors.
pub struct Written {
    pub model_type: String,
    /// Fingerprints, see `runtime/identity.rs`.
    pub weights: String,
    pub config: String,
    pub tokenizer: String,
    pub template: String,
    pub adapters: Vec<SavedAdapter>,
    /// As in the session's options.
    pub context: u32,
    pub window: u32,
    pub keep: i32,
    pub kv_bits: u32,
    pub kv_group_size: u32,
    pub kv_limit: u64,
    /// See `SessionCache::long`.
    pub long: bool,
    pub answer: Option<SavedAnswer>,
    pub checksum: String,
}

pub struct SavedAdapter {
    /// The fingerprint of its weights.
    pub weights: String,
    /// What its own scale is multiplied by.
    pub scale: f32,
    /// For people.
    pub what: String,
}

/// The last answer: its text, what was thought, and the calls of tools.
#[derive(Debug)]
pub struct SavedAnswer {
    pub text: String,
    pub thinking: String,
    /// Each as JSON.
    pub calls: Vec<String>,
}

#[derive(Debug)]
pub enum SavedLayer {
    Tokens(SavedTokens),
    State(SavedState),
}

/// Keys and values, `[1, kv_heads, capacity, …]`: one array of floats each, or where they are packed numbers, scales and biases.
pub type SavedPair = [Vec<Stored>; 2];

#[derive(Debug)]
pub struct SavedTokens {
    /// None: there are none.
    pub tensors: Option<SavedPair>,
    pub offset: i32,
    /// Where the next token goes, in a window that is full modulo its size.
    pub index: i32,
    /// The size of a window and the first tokens that it keeps.
    pub window: Option<(i32, i32)>,
    /// How they are packed: in 4 or 8 bits by 32, 64 or 128.
    pub scheme: Option<Scheme>,
    pub marks: Vec<SavedMark>,
}

/// Where a window was.
#[derive(Debug)]
pub struct SavedMark {
    pub offset: i32,
    /// The index and what it had there; none: it is cut to it.
    pub kept: Option<(i32, SavedPair)>,
}

#[derive(Debug)]
pub struct SavedState {
    /// Empty: there were no tokens.
    pub arrays: Vec<Stored>,
    /// Tokens and arrays, the oldest first.
    pub marks: Vec<(i32, Vec<Stored>)>,
}

/// One tensor and where its data lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<i32>,
    pub offset: u64,
    pub bytes: u64,
}

/// XXH3 over a whole file, in which its own digits are zeros.
#[derive(Clone)]
pub struct Checksum(Xxh3);

impl Checksum {
    /// Its digits before it is known.
    pub const UNKNOWN: &'static str = "00000000000000000000000000000000";

    /// Of a file that begins with this header, the length before it left out.
    pub fn of_header(text: &[u8]) -> Self {
        let mut hash = Xxh3::new();
        hash.update(&(text.len() as u64).to_le_bytes());
        match Self::place(text) {
            Some(at) => {
                let end = at.saturating_add(Self::UNKNOWN.len());
                hash.update(text.get(..at).unwrap_or_default());
                hash.update(Self::UNKNOWN.as_bytes());
                hash.update(text.get(end..).unwrap_or_default());
            }
            None => hash.update(text),
        }
        Checksum(hash)
    }

    /// Where its digits are in a header. (In a string of JSON the quotes would have backslashes before them.)
    pub fn place(text: &[u8]) -> Option<usize> {
        let key = format!("\"{CHECKSUM_KEY}\":\"");
        let mut windows = text.windows(key.len());
        let at = windows.position(|window| window == key.as_bytes())?;
        let digits = at.checked_add(key.len())?;
        let end = digits.checked_add(Self::UNKNOWN.len())?;
        (end <= text.len()).then_some(digits)
    }

    pub fn add(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub fn digits(&self) -> String {
        format!("{:032x}", self.0.digest128())
    }
}

impl SavedSession {
    /// Errors: `NotFound`, `Io`; `BadModel` for what is no such file, names what is wrong with it; `Unsupported` for a newer format
    /// and for what of mlx-lm's caches there is not here.
    pub fn open(path: &Path, limits: &Limits) -> Result<SavedSession> {
        let name = cut(&path.to_string_lossy(), 400).into_owned();
        let file = open_file(path, &name)?;
        let Header {
            text,
            metadata,
            entries,
        } = read_whole_header(&name, &file, limits)?;
        let checksum = Checksum::of_header(&text);
        drop(text);
        let tensors: Vec<Stored> = entries.into_iter().map(Stored::from).collect();
        let reader = Reader {
            file: &file,
            metadata: Object::new(&name, &metadata),
            tensors: tensors.iter().map(|of| (of.name.as_str(), of)).collect(),
        };
        let form = reader.form()?;
        let own = reader.own()?;
        let tokens = reader.tokens(form)?;
        let mut layers = reader.layers(form, limits)?;
        let (written, cached) = match own {
            Some(own) => {
                reader.add_marks(&own.marks, &mut layers)?;
                (Some(own.written), own.cached)
            }
            None => (None, cached(&layers, tokens.len())),
        };
        drop(reader);
        check_layers(&name, &layers, cached, tokens.len())?;
        Ok(SavedSession {
            name,
            file,
            written,
            tokens,
            cached,
            layers,
            tensors,
            checksum,
        })
    }
}

fn open_file(path: &Path, name: &str) -> Result<File> {
    match files::open(path) {
        Ok(Opened::File(file)) => Ok(file),
        Ok(Opened::Other(kind)) => {
            let message = format!("{name} is {}, not a regular file", kind.words());
            Err(Error::new(Code::Io, message))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let message = format!("there is no file {name}");
            Err(Error::new(Code::NotFound, message))
        }
        Err(error) => Err(cannot_read(name, &error)),
    }
}

impl From<Entry> for Stored {
    fn from(entry: Entry) -> Stored {
        Stored {
            name: entry.name,
            dtype: entry.dtype,
            shape: entry.shape,
            offset: entry.offset,
            bytes: entry.bytes,
        }
    }
}

impl Stored {
    fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    fn dim(&self, axis: usize) -> i32 {
        self.shape.get(axis).copied().unwrap_or(0)
    }
}

/// Tokens that mlx-lm's layers hold: states do not say.
fn cached(layers: &[SavedLayer], tokens: usize) -> i32 {
    let offset = layers.iter().find_map(|layer| match layer {
        SavedLayer::Tokens(tokens) => Some(tokens.offset),
        SavedLayer::State(_) => None,
    });
    let is_empty = |layer: &SavedLayer| match layer {
        SavedLayer::Tokens(tokens) => tokens.tensors.is_none(),
        SavedLayer::State(state) => state.arrays.is_empty(),
    };
    match layers.iter().all(is_empty) {
        true => 0,
        false => offset.unwrap_or_else(|| i32::try_from(tokens).unwrap_or(i32::MAX)),
    }
}

/// Whether all layers hold the same tokens, and no more than there are.
fn check_layers(name: &str, layers: &[SavedLayer], cached: i32, tokens: usize) -> Result<()> {
    let bad = |what: String| Err(Error::bad_model(format!("{name}: {what}")));
    if usize::try_from(cached).map_or(true, |cached| cached > tokens) {
        return bad(format!(
            "its layers hold {cached} tokens, and it names {tokens}"
        ));
    }
    for (layer, saved) in layers.iter().enumerate() {
        let (offset, is_empty) = match saved {
            SavedLayer::Tokens(tokens) => (tokens.offset, tokens.tensors.is_none()),
            SavedLayer::State(state) => (cached, state.arrays.is_empty()),
        };
        if offset != cached || is_empty != (cached == 0) {
            let held = if is_empty { 0 } else { offset };
            return bad(format!(
                "layer {layer} holds {held} tokens, and others hold {cached}"
            ));
        }
        let marks: Vec<i32> = match saved {
            SavedLayer::Tokens(tokens) => tokens.marks.iter().map(|mark| mark.offset).collect(),
            SavedLayer::State(state) => state.marks.iter().map(|(offset, _)| *offset).collect(),
        };
        let mut before = 0;
        for offset in marks {
            if offset <= before || offset > cached {
                return bad(format!(
                    "layer {layer} has a mark at {offset}, behind one at {before}, and {cached} tokens"
                ));
            }
            before = offset;
        }
    }
    Ok(())
}
