//! The types of the header: opaque handles, callbacks and structs.
//!
//! A handle type has no `#[repr(C)]`, so that cbindgen leaves it incomplete. A struct has `#[repr(C)]`, starts
//! with `struct_size`, and has its rules registered in `structs.rs`. Fields are only ever appended.

use std::ffi::{c_char, c_void};

/// A loaded model. It is an id in the shape of a pointer: never dereference it. Any thread may use it, several
/// at once. Sessions keep what they need of it alive, so it may be freed in any order.
pub struct mlxrt_model {
    _private: [u8; 0],
}

/// A conversation or text in progress on one model. It is an id in the shape of a pointer: never dereference
/// it. Any thread may use it; it does one blocking call at a time, a second one gets MLXRT_E_BUSY.
pub struct mlxrt_session {
    _private: [u8; 0],
}

/// A request that was submitted. It is an id in the shape of a pointer: never dereference it. Any thread may use
/// it, several at once.
pub struct mlxrt_request {
    _private: [u8; 0],
}

/// Low-rank changes beside one model's weights. It is an id in the shape of a pointer: never dereference it. Any
/// thread may use it, several at once.
pub struct mlxrt_adapter {
    _private: [u8; 0],
}

/// A compiled grammar for answers of one model. It is an id in the shape of a pointer: never dereference it. Any
/// thread may use it, any number of requests at once.
pub struct mlxrt_grammar {
    _private: [u8; 0],
}

/// The functions of this header as a table, for a program that loads the library while it runs: mlxrt_get_api.
pub struct mlxrt_api {
    _private: [u8; 0],
}

/// Receives what a generation produces, on the thread of the blocking call. The event and all it points to
/// live until the callback returns. Inside it, queries, cancel and free functions work; blocking calls give
/// MLXRT_E_REENTRANT. Returns MLXRT_RETURN_CONTINUE or MLXRT_RETURN_STOP. It must not throw or longjmp.
pub type mlxrt_event_fn =
    Option<unsafe extern "C" fn(user_data: *mut c_void, event: *const mlxrt_event) -> i32>;

/// Hears how a training goes, on the thread of mlxrt_train. The event lives until the callback returns. Inside it, queries,
/// cancel and free functions work; blocking calls give MLXRT_E_REENTRANT. Returns MLXRT_RETURN_CONTINUE, or
/// MLXRT_RETURN_STOP to end the training with what it has. It must not throw or longjmp.
pub type mlxrt_train_fn =
    Option<unsafe extern "C" fn(user_data: *mut c_void, event: *const mlxrt_train_event) -> i32>;

/// Hears how far a long call is: done of total (bytes while loading; 0 done while a long vocabulary is built), on the
/// thread of that call. Returns
/// MLXRT_RETURN_CONTINUE, or MLXRT_RETURN_STOP to end the call with MLXRT_E_CANCELLED. It must not throw or
/// longjmp.
pub type mlxrt_progress_fn =
    Option<unsafe extern "C" fn(user_data: *mut c_void, done: u64, total: u64) -> i32>;

/// Called on any thread, concurrently, when something became available. It may only signal something (an
/// event, a semaphore, a pipe) and must not throw or longjmp.
pub type mlxrt_notify_fn = Option<unsafe extern "C" fn(user_data: *mut c_void)>;

/// Receives one log line (UTF-8, without a newline, a NUL behind it), on any thread, concurrently. Inside it
/// only error, free, version and cancel functions may be called. It must not throw or longjmp.
pub type mlxrt_log_fn = Option<
    unsafe extern "C" fn(user_data: *mut c_void, level: i32, message: *const c_char, len: usize),
>;

