//! The library itself: versions, the log, freeing buffers.

use std::ffi::{c_char, c_void, CStr};

use super::boundary::{call, quietly, Use};
use super::constants::*;
use super::error::{c_text, mlxrt_error};
use super::structs::{check_flags, read_options};
use super::text::TextOut;
use super::time::timeout;
use super::types::{mlxrt_api, mlxrt_init_options, mlxrt_log_fn};
use super::{api, handle, text};
use crate::error::{Error, Result};
use crate::mlx::Device;
use crate::runtime::engine::{self, EngineOptions, MemoryLimits};
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

/// Gives the library's functions as a table, for plugins and programs that load it with dlopen: one name to look up.
/// Give it the MLXRT_ABI that you were compiled with; NULL when the library is older than that, or for 0. A table has
/// all functions of the version asked for.
///
/// Threads: any.
/// Blocks: no.
/// Errors: none.
/// Owns: nothing; the table lives as long as the process.
#[no_mangle]
pub unsafe extern "C" fn mlxrt_get_api(abi: u32) -> *const mlxrt_api {
    api::table(abi)
}

/// Starts the engine, or adds one more user of the one that runs: whoever called init owes a shutdown. Optional, as
/// loading a model starts the engine with the defaults. On an NVIDIA GPU it sets MLX_ENABLE_CACHE_THRASHING_CHECK=0 in the
/// process's environment, unless the variable is there: with that check MLX fails for ever after some hundred lengths of prompts.
///
/// Threads: any.
/// Blocks: while the engine starts.
/// Errors: INCOMPATIBLE when the engine runs on another device than the one asked for; UNSUPPORTED when there is no
/// such device; RESOURCES; SUSPENDED; DEVICE.
/// Owns: nothing.
#[no_mangle]
pub unsafe extern "C" fn mlxrt_init(options: *const mlxrt_init_options) -> *mut mlxrt_error {
    call("mlxrt_init", Use::Blocking, || {
        // SAFETY: the caller's options are NULL or as large as their struct_size says.
        let options = unsafe { read_options(options, "options")? };
        let device = match options.device {
            MLXRT_DEVICE_AUTO => None,
            MLXRT_DEVICE_CPU => Some(Device::Cpu),
            MLXRT_DEVICE_GPU => Some(Device::Gpu),
            other => {
                return Err(Error::unsupported(format!(
                    "options.device is {other}; known are 0 (auto), 1 (CPU) and 2 (GPU)"
                )))
            }
        };
        // SAFETY: the field is NULL or NUL-terminated.
        let dir = unsafe { text::opt_path_arg(options.resource_dir, "options.resource_dir")? };
        engine::init(EngineOptions {
            device,
            resource_dir: dir.map(|dir| dir.to_string_lossy().into_owned()),
            limits: MemoryLimits {
                memory: limit(options.memory_limit),
                cache: limit(options.cache_limit),
                wired: limit(options.wired_limit),
            },
            cpu_threads: match options.cpu_threads {
                0 => None,
                // More than that is a mistake that would only start idle threads.
                threads => Some(threads.min(MOST_THREADS) as usize),
            },
        })
    })
}

/// More threads than any machine has use for.
const MOST_THREADS: u32 = 1024;

/// 0 = not set, 1 = none, else bytes.
pub(super) fn limit(bytes: u64) -> Option<u64> {
    match bytes {
        0 => None,
        1 => Some(0),
        bytes => Some(bytes),
    }
}

/// Drops one init. The engine ends when no init and no model is left; with MLXRT_SHUTDOWN_FORCE it ends now, running
/// requests as cancelled, and what other users of the library in this process still hold fails from then on. After
/// it, init or loading a model starts a new engine.
///
/// Threads: any.
/// Blocks: until the engine's running step is done, at most timeout_ms.
/// Errors: BUSY names what is left (the init is dropped, the last model ends the engine); TIMEOUT: call again.
/// Owns: nothing; handles of models and sessions stay yours to free.
#[no_mangle]
pub unsafe extern "C" fn mlxrt_shutdown(flags: u32, timeout_ms: u32) -> *mut mlxrt_error {
    call("mlxrt_shutdown", Use::Blocking, || {
        check_flags(flags, MLXRT_SHUTDOWN_FORCE, "flags")?;
        engine::shutdown(flags & MLXRT_SHUTDOWN_FORCE != 0, timeout(timeout_ms))
    })
}

/// Keeps the engine from the device: running requests pause where they are, and a call that needs the device gives
/// SUSPENDED. Counted: the work goes on after as many mlxrt_resume. Deadlines do not run meanwhile; queries, frees and
/// cancels work. For an app that goes into the background.
///
/// Threads: any.
/// Blocks: until the device is idle, one decode step or one chunk of a prompt; at most timeout_ms.
/// Errors: TIMEOUT: it is not suspended and owes no resume, but nothing new starts for a second; call again.
/// Owns: nothing.
#[no_mangle]
pub unsafe extern "C" fn mlxrt_suspend(timeout_ms: u32) -> *mut mlxrt_error {
    call("mlxrt_suspend", Use::Blocking, || {
        engine::suspend(timeout(timeout_ms))
    })
}

/// Takes one mlxrt_suspend back; after the last one running requests go on.
///
/// Threads: any.
/// Blocks: no.
/// Errors: INVALID_ARGUMENT when nothing is suspended.
/// Owns: nothing.
#[no_mangle]
pub unsafe extern "C" fn mlxrt_resume() -> *mut mlxrt_error {
    call("mlxrt_resume", Use::Blocking, engine::resume)
}

/// Tells the device that the engine runs on (or would), as JSON: "device" ("cpu" or "gpu"), "devices" (those there
/// are), "mlx_version", and "info", what MLX tells of the device; of a CPU that computes with the library's own kernels
/// also "kernels": the "path" they take, the machine's "features", and "threads".
///
/// Threads: any.
/// Blocks: no.
/// Errors: DEVICE.
/// Owns: json is yours: mlxrt_free.
#[no_mangle]
pub unsafe extern "C" fn mlxrt_device_info(
    json: *mut *mut c_char,
    len: *mut usize,
) -> *mut mlxrt_error {
    // SAFETY: the caller's outputs are NULL or writable.
    let out = unsafe { TextOut::clear(json, len, "json") };
    call("mlxrt_device_info", Use::Query, || {
        out?.put(&engine::device_json()?)
    })
}

/// Sends the log of the whole process to fn: lines up to level, one of MLXRT_LOG_*. NULL is silence, the
/// default. A line has no line break and no other control character, and at most 1,900 bytes. The last one to set it wins. When this returns, the function before neither runs nor will.
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
