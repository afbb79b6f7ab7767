/* A program of version 1: compiled with the header beside it, which is frozen, and with nothing else of this repository.
 * It uses whatever that header has, the way hosts do, and must go on to compile and run with every later library.
 *
 *   client MODEL_FOLDER
 */
#define _POSIX_C_SOURCE 200809L

#include "mlxrt.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int failures, checks;

static int check(int passed, int line, const char *what) {
  checks++;
  if (!passed) {
    failures++;
    printf("client.c:%d: %s\n", line, what);
  }
  return passed;
}

/* Frees the error. */
static int gives(mlxrt_error *error, int32_t code, int line, const char *what) {
  int passed = check(mlxrt_error_code(error) == code, line, what);
  if (!passed) printf("  %s: %s\n", mlxrt_code_name(mlxrt_error_code(error)), mlxrt_error_message(error));
  mlxrt_error_free(error);
  return passed;
}

#define CHECK(condition) check(!!(condition), __LINE__, #condition)
#define OK(call) gives((call), MLXRT_OK, __LINE__, #call)
#define FAILS(call, code) gives((call), (code), __LINE__, #call)
/* All zero but struct_size. */
#define START(value) (memset(&(value), 0, sizeof(value)), (value).struct_size = (uint32_t)sizeof(value))

#define MESSAGES "[{\"role\":\"user\",\"content\":\"Hi\"}]"

/* What the events of one request gave. */
struct seen {
  char text[8192];
  size_t text_len, tokens, progress, events;
  int logprobs, alternatives;
  mlxrt_session *session;
  /* At this event: return STOP, or cancel. */
  size_t stop_at, cancel_at;
};

static int32_t on_event(void *user_data, const mlxrt_event *event) {
  struct seen *seen = user_data;
  seen->events++;
  /* All that version 1 has is there, whatever the library added. */
  CHECK(MLXRT_HAS(event, kind) && MLXRT_HAS(event, text) && MLXRT_HAS(event, text_len));
  CHECK(MLXRT_HAS(event, tokens) && MLXRT_HAS(event, token_count) && MLXRT_HAS(event, logprobs));
  CHECK(MLXRT_HAS(event, top_tokens) && MLXRT_HAS(event, top_logprobs) && MLXRT_HAS(event, top_count));
  CHECK(MLXRT_HAS(event, done) && MLXRT_HAS(event, total));
  CHECK(event->struct_size >= sizeof *event);
  switch (event->kind) {
    case MLXRT_EVENT_PROGRESS:
      seen->progress++;
      CHECK(event->done <= event->total);
      break;
    case MLXRT_EVENT_TEXT:
    case MLXRT_EVENT_THINKING:
    case MLXRT_EVENT_TOOL_CALL:
      CHECK(event->text && event->text[event->text_len] == 0);
      if (seen->text_len + event->text_len < sizeof seen->text) {
        memcpy(seen->text + seen->text_len, event->text, event->text_len);
        seen->text_len += event->text_len;
      }
      for (size_t i = 0; i < event->token_count; i++) CHECK(event->tokens[i] >= 0);
      seen->tokens += event->token_count;
      if (event->logprobs) {
        seen->logprobs = 1;
        for (size_t i = 0; i < event->token_count; i++) CHECK(event->logprobs[i] <= 0);
      }
      if (event->top_tokens) seen->alternatives = event->top_count == 2 && event->top_logprobs != NULL;
      break;
    default: /* Later versions have more kinds. */
      break;
  }
  if (seen->cancel_at && seen->events >= seen->cancel_at) mlxrt_session_cancel(seen->session);
  return seen->stop_at && seen->events >= seen->stop_at ? MLXRT_RETURN_STOP : MLXRT_RETURN_CONTINUE;
}

static int32_t on_progress(void *user_data, uint64_t done, uint64_t total) {
  ++*(int *)user_data;
  CHECK(done <= total);
  return MLXRT_RETURN_CONTINUE;
}

static int32_t stop_at_once(void *user_data, uint64_t done, uint64_t total) {
  (void)user_data, (void)done, (void)total;
  return MLXRT_RETURN_STOP;
}

static void on_log(void *user_data, int32_t level, const char *message, size_t len) {
  ++*(int *)user_data;
  CHECK(level >= MLXRT_LOG_ERROR && level <= MLXRT_LOG_DEBUG && strlen(message) == len);
}

