//! What ends work on a caller's thread early: its deadline, a cancel, the engine's end.
//!
//! The watch is the thread's and no argument, for the work goes through other people's code and comes back in its
//! callbacks. Whoever does work that can take longer than a moment calls [`look`] at least every 50 ms of it.

use std::cell::RefCell;
use std::time::Instant;

use crate::error::{Code, Error, Result};

thread_local! {
    static WATCH: RefCell<Option<Watch>> = const { RefCell::new(None) };
}

/// When to stop. The default never does.
#[derive(Default)]
pub struct Watch {
    /// What the work is, for the error.
    pub work: &'static str,
    pub deadline: Option<Instant>,
    /// Why the work is wanted no more.
    pub stopped: Option<Box<dyn Fn() -> Result<()>>>,
}

/// Does `work` under `watch`; the one before comes back afterwards.
pub fn during<T>(watch: Watch, work: impl FnOnce() -> T) -> T {
    struct Restore(Option<Watch>);
    impl Drop for Restore {
        fn drop(&mut self) {
            let before = self.0.take();
            let _ = WATCH.try_with(|watch| watch.replace(before));
        }
    }
    let before = WATCH.try_with(|current| current.replace(Some(watch)));
    let _restore = Restore(before.ok().flatten());
    work()
}

/// Whether to go on. Some tens of nanoseconds.
///
/// Errors: `Timeout` and what the watch gives, `Cancelled` for instance; `OutOfMemory` where the process is short of memory, with
/// or without a watch.
pub fn look() -> Result<()> {
    if crate::reserve::short() {
        return Err(short());
    }
    let looked = WATCH.try_with(|watch| {
        let watch = watch.borrow();
        let Some(watch) = watch.as_ref() else {
            return Ok(());
        };
        watch.stopped.as_ref().map_or(Ok(()), |stopped| stopped())?;
        match watch.deadline {
            Some(deadline) if Instant::now() >= deadline => {
                let message = format!("{} took longer than timeout_ms", watch.work);
                Err(Error::new(Code::Timeout, message))
            }
            _ => Ok(()),
        }
    });
    looked.unwrap_or(Ok(()))
}

/// What work ends with that finds the process short of memory.
pub fn short() -> Error {
    Error::new(
        Code::OutOfMemory,
        "the process has no memory left to go on with",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_watch_counts_and_the_one_before_comes_back() {
        let code = || look().map_err(|error| error.code);
        let past = Watch {
            deadline: Some(Instant::now()),
            ..Watch::default()
        };
        assert_eq!(code(), Ok(()));
        during(past, || {
            assert_eq!(code(), Err(Code::Timeout));
            during(Watch::default(), || assert_eq!(code(), Ok(())));
            let cancelled = || Err(Error::new(Code::Cancelled, "enough"));
            let cancelled = Watch {
                stopped: Some(Box::new(cancelled)),
                ..Watch::default()
            };
            let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                during(cancelled, || panic!("{:?}", code()))
            }));
            assert!(caught.is_err());
            assert_eq!(code(), Err(Code::Timeout));
        });
        assert_eq!(code(), Ok(()));
    }
}
