/* Requests that are submitted and pulled, and what may end or pause them. */
#include "use.h"

#include <pthread.h>
#include <unistd.h>

static mlxrt_request *submit(mlxrt_session *session, mlxrt_input input, mlxrt_generate_options options) {
  mlxrt_request *request = NULL;
  OK(mlxrt_submit(session, &input, &options, &request));
  return request;
}

/* Takes one event into `answer`; gives the state. */
static int32_t next_into(mlxrt_request *request, uint32_t timeout_ms, struct answer *answer) {
  mlxrt_event *event = NULL;
  int32_t state = -1;
  mlxrt_error *error = mlxrt_request_next(request, timeout_ms, &event, &state);
  if (error) {
    answer->code = mlxrt_error_code(error);
    snprintf(answer->message, sizeof answer->message, "%s", mlxrt_error_message(error));
    mlxrt_error_free(error);
    CHECK(event == NULL);
    return -1;
  }
  CHECK_INT(event != NULL, state == MLXRT_NEXT_EVENT);
  if (event) collect(answer, event);
  mlxrt_free(event);
  return state;
}

/* Reads a request to its end. */
static struct answer *read_all(mlxrt_request *request) {
  struct answer *answer = new_answer();
  while (next_into(request, MLXRT_FOREVER, answer) == MLXRT_NEXT_EVENT) {
  }
  answer->result = empty_result();
  mlxrt_error *error = mlxrt_request_result(request, MLXRT_FOREVER, &answer->result);
  CHECK_INT(mlxrt_error_code(error), answer->code);
  CHECK_INT(answer->result.error_code, answer->code);
  mlxrt_error_free(error);
  return answer;
}

static mlxrt_result result_of(mlxrt_request *request) {
  mlxrt_result result = empty_result();
  OK(mlxrt_request_result(request, MLXRT_FOREVER, &result));
  return result;
}

static int is_busy(mlxrt_session *session) {
  mlxrt_session_state state;
  memset(&state, 0, sizeof state);
  state.struct_size = sizeof state;
  OK(mlxrt_session_info(session, &state));
  return state.busy != 0;
}

static void pulled_is_what_is_pushed(void) {
  mlxrt_model *model = load("qwen3-f32");
  mlxrt_session *a = session_of(model), *b = session_of(model);
  mlxrt_generate_options options = greedy(90);
  options.flags |= MLXRT_GEN_LOGPROBS | MLXRT_GEN_NO_PREFIX_CACHE;
  options.top_logprobs = 3;
  options.progress_tokens = 2;
  struct answer *pushed = ask(a, text_input("Hello there, you"), options);
  mlxrt_request *request = submit(b, text_input("Hello there, you"), options);
  struct answer *pulled = read_all(request);
  CHECK(same_tokens(pushed, pulled));
  CHECK_TEXT(pulled->text, pushed->text);
  CHECK_INT(pulled->progress_events, pushed->progress_events);
  CHECK_INT(pulled->top_count, 3);
  CHECK(!memcmp(pulled->logprobs, pushed->logprobs, 90 * sizeof(float)));
  CHECK(!memcmp(pulled->top_tokens, pushed->top_tokens, 270 * sizeof(int32_t)));
  CHECK_INT(pulled->result.stop, MLXRT_STOPPED_LENGTH);
  CHECK_INT(pulled->result.generated_tokens, 90);
  CHECK(pulled->result.total_ns > 0 && pulled->result.first_token_ns > 0);
  check_ledger(b, pulled);
  /* DONE for ever, and the result as often as asked for. */
  for (int i = 0; i < 3; i++) {
    CHECK_INT(next_into(request, i ? 0 : MLXRT_FOREVER, pulled), MLXRT_NEXT_DONE);
    CHECK_INT(result_of(request).generated_tokens, 90);
  }
  OK(mlxrt_request_result(request, 0, NULL));
  mlxrt_request_free(request);
  free(pushed);
  free(pulled);
  mlxrt_session_free(a);
  mlxrt_session_free(b);
  mlxrt_model_free(model);
}

static void requests_of_one_session_run_in_order(void) {
  mlxrt_model *model = load("qwen3-f32");
  mlxrt_session *one_by_one = session_of(model), *queued = session_of(model);
  struct answer *wanted[4];
  mlxrt_request *requests[4];
  for (int i = 0; i < 4; i++) wanted[i] = ask(one_by_one, text_input("and more "), greedy(20 + (uint32_t)i));
  for (int i = 0; i < 4; i++) requests[i] = submit(queued, text_input("and more "), greedy(20 + (uint32_t)i));
  CHECK(is_busy(queued));
  /* The last one is read first: nobody has to read for the others to end, as long as they are short. */
  for (int i = 3; i >= 0; i--) {
    struct answer *given = read_all(requests[i]);
    CHECK(same_tokens(given, wanted[i]));
    CHECK_INT(given->result.prompt_tokens, wanted[i]->result.prompt_tokens);
    CHECK_INT(given->result.cached_tokens, wanted[i]->result.cached_tokens);
    free(given);
    mlxrt_request_free(requests[i]);
  }
  check_ledger(queued, wanted[3]);
  CHECK(!is_busy(queued));
  for (int i = 0; i < 4; i++) free(wanted[i]);
  mlxrt_session_free(one_by_one);
  mlxrt_session_free(queued);
  mlxrt_model_free(model);
}

