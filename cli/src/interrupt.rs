//! Ctrl-C and SIGTERM. While something runs, the first one asks it to end, so that what was made is kept; another one, or
//! one while nothing runs, ends the program.

use std::io;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, Ordering};
use std::sync::Mutex;
use std::thread;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::ffi::{mlxrt_session, mlxrt_session_cancel};
use crate::ui;

/// The signal that came during the present work; 0 = none.
static SIGNAL: AtomicI32 = AtomicI32::new(0);
static WORKING: AtomicBool = AtomicBool::new(false);
/// The session whose request a signal cancels.
static SESSION: AtomicPtr<mlxrt_session> = AtomicPtr::new(ptr::null_mut());
/// What a signal during the present work is answered with; empty = nothing.
static NOTICE: Mutex<&str> = Mutex::new("");
/// What is done before a signal ends the program.
static LAST: Mutex<Option<Box<dyn FnOnce() + Send>>> = Mutex::new(None);
/// How the terminal was before a prompt changed it.
static TERMINAL: Mutex<Option<libc::termios>> = Mutex::new(None);

/// Starts to listen. Called once, before anything is loaded.
pub fn listen() -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            for signal in &mut signals {
                let first = SIGNAL.swap(signal, Ordering::SeqCst) == 0;
                if !first || !WORKING.load(Ordering::SeqCst) {
                    restore_terminal();
                    let last = LAST.lock().ok().and_then(|mut last| last.take());
                    if let Some(last) = last {
                        last();
                    }
                    std::process::exit(128 + signal);
                }
                if let Ok(notice) = NOTICE.lock() {
                    if !notice.is_empty() {
                        ui::stderr_line(&notice);
                    }
                }
                let session = SESSION.load(Ordering::SeqCst);
                if !session.is_null() {
                    // SAFETY: a session is an id that the library checks; of one that is freed by now it takes no notice.
                    unsafe { mlxrt_session_cancel(session) };
                }
            }
        })?;
    Ok(())
}

/// While it lives, the first signal is for the work: it has to ask `signal`.
pub struct Work;

impl Work {
    pub fn begin() -> Work {
        SIGNAL.store(0, Ordering::SeqCst);
        WORKING.store(true, Ordering::SeqCst);
        Work
    }

    /// The same; the first signal is answered with words, for work that ends some time later.
    pub fn with_notice(notice: &'static str) -> Work {
        let work = Work::begin();
        if let Ok(mut present) = NOTICE.lock() {
            *present = notice;
        }
        work
    }

    /// The same; the first signal also cancels what runs on the session.
    pub fn on_session(session: *mut mlxrt_session) -> Work {
        let work = Work::begin();
        SESSION.store(session, Ordering::SeqCst);
        work
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        SESSION.store(ptr::null_mut(), Ordering::SeqCst);
        if let Ok(mut notice) = NOTICE.lock() {
            *notice = "";
        }
        WORKING.store(false, Ordering::SeqCst);
    }
}

/// Does something before a signal ends the program, on the thread of signals; None: no more.
pub fn before_end(work: Option<Box<dyn FnOnce() + Send>>) {
    if let Ok(mut last) = LAST.lock() {
        *last = work;
    }
}

/// The signal that came since the present work, or the last one, began.
pub fn signal() -> Option<i32> {
    match SIGNAL.load(Ordering::SeqCst) {
        0 => None,
        signal => Some(signal),
    }
}

/// Remembers how the terminal is, for a program that ends during a prompt.
pub fn remember_terminal() {
    // SAFETY: termios is plain data; tcgetattr fills it or says that it did not.
    let now = unsafe {
        let mut now: libc::termios = std::mem::zeroed();
        (libc::tcgetattr(libc::STDIN_FILENO, &mut now) == 0).then_some(now)
    };
    if let Ok(mut terminal) = TERMINAL.lock() {
        *terminal = now;
    }
}

/// The prompt is over: the terminal is as it was.
pub fn forget_terminal() {
    if let Ok(mut terminal) = TERMINAL.lock() {
        *terminal = None;
    }
}

fn restore_terminal() {
    if let Ok(Some(was)) = TERMINAL.lock().as_deref() {
        // SAFETY: `was` came from tcgetattr on the same descriptor.
        unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, was) };
    }
}
