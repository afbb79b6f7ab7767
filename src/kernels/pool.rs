//! A fixed pool of threads. The caller is one of them; the others sleep when there is nothing to do.

use std::any::Any;
use std::cell::UnsafeCell;
use std::hint::spin_loop;
use std::panic::{catch_unwind, resume_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

/// How long an idle thread looks for the next job before it sleeps: the kernels of one step follow each other faster.
const SPIN: Duration = Duration::from_micros(30);
/// Looks between two readings of the clock.
const LOOKS: u32 = 64;

/// Runs the closure that it is given, once.
pub type Around = fn(&mut dyn FnMut());

/// `n` threads, the caller included; the rest ends when the pool is dropped.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<Worker>,
    /// Held by the one caller whose job is on; another works alone meanwhile.
    busy: Mutex<()>,
}

struct Worker {
    thread: Thread,
    handle: Option<JoinHandle<()>>,
    asleep: Arc<AtomicBool>,
}

struct Shared {
    /// Counts jobs; a change is what idle threads look for.
    epoch: AtomicU32,
    /// OPEN while a job may be joined, plus the number of threads inside.
    gate: AtomicU32,
    /// The next chunk to take.
    next: AtomicUsize,
    job: UnsafeCell<Job>,
    stop: AtomicBool,
    /// The first panic of a chunk.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

const OPEN: u32 = 1 << 31;

#[derive(Clone, Copy)]
struct Job {
    /// Borrowed from the caller of `parallel`, who does not return while anyone is inside the gate.
    run: *const (dyn Fn(usize) + Sync),
    chunks: usize,
}

// SAFETY: `job` is written only by the caller that holds `busy`, while the gate is closed and empty; it is read only by
// threads that entered the open gate, and their entry acquires what the opening released.
unsafe impl Sync for Shared {}
// SAFETY: the raw pointer inside `job` is never used outside the gate, see above.
unsafe impl Send for Shared {}

impl Pool {
    /// A pool of `threads` (at least 1), of which `threads - 1` are started. Fewer where the system refuses to start more.
    pub fn new(threads: usize) -> Pool {
        Pool::inside(threads, |work| work())
    }

    /// The same; `around` runs all that a started thread does, and may see to its panics' hook.
    pub fn inside(threads: usize, around: Around) -> Pool {
        let shared = Arc::new(Shared {
            epoch: AtomicU32::new(0),
            gate: AtomicU32::new(0),
            next: AtomicUsize::new(0),
            job: UnsafeCell::new(Job {
                run: &|_| {},
                chunks: 0,
            }),
            stop: AtomicBool::new(false),
            panic: Mutex::new(None),
        });
        let mut workers = Vec::new();
        for index in 1..threads.max(1) {
            let asleep = Arc::new(AtomicBool::new(false));
            let (its_shared, its_asleep) = (shared.clone(), asleep.clone());
            let started = thread::Builder::new()
                .name(format!("mlxrt-cpu-{index}"))
                .stack_size(512 * 1024)
                .spawn(move || around(&mut || work(&its_shared, &its_asleep)));
            let Ok(handle) = started else { break };
            workers.push(Worker {
                thread: handle.thread().clone(),
                handle: Some(handle),
                asleep,
            });
        }
        Pool {
            shared,
            workers,
            busy: Mutex::new(()),
        }
    }

