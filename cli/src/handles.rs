//! The C ABI as Rust values: each handle has an owner that frees it, each error becomes a `Failure`.

use std::any::Any;
use std::borrow::{Borrow, Cow};
use std::ffi::{c_char, c_void, CStr, CString};
use std::mem::size_of;
use std::panic::{catch_unwind, resume_unwind, AssertUnwindSafe};
use std::rc::Rc;
use std::{ptr, slice};

use serde_json::Value;

use crate::failure::{Failure, Outcome};
use crate::ffi::*;

/// Makes an options struct or an output struct: zeros, with struct_size set.
macro_rules! sized {
    ($type:ident { $($field:ident: $value:expr),* $(,)? }) => {
        $type { struct_size: size_of::<$type>() as u32, $($field: $value,)* ..$type::default() }
    };
    ($type:ident) => { sized!($type {}) };
}
pub(crate) use sized;

/// Takes the error that a function returned.
fn check(error: *mut mlxrt_error) -> Outcome<()> {
    if error.is_null() {
        return Ok(());
    }
    // SAFETY: a pointer that is not NULL is an error of the library, ours until mlxrt_error_free; its texts are
    // NUL-terminated, and copied before.
    unsafe {
        let code = mlxrt_error_code(error);
        let name = text_of(mlxrt_code_name(code));
        let message = text_of(mlxrt_error_message(error));
        mlxrt_error_free(error);
        Err(Failure::of_library(code, &name, message))
    }
}

/// # Safety
/// `text` is NUL-terminated and lives during the call.
unsafe fn text_of(text: *const c_char) -> String {
    // SAFETY: as promised by the caller.
    unsafe { CStr::from_ptr(text) }
        .to_string_lossy()
        .into_owned()
}

/// Takes a buffer of the library that holds `len` items, and frees it.
///
/// # Safety
/// `buffer` is NULL or such a buffer, and nobody else's.
unsafe fn take<T: Copy>(buffer: *mut T, len: usize) -> Vec<T> {
    if buffer.is_null() {
        return Vec::new();
    }
    // SAFETY: as promised by the caller.
    let items = unsafe { slice::from_raw_parts(buffer, len) }.to_vec();
    // SAFETY: as above; nothing points into it any more.
    unsafe { mlxrt_free(buffer.cast()) };
    items
}

fn path_of(path: &str) -> Outcome<CString> {
    CString::new(path).map_err(|_| Failure::usage("a path has a NUL character in it"))
}

/// Asks for JSON: `call` gets where the pointer and the length go.
fn json_of(call: impl FnOnce(*mut *mut c_char, *mut usize) -> *mut mlxrt_error) -> Outcome<Value> {
    let text = string_of(call)?;
    serde_json::from_str(&text).map_err(|error| {
        let message = format!("the library wrote JSON that cannot be read: {error}");
        Failure::of_library(MLXRT_E_INTERNAL, "INTERNAL", message)
    })
}

