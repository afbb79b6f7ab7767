//! Panics end here: inside `catch` they print nothing and become an INTERNAL error that says what and where. And here a
//! thread's own settings are the library's (`host`).
//!
//! A panic hook is process-wide, and a Rust host has its own. Ours is put in front of it once and only looks at
//! threads that are inside the library; every other panic goes on to the host's.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::panic::{self, AssertUnwindSafe, Location, PanicHookInfo};
use std::sync::Once;

use crate::error::{Error, Result};
use crate::host;

thread_local! {
    /// How deep this thread is in `catch`.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
    /// What the last panic inside the library said, until `catch` takes it.
    static SAID: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs `work`; a panic in it becomes an error. Nothing is printed, the process goes on.
///
/// What `work` left half done is the caller's to repair or throw away.
pub fn catch<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    let _inside = host::Inside::enter();
    install_hook();
    let depth = Depth::set(DEPTH.try_with(Cell::get).unwrap_or(0).saturating_add(1));
    let outcome = panic::catch_unwind(AssertUnwindSafe(work));
    match outcome {
        Ok(result) => result,
        Err(payload) => {
            let said = SAID.try_with(|said| said.take()).ok().flatten();
            let said = said.unwrap_or_else(|| text_of(payload.as_ref()).to_owned());
            discard(payload);
            drop(depth);
            Err(Error::internal(format!("a bug in the library: {said}")))
        }
    }
}

/// Runs the host's code (a callback): a panic in there that the host itself catches is the host's own.
pub fn outside<T>(work: impl FnOnce() -> T) -> T {
    let _depth = Depth::set(0);
    host::outside(work)
}

/// Sets the depth and restores the one before when dropped.
struct Depth(u32);

impl Depth {
    fn set(depth: u32) -> Self {
        Depth(DEPTH.try_with(|cell| cell.replace(depth)).unwrap_or(0))
    }
}

impl Drop for Depth {
    fn drop(&mut self) {
        let _ = DEPTH.try_with(|cell| cell.set(self.0));
    }
}

fn install_hook() {
    static HOOK: Once = Once::new();
    // The hook cannot be changed while this thread unwinds; the next call does it.
    if HOOK.is_completed() || std::thread::panicking() {
        return;
    }
    HOOK.call_once(|| {
        let host = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if DEPTH.try_with(Cell::get).unwrap_or(0) == 0 {
                host(info);
            } else {
                let _ = SAID.try_with(|said| said.replace(Some(describe(info))));
            }
        }));
    });
}

fn describe(info: &PanicHookInfo<'_>) -> String {
    let text = text_of(info.payload());
    match info.location() {
        Some(location) => format!("{text} ({})", place(location)),
        None => text.to_owned(),
    }
}

fn text_of(payload: &(dyn Any + Send)) -> &str {
    if let Some(text) = payload.downcast_ref::<&'static str>() {
        text
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text
    } else {
        "a panic without a message"
    }
}

fn place(location: &Location<'_>) -> String {
    format!("{}:{}", short_path(location.file()), location.line())
}

/// A dependency's or the standard library's path without the folders of the machine that built it:
/// `…/registry/src/index/serde_json-1.0.0/src/de.rs` is `serde_json-1.0.0/src/de.rs`.
fn short_path(path: &str) -> &str {
    let relative = !path.starts_with(['/', '\\']) && !path.contains(':');
    if relative {
        return path;
    }
    let separators = ['/', '\\'];
    let cut = match path.rfind("/src/").or_else(|| path.rfind("\\src\\")) {
        Some(src) => path[..src].rfind(separators),
        None => path.rfind(separators),
    };
    cut.map_or(path, |at| &path[at + 1..])
}

/// Drops a panic's payload, whose own drop may panic too; that second payload is leaked, not dropped.
fn discard(payload: Box<dyn Any + Send>) {
    if let Err(second) = panic::catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        std::mem::forget(second);
        let _ = SAID.try_with(|said| said.take());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn message(work: impl FnOnce() -> Result<()>) -> String {
        let error = catch(work).unwrap_err();
        assert_eq!(error.code, Code::Internal);
        error.message
    }

    #[test]
    #[cfg_attr(miri, ignore = "the place is spelled otherwise there")]
    fn a_panic_becomes_an_error_with_text_and_place() {
        let text = message(|| panic!("no {}", "luck"));
        assert!(
            text.starts_with("a bug in the library: no luck (src/guard.rs:"),
            "{text}"
        );
        let text = message(|| panic!("plain"));
        assert!(text.contains("plain (src/guard.rs:"), "{text}");
        let text = message(|| panic::panic_any(7_u8));
        assert!(text.contains("without a message"), "{text}");
        assert_eq!(catch(|| Ok(5)), Ok(5));
    }

    #[test]
    #[cfg_attr(miri, ignore = "the second payload is leaked, as it must be")]
    fn a_payload_that_panics_when_dropped_is_survived() {
        struct Spiteful;
        impl Drop for Spiteful {
            fn drop(&mut self) {
                panic!("again");
            }
        }
        assert!(message(|| panic::panic_any(Spiteful)).contains("without a message"));
        // Nothing of it is left for the next one.
        assert!(message(|| panic!("next")).contains("next"));
    }

    #[test]
    #[cfg_attr(miri, ignore = "it starts a process")]
    fn the_hosts_hook_sees_only_its_own_panics() {
        // Runs the test again in a process of its own, since the hook belongs to all threads of one.
        const CHILD: &str = "MLXRT_TEST_PANIC_HOOK";
        if std::env::var_os(CHILD).is_none() {
            let status = std::process::Command::new(std::env::current_exe().unwrap())
                .args([
                    "--exact",
                    "guard::tests::the_hosts_hook_sees_only_its_own_panics",
                ])
                .env(CHILD, "1")
                .output()
                .unwrap();
            assert!(
                status.status.success(),
                "{}",
                String::from_utf8_lossy(&status.stdout)
            );
            return;
        }
        static HOST: AtomicUsize = AtomicUsize::new(0);
        panic::set_hook(Box::new(|_| {
            HOST.fetch_add(1, Ordering::SeqCst);
        }));
        assert!(message(|| panic!("inside")).contains("inside"));
        assert_eq!(HOST.load(Ordering::SeqCst), 0);
        let caught = panic::catch_unwind(|| panic!("the host's"));
        assert!(caught.is_err());
        assert_eq!(HOST.load(Ordering::SeqCst), 1);
        let nested = catch(|| {
            outside(|| assert!(panic::catch_unwind(|| panic!("in a callback")).is_err()));
            assert_eq!(HOST.load(Ordering::SeqCst), 2);
            panic!("inside again")
        });
        let nested: Result<()> = nested;
        assert!(nested.unwrap_err().message.contains("inside again"));
        assert_eq!(HOST.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn paths_of_the_building_machine_are_cut() {
        assert_eq!(short_path("src/capi/text.rs"), "src/capi/text.rs");
        assert_eq!(
            short_path("/home/a/.cargo/registry/src/index-1/serde_json-1.0.0/src/de.rs"),
            "serde_json-1.0.0/src/de.rs"
        );
        assert_eq!(
            short_path("/rustc/0123/library/core/src/option.rs"),
            "core/src/option.rs"
        );
        assert_eq!(
            short_path("C:\\b\\half-2.0.0\\src\\lib.rs"),
            "half-2.0.0\\src\\lib.rs"
        );
        assert_eq!(short_path("/tmp/x.rs"), "x.rs");
    }
}
