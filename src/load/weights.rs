//! All weight files of a model folder as one catalog: which tensor lies where.

use std::collections::btree_map::Entry as Place;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::FileExt;

use serde_json::{Map, Value};

use super::folder::{cannot_read, check_name, ModelFolder};
use super::foreign::Float8;
use super::json::{parse_strict_object, Object};
use super::limits::Limits;
use super::safetensors::{read_header, Entry};
use super::warnings::Warnings;
use crate::dtype::Dtype;
use crate::error::{Code, Error, Result};
use crate::words::quoted;

/// The safetensors crate's own word for an element type.
pub(super) trait InFile {
    fn in_file(self) -> safetensors::Dtype;
}

impl InFile for Dtype {
    fn in_file(self) -> safetensors::Dtype {
        match self {
            Dtype::Bool => safetensors::Dtype::BOOL,
            Dtype::U8 => safetensors::Dtype::U8,
            Dtype::U16 => safetensors::Dtype::U16,
            Dtype::U32 => safetensors::Dtype::U32,
            Dtype::U64 => safetensors::Dtype::U64,
            Dtype::I8 => safetensors::Dtype::I8,
            Dtype::I16 => safetensors::Dtype::I16,
            Dtype::I32 => safetensors::Dtype::I32,
            Dtype::I64 => safetensors::Dtype::I64,
            Dtype::F16 => safetensors::Dtype::F16,
            Dtype::BF16 => safetensors::Dtype::BF16,
            Dtype::F32 => safetensors::Dtype::F32,
        }
    }
}

/// One tensor: what it is and where its data lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    pub name: String,
    pub dtype: Dtype,
    /// At most [`Limits::rank`] dimensions, each 1 or more; none for a scalar.
    pub shape: Vec<i32>,
    /// Which of [`Catalog::files`].
    pub file: usize,
    /// Where the data starts, in bytes from the start of the file.
    pub offset: u64,
    /// How long it is: exactly the elements of `shape` times the size of `dtype`.
    pub bytes: u64,
    /// What its bytes are, where they are 8-bit floats.
    pub float8: Option<Float8>,
}

impl Tensor {
    /// The name of its type, as files have it.
    pub fn kind(&self) -> &'static str {
        self.float8.map_or(self.dtype.name(), Float8::name)
    }
}

/// An open weight file.
#[derive(Debug)]
pub struct WeightFile {
    pub name: String,
    pub file: File,
}

/// The tensors of all weight files of a folder. The data is not read, but to compare tensors of one name.
#[derive(Debug)]
pub struct Catalog {
    pub files: Vec<WeightFile>,
    /// By name.
    pub tensors: BTreeMap<String, Tensor>,
    /// Of all tensors, those that lie in several files counted each time.
    pub total_bytes: u64,
    /// What the index names and no file holds, with the file it names. Indices outlive the tensors that a conversion
    /// dropped, so it is an error only where such a tensor is needed.
    pub absent: BTreeMap<String, String>,
    /// Names that several files hold.
    copies: BTreeMap<String, Copies>,
    /// How many tensors there are in `tensors` and in `copies`.
    count: usize,
    /// Which of `files` the index names.
    indexed: BTreeSet<usize>,
    /// Files that only the index names and that cannot be used, with why.
    unusable: BTreeMap<String, String>,
}

/// The tensors of one name beside the one in [`Catalog::tensors`].
#[derive(Debug, Default)]
struct Copies {
    others: Vec<Tensor>,
    /// The index says which of them counts, and that is the one in [`Catalog::tensors`].
    chosen: bool,
}

/// The optional list of which tensor is in which file.
const INDEX: &str = "model.safetensors.index.json";

/// Bytes of each of two tensors that are compared at once.
const COMPARED: usize = 1 << 20;

impl Catalog {
    /// Reads the headers of all files `model*.safetensors`, as mlx-lm does. The index is a hint, since it is the first
    /// thing to be forgotten when files change: what the files hold is true, and the index tells
    ///
    /// - of files with other names, for tensors that no `model*.safetensors` holds;
    /// - which of several tensors of one name counts;
    /// - where something should be that is missing, for the error;
    /// - what is a stray file ([`Self::is_stray`]).
    ///
    /// Errors: `BadModel` naming file and tensor, `Unsupported` for element types that MLX lacks, `Io`.
    pub fn open(folder: &ModelFolder, warnings: &mut Warnings) -> Result<Catalog> {
        Self::open_within(folder, &Limits::DEFAULT, warnings)
    }

