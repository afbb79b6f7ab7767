/*
 * mlxrt: large language models on Apple's MLX, inside your own program.
 *
 * This file comes out of the library's source; do not edit it. It is plain C99 and C++17, for 64-bit targets.
 *
 * FIVE PROMISES
 *
 *  1. The process is yours. mlxrt never exits, aborts, prints, installs signal handlers, or changes the current folder,
 *     the locale or the environment (but for one variable that MLX reads on NVIDIA GPUs: mlxrt_init). Panics and C++ exceptions become an error value. When the process exits while an
 *     engine runs, the exit waits for its running step, at most ten seconds.
 *  2. Nothing you feed it can crash you. A hostile model folder, tokenizer, template or prompt, or a misused handle,
 *     gets a named error.
 *  3. Any thread, any order. Every function may be called from any thread; handles may be freed in any order; event
 *     and progress callbacks run on the thread of the blocking call; cancel works from anywhere and leaves the
 *     session usable.
 *  4. The ABI survives skew. Old programs run on new libraries; a newer program gets a clear refusal, never a shifted
 *     field.
 *  5. You can see and bound what it costs. Every result carries its metrics; memory has a budget and an estimate
 *     before anything is loaded.
 *
 * A complete program:
 *
 *   #include <mlxrt.h>
 *   #include <stdio.h>
 *
 *   static int32_t print(void *user_data, const mlxrt_event *event) {
 *     if (event->kind == MLXRT_EVENT_TEXT) fwrite(event->text, 1, event->text_len, (FILE *)user_data);
 *     return MLXRT_RETURN_CONTINUE;
 *   }
 *
 *   int main(int argc, char **argv) {
 *     mlxrt_model *model = NULL;
 *     mlxrt_session *session = NULL;
 *     mlxrt_input input = {0};
 *     mlxrt_result result = {0};
 *     mlxrt_error *error = mlxrt_model_load(argc > 1 ? argv[1] : "model", NULL, &model);
 *     input.struct_size = sizeof input;
 *     input.messages = "[{\"role\": \"user\", \"content\": \"Tell me a story.\"}]";
 *     input.messages_len = MLXRT_NTS;
 *     result.struct_size = sizeof result;
 *     if (!error) error = mlxrt_session_create(model, NULL, &session);
 *     if (!error) error = mlxrt_generate(session, &input, NULL, print, stdout, &result);
 *     if (error) fprintf(stderr, "%s\n", mlxrt_error_message(error));
 *     if (session) mlxrt_session_free(session);
 *     if (model) mlxrt_model_free(model);
 *     mlxrt_error_free(error);
 *     return result.stop == MLXRT_STOPPED_EOS ? 0 : 1;
 *   }
 *
 * CONVENTIONS
 *
 * Errors. A function that can fail returns an mlxrt_error: NULL is success. It holds a code (MLXRT_E_*) and one
 * sentence that names the file, key or argument; it is yours to free and may be read on any thread. Outputs are
 * written on success only; on failure, outputs that are pointers are set to NULL. One exception: an mlxrt_result is
 * filled either way. To ignore an error: mlxrt_error_free(mlxrt_...(...)).
 *
 * Handles (mlxrt_model, mlxrt_session, ...) are ids in the shape of pointers: pass them around, never dereference
 * them. A handle that is NULL, freed, foreign or of the wrong type gives MLXRT_E_INVALID_HANDLE; a free function that
 * gets one logs it and does nothing. Objects are counted inside: what still needs another keeps it alive. Freeing a
 * session ends what runs on it as cancelled (a result, not an error). mlxrt_free and mlxrt_error_free take real
 * pointers, which are not checked.
 *
 * Ownership. What you pass by const pointer is copied during the call. Buffers that come out are yours: mlxrt_free.
 *
 * Structs go by pointer and start with struct_size. Set all to zero, then struct_size = sizeof(the struct), then what
 * you want to change. As options, NULL means all defaults, and zero means the default of each field. Flags, kinds and
 * fields that the library does not know give MLXRT_E_UNSUPPORTED. As outputs, only struct_size is read; the library
 * fills what both sides know, zeroes the rest, and sets struct_size to what it filled. In structs that the library
 * hands out (events), struct_size is the library's: ask MLXRT_HAS(event, field) before you use a field that came with
 * a later version. Ignore event kinds, stop reasons, codes and JSON keys that you do not know: later versions add
 * some.
 *
 * Text that goes in is UTF-8: a pointer and a length in bytes, or MLXRT_NTS as the length where it is NUL-terminated.
 * An array of lengths may be NULL: all are NUL-terminated. Paths and names are NUL-terminated. Text that comes out is
 * UTF-8 with a length and a NUL behind it; where its length goes may be NULL. JSON is used where the vocabulary is
 * open.
 *
 * Timeouts are in milliseconds. As an argument, 0 does not wait and MLXRT_FOREVER waits without a limit. As
 * timeout_ms in options, 0 is no limit; it covers queueing, the work on the input and callbacks, and not the time of a suspension.
 *
 * Callbacks get your user_data first. Event and progress callbacks run on the thread of the blocking call and return
 * MLXRT_RETURN_CONTINUE or MLXRT_RETURN_STOP. Inside one, queries, cancel, free and submit work; blocking calls on any
 * handle, shutdown, suspend and resume give MLXRT_E_REENTRANT. Log and notify callbacks run on any thread, concurrently: inside a log
 * function only error, free, version and cancel functions may be called, and notify only signals something. When a
 * blocking call has returned, none of its callbacks runs any more. A callback must not throw, longjmp or unwind.
 *
 * Threads. A call needs at most 192 KB of its thread's stack, callbacks and signal handlers not counted: give a thread
 * 256 KB. Whatever a thread's floating-point control is (traps, rounding, flushing), inside the library it is the default
 * one, and the thread's own again in callbacks and when the call returns; threads of the library start with the default.
 * pthread_cancel is held off inside the library, callbacks included: a cancel that is pending ends the thread at its next
 * cancellation point after the call. A thread that calls the library must not be cancelled asynchronously
 * (PTHREAD_CANCEL_ASYNCHRONOUS), and a callback must not end its thread (pthread_exit).
 *
 * Signals. mlxrt_session_cancel and mlxrt_request_cancel are async-signal-safe: they may be called from a signal handler,
 * also one that interrupted the library. No other function may be: set a flag, write to a pipe, or return
 * MLXRT_RETURN_STOP from the next callback.
 *
 * The exit. Once the process exits, functions that return an error give MLXRT_E_CANCELLED (or still work, on threads that
 * run while the engine does): in a handler of atexit, in destructors of static objects, and in threads that still run.
 * Functions that free may be called there, and cancel too.
 *
 * The process. Init and suspend are counted and belong to all users of the library in the process, as do the log and
 * the memory limits: the last one to set them wins. After a fork only the parent can use the library.
 *
 * Limits. One text or array that goes in has at most 1 GB, and where less is taken, the field or the function says how much;
 * files have limits too (mlxrt_model_load). What is over one is refused by name before the work that it bounds. SECURITY.md has
 * a table of all of them.
 *
 * Busy. A session does one blocking call at a time: a second one gets MLXRT_E_BUSY at once. Submitting queues instead.
 *
 * Every function says at its end: Threads (from which it may be called), Blocks (what it waits for), Errors (the
 * likely codes; INVALID_ARGUMENT, INVALID_HANDLE, REENTRANT, FORKED and INTERNAL are possible wherever an error is
 * returned) and Owns (who frees what).
 */

#ifndef MLXRT_H
#define MLXRT_H

#include <stddef.h>
#include <stdint.h>

/* Says of every pointer whether it may be NULL, where the compiler knows the words. */
#if defined(__clang__)
#define MLXRT_NULLABLE _Nullable
#define MLXRT_NONNULL _Nonnull
#pragma clang diagnostic push
#pragma clang diagnostic ignored "-Wnullability-extension"
#else
#define MLXRT_NULLABLE
#define MLXRT_NONNULL
#endif

/* An error that nobody looks at is lost, and leaks. */
#if defined(__GNUC__)
#define MLXRT_MUST_USE __attribute__((warn_unused_result))
#else
#define MLXRT_MUST_USE
#endif

/** As a length: the text is NUL-terminated. */
#define MLXRT_NTS ((size_t)-1)

/** Does a struct that the library handed out have this field? */
#define MLXRT_HAS(p, field) ((size_t)((const char *)&(p)->field - (const char *)(p)) + sizeof((p)->field) <= (p)->struct_size)

/** The version of this surface. It rises with every release that adds a function. */
#define MLXRT_ABI 1u

/** For every timeout argument: wait without a limit. 0 does not wait at all. */
#define MLXRT_FOREVER 4294967295u

/** No error; what mlxrt_error_code gives for NULL. */
#define MLXRT_OK 0

/** An argument is wrong; the message names it, and the fix where there is one. */
#define MLXRT_E_INVALID_ARGUMENT 1
/** A handle is NULL, freed, of another type or not from this library. */
#define MLXRT_E_INVALID_HANDLE 2
/** A file, folder or named thing does not exist. */
#define MLXRT_E_NOT_FOUND 3
/** A file exists and cannot be read or written. */
#define MLXRT_E_IO 4
/** A model folder is damaged or contradicts itself. */
#define MLXRT_E_BAD_MODEL 5
/** Two things are valid, but not together. */
#define MLXRT_E_INCOMPATIBLE 6
/** Valid perhaps, but not known to this version of the library. */
#define MLXRT_E_UNSUPPORTED 7
/** Memory, or the budget set for it, does not suffice. */
#define MLXRT_E_OUT_OF_MEMORY 8
/** The prompt does not fit into the session's context. */
#define MLXRT_E_CONTEXT_FULL 9
/** Something else uses the object just now; try again later. */
#define MLXRT_E_BUSY 10
/** The call was ended by a cancel, a callback or the free of its object. */
#define MLXRT_E_CANCELLED 11
/** The time given was not enough. */
#define MLXRT_E_TIMEOUT 12
/** The library is suspended and the call needs the device. */
#define MLXRT_E_SUSPENDED 13
/** The device or its driver failed. */
#define MLXRT_E_DEVICE 14
/** A file that belongs to the library was not found. */
#define MLXRT_E_RESOURCES 15
/** A grammar cannot be compiled. */
#define MLXRT_E_BAD_GRAMMAR 16
/** The function may not be called from inside this callback. */
#define MLXRT_E_REENTRANT 17
/** The process has forked since its first call; only the parent may use the library. */
#define MLXRT_E_FORKED 18
/** A bug in the library, caught; the message says where. */
#define MLXRT_E_INTERNAL 19

/** The GPU where there is one, else the CPU. */
#define MLXRT_DEVICE_AUTO 0
/** The CPU. */
#define MLXRT_DEVICE_CPU 1
/** The GPU. */
#define MLXRT_DEVICE_GPU 2

/** Something failed. */
#define MLXRT_LOG_ERROR 1
/** Something is odd, and the library went on. */
#define MLXRT_LOG_WARN 2
/** What an operator wants to know. */
#define MLXRT_LOG_INFO 3
/** What a developer wants to know. */
#define MLXRT_LOG_DEBUG 4

/** An event or progress callback returns this to go on. */
#define MLXRT_RETURN_CONTINUE 0
/** An event or progress callback returns this to end the call. */
#define MLXRT_RETURN_STOP 1

/** mlxrt_shutdown: also end what other users of the library in this process still hold. */
#define MLXRT_SHUTDOWN_FORCE 1u

/** mlxrt_load_options: the folder's files may be links to files outside it, such as weights in a store. */
#define MLXRT_LOAD_FOLLOW_LINKS 1u

/** mlxrt_tokenize: add what the tokenizer's post-processor adds (BOS, EOS). */
#define MLXRT_TOKENIZE_ADD_SPECIAL 1u
/** mlxrt_tokenize: special tokens written in the text, such as <|im_start|>, are just text. */
#define MLXRT_TOKENIZE_SPECIAL_AS_TEXT 2u

/** mlxrt_detokenize: leave special tokens out of the text. */
#define MLXRT_DETOKENIZE_SKIP_SPECIAL 1u

/** Text at token 0 gets no BOS. Without this it gets the tokenizer's, unless it is there. */
#define MLXRT_INPUT_NO_BOS 1u
/** Text: special tokens are not recognised. */
#define MLXRT_INPUT_SPECIAL_AS_TEXT 2u
/**
 * Messages: special tokens inside message content are recognised. By default they never are, so content
 * cannot forge a turn.
 */
#define MLXRT_INPUT_TRUST_CONTENT 4u
/** Messages: do not open the assistant's turn. */
#define MLXRT_INPUT_NO_GENERATION_PROMPT 8u
/** Messages: continue the last message, which must be the assistant's. */
#define MLXRT_INPUT_CONTINUE_LAST 16u

/** Always the most likely token. */
#define MLXRT_GEN_GREEDY 1u
/** Do not stop at an end-of-sequence token. */
#define MLXRT_GEN_IGNORE_EOS 2u
/** Events without text, all of kind MLXRT_EVENT_TEXT; stop strings are not looked for. */
#define MLXRT_GEN_TOKENS_ONLY 4u
/** Take the input in and generate nothing. */
#define MLXRT_GEN_PREFILL_ONLY 8u
/** Reuse nothing that was computed before, by this session or by another one: every token of the prompt is computed now. */
#define MLXRT_GEN_NO_PREFIX_CACHE 16u
/** Zeros mean neutral (temperature 1), not what the model's generation_config.json says. */
#define MLXRT_GEN_NO_MODEL_DEFAULTS 32u
/** Log-probabilities of the model's own distribution: before penalties, bias, temperature and masks. */
#define MLXRT_GEN_LOGPROBS 64u
/** No channels: everything is an event of text, markers included, thinking_tokens is 0, and thinking has no end forced. */
#define MLXRT_GEN_RAW_TEXT 128u
/**
 * With tools: a call's arguments obey the schema of its tool, by a grammar that begins at the call's marker. A schema that
 * cannot be followed in the form in which the model writes its calls is MLXRT_E_BAD_GRAMMAR, and calls of which no grammar is
 * known are MLXRT_E_UNSUPPORTED. A call of a tool that is not there is text. Not together with a grammar.
 */
