/* Any thread, any order: cancel, BUSY, REENTRANT, frees during a call, many sessions at once. */
#include "use.h"

#include <pthread.h>

static mlxrt_model *model;

/* A long request on another thread, slow enough to be caught in the middle. */
struct background {
  mlxrt_session *session;
  struct answer *answer;
  pthread_t thread;
};

static void be_slow(struct answer *answer, const mlxrt_event *event) {
  (void)answer, (void)event;
  sleep_ms(1);
}

static void *run_background(void *data) {
  struct background *background = data;
  ask_into(background->answer, background->session, text_input("Hello"), greedy(1500));
  return NULL;
}

static mlxrt_session_state state_of(mlxrt_session *session) {
  mlxrt_session_state state;
  memset(&state, 0, sizeof state);
  state.struct_size = sizeof state;
  OK(mlxrt_session_info(session, &state));
  return state;
}

static struct background start(mlxrt_session *session) {
  struct background background = {session, new_answer(), pthread_self()};
  background.answer->at_event = be_slow;
  return background;
}

static void await_busy(mlxrt_session *session) {
  for (int i = 0; i < 5000 && !state_of(session).busy; i++) sleep_ms(1);
  sleep_ms(30);
  CHECK_INT(state_of(session).busy, 1);
}

static void cancel_from_another_thread(void) {
  mlxrt_session *session = session_of(model);
  for (int round = 0; round < 5; round++) {
    struct background background = start(session);
    pthread_create(&background.thread, NULL, run_background, &background);
    await_busy(session);
    int64_t began = now_ms();
    mlxrt_session_cancel(session);
    pthread_join(background.thread, NULL);
    CHECK(now_ms() - began < 1000);
    CHECK_INT(background.answer->code, 0);
    CHECK_INT(background.answer->result.stop, MLXRT_STOPPED_CANCELLED);
    CHECK(background.answer->token_count < 1500);
    /* Before the first token it leaves the session as it was. */
    if (background.answer->token_count) check_ledger(session, background.answer);
    CHECK_INT(state_of(session).busy, 0);
    free(background.answer);
    /* Not sticky, and the session goes on. */
    struct answer *next = ask(session, message_input("[{\"role\":\"user\",\"content\":\"Hi\"}]"), greedy(5));
    CHECK_INT(next->token_count, 5);
    free(next);
  }
  mlxrt_session_cancel(session);
  free(ask(session, text_input("x"), greedy(2)));
  mlxrt_session_free(session);
}

static void cancel_session(struct answer *answer, const mlxrt_event *event) {
  (void)event;
  if (answer->events == 3) mlxrt_session_cancel(answer->data);
}

static void cancel_from_inside_the_callback(void) {
  mlxrt_session *session = session_of(model);
  struct answer *answer = new_answer();
  answer->at_event = cancel_session;
  answer->data = session;
  ask_into(answer, session, text_input("Hello"), greedy(1500));
  CHECK_INT(answer->code, 0);
  CHECK_INT(answer->result.stop, MLXRT_STOPPED_CANCELLED);
  check_ledger(session, answer);
  free(answer);
  free(ask(session, text_input("x"), greedy(2)));
  mlxrt_session_free(session);
}

static void a_second_call_is_busy(void) {
  mlxrt_session *session = session_of(model), *other = session_of(model);
  struct background background = start(session);
  pthread_create(&background.thread, NULL, run_background, &background);
  await_busy(session);
  int64_t began = now_ms();
  struct answer *second = new_answer();
  ask_into(second, session, text_input("x"), greedy(1));
  CHECK_INT(second->code, MLXRT_E_BUSY);
  CHECK_INT(second->result.stop, MLXRT_STOPPED_ERROR);
  CHECK(now_ms() - began < 500);
  free(second);
  /* Another session is not. */
  free(ask(other, text_input("x"), greedy(3)));
  mlxrt_session_cancel(session);
  pthread_join(background.thread, NULL);
  free(background.answer);
  mlxrt_session_free(session);
  mlxrt_session_free(other);
}