    pub(super) fn open_within(
        folder: &ModelFolder,
        limits: &Limits,
        warnings: &mut Warnings,
    ) -> Result<Catalog> {
        let mut catalog = Catalog::empty();
        let listed = folder.list("model", ".safetensors", limits.shards)?;
        for name in &listed {
            let Some(file) = folder.open_present(name)? else {
                return Err(folder.missing(name));
            };
            let entries = read_header(name, &file, limits)?;
            catalog.add(name, file, entries, limits)?;
        }
        let index = read_index(folder, limits, warnings)?;
        catalog.add_indexed(folder, &listed, &index, limits, warnings)?;
        if catalog.files.is_empty() {
            return Err(folder.no_weights());
        }
        catalog.apply(index, warnings);
        Ok(catalog)
    }

    /// The header of one named file.
    pub(super) fn open_file(folder: &ModelFolder, name: &str, limits: &Limits) -> Result<Catalog> {
        let mut catalog = Catalog::empty();
        let file = match folder.open_present(name)? {
            Some(file) => file,
            None => return Err(folder.missing(name)),
        };
        let entries = read_header(name, &file, limits)?;
        catalog.add(name, file, entries, limits)?;
        Ok(catalog)
    }

    fn empty() -> Catalog {
        Catalog {
            files: Vec::new(),
            tensors: BTreeMap::new(),
            total_bytes: 0,
            absent: BTreeMap::new(),
            copies: BTreeMap::new(),
            count: 0,
            indexed: BTreeSet::new(),
            unusable: BTreeMap::new(),
        }
    }

