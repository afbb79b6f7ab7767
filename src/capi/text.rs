//! Text, paths and arrays: copied in, and handed out in buffers that `mlxrt_free` frees.
//!
//! Lengths from C are checked before anything is read or allocated; arrays need no alignment; a length of zero
//! never touches the pointer.

use std::ffi::{c_char, CStr};
use std::mem::size_of;
use std::path::PathBuf;
use std::ptr;

use crate::error::{Code, Error, Result};

/// `MLXRT_NTS`: the text is NUL-terminated.
pub const NTS: usize = usize::MAX;
/// The most bytes that one text or array may have.
pub const LARGEST: usize = 1 << 30;
/// The most bytes that a path may have.
const LONGEST_PATH: usize = 1 << 16;

/// A value that may be copied out of C's memory byte by byte.
///
/// # Safety
/// No padding, and every bit pattern is a valid value.
pub unsafe trait Plain: Copy {}
// SAFETY: an integer.
unsafe impl Plain for u8 {}
// SAFETY: an integer.
unsafe impl Plain for i32 {}
// SAFETY: an integer.
unsafe impl Plain for usize {}
// SAFETY: a float.
unsafe impl Plain for f32 {}
// SAFETY: a raw pointer.
unsafe impl<T> Plain for *const T {}
// SAFETY: a raw pointer.
unsafe impl<T> Plain for *mut T {}

/// Copies `count` values in; a count of 0 allows NULL. `name` is the argument's.
///
/// # Errors
/// INVALID_ARGUMENT for NULL with a count, and for more than `LARGEST` bytes; OUT_OF_MEMORY.
///
/// # Safety
/// `pointer` is NULL or points to `count` readable values.
pub unsafe fn slice_arg<T: Plain>(pointer: *const T, count: usize, name: &str) -> Result<Vec<T>> {
    if count == 0 {
        return Ok(Vec::new());
    }
    if pointer.is_null() {
        return Err(Error::invalid(format!(
            "{name} is NULL, but its length is {count}"
        )));
    }
    if count > LARGEST / size_of::<T>() {
        let hint = if count == NTS {
            ", and MLXRT_NTS works for text only"
        } else {
            ""
        };
        return Err(Error::invalid(format!(
            "{name} has a length of {count}, more than the {} that are allowed{hint}",
            LARGEST / size_of::<T>()
        )));
    }
    let mut values: Vec<T> = Vec::new();
    values
        .try_reserve_exact(count)
        .map_err(|_| no_memory(name))?;
    // SAFETY: `count` values are readable at `pointer` and there is room for them; they are copied as bytes, so
    // alignment does not matter; any bytes are a valid T.
    unsafe {
        ptr::copy_nonoverlapping(
            pointer.cast::<u8>(),
            values.as_mut_ptr().cast::<u8>(),
            count * size_of::<T>(),
        );
        values.set_len(count);
    }
    Ok(values)
}

/// Copies a text in: `length` bytes, or up to its NUL with `NTS`. NULL with a length of 0 is the empty text.
///
/// # Errors
/// INVALID_ARGUMENT for NULL with a length, for too long a text, and for what is not UTF-8, with the byte at
/// which it ends to be; OUT_OF_MEMORY.
///
/// # Safety
/// `pointer` is NULL or points to `length` readable bytes, or with `NTS` to a NUL-terminated text.
pub unsafe fn str_arg(pointer: *const c_char, length: usize, name: &str) -> Result<String> {
    // SAFETY: as this function's own contract.
    let bytes = unsafe { bytes_arg(pointer, length, name)? };
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Error::invalid(format!("{name} is not valid UTF-8 at byte {at}"))
    })
}

/// As `str_arg`, whatever the bytes are.
///
/// # Errors
/// As `slice_arg`; INVALID_ARGUMENT for NULL with `NTS`.
///
/// # Safety
/// As `str_arg`.
pub unsafe fn bytes_arg(pointer: *const c_char, length: usize, name: &str) -> Result<Vec<u8>> {
    if length == NTS && pointer.is_null() {
        return Err(Error::invalid(format!("{name} is NULL")));
    }
    // SAFETY: as this function's own contract, and it is not NULL with `NTS`.
    let length = unsafe { length_of(pointer, length) };
    // SAFETY: so many bytes are readable.
    unsafe { slice_arg(pointer.cast::<u8>(), length, name) }
}

/// The bytes of a text.
///
/// # Safety
/// With `NTS`, `pointer` points to a NUL-terminated text.
pub unsafe fn length_of(pointer: *const c_char, length: usize) -> usize {
    match length {
        // SAFETY: as this function's own contract.
        NTS => unsafe { CStr::from_ptr(pointer) }.count_bytes(),
        length => length,
    }
}

