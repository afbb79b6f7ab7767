//! The header of one safetensors file. Only the header is read: eight bytes with its length, then JSON that
//! gives each tensor's type, shape and place. The data is checked to be exactly as long as the header says.
//!
//! On top of what the `safetensors` crate refuses (overlaps, holes, overflow): names given twice, more or
//! larger dimensions than MLX has, empty tensors, and types that MLX lacks. 8-bit floats it has as bytes.

use std::fs::File;
use std::os::unix::fs::FileExt;

use safetensors::tensor::{Metadata, SafeTensorError, TensorInfo};
use serde_json::{Map, Value};

use super::folder::{cannot_read, lfs_pointer, LFS_POINTER};
use super::foreign::Float8;
use super::json::{parse_strict_object, Object};
use super::limits::Limits;
use super::weights::InFile;
use crate::dtype::Dtype;
use crate::error::{Code, Error, Result};
use crate::words::quoted;

/// One tensor of a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<i32>,
    /// Where its data starts, from the start of the file.
    pub offset: u64,
    pub bytes: u64,
    /// What the bytes are, where they are 8-bit floats.
    pub float8: Option<Float8>,
}

/// Bytes before the header: its length.
const LENGTH_BYTES: u64 = 8;

/// Most values that a header spends on one tensor, keys and braces included; a few more are left to metadata.
const VALUES_PER_TENSOR: usize = 20;

/// Reads and checks the header of `file`, whose name for errors is `name`.
pub(super) fn read_header(name: &str, file: &File, limits: &Limits) -> Result<Vec<Entry>> {
    let size = file.metadata().map_err(|e| cannot_read(name, &e))?.len();
    let header = read_header_text(name, file, size, limits)?;
    let header_end = LENGTH_BYTES.saturating_add(header.len() as u64);
    let map = parse_header(name, &header, limits)?;
    drop(header);
    entries(name, &map, header_end, size, limits, Empty::Refused)
}

/// A header with what its file says beside the tensors.
pub(super) struct Header {
    /// As it is in the file.
    pub text: Vec<u8>,
    /// Strings.
    pub metadata: Map<String, Value>,
    /// In the order of the data.
    pub entries: Vec<Entry>,
}

/// As [`read_header`], with the metadata; tensors may be empty.
pub(super) fn read_whole_header(name: &str, file: &File, limits: &Limits) -> Result<Header> {
    let size = file.metadata().map_err(|e| cannot_read(name, &e))?.len();
    let text = read_header_text(name, file, size, limits)?;
    let header_end = LENGTH_BYTES.saturating_add(text.len() as u64);
    let mut map = parse_header(name, &text, limits)?;
    let entries = entries(name, &map, header_end, size, limits, Empty::Accepted)?;
    let metadata = match map.remove(METADATA) {
        Some(Value::Object(metadata)) => metadata,
        _ => Map::new(),
    };
    Ok(Header {
        text,
        metadata,
        entries,
    })
}

fn parse_header(name: &str, text: &[u8], limits: &Limits) -> Result<Map<String, Value>> {
    let max_values = limits
        .tensors
        .saturating_mul(VALUES_PER_TENSOR)
        .saturating_add(100_000);
    parse_strict_object(name, text, max_values)
}

/// Tensors without elements.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Empty {
    Refused,
    Accepted,
}

