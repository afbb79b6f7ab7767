//! The model folder: found by path or in the local Hugging Face cache, and read without leaving it.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::error::{Code, Error, Result};
use crate::files::{self, Dir, Kind, Opened};
use crate::watch;
use crate::words::quoted;

/// Bytes between two looks at the watch.
const READ_STEP: usize = 4 << 20;

/// A folder whose files can be read by name. A name is one plain component; links are followed, but only
/// to files inside the folder, or, for a snapshot of the Hugging Face cache, inside that model's part of it, unless the
/// host allows others. Everything is opened from the folder's handle: where a path says something else meanwhile, it is found
/// in the folder that was opened, or not at all.
#[derive(Clone, Debug)]
pub struct ModelFolder {
    handle: Dir,
    /// Where it was when it was opened; for words, and to find out where its links lead.
    dir: PathBuf,
    /// What links may not leave: `dir` itself, or the cache's `models--org--name` above it.
    root: PathBuf,
    root_handle: Dir,
    links: Links,
}

/// Where the links of a folder may lead.
#[derive(Clone, Copy, Debug)]
enum Links {
    /// Nowhere but inside, and there is a flag that allows more.
    Inside,
    /// Nowhere but inside.
    OnlyInside,
    Anywhere,
}

impl ModelFolder {
    /// Finds the folder. `path` names a folder or, where there is none, a model `org/name` that is already
    /// in the local cache (`HF_HUB_CACHE`, else `HF_HOME/hub`, else `~/.cache/huggingface/hub`).
    ///
    /// Errors: `InvalidArgument` for an empty path or a file, `NotFound` where there is nothing.
    pub fn open(path: &str) -> Result<ModelFolder> {
        check_path("model", path)?;
        Self::open_in(path, hub_cache(|name| std::env::var_os(name)))
    }

    /// [`Self::open`] for an adapter, whose path may also name one file: the folder, and that file's name in it.
    pub(super) fn open_adapter(path: &str) -> Result<(ModelFolder, Option<String>)> {
        check_path("adapter", path)?;
        let file = Path::new(path);
        if !file.is_file() {
            let folder = Self::open_in(path, hub_cache(|name| std::env::var_os(name)))?;
            return Ok((folder.keeping_inside(), None));
        }
        let shown = quoted(path, 400);
        let name = file.file_name().and_then(|name| name.to_str());
        let Some(name) = name.filter(|name| name.ends_with(".safetensors")) else {
            return Err(Error::invalid(format!(
                "the adapter path {shown} is neither a folder nor a .safetensors file"
            )));
        };
        let above = match file.parent() {
            Some(above) if above != Path::new("") => above,
            _ => Path::new("."),
        };
        let folder = Self::at(above).map_err(|e| no_folder(&shown, &e))?;
        Ok((folder.keeping_inside(), Some(name.to_string())))
    }

    /// The same folder, whose links may lead anywhere if the host says so (`MLXRT_LOAD_FOLLOW_LINKS`).
    pub fn following_links(self, follow: bool) -> ModelFolder {
        match follow {
            true => ModelFolder {
                links: Links::Anywhere,
                ..self
            },
            false => self,
        }
    }

    fn keeping_inside(self) -> ModelFolder {
        ModelFolder {
            links: Links::OnlyInside,
            ..self
        }
    }

