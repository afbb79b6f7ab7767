//! Files and folders by handle. What is opened, made, moved or removed in a folder is found from its handle and never through a
//! link, so that a name that is exchanged meanwhile leads nowhere else; and what was opened is looked at once more by its own
//! handle. Nothing but a regular file is ever opened, as far as one can tell: a FIFO would block, a device may do something.

use std::ffi::{CStr, CString, OsStr, OsString};
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileExt;
use std::path::{Component, Path};
use std::ptr::NonNull;
use std::sync::Arc;

/// What there is under a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    File,
    Folder,
    Link,
    Fifo,
    Socket,
    Device,
}

/// What came of opening a file.
#[derive(Debug)]
pub enum Opened {
    File(File),
    Other(Kind),
}

/// A handle of a folder. It need not be readable: what is in it is found by name.
#[derive(Clone, Debug)]
pub struct Dir(Arc<OwnedFd>);

/// Only to find things from.
#[cfg(any(target_os = "linux", target_os = "android"))]
const SEARCH: i32 = libc::O_PATH;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const SEARCH: i32 = libc::O_RDONLY;
const FOLDER: i32 = libc::O_DIRECTORY | libc::O_CLOEXEC;
const READ: i32 = libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC;

impl Kind {
    fn of(stat: &libc::stat) -> Kind {
        match stat.st_mode & libc::S_IFMT {
            libc::S_IFREG => Kind::File,
            libc::S_IFDIR => Kind::Folder,
            libc::S_IFLNK => Kind::Link,
            libc::S_IFIFO => Kind::Fifo,
            libc::S_IFSOCK => Kind::Socket,
            _ => Kind::Device,
        }
    }

    /// In a sentence.
    pub fn words(self) -> &'static str {
        match self {
            Kind::File => "a file",
            Kind::Folder => "a folder",
            Kind::Link => "a link",
            Kind::Fifo => "a FIFO",
            Kind::Socket => "a socket",
            Kind::Device => "a device",
        }
    }
}

/// Opens a file of the host's, to read it: links are followed.
pub fn open(path: &Path) -> io::Result<Opened> {
    open_from(libc::AT_FDCWD, path.as_os_str(), true)
}

/// What a path leads to, links followed.
pub fn kind(path: &Path) -> io::Result<Kind> {
    kind_from(libc::AT_FDCWD, path.as_os_str(), true)
}

impl Dir {
    /// The folder of a path, links followed: the path is the host's.
    pub fn open(path: &Path) -> io::Result<Dir> {
        open_fd(libc::AT_FDCWD, path.as_os_str(), SEARCH | FOLDER).map(Dir::new)
    }

    fn new(fd: OwnedFd) -> Dir {
        Dir(Arc::new(fd))
    }

    fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// A folder below this one: of so many components, none of them a link.
    pub fn folder(&self, path: impl AsRef<Path>) -> io::Result<Dir> {
        let mut dir = self.clone();
        for component in path.as_ref().components() {
            let flags = SEARCH | FOLDER | libc::O_NOFOLLOW;
            dir = Dir::new(open_fd(dir.fd(), plain(component)?, flags)?);
        }
        Ok(dir)
    }

    /// The folder that this one is in.
    pub fn above(&self) -> io::Result<Dir> {
        open_fd(self.fd(), OsStr::new(".."), SEARCH | FOLDER).map(Dir::new)
    }

