/* Grammars: what compiles, what is refused and where, how answers end, and who may use one. */
#include "use.h"

#include <pthread.h>

#define ARGUMENT MLXRT_E_INVALID_ARGUMENT
#define BAD MLXRT_E_BAD_GRAMMAR

static mlxrt_model *model;

static const char SCHEMA[] = "{\"type\":\"object\",\"additionalProperties\":false,\"required\":[\"kind\",\"count\"],\"properties\":{"
                             "\"kind\":{\"enum\":[\"first kind\",\"second kind\"]},\"count\":{\"type\":\"integer\",\"minimum\":0,"
                             "\"maximum\":9}}}";

static mlxrt_grammar *compile(int32_t kind, const char *source) {
  mlxrt_grammar *grammar = NULL;
  OK(mlxrt_grammar_compile(model, kind, source, source ? MLXRT_NTS : 0, NULL, &grammar));
  return grammar;
}

static struct answer *run(mlxrt_grammar *grammar, mlxrt_generate_options options) {
  mlxrt_session *session = session_of(model);
  options.grammar = grammar;
  struct answer *answer = ask(session, text_input("The answer is 1"), options);
  check_ledger(session, answer);
  mlxrt_session_free(session);
  return answer;
}

static int obeys(const struct answer *answer) {
  const char *first = "{\"kind\":\"first kind\",\"count\":", *second = "{\"kind\":\"second kind\",\"count\":";
  const char *rest = !strncmp(answer->text, first, strlen(first)) ? answer->text + strlen(first) : answer->text + strlen(second);
  return (rest != answer->text + strlen(second) || !strncmp(answer->text, second, strlen(second))) && rest[0] >= '0' &&
         rest[0] <= '9' && !strcmp(rest + 1, "}");
}

static void answers_obey(void) {
  mlxrt_grammar *grammar = compile(MLXRT_GRAMMAR_JSON_SCHEMA, SCHEMA);
  struct answer *answer = run(grammar, greedy(100));
  CHECK(obeys(answer));
  CHECK_INT(answer->result.stop, MLXRT_STOPPED_GRAMMAR);
  CHECK_INT(answer->result.generated_tokens, answer->token_count);
  free(answer);
  for (uint64_t seed = 1; seed < 6; seed++) {
    struct answer *once = run(grammar, sampled(100, seed)), *again = run(grammar, sampled(100, seed));
    CHECK(obeys(once) && same_tokens(once, again));
    CHECK_INT(once->result.stop, MLXRT_STOPPED_GRAMMAR);
    free(once), free(again);
  }
  mlxrt_grammar_free(grammar);
}

static void each_kind_has_its_text(void) {
  mlxrt_grammar *json = compile(MLXRT_GRAMMAR_JSON, NULL);
  struct answer *answer = run(json, sampled(30, 3));
  CHECK(answer->text[0] == '{' || answer->text[0] == '[');
  free(answer);
  mlxrt_grammar *regex = compile(MLXRT_GRAMMAR_REGEX, "[a-c]{3}-[0-9]{2}");
  answer = run(regex, sampled(30, 4));
  CHECK(strlen(answer->text) == 6 && answer->text[3] == '-' && strspn(answer->text, "abc") == 3);
  CHECK_INT(answer->result.stop, MLXRT_STOPPED_GRAMMAR);
  free(answer);
  mlxrt_grammar *lark = compile(MLXRT_GRAMMAR_LARK, "start: \"yes\" | \"no\"");
  answer = run(lark, sampled(30, 5));
  CHECK(!strcmp(answer->text, "yes") || !strcmp(answer->text, "no"));
  free(answer);
  mlxrt_grammar_free(json);
  mlxrt_grammar_free(regex);
  mlxrt_grammar_free(lark);
}

static void an_answer_can_be_cut(void) {
  mlxrt_grammar *grammar = compile(MLXRT_GRAMMAR_JSON_SCHEMA, SCHEMA);
  struct answer *answer = run(grammar, greedy(5));
  CHECK_INT(answer->result.stop, MLXRT_STOPPED_LENGTH);
  CHECK_INT(answer->token_count, 5);
  free(answer);
  mlxrt_grammar_free(grammar);
}

