//! Files that take their place in a folder when all of them are complete and on the disk.
//!
//! They are written into a temporary folder on the same file system. Where the folder that is wanted does not exist, the
//! temporary one becomes it in one step. Where it does, the files are moved one by one, and moved back if that fails.
//! Everything goes from the folder's handle (`files.rs`), so that a folder that is exchanged with a link meanwhile does not take
//! a save, or what it replaces, elsewhere.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::error::{Code, Error, Result};
use crate::files::{self, Dir, Kind};
use crate::words::cut;

pub struct Staging {
    /// For words.
    path: PathBuf,
    /// The folder, where it exists; else the one that it will be in.
    dir: Dir,
    /// Its name in there, where it does not exist.
    name: Option<OsString>,
    /// In `dir`.
    temporary: Dir,
    temporary_name: String,
    /// The folders above it that did not exist either.
    parents: Parents,
    names: Vec<String>,
    /// What was replaced could not be put back and lies there.
    keep: bool,
}

/// How a save is watched.
pub struct SaveOptions<'a> {
    pub deadline: Option<Instant>,
    /// Bytes done, of how many; false stops.
    pub progress: &'a mut dyn FnMut(u64, u64) -> bool,
}

/// A file that is being written.
pub struct NewFile {
    file: File,
    /// Where it will be.
    path: PathBuf,
}

/// Below the temporary folder: what is replaced, until all is in place.
const REPLACED: &str = ".mlxrt-replaced";
/// Folders in the temporary one: `replaced`, and a subfolder of files in it.
const DEPTH: u32 = 2;
/// Names of temporary folders that are tried: a process that was killed leaves one behind, and its number comes again.
const TRIES: u32 = 1_000;

impl Staging {
    /// # Errors
    /// IO names the folder.
    pub fn new(path: &Path) -> Result<Self> {
        let cannot = |error| failed(path, "cannot be made", &error);
        let mut parents = Parents::default();
        let (dir, name, prefix) = match Dir::open(path) {
            // Inside: the folder may be a file system of its own, and its parent may not be writable.
            Ok(dir) => (dir, None, ".mlxrt-".to_owned()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let Some(name) = path.file_name() else {
                    return Err(cannot(io::ErrorKind::InvalidInput.into()));
                };
                let prefix: String = name.to_string_lossy().chars().take(40).collect();
                let dir = parents.make(parent(path)).map_err(cannot)?;
                (dir, Some(name.to_owned()), format!(".{prefix}."))
            }
            Err(error) => {
                return Err(match files::kind(path) {
                    Ok(kind) if kind != Kind::Folder => is_no(path, kind, "folder"),
                    _ => cannot(error),
                })
            }
        };
        let (temporary, temporary_name) = make_temporary(&dir, &prefix).map_err(cannot)?;
        Ok(Staging {
            path: path.to_owned(),
            dir,
            name,
            temporary,
            temporary_name,
            parents,
            names: Vec::new(),
            keep: false,
        })
    }

    /// Whether files can be put there. A folder that does not exist stays so.
    pub fn check(folder: &Path) -> Result<()> {
        Self::new(folder).map(drop)
    }

    /// Begins a file, `name` or `subfolder/name`. The last one that is begun is the last to take its place.
    pub fn create(&mut self, name: &str) -> Result<NewFile> {
        let path = self.path.join(name);
        if self.name.is_none() {
            // Before hours of work; it is looked at again when it is replaced.
            match self.place(name, false).and_then(|place| place.kind()) {
                Ok(kind) => replaceable(&path, kind)?,
                // Its subfolder is made when it takes its place.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(unwritten(&path, &error)),
            }
        }
        let file = Place::new(&self.temporary, &self.path, name, true)
            .and_then(|place| place.dir.create(&place.name))
            .map_err(|error| unwritten(&path, &error))?;
        self.names.push(name.to_owned());
        Ok(NewFile { file, path })
    }

    /// Puts the files in place. Those of the same names are replaced, and those that `is_stale` says yes to go; it is asked of
    /// what is in a folder inside this one where it says yes to that one's name with a slash behind it. `keystone`
    /// is a file without which nobody takes the folder for good: it is not there while the others change, so that an end
    /// of the process in between leaves no mixture that looks whole.
    pub fn commit(mut self, keystone: Option<&str>, is_stale: &dyn Fn(&str) -> bool) -> Result<()> {
        let _ = self.temporary.sync();
        if let Some(name) = &self.name {
            self.dir
                .rename(&self.temporary_name, &self.dir, name)
                .map_err(|error| failed(&self.path, "cannot be made", &error))?;
            self.parents.keep();
        } else {
            let mut moves = Moves::default();
            if let Err(error) = self.replace(keystone, is_stale, &mut moves) {
                self.keep = !moves.undo();
                return Err(error);
            }
        }
        // As far as the file system can: the files themselves are there already.
        let _ = self.dir.sync();
        Ok(())
    }