static void a_slow_reader_parks_its_request_only(void) {
  mlxrt_model *model = load("qwen3-f32");
  mlxrt_session *slow = session_of(model), *other = session_of(model);
  mlxrt_request *request = submit(slow, text_input("Hello"), greedy(600));
  for (int i = 0; i < 3; i++) free(ask(other, text_input("Hello"), greedy(40)));
  sleep_ms(100);
  struct answer *answer = new_answer();
  int ready = 0;
  while (next_into(request, 0, answer) == MLXRT_NEXT_EVENT && ready < 600) ready++;
  CHECK(ready >= 32 && ready < 200);
  while (next_into(request, MLXRT_FOREVER, answer) == MLXRT_NEXT_EVENT) ready++;
  CHECK_INT(answer->token_count, 600);
  free(answer);
  mlxrt_request_free(request);
  mlxrt_session_free(slow);
  mlxrt_session_free(other);
  mlxrt_model_free(model);
}

/* The first of a session is parked, since nobody reads it: those behind it wait, and what waits is counted until it begins or
 * ends. */
static void requests_that_wait_are_counted(void) {
  mlxrt_model *model = load("qwen3-f32");
  mlxrt_session *session = session_of(model), *other = session_of(model);
  mlxrt_request *requests[4];
  for (int i = 0; i < 4; i++) requests[i] = submit(session, text_input("Hello"), greedy(i ? 10 : 300));
  for (int i = 0; i < 500 && metrics_of(model).requests_waiting != 3; i++) sleep_ms(2);
  CHECK_INT(metrics_of(model).requests_waiting, 3);
  CHECK_INT(metrics_of(NULL).requests_waiting, 3);
  CHECK_INT(metrics_of(model).requests_running, 4);
  free(ask(other, text_input("Hello"), greedy(40)));
  CHECK_INT(metrics_of(model).requests_waiting, 3);
  /* One ends without having begun: all of its time is the queue's. */
  mlxrt_request_cancel(requests[2]);
  mlxrt_result cancelled = result_of(requests[2]);
  CHECK_INT(cancelled.stop, MLXRT_STOPPED_CANCELLED);
  CHECK(cancelled.queue_ns > 0 && cancelled.queue_ns <= cancelled.total_ns);
  CHECK_INT(cancelled.prefill_ns + cancelled.decode_ns, 0);
  CHECK_INT(metrics_of(model).requests_waiting, 2);
  uint64_t before = metrics_of(model).queue_ns, waited = 0;
  for (int i = 0; i < 4; i++) {
    mlxrt_result result = result_of(requests[i]);
    if (i != 2) waited += result.queue_ns;
    mlxrt_request_free(requests[i]);
  }
  CHECK_INT(metrics_of(model).queue_ns - before, waited);
  CHECK_INT(metrics_of(model).requests_waiting, 0);
  CHECK_INT(metrics_of(model).requests_running, 0);
  mlxrt_session_free(session);
  mlxrt_session_free(other);
  mlxrt_model_free(model);
}

/* Whatever a priority is, it says nothing about the answer. */
static void every_priority_is_legal(void) {
  static const int32_t priorities[] = {0, 1, -1, INT32_MAX, INT32_MIN, 1000, -1000};
  mlxrt_model *model = load("qwen3-f32");
  mlxrt_session *sessions[COUNT(priorities)];
  mlxrt_request *requests[COUNT(priorities)];
  mlxrt_session *session = session_of(model);
  struct answer *wanted = ask(session, text_input("Hello"), greedy(50));
  for (size_t i = 0; i < COUNT(priorities); i++) {
    mlxrt_generate_options options = greedy_anew(50);
    options.priority = priorities[i];
    sessions[i] = session_of(model);
    requests[i] = submit(sessions[i], text_input("Hello"), options);
  }
  for (size_t i = 0; i < COUNT(priorities); i++) {
    struct answer *given = read_all(requests[i]);
    CHECK(same_tokens(given, wanted));
    CHECK_INT(given->result.stop, MLXRT_STOPPED_LENGTH);
    free(given);
    mlxrt_request_free(requests[i]);
    mlxrt_session_free(sessions[i]);
  }
  free(wanted);
  mlxrt_session_free(session);
  mlxrt_model_free(model);
}