#define MLXRT_GEN_STRICT_TOOLS 256u
/** MLXRT_EVENT_TOOL_DELTA while a call's arguments come. */
#define MLXRT_GEN_TOOL_DELTAS 512u

/** The input is being taken in: done of total tokens. */
#define MLXRT_EVENT_PROGRESS 1
/**
 * A piece of the answer. The markers around thinking and calls are no part of any text, nor is white space next to them, up to
 * 16 bytes; their tokens come with what they belong to, or with an empty text.
 */
#define MLXRT_EVENT_TEXT 2
/** A piece of the model's thinking. It begins at once where the prompt has opened it. */
#define MLXRT_EVENT_THINKING 3
/**
 * A call of a tool that is complete: the text is one {"id","name","arguments":{...}}, the tokens are those of the whole
 * call. The id is the model's, or else nine letters and digits. What does not parse, is not ended, or is longer than 1 MB
 * arrives as text, or as thinking where the model was thinking.
 */
#define MLXRT_EVENT_TOOL_CALL 4
/**
 * With MLXRT_GEN_TOOL_DELTAS, a piece of a call that is not complete: the text is {"index","arguments"}, in the first event of a
 * call {"index","id","name","arguments"}. index counts the answer's calls from 0; arguments is a piece of the text of their JSON,
 * and all pieces together are that text. It has no tokens: these come with MLXRT_EVENT_TOOL_CALL, which follows with the same
 * id. Where text follows in its place, it was no call, and what was told of it is void. How large the pieces are is up to the
 * family: arguments of JSON come as they are generated, tagged ones one by one, all others at once.
 */
#define MLXRT_EVENT_TOOL_DELTA 5

/** The model ended its answer. */
#define MLXRT_STOPPED_EOS 1
/** A stop string appeared; stop_index says which. */
#define MLXRT_STOPPED_STRING 2
/** A stop token appeared; stop_index says which. */
#define MLXRT_STOPPED_TOKEN 3
/** max_tokens were generated. */
#define MLXRT_STOPPED_LENGTH 4
/** The session's context is full. */
#define MLXRT_STOPPED_CONTEXT 5
/** The event callback asked for it. */
#define MLXRT_STOPPED_CALLBACK 6
/** A cancel, the free of the session, or a forced shutdown. */
#define MLXRT_STOPPED_CANCELLED 7
/** timeout_ms passed. */
#define MLXRT_STOPPED_TIMEOUT 8
/** The model ended its answer, with at least one call of a tool in it, and waits for what they give. */
#define MLXRT_STOPPED_TOOL_CALL 9
/** The grammar allows nothing more. */
#define MLXRT_STOPPED_GRAMMAR 10
/** The call failed; error_code says how, and the call returned the error. */
#define MLXRT_STOPPED_ERROR 11

/** What mlxrt_request_next found: an event. */
#define MLXRT_NEXT_EVENT 0
/** Nothing yet. */
#define MLXRT_NEXT_PENDING 1
/** The request has ended and its events are taken. */
#define MLXRT_NEXT_DONE 2

/** Elements of tensors: 32-bit floats. */
#define MLXRT_DTYPE_F32 1
/** 16-bit floats. */
#define MLXRT_DTYPE_F16 2
/** bfloat16. */
#define MLXRT_DTYPE_BF16 3

/** Kinds of adapters: y = base(x) + scale * ((x A) B). */
#define MLXRT_LORA 0

/** The same, each row of the adapted weight brought to a learned length. */
#define MLXRT_DORA 1

/** Adam with decoupled weight decay. */
#define MLXRT_OPTIMIZER_ADAMW 0
/** Adam. */
#define MLXRT_OPTIMIZER_ADAM 1
/** Gradient descent without momentum. */
#define MLXRT_OPTIMIZER_SGD 2

/** The learning rate stays. */
#define MLXRT_SCHEDULE_CONSTANT 0
/** It falls to 0 along half a cosine. */
#define MLXRT_SCHEDULE_COSINE 1
/** It falls to 0 in even steps. */
#define MLXRT_SCHEDULE_LINEAR 2

/** mlxrt_train_options: train and valid are paths of files, not JSONL text. */
#define MLXRT_TRAIN_PATHS 1u
/** Only answers are trained, not prompts: of messages the last one. */
#define MLXRT_TRAIN_MASK_PROMPT 2u
/** Gradient checkpointing: less memory, more computing. */
#define MLXRT_TRAIN_CHECKPOINT 4u

/** mlxrt_embed_options: what the model's folder says; else the last token, of an encoder the mean. */
#define MLXRT_POOLING_MODEL 0
/** The mean of all tokens' last hidden states, special ones included. */
#define MLXRT_POOLING_MEAN 1
/** The last token's. */
#define MLXRT_POOLING_LAST 2
/** The first token's. */
#define MLXRT_POOLING_CLS 3

/** mlxrt_embed_options: each embedding gets the length 1. */
#define MLXRT_EMBED_NORMALIZE 1u

/** Any JSON object or list. The source is NULL. */
#define MLXRT_GRAMMAR_JSON 1
/** A JSON schema (drafts 4 to 2020-12). */
#define MLXRT_GRAMMAR_JSON_SCHEMA 2
/** A regular expression in the syntax of Rust's crate regex, which the whole answer matches. */
#define MLXRT_GRAMMAR_REGEX 3
/** A context-free grammar in Lark's syntax, from its rule start on. */
#define MLXRT_GRAMMAR_LARK 4

/**
 * Low-rank changes beside one model's weights. It is an id in the shape of a pointer: never dereference it. Any
 * thread may use it, several at once.
 */
typedef struct mlxrt_adapter mlxrt_adapter;

/** The functions of this header as a table, for a program that loads the library while it runs: mlxrt_get_api. */
typedef struct mlxrt_api mlxrt_api;

/**
 * What went wrong: a code and one sentence, in one line of at most 1,900 bytes without control characters. It belongs to the caller, may be read on any thread, several at
 * once, and lives until mlxrt_error_free.
 */
typedef struct mlxrt_error mlxrt_error;

/**
 * A compiled grammar for answers of one model. It is an id in the shape of a pointer: never dereference it. Any
 * thread may use it, any number of requests at once.
 */
typedef struct mlxrt_grammar mlxrt_grammar;

/**
 * A loaded model. It is an id in the shape of a pointer: never dereference it. Any thread may use it, several
 * at once. Sessions keep what they need of it alive, so it may be freed in any order.
 */
typedef struct mlxrt_model mlxrt_model;

/**
 * A request that was submitted. It is an id in the shape of a pointer: never dereference it. Any thread may use
 * it, several at once.
 */
typedef struct mlxrt_request mlxrt_request;

/**
 * A conversation or text in progress on one model. It is an id in the shape of a pointer: never dereference
 * it. Any thread may use it; it does one blocking call at a time, a second one gets MLXRT_E_BUSY.
 */
typedef struct mlxrt_session mlxrt_session;

/** How the library starts. All zero behind struct_size: the defaults. */
typedef struct mlxrt_init_options {
  /** sizeof(mlxrt_init_options). */
  uint32_t struct_size;
  /** 0; none are defined. */
  uint32_t flags;
  /** MLXRT_DEVICE_*. */
  int32_t device;
  /** The most threads that compute on the CPU device, at most 1024; 0 = one per physical core. */
  uint32_t cpu_threads;
  /** The folder in which mlx.metallib lies; NULL = beside the library. */
  const char *MLXRT_NULLABLE resource_dir;
  /**
   * Bytes the library may use: what would pass it (a load, the next part of a prompt, a longer answer) is refused
   * with MLXRT_E_OUT_OF_MEMORY before it is allocated, and near it freed buffers are no longer kept; 0 = default,
   * UINT64_MAX = unlimited, 1 = none.
   */
  uint64_t memory_limit;
  /**
   * Bytes of freed buffers kept for reuse, and of keys and values kept of sessions that are gone, each; 0 = default (256 MB, and an
   * eighth of the memory limit), UINT64_MAX = unlimited, 1 = none.
   */
  uint64_t cache_limit;
  /** Bytes kept resident for the GPU; 0 = default, UINT64_MAX = unlimited, 1 = none. */
  uint64_t wired_limit;
} mlxrt_init_options;

/**
 * Receives one log line (UTF-8, without a newline, a NUL behind it), on any thread, concurrently. Inside it
 * only error, free, version and cancel functions may be called. It must not throw or longjmp.
 */
typedef void (*mlxrt_log_fn)(
    void *MLXRT_NULLABLE user_data, int32_t level, const char *MLXRT_NONNULL message, size_t len);

/** How much memory may be used, for the whole process. Each limit is as in mlxrt_init_options, but 0 = unchanged. */
typedef struct mlxrt_memory_limits {
  /** sizeof(mlxrt_memory_limits). */
  uint32_t struct_size;
  /** 0; none are defined. */
  uint32_t flags;
  /** Bytes the library may use; 0 = unchanged, UINT64_MAX = unlimited, 1 = none. */
  uint64_t memory_limit;
  /**
   * Bytes of freed buffers kept for reuse, and of keys and values kept of sessions that are gone, each; 0 = unchanged,
   * UINT64_MAX = unlimited, 1 = none.
   */
  uint64_t cache_limit;
  /** Bytes kept resident for the GPU; 0 = unchanged, UINT64_MAX = unlimited, 1 = none. */
  uint64_t wired_limit;
} mlxrt_memory_limits;

/** What the memory is used for, in bytes. */
typedef struct mlxrt_memory {
  /** sizeof(mlxrt_memory) before the call; the bytes that were filled after it. */
  uint32_t struct_size;
  /** 0; none are defined. */
  uint32_t flags;
  /** In use now. */
  uint64_t active_bytes;
  /** Freed buffers kept for reuse. */
  uint64_t cache_bytes;
  /** The most that was in use at once. */
  uint64_t peak_bytes;
  /** Of active_bytes: weights of models. */
  uint64_t weight_bytes;
  /** Of active_bytes: keys and values of sessions. What several share counts in each. */
  uint64_t kv_bytes;
  /** What the library may use; UINT64_MAX = unlimited. */
  uint64_t limit_bytes;
} mlxrt_memory;

/**
 * Hears how far a long call is: done of total (bytes while loading; 0 done while a long vocabulary is built), on the
 * thread of that call. Returns
 * MLXRT_RETURN_CONTINUE, or MLXRT_RETURN_STOP to end the call with MLXRT_E_CANCELLED. It must not throw or
 * longjmp.
 */
typedef int32_t (*mlxrt_progress_fn)(void *MLXRT_NULLABLE user_data, uint64_t done, uint64_t total);

/** How a model is loaded. All zero behind struct_size: the defaults. */
typedef struct mlxrt_load_options {
  /** sizeof(mlxrt_load_options). */
  uint32_t struct_size;
  /** MLXRT_LOAD_*. */
  uint32_t flags;
  /** The most tokens a session may ask for; 0 = the model's own limit. */
  uint32_t context;
  /** Milliseconds after which loading ends with MLXRT_E_TIMEOUT; 0 = none. */
  uint32_t timeout_ms;
  /** Hears the bytes read of the bytes to read; NULL = nobody does. */
  mlxrt_progress_fn MLXRT_NULLABLE progress;
  /** Handed to progress. */
  void *MLXRT_NULLABLE progress_data;
  /**
   * The folder or id of a draft model: a smaller one with the same tokens, which guesses for this one
   * (options.draft_tokens) and is loaded and freed with it. NULL = none.
   */
  const char *MLXRT_NULLABLE draft_path;
} mlxrt_load_options;

/** What a session is like. All zero behind struct_size: the defaults. */
typedef struct mlxrt_session_options {
  /** sizeof(mlxrt_session_options). */
  uint32_t struct_size;
  /** 0; none are defined. */
  uint32_t flags;
  /** The most tokens the session holds; 0 = the model's limit. */
  uint32_t context;
  /** Keep keys and values of only so many of the latest tokens; 0 = of all. */
  uint32_t window;
  /** With window: the first tokens that are never dropped; 0 = 4, -1 = none. */
  int32_t keep;
  /** Bits per cached key and value, 4 or 8, with a scale and a bias for each group of them; 0 = unquantised. */
  uint32_t kv_bits;
  /**
   * With kv_bits: values per quantisation group, 32, 64 or 128, of which a head must be a multiple; 0 = 64, or 32 where
   * that does not fit.
   */
  uint32_t kv_group_size;
  /** 0. */
  uint32_t reserved;
  /** Bytes of keys and values that this session may use; 0 = what the budget has left. */
  uint64_t kv_limit;
} mlxrt_session_options;

/** For calls that read, write or compute for a while. All zero behind struct_size: the defaults. */
typedef struct mlxrt_call_options {
  /** sizeof(mlxrt_call_options). */
  uint32_t struct_size;
  /** 0; none are defined. */
  uint32_t flags;
  /** Milliseconds for the whole call; 0 = none. The end is MLXRT_E_TIMEOUT. */
  uint32_t timeout_ms;
  /** 0. */
  uint32_t reserved;
  /** Called with bytes done and in all, or of a score with tokens; NULL = nobody is. */
  mlxrt_progress_fn MLXRT_NULLABLE progress;
  /** Handed to progress. */
  void *MLXRT_NULLABLE progress_data;
} mlxrt_call_options;

