/* Answers under a grammar beside answers without one of the same length, in turns; how long schemas take to compile; how long the
 * first grammar of a model takes, which makes what all of them share. Prints the rows of GRAMMAR.md.
 *
 *     grammar MODEL NAME TOKENS TURNS LOADS
 */
#include <mlxrt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MOST 64
#define PROPERTIES 200

static void check(mlxrt_error *error) {
  if (!error) return;
  fprintf(stderr, "%s: %s\n", mlxrt_code_name(mlxrt_error_code(error)), mlxrt_error_message(error));
  mlxrt_error_free(error);
  exit(1);
}

/* The process's time on a core: compiling waits for nothing, and a busy machine disturbs it less. */
static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

static int by_size(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static double median(double *of, unsigned count) {
  qsort(of, count, sizeof *of, by_size);
  return of[count / 2];
}

/* Every token is the model's own: an open string, where most of a vocabulary may come. */
static const char OPEN[] = "{\"type\":\"string\",\"minLength\":100000}";
/* The same with an end: tokens that are longer than what is left may not come. */
static const char BOUNDED[] = "{\"type\":\"string\",\"minLength\":2000,\"maxLength\":4000}";
/* Every token is the model's own, and few may come: numbers of many digits. */
static const char NUMBERS[] = "{\"type\":\"array\",\"minItems\":1000,\"items\":{\"type\":\"integer\",\"minimum\":1000000000,\"maximum\":9999999999}}";
/* Nearly everything is forced: names, and what stands between them. */
static const char RIGID[] =
    "{\"type\":\"object\",\"additionalProperties\":false,\"required\":[\"identification_of_the_order\",\"delivery_address_is_known\","
    "\"preferred_payment_method\",\"number_of_articles\",\"customer_wants_an_invoice\",\"current_processing_status\"],\"properties\":{"
    "\"identification_of_the_order\":{\"type\":\"integer\",\"minimum\":10,\"maximum\":99},"
    "\"delivery_address_is_known\":{\"type\":\"boolean\"},"
    "\"preferred_payment_method\":{\"enum\":[\"advance payment by transfer\",\"direct debit from an account\"]},"
    "\"number_of_articles\":{\"type\":\"integer\",\"minimum\":1,\"maximum\":9},"
    "\"customer_wants_an_invoice\":{\"type\":\"boolean\"},"
    "\"current_processing_status\":{\"enum\":[\"waiting for the payment\",\"handed over to the carrier\"]}}}";

static char *wide(void) {
  char *source = malloc(PROPERTIES * 160 + 200), *end = source;
  if (!source) exit(1);
  end += sprintf(end, "{\"type\":\"object\",\"additionalProperties\":false,\"required\":[\"field_0\"],\"properties\":{");
  static const char *const KINDS[] = {
      "{\"type\":\"string\",\"maxLength\":40}", "{\"type\":\"integer\",\"minimum\":0,\"maximum\":100000}", "{\"type\":\"boolean\"}",
      "{\"enum\":[\"first\",\"second\",\"third\"]}", "{\"type\":\"array\",\"items\":{\"type\":\"number\"},\"maxItems\":5}",
      "{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"string\"},\"b\":{\"type\":\"null\"}},\"additionalProperties\":false}"};
  for (int i = 0; i < PROPERTIES; i++) end += sprintf(end, "%s\"field_%d\":%s", i ? "," : "", i, KINDS[i % 6]);
  sprintf(end, "}}");
  return source;
}

/* Milliseconds. */
static double compile(mlxrt_model *model, const char *source, mlxrt_grammar **out) {
  double begun = now();
  check(mlxrt_grammar_compile(model, MLXRT_GRAMMAR_JSON_SCHEMA, source, MLXRT_NTS, NULL, out));
  return (now() - begun) * 1e3;
}

/* The time from the first token to the last, in milliseconds for each token behind the first. */
static double answer(mlxrt_model *model, mlxrt_grammar *grammar, uint64_t most, uint64_t *tokens) {
  static const int32_t PROMPT[] = {40, 41, 42, 43, 44, 45, 46, 47, 48, 49, 50, 51, 52, 53, 54, 55};
  mlxrt_session *session = NULL;
  check(mlxrt_session_create(model, NULL, &session));
  mlxrt_input input = {.struct_size = sizeof input, .tokens = PROMPT, .token_count = sizeof PROMPT / sizeof *PROMPT};
  mlxrt_generate_options options = {.struct_size = sizeof options, .max_tokens = (uint32_t)most, .grammar = grammar};
  options.flags = MLXRT_GEN_GREEDY | MLXRT_GEN_IGNORE_EOS;
  mlxrt_result result = {.struct_size = sizeof result};
  check(mlxrt_generate(session, &input, &options, NULL, NULL, &result));
  mlxrt_session_free(session);
  *tokens = result.generated_tokens;
  return (double)result.decode_ns * 1e-6 / (double)(result.generated_tokens - 1);
}

static void beside(mlxrt_model *model, const char *name, const char *what, const char *source, uint64_t most, unsigned turns) {
  double with[MOST], without[MOST];
  uint64_t tokens = 0, plain = 0;
  mlxrt_grammar *grammar = NULL;
  compile(model, source, &grammar);
  answer(model, grammar, most, &tokens);
  for (unsigned turn = 0; turn < turns; turn++) {
    with[turn] = answer(model, grammar, most, &tokens);
    without[turn] = answer(model, NULL, tokens, &plain);
  }
  mlxrt_grammar_free(grammar);
  double a = median(with, turns), b = median(without, turns);
  printf("| %s | %s | %u | %.1f | %.1f | %.3f |\n", name, what, (unsigned)tokens, 1e3 / b, 1e3 / a, a / b);
  fflush(stdout);
}

int main(int argc, char **argv) {
  if (argc < 6) {
    fputs("usage: grammar MODEL NAME TOKENS TURNS LOADS\n", stderr);
    return 2;
  }
  const char *name = argv[2];
  uint64_t tokens = strtoul(argv[3], NULL, 10);
  unsigned turns = (unsigned)strtoul(argv[4], NULL, 10), loads = (unsigned)strtoul(argv[5], NULL, 10);
  if (tokens < 2 || turns < 1 || turns > MOST || loads < 1 || loads > MOST) return 2;
  mlxrt_model *model = NULL;
  double first[MOST], wide_ms[MOST], rigid_ms[MOST];
  char *source = wide();
  for (unsigned load = 0; load < loads; load++) {
    mlxrt_grammar *grammar = NULL;
    if (model) mlxrt_model_free(model);
    check(mlxrt_model_load(argv[1], NULL, &model));
    first[load] = compile(model, "true", &grammar);
    mlxrt_grammar_free(grammar);
  }
  for (unsigned turn = 0; turn < turns; turn++) {
    mlxrt_grammar *grammar = NULL;
    wide_ms[turn] = compile(model, source, &grammar);
    mlxrt_grammar_free(grammar);
    rigid_ms[turn] = compile(model, RIGID, &grammar);
    mlxrt_grammar_free(grammar);
  }
  beside(model, name, "an open string", OPEN, tokens, turns);
  beside(model, name, "a string of at most 4,000", BOUNDED, tokens, turns);
  beside(model, name, "numbers of ten digits", NUMBERS, tokens, turns);
  beside(model, name, "a rigid object", RIGID, 1000, turns);
  printf("| %s | the vocabulary, once | | | %.1f ms | |\n", name, median(first, loads));
  printf("| %s | %d properties, compiled | | | %.1f ms | |\n", name, PROPERTIES, median(wide_ms, turns));
  printf("| %s | the rigid object, compiled | | | %.1f ms | |\n", name, median(rigid_ms, turns));
  free(source);
  mlxrt_model_free(model);
  check(mlxrt_shutdown(0, MLXRT_FOREVER));
  return 0;
}