/* Sessions that generate at once get their tokens out of the same passes. */
static void sessions_share_passes(void) {
  enum { SESSIONS = 4, EACH = 60 };
  mlxrt_model *model = load("qwen3-f32");
  mlxrt_session *sessions[SESSIONS];
  mlxrt_request *requests[SESSIONS];
  for (int i = 0; i < SESSIONS; i++) sessions[i] = session_of(model);
  mlxrt_generate_options options = greedy(EACH);
  /* With guesses there are more rows than tokens. */
  options.draft_tokens = -1;
  for (int i = 0; i < SESSIONS; i++) requests[i] = submit(sessions[i], text_input("Hello"), options);
  for (int i = 0; i < SESSIONS; i++) CHECK_INT(result_of(requests[i]).generated_tokens, EACH);
  mlxrt_metrics_data data = metrics_of(model);
  /* The first of each came out of its prompt. */
  CHECK_INT(data.pass_rows, SESSIONS * (EACH - 1));
  CHECK(data.passes >= EACH - 1 && data.passes < data.pass_rows);
  for (int i = 0; i < SESSIONS; i++) {
    mlxrt_request_free(requests[i]);
    mlxrt_session_free(sessions[i]);
  }
  mlxrt_model_free(model);
}

/* Of prompts that wait, the one that came last is taken in first, if that is what its priority says. */
static void the_higher_priority_goes_first(void) {
  enum { SESSIONS = 5 };
  static int32_t prompt[1900];
  for (size_t i = 0; i < COUNT(prompt); i++) prompt[i] = 5 + (int32_t)(i % 50);
  mlxrt_model *model = load("qwen3-f32");
  mlxrt_session *sessions[SESSIONS];
  mlxrt_request *requests[SESSIONS];
  for (int i = 0; i < SESSIONS; i++) {
    sessions[i] = session_of(model);
    mlxrt_generate_options options = greedy_anew(1);
    options.priority = i == SESSIONS - 1 ? 7 : -i;
    requests[i] = submit(sessions[i], token_input(prompt, COUNT(prompt)), options);
  }
  result_of(requests[SESSIONS - 1]);
  int ended = 0;
  for (int i = 0; i < SESSIONS - 1; i++) {
    mlxrt_error *error = mlxrt_request_result(requests[i], 0, NULL);
    ended += error == NULL;
    mlxrt_error_free(error);
  }
  CHECK_INT(ended, 0);
  /* And then the others, as theirs say. */
  for (int i = 0; i < SESSIONS - 1; i++) {
    CHECK_INT(result_of(requests[i]).stop, MLXRT_STOPPED_LENGTH);
    if (i + 2 < SESSIONS) FAILS(mlxrt_request_result(requests[SESSIONS - 2], 0, NULL), MLXRT_E_TIMEOUT, "not ended");
  }
  for (int i = 0; i < SESSIONS; i++) {
    mlxrt_request_free(requests[i]);
    mlxrt_session_free(sessions[i]);
  }
  mlxrt_model_free(model);
}

static void the_result_drops_what_nobody_read(void) {
  mlxrt_model *model = load("qwen3-f32");
  mlxrt_session *session = session_of(model);
  struct answer *wanted = ask(session, text_input("Hello"), greedy(300));
  mlxrt_session_free(session);
  session = session_of(model);
  mlxrt_request *request = submit(session, text_input("Hello"), greedy(300));
  mlxrt_result result = empty_result();
  FAILS(mlxrt_request_result(request, 0, &result), MLXRT_E_TIMEOUT, "not ended");
  CHECK_INT(result.stop, MLXRT_STOPPED_ERROR);
  CHECK_INT(result.error_code, MLXRT_E_TIMEOUT);
  CHECK_INT(result_of(request).generated_tokens, 300);
  check_ledger(session, wanted);
  struct answer *rest = new_answer();
  CHECK_INT(next_into(request, 0, rest), MLXRT_NEXT_DONE);
  free(rest);
  free(wanted);
  mlxrt_request_free(request);
  mlxrt_session_free(session);
  mlxrt_model_free(model);
}

static void cancels_end_what_they_are_meant_for(void) {
  mlxrt_model *model = load("qwen3-f32");
  mlxrt_session *session = session_of(model);
  /* One runs, two wait; the one in the middle is cancelled before it starts. */
  mlxrt_request *first = submit(session, text_input("One"), greedy(1000));
  mlxrt_request *middle = submit(session, text_input("Two"), greedy(10));
  mlxrt_request *last = submit(session, text_input("Three"), greedy(10));
  mlxrt_request_cancel(middle);
  mlxrt_result result = result_of(middle);
  CHECK_INT(result.stop, MLXRT_STOPPED_CANCELLED);
  CHECK_INT(result.generated_tokens, 0);
  struct answer *answer = new_answer();
  while (answer->token_count < 30) next_into(first, MLXRT_FOREVER, answer);
  mlxrt_request_cancel(first);
  while (next_into(first, MLXRT_FOREVER, answer) == MLXRT_NEXT_EVENT) {
  }
  result = result_of(first);
  CHECK_INT(result.stop, MLXRT_STOPPED_CANCELLED);
  CHECK_INT(result.generated_tokens, answer->token_count);
  CHECK(answer->token_count < 200);
  /* What was made stayed, and the last one went on from there. */
  CHECK_INT(result_of(last).generated_tokens, 10);
  CHECK_INT(result_of(last).prompt_tokens > result.prompt_tokens + result.generated_tokens, 1);
  /* After the end a cancel does nothing, and neither does one of the session. */
  mlxrt_request_cancel(last);
  mlxrt_session_cancel(session);
  CHECK_INT(result_of(last).stop, MLXRT_STOPPED_LENGTH);
  free(ask(session, text_input("Four"), greedy(5)));
  mlxrt_request_free(first);
  mlxrt_request_free(middle);
  mlxrt_request_free(last);
  free(answer);
  mlxrt_session_free(session);
  mlxrt_model_free(model);
}

