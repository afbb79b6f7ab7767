/* What most programs of this folder do with the library: fixtures, structs with their size set, and whole requests. */
#ifndef USE_H
#define USE_H

#include "check.h"

#include <time.h>

/* The folder of a fixture. The text lives until the next four calls. */
static inline const char *fixture(const char *name) {
  static char paths[4][1024];
  static int next;
  char *path = paths[next++ % 4];
  snprintf(path, sizeof paths[0], "%s/%s", FIXTURES, name);
  return path;
}

static inline mlxrt_model *load(const char *name) {
  mlxrt_model *model = NULL;
  OK(mlxrt_model_load(fixture(name), NULL, &model));
  return model;
}

static inline mlxrt_session *session_of(mlxrt_model *model) {
  mlxrt_session *session = NULL;
  OK(mlxrt_session_create(model, NULL, &session));
  return session;
}

static inline mlxrt_session_options session_options(void) {
  mlxrt_session_options options;
  memset(&options, 0, sizeof options);
  options.struct_size = sizeof options;
  return options;
}

static inline mlxrt_memory memory(void) {
  mlxrt_memory memory;
  memset(&memory, 0, sizeof memory);
  memory.struct_size = sizeof memory;
  OK(mlxrt_memory_get(&memory));
  return memory;
}

static inline mlxrt_memory_limits limits(uint64_t memory_limit) {
  mlxrt_memory_limits limits;
  memset(&limits, 0, sizeof limits);
  limits.struct_size = sizeof limits;
  limits.memory_limit = memory_limit;
  return limits;
}

static inline void set_limit(uint64_t bytes) {
  mlxrt_memory_limits wanted = limits(bytes);
  OK(mlxrt_memory_set(&wanted));
}

static inline mlxrt_input no_input(void) {
  mlxrt_input input;
  memset(&input, 0, sizeof input);
  input.struct_size = sizeof input;
  return input;
}

static inline mlxrt_input text_input(const char *text) {
  mlxrt_input input = no_input();
  input.text = text;
  input.text_len = MLXRT_NTS;
  return input;
}

static inline mlxrt_input token_input(const int32_t *tokens, size_t count) {
  mlxrt_input input = no_input();
  input.tokens = tokens;
  input.token_count = count;
  return input;
}

static inline mlxrt_input message_input(const char *messages) {
  mlxrt_input input = no_input();
  input.messages = messages;
  input.messages_len = MLXRT_NTS;
  return input;
}

/* Greedy, so that two runs can be compared, and never ended by the model. */
static inline mlxrt_generate_options greedy(uint32_t max_tokens) {
  mlxrt_generate_options options;
  memset(&options, 0, sizeof options);
  options.struct_size = sizeof options;
  options.flags = MLXRT_GEN_GREEDY | MLXRT_GEN_IGNORE_EOS;
  options.max_tokens = max_tokens;
  return options;
}

/* With nothing of what this session or another has computed. */
static inline mlxrt_generate_options greedy_anew(uint32_t max_tokens) {
  mlxrt_generate_options options = greedy(max_tokens);
  options.flags |= MLXRT_GEN_NO_PREFIX_CACHE;
  return options;
}

/* Sampling of the plain distribution, never ended by the model. */
static inline mlxrt_generate_options sampled(uint32_t max_tokens, uint64_t seed) {
  mlxrt_generate_options options = greedy(max_tokens);
  options.flags = MLXRT_GEN_NO_MODEL_DEFAULTS | MLXRT_GEN_IGNORE_EOS;
  options.seed = seed;
  return options;
}

static inline mlxrt_result empty_result(void) {
  mlxrt_result result;
  memset(&result, 0, sizeof result);
  result.struct_size = sizeof result;
  return result;
}

/* Of a model; NULL: of the process. */
static inline mlxrt_metrics_data metrics_of(mlxrt_model *model) {
  mlxrt_metrics_data metrics;
  /* All of it is filled. */
  memset(&metrics, 0xff, sizeof metrics);
  metrics.struct_size = sizeof metrics;
  OK(mlxrt_metrics(model, &metrics));
  CHECK_INT(metrics.struct_size, sizeof metrics);
  return metrics;
}

enum { MOST_TOKENS = 4096, MOST_TEXT = 32768, MOST_TOPS = 8 };

/* All that one request gave. */
struct answer {
  char text[MOST_TEXT];
  size_t text_len;
  int32_t tokens[MOST_TOKENS];
  size_t token_count;
  float logprobs[MOST_TOKENS];
  int32_t top_tokens[MOST_TOKENS * MOST_TOPS];
  float top_logprobs[MOST_TOKENS * MOST_TOPS];
  size_t top_count;
  int events, progress_events;
  /* Stop after so many events; 0 = never. */
  int stop_after;
  /* Called at each event, inside the callback. */
  void (*at_event)(struct answer *answer, const mlxrt_event *event);
  void *data;
  mlxrt_result result;
  int32_t code;
  char message[512];
};

