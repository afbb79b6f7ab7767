//! The C ABI, as bindgen reads `include/mlxrt.h`: `make cli-bindings` writes this file.
#![allow(dead_code, non_camel_case_types)]

pub const MLXRT_ABI: u32 = 1;
pub const MLXRT_FOREVER: u32 = 4294967295;
pub const MLXRT_OK: i32 = 0;
pub const MLXRT_E_INVALID_ARGUMENT: i32 = 1;
pub const MLXRT_E_INVALID_HANDLE: i32 = 2;
pub const MLXRT_E_NOT_FOUND: i32 = 3;
pub const MLXRT_E_IO: i32 = 4;
pub const MLXRT_E_BAD_MODEL: i32 = 5;
pub const MLXRT_E_INCOMPATIBLE: i32 = 6;
pub const MLXRT_E_UNSUPPORTED: i32 = 7;
pub const MLXRT_E_OUT_OF_MEMORY: i32 = 8;
pub const MLXRT_E_CONTEXT_FULL: i32 = 9;
pub const MLXRT_E_BUSY: i32 = 10;
pub const MLXRT_E_CANCELLED: i32 = 11;
pub const MLXRT_E_TIMEOUT: i32 = 12;
pub const MLXRT_E_SUSPENDED: i32 = 13;
pub const MLXRT_E_DEVICE: i32 = 14;
pub const MLXRT_E_RESOURCES: i32 = 15;
pub const MLXRT_E_BAD_GRAMMAR: i32 = 16;
pub const MLXRT_E_REENTRANT: i32 = 17;
pub const MLXRT_E_FORKED: i32 = 18;
pub const MLXRT_E_INTERNAL: i32 = 19;
pub const MLXRT_DEVICE_AUTO: i32 = 0;
pub const MLXRT_DEVICE_CPU: i32 = 1;
pub const MLXRT_DEVICE_GPU: i32 = 2;
pub const MLXRT_LOG_ERROR: i32 = 1;
pub const MLXRT_LOG_WARN: i32 = 2;
pub const MLXRT_LOG_INFO: i32 = 3;
pub const MLXRT_LOG_DEBUG: i32 = 4;
pub const MLXRT_RETURN_CONTINUE: i32 = 0;
pub const MLXRT_RETURN_STOP: i32 = 1;
pub const MLXRT_SHUTDOWN_FORCE: u32 = 1;
pub const MLXRT_LOAD_FOLLOW_LINKS: u32 = 1;
pub const MLXRT_TOKENIZE_ADD_SPECIAL: u32 = 1;
pub const MLXRT_TOKENIZE_SPECIAL_AS_TEXT: u32 = 2;
pub const MLXRT_DETOKENIZE_SKIP_SPECIAL: u32 = 1;
pub const MLXRT_INPUT_NO_BOS: u32 = 1;
pub const MLXRT_INPUT_SPECIAL_AS_TEXT: u32 = 2;
pub const MLXRT_INPUT_TRUST_CONTENT: u32 = 4;
pub const MLXRT_INPUT_NO_GENERATION_PROMPT: u32 = 8;
pub const MLXRT_INPUT_CONTINUE_LAST: u32 = 16;
pub const MLXRT_GEN_GREEDY: u32 = 1;
pub const MLXRT_GEN_IGNORE_EOS: u32 = 2;
pub const MLXRT_GEN_TOKENS_ONLY: u32 = 4;
pub const MLXRT_GEN_PREFILL_ONLY: u32 = 8;
pub const MLXRT_GEN_NO_PREFIX_CACHE: u32 = 16;
pub const MLXRT_GEN_NO_MODEL_DEFAULTS: u32 = 32;
pub const MLXRT_GEN_LOGPROBS: u32 = 64;
pub const MLXRT_GEN_RAW_TEXT: u32 = 128;
pub const MLXRT_GEN_STRICT_TOOLS: u32 = 256;
pub const MLXRT_GEN_TOOL_DELTAS: u32 = 512;
pub const MLXRT_EVENT_PROGRESS: i32 = 1;
pub const MLXRT_EVENT_TEXT: i32 = 2;
pub const MLXRT_EVENT_THINKING: i32 = 3;
pub const MLXRT_EVENT_TOOL_CALL: i32 = 4;
pub const MLXRT_EVENT_TOOL_DELTA: i32 = 5;
pub const MLXRT_STOPPED_EOS: i32 = 1;
pub const MLXRT_STOPPED_STRING: i32 = 2;
pub const MLXRT_STOPPED_TOKEN: i32 = 3;
pub const MLXRT_STOPPED_LENGTH: i32 = 4;
pub const MLXRT_STOPPED_CONTEXT: i32 = 5;
pub const MLXRT_STOPPED_CALLBACK: i32 = 6;
pub const MLXRT_STOPPED_CANCELLED: i32 = 7;
pub const MLXRT_STOPPED_TIMEOUT: i32 = 8;
pub const MLXRT_STOPPED_TOOL_CALL: i32 = 9;
pub const MLXRT_STOPPED_GRAMMAR: i32 = 10;
pub const MLXRT_STOPPED_ERROR: i32 = 11;
pub const MLXRT_NEXT_EVENT: i32 = 0;
pub const MLXRT_NEXT_PENDING: i32 = 1;
pub const MLXRT_NEXT_DONE: i32 = 2;
pub const MLXRT_DTYPE_F32: i32 = 1;
pub const MLXRT_DTYPE_F16: i32 = 2;
pub const MLXRT_DTYPE_BF16: i32 = 3;
pub const MLXRT_LORA: i32 = 0;
pub const MLXRT_DORA: i32 = 1;
pub const MLXRT_OPTIMIZER_ADAMW: i32 = 0;
pub const MLXRT_OPTIMIZER_ADAM: i32 = 1;
pub const MLXRT_OPTIMIZER_SGD: i32 = 2;
pub const MLXRT_SCHEDULE_CONSTANT: i32 = 0;
pub const MLXRT_SCHEDULE_COSINE: i32 = 1;
pub const MLXRT_SCHEDULE_LINEAR: i32 = 2;
pub const MLXRT_TRAIN_PATHS: u32 = 1;
pub const MLXRT_TRAIN_MASK_PROMPT: u32 = 2;
pub const MLXRT_TRAIN_CHECKPOINT: u32 = 4;
pub const MLXRT_POOLING_MODEL: i32 = 0;
pub const MLXRT_POOLING_MEAN: i32 = 1;
pub const MLXRT_POOLING_LAST: i32 = 2;
pub const MLXRT_POOLING_CLS: i32 = 3;
pub const MLXRT_EMBED_NORMALIZE: u32 = 1;
pub const MLXRT_GRAMMAR_JSON: i32 = 1;
pub const MLXRT_GRAMMAR_JSON_SCHEMA: i32 = 2;
pub const MLXRT_GRAMMAR_REGEX: i32 = 3;
pub const MLXRT_GRAMMAR_LARK: i32 = 4;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct mlxrt_adapter {
    _unused: [u8; 0],
}
#[repr(C)]
#[derive(Copy, Clone)]
pub struct mlxrt_error {
    _unused: [u8; 0],
}
#[repr(C)]
#[derive(Copy, Clone)]
pub struct mlxrt_grammar {
    _unused: [u8; 0],
}
#[repr(C)]
#[derive(Copy, Clone)]
pub struct mlxrt_model {
    _unused: [u8; 0],
}
#[repr(C)]
#[derive(Copy, Clone)]
pub struct mlxrt_request {
    _unused: [u8; 0],
}
#[repr(C)]
#[derive(Copy, Clone)]
pub struct mlxrt_session {
    _unused: [u8; 0],
}
#[repr(C)]
#[derive(Copy, Clone)]
pub struct mlxrt_init_options {
    pub struct_size: u32,
    pub flags: u32,
    pub device: i32,
    pub cpu_threads: u32,
    pub resource_dir: *const ::std::os::raw::c_char,
    pub memory_limit: u64,
    pub cache_limit: u64,
    pub wired_limit: u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of mlxrt_init_options"][::std::mem::size_of::<mlxrt_init_options>() - 48usize];
    ["Alignment of mlxrt_init_options"][::std::mem::align_of::<mlxrt_init_options>() - 8usize];
    ["Offset of field: mlxrt_init_options::struct_size"]
        [::std::mem::offset_of!(mlxrt_init_options, struct_size) - 0usize];
    ["Offset of field: mlxrt_init_options::flags"]
        [::std::mem::offset_of!(mlxrt_init_options, flags) - 4usize];
    ["Offset of field: mlxrt_init_options::device"]
        [::std::mem::offset_of!(mlxrt_init_options, device) - 8usize];
    ["Offset of field: mlxrt_init_options::cpu_threads"]
        [::std::mem::offset_of!(mlxrt_init_options, cpu_threads) - 12usize];
    ["Offset of field: mlxrt_init_options::resource_dir"]
        [::std::mem::offset_of!(mlxrt_init_options, resource_dir) - 16usize];
    ["Offset of field: mlxrt_init_options::memory_limit"]
        [::std::mem::offset_of!(mlxrt_init_options, memory_limit) - 24usize];
    ["Offset of field: mlxrt_init_options::cache_limit"]
        [::std::mem::offset_of!(mlxrt_init_options, cache_limit) - 32usize];
    ["Offset of field: mlxrt_init_options::wired_limit"]
        [::std::mem::offset_of!(mlxrt_init_options, wired_limit) - 40usize];
};
impl Default for mlxrt_init_options {
    fn default() -> Self {
        let mut s = ::std::mem::MaybeUninit::<Self>::uninit();
        unsafe {
            ::std::ptr::write_bytes(s.as_mut_ptr(), 0, 1);
            s.assume_init()
        }
    }
}
pub type mlxrt_log_fn = ::std::option::Option<
    unsafe extern "C" fn(
        user_data: *mut ::std::os::raw::c_void,
        level: i32,
        message: *const ::std::os::raw::c_char,
        len: usize,
    ),
