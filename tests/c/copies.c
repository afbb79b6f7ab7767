/* Two copies of the library in one process: two plugins that each bring their own, or a program that links one and opens
 * another. Each has its own engine and handles; both use the one libmlx that was loaded first.
 *
 * With -DLINKED the first copy is the one that the program is linked with.
 */
#include "check.h"

#include <dlfcn.h>
#include <pthread.h>

static const mlxrt_api *open_copy(const char *path, void **library) {
  const mlxrt_api *(*get_api)(uint32_t) = NULL;
  *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!CHECK(*library != NULL)) {
    printf(": %s", dlerror());
    return NULL;
  }
  void *symbol = dlsym(*library, "mlxrt_get_api");
  memcpy(&get_api, &symbol, sizeof get_api);
  return CHECK(get_api != NULL) ? get_api(1) : NULL;
}

static const mlxrt_api *open_first(void **library) {
#ifdef LINKED
  *library = NULL;
  return mlxrt_get_api(1);
#else
  return open_copy(LIBRARY, library);
#endif
}

/* How many files of this name are mapped. */
static int mapped(const char *name) {
  char line[4096], seen[8][4096];
  int count = 0;
  FILE *maps = fopen("/proc/self/maps", "r");
  while (maps && fgets(line, sizeof line, maps)) {
    char *path = strchr(line, '/');
    int known = !path || !strstr(strrchr(path, '/'), name);
    for (int i = 0; !known && i < count; i++) known = strcmp(seen[i], path) == 0;
    if (!known && count < 8) strcpy(seen[count++], path);
  }
  if (maps) fclose(maps);
  return count;
}

struct use {
  const mlxrt_api *api;
  char text[4096];
  size_t len;
  int32_t code;
};

static int32_t collect(void *user_data, const mlxrt_event *event) {
  struct use *use = user_data;
  if (use->len + event->text_len < sizeof use->text) {
    memcpy(use->text + use->len, event->text, event->text_len);
    use->len += event->text_len;
  }
  return MLXRT_RETURN_CONTINUE;
}

static void *generate(void *data) {
  struct use *use = data;
  const mlxrt_api *api = use->api;
  mlxrt_model *model = NULL;
  mlxrt_session *session = NULL;
  mlxrt_input input = {0};
  mlxrt_generate_options options = {0};
  input.struct_size = sizeof input;
  input.text = "Once upon a time";
  input.text_len = MLXRT_NTS;
  options.struct_size = sizeof options;
  options.flags = MLXRT_GEN_GREEDY | MLXRT_GEN_IGNORE_EOS;
  options.max_tokens = 40;
  mlxrt_error *error = api->mlxrt_model_load(FIXTURES "/llama-f32", NULL, &model);
  if (!error) error = api->mlxrt_session_create(model, NULL, &session);
  if (!error) error = api->mlxrt_generate(session, &input, &options, collect, use, NULL);
  use->code = api->mlxrt_error_code(error);
  if (error) printf("\n  %s", api->mlxrt_error_message(error));
  api->mlxrt_error_free(error);
  api->mlxrt_session_free(session);
  api->mlxrt_model_free(model);
  return NULL;
}

static void two_copies_work_side_by_side(void) {
  void *first_library, *second_library;
  const mlxrt_api *first = open_first(&first_library), *second = open_copy(COPY, &second_library);
  if (!CHECK(first != NULL) || !CHECK(second != NULL)) return;
  CHECK(first->mlxrt_generate != second->mlxrt_generate);
  /* Which libmlx it is does not depend on the copy: the dynamic linker knows it by its name. */
  CHECK_INT(mapped("libmlxrt"), 2);
  CHECK_INT(mapped("libmlx.so"), 1);

  struct use alone = {0};
  alone.api = first;
  generate(&alone);
  CHECK_INT(alone.code, 0);
  CHECK(alone.len > 0);
  for (int round = 0; round < 5; round++) {
    struct use uses[4] = {{0}};
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) {
      uses[i].api = i % 2 ? second : first;
      CHECK_INT(pthread_create(&threads[i], NULL, generate, &uses[i]), 0);
    }
    for (int i = 0; i < 4; i++) {
      pthread_join(threads[i], NULL);
      CHECK_INT(uses[i].code, 0);
      CHECK(uses[i].len == alone.len && memcmp(uses[i].text, alone.text, alone.len) == 0);
    }
  }
}

static void each_ends_without_the_other(void) {
  void *first_library, *second_library;
  const mlxrt_api *first = open_first(&first_library), *second = open_copy(COPY, &second_library);
  if (!CHECK(first != NULL) || !CHECK(second != NULL)) return;
  CHECK(first->mlxrt_init(NULL) == NULL);
  CHECK(second->mlxrt_init(NULL) == NULL);
  /* By force, and still only its own. */
  CHECK(first->mlxrt_shutdown(MLXRT_SHUTDOWN_FORCE, MLXRT_FOREVER) == NULL);
  struct use use = {0};
  use.api = second;
  generate(&use);
  CHECK_INT(use.code, 0);
  CHECK(second->mlxrt_suspend(MLXRT_FOREVER) == NULL);
  memset(&use, 0, sizeof use);
  use.api = first;
  generate(&use);
  CHECK_INT(use.code, 0);
  CHECK(second->mlxrt_resume() == NULL);
  CHECK(second->mlxrt_shutdown(0, MLXRT_FOREVER) == NULL);
  if (first_library) CHECK_INT(dlclose(first_library), 0);
  CHECK_INT(dlclose(second_library), 0);
}

int main(int argc, char **argv) {
  static const struct test tests[] = {
      {"two_copies_work_side_by_side", two_copies_work_side_by_side},
      {"each_ends_without_the_other", each_ends_without_the_other},
  };
  return RUN(tests);
}
