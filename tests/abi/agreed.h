/* The agreed surface of the mlxrt C ABI, version 1: names, parameter order, field order and values, frozen.
 * include/mlxrt.h comes out of src/capi and is compared with this file as far as it goes: a function, struct or
 * constant enters it when it works. 64-bit targets only. */
#ifndef MLXRT_H
#define MLXRT_H
#include <stddef.h>
#include <stdint.h>
#if defined(__clang__)
#define MLXRT_NULLABLE _Nullable
#define MLXRT_NONNULL _Nonnull
#else
#define MLXRT_NULLABLE
#define MLXRT_NONNULL
#endif
/* (Nullability is left out below for reading; the real header marks every pointer.) */

#define MLXRT_ABI 1u                       /* rises with every release that adds a function */
#define MLXRT_NTS ((size_t)-1)             /* "NUL-terminated" as a length */
#define MLXRT_FOREVER 4294967295u          /* for every timeout argument; 0 = do not wait */
/* does a struct that the library handed out have this field? */
#define MLXRT_HAS(p, field) ((size_t)((const char *)&(p)->field - (const char *)(p)) + sizeof((p)->field) <= (p)->struct_size)

/* error codes, frozen */
#define MLXRT_OK 0
#define MLXRT_E_INVALID_ARGUMENT 1
#define MLXRT_E_INVALID_HANDLE 2
#define MLXRT_E_NOT_FOUND 3
#define MLXRT_E_IO 4
#define MLXRT_E_BAD_MODEL 5
#define MLXRT_E_INCOMPATIBLE 6
#define MLXRT_E_UNSUPPORTED 7
#define MLXRT_E_OUT_OF_MEMORY 8
#define MLXRT_E_CONTEXT_FULL 9
#define MLXRT_E_BUSY 10
#define MLXRT_E_CANCELLED 11
#define MLXRT_E_TIMEOUT 12
#define MLXRT_E_SUSPENDED 13
#define MLXRT_E_DEVICE 14
#define MLXRT_E_RESOURCES 15
#define MLXRT_E_BAD_GRAMMAR 16
#define MLXRT_E_REENTRANT 17
#define MLXRT_E_FORKED 18
#define MLXRT_E_INTERNAL 19

