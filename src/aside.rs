//! Work that does not look at the watch: other people's code that is one long step, on a thread of its own. Who waits for it
//! keeps looking, and leaves it behind when it is wanted no more; it then ends by itself.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use crate::error::{Code, Error, Result};
use crate::guard;
use crate::watch::{self, Watch};

const BETWEEN_LOOKS: Duration = Duration::from_millis(10);

/// A parser's: of what it may nest, with room.
const STACK: usize = 1 << 20;

/// What was left behind and may still run. Nothing new begins beside it, so that impatient callers, one after the other, do
/// not fill the machine with work that nobody wants.
static LEFT: Mutex<Vec<JoinHandle<()>>> = Mutex::new(Vec::new());

/// Does `work` on another thread. `look` is called on this one every 10 ms meanwhile, beside the watch; what either gives ends
/// the wait. Inside of `work` the watch says `Cancelled` from then on. Where there is no thread to be had it is done on this one.
///
/// Errors: those of `work`, `look` and the watch.
pub fn aside<T: Send + 'static>(
    name: &'static str,
    look: &mut dyn FnMut() -> Result<()>,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let mut look = || watch::look().and_then(|()| look());
    while some_are_left() {
        look()?;
        std::thread::sleep(BETWEEN_LOOKS);
    }
    let unwanted = Arc::new(AtomicBool::new(false));
    let (done, outcome) = mpsc::sync_channel(1);
    // Not moved into the thread: one that does not start would take it along.
    let work = Arc::new(Mutex::new(Some(work)));
    let take = |work: &Mutex<Option<_>>| work.lock().unwrap_or_else(PoisonError::into_inner).take();
    let thread = {
        let (work, unwanted) = (work.clone(), unwanted.clone());
        move || {
            let watch = Watch {
                work: name,
                deadline: None,
                stopped: Some(Box::new(move || stopped(&unwanted, name))),
            };
            if let Some(work) = take(&work) {
                let outcome = watch::during(watch, || guard::catch(work));
                // Where nobody waits any more, it is dropped here.
                let _ = done.send(outcome);
            }
        }
    };
    let builder = Builder::new().name("mlxrt aside".into()).stack_size(STACK);
    let Ok(thread) = builder.spawn(thread) else {
        return match take(&work) {
            Some(work) => work(),
            None => Err(Error::internal(
                "work was done by a thread that did not start",
            )),
        };
    };
    loop {
        match outcome.recv_timeout(BETWEEN_LOOKS) {
            Ok(outcome) => {
                let _ = thread.join();
                return outcome;
            }
            Err(RecvTimeoutError::Disconnected) => {
                let _ = thread.join();
                return Err(Error::internal(format!("{name} ended its thread")));
            }
            Err(RecvTimeoutError::Timeout) => {
                if let Err(error) = look() {
                    unwanted.store(true, Ordering::Relaxed);
                    let mut left = LEFT.lock().unwrap_or_else(PoisonError::into_inner);
                    left.push(thread);
                    return Err(error);
                }
            }
        }
    }
}

fn stopped(unwanted: &AtomicBool, name: &str) -> Result<()> {
    match unwanted.load(Ordering::Relaxed) {
        true => Err(Error::new(Code::Cancelled, format!("{name} was stopped"))),
        false => Ok(()),
    }
}

fn some_are_left() -> bool {
    let mut left = LEFT.lock().unwrap_or_else(PoisonError::into_inner);
    left.retain(|thread| !thread.is_finished());
    !left.is_empty()
}

/// What is left behind is the process's: tests that leave work do it one at a time.
#[cfg(test)]
pub(crate) fn alone() -> std::sync::MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    while some_are_left() {
        std::thread::sleep(BETWEEN_LOOKS);
    }
    alone
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::arithmetic_side_effects)]
mod tests {
    use super::*;
    use std::time::Instant;

    fn wait(milliseconds: u64, work: impl FnOnce() -> Result<u32> + Send + 'static) -> Result<u32> {
        let watch = Watch {
            work: "waiting",
            deadline: Some(Instant::now() + Duration::from_millis(milliseconds)),
            stopped: None,
        };
        watch::during(watch, || aside("the work", &mut || Ok(()), work))
    }

    #[test]
    fn work_that_does_not_look_is_left_behind() {
        let _alone = alone();
        assert_eq!(wait(60_000, || Ok(7)).unwrap(), 7);
        let error = wait(60_000, || panic!("no")).unwrap_err();
        assert_eq!(error.code, Code::Internal);

        let (end, may_end) = mpsc::channel::<()>();
        let (said, saw) = mpsc::channel();
        let began = Instant::now();
        let error = wait(30, move || {
            let _ = may_end.recv();
            let _ = said.send(watch::look().map_err(|error| error.code));
            Ok(1)
        });
        assert_eq!(error.unwrap_err().code, Code::Timeout);
        assert!(began.elapsed() < Duration::from_secs(5));

        // The next waits until it has ended, and looks meanwhile.
        assert_eq!(wait(30, || Ok(2)).unwrap_err().code, Code::Timeout);
        end.send(()).unwrap();
        assert_eq!(saw.recv().unwrap(), Err(Code::Cancelled));
        assert_eq!(wait(60_000, || Ok(3)).unwrap(), 3);

        let mut looks = 0;
        let mut look = || {
            looks += 1;
            match looks {
                3 => Err(Error::new(Code::Cancelled, "enough")),
                _ => Ok(()),
            }
        };
        let outcome = aside("the work", &mut look, || {
            std::thread::sleep(Duration::from_millis(200));
            Ok(4)
        });
        assert_eq!(outcome.unwrap_err().message, "enough");
    }
}
