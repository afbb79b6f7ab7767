/* Generation: how a request ends, and what its events carry. */
#include "use.h"

static mlxrt_model *model;

/* The text that a fresh session generates greedily, for the other tests to cut. */
static struct answer *plain(uint32_t max_tokens) {
  mlxrt_session *session = session_of(model);
  struct answer *answer = ask(session, text_input("The answer is 1"), greedy(max_tokens));
  mlxrt_session_free(session);
  return answer;
}

static struct answer *run(mlxrt_generate_options options) {
  mlxrt_session *session = session_of(model);
  struct answer *answer = ask(session, text_input("The answer is 1"), options);
  if (!answer->code) check_ledger(session, answer);
  mlxrt_session_free(session);
  return answer;
}

static void max_tokens_end_it(void) {
  for (uint32_t n = 1; n <= 33; n += 8) {
    struct answer *answer = run(greedy(n));
    CHECK_INT(answer->result.stop, MLXRT_STOPPED_LENGTH);
    CHECK_INT(answer->token_count, n);
    free(answer);
  }
}

static void the_model_ends_it(void) {
  mlxrt_session *session = session_of(model);
  mlxrt_generate_options options = greedy(40);
  options.flags = MLXRT_GEN_GREEDY;
  const char *question = "[{\"role\":\"user\",\"content\":\"The answer is 17\"}]";
  struct answer *answer = ask(session, message_input(question), options);
  CHECK_INT(answer->result.stop, MLXRT_STOPPED_EOS);
  CHECK_INT(answer->token_count, 22);
  CHECK_INT(answer->tokens[21], 130);
  CHECK(!strstr(answer->text, "<|im_end|>"));
  check_ledger(session, answer);
  mlxrt_session_free(session);
  free(answer);
  /* The default, without max_tokens and options, is the model's own: greedy until its end. */
  session = session_of(model);
  mlxrt_input input = message_input(question);
  struct answer *again = new_answer();
  again->result = empty_result();
  OK(mlxrt_generate(session, &input, NULL, collect, again, &again->result));
  CHECK_INT(again->result.stop, MLXRT_STOPPED_EOS);
  CHECK_INT(again->token_count, 22);
  free(again);
  mlxrt_session_free(session);
}

static void neither_callback_nor_result_is_needed(void) {
  mlxrt_session *session = session_of(model);
  mlxrt_input input = text_input("The answer is 1");
  mlxrt_generate_options options = greedy(7);
  OK(mlxrt_generate(session, &input, &options, NULL, NULL, NULL));
  size_t count = 0;
  mlxrt_free(ledger(session, &count));
  CHECK_INT(count, 11 + 7);
  mlxrt_session_free(session);
}

static void the_context_ends_it(void) {
  mlxrt_session_options wanted = session_options();
  wanted.context = 24;
  mlxrt_session *session = NULL;
  OK(mlxrt_session_create(model, &wanted, &session));
  struct answer *answer = ask(session, text_input("The answer is 1"), greedy(0));
  CHECK_INT(answer->result.stop, MLXRT_STOPPED_CONTEXT);
  CHECK_INT(answer->result.prompt_tokens + answer->token_count, 24);
  check_ledger(session, answer);
  struct answer *more = new_answer();
  ask_into(more, session, text_input("x"), greedy(1));
  CHECK_INT(more->code, MLXRT_E_CONTEXT_FULL);
  free(answer), free(more);
  /* A shorter history fits again. */
  answer = ask(session, message_input("[{\"role\":\"user\",\"content\":\"\"}]"), greedy(1));
  CHECK_INT(answer->token_count, 1);
  free(answer);
  mlxrt_session_free(session);
}

/* Every substring of the answer as a stop string: nothing of it, and all before it, arrives. */
static void stop_strings_never_leak(void) {
  struct answer *whole = plain(24);
  for (size_t len = 1; len <= 5; len += 2) {
    for (size_t at = 0; at + len <= whole->text_len; at++) {
      char stop[8] = {0};
      memcpy(stop, whole->text + at, len);
      if (((unsigned char)stop[0] & 0x80) || ((unsigned char)stop[len - 1] & 0x80)) continue;
      const char *stops[] = {"never there", stop};
      mlxrt_generate_options options = greedy(24);
      options.stop = stops;
      options.stop_count = 2;
      struct answer *cut = run(options);
      const char *first = strstr(whole->text, stop);
      CHECK_INT(cut->result.stop, MLXRT_STOPPED_STRING);
      CHECK_INT(cut->result.stop_index, 1);
      CHECK_INT(cut->text_len, first - whole->text);
      CHECK(!memcmp(cut->text, whole->text, cut->text_len));
      CHECK(cut->token_count <= whole->token_count && !memcmp(cut->tokens, whole->tokens, cut->token_count * 4));
      free(cut);
    }
  }
  free(whole);
}

