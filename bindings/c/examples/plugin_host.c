/* A host that knows one name of the library: it opens it, takes its table of functions, uses it and closes it.
 *
 *   plugin_host PATH_OF_LIBRARY MODEL_FOLDER
 *
 * Built without -lmlxrt; on old systems with -ldl.
 */
#include <dlfcn.h>
#include <mlxrt.h>
#include <stdio.h>
#include <string.h>

static int32_t print(void *user_data, const mlxrt_event *event) {
  if (event->kind == MLXRT_EVENT_TEXT) fwrite(event->text, 1, event->text_len, (FILE *)user_data);
  return MLXRT_RETURN_CONTINUE;
}

/* The table has all functions of MLXRT_ABI 1; NULL from a library that is older. */
static const mlxrt_api *open_library(const char *path, void **library) {
  const mlxrt_api *(*get_api)(uint32_t) = NULL;
  *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!*library) {
    fprintf(stderr, "%s\n", dlerror());
    return NULL;
  }
  void *symbol = dlsym(*library, "mlxrt_get_api");
  memcpy(&get_api, &symbol, sizeof get_api);
  return get_api ? get_api(1) : NULL;
}

int main(int argc, char **argv) {
  void *library = NULL;
  if (argc < 3) {
    fprintf(stderr, "usage: plugin_host PATH_OF_LIBRARY MODEL_FOLDER\n");
    return 2;
  }
  const mlxrt_api *mlxrt = open_library(argv[1], &library);
  if (!mlxrt) {
    fprintf(stderr, "%s is no mlxrt, or too old\n", argv[1]);
    return 1;
  }
  printf("mlxrt %s\n", mlxrt->mlxrt_version());

  mlxrt_model *model = NULL;
  mlxrt_session *session = NULL;
  mlxrt_input input = {0};
  input.struct_size = sizeof input;
  input.text = "Once upon a time";
  input.text_len = MLXRT_NTS;
  mlxrt_generate_options options = {0};
  options.struct_size = sizeof options;
  options.max_tokens = 24;

  /* init and shutdown count: other plugins in this process may use the library, too. */
  mlxrt_error *error = mlxrt->mlxrt_init(NULL);
  if (!error) {
    error = mlxrt->mlxrt_model_load(argv[2], NULL, &model);
    if (!error) error = mlxrt->mlxrt_session_create(model, NULL, &session);
    if (!error) error = mlxrt->mlxrt_generate(session, &input, &options, print, stdout, NULL);
    mlxrt->mlxrt_session_free(session);
    mlxrt->mlxrt_model_free(model);
    mlxrt->mlxrt_error_free(mlxrt->mlxrt_shutdown(0, MLXRT_FOREVER));
  }
  if (error) fprintf(stderr, "%s\n", mlxrt->mlxrt_error_message(error));
  int failed = error != NULL;
  mlxrt->mlxrt_error_free(error);
  printf("\n");
  dlclose(library);
  return failed;
}
