/* Memory: limits that refuse before anything is allocated, and what a trim gives back. */
#include "use.h"

static mlxrt_session_state state_of(mlxrt_session *session) {
  mlxrt_session_state state;
  memset(&state, 0, sizeof state);
  state.struct_size = sizeof state;
  OK(mlxrt_session_info(session, &state));
  return state;
}

static void limits_are_set_and_checked(void) {
  uint64_t before = memory().limit_bytes;
  CHECK(before > 0);
  set_limit(123456789);
  CHECK_INT(memory().limit_bytes, 123456789);
  OK(mlxrt_memory_set(NULL)); /* all 0: nothing changes */
  mlxrt_memory_limits wanted = limits(0);
  wanted.cache_limit = 1000;
  OK(mlxrt_memory_set(&wanted));
  CHECK_INT(memory().limit_bytes, 123456789);
  wanted = limits(before);
  wanted.cache_limit = 256u << 20;
  OK(mlxrt_memory_set(&wanted));
  wanted.struct_size = 0;
  FAILS(mlxrt_memory_set(&wanted), MLXRT_E_INVALID_ARGUMENT, "struct_size");
  wanted = limits(0);
  wanted.flags = 1;
  FAILS(mlxrt_memory_set(&wanted), MLXRT_E_UNSUPPORTED, "flags");
  FAILS(mlxrt_memory_trim(3), MLXRT_E_UNSUPPORTED, "level");
  FAILS(mlxrt_memory_trim(-1), MLXRT_E_UNSUPPORTED, "level");
}

static void a_limit_holds_before_there_is_an_engine(void) {
  uint64_t before = memory().limit_bytes;
  set_limit(1000);
  mlxrt_model *model = NULL;
  uint64_t peak = memory().peak_bytes;
  FAILS(mlxrt_model_load(fixture("qwen3-f32"), NULL, &model), MLXRT_E_OUT_OF_MEMORY, "limit is 1000");
  CHECK(memory().peak_bytes < peak + 10000);
  set_limit(1); /* none at all */
  FAILS(mlxrt_model_load(fixture("qwen3-f32"), NULL, &model), MLXRT_E_OUT_OF_MEMORY, "limit is 0");
  set_limit(UINT64_MAX);
  model = load("qwen3-f32");
  check_alive(model);
  mlxrt_model_free(model);
  set_limit(before);
}

static void a_prompt_that_does_not_fit_is_refused_before(void) {
  mlxrt_model *model = load("qwen3-f32");
  uint64_t before = memory().limit_bytes;
  mlxrt_session *session = session_of(model);
  struct answer *wanted = ask(session, text_input("Hello"), greedy(8));
  size_t held = 0;
  mlxrt_free(ledger(session, &held));
  set_limit(memory().active_bytes + 1000);
  struct answer *answer = new_answer();
  int32_t prompt[600];
  for (size_t i = 0; i < COUNT(prompt); i++) prompt[i] = (int32_t)(i % 100);
  ask_into(answer, session, token_input(prompt, COUNT(prompt)), greedy(4));
  CHECK_INT(answer->code, MLXRT_E_OUT_OF_MEMORY);
  CHECK_HAS(answer->message, "limit");
  set_limit(before);
  /* The session is as it was, and usable. */
  size_t now = 0;
  mlxrt_free(ledger(session, &now));
  CHECK_INT(now, held);
  mlxrt_session *fresh = session_of(model);
  struct answer *again = ask(fresh, text_input("Hello"), greedy_anew(8));
  CHECK(same_tokens(again, wanted));
  free(again);
  free(ask(session, token_input(prompt, COUNT(prompt)), greedy(4)));
  free(answer);
  free(wanted);
  mlxrt_session_free(fresh);
  mlxrt_session_free(session);
  mlxrt_model_free(model);
}