>;
#[repr(C)]
#[derive(Default, Copy, Clone)]
pub struct mlxrt_memory_limits {
    pub struct_size: u32,
    pub flags: u32,
    pub memory_limit: u64,
    pub cache_limit: u64,
    pub wired_limit: u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of mlxrt_memory_limits"][::std::mem::size_of::<mlxrt_memory_limits>() - 32usize];
    ["Alignment of mlxrt_memory_limits"][::std::mem::align_of::<mlxrt_memory_limits>() - 8usize];
    ["Offset of field: mlxrt_memory_limits::struct_size"]
        [::std::mem::offset_of!(mlxrt_memory_limits, struct_size) - 0usize];
    ["Offset of field: mlxrt_memory_limits::flags"]
        [::std::mem::offset_of!(mlxrt_memory_limits, flags) - 4usize];
    ["Offset of field: mlxrt_memory_limits::memory_limit"]
        [::std::mem::offset_of!(mlxrt_memory_limits, memory_limit) - 8usize];
    ["Offset of field: mlxrt_memory_limits::cache_limit"]
        [::std::mem::offset_of!(mlxrt_memory_limits, cache_limit) - 16usize];
    ["Offset of field: mlxrt_memory_limits::wired_limit"]
        [::std::mem::offset_of!(mlxrt_memory_limits, wired_limit) - 24usize];
};
#[repr(C)]
#[derive(Default, Copy, Clone)]
pub struct mlxrt_memory {
    pub struct_size: u32,
    pub flags: u32,
    pub active_bytes: u64,
    pub cache_bytes: u64,
    pub peak_bytes: u64,
    pub weight_bytes: u64,
    pub kv_bytes: u64,
    pub limit_bytes: u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of mlxrt_memory"][::std::mem::size_of::<mlxrt_memory>() - 56usize];
    ["Alignment of mlxrt_memory"][::std::mem::align_of::<mlxrt_memory>() - 8usize];
    ["Offset of field: mlxrt_memory::struct_size"]
        [::std::mem::offset_of!(mlxrt_memory, struct_size) - 0usize];
    ["Offset of field: mlxrt_memory::flags"][::std::mem::offset_of!(mlxrt_memory, flags) - 4usize];
    ["Offset of field: mlxrt_memory::active_bytes"]
        [::std::mem::offset_of!(mlxrt_memory, active_bytes) - 8usize];
    ["Offset of field: mlxrt_memory::cache_bytes"]
        [::std::mem::offset_of!(mlxrt_memory, cache_bytes) - 16usize];
    ["Offset of field: mlxrt_memory::peak_bytes"]
        [::std::mem::offset_of!(mlxrt_memory, peak_bytes) - 24usize];
    ["Offset of field: mlxrt_memory::weight_bytes"]
        [::std::mem::offset_of!(mlxrt_memory, weight_bytes) - 32usize];
    ["Offset of field: mlxrt_memory::kv_bytes"]
        [::std::mem::offset_of!(mlxrt_memory, kv_bytes) - 40usize];
    ["Offset of field: mlxrt_memory::limit_bytes"]
        [::std::mem::offset_of!(mlxrt_memory, limit_bytes) - 48usize];
};
pub type mlxrt_progress_fn = ::std::option::Option<
    unsafe extern "C" fn(user_data: *mut ::std::os::raw::c_void, done: u64, total: u64) -> i32,