/** What goes into a session: exactly one of text, tokens and messages. Lengths are in bytes, or MLXRT_NTS. */
typedef struct mlxrt_input {
  /** sizeof(mlxrt_input). */
  uint32_t struct_size;
  /** MLXRT_INPUT_*. */
  uint32_t flags;
  /** Text that continues the session; NULL = none. */
  const char *MLXRT_NULLABLE text;
  /** Bytes of text, up to 64 MB. */
  size_t text_len;
  /** Token ids that continue the session; NULL = none. */
  const int32_t *MLXRT_NULLABLE tokens;
  /** How many tokens. */
  size_t token_count;
  /**
   * A JSON array of at most 100,000 messages as OpenAI's chat API has them: the WHOLE history. What the session already holds
   * of it is reused. NULL = none.
   */
  const char *MLXRT_NULLABLE messages;
  /** Bytes of messages, up to 256 MB. */
  size_t messages_len;
  /** With messages: a JSON array of tools; NULL = none. */
  const char *MLXRT_NULLABLE tools;
  /** Bytes of tools, up to 64 MB. */
  size_t tools_len;
  /** With messages: a JSON object for the chat template, such as {"enable_thinking":false}; NULL = none. */
  const char *MLXRT_NULLABLE template_args;
  /** Bytes of template_args, up to 64 MB. */
  size_t template_args_len;
  /**
   * With messages and tools, as JSON: "auto", the model calls what it likes; "none", nothing, and the chat template is shown
   * no tools; "required", the answer is a call, perhaps behind thinking, and then what the model likes; {"name": …}, a call
   * of that tool. The forms of OpenAI's API are taken too. Of a required call the arguments obey the schema where it can be
   * followed (and with MLXRT_GEN_STRICT_TOOLS in any case). NULL = "auto".
   */
  const char *MLXRT_NULLABLE tool_choice;
  /** Bytes of tool_choice, up to 64 KB. */
  size_t tool_choice_len;
} mlxrt_input;

/** How an adapter is made. All zero behind struct_size: the defaults. */
typedef struct mlxrt_adapter_options {
  /** sizeof(mlxrt_adapter_options). */
  uint32_t struct_size;
  /** 0; none are defined. */
  uint32_t flags;
  /** MLXRT_LORA or MLXRT_DORA. */
  int32_t kind;
  /** Columns of A and rows of B, up to 4,096; 0 = 8. */
  uint32_t rank;
  /** What (x A) B is multiplied by, up to 1e30 (with F16 up to 65504) in size; 0 = 20. */
  float scale;
  /** The share of the input's elements that training leaves out, below 1. */
  float dropout;
  /** The last so many blocks; 0 = all. */
  int32_t layers;
  /** MLXRT_DTYPE_F32, _F16 or _BF16; 0 = F32. */
  int32_t dtype;
  /** The same seed gives the same A. */
  uint64_t seed;
  /** Names of modules; NULL = q_proj and v_proj. */
  const char *MLXRT_NONNULL const *MLXRT_NULLABLE keys;
  /** How many keys. */
  size_t key_count;
} mlxrt_adapter_options;

/** A tensor that comes out: F32, row-major. */
typedef struct mlxrt_tensor {
  /** sizeof(mlxrt_tensor) before the call; the bytes that were filled after it. */
  uint32_t struct_size;
  /** MLXRT_DTYPE_F32. */
  int32_t dtype;
  /** How many dimensions. */
  uint32_t rank;
  /** 0. */
  uint32_t reserved;
  /** The first rank of them count, the rest are 0. */
  uint64_t shape[8];
  /** Yours: mlxrt_free. */
  void *MLXRT_NULLABLE data;
  /** Bytes of data. */
  uint64_t bytes;
} mlxrt_tensor;

/** A tensor that goes in. */
typedef struct mlxrt_tensor_view {
  /** sizeof(mlxrt_tensor_view). */
  uint32_t struct_size;
  /** MLXRT_DTYPE_*. */
  int32_t dtype;
  /** How many dimensions, at most 8. */
  uint32_t rank;
  /** 0. */
  uint32_t reserved;
  /** The first rank of them count. */
  uint64_t shape[8];
  /** Row-major; any alignment. */
  const void *MLXRT_NULLABLE data;
  /** Bytes of data: the product of the dimensions times the size of an element. */
  uint64_t bytes;
} mlxrt_tensor_view;

/** How an adapter is trained. All zero behind struct_size, train and train_len: mlx-lm's defaults, with AdamW. */
typedef struct mlxrt_train_options {
  /** sizeof(mlxrt_train_options). */
  uint32_t struct_size;
  /** MLXRT_TRAIN_*. */
  uint32_t flags;
  /**
   * JSONL, an object on each line: {"messages": [...], "tools": [...]}, {"prompt": "...", "completion": "..."} or
   * {"text": "..."}; with MLXRT_TRAIN_PATHS the path of a file of that.
   */
  const char *MLXRT_NULLABLE train;
  /** Bytes of train, up to 1 GB; a file of that has no more either. */
  size_t train_len;
  /** The same for validation; NULL = none. */
  const char *MLXRT_NULLABLE valid;
  /** Bytes of valid. */
  size_t valid_len;
  /** Batches to train; 0 = 1000. */
  uint32_t steps;
  /** Samples in a batch; 0 = 4. */
  uint32_t batch_size;
  /** The most tokens of a sample, the rest is cut; 0 = 2048. */
  uint32_t max_tokens;
  /** Steps whose gradients are averaged for one update; 0 = 1. */
  uint32_t accumulate;
  /** Steps between events; 0 = 10. */
  uint32_t report_every;
  /** Steps between validations, besides those at the first and the last step; 0 = 200. */
  uint32_t validate_every;
  /** Steps between saves, besides the one at the end; 0 = 100. */
  uint32_t save_every;
  /** Updates over which the learning rate rises from 0. */
  uint32_t warmup;
  /** The highest learning rate; 0 = 1e-5. */
  float learning_rate;
  /** 0 = 0.01 for AdamW and none for SGD; -1 = none. */
  float weight_decay;
  /** MLXRT_OPTIMIZER_*. */
  int32_t optimizer;
  /** MLXRT_SCHEDULE_*. */
  int32_t schedule;
  /** Of the order of batches and of dropout: the same seed gives the same training. */
  uint64_t seed;
  /** A folder that mlxrt_adapter_save writes; NULL = no saves. */
  const char *MLXRT_NULLABLE save_path;
} mlxrt_train_options;

/** What happened in a training since the event before. */
typedef struct mlxrt_train_event {
  /** Bytes of the struct that the library filled. */
  uint32_t struct_size;
  /** 0. */
  uint32_t flags;
  /** Steps done. */
  uint64_t step;
  /** Steps to do. */
  uint64_t steps;
  /** Tokens trained since the start. */
  uint64_t trained_tokens;
  /** Samples of train that are longer than max_tokens. */
  uint64_t truncated_samples;
  /** The most memory that MLX used since the start, in bytes. */
  uint64_t peak_bytes;
  /** The mean of the steps. */
  double loss;
  /** The loss on valid before this step; NaN when it was not measured. */
  double validation_loss;
  /** Tokens trained a second, without the time of validations, saves and callbacks. */
  double tokens_per_second;
  /** Of the last update. */
  double learning_rate;
} mlxrt_train_event;

/**
 * Hears how a training goes, on the thread of mlxrt_train. The event lives until the callback returns. Inside it, queries,
 * cancel and free functions work; blocking calls give MLXRT_E_REENTRANT. Returns MLXRT_RETURN_CONTINUE, or
 * MLXRT_RETURN_STOP to end the training with what it has. It must not throw or longjmp.
 */
typedef int32_t (*mlxrt_train_fn)(
    void *MLXRT_NULLABLE user_data, const mlxrt_train_event *MLXRT_NONNULL event);

/** Where a session is. */
typedef struct mlxrt_session_state {
  /** sizeof(mlxrt_session_state) before the call; the bytes that were filled after it. */
  uint32_t struct_size;
  /** 0; none are defined. */
  uint32_t flags;
  /** Tokens that the session holds. */
  uint64_t tokens;
  /** The most tokens it can hold. */
  uint64_t context;
  /** Tokens whose keys and values are computed; after a cut until the next request also those that were cut. */
  uint64_t kv_tokens;
  /** Bytes of these keys and values, with those that other sessions share. */
  uint64_t kv_bytes;
  /** 1 while a call or request runs on it, else 0. */
  uint32_t busy;
  /** Adapters applied. */
  uint32_t adapters;
} mlxrt_session_state;

/**
 * Called on any thread, concurrently, when something became available. It may only signal something (an
 * event, a semaphore, a pipe) and must not throw or longjmp.
 */
typedef void (*mlxrt_notify_fn)(void *MLXRT_NULLABLE user_data);

/**
 * How to generate. All zero behind struct_size: the defaults, which are the model's own where its
 * generation_config.json has them (and neutral with MLXRT_GEN_NO_MODEL_DEFAULTS). NaN and infinities are
 * MLXRT_E_INVALID_ARGUMENT, but for -INFINITY as a bias.
 */
typedef struct mlxrt_generate_options {
  /** sizeof(mlxrt_generate_options). */
  uint32_t struct_size;
  /** MLXRT_GEN_*. */
  uint32_t flags;
  /** The most tokens to generate; 0 = until the model ends or the context is full. */
  uint32_t max_tokens;
  /**
   * Milliseconds for the whole call, queueing and callbacks included; 0 = none. The end is
   * MLXRT_STOPPED_TIMEOUT.
   */
  uint32_t timeout_ms;
  /** Greater than 0; 0 = the model's (greedy where the model does not ask for sampling). */
  float temperature;
  /** The smallest set of likely tokens with this probability, up to 1 = off; 0 = the model's, else off. */
  float top_p;
  /**
   * Tokens at least this share of the likeliest one's probability, up to 1; 0 = the model's, else off;
   * -1 = off.
   */
  float min_p;
  /** The so many likeliest tokens; 0 = the model's, else off; -1 = off. */
  int32_t top_k;
  /** Probability with which the likeliest tokens are left out, up to 1; 0 = the model's, else off; -1 = off. */
  float xtc_probability;
  /**
   * With xtc_probability: tokens above this probability are left out, but for the least likely of them; up to 0.5,
   * 0 = 0.1.
   */
  float xtc_threshold;
  /** Divides the logits of tokens seen, from 1e-6 to 1e6, 1 = off; 0 = the model's, else off. */
  float repetition_penalty;
  /** Taken from the logits of tokens seen, -2 to 2; 0 = off. */
  float presence_penalty;
  /** Taken from the logits of tokens seen, per occurrence, -2 to 2; 0 = off. */
  float frequency_penalty;
  /** How many of the latest tokens the penalties look at; 0 = 20, UINT32_MAX = all. */
  uint32_t penalty_window;
  /** The same seed gives the same text; 0 = a random one, which the result reports. */
  uint64_t seed;
  /** With MLXRT_GEN_LOGPROBS: likeliest alternatives reported per token; 0 = none. */
  uint32_t top_logprobs;
  /**
   * The most tokens of thinking in an answer; 0 = no limit, -1 = no thinking. Behind them the end of thinking is
   * generated, in the words of the chat template. With messages a template that has a variable for it is told:
   * enable_thinking or thinking (false for -1), thinking_budget; what template_args sets stays.
   */
  int32_t thinking_budget;
  /**
   * Strings that end the generation; none of their bytes is ever delivered. NULL = none. They are looked for in the text
   * of MLXRT_EVENT_TEXT alone, not across what is thought or called in between.
   */
  const char *MLXRT_NONNULL const *MLXRT_NULLABLE stop;
  /** Bytes of each stop string; NULL = all are NUL-terminated. */
  const size_t *MLXRT_NULLABLE stop_lens;
  /** How many stop strings, up to 64, of up to 4,096 bytes each. */
  size_t stop_count;
  /** Tokens that end the generation, besides the model's own; NULL = none. */
  const int32_t *MLXRT_NULLABLE stop_tokens;
  /** How many stop tokens, up to 4,096. */
  size_t stop_token_count;
  /** Tokens whose logits get bias_values added; NULL = none. */
  const int32_t *MLXRT_NULLABLE bias_tokens;
  /** What each of bias_tokens gets, added up where a token is named twice; -INFINITY, and what is -1e6 or less, bans it. */
  const float *MLXRT_NULLABLE bias_values;
  /** How many biases, up to 4,194,304. */
  size_t bias_count;
  /** What the answer must match; NULL = anything. A request keeps what it needs of it. */
  mlxrt_grammar *MLXRT_NULLABLE grammar;
  /** An event of progress every so many tokens taken in; 0 = none. */
  uint32_t progress_tokens;
  /**
   * Tokens that are guessed at a time, by the draft model, by a head of the model's own that predicts further tokens, or where
   * what came before may come again: they are computed together, and those that the model would have drawn itself are kept, so
   * the answer is the same. At most 14 are. 0 = as many as pay, which is found out while it runs, and on a GPU none without a
   * draft model or such a head; -1 = none.
   */
  int32_t draft_tokens;
  /** For requests that are submitted: called when events or the end become available; NULL = nobody is. */
  mlxrt_notify_fn MLXRT_NULLABLE notify;
  /** Handed to notify. */
  void *MLXRT_NULLABLE notify_data;
  /**
   * Higher first, 0 = usual. Where more requests want the device than it takes at once, and between prompts, the higher one
   * goes first; equals take turns, and a request that has had no turn for a second gets one whatever its priority, so
   * that nobody starves. A priority neither ends nor shortens what runs. Every value is legal.
   */
  int32_t priority;
  /** 0. */
  uint32_t reserved;
} mlxrt_generate_options;

/**
 * A piece of what a generation produces. struct_size is the library's: ask MLXRT_HAS for fields that later
 * versions added.
 */
