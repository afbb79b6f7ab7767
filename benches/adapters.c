/* adapters MODEL [TOKENS [ROUNDS]]: what an adapter of rank 16 on all projections costs, as Markdown rows: decode with and
 * without it, in turns, and a swap. */
#include <mlxrt.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static void check(mlxrt_error *error) {
  if (!error) return;
  fprintf(stderr, "%s\n", mlxrt_error_message(error));
  exit(1);
}

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static double decode_rate(mlxrt_session *session, uint32_t tokens) {
  static const int32_t prompt[] = {101, 202, 303, 404, 505, 606, 707, 808};
  mlxrt_input input = {.struct_size = sizeof input, .tokens = prompt, .token_count = sizeof prompt / sizeof *prompt};
  mlxrt_generate_options options = {.struct_size = sizeof options, .max_tokens = tokens};
  options.draft_tokens = -1; /* What a random model says repeats itself. */
  options.flags = MLXRT_GEN_GREEDY | MLXRT_GEN_IGNORE_EOS | MLXRT_GEN_TOKENS_ONLY | MLXRT_GEN_NO_PREFIX_CACHE;
  mlxrt_result result = {.struct_size = sizeof result};
  check(mlxrt_generate(session, &input, &options, NULL, NULL, &result));
  return (double)(result.generated_tokens - 1) / (1e-9 * (double)result.decode_ns);
}

static int by_size(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

int main(int argc, char **argv) {
  uint32_t tokens = argc > 2 ? (uint32_t)atoi(argv[2]) : 64;
  int rounds = argc > 3 ? atoi(argv[3]) : 7;
  static const char *const keys[] = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"};
  mlxrt_adapter_options shape = {.struct_size = sizeof shape, .rank = 16, .seed = 1, .dtype = MLXRT_DTYPE_BF16};
  shape.keys = keys;
  shape.key_count = sizeof keys / sizeof *keys;
  mlxrt_model *model = NULL;
  mlxrt_adapter *adapter = NULL;
  mlxrt_session *plain = NULL, *adapted = NULL;
  check(mlxrt_model_load(argc > 1 ? argv[1] : "demo/model", NULL, &model));
  check(mlxrt_adapter_create(model, &shape, &adapter));
  check(mlxrt_session_create(model, NULL, &plain));
  check(mlxrt_session_create(model, NULL, &adapted));
  check(mlxrt_apply_adapter(adapted, &adapter, NULL, 1));
  decode_rate(plain, 4);
  decode_rate(adapted, 4);

  double *ratios = calloc((size_t)rounds, sizeof *ratios), best[2] = {0, 0};
  for (int i = 0; i < rounds; i++) {
    double without = decode_rate(plain, tokens), with = decode_rate(adapted, tokens);
    ratios[i] = without / with;
    if (without > best[0]) best[0] = without;
    if (with > best[1]) best[1] = with;
  }
  qsort(ratios, (size_t)rounds, sizeof *ratios, by_size);
  printf("| decode without an adapter, best of %d, tok/s | %.1f | |\n", rounds, best[0]);
  printf("| decode with rank 16 on all projections, best of %d, tok/s | %.1f | |\n", rounds, best[1]);
  printf("| time of a token with it, by that without: best by best (median of the rounds) | %.2f (%.2f) | ≤ 1.15 |\n",
         best[0] / best[1], ratios[rounds / 2]);

  int swaps = 10000;
  double start = now();
  for (int i = 0; i < swaps; i++) check(mlxrt_apply_adapter(plain, i % 2 ? NULL : &adapter, NULL, i % 2 ? 0 : 1));
  printf("| a swap (mlxrt_apply_adapter), us | %.2f | < 1000 |\n", 1e6 * (now() - start) / swaps);
  mlxrt_session_free(plain);
  mlxrt_session_free(adapted);
  mlxrt_adapter_free(adapter);
  mlxrt_model_free(model);
  free(ratios);
  return 0;
}
