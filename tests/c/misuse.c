/* Misuse of every function: NULL, wrong handles, wrong numbers, wrong text. Each gets a named error, and the library works
 * as before. (Wrong sizes of structs: skew.c.) */
#include "use.h"

#include <math.h>

static mlxrt_model *model;
static mlxrt_session *session;

#define ARGUMENT MLXRT_E_INVALID_ARGUMENT
#define HANDLE MLXRT_E_INVALID_HANDLE

static void null_for_every_pointer(void) {
  char *text = NULL;
  int32_t *ids = NULL, id = 1;
  size_t len = 0;
  mlxrt_model *new_model = NULL;
  mlxrt_session *new_session = NULL;
  mlxrt_input input = message_input("[{\"role\":\"user\",\"content\":\"Hi\"}]");
  mlxrt_result result = empty_result();
  const char *path = fixture("qwen3-f32");

  FAILS(mlxrt_device_info(NULL, &len), ARGUMENT, "json");
  FAILS(mlxrt_memory_get(NULL), ARGUMENT, "out");
  FAILS(mlxrt_model_inspect(NULL, NULL, NULL, &text, &len), ARGUMENT, "path");
  FAILS(mlxrt_model_inspect(path, NULL, NULL, NULL, &len), ARGUMENT, "json");
  FAILS(mlxrt_model_load(NULL, NULL, &new_model), ARGUMENT, "path");
  FAILS(mlxrt_model_load(path, NULL, NULL), ARGUMENT, "out");
  FAILS(mlxrt_model_info(NULL, &text, &len), HANDLE, "model");
  FAILS(mlxrt_model_info(model, NULL, &len), ARGUMENT, "json");
  FAILS(mlxrt_tokenize(NULL, "a", 1, 0, &ids, &len), HANDLE, "model");
  FAILS(mlxrt_tokenize(model, NULL, 1, 0, &ids, &len), ARGUMENT, "text");
  FAILS(mlxrt_tokenize(model, NULL, MLXRT_NTS, 0, &ids, &len), ARGUMENT, "text");
  FAILS(mlxrt_tokenize(model, "a", 1, 0, NULL, &len), ARGUMENT, "ids");
  FAILS(mlxrt_tokenize(model, "a", 1, 0, &ids, NULL), ARGUMENT, "count");
  FAILS(mlxrt_detokenize(NULL, &id, 1, 0, &text, &len), HANDLE, "model");
  FAILS(mlxrt_detokenize(model, NULL, 1, 0, &text, &len), ARGUMENT, "ids");
  FAILS(mlxrt_detokenize(model, &id, 1, 0, NULL, &len), ARGUMENT, "text");
  FAILS(mlxrt_render(NULL, &input, &text, &len), HANDLE, "model");
  FAILS(mlxrt_render(model, NULL, &text, &len), ARGUMENT, "input");
  FAILS(mlxrt_render(model, &input, NULL, &len), ARGUMENT, "text");
  FAILS(mlxrt_count_tokens(NULL, &input, &ids, &len), HANDLE, "model");
  FAILS(mlxrt_count_tokens(model, NULL, &ids, &len), ARGUMENT, "input");
  FAILS(mlxrt_count_tokens(model, &input, &ids, NULL), ARGUMENT, "count");
  FAILS(mlxrt_session_create(NULL, NULL, &new_session), HANDLE, "model");
  FAILS(mlxrt_session_create(model, NULL, NULL), ARGUMENT, "out");
  mlxrt_session_state state;
  memset(&state, 0, sizeof state);
  state.struct_size = sizeof state;
  FAILS(mlxrt_session_fork(NULL, NULL, &new_session), HANDLE, "session");
  FAILS(mlxrt_session_fork(session, NULL, NULL), ARGUMENT, "out");
  FAILS(mlxrt_session_truncate(NULL, 0), HANDLE, "session");
  FAILS(mlxrt_session_truncate(session, (size_t)-1), ARGUMENT, "tokens");
  mlxrt_tensor tensor;
  memset(&tensor, 0, sizeof tensor);
  tensor.struct_size = sizeof tensor;
  float *floats = NULL;
  FAILS(mlxrt_inspect_attention(NULL, 0, &tensor), HANDLE, "session");
  FAILS(mlxrt_inspect_attention(session, 0, NULL), ARGUMENT, "out");
  FAILS(mlxrt_score(NULL, NULL, &input, NULL, &floats, &len), HANDLE, "session");
  FAILS(mlxrt_score(session, NULL, NULL, NULL, &floats, &len), ARGUMENT, "target");
  FAILS(mlxrt_score(session, NULL, &input, NULL, NULL, &len), ARGUMENT, "logprobs");
  FAILS(mlxrt_score(session, NULL, &input, NULL, &floats, NULL), ARGUMENT, "count");
  CHECK(floats == NULL);
  FAILS(mlxrt_session_info(NULL, &state), HANDLE, "session");
  FAILS(mlxrt_session_info(session, NULL), ARGUMENT, "out");
  FAILS(mlxrt_session_tokens(NULL, &ids, &len), HANDLE, "session");
  FAILS(mlxrt_session_tokens(session, NULL, &len), ARGUMENT, "ids");
  FAILS(mlxrt_session_tokens(session, &ids, NULL), ARGUMENT, "count");
  FAILS(mlxrt_session_message(NULL, &text, &len), HANDLE, "session");
  FAILS(mlxrt_session_message(session, NULL, &len), ARGUMENT, "json");
  FAILS(mlxrt_session_save(NULL, "/tmp/no", NULL), HANDLE, "session");
  FAILS(mlxrt_session_save(session, NULL, NULL), ARGUMENT, "path");
  FAILS(mlxrt_session_save(session, "", NULL), ARGUMENT, "path");
  FAILS(mlxrt_session_load(NULL, "/tmp/no", NULL, &new_session), HANDLE, "model");
  FAILS(mlxrt_session_load(model, NULL, NULL, &new_session), ARGUMENT, "path");
  FAILS(mlxrt_session_load(model, "", NULL, &new_session), ARGUMENT, "path");
  FAILS(mlxrt_session_load(model, "/tmp/no", NULL, NULL), ARGUMENT, "out");
  FAILS(mlxrt_generate(NULL, &input, NULL, NULL, NULL, &result), HANDLE, "session");
  CHECK_INT(result.stop, MLXRT_STOPPED_ERROR);
  CHECK_INT(result.error_code, HANDLE);
  FAILS(mlxrt_generate(session, NULL, NULL, NULL, NULL, &result), ARGUMENT, "input");
  CHECK_INT(result.error_code, ARGUMENT);
  FAILS(mlxrt_metrics(NULL, NULL), ARGUMENT, "out");
  FAILS(mlxrt_metrics(model, NULL), ARGUMENT, "out");
  mlxrt_model_free(NULL);
  mlxrt_session_free(NULL);
  mlxrt_session_cancel(NULL);
  mlxrt_free(NULL);
  mlxrt_error_free(NULL);
  CHECK(text == NULL && ids == NULL && new_model == NULL && new_session == NULL);
  check_alive(model);
}

