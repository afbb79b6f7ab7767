/* Many sessions at once under random loads: what each request gets is what it gets alone. many [seconds] [seed]
 *
 * A load is a few threads, each with a session of its own: it generates, queues requests, cancels some, reads slowly, forks, cuts the
 * session and changes its adapters; prompts begin alike or do not, and are short or long; seeds, temperatures, grammars,
 * guesses and priorities differ. When all is done, each request is made again, alone, on a fresh session that holds nothing, without guesses, of
 * the tokens that its session had then. A load is made of its seed alone, so `many 0 SEED` makes that one again (but not its timing).
 */
#include "use.h"

#include <pthread.h>

enum { TALKERS = 7, STEPS = 9, MOST_ASKS = STEPS * 4, ADAPTERS = 2, QUEUED = 4 };
/* Tokens of an input and of an answer at most, of all that one step of a talker may add to its session, and of a session. */
enum { MOST_INPUT = 170, MOST_ANSWER = 127, MOST_OF_STEP = QUEUED * (MOST_INPUT + MOST_ANSWER), MOST_SEQUENCE = 1800 };

/* Kinds of caches and of layers: whatever shares a pass has to keep them apart. */
static const struct kind {
  const char *model;
  const char *adapters[ADAPTERS];
  const char *draft;
} kinds[] = {
    {"qwen3-f32", {"mlx-dora-qwen3", "peft-rslora-qwen3"}, "qwen3-4bit"},
    {"qwen3-4bit", {"mlx-lora-qwen3-4bit", "mlx-dora-qwen3-4bit"}, NULL},
    {"gemma3-text-f32", {"mlx-lora-gemma3-text", NULL}, NULL},
    {"qwen3_moe-f32", {"mlx-lora-qwen3_moe-experts", "mlx-lora-qwen3_moe-router"}, NULL},
    {"qwen3_5-f32", {NULL, NULL}, NULL},
    {"deepseek_v3-f32", {NULL, NULL}, "lfm2-f32"},
    {"lfm2-f32", {NULL, NULL}, NULL},
};

/* A model that is there, and what its requests may name. */
struct world {
  const struct kind *kind;
  mlxrt_model *model;
  mlxrt_adapter *adapters[ADAPTERS];
  mlxrt_grammar *grammars[2];
};

/* A request: the tokens that it went on from, how, and what came. */
struct ask {
  int32_t sequence[MOST_SEQUENCE];
  size_t length;
  /* The last so many of `sequence` are its own. */
  size_t own;
  mlxrt_generate_options options;
  int applied;
  int32_t tokens[MOST_ANSWER];
  size_t count;
  int32_t stop;
  /* Stop the blocking call, or cancel it, at its so many-th event; 0 = never. */
  int stop_at, cancel_at, events;
  mlxrt_session *session;
};

/* A thread of the load. */
struct talker {
  struct world *world;
  uint64_t random;
  mlxrt_session *session;
  /* What the session has to hold, and which of the adapters it has, a bit for each. */
  int32_t held[MOST_SEQUENCE];
  size_t length;
  int applied;
  struct ask *asks;
  size_t asked;
};

static uint64_t load_seed;
/* Of all loads: requests, those that were cut short, and tokens. */
static size_t all_asked, all_cut, all_tokens;

static uint64_t draw(uint64_t *state) {
  *state ^= *state << 13;
  *state ^= *state >> 7;
  *state ^= *state << 17;
  return *state;
}

/* Of `n` numbers from 0 on. */
static int below(struct talker *talker, int n) { return (int)(draw(&talker->random) >> 16 & 0xffffff) % n; }

static int once_in(struct talker *talker, int n) { return below(talker, n) == 0; }

/* Behind a check that failed. */
static void explain(const struct talker *talker, const struct ask *ask) {
  printf(" (load %" PRIu64 ", %s, request %d of a thread: %zu + %zu tokens, flags %#x, seed %" PRIu64 ", priority %d, stop %d)",
         load_seed, talker->world->kind->model, (int)(ask - talker->asks), ask->length - ask->own, ask->own, ask->options.flags,
         ask->options.seed, (int)ask->options.priority, (int)ask->stop);
}

static int succeeds(mlxrt_error *error, const struct talker *talker, const struct ask *ask, const char *what) {
  int fine = check_error(error, MLXRT_OK, "", what, __FILE__, __LINE__);
  if (!fine) explain(talker, ask);
  return fine;
}

