//! The constants of the header. The numbers are frozen; a suffix here (`8u32`) becomes the suffix in C (`8u`).
//! `MLXRT_NTS` and `MLXRT_HAS` are C macros and live in cbindgen.toml.

/// The version of this surface. It rises with every release that adds a function.
pub const MLXRT_ABI: u32 = 1u32;

/// For every timeout argument: wait without a limit. 0 does not wait at all.
pub const MLXRT_FOREVER: u32 = 4294967295u32;

/// No error; what mlxrt_error_code gives for NULL.
pub const MLXRT_OK: i32 = 0;
/// An argument is wrong; the message names it, and the fix where there is one.
pub const MLXRT_E_INVALID_ARGUMENT: i32 = 1;
/// A handle is NULL, freed, of another type or not from this library.
pub const MLXRT_E_INVALID_HANDLE: i32 = 2;
/// A file, folder or named thing does not exist.
pub const MLXRT_E_NOT_FOUND: i32 = 3;
/// A file exists and cannot be read or written.
pub const MLXRT_E_IO: i32 = 4;
/// A model folder is damaged or contradicts itself.
pub const MLXRT_E_BAD_MODEL: i32 = 5;
/// Two things are valid, but not together.
pub const MLXRT_E_INCOMPATIBLE: i32 = 6;
/// Valid perhaps, but not known to this version of the library.
pub const MLXRT_E_UNSUPPORTED: i32 = 7;
/// Memory, or the budget set for it, does not suffice.
pub const MLXRT_E_OUT_OF_MEMORY: i32 = 8;
/// The prompt does not fit into the session's context.
pub const MLXRT_E_CONTEXT_FULL: i32 = 9;
/// Something else uses the object just now; try again later.
pub const MLXRT_E_BUSY: i32 = 10;
/// The call was ended by a cancel, a callback or the free of its object.
pub const MLXRT_E_CANCELLED: i32 = 11;
/// The time given was not enough.
pub const MLXRT_E_TIMEOUT: i32 = 12;
/// The library is suspended and the call needs the device.
pub const MLXRT_E_SUSPENDED: i32 = 13;
/// The device or its driver failed.
pub const MLXRT_E_DEVICE: i32 = 14;
/// A file that belongs to the library was not found.
pub const MLXRT_E_RESOURCES: i32 = 15;
/// A grammar cannot be compiled.
pub const MLXRT_E_BAD_GRAMMAR: i32 = 16;
/// The function may not be called from inside this callback.
pub const MLXRT_E_REENTRANT: i32 = 17;
/// The process has forked since its first call; only the parent may use the library.
pub const MLXRT_E_FORKED: i32 = 18;
/// A bug in the library, caught; the message says where.
pub const MLXRT_E_INTERNAL: i32 = 19;

/// The GPU where there is one, else the CPU.
pub const MLXRT_DEVICE_AUTO: i32 = 0;
/// The CPU.
pub const MLXRT_DEVICE_CPU: i32 = 1;
/// The GPU.
pub const MLXRT_DEVICE_GPU: i32 = 2;

/// Something failed.
pub const MLXRT_LOG_ERROR: i32 = 1;
/// Something is odd, and the library went on.
pub const MLXRT_LOG_WARN: i32 = 2;
/// What an operator wants to know.
pub const MLXRT_LOG_INFO: i32 = 3;
/// What a developer wants to know.
pub const MLXRT_LOG_DEBUG: i32 = 4;

/// An event or progress callback returns this to go on.
pub const MLXRT_RETURN_CONTINUE: i32 = 0;
/// An event or progress callback returns this to end the call.
pub const MLXRT_RETURN_STOP: i32 = 1;

/// mlxrt_shutdown: also end what other users of the library in this process still hold.
pub const MLXRT_SHUTDOWN_FORCE: u32 = 1u32;

/// mlxrt_load_options: the folder's files may be links to files outside it, such as weights in a store.
pub const MLXRT_LOAD_FOLLOW_LINKS: u32 = 1u32;

/// mlxrt_tokenize: add what the tokenizer's post-processor adds (BOS, EOS).
pub const MLXRT_TOKENIZE_ADD_SPECIAL: u32 = 1u32;
/// mlxrt_tokenize: special tokens written in the text, such as <|im_start|>, are just text.
pub const MLXRT_TOKENIZE_SPECIAL_AS_TEXT: u32 = 2u32;
/// mlxrt_detokenize: leave special tokens out of the text.
pub const MLXRT_DETOKENIZE_SKIP_SPECIAL: u32 = 1u32;

