/* The library itself: versions, errors, the device, memory, metrics of the process, the log. */
#include "use.h"

#include <pthread.h>

static void versions(void) {
  CHECK_INT(mlxrt_abi_version(), MLXRT_ABI);
  int major = -1, minor = -1, patch = -1;
  CHECK_INT(sscanf(mlxrt_version(), "%d.%d.%d", &major, &minor, &patch), 3);
  CHECK(mlxrt_version() == mlxrt_version());
}

static void code_names(void) {
  static const struct {
    int32_t code;
    const char *name;
  } names[] = {
      {MLXRT_OK, "OK"},
      {MLXRT_E_INVALID_ARGUMENT, "INVALID_ARGUMENT"},
      {MLXRT_E_INVALID_HANDLE, "INVALID_HANDLE"},
      {MLXRT_E_NOT_FOUND, "NOT_FOUND"},
      {MLXRT_E_IO, "IO"},
      {MLXRT_E_BAD_MODEL, "BAD_MODEL"},
      {MLXRT_E_INCOMPATIBLE, "INCOMPATIBLE"},
      {MLXRT_E_UNSUPPORTED, "UNSUPPORTED"},
      {MLXRT_E_OUT_OF_MEMORY, "OUT_OF_MEMORY"},
      {MLXRT_E_CONTEXT_FULL, "CONTEXT_FULL"},
      {MLXRT_E_BUSY, "BUSY"},
      {MLXRT_E_CANCELLED, "CANCELLED"},
      {MLXRT_E_TIMEOUT, "TIMEOUT"},
      {MLXRT_E_SUSPENDED, "SUSPENDED"},
      {MLXRT_E_DEVICE, "DEVICE"},
      {MLXRT_E_RESOURCES, "RESOURCES"},
      {MLXRT_E_BAD_GRAMMAR, "BAD_GRAMMAR"},
      {MLXRT_E_REENTRANT, "REENTRANT"},
      {MLXRT_E_FORKED, "FORKED"},
      {MLXRT_E_INTERNAL, "INTERNAL"},
      {-1, "UNKNOWN"},
      {20, "UNKNOWN"},
      {INT32_MIN, "UNKNOWN"},
      {INT32_MAX, "UNKNOWN"},
  };
  for (size_t i = 0; i < COUNT(names); i++) CHECK_TEXT(mlxrt_code_name(names[i].code), names[i].name);
}

static void no_error(void) {
  CHECK_INT(mlxrt_error_code(NULL), MLXRT_OK);
  CHECK_TEXT(mlxrt_error_message(NULL), "");
  mlxrt_error_free(NULL);
  mlxrt_free(NULL);
}

static void *read_and_free(void *error) {
  CHECK_INT(mlxrt_error_code(error), MLXRT_E_NOT_FOUND);
  CHECK_HAS(mlxrt_error_message(error), "no-such-folder");
  mlxrt_error_free(error);
  return NULL;
}

static void errors_are_read_on_any_thread(void) {
  mlxrt_model *model = NULL;
  mlxrt_error *first = mlxrt_model_load("/no-such-folder", NULL, &model);
  mlxrt_error *second = mlxrt_model_load("/another", NULL, &model);
  pthread_t thread;
  CHECK_INT(pthread_create(&thread, NULL, read_and_free, first), 0);
  pthread_join(thread, NULL);
  FAILS(second, MLXRT_E_NOT_FOUND, "/another");
}

static void device(void) {
  char *json = NULL;
  size_t len = 0;
  OK(mlxrt_device_info(&json, &len));
  CHECK_INT(strlen(json), len);
  const char *keys[] = {"\"device\":", "\"devices\":[", "\"mlx_version\":\"", "\"info\":"};
  for (size_t i = 0; i < COUNT(keys); i++) CHECK_HAS(json, keys[i]);
  mlxrt_free(json);
  OK(mlxrt_device_info(&json, NULL));
  mlxrt_free(json);
}

static mlxrt_memory checked_memory(void) {
  mlxrt_memory out;
  memset(&out, 0xff, sizeof out);
  out.struct_size = sizeof out;
  OK(mlxrt_memory_get(&out));
  CHECK_INT(out.struct_size, sizeof out);
  CHECK_INT(out.flags, 0);
  return out;
}

