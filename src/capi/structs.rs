//! How structs cross the border between callers and libraries of different ages.
//!
//! Every struct starts with `struct_size`, the caller's `sizeof`. Nothing here makes a reference to the caller's
//! memory: bytes are copied, so neither its alignment nor its lifetime matters.

use std::mem::{align_of, offset_of, size_of};
use std::ptr;

use super::constants::*;
use super::types::*;
use crate::error::{Error, Result};

/// A `struct_size` above this is taken for garbage; nothing behind it is touched.
pub const LARGEST: usize = 4096;

/// A struct of the header.
///
/// # Safety
/// `#[repr(C)]`, aligned to 8, without padding; the first field is `struct_size: u32`; all bytes zero is a
/// valid value, and so is whatever a C compiler can store in its fields.
pub unsafe trait AbiStruct: Copy {
    /// The name in C.
    const NAME: &'static str;
    /// The size it had in version 1 of the header.
    const FIRST_SIZE: usize;

    /// All zero but `struct_size`: what a NULL pointer means, and where an output starts from.
    fn zeroed() -> Self {
        // SAFETY: the trait promises that all zero is a valid value.
        let mut value: Self = unsafe { std::mem::zeroed() };
        // SAFETY: the trait promises that a u32, struct_size, comes first.
        unsafe {
            (&raw mut value)
                .cast::<u32>()
                .write(size_of::<Self>() as u32)
        };
        value
    }
}

/// A struct that the caller fills.
///
/// # Safety
/// As `AbiStruct`.
pub unsafe trait InStruct: AbiStruct {
    /// Refuses flags that this version does not know and reserved fields that are not zero. `name` is the
    /// argument's.
    fn check(&self, name: &str) -> Result<()>;
}

/// A struct that the library fills.
///
/// # Safety
/// As `AbiStruct`.
pub unsafe trait OutStruct: AbiStruct {}

/// Reads a struct that the caller filled; NULL gives the defaults, all zero.
///
/// # Errors
/// INVALID_ARGUMENT for a `struct_size` that no version has had, UNSUPPORTED for fields, flags or reserved
/// fields that are set and not known.
///
/// # Safety
/// `pointer` is NULL or points to `struct_size` readable bytes (4 when that is 0 or above `LARGEST`).
pub unsafe fn read_options<T: InStruct>(pointer: *const T, name: &str) -> Result<T> {
    let mut value = T::zeroed();
    if pointer.is_null() {
        return Ok(value);
    }
    // SAFETY: as this function's own contract.
    let size = unsafe { struct_size(pointer, name)? };
    let bytes = pointer.cast::<u8>();
    let known = size_of::<T>();
    for at in known..size {
        // SAFETY: `at` is below struct_size, and so many bytes are readable.
        if unsafe { bytes.add(at).read() } != 0 {
            return Err(Error::unsupported(format!(
                "{name} sets fields of a {} that are newer than this library ({known} bytes are known, \
                 byte {at} is not zero)",
                T::NAME
            )));
        }
    }
    // SAFETY: min(size, known) bytes are readable there and writable here; any bytes a C compiler put into the
    // fields are a valid T, and fields not copied stay zero.
    unsafe { ptr::copy_nonoverlapping(bytes, (&raw mut value).cast::<u8>(), size.min(known)) };
    // From here on the value is complete.
    // SAFETY: the trait promises that a u32, struct_size, comes first.
    unsafe { (&raw mut value).cast::<u32>().write(known as u32) };
    value.check(name)?;
    Ok(value)
}

/// An output struct of the caller's, checked before any work begins.
pub struct Out<T> {
    pointer: *mut T,
    size: usize,
}

impl<T: OutStruct> Out<T> {
    /// Looks at `struct_size` only.
    ///
    /// # Errors
    /// INVALID_ARGUMENT for NULL and for a `struct_size` that no version has had; UNSUPPORTED for one that is
    /// absurd.
    ///
    /// # Safety
    /// `pointer` is NULL or points to `struct_size` bytes (4 when that is 0 or above `LARGEST`) that stay
    /// writable until `write`.
    pub unsafe fn check(pointer: *mut T, name: &str) -> Result<Self> {
        if pointer.is_null() {
            return Err(Error::invalid(format!("{name} is NULL")));
        }
        // SAFETY: as this function's own contract.
        let size = unsafe { struct_size(pointer, name)? };
        Ok(Out { pointer, size })
    }

    /// Writes what both sides know, zeroes what only the caller knows, and sets `struct_size` to what was
    /// filled.
    pub fn write(self, value: T) {
        let mut value = value;
        let filled = self.size.min(size_of::<T>());
        let to = self.pointer.cast::<u8>();
        // SAFETY: the trait promises that a u32, struct_size, comes first; `check` was promised `size` writable
        // bytes, and filled <= size; all bytes of `value` are initialised, since T has no padding.
        unsafe {
            (&raw mut value).cast::<u32>().write(filled as u32);
            ptr::copy_nonoverlapping((&raw const value).cast::<u8>(), to, filled);
            ptr::write_bytes(to.add(filled), 0, self.size - filled);
        }
    }
}

/// `Out::check` and `write` in one, for functions that have nothing to do in between.
///
/// # Errors
/// As `Out::check`.
///
/// # Safety
/// As `Out::check`.
pub unsafe fn write_out<T: OutStruct>(pointer: *mut T, name: &str, value: T) -> Result<()> {
    // SAFETY: as this function's own contract.
    unsafe { Out::check(pointer, name)? }.write(value);
    Ok(())
}

