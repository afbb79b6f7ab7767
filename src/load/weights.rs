//! All weight files of a model folder as one catalog: which tensor lies where.

use std::collections::BTreeMap;
use std::fs::File;

use super::folder::{check_name, ModelFolder};
use super::json::{parse_strict_object, quoted, Object};
use super::limits::Limits;
use super::safetensors::read_header;
use crate::dtype::Dtype;
use crate::error::{Error, Result};

impl Dtype {
    /// The safetensors crate's own word for it.
    pub(super) fn in_file(self) -> safetensors::Dtype {
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
}

/// An open weight file.
#[derive(Debug)]
pub struct WeightFile {
    pub name: String,
    pub file: File,
}

/// The tensors of all weight files of a folder. The data is not read.
#[derive(Debug)]
pub struct Catalog {
    pub files: Vec<WeightFile>,
    /// By name.
    pub tensors: BTreeMap<String, Tensor>,
    /// Of all tensors.
    pub total_bytes: u64,
    /// What the index names and no file holds, with the file it names. Indices outlive the tensors that a conversion
    /// dropped, so it is an error only where such a tensor is needed.
    pub absent: BTreeMap<String, String>,
}

/// The optional list of which tensor is in which file.
const INDEX: &str = "model.safetensors.index.json";

impl Catalog {
    /// Reads the headers of all files `model*.safetensors` and of those that the index names, and holds the
    /// index against them: a tensor that it puts into another file than the one that holds it is refused.
    ///
    /// Errors: `BadModel` naming file and tensor, `Unsupported` for element types that MLX lacks, `Io`.
    pub fn open(folder: &ModelFolder) -> Result<Catalog> {
        Self::open_within(folder, &Limits::DEFAULT)
    }

    pub(super) fn open_within(folder: &ModelFolder, limits: &Limits) -> Result<Catalog> {
        let index = read_index(folder, limits)?;
        let listed = folder.list("model", ".safetensors", limits.shards)?;
        let mut names = listed.clone();
        names.extend(index.values().cloned());
        names.sort();
        names.dedup();
        if names.len() > limits.shards {
            return Err(Error::bad_model(format!(
                "{INDEX}: names more than {} files",
                limits.shards
            )));
        }
        let mut catalog = Catalog {
            files: Vec::new(),
            tensors: BTreeMap::new(),
            total_bytes: 0,
            absent: BTreeMap::new(),
        };
        for name in names {
            match folder.open_present(&name)? {
                Some(file) => catalog.add_file(name, file, limits)?,
                None if listed.contains(&name) => return Err(folder.missing(&name)),
                None => {}
            }
        }
        if catalog.files.is_empty() {
            return Err(Error::bad_model(format!(
                "the folder {} holds no model*.safetensors",
                folder.shown()
            )));
        }
        catalog.check_index(index)?;
        Ok(catalog)
    }

    /// The header of one named file.
    pub(super) fn open_file(folder: &ModelFolder, name: &str, limits: &Limits) -> Result<Catalog> {
        let mut catalog = Catalog {
            files: Vec::new(),
            tensors: BTreeMap::new(),
            total_bytes: 0,
            absent: BTreeMap::new(),
        };
        let file = match folder.open_present(name)? {
            Some(file) => file,
            None => return Err(folder.missing(name)),
        };
        catalog.add_file(name.to_string(), file, limits)?;
        Ok(catalog)
    }

    /// The tensor of that name.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name)
    }

    fn add_file(&mut self, name: String, file: File, limits: &Limits) -> Result<()> {
        let index = self.files.len();
        for entry in read_header(&name, &file, limits)? {
            let shown = quoted(&entry.name, 160);
            if let Some(other) = self
                .tensors
                .get(&entry.name)
                .and_then(|t| self.files.get(t.file))
            {
                return Err(Error::bad_model(format!(
                    "tensor {shown} is in both {} and {name}",
                    other.name
                )));
            }
            if self.tensors.len() >= limits.tensors {
                return Err(Error::bad_model(format!(
                    "{name}: the folder holds more than {} tensors",
                    limits.tensors
                )));
            }
            self.total_bytes = self
                .total_bytes
                .checked_add(entry.bytes)
                .filter(|&total| i64::try_from(total).is_ok())
                .ok_or_else(|| {
                    Error::bad_model(format!(
                        "{name}: with tensor {shown} the folder exceeds 2^63 bytes"
                    ))
                })?;
            let tensor = Tensor {
                name: entry.name.clone(),
                dtype: entry.dtype,
                shape: entry.shape,
                file: index,
                offset: entry.offset,
                bytes: entry.bytes,
            };
            self.tensors.insert(entry.name, tensor);
        }
        self.files.push(WeightFile { name, file });
        Ok(())
    }

    /// The error for a tensor that is needed and that no file holds.
    pub fn missing(&self, name: &str) -> Error {
        let shown = quoted(name, 160);
        let Some(file) = self.absent.get(name) else {
            return Error::bad_model(format!("the weights hold no tensor {shown}"));
        };
        let is_open = self.files.iter().any(|open| open.name == *file);
        let state = if is_open {
            "does not hold it"
        } else {
            "is missing"
        };
        Error::bad_model(format!(
            "the weights hold no tensor {shown}: {INDEX} puts it in {file}, which {state}"
        ))
    }

    fn check_index(&mut self, index: BTreeMap<String, String>) -> Result<()> {
        for (tensor, file) in index {
            let Some(found) = self.tensors.get(&tensor) else {
                self.absent.insert(tensor, file);
                continue;
            };
            match self.files.get(found.file) {
                Some(actual) if actual.name == file => {}
                Some(actual) => {
                    return Err(Error::bad_model(format!(
                        "{INDEX}: \"weight_map\" puts tensor {} in {file}, but it is in {}",
                        quoted(&tensor, 160),
                        actual.name
                    )))
                }
                None => {
                    return Err(Error::internal(
                        "a tensor names a file that is not in the catalog",
                    ))
                }
            }
        }
        Ok(())
    }
}

/// The index as tensor → file; empty when there is none. Every file is one plain name; it may be absent.
fn read_index(folder: &ModelFolder, limits: &Limits) -> Result<BTreeMap<String, String>> {
    let Some(bytes) = folder.read(INDEX, limits.index_bytes)? else {
        return Ok(BTreeMap::new());
    };
    let max_values = limits.tensors.saturating_mul(2).saturating_add(10_000);
    let map = parse_strict_object(INDEX, &bytes, max_values)?;
    let weight_map = Object::new(INDEX, &map).object("weight_map")?;
    let mut index = BTreeMap::new();
    for tensor in weight_map.keys() {
        let file = weight_map.str(tensor)?;
        let wrong = |why: &str| Error::bad_model(format!("{} {why}", weight_map.place(tensor)));
        check_name(file)
            .map_err(|why| wrong(&format!("names a file outside the folder: {why}")))?;
        if !file.ends_with(".safetensors") {
            return Err(wrong(&format!(
                "names {}, which is not a .safetensors file",
                quoted(file, 80)
            )));
        }
        index.insert(tensor.to_string(), file.to_string());
    }
    Ok(index)
}

#[cfg(test)]
#[path = "weights_tests.rs"]
mod tests;
