//! Where C enters and leaves: every exported function that does something runs inside `call` or `quietly`.
//!
//! Here panics become errors, a forked child is refused, and a function that may not be called from inside a
//! callback says so instead of waiting for itself.

use std::cell::Cell;
use std::sync::atomic::{AtomicI32, Ordering};

use super::error::{into_raw, mlxrt_error};
use crate::error::{Code, Error, Result};
use crate::{guard, host, log};

/// From where a function may be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// What takes back memory: from everywhere, all callbacks included.
    Anywhere,
    /// What does not wait (queries, free, submit): also from event and progress callbacks.
    Query,
    /// What waits or computes, shutdown, suspend and resume: not from inside any callback.
    Blocking,
}

/// Which callback of the host runs on this thread. (The log function marks its own, see `log::in_sink`.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Callback {
    /// Event, train and progress callbacks.
    Event,
    /// May only signal something.
    Notify,
}

thread_local! {
    static MARKS: Cell<u8> = const { Cell::new(0) };
}

impl Callback {
    fn bit(self) -> u8 {
        match self {
            Callback::Event => 1,
            Callback::Notify => 2,
        }
    }

    fn runs_here(self) -> bool {
        MARKS
            .try_with(|marks| marks.get() & self.bit() != 0)
            .unwrap_or(false)
    }
}

/// Runs a function that can fail; `name` is the C function's. NULL is success.
pub fn call(name: &str, usage: Use, work: impl FnOnce() -> Result<()>) -> *mut mlxrt_error {
    match enter(name, usage, work) {
        Ok(()) => std::ptr::null_mut(),
        Err(error) => into_raw(error),
    }
}

/// Runs a function that returns nothing; a failure is logged at error level. In a forked child it does nothing, nor once the
/// engine has ended with the process.
pub fn quietly(name: &str, usage: Use, work: impl FnOnce() -> Result<()>) {
    // The log's lock may be one that a thread of the parent held when it forked, or a thread that ended with the process.
    if refuse_in_child(name).is_err() || (usage != Use::Anywhere && host::process_exits()) {
        return;
    }
    if let Err(error) = inside(name, usage, work) {
        log::error!("{name}: {error}");
    }
}

fn enter(name: &str, usage: Use, work: impl FnOnce() -> Result<()>) -> Result<()> {
    refuse_in_child(name)?;
    refuse_at_exit()?;
    inside(name, usage, work)
}

fn inside(name: &str, usage: Use, work: impl FnOnce() -> Result<()>) -> Result<()> {
    guard::catch(|| {
        refuse_in_callback(name, usage)?;
        work()
    })
}

/// CANCELLED once the process exits. What belongs to the thread that calls `exit` is gone before any handler runs, and much
/// of what works here is made of such things.
fn refuse_at_exit() -> Result<()> {
    struct Alive;
    impl Drop for Alive {
        fn drop(&mut self) {}
    }
    thread_local! {
        static ALIVE: Alive = const { Alive };
    }
    host::refuse_at_exit()?;
    ALIVE.try_with(|_| ()).map_err(|_| {
        let message = "the process is exiting, or this thread of it";
        Error::new(Code::Cancelled, message)
    })
}

/// REENTRANT when a callback runs on this thread in which `name` may not be called.
pub fn refuse_in_callback(name: &str, usage: Use) -> Result<()> {
    let place = match usage {
        Use::Anywhere => return Ok(()),
        _ if log::in_sink() => "a log function",
        _ if Callback::Notify.runs_here() => "a notify callback",
        Use::Blocking if Callback::Event.runs_here() => "an event or progress callback",
        _ => return Ok(()),
    };
    Err(Error::new(
        Code::Reentrant,
        format!("{name} cannot be called from inside {place}"),
    ))
}

/// Runs a callback of the host, marked so that functions it calls know where they are.
pub fn with_callback_mark<T>(callback: Callback, run: impl FnOnce() -> T) -> T {
    struct Restore(Option<u8>);
    impl Drop for Restore {
        fn drop(&mut self) {
            if let Some(before) = self.0 {
                let _ = MARKS.try_with(|marks| marks.set(before));
            }
        }
    }
    let before = MARKS
        .try_with(|marks| marks.replace(marks.get() | callback.bit()))
        .ok();
    let _restore = Restore(before);
    guard::outside(run)
}

/// The process that used the library first; 0 before that.
static PROCESS: AtomicI32 = AtomicI32::new(0);