static void session_cancel_takes_the_one_that_runs(void) {
  mlxrt_model *model = load("qwen3-f32");
  mlxrt_session *session = session_of(model);
  mlxrt_request *first = submit(session, text_input("One"), greedy(1000));
  mlxrt_request *second = submit(session, text_input("Two"), greedy(10));
  struct answer *answer = new_answer();
  while (answer->token_count < 5) next_into(first, MLXRT_FOREVER, answer);
  mlxrt_session_cancel(session);
  CHECK_INT(result_of(first).stop, MLXRT_STOPPED_CANCELLED);
  CHECK_INT(result_of(second).stop, MLXRT_STOPPED_LENGTH);
  free(answer);
  mlxrt_request_free(first);
  mlxrt_request_free(second);
  mlxrt_session_free(session);
  mlxrt_model_free(model);
}

static void deadlines_run_in_the_queue_too(void) {
  mlxrt_model *model = load("qwen3-f32");
  mlxrt_session *session = session_of(model);
  mlxrt_request *first = submit(session, text_input("One"), greedy(1900));
  mlxrt_generate_options options = greedy(10);
  options.timeout_ms = 30;
  mlxrt_request *second = submit(session, text_input("Two"), options);
  mlxrt_result result = result_of(second);
  CHECK_INT(result.stop, MLXRT_STOPPED_TIMEOUT);
  CHECK_INT(result.generated_tokens, 0);
  CHECK(is_busy(session));
  mlxrt_request_free(first);
  options = greedy(0);
  options.timeout_ms = 60;
  mlxrt_request *third = submit(session, text_input("Three"), options);
  CHECK_INT(result_of(third).stop, MLXRT_STOPPED_TIMEOUT);
  mlxrt_request_free(second);
  mlxrt_request_free(third);
  mlxrt_session_free(session);
  mlxrt_model_free(model);
}

static void errors_come_every_time(void) {
  mlxrt_model *model = load("qwen3-f32");
  mlxrt_session_options small = session_options();
  small.context = 20;
  mlxrt_session *session = NULL;
  OK(mlxrt_session_create(model, &small, &session));
  mlxrt_request *first = submit(session, text_input("Hello"), greedy(10));
  /* Only when its turn comes is it known that it does not fit. */
  int32_t many[12] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
  mlxrt_request *second = submit(session, token_input(many, 12), greedy(10));
  struct answer *answer = read_all(second);
  CHECK_INT(answer->code, MLXRT_E_CONTEXT_FULL);
  CHECK_INT(answer->result.stop, MLXRT_STOPPED_ERROR);
  for (int i = 0; i < 3; i++) {
    mlxrt_event *event = NULL;
    int32_t state = 0;
    FAILS(mlxrt_request_next(second, 0, &event, &state), MLXRT_E_CONTEXT_FULL, "context is 20");
    CHECK(!event);
    FAILS(mlxrt_request_result(second, 0, NULL), MLXRT_E_CONTEXT_FULL, "context is 20");
  }
  CHECK_INT(result_of(first).generated_tokens, 10);
  /* What can be known at once is refused at once. */
  mlxrt_request *none = NULL;
  mlxrt_input input = text_input("x");
  mlxrt_generate_options options = greedy(1);
  int32_t bad = 1 << 20;
  options.stop_tokens = &bad;
  options.stop_token_count = 1;
  FAILS(mlxrt_submit(session, &input, &options, &none), MLXRT_E_INVALID_ARGUMENT, "stop_tokens");
  CHECK(!none);
  FAILS(mlxrt_submit(session, NULL, NULL, &none), MLXRT_E_INVALID_ARGUMENT, "input");
  FAILS(mlxrt_submit(session, &input, NULL, NULL), MLXRT_E_INVALID_ARGUMENT, "out");
  FAILS(mlxrt_submit((mlxrt_session *)model, &input, NULL, &none), MLXRT_E_INVALID_HANDLE, "model");
  mlxrt_event *event = NULL;
  int32_t state = 0;
  FAILS(mlxrt_request_next(NULL, 0, &event, &state), MLXRT_E_INVALID_HANDLE, "NULL");
  FAILS(mlxrt_request_next(first, 0, NULL, &state), MLXRT_E_INVALID_ARGUMENT, "out");
  FAILS(mlxrt_request_next(first, 0, &event, NULL), MLXRT_E_INVALID_ARGUMENT, "state");
  mlxrt_request_free(first);
  FAILS(mlxrt_request_next(first, 0, &event, &state), MLXRT_E_INVALID_HANDLE, "freed");
  FAILS(mlxrt_request_result(first, 0, NULL), MLXRT_E_INVALID_HANDLE, "freed");
  mlxrt_request_cancel(first);
  mlxrt_request_free(first);
  mlxrt_request_free(NULL);
  free(answer);
  mlxrt_request_free(second);
  mlxrt_session_free(session);
  mlxrt_model_free(model);
}