static void the_library(void) {
  CHECK(mlxrt_abi_version() >= MLXRT_ABI);
  CHECK(strchr(mlxrt_version(), '.') != NULL);
  const mlxrt_api *api = mlxrt_get_api(MLXRT_ABI);
  CHECK(mlxrt_get_api(0) == NULL);
  CHECK(mlxrt_get_api(mlxrt_abi_version() + 1) == NULL);
  if (CHECK(api != NULL)) {
    CHECK(api->struct_size >= sizeof *api && api->abi == mlxrt_abi_version());
    CHECK(MLXRT_HAS(api, mlxrt_metrics));
    CHECK(api->mlxrt_abi_version() == mlxrt_abi_version());
    CHECK(strcmp(api->mlxrt_version(), mlxrt_version()) == 0);
    CHECK(strcmp(api->mlxrt_code_name(MLXRT_E_IO), "IO") == 0);
    mlxrt_error *error = api->mlxrt_memory_get(NULL);
    CHECK(api->mlxrt_error_code(error) == MLXRT_E_INVALID_ARGUMENT);
    CHECK(strstr(api->mlxrt_error_message(error), "out") != NULL);
    api->mlxrt_error_free(error);
  }
  /* Codes keep their numbers and names. */
  static const char *const codes[] = {"OK",         "INVALID_ARGUMENT", "INVALID_HANDLE", "NOT_FOUND",     "IO",
                                      "BAD_MODEL",  "INCOMPATIBLE",     "UNSUPPORTED",    "OUT_OF_MEMORY", "CONTEXT_FULL",
                                      "BUSY",       "CANCELLED",        "TIMEOUT",        "SUSPENDED",     "DEVICE",
                                      "RESOURCES",  "BAD_GRAMMAR",      "REENTRANT",      "FORKED",        "INTERNAL"};
  for (int32_t code = MLXRT_OK; code <= MLXRT_E_INTERNAL; code++) CHECK(!strcmp(mlxrt_code_name(code), codes[code]));
  CHECK(!strcmp(mlxrt_code_name(12345), "UNKNOWN"));
  CHECK(mlxrt_error_code(NULL) == MLXRT_OK && !*mlxrt_error_message(NULL));

  mlxrt_init_options options;
  START(options);
  options.device = MLXRT_DEVICE_AUTO;
  options.cache_limit = 64 << 20;
  OK(mlxrt_init(&options));
  OK(mlxrt_init(NULL));
  OK(mlxrt_shutdown(0, MLXRT_FOREVER));
  char *json = NULL;
  size_t len = 0;
  if (OK(mlxrt_device_info(&json, &len))) CHECK(strlen(json) == len && strstr(json, "\"device\""));
  mlxrt_free(json);

  int lines = 0;
  OK(mlxrt_log_set(MLXRT_LOG_ERROR, on_log, &lines));
  mlxrt_model_free((mlxrt_model *)&lines);
  CHECK(lines == 1);
  OK(mlxrt_log_set(0, NULL, NULL));
}

static mlxrt_model *a_model(const char *folder) {
  char *json = NULL;
  size_t len = 0;
  mlxrt_load_options load;
  mlxrt_session_options session;
  START(load);
  START(session);
  session.context = 512;
  if (OK(mlxrt_model_inspect(folder, &load, &session, &json, &len))) CHECK(strstr(json, "\"estimated_bytes\""));
  mlxrt_free(json);

  mlxrt_model *model = (mlxrt_model *)&model;
  FAILS(mlxrt_model_load("/nowhere", NULL, &model), MLXRT_E_NOT_FOUND);
  CHECK(model == NULL);
  load.progress = stop_at_once;
  FAILS(mlxrt_model_load(folder, &load, &model), MLXRT_E_CANCELLED);
  int calls = 0;
  load.progress = on_progress;
  load.progress_data = &calls;
  load.context = 1024;
  load.timeout_ms = 60000;
  if (!OK(mlxrt_model_load(folder, &load, &model))) return NULL;
  CHECK(calls > 0);
  json = NULL;
  if (OK(mlxrt_model_info(model, &json, NULL))) CHECK(strstr(json, "\"model_type\""));
  mlxrt_free(json);
  return model;
}

