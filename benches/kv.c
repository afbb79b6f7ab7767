/* Decoding behind short and long pasts, with keys and values as they are and packed, side by side: at each length every kind of
 * session takes its turn, again and again, and the median of the turns counts. Prints the rows of KV.md.
 *
 *     kv MODEL SHORT LONG
 */
#include <mlxrt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KINDS 4
#define TURNS 9
#define TOKENS 12

static const struct {
  const char *name;
  uint32_t bits, group;
} KIND[KINDS] = {{"bf16", 0, 0}, {"8 bits by 64", 8, 64}, {"8 bits by 128", 8, 128}, {"4 bits by 64", 4, 64}};

static void check(mlxrt_error *error) {
  if (!error) return;
  fprintf(stderr, "%s: %s\n", mlxrt_code_name(mlxrt_error_code(error)), mlxrt_error_message(error));
  mlxrt_error_free(error);
  exit(1);
}

static int by_size(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

/* Goes on from `count` tokens, and is cut back to what was there. */
static mlxrt_result ask(mlxrt_session *session, const int32_t *tokens, size_t count, uint32_t most) {
  mlxrt_session_state before = {.struct_size = sizeof before};
  check(mlxrt_session_info(session, &before));
  mlxrt_input input = {.struct_size = sizeof input, .tokens = tokens, .token_count = count};
  mlxrt_generate_options options = {.struct_size = sizeof options, .max_tokens = most};
  options.flags = MLXRT_GEN_GREEDY | MLXRT_GEN_IGNORE_EOS | (most == 0 ? MLXRT_GEN_PREFILL_ONLY : 0);
  mlxrt_result result = {.struct_size = sizeof result};
  check(mlxrt_generate(session, &input, &options, NULL, NULL, &result));
  if (most > 0) check(mlxrt_session_truncate(session, (size_t)before.tokens));
  return result;
}

/* The median time of a token, in milliseconds, of each kind; and the bytes it keeps, and the seconds of its prompt. */
static void measure(mlxrt_model *model, size_t count, double token[KINDS], uint64_t bytes[KINDS], double prefill[KINDS]) {
  mlxrt_session *sessions[KINDS];
  static double times[KINDS][TURNS];
  int32_t *prompt = malloc(count * sizeof *prompt);
  if (!prompt) exit(1);
  for (size_t i = 0; i < count; i++) prompt[i] = 100 + (int32_t)(i * 7919 % 900);
  for (int kind = 0; kind < KINDS; kind++) {
    mlxrt_session_options options = {.struct_size = sizeof options, .kv_bits = KIND[kind].bits, .kv_group_size = KIND[kind].group};
    check(mlxrt_session_create(model, &options, &sessions[kind]));
    prefill[kind] = (double)ask(sessions[kind], prompt, count, 0).prefill_ns * 1e-9;
    mlxrt_session_state state = {.struct_size = sizeof state};
    check(mlxrt_session_info(sessions[kind], &state));
    bytes[kind] = state.kv_bytes;
  }
  for (int turn = 0; turn < TURNS; turn++) {
    for (int kind = 0; kind < KINDS; kind++) {
      mlxrt_result result = ask(sessions[kind], prompt, 1, TOKENS);
      times[kind][turn] = (double)result.decode_ns * 1e-6 / (TOKENS - 1);
    }
  }
  for (int kind = 0; kind < KINDS; kind++) {
    qsort(times[kind], TURNS, sizeof times[kind][0], by_size);
    token[kind] = times[kind][TURNS / 2];
    mlxrt_session_free(sessions[kind]);
  }
  free(prompt);
}

int main(int argc, char **argv) {
  if (argc < 4) {
    fputs("usage: kv MODEL SHORT LONG\n", stderr);
    return 2;
  }
  size_t count[2] = {strtoul(argv[2], NULL, 10), strtoul(argv[3], NULL, 10)};
  if (count[0] == 0 || count[1] == 0) return 2;
  mlxrt_model *model = NULL;
  check(mlxrt_model_load(argv[1], NULL, &model));
  double token[2][KINDS], prefill[2][KINDS];
  uint64_t bytes[2][KINDS];
  for (int i = 0; i < 2; i++) measure(model, count[i], token[i], bytes[i], prefill[i]);
  printf("| keys and values | tokens a second at %zu | at %zu | the latter of the former | MB at %zu | s to take %zu in |\n", count[0],
         count[1], count[1], count[1]);
  printf("|---|---:|---:|---:|---:|---:|\n");
  for (int kind = 0; kind < KINDS; kind++) {
    printf("| %s | %.1f | %.1f | %.2f | %.1f | %.1f |\n", KIND[kind].name, 1e3 / token[0][kind], 1e3 / token[1][kind],
           token[0][kind] / token[1][kind], (double)bytes[1][kind] * 1e-6, prefill[1][kind]);
  }
  mlxrt_model_free(model);
  check(mlxrt_shutdown(0, MLXRT_FOREVER));
  return 0;
}
