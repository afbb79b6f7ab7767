//! Saved sessions: safetensors files whose tensors lie as in a prompt cache of mlx-lm 0.32, with what else a session is in the
//! metadata beside them (docs/sessions.md has the layout). mlx-lm's own files are read, too, those of 0.31 and of 0.32.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde_json::Value;
use xxhash_rust::xxh3::Xxh3;

use super::folder::cannot_read;
use super::json::{parse_strict_object, Object};
use super::limits::Limits;
use super::safetensors::{read_whole_header, Entry, Header};
use crate::dtype::Dtype;
use crate::error::{Code, Error, Result};
use crate::files::{self, Opened};
use crate::room;
use crate::words::{cut, quoted};

/// What mlxrt writes, and the newest that it reads.
pub const FORMAT: u32 = 1;
/// The metadata's keys of what is not mlx-lm's. Behind `0.` are those that `save_prompt_cache` is given.
pub const SESSION_KEY: &str = "0.mlxrt";
pub const TOKENS_KEY: &str = "0.tokens";
pub const CHECKSUM_KEY: &str = "0.checksum";

/// Numbers of the JSON of `SESSION_KEY`: marks of layers and a few more.
const MOST_VALUES: usize = 100_000;
/// Arrays of one state.
const MOST_ARRAYS: usize = 16;
/// Adapters of one session.
const MOST_ADAPTERS: usize = 1_024;

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
    pub kv_limit: u64,
    /// See `SessionCache::long`.
    pub long: bool,
    pub answer: Option<String>,
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

#[derive(Debug)]
pub enum SavedLayer {
    Tokens(SavedTokens),
    State(SavedState),
}

/// Keys and values `[1, kv_heads, capacity, head_dim]`.
#[derive(Debug)]
pub struct SavedTokens {
    /// None: there are none.
    pub tensors: Option<[Stored; 2]>,
    pub offset: i32,
    /// Where the next token goes, in a window that is full modulo its size.
    pub index: i32,
    /// The size of a window and the first tokens that it keeps.
    pub window: Option<(i32, i32)>,
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

/// How mlx-lm has numbers and absent arrays, and where its three kinds of metadata are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// 0.31: numbers are metadata, `0.LAYER.NUMBER`; then what the user gave, and the classes.
    Strings,
    /// 0.32: numbers are tensors without dimensions, absent arrays are empty ones; what the user gave, the classes, and a list
    /// of those tensors, which begins with an empty string.
    Tensors,
}

/// What mlxrt wrote.
struct Own {
    written: Written,
    cached: i32,
    /// Of each layer.
    marks: Vec<Vec<i32>>,
}

struct Reader<'a> {
    file: &'a File,
    metadata: Object<'a>,
    tensors: BTreeMap<&'a str, &'a Stored>,
}

