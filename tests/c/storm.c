/* Many threads do what they like with a few sessions; afterwards everything is as it was. storm [seconds] [seed] */
#include "use.h"

#include <dirent.h>
#include <pthread.h>
#include <unistd.h>

enum { THREADS = 8, SESSIONS = 5, REQUESTS = 12, MODELS = 2 };

/* Handles that any thread may take out, use, and put back or free; stale ones are used on purpose. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static mlxrt_model *models[MODELS];
static mlxrt_session *sessions[SESSIONS];
static mlxrt_request *requests[REQUESTS];
/* Read and written by several threads at once. */
#define SEE(place) __atomic_load_n(&(place), __ATOMIC_SEQ_CST)
#define TELL(place, value) __atomic_store_n(&(place), (value), __ATOMIC_SEQ_CST)
static int stop;
static int64_t alive[THREADS];
static const char *doing[THREADS];
static int codes[32];
static long notified, calls;

static uint64_t draw(uint64_t *state) {
  *state ^= *state << 13;
  *state ^= *state >> 7;
  *state ^= *state << 17;
  return *state;
}

/* Any outcome with a name is right; a bug in the library or a refused handle of the wrong kind is not. */
static int32_t note(mlxrt_error *error) {
  int32_t code = mlxrt_error_code(error);
  if (code == MLXRT_E_INTERNAL || code == MLXRT_E_DEVICE || code == MLXRT_E_REENTRANT || code == MLXRT_E_FORKED) {
    printf("\n  %s: %s", mlxrt_code_name(code), mlxrt_error_message(error));
    CHECK(!"an outcome that nothing here explains");
  }
  pthread_mutex_lock(&lock);
  codes[code < 32 ? code : 31]++;
  calls++;
  pthread_mutex_unlock(&lock);
  mlxrt_error_free(error);
  if (code == MLXRT_E_SUSPENDED) sleep_ms(1);
  return code;
}

static void *peek(void **slots, size_t count, uint64_t *random) {
  pthread_mutex_lock(&lock);
  void *handle = slots[draw(random) % count];
  pthread_mutex_unlock(&lock);
  return handle;
}

/* Puts `handle` into a slot, and gives what was there. */
static void *swap(void **slots, size_t count, uint64_t *random, void *handle) {
  pthread_mutex_lock(&lock);
  void **slot = &slots[draw(random) % count], *before = *slot;
  *slot = handle;
  pthread_mutex_unlock(&lock);
  return before;
}

#define PEEK(slots) peek((void **)(slots), COUNT(slots), random)
#define SWAP(slots, handle) swap((void **)(slots), COUNT(slots), random, (handle))

static void notice(void *data) {
  (void)data;
  pthread_mutex_lock(&lock);
  notified++;
  pthread_mutex_unlock(&lock);
}

static int32_t sometimes_stop(void *data, const mlxrt_event *event) {
  uint64_t *random = data;
  (void)event;
  switch (draw(random) % 800) {
    case 0: return MLXRT_RETURN_STOP;
    case 1: mlxrt_session_cancel(PEEK(sessions)); break;
    case 2: mlxrt_request_cancel(PEEK(requests)); break;
    case 3: mlxrt_request_free(SWAP(requests, NULL)); break;
    case 4: mlxrt_session_free(SWAP(sessions, NULL)); break;
    default: break;
  }
  return MLXRT_RETURN_CONTINUE;
}

static mlxrt_generate_options some_options(uint64_t *random) {
  mlxrt_generate_options options = greedy((uint32_t)(1 + draw(random) % 60));
  if (draw(random) % 4 == 0) options.timeout_ms = (uint32_t)(draw(random) % 50);
  if (draw(random) % 4 == 0) options.progress_tokens = 3;
  return options;
}

static void submit_one(uint64_t *random) {
  mlxrt_input input = text_input(draw(random) % 2 ? "Hello there" : "What a long sentence this is, with no end in sight");
  mlxrt_generate_options options = some_options(random);
  mlxrt_request *request = NULL;
  if (draw(random) % 2) options.notify = notice;
  int32_t code = note(mlxrt_submit(PEEK(sessions), &input, &options, &request));
  if (code == MLXRT_E_CANCELLED) mlxrt_session_free(SWAP(sessions, NULL));
  if (request) mlxrt_request_free(SWAP(requests, request));
}