static void a_stop_string_that_never_comes_holds_nothing_back(void) {
  struct answer *whole = plain(24);
  char almost[64];
  snprintf(almost, sizeof almost, "%.3s\x01", whole->text + whole->text_len - 3);
  size_t len = 4;
  const char *stops[] = {almost};
  mlxrt_generate_options options = greedy(24);
  options.stop = stops;
  options.stop_lens = &len;
  options.stop_count = 1;
  struct answer *same = run(options);
  CHECK_INT(same->result.stop, MLXRT_STOPPED_LENGTH);
  CHECK_TEXT(same->text, whole->text);
  CHECK(same_tokens(same, whole));
  free(same), free(whole);
}

static void stop_tokens(void) {
  struct answer *whole = plain(24);
  int32_t stops[] = {129, whole->tokens[5]};
  size_t first = 0;
  while (whole->tokens[first] != stops[1]) first++;
  mlxrt_generate_options options = greedy(24);
  options.stop_tokens = stops;
  options.stop_token_count = 2;
  struct answer *cut = run(options);
  CHECK_INT(cut->result.stop, MLXRT_STOPPED_TOKEN);
  CHECK_INT(cut->result.stop_index, 1);
  CHECK_INT(cut->token_count, first + 1);
  CHECK_INT(cut->tokens[first], stops[1]);
  CHECK(cut->text_len < whole->text_len && !memcmp(cut->text, whole->text, cut->text_len));
  free(cut), free(whole);
}

static void the_callback_ends_it(void) {
  struct answer *whole = plain(30);
  mlxrt_session *session = session_of(model);
  struct answer *cut = new_answer();
  cut->stop_after = 4;
  ask_into(cut, session, text_input("The answer is 1"), greedy(30));
  CHECK_INT(cut->code, 0);
  CHECK_INT(cut->result.stop, MLXRT_STOPPED_CALLBACK);
  CHECK_INT(cut->events, 4);
  CHECK(!memcmp(cut->tokens, whole->tokens, cut->token_count * 4));
  check_ledger(session, cut);
  /* What ran ahead is gone: continuing gives the rest. */
  int32_t next = whole->tokens[cut->token_count];
  struct answer *rest = ask(session, token_input(&next, 1), greedy((uint32_t)(29 - cut->token_count)));
  CHECK_INT(rest->token_count, 29 - cut->token_count);
  CHECK(!memcmp(rest->tokens, whole->tokens + cut->token_count + 1, rest->token_count * 4));
  free(cut), free(whole), free(rest);
  mlxrt_session_free(session);
}

static void a_callback_ends_a_prefill(void) {
  mlxrt_session *session = session_of(model);
  struct answer *cut = new_answer();
  cut->stop_after = 2;
  mlxrt_generate_options options = greedy_anew(5);
  options.progress_tokens = 3;
  ask_into(cut, session, text_input("The answer is 1"), options);
  CHECK_INT(cut->result.stop, MLXRT_STOPPED_CALLBACK);
  CHECK_INT(cut->progress_events, 2);
  CHECK_INT(cut->token_count, 0);
  size_t count = 9;
  mlxrt_free(ledger(session, &count));
  CHECK_INT(count, 0);
  free(cut);
  struct answer *whole = plain(5), *again = ask(session, text_input("The answer is 1"), greedy(5));
  CHECK(same_tokens(whole, again));
  free(whole), free(again);
  mlxrt_session_free(session);
}

static void be_slow(struct answer *answer, const mlxrt_event *event) {
  (void)answer, (void)event;
  sleep_ms(10);
}

static void a_timeout_ends_it(void) {
  mlxrt_session *session = session_of(model);
  struct answer *answer = new_answer();
  answer->at_event = be_slow;
  mlxrt_generate_options options = greedy(2000);
  options.timeout_ms = 60;
  int64_t began = now_ms();
  ask_into(answer, session, text_input("The answer is 1"), options);
  CHECK(now_ms() - began < 2000);
  CHECK_INT(answer->code, 0);
  CHECK_INT(answer->result.stop, MLXRT_STOPPED_TIMEOUT);
  CHECK(answer->token_count < 2000);
  check_ledger(session, answer);
  free(answer);
  free(ask(session, text_input(" and"), greedy(3)));
  mlxrt_session_free(session);
}

static void tokens_only(void) {
  struct answer *whole = plain(24);
  mlxrt_generate_options options = greedy(24);
  options.flags |= MLXRT_GEN_TOKENS_ONLY;
  mlxrt_session *session = session_of(model);
  struct answer *answer = ask(session, text_input("The answer is 1"), options);
  CHECK_INT(answer->text_len, 0);
  CHECK(same_tokens(whole, answer));
  char *json = NULL;
  OK(mlxrt_session_message(session, &json, NULL));
  CHECK_HAS(json, "assistant");
  mlxrt_free(json);
  const char *stop = "x";
  options.stop = &stop;
  options.stop_count = 1;
  struct answer *refused = new_answer();
  ask_into(refused, session, text_input("x"), options);
  CHECK_INT(refused->code, MLXRT_E_INVALID_ARGUMENT);
  free(whole), free(answer), free(refused);
  mlxrt_session_free(session);
}