/* A generate that submits behind itself from its callback. */
static mlxrt_session *own_session;
static mlxrt_request *behind, *elsewhere;

static void at_third_event(struct answer *answer, const mlxrt_event *event) {
  (void)event;
  if (answer->events != 3) return;
  mlxrt_session *other = answer->data;
  elsewhere = submit(other, text_input("There"), greedy(30));
  behind = submit(own_session, text_input("Behind"), greedy(5));
  mlxrt_event *got = NULL;
  int32_t state = -1;
  OK(mlxrt_request_next(behind, 0, &got, &state));
  CHECK_INT(state, MLXRT_NEXT_PENDING);
  FAILS(mlxrt_request_next(elsewhere, 10, &got, &state), MLXRT_E_REENTRANT, "mlxrt_request_next");
  FAILS(mlxrt_request_result(elsewhere, MLXRT_FOREVER, NULL), MLXRT_E_REENTRANT, "mlxrt_request_result");
  FAILS(mlxrt_suspend(0), MLXRT_E_REENTRANT, "mlxrt_suspend");
  FAILS(mlxrt_resume(), MLXRT_E_REENTRANT, "mlxrt_resume");
  FAILS(mlxrt_memory_trim(0), MLXRT_E_REENTRANT, "mlxrt_memory_trim");
  FAILS(mlxrt_shutdown(MLXRT_SHUTDOWN_FORCE, 0), MLXRT_E_REENTRANT, "mlxrt_shutdown");
}

static void submitting_queues_where_generating_is_busy(void) {
  mlxrt_model *model = load("qwen3-f32");
  mlxrt_session *session = session_of(model), *other = session_of(model);
  own_session = session;
  struct answer *answer = new_answer();
  answer->data = other;
  answer->at_event = at_third_event;
  ask_into(answer, session, text_input("Hello"), greedy(20));
  CHECK_INT(answer->code, 0);
  CHECK_INT(answer->token_count, 20);
  CHECK_INT(result_of(behind).generated_tokens, 5);
  CHECK(result_of(behind).prompt_tokens > answer->result.prompt_tokens + 20);
  CHECK_INT(result_of(elsewhere).generated_tokens, 30);
  mlxrt_request_free(behind);
  mlxrt_request_free(elsewhere);

  mlxrt_request *request = submit(session, text_input("Long"), greedy(1000));
  mlxrt_input input = text_input("x");
  FAILS(mlxrt_generate(session, &input, NULL, NULL, NULL, NULL), MLXRT_E_BUSY, "already runs");
  mlxrt_request_free(request);
  free(answer);
  mlxrt_session_free(session);
  mlxrt_session_free(other);
  mlxrt_model_free(model);
}

struct bell {
  pthread_mutex_t lock;
  pthread_cond_t rung;
  int count, slow_ms, in, freed, late;
  mlxrt_request *request;
};

static void ring(void *user_data) {
  struct bell *bell = user_data;
  pthread_mutex_lock(&bell->lock);
  bell->late += bell->freed;
  bell->in = 1;
  pthread_mutex_unlock(&bell->lock);
  if (bell->slow_ms) {
    sleep_ms(bell->slow_ms);
    /* Cancel works from here; nothing else does. */
    mlxrt_event *event = NULL;
    int32_t state = 0;
    FAILS(mlxrt_request_next(bell->request, 0, &event, &state), MLXRT_E_REENTRANT, "notify");
    mlxrt_request_cancel(bell->request);
  }
  pthread_mutex_lock(&bell->lock);
  bell->in = 0;
  bell->count++;
  pthread_cond_signal(&bell->rung);
  pthread_mutex_unlock(&bell->lock);
}

static void notify_rings_for_events_and_the_end(void) {
  mlxrt_model *model = load("qwen3-f32");
  mlxrt_session *session = session_of(model);
  struct bell bell = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, 0, 0, 0, 0, NULL};
  mlxrt_generate_options options = greedy(120);
  options.notify = ring;
  options.notify_data = &bell;
  mlxrt_request *request = submit(session, text_input("Hello"), options);
  struct answer *answer = new_answer();
  int32_t state = MLXRT_NEXT_PENDING;
  int heard = 0;
  while (state != MLXRT_NEXT_DONE) {
    pthread_mutex_lock(&bell.lock);
    while (bell.count == heard) pthread_cond_wait(&bell.rung, &bell.lock);
    heard = bell.count;
    pthread_mutex_unlock(&bell.lock);
    /* One at a time is enough: every event and the end ring. */
    while ((state = next_into(request, 0, answer)) == MLXRT_NEXT_EVENT) {
    }
  }
  CHECK_INT(answer->token_count, 120);
  mlxrt_request_free(request);
  mlxrt_input input = text_input("x");
  FAILS(mlxrt_generate(session, &input, &options, NULL, NULL, NULL), MLXRT_E_INVALID_ARGUMENT, "notify");
  free(answer);
  mlxrt_session_free(session);
  mlxrt_model_free(model);
}

