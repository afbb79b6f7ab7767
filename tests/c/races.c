/* Requests where two things meet: a deadline and a busy engine, a refusal and its notify, a suspend and a stray resume. */
#include "use.h"

#include <pthread.h>

static mlxrt_request *submit(mlxrt_session *session, mlxrt_input input, mlxrt_generate_options options) {
  mlxrt_request *request = NULL;
  OK(mlxrt_submit(session, &input, &options, &request));
  return request;
}

static mlxrt_result result_of(mlxrt_request *request) {
  mlxrt_result result = empty_result();
  OK(mlxrt_request_result(request, MLXRT_FOREVER, &result));
  return result;
}

static void *drop_events(void *request) {
  result_of(request);
  return NULL;
}

static void a_deadline_in_the_queue_holds_while_the_engine_works(void) {
  mlxrt_model *model = load("qwen3-f32");
  mlxrt_session *session = session_of(model);
  /* Its reader keeps up, so the engine never waits for anything. */
  mlxrt_request *first = submit(session, text_input("One"), greedy(1900));
  pthread_t thread;
  pthread_create(&thread, NULL, drop_events, first);
  mlxrt_generate_options options = greedy(10);
  options.timeout_ms = 20;
  mlxrt_request *second = submit(session, text_input("Two"), options);
  CHECK_INT(result_of(second).stop, MLXRT_STOPPED_TIMEOUT);
  mlxrt_result result = empty_result();
  FAILS(mlxrt_request_result(first, 0, &result), MLXRT_E_TIMEOUT, "not ended");
  mlxrt_request_cancel(first);
  pthread_join(thread, NULL);
  mlxrt_request_free(first);
  mlxrt_request_free(second);
  mlxrt_session_free(session);
  mlxrt_model_free(model);
}

static void slowly(struct answer *answer, const mlxrt_event *event) {
  (void)event;
  sleep_ms(20);
  if (answer->data && answer->events == 3) mlxrt_session_cancel(answer->data);
}

static void a_slow_callback_hears_nothing_after_the_end(void) {
  mlxrt_model *model = load("qwen3-f32");
  mlxrt_session *session = session_of(model);
  /* The engine is far ahead of the callback when the time is over, and when the cancel comes. */
  for (int cancels = 0; cancels < 2; cancels++) {
    mlxrt_generate_options options = greedy(1000);
    if (!cancels) options.timeout_ms = 200;
    struct answer *answer = new_answer();
    answer->at_event = slowly;
    answer->data = cancels ? session : NULL;
    int64_t begun = now_ms();
    ask_into(answer, session, text_input("Hello"), options);
    CHECK_INT(answer->code, 0);
    CHECK_INT(answer->result.stop, cancels ? MLXRT_STOPPED_CANCELLED : MLXRT_STOPPED_TIMEOUT);
    /* All of its events would take twenty seconds. */
    CHECK(now_ms() - begun < 5000);
    CHECK(answer->events < 25);
    check_ledger(session, answer);
    free(answer);
  }
  mlxrt_session_free(session);
  mlxrt_model_free(model);
}

static void count_call(void *data) { ++*(int *)data; }

static void what_is_refused_leaves_no_trace(void) {
  mlxrt_model *model = load("qwen3-f32");
  mlxrt_session *session = session_of(model);
  OK(mlxrt_shutdown(MLXRT_SHUTDOWN_FORCE, MLXRT_FOREVER));
  uint64_t running = metrics_of(NULL).requests_running;
  mlxrt_input input = text_input("x");
  FAILS(mlxrt_generate(session, &input, NULL, NULL, NULL, NULL), MLXRT_E_CANCELLED, "shut down");
  CHECK_INT(metrics_of(NULL).requests_running, running);
  int calls = 0;
  mlxrt_generate_options options = greedy(4);
  options.notify = count_call;
  options.notify_data = &calls;
  mlxrt_request *request = NULL;
  FAILS(mlxrt_submit(session, &input, &options, &request), MLXRT_E_CANCELLED, "shut down");
  CHECK_INT(metrics_of(NULL).requests_running, running);
  /* There is no request that could have something to say. */
  CHECK_INT(calls, 0);
  mlxrt_session_free(session);
  mlxrt_model_free(model);
}

static void a_failed_next_writes_no_state(void) {
  mlxrt_event *event = (mlxrt_event *)&event;
  int32_t state = 77;
  FAILS(mlxrt_request_next(NULL, 0, &event, &state), MLXRT_E_INVALID_HANDLE, "NULL");
  CHECK(event == NULL);
  CHECK_INT(state, 77);
}

static int stop_threads;

static void *resume_always(void *unused) {
  (void)unused;
  while (!__atomic_load_n(&stop_threads, __ATOMIC_SEQ_CST)) mlxrt_error_free(mlxrt_resume());
  return NULL;
}

/* One who resumes without a suspend of its own takes the suspend of another back; more must not come of it. */
static void a_stray_resume_wedges_nothing(void) {
  mlxrt_model *model = load("qwen3-f32");
  mlxrt_session *session = session_of(model);
  __atomic_store_n(&stop_threads, 0, __ATOMIC_SEQ_CST);
  pthread_t strays, reader;
  pthread_create(&strays, NULL, resume_always, NULL);
  mlxrt_request *request = submit(session, text_input("Hello"), greedy(1900));
  pthread_create(&reader, NULL, drop_events, request);
  int64_t begun = now_ms();
  while (now_ms() - begun < 1500) {
    mlxrt_error_free(mlxrt_suspend(0));
    mlxrt_error_free(mlxrt_resume());
  }
  __atomic_store_n(&stop_threads, 1, __ATOMIC_SEQ_CST);
  pthread_join(strays, NULL);
  mlxrt_request_cancel(request);
  pthread_join(reader, NULL);
  mlxrt_request_free(request);
  FAILS(mlxrt_resume(), MLXRT_E_INVALID_ARGUMENT, "without");
  mlxrt_generate_options options = greedy(5);
  mlxrt_request *again = submit(session, text_input("x"), options);
  mlxrt_result result = empty_result();
  OK(mlxrt_request_result(again, 10000, &result));
  CHECK_INT(result.generated_tokens, 5);
  mlxrt_request_free(again);
  mlxrt_session_free(session);
  mlxrt_model_free(model);
}

static const struct test tests[] = {
    {"a deadline in the queue holds while the engine works", a_deadline_in_the_queue_holds_while_the_engine_works},
    {"a slow callback hears nothing after the end", a_slow_callback_hears_nothing_after_the_end},
    {"what is refused leaves no trace", what_is_refused_leaves_no_trace},
    {"a failed next writes no state", a_failed_next_writes_no_state},
    {"a stray resume wedges nothing", a_stray_resume_wedges_nothing},
};

int main(int argc, char **argv) { return RUN(tests); }
