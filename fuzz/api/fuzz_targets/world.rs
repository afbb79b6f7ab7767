//! What the calls of one run share, and what they are made of.

use std::ffi::{c_void, CStr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use mlxrt::capi::adapter::mlxrt_adapter_free;
use mlxrt::capi::constants::{MLXRT_E_INTERNAL, MLXRT_OK};
use mlxrt::capi::error::{mlxrt_error, mlxrt_error_code, mlxrt_error_free, mlxrt_error_message};
use mlxrt::capi::generate::mlxrt_request_free;
use mlxrt::capi::grammar::mlxrt_grammar_free;
use mlxrt::capi::library::mlxrt_shutdown;
use mlxrt::capi::model::mlxrt_model_free;
use mlxrt::capi::session::mlxrt_session_free;

use crate::calls;

/// Bytes that are used up from the front.
pub struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Bytes(bytes)
    }

    pub fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// 0 when there are no more.
    pub fn u8(&mut self) -> u8 {
        self.next().unwrap_or(0)
    }

    pub fn u64(&mut self) -> u64 {
        (0..8).fold(0, |bits, _| bits << 8 | u64::from(self.u8()))
    }

    pub fn below(&mut self, bound: u8) -> u8 {
        self.u8() % bound
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::from(self.u8()) % from.len()]
    }

    /// Usually 0; the bits a flags field may have, or any.
    pub fn flags(&mut self) -> u32 {
        match self.u8() {
            byte @ 0xf0.. => 1 << (byte & 31).wrapping_mul(3).min(31),
            byte @ 0x80.. => u32::from(byte & 0x1f),
            byte @ 0x60.. => u32::from(self.u8() ^ byte),
            _ => 0,
        }
    }

    /// Some of the next bytes, for a callback.
    pub fn part(&mut self) -> Bytes<'a> {
        let length = usize::from(self.below(12)).min(self.0.len());
        let (part, rest) = self.0.split_at(length);
        self.0 = rest;
        Bytes(part)
    }

    pub fn float(&mut self) -> f32 {
        match self.u8() {
            0xff => f32::from_bits(self.u64() as u32),
            byte => {
                const USUAL: [f32; 12] = [
                    0.0,
                    1.0,
                    0.5,
                    -1.0,
                    0.9,
                    2.0,
                    -0.0,
                    1e-30,
                    1e30,
                    f32::NAN,
                    f32::INFINITY,
                    f32::NEG_INFINITY,
                ];
                USUAL[usize::from(byte & 0x3f) % USUAL.len() * usize::from(byte & 0x40 != 0)]
            }
        }
    }
}

/// A struct of the caller's in memory of its own, 4,096 bytes and more: as many as any struct_size may promise.
pub struct Sized<T> {
    memory: Vec<u64>,
    of: std::marker::PhantomData<T>,
}

impl<T> Sized<T> {
    /// `value` with a struct_size that is right, or wrong in one of the ways that there are.
    pub fn new(value: T, bytes: &mut Bytes) -> Self {
        let size = size_of::<T>() as u32;
        let mut memory = vec![0_u64; 4096 / 8 + 8];
        // SAFETY: the memory is larger than any struct of the ABI, aligned to 8, and theirs is no more.
        unsafe { memory.as_mut_ptr().cast::<T>().write(value) };
        let sizes = [
            size,
            0,
            4,
            size - 8,
            size + 8,
            size + 1,
            4096,
            4104,
            u32::MAX,
        ];
        let struct_size = match bytes.u8() {
            byte @ 0xe0.. => sizes[usize::from(byte) % sizes.len()],
            _ => size,
        };
        if struct_size == size + 8 && bytes.below(2) == 1 {
            memory[size_of::<T>() / 8] = 1;
        }
        // SAFETY: struct_size, a u32, comes first in each.
        unsafe { memory.as_mut_ptr().cast::<u32>().write(struct_size) };
        Sized {
            memory,
            of: std::marker::PhantomData,
        }
    }