static void tokens_and_text(mlxrt_model *model) {
  int32_t *ids = NULL;
  size_t count = 0, len = 0;
  char *text = NULL;
  OK(mlxrt_tokenize(model, "Hello", MLXRT_NTS, MLXRT_TOKENIZE_SPECIAL_AS_TEXT, &ids, &count));
  CHECK(ids && count > 0);
  if (OK(mlxrt_detokenize(model, ids, count, MLXRT_DETOKENIZE_SKIP_SPECIAL, &text, &len))) {
    CHECK(len == 5 && !strcmp(text, "Hello"));
  }
  mlxrt_free(ids);
  mlxrt_free(text);
  OK(mlxrt_tokenize(model, "Hello", 2, MLXRT_TOKENIZE_ADD_SPECIAL, &ids, &count));
  mlxrt_free(ids);
  FAILS(mlxrt_tokenize(model, "\xff", 1, 0, &ids, &count), MLXRT_E_INVALID_ARGUMENT);
  CHECK(ids == NULL);

  mlxrt_input input;
  START(input);
  input.messages = MESSAGES;
  input.messages_len = MLXRT_NTS;
  input.template_args = "{\"enable_thinking\":false}";
  input.template_args_len = MLXRT_NTS;
  text = NULL;
  if (OK(mlxrt_render(model, &input, &text, &len))) CHECK(strstr(text, "Hi") && strlen(text) == len);
  if (OK(mlxrt_count_tokens(model, &input, &ids, &count))) CHECK(ids && count > 0);
  mlxrt_free(ids);
  mlxrt_free(text);
}

/* Runs a request that must succeed; what it gave is in `seen` and the result. */
static mlxrt_result run(mlxrt_session *session, const mlxrt_input *input, const mlxrt_generate_options *options,
                        struct seen *seen) {
  mlxrt_result result;
  START(result);
  seen->session = session;
  OK(mlxrt_generate(session, input, options, on_event, seen, &result));
  CHECK(result.struct_size == sizeof result && result.error_code == MLXRT_OK);
  CHECK(result.generated_tokens == seen->tokens);
  CHECK(result.prompt_tokens >= result.cached_tokens);
  CHECK(result.total_ns >= result.prefill_ns && result.total_ns >= result.decode_ns);
  CHECK(result.peak_bytes >= result.active_bytes || !result.active_bytes);
  return result;
}

static mlxrt_session *a_session(mlxrt_model *model) {
  mlxrt_session *session = NULL;
  mlxrt_session_options options;
  START(options);
  options.context = 512;
  OK(mlxrt_session_create(model, &options, &session));
  options.flags = 0x80000000u;
  mlxrt_session *none = (mlxrt_session *)&none;
  FAILS(mlxrt_session_create(model, &options, &none), MLXRT_E_UNSUPPORTED);
  CHECK(none == NULL);
  options.flags = 0;
  options.struct_size = 0;
  FAILS(mlxrt_session_create(model, &options, &none), MLXRT_E_INVALID_ARGUMENT);
  return session;
}

