//! A copy of a fixture folder to break, ways to break it, and the child that loads it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Map, Value};

use crate::child::{alive, leaks_nothing};
use crate::common::{fixtures, inspect, load, Prompt};
use crate::ensure;
use crate::runner::{case, SCRATCH};
use crate::verdict::*;

/// Removed when it is dropped.
pub struct Folder(PathBuf);

/// Where this run's files go, all of which go away with it.
pub fn scratch() -> PathBuf {
    std::env::var_os(SCRATCH).map_or_else(
        || Path::new(env!("CARGO_TARGET_TMPDIR")).into(),
        PathBuf::from,
    )
}

impl Folder {
    pub fn copy_of(fixture: &str) -> Folder {
        Self::copy(&fixtures().join("models").join(fixture))
    }

    pub fn copy_of_adapter(fixture: &str) -> Folder {
        Self::copy(&fixtures().join("adapters").join(fixture))
    }

    fn copy(from: &Path) -> Folder {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = scratch().join(format!("hostile-{}-folder-{number}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            if !entry.file_name().to_str().unwrap().starts_with("expected") {
                fs::copy(entry.path(), path.join(entry.file_name())).unwrap();
            }
        }
        Folder(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.file(name)).unwrap()
    }

    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        fs::write(self.file(name), bytes).unwrap();
    }

    pub fn remove(&self, name: &str) {
        fs::remove_file(self.file(name)).unwrap();
    }

    pub fn json(&self, name: &str) -> Value {
        serde_json::from_slice(&self.read(name)).unwrap()
    }

    /// Changes a JSON file.
    pub fn edit(&self, name: &str, edit: impl FnOnce(&mut Value)) {
        let mut json = self.json(name);
        edit(&mut json);
        self.write(name, json.to_string());
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The header and the data of a safetensors file.
pub fn split(file: &[u8]) -> (Map<String, Value>, Vec<u8>) {
    let (length, rest) = file.split_at(8);
    let (header, data) = rest.split_at(u64::from_le_bytes(length.try_into().unwrap()) as usize);
    (serde_json::from_slice(header).unwrap(), data.to_vec())
}

pub fn join(header: impl AsRef<[u8]>, data: &[u8]) -> Vec<u8> {
    let header = header.as_ref();
    [&(header.len() as u64).to_le_bytes(), header, data].concat()
}

impl Folder {
    /// Changes the header of a weight file.
    pub fn edit_header(&self, edit: impl FnOnce(&mut Map<String, Value>, &mut Vec<u8>)) {
        let (mut header, mut data) = split(&self.read("model.safetensors"));
        edit(&mut header, &mut data);
        self.write(
            "model.safetensors",
            join(Value::Object(header).to_string(), &data),
        );
        // It would still name the old tensors.
        let _ = fs::remove_file(self.file("model.safetensors.index.json"));
    }
}

/// Loading fails with one of these codes and all of these words, and so does looking at the folder.
pub fn refused_at_sight(what: &str, path: &Path, codes: &[&str], words: &[&str]) {
    folder_case("refused-at-sight", what, path, codes, words);
}

/// Loading may succeed or fail by name; a model that loads also generates or fails by name.
pub fn survives(what: &str, path: &Path) {
    folder_case("survives", what, path, CODES, &[]);
}

/// Loading succeeds, and the model generates.
pub fn loads(what: &str, path: &Path) {
    folder_case("loads", what, path, &[], &[]);
}

/// Loading succeeds, and a request ends with one of these codes and all of these words.
pub fn gives_no_token(what: &str, path: &Path, codes: &[&str], words: &[&str]) {
    folder_case("gives-no-token", what, path, codes, words);
}

/// As `loads`, and one of the warnings that looking at the folder gives has all of these words.
pub fn loads_with_a_warning(what: &str, path: &Path, words: &[&str]) {
    folder_case("warns", what, path, &[], words);
}

fn folder_case(wish: &str, what: &str, path: &Path, codes: &[&str], words: &[&str]) {
    let codes = codes.join(",");
    let path = path.to_str().unwrap();
    case(what, &[&["folder", wish, path, &codes][..], words].concat());
}

/// `folder WISH PATH CODES WORDS...`: the same three times, to see what it leaves behind, and then a good folder.
pub fn child(args: &[&str]) -> Outcome {
    let [wish, path, codes, words @ ..] = args else {
        panic!("folder WISH PATH CODES WORDS...")
    };
    let (path, codes): (_, Vec<&str>) = (Path::new(path), codes.split(',').collect());
    let verdict = leaks_nothing(2, || {
        let model = load(path);
        ensure!(
            *wish != "gives-no-token" || model.is_ok(),
            "it does not load"
        );
        let answered =
            model.and_then(|model| model.session(0).generate(Prompt::Text("Hello"), 3, false));
        match answered {
            Ok(answer) => {
                ensure!(*wish != "refused-at-sight", "it loads");
                ensure!(*wish != "gives-no-token", "it generates: {answer:?}");
                ensure!(answer.tokens.len() == 3, "{answer:?}");
                if *wish == "warns" {
                    warned(path, words)?;
                }
                fine()
            }
            Err(failure) => {
                ensure!(!matches!(*wish, "loads" | "warns"), "{failure:?}");
                if *wish == "refused-at-sight" {
                    match inspect(path) {
                        Ok(json) => return Err(Wrong(format!("inspected: {json}"))),
                        Err(at_sight) => {
                            ensure!(at_sight.message == failure.message, "{at_sight:?}")
                        }
                    };
                }
                named(&failure, &codes, words)
            }
        }
    })?;
    alive()?;
    Ok(verdict)
}

/// A warning about the folder has all of these words.
fn warned(path: &Path, words: &[&str]) -> Result<(), Verdict> {
    let json = inspect(path).map_err(|failure| Wrong(format!("{failure:?}")))?;
    let json: Value = serde_json::from_str(&json).unwrap();
    let about = |warning: &Value| {
        let sentence = warning.as_str().unwrap();
        words.iter().all(|word| sentence.contains(word))
    };
    let warnings = json["warnings"].as_array().unwrap();
    ensure!(warnings.iter().any(about), "{warnings:?}");
    Ok(())
}