static void logprobs_come_for_every_token(void) {
  mlxrt_grammar *grammar = compile(MLXRT_GRAMMAR_JSON_SCHEMA, SCHEMA);
  mlxrt_generate_options options = greedy(100);
  struct answer *plain = run(grammar, options);
  options.flags |= MLXRT_GEN_LOGPROBS;
  options.top_logprobs = MOST_TOPS;
  struct answer *told = run(grammar, options);
  CHECK(same_tokens(plain, told));
  for (size_t i = 0; i < told->token_count; i++) CHECK(told->logprobs[i] < 0);
  free(plain), free(told);
  mlxrt_grammar_free(grammar);
}

static void refused(int32_t kind, const char *source, int32_t code, const char *word) {
  mlxrt_grammar *grammar = (mlxrt_grammar *)&grammar;
  FAILS(mlxrt_grammar_compile(model, kind, source, MLXRT_NTS, NULL, &grammar), code, word);
  CHECK(grammar == NULL);
}

static void what_cannot_be_followed_is_named(void) {
  refused(MLXRT_GRAMMAR_JSON_SCHEMA, "{\"properties\":{\"a\":{\"not\":{}}}}", BAD, "#/properties/a/not");
  refused(MLXRT_GRAMMAR_JSON_SCHEMA, "{\"type\":\"array\",\"uniqueItems\":true}", BAD, "#/uniqueItems");
  refused(MLXRT_GRAMMAR_JSON_SCHEMA, "{\"type\":\"string\",\"format\":\"regex\"}", BAD, "#/format");
  refused(MLXRT_GRAMMAR_JSON_SCHEMA, "{\"minimum\":3,\"maximum\":2,\"type\":\"integer\"}", BAD, "#/minimum");
  refused(MLXRT_GRAMMAR_JSON_SCHEMA, "{", BAD, "not valid JSON");
  refused(MLXRT_GRAMMAR_JSON_SCHEMA, "", BAD, "not valid JSON");
  refused(MLXRT_GRAMMAR_REGEX, "a(?=b)", BAD, "look-around");
  refused(MLXRT_GRAMMAR_REGEX, "(a{1000}){1000}", BAD, "1000000 bytes");
  refused(MLXRT_GRAMMAR_LARK, "start: start \"a\"", BAD, "beginning");
  refused(MLXRT_GRAMMAR_LARK, "start: %json {}", BAD, "%json");
  refused(MLXRT_GRAMMAR_JSON, "{}", ARGUMENT, "source");
  refused(0, "", MLXRT_E_UNSUPPORTED, "kind 0");
  refused(5, "", MLXRT_E_UNSUPPORTED, "kind 5");
  refused(MLXRT_GRAMMAR_REGEX, "\xff", ARGUMENT, "source");
  refused(MLXRT_GRAMMAR_REGEX, NULL, ARGUMENT, "source");
  size_t much = (size_t)1 << 20;
  char *long_source = malloc(much + 2);
  memset(long_source, ' ', much + 1);
  long_source[much + 1] = 0;
  refused(MLXRT_GRAMMAR_JSON_SCHEMA, long_source, ARGUMENT, "1048577");
  free(long_source);
  FAILS(mlxrt_grammar_compile(model, MLXRT_GRAMMAR_JSON, NULL, 0, NULL, NULL), ARGUMENT, "out");
}

static int32_t stop(void *user_data, uint64_t done, uint64_t total) {
  (void)done, (void)total;
  ++*(int *)user_data;
  return MLXRT_RETURN_STOP;
}

static void progress_can_stop_it(void) {
  int calls = 0;
  mlxrt_grammar *grammar = NULL;
  mlxrt_call_options options;
  memset(&options, 0, sizeof options);
  options.struct_size = sizeof options;
  options.progress = stop;
  options.progress_data = &calls;
  FAILS(mlxrt_grammar_compile(model, MLXRT_GRAMMAR_JSON, NULL, 0, &options, &grammar), MLXRT_E_CANCELLED, "stopped");
  CHECK_INT(calls, 1);
  CHECK(grammar == NULL);
  options.progress = NULL;
  options.flags = 1;
  FAILS(mlxrt_grammar_compile(model, MLXRT_GRAMMAR_JSON, NULL, 0, &options, &grammar), MLXRT_E_UNSUPPORTED, "flags");
}