fn string_of(
    call: impl FnOnce(*mut *mut c_char, *mut usize) -> *mut mlxrt_error,
) -> Outcome<String> {
    let (mut text, mut len) = (ptr::null_mut(), 0);
    check(call(&mut text, &mut len))?;
    // SAFETY: on success the function has given us a buffer of `len` bytes.
    let bytes = unsafe { take(text.cast::<u8>(), len) };
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// A Rust closure behind a C callback; what it panics with goes on after the call.
struct Callback<F> {
    function: F,
    panic: Option<Box<dyn Any + Send>>,
}

impl<F> Callback<F> {
    fn new(function: F) -> Callback<F> {
        Callback {
            function,
            panic: None,
        }
    }

    fn run(&mut self, call: impl FnOnce(&mut F) -> bool) -> i32 {
        match catch_unwind(AssertUnwindSafe(|| call(&mut self.function))) {
            Ok(true) => MLXRT_RETURN_CONTINUE,
            Ok(false) => MLXRT_RETURN_STOP,
            Err(panic) => {
                self.panic = Some(panic);
                MLXRT_RETURN_STOP
            }
        }
    }

    fn data(&mut self) -> *mut c_void {
        ptr::from_mut(self).cast()
    }

    fn finish(self) {
        if let Some(panic) = self.panic {
            resume_unwind(panic);
        }
    }
}

/// Hears of bytes or tokens done and in all; false ends the call as CANCELLED.
pub type OnProgress<'a> = &'a mut dyn FnMut(u64, u64) -> bool;

unsafe extern "C" fn on_progress(data: *mut c_void, done: u64, total: u64) -> i32 {
    // SAFETY: data is the Callback that the running call was given, which nobody else touches until it returns.
    let callback = unsafe { &mut *data.cast::<Callback<OnProgress>>() };
    callback.run(|function| function(done, total))
}

/// One init of the library; its drop is the shutdown.
pub struct Library(());

impl Library {
    /// Starts the engine.
    pub fn init(options: &mlxrt_init_options) -> Outcome<Library> {
        // SAFETY: options is whole and lives during the call.
        check(unsafe { mlxrt_init(options) })?;
        Ok(Library(()))
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        // SAFETY: any time is fine; an error is ours to free, and at the end there is nobody to tell.
        unsafe { mlxrt_error_free(mlxrt_shutdown(0, MLXRT_FOREVER)) };
    }
}

pub fn version() -> String {
    // SAFETY: the text lives as long as the process.
    unsafe { text_of(mlxrt_version()) }
}

/// Refuses a library that is older than what this program was compiled with.
pub fn check_abi() -> Outcome<()> {
    // SAFETY: no arguments.
    let has = unsafe { mlxrt_abi_version() };
    if has >= MLXRT_ABI {
        return Ok(());
    }
    let message = format!(
        "the libmlxrt that was found is too old: its ABI is {has}, this program needs {MLXRT_ABI}"
    );
    Err(Failure::of_library(
        MLXRT_E_UNSUPPORTED,
        "UNSUPPORTED",
        message,
    ))
}

pub fn device_info() -> Outcome<Value> {
    // SAFETY: both are places for the function to write to.
    json_of(|json, len| unsafe { mlxrt_device_info(json, len) })
}

pub fn memory() -> Outcome<mlxrt_memory> {
    let mut memory = sized!(mlxrt_memory);
    // SAFETY: memory is whole.
    check(unsafe { mlxrt_memory_get(&mut memory) })?;
    Ok(memory)
}

/// Sends the library's log, up to a level, to standard error.
pub fn log_to_stderr(level: i32) -> Outcome<()> {
    unsafe extern "C" fn on_log(_: *mut c_void, level: i32, text: *const c_char, len: usize) {
        // SAFETY: text has len bytes and lives until we return.
        let bytes = unsafe { slice::from_raw_parts(text.cast::<u8>(), len) };
        // A panic must not go through C; a line of the log may be lost.
        let _ = catch_unwind(|| crate::ui::log_line(level, &String::from_utf8_lossy(bytes)));
    }
    // SAFETY: on_log needs no data and lives as long as the process.
    check(unsafe { mlxrt_log_set(level, Some(on_log), ptr::null_mut()) })
}

/// What is told of a folder before it is loaded.
pub fn inspect(
    path: &str,
    load: &mlxrt_load_options,
    session: &mlxrt_session_options,
) -> Outcome<Value> {
    let path = path_of(path)?;
    // SAFETY: everything lives during the call; json and len are places to write to.
    json_of(|json, len| unsafe { mlxrt_model_inspect(path.as_ptr(), load, session, json, len) })
}

pub struct Model(*mut mlxrt_model);

impl Model {
    /// The callback of `options` is set here.
    pub fn load(
        path: &str,
        mut options: mlxrt_load_options,
        progress: OnProgress,
    ) -> Outcome<Model> {
        let path = path_of(path)?;
        let mut callback = Callback::new(progress);
        options.progress = Some(on_progress);
        options.progress_data = callback.data();
        let mut model = ptr::null_mut();
        // SAFETY: everything lives during the call.
        let done = check(unsafe { mlxrt_model_load(path.as_ptr(), &options, &mut model) });
        callback.finish();
        done.map(|()| Model(model))
    }

    pub fn info(&self) -> Outcome<Value> {
        // SAFETY: the handle is ours; json and len are places to write to.
        json_of(|json, len| unsafe { mlxrt_model_info(self.0, json, len) })
    }

    pub fn session(&self, options: &mlxrt_session_options) -> Outcome<Session> {
        let mut session = ptr::null_mut();
        // SAFETY: everything lives during the call.
        check(unsafe { mlxrt_session_create(self.0, options, &mut session) })?;
        Ok(Session(session))
    }

    /// A session of a file that `save` wrote.
    pub fn load_session(&self, path: &str, progress: OnProgress) -> Outcome<Session> {
        let path = path_of(path)?;
        let mut callback = Callback::new(progress);
        let options = sized!(mlxrt_call_options {
            progress: Some(on_progress),
            progress_data: callback.data(),
        });
        let mut session = ptr::null_mut();
        // SAFETY: everything lives during the call.
        let error = unsafe { mlxrt_session_load(self.0, path.as_ptr(), &options, &mut session) };
        let done = check(error);
        callback.finish();
        done.map(|()| Session(session))
    }

    pub fn tokenize(&self, text: &str) -> Outcome<Vec<i32>> {
        let (mut ids, mut count) = (ptr::null_mut(), 0);
        // SAFETY: text lives during the call; ids and count are places to write to.
        let error = unsafe {
            mlxrt_tokenize(
                self.0,
                text.as_ptr().cast(),
                text.len(),
                0,
                &mut ids,
                &mut count,
            )
        };
        check(error)?;
        // SAFETY: on success ids is a buffer of count ids, ours.
        Ok(unsafe { take(ids, count) })
    }

    /// The tokens that a request of a fresh session starts from.
    pub fn prompt_tokens(&self, input: &Input) -> Outcome<Vec<i32>> {
        let input = input.raw();
        let (mut ids, mut count) = (ptr::null_mut(), 0);
        // SAFETY: everything lives during the call; ids and count are places to write to.
        check(unsafe { mlxrt_count_tokens(self.0, &input, &mut ids, &mut count) })?;
        // SAFETY: on success ids is a buffer of count ids, ours.
        Ok(unsafe { take(ids, count) })
    }

    /// The text of tokens, special ones included.
    pub fn detokenize(&self, ids: &[i32]) -> Outcome<String> {
        // SAFETY: ids lives during the call; text and len are places to write to.
        string_of(|text, len| unsafe {
            mlxrt_detokenize(self.0, ids.as_ptr(), ids.len(), 0, text, len)
        })
    }

    /// The prompt that the model sees for a conversation.
    pub fn render(&self, input: &Input) -> Outcome<String> {
        let input = input.raw();
        // SAFETY: everything lives during the call.
        string_of(|text, len| unsafe { mlxrt_render(self.0, &input, text, len) })
    }

    /// `kind`: MLXRT_GRAMMAR_*.
    pub fn compile_grammar(&self, kind: i32, source: &str) -> Outcome<Grammar> {
        let mut grammar = ptr::null_mut();
        let (text, len) = (source.as_ptr().cast(), source.len());
        // SAFETY: source lives during the call.
        let error =
            unsafe { mlxrt_grammar_compile(self.0, kind, text, len, ptr::null(), &mut grammar) };
        check(error).map(|()| Grammar(grammar))
    }

    pub fn load_adapter(&self, path: &str, progress: OnProgress) -> Outcome<Adapter> {
        let path = path_of(path)?;
        let mut callback = Callback::new(progress);
        let options = sized!(mlxrt_call_options {
            progress: Some(on_progress),
            progress_data: callback.data(),
        });
        let mut adapter = ptr::null_mut();
        // SAFETY: everything lives during the call.
        let error = unsafe { mlxrt_adapter_load(self.0, path.as_ptr(), &options, &mut adapter) };
        let done = check(error);
        callback.finish();
        done.map(|()| Adapter(adapter))
    }

    /// `keys` empty means the default ones; the pointers of `options` are set here.
    pub fn create_adapter(
        &self,
        options: &mlxrt_adapter_options,
        keys: &[String],
    ) -> Outcome<Adapter> {
        let keys = keys
            .iter()
            .map(|key| path_of(key))
            .collect::<Outcome<Vec<_>>>()?;
        let keys: Vec<*const c_char> = keys.iter().map(|key| key.as_ptr()).collect();
        let mut options = *options;
        if !keys.is_empty() {
            options.keys = keys.as_ptr();
            options.key_count = keys.len();
        }
        let mut adapter = ptr::null_mut();
        // SAFETY: everything lives during the call.
        check(unsafe { mlxrt_adapter_create(self.0, &options, &mut adapter) })?;
        Ok(Adapter(adapter))
    }

    /// Writes the model with adapters, each at its scale, fused in.
    pub fn save(
        &self,
        adapters: &[(Adapter, f32)],
        path: &str,
        progress: OnProgress,
    ) -> Outcome<()> {
        let path = path_of(path)?;
        let (handles, scales) = lists(adapters);
        let mut callback = Callback::new(progress);
        let options = sized!(mlxrt_call_options {
            progress: Some(on_progress),
            progress_data: callback.data(),
        });
        // SAFETY: both lists have as many items as adapters; everything lives during the call.
        let error = unsafe {
            mlxrt_model_save(
                self.0,
                handles.as_ptr(),
                scales.as_ptr(),
                handles.len(),
                path.as_ptr(),
                &options,
            )
        };
        let done = check(error);
        callback.finish();
        done
    }

    /// An embedding for each text. The callback of `options` is set here.
    pub fn embed(
        &self,
        texts: &[String],
        options: &mlxrt_embed_options,
        progress: OnProgress,
    ) -> Outcome<Vec<Vec<f32>>> {
        let pointers: Vec<*const c_char> = texts.iter().map(|text| text.as_ptr().cast()).collect();
        let lengths: Vec<usize> = texts.iter().map(String::len).collect();
        let mut callback = Callback::new(progress);
        let options = mlxrt_embed_options {
            progress: Some(on_progress),
            progress_data: callback.data(),
            ..*options
        };
        let mut out = sized!(mlxrt_tensor);
        // SAFETY: both lists have as many items as texts; everything lives during the call.
        let error = unsafe {
            mlxrt_embed(
                self.0,
                pointers.as_ptr(),
                lengths.as_ptr(),
                texts.len(),
                &options,
                &mut out,
            )
        };
        let done = check(error);
        callback.finish();
        done?;
        // SAFETY: on success the function has given us a buffer of that many numbers.
        let values = unsafe {
            take(
                out.data.cast::<f32>(),
                out.bytes as usize / size_of::<f32>(),
            )
        };
        let width = values.len() / texts.len().max(1);
        Ok(values.chunks(width.max(1)).map(<[f32]>::to_vec).collect())
    }

    /// Trains an adapter in place. The pointers of `options` are set here; false from `on_event` ends it.
    pub fn train(
        &self,
        adapter: &Adapter,
        options: &mlxrt_train_options,
        files: &TrainFiles,
        on_event: OnTrainEvent,
    ) -> Outcome<()> {
        let save = path_of(&files.save)?;
        let mut options = *options;
        options.flags |= MLXRT_TRAIN_PATHS;
        options.train = files.train.as_ptr().cast();
        options.train_len = files.train.len();
        if let Some(valid) = &files.valid {
            options.valid = valid.as_ptr().cast();
            options.valid_len = valid.len();
        }
        options.save_path = save.as_ptr();
        let mut callback = Callback::new(on_event);
        // SAFETY: everything lives during the call.
        let error = unsafe {
            mlxrt_train(
                self.0,
                adapter.0,
                &options,
                Some(on_train_event),
                callback.data(),
            )
        };
        let done = check(error);
        callback.finish();
        done
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        // SAFETY: the handle is ours.
        unsafe { mlxrt_model_free(self.0) };
    }
}

pub struct TrainFiles {
    pub train: String,
    pub valid: Option<String>,
    /// The folder that the adapter goes to.
    pub save: String,
}

pub type OnTrainEvent<'a> = &'a mut dyn FnMut(&mlxrt_train_event) -> bool;

unsafe extern "C" fn on_train_event(data: *mut c_void, event: *const mlxrt_train_event) -> i32 {
    // SAFETY: data is the Callback that the running call was given, which nobody else touches until it returns.
    let callback = unsafe { &mut *data.cast::<Callback<OnTrainEvent>>() };
    // SAFETY: the event lives until we return, and is at least of the version that we were compiled with.
    let event = unsafe { &*event };
    callback.run(|function| function(event))
}

pub struct Grammar(*mut mlxrt_grammar);

impl Drop for Grammar {
    fn drop(&mut self) {
        // SAFETY: the handle is ours.
        unsafe { mlxrt_grammar_free(self.0) };
    }
}

pub struct Adapter(*mut mlxrt_adapter);

impl Adapter {
    pub fn info(&self) -> Outcome<Value> {
        // SAFETY: the handle is ours; json and len are places to write to.
        json_of(|json, len| unsafe { mlxrt_adapter_info(self.0, json, len) })
    }
}

impl Drop for Adapter {
    fn drop(&mut self) {
        // SAFETY: the handle is ours.
        unsafe { mlxrt_adapter_free(self.0) };
    }
}

/// Adapters and their scales as the library takes them.
fn lists<A: Borrow<Adapter>>(adapters: &[(A, f32)]) -> (Vec<*mut mlxrt_adapter>, Vec<f32>) {
    let handle = |(adapter, scale): &(A, f32)| (adapter.borrow().0, *scale);
    adapters.iter().map(handle).unzip()
}

/// What goes into a session: exactly one of the first three.
#[derive(Default)]
pub struct Input {
    pub text: Option<String>,
    pub tokens: Option<Vec<i32>>,
    /// The whole conversation, as JSON.
    pub messages: Option<String>,
    pub tools: Option<String>,
    pub template_args: Option<String>,
    /// As JSON.
    pub tool_choice: Option<String>,
    /// MLXRT_INPUT_*.
    pub flags: u32,
}

impl Input {
    /// Points into self.
    fn raw(&self) -> mlxrt_input {
        fn text(text: &Option<String>) -> (*const c_char, usize) {
            text.as_ref()
                .map_or((ptr::null(), 0), |text| (text.as_ptr().cast(), text.len()))
        }
        let mut raw = sized!(mlxrt_input { flags: self.flags });
        (raw.text, raw.text_len) = text(&self.text);
        (raw.messages, raw.messages_len) = text(&self.messages);
        (raw.tools, raw.tools_len) = text(&self.tools);
        (raw.template_args, raw.template_args_len) = text(&self.template_args);
        (raw.tool_choice, raw.tool_choice_len) = text(&self.tool_choice);
        if let Some(tokens) = &self.tokens {
            (raw.tokens, raw.token_count) = (tokens.as_ptr(), tokens.len());
        }
        raw
    }
}

/// How to generate: the plain fields, and lists that the raw struct points to during a call.
#[derive(Clone)]
pub struct Generate {
    pub raw: mlxrt_generate_options,
    pub stop: Vec<String>,
    pub stop_tokens: Vec<i32>,
    pub bias: Vec<(i32, f32)>,
    pub grammar: Option<Rc<Grammar>>,
}

/// A piece of what a generation produces.
pub struct Event<'a> {
    pub kind: i32,
    pub text: Cow<'a, str>,
    pub tokens: &'a [i32],
    /// One for each token, where they were asked for.
    pub logprobs: &'a [f32],
    /// `top_count` for each token.
    pub top_tokens: &'a [i32],
    pub top_logprobs: &'a [f32],
    pub top_count: usize,
    pub done: u64,
    pub total: u64,
}

