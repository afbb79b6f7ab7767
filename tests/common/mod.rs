//! The C ABI as the integration tests call it: handles that free themselves, errors as values.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::ffi::{c_void, CStr, CString};
use std::path::{Path, PathBuf};
use std::ptr;

// The ABI: out of the crate, or out of the shared library.
use crate::abi::*;

pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

#[derive(Clone, Debug)]
pub struct Failure {
    pub code: String,
    pub message: String,
}

/// Takes an error and frees it.
pub fn outcome(error: *mut mlxrt_error) -> Result<(), Failure> {
    if error.is_null() {
        return Ok(());
    }
    // SAFETY: the error just came out of the library and is freed here only.
    unsafe {
        let text =
            |text: *const std::ffi::c_char| CStr::from_ptr(text).to_str().unwrap().to_owned();
        let failure = Failure {
            code: text(mlxrt_code_name(mlxrt_error_code(error))),
            message: text(mlxrt_error_message(error)),
        };
        mlxrt_error_free(error);
        Err(failure)
    }
}

/// All zero but for its size.
#[macro_export]
macro_rules! sized {
    ($type:ty) => {{
        // SAFETY: the ABI's structs are plain integers, floats and pointers, for all of which zero is a value.
        let mut value: $type = unsafe { std::mem::zeroed() };
        value.struct_size = size_of::<$type>() as u32;
        value
    }};
}

pub struct Model(pub *mut mlxrt_model);

// SAFETY: a handle, which any thread may use.
unsafe impl Send for Model {}
// SAFETY: as above.
unsafe impl Sync for Model {}

impl Drop for Model {
    fn drop(&mut self) {
        // SAFETY: any handle is safe to free.
        unsafe { mlxrt_model_free(self.0) }
    }
}

pub fn c_path(path: &Path) -> CString {
    CString::new(path.to_str().unwrap()).unwrap()
}

pub fn inspect(path: &Path) -> Result<String, Failure> {
    let (path, mut json) = (c_path(path), ptr::null_mut());
    // SAFETY: the path is NUL-terminated, the output writable; the text is copied before it is freed.
    unsafe {
        outcome(mlxrt_model_inspect(
            path.as_ptr(),
            ptr::null(),
            ptr::null(),
            &mut json,
            ptr::null_mut(),
        ))?;
        let text = CStr::from_ptr(json).to_str().unwrap().to_owned();
        mlxrt_free(json.cast());
        Ok(text)
    }
}

pub fn load(path: &Path) -> Result<Model, Failure> {
    load_with(path, &mut |_, _| {})
}

/// Loads and tells `progress` of it.
pub fn load_with(path: &Path, mut progress: &mut dyn FnMut(u64, u64)) -> Result<Model, Failure> {
    unsafe extern "C" fn hear(user_data: *mut c_void, done: u64, total: u64) -> i32 {
        // SAFETY: user_data is the `progress` below, which lives through the call.
        unsafe { (*user_data.cast::<&mut dyn FnMut(u64, u64)>())(done, total) };
        0
    }
    let path = c_path(path);
    let mut options = sized!(mlxrt_load_options);
    options.progress = Some(hear);
    options.progress_data = (&raw mut progress).cast();
    let mut model = ptr::null_mut();
    // SAFETY: the path is NUL-terminated, the options complete, the output writable.
    let loaded = outcome(unsafe { mlxrt_model_load(path.as_ptr(), &options, &mut model) });
    assert_eq!(loaded.is_err(), model.is_null());
    loaded.map(|()| Model(model))
}

pub struct Session(pub *mut mlxrt_session);

impl Drop for Session {
    fn drop(&mut self) {
        // SAFETY: any handle is safe to free.
        unsafe { mlxrt_session_free(self.0) }
    }
}