    fn open_in(path: &str, cache: Option<PathBuf>) -> Result<ModelFolder> {
        let shown = quoted(path, 400);
        match fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => {
                Self::at(Path::new(path)).map_err(|e| no_folder(&shown, &e))
            }
            Ok(metadata) if metadata.is_file() => Err(Error::invalid(format!(
                "the model path {shown} is a file, not a folder{}",
                match path.ends_with(".safetensors") {
                    true => "; give the folder that it lies in".to_string(),
                    false => format!(": {WHAT_IS_READ}"),
                }
            ))),
            Ok(_) => Err(Error::invalid(format!(
                "the model path {shown} is not a folder"
            ))),
            Err(error) if is_absent(&error) => match hub_entry_name(path) {
                Some(entry) => Self::in_cache(&shown, &entry, cache),
                None => Err(Error::new(
                    Code::NotFound,
                    format!("there is no folder {shown}"),
                )),
            },
            Err(error) => Err(no_folder(&shown, &error)),
        }
    }

    /// The snapshot that `refs/main` of a cached model names.
    fn in_cache(shown: &str, entry: &str, cache: Option<PathBuf>) -> Result<ModelFolder> {
        let Some(cache) = cache else {
            let message = format!("there is no folder {shown}, and no home folder to look for a Hugging Face cache in");
            return Err(Error::new(Code::NotFound, message));
        };
        let base = cache.join(entry);
        let looked_at = quoted(&base.to_string_lossy(), 400);
        let absent = |what: &str| {
            Error::new(Code::NotFound, format!("there is no folder {shown}, and {what} in the Hugging Face cache at {looked_at}"))
        };
        if !base.is_dir() {
            return Err(absent("no such model"));
        }
        let refs = Self::at(&base).ok();
        let refs = refs.and_then(|base| base.subfolder("refs").ok().flatten());
        let refs = refs.ok_or_else(|| absent("no refs/main"))?;
        let commit = refs
            .read("main", 256)?
            .ok_or_else(|| absent("no refs/main"))?;
        let commit = String::from_utf8_lossy(&commit);
        let commit = commit.trim();
        check_name(commit).map_err(|why| {
            Error::bad_model(format!(
                "refs/main in the Hugging Face cache at {looked_at}: the commit {why}"
            ))
        })?;
        let snapshot = base.join("snapshots").join(commit);
        if !snapshot.is_dir() {
            return Err(absent(&format!("no snapshot {}", quoted(commit, 80))));
        }
        let folder = Self::at(&snapshot).map_err(|e| no_folder(shown, &e))?;
        match fs::canonicalize(&base) {
            Ok(base) if folder.dir.starts_with(&base) => Ok(folder),
            _ => Err(Error::bad_model(format!(
                "the snapshot of {shown} in the Hugging Face cache at {looked_at} is a link that leaves it"
            ))),
        }
    }

    fn at(path: &Path) -> io::Result<ModelFolder> {
        let dir = fs::canonicalize(path)?;
        let root = hub_root(&dir).unwrap_or(&dir).to_path_buf();
        let root_handle = Dir::open(&root)?;
        let below = dir.strip_prefix(&root).unwrap_or(Path::new(""));
        Ok(ModelFolder {
            handle: root_handle.folder(below)?,
            root_handle,
            dir,
            root,
            links: Links::Inside,
        })
    }

    /// Where the folder is, links resolved.
    #[cfg(test)]
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// The whole of a file of at most `cap` bytes; None when there is none of that name.
    pub fn read(&self, name: &str, cap: u64) -> Result<Option<Vec<u8>>> {
        let Some(mut file) = self.open_present(name)? else {
            return Ok(None);
        };
        let size = file.metadata().map_err(|e| cannot_read(name, &e))?.len();
        if size > cap {
            return Err(Error::bad_model(format!(
                "{name}: is {size} bytes, more than the {cap} that are accepted"
            )));
        }
        let too_large = || {
            Error::new(
                Code::OutOfMemory,
                format!("{name}: no memory for its {size} bytes"),
            )
        };
        let length = usize::try_from(size).map_err(|_| too_large())?;
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(length).map_err(|_| too_large())?;
        bytes.resize(length, 0);
        for part in bytes.chunks_mut(READ_STEP) {
            watch::look()?;
            file.read_exact(part).map_err(|e| cannot_read(name, &e))?;
        }
        match bytes.starts_with(LFS_POINTER) {
            true => Err(lfs_pointer(name)),
            false => Ok(Some(bytes)),
        }
    }

    /// The error for a folder without any model*.safetensors: what it holds instead, and the cure.
    pub fn no_weights(&self) -> Error {
        let message = format!("the folder {} holds no model*.safetensors", self.shown());
        self.with_cure(message)
    }

    /// [`Self::no_weights`] for config.json.
    pub fn no_config(&self) -> Error {
        self.with_cure(self.missing("config.json").message)
    }

    fn with_cure(&self, message: String) -> Error {
        // What people download instead.
        let other = [".gguf", ".bin", ".pth", ".npz"]
            .into_iter()
            .find_map(|end| {
                let names = self.list("", end, 10_000).unwrap_or_default();
                names.into_iter().next()
            });
        Error::bad_model(match other {
            None => message,
            Some(other) => format!("{message}, but {}: {WHAT_IS_READ}", quoted(&other, 80)),
        })
    }

    /// [`Self::read`] for a file that a model cannot do without.
    pub fn read_required(&self, name: &str, cap: u64) -> Result<Vec<u8>> {
        self.read(name, cap)?.ok_or_else(|| self.missing(name))
    }

    /// Whether there is a file of that name that can be opened.
    pub fn has(&self, name: &str) -> bool {
        matches!(self.open_present(name), Ok(Some(_)))
    }

    /// Opens a file that must be there.
    #[cfg(test)]
    pub fn open_file(&self, name: &str) -> Result<File> {
        self.open_present(name)?.ok_or_else(|| self.missing(name))
    }

    /// The names that start and end so, sorted; an error when there are more than `max`.
    pub fn list(&self, prefix: &str, suffix: &str, max: usize) -> Result<Vec<String>> {
        let failed = |e: io::Error| {
            Error::new(
                Code::Io,
                format!("cannot list the folder {}: {e}", self.shown()),
            )
        };
        let mut names = Vec::new();
        for name in self.handle.names().map_err(failed)? {
            // A name that is not Unicode shows replacement characters here, and is not found when opened.
            let name = name.map_err(failed)?.to_string_lossy().into_owned();
            if !name.starts_with(prefix) || !name.ends_with(suffix) {
                continue;
            }
            if names.len() >= max {
                let what = format!("holds more than {max} files {prefix}*{suffix}");
                return Err(Error::bad_model(format!(
                    "the folder {} {what}",
                    self.shown()
                )));
            }
            names.push(name);
        }
        names.sort();
        Ok(names)
    }

    /// A folder inside this one; None where there is none of that name. Links are held to the same root.
    pub fn subfolder(&self, name: &str) -> Result<Option<ModelFolder>> {
        check_name(name).map_err(|why| Error::bad_model(format!("the folder name {why}")))?;
        let failed = |e| cannot_read(name, &e);
        let (handle, dir) = match self.handle.kind(name).map_err(failed)? {
            Some(Kind::Folder) => (self.handle.folder(name), self.dir.join(name)),
            Some(Kind::Link) => {
                let real = match fs::canonicalize(self.dir.join(name)) {
                    Ok(real) => real,
                    Err(error) if is_absent(&error) => return Ok(None),
                    Err(error) => return Err(failed(error)),
                };
                self.check_inside(name, &real)?;
                if !real.is_dir() {
                    return Ok(None);
                }
                let handle = match real.strip_prefix(&self.root) {
                    Ok(below) => self.root_handle.folder(below),
                    Err(_) => Dir::open(&real),
                };
                (handle, real)
            }
            _ => return Ok(None),
        };
        Ok(Some(ModelFolder {
            handle: handle.map_err(failed)?,
            dir,
            ..self.clone()
        }))
    }

    /// What a name leads to may be used.
    fn check_inside(&self, name: &str, real: &Path) -> Result<()> {
        let cure = match self.links {
            Links::Anywhere => None,
            Links::Inside => Some("; MLXRT_LOAD_FOLLOW_LINKS allows it"),
            Links::OnlyInside => Some(""),
        };
        match cure.filter(|_| !real.starts_with(&self.root)) {
            None => Ok(()),
            Some(cure) => Err(Error::bad_model(format!(
                "{name}: is a link that leaves the folder{cure}"
            ))),
        }
    }

    /// The folder's path in quotes, for errors.
    pub(super) fn shown(&self) -> String {
        quoted(&self.dir.to_string_lossy(), 400)
    }

    pub(super) fn missing(&self, name: &str) -> Error {
        Error::bad_model(format!(
            "{name}: is missing from the folder {}",
            self.shown()
        ))
    }

    /// Opens a file; None when there is none of that name.
    pub(super) fn open_present(&self, name: &str) -> Result<Option<File>> {
        check_name(name).map_err(|why| Error::bad_model(format!("the file name {why}")))?;
        let opened = match self.handle.kind(name) {
            Ok(None) => return Ok(None),
            Ok(Some(Kind::Link)) => self.open_link(name)?,
            Ok(Some(_)) => self.handle.read(name),
            Err(error) => Err(error),
        };
        match opened.map_err(|e| cannot_read(name, &e))? {
            Opened::File(file) => Ok(Some(file)),
            Opened::Other(kind) => Err(Error::bad_model(not_regular(name, kind))),
        }
    }

    /// Opens what a link leads to. Where that is comes of paths, which may be other folders' by now; so what is inside is
    /// opened from the handle, without a link on its way.
    fn open_link(&self, name: &str) -> Result<io::Result<Opened>> {
        let real = match fs::canonicalize(self.dir.join(name)) {
            Ok(real) => real,
            Err(error) if is_absent(&error) => {
                return Err(Error::bad_model(format!(
                    "{name}: is a link to a file that is not there"
                )));
            }
            Err(error) => return Err(cannot_read(name, &error)),
        };
        self.check_inside(name, &real)?;
        Ok(match real.strip_prefix(&self.root) {
            // The root itself.
            Ok(below) if below == Path::new("") => Ok(Opened::Other(Kind::Folder)),
            Ok(below) => self.root_handle.read(below),
            Err(_) => files::open(&real),
        })
    }
}