static void generation(mlxrt_model *model) {
  mlxrt_session *session = a_session(model);
  if (!session) return;
  mlxrt_input input;
  mlxrt_generate_options options;
  START(input);
  START(options);

  /* A chat, greedy, with everything reported. */
  struct seen first = {0}, second = {0};
  input.messages = MESSAGES;
  input.messages_len = strlen(MESSAGES);
  options.flags = MLXRT_GEN_GREEDY | MLXRT_GEN_IGNORE_EOS | MLXRT_GEN_LOGPROBS;
  options.max_tokens = 12;
  options.top_logprobs = 2;
  options.progress_tokens = 1;
  options.timeout_ms = 60000;
  mlxrt_result result = run(session, &input, &options, &first);
  CHECK(result.stop == MLXRT_STOPPED_LENGTH && result.generated_tokens == 12);
  CHECK(first.logprobs && first.alternatives && first.progress > 0);
  CHECK(result.kv_bytes > 0);

  mlxrt_session_state state;
  START(state);
  OK(mlxrt_session_info(session, &state));
  CHECK(state.struct_size == sizeof state && state.busy == 0 && state.context == 512);
  CHECK(state.tokens == result.prompt_tokens + 12 && state.kv_tokens <= state.tokens && state.kv_bytes > 0);
  int32_t *ids = NULL;
  size_t count = 0;
  OK(mlxrt_session_tokens(session, &ids, &count));
  CHECK(ids && count == state.tokens);
  mlxrt_free(ids);
  char *json = NULL;
  size_t len = 0;
  OK(mlxrt_session_message(session, &json, &len));
  CHECK(json && strstr(json, "\"assistant\"") && strlen(json) == len);
  mlxrt_free(json);

  /* The same again, in a new session: the same text. The history again in the old one: computed before. */
  mlxrt_session *other = a_session(model);
  run(other, &input, &options, &second);
  CHECK(first.text_len == second.text_len && !memcmp(first.text, second.text, first.text_len));
  struct seen again = {0};
  result = run(session, &input, &options, &again);
  CHECK(result.cached_tokens > 0);
  CHECK(first.text_len == again.text_len && !memcmp(first.text, again.text, first.text_len));

  /* A fork goes on from where it was made; cut to its prompt, it answers the same once more. */
  mlxrt_session *fork = NULL;
  OK(mlxrt_session_fork(session, NULL, &fork));
  OK(mlxrt_session_truncate(fork, 5));
  START(state);
  OK(mlxrt_session_info(fork, &state));
  CHECK(state.tokens == 5);
  FAILS(mlxrt_session_truncate(fork, 6), MLXRT_E_INVALID_ARGUMENT);
  memset(&again, 0, sizeof again);
  run(fork, &input, &options, &again);
  CHECK(first.text_len == again.text_len && !memcmp(first.text, again.text, first.text_len));
  /* From a file it goes on as well. */
  char file[] = "/tmp/mlxrt-client-XXXXXX";
  CHECK(mkdtemp(file) != NULL);
  char session_path[64];
  snprintf(session_path, sizeof session_path, "%s/session", file);
  OK(mlxrt_session_truncate(fork, 5));
  OK(mlxrt_session_save(fork, session_path, NULL));
  mlxrt_session_free(fork);
  OK(mlxrt_session_load(model, session_path, NULL, &fork));
  CHECK(remove(session_path) == 0 && remove(file) == 0);
  memset(&again, 0, sizeof again);
  run(fork, &input, &options, &again);
  CHECK(first.text_len == again.text_len && !memcmp(first.text, again.text, first.text_len));
  /* Its keys, and how likely it finds a text; neither changes it. */
  mlxrt_tensor keys;
  START(keys);
  OK(mlxrt_inspect_attention(fork, 0, &keys));
  CHECK(keys.rank == 3 && keys.shape[1] >= 5 && keys.data != NULL);
  mlxrt_free(keys.data);
  mlxrt_input scored;
  memset(&scored, 0, sizeof scored);
  scored.struct_size = sizeof scored;
  scored.text = "a text";
  scored.text_len = MLXRT_NTS;
  float *logprobs = NULL;
  size_t scores = 0;
  OK(mlxrt_score(fork, NULL, &scored, NULL, &logprobs, &scores));
  CHECK(scores > 0 && logprobs && logprobs[0] < 0);
  mlxrt_free(logprobs);
  mlxrt_session_free(fork);

  /* Sampled text that goes on, with every knob; the same seed gives the same. */
  struct seen sampled[2];
  for (int i = 0; i < 2; i++) {
    memset(&sampled[i], 0, sizeof sampled[i]);
    mlxrt_session *fresh = a_session(model);
    static const char *const stop[] = {"never seen", "nor this"};
    static const int32_t banned[] = {7}, stop_tokens[] = {6};
    static const float bias[] = {-1e9f};
    START(input);
    START(options);
    input.text = "Once upon";
    input.text_len = 9;
    input.flags = MLXRT_INPUT_NO_BOS | MLXRT_INPUT_SPECIAL_AS_TEXT;
    options.flags = MLXRT_GEN_NO_MODEL_DEFAULTS | MLXRT_GEN_IGNORE_EOS | MLXRT_GEN_NO_PREFIX_CACHE | MLXRT_GEN_RAW_TEXT;
    options.max_tokens = 20;
    options.temperature = 0.8f;
    options.top_p = 0.95f;
    options.min_p = 0.01f;
    options.top_k = 50;
    options.xtc_probability = 0.1f;
    options.xtc_threshold = 0.2f;
    options.repetition_penalty = 1.1f;
    options.presence_penalty = 0.1f;
    options.frequency_penalty = 0.1f;
    options.penalty_window = 64;
    options.seed = 11;
    options.stop = stop;
    options.stop_count = 2;
    options.stop_tokens = stop_tokens;
    options.stop_token_count = 1;
    options.bias_tokens = banned;
    options.bias_values = bias;
    options.bias_count = 1;
    result = run(fresh, &input, &options, &sampled[i]);
    CHECK(result.seed == 11);
    CHECK(result.stop == MLXRT_STOPPED_LENGTH || result.stop == MLXRT_STOPPED_TOKEN);
    mlxrt_session_free(fresh);
  }
  CHECK(sampled[0].text_len == sampled[1].text_len && !memcmp(sampled[0].text, sampled[1].text, sampled[0].text_len));

  /* Stopped by the callback, and cancelled: results, and the session goes on. Tokens in, no text out. */
  static const int32_t tokens[] = {1, 2, 3};
  START(input);
  START(options);
  input.tokens = tokens;
  input.token_count = 3;
  options.flags = MLXRT_GEN_GREEDY | MLXRT_GEN_IGNORE_EOS;
  options.max_tokens = 200;
  struct seen stopped = {0}, cancelled = {0}, silent = {0};
  stopped.stop_at = 3;
  CHECK(run(other, &input, &options, &stopped).stop == MLXRT_STOPPED_CALLBACK);
  cancelled.cancel_at = 3;
  CHECK(run(other, &input, &options, &cancelled).stop == MLXRT_STOPPED_CANCELLED);
  options.flags |= MLXRT_GEN_TOKENS_ONLY;
  options.max_tokens = 5;
  CHECK(run(other, &input, &options, &silent).generated_tokens == 5 && silent.text_len == 0);
  options.flags = MLXRT_GEN_PREFILL_ONLY;
  struct seen nothing = {0};
  CHECK(run(other, &input, &options, &nothing).generated_tokens == 0);

  /* A result is filled on failure too. */
  START(result);
  options.flags = MLXRT_GEN_GREEDY;
  options.temperature = 1;
  FAILS(mlxrt_generate(other, &input, &options, NULL, NULL, &result), MLXRT_E_INVALID_ARGUMENT);
  CHECK(result.stop == MLXRT_STOPPED_ERROR && result.error_code == MLXRT_E_INVALID_ARGUMENT);
  mlxrt_session_free(other);
  FAILS(mlxrt_generate(other, &input, NULL, NULL, NULL, &result), MLXRT_E_INVALID_HANDLE);
  mlxrt_session_free(session);
}