/// How the library starts. All zero behind struct_size: the defaults.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct mlxrt_init_options {
    /// sizeof(mlxrt_init_options).
    pub struct_size: u32,
    /// 0; none are defined.
    pub flags: u32,
    /// MLXRT_DEVICE_*.
    pub device: i32,
    /// The most threads that compute on the CPU device, at most 1024; 0 = one per physical core.
    pub cpu_threads: u32,
    /// The folder in which mlx.metallib lies; NULL = beside the library.
    pub resource_dir: *const c_char,
    /// Bytes the library may use: what would pass it (a load, the next part of a prompt, a longer answer) is refused
    /// with MLXRT_E_OUT_OF_MEMORY before it is allocated, and near it freed buffers are no longer kept; 0 = default,
    /// UINT64_MAX = unlimited, 1 = none.
    pub memory_limit: u64,
    /// Bytes of freed buffers kept for reuse, and of keys and values kept of sessions that are gone, each; 0 = default (256 MB, and an
    /// eighth of the memory limit), UINT64_MAX = unlimited, 1 = none.
    pub cache_limit: u64,
    /// Bytes kept resident for the GPU; 0 = default, UINT64_MAX = unlimited, 1 = none.
    pub wired_limit: u64,
}

/// How much memory may be used, for the whole process. Each limit is as in mlxrt_init_options, but 0 = unchanged.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct mlxrt_memory_limits {
    /// sizeof(mlxrt_memory_limits).
    pub struct_size: u32,
    /// 0; none are defined.
    pub flags: u32,
    /// Bytes the library may use; 0 = unchanged, UINT64_MAX = unlimited, 1 = none.
    pub memory_limit: u64,
    /// Bytes of freed buffers kept for reuse, and of keys and values kept of sessions that are gone, each; 0 = unchanged,
    /// UINT64_MAX = unlimited, 1 = none.
    pub cache_limit: u64,
    /// Bytes kept resident for the GPU; 0 = unchanged, UINT64_MAX = unlimited, 1 = none.
    pub wired_limit: u64,
}

/// For calls that read, write or compute for a while. All zero behind struct_size: the defaults.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct mlxrt_call_options {
    /// sizeof(mlxrt_call_options).
    pub struct_size: u32,
    /// 0; none are defined.
    pub flags: u32,
    /// Milliseconds for the whole call; 0 = none. The end is MLXRT_E_TIMEOUT.
    pub timeout_ms: u32,
    /// 0.
    pub reserved: u32,
    /// Called with bytes done and in all, or of a score with tokens; NULL = nobody is.
    pub progress: mlxrt_progress_fn,
    /// Handed to progress.
    pub progress_data: *mut c_void,
}

/// How a model is loaded. All zero behind struct_size: the defaults.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct mlxrt_load_options {
    /// sizeof(mlxrt_load_options).
    pub struct_size: u32,
    /// MLXRT_LOAD_*.
    pub flags: u32,
    /// The most tokens a session may ask for; 0 = the model's own limit.
    pub context: u32,
    /// Milliseconds after which loading ends with MLXRT_E_TIMEOUT; 0 = none.
    pub timeout_ms: u32,
    /// Hears the bytes read of the bytes to read; NULL = nobody does.
    pub progress: mlxrt_progress_fn,
    /// Handed to progress.
    pub progress_data: *mut c_void,
    /// The folder or id of a draft model: a smaller one with the same tokens, which guesses for this one
    /// (options.draft_tokens) and is loaded and freed with it. NULL = none.
    pub draft_path: *const c_char,
}

/// What a session is like. All zero behind struct_size: the defaults.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct mlxrt_session_options {
    /// sizeof(mlxrt_session_options).
    pub struct_size: u32,
    /// 0; none are defined.
    pub flags: u32,
    /// The most tokens the session holds; 0 = the model's limit.
    pub context: u32,
    /// Keep keys and values of only so many of the latest tokens; 0 = of all.
    pub window: u32,
    /// With window: the first tokens that are never dropped; 0 = 4, -1 = none.
    pub keep: i32,
    /// Bits per cached key and value, 4 or 8, with a scale and a bias for each group of them; 0 = unquantised.
    pub kv_bits: u32,
    /// With kv_bits: values per quantisation group, 32, 64 or 128, of which a head must be a multiple; 0 = 64, or 32 where
    /// that does not fit.
    pub kv_group_size: u32,
    /// 0.
    pub reserved: u32,
    /// Bytes of keys and values that this session may use; 0 = what the budget has left.
    pub kv_limit: u64,
}

