//! An exit of the process while the engine runs.
//!
//! A host may call `exit` whenever it likes, with models open and requests running. MLX's static objects are destroyed
//! then, and an engine thread that still uses them crashes the process. So the engine ends first: what it registers
//! with `atexit` runs before the destructors of all objects that were made earlier.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::Once;
use std::time::Duration;

use super::engine;
use crate::host;

/// The longest that an exit waits for the engine's running step.
const PATIENCE: Duration = Duration::from_secs(10);

/// The process that owns the engine; a forked child has no engine thread to wait for.
static OWNER: AtomicU32 = AtomicU32::new(0);

/// Called when MLX has made its static objects: at the start of an engine.
pub fn watch() {
    static ONCE: Once = Once::new();
    ONCE.call_once(register);
}

/// Called when a first token was read: MLX makes some of its static objects at their first use.
pub fn watch_again() {
    static ONCE: Once = Once::new();
    ONCE.call_once(register);
}

fn register() {
    OWNER.store(std::process::id(), Ordering::Release);
    // SAFETY: `at_exit` is a plain function that does not unwind, and the library is never unmapped (-z nodelete).
    unsafe { libc::atexit(at_exit) };
}

extern "C" fn at_exit() {
    if OWNER.load(Ordering::Acquire) != std::process::id() {
        return;
    }
    host::exit_has_begun();
    let _ = crate::guard::catch(|| {
        // A log function may have called exit on the engine thread itself.
        if !engine::on_engine_thread() {
            engine::end_at_exit(PATIENCE);
        }
        Ok(())
    });
}
