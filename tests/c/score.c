/* Scores: log-probabilities of a text that there is, perplexity and rerankers; and the keys of a layer. */
#include "use.h"

#include <math.h>
#include <pthread.h>

static const int32_t TEXT[] = {52, 106, 110, 78, 83, 87, 109, 5, 101, 12, 13, 14, 15, 16, 17, 18};

static mlxrt_call_options call_options(void) {
  mlxrt_call_options options;
  memset(&options, 0, sizeof options);
  options.struct_size = sizeof options;
  return options;
}

static mlxrt_tensor empty_tensor(void) {
  mlxrt_tensor tensor;
  memset(&tensor, 0, sizeof tensor);
  tensor.struct_size = sizeof tensor;
  return tensor;
}

/* Scores must come; free them with mlxrt_free. */
static float *scores(mlxrt_session *session, const mlxrt_input *prefix, const mlxrt_input *target, size_t *count) {
  float *logprobs = NULL;
  OK(mlxrt_score(session, prefix, target, NULL, &logprobs, count));
  return logprobs;
}

static void close_to(const float *a, const float *b, size_t count) {
  for (size_t i = 0; i < count; i++) CHECK(fabsf(a[i] - b[i]) < 1e-4f);
}

/* What a request said of its own tokens is what a score says of them. */
static void a_score_is_what_was_said(void) {
  mlxrt_model *model = load("qwen3-f32");
  mlxrt_session *session = session_of(model), *other = session_of(model);
  mlxrt_generate_options options = greedy(12);
  options.flags |= MLXRT_GEN_LOGPROBS;
  mlxrt_input prefix = token_input(TEXT, 9);
  struct answer *answer = ask(other, prefix, options);
  mlxrt_input target = token_input(answer->tokens, answer->token_count);
  size_t count = 0;
  float *logprobs = scores(session, &prefix, &target, &count);
  if (CHECK_INT(count, 12)) close_to(logprobs, answer->logprobs, count);
  mlxrt_free(logprobs);
  /* The same with the prefix in the session, which stays as it is. */
  options = greedy(1);
  options.flags |= MLXRT_GEN_PREFILL_ONLY;
  free(ask(session, prefix, options));
  size_t before = 0;
  mlxrt_free(ledger(session, &before));
  for (int i = 0; i < 2; i++) {
    logprobs = scores(session, NULL, &target, &count);
    if (CHECK_INT(count, 12)) close_to(logprobs, answer->logprobs, count);
    mlxrt_free(logprobs);
  }
  size_t after = 0;
  mlxrt_free(ledger(session, &after));
  CHECK_INT(before, 9);
  CHECK_INT(after, 9);
  struct answer *again = ask(session, text_input(""), greedy(12));
  CHECK(same_tokens(again, answer));
  free(again);
  free(answer);
  mlxrt_session_free(session);
  mlxrt_session_free(other);
  mlxrt_model_free(model);
}

/* As docs/sessions.md has it: exp of the mean, times -1. */
static void a_perplexity(void) {
  mlxrt_model *model = load("qwen3-f32");
  mlxrt_session *session = session_of(model);
  mlxrt_input first = token_input(TEXT, 1), rest = token_input(TEXT + 1, COUNT(TEXT) - 1);
  size_t count = 0;
  float *logprobs = scores(session, &first, &rest, &count);
  CHECK_INT(count, COUNT(TEXT) - 1);
  double sum = 0;
  for (size_t i = 0; i < count; i++) {
    CHECK(logprobs[i] < 0);
    sum += logprobs[i];
  }
  double perplexity = exp(-sum / (double)count);
  CHECK(perplexity > 1 && perplexity < 1e9);
  mlxrt_free(logprobs);
  mlxrt_session_free(session);
  mlxrt_model_free(model);
}

/* Keeps a document's text text, whatever is written in it. */
static void take_in(mlxrt_session *session, const char *text, uint32_t flags) {
  mlxrt_input input = text_input(text);
  input.flags = flags;
  mlxrt_generate_options options = greedy(1);
  options.flags |= MLXRT_GEN_PREFILL_ONLY;
  free(ask(session, input, options));
}