/* Bytes that qwen3-f32 keeps of a token. */
static uint64_t kv_of_a_token(void) {
  mlxrt_session_options one = session_options();
  one.context = 1;
  char *json = NULL;
  OK(mlxrt_model_inspect(fixture("qwen3-f32"), NULL, &one, &json, NULL));
  const char *at = json ? strstr(json, "\"kv_bytes\":") : NULL;
  uint64_t bytes = at ? strtoull(at + strlen("\"kv_bytes\":"), NULL, 10) : 0;
  CHECK_INT(bytes, 2 * 2 * 16 * sizeof(float)); /* layers, keys and values, one head's numbers */
  mlxrt_free(json);
  return bytes;
}

static void an_answer_that_outgrows_the_limit_ends_there(void) {
  mlxrt_model *model = load("qwen3-f32");
  mlxrt_session_options options = session_options();
  uint64_t step = 256 * kv_of_a_token();
  options.kv_limit = step;
  mlxrt_session *session = NULL;
  OK(mlxrt_session_create(model, &options, &session));
  struct answer *answer = new_answer();
  ask_into(answer, session, text_input("Hello"), greedy(600));
  CHECK_INT(answer->code, MLXRT_E_OUT_OF_MEMORY);
  CHECK_HAS(answer->message, "kv_limit");
  CHECK(answer->token_count > 200 && answer->token_count < 257);
  CHECK(state_of(session).kv_bytes <= step);
  /* What was delivered is the session's, and a fresh one gives the same. */
  check_ledger(session, answer);
  mlxrt_session *unlimited = session_of(model);
  struct answer *longer = ask(unlimited, text_input("Hello"), greedy(600));
  CHECK(!memcmp(longer->tokens, answer->tokens, answer->token_count * sizeof(int32_t)));
  options.kv_limit = 2 * kv_of_a_token(); /* fewer than the prompt has */
  mlxrt_session *tiny = NULL;
  OK(mlxrt_session_create(model, &options, &tiny));
  free(answer);
  answer = new_answer();
  ask_into(answer, tiny, text_input("Hello"), greedy(1));
  CHECK_INT(answer->code, MLXRT_E_OUT_OF_MEMORY);
  free(longer);
  free(answer);
  mlxrt_session_free(tiny);
  mlxrt_session_free(unlimited);
  mlxrt_session_free(session);
  mlxrt_model_free(model);
}

static void idle_sessions_make_room(void) {
  mlxrt_model *model = load("qwen3-f32");
  uint64_t before = memory().limit_bytes, room = 0;
  mlxrt_session *idle = NULL, *busy = NULL;
  int32_t code = MLXRT_E_OUT_OF_MEMORY;
  /* With the least room that is enough for the busy session's growth. */
  while (code == MLXRT_E_OUT_OF_MEMORY && room < (64u << 20)) {
    mlxrt_session_free(idle);
    mlxrt_session_free(busy);
    idle = session_of(model);
    busy = session_of(model);
    free(ask(idle, text_input("Hello"), greedy(8)));
    free(ask(busy, text_input("A fox"), greedy(8)));
    OK(mlxrt_memory_trim(1));
    uint64_t kv = state_of(idle).kv_bytes;
    room += kv / 4;
    set_limit(memory().active_bytes + room);
    struct answer *answer = new_answer();
    ask_into(answer, busy, text_input("A fox"), greedy(300));
    code = answer->code;
    free(answer);
    set_limit(before);
  }
  CHECK_INT(code, 0);
  CHECK_INT(state_of(idle).kv_bytes, 0);
  CHECK_INT(state_of(idle).kv_tokens, 0);
  CHECK(state_of(idle).tokens > 8);
  struct answer *second = ask(idle, text_input("more"), greedy(8));
  CHECK_INT(second->result.cached_tokens, 0);
  mlxrt_session *fresh = session_of(model);
  free(ask(fresh, text_input("Hello"), greedy_anew(8)));
  struct answer *wanted = ask(fresh, text_input("more"), greedy(8));
  CHECK(same_tokens(second, wanted));
  free(second);
  free(wanted);
  mlxrt_session_free(fresh);
  mlxrt_session_free(idle);
  mlxrt_session_free(busy);
  mlxrt_model_free(model);
}