/// What goes into a session: exactly one of text, tokens and messages. Lengths are in bytes, or MLXRT_NTS.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct mlxrt_input {
    /// sizeof(mlxrt_input).
    pub struct_size: u32,
    /// MLXRT_INPUT_*.
    pub flags: u32,
    /// Text that continues the session; NULL = none.
    pub text: *const c_char,
    /// Bytes of text, up to 64 MB.
    pub text_len: usize,
    /// Token ids that continue the session; NULL = none.
    pub tokens: *const i32,
    /// How many tokens.
    pub token_count: usize,
    /// A JSON array of at most 100,000 messages as OpenAI's chat API has them: the WHOLE history. What the session already holds
    /// of it is reused. NULL = none.
    pub messages: *const c_char,
    /// Bytes of messages, up to 256 MB.
    pub messages_len: usize,
    /// With messages: a JSON array of tools; NULL = none.
    pub tools: *const c_char,
    /// Bytes of tools, up to 64 MB.
    pub tools_len: usize,
    /// With messages: a JSON object for the chat template, such as {"enable_thinking":false}; NULL = none.
    pub template_args: *const c_char,
    /// Bytes of template_args, up to 64 MB.
    pub template_args_len: usize,
    /// With messages and tools, as JSON: "auto", the model calls what it likes; "none", nothing, and the chat template is shown
    /// no tools; "required", the answer is a call, perhaps behind thinking, and then what the model likes; {"name": …}, a call
    /// of that tool. The forms of OpenAI's API are taken too. Of a required call the arguments obey the schema where it can be
    /// followed (and with MLXRT_GEN_STRICT_TOOLS in any case). NULL = "auto".
    pub tool_choice: *const c_char,
    /// Bytes of tool_choice, up to 64 KB.
    pub tool_choice_len: usize,
}

