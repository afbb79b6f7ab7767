//! What the tests of this folder share: a folder of their own, and safetensors files made by hand.

#![allow(clippy::unwrap_used, clippy::arithmetic_side_effects)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use super::ModelFolder;

/// A folder that is removed when the test ends.
pub(crate) struct TempFolder(PathBuf);

impl TempFolder {
    pub(crate) fn new() -> TempFolder {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!(
            "mlxrt-load-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        // Resolved, since the temporary folder itself may lie behind a link.
        let path = fs::canonicalize(std::env::temp_dir()).unwrap().join(name);
        fs::create_dir_all(&path).unwrap();
        TempFolder(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file, with the folders it needs.
    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    pub(crate) fn open(&self) -> ModelFolder {
        ModelFolder::open(self.0.to_str().unwrap()).unwrap()
    }
}

impl Drop for TempFolder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A safetensors file with this header text and so many bytes of data.
pub(crate) fn safetensors(header: &str, data: usize) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    file.extend((0..data).map(|i| i as u8));
    file
}

/// A safetensors file of f32 vectors with these names and lengths.
pub(crate) fn vectors(tensors: &[(&str, usize)]) -> Vec<u8> {
    let mut at = 0;
    let mut header = Vec::new();
    for (name, length) in tensors {
        let end = at + length * 4;
        header.push(format!(
            r#""{name}":{{"dtype":"F32","shape":[{length}],"data_offsets":[{at},{end}]}}"#
        ));
        at = end;
    }
    safetensors(&format!("{{{}}}", header.join(",")), at)
}

/// A safetensors file of tensors with these names, types and shapes, full of zeros.
pub(crate) fn tensors(tensors: &[(&str, &str, &[usize])]) -> Vec<u8> {
    let mut at = 0;
    let mut header = Vec::new();
    for (name, dtype, shape) in tensors {
        let size = crate::dtype::Dtype::parse(dtype).unwrap().size() as usize;
        let end = at + shape.iter().product::<usize>() * size;
        header.push(format!(
            r#""{name}":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[{at},{end}]}}"#
        ));
        at = end;
    }
    let mut file = safetensors(&format!("{{{}}}", header.join(",")), 0);
    file.resize(file.len() + at, 0);
    file
}