static mlxrt_session *limited(mlxrt_model *model, uint32_t window, uint64_t kv_limit) {
  mlxrt_session_options options = session_options();
  options.window = window;
  options.keep = window ? -1 : 0;
  options.kv_limit = kv_limit;
  mlxrt_session *session = NULL;
  OK(mlxrt_session_create(model, &options, &session));
  return session;
}

static void a_kv_limit_is_never_passed(void) {
  mlxrt_model *model = load("qwen3-f32");
  uint64_t token = kv_of_a_token();
  int32_t prompt[300];
  for (size_t i = 0; i < COUNT(prompt); i++) prompt[i] = (int32_t)(i * 11 % 100);
  const uint32_t windows[] = {0, 8, 64, 300, 700};
  const size_t prompts[] = {1, 37, 255, 256, 300};
  for (size_t w = 0; w < COUNT(windows); w++) {
    for (size_t p = 0; p < COUNT(prompts); p++) {
      for (uint64_t limit = 32; limit <= 768; limit += 32) {
        mlxrt_session *session = limited(model, windows[w], limit * token);
        struct answer *answer = new_answer();
        ask_into(answer, session, token_input(prompt, prompts[p]), greedy(12));
        uint64_t held = state_of(session).kv_bytes;
        if (!CHECK(held <= limit * token)) {
          printf(": window %u, prompt %zu, limit %d tokens, holds %d", (unsigned)windows[w], prompts[p], (int)limit,
                 (int)(held / token));
        }
        free(answer);
        mlxrt_session_free(session);
      }
    }
  }
  mlxrt_model_free(model);
}

/* Nothing is computed behind the last token, so no room is wanted for it; and a token that was computed is delivered. */
static void the_last_token_needs_no_room(void) {
  mlxrt_model *model = load("qwen3-f32");
  uint64_t token = kv_of_a_token();
  int32_t prompt[256];
  for (size_t i = 0; i < COUNT(prompt); i++) prompt[i] = (int32_t)(i * 11 % 100);
  mlxrt_session *session = limited(model, 0, 256 * token);
  struct answer *answer = ask(session, token_input(prompt, 256), greedy(1));
  CHECK_INT(answer->token_count, 1);
  check_ledger(session, answer);
  free(answer);
  mlxrt_session_free(session);
  session = limited(model, 0, 256 * token);
  answer = new_answer();
  ask_into(answer, session, token_input(prompt, 250), greedy(20));
  CHECK_INT(answer->code, MLXRT_E_OUT_OF_MEMORY);
  CHECK_INT(answer->token_count, 7);
  check_ledger(session, answer);
  free(answer);
  mlxrt_session_free(session);
  mlxrt_model_free(model);
}

/* For limits from too little to plenty: refused or not, the peak stays below. */
static void the_peak_stays_below_the_limit(void) {
  const char *names[] = {"qwen3-f32", "qwen3-4bit", "gemma3-text-bf16", "llama-f32"};
  int32_t prompt[700];
  for (size_t i = 0; i < COUNT(prompt); i++) prompt[i] = (int32_t)(i * 11 % 100);
  uint64_t before = memory().limit_bytes;
  for (size_t m = 0; m < COUNT(names); m++) {
    mlxrt_model *model = load(names[m]);
    uint64_t step = 8000;
    int refused = 0, done = 0;
    for (uint64_t room = 2000; done < 3 && room < (64u << 20); room += step, step += step / 4) {
      OK(mlxrt_memory_trim(2));
      mlxrt_session *session = limited(model, m == 3 ? 300 : 0, 0);
      uint64_t limit = memory().active_bytes + room;
      set_limit(limit);
      struct answer *answer = new_answer();
      ask_into(answer, session, token_input(prompt, COUNT(prompt)), greedy(80));
      set_limit(before);
      if (answer->code) {
        CHECK_INT(answer->code, MLXRT_E_OUT_OF_MEMORY);
        refused++;
      } else {
        done++;
      }
      if (!CHECK(answer->result.peak_bytes <= limit)) {
        printf(": %s with room for %d, peak %d over", names[m], (int)room, (int)(answer->result.peak_bytes - limit));
      }
      free(answer);
      mlxrt_session_free(session);
    }
    CHECK(refused > 0);
    CHECK_INT(done, 3);
    mlxrt_model_free(model);
  }
}