static void read_one(uint64_t *random, uint32_t timeout_ms) {
  mlxrt_request *request = PEEK(requests);
  int32_t state = MLXRT_NEXT_EVENT;
  for (int i = 0; i < 50 && state == MLXRT_NEXT_EVENT; i++) {
    mlxrt_event *event = NULL;
    mlxrt_error *error = mlxrt_request_next(request, timeout_ms, &event, &state);
    mlxrt_free(event);
    if (error) state = MLXRT_NEXT_DONE;
    note(error);
  }
}

static void new_session(uint64_t *random) {
  mlxrt_session_options options = session_options();
  if (draw(random) % 3 == 0) options.window = 64;
  if (draw(random) % 5 == 0) options.kv_limit = 20000;
  mlxrt_session *session = NULL;
  int32_t code = note(mlxrt_session_create(PEEK(models), &options, &session));
  /* Of an engine that was shut down. */
  if (code == MLXRT_E_CANCELLED) mlxrt_model_free(SWAP(models, NULL));
  if (session) mlxrt_session_free(SWAP(sessions, session));
}

static void new_model(uint64_t *random) {
  static const char *const names[] = {"qwen3-f32", "llama-f32", "gemma3-text-bf16", "qwen3-4bit"};
  char path[1024];
  snprintf(path, sizeof path, "%s/%s", FIXTURES, names[draw(random) % COUNT(names)]);
  mlxrt_model *model = NULL;
  note(mlxrt_model_load(path, NULL, &model));
  if (model) mlxrt_model_free(SWAP(models, model));
}

static void some_queries(uint64_t *random) {
  mlxrt_session_state state;
  mlxrt_memory memory;
  mlxrt_metrics_data data;
  int32_t *ids = NULL;
  size_t count = 0;
  char *json = NULL;
  memset(&state, 0, sizeof state);
  memset(&memory, 0, sizeof memory);
  memset(&data, 0, sizeof data);
  state.struct_size = sizeof state;
  memory.struct_size = sizeof memory;
  data.struct_size = sizeof data;
  note(mlxrt_session_info(PEEK(sessions), &state));
  note(mlxrt_memory_get(&memory));
  note(mlxrt_metrics(NULL, &data));
  note(mlxrt_session_tokens(PEEK(sessions), &ids, &count));
  mlxrt_free(ids);
  note(mlxrt_session_message(PEEK(sessions), &json, NULL));
  mlxrt_free(json);
}

#define DO(what) (TELL(doing[me], #what), what)

static void *act(void *data) {
  int me = (int)(intptr_t)data;
  uint64_t seed = (uint64_t)me * 7919 + (uint64_t)SEE(alive[me]), *random = &seed;
  for (int i = 0; i < 10; i++) draw(random);
  while (!SEE(stop)) {
    mlxrt_input input = text_input("Go on");
    mlxrt_generate_options options = some_options(random);
    mlxrt_result result = empty_result();
    TELL(alive[me], now_ms());
    uint64_t dice = draw(random) % 1000;
    /* What is gone is made anew, more often than not. */
    if (dice % 4 && !PEEK(models)) DO(new_model(random));
    if (dice % 4 && !PEEK(sessions)) DO(new_session(random));
    if (dice < 60 || (dice % 4 && !PEEK(requests))) DO(submit_one(random));
    else if (dice < 400) DO(read_one(random, 0));
    else if (dice < 500) DO(read_one(random, (uint32_t)(draw(random) % 20)));
    else if (dice < 560) DO(note(mlxrt_request_result(PEEK(requests), 20, &result)));
    else if (dice < 564) DO(mlxrt_request_cancel(PEEK(requests)));
    else if (dice < 568) DO(mlxrt_request_free(SWAP(requests, NULL)));
    else if (dice < 572) DO(mlxrt_session_cancel(PEEK(sessions)));
    else if (dice < 576) DO(new_session(random));
    else if (dice < 578) DO(new_model(random));
    else if (dice < 840) DO(note(mlxrt_generate(PEEK(sessions), &input, &options, sometimes_stop, random, &result)));
    else if (dice < 910) DO(some_queries(random));
    else if (dice < 930) DO(note(mlxrt_memory_trim((int32_t)(draw(random) % 3))));
    else if (dice < 935) {
      mlxrt_error *error = DO(mlxrt_suspend((uint32_t)(draw(random) % 3 ? MLXRT_FOREVER : draw(random) % 3)));
      int suspended = !error;
      note(error);
      if (suspended) {
        sleep_ms((long)(draw(random) % 4));
        DO(note(mlxrt_resume()));
      }
    } else if (dice < 940) {
      mlxrt_error *error = DO(mlxrt_init(NULL));
      int held = !error;
      note(error);
      if (held) DO(note(mlxrt_shutdown(0, MLXRT_FOREVER)));
    } else if (dice < 941) {
      DO(note(mlxrt_shutdown(MLXRT_SHUTDOWN_FORCE, MLXRT_FOREVER)));
      for (int i = 0; i < MODELS; i++) new_model(random);
      for (int i = 0; i < SESSIONS; i++) new_session(random);
    }
  }
  TELL(doing[me], "nothing");
  return NULL;
}