static void on_notify(void *user_data) {
  (void)user_data; /* It may only signal something. */
}

/* Pulled instead of pushed. */
static void requests(mlxrt_model *model) {
  mlxrt_session *session = a_session(model);
  if (!session) return;
  mlxrt_input input;
  mlxrt_generate_options options;
  mlxrt_result result;
  START(input);
  START(options);
  START(result);
  input.text = "Hello";
  input.text_len = MLXRT_NTS;
  options.flags = MLXRT_GEN_GREEDY | MLXRT_GEN_IGNORE_EOS;
  options.max_tokens = 10;
  options.notify = on_notify;
  mlxrt_request *first = NULL, *second = NULL;
  struct seen seen = {0};
  int32_t state = MLXRT_NEXT_PENDING;
  OK(mlxrt_submit(session, &input, &options, &first));
  options.max_tokens = 400;
  OK(mlxrt_submit(session, &input, &options, &second));
  while (state != MLXRT_NEXT_DONE) {
    mlxrt_event *event = NULL;
    if (!OK(mlxrt_request_next(first, 1000, &event, &state))) break;
    CHECK((event != NULL) == (state == MLXRT_NEXT_EVENT));
    if (event) on_event(&seen, event);
    mlxrt_free(event);
  }
  OK(mlxrt_request_result(first, MLXRT_FOREVER, &result));
  CHECK(result.struct_size == sizeof result && result.stop == MLXRT_STOPPED_LENGTH);
  CHECK(result.generated_tokens == 10 && seen.tokens == 10);
  mlxrt_request_cancel(second);
  OK(mlxrt_request_result(second, MLXRT_FOREVER, &result));
  CHECK(result.stop == MLXRT_STOPPED_CANCELLED || result.stop == MLXRT_STOPPED_LENGTH);
  mlxrt_request_free(first);
  FAILS(mlxrt_request_result(first, 0, &result), MLXRT_E_INVALID_HANDLE);
  mlxrt_request_free(second);

  /* In the background, and back. */
  options.notify = NULL;
  OK(mlxrt_suspend(MLXRT_FOREVER));
  FAILS(mlxrt_generate(session, &input, &options, NULL, NULL, &result), MLXRT_E_SUSPENDED);
  OK(mlxrt_resume());
  FAILS(mlxrt_resume(), MLXRT_E_INVALID_ARGUMENT);

  mlxrt_memory_limits limits;
  START(limits);
  limits.cache_limit = 32 << 20;
  OK(mlxrt_memory_set(&limits));
  OK(mlxrt_memory_trim(2));
  mlxrt_session_free(session);
}

