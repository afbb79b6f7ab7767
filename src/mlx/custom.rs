//! Operations of MLX's graph that Rust computes, on the CPU device. They run on a thread of MLX's when the graph is
//! evaluated; what they return as an error is an evaluation's error, and so is a panic.

use std::ffi::{c_char, c_int, c_void, CStr};
use std::panic::AssertUnwindSafe;

use super::array::Array;
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

/// What an operation computes, and the gradient by its first input: from that by its output, in the place of the first
/// input, and from the other inputs.
struct Runs {
    run: Run,
    gradient: Option<Run>,
}

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
    gradient: Option<RawRun>,
    context: *mut c_void,
    free: unsafe extern "C" fn(*mut c_void),
    views: *const View,
    outputs: usize,
    strided: u32,
    written: u32,
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

/// What is queued: its name in errors, which inputs (bits) may come with strides, and which it also writes.
pub(super) struct Custom {
    pub name: &'static CStr,
    pub strided: u32,
    /// In place, in the order in which operations are queued on the stream: only arrays whose memory is no other's.
    pub written: u32,
    pub run: Run,
    /// By the first input, where there is one; the others must not be traced.
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
        let gradient = self.gradient.as_ref().map(|_| call_gradient as RawRun);
        let runs = Runs {
            run: self.run,
            gradient: self.gradient,
        };
        let op = RawCustom {
            name: self.name.as_ptr(),
            run: call,
            gradient,
            context: Box::into_raw(Box::new(runs)).cast(),
            free,
            views: views.as_ptr(),
            outputs: N,
            strided: self.strided,
            written: self.written,
        };
        let mut made = [mlx_sys::mlx_array {
            ctx: std::ptr::null_mut(),
        }; N];
        // SAFETY: inputs and outputs are as many as told and alive for the call; the shim takes the context.
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
/// As `mlxrt_run` in shim.h says; `context` is a `Runs` that is alive.
unsafe extern "C" fn call(
    context: *mut c_void,
    inputs: *const View,
    n: usize,
    outputs: *const View,
    m: usize,
    message: *mut c_char,
    size: usize,
) -> c_int {
    // SAFETY: the shim passes the context it took.
    let runs = unsafe { &*context.cast::<Runs>() };
    // SAFETY: as for this function.
    unsafe { guarded(&runs.run, [inputs, outputs], [n, m], message, size) }
}

/// # Safety
/// As `call`; the context has a gradient.
unsafe extern "C" fn call_gradient(
    context: *mut c_void,
    inputs: *const View,
    n: usize,
    outputs: *const View,
    m: usize,
    message: *mut c_char,
    size: usize,
) -> c_int {
    // SAFETY: the shim passes the context it took.
    let runs = unsafe { &*context.cast::<Runs>() };
    let none: Run = Box::new(|_, _| Err("there is no gradient".to_owned()));
    let run = runs.gradient.as_ref().unwrap_or(&none);
    // SAFETY: as for this function.
    unsafe { guarded(run, [inputs, outputs], [n, m], message, size) }
}

/// # Safety
/// As many views as told, alive for the call; `message` has `size` bytes.
unsafe fn guarded(
    run: &Run,
    views: [*const View; 2],
    counts: [usize; 2],
    message: *mut c_char,
    size: usize,
) -> c_int {
    let list = |index: usize| match counts[index] {
        0 => &[],
        // SAFETY: as many views as told, alive for the call.
        len => unsafe { std::slice::from_raw_parts(views[index], len) },
    };
    let why = match guard::catch(|| run(list(0), list(1)).map_err(Error::internal)) {
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
/// `context` is a `Runs` that nobody uses any more.
unsafe extern "C" fn free(context: *mut c_void) {
    // SAFETY: made by Box::into_raw in `queue`, and freed once.
    let run = unsafe { Box::from_raw(context.cast::<Runs>()) };
    let _ = guard::catch(AssertUnwindSafe(move || {
        drop(run);
        Ok(())
    }));
}