    /// The tensor of that name.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name)
    }

    /// The name of a tensor's file.
    pub fn file_of(&self, tensor: &Tensor) -> &str {
        let file = self.files.get(tensor.file);
        file.map_or("", |file| file.name.as_str())
    }

    /// Whether the index, which describes other files, does not name this one of [`Self::files`].
    pub fn is_stray(&self, file: usize) -> bool {
        !self.indexed.is_empty() && !self.indexed.contains(&file)
    }

    fn add(&mut self, name: &str, file: File, entries: Vec<Entry>, limits: &Limits) -> Result<()> {
        let index = self.files.len();
        for entry in entries {
            if self.count >= limits.tensors {
                return Err(Error::bad_model(format!(
                    "{name}: the folder holds more than {} tensors",
                    limits.tensors
                )));
            }
            self.count = self.count.saturating_add(1);
            self.total_bytes = self
                .total_bytes
                .checked_add(entry.bytes)
                .filter(|&total| i64::try_from(total).is_ok())
                .ok_or_else(|| {
                    Error::bad_model(format!(
                        "{name}: with tensor {} the folder exceeds 2^63 bytes",
                        quoted(&entry.name, 160)
                    ))
                })?;
            let tensor = Tensor {
                name: entry.name.clone(),
                dtype: entry.dtype,
                shape: entry.shape,
                file: index,
                offset: entry.offset,
                bytes: entry.bytes,
                float8: entry.float8,
            };
            match self.tensors.entry(entry.name) {
                Place::Vacant(place) => {
                    place.insert(tensor);
                }
                Place::Occupied(place) => {
                    let copies = self.copies.entry(place.key().clone()).or_default();
                    copies.others.push(tensor);
                }
            }
        }
        self.files.push(WeightFile {
            name: name.to_string(),
            file,
        });
        Ok(())
    }

    /// Reads files that only the index names, as far as they are needed: of each the tensors that the index puts there
    /// and that no other file holds. Such a file that cannot be used is as one that is not there.
    fn add_indexed(
        &mut self,
        folder: &ModelFolder,
        listed: &[String],
        index: &BTreeMap<String, String>,
        limits: &Limits,
        warnings: &mut Warnings,
    ) -> Result<()> {
        let mut further: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for (tensor, file) in index {
            if !self.tensors.contains_key(tensor) && listed.binary_search(file).is_err() {
                further.entry(file).or_default().insert(tensor);
            }
        }
        if listed.len().saturating_add(further.len()) > limits.shards {
            warnings.add(format!(
                "{INDEX}: names more than {} files; those that are no model*.safetensors are ignored",
                limits.shards
            ));
            return Ok(());
        }
        for (name, wanted) in further {
            let read = match folder.open_present(name) {
                Ok(None) => continue,
                Ok(Some(file)) => read_header(name, &file, limits).map(|all| (file, all)),
                Err(error) => Err(error),
            };
            match read {
                Ok((file, mut entries)) => {
                    entries.retain(|entry| wanted.contains(entry.name.as_str()));
                    if !entries.is_empty() {
                        self.add(name, file, entries, limits)?;
                    }
                }
                Err(error) if error.code.is_of_the_moment() => return Err(error),
                Err(error) => {
                    self.unusable.insert(name.to_string(), error.message);
                }
            }
        }
        Ok(())
    }

    /// Takes from the index what [`Self::open`] says.
    fn apply(&mut self, index: BTreeMap<String, String>, warnings: &mut Warnings) {
        let by_name: BTreeMap<String, usize> = self
            .files
            .iter()
            .enumerate()
            .map(|(at, file)| (file.name.clone(), at))
            .collect();
        let mut chosen: Option<(String, usize)> = None;
        let mut misplaced: Option<(String, usize)> = None;
        let count = |seen: &mut Option<(String, usize)>, name: &str| {
            let (_, count) = seen.get_or_insert_with(|| (name.to_string(), 0));
            *count = count.saturating_add(1);
        };
        for (name, file) in index {
            let at = by_name.get(&file).copied();
            self.indexed.extend(at);
            let Some(tensor) = self.tensors.get_mut(&name) else {
                self.absent.insert(name, file);
                continue;
            };
            let copies = self.copies.get_mut(&name);
            if Some(tensor.file) == at {
                if let Some(copies) = copies {
                    copies.chosen = true;
                    count(&mut chosen, &name);
                }
                continue;
            }
            let other = copies.and_then(|copies| {
                let other = copies
                    .others
                    .iter_mut()
                    .find(|other| Some(other.file) == at)?;
                copies.chosen = true;
                Some(other)
            });
            match other {
                Some(other) => {
                    std::mem::swap(tensor, other);
                    count(&mut chosen, &name);
                }
                None => count(&mut misplaced, &name),
            }
        }
        if let Some((name, count)) = misplaced {
            warnings.add(format!(
                "{INDEX}: puts {} into files that do not hold {}; the files decide",
                several(count, &name),
                if count == 1 { "it" } else { "them" }
            ));
        }
        if let Some((name, count)) = chosen {
            warnings.add(format!(
                "{} {} in more than one file; {INDEX} decides which one counts",
                several(count, &name),
                if count == 1 { "is" } else { "are" }
            ));
        }
    }

    /// Refuses names that lie in several files with different contents, where no index says which one counts: mlx-lm
    /// takes the one that its system lists last. Only those that are `used` matter. Their bytes are read, which may
    /// take a while: `go_on` is asked before each megabyte.
    ///
    /// Errors: `BadModel` naming tensor and files, `Io`, and those of `go_on`.
    pub fn check_copies(
        &self,
        used: &[&Tensor],
        limits: &Limits,
        go_on: &mut dyn FnMut() -> Result<()>,
    ) -> Result<()> {
        let mut left = limits.compared_bytes;
        let with_copies = used.iter().filter_map(|tensor| {
            let copies = self.copies.get(&tensor.name)?;
            (!copies.chosen).then_some((*tensor, copies))
        });
        for (tensor, copies) in with_copies {
            for other in &copies.others {
                let refused = |why: &str| {
                    Error::bad_model(format!(
                        "tensor {} is in both {} and {}, {why}; remove the file that is not of this model",
                        quoted(&tensor.name, 160),
                        self.file_of(tensor),
                        self.file_of(other)
                    ))
                };
                if (tensor.dtype, &tensor.shape) != (other.dtype, &other.shape) {
                    return Err(refused("with different types or shapes"));
                }
                left = left
                    .checked_sub(tensor.bytes)
                    .ok_or_else(|| refused("and there is too much of that to compare them"))?;
                if !self.same_bytes(tensor, other, go_on)? {
                    return Err(refused("with different contents"));
                }
            }
        }
        Ok(())
    }

    /// An error about the tensors, where the reason may be that two models lie in one folder.
    pub fn explain(&self, error: Error) -> Error {
        let undecided = self.copies.iter().find(|(_, copies)| !copies.chosen);
        let places = undecided.and_then(|(name, copies)| {
            let (tensor, other) = (self.tensors.get(name)?, copies.others.first()?);
            Some((tensor, other))
        });
        match (places, error.code) {
            (Some((tensor, other)), Code::BadModel) => Error::bad_model(format!(
                "{}; tensor {} is in both {} and {}: remove the file that is not of this model",
                error.message,
                quoted(&tensor.name, 160),
                self.file_of(tensor),
                self.file_of(other)
            )),
            _ => error,
        }
    }

    /// Whether two tensors of one length have the same bytes.
    fn same_bytes(
        &self,
        a: &Tensor,
        b: &Tensor,
        go_on: &mut dyn FnMut() -> Result<()>,
    ) -> Result<bool> {
        let mut pieces = [Vec::new(), Vec::new()];
        let mut at = 0u64;
        while at < a.bytes {
            go_on()?;
            let length = a.bytes.saturating_sub(at).min(COMPARED as u64);
            for (piece, tensor) in pieces.iter_mut().zip([a, b]) {
                let file = self.files.get(tensor.file);
                let file = file.ok_or_else(|| Error::internal("a tensor without a file"))?;
                // At most a megabyte, asked for once.
                let length = usize::try_from(length).unwrap_or(COMPARED);
                piece.clear();
                piece.try_reserve_exact(length).map_err(|_| {
                    Error::new(Code::OutOfMemory, "no memory to compare two tensors")
                })?;
                piece.resize(length, 0);
                let read = file
                    .file
                    .read_exact_at(piece, tensor.offset.saturating_add(at));
                read.map_err(|e| cannot_read(&file.name, &e))?;
            }
            let [ours, theirs] = &pieces;
            if ours != theirs {
                return Ok(false);
            }
            at = at.saturating_add(length);
        }
        Ok(true)
    }

    /// The error for a tensor that is needed and that no file holds.
    pub fn missing(&self, name: &str) -> Error {
        let shown = quoted(name, 160);
        let Some(file) = self.absent.get(name) else {
            return Error::bad_model(format!("the weights hold no tensor {shown}"));
        };
        let is_open = self.files.iter().any(|open| open.name == *file);
        let state = match self.unusable.get(file) {
            Some(why) => format!("which cannot be used: {why}"),
            None if is_open => "which does not hold it".to_string(),
            None => "which is missing".to_string(),
        };
        Error::bad_model(format!(
            "the weights hold no tensor {shown}: {INDEX} puts it in {file}, {state}"
        ))
    }
}

