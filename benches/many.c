/* One fresh process of the mlxrt side of the benchmark of many sessions: so many sessions generate at once, each on a thread of its
 * own. Prints "first" when the first token of a short cold request arrives, and at its end one line of JSON, with the keys of
 * many_llama_cpp.py and many_mlx_lm.py.
 *
 *     many MODEL SESSIONS [--prompt N] [--decode N] [--repeats N] [--adapters N] [--arrivals N] [--threads N] [--guesses 1] [--drawn 1]
 *         [--gpu 1]
 *
 * --adapters: so many LoRAs of rank 16 on all projections, one session has the first, the next one the second, and so on.
 * --guesses: with tokens that are guessed; without it rows are sessions. --drawn: answers that repeat nothing, of temperature 1.
 * --arrivals: so many more sessions take in one prompt of ARRIVING tokens after the other, as long as the others generate.
 */
#include <mlxrt.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MOST_SESSIONS = 64, MOST_TOKENS = 4096, ARRIVING = 1000 };

static void check(mlxrt_error *error) {
  if (!error) return;
  fprintf(stderr, "%s: %s\n", mlxrt_code_name(mlxrt_error_code(error)), mlxrt_error_message(error));
  mlxrt_error_free(error);
  exit(1);
}

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int by_size(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static struct {
  long prompt, decode, repeats, adapters, arrivals, threads, guesses, drawn, gpu;
} asked = {64, 96, 1, 0, 0, 0, 0, 0, 0};
static mlxrt_model *model;
static mlxrt_adapter *adapters[MOST_SESSIONS];
static pthread_barrier_t start;
static volatile int over;

/* A session that generates, and when each of its tokens came. */
struct talker {
  int number;
  size_t count;
  double at[MOST_TOKENS];
};

/* Prompts that have nothing in common, from the vocabulary's beginning, which every model has. */
static void prompt_of(int32_t *tokens, size_t count, uint64_t seed) {
  seed = seed * 0x9e3779b97f4a7c15u + 1;
  for (size_t i = 0; i < count; i++) {
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    tokens[i] = 100 + (int32_t)(seed >> 33) % 20000;
  }
}

static int32_t take(void *user_data, const mlxrt_event *event) {
  struct talker *talker = user_data;
  for (size_t i = 0; i < event->token_count && talker->count < MOST_TOKENS; i++) talker->at[talker->count++] = now();
  return MLXRT_RETURN_CONTINUE;
}

static void generate(int adapter, size_t prompt, uint32_t decode, uint64_t seed, struct talker *talker) {
  uint32_t flags = MLXRT_GEN_IGNORE_EOS | MLXRT_GEN_TOKENS_ONLY | MLXRT_GEN_NO_PREFIX_CACHE;
  if (!asked.drawn) flags |= MLXRT_GEN_GREEDY;
  int32_t *tokens = malloc(prompt * sizeof *tokens);
  if (!tokens) exit(1);
  prompt_of(tokens, prompt, seed);
  mlxrt_session *session = NULL;
  check(mlxrt_session_create(model, NULL, &session));
  if (asked.adapters) check(mlxrt_apply_adapter(session, &adapters[adapter % asked.adapters], NULL, 1));
  mlxrt_input input = {.struct_size = sizeof input, .tokens = tokens, .token_count = prompt};
  mlxrt_generate_options options = {.struct_size = sizeof options, .flags = flags, .max_tokens = decode};
  options.draft_tokens = asked.guesses ? 0 : -1;
  if (asked.drawn) options.temperature = 1, options.seed = seed + 1;
  check(mlxrt_generate(session, &input, &options, take, talker, NULL));
  mlxrt_session_free(session);
  free(tokens);
}

static void *talk(void *data) {
  struct talker *talker = data;
  pthread_barrier_wait(&start);
  generate(talker->number, (size_t)asked.prompt, (uint32_t)asked.decode, (uint64_t)talker->number, talker);
  return NULL;
}

/* What arrives: first tokens are all that its sessions want. */
static void *arrive(void *data) {
  struct talker *talker = data;
  pthread_barrier_wait(&start);
  for (uint64_t i = 0; !over && talker->count < MOST_TOKENS; i++) {
    generate(talker->number, ARRIVING, 1, 1000 + (uint64_t)talker->number * 1000 + i, talker);
  }
  return NULL;
}

static mlxrt_metrics_data metrics(void) {
  mlxrt_metrics_data data = {.struct_size = sizeof data};
  check(mlxrt_metrics(model, &data));
  return data;
}

/* All sessions at once. Rates and gaps are of the time in which every one of them generates. */
static void run(int sessions, int last) {
  static struct talker talkers[2 * MOST_SESSIONS];
  pthread_t threads[2 * MOST_SESSIONS];
  int all = sessions + (int)asked.arrivals;
  over = 0;
  pthread_barrier_init(&start, NULL, (unsigned)all + 1);
  for (int i = 0; i < all; i++) {
    talkers[i].number = i;
    talkers[i].count = 0;
    if (pthread_create(&threads[i], NULL, i < sessions ? talk : arrive, &talkers[i])) exit(1);
  }
  mlxrt_metrics_data before = metrics();
  double began = now();
  pthread_barrier_wait(&start);
  for (int i = 0; i < sessions; i++) pthread_join(threads[i], NULL);
  double ended = now();
  over = 1;
  for (int i = sessions; i < all; i++) pthread_join(threads[i], NULL);
  mlxrt_metrics_data after = metrics();
  pthread_barrier_destroy(&start);

  double from = began, to = ended;
  for (int i = 0; i < sessions; i++) {
    if (talkers[i].at[0] > from) from = talkers[i].at[0];
    if (talkers[i].at[talkers[i].count - 1] < to) to = talkers[i].at[talkers[i].count - 1];
  }
  double *gaps = malloc((size_t)sessions * MOST_TOKENS * sizeof *gaps);
  if (!gaps) exit(1);
  size_t count = 0, tokens = 0, while_all = 0, arrived = 0;
  for (int i = 0; i < sessions; i++) {
    tokens += talkers[i].count;
    for (size_t k = 1; k < talkers[i].count; k++) {
      const double *at = &talkers[i].at[k];
      while_all += at[0] > from && at[0] <= to;
      if (at[-1] >= from && at[0] <= to) gaps[count++] = at[0] - at[-1];
    }
  }
  for (int i = sessions; i < all; i++) {
    for (size_t k = 0; k < talkers[i].count; k++) arrived += talkers[i].at[k] <= ended;
  }
  if (count == 0) {
    fputs("many: the first session was done before the last one began; --decode more\n", stderr);
    exit(1);
  }
  qsort(gaps, count, sizeof *gaps, by_size);
  uint64_t passes = after.passes - before.passes, rows = after.pass_rows - before.pass_rows;
  printf("{\"rate\":%.6f,\"whole_rate\":%.6f,\"gap_median_s\":%.9f,\"gap_p99_s\":%.9f,\"gap_max_s\":%.9f,\"gaps\":%zu,"
         "\"arrived\":%zu,\"arrived_rate\":%.6f,\"passes\":%" PRIu64 ",\"pass_rows\":%" PRIu64 "}%s",
         (double)while_all / (to - from), (double)tokens / (ended - began), gaps[count / 2], gaps[count * 99 / 100], gaps[count - 1],
         count, arrived, (double)arrived / (ended - began), passes, rows, last ? "" : ",");
  free(gaps);
}

static mlxrt_adapter *new_adapter(uint64_t seed) {
  static const char *const keys[] = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"};
  mlxrt_adapter_options shape = {.struct_size = sizeof shape, .rank = 16, .seed = seed, .dtype = MLXRT_DTYPE_BF16};
  shape.keys = keys;
  shape.key_count = sizeof keys / sizeof *keys;
  mlxrt_adapter *adapter = NULL;
  check(mlxrt_adapter_create(model, &shape, &adapter));
  return adapter;
}

static void read_options(int argc, char **argv) {
  const struct {
    const char *name;
    long *value;
  } options[] = {{"--prompt", &asked.prompt},     {"--decode", &asked.decode},     {"--repeats", &asked.repeats},
                 {"--adapters", &asked.adapters}, {"--arrivals", &asked.arrivals}, {"--threads", &asked.threads},
                 {"--guesses", &asked.guesses},   {"--drawn", &asked.drawn},     {"--gpu", &asked.gpu}};
  for (int i = 3; i + 1 < argc; i += 2) {
    size_t k = 0, count = sizeof options / sizeof *options;
    while (k < count && strcmp(argv[i], options[k].name)) k++;
    if (k == count) {
      fprintf(stderr, "many: no option %s\n", argv[i]);
      exit(2);
    }
    *options[k].value = strtol(argv[i + 1], NULL, 10);
  }
}

int main(int argc, char **argv) {
  int sessions = argc > 2 ? atoi(argv[2]) : 0;
  read_options(argc, argv);
  if (sessions < 1 || sessions > MOST_SESSIONS || asked.adapters > MOST_SESSIONS || asked.arrivals > MOST_SESSIONS ||
      asked.decode < 2 || asked.decode > MOST_TOKENS || asked.prompt < 1) {
    fputs("usage: many MODEL SESSIONS [--prompt N] [--decode N] [--repeats N] [--adapters N] [--arrivals N] [--threads N]\n", stderr);
    return 2;
  }
  mlxrt_init_options init = {.struct_size = sizeof init, .cpu_threads = (uint32_t)asked.threads};
  init.device = asked.gpu ? MLXRT_DEVICE_GPU : MLXRT_DEVICE_CPU;
  check(mlxrt_init(&init));
  check(mlxrt_model_load(argv[1], NULL, &model));
  for (long i = 0; i < asked.adapters; i++) adapters[i] = new_adapter((uint64_t)i + 1);
  static struct talker cold;
  generate(0, 16, 4, 999, &cold);
  puts("first");
  fflush(stdout);
  printf("{\"side\":\"mlxrt\",\"version\":\"%s\",\"runs\":[", mlxrt_version());
  for (long i = 0; i < asked.repeats; i++) run(sessions, i + 1 == asked.repeats);
  puts("]}");
  for (long i = 0; i < asked.adapters; i++) mlxrt_adapter_free(adapters[i]);
  mlxrt_model_free(model);
  check(mlxrt_shutdown(0, MLXRT_FOREVER));
  return 0;
}
