/* One fresh process of the benchmark's mlxrt side: loads a folder, does one short cold request, then measured ones.
 * Prints "first" when the first token of the cold request arrives, and at its end one line of JSON.
 * bench_mlx_lm.py does the same with mlx-lm and prints the same keys.
 */
#include <mlxrt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#define MAX_TOKENS 65536

static void check(mlxrt_error *error) {
  if (!error) return;
  fprintf(stderr, "%s: %s\n", mlxrt_code_name(mlxrt_error_code(error)), mlxrt_error_message(error));
  mlxrt_error_free(error);
  exit(1);
}

static void fail(const char *what) {
  fprintf(stderr, "bench: %s\n", what);
  exit(1);
}

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* The most memory this process ever had resident. On Linux ru_maxrss starts from what the parent had before exec. */
static uint64_t peak_rss(void) {
  FILE *status = fopen("/proc/self/status", "r");
  char line[256];
  unsigned long kib = 0;
  struct rusage usage;
  if (status) {
    while (fgets(line, sizeof line, status)) {
      if (sscanf(line, "VmHWM: %lu", &kib) == 1) break;
    }
    fclose(status);
    return (uint64_t)kib * 1024;
  }
  getrusage(RUSAGE_SELF, &usage);
  return (uint64_t)usage.ru_maxrss; /* bytes on macOS */
}

/* What one request delivered, by our own clock. */
typedef struct {
  int announce;
  double first, last;
  size_t first_tokens, count;
  int32_t tokens[MAX_TOKENS];
} delivery;

static int32_t take(void *user_data, const mlxrt_event *event) {
  delivery *got = user_data;
  if (event->token_count == 0) return MLXRT_RETURN_CONTINUE;
  got->last = now();
  if (got->count == 0) {
    got->first = got->last;
    got->first_tokens = event->token_count;
    if (got->announce) {
      puts("first");
      fflush(stdout);
    }
  }
  for (size_t i = 0; i < event->token_count && got->count < MAX_TOKENS; i++) got->tokens[got->count++] = event->tokens[i];
  return MLXRT_RETURN_CONTINUE;
}

static void request(mlxrt_model *model, const int32_t *prompt, size_t prompt_len, uint32_t decode, uint32_t flags,
                    delivery *got, mlxrt_result *result, double *called) {
  mlxrt_session *session = NULL;
  mlxrt_input input = {0};
  mlxrt_generate_options options = {0};
  got->count = 0;
  input.struct_size = sizeof input;
  input.tokens = prompt;
  input.token_count = prompt_len;
  options.struct_size = sizeof options;
  options.flags = MLXRT_GEN_IGNORE_EOS | MLXRT_GEN_NO_PREFIX_CACHE | flags;
  if (!(flags & MLXRT_GEN_GREEDY)) { /* As most people draw. */
    options.temperature = 0.7f;
    options.top_p = 0.95f;
  }
  options.max_tokens = decode;
  options.draft_tokens = -1; /* What a random model says repeats itself, so guesses would be right and tokens come several at a time. */
  memset(result, 0, sizeof *result);
  result->struct_size = sizeof *result;
  check(mlxrt_session_create(model, NULL, &session));
  *called = now();
  check(mlxrt_generate(session, &input, &options, take, got, result));
  mlxrt_session_free(session);
  if (got->count != decode) fail("the request did not give all of its tokens");
}

static const char *argument(int argc, char **argv, const char *name) {
  for (int i = 1; i + 1 < argc; i += 2) {
    if (strcmp(argv[i], name) == 0) return argv[i + 1];
  }
  fprintf(stderr, "bench: %s is missing\n", name);
  exit(2);
}

static uint32_t threads_of(int argc, char **argv) {
  for (int i = 1; i + 1 < argc; i += 2) {
    if (strcmp(argv[i], "--threads") == 0) return (uint32_t)strtoul(argv[i + 1], NULL, 10);
  }
  return 0; /* the library's default */
}

static size_t read_ids(const char *path, int32_t *ids, size_t most) {
  FILE *file = fopen(path, "r");
  size_t n = 0;
  if (!file) fail("the prompt cannot be read");
  while (n < most && fscanf(file, "%" SCNd32, &ids[n]) == 1) n++;
  fclose(file);
  return n;
}

static double per_second(uint64_t count, uint64_t ns) {
  return ns > 0 ? (double)count * 1e9 / (double)ns : 0.0;
}