static void idle_sessions_make_room_for_a_model(void) {
  mlxrt_model *model = load("qwen3-f32"), *another = NULL;
  uint64_t before = memory().limit_bytes, weights = memory().weight_bytes;
  mlxrt_session *idle = session_of(model);
  free(ask(idle, text_input("Hello"), greedy(1000)));
  OK(mlxrt_memory_trim(0));
  CHECK(state_of(idle).kv_bytes > weights);
  set_limit(memory().active_bytes + 1000);
  OK(mlxrt_model_load(fixture("qwen3-f32"), NULL, &another));
  CHECK_INT(state_of(idle).kv_bytes, 0);
  set_limit(before);
  mlxrt_model_free(another);
  mlxrt_session_free(idle);
  mlxrt_model_free(model);
}

static int32_t lower_the_limit(void *data, uint64_t done, uint64_t total) {
  (void)done;
  (void)total;
  set_limit(memory().active_bytes);
  ++*(int *)data;
  return MLXRT_RETURN_CONTINUE;
}

static void a_load_looks_again_as_it_goes_on(void) {
  uint64_t before = memory().limit_bytes, active = memory().active_bytes;
  mlxrt_model *model = NULL;
  mlxrt_load_options options;
  int calls = 0;
  memset(&options, 0, sizeof options);
  options.struct_size = sizeof options;
  options.progress = lower_the_limit;
  options.progress_data = &calls;
  FAILS(mlxrt_model_load(fixture("qwen3-f32"), &options, &model), MLXRT_E_OUT_OF_MEMORY, "limit");
  CHECK_INT(calls, 1);
  CHECK_INT(memory().active_bytes, active);
  set_limit(before);
}

/* Several requests at once share the room: each looks at what the others queued, and where there is none left for it, it waits. */
static void the_peak_of_many_stays_below_the_limit(void) {
  mlxrt_model *model = load("qwen3-f32");
  uint64_t before = memory().limit_bytes;
  int refused = 0;
  enum { MANY = 6 };
  for (int round = 0; round < 5; round++) {
    mlxrt_session *sessions[MANY];
    mlxrt_request *requests[MANY];
    mlxrt_session *alone = session_of(model);
    free(ask(alone, text_input("x"), greedy(1))); /* begins a new peak */
    mlxrt_session_free(alone);
    OK(mlxrt_memory_trim(2));
    uint64_t limit = memory().active_bytes + 150000 + (uint64_t)round * 200000;
    set_limit(limit);
    for (int i = 0; i < MANY; i++) {
      mlxrt_input input = text_input("Hello");
      mlxrt_generate_options options = greedy(250 + 5 * (uint32_t)i);
      sessions[i] = session_of(model);
      requests[i] = NULL;
      OK(mlxrt_submit(sessions[i], &input, &options, &requests[i]));
    }
    for (int i = 0; i < MANY; i++) {
      mlxrt_result result = empty_result();
      mlxrt_error *error = mlxrt_request_result(requests[i], MLXRT_FOREVER, &result);
      if (error) CHECK_INT(mlxrt_error_code(error), MLXRT_E_OUT_OF_MEMORY);
      refused += error != NULL;
      mlxrt_error_free(error);
      if (!CHECK(result.peak_bytes <= limit)) printf(": %d over", (int)(result.peak_bytes - limit));
      mlxrt_request_free(requests[i]);
      mlxrt_session_free(sessions[i]);
    }
    set_limit(before);
  }
  /* Each fits alone. */
  CHECK_INT(refused, 0);
  mlxrt_model_free(model);
}