>;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct mlxrt_load_options {
    pub struct_size: u32,
    pub flags: u32,
    pub context: u32,
    pub timeout_ms: u32,
    pub progress: mlxrt_progress_fn,
    pub progress_data: *mut ::std::os::raw::c_void,
    pub draft_path: *const ::std::os::raw::c_char,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of mlxrt_load_options"][::std::mem::size_of::<mlxrt_load_options>() - 40usize];
    ["Alignment of mlxrt_load_options"][::std::mem::align_of::<mlxrt_load_options>() - 8usize];
    ["Offset of field: mlxrt_load_options::struct_size"]
        [::std::mem::offset_of!(mlxrt_load_options, struct_size) - 0usize];
    ["Offset of field: mlxrt_load_options::flags"]
        [::std::mem::offset_of!(mlxrt_load_options, flags) - 4usize];
    ["Offset of field: mlxrt_load_options::context"]
        [::std::mem::offset_of!(mlxrt_load_options, context) - 8usize];
    ["Offset of field: mlxrt_load_options::timeout_ms"]
        [::std::mem::offset_of!(mlxrt_load_options, timeout_ms) - 12usize];
    ["Offset of field: mlxrt_load_options::progress"]
        [::std::mem::offset_of!(mlxrt_load_options, progress) - 16usize];
    ["Offset of field: mlxrt_load_options::progress_data"]
        [::std::mem::offset_of!(mlxrt_load_options, progress_data) - 24usize];
    ["Offset of field: mlxrt_load_options::draft_path"]
        [::std::mem::offset_of!(mlxrt_load_options, draft_path) - 32usize];
};
impl Default for mlxrt_load_options {
    fn default() -> Self {
        let mut s = ::std::mem::MaybeUninit::<Self>::uninit();
        unsafe {
            ::std::ptr::write_bytes(s.as_mut_ptr(), 0, 1);
            s.assume_init()
        }
    }
}
#[repr(C)]
#[derive(Default, Copy, Clone)]
pub struct mlxrt_session_options {
    pub struct_size: u32,
    pub flags: u32,
    pub context: u32,
    pub window: u32,
    pub keep: i32,
    pub kv_bits: u32,
    pub kv_group_size: u32,
    pub reserved: u32,
    pub kv_limit: u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of mlxrt_session_options"][::std::mem::size_of::<mlxrt_session_options>() - 40usize];
    ["Alignment of mlxrt_session_options"]
        [::std::mem::align_of::<mlxrt_session_options>() - 8usize];
    ["Offset of field: mlxrt_session_options::struct_size"]
        [::std::mem::offset_of!(mlxrt_session_options, struct_size) - 0usize];
    ["Offset of field: mlxrt_session_options::flags"]
        [::std::mem::offset_of!(mlxrt_session_options, flags) - 4usize];
    ["Offset of field: mlxrt_session_options::context"]
        [::std::mem::offset_of!(mlxrt_session_options, context) - 8usize];
    ["Offset of field: mlxrt_session_options::window"]
        [::std::mem::offset_of!(mlxrt_session_options, window) - 12usize];
    ["Offset of field: mlxrt_session_options::keep"]
        [::std::mem::offset_of!(mlxrt_session_options, keep) - 16usize];
    ["Offset of field: mlxrt_session_options::kv_bits"]
        [::std::mem::offset_of!(mlxrt_session_options, kv_bits) - 20usize];
    ["Offset of field: mlxrt_session_options::kv_group_size"]
        [::std::mem::offset_of!(mlxrt_session_options, kv_group_size) - 24usize];
    ["Offset of field: mlxrt_session_options::reserved"]
        [::std::mem::offset_of!(mlxrt_session_options, reserved) - 28usize];
    ["Offset of field: mlxrt_session_options::kv_limit"]
        [::std::mem::offset_of!(mlxrt_session_options, kv_limit) - 32usize];
};
#[repr(C)]
#[derive(Copy, Clone)]
pub struct mlxrt_call_options {
    pub struct_size: u32,
    pub flags: u32,
    pub timeout_ms: u32,
    pub reserved: u32,
    pub progress: mlxrt_progress_fn,
    pub progress_data: *mut ::std::os::raw::c_void,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of mlxrt_call_options"][::std::mem::size_of::<mlxrt_call_options>() - 32usize];
    ["Alignment of mlxrt_call_options"][::std::mem::align_of::<mlxrt_call_options>() - 8usize];
    ["Offset of field: mlxrt_call_options::struct_size"]
        [::std::mem::offset_of!(mlxrt_call_options, struct_size) - 0usize];
    ["Offset of field: mlxrt_call_options::flags"]
        [::std::mem::offset_of!(mlxrt_call_options, flags) - 4usize];
    ["Offset of field: mlxrt_call_options::timeout_ms"]
        [::std::mem::offset_of!(mlxrt_call_options, timeout_ms) - 8usize];
    ["Offset of field: mlxrt_call_options::reserved"]
        [::std::mem::offset_of!(mlxrt_call_options, reserved) - 12usize];
    ["Offset of field: mlxrt_call_options::progress"]
        [::std::mem::offset_of!(mlxrt_call_options, progress) - 16usize];
    ["Offset of field: mlxrt_call_options::progress_data"]
        [::std::mem::offset_of!(mlxrt_call_options, progress_data) - 24usize];
};
impl Default for mlxrt_call_options {
    fn default() -> Self {
        let mut s = ::std::mem::MaybeUninit::<Self>::uninit();
        unsafe {
            ::std::ptr::write_bytes(s.as_mut_ptr(), 0, 1);
            s.assume_init()
        }
    }
}
#[repr(C)]
#[derive(Copy, Clone)]
pub struct mlxrt_input {
    pub struct_size: u32,
    pub flags: u32,
    pub text: *const ::std::os::raw::c_char,
    pub text_len: usize,
    pub tokens: *const i32,
    pub token_count: usize,
    pub messages: *const ::std::os::raw::c_char,
    pub messages_len: usize,
    pub tools: *const ::std::os::raw::c_char,
    pub tools_len: usize,
    pub template_args: *const ::std::os::raw::c_char,
    pub template_args_len: usize,
    pub tool_choice: *const ::std::os::raw::c_char,
    pub tool_choice_len: usize,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of mlxrt_input"][::std::mem::size_of::<mlxrt_input>() - 104usize];
    ["Alignment of mlxrt_input"][::std::mem::align_of::<mlxrt_input>() - 8usize];
    ["Offset of field: mlxrt_input::struct_size"]
        [::std::mem::offset_of!(mlxrt_input, struct_size) - 0usize];
    ["Offset of field: mlxrt_input::flags"][::std::mem::offset_of!(mlxrt_input, flags) - 4usize];
    ["Offset of field: mlxrt_input::text"][::std::mem::offset_of!(mlxrt_input, text) - 8usize];
    ["Offset of field: mlxrt_input::text_len"]
        [::std::mem::offset_of!(mlxrt_input, text_len) - 16usize];
    ["Offset of field: mlxrt_input::tokens"][::std::mem::offset_of!(mlxrt_input, tokens) - 24usize];
    ["Offset of field: mlxrt_input::token_count"]
        [::std::mem::offset_of!(mlxrt_input, token_count) - 32usize];
    ["Offset of field: mlxrt_input::messages"]
        [::std::mem::offset_of!(mlxrt_input, messages) - 40usize];
    ["Offset of field: mlxrt_input::messages_len"]
        [::std::mem::offset_of!(mlxrt_input, messages_len) - 48usize];
    ["Offset of field: mlxrt_input::tools"][::std::mem::offset_of!(mlxrt_input, tools) - 56usize];
    ["Offset of field: mlxrt_input::tools_len"]
        [::std::mem::offset_of!(mlxrt_input, tools_len) - 64usize];
    ["Offset of field: mlxrt_input::template_args"]
        [::std::mem::offset_of!(mlxrt_input, template_args) - 72usize];
    ["Offset of field: mlxrt_input::template_args_len"]
        [::std::mem::offset_of!(mlxrt_input, template_args_len) - 80usize];
    ["Offset of field: mlxrt_input::tool_choice"]
        [::std::mem::offset_of!(mlxrt_input, tool_choice) - 88usize];
    ["Offset of field: mlxrt_input::tool_choice_len"]
        [::std::mem::offset_of!(mlxrt_input, tool_choice_len) - 96usize];
};
impl Default for mlxrt_input {
    fn default() -> Self {
        let mut s = ::std::mem::MaybeUninit::<Self>::uninit();
        unsafe {
            ::std::ptr::write_bytes(s.as_mut_ptr(), 0, 1);
            s.assume_init()
        }
    }
}
#[repr(C)]
#[derive(Copy, Clone)]
pub struct mlxrt_adapter_options {
    pub struct_size: u32,
    pub flags: u32,
    pub kind: i32,
    pub rank: u32,
    pub scale: f32,
    pub dropout: f32,
    pub layers: i32,
    pub dtype: i32,
    pub seed: u64,
    pub keys: *const *const ::std::os::raw::c_char,
    pub key_count: usize,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of mlxrt_adapter_options"][::std::mem::size_of::<mlxrt_adapter_options>() - 56usize];
    ["Alignment of mlxrt_adapter_options"]
        [::std::mem::align_of::<mlxrt_adapter_options>() - 8usize];
    ["Offset of field: mlxrt_adapter_options::struct_size"]
        [::std::mem::offset_of!(mlxrt_adapter_options, struct_size) - 0usize];
    ["Offset of field: mlxrt_adapter_options::flags"]
        [::std::mem::offset_of!(mlxrt_adapter_options, flags) - 4usize];
    ["Offset of field: mlxrt_adapter_options::kind"]
        [::std::mem::offset_of!(mlxrt_adapter_options, kind) - 8usize];
    ["Offset of field: mlxrt_adapter_options::rank"]
        [::std::mem::offset_of!(mlxrt_adapter_options, rank) - 12usize];
    ["Offset of field: mlxrt_adapter_options::scale"]
        [::std::mem::offset_of!(mlxrt_adapter_options, scale) - 16usize];
    ["Offset of field: mlxrt_adapter_options::dropout"]
        [::std::mem::offset_of!(mlxrt_adapter_options, dropout) - 20usize];
    ["Offset of field: mlxrt_adapter_options::layers"]
        [::std::mem::offset_of!(mlxrt_adapter_options, layers) - 24usize];
    ["Offset of field: mlxrt_adapter_options::dtype"]
        [::std::mem::offset_of!(mlxrt_adapter_options, dtype) - 28usize];
    ["Offset of field: mlxrt_adapter_options::seed"]
        [::std::mem::offset_of!(mlxrt_adapter_options, seed) - 32usize];
    ["Offset of field: mlxrt_adapter_options::keys"]
        [::std::mem::offset_of!(mlxrt_adapter_options, keys) - 40usize];
    ["Offset of field: mlxrt_adapter_options::key_count"]
        [::std::mem::offset_of!(mlxrt_adapter_options, key_count) - 48usize];
};
impl Default for mlxrt_adapter_options {
    fn default() -> Self {
        let mut s = ::std::mem::MaybeUninit::<Self>::uninit();
        unsafe {
            ::std::ptr::write_bytes(s.as_mut_ptr(), 0, 1);
            s.assume_init()
        }
    }
}
#[repr(C)]
#[derive(Copy, Clone)]
pub struct mlxrt_tensor {
    pub struct_size: u32,
    pub dtype: i32,
    pub rank: u32,
    pub reserved: u32,
    pub shape: [u64; 8usize],
    pub data: *mut ::std::os::raw::c_void,
    pub bytes: u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of mlxrt_tensor"][::std::mem::size_of::<mlxrt_tensor>() - 96usize];
    ["Alignment of mlxrt_tensor"][::std::mem::align_of::<mlxrt_tensor>() - 8usize];
    ["Offset of field: mlxrt_tensor::struct_size"]
        [::std::mem::offset_of!(mlxrt_tensor, struct_size) - 0usize];
    ["Offset of field: mlxrt_tensor::dtype"][::std::mem::offset_of!(mlxrt_tensor, dtype) - 4usize];
    ["Offset of field: mlxrt_tensor::rank"][::std::mem::offset_of!(mlxrt_tensor, rank) - 8usize];
    ["Offset of field: mlxrt_tensor::reserved"]
        [::std::mem::offset_of!(mlxrt_tensor, reserved) - 12usize];
    ["Offset of field: mlxrt_tensor::shape"][::std::mem::offset_of!(mlxrt_tensor, shape) - 16usize];
    ["Offset of field: mlxrt_tensor::data"][::std::mem::offset_of!(mlxrt_tensor, data) - 80usize];
    ["Offset of field: mlxrt_tensor::bytes"][::std::mem::offset_of!(mlxrt_tensor, bytes) - 88usize];
};
impl Default for mlxrt_tensor {
    fn default() -> Self {
        let mut s = ::std::mem::MaybeUninit::<Self>::uninit();
        unsafe {
            ::std::ptr::write_bytes(s.as_mut_ptr(), 0, 1);
            s.assume_init()
        }
    }
}
#[repr(C)]
#[derive(Copy, Clone)]
pub struct mlxrt_tensor_view {
    pub struct_size: u32,
    pub dtype: i32,
    pub rank: u32,
    pub reserved: u32,
    pub shape: [u64; 8usize],
    pub data: *const ::std::os::raw::c_void,
    pub bytes: u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of mlxrt_tensor_view"][::std::mem::size_of::<mlxrt_tensor_view>() - 96usize];
    ["Alignment of mlxrt_tensor_view"][::std::mem::align_of::<mlxrt_tensor_view>() - 8usize];
    ["Offset of field: mlxrt_tensor_view::struct_size"]
        [::std::mem::offset_of!(mlxrt_tensor_view, struct_size) - 0usize];
    ["Offset of field: mlxrt_tensor_view::dtype"]
        [::std::mem::offset_of!(mlxrt_tensor_view, dtype) - 4usize];
    ["Offset of field: mlxrt_tensor_view::rank"]
        [::std::mem::offset_of!(mlxrt_tensor_view, rank) - 8usize];
    ["Offset of field: mlxrt_tensor_view::reserved"]
        [::std::mem::offset_of!(mlxrt_tensor_view, reserved) - 12usize];
    ["Offset of field: mlxrt_tensor_view::shape"]
        [::std::mem::offset_of!(mlxrt_tensor_view, shape) - 16usize];
    ["Offset of field: mlxrt_tensor_view::data"]
        [::std::mem::offset_of!(mlxrt_tensor_view, data) - 80usize];
    ["Offset of field: mlxrt_tensor_view::bytes"]
        [::std::mem::offset_of!(mlxrt_tensor_view, bytes) - 88usize];
};
impl Default for mlxrt_tensor_view {
    fn default() -> Self {
        let mut s = ::std::mem::MaybeUninit::<Self>::uninit();
        unsafe {
            ::std::ptr::write_bytes(s.as_mut_ptr(), 0, 1);
            s.assume_init()
        }
    }
}
#[repr(C)]
#[derive(Copy, Clone)]
pub struct mlxrt_train_options {
    pub struct_size: u32,
    pub flags: u32,
    pub train: *const ::std::os::raw::c_char,
    pub train_len: usize,
    pub valid: *const ::std::os::raw::c_char,
    pub valid_len: usize,
    pub steps: u32,
    pub batch_size: u32,
    pub max_tokens: u32,
    pub accumulate: u32,
    pub report_every: u32,
    pub validate_every: u32,
    pub save_every: u32,
    pub warmup: u32,
    pub learning_rate: f32,
    pub weight_decay: f32,
    pub optimizer: i32,
    pub schedule: i32,
    pub seed: u64,
    pub save_path: *const ::std::os::raw::c_char,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of mlxrt_train_options"][::std::mem::size_of::<mlxrt_train_options>() - 104usize];
    ["Alignment of mlxrt_train_options"][::std::mem::align_of::<mlxrt_train_options>() - 8usize];
    ["Offset of field: mlxrt_train_options::struct_size"]
        [::std::mem::offset_of!(mlxrt_train_options, struct_size) - 0usize];
    ["Offset of field: mlxrt_train_options::flags"]
        [::std::mem::offset_of!(mlxrt_train_options, flags) - 4usize];
    ["Offset of field: mlxrt_train_options::train"]
        [::std::mem::offset_of!(mlxrt_train_options, train) - 8usize];
    ["Offset of field: mlxrt_train_options::train_len"]
        [::std::mem::offset_of!(mlxrt_train_options, train_len) - 16usize];
    ["Offset of field: mlxrt_train_options::valid"]
        [::std::mem::offset_of!(mlxrt_train_options, valid) - 24usize];
    ["Offset of field: mlxrt_train_options::valid_len"]
        [::std::mem::offset_of!(mlxrt_train_options, valid_len) - 32usize];
    ["Offset of field: mlxrt_train_options::steps"]
        [::std::mem::offset_of!(mlxrt_train_options, steps) - 40usize];
    ["Offset of field: mlxrt_train_options::batch_size"]
        [::std::mem::offset_of!(mlxrt_train_options, batch_size) - 44usize];
    ["Offset of field: mlxrt_train_options::max_tokens"]
        [::std::mem::offset_of!(mlxrt_train_options, max_tokens) - 48usize];
    ["Offset of field: mlxrt_train_options::accumulate"]
        [::std::mem::offset_of!(mlxrt_train_options, accumulate) - 52usize];
    ["Offset of field: mlxrt_train_options::report_every"]
        [::std::mem::offset_of!(mlxrt_train_options, report_every) - 56usize];
    ["Offset of field: mlxrt_train_options::validate_every"]
        [::std::mem::offset_of!(mlxrt_train_options, validate_every) - 60usize];
    ["Offset of field: mlxrt_train_options::save_every"]
        [::std::mem::offset_of!(mlxrt_train_options, save_every) - 64usize];
    ["Offset of field: mlxrt_train_options::warmup"]
        [::std::mem::offset_of!(mlxrt_train_options, warmup) - 68usize];
    ["Offset of field: mlxrt_train_options::learning_rate"]
        [::std::mem::offset_of!(mlxrt_train_options, learning_rate) - 72usize];
    ["Offset of field: mlxrt_train_options::weight_decay"]
        [::std::mem::offset_of!(mlxrt_train_options, weight_decay) - 76usize];
    ["Offset of field: mlxrt_train_options::optimizer"]
        [::std::mem::offset_of!(mlxrt_train_options, optimizer) - 80usize];
    ["Offset of field: mlxrt_train_options::schedule"]
        [::std::mem::offset_of!(mlxrt_train_options, schedule) - 84usize];
    ["Offset of field: mlxrt_train_options::seed"]
        [::std::mem::offset_of!(mlxrt_train_options, seed) - 88usize];
    ["Offset of field: mlxrt_train_options::save_path"]
        [::std::mem::offset_of!(mlxrt_train_options, save_path) - 96usize];
};
impl Default for mlxrt_train_options {
    fn default() -> Self {
        let mut s = ::std::mem::MaybeUninit::<Self>::uninit();
        unsafe {
            ::std::ptr::write_bytes(s.as_mut_ptr(), 0, 1);
            s.assume_init()
        }
    }
}
#[repr(C)]
#[derive(Default, Copy, Clone)]
pub struct mlxrt_train_event {
    pub struct_size: u32,
    pub flags: u32,
    pub step: u64,
    pub steps: u64,
    pub trained_tokens: u64,
    pub truncated_samples: u64,
    pub peak_bytes: u64,
    pub loss: f64,
    pub validation_loss: f64,
    pub tokens_per_second: f64,
    pub learning_rate: f64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of mlxrt_train_event"][::std::mem::size_of::<mlxrt_train_event>() - 80usize];
    ["Alignment of mlxrt_train_event"][::std::mem::align_of::<mlxrt_train_event>() - 8usize];
    ["Offset of field: mlxrt_train_event::struct_size"]
        [::std::mem::offset_of!(mlxrt_train_event, struct_size) - 0usize];
    ["Offset of field: mlxrt_train_event::flags"]
        [::std::mem::offset_of!(mlxrt_train_event, flags) - 4usize];
    ["Offset of field: mlxrt_train_event::step"]
        [::std::mem::offset_of!(mlxrt_train_event, step) - 8usize];
    ["Offset of field: mlxrt_train_event::steps"]
        [::std::mem::offset_of!(mlxrt_train_event, steps) - 16usize];
    ["Offset of field: mlxrt_train_event::trained_tokens"]
        [::std::mem::offset_of!(mlxrt_train_event, trained_tokens) - 24usize];
    ["Offset of field: mlxrt_train_event::truncated_samples"]
        [::std::mem::offset_of!(mlxrt_train_event, truncated_samples) - 32usize];
    ["Offset of field: mlxrt_train_event::peak_bytes"]
        [::std::mem::offset_of!(mlxrt_train_event, peak_bytes) - 40usize];
    ["Offset of field: mlxrt_train_event::loss"]
        [::std::mem::offset_of!(mlxrt_train_event, loss) - 48usize];
    ["Offset of field: mlxrt_train_event::validation_loss"]
        [::std::mem::offset_of!(mlxrt_train_event, validation_loss) - 56usize];
    ["Offset of field: mlxrt_train_event::tokens_per_second"]
        [::std::mem::offset_of!(mlxrt_train_event, tokens_per_second) - 64usize];
    ["Offset of field: mlxrt_train_event::learning_rate"]
        [::std::mem::offset_of!(mlxrt_train_event, learning_rate) - 72usize];
};
pub type mlxrt_train_fn = ::std::option::Option<
    unsafe extern "C" fn(
        user_data: *mut ::std::os::raw::c_void,
        event: *const mlxrt_train_event,
    ) -> i32,
