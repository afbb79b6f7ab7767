//! The library as a host has it: opened with dlopen, its functions found by name. This program does not link the
//! crate: of its sources it compiles the ABI's structs and constants, and nothing else.

use std::ffi::{c_char, c_void, CString};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

#[path = "../../src/capi/constants.rs"]
#[allow(dead_code, reason = "the header's, all of them")]
mod constants;
#[path = "../../src/capi/types.rs"]
#[allow(dead_code, non_camel_case_types, reason = "the header's, all of them")]
mod types;

pub use constants::*;
pub use types::*;

#[allow(non_camel_case_types, reason = "the name is C's")]
pub struct mlxrt_error {
    _private: [u8; 0],
}

/// libmlxrt.so: MLXRT_LIBRARY, else where cargo puts it, two folders above this program.
pub fn library_path() -> PathBuf {
    if let Some(path) = std::env::var_os("MLXRT_LIBRARY") {
        return path.into();
    }
    let name = if cfg!(target_os = "macos") {
        "libmlxrt.dylib"
    } else {
        "libmlxrt.so"
    };
    let program = std::env::current_exe().unwrap_or_default();
    program
        .ancestors()
        .nth(2)
        .unwrap_or(Path::new("."))
        .join(name)
}

/// Opens a copy of the library; NULL when it cannot be opened.
pub fn open(path: &Path) -> *mut c_void {
    let path = CString::new(path.as_os_str().as_encoded_bytes()).unwrap();
    // SAFETY: the path is NUL-terminated.
    unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) }
}

/// The address of an export; NULL when there is none.
pub fn symbol(library: *mut c_void, name: &str) -> *mut c_void {
    let name = CString::new(name).unwrap();
    // SAFETY: a handle of dlopen's and a NUL-terminated name.
    unsafe { libc::dlsym(library, name.as_ptr()) }
}

/// The library of this process, opened at its first use.
pub fn library() -> *mut c_void {
    static LIBRARY: OnceLock<usize> = OnceLock::new();
    let opened = LIBRARY.get_or_init(|| {
        let library = open(&library_path());
        assert!(
            !library.is_null(),
            "{} cannot be opened: `cargo build --release` makes it",
            library_path().display()
        );
        library as usize
    });
    *opened as *mut c_void
}

/// Functions of the same names and types as the crate's, each of which calls the export.
macro_rules! exports {
    ($(fn $name:ident($($arg:ident: $type:ty),* $(,)?) $(-> $ret:ty)?;)*) => {$(
        #[allow(clippy::missing_safety_doc, dead_code, reason = "the header documents it")]
        pub unsafe fn $name($($arg: $type),*) $(-> $ret)? {
            static ADDRESS: OnceLock<usize> = OnceLock::new();
            let address = *ADDRESS.get_or_init(|| {
                let found = symbol(library(), stringify!($name)) as usize;
                assert!(found != 0, "the library does not export {}", stringify!($name));
                found
            });
            // SAFETY: the export has this signature (tests/header compares the header with the types used here).
            unsafe {
                let call: unsafe extern "C" fn($($type),*) $(-> $ret)? = std::mem::transmute(address);
                call($($arg),*)
            }
        }
    )*};
}