/* The last one to set them wins, whether the engine runs or not. */
static void an_init_beside_a_running_engine_sets_its_limits(void) {
  mlxrt_model *model = load("qwen3-f32");
  uint64_t before = memory().limit_bytes;
  mlxrt_init_options options;
  memset(&options, 0, sizeof options);
  options.struct_size = sizeof options;
  options.memory_limit = 77777777;
  OK(mlxrt_init(&options));
  CHECK_INT(memory().limit_bytes, 77777777);
  OK(mlxrt_init(NULL)); /* asks for nothing, changes nothing */
  CHECK_INT(memory().limit_bytes, 77777777);
  set_limit(88888888);
  CHECK_INT(memory().limit_bytes, 88888888);
  OK(mlxrt_shutdown(0, 0));
  FAILS(mlxrt_shutdown(0, 0), MLXRT_E_BUSY, "still open");
  set_limit(before);
  mlxrt_model_free(model);
}

static void a_trim_gives_back_and_loses_nothing(void) {
  mlxrt_model *model = load("qwen3-f32");
  mlxrt_session *session = session_of(model), *fresh = session_of(model);
  free(ask(session, text_input("Hello"), greedy(20)));
  free(ask(fresh, text_input("Hello"), greedy_anew(20)));
  OK(mlxrt_memory_trim(0));
  CHECK_INT(memory().cache_bytes, 0);
  OK(mlxrt_memory_trim(1));
  CHECK(state_of(session).kv_bytes > 0);
  uint64_t active = memory().active_bytes;
  OK(mlxrt_memory_trim(2));
  CHECK_INT(state_of(session).kv_bytes, 0);
  CHECK_INT(memory().kv_bytes, 0);
  CHECK(memory().active_bytes < active);
  size_t held = 0;
  mlxrt_free(ledger(session, &held));
  CHECK(held > 20);
  struct answer *again = ask(session, text_input("more"), greedy(10));
  CHECK_INT(again->result.cached_tokens, 0);
  OK(mlxrt_memory_trim(1));
  struct answer *wanted = ask(fresh, text_input("more"), greedy(10));
  CHECK(same_tokens(again, wanted));
  free(again);
  free(wanted);
  mlxrt_session_free(session);
  mlxrt_session_free(fresh);
  mlxrt_model_free(model);
  OK(mlxrt_memory_trim(2)); /* without an engine too */
}

static const struct test tests[] = {
    {"limits are set and checked", limits_are_set_and_checked},
    {"a limit holds before there is an engine", a_limit_holds_before_there_is_an_engine},
    {"a prompt that does not fit is refused before", a_prompt_that_does_not_fit_is_refused_before},
    {"an answer that outgrows the limit ends there", an_answer_that_outgrows_the_limit_ends_there},
    {"idle sessions make room", idle_sessions_make_room},
    {"a kv_limit is never passed", a_kv_limit_is_never_passed},
    {"the last token needs no room", the_last_token_needs_no_room},
    {"the peak stays below the limit", the_peak_stays_below_the_limit},
    {"idle sessions make room for a model", idle_sessions_make_room_for_a_model},
    {"a load looks again as it goes on", a_load_looks_again_as_it_goes_on},
    {"the peak of many stays below the limit", the_peak_of_many_stays_below_the_limit},
    {"an init beside a running engine sets its limits", an_init_beside_a_running_engine_sets_its_limits},
    {"a trim gives back and loses nothing", a_trim_gives_back_and_loses_nothing},
};

int main(int argc, char **argv) { return run_tests(tests, COUNT(tests), argc, argv); }
