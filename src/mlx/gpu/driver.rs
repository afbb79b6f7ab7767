//! NVIDIA's driver: the functions that are needed of `libcuda`, found while the library runs, and what they make as values that end
//! themselves. MLX made the context, the device's primary one; it is current on the engine thread since MLX computed there.

use std::ffi::{c_char, c_int, c_uint, c_void, CStr, CString};
use std::ptr::null_mut;

use crate::error::{Code, Error, Result};

/// An address in the GPU's memory.
pub type Address = u64;

type Status = c_int;
/// What the driver calls a handle: a stream, a graph, an event, a module, a function.
type Handle = *mut c_void;

const OUT_OF_MEMORY: Status = 2;
/// What is captured is what this thread calls, and calls of other threads are not refused meanwhile.
const CAPTURE_THIS_THREAD: c_int = 1;
const NON_BLOCKING: c_uint = 1;
const NO_TIMING: c_uint = 2;
const CAPABILITY: [c_int; 2] = [75, 76];

/// Declares the table and how it is filled.
macro_rules! functions {
    ($table:ident of $($library:literal),+: $($name:ident = $symbol:literal ($($argument:ty),*);)*) => {
        struct $table {
            $(pub $name: unsafe extern "C" fn($($argument),*) -> c_int,)*
        }

        impl $table {
            /// None where the library, or one of its functions, is not there. It is never closed.
            pub fn open() -> Option<&'static $table> {
                static TABLE: std::sync::OnceLock<Option<$table>> = std::sync::OnceLock::new();
                TABLE.get_or_init(|| {
                    let library = $crate::mlx::gpu::driver::open(&[$($library),+])?;
                    $(let $name = $crate::mlx::gpu::driver::symbol(library, $symbol)?;)*
                    // SAFETY: each symbol is the function of this name, whose C signature is the field's.
                    $(let $name = unsafe {
                        std::mem::transmute::<
                            *mut std::ffi::c_void,
                            unsafe extern "C" fn($($argument),*) -> c_int,
                        >($name)
                    };)*
                    Some($table { $($name),* })
                })
                .as_ref()
            }
        }
    };
}
pub(super) use functions;

/// The first of these libraries that is there.
pub(super) fn open(names: &[&CStr]) -> Option<Handle> {
    let open = |name: &&CStr| {
        // SAFETY: a C string; the libraries' initialisers are NVIDIA's own.
        unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) }
    };
    names.iter().map(open).find(|library| !library.is_null())
}

pub(super) fn symbol(library: Handle, name: &CStr) -> Option<Handle> {
    // SAFETY: the library is open and the name a C string.
    let found = unsafe { libc::dlsym(library, name.as_ptr()) };
    (!found.is_null()).then_some(found)
}

functions! { Functions of c"libcuda.so.1":
    init = c"cuInit" (c_uint);
    error_name = c"cuGetErrorName" (Status, *mut *const c_char);
    error_text = c"cuGetErrorString" (Status, *mut *const c_char);
    device = c"cuCtxGetDevice" (*mut c_int);
    attribute = c"cuDeviceGetAttribute" (*mut c_int, c_int, c_int);
    load_module = c"cuModuleLoadData" (*mut Handle, *const c_void);
    unload_module = c"cuModuleUnload" (Handle);
    function = c"cuModuleGetFunction" (*mut Handle, Handle, *const c_char);
    host_memory = c"cuMemAllocHost_v2" (*mut *mut c_void, usize);
    free_host_memory = c"cuMemFreeHost" (*mut c_void);
    copy_to_device = c"cuMemcpyHtoDAsync_v2" (Address, *const c_void, usize, Handle);
    stream = c"cuStreamCreate" (*mut Handle, c_uint);
    end_stream = c"cuStreamDestroy_v2" (Handle);
    begin_capture = c"cuStreamBeginCapture_v2" (Handle, c_int);
    end_capture = c"cuStreamEndCapture" (Handle, *mut Handle);
    instantiate = c"cuGraphInstantiateWithFlags" (*mut Handle, Handle, u64);
    launch_graph = c"cuGraphLaunch" (Handle, Handle);
    end_graph = c"cuGraphDestroy" (Handle);
    end_executable = c"cuGraphExecDestroy" (Handle);
    launch = c"cuLaunchKernelEx" (*const LaunchConfig, Handle, *mut *mut c_void, *mut *mut c_void);
    event = c"cuEventCreate" (*mut Handle, c_uint);
    record = c"cuEventRecord" (Handle, Handle);
    wait = c"cuEventSynchronize" (Handle);
    query = c"cuEventQuery" (Handle);
    end_event = c"cuEventDestroy_v2" (Handle);
}