/* A reranker says yes or no: what each of them would have been, after a document that is taken in once. */
static double relevance(const mlxrt_session *instructed, const char *document) {
  mlxrt_session *session = NULL;
  OK(mlxrt_session_fork((mlxrt_session *)instructed, NULL, &session));
  take_in(session, document, MLXRT_INPUT_SPECIAL_AS_TEXT);
  take_in(session, "<|im_end|>\n<|im_start|>assistant\n", 0);
  double p[2] = {0, 0};
  static const char *const words[] = {"yes", "no"};
  for (int i = 0; i < 2; i++) {
    mlxrt_input word = text_input(words[i]);
    size_t count = 0;
    float *logprobs = scores(session, NULL, &word, &count);
    for (size_t k = 0; k < count; k++) p[i] += logprobs[k];
    mlxrt_free(logprobs);
  }
  mlxrt_session_free(session);
  return exp(p[0]) / (exp(p[0]) + exp(p[1]));
}

static void a_reranker(void) {
  mlxrt_model *model = load("qwen3-f32");
  mlxrt_session *session = session_of(model);
  take_in(session, "<|im_start|>system\nyes or no<|im_end|>\n<|im_start|>user\n", 0);
  double one = relevance(session, "a document"), two = relevance(session, "<|im_end|> another");
  CHECK(one > 0 && one < 1 && two > 0 && two < 1 && one != two);
  CHECK(relevance(session, "a document") == one);
  mlxrt_session_free(session);
  mlxrt_model_free(model);
}

static void messages_are_a_prefix(void) {
  mlxrt_model *model = load("qwen3-f32");
  mlxrt_session *session = session_of(model);
  mlxrt_input history = message_input("[{\"role\":\"user\",\"content\":\"Hi\"}]"), target = text_input("Hello");
  size_t count = 0, tokens = 0;
  int32_t *ids = NULL, *own = NULL;
  OK(mlxrt_count_tokens(model, &history, &ids, &count));
  OK(mlxrt_tokenize(model, "Hello", 5, 0, &own, &tokens));
  mlxrt_input prefix = token_input(ids, count), same = token_input(own, tokens);
  size_t scored = 0, again = 0;
  float *a = scores(session, &history, &target, &scored), *b = scores(session, &prefix, &same, &again);
  if (CHECK_INT(scored, tokens) && CHECK_INT(again, tokens)) close_to(a, b, tokens);
  float *none = (float *)&none;
  FAILS(mlxrt_score(session, &prefix, &history, NULL, &none, &scored), MLXRT_E_INVALID_ARGUMENT, "target.messages");
  CHECK(none == NULL);
  CHECK_INT(scored, 0);
  mlxrt_free(a), mlxrt_free(b), mlxrt_free(ids), mlxrt_free(own);
  mlxrt_session_free(session);
  mlxrt_model_free(model);
}

static void wrong_inputs_are_named(void) {
  mlxrt_model *model = load("qwen3-f32");
  mlxrt_session_options small = session_options();
  small.context = 16;
  mlxrt_session *session = NULL;
  OK(mlxrt_session_create(model, &small, &session));
  mlxrt_input one = token_input(TEXT, 1), empty = text_input(""), two = one, none = no_input();
  float *logprobs = (float *)&logprobs;
  size_t count = 9;
#define REFUSED(prefix, target, code, word)                                          \
  do {                                                                               \
    logprobs = (float *)&logprobs, count = 9;                                        \
    FAILS(mlxrt_score(session, prefix, target, NULL, &logprobs, &count), code, word); \
    CHECK(logprobs == NULL);                                                         \
    CHECK_INT(count, 0);                                                             \
  } while (0)
  REFUSED(&one, &empty, MLXRT_E_INVALID_ARGUMENT, "target has no tokens");
  REFUSED(NULL, &one, MLXRT_E_INVALID_ARGUMENT, "the prefix has no tokens and the session is empty");
  REFUSED(&one, NULL, MLXRT_E_INVALID_ARGUMENT, "target is NULL");
  REFUSED(&none, &one, MLXRT_E_INVALID_ARGUMENT, "prefix must have exactly one");
  REFUSED(&one, &none, MLXRT_E_INVALID_ARGUMENT, "target must have exactly one");
  two.text = "x";
  REFUSED(&one, &two, MLXRT_E_INVALID_ARGUMENT, "target must have exactly one");
  two = one, two.flags = MLXRT_INPUT_NO_BOS;
  REFUSED(&two, &one, MLXRT_E_INVALID_ARGUMENT, "prefix.flags");
  two.flags = 1u << 30;
  REFUSED(&one, &two, MLXRT_E_UNSUPPORTED, "target.flags");
  two = one, two.struct_size = 0;
  REFUSED(&one, &two, MLXRT_E_INVALID_ARGUMENT, "target.struct_size");
  int32_t wrong[] = {1, 100000};
  two = token_input(wrong, 2);
  REFUSED(&one, &two, MLXRT_E_INVALID_ARGUMENT, "target.tokens");
  REFUSED(&two, &one, MLXRT_E_INVALID_ARGUMENT, "prefix.tokens");
  two = token_input(TEXT, COUNT(TEXT));
  REFUSED(&one, &two, MLXRT_E_CONTEXT_FULL, "context is 16");
  mlxrt_call_options options = call_options();
  options.flags = 1;
  FAILS(mlxrt_score(session, &one, &one, &options, &logprobs, &count), MLXRT_E_UNSUPPORTED, "options.flags");
  FAILS(mlxrt_score(session, &one, &one, NULL, NULL, &count), MLXRT_E_INVALID_ARGUMENT, "logprobs");
  FAILS(mlxrt_score(session, &one, &one, NULL, &logprobs, NULL), MLXRT_E_INVALID_ARGUMENT, "count");
  mlxrt_free(scores(session, &one, &one, &count));
  CHECK_INT(count, 1);
  mlxrt_session_free(session);
  mlxrt_model_free(model);
}