    /// Threads that work on a job, the caller included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `run(0)` … `run(chunks - 1)`, each once, on the pool's threads and this one; returns when all are done.
    ///
    /// A chunk that panics does not stop the others; the first panic goes on in the caller when all are done. Inside a
    /// chunk, and while another thread's job is on, the caller does its chunks alone.
    pub fn parallel(&self, chunks: usize, run: impl Fn(usize) + Sync) {
        let alone = chunks < 2 || self.workers.is_empty();
        let guard = if alone {
            None
        } else {
            self.busy.try_lock().ok()
        };
        let Some(_guard) = guard else {
            (0..chunks).for_each(run);
            return;
        };
        let shared = &*self.shared;
        let run: &(dyn Fn(usize) + Sync) = &run;
        // SAFETY: only the lifetime is forgotten; `parallel` waits below until nobody is inside the gate.
        let run: *const (dyn Fn(usize) + Sync) = unsafe { std::mem::transmute(run) };
        let job = Job { run, chunks };
        // SAFETY: `busy` is ours, the gate is closed and empty (it was left so), so nobody else looks at the job.
        unsafe { *shared.job.get() = job };
        shared.next.store(0, Ordering::Relaxed);
        shared.gate.fetch_or(OPEN, Ordering::Release);
        shared.epoch.fetch_add(1, Ordering::SeqCst);
        // No more threads than there are chunks beside the caller's first.
        for worker in self.workers.iter().take(chunks - 1) {
            if worker.asleep.load(Ordering::SeqCst) && worker.asleep.swap(false, Ordering::SeqCst) {
                worker.thread.unpark();
            }
        }
        shared.take_chunks(job);
        shared.gate.fetch_and(!OPEN, Ordering::AcqRel);
        let mut looks = 0_u32;
        while shared.gate.load(Ordering::Acquire) != 0 {
            looks = looks.wrapping_add(1);
            // A worker that has lost its processor needs ours to finish.
            if looks.is_multiple_of(LOOKS * 16) {
                thread::yield_now();
            } else {
                spin_loop();
            }
        }
        let panic = shared
            .panic
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        drop(_guard);
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.epoch.fetch_add(1, Ordering::SeqCst);
        for worker in &mut self.workers {
            worker.thread.unpark();
            if let Some(handle) = worker.handle.take() {
                let _ = handle.join();
            }
        }
    }
}

impl Shared {
    fn take_chunks(&self, job: Job) {
        loop {
            let chunk = self.next.fetch_add(1, Ordering::Relaxed);
            if chunk >= job.chunks {
                return;
            }
            // SAFETY: we are the caller, or inside the gate: the closure is alive until we leave.
            let done = catch_unwind(AssertUnwindSafe(|| unsafe { (*job.run)(chunk) }));
            if let Err(panic) = done {
                self.panic
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .get_or_insert(panic);
            }
        }
    }
}

fn work(shared: &Shared, asleep: &AtomicBool) {
    let mut seen = 0;
    loop {
        seen = next_epoch(shared, asleep, seen);
        if shared.stop.load(Ordering::SeqCst) {
            return;
        }
        if shared.gate.fetch_add(1, Ordering::Acquire) & OPEN != 0 {
            // SAFETY: we are inside the open gate: the job was published before it opened and stays until we leave.
            let job = unsafe { *shared.job.get() };
            shared.take_chunks(job);
        }
        shared.gate.fetch_sub(1, Ordering::Release);
    }
}

/// Waits for another epoch than `seen`: awake for SPIN, then asleep.
fn next_epoch(shared: &Shared, asleep: &AtomicBool, seen: u32) -> u32 {
    let until = Instant::now() + SPIN;
    loop {
        for _ in 0..LOOKS {
            let epoch = shared.epoch.load(Ordering::Acquire);
            if epoch != seen {
                return epoch;
            }
            spin_loop();
        }
        if Instant::now() >= until {
            break;
        }
    }
    loop {
        asleep.store(true, Ordering::SeqCst);
        // The caller counts the epoch up before it looks who sleeps: either we see it here, or it wakes us.
        let epoch = shared.epoch.load(Ordering::SeqCst);
        if epoch != seen {
            asleep.store(false, Ordering::SeqCst);
            return epoch;
        }
        thread::park();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;

    #[test]
    fn every_chunk_runs_once() {
        for threads in [1, 2, 3, 5] {
            let pool = Pool::new(threads);
            assert_eq!(pool.threads(), threads);
            for chunks in [0, 1, 2, 3, 17, 300] {
                for _ in 0..50 {
                    let ran: Vec<AtomicU32> = (0..chunks).map(|_| AtomicU32::new(0)).collect();
                    pool.parallel(chunks, |i| {
                        ran[i].fetch_add(1, Ordering::Relaxed);
                    });
                    assert!(ran.iter().all(|n| n.load(Ordering::Relaxed) == 1));
                }
            }
        }
    }

    #[test]
    fn threads_that_slept_wake() {
        let pool = Pool::new(3);
        let sum = AtomicU64::new(0);
        for round in 0..20 {
            if round % 4 == 0 {
                thread::sleep(Duration::from_millis(2));
            }
            pool.parallel(8, |i| {
                sum.fetch_add(i as u64, Ordering::Relaxed);
            });
        }
        assert_eq!(sum.load(Ordering::Relaxed), 20 * 28);
    }

    #[test]
    fn a_panic_reaches_the_caller_after_all_chunks_and_the_pool_lives_on() {
        let pool = Pool::new(2);
        let ran = AtomicU32::new(0);
        let result = catch_unwind(AssertUnwindSafe(|| {
            pool.parallel(16, |i| {
                ran.fetch_add(1, Ordering::Relaxed);
                if i == 3 {
                    resume_unwind(Box::new("chunk 3"));
                }
            });
        }));
        let payload = result.expect_err("the panic goes on");
        assert_eq!(payload.downcast_ref::<&str>(), Some(&"chunk 3"));
        assert_eq!(ran.load(Ordering::Relaxed), 16);
        pool.parallel(16, |_| {
            ran.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(ran.load(Ordering::Relaxed), 32);
    }

    #[test]
    fn jobs_inside_jobs_and_beside_them_are_done() {
        let pool = Pool::new(2);
        let count = AtomicU32::new(0);
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        pool.parallel(4, |_| {
                            pool.parallel(3, |_| {
                                count.fetch_add(1, Ordering::Relaxed);
                            });
                        });
                    }
                });
            }
        });
        assert_eq!(count.load(Ordering::Relaxed), 3 * 50 * 12);
    }

    #[test]
    fn idle_threads_use_no_processor_time() {
        let pool = Pool::new(4);
        pool.parallel(8, |_| {});
        thread::sleep(Duration::from_millis(20));
        assert!(pool.workers.iter().all(|w| w.asleep.load(Ordering::SeqCst)));
    }
}
