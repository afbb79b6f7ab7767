use super::super::error::{mlxrt_error_code, mlxrt_error_free};
use super::super::types::mlxrt_model;
use super::*;
use std::ptr;
use std::sync::{Arc, Mutex};

/// What the C log function below was called with.
#[derive(Default)]
struct Seen(Mutex<Vec<(i32, String, i32)>>);

unsafe extern "C" fn keep(user_data: *mut c_void, level: i32, message: *const c_char, len: usize) {
    // SAFETY: the test passes a Seen that lives until it sets another function; message is NUL-terminated.
    unsafe {
        let seen = &*user_data.cast::<Seen>();
        let text = CStr::from_ptr(message).to_str().unwrap().to_owned();
        assert_eq!(text.len(), len);
        assert_eq!(
            CStr::from_ptr(mlxrt_version()).to_str(),
            Ok(env!("CARGO_PKG_VERSION"))
        );
        let inside = mlxrt_log_set(0, None, ptr::null_mut());
        if text.contains("handle") {
            seen.0
                .lock()
                .unwrap()
                .push((level, text, mlxrt_error_code(inside)));
        }
        mlxrt_error_free(inside);
    }
}

fn set(level: i32, function: mlxrt_log_fn, seen: &Seen) -> i32 {
    // SAFETY: `seen` outlives the function's use, since each test sets None at its end.
    unsafe {
        let error = mlxrt_log_set(level, function, ptr::from_ref(seen).cast_mut().cast());
        let code = mlxrt_error_code(error);
        mlxrt_error_free(error);
        code
    }
}

struct Model;
impl handle::Handle for Model {
    type C = mlxrt_model;
    const KIND: handle::Kind = handle::Kind::Model;
}

#[test]
fn a_handle_given_to_free_is_logged_and_lives() {
    let _tests = log::test_lock();
    let seen = Seen::default();
    let model = handle::table().insert(Arc::new(Model)).unwrap();
    assert_eq!(set(MLXRT_LOG_ERROR, Some(keep), &seen), MLXRT_OK);
    // SAFETY: not a buffer, which is what is tested; and NULL.
    unsafe {
        mlxrt_free(model.cast());
        mlxrt_free(ptr::null_mut());
    }
    assert_eq!(set(0, None, &seen), MLXRT_OK);
    // Silent again.
    // SAFETY: as above.
    unsafe { mlxrt_free(model.cast()) };
    let text = "mlxrt_free: this is a model handle: call mlxrt_model_free".to_owned();
    let lines = seen.0.lock().unwrap();
    assert_eq!(*lines, [(MLXRT_LOG_ERROR, text, MLXRT_E_REENTRANT)]);
    handle::table().remove::<Model>(model, "model").unwrap();
}

#[test]
fn unknown_levels_are_refused_and_change_nothing() {
    let _tests = log::test_lock();
    let seen = Seen::default();
    assert_eq!(set(MLXRT_LOG_WARN, Some(keep), &seen), MLXRT_OK);
    for level in [0, 5, -1, i32::MIN] {
        assert_eq!(set(level, Some(keep), &seen), MLXRT_E_UNSUPPORTED);
    }
    assert!(log::enabled(log::Level::Warn) && !log::enabled(log::Level::Info));
    assert_eq!(set(99, None, &seen), MLXRT_OK);
    assert!(!log::enabled(log::Level::Error));
}

#[test]
fn versions() {
    // SAFETY: no arguments.
    unsafe {
        assert_eq!(mlxrt_abi_version(), MLXRT_ABI);
        assert_eq!(
            CStr::from_ptr(mlxrt_version()).to_str(),
            Ok(env!("CARGO_PKG_VERSION"))
        );
    }
}

#[test]
fn buffers_are_freed() {
    let mut buffer: *mut c_char = ptr::null_mut();
    // SAFETY: the output is writable; the buffer is given up once.
    unsafe {
        text::TextOut::clear(&mut buffer, ptr::null_mut(), "text")
            .unwrap()
            .put("x")
            .unwrap();
        mlxrt_free(buffer.cast());
    }
}