int main(int argc, char **argv) {
  static int32_t prompt[MAX_TOKENS];
  static delivery got;
  const char *folder = argument(argc, argv, "--model");
  const char *device = argument(argc, argv, "--device");
  const char *modes = argument(argc, argv, "--modes");
  size_t cold_prompt = strtoul(argument(argc, argv, "--cold-prompt"), NULL, 10);
  uint32_t cold_decode = (uint32_t)strtoul(argument(argc, argv, "--cold-decode"), NULL, 10);
  uint32_t decode = (uint32_t)strtoul(argument(argc, argv, "--decode"), NULL, 10);
  unsigned repeats = (unsigned)strtoul(argument(argc, argv, "--repeats"), NULL, 10);
  size_t prompt_len = read_ids(argument(argc, argv, "--prompt-file"), prompt, MAX_TOKENS);
  if (cold_prompt == 0 || cold_prompt > prompt_len || decode < 2) fail("the prompt or the answer is too short");

  mlxrt_init_options init = {0};
  mlxrt_model *model = NULL;
  mlxrt_result result = {0};
  mlxrt_memory memory = {0};
  double called, start = now();
  char *info = NULL;

  init.struct_size = sizeof init;
  init.device = strcmp(device, "gpu") == 0 ? MLXRT_DEVICE_GPU : MLXRT_DEVICE_CPU;
  init.cpu_threads = threads_of(argc, argv);
  check(mlxrt_init(&init));
  check(mlxrt_model_load(folder, NULL, &model));
  double load = now() - start;
  memory.struct_size = sizeof memory;
  check(mlxrt_memory_get(&memory));
  uint64_t load_peak = memory.peak_bytes;

  got.announce = 1;
  request(model, prompt, cold_prompt, cold_decode, MLXRT_GEN_GREEDY | MLXRT_GEN_TOKENS_ONLY, &got, &result, &called);
  got.announce = 0;
  double cold_first = got.first - called;
  uint64_t cold_rss = peak_rss();

  check(mlxrt_device_info(&info, NULL));
  printf("{\"side\":\"mlxrt\",\"version\":\"%s\",\"device_info\":%s,\"load_s\":%.9f,\"cold_first_token_s\":%.9f,\"runs\":[",
         mlxrt_version(), info, load, cold_first);
  mlxrt_free(info);

  static const struct { const char *name; uint32_t flags; } ALL[] = {
      {"tokens", MLXRT_GEN_GREEDY | MLXRT_GEN_TOKENS_ONLY}, {"text", MLXRT_GEN_GREEDY}, {"drawn", MLXRT_GEN_TOKENS_ONLY}};
  const char *comma = "";
  for (unsigned repeat = 0; repeat < repeats; repeat++) {
    for (size_t mode = 0; mode < sizeof ALL / sizeof *ALL; mode++) {
      if (!strstr(modes, ALL[mode].name)) continue;
      request(model, prompt, prompt_len, decode, ALL[mode].flags, &got, &result, &called);
      printf("%s{\"mode\":\"%s\",\"first_token_s\":%.9f,\"decode_s\":%.9f,\"decode_tokens\":%zu,"
             "\"reported_prefill_tps\":%.6f,\"reported_decode_tps\":%.6f,\"mlx_peak_bytes\":%" PRIu64 ",\"kv_bytes\":%" PRIu64 "}",
             comma, ALL[mode].name, got.first - called, got.last - got.first, got.count - got.first_tokens,
             per_second(result.prompt_tokens - result.cached_tokens, result.prefill_ns),
             per_second(result.generated_tokens - 1, result.decode_ns), result.peak_bytes, result.kv_bytes);
      comma = ",";
    }
  }
  printf("],\"tokens\":[");
  for (size_t i = 0; i < got.count; i++) printf("%s%" PRId32, i ? "," : "", got.tokens[i]);
  check(mlxrt_memory_get(&memory));
  printf("],\"mlx_load_peak_bytes\":%" PRIu64 ",\"mlx_process_peak_bytes\":%" PRIu64 ",\"weight_bytes\":%" PRIu64
         ",\"cold_rss_bytes\":%" PRIu64 ",\"peak_rss_bytes\":%" PRIu64 "}\n",
         load_peak, memory.peak_bytes, memory.weight_bytes, cold_rss, peak_rss());
  fflush(stdout);
  mlxrt_model_free(model);
  check(mlxrt_shutdown(0, MLXRT_FOREVER));
  return 0;
}
