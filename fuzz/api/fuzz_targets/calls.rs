//! One function for each function of the API: what it is called with, and what must hold of its answer.

use std::cell::RefCell;
use std::ffi::{c_char, c_void, CStr};
use std::ptr::{self, null, null_mut};
use std::sync::atomic::Ordering;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use mlxrt::capi::adapter::*;
use mlxrt::capi::constants::*;
use mlxrt::capi::error::*;
use mlxrt::capi::generate::*;
use mlxrt::capi::grammar::*;
use mlxrt::capi::library::*;
use mlxrt::capi::memory::*;
use mlxrt::capi::metrics::mlxrt_metrics;
use mlxrt::capi::model::*;
use mlxrt::capi::session::*;
use mlxrt::capi::types::*;

use crate::world::{buffer, outcome, Bytes, Sized, World};

const FIXTURE: &CStr = match CStr::from_bytes_with_nul(
    concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../tests/fixtures/models/qwen3-f32\0"
    )
    .as_bytes(),
) {
    Ok(path) => path,
    Err(_) => panic!("one NUL, at the end"),
};
const NTS: usize = usize::MAX;

macro_rules! adapter_path {
    ($name:literal) => {
        match CStr::from_bytes_with_nul(
            concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/../../tests/fixtures/adapters/",
                $name,
                "\0"
            )
            .as_bytes(),
        ) {
            Ok(path) => path,
            Err(_) => panic!("one NUL, at the end"),
        }
    };
}

fn zeroed<T>() -> T {
    // SAFETY: the structs of the ABI are integers, floats, raw pointers and optional functions.
    unsafe { std::mem::zeroed() }
}

/// Texts of all sorts, with their length or MLXRT_NTS; NULL with and without a length.
fn text(bytes: &mut Bytes) -> (*const c_char, usize) {
    const TEXTS: &[&CStr] = &[
        c"Hello",
        c"",
        c" a b\n12 <|im_start|>user",
        c"\xf0\x9f\x98\x80 h\xc3\xa9",
        c"\xff\xfe",
        c"{}",
        c"[]",
        c"[{\"role\":\"user\",\"content\":\"Hi <|im_end|>\"}]",
        c"[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"assistant\",\"content\":\"b\"}]",
        c"[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"assistant\",\"content\":\"b\"},{\"role\":\"user\",\"content\":\"c\"}]",
        c"{\"enable_thinking\":false}",
        c"[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}]",
        c"null",
        c"[",
    ];
    match bytes.u8() {
        0xf0.. => (null(), usize::from(bytes.below(3))),
        0xe8.. => (null(), NTS),
        byte => {
            let text = TEXTS[usize::from(byte) % TEXTS.len()];
            let length = text.count_bytes();
            (
                text.as_ptr(),
                bytes.pick(&[length, NTS, length, length / 2]),
            )
        }
    }
}

/// Ids inside and outside the vocabulary.
fn ids(bytes: &mut Bytes) -> Vec<i32> {
    const IDS: [i32; 8] = [1, 17, 130, 128, 0, 131, -1, i32::MAX];
    let count = bytes.below(9);
    (0..count)
        .map(|_| IDS[usize::from(bytes.u8() >> 3) % IDS.len() / (1 + usize::from(count < 6))])
        .collect()
}

/// An array as C hands it over; NULL with a length, seldom.
fn array<T>(values: &[T], bytes: &mut Bytes) -> (*const T, usize) {
    match bytes.u8() {
        0xf8.. => (null(), usize::from(bytes.below(3))),
        0xf4.. => (values.as_ptr(), NTS),
        _ => (values.as_ptr(), values.len()),
    }
}

/// Where an output goes: seldom nowhere.
fn out<T>(place: &mut T, bytes: &mut Bytes) -> *mut T {
    match bytes.u8() {
        0xf8.. => null_mut(),
        _ => place,
    }
}

/// What a callback has: calls of its own to make.
struct Callback<'a, 'b> {
    world: &'a World,
    bytes: RefCell<Bytes<'b>>,
}

impl Callback<'_, '_> {
    /// # Safety
    /// `user_data` points to a Callback that lives.
    unsafe fn answer(user_data: *mut c_void) -> i32 {
        // SAFETY: as this function's own contract.
        let this = unsafe { &*user_data.cast::<Callback>() };
        // It is in use when a call from inside the callback calls back, which none may.
        let mut bytes = this.bytes.try_borrow_mut().expect("callbacks do not nest");
        let answer = bytes.pick(&[0, 0, 0, 0, 1, 7]);
        let mut few = bytes.part();
        crate::run(this.world, &mut few);
        answer
    }
}