    /// What is there under a name; None: nothing.
    pub fn kind(&self, name: impl AsRef<OsStr>) -> io::Result<Option<Kind>> {
        match kind_from(self.fd(), name.as_ref(), false) {
            Ok(kind) => Ok(Some(kind)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Opens a file below this one, to read it; no component of the path may be a link.
    pub fn read(&self, path: impl AsRef<Path>) -> io::Result<Opened> {
        let path = path.as_ref();
        let mut components = path.components();
        let last = components.next_back();
        let name = last.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        let dir = self.folder(components.as_path())?;
        open_from(dir.fd(), plain(name)?, false)
    }

    /// A new file, to write it.
    pub fn create(&self, name: impl AsRef<OsStr>) -> io::Result<File> {
        let new = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW;
        open_fd(self.fd(), name.as_ref(), new | libc::O_CLOEXEC).map(File::from)
    }

    /// A new folder.
    pub fn make(&self, name: impl AsRef<OsStr>) -> io::Result<Dir> {
        let name = name.as_ref();
        let text = c_name(name)?;
        // SAFETY: the handle is open, and `text` is NUL-terminated and outlives the call.
        done(unsafe { libc::mkdirat(self.fd(), text.as_ptr(), 0o777) })?;
        self.folder(Path::new(name))
    }

    /// Moves what has a name here to a name there.
    pub fn rename(
        &self,
        from: impl AsRef<OsStr>,
        to: &Dir,
        name: impl AsRef<OsStr>,
    ) -> io::Result<()> {
        let (from, name) = (c_name(from.as_ref())?, c_name(name.as_ref())?);
        // SAFETY: both handles are open, both names are NUL-terminated and outlive the call.
        done(unsafe { libc::renameat(self.fd(), from.as_ptr(), to.fd(), name.as_ptr()) })
    }

    /// A second name for a file.
    pub fn link(
        &self,
        from: impl AsRef<OsStr>,
        to: &Dir,
        name: impl AsRef<OsStr>,
    ) -> io::Result<()> {
        let (from, name) = (c_name(from.as_ref())?, c_name(name.as_ref())?);
        // SAFETY: as above.
        done(unsafe { libc::linkat(self.fd(), from.as_ptr(), to.fd(), name.as_ptr(), 0) })
    }

    /// Removes a folder without anything in it.
    pub fn remove_empty(&self, name: impl AsRef<OsStr>) -> io::Result<()> {
        self.unlink(name.as_ref(), libc::AT_REMOVEDIR)
    }

    /// Removes a folder of ours and all that is in it, down to a depth that ours have.
    pub fn remove_all(&self, name: impl AsRef<OsStr>, depth: u32) -> io::Result<()> {
        let (name, deeper) = (name.as_ref(), depth.saturating_sub(1));
        let dir = self.folder(Path::new(name))?;
        // All names first: where some are removed meanwhile, a list may leave others out.
        for inside in dir.names()?.collect::<io::Result<Vec<_>>>()? {
            match dir.kind(&inside)? {
                Some(Kind::Folder) if depth > 0 => dir.remove_all(&inside, deeper)?,
                _ => dir.unlink(&inside, 0)?,
            }
        }
        self.remove_empty(name)
    }

    fn unlink(&self, name: &OsStr, flags: i32) -> io::Result<()> {
        let name = c_name(name)?;
        // SAFETY: the handle is open, and the name is NUL-terminated and outlives the call.
        done(unsafe { libc::unlinkat(self.fd(), name.as_ptr(), flags) })
    }

    /// What is in it, in no order, without "." and "..".
    pub fn names(&self) -> io::Result<Names> {
        // A handle of its own: one that only finds things cannot be read, and a place in the list belongs to a handle.
        let fd = open_fd(self.fd(), OsStr::new("."), libc::O_RDONLY | FOLDER)?;
        // SAFETY: `fd` is an open folder.
        let stream = NonNull::new(unsafe { libc::fdopendir(fd.as_raw_fd()) });
        let stream = stream.ok_or_else(io::Error::last_os_error)?;
        // The stream closes it.
        let _ = fd.into_raw_fd();
        Ok(Names(stream))
    }

    /// Puts the names onto the disk.
    pub fn sync(&self) -> io::Result<()> {
        let fd = open_fd(self.fd(), OsStr::new("."), libc::O_RDONLY | FOLDER)?;
        File::from(fd).sync_all()
    }
}

/// The names in a folder.
pub struct Names(NonNull<libc::DIR>);

impl Iterator for Names {
    type Item = io::Result<OsString>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            // The end of the list and an error differ by errno only.
            set_errno(0);
            // SAFETY: the stream is open, and this is the only one who has it.
            let entry = unsafe { libc::readdir(self.0.as_ptr()) };
            if entry.is_null() {
                let error = io::Error::last_os_error();
                return (error.raw_os_error() != Some(0)).then_some(Err(error));
            }
            // SAFETY: the entry and its NUL-terminated name live until the next readdir. (By address: an entry may be shorter
            // than its type.)
            let name = unsafe { CStr::from_ptr((&raw const (*entry).d_name).cast()) };
            if !matches!(name.to_bytes(), b"." | b"..") {
                return Some(Ok(OsString::from_vec(name.to_bytes().to_vec())));
            }
        }
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        // SAFETY: the stream is open and is used no more.
        unsafe { libc::closedir(self.0.as_ptr()) };
    }
}

/// A component that is a name.
fn plain(component: Component<'_>) -> io::Result<&OsStr> {
    match component {
        Component::Normal(name) => Ok(name),
        _ => Err(io::ErrorKind::InvalidInput.into()),
    }
}

fn c_name(name: &OsStr) -> io::Result<CString> {
    CString::new(name.as_bytes()).map_err(|_| io::ErrorKind::InvalidInput.into())
}

fn done(outcome: i32) -> io::Result<()> {
    match outcome {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn open_fd(from: RawFd, name: &OsStr, flags: i32) -> io::Result<OwnedFd> {
    let name = c_name(name)?;
    loop {
        // SAFETY: `from` is an open folder or AT_FDCWD, and the name is NUL-terminated and outlives the call.
        let fd = unsafe { libc::openat(from, name.as_ptr(), flags, 0o666) };
        if fd >= 0 {
            // SAFETY: it was just opened, and nobody else has it.
            return Ok(unsafe { OwnedFd::from_raw_fd(fd) });
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

fn kind_from(from: RawFd, name: &OsStr, follow: bool) -> io::Result<Kind> {
    let name = c_name(name)?;
    let mut stat = MaybeUninit::uninit();
    let flags = if follow { 0 } else { libc::AT_SYMLINK_NOFOLLOW };
    // SAFETY: `from` is an open folder or AT_FDCWD, the name is NUL-terminated, `stat` is writable.
    done(unsafe { libc::fstatat(from, name.as_ptr(), stat.as_mut_ptr(), flags) })?;
    // SAFETY: fstatat filled it.
    Ok(Kind::of(unsafe { stat.assume_init_ref() }))
}

/// Looks before it opens, since opening may do something, and again after, since the name may have been given to another.
fn open_from(from: RawFd, name: &OsStr, follow: bool) -> io::Result<Opened> {
    match kind_from(from, name, follow)? {
        Kind::File => {}
        other => return Ok(Opened::Other(other)),
    }
    let nofollow = if follow { 0 } else { libc::O_NOFOLLOW };
    let fd = open_fd(from, name, READ | nofollow)?;
    let mut stat = MaybeUninit::uninit();
    // SAFETY: `fd` is open, `stat` is writable.
    done(unsafe { libc::fstat(fd.as_raw_fd(), stat.as_mut_ptr()) })?;
    // SAFETY: fstat filled it.
    Ok(match Kind::of(unsafe { stat.assume_init_ref() }) {
        Kind::File => Opened::File(File::from(fd)),
        other => Opened::Other(other),
    })
}

fn set_errno(value: i32) {
    // SAFETY: each gives the address of this thread's own errno.
    unsafe {
        #[cfg(any(target_os = "macos", target_os = "ios"))]
        let errno = libc::__error();
        #[cfg(target_os = "android")]
        let errno = libc::__errno();
        #[cfg(not(any(target_os = "macos", target_os = "ios", target_os = "android")))]
        let errno = libc::__errno_location();
        *errno = value;
    }
}

/// Writes all of it. Beyond the process's limit (RLIMIT_FSIZE) that is an error like any other: the signal that the system sends
/// along, and that would end the process, is held off on this thread and taken back. (Linux sends it to the thread that writes;
/// macOS to the process, where another thread may get it.)
pub fn write_all_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    let held = HeldSignal::hold(libc::SIGXFSZ);
    let written = file.write_all_at(bytes, offset);
    if let Err(error) = &written {
        if error.raw_os_error() == Some(libc::EFBIG) {
            held.forget_one();
        }
    }
    written
}

/// A signal that this thread does not get while this lives.
struct HeldSignal {
    signal: i32,
    /// The thread's mask as it was; None: it stays.
    before: Option<libc::sigset_t>,
    /// One came before, to whoever held it off.
    waits: bool,
}

impl HeldSignal {
    fn only(signal: i32) -> libc::sigset_t {
        let mut set = MaybeUninit::uninit();
        // SAFETY: sigemptyset fills the set, and the signal is one that there is.
        unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            libc::sigaddset(set.as_mut_ptr(), signal);
            set.assume_init()
        }
    }

    fn waits(signal: i32) -> bool {
        let mut set = Self::only(signal);
        // SAFETY: the set is writable, and then what sigpending filled.
        unsafe { libc::sigpending(&mut set) == 0 && libc::sigismember(&set, signal) == 1 }
    }

    fn hold(signal: i32) -> Self {
        let mut before = MaybeUninit::uninit();
        let set = Self::only(signal);
        // SAFETY: both sets are there for the call, which changes the mask of this thread only.
        let held = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set, before.as_mut_ptr()) };
        HeldSignal {
            signal,
            // SAFETY: it was filled.
            before: (held == 0).then(|| unsafe { before.assume_init() }),
            waits: Self::waits(signal),
        }
    }

    /// Takes back the one that our own call brought about.
    fn forget_one(&self) {
        if self.before.is_none() || self.waits || !Self::waits(self.signal) {
            return;
        }
        let set = Self::only(self.signal);
        #[cfg(any(target_os = "macos", target_os = "ios"))]
        {
            let mut taken = 0;
            // SAFETY: the signal is held off here and waits, so that this takes it and returns.
            unsafe { libc::sigwait(&set, &mut taken) };
        }
        #[cfg(not(any(target_os = "macos", target_os = "ios")))]
        {
            let now = libc::timespec {
                tv_sec: 0,
                tv_nsec: 0,
            };
            // SAFETY: the set and the time are there for the call, which waits no time; NULL: nobody asks who sent it.
            unsafe { libc::sigtimedwait(&set, std::ptr::null_mut(), &now) };
        }
    }
}

impl Drop for HeldSignal {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            // SAFETY: it is the mask that this thread had; NULL: nobody asks for the one in between.
            unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before, std::ptr::null_mut()) };
        }
    }
}

#[cfg(test)]
#[path = "files_tests.rs"]
mod tests;
