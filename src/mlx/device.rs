//! The device and the engine thread's stream.

use std::cell::RefCell;
use std::ffi::{CStr, CString};
use std::sync::{Mutex, PoisonError};

use super::error::{check, has_failed};
use crate::error::Result;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    Cpu,
    Gpu,
}

impl Device {
    pub fn name(self) -> &'static str {
        match self {
            Device::Cpu => "cpu",
            Device::Gpu => "gpu",
        }
    }

    fn raw(self) -> RawDevice {
        let kind = match self {
            Device::Cpu => mlx_sys::mlx_device_type__MLX_CPU,
            Device::Gpu => mlx_sys::mlx_device_type__MLX_GPU,
        };
        // SAFETY: plain values; the object is freed by RawDevice.
        RawDevice(unsafe { mlx_sys::mlx_device_new_type(kind, 0) })
    }
}

/// The CPU, or with MLXRT_TEST_DEVICE=gpu the GPU. (There, set MLX_ENABLE_TF32=0 too, or float32 products are not.)
#[cfg(test)]
pub fn tested() -> Device {
    match std::env::var("MLXRT_TEST_DEVICE").as_deref() {
        Ok("gpu") => Device::Gpu,
        _ => Device::Cpu,
    }
}

struct RawDevice(mlx_sys::mlx_device);

impl Drop for RawDevice {
    fn drop(&mut self) {
        // SAFETY: made by mlx_device_new_type and freed once.
        unsafe { mlx_sys::mlx_device_free(self.0) };
    }
}

struct RawStream(mlx_sys::mlx_stream);

impl Drop for RawStream {
    fn drop(&mut self) {
        // SAFETY: made by mlx-c and freed once.
        unsafe { mlx_sys::mlx_stream_free(self.0) };
    }
}

// SAFETY: a stream's number and device on the heap. Only streams that MLX allows on every thread change theirs.
unsafe impl Send for RawStream {}

thread_local! {
    static STREAM: RefCell<Option<(Device, RawStream)>> = const { RefCell::new(None) };
}

/// Streams of the CPU that no engine uses. MLX never ends the thread behind one, so the next engine takes it again.
static SPARE: Mutex<Vec<RawStream>> = Mutex::new(Vec::new());

/// Whether this MLX has such a device on this machine.
pub fn device_available(device: Device) -> bool {
    let raw = device.raw();
    let mut available = false;
    // SAFETY: the device is alive and the flag is ours.
    let status = unsafe { mlx_sys::mlx_device_is_available(&mut available, raw.0) };
    check(status).is_ok() && available
}

/// Gives the calling thread another stream on `device`. Called once by the engine thread, and again after an error: work
/// queued on a stream that failed fails later, unrelated work.
pub fn enter(device: Device) -> Result<()> {
    if device == Device::Gpu {
        let_caches_miss();
    }
    let raw = device.raw();
    // SAFETY: the device is alive.
    check(unsafe { mlx_sys::mlx_set_default_device(raw.0) })?;
    let spare = match device {
        Device::Cpu => SPARE.lock().unwrap_or_else(PoisonError::into_inner).pop(),
        Device::Gpu => None,
    };
    let stream = spare.unwrap_or_else(|| {
        // SAFETY: the device is alive; a GPU's stream belongs to this thread and is kept in its STREAM.
        RawStream(unsafe {
            match device {
                Device::Cpu => mlx_sys::mlx_stream_new_thread_unsafe(raw.0),
                Device::Gpu => mlx_sys::mlx_stream_new_device(raw.0),
            }
        })
    });
    // SAFETY: the stream is alive.
    check(unsafe { mlx_sys::mlx_set_default_stream(stream.0) })?;
    put_aside();
    STREAM.with(|current| current.replace(Some((device, stream))));
    Ok(())
}

/// MLX's caches on CUDA, of graphs and of attention's plans, count what they ever missed, and once that is twice what they hold,
/// after some hundred lengths of prompts, every further miss is an error. Without the check they drop the oldest entry.
/// Whoever set the variable has decided.
fn let_caches_miss() {
    #[cfg(not(target_os = "macos"))]
    {
        let (name, value) = (c"MLX_ENABLE_CACHE_THRASHING_CHECK", c"0");
        // SAFETY: both are C strings that live for ever. mlxrt_init says that it writes to the environment, and when.
        unsafe { libc::setenv(name.as_ptr(), value.as_ptr(), 0) };
    }
}

/// Ends the calling thread's streams: what MLX still holds at process exit dies in a static destructor on CUDA.
pub fn leave() {
    put_aside();
    super::fast::stop();
    super::gpu::stop();
    // SAFETY: no stream of this thread is used after this.
    let _ = check(unsafe { mlx_sys::mlx_clear_streams() });
}

/// Whether the calling thread's stream is a GPU's.
pub(super) fn on_gpu() -> bool {
    STREAM.with(|current| matches!(&*current.borrow(), Some((Device::Gpu, _))))
}

/// Whether it is an NVIDIA GPU's.
pub(super) fn on_cuda() -> bool {
    on_gpu() && cfg!(not(target_os = "macos"))
}

/// Gives up the calling thread's stream, for later use when it can be used again.
fn put_aside() {
    super::compiled::forget();
    // An error that the stream still had is taken by the first wait.
    let clean = synchronize().is_ok() || synchronize().is_ok();
    // An evaluation that fails leaves tasks counted that nobody ends, and MLX would wait for them. Only then is the count set
    // right: MLX lets it be read without its lock alone, and a host's own threads may be at work with MLX.
    if clean && has_failed() {
        // SAFETY: it counts down under the scheduler's own lock; this engine has nothing queued.
        unsafe { mlxrt_shim_forget_tasks() };
    }
    if let (true, Some((Device::Cpu, stream))) = (clean, STREAM.with(|current| current.take())) {
        SPARE
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(stream);
    }
}