unsafe extern "C" fn hear_event(user_data: *mut c_void, event: *const mlxrt_event) -> i32 {
    // SAFETY: the event and what it points to live until this returns.
    unsafe {
        let event = &*event;
        assert_eq!(event.struct_size as usize, size_of::<mlxrt_event>());
        let text = std::slice::from_raw_parts(event.text.cast::<u8>(), event.text_len + 1);
        assert_eq!(text[event.text_len], 0);
        assert!(std::str::from_utf8(text).is_ok());
        for at in 0..event.token_count {
            assert!((0..131).contains(&*event.tokens.add(at)));
            assert!(event.logprobs.is_null() || *event.logprobs.add(at) <= 1e-3);
        }
        Callback::answer(user_data)
    }
}

unsafe extern "C" fn hear_progress(user_data: *mut c_void, done: u64, total: u64) -> i32 {
    assert!(done <= total);
    // SAFETY: as hear_event.
    unsafe { Callback::answer(user_data) }
}

unsafe extern "C" fn hear_log(_: *mut c_void, level: i32, message: *const c_char, len: usize) {
    // SAFETY: the message has so many bytes and a NUL.
    let text = unsafe { std::slice::from_raw_parts(message.cast::<u8>(), len + 1) };
    assert!((MLXRT_LOG_ERROR..=MLXRT_LOG_DEBUG).contains(&level));
    assert!(text[len] == 0 && std::str::from_utf8(text).is_ok());
    // SAFETY: no pointers. This is one of the functions that a log function may call.
    unsafe { mlxrt_abi_version() };
}

unsafe extern "C" fn notify(_: *mut c_void) {}

// ---- library ----

pub fn versions(_: &World, bytes: &mut Bytes) {
    // SAFETY: no pointers go in; the texts live for ever.
    unsafe {
        assert!(mlxrt_abi_version() >= 1);
        assert!(!CStr::from_ptr(mlxrt_version()).is_empty());
        let code = bytes.u8() as i8;
        assert!(!CStr::from_ptr(mlxrt_code_name(code.into())).is_empty());
    }
}

pub fn errors_of_nothing(_: &World, _: &mut Bytes) {
    // SAFETY: NULL is no error.
    unsafe {
        assert_eq!(mlxrt_error_code(null()), MLXRT_OK);
        assert!(!mlxrt_error_message(null()).is_null());
        mlxrt_error_free(null_mut());
        mlxrt_free(null_mut());
    }
}

pub fn init(world: &World, bytes: &mut Bytes) {
    let mut options: mlxrt_init_options = zeroed();
    options.flags = bytes.flags();
    options.device = bytes.pick(&[0, 1, 0, 1, 2, 3, -1]);
    options.cpu_threads = bytes.pick(&[0, 1, u32::MAX]);
    let mut options = Sized::new(options, bytes);
    // SAFETY: the struct is as large as it says.
    if outcome(unsafe { mlxrt_init(options.pointer(bytes)) }) == MLXRT_OK {
        world.inits_add();
    }
}

pub fn shutdown(world: &World, bytes: &mut Bytes) {
    let flags = bytes.pick(&[0, 0, 0, 0, 0, 0, MLXRT_SHUTDOWN_FORCE, 2]);
    let timeout = bytes.pick(&[0, 1, 20]);
    // SAFETY: no pointers.
    if outcome(unsafe { mlxrt_shutdown(flags, timeout) }) == MLXRT_OK {
        let less = |inits: usize| Some(inits.saturating_sub(1));
        let _ = world
            .inits
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }
}

pub fn device_info(_: &World, bytes: &mut Bytes) {
    let (mut json, mut length) = (null_mut(), 0);
    // SAFETY: the outputs are NULL or writable.
    let code =
        outcome(unsafe { mlxrt_device_info(out(&mut json, bytes), out(&mut length, bytes)) });
    buffer(code, json);
}

pub fn log_set(_: &World, bytes: &mut Bytes) {
    let level = bytes.pick(&[0, 1, 2, 3, 4, 5, -1]);
    let listener: mlxrt_log_fn = (bytes.below(2) == 0).then_some(hear_log);
    // SAFETY: the function needs no data.
    outcome(unsafe { mlxrt_log_set(level, listener, null_mut()) });
}

/// Nothing of a run is heard after it.
pub fn silence() {
    // SAFETY: no function, no data.
    assert_eq!(outcome(unsafe { mlxrt_log_set(0, None, null_mut()) }), 0);
}

