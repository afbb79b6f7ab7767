//! Local time, for templates that ask for it.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::template::Now;

pub fn now() -> Now {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let seconds = i64::try_from(since.as_secs()).unwrap_or(0);
    let mut now = Now::from_unix(seconds, ahead_of_utc(seconds));
    now.microsecond = since.subsec_micros();
    now
}

/// Seconds that local time is ahead of UTC at that moment; 0 where the system does not say.
fn ahead_of_utc(seconds: i64) -> i64 {
    let time: libc::time_t = seconds;
    let mut local = std::mem::MaybeUninit::<libc::tm>::uninit();
    // SAFETY: localtime_r fills the whole struct when it does not return NULL, and only then it is read.
    unsafe {
        if libc::localtime_r(&time, local.as_mut_ptr()).is_null() {
            return 0;
        }
        local.assume_init().tm_gmtoff
    }
}
