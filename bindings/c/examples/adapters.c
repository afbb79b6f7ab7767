/* One model, and adapters that are swapped on a session while another session stays as it is.
 *
 *   adapters MODEL_FOLDER ADAPTER_FOLDER...
 */
#include <mlxrt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void check(mlxrt_error *error) {
  if (!error) return;
  fprintf(stderr, "%s: %s\n", mlxrt_code_name(mlxrt_error_code(error)), mlxrt_error_message(error));
  mlxrt_error_free(error);
  exit(1);
}

static int32_t print(void *user_data, const mlxrt_event *event) {
  if (event->kind == MLXRT_EVENT_TEXT) fwrite(event->text, 1, event->text_len, (FILE *)user_data);
  return MLXRT_RETURN_CONTINUE;
}

static void ask(mlxrt_session *session, const char *label) {
  mlxrt_input input = {0};
  input.struct_size = sizeof input;
  /* A whole history, so that the answers before do not count. */
  input.messages = "[{\"role\": \"user\", \"content\": \"What is the capital of France?\"}]";
  input.messages_len = MLXRT_NTS;
  mlxrt_generate_options options = {0};
  options.struct_size = sizeof options;
  options.flags = MLXRT_GEN_GREEDY;
  options.max_tokens = 48;
  printf("[%s] ", label);
  check(mlxrt_generate(session, &input, &options, print, stdout, NULL));
  printf("\n");
}

int main(int argc, char **argv) {
  if (argc < 3) {
    fprintf(stderr, "usage: adapters MODEL_FOLDER ADAPTER_FOLDER...\n");
    return 2;
  }
  mlxrt_model *model = NULL;
  mlxrt_session *plain = NULL, *adapted = NULL;
  check(mlxrt_model_load(argv[1], NULL, &model));
  check(mlxrt_session_create(model, NULL, &plain));
  check(mlxrt_session_create(model, NULL, &adapted));
  ask(plain, "no adapter");

  for (int i = 2; i < argc; i++) {
    mlxrt_adapter *adapter = NULL;
    check(mlxrt_adapter_load(model, argv[i], NULL, &adapter));
    /* From the next request on; no weight is copied. The session keeps what it needs of the adapter. */
    check(mlxrt_apply_adapter(adapted, &adapter, NULL, 1));
    mlxrt_adapter_free(adapter);
    const char *slash = strrchr(argv[i], '/');
    ask(adapted, slash ? slash + 1 : argv[i]);
  }

  check(mlxrt_apply_adapter(adapted, NULL, NULL, 0));
  ask(adapted, "taken off");

  mlxrt_session_free(adapted);
  mlxrt_session_free(plain);
  mlxrt_model_free(model);
  return 0;
}