/// Text at token 0 gets no BOS. Without this it gets the tokenizer's, unless it is there.
pub const MLXRT_INPUT_NO_BOS: u32 = 1u32;
/// Text: special tokens are not recognised.
pub const MLXRT_INPUT_SPECIAL_AS_TEXT: u32 = 2u32;
/// Messages: special tokens inside message content are recognised. By default they never are, so content
/// cannot forge a turn.
pub const MLXRT_INPUT_TRUST_CONTENT: u32 = 4u32;
/// Messages: do not open the assistant's turn.
pub const MLXRT_INPUT_NO_GENERATION_PROMPT: u32 = 8u32;
/// Messages: continue the last message, which must be the assistant's.
pub const MLXRT_INPUT_CONTINUE_LAST: u32 = 16u32;

/// Always the most likely token.
pub const MLXRT_GEN_GREEDY: u32 = 1u32;
/// Do not stop at an end-of-sequence token.
pub const MLXRT_GEN_IGNORE_EOS: u32 = 2u32;
/// Events without text, all of kind MLXRT_EVENT_TEXT; stop strings are not looked for.
pub const MLXRT_GEN_TOKENS_ONLY: u32 = 4u32;
/// Take the input in and generate nothing.
pub const MLXRT_GEN_PREFILL_ONLY: u32 = 8u32;
/// Reuse nothing that was computed before, by this session or by another one: every token of the prompt is computed now.
pub const MLXRT_GEN_NO_PREFIX_CACHE: u32 = 16u32;
/// Zeros mean neutral (temperature 1), not what the model's generation_config.json says.
pub const MLXRT_GEN_NO_MODEL_DEFAULTS: u32 = 32u32;
/// Log-probabilities of the model's own distribution: before penalties, bias, temperature and masks.
pub const MLXRT_GEN_LOGPROBS: u32 = 64u32;
/// No channels: everything is an event of text, markers included, thinking_tokens is 0, and thinking has no end forced.
pub const MLXRT_GEN_RAW_TEXT: u32 = 128u32;
/// With tools: a call's arguments obey the schema of its tool, by a grammar that begins at the call's marker. A schema that
/// cannot be followed in the form in which the model writes its calls is MLXRT_E_BAD_GRAMMAR, and calls of which no grammar is
/// known are MLXRT_E_UNSUPPORTED. A call of a tool that is not there is text. Not together with a grammar.
pub const MLXRT_GEN_STRICT_TOOLS: u32 = 256u32;
/// MLXRT_EVENT_TOOL_DELTA while a call's arguments come.
pub const MLXRT_GEN_TOOL_DELTAS: u32 = 512u32;

/// The input is being taken in: done of total tokens.
pub const MLXRT_EVENT_PROGRESS: i32 = 1;
/// A piece of the answer. The markers around thinking and calls are no part of any text, nor is white space next to them, up to
/// 16 bytes; their tokens come with what they belong to, or with an empty text.
pub const MLXRT_EVENT_TEXT: i32 = 2;
/// A piece of the model's thinking. It begins at once where the prompt has opened it.
pub const MLXRT_EVENT_THINKING: i32 = 3;
/// A call of a tool that is complete: the text is one {"id","name","arguments":{...}}, the tokens are those of the whole
/// call. The id is the model's, or else nine letters and digits. What does not parse, is not ended, or is longer than 1 MB
/// arrives as text, or as thinking where the model was thinking.
pub const MLXRT_EVENT_TOOL_CALL: i32 = 4;
/// With MLXRT_GEN_TOOL_DELTAS, a piece of a call that is not complete: the text is {"index","arguments"}, in the first event of a
/// call {"index","id","name","arguments"}. index counts the answer's calls from 0; arguments is a piece of the text of their JSON,
/// and all pieces together are that text. It has no tokens: these come with MLXRT_EVENT_TOOL_CALL, which follows with the same
/// id. Where text follows in its place, it was no call, and what was told of it is void. How large the pieces are is up to the
/// family: arguments of JSON come as they are generated, tagged ones one by one, all others at once.
pub const MLXRT_EVENT_TOOL_DELTA: i32 = 5;