pub type OnEvent<'a> = &'a mut dyn FnMut(&Event) -> bool;

unsafe extern "C" fn on_event(data: *mut c_void, event: *const mlxrt_event) -> i32 {
    /// # Safety
    /// `items` is NULL or has `count` of them, for as long as the event lives.
    unsafe fn list<'a, T>(items: *const T, count: usize) -> &'a [T] {
        if items.is_null() {
            return &[];
        }
        // SAFETY: as promised by the caller.
        unsafe { slice::from_raw_parts(items, count) }
    }
    // SAFETY: data is the Callback that the running call was given, which nobody else touches until it returns.
    let callback = unsafe { &mut *data.cast::<Callback<OnEvent>>() };
    // SAFETY: the event and its lists live until we return, and have the lengths that it says.
    let event = unsafe {
        let raw = &*event;
        let tops = raw.token_count.saturating_mul(raw.top_count);
        Event {
            kind: raw.kind,
            text: String::from_utf8_lossy(list(raw.text.cast(), raw.text_len)),
            tokens: list(raw.tokens, raw.token_count),
            logprobs: list(raw.logprobs, raw.token_count),
            top_tokens: list(raw.top_tokens, tops),
            top_logprobs: list(raw.top_logprobs, tops),
            top_count: raw.top_count,
            done: raw.done,
            total: raw.total,
        }
    };
    callback.run(|function| function(&event))
}

