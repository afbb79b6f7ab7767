/* Start and end of the engine: counted, by force, again and again. */
#include "use.h"

#include <dirent.h>
#include <pthread.h>

/* Threads of this process with an engine's name; 0 where /proc does not say. MLX's own, which stays, has it from the engine
 * that made it. */
static int engine_threads(void) {
  int count = 0;
  DIR *tasks = opendir("/proc/self/task");
  for (struct dirent *task; tasks && (task = readdir(tasks));) {
    char path[512], name[64] = "";
    snprintf(path, sizeof path, "/proc/self/task/%s/comm", task->d_name);
    FILE *file = fopen(path, "r");
    if (file && fgets(name, sizeof name, file)) count += !strncmp(name, "mlxrt-engine", 12);
    if (file) fclose(file);
  }
  if (tasks) closedir(tasks);
  return count;
}

static mlxrt_init_options init_options(void) {
  mlxrt_init_options options;
  memset(&options, 0, sizeof options);
  options.struct_size = sizeof options;
  return options;
}

static void inits_are_counted(void) {
  OK(mlxrt_init(NULL));
  OK(mlxrt_init(NULL));
  OK(mlxrt_shutdown(0, MLXRT_FOREVER));
  mlxrt_model *model = load("qwen3-f32");
  check_alive(model);
  mlxrt_model_free(model);
  OK(mlxrt_shutdown(0, MLXRT_FOREVER));
  /* One too many is none. */
  OK(mlxrt_shutdown(0, MLXRT_FOREVER));
  OK(mlxrt_shutdown(MLXRT_SHUTDOWN_FORCE, 0));
}

static void busy_names_what_is_left(void) {
  OK(mlxrt_init(NULL));
  mlxrt_model *model = load("qwen3-f32");
  mlxrt_session *session = session_of(model);
  FAILS(mlxrt_shutdown(0, 1000), MLXRT_E_BUSY, "1 model");
  /* What is left works, and its end is the engine's. */
  free(ask(session, text_input("x"), greedy(3)));
  mlxrt_session *second = session_of(model);
  FAILS(mlxrt_shutdown(0, 0), MLXRT_E_BUSY, "2 session");
  mlxrt_session_free(second);
  mlxrt_model_free(model);
  free(ask(session, text_input("x"), greedy(3)));
  mlxrt_session_free(session);
  OK(mlxrt_shutdown(0, 0));
}

static void force_ends_everything(void) {
  OK(mlxrt_init(NULL));
  OK(mlxrt_init(NULL));
  mlxrt_model *model = load("qwen3-f32");
  mlxrt_session *session = session_of(model), *second = NULL;
  free(ask(session, text_input("x"), greedy(3)));
  OK(mlxrt_shutdown(MLXRT_SHUTDOWN_FORCE, MLXRT_FOREVER));
  struct answer *answer = new_answer();
  ask_into(answer, session, text_input("x"), greedy(3));
  CHECK_INT(answer->code, MLXRT_E_CANCELLED);
  CHECK_HAS(answer->message, "shut down");
  free(answer);
  FAILS(mlxrt_session_create(model, NULL, &second), MLXRT_E_CANCELLED, "shut down");
  /* Queries of what is not on the device still answer; the handles are the caller's to free. */
  char *json = NULL;
  OK(mlxrt_model_info(model, &json, NULL));
  mlxrt_free(json);
  size_t count = 0;
  mlxrt_free(ledger(session, &count));
  CHECK(count > 3);
  /* A new start, beside the remains of the old one. */
  mlxrt_model *again = load("qwen3-f32");
  check_alive(again);
  mlxrt_session_free(session);
  mlxrt_model_free(model);
  check_alive(again);
  mlxrt_model_free(again);
}

struct background {
  mlxrt_session *session;
  struct answer *answer;
  int started;
};

static void be_slow(struct answer *answer, const mlxrt_event *event) {
  (void)event;
  __atomic_store_n((int *)answer->data, 1, __ATOMIC_RELEASE);
  sleep_ms(1);
}

static void *run_background(void *data) {
  struct background *background = data;
  ask_into(background->answer, background->session, text_input("Hello"), greedy(1500));
  return NULL;
}

static void force_ends_a_running_request(void) {
  for (int round = 0; round < 5; round++) {
    mlxrt_model *model = load("qwen3-f32");
    struct background background = {session_of(model), new_answer(), 0};
    background.answer->at_event = be_slow;
    background.answer->data = &background.started;
    pthread_t thread;
    pthread_create(&thread, NULL, run_background, &background);
    for (int i = 0; i < 5000 && !__atomic_load_n(&background.started, __ATOMIC_ACQUIRE); i++) sleep_ms(1);
    OK(mlxrt_shutdown(MLXRT_SHUTDOWN_FORCE, MLXRT_FOREVER));
    pthread_join(thread, NULL);
    CHECK(background.answer->token_count < 1500);
    CHECK_INT(background.answer->code, 0);
    CHECK_INT(background.answer->result.stop, MLXRT_STOPPED_CANCELLED);
    free(background.answer);
    mlxrt_session_free(background.session);
    mlxrt_model_free(model);
  }
}

static void *run_long_prompt(void *data) {
  struct background *background = data;
  int32_t *tokens = calloc(2000, sizeof *tokens);
  __atomic_store_n(&background->started, 1, __ATOMIC_RELEASE);
  ask_into(background->answer, background->session, token_input(tokens, 2000), greedy(40));
  free(tokens);
  return NULL;
}