pub fn memory_get(_: &World, bytes: &mut Bytes) {
    let mut place = Sized::new(zeroed::<mlxrt_memory>(), bytes);
    // SAFETY: the struct is as large as it says.
    outcome(unsafe { mlxrt_memory_get(place.pointer(bytes)) });
}

pub fn metrics(world: &World, bytes: &mut Bytes) {
    let mut place = Sized::new(zeroed::<mlxrt_metrics_data>(), bytes);
    // SAFETY: the struct is as large as it says; handles may be anything.
    outcome(unsafe { mlxrt_metrics(world.handle(bytes), place.pointer(bytes)) });
}

// ---- models ----

fn path(bytes: &mut Bytes) -> *const c_char {
    const PATHS: &[&CStr] = &[c"", c"/", c"nobody/nothing", c"/dev/null", c"\xff"];
    match bytes.u8() {
        0xf0.. => null(),
        byte @ 0xe0.. => PATHS[usize::from(byte) % PATHS.len()].as_ptr(),
        _ => FIXTURE.as_ptr(),
    }
}

fn load_options(bytes: &mut Bytes) -> mlxrt_load_options {
    let mut options: mlxrt_load_options = zeroed();
    options.flags = bytes.flags();
    options.context = bytes.pick(&[0, 0, 64, 2048, u32::MAX]);
    options.timeout_ms = bytes.pick(&[0, 0, 1, 1000]);
    options.draft_path = bytes.pick(&[null(), null(), null(), FIXTURE.as_ptr()]);
    options
}

fn session_options(bytes: &mut Bytes) -> mlxrt_session_options {
    let mut options: mlxrt_session_options = zeroed();
    options.flags = bytes.flags();
    options.context = bytes.pick(&[0, 0, 8, 32, 2048, u32::MAX]);
    options.window = bytes.pick(&[0, 0, 16, 1, u32::MAX]);
    options.keep = bytes.pick(&[0, 0, -1, 4, i32::MIN, i32::MAX]);
    options.kv_bits = bytes.pick(&[0, 0, 0, 4, 7]);
    options.kv_limit = bytes.pick(&[0, 0, 0, 1, u64::MAX]);
    options.reserved = bytes.pick(&[0, 0, 0, 0, 0, 1]);
    options
}

pub fn model_inspect(world: &World, bytes: &mut Bytes) {
    if world.loads.fetch_add(1, Ordering::Relaxed) >= 3 {
        return;
    }
    let mut load = Sized::new(load_options(bytes), bytes);
    let mut session = Sized::new(session_options(bytes), bytes);
    let (mut json, mut length) = (null_mut(), 0);
    // SAFETY: the path is NULL or NUL-terminated, the structs as large as they say, the outputs NULL or writable.
    let code = outcome(unsafe {
        mlxrt_model_inspect(
            path(bytes),
            load.pointer(bytes),
            session.pointer(bytes),
            out(&mut json, bytes),
            out(&mut length, bytes),
        )
    });
    buffer(code, json);
}

pub fn model_load(world: &World, bytes: &mut Bytes) {
    if world.loads.fetch_add(1, Ordering::Relaxed) >= 3 {
        return;
    }
    let bytes_inside = RefCell::new(bytes.part());
    let callback = Callback {
        world,
        bytes: bytes_inside,
    };
    let mut options = load_options(bytes);
    if bytes.below(2) == 1 {
        options.progress = Some(hear_progress);
        options.progress_data = ptr::from_ref(&callback).cast_mut().cast();
    }
    let mut options = Sized::new(options, bytes);
    let mut model = null_mut();
    // SAFETY: as model_inspect; the callback's data outlives the call.
    let code = outcome(unsafe {
        mlxrt_model_load(path(bytes), options.pointer(bytes), out(&mut model, bytes))
    });
    assert_eq!(code != MLXRT_OK, model.is_null());
    world.keep(model);
}

pub fn model_info(world: &World, bytes: &mut Bytes) {
    let (mut json, mut length) = (null_mut(), 0);
    // SAFETY: the outputs are NULL or writable; handles may be anything.
    let code = outcome(unsafe {
        mlxrt_model_info(
            world.handle(bytes),
            out(&mut json, bytes),
            out(&mut length, bytes),
        )
    });
    buffer(code, json);
}

pub fn model_free(world: &World, bytes: &mut Bytes) {
    // SAFETY: handles may be anything.
    unsafe { mlxrt_model_free(world.handle(bytes)) };
}

pub fn tokenize(world: &World, bytes: &mut Bytes) {
    let (mut ids, mut count) = (null_mut(), 0);
    let (text, length) = text(bytes);
    // SAFETY: the text is as long as its length says, the outputs NULL or writable.
    let code = outcome(unsafe {
        mlxrt_tokenize(
            world.handle(bytes),
            text,
            length,
            bytes.flags(),
            out(&mut ids, bytes),
            out(&mut count, bytes),
        )
    });
    buffer(code, ids);
}

