//! The library's log: one sink and one level for the whole process, silent until somebody sets them.

#![allow(unused_macros, reason = "a complete set, whichever of them are in use")]

use std::cell::Cell;
use std::fmt;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::error::{Code, Error, Result};

/// How much a line matters; the numbers are those of `MLXRT_LOG_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(i32)]
pub enum Level {
    Error = 1,
    Warn = 2,
    Info = 3,
    Debug = 4,
}

/// Takes one line; may be called on any thread, on several at once.
pub type Sink = Box<dyn Fn(Level, &str) + Send + Sync>;

struct Active {
    level: Level,
    sink: Sink,
    /// Calls of `sink` that have begun and not returned.
    running: Mutex<usize>,
    idle: Condvar,
}

/// The current level as a number, 0 for silence: what every log statement looks at first.
static LEVEL: AtomicI32 = AtomicI32::new(0);
static CURRENT: Mutex<Option<Arc<Active>>> = Mutex::new(None);

thread_local! {
    static IN_SINK: Cell<bool> = const { Cell::new(false) };
}

/// Is this thread inside a call of the sink?
pub fn in_sink() -> bool {
    IN_SINK.try_with(Cell::get).unwrap_or(false)
}

/// Would a line of this level go anywhere?
pub fn enabled(level: Level) -> bool {
    level as i32 <= LEVEL.load(Ordering::Relaxed)
}

/// Replaces the sink, `None` for silence. On return the old sink neither runs nor will.
///
/// New lines go to the new sink while this waits for calls of the old one, so a thread that logs never waits.
///
/// # Errors
/// REENTRANT from inside a sink: it would wait for itself.
pub fn set(level: Level, sink: Option<Sink>) -> Result<()> {
    if in_sink() {
        return Err(Error::new(
            Code::Reentrant,
            "the log function cannot be changed from inside a log function",
        ));
    }
    let new = sink.map(|sink| {
        Arc::new(Active {
            level,
            sink,
            running: Mutex::new(0),
            idle: Condvar::new(),
        })
    });
    let old = {
        let mut current = lock(&CURRENT);
        LEVEL.store(
            new.as_ref().map_or(0, |active| active.level as i32),
            Ordering::Relaxed,
        );
        std::mem::replace(&mut *current, new)
    };
    if let Some(old) = old {
        let mut running = lock(&old.running);
        while *running > 0 {
            running = old
                .idle
                .wait(running)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
    Ok(())
}

/// Writes one line, as `words::plain` makes it; formats it only when the level is on. A line from inside the sink itself is dropped.
pub fn write(level: Level, line: fmt::Arguments<'_>) {
    if !enabled(level) || in_sink() {
        return;
    }
    let text = line.to_string();
    let text = crate::words::plain(&text);
    let active = {
        let current = lock(&CURRENT);
        match &*current {
            // LEVEL may have been an older sink's.
            Some(active) if level <= active.level => {
                // Counted before CURRENT is released: `set` sees either this call or a sink nobody entered.
                *lock(&active.running) += 1;
                Arc::clone(active)
            }
            _ => return,
        }
    };
    let _running = Running {
        active: &active,
        outer: IN_SINK.try_with(|mark| mark.replace(true)).ok(),
    };
    (active.sink)(level, &text);
}

/// One call of a sink; ends it even when the sink panics.
struct Running<'a> {
    active: &'a Active,
    outer: Option<bool>,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if let Some(outer) = self.outer {
            let _ = IN_SINK.try_with(|mark| mark.set(outer));
        }
        *lock(&self.active.running) -= 1;
        self.active.idle.notify_all();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

macro_rules! error_line {
    ($($arg:tt)*) => { $crate::log::write($crate::log::Level::Error, format_args!($($arg)*)) };
}
macro_rules! warn_line {
    ($($arg:tt)*) => { $crate::log::write($crate::log::Level::Warn, format_args!($($arg)*)) };
}
macro_rules! info_line {
    ($($arg:tt)*) => { $crate::log::write($crate::log::Level::Info, format_args!($($arg)*)) };
}
macro_rules! debug_line {
    ($($arg:tt)*) => { $crate::log::write($crate::log::Level::Debug, format_args!($($arg)*)) };
}
#[allow(
    unused_imports,
    reason = "a complete set, whichever of them are in use"
)]
pub(crate) use {debug_line as debug, error_line as error, info_line as info, warn_line as warn};

