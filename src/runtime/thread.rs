//! The ends of engine threads.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::error::{Code, Error, Result};

/// An engine thread, for those who wait for its end; several may.
pub struct Thread(Mutex<Option<JoinHandle<()>>>);

/// Those that may still run: an exit of the process waits for them.
static THREADS: Mutex<Vec<Arc<Thread>>> = Mutex::new(Vec::new());

impl Thread {
    pub fn watched(handle: JoinHandle<()>) -> Arc<Thread> {
        let thread = Arc::new(Thread(Mutex::new(Some(handle))));
        let mut threads = THREADS.lock().unwrap_or_else(PoisonError::into_inner);
        threads.retain(|thread| !thread.join_if_finished());
        threads.push(thread.clone());
        thread
    }

    pub fn join(&self, deadline: Option<Instant>) -> Result<()> {
        while !self.join_if_finished() {
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Err(Error::new(
                    Code::Timeout,
                    "the engine did not end in time; it ends after its running step",
                ));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    fn join_if_finished(&self) -> bool {
        let mut thread = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match thread.take_if(|thread| thread.is_finished()) {
            Some(finished) => {
                let _ = finished.join();
                true
            }
            None => thread.is_none(),
        }
    }

    /// Waits for all of them, at the process's exit: their owner may be the thread that exits, so for no lock.
    pub fn join_all(deadline: Instant) {
        let threads = match THREADS.try_lock() {
            Ok(threads) => threads.clone(),
            Err(_) => return,
        };
        for thread in threads {
            let _ = thread.join(Some(deadline));
        }
    }
}
