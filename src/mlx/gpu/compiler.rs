//! NVRTC: the kernels, which are C++ in the library, to the code of the GPU that is there. MLX's own wheel needs it, so it is there
//! where MLX computes on NVIDIA's GPUs; and what is compiled are the few kernels that a model needs.

use std::ffi::{c_char, c_int, c_void, CStr, CString};
use std::ptr::{null, null_mut};
use std::sync::{Arc, Mutex, PoisonError};

use super::driver::{c_string, functions, Driver};
use super::memory::cuda_stream;
use crate::error::{Code, Error, Result};

/// All of them, in the order in which they need each other.
const KERNELS: [&str; 11] = [
    include_str!("kernels/ptx.cu"),
    include_str!("kernels/numbers.cu"),
    include_str!("kernels/packed.cu"),
    include_str!("kernels/embed.cu"),
    include_str!("kernels/product.cu"),
    include_str!("kernels/lows.cu"),
    include_str!("kernels/norms.cu"),
    include_str!("kernels/experts.cu"),
    include_str!("kernels/heads.cu"),
    include_str!("kernels/attention.cu"),
    include_str!("kernels/draw.cu"),
];

type Status = c_int;
type Program = *mut c_void;

functions! { Functions of c"libnvrtc.so.13", c"libnvrtc.so.12", c"libnvrtc.so":
    create = c"nvrtcCreateProgram" (
        *mut Program, *const c_char, *const c_char, c_int, *const *const c_char, *const *const c_char
    );
    add_name = c"nvrtcAddNameExpression" (Program, *const c_char);
    compile = c"nvrtcCompileProgram" (Program, c_int, *const *const c_char);
    lowered_name = c"nvrtcGetLoweredName" (Program, *const c_char, *mut *const c_char);
    code_size = c"nvrtcGetCUBINSize" (Program, *mut usize);
    code = c"nvrtcGetCUBIN" (Program, *mut c_char);
    log_size = c"nvrtcGetProgramLogSize" (Program, *mut usize);
    log = c"nvrtcGetProgramLog" (Program, *mut c_char);
    destroy = c"nvrtcDestroyProgram" (*mut Program);
}

/// Kernels in a GPU's code, and the names that they have there, in the order in which they were asked for.
pub struct Compiled {
    pub code: Vec<u8>,
    pub names: Vec<CString>,
}

/// The driver, and what its GPU can. None: MLX does not compute with CUDA on this thread, or the kernels cannot run there.
pub fn usable() -> Result<Option<(Driver, i32)>> {
    if cuda_stream()?.is_none() || Functions::open().is_none() {
        return Ok(None);
    }
    let Some(driver) = Driver::new() else {
        return Ok(None);
    };
    let capability = driver.capability()?;
    Ok((capability >= 80).then_some((driver, capability)))
}

/// Compiled once in a process, for as many kinds of models as one has at a time.
pub fn compiled(kernels: &[String], capability: i32) -> Result<Arc<Compiled>> {
    type Known = Vec<(Vec<String>, i32, Arc<Compiled>)>;
    const KEPT: usize = 16;
    static KNOWN: Mutex<Known> = Mutex::new(Vec::new());
    let known = || KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let same = |known: &Known| {
        let mut known = known.iter();
        known.find_map(|(of, on, code)| (of == kernels && *on == capability).then(|| code.clone()))
    };
    if let Some(code) = same(&known()) {
        return Ok(code);
    }
    let code = Arc::new(compile(kernels, capability)?);
    let mut known = known();
    if known.len() >= KEPT {
        known.remove(0);
    }
    known.push((kernels.to_vec(), capability, code.clone()));
    Ok(code)
}

struct Compiling {
    nvrtc: &'static Functions,
    program: Program,
}

impl Drop for Compiling {
    fn drop(&mut self) {
        // SAFETY: created once and destroyed once.
        unsafe { (self.nvrtc.destroy)(&mut self.program) };
    }
}

/// Compiles kernels, such as `heads<Bf16>`, for GPUs that can what `capability` says.
fn compile(kernels: &[String], capability: i32) -> Result<Compiled> {
    let missing = || Error::new(Code::Unsupported, "there is no NVRTC");
    let nvrtc = Functions::open().ok_or_else(missing)?;
    let source = c_string(KERNELS.concat())?;
    let mut this = Compiling {
        nvrtc,
        program: null_mut(),
    };
    // SAFETY: C strings that live for the call; the out-pointer is ours.
    let status = unsafe {
        let name = c"mlxrt.cu";
        (nvrtc.create)(
            &mut this.program,
            source.as_ptr(),
            name.as_ptr(),
            0,
            null(),
            null(),
        )
    };
    check("nvrtcCreateProgram", status)?;
    let kernels: Vec<CString> =
        (kernels.iter().map(|name| c_string(name.clone()))).collect::<Result<_>>()?;
    for name in &kernels {
        // SAFETY: the program is alive and copies the name.
        check("nvrtcAddNameExpression", unsafe {
            (nvrtc.add_name)(this.program, name.as_ptr())
        })?;
    }
    let architecture = c_string(format!("--gpu-architecture=sm_{capability}"))?;
    let options = [architecture.as_ptr(), c"--std=c++17".as_ptr()];
    // SAFETY: the program and the options are alive.
    let status = unsafe { (nvrtc.compile)(this.program, options.len() as c_int, options.as_ptr()) };
    if status != 0 {
        return Err(Error::internal(format!(
            "a GPU's kernels do not compile: {}",
            this.log().lines().next().unwrap_or("no reason given")
        )));
    }
    let names = kernels.iter().map(|kernel| {
        let mut name = null();
        // SAFETY: the name was added above; what comes out lives as long as the program and is copied.
        unsafe {
            let status = (nvrtc.lowered_name)(this.program, kernel.as_ptr(), &mut name);
            check("nvrtcGetLoweredName", status)?;
            Ok(CStr::from_ptr(name).to_owned())
        }
    });
    let names = names.collect::<Result<_>>()?;
    let mut size = 0;
    // SAFETY: the program is compiled; the out-pointer is ours.
    check("nvrtcGetCUBINSize", unsafe {
        (nvrtc.code_size)(this.program, &mut size)
    })?;
    let mut code = vec![0; size];
    // SAFETY: there is room for as much as it said.
    check("nvrtcGetCUBIN", unsafe {
        (nvrtc.code)(this.program, code.as_mut_ptr().cast())
    })?;
    Ok(Compiled { code, names })
}

impl Compiling {
    fn log(&self) -> String {
        let mut size = 0;
        // SAFETY: the program is alive; there is room for as much as it says.
        unsafe {
            if (self.nvrtc.log_size)(self.program, &mut size) != 0 {
                return String::new();
            }
            let mut log = vec![0_u8; size];
            if (self.nvrtc.log)(self.program, log.as_mut_ptr().cast()) != 0 {
                return String::new();
            }
            log.pop();
            String::from_utf8_lossy(&log).into_owned()
        }
    }
}

fn check(what: &str, status: Status) -> Result<()> {
    match status {
        0 => Ok(()),
        1 => Err(Error::new(
            Code::OutOfMemory,
            format!("{what} has no memory"),
        )),
        other => Err(Error::internal(format!("{what} failed with {other}"))),
    }
}