/// Reads and checks `struct_size`.
///
/// # Safety
/// 4 bytes are readable at `pointer`.
unsafe fn struct_size<T: AbiStruct>(pointer: *const T, name: &str) -> Result<usize> {
    // SAFETY: as this function's own contract; no alignment is asked for.
    let size = unsafe { pointer.cast::<u32>().read_unaligned() } as usize;
    if size < T::FIRST_SIZE || (size <= LARGEST && !size.is_multiple_of(8)) {
        return Err(Error::invalid(format!(
            "{name}.struct_size is {size}: set {name}.struct_size = sizeof({})",
            T::NAME
        )));
    }
    if size > LARGEST {
        return Err(Error::unsupported(format!(
            "{name}.struct_size is {size}, more than any {} has: set {name}.struct_size = sizeof({0})",
            T::NAME
        )));
    }
    Ok(size)
}

/// Refuses unknown bits of a flags field or argument.
pub fn check_flags(flags: u32, known: u32, name: &str) -> Result<()> {
    match flags & !known {
        0 => Ok(()),
        unknown => Err(Error::unsupported(format!(
            "{name} has bits that are unknown here: {unknown:#x}"
        ))),
    }
}

/// Registers structs: name, size in version 1, and for inputs the known flags and the reserved fields.
macro_rules! abi_struct {
    ($name:ident, $first_size:literal) => {
        const _: () = {
            assert!(size_of::<$name>() >= $first_size && $first_size % 8 == 0);
            assert!(size_of::<$name>() <= LARGEST);
            assert!(align_of::<$name>() == 8);
            assert!(offset_of!($name, struct_size) == 0);
        };
        // SAFETY: #[repr(C)] over integers, floats, raw pointers and optional functions, struct_size first,
        // alignment 8 as asserted; no padding as the header's -Wpadded test asserts.
        unsafe impl AbiStruct for $name {
            const NAME: &'static str = stringify!($name);
            const FIRST_SIZE: usize = $first_size;
        }
    };
}
macro_rules! in_struct {
    ($name:ident, $first_size:literal, $flags:expr $(, reserved $reserved:ident)*) => {
        abi_struct!($name, $first_size);
        // SAFETY: as AbiStruct.
        unsafe impl InStruct for $name {
            fn check(&self, name: &str) -> Result<()> {
                check_flags(self.flags, $flags, &format!("{name}.flags"))?;
                $(if self.$reserved != 0 {
                    let field = stringify!($reserved);
                    return Err(Error::unsupported(format!("{name}.{field} is not 0")));
                })*
                Ok(())
            }
        }
    };
}
macro_rules! out_struct {
    ($name:ident, $first_size:literal) => {
        abi_struct!($name, $first_size);
        // SAFETY: as AbiStruct.
        unsafe impl OutStruct for $name {}
    };
}

const INPUT_FLAGS: u32 = MLXRT_INPUT_NO_BOS
    | MLXRT_INPUT_SPECIAL_AS_TEXT
    | MLXRT_INPUT_TRUST_CONTENT
    | MLXRT_INPUT_NO_GENERATION_PROMPT
    | MLXRT_INPUT_CONTINUE_LAST;
const TRAIN_FLAGS: u32 = MLXRT_TRAIN_PATHS | MLXRT_TRAIN_MASK_PROMPT | MLXRT_TRAIN_CHECKPOINT;
const GENERATE_FLAGS: u32 = MLXRT_GEN_GREEDY
    | MLXRT_GEN_IGNORE_EOS
    | MLXRT_GEN_TOKENS_ONLY
    | MLXRT_GEN_PREFILL_ONLY
    | MLXRT_GEN_NO_PREFIX_CACHE
    | MLXRT_GEN_NO_MODEL_DEFAULTS
    | MLXRT_GEN_LOGPROBS
    | MLXRT_GEN_RAW_TEXT
    | MLXRT_GEN_STRICT_TOOLS
    | MLXRT_GEN_TOOL_DELTAS;

in_struct!(mlxrt_init_options, 48, 0);
in_struct!(mlxrt_memory_limits, 32, 0);
in_struct!(mlxrt_load_options, 40, MLXRT_LOAD_FOLLOW_LINKS);
in_struct!(mlxrt_session_options, 40, 0, reserved reserved);
in_struct!(mlxrt_call_options, 32, 0, reserved reserved);
in_struct!(mlxrt_adapter_options, 56, 0);
in_struct!(mlxrt_train_options, 104, TRAIN_FLAGS);
in_struct!(mlxrt_embed_options, 32, MLXRT_EMBED_NORMALIZE);
in_struct!(mlxrt_input, 104, INPUT_FLAGS);
in_struct!(mlxrt_generate_options, 176, GENERATE_FLAGS, reserved reserved);
out_struct!(mlxrt_memory, 56);
out_struct!(mlxrt_tensor, 96);
out_struct!(mlxrt_session_state, 48);
out_struct!(mlxrt_result, 136);
out_struct!(mlxrt_metrics_data, 224);
abi_struct!(mlxrt_tensor_view, 96);
// SAFETY: as AbiStruct.
unsafe impl InStruct for mlxrt_tensor_view {
    // It has no flags.
    fn check(&self, name: &str) -> Result<()> {
        match self.reserved {
            0 => Ok(()),
            _ => Err(Error::unsupported(format!("{name}.reserved is not 0"))),
        }
    }
}
// Handed out with the library's own struct_size.
abi_struct!(mlxrt_event, 88);
abi_struct!(mlxrt_train_event, 80);

#[cfg(test)]
#[path = "structs_tests.rs"]
mod tests;
