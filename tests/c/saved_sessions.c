/* Sessions to files and back. */
#include "use.h"

#include <sys/stat.h>
#include <unistd.h>

static char folder[256];

static const char *in_folder(const char *name) {
  static char paths[4][512];
  static int next;
  char *path = paths[next++ % 4];
  snprintf(path, sizeof paths[0], "%s/%s", folder, name);
  return path;
}

static mlxrt_session *loaded(mlxrt_model *model, const char *path) {
  mlxrt_session *session = NULL;
  OK(mlxrt_session_load(model, path, NULL, &session));
  return session;
}

static long size_of(const char *path) {
  struct stat status;
  return stat(path, &status) ? -1 : (long)status.st_size;
}

struct heard {
  uint64_t done, total, stop_at;
  int calls;
};

static int32_t hear(void *user_data, uint64_t done, uint64_t total) {
  struct heard *heard = user_data;
  CHECK(done >= heard->done && done <= total);
  heard->done = done, heard->total = total, heard->calls++;
  return heard->stop_at && (uint64_t)heard->calls >= heard->stop_at ? MLXRT_RETURN_STOP : MLXRT_RETURN_CONTINUE;
}

static mlxrt_call_options heard_by(struct heard *heard) {
  mlxrt_call_options options;
  memset(&options, 0, sizeof options);
  options.struct_size = sizeof options;
  options.progress = hear;
  options.progress_data = heard;
  return options;
}

/* Growing keys and values, a window, sliding layers, states, latents. */
static void they_go_on_in_another_model_handle(void) {
  static const struct {
    const char *model;
    uint32_t window;
  } cases[] = {{"qwen3-f32", 0}, {"qwen3-f32", 16}, {"gemma3-text-f32", 0}, {"qwen3_5-f32", 0}, {"deepseek_v3-f32", 0}};
  for (size_t i = 0; i < COUNT(cases); i++) {
    mlxrt_model *model = load(cases[i].model);
    mlxrt_session_options options = session_options();
    options.window = cases[i].window;
    mlxrt_session *session = NULL;
    OK(mlxrt_session_create(model, &options, &session));
    free(ask(session, message_input("[{\"role\":\"user\",\"content\":\"Hello\"}]"), greedy(20)));
    const char *path = in_folder("session");
    struct heard heard = {0, 0, 0, 0};
    mlxrt_call_options watched = heard_by(&heard);
    OK(mlxrt_session_save(session, path, &watched));
    CHECK(heard.calls > 1 && heard.done == heard.total && heard.total > 0);
    char *said = NULL, *says = NULL;
    OK(mlxrt_session_message(session, &said, NULL));
    struct answer *wanted = ask(session, token_input((int32_t[]){20, 21}, 2), greedy(8));
    mlxrt_session_free(session);
    mlxrt_model_free(model);

    model = load(cases[i].model);
    memset(&heard, 0, sizeof heard);
    OK(mlxrt_session_load(model, path, &watched, &session));
    CHECK(heard.calls > 1 && heard.done == heard.total && heard.total > 0);
    OK(mlxrt_session_message(session, &says, NULL));
    CHECK(said && says && strcmp(said, says) == 0);
    struct answer *answer = ask(session, token_input((int32_t[]){20, 21}, 2), greedy(8));
    CHECK(same_tokens(answer, wanted));
    /* But for the last token, which was never put in. */
    CHECK_INT(answer->result.cached_tokens, wanted->result.cached_tokens);
    CHECK_INT(answer->result.cached_tokens, answer->result.prompt_tokens - 3);
    mlxrt_free(said), mlxrt_free(says);
    free(wanted), free(answer);
    mlxrt_session_free(session);
    mlxrt_model_free(model);
    CHECK_INT(unlink(path), 0);
  }
}

static void adapters_are_found_again(void) {
  static const char *const keys[] = {"q_proj", "v_proj"};
  mlxrt_model *model = load("qwen3-f32");
  mlxrt_adapter_options options;
  memset(&options, 0, sizeof options);
  options.struct_size = sizeof options;
  options.rank = 4;
  options.seed = 7;
  options.keys = keys;
  options.key_count = COUNT(keys);
  mlxrt_adapter *adapter = NULL;
  OK(mlxrt_adapter_create(model, &options, &adapter));
  mlxrt_session *session = session_of(model), *none = (mlxrt_session *)&none;
  float scale = 0.5f;
  OK(mlxrt_apply_adapter(session, &adapter, &scale, 1));
  free(ask(session, text_input("Hello"), greedy(5)));
  const char *path = in_folder("adapted");
  OK(mlxrt_session_save(session, path, NULL));
  mlxrt_session *again = loaded(model, path);
  mlxrt_session_state state;
  memset(&state, 0, sizeof state);
  state.struct_size = sizeof state;
  OK(mlxrt_session_info(again, &state));
  CHECK_INT(state.adapters, 1);
  mlxrt_session_free(again), mlxrt_session_free(session);
  mlxrt_adapter_free(adapter);
  FAILS(mlxrt_session_load(model, path, NULL, &none), MLXRT_E_INCOMPATIBLE, "lora of rank 4");
  CHECK(none == NULL);
  mlxrt_model_free(model);
  CHECK_INT(unlink(path), 0);
}