typedef struct mlxrt_event {
  /** Bytes of the struct that the library filled. */
  uint32_t struct_size;
  /** MLXRT_EVENT_*; ignore values you do not know. */
  int32_t kind;
  /** Whole code points with a NUL behind them, never NULL; may hold U+0000. */
  const char *MLXRT_NONNULL text;
  /** Bytes of text. */
  size_t text_len;
  /** Exactly the tokens that this event completes; those of all events joined are all generated tokens. */
  const int32_t *MLXRT_NULLABLE tokens;
  /** How many tokens. */
  size_t token_count;
  /** With MLXRT_GEN_LOGPROBS: one for each token; else NULL. */
  const float *MLXRT_NULLABLE logprobs;
  /** With top_logprobs: token_count times top_count ids; else NULL. */
  const int32_t *MLXRT_NULLABLE top_tokens;
  /** The log-probabilities of top_tokens; else NULL. */
  const float *MLXRT_NULLABLE top_logprobs;
  /** Alternatives per token. */
  size_t top_count;
  /** MLXRT_EVENT_PROGRESS: tokens taken in. */
  uint64_t done;
  /** MLXRT_EVENT_PROGRESS: tokens to take in. */
  uint64_t total;
} mlxrt_event;

/**
 * Receives what a generation produces, on the thread of the blocking call. The event and all it points to
 * live until the callback returns. Inside it, queries, cancel and free functions work; blocking calls give
 * MLXRT_E_REENTRANT. Returns MLXRT_RETURN_CONTINUE or MLXRT_RETURN_STOP. It must not throw or longjmp.
 */
typedef int32_t (*mlxrt_event_fn)(void *MLXRT_NULLABLE user_data, const mlxrt_event *MLXRT_NONNULL event);

/** How a generation ended and what it cost. It is filled on failure too: then stop is MLXRT_STOPPED_ERROR. */
typedef struct mlxrt_result {
  /** sizeof(mlxrt_result) before the call; the bytes that were filled after it. */
  uint32_t struct_size;
  /** MLXRT_STOPPED_*; ignore values you do not know. */
  int32_t stop;
  /** Which stop string or stop token ended it; else 0. */
  uint32_t stop_index;
  /** With MLXRT_STOPPED_ERROR: MLXRT_E_*; else MLXRT_OK. */
  int32_t error_code;
  /** The seed that was used. */
  uint64_t seed;
  /** Tokens before the first generated one: what the session held, or the part of it that stays, and the input. */
  uint64_t prompt_tokens;
  /** Of prompt_tokens: those not computed now, since the session or a cache had them. */
  uint64_t cached_tokens;
  /** Tokens delivered, thinking included. */
  uint64_t generated_tokens;
  /** Of generated_tokens: those of thinking, its markers not counted. */
  uint64_t thinking_tokens;
  /** Tokens that were guessed (options.draft_tokens). */
  uint64_t drafted;
  /** Of drafted: those that were right. */
  uint64_t accepted;
  /** Nanoseconds from the call until the engine began. */
  uint64_t queue_ns;
  /** Nanoseconds in which the input was taken in. */
  uint64_t prefill_ns;
  /** Nanoseconds from the call until the first token; 0 = there was none. */
  uint64_t first_token_ns;
  /** Nanoseconds from the first token to the last one. */
  uint64_t decode_ns;
  /** Nanoseconds from the call to its end. */
  uint64_t total_ns;
  /** The most bytes in use at once during the call. */
  uint64_t peak_bytes;
  /** Bytes in use at its end. */
  uint64_t active_bytes;
  /** Bytes of the session's keys and values at its end. */
  uint64_t kv_bytes;
} mlxrt_result;

/** How texts become embeddings. All zero behind struct_size: as the model's folder says. */
typedef struct mlxrt_embed_options {
  /** sizeof(mlxrt_embed_options). */
  uint32_t struct_size;
  /** MLXRT_EMBED_*. */
  uint32_t flags;
  /** MLXRT_POOLING_*. */
  int32_t pooling;
  /** Milliseconds until it ends with TIMEOUT; 0 = none. */
  uint32_t timeout_ms;
  /** Called with the tokens that are done, and all of them; may be NULL. */
  mlxrt_progress_fn MLXRT_NULLABLE progress;
  /** For progress. */
  void *MLXRT_NULLABLE progress_data;
} mlxrt_embed_options;

/** Counters since the start, and the last request that ended. */
typedef struct mlxrt_metrics_data {
  /** sizeof(mlxrt_metrics_data) before the call; the bytes that were filled after it. */
  uint32_t struct_size;
  /** 0; none are defined. */
  uint32_t flags;
  /** Requests that were made, those that wait and those that were refused included. */
  uint64_t requests_started;
  /** Requests that have not ended: those that run now, and those that wait. */
  uint64_t requests_running;
  /** Requests that ended by themselves, by a limit or by a stop. */
  uint64_t requests_completed;
  /** Requests that were cancelled. */
  uint64_t requests_cancelled;
  /** Requests that ended with an error. */
  uint64_t requests_failed;
  /** Tokens of all inputs. */
  uint64_t prompt_tokens;
  /** Of prompt_tokens: those that did not have to be computed. */
  uint64_t cached_tokens;
  /** Tokens delivered. */
  uint64_t generated_tokens;
  /** Nanoseconds in which inputs were taken in. */
  uint64_t prefill_ns;
  /** Nanoseconds from first tokens to last ones. */
  uint64_t decode_ns;
  /** Bytes in use now. */
  uint64_t active_bytes;
  /** Bytes of freed buffers kept for reuse. */
  uint64_t cache_bytes;
  /** The most bytes that were in use at once. */
  uint64_t peak_bytes;
  /** Bytes of weights. */
  uint64_t weight_bytes;
  /** Bytes of keys and values. */
  uint64_t kv_bytes;
  /** prompt_tokens of the last request. */
  uint64_t last_prompt_tokens;
  /** cached_tokens of the last request. */
  uint64_t last_cached_tokens;
  /** generated_tokens of the last request. */
  uint64_t last_generated_tokens;
  /** prefill_ns of the last request. */
  uint64_t last_prefill_ns;
  /** first_token_ns of the last request. */
  uint64_t last_first_token_ns;
  /** decode_ns of the last request. */
  uint64_t last_decode_ns;
  /** total_ns of the last request. */
  uint64_t last_total_ns;
  /** peak_bytes of the last request. */
  uint64_t last_peak_bytes;
  /** Of requests_running: those that have not begun. */
  uint64_t requests_waiting;
  /** Nanoseconds from the calls of requests that have ended until the engine began them. */
  uint64_t queue_ns;
  /**
   * Passes through the model that computed next tokens. Sessions share them, so pass_rows / passes is how many shared
   * one.
   */
  uint64_t passes;
  /** Rows of these passes: one for each session whose next token was computed, without guesses and what a grammar forced. */
  uint64_t pass_rows;
} mlxrt_metrics_data;

/**
 * Every field has the name, the parameters and the meaning of a function below. The order never changes: later
 * versions add fields at the end, and give a const void * its function; until then it is NULL, the place of a
 * function that this version does not have.
 */
struct mlxrt_api {
  /** Bytes of the table that the library filled. */
  uint32_t struct_size;
  /** The library's MLXRT_ABI, which may be higher than the one asked for. */
  uint32_t abi;
  uint32_t (*MLXRT_NONNULL mlxrt_abi_version)(void);
  const char *MLXRT_NONNULL (*MLXRT_NONNULL mlxrt_version)(void);
  mlxrt_error *MLXRT_NULLABLE (*MLXRT_NONNULL mlxrt_init)(const mlxrt_init_options *MLXRT_NULLABLE options);
  mlxrt_error *MLXRT_NULLABLE (*MLXRT_NONNULL mlxrt_shutdown)(uint32_t flags, uint32_t timeout_ms);
  mlxrt_error *MLXRT_NULLABLE (*MLXRT_NONNULL mlxrt_suspend)(uint32_t timeout_ms);
  mlxrt_error *MLXRT_NULLABLE (*MLXRT_NONNULL mlxrt_resume)(void);
  mlxrt_error *MLXRT_NULLABLE (*MLXRT_NONNULL mlxrt_device_info)(
      char *MLXRT_NULLABLE *MLXRT_NONNULL json, size_t *MLXRT_NULLABLE len);
  mlxrt_error *MLXRT_NULLABLE (*MLXRT_NONNULL mlxrt_log_set)(
      int32_t level, mlxrt_log_fn MLXRT_NULLABLE fn, void *MLXRT_NULLABLE user_data);
  void (*MLXRT_NONNULL mlxrt_free)(void *MLXRT_NULLABLE buffer);
  int32_t (*MLXRT_NONNULL mlxrt_error_code)(const mlxrt_error *MLXRT_NULLABLE error);
  const char *MLXRT_NONNULL (*MLXRT_NONNULL mlxrt_error_message)(const mlxrt_error *MLXRT_NULLABLE error);
  void (*MLXRT_NONNULL mlxrt_error_free)(mlxrt_error *MLXRT_NULLABLE error);
  const char *MLXRT_NONNULL (*MLXRT_NONNULL mlxrt_code_name)(int32_t code);
  mlxrt_error *MLXRT_NULLABLE (*MLXRT_NONNULL mlxrt_memory_set)(
      const mlxrt_memory_limits *MLXRT_NULLABLE limits);
  mlxrt_error *MLXRT_NULLABLE (*MLXRT_NONNULL mlxrt_memory_get)(mlxrt_memory *MLXRT_NONNULL out);
  mlxrt_error *MLXRT_NULLABLE (*MLXRT_NONNULL mlxrt_memory_trim)(int32_t level);
  mlxrt_error *MLXRT_NULLABLE (*MLXRT_NONNULL mlxrt_model_inspect)(
      const char *MLXRT_NONNULL path, const mlxrt_load_options *MLXRT_NULLABLE load,
      const mlxrt_session_options *MLXRT_NULLABLE session, char *MLXRT_NULLABLE *MLXRT_NONNULL json,
      size_t *MLXRT_NULLABLE len);
  mlxrt_error *MLXRT_NULLABLE (*MLXRT_NONNULL mlxrt_model_load)(
      const char *MLXRT_NONNULL path, const mlxrt_load_options *MLXRT_NULLABLE options,
      mlxrt_model *MLXRT_NULLABLE *MLXRT_NONNULL out);
  mlxrt_error *MLXRT_NULLABLE (*MLXRT_NONNULL mlxrt_model_info)(
      const mlxrt_model *MLXRT_NONNULL model, char *MLXRT_NULLABLE *MLXRT_NONNULL json,
      size_t *MLXRT_NULLABLE len);
  mlxrt_error *MLXRT_NULLABLE (*MLXRT_NONNULL mlxrt_model_save)(
      mlxrt_model *MLXRT_NONNULL model, mlxrt_adapter *MLXRT_NONNULL const *MLXRT_NULLABLE adapters,
      const float *MLXRT_NULLABLE scales, size_t count, const char *MLXRT_NONNULL path,
      const mlxrt_call_options *MLXRT_NULLABLE options);
  void (*MLXRT_NONNULL mlxrt_model_free)(mlxrt_model *MLXRT_NULLABLE model);
  mlxrt_error *MLXRT_NULLABLE (*MLXRT_NONNULL mlxrt_tokenize)(
      const mlxrt_model *MLXRT_NONNULL model, const char *MLXRT_NULLABLE text, size_t len, uint32_t flags,
      int32_t *MLXRT_NULLABLE *MLXRT_NONNULL ids, size_t *MLXRT_NONNULL count);
  mlxrt_error *MLXRT_NULLABLE (*MLXRT_NONNULL mlxrt_detokenize)(
      const mlxrt_model *MLXRT_NONNULL model, const int32_t *MLXRT_NULLABLE ids, size_t count, uint32_t flags,
      char *MLXRT_NULLABLE *MLXRT_NONNULL text, size_t *MLXRT_NULLABLE len);
  mlxrt_error *MLXRT_NULLABLE (*MLXRT_NONNULL mlxrt_render)(
      const mlxrt_model *MLXRT_NONNULL model, const mlxrt_input *MLXRT_NONNULL input,
      char *MLXRT_NULLABLE *MLXRT_NONNULL text, size_t *MLXRT_NULLABLE len);
  mlxrt_error *MLXRT_NULLABLE (*MLXRT_NONNULL mlxrt_count_tokens)(
      const mlxrt_model *MLXRT_NONNULL model, const mlxrt_input *MLXRT_NONNULL input,
      int32_t *MLXRT_NULLABLE *MLXRT_NULLABLE ids, size_t *MLXRT_NONNULL count);
  mlxrt_error *MLXRT_NULLABLE (*MLXRT_NONNULL mlxrt_adapter_create)(
      mlxrt_model *MLXRT_NONNULL model, const mlxrt_adapter_options *MLXRT_NULLABLE options,
      mlxrt_adapter *MLXRT_NULLABLE *MLXRT_NONNULL out);
  mlxrt_error *MLXRT_NULLABLE (*MLXRT_NONNULL mlxrt_adapter_load)(
      mlxrt_model *MLXRT_NONNULL model, const char *MLXRT_NONNULL path,
      const mlxrt_call_options *MLXRT_NULLABLE options, mlxrt_adapter *MLXRT_NULLABLE *MLXRT_NONNULL out);
  mlxrt_error *MLXRT_NULLABLE (*MLXRT_NONNULL mlxrt_adapter_info)(
      const mlxrt_adapter *MLXRT_NONNULL adapter, char *MLXRT_NULLABLE *MLXRT_NONNULL json,
      size_t *MLXRT_NULLABLE len);
  mlxrt_error *MLXRT_NULLABLE (*MLXRT_NONNULL mlxrt_adapter_get)(
      const mlxrt_adapter *MLXRT_NONNULL adapter, const char *MLXRT_NONNULL name,
      mlxrt_tensor *MLXRT_NONNULL out);
  mlxrt_error *MLXRT_NULLABLE (*MLXRT_NONNULL mlxrt_adapter_set)(
      mlxrt_adapter *MLXRT_NONNULL adapter, const char *MLXRT_NONNULL name,
      const mlxrt_tensor_view *MLXRT_NONNULL in);
  mlxrt_error *MLXRT_NULLABLE (*MLXRT_NONNULL mlxrt_adapter_save)(
      const mlxrt_adapter *MLXRT_NONNULL adapter, const char *MLXRT_NONNULL path,
      const mlxrt_call_options *MLXRT_NULLABLE options);
  void (*MLXRT_NONNULL mlxrt_adapter_free)(mlxrt_adapter *MLXRT_NULLABLE adapter);
  mlxrt_error *MLXRT_NULLABLE (*MLXRT_NONNULL mlxrt_apply_adapter)(
      mlxrt_session *MLXRT_NONNULL session, mlxrt_adapter *MLXRT_NONNULL const *MLXRT_NULLABLE adapters,
      const float *MLXRT_NULLABLE scales, size_t count);
  mlxrt_error *MLXRT_NULLABLE (*MLXRT_NONNULL mlxrt_train)(
      mlxrt_model *MLXRT_NONNULL model, mlxrt_adapter *MLXRT_NONNULL adapter,
      const mlxrt_train_options *MLXRT_NULLABLE options, mlxrt_train_fn MLXRT_NULLABLE fn,
      void *MLXRT_NULLABLE user_data);
  mlxrt_error *MLXRT_NULLABLE (*MLXRT_NONNULL mlxrt_session_create)(
      mlxrt_model *MLXRT_NONNULL model, const mlxrt_session_options *MLXRT_NULLABLE options,
      mlxrt_session *MLXRT_NULLABLE *MLXRT_NONNULL out);
  void (*MLXRT_NONNULL mlxrt_session_free)(mlxrt_session *MLXRT_NULLABLE session);
  mlxrt_error *MLXRT_NULLABLE (*MLXRT_NONNULL mlxrt_session_fork)(
      mlxrt_session *MLXRT_NONNULL session, const mlxrt_call_options *MLXRT_NULLABLE options,
      mlxrt_session *MLXRT_NULLABLE *MLXRT_NONNULL out);
  mlxrt_error *MLXRT_NULLABLE (*MLXRT_NONNULL mlxrt_session_truncate)(
      mlxrt_session *MLXRT_NONNULL session, size_t tokens);
  mlxrt_error *MLXRT_NULLABLE (*MLXRT_NONNULL mlxrt_session_info)(
      const mlxrt_session *MLXRT_NONNULL session, mlxrt_session_state *MLXRT_NONNULL out);
  mlxrt_error *MLXRT_NULLABLE (*MLXRT_NONNULL mlxrt_session_tokens)(
      const mlxrt_session *MLXRT_NONNULL session, int32_t *MLXRT_NULLABLE *MLXRT_NONNULL ids,
      size_t *MLXRT_NONNULL count);
  mlxrt_error *MLXRT_NULLABLE (*MLXRT_NONNULL mlxrt_session_message)(
      const mlxrt_session *MLXRT_NONNULL session, char *MLXRT_NULLABLE *MLXRT_NONNULL json,
      size_t *MLXRT_NULLABLE len);
  mlxrt_error *MLXRT_NULLABLE (*MLXRT_NONNULL mlxrt_session_save)(
      mlxrt_session *MLXRT_NONNULL session, const char *MLXRT_NONNULL path,
      const mlxrt_call_options *MLXRT_NULLABLE options);
  mlxrt_error *MLXRT_NULLABLE (*MLXRT_NONNULL mlxrt_session_load)(
      mlxrt_model *MLXRT_NONNULL model, const char *MLXRT_NONNULL path,
      const mlxrt_call_options *MLXRT_NULLABLE options, mlxrt_session *MLXRT_NULLABLE *MLXRT_NONNULL out);
  void (*MLXRT_NONNULL mlxrt_session_cancel)(mlxrt_session *MLXRT_NONNULL session);
  mlxrt_error *MLXRT_NULLABLE (*MLXRT_NONNULL mlxrt_inspect_attention)(
      mlxrt_session *MLXRT_NONNULL session, uint32_t layer, mlxrt_tensor *MLXRT_NONNULL out);
  mlxrt_error *MLXRT_NULLABLE (*MLXRT_NONNULL mlxrt_generate)(
      mlxrt_session *MLXRT_NONNULL session, const mlxrt_input *MLXRT_NONNULL input,
      const mlxrt_generate_options *MLXRT_NULLABLE options, mlxrt_event_fn MLXRT_NULLABLE fn,
      void *MLXRT_NULLABLE user_data, mlxrt_result *MLXRT_NULLABLE out);
  mlxrt_error *MLXRT_NULLABLE (*MLXRT_NONNULL mlxrt_submit)(
      mlxrt_session *MLXRT_NONNULL session, const mlxrt_input *MLXRT_NONNULL input,
      const mlxrt_generate_options *MLXRT_NULLABLE options, mlxrt_request *MLXRT_NULLABLE *MLXRT_NONNULL out);
  mlxrt_error *MLXRT_NULLABLE (*MLXRT_NONNULL mlxrt_request_next)(
      mlxrt_request *MLXRT_NONNULL request, uint32_t timeout_ms,
      mlxrt_event *MLXRT_NULLABLE *MLXRT_NONNULL out, int32_t *MLXRT_NONNULL state);
  void (*MLXRT_NONNULL mlxrt_request_cancel)(mlxrt_request *MLXRT_NONNULL request);
  mlxrt_error *MLXRT_NULLABLE (*MLXRT_NONNULL mlxrt_request_result)(
      mlxrt_request *MLXRT_NONNULL request, uint32_t timeout_ms, mlxrt_result *MLXRT_NULLABLE out);
  void (*MLXRT_NONNULL mlxrt_request_free)(mlxrt_request *MLXRT_NULLABLE request);
  mlxrt_error *MLXRT_NULLABLE (*MLXRT_NONNULL mlxrt_embed)(
      mlxrt_model *MLXRT_NONNULL model, const char *MLXRT_NONNULL const *MLXRT_NONNULL texts,
      const size_t *MLXRT_NULLABLE lens, size_t count, const mlxrt_embed_options *MLXRT_NULLABLE options,
      mlxrt_tensor *MLXRT_NONNULL out);
  mlxrt_error *MLXRT_NULLABLE (*MLXRT_NONNULL mlxrt_score)(
      mlxrt_session *MLXRT_NONNULL session, const mlxrt_input *MLXRT_NULLABLE prefix,
      const mlxrt_input *MLXRT_NONNULL target, const mlxrt_call_options *MLXRT_NULLABLE options,
      float *MLXRT_NULLABLE *MLXRT_NONNULL logprobs, size_t *MLXRT_NONNULL count);
  mlxrt_error *MLXRT_NULLABLE (*MLXRT_NONNULL mlxrt_grammar_compile)(
      const mlxrt_model *MLXRT_NONNULL model, int32_t kind, const char *MLXRT_NULLABLE source, size_t len,
      const mlxrt_call_options *MLXRT_NULLABLE options, mlxrt_grammar *MLXRT_NULLABLE *MLXRT_NONNULL out);
  void (*MLXRT_NONNULL mlxrt_grammar_free)(mlxrt_grammar *MLXRT_NULLABLE grammar);
  mlxrt_error *MLXRT_NULLABLE (*MLXRT_NONNULL mlxrt_metrics)(
      const mlxrt_model *MLXRT_NULLABLE model, mlxrt_metrics_data *MLXRT_NONNULL out);
};