/// `tensor "a"`, or `3 tensors, such as "a",`.
fn several(count: usize, first: &str) -> String {
    let first = quoted(first, 160);
    match count {
        1 => format!("tensor {first}"),
        count => format!("{count} tensors, such as {first},"),
    }
}

/// The index as tensor → file, as far as it can be read; empty when there is none. Every file is one plain name; it may be
/// absent.
///
/// Errors: `OutOfMemory`.
fn read_index(
    folder: &ModelFolder,
    limits: &Limits,
    warnings: &mut Warnings,
) -> Result<BTreeMap<String, String>> {
    let mut index = BTreeMap::new();
    let Some(map) = warnings.forgive(parse_index(folder, limits))? else {
        return Ok(index);
    };
    let weight_map = Object::new(INDEX, &map).object("weight_map");
    let Some(weight_map) = warnings.forgive(weight_map.map(Some))? else {
        return Ok(index);
    };
    let mut odd: Option<(Error, usize)> = None;
    for tensor in weight_map.keys() {
        match shard(&weight_map, tensor) {
            Ok(file) => {
                index.insert(tensor.to_string(), file.to_string());
            }
            Err(error) => {
                let (_, count) = odd.get_or_insert((error, 0));
                *count = count.saturating_add(1);
            }
        }
    }
    if let Some((error, count)) = odd {
        let all = match count {
            1 => "it is ignored".to_string(),
            count => format!("{count} entries like that are ignored"),
        };
        warnings.add(format!("{}; {all}", error.message));
    }
    Ok(index)
}

fn parse_index(folder: &ModelFolder, limits: &Limits) -> Result<Option<Map<String, Value>>> {
    let Some(bytes) = folder.read(INDEX, limits.index_bytes)? else {
        return Ok(None);
    };
    let max_values = limits.tensors.saturating_mul(2).saturating_add(10_000);
    parse_strict_object(INDEX, &bytes, max_values).map(Some)
}

/// The file that an entry names.
fn shard<'a>(weight_map: &Object<'a>, tensor: &str) -> Result<&'a str> {
    let file = weight_map.str(tensor)?;
    let wrong = |why: &str| Error::bad_model(format!("{} {why}", weight_map.place(tensor)));
    check_name(file).map_err(|why| wrong(&format!("names a file outside the folder: {why}")))?;
    if !file.ends_with(".safetensors") {
        return Err(wrong(&format!(
            "names {}, which is not a .safetensors file",
            quoted(file, 80)
        )));
    }
    Ok(file)
}

#[cfg(test)]
#[path = "weights_tests.rs"]
mod tests;