pub fn detokenize(world: &World, bytes: &mut Bytes) {
    let (mut text, mut length) = (null_mut(), 0);
    let ids = ids(bytes);
    let (ids, count) = array(&ids, bytes);
    // SAFETY: as tokenize. A count of MLXRT_NTS is refused unread.
    let code = outcome(unsafe {
        mlxrt_detokenize(
            world.handle(bytes),
            ids,
            count,
            bytes.flags(),
            out(&mut text, bytes),
            out(&mut length, bytes),
        )
    });
    buffer(code, text);
}

/// One of text, tokens and messages, or none, or several; `ids` must live as long as the input.
fn input(ids: &[i32], bytes: &mut Bytes) -> mlxrt_input {
    let mut input: mlxrt_input = zeroed();
    input.flags = bytes.flags();
    let kinds = bytes.pick(&[1, 2, 4, 4, 1, 2, 12, 28, 0, 3, 15]);
    if kinds & 1 != 0 {
        (input.text, input.text_len) = text(bytes);
    }
    if kinds & 2 != 0 {
        (input.tokens, input.token_count) = array(ids, bytes);
    }
    if kinds & 4 != 0 {
        (input.messages, input.messages_len) = text(bytes);
    }
    if kinds & 8 != 0 {
        (input.tools, input.tools_len) = text(bytes);
    }
    if kinds & 16 != 0 {
        (input.template_args, input.template_args_len) = text(bytes);
    }
    input
}

pub fn render(world: &World, bytes: &mut Bytes) {
    let (mut text, mut length) = (null_mut(), 0);
    let ids = ids(bytes);
    let mut input = Sized::new(input(&ids, bytes), bytes);
    // SAFETY: what the input points to is as long as it says; the outputs are NULL or writable.
    let code = outcome(unsafe {
        mlxrt_render(
            world.handle(bytes),
            input.pointer(bytes),
            out(&mut text, bytes),
            out(&mut length, bytes),
        )
    });
    buffer(code, text);
}

pub fn count_tokens(world: &World, bytes: &mut Bytes) {
    let (mut made, mut length) = (null_mut(), 0);
    let given = ids(bytes);
    let mut input = Sized::new(input(&given, bytes), bytes);
    // SAFETY: as render.
    let code = outcome(unsafe {
        mlxrt_count_tokens(
            world.handle(bytes),
            input.pointer(bytes),
            &mut made,
            out(&mut length, bytes),
        )
    });
    buffer(code, made);
}

// ---- sessions ----

pub fn session_create(world: &World, bytes: &mut Bytes) {
    let mut options = Sized::new(session_options(bytes), bytes);
    let mut session = null_mut();
    // SAFETY: the struct is as large as it says, the output NULL or writable.
    let code = outcome(unsafe {
        mlxrt_session_create(
            world.handle(bytes),
            options.pointer(bytes),
            out(&mut session, bytes),
        )
    });
    assert_eq!(code != MLXRT_OK, session.is_null());
    world.keep(session);
}

pub fn session_free(world: &World, bytes: &mut Bytes) {
    // SAFETY: handles may be anything.
    unsafe { mlxrt_session_free(world.handle(bytes)) };
}

pub fn session_cancel(world: &World, bytes: &mut Bytes) {
    // SAFETY: handles may be anything.
    unsafe { mlxrt_session_cancel(world.handle(bytes)) };
}

pub fn session_info(world: &World, bytes: &mut Bytes) {
    let mut state = Sized::new(zeroed::<mlxrt_session_state>(), bytes);
    // SAFETY: the struct is as large as it says.
    outcome(unsafe { mlxrt_session_info(world.handle(bytes), state.pointer(bytes)) });
}

pub fn session_tokens(world: &World, bytes: &mut Bytes) {
    let (mut ids, mut count) = (null_mut(), 0);
    // SAFETY: the outputs are NULL or writable.
    let code = outcome(unsafe {
        mlxrt_session_tokens(
            world.handle(bytes),
            out(&mut ids, bytes),
            out(&mut count, bytes),
        )
    });
    buffer(code, ids);
}

pub fn session_message(world: &World, bytes: &mut Bytes) {
    let (mut json, mut length) = (null_mut(), 0);
    // SAFETY: the outputs are NULL or writable.
    let code = outcome(unsafe {
        mlxrt_session_message(
            world.handle(bytes),
            out(&mut json, bytes),
            out(&mut length, bytes),
        )
    });
    buffer(code, json);
}