static void what_is_wrong_is_named(void) {
  mlxrt_model *model = load("qwen3-f32"), *other = load("llama-f32");
  mlxrt_session *session = session_of(model), *none = (mlxrt_session *)&none;
  free(ask(session, text_input("Hello"), greedy(5)));
  const char *path = in_folder("good"), *bad = in_folder("bad");
  OK(mlxrt_session_save(session, path, NULL));
  long size = size_of(path);
  CHECK(size > 1000);
  FAILS(mlxrt_session_save(session, folder, NULL), MLXRT_E_IO, "is a folder");
  FAILS(mlxrt_session_save(session, "/proc/nothing", NULL), MLXRT_E_IO, "/proc");
  FAILS(mlxrt_session_save(session, "/dev/full", NULL), MLXRT_E_IO, "a device");
  struct heard heard = {0, 0, 3, 0};
  mlxrt_call_options options = heard_by(&heard);
  FAILS(mlxrt_session_save(session, bad, &options), MLXRT_E_CANCELLED, "progress");
  CHECK_INT(size_of(bad), -1);
  memset(&heard, 0, sizeof heard), heard.stop_at = 2;
  FAILS(mlxrt_session_load(model, path, &options, &none), MLXRT_E_CANCELLED, "progress");
  OK(mlxrt_suspend(MLXRT_FOREVER));
  FAILS(mlxrt_session_save(session, bad, NULL), MLXRT_E_SUSPENDED, "suspended");
  FAILS(mlxrt_session_load(model, path, NULL, &none), MLXRT_E_SUSPENDED, "suspended");
  OK(mlxrt_resume());
  CHECK_INT(size_of(bad), -1);
  CHECK_INT(size_of(path), size);

  FAILS(mlxrt_session_load(other, path, NULL, &none), MLXRT_E_INCOMPATIBLE, "type \"qwen3\"");
  FAILS(mlxrt_session_load(model, bad, NULL, &none), MLXRT_E_NOT_FOUND, "there is no file");
  FAILS(mlxrt_session_load(model, folder, NULL, &none), MLXRT_E_IO, "is a folder");
  FAILS(mlxrt_session_load(model, fixture("qwen3-f32/model.safetensors"), NULL, &none), MLXRT_E_BAD_MODEL, "neither");
  FAILS(mlxrt_session_load(model, fixture("qwen3-f32/config.json"), NULL, &none), MLXRT_E_BAD_MODEL, "config.json");
  /* Cut short. */
  CHECK_INT(truncate(path, size - 1), 0);
  FAILS(mlxrt_session_load(model, path, NULL, &none), MLXRT_E_BAD_MODEL, "truncated");
  /* Another byte. */
  OK(mlxrt_session_save(session, path, NULL));
  FILE *file = fopen(path, "r+b");
  CHECK(file != NULL);
  if (file) {
    fseek(file, size - 100, SEEK_SET);
    int byte = fgetc(file);
    fseek(file, size - 100, SEEK_SET);
    fputc(byte ^ 1, file);
    fclose(file);
  }
  FAILS(mlxrt_session_load(model, path, NULL, &none), MLXRT_E_BAD_MODEL, "damaged");
  CHECK(none == NULL);
  check_alive(model);
  free(ask(session, text_input("Hello"), greedy(5)));
  mlxrt_session_free(session);
  mlxrt_model_free(other);
  mlxrt_model_free(model);
  CHECK_INT(unlink(path), 0);
}

/* Who frees or cancels the session from inside of its save ends the save. */
static int32_t ends_it(void *user_data, uint64_t done, uint64_t total) {
  (void)done, (void)total;
  mlxrt_session **session = user_data;
  FAILS(mlxrt_session_save(*session, "/tmp/no", NULL), MLXRT_E_REENTRANT, "mlxrt_session_save");
  mlxrt_session *fork = NULL;
  FAILS(mlxrt_session_fork(*session, NULL, &fork), MLXRT_E_BUSY, "session");
  mlxrt_session_cancel(*session);
  return MLXRT_RETURN_CONTINUE;
}

static void a_cancel_ends_a_save(void) {
  mlxrt_model *model = load("qwen3-f32");
  mlxrt_session *session = session_of(model);
  free(ask(session, text_input("Hello"), greedy(5)));
  mlxrt_call_options options;
  memset(&options, 0, sizeof options);
  options.struct_size = sizeof options;
  options.progress = ends_it;
  options.progress_data = &session;
  const char *path = in_folder("cancelled");
  FAILS(mlxrt_session_save(session, path, &options), MLXRT_E_CANCELLED, "cancelled");
  CHECK_INT(size_of(path), -1);
  free(ask(session, text_input("Hello"), greedy(5)));
  OK(mlxrt_session_save(session, path, NULL));
  CHECK_INT(unlink(path), 0);
  mlxrt_session_free(session);
  mlxrt_model_free(model);
}

int main(int argc, char **argv) {
  static const struct test tests[] = {
      {"they_go_on_in_another_model_handle", they_go_on_in_another_model_handle},
      {"adapters_are_found_again", adapters_are_found_again},
      {"what_is_wrong_is_named", what_is_wrong_is_named},
      {"a_cancel_ends_a_save", a_cancel_ends_a_save},
  };
  snprintf(folder, sizeof folder, "/tmp/mlxrt-sessions-XXXXXX");
  CHECK(mkdtemp(folder) != NULL);
  int failed = RUN(tests);
  /* Nothing was left behind. */
  if (rmdir(folder)) failed = 1, printf("%s is not empty\n", folder);
  return failed;
}