/* Every function that takes a handle, with one that is not good for it. */
static void refuses_model(mlxrt_model *bad) {
  char *text = (char *)&text;
  int32_t *ids = (int32_t *)&ids, id = 1;
  size_t len = 0;
  mlxrt_session *made = (mlxrt_session *)&made;
  mlxrt_input input = message_input("[{\"role\":\"user\",\"content\":\"Hi\"}]");
  mlxrt_metrics_data metrics;
  memset(&metrics, 0, sizeof metrics);
  metrics.struct_size = sizeof metrics;
  FAILS(mlxrt_model_info(bad, &text, &len), HANDLE, "model");
  CHECK(text == NULL);
  FAILS(mlxrt_tokenize(bad, "a", 1, 0, &ids, &len), HANDLE, "model");
  CHECK(ids == NULL);
  FAILS(mlxrt_detokenize(bad, &id, 1, 0, &text, &len), HANDLE, "model");
  FAILS(mlxrt_render(bad, &input, &text, &len), HANDLE, "model");
  FAILS(mlxrt_count_tokens(bad, &input, NULL, &len), HANDLE, "model");
  FAILS(mlxrt_session_create(bad, NULL, &made), HANDLE, "model");
  CHECK(made == NULL);
  made = (mlxrt_session *)&made;
  FAILS(mlxrt_session_load(bad, "/tmp/no", NULL, &made), HANDLE, "model");
  CHECK(made == NULL);
  mlxrt_grammar *grammar = (mlxrt_grammar *)&grammar;
  FAILS(mlxrt_grammar_compile(bad, MLXRT_GRAMMAR_JSON, NULL, 0, NULL, &grammar), HANDLE, "model");
  CHECK(grammar == NULL);
  FAILS(mlxrt_metrics(bad, &metrics), HANDLE, "model");
  mlxrt_model_free(bad);
}