static int32_t on_step(void *user_data, const mlxrt_train_event *event) {
  *(uint64_t *)user_data += event->step;
  CHECK(MLXRT_HAS(event, learning_rate) && event->steps == 2 && event->loss > 0 && event->truncated_samples == 0);
  return MLXRT_RETURN_CONTINUE;
}

/* Applied, changed, saved and loaded again. */
static void adapters(mlxrt_model *model) {
  mlxrt_session *session = a_session(model);
  if (!session) return;
  mlxrt_adapter_options options;
  mlxrt_call_options call;
  mlxrt_tensor tensor;
  mlxrt_tensor_view view;
  START(options);
  START(call);
  START(tensor);
  START(view);
  options.rank = 2;
  mlxrt_adapter *adapter = NULL, *again = NULL;
  OK(mlxrt_adapter_create(model, &options, &adapter));
  char *json = NULL;
  OK(mlxrt_adapter_info(adapter, &json, NULL));
  char name[200] = "";
  const char *at = json ? strstr(json, "\"name\":\"") : NULL;
  if (CHECK(at != NULL)) sscanf(at, "\"name\":\"%199[^\"]", name);
  mlxrt_free(json);
  OK(mlxrt_adapter_get(adapter, name, &tensor));
  CHECK(tensor.struct_size == sizeof tensor && tensor.dtype == MLXRT_DTYPE_F32 && tensor.rank == 2);
  view.dtype = tensor.dtype;
  view.rank = tensor.rank;
  memcpy(view.shape, tensor.shape, sizeof view.shape);
  view.data = tensor.data;
  view.bytes = tensor.bytes;
  OK(mlxrt_adapter_set(adapter, name, &view));
  mlxrt_free(tensor.data);
  char folder[] = "/tmp/mlxrt-client-XXXXXX", path[96];
  CHECK(mkdtemp(folder) != NULL);
  OK(mlxrt_adapter_save(adapter, folder, &call));
  OK(mlxrt_adapter_load(model, folder, &call, &again));
  snprintf(path, sizeof path, "%s/adapters.safetensors", folder);
  remove(path);
  snprintf(path, sizeof path, "%s/adapter_config.json", folder);
  remove(path);
  remove(folder);
  mlxrt_train_options training;
  START(training);
  const char data[] = "{\"prompt\": \"Hi\", \"completion\": \"Hello\"}";
  training.train = data;
  training.train_len = sizeof data - 1;
  training.steps = 2;
  training.batch_size = training.report_every = 1;
  training.flags = MLXRT_TRAIN_MASK_PROMPT;
  uint64_t steps = 0;
  OK(mlxrt_train(model, adapter, &training, on_step, &steps));
  CHECK(steps == 3);
  mlxrt_adapter *both[] = {adapter, again};
  const float scales[] = {1, 0.5f};
  char whole[] = "/tmp/mlxrt-client-model-XXXXXX";
  mlxrt_model *fused = NULL;
  CHECK(mkdtemp(whole) != NULL);
  OK(mlxrt_model_save(model, both, scales, 2, whole, &call));
  OK(mlxrt_model_load(whole, NULL, &fused));
  mlxrt_model_free(fused);
  const char *const files[] = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
                               "chat_template.jinja", "model.safetensors", "model.safetensors.index.json"};
  for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
    snprintf(path, sizeof path, "%s/%s", whole, files[i]);
    remove(path);
  }
  remove(whole);
  OK(mlxrt_apply_adapter(session, both, scales, 2));
  OK(mlxrt_apply_adapter(session, NULL, NULL, 0));
  mlxrt_adapter_free(again);
  mlxrt_adapter_free(adapter);
  mlxrt_session_free(session);
}