/// What to do with a model in another form.
const WHAT_IS_READ: &str = "mlxrt reads folders in mlx-lm's form (config.json, tokenizer.json, model*.safetensors), such \
    as those of mlx-community on Hugging Face; \"mlx_lm.convert --hf-path ORG/NAME\" makes one of the model's original \
    repository, a GGUF file cannot be converted";

fn check_path(what: &str, path: &str) -> Result<()> {
    if path.is_empty() {
        return Err(Error::invalid(format!("the {what} path is empty")));
    }
    if path.contains('\0') {
        let why = format!("the {what} path holds a NUL character");
        return Err(Error::invalid(why));
    }
    Ok(())
}

/// A name that stays inside its folder: one normal component. The error continues a sentence.
pub(super) fn check_name(name: &str) -> std::result::Result<(), String> {
    let why = match name {
        "" => "is empty",
        "." | ".." => "is not a plain file name",
        _ if name.contains('/') || name.contains('\\') => "is a path, not a plain file name",
        _ if name.contains('\0') => "holds a NUL character",
        _ if name.len() > 255 => "is longer than 255 bytes",
        _ => return Ok(()),
    };
    Err(format!("{} {why}", quoted(name, 80)))
}

fn not_regular(name: &str, kind: Kind) -> String {
    format!("{name}: is {}, not a regular file", kind.words())
}