static void refuses_session(mlxrt_session *bad) {
  char *text = (char *)&text;
  int32_t *ids = (int32_t *)&ids;
  size_t len = 0;
  mlxrt_input input = text_input("x");
  mlxrt_result result = empty_result();
  mlxrt_session_state state;
  memset(&state, 0, sizeof state);
  state.struct_size = sizeof state;
  mlxrt_session *fork = (mlxrt_session *)&fork;
  FAILS(mlxrt_session_fork(bad, NULL, &fork), HANDLE, "session");
  CHECK(fork == NULL);
  FAILS(mlxrt_session_truncate(bad, 0), HANDLE, "session");
  mlxrt_tensor tensor;
  memset(&tensor, 0, sizeof tensor);
  tensor.struct_size = sizeof tensor;
  FAILS(mlxrt_inspect_attention(bad, 0, &tensor), HANDLE, "session");
  float *floats = (float *)&floats;
  size_t scored = 9;
  mlxrt_input word = text_input("x");
  FAILS(mlxrt_score(bad, NULL, &word, NULL, &floats, &scored), HANDLE, "session");
  CHECK(floats == NULL && scored == 0);
  FAILS(mlxrt_session_info(bad, &state), HANDLE, "session");
  FAILS(mlxrt_session_tokens(bad, &ids, &len), HANDLE, "session");
  FAILS(mlxrt_session_message(bad, &text, &len), HANDLE, "session");
  CHECK(text == NULL && ids == NULL);
  FAILS(mlxrt_session_save(bad, "/tmp/no", NULL), HANDLE, "session");
  FAILS(mlxrt_generate(bad, &input, NULL, NULL, NULL, &result), HANDLE, "session");
  CHECK_INT(result.error_code, HANDLE);
  mlxrt_session_cancel(bad);
  mlxrt_session_free(bad);
}

static void wrong_handles(void) {
  mlxrt_model *freed_model = load("llama-f32");
  mlxrt_session *freed_session = session_of(freed_model);
  mlxrt_session_free(freed_session);
  mlxrt_model_free(freed_model);
  int local = 0;
  refuses_model(freed_model);
  refuses_model((mlxrt_model *)session);
  refuses_model((mlxrt_model *)&local);
  refuses_session(freed_session);
  refuses_session((mlxrt_session *)model);
  refuses_session((mlxrt_session *)&local);
  /* A new object in the place of the freed one does not bring the old handle back. */
  mlxrt_model *again = load("llama-f32");
  CHECK(again != freed_model);
  refuses_model(freed_model);
  check_alive(again);
  mlxrt_model_free(again);
  /* Bits at random, and every single bit of a good handle flipped. */
  uint64_t random = 88172645463325252u;
  for (int i = 0; i < 2000; i++) {
    random ^= random << 13, random ^= random >> 7, random ^= random << 17;
    if ((uintptr_t)random == (uintptr_t)model || (uintptr_t)random == (uintptr_t)session) continue;
    refuses_model((mlxrt_model *)(uintptr_t)random);
    refuses_session((mlxrt_session *)(uintptr_t)random);
  }
  for (int bit = 0; bit < 64; bit++) {
    uint64_t flipped = (uint64_t)(uintptr_t)model ^ (uint64_t)1 << bit;
    if (flipped != (uint64_t)(uintptr_t)session) refuses_model((mlxrt_model *)(uintptr_t)flipped);
  }
  for (uintptr_t small = 1; small < 64; small++) {
    if (small != (uintptr_t)model) refuses_model((mlxrt_model *)small);
  }
  check_alive(model);
}

static int generate_fails(const mlxrt_generate_options *options, int32_t code, const char *word) {
  mlxrt_input input = text_input("x");
  mlxrt_result result = empty_result();
  int passed = FAILS(mlxrt_generate(session, &input, options, NULL, NULL, &result), code, word);
  CHECK_INT(result.error_code, code);
  return passed;
}