/* Which functions work inside a callback. */
static void call_everything(struct answer *answer, const mlxrt_event *event) {
  (void)event;
  if (answer->events != 2) return;
  mlxrt_session *session = answer->data, *other = NULL;
  mlxrt_input input = text_input("x"), messages = message_input("[{\"role\":\"user\",\"content\":\"Hi\"}]");
  mlxrt_generate_options options = greedy(1);
  mlxrt_result result = empty_result();
  mlxrt_model *loaded = NULL;
  char *text = NULL;
  int32_t *ids = NULL;
  size_t count = 0;
  mlxrt_memory memory;
  mlxrt_metrics_data metrics;
  memset(&memory, 0, sizeof memory);
  memset(&metrics, 0, sizeof metrics);
  memory.struct_size = sizeof memory;
  metrics.struct_size = sizeof metrics;

  FAILS(mlxrt_generate(session, &input, &options, NULL, NULL, &result), MLXRT_E_REENTRANT, "mlxrt_generate");
  CHECK_INT(result.stop, MLXRT_STOPPED_ERROR);
  CHECK_INT(result.error_code, MLXRT_E_REENTRANT);
  FAILS(mlxrt_model_load(fixture("qwen3-f32"), NULL, &loaded), MLXRT_E_REENTRANT, "mlxrt_model_load");
  FAILS(mlxrt_model_inspect(fixture("qwen3-f32"), NULL, NULL, &text, NULL), MLXRT_E_REENTRANT, "inspect");
  FAILS(mlxrt_init(NULL), MLXRT_E_REENTRANT, "mlxrt_init");
  FAILS(mlxrt_shutdown(MLXRT_SHUTDOWN_FORCE, MLXRT_FOREVER), MLXRT_E_REENTRANT, "mlxrt_shutdown");

  OK(mlxrt_session_create(model, NULL, &other));
  FAILS(mlxrt_generate(other, &input, &options, NULL, NULL, &result), MLXRT_E_REENTRANT, "mlxrt_generate");
  OK(mlxrt_model_info(model, &text, NULL));
  mlxrt_free(text);
  OK(mlxrt_device_info(&text, NULL));
  mlxrt_free(text);
  OK(mlxrt_memory_get(&memory));
  OK(mlxrt_metrics(model, &metrics));
  CHECK_INT(metrics.requests_running, 1);
  OK(mlxrt_tokenize(model, "abc", MLXRT_NTS, 0, &ids, &count));
  OK(mlxrt_detokenize(model, ids, count, 0, &text, NULL));
  CHECK_TEXT(text, "abc");
  mlxrt_free(text);
  mlxrt_free(ids);
  OK(mlxrt_render(model, &messages, &text, NULL));
  mlxrt_free(text);
  OK(mlxrt_count_tokens(model, &messages, NULL, &count));
  CHECK(count > 0);
  OK(mlxrt_session_tokens(session, &ids, &count));
  mlxrt_free(ids);
  CHECK_INT(state_of(session).busy, 1);
  mlxrt_error_free(mlxrt_session_message(session, &text, NULL));
  mlxrt_free(text);
  OK(mlxrt_log_set(0, NULL, NULL));
  mlxrt_session_free(other);
}

static void inside_a_callback(void) {
  mlxrt_session *session = session_of(model);
  struct answer *answer = new_answer();
  answer->at_event = call_everything;
  answer->data = session;
  ask_into(answer, session, text_input("Hello"), greedy(10));
  CHECK_INT(answer->token_count, 10);
  free(answer);
  mlxrt_session_free(session);
}

static void free_session(struct answer *answer, const mlxrt_event *event) {
  (void)event;
  if (answer->events == 2) mlxrt_session_free(answer->data);
}

static void free_of_the_session_inside_its_callback(void) {
  mlxrt_session *session = session_of(model);
  struct answer *answer = new_answer();
  answer->at_event = free_session;
  answer->data = session;
  ask_into(answer, session, text_input("Hello"), greedy(1500));
  CHECK_INT(answer->code, 0);
  CHECK_INT(answer->result.stop, MLXRT_STOPPED_CANCELLED);
  free(answer);
  size_t count = 0;
  int32_t *tokens = NULL;
  FAILS(mlxrt_session_tokens(session, &tokens, &count), MLXRT_E_INVALID_HANDLE, "session");
  check_alive(model);
}

static void free_of_the_session_on_another_thread(void) {
  mlxrt_session *session = session_of(model);
  struct background background = start(session);
  pthread_create(&background.thread, NULL, run_background, &background);
  await_busy(session);
  mlxrt_session_free(session);
  pthread_join(background.thread, NULL);
  CHECK_INT(background.answer->code, 0);
  CHECK_INT(background.answer->result.stop, MLXRT_STOPPED_CANCELLED);
  CHECK(background.answer->token_count < 1500);
  free(background.answer);
  check_alive(model);
}

static void free_of_model_and_session_inside_the_callback(void) {
  mlxrt_model *own = load("llama-f32");
  mlxrt_session *session = session_of(own);
  struct answer *answer = new_answer();
  answer->at_event = free_session;
  answer->data = session;
  mlxrt_model_free(own);
  ask_into(answer, session, text_input("Hello"), greedy(1500));
  CHECK_INT(answer->result.stop, MLXRT_STOPPED_CANCELLED);
  free(answer);
  check_alive(model);
}

