//! MLX's allocator: what is in use, what is kept for reuse, the peak. Bytes; any thread.

use super::error::check;
use crate::error::Result;

type Getter = unsafe extern "C" fn(*mut usize) -> std::ffi::c_int;

fn try_figure(get: Getter) -> Result<u64> {
    let mut bytes = 0usize;
    // SAFETY: each getter writes one size.
    check(unsafe { get(&mut bytes) })?;
    Ok(bytes as u64)
}

fn figure(get: Getter) -> Option<u64> {
    try_figure(get).ok()
}

/// In arrays that are alive.
pub fn active() -> u64 {
    figure(mlx_sys::mlx_get_active_memory).unwrap_or(0)
}

/// Freed, and kept for the next allocation.
pub fn cache() -> u64 {
    figure(mlx_sys::mlx_get_cache_memory).unwrap_or(0)
}

/// The most that was active since the start or `reset_peak`.
pub fn peak() -> u64 {
    figure(mlx_sys::mlx_get_peak_memory).unwrap_or(0)
}

/// `u64::MAX` = none.
pub fn limit() -> u64 {
    figure(mlx_sys::mlx_get_memory_limit).unwrap_or(u64::MAX)
}

/// As `limit`, for who takes it as a limit: where it cannot be read, 0 would be one.
pub fn try_limit() -> Result<u64> {
    try_figure(mlx_sys::mlx_get_memory_limit)
}

pub fn reset_peak() {
    // SAFETY: no arguments.
    let _ = check(unsafe { mlx_sys::mlx_reset_peak_memory() });
}

/// Gives cached buffers back to the system.
pub fn clear_cache() {
    // SAFETY: no arguments.
    let _ = check(unsafe { mlx_sys::mlx_clear_cache() });
}

/// Gives cached buffers back to the system, and what is free in the heap, where buffers of up to some MB lie.
pub fn give_back() {
    clear_cache();
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: locks what it looks at, and takes only what nobody has.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// The limit at which MLX stops caching and waits for memory to be freed before it allocates.
pub fn set_limit(bytes: u64) -> Result<()> {
    let mut old = 0;
    // SAFETY: writes the old limit.
    check(unsafe {
        mlx_sys::mlx_set_memory_limit(&mut old, usize::try_from(bytes).unwrap_or(usize::MAX))
    })
}

pub fn set_cache_limit(bytes: u64) -> Result<()> {
    let mut old = 0;
    // SAFETY: writes the old limit.
    check(unsafe {
        mlx_sys::mlx_set_cache_limit(&mut old, usize::try_from(bytes).unwrap_or(usize::MAX))
    })
}

/// Metal: how much memory MLX may keep resident. Without effect elsewhere.
pub fn set_wired_limit(bytes: u64) -> Result<()> {
    let mut old = 0;
    // SAFETY: writes the old limit.
    check(unsafe {
        mlx_sys::mlx_set_wired_limit(&mut old, usize::try_from(bytes).unwrap_or(usize::MAX))
    })
}
