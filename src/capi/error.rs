//! Errors as C sees them.

use std::ffi::{c_char, CStr, CString};

use crate::error::{Code, Error};
use crate::words::plain;

/// What went wrong: a code and one sentence, in one line of at most 1,900 bytes without control characters. It belongs to the caller, may be read on any thread, several at
/// once, and lives until mlxrt_error_free.
pub struct mlxrt_error {
    code: i32,
    message: CString,
}

/// A new error object, the caller's to free.
pub fn into_raw(error: Error) -> *mut mlxrt_error {
    Box::into_raw(Box::new(mlxrt_error {
        code: error.code as i32,
        message: c_text(plain(&error.message).into_owned()),
    }))
}

/// The text as a C string; a NUL inside, which would end it early, becomes U+FFFD.
pub fn c_text(text: String) -> CString {
    CString::new(text).unwrap_or_else(|error| {
        let bytes = error.into_vec();
        let text = String::from_utf8_lossy(&bytes).replace('\0', "\u{FFFD}");
        CString::new(text).unwrap_or_default()
    })
}

/// Gives the code of an error, MLXRT_E_*; MLXRT_OK for NULL.
///
/// Threads: any.
/// Blocks: no.
/// Errors: none.
/// Owns: nothing.
#[no_mangle]
pub unsafe extern "C" fn mlxrt_error_code(error: *const mlxrt_error) -> i32 {
    // SAFETY: the caller passes NULL or an error that it has not freed; nothing writes to one.
    unsafe { error.as_ref() }.map_or(super::constants::MLXRT_OK, |error| error.code)
}

/// Gives the sentence of an error in UTF-8; an empty one for NULL. Names in it are as they are in files and arguments, but that
/// long ones are cut and that characters which would steer a terminal (controls, ends of lines, marks that turn
/// the direction of text) are written as "\u{1b}".
///
/// Threads: any.
/// Blocks: no.
/// Errors: none.
/// Owns: nothing; the text lives as long as the error.
#[no_mangle]
pub unsafe extern "C" fn mlxrt_error_message(error: *const mlxrt_error) -> *const c_char {
    // SAFETY: the caller passes NULL or an error that it has not freed; nothing writes to one.
    unsafe { error.as_ref() }.map_or(c"".as_ptr(), |error| error.message.as_ptr())
}

/// Frees an error; NULL is fine. To ignore the outcome of a call:
/// mlxrt_error_free(mlxrt_shutdown(0, 0)).
///
/// Threads: any.
/// Blocks: no.
/// Errors: none.
/// Owns: takes the error.
#[no_mangle]
pub unsafe extern "C" fn mlxrt_error_free(error: *mut mlxrt_error) {
    if !error.is_null() {
        // SAFETY: it came out of `into_raw`, and the caller gives it up once.
        drop(unsafe { Box::from_raw(error) });
    }
}

/// Gives the name of a code, such as "INVALID_ARGUMENT"; "UNKNOWN" for one that this version does not have.
///
/// Threads: any.
/// Blocks: no.
/// Errors: none.
/// Owns: nothing; the text lives as long as the process.
#[no_mangle]
pub unsafe extern "C" fn mlxrt_code_name(code: i32) -> *const c_char {
    let name = usize::try_from(code).ok().and_then(|code| NAMES.get(code));
    name.map_or(c"UNKNOWN", |(_, name)| *name).as_ptr()
}

/// Every code at its number.
const NAMES: [(Option<Code>, &CStr); 20] = [
    (None, c"OK"),
    (Some(Code::InvalidArgument), c"INVALID_ARGUMENT"),
    (Some(Code::InvalidHandle), c"INVALID_HANDLE"),
    (Some(Code::NotFound), c"NOT_FOUND"),
    (Some(Code::Io), c"IO"),
    (Some(Code::BadModel), c"BAD_MODEL"),
    (Some(Code::Incompatible), c"INCOMPATIBLE"),
    (Some(Code::Unsupported), c"UNSUPPORTED"),
    (Some(Code::OutOfMemory), c"OUT_OF_MEMORY"),
    (Some(Code::ContextFull), c"CONTEXT_FULL"),
    (Some(Code::Busy), c"BUSY"),
    (Some(Code::Cancelled), c"CANCELLED"),
    (Some(Code::Timeout), c"TIMEOUT"),
    (Some(Code::Suspended), c"SUSPENDED"),
    (Some(Code::Device), c"DEVICE"),
    (Some(Code::Resources), c"RESOURCES"),
    (Some(Code::BadGrammar), c"BAD_GRAMMAR"),
    (Some(Code::Reentrant), c"REENTRANT"),
    (Some(Code::Forked), c"FORKED"),
    (Some(Code::Internal), c"INTERNAL"),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn text(pointer: *const c_char) -> &'static str {
        // SAFETY: the functions under test give NUL-terminated text, static or of an error not freed before use.
        unsafe { CStr::from_ptr(pointer) }.to_str().unwrap()
    }

    #[test]
    fn an_error_carries_code_and_message() {
        let error = into_raw(Error::new(Code::Busy, "the session is in use"));
        // SAFETY: `error` is live until the free.
        unsafe {
            assert_eq!(mlxrt_error_code(error), 10);
            assert_eq!(text(mlxrt_error_message(error)), "the session is in use");
            mlxrt_error_free(error);
        }
    }

    #[test]
    fn null_is_success() {
        // SAFETY: NULL is allowed by each.
        unsafe {
            assert_eq!(mlxrt_error_code(std::ptr::null()), 0);
            assert_eq!(text(mlxrt_error_message(std::ptr::null())), "");
            mlxrt_error_free(std::ptr::null_mut());
        }
    }

    #[test]
    fn a_nul_does_not_cut_the_message() {
        let error = into_raw(Error::invalid("name \"a\0b\" is odd"));
        // SAFETY: `error` is live until the free.
        unsafe {
            assert_eq!(text(mlxrt_error_message(error)), "name \"a\\u{0}b\" is odd");
            mlxrt_error_free(error);
        }
    }

    #[test]
    fn names_stand_at_their_numbers() {
        for (number, (code, name)) in NAMES.iter().enumerate() {
            assert_eq!(code.map_or(0, |code| code as usize), number, "{name:?}");
        }
        // SAFETY: takes a number.
        unsafe {
            assert_eq!(text(mlxrt_code_name(0)), "OK");
            assert_eq!(text(mlxrt_code_name(19)), "INTERNAL");
            for unknown in [20, -1, i32::MIN, i32::MAX] {
                assert_eq!(text(mlxrt_code_name(unknown)), "UNKNOWN");
            }
        }
    }
}
