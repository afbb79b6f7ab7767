/* What the safety of the surface costs: a call with a checked handle, and the hand-off of tokens from the engine's thread to
 * the callback on the caller's. Prints the lines of a Markdown table. See README.md in this folder.
 *
 *   safety MODEL
 */
#define _GNU_SOURCE
#include <mlxrt.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { CALLS = 200000, ROUNDS = 15, REQUESTS = 1000, PAIRS = 51, AHEAD = 60, MOST_THREADS = 2 };

static void check(mlxrt_error *error) {
  if (!error) return;
  fprintf(stderr, "%s: %s\n", mlxrt_code_name(mlxrt_error_code(error)), mlxrt_error_message(error));
  mlxrt_error_free(error);
  exit(1);
}

static int64_t now_ns(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

/* CPU time: of a thread or of the process; other processes are not in it. */
static int64_t cpu_ns(clockid_t clock) {
  struct timespec time;
  clock_gettime(clock, &time);
  return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

static int by_size(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static void row(const char *what, double *values, size_t count, const char *unit, const char *target) {
  qsort(values, count, sizeof *values, by_size);
  printf("| %s, %s | %.3g (%.3g–%.3g) | %s |\n", what, unit, values[count / 2], values[count / 20],
         values[count - 1 - count / 20], target);
}

/* ---- Calls ---- */

static mlxrt_session *session;

/* Volatile, so that every call is made through the pointer and none is left out. */
static uint32_t (*volatile version)(void) = mlxrt_abi_version;
static void (*volatile cancel)(mlxrt_session *) = mlxrt_session_cancel;
static mlxrt_error *(*volatile info)(const mlxrt_session *, mlxrt_session_state *) = mlxrt_session_info;
static pid_t (*volatile process)(void) = getpid;

static void call_version(void) { version(); }
static void call_cancel(void) { cancel(session); }
static void call_process(void) { process(); }
static void call_info(void) {
  mlxrt_session_state state;
  memset(&state, 0, sizeof state);
  state.struct_size = sizeof state;
  check(info(session, &state));
}

struct calls {
  void (*call)(void);
  pthread_barrier_t *barrier;
  double ns;
};

static void *run_calls(void *data) {
  struct calls *calls = data;
  pthread_barrier_wait(calls->barrier);
  int64_t began = cpu_ns(CLOCK_THREAD_CPUTIME_ID);
  for (int i = 0; i < CALLS; i++) calls->call();
  calls->ns = (double)(cpu_ns(CLOCK_THREAD_CPUTIME_ID) - began) / CALLS;
  return NULL;
}

/* Nanoseconds a call, of so many threads at once: of each round the slowest thread's. */
static void time_calls(void (*call)(void), int threads, double *values) {
  for (int round = 0; round < ROUNDS; round++) {
    pthread_barrier_t barrier;
    pthread_t ids[MOST_THREADS];
    struct calls calls[MOST_THREADS];
    pthread_barrier_init(&barrier, NULL, (unsigned)threads);
    for (int i = 0; i < threads; i++) {
      calls[i] = (struct calls){call, &barrier, 0};
      pthread_create(&ids[i], NULL, run_calls, &calls[i]);
    }
    values[round] = 0;
    for (int i = 0; i < threads; i++) {
      pthread_join(ids[i], NULL);
      if (calls[i].ns > values[round]) values[round] = calls[i].ns;
    }
    pthread_barrier_destroy(&barrier);
  }
}

/* ---- Hand-off ---- */

struct reader {
  int64_t called, first, woke, last, cpu;
  size_t tokens;
  /* Microseconds that it sleeps at its first token, until the engine is as far ahead as it may be. */
  useconds_t sleeps;
};

static int32_t take(void *user_data, const mlxrt_event *event) {
  struct reader *reader = user_data;
  if (event->token_count == 0) return MLXRT_RETURN_CONTINUE;
  reader->last = now_ns();
  if (reader->tokens == 0) {
    reader->first = reader->last;
    if (reader->sleeps) usleep(reader->sleeps);
    reader->woke = now_ns();
  }
  reader->tokens += event->token_count;
  return MLXRT_RETURN_CONTINUE;
}

static mlxrt_result request(mlxrt_model *model, uint32_t tokens, uint32_t flags, struct reader *reader) {
  static const int32_t prompt[] = {5, 6, 7, 8};
  mlxrt_session *own = NULL;
  mlxrt_input input;
  mlxrt_generate_options options;
  mlxrt_result result;
  memset(&input, 0, sizeof input);
  memset(&options, 0, sizeof options);
  memset(&result, 0, sizeof result);
  input.struct_size = sizeof input;
  input.tokens = prompt;
  input.token_count = sizeof prompt / sizeof *prompt;
  options.struct_size = sizeof options;
  options.flags = MLXRT_GEN_GREEDY | MLXRT_GEN_IGNORE_EOS | flags;
  options.max_tokens = tokens;
  result.struct_size = sizeof result;
  check(mlxrt_session_create(model, NULL, &own));
  reader->cpu = cpu_ns(CLOCK_PROCESS_CPUTIME_ID);
  reader->called = now_ns();
  check(mlxrt_generate(own, &input, &options, take, reader, &result));
  reader->cpu = cpu_ns(CLOCK_PROCESS_CPUTIME_ID) - reader->cpu;
  mlxrt_session_free(own);
  if (result.generated_tokens != tokens) exit(1);
  return result;
}

/* Microseconds from the engine's having its first token, which queue_ns and prefill_ns tell, to the callback, by the program's
 * clock: a thread that sleeps is woken. The way into the call is in it, so it is rather too much than too little.
 * (first_token_ns will not do: it is taken on the engine's thread.) */
static void first_hand_off(mlxrt_model *model, uint32_t flags, double *values) {
  for (int i = 0; i < REQUESTS; i++) {
    struct reader reader;
    memset(&reader, 0, sizeof reader);
    mlxrt_result result = request(model, 2, flags, &reader);
    values[i] = (double)(reader.first - reader.called - (int64_t)result.queue_ns - (int64_t)result.prefill_ns) / 1e3;
  }
}

/* What a token costs. Within the run-ahead the engine does not wait for the reader, so a reader that sleeps leaves the engine
 * alone with its own work, and then finds the tokens waiting: a reader that is awake costs what both sides spend on
 * sleeping and waking for each token. */
static void each_hand_off(mlxrt_model *model, uint32_t flags, double *both, double *taking, double *step) {
  struct reader first;
  memset(&first, 0, sizeof first);
  useconds_t enough = 20000 + (useconds_t)(request(model, AHEAD, flags, &first).decode_ns / 1000 * 3);
  for (int i = 0; i < PAIRS; i++) {
    struct reader asleep, awake;
    memset(&asleep, 0, sizeof asleep);
    memset(&awake, 0, sizeof awake);
    asleep.sleeps = enough;
    mlxrt_result without = request(model, AHEAD, flags, &asleep);
    request(model, AHEAD, flags, &awake);
    both[i] = (double)(awake.cpu - asleep.cpu) / (AHEAD - 1) / 1e3;
    taking[i] = (double)(asleep.last - asleep.woke) / (AHEAD - 1) / 1e3;
    step[i] = (double)without.decode_ns / (AHEAD - 1) / 1e3;
  }
}

/* The system's part: a thread that sleeps for a condition variable, and nothing else. */
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t condition = PTHREAD_COND_INITIALIZER;
static int64_t signalled;

static void *sleep_and_wake(void *data) {
  double *values = data;
  for (int i = 0; i < REQUESTS; i++) {
    pthread_mutex_lock(&mutex);
    while (!signalled) pthread_cond_wait(&condition, &mutex);
    values[i] = (double)(now_ns() - signalled) / 1e3;
    signalled = 0;
    pthread_mutex_unlock(&mutex);
  }
  return NULL;
}

static void bare_wake(double *values) {
  pthread_t sleeper;
  pthread_create(&sleeper, NULL, sleep_and_wake, values);
  for (int i = 0; i < REQUESTS; i++) {
    usleep(600);
    pthread_mutex_lock(&mutex);
    signalled = now_ns();
    pthread_mutex_unlock(&mutex);
    pthread_cond_signal(&condition);
  }
  pthread_join(sleeper, NULL);
}

int main(int argc, char **argv) {
  static double a[REQUESTS], b[REQUESTS], c[REQUESTS];
  mlxrt_model *model = NULL;
  if (argc != 2) return 2;
  check(mlxrt_model_load(argv[1], NULL, &model));
  check(mlxrt_session_create(model, NULL, &session));

  printf("| | median (5th to 95th percentile) | target |\n|---|---:|---:|\n");
  time_calls(call_version, 1, a);
  row("a call that does nothing (`mlxrt_abi_version`)", a, ROUNDS, "ns", "");
  time_calls(call_process, 1, a);
  row("`getpid`, which every function asks", a, ROUNDS, "ns", "");
  time_calls(call_cancel, 1, a);
  row("`mlxrt_session_cancel` of an idle session: all checks and one handle", a, ROUNDS, "ns", "");
  time_calls(call_info, 1, a);
  row("`mlxrt_session_info`: the same, a lock and a struct", a, ROUNDS, "ns", "");
  time_calls(call_cancel, 2, a);
  row("`mlxrt_session_cancel`, two threads with one handle", a, ROUNDS, "ns", "");

  bare_wake(a);
  row("a sleeping thread wakes, without the library (condition variable)", a, REQUESTS, "µs", "");
  static const struct {
    const char *name;
    uint32_t flags;
  } modes[] = {{"tokens only", MLXRT_GEN_TOKENS_ONLY}, {"with text", 0}};
  for (size_t i = 0; i < 2; i++) {
    char what[200];
    each_hand_off(model, modes[i].flags, a, b, c);
    snprintf(what, sizeof what, "a token, %s: taken when it waits already", modes[i].name);
    row(what, b, PAIRS, "µs", "< 10");
    snprintf(what, sizeof what, "a token, %s: CPU time of both sides for sleeping and waking", modes[i].name);
    qsort(a, PAIRS, sizeof *a, by_size);
    /* A difference of two large times: on a busy machine it is all noise, and then it says nothing of the target. */
    double spread = a[PAIRS - 1 - PAIRS / 20] - a[PAIRS / 20];
    row(what, a, PAIRS, "µs", spread < 10 ? "< 10" : "not resolved: the spread is larger than 10");
    snprintf(what, sizeof what, "a token, %s: the engine's step itself", modes[i].name);
    row(what, c, PAIRS, "µs", "");
    first_hand_off(model, modes[i].flags, a);
    snprintf(what, sizeof what, "the engine's first token, %s: from there to the callback, whose thread sleeps", modes[i].name);
    row(what, a, REQUESTS, "µs", "< 10");
  }
  mlxrt_session_free(session);
  mlxrt_model_free(model);
  return 0;
}