static void memory_follows_models_and_sessions(void) {
  mlxrt_memory before = checked_memory();
  mlxrt_model *model = load("qwen3-f32");
  mlxrt_memory loaded = checked_memory();
  CHECK_INT(loaded.weight_bytes - before.weight_bytes, 87296);
  CHECK(loaded.active_bytes >= before.active_bytes + 87296);
  CHECK(loaded.peak_bytes >= loaded.active_bytes);
  CHECK(loaded.limit_bytes > 0);
  mlxrt_session *session = session_of(model);
  struct answer *answer = ask(session, text_input("Hello"), greedy(20));
  mlxrt_memory used = checked_memory();
  CHECK(answer->result.kv_bytes > 0);
  CHECK_INT(used.kv_bytes - loaded.kv_bytes, answer->result.kv_bytes);
  CHECK(answer->result.peak_bytes >= answer->result.active_bytes);
  free(answer);
  mlxrt_session_free(session);
  OK(mlxrt_memory_trim(1));
  CHECK_INT(checked_memory().kv_bytes, loaded.kv_bytes);
  mlxrt_model_free(model);
  CHECK_INT(checked_memory().weight_bytes, before.weight_bytes);
}

static void metrics_of_a_model_and_of_the_process(void) {
  mlxrt_metrics_data before = metrics_of(NULL);
  mlxrt_model *model = load("qwen3-f32"), *other = load("llama-f32");
  mlxrt_session *session = session_of(model);
  struct answer *first = ask(session, text_input("Hello"), greedy(20));
  struct answer *second = new_answer();
  second->stop_after = 2;
  ask_into(second, session, text_input(" and"), greedy(20));
  struct answer *failed = new_answer();
  int32_t bad = 131;
  ask_into(failed, session, token_input(&bad, 1), greedy(1));
  CHECK_INT(failed->code, MLXRT_E_INVALID_ARGUMENT);

  mlxrt_metrics_data of_model = metrics_of(model), of_all = metrics_of(NULL), of_other = metrics_of(other);
  CHECK_INT(of_model.requests_started, 3);
  CHECK_INT(of_model.requests_running, 0);
  CHECK_INT(of_model.requests_completed, 2);
  CHECK_INT(of_model.requests_failed, 1);
  CHECK_INT(of_model.requests_cancelled, 0);
  CHECK_INT(of_model.generated_tokens, first->token_count + second->token_count);
  CHECK_INT(of_model.prompt_tokens, first->result.prompt_tokens + second->result.prompt_tokens);
  CHECK_INT(of_model.cached_tokens, first->result.cached_tokens + second->result.cached_tokens);
  CHECK_INT(of_model.prefill_ns, first->result.prefill_ns + second->result.prefill_ns);
  CHECK_INT(of_model.decode_ns, first->result.decode_ns + second->result.decode_ns);
  CHECK_INT(of_model.queue_ns, first->result.queue_ns + second->result.queue_ns);
  CHECK_INT(of_model.requests_waiting, 0);
  CHECK_INT(of_model.weight_bytes, 87296);
  CHECK_INT(of_model.kv_bytes, second->result.kv_bytes);
  CHECK_INT(of_other.requests_started, 0);
  CHECK_INT(of_other.passes, 0);
  CHECK_INT(of_all.requests_started - before.requests_started, 3);
  CHECK_INT(of_all.generated_tokens - before.generated_tokens, of_model.generated_tokens);
  CHECK_INT(of_all.queue_ns - before.queue_ns, of_model.queue_ns);
  CHECK_INT(of_all.passes - before.passes, of_model.passes);
  CHECK_INT(of_all.pass_rows - before.pass_rows, of_model.pass_rows);
  CHECK(of_model.passes > 0 && of_model.pass_rows >= of_model.passes);
  free(first), free(second), free(failed);
  mlxrt_session_free(session);
  OK(mlxrt_memory_trim(1));
  CHECK_INT(metrics_of(model).kv_bytes, 0);
  mlxrt_model_free(model);
  mlxrt_model_free(other);
}

static void a_result_times_its_request(void) {
  mlxrt_model *model = load("qwen3-f32");
  mlxrt_session *session = session_of(model);
  int64_t began = now_ms();
  struct answer *answer = ask(session, text_input("Hello"), greedy(30));
  int64_t took = now_ms() - began + 1;
  mlxrt_result *result = &answer->result;
  CHECK_INT(result->struct_size, sizeof *result);
  CHECK(result->prefill_ns > 0 && result->first_token_ns >= result->prefill_ns && result->decode_ns > 0);
  CHECK(result->queue_ns + result->prefill_ns + result->decode_ns <= result->total_ns);
  CHECK((int64_t)(result->total_ns / 1000000) <= took);
  mlxrt_metrics_data last = metrics_of(model);
  CHECK_INT(last.last_generated_tokens, 30);
  CHECK_INT(last.last_prompt_tokens, result->prompt_tokens);
  CHECK_INT(last.last_total_ns, result->total_ns);
  CHECK_INT(last.last_decode_ns, result->decode_ns);
  CHECK_INT(last.last_first_token_ns, result->first_token_ns);
  free(answer);
  mlxrt_session_free(session);
  mlxrt_model_free(model);
}