/// What lies in the place of a large file that Git has not fetched begins so.
pub(super) const LFS_POINTER: &[u8] = b"version https://git-lfs";

pub(super) fn lfs_pointer(name: &str) -> Error {
    Error::bad_model(format!(
        "{name}: is a Git LFS pointer and not the file itself; \"git lfs pull\" fetches it"
    ))
}

pub(super) fn cannot_read(name: &str, error: &io::Error) -> Error {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        return Error::bad_model(format!("{name}: became shorter while it was read"));
    }
    Error::new(Code::Io, format!("{name}: cannot be read: {error}"))
}

fn no_folder(shown: &str, error: &io::Error) -> Error {
    Error::new(
        Code::Io,
        format!("the folder {shown} cannot be opened: {error}"),
    )
}

fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::InvalidFilename
    )
}

/// `models--org--name` above a folder `models--org--name/snapshots/<commit>`.
fn hub_root(dir: &Path) -> Option<&Path> {
    let snapshots = dir.parent()?;
    let model = snapshots.parent()?;
    let is_hub = snapshots.file_name()? == "snapshots"
        && model.file_name()?.to_str()?.starts_with("models--");
    is_hub.then_some(model)
}

/// The cache's folder name for a Hugging Face id; None for what is not `org/name`.
fn hub_entry_name(id: &str) -> Option<String> {
    let (org, name) = id.split_once('/')?;
    let plain = |part: &str| {
        let ends_plain = !part.starts_with(['-', '.']) && !part.ends_with(['-', '.']);
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        (1..=96).contains(&part.len()) && ends_plain && part.chars().all(allowed)
    };
    // The hub forbids "--" and ".." in names, which keeps the cache's names unambiguous.
    let clear = !id.contains("--") && !id.contains("..");
    (plain(org) && plain(name) && clear).then(|| format!("models--{org}--{name}"))
}

/// Where the Hugging Face libraries keep their files.
fn hub_cache(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let set = |name: &str| variable(name).filter(|value| !value.is_empty());
    let home = || set("HOME").map(PathBuf::from).or_else(std::env::home_dir);
    let expand = |value: OsString| match Path::new(&value).strip_prefix("~") {
        Ok(rest) => home().map(|home| home.join(rest)),
        Err(_) => Some(PathBuf::from(value)),
    };
    if let Some(cache) = set("HF_HUB_CACHE") {
        return expand(cache);
    }
    if let Some(base) = set("HF_HOME") {
        return Some(expand(base)?.join("hub"));
    }
    let base = match set("XDG_CACHE_HOME") {
        Some(base) => expand(base)?,
        None => home()?.join(".cache"),
    };
    Some(base.join("huggingface").join("hub"))
}

#[cfg(test)]
#[path = "folder_tests.rs"]
mod tests;
