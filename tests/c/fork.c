/* A process that forks after it used the library: in the child every function that can fail gives MLXRT_E_FORKED, the
 * others do nothing or what needs no library, nothing hangs, and a program that the child turns into has it all again. */
#include "use.h"

#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *self;
static mlxrt_model *model;
static mlxrt_session *session;
static mlxrt_request *request;

#define FORKED(call) FAILS(call, MLXRT_E_FORKED, "forked child")

/* Runs in a child, which must end by itself within 20 seconds and with this status. */
static void child_ends_with(void (*run)(void), int expected) {
  fflush(stdout);
  pid_t child = fork();
  if (child == 0) {
    alarm(20);
    check_failures = 0;
    run();
    fflush(stdout);
    _exit(check_failures ? 99 : 0);
  }
  int status = 0;
  CHECK(waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status));
  if (WIFSIGNALED(status)) printf(" (signal %d)", WTERMSIG(status));
  CHECK_INT(WEXITSTATUS(status), expected);
}

/* Functions of every section that can fail, in the order of the header. Outputs that are pointers become NULL. */
static void everything_is_refused(void) {
  char *text = (char *)&text;
  int32_t *ids = (int32_t *)&ids, id = 1;
  size_t len = 1;
  mlxrt_model *made_model = model;
  mlxrt_session *made_session = session;
  mlxrt_request *made_request = request;
  mlxrt_grammar *made_grammar = (mlxrt_grammar *)&made_grammar;
  mlxrt_event *event = (mlxrt_event *)&event;
  int32_t next = MLXRT_NEXT_EVENT;
  mlxrt_input messages = message_input("[{\"role\":\"user\",\"content\":\"Hi\"}]"), input = text_input("x");
  mlxrt_generate_options options = greedy(1);
  mlxrt_result result = empty_result();
  mlxrt_memory memory;
  mlxrt_session_state state;
  mlxrt_metrics_data metrics;
  memset(&memory, 0, sizeof memory);
  memset(&state, 0, sizeof state);
  memset(&metrics, 0, sizeof metrics);
  memory.struct_size = sizeof memory;
  state.struct_size = sizeof state;
  metrics.struct_size = sizeof metrics;
  mlxrt_train_options train;
  memset(&train, 0, sizeof train);
  train.struct_size = sizeof train;
  /* Training */
  FORKED(mlxrt_train(model, NULL, &train, NULL, NULL));
  /* The library */
  FORKED(mlxrt_init(NULL));
  FORKED(mlxrt_shutdown(0, 0));
  FORKED(mlxrt_shutdown(MLXRT_SHUTDOWN_FORCE, MLXRT_FOREVER));
  FORKED(mlxrt_suspend(0));
  FORKED(mlxrt_suspend(MLXRT_FOREVER));
  FORKED(mlxrt_resume());
  FORKED(mlxrt_device_info(&text, &len));
  CHECK(text == NULL);
  FORKED(mlxrt_log_set(0, NULL, NULL));
  /* Memory */
  FORKED(mlxrt_memory_get(&memory));
  CHECK_INT(memory.active_bytes, 0);
  FORKED(mlxrt_memory_set(NULL));
  FORKED(mlxrt_memory_trim(2));
  /* Models */
  FORKED(mlxrt_model_inspect(fixture("llama-f32"), NULL, NULL, &text, &len));
  FORKED(mlxrt_model_load(fixture("llama-f32"), NULL, &made_model));
  CHECK(made_model == NULL);
  FORKED(mlxrt_model_info(model, &text, &len));
  FORKED(mlxrt_tokenize(model, "a", 1, 0, &ids, &len));
  CHECK(ids == NULL);
  FORKED(mlxrt_detokenize(model, &id, 1, 0, &text, &len));
  FORKED(mlxrt_render(model, &messages, &text, &len));
  FORKED(mlxrt_count_tokens(model, &messages, NULL, &len));
  /* Sessions */
  FORKED(mlxrt_session_create(model, NULL, &made_session));
  CHECK(made_session == NULL);
  FORKED(mlxrt_session_fork(session, NULL, &made_session));
  CHECK(made_session == NULL);
  FORKED(mlxrt_session_truncate(session, 0));
  mlxrt_tensor tensor;
  memset(&tensor, 0, sizeof tensor);
  tensor.struct_size = sizeof tensor;
  FORKED(mlxrt_inspect_attention(session, 0, &tensor));
  FORKED(mlxrt_session_info(session, &state));
  FORKED(mlxrt_session_tokens(session, &ids, &len));
  FORKED(mlxrt_session_message(session, &text, &len));
  FORKED(mlxrt_session_save(session, "/tmp/no", NULL));
  FORKED(mlxrt_session_load(model, "/tmp/no", NULL, &made_session));
  CHECK(made_session == NULL);
  /* Generation: the result says it too. */
  FORKED(mlxrt_generate(session, &input, &options, collect, NULL, &result));
  CHECK_INT(result.stop, MLXRT_STOPPED_ERROR);
  CHECK_INT(result.error_code, MLXRT_E_FORKED);
  FORKED(mlxrt_submit(session, &input, &options, &made_request));
  CHECK(made_request == NULL);
  FORKED(mlxrt_request_next(request, MLXRT_FOREVER, &event, &next));
  CHECK(event == NULL);
  FORKED(mlxrt_request_result(request, MLXRT_FOREVER, NULL));
  float *floats = (float *)&floats;
  FORKED(mlxrt_score(session, NULL, &input, NULL, &floats, &len));
  CHECK(floats == NULL);
  /* Grammars */
  FORKED(mlxrt_grammar_compile(model, MLXRT_GRAMMAR_JSON, NULL, 0, NULL, &made_grammar));
  CHECK(made_grammar == NULL);
  /* Embeddings */
  const char *const texts[] = {"a"};
  FORKED(mlxrt_embed(model, texts, NULL, 1, NULL, &tensor));
  CHECK(tensor.data == NULL);
  /* Metrics */
  FORKED(mlxrt_metrics(NULL, &metrics));
  FORKED(mlxrt_metrics(model, &metrics));
  /* NULL and nonsense are not looked at before. */
  FORKED(mlxrt_model_load(NULL, NULL, NULL));
  FORKED(mlxrt_model_info((mlxrt_model *)&id, NULL, NULL));
}