/// Tests that set the process-wide sink take this lock first.
#[cfg(test)]
pub(crate) fn test_lock() -> MutexGuard<'static, ()> {
    static TESTS: Mutex<()> = Mutex::new(());
    lock(&TESTS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;
    use std::sync::mpsc;
    use std::time::Duration;

    type Lines = Arc<Mutex<Vec<(Level, String)>>>;

    /// A sink that keeps the lines of this thread; other tests of the process may log meanwhile.
    fn collect() -> (Lines, Sink) {
        let lines = Lines::default();
        let kept = Arc::clone(&lines);
        let me = std::thread::current().id();
        let sink: Sink = Box::new(move |level, line| {
            if std::thread::current().id() == me {
                lock(&kept).push((level, line.to_owned()));
            }
        });
        (lines, sink)
    }

    #[test]
    fn lines_up_to_the_level_arrive() {
        let _tests = test_lock();
        let (lines, sink) = collect();
        set(Level::Warn, Some(sink)).unwrap();
        error!("a {}", 1);
        warn!("b");
        info!("c");
        debug!("d");
        set(Level::Error, None).unwrap();
        error!("e");
        assert_eq!(
            *lock(&lines),
            [
                (Level::Error, "a 1".to_owned()),
                (Level::Warn, "b".to_owned())
            ]
        );
    }

    #[test]
    fn nothing_is_formatted_below_the_level() {
        struct Loud<'a>(&'a AtomicBool);
        impl fmt::Display for Loud<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.store(true, Ordering::SeqCst);
                f.write_str("loud")
            }
        }
        let _tests = test_lock();
        let formatted = AtomicBool::new(false);
        let (lines, sink) = collect();
        set(Level::Info, Some(sink)).unwrap();
        debug!("{}", Loud(&formatted));
        assert!(!formatted.load(Ordering::SeqCst));
        info!("{}", Loud(&formatted));
        set(Level::Error, None).unwrap();
        assert!(formatted.load(Ordering::SeqCst));
        assert_eq!(lock(&lines).len(), 1);
    }

    #[test]
    fn inside_a_sink_set_is_refused_and_lines_are_dropped() {
        let _tests = test_lock();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let inner = Arc::clone(&seen);
        let me = std::thread::current().id();
        set(
            Level::Debug,
            Some(Box::new(move |_, _| {
                if std::thread::current().id() == me {
                    assert!(in_sink());
                    error!("from inside");
                    lock(&inner).push(set(Level::Error, None).unwrap_err().code);
                }
            })),
        )
        .unwrap();
        error!("once");
        assert!(!in_sink());
        set(Level::Error, None).unwrap();
        assert_eq!(*lock(&seen), [Code::Reentrant]);
    }

    #[test]
    fn set_waits_for_the_old_sink_and_new_lines_do_not() {
        let _tests = test_lock();
        let (entered, has_entered) = mpsc::channel();
        let (release, released) = mpsc::channel::<()>();
        let released = Mutex::new(released);
        let done = Arc::new(AtomicBool::new(false));
        let sink_done = Arc::clone(&done);
        set(
            Level::Error,
            Some(Box::new(move |_, line| {
                if line == "slow" {
                    entered.send(()).unwrap();
                    lock(&released).recv().unwrap();
                    sink_done.store(true, Ordering::SeqCst);
                }
            })),
        )
        .unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| error!("slow"));
            has_entered.recv().unwrap();
            let (lines, sink) = collect();
            let setter = scope.spawn(|| {
                set(Level::Error, Some(sink)).unwrap();
                // What was asked for: on return the old sink has ended.
                assert!(done.load(Ordering::SeqCst));
            });
            while lock(&lines).is_empty() {
                error!("quick");
            }
            std::thread::sleep(Duration::from_millis(20));
            let early = setter.is_finished();
            release.send(()).unwrap();
            assert!(!early);
        });
        set(Level::Error, None).unwrap();
    }
}