/// `CUlaunchConfig`
#[repr(C)]
struct LaunchConfig {
    grid: [c_uint; 3],
    block: [c_uint; 3],
    shared_bytes: c_uint,
    stream: Handle,
    attributes: *const LaunchAttribute,
    count: c_uint,
}

/// `CUlaunchAttribute`: its value is a union of 64 bytes.
#[repr(C)]
struct LaunchAttribute {
    id: c_int,
    padding: c_int,
    value: [u64; 8],
}

/// A kernel may begin before the one in front of it has ended, and waits for that itself (`griddepcontrol.wait`).
const MAY_BEGIN_EARLY: c_int = 6;

/// The driver, where there is one and a context is current.
#[derive(Clone, Copy)]
pub struct Driver(&'static Functions);

impl Driver {
    /// None where there is no driver, or MLX has made no context on this thread.
    pub fn new() -> Option<Driver> {
        let functions = Functions::open()?;
        let mut device = 0;
        // SAFETY: both only look; the out-pointer is ours.
        let status = unsafe {
            match (functions.init)(0) {
                0 => (functions.device)(&mut device),
                status => status,
            }
        };
        (status == 0).then_some(Driver(functions))
    }

    /// What the GPU can: 90 on Hopper.
    pub fn capability(self) -> Result<i32> {
        let [major, minor] = CAPABILITY;
        Ok(self.attribute(major)? * 10 + self.attribute(minor)?)
    }

    /// Of the GPU that is current on this thread, by the driver's number of the attribute.
    pub fn attribute(self, attribute: i32) -> Result<i32> {
        let (mut device, mut value) = (0, 0);
        // SAFETY: the out-pointers are ours.
        unsafe {
            self.check("cuCtxGetDevice", (self.0.device)(&mut device))?;
            let status = (self.0.attribute)(&mut value, attribute, device);
            self.check("cuDeviceGetAttribute", status)?;
        }
        Ok(value)
    }

    /// Queues a kernel on a stream.
    ///
    /// # Safety
    /// `stream` is a CUDA stream that is alive. The arguments are those of the kernel, and the addresses among them lie in memory that is
    /// there, of the size that the kernel takes it for, until it has run.
    pub unsafe fn launch(
        self,
        stream: Handle,
        kernel: Function,
        blocks: [u32; 3],
        threads: u32,
        arguments: Arguments,
    ) -> Result<()> {
        // SAFETY: as the caller says.
        unsafe { self.launch_with(stream, kernel, (blocks, threads), arguments, false) }
    }

    /// The same. `early`: it waits itself for the kernel in front of it.
    unsafe fn launch_with(
        self,
        stream: Handle,
        kernel: Function,
        (blocks, threads): ([u32; 3], u32),
        mut arguments: Arguments,
        early: bool,
    ) -> Result<()> {
        let arguments = arguments.bytes.iter_mut();
        let mut arguments: Vec<*mut c_void> =
            arguments.map(|bytes| bytes.as_mut_ptr().cast()).collect();
        let attribute = LaunchAttribute {
            id: MAY_BEGIN_EARLY,
            padding: 0,
            value: [1, 0, 0, 0, 0, 0, 0, 0],
        };
        let config = LaunchConfig {
            grid: blocks,
            block: [threads, 1, 1],
            shared_bytes: 0,
            stream,
            attributes: &attribute,
            count: early.into(),
        };
        // SAFETY: the pointers are to as many arguments as the kernel has, says the caller; all is copied.
        let status =
            unsafe { (self.0.launch)(&config, kernel.0, arguments.as_mut_ptr(), null_mut()) };
        self.check("cuLaunchKernelEx", status)
    }

    fn check(self, what: &str, status: Status) -> Result<()> {
        #[cfg(test)]
        crate::mlx::fault::strike()?;
        if status == 0 {
            return Ok(());
        }
        let text = |function: unsafe extern "C" fn(Status, *mut *const c_char) -> Status| {
            let mut text = std::ptr::null();
            // SAFETY: the out-pointer is ours; what it gives is a literal of the driver's, or null.
            let text = unsafe {
                match function(status, &mut text) {
                    0 if !text.is_null() => CStr::from_ptr(text).to_str().ok(),
                    _ => None,
                }
            };
            text.unwrap_or("unknown")
        };
        let (name, means) = (text(self.0.error_name), text(self.0.error_text));
        let code = match status {
            OUT_OF_MEMORY => Code::OutOfMemory,
            _ => Code::Device,
        };
        Err(Error::new(
            code,
            format!("the GPU's driver failed in {what}: {name} ({means})"),
        ))
    }
}

/// Kernels in the GPU's own code.
pub struct Module {
    driver: Driver,
    raw: Handle,
}

/// A kernel of a module that is alive.
#[derive(Clone, Copy)]
pub struct Function(Handle);

impl Module {
    pub fn load(driver: Driver, code: &[u8]) -> Result<Module> {
        let mut raw = null_mut();
        // SAFETY: the code is what the compiler gave for this device, whole; the driver copies it.
        let status = unsafe { (driver.0.load_module)(&mut raw, code.as_ptr().cast()) };
        driver.check("cuModuleLoadData", status)?;
        Ok(Module { driver, raw })
    }

    pub fn function(&self, name: &CStr) -> Result<Function> {
        let mut raw = null_mut();
        // SAFETY: the module is alive, the name a C string.
        let status = unsafe { (self.driver.0.function)(&mut raw, self.raw, name.as_ptr()) };
        self.driver.check("cuModuleGetFunction", status)?;
        Ok(Function(raw))
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        // SAFETY: loaded once and ended once; who has its functions holds it (`Step`).
        unsafe { (self.driver.0.unload_module)(self.raw) };
    }
}

/// The stream on which a graph is written down, on which nothing ever runs.
pub struct Recorder {
    driver: Driver,
    raw: Handle,
}

/// Kernels that run one after the other, by one call.
pub struct Graph {
    driver: Driver,
    raw: Handle,
}

/// An argument of a kernel: bytes that are copied when it is queued.
pub struct Arguments {
    bytes: Vec<Vec<u64>>,
}

impl Arguments {
    pub fn new() -> Self {
        Arguments { bytes: Vec::new() }
    }

    /// Appends one, laid out as the kernel's C has it: `T` is `repr(C)`, a number or an address.
    pub fn add<T: Copy>(mut self, value: T) -> Self {
        let words = std::mem::size_of::<T>().div_ceil(8);
        let mut bytes = vec![0; words];
        // SAFETY: `bytes` has room for a T, and is aligned for one: no argument needs more than 8.
        unsafe { bytes.as_mut_ptr().cast::<T>().write(value) };
        self.bytes.push(bytes);
        self
    }
}

impl Recorder {
    pub fn new(driver: Driver) -> Result<Recorder> {
        let mut raw = null_mut();
        // SAFETY: the out-pointer is ours.
        let status = unsafe { (driver.0.stream)(&mut raw, NON_BLOCKING) };
        driver.check("cuStreamCreate", status)?;
        Ok(Recorder { driver, raw })
    }

    /// Writes down what `work` launches.
    pub fn graph(&self, work: impl FnOnce() -> Result<()>) -> Result<Graph> {
        let driver = self.driver;
        // SAFETY: the stream is alive and captures nothing yet.
        let status = unsafe { (driver.0.begin_capture)(self.raw, CAPTURE_THIS_THREAD) };
        driver.check("cuStreamBeginCapture", status)?;
        let worked = work();
        let mut graph = null_mut();
        // SAFETY: the capture above ends, whatever came of it.
        let status = unsafe { (driver.0.end_capture)(self.raw, &mut graph) };
        worked?;
        driver.check("cuStreamEndCapture", status)?;
        let mut raw = null_mut();
        // SAFETY: the graph was just made; it is not needed any more once it can be launched.
        let status = unsafe {
            let status = (driver.0.instantiate)(&mut raw, graph, 0);
            (driver.0.end_graph)(graph);
            status
        };
        driver.check("cuGraphInstantiate", status)?;
        Ok(Graph { driver, raw })
    }

    /// # Safety
    /// The arguments are those of the kernel, and the addresses among them lie in memory that is there, of the size that the kernel
    /// takes it for, whenever the graph runs.
    pub unsafe fn launch(
        &self,
        kernel: Function,
        blocks: [u32; 3],
        threads: u32,
        arguments: Arguments,
        early: bool,
    ) -> Result<()> {
        let sizes = (blocks, threads);
        // SAFETY: the stream is alive, and what is launched on it runs when the graph does; else as the caller says.
        unsafe {
            self.driver
                .launch_with(self.raw, kernel, sizes, arguments, early)
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        // SAFETY: made once and ended once.
        unsafe { (self.driver.0.end_stream)(self.raw) };
    }
}

impl Graph {
    /// # Safety
    /// `stream` is a CUDA stream that is alive. As for `Recorder::launch`, until it has run.
    pub unsafe fn launch(&self, stream: Handle) -> Result<()> {
        // SAFETY: the graph is alive; else as the caller says.
        let status = unsafe { (self.driver.0.launch_graph)(self.raw, stream) };
        self.driver.check("cuGraphLaunch", status)
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: made once and ended once; one that runs is ended when it has run.
        unsafe { (self.driver.0.end_executable)(self.raw) };
    }
}

/// A place in what is queued on a stream.
pub struct Event {
    driver: Driver,
    raw: Handle,
}

impl Event {
    pub fn new(driver: Driver) -> Result<Event> {
        let mut raw = null_mut();
        // SAFETY: the out-pointer is ours.
        let status = unsafe { (driver.0.event)(&mut raw, NO_TIMING) };
        driver.check("cuEventCreate", status)?;
        Ok(Event { driver, raw })
    }

    /// It is behind all that was queued.
    ///
    /// # Safety
    /// `stream` is a CUDA stream that is alive.
    pub unsafe fn record(&self, stream: Handle) -> Result<()> {
        // SAFETY: the event is alive; else as the caller says.
        let status = unsafe { (self.driver.0.record)(self.raw, stream) };
        self.driver.check("cuEventRecord", status)
    }

    /// Waits until what is before it is done.
    pub fn wait(&self) -> Result<()> {
        // SAFETY: the event is alive.
        let status = unsafe { (self.driver.0.wait)(self.raw) };
        self.driver.check("cuEventSynchronize", status)
    }

    /// Whether `wait` would not wait.
    pub fn is_done(&self) -> bool {
        // SAFETY: the event is alive.
        unsafe { (self.driver.0.query)(self.raw) == 0 }
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: made once and ended once; the driver keeps it until what is queued is done.
        unsafe { (self.driver.0.end_event)(self.raw) };
    }
}

/// Memory of the host that the GPU copies from.
pub struct Mail {
    driver: Driver,
    memory: *mut u8,
    size: usize,
}

impl Mail {
    pub fn new(driver: Driver, size: usize) -> Result<Mail> {
        let mut memory = null_mut();
        // SAFETY: the out-pointer is ours.
        let status = unsafe { (driver.0.host_memory)(&mut memory, size.max(1)) };
        driver.check("cuMemAllocHost", status)?;
        Ok(Mail {
            driver,
            memory: memory.cast(),
            size,
        })
    }

    /// Copies bytes to the GPU, in the stream's order.
    ///
    /// # Safety
    /// What was sent before has arrived. `to` has room for the bytes, and `stream` is a CUDA stream that is alive.
    pub unsafe fn send(&mut self, bytes: &[u8], to: Address, stream: Handle) -> Result<()> {
        if bytes.len() > self.size {
            return Err(Error::internal("more than a step's inputs"));
        }
        // SAFETY: the memory has room, and nobody reads it, says the caller.
        let status = unsafe {
            self.memory
                .copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
            let copy = self.driver.0.copy_to_device;
            copy(to, self.memory.cast(), bytes.len(), stream)
        };
        self.driver.check("cuMemcpyHtoDAsync", status)
    }
}

impl Drop for Mail {
    fn drop(&mut self) {
        // SAFETY: made once and ended once; whoever has it has waited for what was sent (`Slot`).
        unsafe { (self.driver.0.free_host_memory)(self.memory.cast()) };
    }
}

/// As C has it; names come from here.
pub(super) fn c_string(text: String) -> Result<CString> {
    CString::new(text).map_err(|_| Error::internal("a name with a NUL"))
}
