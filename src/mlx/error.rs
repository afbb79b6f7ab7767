//! mlx-c reports through one process-wide handler whose default prints and exits. Ours keeps the first message of the
//! failing call on the thread that made it; `check` turns it into an error value.

use std::cell::RefCell;
use std::ffi::{c_char, c_int, c_void, CStr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Once;

use crate::error::{Code, Error, Result};

thread_local! {
    static FIRST_MESSAGE: RefCell<Option<String>> = const { RefCell::new(None) };
}

static FAILED: AtomicBool = AtomicBool::new(false);

extern "C" {
    fn mlxrt_shim_touch_thread();
}

/// Replaces mlx-c's handler. To be called before any other MLX call; more calls do nothing, but on another thread.
pub fn install_error_handler() {
    // SAFETY: no arguments, any thread.
    unsafe { mlxrt_shim_touch_thread() };
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: `keep_first` has the handler's signature, never unwinds, and uses no data pointer.
        unsafe { mlx_sys::mlx_set_error_handler(Some(keep_first), std::ptr::null_mut(), None) };
    });
}

/// A failing closure calls the handler twice and only the first message says what happened.
unsafe extern "C" fn keep_first(message: *const c_char, _data: *mut c_void) {
    if message.is_null() {
        return;
    }
    // SAFETY: mlx-c passes a NUL-terminated message that lives for the call.
    let text = unsafe { CStr::from_ptr(message) }.to_string_lossy();
    let text = without_build_path(&text).to_owned();
    FAILED.store(true, Ordering::Relaxed);
    let _ = FIRST_MESSAGE.try_with(|first| {
        if let Ok(mut first) = first.try_borrow_mut() {
            first.get_or_insert(text);
        }
    });
}

/// mlx-c ends each message in " at FILE:LINE", a path of the machine it was built on.
fn without_build_path(message: &str) -> &str {
    match message.rsplit_once(" at ") {
        Some((text, place))
            if place.rsplit_once(':').is_some_and(|(file, line)| {
                !file.is_empty() && !line.is_empty() && line.bytes().all(|b| b.is_ascii_digit())
            }) =>
        {
            text
        }
        _ => message,
    }
}

/// The result of a call into mlx-c that gave `status`.
pub(super) fn check(status: c_int) -> Result<()> {
    let message = FIRST_MESSAGE.with(|first| first.borrow_mut().take());
    #[cfg(test)]
    super::fault::strike()?;
    match (status, message) {
        (0, None) => Ok(()),
        (_, message) => Err(mlx_error(
            message.as_deref().unwrap_or("MLX failed without a message"),
        )),
    }
}

/// Forgets what a call without a status may have left, which the next call would be blamed for.
pub fn forget_error() {
    let _ = FIRST_MESSAGE.try_with(|first| first.take());
}

/// Whether MLX reported an error since this was asked last: to this engine, or to one before that could not ask any more.
pub(super) fn has_failed() -> bool {
    FAILED.swap(false, Ordering::Relaxed)
}

fn mlx_error(message: &str) -> Error {
    let exhausted = [
        "malloc",
        "allocat",
        "bad_alloc",
        "out of memory",
        "cudaErrorMemoryAllocation",
    ]
    .iter()
    .any(|word| message.contains(word));
    let code = if exhausted {
        Code::OutOfMemory
    } else {
        Code::Device
    };
    Error::new(code, format!("MLX: {message}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn build_paths_are_cut_and_other_words_stay() {
        assert_eq!(
            without_build_path("[matmul] bad shapes. at /a/b/ops.cpp:12"),
            "[matmul] bad shapes."
        );
        assert_eq!(without_build_path("nothing at all: 3"), "nothing at all: 3");
        assert_eq!(without_build_path("look at me"), "look at me");
    }

    #[test]
    fn memory_has_its_own_code() {
        assert_eq!(
            mlx_error("[metal::malloc] Unable to allocate 9 bytes").code,
            Code::OutOfMemory
        );
        assert_eq!(mlx_error("[reshape] no").code, Code::Device);
    }
}