static void numbers_out_of_range(void) {
  static const struct {
    const char *name;
    size_t offset;
    float bad[8];
  } fields[] = {
#define FIELD(name) #name, offsetof(mlxrt_generate_options, name)
      {FIELD(temperature), {NAN, INFINITY, -INFINITY, -1, -0.001f, -1e30f, -2, -3}},
      {FIELD(top_p), {NAN, INFINITY, -INFINITY, -1, -0.5f, 1.001f, 2, 1e30f}},
      {FIELD(min_p), {NAN, INFINITY, -INFINITY, -2, -0.5f, 1.001f, 2, 1e30f}},
      {FIELD(xtc_probability), {NAN, INFINITY, -INFINITY, -2, -0.5f, 1.001f, 2, 1e30f}},
      {FIELD(xtc_threshold), {NAN, INFINITY, -INFINITY, -1, -0.5f, 0.501f, 1, 2}},
      {FIELD(repetition_penalty), {NAN, INFINITY, -INFINITY, -1, -0.5f, -2, -1e30f, -1e-9f}},
      {FIELD(presence_penalty), {NAN, INFINITY, -INFINITY, -2.1f, 2.1f, 1e30f, -1e30f, 3}},
      {FIELD(frequency_penalty), {NAN, INFINITY, -INFINITY, -2.1f, 2.1f, 1e30f, -1e30f, 3}},
  };
  for (size_t i = 0; i < COUNT(fields); i++) {
    for (size_t k = 0; k < COUNT(fields[i].bad); k++) {
      mlxrt_generate_options options = sampled(1, 1);
      memcpy((char *)&options + fields[i].offset, &fields[i].bad[k], sizeof(float));
      if (!generate_fails(&options, ARGUMENT, fields[i].name)) printf(" (%s = %g)", fields[i].name, fields[i].bad[k]);
    }
  }
  static const int32_t bad_k[] = {-2, -100, INT32_MIN};
  for (size_t k = 0; k < COUNT(bad_k); k++) {
    mlxrt_generate_options options = sampled(1, 1);
    options.top_k = bad_k[k];
    generate_fails(&options, ARGUMENT, "top_k");
  }
  /* The edges of what is legal. */
  static const struct {
    size_t offset;
    float good;
  } edges[] = {{offsetof(mlxrt_generate_options, temperature), 1e-30f},
               {offsetof(mlxrt_generate_options, temperature), 1e30f},
               {offsetof(mlxrt_generate_options, top_p), 1e-30f},
               {offsetof(mlxrt_generate_options, min_p), 1},
               {offsetof(mlxrt_generate_options, xtc_probability), 1},
               {offsetof(mlxrt_generate_options, repetition_penalty), 1e-6f},
               {offsetof(mlxrt_generate_options, repetition_penalty), 1e6f},
               {offsetof(mlxrt_generate_options, presence_penalty), -2},
               {offsetof(mlxrt_generate_options, frequency_penalty), 2}};
  for (size_t i = 0; i < COUNT(edges); i++) {
    mlxrt_generate_options options = sampled(3, 1);
    memcpy((char *)&options + edges[i].offset, &edges[i].good, sizeof(float));
    struct answer *answer = ask(session, text_input("x"), options);
    for (size_t k = 0; k < answer->token_count; k++) CHECK(answer->tokens[k] >= 0 && answer->tokens[k] < 131);
    free(answer);
  }
  mlxrt_generate_options options = sampled(3, UINT64_MAX);
  options.top_k = INT32_MAX;
  options.penalty_window = UINT32_MAX - 1;
  options.repetition_penalty = 2;
  options.timeout_ms = UINT32_MAX;
  options.progress_tokens = UINT32_MAX;
  free(ask(session, text_input("x"), options));
  check_alive(model);
}

static void options_that_contradict(void) {
  mlxrt_generate_options options = greedy(1);
  options.temperature = 1;
  generate_fails(&options, ARGUMENT, "temperature");
  options = greedy(1);
  options.flags |= MLXRT_GEN_LOGPROBS;
  options.top_logprobs = UINT32_MAX;
  generate_fails(&options, ARGUMENT, "top_logprobs");
  options = greedy(1);
  options.thinking_budget = -2;
  generate_fails(&options, ARGUMENT, "thinking_budget");
  options = greedy(1);
  options.draft_tokens = -2;
  generate_fails(&options, ARGUMENT, "draft_tokens");
  options = greedy(1);
  options.grammar = (mlxrt_grammar *)model;
  generate_fails(&options, HANDLE, "grammar");
}