/// As `str_arg`, for a text that may be left out: NULL with a length of 0 or `NTS` is `None`.
///
/// # Errors
/// As `str_arg`.
///
/// # Safety
/// As `str_arg`.
pub unsafe fn opt_str_arg(
    pointer: *const c_char,
    length: usize,
    name: &str,
) -> Result<Option<String>> {
    if pointer.is_null() && (length == 0 || length == NTS) {
        return Ok(None);
    }
    // SAFETY: as this function's own contract.
    unsafe { str_arg(pointer, length, name) }.map(Some)
}

/// Copies a NUL-terminated path in.
///
/// # Errors
/// INVALID_ARGUMENT for NULL, an empty or an absurdly long path, and for what is not UTF-8.
///
/// # Safety
/// `pointer` is NULL or points to a NUL-terminated text.
pub unsafe fn path_arg(pointer: *const c_char, name: &str) -> Result<PathBuf> {
    // SAFETY: as this function's own contract.
    let path = unsafe { str_arg(pointer, NTS, name)? };
    match path.len() {
        0 => Err(Error::invalid(format!("{name} is empty"))),
        length if length > LONGEST_PATH => Err(Error::invalid(format!(
            "{name} has {length} bytes, too many for a path"
        ))),
        _ => Ok(PathBuf::from(path)),
    }
}

/// As `path_arg`; NULL is `None`.
///
/// # Errors
/// As `path_arg`.
///
/// # Safety
/// As `path_arg`.
pub unsafe fn opt_path_arg(pointer: *const c_char, name: &str) -> Result<Option<PathBuf>> {
    if pointer.is_null() {
        return Ok(None);
    }
    // SAFETY: as this function's own contract.
    unsafe { path_arg(pointer, name) }.map(Some)
}

/// Copies an array of texts in; without `lengths` all are NUL-terminated. Errors name the element.
///
/// # Errors
/// As `slice_arg` and `str_arg`.
///
/// # Safety
/// `pointers` is NULL or points to `count` pointers, `lengths` is NULL or points to `count` lengths, and each
/// pair is as `str_arg` wants it.
pub unsafe fn strings_arg(
    pointers: *const *const c_char,
    lengths: *const usize,
    count: usize,
    name: &str,
) -> Result<Vec<String>> {
    // SAFETY: the caller promises `count` pointers.
    let pointers = unsafe { slice_arg(pointers, count, name)? };
    let lengths = if lengths.is_null() {
        None
    } else {
        // SAFETY: the caller promises `count` lengths.
        Some(unsafe { slice_arg(lengths, count, &format!("the lengths of {name}"))? })
    };
    let mut total = 0_usize;
    let mut strings = Vec::new();
    strings
        .try_reserve_exact(count)
        .map_err(|_| no_memory(name))?;
    for (index, pointer) in pointers.into_iter().enumerate() {
        let length = lengths
            .as_ref()
            .and_then(|lengths| lengths.get(index))
            .copied()
            .unwrap_or(NTS);
        // SAFETY: the caller promises that each pair is as `str_arg` wants it.
        let text = unsafe { str_arg(pointer, length, &format!("{name}[{index}]"))? };
        total = total.saturating_add(text.len());
        if total > LARGEST {
            return Err(Error::invalid(format!(
                "{name} has more than {LARGEST} bytes together"
            )));
        }
        strings.push(text);
    }
    Ok(strings)
}

/// A text that goes out: `char **text, size_t *length`. The length may be NULL: a NUL stands behind the text.
pub struct TextOut {
    text: *mut *mut c_char,
    length: *mut usize,
}

impl TextOut {
    /// Sets both to NULL and 0, so that they are that on every failure; call it before anything else.
    ///
    /// # Errors
    /// INVALID_ARGUMENT when `text` is NULL.
    ///
    /// # Safety
    /// Each is NULL or writable until `put`.
    pub unsafe fn clear(text: *mut *mut c_char, length: *mut usize, name: &str) -> Result<Self> {
        // SAFETY: as this function's own contract.
        unsafe {
            write_if(text, ptr::null_mut());
            write_if(length, 0);
        }
        not_null(text, name)?;
        Ok(TextOut { text, length })
    }

    /// Hands a copy out with a NUL behind it.
    ///
    /// # Errors
    /// OUT_OF_MEMORY.
    pub fn put(self, value: &str) -> Result<()> {
        let buffer = allocate::<u8>(value.len(), 1)?;
        // SAFETY: the buffer has room for the bytes and the NUL; `clear` was promised that both are writable.
        unsafe {
            ptr::copy_nonoverlapping(value.as_ptr(), buffer, value.len());
            buffer.add(value.len()).write(0);
            write_if(self.text, buffer.cast());
            write_if(self.length, value.len());
        }
        Ok(())
    }
}

/// An array that goes out: `T **data, size_t *count`.
pub struct ArrayOut<T> {
    data: *mut *mut T,
    count: *mut usize,
}

