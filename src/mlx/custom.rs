//! Operations of MLX's graph that Rust computes, on the CPU device. They run on a thread of MLX's when the graph is
//! evaluated; what they return as an error is an evaluation's error, and so is a panic.

use std::ffi::{c_char, c_int, c_void, CStr};
use std::ops::Range;
use std::panic::AssertUnwindSafe;

use super::array::{Array, InMlx};
use super::device::stream;
use super::error::check;
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::guard;

/// What an operation gives: an error's text says why.
pub(super) type Outcome<T = ()> = std::result::Result<T, String>;

/// An array in memory while an operation runs.
#[repr(C)]
pub(super) struct View {
    data: *mut c_void,
    dtype: c_int,
    rank: c_int,
    shape: *const c_int,
    strides: *const i64,
}

impl View {
    /// The first element; anything where there are none.
    pub fn data(&self) -> *mut u8 {
        self.data.cast()
    }

    pub fn dtype(&self) -> Option<Dtype> {
        Dtype::from_raw(self.dtype as mlx_sys::mlx_dtype)
    }

    pub fn shape(&self) -> &[i32] {
        self.list(self.shape)
    }

    /// In elements.
    pub fn strides(&self) -> &[i64] {
        self.list(self.strides)
    }

    fn list<T>(&self, start: *const T) -> &[T] {
        match usize::try_from(self.rank) {
            // SAFETY: the shim passes `rank` numbers, which live as long as the view.
            Ok(rank) if rank > 0 => unsafe { std::slice::from_raw_parts(start, rank) },
            _ => &[],
        }
    }
}

/// Computes outputs, row-major and not yet written, from inputs.
pub(super) type Run = Box<dyn Fn(&[View], &[View]) -> Outcome + Send + Sync>;

type RawRun = unsafe extern "C" fn(
    *mut c_void,
    *const View,
    usize,
    *const View,
    usize,
    *mut c_char,
    usize,
) -> c_int;

#[repr(C)]
struct RawCustom {
    name: *const c_char,
    run: RawRun,
    context: *mut c_void,
    gradient: *mut c_void,
    free: unsafe extern "C" fn(*mut c_void),
    views: *const View,
    outputs: usize,
    strided: u32,
    written_from: usize,
    written_to: usize,
}

extern "C" {
    fn mlxrt_shim_custom(
        op: *const RawCustom,
        inputs: *const c_void,
        count: usize,
        outputs: *mut c_void,
        stream: *mut c_void,
    ) -> c_int;
}

/// What is queued: its name in errors, which inputs (bits) may come with strides, and which (a range) it also writes.
pub(super) struct Custom {
    pub name: &'static CStr,
    pub strided: u32,
    /// In place, in the order in which operations are queued on the stream: only arrays whose memory is no other's.
    pub written: Range<usize>,
    pub run: Run,
    /// By the first input: from that by the output, in its place, and from the other inputs, which must not be traced.
    pub gradient: Option<Run>,
}

impl Custom {
    /// Queues it on the engine's stream, which must be the CPU's.
    pub fn queue<const N: usize>(
        self,
        inputs: &[&Array],
        outputs: [(&[i32], Dtype); N],
    ) -> Result<[Array; N]> {
        let inputs: Vec<_> = inputs.iter().map(|input| input.raw()).collect();
        let views = outputs.map(|(shape, dtype)| View {
            data: std::ptr::null_mut(),
            dtype: dtype.raw() as c_int,
            rank: shape.len() as c_int,
            shape: shape.as_ptr(),
            strides: std::ptr::null(),
        });
        let context = |run: Run| Box::into_raw(Box::new(run)).cast();
        let op = RawCustom {
            name: self.name.as_ptr(),
            run: call,
            context: context(self.run),
            gradient: self.gradient.map_or(std::ptr::null_mut(), context),
            free,
            views: views.as_ptr(),
            outputs: N,
            strided: self.strided,
            written_from: self.written.start,
            written_to: self.written.end,
        };
        let mut made = [mlx_sys::mlx_array {
            ctx: std::ptr::null_mut(),
        }; N];
        // SAFETY: inputs and outputs are as many as told and alive for the call; the shim takes the contexts.
        let status = unsafe {
            mlxrt_shim_custom(
                &op,
                inputs.as_ptr().cast(),
                inputs.len(),
                made.as_mut_ptr().cast(),
                stream().ctx,
            )
        };
        let made = made.map(Array::from_raw);
        check(status)?;
        Ok(made)
    }
}

/// # Safety
/// As `mlxrt_run` in shim.h says; `context` is a `Run` that is alive.
unsafe extern "C" fn call(
    context: *mut c_void,
    inputs: *const View,
    n: usize,
    outputs: *const View,
    m: usize,
    message: *mut c_char,
    size: usize,
) -> c_int {
    // SAFETY: the shim passes a context that it took.
    let run = unsafe { &*context.cast::<Run>() };
    let list = |start: *const View, len: usize| match len {
        0 => &[],
        // SAFETY: as many views as told, alive for the call.
        len => unsafe { std::slice::from_raw_parts(start, len) },
    };
    let (inputs, outputs) = (list(inputs, n), list(outputs, m));
    let why = match guard::catch(|| run(inputs, outputs).map_err(Error::internal)) {
        Ok(()) => return 0,
        Err(error) => error.message,
    };
    let len = why.len().min(size.saturating_sub(1));
    // SAFETY: `message` has `size` bytes.
    unsafe {
        std::ptr::copy_nonoverlapping(why.as_ptr().cast(), message, len);
        message.add(len).write(0);
    }
    1
}

/// # Safety
/// `context` is a `Run` that nobody uses any more.
unsafe extern "C" fn free(context: *mut c_void) {
    // SAFETY: made by Box::into_raw in `queue`, and freed once.
    let run = unsafe { Box::from_raw(context.cast::<Run>()) };
    let _ = guard::catch(AssertUnwindSafe(move || {
        drop(run);
        Ok(())
    }));
}