#define MLXRT_DEVICE_AUTO 0
#define MLXRT_DEVICE_CPU 1
#define MLXRT_DEVICE_GPU 2
#define MLXRT_LOG_ERROR 1
#define MLXRT_LOG_WARN 2
#define MLXRT_LOG_INFO 3
#define MLXRT_LOG_DEBUG 4
/* what an event, train or progress callback returns */
#define MLXRT_RETURN_CONTINUE 0
#define MLXRT_RETURN_STOP 1
#define MLXRT_SHUTDOWN_FORCE 1u            /* also end what other users of the library in this process still hold */
#define MLXRT_LOAD_FOLLOW_LINKS 1u         /* weights may be links to files outside the folder */
#define MLXRT_TOKENIZE_ADD_SPECIAL 1u      /* what the tokenizer's post-processor adds (BOS, EOS) */
#define MLXRT_TOKENIZE_SPECIAL_AS_TEXT 2u  /* "<|im_start|>" in the text is just text */
#define MLXRT_DETOKENIZE_SKIP_SPECIAL 1u
#define MLXRT_INPUT_NO_BOS 1u              /* text at token 0 gets the tokenizer's BOS unless it is there or this is set */
#define MLXRT_INPUT_SPECIAL_AS_TEXT 2u     /* text: special tokens are not recognised */
#define MLXRT_INPUT_TRUST_CONTENT 4u       /* messages: special tokens inside message content are recognised; default: never, so content cannot forge a turn */
#define MLXRT_INPUT_NO_GENERATION_PROMPT 8u
#define MLXRT_INPUT_CONTINUE_LAST 16u      /* continue the last (assistant) message */
#define MLXRT_GEN_GREEDY 1u
#define MLXRT_GEN_IGNORE_EOS 2u
#define MLXRT_GEN_TOKENS_ONLY 4u           /* events without text: nothing is detokenised, no stop strings */
#define MLXRT_GEN_PREFILL_ONLY 8u
#define MLXRT_GEN_NO_PREFIX_CACHE 16u
#define MLXRT_GEN_NO_MODEL_DEFAULTS 32u    /* zeros mean neutral (temperature 1), not generation_config.json */
#define MLXRT_GEN_LOGPROBS 64u             /* of the model's own distribution, before penalties, bias, temperature and masks */
#define MLXRT_GEN_RAW_TEXT 128u            /* no channels: everything is TEXT, markers included */
#define MLXRT_GEN_STRICT_TOOLS 256u        /* with tools: a call's arguments obey its schema, by a grammar that begins at the marker */
#define MLXRT_GEN_TOOL_DELTAS 512u         /* TOOL_DELTA events while a call's arguments come */
#define MLXRT_EVENT_PROGRESS 1             /* prefill: done of total tokens */
#define MLXRT_EVENT_TEXT 2
#define MLXRT_EVENT_THINKING 3
#define MLXRT_EVENT_TOOL_CALL 4            /* text is one {"id","name","arguments":{...}}; what does not parse arrives as TEXT */
#define MLXRT_EVENT_TOOL_DELTA 5           /* text is {"index","id","name","arguments"}: arguments is the piece that came, id and name in the first one of a call */
#define MLXRT_STOPPED_EOS 1
#define MLXRT_STOPPED_STRING 2             /* stop_index says which */
#define MLXRT_STOPPED_TOKEN 3
#define MLXRT_STOPPED_LENGTH 4
#define MLXRT_STOPPED_CONTEXT 5
#define MLXRT_STOPPED_CALLBACK 6
#define MLXRT_STOPPED_CANCELLED 7
#define MLXRT_STOPPED_TIMEOUT 8
#define MLXRT_STOPPED_TOOL_CALL 9
#define MLXRT_STOPPED_GRAMMAR 10
#define MLXRT_STOPPED_ERROR 11             /* error_code says which; the call returned it */
#define MLXRT_NEXT_EVENT 0
#define MLXRT_NEXT_PENDING 1
#define MLXRT_NEXT_DONE 2
#define MLXRT_DTYPE_F32 1
#define MLXRT_DTYPE_F16 2
#define MLXRT_DTYPE_BF16 3
#define MLXRT_DTYPE_I32 4
#define MLXRT_LORA 0
#define MLXRT_DORA 1
#define MLXRT_OPTIMIZER_ADAMW 0
#define MLXRT_OPTIMIZER_ADAM 1
#define MLXRT_OPTIMIZER_SGD 2
#define MLXRT_SCHEDULE_CONSTANT 0
#define MLXRT_SCHEDULE_COSINE 1
#define MLXRT_SCHEDULE_LINEAR 2
#define MLXRT_TRAIN_PATHS 1u               /* train and valid are file paths, not JSONL text */
#define MLXRT_TRAIN_MASK_PROMPT 2u
#define MLXRT_TRAIN_CHECKPOINT 4u          /* gradient checkpointing */
#define MLXRT_POOLING_MODEL 0
#define MLXRT_POOLING_MEAN 1
#define MLXRT_POOLING_LAST 2
#define MLXRT_POOLING_CLS 3
#define MLXRT_EMBED_NORMALIZE 1u
#define MLXRT_GRAMMAR_JSON 1
#define MLXRT_GRAMMAR_JSON_SCHEMA 2
#define MLXRT_GRAMMAR_REGEX 3
#define MLXRT_GRAMMAR_LARK 4

