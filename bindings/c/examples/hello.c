/* The shortest program: load a model, print an answer as it comes.
 *
 *   hello MODEL_FOLDER
 */
#include <mlxrt.h>
#include <stdio.h>

static int32_t print(void *user_data, const mlxrt_event *event) {
  if (event->kind == MLXRT_EVENT_TEXT) fwrite(event->text, 1, event->text_len, (FILE *)user_data);
  fflush((FILE *)user_data);
  return MLXRT_RETURN_CONTINUE;
}

int main(int argc, char **argv) {
  mlxrt_model *model = NULL;
  mlxrt_session *session = NULL;

  mlxrt_input input = {0};
  input.struct_size = sizeof input;
  input.messages = "[{\"role\": \"user\", \"content\": \"Tell me a short story about a fox.\"}]";
  input.messages_len = MLXRT_NTS;

  mlxrt_error *error = mlxrt_model_load(argc > 1 ? argv[1] : "demo/model", NULL, &model);
  if (!error) error = mlxrt_session_create(model, NULL, &session);
  if (!error) error = mlxrt_generate(session, &input, NULL, print, stdout, NULL);
  if (error) fprintf(stderr, "%s\n", mlxrt_error_message(error));
  else printf("\n");

  int failed = error != NULL;
  mlxrt_error_free(error);
  mlxrt_session_free(session);
  mlxrt_model_free(model);
  return failed;
}