static void apply(const struct world *world, mlxrt_session *session, int applied) {
  mlxrt_adapter *chosen[ADAPTERS] = {NULL, NULL};
  size_t count = 0;
  for (int i = 0; i < ADAPTERS; i++) {
    if (applied & 1 << i) chosen[count++] = world->adapters[i];
  }
  OK(mlxrt_apply_adapter(session, chosen, NULL, count));
}

/* ---- Requests ---- */

/* Two beginnings that others have too, or neither. */
static size_t some_tokens(struct talker *talker, int32_t *tokens) {
  static const int lengths[] = {1, 2, 7, 31, 33, 64, 100, MOST_INPUT};
  size_t count = (size_t)(1 + below(talker, lengths[below(talker, COUNT(lengths))]));
  int beginning = below(talker, 3);
  for (size_t i = 0; i < count; i++) {
    int own = beginning == 2 || i + 3 >= count;
    tokens[i] = own ? 5 + below(talker, 90) : 5 + (int32_t)((i * 37 + (size_t)beginning * 11) % 90);
  }
  return count;
}

static mlxrt_generate_options some_options(struct talker *talker) {
  static const int32_t priorities[] = {0, 0, 0, 0, 1, -1, 100, -100, INT32_MAX, INT32_MIN};
  static const int32_t biased[] = {17, 40};
  static const float biases[] = {-3.0f, 2.5f};
  static const int32_t stops[] = {50, 77};
  uint32_t most = (uint32_t)(1 + below(talker, once_in(talker, 4) ? MOST_ANSWER : 40));
  mlxrt_generate_options options = greedy(most);
  if (once_in(talker, 2)) {
    options = sampled(most, 1 + draw(&talker->random) % 1000);
    options.temperature = 0.3f + 0.4f * (float)below(talker, 4);
    if (once_in(talker, 3)) options.top_p = 0.8f;
    if (once_in(talker, 3)) options.top_k = 20;
    if (once_in(talker, 3)) options.min_p = 0.02f;
  }
  if (once_in(talker, 5)) options.repetition_penalty = 1.2f;
  if (once_in(talker, 8)) options.presence_penalty = 0.5f;
  if (once_in(talker, 6)) {
    options.bias_tokens = biased;
    options.bias_values = biases;
    options.bias_count = COUNT(biased);
  }
  if (once_in(talker, 8)) {
    options.stop_tokens = stops;
    options.stop_token_count = COUNT(stops);
  }
  if (once_in(talker, 4)) options.grammar = talker->world->grammars[below(talker, 2)];
  if (once_in(talker, 3)) options.flags |= MLXRT_GEN_TOKENS_ONLY;
  if (once_in(talker, 8)) options.flags |= MLXRT_GEN_NO_PREFIX_CACHE;
  if (once_in(talker, 6)) options.flags |= MLXRT_GEN_LOGPROBS;
  if (once_in(talker, 12)) options.flags |= MLXRT_GEN_PREFILL_ONLY;
  if (once_in(talker, 12)) options.timeout_ms = (uint32_t)(1 + below(talker, 30));
  if (once_in(talker, 6)) options.progress_tokens = 16;
  if (once_in(talker, 3)) options.draft_tokens = once_in(talker, 3) ? -1 : 1 + below(talker, 12);
  options.priority = priorities[below(talker, COUNT(priorities))];
  return options;
}

/* Its sequence is not known before those in front of it have ended. */
static struct ask *new_ask(struct talker *talker, int32_t *tokens) {
  struct ask *ask = &talker->asks[talker->asked++];
  memset(ask, 0, sizeof *ask);
  ask->own = some_tokens(talker, tokens);
  ask->options = some_options(talker);
  ask->applied = talker->applied;
  return ask;
}

static void goes_on_from(struct ask *ask, const int32_t *held, size_t length, const int32_t *own) {
  memcpy(ask->sequence, held, length * sizeof *held);
  memcpy(ask->sequence + length, own, ask->own * sizeof *own);
  ask->length = length + ask->own;
}

static int32_t take(void *data, const mlxrt_event *event) {
  struct ask *ask = data;
  for (size_t i = 0; i < event->token_count && ask->count < MOST_ANSWER; i++) ask->tokens[ask->count++] = event->tokens[i];
  ask->events++;
  if (ask->events == ask->cancel_at) mlxrt_session_cancel(ask->session);
  return ask->events == ask->stop_at ? MLXRT_RETURN_STOP : MLXRT_RETURN_CONTINUE;
}