fn refuse_in_child(name: &str) -> Result<()> {
    // SAFETY: getpid has no preconditions and cannot fail.
    let here = unsafe { libc::getpid() };
    match PROCESS.compare_exchange(0, here, Ordering::Relaxed, Ordering::Relaxed) {
        Ok(_) => {
            crate::reserve::survive_forks();
            Ok(())
        }
        Err(first) if first != here => Err(Error::new(
            Code::Forked,
            format!("{name} was called in a forked child; only process {first}, which began, can use the library"),
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::error::{mlxrt_error_code, mlxrt_error_free, mlxrt_error_message};
    use super::*;
    use std::ffi::CStr;

    /// Code and message of what a call gave.
    fn outcome(error: *mut mlxrt_error) -> (i32, String) {
        // SAFETY: `error` came out of `call` and is freed here only.
        unsafe {
            let code = mlxrt_error_code(error);
            let message = CStr::from_ptr(mlxrt_error_message(error))
                .to_str()
                .unwrap()
                .to_owned();
            mlxrt_error_free(error);
            (code, message)
        }
    }

    #[test]
    fn outcomes_become_errors() {
        assert!(call("f", Use::Blocking, || Ok(())).is_null());
        let (code, message) = outcome(call("f", Use::Query, || Err(Error::invalid("x is odd"))));
        assert_eq!((code, message.as_str()), (1, "x is odd"));
        let (code, message) = outcome(call("f", Use::Query, || panic!("broken")));
        assert_eq!(code, 19);
        assert!(message.contains("broken ("), "{message}");
        assert!(message.contains("src/capi/boundary.rs:"), "{message}");
    }

    #[test]
    fn callbacks_decide_what_may_be_called() {
        let tried = |usage| outcome(call("mlxrt_f", usage, || Ok(())));
        let ok = (0, String::new());
        let refused = |place: &str| (17, format!("mlxrt_f cannot be called from inside {place}"));
        with_callback_mark(Callback::Event, || {
            assert_eq!(tried(Use::Anywhere), ok);
            assert_eq!(tried(Use::Query), ok);
            assert_eq!(
                tried(Use::Blocking),
                refused("an event or progress callback")
            );
            with_callback_mark(Callback::Notify, || {
                assert_eq!(tried(Use::Anywhere), ok);
                assert_eq!(tried(Use::Query), refused("a notify callback"));
                assert_eq!(tried(Use::Blocking), refused("a notify callback"));
            });
            assert_eq!(tried(Use::Query), ok);
            std::thread::scope(|scope| {
                scope.spawn(|| assert_eq!(tried(Use::Blocking), ok));
            });
        });
        assert_eq!(tried(Use::Blocking), ok);
    }

    #[test]
    fn the_log_function_may_call_little_and_failures_are_logged() {
        let _tests = log::test_lock();
        let seen = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let kept = std::sync::Arc::clone(&seen);
        let me = std::thread::current().id();
        let sink = move |_: log::Level, line: &str| {
            if std::thread::current().id() == me {
                let codes = [Use::Anywhere, Use::Query, Use::Blocking]
                    .map(|usage| outcome(call("f", usage, || Ok(()))).0);
                // Would log, and must not come back here.
                quietly("g", Use::Query, || Ok(()));
                kept.lock().unwrap().push((line.to_owned(), codes));
            }
        };
        log::set(log::Level::Error, Some(Box::new(sink))).unwrap();
        quietly("mlxrt_x_free", Use::Query, || {
            Err(Error::invalid("x is NULL"))
        });
        quietly("mlxrt_y_free", Use::Query, || panic!("y"));
        log::set(log::Level::Error, None).unwrap();
        let seen = seen.lock().unwrap();
        assert_eq!(seen.len(), 2);
        assert_eq!(seen[0], ("mlxrt_x_free: x is NULL".to_owned(), [0, 17, 17]));
        assert!(seen[1]
            .0
            .starts_with("mlxrt_y_free: a bug in the library: y ("));
    }

    #[test]
    #[cfg_attr(miri, ignore = "it forks")]
    fn a_forked_child_is_refused() {
        assert!(call("f", Use::Query, || Ok(())).is_null());
        // SAFETY: the child only makes one call, which refuses before it takes a lock, and ends with _exit.
        let child = unsafe { libc::fork() };
        assert!(child >= 0);
        if child == 0 {
            let error = call("mlxrt_f", Use::Anywhere, || Ok(()));
            let mut ran = false;
            quietly("g", Use::Anywhere, || {
                ran = true;
                Ok(())
            });
            // SAFETY: `error` is NULL or live; _exit does not return.
            unsafe { libc::_exit(if ran { 99 } else { mlxrt_error_code(error) }) };
        }
        let mut status = 0;
        // SAFETY: `child` is a child of this process, `status` is writable.
        assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
        assert!(libc::WIFEXITED(status));
        assert_eq!(libc::WEXITSTATUS(status), Code::Forked as i32);
    }
}