static int entries(const char *folder) {
  int count = 0;
  DIR *dir = opendir(folder);
  while (dir && readdir(dir)) count++;
  if (dir) closedir(dir);
  return count;
}

static void blow(double seconds, uint64_t seed) {
  pthread_t threads[THREADS];
  const int64_t unstarted = (int64_t)seed;
  TELL(stop, 0);
  for (int i = 0; i < THREADS; i++) {
    TELL(alive[i], unstarted);
    TELL(doing[i], "starting");
  }
  uint64_t *random = &seed;
  for (int i = 0; i < 2 * MODELS; i++) new_model(random);
  for (int i = 0; i < 2 * SESSIONS; i++) new_session(random);
  for (int i = 0; i < THREADS; i++) pthread_create(&threads[i], NULL, act, (void *)(intptr_t)i);
  int64_t end = now_ms() + (int64_t)(seconds * 1000);
  while (now_ms() < end) {
    sleep_ms(100);
    for (int i = 0; i < THREADS; i++) {
      int64_t seen = SEE(alive[i]);
      if (seen == unstarted || now_ms() - seen < 30000) continue;
      for (int k = 0; k < THREADS; k++) printf("\n  thread %d: %s", k, SEE(doing[k]));
      printf("\n  a thread has not moved for 30 s\n");
      fflush(stdout);
      if (getenv("STORM_WAITS")) pause();
      _exit(2);
    }
  }
  TELL(stop, 1);
  for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
  for (size_t i = 0; i < REQUESTS; i++) mlxrt_request_free(requests[i]);
  for (size_t i = 0; i < SESSIONS; i++) mlxrt_session_free(sessions[i]);
  for (size_t i = 0; i < MODELS; i++) mlxrt_model_free(models[i]);
  memset(requests, 0, sizeof requests);
  memset(sessions, 0, sizeof sessions);
  memset(models, 0, sizeof models);
  /* Every suspend was taken back, and nobody is left. */
  FAILS(mlxrt_resume(), MLXRT_E_INVALID_ARGUMENT, "without");
  OK(mlxrt_shutdown(0, MLXRT_FOREVER));
}

int main(int argc, char **argv) {
  double seconds = argc > 1 ? atof(argv[1]) : 3;
  uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
  printf("test a storm leaves everything as it was ... ");
  fflush(stdout);
  /* What is made once and stays is made here. */
  mlxrt_model *model = load("qwen3-f32");
  check_alive(model);
  mlxrt_model_free(model);
  mlxrt_memory before = memory();
  int threads = entries("/proc/self/task"), files = entries("/proc/self/fd");
  for (int round = 0; round < 3; round++) blow(seconds / 3, seed + (uint64_t)round);
  mlxrt_memory after = memory();
  CHECK_INT(after.active_bytes, before.active_bytes);
  CHECK_INT(after.weight_bytes, 0);
  CHECK_INT(after.kv_bytes, 0);
  CHECK(entries("/proc/self/task") <= threads + 2);
  CHECK_INT(entries("/proc/self/fd"), files);
  mlxrt_metrics_data data;
  memset(&data, 0, sizeof data);
  data.struct_size = sizeof data;
  OK(mlxrt_metrics(NULL, &data));
  CHECK_INT(data.requests_running, 0);
  CHECK_INT(data.requests_started, data.requests_completed + data.requests_cancelled + data.requests_failed);
  model = load("qwen3-f32");
  check_alive(model);
  mlxrt_model_free(model);
  if (getenv("STORM_TELLS")) {
    printf("\n  %ld calls, %ld notified, requests %d: %d done, %d cancelled, %d failed", calls, notified,
           (int)data.requests_started, (int)data.requests_completed, (int)data.requests_cancelled,
           (int)data.requests_failed);
    for (int i = 0; i < 20; i++) printf("\n  %s: %d", mlxrt_code_name(i), codes[i]);
    printf("\n  threads %d -> %d\n", threads, entries("/proc/self/task"));
  }
  printf(check_failures ? "\nFAILED\n" : "ok\n");
  printf("%d passed, %d failed\n", !check_failures, !!check_failures);
  return check_failures ? 1 : 0;
}