/// Waits until the engine's stream has done all that was queued.
pub fn synchronize() -> Result<()> {
    // SAFETY: the stream belongs to this thread.
    check(unsafe { mlx_sys::mlx_synchronize(stream()) })
}

/// The calling thread's stream; an empty one (which every operation refuses) where `enter` was not called.
pub(super) fn stream() -> mlx_sys::mlx_stream {
    STREAM.with(|current| match current.borrow().as_ref() {
        Some((_, stream)) => stream.0,
        None => mlx_sys::mlx_stream {
            ctx: std::ptr::null_mut(),
        },
    })
}

/// What MLX tells of the device: names, sizes in bytes, versions.
pub fn device_info(device: Device) -> Result<serde_json::Map<String, serde_json::Value>> {
    let raw = device.raw();
    let mut map = serde_json::Map::new();
    // SAFETY: every object is made and freed here; keys and strings are copied before that.
    unsafe {
        let mut info = mlx_sys::mlx_device_info_new();
        let mut keys = mlx_sys::mlx_vector_string_new();
        let got = check(mlx_sys::mlx_device_info_get(&mut info, raw.0))
            .and_then(|()| check(mlx_sys::mlx_device_info_get_keys(&mut keys, info)));
        if got.is_ok() {
            for index in 0..mlx_sys::mlx_vector_string_size(keys) {
                let mut text = std::ptr::null_mut();
                if mlx_sys::mlx_vector_string_get(&mut text, keys, index) != 0 || text.is_null() {
                    continue;
                }
                let key = CStr::from_ptr(text).to_string_lossy().into_owned();
                let Ok(c_key) = CString::new(key.as_str()) else {
                    continue;
                };
                let mut is_string = false;
                mlx_sys::mlx_device_info_is_string(&mut is_string, info, c_key.as_ptr());
                let value = if is_string {
                    let mut value = std::ptr::null();
                    mlx_sys::mlx_device_info_get_string(&mut value, info, c_key.as_ptr());
                    if value.is_null() {
                        continue;
                    }
                    CStr::from_ptr(value).to_string_lossy().into_owned().into()
                } else {
                    let mut value = 0;
                    mlx_sys::mlx_device_info_get_size(&mut value, info, c_key.as_ptr());
                    value.into()
                };
                map.insert(key, value);
            }
        }
        mlx_sys::mlx_vector_string_free(keys);
        mlx_sys::mlx_device_info_free(info);
        got?;
    }
    Ok(map)
}

/// Where `mlx.metallib` lies. Before the first use of a Metal device; elsewhere there is no such file.
#[cfg(target_os = "macos")]
pub fn set_resource_dir(dir: &str) -> Result<()> {
    let path = CString::new(format!("{dir}/mlx.metallib"))
        .map_err(|_| crate::error::Error::invalid("options.resource_dir holds a NUL"))?;
    // SAFETY: the path is NUL-terminated and copied.
    check(unsafe { mlx_sys::mlx_metal_set_metallib_path(path.as_ptr()) })
}

#[cfg(not(target_os = "macos"))]
pub fn set_resource_dir(_dir: &str) -> Result<()> {
    Ok(())
}

extern "C" {
    fn mlxrt_shim_forget_tasks();
    fn mlxrt_shim_mlx_version() -> *const std::ffi::c_char;
}

/// Refuses an MLX of another version than the one that this was compiled against: its C++ has other layouts. A process
/// has one `libmlx`, the first that was loaded, which need not be the one beside the library.
pub fn refuse_other_version() -> Result<()> {
    // SAFETY: a literal, NUL-terminated, that lives as long as the library.
    let built = unsafe { CStr::from_ptr(mlxrt_shim_mlx_version()) }.to_string_lossy();
    let found = version()?;
    if is_version(&found, &built) {
        return Ok(());
    }
    Err(crate::error::Error::new(
        crate::error::Code::Incompatible,
        format!(
            "the libmlx in this process is MLX {found}, and mlxrt was built for MLX {built}: something else loaded its own first"
        ),
    ))
}

/// Builds of MLX's own sources add a suffix: "0.32.2.dev20260101+abc".
fn is_version(found: &str, built: &str) -> bool {
    found
        .strip_prefix(built)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('.') || rest.starts_with('+'))
}

/// MLX's version, such as "0.32.2".
pub fn version() -> Result<String> {
    let mut text = RawString(mlx_sys::mlx_string {
        ctx: std::ptr::null_mut(),
    });
    // SAFETY: the string is ours; its text is copied before it is freed.
    unsafe {
        check(mlx_sys::mlx_version(&mut text.0))?;
        let data = mlx_sys::mlx_string_data(text.0);
        if data.is_null() {
            return Ok(String::new());
        }
        Ok(CStr::from_ptr(data).to_string_lossy().into_owned())
    }
}

struct RawString(mlx_sys::mlx_string);

impl Drop for RawString {
    fn drop(&mut self) {
        // SAFETY: owned and freed once.
        unsafe { mlx_sys::mlx_string_free(self.0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_mlx() {
        refuse_other_version().unwrap();
        assert!(is_version("0.32.2", "0.32.2"));
        assert!(is_version("0.32.2.dev20260101+abc", "0.32.2"));
        for other in ["0.32.20", "0.32.1", "0.32", "", "1.0.32.2"] {
            assert!(!is_version(other, "0.32.2"), "{other}");
        }
    }
}
