/* What an error holds, and what is no error: a limit, a stop and a cancel are results.
 *
 *   errors MODEL_FOLDER
 */
#include <mlxrt.h>
#include <stdio.h>

/* Takes an error, decides by its code, and frees it. */
static int handle(const char *what, mlxrt_error *error) {
  if (!error) {
    printf("%s: fine\n", what);
    return 0;
  }
  switch (mlxrt_error_code(error)) {
    case MLXRT_E_NOT_FOUND:
      printf("%s: ask the user for another folder", what);
      break;
    case MLXRT_E_OUT_OF_MEMORY:
      printf("%s: close something, or take a smaller model", what);
      break;
    case MLXRT_E_BUSY:
    case MLXRT_E_TIMEOUT:
      printf("%s: try again", what);
      break;
    default: /* Later versions add codes. */
      printf("%s: give up", what);
      break;
  }
  /* One sentence that names the file, key or argument. */
  printf(" (%s: %s)\n", mlxrt_code_name(mlxrt_error_code(error)), mlxrt_error_message(error));
  mlxrt_error_free(error);
  return 1;
}

static int32_t stop_after_three(void *user_data, const mlxrt_event *event) {
  int *events = user_data;
  (void)event;
  return ++*events < 3 ? MLXRT_RETURN_CONTINUE : MLXRT_RETURN_STOP;
}

static void log_line(void *user_data, int32_t level, const char *message, size_t len) {
  (void)level;
  fprintf((FILE *)user_data, "log: %.*s\n", (int)len, message);
}

int main(int argc, char **argv) {
  mlxrt_model *model = NULL;
  mlxrt_session *session = NULL;
  int events = 0;

  handle("a folder that is not there", mlxrt_model_load("/no/such/model", NULL, &model));
  if (handle("the model", mlxrt_model_load(argc > 1 ? argv[1] : "demo/model", NULL, &model))) return 1;
  if (handle("a session", mlxrt_session_create(model, NULL, &session))) return 1;

  mlxrt_input input = {0};
  input.struct_size = sizeof input;
  handle("an input without anything", mlxrt_generate(session, &input, NULL, NULL, NULL, NULL));
  input.text = "Once upon a time";
  input.text_len = MLXRT_NTS;

  /* Ends that are no errors; the result is filled either way. */
  mlxrt_result result = {0};
  result.struct_size = sizeof result;
  if (handle("stopped by its callback", mlxrt_generate(session, &input, NULL, stop_after_three, &events, &result))) return 1;
  printf("stop is %d, after %llu tokens\n", (int)result.stop, (unsigned long long)result.generated_tokens);

  mlxrt_memory_limits limits = {0};
  limits.struct_size = sizeof limits;
  limits.memory_limit = 1;
  mlxrt_model *second = NULL;
  handle("a memory limit of one byte", mlxrt_memory_set(&limits));
  handle("another model within it", mlxrt_model_load(argc > 1 ? argv[1] : "demo/model", NULL, &second));

  /* A handle that was freed is refused, and a free of one is logged and does nothing. */
  handle("the log", mlxrt_log_set(MLXRT_LOG_ERROR, log_line, stdout));
  mlxrt_session_free(session);
  handle("a session that was freed", mlxrt_generate(session, &input, NULL, NULL, NULL, NULL));
  mlxrt_session_free(session);
  handle("no log", mlxrt_log_set(MLXRT_LOG_ERROR, NULL, NULL));
  mlxrt_model_free(model);
  return result.stop == MLXRT_STOPPED_CALLBACK ? 0 : 1;
}