/* What happens in a progress callback. */
struct watch {
  mlxrt_session *session;
  int calls, stop_at, cancel_at, sleep_ms;
  uint64_t done, total;
};

static int32_t on_progress(void *user_data, uint64_t done, uint64_t total) {
  struct watch *watch = user_data;
  watch->calls++;
  CHECK(done > watch->done && done <= total);
  watch->done = done, watch->total = total;
  size_t count = 0;
  float *logprobs = NULL;
  mlxrt_input one = token_input(TEXT, 1);
  mlxrt_tensor tensor = empty_tensor();
  FAILS(mlxrt_score(watch->session, &one, &one, NULL, &logprobs, &count), MLXRT_E_REENTRANT, "callback");
  FAILS(mlxrt_inspect_attention(watch->session, 0, &tensor), MLXRT_E_REENTRANT, "callback");
  mlxrt_session *fork = NULL;
  FAILS(mlxrt_session_fork(watch->session, NULL, &fork), MLXRT_E_BUSY, "already runs");
  if (watch->sleep_ms) sleep_ms(watch->sleep_ms);
  if (watch->calls == watch->cancel_at) mlxrt_session_cancel(watch->session);
  return watch->calls == watch->stop_at ? MLXRT_RETURN_STOP : MLXRT_RETURN_CONTINUE;
}

static void a_score_can_be_ended(void) {
  mlxrt_model *model = load("qwen3-f32");
  mlxrt_session *session = session_of(model);
  static int32_t many[1500];
  for (size_t i = 0; i < COUNT(many); i++) many[i] = (int32_t)(3 + i * 37 % 107);
  mlxrt_input one = token_input(TEXT, 1), long_one = token_input(many, COUNT(many));
  static const struct {
    struct watch watch;
    uint32_t timeout_ms;
    int32_t code;
  } cases[] = {
      {{NULL, 0, 0, 0, 0, 0, 0}, 0, MLXRT_OK},
      {{NULL, 0, 2, 0, 0, 0, 0}, 0, MLXRT_E_CANCELLED},
      {{NULL, 0, 0, 2, 0, 0, 0}, 0, MLXRT_E_CANCELLED},
      {{NULL, 0, 0, 0, 30, 0, 0}, 15, MLXRT_E_TIMEOUT},
  };
  for (size_t i = 0; i < COUNT(cases); i++) {
    struct watch watch = cases[i].watch;
    watch.session = session;
    mlxrt_call_options options = call_options();
    options.timeout_ms = cases[i].timeout_ms;
    options.progress = on_progress;
    options.progress_data = &watch;
    float *logprobs = NULL;
    size_t count = 0;
    FAILS(mlxrt_score(session, &one, &long_one, &options, &logprobs, &count), cases[i].code, "");
    CHECK_INT(count, cases[i].code ? 0 : COUNT(many));
    if (!cases[i].code) CHECK_INT(watch.done, COUNT(many));
    /* A deadline may come before the first chunk is done, where the machine is slow. */
    if (!cases[i].timeout_ms) CHECK(watch.calls > 0);
    if (watch.stop_at) CHECK_INT(watch.calls, watch.stop_at);
    mlxrt_free(logprobs);
    CHECK(mlxrt_memory_trim(2) == NULL);
  }
  check_alive(model);
  mlxrt_session_free(session);
  mlxrt_model_free(model);
}

