//! The sources that read what is hostile, without MLX, and what the targets watch: the stack and the heap.

#![allow(dead_code, unused_imports)]

pub use mlxrt_kernels::dtype;
#[path = "../../src/aside.rs"]
pub mod aside;
#[path = "../../src/error.rs"]
pub mod error;
#[path = "../../src/files.rs"]
pub mod files;
#[path = "../../src/guard.rs"]
pub mod guard;
#[path = "../../src/host.rs"]
pub mod host;
#[path = "../../src/load/mod.rs"]
pub mod load;
#[path = "../../src/log.rs"]
pub mod log;
#[path = "../../src/random.rs"]
pub mod random;
pub mod reserve;
#[path = "../../src/room.rs"]
pub mod room;
pub mod scratch;
#[path = "../../src/template/mod.rs"]
pub mod template;
#[path = "../../src/text/mod.rs"]
pub mod text;
#[path = "../../src/watch.rs"]
pub mod watch;
#[path = "../../src/words.rs"]
pub mod words;

use std::alloc::{GlobalAlloc, Layout, System};
use std::panic::{catch_unwind, resume_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{channel, Receiver, Sender};
use std::sync::{Mutex, OnceLock};

/// What the library promises to get by with.
const STACK: usize = 512 << 10;

type Job = (Vec<u8>, fn(&[u8]));
type Done = std::thread::Result<()>;

/// What a refusal by the loader is like: it names one of the files and shows little of them.
pub fn check_refusal(error: &error::Error, files: &[&str]) {
    use error::Code::{BadModel, Unsupported};
    assert!(
        matches!(error.code, BadModel | Unsupported),
        "{error:?} has another code"
    );
    let named = files.iter().any(|file| error.message.contains(file));
    assert!(named, "{error:?} names none of {files:?}");
    assert!(
        error.message.len() < 4096,
        "a message of {} bytes",
        error.message.len()
    );
}

/// Runs a target on a thread with a small stack; a panic goes on in the caller.
pub fn on_small_stack(data: &[u8], target: fn(&[u8])) {
    static WORKER: OnceLock<Mutex<(Sender<Job>, Receiver<Done>)>> = OnceLock::new();
    let worker = WORKER.get_or_init(|| {
        let (jobs, inbox) = channel::<Job>();
        let (outbox, done) = channel::<Done>();
        std::thread::Builder::new()
            .stack_size(STACK)
            .spawn(move || {
                for (data, target) in inbox {
                    let result = catch_unwind(AssertUnwindSafe(|| target(&data)));
                    drop(data);
                    if outbox.send(result).is_err() {
                        break;
                    }
                }
            })
            .expect("a thread");
        Mutex::new((jobs, done))
    });
    let worker = worker.lock().expect("one caller");
    worker
        .0
        .send((data.to_vec(), target))
        .expect("the worker lives");
    if let Err(panic) = worker.1.recv().expect("the worker lives") {
        resume_unwind(panic);
    }
}

/// Counts the bytes that Rust code holds.
pub struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

fn took(bytes: usize) {
    let held = HELD.fetch_add(bytes, Relaxed).wrapping_add(bytes);
    PEAK.fetch_max(held, Relaxed);
}

// SAFETY: every call goes to the system's allocator unchanged; the counters touch nothing else.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        took(layout.size());
        // SAFETY: the caller's own promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        took(layout.size());
        // SAFETY: the caller's own promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's own promise.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Old and new may both be there for a moment.
        took(size);
        HELD.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's own promise.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What a call gave, and how many bytes more than before it were held at once on the way.
pub fn peak<T>(call: impl FnOnce() -> T) -> (T, usize) {
    let before = HELD.load(Relaxed);
    PEAK.store(before, Relaxed);
    let result = call();
    (result, PEAK.load(Relaxed).saturating_sub(before))
}
