//! The library itself: versions, the log, freeing buffers.

use std::ffi::{c_char, c_void, CStr};

use super::boundary::{call, quietly, Use};
use super::constants::*;
use super::error::{c_text, mlxrt_error};
use super::types::mlxrt_log_fn;
use super::{handle, text};
use crate::error::{Error, Result};
use crate::{guard, log};

const VERSION: &CStr =
    match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
        Ok(version) => version,
        Err(_) => c"",
    };

/// Gives the version of this surface that the library has: its MLXRT_ABI. A program that was compiled with a
/// higher one needs a newer library.
///
/// Threads: any.
/// Blocks: no.
/// Errors: none.
/// Owns: nothing.
#[no_mangle]
pub unsafe extern "C" fn mlxrt_abi_version() -> u32 {
    MLXRT_ABI
}

/// Gives the library's version, such as "0.1.0".
///
/// Threads: any.
/// Blocks: no.
/// Errors: none.
/// Owns: nothing; the text lives as long as the process.
#[no_mangle]
pub unsafe extern "C" fn mlxrt_version() -> *const c_char {
    VERSION.as_ptr()
}

/// Sends the log of the whole process to fn: lines up to level, one of MLXRT_LOG_*. NULL is silence, the
/// default. The last one to set it wins. When this returns, the function before neither runs nor will.
///
/// Threads: any; fn is called on any thread, concurrently.
/// Blocks: until calls of the function before have returned.
/// Errors: UNSUPPORTED for an unknown level; REENTRANT from inside a log function.
/// Owns: nothing; user_data must live until another log_set returns.
#[no_mangle]
pub unsafe extern "C" fn mlxrt_log_set(
    level: i32,
    r#fn: mlxrt_log_fn,
    user_data: *mut c_void,
) -> *mut mlxrt_error {
    call("mlxrt_log_set", Use::Query, || {
        let Some(function) = r#fn else {
            return log::set(log::Level::Error, None);
        };
        let level = log_level(level)?;
        let user_data = UserData(user_data);
        let sink = move |level: log::Level, line: &str| {
            let message = c_text(line.to_owned());
            let length = message.count_bytes();
            // SAFETY: the caller gave the function for calls on any thread with this user_data, until it is
            // replaced, which `log::set` waits for; the message lives through the call.
            guard::outside(|| unsafe {
                function(user_data.get(), level as i32, message.as_ptr(), length);
            });
        };
        log::set(level, Some(Box::new(sink)))
    })
}

fn log_level(level: i32) -> Result<log::Level> {
    match level {
        MLXRT_LOG_ERROR => Ok(log::Level::Error),
        MLXRT_LOG_WARN => Ok(log::Level::Warn),
        MLXRT_LOG_INFO => Ok(log::Level::Info),
        MLXRT_LOG_DEBUG => Ok(log::Level::Debug),
        _ => Err(Error::unsupported(format!(
            "level is {level}; known are {MLXRT_LOG_ERROR} (error) to {MLXRT_LOG_DEBUG} (debug)"
        ))),
    }
}

/// A pointer of the host's that is only handed back to the host.
#[derive(Clone, Copy)]
pub struct UserData(pub *mut c_void);

// SAFETY: the library never looks behind it; the header says on which threads a callback gets it.
unsafe impl Send for UserData {}
// SAFETY: as Send.
unsafe impl Sync for UserData {}

impl UserData {
    /// (A method, so that closures capture the whole, which is `Send`, and not the pointer in it.)
    pub fn get(self) -> *mut c_void {
        self.0
    }
}

/// Frees a buffer that the library handed out; NULL is fine.
///
/// Threads: any.
/// Blocks: no.
/// Errors: none; a handle given here by mistake is logged and left alone.
/// Owns: takes the buffer.
#[no_mangle]
pub unsafe extern "C" fn mlxrt_free(buffer: *mut c_void) {
    quietly("mlxrt_free", Use::Anywhere, || {
        if let Some(kind) = handle::table().kind_of(buffer) {
            let name = kind.name();
            return Err(Error::invalid(format!(
                "this is a {name} handle: call mlxrt_{name}_free"
            )));
        }
        // SAFETY: the caller gives up a buffer that came out of this library.
        unsafe { text::release(buffer) };
        Ok(())
    });
}

#[cfg(test)]
#[path = "library_tests.rs"]
mod tests;
