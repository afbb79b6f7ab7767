/* Memory: limits that refuse before anything is allocated, and what a trim gives back. */
#include "use.h"

static mlxrt_memory memory(void) {
  mlxrt_memory memory;
  memset(&memory, 0, sizeof memory);
  memory.struct_size = sizeof memory;
  OK(mlxrt_memory_get(&memory));
  return memory;
}

static mlxrt_memory_limits limits(uint64_t memory_limit) {
  mlxrt_memory_limits limits;
  memset(&limits, 0, sizeof limits);
  limits.struct_size = sizeof limits;
  limits.memory_limit = memory_limit;
  return limits;
}

static void set_limit(uint64_t bytes) {
  mlxrt_memory_limits wanted = limits(bytes);
  OK(mlxrt_memory_set(&wanted));
}

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
  struct answer *again = ask(fresh, text_input("Hello"), greedy(8));
  CHECK(same_tokens(again, wanted));
  free(again);
  free(ask(session, token_input(prompt, COUNT(prompt)), greedy(4)));
  free(answer);
  free(wanted);
  mlxrt_session_free(fresh);
  mlxrt_session_free(session);
  mlxrt_model_free(model);
}

static void an_answer_that_outgrows_the_limit_ends_there(void) {
  mlxrt_model *model = load("qwen3-f32");
  mlxrt_session_options options = session_options();
  mlxrt_session *probe = session_of(model);
  free(ask(probe, text_input("Hello"), greedy(4)));
  uint64_t step = state_of(probe).kv_bytes; /* the first 256 tokens */
  CHECK(step > 0);
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
  options.kv_limit = step - 1;
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
  mlxrt_session_free(probe);
  mlxrt_model_free(model);
}

static void idle_sessions_make_room(void) {
  mlxrt_model *model = load("qwen3-f32");
  uint64_t before = memory().limit_bytes;
  mlxrt_session *idle = session_of(model), *busy = session_of(model);
  struct answer *first = ask(idle, text_input("Hello"), greedy(8));
  uint64_t kv = state_of(idle).kv_bytes;
  OK(mlxrt_memory_trim(0));
  /* Room for one session's next step beside the other, and not for its growth. */
  free(ask(busy, text_input("Hello"), greedy(8)));
  set_limit(memory().active_bytes + kv + 16000);
  free(ask(busy, text_input("Hello"), greedy(300)));
  CHECK_INT(state_of(idle).kv_bytes, 0);
  CHECK_INT(state_of(idle).kv_tokens, 0);
  CHECK(state_of(idle).tokens > 8);
  set_limit(before);
  struct answer *second = ask(idle, text_input("more"), greedy(8));
  CHECK_INT(second->result.cached_tokens, 0);
  mlxrt_session *fresh = session_of(model);
  free(ask(fresh, text_input("Hello"), greedy(8)));
  struct answer *wanted = ask(fresh, text_input("more"), greedy(8));
  CHECK(same_tokens(second, wanted));
  free(first);
  free(second);
  free(wanted);
  mlxrt_session_free(fresh);
  mlxrt_session_free(idle);
  mlxrt_session_free(busy);
  mlxrt_model_free(model);
}

static void a_trim_gives_back_and_loses_nothing(void) {
  mlxrt_model *model = load("qwen3-f32");
  mlxrt_session *session = session_of(model), *fresh = session_of(model);
  free(ask(session, text_input("Hello"), greedy(20)));
  free(ask(fresh, text_input("Hello"), greedy(20)));
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
    {"a trim gives back and loses nothing", a_trim_gives_back_and_loses_nothing},
};

int main(int argc, char **argv) { return run_tests(tests, COUNT(tests), argc, argv); }