exports! {
    fn mlxrt_init(options: *const mlxrt_init_options) -> *mut mlxrt_error;
    fn mlxrt_shutdown(flags: u32, timeout_ms: u32) -> *mut mlxrt_error;
    fn mlxrt_device_info(json: *mut *mut c_char, len: *mut usize) -> *mut mlxrt_error;
    fn mlxrt_log_set(level: i32, log: mlxrt_log_fn, user_data: *mut c_void) -> *mut mlxrt_error;
    fn mlxrt_free(buffer: *mut c_void);
    fn mlxrt_error_code(error: *const mlxrt_error) -> i32;
    fn mlxrt_error_message(error: *const mlxrt_error) -> *const c_char;
    fn mlxrt_error_free(error: *mut mlxrt_error);
    fn mlxrt_code_name(code: i32) -> *const c_char;
    fn mlxrt_memory_get(out: *mut mlxrt_memory) -> *mut mlxrt_error;
    fn mlxrt_metrics(model: *const mlxrt_model, out: *mut mlxrt_metrics_data) -> *mut mlxrt_error;
    fn mlxrt_memory_set(limits: *const mlxrt_memory_limits) -> *mut mlxrt_error;
    fn mlxrt_memory_trim(level: i32) -> *mut mlxrt_error;
    fn mlxrt_model_inspect(
        path: *const c_char,
        load: *const mlxrt_load_options,
        session: *const mlxrt_session_options,
        json: *mut *mut c_char,
        len: *mut usize,
    ) -> *mut mlxrt_error;
    fn mlxrt_model_load(
        path: *const c_char,
        options: *const mlxrt_load_options,
        out: *mut *mut mlxrt_model,
    ) -> *mut mlxrt_error;
    fn mlxrt_model_info(
        model: *const mlxrt_model,
        json: *mut *mut c_char,
        len: *mut usize,
    ) -> *mut mlxrt_error;
    fn mlxrt_model_save(
        model: *mut mlxrt_model,
        adapters: *const *mut mlxrt_adapter,
        scales: *const f32,
        count: usize,
        path: *const c_char,
        options: *const mlxrt_call_options,
    ) -> *mut mlxrt_error;
    fn mlxrt_model_free(model: *mut mlxrt_model);
    fn mlxrt_tokenize(
        model: *const mlxrt_model,
        text: *const c_char,
        len: usize,
        flags: u32,
        ids: *mut *mut i32,
        count: *mut usize,
    ) -> *mut mlxrt_error;
    fn mlxrt_detokenize(
        model: *const mlxrt_model,
        ids: *const i32,
        count: usize,
        flags: u32,
        text: *mut *mut c_char,
        len: *mut usize,
    ) -> *mut mlxrt_error;
    fn mlxrt_render(
        model: *const mlxrt_model,
        input: *const mlxrt_input,
        text: *mut *mut c_char,
        len: *mut usize,
    ) -> *mut mlxrt_error;
    fn mlxrt_adapter_create(
        model: *mut mlxrt_model,
        options: *const mlxrt_adapter_options,
        out: *mut *mut mlxrt_adapter,
    ) -> *mut mlxrt_error;
    fn mlxrt_adapter_load(
        model: *mut mlxrt_model,
        path: *const c_char,
        options: *const mlxrt_call_options,
        out: *mut *mut mlxrt_adapter,
    ) -> *mut mlxrt_error;
    fn mlxrt_adapter_set(
        adapter: *mut mlxrt_adapter,
        name: *const c_char,
        data: *const mlxrt_tensor_view,
    ) -> *mut mlxrt_error;
    fn mlxrt_adapter_save(
        adapter: *const mlxrt_adapter,
        path: *const c_char,
        options: *const mlxrt_call_options,
    ) -> *mut mlxrt_error;
    fn mlxrt_adapter_free(adapter: *mut mlxrt_adapter);
    fn mlxrt_apply_adapter(
        session: *mut mlxrt_session,
        adapters: *const *mut mlxrt_adapter,
        scales: *const f32,
        count: usize,
    ) -> *mut mlxrt_error;
    fn mlxrt_train(
        model: *mut mlxrt_model,
        adapter: *mut mlxrt_adapter,
        options: *const mlxrt_train_options,
        event: mlxrt_train_fn,
        user_data: *mut c_void,
    ) -> *mut mlxrt_error;
    fn mlxrt_session_create(
        model: *mut mlxrt_model,
        options: *const mlxrt_session_options,
        out: *mut *mut mlxrt_session,
    ) -> *mut mlxrt_error;
    fn mlxrt_session_free(session: *mut mlxrt_session);
    fn mlxrt_session_info(
        session: *const mlxrt_session,
        out: *mut mlxrt_session_state,
    ) -> *mut mlxrt_error;
    fn mlxrt_session_tokens(
        session: *const mlxrt_session,
        ids: *mut *mut i32,
        count: *mut usize,
    ) -> *mut mlxrt_error;
    fn mlxrt_session_cancel(session: *mut mlxrt_session);
    fn mlxrt_submit(
        session: *mut mlxrt_session,
        input: *const mlxrt_input,
        options: *const mlxrt_generate_options,
        out: *mut *mut mlxrt_request,
    ) -> *mut mlxrt_error;
    fn mlxrt_request_result(
        request: *mut mlxrt_request,
        timeout_ms: u32,
        out: *mut mlxrt_result,
    ) -> *mut mlxrt_error;
    fn mlxrt_request_cancel(request: *mut mlxrt_request);
    fn mlxrt_request_free(request: *mut mlxrt_request);
    fn mlxrt_generate(
        session: *mut mlxrt_session,
        input: *const mlxrt_input,
        options: *const mlxrt_generate_options,
        event: mlxrt_event_fn,
        user_data: *mut c_void,
        out: *mut mlxrt_result,
    ) -> *mut mlxrt_error;
    fn mlxrt_grammar_compile(
        model: *const mlxrt_model,
        kind: i32,
        source: *const c_char,
        len: usize,
        options: *const mlxrt_call_options,
        out: *mut *mut mlxrt_grammar,
    ) -> *mut mlxrt_error;
    fn mlxrt_grammar_free(grammar: *mut mlxrt_grammar);
}
