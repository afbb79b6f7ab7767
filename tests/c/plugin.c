/* The library as a plugin: opened, used, shut down and closed, again and again; by its symbols and by its table. */
#include "check.h"

#include <dlfcn.h>
#include <pthread.h>
#include <time.h>

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

/* A thread of the host that has used the library, and lives on while it is closed and opened again. */
struct witness {
  pthread_t thread;
  pthread_mutex_t mutex;
  int stop;
  int calls, wrong;
};

static int stopped(struct witness *self, int stop) {
  pthread_mutex_lock(&self->mutex);
  stop = self->stop |= stop;
  pthread_mutex_unlock(&self->mutex);
  return stop;
}

static void *witness(void *data) {
  struct witness *self = data;
  void *library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
  const mlxrt_api *(*get_api)(uint32_t) = NULL;
  if (!library || !find(library, "mlxrt_get_api", &get_api)) return NULL;
  const mlxrt_api *api = get_api(1);
  /* Closed before the first use of the table: the library stays mapped, whoever closes it. */
  dlclose(library);
  while (!stopped(self, 0)) {
    mlxrt_model *model = NULL;
    mlxrt_error *error = api->mlxrt_model_load("/nowhere", NULL, &model);
    self->wrong += api->mlxrt_error_code(error) != MLXRT_E_NOT_FOUND;
    api->mlxrt_error_free(error);
    self->calls++;
    struct timespec pause = {0, 1000000};
    nanosleep(&pause, NULL);
  }
  return NULL;
}

static void opened_and_closed_a_hundred_times(void) {
  use_once();
  struct witness other = {0};
  pthread_mutex_init(&other.mutex, NULL);
  CHECK_INT(pthread_create(&other.thread, NULL, witness, &other), 0);
  use_once();
  int after_second = threads();
  for (int i = 2; i < 100; i++) use_once();
  CHECK_INT(threads(), after_second);
  stopped(&other, 1);
  CHECK_INT(pthread_join(other.thread, NULL), 0);
  CHECK(other.calls > 10);
  CHECK_INT(other.wrong, 0);
  CHECK_INT(threads(), after_second - 1);
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

/* The header's table, slot by slot; the Makefile takes the names out of it. */
#define SLOT(name) {#name, offsetof(mlxrt_api, name)},
static const struct {
  const char *name;
  size_t offset;
} slots[] = {
#include "slots.h"
};

static const mlxrt_api *open_table(void **library, uint32_t abi) {
  const mlxrt_api *(*get_api)(uint32_t);
  *library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
  if (!CHECK(*library != NULL) || !find(*library, "mlxrt_get_api", &get_api)) return NULL;
  return get_api(abi);
}

static void the_table_is_what_dlsym_finds(void) {
  void *library;
  const mlxrt_api *api = open_table(&library, MLXRT_ABI);
  if (!CHECK(api != NULL)) return;
  CHECK_INT(api->struct_size, sizeof *api);
  CHECK_INT(api->abi, MLXRT_ABI);
  CHECK(COUNT(slots) >= 55);
  CHECK_INT(sizeof *api, 8 + COUNT(slots) * sizeof(void *));
  size_t there = 0;
  for (size_t i = 0; i < COUNT(slots); i++) {
    void *slot;
    memcpy(&slot, (const char *)api + slots[i].offset, sizeof slot);
    CHECK_INT(slots[i].offset, 8 + i * sizeof(void *));
    if (!CHECK(slot == dlsym(library, slots[i].name))) printf(" (%s)", slots[i].name);
    there += slot != NULL;
  }
  CHECK(there >= 27);
  /* Nothing of it is in the program's own scope. */
  CHECK(dlsym(RTLD_DEFAULT, "mlxrt_get_api") == NULL);
  CHECK_INT(dlclose(library), 0);
}

static void tables_of_other_versions(void) {
  void *library;
  static const uint32_t none[] = {0, MLXRT_ABI + 1, 0x80000000, UINT32_MAX};
  for (size_t i = 0; i < COUNT(none); i++) {
    CHECK(open_table(&library, none[i]) == NULL);
    dlclose(library);
  }
  for (uint32_t abi = 1; abi <= MLXRT_ABI; abi++) {
    CHECK(open_table(&library, abi) != NULL);
    dlclose(library);
  }
}

static int32_t count_event(void *user_data, const mlxrt_event *event) {
  *(size_t *)user_data += event->token_count;
  return MLXRT_RETURN_CONTINUE;
}

/* A host that knows one name of the library, loads a model and generates. */
static void used_through_the_table(void) {
  void *library;
  const mlxrt_api *api = open_table(&library, 1);
  if (!CHECK(api != NULL)) return;
  mlxrt_model *model = NULL;
  mlxrt_session *session = NULL;
  char *text = NULL;
  mlxrt_error *error = api->mlxrt_model_load("/nowhere", NULL, &model);
  CHECK_INT(api->mlxrt_error_code(error), MLXRT_E_NOT_FOUND);
  CHECK_TEXT(api->mlxrt_code_name(api->mlxrt_error_code(error)), "NOT_FOUND");
  CHECK_HAS(api->mlxrt_error_message(error), "/nowhere");
  api->mlxrt_error_free(error);

  CHECK(api->mlxrt_init(NULL) == NULL);
  CHECK(api->mlxrt_model_load(FIXTURES "/llama-f32", NULL, &model) == NULL);
  CHECK(api->mlxrt_session_create(model, NULL, &session) == NULL);
  mlxrt_input input;
  mlxrt_generate_options options;
  mlxrt_result result;
  memset(&input, 0, sizeof input);
  memset(&options, 0, sizeof options);
  memset(&result, 0, sizeof result);
  input.struct_size = sizeof input;
  input.text = "Once upon";
  input.text_len = MLXRT_NTS;
  options.struct_size = sizeof options;
  options.max_tokens = 8;
  options.flags = MLXRT_GEN_IGNORE_EOS;
  result.struct_size = sizeof result;
  size_t tokens = 0;
  CHECK(api->mlxrt_generate(session, &input, &options, count_event, &tokens, &result) == NULL);
  CHECK_INT(result.generated_tokens, 8);
  CHECK_INT(tokens, 8);
  CHECK(api->mlxrt_model_info(model, &text, NULL) == NULL);
  CHECK_HAS(text, "llama");
  api->mlxrt_free(text);
  api->mlxrt_session_free(session);
  api->mlxrt_model_free(model);
  CHECK(api->mlxrt_shutdown(0, MLXRT_FOREVER) == NULL);
  CHECK_INT(dlclose(library), 0);

  /* The library is never unmapped, so the table outlives the last dlclose. */
  CHECK(dlopen(LIBRARY, RTLD_NOW | RTLD_NOLOAD) != NULL);
  CHECK_INT(api->mlxrt_abi_version(), api->abi);
}

int main(int argc, char **argv) {
  static const struct test tests[] = {
      {"opened_and_closed_a_hundred_times", opened_and_closed_a_hundred_times},
      {"nothing_else_is_exported", nothing_else_is_exported},
      {"the_table_is_what_dlsym_finds", the_table_is_what_dlsym_finds},
      {"tables_of_other_versions", tables_of_other_versions},
      {"used_through_the_table", used_through_the_table},
  };
  return RUN(tests);
}