    /// Where a file of that name is, or will be.
    fn place(&self, name: &str, make: bool) -> io::Result<Place> {
        Place::new(&self.dir, &self.path, name, make)
    }

    fn replace(
        &self,
        keystone: Option<&str>,
        is_stale: &dyn Fn(&str) -> bool,
        moves: &mut Moves,
    ) -> Result<()> {
        let cannot = |error| failed(&self.path, "cannot be written to", &error);
        let replaced = self.temporary.make(REPLACED).map_err(cannot)?;
        let aside = |name: &str| Place::new(&replaced, &self.path, name, true).map_err(cannot);
        let place = |name: &str| self.place(name, true).map_err(cannot);
        // Whether something is there that may be replaced.
        let present = |place: &Place| -> Result<bool> {
            let kind = place.kind().map_err(cannot)?;
            replaceable(&place.path, kind)?;
            Ok(kind.is_some())
        };
        if let Some(name) = keystone {
            let there = place(name)?;
            if present(&there)? {
                moves.make(there, aside(name)?).map_err(cannot)?;
            }
        }
        let own: BTreeSet<&str> = self.names.iter().map(String::as_str).collect();
        let mut files = Vec::new();
        for (name, is_folder) in entries(&self.dir).map_err(cannot)? {
            if !is_folder {
                files.push(name);
            } else if is_stale(&format!("{name}/")) {
                let inside = self.dir.folder(&name).and_then(|inside| entries(&inside));
                let inside = inside.map_err(cannot)?.into_iter();
                let inside = inside.filter(|(_, is_folder)| !is_folder);
                files.extend(inside.map(|(file, _)| format!("{name}/{file}")));
            }
        }
        for name in files.iter().map(String::as_str) {
            if is_stale(name) && !own.contains(name) {
                let there = place(name)?;
                if present(&there)? {
                    moves.make(there, aside(name)?).map_err(cannot)?;
                }
            }
        }
        for name in &self.names {
            let (there, aside) = (place(name)?, aside(name)?);
            if present(&there)? {
                // A second name for it, so that there is one file or the other at any time; where the file system has no
                // such names, it is moved.
                match there.dir.link(&there.name, &aside.dir, &aside.name) {
                    Ok(()) => moves.made.push((there.clone(), aside)),
                    Err(_) => moves.make(there.clone(), aside).map_err(cannot)?,
                }
            }
            let from = Place::new(&self.temporary, &self.path, name, false).map_err(cannot)?;
            moves.make(from, there).map_err(cannot)?;
        }
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.keep {
            // Its own folder, with what it wrote or what was replaced. (It is gone where it has become the one that was wanted.)
            let _ = self.dir.remove_all(&self.temporary_name, DEPTH);
        }
    }
}

/// A new folder in `dir` that nobody else has.
fn make_temporary(dir: &Dir, prefix: &str) -> io::Result<(Dir, String)> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let mut outcome = Err(io::ErrorKind::AlreadyExists.into());
    for _ in 0..TRIES {
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{prefix}{}-{number}.new", std::process::id());
        match dir.make(&name) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => {
                outcome = made.map(|made| (made, name));
                break;
            }
        }
    }
    outcome
}

/// Folders that were made on the way to one. They go again, as far as nobody put something into them, unless they are kept.
#[derive(Default)]
struct Parents {
    made: Vec<(Dir, OsString)>,
}

impl Parents {
    /// Opens a folder, after it and those above it are made.
    fn make(&mut self, path: &Path) -> io::Result<Dir> {
        let mut missing = Vec::new();
        let mut above = path;
        let mut dir = loop {
            match Dir::open(above) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    let name = above.components().next_back();
                    // Not even the folder that the process is in.
                    let name = name.filter(|name| *name != Component::CurDir);
                    missing.push(name.ok_or(error)?);
                    above = parent(above);
                }
                found => break found?,
            }
        };
        for component in missing.into_iter().rev() {
            dir = match component {
                Component::Normal(name) => match dir.make(name) {
                    Ok(made) => {
                        self.made.push((dir, name.to_owned()));
                        made
                    }
                    // Somebody else just did.
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                        dir.folder(name)?
                    }
                    Err(error) => return Err(error),
                },
                Component::ParentDir => dir.above()?,
                _ => dir,
            };
        }
        Ok(dir)
    }

    fn keep(&mut self) {
        self.made.clear();
    }
}