/// The model ended its answer.
pub const MLXRT_STOPPED_EOS: i32 = 1;
/// A stop string appeared; stop_index says which.
pub const MLXRT_STOPPED_STRING: i32 = 2;
/// A stop token appeared; stop_index says which.
pub const MLXRT_STOPPED_TOKEN: i32 = 3;
/// max_tokens were generated.
pub const MLXRT_STOPPED_LENGTH: i32 = 4;
/// The session's context is full.
pub const MLXRT_STOPPED_CONTEXT: i32 = 5;
/// The event callback asked for it.
pub const MLXRT_STOPPED_CALLBACK: i32 = 6;
/// A cancel, the free of the session, or a forced shutdown.
pub const MLXRT_STOPPED_CANCELLED: i32 = 7;
/// timeout_ms passed.
pub const MLXRT_STOPPED_TIMEOUT: i32 = 8;
/// The model ended its answer, with at least one call of a tool in it, and waits for what they give.
pub const MLXRT_STOPPED_TOOL_CALL: i32 = 9;
/// The grammar allows nothing more.
pub const MLXRT_STOPPED_GRAMMAR: i32 = 10;
/// The call failed; error_code says how, and the call returned the error.
pub const MLXRT_STOPPED_ERROR: i32 = 11;

/// What mlxrt_request_next found: an event.
pub const MLXRT_NEXT_EVENT: i32 = 0;
/// Nothing yet.
pub const MLXRT_NEXT_PENDING: i32 = 1;
/// The request has ended and its events are taken.
pub const MLXRT_NEXT_DONE: i32 = 2;

/// Elements of tensors: 32-bit floats.
pub const MLXRT_DTYPE_F32: i32 = 1;
/// 16-bit floats.
pub const MLXRT_DTYPE_F16: i32 = 2;
/// bfloat16.
pub const MLXRT_DTYPE_BF16: i32 = 3;

/// Kinds of adapters: y = base(x) + scale * ((x A) B).
pub const MLXRT_LORA: i32 = 0;
/// The same, each row of the adapted weight brought to a learned length.
pub const MLXRT_DORA: i32 = 1;

/// Adam with decoupled weight decay.
pub const MLXRT_OPTIMIZER_ADAMW: i32 = 0;
/// Adam.
pub const MLXRT_OPTIMIZER_ADAM: i32 = 1;
/// Gradient descent without momentum.
pub const MLXRT_OPTIMIZER_SGD: i32 = 2;
/// The learning rate stays.
pub const MLXRT_SCHEDULE_CONSTANT: i32 = 0;
/// It falls to 0 along half a cosine.
pub const MLXRT_SCHEDULE_COSINE: i32 = 1;
/// It falls to 0 in even steps.
pub const MLXRT_SCHEDULE_LINEAR: i32 = 2;

/// mlxrt_train_options: train and valid are paths of files, not JSONL text.
pub const MLXRT_TRAIN_PATHS: u32 = 1u32;
/// Only answers are trained, not prompts: of messages the last one.
pub const MLXRT_TRAIN_MASK_PROMPT: u32 = 2u32;
/// Gradient checkpointing: less memory, more computing.
pub const MLXRT_TRAIN_CHECKPOINT: u32 = 4u32;

/// mlxrt_embed_options: what the model's folder says; else the last token, of an encoder the mean.
pub const MLXRT_POOLING_MODEL: i32 = 0;
/// The mean of all tokens' last hidden states, special ones included.
pub const MLXRT_POOLING_MEAN: i32 = 1;
/// The last token's.
pub const MLXRT_POOLING_LAST: i32 = 2;
/// The first token's.
pub const MLXRT_POOLING_CLS: i32 = 3;

/// mlxrt_embed_options: each embedding gets the length 1.
pub const MLXRT_EMBED_NORMALIZE: u32 = 1u32;

/// Any JSON object or list. The source is NULL.
pub const MLXRT_GRAMMAR_JSON: i32 = 1;
/// A JSON schema (drafts 4 to 2020-12).
pub const MLXRT_GRAMMAR_JSON_SCHEMA: i32 = 2;
/// A regular expression in the syntax of Rust's crate regex, which the whole answer matches.
pub const MLXRT_GRAMMAR_REGEX: i32 = 3;
/// A context-free grammar in Lark's syntax, from its rule start on.
pub const MLXRT_GRAMMAR_LARK: i32 = 4;