/// How to generate. All zero behind struct_size: the defaults, which are the model's own where its
/// generation_config.json has them (and neutral with MLXRT_GEN_NO_MODEL_DEFAULTS). NaN and infinities are
/// MLXRT_E_INVALID_ARGUMENT, but for -INFINITY as a bias.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct mlxrt_generate_options {
    /// sizeof(mlxrt_generate_options).
    pub struct_size: u32,
    /// MLXRT_GEN_*.
    pub flags: u32,
    /// The most tokens to generate; 0 = until the model ends or the context is full.
    pub max_tokens: u32,
    /// Milliseconds for the whole call, queueing and callbacks included; 0 = none. The end is
    /// MLXRT_STOPPED_TIMEOUT.
    pub timeout_ms: u32,
    /// Greater than 0; 0 = the model's (greedy where the model does not ask for sampling).
    pub temperature: f32,
    /// The smallest set of likely tokens with this probability, up to 1 = off; 0 = the model's, else off.
    pub top_p: f32,
    /// Tokens at least this share of the likeliest one's probability, up to 1; 0 = the model's, else off;
    /// -1 = off.
    pub min_p: f32,
    /// The so many likeliest tokens; 0 = the model's, else off; -1 = off.
    pub top_k: i32,
    /// Probability with which the likeliest tokens are left out, up to 1; 0 = the model's, else off; -1 = off.
    pub xtc_probability: f32,
    /// With xtc_probability: tokens above this probability are left out, but for the least likely of them; up to 0.5,
    /// 0 = 0.1.
    pub xtc_threshold: f32,
    /// Divides the logits of tokens seen, from 1e-6 to 1e6, 1 = off; 0 = the model's, else off.
    pub repetition_penalty: f32,
    /// Taken from the logits of tokens seen, -2 to 2; 0 = off.
    pub presence_penalty: f32,
    /// Taken from the logits of tokens seen, per occurrence, -2 to 2; 0 = off.
    pub frequency_penalty: f32,
    /// How many of the latest tokens the penalties look at; 0 = 20, UINT32_MAX = all.
    pub penalty_window: u32,
    /// The same seed gives the same text; 0 = a random one, which the result reports.
    pub seed: u64,
    /// With MLXRT_GEN_LOGPROBS: likeliest alternatives reported per token; 0 = none.
    pub top_logprobs: u32,
    /// The most tokens of thinking in an answer; 0 = no limit, -1 = no thinking. Behind them the end of thinking is
    /// generated, in the words of the chat template. With messages a template that has a variable for it is told:
    /// enable_thinking or thinking (false for -1), thinking_budget; what template_args sets stays.
    pub thinking_budget: i32,
    /// Strings that end the generation; none of their bytes is ever delivered. NULL = none. They are looked for in the text
    /// of MLXRT_EVENT_TEXT alone, not across what is thought or called in between.
    pub stop: *const *const c_char,
    /// Bytes of each stop string; NULL = all are NUL-terminated.
    pub stop_lens: *const usize,
    /// How many stop strings, up to 64, of up to 4,096 bytes each.
    pub stop_count: usize,
    /// Tokens that end the generation, besides the model's own; NULL = none.
    pub stop_tokens: *const i32,
    /// How many stop tokens, up to 4,096.
    pub stop_token_count: usize,
    /// Tokens whose logits get bias_values added; NULL = none.
    pub bias_tokens: *const i32,
    /// What each of bias_tokens gets, added up where a token is named twice; -INFINITY, and what is -1e6 or less, bans it.
    pub bias_values: *const f32,
    /// How many biases, up to 4,194,304.
    pub bias_count: usize,
    /// What the answer must match; NULL = anything. A request keeps what it needs of it.
    pub grammar: *mut mlxrt_grammar,
    /// An event of progress every so many tokens taken in; 0 = none.
    pub progress_tokens: u32,
    /// Tokens that are guessed at a time, by the draft model, by a head of the model's own that predicts further tokens, or where
    /// what came before may come again: they are computed together, and those that the model would have drawn itself are kept, so
    /// the answer is the same. At most 14 are. 0 = as many as pay, which is found out while it runs, and on a GPU none without a
    /// draft model or such a head; -1 = none.
    pub draft_tokens: i32,
    /// For requests that are submitted: called when events or the end become available; NULL = nobody is.
    pub notify: mlxrt_notify_fn,
    /// Handed to notify.
    pub notify_data: *mut c_void,
    /// Higher first, 0 = usual. Where more requests want the device than it takes at once, and between prompts, the higher one
    /// goes first; equals take turns, and a request that has had no turn for a second gets one whatever its priority, so
    /// that nobody starves. A priority neither ends nor shortens what runs. Every value is legal.
    pub priority: i32,
    /// 0.
    pub reserved: u32,
}

/// What the memory is used for, in bytes.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct mlxrt_memory {
    /// sizeof(mlxrt_memory) before the call; the bytes that were filled after it.
    pub struct_size: u32,
    /// 0; none are defined.
    pub flags: u32,
    /// In use now.
    pub active_bytes: u64,
    /// Freed buffers kept for reuse.
    pub cache_bytes: u64,
    /// The most that was in use at once.
    pub peak_bytes: u64,
    /// Of active_bytes: weights of models.
    pub weight_bytes: u64,
    /// Of active_bytes: keys and values of sessions. What several share counts in each.
    pub kv_bytes: u64,
    /// What the library may use; UINT64_MAX = unlimited.
    pub limit_bytes: u64,
}