/* What needs nothing of the library works. */
static void versions_and_errors_work(void) {
  CHECK_INT(mlxrt_abi_version(), MLXRT_ABI);
  CHECK(strlen(mlxrt_version()) >= 5);
  CHECK_TEXT(mlxrt_code_name(MLXRT_E_FORKED), "FORKED");
  const mlxrt_api *api = mlxrt_get_api(MLXRT_ABI);
  if (!CHECK(api != NULL)) return;
  mlxrt_error *error = api->mlxrt_init(NULL);
  CHECK_INT(mlxrt_error_code(error), MLXRT_E_FORKED);
  CHECK_HAS(mlxrt_error_message(error), "mlxrt_init");
  mlxrt_error_free(error);
  mlxrt_error_free(NULL);
}

static int quiet_pipe[2];

static void log_into_pipe(void *user_data, int32_t level, const char *message, size_t len) {
  (void)user_data, (void)level;
  if (write(quiet_pipe[1], message, len) < 0) abort();
}

static void call_void_functions(void) {
  mlxrt_session_cancel(session);
  mlxrt_session_cancel(NULL);
  mlxrt_request_cancel(request);
  mlxrt_request_cancel(NULL);
  mlxrt_request_free(request);
  mlxrt_request_free(request);
  mlxrt_request_free((mlxrt_request *)session);
  mlxrt_grammar_free(NULL);
  mlxrt_grammar_free((mlxrt_grammar *)session);
  mlxrt_session_free(session);
  mlxrt_session_free(session);
  mlxrt_session_free((mlxrt_session *)model);
  mlxrt_model_free(model);
  mlxrt_model_free(model);
  mlxrt_model_free((mlxrt_model *)(uintptr_t)0x1234);
  mlxrt_free(model);
  mlxrt_free(NULL);
}

/* Misuse included, which the parent's log would hear of. */
static void void_functions_are_silent(void) {
  dup2(quiet_pipe[1], 1);
  dup2(quiet_pipe[1], 2);
  call_void_functions();
}

static void a_forked_child(void) {
  child_ends_with(everything_is_refused, 0);
  child_ends_with(versions_and_errors_work, 0);
  check_alive(model);
}

