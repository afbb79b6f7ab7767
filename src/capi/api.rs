//! The function table that `mlxrt_get_api` gives: one slot for each function of the agreed surface, in its order.
//!
//! The C struct `mlxrt_api` is written by `tests/header/table.rs`, out of the prototypes of the same functions.

use std::ffi::c_void;
use std::mem::size_of;
use std::ptr;

use super::constants::MLXRT_ABI;
use super::types::mlxrt_api;
use super::{adapter, error, generate, library, memory, metrics, model, session, train};

/// The address of a function, NULL for one that this version does not have.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Slot(*const c_void);

// SAFETY: the address of a function, which is never written to.
unsafe impl Sync for Slot {}

/// `mlxrt_api` as it lies in memory.
#[repr(C)]
struct Table {
    struct_size: u32,
    abi: u32,
    slots: [Slot; NAMES.len()],
}

macro_rules! table {
    ($($name:ident $(= $function:path)?,)*) => {
        const NAMES: &[&str] = &[$(stringify!($name)),*];
        static TABLE: Table = Table {
            struct_size: size_of::<Table>() as u32,
            abi: MLXRT_ABI,
            slots: [$(slot!($($function)?)),*],
        };
    };
}
macro_rules! slot {
    () => {
        Slot(ptr::null())
    };
    ($function:path) => {
        Slot($function as *const c_void)
    };
}

// The agreed order, which is the layout: nothing is ever taken out or put in between, later functions come last.
// A function that this version lacks keeps its place; when it arrives, its line says where it is.
table! {
    mlxrt_abi_version = library::mlxrt_abi_version,
    mlxrt_version = library::mlxrt_version,
    mlxrt_init = library::mlxrt_init,
    mlxrt_shutdown = library::mlxrt_shutdown,
    mlxrt_suspend = library::mlxrt_suspend,
    mlxrt_resume = library::mlxrt_resume,
    mlxrt_device_info = library::mlxrt_device_info,
    mlxrt_log_set = library::mlxrt_log_set,
    mlxrt_free = library::mlxrt_free,
    mlxrt_error_code = error::mlxrt_error_code,
    mlxrt_error_message = error::mlxrt_error_message,
    mlxrt_error_free = error::mlxrt_error_free,
    mlxrt_code_name = error::mlxrt_code_name,
    mlxrt_memory_set = memory::mlxrt_memory_set,
    mlxrt_memory_get = memory::mlxrt_memory_get,
    mlxrt_memory_trim = memory::mlxrt_memory_trim,
    mlxrt_model_inspect = model::mlxrt_model_inspect,
    mlxrt_model_load = model::mlxrt_model_load,
    mlxrt_model_info = model::mlxrt_model_info,
    mlxrt_model_save = model::mlxrt_model_save,
    mlxrt_model_free = model::mlxrt_model_free,
    mlxrt_tokenize = model::mlxrt_tokenize,
    mlxrt_detokenize = model::mlxrt_detokenize,
    mlxrt_render = model::mlxrt_render,
    mlxrt_count_tokens = model::mlxrt_count_tokens,
    mlxrt_adapter_create = adapter::mlxrt_adapter_create,
    mlxrt_adapter_load = adapter::mlxrt_adapter_load,
    mlxrt_adapter_info = adapter::mlxrt_adapter_info,
    mlxrt_adapter_get = adapter::mlxrt_adapter_get,
    mlxrt_adapter_set = adapter::mlxrt_adapter_set,
    mlxrt_adapter_save = adapter::mlxrt_adapter_save,
    mlxrt_adapter_free = adapter::mlxrt_adapter_free,
    mlxrt_apply_adapter = adapter::mlxrt_apply_adapter,
    mlxrt_train = train::mlxrt_train,
    mlxrt_session_create = session::mlxrt_session_create,
    mlxrt_session_free = session::mlxrt_session_free,
    mlxrt_session_fork = session::mlxrt_session_fork,
    mlxrt_session_truncate = session::mlxrt_session_truncate,
    mlxrt_session_info = session::mlxrt_session_info,
    mlxrt_session_tokens = session::mlxrt_session_tokens,
    mlxrt_session_message = session::mlxrt_session_message,
    mlxrt_session_save = session::mlxrt_session_save,
    mlxrt_session_load = session::mlxrt_session_load,
    mlxrt_session_cancel = session::mlxrt_session_cancel,
    mlxrt_inspect_attention = session::mlxrt_inspect_attention,
    mlxrt_generate = generate::mlxrt_generate,
    mlxrt_submit = generate::mlxrt_submit,
    mlxrt_request_next = generate::mlxrt_request_next,
    mlxrt_request_cancel = generate::mlxrt_request_cancel,
    mlxrt_request_result = generate::mlxrt_request_result,
    mlxrt_request_free = generate::mlxrt_request_free,
    mlxrt_embed,
    mlxrt_score = generate::mlxrt_score,
    mlxrt_grammar_compile,
    mlxrt_grammar_free,
    mlxrt_metrics = metrics::mlxrt_metrics,
}

/// The table, or NULL for a version that is newer than this library's, or 0.
pub fn table(abi: u32) -> *const mlxrt_api {
    if (1..=MLXRT_ABI).contains(&abi) {
        (&raw const TABLE).cast()
    } else {
        ptr::null()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// The functions that a header declares, in its order.
    fn functions(path: &str) -> Vec<String> {
        let text = fs::read_to_string(format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))).unwrap();
        let declares = |line: &&str| {
            line.starts_with(|c: char| c.is_ascii_alphabetic()) && !line.starts_with("typedef")
        };
        let name = |line: &str| {
            let (before, _) = line.split_once('(')?;
            let name = before.rsplit([' ', '*']).next()?;
            name.starts_with("mlxrt_").then(|| name.to_owned())
        };
        text.lines().filter(declares).filter_map(name).collect()
    }

    #[test]
    fn the_order_is_the_agreed_one() {
        let agreed = functions("tests/abi/agreed.h");
        assert!(agreed.len() > 50);
        let but_itself: Vec<&String> = agreed
            .iter()
            .filter(|name| *name != "mlxrt_get_api")
            .collect();
        assert_eq!(but_itself, NAMES);
        assert_eq!(size_of::<Table>(), 8 + 8 * NAMES.len());
    }

    #[test]
    fn every_function_of_the_header_is_in_the_table() {
        let ours = functions("include/mlxrt.h");
        assert!(ours.len() > 25);
        for (name, slot) in NAMES.iter().zip(&TABLE.slots) {
            let declared = ours.iter().any(|function| function == name);
            assert_eq!(
                declared,
                !slot.0.is_null(),
                "{name}: its line in src/capi/api.rs"
            );
        }
    }

    #[test]
    fn versions_that_there_are_not_get_nothing() {
        assert!(table(0).is_null());
        assert!(table(MLXRT_ABI + 1).is_null());
        assert!(table(u32::MAX).is_null());
        assert!(!table(1).is_null());
        assert_eq!(table(1), table(MLXRT_ABI));
    }
}