>;
#[repr(C)]
#[derive(Default, Copy, Clone)]
pub struct mlxrt_session_state {
    pub struct_size: u32,
    pub flags: u32,
    pub tokens: u64,
    pub context: u64,
    pub kv_tokens: u64,
    pub kv_bytes: u64,
    pub busy: u32,
    pub adapters: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of mlxrt_session_state"][::std::mem::size_of::<mlxrt_session_state>() - 48usize];
    ["Alignment of mlxrt_session_state"][::std::mem::align_of::<mlxrt_session_state>() - 8usize];
    ["Offset of field: mlxrt_session_state::struct_size"]
        [::std::mem::offset_of!(mlxrt_session_state, struct_size) - 0usize];
    ["Offset of field: mlxrt_session_state::flags"]
        [::std::mem::offset_of!(mlxrt_session_state, flags) - 4usize];
    ["Offset of field: mlxrt_session_state::tokens"]
        [::std::mem::offset_of!(mlxrt_session_state, tokens) - 8usize];
    ["Offset of field: mlxrt_session_state::context"]
        [::std::mem::offset_of!(mlxrt_session_state, context) - 16usize];
    ["Offset of field: mlxrt_session_state::kv_tokens"]
        [::std::mem::offset_of!(mlxrt_session_state, kv_tokens) - 24usize];
    ["Offset of field: mlxrt_session_state::kv_bytes"]
        [::std::mem::offset_of!(mlxrt_session_state, kv_bytes) - 32usize];
    ["Offset of field: mlxrt_session_state::busy"]
        [::std::mem::offset_of!(mlxrt_session_state, busy) - 40usize];
    ["Offset of field: mlxrt_session_state::adapters"]
        [::std::mem::offset_of!(mlxrt_session_state, adapters) - 44usize];
};
pub type mlxrt_notify_fn =
    ::std::option::Option<unsafe extern "C" fn(user_data: *mut ::std::os::raw::c_void)>;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct mlxrt_generate_options {
    pub struct_size: u32,
    pub flags: u32,
    pub max_tokens: u32,
    pub timeout_ms: u32,
    pub temperature: f32,
    pub top_p: f32,
    pub min_p: f32,
    pub top_k: i32,
    pub xtc_probability: f32,
    pub xtc_threshold: f32,
    pub repetition_penalty: f32,
    pub presence_penalty: f32,
    pub frequency_penalty: f32,
    pub penalty_window: u32,
    pub seed: u64,
    pub top_logprobs: u32,
    pub thinking_budget: i32,
    pub stop: *const *const ::std::os::raw::c_char,
    pub stop_lens: *const usize,
    pub stop_count: usize,
    pub stop_tokens: *const i32,
    pub stop_token_count: usize,
    pub bias_tokens: *const i32,
    pub bias_values: *const f32,
    pub bias_count: usize,
    pub grammar: *mut mlxrt_grammar,
    pub progress_tokens: u32,
    pub draft_tokens: i32,
    pub notify: mlxrt_notify_fn,
    pub notify_data: *mut ::std::os::raw::c_void,
    pub priority: i32,
    pub reserved: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of mlxrt_generate_options"][::std::mem::size_of::<mlxrt_generate_options>() - 176usize];
    ["Alignment of mlxrt_generate_options"]
        [::std::mem::align_of::<mlxrt_generate_options>() - 8usize];
    ["Offset of field: mlxrt_generate_options::struct_size"]
        [::std::mem::offset_of!(mlxrt_generate_options, struct_size) - 0usize];
    ["Offset of field: mlxrt_generate_options::flags"]
        [::std::mem::offset_of!(mlxrt_generate_options, flags) - 4usize];
    ["Offset of field: mlxrt_generate_options::max_tokens"]
        [::std::mem::offset_of!(mlxrt_generate_options, max_tokens) - 8usize];
    ["Offset of field: mlxrt_generate_options::timeout_ms"]
        [::std::mem::offset_of!(mlxrt_generate_options, timeout_ms) - 12usize];
    ["Offset of field: mlxrt_generate_options::temperature"]
        [::std::mem::offset_of!(mlxrt_generate_options, temperature) - 16usize];
    ["Offset of field: mlxrt_generate_options::top_p"]
        [::std::mem::offset_of!(mlxrt_generate_options, top_p) - 20usize];
    ["Offset of field: mlxrt_generate_options::min_p"]
        [::std::mem::offset_of!(mlxrt_generate_options, min_p) - 24usize];
    ["Offset of field: mlxrt_generate_options::top_k"]
        [::std::mem::offset_of!(mlxrt_generate_options, top_k) - 28usize];
    ["Offset of field: mlxrt_generate_options::xtc_probability"]
        [::std::mem::offset_of!(mlxrt_generate_options, xtc_probability) - 32usize];
    ["Offset of field: mlxrt_generate_options::xtc_threshold"]
        [::std::mem::offset_of!(mlxrt_generate_options, xtc_threshold) - 36usize];
    ["Offset of field: mlxrt_generate_options::repetition_penalty"]
        [::std::mem::offset_of!(mlxrt_generate_options, repetition_penalty) - 40usize];
    ["Offset of field: mlxrt_generate_options::presence_penalty"]
        [::std::mem::offset_of!(mlxrt_generate_options, presence_penalty) - 44usize];
    ["Offset of field: mlxrt_generate_options::frequency_penalty"]
        [::std::mem::offset_of!(mlxrt_generate_options, frequency_penalty) - 48usize];
    ["Offset of field: mlxrt_generate_options::penalty_window"]
        [::std::mem::offset_of!(mlxrt_generate_options, penalty_window) - 52usize];
    ["Offset of field: mlxrt_generate_options::seed"]
        [::std::mem::offset_of!(mlxrt_generate_options, seed) - 56usize];
    ["Offset of field: mlxrt_generate_options::top_logprobs"]
        [::std::mem::offset_of!(mlxrt_generate_options, top_logprobs) - 64usize];
    ["Offset of field: mlxrt_generate_options::thinking_budget"]
        [::std::mem::offset_of!(mlxrt_generate_options, thinking_budget) - 68usize];
    ["Offset of field: mlxrt_generate_options::stop"]
        [::std::mem::offset_of!(mlxrt_generate_options, stop) - 72usize];
    ["Offset of field: mlxrt_generate_options::stop_lens"]
        [::std::mem::offset_of!(mlxrt_generate_options, stop_lens) - 80usize];
    ["Offset of field: mlxrt_generate_options::stop_count"]
        [::std::mem::offset_of!(mlxrt_generate_options, stop_count) - 88usize];
    ["Offset of field: mlxrt_generate_options::stop_tokens"]
        [::std::mem::offset_of!(mlxrt_generate_options, stop_tokens) - 96usize];
    ["Offset of field: mlxrt_generate_options::stop_token_count"]
        [::std::mem::offset_of!(mlxrt_generate_options, stop_token_count) - 104usize];
    ["Offset of field: mlxrt_generate_options::bias_tokens"]
        [::std::mem::offset_of!(mlxrt_generate_options, bias_tokens) - 112usize];
    ["Offset of field: mlxrt_generate_options::bias_values"]
        [::std::mem::offset_of!(mlxrt_generate_options, bias_values) - 120usize];
    ["Offset of field: mlxrt_generate_options::bias_count"]
        [::std::mem::offset_of!(mlxrt_generate_options, bias_count) - 128usize];
    ["Offset of field: mlxrt_generate_options::grammar"]
        [::std::mem::offset_of!(mlxrt_generate_options, grammar) - 136usize];
    ["Offset of field: mlxrt_generate_options::progress_tokens"]
        [::std::mem::offset_of!(mlxrt_generate_options, progress_tokens) - 144usize];
    ["Offset of field: mlxrt_generate_options::draft_tokens"]
        [::std::mem::offset_of!(mlxrt_generate_options, draft_tokens) - 148usize];
    ["Offset of field: mlxrt_generate_options::notify"]
        [::std::mem::offset_of!(mlxrt_generate_options, notify) - 152usize];
    ["Offset of field: mlxrt_generate_options::notify_data"]
        [::std::mem::offset_of!(mlxrt_generate_options, notify_data) - 160usize];
    ["Offset of field: mlxrt_generate_options::priority"]
        [::std::mem::offset_of!(mlxrt_generate_options, priority) - 168usize];
    ["Offset of field: mlxrt_generate_options::reserved"]
        [::std::mem::offset_of!(mlxrt_generate_options, reserved) - 172usize];
};
impl Default for mlxrt_generate_options {
    fn default() -> Self {
        let mut s = ::std::mem::MaybeUninit::<Self>::uninit();
        unsafe {
            ::std::ptr::write_bytes(s.as_mut_ptr(), 0, 1);
            s.assume_init()
        }
    }
}
#[repr(C)]
#[derive(Copy, Clone)]
pub struct mlxrt_event {
    pub struct_size: u32,
    pub kind: i32,
    pub text: *const ::std::os::raw::c_char,
    pub text_len: usize,
    pub tokens: *const i32,
    pub token_count: usize,
    pub logprobs: *const f32,
    pub top_tokens: *const i32,
    pub top_logprobs: *const f32,
    pub top_count: usize,
    pub done: u64,
    pub total: u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of mlxrt_event"][::std::mem::size_of::<mlxrt_event>() - 88usize];
    ["Alignment of mlxrt_event"][::std::mem::align_of::<mlxrt_event>() - 8usize];
    ["Offset of field: mlxrt_event::struct_size"]
        [::std::mem::offset_of!(mlxrt_event, struct_size) - 0usize];
    ["Offset of field: mlxrt_event::kind"][::std::mem::offset_of!(mlxrt_event, kind) - 4usize];
    ["Offset of field: mlxrt_event::text"][::std::mem::offset_of!(mlxrt_event, text) - 8usize];
    ["Offset of field: mlxrt_event::text_len"]
        [::std::mem::offset_of!(mlxrt_event, text_len) - 16usize];
    ["Offset of field: mlxrt_event::tokens"][::std::mem::offset_of!(mlxrt_event, tokens) - 24usize];
    ["Offset of field: mlxrt_event::token_count"]
        [::std::mem::offset_of!(mlxrt_event, token_count) - 32usize];
    ["Offset of field: mlxrt_event::logprobs"]
        [::std::mem::offset_of!(mlxrt_event, logprobs) - 40usize];
    ["Offset of field: mlxrt_event::top_tokens"]
        [::std::mem::offset_of!(mlxrt_event, top_tokens) - 48usize];
    ["Offset of field: mlxrt_event::top_logprobs"]
        [::std::mem::offset_of!(mlxrt_event, top_logprobs) - 56usize];
    ["Offset of field: mlxrt_event::top_count"]
        [::std::mem::offset_of!(mlxrt_event, top_count) - 64usize];
    ["Offset of field: mlxrt_event::done"][::std::mem::offset_of!(mlxrt_event, done) - 72usize];
    ["Offset of field: mlxrt_event::total"][::std::mem::offset_of!(mlxrt_event, total) - 80usize];
};
impl Default for mlxrt_event {
    fn default() -> Self {
        let mut s = ::std::mem::MaybeUninit::<Self>::uninit();
        unsafe {
            ::std::ptr::write_bytes(s.as_mut_ptr(), 0, 1);
            s.assume_init()
        }
    }
}
pub type mlxrt_event_fn = ::std::option::Option<
    unsafe extern "C" fn(user_data: *mut ::std::os::raw::c_void, event: *const mlxrt_event) -> i32,