// ---- generation ----

/// What the arrays of generate's options point to.
struct Arrays {
    stop: Vec<*const c_char>,
    stop_lens: Vec<usize>,
    stop_tokens: Vec<i32>,
    bias_tokens: Vec<i32>,
    bias_values: Vec<f32>,
}

impl Arrays {
    fn new(bytes: &mut Bytes) -> Self {
        let (stop, stop_lens) = (0..bytes.below(4)).map(|_| text(bytes)).unzip();
        let bias_tokens = ids(bytes);
        Arrays {
            stop,
            stop_lens,
            stop_tokens: ids(bytes),
            bias_values: bias_tokens.iter().map(|_| bytes.float()).collect(),
            bias_tokens,
        }
    }
}

const DRAFTS: &[i32] = &[0, -1, 5, 1, 15, 16, i32::MAX, i32::MIN];
const PRIORITIES: &[i32] = &[0, 0, 1, -1, i32::MAX, i32::MIN];

/// At most three tokens, so that a run is short.
fn generate_options(world: &World, arrays: &Arrays, bytes: &mut Bytes) -> mlxrt_generate_options {
    let mut options: mlxrt_generate_options = zeroed();
    options.flags = match bytes.below(4) {
        0 => bytes.u8().into(),
        _ => bytes.flags(),
    };
    options.max_tokens = 1 + u32::from(bytes.below(3));
    options.timeout_ms = bytes.pick(&[0, 0, 0, 1, 50]);
    if bytes.below(4) == 0 {
        options.temperature = bytes.float();
        options.top_p = bytes.float();
        options.min_p = bytes.float();
        options.top_k = bytes.pick(&[0, 1, 5, -1, i32::MAX, i32::MIN]);
        options.xtc_probability = bytes.float();
        options.xtc_threshold = bytes.float();
    }
    if bytes.below(4) == 0 {
        options.repetition_penalty = bytes.float();
        options.presence_penalty = bytes.float();
        options.frequency_penalty = bytes.float();
        options.penalty_window = bytes.pick(&[0, 1, u32::MAX]);
    }
    options.seed = bytes.pick(&[0, 1, u64::MAX]);
    options.top_logprobs = bytes.pick(&[0, 0, 2, 131, 1024, u32::MAX]);
    if bytes.below(8) == 7 {
        options.thinking_budget = bytes.pick(&[0, -1, 5]);
        options.draft_tokens = bytes.pick(DRAFTS);
        options.priority = bytes.pick(PRIORITIES);
        options.grammar = world.handle(bytes);
        options.notify = Some(notify);
    }
    options.progress_tokens = bytes.pick(&[0, 1, u32::MAX]);
    match bytes.u8() {
        byte @ 0x80..=0xdf => {
            (options.stop_tokens, options.stop_token_count) = array(&arrays.stop_tokens, bytes);
            let lens = [arrays.stop_lens.as_ptr(), arrays.stop_lens.as_ptr()];
            if arrays.stop.iter().all(|text| !text.is_null()) || byte & 1 == 0 {
                options.stop = arrays.stop.as_ptr();
                options.stop_lens = lens[0];
                options.stop_count = arrays.stop.len();
            }
        }
        0xe0.. => {
            options.bias_tokens = arrays.bias_tokens.as_ptr();
            options.bias_values = arrays.bias_values.as_ptr();
            options.bias_count = arrays.bias_tokens.len();
        }
        _ => {}
    }
    options
}

pub fn generate(world: &World, bytes: &mut Bytes) {
    let callback = Callback {
        world,
        bytes: RefCell::new(bytes.part()),
    };
    let (ids, arrays) = (ids(bytes), Arrays::new(bytes));
    let mut input = Sized::new(input(&ids, bytes), bytes);
    let mut options = Sized::new(generate_options(world, &arrays, bytes), bytes);
    let mut result = Sized::new(zeroed::<mlxrt_result>(), bytes);
    let listener: mlxrt_event_fn = (bytes.u8() < 0xe0).then_some(hear_event);
    // NULL is all defaults, which may mean thousands of tokens.
    let options = match options.pointer(bytes) {
        pointer if pointer.is_null() => options.pointer(&mut Bytes::new(&[])),
        pointer => pointer,
    };
    // SAFETY: structs are as large as they say, arrays and texts as long; the callback's data outlives the call.
    outcome(unsafe {
        mlxrt_generate(
            world.handle(bytes),
            input.pointer(bytes),
            options,
            listener,
            ptr::from_ref(&callback).cast_mut().cast(),
            result.pointer(bytes),
        )
    });
}

