//! Memory that is asked for before it is needed. An allocation of Rust's own that fails ends the process, and those of
//! other crates cannot be made to fail otherwise; so work on input begins with asking for what it will come to. (What is
//! small, and comes unasked, has `reserve.rs` under it.)

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::error::{Code, Error, Result};
use crate::reserve::{self, Promise};

/// What is to be left beside what is asked for: for everything small, and for what other threads do meanwhile.
const BESIDE: usize = 2 << 20;

/// Bytes that are promised to work that goes on now.
static PROMISED: AtomicUsize = AtomicUsize::new(0);

/// Keeps a promise until it goes: what others ask for must fit beside it.
#[derive(Debug)]
pub struct Room(usize);

impl Drop for Room {
    fn drop(&mut self) {
        PROMISED.fetch_sub(self.0, Ordering::Relaxed);
    }
}

/// Whether there is memory for `times` the `bytes` of `what`, which names the file or argument, beside all that is promised.
/// What is asked for is given back untouched, so that it costs no more than two system calls.
///
/// Errors: `OutOfMemory`.
pub fn hold(bytes: usize, times: usize, what: &str) -> Result<Room> {
    let wanted = bytes.saturating_mul(times);
    match promise(wanted) {
        Some(room) => Ok(room),
        None => {
            let message = format!("{what}: no memory to work on its {bytes} bytes");
            Err(Error::new(Code::OutOfMemory, message))
        }
    }
}

/// As `hold`, for work that ends with the caller's function or goes on from what was asked for.
///
/// Errors: `OutOfMemory`.
pub fn ask(bytes: usize, times: usize, what: &str) -> Result<()> {
    hold(bytes, times, what).map(drop)
}

/// As `hold`, for work that is told by its `name` and not by the size of an input.
///
/// Errors: `OutOfMemory`.
pub fn hold_for(wanted: usize, name: &str) -> Result<Room> {
    promise(wanted).ok_or_else(|| none(wanted, name))
}

/// Whether there is so much now, whatever others were promised: what runs is not ended by estimates of what may begin.
///
/// Errors: `OutOfMemory`.
pub fn now(wanted: usize, name: &str) -> Result<()> {
    let wanted_with = wanted.saturating_add(BESIDE);
    match !reserve::short() && reserve::system_has(wanted_with, Promise::Memory) {
        true => Ok(()),
        false => Err(none(wanted, name)),
    }
}

fn none(wanted: usize, name: &str) -> Error {
    let message = format!("{name}: no memory for the {wanted} bytes that it may take");
    Error::new(Code::OutOfMemory, message)
}

fn promise(wanted: usize) -> Option<Room> {
    // What cannot be had must not be added to what others ask for.
    if reserve::short() || !reserve::heap_has(wanted.saturating_add(BESIDE)) {
        return None;
    }
    let others = PROMISED.fetch_add(wanted, Ordering::Relaxed);
    let room = Room(wanted);
    // Estimates are from above, so all of them together need not be there as memory.
    let all = others.saturating_add(wanted).saturating_add(BESIDE);
    let all_fit = || others == 0 || reserve::system_has(all, Promise::Addresses);
    all_fit().then_some(room)
}

/// Puts `part` behind a text that grows with what it is made of.
///
/// Errors: `OutOfMemory`.
pub fn push(text: &mut String, part: &str, what: &str) -> Result<()> {
    if text.try_reserve(part.len()).is_err() || reserve::short() {
        let message = format!("{what}: no memory for more than its {} bytes", text.len());
        return Err(Error::new(Code::OutOfMemory, message));
    }
    text.push_str(part);
    Ok(())
}

/// So many zeros.
///
/// Errors: as `ask`.
pub fn zeros(bytes: usize, what: &str) -> Result<Vec<u8>> {
    let _room = hold(bytes, 1, what)?;
    Ok(vec![0; bytes])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_machine_has_is_refused_by_name() {
        ask(1000, 64, "config.json").unwrap();
        let error = ask(usize::MAX / 8, 64, "config.json").unwrap_err();
        assert_eq!(error.code, Code::OutOfMemory);
        assert!(error.message.starts_with("config.json: "), "{error}");
        let error = hold_for(usize::MAX, "a step").unwrap_err();
        assert!(error.message.starts_with("a step: "), "{error}");
    }

    /// (Of other tests there may be promises, too.)
    #[test]
    fn what_is_held_counts_until_it_goes() {
        let held = hold(1 << 30, 1, "the first").unwrap();
        assert!(PROMISED.load(Ordering::Relaxed) >= 1 << 30);
        drop(held);
        now(1, "a step").unwrap();
    }
}