static void raw_text_is_what_detokenize_gives(void) {
  mlxrt_generate_options options = sampled(200, 5);
  options.flags |= MLXRT_GEN_RAW_TEXT;
  struct answer *answer = run(options);
  char *text = NULL;
  OK(mlxrt_detokenize(model, answer->tokens, answer->token_count, 0, &text, NULL));
  CHECK_TEXT(answer->text, text);
  mlxrt_free(text);
  free(answer);
}

static void events_are_whole_characters(struct answer *answer, const mlxrt_event *event) {
  (void)answer;
  CHECK(event->text_len == 0 || ((unsigned char)event->text[0] & 0xc0) != 0x80);
  CHECK(event->kind == MLXRT_EVENT_TEXT);
  CHECK(event->logprobs == NULL && event->top_tokens == NULL && event->top_count == 0);
}

static void events_join_to_all_tokens(void) {
  for (uint64_t seed = 1; seed <= 5; seed++) {
    mlxrt_session *session = session_of(model);
    struct answer *answer = new_answer();
    answer->at_event = events_are_whole_characters;
    ask_into(answer, session, text_input("Hello"), sampled(150, seed));
    CHECK_INT(answer->token_count, 150);
    check_ledger(session, answer);
    free(answer);
    mlxrt_session_free(session);
  }
}

static void the_same_question_again_is_cached(void) {
  mlxrt_session *session = session_of(model);
  const char *question = "[{\"role\":\"user\",\"content\":\"Hi\"}]";
  struct answer *first = ask(session, message_input(question), greedy(5));
  struct answer *second = ask(session, message_input(question), greedy(5));
  CHECK_INT(second->result.cached_tokens, first->result.prompt_tokens - 1);
  CHECK(same_tokens(first, second));
  mlxrt_generate_options options = greedy(5);
  options.flags |= MLXRT_GEN_NO_PREFIX_CACHE;
  struct answer *third = ask(session, message_input(question), options);
  CHECK(same_tokens(first, third));
  free(first), free(second), free(third);
  mlxrt_session_free(session);
}

static void all_inputs_at_once_or_none_are_refused(void) {
  mlxrt_session *session = session_of(model);
  int32_t token = 1;
  mlxrt_input inputs[4] = {no_input(), text_input("x"), text_input("x"), token_input(&token, 1)};
  inputs[1].tokens = &token;
  inputs[1].token_count = 1;
  inputs[2].messages = "[]";
  inputs[2].messages_len = MLXRT_NTS;
  inputs[3].messages = "[]";
  inputs[3].messages_len = MLXRT_NTS;
  for (size_t i = 0; i < COUNT(inputs); i++) {
    struct answer *answer = new_answer();
    ask_into(answer, session, inputs[i], greedy(1));
    CHECK_INT(answer->code, MLXRT_E_INVALID_ARGUMENT);
    CHECK_HAS(answer->message, "exactly one");
    free(answer);
  }
  /* An empty prompt for an empty session. */
  mlxrt_input empty[2] = {text_input(""), token_input(&token, 0)};
  for (size_t i = 0; i < COUNT(empty); i++) {
    struct answer *answer = new_answer();
    ask_into(answer, session, empty[i], greedy(1));
    CHECK_INT(answer->code, MLXRT_E_INVALID_ARGUMENT);
    free(answer);
  }
  free(ask(session, text_input("x"), greedy(3)));
  /* And for one that holds something: it goes on. */
  struct answer *more = ask(session, text_input(""), greedy(3));
  CHECK_INT(more->token_count, 3);
  free(more);
  mlxrt_session_free(session);
}

int main(int argc, char **argv) {
  static const struct test tests[] = {
      {"max_tokens_end_it", max_tokens_end_it},
      {"the_model_ends_it", the_model_ends_it},
      {"neither_callback_nor_result_is_needed", neither_callback_nor_result_is_needed},
      {"the_context_ends_it", the_context_ends_it},
      {"stop_strings_never_leak", stop_strings_never_leak},
      {"a_stop_string_that_never_comes_holds_nothing_back", a_stop_string_that_never_comes_holds_nothing_back},
      {"stop_tokens", stop_tokens},
      {"the_callback_ends_it", the_callback_ends_it},
      {"a_callback_ends_a_prefill", a_callback_ends_a_prefill},
      {"a_timeout_ends_it", a_timeout_ends_it},
      {"tokens_only", tokens_only},
      {"raw_text_is_what_detokenize_gives", raw_text_is_what_detokenize_gives},
      {"events_join_to_all_tokens", events_join_to_all_tokens},
      {"the_same_question_again_is_cached", the_same_question_again_is_cached},
      {"all_inputs_at_once_or_none_are_refused", all_inputs_at_once_or_none_are_refused},
  };
  model = load("qwen3-f32");
  int failed = RUN(tests);
  mlxrt_model_free(model);
  return failed;
}