struct call {
  mlxrt_session *session;
  int32_t code;
  int begun;
};

static int32_t begun(void *user_data, uint64_t done, uint64_t total) {
  (void)done, (void)total;
  __atomic_store_n(&((struct call *)user_data)->begun, 1, __ATOMIC_SEQ_CST);
  return MLXRT_RETURN_CONTINUE;
}

static void *score_long(void *data) {
  struct call *call = data;
  static int32_t many[2000];
  for (size_t i = 0; i < COUNT(many); i++) many[i] = (int32_t)(3 + i * 37 % 107);
  mlxrt_input one = token_input(TEXT, 1), long_one = token_input(many, COUNT(many));
  mlxrt_call_options options = call_options();
  options.progress = begun;
  options.progress_data = call;
  float *logprobs = NULL;
  size_t count = 0;
  mlxrt_error *error = mlxrt_score(call->session, &one, &long_one, &options, &logprobs, &count);
  call->code = mlxrt_error_code(error);
  mlxrt_error_free(error);
  mlxrt_free(logprobs);
  __atomic_store_n(&call->begun, 1, __ATOMIC_SEQ_CST);
  return NULL;
}

/* From another thread: busy, and free ends it. */
static void others_meanwhile(void) {
  mlxrt_model *model = load("qwen3-f32");
  struct call call = {session_of(model), -1, 0};
  pthread_t thread;
  CHECK_INT(pthread_create(&thread, NULL, score_long, &call), 0);
  while (!__atomic_load_n(&call.begun, __ATOMIC_SEQ_CST)) sleep_ms(1);
  mlxrt_input one = token_input(TEXT, 1);
  float *logprobs = NULL;
  size_t count = 0;
  mlxrt_tensor tensor = empty_tensor();
  mlxrt_error *error = mlxrt_score(call.session, &one, &one, NULL, &logprobs, &count);
  int32_t code = mlxrt_error_code(error);
  mlxrt_error_free(error);
  mlxrt_free(logprobs);
  error = mlxrt_inspect_attention(call.session, 0, &tensor);
  int32_t other = mlxrt_error_code(error);
  mlxrt_error_free(error);
  mlxrt_session_free(call.session);
  pthread_join(thread, NULL);
  /* Unless it was done by then. */
  CHECK(code == MLXRT_E_BUSY || code == MLXRT_OK);
  CHECK(other == MLXRT_E_BUSY || other == MLXRT_E_NOT_FOUND);
  CHECK(call.code == MLXRT_E_CANCELLED || call.code == MLXRT_OK);
  check_alive(model);
  mlxrt_model_free(model);
}

/* Forks and cuts are scored as what they hold. */
static void forks_and_cuts_are_scored(void) {
  static const char *const folders[] = {"qwen3-f32", "gemma3-text-f32", "lfm2-f32", "deepseek_v3-f32"};
  for (size_t i = 0; i < COUNT(folders); i++) {
    mlxrt_model *model = load(folders[i]);
    mlxrt_session *session = session_of(model), *fork = NULL, *fresh = session_of(model);
    free(ask(session, token_input(TEXT, 12), greedy(6)));
    OK(mlxrt_session_fork(session, NULL, &fork));
    OK(mlxrt_session_truncate(fork, 12));
    mlxrt_input whole = token_input(TEXT, 12), target = token_input(TEXT + 3, 9);
    size_t count = 0, again = 0;
    float *a = scores(fork, NULL, &target, &count), *b = scores(fresh, &whole, &target, &again);
    if (CHECK_INT(count, 9) && CHECK_INT(again, 9)) close_to(a, b, 9);
    mlxrt_free(a), mlxrt_free(b);
    mlxrt_free(ledger(fork, &count));
    CHECK_INT(count, 12);
    mlxrt_session_free(session), mlxrt_session_free(fork), mlxrt_session_free(fresh);
    mlxrt_model_free(model);
  }
}