#ifdef __cplusplus
extern "C" {
#endif

typedef struct mlxrt_error mlxrt_error;
typedef struct mlxrt_model mlxrt_model;
typedef struct mlxrt_session mlxrt_session;
typedef struct mlxrt_request mlxrt_request;
typedef struct mlxrt_adapter mlxrt_adapter;
typedef struct mlxrt_grammar mlxrt_grammar;
typedef struct mlxrt_api mlxrt_api;        /* { uint32_t struct_size, abi; then one pointer per function below but get_api, in this order, under its full name } */
typedef struct mlxrt_event mlxrt_event;
typedef struct mlxrt_train_event mlxrt_train_event;

typedef int32_t (*mlxrt_event_fn)(void *user_data, const mlxrt_event *event);
typedef int32_t (*mlxrt_train_fn)(void *user_data, const mlxrt_train_event *event);
typedef int32_t (*mlxrt_progress_fn)(void *user_data, uint64_t done, uint64_t total);
typedef void (*mlxrt_notify_fn)(void *user_data);
typedef void (*mlxrt_log_fn)(void *user_data, int32_t level, const char *message, size_t len);

/* ---- options: the caller fills them; NULL or all zero after struct_size = defaults ---- */
typedef struct mlxrt_init_options {
  uint32_t struct_size, flags;
  int32_t device;
  uint32_t cpu_threads;                    /* 0 = physical cores */
  const char *resource_dir;                /* where mlx.metallib lies; NULL = beside the library */
  uint64_t memory_limit, cache_limit, wired_limit; /* bytes; 0 = default, UINT64_MAX = unlimited, 1 = none */
} mlxrt_init_options;

typedef struct mlxrt_memory_limits {
  uint32_t struct_size, flags;
  uint64_t memory_limit, cache_limit, wired_limit; /* bytes; 0 = unchanged */
} mlxrt_memory_limits;

typedef struct mlxrt_call_options {        /* for calls that read, write or compute for a while */
  uint32_t struct_size, flags;
  uint32_t timeout_ms, reserved;           /* 0 = none */
  mlxrt_progress_fn progress;              /* may return MLXRT_RETURN_STOP: MLXRT_E_CANCELLED */
  void *progress_data;
} mlxrt_call_options;

typedef struct mlxrt_load_options {
  uint32_t struct_size, flags;
  uint32_t context, timeout_ms;            /* context: most tokens a session may ask for; 0 = the model's */
  mlxrt_progress_fn progress;
  void *progress_data;
  const char *draft_path;                  /* a draft model for speculation, or NULL */
} mlxrt_load_options;

typedef struct mlxrt_session_options {
  uint32_t struct_size, flags;
  uint32_t context, window;                /* 0 = model's; window: rotating KV of that many tokens, 0 = none */
  int32_t keep;                            /* first tokens that a rotating KV never drops; 0 = default 4, -1 = none */
  uint32_t kv_bits, kv_group_size, reserved; /* 0 = unquantised, else 4 or 8 */
  uint64_t kv_limit;                       /* bytes of KV this session may use; 0 = the budget's rest */
} mlxrt_session_options;

typedef struct mlxrt_input {               /* exactly one of text, tokens, messages */
  uint32_t struct_size, flags;
  const char *text; size_t text_len;       /* continues the session */
  const int32_t *tokens; size_t token_count; /* continues the session */
  const char *messages; size_t messages_len; /* OpenAI-style JSON array, the WHOLE history; the longest common prefix is reused */
  const char *tools; size_t tools_len;     /* JSON array */
  const char *template_args; size_t template_args_len; /* JSON object, e.g. {"enable_thinking":false} */
  const char *tool_choice; size_t tool_choice_len; /* JSON: "auto" (also NULL), "none", "required" or {"name":…} */
} mlxrt_input;

typedef struct mlxrt_generate_options {
  uint32_t struct_size, flags;
  uint32_t max_tokens, timeout_ms;         /* 0 = to EOS or context; 0 = no deadline */
  float temperature, top_p, min_p;         /* 0 = the model's default, else the value */
  int32_t top_k;
  float xtc_probability, xtc_threshold;
  float repetition_penalty, presence_penalty, frequency_penalty;
  uint32_t penalty_window;                 /* 0 = 20, UINT32_MAX = all */
  uint64_t seed;                           /* 0 = random, reported in the result */
  uint32_t top_logprobs;                   /* alternatives per token, with MLXRT_GEN_LOGPROBS */
  int32_t thinking_budget;                 /* 0 = no limit, -1 = no thinking */
  const char *const *stop; const size_t *stop_lens; size_t stop_count;
  const int32_t *stop_tokens; size_t stop_token_count;
  const int32_t *bias_tokens; const float *bias_values; size_t bias_count; /* -INFINITY bans */
  mlxrt_grammar *grammar;
  uint32_t progress_tokens;                /* a PROGRESS event every so many prefilled tokens; 0 = none */
  int32_t draft_tokens;                    /* 0 = default, -1 = no speculation */
  mlxrt_notify_fn notify; void *notify_data; /* submit: called (any thread; only signal something) when events or the end become available */
  int32_t priority; uint32_t reserved;     /* higher first, 0 = usual; equals take turns, nobody starves */
} mlxrt_generate_options;

typedef struct mlxrt_adapter_options {
  uint32_t struct_size, flags;
  int32_t kind; uint32_t rank;             /* 0 = 8 */
  float scale, dropout;                    /* 0 = 20.0, as in mlx-lm */
  int32_t layers, dtype;                   /* 0 = all; 0 = F32 */
  uint64_t seed;
  const char *const *keys; size_t key_count; /* module names inside a block; NULL = q_proj and v_proj */
} mlxrt_adapter_options;

typedef struct mlxrt_train_options {
  uint32_t struct_size, flags;
  const char *train; size_t train_len;     /* JSONL */
  const char *valid; size_t valid_len;
  uint32_t steps, batch_size, max_tokens, accumulate;
  uint32_t report_every, validate_every, save_every, warmup;
  float learning_rate, weight_decay;
  int32_t optimizer, schedule;
  uint64_t seed;
  const char *save_path;
} mlxrt_train_options;

typedef struct mlxrt_embed_options {
  uint32_t struct_size, flags;
  int32_t pooling; uint32_t timeout_ms;
  mlxrt_progress_fn progress;
  void *progress_data;
} mlxrt_embed_options;

typedef struct mlxrt_tensor_view {         /* a tensor that goes in; row-major */
  uint32_t struct_size; int32_t dtype;
  uint32_t rank, reserved;
  uint64_t shape[8];
  const void *data; uint64_t bytes;
} mlxrt_tensor_view;

/* ---- outputs: the caller sets struct_size; the library fills what both know, zeroes the rest, and sets struct_size to what it filled ---- */
typedef struct mlxrt_tensor {              /* F32, row-major; data is freed with mlxrt_free */
  uint32_t struct_size; int32_t dtype;
  uint32_t rank, reserved;
  uint64_t shape[8];
  void *data; uint64_t bytes;
} mlxrt_tensor;

typedef struct mlxrt_memory {
  uint32_t struct_size, flags;
  uint64_t active_bytes, cache_bytes, peak_bytes, weight_bytes, kv_bytes, limit_bytes;
} mlxrt_memory;

typedef struct mlxrt_session_state {
  uint32_t struct_size, flags;
  uint64_t tokens, context, kv_tokens, kv_bytes;
  uint32_t busy, adapters;
} mlxrt_session_state;

typedef struct mlxrt_result {
  uint32_t struct_size; int32_t stop;
  uint32_t stop_index; int32_t error_code;
  uint64_t seed;
  uint64_t prompt_tokens, cached_tokens, generated_tokens, thinking_tokens, drafted, accepted;
  uint64_t queue_ns, prefill_ns, first_token_ns, decode_ns, total_ns;
  uint64_t peak_bytes, active_bytes, kv_bytes;
} mlxrt_result;

typedef struct mlxrt_metrics_data {        /* since start; the last_ fields are of the last request that ended */
  uint32_t struct_size, flags;
  uint64_t requests_started, requests_running, requests_completed, requests_cancelled, requests_failed;
  uint64_t prompt_tokens, cached_tokens, generated_tokens, prefill_ns, decode_ns;
  uint64_t active_bytes, cache_bytes, peak_bytes, weight_bytes, kv_bytes;
  uint64_t last_prompt_tokens, last_cached_tokens, last_generated_tokens, last_prefill_ns, last_first_token_ns, last_decode_ns, last_total_ns, last_peak_bytes;
  uint64_t requests_waiting, queue_ns, passes, pass_rows; /* waiting now; passes that computed next tokens, and their rows */
} mlxrt_metrics_data;

/* ---- handed out by the library; struct_size is the library's (MLXRT_HAS) ---- */
struct mlxrt_event {
  uint32_t struct_size; int32_t kind;
  const char *text; size_t text_len;       /* never NULL, whole code points, NUL-terminated; may hold U+0000 */
  const int32_t *tokens; size_t token_count; /* exactly the tokens completed by this event; all events joined = all generated tokens */
  const float *logprobs;                   /* token_count of them, or NULL */
  const int32_t *top_tokens; const float *top_logprobs; size_t top_count; /* token_count x top_count */
  uint64_t done, total;
};

struct mlxrt_train_event {
  uint32_t struct_size, flags;
  uint64_t step, steps, trained_tokens, truncated_samples, peak_bytes;
  double loss, validation_loss, tokens_per_second, learning_rate; /* validation_loss: NaN when not measured in this step */
};

/* ---- library ---- */
uint32_t mlxrt_abi_version(void);
const char *mlxrt_version(void);
const mlxrt_api *mlxrt_get_api(uint32_t abi); /* for plugins; NULL when abi is newer than the library */
mlxrt_error *mlxrt_init(const mlxrt_init_options *options); /* optional, counted; another device than the first init's: INCOMPATIBLE */
mlxrt_error *mlxrt_shutdown(uint32_t flags, uint32_t timeout_ms); /* drops one init; the engine ends when no init and no model is left; BUSY names what is left */
mlxrt_error *mlxrt_suspend(uint32_t timeout_ms); /* counted; on return no device work runs and none starts; TIMEOUT: call again */
mlxrt_error *mlxrt_resume(void);
mlxrt_error *mlxrt_device_info(char **json, size_t *len);
mlxrt_error *mlxrt_log_set(int32_t level, mlxrt_log_fn fn, void *user_data); /* NULL = silent, the default; on return the old fn neither runs nor will */
void mlxrt_free(void *buffer);
/* ---- errors ---- */
int32_t mlxrt_error_code(const mlxrt_error *error);
const char *mlxrt_error_message(const mlxrt_error *error);
void mlxrt_error_free(mlxrt_error *error);
const char *mlxrt_code_name(int32_t code);
/* ---- memory ---- */
mlxrt_error *mlxrt_memory_set(const mlxrt_memory_limits *limits);
mlxrt_error *mlxrt_memory_get(mlxrt_memory *out);
mlxrt_error *mlxrt_memory_trim(int32_t level); /* 0 buffer cache; 1 and prefix cache; 2 and idle KV: ledgers stay, prefilled again on use */
/* ---- models ---- */
mlxrt_error *mlxrt_model_inspect(const char *path, const mlxrt_load_options *load, const mlxrt_session_options *session, char **json, size_t *len); /* no weights read */
mlxrt_error *mlxrt_model_load(const char *path, const mlxrt_load_options *options, mlxrt_model **out);
mlxrt_error *mlxrt_model_info(const mlxrt_model *model, char **json, size_t *len);
mlxrt_error *mlxrt_model_save(mlxrt_model *model, mlxrt_adapter *const *adapters, const float *scales, size_t count, const char *path, const mlxrt_call_options *options);
void mlxrt_model_free(mlxrt_model *model);
mlxrt_error *mlxrt_tokenize(const mlxrt_model *model, const char *text, size_t len, uint32_t flags, int32_t **ids, size_t *count);
mlxrt_error *mlxrt_detokenize(const mlxrt_model *model, const int32_t *ids, size_t count, uint32_t flags, char **text, size_t *len);
mlxrt_error *mlxrt_render(const mlxrt_model *model, const mlxrt_input *input, char **text, size_t *len);
mlxrt_error *mlxrt_count_tokens(const mlxrt_model *model, const mlxrt_input *input, int32_t **ids, size_t *count); /* what generate would take in, provenance included; ids may be NULL */
/* ---- adapters ---- */
mlxrt_error *mlxrt_adapter_create(mlxrt_model *model, const mlxrt_adapter_options *options, mlxrt_adapter **out);
mlxrt_error *mlxrt_adapter_load(mlxrt_model *model, const char *path, const mlxrt_call_options *options, mlxrt_adapter **out);
mlxrt_error *mlxrt_adapter_info(const mlxrt_adapter *adapter, char **json, size_t *len);
mlxrt_error *mlxrt_adapter_get(const mlxrt_adapter *adapter, const char *name, mlxrt_tensor *out);
mlxrt_error *mlxrt_adapter_set(mlxrt_adapter *adapter, const char *name, const mlxrt_tensor_view *in);
mlxrt_error *mlxrt_adapter_save(const mlxrt_adapter *adapter, const char *path, const mlxrt_call_options *options);
void mlxrt_adapter_free(mlxrt_adapter *adapter);
mlxrt_error *mlxrt_apply_adapter(mlxrt_session *session, mlxrt_adapter *const *adapters, const float *scales, size_t count); /* from the next request on; 0 removes; scales NULL = 1 each */
mlxrt_error *mlxrt_train(mlxrt_model *model, mlxrt_adapter *adapter, const mlxrt_train_options *options, mlxrt_train_fn fn, void *user_data);
/* ---- sessions ---- */
mlxrt_error *mlxrt_session_create(mlxrt_model *model, const mlxrt_session_options *options, mlxrt_session **out);
void mlxrt_session_free(mlxrt_session *session);
mlxrt_error *mlxrt_session_fork(mlxrt_session *session, const mlxrt_call_options *options, mlxrt_session **out);
mlxrt_error *mlxrt_session_truncate(mlxrt_session *session, size_t tokens);
mlxrt_error *mlxrt_session_info(const mlxrt_session *session, mlxrt_session_state *out);
mlxrt_error *mlxrt_session_tokens(const mlxrt_session *session, int32_t **ids, size_t *count);
mlxrt_error *mlxrt_session_message(const mlxrt_session *session, char **json, size_t *len); /* the last answer as messages takes it: role, content, reasoning_content, tool_calls */
mlxrt_error *mlxrt_session_save(mlxrt_session *session, const char *path, const mlxrt_call_options *options);
mlxrt_error *mlxrt_session_load(mlxrt_model *model, const char *path, const mlxrt_call_options *options, mlxrt_session **out);
void mlxrt_session_cancel(mlxrt_session *session); /* what runs now; lock-free, idempotent, not sticky */
mlxrt_error *mlxrt_inspect_attention(mlxrt_session *session, uint32_t layer, mlxrt_tensor *out); /* keys after rope, [kv_heads, tokens, head_dim] */
/* ---- generation ---- */
mlxrt_error *mlxrt_generate(mlxrt_session *session, const mlxrt_input *input, const mlxrt_generate_options *options, mlxrt_event_fn fn, void *user_data, mlxrt_result *out);
mlxrt_error *mlxrt_submit(mlxrt_session *session, const mlxrt_input *input, const mlxrt_generate_options *options, mlxrt_request **out);
mlxrt_error *mlxrt_request_next(mlxrt_request *request, uint32_t timeout_ms, mlxrt_event **out, int32_t *state); /* the event is one block, the caller's, mlxrt_free(event) */
void mlxrt_request_cancel(mlxrt_request *request);
mlxrt_error *mlxrt_request_result(mlxrt_request *request, uint32_t timeout_ms, mlxrt_result *out); /* discards unread events, waits for the end, repeatable */
void mlxrt_request_free(mlxrt_request *request); /* cancels */
mlxrt_error *mlxrt_embed(mlxrt_model *model, const char *const *texts, const size_t *lens, size_t count, const mlxrt_embed_options *options, mlxrt_tensor *out);
mlxrt_error *mlxrt_score(mlxrt_session *session, const mlxrt_input *prefix, const mlxrt_input *target, const mlxrt_call_options *options, float **logprobs, size_t *count); /* the session is unchanged */
/* ---- grammars ---- */
mlxrt_error *mlxrt_grammar_compile(const mlxrt_model *model, int32_t kind, const char *source, size_t len, const mlxrt_call_options *options, mlxrt_grammar **out);
void mlxrt_grammar_free(mlxrt_grammar *grammar);
/* ---- metrics ---- */
mlxrt_error *mlxrt_metrics(const mlxrt_model *model, mlxrt_metrics_data *out); /* NULL = the whole process; always on */

#ifdef __cplusplus
}
#endif
#endif