    /// Seldom NULL.
    pub fn pointer(&mut self, bytes: &mut Bytes) -> *mut T {
        match bytes.u8() {
            0xf0.. => std::ptr::null_mut(),
            _ => self.memory.as_mut_ptr().cast(),
        }
    }
}

pub struct World {
    /// Every handle that a call gave, freed ones too, as addresses.
    handles: Mutex<Vec<usize>>,
    /// mlxrt_init calls that are still to be paired.
    pub inits: AtomicUsize,
    /// Loads are slow beside all else.
    pub loads: AtomicUsize,
    /// So are crowds.
    pub crowds: AtomicUsize,
    /// Memory limits were set.
    pub limited: AtomicBool,
}

impl World {
    pub fn new() -> Self {
        World {
            handles: Mutex::new(vec![calls::model().addr()]),
            inits: AtomicUsize::new(0),
            loads: AtomicUsize::new(0),
            crowds: AtomicUsize::new(0),
            limited: AtomicBool::new(false),
        }
    }

    pub fn keep<T>(&self, handle: *mut T) {
        let mut handles = self.handles.lock().unwrap_or_else(PoisonError::into_inner);
        handles.push(handle.addr());
    }

    /// A handle of whatever kind and state; seldom NULL or made up.
    pub fn handle<T>(&self, bytes: &mut Bytes) -> *mut T {
        let handles = self.handles.lock().unwrap_or_else(PoisonError::into_inner);
        let known = |at: u8| handles[usize::from(at) % handles.len()];
        let bits = match bytes.u8() {
            0xff => bytes.u64() as usize,
            0xfe => 0,
            // One bit of a handle that there is.
            0xfd => known(bytes.u8()) ^ 1 << bytes.below(64),
            // The last one, which is what a sequence mostly goes on with.
            at @ 0x80.. => handles[handles.len() - 1 - usize::from(at & 1).min(handles.len() - 1)],
            at => known(at),
        };
        std::ptr::without_provenance_mut(bits)
    }

    /// Frees all, as every kind, in the order in which they came.
    pub fn end(self) {
        let model = calls::model_if_alive();
        for bits in self.handles.into_inner().unwrap_or_default() {
            if bits == model {
                continue;
            }
            // SAFETY: anything may be freed as a handle of any kind.
            unsafe {
                mlxrt_request_free(std::ptr::without_provenance_mut(bits));
                mlxrt_adapter_free(std::ptr::without_provenance_mut(bits));
                mlxrt_grammar_free(std::ptr::without_provenance_mut(bits));
                mlxrt_session_free(std::ptr::without_provenance_mut(bits));
                mlxrt_model_free(std::ptr::without_provenance_mut(bits));
            }
        }
        for _ in 0..self.inits.into_inner() {
            // A forced shutdown may have taken it.
            // SAFETY: no pointers.
            outcome(unsafe { mlxrt_shutdown(0, 0) });
        }
        if self.limited.into_inner() {
            calls::forget_limits();
        }
        calls::silence();
    }

    pub fn inits_add(&self) {
        self.inits.fetch_add(1, Ordering::Relaxed);
    }
}

/// The code of an error, which is freed. A bug in the library ends the run.
pub fn outcome(error: *mut mlxrt_error) -> i32 {
    if error.is_null() {
        return MLXRT_OK;
    }
    // SAFETY: the error just came out of the library and is freed here only.
    unsafe {
        let code = mlxrt_error_code(error);
        let message = CStr::from_ptr(mlxrt_error_message(error)).to_str();
        let message = message.expect("UTF-8").to_owned();
        mlxrt_error_free(error);
        assert!((1..MLXRT_E_INTERNAL).contains(&code), "{code}: {message}");
        assert!(!message.is_empty() && message.len() < 4096, "{message}");
        code
    }
}

/// What a call did with its output: filled on success, NULL on failure; then freed.
pub fn buffer<T>(code: i32, data: *mut T) {
    assert_eq!(code != MLXRT_OK, data.is_null());
    // SAFETY: it just came out of the library.
    unsafe { mlxrt::capi::library::mlxrt_free(data.cast::<c_void>()) };
}
