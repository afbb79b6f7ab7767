/* A growing chat on one session: what each turn computes and how long its first token takes, then the last answer made again, the
 * last turn edited, and the same history in a fresh session. Prints one line of JSON; hybrids.py makes a table of it.
 *
 *     turns MODEL TURNS THREADS
 */
#include <mlxrt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ANSWER 32
#define SIZE (1 << 20)

static void check(mlxrt_error *error) {
  if (!error) return;
  fprintf(stderr, "%s: %s\n", mlxrt_code_name(mlxrt_error_code(error)), mlxrt_error_message(error));
  mlxrt_error_free(error);
  exit(1);
}

static void add(char *messages, const char *role, unsigned turn, const char *words) {
  size_t end = strlen(messages);
  snprintf(messages + end, SIZE - end,
           "%s{\"role\":\"%s\",\"content\":\"In turn %u: %s %s %s\"}", end > 1 ? "," : "", role, turn, words, words, words);
}

static void ask(mlxrt_session *session, const char *messages, const char *name, const char *comma, uint32_t flags) {
  static char whole[SIZE + 2];
  mlxrt_input input = {0};
  mlxrt_generate_options options = {0};
  mlxrt_result result = {0};
  input.struct_size = sizeof input;
  snprintf(whole, sizeof whole, "%s]", messages);
  input.messages = whole;
  input.messages_len = strlen(whole);
  options.struct_size = sizeof options;
  options.flags = MLXRT_GEN_GREEDY | MLXRT_GEN_IGNORE_EOS | flags;
  options.max_tokens = ANSWER;
  result.struct_size = sizeof result;
  check(mlxrt_generate(session, &input, &options, NULL, NULL, &result));
  printf("%s{\"name\":\"%s\",\"prompt\":%" PRIu64 ",\"cached\":%" PRIu64 ",\"first_s\":%.6f,\"kv_bytes\":%" PRIu64 "}", comma, name,
         (uint64_t)result.prompt_tokens, (uint64_t)result.cached_tokens, (double)result.first_token_ns * 1e-9,
         (uint64_t)result.kv_bytes);
}

int main(int argc, char **argv) {
  static char messages[SIZE] = "[", before[SIZE];
  const char *words = "tell me more of the small town by the sea, of its people, of what they eat and when they sleep;";
  mlxrt_init_options init = {0};
  mlxrt_model *model = NULL;
  mlxrt_session *session = NULL, *fresh = NULL;
  char name[16];
  if (argc < 4) {
    fputs("usage: turns MODEL TURNS THREADS\n", stderr);
    return 2;
  }
  unsigned turns = (unsigned)strtoul(argv[2], NULL, 10);
  init.struct_size = sizeof init;
  init.device = MLXRT_DEVICE_CPU;
  init.cpu_threads = (uint32_t)strtoul(argv[3], NULL, 10);
  check(mlxrt_init(&init));
  check(mlxrt_model_load(argv[1], NULL, &model));
  check(mlxrt_session_create(model, NULL, &session));
  printf("[");
  for (unsigned turn = 1; turn <= turns; turn++) {
    if (turn > 1) {
      char *answer = NULL;
      check(mlxrt_session_message(session, &answer, NULL));
      size_t end = strlen(messages);
      snprintf(messages + end, SIZE - end, ",%s", answer);
      mlxrt_free(answer);
    }
    memcpy(before, messages, sizeof before);
    add(messages, "user", turn, words);
    snprintf(name, sizeof name, "%u", turn);
    ask(session, messages, name, turn > 1 ? "," : "", 0);
  }
  ask(session, messages, "again", ",", 0);
  add(before, "user", turns, "tell me no more of it, but of the hills behind, where nobody sleeps or eats;");
  ask(session, before, "edited", ",", 0);
  check(mlxrt_session_create(model, NULL, &fresh));
  ask(fresh, messages, "fresh", ",", MLXRT_GEN_NO_PREFIX_CACHE);
  puts("]");
  mlxrt_session_free(fresh);
  mlxrt_session_free(session);
  mlxrt_model_free(model);
  check(mlxrt_shutdown(0, MLXRT_FOREVER));
  return 0;
}
