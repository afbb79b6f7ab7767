use std::fs;
use std::os::unix::fs::symlink;

use super::*;
use crate::load::testing::TempFolder;

fn fifo(path: &Path) {
    let path = CString::new(path.as_os_str().as_bytes()).unwrap();
    // SAFETY: `path` is a NUL-terminated string that outlives the call.
    assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0);
}

fn text(opened: io::Result<Opened>) -> String {
    match opened.unwrap() {
        Opened::File(file) => io::read_to_string(file).unwrap(),
        Opened::Other(kind) => kind.words().to_owned(),
    }
}

/// A folder with one of each kind, and links to them.
fn kinds() -> (TempFolder, Vec<(&'static str, Kind)>) {
    let temp = TempFolder::new();
    temp.write("in/file", "inside");
    temp.write("in/folder/file", "deep");
    temp.write("out", "outside");
    let at = |name: &str| temp.path().join("in").join(name);
    fifo(&at("fifo"));
    drop(std::os::unix::net::UnixListener::bind(at("socket")).unwrap());
    for (to, name) in [
        ("file", "to-file"),
        ("folder", "to-folder"),
        ("fifo", "to-fifo"),
        ("../out", "to-out"),
        ("/dev/zero", "to-device"),
        ("to-itself", "to-itself"),
        ("nowhere", "to-nothing"),
    ] {
        symlink(to, at(name)).unwrap();
    }
    let kinds = [
        ("file", Kind::File),
        ("folder", Kind::Folder),
        ("fifo", Kind::Fifo),
        ("socket", Kind::Socket),
    ];
    (temp, kinds.into())
}

#[test]
fn nothing_but_files_is_opened_and_nothing_is_waited_for() {
    let (temp, kinds) = kinds();
    let dir = Dir::open(&temp.path().join("in")).unwrap();
    for (name, kind) in kinds {
        assert_eq!(dir.kind(name).unwrap(), Some(kind));
        let path = temp.path().join("in").join(name);
        assert_eq!(self::kind(&path).unwrap(), kind);
        let expected = match kind {
            Kind::File => "inside",
            other => other.words(),
        };
        assert_eq!(text(dir.read(name)), expected);
        assert_eq!(text(open(&path)), expected);
    }
    // The host's own paths may be links, and what they lead to is looked at.
    let at = |name: &str| temp.path().join("in").join(name);
    assert_eq!(text(open(&at("to-file"))), "inside");
    assert_eq!(text(open(&at("to-out"))), "outside");
    assert_eq!(text(open(&at("to-fifo"))), "a FIFO");
    assert_eq!(text(open(&at("to-device"))), "a device");
    assert_eq!(text(open(&at("to-folder"))), "a folder");
    assert!(open(&at("to-itself")).is_err());
    let absent = open(&at("to-nothing")).unwrap_err();
    assert_eq!(absent.kind(), io::ErrorKind::NotFound);
}

#[test]
fn no_link_is_followed_below_a_folder() {
    let (temp, _) = kinds();
    let dir = Dir::open(&temp.path().join("in")).unwrap();
    for name in ["to-file", "to-out", "to-fifo", "to-device", "to-itself"] {
        assert_eq!(dir.kind(name).unwrap(), Some(Kind::Link));
        assert_eq!(text(dir.read(name)), "a link");
    }
    assert_eq!(text(dir.read("folder/file")), "deep");
    assert_eq!(text(dir.folder("folder").unwrap().read("file")), "deep");
    for path in [
        "to-folder/file",
        "../out",
        "folder/../file",
        "/etc/passwd",
        "",
        ".",
        "..",
    ] {
        assert!(dir.read(path).is_err(), "{path}");
    }
    for path in ["to-folder", "..", "folder/..", "file", "/", "to-nothing"] {
        assert!(dir.folder(path).is_err(), "{path}");
    }
    assert_eq!(dir.kind("nothing").unwrap(), None);
}

#[test]
fn a_handle_stays_where_it_was_opened() {
    let temp = TempFolder::new();
    temp.write("a/file", "the old one");
    temp.write("b/file", "another");
    let at = |name: &str| temp.path().join(name);
    let dir = Dir::open(&at("a")).unwrap();
    fs::rename(at("a"), at("moved")).unwrap();
    symlink("b", at("a")).unwrap();
    assert_eq!(text(dir.read("file")), "the old one");
    dir.create("new").unwrap();
    dir.make("sub").unwrap().create("x").unwrap();
    dir.rename("file", &dir.folder("sub").unwrap(), "y")
        .unwrap();
    let mut names: Vec<_> = dir.names().unwrap().map(Result::unwrap).collect();
    names.sort();
    assert_eq!(names, ["new", "sub"]);
    assert!(!at("b/new").exists() && at("moved/new").exists());
    assert_eq!(fs::read(at("moved/sub/y")).unwrap(), b"the old one");
    dir.sync().unwrap();
    dir.remove_all("sub", 0).unwrap();
    assert!(!at("moved/sub").exists());
}

#[test]
fn a_link_in_the_place_of_a_folder_of_ours_is_not_emptied() {
    let temp = TempFolder::new();
    temp.write("precious/file", "");
    temp.write("in/x/deep/file", "");
    let dir = Dir::open(&temp.path().join("in")).unwrap();
    symlink("../precious", temp.path().join("in/ours")).unwrap();
    symlink("../../precious", temp.path().join("in/x/ours")).unwrap();
    assert!(dir.remove_all("ours", 3).is_err());
    assert!(dir.remove_all("x", 0).is_err());
    assert!(temp.path().join("in/x/deep/file").exists());
    dir.remove_all("x", 1).unwrap();
    assert!(temp.path().join("precious/file").exists());
}

#[test]
fn new_files_are_new() {
    let (temp, _) = kinds();
    let dir = Dir::open(&temp.path().join("in")).unwrap();
    for name in ["file", "fifo", "to-out", "to-nothing", "folder"] {
        assert_eq!(
            dir.create(name).unwrap_err().kind(),
            io::ErrorKind::AlreadyExists,
            "{name}"
        );
    }
    assert!(dir.make("to-folder").is_err());
}

/// With a limit of 1000 bytes on files, which is the process's, so that this is a process of its own.
#[test]
fn a_file_beyond_the_limit_is_an_error_and_no_signal() {
    const CHILD: &str = "MLXRT_TEST_FILE_LIMIT";
    let name = "files::tests::a_file_beyond_the_limit_is_an_error_and_no_signal";
    if std::env::var_os(CHILD).is_none() {
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name])
            .env(CHILD, "1")
            .output()
            .unwrap();
        assert!(child.status.success(), "{child:?}");
        return;
    }
    let temp = TempFolder::new();
    let dir = Dir::open(temp.path()).unwrap();
    let limit = libc::rlimit {
        rlim_cur: 1_000,
        rlim_max: 1_000,
    };
    // SAFETY: the limit is a complete struct; the disposition is the default one.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_DFL);
        assert_eq!(libc::setrlimit(libc::RLIMIT_FSIZE, &limit), 0);
    }
    let file = dir.create("x").unwrap();
    let error = |offset| write_all_at(&file, &[1; 600], offset).unwrap_err();
    write_all_at(&file, &[1; 600], 0).unwrap();
    for offset in [600, 1_000, 5_000] {
        assert_eq!(error(offset).raw_os_error(), Some(libc::EFBIG));
    }
    assert!(!HeldSignal::waits(libc::SIGXFSZ));
    // What the host held off, and one that came to it, is its own.
    let set = HeldSignal::only(libc::SIGXFSZ);
    // SAFETY: the set is there for the call; raise sends the signal to this thread, which holds it off.
    unsafe {
        libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
        error(1_000);
        assert!(!HeldSignal::waits(libc::SIGXFSZ));
        libc::raise(libc::SIGXFSZ);
        error(1_000);
        assert!(HeldSignal::waits(libc::SIGXFSZ));
        drop(temp);
        libc::_exit(0);
    }
}