/// Where a session is.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct mlxrt_session_state {
    /// sizeof(mlxrt_session_state) before the call; the bytes that were filled after it.
    pub struct_size: u32,
    /// 0; none are defined.
    pub flags: u32,
    /// Tokens that the session holds.
    pub tokens: u64,
    /// The most tokens it can hold.
    pub context: u64,
    /// Tokens whose keys and values are computed; after a cut until the next request also those that were cut.
    pub kv_tokens: u64,
    /// Bytes of these keys and values, with those that other sessions share.
    pub kv_bytes: u64,
    /// 1 while a call or request runs on it, else 0.
    pub busy: u32,
    /// Adapters applied.
    pub adapters: u32,
}

/// How a generation ended and what it cost. It is filled on failure too: then stop is MLXRT_STOPPED_ERROR.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct mlxrt_result {
    /// sizeof(mlxrt_result) before the call; the bytes that were filled after it.
    pub struct_size: u32,
    /// MLXRT_STOPPED_*; ignore values you do not know.
    pub stop: i32,
    /// Which stop string or stop token ended it; else 0.
    pub stop_index: u32,
    /// With MLXRT_STOPPED_ERROR: MLXRT_E_*; else MLXRT_OK.
    pub error_code: i32,
    /// The seed that was used.
    pub seed: u64,
    /// Tokens before the first generated one: what the session held, or the part of it that stays, and the input.
    pub prompt_tokens: u64,
    /// Of prompt_tokens: those not computed now, since the session or a cache had them.
    pub cached_tokens: u64,
    /// Tokens delivered, thinking included.
    pub generated_tokens: u64,
    /// Of generated_tokens: those of thinking, its markers not counted.
    pub thinking_tokens: u64,
    /// Tokens that were guessed (options.draft_tokens).
    pub drafted: u64,
    /// Of drafted: those that were right.
    pub accepted: u64,
    /// Nanoseconds from the call until the engine began.
    pub queue_ns: u64,
    /// Nanoseconds in which the input was taken in.
    pub prefill_ns: u64,
    /// Nanoseconds from the call until the first token; 0 = there was none.
    pub first_token_ns: u64,
    /// Nanoseconds from the first token to the last one.
    pub decode_ns: u64,
    /// Nanoseconds from the call to its end.
    pub total_ns: u64,
    /// The most bytes in use at once during the call.
    pub peak_bytes: u64,
    /// Bytes in use at its end.
    pub active_bytes: u64,
    /// Bytes of the session's keys and values at its end.
    pub kv_bytes: u64,
}

/// Counters since the start, and the last request that ended.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct mlxrt_metrics_data {
    /// sizeof(mlxrt_metrics_data) before the call; the bytes that were filled after it.
    pub struct_size: u32,
    /// 0; none are defined.
    pub flags: u32,
    /// Requests that were made, those that wait and those that were refused included.
    pub requests_started: u64,
    /// Requests that have not ended: those that run now, and those that wait.
    pub requests_running: u64,
    /// Requests that ended by themselves, by a limit or by a stop.
    pub requests_completed: u64,
    /// Requests that were cancelled.
    pub requests_cancelled: u64,
    /// Requests that ended with an error.
    pub requests_failed: u64,
    /// Tokens of all inputs.
    pub prompt_tokens: u64,
    /// Of prompt_tokens: those that did not have to be computed.
    pub cached_tokens: u64,
    /// Tokens delivered.
    pub generated_tokens: u64,
    /// Nanoseconds in which inputs were taken in.
    pub prefill_ns: u64,
    /// Nanoseconds from first tokens to last ones.
    pub decode_ns: u64,
    /// Bytes in use now.
    pub active_bytes: u64,
    /// Bytes of freed buffers kept for reuse.
    pub cache_bytes: u64,
    /// The most bytes that were in use at once.
    pub peak_bytes: u64,
    /// Bytes of weights.
    pub weight_bytes: u64,
    /// Bytes of keys and values.
    pub kv_bytes: u64,
    /// prompt_tokens of the last request.
    pub last_prompt_tokens: u64,
    /// cached_tokens of the last request.
    pub last_cached_tokens: u64,
    /// generated_tokens of the last request.
    pub last_generated_tokens: u64,
    /// prefill_ns of the last request.
    pub last_prefill_ns: u64,
    /// first_token_ns of the last request.
    pub last_first_token_ns: u64,
    /// decode_ns of the last request.
    pub last_decode_ns: u64,
    /// total_ns of the last request.
    pub last_total_ns: u64,
    /// peak_bytes of the last request.
    pub last_peak_bytes: u64,
    /// Of requests_running: those that have not begun.
    pub requests_waiting: u64,
    /// Nanoseconds from the calls of requests that have ended until the engine began them.
    pub queue_ns: u64,
    /// Passes through the model that computed next tokens. Sessions share them, so pass_rows / passes is how many shared
    /// one.
    pub passes: u64,
    /// Rows of these passes: one for each session whose next token was computed, without guesses and what a grammar forced.
    pub pass_rows: u64,
}