static void after_its_free_a_request_notifies_nobody(void) {
  mlxrt_model *model = load("qwen3-f32");
  mlxrt_session *session = session_of(model);
  for (int i = 0; i < 20; i++) {
    struct bell bell = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, i % 2 ? 3 : 0, 0, 0, 0, NULL};
    mlxrt_generate_options options = greedy(50);
    options.notify = ring;
    options.notify_data = &bell;
    pthread_mutex_lock(&bell.lock);
    mlxrt_request *request = submit(session, text_input("Hello"), options);
    bell.request = request;
    pthread_mutex_unlock(&bell.lock);
    sleep_ms(i % 5);
    mlxrt_request_free(request);
    pthread_mutex_lock(&bell.lock);
    bell.freed = 1;
    CHECK_INT(bell.in, 0);
    pthread_mutex_unlock(&bell.lock);
    if (i % 4 == 0) sleep_ms(5);
    CHECK_INT(bell.late, 0);
  }
  free(ask(session, text_input("x"), greedy(2)));
  mlxrt_session_free(session);
  mlxrt_model_free(model);
}

struct reader {
  mlxrt_request *request;
  size_t tokens;
};

static void *read_some(void *data) {
  struct reader *reader = data;
  for (;;) {
    mlxrt_event *event = NULL;
    int32_t state = -1;
    if (!OK(mlxrt_request_next(reader->request, MLXRT_FOREVER, &event, &state)) || state == MLXRT_NEXT_DONE) return NULL;
    if (event && event->kind == MLXRT_EVENT_TEXT) reader->tokens += event->token_count;
    mlxrt_free(event);
  }
}

static void many_threads_may_ask(void) {
  mlxrt_model *model = load("qwen3-f32");
  mlxrt_session *session = session_of(model);
  mlxrt_request *request = submit(session, text_input("Hello"), greedy(400));
  pthread_t threads[8];
  struct reader readers[8];
  memset(readers, 0, sizeof readers);
  for (int i = 0; i < 8; i++) {
    readers[i].request = request;
    pthread_create(&threads[i], NULL, read_some, &readers[i]);
  }
  size_t tokens = 0;
  for (int i = 0; i < 8; i++) {
    pthread_join(threads[i], NULL);
    tokens += readers[i].tokens;
  }
  CHECK_INT(tokens, 400);
  mlxrt_request_free(request);
  mlxrt_session_free(session);
  mlxrt_model_free(model);
}

static void handles_are_freed_in_any_order(void) {
  for (int order = 0; order < 12; order++) {
    mlxrt_model *model = load("qwen3-f32");
    mlxrt_session *session = session_of(model);
    mlxrt_request *first = submit(session, text_input("Hello"), greedy(order % 2 ? 5 : 1000));
    mlxrt_request *second = submit(session, text_input("Hello"), greedy(5));
    if (order >= 6) sleep_ms(10);
    if (order % 3 == 0) {
      mlxrt_model_free(model);
      mlxrt_session_free(session);
      /* The session's end is its requests' end, and what they have to say can still be read. */
      mlxrt_result result = result_of(second);
      CHECK(result.stop == MLXRT_STOPPED_CANCELLED || result.generated_tokens == 5);
      free(read_all(first));
      mlxrt_request_free(second);
      mlxrt_request_free(first);
    } else if (order % 3 == 1) {
      mlxrt_request_free(first);
      CHECK_INT(result_of(second).generated_tokens, 5);
      mlxrt_request_free(second);
      mlxrt_model_free(model);
      mlxrt_session_free(session);
    } else {
      mlxrt_session_free(session);
      mlxrt_request_free(second);
      mlxrt_model_free(model);
      mlxrt_request_free(first);
    }
  }
}

/* ---- suspend ---- */

struct pushing {
  mlxrt_session *session;
  int begun;
};

static void say_that_it_began(struct answer *answer, const mlxrt_event *event) {
  (void)event;
  __atomic_store_n(&((struct pushing *)answer->data)->begun, 1, __ATOMIC_RELEASE);
}

static void *wait_for_tokens(void *data) {
  struct answer *answer = data;
  struct pushing *pushing = answer->data;
  ask_into(answer, pushing->session, text_input("Hello"), greedy(300));
  return NULL;
}

