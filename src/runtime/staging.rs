//! Files that take their place in a folder when all of them are complete and on the disk.
//!
//! They are written into a temporary folder on the same file system. Where the folder that is wanted does not exist, the
//! temporary one becomes it in one step. Where it does, the files are moved one by one, and moved back if that fails.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::error::{Code, Error, Result};

pub struct Staging {
    folder: PathBuf,
    exists: bool,
    temporary: PathBuf,
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
const REPLACED: &str = "replaced";

impl Staging {
    /// # Errors
    /// IO names the folder.
    pub fn new(folder: &Path) -> Result<Self> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let own = format!("{}-{number}.new", std::process::id());
        let cannot = |error| failed(folder, "cannot be made", &error);
        let exists = match fs::metadata(folder) {
            Ok(metadata) if metadata.is_dir() => true,
            Ok(_) => {
                let message = format!("{} is a file, not a folder", folder.display());
                return Err(Error::new(Code::Io, message));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => return Err(cannot(error)),
        };
        let temporary = if exists {
            // Inside: the folder may be a file system of its own, and its parent may not be writable.
            folder.join(format!(".mlxrt-{own}"))
        } else {
            let Some(name) = folder.file_name() else {
                return Err(cannot(io::ErrorKind::InvalidInput.into()));
            };
            let parent = parent(folder);
            fs::create_dir_all(parent).map_err(cannot)?;
            parent.join(format!(".{}.{own}", name.to_string_lossy()))
        };
        fs::create_dir(&temporary).map_err(cannot)?;
        Ok(Staging {
            folder: folder.to_owned(),
            exists,
            temporary,
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
        let path = self.folder.join(name);
        let file = make_subfolder(&self.temporary, name)
            .and_then(|()| File::create(self.temporary.join(name)))
            .map_err(|error| failed(&path, "cannot be written", &error))?;
        self.names.push(name.to_owned());
        Ok(NewFile { file, path })
    }

    /// Puts the files in place. Those of the same names are replaced, and those that `is_stale` says yes to go; it is asked of
    /// what is in a folder inside this one where it says yes to that one's name with a slash behind it. `keystone`
    /// is a file without which nobody takes the folder for good: it is not there while the others change, so that an end
    /// of the process in between leaves no mixture that looks whole.
    pub fn commit(mut self, keystone: Option<&str>, is_stale: &dyn Fn(&str) -> bool) -> Result<()> {
        sync_folder(&self.temporary);
        if !self.exists {
            fs::rename(&self.temporary, &self.folder)
                .map_err(|error| failed(&self.folder, "cannot be made", &error))?;
            sync_folder(parent(&self.folder));
            return Ok(());
        }
        let mut moves = Moves::default();
        if let Err(error) = self.replace(keystone, is_stale, &mut moves) {
            self.keep = !moves.undo();
            return Err(failed(&self.folder, "cannot be written to", &error));
        }
        sync_folder(&self.folder);
        Ok(())
    }

    fn replace(
        &self,
        keystone: Option<&str>,
        is_stale: &dyn Fn(&str) -> bool,
        moves: &mut Moves,
    ) -> io::Result<()> {
        let replaced = self.temporary.join(REPLACED);
        fs::create_dir(&replaced)?;
        // What is there under a name; a folder of that name is nothing to replace.
        let present = |name: &str| match self.folder.join(name).symlink_metadata() {
            Ok(metadata) if metadata.is_dir() => Err(io::Error::from(io::ErrorKind::IsADirectory)),
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        };
        if let Some(name) = keystone {
            if present(name)? {
                moves.make(self.folder.join(name), replaced.join(name))?;
            }
        }
        let own: BTreeSet<&str> = self.names.iter().map(String::as_str).collect();
        let mut files = Vec::new();
        for (name, is_folder) in entries(&self.folder)? {
            if !is_folder {
                files.push(name);
            } else if is_stale(&format!("{name}/")) {
                let inside = entries(&self.folder.join(&name))?.into_iter();
                let inside = inside.filter(|(_, is_folder)| !is_folder);
                files.extend(inside.map(|(file, _)| format!("{name}/{file}")));
            }
        }
        for name in files.iter().map(String::as_str) {
            if is_stale(name) && !own.contains(name) {
                make_subfolder(&replaced, name)?;
                moves.make(self.folder.join(name), replaced.join(name))?;
            }
        }
        for name in &self.names {
            make_subfolder(&self.folder, name)?;
            make_subfolder(&replaced, name)?;
            let place = self.folder.join(name);
            if present(name)? {
                // A second name for it, so that there is one file or the other at any time; where the file system has no
                // such names, it is moved.
                match fs::hard_link(&place, replaced.join(name)) {
                    Ok(()) => moves.made.push((place.clone(), replaced.join(name))),
                    Err(_) => moves.make(place.clone(), replaced.join(name))?,
                }
            }
            moves.make(self.temporary.join(name), place)?;
        }
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.keep {
            // Its own folder, with what it wrote or what was replaced.
            let _ = fs::remove_dir_all(&self.temporary);
        }
    }
}

/// Renames, from and to, in order.
#[derive(Default)]
struct Moves {
    made: Vec<(PathBuf, PathBuf)>,
}

impl Moves {
    fn make(&mut self, from: PathBuf, to: PathBuf) -> io::Result<()> {
        fs::rename(&from, &to)?;
        self.made.push((from, to));
        Ok(())
    }

    /// False: not everything is back.
    fn undo(&mut self) -> bool {
        let mut whole = true;
        for (from, to) in self.made.drain(..).rev() {
            if let Err(error) = fs::rename(&to, &from) {
                let (to, from) = (to.display(), from.display());
                crate::log::error!("{to} cannot be put back as {from}: {error}");
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
        self.file
            .write_all_at(bytes, offset)
            .map_err(|error| failed(&self.path, "cannot be written", &error))
    }

    /// To the disk.
    pub fn finish(self) -> Result<()> {
        self.file
            .sync_all()
            .map_err(|error| failed(&self.path, "cannot be written", &error))
    }
}

/// The folder that `subfolder/name` is in; never behind a link.
fn make_subfolder(folder: &Path, name: &str) -> io::Result<()> {
    let Some((subfolder, _)) = name.split_once('/') else {
        return Ok(());
    };
    let path = folder.join(subfolder);
    match fs::symlink_metadata(&path) {
        Ok(metadata) if metadata.is_dir() => Ok(()),
        Ok(_) => Err(io::ErrorKind::NotADirectory.into()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => fs::create_dir(&path),
        Err(error) => Err(error),
    }
}

/// The names in a folder, and whether each is a folder itself.
fn entries(folder: &Path) -> io::Result<Vec<(String, bool)>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if let Ok(name) = entry.file_name().into_string() {
            names.push((name, entry.file_type()?.is_dir()));
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

/// As far as the file system can: the files themselves are there already.
fn sync_folder(path: &Path) {
    let _ = File::open(path).and_then(|folder| folder.sync_all());
}

fn failed(path: &Path, what: &str, error: &io::Error) -> Error {
    Error::new(Code::Io, format!("{} {what}: {error}", path.display()))
}