/* TIMEOUT means that the engine still ends: calling again waits for it. */
static void a_shutdown_that_timed_out_can_be_repeated(void) {
  int timeouts = 0;
  for (int round = 0; round < 20; round++) {
    mlxrt_model *model = load("qwen3-f32");
    struct background background = {session_of(model), new_answer(), 0};
    pthread_t thread;
    pthread_create(&thread, NULL, run_long_prompt, &background);
    for (int i = 0; i < 5000 && !__atomic_load_n(&background.started, __ATOMIC_ACQUIRE); i++) sleep_ms(1);
    sleep_ms(2 + round % 5);
    mlxrt_error *error = mlxrt_shutdown(MLXRT_SHUTDOWN_FORCE, 0);
    int32_t code = mlxrt_error_code(error);
    CHECK(code == MLXRT_OK || code == MLXRT_E_TIMEOUT);
    mlxrt_error_free(error);
    timeouts += code == MLXRT_E_TIMEOUT;
    OK(mlxrt_shutdown(MLXRT_SHUTDOWN_FORCE, MLXRT_FOREVER));
    /* Whatever ran on the engine has ended now. */
    CHECK(engine_threads() <= 1);
    pthread_join(thread, NULL);
    int32_t stop = background.answer->result.stop;
    CHECK(stop == MLXRT_STOPPED_CANCELLED || background.answer->code == MLXRT_E_CANCELLED ||
          stop == MLXRT_STOPPED_LENGTH);
    free(background.answer);
    mlxrt_session_free(background.session);
    mlxrt_model_free(model);
  }
  CHECK(timeouts > 0);
}

static void again_and_again(void) {
  struct answer *first = NULL;
  for (int round = 0; round < 20; round++) {
    OK(mlxrt_init(NULL));
    mlxrt_model *model = load("llama-f32");
    mlxrt_session *session = session_of(model);
    struct answer *answer = ask(session, text_input("Hello"), greedy(10));
    if (first) CHECK(same_tokens(first, answer));
    if (!first) first = answer;
    else free(answer);
    mlxrt_session_free(session);
    mlxrt_model_free(model);
    OK(mlxrt_shutdown(0, MLXRT_FOREVER));
  }
  free(first);
  mlxrt_memory memory;
  memset(&memory, 0, sizeof memory);
  memory.struct_size = sizeof memory;
  OK(mlxrt_memory_get(&memory));
  CHECK_INT(memory.weight_bytes, 0);
  CHECK_INT(memory.kv_bytes, 0);
  CHECK_INT(memory.active_bytes, 0);
}

static void init_options_are_checked(void) {
  mlxrt_init_options options = init_options();
  options.device = 3;
  FAILS(mlxrt_init(&options), MLXRT_E_UNSUPPORTED, "device");
  options.device = -1;
  FAILS(mlxrt_init(&options), MLXRT_E_UNSUPPORTED, "device");
  options = init_options();
  options.flags = 1;
  FAILS(mlxrt_init(&options), MLXRT_E_UNSUPPORTED, "flags");
  options = init_options();
  options.resource_dir = "\xff";
  FAILS(mlxrt_init(&options), MLXRT_E_INVALID_ARGUMENT, "resource_dir");
  FAILS(mlxrt_shutdown(2, 0), MLXRT_E_UNSUPPORTED, "flags");
  char *json = NULL;
  OK(mlxrt_device_info(&json, NULL));
  int gpu = strstr(json, "\"gpu\"") != NULL;
  mlxrt_free(json);
  options = init_options();
  options.device = MLXRT_DEVICE_GPU;
  if (!gpu) FAILS(mlxrt_init(&options), MLXRT_E_UNSUPPORTED, "gpu");
  options.device = MLXRT_DEVICE_CPU;
  OK(mlxrt_init(&options));
  OK(mlxrt_device_info(&json, NULL));
  CHECK_HAS(json, "\"device\":\"cpu\"");
  mlxrt_free(json);
  options.device = MLXRT_DEVICE_GPU;
  if (gpu) FAILS(mlxrt_init(&options), MLXRT_E_INCOMPATIBLE, "cpu");
  OK(mlxrt_shutdown(0, MLXRT_FOREVER));
}

static void limits_hold(void) {
  mlxrt_init_options options = init_options();
  options.memory_limit = 1u << 30;
  options.cache_limit = 1;
  options.cpu_threads = 1;
  OK(mlxrt_init(&options));
  mlxrt_model *model = load("qwen3-f32");
  check_alive(model);
  mlxrt_memory memory;
  memset(&memory, 0, sizeof memory);
  memory.struct_size = sizeof memory;
  OK(mlxrt_memory_get(&memory));
  CHECK_INT(memory.limit_bytes, 1u << 30);
  CHECK_INT(memory.cache_bytes, 0);
  mlxrt_model_free(model);
  OK(mlxrt_shutdown(0, MLXRT_FOREVER));
}

int main(int argc, char **argv) {
  static const struct test tests[] = {
      {"inits_are_counted", inits_are_counted},
      {"busy_names_what_is_left", busy_names_what_is_left},
      {"force_ends_everything", force_ends_everything},
      {"force_ends_a_running_request", force_ends_a_running_request},
      {"a_shutdown_that_timed_out_can_be_repeated", a_shutdown_that_timed_out_can_be_repeated},
      {"again_and_again", again_and_again},
      {"init_options_are_checked", init_options_are_checked},
      {"limits_hold", limits_hold},
  };
  return RUN(tests);
}