// ---- requests that are submitted ----

pub fn submit(world: &World, bytes: &mut Bytes) {
    let (ids, arrays) = (ids(bytes), Arrays::new(bytes));
    let mut input = Sized::new(input(&ids, bytes), bytes);
    let mut options = Sized::new(generate_options(world, &arrays, bytes), bytes);
    let options = match options.pointer(bytes) {
        pointer if pointer.is_null() => options.pointer(&mut Bytes::new(&[])),
        pointer => pointer,
    };
    let mut request = null_mut();
    // SAFETY: structs are as large as they say, arrays and texts as long; the output is NULL or writable.
    let code = outcome(unsafe {
        mlxrt_submit(
            world.handle(bytes),
            input.pointer(bytes),
            options,
            out(&mut request, bytes),
        )
    });
    assert_eq!(code != MLXRT_OK, request.is_null());
    world.keep(request);
}

/// Sessions that run at once, each with a request or two: what comes next in the bytes meets them while they decode.
pub fn crowd(world: &World, bytes: &mut Bytes) {
    const AGAIN: [i32; 12] = [5, 6, 7, 5, 6, 7, 5, 6, 7, 5, 6, 7];
    if world.crowds.fetch_add(1, Ordering::Relaxed) >= 2 {
        return;
    }
    let model = world.handle(bytes);
    for _ in 0..2 + bytes.below(4) {
        let mut session = null_mut();
        // SAFETY: handles may be anything, the output is writable.
        if outcome(unsafe { mlxrt_session_create(model, null(), &mut session) }) != MLXRT_OK {
            return;
        }
        world.keep(session);
        let mut input: mlxrt_input = zeroed();
        input.struct_size = size_of::<mlxrt_input>() as u32;
        input.tokens = AGAIN.as_ptr();
        input.token_count = 1 + usize::from(bytes.below(AGAIN.len() as u8));
        let mut options: mlxrt_generate_options = zeroed();
        options.struct_size = size_of::<mlxrt_generate_options>() as u32;
        options.flags = MLXRT_GEN_IGNORE_EOS | bytes.pick(&[0, MLXRT_GEN_GREEDY]);
        options.max_tokens = 1 + u32::from(bytes.below(24));
        options.draft_tokens = bytes.pick(&[0, -1, 1, 5, 15]);
        options.priority = bytes.pick(PRIORITIES);
        options.timeout_ms = bytes.pick(&[0, 0, 0, 1, 5]);
        options.seed = 1;
        for _ in 0..1 + bytes.below(2) {
            let mut request = null_mut();
            // SAFETY: the structs are whole, the array is as long as its count, the output is writable.
            outcome(unsafe { mlxrt_submit(session, &input, &options, &mut request) });
            world.keep(request);
        }
    }
}

pub fn request_next(world: &World, bytes: &mut Bytes) {
    let (mut event, mut state) = (null_mut(), -1);
    let timeout = bytes.pick(&[0, 0, 1, 20]);
    // SAFETY: handles may be anything, the outputs are NULL or writable.
    let code = outcome(unsafe {
        mlxrt_request_next(
            world.handle(bytes),
            timeout,
            out(&mut event, bytes),
            out(&mut state, bytes),
        )
    });
    assert!(code == MLXRT_OK || event.is_null());
    if !event.is_null() {
        // SAFETY: the event is whole, and is freed here only; nothing is called back with these bytes.
        unsafe {
            let callback = Callback {
                world,
                bytes: RefCell::new(Bytes::new(&[])),
            };
            hear_event(ptr::from_ref(&callback).cast_mut().cast(), event);
            mlxrt_free(event.cast());
        }
    }
}

pub fn request_result(world: &World, bytes: &mut Bytes) {
    let timeout = bytes.pick(&[0, 1, 20]);
    let mut result = Sized::new(zeroed::<mlxrt_result>(), bytes);
    // SAFETY: handles may be anything, the struct is as large as it says.
    outcome(unsafe { mlxrt_request_result(world.handle(bytes), timeout, result.pointer(bytes)) });
}

pub fn request_cancel(world: &World, bytes: &mut Bytes) {
    // SAFETY: handles may be anything.
    unsafe { mlxrt_request_cancel(world.handle(bytes)) };
}

pub fn request_free(world: &World, bytes: &mut Bytes) {
    // SAFETY: handles may be anything.
    unsafe { mlxrt_request_free(world.handle(bytes)) };
}

pub fn session_fork(world: &World, bytes: &mut Bytes) {
    let mut fork = null_mut();
    // SAFETY: handles may be anything, the output is NULL or writable.
    let code =
        outcome(unsafe { mlxrt_session_fork(world.handle(bytes), null(), out(&mut fork, bytes)) });
    assert_eq!(code != MLXRT_OK, fork.is_null());
    world.keep(fork);
}