static void void_functions_do_nothing(void) {
  char text[256] = {0};
  if (!CHECK(pipe(quiet_pipe) == 0)) return;
  OK(mlxrt_log_set(MLXRT_LOG_DEBUG, log_into_pipe, NULL));
  child_ends_with(void_functions_are_silent, 0);
  OK(mlxrt_log_set(0, NULL, NULL));
  close(quiet_pipe[1]);
  CHECK_INT(read(quiet_pipe[0], text, sizeof text - 1), 0);
  CHECK_TEXT(text, "");
  close(quiet_pipe[0]);
  /* The parent's objects are all there. */
  free(ask(session, text_input("x"), greedy(2)));
  mlxrt_result result = empty_result();
  OK(mlxrt_request_result(request, MLXRT_FOREVER, &result));
  CHECK_INT(result.generated_tokens, 3);
  check_alive(model);
}

/* A child of the child is one as well, and an exit with the library's objects open is clean in both. */
static void child_of_a_child(void) {
  everything_is_refused();
  child_ends_with(everything_is_refused, 0);
  child_ends_with(call_void_functions, 0);
  fflush(stdout);
  exit(check_failures ? 99 : 7);
}

static void children_of_children(void) {
  child_ends_with(child_of_a_child, 7);
  check_alive(model);
}

/* What a program does that never heard of any parent. main runs it for "exec". */
static int after_exec(void) {
  model = load("qwen3-f32");
  check_alive(model);
  mlxrt_model_free(model);
  return check_failures ? 99 : 8;
}

static void exec_at_once(void) {
  execl(self, self, "exec", (char *)NULL);
  _exit(98);
}

static void exec_after_a_refusal(void) {
  everything_is_refused();
  call_void_functions();
  exec_at_once();
}

static void exec_in_a_child(void) {
  child_ends_with(exec_at_once, 8);
  child_ends_with(exec_after_a_refusal, 8);
  check_alive(model);
}

static int32_t fork_at_event(void *user_data, const mlxrt_event *event) {
  (void)event;
  int *events = user_data;
  if (++*events == 3) {
    child_ends_with(everything_is_refused, 0);
    child_ends_with(call_void_functions, 0);
    child_ends_with(exec_at_once, 8);
  }
  return MLXRT_RETURN_CONTINUE;
}

static void fork_inside_a_callback(void) {
  struct answer *expected = ask(session, text_input("Hello"), greedy(20));
  mlxrt_session *other = session_of(model);
  mlxrt_input input = text_input("Hello");
  mlxrt_generate_options options = greedy(20);
  mlxrt_result result = empty_result();
  int events = 0;
  OK(mlxrt_generate(other, &input, &options, fork_at_event, &events, &result));
  CHECK_INT(result.generated_tokens, expected->token_count);
  CHECK(events >= 3);
  mlxrt_session_free(other);
  free(expected);
}

static void *generate_long(void *data) {
  mlxrt_session *one = data;
  mlxrt_input input = text_input("Hello");
  mlxrt_generate_options options = greedy(1500);
  OK(mlxrt_generate(one, &input, &options, NULL, NULL, NULL));
  return NULL;
}

/* The engine and another thread are anywhere, with any lock held. */
static void fork_beside_a_generation(void) {
  mlxrt_session *one = session_of(model);
  pthread_t thread;
  pthread_create(&thread, NULL, generate_long, one);
  for (int i = 0; i < 30; i++) {
    child_ends_with(i % 3 == 0 ? everything_is_refused : i % 3 == 1 ? call_void_functions : versions_and_errors_work, 0);
  }
  pthread_join(thread, NULL);
  mlxrt_session_free(one);
  check_alive(model);
}

int main(int argc, char **argv) {
  static const struct test tests[] = {
      {"a_forked_child", a_forked_child},
      {"void_functions_do_nothing", void_functions_do_nothing},
      {"children_of_children", children_of_children},
      {"exec_in_a_child", exec_in_a_child},
      {"fork_inside_a_callback", fork_inside_a_callback},
      {"fork_beside_a_generation", fork_beside_a_generation},
  };
  self = argv[0];
  if (argc == 2 && !strcmp(argv[1], "exec")) return after_exec();
  model = load("qwen3-f32");
  session = session_of(model);
  mlxrt_input input = text_input("Hello");
  mlxrt_generate_options options = greedy(3);
  OK(mlxrt_submit(session, &input, &options, &request));
  /* So that the session is free for the tests. */
  OK(mlxrt_request_result(request, MLXRT_FOREVER, NULL));
  int failed = RUN(tests);
  mlxrt_request_free(request);
  mlxrt_session_free(session);
  mlxrt_model_free(model);
  return failed;
}