#ifdef __cplusplus
extern "C" {
#endif

/* ---- The library ---- */

/**
 * Gives the version of this surface that the library has: its MLXRT_ABI. A program that was compiled with a
 * higher one needs a newer library.
 *
 * Threads: any.
 * Blocks: no.
 * Errors: none.
 * Owns: nothing.
 */
uint32_t mlxrt_abi_version(void);

/**
 * Gives the library's version, such as "0.1.0".
 *
 * Threads: any.
 * Blocks: no.
 * Errors: none.
 * Owns: nothing; the text lives as long as the process.
 */
const char *MLXRT_NONNULL mlxrt_version(void);

/**
 * Gives the library's functions as a table, for plugins and programs that load it with dlopen: one name to look up.
 * Give it the MLXRT_ABI that you were compiled with; NULL when the library is older than that, or for 0. A table has
 * all functions of the version asked for.
 *
 * Threads: any.
 * Blocks: no.
 * Errors: none.
 * Owns: nothing; the table lives as long as the process.
 */
const mlxrt_api *MLXRT_NULLABLE mlxrt_get_api(uint32_t abi);

/**
 * Starts the engine, or adds one more user of the one that runs: whoever called init owes a shutdown. Optional, as
 * loading a model starts the engine with the defaults. On an NVIDIA GPU it sets MLX_ENABLE_CACHE_THRASHING_CHECK=0 in the
 * process's environment, unless the variable is there: with that check MLX fails for ever after some hundred lengths of prompts.
 *
 * Threads: any.
 * Blocks: while the engine starts.
 * Errors: INCOMPATIBLE when the engine runs on another device than the one asked for; UNSUPPORTED when there is no
 * such device; RESOURCES; SUSPENDED; DEVICE.
 * Owns: nothing.
 */
MLXRT_MUST_USE mlxrt_error *MLXRT_NULLABLE mlxrt_init(const mlxrt_init_options *MLXRT_NULLABLE options);

/**
 * Drops one init. The engine ends when no init and no model is left; with MLXRT_SHUTDOWN_FORCE it ends now, running
 * requests as cancelled, and what other users of the library in this process still hold fails from then on. After
 * it, init or loading a model starts a new engine.
 *
 * Threads: any.
 * Blocks: until the engine's running step is done, at most timeout_ms.
 * Errors: BUSY names what is left (the init is dropped, the last model ends the engine); TIMEOUT: call again.
 * Owns: nothing; handles of models and sessions stay yours to free.
 */
MLXRT_MUST_USE mlxrt_error *MLXRT_NULLABLE mlxrt_shutdown(uint32_t flags, uint32_t timeout_ms);

/**
 * Keeps the engine from the device: running requests pause where they are, and a call that needs the device gives
 * SUSPENDED. Counted: the work goes on after as many mlxrt_resume. Deadlines do not run meanwhile; queries, frees and
 * cancels work. For an app that goes into the background.
 *
 * Threads: any.
 * Blocks: until the device is idle, one decode step or one chunk of a prompt; at most timeout_ms.
 * Errors: TIMEOUT: it is not suspended and owes no resume, but nothing new starts for a second; call again.
 * Owns: nothing.
 */
MLXRT_MUST_USE mlxrt_error *MLXRT_NULLABLE mlxrt_suspend(uint32_t timeout_ms);

/**
 * Takes one mlxrt_suspend back; after the last one running requests go on.
 *
 * Threads: any.
 * Blocks: no.
 * Errors: INVALID_ARGUMENT when nothing is suspended.
 * Owns: nothing.
 */
MLXRT_MUST_USE mlxrt_error *MLXRT_NULLABLE mlxrt_resume(void);

/**
 * Tells the device that the engine runs on (or would), as JSON: "device" ("cpu" or "gpu"), "devices" (those there
 * are), "mlx_version", and "info", what MLX tells of the device; of a CPU that computes with the library's own kernels
 * also "kernels": the "path" they take, the machine's "features", and "threads".
 *
 * Threads: any.
 * Blocks: no.
 * Errors: DEVICE.
 * Owns: json is yours: mlxrt_free.
 */
MLXRT_MUST_USE mlxrt_error *MLXRT_NULLABLE mlxrt_device_info(
    char *MLXRT_NULLABLE *MLXRT_NONNULL json, size_t *MLXRT_NULLABLE len);

/**
 * Sends the log of the whole process to fn: lines up to level, one of MLXRT_LOG_*. NULL is silence, the
 * default. A line has no line break and no other control character, and at most 1,900 bytes. The last one to set it wins. When this returns, the function before neither runs nor will.
 *
 * Threads: any; fn is called on any thread, concurrently.
 * Blocks: until calls of the function before have returned.
 * Errors: UNSUPPORTED for an unknown level; REENTRANT from inside a log function.
 * Owns: nothing; user_data must live until another log_set returns.
 */
MLXRT_MUST_USE mlxrt_error *MLXRT_NULLABLE mlxrt_log_set(
    int32_t level, mlxrt_log_fn MLXRT_NULLABLE fn, void *MLXRT_NULLABLE user_data);

/**
 * Frees a buffer that the library handed out; NULL is fine.
 *
 * Threads: any.
 * Blocks: no.
 * Errors: none; a handle given here by mistake is logged and left alone.
 * Owns: takes the buffer.
 */
void mlxrt_free(void *MLXRT_NULLABLE buffer);

/* ---- Errors ---- */

/**
 * Gives the code of an error, MLXRT_E_*; MLXRT_OK for NULL.
 *
 * Threads: any.
 * Blocks: no.
 * Errors: none.
 * Owns: nothing.
 */
int32_t mlxrt_error_code(const mlxrt_error *MLXRT_NULLABLE error);

/**
 * Gives the sentence of an error in UTF-8; an empty one for NULL. Names in it are as they are in files and arguments, but that
 * long ones are cut and that characters which would steer a terminal (controls, ends of lines, marks that turn
 * the direction of text) are written as "\u{1b}".
 *
 * Threads: any.
 * Blocks: no.
 * Errors: none.
 * Owns: nothing; the text lives as long as the error.
 */
const char *MLXRT_NONNULL mlxrt_error_message(const mlxrt_error *MLXRT_NULLABLE error);

/**
 * Frees an error; NULL is fine. To ignore the outcome of a call:
 * mlxrt_error_free(mlxrt_shutdown(0, 0)).
 *
 * Threads: any.
 * Blocks: no.
 * Errors: none.
 * Owns: takes the error.
 */
void mlxrt_error_free(mlxrt_error *MLXRT_NULLABLE error);

/**
 * Gives the name of a code, such as "INVALID_ARGUMENT"; "UNKNOWN" for one that this version does not have.
 *
 * Threads: any.
 * Blocks: no.
 * Errors: none.
 * Owns: nothing; the text lives as long as the process.
 */
const char *MLXRT_NONNULL mlxrt_code_name(int32_t code);

/* ---- Memory ---- */

/**
 * Changes how much memory may be used, for the whole process: the last one to set it wins. memory_limit is a budget
 * that is looked at before anything is allocated: a load, or the next part of a request, that does not fit is refused
 * with OUT_OF_MEMORY; idle sessions lose their keys and values before that (their tokens stay). What is in use already
 * is not touched: mlxrt_memory_trim.
 *
 * Threads: any.
 * Blocks: no.
 * Errors: DEVICE.
 * Owns: nothing.
 */
MLXRT_MUST_USE mlxrt_error *MLXRT_NULLABLE mlxrt_memory_set(const mlxrt_memory_limits *MLXRT_NULLABLE limits);

/**
 * Frees what can be made again. Level 0: buffers kept for reuse. 1: also the keys and values that are kept of sessions which are
 * gone, or have gone on to something else. 2: also those of idle sessions; they keep their tokens, and are computed anew when used.
 *
 * Threads: any.
 * Blocks: until the engine's running step is done.
 * Errors: UNSUPPORTED for another level.
 * Owns: nothing.
 */
MLXRT_MUST_USE mlxrt_error *MLXRT_NULLABLE mlxrt_memory_trim(int32_t level);

/**
 * Tells what the whole process uses of MLX's memory.
 *
 * Threads: any.
 * Blocks: no.
 * Errors: none but those of every function.
 * Owns: nothing.
 */
MLXRT_MUST_USE mlxrt_error *MLXRT_NULLABLE mlxrt_memory_get(mlxrt_memory *MLXRT_NONNULL out);

/* ---- Models ---- */

/**
 * Tells what a model folder holds and what it would need, as JSON, without reading its weights: "model_type",
 * "parameters", "weight_bytes", "quantization", "repacked" (what became of weights that another program packed),
 * "context", "vocab_size", sizes of the network, "eos_token_ids",
 * "chat_format", "thinking" (whether it has markers of thinking), "tool_calls" (the format of its calls, or null),
 * "mtp" (whether it has a head of its own that predicts further tokens),
 * "session_context", "kv_quantization" (what kv_bits make of it, or null), "kv_bytes" (of one full session), "estimated_bytes", and
 * "warnings": sentences about
 * what is odd in the folder and does no harm. "estimated_bytes" is the most that a process takes which loads the model and
 * fills that session, as mlxrt_memory's peak_bytes counts it. With a memory limit of that much it can; where the CPU
 * computes and the weights have one float type it is at most 15 % and 32 KiB above what is measured, elsewhere it is
 * estimated with more to spare. What an adapter, another session, training and a request with log-probabilities or
 * penalties take comes on top.
 * What mlxrt_model_load refuses is refused here, in the same words: the headers of all files are checked, and the
 * tokenizer and the chat template are read.
 * path is a folder, or the id of a model that is in the local Hugging Face cache. With a draft model "draft" tells of it (else
 * null), and "kv_bytes" and "estimated_bytes" are of both.
 *
 * Threads: any.
 * Blocks: while it reads headers and the tokenizer.
 * Errors: NOT_FOUND, IO, BAD_MODEL, UNSUPPORTED, each naming the file and key; INCOMPATIBLE for a draft with other tokens.
 * Owns: json is yours: mlxrt_free.
 */
MLXRT_MUST_USE mlxrt_error *MLXRT_NULLABLE mlxrt_model_inspect(
    const char *MLXRT_NONNULL path, const mlxrt_load_options *MLXRT_NULLABLE load,
    const mlxrt_session_options *MLXRT_NULLABLE session, char *MLXRT_NULLABLE *MLXRT_NONNULL json,
    size_t *MLXRT_NULLABLE len);

/**
 * Loads a model: its config, tokenizer and weights, each checked before it is used. path is a folder in mlx-lm's
 * form, or the id of a model that is in the local Hugging Face cache. Starts the engine if it does not run. The weights
 * decide: the index is a hint, and so is what config.json says of their quantisation; where they differ, and where
 * generation_config.json cannot be read, a warning goes to the log and to mlxrt_model_info. Files of the folder may be
 * links that stay inside it (or inside the model's part of the cache); with MLXRT_LOAD_FOLLOW_LINKS they may lead anywhere. That
 * holds, too, where a folder or a file is exchanged with a link while it is read. Nothing but regular files is opened.
 *
 * Limits: config.json and any other small JSON file 16 MB and 1,000,000 values, the index 64 MB, tokenizer.json 128 MB and
 * 4,194,304 ids, the header of a weight file 100 MB (of 1,000,000 bytes), 100,000 tensors of 8 dimensions in 4,096 weight files,
 * 1,024 layers. What is over one is BAD_MODEL. A chat template of more than 1 MB makes conversations UNSUPPORTED, and so does one
 * that takes more than 20 million steps or more than 64 MB at once. SECURITY.md has all limits.
 *
 * Threads: any; progress runs on this one.
 * Blocks: while it reads the files; progress may stop it and a forced shutdown does (CANCELLED), timeout_ms ends it (TIMEOUT), each
 * within 50 ms or the time of one read of 8 MB.
 * Errors: NOT_FOUND, IO, BAD_MODEL, UNSUPPORTED, each naming the file and key; INCOMPATIBLE for a draft with other tokens;
 * OUT_OF_MEMORY, CANCELLED, TIMEOUT, SUSPENDED, DEVICE.
 * Owns: out is yours: mlxrt_model_free.
 */
MLXRT_MUST_USE mlxrt_error *MLXRT_NULLABLE mlxrt_model_load(
    const char *MLXRT_NONNULL path, const mlxrt_load_options *MLXRT_NULLABLE options,
    mlxrt_model *MLXRT_NULLABLE *MLXRT_NONNULL out);

/**
 * Tells what a loaded model is, as JSON: as mlxrt_model_inspect without the session's part.
 *
 * Threads: any.
 * Blocks: no.
 * Errors: none but those of every function.
 * Owns: json is yours: mlxrt_free.
 */
MLXRT_MUST_USE mlxrt_error *MLXRT_NULLABLE mlxrt_model_info(
    const mlxrt_model *MLXRT_NONNULL model, char *MLXRT_NULLABLE *MLXRT_NONNULL json,
    size_t *MLXRT_NULLABLE len);

/**
 * Writes a model as a folder that mlx-lm and this library load: its weights, with adapters fused into them, each at
 * scales times its own scale (NULL = 1 each), and the config, tokenizer and chat template that it was loaded with. Weights
 * are quantised as they were, module by module, and the others keep their types; what no adapter changes stays as it is,
 * byte for byte. An adapter that tells a tied embedding and output layer apart gives the model an output layer of its own.
 * The folder gets its place, or its new files, when all of them are on the disk. A model that is in the folder is replaced,
 * also if it is the one that was loaded; other files stay. Files come from the folder that was loaded, and go to the one that is
 * there when the call begins, also where a link takes its place meanwhile.
 *
 * Threads: any; progress runs on this one. Sessions of the model go on in between.
 * Blocks: while it computes and writes; progress, in bytes of weights, may stop it (CANCELLED), timeout_ms ends it
 * (TIMEOUT). A suspension makes it wait.
 * Errors: IO names the file: also for a FIFO, a socket or a device in its place, and for what is larger than the process may write
 * (RLIMIT_FSIZE). The signal of that, SIGXFSZ, is held off on this thread and taken back on Linux; on macOS, where the process
 * gets it, a host with such a limit has to ignore it, or it ends.
 * BAD_MODEL where a file of the folder that was loaded is gone; INCOMPATIBLE for an adapter of
 * another model, for two that replace the same weights, one that does and has a scale, and for weights that become too
 * large for their type; INVALID_ARGUMENT for an adapter that is there twice and for scales that are not finite;
 * OUT_OF_MEMORY; SUSPENDED; DEVICE. After each of them, and after CANCELLED and TIMEOUT, what was in the folder is there as it
 * was, and what was made is gone again, folders above path included.
 * Owns: nothing.
 */
MLXRT_MUST_USE mlxrt_error *MLXRT_NULLABLE mlxrt_model_save(
    mlxrt_model *MLXRT_NONNULL model, mlxrt_adapter *MLXRT_NONNULL const *MLXRT_NULLABLE adapters,
    const float *MLXRT_NULLABLE scales, size_t count, const char *MLXRT_NONNULL path,
    const mlxrt_call_options *MLXRT_NULLABLE options);

/**
 * Gives a model up. What sessions still need of it lives until the last of them is freed. NULL does nothing.
 *
 * Threads: any.
 * Blocks: no; when it was the last thing that held the engine, until the engine has ended.
 * Errors: none; a handle that is not a live model is logged.
 * Owns: takes the handle.
 */
void mlxrt_model_free(mlxrt_model *MLXRT_NULLABLE model);

/**
 * Turns text into token ids. flags are MLXRT_TOKENIZE_*.
 *
 * Threads: any.
 * Blocks: no.
 * Errors: INVALID_ARGUMENT for text that is not UTF-8, has more than 64 MB, or more than 1 MB without a place where it can be
 * divided (a word of 256 KB); OUT_OF_MEMORY; BAD_MODEL when a pattern of tokenizer.json is given up.
 * Owns: ids is yours: mlxrt_free.
 */
MLXRT_MUST_USE mlxrt_error *MLXRT_NULLABLE mlxrt_tokenize(
    const mlxrt_model *MLXRT_NONNULL model, const char *MLXRT_NULLABLE text, size_t len, uint32_t flags,
    int32_t *MLXRT_NULLABLE *MLXRT_NONNULL ids, size_t *MLXRT_NONNULL count);

/**
 * Turns token ids into text; bytes that are no character come out as U+FFFD. flags are MLXRT_DETOKENIZE_*.
 *
 * Threads: any.
 * Blocks: no.
 * Errors: INVALID_ARGUMENT names an id outside the vocabulary.
 * Owns: text is yours: mlxrt_free.
 */
MLXRT_MUST_USE mlxrt_error *MLXRT_NULLABLE mlxrt_detokenize(
    const mlxrt_model *MLXRT_NONNULL model, const int32_t *MLXRT_NULLABLE ids, size_t count, uint32_t flags,
    char *MLXRT_NULLABLE *MLXRT_NONNULL text, size_t *MLXRT_NULLABLE len);

/**
 * Writes a conversation as the prompt that the model sees. input must have messages.
 *
 * Threads: any.
 * Blocks: no.
 * Errors: INVALID_ARGUMENT names the message and key; UNSUPPORTED for what the model's chat format does not have.
 * Owns: text is yours: mlxrt_free.
 */
MLXRT_MUST_USE mlxrt_error *MLXRT_NULLABLE mlxrt_render(
    const mlxrt_model *MLXRT_NONNULL model, const mlxrt_input *MLXRT_NONNULL input,
    char *MLXRT_NULLABLE *MLXRT_NONNULL text, size_t *MLXRT_NULLABLE len);

/**
 * Turns an input into the token ids that mlxrt_generate would take in on a fresh session: text with the tokenizer's BOS
 * unless it has one or MLXRT_INPUT_NO_BOS is set, tokens as they are, messages through the chat template with every flag,
 * tool and argument of the input. Special tokens in the content of messages are text here as there, so the count is exact,
 * which mlxrt_tokenize of what mlxrt_render gives is not. A session that has tokens already puts text and tokens behind
 * them, without a BOS; messages are the whole history in any case. ids may be NULL where only the count is wanted.
 *
 * Threads: any.
 * Blocks: no.
 * Errors: those that mlxrt_generate has for its input: INVALID_ARGUMENT names the field, message and key, and is given for
 * an input without tokens; UNSUPPORTED for what the model's chat format does not have.
 * Owns: ids is yours: mlxrt_free.
 */
MLXRT_MUST_USE mlxrt_error *MLXRT_NULLABLE mlxrt_count_tokens(
    const mlxrt_model *MLXRT_NONNULL model, const mlxrt_input *MLXRT_NONNULL input,
    int32_t *MLXRT_NULLABLE *MLXRT_NULLABLE ids, size_t *MLXRT_NONNULL count);

/* ---- Adapters ---- */

/**
 * Makes a new adapter, which changes nothing until it is trained: A is random, B is zero. keys are names of modules
 * inside a block ("q_proj", "mlp.gate_proj") or outside of the blocks ("embed_tokens", "lm_head").
 *
 * Threads: any.
 * Blocks: until the engine's running step is done.
 * Errors: INVALID_ARGUMENT names the option; SUSPENDED; DEVICE.
 * Owns: out is yours: mlxrt_adapter_free. The adapter keeps what it needs of the model alive.
 */
MLXRT_MUST_USE mlxrt_error *MLXRT_NULLABLE mlxrt_adapter_create(
    mlxrt_model *MLXRT_NONNULL model, const mlxrt_adapter_options *MLXRT_NULLABLE options,
    mlxrt_adapter *MLXRT_NULLABLE *MLXRT_NONNULL out);

/**
 * Loads an adapter for a model: a folder, or a .safetensors file with its adapter_config.json beside it, of mlx-lm
 * (lora, dora, full), of PEFT (LoRA, rslora, DoRA, modules_to_save, target_parameters), or with rank and alpha at the top of
 * its config. Every tensor has to belong to a module of the model and to fit it. Experts take LoRA alone. Limits:
 * adapter_config.json 16 MB, a rank of 4,096, weights of 100,000 tensors and a header of 100 MB (BAD_MODEL; SECURITY.md has
 * all limits).
 *
 * Threads: any; progress runs on this one.
 * Blocks: while it reads the file; progress may stop it (CANCELLED), timeout_ms ends it (TIMEOUT).
 * Errors: NOT_FOUND; IO; BAD_MODEL names the file and the key or tensor; INCOMPATIBLE names the modules that do not
 * fit; UNSUPPORTED; OUT_OF_MEMORY before anything is read; SUSPENDED.
 * Owns: out is yours: mlxrt_adapter_free. The adapter keeps what it needs of the model alive.
 */
MLXRT_MUST_USE mlxrt_error *MLXRT_NULLABLE mlxrt_adapter_load(
    mlxrt_model *MLXRT_NONNULL model, const char *MLXRT_NONNULL path,
    const mlxrt_call_options *MLXRT_NULLABLE options, mlxrt_adapter *MLXRT_NULLABLE *MLXRT_NONNULL out);

/**
 * Tells what an adapter is, as JSON: "kind" ("lora", "dora" or "full"), "format" (where it came from, null when it was
 * made here), "rank", "scale", "dropout", "parameters", "bytes", and "tensors": name, shape and dtype of each, by name.
 *
 * Threads: any.
 * Blocks: no.
 * Errors: none but those of every function.
 * Owns: json is yours: mlxrt_free.
 */
MLXRT_MUST_USE mlxrt_error *MLXRT_NULLABLE mlxrt_adapter_info(
    const mlxrt_adapter *MLXRT_NONNULL adapter, char *MLXRT_NULLABLE *MLXRT_NONNULL json,
    size_t *MLXRT_NULLABLE len);

/**
 * Gives a copy of one tensor as F32, by its name in mlxrt_adapter_info, such as
 * "model.layers.0.self_attn.q_proj.lora_a" [in, rank] or ".lora_b" [rank, out].
 *
 * Threads: any.
 * Blocks: until the engine's running step is done.
 * Errors: NOT_FOUND; SUSPENDED; OUT_OF_MEMORY; DEVICE.
 * Owns: out->data is yours: mlxrt_free.
 */
MLXRT_MUST_USE mlxrt_error *MLXRT_NULLABLE mlxrt_adapter_get(
    const mlxrt_adapter *MLXRT_NONNULL adapter, const char *MLXRT_NONNULL name,
    mlxrt_tensor *MLXRT_NONNULL out);

/**
 * Replaces one tensor, from the next request on: of the same shape, in F32, F16 or BF16, finite. It is stored in the
 * type that the adapter's has.
 *
 * Threads: any.
 * Blocks: until the engine's running step is done.
 * Errors: NOT_FOUND; INVALID_ARGUMENT for another shape, another size of data, or what is not finite; UNSUPPORTED for
 * another dtype; SUSPENDED; DEVICE.
 * Owns: nothing; data is copied.
 */
MLXRT_MUST_USE mlxrt_error *MLXRT_NULLABLE mlxrt_adapter_set(
    mlxrt_adapter *MLXRT_NONNULL adapter, const char *MLXRT_NONNULL name,
    const mlxrt_tensor_view *MLXRT_NONNULL in);

/**
 * Writes a folder in mlx-lm's format (adapter_config.json and adapters.safetensors), which mlx-lm and this library
 * load. What was there is replaced only when everything is on the disk; where it does not come to that, what was made is
 * gone again, folders above path included.
 *
 * Threads: any; progress runs on this one.
 * Blocks: while it writes; progress may stop it (CANCELLED), timeout_ms ends it (TIMEOUT).
 * Errors: IO names the file: also for a FIFO, a socket or a device in its place, and for what is larger than the process may write
 * (RLIMIT_FSIZE). The signal of that, SIGXFSZ, is held off on this thread and taken back on Linux; on macOS, where the process
 * gets it, a host with such a limit has to ignore it, or it ends. UNSUPPORTED for
 * what that format does not have; SUSPENDED; DEVICE.
 * Owns: nothing.
 */
MLXRT_MUST_USE mlxrt_error *MLXRT_NULLABLE mlxrt_adapter_save(
    const mlxrt_adapter *MLXRT_NONNULL adapter, const char *MLXRT_NONNULL path,
    const mlxrt_call_options *MLXRT_NULLABLE options);

/**
 * Gives an adapter up. Sessions that it is applied to, and requests, keep what they need of it. NULL does nothing.
 *
 * Threads: any.
 * Blocks: no; when it was the last thing that held the engine, until the engine has ended.
 * Errors: none; a handle that is not a live adapter is logged.
 * Owns: takes the handle.
 */
void mlxrt_adapter_free(mlxrt_adapter *MLXRT_NULLABLE adapter);

/**
 * Sets the adapters of a session, from the next request on (those that were submitted keep theirs): none, one, or
 * several, whose changes add up, each at scales times its own scale (NULL = 1 each). No weight is copied or read.
 * Keys and values belong to the set that they were computed with: going back to a set finds them again. Other sessions
 * of the model are not touched.
 *
 * Threads: any.
 * Blocks: no.
 * Errors: INVALID_HANDLE names which; INCOMPATIBLE for an adapter of another model; INVALID_ARGUMENT for one that is
 * there twice, and for scales that are not finite or that make more than 1e30 of its own (of an F16 adapter 65504). Adapters that replace the same weights fail with the next request.
 * Owns: nothing; the session keeps what it needs of the adapters.
 */
MLXRT_MUST_USE mlxrt_error *MLXRT_NULLABLE mlxrt_apply_adapter(
    mlxrt_session *MLXRT_NONNULL session, mlxrt_adapter *MLXRT_NONNULL const *MLXRT_NULLABLE adapters,
    const float *MLXRT_NULLABLE scales, size_t count);

/* ---- Training ---- */

/**
 * Trains an adapter in place, as mlx-lm's trainer does: the same batches in the same order for the same seed, the same
 * loss, optimisers and schedules. Only the adapter's LoRA or DoRA weights change; the model's stay as they are, in
 * whatever type; those of an adapter in F16 are trained in F32, and rounded for every use. Sessions that have the adapter use its new weights from their next request on, and go on in between.
 * Saves go to the folder save_path every save_every steps, then also as 0000100_adapters.safetensors and so on, and at the
 * end, also when fn stopped the training. A save that fails ends it, and leaves the files of the one before.
 *
 * Threads: any; fn runs on this one.
 * Blocks: until the last step is done or fn stops it. While the library is suspended it waits.
 * Errors: INVALID_ARGUMENT names the option, or the line of train or valid; or tells that the loss or the weights are no
 * numbers any more; INCOMPATIBLE for an adapter of another model; UNSUPPORTED for one that replaces whole weights;
 * NOT_FOUND and IO name the file (of the data only a regular one is opened; a save fails as mlxrt_adapter_save does);
 * OUT_OF_MEMORY before a step that does not fit into the limit; DEVICE. After each of them
 * the adapter has the weights of the last good step.
 * Owns: nothing; the options are copied.
 */
MLXRT_MUST_USE mlxrt_error *MLXRT_NULLABLE mlxrt_train(
    mlxrt_model *MLXRT_NONNULL model, mlxrt_adapter *MLXRT_NONNULL adapter,
    const mlxrt_train_options *MLXRT_NULLABLE options, mlxrt_train_fn MLXRT_NULLABLE fn,
    void *MLXRT_NULLABLE user_data);

/* ---- Sessions ---- */

/**
 * Starts a session on a model. It holds no memory to speak of before its first request.
 *
 * Threads: any.
 * Blocks: no.
 * Errors: INVALID_ARGUMENT names the option; INCOMPATIBLE for a kv_group_size that the model's heads are no multiple of,
 * UNSUPPORTED for kv_bits where no group fits them; CANCELLED when the engine was shut down by force.
 * Owns: out is yours: mlxrt_session_free. The session keeps what it needs of the model alive.
 */
MLXRT_MUST_USE mlxrt_error *MLXRT_NULLABLE mlxrt_session_create(
    mlxrt_model *MLXRT_NONNULL model, const mlxrt_session_options *MLXRT_NULLABLE options,
    mlxrt_session *MLXRT_NULLABLE *MLXRT_NONNULL out);

/**
 * Gives a session up. A call that runs on it ends as cancelled. NULL does nothing.
 *
 * Threads: any.
 * Blocks: no; when it was the last thing that held the engine, until the engine has ended.
 * Errors: none; a handle that is not a live session is logged.
 * Owns: takes the handle.
 */
void mlxrt_session_free(mlxrt_session *MLXRT_NULLABLE session);

/**
 * Makes a session of its own out of another: with the same tokens, options and adapters. What is computed is shared until
 * one of the two goes on, so that a fork costs no more than its tokens, however long the session is.
 *
 * Threads: any.
 * Blocks: no.
 * Errors: BUSY while a request of the session runs or waits; CANCELLED when the engine was shut down by force.
 * Owns: out is yours: mlxrt_session_free. The two may be freed in any order.
 */
MLXRT_MUST_USE mlxrt_error *MLXRT_NULLABLE mlxrt_session_fork(
    mlxrt_session *MLXRT_NONNULL session, const mlxrt_call_options *MLXRT_NULLABLE options,
    mlxrt_session *MLXRT_NULLABLE *MLXRT_NONNULL out);

/**
 * Keeps the first tokens of a session, as mlxrt_session_tokens gives them, and forgets the rest, the last answer too. The
 * next request goes on from there; what is computed of them is kept where the model's caches can be cut.
 *
 * Threads: any.
 * Blocks: no.
 * Errors: INVALID_ARGUMENT when the session holds fewer; BUSY while a request of it runs or waits.
 * Owns: nothing.
 */
MLXRT_MUST_USE mlxrt_error *MLXRT_NULLABLE mlxrt_session_truncate(
    mlxrt_session *MLXRT_NONNULL session, size_t tokens);

/**
 * Tells where a session is: tokens held, room, keys and values computed, whether it is busy.
 *
 * Threads: any.
 * Blocks: no.
 * Errors: none but those of every function.
 * Owns: nothing.
 */
MLXRT_MUST_USE mlxrt_error *MLXRT_NULLABLE mlxrt_session_info(
    const mlxrt_session *MLXRT_NONNULL session, mlxrt_session_state *MLXRT_NONNULL out);

/**
 * Gives the tokens that the session holds: its ledger. It ends with the last token that was delivered.
 *
 * Threads: any.
 * Blocks: no.
 * Errors: none but those of every function.
 * Owns: ids is yours: mlxrt_free.
 */
MLXRT_MUST_USE mlxrt_error *MLXRT_NULLABLE mlxrt_session_tokens(
    const mlxrt_session *MLXRT_NONNULL session, int32_t *MLXRT_NULLABLE *MLXRT_NONNULL ids,
    size_t *MLXRT_NONNULL count);

/**
 * Gives the last answer in the form that messages takes, as JSON: {"role":"assistant","content":"..."}, with
 * "reasoning_content" where the model thought, and with "tool_calls" where it called tools, each
 * {"id","type":"function","function":{"name","arguments"}}, the arguments as a string of JSON. A chat is: append it to the
 * messages, append the user's next one or, for each call, {"role":"tool","tool_call_id","content"}, generate.
 *
 * Threads: any.
 * Blocks: no.
 * Errors: NOT_FOUND when there is no answer yet.
 * Owns: json is yours: mlxrt_free.
 */
MLXRT_MUST_USE mlxrt_error *MLXRT_NULLABLE mlxrt_session_message(
    const mlxrt_session *MLXRT_NONNULL session, char *MLXRT_NULLABLE *MLXRT_NONNULL json,
    size_t *MLXRT_NULLABLE len);

/**
 * Writes a session to a file: its tokens, its last answer, its options, which adapters are applied to it, and what is computed
 * with these. The file is a safetensors file that mlx-lm 0.32 reads as a prompt cache. What was there is replaced only when all
 * of it is on the disk; the folder is made where it does not exist. No request of the session begins meanwhile; those of others
 * go on.
 *
 * Threads: any; progress runs on this one.
 * Blocks: while it writes; progress may stop it, and so do mlxrt_session_cancel and mlxrt_session_free (CANCELLED), timeout_ms ends
 * it (TIMEOUT).
 * Errors: BUSY while a request of the session runs or waits; IO names the file: also for a folder, a FIFO, a socket or a device in
 * its place, and for what is larger than the process may write (RLIMIT_FSIZE; of the signal of that mlxrt_adapter_save tells);
 * OUT_OF_MEMORY; SUSPENDED; DEVICE. The session is as it was.
 * Owns: nothing.
 */
MLXRT_MUST_USE mlxrt_error *MLXRT_NULLABLE mlxrt_session_save(
    mlxrt_session *MLXRT_NONNULL session, const char *MLXRT_NONNULL path,
    const mlxrt_call_options *MLXRT_NULLABLE options);

/**
 * Makes a session of a file that mlxrt_session_save wrote, or save_prompt_cache of mlx-lm 0.31 or 0.32 with the tokens in its
 * metadata: metadata={"tokens": json.dumps(tokens)}. It goes on as the one that was saved would have, and computes nothing again.
 * Adapters that were applied to that one are found among those of the model whose handles are live, by their weights, and are
 * applied again.
 *
 * Threads: any; progress runs on this one.
 * Blocks: while it reads; progress may stop it (CANCELLED), timeout_ms ends it (TIMEOUT).
 * Errors: NOT_FOUND; IO; BAD_MODEL for a file that is damaged, was cut short or is no session; INCOMPATIBLE for one of
 * another model (weights, config.json, tokenizer, chat template or layers are named), for more tokens than the model's context, and for an
 * adapter that is not loaded; UNSUPPORTED for a newer format, for caches that this version does not have, and for mlx-lm's
 * files without tokens; OUT_OF_MEMORY; SUSPENDED; DEVICE.
 * Owns: out is yours: mlxrt_session_free. The session keeps what it needs of the model and the adapters alive.
 */
MLXRT_MUST_USE mlxrt_error *MLXRT_NULLABLE mlxrt_session_load(
    mlxrt_model *MLXRT_NONNULL model, const char *MLXRT_NONNULL path,
    const mlxrt_call_options *MLXRT_NULLABLE options, mlxrt_session *MLXRT_NULLABLE *MLXRT_NONNULL out);

/**
 * Gives the keys that a layer's attention looks at, behind the rotary embedding and as f32, whatever type they are kept in:
 * [kv_heads, tokens, head_dim], where the tokens are the first of mlxrt_session_tokens that are computed, mostly all but the
 * last one. Where a window has turned they are its first tokens that are kept and then the newest, in the order of time. A
 * layer that looks at an earlier layer's keys gives those. Nothing is computed for it: after mlxrt_memory_trim, or with adapters
 * that were applied since, there is nothing before the next request.
 *
 * Threads: any.
 * Blocks: until the engine's running step is done.
 * Errors: INVALID_ARGUMENT when the model has no such layer; UNSUPPORTED when the layer has no keys, but a state or latents;
 * NOT_FOUND when nothing of the session is computed; BUSY while a request of the session runs or waits; SUSPENDED;
 * OUT_OF_MEMORY before anything is copied; DEVICE.
 * Owns: out.data is yours: mlxrt_free.
 */
MLXRT_MUST_USE mlxrt_error *MLXRT_NULLABLE mlxrt_inspect_attention(
    mlxrt_session *MLXRT_NONNULL session, uint32_t layer, mlxrt_tensor *MLXRT_NONNULL out);

/**
 * Ends what runs on the session now, within one decode step or one chunk of the prompt; a later request is not
 * touched. The session stays usable and keeps what was delivered.
 *
 * Threads: any, also from inside every callback, and from a signal handler: it is async-signal-safe.
 * Blocks: no; it takes no lock and no memory.
 * Errors: none; a handle that is not a live session does nothing.
 * Owns: nothing.
 */
void mlxrt_session_cancel(mlxrt_session *MLXRT_NONNULL session);

/* ---- Generation ---- */

/**
 * Runs one request on the session and hands what it produces to fn, on this thread, until it ends: by the model's
 * end of text, a stop string or token, max_tokens, the context's end, fn, a cancel, or timeout_ms. All of these are
 * results and no errors; out says which, and what it cost. Messages are the whole history: what the session already
 * holds of it is not computed again. Text and tokens continue the session; when the request fails or is cancelled
 * before its first token, the session stays as it was. fn may be NULL, and out may be.
 *
 * Threads: any; fn runs on this one. A session does one blocking call at a time.
 * Blocks: until the request has ended.
 * Errors: INVALID_ARGUMENT names the field, also when bias_values ban every token that could come; INCOMPATIBLE for a grammar of another model; BAD_GRAMMAR where the
 * grammar becomes too complex, or the model has no token to go on with; CONTEXT_FULL; BUSY, also
 * while submitted requests run or wait; BAD_MODEL when the model's numbers are not finite; DEVICE; OUT_OF_MEMORY; SUSPENDED; CANCELLED when the engine had been shut down by force before.
 * Owns: nothing; events live until fn returns.
 */
MLXRT_MUST_USE mlxrt_error *MLXRT_NULLABLE mlxrt_generate(
    mlxrt_session *MLXRT_NONNULL session, const mlxrt_input *MLXRT_NONNULL input,
    const mlxrt_generate_options *MLXRT_NULLABLE options, mlxrt_event_fn MLXRT_NULLABLE fn,
    void *MLXRT_NULLABLE user_data, mlxrt_result *MLXRT_NULLABLE out);

/**
 * Queues one request on the session, behind those that were submitted before it, and gives a handle to it: its events
 * are asked for with mlxrt_request_next. Everything else is as in mlxrt_generate; what the session holds when the
 * request's turn comes is what it goes on from, and what was made counts as delivered. options.notify is called when
 * events or the end become available.
 *
 * Threads: any, also from event and progress callbacks; notify is called on any thread.
 * Blocks: no; input is made into tokens here.
 * Errors: INVALID_ARGUMENT names the field; SUSPENDED; CANCELLED when the engine had been shut down by force before;
 * RESOURCES when 1,024 requests of the session, or 16,384 in all, have not ended; OUT_OF_MEMORY.
 * Owns: out is yours: mlxrt_request_free. The request keeps what it needs of the session alive.
 */
MLXRT_MUST_USE mlxrt_error *MLXRT_NULLABLE mlxrt_submit(
    mlxrt_session *MLXRT_NONNULL session, const mlxrt_input *MLXRT_NONNULL input,
    const mlxrt_generate_options *MLXRT_NULLABLE options, mlxrt_request *MLXRT_NULLABLE *MLXRT_NONNULL out);

/**
 * Takes the next event of a request. state says what there was: MLXRT_NEXT_EVENT, and out is the event;
 * MLXRT_NEXT_PENDING, there is none yet; MLXRT_NEXT_DONE, there will be none any more. Any number of threads may ask:
 * each event goes to one of them. Events that were made before the end or before a cancel come first. A request that
 * failed gives its error instead of DONE, every time.
 *
 * Threads: any; with timeout_ms 0 also from event and progress callbacks.
 * Blocks: until there is something, at most timeout_ms; 0 does not wait.
 * Errors: those of mlxrt_generate, once all events are taken.
 * Owns: out is one block and yours: mlxrt_free.
 */
MLXRT_MUST_USE mlxrt_error *MLXRT_NULLABLE mlxrt_request_next(
    mlxrt_request *MLXRT_NONNULL request, uint32_t timeout_ms, mlxrt_event *MLXRT_NULLABLE *MLXRT_NONNULL out,
    int32_t *MLXRT_NONNULL state);

/**
 * Ends a request, running or waiting, within one decode step or one chunk of the prompt; its end is
 * MLXRT_STOPPED_CANCELLED. After its end this does nothing. The session stays usable and keeps what was made.
 *
 * Threads: any, also from inside every callback, and from a signal handler: it is async-signal-safe.
 * Blocks: no; it takes no lock and no memory.
 * Errors: none; a handle that is not a live request does nothing.
 * Owns: nothing.
 */
void mlxrt_request_cancel(mlxrt_request *MLXRT_NONNULL request);

/**
 * Waits for the end of a request, dropping events that nobody has taken, and tells what it did and what it cost. Can
 * be called again.
 *
 * Threads: any; with timeout_ms 0 also from event and progress callbacks.
 * Blocks: until the request has ended, at most timeout_ms; 0 does not wait.
 * Errors: those of mlxrt_generate; TIMEOUT when it has not ended by then.
 * Owns: nothing.
 */
MLXRT_MUST_USE mlxrt_error *MLXRT_NULLABLE mlxrt_request_result(
    mlxrt_request *MLXRT_NONNULL request, uint32_t timeout_ms, mlxrt_result *MLXRT_NULLABLE out);

/**
 * Gives a request up and cancels it. When this returns, its notify neither runs nor will. NULL does nothing.
 *
 * Threads: any, but not from notify.
 * Blocks: until a notify that runs has returned.
 * Errors: none; a handle that is not a live request is logged.
 * Owns: takes the handle; events that were taken stay yours.
 */
void mlxrt_request_free(mlxrt_request *MLXRT_NULLABLE request);

/**
 * Gives the log-probability of each token of target: what the model said of it after the session's tokens, those of prefix, and
 * the target's before it. (The logarithm is natural, of the softmax in f32 of the model's own logits, as with
 * MLXRT_GEN_LOGPROBS.) prefix is as mlxrt_generate's input: text and tokens follow the session's, messages stand in their place,
 * and NULL is nothing. target is text or tokens, made into tokens by itself and without a BOS. The session stays as it is; what
 * it and others have computed of the beginning is used, and so are its adapters. Any length is computed in chunks, and the
 * logits of a few tokens at a time. With the first token of a text as the prefix and the others as the target, the exponential
 * of the mean of what comes out, times -1, is the text's perplexity.
 *
 * Threads: any; progress runs on this one, with tokens computed and in all. A session does one blocking call at a time.
 * Blocks: until all is computed; progress and mlxrt_session_cancel may stop it (CANCELLED), timeout_ms ends it (TIMEOUT).
 * Errors: INVALID_ARGUMENT names the field, also when target is empty, or there is nothing before it; CONTEXT_FULL; BUSY, also
 * while submitted requests run or wait; BAD_MODEL when the model's numbers are not finite; DEVICE; OUT_OF_MEMORY; SUSPENDED.
 * Owns: logprobs is yours: mlxrt_free.
 */
MLXRT_MUST_USE mlxrt_error *MLXRT_NULLABLE mlxrt_score(
    mlxrt_session *MLXRT_NONNULL session, const mlxrt_input *MLXRT_NULLABLE prefix,
    const mlxrt_input *MLXRT_NONNULL target, const mlxrt_call_options *MLXRT_NULLABLE options,
    float *MLXRT_NULLABLE *MLXRT_NONNULL logprobs, size_t *MLXRT_NONNULL count);

/* ---- Grammars ---- */

/**
 * Compiles what answers must match, for the tokens of a model: kind is MLXRT_GRAMMAR_*, source what that kind says, of at
 * most 1 MB. A request that names it in options.grammar gets only tokens that the grammar allows; it ends as
 * MLXRT_STOPPED_GRAMMAR when nothing may follow, or by the model's end of text where the grammar has an end. Only max_tokens,
 * stop strings and stop tokens, a cancel, a deadline or the end of the context leave it incomplete. Special tokens are made
 * only where a Lark grammar names them. JSON is written without blanks, properties in the order in which the schema has them;
 * {"x-guidance": {"whitespace_flexible": true}} at the root of a schema allows blanks.
 *
 * What cannot be followed is refused, never left out: an error names the keyword by its JSON pointer, as in
 * "#/properties/a/not". Left out, with a line of the log (MLXRT_LOG_WARN), are words that are no keywords of JSON Schema, and
 * formats that say nothing of a text, such as "password". The first grammar of a model takes some tenths of a second longer
 * than those that follow.
 *
 * Threads: any; progress runs on this one. One grammar serves any number of sessions and threads at once.
 * Blocks: while it compiles, milliseconds as a rule; timeout_ms (TIMEOUT) is looked at between the parts of the work, progress
 * (CANCELLED) before and after it; limits bound a part to a few seconds.
 * Errors: BAD_GRAMMAR; INVALID_ARGUMENT for a source that is too long; UNSUPPORTED for another kind, and for a vocabulary too
 * large for grammars; OUT_OF_MEMORY; RESOURCES when no thread can be started; TIMEOUT; CANCELLED.
 * Owns: out is yours: mlxrt_grammar_free. It needs nothing of the model but its tokens, and keeps no weights alive.
 */
MLXRT_MUST_USE mlxrt_error *MLXRT_NULLABLE mlxrt_grammar_compile(
    const mlxrt_model *MLXRT_NONNULL model, int32_t kind, const char *MLXRT_NULLABLE source, size_t len,
    const mlxrt_call_options *MLXRT_NULLABLE options, mlxrt_grammar *MLXRT_NULLABLE *MLXRT_NONNULL out);

/**
 * Gives a grammar up. Requests that follow it go on. NULL does nothing.
 *
 * Threads: any.
 * Blocks: no.
 * Errors: none; a handle that is not a live grammar is logged.
 * Owns: takes the handle.
 */
void mlxrt_grammar_free(mlxrt_grammar *MLXRT_NULLABLE grammar);

/* ---- Embeddings ---- */

/**
 * Turns texts into embeddings: out is F32 [count, dim], a row for each text. lens may be NULL: all texts are NUL-terminated.
 * Each text gets the special tokens that the tokenizer puts around one; special tokens written in a text are special, as in
 * mlxrt_tokenize.
 * With MLXRT_POOLING_MODEL the folder's own modules make the embedding, where it has sentence-transformers' files: its pooling,
 * the linear layers and the normalisation behind it, and its default prompt in front of each text. Other prompts ("query: ") are
 * the caller's to put there. Without such files it is the last token of a model that generates text, and the mean of an encoder.
 * The other poolings are of the model's last hidden states and nothing else. Adapters are not applied.
 * Short texts are computed together, whatever their order; what a text becomes does not depend on the others, but by the
 * rounding of sums. Texts are never cut: one that is too long is an error.
 * mlxrt_model_info tells what the folder says as "embedding", and whether the model generates text, too.
 *
 * Threads: any; progress runs on this one.
 * Blocks: until all texts are done; progress, in tokens, may stop it (CANCELLED), timeout_ms ends it (TIMEOUT). Sessions go on in
 * between. A suspension in the middle makes it wait.
 * Errors: INVALID_ARGUMENT for a count of 0, and naming a text that is NULL, not UTF-8 or has no tokens; CONTEXT_FULL names
 * one that has more tokens than the model's context or positions; UNSUPPORTED for an unknown pooling, and with
 * MLXRT_POOLING_MODEL for modules that are not known here, by their file and key; BAD_MODEL for such files that are wrong, and for
 * numbers that are not finite; OUT_OF_MEMORY before a part that does not fit into the limit; SUSPENDED; DEVICE.
 * Owns: out->data is yours: mlxrt_free.
 */
MLXRT_MUST_USE mlxrt_error *MLXRT_NULLABLE mlxrt_embed(
    mlxrt_model *MLXRT_NONNULL model, const char *MLXRT_NONNULL const *MLXRT_NONNULL texts,
    const size_t *MLXRT_NULLABLE lens, size_t count, const mlxrt_embed_options *MLXRT_NULLABLE options,
    mlxrt_tensor *MLXRT_NONNULL out);

/* ---- Metrics ---- */

/**
 * Gives the counters of one model, or with NULL those of the whole process. active_bytes, cache_bytes and peak_bytes
 * are the process's either way.
 *
 * Threads: any.
 * Blocks: no.
 * Errors: none but those of every function.
 * Owns: nothing.
 */
MLXRT_MUST_USE mlxrt_error *MLXRT_NULLABLE mlxrt_metrics(
    const mlxrt_model *MLXRT_NULLABLE model, mlxrt_metrics_data *MLXRT_NONNULL out);

#ifdef __cplusplus
}
#endif

#if defined(__clang__)
#pragma clang diagnostic pop
#endif
#endif  /* MLXRT_H */