>;
#[repr(C)]
#[derive(Default, Copy, Clone)]
pub struct mlxrt_result {
    pub struct_size: u32,
    pub stop: i32,
    pub stop_index: u32,
    pub error_code: i32,
    pub seed: u64,
    pub prompt_tokens: u64,
    pub cached_tokens: u64,
    pub generated_tokens: u64,
    pub thinking_tokens: u64,
    pub drafted: u64,
    pub accepted: u64,
    pub queue_ns: u64,
    pub prefill_ns: u64,
    pub first_token_ns: u64,
    pub decode_ns: u64,
    pub total_ns: u64,
    pub peak_bytes: u64,
    pub active_bytes: u64,
    pub kv_bytes: u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of mlxrt_result"][::std::mem::size_of::<mlxrt_result>() - 136usize];
    ["Alignment of mlxrt_result"][::std::mem::align_of::<mlxrt_result>() - 8usize];
    ["Offset of field: mlxrt_result::struct_size"]
        [::std::mem::offset_of!(mlxrt_result, struct_size) - 0usize];
    ["Offset of field: mlxrt_result::stop"][::std::mem::offset_of!(mlxrt_result, stop) - 4usize];
    ["Offset of field: mlxrt_result::stop_index"]
        [::std::mem::offset_of!(mlxrt_result, stop_index) - 8usize];
    ["Offset of field: mlxrt_result::error_code"]
        [::std::mem::offset_of!(mlxrt_result, error_code) - 12usize];
    ["Offset of field: mlxrt_result::seed"][::std::mem::offset_of!(mlxrt_result, seed) - 16usize];
    ["Offset of field: mlxrt_result::prompt_tokens"]
        [::std::mem::offset_of!(mlxrt_result, prompt_tokens) - 24usize];
    ["Offset of field: mlxrt_result::cached_tokens"]
        [::std::mem::offset_of!(mlxrt_result, cached_tokens) - 32usize];
    ["Offset of field: mlxrt_result::generated_tokens"]
        [::std::mem::offset_of!(mlxrt_result, generated_tokens) - 40usize];
    ["Offset of field: mlxrt_result::thinking_tokens"]
        [::std::mem::offset_of!(mlxrt_result, thinking_tokens) - 48usize];
    ["Offset of field: mlxrt_result::drafted"]
        [::std::mem::offset_of!(mlxrt_result, drafted) - 56usize];
    ["Offset of field: mlxrt_result::accepted"]
        [::std::mem::offset_of!(mlxrt_result, accepted) - 64usize];
    ["Offset of field: mlxrt_result::queue_ns"]
        [::std::mem::offset_of!(mlxrt_result, queue_ns) - 72usize];
    ["Offset of field: mlxrt_result::prefill_ns"]
        [::std::mem::offset_of!(mlxrt_result, prefill_ns) - 80usize];
    ["Offset of field: mlxrt_result::first_token_ns"]
        [::std::mem::offset_of!(mlxrt_result, first_token_ns) - 88usize];
    ["Offset of field: mlxrt_result::decode_ns"]
        [::std::mem::offset_of!(mlxrt_result, decode_ns) - 96usize];
    ["Offset of field: mlxrt_result::total_ns"]
        [::std::mem::offset_of!(mlxrt_result, total_ns) - 104usize];
    ["Offset of field: mlxrt_result::peak_bytes"]
        [::std::mem::offset_of!(mlxrt_result, peak_bytes) - 112usize];
    ["Offset of field: mlxrt_result::active_bytes"]
        [::std::mem::offset_of!(mlxrt_result, active_bytes) - 120usize];
    ["Offset of field: mlxrt_result::kv_bytes"]
        [::std::mem::offset_of!(mlxrt_result, kv_bytes) - 128usize];
};
#[repr(C)]
#[derive(Copy, Clone)]
pub struct mlxrt_embed_options {
    pub struct_size: u32,
    pub flags: u32,
    pub pooling: i32,
    pub timeout_ms: u32,
    pub progress: mlxrt_progress_fn,
    pub progress_data: *mut ::std::os::raw::c_void,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of mlxrt_embed_options"][::std::mem::size_of::<mlxrt_embed_options>() - 32usize];
    ["Alignment of mlxrt_embed_options"][::std::mem::align_of::<mlxrt_embed_options>() - 8usize];
    ["Offset of field: mlxrt_embed_options::struct_size"]
        [::std::mem::offset_of!(mlxrt_embed_options, struct_size) - 0usize];
    ["Offset of field: mlxrt_embed_options::flags"]
        [::std::mem::offset_of!(mlxrt_embed_options, flags) - 4usize];
    ["Offset of field: mlxrt_embed_options::pooling"]
        [::std::mem::offset_of!(mlxrt_embed_options, pooling) - 8usize];
    ["Offset of field: mlxrt_embed_options::timeout_ms"]
        [::std::mem::offset_of!(mlxrt_embed_options, timeout_ms) - 12usize];
    ["Offset of field: mlxrt_embed_options::progress"]
        [::std::mem::offset_of!(mlxrt_embed_options, progress) - 16usize];
    ["Offset of field: mlxrt_embed_options::progress_data"]
        [::std::mem::offset_of!(mlxrt_embed_options, progress_data) - 24usize];
};
impl Default for mlxrt_embed_options {
    fn default() -> Self {
        let mut s = ::std::mem::MaybeUninit::<Self>::uninit();
        unsafe {
            ::std::ptr::write_bytes(s.as_mut_ptr(), 0, 1);
            s.assume_init()
        }
    }
}
#[repr(C)]
#[derive(Default, Copy, Clone)]
pub struct mlxrt_metrics_data {
    pub struct_size: u32,
    pub flags: u32,
    pub requests_started: u64,
    pub requests_running: u64,
    pub requests_completed: u64,
    pub requests_cancelled: u64,
    pub requests_failed: u64,
    pub prompt_tokens: u64,
    pub cached_tokens: u64,
    pub generated_tokens: u64,
    pub prefill_ns: u64,
    pub decode_ns: u64,
    pub active_bytes: u64,
    pub cache_bytes: u64,
    pub peak_bytes: u64,
    pub weight_bytes: u64,
    pub kv_bytes: u64,
    pub last_prompt_tokens: u64,
    pub last_cached_tokens: u64,
    pub last_generated_tokens: u64,
    pub last_prefill_ns: u64,
    pub last_first_token_ns: u64,
    pub last_decode_ns: u64,
    pub last_total_ns: u64,
    pub last_peak_bytes: u64,
    pub requests_waiting: u64,
    pub queue_ns: u64,
    pub passes: u64,
    pub pass_rows: u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of mlxrt_metrics_data"][::std::mem::size_of::<mlxrt_metrics_data>() - 224usize];
    ["Alignment of mlxrt_metrics_data"][::std::mem::align_of::<mlxrt_metrics_data>() - 8usize];
    ["Offset of field: mlxrt_metrics_data::struct_size"]
        [::std::mem::offset_of!(mlxrt_metrics_data, struct_size) - 0usize];
    ["Offset of field: mlxrt_metrics_data::flags"]
        [::std::mem::offset_of!(mlxrt_metrics_data, flags) - 4usize];
    ["Offset of field: mlxrt_metrics_data::requests_started"]
        [::std::mem::offset_of!(mlxrt_metrics_data, requests_started) - 8usize];
    ["Offset of field: mlxrt_metrics_data::requests_running"]
        [::std::mem::offset_of!(mlxrt_metrics_data, requests_running) - 16usize];
    ["Offset of field: mlxrt_metrics_data::requests_completed"]
        [::std::mem::offset_of!(mlxrt_metrics_data, requests_completed) - 24usize];
    ["Offset of field: mlxrt_metrics_data::requests_cancelled"]
        [::std::mem::offset_of!(mlxrt_metrics_data, requests_cancelled) - 32usize];
    ["Offset of field: mlxrt_metrics_data::requests_failed"]
        [::std::mem::offset_of!(mlxrt_metrics_data, requests_failed) - 40usize];
    ["Offset of field: mlxrt_metrics_data::prompt_tokens"]
        [::std::mem::offset_of!(mlxrt_metrics_data, prompt_tokens) - 48usize];
    ["Offset of field: mlxrt_metrics_data::cached_tokens"]
        [::std::mem::offset_of!(mlxrt_metrics_data, cached_tokens) - 56usize];
    ["Offset of field: mlxrt_metrics_data::generated_tokens"]
        [::std::mem::offset_of!(mlxrt_metrics_data, generated_tokens) - 64usize];
    ["Offset of field: mlxrt_metrics_data::prefill_ns"]
        [::std::mem::offset_of!(mlxrt_metrics_data, prefill_ns) - 72usize];
    ["Offset of field: mlxrt_metrics_data::decode_ns"]
        [::std::mem::offset_of!(mlxrt_metrics_data, decode_ns) - 80usize];
    ["Offset of field: mlxrt_metrics_data::active_bytes"]
        [::std::mem::offset_of!(mlxrt_metrics_data, active_bytes) - 88usize];
    ["Offset of field: mlxrt_metrics_data::cache_bytes"]
        [::std::mem::offset_of!(mlxrt_metrics_data, cache_bytes) - 96usize];
    ["Offset of field: mlxrt_metrics_data::peak_bytes"]
        [::std::mem::offset_of!(mlxrt_metrics_data, peak_bytes) - 104usize];
    ["Offset of field: mlxrt_metrics_data::weight_bytes"]
        [::std::mem::offset_of!(mlxrt_metrics_data, weight_bytes) - 112usize];
    ["Offset of field: mlxrt_metrics_data::kv_bytes"]
        [::std::mem::offset_of!(mlxrt_metrics_data, kv_bytes) - 120usize];
    ["Offset of field: mlxrt_metrics_data::last_prompt_tokens"]
        [::std::mem::offset_of!(mlxrt_metrics_data, last_prompt_tokens) - 128usize];
    ["Offset of field: mlxrt_metrics_data::last_cached_tokens"]
        [::std::mem::offset_of!(mlxrt_metrics_data, last_cached_tokens) - 136usize];
    ["Offset of field: mlxrt_metrics_data::last_generated_tokens"]
        [::std::mem::offset_of!(mlxrt_metrics_data, last_generated_tokens) - 144usize];
    ["Offset of field: mlxrt_metrics_data::last_prefill_ns"]
        [::std::mem::offset_of!(mlxrt_metrics_data, last_prefill_ns) - 152usize];
    ["Offset of field: mlxrt_metrics_data::last_first_token_ns"]
        [::std::mem::offset_of!(mlxrt_metrics_data, last_first_token_ns) - 160usize];
    ["Offset of field: mlxrt_metrics_data::last_decode_ns"]
        [::std::mem::offset_of!(mlxrt_metrics_data, last_decode_ns) - 168usize];
    ["Offset of field: mlxrt_metrics_data::last_total_ns"]
        [::std::mem::offset_of!(mlxrt_metrics_data, last_total_ns) - 176usize];
    ["Offset of field: mlxrt_metrics_data::last_peak_bytes"]
        [::std::mem::offset_of!(mlxrt_metrics_data, last_peak_bytes) - 184usize];
    ["Offset of field: mlxrt_metrics_data::requests_waiting"]
        [::std::mem::offset_of!(mlxrt_metrics_data, requests_waiting) - 192usize];
    ["Offset of field: mlxrt_metrics_data::queue_ns"]
        [::std::mem::offset_of!(mlxrt_metrics_data, queue_ns) - 200usize];
    ["Offset of field: mlxrt_metrics_data::passes"]
        [::std::mem::offset_of!(mlxrt_metrics_data, passes) - 208usize];
    ["Offset of field: mlxrt_metrics_data::pass_rows"]
        [::std::mem::offset_of!(mlxrt_metrics_data, pass_rows) - 216usize];
};
unsafe extern "C" {
    pub fn mlxrt_abi_version() -> u32;
}
unsafe extern "C" {
    pub fn mlxrt_version() -> *const ::std::os::raw::c_char;
}
unsafe extern "C" {
    pub fn mlxrt_init(options: *const mlxrt_init_options) -> *mut mlxrt_error;
}
unsafe extern "C" {
    pub fn mlxrt_shutdown(flags: u32, timeout_ms: u32) -> *mut mlxrt_error;
}
unsafe extern "C" {
    pub fn mlxrt_suspend(timeout_ms: u32) -> *mut mlxrt_error;
}
unsafe extern "C" {
    pub fn mlxrt_resume() -> *mut mlxrt_error;
}
unsafe extern "C" {
    pub fn mlxrt_device_info(
        json: *mut *mut ::std::os::raw::c_char,
        len: *mut usize,
    ) -> *mut mlxrt_error;
}
unsafe extern "C" {
    pub fn mlxrt_log_set(
        level: i32,
        fn_: mlxrt_log_fn,
        user_data: *mut ::std::os::raw::c_void,
    ) -> *mut mlxrt_error;
}
unsafe extern "C" {
    pub fn mlxrt_free(buffer: *mut ::std::os::raw::c_void);
}
unsafe extern "C" {
    pub fn mlxrt_error_code(error: *const mlxrt_error) -> i32;
}
unsafe extern "C" {
    pub fn mlxrt_error_message(error: *const mlxrt_error) -> *const ::std::os::raw::c_char;
}
unsafe extern "C" {
    pub fn mlxrt_error_free(error: *mut mlxrt_error);
}
unsafe extern "C" {
    pub fn mlxrt_code_name(code: i32) -> *const ::std::os::raw::c_char;
}
unsafe extern "C" {
    pub fn mlxrt_memory_set(limits: *const mlxrt_memory_limits) -> *mut mlxrt_error;
}
unsafe extern "C" {
    pub fn mlxrt_memory_trim(level: i32) -> *mut mlxrt_error;
}
unsafe extern "C" {
    pub fn mlxrt_memory_get(out: *mut mlxrt_memory) -> *mut mlxrt_error;
}
unsafe extern "C" {
    pub fn mlxrt_model_inspect(
        path: *const ::std::os::raw::c_char,
        load: *const mlxrt_load_options,
        session: *const mlxrt_session_options,
        json: *mut *mut ::std::os::raw::c_char,
        len: *mut usize,
    ) -> *mut mlxrt_error;
}
unsafe extern "C" {
    pub fn mlxrt_model_load(
        path: *const ::std::os::raw::c_char,
        options: *const mlxrt_load_options,
        out: *mut *mut mlxrt_model,
    ) -> *mut mlxrt_error;
}
unsafe extern "C" {
    pub fn mlxrt_model_info(
        model: *const mlxrt_model,
        json: *mut *mut ::std::os::raw::c_char,
        len: *mut usize,
    ) -> *mut mlxrt_error;
}
unsafe extern "C" {
    pub fn mlxrt_model_save(
        model: *mut mlxrt_model,
        adapters: *const *mut mlxrt_adapter,
        scales: *const f32,
        count: usize,
        path: *const ::std::os::raw::c_char,
        options: *const mlxrt_call_options,
    ) -> *mut mlxrt_error;
}
unsafe extern "C" {
    pub fn mlxrt_model_free(model: *mut mlxrt_model);
}
unsafe extern "C" {
    pub fn mlxrt_tokenize(
        model: *const mlxrt_model,
        text: *const ::std::os::raw::c_char,
        len: usize,
        flags: u32,
        ids: *mut *mut i32,
        count: *mut usize,
    ) -> *mut mlxrt_error;
}
unsafe extern "C" {
    pub fn mlxrt_detokenize(
        model: *const mlxrt_model,
        ids: *const i32,
        count: usize,
        flags: u32,
        text: *mut *mut ::std::os::raw::c_char,
        len: *mut usize,
    ) -> *mut mlxrt_error;
}
unsafe extern "C" {
    pub fn mlxrt_render(
        model: *const mlxrt_model,
        input: *const mlxrt_input,
        text: *mut *mut ::std::os::raw::c_char,
        len: *mut usize,
    ) -> *mut mlxrt_error;
}
unsafe extern "C" {
    pub fn mlxrt_count_tokens(
        model: *const mlxrt_model,
        input: *const mlxrt_input,
        ids: *mut *mut i32,
        count: *mut usize,
    ) -> *mut mlxrt_error;
}
unsafe extern "C" {
    pub fn mlxrt_adapter_create(
        model: *mut mlxrt_model,
        options: *const mlxrt_adapter_options,
        out: *mut *mut mlxrt_adapter,
    ) -> *mut mlxrt_error;
}
unsafe extern "C" {
    pub fn mlxrt_adapter_load(
        model: *mut mlxrt_model,
        path: *const ::std::os::raw::c_char,
        options: *const mlxrt_call_options,
        out: *mut *mut mlxrt_adapter,
    ) -> *mut mlxrt_error;
}
unsafe extern "C" {
    pub fn mlxrt_adapter_info(
        adapter: *const mlxrt_adapter,
        json: *mut *mut ::std::os::raw::c_char,
        len: *mut usize,
    ) -> *mut mlxrt_error;
}
unsafe extern "C" {
    pub fn mlxrt_adapter_get(
        adapter: *const mlxrt_adapter,
        name: *const ::std::os::raw::c_char,
        out: *mut mlxrt_tensor,
    ) -> *mut mlxrt_error;
}
unsafe extern "C" {
    pub fn mlxrt_adapter_set(
        adapter: *mut mlxrt_adapter,
        name: *const ::std::os::raw::c_char,
        in_: *const mlxrt_tensor_view,
    ) -> *mut mlxrt_error;
}
unsafe extern "C" {
    pub fn mlxrt_adapter_save(
        adapter: *const mlxrt_adapter,
        path: *const ::std::os::raw::c_char,
        options: *const mlxrt_call_options,
    ) -> *mut mlxrt_error;
}
unsafe extern "C" {
    pub fn mlxrt_adapter_free(adapter: *mut mlxrt_adapter);
}
unsafe extern "C" {
    pub fn mlxrt_apply_adapter(
        session: *mut mlxrt_session,
        adapters: *const *mut mlxrt_adapter,
        scales: *const f32,
        count: usize,
    ) -> *mut mlxrt_error;
}
unsafe extern "C" {
    pub fn mlxrt_train(
        model: *mut mlxrt_model,
        adapter: *mut mlxrt_adapter,
        options: *const mlxrt_train_options,
        fn_: mlxrt_train_fn,
        user_data: *mut ::std::os::raw::c_void,
    ) -> *mut mlxrt_error;
}
unsafe extern "C" {
    pub fn mlxrt_session_create(
        model: *mut mlxrt_model,
        options: *const mlxrt_session_options,
        out: *mut *mut mlxrt_session,
    ) -> *mut mlxrt_error;
}
unsafe extern "C" {
    pub fn mlxrt_session_free(session: *mut mlxrt_session);
}
unsafe extern "C" {
    pub fn mlxrt_session_fork(
        session: *mut mlxrt_session,
        options: *const mlxrt_call_options,
        out: *mut *mut mlxrt_session,
    ) -> *mut mlxrt_error;
}
unsafe extern "C" {
    pub fn mlxrt_session_truncate(session: *mut mlxrt_session, tokens: usize) -> *mut mlxrt_error;
}
unsafe extern "C" {
    pub fn mlxrt_session_info(
        session: *const mlxrt_session,
        out: *mut mlxrt_session_state,
    ) -> *mut mlxrt_error;
}
unsafe extern "C" {
    pub fn mlxrt_session_tokens(
        session: *const mlxrt_session,
        ids: *mut *mut i32,
        count: *mut usize,
    ) -> *mut mlxrt_error;
}
unsafe extern "C" {
    pub fn mlxrt_session_message(
        session: *const mlxrt_session,
        json: *mut *mut ::std::os::raw::c_char,
        len: *mut usize,
    ) -> *mut mlxrt_error;
}
unsafe extern "C" {
    pub fn mlxrt_session_save(
        session: *mut mlxrt_session,
        path: *const ::std::os::raw::c_char,
        options: *const mlxrt_call_options,
    ) -> *mut mlxrt_error;
}
unsafe extern "C" {
    pub fn mlxrt_session_load(
        model: *mut mlxrt_model,
        path: *const ::std::os::raw::c_char,
        options: *const mlxrt_call_options,
        out: *mut *mut mlxrt_session,
    ) -> *mut mlxrt_error;
}
unsafe extern "C" {
    pub fn mlxrt_inspect_attention(
        session: *mut mlxrt_session,
        layer: u32,
        out: *mut mlxrt_tensor,
    ) -> *mut mlxrt_error;
}
unsafe extern "C" {
    pub fn mlxrt_session_cancel(session: *mut mlxrt_session);
}
unsafe extern "C" {
    pub fn mlxrt_generate(
        session: *mut mlxrt_session,
        input: *const mlxrt_input,
        options: *const mlxrt_generate_options,
        fn_: mlxrt_event_fn,
        user_data: *mut ::std::os::raw::c_void,
        out: *mut mlxrt_result,
    ) -> *mut mlxrt_error;
}
unsafe extern "C" {
    pub fn mlxrt_submit(
        session: *mut mlxrt_session,
        input: *const mlxrt_input,
        options: *const mlxrt_generate_options,
        out: *mut *mut mlxrt_request,
    ) -> *mut mlxrt_error;
}
unsafe extern "C" {
    pub fn mlxrt_request_next(
        request: *mut mlxrt_request,
        timeout_ms: u32,
        out: *mut *mut mlxrt_event,
        state: *mut i32,
    ) -> *mut mlxrt_error;
}
unsafe extern "C" {
    pub fn mlxrt_request_cancel(request: *mut mlxrt_request);
}
unsafe extern "C" {
    pub fn mlxrt_request_result(
        request: *mut mlxrt_request,
        timeout_ms: u32,
        out: *mut mlxrt_result,
    ) -> *mut mlxrt_error;
}
unsafe extern "C" {
    pub fn mlxrt_request_free(request: *mut mlxrt_request);
}
unsafe extern "C" {
    pub fn mlxrt_score(
        session: *mut mlxrt_session,
        prefix: *const mlxrt_input,
        target: *const mlxrt_input,
        options: *const mlxrt_call_options,
        logprobs: *mut *mut f32,
        count: *mut usize,
    ) -> *mut mlxrt_error;
}
unsafe extern "C" {
    pub fn mlxrt_grammar_compile(
        model: *const mlxrt_model,
        kind: i32,
        source: *const ::std::os::raw::c_char,
        len: usize,
        options: *const mlxrt_call_options,
        out: *mut *mut mlxrt_grammar,
    ) -> *mut mlxrt_error;
}
unsafe extern "C" {
    pub fn mlxrt_grammar_free(grammar: *mut mlxrt_grammar);
}
unsafe extern "C" {
    pub fn mlxrt_embed(
        model: *mut mlxrt_model,
        texts: *const *const ::std::os::raw::c_char,
        lens: *const usize,
        count: usize,
        options: *const mlxrt_embed_options,
        out: *mut mlxrt_tensor,
    ) -> *mut mlxrt_error;
}
unsafe extern "C" {
    pub fn mlxrt_metrics(
        model: *const mlxrt_model,
        out: *mut mlxrt_metrics_data,
    ) -> *mut mlxrt_error;
}