pub fn session_truncate(world: &World, bytes: &mut Bytes) {
    let tokens = bytes.pick(&[0, 1, 3, 8, usize::MAX]);
    // SAFETY: handles may be anything.
    outcome(unsafe { mlxrt_session_truncate(world.handle(bytes), tokens) });
}

// ---- adapters and grammars ----

pub fn adapter_load(world: &World, bytes: &mut Bytes) {
    const ADAPTERS: &[&CStr] = &[
        adapter_path!("mlx-dora-qwen3"),
        adapter_path!("peft-rslora-qwen3"),
        adapter_path!("mlx-lora-gemma2"),
    ];
    if world.loads.fetch_add(1, Ordering::Relaxed) >= 3 {
        return;
    }
    let path = bytes.pick(ADAPTERS).as_ptr();
    let mut adapter = null_mut();
    // SAFETY: handles may be anything, the path is NUL-terminated, the output NULL or writable.
    let code = outcome(unsafe {
        mlxrt_adapter_load(world.handle(bytes), path, null(), out(&mut adapter, bytes))
    });
    assert_eq!(code != MLXRT_OK, adapter.is_null());
    world.keep(adapter);
}

pub fn apply_adapter(world: &World, bytes: &mut Bytes) {
    let count = bytes.below(3);
    let adapters: Vec<_> = (0..count).map(|_| world.handle(bytes)).collect();
    let scales: Vec<f32> = (0..count).map(|_| bytes.float()).collect();
    let (adapters, count) = array(&adapters, bytes);
    let scales = bytes.pick(&[null(), scales.as_ptr()]);
    // SAFETY: handles may be anything. The arrays have as many elements as count says, which no session takes if it is MLXRT_NTS.
    outcome(unsafe { mlxrt_apply_adapter(world.handle(bytes), adapters, scales, count) });
}

pub fn adapter_free(world: &World, bytes: &mut Bytes) {
    // SAFETY: handles may be anything.
    unsafe { mlxrt_adapter_free(world.handle(bytes)) };
}

pub fn grammar_compile(world: &World, bytes: &mut Bytes) {
    const SOURCES: &[(i32, &CStr)] = &[
        (MLXRT_GRAMMAR_JSON, c""),
        (MLXRT_GRAMMAR_JSON_SCHEMA, c"{\"enum\":[\"a\",\"the b\"]}"),
        (MLXRT_GRAMMAR_JSON_SCHEMA, c"{"),
        (99, c""),
    ];
    if world.loads.fetch_add(1, Ordering::Relaxed) >= 3 {
        return;
    }
    let (kind, source) = bytes.pick(SOURCES);
    let mut grammar = null_mut();
    // SAFETY: handles may be anything, the source is NUL-terminated, the output NULL or writable.
    let code = outcome(unsafe {
        mlxrt_grammar_compile(
            world.handle(bytes),
            kind,
            source.as_ptr(),
            source.count_bytes(),
            null(),
            out(&mut grammar, bytes),
        )
    });
    assert_eq!(code != MLXRT_OK, grammar.is_null());
    world.keep(grammar);
}

pub fn grammar_free(world: &World, bytes: &mut Bytes) {
    // SAFETY: handles may be anything.
    unsafe { mlxrt_grammar_free(world.handle(bytes)) };
}

// ---- memory and pauses ----

/// What is in use now and a little: some of those that run at once have to wait.
pub fn memory_set(world: &World, bytes: &mut Bytes) {
    let mut now: mlxrt_memory = zeroed();
    now.struct_size = size_of::<mlxrt_memory>() as u32;
    // SAFETY: the struct is whole.
    assert_eq!(outcome(unsafe { mlxrt_memory_get(&mut now) }), MLXRT_OK);
    let room = bytes.pick(&[0, 100_000, 200_000, 400_000, 800_000]);
    let mut limits: mlxrt_memory_limits = zeroed();
    limits.memory_limit = bytes.pick(&[now.active_bytes + room, now.active_bytes + room, 0, 1]);
    limits.cache_limit = bytes.pick(&[0, 0, 1, 100_000]);
    let mut limits = Sized::new(limits, bytes);
    // SAFETY: the struct is as large as it says.
    outcome(unsafe { mlxrt_memory_set(limits.pointer(bytes)) });
    world.limited.store(true, Ordering::Relaxed);
}