/* Frees and cancels from many threads while requests run. */
static void *free_and_cancel(void *data) {
  (void)data;
  for (int i = 0; i < 30; i++) {
    mlxrt_session *session = NULL;
    mlxrt_error *error = mlxrt_session_create(model, NULL, &session);
    CHECK(error == NULL);
    struct background background = start(session);
    background.answer->at_event = NULL;
    pthread_create(&background.thread, NULL, run_background, &background);
    if (i % 3) sleep_ms(i % 4);
    if (i % 2) mlxrt_session_cancel(session);
    mlxrt_session_free(session);
    pthread_join(background.thread, NULL);
    int32_t code = background.answer->code, stop = background.answer->result.stop;
    CHECK(code == MLXRT_E_INVALID_HANDLE || stop == MLXRT_STOPPED_CANCELLED);
    free(background.answer);
  }
  return NULL;
}

static void frees_and_cancels_in_any_order(void) {
  pthread_t threads[4];
  for (size_t i = 0; i < COUNT(threads); i++) pthread_create(&threads[i], NULL, free_and_cancel, NULL);
  for (size_t i = 0; i < COUNT(threads); i++) pthread_join(threads[i], NULL);
  check_alive(model);
}

/* Several sessions of two models at once give what they give alone. */
struct worker {
  mlxrt_model *model;
  mlxrt_generate_options options;
  struct answer *answer;
  pthread_t thread;
};

static void *work(void *data) {
  struct worker *worker = data;
  mlxrt_session *session = NULL;
  CHECK(mlxrt_session_create(worker->model, NULL, &session) == NULL);
  ask_into(worker->answer, session, text_input("Once upon a time"), worker->options);
  mlxrt_session_free(session);
  return NULL;
}

static void four_threads_of_two_models(void) {
  mlxrt_model *other = load("llama-f32");
  struct worker alone[4], together[4];
  for (size_t i = 0; i < 4; i++) {
    mlxrt_generate_options options = i < 2 ? greedy(60) : sampled(60, 10 + i);
    alone[i] = (struct worker){i % 2 ? other : model, options, new_answer(), pthread_self()};
    work(&alone[i]);
    CHECK_INT(alone[i].answer->token_count, 60);
  }
  for (int round = 0; round < 5; round++) {
    for (size_t i = 0; i < 4; i++) {
      together[i] = alone[i];
      together[i].answer = new_answer();
      pthread_create(&together[i].thread, NULL, work, &together[i]);
    }
    for (size_t i = 0; i < 4; i++) {
      pthread_join(together[i].thread, NULL);
      CHECK(same_tokens(alone[i].answer, together[i].answer));
      CHECK_TEXT(together[i].answer->text, alone[i].answer->text);
      free(together[i].answer);
    }
  }
  for (size_t i = 0; i < 4; i++) free(alone[i].answer);
  mlxrt_model_free(other);
}

static void *load_and_free(void *data) {
  char path[1024];
  snprintf(path, sizeof path, "%s/%s", FIXTURES, (const char *)data);
  for (int i = 0; i < 10; i++) {
    mlxrt_model *own = NULL;
    mlxrt_error *error = mlxrt_model_load(path, NULL, &own);
    CHECK(error == NULL);
    mlxrt_session *session = NULL;
    error = mlxrt_session_create(own, NULL, &session);
    CHECK(error == NULL);
    mlxrt_model_free(own);
    mlxrt_session_free(session);
  }
  return NULL;
}

static void models_come_and_go_on_many_threads(void) {
  static char *names[] = {"qwen3-f32", "llama-f32", "gemma3-text-f32"};
  pthread_t threads[3];
  for (size_t i = 0; i < COUNT(threads); i++) pthread_create(&threads[i], NULL, load_and_free, names[i]);
  for (size_t i = 0; i < COUNT(threads); i++) pthread_join(threads[i], NULL);
  check_alive(model);
}

int main(int argc, char **argv) {
  static const struct test tests[] = {
      {"cancel_from_another_thread", cancel_from_another_thread},
      {"cancel_from_inside_the_callback", cancel_from_inside_the_callback},
      {"a_second_call_is_busy", a_second_call_is_busy},
      {"inside_a_callback", inside_a_callback},
      {"free_of_the_session_inside_its_callback", free_of_the_session_inside_its_callback},
      {"free_of_the_session_on_another_thread", free_of_the_session_on_another_thread},
      {"free_of_model_and_session_inside_the_callback", free_of_model_and_session_inside_the_callback},
      {"frees_and_cancels_in_any_order", frees_and_cancels_in_any_order},
      {"four_threads_of_two_models", four_threads_of_two_models},
      {"models_come_and_go_on_many_threads", models_come_and_go_on_many_threads},
  };
  model = load("qwen3-f32");
  int failed = RUN(tests);
  mlxrt_model_free(model);
  return failed;
}