/// A piece of what a generation produces. struct_size is the library's: ask MLXRT_HAS for fields that later
/// versions added.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct mlxrt_event {
    /// Bytes of the struct that the library filled.
    pub struct_size: u32,
    /// MLXRT_EVENT_*; ignore values you do not know.
    pub kind: i32,
    /// Whole code points with a NUL behind them, never NULL; may hold U+0000.
    pub text: *const c_char,
    /// Bytes of text.
    pub text_len: usize,
    /// Exactly the tokens that this event completes; those of all events joined are all generated tokens.
    pub tokens: *const i32,
    /// How many tokens.
    pub token_count: usize,
    /// With MLXRT_GEN_LOGPROBS: one for each token; else NULL.
    pub logprobs: *const f32,
    /// With top_logprobs: token_count times top_count ids; else NULL.
    pub top_tokens: *const i32,
    /// The log-probabilities of top_tokens; else NULL.
    pub top_logprobs: *const f32,
    /// Alternatives per token.
    pub top_count: usize,
    /// MLXRT_EVENT_PROGRESS: tokens taken in.
    pub done: u64,
    /// MLXRT_EVENT_PROGRESS: tokens to take in.
    pub total: u64,
}

/// How an adapter is made. All zero behind struct_size: the defaults.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct mlxrt_adapter_options {
    /// sizeof(mlxrt_adapter_options).
    pub struct_size: u32,
    /// 0; none are defined.
    pub flags: u32,
    /// MLXRT_LORA or MLXRT_DORA.
    pub kind: i32,
    /// Columns of A and rows of B, up to 4,096; 0 = 8.
    pub rank: u32,
    /// What (x A) B is multiplied by, up to 1e30 (with F16 up to 65504) in size; 0 = 20.
    pub scale: f32,
    /// The share of the input's elements that training leaves out, below 1.
    pub dropout: f32,
    /// The last so many blocks; 0 = all.
    pub layers: i32,
    /// MLXRT_DTYPE_F32, _F16 or _BF16; 0 = F32.
    pub dtype: i32,
    /// The same seed gives the same A.
    pub seed: u64,
    /// Names of modules; NULL = q_proj and v_proj.
    pub keys: *const *const c_char,
    /// How many keys.
    pub key_count: usize,
}