static void suspended_nothing_moves(void) {
  mlxrt_model *model = load("qwen3-f32");
  mlxrt_session *a = session_of(model), *b = session_of(model);
  mlxrt_generate_options options = greedy(300);
  options.timeout_ms = 20000;
  mlxrt_request *request = submit(a, text_input("Hello"), options);
  struct answer *pushed = new_answer(), *pulled = new_answer();
  struct pushing pushing = {b, 0};
  pushed->data = &pushing;
  pushed->at_event = say_that_it_began;
  pthread_t thread;
  pthread_create(&thread, NULL, wait_for_tokens, pushed);
  while (!__atomic_load_n(&pushing.begun, __ATOMIC_ACQUIRE)) sleep_ms(1); /* it would be refused once suspended */
  while (pulled->token_count < 10) next_into(request, MLXRT_FOREVER, pulled);
  OK(mlxrt_suspend(MLXRT_FOREVER));
  OK(mlxrt_suspend(1000)); /* counted */
  while (next_into(request, 0, pulled) == MLXRT_NEXT_EVENT) {
  }
  size_t then = pulled->token_count;
  sleep_ms(100);
  CHECK_INT(next_into(request, 50, pulled), MLXRT_NEXT_PENDING);
  CHECK_INT(pulled->token_count, then);
  /* What needs the device says so; what does not works. */
  mlxrt_input input = text_input("x");
  mlxrt_request *none = NULL;
  mlxrt_model *another = NULL;
  mlxrt_session *fresh = session_of(model);
  FAILS(mlxrt_generate(fresh, &input, NULL, NULL, NULL, NULL), MLXRT_E_SUSPENDED, "resume");
  FAILS(mlxrt_submit(fresh, &input, NULL, &none), MLXRT_E_SUSPENDED, "resume");
  FAILS(mlxrt_model_load(fixture("qwen3-f32"), NULL, &another), MLXRT_E_SUSPENDED, "resume");
  OK(mlxrt_memory_trim(2));
  mlxrt_session_free(fresh);
  CHECK(is_busy(a));
  OK(mlxrt_resume());
  sleep_ms(30);
  CHECK_INT(next_into(request, 0, pulled), MLXRT_NEXT_PENDING); /* once more is wanted */
  OK(mlxrt_resume());
  FAILS(mlxrt_resume(), MLXRT_E_INVALID_ARGUMENT, "without");
  while (next_into(request, MLXRT_FOREVER, pulled) == MLXRT_NEXT_EVENT) {
  }
  pthread_join(thread, NULL);
  CHECK_INT(pulled->token_count, 300);
  CHECK(same_tokens(pulled, pushed));
  mlxrt_request_free(request);
  free(pushed);
  free(pulled);
  mlxrt_session_free(a);
  mlxrt_session_free(b);
  mlxrt_model_free(model);
}

static void a_suspension_costs_no_time_of_a_deadline(void) {
  mlxrt_model *model = load("qwen3-f32");
  mlxrt_session *session = session_of(model);
  mlxrt_generate_options options = greedy(20);
  options.timeout_ms = 2000;
  mlxrt_request *running = submit(session, text_input("Hello"), options);
  mlxrt_request *waiting = submit(session, text_input("Hello"), options);
  OK(mlxrt_suspend(MLXRT_FOREVER));
  sleep_ms(2500);
  OK(mlxrt_resume());
  CHECK_INT(result_of(running).stop, MLXRT_STOPPED_LENGTH);
  CHECK_INT(result_of(waiting).stop, MLXRT_STOPPED_LENGTH);
  mlxrt_request_free(running);
  mlxrt_request_free(waiting);
  /* Cancels work meanwhile. */
  running = submit(session, text_input("Hello"), greedy(1000));
  waiting = submit(session, text_input("Hello"), greedy(1000));
  OK(mlxrt_suspend(MLXRT_FOREVER));
  mlxrt_request_cancel(waiting);
  CHECK_INT(result_of(waiting).stop, MLXRT_STOPPED_CANCELLED);
  mlxrt_request_cancel(running);
  CHECK_INT(result_of(running).stop, MLXRT_STOPPED_CANCELLED);
  OK(mlxrt_resume());
  mlxrt_request_free(running);
  mlxrt_request_free(waiting);
  free(ask(session, text_input("x"), greedy(2)));
  mlxrt_session_free(session);
  mlxrt_model_free(model);
}

static void a_suspend_that_is_late_owes_nothing(void) {
  mlxrt_model *model = load("qwen3-f32");
  mlxrt_session *session = session_of(model);
  mlxrt_request *request = submit(session, text_input("Hello"), greedy(1000));
  int late = 0, tries = 0;
  mlxrt_error *error;
  while ((error = mlxrt_suspend(0)) && tries++ < 1000) {
    CHECK_INT(mlxrt_error_code(error), MLXRT_E_TIMEOUT);
    mlxrt_error_free(error);
    late++;
    sleep_ms(1);
  }
  CHECK(late < 900); /* the engine stays quiet between tries */
  OK(mlxrt_resume());
  FAILS(mlxrt_resume(), MLXRT_E_INVALID_ARGUMENT, "without");
  mlxrt_request_free(request);
  free(ask(session, text_input("x"), greedy(2)));
  mlxrt_session_free(session);
  mlxrt_model_free(model);
  /* Without an engine there is nothing to wait for, and none starts. */
  OK(mlxrt_suspend(0));
  FAILS(mlxrt_init(NULL), MLXRT_E_SUSPENDED, "resume");
  OK(mlxrt_resume());
  OK(mlxrt_init(NULL));
  OK(mlxrt_shutdown(0, MLXRT_FOREVER));
}