static void keys_of_a_layer(void) {
  mlxrt_model *model = load("qwen3-f32");
  mlxrt_session *session = session_of(model);
  mlxrt_tensor tensor = empty_tensor();
  FAILS(mlxrt_inspect_attention(session, 0, &tensor), MLXRT_E_NOT_FOUND, "no tokens yet");
  CHECK(tensor.data == NULL);
  free(ask(session, token_input(TEXT, 9), greedy(3)));
  OK(mlxrt_inspect_attention(session, 1, &tensor));
  CHECK_INT(tensor.struct_size, sizeof tensor);
  CHECK_INT(tensor.dtype, MLXRT_DTYPE_F32);
  CHECK_INT(tensor.rank, 3);
  CHECK_INT(tensor.shape[0], 1);
  /* All tokens but the last, which the next request computes. */
  CHECK_INT(tensor.shape[1], 11);
  CHECK_INT(tensor.shape[2], 16);
  CHECK_INT(tensor.shape[3], 0);
  CHECK_INT(tensor.bytes, 1 * 11 * 16 * sizeof(float));
  const float *keys = tensor.data;
  double sum = 0;
  for (size_t i = 0; i < 11 * 16; i++) sum += fabs((double)keys[i]);
  CHECK(isfinite(sum) && sum > 1);
  float *first = malloc(7 * 16 * sizeof *first);
  if (!first) abort();
  memcpy(first, keys, 7 * 16 * sizeof *first);
  mlxrt_free(tensor.data);
  /* Of a cut session, its tokens. */
  OK(mlxrt_session_truncate(session, 7));
  tensor = empty_tensor();
  OK(mlxrt_inspect_attention(session, 1, &tensor));
  CHECK_INT(tensor.shape[1], 7);
  CHECK(!memcmp(tensor.data, first, 7 * 16 * sizeof *first));
  mlxrt_free(tensor.data);
  free(first);
  tensor = empty_tensor();
  FAILS(mlxrt_inspect_attention(session, 2, &tensor), MLXRT_E_INVALID_ARGUMENT, "2 layers");
  FAILS(mlxrt_inspect_attention(session, 0, NULL), MLXRT_E_INVALID_ARGUMENT, "out");
  tensor.struct_size = 4;
  FAILS(mlxrt_inspect_attention(session, 0, &tensor), MLXRT_E_INVALID_ARGUMENT, "struct_size");
  tensor = empty_tensor();
  OK(mlxrt_memory_trim(2));
  FAILS(mlxrt_inspect_attention(session, 0, &tensor), MLXRT_E_NOT_FOUND, "7 tokens");
  OK(mlxrt_suspend(MLXRT_FOREVER));
  FAILS(mlxrt_inspect_attention(session, 0, &tensor), MLXRT_E_NOT_FOUND, "7 tokens");
  OK(mlxrt_resume());
  mlxrt_session_free(session);
  mlxrt_model_free(model);
}

static void layers_without_keys(void) {
  static const struct {
    const char *folder;
    const char *word;
  } cases[] = {{"deepseek_v3-f32", "latent"}, {"lfm2-f32", "state"}};
  for (size_t i = 0; i < COUNT(cases); i++) {
    mlxrt_model *model = load(cases[i].folder);
    mlxrt_session *session = session_of(model);
    free(ask(session, token_input(TEXT, 5), greedy(2)));
    mlxrt_tensor tensor = empty_tensor();
    FAILS(mlxrt_inspect_attention(session, 0, &tensor), MLXRT_E_UNSUPPORTED, cases[i].word);
    mlxrt_session_free(session);
    mlxrt_model_free(model);
  }
}

int main(int argc, char **argv) {
  static const struct test tests[] = {
      {"a_score_is_what_was_said", a_score_is_what_was_said},
      {"a_perplexity", a_perplexity},
      {"a_reranker", a_reranker},
      {"messages_are_a_prefix", messages_are_a_prefix},
      {"wrong_inputs_are_named", wrong_inputs_are_named},
      {"a_score_can_be_ended", a_score_can_be_ended},
      {"others_meanwhile", others_meanwhile},
      {"forks_and_cuts_are_scored", forks_and_cuts_are_scored},
      {"keys_of_a_layer", keys_of_a_layer},
      {"layers_without_keys", layers_without_keys},
  };
  return RUN(tests);
}
