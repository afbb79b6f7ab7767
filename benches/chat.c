/* A chat of some turns on one session, as token ids: each turn brings new tokens and takes an answer. Prints one line of JSON, seconds
 * of each turn and of its first token; chat.py does the same with mlx-lm and its prompt cache, and makes the table.
 *
 *     chat MODEL TURNS NEW ANSWER
 */
#include <mlxrt.h>
#include <stdio.h>
#include <stdlib.h>

static void check(mlxrt_error *error) {
  if (!error) return;
  fprintf(stderr, "%s: %s\n", mlxrt_code_name(mlxrt_error_code(error)), mlxrt_error_message(error));
  mlxrt_error_free(error);
  exit(1);
}

int main(int argc, char **argv) {
  if (argc < 5) {
    fputs("usage: chat MODEL TURNS NEW ANSWER\n", stderr);
    return 2;
  }
  int turns = atoi(argv[2]), count = atoi(argv[3]), answer = atoi(argv[4]);
  if (turns < 1 || count < 1 || answer < 1) return 2;
  int32_t *tokens = malloc((size_t)count * sizeof *tokens);
  mlxrt_model *model = NULL;
  mlxrt_session *session = NULL;
  if (!tokens) return 1;
  check(mlxrt_model_load(argv[1], NULL, &model));
  check(mlxrt_session_create(model, NULL, &session));
  for (int turn = 0; turn < turns; turn++) {
    /* The same as in chat.py. */
    for (int i = 0; i < count; i++) tokens[i] = 100 + (turn * count + i) * 7919 % 900;
    mlxrt_input input = {.struct_size = sizeof input, .tokens = tokens, .token_count = (size_t)count};
    mlxrt_generate_options options = {.struct_size = sizeof options, .max_tokens = (uint32_t)answer};
    mlxrt_result result = {.struct_size = sizeof result};
    options.flags = MLXRT_GEN_GREEDY | MLXRT_GEN_IGNORE_EOS;
    check(mlxrt_generate(session, &input, &options, NULL, NULL, &result));
    printf("%s{\"total\": %.6f, \"first\": %.6f}", turn ? ", " : "[", (double)result.total_ns * 1e-9, (double)result.first_token_ns * 1e-9);
  }
  puts("]");
  free(tokens);
  mlxrt_session_free(session);
  mlxrt_model_free(model);
  check(mlxrt_shutdown(0, MLXRT_FOREVER));
  return 0;
}
