/* A chat turn: load a model, stream an answer, print what it cost.
 *
 *   chat MODEL_FOLDER [PROMPT]
 */
#include <mlxrt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Every mlxrt function that can fail returns an error; NULL is success. */
static void check(mlxrt_error *error) {
  if (!error) return;
  fprintf(stderr, "%s: %s\n", mlxrt_code_name(mlxrt_error_code(error)), mlxrt_error_message(error));
  mlxrt_error_free(error);
  exit(1);
}

/* Called on this thread for each piece of text. */
static int32_t print_text(void *user_data, const mlxrt_event *event) {
  (void)user_data;
  if (event->kind == MLXRT_EVENT_TEXT) {
    fwrite(event->text, 1, event->text_len, stdout);
    fflush(stdout);
  }
  return MLXRT_RETURN_CONTINUE;
}

/* [{"role":"user","content":PROMPT}], with what JSON wants escaped. */
static char *messages_json(const char *prompt) {
  char *json = malloc(6 * strlen(prompt) + 64), *out = json;
  if (!json) exit(1);
  out += sprintf(out, "[{\"role\":\"user\",\"content\":\"");
  for (const unsigned char *c = (const unsigned char *)prompt; *c; c++) {
    if (*c == '"' || *c == '\\') out += sprintf(out, "\\%c", *c);
    else if (*c < 0x20) out += sprintf(out, "\\u%04x", *c);
    else *out++ = (char)*c;
  }
  strcpy(out, "\"}]");
  return json;
}

int main(int argc, char **argv) {
  const char *folder = argc > 1 ? argv[1] : "demo/model";
  const char *prompt = argc > 2 ? argv[2] : "Tell me a short story about a fox.";

  mlxrt_model *model = NULL;
  mlxrt_session *session = NULL;
  check(mlxrt_model_load(folder, NULL, &model));
  check(mlxrt_session_create(model, NULL, &session));

  char *messages = messages_json(prompt);
  mlxrt_input input = {0};
  input.struct_size = sizeof input;
  input.messages = messages;
  input.messages_len = MLXRT_NTS;

  mlxrt_generate_options options = {0};
  options.struct_size = sizeof options;
  options.max_tokens = 300;

  mlxrt_result result = {0};
  result.struct_size = sizeof result;
  printf("> %s\n", prompt);
  check(mlxrt_generate(session, &input, &options, print_text, NULL, &result));

  double prefill = (double)result.prefill_ns / 1e9, decode = (double)result.decode_ns / 1e9;
  printf("\n[prompt %llu tokens, %.0f tok/s | answer %llu tokens, %.0f tok/s | first token after %.0f ms | peak %.1f MB]\n",
         (unsigned long long)result.prompt_tokens,
         prefill > 0 ? (double)(result.prompt_tokens - result.cached_tokens) / prefill : 0.0,
         (unsigned long long)result.generated_tokens,
         decode > 0 && result.generated_tokens > 1 ? (double)(result.generated_tokens - 1) / decode : 0.0,
         (double)result.first_token_ns / 1e6, (double)result.peak_bytes / 1e6);

  free(messages);
  mlxrt_session_free(session);
  mlxrt_model_free(model);
  return 0;
}