static void rows_of_texts(mlxrt_model *model) {
  const char *const texts[] = {"Hello there", "Hello"};
  mlxrt_embed_options options;
  mlxrt_tensor tensor;
  START(options);
  START(tensor);
  options.pooling = MLXRT_POOLING_MEAN;
  options.flags = MLXRT_EMBED_NORMALIZE;
  OK(mlxrt_embed(model, texts, NULL, 2, &options, &tensor));
  CHECK(tensor.rank == 2 && tensor.shape[0] == 2 && tensor.bytes == 8 * tensor.shape[1]);
  mlxrt_free(tensor.data);
}

static void what_it_cost(mlxrt_model *model) {
  mlxrt_memory memory;
  mlxrt_metrics_data of_model, of_process;
  START(memory);
  START(of_model);
  START(of_process);
  OK(mlxrt_memory_get(&memory));
  CHECK(memory.struct_size == sizeof memory && memory.weight_bytes > 0);
  CHECK(memory.active_bytes >= memory.weight_bytes && memory.peak_bytes >= memory.active_bytes);
  CHECK(memory.limit_bytes > 0);
  OK(mlxrt_metrics(model, &of_model));
  OK(mlxrt_metrics(NULL, &of_process));
  CHECK(of_model.struct_size == sizeof of_model && of_process.struct_size == sizeof of_process);
  CHECK(of_model.requests_started >= 8 && of_model.requests_running == 0);
  CHECK(of_model.requests_cancelled == 1 && of_model.generated_tokens > 60);
  CHECK(of_process.requests_started >= of_model.requests_started);
  CHECK(of_process.weight_bytes == memory.weight_bytes);
  CHECK(of_model.requests_waiting == 0 && of_model.queue_ns > 0);
  CHECK(of_model.passes > 0 && of_model.pass_rows >= of_model.passes && of_process.passes >= of_model.passes);
}

/* An answer that nothing but a grammar makes of random weights. */
static void grammars(mlxrt_model *model) {
  mlxrt_session *session = a_session(model);
  if (!session) return;
  static const char schema[] = "{\"enum\":[\"yes\",\"no\"]}";
  mlxrt_call_options call;
  mlxrt_generate_options options;
  mlxrt_input input;
  mlxrt_result result;
  START(call);
  START(options);
  START(input);
  START(result);
  mlxrt_grammar *grammar = NULL, *none = NULL;
  OK(mlxrt_grammar_compile(model, MLXRT_GRAMMAR_JSON_SCHEMA, schema, sizeof schema - 1, &call, &grammar));
  FAILS(mlxrt_grammar_compile(model, MLXRT_GRAMMAR_REGEX, "(", 1, NULL, &none), MLXRT_E_BAD_GRAMMAR);
  CHECK(none == NULL);
  input.text = "Yes or no?";
  input.text_len = MLXRT_NTS;
  options.max_tokens = 20;
  options.grammar = grammar;
  struct seen seen;
  memset(&seen, 0, sizeof seen);
  seen.session = session;
  OK(mlxrt_generate(session, &input, &options, on_event, &seen, &result));
  CHECK(result.stop == MLXRT_STOPPED_GRAMMAR);
  CHECK((seen.text_len == 5 && !memcmp(seen.text, "\"yes\"", 5)) || (seen.text_len == 4 && !memcmp(seen.text, "\"no\"", 4)));
  mlxrt_grammar_free(grammar);
  mlxrt_session_free(session);
}

int main(int argc, char **argv) {
  if (argc != 2) return fprintf(stderr, "client MODEL_FOLDER\n"), 2;
  the_library();
  mlxrt_model *model = a_model(argv[1]);
  if (model) {
    tokens_and_text(model);
    generation(model);
    rows_of_texts(model);
    what_it_cost(model);
    requests(model);
    adapters(model);
    grammars(model);
    FAILS(mlxrt_shutdown(0, 0), MLXRT_E_BUSY);
  }
  mlxrt_model_free(model);
  OK(mlxrt_init(NULL));
  OK(mlxrt_shutdown(MLXRT_SHUTDOWN_FORCE, MLXRT_FOREVER));
  printf("a client of version 1 on %s (ABI %u): %d checks, %d failed\n", mlxrt_version(), (unsigned)mlxrt_abi_version(),
         checks, failures);
  return failures ? 1 : 0;
}