fn entries(
    name: &str,
    map: &Map<String, Value>,
    header_end: u64,
    size: u64,
    limits: &Limits,
    empty: Empty,
) -> Result<Vec<Entry>> {
    let object = Object::new(name, map);
    check_metadata(&object)?;
    let mut described = Vec::new();
    for tensor in object.keys().filter(|&key| key != METADATA) {
        if described.len() >= limits.tensors {
            return Err(Error::bad_model(format!(
                "{name}: holds more than {} tensors",
                limits.tensors
            )));
        }
        described.push(read_tensor(&object, tensor, limits, empty)?);
    }

    described.sort_by_key(|tensor| tensor.info.data_offsets);
    let infos = described
        .iter()
        .map(|tensor| (tensor.name.to_string(), tensor.info.clone()))
        .collect();
    let metadata = Metadata::new(None, infos).map_err(|error| refused(name, error))?;

    let described_size = header_end.checked_add(metadata.data_len() as u64);
    match described_size {
        Some(end) if end == size => {}
        Some(end) if end < size => {
            return Err(Error::bad_model(format!(
                "{name}: is {size} bytes, but its header describes only {end}"
            )));
        }
        _ => {
            let end = described_size.map_or("more than 2^64".to_string(), |end| end.to_string());
            return Err(truncated(name, size, &end));
        }
    }
    described
        .into_iter()
        .map(|tensor| tensor.into_entry(name, header_end))
        .collect()
}

/// The header's JSON, after its length has been compared with the limit and the file's size.
fn read_header_text(name: &str, file: &File, size: u64, limits: &Limits) -> Result<Vec<u8>> {
    if size < LENGTH_BYTES {
        return Err(truncated(name, size, "at least 8"));
    }
    let mut length = [0; LENGTH_BYTES as usize];
    file.read_exact_at(&mut length, 0)
        .map_err(|e| cannot_read(name, &e))?;
    // No header is as long as these eight characters say.
    if LFS_POINTER.starts_with(&length) {
        return Err(lfs_pointer(name));
    }
    let length = u64::from_le_bytes(length);
    if length > limits.header_bytes {
        return Err(Error::bad_model(format!(
            "{name}: its header is {length} bytes, more than the {} that are accepted",
            limits.header_bytes
        )));
    }
    let end = LENGTH_BYTES.saturating_add(length);
    if end > size {
        return Err(truncated(name, size, &format!("at least {end}")));
    }
    let no_memory = || {
        Error::new(
            Code::OutOfMemory,
            format!("{name}: no memory for its header of {length} bytes"),
        )
    };
    let length = usize::try_from(length).map_err(|_| no_memory())?;
    let mut header = Vec::new();
    header.try_reserve_exact(length).map_err(|_| no_memory())?;
    header.resize(length, 0);
    file.read_exact_at(&mut header, LENGTH_BYTES)
        .map_err(|e| cannot_read(name, &e))?;
    Ok(header)
}

const METADATA: &str = "__metadata__";

/// The one key that is no tensor must hold strings.
fn check_metadata(header: &Object) -> Result<()> {
    let Some(metadata) = header.opt_object(METADATA)? else {
        return Ok(());
    };
    for key in metadata.keys() {
        metadata.str(key)?;
    }
    Ok(())
}

/// A tensor as its header describes it; offsets count from the header's end.
struct Described<'a> {
    name: &'a str,
    dtype: Dtype,
    float8: Option<Float8>,
    shape: Vec<i32>,
    info: TensorInfo,
}

impl Described<'_> {
    fn into_entry(self, file: &str, header_end: u64) -> Result<Entry> {
        let (start, end) = self.info.data_offsets;
        let place = || {
            let offset = header_end.checked_add(u64::try_from(start).ok()?)?;
            let bytes = u64::try_from(end.checked_sub(start)?).ok()?;
            Some((offset, bytes))
        };
        let (offset, bytes) =
            place().ok_or_else(|| wrong_tensor(file, self.name, "lies beyond 2^64"))?;
        Ok(Entry {
            name: self.name.to_string(),
            dtype: self.dtype,
            shape: self.shape,
            offset,
            bytes,
            float8: self.float8,
        })
    }
}