/// Writes a session, whichever thread has it: its id is checked by the library.
pub fn save_session(session: *mut mlxrt_session, path: &str) -> Outcome<()> {
    let path = path_of(path)?;
    // SAFETY: a session is an id that the library checks; the path lives during the call.
    check(unsafe { mlxrt_session_save(session, path.as_ptr(), ptr::null()) })
}

pub struct Session(*mut mlxrt_session);

impl Session {
    /// The id, for `interrupt`.
    pub fn id(&self) -> *mut mlxrt_session {
        self.0
    }

    pub fn generate(
        &self,
        input: &Input,
        options: &Generate,
        on_event_of: OnEvent,
    ) -> (mlxrt_result, Outcome<()>) {
        let input = input.raw();
        let stop: Vec<*const c_char> = options.stop.iter().map(|s| s.as_ptr().cast()).collect();
        let stop_lens: Vec<usize> = options.stop.iter().map(String::len).collect();
        let (bias_tokens, bias_values): (Vec<i32>, Vec<f32>) = options.bias.iter().copied().unzip();
        let mut raw = options.raw;
        (raw.stop, raw.stop_lens, raw.stop_count) = (stop.as_ptr(), stop_lens.as_ptr(), stop.len());
        (raw.stop_tokens, raw.stop_token_count) =
            (options.stop_tokens.as_ptr(), options.stop_tokens.len());
        (raw.bias_tokens, raw.bias_values, raw.bias_count) = (
            bias_tokens.as_ptr(),
            bias_values.as_ptr(),
            bias_tokens.len(),
        );
        raw.grammar = options.grammar.as_ref().map_or(ptr::null_mut(), |g| g.0);
        let mut result = sized!(mlxrt_result);
        let mut callback = Callback::new(on_event_of);
        // SAFETY: everything lives during the call.
        let error = unsafe {
            mlxrt_generate(
                self.0,
                &input,
                &raw,
                Some(on_event),
                callback.data(),
                &mut result,
            )
        };
        let done = check(error);
        callback.finish();
        (result, done)
    }