impl Drop for Parents {
    fn drop(&mut self) {
        for (dir, name) in self.made.drain(..).rev() {
            let _ = dir.remove_empty(name);
        }
    }
}

/// A file of the folder, or of one of its own in it, which is never a link.
#[derive(Clone)]
struct Place {
    dir: Dir,
    name: String,
    /// For words.
    path: PathBuf,
}

impl Place {
    /// `name` or `subfolder/name`; with `make` the subfolder is made where it is not there.
    fn new(dir: &Dir, path: &Path, name: &str, make: bool) -> io::Result<Place> {
        let path = path.join(name);
        let Some((subfolder, file)) = name.split_once('/') else {
            let (dir, name) = (dir.clone(), name.to_owned());
            return Ok(Place { dir, name, path });
        };
        let inside = match dir.folder(subfolder) {
            Err(error) if make && error.kind() == io::ErrorKind::NotFound => dir.make(subfolder)?,
            found => found?,
        };
        let (dir, name) = (inside, file.to_owned());
        Ok(Place { dir, name, path })
    }

    fn kind(&self) -> io::Result<Option<Kind>> {
        self.dir.kind(&self.name)
    }
}

/// Nothing but a file, or a link itself, is replaced.
fn replaceable(path: &Path, kind: Option<Kind>) -> Result<()> {
    match kind {
        None | Some(Kind::File | Kind::Link) => Ok(()),
        Some(kind) => Err(is_no(path, kind, "regular file")),
    }
}

fn is_no(path: &Path, kind: Kind, wanted: &str) -> Error {
    let (path, kind) = (shown(path), kind.words());
    Error::new(Code::Io, format!("{path} is {kind}, not a {wanted}"))
}

/// Renames, from and to, in order.
#[derive(Default)]
struct Moves {
    made: Vec<(Place, Place)>,
}

impl Moves {
    fn make(&mut self, from: Place, to: Place) -> io::Result<()> {
        from.dir.rename(&from.name, &to.dir, &to.name)?;
        self.made.push((from, to));
        Ok(())
    }

    /// False: not everything is back.
    fn undo(&mut self) -> bool {
        let mut whole = true;
        for (from, to) in self.made.drain(..).rev() {
            if let Err(error) = to.dir.rename(&to.name, &from.dir, &from.name) {
                let path = shown(&from.path);
                crate::log::error!("{path} cannot be put back: {error}");
                whole = false;
            }
        }
        whole
    }
}

impl SaveOptions<'_> {
    /// # Errors
    /// CANCELLED, TIMEOUT.
    pub fn check(&mut self, done: u64, total: u64) -> Result<()> {
        if self.deadline.is_some_and(|at| Instant::now() >= at) {
            let message = "saving took longer than timeout_ms";
            return Err(Error::new(Code::Timeout, message));
        }
        match (self.progress)(done, total) {
            true => Ok(()),
            false => Err(Error::new(
                Code::Cancelled,
                "saving was stopped by the progress callback",
            )),
        }
    }
}

impl NewFile {
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        files::write_all_at(&self.file, bytes, offset)
            .map_err(|error| unwritten(&self.path, &error))
    }

    /// To the disk.
    pub fn finish(self) -> Result<()> {
        self.file
            .sync_all()
            .map_err(|error| unwritten(&self.path, &error))
    }
}

/// The names in a folder, and whether each is a folder itself.
fn entries(folder: &Dir) -> io::Result<Vec<(String, bool)>> {
    let mut names = Vec::new();
    for name in folder.names()? {
        if let Ok(name) = name?.into_string() {
            let is_folder = folder.kind(&name)? == Some(Kind::Folder);
            names.push((name, is_folder));
        }
    }
    Ok(names)
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

fn shown(path: &Path) -> String {
    cut(&path.to_string_lossy(), 400).into_owned()
}

fn failed(path: &Path, what: &str, error: &io::Error) -> Error {
    Error::new(Code::Io, format!("{} {what}: {error}", shown(path)))
}

fn unwritten(path: &Path, error: &io::Error) -> Error {
    failed(path, "cannot be written", error)
}