static int was_cut(const struct ask *ask) {
  return ask->stop == MLXRT_STOPPED_CANCELLED || ask->stop == MLXRT_STOPPED_TIMEOUT || ask->stop == MLXRT_STOPPED_CALLBACK;
}

/* What a session holds behind a request: one that was cut short before its first token leaves no trace. */
static size_t held_after(const struct ask *ask, int32_t *held, size_t length) {
  if (ask->count == 0 && was_cut(ask)) return length;
  memcpy(held, ask->sequence, ask->length * sizeof *held);
  memcpy(held + ask->length, ask->tokens, ask->count * sizeof *held);
  return ask->length + ask->count;
}

static void check_held(const struct talker *talker, const struct ask *ask, mlxrt_session *session, const int32_t *held, size_t length) {
  size_t count = 0;
  int32_t *tokens = ledger(session, &count);
  if (!CHECK_INT(count, length) || !CHECK(!memcmp(tokens, held, length * sizeof *held))) explain(talker, ask);
  mlxrt_free(tokens);
}

/* ---- What a talker does ---- */

static void generate(struct talker *talker) {
  int32_t own[MOST_INPUT];
  struct ask *ask = new_ask(talker, own);
  goes_on_from(ask, talker->held, talker->length, own);
  ask->session = talker->session;
  if (once_in(talker, 6)) ask->stop_at = 1 + below(talker, 20);
  if (once_in(talker, 6)) ask->cancel_at = 1 + below(talker, 20);
  mlxrt_input input = token_input(own, ask->own);
  mlxrt_result result = empty_result();
  if (!succeeds(mlxrt_generate(talker->session, &input, &ask->options, take, ask, &result), talker, ask, "generate")) return;
  ask->stop = result.stop;
  talker->length = held_after(ask, talker->held, talker->length);
  check_held(talker, ask, talker->session, talker->held, talker->length);
}

/* Takes all that a request gives, at its reader's pace. */
static void read_request(struct talker *talker, struct ask *ask, mlxrt_request *request) {
  int cancel_at = once_in(talker, 5) ? below(talker, 25) : -1, sleep_at = once_in(talker, 5) ? below(talker, 25) : -1;
  int32_t state = MLXRT_NEXT_EVENT;
  for (int seen = 0; state == MLXRT_NEXT_EVENT; seen++) {
    if (seen == cancel_at) mlxrt_request_cancel(request);
    if (seen == sleep_at) sleep_ms(below(talker, 20));
    mlxrt_event *event = NULL;
    if (!succeeds(mlxrt_request_next(request, MLXRT_FOREVER, &event, &state), talker, ask, "request_next")) break;
    if (event) take(ask, event);
    mlxrt_free(event);
  }
  mlxrt_result result = empty_result();
  succeeds(mlxrt_request_result(request, MLXRT_FOREVER, &result), talker, ask, "request_result");
  ask->stop = result.stop;
  mlxrt_request_free(request);
}

/* Several at once in one session, which has them one after the other. */
static void queue(struct talker *talker) {
  struct ask *asks[QUEUED];
  mlxrt_request *requests[QUEUED];
  int32_t own[QUEUED][MOST_INPUT];
  int count = 1 + below(talker, QUEUED);
  for (int i = 0; i < count; i++) {
    asks[i] = new_ask(talker, own[i]);
    requests[i] = NULL;
    mlxrt_input input = token_input(own[i], asks[i]->own);
    succeeds(mlxrt_submit(talker->session, &input, &asks[i]->options, &requests[i]), talker, asks[i], "submit");
    if (once_in(talker, 3)) sleep_ms(below(talker, 3));
  }
  for (int i = 0; i < count; i++) {
    if (!requests[i]) continue;
    goes_on_from(asks[i], talker->held, talker->length, own[i]);
    read_request(talker, asks[i], requests[i]);
    talker->length = held_after(asks[i], talker->held, talker->length);
  }
  check_held(talker, asks[count - 1], talker->session, talker->held, talker->length);
}