    /// The log-probability of each token behind the session's and those of `before`. `timeout_ms` 0 is none.
    pub fn score(
        &self,
        before: &Input,
        tokens: &[i32],
        timeout_ms: u32,
        progress: OnProgress,
    ) -> Outcome<Vec<f32>> {
        let before = before.raw();
        let target = sized!(mlxrt_input {
            tokens: tokens.as_ptr(),
            token_count: tokens.len(),
        });
        let mut callback = Callback::new(progress);
        let options = sized!(mlxrt_call_options {
            timeout_ms: timeout_ms,
            progress: Some(on_progress),
            progress_data: callback.data(),
        });
        let (mut logprobs, mut count) = (ptr::null_mut(), 0);
        // SAFETY: everything lives during the call; logprobs and count are places to write to.
        let error = unsafe {
            mlxrt_score(
                self.0,
                &before,
                &target,
                &options,
                &mut logprobs,
                &mut count,
            )
        };
        let done = check(error);
        callback.finish();
        done?;
        // SAFETY: on success logprobs is a buffer of count numbers, ours.
        Ok(unsafe { take(logprobs, count) })
    }

    /// The last answer as a message.
    pub fn message(&self) -> Outcome<Value> {
        // SAFETY: the handle is ours; json and len are places to write to.
        json_of(|json, len| unsafe { mlxrt_session_message(self.0, json, len) })
    }

    pub fn state(&self) -> Outcome<mlxrt_session_state> {
        let mut state = sized!(mlxrt_session_state);
        // SAFETY: state is whole.
        check(unsafe { mlxrt_session_info(self.0, &mut state) })?;
        Ok(state)
    }

    /// Sets the adapters and their scales, from the next request on.
    pub fn apply<A: Borrow<Adapter>>(&self, adapters: &[(A, f32)]) -> Outcome<()> {
        let (handles, scales) = lists(adapters);
        // SAFETY: both have as many items as adapters, and live during the call.
        check(unsafe {
            mlxrt_apply_adapter(self.0, handles.as_ptr(), scales.as_ptr(), handles.len())
        })
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // SAFETY: the handle is ours.
        unsafe { mlxrt_session_free(self.0) };
    }
}