static void a_forced_shutdown_ends_every_request(void) {
  mlxrt_model *model = load("qwen3-f32");
  mlxrt_session *a = session_of(model), *b = session_of(model);
  mlxrt_request *requests[6];
  for (int i = 0; i < 6; i++) requests[i] = submit(i % 2 ? a : b, text_input("Hello"), greedy(1000));
  OK(mlxrt_shutdown(MLXRT_SHUTDOWN_FORCE, MLXRT_FOREVER));
  for (int i = 0; i < 6; i++) {
    CHECK_INT(result_of(requests[i]).stop, MLXRT_STOPPED_CANCELLED);
    mlxrt_request_free(requests[i]);
  }
  mlxrt_input input = text_input("x");
  mlxrt_request *none = NULL;
  FAILS(mlxrt_submit(a, &input, NULL, &none), MLXRT_E_CANCELLED, "shut down");
  mlxrt_session_free(a);
  mlxrt_session_free(b);
  mlxrt_model_free(model);
  OK(mlxrt_init(NULL));
  model = load("qwen3-f32");
  check_alive(model);
  mlxrt_model_free(model);
  OK(mlxrt_shutdown(0, MLXRT_FOREVER));
}

static void a_long_prompt_starves_nobody(void) {
  mlxrt_model *model = load("qwen3-f32");
  mlxrt_session *reader = session_of(model), *talker = session_of(model);
  int32_t prompt[1800];
  for (size_t i = 0; i < COUNT(prompt); i++) prompt[i] = (int32_t)(i * 7 % 100);
  mlxrt_request *talking = submit(talker, text_input("Hello"), greedy(1500));
  struct answer *talk = new_answer(), *read = new_answer();
  while (talk->token_count < 80) next_into(talking, MLXRT_FOREVER, talk);
  mlxrt_generate_options options = greedy(1);
  options.progress_tokens = 100;
  mlxrt_request *reading = submit(reader, token_input(prompt, COUNT(prompt)), options);
  size_t at_start = 0, at_end = 0;
  while (next_into(reading, 0, read) != MLXRT_NEXT_DONE) {
    if (read->progress_events == 1 && !at_start) at_start = talk->token_count;
    if (!read->token_count) at_end = talk->token_count;
    next_into(talking, 5, talk);
  }
  /* 18 chunks of 100 tokens: as many turns of the other session. */
  CHECK(at_end - at_start >= 6);
  CHECK_INT(read->token_count, 1);
  mlxrt_request_free(talking);
  mlxrt_request_free(reading);
  free(talk);
  free(read);
  mlxrt_session_free(reader);
  mlxrt_session_free(talker);
  mlxrt_model_free(model);
}

static const struct test tests[] = {
    {"pulled is what is pushed", pulled_is_what_is_pushed},
    {"requests of one session run in order", requests_of_one_session_run_in_order},
    {"a slow reader parks its request only", a_slow_reader_parks_its_request_only},
    {"requests that wait are counted", requests_that_wait_are_counted},
    {"every priority is legal", every_priority_is_legal},
    {"sessions share passes", sessions_share_passes},
    {"the higher priority goes first", the_higher_priority_goes_first},
    {"the result drops what nobody read", the_result_drops_what_nobody_read},
    {"cancels end what they are meant for", cancels_end_what_they_are_meant_for},
    {"session_cancel takes the one that runs", session_cancel_takes_the_one_that_runs},
    {"deadlines run in the queue too", deadlines_run_in_the_queue_too},
    {"errors come every time", errors_come_every_time},
    {"submitting queues where generating is busy", submitting_queues_where_generating_is_busy},
    {"notify rings for events and the end", notify_rings_for_events_and_the_end},
    {"after its free a request notifies nobody", after_its_free_a_request_notifies_nobody},
    {"many threads may ask", many_threads_may_ask},
    {"handles are freed in any order", handles_are_freed_in_any_order},
    {"suspended nothing moves", suspended_nothing_moves},
    {"a suspension costs no time of a deadline", a_suspension_costs_no_time_of_a_deadline},
    {"a suspend that is late owes nothing", a_suspend_that_is_late_owes_nothing},
    {"a forced shutdown ends every request", a_forced_shutdown_ends_every_request},
    {"a long prompt starves nobody", a_long_prompt_starves_nobody},
};

int main(int argc, char **argv) { return run_tests(tests, COUNT(tests), argc, argv); }
