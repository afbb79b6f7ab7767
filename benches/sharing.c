/* What sessions share: forks of a long session, and many sessions whose prompts begin alike, with and without what others have
 * computed. Prints the rows of SHARING.md.
 *
 *     sharing MODEL TOKENS SESSIONS
 */
#include <mlxrt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MOST_SESSIONS 64
#define OWN 20

static void check(mlxrt_error *error) {
  if (!error) return;
  fprintf(stderr, "%s: %s\n", mlxrt_code_name(mlxrt_error_code(error)), mlxrt_error_message(error));
  mlxrt_error_free(error);
  exit(1);
}

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

static mlxrt_session *session_of(mlxrt_model *model) {
  mlxrt_session *session = NULL;
  check(mlxrt_session_create(model, NULL, &session));
  return session;
}

/* Seconds to the first token of one request. */
static double ask(mlxrt_session *session, const int32_t *tokens, size_t count, uint32_t flags, uint64_t *cached) {
  mlxrt_input input = {.struct_size = sizeof input, .tokens = tokens, .token_count = count};
  mlxrt_generate_options options = {.struct_size = sizeof options, .max_tokens = 1};
  mlxrt_result result = {.struct_size = sizeof result};
  options.flags = MLXRT_GEN_GREEDY | MLXRT_GEN_IGNORE_EOS | flags;
  check(mlxrt_generate(session, &input, &options, NULL, NULL, &result));
  if (cached) *cached = result.cached_tokens;
  return (double)result.first_token_ns * 1e-9;
}

static uint64_t active(void) {
  mlxrt_memory memory = {.struct_size = sizeof memory};
  check(mlxrt_memory_trim(1));
  check(mlxrt_memory_get(&memory));
  return memory.active_bytes;
}

/* Sessions with one beginning and an end of their own: seconds of all, of the first, of the slowest behind it; bytes that each holds. */
static double many(mlxrt_model *model, int32_t *tokens, size_t count, int sessions, uint32_t flags, double *first, double *later,
                   uint64_t *bytes) {
  mlxrt_session *all[MOST_SESSIONS];
  uint64_t before = active();
  double total = 0;
  *later = 0;
  for (int i = 0; i < sessions; i++) {
    for (int k = 0; k < OWN; k++) tokens[count + (size_t)k] = 1000 + 100 * i + k;
    all[i] = session_of(model);
    double took = ask(all[i], tokens, count + OWN, flags, NULL);
    total += took;
    if (i == 0) *first = took;
    if (i > 0 && took > *later) *later = took;
  }
  *bytes = (active() - before) / (uint64_t)sessions;
  for (int i = 0; i < sessions; i++) mlxrt_session_free(all[i]);
  return total;
}

int main(int argc, char **argv) {
  if (argc < 4) {
    fputs("usage: sharing MODEL TOKENS SESSIONS\n", stderr);
    return 2;
  }
  size_t count = strtoul(argv[2], NULL, 10);
  int sessions = atoi(argv[3]);
  if (sessions < 2 || sessions > MOST_SESSIONS || count == 0) return 2;
  mlxrt_model *model = NULL;
  check(mlxrt_model_load(argv[1], NULL, &model));
  int32_t *tokens = malloc((count + OWN) * sizeof *tokens);
  if (!tokens) return 1;
  for (size_t i = 0; i < count; i++) tokens[i] = 100 + (int32_t)(i * 7919 % 900);

  mlxrt_session *session = session_of(model), *fork = NULL;
  double prefill = ask(session, tokens, count, 0, NULL), best = 1e9;
  uint64_t before = active();
  for (int i = 0; i < 20; i++) {
    double start = now();
    check(mlxrt_session_fork(session, NULL, &fork));
    double took = now() - start;
    if (took < best) best = took;
    if (i < 19) mlxrt_session_free(fork);
  }
  printf("| a fork of %zu tokens | %.3f ms, %" PRIu64 " bytes |\n", count, best * 1e3, active() - before);
  uint64_t cached = 0;
  double goes_on = ask(fork, tokens, 1, 0, &cached);
  printf("| the fork's first token, its copy made | %.1f ms (%" PRIu64 " tokens cached) |\n", goes_on * 1e3, cached);
  printf("| the session's next token | %.1f ms |\n", ask(session, tokens, 1, 0, NULL) * 1e3);
  printf("| the prompt, computed | %.1f ms |\n", prefill * 1e3);
  mlxrt_session_free(session), mlxrt_session_free(fork);

  double first, later, alone_first, alone_later;
  uint64_t bytes, alone_bytes;
  double shared = many(model, tokens, count, sessions, 0, &first, &later, &bytes);
  double alone = many(model, tokens, count, sessions, MLXRT_GEN_NO_PREFIX_CACHE, &alone_first, &alone_later, &alone_bytes);
  printf("| %d sessions that begin with %zu tokens: the first, the slowest of the others | %.1f ms, %.1f ms |\n", sessions, count,
         first * 1e3, later * 1e3);
  printf("| all of them, beside each on its own | %.2f s, %.2f s: %.3f |\n", shared, alone, shared / alone);
  printf("| bytes that a session of them holds, and on its own | %.1f MB, %.1f MB |\n", (double)bytes * 1e-6, (double)alone_bytes * 1e-6);
  free(tokens);
  mlxrt_model_free(model);
  check(mlxrt_shutdown(0, MLXRT_FOREVER));
  return 0;
}
