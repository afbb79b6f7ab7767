/* The library as a plugin: opened, used, shut down and closed, again and again. */
#include "check.h"

#include <dlfcn.h>

static int threads(void) {
  char line[256];
  int count = -1;
  FILE *status = fopen("/proc/self/status", "r");
  while (status && fgets(line, sizeof line, status)) sscanf(line, "Threads: %d", &count);
  if (status) fclose(status);
  return count;
}

/* dlsym gives an object pointer, and C99 has no cast from it to a function. */
static int find(void *library, const char *name, void *function) {
  void *symbol = dlsym(library, name);
  memcpy(function, &symbol, sizeof symbol);
  return CHECK(symbol != NULL);
}

static void use_once(void) {
  void *library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
  if (!CHECK(library != NULL)) {
    printf(": %s", dlerror());
    return;
  }
  mlxrt_error *(*init)(const mlxrt_init_options *);
  mlxrt_error *(*shutdown)(uint32_t, uint32_t);
  mlxrt_error *(*model_load)(const char *, const mlxrt_load_options *, mlxrt_model **);
  void (*model_free)(mlxrt_model *);
  mlxrt_error *(*session_create)(mlxrt_model *, const mlxrt_session_options *, mlxrt_session **);
  void (*session_free)(mlxrt_session *);
  mlxrt_error *(*generate)(mlxrt_session *, const mlxrt_input *, const mlxrt_generate_options *, mlxrt_event_fn, void *,
                           mlxrt_result *);
  if (!find(library, "mlxrt_init", &init) || !find(library, "mlxrt_shutdown", &shutdown) ||
      !find(library, "mlxrt_model_load", &model_load) || !find(library, "mlxrt_model_free", &model_free) ||
      !find(library, "mlxrt_session_create", &session_create) || !find(library, "mlxrt_session_free", &session_free) ||
      !find(library, "mlxrt_generate", &generate)) {
    return;
  }
  mlxrt_model *model = NULL;
  mlxrt_session *session = NULL;
  mlxrt_input input;
  mlxrt_result result;
  memset(&input, 0, sizeof input);
  memset(&result, 0, sizeof result);
  input.struct_size = sizeof input;
  input.text = "Once upon";
  input.text_len = MLXRT_NTS;
  result.struct_size = sizeof result;
  mlxrt_generate_options options;
  memset(&options, 0, sizeof options);
  options.struct_size = sizeof options;
  options.max_tokens = 8;
  options.flags = MLXRT_GEN_IGNORE_EOS;
  CHECK(init(NULL) == NULL);
  CHECK(model_load(FIXTURES "/llama-f32", NULL, &model) == NULL);
  CHECK(session_create(model, NULL, &session) == NULL);
  CHECK(generate(session, &input, &options, NULL, NULL, &result) == NULL);
  CHECK_INT(result.generated_tokens, 8);
  session_free(session);
  model_free(model);
  CHECK(shutdown(0, MLXRT_FOREVER) == NULL);
  CHECK_INT(dlclose(library), 0);
}

static void opened_and_closed_twenty_times(void) {
  use_once();
  int after_first = threads();
  for (int i = 1; i < 20; i++) use_once();
  CHECK_INT(threads(), after_first);
}

/* Nothing but the surface is exported, so no symbol clashes with the host's own MLX or Rust. */
static void nothing_else_is_exported(void) {
  void *library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
  if (!CHECK(library != NULL)) return;
  static const char *hidden[] = {"mlx_array_new", "mlx_set_error_handler", "mlx_array_free", "rust_eh_personality"};
  Dl_info ours, found;
  memset(&ours, 0, sizeof ours);
  CHECK(dladdr(dlsym(library, "mlxrt_version"), &ours));
  for (size_t i = 0; i < COUNT(hidden); i++) {
    void *symbol = dlsym(library, hidden[i]);
    CHECK(!symbol || !dladdr(symbol, &found) || strcmp(found.dli_fname, ours.dli_fname) != 0);
  }
  dlclose(library);
}

int main(int argc, char **argv) {
  static const struct test tests[] = {
      {"opened_and_closed_twenty_times", opened_and_closed_twenty_times},
      {"nothing_else_is_exported", nothing_else_is_exported},
  };
  return RUN(tests);
}