/// The limits of an engine that was told none.
pub fn forget_limits() {
    let mut limits: mlxrt_memory_limits = zeroed();
    limits.struct_size = size_of::<mlxrt_memory_limits>() as u32;
    (limits.memory_limit, limits.cache_limit) = (u64::MAX, 256 << 20);
    // SAFETY: the struct is whole.
    assert_eq!(outcome(unsafe { mlxrt_memory_set(&limits) }), MLXRT_OK);
}

pub fn memory_trim(_: &World, bytes: &mut Bytes) {
    let level = bytes.pick(&[0, 1, 2, 3, -1]);
    // SAFETY: no pointers.
    outcome(unsafe { mlxrt_memory_trim(level) });
}

/// And a resume, since others may wait for what runs.
pub fn suspend(_: &World, bytes: &mut Bytes) {
    let timeout = bytes.pick(&[20, 20, 1, 20]);
    // SAFETY: no pointers.
    if outcome(unsafe { mlxrt_suspend(timeout) }) == MLXRT_OK {
        let microseconds = bytes.pick(&[0, 100, 3000]);
        std::thread::sleep(Duration::from_micros(microseconds));
        // SAFETY: no pointers.
        outcome(unsafe { mlxrt_resume() });
    }
}

// ---- the model that all runs share ----

static MODEL: Mutex<usize> = Mutex::new(0);

/// The address of the shared model; a run may have freed it.
pub fn model_if_alive() -> usize {
    *MODEL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The shared model, loaded where the last run has freed it or has shut down the engine.
pub fn model() -> *mut mlxrt_model {
    let mut bits = MODEL.lock().unwrap_or_else(PoisonError::into_inner);
    let mut model = ptr::without_provenance_mut(*bits);
    let mut session = null_mut();
    // SAFETY: handles may be anything, the path is NUL-terminated, the outputs are writable.
    unsafe {
        if outcome(mlxrt_session_create(model, null(), &mut session)) != MLXRT_OK {
            mlxrt_model_free(model);
            let code = outcome(mlxrt_model_load(FIXTURE.as_ptr(), null(), &mut model));
            assert_eq!(code, MLXRT_OK, "the fixture loads");
        }
        mlxrt_session_free(session);
    }
    *bits = model.addr();
    model
}

/// What was done before changes no answer and leaves nothing behind: the greedy tokens are those of the first time,
/// nothing runs, and no keys and values are held but those that are kept for prompts that begin alike, which can be let go.
pub fn check_alive() {
    static FIRST: OnceLock<Vec<i32>> = OnceLock::new();
    let model = model();
    let (mut session, mut ids, mut count) = (null_mut(), null_mut(), 0);
    let mut input: mlxrt_input = zeroed();
    input.struct_size = size_of::<mlxrt_input>() as u32;
    (input.text, input.text_len) = (c"Hello".as_ptr(), NTS);
    let mut options: mlxrt_generate_options = zeroed();
    options.struct_size = size_of::<mlxrt_generate_options>() as u32;
    options.flags = MLXRT_GEN_GREEDY | MLXRT_GEN_IGNORE_EOS;
    options.max_tokens = 4;
    // SAFETY: handles, structs and outputs are whole.
    let tokens = unsafe {
        assert_eq!(
            outcome(mlxrt_session_create(model, null(), &mut session)),
            0
        );
        let code = outcome(mlxrt_generate(
            session,
            &input,
            &options,
            None,
            null_mut(),
            null_mut(),
        ));
        assert_eq!(code, MLXRT_OK);
        assert_eq!(
            outcome(mlxrt_session_tokens(session, &mut ids, &mut count)),
            0
        );
        let tokens = std::slice::from_raw_parts(ids, count).to_vec();
        mlxrt_free(ids.cast());
        mlxrt_session_free(session);
        tokens
    };
    assert_eq!(&tokens, FIRST.get_or_init(|| tokens.clone()));
    let began = Instant::now();
    loop {
        // SAFETY: it takes a number.
        assert_eq!(outcome(unsafe { mlxrt_memory_trim(1) }), MLXRT_OK);
        let mut data: mlxrt_metrics_data = zeroed();
        data.struct_size = size_of::<mlxrt_metrics_data>() as u32;
        // SAFETY: the struct is whole.
        assert_eq!(outcome(unsafe { mlxrt_metrics(null(), &mut data) }), 0);
        if data.requests_running == 0 && data.kv_bytes == 0 {
            break;
        }
        let (running, held) = (data.requests_running, data.kv_bytes);
        assert!(
            began.elapsed() < Duration::from_secs(3),
            "{running} requests run, {held} bytes of keys and values are held"
        );
        std::thread::sleep(Duration::from_millis(1));
    }
}
