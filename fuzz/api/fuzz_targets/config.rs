//! config.json beside the weights and the tokenizer of a fixture, through `mlxrt_model_inspect`: the family, the decoder's
//! description, the quantisation, the tensors that they imply, and the estimate of what it all takes.
#![no_main]

use std::ffi::{c_char, CStr, CString};
use std::path::{Path, PathBuf};
use std::ptr::{null, null_mut};
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use mlxrt::capi::constants::*;
use mlxrt::capi::error::*;
use mlxrt::capi::library::mlxrt_free;
use mlxrt::capi::model::mlxrt_model_inspect;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/models");
/// Its tensors are what most configs of the corpus imply; those of other families are missing, by name.
const CASE: &str = "qwen3-f32";

fuzz_target!(|data: &[u8]| {
    let folder = folder();
    std::fs::write(folder.join("config.json"), data).expect("a scratch file");
    let path = CString::new(folder.to_str().expect("a Unicode path")).expect("no NUL");
    let (mut json, mut length): (*mut c_char, usize) = (null_mut(), 0);
    // SAFETY: the path ends in NUL, there are no options, the outputs are writable.
    let error = unsafe { mlxrt_model_inspect(path.as_ptr(), null(), null(), &mut json, &mut length) };
    if error.is_null() {
        assert!(!json.is_null() && length > 0);
        // SAFETY: it was given, and is freed once.
        unsafe { mlxrt_free(json.cast()) };
        return;
    }
    assert!(json.is_null());
    // SAFETY: the error was given, its message ends in NUL, and it is freed last.
    unsafe {
        let code = mlxrt_error_code(error);
        let message = CStr::from_ptr(mlxrt_error_message(error)).to_bytes().len();
        mlxrt_error_free(error);
        assert!(
            [MLXRT_E_BAD_MODEL, MLXRT_E_UNSUPPORTED, MLXRT_E_OUT_OF_MEMORY].contains(&code),
            "the code is {code}"
        );
        assert!((1..4096).contains(&message), "a message of {message} bytes");
    }
});

/// `make fuzz` removes it.
fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let scratch = concat!(env!("CARGO_MANIFEST_DIR"), "/../scratch");
        let folder = PathBuf::from(scratch).join(std::process::id().to_string());
        std::fs::create_dir_all(&folder).expect("the scratch folder");
        let files = std::fs::read_dir(Path::new(FIXTURES).join(CASE)).expect("the fixture");
        for file in files {
            let file = file.expect("a file of the fixture").path();
            let name = file.file_name().expect("a name");
            std::fs::copy(&file, folder.join(name)).expect("a copy");
        }
        folder
    })
}