impl Reader<'_> {
    fn name(&self) -> &str {
        self.metadata.file()
    }

    fn bad(&self, what: &str) -> Error {
        Error::bad_model(format!("{}: {what}", self.name()))
    }

    fn unsupported(&self, what: &str) -> Error {
        Error::unsupported(format!("{}: {what}", self.name()))
    }

    fn form(&self) -> Result<Form> {
        match self.metadata.opt_str("2.0")? {
            Some("") => Ok(Form::Tensors),
            Some(_) => Ok(Form::Strings),
            None => Err(self.bad("is neither a saved session nor a prompt cache of mlx-lm")),
        }
    }

    fn own(&self) -> Result<Option<Own>> {
        let Some(text) = self.metadata.opt_str(SESSION_KEY)? else {
            return Ok(None);
        };
        let map = parse_strict_object(self.name(), text.as_bytes(), MOST_VALUES)?;
        let object = Object::new(self.name(), &map);
        let format = object.u32("format", 1..=u32::MAX)?;
        if format > FORMAT {
            let what = format!("has format {format}, and this version reads up to {FORMAT}");
            return Err(self.unsupported(&what));
        }
        if object.u32("kv_bits", 0..=u32::MAX)? != 0 {
            return Err(
                self.unsupported("has quantised keys and values, which this version has not")
            );
        }
        let model = object.object("model")?;
        let most = u32::try_from(i32::MAX).unwrap_or_default();
        let signed = |key: &str| -> Result<i32> {
            let n = object.u32(key, 0..=most)?;
            i32::try_from(n).map_err(|_| object.wrong(key, "a number"))
        };
        let whole = |key: &str| object.opt_i64(key, 0..=i64::MAX);
        let kv_limit = whole("kv_limit")?.and_then(|n| u64::try_from(n).ok());
        let truth = |key: &str| -> Result<bool> {
            let value = object.opt_bool(key)?;
            value.ok_or_else(|| object.wrong(key, "true or false"))
        };
        let written = Written {
            model_type: model.str("type")?.to_owned(),
            weights: model.str("weights")?.to_owned(),
            config: model.str("config")?.to_owned(),
            tokenizer: model.str("tokenizer")?.to_owned(),
            template: model.str("template")?.to_owned(),
            adapters: self.adapters(&object)?,
            context: object.u32("context", 0..=most)?,
            window: object.u32("window", 0..=most)?,
            keep: signed("keep")?,
            kv_limit: kv_limit.ok_or_else(|| object.wrong("kv_limit", "a number"))?,
            long: truth("long")?,
            answer: object.opt_str("answer")?.map(str::to_owned),
            checksum: self.metadata.str(CHECKSUM_KEY)?.to_owned(),
        };
        let marks = object.opt_array("marks")?;
        let marks = marks.ok_or_else(|| object.wrong("marks", "an array"))?;
        let marks = marks.iter().map(numbers).collect::<Option<_>>();
        Ok(Some(Own {
            written,
            cached: signed("cached")?,
            marks: marks.ok_or_else(|| object.wrong("marks", "an array of arrays of numbers"))?,
        }))
    }

    fn adapters(&self, object: &Object) -> Result<Vec<SavedAdapter>> {
        let wrong = || object.wrong("adapters", "an array of objects");
        let adapters = object.opt_array("adapters")?.ok_or_else(wrong)?;
        if adapters.len() > MOST_ADAPTERS {
            return Err(self.bad(&format!("has more than {MOST_ADAPTERS} adapters")));
        }
        let adapters = adapters.iter().map(|adapter| {
            let map = adapter.as_object().ok_or_else(wrong)?;
            let adapter = Object::new(self.name(), map);
            Ok(SavedAdapter {
                weights: adapter.str("weights")?.to_owned(),
                scale: adapter.f32("scale", f32::MIN..=f32::MAX)?,
                what: adapter.str("what")?.to_owned(),
            })
        });
        adapters.collect()
    }

    fn tokens(&self, form: Form) -> Result<Vec<i32>> {
        let key = match form {
            Form::Tensors => TOKENS_KEY,
            Form::Strings => "1.tokens",
        };
        let Some(text) = self.metadata.opt_str(key)? else {
            return Err(self.unsupported(
                "is a prompt cache of mlx-lm without the tokens that it holds, and a session is its tokens; \
                 save it with metadata={\"tokens\": json.dumps(tokens)}",
            ));
        };
        room::ask(text.len(), 4, self.name())?;
        serde_json::from_str(text).map_err(|error| {
            self.bad(&format!(
                "the metadata \"{key}\" must be a list of token ids: {error}"
            ))
        })
    }

    fn layers(&self, form: Form, limits: &Limits) -> Result<Vec<SavedLayer>> {
        let group = match form {
            Form::Tensors => 1,
            Form::Strings => 2,
        };
        let mut layers = Vec::new();
        while let Some(class) = self
            .metadata
            .opt_str(&format!("{group}.{}", layers.len()))?
        {
            if u32::try_from(layers.len()).map_or(true, |count| count >= limits.layers) {
                return Err(self.bad(&format!("has more than {} layers", limits.layers)));
            }
            layers.push(self.layer(form, layers.len(), class)?);
        }
        Ok(layers)
    }

    fn layer(&self, form: Form, layer: usize, class: &str) -> Result<SavedLayer> {
        let rotates = match class {
            "KVCache" => false,
            "RotatingKVCache" => true,
            // An older name of it.
            "ArraysCache" | "MambaCache" => return self.state(form, layer),
            other => {
                let class = quoted(other, 80);
                let what = format!("layer {layer} is a {class}, which this version does not have");
                return Err(self.unsupported(&what));
            }
        };
        let [keys, values] = [0, 1].map(|part| self.array(&format!("{layer}.{part}")));
        let tensors = match (keys?, values?) {
            (Some(keys), Some(values)) => Some([keys, values]),
            (None, None) => None,
            _ => return Err(self.bad(&format!("layer {layer} has keys or values alone"))),
        };
        // 0.31: keep, size, offset, index. 0.32: offset, keep, size, index, behind keys and values.
        let number = |at: [usize; 2]| match (form, at) {
            (Form::Strings, [at, _]) => self.string_number(&format!("0.{layer}.{at}")),
            (Form::Tensors, [_, at]) => self.number(&format!("{layer}.{at}")),
        };
        let capacity = tensors.as_ref().map_or(0, |[keys, _]| keys.dim(2));
        let (offset, index, window) = match (rotates, form) {
            (true, _) => {
                let window = (number([1, 4])?, number([0, 3])?);
                (number([2, 2])?, number([3, 5])?, Some(window))
            }
            (false, Form::Tensors) => {
                let offset = number([0, 2])?;
                (offset, offset, None)
            }
            (false, Form::Strings) => (capacity, capacity, None),
        };
        Ok(SavedLayer::Tokens(SavedTokens {
            tensors,
            offset,
            index,
            window,
        }))
    }

    fn state(&self, form: Form, layer: usize) -> Result<SavedLayer> {
        let prefix = match form {
            Form::Tensors => format!("{layer}.0"),
            Form::Strings => layer.to_string(),
        };
        if form == Form::Tensors {
            for part in [1, 2] {
                if self.array(&format!("{layer}.{part}"))?.is_some() {
                    let what = format!("layer {layer} is of a batch, which a session is not");
                    return Err(self.unsupported(&what));
                }
            }
        }
        let mut arrays = Vec::new();
        let mut absent = false;
        for number in 0..MOST_ARRAYS {
            let name = format!("{prefix}.{number}");
            if !self.tensors.contains_key(name.as_str()) {
                break;
            }
            match self.array(&name)? {
                Some(array) => arrays.push(array),
                None => absent = true,
            }
        }
        if absent && !arrays.is_empty() {
            return Err(self.bad(&format!("layer {layer} lacks some of its arrays")));
        }
        Ok(SavedLayer::State(SavedState {
            arrays,
            marks: Vec::new(),
        }))
    }

    /// The arrays of marks lie behind all layers, where mlx-lm does not look: `LAYERS.LAYER.MARK.ARRAY`.
    fn add_marks(&self, marks: &[Vec<i32>], layers: &mut [SavedLayer]) -> Result<()> {
        let count = layers.len();
        if marks.len() != count {
            let what = format!("has marks of {} layers, and {count} layers", marks.len());
            return Err(self.bad(&what));
        }
        for (layer, (saved, marks)) in layers.iter_mut().zip(marks).enumerate() {
            let SavedLayer::State(state) = saved else {
                if !marks.is_empty() {
                    return Err(self.bad(&format!("layer {layer} has marks and no state")));
                }
                continue;
            };
            for (number, &offset) in marks.iter().enumerate() {
                let mut arrays = Vec::new();
                for array in 0..state.arrays.len() {
                    let name = format!("{count}.{layer}.{number}.{array}");
                    let array = self.array(&name)?;
                    arrays.push(array.ok_or_else(|| self.missing(&name))?);
                }
                state.marks.push((offset, arrays));
            }
        }
        Ok(())
    }

    fn missing(&self, tensor: &str) -> Error {
        self.bad(&format!("holds no tensor \"{tensor}\""))
    }

    fn tensor(&self, name: &str) -> Result<&Stored> {
        let tensor = self.tensors.get(name).copied();
        tensor.ok_or_else(|| self.missing(name))
    }

    /// None where it is an empty one.
    fn array(&self, name: &str) -> Result<Option<Stored>> {
        let tensor = self.tensor(name)?;
        Ok((!tensor.is_empty()).then(|| tensor.clone()))
    }

    /// A tensor of one whole number, which is not negative.
    fn number(&self, name: &str) -> Result<i32> {
        let tensor = self.tensor(name)?;
        let wrong = || self.bad(&format!("the tensor \"{name}\" must be one whole number"));
        if !tensor.shape.is_empty() {
            return Err(wrong());
        }
        let read = |bytes: &mut [u8]| {
            let read = self.file.read_exact_at(bytes, tensor.offset);
            read.map_err(|error| cannot_read(self.name(), &error))
        };
        let number = match tensor.dtype {
            Dtype::I32 => {
                let mut bytes = [0; 4];
                read(&mut bytes)?;
                i64::from(i32::from_le_bytes(bytes))
            }
            Dtype::I64 => {
                let mut bytes = [0; 8];
                read(&mut bytes)?;
                i64::from_le_bytes(bytes)
            }
            _ => return Err(wrong()),
        };
        let number = i32::try_from(number).ok().filter(|&n| n >= 0);
        number.ok_or_else(wrong)
    }

    fn string_number(&self, key: &str) -> Result<i32> {
        let number = self.metadata.str(key)?.parse().ok();
        let number = number.filter(|&n: &i32| n >= 0);
        number.ok_or_else(|| self.bad(&format!("the metadata \"{key}\" must be a whole number")))
    }
}

fn numbers(value: &Value) -> Option<Vec<i32>> {
    let number = |value: &Value| value.as_i64().and_then(|n| i32::try_from(n).ok());
    value.as_array()?.iter().map(number).collect()
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
        let SavedLayer::State(state) = saved else {
            continue;
        };
        let mut before = 0;
        for (offset, _) in &state.marks {
            if *offset <= before || *offset > cached {
                return bad(format!(
                    "layer {layer} has a mark at {offset}, behind one at {before}, and {cached} tokens"
                ));
            }
            before = *offset;
        }
    }
    Ok(())
}