static void arrays_of_options(void) {
  static const float infinite = INFINITY, not_a_number = NAN, one = 1;
  static const int32_t bad_ids[] = {-1, 131, INT32_MAX, INT32_MIN};
  int32_t good = 5;
  mlxrt_generate_options options = greedy(1);
  options.bias_count = 1;
  generate_fails(&options, ARGUMENT, "bias_tokens");
  options.bias_tokens = &good;
  generate_fails(&options, ARGUMENT, "bias_values");
  options.bias_values = &infinite;
  generate_fails(&options, ARGUMENT, "bias_values");
  options.bias_values = &not_a_number;
  generate_fails(&options, ARGUMENT, "bias_values");
  options.bias_values = &one;
  for (size_t i = 0; i < COUNT(bad_ids); i++) {
    options.bias_tokens = &bad_ids[i];
    generate_fails(&options, ARGUMENT, "bias_tokens");
  }
  options = greedy(1);
  options.stop_token_count = 1;
  generate_fails(&options, ARGUMENT, "stop_tokens");
  for (size_t i = 0; i < COUNT(bad_ids); i++) {
    options.stop_tokens = &bad_ids[i];
    generate_fails(&options, ARGUMENT, "stop_tokens");
  }
  static const size_t counts[] = {SIZE_MAX, SIZE_MAX / 2, SIZE_MAX / 4 + 1};
  for (size_t i = 0; i < COUNT(counts); i++) {
    options = greedy(1);
    options.stop_tokens = &good;
    options.stop_token_count = counts[i];
    generate_fails(&options, ARGUMENT, "stop_tokens");
    options = greedy(1);
    options.bias_tokens = &good;
    options.bias_values = &one;
    options.bias_count = counts[i];
    generate_fails(&options, ARGUMENT, "bias");
    options = greedy(1);
    const char *stop = "x";
    options.stop = &stop;
    options.stop_count = counts[i];
    generate_fails(&options, ARGUMENT, "stop");
  }
  const char *stops[] = {"a", NULL};
  options = greedy(1);
  options.stop_count = 1;
  generate_fails(&options, ARGUMENT, "stop");
  options.stop = stops;
  options.stop_count = 2;
  generate_fails(&options, ARGUMENT, "stop[1]");
  stops[1] = "";
  generate_fails(&options, ARGUMENT, "stop");
  stops[1] = "\xc3";
  generate_fails(&options, ARGUMENT, "stop[1]");
  check_alive(model);
}