/// How an adapter is trained. All zero behind struct_size, train and train_len: mlx-lm's defaults, with AdamW.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct mlxrt_train_options {
    /// sizeof(mlxrt_train_options).
    pub struct_size: u32,
    /// MLXRT_TRAIN_*.
    pub flags: u32,
    /// JSONL, an object on each line: {"messages": [...], "tools": [...]}, {"prompt": "...", "completion": "..."} or
    /// {"text": "..."}; with MLXRT_TRAIN_PATHS the path of a file of that.
    pub train: *const c_char,
    /// Bytes of train, up to 1 GB; a file of that has no more either.
    pub train_len: usize,
    /// The same for validation; NULL = none.
    pub valid: *const c_char,
    /// Bytes of valid.
    pub valid_len: usize,
    /// Batches to train; 0 = 1000.
    pub steps: u32,
    /// Samples in a batch; 0 = 4.
    pub batch_size: u32,
    /// The most tokens of a sample, the rest is cut; 0 = 2048.
    pub max_tokens: u32,
    /// Steps whose gradients are averaged for one update; 0 = 1.
    pub accumulate: u32,
    /// Steps between events; 0 = 10.
    pub report_every: u32,
    /// Steps between validations, besides those at the first and the last step; 0 = 200.
    pub validate_every: u32,
    /// Steps between saves, besides the one at the end; 0 = 100.
    pub save_every: u32,
    /// Updates over which the learning rate rises from 0.
    pub warmup: u32,
    /// The highest learning rate; 0 = 1e-5.
    pub learning_rate: f32,
    /// 0 = 0.01 for AdamW and none for SGD; -1 = none.
    pub weight_decay: f32,
    /// MLXRT_OPTIMIZER_*.
    pub optimizer: i32,
    /// MLXRT_SCHEDULE_*.
    pub schedule: i32,
    /// Of the order of batches and of dropout: the same seed gives the same training.
    pub seed: u64,
    /// A folder that mlxrt_adapter_save writes; NULL = no saves.
    pub save_path: *const c_char,
}

/// How texts become embeddings. All zero behind struct_size: as the model's folder says.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct mlxrt_embed_options {
    /// sizeof(mlxrt_embed_options).
    pub struct_size: u32,
    /// MLXRT_EMBED_*.
    pub flags: u32,
    /// MLXRT_POOLING_*.
    pub pooling: i32,
    /// Milliseconds until it ends with TIMEOUT; 0 = none.
    pub timeout_ms: u32,
    /// Called with the tokens that are done, and all of them; may be NULL.
    pub progress: mlxrt_progress_fn,
    /// For progress.
    pub progress_data: *mut c_void,
}

/// What happened in a training since the event before.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct mlxrt_train_event {
    /// Bytes of the struct that the library filled.
    pub struct_size: u32,
    /// 0.
    pub flags: u32,
    /// Steps done.
    pub step: u64,
    /// Steps to do.
    pub steps: u64,
    /// Tokens trained since the start.
    pub trained_tokens: u64,
    /// Samples of train that are longer than max_tokens.
    pub truncated_samples: u64,
    /// The most memory that MLX used since the start, in bytes.
    pub peak_bytes: u64,
    /// The mean of the steps.
    pub loss: f64,
    /// The loss on valid before this step; NaN when it was not measured.
    pub validation_loss: f64,
    /// Tokens trained a second, without the time of validations, saves and callbacks.
    pub tokens_per_second: f64,
    /// Of the last update.
    pub learning_rate: f64,
}

/// A tensor that goes in.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct mlxrt_tensor_view {
    /// sizeof(mlxrt_tensor_view).
    pub struct_size: u32,
    /// MLXRT_DTYPE_*.
    pub dtype: i32,
    /// How many dimensions, at most 8.
    pub rank: u32,
    /// 0.
    pub reserved: u32,
    /// The first rank of them count.
    pub shape: [u64; 8],
    /// Row-major; any alignment.
    pub data: *const c_void,
    /// Bytes of data: the product of the dimensions times the size of an element.
    pub bytes: u64,
}

/// A tensor that comes out: F32, row-major.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct mlxrt_tensor {
    /// sizeof(mlxrt_tensor) before the call; the bytes that were filled after it.
    pub struct_size: u32,
    /// MLXRT_DTYPE_F32.
    pub dtype: i32,
    /// How many dimensions.
    pub rank: u32,
    /// 0.
    pub reserved: u32,
    /// The first rank of them count, the rest are 0.
    pub shape: [u64; 8],
    /// Yours: mlxrt_free.
    pub data: *mut c_void,
    /// Bytes of data.
    pub bytes: u64,
}