static inline int32_t collect(void *user_data, const mlxrt_event *event) {
  struct answer *answer = user_data;
  answer->events++;
  CHECK(MLXRT_HAS(event, total));
  CHECK(event->text != NULL);
  if (event->text) CHECK_INT(event->text[event->text_len], 0);
  if (event->kind == MLXRT_EVENT_PROGRESS) {
    answer->progress_events++;
    CHECK(event->done <= event->total);
  } else if (answer->token_count + event->token_count <= MOST_TOKENS &&
             answer->text_len + event->text_len < MOST_TEXT && event->top_count <= MOST_TOPS) {
    memcpy(answer->text + answer->text_len, event->text, event->text_len);
    answer->text_len += event->text_len;
    answer->text[answer->text_len] = 0;
    for (size_t i = 0; i < event->token_count; i++) {
      size_t at = answer->token_count++;
      answer->tokens[at] = event->tokens[i];
      if (event->logprobs) answer->logprobs[at] = event->logprobs[i];
      for (size_t k = 0; event->top_tokens && k < event->top_count; k++) {
        answer->top_tokens[at * event->top_count + k] = event->top_tokens[i * event->top_count + k];
        answer->top_logprobs[at * event->top_count + k] = event->top_logprobs[i * event->top_count + k];
      }
      if (event->top_tokens) answer->top_count = event->top_count;
    }
  } else {
    CHECK(!"more output than a test has room for");
  }
  if (answer->at_event) answer->at_event(answer, event);
  return answer->stop_after && answer->events >= answer->stop_after ? MLXRT_RETURN_STOP : MLXRT_RETURN_CONTINUE;
}

static inline struct answer *new_answer(void) {
  struct answer *answer = calloc(1, sizeof *answer);
  if (!answer) abort();
  return answer;
}

/* Runs a request into `answer`, whatever comes of it. */
static inline void ask_into(struct answer *answer, mlxrt_session *session, mlxrt_input input,
                            mlxrt_generate_options options) {
  answer->result = empty_result();
  mlxrt_error *error = mlxrt_generate(session, &input, &options, collect, answer, &answer->result);
  answer->code = mlxrt_error_code(error);
  snprintf(answer->message, sizeof answer->message, "%s", mlxrt_error_message(error));
  mlxrt_error_free(error);
  CHECK_INT(answer->result.error_code, answer->code);
  CHECK_INT(answer->result.stop == MLXRT_STOPPED_ERROR, answer->code != 0);
  if (!answer->code) CHECK_INT(answer->result.generated_tokens, answer->token_count);
}

/* Runs a request that must not fail. Free the answer. */
static inline struct answer *ask(mlxrt_session *session, mlxrt_input input, mlxrt_generate_options options) {
  struct answer *answer = new_answer();
  ask_into(answer, session, input, options);
  if (!CHECK_INT(answer->code, 0)) printf(": %s", answer->message);
  return answer;
}

static inline int same_tokens(const struct answer *a, const struct answer *b) {
  return a->token_count == b->token_count && !memcmp(a->tokens, b->tokens, a->token_count * sizeof *a->tokens);
}

/* The ledger; free it with mlxrt_free. */
static inline int32_t *ledger(mlxrt_session *session, size_t *count) {
  int32_t *tokens = NULL;
  OK(mlxrt_session_tokens(session, &tokens, count));
  return tokens;
}

/* The session holds exactly prompt_tokens and then what was delivered. */
static inline void check_ledger(mlxrt_session *session, const struct answer *answer) {
  size_t count = 0;
  int32_t *tokens = ledger(session, &count);
  size_t prompt = (size_t)answer->result.prompt_tokens;
  if (CHECK_INT(count, prompt + answer->token_count)) {
    CHECK(!memcmp(tokens + prompt, answer->tokens, answer->token_count * sizeof *tokens));
  }
  mlxrt_free(tokens);
}

/* Something simple still works: what every test of misuse ends with. */
static inline void check_alive(mlxrt_model *model) {
  mlxrt_session *session = session_of(model);
  struct answer *answer = ask(session, text_input("Hello"), greedy(3));
  CHECK_INT(answer->token_count, 3);
  free(answer);
  mlxrt_session_free(session);
}

static inline void sleep_ms(long ms) {
  struct timespec time = {ms / 1000, (ms % 1000) * 1000000};
  nanosleep(&time, NULL);
}

static inline int64_t now_ms(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (int64_t)time.tv_sec * 1000 + time.tv_nsec / 1000000;
}

#endif