static void text_that_is_no_text(void) {
  static const char *bad[] = {"\x80", "\xff", "ab\xc3", "\xc0\xaf", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xe2\x82", "\xf8\x88\x80\x80\x80"};
  char *text = NULL;
  int32_t *ids = NULL;
  size_t len = 0;
  mlxrt_model *made = NULL;
  for (size_t i = 0; i < COUNT(bad); i++) {
    FAILS(mlxrt_tokenize(model, bad[i], MLXRT_NTS, 0, &ids, &len), ARGUMENT, "text is not valid UTF-8");
    mlxrt_input input = text_input(bad[i]);
    FAILS(mlxrt_generate(session, &input, NULL, NULL, NULL, NULL), ARGUMENT, "input.text");
    input = message_input(bad[i]);
    FAILS(mlxrt_generate(session, &input, NULL, NULL, NULL, NULL), ARGUMENT, "input.messages");
    FAILS(mlxrt_render(model, &input, &text, NULL), ARGUMENT, "input.messages");
    input = message_input("[{\"role\":\"user\",\"content\":\"Hi\"}]");
    input.tools = bad[i];
    input.tools_len = MLXRT_NTS;
    FAILS(mlxrt_render(model, &input, &text, NULL), ARGUMENT, "input.tools");
    input.tools = NULL;
    input.template_args = bad[i];
    input.template_args_len = MLXRT_NTS;
    FAILS(mlxrt_render(model, &input, &text, NULL), ARGUMENT, "input.template_args");
    input.template_args = NULL;
    input.tool_choice = bad[i];
    input.tool_choice_len = MLXRT_NTS;
    FAILS(mlxrt_render(model, &input, &text, NULL), ARGUMENT, "input.tool_choice");
    mlxrt_error *error = mlxrt_model_load(bad[i], NULL, &made);
    int32_t code = mlxrt_error_code(error);
    CHECK(code == ARGUMENT || code == MLXRT_E_NOT_FOUND);
    mlxrt_error_free(error);
  }
  FAILS(mlxrt_model_load("", NULL, &made), ARGUMENT, "path");
  static char long_path[70000];
  memset(long_path, 'a', sizeof long_path - 1);
  FAILS(mlxrt_model_load(long_path, NULL, &made), ARGUMENT, "path");
  /* U+0000 in the middle is a character. */
  OK(mlxrt_tokenize(model, "a\0b", 3, 0, &ids, &len));
  CHECK(len >= 2);
  mlxrt_free(ids);
  FAILS(mlxrt_tokenize(model, "a", (size_t)-2, 0, &ids, &len), ARGUMENT, "text");
  FAILS(mlxrt_tokenize(model, "a", SIZE_MAX / 2 + 1, 0, &ids, &len), ARGUMENT, "text");
  check_alive(model);
}

static void tokens_outside_the_vocabulary(void) {
  static const int32_t bad[] = {-1, 131, 132, INT32_MAX, INT32_MIN};
  char *text = NULL;
  for (size_t i = 0; i < COUNT(bad); i++) {
    int32_t tokens[] = {1, 2, bad[i]};
    mlxrt_input input = token_input(tokens, 3);
    FAILS(mlxrt_generate(session, &input, NULL, NULL, NULL, NULL), ARGUMENT, "input.tokens[2]");
    FAILS(mlxrt_detokenize(model, tokens, 3, 0, &text, NULL), ARGUMENT, "ids[2]");
  }
  int32_t one = 1;
  static const size_t counts[] = {SIZE_MAX, SIZE_MAX / 2, SIZE_MAX / 4 + 1};
  for (size_t i = 0; i < COUNT(counts); i++) {
    mlxrt_input input = token_input(&one, counts[i]);
    FAILS(mlxrt_generate(session, &input, NULL, NULL, NULL, NULL), ARGUMENT, "input.tokens");
    FAILS(mlxrt_detokenize(model, &one, counts[i], 0, &text, NULL), ARGUMENT, "ids");
  }
  check_alive(model);
}

static void flags_of_functions(void) {
  char *text = NULL;
  int32_t *ids = NULL, id = 1;
  size_t len = 0;
  for (int bit = 0; bit < 32; bit++) {
    uint32_t flag = (uint32_t)1 << bit;
    if (bit > 1) FAILS(mlxrt_tokenize(model, "a", 1, flag, &ids, &len), MLXRT_E_UNSUPPORTED, "flags");
    if (bit > 0) FAILS(mlxrt_detokenize(model, &id, 1, flag, &text, &len), MLXRT_E_UNSUPPORTED, "flags");
    if (bit > 0) FAILS(mlxrt_shutdown(flag, 0), MLXRT_E_UNSUPPORTED, "flags");
  }
  mlxrt_input input = text_input("x");
  static const uint32_t for_messages[] = {MLXRT_INPUT_TRUST_CONTENT, MLXRT_INPUT_NO_GENERATION_PROMPT,
                                          MLXRT_INPUT_CONTINUE_LAST};
  for (size_t i = 0; i < COUNT(for_messages); i++) {
    input.flags = for_messages[i];
    FAILS(mlxrt_generate(session, &input, NULL, NULL, NULL, NULL), ARGUMENT, "flags");
  }
  input = text_input("x");
  input.tools = "[]";
  input.tools_len = 2;
  FAILS(mlxrt_generate(session, &input, NULL, NULL, NULL, NULL), ARGUMENT, "tools");
  check_alive(model);
}

int main(int argc, char **argv) {
  static const struct test tests[] = {
      {"null_for_every_pointer", null_for_every_pointer},
      {"wrong_handles", wrong_handles},
      {"numbers_out_of_range", numbers_out_of_range},
      {"options_that_contradict", options_that_contradict},
      {"arrays_of_options", arrays_of_options},
      {"text_that_is_no_text", text_that_is_no_text},
      {"tokens_outside_the_vocabulary", tokens_outside_the_vocabulary},
      {"flags_of_functions", flags_of_functions},
  };
  model = load("qwen3-f32");
  session = session_of(model);
  int failed = RUN(tests);
  mlxrt_session_free(session);
  mlxrt_model_free(model);
  return failed;
}