struct lines {
  int count, most_severe;
  char last[512];
  mlxrt_model *model;
  int32_t codes[3];
};

static void keep_line(void *user_data, int32_t level, const char *message, size_t len) {
  struct lines *lines = user_data;
  lines->count++;
  lines->most_severe = level;
  CHECK_INT(strlen(message), len);
  CHECK(!strchr(message, '\n'));
  snprintf(lines->last, sizeof lines->last, "%s", message);
  /* Inside it: error, free, version and cancel functions only. */
  char *json = NULL;
  mlxrt_error *errors[] = {mlxrt_model_info(lines->model, &json, NULL), mlxrt_log_set(0, NULL, NULL),
                           mlxrt_shutdown(0, 0)};
  for (size_t i = 0; i < COUNT(errors); i++) {
    lines->codes[i] = mlxrt_error_code(errors[i]);
    mlxrt_error_free(errors[i]);
  }
  CHECK_INT(mlxrt_abi_version(), MLXRT_ABI);
  mlxrt_session_cancel(NULL);
}

static void the_log_hears_of_misuse(void) {
  struct lines lines;
  memset(&lines, 0, sizeof lines);
  lines.model = load("qwen3-f32");
  mlxrt_model *model = load("qwen3-f32");
  OK(mlxrt_log_set(MLXRT_LOG_ERROR, keep_line, &lines));
  mlxrt_model_free(model);
  CHECK_INT(lines.count, 0);
  mlxrt_model_free(model);
  CHECK_INT(lines.count, 1);
  CHECK_INT(lines.most_severe, MLXRT_LOG_ERROR);
  CHECK_HAS(lines.last, "mlxrt_model_free");
  for (size_t i = 0; i < COUNT(lines.codes); i++) CHECK_INT(lines.codes[i], MLXRT_E_REENTRANT);
  mlxrt_session_free((mlxrt_session *)lines.model);
  CHECK_INT(lines.count, 2);
  CHECK_HAS(lines.last, "mlxrt_session_free");
  mlxrt_free(lines.model);
  CHECK_INT(lines.count, 3);
  CHECK_HAS(lines.last, "mlxrt_model_free");
  /* What may be called from a signal handler logs nothing. */
  mlxrt_session_cancel(NULL);
  mlxrt_request_cancel((mlxrt_request *)lines.model);
  CHECK_INT(lines.count, 3);
  /* NULL is silence. */
  OK(mlxrt_log_set(0, NULL, NULL));
  mlxrt_model_free(model);
  CHECK_INT(lines.count, 3);
  check_alive(lines.model);
  mlxrt_model_free(lines.model);
}

static void log_levels(void) {
  struct lines lines;
  memset(&lines, 0, sizeof lines);
  static const int32_t unknown[] = {0, -1, 5, INT32_MAX};
  for (size_t i = 0; i < COUNT(unknown); i++) {
    FAILS(mlxrt_log_set(unknown[i], keep_line, &lines), MLXRT_E_UNSUPPORTED, "level");
  }
  for (int32_t level = MLXRT_LOG_ERROR; level <= MLXRT_LOG_DEBUG; level++) {
    OK(mlxrt_log_set(level, keep_line, &lines));
    int before = lines.count;
    mlxrt_model_free((mlxrt_model *)(uintptr_t)0x1234);
    CHECK_INT(lines.count, before + 1);
  }
  OK(mlxrt_log_set(0, NULL, NULL));
}

int main(int argc, char **argv) {
  static const struct test tests[] = {
      {"versions", versions},
      {"code_names", code_names},
      {"no_error", no_error},
      {"errors_are_read_on_any_thread", errors_are_read_on_any_thread},
      {"device", device},
      {"memory_follows_models_and_sessions", memory_follows_models_and_sessions},
      {"metrics_of_a_model_and_of_the_process", metrics_of_a_model_and_of_the_process},
      {"a_result_times_its_request", a_result_times_its_request},
      {"the_log_hears_of_misuse", the_log_hears_of_misuse},
      {"log_levels", log_levels},
  };
  return RUN(tests);
}