/* Both sides of a fork go on, one of them in the queue while the other generates. */
static void fork_session(struct talker *talker) {
  int32_t held[MOST_SEQUENCE];
  size_t length = talker->length;
  mlxrt_session *fork = NULL;
  if (!OK(mlxrt_session_fork(talker->session, NULL, &fork))) return;
  memcpy(held, talker->held, sizeof held);
  int32_t own[MOST_INPUT];
  struct ask *ask = new_ask(talker, own);
  mlxrt_request *request = NULL;
  goes_on_from(ask, held, length, own);
  mlxrt_input input = token_input(own, ask->own);
  succeeds(mlxrt_submit(fork, &input, &ask->options, &request), talker, ask, "submit to the fork");
  generate(talker);
  read_request(talker, ask, request);
  length = held_after(ask, held, length);
  check_held(talker, ask, fork, held, length);
  if (once_in(talker, 2)) {
    mlxrt_session_free(talker->session);
    talker->session = fork;
    memcpy(talker->held, held, sizeof held);
    talker->length = length;
  } else {
    mlxrt_session_free(fork);
  }
}

static void cut(struct talker *talker, size_t length) {
  OK(mlxrt_session_truncate(talker->session, length));
  talker->length = length;
}

static void change_adapters(struct talker *talker) {
  int there = 0;
  for (int i = 0; i < ADAPTERS; i++) there |= talker->world->adapters[i] ? 1 << i : 0;
  talker->applied = below(talker, 4) & there;
  apply(talker->world, talker->session, talker->applied);
}

static void start_anew(struct talker *talker) {
  mlxrt_session_free(talker->session);
  talker->session = session_of(talker->world->model);
  talker->length = 0;
  apply(talker->world, talker->session, talker->applied);
}

static void *talk(void *data) {
  struct talker *talker = data;
  for (int step = 0; step < STEPS; step++) {
    if (once_in(talker, 3)) sleep_ms(below(talker, 6));
    if (talker->length + MOST_OF_STEP > MOST_SEQUENCE) cut(talker, (size_t)below(talker, 100));
    int dice = below(talker, 20);
    if (dice < 8) generate(talker);
    else if (dice < 13) queue(talker);
    else if (dice < 15) fork_session(talker);
    else if (dice < 16) cut(talker, talker->length ? (size_t)below(talker, (int)talker->length) : 0);
    else if (dice < 18) change_adapters(talker);
    else if (dice < 19) start_anew(talker);
    else OK(mlxrt_memory_trim(below(talker, 3)));
  }
  return NULL;
}

/* ---- Loads ---- */

static struct world open_world(const struct kind *kind) {
  static const char schema[] = "{\"type\":\"object\",\"additionalProperties\":false,\"required\":[\"kind\",\"count\"],"
                               "\"properties\":{\"kind\":{\"enum\":[\"a\",\"the b\"]},\"count\":{\"type\":\"integer\"}}}";
  struct world world = {kind, NULL, {NULL, NULL}, {NULL, NULL}};
  mlxrt_load_options options;
  memset(&options, 0, sizeof options);
  options.struct_size = sizeof options;
  options.draft_path = kind->draft ? fixture(kind->draft) : NULL;
  OK(mlxrt_model_load(fixture(kind->model), &options, &world.model));
  for (int i = 0; i < ADAPTERS; i++) {
    char name[128];
    snprintf(name, sizeof name, "../adapters/%s", kind->adapters[i] ? kind->adapters[i] : "");
    if (kind->adapters[i]) OK(mlxrt_adapter_load(world.model, fixture(name), NULL, &world.adapters[i]));
  }
  OK(mlxrt_grammar_compile(world.model, MLXRT_GRAMMAR_JSON, NULL, 0, NULL, &world.grammars[0]));
  OK(mlxrt_grammar_compile(world.model, MLXRT_GRAMMAR_JSON_SCHEMA, schema, sizeof schema - 1, NULL, &world.grammars[1]));
  return world;
}

static void close_world(struct world *world) {
  for (int i = 0; i < ADAPTERS; i++) mlxrt_adapter_free(world->adapters[i]);
  for (int i = 0; i < 2; i++) mlxrt_grammar_free(world->grammars[i]);
  mlxrt_model_free(world->model);
}