static void a_grammar_is_of_one_model(void) {
  mlxrt_model *other = load("llama-f32");
  mlxrt_grammar *grammar = NULL;
  OK(mlxrt_grammar_compile(other, MLXRT_GRAMMAR_JSON, NULL, 0, NULL, &grammar));
  mlxrt_session *session = session_of(model), *own = session_of(other);
  mlxrt_generate_options options = greedy(3);
  mlxrt_input input = text_input("x");
  mlxrt_result result = empty_result();
  options.grammar = grammar;
  FAILS(mlxrt_generate(session, &input, &options, NULL, NULL, &result), MLXRT_E_INCOMPATIBLE, "grammar");
  /* It outlives its model's handle. */
  mlxrt_model_free(other);
  OK(mlxrt_generate(own, &input, &options, NULL, NULL, &result));
  mlxrt_grammar_free(grammar);
  FAILS(mlxrt_generate(own, &input, &options, NULL, NULL, &result), MLXRT_E_INVALID_HANDLE, "grammar");
  options.grammar = (mlxrt_grammar *)own;
  FAILS(mlxrt_generate(own, &input, &options, NULL, NULL, &result), MLXRT_E_INVALID_HANDLE, "grammar");
  mlxrt_grammar_free(NULL);
  mlxrt_session_free(session);
  mlxrt_session_free(own);
  check_alive(model);
}

static void freed_while_it_is_used(void) {
  mlxrt_grammar *grammar = compile(MLXRT_GRAMMAR_JSON_SCHEMA, SCHEMA);
  mlxrt_session *session = session_of(model);
  mlxrt_generate_options options = greedy(100);
  mlxrt_input input = text_input("x");
  mlxrt_result result = empty_result();
  mlxrt_request *request = NULL;
  options.grammar = grammar;
  OK(mlxrt_submit(session, &input, &options, &request));
  mlxrt_grammar_free(grammar);
  OK(mlxrt_request_result(request, MLXRT_FOREVER, &result));
  CHECK_INT(result.stop, MLXRT_STOPPED_GRAMMAR);
  mlxrt_request_free(request);
  mlxrt_session_free(session);
}

static mlxrt_grammar *shared;

static void *follow(void *failures) {
  for (uint64_t seed = 1; seed < 4; seed++) {
    mlxrt_session *session = session_of(model);
    mlxrt_generate_options options = sampled(100, seed);
    options.grammar = shared;
    struct answer *answer = ask(session, text_input("x"), options);
    if (!obeys(answer)) ++*(int *)failures;
    free(answer);
    mlxrt_session_free(session);
  }
  return NULL;
}

static void many_threads_use_one(void) {
  pthread_t threads[6];
  int failures[6] = {0};
  shared = compile(MLXRT_GRAMMAR_JSON_SCHEMA, SCHEMA);
  for (size_t i = 0; i < COUNT(threads); i++) CHECK(!pthread_create(&threads[i], NULL, follow, &failures[i]));
  for (size_t i = 0; i < COUNT(threads); i++) {
    pthread_join(threads[i], NULL);
    CHECK_INT(failures[i], 0);
  }
  mlxrt_grammar_free(shared);
}

int main(int argc, char **argv) {
  static const struct test tests[] = {
      {"answers_obey", answers_obey},
      {"each_kind_has_its_text", each_kind_has_its_text},
      {"an_answer_can_be_cut", an_answer_can_be_cut},
      {"logprobs_come_for_every_token", logprobs_come_for_every_token},
      {"what_cannot_be_followed_is_named", what_cannot_be_followed_is_named},
      {"progress_can_stop_it", progress_can_stop_it},
      {"a_grammar_is_of_one_model", a_grammar_is_of_one_model},
      {"freed_while_it_is_used", freed_while_it_is_used},
      {"many_threads_use_one", many_threads_use_one},
  };
  model = load("qwen3-f32");
  int failed = RUN(tests);
  mlxrt_model_free(model);
  return failed;
}