fn read_tensor<'a>(
    header: &Object<'a>,
    name: &'a str,
    limits: &Limits,
    empty: Empty,
) -> Result<Described<'a>> {
    let file = header.file();
    let wrong = |why: &str| wrong_tensor(file, name, why);
    if name.is_empty() {
        return Err(Error::bad_model(format!(
            "{file}: a tensor has an empty name"
        )));
    }
    if name.contains('\0') {
        return Err(wrong("has a NUL character in its name"));
    }
    if name.len() > limits.tensor_name_bytes {
        return Err(wrong(&format!(
            "has a name longer than {} bytes",
            limits.tensor_name_bytes
        )));
    }
    let tensor = header.object(name)?;
    let spelled = tensor.str("dtype")?;
    let float8 = Float8::parse(spelled);
    let bytes = float8.map(|_| Dtype::U8);
    let Some(dtype) = bytes.or_else(|| Dtype::parse(spelled)) else {
        let what = format!("has the type {}, which MLX has not", quoted(spelled, 40));
        return Err(Error::unsupported(format!(
            "{file}: tensor {} {what}",
            quoted(name, 160)
        )));
    };

    let dims = tensor
        .opt_array("shape")?
        .ok_or_else(|| tensor.wrong("shape", "an array"))?;
    if dims.len() > limits.rank {
        return Err(wrong(&format!(
            "has {} dimensions, more than {}",
            dims.len(),
            limits.rank
        )));
    }
    let mut shape = Vec::new();
    let mut elements = Some(1i64);
    for dim in dims {
        let small = dim
            .as_u64()
            .and_then(|n| i32::try_from(n).ok())
            .filter(|&n| n > 0 || empty == Empty::Accepted);
        let n = small.ok_or_else(|| {
            let shown = quoted(&dim.to_string(), 40);
            wrong(&format!(
                "has the dimension {shown}; dimensions are integers from 1 to {}",
                i32::MAX
            ))
        })?;
        shape.push(n);
        elements = elements.and_then(|all| all.checked_mul(i64::from(n)));
    }
    let bytes = elements
        .and_then(|all| all.checked_mul(dtype.size()))
        .and_then(|n| usize::try_from(n).ok());
    let bytes = bytes.ok_or_else(|| wrong("has a shape of more than 2^63 bytes"))?;

    let offsets = tensor.opt_array("data_offsets")?;
    let offsets = offsets.ok_or_else(|| tensor.wrong("data_offsets", "an array"))?;
    let offset = |value: &Value| value.as_u64().and_then(|n| usize::try_from(n).ok());
    let data_offsets = match offsets {
        [start, end] => offset(start)
            .zip(offset(end))
            .filter(|(start, end)| start <= end),
        _ => None,
    };
    let data_offsets =
        data_offsets.ok_or_else(|| wrong("has data_offsets that are not a start and an end"))?;
    let (start, end) = data_offsets;
    let length = end.saturating_sub(start);
    if length != bytes {
        let needed = format!(
            "takes {length} bytes, but its type {} and its shape need {bytes}",
            dtype.name()
        );
        return Err(wrong(&needed));
    }
    let dims = shape
        .iter()
        .filter_map(|&n| usize::try_from(n).ok())
        .collect();
    let info = TensorInfo {
        dtype: dtype.in_file(),
        shape: dims,
        data_offsets,
    };
    Ok(Described {
        name,
        dtype,
        float8,
        shape,
        info,
    })
}

fn wrong_tensor(file: &str, tensor: &str, why: &str) -> Error {
    Error::bad_model(format!("{file}: tensor {} {why}", quoted(tensor, 160)))
}

fn refused(file: &str, error: SafeTensorError) -> Error {
    match error {
        SafeTensorError::InvalidOffset(tensor) => wrong_tensor(
            file,
            &tensor,
            "overlaps another tensor or leaves a hole before it",
        ),
        other => Error::bad_model(format!(
            "{file}: the safetensors header is not valid: {other}"
        )),
    }
}

fn truncated(name: &str, size: u64, needed: &str) -> Error {
    Error::bad_model(format!(
        "{name}: is truncated: it is {size} bytes, its header needs {needed}"
    ))
}

#[cfg(test)]
#[path = "safetensors_tests.rs"]
mod tests;