/* Makes a request again, alone. */
static void check_alone(const struct talker *talker, const struct ask *ask) {
  static struct ask alone;
  memset(&alone, 0, sizeof alone);
  alone.options = ask->options;
  alone.options.flags |= MLXRT_GEN_NO_PREFIX_CACHE;
  alone.options.timeout_ms = 0;
  alone.options.draft_tokens = -1;
  /* Of one that was cut short only what came is compared. */
  if (was_cut(ask) && ask->count == 0) return;
  if (was_cut(ask)) alone.options.max_tokens = (uint32_t)ask->count;
  mlxrt_session *session = session_of(talker->world->model);
  apply(talker->world, session, ask->applied);
  mlxrt_input input = token_input(ask->sequence, ask->length);
  mlxrt_result result = empty_result();
  succeeds(mlxrt_generate(session, &input, &alone.options, take, &alone, &result), talker, ask, "generate alone");
  size_t same = 0;
  while (same < ask->count && same < alone.count && ask->tokens[same] == alone.tokens[same]) same++;
  if (!CHECK_INT(same, ask->count) || !CHECK_INT(ask->count, alone.count)) explain(talker, ask);
  if (!was_cut(ask) && !CHECK_INT(ask->stop, result.stop)) explain(talker, ask);
  mlxrt_session_free(session);
}

static void load_of(uint64_t seed) {
  static struct talker talkers[TALKERS];
  uint64_t random = seed * 0x9e3779b97f4a7c15u + 1;
  load_seed = seed;
  for (int i = 0; i < 8; i++) draw(&random);
  /* Most talk to one model; some loads have a second one. */
  struct world worlds[2] = {open_world(&kinds[seed % COUNT(kinds)]), {NULL, NULL, {NULL, NULL}, {NULL, NULL}}};
  int two = draw(&random) % 4 == 0;
  if (two) worlds[1] = open_world(&kinds[draw(&random) % COUNT(kinds)]);
  int count = 2 + (int)(draw(&random) % (TALKERS - 1));
  pthread_t threads[TALKERS];
  for (int i = 0; i < count; i++) {
    struct talker *talker = &talkers[i];
    memset(talker, 0, sizeof *talker);
    talker->world = &worlds[two && i % 3 == 2];
    talker->random = draw(&random);
    talker->session = session_of(talker->world->model);
    talker->asks = calloc(MOST_ASKS, sizeof *talker->asks);
    if (!talker->asks) abort();
  }
  for (int i = 0; i < count; i++) pthread_create(&threads[i], NULL, talk, &talkers[i]);
  for (int i = 0; i < count; i++) pthread_join(threads[i], NULL);
  mlxrt_metrics_data after = metrics_of(NULL);
  CHECK_INT(after.requests_running, 0);
  CHECK_INT(after.requests_waiting, 0);
  CHECK(after.pass_rows >= after.passes);
  for (int i = 0; i < count; i++) mlxrt_session_free(talkers[i].session);
  for (int i = 0; i < count; i++) {
    for (size_t k = 0; k < talkers[i].asked; k++) {
      const struct ask *ask = &talkers[i].asks[k];
      check_alone(&talkers[i], ask);
      all_cut += was_cut(ask) != 0;
      all_tokens += ask->count;
    }
    all_asked += talkers[i].asked;
    free(talkers[i].asks);
  }
  close_world(&worlds[0]);
  if (two) close_world(&worlds[1]);
}

int main(int argc, char **argv) {
  double seconds = argc > 1 ? atof(argv[1]) : 5;
  uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
  printf("test what a request gets is what it gets alone ... ");
  fflush(stdout);
  int64_t end = now_ms() + (int64_t)(seconds * 1000);
  size_t loads = 0;
  /* One of each kind of model, where nobody asked for a certain load, and then as many as there is time for. */
  do load_of(seed + loads++);
  while (now_ms() < end || (argc < 2 && loads < COUNT(kinds)));
  mlxrt_metrics_data data = metrics_of(NULL);
  /* Sessions shared passes, or nothing of this was tried. (A load that was asked for may have none that meet.) */
  CHECK(argc >= 2 || data.pass_rows > data.passes + data.passes / 10);
  CHECK_INT(memory().kv_bytes, 0);
  CHECK_INT(memory().weight_bytes, 0);
  if (getenv("MANY_TELLS")) {
    printf("%zu loads, %zu requests, %zu of them cut short, %zu tokens, %" PRIu64 " rows in %" PRIu64 " passes ... ", loads, all_asked,
           all_cut, all_tokens, data.pass_rows, data.passes);
  }
  printf(check_failures ? "\nFAILED\n" : "ok\n");
  printf("%d passed, %d failed\n", !check_failures, !!check_failures);
  return check_failures ? 1 : 0;
}