pub enum Prompt<'a> {
    Text(&'a str),
    Tokens(&'a [i32]),
    Messages(&'a str),
}

impl Prompt<'_> {
    pub fn input(&self) -> mlxrt_input {
        let mut input = sized!(mlxrt_input);
        match self {
            Prompt::Text(text) => (input.text, input.text_len) = (text.as_ptr().cast(), text.len()),
            Prompt::Tokens(ids) => (input.tokens, input.token_count) = (ids.as_ptr(), ids.len()),
            Prompt::Messages(json) => {
                (input.messages, input.messages_len) = (json.as_ptr().cast(), json.len())
            }
        }
        input
    }
}

#[derive(Debug, Default)]
pub struct Answer {
    pub tokens: Vec<i32>,
    pub text: String,
    pub stop: i32,
    pub prompt_tokens: u64,
    /// For each token the likeliest ids and their log-probabilities, where they were asked for.
    pub likeliest: Vec<Vec<(i32, f32)>>,
}

impl Model {
    /// `window`: tokens of a rotating cache; 0 = all.
    pub fn session(&self, window: u32) -> Session {
        let mut options = sized!(mlxrt_session_options);
        options.window = window;
        let mut session = ptr::null_mut();
        // SAFETY: the options are complete, the output writable.
        outcome(unsafe { mlxrt_session_create(self.0, &options, &mut session) }).unwrap();
        Session(session)
    }

    pub fn render(&self, messages: &str) -> Result<String, Failure> {
        let (input, mut text) = (Prompt::Messages(messages).input(), ptr::null_mut());
        // SAFETY: the input is complete, the output writable; the text is copied before it is freed.
        unsafe {
            outcome(mlxrt_render(self.0, &input, &mut text, ptr::null_mut()))?;
            let rendered = CStr::from_ptr(text).to_str().unwrap().to_owned();
            mlxrt_free(text.cast());
            Ok(rendered)
        }
    }
}

impl Session {
    /// Greedy. Ends at the model's end of text, if `to_the_end`.
    pub fn generate(
        &self,
        prompt: Prompt,
        max_tokens: u32,
        to_the_end: bool,
    ) -> Result<Answer, Failure> {
        let mut options = sized!(mlxrt_generate_options);
        options.flags = MLXRT_GEN_GREEDY | if to_the_end { 0 } else { MLXRT_GEN_IGNORE_EOS };
        options.max_tokens = max_tokens;
        self.generate_with(prompt, &options)
    }

    pub fn generate_with(
        &self,
        prompt: Prompt,
        options: &mlxrt_generate_options,
    ) -> Result<Answer, Failure> {
        unsafe extern "C" fn collect(user_data: *mut c_void, event: *const mlxrt_event) -> i32 {
            // SAFETY: user_data is the `answer` below; the event and its arrays live through this call.
            unsafe {
                let (answer, event) = (&mut *user_data.cast::<Answer>(), &*event);
                let text = std::slice::from_raw_parts(event.text.cast::<u8>(), event.text_len);
                answer.text.push_str(std::str::from_utf8(text).unwrap());
                if event.token_count > 0 {
                    answer.tokens.extend_from_slice(std::slice::from_raw_parts(
                        event.tokens,
                        event.token_count,
                    ));
                }
                if !event.top_tokens.is_null() {
                    let count = event.token_count * event.top_count;
                    let ids = std::slice::from_raw_parts(event.top_tokens, count);
                    let values = std::slice::from_raw_parts(event.top_logprobs, count);
                    let pairs: Vec<_> = ids.iter().copied().zip(values.iter().copied()).collect();
                    let rows = pairs.chunks_exact(event.top_count).map(<[_]>::to_vec);
                    answer.likeliest.extend(rows);
                }
            }
            0
        }
        let (input, mut answer, mut result) =
            (prompt.input(), Answer::default(), sized!(mlxrt_result));
        // SAFETY: all structs are complete and live through the call.
        let error = unsafe {
            let answer = (&raw mut answer).cast();
            mlxrt_generate(self.0, &input, options, Some(collect), answer, &mut result)
        };
        outcome(error)?;
        assert_ne!(result.stop, MLXRT_STOPPED_CALLBACK);
        (answer.stop, answer.prompt_tokens) = (result.stop, result.prompt_tokens);
        Ok(answer)
    }
}