impl<T: Plain> ArrayOut<T> {
    /// Sets both to NULL and 0, so that they are that on every failure; call it before anything else.
    ///
    /// # Errors
    /// INVALID_ARGUMENT when one is NULL.
    ///
    /// # Safety
    /// Each is NULL or writable until `put`.
    pub unsafe fn clear(data: *mut *mut T, count: *mut usize, name: &str) -> Result<Self> {
        // SAFETY: as this function's own contract.
        unsafe {
            write_if(data, ptr::null_mut());
            write_if(count, 0);
        }
        not_null(data, name)?;
        not_null(count, "count")?;
        Ok(ArrayOut { data, count })
    }

    /// As `clear`, where `data` may be NULL: then only the count goes out.
    ///
    /// # Errors
    /// INVALID_ARGUMENT when `count` is NULL.
    ///
    /// # Safety
    /// As for `clear`.
    pub unsafe fn clear_count(data: *mut *mut T, count: *mut usize) -> Result<Self> {
        // SAFETY: as this function's own contract.
        unsafe {
            write_if(data, ptr::null_mut());
            write_if(count, 0);
        }
        not_null(count, "count")?;
        Ok(ArrayOut { data, count })
    }

    /// Hands a copy out; of an empty array too the pointer is not NULL.
    ///
    /// # Errors
    /// OUT_OF_MEMORY.
    pub fn put(self, values: &[T]) -> Result<()> {
        if self.data.is_null() {
            // SAFETY: `clear_count` was promised that it is writable.
            unsafe { write_if(self.count, values.len()) };
            return Ok(());
        }
        let buffer = allocate::<T>(values.len(), 0)?;
        // SAFETY: the buffer has room for the values; `clear` was promised that both are writable.
        unsafe {
            ptr::copy_nonoverlapping(values.as_ptr(), buffer, values.len());
            write_if(self.data, buffer);
            write_if(self.count, values.len());
        }
        Ok(())
    }
}

/// A handle that goes out: `T **out`.
pub struct HandleOut<C> {
    out: *mut *mut C,
}

impl<C> HandleOut<C> {
    /// Sets it to NULL, so that it is that on every failure; call it before anything else.
    ///
    /// # Errors
    /// INVALID_ARGUMENT when `out` is NULL.
    ///
    /// # Safety
    /// `out` is NULL or writable until `put`.
    pub unsafe fn clear(out: *mut *mut C, name: &str) -> Result<Self> {
        // SAFETY: as this function's own contract.
        unsafe { write_if(out, ptr::null_mut()) };
        not_null(out, name)?;
        Ok(HandleOut { out })
    }

    /// Hands the handle out.
    #[allow(
        clippy::not_unsafe_ptr_arg_deref,
        reason = "the handle is stored, not dereferenced"
    )]
    pub fn put(self, handle: *mut C) {
        // SAFETY: `clear` found it not NULL and was promised that it is writable.
        unsafe { self.out.write_unaligned(handle) };
    }
}

/// Frees what `allocate` gave.
///
/// # Safety
/// `buffer` is NULL or came out of `allocate` and is not used any more.
pub unsafe fn release(buffer: *mut std::ffi::c_void) {
    // SAFETY: it came out of malloc.
    unsafe { libc::free(buffer) };
}

/// Room for `count` values and `extra` more, of C's own allocator, so that one pointer is all it takes to free it.
pub(super) fn allocate<T>(count: usize, extra: usize) -> Result<*mut T> {
    let full = || Error::new(Code::OutOfMemory, "no memory for the result");
    let values = count.checked_add(extra).ok_or_else(full)?;
    let bytes = values.checked_mul(size_of::<T>()).ok_or_else(full)?;
    // Of nothing, too, one value: what malloc gives for fewer bytes may be aligned for those only.
    // SAFETY: malloc has no preconditions; it aligns for every T that is Plain and fits.
    let buffer = unsafe { libc::malloc(bytes.max(size_of::<T>())) }.cast::<T>();
    if buffer.is_null() {
        return Err(full());
    }
    Ok(buffer)
}

/// # Safety
/// `pointer` is NULL or writable; no alignment is asked for.
unsafe fn write_if<T>(pointer: *mut T, value: T) {
    if !pointer.is_null() {
        // SAFETY: as this function's own contract.
        unsafe { pointer.write_unaligned(value) };
    }
}

fn not_null<T>(pointer: *const T, name: &str) -> Result<()> {
    if pointer.is_null() {
        return Err(Error::invalid(format!("{name} is NULL")));
    }
    Ok(())
}

fn no_memory(name: &str) -> Error {
    Error::new(Code::OutOfMemory, format!("no memory for a copy of {name}"))
}

#[cfg(test)]
#[path = "text_tests.rs"]
mod tests;
