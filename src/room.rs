//! Memory that is asked for before it is needed. An allocation of Rust's own that fails ends the process, and those of
//! other crates cannot be made to fail otherwise; so work on input begins with asking for what it will come to.

use crate::error::{Code, Error, Result};

/// Whether there is memory for `times` the `bytes` of `what`, which names the file or argument. What is asked for is
/// given back untouched, so that it costs no more than a system call.
///
/// Errors: `OutOfMemory`.
pub fn ask(bytes: usize, times: usize, what: &str) -> Result<()> {
    let mut room: Vec<u8> = Vec::new();
    room.try_reserve_exact(bytes.saturating_mul(times))
        .map_err(|_| {
            let message = format!("{what}: no memory to work on its {bytes} bytes");
            Error::new(Code::OutOfMemory, message)
        })
}

/// So many zeros.
///
/// Errors: as `ask`.
pub fn zeros(bytes: usize, what: &str) -> Result<Vec<u8>> {
    ask(bytes, 1, what)?;
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
    }
}
